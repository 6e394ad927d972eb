"""Recovery.

Owns reading an image's records into a new store, and putting each peer back where its slot says it was.
Refuses to know where records lie, and touches no guest's page: what it finds out there is published by
the first turn, which also commits the recovery itself, so that a crash in it is as if it had not begun.

Nothing is trusted more than it must be: every value carries a checksum, every reference is looked up.
A node whose parent is missing had been removed with it, and only its record is left.
"""
from libc.errno cimport EBADMSG, ENOMEM, ENOSPC
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, mmap, munmap

from fastxs.core.connection cimport conn_restore, mark_ready, ring_restore
from fastxs.core.domains cimport domain_aim, domain_meet, domain_restore
from fastxs.core.heap cimport at, buf_add, buf_free
from fastxs.core.journal cimport (J_CONN, J_DOMAIN, J_META, J_NODE, J_PERMS, J_TABLES, J_TX, J_WATCH, NODE_HEAD, Check,
                                  ConnRecord, DomainRecord, IMAGE_VERSION, MetaRecord, NodeRecord, PermsRecord,
                                  WatchRecord, journal_drop, journal_meta, journal_sum)
from fastxs.core.model cimport (CONN_DEAD, CONN_GONE, CONN_IGNORED, CONN_MORE, DOMIDS, KIND_RING, KIND_SOCKET,
                                SLOT_NONE, SLOT_PENDING, SLOT_UNIT, WATCH_RELATIVE, Ace, Buf, Conn, Domain, DomState,
                                Meta, Slot, Store, Watch, handle, layout)
from fastxs.core.outbox cimport mark_dirty, out_look_again
from fastxs.core.perms cimport perms_drop, perms_restore
from fastxs.core.slots cimport out_room, slot_newest
from fastxs.core.transactions cimport tx_restore
from fastxs.core.tree cimport Saved, tree_begin, tree_restore
from fastxs.core.trial cimport AT_RECOVERED, at_point
from fastxs.core.watches cimport watch_add

LAYOUT = layout()

cdef enum:
    STAMPS = 40                 # bits: so far above all that was there that no stamp is ever given out twice

cdef struct Place:              # where an old number is now
    uint64_t old
    handle now
    uint32_t pad

cdef struct Recovery:
    Store *s
    Adopted *adopted            # not owned
    uint32_t adopteds
    const char *slots           # the old slot file
    uint64_t slots_size
    uint64_t turn
    Buf perms                   # owned: Places, in order
    Buf nodes                   # owned: Places, in order
    Place last_perms            # what was found last
    Place last_node
    bint begun                  # the tree is there to be filled

ctypedef int (*reader)(Recovery *r, uint64_t id, const char *value, uint32_t len) noexcept nogil


# ---- old numbers -----------------------------------------------------------------------------------------

cdef int place(Buf *places, uint64_t old, handle now) noexcept nogil:
    cdef Place p
    p.old = old
    p.now = now
    p.pad = 0
    return ENOMEM if buf_add(places, &p, sizeof(p)) else 0


cdef handle find(Buf *places, uint64_t old, Place *last) noexcept nogil:
    """Siblings stand together, so the parent is mostly the one that was found last."""
    cdef Place *all = <Place *>places.data
    cdef uint32_t low = 0, high = <uint32_t>(places.len // sizeof(Place)), middle
    if last.old == old:
        return last.now
    while low < high:
        middle = (low + high) // 2
        if all[middle].old < old:
            low = middle + 1
        else:
            high = middle
    if low == places.len // sizeof(Place) or all[low].old != old:
        return 0
    last[0] = all[low]
    return last.now


# ---- records ------------------------------------------------------------------------------------------------

cdef int read_meta(Recovery *r, uint64_t id, const char *value, uint32_t len) noexcept nogil:
    cdef MetaRecord m
    if id != 0:                                 # the image's own
        return 0
    if len != sizeof(m):
        return EBADMSG
    memcpy(&m, value, sizeof(m))
    if m.version != IMAGE_VERSION:
        return EBADMSG
    r.s.recoveries = m.recoveries
    memcpy(r.s.limit, m.limit, sizeof(m.limit))
    return 0


cdef int read_domain(Recovery *r, uint64_t id, const char *value, uint32_t len) noexcept nogil:
    cdef DomainRecord d
    if id >= DOMIDS or len != sizeof(d):
        return EBADMSG
    memcpy(&d, value, sizeof(d))
    if d.target >= DOMIDS:
        return EBADMSG
    return ENOMEM if domain_restore(r.s, <uint32_t>id, &d) == NULL else 0


cdef int read_perms(Recovery *r, uint64_t id, const char *value, uint32_t len) noexcept nogil:
    cdef uint32_t count = <uint32_t>((len - sizeof(Check)) // sizeof(PermsRecord)), i
    cdef PermsRecord entry
    cdef Ace *list
    cdef handle h = 0
    if count == 0 or len != sizeof(Check) + count * sizeof(PermsRecord) or id > <uint64_t>0xFFFFFFFF:
        return EBADMSG
    list = <Ace *>calloc(count, sizeof(Ace))
    if list == NULL:
        return ENOMEM
    for i in range(count):
        memcpy(&entry, value + sizeof(Check) + i * sizeof(entry), sizeof(entry))
        list[i].domid = entry.domid
        list[i].rights = entry.rights & 3
        list[i].flags = entry.flags
    h = perms_restore(r.s, <uint32_t>id, list, count)
    free(list)
    return ENOMEM if h == 0 else place(&r.perms, id, h)


cdef bint lies_in(Recovery *r, uint32_t extent, uint32_t n) noexcept nogil:
    return <uint64_t>extent * SLOT_UNIT + n <= r.slots_size


cdef int take_slot(Recovery *r, Conn *conn) noexcept nogil:
    """What was between the peer and us when we ended."""
    cdef Store *s = r.s
    cdef const Slot *slot = <const Slot *>(r.slots + <uint64_t>conn.index * sizeof(Slot))
    cdef const Meta *m
    cdef uint32_t n
    if r.slots == NULL or (<uint64_t>conn.index + 1) * sizeof(Slot) > r.slots_size or slot.serial != conn.serial:
        return 0
    m = slot_newest(slot, conn.serial, r.turn)
    if m == NULL:
        conn.restored = SLOT_NONE
    else:
        n = m.out_len - m.out_pos
        if m.out_pos > m.out_len or not lies_in(r, m.out, m.out_len) or not lies_in(r, m.inp, m.inp_len):
            return EBADMSG
        conn.restored = m.flags
        conn.req_cons = m.req_cons
        conn.rsp_prod = m.rsp_prod
        conn.next_tx_id = m.next_tx_id
        if n:
            if out_room(s, conn, n):
                return ENOSPC
            memcpy(conn.out.data, r.slots + <uint64_t>m.out * SLOT_UNIT + m.out_pos, n)
            conn.out.len = n
        if buf_add(&conn.inp, r.slots + <uint64_t>m.inp * SLOT_UNIT, m.inp_len):
            return ENOMEM
    if conn.kind == KIND_SOCKET and slot.rx_len and slot.rx_seq == (m.seq if m != NULL else 0):
        if not lies_in(r, slot.rx, slot.rx_len):
            return EBADMSG
        if buf_add(&conn.inp, r.slots + <uint64_t>slot.rx * SLOT_UNIT, slot.rx_len):
            return ENOMEM
    if slot.busy:                               # nobody knows how many bytes went: it cannot go on
        conn.flags |= CONN_DEAD | CONN_GONE
    return 0


cdef int read_conn(Recovery *r, uint64_t id, const char *value, uint32_t len) noexcept nogil:
    cdef ConnRecord c
    cdef Conn *conn
    cdef uint32_t i
    if len != sizeof(c) or id >= 1 << 20:
        return EBADMSG
    memcpy(&c, value, sizeof(c))
    if c.domid >= DOMIDS or (c.kind != KIND_RING and c.kind != KIND_SOCKET):
        return EBADMSG
    if c.kind == KIND_RING and r.s.domain[c.domid] == NULL:
        # The domain went with the last turn, its connection would have gone with the next one.
        r.s.restoring = False
        journal_drop(r.s, J_CONN, id)
        r.s.restoring = True
        return 0
    conn = conn_restore(r.s, <uint32_t>id, &c)
    if conn == NULL:
        return ENOSPC
    for i in range(r.adopteds):
        if conn.kind == KIND_SOCKET and r.adopted[i].cookie == c.cookie and r.adopted[i].fd >= 0:
            conn.fd = r.adopted[i].fd
            r.adopted[i].fd = -1
            break
    if conn.kind == KIND_SOCKET and conn.fd < 0:
        conn.flags |= CONN_DEAD | CONN_GONE
    return take_slot(r, conn)


cdef Conn *conn_of(Recovery *r, uint64_t index) noexcept nogil:
    return r.s.conn[index] if index < r.s.conns else NULL


cdef int read_tx(Recovery *r, uint64_t id, const char *value, uint32_t len) noexcept nogil:
    cdef Conn *conn = conn_of(r, id >> 32)
    if conn == NULL:
        return EBADMSG
    return ENOMEM if tx_restore(r.s, conn, <uint32_t>id) == NULL else 0


cdef int read_watch(Recovery *r, uint64_t id, const char *value, uint32_t len) noexcept nogil:
    cdef WatchRecord w
    cdef Conn *conn
    cdef handle h = 0
    if len < sizeof(w):
        return EBADMSG
    memcpy(&w, value, sizeof(w))
    conn = conn_of(r, w.conn)
    if conn == NULL or len != sizeof(w) + w.path_len + w.token_len or w.path_len == 0:
        return EBADMSG
    r.s.watch_seq = id
    return watch_add(r.s, conn, value + sizeof(w), w.path_len, value + sizeof(w) + w.path_len, w.token_len, w.depth,
                     w.flags & WATCH_RELATIVE, &h)


cdef int read_node(Recovery *r, uint64_t id, const char *value, uint32_t len) noexcept nogil:
    cdef NodeRecord n
    cdef Saved saved
    cdef handle h
    if len < NODE_HEAD:
        return EBADMSG
    memcpy(&n, value, NODE_HEAD)
    if len != <uint32_t>NODE_HEAD + n.name_len + n.value_len:
        return EBADMSG
    if not r.begun:
        r.begun = True
        r.s.restoring = False                   # the list of the hidden node above the specials may be new
        if tree_begin(r.s):
            return ENOMEM
        r.s.restoring = True
    saved.parent = 0
    if n.parent == 1:
        saved.parent = r.s.specials
    elif n.parent:
        saved.parent = find(&r.nodes, n.parent, &r.last_node)
        if saved.parent == 0:
            return ENOMEM if buf_add(&r.s.orphans, &id, sizeof(id)) else 0
    elif r.s.root:
        return EBADMSG
    saved.perms = find(&r.perms, n.perms, &r.last_perms)
    if saved.perms == 0:
        return EBADMSG
    saved.birth = id
    saved.name = value + NODE_HEAD
    saved.name_len = n.name_len
    saved.value = saved.name + n.name_len
    saved.value_len = n.value_len
    h = tree_restore(r.s, &saved)
    return ENOMEM if h == 0 else place(&r.nodes, id, h)


cdef reader[J_TABLES] READERS
READERS[<int>J_META] = read_meta
READERS[<int>J_DOMAIN] = read_domain
READERS[<int>J_PERMS] = read_perms
READERS[<int>J_CONN] = read_conn
READERS[<int>J_TX] = read_tx
READERS[<int>J_WATCH] = read_watch
READERS[<int>J_NODE] = read_node


cdef int got(void *into, uint64_t key, const char *value, uint32_t len) noexcept nogil:
    cdef Recovery *r = <Recovery *>into
    cdef uint32_t table = <uint32_t>(key >> 56), sum = 0
    if table == 0 or table >= J_TABLES or len < sizeof(Check):
        return EBADMSG
    memcpy(&sum, value, sizeof(sum))
    if sum != journal_sum(key, value, len):
        return EBADMSG
    return READERS[table](r, key & (<uint64_t>1 << 56) - 1, value, len)


# ---- all of it ---------------------------------------------------------------------------------------------

cdef void meet_domains(Store *s) noexcept nogil:
    """Who died or whose domid went to another while nobody looked, is gone; the rings of the others go on."""
    cdef DomState state
    cdef Domain *d
    cdef Conn *conn
    cdef uint64_t serial
    cdef uint32_t i
    for i in range(DOMIDS):
        d = s.domain[i]
        if d != NULL and d.target >= 0:         # so far only a number
            if s.domain[d.target] != NULL:
                link_target(s, d)
            else:
                d.target = -1
    for i in range(s.conns):
        conn = s.conn[i]
        if conn == NULL or conn.kind != KIND_RING:
            continue
        d = conn.domain
        serial = d.serial
        conn.domain = NULL                      # it gets no events of its own death
        if conn.domid != s.store_domid:
            d = domain_meet(s, conn.domid, &state)
        if d == NULL or d.serial != serial:
            conn.flags |= CONN_DEAD
            continue
        conn.domain = d
        if ring_restore(s, conn) and conn.page == NULL:
            conn.flags |= CONN_IGNORED          # it is dying: its death will be told
        d.conn = conn
    for i in range(DOMIDS):
        if s.domain[i] != NULL and s.domain[i].conn == NULL and i != s.priv_domid and i != s.store_domid:
            domain_meet(s, i, &state)


cdef void link_target(Store *s, Domain *d) noexcept nogil:
    cdef Domain *target = s.domain[d.target]
    d.target = -1
    domain_aim(s, d, target)


cdef void wake_peers(Store *s) noexcept nogil:
    """All slots are stored anew by the first turn, everybody is read and written once."""
    cdef Conn *conn
    cdef uint32_t i
    cdef handle watch
    for i in range(s.conns):
        conn = s.conn[i]
        if conn == NULL:
            continue
        if conn.restored & SLOT_PENDING:        # which events waited is not known any more: look again
            watch = conn.watch_first
            while watch:
                out_look_again(s, conn, watch)
                watch = (<Watch *>at(s, watch)).conn_next
        conn.flags |= CONN_MORE
        mark_ready(s, conn)
        mark_dirty(s, conn)


cdef int recover_store(Store *s, Adopted *adopted, uint32_t count) noexcept nogil:
    cdef Recovery r
    cdef void *p = NULL
    cdef uint32_t i
    cdef int error
    memset(&r, 0, sizeof(r))
    r.s = s
    r.adopted = adopted
    r.adopteds = count
    r.turn = s.image.turn
    if s.image.old_slots >= 0 and s.image.old_slots_size:
        p = mmap(NULL, s.image.old_slots_size, PROT_READ, MAP_SHARED, s.image.old_slots, 0)
        if p == MAP_FAILED:
            return ENOMEM
        r.slots = <const char *>p
        r.slots_size = s.image.old_slots_size
    s.restoring = True
    s.stamp = 0
    if s.image.last_key >> 56 == J_NODE:
        s.stamp = s.image.last_key & (<uint64_t>1 << 56) - 1
    s.stamp += <uint64_t>1 << STAMPS
    error = s.image.each(s.image.self, &r, got)
    s.restoring = False
    if not error and s.root == 0:
        error = EBADMSG
    if p != NULL:
        munmap(p, s.image.old_slots_size)
    for i in range(<uint32_t>(r.perms.len // sizeof(Place))):
        perms_drop(s, (<Place *>r.perms.data)[i].now)   # those that nobody uses are gone now
    buf_free(&r.perms)
    buf_free(&r.nodes)
    if error:
        return error
    s.recoveries += 1
    journal_meta(s)
    meet_domains(s)
    wake_peers(s)
    at_point(s, AT_RECOVERED)
    return 0


cdef bint recover_orphans(Store *s, uint32_t steps) noexcept nogil:
    while s.orphans.len and steps:
        s.orphans.len -= <uint32_t>sizeof(uint64_t)
        journal_drop(s, J_NODE, (<uint64_t *>(s.orphans.data + s.orphans.len))[0])
        steps -= 1
    if s.orphans.len == 0:
        buf_free(&s.orphans)
    return s.orphans.len != 0
