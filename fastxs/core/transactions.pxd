"""Views: the tree of today, or a transaction's snapshot with its own changes over it; commit and replay."""
from libc.stdint cimport uint32_t, uint64_t

from fastxs.core.model cimport Buf, Conn, Domain, Store, Tx, View, handle

cdef struct Spot:               # what a path names in a view
    bint found
    handle node                 # today's node (no view), or 0
    handle t                    # the view's record of the path (a missing one has a record too)
    handle above                # missing: nearest existing ancestor, today's node
    handle above_t              # or its record
    uint32_t rest               # missing: offset of the first component that is not there

# All take v = NULL for the tree of today.  Errors are errno numbers, 0 is success.

# Find, and count the access; ENOSPC: more distinct paths than the owner's transaction may touch.
cdef int view_find(Store *s, View *v, const char *p, uint32_t n, Spot *spot) noexcept nogil
# The node above was looked at as well (a refusal depends on it).
cdef void view_see_above(Store *s, View *v, Spot *spot) noexcept nogil
cdef handle view_perms(Store *s, View *v, Spot *spot) noexcept nogil
cdef handle view_above_perms(Store *s, View *v, Spot *spot) noexcept nogil
cdef void view_value(Store *s, View *v, Spot *spot, const char **value, uint32_t *n) noexcept nogil
cdef uint64_t view_generation(Store *s, View *v, Spot *spot) noexcept nogil
# Names of the children, a NUL behind each, appended.
cdef int view_list(Store *s, View *v, Spot *spot, Buf *out) noexcept nogil
# Bytes that view_list would append, without listing where that is possible.
cdef uint32_t view_list_size(Store *s, View *v, Spot *spot) noexcept nogil
# How many nodes of a domain there are in the view beyond (or below) what its account says.
cdef int view_count(View *v, uint32_t domid) noexcept nogil
# Create what is missing down to the path; `perms` are inherited from above (SPEC 3.5); spot then is the new
# node, which has room for a value of `room` bytes.
cdef int view_create(Store *s, View *v, Conn *conn, const char *p, uint32_t n, uint32_t room, Spot *spot) noexcept nogil
cdef int view_set_value(Store *s, View *v, Spot *spot, const char *value, uint32_t n) noexcept nogil
# Takes over one count of `perms`.
cdef int view_set_perms(Store *s, View *v, Spot *spot, handle perms) noexcept nogil
cdef int view_remove(Store *s, View *v, Spot *spot) noexcept nogil

cdef View *view_new(Store *s, Conn *conn) noexcept nogil
cdef void view_free(Store *s, View *v) noexcept nogil
# Could something that this path names have changed since the snapshot, and was it not accessed before?
cdef bint view_moved(Store *s, View *v, const char *p, uint32_t n) noexcept nogil
# Fire what a view changed, in order of first access.
cdef void view_fire(Store *s, View *v) noexcept nogil
# Could a change at this path spoil what the view saw?
cdef bint view_touches(Store *s, View *v, const char *p, uint32_t n) noexcept nogil
# Would one view's commit spoil what another saw?
cdef bint views_collide(Store *s, View *mine, View *other) noexcept nogil
# Was this read of the path logged since the view's last write?  Marks it logged.
cdef bint view_logged(Store *s, View *v, handle t, uint32_t op) noexcept nogil

cdef Tx *tx_new(Store *s, Conn *conn) noexcept nogil
# One that was open when its daemon ended: it can only end, with EAGAIN (HOUSE section 6).
cdef Tx *tx_restore(Store *s, Conn *conn, uint32_t id) noexcept nogil
cdef Tx *tx_find(Conn *conn, uint32_t id) noexcept nogil
cdef void tx_end(Store *s, Tx *tx) noexcept nogil
cdef void txs_drop(Store *s, Conn *conn) noexcept nogil
cdef int tx_log(Store *s, Tx *tx, uint32_t op, int error, uint64_t answer, const char *data, uint32_t n) noexcept nogil
