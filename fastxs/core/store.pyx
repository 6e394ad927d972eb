"""The store as a whole.

Owns the order in which the rooms' parts of a Store are made and given back.  Refuses to know
descriptors and the loop: a new store has none.
"""
from libc.stdlib cimport calloc, free

from fastxs.core.domains cimport domains_free, domains_init
from fastxs.core.heap cimport buf_free, heap_free, table_free, table_init
from fastxs.core.journal cimport journal_meta
from fastxs.core.model cimport QUOTAS, Image, layout
from fastxs.core.quota cimport quota_of
from fastxs.core.slots cimport slots_close
from fastxs.core.tree cimport tree_free, tree_init
from fastxs.core.watches cimport watches_init

LAYOUT = layout()


cdef Store *store_new(uint64_t secret, uint32_t priv_domid, uint32_t store_domid, Image *image) noexcept nogil:
    cdef Store *s = <Store *>calloc(1, sizeof(Store))
    cdef uint32_t i
    if s == NULL:
        return NULL
    s.epoll_fd = s.listen_fd = s.wake_fd = s.timer_fd = s.trace_fd = s.keep_fd = s.slots.fd = -1
    s.secret = secret
    s.priv_domid = priv_domid
    s.store_domid = store_domid
    for i in range(QUOTAS):
        s.limit[i] = quota_of(i).value
    s.nodes.sparse = True                       # every request walks this one
    s.image = image
    if table_init(&s.nodes) or table_init(&s.ghosts) or table_init(&s.wnodes) or table_init(&s.watches) \
            or table_init(&s.events) or table_init(&s.perms) or table_init(&s.tnodes) or watches_init(s):
        store_free(s)
        return NULL
    if image != NULL and not image.fresh:
        return s                                # what is in it is the caller's to restore
    # Domains first: nodes are charged to them.
    if domains_init(s) or tree_init(s):
        store_free(s)
        return NULL
    journal_meta(s)
    return s


cdef void store_free(Store *s) noexcept nogil:
    tree_free(s)
    domains_free(s)
    table_free(&s.nodes)
    table_free(&s.ghosts)
    table_free(&s.wnodes)
    table_free(&s.watches)
    table_free(&s.events)
    table_free(&s.perms)
    table_free(&s.tnodes)
    heap_free(s)
    buf_free(&s.scratch)
    buf_free(&s.text)
    buf_free(&s.trace)
    buf_free(&s.journal)
    buf_free(&s.orphans)
    slots_close(s)
    free(s.match)
    free(s.steps)
    free(s)
