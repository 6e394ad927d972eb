"""Connections.

Owns the table of connections, their descriptors and buffers, and the differences between a socket, a
ring and a peer in memory: how bytes come (`conn_read`), how they go (`conn_write`), and what happens
to a peer that breaks the protocol (`conn_refuse`).  Refuses to know what the bytes mean.
"""
from libc.errno cimport EAGAIN, EINTR, ENOMEM, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove, memset, strlen
from posix.unistd cimport close

from fastxs.core.heap cimport buf_free
from fastxs.core.journal cimport J_CONN, ConnRecord, journal_drop, journal_put
from fastxs.core.model cimport (C_BYTES_IN, C_BYTES_OUT, C_CLOSED, CONN_DEAD, CONN_EOF, CONN_FULL, CONN_HUP,
                                CONN_IGNORED, CONN_MORE, CONN_READY, KIND_MEMORY, KIND_RING, KIND_SOCKET,
                                Q_OUTSTANDING, SAY_PROTOCOL, SLOT_BEGIN, SLOT_NONE, SLOT_TAKEN, Conn, Domain, Store,
                                layout)
from fastxs.core.outbox cimport mark_dirty, waiting
from fastxs.core.quota cimport account, quota_allows, say
from fastxs.core.ring cimport (RING_INDEX, Page, ring_copy_in, ring_copy_out, ring_fail, ring_is_new, ring_port,
                               ring_publish, ring_published, ring_readable, ring_reconnects, ring_start, ring_taken,
                               ring_writable)
from fastxs.core.slots cimport (lasting, out_free, slot_begun, slot_claim, slot_read, slot_reading, slot_release,
                                slot_writing, slot_written)
from fastxs.core.trace cimport trace_object
from fastxs.core.trial cimport AT_COPIED, AT_INDEXED, AT_RECEIVED, AT_SENT, at_point
from fastxs.core.transactions cimport txs_drop
from fastxs.core.watches cimport watches_drop
from fastxs.core.wire cimport FEATURE_RECONNECTION

LAYOUT = layout()

cdef extern from "sys/socket.h" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        SOL_SOCKET
    int getsockopt(int fd, int level, int name, void *value, unsigned int *size)
    ssize_t recv(int fd, void *buf, size_t n, int flags)
    ssize_t send(int fd, const void *buf, size_t n, int flags)

cdef extern from *:
    """
    #include <errno.h>
    static inline void set_errno(int e) { errno = e; }
    """
    void set_errno(int e) noexcept nogil

cdef enum:
    SO_COOKIE = 57              # a number that no other socket of this boot ever has
    KEEP_OUT = 8192             # a drained output buffer up to this size is kept for the next reply


# ---- the table -------------------------------------------------------------------------------------

cdef bint more_room(Store *s) noexcept nogil:
    cdef uint32_t cap = s.conn_cap * 2 if s.conn_cap else 64
    cdef void *p = realloc(s.conn, <size_t>cap * sizeof(Conn *))
    if p == NULL:
        return False
    s.conn = <Conn **>p
    p = realloc(s.conn_free, <size_t>cap * sizeof(uint32_t))
    if p == NULL:
        return False
    s.conn_free = <uint32_t *>p
    s.conn_cap = cap
    return True


cdef Conn *conn_new(Store *s, uint32_t kind, int fd, uint32_t domid) noexcept nogil:
    cdef Conn *conn
    cdef unsigned int size = sizeof(uint64_t)
    if s.conn_frees == 0 and s.conns == s.conn_cap and not more_room(s):
        return NULL
    conn = <Conn *>calloc(1, sizeof(Conn))
    if conn == NULL:
        return NULL
    s.next_serial += 1
    conn.serial = s.next_serial
    conn.kind = kind
    conn.fd = fd
    conn.domid = domid
    if fd >= 0 and s.image != NULL:
        getsockopt(fd, SOL_SOCKET, SO_COOKIE, &conn.cookie, &size)
    conn.index = s.conn_free[s.conn_frees - 1] if s.conn_frees else s.conns
    if lasting(s, conn) and not slot_claim(s, conn):
        free(conn)
        return NULL
    if s.conn_frees:
        s.conn_frees -= 1
    else:
        s.conns += 1
    s.conn[conn.index] = conn
    s.conn_count += 1
    conn.privileged = domid == s.priv_domid or kind == KIND_SOCKET
    # Sockets stand for the store's own domain and are accounted to nobody (SPEC part 5).
    if not conn.privileged or kind == KIND_RING:
        conn.domain = s.domain[domid]
    trace_object(s, b"CREATE", b"connection", conn)
    conn_record(s, conn)
    return conn


cdef Conn *conn_restore(Store *s, uint32_t index, const ConnRecord *r) noexcept nogil:
    cdef Conn *conn
    while s.conns <= index:
        if s.conns == s.conn_cap and not more_room(s):
            return NULL
        s.conn[s.conns] = NULL
        if s.conns < index:
            s.conn_free[s.conn_frees] = s.conns
            s.conn_frees += 1
        s.conns += 1
    conn = <Conn *>calloc(1, sizeof(Conn))
    if conn == NULL:
        return NULL
    conn.index = index
    conn.serial = r.serial
    conn.kind = r.kind
    conn.fd = -1
    conn.domid = r.domid
    conn.privileged = conn.domid == s.priv_domid or conn.kind == KIND_SOCKET
    conn.remote = r.remote
    conn.cookie = r.cookie
    conn.flags = CONN_IGNORED if r.ignored else 0
    if not conn.privileged or conn.kind == KIND_RING:
        conn.domain = s.domain[conn.domid]
    if not slot_claim(s, conn):
        free(conn)
        return NULL
    s.conn[index] = conn
    s.conn_count += 1
    if conn.serial > s.next_serial:
        s.next_serial = conn.serial
    return conn


cdef void conn_record(Store *s, Conn *conn) noexcept nogil:
    cdef ConnRecord r
    cdef char *out
    if not lasting(s, conn):
        return
    out = journal_put(s, J_CONN, conn.index, sizeof(r))
    if out == NULL:
        return
    memset(&r, 0, sizeof(r))
    r.serial = conn.serial
    r.kind = conn.kind
    r.domid = conn.domid
    r.remote = conn.remote
    r.ignored = conn.flags & CONN_IGNORED
    r.cookie = conn.cookie
    memcpy(out, &r, sizeof(r))


cdef void conn_close(Store *s, Conn *conn) noexcept nogil:
    watches_drop(s, conn)
    txs_drop(s, conn)
    if conn.begin:
        s.begins -= 1
    if conn.page != NULL:
        ring_detach(s, conn)
    if conn.domain != NULL and conn.domain.conn == conn:
        conn.domain.conn = NULL
    if conn.fd >= 0:
        close(conn.fd)
    buf_free(&conn.inp)
    s.conn[conn.index] = NULL
    s.conn_count -= 1
    if lasting(s, conn):
        journal_drop(s, J_CONN, conn.index)
        slot_release(s, conn)
    else:
        buf_free(&conn.out)
        s.conn_free[s.conn_frees] = conn.index
        s.conn_frees += 1
    s.counter[C_CLOSED] += 1
    trace_object(s, b"DESTROY", b"connection", conn)
    free(conn)


cdef void mark_ready(Store *s, Conn *conn) noexcept nogil:
    if conn.flags & CONN_READY:
        return
    conn.flags |= CONN_READY
    conn.ready_next = NULL
    if s.ready_last != NULL:
        s.ready_last.ready_next = conn
    else:
        s.ready_first = conn
    s.ready_last = conn


cdef void conn_reset(Store *s, Conn *conn) noexcept nogil:
    watches_drop(s, conn)
    txs_drop(s, conn)
    conn.inp.pos = conn.inp.len = 0
    conn.out.pos = conn.out.len = 0
    paid(s, conn)
    conn.eagains = 0
    conn.lives += 1


cdef void conn_owe(Store *s, Conn *conn) noexcept nogil:
    if conn.kind == KIND_RING and conn.domain != NULL and waiting(conn) > conn.room:
        conn.owed += 1
        account(s, conn.domain, Q_OUTSTANDING, 1)


cdef bint conn_owes(Store *s, Conn *conn) noexcept nogil:
    return conn.owed != 0 and not quota_allows(s, conn.domain, Q_OUTSTANDING, 1)


cdef void paid(Store *s, Conn *conn) noexcept nogil:
    if conn.owed:
        account(s, conn.domain, Q_OUTSTANDING, -<int64_t>conn.owed)
        conn.owed = 0


cdef void conn_refuse(Store *s, Conn *conn, const char *why, uint32_t error) noexcept nogil:
    say(s, SAY_PROTOCOL, conn.domain, conn.serial, why, <uint32_t>strlen(why), 0)
    if conn.kind == KIND_SOCKET or (conn.kind == KIND_MEMORY and conn.privileged):
        conn.flags |= CONN_DEAD
    else:                                       # the domain lives: only its real death may end it (XSA-325)
        conn_reset(s, conn)
        conn.flags |= CONN_IGNORED
        conn_record(s, conn)
        if conn.page != NULL:
            ring_fail(<Page *>conn.page, error)
    mark_dirty(s, conn)


# ---- reading ---------------------------------------------------------------------------------------

cdef uint32_t conn_read(Store *s, Conn *conn, char *out, uint32_t room) noexcept nogil:
    cdef ssize_t n
    if conn.kind == KIND_RING:
        return ring_read(s, conn, out, room)
    if conn.kind == KIND_MEMORY:
        conn.flags &= ~CONN_MORE
        return 0
    n = socket_read(s, conn, out, room)
    if n <= 0:
        conn.flags &= ~CONN_MORE
        if n == 0 or errno != EAGAIN:
            conn.flags |= CONN_EOF
        return 0
    if <uint32_t>n < room and not conn.flags & CONN_HUP:
        conn.flags &= ~CONN_MORE                # a short read emptied it; the next byte is a new edge
    s.counter[C_BYTES_IN] += <uint32_t>n
    return <uint32_t>n


cdef ssize_t socket_read(Store *s, Conn *conn, char *out, uint32_t room) noexcept nogil:
    cdef bint lasts = lasting(s, conn)
    cdef ssize_t n
    cdef int error
    if lasts:
        slot_reading(s, conn)
    n = recv(conn.fd, out, room, MSG_DONTWAIT)
    while n < 0 and errno == EINTR:
        n = recv(conn.fd, out, room, MSG_DONTWAIT)
    error = errno
    at_point(s, AT_RECEIVED)
    if lasts and not slot_read(s, conn, out, <uint32_t>n if n > 0 else 0):
        conn.flags |= CONN_DEAD                 # no room to keep what it asks for
    set_errno(error)
    return n


cdef uint32_t ring_read(Store *s, Conn *conn, char *out, uint32_t room) noexcept nogil:
    cdef Page *page = <Page *>conn.page
    cdef int n
    conn.flags &= ~CONN_MORE
    if page == NULL or conn.begin:
        return 0
    n = ring_readable(page, conn.req_cons)
    if n < 0:
        conn_refuse(s, conn, b"impossible request index", RING_INDEX)
        return 0
    if n == 0:
        return 0
    conn.room = <uint32_t>max(ring_writable(page, conn.rsp_prod), 0)
    if <uint32_t>n > room:
        n = <int>room
        conn.flags |= CONN_MORE
    ring_copy_in(page, conn.req_cons, out, <uint32_t>n)
    conn.req_cons += <uint32_t>n
    conn.notify = True
    mark_dirty(s, conn)
    s.counter[C_BYTES_IN] += <uint32_t>n
    return <uint32_t>n


# ---- writing ---------------------------------------------------------------------------------------

cdef void drained(Store *s, Conn *conn) noexcept nogil:
    """All bytes are out: forget them, go on reading the peer."""
    conn.out.pos = conn.out.len = 0
    paid(s, conn)
    if conn.out.cap > KEEP_OUT:
        out_free(s, conn)
    if conn.flags & CONN_FULL or conn.pending:
        conn.flags &= ~CONN_FULL
        conn.flags |= CONN_MORE
        mark_ready(s, conn)


cdef void socket_write(Store *s, Conn *conn) noexcept nogil:
    cdef ssize_t n
    cdef bint lasts = lasting(s, conn)
    while waiting(conn):
        if lasts:
            slot_writing(s, conn)
        n = send(conn.fd, conn.out.data + conn.out.pos, waiting(conn), MSG_DONTWAIT | MSG_NOSIGNAL)
        at_point(s, AT_SENT)
        if n > 0:
            conn.out.pos += <uint32_t>n
        if lasts:
            slot_written(s, conn)
        if n < 0 and errno == EINTR:
            continue
        if n < 0 and errno == EAGAIN:
            conn.flags |= CONN_FULL             # the Engine arms EPOLLOUT
            squeeze(s, conn)
            return
        if n < 0:
            conn.flags |= CONN_DEAD
            return
        s.counter[C_BYTES_OUT] += <uint32_t>n
    drained(s, conn)


cdef void squeeze(Store *s, Conn *conn) noexcept nogil:
    """What was sent leaves the buffer, so that a slow peer's does not grow; an extent changes only at its end."""
    if conn.out.pos > 32768 and not lasting(s, conn):
        memmove(conn.out.data, conn.out.data + conn.out.pos, waiting(conn))
        conn.out.len -= conn.out.pos
        conn.out.pos = 0


cdef void ring_set_up(Store *s, Conn *conn) noexcept nogil:
    if not conn.begin:
        return
    conn.begin = False
    s.begins -= 1
    if conn.page != NULL:
        ring_start(<Page *>conn.page, conn.domain.features)
        if lasting(s, conn):
            slot_begun(s, conn)


cdef void ring_write(Store *s, Conn *conn) noexcept nogil:
    cdef Page *page = <Page *>conn.page
    cdef int room
    cdef uint32_t n
    if page == NULL:
        return
    while True:
        n = waiting(conn)
        if n == 0:
            drained(s, conn)
            break
        room = ring_writable(page, conn.rsp_prod)
        if room < 0:
            conn_refuse(s, conn, b"impossible response index", RING_INDEX)
            break
        if room == 0:
            conn.flags |= CONN_FULL             # the guest notifies when it has taken some
            squeeze(s, conn)
            break
        if n > <uint32_t>room:
            n = <uint32_t>room
        ring_copy_out(page, conn.rsp_prod, conn.out.data + conn.out.pos, n)
        conn.rsp_prod += n
        conn.out.pos += n
        conn.notify = True
        s.counter[C_BYTES_OUT] += n
    if conn.notify:
        conn.notify = False
        at_point(s, AT_COPIED)
        ring_publish(page, conn.req_cons, conn.rsp_prod)
        at_point(s, AT_INDEXED)
        s.border.notify(s.border.self, conn.port)
        # Until it sees our index a guest takes us for busy and does not notify: look once more for what it put in
        # meanwhile, and for room that it made.
        if ring_readable(page, conn.req_cons):
            conn.flags |= CONN_MORE
            mark_ready(s, conn)
        if conn.flags & CONN_FULL and ring_writable(page, conn.rsp_prod) > 0:
            mark_dirty(s, conn)


cdef void conn_write(Store *s, Conn *conn) noexcept nogil:
    if conn.kind == KIND_SOCKET:
        socket_write(s, conn)
    elif conn.kind == KIND_RING:
        ring_write(s, conn)


# ---- rings come and go --------------------------------------------------------------------------------

cdef bint port_table(Store *s, uint32_t port) noexcept nogil:
    cdef uint32_t cap = s.port_cap if s.port_cap else 1024
    cdef uint32_t *p
    if port < s.port_cap:
        return True
    while cap <= port:
        cap *= 2
    p = <uint32_t *>realloc(s.port_conn, <size_t>cap * sizeof(uint32_t))
    if p == NULL:
        return False
    while s.port_cap < cap:
        p[s.port_cap] = 0
        s.port_cap += 1
    s.port_conn = p
    return True


cdef int ring_attach(Store *s, Conn *conn, Domain *d, uint32_t remote_port) noexcept nogil:
    cdef uint32_t port = 0, given
    cdef int error
    if conn.page == NULL:
        if d.domid == s.store_domid:
            error = s.border.own_ring(s.border.self, &conn.page, &remote_port)
        else:
            error = s.border.map_ring(s.border.self, d.domid, &conn.page)
        if error:
            conn.page = NULL
            return error
    if conn.port:
        s.border.unbind(s.border.self, conn.port)
        s.port_conn[conn.port] = 0
        conn.port = 0
    given = ring_port(<Page *>conn.page)
    if given:
        remote_port = given
    error = s.border.bind(s.border.self, d.domid, remote_port, &port)
    if not error and not port_table(s, port):
        s.border.unbind(s.border.self, port)
        error = ENOMEM
    if error:
        return error
    conn.port = port
    conn.remote = remote_port
    s.port_conn[port] = conn.index + 1
    ring_begin(s, conn)
    return 0


cdef void ring_begin(Store *s, Conn *conn) noexcept nogil:
    conn.flags &= ~(CONN_IGNORED | CONN_FULL)
    conn.flags |= CONN_MORE
    conn.req_cons = conn.rsp_prod = 0
    if not conn.begin:
        s.begins += 1
    conn.begin = True                           # the page is touched at the turn's end only
    conn.notify = True                          # a guest that waits to be connected is woken (SPEC 2.2)
    conn_record(s, conn)
    mark_ready(s, conn)
    mark_dirty(s, conn)


cdef bint ring_began(Store *s, Conn *conn) noexcept nogil:
    if conn.page == NULL or conn.begin or not ring_reconnects(<Page *>conn.page) \
            or not conn.domain.features & FEATURE_RECONNECTION:
        return False
    conn_reset(s, conn)
    ring_begin(s, conn)
    return True


cdef void ring_give_back(Store *s, Conn *conn, uint32_t n) noexcept nogil:
    conn.req_cons -= n
    conn.flags |= CONN_MORE


cdef int ring_restore(Store *s, Conn *conn) noexcept nogil:
    cdef Page *page
    cdef uint32_t port = 0, remote = conn.remote, taken
    cdef int error
    if conn.domid == s.store_domid:
        error = s.border.own_ring(s.border.self, &conn.page, &remote)
    else:
        error = s.border.map_ring(s.border.self, conn.domid, &conn.page)
    if error:
        conn.page = NULL
        return error
    error = s.border.bind(s.border.self, conn.domid, remote, &port)
    if not error and not port_table(s, port):
        s.border.unbind(s.border.self, port)
        error = ENOMEM
    if not error:
        conn.port = port
        conn.remote = remote
        s.port_conn[port] = conn.index + 1
    page = <Page *>conn.page
    if conn.restored & SLOT_BEGIN and not ring_is_new(page, conn.domain.features):
        ring_begin(s, conn)
        return error
    if conn.restored & (SLOT_NONE | SLOT_TAKEN):
        conn.req_cons = ring_taken(page)
        conn.rsp_prod = ring_published(page)
    # How much of the output our predecessor published stands in the page.
    taken = ring_published(page) - conn.rsp_prod
    if taken <= waiting(conn):
        conn.out.pos += taken
        conn.rsp_prod += taken
    conn.flags |= CONN_MORE
    conn.notify = True                          # whatever it waits for, it looks once
    mark_ready(s, conn)
    return error


cdef void ring_detach(Store *s, Conn *conn) noexcept nogil:
    """Unmap at once: a mapped grant keeps a dead domain a zombie (SPEC 2.4)."""
    if conn.port:
        s.port_conn[conn.port] = 0
        s.border.unbind(s.border.self, conn.port)
        conn.port = 0
    if conn.page != NULL:
        s.border.unmap_ring(s.border.self, conn.domid, conn.page)
        conn.page = NULL
