"""Connections: a peer's input and output, over a socket, a ring, or memory."""
from libc.stdint cimport uint32_t

from fastxs.core.journal cimport ConnRecord
from fastxs.core.model cimport Conn, Domain, Store

# A new connection of a domain; owns `fd` (or -1).  NULL: no memory, and `fd` is still the caller's.
cdef Conn *conn_new(Store *s, uint32_t kind, int fd, uint32_t domid) noexcept nogil
# One that outlived its daemon, without descriptor and page so far; NULL: no memory or no room.
cdef Conn *conn_restore(Store *s, uint32_t index, const ConnRecord *r) noexcept nogil
# Watches, transactions, buffers, descriptor and the struct itself go.  It must stand in no list.
cdef void conn_close(Store *s, Conn *conn) noexcept nogil
cdef void mark_ready(Store *s, Conn *conn) noexcept nogil

# Bytes of the peer into `out`, at most `room`: how many; 0: none now; clears CONN_MORE, sets CONN_EOF.
cdef uint32_t conn_read(Store *s, Conn *conn, char *out, uint32_t room) noexcept nogil
# Send what waits; sets CONN_FULL where the peer takes no more, CONN_DEAD where it is gone.
cdef void conn_write(Store *s, Conn *conn) noexcept nogil
# Watches, transactions and buffers go; it may go on afterwards.
cdef void conn_reset(Store *s, Conn *conn) noexcept nogil
# The peer broke the protocol: a socket is closed, a ring is ignored from now on and told why by `error`, a
# RING_ number of the page (SPEC 1.1, 2.2).
cdef void conn_refuse(Store *s, Conn *conn, const char *why, uint32_t error) noexcept nogil

# Quota `outstanding`: a ring's request was served, and its answer may not fit into the page; is it too many by now?
cdef void conn_owe(Store *s, Conn *conn) noexcept nogil
cdef bint conn_owes(Store *s, Conn *conn) noexcept nogil

# Map and bind a domain's ring to its connection (again: bind only, and begin anew); 0 or errno.
cdef int ring_attach(Store *s, Conn *conn, Domain *d, uint32_t remote_port) noexcept nogil
cdef void ring_detach(Store *s, Conn *conn) noexcept nogil
# Map and bind again where a predecessor left off; 0 or errno, and then it has no page or no channel.
cdef int ring_restore(Store *s, Conn *conn) noexcept nogil
# Where a ring begins, the page becomes so; before the turn's first answer leaves, because that may be the toolstack's
# word that the guest can start.
cdef void ring_set_up(Store *s, Conn *conn) noexcept nogil
# True: its guest asked to begin anew, and it does (SPEC 2.2); an ignored ring, too.
cdef bint ring_began(Store *s, Conn *conn) noexcept nogil
# The last `n` of the bytes just read were not served: they stay in the page, at the guest's cost.
cdef void ring_give_back(Store *s, Conn *conn, uint32_t n) noexcept nogil
