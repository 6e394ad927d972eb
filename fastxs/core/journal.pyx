"""The journal.

Owns what the present turn changed, as records in order, until the image has taken them.  Refuses to
know what a record stands for (the rooms that change something write their own) and where it is kept.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastxs.core.heap cimport buf_room, fx_hash
from fastxs.core.model cimport Store, layout

LAYOUT = layout()


cdef char *journal_put(Store *s, uint32_t table, uint64_t id, uint32_t len) noexcept nogil:
    cdef Record r
    cdef Record *last
    cdef uint32_t size = <uint32_t>sizeof(Record) + ((0 if len == J_GONE else len) + 7 & ~<uint32_t>7)
    if s.image == NULL or s.restoring:
        return NULL
    memset(&r, 0, sizeof(r))
    r.key = journal_key(table, id)
    r.len = len
    if s.journal.len:                           # created, then written: only the last state counts
        last = <Record *>(s.journal.data + s.journal_last)
        if last.key == r.key:
            s.journal.len = s.journal_last
            s.journal_count -= 1
    if buf_room(&s.journal, size):
        s.fatal = ENOMEM                        # a change that cannot be told must not be answered
        return NULL
    s.journal_last = s.journal.len
    memcpy(s.journal.data + s.journal.len, &r, sizeof(r))
    s.journal.len += size
    s.journal_count += 1
    return s.journal.data + s.journal_last + sizeof(Record)


cdef void journal_drop(Store *s, uint32_t table, uint64_t id) noexcept nogil:
    journal_put(s, table, id, J_GONE)


cdef uint32_t journal_sum(uint64_t key, const char *value, uint32_t len) noexcept nogil:
    return fx_hash(key, IMAGE_VERSION, value + sizeof(Check), len - <uint32_t>sizeof(Check))


cdef void journal_meta(Store *s) noexcept nogil:
    cdef MetaRecord r
    cdef char *out = journal_put(s, J_META, 0, sizeof(r))
    if out == NULL:
        return
    memset(&r, 0, sizeof(r))
    r.version = IMAGE_VERSION
    r.slots = s.slots_number
    r.recoveries = s.recoveries
    r.priv_domid = s.priv_domid
    r.store_domid = s.store_domid
    memcpy(r.limit, s.limit, sizeof(r.limit))
    memcpy(out, &r, sizeof(r))
