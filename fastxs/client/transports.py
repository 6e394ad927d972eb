"""Ways to the daemon: its unix socket, and /dev/xen/xenbus inside a guest.

Owns what is peculiar to each, behind one face, `Transport`: a byte stream with a descriptor to wait on.  A ring on the
pretend hypervisor (`fastxs.hypervisor.simxen.guests.Ring`) has that face, too.  Refuses to know what the bytes mean,
but for the kernel's device, which takes whole messages only.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, TypeAlias

from fastxs.client.errors import NUMBERS, InvalidRequest, TooBig, XenStoreError
from fastxs.client.requests import Op
from fastxs.client.session import HEADER

__all__ = [
    "RETRY_MAX_S",
    "RETRY_S",
    "Dial",
    "Transport",
    "UnixSocket",
    "XenBus",
    "daemon_rundir",
    "daemon_socket",
    "dial",
]

RETRY_S: Final = 0.005
RETRY_MAX_S: Final = 1.0
"""Between two tries to connect, doubled each time."""

XENBUS: Final = ("/dev/xen/xenbus", "/proc/xen/xenbus")


class Transport(Protocol):
    """A byte stream to a daemon; nothing here ever waits.

    `put` and `take` may be implemented in C: then an interrupt cannot fall between the transfer and its being told.
    """

    def fileno(self) -> int:
        """Polls readable when `take` has something, or when `put` may do more; writable, if ever, when `put` may."""

    def put(self, data: memoryview, /) -> int:
        """How many of these bytes were taken.  None now: 0 or BlockingIOError.  XenStoreError: the message that they
        begin with is refused, and the bytes after it are to be offered next.  OSError: the connection is gone."""

    def take(self) -> bytes:
        """Some bytes.  BlockingIOError: there are none now.  b"" or another OSError: the connection is gone."""

    def close(self) -> None:
        """Free the descriptor."""


Dial: TypeAlias = Callable[[], Transport]
"""Opens a transport, without waiting.  BlockingIOError: the daemon is busy, try again soon.  OSError: no way."""


class UnixSocket:
    """The daemon's socket, as `xenstored` offers it to everything in its own domain."""

    def __init__(self, path: str) -> None:
        self._socket: Final = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            error.filename = path
            raise
        self.fileno: Final = self._socket.fileno
        self.put: Final = self._socket.send
        self.take: Final = partial(self._socket.recv, 1 << 16)
        self.close: Final = self._socket.close


class XenBus:
    """Linux's device, by which any process of a domain speaks through the kernel's own ring.

    The kernel takes one message in a write, of at most 4096 bytes with its header, and refuses by errno; it keeps the
    watches itself, and would silently forget a depth (SPEC 7.4).
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def put(self, data: memoryview, /) -> int:
        op, _, _, length = HEADER.unpack_from(data)
        message = bytes(data[: HEADER.size + length])
        what = message[HEADER.size :].split(b"\0", 1)[0]
        if len(message) > 4096:
            raise TooBig.of(what)
        if op == Op.WATCH and message.count(b"\0", HEADER.size) > 2:
            raise InvalidRequest.of(what, "the kernel's watches have no depth")
        try:
            return os.write(self._fd, message)
        except BlockingIOError:
            raise
        except OSError as error:
            raise NUMBERS.get(error.errno or 0, XenStoreError).of(what, error.strerror) from None

    def take(self) -> bytes:
        return os.read(self._fd, 1 << 16)

    def close(self) -> None:
        os.close(self._fd)


def daemon_rundir() -> str:
    """Where the daemon of this host keeps its socket: $XENSTORED_RUNDIR or the usual place."""
    return os.environ.get("XENSTORED_RUNDIR", "/var/run/xenstored")


def daemon_socket() -> str:
    """The socket of this host's daemon, whether it is there or not: $XENSTORED_PATH or in the `daemon_rundir`."""
    return os.environ.get("XENSTORED_PATH") or os.path.join(daemon_rundir(), "socket")


def dial(unix_socket_path: str | os.PathLike[str] | None, xen_bus_path: str | os.PathLike[str] | None) -> Dial:
    """The way that is named; without a name libxenstore's order: the daemon's socket, then the kernel's device."""
    if unix_socket_path is not None:
        return partial(UnixSocket, os.fspath(unix_socket_path))
    if xen_bus_path is not None:
        return partial(XenBus, os.fspath(xen_bus_path))
    return _first


def _first() -> Transport:
    path = daemon_socket()
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        # Who names a socket means no other store: libxenstore does not go on, either.
        for device in XENBUS if "XENSTORED_PATH" not in os.environ else ():
            if os.path.exists(device):
                return XenBus(device)
        is_socket = True  # and its error is the one to tell
    return UnixSocket(path) if is_socket else XenBus(path)
