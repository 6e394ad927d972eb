"""The data model on one page: every struct that rooms share, and who owns what a pointer or handle names.

Everything small lives in one heap and is named by a 32-bit `handle` (units of 8 bytes, 0 is none):
half a pointer's size, so that a node is one cache line.  `heap.at` turns a handle into an address,
which stays valid until that handle is freed.  Every list is intrusive; every index has one owner.
Tables hold structs that begin with {hash, chain}.
"""
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

ctypedef uint32_t handle

cdef enum:
    CHUNK_SHIFT = 18            # a heap chunk is 2^18 units of 8 bytes: 2 MiB
    CHUNKS = 16384              # 32 GiB
    HEAP_CLASSES = 96
    SEGMENTS = 19               # the first of SEGMENT buckets, each later one as large as all before: 2^30
    SEGMENT = 4096

    PAYLOAD_MAX = 4096
    HEADER = 16
    DOMIDS = 65536
    DOMID_SELF = 0x7FF0
    DOMID_ANY = 0x7FF5          # r32757 in `@releaseDomain`'s default (SPEC 1.5)
    NONE32 = 0xFFFFFFFF
    WINDOW = 65536 + 8192       # one read, behind what was left of the last one
    READ_MAX = 65536
    WINDOWS = 3                 # peers that are read ahead of the one that is served
    PORTS_MAX = 4096
    FRESH_MAX = 64              # connections accepted at a time; one message carries 253 descriptors at most

# ---- heap and tables -------------------------------------------------------------------------

cdef struct Heap:
    char *chunk[CHUNKS]         # owned; mmap of 2 MiB each
    char *spare                 # owned; the next one, being brought in; NULL: none
    uint32_t chunks
    uint32_t top                # next free unit of the last chunk
    handle free[HEAP_CLASSES]   # free lists, the next handle in each item's first word
    uint64_t used[HEAP_CLASSES]  # items handed out
    uint64_t used_bytes
    uint64_t items

cdef struct Item:               # how a struct in a table begins
    uint32_t hash
    handle chain                # next in the bucket

cdef struct Table:
    handle *segment[SEGMENTS]   # owned; mmap
    uint32_t buckets            # in use; grows one at a time (linear hashing), so nothing ever stops to rehash
    uint32_t level              # the power of two at or below `buckets`
    uint32_t count
    bint sparse                 # two buckets an item, not one: shorter chains for 4 bytes more

cdef struct Buf:                # a growing run of bytes; data[pos:len] is what waits
    char *data                  # owned; malloc
    uint32_t pos
    uint32_t len
    uint32_t cap

# ---- the tree ------------------------------------------------------------------------------

cdef enum:
    NODE_SIZE = 0x0FFF          # Node.bits: size of the item, in units of 8 bytes
    NODE_GHOST = 0x1000         # left the tree; a snapshot may still see it
    NODE_UNCHARGED = 0x2000     # no longer counted to its owner
    NODE_OUT = 0x4000           # the value did not fit: its handle stands in its place
    NODE_LEFT = 0x8000          # was removed, with all below it: its memory comes back in slices

cdef struct Node:               # with its name and, where it fits, its value: two adjacent cache lines
    uint32_t hash               # of (parent's hash, name): so the path's bytes alone tell it
    handle chain
    handle parent               # not owned
    handle prev                 # siblings, oldest first
    handle next
    handle mine_prev            # nodes of the same owner
    handle mine_next
    handle perms                # shared, counted: Perms
    handle old                  # owned: youngest superseded version that a snapshot can see
    handle kids                 # owned: Kids; 0 while it never had a child
    uint64_t gen                # stamp of the last change of value or permissions
    uint64_t birth              # stamp of creation; siblings are in order of birth
    uint16_t name_len
    uint16_t value_len
    uint16_t bits
    char data[0]                # name, then value or its handle (owned); as long as `bits` says

cdef struct Kids:
    handle first                # owned through the tree
    handle last
    uint32_t count
    uint32_t bytes              # of all names, a NUL each: the size of DIRECTORY's answer
    handle ghosts               # owned: Ghost of children that left while a snapshot was open
    uint32_t pad
    uint64_t gen                # stamp of the last child added or removed

cdef struct Held:               # what a snapshot keeps alive: an old version or a ghost
    uint32_t hash               # ghosts only: in the ghost table under (parent, name)
    handle chain
    handle node
    handle older                # versions: next older one of that node; ghosts: next ghost of that parent
    handle newer                # and back
    handle prev                 # in the snapshot's list
    handle next
    uint32_t is_ghost
    uint32_t bytes              # charged to the holder
    View *holder
    uint64_t start              # seen by snapshots in [start, end)
    uint64_t end
    handle value                # versions: owned; value_len bytes, 0: none
    uint32_t value_len
    handle perms                # versions: counted

# ---- permissions ---------------------------------------------------------------------------

cdef enum:
    RIGHT_READ = 1
    RIGHT_WRITE = 2
    RIGHT_OWNER = 4
    ACE_STALE = 1               # names a domain that did not exist when it was set (XSA-322, XSA-417)
    ACE_LINKED = 2              # stands in its domain's chain

cdef struct Ace:
    uint32_t domid
    uint8_t rights
    uint8_t flags
    uint16_t place              # its index in the list
    handle prev                 # the lists that name this domid next to this one: Perms and index
    handle next
    uint32_t prev_place
    uint32_t next_place

cdef struct Perms:              # followed by `room` Ace, `count` of them used; shared by all nodes with the same list
    uint32_t hash
    handle chain
    uint32_t refs
    uint32_t id                 # in the image; never used again
    uint16_t count
    uint16_t room
    uint32_t loose              # not in the table: it was changed in place, and many such lists are equal

# ---- domains, quotas ------------------------------------------------------------------------

cdef enum:                      # accounts and their quotas, in the order that CONTROL prints them
    Q_NODES
    Q_WATCHES
    Q_TRANSACTIONS
    Q_OUTSTANDING
    Q_TX_NODES
    Q_MEMORY
    Q_NODE_SIZE
    Q_PATH
    Q_PERMS
    Q_SOFT_MEMORY
    QUOTAS

cdef enum:                      # reasons to write a line; each rate-limited per domain
    SAY_QUOTA
    SAY_SOFT
    SAY_PERMISSION
    SAY_PROTOCOL
    SAY_CONFLICT
    SAY_COLLAPSE
    SAY_ACCEPT
    SAY_DOMAIN
    SAYS

cdef struct Domain:             # owned by Store.domain[domid]; there while the domain exists and is known
    uint32_t domid
    bint introduced
    bint shutdown               # seen; @releaseDomain was fired for it
    uint32_t features
    int32_t target              # -1: none
    handle nodes                # Node list by mine_next
    handle aces                 # first Perms that names it in an entry that is not stale; 0: none
    uint32_t aces_place         # and that entry's index
    uint64_t unique_id
    uint64_t serial             # differs for every Domain there ever was
    Conn *conn                  # the ring's connection, or NULL; owned by Store.conn
    Domain *targeted_by         # the domains that have this one as target, by `target_next`
    Domain *target_prev         # place in its target's list
    Domain *target_next
    int64_t now[QUOTAS]
    int64_t high[QUOTAS]
    uint32_t limit[QUOTAS]
    uint64_t said_ns[SAYS]
    uint32_t unsaid[SAYS]

# ---- watches --------------------------------------------------------------------------------

cdef struct WNode:              # a component of a watched path
    uint32_t hash               # of (parent, name)
    handle chain
    handle parent
    handle child                # children, newest first
    handle prev
    handle next
    handle first                # Watch list, oldest first; the first one's `prev` is the last
    uint16_t name_len
    char name[0]                # the struct is as long as the name

cdef enum:
    WATCH_RELATIVE = 1
    WATCH_SPECIAL = 2
    WATCH_COLLAPSED = 4         # its one pending event stands for all

cdef struct Watch:
    uint32_t hash               # of (connection, wnode, token)
    handle chain
    handle wnode
    handle prev                 # on the same path, oldest first
    handle next
    handle conn_prev            # of the same connection, oldest first
    handle conn_next
    uint32_t conn               # Store.conn index
    handle pending              # Event list by same_next
    int16_t depth               # -1: none given
    uint16_t flags
    uint32_t seq_high           # order of registration: two halves, so that nothing is padding
    uint32_t seq_low
    uint16_t token_len
    char token[0]               # the struct is as long as the token

cdef struct Event:              # waits for a peer whose output is full; followed by the path as the peer sees it
    uint32_t hash               # of (watch, path)
    handle chain
    handle watch
    handle prev                 # of the connection, in order
    handle next
    handle same_prev            # of the watch
    handle same_next
    uint16_t path_len

# ---- transactions ------------------------------------------------------------------------------

cdef enum:
    T_EXISTS = 1
    T_CUT = 2                   # removed in this transaction: what the snapshot has below is hidden
    T_BORN = 4                  # in its parent's `born` list: created, or created anew, here
    T_SEEN = 8                  # counted as accessed
    T_FIRE = 16                 # an event for every watch at or above
    T_EXACT = 32                # an event for watches exactly here
    T_WRITTEN = 64              # `value` holds its value

cdef struct TNode:              # one path as a transaction sees it; followed by the name
    uint32_t hash               # of (parent TNode, name)
    handle chain
    handle up                   # parent TNode
    handle next                 # in order of first access
    handle also                 # all of the view's
    handle base                 # Node in the snapshot; kept alive by it
    handle perms                # counted; 0: the base's
    handle value                # owned: value_len bytes, if T_WRITTEN; 0: none
    uint32_t flags
    handle born_first           # children created here, in order
    handle born_last
    handle born_prev            # place in the parent's list
    handle born_next
    uint32_t changes            # how often its child list changed here
    uint32_t epoch              # Tx.epoch when `logged` was set
    uint16_t logged             # reads of this path that are in the log already
    uint16_t value_len
    uint16_t name_len

cdef struct LogEntry:           # followed by `len` payload bytes, padded to 8
    uint16_t op
    uint16_t error
    uint32_t len
    uint64_t answer             # digest of the reply

cdef struct Count:              # how many nodes a view adds to a domain
    uint32_t domid
    int32_t nodes

cdef enum:
    VIEW_LOST = 1               # held more than its owner may, or memory ran out: the snapshot is gone
    VIEW_KEEP = 2               # something was removed or its permissions changed: events need the old ones

cdef struct View:               # a snapshot and, over it, one transaction's own changes; owned by its Tx
    Conn *conn
    uint32_t flags
    bint open                   # stands in Store's list of snapshots
    uint64_t stamp              # the snapshot: what was true after change number `stamp`
    View *older                 # snapshots by stamp
    View *newer
    handle held                 # Held list; owned
    uint64_t held_bytes
    uint64_t held_limit         # 0: none
    uint64_t bytes              # of TNodes, charged to the owner
    handle all                  # TNodes by `also`; owned
    handle seen_first           # those accessed, in order of first access
    handle seen_last
    handle root                 # the TNode of `/`
    handle special              # the TNode above the `@` nodes
    uint32_t seen
    uint32_t epoch              # counts its writes
    uint64_t finger             # of what the last RM removed
    Count *counts               # owned; malloc
    uint32_t n_counts
    uint32_t cap_counts

cdef enum:
    TX_FAILED = 1               # a quota or memory ended it: END answers ENOMEM (SPEC 4)
    TX_DOOMED = 2               # lost its snapshot: END answers EAGAIN
    TX_STALE = 4                # its snapshot could not move forward; only END tries again
    TX_DOUBT = 8                # it named a domain that is not there: END asks again

cdef struct Tx:                 # owned by its connection's list
    Tx *next
    Conn *conn
    uint32_t id
    uint32_t flags
    View *view                  # owned; NULL until the first access
    Buf log                     # owned: LogEntry of every access
    uint32_t entries            # in the log
    uint64_t replayed           # entries done again on the way, to move the snapshot

# ---- connections -------------------------------------------------------------------------------

cdef enum:
    KIND_MEMORY
    KIND_SOCKET
    KIND_RING

cdef enum:
    CONN_READY = 1              # in the ready list
    CONN_DIRTY = 2              # in the dirty list
    CONN_FULL = 4               # the last write left something: not read until it drains
    CONN_EOF = 8                # the peer closed; serve what is there, then go
    CONN_DEAD = 16              # to be closed at the turn's end
    CONN_IGNORED = 32           # a ring that broke the rules: answered no more
    CONN_HUP = 64               # epoll said so: read until the end
    CONN_WANTOUT = 128          # EPOLLOUT is armed
    CONN_MORE = 256             # there may be more to read
    CONN_GONE = 512             # the peer is gone for good: it takes nothing either
    CONN_WAITS = 1024           # stands in the list of those that let a starved transaction pass
    CONN_WAITED = 2048          # did so: its next request is served, whatever comes

cdef struct Cursor:             # where the last DIRECTORY_PART stopped, so that the next one need not count
    handle node
    handle child
    uint32_t offset             # of `child`'s first byte
    uint64_t gen

cdef struct Extent:             # a run of bytes in the slot file (core/slots)
    uint32_t at                 # in units of SLOT_UNIT; 0: none
    uint32_t cls                # SLOT_UNIT << cls bytes

cdef struct Conn:               # owned by Store.conn[index]
    uint32_t index
    uint32_t serial             # differs for every connection; the id that Python and the logs use
    uint32_t kind
    uint32_t flags
    uint32_t domid
    bint privileged
    int fd                      # owned (sockets)
    Domain *domain              # NULL for sockets and memory peers of unknown domains
    Conn *ready_next
    Conn *dirty_next
    Conn *waits_next
    Buf inp                     # taken from the peer, not yet a whole request
    Buf out                     # replies and events, in order
    handle pend_first           # Event list: only while `out` is full
    handle pend_last
    uint32_t pending
    uint32_t watches
    handle watch_first
    handle watch_last
    Tx *tx
    uint32_t txs
    uint32_t next_tx_id
    uint32_t eagains            # in a row, not counting those that its own changes caused
    uint64_t own_stamp          # of its last change
    uint64_t tx_since_ns        # when it last opened a transaction while it had none
    uint32_t lives              # how often it began anew: what it had sent before is void
    Cursor cursor
    uint64_t requests
    # ring only
    char *page                  # mapped guest page; owned by the border, unmapped through it
    uint32_t port               # local event channel port
    uint32_t req_cons           # our two indices; the page only gets copies, a guest cannot move them
    uint32_t rsp_prod
    uint32_t room               # bytes that its answers may fill, when it was last read
    uint32_t owed               # requests of which some of the answer did not fit there
    uint32_t remote             # the port that the domain offers
    bint begin                  # the page is to be set up as a ring begins, at this turn's end
    bint notify                 # they moved in this turn: publish and notify
    # with an image only
    uint32_t seq                # of the newest Meta
    Extent out_ext              # where `out` lies
    Extent inp_ext[2]           # for `inp`, by Meta
    Extent rx_ext
    uint64_t cookie             # of the socket, by which it is known after we are gone
    uint32_t restored           # SLOT_ flags of the Meta that it was restored from

# ---- what is between the daemon and a peer, in memory that outlives the daemon ---------------------

cdef enum:
    SLOT_PENDING = 1            # Meta.flags: more events waited than bytes hold
    SLOT_BEGIN = 2              # the page is to be set up as a ring begins
    SLOT_NONE = 4               # Conn.restored: there was no Meta that counts
    SLOT_TAKEN = 8              # taken over from another daemon: the indices are those of the page
    SLOT_UNIT = 64              # extents are named in units of so many bytes
    SLOT_CLASSES = 24           # extents of 64 << class bytes

cdef struct Meta:               # how a peer stood at the end of a turn
    uint64_t turn               # counts if the image has that turn
    uint32_t seq                # the newer one of two; stored last
    uint32_t flags
    uint32_t req_cons
    uint32_t rsp_prod           # of the byte at `out_pos`
    uint32_t out                # extent: what waits to be sent is [out_pos, out_len) of it
    uint32_t out_pos
    uint32_t out_len
    uint32_t inp                # extent: taken from the peer, not yet a whole request
    uint32_t inp_len
    uint32_t next_tx_id

cdef struct Slot:               # 128 bytes: two cache lines
    uint32_t serial             # whose it is
    uint32_t busy               # in a system call that moves bytes: after a crash nobody knows how many
    uint32_t rx                 # extent: taken from a socket since `rx_seq` was stored
    uint32_t rx_len
    uint32_t rx_seq
    uint32_t pad[3]
    Meta meta[2]

cdef struct Slots:
    int fd                      # owned; -1: none
    char *map                   # owned
    uint64_t metas              # bytes of the file that are reserved for Slot structs, from its beginning
    uint64_t top                # where extents were never handed out
    uint64_t end                # and how far the file is reserved
    Buf free[SLOT_CLASSES]      # owned; uint32_t extents
    Buf late                    # owned; Extents given back in this turn: the last one's metas may still name them
    Buf gone                    # owned; uint32_t indices of connections closed in this turn, as above

# ---- the image as the core sees it; filled by fastxs.storage.image ---------------------------------

cdef struct Trial:              # what a test has happen (core/trial)
    uint32_t at                 # at this point; 0: nothing
    uint32_t count              # when it is reached so many times

cdef struct Image:
    void *self                  # the image's own; not touched here
    uint64_t turn               # the last that is committed
    bint fresh                  # there is nothing in it yet
    uint64_t last_key
    int slots                   # a new slot file, the core's to close
    uint32_t slots_number
    int old_slots               # the one that belongs to what is in the image, then the next daemon's; not to be closed
    uint64_t old_slots_size
    Trial *trial                # the store's; not owned; NULL: none
    # Each record in order of its key, until `got` returns an errno, which is returned.
    int (*each)(void *self, void *into, int (*got)(void *into, uint64_t key, const char *value,
                                                   uint32_t len) noexcept nogil) noexcept nogil
    # All of a journal (its checksums are filled in) or nothing; 0 or errno.
    int (*commit)(void *self, char *journal, uint32_t len) noexcept nogil
    # Is there room for so many more records, whatever becomes of the others in this turn?
    bint (*admits)(void *self, uint32_t records, uint64_t bytes) noexcept nogil

# ---- the hypervisor as the core sees it; filled by fastxs.hypervisor.border ----------------------

cdef enum:                      # DomState.state; the first four are libxenmanage's
    DOM_EXISTS = 1
    DOM_SHUTDOWN = 2
    DOM_DYING = 4               # being torn down
    DOM_DEAD = 8                # torn down; a zombie while somebody maps a page of it
    DOM_WEAK_ID = 16            # `unique_id` is made of the domain's handle, which the toolstack may change

cdef struct DomState:
    uint32_t domid
    uint32_t state              # DOM_...
    uint64_t unique_id          # 0: not known

cdef struct Border:
    void *self                  # the border's own; not touched here
    int evtchn_fd               # readable when `pending` has ports
    int virq_port               # the local port of VIRQ_DOM_EXC
    # All return 0 or a positive errno unless said otherwise.
    int (*exists)(void *self, uint32_t domid, DomState *state) noexcept nogil
    int (*own_ring)(void *self, char **page, uint32_t *port) noexcept nogil  # the ring of dom0's kernel
    int (*map_ring)(void *self, uint32_t domid, char **page) noexcept nogil
    void (*unmap_ring)(void *self, uint32_t domid, char *page) noexcept nogil
    int (*bind)(void *self, uint32_t domid, uint32_t remote, uint32_t *port) noexcept nogil
    void (*unbind)(void *self, uint32_t port) noexcept nogil
    void (*notify)(void *self, uint32_t port) noexcept nogil
    int (*pending)(void *self, uint32_t *ports, int room) noexcept nogil    # how many; -1: some were lost
    void (*unmask)(void *self, const uint32_t *ports, int count) noexcept nogil
    bint (*changed)(void *self, DomState *state) noexcept nogil  # one more domain whose state is news; False: none

# ---- the store: everything there is --------------------------------------------------------------

cdef struct Say:                # a line for the log, handed to Python at the turn's end
    uint32_t kind
    uint32_t domid
    uint32_t conn
    uint32_t error
    uint32_t count
    uint32_t what_len
    char what[256]

cdef struct Match:              # a watch that an event may go to
    handle watch
    uint32_t level              # components in its path
    uint64_t seq

cdef struct Step:               # scratch of the walk over what is watched below a removed node
    handle wnode
    handle node
    uint32_t above              # index of the parent's step
    uint32_t size               # steps in its subtree
    uint64_t order

cdef enum:
    C_REQUESTS
    C_REPLIES
    C_ERRORS
    C_EVENTS
    C_EVENTS_DROPPED
    C_EVENTS_COLLAPSED
    C_COMMITS
    C_CONFLICTS
    C_REPLAYS
    C_ACCEPTED
    C_CLOSED
    C_TURNS
    C_READS
    C_WRITES
    C_BYTES_IN
    C_BYTES_OUT
    C_WAITS
    COUNTERS

cdef enum:
    ANSWERED_LATER = -1         # what Store.control returns then
    OPS = 27                    # operation numbers; the last ones are 26 and the one that counts all unknown
    SPANS = 128                 # buckets of core/spans: up to 4 s

cdef struct Reclaim:            # a subtree that left the tree, to be given back in slices
    Reclaim *next
    handle root
    handle at                   # where the walk stands
    bint keep                   # a snapshot may still see it: only uncharge

cdef struct Store:
    Heap heap
    Table nodes
    Table ghosts
    Table wnodes
    Table watches
    Table events
    Table perms
    Table tnodes
    uint64_t secret             # keys the hash: guests choose the names
    uint64_t stamp              # number of the last change
    handle root
    handle specials             # the hidden parent of the `@` nodes
    handle wroot
    handle wspecials
    uint64_t watch_seq
    View *newest                # snapshots, by stamp
    View *oldest
    Reclaim *reclaim_first      # owned
    Reclaim *reclaim_last
    Domain *domain[DOMIDS]      # owned
    uint32_t domains
    uint64_t domain_serial
    uint32_t priv_domid
    uint32_t store_domid
    bint keep_orphans
    uint32_t limit[QUOTAS]      # for domains to come
    int64_t high[QUOTAS]
    uint8_t pretend[DOMIDS / 8]  # without a border: which domains exist
    Border *border              # not owned; NULL: none
    # what survives us
    Image *image                # not owned; NULL: none
    Slots slots
    Buf journal                 # owned: Records of this turn
    uint32_t journal_last       # offset of the last one
    uint32_t journal_count
    uint32_t next_perms_id
    uint32_t loose_perms        # lists that are not in the table
    uint32_t slots_number       # which slot file is ours
    uint32_t recoveries
    Buf orphans                 # owned; uint64_t births of records whose parent left the tree, to be removed
    bint restoring              # what happens now is in the image already
    Trial trial
    int fatal                   # errno: the image could not be told; nothing leaves any more, nobody is served
    # connections
    Conn **conn                 # owned; by index
    uint32_t conns
    uint32_t conn_cap
    uint32_t conn_count
    uint32_t *conn_free         # owned; indices to use again
    uint32_t conn_frees
    uint32_t next_serial
    int epoll_fd                # the Engine's set; -1: peers in memory only
    int listen_fd
    int keep_fd                 # owned; datagrams to whoever keeps the clients' sockets beyond our end; -1: nobody
    int *fresh                  # owned; FRESH_MAX sockets that were accepted and not kept yet
    uint32_t fresh_count
    uint32_t keep_tries         # in a row that found the keeper's queue full
    bint deaf                   # no descriptors left: not accepting until a connection closes, or until
    uint64_t deaf_ns
    int wake_fd                 # eventfd in the set: work is carried over
    int timer_fd                # in the set: time to let the loop run
    uint64_t linger_ns
    uint64_t left_ns            # when the last stay in the set ended
    uint32_t *ports             # owned; PORTS_MAX: taken in this turn, to be unmasked at its end
    uint32_t port_count
    uint32_t poll_budget        # looks at rings that are worth it (see turn)
    uint32_t poll_rest          # turns without
    uint32_t poll_turns         # begun without asking the kernel who is ready
    uint32_t work               # of this batch: requests, those that are done again, nodes that are given back
    bint slept                  # nobody was ready: whoever woke us is answered first, so that he goes on meanwhile
    Conn *ready_first
    Conn *ready_last
    uint32_t begins             # rings that are to be set up at this turn's end
    Conn *dirty
    Tx *guarded                 # of a peer whose transactions kept failing: others let it pass (XSA-206)
    uint64_t guarded_ns         # until then
    Conn *waits                 # those whose next request would spoil it
    bint holds                  # a live update is near: who has no transaction begins none
    Conn *held                  # those whose next request would, and those who wait for room, by `waits_next`
    uint64_t short_ns           # no room in the slot file: until then nobody is read; 0: there is
    uint32_t *port_conn         # owned; local port -> conn index + 1
    uint32_t port_cap
    # scratch; owned
    char *window                # what peers sent: WINDOWS times WINDOW bytes
    Buf scratch                 # a path made absolute
    Buf text                    # replies in the making
    Match *match
    uint32_t match_cap
    Step *steps
    uint32_t step_cap
    bint quiet                  # a commit applies its log: changes fire nothing
    bint replaying              # a transaction's log is done again: nothing is logged
    const char *spoiled         # the path whose answer differed in the last replay; in that transaction's log
    uint64_t now_ns             # read once a turn
    uint64_t counter[COUNTERS]
    bint spans_on               # the histogram of turns is counted (core/spans)
    uint64_t span[SPANS]
    uint64_t span_longest       # ns
    uint64_t op[OPS]
    Say say[32]
    uint32_t says
    # upwards: filled by the rooms that know (see `_core`)
    void *engine
    uint32_t asked_req_id       # of the CONTROL request that `control` is asked about
    uint32_t asked_tx_id
    int (*control)(void *engine, Conn *conn, const char *data, uint32_t n, Buf *reply) noexcept nogil
    # tracing
    int trace_fd                # -1: none
    uint32_t trace_on
    Buf trace


cdef inline uint64_t layout() noexcept nogil:
    """Differs when a struct does: rooms that were built from other sources are told by it (see `_core`)."""
    return ((((((<uint64_t>sizeof(Store) * 1009 + sizeof(Conn)) * 1009 + sizeof(Domain)) * 1009 + sizeof(View)) * 1009
             + sizeof(Node) + sizeof(TNode)) * 1009 + sizeof(Watch) + sizeof(WNode) + sizeof(Held)) * 1009
            + sizeof(Border))
