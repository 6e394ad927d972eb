"""The client for asyncio.

Owns one loop's use of a connection: requests of all tasks are gathered and sent once per turn of the loop, replies are
handed out as they come, in whatever order.  So tasks that ask at the same time are pipelined without knowing it.  A
task that is cancelled while it waits leaves nothing behind: a watch or a transaction that it was about to get is given
back when the daemon has answered.  Refuses to know bytes (session), requests (requests) and ways to the daemon
(transports).
"""

from __future__ import annotations

import asyncio
import math
import os
import warnings
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar, overload

from fastxs.client import requests
from fastxs.client.errors import (
    Closed,
    Conflict,
    Disconnected,
    InvalidRequest,
    NotFound,
    XenStoreError,
)
from fastxs.client.events import Event, EventQueue, Watch
from fastxs.client.requests import Node, Op, Path, Perm, Request, Steps
from fastxs.client.session import RAISE, Exchange, Session, outcomes
from fastxs.client.transports import RETRY_MAX_S, RETRY_S, Dial, Transport, dial

__all__ = ["AsyncClient", "AsyncMonitor", "AsyncTransaction"]

T = TypeVar("T")
D = TypeVar("D")
_List: TypeAlias = list[T]
"""In a class whose method is called `list`."""


class _Nodes:
    """What can be done with nodes, in a transaction or outside of one."""

    async def call(self, request: Request[T]) -> T:
        """Any request: send it, wait for its reply.  XenStoreError: the daemon refused."""
        raise NotImplementedError

    async def _send(self, op: int, payloads: Sequence[bytes]) -> Exchange:
        """Requests of one operation, all sent before the first reply is awaited."""
        raise NotImplementedError

    async def call_many(self, many: Iterable[Request[Any]], *, return_errors: bool = False) -> list[Any]:
        """Any requests, all sent before the first reply is awaited; their results in order.

        The first error is raised after all are answered; `return_errors` puts errors in the results' places instead.
        """
        raise NotImplementedError

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

    async def write_many(self, values: Mapping[Path, bytes] | Iterable[tuple[Path, bytes]]) -> None:
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
        self._dial: Final = transport or dial(unix_socket_path, xen_bus_path)
        self._reconnect_s: Final = reconnect_s
        self._session: Final = Session()
        self._monitors: Final[weakref.WeakSet[AsyncMonitor]] = weakref.WeakSet()
        self._dropped: Final[deque[Watch]] = deque()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: Transport | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._over: Final = asyncio.Event()
        self._flush_is_due = False
        self._waits_for_room = False

    # -- life -----------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect now; nothing if it is connected.  Disconnected: that failed, and `__cause__` is the OSError."""
        await self._ready()

    async def close(self) -> None:
        """Disconnect: the daemon forgets watches and transactions, whoever waits gets Closed.  Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._over.set()
        self._disconnect(Closed.of())
        for monitor in [*self._monitors]:
            monitor.end(Closed.of())
        if self._reconnecting is not None:
            await self._reconnecting

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if not self._closed and self._transport is not None:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=1)

    # -- requests ---------------------------------------------------------------------------------

    async def call(self, request: Request[T], tx_id: int = 0) -> T:
        return await self._call(request, tx_id, None)

    async def _call(self, request: Request[T], tx_id: int, epoch: int | None) -> T:
        if self._transport is None or epoch is not None:
            await self._ready(epoch)
        exchange = self._session.post_one(request, tx_id)
        await self._answered(exchange, request)
        return request.parse(exchange.result())

    async def _send(self, op: int, payloads: Sequence[bytes], tx_id: int = 0, epoch: int | None = None) -> Exchange:
        await self._ready(epoch)
        exchange = self._session.post(op, payloads, tx_id)
        await self._answered(exchange, None)
        if isinstance(exchange.error, Disconnected):
            raise exchange.error
        return exchange

    async def call_many(self, many: Iterable[Request[Any]], *, return_errors: bool = False) -> _List[Any]:
        return await self._call_many(many, 0, None, return_errors)

    async def _call_many(
        self, many: Iterable[Request[Any]], tx_id: int, epoch: int | None, return_errors: bool
    ) -> _List[Any]:
        await self._ready(epoch)
        sent = [(self._session.post_one(request, tx_id), request) for request in many]
        try:
            for exchange, _ in sent:
                await self._answered(exchange, None)
        except BaseException:
            for exchange, request in sent:
                self._session.abandon(exchange, request)
            raise
        return outcomes(sent, return_errors)

    async def _answered(self, exchange: Exchange, request: Request[Any] | None) -> None:
        """Until all its replies have come.  `request` is taken back if its task is cancelled meanwhile."""
        assert self._loop is not None
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)
        if not exchange.left:
            return
        answered = self._loop.create_future()
        exchange.notify = partial(_settle, answered)
        try:
            await answered
        except BaseException:
            exchange.notify = None
            if request is not None:
                self._session.abandon(exchange, request)
                self._flush()
            raise

    # -- the connection -------------------------------------------------------------------------------

    async def _ready(self, epoch: int | None = None) -> None:
        """There is a connection, the one with that number if one is given."""
        if self._transport is None:
            await self._connect(self._reconnect_s or 0.0)
        if epoch is not None and epoch != self._session.epoch:
            raise Disconnected.of(None, "the transaction's connection is gone")

    async def _connect(self, patience_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        deadline, pause = self._loop.time() + patience_s, RETRY_S
        while self._transport is None:
            if self._closed:
                raise Closed.of()
            if self._session.epoch and self._reconnect_s is None:
                raise Disconnected.of(None, "the connection was lost")
            try:
                self._begin(self._dial())
                return
            except BlockingIOError:
                pass
            except OSError as error:
                if self._loop.time() >= deadline:
                    raise Disconnected.of(None, f"no connection: {error}") from error
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._over.wait()
            pause = min(2 * pause, RETRY_MAX_S)

    async def _reconnect(self) -> None:
        with suppress(Closed):
            await self._connect(math.inf)

    def _begin(self, transport: Transport) -> None:
        assert self._loop is not None
        self._transport = transport
        self._waits_for_room = False
        self._loop.add_reader(transport.fileno(), self._readable)
        self._session.begin()
        self._flush()

    def _disconnect(self, error: XenStoreError) -> None:
        """The connection is over; who waits for a reply is told so."""
        transport, self._transport = self._transport, None
        if transport is not None and self._loop is not None:
            self._loop.remove_reader(transport.fileno())
            self._loop.remove_writer(transport.fileno())
            transport.close()
        self._session.end(error)

    def _lost(self, error: OSError) -> None:
        """It ended by itself."""
        assert self._loop is not None
        lost = error if isinstance(error, Disconnected) else Disconnected.of(None, f"connection lost: {error}")
        self._disconnect(lost)
        if self._reconnect_s is None:
            for monitor in [*self._monitors]:
                monitor.end(lost)
        elif self._session.watches:
            self._reconnecting = self._loop.create_task(self._reconnect())

    def _flush(self) -> None:
        self._flush_is_due = False
        transport = self._transport
        if transport is None or self._loop is None:
            return
        self._session.sweep(self._dropped)
        try:
            clear = self._session.flush(transport.put)
        except OSError as error:
            self._lost(error)
            return
        if clear == self._waits_for_room:
            self._waits_for_room = not clear
            if clear:
                self._loop.remove_writer(transport.fileno())
            else:
                self._loop.add_writer(transport.fileno(), self._flush)

    def _readable(self) -> None:
        transport = self._transport
        if transport is None:
            return
        try:
            self._session.pull(transport.take)
        except OSError as error:
            self._lost(error)
        else:
            if self._session.unsent:
                self._flush()

    # -- transactions ---------------------------------------------------------------------------------

    def transaction(self) -> AsyncTransaction:
        """`async with client.transaction() as tx:` begins one, and commits it at the end.  Conflict: somebody
        interfered."""
        return AsyncTransaction(self)

    async def transactions(self, attempts: int = 10) -> AsyncIterator[AsyncTransaction]:
        """`async for tx in client.transactions():` `async with tx:` ... is done again, at most so often, until nobody
        interferes.

        Conflict, from the last one: they always did.
        """
        for attempt in range(attempts):
            await asyncio.sleep(requests.pause_s(attempt))
            tx = AsyncTransaction(self, retry=attempt < attempts - 1)
            yield tx
            if not tx.conflict:
                return

    # -- watches --------------------------------------------------------------------------------------

    def monitor(self) -> AsyncMonitor:
        """Something that any number of watches tell their events to."""
        monitor = AsyncMonitor(self)
        self._monitors.add(monitor)
        return monitor

    def watch(
        self, path: Path, token: Any = None, *, depth: int | None = None, try_depth: int | None = None
    ) -> AsyncMonitor:
        """A monitor that sets this watch when it is first used: `async for event in client.watch(path)`, or `async
        with` and then `async for`.  See `AsyncMonitor.watch`."""
        monitor = self.monitor()
        monitor._due = path, token, depth, try_depth
        return monitor

    async def _watch(self, monitor: AsyncMonitor, path: bytes, token: Any, depth: int | None) -> None:
        await self._ready()
        watch = self._session.watch(monitor, path, token, depth)
        try:
            await self.call(requests.watch(path, watch.wire, depth))
        except BaseException:
            self._session.unwatch(watch)
            raise

    async def _unwatch(self, watches: Sequence[Watch]) -> None:
        try:
            await self.call_many([requests.unwatch(watch.path, watch.wire) for watch in watches])
        finally:
            for watch in watches:
                self._session.unwatch(watch)

    def _drop(self, watches: Iterable[Watch]) -> None:
        """Their monitor is no more.  From anywhere, a garbage collection in another thread included."""
        self._dropped.extend(watches)
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._flush)

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

    def __init__(self, client: AsyncClient, *, retry: bool = False) -> None:
        self._client: Final = client
        self._retry: Final = retry
        self._epoch = -1
        self.tx_id = 0
        """Its number on the wire; 0: it has not begun, or is over."""
        self.conflict = False
        """Whether its commit has failed because somebody interfered."""

    async def start(self) -> None:
        """Begin.  QuotaExceeded: too many are open."""
        self.tx_id = await self._client.call(requests.transaction_start())
        self._epoch = self._client._session.epoch

    async def commit(self) -> None:
        """Make all of it true.  Conflict: somebody interfered, nothing of it is."""
        await self._end(commit=True)

    async def rollback(self) -> None:
        """Forget all of it."""
        await self._end(commit=False)

    async def _end(self, *, commit: bool) -> None:
        tx_id, self.tx_id = self._id(), 0
        try:
            await self._client._call(requests.transaction_end(commit=commit), tx_id, self._epoch)
        except Conflict:
            self.conflict = True
            raise

    def _id(self) -> int:
        if not self.tx_id:
            raise NotFound.of(None, "the transaction is over, or has not begun")
        return self.tx_id

    async def call(self, request: Request[T]) -> T:
        return await self._client._call(request, self._id(), self._epoch)

    async def _send(self, op: int, payloads: Sequence[bytes]) -> Exchange:
        return await self._client._send(op, payloads, self._id(), self._epoch)

    async def call_many(self, many: Iterable[Request[Any]], *, return_errors: bool = False) -> _List[Any]:
        return await self._client._call_many(many, self._id(), self._epoch, return_errors)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.tx_id:
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


class AsyncMonitor(EventQueue):
    """Watches, and their events in the order in which they came; for any number of tasks.

    Iterating over it waits for events, and ends when it or the client is closed.  A monitor that nobody holds any more
    takes its watches with it, some time; `close` or `async with` does it at once.
    """

    def __init__(self, client: AsyncClient) -> None:
        super().__init__()
        self._client: Final = client
        self._stirred: Final = asyncio.Event()
        self._due: tuple[Path, Any, int | None, int | None] | None = None
        """The watch that is still to be set, of `AsyncClient.watch`."""

    async def watch(
        self, path: Path, token: Any = None, *, depth: int | None = None, try_depth: int | None = None
    ) -> None:
        """Be told of every change of `path` and of what is below it; the first event comes at once, without a change.

        `token` is anything hashable that events are to carry, or else the path.  `depth` limits how far below is looked
        (InvalidRequest: this daemon cannot; `try_depth` then watches without a limit).  Special paths are
        `@introduceDomain` and `@releaseDomain`.  AlreadyExists: this monitor has a watch with that path and token.
        """
        key = self.new_key(path, token)
        try:
            await self._client._watch(self, *key, depth if try_depth is None else try_depth)
        except InvalidRequest:
            if try_depth is None:
                raise
            await self._client._watch(self, *key, None)

    async def unwatch(self, path: Path, token: Any = None) -> None:
        """End a watch; events of it that wait are dropped.  NotFound: there is none such."""
        await self._client._unwatch([self.find(path, token)])

    async def _begin(self) -> None:
        if self._due is not None:
            (path, token, depth, try_depth), self._due = self._due, None
            await self.watch(path, token, depth=depth, try_depth=try_depth)

    async def read(self) -> Event:
        """The next event; waits for it."""
        await self._begin()
        while (event := self.check()) is None:
            self._stirred.clear()
            await self._stirred.wait()
        return event

    def check(self) -> Event | None:
        """The next event if there is one; does not wait."""
        return self.take()

    def wait(self) -> AsyncIterator[Event]:
        """All events; the same as iterating over the monitor itself."""
        return self

    async def close(self) -> None:
        """End all its watches, wake whoever waits for their events.  Idempotent."""
        watches = [*self._watches.values()]
        self._watches.clear()
        self.end(Closed.of())
        if watches:
            with suppress(Disconnected):
                await self._client._unwatch(watches)

    def _wake(self) -> None:
        self._stirred.set()

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
        if self._watches:
            self._client._drop(self._watches.values())


def _settle(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)
