"""Domain states from libxenctrl, where there is no libxenmanage: before Xen 4.21."""
from libc.stdint cimport uint32_t

from fastxs.core.model cimport DomState

# xc_domain_getinfolist(xch, first_domid, max_domains, info): how many, or -1.
ctypedef int (*list_domains)(void *xch, uint32_t first, unsigned max, void *info) noexcept nogil

cdef struct List:               # domains that exist, by domid
    DomState *at                # owned
    uint32_t count
    uint32_t room

cdef struct Look:               # at all domains, as compared with the look before
    list_domains ask
    void *xch                   # not owned
    char *batch                 # owned
    uint32_t stride             # bytes of a record
    List before
    List now
    uint32_t old                # how far the comparison is, in `before`
    uint32_t new                # and in `now`
    bint comparing

# 0 or errno.
cdef int look_open(Look *look, list_domains ask, void *xch) noexcept nogil
cdef void look_close(Look *look) noexcept nogil
# 0 and what is known of one domain, or ESRCH.
cdef int look_at_one(Look *look, uint32_t domid, DomState *state) noexcept nogil
# One more domain whose state is not what it was at the last look (state 0: it is gone); False: no more.
# The first call, and the one after a False, looks at all domains.
cdef bint look_changed(Look *look, DomState *state) noexcept nogil
