"""Beginning and end of a Store: all tables, the first nodes, the first domains."""
from libc.stdint cimport uint32_t, uint64_t

from fastxs.core.model cimport Image, Store

# A store as every client finds it; NULL: no memory.  `secret` keys the tables' hash.  With an image that is not fresh:
# an empty one, to be filled from it.
cdef Store *store_new(uint64_t secret, uint32_t priv_domid, uint32_t store_domid, Image *image) noexcept nogil
# All of it; connections are closed already.
cdef void store_free(Store *s) noexcept nogil
