"""How long a turn holds the thread: a histogram of CPU time, counted only while somebody wants it.

A span is what others wait for in one piece: the serving of one batch of peers, from read to publish, or what a turn
does after it.  Four buckets an octave: bucket 4 * k + j holds spans of (4 + j) to (5 + j) quarters of 2 ** k ns.
"""
from libc.stdint cimport uint32_t, uint64_t
from posix.time cimport clock_gettime, timespec

from fastxs.core.model cimport SPANS, Store

cdef extern from "time.h" nogil:
    enum:
        CLOCK_THREAD_CPUTIME_ID

cdef extern from *:
    int log2_of "63 - __builtin_clzll" (uint64_t n) nogil


cdef inline uint64_t cpu_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef inline uint32_t bucket_of(uint64_t ns) noexcept nogil:
    cdef uint32_t k
    if ns < 4:
        return <uint32_t>ns
    k = <uint32_t>log2_of(ns)
    k = 4 * k + <uint32_t>(ns >> (k - 2) & 3)
    return k if k < SPANS else SPANS - 1


cdef inline uint64_t bucket_end(uint32_t bucket) noexcept nogil:
    """The first ns that is too long for it."""
    return bucket + 1 if bucket < 4 else <uint64_t>(5 + (bucket & 3)) << (bucket // 4) >> 2


cdef inline uint64_t span_begin(Store *s) noexcept nogil:
    return cpu_ns() if s.spans_on else 0


cdef inline uint64_t span_end(Store *s, uint64_t since) noexcept nogil:
    """The beginning of the next one."""
    cdef uint64_t t, ns
    if not s.spans_on:
        return 0
    t = cpu_ns()
    ns = t - since
    if since:
        s.span[bucket_of(ns)] += 1
        if ns > s.span_longest:
            s.span_longest = ns
    return t
