"""The wire's words: operations' names, and error words with their numbers.

Owns two tables; the second is the only translation between errno and the wire.  The order of error
words is fixed by the protocol (append only); the wire carries the word.
"""
from libc.errno cimport (E2BIG, EACCES, EAGAIN, EBUSY, EEXIST, EINVAL, EIO, EISCONN, EISDIR, ENOENT, ENOMEM, ENOSPC,
                         ENOSYS, ENOTEMPTY, EPERM, EROFS)
from libc.stdint cimport uint32_t
from libc.string cimport strcmp

cdef struct Word:
    int number
    const char *word

cdef Word[16] WORDS
WORDS = [
    Word(EINVAL, b"EINVAL"), Word(EACCES, b"EACCES"), Word(EEXIST, b"EEXIST"), Word(EISDIR, b"EISDIR"),
    Word(ENOENT, b"ENOENT"), Word(ENOMEM, b"ENOMEM"), Word(ENOSPC, b"ENOSPC"), Word(EIO, b"EIO"),
    Word(ENOTEMPTY, b"ENOTEMPTY"), Word(ENOSYS, b"ENOSYS"), Word(EROFS, b"EROFS"), Word(EBUSY, b"EBUSY"),
    Word(EAGAIN, b"EAGAIN"), Word(EISCONN, b"EISCONN"), Word(E2BIG, b"E2BIG"), Word(EPERM, b"EPERM"),
]


cdef const char *error_word(int error) noexcept nogil:
    cdef int i
    for i in range(16):
        if WORDS[i].number == error:
            return WORDS[i].word
    return WORDS[0].word


cdef int error_number(const char *word) noexcept nogil:
    cdef int i
    for i in range(16):
        if strcmp(WORDS[i].word, word) == 0:
            return WORDS[i].number
    return 0


cdef const char *NAMES[27]
NAMES = [
    b"CONTROL", b"DIRECTORY", b"READ", b"GET_PERMS", b"WATCH", b"UNWATCH", b"TRANSACTION_START", b"TRANSACTION_END",
    b"INTRODUCE", b"RELEASE", b"GET_DOMAIN_PATH", b"WRITE", b"MKDIR", b"RM", b"SET_PERMS", b"WATCH_EVENT", b"ERROR",
    b"IS_DOMAIN_INTRODUCED", b"RESUME", b"SET_TARGET", b"**UNKNOWN**", b"RESET_WATCHES", b"DIRECTORY_PART",
    b"GET_FEATURE", b"SET_FEATURE", b"GET_QUOTA", b"SET_QUOTA",
]


cdef const char *op_name(uint32_t type) noexcept nogil:
    return NAMES[type] if type < 27 else NAMES[20]
