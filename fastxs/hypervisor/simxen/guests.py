"""Guests played from Python: domains of a pretend hypervisor, for tests.

Owns the ctypes face of the guest programs' functions in libsimxen.so (simxen.h describes them): `Guests`, who
creates and destroys domains, and `Ring`, a domain's end of its ring as a stream of bytes.
Knows nothing of XenStore's messages: what goes through a ring is its user's.
"""

import ctypes
import errno
import os
import select
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from fastxs.hypervisor import simxen

PAGE: Final = 4096
SXG_SIZE: Final = 1024

ALIVE: Final = 1
SHUTDOWN: Final = 2
DYING: Final = 4
DEAD: Final = 8

FAULTS: Final = {"map": 0, "bind": 1, "notify": 2, "read": 3}

Bytes = bytes | bytearray | memoryview


def _load() -> ctypes.PyDLL:
    # PyDLL: no call waits, and threads that share a `Guests` take turns by the interpreter's lock.
    library = ctypes.PyDLL(str(simxen.LIBRARY), use_errno=True)
    u32, void = ctypes.c_uint32, ctypes.c_void_p
    for name, result, arguments in (
        ("sxg_open", ctypes.c_int, (void, ctypes.c_char_p, u32)),
        ("sxg_close", None, (void,)),
        ("sxg_create", void, (void, u32, u32)),
        ("sxg_ring", void, (void, u32)),
        ("sxg_adopt", ctypes.c_int, (void, u32)),
        ("sxg_prebuild", ctypes.c_int, (void, u32)),
        ("sxg_offer", ctypes.c_int, (void, u32, u32)),
        ("sxg_notify", None, (void, u32)),
        ("sxg_events", ctypes.c_int, (void, void, ctypes.c_int)),
        ("sxg_fileno", ctypes.c_int, (void,)),
        ("sxg_listen", ctypes.c_int, (void, u32)),
        ("sxg_heard", None, (void, u32, ctypes.c_int)),
        ("sxg_unlisten", None, (void, u32, ctypes.c_int)),
        ("sxg_put", ctypes.c_int, (void, u32, void, u32)),
        ("sxg_take", ctypes.c_int, (void, u32, void, u32)),
        ("sxg_shutdown", ctypes.c_int, (void, u32, ctypes.c_int)),
        ("sxg_dying", ctypes.c_int, (void, u32)),
        ("sxg_kill", ctypes.c_int, (void, u32, ctypes.c_int)),
        ("sxg_virq", None, (void,)),
        ("sxg_state", u32, (void, u32)),
        ("sxg_mapped", u32, (void, u32)),
        ("sxg_uid", ctypes.c_uint64, (void, u32)),
        ("sxg_fail", None, (void, u32, u32, ctypes.c_int)),
        ("sxg_count", ctypes.c_uint64, (void, ctypes.c_char_p)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Guests:
    """A guest program on the hypervisor in `folder` (made if missing); `close` destroys its domains.

    `slot` 1..4095 names the program, 0 takes any.  OSError, with the errno that simxen.h gives, where
    something fails.
    """

    def __init__(self, folder: Path | str, slot: int = 0) -> None:
        self._lib: Final = _load()
        self._g: Final = ctypes.create_string_buffer(SXG_SIZE)
        self.is_open = False
        self._call(self._lib.sxg_open, os.fsencode(folder), slot)
        self.is_open = True

    def close(self) -> None:
        """Destroy this program's domains and leave; pages that `ring` gave must not be touched again."""
        if self.is_open:
            self.is_open = False
            self._lib.sxg_close(self._g)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, function: Callable[..., Any], *arguments: object) -> int:
        result = function(self._g, *arguments)
        if result is None or result == -1:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return int(result)

    # -- life -----------------------------------------------------------------------------------

    def create(self, domid: int, port: int = 2) -> None:
        """A new domain with an empty page that offers `port` (0: none).  EEXIST: there, or a zombie."""
        self._call(self._lib.sxg_create, domid, port)

    def prebuild(self, domid: int) -> None:
        """What Xen does to a domain that it builds before any toolstack runs: port and "not connected" in its page."""
        self._call(self._lib.sxg_prebuild, domid)

    def adopt(self, domid: int) -> None:
        """Play a domain that exists: dom0's kernel, or another program's."""
        self._call(self._lib.sxg_adopt, domid)

    def offer(self, domid: int, port: int) -> None:
        """Close the domain's port and offer another, as a soft reset does."""
        self._call(self._lib.sxg_offer, domid, port)

    def shutdown(self, domid: int, *, virq: bool = True) -> None:
        """Shut down, not destroyed."""
        self._call(self._lib.sxg_shutdown, domid, int(virq))

    def dying(self, domid: int) -> None:
        """Tear-down begins: its port is closed."""
        self._call(self._lib.sxg_dying, domid)

    def kill(self, domid: int, *, virq: bool = True) -> None:
        """Torn down: gone at once, or a zombie until its page is mapped no more."""
        self._call(self._lib.sxg_kill, domid, int(virq))

    def virq(self) -> None:
        """The VIRQ_DOM_EXC that was left out."""
        self._lib.sxg_virq(self._g)

    # -- traffic ----------------------------------------------------------------------------------

    def ring(self, domid: int) -> memoryview:
        """The domain's page, shared with the daemon."""
        address = self._call(self._lib.sxg_ring, domid)
        return memoryview((ctypes.c_char * PAGE).from_address(address)).cast("B")

    def open(self, domid: int) -> "Ring":
        """The domain's end of its ring as a stream of bytes; its events are the stream's from now on."""
        return Ring(self, self._lib, self._g, domid)

    def notify(self, domid: int) -> None:
        """The domain's end of its event channel; not bound: nothing happens."""
        self._lib.sxg_notify(self._g, domid)

    def fileno(self) -> int:
        """Readable when `events` has something."""
        return int(self._lib.sxg_fileno(self._g))

    def events(self) -> list[int]:
        """The domids with an event since the last call, in order of arrival; never waits."""
        domids = (ctypes.c_uint32 * 1024)()
        n: int = self._lib.sxg_events(self._g, domids, len(domids))
        return domids[:n]

    # -- looking ------------------------------------------------------------------------------------

    def state(self, domid: int) -> int:
        """ALIVE, SHUTDOWN, DYING and DEAD together; 0: there is no such domain."""
        return int(self._lib.sxg_state(self._g, domid))

    def mapped(self, domid: int) -> int:
        """How often others map its page."""
        return int(self._lib.sxg_mapped(self._g, domid))

    def uid(self, domid: int) -> int:
        """Differs for every creation."""
        return int(self._lib.sxg_uid(self._g, domid))

    def count(self, name: str) -> int:
        """The daemons' calls so far: `notify`, `pending`, `unmask`, `getinfo`; the guests': `gnotify`."""
        return int(self._lib.sxg_count(self._g, name.encode()))

    def fail(self, what: str, count: int, error: int) -> None:
        """Let the daemons' next `count` calls to `map`, `bind`, `notify` or `read` fail with this errno.

        A `read` of the event channels that failed with EFBIG fails on until the daemon resets them.
        """
        self._lib.sxg_fail(self._g, FAULTS[what], count, error)


class Ring:
    """One domain's end of its XenStore ring: bytes out, bytes in, one descriptor.  `Guests.open` makes it.

    It fits `fastxs.Client(transport=lambda: guests.open(domid))`.  ConnectionResetError, from `put` and `take`:
    the domain is gone, its indices are corrupt, or the daemon has given the ring up (it says so in the page).
    """

    def __init__(self, guests: Guests, library: ctypes.PyDLL, program: ctypes.Array[ctypes.c_char], domid: int) -> None:
        self.domid: Final = domid
        self._guests: Final = guests
        self._lib: Final = library
        self._g: Final = program
        self._fd = guests._call(library.sxg_listen, domid)
        self._uid: Final = guests.uid(domid)
        self._room: Final = ctypes.create_string_buffer(PAGE)
        self._epoll: Final = select.epoll()  # the pipe itself is always writable, too
        self._epoll.register(self._fd, select.EPOLLIN)

    def close(self) -> None:
        """Listen no more; the domain lives on.  Idempotent."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        self._epoll.close()
        if self._guests.is_open:
            self._lib.sxg_unlisten(self._g, self.domid, fd)
        else:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Readable from when the daemon stirs until `take`: bytes have come, or there is room again.

        It is never writable: after a `put` that took less than all, wait for it to be readable, `take`, `put`.
        """
        return self._epoll.fileno()

    def put(self, data: Bytes) -> int:
        """How many of these bytes the ring took; 0: it is full.  Never waits."""
        return self._move(self._lib.sxg_put, bytes(data), len(data))

    def take(self) -> bytes:
        """All bytes that are there.  BlockingIOError: none are.  Never waits."""
        if self._guests.is_open and self._fd >= 0:
            # First: what comes after the look makes the descriptor readable again.
            self._lib.sxg_heard(self._g, self.domid, self._fd)
        found = b""
        while n := self._move(self._lib.sxg_take, self._room, PAGE):
            found += self._room.raw[:n]
        if not found:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return found

    def _move(self, function: Callable[..., int], data: object, size: int) -> int:
        if self._fd < 0:
            raise ValueError(f"domain {self.domid}: its ring is closed")
        if not self._guests.is_open or self._guests.uid(self.domid) != self._uid:
            raise ConnectionResetError(f"domain {self.domid}: it is no more")
        n = function(self._g, self.domid, data, size)
        if n < 0:
            raise ConnectionResetError(f"domain {self.domid}: {os.strerror(ctypes.get_errno())}")
        return n
