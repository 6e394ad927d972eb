"""The shared-memory ring of SPEC part 2: indices, barriers, copies."""
from libc.stdint cimport uint32_t

cdef struct Page:               # struct xenstore_domain_interface; the guest may write any of it at any time
    char req[1024]              # guest -> daemon
    char rsp[1024]              # daemon -> guest
    uint32_t req_cons           # ours
    uint32_t req_prod
    uint32_t rsp_cons
    uint32_t rsp_prod           # ours
    uint32_t server_features    # ours
    uint32_t connection         # 0 connected, 1 the guest asks to begin anew
    uint32_t error              # ours
    uint32_t evtchn_port        # Xen's, for domains that were there before any toolstack (SPEC 2.1); 0: none

cdef enum:
    RING_SIZE = 1024
    RING_OK = 0                 # Page.error
    RING_COMM = 1
    RING_INDEX = 2
    RING_PROTO = 3

# Bytes the guest has put in and we have not taken; -1: its index is impossible.
cdef int ring_readable(Page *page, uint32_t req_cons) noexcept nogil
# Copy `n` of them, once; the caller moves its index.
cdef void ring_copy_in(Page *page, uint32_t req_cons, char *out, uint32_t n) noexcept nogil
# Room for replies; -1: its index is impossible.
cdef int ring_writable(Page *page, uint32_t rsp_prod) noexcept nogil
cdef void ring_copy_out(Page *page, uint32_t rsp_prod, const char *data, uint32_t n) noexcept nogil
# Make our indices visible, after the bytes they stand for.
cdef void ring_publish(Page *page, uint32_t req_cons, uint32_t rsp_prod) noexcept nogil
# True: the guest asks to begin anew, and nothing but that field means anything now.
cdef bint ring_reconnects(Page *page) noexcept nogil
cdef uint32_t ring_port(Page *page) noexcept nogil
# Our own indices as the page has them, and: has the page been set up, and the daemon done nothing with it since?
cdef uint32_t ring_published(Page *page) noexcept nogil
cdef uint32_t ring_taken(Page *page) noexcept nogil
cdef bint ring_is_new(Page *page, uint32_t features) noexcept nogil
cdef void ring_start(Page *page, uint32_t features) noexcept nogil
# More than the guest was offered when its ring began.
cdef void ring_offer(Page *page, uint32_t features) noexcept nogil
cdef void ring_fail(Page *page, uint32_t error) noexcept nogil
