"""Face of warm: memory that is there before it is needed."""
cdef enum:
    HUGE = 2097152

# Begin to bring in `size` bytes at `p`, which stay mapped until warm_wait has returned; where they are in use
# already, small pages become huge ones if `collapse`.  If it cannot be done ahead, it is done by whoever comes first.
cdef void warm_up(char *p, size_t size, bint collapse) noexcept nogil
# Nothing is being brought in any more.
cdef void warm_wait() noexcept nogil
