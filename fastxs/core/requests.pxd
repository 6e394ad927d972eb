"""Requests: one table of operations, and what each does."""
from libc.stdint cimport uint32_t, uint64_t

from fastxs.core.model cimport Conn, Store, Tx, View
from fastxs.core.wire cimport Header

cdef struct Req:
    Conn *conn
    uint32_t type
    uint32_t req_id
    uint32_t tx_id
    const char *data            # borrowed: the payload
    uint32_t len
    Tx *tx                      # NULL: outside of transactions
    View *view                  # what the request sees; NULL: the tree of today
    uint64_t answer             # digest of the reply, in transactions
    uint32_t t                  # record of the path it named, in a view
    bint dry                    # its transaction is doomed: nothing is changed

# Must the request wait, so that a transaction which keeps failing gets through?
cdef bint must_wait(Store *s, Conn *conn, const Header *h, const char *data) noexcept nogil
# Serve one request: replies and events go to the outboxes.
cdef void serve(Store *s, Conn *conn, const Header *h, const char *data) noexcept nogil
