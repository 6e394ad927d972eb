"""Paths: what is legal, walking over components, the relative form (SPEC 1.4)."""
from libc.stdint cimport uint32_t

cdef struct Path:               # borrowed: bytes of the request or of scratch; no NUL
    const char *p
    uint32_t len
    bint special                # begins with `@`
    bint relative               # was given without its base

# Characters, slashes, a special only where `specials`; says nothing of length or existence.
cdef bint path_is_legal(const char *p, uint32_t n, bint specials) noexcept nogil
# "/local/domain/N/" into `out` (32 bytes); its length.
cdef uint32_t path_base(uint32_t domid, char *out) noexcept nogil
# Length of a "/local/domain/<1-5 digits>/" prefix, or 0: quota path-max counts what follows it.
cdef uint32_t path_home_len(const char *p, uint32_t n) noexcept nogil

cdef inline uint32_t component_end(const char *p, uint32_t n, uint32_t i) noexcept nogil:
    """Index behind the component that starts at `i`."""
    while i < n and p[i] != c'/':
        i += 1
    return i
