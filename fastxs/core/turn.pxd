"""The turn: gather, read, apply, publish, carry (HOUSE section 3)."""
from libc.stdint cimport uint64_t

from fastxs.core.model cimport Conn, Store

cdef int plane_open(Store *s) noexcept nogil
cdef void plane_close(Store *s) noexcept nogil
# Watch a socket's descriptor; 0 or errno.
cdef int plane_add(Store *s, Conn *conn) noexcept nogil
# Watch the sockets that were restored; 0 or errno.
cdef int plane_adopt(Store *s) noexcept nogil
cdef int plane_listen(Store *s, int fd) noexcept nogil
cdef int plane_border(Store *s) noexcept nogil
# Those whose transactions were held back are served again: who may still begin none is held back anew.
cdef void plane_release(Store *s) noexcept nogil
# Have the loop call for a turn.
cdef void plane_wake(Store *s) noexcept nogil
# Serve what is ready, and stay while traffic goes on.
cdef void plane_run(Store *s) noexcept nogil
# CLOCK_MONOTONIC in nanoseconds.
cdef uint64_t now() noexcept nogil
# One turn without asking the kernel what is ready.
cdef void turn(Store *s) noexcept nogil
