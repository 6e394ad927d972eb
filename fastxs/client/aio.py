"""The client for asyncio: the names that users see, the same as in `sync`.

Owns what they mean, in terms of requests (requests).  How one waits is the link's business (tasks).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar, overload

from fastxs.client import requests
from fastxs.client.errors import Closed, Conflict, Disconnected, InvalidRequest, NotFound, XenStoreError
from fastxs.client.events import Event
from fastxs.client.requests import Node, Op, Path, Perm, Request, Steps, Values
from fastxs.client.session import NO_TX, RAISE, Exchange, Tx
from fastxs.client.tasks import Events, Link
from fastxs.client.transports import Dial, dial

__all__ = ["AsyncClient", "AsyncMonitor", "AsyncTransaction"]

T = TypeVar("T")
D = TypeVar("D")
_List: TypeAlias = list[T]
"""In a class whose method is called `list`."""


class _Nodes:
    """What can be done with nodes, in a transaction or outside of one."""

    _link: Link

    def _tx(self) -> Tx:
        """What its requests belong to."""
        raise NotImplementedError

    async def call(self, request: Request[T]) -> T:
        """Any request: send it, wait for its reply."""
        return await self._link.ask(request, self._tx())

    async def call_many(self, many: Iterable[Request[Any]], *, return_errors: bool = False) -> _List[Any]:
        """Any requests, all sent before the first reply is awaited; their results in order.

        The first error is raised after all are answered; `return_errors` puts errors in the results' places instead.
        """
        return await self._link.ask_many(many, self._tx(), return_errors)

    async def _send(self, op: int, payloads: Sequence[bytes]) -> Exchange:
        return await self._link.send(op, payloads, self._tx())

    async def _run(self, steps: Steps[T]) -> T:
        try:
            request = next(steps)
            while True:
                try:
                    reply = await self.call(request)
                except XenStoreError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    @overload
    async def read(self, path: Path) -> bytes: ...
    @overload
    async def read(self, path: Path, default: D) -> bytes | D: ...
    async def read(self, path: Path, default: Any = RAISE) -> Any:
        """A node's value.  NotFound: no such node, unless there is a `default`."""
        try:
            return await self.call(requests.read(path))
        except NotFound:
            if default is RAISE:
                raise
            return default

    @overload
    async def read_many(self, paths: Iterable[Path]) -> _List[bytes]: ...
    @overload
    async def read_many(self, paths: Iterable[Path], default: D) -> _List[bytes | D]: ...
    async def read_many(self, paths: Iterable[Path], default: Any = RAISE) -> _List[Any]:
        """The values of many nodes, in order, asked for all at once.  NotFound: as `read`."""
        return (await self._send(Op.READ, requests.paths(paths))).results(default)

    async def write(self, path: Path, value: bytes) -> None:
        """Set a node's value, any bytes; the node and its parents are made if they are missing."""
        await self.call(requests.write(path, value))

    async def write_many(self, values: Values) -> None:
        """`write` of each, in order, asked for all at once.  The first error is raised after all were tried."""
        (await self._send(Op.WRITE, requests.writes(values))).results()

    async def mkdir(self, path: Path) -> None:
        """Make a node with an empty value, and its parents; nothing if it is there."""
        await self.call(requests.mkdir(path))

    async def delete(self, path: Path) -> None:
        """Remove a node and all below it; nothing if it is missing.  NotFound: its parent is missing."""
        await self.call(requests.delete(path))

    async def list(self, path: Path) -> _List[bytes]:
        """The names of a node's children, however many.  NotFound: no such node."""
        return await self._run(requests.list_(path))

    async def exists(self, path: Path) -> bool:
        """Whether there is such a node."""
        return await self.read(path, None) is not None

    async def get_perms(self, path: Path) -> _List[bytes]:
        """Its permissions: the owner and everybody else, then one entry per domain; see `Perm`."""
        return await self.call(requests.get_perms(path))

    async def set_perms(self, path: Path, perms: Iterable[bytes | str | Perm]) -> None:
        """Replace its permissions.  InvalidRequest: an entry that is none; NotFound: no such node or owner."""
        await self.call(requests.set_perms(path, perms))

    async def walk(self, top: Path, topdown: bool = True) -> AsyncIterator[Node]:
        """(path, value, names of the children) of `top` and of everything below it, parents first or last.

        What vanishes meanwhile is left out; what must not be read is empty.  NotFound: there is no `top`.
        """
        if topdown:
            async for node in self._walk(requests.word(top), -1):
                yield node
        else:
            for node in reversed([node async for node in self._walk(requests.word(top), 1)]):
                yield node

    async def _walk(self, top: bytes, order: int) -> AsyncIterator[Node]:
        stack = await self._look([top])
        if not stack:
            raise NotFound.of(top)
        while stack:
            path, _, names = node = stack.pop()
            yield node
            if names:
                stack += (await self._look([requests.below(path, name) for name in names]))[::order]

    async def _look(self, many: Sequence[bytes]) -> _List[Node]:
        payloads = requests.paths(many)
        values, lists = await self._send(Op.READ, payloads), await self._send(Op.DIRECTORY, payloads)
        found = []
        for node in requests.seen(many, values.replies, lists.replies):
            if isinstance(node, bytes):
                with suppress(NotFound):
                    node = node, await self.read(node), await self.list(node)
            if not isinstance(node, bytes):
                found.append(node)
        return found


class AsyncClient(_Nodes):
    """A connection to the daemon, for any number of tasks of one loop.

    Where it leads, when it connects and what `reconnect_s` does: as `Client`.  Every method that asks the daemon raises
    XenStoreError, and Disconnected where there is none (Closed after `close`).
    """

    def __init__(
        self,
        unix_socket_path: str | os.PathLike[str] | None = None,
        xen_bus_path: str | os.PathLike[str] | None = None,
        *,
        transport: Dial | None = None,
        reconnect_s: float | None = None,
    ) -> None:
        self._link = Link(transport or dial(unix_socket_path, xen_bus_path), reconnect_s)

    def _tx(self) -> Tx:
        return NO_TX

    async def connect(self) -> None:
        """Connect now; nothing if it is connected.  Disconnected: that failed, and `__cause__` is the OSError."""
        await self._link.connect()

    async def close(self) -> None:
        """Disconnect: the daemon forgets watches and transactions, whoever waits gets Closed.  Idempotent."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- transactions ---------------------------------------------------------------------------------

    def transaction(self, tx_id: int = 0) -> AsyncTransaction:
        """`async with client.transaction() as tx:` begins one, and commits it at the end.

        Conflict: somebody interfered.  With a `tx_id`, the one that has this number and was begun before.
        """
        return AsyncTransaction(self._link, tx_id)

    async def transactions(self, attempts: int = 10) -> AsyncIterator[AsyncTransaction]:
        """`async for tx in client.transactions():` `async with tx:` ... is done again, at most so often, until nobody
        interferes.

        Conflict, from the last one: they always did.
        """
        for attempt in range(attempts):
            await asyncio.sleep(requests.pause_s(attempt))
            tx = AsyncTransaction(self._link, retry=attempt < attempts - 1)
            yield tx
            if not tx.conflict:
                return

    # -- watches --------------------------------------------------------------------------------------

    def monitor(self) -> AsyncMonitor:
        """Something that any number of watches tell their events to."""
        return AsyncMonitor(self._link)

    def watch(
        self, path: Path, token: Any = None, *, depth: int | None = None, try_depth: int | None = None
    ) -> AsyncMonitor:
        """A monitor that sets this watch when it is first used: `async for event in client.watch(path)`, or `async
        with` and then `async for`.  See `AsyncMonitor.watch`."""
        return AsyncMonitor(self._link, (path, token, depth, try_depth))

    # -- domains and the daemon -----------------------------------------------------------------------

    async def get_domain_path(self, domid: int) -> bytes:
        """`/local/domain/<domid>`, whether there is such a domain or not."""
        return await self.call(requests.get_domain_path(domid))

    async def is_domain_introduced(self, domid: int) -> bool:
        """Whether the daemon serves the domain's ring."""
        return await self.call(requests.is_domain_introduced(domid))

    async def introduce_domain(self, domid: int, gfn: int, port: int) -> None:
        """Let the daemon serve the domain's ring: its page's frame (today's daemons ignore it), its event channel."""
        await self.call(requests.introduce_domain(domid, gfn, port))

    async def release_domain(self, domid: int) -> None:
        """Let it do so no more, and remove what the domain owns."""
        await self.call(requests.release_domain(domid))

    async def resume_domain(self, domid: int) -> None:
        """The domain's next shutdown is to be told again."""
        await self.call(requests.resume_domain(domid))

    async def set_target(self, domid: int, target: int) -> None:
        """`domid` may do whatever `target` may: a device model and its guest."""
        await self.call(requests.set_target(domid, target))

    async def suspend_evtchn_port(self, domid: int) -> int:
        """The event channel by which a guest is asked to suspend.  NotFound: it has none."""
        return await self.call(requests.suspend_evtchn_port(domid))

    async def control(self, *command: Path) -> bytes:
        """A command of `xenstore-control`; what it prints.  InvalidRequest: the daemon knows none such."""
        return await self.call(requests.control(*command))

    async def get_features(self, domid: int | None = None) -> int:
        """Feature bits that the daemon supports, or offers to a domain (SPEC 2.1).  NotSupported: before Xen 4.21."""
        return await self.call(requests.get_features(domid))

    async def set_features(self, domid: int, features: int) -> None:
        """Offer only these to a domain that is not introduced yet (Busy: it is)."""
        await self.call(requests.set_features(domid, features))

    async def get_quota_names(self) -> _List[bytes]:
        """The quotas that there are.  NotSupported: before Xen 4.22."""
        return await self.call(requests.get_quota_names())

    async def get_quota(self, name: Path, domid: int | None = None) -> int:
        """A quota of one domain, or of domains to come.  0: unlimited."""
        return await self.call(requests.get_quota(name, domid))

    async def set_quota(self, name: Path, value: int, domid: int | None = None) -> None:
        """Set it."""
        await self.call(requests.set_quota(name, value, domid))


class AsyncTransaction(_Nodes):
    """Requests that happen all together or not at all; `async with` begins it and ends it, with a rollback if its body
    fails.

    Reads see the store as it was when it began, and its own writes; nobody else sees these before the commit.
    """

    def __init__(self, link: Link, tx_id: int = 0, *, retry: bool = False) -> None:
        self._link = link
        self._retry: Final = retry
        self._begun = Tx(tx_id) if tx_id else None
        self.conflict = False
        """Whether its commit has failed because somebody interfered."""

    @property
    def tx_id(self) -> int:
        """Its number on the wire; 0: it has not begun, or is over."""
        return self._begun.tx_id if self._begun is not None else 0

    async def start(self) -> None:
        """Begin.  QuotaExceeded: too many are open."""
        self._begun = await self._link.start()

    async def commit(self) -> None:
        """Make all of it true.  Conflict: somebody interfered, nothing of it is."""
        await self._end(commit=True)

    async def rollback(self) -> None:
        """Forget all of it."""
        await self._end(commit=False)

    async def _end(self, *, commit: bool) -> None:
        tx, self._begun = self._tx(), None
        try:
            await self._link.ask(requests.transaction_end(commit=commit), tx)
        except Conflict:
            self.conflict = True
            raise

    def _tx(self) -> Tx:
        if self._begun is None:
            raise NotFound.of(None, "the transaction is over, or has not begun")
        return self._begun

    async def __aenter__(self) -> Self:
        if self._begun is None:
            await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._begun is None:
            return
        if kind is not None:
            with suppress(XenStoreError):
                await self.rollback()
            return
        try:
            await self.commit()
        except Conflict:
            if not self._retry:
                raise


class AsyncMonitor:
    """Watches, and their events in the order in which they came; for any number of tasks.

    Iterating over it waits for events, and ends when it or the client is closed.  A monitor that nobody holds any more
    takes its watches with it, some time; `close` or `async with` does it at once.
    """

    def __init__(self, link: Link, due: tuple[Path, Any, int | None, int | None] | None = None) -> None:
        self._link: Final = link
        self._events: Final = Events()
        self._due = due
        """A watch that is still to be set, of `AsyncClient.watch`."""
        link.enlist(self._events)

    async def watch(
        self, path: Path, token: Any = None, *, depth: int | None = None, try_depth: int | None = None
    ) -> None:
        """Be told of every change of `path` and of what is below it; the first event comes at once, without a change.

        `token` is anything hashable that events are to carry, or else the path.  `depth` limits how far below is looked
        (InvalidRequest: this daemon cannot; `try_depth` then watches without a limit).  Special paths are
        `@introduceDomain` and `@releaseDomain`.  AlreadyExists: this monitor has a watch with that path and token.
        """
        key = self._events.new_key(path, token)
        try:
            await self._link.watch(self._events, *key, depth if try_depth is None else try_depth)
        except InvalidRequest:
            if try_depth is None:
                raise
            await self._link.watch(self._events, *key, None)

    async def unwatch(self, path: Path, token: Any = None) -> None:
        """End a watch; events of it that wait are dropped.  NotFound: there is none such."""
        await self._link.unwatch([self._events.find(path, token)])

    async def _begin(self) -> None:
        if self._due is not None:
            (path, token, depth, try_depth), self._due = self._due, None
            await self.watch(path, token, depth=depth, try_depth=try_depth)

    async def read(self) -> Event:
        """The next event; waits for it."""
        await self._begin()
        return await self._events.read()

    def check(self) -> Event | None:
        """The next event if there is one; does not wait."""
        return self._events.take()

    def wait(self) -> AsyncIterator[Event]:
        """All events; the same as iterating over the monitor itself."""
        return self

    async def close(self) -> None:
        """End all its watches, wake whoever waits for their events.  Idempotent."""
        watches = self._events.close()
        if watches:
            with suppress(Disconnected):
                await self._link.unwatch(watches)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        try:
            return await self.read()
        except Closed:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        self._link.drop(self._events.close())
