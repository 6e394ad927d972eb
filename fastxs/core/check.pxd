"""Walks over everything: counters and indexes against what they count."""
from fastxs.core.model cimport Store

# Faults found, as sentences, into the list.
cdef int check_store(Store *s, list faults) except -1
# Bytes by use.
cdef dict memory_of(Store *s)
