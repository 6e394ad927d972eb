"""Domains: what is known of each, introduction and death (SPEC 2.4)."""
from libc.stdint cimport uint32_t, uint64_t

from fastxs.core.model cimport Conn, Domain, DomState, Store

cdef int domains_init(Store *s) noexcept nogil
cdef void domains_free(Store *s) noexcept nogil
# What is known of an existing domain, allocated at first need; NULL: it does not exist, or no memory.
cdef Domain *domain_know(Store *s, uint32_t domid) noexcept nogil
cdef bint domain_exists(Store *s, uint32_t domid, DomState *state) noexcept nogil
# 0 or errno.
cdef int domain_introduce(Store *s, uint32_t domid, uint32_t port) noexcept nogil
# Everything of it goes; then the events.
cdef void domain_remove(Store *s, Domain *d, bint plain) noexcept nogil
# It was seen to shut down: /domid form now, the plain one is the caller's (once per batch).
cdef void domain_shut(Store *s, Domain *d) noexcept nogil
# VIRQ_DOM_EXC: ask the border which domains changed.
cdef void domains_check(Store *s) noexcept nogil
