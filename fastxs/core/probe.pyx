"""A thin Python face of single rooms, for tests only: nothing in the daemon imports it.

Owns a Store without an Engine (no descriptors, no turns), a heap with one table, and a ring's page.
Offers what the rooms' faces offer and checks nothing: a wrong handle crashes.  Refuses to know what a
right answer is.  The types are in `probe.pyi`.
"""
from cython cimport final
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset, strerror

from fastxs.core.check cimport check_store
from fastxs.core.connection cimport conn_close, conn_new
from fastxs.core.domains cimport domain_know
from fastxs.core.heap cimport (at, bucket, buf_add, buf_free, fx_hash, give, heap_free, rounded, slot, table_add,
                               table_drop, table_free, table_init, take)
from fastxs.core.model cimport (ACE_STALE, C_EVENTS, C_EVENTS_COLLAPSED, C_EVENTS_DROPPED, C_REPLIES, HEADER,
                                KIND_MEMORY, PAYLOAD_MAX, QUOTAS, VIEW_LOST, Ace, Buf, Conn, Domain, Event, Held, Item,
                                LogEntry, Node, Perms, Store, TNode, Table, View, WNode, Watch, handle, layout as
                                fingerprint)
from fastxs.core.outbox cimport out_event, out_is_full, out_message, out_refill, waiting
from fastxs.core.paths cimport component_end, path_base, path_home_len, path_is_legal
from fastxs.core.perms cimport (aces, conn_rights, perm_format, perm_parse, perms_drop, perms_forget, perms_hold,
                                perms_intern, rights)
from fastxs.core.quota cimport account, quota_allows, quota_find, quota_fits, quota_of, say
from fastxs.core.ring cimport (Page, ring_copy_in, ring_copy_out, ring_fail, ring_publish, ring_readable, ring_start,
                               ring_writable)
from fastxs.core.store cimport store_free, store_new
from fastxs.core.trace cimport trace_flush, trace_message, trace_object
from fastxs.core.tree cimport (Version, generation, kids_of, node_at, node_bytes, reclaim, snapshot_close,
                               snapshot_open, tree_create, tree_find, tree_find_at, tree_list_at, tree_path,
                               tree_remove, tree_set_perms, tree_set_value, tree_version, value_of)
from fastxs.core.watches cimport fire, fire_removed, fire_special, watch_add, watch_remove, watch_there, watches_drop
from fastxs.core.wire cimport Header, error_number, error_word, op_name


cdef int good(int error) except -1:
    if error:
        raise OSError(error, strerror(error).decode())
    return 0


# ---- rooms without state ------------------------------------------------------------------------------

def word_of(int error):
    return error_word(error).decode()


def number_of(bytes word):
    return error_number(word)


def operation(uint32_t type):
    return op_name(type).decode()


def is_legal(bytes path, bint specials=False):
    return path_is_legal(path, <uint32_t>len(path), specials)


def base_of(uint32_t domid):
    cdef char[32] out
    return out[:path_base(domid, out)]


def home_length(bytes path):
    return path_home_len(path, <uint32_t>len(path))


def components(bytes path):
    """Behind the first slash."""
    cdef uint32_t i = 1, end
    found = []
    while i < <uint32_t>len(path):
        end = component_end(path, <uint32_t>len(path), i)
        found.append(path[i:end])
        i = end + 1
    return found


def parse_perm(bytes text):
    cdef Ace ace
    good(perm_parse(text, &ace))
    return ace.domid, ace.rights


def format_perm(uint32_t domid, int bits):
    cdef Ace ace
    cdef char[16] out
    ace.domid = domid
    ace.rights = <uint8_t>bits
    return out[:perm_format(&ace, out)]


def quotas():
    return [(quota_of(i).name.decode(), quota_of(i).text.decode(), quota_of(i).value, quota_of(i).cap)
            for i in range(QUOTAS)]


def find_quota(bytes name):
    return quota_find(name, <uint32_t>len(name))


def keyed_hash(uint64_t secret, uint32_t above, bytes name):
    return fx_hash(secret, above, name, <uint32_t>len(name))


def layout():
    """Constants, and size and offsets of {hash, chain} of what stands in tables."""
    cdef Node node
    cdef Held held
    cdef Perms perms
    cdef WNode wnode
    cdef Watch watch
    cdef Event event
    cdef TNode tnode
    constants = {"abi": fingerprint(), "header": HEADER, "payload_max": PAYLOAD_MAX, "Header": sizeof(Header),
                 "Page": sizeof(Page), "Ace": sizeof(Ace), "LogEntry": sizeof(LogEntry)}
    items = {
        "Node": (sizeof(Node), <char *>&node.hash - <char *>&node, <char *>&node.chain - <char *>&node),
        "Held": (sizeof(Held), <char *>&held.hash - <char *>&held, <char *>&held.chain - <char *>&held),
        "Perms": (sizeof(Perms), <char *>&perms.hash - <char *>&perms, <char *>&perms.chain - <char *>&perms),
        "WNode": (sizeof(WNode), <char *>&wnode.hash - <char *>&wnode, <char *>&wnode.chain - <char *>&wnode),
        "Watch": (sizeof(Watch), <char *>&watch.hash - <char *>&watch, <char *>&watch.chain - <char *>&watch),
        "Event": (sizeof(Event), <char *>&event.hash - <char *>&event, <char *>&event.chain - <char *>&event),
        "TNode": (sizeof(TNode), <char *>&tnode.hash - <char *>&tnode, <char *>&tnode.chain - <char *>&tnode),
    }
    return constants, items


# ---- the ring -----------------------------------------------------------------------------------------

@final
cdef class Ring:
    cdef readonly bytearray page
    cdef Page *p

    def __cinit__(self):
        self.page = bytearray(4096)
        self.p = <Page *>PyByteArray_AS_STRING(self.page)

    def readable(self, uint32_t req_cons):
        return ring_readable(self.p, req_cons)

    def writable(self, uint32_t rsp_prod):
        return ring_writable(self.p, rsp_prod)

    def copy_in(self, uint32_t req_cons, uint32_t n):
        cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
        ring_copy_in(self.p, req_cons, PyBytes_AS_STRING(out), n)
        return out

    def copy_out(self, uint32_t rsp_prod, bytes data):
        ring_copy_out(self.p, rsp_prod, data, <uint32_t>len(data))

    def publish(self, uint32_t req_cons, uint32_t rsp_prod):
        ring_publish(self.p, req_cons, rsp_prod)

    def start(self, uint32_t features):
        ring_start(self.p, features)

    def fail(self, uint32_t error):
        ring_fail(self.p, error)


# ---- a heap with one table ----------------------------------------------------------------------------

cdef struct Thing:
    uint32_t hash
    handle chain
    uint64_t value


@final
cdef class Heap:
    cdef Store *s
    cdef Table *t

    def __cinit__(self):
        self.s = <Store *>calloc(1, sizeof(Store))
        if self.s == NULL:
            raise MemoryError
        self.t = &self.s.nodes
        good(table_init(self.t))

    def __dealloc__(self):
        if self.s != NULL:
            table_free(self.t)
            heap_free(self.s)
            free(self.s)

    def take(self, uint32_t size):
        return take(self.s, size)

    def give(self, handle h, uint32_t size):
        give(self.s, h, size)

    @staticmethod
    def rounded(uint32_t size):
        return rounded(size)

    def fill(self, handle h, uint32_t size, int byte):
        memset(at(self.s, h), byte, size)

    def bytes_at(self, handle h, uint32_t size):
        return at(self.s, h)[:size]

    @property
    def used_bytes(self):
        return self.s.heap.used_bytes

    @property
    def chunks(self):
        return self.s.heap.chunks

    @property
    def table(self):
        return self.t.buckets, self.t.level, self.t.count

    def add(self, uint32_t hash, uint64_t value):
        cdef handle h = take(self.s, sizeof(Thing))
        if h == 0:
            raise MemoryError
        (<Thing *>at(self.s, h)).hash = hash
        (<Thing *>at(self.s, h)).value = value
        table_add(self.s, self.t, h)
        return h

    def find(self, uint32_t hash, uint64_t value):
        cdef handle h = bucket(self.t, hash)[0]
        while h and (<Thing *>at(self.s, h)).value != value:
            h = (<Item *>at(self.s, h)).chain
        return h

    def drop(self, handle h):
        table_drop(self.s, self.t, h)
        give(self.s, h, sizeof(Thing))

    def walk(self):
        cdef uint32_t i
        cdef handle h
        found = []
        for i in range(self.t.buckets):
            h = slot(self.t, i)[0]
            while h:
                found.append((<Thing *>at(self.s, h)).value)
                h = (<Item *>at(self.s, h)).chain
        return found

    def longest_chain(self):
        cdef uint32_t i, n, longest = 0
        cdef handle h
        for i in range(self.t.buckets):
            n = 0
            h = slot(self.t, i)[0]
            while h:
                n += 1
                h = (<Item *>at(self.s, h)).chain
            longest = max(n, longest)
        return longest


@final
cdef class Buffer:
    cdef Buf b

    def __dealloc__(self):
        buf_free(&self.b)

    def add(self, bytes data):
        good(buf_add(&self.b, PyBytes_AS_STRING(data), <uint32_t>len(data)))

    @property
    def content(self):
        return self.b.data[:self.b.len] if self.b.len else b""

    @property
    def cap(self):
        return self.b.cap


# ---- a store ------------------------------------------------------------------------------------------

@final
cdef class Rooms:
    def __cinit__(self, uint64_t secret=0x1234567890ABCDEF):
        self.s = store_new(secret, 0, 0, NULL)
        if self.s == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef Store *s = self.s
        cdef uint32_t i
        if s == NULL:
            return
        s.dirty = NULL
        for i in range(s.conns):
            if s.conn[i] != NULL:
                conn_close(s, s.conn[i])
        free(s.conn)
        free(s.conn_free)
        store_free(s)

    def check(self):
        cdef list faults = []
        check_store(self.s, faults)
        return faults

    @property
    def counts(self):
        cdef Store *s = self.s
        return {"nodes": s.nodes.count, "ghosts": s.ghosts.count, "watched": s.wnodes.count,
                "watches": s.watches.count, "events": s.events.count, "perms": s.perms.count,
                "heap": s.heap.used_bytes}

    @property
    def counters(self):
        return {"replies": self.s.counter[C_REPLIES], "events": self.s.counter[C_EVENTS],
                "dropped": self.s.counter[C_EVENTS_DROPPED], "collapsed": self.s.counter[C_EVENTS_COLLAPSED]}

    # -- domains and quotas

    cdef Domain *known(self, uint32_t domid) except NULL:
        cdef Domain *d = domain_know(self.s, domid)
        if d == NULL:
            raise LookupError("no domain %d" % domid)
        return d

    def domain(self, uint32_t domid, int target=-1):
        self.s.pretend[domid >> 3] |= 1 << (domid & 7)
        self.known(domid).target = target

    def limit(self, uint32_t domid, uint32_t item, uint32_t value):
        self.known(domid).limit[item] = value

    def allows(self, uint32_t domid, uint32_t item, int64_t more):
        return quota_allows(self.s, self.known(domid), item, more)

    def fits(self, uint32_t domid, uint32_t item, uint32_t value):
        return quota_fits(self.s, self.known(domid), item, value)

    def account(self, uint32_t domid, uint32_t item, int64_t change):
        account(self.s, self.known(domid), item, change)

    def now(self, uint32_t domid, uint32_t item):
        cdef Domain *d = self.known(domid)
        return d.now[item], d.high[item]

    def highest(self, uint32_t item):
        return self.s.high[item]

    def clock(self, uint64_t now_ns):
        self.s.now_ns = now_ns

    def say(self, uint32_t kind, uint32_t domid, bytes what, int error=0):
        say(self.s, kind, self.known(domid), 0, what, <uint32_t>len(what), error)

    def said(self):
        cdef uint32_t i
        lines = []
        for i in range(self.s.says):
            lines.append((self.s.say[i].kind, self.s.say[i].domid, self.s.say[i].what[:self.s.say[i].what_len],
                          self.s.say[i].error, self.s.say[i].count))
        self.s.says = 0
        return lines

    # -- permissions

    def intern(self, entries):
        cdef uint32_t count = <uint32_t>len(entries), i
        cdef Ace *list = <Ace *>calloc(count, sizeof(Ace))
        cdef handle h
        if list == NULL:
            raise MemoryError
        for i in range(count):
            list[i].domid = <uint32_t>(entries[i][0] & 0xFFFFFFFF)
            list[i].rights = entries[i][1]
            list[i].flags = ACE_STALE if len(entries[i]) > 2 and entries[i][2] else 0
        h = perms_intern(self.s, list, count)
        free(list)
        if h == 0:
            raise MemoryError
        return h

    def hold(self, handle list):
        perms_hold(self.s, list)

    def drop(self, handle list):
        perms_drop(self.s, list)

    def refs(self, handle list):
        return (<Perms *>at(self.s, list)).refs

    def entries(self, handle list):
        cdef Ace *a = aces(self.s, list)
        return [(a[i].domid, a[i].rights, bool(a[i].flags & ACE_STALE))
                for i in range((<Perms *>at(self.s, list)).count)]

    def naming(self, uint32_t domid):
        """The chain of entries that name a domain, as (list, index)."""
        cdef Domain *d = self.known(domid)
        cdef handle h = d.aces
        cdef uint32_t place = d.aces_place, following
        found = []
        while h:
            found.append((h, place))
            following = aces(self.s, h)[place].next_place
            h = aces(self.s, h)[place].next
            place = following
        return found

    def forget(self, uint32_t domid, uint32_t heir):
        perms_forget(self.s, self.known(domid), heir)

    def rights(self, handle list, uint32_t domid, int target=-1):
        return rights(self.s, list, domid, target)

    def peer_rights(self, uint32_t peer, handle list):
        return conn_rights(self.s, self.s.conn[peer], list)

    # -- the tree

    @property
    def root(self):
        return self.s.root

    @property
    def stamp(self):
        return self.s.stamp

    def find(self, bytes path):
        cdef handle deepest = 0
        cdef uint32_t rest = 0
        cdef handle h = tree_find(self.s, path, <uint32_t>len(path), &deepest, &rest)
        if h:
            return h, 0, 0
        return 0, deepest, rest

    def create(self, handle parent, bytes name, handle perms, uint32_t room=0):
        cdef handle h = tree_create(self.s, parent, name, <uint32_t>len(name), perms, room)
        if h == 0:
            raise MemoryError
        return h

    def set_value(self, handle node, bytes value):
        good(tree_set_value(self.s, node, PyBytes_AS_STRING(value), <uint32_t>len(value)))

    def set_perms(self, handle node, handle perms):
        good(tree_set_perms(self.s, node, perms))

    def remove(self, handle node):
        tree_remove(self.s, node)

    def reclaim(self, uint32_t steps):
        return reclaim(self.s, steps)

    def value(self, handle node):
        return value_of(self.s, node_at(self.s, node))[:node_at(self.s, node).value_len]

    def perms_of(self, handle node):
        return node_at(self.s, node).perms

    def stamps(self, handle node):
        return node_at(self.s, node).birth, node_at(self.s, node).gen, generation(self.s, node)

    def node_bytes(self, handle node):
        return node_bytes(self.s, node)

    def listing_bytes(self, handle node):
        return kids_of(self.s, node).bytes if kids_of(self.s, node) != NULL else 0

    cdef list listed(self, handle node, uint64_t stamp):
        cdef Buf out
        memset(&out, 0, sizeof(Buf))
        try:
            good(tree_list_at(self.s, node, stamp, &out))
            return out.data[:out.len - 1].split(b"\0") if out.len else []
        finally:
            buf_free(&out)

    def children(self, handle node):
        return self.listed(node, <uint64_t>-1)

    def path(self, handle node):
        cdef Buf out
        memset(&out, 0, sizeof(Buf))
        try:
            good(tree_path(self.s, node, &out))
            return out.data[:out.len]
        finally:
            buf_free(&out)

    def owned(self, uint32_t domid):
        cdef handle h = self.known(domid).nodes
        found = []
        while h:
            found.append(h)
            h = node_at(self.s, h).mine_next
        return found

    # -- peers, watches, outbox

    def peer(self, uint32_t domid):
        cdef Domain *d = self.known(domid)
        cdef Conn *conn = conn_new(self.s, KIND_MEMORY, -1, domid)
        if conn == NULL:
            raise MemoryError
        if conn.domain != NULL:
            d.conn = conn
        return conn.index

    def watch(self, uint32_t peer, bytes path, bytes token, int depth=-1, bint relative=False):
        cdef handle made = 0
        good(watch_add(self.s, self.s.conn[peer], path, <uint32_t>len(path), token, <uint32_t>len(token), depth,
                       relative, &made))
        return made

    def is_watched(self, uint32_t peer, bytes path, bytes token):
        return watch_there(self.s, self.s.conn[peer], path, <uint32_t>len(path), token, <uint32_t>len(token))

    def unwatch(self, uint32_t peer, bytes path, bytes token):
        good(watch_remove(self.s, self.s.conn[peer], path, <uint32_t>len(path), token, <uint32_t>len(token)))

    def unwatch_all(self, uint32_t peer):
        watches_drop(self.s, self.s.conn[peer])

    def fire(self, bytes path, bint exact=False, handle perms=0, handle old_perms=0, handle parent_perms=0):
        fire(self.s, path, <uint32_t>len(path), exact, perms, old_perms, parent_perms)

    def fire_removed(self, bytes path):
        cdef handle deepest = 0
        cdef uint32_t rest = 0
        fire_removed(self.s, path, <uint32_t>len(path),
                     tree_find(self.s, path, <uint32_t>len(path), &deepest, &rest))

    def fire_special(self, bytes name, int32_t domid=-1):
        fire_special(self.s, name, <uint32_t>len(name), domid)

    def message(self, uint32_t peer, uint32_t type, uint32_t req_id, uint32_t tx_id, bytes data):
        good(out_message(self.s, self.s.conn[peer], type, req_id, tx_id, PyBytes_AS_STRING(data),
                         <uint32_t>len(data)))

    def event(self, uint32_t peer, handle watch, bytes path, bint special=False):
        out_event(self.s, self.s.conn[peer], watch, path, <uint32_t>len(path), special)

    def outbox(self, uint32_t peer):
        cdef Conn *conn = self.s.conn[peer]
        return waiting(conn), conn.pending, bool(out_is_full(conn))

    def take(self, uint32_t peer):
        """The bytes that wait go; then events that waited in structure become bytes."""
        cdef Conn *conn = self.s.conn[peer]
        cdef bytes out = PyBytes_FromStringAndSize(conn.out.data + conn.out.pos, waiting(conn))
        conn.out.pos = conn.out.len = 0
        out_refill(self.s, conn)
        return out

    # -- trace

    def trace_switches(self, uint32_t on):
        self.s.trace_on = on

    def trace_message(self, uint32_t peer, bytes way, uint32_t type, bytes data):
        trace_message(self.s, way, self.s.conn[peer], type, data, <uint32_t>len(data))

    def trace_object(self, bytes what, bytes kind):
        trace_object(self.s, what, kind, <void *>self.s)

    def trace_flush(self, int fd):
        self.s.trace_fd = fd
        trace_flush(self.s)
        self.s.trace_fd = -1


@final
cdef class Snapshot:
    cdef Rooms rooms            # keeps the Store alive
    cdef View v

    def __cinit__(self, Rooms rooms, uint64_t held_limit=0):
        self.rooms = rooms
        self.v.held_limit = held_limit
        snapshot_open(rooms.s, &self.v)

    def __dealloc__(self):
        snapshot_close(self.rooms.s, &self.v)

    def close(self):
        snapshot_close(self.rooms.s, &self.v)

    @property
    def lost(self):
        return bool(self.v.flags & VIEW_LOST)

    @property
    def held_bytes(self):
        return self.v.held_bytes

    @property
    def held(self):
        cdef handle h = self.v.held
        cdef uint32_t n = 0
        while h:
            n += 1
            h = (<Held *>at(self.rooms.s, h)).next
        return n

    def find(self, bytes path):
        cdef handle deepest = 0
        return tree_find_at(self.rooms.s, path, <uint32_t>len(path), self.v.stamp, &deepest)

    def version(self, handle node):
        cdef Version seen
        tree_version(self.rooms.s, node, self.v.stamp, &seen)
        return seen.value[:seen.value_len] if seen.value_len else b"", seen.perms

    def children(self, handle node):
        return self.rooms.listed(node, self.v.stamp)
