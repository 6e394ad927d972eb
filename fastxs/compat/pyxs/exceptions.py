"""The errors of pyxs.

Owns their names and the translation of fastxs's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastxs.client import Disconnected, ProtocolError, XenStoreError

__all__ = [
    "ConnectionError",
    "InvalidOperation",
    "InvalidPath",
    "InvalidPayload",
    "InvalidPermission",
    "PyXSError",
    "UnexpectedPacket",
]


class PyXSError(Exception):
    """Any error; of those that the daemon tells, `args` are the number and the text."""


class InvalidOperation(ValueError, PyXSError):
    """An operation that there is none such of; never raised here."""


class InvalidPayload(ValueError, PyXSError):
    """More than 4096 bytes; never raised here, where that is PyXSError with E2BIG."""


class InvalidPath(ValueError, PyXSError):
    """A path of illegal characters, with an empty component, or too long."""


class InvalidPermission(ValueError, PyXSError):
    """Not one of the letters `wrbn` and a domid."""


class ConnectionError(PyXSError):
    """No connection, or no more."""


class UnexpectedPacket(ConnectionError):
    """An answer to another question."""


@contextmanager
def telling() -> Iterator[None]:
    """fastxs's errors leave the block as those of pyxs."""
    try:
        yield
    except ProtocolError as error:
        raise UnexpectedPacket(error.strerror) from error
    except Disconnected as error:
        raise ConnectionError(error.strerror) from error
    except XenStoreError as error:
        raise PyXSError(error.errno, error.strerror) from error
