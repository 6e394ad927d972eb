"""What waits to be sent to one peer: replies and events, in order, bounded (HOUSE section 4)."""
from libc.stdint cimport uint32_t

from fastxs.core.model cimport Conn, Store, handle

cdef inline uint32_t waiting(Conn *conn) noexcept nogil:
    return conn.out.len - conn.out.pos


# A whole message behind everything that waits; 0, or ENOMEM (the connection is then marked dead).
cdef int out_message(Store *s, Conn *conn, uint32_t type, uint32_t req_id, uint32_t tx_id, const char *data,
                     uint32_t n) noexcept nogil
# A watch event; `path` as the watcher sees it.  Specials are never dropped as identical.
cdef void out_event(Store *s, Conn *conn, handle watch, const char *path, uint32_t n, bint special) noexcept nogil
# One event that carries the watch's own path stands for all that waits for it ("look again").
cdef void out_look_again(Store *s, Conn *conn, handle watch) noexcept nogil
# Events that wait in structure become bytes again, as many as fit.
cdef void out_refill(Store *s, Conn *conn) noexcept nogil
# All of them, however many bytes that makes.
cdef void out_all(Store *s, Conn *conn) noexcept nogil
# A watch goes: so do its events that were not made bytes yet.
cdef void out_forget_watch(Store *s, handle watch) noexcept nogil
cdef void mark_dirty(Store *s, Conn *conn) noexcept nogil
# Is the output so full that no more requests may be served?
cdef bint out_is_full(Conn *conn) noexcept nogil
