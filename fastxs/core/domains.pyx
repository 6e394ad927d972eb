"""Domains.

Owns the table domid -> Domain and what introducing, shutting down, releasing and dying do to it:
a domain's death takes its nodes, its entries in others' permission lists, its watches and its
transactions along, at the cost of those (SPEC 3.7), so that the next domain with its domid meets
nothing of it (XSA-322).  Refuses to know requests; the hypervisor is seen through model.Border.
"""
from libc.errno cimport EINVAL, ENOMEM
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from fastxs.core.heap cimport at
from fastxs.core.journal cimport J_DOMAIN, DomainRecord, journal_drop, journal_meta, journal_put
from fastxs.core.connection cimport conn_close, conn_new, conn_reset, ring_attach, ring_detach
from fastxs.core.model cimport (CONN_DEAD, CONN_IGNORED, DOMIDS, DOMID_SELF, DOM_DEAD, DOM_EXISTS, DOM_SHUTDOWN,
                                DOM_WEAK_ID, KIND_RING, NODE_LEFT, Ace, Conn, DomState, Domain, Perms, Store, handle,
                                layout)
from fastxs.core.outbox cimport mark_dirty
from fastxs.core.perms cimport aces, owner_of, perms_drop, perms_forget, perms_intern
from fastxs.core.ring cimport Page, ring_offer
from fastxs.core.tree cimport RECLAIM_NOW, node_at, reclaim, stir, tree_disown, tree_path, tree_remove, tree_set_perms
from fastxs.core.watches cimport fire_removed, fire_special
from fastxs.core.wire cimport FEATURE_DOMID_ANY, FEATURE_ERROR, FEATURE_RECONNECTION, FEATURE_WATCHDEPTH

LAYOUT = layout()

cdef extern from "stdlib.h" nogil:
    void qsort_r(void *base, size_t n, size_t size, int (*)(const void *, const void *, void *) noexcept nogil,
                 void *arg)

cdef enum:
    FEATURES = FEATURE_RECONNECTION | FEATURE_ERROR | FEATURE_WATCHDEPTH | FEATURE_DOMID_ANY


cdef inline bint is_own(Store *s, uint32_t domid) noexcept nogil:
    """The two that are there from the beginning to the end."""
    return domid == s.priv_domid or domid == s.store_domid


cdef bint domain_exists(Store *s, uint32_t domid, DomState *state) noexcept nogil:
    memset(state, 0, sizeof(DomState))
    state.domid = domid
    if domid >= DOMID_SELF:                     # reserved numbers mean something else to the hypervisor
        return False
    if s.border != NULL:
        return (s.border.exists(s.border.self, domid, state) == 0 and state.state & DOM_EXISTS
                and not state.state & DOM_DEAD)
    if s.pretend[domid >> 3] & (1 << (domid & 7)):
        state.state = DOM_EXISTS
    return state.state != 0


cdef void domain_record(Store *s, Domain *d) noexcept nogil:
    cdef DomainRecord r
    cdef char *out = journal_put(s, J_DOMAIN, d.domid, sizeof(r))
    if out == NULL:
        return
    memset(&r, 0, sizeof(r))
    r.features = d.features
    r.unique_id = d.unique_id
    r.target = d.target
    r.introduced = d.introduced
    r.shutdown = d.shutdown
    memcpy(r.limit, d.limit, sizeof(r.limit))
    memcpy(out, &r, sizeof(r))


cdef void limit_set(Store *s, Domain *d, uint32_t item, uint32_t value) noexcept nogil:
    if d == NULL:
        s.limit[item] = value
        journal_meta(s)
    else:
        d.limit[item] = value
        domain_record(s, d)
    stir(s)


cdef Domain *domain_restore(Store *s, uint32_t domid, const DomainRecord *r) noexcept nogil:
    cdef Domain *d = domain_alloc(s, domid, r.unique_id)
    if d != NULL:
        d.features = r.features
        d.target = r.target                     # its target's list is made once all domains are there
        d.introduced = r.introduced
        d.shutdown = r.shutdown
        memcpy(d.limit, r.limit, sizeof(r.limit))
    return d


cdef Domain *domain_alloc(Store *s, uint32_t domid, uint64_t unique_id) noexcept nogil:
    cdef Domain *d = <Domain *>calloc(1, sizeof(Domain))
    if d == NULL:
        return NULL
    d.domid = domid
    d.target = -1
    d.features = FEATURES
    d.unique_id = unique_id
    s.domain_serial += 1
    d.serial = s.domain_serial
    memcpy(d.limit, s.limit, sizeof(s.limit))
    s.domain[domid] = d
    s.domains += 1
    stir(s)
    domain_record(s, d)
    return d


cdef inline bint keeps_domid(Domain *d) noexcept nogil:
    """A page of it is mapped: until that ends nobody else can have its domid."""
    return d.conn != NULL and d.conn.page != NULL


cdef bint is_another(Store *s, Domain *d, const DomState *state) noexcept nogil:
    """The domid is used anew, and the death of its former user was not told yet."""
    if d.unique_id == 0 and state.unique_id:    # known from another daemon, who did not ask
        d.unique_id = state.unique_id
        domain_record(s, d)
    if state.unique_id == 0 or d.unique_id == 0 or state.unique_id == d.unique_id:
        return False
    if state.state & DOM_WEAK_ID and keeps_domid(d):
        d.unique_id = state.unique_id           # a mapped page keeps the domid: it only has another handle
        domain_record(s, d)
        return False
    return True


cdef Domain *domain_meet(Store *s, uint32_t domid, DomState *state) noexcept nogil:
    """The domain that has this domid now, its state just asked for; what is known of a former one goes."""
    cdef Domain *d = s.domain[domid]
    cdef bint there = domain_exists(s, domid, state)
    if d != NULL and (not there or is_another(s, d, state)):
        domain_remove(s, d, True)
        d = NULL
    if d == NULL and there:
        d = domain_alloc(s, domid, state.unique_id)
    return d


cdef Domain *domain_know(Store *s, uint32_t domid) noexcept nogil:
    cdef DomState state
    cdef Domain *d
    if domid >= DOMIDS:
        return NULL
    d = s.domain[domid]
    # A mapped page keeps the domid from being used again; without one it is asked who has it (XSA-322, XSA-417).
    # What is done again, or applied, changes nothing that its requests did not.
    if s.quiet or (d != NULL and (keeps_domid(d) or s.border == NULL or is_own(s, domid) or s.replaying)):
        return d
    return domain_meet(s, domid, &state)


cdef int domains_init(Store *s) noexcept nogil:
    """The privileged domain and the store's own are there without being introduced by anybody."""
    cdef Domain *d = domain_alloc(s, s.priv_domid, 0)
    if d == NULL:
        return ENOMEM
    d.introduced = True
    domain_record(s, d)
    s.pretend[s.priv_domid >> 3] |= 1 << (s.priv_domid & 7)
    if s.store_domid != s.priv_domid:
        d = domain_alloc(s, s.store_domid, 0)
        if d == NULL:
            return ENOMEM
        d.introduced = True
        domain_record(s, d)
        s.pretend[s.store_domid >> 3] |= 1 << (s.store_domid & 7)
    return 0


cdef uint32_t domains_offer(Store *s) noexcept nogil:
    """A guest looks at its page for what is offered when it needs it (SPEC 2.2)."""
    cdef uint32_t i, count = 0
    cdef Domain *d
    for i in range(DOMIDS):
        d = s.domain[i]
        if d == NULL or d.features == FEATURES:
            continue
        d.features = FEATURES
        domain_record(s, d)
        if d.conn != NULL and d.conn.page != NULL:
            ring_offer(<Page *>d.conn.page, FEATURES)
        count += 1
    stir(s)
    return count


cdef void domains_free(Store *s) noexcept nogil:
    cdef uint32_t i
    for i in range(DOMIDS):
        free(s.domain[i])
        s.domain[i] = NULL


cdef int domain_introduce(Store *s, uint32_t domid, uint32_t port) noexcept nogil:
    """First time: map the ring, bind the channel, tell watchers.  Again: bind anew, start anew (SPEC 2.4)."""
    cdef DomState state
    cdef Domain *d
    cdef Conn *conn
    cdef int error = 0
    memset(&state, 0, sizeof(state))
    d = s.domain[domid] if is_own(s, domid) else domain_meet(s, domid, &state)
    if d == NULL:
        return EINVAL                           # what mapping the grant of nobody comes to
    conn = d.conn
    if d.introduced and conn != NULL:
        conn_reset(s, conn)
        conn.flags &= ~CONN_IGNORED             # a ring that broke the rules may begin again
        if conn.kind == KIND_RING:
            ring_attach(s, conn, d, port)       # a port that cannot be bound leaves it without one, as in C
        return 0
    if s.border != NULL and conn == NULL and domid != s.store_domid:
        conn = conn_new(s, KIND_RING, -1, domid)
        if conn == NULL:
            return ENOMEM
        error = ring_attach(s, conn, d, port)
        if error:
            conn_close(s, conn)
            return error
        d.conn = conn
    if not d.introduced:
        d.introduced = True
        domain_record(s, d)
        fire_special(s, b"@introduceDomain", 16, -1)
        fire_special(s, b"@introduceDomain", 16, <int32_t>domid)
        if look_at(s, d, &state):               # it shut down before anybody knew it
            fire_special(s, b"@releaseDomain", 14, -1)
    return 0


cdef void domain_aim(Store *s, Domain *d, Domain *target) noexcept nogil:
    if d.target >= 0:
        if d.target_next != NULL:
            d.target_next.target_prev = d.target_prev
        if d.target_prev != NULL:
            d.target_prev.target_next = d.target_next
        else:
            s.domain[d.target].targeted_by = d.target_next
    d.target = -1
    d.target_prev = d.target_next = NULL
    if target != NULL:
        d.target = <int32_t>target.domid
        d.target_next = target.targeted_by
        if d.target_next != NULL:
            d.target_next.target_prev = d
        target.targeted_by = d
    stir(s)
    domain_record(s, d)


cdef void reown(Store *s, handle node, uint32_t heir) noexcept nogil:
    cdef handle old = node_at(s, node).perms, new
    cdef uint32_t count = (<Perms *>at(s, old)).count
    cdef Ace *list = <Ace *>calloc(count, sizeof(Ace))
    if list == NULL:
        return
    memcpy(list, aces(s, old), count * sizeof(Ace))
    list[0].domid = heir
    new = perms_intern(s, list, count)
    free(list)
    if new and tree_set_perms(s, node, new):
        perms_drop(s, new)


cdef uint32_t depth_of(Store *s, handle h) noexcept nogil:
    cdef uint32_t n = 0
    while node_at(s, h).parent:
        h = node_at(s, h).parent
        n += 1
    return n


cdef int in_tree_order(const void *a, const void *b, void *store) noexcept nogil:
    """Two nodes, neither above the other, as a walk of the tree meets them."""
    cdef Store *s = <Store *>store
    cdef handle x = (<const handle *>a)[0], y = (<const handle *>b)[0]
    cdef uint32_t dx = depth_of(s, x), dy = depth_of(s, y)
    while dx > dy:
        x = node_at(s, x).parent
        dx -= 1
    while dy > dx:
        y = node_at(s, y).parent
        dy -= 1
    while node_at(s, x).parent != node_at(s, y).parent:
        x = node_at(s, x).parent
        y = node_at(s, y).parent
    return -1 if node_at(s, x).birth < node_at(s, y).birth else 1


cdef bint stands_alone(Store *s, handle h, uint32_t domid) noexcept nogil:
    """It stands in the tree, and none of its owner's nodes above it takes it along."""
    cdef handle up = node_at(s, h).parent
    if node_at(s, h).bits & NODE_LEFT:
        return False
    while up:
        if node_at(s, up).bits & NODE_LEFT or owner_of(s, node_at(s, up).perms) == domid:
            return False
        up = node_at(s, up).parent
    return True


cdef void drop_nodes(Store *s, Domain *d) noexcept nogil:
    """Its nodes go, each with all below it (XSA-419); `/` and the specials fall to the privileged domain instead."""
    cdef handle h, following
    cdef uint32_t count = 0, i
    cdef handle *tops
    h = d.nodes
    while h:
        following = node_at(s, h).mine_next
        if h == s.root or node_at(s, h).parent == s.specials or s.keep_orphans:
            reown(s, h, s.priv_domid)
        else:
            count += 1
        h = following
    tops = <handle *>malloc((count + 1) * sizeof(handle))
    if tops == NULL:
        return
    count = 0
    h = d.nodes
    while h:
        if stands_alone(s, h, d.domid):
            tops[count] = h
            count += 1
        h = node_at(s, h).mine_next
    qsort_r(tops, count, sizeof(handle), in_tree_order, s)
    for i in range(count):
        s.scratch.len = 0
        if tree_path(s, tops[i], &s.scratch):
            break
        fire_removed(s, s.scratch.data, s.scratch.len, tops[i])
        tree_remove(s, tops[i])
    free(tops)
    tree_disown(s, d)
    reclaim(s, RECLAIM_NOW)                     # the rest of their memory comes back in slices


cdef void domain_remove(Store *s, Domain *d, bint plain) noexcept nogil:
    cdef uint32_t domid = d.domid
    cdef bint introduced = d.introduced
    cdef Conn *conn = d.conn
    if conn != NULL:                            # first its own watches: it gets no events of its own death
        conn_reset(s, conn)
        conn.domain = NULL
        if conn.kind == KIND_RING:
            ring_detach(s, conn)
            conn.flags |= CONN_DEAD
        else:
            conn.flags |= CONN_IGNORED
        mark_dirty(s, conn)
        d.conn = NULL
    drop_nodes(s, d)
    perms_forget(s, d, s.priv_domid)
    domain_aim(s, d, NULL)
    journal_drop(s, J_DOMAIN, domid)
    while d.targeted_by != NULL:                # whose target it was (XSA-233)
        domain_aim(s, d.targeted_by, NULL)
    free(d)
    s.domain[domid] = NULL
    s.domains -= 1
    stir(s)
    if introduced:
        if plain:
            fire_special(s, b"@releaseDomain", 14, -1)
        fire_special(s, b"@releaseDomain", 14, <int32_t>domid)


cdef bint look_at(Store *s, Domain *d, const DomState *state) noexcept nogil:
    """What a state means for a known domain; True: the plain @releaseDomain is due."""
    if is_own(s, d.domid):
        return False
    if not state.state & DOM_EXISTS or state.state & DOM_DEAD or is_another(s, d, state):
        domain_remove(s, d, True)
        return False
    if state.state & DOM_SHUTDOWN and not d.shutdown and d.introduced:
        d.shutdown = True
        domain_record(s, d)
        fire_special(s, b"@releaseDomain", 14, <int32_t>d.domid)
        return True
    return False


cdef void domains_check(Store *s) noexcept nogil:
    cdef DomState state
    cdef bint due = False
    while s.border.changed(s.border.self, &state):
        if state.domid < DOMIDS and s.domain[state.domid] != NULL:
            due |= look_at(s, s.domain[state.domid], &state)
    if due:
        fire_special(s, b"@releaseDomain", 14, -1)


cdef void domains_greet(Store *s) noexcept nogil:
    cdef DomState state
    cdef Domain *d
    while s.border.changed(s.border.self, &state):
        # Xen itself wrote the port into the page; what a toolstack built is introduced by it.
        if state.domid < DOMIDS and not is_own(s, state.domid) and domain_introduce(s, state.domid, 0):
            d = s.domain[state.domid]
            if d != NULL:
                domain_remove(s, d, False)
