"""What can go wrong, by name: one class per error word of the wire (SPEC 1.1), each also the builtin that fits it.

Owns the words, their classes and the connection's own failures.  Refuses to know who raises them.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar, Final, Self

__all__ = [
    "AccessDenied",
    "AlreadyConnected",
    "AlreadyExists",
    "Busy",
    "Closed",
    "Conflict",
    "Disconnected",
    "IOFailure",
    "InvalidRequest",
    "IsDirectory",
    "NotEmpty",
    "NotFound",
    "NotPermitted",
    "NotSupported",
    "OutOfMemory",
    "ProtocolError",
    "QuotaExceeded",
    "ReadOnly",
    "TooBig",
    "XenStoreError",
]


class XenStoreError(OSError):
    """The daemon refused a request, or there is no daemon to ask.

    `errno`, `strerror` and `filename` as every OSError has them: `filename` is the request's first word, which is a
    path nearly always, or None.  A word that nobody knows is a plain XenStoreError with EINVAL, as in libxenstore.
    """

    number: ClassVar[int] = errno.EINVAL

    @classmethod
    def of(cls, what: bytes | None = None, text: str | None = None) -> Self:
        """The error about `what`, in the system's words or in `text`."""
        return cls(cls.number, text or os.strerror(cls.number), what)


class InvalidRequest(XenStoreError, ValueError):
    """EINVAL: an illegal path, permission or argument, or an operation that this daemon takes in another form."""

    number = errno.EINVAL


class AccessDenied(XenStoreError, PermissionError):
    """EACCES: the node's permissions, or a request that only the privileged domain may make."""

    number = errno.EACCES


class AlreadyExists(XenStoreError, FileExistsError):
    """EEXIST: this watch is set already."""

    number = errno.EEXIST


class IsDirectory(XenStoreError, IsADirectoryError):
    """EISDIR: on the wire's list, sent by no daemon of today."""

    number = errno.EISDIR


class NotFound(XenStoreError, FileNotFoundError, KeyError):
    """ENOENT: no such node, watch, domain or transaction.  A KeyError, too: `client[path]` looks something up."""

    number = errno.ENOENT


class OutOfMemory(XenStoreError, MemoryError):
    """ENOMEM: the daemon's memory, or the domain's memory quota."""

    number = errno.ENOMEM


class QuotaExceeded(XenStoreError):
    """ENOSPC (oxenstored says EQUOTA): nodes, watches, transactions, or the size of one node."""

    number = errno.ENOSPC


class IOFailure(XenStoreError):
    """EIO: the daemon failed; oxenstored also for a transaction that it does not know."""

    number = errno.EIO


class NotEmpty(XenStoreError):
    """ENOTEMPTY: on the wire's list, sent by no daemon of today."""

    number = errno.ENOTEMPTY


class NotSupported(XenStoreError, NotImplementedError):
    """ENOSYS: this daemon does not know the operation."""

    number = errno.ENOSYS


class ReadOnly(XenStoreError):
    """EROFS: a read-only connection, of daemons that still have such."""

    number = errno.EROFS


class Busy(XenStoreError):
    """EBUSY: a transaction inside a transaction, or features of a domain that is introduced already."""

    number = errno.EBUSY


class Conflict(XenStoreError, BlockingIOError):
    """EAGAIN: somebody else changed what the transaction had seen; nothing of it was applied: do it again."""

    number = errno.EAGAIN


class AlreadyConnected(XenStoreError):
    """EISCONN: a domain that is introduced already."""

    number = errno.EISCONN


class TooBig(XenStoreError):
    """E2BIG: a request or a reply of more than 4096 bytes; quotas, in daemons before Xen 4.22."""

    number = errno.E2BIG


class NotPermitted(XenStoreError, PermissionError):
    """EPERM: a node given to another owner by somebody who may not."""

    number = errno.EPERM


class Disconnected(XenStoreError, ConnectionError):
    """There is no connection, or it ended while the answer was awaited: whether the request was done is not known."""

    number = errno.ECONNRESET


class Closed(Disconnected):
    """This client was closed."""

    number = errno.EBADF


class ProtocolError(Disconnected):
    """What came is no XenStore: the connection was given up."""

    number = errno.EPROTO


_CLASSES: Final = (
    *(InvalidRequest, AccessDenied, AlreadyExists, IsDirectory, NotFound, OutOfMemory, QuotaExceeded, IOFailure),
    *(NotEmpty, NotSupported, ReadOnly, Busy, Conflict, AlreadyConnected, TooBig, NotPermitted),
)
WORDS: Final[dict[bytes, type[XenStoreError]]] = {
    **{errno.errorcode[cls.number].encode(): cls for cls in _CLASSES},
    b"EQUOTA": QuotaExceeded,
}
NUMBERS: Final[dict[int, type[XenStoreError]]] = {cls.number: cls for cls in _CLASSES}
