"""A peer's outbox.

Owns the order of what a peer gets and its bounds.  Normally an outbox is bytes.  Once more than
`FULL` bytes wait, events are kept in structure instead, per watch: an identical one is dropped, and
when more than `PENDING_MAX` wait, those of the watch in question collapse into one that carries the
watch's own path, as the first one did ("look again").  So memory is bounded by the watches and no
change goes by in silence.  A peer whose outbox is full is not read, so replies never overtake events.
Refuses to know how bytes leave.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from fastxs.core.heap cimport at, bucket, fx_hash, give, table_add, table_drop, take
from fastxs.core.model cimport (CONN_DEAD, CONN_DIRTY, C_EVENTS, C_EVENTS_COLLAPSED, C_EVENTS_DROPPED, C_REPLIES,
                                HEADER, PAYLOAD_MAX, SAY_COLLAPSE, WATCH_COLLAPSED, WATCH_RELATIVE, Conn, Event, Store,
                                WNode, Watch, handle, layout)
from fastxs.core.paths cimport path_base
from fastxs.core.quota cimport say
from fastxs.core.slots cimport out_room
from fastxs.core.trace cimport trace_message
from fastxs.core.wire cimport XS_WATCH_EVENT, Header

LAYOUT = layout()

cdef enum:
    FULL = 65536                # bytes; 16 largest messages
    PENDING_MAX = 1024          # events kept in structure


cdef void mark_dirty(Store *s, Conn *conn) noexcept nogil:
    if not conn.flags & CONN_DIRTY:
        conn.flags |= CONN_DIRTY
        conn.dirty_next = s.dirty
        s.dirty = conn


cdef bint out_is_full(Conn *conn) noexcept nogil:
    return waiting(conn) > FULL or conn.pending


cdef char *frame(Store *s, Conn *conn, uint32_t type, uint32_t req_id, uint32_t tx_id, uint32_t n) noexcept nogil:
    """A header at the outbox's end; where the `n` bytes behind it go.  NULL: no memory, the peer is given up."""
    cdef Header h
    if out_room(s, conn, HEADER + n):
        conn.flags |= CONN_DEAD
        mark_dirty(s, conn)
        return NULL
    h.type = type
    h.req_id = req_id
    h.tx_id = tx_id
    h.len = n
    memcpy(conn.out.data + conn.out.len, &h, HEADER)
    conn.out.len += HEADER + n
    mark_dirty(s, conn)
    return conn.out.data + conn.out.len - n


cdef int out_message(Store *s, Conn *conn, uint32_t type, uint32_t req_id, uint32_t tx_id, const char *data,
                     uint32_t n) noexcept nogil:
    cdef char *body
    while conn.pending:                         # events that this very request caused come first (SPEC 1.3)
        refill_one(s, conn)
    body = frame(s, conn, type, req_id, tx_id, n)
    if body == NULL:
        return ENOMEM
    if n:
        memcpy(body, data, n)
    s.counter[C_REPLIES] += 1
    if s.trace_on:
        trace_message(s, b"OUT", conn, type, body, n)
    return 0


cdef inline Watch *watch_at(Store *s, handle h) noexcept nogil:
    return <Watch *>at(s, h)


cdef void event_bytes(Store *s, Conn *conn, handle watch, const char *path, uint32_t n) noexcept nogil:
    """The event as a message, unless it would be larger than a message may be (SPEC 1.1)."""
    cdef Watch *w = watch_at(s, watch)
    cdef uint32_t size = n + w.token_len + 2
    cdef char *p
    if size > PAYLOAD_MAX:
        s.counter[C_EVENTS_DROPPED] += 1
        return
    p = frame(s, conn, XS_WATCH_EVENT, 0, 0, size)
    if p == NULL:
        return
    memcpy(p, path, n)
    p[n] = 0
    memcpy(p + n + 1, w.token, w.token_len)
    p[size - 1] = 0
    s.counter[C_EVENTS] += 1
    if s.trace_on:
        trace_message(s, b"OUT", conn, XS_WATCH_EVENT, p, size)


# ---- events in structure ------------------------------------------------------------------------------

cdef inline Event *event_at(Store *s, handle h) noexcept nogil:
    return <Event *>at(s, h)


cdef void drop_event(Store *s, Conn *conn, handle h) noexcept nogil:
    cdef Event *e = event_at(s, h)
    table_drop(s, &s.events, h)
    if e.prev:
        event_at(s, e.prev).next = e.next
    else:
        conn.pend_first = e.next
    if e.next:
        event_at(s, e.next).prev = e.prev
    else:
        conn.pend_last = e.prev
    if e.same_prev:
        event_at(s, e.same_prev).same_next = e.same_next
    else:
        watch_at(s, e.watch).pending = e.same_next
    if e.same_next:
        event_at(s, e.same_next).same_prev = e.same_prev
    conn.pending -= 1
    give(s, h, <uint32_t>sizeof(Event) + e.path_len)


cdef void out_forget_watch(Store *s, handle watch) noexcept nogil:
    cdef Watch *w = watch_at(s, watch)
    while w.pending:
        drop_event(s, s.conn[w.conn], w.pending)


cdef void add_event(Store *s, Conn *conn, handle watch, uint32_t hash, const char *path, uint32_t n) noexcept nogil:
    cdef handle h = take(s, <uint32_t>sizeof(Event) + n)
    cdef Event *e
    cdef Watch *w = watch_at(s, watch)
    if h == 0:
        s.counter[C_EVENTS_DROPPED] += 1
        return
    e = event_at(s, h)
    e.hash = hash
    e.watch = watch
    e.path_len = <uint16_t>n
    memcpy(<char *>e + sizeof(Event), path, n)
    e.prev = conn.pend_last
    e.next = 0
    if conn.pend_last:
        event_at(s, conn.pend_last).next = h
    else:
        conn.pend_first = h
    conn.pend_last = h
    e.same_prev = 0
    e.same_next = w.pending
    if w.pending:
        event_at(s, w.pending).same_prev = h
    w.pending = h
    if conn.pending == 0:
        mark_dirty(s, conn)                     # its slot must say so: the next process cannot know what waits here
    conn.pending += 1
    table_add(s, &s.events, h)


cdef bint is_pending(Store *s, handle watch, uint32_t hash, const char *path, uint32_t n) noexcept nogil:
    cdef handle h = bucket(&s.events, hash)[0]
    cdef Event *e
    while h:
        e = event_at(s, h)
        if e.hash == hash and e.watch == watch and e.path_len == n and memcmp(<char *>e + sizeof(Event), path, n) == 0:
            return True
        h = e.chain
    return False


cdef uint32_t watch_path(Store *s, Conn *conn, Watch *w, char *out) noexcept nogil:
    """The watch's path as its owner gave it; `out` has room for PAYLOAD_MAX + 64 bytes."""
    cdef char[32] base
    cdef handle h = w.wnode
    cdef uint32_t size = 0, i, skip = 0
    cdef WNode *wn
    while h != s.wroot and h != s.wspecials:
        wn = <WNode *>at(s, h)
        size += wn.name_len + 1
        h = wn.parent
    if w.wnode == s.wroot:
        out[0] = c'/'
        return 1
    i = size
    if h == s.wspecials:                        # no slash in front of a special
        size -= 1
        i -= 1
    h = w.wnode
    while h != s.wroot and h != s.wspecials:
        wn = <WNode *>at(s, h)
        i -= wn.name_len
        memcpy(out + i, wn.name, wn.name_len)
        h = wn.parent
        if i:
            i -= 1
            out[i] = c'/'
    if w.flags & WATCH_RELATIVE:
        skip = path_base(conn.domid, base)
        for i in range(size - skip):
            out[i] = out[i + skip]
    return size - skip


cdef void out_look_again(Store *s, Conn *conn, handle watch) noexcept nogil:
    cdef char[PAYLOAD_MAX + 64] path
    cdef uint32_t n = watch_path(s, conn, watch_at(s, watch), path)
    out_forget_watch(s, watch)
    watch_at(s, watch).flags |= WATCH_COLLAPSED
    add_event(s, conn, watch, fx_hash(s.secret, watch, path, n), path, n)
    s.counter[C_EVENTS_COLLAPSED] += 1
    say(s, SAY_COLLAPSE, conn.domain, conn.serial, path, n, 0)


cdef void out_event(Store *s, Conn *conn, handle watch, const char *path, uint32_t n, bint special) noexcept nogil:
    cdef uint32_t hash
    # Where the file system has no room for bytes, it waits in structure, too.
    if not conn.pending and waiting(conn) <= FULL \
            and not out_room(s, conn, HEADER + n + watch_at(s, watch).token_len + 2):
        event_bytes(s, conn, watch, path, n)
        return
    if watch_at(s, watch).flags & WATCH_COLLAPSED:
        s.counter[C_EVENTS_COLLAPSED] += 1
        return
    hash = fx_hash(s.secret, watch, path, n)
    if not special and is_pending(s, watch, hash, path, n):
        s.counter[C_EVENTS_DROPPED] += 1
        return
    if conn.pending >= PENDING_MAX:
        out_look_again(s, conn, watch)
    else:
        add_event(s, conn, watch, hash, path, n)


cdef void refill_one(Store *s, Conn *conn) noexcept nogil:
    cdef handle h = conn.pend_first
    cdef Event *e = event_at(s, h)
    event_bytes(s, conn, e.watch, <char *>e + sizeof(Event), e.path_len)
    watch_at(s, e.watch).flags &= ~WATCH_COLLAPSED
    drop_event(s, conn, h)


cdef void out_all(Store *s, Conn *conn) noexcept nogil:
    while conn.pending:
        refill_one(s, conn)


cdef void out_refill(Store *s, Conn *conn) noexcept nogil:
    while conn.pending and waiting(conn) <= FULL and not out_room(s, conn, HEADER + PAYLOAD_MAX):
        refill_one(s, conn)
