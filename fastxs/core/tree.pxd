"""The tree: nodes, edges, generations, what each domain owns, and versions for snapshots."""
from libc.stdint cimport uint32_t, uint64_t

from fastxs.core.heap cimport at
from libc.string cimport memcpy

from fastxs.core.model cimport NODE_OUT, Buf, Domain, Kids, Node, Store, View, handle

cdef struct Version:            # what a snapshot sees of a node; borrowed
    const char *value
    uint32_t value_len
    handle perms

cdef inline Node *node_at(Store *s, handle h) noexcept nogil:
    return <Node *>at(s, h)


cdef inline handle out_of(Node *n) noexcept nogil:
    """The handle of a value that does not fit its node (NODE_OUT)."""
    cdef handle h = 0
    memcpy(&h, n.data + n.name_len, sizeof(handle))
    return h


cdef inline char *value_of(Store *s, Node *n) noexcept nogil:
    """Its `value_len` bytes."""
    return at(s, out_of(n)) if n.bits & NODE_OUT else n.data + n.name_len


cdef inline Kids *kids_of(Store *s, handle node) noexcept nogil:
    """NULL: it never had a child."""
    cdef handle k = node_at(s, node).kids
    return NULL if k == 0 else <Kids *>at(s, k)


cdef inline uint64_t generation(Store *s, handle node) noexcept nogil:
    """Stamp of the last change of value, permissions or children."""
    cdef Node *n = node_at(s, node)
    cdef Kids *k = kids_of(s, node)
    return k.gen if k != NULL and k.gen > n.gen else n.gen


cdef enum:
    AHEAD = 16                  # components that a walk looks ahead
    LARGE = 8192                # nodes that no longer fit the near caches

cdef struct Hint:               # a path that will be walked soon
    uint32_t count
    uint32_t hash[AHEAD]        # of the path down to each component

# Ask the memory for what the walk will need: first the buckets, a while later the nodes.
cdef void hint_path(Store *s, Hint *hint, const char *p, uint32_t n) noexcept nogil
cdef void hint_nodes(Store *s, const Hint *hint) noexcept nogil

# Something that answers depend on changed outside of the tree (a domain, a quota): open transactions look again.
cdef inline void stir(Store *s) noexcept nogil:
    s.stamp += 1


cdef struct Saved:              # a node as the image holds it
    uint64_t birth
    handle parent               # 0: it is `/`
    handle perms
    const char *name
    const char *value
    uint32_t name_len
    uint32_t value_len

# The nodes that every new store has; 0 or ENOMEM.
cdef int tree_init(Store *s) noexcept nogil
# A tree of which all nodes are restored, parents first and siblings in order; 0 or ENOMEM.
cdef int tree_begin(Store *s) noexcept nogil
# 0: no memory.
cdef handle tree_restore(Store *s, const Saved *saved) noexcept nogil
cdef void tree_free(Store *s) noexcept nogil

# Child of a node by name, today; 0: none.
cdef handle tree_child(Store *s, handle parent, const char *name, uint32_t n) noexcept nogil
# The same as a snapshot at `stamp` sees it.
cdef handle tree_child_at(Store *s, handle parent, const char *name, uint32_t n, uint64_t stamp) noexcept nogil
# Node of an absolute path or special; 0: missing, then *deepest is the nearest existing ancestor and
# *rest the offset of the first missing component.
cdef handle tree_find(Store *s, const char *p, uint32_t n, handle *deepest, uint32_t *rest) noexcept nogil
cdef handle tree_find_at(Store *s, const char *p, uint32_t n, uint64_t stamp, handle *deepest) noexcept nogil

# A new last child with an empty value and room for one of `room` bytes; takes over one count of `perms`.
# 0: no memory.
cdef handle tree_create(Store *s, handle parent, const char *name, uint32_t n, handle perms,
                        uint32_t room) noexcept nogil
# 0 or ENOMEM.
cdef int tree_set_value(Store *s, handle node, const char *value, uint32_t n) noexcept nogil
# Takes over one count of `perms`.
cdef int tree_set_perms(Store *s, handle node, handle perms) noexcept nogil
# The node and all below leave the tree; memory comes back by `reclaim`.
cdef void tree_remove(Store *s, handle node) noexcept nogil
cdef enum:
    RECLAIM_NOW = 4096          # nodes given back within the request that removed them

# Up to `steps` nodes of what left the tree; True: more to do.
cdef bint reclaim(Store *s, uint32_t steps) noexcept nogil
# Its nodes, all removed by now, are counted to nobody any more.
cdef void tree_disown(Store *s, Domain *d) noexcept nogil

# What a snapshot at `stamp` sees of a node that it sees.
cdef void tree_version(Store *s, handle node, uint64_t stamp, Version *seen) noexcept nogil
# Children in order as of `stamp` (NONE: today), a NUL behind each; 0 or ENOMEM.
cdef int tree_list_at(Store *s, handle node, uint64_t stamp, Buf *out) noexcept nogil
cdef handle tree_first(Store *s, handle node) noexcept nogil

cdef void snapshot_open(Store *s, View *v) noexcept nogil
cdef void snapshot_close(Store *s, View *v) noexcept nogil

# Path of a live node appended to `out`; 0 or ENOMEM.
cdef int tree_path(Store *s, handle node, Buf *out) noexcept nogil
# Bytes that a node costs its owner (Q_MEMORY).
cdef uint32_t node_bytes(Store *s, handle node) noexcept nogil
