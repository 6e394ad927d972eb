"""Domain states from libxenctrl, where there is no libxenmanage: before Xen 4.21.

Owns reading xc_domaininfo_t, whose size differs from version to version, and finding out what changed
by comparing two lists of all domains: such a Xen tells that some domain changed, not which.  A list
costs one call for a thousand domains.  Refuses to know what a change means.

Of a record only its beginning is read, which is the same in Xen 4.3 to 4.20 (the public header's
versions 0x9, 0xb, 0x10 and 0x15 were compared; 4.17 was run).  Its size is found by asking twice.
"""
from libc.errno cimport ENOMEM, ESRCH
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memmove, memset

from fastxs.core.model cimport DOM_DEAD, DOM_EXISTS, DOM_SHUTDOWN, DOM_WEAK_ID, DomState

cdef enum:
    FLAG_DYING = 1              # XEN_DOMINF_dying; set once the domain is torn down, not before
    FLAG_SHUTDOWN = 4
    BATCH = 1024                # domains in one call
    LARGEST = 1024              # bytes; far more than any version's record

cdef struct Record:
    uint16_t domid
    uint16_t pad
    uint32_t flags
    uint64_t pages[6]
    uint64_t cpu_time
    uint32_t vcpus[2]
    uint32_t ssidref
    uint8_t handle[16]


cdef uint32_t size_of_record(Look *look) noexcept nogil:
    """What a call leaves alone keeps two different fillings."""
    cdef uint8_t[LARGEST] zeros
    cdef uint8_t[LARGEST] ones
    cdef uint32_t n = LARGEST
    memset(zeros, 0, LARGEST)
    memset(ones, 255, LARGEST)
    if look.ask(look.xch, 0, 1, zeros) != 1 or look.ask(look.xch, 0, 1, ones) != 1:
        return 0
    while n and zeros[n - 1] == 0 and ones[n - 1] == 255:
        n -= 1
    return (n + 7) & ~7


cdef int look_open(Look *look, list_domains ask, void *xch) noexcept nogil:
    memset(look, 0, sizeof(Look))
    look.ask = ask
    look.xch = xch
    look.stride = size_of_record(look)
    if look.stride < sizeof(Record) or look.stride == LARGEST:
        return ESRCH
    look.batch = <char *>malloc(<size_t>BATCH * look.stride)
    return ENOMEM if look.batch == NULL else 0


cdef void look_close(Look *look) noexcept nogil:
    free(look.batch)
    free(look.before.at)
    free(look.now.at)
    memset(look, 0, sizeof(Look))


cdef void describe(const Record *r, DomState *state) noexcept nogil:
    """The handle, which is the domain's uuid, stands in for the unique id that such a Xen does not have."""
    cdef uint64_t id = 0
    cdef uint32_t i
    for i in range(16):
        id = (id ^ r.handle[i]) * <uint64_t>0x100000001B3
    state.domid = r.domid
    state.unique_id = id
    state.state = DOM_EXISTS | DOM_WEAK_ID
    if r.flags & FLAG_SHUTDOWN:
        state.state |= DOM_SHUTDOWN
    if r.flags & FLAG_DYING:
        state.state |= DOM_DEAD


cdef int look_at_one(Look *look, uint32_t domid, DomState *state) noexcept nogil:
    cdef char[LARGEST] info
    cdef Record *r = <Record *>info
    if look.ask(look.xch, domid, 1, info) != 1 or r.domid != domid:
        return ESRCH
    describe(r, state)
    remember(look, state)
    return 0


cdef bint more_room(List *list) noexcept nogil:
    cdef uint32_t room = list.room + BATCH
    cdef void *p = realloc(list.at, room * sizeof(DomState))
    if p == NULL:
        return False
    list.at = <DomState *>p
    list.room = room
    return True


cdef void remember(Look *look, const DomState *state) noexcept nogil:
    """One that came after the last look: that it has gone is news, too."""
    cdef List *list = &look.now
    cdef uint32_t i = list.count
    while i and list.at[i - 1].domid >= state.domid:
        i -= 1
    if (i < list.count and list.at[i].domid == state.domid) or (list.count == list.room and not more_room(list)):
        return
    memmove(list.at + i + 1, list.at + i, (list.count - i) * sizeof(DomState))
    list.at[i] = state[0]
    list.count += 1
    if look.comparing and i < look.new:
        look.new += 1


cdef bint look_at_all(Look *look) noexcept nogil:
    """All domains, into `now`; what was there becomes `before`.  False: that failed, and nothing has changed."""
    cdef List list = look.before
    cdef uint32_t first = 0, i
    cdef int n = BATCH
    list.count = 0
    while n == BATCH:
        n = look.ask(look.xch, first, BATCH, look.batch)
        if n < 0 or (list.count + <uint32_t>n > list.room and not more_room(&list)):
            look.before.at = list.at
            look.before.room = list.room
            look.before.count = 0
            return False
        for i in range(<uint32_t>n):
            describe(<Record *>(look.batch + i * look.stride), &list.at[list.count])
            first = list.at[list.count].domid + 1
            list.count += 1
    look.before = look.now
    look.now = list
    return True


cdef bint same(const DomState *a, const DomState *b) noexcept nogil:
    """One that has shut down may have been resumed and have shut down again since: nobody tells of the first."""
    return a.state == b.state and a.unique_id == b.unique_id and not a.state & DOM_SHUTDOWN


cdef bint look_changed(Look *l, DomState *state) noexcept nogil:
    cdef DomState *old
    cdef DomState *new
    if not l.comparing:
        if not look_at_all(l):
            return False
        l.comparing = True
        l.old = l.new = 0
    while l.old < l.before.count or l.new < l.now.count:
        old = l.before.at + l.old if l.old < l.before.count else NULL
        new = l.now.at + l.new if l.new < l.now.count else NULL
        if new == NULL or (old != NULL and old.domid < new.domid):
            l.old += 1
            state[0] = old[0]
            state.state = 0
            return True
        l.new += 1
        if old != NULL and old.domid == new.domid:
            l.old += 1
            if same(old, new):
                continue
        state[0] = new[0]
        return True
    l.comparing = False
    return False
