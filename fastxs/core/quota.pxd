"""Accounts and quotas as data: item, default, texts (SPEC part 5)."""
from libc.stdint cimport int64_t, uint32_t

from fastxs.core.model cimport Domain, Store

cdef struct Quota:
    const char *name            # GET_QUOTA, xenstore-control quota
    const char *text
    uint32_t value              # default
    uint32_t cap                # largest value that may be set, 0: any

cdef const Quota *quota_of(uint32_t item) noexcept nogil
# The item of a name (not NUL-terminated); -1: none.
cdef int quota_find(const char *name, uint32_t n) noexcept nogil
# May the account grow by `more`?  The privileged have no limits; a limit of N allows exactly N.
cdef bint quota_allows(Store *s, Domain *d, uint32_t item, int64_t more) noexcept nogil
cdef void account(Store *s, Domain *d, uint32_t item, int64_t change) noexcept nogil
# Is `value` within the limit of an item that is not an account (perms, path, node size)?
cdef bint quota_fits(Store *s, Domain *d, uint32_t item, uint32_t value) noexcept nogil
cdef void say(Store *s, uint32_t kind, Domain *d, uint32_t conn, const char *what, uint32_t n, int error) noexcept nogil
