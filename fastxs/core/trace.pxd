"""Trace lines in C xenstored's format (SPEC 6.4)."""
from libc.stdint cimport uint32_t

from fastxs.core.model cimport Conn, Store

cdef enum:                      # Store.trace_on
    TRACE_OBJ = 1
    TRACE_IO = 2
    TRACE_WRL = 4
    TRACE_ACC = 8
    TRACE_TDB = 16

cdef void trace_message(Store *s, const char *way, Conn *conn, uint32_t type, const char *data,
                        uint32_t n) noexcept nogil
cdef void trace_object(Store *s, const char *what, const char *kind, const void *object) noexcept nogil
# Lines so far to the descriptor: one write a turn.
cdef void trace_flush(Store *s) noexcept nogil
