"""Permission lists.

Owns the shared lists (each different list exists once, counted by the nodes that use it) and, per
domain, the chain of entries that name it, so that a death costs O(its entries) and a node 4 bytes.
Refuses to know of paths and nodes.

    perms[0].domid owns the node; perms[0].rights are everybody's who is not named further on;
    then the first entry that names the domid, its target or DOMID_ANY decides (SPEC 3.1).
"""
from libc.errno cimport EINVAL
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport strtol
from libc.string cimport memcpy, memset

from fastxs.core.heap cimport at, bucket, fx_hash, give, table_add, table_drop, take
from fastxs.core.journal cimport J_PERMS, Check, PermsRecord, journal_drop, journal_put
from fastxs.core.model cimport (ACE_LINKED, ACE_STALE, DOMID_ANY, DOMIDS, RIGHT_OWNER, RIGHT_READ, RIGHT_WRITE, Ace,
                                Conn, Domain, Perms, Store, handle, layout)

LAYOUT = layout()


cdef inline uint32_t perms_size(uint32_t count) noexcept nogil:
    return <uint32_t>(sizeof(Perms) + count * sizeof(Ace))


cdef uint32_t list_hash(Store *s, const Ace *entries, uint32_t count) noexcept nogil:
    cdef uint32_t h = count, i
    cdef uint32_t[2] key
    for i in range(count):
        key[0] = entries[i].domid
        key[1] = <uint32_t>entries[i].rights << 8 | (entries[i].flags & ACE_STALE)
        h = fx_hash(s.secret, h, <char *>key, 8)
    return h


cdef bint same_list(const Ace *a, const Ace *b, uint32_t count) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        if a[i].domid != b[i].domid or a[i].rights != b[i].rights or (a[i].flags ^ b[i].flags) & ACE_STALE:
            return False
    return True


# ---- domid -> entries that name it ------------------------------------------------------------------

cdef void link_ace(Store *s, handle list, uint32_t place) noexcept nogil:
    """Stale entries, DOMID_ANY and ids that no domain can have stand in no chain."""
    cdef Ace *ace = aces(s, list) + place
    cdef Domain *d = NULL if ace.flags & ACE_STALE or ace.domid >= DOMIDS else s.domain[ace.domid]
    ace.prev = ace.next = 0
    ace.flags &= ACE_STALE
    if d == NULL:
        return
    ace.flags |= ACE_LINKED
    ace.next = d.aces
    ace.next_place = d.aces_place
    if d.aces:
        aces(s, d.aces)[d.aces_place].prev = list
        aces(s, d.aces)[d.aces_place].prev_place = place
    d.aces = list
    d.aces_place = place


cdef void unlink_ace(Store *s, handle list, uint32_t place) noexcept nogil:
    cdef Ace *ace = aces(s, list) + place
    cdef Domain *d
    if not ace.flags & ACE_LINKED:
        return
    d = s.domain[ace.domid]
    if ace.prev:
        aces(s, ace.prev)[ace.prev_place].next = ace.next
        aces(s, ace.prev)[ace.prev_place].next_place = ace.next_place
    else:
        d.aces = ace.next
        d.aces_place = ace.next_place
    if ace.next:
        aces(s, ace.next)[ace.next_place].prev = ace.prev
        aces(s, ace.next)[ace.next_place].prev_place = ace.prev_place


# ---- lists ------------------------------------------------------------------------------------------

cdef void record(Store *s, handle list) noexcept nogil:
    cdef Perms *p = <Perms *>at(s, list)
    cdef PermsRecord entry
    cdef uint32_t i
    cdef char *out = journal_put(s, J_PERMS, p.id, <uint32_t>(sizeof(Check) + p.count * sizeof(PermsRecord)))
    if out == NULL:
        return
    memset(&entry, 0, sizeof(entry))
    for i in range(p.count):
        entry.domid = aces(s, list)[i].domid
        entry.rights = aces(s, list)[i].rights
        entry.flags = aces(s, list)[i].flags & ACE_STALE
        memcpy(out + sizeof(Check) + i * sizeof(entry), &entry, sizeof(entry))


cdef handle perms_intern(Store *s, const Ace *entries, uint32_t count) noexcept nogil:
    cdef uint32_t hash = list_hash(s, entries, count)
    cdef handle h = bucket(&s.perms, hash)[0]
    cdef Perms *p
    while h:
        p = <Perms *>at(s, h)
        if p.hash == hash and p.count == count and same_list(aces(s, h), entries, count):
            p.refs += 1
            return h
        h = p.chain
    s.next_perms_id += 1
    h = new_list(s, s.next_perms_id, entries, count)
    if h:
        record(s, h)
    return h


cdef handle perms_restore(Store *s, uint32_t id, const Ace *entries, uint32_t count) noexcept nogil:
    if id > s.next_perms_id:
        s.next_perms_id = id
    return new_list(s, id, entries, count)


cdef handle new_list(Store *s, uint32_t id, const Ace *entries, uint32_t count) noexcept nogil:
    cdef handle h
    cdef Perms *p
    cdef uint32_t i
    h = take(s, perms_size(count))
    if h == 0:
        return 0
    p = <Perms *>at(s, h)
    p.hash = list_hash(s, entries, count)
    p.refs = 1
    p.loose = False
    p.count = p.room = <uint16_t>count
    p.id = id
    memcpy(aces(s, h), entries, count * sizeof(Ace))
    for i in range(count):
        aces(s, h)[i].place = <uint16_t>i
        link_ace(s, h, i)
    table_add(s, &s.perms, h)
    return h


cdef void perms_hold(Store *s, handle list) noexcept nogil:
    (<Perms *>at(s, list)).refs += 1


cdef void perms_drop(Store *s, handle list) noexcept nogil:
    cdef Perms *p = <Perms *>at(s, list)
    cdef uint32_t i
    p.refs -= 1
    if p.refs:
        return
    for i in range(p.count):
        unlink_ace(s, list, i)
    if p.loose:
        s.loose_perms -= 1
    else:
        table_drop(s, &s.perms, list)
    journal_drop(s, J_PERMS, p.id)
    give(s, list, perms_size(p.room))


cdef uint32_t rights(Store *s, handle list, uint32_t domid, int target) noexcept nogil:
    cdef Ace *a = aces(s, list)
    cdef uint32_t i, count = (<Perms *>at(s, list)).count
    if a[0].domid == domid or (target >= 0 and a[0].domid == <uint32_t>target):
        return RIGHT_READ | RIGHT_WRITE | RIGHT_OWNER
    for i in range(1, count):
        if a[i].flags & ACE_STALE:
            continue
        if a[i].domid == domid or (target >= 0 and a[i].domid == <uint32_t>target) or a[i].domid == DOMID_ANY:
            return a[i].rights
    return a[0].rights


cdef uint32_t conn_rights(Store *s, Conn *conn, handle list) noexcept nogil:
    if conn.privileged:
        return RIGHT_READ | RIGHT_WRITE | RIGHT_OWNER
    return rights(s, list, conn.domid, conn.domain.target if conn.domain != NULL else -1)


# ---- text --------------------------------------------------------------------------------------------

cdef const char *LETTERS = b"nrwb"              # by RIGHT_READ | RIGHT_WRITE


cdef uint32_t perm_format(const Ace *entry, char *out) noexcept nogil:
    return <uint32_t>snprintf(out, 16, b"%c%d", LETTERS[entry.rights & 3], <int>entry.domid)


cdef int perm_parse(const char *text, Ace *entry) noexcept nogil:
    cdef char *end = NULL
    cdef long id
    cdef uint8_t i = 0
    while i < 4 and LETTERS[i] != text[0]:
        i += 1
    if text[0] == 0 or i == 4:
        return EINVAL
    id = strtol(text + 1, &end, 0)
    if end == text + 1 or end[0] != 0:
        return EINVAL
    entry.domid = <uint32_t>id
    entry.rights = i
    entry.flags = 0
    return 0


# ---- the dead ------------------------------------------------------------------------------------------

cdef void perms_forget(Store *s, Domain *domain, uint32_t heir) noexcept nogil:
    """Entries leave the shared lists in place, so no node is visited.

    What is left of them is much alike, from one dead domain to the next, so they leave the table: in it they
    would make one long chain.  `perms_intern` does not find them any more, and their users keep them.
    """
    cdef handle list
    cdef uint32_t place, i
    cdef Perms *p
    cdef Ace *a
    while domain.aces:
        list = domain.aces
        place = domain.aces_place
        p = <Perms *>at(s, list)
        a = aces(s, list)
        if not p.loose:
            table_drop(s, &s.perms, list)
            p.loose = True
            s.loose_perms += 1
        for i in range(p.count):
            unlink_ace(s, list, i)
        if place == 0:
            a[0].domid = heir
        else:
            for i in range(place, p.count - 1):
                a[i] = a[i + 1]
                a[i].place = <uint16_t>i
            p.count -= 1
        for i in range(p.count):
            link_ace(s, list, i)
        record(s, list)
