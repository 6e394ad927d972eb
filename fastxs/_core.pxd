"""What other extension modules may know of the core's Python face."""
from fastxs.core cimport model


cdef class Border:
    cdef model.Border c


cdef class Image:
    cdef model.Image c
