"""The heap: where everything small lives.

Owns memory by 32-bit handles (2 MiB chunks, size classes with free lists), hash tables that grow one
bucket at a time, and growing byte buffers.  Knows nothing of what is stored.  The lowest room.

Chunks are mapped as they are needed, once they are huge one ahead, to be brought in meanwhile (core/warm); they are
never returned to the system, their items are used again.  A handle is an index in units of 8 bytes, so 32 GiB can be
named.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy
from fastxs.core.model cimport CHUNKS, SEGMENT, SEGMENTS, layout
from fastxs.core.warm cimport HUGE, warm_up, warm_wait
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

LAYOUT = layout()

cdef enum:
    UNIT = 8
    CHUNK_UNITS = 1 << 18
    RUN_UNITS = 512             # a class takes 4 KiB from the chunk at a time
    LARGEST = 65536
    SMALL = 8                   # chunks
    AHEAD = HUGE // 8           # buckets in half a huge page

cdef extern from "sys/mman.h" nogil:
    enum:
        MADV_HUGEPAGE
    int madvise(void *p, size_t n, int advice)

cdef extern from *:
    """
    /* Classes: every 8 bytes to 256, then eight to each doubling up to 64 KiB. */
    static inline uint32_t fx_class(uint32_t size)
    {
        uint32_t shift;
        if (size <= 256)
            return size ? (size + 7) / 8 - 1 : 0;
        shift = 31 - (uint32_t)__builtin_clz(size - 1);         /* 8 .. 15 */
        return 32 + (shift - 8) * 8 + (((size - 1) >> (shift - 3)) & 7);
    }
    static inline uint32_t fx_class_size(uint32_t c)
    {
        uint32_t shift;
        if (c < 32)
            return (c + 1) * 8;
        shift = 8 + (c - 32) / 8;
        return (1u << shift) + (((c - 32) % 8) + 1) * (1u << (shift - 3));
    }
    """
    uint32_t fx_class(uint32_t size) noexcept nogil
    uint32_t fx_class_size(uint32_t c) noexcept nogil


cdef uint32_t rounded(uint32_t size) noexcept nogil:
    return fx_class_size(fx_class(size))


cdef char *huge(size_t size, bint advise) noexcept nogil:
    """Zeroed memory that begins at a multiple of 2 MiB (as `size` is one), as huge pages where advised.

    A lookup in a store of a million nodes is cache misses, and with small pages each of them is a
    miss of the address translation as well.  NULL: no memory.
    """
    cdef char *p = <char *>mmap(NULL, size + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    cdef size_t before
    if <void *>p == MAP_FAILED:
        return NULL
    before = (HUGE - <size_t>p % HUGE) % HUGE
    if before:
        munmap(p, before)
    munmap(p + before + size, HUGE - before)
    if advise:
        madvise(p + before, size, MADV_HUGEPAGE)
    return p + before


cdef bint new_chunk(Store *s) noexcept nogil:
    cdef char *p
    if s.heap.chunks == CHUNKS:
        return False
    p = s.heap.spare
    s.heap.spare = NULL
    if p == NULL:
        p = huge(CHUNK_UNITS * UNIT, s.heap.chunks >= SMALL)    # in a small store 2 MiB are much
    if p == NULL:
        return False
    s.heap.chunk[s.heap.chunks] = p
    if s.heap.chunks + 1 >= SMALL:
        s.heap.spare = huge(CHUNK_UNITS * UNIT, True)
        if s.heap.spare != NULL:
            warm_up(s.heap.spare, CHUNK_UNITS * UNIT, False)
    # A store that outgrew small pages: one of its first chunks becomes huge with each new one.
    if SMALL <= s.heap.chunks < 2 * SMALL:
        p = s.heap.chunk[s.heap.chunks - SMALL]
        madvise(p, CHUNK_UNITS * UNIT, MADV_HUGEPAGE)
        warm_up(p, CHUNK_UNITS * UNIT, True)
    s.heap.top = 8 if s.heap.chunks == 0 else 0         # handle 0 means none; 64-byte items keep to their lines
    s.heap.chunks += 1
    return True


cdef bint refill(Store *s, uint32_t c) noexcept nogil:
    """Cut a run into items of class `c` and put them on its free list, lowest first."""
    cdef uint32_t units = fx_class_size(c) // UNIT
    cdef uint32_t n = RUN_UNITS // units
    cdef handle h
    if n == 0:
        n = 1
    if s.heap.chunks == 0 or s.heap.top + n * units > CHUNK_UNITS:
        if not new_chunk(s):
            return False
    h = ((s.heap.chunks - 1) << 18) + s.heap.top
    s.heap.top += n * units
    while n > 0:
        n -= 1
        (<handle *>at(s, h + n * units))[0] = s.heap.free[c]
        s.heap.free[c] = h + n * units
    return True


cdef handle take(Store *s, uint32_t size) noexcept nogil:
    cdef uint32_t c = fx_class(size)
    cdef handle h
    if size > LARGEST:
        return 0
    if s.heap.free[c] == 0 and not refill(s, c):
        return 0
    h = s.heap.free[c]
    s.heap.free[c] = (<handle *>at(s, h))[0]
    s.heap.used[c] += 1
    s.heap.items += 1
    s.heap.used_bytes += fx_class_size(c)
    return h


cdef void give(Store *s, handle h, uint32_t size) noexcept nogil:
    cdef uint32_t c = fx_class(size)
    (<handle *>at(s, h))[0] = s.heap.free[c]
    s.heap.free[c] = h
    s.heap.used[c] -= 1
    s.heap.items -= 1
    s.heap.used_bytes -= fx_class_size(c)


cdef void heap_free(Store *s) noexcept nogil:
    cdef uint32_t i
    warm_wait()
    if s.heap.spare != NULL:
        munmap(s.heap.spare, CHUNK_UNITS * UNIT)
        s.heap.spare = NULL
    for i in range(s.heap.chunks):
        munmap(s.heap.chunk[i], CHUNK_UNITS * UNIT)
    s.heap.chunks = 0


# ---- tables -------------------------------------------------------------------------------------

cdef size_t segment_bytes(uint32_t k) noexcept nogil:
    return (<size_t>SEGMENT if k == 0 else <size_t>2048 << k) * sizeof(handle)


cdef handle *new_segment(uint32_t k) noexcept nogil:
    cdef size_t size = segment_bytes(k)
    cdef void *p
    if size >= HUGE:
        return <handle *>huge(size, True)
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    return NULL if p == MAP_FAILED else <handle *>p


cdef int table_init(Table *t) noexcept nogil:
    t.segment[0] = new_segment(0)
    t.buckets = t.level = 64
    t.count = 0
    return ENOMEM if t.segment[0] == NULL else 0


cdef void table_free(Table *t) noexcept nogil:
    cdef uint32_t i
    warm_wait()
    for i in range(SEGMENTS):
        if t.segment[i] != NULL:
            munmap(t.segment[i], segment_bytes(i))
        t.segment[i] = NULL


cdef void warm_ahead(Table *t, uint32_t i) noexcept nogil:
    """Bucket `i` is in the middle of a huge page, or of what is as long: the next page is brought in meanwhile."""
    cdef uint32_t following = i + AHEAD, k = 20 - fx_clz(i + AHEAD)
    if k >= SEGMENTS:
        return
    if t.segment[k] == NULL:
        t.segment[k] = new_segment(k)
    if t.segment[k] != NULL:
        warm_up(<char *>slot(t, following), HUGE, False)


cdef void table_grow(Store *s, Table *t) noexcept nogil:
    """One bucket more: split the next one in order.  Without memory the chains just grow."""
    cdef uint32_t i = t.buckets, k
    cdef handle *low
    cdef handle *high
    cdef handle h, following
    if i >= SEGMENT and (i & (i - 1)) == 0:     # the first bucket of a segment
        k = 20 - fx_clz(i)
        if k >= SEGMENTS:
            return
        if t.segment[k] == NULL:
            t.segment[k] = new_segment(k)
        if t.segment[k] == NULL:
            return
    if i % (2 * AHEAD) == AHEAD:
        warm_ahead(t, i)
    low = slot(t, i - t.level)
    high = slot(t, i)
    h = low[0]
    low[0] = high[0] = 0
    while h:
        following = (<Item *>at(s, h)).chain
        if (<Item *>at(s, h)).hash & t.level:
            (<Item *>at(s, h)).chain = high[0]
            high[0] = h
        else:
            (<Item *>at(s, h)).chain = low[0]
            low[0] = h
        h = following
    t.buckets += 1
    if t.buckets == 2 * t.level:
        t.level *= 2


cdef void table_add(Store *s, Table *t, handle h) noexcept nogil:
    cdef Item *item = <Item *>at(s, h)
    cdef handle *b
    if t.count << t.sparse >= t.buckets:
        table_grow(s, t)
        if t.sparse:
            table_grow(s, t)
    b = bucket(t, item.hash)
    item.chain = b[0]
    b[0] = h
    t.count += 1


cdef void table_drop(Store *s, Table *t, handle h) noexcept nogil:
    cdef Item *item = <Item *>at(s, h)
    cdef handle *b = bucket(t, item.hash)
    while b[0] != h:
        b = &(<Item *>at(s, b[0])).chain
    b[0] = item.chain
    t.count -= 1


# ---- buffers -------------------------------------------------------------------------------------

cdef int buf_room(Buf *b, uint32_t more) noexcept nogil:
    cdef uint32_t cap = b.cap
    cdef char *p
    if b.len + more <= cap:
        return 0
    if cap == 0:
        cap = 512
    while cap < b.len + more:
        cap *= 2
    p = <char *>realloc(b.data, cap)
    if p == NULL:
        return ENOMEM
    b.data = p
    b.cap = cap
    return 0


cdef int buf_add(Buf *b, const void *p, uint32_t n) noexcept nogil:
    if buf_room(b, n):
        return ENOMEM
    if n:
        memcpy(b.data + b.len, p, n)
    b.len += n
    return 0


cdef void buf_free(Buf *b) noexcept nogil:
    free(b.data)
    b.data = NULL
    b.pos = b.len = b.cap = 0
