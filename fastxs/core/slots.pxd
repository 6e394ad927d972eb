"""The slots: what is between the daemon and each peer, in a shared map that outlives the daemon (HOUSE section 6)."""
from libc.stdint cimport uint32_t, uint64_t

from fastxs.core.model cimport KIND_MEMORY, Conn, Meta, Slot, Store

cdef enum:
    METAS = 1 << 27             # bytes for Slots at the file's beginning: a million of them

cdef inline bint lasting(Store *s, Conn *conn) noexcept nogil:
    """Peers in memory end with the process; without an image all do."""
    return s.slots.fd >= 0 and conn.kind != KIND_MEMORY


# The file behind `fd` (taken over), new and empty; 0 or errno.
cdef int slots_open(Store *s, int fd) noexcept nogil
cdef void slots_close(Store *s) noexcept nogil

# Is there room for all that one peer's turn may ask of it?
cdef bint slots_ahead(Store *s) noexcept nogil
# A new connection's slot; False: the file system is full.
cdef bint slot_claim(Store *s, Conn *conn) noexcept nogil
cdef void slot_release(Store *s, Conn *conn) noexcept nogil

# How the connection stands, to count once the image has `turn`; 0 or ENOSPC.
cdef int slot_store(Store *s, Conn *conn, uint64_t turn) noexcept nogil
# The turn is committed: what the one before it needed may be used again.
cdef void slots_settle(Store *s) noexcept nogil

# Around recv: bytes that were taken are in the slot before anything else can happen; False: no room.
cdef void slot_reading(Store *s, Conn *conn) noexcept nogil
cdef bint slot_read(Store *s, Conn *conn, const char *data, uint32_t n) noexcept nogil
# Around send.
cdef void slot_writing(Store *s, Conn *conn) noexcept nogil
cdef void slot_written(Store *s, Conn *conn) noexcept nogil
# The page was set up as the slot said.
cdef void slot_begun(Store *s, Conn *conn) noexcept nogil

# Room for `more` bytes behind what waits in `conn.out`; 0 or ENOMEM.
cdef int out_room(Store *s, Conn *conn, uint32_t more) noexcept nogil
cdef void out_free(Store *s, Conn *conn) noexcept nogil

# What a slot file of another process says of one peer, as of `turn`; NULL: nothing that counts.
cdef const Meta *slot_newest(const Slot *slot, uint32_t serial, uint64_t turn) noexcept nogil
