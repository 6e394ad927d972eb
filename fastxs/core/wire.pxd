"""The wire: header, operation numbers, error words, limits (SPEC 1.1, 1.2).

A message is four native-endian u32 {type, req_id, tx_id, len} and `len` payload bytes, at most 4096.
"""
from libc.stdint cimport uint32_t

cdef struct Header:             # struct xsd_sockmsg
    uint32_t type
    uint32_t req_id
    uint32_t tx_id
    uint32_t len

cdef enum Op:
    XS_CONTROL = 0
    XS_DIRECTORY = 1
    XS_READ = 2
    XS_GET_PERMS = 3
    XS_WATCH = 4
    XS_UNWATCH = 5
    XS_TRANSACTION_START = 6
    XS_TRANSACTION_END = 7
    XS_INTRODUCE = 8
    XS_RELEASE = 9
    XS_GET_DOMAIN_PATH = 10
    XS_WRITE = 11
    XS_MKDIR = 12
    XS_RM = 13
    XS_SET_PERMS = 14
    XS_WATCH_EVENT = 15
    XS_ERROR = 16
    XS_IS_DOMAIN_INTRODUCED = 17
    XS_RESUME = 18
    XS_SET_TARGET = 19
    XS_RESET_WATCHES = 21
    XS_DIRECTORY_PART = 22
    XS_GET_FEATURE = 23
    XS_SET_FEATURE = 24
    XS_GET_QUOTA = 25
    XS_SET_QUOTA = 26

cdef enum:
    FEATURE_RECONNECTION = 1
    FEATURE_ERROR = 2
    FEATURE_WATCHDEPTH = 4
    FEATURE_DOMID_ANY = 8

# The error word of an errno, NUL not included; what has no word is EINVAL (SPEC 1.1).
cdef const char *error_word(int error) noexcept nogil
# And back; 0: no such word.
cdef int error_number(const char *word) noexcept nogil
# The operation's name; "**UNKNOWN**" for what is none.
cdef const char *op_name(uint32_t type) noexcept nogil
