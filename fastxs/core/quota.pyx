"""Quotas: one table of items, accounts per domain, and the lines that tell of a refusal.

Owns limits, counts, highest counts, and the rate limit of log lines.  Refuses to know what is counted.
The privileged domain is counted but never limited; sockets stand for it.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen, strncmp

from fastxs.core.model cimport (Q_MEMORY, Q_NODE_SIZE, Q_NODES, Q_OUTSTANDING, Q_PATH, Q_PERMS, Q_SOFT_MEMORY,
                                Q_TRANSACTIONS, Q_TX_NODES, Q_WATCHES, QUOTAS, SAY_SOFT, Domain, Say, Store, layout)

LAYOUT = layout()

# Defaults: SPEC part 5.  The texts are what `xenstore-control quota` has always printed.
cdef Quota[QUOTAS] TABLE
TABLE[Q_NODES] = Quota(b"nodes", b"Nodes per domain", 1000, 0)
TABLE[Q_WATCHES] = Quota(b"watches", b"Watches per domain", 128, 0)
TABLE[Q_TRANSACTIONS] = Quota(b"transactions", b"Transactions per domain", 10, 0)
TABLE[Q_OUTSTANDING] = Quota(b"outstanding", b"Outstanding requests per domain", 20, 0)
TABLE[Q_TX_NODES] = Quota(b"transaction-nodes", b"Max. number of accessed nodes per transaction", 1024, 0)
TABLE[Q_MEMORY] = Quota(b"memory", b"Total Xenstore memory per domain (error level)", 2621440, 0)
TABLE[Q_NODE_SIZE] = Quota(b"node-size", b"Max. size of a node", 2048, 0)
TABLE[Q_PATH] = Quota(b"path-max", b"Max. length of a node path", 2048, 2048)
TABLE[Q_PERMS] = Quota(b"node-permissions", b"Max. number of permissions per node", 5, 0)
TABLE[Q_SOFT_MEMORY] = Quota(b"soft-memory", b"Total Xenstore memory per domain (warning level)", 2097152, 0)

cdef enum:
    SAY_EVERY_S = 10                            # as C's soft-quota warnings (SPEC part 5)


cdef const Quota *quota_of(uint32_t item) noexcept nogil:
    return &TABLE[item]


cdef int quota_find(const char *name, uint32_t n) noexcept nogil:
    cdef int i
    for i in range(QUOTAS):
        if strlen(TABLE[i].name) == n and strncmp(TABLE[i].name, name, n) == 0:
            return i
    return -1


cdef inline bint unlimited(Store *s, Domain *d) noexcept nogil:
    return d == NULL or d.domid == s.priv_domid


cdef bint quota_fits(Store *s, Domain *d, uint32_t item, uint32_t value) noexcept nogil:
    return unlimited(s, d) or d.limit[item] == 0 or value <= d.limit[item]


cdef bint quota_allows(Store *s, Domain *d, uint32_t item, int64_t more) noexcept nogil:
    return unlimited(s, d) or d.limit[item] == 0 or d.now[item] + more <= d.limit[item]


cdef void account(Store *s, Domain *d, uint32_t item, int64_t change) noexcept nogil:
    d.now[item] += change
    if d.now[item] > d.high[item]:
        d.high[item] = d.now[item]
        if d.high[item] > s.high[item] and d.domid != s.priv_domid:
            s.high[item] = d.high[item]
        if item == Q_MEMORY and not unlimited(s, d) and d.limit[Q_SOFT_MEMORY] != 0 \
                and d.now[item] > d.limit[Q_SOFT_MEMORY]:
            say(s, SAY_SOFT, d, 0, TABLE[Q_SOFT_MEMORY].name, 11, 0)


cdef void say(Store *s, uint32_t kind, Domain *d, uint32_t conn, const char *what, uint32_t n,
              int error) noexcept nogil:
    """Keep a line for the log: one of a kind and domain in ten seconds, the others are counted.

    NULL stands for the store's own domain, as sockets do.
    """
    cdef Say *line
    if d == NULL:
        d = s.domain[s.store_domid]
    d.unsaid[kind] += 1
    if s.says == 32 or (d.said_ns[kind] and s.now_ns - d.said_ns[kind] < <uint64_t>SAY_EVERY_S * 1000000000):
        return
    line = &s.say[s.says]
    s.says += 1
    line.kind = kind
    line.domid = d.domid
    line.conn = conn
    line.error = <uint32_t>error
    line.what_len = n if n < 255 else 255
    memcpy(line.what, what, line.what_len)
    line.count = d.unsaid[kind]
    d.unsaid[kind] = 0
    d.said_ns[kind] = s.now_ns
