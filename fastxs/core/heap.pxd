"""Face of the heap: 32-bit handles, tables that never stop to rehash, growing buffers, the keyed hash."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastxs.core.model cimport Buf, Heap, Item, Store, Table, handle

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* Folded 128-bit product, the mixing step of the keyed hash below. */
    static inline uint64_t fx_fold(uint64_t a, uint64_t b)
    {
        unsigned __int128 r = (unsigned __int128)a * b;
        return (uint64_t)r ^ (uint64_t)(r >> 64);
    }
    /* Keyed hash of (above, name): eight bytes a step, the length mixed in last. */
    static inline uint32_t fx_hash(uint64_t secret, uint32_t above, const char *p, uint32_t n)
    {
        uint64_t h = fx_fold(secret ^ above, 0x9E3779B97F4A7C15ull ^ secret), w;
        uint32_t left = n;
        for (; left >= 8; left -= 8, p += 8) {
            memcpy(&w, p, 8);
            h = fx_fold(h ^ w, 0xD6E8FEB86659FD93ull);
        }
        w = 0;
        if (left >= 4) {
            uint32_t lo, hi;
            memcpy(&lo, p, 4);
            memcpy(&hi, p + left - 4, 4);
            w = (uint64_t)lo << 32 | hi;
        } else if (left) {
            w = (uint64_t)(uint8_t)p[0] << 16 | (uint64_t)(uint8_t)p[left >> 1] << 8 | (uint8_t)p[left - 1];
        }
        h = fx_fold(h ^ w ^ ((uint64_t)n << 56), 0xA0761D6478BD642Full ^ secret);
        return (uint32_t)(h ^ h >> 32);
    }
    """
    uint32_t fx_hash(uint64_t secret, uint32_t above, const char *p, uint32_t n) noexcept nogil
    uint64_t fx_fold(uint64_t a, uint64_t b) noexcept nogil
    uint32_t fx_clz "__builtin_clz"(uint32_t i) noexcept nogil
    void fx_prefetch "__builtin_prefetch"(const void *p) noexcept nogil


cdef inline char *at(Store *s, handle h) noexcept nogil:
    """Address of what `h` names; undefined for 0."""
    return s.heap.chunk[h >> 18] + (<uint64_t>(h & 0x3FFFF) << 3)


cdef inline handle *slot(Table *t, uint32_t i) noexcept nogil:
    """Bucket number `i`: segment 0 has the first 4096, segment k > 0 those from 2048 << k on."""
    cdef uint32_t k
    if i < 4096:
        return t.segment[0] + i
    k = 20 - fx_clz(i)
    return t.segment[k] + (i - (<uint32_t>2048 << k))


cdef inline handle *bucket(Table *t, uint32_t hash) noexcept nogil:
    """The bucket of a hash: linear hashing, so `level <= buckets < 2 * level`."""
    cdef uint32_t i = hash & (2 * t.level - 1)
    if i >= t.buckets:
        i -= t.level
    return slot(t, i)


# Room for `size` bytes; 0: no memory.
cdef handle take(Store *s, uint32_t size) noexcept nogil
# Give back what take(size) gave: the same size.
cdef void give(Store *s, handle h, uint32_t size) noexcept nogil
# Bytes that take(size) really uses.
cdef uint32_t rounded(uint32_t size) noexcept nogil
cdef void heap_free(Store *s) noexcept nogil

cdef int table_init(Table *t) noexcept nogil
cdef void table_free(Table *t) noexcept nogil
cdef void table_add(Store *s, Table *t, handle h) noexcept nogil
cdef void table_drop(Store *s, Table *t, handle h) noexcept nogil

# Make room for `more` bytes behind `len`; 0 or ENOMEM, and then nothing changed.
cdef int buf_room(Buf *b, uint32_t more) noexcept nogil
cdef int buf_add(Buf *b, const void *p, uint32_t n) noexcept nogil
cdef void buf_free(Buf *b) noexcept nogil
