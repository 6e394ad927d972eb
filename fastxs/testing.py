"""For other projects' tests: a XenStore daemon and guests, without Xen and without privileges.

    with Xenstored() as store:
        guest = store.guest()
        guest.client["data/hello"] = b"dom0"                        # over the guest's ring
        assert store.client[f"/local/domain/{guest.domid}/data/hello"] == b"dom0"

pytest has it as fixtures (`fastxs.pytest_plugin`): `xenstored`, `xen_guest`, `xen_guests`.
Owns what a toolstack does to have a guest, and takes it all down again.  Refuses to know how a daemon is started
(`fastxs.hypervisor.host`), what is said (`fastxs.client`), and pytest.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fastxs.client import Client
from fastxs.hypervisor.host import Host, named, scratch
from fastxs.hypervisor.simxen.guests import Guests, Ring

__all__ = ["Guest", "Xenstored"]

PORT: Final = 2
GFN_BASE: Final = 0x1000


class Xenstored:
    """A XenStore daemon on a pretend hypervisor of its own; both are gone at the end of the block.

    `daemon` is `fastxs`, `c` or `ox` (Debian's), or a program's path; `args` are added to its command line.
    ValueError: there is no such daemon; HostError: it does not start, the text says why.
    """

    def __init__(self, daemon: str | Path = "fastxs", *, args: Sequence[str] = ()) -> None:
        kind, program = named(daemon)
        self._folder: Final = scratch()
        self._guests: list[Guest] = []
        self.host: Final = Host(kind, self._folder, args=args, default_quotas=True, program=program)
        """The daemon's process: `host.pid`, `host.stderr()`, `host.kill()`, `host.start()`..."""
        try:
            self.host.start()
            self.guests: Final = Guests(self.host.env["SIMXEN_DIR"])
            """Domains as the hypervisor sees them; `guest` makes whole ones."""
        except BaseException:
            self._remove()
            raise

    @property
    def socket(self) -> Path:
        """The daemon's unix socket."""
        return self.host.socket

    @property
    def env(self) -> dict[str, str]:
        """What other programs need in their environment to find the daemon and its hypervisor."""
        return self.host.env

    @cached_property
    def client(self) -> Client:
        """dom0, over the socket."""
        return Client(self.socket)

    def guest(self, domid: int | None = None) -> Guest:
        """A new domain, by default with the next domid: created, with a home that it can read and `data` that is
        its own, and introduced.  OSError, EEXIST: there is such a domain."""
        if domid is None:
            domid = max((guest.domid for guest in self._guests), default=0) + 1
        self.guests.create(domid, PORT)
        try:
            guest = Guest(self, domid)
        except BaseException:
            self.guests.kill(domid)
            raise
        self._guests.append(guest)
        return guest

    def fail(self, what: str, count: int, error: int) -> None:
        """Let the daemon's next `count` calls to `map`, `bind`, `notify` or `read` fail with this errno.

        The first two are what an introduction needs, the others are of event channels.
        """
        self.guests.fail(what, count, error)

    def close(self) -> None:
        """Destroy the guests, stop the daemon, remove the files.  Idempotent."""
        for guest in self._guests:
            guest.disconnect()
        if "client" in self.__dict__:
            self.client.close()
        self.guests.close()
        self._remove()

    def _remove(self) -> None:
        self.host.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Guest:
    """A domain that a test plays: its programs through `client`, its life through the methods.

    `Xenstored.guest` makes it.
    """

    def __init__(self, store: Xenstored, domid: int) -> None:
        self.domid: Final = domid
        self.home: Final = f"/local/domain/{domid}"
        """Where relative paths of its own client begin."""
        self._store: Final = store
        home = store.client
        for path, value, perms in (
            ("", b"", ["n0", f"r{domid}"]),
            ("/domid", b"%d" % domid, ["n0", f"r{domid}"]),
            ("/name", b"guest-%d" % domid, ["n0", f"r{domid}"]),
            ("/control/shutdown", b"", [f"n{domid}"]),
            ("/data", b"", [f"n{domid}"]),
        ):
            home.write(self.home + path, value)
            home.set_perms(self.home + path, perms)
        home.introduce_domain(domid, GFN_BASE + domid, PORT)

    def open(self) -> Ring:
        """Its end of the ring, for a client: `AsyncClient(transport=guest.open)`.  Whoever opens it closes it."""
        return self._store.guests.open(self.domid)

    @cached_property
    def client(self) -> Client:
        """The guest, over its ring."""
        return Client(transport=self.open)

    def disconnect(self) -> None:
        """Close its client.  Idempotent."""
        if "client" in self.__dict__:
            self.client.close()

    @property
    def page(self) -> memoryview:
        """The ring's page, shared with the daemon: for a guest that breaks the rules."""
        return self._store.guests.ring(self.domid)

    def shutdown(self) -> None:
        """It powers off: the domain is still there, and the daemon is told."""
        self._store.guests.shutdown(self.domid)

    def die(self) -> None:
        """It is gone, all at once, and the daemon must notice."""
        self.disconnect()
        self._store.guests.kill(self.domid)

    def destroy(self) -> None:
        """As a toolstack does it: released, gone, its nodes removed."""
        self._store.client.release_domain(self.domid)
        self.die()
        self._store.client.delete(self.home)
