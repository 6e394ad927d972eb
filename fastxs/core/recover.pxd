"""From an image and its slot file back to a store (HOUSE section 6)."""
from libc.stdint cimport uint32_t, uint64_t

from fastxs.core.model cimport Store

cdef struct Adopted:            # a client's socket that outlived its daemon
    uint64_t cookie
    int fd                      # -1: it was taken

# All of it.  0; EBADMSG: a record is damaged; ENOMEM, ENOSPC.  Sockets that are known get their descriptors from
# `adopted`; the others end, as do domains that are gone.  What was open in the slot file goes on with the next turn.
cdef int recover_store(Store *s, Adopted *adopted, uint32_t count) noexcept nogil
# The next few records of nodes that left the tree; True: there are more.
cdef bint recover_orphans(Store *s, uint32_t steps) noexcept nogil
