"""Checking and measuring the store.

Owns the rules that tie counters and indexes to what they count; walks all of it, so it is for CONTROL
check, tests and reports.  Changes nothing but giving back what left the tree.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastxs.core.heap cimport at, slot
from fastxs.core.model cimport (CHUNK_SHIFT, DOMIDS, NODE_OUT, Q_MEMORY, Q_NODES, Q_TRANSACTIONS, Q_WATCHES, Conn,
                                Domain, Item, Kids, Node, Perms, Store, Table, Tx, View, WNode, Watch, handle, layout)
from fastxs.core.perms cimport owner_of
from fastxs.core.tree cimport kids_of, node_at, node_bytes, reclaim, tree_child

LAYOUT = layout()


cdef uint32_t items(Store *s, Table *t, list faults, str what) except *:
    """Every item stands in the bucket of its hash; how many there are."""
    cdef uint32_t i, count = 0, want
    cdef handle h
    for i in range(t.buckets):
        h = slot(t, i)[0]
        while h:
            want = (<Item *>at(s, h)).hash & (2 * t.level - 1)
            if want >= t.buckets:
                want -= t.level
            if want != i:
                faults.append(f"{what}: an item of bucket {want} stands in {i}")
            count += 1
            h = (<Item *>at(s, h)).chain
    if count != t.count:
        faults.append(f"{what}: {count} items, counted {t.count}")
    return count


cdef int check_tree(Store *s, list faults, dict owned, dict bytes_) except -1:
    """Children's order, counts and generations; and what each owner has."""
    cdef handle h = s.root, last
    cdef uint32_t seen = 0, count, size
    cdef Kids *k
    cdef bint specials = False
    while True:
        k = kids_of(s, h)
        if h != s.specials:
            owner = owner_of(s, node_at(s, h).perms)
            owned[owner] = owned.get(owner, 0) + 1
            bytes_[owner] = bytes_.get(owner, 0) + node_bytes(s, h)
            seen += h != s.root
        if k != NULL:
            count = size = 0
            last = 0
            c = k.first
            while c:
                if node_at(s, c).parent != h or node_at(s, c).prev != last:
                    faults.append(f"node {c}: wrong links")
                if last and node_at(s, last).birth >= node_at(s, c).birth:
                    faults.append(f"node {c}: born before its elder sibling")
                if tree_child(s, h, node_at(s, c).data, node_at(s, c).name_len) != c:
                    faults.append(f"node {c}: not found by its name")
                count += 1
                size += node_at(s, c).name_len + 1
                last = c
                c = node_at(s, c).next
            if count != k.count or size != k.bytes or last != k.last:
                faults.append(f"node {h}: {count} children of {size} bytes, counted {k.count} of {k.bytes}")
            if count:
                h = k.first
                continue
        while h != s.root and h != s.specials and node_at(s, h).next == 0:
            h = node_at(s, h).parent
        if h != s.root and h != s.specials:
            h = node_at(s, h).next
        elif specials:
            break
        else:
            specials = True
            h = s.specials
    return seen


cdef int check_domains(Store *s, list faults, dict owned, dict bytes_) except -1:
    cdef uint32_t i
    cdef int64_t count, watches, txs
    cdef handle h
    cdef Domain *d
    for i in range(DOMIDS):
        d = s.domain[i]
        if d == NULL:
            if owned.get(i):
                faults.append(f"domain {i} is gone and owns {owned[i]} nodes")
            continue
        count = 0
        h = d.nodes
        while h:
            count += 1
            h = node_at(s, h).mine_next
        if not count == d.now[Q_NODES] == owned.get(i, 0):
            faults.append(f"domain {i}: owns {owned.get(i, 0)} nodes, listed {count}, counted {d.now[Q_NODES]}")
        watches = d.conn.watches if d.conn != NULL else 0
        txs = d.conn.txs if d.conn != NULL else 0
        if watches != d.now[Q_WATCHES] or txs != d.now[Q_TRANSACTIONS]:
            faults.append(f"domain {i}: {watches} watches and {txs} transactions, counted {d.now[Q_WATCHES]} "
                          f"and {d.now[Q_TRANSACTIONS]}")
        if d.now[Q_MEMORY] < bytes_.get(i, 0):
            faults.append(f"domain {i}: {bytes_[i]} bytes in nodes, counted {d.now[Q_MEMORY]} in all")
        if not watches and not txs and d.now[Q_MEMORY] != bytes_.get(i, 0):
            faults.append(f"domain {i}: {bytes_.get(i, 0)} bytes, counted {d.now[Q_MEMORY]}")
    return 0


cdef int check_watches(Store *s, list faults) except -1:
    cdef uint32_t i, total = 0, count
    cdef handle h
    cdef Conn *conn
    for i in range(s.conns):
        conn = s.conn[i]
        if conn == NULL:
            continue
        count = 0
        h = conn.watch_first
        while h:
            count += 1
            if (<Watch *>at(s, h)).conn != i:
                faults.append(f"watch {h}: of another connection")
            h = (<Watch *>at(s, h)).conn_next
        if count != conn.watches:
            faults.append(f"connection {conn.serial}: {count} watches, counted {conn.watches}")
        total += count
    if total != s.watches.count:
        faults.append(f"{total} watches of connections, {s.watches.count} in all")
    return 0


cdef int check_heap(Store *s, list faults, bint views) except -1:
    """Every item is reachable; every permission list is counted by its users (views hold some of both)."""
    cdef uint64_t expect = 4                    # the two nodes and the two watched paths that have no parent
    cdef uint32_t b
    cdef handle h
    cdef dict users = {}
    for h in (s.root, s.specials):
        users[node_at(s, h).perms] = users.get(node_at(s, h).perms, 0) + 1
        expect += (node_at(s, h).kids != 0) + (node_at(s, h).bits & NODE_OUT != 0)
    for b in range(s.nodes.buckets):
        h = slot(&s.nodes, b)[0]
        while h:
            users[node_at(s, h).perms] = users.get(node_at(s, h).perms, 0) + 1
            expect += 1 + (node_at(s, h).kids != 0) + (node_at(s, h).bits & NODE_OUT != 0)
            h = (<Item *>at(s, h)).chain
    expect += s.perms.count + s.loose_perms + s.watches.count + s.wnodes.count + s.events.count
    if not views and expect != s.heap.items:
        faults.append(f"{s.heap.items} items in the heap, {expect} reachable")
    for b in range(s.perms.buckets):
        h = slot(&s.perms, b)[0]
        while h:
            refs = (<Perms *>at(s, h)).refs
            if refs < users.get(h, 0) or (not views and refs != users.get(h, 0)):
                faults.append(f"permissions {h}: {users.get(h, 0)} users, counted {refs}")
            h = (<Item *>at(s, h)).chain
    return 0


cdef int check_store(Store *s, list faults) except -1:
    cdef uint32_t snapshots = 0, open_ = 0, i
    cdef bint views = False
    cdef View *v
    cdef Tx *tx
    cdef dict owned = {}, bytes_ = {}
    while s.reclaim_first != NULL:
        reclaim(s, 1 << 20)
    nodes = check_tree(s, faults, owned, bytes_)
    if s.oldest == NULL and nodes != s.nodes.count:
        faults.append(f"{nodes} nodes in the tree, {s.nodes.count} in the table")
    items(s, &s.nodes, faults, "nodes")
    items(s, &s.ghosts, faults, "ghosts")
    items(s, &s.wnodes, faults, "watched paths")
    items(s, &s.watches, faults, "watches")
    items(s, &s.events, faults, "events")
    items(s, &s.perms, faults, "permissions")
    items(s, &s.tnodes, faults, "transactions")
    if s.oldest == NULL and s.ghosts.count:
        faults.append(f"{s.ghosts.count} nodes are kept for no snapshot")
    if s.watches.count == 0 and s.wnodes.count:
        faults.append(f"{s.wnodes.count} watched paths without a watch")
    check_domains(s, faults, owned, bytes_)
    check_watches(s, faults)
    v = s.oldest
    while v != NULL:
        snapshots += 1
        v = v.newer
    for i in range(s.conns):
        if s.conn[i] != NULL:
            tx = s.conn[i].tx
            while tx != NULL:
                open_ += tx.view != NULL and tx.view.open
                views |= tx.view != NULL
                tx = tx.next
    check_heap(s, faults, views)
    if snapshots != open_:
        faults.append(f"{snapshots} snapshots, {open_} transactions that have one")
    return 0


cdef dict memory_of(Store *s):
    cdef uint32_t i
    cdef uint64_t buffers = 0
    for i in range(s.conns):
        if s.conn[i] != NULL:
            buffers += s.conn[i].inp.cap + s.conn[i].out.cap + sizeof(Conn)
    return {
        "heap_reserved": <uint64_t>s.heap.chunks << (CHUNK_SHIFT + 3),
        "heap_used": s.heap.used_bytes,
        "nodes": <uint64_t>s.nodes.count * sizeof(Node),
        "tables": 4 * (<uint64_t>s.nodes.buckets + s.wnodes.buckets + s.watches.buckets + s.perms.buckets
                       + s.tnodes.buckets + s.events.buckets + s.ghosts.buckets),
        "watches": <uint64_t>s.watches.count * sizeof(Watch) + <uint64_t>s.wnodes.count * sizeof(WNode),
        "connections": buffers,
    }
