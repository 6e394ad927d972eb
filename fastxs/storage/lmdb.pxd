"""LMDB's C functions, as py-lmdb brings them (see `lmdb.pyx`)."""
cdef extern from *:
    """
    typedef struct MDB_env MDB_env;
    typedef struct MDB_txn MDB_txn;
    typedef struct MDB_cursor MDB_cursor;
    """
    ctypedef struct MDB_env:
        pass
    ctypedef struct MDB_txn:
        pass
    ctypedef struct MDB_cursor:
        pass

ctypedef unsigned int MDB_dbi

cdef struct MDB_val:
    size_t size
    void *data

cdef struct MDB_stat:
    unsigned int psize
    unsigned int depth
    size_t branch_pages
    size_t leaf_pages
    size_t overflow_pages
    size_t entries

cdef struct MDB_envinfo:
    void *mapaddr
    size_t mapsize
    size_t last_pgno
    size_t last_txnid
    unsigned int maxreaders
    unsigned int numreaders

cdef enum:
    MDB_NOSUBDIR = 0x4000
    MDB_NOSYNC = 0x10000
    MDB_RDONLY = 0x20000
    MDB_WRITEMAP = 0x80000
    MDB_NOTLS = 0x200000
    MDB_NOLOCK = 0x400000
    MDB_NORDAHEAD = 0x800000
    MDB_NOMEMINIT = 0x1000000
    MDB_INTEGERKEY = 0x08       # of a database
    MDB_CREATE = 0x40000
    MDB_APPEND = 0x20000        # of a put
    MDB_FIRST = 0               # cursor operations
    MDB_LAST = 6
    MDB_NEXT = 8
    MDB_SET = 15
    MDB_NOTFOUND = -30798
    MDB_KEYEXIST = -30799

cdef struct Lmdb:
    int (*env_create)(MDB_env **env) noexcept nogil
    int (*env_open)(MDB_env *env, const char *path, unsigned int flags, unsigned int mode) noexcept nogil
    void (*env_close)(MDB_env *env) noexcept nogil
    int (*env_set_mapsize)(MDB_env *env, size_t size) noexcept nogil
    int (*env_get_fd)(MDB_env *env, int *fd) noexcept nogil
    int (*env_info)(MDB_env *env, MDB_envinfo *info) noexcept nogil
    int (*txn_begin)(MDB_env *env, MDB_txn *parent, unsigned int flags, MDB_txn **txn) noexcept nogil
    int (*txn_commit)(MDB_txn *txn) noexcept nogil
    void (*txn_abort)(MDB_txn *txn) noexcept nogil
    size_t (*txn_id)(MDB_txn *txn) noexcept nogil
    int (*dbi_open)(MDB_txn *txn, const char *name, unsigned int flags, MDB_dbi *dbi) noexcept nogil
    int (*stat)(MDB_txn *txn, MDB_dbi dbi, MDB_stat *stat) noexcept nogil
    int (*cursor_open)(MDB_txn *txn, MDB_dbi dbi, MDB_cursor **cursor) noexcept nogil
    void (*cursor_close)(MDB_cursor *cursor) noexcept nogil
    int (*cursor_get)(MDB_cursor *cursor, MDB_val *key, MDB_val *data, int op) noexcept nogil
    int (*cursor_put)(MDB_cursor *cursor, MDB_val *key, MDB_val *data, unsigned int flags) noexcept nogil
    int (*cursor_del)(MDB_cursor *cursor, unsigned int flags) noexcept nogil
    const char *(*strerror)(int error) noexcept nogil

# Filled at import; ImportError if py-lmdb does not offer the functions.
cdef Lmdb mdb
