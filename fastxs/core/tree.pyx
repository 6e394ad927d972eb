"""The tree of nodes.

Owns nodes, the edge table (parent, name) -> child, the order of siblings, the list of what each domain
owns, and the versions that open snapshots can see.  Refuses to know of permissions' meaning, quotas'
limits, watches and transactions' rules.

Every change has a number, the stamp.  A snapshot at stamp S sees a node with birth <= S that had not
left by S, in its version of then.  A change keeps the version it replaces only if the newest snapshot
can see it; such a `Held` is attached to that snapshot and, when that closes, handed to the next older
one that can see it, or freed.  So without snapshots nothing is kept, and live lookups never meet what
is kept: nodes that left stand in a table of their own.

    stamp   5          7         9        12
            /a = 1     snapshot  /a = 2   rm /a
    the snapshot sees version [5, 9) of the ghost [5, 12)
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy, memset, strlen

from fastxs.core.heap cimport (at, bucket, buf_add, buf_room, fx_hash, fx_prefetch, give, rounded, table_add,
                               table_drop, take)
from fastxs.core.journal cimport J_NODE, NODE_HEAD, NodeRecord, journal_drop, journal_put
from fastxs.core.model cimport (DOMIDS, DOMID_ANY, NODE_GHOST, NODE_LEFT, NODE_OUT, NODE_SIZE, NODE_UNCHARGED,
                                Q_MEMORY, Q_NODES, RIGHT_READ, VIEW_LOST, Ace, Buf, Domain, Held, Kids, Node, Perms,
                                Reclaim, Step, Store, View, handle, layout)
from fastxs.core.paths cimport component_end
from fastxs.core.perms cimport owner_of, perms_drop, perms_hold, perms_intern
from fastxs.core.quota cimport account

LAYOUT = layout()

cdef enum:
    HEAD = sizeof(Node) - 2     # a node without name and value
    ROOM_MAX = 2048             # a larger value is better out of line
    BIRTH_SPECIALS = 1
    BIRTH_ROOT = 2
    GHOST_BYTES = 128           # what a node that left is charged to the snapshot that holds it


cdef inline Held *held_at(Store *s, handle h) noexcept nogil:
    return <Held *>at(s, h)


cdef inline uint32_t item_bytes(Node *n) noexcept nogil:
    return <uint32_t>(n.bits & NODE_SIZE) * 8


cdef inline uint32_t capacity(Node *n) noexcept nogil:
    """Bytes of value that fit the node itself."""
    return item_bytes(n) - HEAD - n.name_len


cdef inline uint32_t out_bytes(Node *n) noexcept nogil:
    return rounded(n.value_len) if n.bits & NODE_OUT else 0


cdef uint32_t node_bytes(Store *s, handle node) noexcept nogil:
    return item_bytes(node_at(s, node)) + out_bytes(node_at(s, node))


# ---- finding -------------------------------------------------------------------------------------

cdef inline bint is_child(Node *n, handle parent, const char *name, uint32_t len) noexcept nogil:
    return n.parent == parent and n.name_len == len and memcmp(n.data, name, len) == 0


cdef inline handle hashed_child(Store *s, uint32_t hash, handle parent, const char *name, uint32_t n) noexcept nogil:
    cdef handle h = bucket(&s.nodes, hash)[0]
    cdef Node *node
    while h:
        node = node_at(s, h)
        if node.hash == hash and is_child(node, parent, name, n):
            return h
        h = node.chain
    return 0


cdef inline uint32_t child_hash(Store *s, handle parent, const char *name, uint32_t n) noexcept nogil:
    return fx_hash(s.secret, node_at(s, parent).hash, name, n)


cdef handle tree_child(Store *s, handle parent, const char *name, uint32_t n) noexcept nogil:
    return hashed_child(s, child_hash(s, parent, name, n), parent, name, n)


cdef handle tree_child_at(Store *s, handle parent, const char *name, uint32_t n, uint64_t stamp) noexcept nogil:
    cdef handle h = tree_child(s, parent, name, n)
    cdef uint32_t hash
    cdef Held *held
    if h and node_at(s, h).birth <= stamp:
        return h
    hash = child_hash(s, parent, name, n)
    h = bucket(&s.ghosts, hash)[0]
    while h:
        held = held_at(s, h)
        if held.hash == hash and held.start <= stamp < held.end and is_child(node_at(s, held.node), parent, name, n):
            return held.node
        h = held.chain
    return 0


cdef inline handle start_of(Store *s, const char *p, uint32_t *i) noexcept nogil:
    """Where a walk starts, and the offset of the first component."""
    i[0] = 0 if p[0] == c'@' else 1
    return s.specials if p[0] == c'@' else s.root


cdef void hint_path(Store *s, Hint *hint, const char *p, uint32_t n) noexcept nogil:
    cdef uint32_t i = 0, end, hash = node_at(s, start_of(s, p, &i)).hash
    hint.count = 0
    while i < n and hint.count < AHEAD:
        end = component_end(p, n, i)
        hash = fx_hash(s.secret, hash, p + i, end - i)
        hint.hash[hint.count] = hash
        hint.count += 1
        fx_prefetch(bucket(&s.nodes, hash))
        i = end + 1


cdef void hint_nodes(Store *s, const Hint *hint) noexcept nogil:
    cdef uint32_t k
    cdef handle h
    for k in range(hint.count):
        h = bucket(&s.nodes, hint.hash[k])[0]
        if h:
            fx_prefetch(at(s, h))
            fx_prefetch(at(s, h) + 64)


cdef handle tree_find(Store *s, const char *p, uint32_t n, handle *deepest, uint32_t *rest) noexcept nogil:
    """In a large store a walk is one cache miss after the other; asking for all buckets, then for all
    nodes, makes two waits of them, whatever the depth."""
    cdef Hint hint
    cdef uint32_t i = 0, end, hash, k = 0
    cdef handle h = start_of(s, p, &i), child
    cdef bint large = s.nodes.count > LARGE
    hint.count = 0
    hash = node_at(s, h).hash
    if large:
        hint_path(s, &hint, p, n)
        hint_nodes(s, &hint)
    while i < n:
        end = component_end(p, n, i)
        hash = hint.hash[k] if k < hint.count else fx_hash(s.secret, hash, p + i, end - i)
        k += 1
        child = hashed_child(s, hash, h, p + i, end - i)
        if child == 0:
            deepest[0] = h
            rest[0] = i
            return 0
        h = child
        i = end + 1
    return h


cdef handle tree_find_at(Store *s, const char *p, uint32_t n, uint64_t stamp, handle *deepest) noexcept nogil:
    cdef uint32_t i = 0, end
    cdef handle h, child
    h = start_of(s, p, &i)
    while i < n:
        end = component_end(p, n, i)
        child = tree_child_at(s, h, p + i, end - i, stamp)
        if child == 0:
            deepest[0] = h
            return 0
        h = child
        i = end + 1
    return h


cdef handle tree_first(Store *s, handle node) noexcept nogil:
    cdef Kids *k = kids_of(s, node)
    return 0 if k == NULL else k.first


# ---- owners ----------------------------------------------------------------------------------------

cdef inline Domain *node_owner(Store *s, Node *n) noexcept nogil:
    cdef uint32_t domid = owner_of(s, n.perms)
    return NULL if domid >= DOMIDS else s.domain[domid]


cdef void charge(Store *s, handle h) noexcept nogil:
    cdef Node *n = node_at(s, h)
    cdef Domain *d = node_owner(s, n)
    n.mine_prev = n.mine_next = 0
    if d == NULL:
        return
    n.mine_next = d.nodes
    if d.nodes:
        node_at(s, d.nodes).mine_prev = h
    d.nodes = h
    account(s, d, Q_NODES, 1)
    account(s, d, Q_MEMORY, node_bytes(s, h))


cdef void uncharge(Store *s, handle h) noexcept nogil:
    cdef Node *n = node_at(s, h)
    cdef Domain *d = node_owner(s, n)
    if d == NULL:
        return
    if n.mine_prev:
        node_at(s, n.mine_prev).mine_next = n.mine_next
    else:
        d.nodes = n.mine_next
    if n.mine_next:
        node_at(s, n.mine_next).mine_prev = n.mine_prev
    account(s, d, Q_NODES, -1)
    account(s, d, Q_MEMORY, -<int64_t>node_bytes(s, h))


# ---- versions and ghosts ------------------------------------------------------------------------------

cdef void attach(Store *s, handle h, View *v) noexcept nogil:
    cdef Held *held = held_at(s, h)
    held.holder = v
    held.prev = 0
    held.next = v.held
    if v.held:
        held_at(s, v.held).prev = h
    v.held = h
    v.held_bytes += held.bytes


cdef void detach(Store *s, handle h) noexcept nogil:
    cdef Held *held = held_at(s, h)
    if held.prev:
        held_at(s, held.prev).next = held.next
    else:
        held.holder.held = held.next
    if held.next:
        held_at(s, held.next).prev = held.prev
    held.holder.held_bytes -= held.bytes


cdef void free_version(Store *s, handle h) noexcept nogil:
    """A superseded version that no snapshot sees; detached already."""
    cdef Held *held = held_at(s, h)
    if held.newer:
        held_at(s, held.newer).older = held.older
    else:
        node_at(s, held.node).old = held.older
    if held.older:
        held_at(s, held.older).newer = held.newer
    if held.value:
        give(s, held.value, held.value_len)
    perms_drop(s, held.perms)
    give(s, h, sizeof(Held))


cdef void free_ghost(Store *s, handle h) noexcept nogil:
    """A node that left and that no snapshot sees any more; detached already."""
    cdef Held *held = held_at(s, h)
    cdef handle node = held.node
    cdef Kids *k = kids_of(s, node_at(s, node).parent)
    table_drop(s, &s.ghosts, h)
    if held.newer:
        held_at(s, held.newer).older = held.older
    else:
        k.ghosts = held.older
    if held.older:
        held_at(s, held.older).newer = held.newer
    give(s, h, sizeof(Held))
    leave(s, node, False)


cdef handle keep(Store *s, handle node, uint64_t start, bint ghost) noexcept nogil:
    """A Held for the newest snapshot, if that can see what was true from `start` on; 0: no snapshot needs it.

    A snapshot that would hold more than its owner may, or for which there is no memory, is lost:
    its transaction will end with EAGAIN, and the next older one is asked.
    """
    cdef View *v
    cdef Held *held
    cdef handle h
    cdef uint32_t bytes = <uint32_t>sizeof(Held) + (GHOST_BYTES if ghost else rounded(node_at(s, node).value_len))
    while s.newest != NULL and s.newest.stamp >= start:
        v = s.newest
        h = 0 if v.held_limit and v.held_bytes + bytes > v.held_limit else take(s, sizeof(Held))
        if h == 0:
            v.flags |= VIEW_LOST
            snapshot_close(s, v)
            continue
        held = held_at(s, h)
        memset(held, 0, sizeof(Held))
        held.node = node
        held.is_ghost = ghost
        held.start = start
        held.end = s.stamp
        held.bytes = bytes
        attach(s, h, v)
        return h
    return 0


cdef bint keep_version(Store *s, handle h, bint value_stays) noexcept nogil:
    """Before a change: the newest snapshot that can see the present value and permissions gets them.

    True: the count of perms now belongs to the Held, the caller gives the node new ones; a value out
    of line was handed over, unless it `value_stays` (then, as one in line, it was copied).
    """
    cdef Node *n = node_at(s, h)
    cdef handle k, copy = 0
    cdef Held *held
    if s.newest == NULL or s.newest.stamp < n.gen:
        return False
    if n.value_len and (value_stays or not n.bits & NODE_OUT):
        copy = take(s, n.value_len)
        if copy == 0:
            lose(s, n.gen)
            return False
        memcpy(at(s, copy), value_of(s, n), n.value_len)
    k = keep(s, h, n.gen, False)
    if k == 0:
        if copy:
            give(s, copy, n.value_len)
        return False
    held = held_at(s, k)
    held.value = copy
    held.value_len = n.value_len
    if n.bits & NODE_OUT and not value_stays:
        held.value = out_of(n)
        n.bits &= ~NODE_OUT
        n.value_len = 0
    held.perms = n.perms
    held.older = n.old
    if n.old:
        held_at(s, n.old).newer = k
    n.old = k
    return True


cdef void lose(Store *s, uint64_t start) noexcept nogil:
    """No memory to keep what was true from `start` on: whoever could see it is lost."""
    while s.newest != NULL and s.newest.stamp >= start:
        s.newest.flags |= VIEW_LOST
        snapshot_close(s, s.newest)


cdef void tree_version(Store *s, handle node, uint64_t stamp, Version *seen) noexcept nogil:
    cdef Node *n = node_at(s, node)
    cdef Held *held
    cdef handle h = n.old
    seen.value = value_of(s, n)
    seen.value_len = n.value_len
    seen.perms = n.perms
    if n.gen <= stamp:
        return
    while h and held_at(s, h).start > stamp:
        h = held_at(s, h).older
    if h and stamp < held_at(s, h).end:         # else nothing was kept for it: it has closed
        held = held_at(s, h)
        seen.value = at(s, held.value) if held.value else NULL
        seen.value_len = held.value_len
        seen.perms = held.perms


cdef void snapshot_open(Store *s, View *v) noexcept nogil:
    v.stamp = s.stamp
    v.open = True
    v.newer = NULL
    v.older = s.newest
    if s.newest != NULL:
        s.newest.newer = v
    else:
        s.oldest = v
    s.newest = v


cdef void snapshot_close(Store *s, View *v) noexcept nogil:
    """What it held goes to the next older snapshot that can see it, or is freed."""
    cdef handle h
    cdef Held *held
    if not v.open:
        return
    v.open = False
    if v.older != NULL:
        v.older.newer = v.newer
    else:
        s.oldest = v.newer
    if v.newer != NULL:
        v.newer.older = v.older
    else:
        s.newest = v.older
    while v.held:
        h = v.held
        detach(s, h)
        held = held_at(s, h)
        if v.older != NULL and v.older.stamp >= held.start:
            attach(s, h, v.older)
        elif held.is_ghost:
            free_ghost(s, h)
        else:
            free_version(s, h)


# ---- changing ------------------------------------------------------------------------------------------

cdef void record(Store *s, handle h) noexcept nogil:
    cdef Node *node = node_at(s, h)
    cdef NodeRecord r
    cdef char *out = journal_put(s, J_NODE, node.birth, <uint32_t>NODE_HEAD + node.name_len + node.value_len)
    if out == NULL:
        return
    memset(&r, 0, sizeof(r))
    r.perms = (<Perms *>at(s, node.perms)).id
    r.parent = node_at(s, node.parent).birth if node.parent else 0
    r.name_len = node.name_len
    r.value_len = node.value_len
    memcpy(out, &r, NODE_HEAD)
    memcpy(out + NODE_HEAD, node.data, node.name_len)
    memcpy(out + NODE_HEAD + node.name_len, value_of(s, node), node.value_len)


cdef handle new_node(Store *s, const char *name, uint32_t n, uint32_t room) noexcept nogil:
    """A node with nothing but a name, and room for a value (or for the handle of one)."""
    cdef uint32_t size
    cdef handle h
    cdef Node *node
    if room < sizeof(handle) or room > ROOM_MAX:
        room = sizeof(handle)
    size = rounded(HEAD + n + room)
    h = take(s, size)
    if h:
        node = node_at(s, h)
        memset(node, 0, HEAD)
        node.bits = <uint16_t>(size // 8)
        node.name_len = <uint16_t>n
        memcpy(node.data, name, n)
    return h


cdef void free_node(Store *s, handle h) noexcept nogil:
    cdef Node *n = node_at(s, h)
    if n.bits & NODE_OUT:
        give(s, out_of(n), n.value_len)
    give(s, h, item_bytes(n))


cdef handle add_node(Store *s, handle parent, const char *name, uint32_t n, handle perms, uint32_t room,
                     uint64_t birth) noexcept nogil:
    cdef handle h = new_node(s, name, n, room)
    cdef Node *node
    cdef Kids *k
    if node_at(s, parent).kids == 0:
        node_at(s, parent).kids = take(s, sizeof(Kids))
        if node_at(s, parent).kids:
            memset(kids_of(s, parent), 0, sizeof(Kids))
    if h == 0 or node_at(s, parent).kids == 0:
        if h:
            free_node(s, h)
        return 0
    node = node_at(s, h)
    node.hash = child_hash(s, parent, name, n)
    node.parent = parent
    node.perms = perms
    node.gen = node.birth = birth
    table_add(s, &s.nodes, h)
    k = kids_of(s, parent)
    node.prev = k.last
    if k.last:
        node_at(s, k.last).next = h
    else:
        k.first = h
    k.last = h
    k.count += 1
    k.bytes += n + 1
    k.gen = s.stamp
    charge(s, h)
    return h


cdef handle tree_create(Store *s, handle parent, const char *name, uint32_t n, handle perms,
                        uint32_t room) noexcept nogil:
    cdef handle h
    s.stamp += 1
    h = add_node(s, parent, name, n, perms, room, s.stamp)
    if h:
        record(s, h)
    return h


cdef handle tree_restore(Store *s, const Saved *saved) noexcept nogil:
    cdef handle h
    perms_hold(s, saved.perms)
    if saved.parent:
        h = add_node(s, saved.parent, saved.name, saved.name_len, saved.perms, saved.value_len, saved.birth)
    else:
        h = s.root = bare_node(s, saved.perms, saved.birth)
        charge(s, h)
        perms_drop(s, saved.perms)
    if h == 0 or tree_set_value(s, h, saved.value, saved.value_len):
        return 0
    node_at(s, h).gen = s.stamp
    return h


cdef int tree_set_value(Store *s, handle h, const char *value, uint32_t n) noexcept nogil:
    """In its node where it fits; else out of line, there in place where that fits."""
    cdef Node *node = node_at(s, h)
    cdef Domain *d = node_owner(s, node)
    cdef uint32_t before = node_bytes(s, h)
    cdef bint fits = n <= capacity(node)
    cdef bint kept = s.newest != NULL and s.newest.stamp >= node.gen
    cdef bint reuse = not fits and not kept and out_bytes(node) == rounded(n)
    cdef handle out = 0
    if not fits and not reuse:
        out = take(s, n)
        if out == 0:
            return ENOMEM
    s.stamp += 1
    if kept and keep_version(s, h, False):
        perms_hold(s, node.perms)
    if reuse:
        memcpy(value_of(s, node), value, n)
    else:
        if node.bits & NODE_OUT:
            give(s, out_of(node), node.value_len)
            node.bits &= ~NODE_OUT
        if fits:
            memcpy(node.data + node.name_len, value, n)
        else:
            memcpy(at(s, out), value, n)
            memcpy(node.data + node.name_len, &out, sizeof(handle))
            node.bits |= NODE_OUT
    node.value_len = <uint16_t>n
    node.gen = s.stamp
    if d != NULL and node_bytes(s, h) != before:
        account(s, d, Q_MEMORY, <int64_t>node_bytes(s, h) - before)
    record(s, h)
    return 0


cdef int tree_set_perms(Store *s, handle h, handle perms) noexcept nogil:
    cdef Node *node = node_at(s, h)
    uncharge(s, h)
    s.stamp += 1
    if not keep_version(s, h, True):
        perms_drop(s, node.perms)
    node.perms = perms
    node.gen = s.stamp
    charge(s, h)
    record(s, h)
    return 0


cdef void tree_remove(Store *s, handle h) noexcept nogil:
    cdef Node *node = node_at(s, h)
    cdef Kids *k = kids_of(s, node.parent)
    cdef handle ghost
    cdef Held *held
    s.stamp += 1
    table_drop(s, &s.nodes, h)
    if node.prev:
        node_at(s, node.prev).next = node.next
    else:
        k.first = node.next
    if node.next:
        node_at(s, node.next).prev = node.prev
    else:
        k.last = node.prev
    node.prev = node.next = 0
    k.count -= 1
    k.bytes -= node.name_len + 1
    k.gen = s.stamp
    node.bits |= NODE_LEFT
    journal_drop(s, J_NODE, node.birth)         # what is below has no parent in the image from now on
    ghost = keep(s, h, node.birth, True)
    if ghost == 0:
        leave(s, h, False)
        return
    held = held_at(s, ghost)
    held.hash = node.hash
    held.older = k.ghosts
    if k.ghosts:
        held_at(s, k.ghosts).newer = ghost
    k.ghosts = ghost
    table_add(s, &s.ghosts, ghost)
    node.bits |= NODE_GHOST
    leave(s, h, True)


# ---- giving back ------------------------------------------------------------------------------------------

cdef void leave(Store *s, handle h, bint keep_it) noexcept nogil:
    """Queue what left the tree: to be freed, or (a snapshot sees it) only to be uncharged."""
    cdef Reclaim *r = <Reclaim *>malloc(sizeof(Reclaim))
    cdef Reclaim now
    if r == NULL:                               # no memory to wait with: do it at once
        r = &now
    r.next = NULL
    r.root = r.at = h
    r.keep = keep_it
    if r == &now:
        while not reclaim_some(s, r):
            pass
    elif s.reclaim_last != NULL:
        s.reclaim_last.next = r
        s.reclaim_last = r
    else:
        s.reclaim_first = s.reclaim_last = r


cdef bint reclaim_some(Store *s, Reclaim *r) noexcept nogil:
    """One step of the walk; True: it is at its end."""
    cdef handle h = r.at, up
    cdef Node *n = node_at(s, h)
    cdef Kids *k = kids_of(s, h)
    if r.keep:                                  # preorder by links, nothing is freed
        if not n.bits & NODE_UNCHARGED:
            uncharge(s, h)
            n.bits |= NODE_UNCHARGED
        if k != NULL and k.first:
            r.at = k.first
            return False
        while r.at != r.root and node_at(s, r.at).next == 0:
            r.at = node_at(s, r.at).parent
        if r.at == r.root:
            return True
        r.at = node_at(s, r.at).next
        return False
    if k != NULL and k.first:                   # leaves first
        r.at = k.first
        return False
    up = n.parent
    if not n.bits & NODE_UNCHARGED:
        uncharge(s, h)
    if k != NULL:
        give(s, n.kids, sizeof(Kids))
    if h != r.root:
        journal_drop(s, J_NODE, n.birth)
        table_drop(s, &s.nodes, h)
        k = kids_of(s, up)
        k.first = n.next
        if n.next:
            node_at(s, n.next).prev = 0
    perms_drop(s, n.perms)
    free_node(s, h)
    r.at = up
    return h == r.root


cdef void tree_disown(Store *s, Domain *d) noexcept nogil:
    cdef handle h
    while d.nodes:
        h = d.nodes
        uncharge(s, h)
        node_at(s, h).bits |= NODE_UNCHARGED


cdef bint reclaim(Store *s, uint32_t steps) noexcept nogil:
    cdef Reclaim *r = s.reclaim_first
    while r != NULL and steps > 0:
        steps -= 1
        s.work += 1
        if reclaim_some(s, r):
            s.reclaim_first = r.next
            if r.next == NULL:
                s.reclaim_last = NULL
            free(r)
            r = s.reclaim_first
    return r != NULL


# ---- listing ------------------------------------------------------------------------------------------

cdef int by_birth(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const Step *>a).order, y = (<const Step *>b).order
    return (x > y) - (x < y)


cdef int ghosts_of(Store *s, Kids *k, uint64_t stamp) noexcept nogil:
    """The children that left and that a snapshot sees, oldest first, into s.steps; how many, -1: no memory."""
    cdef handle h = k.ghosts
    cdef uint32_t count = 0
    cdef void *p
    while h:
        if held_at(s, h).start <= stamp < held_at(s, h).end:
            if count == s.step_cap:
                p = realloc(s.steps, <size_t>(count * 2 + 64) * sizeof(Step))
                if p == NULL:
                    return -1
                s.steps = <Step *>p
                s.step_cap = count * 2 + 64
            s.steps[count].node = held_at(s, h).node
            s.steps[count].order = held_at(s, h).start
            count += 1
        h = held_at(s, h).older
    if count > 1:
        qsort(s.steps, count, sizeof(Step), by_birth)
    return <int>count


cdef int tree_list_at(Store *s, handle node, uint64_t stamp, Buf *out) noexcept nogil:
    """Merge of the living (in order of birth) and of the ghosts that the snapshot sees."""
    cdef Kids *k = kids_of(s, node)
    cdef handle live, next
    cdef Node *n
    cdef int ghosts = 0, i = 0
    if k == NULL:
        return 0
    if k.ghosts:
        ghosts = ghosts_of(s, k, stamp)
    if ghosts < 0:
        return ENOMEM
    live = k.first
    while True:
        if live and node_at(s, live).birth > stamp:
            live = 0                            # born later, like all behind it
        if i < ghosts and (live == 0 or s.steps[i].order < node_at(s, live).birth):
            next = s.steps[i].node
            i += 1
        elif live:
            next = live
            live = node_at(s, live).next
        else:
            return 0
        n = node_at(s, next)
        if buf_room(out, n.name_len + 1):
            return ENOMEM
        memcpy(out.data + out.len, n.data, n.name_len)
        out.data[out.len + n.name_len] = 0
        out.len += n.name_len + 1


cdef int tree_path(Store *s, handle node, Buf *out) noexcept nogil:
    cdef handle h = node
    cdef uint32_t size = 0, i
    cdef Node *n
    if node == s.root:
        return buf_add(out, b"/", 1)
    while h != s.root and h != s.specials:
        size += node_at(s, h).name_len + 1
        h = node_at(s, h).parent
    if h == s.specials:
        size -= 1
    if buf_room(out, size):
        return ENOMEM
    i = out.len + size
    h = node
    while h != s.root and h != s.specials:
        n = node_at(s, h)
        i -= n.name_len
        memcpy(out.data + i, n.data, n.name_len)
        h = n.parent
        if h != s.specials:
            i -= 1
            out.data[i] = c'/'
    out.len += size
    return 0


# ---- beginning and end ------------------------------------------------------------------------------------

cdef handle bare_node(Store *s, handle perms, uint64_t birth) noexcept nogil:
    """A node without parent: `/` and the hidden one above the specials."""
    cdef handle h = new_node(s, b"", 0, 0)
    cdef Node *n
    if h == 0:
        return 0
    n = node_at(s, h)
    n.perms = perms
    perms_hold(s, perms)
    n.gen = n.birth = birth
    return h


cdef int tree_begin(Store *s) noexcept nogil:
    cdef Ace owner
    cdef handle perms
    memset(&owner, 0, sizeof(owner))
    owner.domid = s.priv_domid
    perms = perms_intern(s, &owner, 1)
    if perms == 0:
        return ENOMEM
    s.specials = bare_node(s, perms, BIRTH_SPECIALS)
    perms_drop(s, perms)
    if s.specials == 0:
        return ENOMEM
    node_at(s, s.specials).hash = 1
    return 0


cdef int tree_init(Store *s) noexcept nogil:
    """The nodes that every client finds (SPEC 2.3.6): all are dom0's alone, but everybody may read
    `@releaseDomain` (Xen 4.22, SPEC 1.5)."""
    cdef Ace[2] list
    cdef handle perms, everybody, tool
    memset(list, 0, sizeof(list))
    list[0].domid = s.priv_domid
    list[1].domid = DOMID_ANY
    list[1].rights = RIGHT_READ
    perms = perms_intern(s, list, 1)
    everybody = perms_intern(s, list, 2)
    if perms == 0 or everybody == 0 or tree_begin(s):
        return ENOMEM
    s.stamp = BIRTH_ROOT
    s.root = bare_node(s, perms, BIRTH_ROOT)
    if s.root == 0:
        return ENOMEM
    charge(s, s.root)
    record(s, s.root)
    tool = first_node(s, s.root, b"tool", perms)
    if tool == 0 or first_node(s, tool, b"xenstored", perms) == 0 \
            or first_node(s, s.specials, b"@introduceDomain", perms) == 0 \
            or first_node(s, s.specials, b"@releaseDomain", everybody) == 0:
        return ENOMEM
    perms_drop(s, perms)
    perms_drop(s, everybody)
    return 0


cdef handle first_node(Store *s, handle parent, const char *name, handle perms) noexcept nogil:
    perms_hold(s, perms)
    return tree_create(s, parent, name, <uint32_t>strlen(name), perms, 0)


cdef void tree_free(Store *s) noexcept nogil:
    while reclaim(s, 1 << 20):
        pass
