"""The watch trie.

Owns watched paths and the watches on them.  A change walks the trie beside its own path, so what it
costs depends on its ancestors and on who watches them, not on how many watches there are.  Refuses to
know what changed or why.

Watches that match one change are told in order of registration (SPEC 1.5).  Whoever may read neither
the node nor its parent is not told (XSA-115).
"""
from libc.errno cimport EEXIST, ENOENT, ENOMEM
from libc.stdint cimport int16_t, int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport qsort, realloc
from libc.string cimport memcmp, memcpy, memset

from fastxs.core.heap cimport at, bucket, buf_room, fx_hash, give, rounded, table_add, table_drop, take
from fastxs.core.journal cimport J_WATCH, WatchRecord, journal_drop, journal_put
from fastxs.core.model cimport (KIND_MEMORY, Q_MEMORY, Q_WATCHES, RIGHT_READ, WATCH_RELATIVE, WATCH_SPECIAL, Buf, Conn,
                                Match, Step, Store, Watch, WNode, handle, layout)
from fastxs.core.outbox cimport out_event, out_forget_watch
from fastxs.core.paths cimport component_end, path_base
from fastxs.core.perms cimport conn_rights
from fastxs.core.quota cimport account
from fastxs.core.trace cimport trace_object
from fastxs.core.tree cimport node_at, tree_child, tree_find

LAYOUT = layout()


cdef inline WNode *wnode_at(Store *s, handle h) noexcept nogil:
    return <WNode *>at(s, h)


cdef inline Watch *watch_at(Store *s, handle h) noexcept nogil:
    return <Watch *>at(s, h)


cdef inline uint32_t wnode_size(uint32_t name_len) noexcept nogil:
    return <uint32_t>(sizeof(WNode) - 2) + name_len


cdef inline uint32_t watch_size(uint32_t token_len) noexcept nogil:
    return <uint32_t>(sizeof(Watch) - 2) + token_len


# ---- the trie ------------------------------------------------------------------------------------------

cdef int watches_init(Store *s) noexcept nogil:
    s.wroot = take(s, sizeof(WNode))
    s.wspecials = take(s, sizeof(WNode))
    if s.wroot == 0 or s.wspecials == 0:
        return ENOMEM
    memset(wnode_at(s, s.wroot), 0, sizeof(WNode))
    memset(wnode_at(s, s.wspecials), 0, sizeof(WNode))
    return 0


cdef handle wchild(Store *s, handle parent, const char *name, uint32_t n) noexcept nogil:
    cdef uint32_t hash
    cdef handle h
    cdef WNode *w
    if wnode_at(s, parent).child == 0:
        return 0
    hash = fx_hash(s.secret, parent, name, n)
    h = bucket(&s.wnodes, hash)[0]
    while h:
        w = wnode_at(s, h)
        if w.hash == hash and w.parent == parent and w.name_len == n and memcmp(w.name, name, n) == 0:
            return h
        h = w.chain
    return 0


cdef handle wadd(Store *s, handle parent, const char *name, uint32_t n) noexcept nogil:
    cdef handle h = take(s, wnode_size(n))
    cdef WNode *w
    cdef WNode *up = wnode_at(s, parent)
    if h == 0:
        return 0
    w = wnode_at(s, h)
    memset(w, 0, sizeof(WNode) - 2)
    w.hash = fx_hash(s.secret, parent, name, n)
    w.parent = parent
    w.name_len = <uint16_t>n
    memcpy(w.name, name, n)
    w.next = up.child
    if up.child:
        wnode_at(s, up.child).prev = h
    up.child = h
    table_add(s, &s.wnodes, h)
    return h


cdef void wprune(Store *s, handle h) noexcept nogil:
    """Give back components that no watch needs any more, upwards."""
    cdef WNode *w
    cdef handle up
    while h != s.wroot and h != s.wspecials:
        w = wnode_at(s, h)
        if w.child or w.first:
            return
        up = w.parent
        table_drop(s, &s.wnodes, h)
        if w.prev:
            wnode_at(s, w.prev).next = w.next
        else:
            wnode_at(s, up).child = w.next
        if w.next:
            wnode_at(s, w.next).prev = w.prev
        give(s, h, wnode_size(w.name_len))
        h = up


cdef handle wfind(Store *s, const char *p, uint32_t n, bint make) noexcept nogil:
    cdef uint32_t i = 0 if p[0] == c'@' else 1, end
    cdef handle h = s.wspecials if p[0] == c'@' else s.wroot, child
    while i < n:
        end = component_end(p, n, i) if p[0] != c'@' else n        # a special's name is no path
        child = wchild(s, h, p + i, end - i)
        if child == 0 and make:
            child = wadd(s, h, p + i, end - i)
            if child == 0:
                wprune(s, h)
        if child == 0:
            return 0
        h = child
        i = end + 1
    return h


# ---- watches -------------------------------------------------------------------------------------------

cdef inline uint32_t watch_hash(Store *s, Conn *conn, handle wnode, const char *token, uint32_t n) noexcept nogil:
    return fx_hash(s.secret ^ conn.index, wnode, token, n)


cdef handle watch_find(Store *s, Conn *conn, handle wnode, const char *token, uint32_t n) noexcept nogil:
    cdef uint32_t hash = watch_hash(s, conn, wnode, token, n)
    cdef handle h = bucket(&s.watches, hash)[0]
    cdef Watch *w
    while h:
        w = watch_at(s, h)
        if w.hash == hash and w.conn == conn.index and w.wnode == wnode and w.token_len == n \
                and memcmp(w.token, token, n) == 0:
            return h
        h = w.chain
    return 0


cdef inline int64_t watch_bytes(Watch *w) noexcept nogil:
    return rounded(watch_size(w.token_len))


cdef int watch_add(Store *s, Conn *conn, const char *p, uint32_t n, const char *token, uint32_t token_len, int depth,
                   bint relative, handle *made) noexcept nogil:
    cdef handle wnode = wfind(s, p, n, True), h
    cdef Watch *w
    cdef WNode *on
    if wnode == 0:
        return ENOMEM
    if watch_find(s, conn, wnode, token, token_len):
        return EEXIST
    h = take(s, watch_size(token_len))
    if h == 0:
        wprune(s, wnode)
        return ENOMEM
    w = watch_at(s, h)
    memset(w, 0, sizeof(Watch) - 2)
    w.hash = watch_hash(s, conn, wnode, token, token_len)
    w.wnode = wnode
    w.conn = conn.index
    w.depth = <int16_t>(depth if depth < 4096 else 4096)        # no path has more components
    w.flags = (WATCH_RELATIVE if relative else 0) | (WATCH_SPECIAL if p[0] == c'@' else 0)
    if not s.restoring:
        s.watch_seq += 1
    w.seq_high = <uint32_t>(s.watch_seq >> 32)
    w.seq_low = <uint32_t>s.watch_seq
    w.token_len = <uint16_t>token_len
    memcpy(w.token, token, token_len)
    on = wnode_at(s, wnode)
    if on.first:
        w.prev = watch_at(s, on.first).prev
        watch_at(s, w.prev).next = h
    else:
        on.first = h
    watch_at(s, on.first).prev = h
    w.conn_prev = conn.watch_last
    if conn.watch_last:
        watch_at(s, conn.watch_last).conn_next = h
    else:
        conn.watch_first = h
    conn.watch_last = h
    conn.watches += 1
    table_add(s, &s.watches, h)
    if conn.domain != NULL:
        account(s, conn.domain, Q_WATCHES, 1)
        account(s, conn.domain, Q_MEMORY, watch_bytes(w) + n)
    made[0] = h
    trace_object(s, b"CREATE", b"watch", w)
    record(s, w, p, n)
    return 0


cdef inline uint64_t seq_of(Watch *w) noexcept nogil:
    return <uint64_t>w.seq_high << 32 | w.seq_low


cdef void record(Store *s, Watch *w, const char *p, uint32_t n) noexcept nogil:
    cdef WatchRecord r
    cdef char *out
    if s.conn[w.conn].kind == KIND_MEMORY:
        return
    out = journal_put(s, J_WATCH, seq_of(w), <uint32_t>sizeof(r) + n + w.token_len)
    if out == NULL:
        return
    memset(&r, 0, sizeof(r))
    r.conn = w.conn
    r.depth = w.depth
    r.flags = w.flags & WATCH_RELATIVE
    r.path_len = <uint16_t>n
    r.token_len = w.token_len
    memcpy(out, &r, sizeof(r))
    memcpy(out + sizeof(r), p, n)
    memcpy(out + sizeof(r) + n, w.token, w.token_len)


cdef uint32_t wpath_len(Store *s, handle h) noexcept nogil:
    """Length of a watched path in absolute form."""
    cdef uint32_t size = 0
    cdef WNode *w
    if h == s.wroot:
        return 1
    while h != s.wroot and h != s.wspecials:
        w = wnode_at(s, h)
        size += w.name_len + 1
        h = w.parent
    return size - 1 if h == s.wspecials else size


cdef void watch_drop(Store *s, handle h) noexcept nogil:
    cdef Watch *w = watch_at(s, h)
    cdef Conn *conn = s.conn[w.conn]
    cdef WNode *on = wnode_at(s, w.wnode)
    cdef handle wnode = w.wnode
    trace_object(s, b"DESTROY", b"watch", w)
    if conn.kind != KIND_MEMORY:
        journal_drop(s, J_WATCH, seq_of(w))
    out_forget_watch(s, h)
    table_drop(s, &s.watches, h)
    if on.first == h:
        on.first = w.next
    else:
        watch_at(s, w.prev).next = w.next
    if w.next:
        watch_at(s, w.next).prev = w.prev
    elif on.first:
        watch_at(s, on.first).prev = w.prev
    if w.conn_prev:
        watch_at(s, w.conn_prev).conn_next = w.conn_next
    else:
        conn.watch_first = w.conn_next
    if w.conn_next:
        watch_at(s, w.conn_next).conn_prev = w.conn_prev
    else:
        conn.watch_last = w.conn_prev
    conn.watches -= 1
    if conn.domain != NULL:
        account(s, conn.domain, Q_WATCHES, -1)
        account(s, conn.domain, Q_MEMORY, -(watch_bytes(w) + wpath_len(s, wnode)))
    give(s, h, watch_size(w.token_len))
    wprune(s, wnode)


cdef bint watch_there(Store *s, Conn *conn, const char *p, uint32_t n, const char *token,
                      uint32_t token_len) noexcept nogil:
    cdef handle wnode = wfind(s, p, n, False)
    return wnode != 0 and watch_find(s, conn, wnode, token, token_len) != 0


cdef int watch_remove(Store *s, Conn *conn, const char *p, uint32_t n, const char *token,
                      uint32_t token_len) noexcept nogil:
    cdef handle wnode = wfind(s, p, n, False)
    cdef handle h = watch_find(s, conn, wnode, token, token_len) if wnode else 0
    if h == 0:
        return ENOENT
    watch_drop(s, h)
    return 0


cdef void watches_drop(Store *s, Conn *conn) noexcept nogil:
    while conn.watch_first:
        watch_drop(s, conn.watch_first)


# ---- events ------------------------------------------------------------------------------------------------


cdef uint32_t step_of(Store *s, uint32_t nodes, handle wnode, uint32_t level) noexcept nogil:
    """Note a component that candidates come from; how many there are now."""
    if not more_steps(s, nodes + 1):
        return nodes
    s.steps[nodes].wnode = wnode
    s.steps[nodes].above = level
    return nodes + 1


cdef uint32_t gather(Store *s, uint32_t found, handle wnode, uint32_t level) noexcept nogil:
    """All watches on one component become candidates; how many there are now."""
    cdef handle h = wnode_at(s, wnode).first
    cdef Watch *w
    cdef void *p
    while h:
        if found == s.match_cap:
            p = realloc(s.match, <size_t>(s.match_cap * 2 + 64) * sizeof(Match))
            if p == NULL:
                return found
            s.match = <Match *>p
            s.match_cap = s.match_cap * 2 + 64
        w = watch_at(s, h)
        s.match[found].watch = h
        s.match[found].level = level
        s.match[found].seq = seq_of(w)
        found += 1
        h = w.next
    return found


cdef int by_seq(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const Match *>a).seq, y = (<const Match *>b).seq
    return (x > y) - (x < y)


cdef inline bint may_read(Store *s, Conn *conn, handle a, handle b, handle c) noexcept nogil:
    if conn.privileged:
        return True
    return (a and conn_rights(s, conn, a) & RIGHT_READ) or (b and conn_rights(s, conn, b) & RIGHT_READ) \
        or (c and conn_rights(s, conn, c) & RIGHT_READ)


cdef inline bint near(Watch *w, uint32_t below) noexcept nogil:
    """Does a change so many components below the watch's path concern it?"""
    return w.depth < 0 or below <= <uint32_t>w.depth


cdef bint told_by_elder(Store *s, Watch *w, uint32_t nodes, uint32_t levels) noexcept nogil:
    """Has an older watch of the same connection, with the same token on another of the `nodes` (in s.steps), told
    the very same event?  An event identical to one that is still queued is dropped (SPEC 1.5)."""
    cdef uint32_t i
    cdef handle h
    cdef Watch *other
    for i in range(nodes):
        if s.steps[i].wnode == w.wnode:
            continue
        h = watch_find(s, s.conn[w.conn], s.steps[i].wnode, w.token, w.token_len)
        if h == 0:
            continue
        other = watch_at(s, h)
        if seq_of(other) < seq_of(w) and not (other.flags ^ w.flags) & WATCH_RELATIVE \
                and near(other, levels - s.steps[i].above):
            return True
    return False


cdef void tell(Store *s, uint32_t found, uint32_t nodes, uint32_t levels, const char *p, uint32_t n, handle perms,
               handle old_perms, handle parent_perms) noexcept nogil:
    """The event goes to the candidates that are near enough and may read.

    `nodes`: how many components in s.steps the candidates come from, with their level in `above`.
    """
    cdef uint32_t i, skip
    cdef Watch *w
    cdef Conn *conn
    cdef Conn *asked = NULL
    cdef bint allowed = False
    cdef char[32] base
    for i in range(found):
        w = watch_at(s, s.match[i].watch)
        if not near(w, levels - s.match[i].level):
            continue
        conn = s.conn[w.conn]
        if conn != asked:
            asked = conn
            allowed = may_read(s, conn, perms, old_perms, parent_perms)
        if not allowed or (nodes > 1 and told_by_elder(s, w, nodes, levels)):
            continue
        skip = path_base(conn.domid, base) if w.flags & WATCH_RELATIVE else 0
        out_event(s, conn, s.match[i].watch, p + skip, n - skip, False)


cdef void fire(Store *s, const char *p, uint32_t n, bint exact, handle perms, handle old_perms,
               handle parent_perms) noexcept nogil:
    cdef uint32_t i = 1, end, level = 0, found = 0, nodes = 0, levels
    cdef handle w = s.wroot
    if wnode_at(s, w).first and (not exact or n == 1):
        found = gather(s, found, w, 0)
        nodes = step_of(s, nodes, w, 0)
    while i < n:
        end = component_end(p, n, i)
        w = wchild(s, w, p + i, end - i)
        if w == 0:
            break
        level += 1
        i = end + 1
        if wnode_at(s, w).first and (not exact or i > n):
            found = gather(s, found, w, level)
            nodes = step_of(s, nodes, w, level)
    if found == 0:
        return
    levels = level
    while i < n:                                # components that nobody watches count for depth
        levels += 1
        i = component_end(p, n, i) + 1
    if nodes > 1:
        qsort(s.match, found, sizeof(Match), by_seq)
    tell(s, found, nodes, levels, p, n, perms, old_perms, parent_perms)


cdef int by_order(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const Step *>a).order, y = (<const Step *>b).order
    return (x > y) - (x < y)


cdef bint more_steps(Store *s, uint32_t need) noexcept nogil:
    cdef void *p
    if need <= s.step_cap:
        return True
    p = realloc(s.steps, <size_t>(need * 2 + 64) * sizeof(Step))
    if p == NULL:
        return False
    s.steps = <Step *>p
    s.step_cap = need * 2 + 64
    return True


cdef uint32_t watched_below(Store *s, handle wnode, handle node) noexcept nogil:
    """All components below `wnode` that exist below `node`, into s.steps; how many.

    Breadth first, siblings in order of birth; `order` then becomes the place in post-order.
    The trie is walked, not the tree: costs the watched paths below, however large the subtree.
    """
    cdef uint32_t done = 0, count = 1, first
    cdef handle c, child
    cdef WNode *w
    if not more_steps(s, 1):
        return 0
    s.steps[0].wnode = wnode
    s.steps[0].node = node
    while done < count:
        first = count
        c = wnode_at(s, s.steps[done].wnode).child
        while c:
            w = wnode_at(s, c)
            child = tree_child(s, s.steps[done].node, w.name, w.name_len)
            if child:
                if not more_steps(s, count + 1):
                    return count
                s.steps[count].wnode = c
                s.steps[count].node = child
                s.steps[count].order = node_at(s, child).birth
                s.steps[count].above = done
                count += 1
            c = w.next
        qsort(&s.steps[first], count - first, sizeof(Step), by_order)
        done += 1
    return count


cdef void post_order(Store *s, uint32_t count) noexcept nogil:
    """Sort the steps: children before parents, elder siblings first.

    Each step gets its subtree's size bottom-up, then its place top-down; no recursion (XSA-418).
    """
    cdef uint32_t i
    cdef Step *up
    for i in range(count):
        s.steps[i].size = 1
        s.steps[i].order = 0
    i = count
    while i > 1:
        i -= 1
        s.steps[s.steps[i].above].size += s.steps[i].size
    # `order` of a parent: where its subtree starts; children take their places in turn
    for i in range(1, count):
        up = &s.steps[s.steps[i].above]
        s.steps[i].order = up.order
        up.order += s.steps[i].size             # the next sibling starts behind; at the end this is the parent's place
    qsort(s.steps, count, sizeof(Step), by_order)


cdef void fire_removed(Store *s, const char *p, uint32_t n, handle node) noexcept nogil:
    cdef handle w = wfind(s, p, n, False), up
    cdef uint32_t count, i, found, size
    cdef Buf *path = &s.text
    cdef uint32_t mark = path.len
    if w and wnode_at(s, w).child:
        count = watched_below(s, w, node)
        post_order(s, count)
        for i in range(count):
            if s.steps[i].node == node or wnode_at(s, s.steps[i].wnode).first == 0:
                continue
            size = wpath_len(s, s.steps[i].wnode)
            if buf_room(path, size):
                break
            wpath(s, s.steps[i].wnode, path.data + mark, size)
            found = gather(s, 0, s.steps[i].wnode, 0)
            up = node_at(s, s.steps[i].node).parent
            tell(s, found, 1, 0, path.data + mark, size, node_at(s, s.steps[i].node).perms, 0, node_at(s, up).perms)
    up = node_at(s, node).parent
    fire(s, p, n, False, node_at(s, node).perms, 0, node_at(s, up).perms if up else 0)


cdef void wpath(Store *s, handle h, char *out, uint32_t size) noexcept nogil:
    """The absolute path of a component, `size` = wpath_len bytes."""
    cdef WNode *w
    while h != s.wroot and h != s.wspecials:
        w = wnode_at(s, h)
        size -= w.name_len
        memcpy(out + size, w.name, w.name_len)
        h = w.parent
        if size:
            size -= 1
            out[size] = c'/'


cdef void fire_special(Store *s, const char *name, uint32_t n, int32_t domid) noexcept nogil:
    """Plain: to watches without a depth.  `/domid` (Xen 4.22): to watches with depth >= 1, and on exactly that path."""
    cdef handle w = wchild(s, s.wspecials, name, n), child = 0, node, deepest = 0
    cdef handle perms
    cdef uint32_t found = 0, rest = 0, len = n, i
    cdef char[64] text
    cdef Watch *watch
    cdef bint matches
    node = tree_find(s, name, n, &deepest, &rest)
    perms = node_at(s, node).perms if node else 0
    memcpy(text, name, n)
    if w:
        found = gather(s, 0, w, 0)
    if domid >= 0:
        len += <uint32_t>snprintf(text + n, 16, b"/%d", domid)
        child = wchild(s, s.wspecials, text, len)
        if child:
            found = gather(s, found, child, 1)
    if found > 1:
        qsort(s.match, found, sizeof(Match), by_seq)
    for i in range(found):
        watch = watch_at(s, s.match[i].watch)
        if s.match[i].level == 1:
            matches = True
        else:
            matches = watch.depth >= 1 if domid >= 0 else watch.depth < 0
        if matches and may_read(s, s.conn[watch.conn], perms, 0, 0):
            out_event(s, s.conn[watch.conn], s.match[i].watch, text, len, True)
