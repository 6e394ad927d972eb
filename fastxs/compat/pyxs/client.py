"""pyxs's Client, Monitor and Router.

Owns their manners: one transaction at a time, which is the client's state; paths and permissions that are checked
before they are sent; a Router that several clients share.  The rest is `fastxs.client`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import fastxs.client
from fastxs.client import Conflict, Event, requests
from fastxs.compat.pyxs.connection import UnixSocketConnection, XenBusConnection
from fastxs.compat.pyxs.exceptions import ConnectionError, InvalidPath, InvalidPermission, PyXSError, telling

__all__ = ["Client", "Monitor", "Router"]

Names: TypeAlias = list[bytes]
"""In a class whose method is called `list`."""

_PATH: Final = re.compile(rb"/|[a-zA-Z0-9_@/-]*[a-zA-Z0-9_@-]")
_SPECIAL: Final = re.compile(rb"@(introduceDomain|releaseDomain)(/\d+)?")
_PERM: Final = re.compile(rb"[wrbn]\d+")


def _path(path: bytes, *, special: bool = False) -> bytes:
    limit = 3072 if path.startswith(b"/") else 2048
    if not _PATH.fullmatch(path) or b"//" in path or len(path) > limit:
        raise InvalidPath(path)
    if special and path.startswith(b"@") and not _SPECIAL.fullmatch(path):
        raise InvalidPath(path)
    return path


class Router:
    """A connection that clients share: it is open from the first one's `connect` to the first one's `close`."""

    def __init__(self, connection: UnixSocketConnection | XenBusConnection) -> None:
        self.connection: Final = connection
        self.client: Final = connection.client()
        self.is_connected = False

    def __repr__(self) -> str:
        return f"Router({self.connection})"

    def start(self) -> None:
        """Connect; nothing if that was done."""
        with telling():
            self.client.connect()
        self.is_connected = True

    def terminate(self) -> None:
        """Disconnect, for good."""
        self.is_connected = False
        self.client.close()


class Client:
    """A client as pyxs has it: `with Client() as c:`.

    `unix_socket_path`, or nothing: the socket; `xen_bus_path`: the device; `router`: what another client uses, too.
    """

    def __init__(
        self, unix_socket_path: str | None = None, xen_bus_path: str | None = None, router: Router | None = None
    ) -> None:
        if router is None:
            use_socket = unix_socket_path or not xen_bus_path
            router = Router(UnixSocketConnection(unix_socket_path) if use_socket else XenBusConnection(xen_bus_path))
        self.router: Final = router
        self.tx_id = 0

    def __repr__(self) -> str:
        return f"Client({self.router.connection})"

    def __copy__(self) -> Client:
        return Client(router=self.router)

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self.tx_id and kind is None:
            raise PyXSError("uncommitted transaction")

    def connect(self) -> None:
        """Connect.  ConnectionError: there is no daemon."""
        self.router.start()

    def close(self) -> None:
        """Disconnect."""
        self.router.terminate()

    @property
    def _client(self) -> fastxs.client.Client:
        if not self.router.is_connected:
            raise ConnectionError("not connected")
        return self.router.client

    @property
    def _nodes(self) -> fastxs.client.Client | fastxs.client.Transaction:
        return self._client.transaction(self.tx_id) if self.tx_id else self._client

    # -- nodes ------------------------------------------------------------------------------------

    def read(self, path: bytes, default: bytes | None = None) -> bytes:
        """A node's value."""
        with telling():
            nodes = self._nodes
            return nodes.read(_path(path)) if default is None else nodes.read(_path(path), default)

    def write(self, path: bytes, value: bytes) -> None:
        """Set it: any bytes."""
        with telling():
            self._nodes.write(_path(path), value)

    def mkdir(self, path: bytes) -> None:
        """Make a node, if it is missing."""
        with telling():
            self._nodes.mkdir(_path(path))

    def delete(self, path: bytes) -> None:
        """Remove it and all below it."""
        with telling():
            self._nodes.delete(_path(path))

    def list(self, path: bytes) -> Names:
        """The names of its children."""
        with telling():
            return self._nodes.list(_path(path))

    def exists(self, path: bytes) -> bool:
        """Whether it is there."""
        with telling():
            return self._nodes.exists(_path(path))

    def get_perms(self, path: bytes) -> Names:
        """Its permissions."""
        with telling():
            return self._nodes.get_perms(_path(path))

    def set_perms(self, path: bytes, perms: Iterable[bytes]) -> None:
        """Set them.  InvalidPermission: one is none."""
        entries = [*perms]
        for perm in entries:
            if not _PERM.fullmatch(perm):
                raise InvalidPermission(perm)
        with telling():
            self._nodes.set_perms(_path(path), entries)

    def walk(self, top: bytes, topdown: bool = True) -> Iterator[tuple[bytes, bytes, Names]]:
        """(path, value, names of the children) of `top` and of everything below it."""
        with telling():
            yield from self._nodes.walk(_path(top), topdown)

    __getitem__ = read
    __setitem__ = write
    __delitem__ = delete

    # -- domains ----------------------------------------------------------------------------------

    def get_domain_path(self, domid: int) -> bytes:
        """`/local/domain/<domid>`."""
        with telling():
            return self._client.get_domain_path(domid)

    def is_domain_introduced(self, domid: int) -> bool:
        """Whether the daemon serves it."""
        with telling():
            return self._client.is_domain_introduced(domid)

    def introduce_domain(self, domid: int, mfn: int, eventchn: int) -> None:
        """Let the daemon serve it."""
        if not domid:
            raise ValueError("domain 0 cannot be introduced.")
        with telling():
            self._client.introduce_domain(domid, mfn, eventchn)

    def release_domain(self, domid: int) -> None:
        """No more."""
        with telling():
            self._client.release_domain(domid)

    def resume_domain(self, domid: int) -> None:
        """Let its next shutdown be told again."""
        with telling():
            self._client.resume_domain(domid)

    def set_target(self, domid: int, target: int) -> None:
        """Let `domid` do what `target` may."""
        with telling():
            self._client.set_target(domid, target)

    # -- transactions -----------------------------------------------------------------------------

    def transaction(self) -> int:
        """Begin the client's transaction.  PyXSError with EALREADY: there is one."""
        if self.tx_id:
            raise PyXSError(errno.EALREADY, os.strerror(errno.EALREADY))
        with telling():
            self.tx_id = self._client.call(requests.transaction_start())
        return self.tx_id

    def rollback(self) -> None:
        """Forget it."""
        with telling():
            self._nodes.call(requests.transaction_end(commit=False))
        self.tx_id = 0

    def commit(self) -> bool:
        """End it.  False: somebody interfered, do all of it again."""
        try:
            with telling():
                try:
                    self._nodes.call(requests.transaction_end(commit=True))
                except Conflict:
                    return False
        finally:
            self.tx_id = 0
        return True

    # -- watches ----------------------------------------------------------------------------------

    def monitor(self) -> Monitor:
        """Something to watch with."""
        return Monitor(self)


class Monitor:
    """Watches of one client, and their events."""

    def __init__(self, client: Client) -> None:
        self.client: Final = client
        self._monitor: Final = client._client.monitor()
        self._watches: Final[set[tuple[bytes, bytes]]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def watched(self) -> set[bytes]:
        """The paths that are watched."""
        return {path for path, _ in self._watches}

    def close(self) -> None:
        """Watch nothing any more."""
        with telling():
            self._monitor.close()
        self._watches.clear()

    def watch(self, wpath: bytes, token: bytes) -> None:
        """Be told of changes of this path and below it."""
        with telling():
            self._monitor.watch(_path(wpath, special=True), token)
        self._watches.add((wpath, token))

    def unwatch(self, wpath: bytes, token: bytes) -> None:
        """No more."""
        with telling():
            self._monitor.unwatch(_path(wpath, special=True), token)
        self._watches.discard((wpath, token))

    def wait(self, unwatched: bool = False) -> Iterator[Event]:
        """All events, as (path, token); `unwatched` ones never come here."""
        with telling():
            for event in self._monitor:  # noqa: UP028  # `yield from` would close it with this generator
                yield event
