"""The ring, seen from the daemon.

Owns the memory order and the bounds: each index of the guest is read once (acquire), compared as an
unsigned distance before use (XSA-38), and our own are kept outside the page.  Refuses to know what
the bytes mean.  Positions are index modulo 1024; full is a distance of 1024.
"""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    /* The peer's index: everything it stands for is seen after it.  Ours: everything before is seen with it. */
    static inline uint32_t fx_acquire(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void fx_release(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void fx_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    """
    uint32_t fx_acquire(const uint32_t *p) noexcept nogil
    void fx_release(uint32_t *p, uint32_t v) noexcept nogil
    void fx_fence() noexcept nogil


cdef int ring_readable(Page *page, uint32_t req_cons) noexcept nogil:
    cdef uint32_t n = fx_acquire(&page.req_prod) - req_cons
    return -1 if n > RING_SIZE else <int>n


cdef void ring_copy_in(Page *page, uint32_t req_cons, char *out, uint32_t n) noexcept nogil:
    cdef uint32_t at = req_cons & (RING_SIZE - 1)
    cdef uint32_t first = RING_SIZE - at
    if first > n:
        first = n
    memcpy(out, page.req + at, first)
    memcpy(out + first, page.req, n - first)


cdef int ring_writable(Page *page, uint32_t rsp_prod) noexcept nogil:
    cdef uint32_t n = rsp_prod - fx_acquire(&page.rsp_cons)
    return -1 if n > RING_SIZE else <int>(RING_SIZE - n)


cdef void ring_copy_out(Page *page, uint32_t rsp_prod, const char *data, uint32_t n) noexcept nogil:
    cdef uint32_t at = rsp_prod & (RING_SIZE - 1)
    cdef uint32_t first = RING_SIZE - at
    if first > n:
        first = n
    memcpy(page.rsp + at, data, first)
    memcpy(page.rsp, data + first, n - first)


cdef void ring_publish(Page *page, uint32_t req_cons, uint32_t rsp_prod) noexcept nogil:
    fx_release(&page.req_cons, req_cons)
    fx_release(&page.rsp_prod, rsp_prod)
    fx_fence()                                  # before the notify, and before we look at its indices again


cdef bint ring_reconnects(Page *page) noexcept nogil:
    return fx_acquire(&page.connection) == 1


cdef uint32_t ring_port(Page *page) noexcept nogil:
    return fx_acquire(&page.evtchn_port)


cdef uint32_t ring_published(Page *page) noexcept nogil:
    return fx_acquire(&page.rsp_prod)


cdef uint32_t ring_taken(Page *page) noexcept nogil:
    return fx_acquire(&page.req_cons)


cdef bint ring_is_new(Page *page, uint32_t features) noexcept nogil:
    return (fx_acquire(&page.connection) == 0 and fx_acquire(&page.server_features) == features
            and fx_acquire(&page.req_cons) == 0 and fx_acquire(&page.rsp_prod) == 0)


cdef void ring_start(Page *page, uint32_t features) noexcept nogil:
    """As a ring begins: indices 0, connected, what this daemon can do (SPEC 2.1, 2.2)."""
    page.server_features = features
    page.error = RING_OK
    fx_release(&page.rsp_cons, 0)
    fx_release(&page.rsp_prod, 0)
    fx_release(&page.req_cons, 0)
    fx_release(&page.req_prod, 0)
    fx_release(&page.connection, 0)
    fx_fence()


cdef void ring_offer(Page *page, uint32_t features) noexcept nogil:
    fx_release(&page.server_features, features)


cdef void ring_fail(Page *page, uint32_t error) noexcept nogil:
    fx_release(&page.error, error)
