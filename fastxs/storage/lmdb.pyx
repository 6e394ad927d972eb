"""LMDB's C functions, as py-lmdb brings them.

Owns finding them: py-lmdb's extension module carries LMDB and exports its functions (`mdb09_...` beside
a second generation of the format, or `mdb_...` where it uses the system's library).  A commit through
them makes no Python object, which a put through py-lmdb's own face does (PERF 4b: 0.5 us of 0.9).
"""
import lmdb.cpython

cdef extern from "dlfcn.h" nogil:
    enum:
        RTLD_NOW
    void *dlopen(const char *name, int flags)
    void *dlsym(void *library, const char *name)


cdef void *find(void *library, str name) except NULL:
    cdef void *p
    for prefix in ("mdb09_", "mdb_"):
        p = dlsym(library, (prefix + name).encode())
        if p != NULL:
            return p
    raise ImportError(f"{lmdb.cpython.__file__} does not export LMDB's functions ({name}): install lmdb 3 from PyPI")


cdef int load() except -1:
    cdef void *library = dlopen(lmdb.cpython.__file__.encode(), RTLD_NOW)
    if library == NULL:
        raise ImportError(f"{lmdb.cpython.__file__} cannot be opened")
    mdb.env_create = <int (*)(MDB_env **) noexcept nogil>find(library, "env_create")
    mdb.env_open = <int (*)(MDB_env *, const char *, unsigned int, unsigned int) noexcept nogil>find(
        library, "env_open")
    mdb.env_close = <void (*)(MDB_env *) noexcept nogil>find(library, "env_close")
    mdb.env_set_mapsize = <int (*)(MDB_env *, size_t) noexcept nogil>find(library, "env_set_mapsize")
    mdb.env_get_fd = <int (*)(MDB_env *, int *) noexcept nogil>find(library, "env_get_fd")
    mdb.env_info = <int (*)(MDB_env *, MDB_envinfo *) noexcept nogil>find(library, "env_info")
    mdb.txn_begin = <int (*)(MDB_env *, MDB_txn *, unsigned int, MDB_txn **) noexcept nogil>find(library, "txn_begin")
    mdb.txn_commit = <int (*)(MDB_txn *) noexcept nogil>find(library, "txn_commit")
    mdb.txn_abort = <void (*)(MDB_txn *) noexcept nogil>find(library, "txn_abort")
    mdb.txn_id = <size_t (*)(MDB_txn *) noexcept nogil>find(library, "txn_id")
    mdb.dbi_open = <int (*)(MDB_txn *, const char *, unsigned int, MDB_dbi *) noexcept nogil>find(library, "dbi_open")
    mdb.stat = <int (*)(MDB_txn *, MDB_dbi, MDB_stat *) noexcept nogil>find(library, "stat")
    mdb.cursor_open = <int (*)(MDB_txn *, MDB_dbi, MDB_cursor **) noexcept nogil>find(library, "cursor_open")
    mdb.cursor_close = <void (*)(MDB_cursor *) noexcept nogil>find(library, "cursor_close")
    mdb.cursor_get = <int (*)(MDB_cursor *, MDB_val *, MDB_val *, int) noexcept nogil>find(library, "cursor_get")
    mdb.cursor_put = <int (*)(MDB_cursor *, MDB_val *, MDB_val *, unsigned int) noexcept nogil>find(
        library, "cursor_put")
    mdb.cursor_del = <int (*)(MDB_cursor *, unsigned int) noexcept nogil>find(library, "cursor_del")
    mdb.strerror = <const char *(*)(int) noexcept nogil>find(library, "strerror")
    return 0


load()
