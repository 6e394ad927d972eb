"""What a turn changed, as records: the form in which the image holds the store, on one page.

A record is a key of 8 bytes, its table in the top one, and a value that begins with a checksum (`Check`).
Recovery reads the tables in the order of their numbers.  All numbers are in the machine's own byte order:
an image never leaves its machine.
"""
from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastxs.core.model cimport QUOTAS, Store

cdef enum:
    IMAGE_VERSION = 1

    J_META = 1                  # key 0: MetaRecord
    J_DOMAIN = 2                # key domid: DomainRecord
    J_PERMS = 3                 # key Perms.id: PermsRecord for each entry
    J_CONN = 4                  # key Conn.index: ConnRecord
    J_TX = 5                    # key Conn.index << 32 | tx_id: nothing; the transactions that live
    J_WATCH = 6                 # key the order of registration: WatchRecord, path, token
    J_NODE = 7                  # key Node.birth: NodeRecord, name, value; last, so that new nodes go to the very end
    J_TABLES = 8

    J_GONE = 0xFFFFFFFF         # Record.len of a removal

cdef struct Record:             # in Store.journal; followed by `len` bytes, padded to 8
    uint64_t key
    uint32_t len
    uint32_t pad

cdef struct Check:              # how every value begins
    uint32_t sum                # keyed hash of the key and of what follows

cdef struct MetaRecord:
    uint32_t sum
    uint32_t version            # IMAGE_VERSION
    uint32_t slots              # which slot file belongs to this image
    uint32_t recoveries
    uint32_t priv_domid
    uint32_t store_domid
    uint32_t limit[QUOTAS]

cdef struct DomainRecord:
    uint32_t sum
    uint32_t features
    uint64_t unique_id
    int32_t target
    uint8_t introduced
    uint8_t shutdown
    uint16_t pad
    uint32_t limit[QUOTAS]

cdef struct PermsRecord:        # one entry; `sum` stands in front of the first
    uint32_t domid
    uint8_t rights
    uint8_t flags
    uint16_t pad

cdef struct ConnRecord:
    uint32_t sum
    uint32_t serial
    uint32_t kind
    uint32_t domid
    uint32_t remote             # the port that the domain offers; rings only
    uint32_t ignored
    uint64_t cookie             # SO_COOKIE; sockets only

cdef struct WatchRecord:
    uint32_t sum
    uint32_t conn               # Conn.index
    int16_t depth
    uint16_t flags
    uint16_t path_len
    uint16_t token_len

cdef struct NodeRecord:
    uint32_t sum
    uint32_t perms              # Perms.id
    uint64_t parent             # its birth; 0: this is the root, 1: this is a special
    uint16_t name_len
    uint16_t value_len

cdef enum:
    NODE_HEAD = 20              # NodeRecord without the compiler's padding

cdef inline uint64_t journal_key(uint32_t table, uint64_t id) noexcept nogil:
    return <uint64_t>table << 56 | id


# Room for a record's value, to be filled before anything else is journaled; NULL: nothing is journaled.
cdef char *journal_put(Store *s, uint32_t table, uint64_t id, uint32_t len) noexcept nogil
cdef void journal_drop(Store *s, uint32_t table, uint64_t id) noexcept nogil
# What is true of the store as a whole changed.
cdef void journal_meta(Store *s) noexcept nogil
# The checksum that a value must begin with.
cdef uint32_t journal_sum(uint64_t key, const char *value, uint32_t len) noexcept nogil
