"""Domains: what is known of each, introduction and death (SPEC 2.4)."""
from libc.stdint cimport uint32_t, uint64_t

from fastxs.core.journal cimport DomainRecord
from fastxs.core.model cimport Conn, Domain, DomState, Store

cdef int domains_init(Store *s) noexcept nogil
cdef void domains_free(Store *s) noexcept nogil
# What is known of an existing domain, allocated at first need; NULL: it does not exist, or no memory.
cdef Domain *domain_know(Store *s, uint32_t domid) noexcept nogil
# Whoever has this domid now, NULL if nobody; what is known of a former user goes.
cdef Domain *domain_meet(Store *s, uint32_t domid, DomState *state) noexcept nogil
# 0 or errno.  A port that stands in the page goes before `port` (SPEC 2.1).
cdef int domain_introduce(Store *s, uint32_t domid, uint32_t port) noexcept nogil
# SET_TARGET; NULL: no target any more.
cdef void domain_aim(Store *s, Domain *d, Domain *target) noexcept nogil
# Every domain is offered all that this daemon can do; how many were not.
cdef uint32_t domains_offer(Store *s) noexcept nogil
# Something of it changed: into the journal.
cdef void domain_record(Store *s, Domain *d) noexcept nogil
# As it was; NULL: no memory.
cdef Domain *domain_restore(Store *s, uint32_t domid, const DomainRecord *r) noexcept nogil
# A quota of a domain's, or (NULL) of those to come.
cdef void limit_set(Store *s, Domain *d, uint32_t item, uint32_t value) noexcept nogil
# Everything of it goes; then the events.
cdef void domain_remove(Store *s, Domain *d, bint plain) noexcept nogil
# VIRQ_DOM_EXC: ask the border which domains changed.
cdef void domains_check(Store *s) noexcept nogil
# The domains that are there before us: those that wait for a store daemon are introduced (SPEC 2.3).
cdef void domains_greet(Store *s) noexcept nogil
