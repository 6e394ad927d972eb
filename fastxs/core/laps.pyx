"""Laps: single rooms at work again and again in C, for bench/micro only; nothing in the daemon imports it.

Owns loops and the clock around them.  Each function does its work `loops` times and gives the ns of one; it raises
where the work did not succeed.  Refuses to know what is fast.  The types are in `laps.pyi`.

The clock is the wall's: what was lost to others is not in the least of many short readings, while the CPU time of a
thread was seen to go too slowly, by half, on a virtual machine.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.stdlib cimport posix_memalign
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fastxs.core.model cimport CONN_DIRTY, C_ERRORS, Conn, Store, handle, layout
from fastxs.core.outbox cimport out_message
from fastxs.core.probe cimport Rooms
from fastxs.core.requests cimport serve
from fastxs.core.ring cimport (Page, RING_SIZE, ring_copy_in, ring_copy_out, ring_publish, ring_readable,
                               ring_writable)
from fastxs.core.tree cimport tree_find
from fastxs.core.watches cimport fire
from fastxs.core.wire cimport XS_READ, XS_TRANSACTION_END, XS_TRANSACTION_START, Header

LAYOUT = layout()

cdef enum:
    PAGE = 4096
    STEPS = 4096                # of the table that `steps` walks: it fits into the nearest cache

cdef struct Text:               # borrowed
    const char *p
    uint32_t len

cdef uint64_t STEP = <uint64_t>0x9E3779B97F4A7C15


cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef Text *texts(list many) except NULL:
    """Of bytes that the list keeps alive; the caller frees it."""
    cdef Text *out = <Text *>malloc(len(many) * sizeof(Text))
    cdef bytes one
    if out == NULL:
        raise MemoryError
    for i, one in enumerate(many):
        out[i] = Text(PyBytes_AS_STRING(one), <uint32_t>PyBytes_GET_SIZE(one))
    return out


cdef inline void drain(Store *s) noexcept nogil:
    """What waits for peers in memory is gone, as if they had taken it."""
    cdef Conn *conn = s.dirty
    while conn != NULL:
        conn.flags &= ~CONN_DIRTY
        conn.out.pos = conn.out.len = 0
        conn = conn.dirty_next
    s.dirty = NULL


def steps(uint32_t loops):
    cdef uint32_t[STEPS] table
    cdef uint32_t i, _
    cdef uint64_t x = 1, began
    for i in range(STEPS):
        x = x * STEP + 1
        table[i] = <uint32_t>(x >> 32)
    began = now_ns()
    for _ in range(loops):
        x = (x ^ table[x >> 52]) * STEP         # each step waits for the one before
    began = now_ns() - began
    if x == 0:                                  # the compiler must not leave it out
        raise AssertionError
    return <double>began / loops


cdef Page *new_page() except NULL:
    """A ring's page, at the beginning of one as always, and another one behind it.  The caller frees both."""
    cdef void *page = NULL
    if posix_memalign(&page, PAGE, 2 * PAGE):
        raise MemoryError
    memset(page, 0, 2 * PAGE)
    return <Page *>page


def ring_in(uint32_t n, uint32_t loops):
    cdef Page *page = new_page()
    cdef char *out = <char *>page + PAGE + PAGE // 2    # 4096 away from what is read, a store would delay the load
    cdef uint32_t _, cons = 0
    cdef bint good = True
    cdef uint64_t began = now_ns()
    for _ in range(loops):
        page.req_prod = cons + n
        good &= ring_readable(page, cons) == <int>n
        ring_copy_in(page, cons, out, n)
        cons += n
        ring_publish(page, cons, 0)
    began = now_ns() - began
    free(page)
    if not good:
        raise AssertionError
    return <double>began / loops


def ring_out(bytes data, uint32_t loops):
    cdef Page *page = new_page()
    cdef const char *p = data
    cdef uint32_t _, prod = 0, n = <uint32_t>len(data)
    cdef bint good = True
    cdef uint64_t began = now_ns()
    for _ in range(loops):
        page.rsp_cons = prod
        good &= ring_writable(page, prod) == RING_SIZE
        ring_copy_out(page, prod, p, n)
        prod += n
        ring_publish(page, 0, prod)
    began = now_ns() - began
    free(page)
    if not good:
        raise AssertionError
    return <double>began / loops


def replies(Rooms rooms, uint32_t peer, bytes payload, uint32_t loops):
    cdef Store *s = rooms.s
    cdef const char *p = payload
    cdef uint32_t i, n = <uint32_t>len(payload)
    cdef int error = 0
    cdef uint64_t began = now_ns()
    for i in range(loops):
        error |= out_message(s, s.conn[peer], XS_READ, i, 0, p, n)
        drain(s)
    began = now_ns() - began
    if error:
        raise MemoryError
    return <double>began / loops


def find(Rooms rooms, list paths, uint32_t loops):
    cdef Store *s = rooms.s
    cdef Text *text = texts(paths)
    cdef uint32_t _, k = 0, count = <uint32_t>len(paths), rest = 0, found = 0
    cdef handle deepest = 0
    cdef uint64_t began = now_ns()
    for _ in range(loops):
        found += tree_find(s, text[k].p, text[k].len, &deepest, &rest) != 0
        k = k + 1 if k + 1 < count else 0
    began = now_ns() - began
    free(text)
    if found != loops:
        raise LookupError
    return <double>began / loops


def match(Rooms rooms, list paths, uint32_t loops):
    cdef Store *s = rooms.s
    cdef Text *text = texts(paths)
    cdef uint32_t _, k = 0, count = <uint32_t>len(paths)
    cdef uint64_t began = now_ns()
    for _ in range(loops):
        fire(s, text[k].p, text[k].len, False, 0, 0, 0)
        drain(s)
        k = k + 1 if k + 1 < count else 0
    began = now_ns() - began
    free(text)
    return <double>began / loops


def transactions(Rooms rooms, uint32_t peer, uint32_t type, list payloads, bint commit, uint32_t loops):
    cdef Store *s = rooms.s
    cdef Conn *conn = s.conn[peer]
    cdef Text *text = texts(payloads)
    cdef Header h
    cdef uint32_t _, k, count = <uint32_t>len(payloads)
    cdef uint64_t failed = s.counter[C_ERRORS], began
    memset(&h, 0, sizeof(h))
    began = now_ns()
    for _ in range(loops):
        h.type = XS_TRANSACTION_START
        h.tx_id = 0
        h.len = 1
        serve(s, conn, &h, b"")
        h.type = type
        h.tx_id = conn.next_tx_id
        for k in range(count):
            h.len = text[k].len
            serve(s, conn, &h, text[k].p)
        h.type = XS_TRANSACTION_END
        h.len = 2
        serve(s, conn, &h, b"T" if commit else b"F")
        drain(s)
    began = now_ns() - began
    free(text)
    if s.counter[C_ERRORS] != failed:
        raise AssertionError("a request was refused")
    return <double>began / loops
