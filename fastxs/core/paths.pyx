"""Path syntax.  Owns the alphabet and the rules of SPEC 1.4; refuses to know what exists."""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memset

cdef uint8_t[256] LEGAL


cdef void fill(const char *legal) noexcept nogil:
    memset(LEGAL, 0, 256)
    while legal[0]:
        LEGAL[<uint8_t>legal[0]] = 1
        legal += 1


fill(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@")


cdef bint path_is_legal(const char *p, uint32_t n, bint specials) noexcept nogil:
    """`/` or components without `//` and without a trailing slash.

    A leading `@` is a special and legal only where `specials`; `@` elsewhere is a plain character.
    `/local/domain/` is refused like any trailing slash (XSA-481).
    """
    cdef uint32_t i
    cdef uint8_t previous = 0
    if n == 0 or (p[0] == c'@' and not specials):
        return False
    for i in range(n):
        if not LEGAL[<uint8_t>p[i]] or (p[i] == c'/' and previous == c'/'):
            return False
        previous = <uint8_t>p[i]
    return n == 1 or previous != c'/'


cdef uint32_t path_base(uint32_t domid, char *out) noexcept nogil:
    return <uint32_t>snprintf(out, 32, b"/local/domain/%u/", domid)


cdef uint32_t path_home_len(const char *p, uint32_t n) noexcept nogil:
    cdef uint32_t i = 14
    if n < 16 or memcmp(p, b"/local/domain/", 14) != 0:
        return 0
    while i < n and i < 19 and c'0' <= p[i] <= c'9':
        i += 1
    return i + 1 if i > 14 and i < n and p[i] == c'/' else 0
