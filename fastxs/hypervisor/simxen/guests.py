"""Guests played from Python: domains of a pretend hypervisor, for tests.

Owns the ctypes face of the guest programs' functions in libsimxen.so (simxen.h describes them).
Knows nothing of XenStore's messages: what goes through a ring is its user's.
"""

import ctypes
import os
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

FAULTS: Final = {"map": 0, "bind": 1, "notify": 2}


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(simxen.LIBRARY), use_errno=True)
    u32, void = ctypes.c_uint32, ctypes.c_void_p
    for name, result, arguments in (
        ("sxg_open", ctypes.c_int, (void, ctypes.c_char_p, u32)),
        ("sxg_close", None, (void,)),
        ("sxg_create", void, (void, u32, u32)),
        ("sxg_ring", void, (void, u32)),
        ("sxg_adopt", ctypes.c_int, (void, u32)),
        ("sxg_offer", ctypes.c_int, (void, u32, u32)),
        ("sxg_notify", None, (void, u32)),
        ("sxg_events", ctypes.c_int, (void, void, ctypes.c_int)),
        ("sxg_fileno", ctypes.c_int, (void,)),
        ("sxg_shutdown", ctypes.c_int, (void, u32, ctypes.c_int)),
        ("sxg_dying", ctypes.c_int, (void, u32)),
        ("sxg_kill", ctypes.c_int, (void, u32, ctypes.c_int)),
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

    `slot` 1..63 names the program, 0 takes any.  OSError, with the errno that simxen.h gives, where
    something fails.
    """

    def __init__(self, folder: Path | str, slot: int = 0) -> None:
        self._lib: Final = _load()
        self._g: Final = ctypes.create_string_buffer(SXG_SIZE)
        self._open = False
        self._call(self._lib.sxg_open, os.fsencode(folder), slot)
        self._open = True

    def close(self) -> None:
        """Destroy this program's domains and leave; pages that `ring` gave must not be touched again."""
        if self._open:
            self._open = False
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

    # -- traffic ----------------------------------------------------------------------------------

    def ring(self, domid: int) -> memoryview:
        """The domain's page, shared with the daemon."""
        address = self._call(self._lib.sxg_ring, domid)
        return memoryview((ctypes.c_char * PAGE).from_address(address)).cast("B")

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
        """Let the daemons' next `count` calls to `map`, `bind` or `notify` fail with this errno."""
        self._lib.sxg_fail(self._g, FAULTS[what], count, error)
