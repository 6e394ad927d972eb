"""A pretend hypervisor with a daemon, domain 0's toolstack and guests on it.

Owns how each is made and taken down: the daemon is the core in this process, whose every look at its event channels
is one call (`Inside`), or fastxsd in a process of its own (`Outside`).  Guests speak through their rings.
Refuses to know what a right answer is.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from unittest.mock import patch

from fastxs.hypervisor import simxen
from fastxs.hypervisor.host import Host
from fastxs.hypervisor.simxen.guests import Guests
from tests.conversations.speak import OK, Voice, nul
from tests.support.ring import RingPeer
from tests.support.wire import MemoryPeer, Op, Peer

PORT: Final = 2
"""What `Guests.create` lets a guest offer unless told otherwise."""

NEW: Final = "4.22"
"""A Xen that tells each domain's unique id, and which domains changed (libxenmanage)."""

OLD: Final = "4.17"
"""One that has libxenctrl's list of domains only."""

Prepare = Callable[[Guests], None]
"""What is on the hypervisor before the daemon starts."""


class Caller(Voice):
    """A connection over which events take a moment."""

    def events(self) -> list[tuple[str, str]]:
        """All that were caused before this call: they stand before the answer to one more request."""
        assert self.ask(Op.GET_DOMAIN_PATH, nul(self.domid)) == nul(f"/local/domain/{self.domid}")
        return super().events()


class Scene(ABC):
    """One hypervisor, one daemon.  `dom0` is a tool's connection."""

    def __init__(self, guests: Guests) -> None:
        self.guests: Final = guests
        self.dom0: Final = self.tool()

    @abstractmethod
    def tool(self) -> Voice:
        """One more connection of domain 0."""

    @abstractmethod
    def look(self) -> None:
        """The daemon sees what its event channels have to say."""

    @abstractmethod
    def wait(self, timeout_s: float) -> None:
        """The daemon may do something; returns early when a guest was notified."""

    @abstractmethod
    def sound(self) -> None:
        """Every counter and index of the daemon agrees with what it counts."""

    # -- what a toolstack does ---------------------------------------------------------------------
    def introduce(self, domid: int, port: int = PORT) -> Voice:
        """INTRODUCE, which has to succeed; the guest."""
        assert self.dom0.ask(Op.INTRODUCE, nul(domid, 1, port)) == OK
        return self.voice(domid)

    def voice(self, domid: int) -> Voice:
        """What the kernel of that domain says through its ring."""
        return Caller(RingPeer(self.guests, domid, self.wait), domid)

    def home(self, domid: int) -> None:
        """The domain's own directory, empty."""
        home = f"/local/domain/{domid}"
        assert self.dom0.mkdir(home) == OK
        assert self.dom0.chmod(home, f"n{domid}") == OK

    def guest(self, domid: int) -> Voice:
        """A new domain with its home, introduced."""
        self.guests.create(domid, PORT)
        self.home(domid)
        return self.introduce(domid)

    def hold(self, domid: int) -> Callable[[], None]:
        """Somebody else maps the domain's page, as a device's backend does; what is returned lets go of it."""
        lib = ctypes.CDLL(str(simxen.LIBRARY), use_errno=True)
        for name in ("xengnttab_open", "xengnttab_map_grant_ref"):
            getattr(lib, name).restype = ctypes.c_void_p
        gnttab = ctypes.c_void_p(lib.xengnttab_open(None, 0))
        page = ctypes.c_void_p(lib.xengnttab_map_grant_ref(gnttab, domid, 1, mmap.PROT_READ | mmap.PROT_WRITE))
        assert page, os.strerror(ctypes.get_errno())

        def let_go() -> None:
            assert lib.xengnttab_unmap(gnttab, page, 1) == 0

        return let_go

    def introduced(self, domid: int) -> bool:
        answer = self.dom0.ask(Op.IS_DOMAIN_INTRODUCED, nul(domid))
        assert answer in (b"T\0", b"F\0")
        return answer == b"T\0"


class Inside(Scene):
    """The core in this process: nothing happens between two calls, not even a look at the event channels.

    With an `image`, a folder, the store outlives the core: `restart`.
    """

    def __init__(self, guests: Guests, image: Path | None = None) -> None:
        self.folder: Final = image
        self.open()
        super().__init__(guests)

    def open(self) -> None:
        from fastxs._core import Engine
        from fastxs.hypervisor.border import Hypervisor
        from fastxs.storage.image import Image

        self.hypervisor = Hypervisor.load(sim=True)
        self.image: Image | None = None
        if self.folder is not None and self.folder.exists():
            self.image = Image.open(str(self.folder))
        elif self.folder is not None:
            self.folder.mkdir()
            self.image = Image.create(str(self.folder), b"a scene")
        self.engine = Engine(border=self.hypervisor, image=self.image, linger_us=0)

    def close(self) -> None:
        self.engine.close()
        if self.image is not None:
            self.image.close()
        self.hypervisor.close()

    def restart(self) -> None:
        """The core ends, with all that it holds on the hypervisor, and another one takes its place."""
        self.close()
        self.open()
        self.dom0.peer = self.tool().peer

    def tool(self) -> Voice:
        return Voice(MemoryPeer(self.engine, 0), 0)

    def look(self) -> None:
        self.engine.turn()

    def wait(self, timeout_s: float) -> None:
        self.engine.turn()

    def sound(self) -> None:
        assert self.engine.check() == []


class Outside(Scene):
    """fastxsd, and tools on its socket."""

    def __init__(self, guests: Guests, host: Host, stack: ExitStack) -> None:
        self.host: Final = host
        self.stack: Final = stack
        super().__init__(guests)

    def tool(self) -> Voice:
        return Caller(self.stack.enter_context(Peer(self.host.socket)), 0)

    def look(self) -> None:
        # The news was there before this request is, and one wait tells the daemon of both.
        assert self.introduced(0)

    def wait(self, timeout_s: float) -> None:
        if select.select([self.guests.fileno()], [], [], timeout_s)[0]:
            self.guests.events()

    def sound(self) -> None:
        assert self.dom0.ask(Op.CONTROL, nul("check")) == OK


def nothing(_: Guests) -> None:
    """No domain but 0, which nobody plays."""


@contextmanager
def hypervisor(folder: Path, xen: str) -> Iterator[Guests]:
    """This process has a hypervisor, as daemon, as backend and as guests, until the end of the block."""
    with patch.dict(os.environ, SIMXEN_DIR=str(folder), SIMXEN_XEN=xen), Guests(folder) as guests:
        try:
            yield guests
        finally:
            ctypes.CDLL(str(simxen.LIBRARY)).simxen_detach()


@contextmanager
def inside(folder: Path, xen: str = NEW, prepare: Prepare = nothing, *, durable: bool = False) -> Iterator[Inside]:
    """`Inside` on a hypervisor of its own in `folder`."""
    with hypervisor(folder / "hv", xen) as guests:
        prepare(guests)
        scene = Inside(guests, folder / "image" if durable else None)
        try:
            yield scene
            scene.sound()
        finally:
            scene.close()


@contextmanager
def outside(folder: Path, xen: str = NEW, prepare: Prepare = nothing) -> Iterator[Outside]:
    """`Outside` with all that it writes in `folder`."""
    host = Host("fastxs", folder, default_quotas=True)
    with ExitStack() as stack:
        guests = stack.enter_context(hypervisor(Path(host.env["SIMXEN_DIR"]), xen))
        prepare(guests)
        scene = Outside(guests, stack.enter_context(host), stack)
        yield scene
        scene.sound()
