"""The slots.

Owns the slot file: one Slot for each connection and extents for its bytes.  A peer's output lies in its
extent from the beginning, so that keeping it costs the numbers only; input is copied there, since what
was taken from a socket is nowhere else.  Refuses to know what the bytes mean and which turn it is.

A Slot has two Metas.  A turn fills the one that is not in use and stores its `seq` last; it counts once
the image has the turn that it names.  So an extent that a Meta names must keep its bytes until the next
turn is committed: outputs are only appended to, and what is given back waits (`late`).

The file is reserved ahead of its use: writing to a map of a full file system is a SIGBUS.
"""
from libc.errno cimport ENOMEM, ENOSPC, errno
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close, ftruncate

from fastxs.core.heap cimport buf_add, buf_free, buf_room
from fastxs.core.model cimport (SLOT_BEGIN, SLOT_CLASSES, SLOT_PENDING, SLOT_UNIT, Buf, Conn, Extent, Meta, Slot, Slots,
                                Store, layout)

LAYOUT = layout()

cdef extern from "fcntl.h" nogil:
    int fallocate(int fd, int mode, long offset, long n)

cdef extern from *:
    """
    #include <stdint.h>
    /* Everything that was stored before is in memory when this is: what a kill leaves behind is in order. */
    static inline void fx_store(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    """
    void fx_store(uint32_t *p, uint32_t v) noexcept nogil

cdef enum:
    META_STEP = 1 << 16
    HEAP_STEP = 1 << 20
    AHEAD = 1 << 20             # 64 largest answers, and what they outgrow
    SMALLEST = 2                # class of the smallest extent: 256 bytes

cdef uint64_t SIZE = <uint64_t>1 << 34          # of the map; the file has holes where nothing is reserved


cdef inline Slot *slot_of(Store *s, Conn *conn) noexcept nogil:
    return <Slot *>(s.slots.map + <uint64_t>conn.index * sizeof(Slot))


cdef inline char *extent_at(Store *s, uint32_t at) noexcept nogil:
    return s.slots.map + <uint64_t>at * SLOT_UNIT


cdef inline uint32_t room_of(const Extent *e) noexcept nogil:
    return <uint32_t>SLOT_UNIT << e.cls if e.at else 0


# ---- the file ----------------------------------------------------------------------------------------

cdef int slots_open(Store *s, int fd) noexcept nogil:
    cdef Slots *slots = &s.slots
    cdef void *p
    if ftruncate(fd, <long>SIZE) < 0:
        return errno
    p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if p == MAP_FAILED:
        return errno
    slots.fd = fd
    slots.map = <char *>p
    slots.top = slots.end = METAS
    return 0


cdef void slots_close(Store *s) noexcept nogil:
    cdef uint32_t i
    if s.slots.fd >= 0:
        munmap(s.slots.map, SIZE)
        close(s.slots.fd)
        s.slots.fd = -1
    for i in range(SLOT_CLASSES):
        buf_free(&s.slots.free[i])
    buf_free(&s.slots.late)
    buf_free(&s.slots.gone)


cdef bint reserve(Store *s, uint64_t at, uint64_t n) noexcept nogil:
    """Here, and in the slot file that the next daemon will write: it must come up on a full file system, too."""
    return at + n <= SIZE and fallocate(s.slots.fd, 0, <long>at, <long>n) == 0 \
        and (s.image.old_slots < 0 or fallocate(s.image.old_slots, 0, <long>at, <long>n) == 0)


cdef bint reach(Store *s, uint64_t end) noexcept nogil:
    """The heap is reserved up to there."""
    while s.slots.end < end:
        if not reserve(s, s.slots.end, HEAP_STEP):
            return False
        s.slots.end += HEAP_STEP
    return True


cdef bint slots_ahead(Store *s) noexcept nogil:
    return reach(s, s.slots.top + AHEAD)


cdef bint take_extent(Store *s, uint32_t n, Extent *e) noexcept nogil:
    cdef Slots *slots = &s.slots
    cdef Buf *free
    cdef uint64_t bytes
    cdef uint32_t cls = SMALLEST
    while <uint32_t>SLOT_UNIT << cls < n:
        cls += 1
    free = &slots.free[cls]
    if free.len:
        free.len -= <uint32_t>sizeof(uint32_t)
        e.at = (<uint32_t *>(free.data + free.len))[0]
        e.cls = cls
        return True
    bytes = <uint64_t>SLOT_UNIT << cls
    if not reach(s, slots.top + bytes):
        return False
    e.at = <uint32_t>(slots.top // SLOT_UNIT)
    e.cls = cls
    slots.top += bytes
    return True


cdef void give_extent(Store *s, Extent *e) noexcept nogil:
    if e.at:
        buf_add(&s.slots.late, e, sizeof(Extent))       # if that fails it is not used again, no more
        e.at = 0


cdef void slots_settle(Store *s) noexcept nogil:
    cdef Slots *slots = &s.slots
    cdef Extent *e
    cdef uint32_t i
    for i in range(slots.late.len // <uint32_t>sizeof(Extent)):
        e = <Extent *>slots.late.data + i
        buf_add(&slots.free[e.cls], &e.at, sizeof(uint32_t))
    slots.late.len = 0
    for i in range(slots.gone.len // <uint32_t>sizeof(uint32_t)):
        s.conn_free[s.conn_frees] = (<uint32_t *>slots.gone.data)[i]
        s.conn_frees += 1
    slots.gone.len = 0


# ---- one peer ----------------------------------------------------------------------------------------

cdef bint slot_claim(Store *s, Conn *conn) noexcept nogil:
    cdef uint64_t end = (<uint64_t>conn.index + 1) * sizeof(Slot)
    while end > s.slots.metas:
        if end > METAS or not reserve(s, s.slots.metas, META_STEP):
            return False
        s.slots.metas += META_STEP
    memset(slot_of(s, conn), 0, sizeof(Slot))
    fx_store(&slot_of(s, conn).serial, conn.serial)
    return True


cdef void slot_release(Store *s, Conn *conn) noexcept nogil:
    out_free(s, conn)
    give_extent(s, &conn.inp_ext[0])
    give_extent(s, &conn.inp_ext[1])
    give_extent(s, &conn.rx_ext)
    buf_add(&s.slots.gone, &conn.index, sizeof(uint32_t))


cdef int slot_store(Store *s, Conn *conn, uint64_t turn) noexcept nogil:
    cdef uint32_t seq = conn.seq + 1, n = conn.inp.len - conn.inp.pos
    cdef Meta *m = &slot_of(s, conn).meta[seq & 1]
    cdef Extent *e = &conn.inp_ext[seq & 1]
    if n > room_of(e):
        give_extent(s, e)
        if not take_extent(s, n, e):
            return ENOSPC
    m.turn = turn
    m.flags = (SLOT_PENDING if conn.pending else 0) | (SLOT_BEGIN if conn.begin else 0)
    m.req_cons = conn.req_cons
    m.rsp_prod = conn.rsp_prod
    m.out = conn.out_ext.at
    m.out_pos = conn.out.pos
    m.out_len = conn.out.len
    m.inp = e.at
    m.inp_len = n
    m.next_tx_id = conn.next_tx_id
    if n:
        memcpy(extent_at(s, e.at), conn.inp.data + conn.inp.pos, n)
    elif room_of(e) > 1024:
        give_extent(s, e)
    fx_store(&m.seq, seq)
    conn.seq = seq
    return 0


cdef const Meta *slot_newest(const Slot *slot, uint32_t serial, uint64_t turn) noexcept nogil:
    cdef const Meta *a = &slot.meta[0]
    cdef const Meta *b = &slot.meta[1]
    cdef bint a_counts, b_counts
    if slot.serial != serial:
        return NULL
    a_counts = a.seq != 0 and a.turn <= turn
    b_counts = b.seq != 0 and b.turn <= turn
    if a_counts and b_counts:
        return a if <int32_t>(a.seq - b.seq) > 0 else b
    return a if a_counts else b if b_counts else NULL


cdef void slot_reading(Store *s, Conn *conn) noexcept nogil:
    fx_store(&slot_of(s, conn).busy, 1)


cdef bint slot_read(Store *s, Conn *conn, const char *data, uint32_t n) noexcept nogil:
    cdef Slot *slot = slot_of(s, conn)
    cdef uint32_t have = slot.rx_len if slot.rx_seq == conn.seq else 0
    cdef Extent e
    if have + n > room_of(&conn.rx_ext):
        if not take_extent(s, have + n, &e):
            return False
        if have:
            memcpy(extent_at(s, e.at), extent_at(s, conn.rx_ext.at), have)
        give_extent(s, &conn.rx_ext)
        conn.rx_ext = e
        slot.rx = e.at
    if n:
        memcpy(extent_at(s, conn.rx_ext.at) + have, data, n)
    slot.rx_len = have + n
    fx_store(&slot.rx_seq, conn.seq)
    fx_store(&slot.busy, 0)
    return True


cdef void slot_writing(Store *s, Conn *conn) noexcept nogil:
    fx_store(&slot_of(s, conn).busy, 1)


cdef void slot_written(Store *s, Conn *conn) noexcept nogil:
    slot_of(s, conn).meta[conn.seq & 1].out_pos = conn.out.pos
    fx_store(&slot_of(s, conn).busy, 0)


cdef void slot_begun(Store *s, Conn *conn) noexcept nogil:
    cdef Meta *m = &slot_of(s, conn).meta[conn.seq & 1]
    fx_store(&m.flags, m.flags & ~<uint32_t>SLOT_BEGIN)


# ---- output -------------------------------------------------------------------------------------------

cdef int out_room(Store *s, Conn *conn, uint32_t more) noexcept nogil:
    cdef Extent e
    cdef uint32_t n = conn.out.len - conn.out.pos
    if not lasting(s, conn):
        return buf_room(&conn.out, more)
    if conn.out.len + more <= conn.out.cap:
        return 0
    if not take_extent(s, 2 * n + more, &e):    # twice: a peer that takes a little at a time is not copied each time
        return ENOMEM
    if n:
        memcpy(extent_at(s, e.at), conn.out.data + conn.out.pos, n)
    give_extent(s, &conn.out_ext)
    conn.out_ext = e
    conn.out.data = extent_at(s, e.at)
    conn.out.cap = room_of(&e)
    conn.out.pos = 0
    conn.out.len = n
    return 0


cdef void out_free(Store *s, Conn *conn) noexcept nogil:
    if not lasting(s, conn):
        buf_free(&conn.out)
        return
    give_extent(s, &conn.out_ext)
    conn.out.data = NULL
    conn.out.pos = conn.out.len = conn.out.cap = 0
