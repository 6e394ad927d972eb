"""Transactions' views.

Owns what a transaction sees (a snapshot of the tree) and what it did (a record, TNode, for each path
it touched), and its log of requests.  Refuses to know requests: doing a log again is the business of
the room above that knows them.

    view_find, view_value, ...  are the only way in which requests touch nodes, so each request is
    written once for the tree of today (no view) and for a transaction.

The rule of commit (HOUSE section 5): the log done again on the tree of today must give the same
answers.  The snapshot moves forward on the way, when something not touched yet has changed and
everything answered so far would still be answered so: a first read then sees today's value, as C's
does, and what C commits is committed here.
"""
from libc.errno cimport ENOMEM, ENOSPC
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memmove, memset, strlen

from fastxs.core.heap cimport (at, bucket, buf_add, buf_free, buf_room, fx_fold, fx_hash, give, table_add, table_drop,
                               take)
from fastxs.core.journal cimport J_TX, Check, journal_drop, journal_put
from fastxs.core.model cimport (KIND_MEMORY, NONE32, Q_MEMORY, Q_TRANSACTIONS, Q_TX_NODES, T_BORN, T_CUT, T_EXACT,
                                T_EXISTS, T_FIRE, T_SEEN, T_WRITTEN, TX_DOOMED, VIEW_KEEP, VIEW_LOST, Ace, Buf, Conn,
                                Count, Domain, LogEntry, Perms, Store, TNode, Tx, View, handle, layout)
from fastxs.core.paths cimport component_end
from fastxs.core.perms cimport aces, owner_of, perms_drop, perms_hold, perms_intern
from fastxs.core.quota cimport account, quota_allows, quota_fits
from fastxs.core.trace cimport trace_object
from fastxs.core.tree cimport (Version, generation, kids_of, node_at, snapshot_close, snapshot_open,
                               tree_child_at, tree_create, tree_find, tree_find_at, tree_list_at, tree_remove,
                               tree_set_perms, tree_set_value, tree_version, value_of)
from fastxs.core.watches cimport fire

LAYOUT = layout()


cdef inline TNode *tnode_at(Store *s, handle h) noexcept nogil:
    return <TNode *>at(s, h)


cdef inline char *tname(TNode *t) noexcept nogil:
    return <char *>t + sizeof(TNode)


# ---- records ------------------------------------------------------------------------------------------

cdef handle tchild(Store *s, handle up, const char *name, uint32_t n) noexcept nogil:
    cdef uint32_t hash = fx_hash(s.secret, up, name, n)
    cdef handle h = bucket(&s.tnodes, hash)[0]
    cdef TNode *t
    while h:
        t = tnode_at(s, h)
        if t.hash == hash and t.up == up and t.name_len == n and memcmp(tname(t), name, n) == 0:
            return h
        h = t.chain
    return 0


cdef bint weigh(Store *s, View *v, uint32_t bytes) noexcept nogil:
    """Charge the view's memory to its owner; False: more than it may have."""
    cdef Domain *d = v.conn.domain
    if d != NULL:
        if not s.replaying and not quota_allows(s, d, Q_MEMORY, bytes):
            return False
        account(s, d, Q_MEMORY, bytes)
    v.bytes += bytes
    return True


cdef handle tnew(Store *s, View *v, handle up, handle base, const char *name, uint32_t n) noexcept nogil:
    cdef handle h
    cdef TNode *t
    if not weigh(s, v, <uint32_t>sizeof(TNode) + n):
        return 0
    h = take(s, <uint32_t>sizeof(TNode) + n)
    if h == 0:
        return 0
    t = tnode_at(s, h)
    memset(t, 0, sizeof(TNode))
    t.hash = fx_hash(s.secret, up, name, n)
    t.up = up
    t.base = base
    t.flags = T_EXISTS if base else 0
    t.name_len = <uint16_t>n
    memcpy(tname(t), name, n)
    t.also = v.all
    v.all = h
    if up:                                      # the roots are not looked up
        table_add(s, &s.tnodes, h)
    return h


cdef handle tstep(Store *s, View *v, handle up, const char *name, uint32_t n) noexcept nogil:
    """The record of a child, made at its first use; 0: no memory."""
    cdef handle h = tchild(s, up, name, n)
    cdef TNode *t
    if h:
        return h
    t = tnode_at(s, up)
    h = 0
    if t.base and t.flags & T_EXISTS and not t.flags & T_CUT:
        h = tree_child_at(s, t.base, name, n, v.stamp)
    return tnew(s, v, up, h, name, n)


cdef bint see(Store *s, View *v, handle h) noexcept nogil:
    """Count an access of a path; False: more paths than a transaction may touch."""
    cdef TNode *t = tnode_at(s, h)
    if t.flags & T_SEEN:
        return True
    if not quota_fits(s, v.conn.domain, Q_TX_NODES, v.seen + 1):
        return False
    t.flags |= T_SEEN
    v.seen += 1
    if v.seen_last:
        tnode_at(s, v.seen_last).next = h
    else:
        v.seen_first = h
    v.seen_last = h
    return True


cdef handle base_perms(Store *s, View *v, TNode *t) noexcept nogil:
    cdef Version seen
    tree_version(s, t.base, v.stamp, &seen)
    return seen.perms


cdef inline handle tperms(Store *s, View *v, TNode *t) noexcept nogil:
    return t.perms if t.perms else base_perms(s, v, t)


# ---- finding and reading -----------------------------------------------------------------------------------

cdef int view_find(Store *s, View *v, const char *p, uint32_t n, Spot *spot) noexcept nogil:
    cdef uint32_t i, end
    cdef handle h, missing = 0
    memset(spot, 0, sizeof(Spot))
    if v == NULL:
        spot.node = tree_find(s, p, n, &spot.above, &spot.rest)
        spot.found = spot.node != 0
        return 0
    i = 0 if p[0] == c'@' else 1
    h = v.special if p[0] == c'@' else v.root
    while i < n:
        end = component_end(p, n, i)
        if not missing and not tnode_at(s, h).flags & T_EXISTS:
            missing = h
        h = tstep(s, v, h, p + i, end - i)
        if h == 0:
            return ENOMEM
        if not spot.above_t and not tnode_at(s, h).flags & T_EXISTS:
            spot.above_t = tnode_at(s, h).up
            spot.rest = i
        i = end + 1
    spot.t = h
    spot.found = not spot.above_t
    if not see(s, v, h):
        return ENOSPC
    if not spot.found:                          # the error that is shown depends on those above
        while h != spot.above_t:
            h = tnode_at(s, h).up
            if not see(s, v, h):
                return ENOSPC
    return 0


cdef void view_see_above(Store *s, View *v, Spot *spot) noexcept nogil:
    if v != NULL and tnode_at(s, spot.t).up:
        see(s, v, tnode_at(s, spot.t).up)


cdef handle view_perms(Store *s, View *v, Spot *spot) noexcept nogil:
    return node_at(s, spot.node).perms if v == NULL else tperms(s, v, tnode_at(s, spot.t))


cdef handle view_above_perms(Store *s, View *v, Spot *spot) noexcept nogil:
    return node_at(s, spot.above).perms if v == NULL else tperms(s, v, tnode_at(s, spot.above_t))


cdef void view_value(Store *s, View *v, Spot *spot, const char **value, uint32_t *n) noexcept nogil:
    cdef TNode *t
    cdef Version seen
    if v == NULL:
        value[0] = value_of(s, node_at(s, spot.node))
        n[0] = node_at(s, spot.node).value_len
        return
    t = tnode_at(s, spot.t)
    if t.flags & T_WRITTEN or t.flags & T_CUT or t.base == 0:
        value[0] = at(s, t.value) if t.value else NULL
        n[0] = t.value_len if t.value else 0
        return
    tree_version(s, t.base, v.stamp, &seen)
    value[0] = seen.value
    n[0] = seen.value_len


cdef uint64_t view_generation(Store *s, View *v, Spot *spot) noexcept nogil:
    """Within a transaction it grows with each of its writes, in the same way whenever its log is done again."""
    cdef TNode *t
    if v == NULL:
        return generation(s, spot.node)
    t = tnode_at(s, spot.t)
    if t.base and not t.flags & T_CUT:
        return v.epoch + (generation(s, t.base) if generation(s, t.base) <= v.stamp else v.stamp)
    return v.epoch


cdef int view_list(Store *s, View *v, Spot *spot, Buf *out) noexcept nogil:
    cdef TNode *t
    cdef handle h, c
    cdef uint32_t mark, n, to
    if v == NULL:
        return tree_list_at(s, spot.node, <uint64_t>-1, out)
    t = tnode_at(s, spot.t)
    if t.base and not t.flags & T_CUT:
        mark = to = out.len
        if tree_list_at(s, t.base, v.stamp, out):
            return ENOMEM
        while t.changes and mark < out.len:     # leave out what went away here, in place
            n = <uint32_t>strlen(out.data + mark) + 1
            c = tchild(s, spot.t, out.data + mark, n - 1)
            if not c or (tnode_at(s, c).flags & (T_EXISTS | T_BORN)) == T_EXISTS:
                if to != mark:
                    memmove(out.data + to, out.data + mark, n)
                to += n
            mark += n
        if t.changes:
            out.len = to
    h = t.born_first
    while h:
        if buf_add(out, tname(tnode_at(s, h)), tnode_at(s, h).name_len) or buf_add(out, b"\0", 1):
            return ENOMEM
        h = tnode_at(s, h).born_next
    return 0


cdef uint32_t view_list_size(Store *s, View *v, Spot *spot) noexcept nogil:
    cdef uint32_t mark, size
    if v == NULL:
        return kids_of(s, spot.node).bytes if kids_of(s, spot.node) != NULL else 0
    mark = s.text.len
    if view_list(s, v, spot, &s.text):
        return NONE32
    size = s.text.len - mark
    s.text.len = mark
    return size


# ---- changing -----------------------------------------------------------------------------------------------

cdef int view_count(View *v, uint32_t domid) noexcept nogil:
    cdef uint32_t i
    if v != NULL:
        for i in range(v.n_counts):
            if v.counts[i].domid == domid:
                return v.counts[i].nodes
    return 0


cdef bint count_nodes(View *v, uint32_t domid, int32_t change) noexcept nogil:
    cdef uint32_t i
    cdef void *p
    for i in range(v.n_counts):
        if v.counts[i].domid == domid:
            v.counts[i].nodes += change
            return True
    if v.n_counts == v.cap_counts:
        p = realloc(v.counts, <size_t>(v.cap_counts * 2 + 4) * sizeof(Count))
        if p == NULL:
            return False
        v.counts = <Count *>p
        v.cap_counts = v.cap_counts * 2 + 4
    v.counts[v.n_counts].domid = domid
    v.counts[v.n_counts].nodes = change
    v.n_counts += 1
    return True


cdef handle inherited(Store *s, Conn *conn, handle above) noexcept nogil:
    """The list of a new node: that of the node above, owned by an unprivileged creator (SPEC 3.5)."""
    cdef uint32_t count = (<Perms *>at(s, above)).count
    cdef Ace[16] few
    cdef Ace *list
    cdef handle h
    if conn.privileged or owner_of(s, above) == conn.domid:
        perms_hold(s, above)
        return above
    list = &few[0] if count <= 16 else <Ace *>calloc(count, sizeof(Ace))
    if list == NULL:
        return 0
    memcpy(list, aces(s, above), count * sizeof(Ace))
    list[0].domid = conn.domid
    h = perms_intern(s, list, count)
    if list != few:
        free(list)
    return h


cdef void drop_value(Store *s, View *v, TNode *t) noexcept nogil:
    if t.value:
        give(s, t.value, t.value_len)
    t.value = 0
    t.value_len = 0


cdef void drop_own(Store *s, View *v, TNode *t) noexcept nogil:
    """Forget a record's own value and permissions."""
    drop_value(s, v, t)
    if t.perms:
        perms_drop(s, t.perms)
    t.perms = 0
    t.flags &= ~T_WRITTEN


cdef void born(Store *s, handle h) noexcept nogil:
    """Last child of its parent from now on."""
    cdef TNode *t = tnode_at(s, h)
    cdef TNode *up = tnode_at(s, t.up)
    t.flags |= T_BORN | T_EXISTS
    t.born_next = 0
    t.born_prev = up.born_last
    if up.born_last:
        tnode_at(s, up.born_last).born_next = h
    else:
        up.born_first = h
    up.born_last = h
    up.changes += 1


cdef void gone(Store *s, handle h) noexcept nogil:
    cdef TNode *t = tnode_at(s, h)
    cdef TNode *up = tnode_at(s, t.up)
    if t.flags & T_BORN:
        if t.born_prev:
            tnode_at(s, t.born_prev).born_next = t.born_next
        else:
            up.born_first = t.born_next
        if t.born_next:
            tnode_at(s, t.born_next).born_prev = t.born_prev
        else:
            up.born_last = t.born_prev
    t.flags &= ~(T_EXISTS | T_BORN)
    t.flags |= T_CUT
    up.changes += 1


cdef int view_create(Store *s, View *v, Conn *conn, const char *p, uint32_t n, uint32_t room,
                     Spot *spot) noexcept nogil:
    cdef uint32_t i = spot.rest, end
    cdef handle h, perms, first = 0
    if v == NULL:
        h = spot.above
        while i < n:
            end = component_end(p, n, i)
            perms = inherited(s, conn, node_at(s, h).perms)
            h = tree_create(s, h, p + i, end - i, perms, room if end == n else 0) if perms else 0
            if h == 0:                          # all or nothing (XSA-414)
                if perms:
                    perms_drop(s, perms)
                if first:
                    tree_remove(s, first)
                return ENOMEM
            if not first:
                first = h
            i = end + 1
        spot.node = h
        spot.found = True
        return 0
    h = spot.above_t
    while i < n:
        end = component_end(p, n, i)
        perms = inherited(s, conn, tperms(s, v, tnode_at(s, h)))
        h = tstep(s, v, h, p + i, end - i)
        if h == 0 or perms == 0 or not count_nodes(v, owner_of(s, perms), 1):
            return ENOMEM                       # the transaction is marked failed: END will not apply it
        drop_own(s, v, tnode_at(s, h))
        tnode_at(s, h).perms = perms
        tnode_at(s, h).flags |= T_WRITTEN
        born(s, h)
        i = end + 1
    tnode_at(s, h).flags |= T_FIRE              # for the path asked for, not for those implied (SPEC 1.5)
    v.epoch += 1
    spot.found = True
    return 0


cdef int view_set_value(Store *s, View *v, Spot *spot, const char *value, uint32_t n) noexcept nogil:
    cdef TNode *t
    cdef handle h
    if v == NULL:
        return tree_set_value(s, spot.node, value, n)
    if not weigh(s, v, n):
        return ENOMEM
    h = take(s, n) if n else 0
    if n and h == 0:
        return ENOMEM
    if n:
        memcpy(at(s, h), value, n)
    t = tnode_at(s, spot.t)
    drop_value(s, v, t)
    t.value = h
    t.value_len = <uint16_t>n
    t.flags |= T_WRITTEN | T_FIRE
    v.epoch += 1
    return 0


cdef int view_set_perms(Store *s, View *v, Spot *spot, handle perms) noexcept nogil:
    cdef TNode *t
    if v == NULL:
        return tree_set_perms(s, spot.node, perms)
    t = tnode_at(s, spot.t)
    if not count_nodes(v, owner_of(s, tperms(s, v, t)), -1) or not count_nodes(v, owner_of(s, perms), 1):
        return ENOMEM
    if t.perms:
        perms_drop(s, t.perms)
    t.perms = perms
    t.flags |= T_FIRE
    v.flags |= VIEW_KEEP
    v.epoch += 1
    return 0


cdef int view_remove(Store *s, View *v, Spot *spot) noexcept nogil:
    """In a view: depth first, parents before children, each a path of its own (SPEC 1.5); no recursion (XSA-418)."""
    cdef Buf stack, names
    cdef handle h, c
    cdef TNode *t
    cdef Spot here
    cdef uint32_t i, n
    cdef uint64_t gen
    cdef int error = 0
    if v == NULL:
        tree_remove(s, spot.node)
        return 0
    memset(&stack, 0, sizeof(Buf))
    memset(&names, 0, sizeof(Buf))
    v.flags |= VIEW_KEEP
    v.epoch += 1
    v.finger = 0
    see(s, v, tnode_at(s, spot.t).up)
    error = buf_add(&stack, &spot.t, sizeof(handle))
    while stack.len and not error:
        s.work += 1
        stack.len -= sizeof(handle)
        h = (<handle *>(stack.data + stack.len))[0]
        t = tnode_at(s, h)
        if not see(s, v, h):
            error = ENOSPC
            break
        names.len = 0
        memset(&here, 0, sizeof(Spot))
        here.t = h
        error = view_list(s, v, &here, &names)
        # Children go on the stack last first, so that they come off in order.
        i = names.len
        while i and not error:
            n = i
            i -= 1
            while i and names.data[i - 1] != 0:
                i -= 1
            c = tstep(s, v, h, names.data + i, n - 1 - i)
            error = ENOMEM if c == 0 else buf_add(&stack, &c, sizeof(handle))
        if error:
            break
        count_nodes(v, owner_of(s, tperms(s, v, t)), -1)
        if t.base and not t.flags & T_CUT:      # what the removal depends on: the subtree as it was
            gen = generation(s, t.base)
            if gen > v.stamp:
                gen = 0                         # not as it was: no replay will find it so
            v.finger = fx_fold(v.finger ^ t.base, 0x9E3779B97F4A7C15ull ^ gen)
        drop_own(s, v, t)
        t.flags |= T_FIRE if h == spot.t else T_EXACT
        gone(s, h)
    buf_free(&stack)
    buf_free(&names)
    return error


# ---- life of a view -------------------------------------------------------------------------------------------

cdef View *view_new(Store *s, Conn *conn) noexcept nogil:
    cdef View *v = <View *>calloc(1, sizeof(View))
    if v == NULL:
        return NULL
    v.conn = conn
    if conn.domain != NULL and conn.domain.domid != s.priv_domid:
        v.held_limit = conn.domain.limit[Q_MEMORY]
    snapshot_open(s, v)
    v.root = tnew(s, v, 0, s.root, b"", 0)
    v.special = tnew(s, v, 0, s.specials, b"@", 1)
    if v.root == 0 or v.special == 0:
        view_free(s, v)
        return NULL
    return v


cdef void view_free(Store *s, View *v) noexcept nogil:
    cdef handle h = v.all, following
    while h:
        following = tnode_at(s, h).also
        drop_own(s, v, tnode_at(s, h))
        if tnode_at(s, h).up:
            table_drop(s, &s.tnodes, h)
        give(s, h, <uint32_t>sizeof(TNode) + tnode_at(s, h).name_len)
        h = following
    snapshot_close(s, v)
    if v.conn.domain != NULL:
        account(s, v.conn.domain, Q_MEMORY, -<int64_t>v.bytes)
    free(v.counts)
    free(v)


cdef bint view_moved(Store *s, View *v, const char *p, uint32_t n) noexcept nogil:
    cdef handle h = v.special if p[0] == c'@' else v.root
    cdef handle live, then, live_above = 0, then_above = 0
    cdef uint32_t i = 0 if p[0] == c'@' else 1, end, rest = 0
    while i < n and h:
        end = component_end(p, n, i)
        h = tchild(s, h, p + i, end - i)
        i = end + 1
    if h and tnode_at(s, h).flags & T_SEEN:
        return False
    live = tree_find(s, p, n, &live_above, &rest)
    then = tree_find_at(s, p, n, v.stamp, &then_above)
    if live != then:
        return True
    if live:
        return generation(s, live) > v.stamp
    return live_above != then_above or generation(s, live_above) > v.stamp


cdef int tpath(Store *s, View *v, handle h, Buf *out) noexcept nogil:
    cdef TNode *t
    cdef uint32_t size = 0, i
    cdef handle at_ = h
    if h == v.root:
        return buf_add(out, b"/", 1)
    while at_ != v.root and at_ != v.special:
        t = tnode_at(s, at_)
        size += t.name_len + 1
        at_ = t.up
    if at_ == v.special:
        size -= 1
    if buf_room(out, size):
        return ENOMEM
    i = out.len + size
    while h != v.root and h != v.special:
        t = tnode_at(s, h)
        i -= t.name_len
        memcpy(out.data + i, tname(t), t.name_len)
        h = t.up
        if h != v.special:
            i -= 1
            out.data[i] = c'/'
    out.len += size
    return 0


cdef void view_fire(Store *s, View *v) noexcept nogil:
    cdef handle h = v.seen_first
    cdef uint32_t mark = s.text.len
    cdef TNode *t
    cdef TNode *up
    cdef handle old
    while h:
        t = tnode_at(s, h)
        # What came and went within the transaction is nobody's business (SPEC 1.5).
        if t.flags & (T_FIRE | T_EXACT) and (t.flags & T_EXISTS or t.base) and t.up != v.special:
            s.text.len = mark
            if tpath(s, v, h, &s.text):
                break
            up = tnode_at(s, t.up) if t.up else NULL
            old = base_perms(s, v, t) if t.base and not v.flags & VIEW_LOST else 0
            fire(s, s.text.data + mark, s.text.len - mark, not t.flags & T_FIRE, t.perms if t.perms else old, old,
                 parent_perms(s, v, up))
        h = t.next
    s.text.len = mark


cdef handle parent_perms(Store *s, View *v, TNode *up) noexcept nogil:
    if up == NULL:
        return 0
    if up.perms:
        return up.perms
    return base_perms(s, v, up) if up.base and not v.flags & VIEW_LOST else 0


cdef bint view_logged(Store *s, View *v, handle t, uint32_t op) noexcept nogil:
    cdef TNode *r = tnode_at(s, t)
    cdef uint16_t bit = <uint16_t>(1 << (op & 15))
    if r.epoch != v.epoch:
        r.epoch = v.epoch
        r.logged = 0
    if r.logged & bit:
        return True
    r.logged |= bit
    return False


# ---- transactions ---------------------------------------------------------------------------------------------

cdef bint view_touches(Store *s, View *v, const char *p, uint32_t n) noexcept nogil:
    """Did the view look at this path, at something below it, or at the list of children that it stands in?"""
    cdef handle h = v.root, above = v.root
    cdef uint32_t i = 1, end
    if p[0] != c'/':
        return False
    while i < n and h:
        end = component_end(p, n, i)
        above = h
        h = tchild(s, h, p + i, end - i)
        i = end + 1
    return h != 0 or (i >= n and tnode_at(s, above).flags & T_SEEN != 0)


cdef bint views_collide(Store *s, View *mine, View *other) noexcept nogil:
    cdef handle h = mine.seen_first
    cdef uint32_t mark = s.text.len
    cdef bint found = False
    while h and not found:
        if tnode_at(s, h).flags & (T_FIRE | T_EXACT):
            s.text.len = mark
            found = tpath(s, mine, h, &s.text) != 0 or view_touches(s, other, s.text.data + mark, s.text.len - mark)
        h = tnode_at(s, h).next
    s.text.len = mark
    return found


cdef Tx *tx_new(Store *s, Conn *conn) noexcept nogil:
    cdef Tx *tx = <Tx *>calloc(1, sizeof(Tx))
    if tx == NULL:
        return NULL
    while True:                                 # ids count up from 1 and skip those that live (SPEC 4)
        conn.next_tx_id += 1
        if conn.next_tx_id and tx_find(conn, conn.next_tx_id) == NULL:
            break
    if conn.kind != KIND_MEMORY:
        journal_put(s, J_TX, tx_key(conn, conn.next_tx_id), sizeof(Check))
    return tx_link(s, conn, tx, conn.next_tx_id)


cdef inline uint64_t tx_key(Conn *conn, uint32_t id) noexcept nogil:
    return <uint64_t>conn.index << 32 | id


cdef Tx *tx_restore(Store *s, Conn *conn, uint32_t id) noexcept nogil:
    cdef Tx *tx = <Tx *>calloc(1, sizeof(Tx))
    if tx == NULL:
        return NULL
    tx.flags = TX_DOOMED
    return tx_link(s, conn, tx, id)


cdef Tx *tx_link(Store *s, Conn *conn, Tx *tx, uint32_t id) noexcept nogil:
    tx.id = id
    tx.conn = conn
    tx.next = conn.tx
    conn.tx = tx
    if conn.txs == 0:
        conn.tx_since_ns = s.now_ns
    conn.txs += 1
    trace_object(s, b"CREATE", b"transaction", tx)
    if conn.domain != NULL:
        account(s, conn.domain, Q_TRANSACTIONS, 1)
    return tx


cdef Tx *tx_find(Conn *conn, uint32_t id) noexcept nogil:
    cdef Tx *tx = conn.tx
    while tx != NULL and tx.id != id:
        tx = tx.next
    return tx


cdef void tx_end(Store *s, Tx *tx) noexcept nogil:
    cdef Conn *conn = tx.conn
    cdef Tx **link = &conn.tx
    while link[0] != tx:
        link = &link[0].next
    link[0] = tx.next
    if conn.kind != KIND_MEMORY:
        journal_drop(s, J_TX, tx_key(conn, tx.id))
    conn.txs -= 1
    if conn.domain != NULL:
        account(s, conn.domain, Q_TRANSACTIONS, -1)
        account(s, conn.domain, Q_MEMORY, -<int64_t>tx.log.len)
    if s.guarded == tx:
        s.guarded = NULL
    if tx.view != NULL:
        view_free(s, tx.view)
    buf_free(&tx.log)
    trace_object(s, b"DESTROY", b"transaction", tx)
    free(tx)


cdef void txs_drop(Store *s, Conn *conn) noexcept nogil:
    while conn.tx != NULL:
        tx_end(s, conn.tx)


cdef int tx_log(Store *s, Tx *tx, uint32_t op, int error, uint64_t answer, const char *data, uint32_t n) noexcept nogil:
    cdef LogEntry *e
    cdef uint32_t size = <uint32_t>sizeof(LogEntry) + ((n + 7) & ~7)
    if tx.conn.domain != NULL and not quota_allows(s, tx.conn.domain, Q_MEMORY, size):
        return ENOMEM
    if buf_room(&tx.log, size):
        return ENOMEM
    e = <LogEntry *>(tx.log.data + tx.log.len)
    e.op = <uint16_t>op
    e.error = <uint16_t>error
    e.len = n
    e.answer = answer
    memcpy(<char *>e + sizeof(LogEntry), data, n)
    tx.log.len += size
    tx.entries += 1
    if tx.conn.domain != NULL:
        account(s, tx.conn.domain, Q_MEMORY, size)
    return 0
