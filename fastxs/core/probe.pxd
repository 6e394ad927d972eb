"""What `laps` takes hold of: a store without an Engine."""
from cython cimport final
from libc.stdint cimport uint32_t, uint64_t

from fastxs.core.model cimport Domain, Store, handle


@final
cdef class Rooms:
    cdef Store *s               # owned

    cdef Domain *known(self, uint32_t domid) except NULL
    cdef list listed(self, handle node, uint64_t stamp)
