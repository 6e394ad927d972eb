"""Permissions: lists of entries, shared and counted; who may do what (SPEC part 3)."""
from libc.stdint cimport uint8_t, uint32_t

from fastxs.core.heap cimport at
from fastxs.core.model cimport Ace, Conn, Domain, Perms, Store, handle

cdef inline Ace *aces(Store *s, handle list) noexcept nogil:
    return <Ace *>(at(s, list) + sizeof(Perms))


cdef inline uint32_t owner_of(Store *s, handle list) noexcept nogil:
    return aces(s, list)[0].domid


# The shared list equal to `entries` (counted once more for the caller); 0: no memory.
# Entries naming a domain that is not known are marked stale by the caller.
cdef handle perms_intern(Store *s, const Ace *entries, uint32_t count) noexcept nogil
# A list of its own with the number that it has in the image, in one use; 0: no memory.
cdef handle perms_restore(Store *s, uint32_t id, const Ace *entries, uint32_t count) noexcept nogil
cdef void perms_hold(Store *s, handle list) noexcept nogil
cdef void perms_drop(Store *s, handle list) noexcept nogil
# RIGHT_ bits of a domid with a target (-1: none) under a list.
cdef uint32_t rights(Store *s, handle list, uint32_t domid, int target) noexcept nogil
# The same for a connection; the privileged have them all.
cdef uint32_t conn_rights(Store *s, Conn *conn, handle list) noexcept nogil
# One entry's text ("n0", "r-1") into `out` (16 bytes); its length without NUL.
cdef uint32_t perm_format(const Ace *entry, char *out) noexcept nogil
# Reads a NUL-terminated entry; 0 or EINVAL.
cdef int perm_parse(const char *text, Ace *entry) noexcept nogil
# A domain is gone: its entries leave every list (Xen 4.22); where it is the owner, `heir` takes its place.
cdef void perms_forget(Store *s, Domain *domain, uint32_t heir) noexcept nogil
