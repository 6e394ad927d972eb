"""The Engine: the one Python face of the core.

Owns a Store and drives turns on it; translates between Python and the rooms below, never per request.
The types are in `_core.pyi`.
"""
cimport cython
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.errno cimport EINVAL, EIO, ENOMEM, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove, memset, strerror
from posix.unistd cimport close

from collections import namedtuple
from importlib import import_module

from fastxs.core.check cimport check_store, memory_of
from fastxs.core.connection cimport conn_close, conn_new, mark_ready, ring_attach
from fastxs.core.domains cimport domain_know, domain_remove, domains_check, domains_greet, domains_offer, limit_set
from fastxs.core.heap cimport buf_add
from fastxs.core.model cimport (ANSWERED_LATER, CONN_DEAD, CONN_IGNORED, COUNTERS, DOMIDS, KIND_MEMORY, KIND_RING,
                                KIND_SOCKET, OPS, QUOTAS, SPANS, Buf, Conn, Domain, Store, layout)
from fastxs.core.outbox cimport out_all, out_message, out_refill, waiting
from fastxs.core.quota cimport quota_find, quota_of
from fastxs.core.recover cimport Adopted, recover_store
from fastxs.core.slots cimport slots_open
from fastxs.core.spans cimport bucket_end
from fastxs.core.store cimport store_free, store_new
from fastxs.core.trace cimport TRACE_ACC, TRACE_IO, TRACE_OBJ, TRACE_TDB, TRACE_WRL, trace_flush
from fastxs.core.turn cimport (plane_add, plane_adopt, plane_border, plane_close, plane_listen, plane_open,
                               plane_release, plane_run, plane_wake, now, turn)
from fastxs.core.wire cimport XS_CONTROL, error_number, error_word, op_name

cdef extern from "sys/socket.h" nogil:
    enum:
        SOL_SOCKET
        SHUT_RDWR
    int getsockopt(int fd, int level, int name, void *value, unsigned int *size)
    int shutdown(int fd, int how)

cdef enum:
    SO_COOKIE = 57              # as core/connection

cdef extern from "sys/random.h" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

ABI = layout()

for _room in ("check", "connection", "domains", "heap", "journal", "outbox", "perms", "quota", "recover", "requests",
              "slots", "store", "trace", "transactions", "tree", "turn", "watches"):
    if import_module("fastxs.core." + _room).LAYOUT != ABI:
        raise ImportError(f"fastxs.core.{_room} was built from other sources than fastxs._core: build all of it again")
FEATURES = 15

Notice = namedtuple("Notice", ("kind", "domid", "conn_id", "what", "error", "count"))
Notice.__module__ = __name__

cdef tuple KINDS = ("quota", "soft-quota", "permission", "protocol", "conflict", "collapse", "accept", "domain")
cdef tuple CONN_KINDS = ("memory", "socket", "ring")
cdef tuple COUNTER_NAMES = (
    "requests", "replies", "errors", "events", "events_dropped", "events_collapsed", "commits", "conflicts", "replays",
    "accepted", "closed", "turns", "reads", "writes", "bytes_in", "bytes_out", "waits",
)
cdef dict SWITCHES = {"obj": TRACE_OBJ, "io": TRACE_IO, "wrl": TRACE_WRL, "acc": TRACE_ACC, "tdb": TRACE_TDB}


TRIALS = ("gathered", "received", "applied", "stored", "committed", "begun", "copied", "indexed", "sent", "published",
          "recovered")
FAULTS = ("uncommitted", "unfolded")


class ControlError(Exception):
    """Raised by a CONTROL callback to answer with an error word: `ControlError("EINVAL")`."""

    def __init__(self, word):
        super().__init__(word)
        self.word = word


class ImageFailed(OSError):
    """The image did not take what was done."""


cdef class Border:
    """The hypervisor as the Engine sees it: a table of C functions (core/model.pxd)."""


cdef class Image:
    """What outlives the process, as the Engine sees it (core/model.pxd)."""


cdef str NO_HYPERVISOR = "no hypervisor"


cdef int demand(int error, str else_) except -1:
    """OSError, unless `error` is 0: what failed, and why."""
    if error:
        raise OSError(error, f"{else_}: {strerror(error).decode()}")
    return 0


cdef int told(Store *s) except -1:
    """The image has all that was done, as far as it was asked to take it."""
    if s.fatal:
        raise ImageFailed(s.fatal, "the image cannot be written, nobody is answered by this process any more: "
                          + strerror(s.fatal).decode())
    return 0


cdef int call_control(void *engine, Conn *conn, const char *data, uint32_t n, Buf *reply) noexcept nogil:
    with gil:
        return (<Engine>engine).answer_control(conn, data, n, reply)


@cython.no_gc_clear              # `border` is needed to the last: rings are unmapped through it
cdef class Engine:
    cdef Store *s               # owned; NULL once closed
    cdef object control
    cdef object notice
    cdef Border border          # keeps the table alive that s.border points into
    cdef Image image            # likewise

    def __cinit__(self):
        self.s = NULL

    def __init__(self, *, border=None, image=None, sockets=(), answers=(), control=None, notice=None, priv_domid=0,
                 store_domid=0, keep_orphans=False, linger_us=2000, trial=""):
        cdef Store *s
        cdef uint64_t secret = 0
        if self.s != NULL:
            raise RuntimeError("an Engine is made once")
        if not 0 <= priv_domid < DOMIDS or not 0 <= store_domid < DOMIDS:
            raise ValueError("a domid is between 0 and 65535")
        self.control = control
        self.notice = notice
        self.border = border
        self.image = image
        if getrandom(&secret, sizeof(secret), 0) != sizeof(secret):
            raise OSError(errno, "no random key for the tables")
        s = self.s = store_new(secret, priv_domid, store_domid, NULL if image is None else &self.image.c)
        if s == NULL:
            raise MemoryError
        s.keep_orphans = keep_orphans
        if trial:
            point, _, count = trial.partition(":")
            if point not in TRIALS + FAULTS:
                raise ValueError("nothing to try at %r: there are %s" % (point, " ".join(TRIALS + FAULTS)))
            s.trial.at = 1 + (TRIALS + FAULTS).index(point)
            s.trial.count = int(count or 1)
        s.linger_ns = <uint64_t>linger_us * 1000
        s.engine = <void *>self
        s.control = call_control
        self.build(list(sockets), list(answers))

    cdef int build(self, list sockets, list answers) except -1:
        cdef Store *s = self.s
        demand(plane_open(s), "no descriptors to serve with")
        if s.image != NULL:
            s.image.trial = &s.trial
            s.slots_number = s.image.slots_number
            demand(slots_open(s, s.image.slots), "the image's slot file cannot be used")
            s.image.slots = -1                  # the store's now
        if self.border is not None:
            s.border = &self.border.c
            demand(plane_border(s), NO_HYPERVISOR)
        if s.image != NULL and not s.image.fresh:
            demand(self.recover(sockets), "the store cannot be recovered from its image")
            demand(plane_adopt(s), "clients' sockets cannot be watched")
            if s.border != NULL:
                domains_check(s)                # who shut down while nobody looked
            for conn_id, req_id, tx_id, payload in answers:
                self.put_answer(conn_id, req_id, tx_id, payload)
        if s.border != NULL and s.domain[s.store_domid].conn == NULL:
            demand(self.join_dom0(), NO_HYPERVISOR)
        s.now_ns = now()
        if s.image != NULL:
            self.commit()                       # the image has it all before anybody is served
            told(s)
        return 0

    cdef void commit(self) noexcept:
        """A turn that serves nobody: who answers CONTROL is not ready before this Engine is."""
        cdef Store *s = self.s
        cdef Conn *first = s.ready_first
        cdef Conn *last = s.ready_last
        s.ready_first = s.ready_last = NULL
        turn(s)
        if first != NULL:
            if s.ready_last != NULL:
                s.ready_last.ready_next = first
            else:
                s.ready_first = first
            s.ready_last = last
        plane_wake(s)

    cdef int recover(self, list sockets) except -1:
        """What the image holds; `sockets` are descriptors of clients that outlived the last process."""
        cdef Adopted *adopted = <Adopted *>calloc(len(sockets) + 1, sizeof(Adopted))
        cdef unsigned int size = sizeof(uint64_t)
        cdef int error = ENOMEM
        if adopted == NULL:
            return ENOMEM
        for i, fd in enumerate(sockets):
            adopted[<int>i].fd = fd
            getsockopt(fd, SOL_SOCKET, SO_COOKIE, &adopted[<int>i].cookie, &size)
        error = recover_store(self.s, adopted, <uint32_t>len(sockets))
        for i in range(len(sockets)):
            if adopted[<int>i].fd >= 0:         # of nobody who is known
                shutdown(adopted[<int>i].fd, SHUT_RDWR)
                close(adopted[<int>i].fd)
        free(adopted)
        return error

    cdef int join_dom0(self):
        """The ring of dom0's own kernel comes first; binding and one notify wake it (SPEC 2.3)."""
        cdef Store *s = self.s
        cdef Domain *d = s.domain[s.store_domid]
        cdef Conn *conn
        cdef int error
        if s.border.own_ring == NULL:
            return 0
        conn = conn_new(s, KIND_RING, -1, s.store_domid)
        if conn == NULL:
            raise MemoryError
        error = ring_attach(s, conn, d, 0)
        if error:
            conn_close(s, conn)
            return error
        d.conn = conn
        turn(s)                                 # dom0's kernel is the first to hear of us
        domains_greet(s)
        turn(s)
        return 0

    def __dealloc__(self):
        self.shut()

    cdef void shut(self) noexcept:
        cdef Store *s = self.s
        if s == NULL:
            return
        self.s = NULL
        plane_close(s)
        if s.image != NULL:
            s.image.trial = NULL
        store_free(s)

    cdef Store *store(self) except NULL:
        if self.s == NULL:
            raise ValueError("this Engine is closed")
        return self.s

    cdef Store *serving(self) except NULL:
        """As `store`, for who has it go on.  ImageFailed."""
        told(self.store())
        return self.s

    def close(self):
        self.shut()

    # -- the loop ---------------------------------------------------------------------------

    def fileno(self):
        return self.store().epoll_fd

    def turn(self):
        cdef Store *s = self.serving()
        with nogil:
            plane_run(s)
        if s.says or s.fatal:
            self.tell()

    cdef int tell(self) except -1:
        """What turns left to be said."""
        cdef Store *s = self.s
        cdef uint32_t i
        lines = []
        for i in range(s.says):
            lines.append(Notice(
                KINDS[s.say[i].kind], s.say[i].domid, s.say[i].conn, s.say[i].what[:s.say[i].what_len],
                error_word(<int>s.say[i].error).decode() if s.say[i].error else "", s.say[i].count))
        s.says = 0
        if lines and self.notice is not None:
            self.hand_over(lines)
        told(s)
        return 0

    cdef int put_answer(self, uint32_t conn_id, uint32_t req_id, uint32_t tx_id, bytes payload) except -1:
        """It goes with the next turn; nowhere, if the peer is gone meanwhile."""
        if self.connected(conn_id):
            out_message(self.s, self.find(conn_id), XS_CONTROL, req_id, tx_id, PyBytes_AsString(payload),
                        <uint32_t>len(payload))
        return 0

    def asked(self):
        return self.store().asked_req_id, self.store().asked_tx_id

    def answer(self, conn_id, req_id, tx_id, payload):
        self.put_answer(conn_id, req_id, tx_id, payload)
        plane_wake(self.store())

    cdef void hand_over(self, list lines) noexcept:
        """A log that fails (no descriptors, a full disk) stops no service: what it raises is reported, not raised."""
        self.notice(lines)

    cdef int answer_control(self, Conn *conn, const char *data, uint32_t n, Buf *reply) noexcept:
        """errno, or 0 and the reply's bytes."""
        cdef bytes answer
        words = data[:n].split(b"\0")
        words.pop()                             # what is behind the last NUL, or all if there is none
        if not words or self.control is None:
            return EINVAL
        try:
            answer = self.control(conn.serial, conn.domid, words)
            if answer is None:
                return ANSWERED_LATER
            return buf_add(reply, PyBytes_AsString(answer), <uint32_t>len(answer))
        except ControlError as refusal:
            return error_number(refusal.word.encode()) or EINVAL
        except BaseException:
            import sys
            sys.excepthook(*sys.exc_info())
            return EIO

    # -- connections ------------------------------------------------------------------------

    def listen(self, int fd):
        cdef int error = plane_listen(self.store(), fd)
        if error:
            raise OSError(error, "cannot watch the listening socket: " + strerror(error).decode())

    def keep(self, int fd):
        cdef Store *s = self.store()
        if s.keep_fd >= 0:
            close(s.keep_fd)
        s.keep_fd = fd

    def unlisten(self):
        cdef Store *s = self.store()
        if s.listen_fd >= 0:
            close(s.listen_fd)
            s.listen_fd = -1

    def adopt(self, int fd):
        cdef Store *s = self.store()
        cdef Conn *conn = conn_new(s, KIND_SOCKET, fd, s.store_domid)
        cdef int error
        if conn == NULL:
            raise MemoryError
        error = plane_add(s, conn)
        if error:
            conn.fd = -1                        # still the caller's
            conn_close(s, conn)
            raise OSError(error, "cannot watch descriptor %d: %s" % (fd, strerror(error).decode()))
        return conn.serial

    def attach(self, uint32_t domid):
        cdef Store *s = self.store()
        cdef Domain *d = domain_know(s, domid)
        cdef Conn *conn
        if d == NULL:
            raise LookupError("domain %d does not exist: pretend(%d, True) first" % (domid, domid))
        if d.conn != NULL and domid != s.priv_domid:
            if d.conn.kind != KIND_MEMORY:
                raise ValueError("domain %d has a ring" % domid)
            self.disconnect(d.conn.serial)      # a domain has one peer: this one begins anew
        conn = conn_new(s, KIND_MEMORY, -1, domid)
        if conn == NULL:
            raise MemoryError
        if domid != s.priv_domid:
            d.conn = conn
        return conn.serial

    def connected(self, uint32_t conn_id):
        cdef Store *s = self.store()
        cdef uint32_t i
        for i in range(s.conns):
            if s.conn[i] != NULL and s.conn[i].serial == conn_id:
                return True
        return False

    def buffered(self, uint32_t conn_id):
        cdef Conn *conn = self.find(conn_id)
        out_all(self.s, conn)
        return (PyBytes_FromStringAndSize(conn.inp.data + conn.inp.pos, conn.inp.len - conn.inp.pos),
                PyBytes_FromStringAndSize(conn.out.data + conn.out.pos, waiting(conn)))

    def unmask(self):
        cdef Store *s = self.store()
        if s.port_count:
            s.border.unmask(s.border.self, s.ports, <int>s.port_count)
            s.port_count = 0

    def hold_transactions(self, bint hold):
        cdef Store *s = self.store()
        s.holds = hold
        plane_release(s)
        plane_wake(s)

    def transactions(self):
        cdef Store *s = self.store()
        cdef uint32_t i
        cdef uint64_t t = now()
        found = []
        for i in range(s.conns):
            if s.conn[i] != NULL and s.conn[i].txs:
                found.append((s.conn[i].serial, s.conn[i].domid, (t - s.conn[i].tx_since_ns) / 1e9))
        return found

    cdef Conn *find(self, uint32_t serial) except NULL:
        cdef Store *s = self.store()
        cdef uint32_t i
        for i in range(s.conns):
            if s.conn[i] != NULL and s.conn[i].serial == serial:
                return s.conn[i]
        raise LookupError("no connection %d" % serial)

    cdef Conn *memory_peer(self, uint32_t serial) except NULL:
        cdef Conn *conn = self.find(serial)
        if conn.kind != KIND_MEMORY:
            raise ValueError("connection %d is not in memory" % serial)
        return conn

    def feed(self, uint32_t conn_id, const uint8_t[::1] data):
        cdef Store *s = self.store()
        cdef Conn *conn = self.memory_peer(conn_id)
        if conn.flags & CONN_IGNORED:
            return
        if conn.inp.pos:                        # keep what is not served yet, at the front
            memmove(conn.inp.data, conn.inp.data + conn.inp.pos, conn.inp.len - conn.inp.pos)
            conn.inp.len -= conn.inp.pos
            conn.inp.pos = 0
        if data.shape[0] and buf_add(&conn.inp, &data[0], <uint32_t>data.shape[0]):
            raise MemoryError
        mark_ready(s, conn)
        self.settle()

    cdef int settle(self) except -1:
        """Turns until nobody is ready (peers whose outbox is full are not)."""
        cdef Store *s = self.serving()
        cdef uint64_t before
        s.now_ns = now()
        with nogil:
            if s.waits != NULL:
                turn(s)
            while (s.ready_first != NULL or s.dirty != NULL) and not s.fatal:
                before = s.counter[0]
                turn(s)
                if s.counter[0] == before and s.dirty == NULL:
                    break
        if s.says or s.fatal:
            self.tell()
        return 0

    def take(self, uint32_t conn_id):
        cdef Store *s = self.store()
        cdef Conn *conn = self.memory_peer(conn_id)
        cdef Buf *out = &conn.out
        cdef uint32_t index = conn.index
        pieces = []
        while waiting(conn) or conn.pending:
            out_refill(s, conn)
            pieces.append(PyBytes_FromStringAndSize(out.data + out.pos, waiting(conn)))
            out.pos = out.len = 0
            if conn.inp.len:                    # requests that waited for room
                mark_ready(s, conn)
                self.settle()
                if s.conn[index] != conn:       # and one of them was its last
                    break
        return b"".join(pieces)

    def disconnect(self, uint32_t conn_id):
        cdef Store *s = self.store()
        cdef Conn *conn = self.find(conn_id)
        conn.flags |= CONN_DEAD
        mark_ready(s, conn)
        self.settle()

    def connections(self):
        cdef Store *s = self.store()
        cdef uint32_t i
        cdef Conn *c
        found = []
        for i in range(s.conns):
            c = s.conn[i]
            if c != NULL:
                found.append({
                    "id": c.serial, "kind": CONN_KINDS[c.kind], "domid": c.domid, "fd": c.fd, "watches": c.watches,
                    "transactions": c.txs, "out_bytes": waiting(c), "pending": c.pending,
                    "port": c.port,
                    "in_bytes": c.inp.len - c.inp.pos,
                    "requests": c.requests, "ignored": int(c.flags & CONN_IGNORED != 0),
                })
        return found

    # -- domains ------------------------------------------------------------------------------

    def pretend(self, uint32_t domid, bint exists):
        cdef Store *s = self.store()
        if s.border != NULL:
            raise RuntimeError("a hypervisor says which domains exist")
        if domid >= DOMIDS or domid == s.priv_domid:
            raise ValueError("domain %d cannot be pretended" % domid)
        if exists:
            s.pretend[domid >> 3] |= 1 << (domid & 7)
            return
        s.pretend[domid >> 3] &= ~(1 << (domid & 7))
        if s.domain[domid] != NULL:
            domain_remove(s, s.domain[domid], True)
            self.settle()

    def offer_features(self):
        return domains_offer(self.store())

    def domains(self):
        cdef Store *s = self.store()
        cdef uint32_t i
        cdef Domain *d
        found = []
        for i in range(DOMIDS):
            d = s.domain[i]
            if d != NULL:
                found.append({"domid": d.domid, "introduced": int(d.introduced), "target": d.target,
                              "features": d.features, "unique_id": d.unique_id, "shutdown": int(d.shutdown)})
        return found

    # -- quotas ---------------------------------------------------------------------------------

    @staticmethod
    def quota_names():
        return tuple([quota_of(i).name.decode() for i in range(QUOTAS)])

    @staticmethod
    def quota_text(str name):
        return quota_of(item_of(name)).text.decode()

    cdef Domain *whose(self, object domid) except? NULL:
        """NULL for None: those of domains to come are meant."""
        cdef Store *s = self.store()
        cdef Domain *d
        if domid is None:
            return NULL
        d = domain_know(s, domid)
        if d == NULL:
            raise LookupError("no domain %d" % domid)
        return d

    def get_quota(self, str name, domid=None):
        cdef Domain *d = self.whose(domid)
        return self.s.limit[item_of(name)] if d == NULL else d.limit[item_of(name)]

    def set_quota(self, str name, value, domid=None):
        cdef int item = item_of(name)
        if not 0 <= value < 2**31 or (quota_of(item).cap and value > quota_of(item).cap):
            raise ValueError("%s cannot be %s" % (name, value))
        limit_set(self.store(), self.whose(domid), item, value)

    def accounts(self, uint32_t domid):
        cdef Store *s = self.store()
        cdef Domain *d = s.domain[domid] if domid < DOMIDS else NULL
        if d == NULL:
            raise LookupError("no domain %d" % domid)
        return {quota_of(i).name.decode(): (d.now[i], d.high[i]) for i in range(QUOTAS)}

    def highest_accounts(self, bint reset=False):
        cdef Store *s = self.store()
        cdef int i
        found = {quota_of(i).name.decode(): s.high[i] for i in range(QUOTAS)}
        if reset:
            for i in range(QUOTAS):
                s.high[i] = 0
        return found

    # -- looking inside -----------------------------------------------------------------------------

    def check(self):
        cdef list faults = []
        check_store(self.store(), faults)
        return faults

    def counters(self):
        cdef Store *s = self.store()
        found = {COUNTER_NAMES[i]: s.counter[i] for i in range(COUNTERS)}
        found.update(nodes=s.nodes.count, watches=s.watches.count, connections=s.conn_count, domains=s.domains,
                     held=s.ghosts.count)
        return found

    def operations(self):
        cdef Store *s = self.store()
        return {op_name(i).decode(): s.op[i] for i in range(OPS) if i not in (15, 16, 20)}

    def memory(self):
        return memory_of(self.store())

    def count_spans(self, bint on):
        cdef Store *s = self.store()
        if on:
            memset(s.span, 0, sizeof(s.span))
            s.span_longest = 0
        s.spans_on = on

    def spans(self):
        cdef Store *s = self.store()
        return s.spans_on, {bucket_end(i): s.span[i] for i in range(SPANS) if s.span[i]}, s.span_longest

    # -- tracing ------------------------------------------------------------------------------------

    def trace(self, fd, switches=("obj", "io")):
        cdef Store *s = self.store()
        if s.trace.len:
            trace_flush(s)                      # to the file that they were for
        s.trace_on = 0
        s.trace_fd = -1 if fd is None else fd
        if fd is not None:
            for name in switches:
                if name not in SWITCHES:
                    raise ValueError("no trace switch %r: there are %s" % (name, " ".join(SWITCHES)))
                s.trace_on |= <uint32_t>SWITCHES[name]


cdef int item_of(str name) except -1:
    cdef bytes text = name.encode()
    cdef int item = quota_find(text, <uint32_t>len(text))
    if item < 0:
        raise KeyError(name)
    return item
