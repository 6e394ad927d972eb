"""The turn.

Owns the epoll set, the ready list, the order of steps and each peer's fair share.  Refuses to know
requests and storage.  One turn:

    gather    which sockets and event channels are ready
    read      one read per peer, all whole requests in it up to its share
    apply     each request: replies and events go to outboxes, nothing leaves
    publish   one write per peer that has output; one notify per ring; one unmask for all ports
    carry     peers with work left stand at the back of the ready list

The set is watched by the process's loop.  While traffic is dense the Engine does not go back to that
loop between turns but sleeps in its own set, a timer in it bounding the stay: a request then costs one
wait, one read and one write (PERF 4a: the nested wait is 1.2 us at depth 1).
"""
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, ENOBUFS, ENOMEM, ETOOMANYREFS, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, itimerspec, timespec
from posix.unistd cimport close, read, write

from fastxs.core.connection cimport (conn_close, conn_new, conn_owe, conn_owes, conn_read, conn_refuse, conn_write,
                                     mark_ready, ring_began, ring_give_back, ring_set_up)
from fastxs.core.domains cimport domains_check
from fastxs.core.heap cimport buf_add, buf_free
from fastxs.core.model cimport (CONN_DEAD, CONN_DIRTY, CONN_EOF, CONN_FULL, CONN_GONE, CONN_HUP, CONN_IGNORED,
                                CONN_MORE, CONN_READY, CONN_WAITED, CONN_WAITS, CONN_WANTOUT, C_ACCEPTED, C_TURNS,
                                C_WAITS, FRESH_MAX, HEADER, KIND_RING, KIND_SOCKET, PAYLOAD_MAX, PORTS_MAX, READ_MAX,
                                SAY_ACCEPT, WINDOW, WINDOWS, Conn, Store, layout)
from fastxs.core.outbox cimport mark_dirty, out_is_full, out_refill
from fastxs.core.quota cimport say
from fastxs.core.recover cimport recover_orphans
from fastxs.core.ring cimport RING_PROTO, Page, ring_readable
from fastxs.core.requests cimport must_wait, serve
from fastxs.core.spans cimport span_begin, span_end
from fastxs.core.slots cimport lasting, slot_store, slots_ahead, slots_settle
from fastxs.core.trace cimport trace_flush
from fastxs.core.trial cimport (AT_APPLIED, AT_BEGUN, AT_COMMITTED, AT_GATHERED, AT_PUBLISHED, AT_STORED,
                                at_point)
from fastxs.core.tree cimport LARGE, Hint, hint_nodes, hint_path, reclaim
from fastxs.core.wire cimport XS_TRANSACTION_START, Header

LAYOUT = layout()

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLHUP
        EPOLLERR
        EPOLLRDHUP
        EPOLLET
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int ep, int op, int fd, epoll_event *event)
    int epoll_wait(int ep, epoll_event *events, int room, int timeout_ms)

cdef extern from "sys/eventfd.h" nogil:
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK
    int eventfd(unsigned int value, int flags)

cdef extern from "sys/timerfd.h" nogil:
    enum:
        TFD_CLOEXEC
        TFD_NONBLOCK
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *new, itimerspec *old)

cdef extern from "sys/socket.h" nogil:
    enum:
        SOCK_CLOEXEC
        SOL_SOCKET
        SCM_RIGHTS
        SHUT_RDWR
        MSG_DONTWAIT
        MSG_NOSIGNAL
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *m)
    unsigned char *CMSG_DATA(cmsghdr *c)
    size_t CMSG_SPACE(size_t n)
    size_t CMSG_LEN(size_t n)
    ssize_t sendmsg(int fd, const msghdr *m, int flags)
    int shutdown(int fd, int how)
    int accept4(int fd, void *address, void *size, int flags)

# FDSTORE of sd_notify(3); without FDPOLL=0, so that the keeper drops a socket that hung up.
cdef const char *KEEP = b"FDSTORE=1\nFDNAME=c"
cdef size_t KEEP_LEN = 18

cdef enum:
    EVENTS = 256                # of one wait
    SHARE = 64                  # requests of one peer in one turn
    FIRST = 1                   # peers that are served before anything leaves, after a sleep
    BATCH = 64                  # and else: what was served first need not wait for thousands
    BATCH_WORK = 1024           # nor for so much work: half a millisecond
    POLL_PORTS = 256            # more rings than that are always busy somewhere
    POLL_LOOKS = 1200           # at rings, before the ports are unmasked: some microseconds
    POLL_TRY = 4                # turns without a look, after looking was in vain
    POLL_TURNS = 8              # by looking alone, then everybody else is asked too
    KEEP_JOURNAL = 1 << 20      # a larger one is not kept
    RECLAIM_TURN = 256          # nodes that were removed, given back at a turn's end
    DEAF_NS = 100000000         # then try again to accept
    KEEP_NS = 5000000           # and when it was the keeper that could take no more
    KEEP_TRIES = 200            # a second of that, and they are served without being kept
    SHORT_NS = 50000000         # then look for room again
    CMSG_ROOM = 512             # for FRESH_MAX descriptors
    STAY_NS = 1000000           # traffic is dense if the loop comes back within a millisecond

cdef enum:                      # epoll_data: a connection's (serial << 32 | index), or one of these
    TAG_LISTEN = 1
    TAG_WAKE = 2
    TAG_TIMER = 3
    TAG_EVTCHN = 4


cdef uint64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


# ---- the set ------------------------------------------------------------------------------------------

cdef int watch_fd(Store *s, int fd, uint64_t tag, uint32_t events) noexcept nogil:
    cdef epoll_event e
    e.events = events
    e.data.u64 = tag
    return errno if epoll_ctl(s.epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0 else 0


cdef int plane_open(Store *s) noexcept nogil:
    s.listen_fd = s.wake_fd = s.timer_fd = -1
    s.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    s.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    s.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
    s.window = <char *>malloc(WINDOWS * WINDOW)
    s.ports = <uint32_t *>malloc(PORTS_MAX * sizeof(uint32_t))
    s.fresh = <int *>malloc(FRESH_MAX * sizeof(int))
    if s.window == NULL or s.ports == NULL or s.fresh == NULL:
        return ENOMEM
    if s.epoll_fd < 0 or s.wake_fd < 0 or s.timer_fd < 0:
        return errno
    if watch_fd(s, s.wake_fd, TAG_WAKE, EPOLLIN) or watch_fd(s, s.timer_fd, TAG_TIMER, EPOLLIN):
        return errno
    return 0


cdef void plane_close(Store *s) noexcept nogil:
    cdef uint32_t i
    for i in range(s.conns):
        if s.conn[i] != NULL:
            conn_close(s, s.conn[i])
    if s.listen_fd >= 0:
        close(s.listen_fd)
    if s.epoll_fd >= 0:
        close(s.epoll_fd)
    if s.wake_fd >= 0:
        close(s.wake_fd)
    if s.timer_fd >= 0:
        close(s.timer_fd)
    if s.keep_fd >= 0:
        close(s.keep_fd)
    for i in range(s.fresh_count):
        close(s.fresh[i])
    free(s.fresh)
    free(s.window)
    free(s.ports)
    free(s.conn)
    free(s.conn_free)
    free(s.port_conn)


cdef int plane_add(Store *s, Conn *conn) noexcept nogil:
    return watch_fd(s, conn.fd, <uint64_t>conn.serial << 32 | conn.index, EPOLLIN | EPOLLRDHUP | EPOLLET)


cdef int plane_adopt(Store *s) noexcept nogil:
    cdef uint32_t i
    cdef int error = 0
    for i in range(s.conns):
        if s.conn[i] != NULL and s.conn[i].fd >= 0 and not error:
            error = plane_add(s, s.conn[i])
    return error


cdef int plane_listen(Store *s, int fd) noexcept nogil:
    cdef int error = watch_fd(s, fd, TAG_LISTEN, EPOLLIN)
    if not error:
        s.listen_fd = fd
    return error


cdef void plane_wake(Store *s) noexcept nogil:
    cdef uint64_t one = 1
    write(s.wake_fd, &one, 8)


cdef int plane_border(Store *s) noexcept nogil:
    return watch_fd(s, s.border.evtchn_fd, TAG_EVTCHN, EPOLLIN)


cdef void want_out(Store *s, Conn *conn, bint want) noexcept nogil:
    """EPOLLOUT only while a peer takes no more: else each of its reads would wake us."""
    cdef epoll_event e
    e.events = EPOLLIN | EPOLLRDHUP | EPOLLET
    if want:
        e.events |= EPOLLOUT
        conn.flags |= CONN_WANTOUT
    else:
        conn.flags &= ~CONN_WANTOUT
    e.data.u64 = <uint64_t>conn.serial << 32 | conn.index
    epoll_ctl(s.epoll_fd, EPOLL_CTL_MOD, conn.fd, &e)


# ---- gather -------------------------------------------------------------------------------------------

cdef void go_deaf(Store *s, uint64_t ns) noexcept nogil:
    """Those who want to connect wait in the listening socket's queue."""
    epoll_ctl(s.epoll_fd, EPOLL_CTL_DEL, s.listen_fd, NULL)
    s.deaf = True
    s.deaf_ns = now() + ns
    rearm(s, 0)


cdef bint keep_fresh(Store *s) noexcept nogil:
    """Before a connection is served, its socket is where it outlives us; False: not yet.

    A datagram that was sent is not lost, whoever dies; the keeper reads its queue before it starts us again.
    """
    cdef char[CMSG_ROOM] control
    cdef iovec io
    cdef msghdr m
    cdef cmsghdr *c
    if s.fresh_count == 0 or s.keep_fd < 0:
        return True
    memset(&m, 0, sizeof(m))
    memset(control, 0, sizeof(control))
    io.iov_base = <void *>KEEP
    io.iov_len = KEEP_LEN
    m.msg_iov = &io
    m.msg_iovlen = 1
    m.msg_control = control
    m.msg_controllen = CMSG_SPACE(s.fresh_count * sizeof(int))
    c = CMSG_FIRSTHDR(&m)
    c.cmsg_level = SOL_SOCKET
    c.cmsg_type = SCM_RIGHTS
    c.cmsg_len = CMSG_LEN(s.fresh_count * sizeof(int))
    memcpy(CMSG_DATA(c), s.fresh, s.fresh_count * sizeof(int))
    if sendmsg(s.keep_fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0:
        s.keep_tries = 0
        return True
    if errno == EAGAIN or errno == ENOBUFS or errno == ENOMEM or errno == ETOOMANYREFS:
        s.keep_tries += 1
        if s.keep_tries < KEEP_TRIES:
            go_deaf(s, KEEP_NS)                 # its queue is full
            return False
        s.keep_tries = 0
        say(s, SAY_ACCEPT, NULL, 0, b"whoever keeps the clients' sockets takes none", 45, 0)
        return True
    say(s, SAY_ACCEPT, NULL, 0, b"nobody keeps the clients' sockets any more", 42, 0)
    close(s.keep_fd)
    s.keep_fd = -1
    return True


cdef void greet_fresh(Store *s) noexcept nogil:
    cdef Conn *conn
    cdef uint32_t i
    if not keep_fresh(s):
        return
    for i in range(s.fresh_count):
        conn = conn_new(s, KIND_SOCKET, s.fresh[i], s.store_domid)
        if conn == NULL:
            shutdown(s.fresh[i], SHUT_RDWR)
            close(s.fresh[i])
        elif plane_add(s, conn):
            shutdown(conn.fd, SHUT_RDWR)
            conn_close(s, conn)
        else:
            s.counter[C_ACCEPTED] += 1
    s.fresh_count = 0


cdef void accept_some(Store *s) noexcept nogil:
    cdef int fd
    while s.fresh_count < FRESH_MAX:
        fd = accept4(s.listen_fd, NULL, NULL, SOCK_CLOEXEC)
        if fd < 0:
            if errno == EINTR or errno == ECONNABORTED:
                continue
            if errno != EAGAIN:                 # no descriptors or memory: those that wait are served later
                say(s, SAY_ACCEPT, NULL, 0, b"no descriptors for another connection", 37, 0)
                go_deaf(s, DEAF_NS)
            break
        s.fresh[s.fresh_count] = fd
        s.fresh_count += 1
    greet_fresh(s)


cdef void take_port(Store *s, uint32_t port) noexcept nogil:
    cdef Conn *conn
    if <int>port == s.border.virq_port:
        domains_check(s)
    elif port < s.port_cap and s.port_conn[port]:
        conn = s.conn[s.port_conn[port] - 1]
        conn.flags |= CONN_MORE
        if conn.flags & CONN_FULL:
            mark_dirty(s, conn)                 # it may have taken something
        mark_ready(s, conn)


cdef void take_all_ports(Store *s) noexcept nogil:
    """The device lost some: any may have fired, and any of them may be masked."""
    cdef uint32_t port = <uint32_t>s.border.virq_port
    take_port(s, port)
    s.border.unmask(s.border.self, &port, 1)
    for port in range(s.port_cap):
        if s.port_conn[port]:
            take_port(s, port)
            s.border.unmask(s.border.self, &port, 1)


cdef void take_ports(Store *s) noexcept nogil:
    """One read tells many ports; each is masked until the turn's end."""
    cdef uint32_t *ports = s.ports + s.port_count
    cdef int n = s.border.pending(s.border.self, ports, <int>(PORTS_MAX - s.port_count)), i
    if n < 0:
        take_all_ports(s)
        return
    s.port_count += <uint32_t>n
    for i in range(n):
        take_port(s, ports[i])


cdef bint gather(Store *s, int timeout_ms) noexcept nogil:
    """True: the stay is over."""
    cdef epoll_event[EVENTS] events
    cdef uint64_t tag, junk = 0
    cdef uint32_t flags
    cdef bint over = False
    cdef Conn *conn
    cdef int n, i
    s.slept = timeout_ms != 0
    n = epoll_wait(s.epoll_fd, events, EVENTS, timeout_ms)
    s.counter[C_WAITS] += 1
    if n < 0:
        return True                             # a signal: the loop has something to do
    for i in range(n):
        tag = events[i].data.u64
        flags = events[i].events
        if tag >> 32 == 0:
            if tag == TAG_LISTEN:
                accept_some(s)
            elif tag == TAG_EVTCHN:
                take_ports(s)
            else:
                read(s.timer_fd if tag == TAG_TIMER else s.wake_fd, &junk, 8)
                over |= tag == TAG_TIMER
            continue
        conn = s.conn[<uint32_t>tag]
        if conn == NULL or conn.serial != <uint32_t>(tag >> 32):
            continue                            # closed within this batch
        if flags & EPOLLOUT and conn.flags & CONN_FULL:
            mark_dirty(s, conn)
        if flags & (EPOLLHUP | EPOLLERR | EPOLLRDHUP):
            conn.flags |= CONN_HUP | CONN_MORE | (CONN_GONE if flags & (EPOLLHUP | EPOLLERR) else 0)
            mark_ready(s, conn)
        elif flags & EPOLLIN:
            conn.flags |= CONN_MORE
            mark_ready(s, conn)
    return over or (n == 0 and timeout_ms != 0)


# ---- read and apply --------------------------------------------------------------------------------------

cdef struct Fetched:            # what one peer sent, read but not served yet
    Conn *conn
    char *window                # borrowed: one of the store's, or the connection's own buffer
    uint32_t total
    uint32_t fresh              # of these, read in this turn
    uint32_t lives
    bint in_place
    Hint hint


cdef bint fetch(Store *s, Conn *conn, Fetched *f, char *window) noexcept nogil:
    """One read; False: there is nothing to serve."""
    if conn.kind == KIND_RING and ring_began(s, conn):
        return False
    if conn.flags & (CONN_DEAD | CONN_IGNORED):
        if conn.flags & CONN_DEAD:
            mark_dirty(s, conn)
        return False
    if lasting(s, conn) and not slots_ahead(s) and not conn.flags & CONN_WAITS:
        stand_by(s, conn)
        return False
    if conn.flags & CONN_WAITS:                 # it becomes ready when it need not stand aside any more
        return False
    # It becomes ready when it has taken its replies; of a ring the quota `outstanding` decides (SPEC part 5).
    if conn.flags & CONN_FULL and (conn.kind != KIND_RING or conn_owes(s, conn) or out_is_full(conn)):
        if conn.flags & CONN_GONE:
            conn.flags |= CONN_DEAD
            mark_dirty(s, conn)
        return False
    f.conn = conn
    f.window = window
    f.lives = conn.lives
    f.total = conn.inp.len - conn.inp.pos
    f.fresh = 0
    f.hint.count = 0
    if conn.pending:
        mark_dirty(s, conn)                     # its output was drained: there is room for events again
    # What was left of the last turn: much of it is served where it lies, little goes in front of one more read.
    f.in_place = f.total > WINDOW - READ_MAX or (f.total and not conn.flags & CONN_MORE)
    if f.in_place:
        f.window = conn.inp.data + conn.inp.pos
        return True
    if f.total:
        memcpy(window, conn.inp.data + conn.inp.pos, f.total)
        conn.inp.pos = conn.inp.len = 0
    if conn.flags & CONN_MORE:
        f.fresh = conn_read(s, conn, window + f.total, READ_MAX)
        f.total += f.fresh
    return True


cdef void look_ahead(Store *s, Fetched *f) noexcept nogil:
    """The first request's path will be walked soon: the memory may begin to fetch it."""
    cdef const char *path = f.window + HEADER
    cdef const char *end
    if f.total > HEADER and path[0] == c'/':
        end = <const char *>memchr(path, 0, f.total - HEADER)
        if end != NULL:
            hint_path(s, &f.hint, path, <uint32_t>(end - path))


cdef void serve_conn(Store *s, Fetched *f) noexcept nogil:
    """All whole requests, up to the peer's share."""
    cdef Conn *conn = f.conn
    cdef uint32_t i = 0, served = 0
    cdef bint left = False, waits = False, held = False
    cdef Header h
    if conn.flags & (CONN_DEAD | CONN_IGNORED) or conn.lives != f.lives:
        mark_dirty(s, conn)                     # another peer's request ended it meanwhile
        return
    while f.total - i >= HEADER:
        memcpy(&h, f.window + i, HEADER)
        if h.len > PAYLOAD_MAX:
            conn_refuse(s, conn, b"message longer than 4096 bytes", RING_PROTO)
            return
        if f.total - i - HEADER < h.len:
            break
        if served == SHARE or (served and s.work > BATCH_WORK) or out_is_full(conn) or conn_owes(s, conn):
            left = True
            break
        if s.guarded != NULL and must_wait(s, conn, &h, f.window + i + HEADER):
            waits = True
            break
        if s.holds and h.type == XS_TRANSACTION_START and conn.txs == 0:
            held = True
            break
        serve(s, conn, &h, f.window + i + HEADER)
        conn.flags &= ~CONN_WAITED
        if conn.kind == KIND_RING:
            conn_owe(s, conn)
        if conn.flags & (CONN_DEAD | CONN_IGNORED) or conn.lives != f.lives:
            return
        served += 1
        i += HEADER + h.len
    if left and conn.kind == KIND_RING and f.total - i <= f.fresh:
        ring_give_back(s, conn, f.total - i)
        conn.inp.pos = conn.inp.len = 0
    elif f.in_place and i < f.total:
        conn.inp.pos += i
    elif i < f.total:
        if buf_add(&conn.inp, f.window + i, f.total - i):
            conn.flags |= CONN_DEAD
    else:
        conn.inp.pos = conn.inp.len = 0
        if conn.inp.cap > 1024:
            buf_free(&conn.inp)
    if waits:
        let_pass(s, conn)
    elif held:
        hold_back(s, conn)
    elif left or conn.flags & CONN_MORE:
        mark_ready(s, conn)
    elif conn.flags & CONN_EOF:
        conn.flags |= CONN_DEAD
    if conn.flags & CONN_DEAD:
        mark_dirty(s, conn)


cdef void let_pass(Store *s, Conn *conn) noexcept nogil:
    """It stands aside until the guarded transaction has ended, or its time is up."""
    conn.flags |= CONN_WAITS
    conn.waits_next = s.waits
    s.waits = conn
    rearm(s, 0)


cdef void hold_back(Store *s, Conn *conn) noexcept nogil:
    """It begins no transaction before the live update that is asked for was done or given up (SPEC 6.5)."""
    conn.flags |= CONN_WAITS
    conn.waits_next = s.held
    s.held = conn


cdef void stand_by(Store *s, Conn *conn) noexcept nogil:
    """It is read when there is room for its answers: the file system is full, and nobody is closed for that."""
    hold_back(s, conn)
    if s.short_ns == 0:
        s.short_ns = now() + SHORT_NS
        rearm(s, 0)


cdef void plane_release(Store *s) noexcept nogil:
    cdef Conn *conn
    while s.held != NULL:
        conn = s.held
        s.held = conn.waits_next
        conn.flags &= ~CONN_WAITS
        mark_ready(s, conn)


cdef void go_on(Store *s) noexcept nogil:
    """Those who stood aside are ready again, once there is nobody to let pass."""
    cdef Conn *conn
    if s.guarded != NULL and s.now_ns >= s.guarded_ns:
        s.guarded = NULL
    while s.guarded == NULL and s.waits != NULL:
        conn = s.waits
        s.waits = conn.waits_next
        conn.flags &= ~CONN_WAITS
        conn.flags |= CONN_WAITED
        mark_ready(s, conn)


cdef bint apply(Store *s, Conn *last, uint32_t batch) noexcept nogil:
    """Each of the next `batch` peers gets his share, as long as that is not too much for those served first; `last` is
    the end of the turn's list.  True: it is reached.

    In a large store two peers are read ahead of the one that is served: while the kernel copies their
    bytes, the memory fetches the nodes that the first one's request names (100 connections: -0.4 us).
    """
    cdef Fetched[WINDOWS] f
    cdef uint32_t ahead = WINDOWS if s.nodes.count > LARGE else 1, first = 0, have = 0, slot
    cdef Conn *conn
    s.work = 0
    while have or (last != NULL and batch):
        while last != NULL and batch and have < ahead:
            conn = s.ready_first
            s.ready_first = conn.ready_next
            if s.ready_first == NULL:
                s.ready_last = NULL
            conn.flags &= ~CONN_READY
            batch -= 1
            if conn == last:
                last = NULL
            slot = (first + have) % WINDOWS
            if fetch(s, conn, &f[slot], s.window + slot * WINDOW):
                have += 1
                if ahead > 1:
                    look_ahead(s, &f[slot])
                    if have > 1:
                        hint_nodes(s, &f[(slot + WINDOWS - 1) % WINDOWS].hint)
        if have:
            serve_conn(s, &f[first])
            first = (first + 1) % WINDOWS
            have -= 1
            if s.work > BATCH_WORK:
                batch = 0
    return last == NULL


# ---- publish ---------------------------------------------------------------------------------------------

cdef void seal(Store *s) noexcept nogil:
    """From here on what was done outlives us: the slots say how each peer stands, once the image has the changes."""
    cdef Conn *conn = s.dirty
    cdef uint64_t turn
    if s.image == NULL or s.fatal:
        return
    turn = s.image.turn + (1 if s.journal.len else 0)
    while conn != NULL:
        if lasting(s, conn) and slot_store(s, conn, turn):
            conn.flags |= CONN_DEAD | CONN_GONE
        conn = conn.dirty_next
    at_point(s, AT_STORED)
    if s.journal.len:
        s.fatal = s.image.commit(s.image.self, s.journal.data, s.journal.len)
        s.journal.len = 0
        s.journal_count = 0
        if s.journal.cap > KEEP_JOURNAL:
            buf_free(&s.journal)
    if s.fatal:                                 # what the slots hold now is what the next process goes on with
        return
    at_point(s, AT_COMMITTED)
    slots_settle(s)


cdef void refill(Store *s) noexcept nogil:
    """Events in structure become bytes before the turn is sealed, so that what leaves is what the slot says."""
    cdef Conn *conn = s.dirty
    while conn != NULL:
        if conn.pending and not conn.flags & CONN_FULL:
            out_refill(s, conn)
        conn = conn.dirty_next


cdef void publish(Store *s) noexcept nogil:
    cdef Conn *conn = s.dirty
    while s.begins and conn != NULL:
        ring_set_up(s, conn)
        conn = conn.dirty_next
    at_point(s, AT_BEGUN)
    if s.trace.len:
        trace_flush(s)                          # a line is there before the answer is
    while s.dirty != NULL:
        conn = s.dirty
        s.dirty = conn.dirty_next
        conn.flags &= ~CONN_DIRTY
        if conn.flags & CONN_DEAD and not conn.flags & CONN_EOF:
            conn_gone(s, conn)
            continue
        conn_write(s, conn)
        # Who only closed his writing side still gets his replies.
        if conn.flags & CONN_DEAD and (conn.flags & CONN_GONE or not conn.flags & CONN_FULL):
            conn_gone(s, conn)
        elif conn.kind == KIND_SOCKET and ((conn.flags & CONN_FULL) != 0) != ((conn.flags & CONN_WANTOUT) != 0):
            want_out(s, conn, conn.flags & CONN_FULL)


cdef void hear(Store *s) noexcept nogil:
    """Accept again: a descriptor may be free."""
    s.deaf = False
    if s.listen_fd >= 0:
        watch_fd(s, s.listen_fd, TAG_LISTEN, EPOLLIN)
    greet_fresh(s)


cdef void conn_gone(Store *s, Conn *conn) noexcept nogil:
    if conn.flags & CONN_WAITS:
        s.guarded = NULL                        # nobody stands aside for ever
        go_on(s)
        plane_release(s)
    if conn.flags & (CONN_READY | CONN_DIRTY | CONN_WAITS):
        return                                  # it stands in a list: its turn to go comes with that
    if conn.fd >= 0:                            # somebody else may hold the descriptor too
        epoll_ctl(s.epoll_fd, EPOLL_CTL_DEL, conn.fd, NULL)
        if lasting(s, conn):
            shutdown(conn.fd, SHUT_RDWR)        # the keeper's copy alone would keep it open
    conn_close(s, conn)
    if s.deaf:
        hear(s)


# ---- polling ------------------------------------------------------------------------------------------------

cdef int look_again(Store *s) noexcept nogil:
    """Who of those whose ports are still masked has put in more?  A read of memory each; how many have.

    -1: a port among them is wanted now.  It tells of deaths, or its peer is not served whatever lies in its page.
    """
    cdef Conn *conn
    cdef uint32_t i, port
    cdef int found = 0
    for i in range(s.port_count):
        port = s.ports[i]
        if port >= s.port_cap or s.port_conn[port] == 0:
            return -1
        conn = s.conn[s.port_conn[port] - 1]
        if conn.page == NULL or conn.flags & (CONN_DEAD | CONN_FULL | CONN_IGNORED | CONN_WAITS):
            return -1
        if ring_readable(<Page *>conn.page, conn.req_cons):
            conn.flags |= CONN_MORE
            mark_ready(s, conn)
            found += 1
    return found


cdef bint polls(Store *s) noexcept nogil:
    """Before the ports are unmasked: True, somebody is ready again, and they can stay masked for one more turn.

    What network drivers do before they enable the interrupt: while guests keep a few rings busy, they are served
    without events, sleeps and wake-ups.  Where looking finds nothing it is given up, and tried once in a while.  Of
    10 guests a READ takes 2.06 us and a WRITE 2.32 without it, 1.84 and 2.14 so, 2.21 and 2.22 with 8,000 looks, which
    make it twice as many a second.
    """
    cdef uint32_t left = s.poll_budget
    cdef int found
    if s.port_count < 2 or s.port_count > POLL_PORTS:
        return False
    if left == 0:
        s.poll_rest += 1
        if s.poll_rest % POLL_TRY:
            return False
        left = POLL_LOOKS
    while left > s.port_count:
        found = look_again(s)
        if found > 0:
            s.poll_budget = POLL_LOOKS
        if found:
            return found > 0
        left -= s.port_count
    s.poll_budget = s.poll_budget // 2 if s.poll_budget > POLL_LOOKS // 4 else 0
    return False


# ---- turns ------------------------------------------------------------------------------------------------

cdef void turn(Store *s) noexcept nogil:
    cdef Conn *last
    cdef bint done = False
    cdef uint64_t since = span_begin(s)
    s.counter[C_TURNS] += 1
    if s.guarded != NULL or s.waits != NULL:
        go_on(s)
    if s.short_ns and s.now_ns >= s.short_ns:
        s.short_ns = 0
        plane_release(s)
    at_point(s, AT_GATHERED)
    last = s.ready_last                         # whoever becomes ready meanwhile waits for the next turn
    while not done:
        done = apply(s, last, FIRST if s.slept else BATCH)
        s.slept = False
        at_point(s, AT_APPLIED)
        refill(s)
        seal(s)
        if s.fatal:                             # nothing of this batch may leave
            return
        publish(s)
        at_point(s, AT_PUBLISHED)
        since = span_end(s, since)
    if s.port_count and not polls(s):
        s.border.unmask(s.border.self, s.ports, <int>s.port_count)
        s.port_count = 0
    if s.reclaim_first != NULL:
        reclaim(s, RECLAIM_TURN)
    if s.orphans.len:
        recover_orphans(s, RECLAIM_TURN)
    span_end(s, since)


cdef void arm(Store *s, uint64_t ns) noexcept nogil:
    cdef itimerspec t
    memset(&t, 0, sizeof(t))
    t.it_value.tv_sec = <int64_t>(ns // 1000000000)
    t.it_value.tv_nsec = <int64_t>(ns % 1000000000)
    timerfd_settime(s.timer_fd, 0, &t, NULL)


cdef void rearm(Store *s, uint64_t stay_until) noexcept nogil:
    """The timer, for whatever comes first: the end of the stay, of a guard, of deafness."""
    cdef uint64_t first = stay_until, t = now()
    if s.waits != NULL and (first == 0 or s.guarded_ns < first):
        first = s.guarded_ns
    if s.deaf and (first == 0 or s.deaf_ns < first):
        first = s.deaf_ns
    if s.short_ns and (first == 0 or s.short_ns < first):
        first = s.short_ns
    arm(s, 0 if first == 0 else first - t if first > t else 1)


cdef inline bint carried(Store *s) noexcept nogil:
    return (s.ready_first != NULL or s.dirty != NULL or s.port_count != 0 or s.reclaim_first != NULL
            or s.journal.len != 0 or s.orphans.len != 0) and not s.fatal


cdef inline bint polling(Store *s) noexcept nogil:
    """Looking found work and the ports are masked: the next turn needs no system call to begin."""
    if s.port_count == 0 or s.ready_first == NULL or s.poll_turns >= POLL_TURNS:
        s.poll_turns = 0
        return False
    s.poll_turns += 1
    return True


cdef void plane_run(Store *s) noexcept nogil:
    cdef uint64_t start = now()
    cdef bint stay = s.linger_ns != 0 and start - s.left_ns < STAY_NS, timed = stay
    s.now_ns = start
    if s.deaf and start >= s.deaf_ns:
        hear(s)
    if stay:
        rearm(s, start + s.linger_ns)
    if gather(s, 0):
        stay = False                            # the timer has run out already
    turn(s)
    while True:
        if s.says or s.fatal:
            break                               # lines for the log
        if polling(s):
            pass
        elif stay:
            if gather(s, 0 if carried(s) else -1):
                break
        elif s.ready_first == NULL:
            break
        elif gather(s, 0):
            break
        s.now_ns = now()
        if carried(s) or s.waits != NULL or s.short_ns:
            turn(s)
        if s.now_ns - start > 2 * s.linger_ns + STAY_NS:
            break
    if carried(s) or (s.waits != NULL and s.guarded == NULL):
        plane_wake(s)                           # carried work: the set is readable at once
    if timed or s.waits != NULL or s.deaf or s.short_ns:
        rearm(s, 0)
    s.left_ns = now()
