"""Requests.

Owns the operation table, the order of checks and the error of every refusal (SPEC 1.2 to 1.6), and
doing a transaction's log again.  Each operation is one function (Store, Req) -> errno; 0 means that
it has replied.  Refuses to know connections' kinds and how nodes are kept.

Order of checks: unknown type ENOSYS, privilege EACCES, transaction ENOENT, then the operation's own.
"""
from libc.errno cimport (E2BIG, EACCES, EAGAIN, EBUSY, EEXIST, EINVAL, ENOENT, ENOMEM, ENOSPC, ENOSYS, EPERM)
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, strtol, strtoul
from libc.string cimport memchr, memcpy, memset, strlen

from fastxs.core.domains cimport domain_aim, domain_introduce, domain_know, domain_remove, domain_record, limit_set
from fastxs.core.heap cimport at, buf_add, buf_room, fx_hash
from fastxs.core.journal cimport NodeRecord, Record
from fastxs.core.model cimport (ACE_STALE, ANSWERED_LATER, CONN_WAITED, C_COMMITS, C_CONFLICTS, C_ERRORS, C_REPLAYS,
                                C_REQUESTS, DOMIDS, DOMID_ANY, DOMID_SELF, OPS, PAYLOAD_MAX, QUOTAS, Q_MEMORY, Q_NODES,
                                Q_NODE_SIZE, Q_PATH, Q_PERMS, Q_TRANSACTIONS, Q_WATCHES, RIGHT_OWNER, RIGHT_READ,
                                RIGHT_WRITE, SAY_CONFLICT, SAY_PERMISSION, SAY_QUOTA, TX_DOOMED, TX_DOUBT, TX_FAILED,
                                TX_STALE, VIEW_KEEP, VIEW_LOST, Ace, Conn, Cursor, Domain, Kids, LogEntry, Node, Perms,
                                Store, Tx, View, handle, layout)
from fastxs.core.outbox cimport mark_dirty, out_event, out_message
from fastxs.core.paths cimport Path, component_end, path_base, path_home_len, path_is_legal
from fastxs.core.perms cimport (aces, conn_rights, owner_of, perm_format, perm_parse, perms_drop, perms_hold,
                                perms_intern)
from fastxs.core.quota cimport quota_allows, quota_find, quota_fits, quota_of, say
from fastxs.core.trace cimport trace_message
from fastxs.core.transactions cimport (Spot, tx_end, tx_find, tx_log, tx_new, txs_drop, view_above_perms, view_count,
                                       view_create, view_find, view_fire, view_free, view_generation, view_list,
                                       view_list_size, view_logged, view_moved, view_new, view_perms, view_remove,
                                       view_see_above, view_set_perms, view_set_value, view_touches, view_value,
                                       views_collide)
from fastxs.core.tree cimport RECLAIM_NOW, kids_of, node_at, reclaim, snapshot_close, stir
from fastxs.core.watches cimport fire, fire_removed, watch_add, watch_remove, watch_there, watches_drop
from fastxs.core.wire cimport *

LAYOUT = layout()

ctypedef int (*Handler)(Store *, Req *) noexcept nogil

cdef enum:
    FLAG_PRIV = 1               # only the privileged domain and sockets
    FLAG_TX = 2                 # works on what its transaction sees; done again at commit
    FLAG_NOTID = 4              # does not look at tx_id at all (XSA-115)
    FLAG_WRITE = 8              # changes nodes
    FLAG_GROWS = 16             # what the image holds; refused with ENOSPC where it has no room
    FLAG_SHRINKS = 32           # what the image holds, for which a little room is kept
    SPARE = 64                  # records; so much
    STARVED = 3                 # EAGAINs in a row before others have to let a peer pass
    GUARD_NS = 5000000          # and for how long, at the most
    AGAIN = 4                   # times the work of a request on the tree itself
    LOG_LONG = 2048             # entries: about a millisecond
    REPLAY_BASE = 1024          # entries that may be done again on the way, and as many times the log
    REPLAY_TIMES = 16
    RECLAIM_SLICE = 64          # and with each later one, while there are more

cdef struct Operation:
    Handler handler
    uint32_t flags


# ---- replying --------------------------------------------------------------------------------------

cdef uint64_t digest(Store *s, const char *data, uint32_t n) noexcept nogil:
    return <uint64_t>fx_hash(s.secret, n, data, n) << 32 | fx_hash(~s.secret, n, data, n)


cdef int reply(Store *s, Req *r, const char *data, uint32_t n) noexcept nogil:
    """Always 0, so that a handler ends with it."""
    if r.tx != NULL:
        r.answer ^= digest(s, data, n)
    if not s.replaying:
        out_message(s, r.conn, r.type, r.req_id, r.tx_id, data, n)
    return 0


cdef inline int ok(Store *s, Req *r) noexcept nogil:
    return reply(s, r, b"OK", 3)


cdef int reply_number(Store *s, Req *r, const char *form, uint32_t value) noexcept nogil:
    cdef char[32] text
    return reply(s, r, text, <uint32_t>snprintf(text, 32, form, value) + 1)


# ---- reading a payload -------------------------------------------------------------------------------

cdef bint one_string(Req *r) noexcept nogil:
    """Exactly one NUL, at the very end (SPEC 1.2)."""
    return r.len > 0 and memchr(r.data, 0, r.len) == <const void *>(r.data + r.len - 1)


cdef uint32_t strings(Req *r, const char **out, uint32_t room) noexcept nogil:
    """The payload's NUL-terminated strings, at most `room` of them; how many there are in all.

    Bytes behind the last NUL do not matter, as in C.
    """
    cdef uint32_t i = 0, count = 0
    cdef const char *end
    while i < r.len:
        end = <const char *>memchr(r.data + i, 0, r.len - i)
        if end == NULL:
            break
        if count < room:
            out[count] = r.data + i
        count += 1
        i = <uint32_t>(end - r.data) + 1
    return count


cdef int number(const char *text, uint32_t largest, uint32_t *value) noexcept nogil:
    """As C reads domids: base 10, leading blanks, the whole string, empty is 0."""
    cdef char *end = NULL
    cdef unsigned long v = strtoul(text, &end, 10)
    cdef uint32_t i = 0
    while text[i] == c' ':
        i += 1
    if end[0] != 0 or v > largest or text[i] == c'-':
        return EINVAL
    value[0] = <uint32_t>v
    return 0


# ---- naming a node -----------------------------------------------------------------------------------

cdef int canonical(Store *s, Req *r, const char *p, uint32_t n, bint specials, Path *out) noexcept nogil:
    """A legal path in absolute form: the request's own bytes, or made in scratch.  0, EINVAL or ENOMEM."""
    cdef char[32] base
    cdef uint32_t size, counted
    if not path_is_legal(p, n, specials):
        return EINVAL
    out.p = p
    out.len = n
    out.special = p[0] == c'@'
    out.relative = p[0] != c'/' and p[0] != c'@'
    if out.relative:
        size = path_base(r.conn.domid, base)
        s.scratch.len = 0
        if buf_add(&s.scratch, base, size) or buf_add(&s.scratch, p, n):
            return ENOMEM
        out.p = s.scratch.data
        out.len = s.scratch.len
    if r.conn.domain != NULL and not s.quiet:   # sockets have no limit but the payload (SPEC 1.4)
        counted = out.len - path_home_len(out.p, out.len)
        if not quota_fits(s, r.conn.domain, Q_PATH, counted):
            return EINVAL
    return 0


cdef void denied(Store *s, Req *r, Path *path) noexcept nogil:
    if not s.replaying:
        say(s, SAY_PERMISSION, r.conn.domain, r.conn.serial, path.p, path.len, EACCES)


cdef inline bint limited(Store *s, Req *r) noexcept nogil:
    """Do quotas bind this request?  Not the privileged, nor a commit's changes: those were all tried before."""
    return not r.conn.privileged and r.conn.domain != NULL and not s.quiet


cdef inline bint memory_allows(Store *s, Req *r, int64_t more) noexcept nogil:
    """Memory is no answer that a transaction was given, so a replay, which needs it twice, does not ask."""
    return s.replaying or quota_allows(s, r.conn.domain, Q_MEMORY, more)


cdef int over(Store *s, Req *r, uint32_t item, int error) noexcept nogil:
    """A quota refuses; within a transaction that dooms it (SPEC 4).  Returns `error`."""
    if r.tx != NULL and not s.replaying and item != Q_PERMS:
        r.tx.flags |= TX_FAILED
    if not s.replaying:
        say(s, SAY_QUOTA, r.conn.domain, r.conn.serial, quota_of(item).name, <uint32_t>strlen(quota_of(item).name),
            error)
    return error


cdef bint near_quota(Store *s, Req *r, Path *path) noexcept nogil:
    """Could the number of nodes decide?  A view that is not today's knows it only to within what it touched."""
    cdef Domain *d = r.conn.domain
    cdef int64_t most = path.len + r.view.seen
    if r.conn.privileged or d == NULL or (r.type != XS_WRITE and r.type != XS_MKDIR):
        return False
    return not quota_allows(s, d, Q_NODES, most + view_count(r.view, d.domid))


cdef int locate(Store *s, Req *r, const char *p, uint32_t n, uint32_t need, bint specials, Path *path,
                Spot *spot) noexcept nogil:
    """Find what a path names and check the rights that the operation needs.

    0: there, and allowed.  ENOENT: missing, and the nearest existing ancestor grants the right, so it
    may be told and may be created.  EACCES otherwise (SPEC 3.3).
    """
    cdef int error = canonical(s, r, p, n, specials, path)
    if error:
        return error
    if r.view != NULL and not s.replaying and s.stamp != r.view.stamp \
            and not r.tx.flags & (TX_STALE | TX_FAILED):
        if r.type == XS_RM or near_quota(s, r, path) or view_moved(s, r.view, path.p, path.len):
            if move_on(s, r.tx) == 0:
                r.view = r.tx.view
            else:
                r.tx.flags |= TX_STALE
            canonical(s, r, p, n, specials, path)       # the replay used scratch
    error = view_find(s, r.view, path.p, path.len, spot)
    if error:
        return over(s, r, Q_MEMORY if error == ENOMEM else Q_NODES, error)
    r.t = spot.t
    if spot.found:
        if r.conn.privileged or (conn_rights(s, r.conn, view_perms(s, r.view, spot)) & need) == need:
            return 0
        view_see_above(s, r.view, spot)         # C asks the parent what it may tell
    elif r.conn.privileged or conn_rights(s, r.conn, view_above_perms(s, r.view, spot)) & need:
        return ENOENT                           # one of the wanted rights is enough to know, as in C
    denied(s, r, path)
    return EACCES


cdef int locate_one(Store *s, Req *r, uint32_t need, bint specials, Path *path, Spot *spot) noexcept nogil:
    """The same for an operation whose payload is one path."""
    return locate(s, r, r.data, r.len - 1, need, specials, path, spot) if one_string(r) else EINVAL


# ---- reading nodes -----------------------------------------------------------------------------------

cdef int do_read(Store *s, Req *r) noexcept nogil:
    cdef Path path
    cdef Spot spot
    cdef const char *value = NULL
    cdef uint32_t n = 0
    cdef int error = locate_one(s, r, RIGHT_READ, False, &path, &spot)
    if error:
        return error
    view_value(s, r.view, &spot, &value, &n)
    return reply(s, r, value, n)


cdef int do_directory(Store *s, Req *r) noexcept nogil:
    cdef Path path
    cdef Spot spot
    cdef int error = locate_one(s, r, RIGHT_READ, False, &path, &spot)
    if error:
        return error
    if r.view == NULL and view_list_size(s, NULL, &spot) > PAYLOAD_MAX:
        return E2BIG
    s.text.len = 0
    if view_list(s, r.view, &spot, &s.text):
        return ENOMEM
    if s.text.len > PAYLOAD_MAX:
        return E2BIG
    return reply(s, r, s.text.data, s.text.len)


cdef uint32_t part_of_tree(Store *s, Conn *conn, handle node, uint64_t gen, uint32_t offset, char *out,
                           uint32_t room, bint *last) noexcept nogil:
    """Names from a byte offset of the list on, whole ones while they fit (the first may begin in its middle).

    The connection's cursor says where the last part ended, so consecutive parts cost what they carry.
    """
    cdef Kids *k = kids_of(s, node)
    cdef Cursor *c = &conn.cursor
    cdef handle child = k.first
    cdef uint32_t begins = 0, n = 0, size, skip
    cdef Node *name
    if c.node == node and c.gen == gen and c.offset == offset:
        child = c.child
        begins = offset
    while child:
        name = node_at(s, child)
        size = name.name_len + 1
        if begins + size > offset:
            skip = offset - begins if offset > begins else 0
            if n + size - skip > room:
                break
            memcpy(out + n, name.data + skip, size - skip - 1)
            n += size - skip
            out[n - 1] = 0
        begins += size
        child = name.next
    last[0] = child == 0
    c.node = node
    c.gen = gen
    c.child = child
    c.offset = begins
    return n


cdef int do_directory_part(Store *s, Req *r) noexcept nogil:
    cdef const char *part[2]
    cdef Path path
    cdef Spot spot
    cdef char *out
    cdef char *end = NULL
    cdef uint64_t gen
    cdef uint32_t n, size, used, word
    cdef long offset
    cdef bint last = False
    cdef int error
    if strings(r, part, 2) != 2:
        return EINVAL
    error = locate(s, r, part[0], <uint32_t>strlen(part[0]), RIGHT_READ, False, &path, &spot)
    if error:
        return error
    offset = strtol(part[1], &end, 10)
    gen = view_generation(s, r.view, &spot)
    s.text.len = 0
    if buf_room(&s.text, PAYLOAD_MAX + 32):
        return ENOMEM
    used = 0
    if r.view != NULL:                          # a transaction's list is made whole, behind the reply
        s.text.len = PAYLOAD_MAX + 32
        if view_list(s, r.view, &spot, &s.text):
            return ENOMEM
        used = PAYLOAD_MAX + 32
        size = s.text.len - used
    else:
        size = view_list_size(s, NULL, &spot)
    out = s.text.data
    n = <uint32_t>snprintf(out, 32, b"%llu", <unsigned long long>gen) + 1
    if offset < 0 or offset >= <long>size:
        out[n] = 0
        return reply(s, r, out, n + 1)
    if r.view == NULL:
        n += part_of_tree(s, r.conn, spot.node, gen, <uint32_t>offset, out + n, PAYLOAD_MAX - n - 1, &last)
    else:
        last = False
        while not last:
            word = <uint32_t>strlen(out + used + offset) + 1
            if n + word > PAYLOAD_MAX - 1:
                break
            memcpy(out + n, out + used + offset, word)
            n += word
            offset += word
            last = offset >= <long>size
    if last:
        out[n] = 0
        n += 1
    return reply(s, r, out, n)


cdef int do_get_perms(Store *s, Req *r) noexcept nogil:
    cdef Path path
    cdef Spot spot
    cdef handle list
    cdef char[16] text
    cdef uint32_t i
    cdef int error = locate_one(s, r, RIGHT_READ, True, &path, &spot)
    if error:
        return error
    list = view_perms(s, r.view, &spot)
    s.text.len = 0
    for i in range((<Perms *>at(s, list)).count):
        if buf_add(&s.text, text, perm_format(aces(s, list) + i, text) + 1):
            return ENOMEM
    return E2BIG if s.text.len > PAYLOAD_MAX else reply(s, r, s.text.data, s.text.len)


# ---- changing nodes -----------------------------------------------------------------------------------

cdef uint32_t node_size(Store *s, Req *r, Spot *spot, uint32_t value_len) noexcept nogil:
    """What quota node-size counts: a header of 16, 8 for each permission, the value, the children's names."""
    cdef uint32_t perms = (<Perms *>at(s, view_perms(s, r.view, spot))).count
    return 16 + 8 * perms + value_len + view_list_size(s, r.view, spot)


cdef int create(Store *s, Req *r, Path *path, uint32_t room, Spot *spot) noexcept nogil:
    """Create what is missing, if the quotas of an unprivileged creator allow all of it (XSA-414)."""
    cdef Domain *d = r.conn.domain
    cdef uint32_t missing = 1, i, first, size = 0
    cdef int64_t more
    cdef const char *value = NULL
    cdef Spot above
    cdef int error
    if limited(s, r):
        i = first = component_end(path.p, path.len, spot.rest)
        while i < path.len:
            missing += path.p[i] == c'/'
            i += 1
        more = <int64_t>missing + view_count(r.view, d.domid)
        if not quota_allows(s, d, Q_NODES, more):
            # What it removed may not have been given back yet.
            while s.reclaim_first != NULL and not quota_allows(s, d, Q_NODES, more):
                reclaim(s, RECLAIM_SLICE)
            if not quota_allows(s, d, Q_NODES, more):
                return over(s, r, Q_NODES, ENOSPC)
        if not memory_allows(s, r, <int64_t>missing * 96):
            return over(s, r, Q_MEMORY, ENOMEM)
        memset(&above, 0, sizeof(Spot))
        above.node = spot.above
        above.t = spot.above_t
        view_value(s, r.view, &above, &value, &size)
        if not quota_fits(s, d, Q_NODE_SIZE, node_size(s, r, &above, size) + first - spot.rest + 1):
            return over(s, r, Q_NODE_SIZE, ENOSPC)
    if r.dry:
        return 0
    error = view_create(s, r.view, r.conn, path.p, path.len, room, spot)
    return over(s, r, Q_MEMORY, error) if error else 0


cdef void changed(Store *s, Req *r, Path *path, Spot *spot, handle old_perms) noexcept nogil:
    """Tell the watchers, unless a transaction keeps it to itself until its end."""
    cdef handle up
    if r.view != NULL or s.quiet or r.dry:
        return
    up = node_at(s, spot.node).parent
    fire(s, path.p, path.len, False, node_at(s, spot.node).perms, old_perms, node_at(s, up).perms if up else 0)


cdef int do_write(Store *s, Req *r) noexcept nogil:
    cdef const char *nul = <const char *>memchr(r.data, 0, r.len) if r.len else NULL
    cdef Path path
    cdef Spot spot
    cdef const char *value
    cdef uint32_t n, fixed
    cdef int error
    if nul == NULL:
        return EINVAL
    value = nul + 1
    n = r.len - <uint32_t>(value - r.data)
    error = locate(s, r, r.data, <uint32_t>(nul - r.data), RIGHT_WRITE, False, &path, &spot)
    if error and error != ENOENT:
        return error
    if limited(s, r):
        fixed = node_size(s, r, &spot, n) if spot.found else 16 + 8 * (<Perms *>at(
            s, view_above_perms(s, r.view, &spot))).count + n
        if not quota_fits(s, r.conn.domain, Q_NODE_SIZE, fixed):
            return over(s, r, Q_NODE_SIZE, ENOSPC)
        if not memory_allows(s, r, n):
            return over(s, r, Q_MEMORY, ENOMEM)
    if error:
        error = create(s, r, &path, n, &spot)
        if error:
            return error
    if not r.dry:
        error = view_set_value(s, r.view, &spot, value, n)
        if error:
            return over(s, r, Q_MEMORY, error)
    changed(s, r, &path, &spot, 0)
    return ok(s, r)


cdef int do_mkdir(Store *s, Req *r) noexcept nogil:
    cdef Path path
    cdef Spot spot
    cdef int error = locate_one(s, r, RIGHT_WRITE, False, &path, &spot)
    if error == ENOENT:
        error = create(s, r, &path, 0, &spot)
        if not error:
            changed(s, r, &path, &spot, 0)
    return error if error else ok(s, r)


cdef inline uint32_t at_once(Conn *conn) noexcept nogil:
    """A guest's account is right when it has its answer, and it has few nodes; a toolstack may remove a million."""
    return RECLAIM_SLICE if conn.privileged else RECLAIM_NOW


cdef int do_rm(Store *s, Req *r) noexcept nogil:
    cdef Path path
    cdef Spot spot
    cdef int error = locate_one(s, r, RIGHT_WRITE, False, &path, &spot)
    if error == ENOENT and component_end(path.p, path.len, spot.rest) == path.len:
        return ok(s, r)                         # its parent exists: gone is gone
    if error:
        return error
    if path.len == 1:
        return EINVAL
    if not r.dry:
        if r.view == NULL and not s.quiet:
            fire_removed(s, path.p, path.len, spot.node)
        error = view_remove(s, r.view, &spot)
        if error:
            return over(s, r, Q_NODES, error)
        if r.view == NULL:
            reclaim(s, at_once(r.conn))
    ok(s, r)
    if r.view != NULL:
        r.answer ^= r.view.finger               # the subtree that it removed is part of what it was told
    return 0


cdef int read_perms(Store *s, Req *r, const char *first, Ace *list, uint32_t count) noexcept nogil:
    """Entries that name a domain that does not exist never grant anything (XSA-322, XSA-417)."""
    cdef Domain *d
    cdef uint32_t i
    cdef int error
    cdef const char *p = first
    for i in range(count):
        memset(&list[i], 0, sizeof(Ace))
        error = perm_parse(p, &list[i])
        if error:
            return error
        if list[i].domid == DOMID_ANY and (r.conn.domain == NULL or r.conn.domain.features & FEATURE_DOMID_ANY):
            pass                                # means everybody to those who were offered it
        else:
            d = domain_know(s, list[i].domid)
            if d == NULL:
                list[i].flags = ACE_STALE
                if r.tx != NULL:
                    r.tx.flags |= TX_DOUBT
            # Whom it named is part of what it was told: the next domain with that domid is another one.
            r.answer = (r.answer ^ (d.serial if d != NULL else 0)) * <uint64_t>0x9E3779B97F4A7C15 + 1
        p += strlen(p) + 1
    return 0


cdef int set_perms(Store *s, Req *r, const char *name, Ace *list, uint32_t count) noexcept nogil:
    cdef Path path
    cdef Spot spot
    cdef handle perms, old
    cdef const char *value = NULL
    cdef uint32_t n = 0, size
    cdef int error
    if list[0].flags & ACE_STALE or domain_know(s, list[0].domid) == NULL:
        return ENOENT                           # the owner must exist; C looks at that before the path
    error = locate(s, r, name, <uint32_t>strlen(name), RIGHT_WRITE | RIGHT_OWNER, True, &path, &spot)
    if error:
        return error
    if path.special and not r.conn.privileged:
        denied(s, r, &path)
        return EACCES
    if not r.conn.privileged and list[0].domid != owner_of(s, view_perms(s, r.view, &spot)):
        return EPERM                            # nodes cannot be given away (XSA-352)
    if limited(s, r):
        view_value(s, r.view, &spot, &value, &n)
        size = node_size(s, r, &spot, n) + 8 * count - 8 * (<Perms *>at(s, view_perms(s, r.view, &spot))).count
        if not quota_fits(s, r.conn.domain, Q_NODE_SIZE, size):
            return over(s, r, Q_NODE_SIZE, ENOSPC)
    if r.dry:
        return ok(s, r)
    old = view_perms(s, r.view, &spot)
    perms_hold(s, old)                          # its watchers are told as well
    perms = perms_intern(s, list, count)
    error = view_set_perms(s, r.view, &spot, perms) if perms else ENOMEM
    if not error:
        if not path.special:
            changed(s, r, &path, &spot, old)
        ok(s, r)
    elif perms:
        perms_drop(s, perms)
    perms_drop(s, old)
    return error


cdef int do_set_perms(Store *s, Req *r) noexcept nogil:
    cdef const char *part[2]
    cdef Ace[8] few
    cdef Ace *list = few
    cdef uint32_t count
    cdef int error
    count = strings(r, part, 2)
    if count < 2:
        return EINVAL
    count -= 1
    if limited(s, r) and not quota_fits(s, r.conn.domain, Q_PERMS, count):
        return over(s, r, Q_PERMS, ENOSPC)
    if count > 8:
        list = <Ace *>calloc(count, sizeof(Ace))
        if list == NULL:
            return ENOMEM
    error = read_perms(s, r, part[1], list, count)
    if not error:
        error = set_perms(s, r, part[0], list, count)
    if list != few:
        free(list)
    return error


# ---- watches ------------------------------------------------------------------------------------------

cdef int do_watch(Store *s, Req *r) noexcept nogil:
    cdef const char *part[3]
    cdef Path path
    cdef uint32_t count, n
    cdef long depth = -1
    cdef handle watch = 0
    cdef int error
    count = strings(r, part, 3)
    if count != 2 and count != 3:
        return EINVAL
    if count == 3:
        if r.conn.domain != NULL and not r.conn.domain.features & FEATURE_WATCHDEPTH:
            return EINVAL
        depth = strtol(part[2], NULL, 10)
        if depth < 0 or depth > 0x7FFFFFFF:
            return EINVAL
    n = <uint32_t>strlen(part[0])
    error = canonical(s, r, part[0], n, True, &path)
    if error:
        return error
    if limited(s, r):
        if not quota_allows(s, r.conn.domain, Q_WATCHES, 1):
            # An equal watch is told so first.
            if watch_there(s, r.conn, path.p, path.len, part[1], <uint32_t>strlen(part[1])):
                return EEXIST
            return over(s, r, Q_WATCHES, ENOSPC)
        if not memory_allows(s, r, 128 + <int64_t>path.len + <int64_t>strlen(part[1])):
            return over(s, r, Q_MEMORY, ENOMEM)
    error = watch_add(s, r.conn, path.p, path.len, part[1], <uint32_t>strlen(part[1]), <int>depth, path.relative,
                      &watch)
    if error:
        return error
    ok(s, r)
    out_event(s, r.conn, watch, part[0], n, False)      # at once, as it was given, there or not (SPEC 1.5)
    return 0


cdef int do_unwatch(Store *s, Req *r) noexcept nogil:
    cdef const char *part[2]
    cdef Path path
    cdef int error
    if strings(r, part, 2) != 2:
        return EINVAL
    error = canonical(s, r, part[0], <uint32_t>strlen(part[0]), True, &path)
    if error:
        return error
    error = watch_remove(s, r.conn, path.p, path.len, part[1], <uint32_t>strlen(part[1]))
    return error if error else ok(s, r)


cdef int do_reset_watches(Store *s, Req *r) noexcept nogil:
    """Watches and transactions go, the one that it was sent in too (XSA-484)."""
    watches_drop(s, r.conn)
    txs_drop(s, r.conn)
    r.tx = NULL
    return ok(s, r)


# ---- transactions ----------------------------------------------------------------------------------------

cdef int replay(Store *s, Tx *tx) noexcept nogil:
    """Do a transaction's log again on the tree of today.

    0: every answer was the same, and the view now stands on today.  EAGAIN: one differed; ENOSPC: a
    quota refuses today what it allowed.  Then the old view stays.
    """
    cdef View *old = tx.view
    cdef View *new = view_new(s, tx.conn)
    cdef LogEntry *e
    cdef Req r
    cdef uint32_t i = 0
    cdef int error = 0, result
    if new == NULL:
        return EAGAIN
    s.counter[C_REPLAYS] += 1
    s.work += AGAIN * tx.entries
    s.replaying = True
    while i < tx.log.len and not error:
        e = <LogEntry *>(tx.log.data + i)
        memset(&r, 0, sizeof(Req))
        r.conn = tx.conn
        r.type = e.op
        r.data = <char *>e + sizeof(LogEntry)
        r.len = e.len
        r.tx = tx
        r.view = new
        result = TABLE[e.op].handler(s, &r)
        if result != e.error:
            error = ENOSPC if result == ENOSPC else EAGAIN
        elif not result and r.answer != e.answer:
            error = EAGAIN
        if not error and not TABLE[e.op].flags & FLAG_WRITE and r.t:
            view_logged(s, new, r.t, e.op)
        i += <uint32_t>sizeof(LogEntry) + ((e.len + 7) & ~7)
        if error:
            s.spoiled = r.data                  # every logged payload begins with a path and a NUL
    s.replaying = False
    if error:
        view_free(s, new)
        return error
    tx.view = new
    view_free(s, old)
    return 0


cdef int move_on(Store *s, Tx *tx) noexcept nogil:
    """Bring the view to today, within reason: a transaction may not make others wait for its long log again and
    again.  Past that it keeps the view that it has, and only its end tries once more."""
    tx.replayed += tx.entries
    if tx.entries > LOG_LONG or tx.replayed > REPLAY_BASE + <uint64_t>REPLAY_TIMES * tx.entries:
        return EAGAIN
    return replay(s, tx)


cdef void apply(Store *s, Tx *tx) noexcept nogil:
    """Do a log's changes on the tree itself; all of it was just tried, so nothing is refused."""
    cdef LogEntry *e
    cdef Req r
    cdef uint32_t i = 0
    s.work += AGAIN * tx.entries
    s.quiet = s.replaying = True
    while i < tx.log.len:
        e = <LogEntry *>(tx.log.data + i)
        if TABLE[e.op].flags & FLAG_WRITE and not e.error:
            memset(&r, 0, sizeof(Req))
            r.conn = tx.conn
            r.type = e.op
            r.data = <char *>e + sizeof(LogEntry)
            r.len = e.len
            TABLE[e.op].handler(s, &r)
        i += <uint32_t>sizeof(LogEntry) + ((e.len + 7) & ~7)
    s.quiet = s.replaying = False


cdef int within_quotas(Store *s, View *v) noexcept nogil:
    """The sum of a commit per domain, before anything is applied (SPEC 4)."""
    cdef uint32_t i
    cdef Domain *d
    if v.conn.privileged:
        return 0
    for i in range(v.n_counts):
        d = s.domain[v.counts[i].domid] if v.counts[i].domid < DOMIDS else NULL
        if v.counts[i].nodes > 0 and d != NULL and not quota_allows(s, d, Q_NODES, v.counts[i].nodes):
            return ENOSPC
    return 0


cdef int commit(Store *s, Tx *tx) noexcept nogil:
    """0, EAGAIN, ENOMEM or ENOSPC; all of it or nothing."""
    cdef View *v = tx.view
    cdef int error
    if tx.flags & TX_FAILED:
        return ENOMEM
    if tx.flags & TX_DOOMED or (v != NULL and v.flags & VIEW_LOST):
        return EAGAIN
    if v == NULL:
        return 0
    if s.stamp != v.stamp or tx.flags & TX_DOUBT:
        error = replay(s, tx)
        if error:
            return error
        v = tx.view
    if v.epoch == 0:
        return 0
    error = within_quotas(s, v)
    if error:
        return error
    v.held_limit = 0                            # it may hold what it changes itself
    if not v.flags & VIEW_KEEP:
        snapshot_close(s, v)
    apply(s, tx)
    view_fire(s, v)
    s.counter[C_COMMITS] += 1
    return 0


cdef bint must_wait(Store *s, Conn *conn, const Header *h, const char *data) noexcept nogil:
    """While a starved peer's transaction is guarded, unprivileged peers' changes to what it saw wait: once, a few
    milliseconds at the most, and only those that would make it fail once more (XSA-206)."""
    cdef Tx *tx = s.guarded
    cdef Tx *mine
    cdef Req r
    cdef Path path
    cdef const char *end
    if tx == NULL or conn.privileged or conn == tx.conn or tx.view == NULL or conn.flags & CONN_WAITED:
        return False
    if h.type == XS_TRANSACTION_END:
        mine = tx_find(conn, h.tx_id)
        return h.len == 2 and data[0] == c'T' and mine != NULL and mine.view != NULL \
            and not mine.view.flags & VIEW_LOST and not tx.view.flags & VIEW_LOST \
            and views_collide(s, mine.view, tx.view)
    if h.tx_id or h.type >= OPS or not TABLE[h.type].flags & FLAG_WRITE:
        return False
    end = <const char *>memchr(data, 0, h.len)
    memset(&r, 0, sizeof(Req))
    r.conn = conn
    if end == NULL or canonical(s, &r, data, <uint32_t>(end - data), False, &path):
        return False
    return view_touches(s, tx.view, path.p, path.len)


cdef int do_transaction_start(Store *s, Req *r) noexcept nogil:
    if r.tx != NULL:
        return EBUSY
    if limited(s, r) and not quota_allows(s, r.conn.domain, Q_TRANSACTIONS, 1):
        return over(s, r, Q_TRANSACTIONS, ENOSPC)
    if tx_new(s, r.conn) == NULL:
        return ENOMEM
    if r.conn.eagains >= STARVED and s.guarded == NULL:
        r.conn.eagains = 0                      # the right is used up
        s.guarded = r.conn.tx
        s.guarded_ns = s.now_ns + GUARD_NS
    return reply_number(s, r, b"%u", r.conn.tx.id)


cdef int do_transaction_end(Store *s, Req *r) noexcept nogil:
    cdef Tx *tx = r.tx
    cdef const char *word
    cdef uint64_t stamp = tx.view.stamp if tx != NULL and tx.view != NULL else 0
    cdef int error = 0
    if not one_string(r) or r.len != 2 or (r.data[0] != c'T' and r.data[0] != c'F'):
        return EINVAL                           # it stays open
    if tx == NULL:
        return ENOENT
    s.spoiled = NULL
    if r.data[0] == c'T':
        error = commit(s, tx) if admits_log(s, tx) else ENOSPC      # it ends in any case
        if error == EAGAIN:
            s.counter[C_CONFLICTS] += 1
            r.conn.eagains += tx.view == NULL or r.conn.own_stamp <= stamp
            word = b"lost snapshot"
            if s.spoiled != NULL:
                word = s.spoiled
            say(s, SAY_CONFLICT, r.conn.domain, r.conn.serial, word, <uint32_t>strlen(word), EAGAIN)
        elif not error:
            r.conn.eagains = 0
    r.tx = NULL
    tx_end(s, tx)
    reclaim(s, at_once(r.conn))
    return error if error else ok(s, r)


# ---- domains ---------------------------------------------------------------------------------------------

cdef int domid_of(Req *r, uint32_t *domid) noexcept nogil:
    if not one_string(r):
        return EINVAL
    return number(r.data, DOMIDS - 1, domid)


cdef int do_introduce(Store *s, Req *r) noexcept nogil:
    cdef const char *part[3]
    cdef uint32_t domid = 0
    cdef uint32_t port
    cdef int error
    if strings(r, part, 3) < 3 or number(part[0], DOMIDS - 1, &domid):
        return EINVAL
    port = <uint32_t>strtol(part[2], NULL, 10)  # -1 is a port like any other, as in C: binding it fails
    if port == 0:
        return EINVAL
    error = domain_introduce(s, domid, port)
    return error if error else ok(s, r)


cdef int own_domid(Store *s, Req *r, uint32_t *domid) noexcept nogil:
    """A domain that RELEASE and RESUME may name: introduced, and neither the store's nor the privileged one."""
    cdef int error = domid_of(r, domid)
    if error:
        return error
    if domid[0] == s.store_domid or domid[0] == s.priv_domid:
        return EINVAL
    if s.domain[domid[0]] == NULL or not s.domain[domid[0]].introduced:
        return ENOENT
    return 0


cdef int do_release(Store *s, Req *r) noexcept nogil:
    cdef uint32_t domid = 0
    cdef int error = own_domid(s, r, &domid)
    if error:
        return error
    domain_remove(s, s.domain[domid], True)
    return ok(s, r)


cdef int do_resume(Store *s, Req *r) noexcept nogil:
    cdef uint32_t domid = 0
    cdef int error = own_domid(s, r, &domid)
    if error:
        return error
    s.domain[domid].shutdown = False
    domain_record(s, s.domain[domid])
    return ok(s, r)


cdef int do_set_target(Store *s, Req *r) noexcept nogil:
    cdef const char *part[2]
    cdef uint32_t domid = 0, target = 0
    cdef Domain *d
    if strings(r, part, 2) < 2 or number(part[0], DOMIDS - 1, &domid) or number(part[1], DOMIDS - 1, &target):
        return EINVAL
    d = s.domain[domid]
    if d == NULL or not d.introduced or s.domain[target] == NULL or not s.domain[target].introduced:
        return ENOENT
    domain_aim(s, d, s.domain[target])
    return ok(s, r)


cdef int do_is_domain_introduced(Store *s, Req *r) noexcept nogil:
    cdef uint32_t domid = 0
    cdef int error = domid_of(r, &domid)
    if error:
        return error
    if domid == DOMID_SELF or (s.domain[domid] != NULL and s.domain[domid].introduced):
        return reply(s, r, b"T", 2)
    return reply(s, r, b"F", 2)


cdef int do_get_domain_path(Store *s, Req *r) noexcept nogil:
    cdef uint32_t domid = 0
    cdef int error = domid_of(r, &domid)
    return error if error else reply_number(s, r, b"/local/domain/%u", domid)


cdef int do_get_feature(Store *s, Req *r) noexcept nogil:
    cdef const char *part[1]
    cdef uint32_t count = strings(r, part, 1), domid = r.conn.domid
    cdef Domain *d
    if count > 1 or (count == 0 and r.len):
        return EINVAL
    if count == 1 and part[0][0] != 0:
        if not r.conn.privileged:
            return EACCES
        if number(part[0], DOMIDS - 1, &domid):
            return EINVAL
    d = domain_know(s, domid)
    return ENOENT if d == NULL else reply_number(s, r, b"%u", d.features)


cdef int do_set_feature(Store *s, Req *r) noexcept nogil:
    cdef const char *part[2]
    cdef uint32_t domid = 0, mask = 0
    cdef Domain *d
    if strings(r, part, 2) != 2 or number(part[0], DOMIDS - 1, &domid) \
            or number(part[1], 0xFFFFFFFF, &mask):
        return EINVAL
    d = domain_know(s, domid)
    if d == NULL:
        return ENOENT
    if d.introduced:
        return EBUSY
    if mask & ~<uint32_t>(FEATURE_RECONNECTION | FEATURE_ERROR | FEATURE_WATCHDEPTH | FEATURE_DOMID_ANY):
        return EINVAL
    d.features = mask
    domain_record(s, d)
    stir(s)
    return ok(s, r)


# ---- quotas ----------------------------------------------------------------------------------------------

cdef int quota_target(Store *s, Req *r, const char **part, uint32_t count, uint32_t with_domid, Domain **whose,
                      int *item) noexcept nogil:
    """Whose limits are meant (NULL: those of domains to come); 0, EINVAL or ENOENT."""
    cdef uint32_t domid = 0, i = 0
    whose[0] = NULL
    if count == with_domid:
        if number(part[0], DOMIDS - 1, &domid):
            return EINVAL
        whose[0] = domain_know(s, domid)
        if whose[0] == NULL:
            return ENOENT
        i = 1
    item[0] = quota_find(part[i], <uint32_t>strlen(part[i]))
    return EINVAL if item[0] < 0 else 0


cdef int do_get_quota(Store *s, Req *r) noexcept nogil:
    cdef const char *part[2]
    cdef uint32_t count = strings(r, part, 2), i
    cdef Domain *d = NULL
    cdef int item = -1, error
    if count > 2 or (count == 0 and r.len):
        return EINVAL
    if count == 0 or (count == 1 and part[0][0] == 0):
        s.text.len = 0
        for i in range(QUOTAS):
            if buf_add(&s.text, quota_of(i).name, <uint32_t>strlen(quota_of(i).name)) \
                    or buf_add(&s.text, b" " if i + 1 < QUOTAS else b"\0", 1):
                return ENOMEM
        return reply(s, r, s.text.data, s.text.len)
    error = quota_target(s, r, part, count, 2, &d, &item)
    if error:
        return error
    return reply_number(s, r, b"%u", s.limit[item] if d == NULL else d.limit[item])


cdef int do_set_quota(Store *s, Req *r) noexcept nogil:
    cdef const char *part[3]
    cdef uint32_t count = strings(r, part, 3)
    cdef Domain *d = NULL
    cdef const char *text
    cdef unsigned long value
    cdef int item = -1, error
    if count != 2 and count != 3:
        return EINVAL
    error = quota_target(s, r, part, count, 3, &d, &item)
    if error:
        return error
    text = part[count - 1]
    value = strtoul(text, NULL, 10)             # what is no number is 0, unlimited (SPEC 1.2)
    if text[0] == c'-' or value > 0x7FFFFFFF or (quota_of(item).cap and value > quota_of(item).cap):
        return EINVAL
    limit_set(s, d, <uint32_t>item, <uint32_t>value)
    return ok(s, r)


cdef int do_control(Store *s, Req *r) noexcept nogil:
    cdef int error
    if s.control == NULL:
        return EINVAL
    s.text.len = 0
    s.asked_req_id = r.req_id
    s.asked_tx_id = r.tx_id
    error = s.control(s.engine, r.conn, r.data, r.len, &s.text)
    if error == ANSWERED_LATER:
        mark_dirty(s, r.conn)                   # else its slot would not know that it was served
        return 0
    if error:
        return error
    return E2BIG if s.text.len > PAYLOAD_MAX else reply(s, r, s.text.data, s.text.len)


# ---- the table --------------------------------------------------------------------------------------------

cdef Operation[OPS] TABLE
TABLE[<int>XS_CONTROL] = Operation(do_control, FLAG_PRIV)
TABLE[<int>XS_DIRECTORY] = Operation(do_directory, FLAG_TX)
TABLE[<int>XS_READ] = Operation(do_read, FLAG_TX)
TABLE[<int>XS_GET_PERMS] = Operation(do_get_perms, FLAG_TX)
TABLE[<int>XS_WATCH] = Operation(do_watch, FLAG_NOTID | FLAG_GROWS)
TABLE[<int>XS_UNWATCH] = Operation(do_unwatch, FLAG_NOTID | FLAG_SHRINKS)
TABLE[<int>XS_TRANSACTION_START] = Operation(do_transaction_start, FLAG_GROWS)
TABLE[<int>XS_TRANSACTION_END] = Operation(do_transaction_end, FLAG_SHRINKS)
TABLE[<int>XS_INTRODUCE] = Operation(do_introduce, FLAG_PRIV | FLAG_GROWS)
TABLE[<int>XS_RELEASE] = Operation(do_release, FLAG_PRIV | FLAG_SHRINKS)
TABLE[<int>XS_GET_DOMAIN_PATH] = Operation(do_get_domain_path, 0)
TABLE[<int>XS_WRITE] = Operation(do_write, FLAG_TX | FLAG_WRITE | FLAG_GROWS)
TABLE[<int>XS_MKDIR] = Operation(do_mkdir, FLAG_TX | FLAG_WRITE | FLAG_GROWS)
TABLE[<int>XS_RM] = Operation(do_rm, FLAG_TX | FLAG_WRITE | FLAG_SHRINKS)
TABLE[<int>XS_SET_PERMS] = Operation(do_set_perms, FLAG_TX | FLAG_WRITE | FLAG_GROWS)
TABLE[<int>XS_WATCH_EVENT] = Operation(NULL, 0)
TABLE[<int>XS_ERROR] = Operation(NULL, 0)
TABLE[<int>XS_IS_DOMAIN_INTRODUCED] = Operation(do_is_domain_introduced, FLAG_PRIV)
TABLE[<int>XS_RESUME] = Operation(do_resume, FLAG_PRIV | FLAG_SHRINKS)
TABLE[<int>XS_SET_TARGET] = Operation(do_set_target, FLAG_PRIV | FLAG_GROWS)
TABLE[20] = Operation(NULL, 0)            # RESTRICT, gone since Xen 4.9
TABLE[<int>XS_RESET_WATCHES] = Operation(do_reset_watches, FLAG_SHRINKS)
TABLE[<int>XS_DIRECTORY_PART] = Operation(do_directory_part, FLAG_TX)
TABLE[<int>XS_GET_FEATURE] = Operation(do_get_feature, 0)
TABLE[<int>XS_SET_FEATURE] = Operation(do_set_feature, FLAG_PRIV | FLAG_GROWS)
TABLE[<int>XS_GET_QUOTA] = Operation(do_get_quota, FLAG_PRIV)
TABLE[<int>XS_SET_QUOTA] = Operation(do_set_quota, FLAG_PRIV | FLAG_GROWS)


# ---- one request --------------------------------------------------------------------------------------------

cdef int dispatch(Store *s, Req *r) noexcept nogil:
    cdef const Operation *op
    cdef Tx *tx
    if r.type >= OPS or TABLE[r.type].handler == NULL:
        return ENOSYS
    op = &TABLE[r.type]
    s.op[r.type] += 1
    if op.flags & FLAG_PRIV and not r.conn.privileged:
        return EACCES
    if s.image != NULL and op.flags & (FLAG_GROWS | FLAG_SHRINKS) and not admits(s, r, op):
        return ENOSPC
    if r.tx_id == 0 or op.flags & FLAG_NOTID:
        return op.handler(s, r)
    tx = r.tx = tx_find(r.conn, r.tx_id)
    if tx == NULL:
        return ENOENT
    if not op.flags & FLAG_TX:
        return op.handler(s, r)
    return in_transaction(s, r, op)


cdef uint32_t components(const char *path, uint32_t n) noexcept nogil:
    """That a change at this path may create, with those of a relative one's home."""
    cdef uint32_t i, count = 4
    for i in range(n):
        if path[i] == 0:
            break
        count += path[i] == c'/'
    return count


cdef bint admits(Store *s, Req *r, const Operation *op) noexcept nogil:
    """Is there room in the image for whatever this may change?  The last pages are kept for what makes room."""
    cdef uint32_t records = 4 + (SPARE if op.flags & FLAG_GROWS else 0)
    if op.flags & FLAG_WRITE:
        if r.tx_id:
            return True                         # its end asks for all of it
        records += components(r.data, r.len)
    return has_room(s, records, r.len)


cdef bint admits_log(Store *s, Tx *tx) noexcept nogil:
    cdef uint32_t records = 4, i = 0
    cdef LogEntry *e
    while i < tx.log.len:
        e = <LogEntry *>(tx.log.data + i)
        if TABLE[e.op].flags & FLAG_WRITE:
            records += components(<char *>e + sizeof(LogEntry), e.len)
        i += <uint32_t>sizeof(LogEntry) + ((e.len + 7) & ~7)
    return has_room(s, records, tx.log.len)


cdef bint has_room(Store *s, uint32_t records, uint64_t bytes) noexcept nogil:
    records += s.journal_count
    bytes += s.journal.len + <uint64_t>records * (sizeof(Record) + sizeof(NodeRecord))
    return s.image == NULL or s.image.admits(s.image.self, records, bytes)


cdef int in_transaction(Store *s, Req *r, const Operation *op) noexcept nogil:
    """On the transaction's view, and into its log."""
    cdef Tx *tx = r.tx
    cdef int error
    if tx.view != NULL and tx.view.flags & VIEW_LOST:
        tx.flags |= TX_DOOMED
    if tx.flags & TX_DOOMED:                    # today's tree, and nothing is changed (HOUSE section 6)
        r.dry = True
        return op.handler(s, r)
    if tx.view == NULL:
        tx.view = view_new(s, r.conn)
        if tx.view == NULL:
            tx.flags |= TX_FAILED
            return ENOMEM
    r.view = tx.view
    error = op.handler(s, r)
    if tx.flags & TX_FAILED:
        return error
    if not op.flags & FLAG_WRITE and r.t and view_logged(s, r.view, r.t, r.type) and r.type != XS_DIRECTORY_PART:
        return error                            # the same read, nothing written since
    if tx_log(s, tx, r.type, error, r.answer, r.data, r.len):
        tx.flags |= TX_FAILED
    return error


cdef void serve(Store *s, Conn *conn, const Header *h, const char *data) noexcept nogil:
    cdef Req r
    cdef const char *word
    cdef uint64_t stamp = s.stamp
    cdef int error
    r.conn = conn
    r.type = h.type
    r.req_id = h.req_id
    r.tx_id = h.tx_id
    r.data = data
    r.len = h.len
    r.tx = NULL
    r.view = NULL
    r.answer = 0
    r.t = 0
    r.dry = False
    conn.requests += 1
    s.counter[C_REQUESTS] += 1
    s.work += 1
    if s.trace_on:
        trace_message(s, b"IN", conn, h.type, data, h.len)
    error = dispatch(s, &r)
    if s.stamp != stamp:
        conn.own_stamp = s.stamp
    if error:
        s.counter[C_ERRORS] += 1
        word = error_word(error)
        out_message(s, conn, XS_ERROR, h.req_id, h.tx_id, word, <uint32_t>strlen(word) + 1)
    if s.reclaim_first != NULL:
        reclaim(s, RECLAIM_SLICE)
