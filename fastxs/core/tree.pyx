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

from fastxs.core.heap cimport at, bucket, buf_add, buf_room, fx_hash, fx_prefetch, give, rounded, table_add, table_drop, take
from fastxs.core.model cimport (DOMID_ANY, DOMIDS, NODE_GHOST, NODE_SPECIAL, NODE_UNCHARGED, Q_MEMORY, Q_NODES, RIGHT_READ, Ace,
                                Blob, Buf, Domain, Held, Kids, Node, Reclaim, Step, Store, View, VIEW_LOST, handle)
from fastxs.core.paths cimport component_end
from fastxs.core.perms cimport owner_of, perms_drop, perms_hold, perms_intern
from fastxs.core.quota cimport account

cdef struct Component:          # of a path
    uint32_t begin
    uint32_t end
    uint32_t hash               # of the path up to here

cdef enum:
    AHEAD = 16                  # components that a walk looks ahead
    LARGE = 8192                # nodes that no longer fit the near caches
    GHOST_BYTES = 128           # what a node that left is charged to the snapshot that holds it


cdef inline Held *held_at(Store *s, handle h) noexcept nogil:
    return <Held *>at(s, h)


cdef inline uint32_t blob_size(Blob *b) noexcept nogil:
    return <uint32_t>sizeof(Blob) + b.name_len + b.value_len


cdef uint32_t node_bytes(Store *s, handle node) noexcept nogil:
    return <uint32_t>sizeof(Node) + rounded(blob_size(blob_of(s, node)))


# ---- finding -------------------------------------------------------------------------------------

cdef inline bint is_child(Store *s, Node *n, handle parent, const char *name, uint32_t len) noexcept nogil:
    cdef Blob *b
    if n.parent != parent:
        return False
    b = <Blob *>at(s, n.blob)
    return b.name_len == len and memcmp(name_of(b), name, len) == 0


cdef inline handle hashed_child(Store *s, uint32_t hash, handle parent, const char *name, uint32_t n) noexcept nogil:
    cdef handle h = bucket(&s.nodes, hash)[0]
    cdef Node *node
    while h:
        node = node_at(s, h)
        if node.hash == hash and is_child(s, node, parent, name, n):
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
        if held.hash == hash and held.start <= stamp < held.end and is_child(s, node_at(s, held.node), parent, name, n):
            return held.node
        h = held.chain
    return 0


cdef inline handle start_of(Store *s, const char *p, uint32_t *i) noexcept nogil:
    """Where a walk starts, and the offset of the first component."""
    i[0] = 0 if p[0] == c'@' else 1
    return s.specials if p[0] == c'@' else s.root


cdef void warm(Store *s, const Component *c, uint32_t count) noexcept nogil:
    """Ask the memory for all components at once: buckets, then nodes, then names and values.

    A walk in a store of a million nodes is one cache miss after the other; this makes three waits of
    them, whatever the depth (READ: -0.7 us).  In a small store all of it is in the cache anyway.
    """
    cdef uint32_t k
    cdef handle h
    for k in range(count):
        fx_prefetch(bucket(&s.nodes, c[k].hash))
    for k in range(count):
        h = bucket(&s.nodes, c[k].hash)[0]
        if h:
            fx_prefetch(node_at(s, h))
    for k in range(count):
        h = bucket(&s.nodes, c[k].hash)[0]
        if h:
            fx_prefetch(blob_of(s, h))


cdef handle tree_find(Store *s, const char *p, uint32_t n, handle *deepest, uint32_t *rest) noexcept nogil:
    cdef Component[AHEAD] c
    cdef uint32_t i = 0, k, count, hash
    cdef handle h = start_of(s, p, &i), child
    hash = node_at(s, h).hash
    while i < n:
        count = 0
        while i < n and count < AHEAD:
            c[count].begin = i
            c[count].end = component_end(p, n, i)
            hash = c[count].hash = fx_hash(s.secret, hash, p + i, c[count].end - i)
            i = c[count].end + 1
            count += 1
        if s.nodes.count > LARGE:
            warm(s, c, count)
        for k in range(count):
            child = hashed_child(s, c[k].hash, h, p + c[k].begin, c[k].end - c[k].begin)
            if child == 0:
                deepest[0] = h
                rest[0] = c[k].begin
                return 0
            h = child
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


cdef void drop_blob(Store *s, handle blob) noexcept nogil:
    give(s, blob, blob_size(<Blob *>at(s, blob)))


cdef void free_version(Store *s, handle h) noexcept nogil:
    """A superseded version that no snapshot sees; detached already."""
    cdef Held *held = held_at(s, h)
    if held.newer:
        held_at(s, held.newer).older = held.older
    else:
        node_at(s, held.node).old = held.older
    if held.older:
        held_at(s, held.older).newer = held.newer
    if held.blob:
        drop_blob(s, held.blob)
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
    cdef uint32_t bytes = <uint32_t>sizeof(Held) + rounded(blob_size(blob_of(s, node)))
    if ghost:
        bytes += GHOST_BYTES
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


cdef bint keep_version(Store *s, handle h) noexcept nogil:
    """Before a change: hand the present value and permissions to the snapshot that sees them.

    True: the node's blob and count of perms now belong to the Held; the caller gives it new ones.
    """
    cdef Node *n = node_at(s, h)
    cdef handle k = keep(s, h, n.gen, False)
    cdef Held *held
    if k == 0:
        return False
    held = held_at(s, k)
    held.blob = n.blob
    held.perms = n.perms
    held.older = n.old
    if n.old:
        held_at(s, n.old).newer = k
    n.old = k
    return True


cdef void tree_version(Store *s, handle node, uint64_t stamp, handle *blob, handle *perms) noexcept nogil:
    cdef Node *n = node_at(s, node)
    cdef handle h = n.old
    blob[0] = n.blob
    perms[0] = n.perms
    if n.gen <= stamp:
        return
    while h:
        blob[0] = held_at(s, h).blob
        perms[0] = held_at(s, h).perms
        if held_at(s, h).start <= stamp:
            return
        h = held_at(s, h).older


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

cdef handle new_blob(Store *s, const char *name, uint32_t name_len, const char *value, uint32_t value_len) noexcept nogil:
    cdef handle h = take(s, <uint32_t>sizeof(Blob) + name_len + value_len)
    cdef Blob *b
    if h:
        b = <Blob *>at(s, h)
        b.name_len = <uint16_t>name_len
        b.value_len = <uint16_t>value_len
        memcpy(name_of(b), name, name_len)
        if value_len:
            memcpy(value_of(b), value, value_len)
    return h


cdef handle tree_create(Store *s, handle parent, const char *name, uint32_t n, handle perms) noexcept nogil:
    cdef handle h = take(s, sizeof(Node))
    cdef handle blob = new_blob(s, name, n, NULL, 0)
    cdef Node *node
    cdef Kids *k
    if node_at(s, parent).kids == 0:
        node_at(s, parent).kids = take(s, sizeof(Kids))
        if node_at(s, parent).kids:
            memset(kids_of(s, parent), 0, sizeof(Kids))
    if h == 0 or blob == 0 or node_at(s, parent).kids == 0:
        if h:
            give(s, h, sizeof(Node))
        if blob:
            drop_blob(s, blob)
        return 0
    s.stamp += 1
    node = node_at(s, h)
    memset(node, 0, sizeof(Node))
    node.hash = child_hash(s, parent, name, n)
    node.parent = parent
    node.perms = perms
    node.blob = blob
    node.gen = node.birth = s.stamp
    if parent == s.specials:
        node.flags = NODE_SPECIAL
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


cdef int tree_set_value(Store *s, handle h, const char *value, uint32_t n) noexcept nogil:
    cdef Node *node = node_at(s, h)
    cdef Blob *b = blob_of(s, h)
    cdef uint32_t old = rounded(blob_size(b)), new = rounded(<uint32_t>sizeof(Blob) + b.name_len + n)
    cdef handle blob = node.blob
    cdef Domain *d = node_owner(s, node)
    cdef bint kept = s.newest != NULL and s.newest.stamp >= node.gen
    if kept or old != new:
        blob = new_blob(s, name_of(b), b.name_len, value, n)
        if blob == 0:
            return ENOMEM
    s.stamp += 1
    if kept and keep_version(s, h):
        perms_hold(s, node.perms)
    elif blob != node.blob:
        drop_blob(s, node.blob)
    else:
        b.value_len = <uint16_t>n
        memcpy(value_of(b), value, n)
    node.blob = blob
    node.gen = s.stamp
    if old != new and d != NULL:
        account(s, d, Q_MEMORY, <int64_t>new - old)
    return 0


cdef int tree_set_perms(Store *s, handle h, handle perms) noexcept nogil:
    cdef Node *node = node_at(s, h)
    cdef Blob *b = blob_of(s, h)
    cdef handle blob = 0
    if s.newest != NULL and s.newest.stamp >= node.gen:
        blob = new_blob(s, name_of(b), b.name_len, value_of(b), b.value_len)
        if blob == 0:
            return ENOMEM
    uncharge(s, h)
    s.stamp += 1
    if keep_version(s, h):
        node.blob = blob
    else:
        if blob:
            drop_blob(s, blob)
        perms_drop(s, node.perms)
    node.perms = perms
    node.gen = s.stamp
    charge(s, h)
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
    k.bytes -= blob_of(s, h).name_len + 1
    k.gen = s.stamp
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
    node.flags |= NODE_GHOST
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
        if not n.flags & NODE_UNCHARGED:
            uncharge(s, h)
            n.flags |= NODE_UNCHARGED
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
    if not n.flags & NODE_UNCHARGED:
        uncharge(s, h)
    if k != NULL:
        give(s, n.kids, sizeof(Kids))
    if h != r.root:
        table_drop(s, &s.nodes, h)
        k = kids_of(s, up)
        k.first = n.next
        if n.next:
            node_at(s, n.next).prev = 0
    perms_drop(s, n.perms)
    drop_blob(s, n.blob)
    give(s, h, sizeof(Node))
    r.at = up
    return h == r.root


cdef bint reclaim(Store *s, uint32_t steps) noexcept nogil:
    cdef Reclaim *r = s.reclaim_first
    while r != NULL and steps > 0:
        steps -= 1
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
    qsort(s.steps, count, sizeof(Step), by_birth)
    return <int>count


cdef int tree_list_at(Store *s, handle node, uint64_t stamp, Buf *out) noexcept nogil:
    """Merge of the living (in order of birth) and of the ghosts that the snapshot sees."""
    cdef Kids *k = kids_of(s, node)
    cdef handle live, next
    cdef Blob *b
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
        b = blob_of(s, next)
        if buf_room(out, b.name_len + 1):
            return ENOMEM
        memcpy(out.data + out.len, name_of(b), b.name_len)
        out.data[out.len + b.name_len] = 0
        out.len += b.name_len + 1


cdef int tree_path(Store *s, handle node, Buf *out) noexcept nogil:
    cdef handle h = node
    cdef uint32_t size = 0, i
    cdef Blob *b
    if node == s.root:
        return buf_add(out, b"/", 1)
    while h != s.root and h != s.specials:
        size += blob_of(s, h).name_len + 1
        h = node_at(s, h).parent
    if h == s.specials:
        size -= 1
    if buf_room(out, size):
        return ENOMEM
    i = out.len + size
    h = node
    while h != s.root and h != s.specials:
        b = blob_of(s, h)
        i -= b.name_len
        memcpy(out.data + i, name_of(b), b.name_len)
        h = node_at(s, h).parent
        if h != s.specials:
            i -= 1
            out.data[i] = c'/'
    out.len += size
    return 0


# ---- beginning and end ------------------------------------------------------------------------------------

cdef handle bare_node(Store *s, handle perms) noexcept nogil:
    """A node without parent: `/` and the hidden one above the specials."""
    cdef handle h = take(s, sizeof(Node))
    cdef Node *n
    if h == 0:
        return 0
    n = node_at(s, h)
    memset(n, 0, sizeof(Node))
    n.perms = perms
    perms_hold(s, perms)
    n.blob = new_blob(s, b"", 0, NULL, 0)
    s.stamp += 1
    n.gen = n.birth = s.stamp
    return h if n.blob else 0


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
    if perms == 0 or everybody == 0:
        return ENOMEM
    s.specials = bare_node(s, perms)
    s.root = bare_node(s, perms)
    if s.specials == 0 or s.root == 0:
        return ENOMEM
    node_at(s, s.specials).hash = 1
    charge(s, s.root)
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
    return tree_create(s, parent, name, <uint32_t>strlen(name), perms)


cdef void tree_free(Store *s) noexcept nogil:
    while reclaim(s, 1 << 20):
        pass
