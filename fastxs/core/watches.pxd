"""Watches: the trie of watched paths, who gets an event, and in which order (SPEC 1.5)."""
from libc.stdint cimport int32_t, uint32_t

from fastxs.core.model cimport Conn, Store, handle

cdef int watches_init(Store *s) noexcept nogil
# 0, EEXIST or ENOMEM.  `p` is absolute or a special; *made is the new watch.
cdef int watch_add(Store *s, Conn *conn, const char *p, uint32_t n, const char *token, uint32_t token_len, int depth,
                   bint relative, handle *made) noexcept nogil
cdef bint watch_there(Store *s, Conn *conn, const char *p, uint32_t n, const char *token,
                      uint32_t token_len) noexcept nogil
# 0 or ENOENT.
cdef int watch_remove(Store *s, Conn *conn, const char *p, uint32_t n, const char *token,
                      uint32_t token_len) noexcept nogil
cdef void watches_drop(Store *s, Conn *conn) noexcept nogil

# Tell of a change at an absolute path: to watches at it and above, or `exact`ly on it.  Who may not
# read under one of the three lists (each may be 0) is not told.
cdef void fire(Store *s, const char *p, uint32_t n, bint exact, handle perms, handle old_perms,
               handle parent_perms) noexcept nogil
# `node` at the path is about to leave with all below: watched ones below first, deepest first, then itself.
cdef void fire_removed(Store *s, const char *p, uint32_t n, handle node) noexcept nogil
# `@introduceDomain`, `@releaseDomain`: the plain form (domid -1) or the form `/domid`.
cdef void fire_special(Store *s, const char *name, uint32_t n, int32_t domid) noexcept nogil
