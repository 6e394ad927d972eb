"""The image: a store in LMDB, and in front of it a log of the last turns.

Owns the files, their reservation ahead of use, and the transactions.  Refuses to know what a record
means.  The folder of an image:

    store       LMDB, one database, keys of 8 bytes (core/journal.pxd)
    log         the turns that are committed and not in `store` yet
    slots.N     0 and 1: the slot file that belongs to it (core/slots.pyx), and the one of the next daemon, for which
                as much is reserved: it can begin where the file system is full.  N stands in the store

Who serves it holds the lock beside its socket, `<socket>.lock`.
All of it is written through maps and nothing is synced: what is committed survives the process, not the
host, whose end is the end of its domains, too.  A commit makes no system call.

A turn is committed by copying its records to the log and storing its number behind them.  What half a
millisecond can fold goes into LMDB in one transaction: alone, each turn would copy a page of every level of
the tree, more of them the larger the store (one guest's WRITE: 2.2 us without an image, 2.8 in an empty store
and 3.2 beside 4,000 domains with a transaction each).

`store` is one hole of 16 GiB that is reserved a little ahead of what a turn can need, because a write to a
map of a full file system is a SIGBUS, while fallocate says ENOSPC in time.
"""
from libc.errno cimport EBADMSG, EIO, ENOSPC, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcpy, memset
from posix.fcntl cimport O_CLOEXEC, O_CREAT, O_RDONLY, O_RDWR, open as c_open
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close

import os
import sys

from fastxs._core cimport Image as CoreImage
from fastxs.core.journal cimport IMAGE_VERSION, J_GONE, J_META, Check, MetaRecord, Record, journal_key, journal_sum
from fastxs.core.model cimport Image as CImage, Slot
from fastxs.core.slots cimport METAS
from fastxs.core.trial cimport FAULT_COMMIT, FAULT_FOLD, fails_at
from fastxs.storage.lmdb cimport (MDB_APPEND, MDB_CREATE, MDB_FIRST, MDB_INTEGERKEY, MDB_KEYEXIST, MDB_LAST, MDB_NEXT,
                                  MDB_NOLOCK, MDB_NOMEMINIT, MDB_NORDAHEAD, MDB_NOSUBDIR, MDB_NOSYNC, MDB_NOTFOUND,
                                  MDB_NOTLS, MDB_RDONLY, MDB_SET, MDB_WRITEMAP, MDB_cursor, MDB_dbi, MDB_env,
                                  MDB_envinfo, MDB_stat, MDB_txn, MDB_val, mdb)

cdef extern from "fcntl.h" nogil:
    int fallocate(int fd, int mode, long offset, long n)

cdef extern from "unistd.h" nogil:
    enum:
        SEEK_HOLE
    long lseek(int fd, long offset, int whence)

cdef extern from *:
    """
    #include <stdint.h>
    static inline void fx_store64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    """
    void fx_store64(uint64_t *p, uint64_t v) noexcept nogil

cdef enum:
    PAGE = 4096
    STEP = 1 << 17              # bytes reserved at a time; the kernel zeroes them (a MiB was 7 ms in a virtual machine)
    SPARE = 512                 # pages that are always reserved: for what is not asked before
    LOG_SIZE = 1 << 20          # reserved as a whole
    FOLD = 1 << 19              # bytes of log that are worth a transaction; half a millisecond to sort
    FOLD_KEYS = 2048            # or so many records that differ in their keys; likewise
    FOLD_PAGES = 512            # or so many of these, where each has a page of its own, which is copied; likewise
    KEYS = 1 << 14              # slots of the set of keys
    K_TURN = 1                  # J_META: TurnRecord
    K_IDENTITY = 2              # J_META: boot id, NUL, instance

cdef uint64_t SIZE = <uint64_t>1 << 34
cdef uint64_t LAST = <uint64_t>0xFFFFFFFFFFFFFFFF       # no record's key: the last one is meant


cdef struct TurnRecord:
    uint32_t sum
    uint32_t pad
    uint64_t turn               # the last one whose records are in LMDB

cdef struct LogHead:            # of a turn in the log; followed by `len` bytes of Records
    uint64_t turn               # stored last; the log ends where this is not the turn after the one before
    uint32_t len
    uint32_t pad

cdef struct Item:               # a record in the log
    uint64_t key
    uint32_t at
    uint32_t pad

cdef struct Files:              # owned by its Image
    char *log                   # owned: mapped
    uint32_t log_len
    uint32_t log_keys           # records in the log that differ in their keys; at least
    uint64_t *keys              # owned: these, by their hash; 0: free
    Item *items                 # owned: room for every record that the log can hold
    CImage *core                # the same image's
    MDB_env *env
    MDB_dbi dbi
    int fd                      # LMDB's, of the store's file, to reserve it
    uint64_t reserved           # bytes from its beginning
    uint64_t used               # pages
    uint64_t tree               # pages of the tree
    uint64_t largest            # key


FORMAT = IMAGE_VERSION


class ImageError(Exception):
    """An image that cannot be used; the text names it and the way out."""


# ---- what the core calls ----------------------------------------------------------------------------------

cdef bint reserve(Files *f, uint64_t pages) noexcept nogil:
    """So many pages beyond those in use."""
    cdef uint64_t want = (f.used + pages) * PAGE
    while f.reserved < want:
        if f.reserved + STEP > SIZE or fallocate(f.fd, 0, <long>f.reserved, STEP) < 0:
            return False
        f.reserved += STEP
    return True


cdef inline uint64_t pages_for(Files *f, uint32_t records, uint64_t bytes) noexcept nogil:
    """At most: each record copies its leaf and may split it; branches are few; half-full pages of new bytes."""
    cdef uint64_t touched = 2 * <uint64_t>records
    if touched > f.tree + records // 8:
        touched = f.tree + records // 8
    return touched + bytes // (PAGE // 2) + 32


cdef bint i_admits(void *self, uint32_t records, uint64_t bytes) noexcept nogil:
    cdef Files *f = <Files *>self
    return reserve(f, pages_for(f, f.log_keys + records, f.log_len + bytes))


cdef inline void note_key(Files *f, uint64_t key) noexcept nogil:
    """In a log that is folded each key is written once."""
    cdef uint32_t i = <uint32_t>(key * <uint64_t>0x9E3779B97F4A7C15 >> 50)
    if f.log_keys < KEYS // 2:
        while f.keys[i] and f.keys[i] != key:
            i = (i + 1) & (KEYS - 1)
        if f.keys[i]:
            return
        f.keys[i] = key
    f.log_keys += 1


cdef inline void forget_keys(Files *f) noexcept nogil:
    memset(f.keys, 0, KEYS * sizeof(uint64_t))
    f.log_keys = 0


cdef void measure(Files *f) noexcept nogil:
    cdef MDB_envinfo info
    mdb.env_info(f.env, &info)
    f.used = info.last_pgno + 1


cdef int write_record(Files *f, MDB_cursor *cursor, const char *record) noexcept nogil:
    cdef MDB_val key, value
    cdef Record *r = <Record *>record
    cdef int error
    key.size = sizeof(uint64_t)
    key.data = &r.key
    if r.len == J_GONE:
        error = mdb.cursor_get(cursor, &key, &value, MDB_SET)
        if error == MDB_NOTFOUND:               # it came and went in between
            return 0
        return error if error else mdb.cursor_del(cursor, 0)
    value.size = r.len
    value.data = <void *>(record + sizeof(Record))
    error = mdb.cursor_put(cursor, &key, &value, MDB_APPEND if r.key > f.largest else 0)
    if error == MDB_KEYEXIST:
        error = mdb.cursor_put(cursor, &key, &value, 0)
    if r.key > f.largest:
        f.largest = r.key
    return error


cdef inline uint32_t size_of(const char *record) noexcept nogil:
    cdef uint32_t len = (<Record *>record).len
    return <uint32_t>sizeof(Record) + (0 if len == J_GONE else (len + 7) & ~<uint32_t>7)


cdef int in_order(const void *a, const void *b) noexcept nogil:
    cdef const Item *x = <const Item *>a
    cdef const Item *y = <const Item *>b
    if x.key != y.key:
        return -1 if x.key < y.key else 1
    return -1 if x.at < y.at else 1


cdef int write_log(Files *f, MDB_cursor *cursor) noexcept nogil:
    """In the order of the keys, so that a page is found once, and of each key the last record only."""
    cdef uint32_t i = 0, end, count = 0
    cdef int error = 0
    while i < f.log_len:
        end = i + <uint32_t>sizeof(LogHead) + (<LogHead *>(f.log + i)).len
        i += <uint32_t>sizeof(LogHead)
        while i < end:
            f.items[count].key = (<Record *>(f.log + i)).key
            f.items[count].at = i
            count += 1
            i += size_of(f.log + i)
    qsort(f.items, count, sizeof(Item), in_order)
    for i in range(count):
        if not error and (i + 1 == count or f.items[i + 1].key != f.items[i].key):
            error = write_record(f, cursor, f.log + f.items[i].at)
    return error


cdef int write_turn(MDB_cursor *cursor, uint64_t turn) noexcept nogil:
    cdef TurnRecord t
    cdef MDB_val key, value
    cdef uint64_t id = journal_key(J_META, K_TURN)
    memset(&t, 0, sizeof(t))
    t.turn = turn
    t.sum = journal_sum(id, <char *>&t, sizeof(t))
    key.size = sizeof(id)
    key.data = &id
    value.size = sizeof(t)
    value.data = &t
    return mdb.cursor_put(cursor, &key, &value, 0)


cdef int into_lmdb(Files *f, const char *more, uint32_t len, uint64_t turn) noexcept nogil:
    """One transaction: all of the log, then `more`; the image has `turn` then, and the log is empty."""
    cdef MDB_txn *txn = NULL
    cdef MDB_cursor *cursor = NULL
    cdef MDB_stat st
    cdef uint32_t i = 0
    cdef int error = mdb.txn_begin(f.env, NULL, 0, &txn)
    if error:
        return EIO
    error = mdb.cursor_open(txn, f.dbi, &cursor)
    if not error:
        error = write_log(f, cursor)
        while i < len and not error:
            error = write_record(f, cursor, more + i)
            i += size_of(more + i)
        if not error:
            error = write_turn(cursor, turn)
        mdb.cursor_close(cursor)
    if not error and not mdb.stat(txn, f.dbi, &st):
        f.tree = st.branch_pages + st.leaf_pages
    if error or fails_at(f.core.trial, FAULT_FOLD):
        mdb.txn_abort(txn)
        return EIO
    if mdb.txn_commit(txn):
        return EIO
    f.log_len = 0
    forget_keys(f)
    measure(f)
    reserve(f, SPARE)                           # ahead; if that fails, requests that write are refused
    return 0


cdef void sign(Files *f, char *journal, uint32_t len) noexcept nogil:
    """Every value gets its checksum, every key is noted."""
    cdef Record *r
    cdef char *value
    cdef uint32_t i = 0, sum
    while i < len:
        r = <Record *>(journal + i)
        value = journal + i + sizeof(Record)
        if r.len != J_GONE:
            sum = journal_sum(r.key, value, r.len)
            memcpy(value, &sum, sizeof(sum))
        note_key(f, r.key)
        i += size_of(journal + i)


cdef inline bint is_worth_it(Files *f) noexcept nogil:
    """Time to fold: in a large store each record has a page of its own (a million nodes, 1,300 records: 2 ms)."""
    return f.log_len > FOLD or f.log_keys > FOLD_KEYS or (f.log_keys > FOLD_PAGES and f.tree > FOLD_PAGES)


cdef int i_commit(void *self, char *journal, uint32_t len) noexcept nogil:
    cdef Files *f = <Files *>self
    cdef uint64_t turn = f.core.turn + 1
    cdef LogHead *head
    sign(f, journal, len)
    if fails_at(f.core.trial, FAULT_COMMIT):
        return ENOSPC
    if f.log_len + sizeof(LogHead) + len > LOG_SIZE:
        f.core.turn = turn
        return into_lmdb(f, journal, len, turn)
    head = <LogHead *>(f.log + f.log_len)
    memcpy(<char *>head + sizeof(LogHead), journal, len)
    head.len = len
    if f.log_len + 2 * sizeof(LogHead) + len <= LOG_SIZE:
        # Not what was there: a guest's bytes, maybe, which look like a turn.
        (<LogHead *>(f.log + f.log_len + sizeof(LogHead) + len)).turn = 0
    fx_store64(&head.turn, turn)                # with this the turn is committed
    f.core.turn = turn
    f.log_len += <uint32_t>sizeof(LogHead) + len
    return into_lmdb(f, NULL, 0, turn) if is_worth_it(f) else 0


cdef int i_each(void *self, void *into, int (*got)(void *into, uint64_t key, const char *value,
                                                   uint32_t len) noexcept nogil) noexcept nogil:
    cdef Files *f = <Files *>self
    cdef MDB_txn *txn = NULL
    cdef MDB_cursor *cursor = NULL
    cdef MDB_val key, value
    cdef uint64_t id = 0
    cdef int error = mdb.txn_begin(f.env, NULL, MDB_RDONLY, &txn), found
    if error:
        return EIO
    error = mdb.cursor_open(txn, f.dbi, &cursor)
    if not error:
        found = mdb.cursor_get(cursor, &key, &value, MDB_FIRST)
        while not found and not error:
            if key.size != sizeof(id):
                error = EBADMSG
                break
            memcpy(&id, key.data, sizeof(id))
            error = got(into, id, <const char *>value.data, <uint32_t>value.size)
            if not error:
                found = mdb.cursor_get(cursor, &key, &value, MDB_NEXT)
        if not error and found != MDB_NOTFOUND:
            error = EIO
        mdb.cursor_close(cursor)
    mdb.txn_abort(txn)
    return error


cdef bint is_sound(const char *journal, uint32_t len) noexcept nogil:
    cdef Record *r
    cdef uint64_t i = 0
    while i + sizeof(Record) <= len:
        r = <Record *>(journal + i)
        i += sizeof(Record)
        if r.len == J_GONE:
            continue
        if i + r.len > len or check_one(NULL, r.key, journal + i, r.len):
            return False
        i += (<uint64_t>r.len + 7) & ~<uint64_t>7
    return i == len


cdef int check_one(void *into, uint64_t key, const char *value, uint32_t len) noexcept nogil:
    cdef uint32_t sum = 0
    if len < sizeof(Check):
        return EBADMSG
    memcpy(&sum, value, sizeof(sum))
    return 0 if sum == journal_sum(key, value, len) else EBADMSG


cdef uint64_t last_turn_of(const char *path) noexcept nogil:
    """The largest that a slot names, of this daemon's life or an earlier one's; a file that is missing names none."""
    cdef const Slot *slots
    cdef uint64_t turn = 0
    cdef long size = 0, i
    cdef int fd = c_open(path, O_RDONLY | O_CLOEXEC), n
    cdef void *p = MAP_FAILED
    if fd >= 0:
        size = min(lseek(fd, 0, SEEK_HOLE), <long>METAS)
        if size > 0:
            p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0)
        close(fd)
    if p == MAP_FAILED:
        return 0
    slots = <const Slot *>p
    for i in range(size // <long>sizeof(Slot)):
        for n in range(2):
            if slots[i].meta[n].seq and slots[i].meta[n].turn > turn:
                turn = slots[i].meta[n].turn
    munmap(p, size)
    return turn


# ---- opening ------------------------------------------------------------------------------------------------

cdef class Image(CoreImage):
    """The image in a folder, open.  An Engine takes it as its `image`; close it after the Engine."""

    cdef Files f
    cdef str folder
    cdef readonly bytes identity

    def __cinit__(self):
        memset(&self.f, 0, sizeof(Files))
        self.f.fd = self.c.slots = self.c.old_slots = -1
        self.f.core = &self.c
        self.c.self = &self.f
        self.c.commit = i_commit
        self.c.admits = i_admits
        self.c.each = i_each

    def __dealloc__(self):
        self.close()

    def close(self):
        """Idempotent.  The files stay, and what is committed in them."""
        if self.f.log != NULL:
            munmap(self.f.log, LOG_SIZE)
            self.f.log = NULL
        free(self.f.items)
        self.f.items = NULL
        free(self.f.keys)
        self.f.keys = NULL
        if self.f.env != NULL:
            mdb.env_close(self.f.env)
            self.f.env = NULL
        for fd in (self.c.old_slots, self.c.slots):
            if fd >= 0:
                close(fd)
        self.f.fd = self.c.old_slots = self.c.slots = -1

    @staticmethod
    def create(str folder, bytes identity):
        """A new one in an existing folder.  OSError: ENOSPC and the like."""
        cdef Image image = Image()
        image.folder = folder
        image.identity = identity
        image.c.fresh = True
        image.open_store(0)
        image.open_log()
        image.put_identity()
        image.c.old_slots = image.slot_file(1)
        image.c.slots = image.slot_file(0)
        return image

    @staticmethod
    def open(str folder):
        """The one that is there, to be recovered from.  ImageError: it is not an image, or not of this version."""
        cdef Image image = Image()
        image.folder = folder
        image.open_store(0)
        image.open_log()
        image.fold_log()
        image.look()
        return image

    @staticmethod
    def fold(str folder):
        """Write the log of a stopped daemon's image into its LMDB file, for those who read only that."""
        cdef Image image = Image()
        image.folder = folder
        image.open_store(0)
        image.open_log()
        image.fold_log()
        image.close()

    @staticmethod
    def verify(str folder):
        """Read every record and compare its checksum.  ImageError: damaged.

        Call it in a process of its own: a file that was cut short ends the reader with SIGBUS.
        """
        cdef Image image = Image()
        cdef int error
        image.folder = folder
        image.open_store(MDB_RDONLY)
        error = i_each(&image.f, NULL, check_one)
        if error:
            raise ImageError(f"{folder}/store: a record is damaged")
        image.open_log()
        image.scan_log()
        for number in (0, 1):
            turn = last_turn_of(os.fsencode(os.path.join(folder, f"slots.{number}")))
            if turn > image.c.turn + 1:         # the one that a crash interrupted
                raise ImageError(f"{folder}/log: ends with turn {image.c.turn}, but a peer was told of turn {turn - 1}")
        image.close()

    cdef int open_store(self, unsigned int more) except -1:
        cdef MDB_txn *txn = NULL
        cdef MDB_stat st
        cdef bytes path = os.fsencode(os.path.join(self.folder, "store"))
        cdef int error = mdb.env_create(&self.f.env)
        if not error:
            error = mdb.env_set_mapsize(self.f.env, SIZE)
        if not error:
            error = mdb.env_open(self.f.env, path, more | MDB_NOSUBDIR | MDB_NOSYNC | MDB_NOLOCK | MDB_NORDAHEAD
                                 | MDB_NOTLS | (0 if more else MDB_WRITEMAP | MDB_NOMEMINIT), 0o600)
        if not error:
            error = mdb.txn_begin(self.f.env, NULL, more, &txn)
        if not error:
            error = mdb.dbi_open(txn, NULL, MDB_INTEGERKEY if more else MDB_INTEGERKEY | MDB_CREATE, &self.f.dbi)
            if not error:
                error = mdb.stat(txn, self.f.dbi, &st)
            if not error:
                self.f.tree = st.branch_pages + st.leaf_pages
            if error:
                mdb.txn_abort(txn)
            else:
                error = mdb.txn_commit(txn)
        if error > 0:
            raise OSError(error, os.strerror(error), os.fsdecode(path))
        if error:
            raise ImageError(f"{os.fsdecode(path)}: {mdb.strerror(error).decode()}")
        if more:
            return 0
        mdb.env_get_fd(self.f.env, &self.f.fd)
        measure(&self.f)
        if not reserve(&self.f, SPARE) and self.c.fresh:  # else requests are refused
            raise OSError(ENOSPC, "no room for the image", os.fsdecode(path))
        return 0

    cdef int open_log(self) except -1:
        cdef bytes path = os.fsencode(os.path.join(self.folder, "log"))
        cdef int fd = c_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600), error = 0
        cdef void *p = MAP_FAILED
        if fd < 0:
            raise OSError(errno, os.strerror(errno), os.fsdecode(path))
        if not self.c.fresh and os.fstat(fd).st_size != LOG_SIZE:
            close(fd)
            raise ImageError(f"{os.fsdecode(path)}: cut short, or missing")
        if fallocate(fd, 0, 0, LOG_SIZE) == 0:
            p = mmap(NULL, LOG_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        error = errno
        close(fd)
        if p == MAP_FAILED:
            raise OSError(error, os.strerror(error), os.fsdecode(path))
        self.f.log = <char *>p
        self.f.items = <Item *>malloc(LOG_SIZE // sizeof(Record) * sizeof(Item))
        self.f.keys = <uint64_t *>calloc(KEYS, sizeof(uint64_t))
        if self.f.items == NULL or self.f.keys == NULL:
            raise MemoryError
        return 0

    cdef int fold_log(self) except -1:
        """What a former process committed and did not fold."""
        self.scan_log()
        if self.f.log_len and into_lmdb(&self.f, NULL, 0, self.c.turn):
            raise OSError(EIO, "the image cannot be written", self.folder)
        return 0

    cdef int scan_log(self) except -1:
        """Which turns are in it, and which is the last of all."""
        cdef TurnRecord turn
        cdef LogHead *head
        cdef bytes value = self.value_of(journal_key(J_META, K_TURN)), last = self.value_of(LAST)
        memset(&turn, 0, sizeof(turn))
        if value is not None and len(value) == sizeof(turn):
            memcpy(&turn, <char *>value, sizeof(turn))
        self.c.turn = turn.turn
        if last is not None:
            memcpy(&self.f.largest, <char *>last, sizeof(uint64_t))
        while self.f.log_len + sizeof(LogHead) < LOG_SIZE:
            head = <LogHead *>(self.f.log + self.f.log_len)
            if head.turn != self.c.turn + 1 or head.len > LOG_SIZE - self.f.log_len - sizeof(LogHead):
                break
            if not is_sound(<char *>head + sizeof(LogHead), head.len):
                raise ImageError(f"{self.folder}/log: turn {head.turn} is damaged")
            self.c.turn = head.turn
            self.f.log_len += <uint32_t>sizeof(LogHead) + head.len
        # What was folded begins with a turn that is in LMDB.
        if self.f.log_len == 0 and (<LogHead *>self.f.log).turn > self.c.turn:
            raise ImageError(f"{self.folder}/log: its first turn is damaged")
        return 0

    cdef int put_identity(self) except -1:
        cdef Record r
        cdef bytes value = bytes(sizeof(Check)) + self.identity, journal
        memset(&r, 0, sizeof(r))
        r.key = journal_key(J_META, K_IDENTITY)
        r.len = <uint32_t>len(value)
        journal = (<char *>&r)[:sizeof(r)] + value + bytes(-len(value) & 7)
        if i_commit(&self.f, journal, <uint32_t>len(journal)):
            raise OSError(EIO, "the image cannot be written", self.folder)
        return 0

    def put(self, bytearray journal, uint32_t records):
        """Commit `records` records (core/journal.pxd), in order of their keys; their checksums are filled in."""
        if not i_admits(&self.f, records, <uint64_t>len(journal)):
            raise OSError(ENOSPC, "no room for the image", self.folder)
        if i_commit(&self.f, <char *>journal, <uint32_t>len(journal)):
            raise OSError(EIO, "the image cannot be written", self.folder)

    cdef bytes value_of(self, uint64_t key):
        """None: there is no such record."""
        cdef MDB_txn *txn = NULL
        cdef MDB_cursor *cursor = NULL
        cdef MDB_val k, v
        cdef bytes found = None
        k.size = sizeof(key)
        k.data = &key
        if mdb.txn_begin(self.f.env, NULL, MDB_RDONLY, &txn):
            raise ImageError(f"{self.folder}: cannot be read")
        if not mdb.cursor_open(txn, self.f.dbi, &cursor):
            if not mdb.cursor_get(cursor, &k, &v, MDB_SET):
                found = (<char *>v.data)[:v.size]
            elif key == LAST and not mdb.cursor_get(cursor, &k, &v, MDB_LAST):
                found = (<char *>k.data)[:k.size]
            mdb.cursor_close(cursor)
        mdb.txn_abort(txn)
        return found

    cdef int look(self) except -1:
        """What an Engine has to know before it reads the records."""
        cdef MetaRecord meta
        cdef bytes value = self.value_of(journal_key(J_META, 0)), last = self.value_of(LAST)
        identity = self.value_of(journal_key(J_META, K_IDENTITY))
        if value is None or identity is None or len(value) < 8:
            raise ImageError(f"{self.folder}: no store was ever committed to it")
        if len(value) != sizeof(meta) or int.from_bytes(value[4:8], sys.byteorder) != IMAGE_VERSION:
            version = int.from_bytes(value[4:8], sys.byteorder)
            raise ImageError(f"{self.folder}: format {version}, this is fastxs for format {IMAGE_VERSION}: "
                             "start the fastxs that wrote it, or move the folder away")
        memcpy(&meta, <char *>value, sizeof(meta))
        self.identity = identity[sizeof(Check):]
        memcpy(&self.c.last_key, <char *>last, sizeof(uint64_t))
        self.c.old_slots = self.slot_file(meta.slots)
        self.c.old_slots_size = os.fstat(self.c.old_slots).st_size
        self.c.slots_number = meta.slots ^ 1
        self.c.slots = self.slot_file(self.c.slots_number)
        return 0

    cdef int slot_file(self, uint32_t number) except -1:
        """Open.  What a former daemon left in it is reserved, and otherwise means nothing: a slot is cleared when it is
        claimed."""
        return os.open(os.path.join(self.folder, f"slots.{number}"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def fresh(self):
        """Nothing was in it when it was opened."""
        return bool(self.c.fresh)

    @property
    def turn(self):
        """The number of the last turn that is committed."""
        return self.c.turn

    def pages(self):
        """(in use, reserved), of 4096 bytes each."""
        return self.f.used, self.f.reserved // PAGE
