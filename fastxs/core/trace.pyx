"""The trace file.

Owns the lines' format, which tools for C xenstored read, and a buffer that is written once a turn.

    io: IN 0x55d0c8a2e2a0 (d0) 20261122 17:05:33 READ (/local/domain/0/name )
    obj: CREATE connection 0x55d0c8a2e2a0
"""
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t
from libc.stdio cimport snprintf
from libc.time cimport localtime_r, strftime, time, time_t, tm
from posix.unistd cimport write

from fastxs.core.model cimport layout
from fastxs.core.heap cimport buf_room
from fastxs.core.wire cimport op_name

LAYOUT = layout()

cdef enum:
    LINE = 160                  # longest line without its payload


cdef void trace_message(Store *s, const char *way, Conn *conn, uint32_t type, const char *data,
                        uint32_t n) noexcept nogil:
    cdef char[32] when
    cdef tm parts
    cdef time_t now
    cdef char *p
    cdef uint32_t i
    if not s.trace_on & TRACE_IO or buf_room(&s.trace, LINE + n):
        return
    now = time(NULL)
    localtime_r(&now, &parts)
    strftime(when, 32, b"%Y%m%d %H:%M:%S", &parts)
    p = s.trace.data + s.trace.len
    p += snprintf(p, LINE, b"io: %s %p (d%u) %s %s (", way, <void *>conn, conn.domid, when, op_name(type))
    for i in range(n):
        p[i] = data[i] if data[i] != 0 else c' '
    p += n
    p[0] = c')'
    p[1] = c'\n'
    s.trace.len = <uint32_t>(p + 2 - s.trace.data)


cdef void trace_object(Store *s, const char *what, const char *kind, const void *object) noexcept nogil:
    if s.trace_on & TRACE_OBJ and not buf_room(&s.trace, LINE):
        s.trace.len += <uint32_t>snprintf(s.trace.data + s.trace.len, LINE, b"obj: %s %s %p\n", what, kind, object)


cdef void trace_flush(Store *s) noexcept nogil:
    """A trace that cannot be written is not worth a stop: what does not go out is lost."""
    cdef uint32_t pos = 0
    cdef ssize_t n
    while pos < s.trace.len:
        n = write(s.trace_fd, s.trace.data + pos, s.trace.len - pos)
        if n < 0 and errno == EINTR:
            continue
        if n <= 0:
            break
        pos += <uint32_t>n
    s.trace.len = 0
