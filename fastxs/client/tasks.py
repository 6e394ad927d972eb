"""One connection, used by the tasks of one loop.

Owns when bytes move, and how one waits for an event.  Requests of all tasks are gathered and sent once per turn of the
loop, replies are handed out as they come, in whatever order: so tasks that ask at the same time are pipelined without
knowing it.  A task that is cancelled while it waits leaves nothing behind: a watch or a transaction that it was about
to get is given back when the daemon has answered.

Refuses to know bytes (session), requests (requests), ways to the daemon (transports) and the users' names (aio).
"""

from __future__ import annotations

import asyncio
import math
import warnings
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from fastxs.client import requests
from fastxs.client.errors import Closed, Disconnected, XenStoreError
from fastxs.client.events import Event, EventQueue, Watch
from fastxs.client.requests import Request
from fastxs.client.session import NO_TX, Exchange, Session, Tx, outcomes
from fastxs.client.transports import RETRY_MAX_S, RETRY_S, Dial, Transport

__all__ = ["Events", "Link"]

T = TypeVar("T")


class Events(EventQueue):
    """A monitor's events, for tasks to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._stirred: Final = asyncio.Event()

    async def read(self) -> Event:
        """The next event."""
        while (event := self.take()) is None:
            self._stirred.clear()
            await self._stirred.wait()
        return event

    def wake(self) -> None:
        self._stirred.set()


class Link:
    """A connection that is made when it is first needed and, if `reconnect_s` is a number, when it was lost.

    Whatever asks the daemon raises XenStoreError: the daemon's word, or Disconnected, or Closed.
    """

    def __init__(self, dial: Dial, reconnect_s: float | None) -> None:
        self._dial: Final = dial
        self._reconnect_s: Final = reconnect_s
        self._session: Final = Session()
        self._queues: Final[weakref.WeakSet[EventQueue]] = weakref.WeakSet()
        self._dropped: Final[deque[Watch]] = deque()
        self._over: Disconnected | None = None
        """Why there is no connection, and will be none."""
        self._is_over: Final = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: Transport | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._flush_is_due = False
        self._waits_for_room = False

    # -- life -----------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect now; nothing if it is connected."""
        await self._ready()

    async def close(self) -> None:
        """Disconnect, wake whoever waits.  Idempotent."""
        self._end(Closed.of())
        if self._reconnecting is not None:
            await self._reconnecting

    def _end(self, error: Disconnected) -> None:
        self._over = error
        self._is_over.set()
        self._disconnect(error)
        for queue in [*self._queues]:
            queue.end(error)

    def __del__(self) -> None:
        if self._transport is not None:
            warnings.warn(f"{self._transport!r} was not closed", ResourceWarning, source=self, stacklevel=1)
            self._transport.close()

    # -- what it is for ---------------------------------------------------------------------------

    async def ask(self, request: Request[T], tx: Tx) -> T:
        """One request; its result."""
        await self._ready(tx)
        exchange = self._session.post_one(request, tx.tx_id)
        try:
            await self._answered(exchange)
        except BaseException:
            self._session.abandon(exchange, request)
            self._flush()
            raise
        return request.parse(exchange.result())

    async def send(self, op: int, payloads: Sequence[bytes], tx: Tx) -> Exchange:
        """Requests of one operation, all sent before the first reply is awaited.  Only Disconnected is raised."""
        await self._ready(tx)
        exchange = self._session.post(op, payloads, tx.tx_id)
        await self._answered(exchange)
        if isinstance(exchange.error, Disconnected):
            raise exchange.error
        return exchange

    async def ask_many(self, many: Iterable[Request[Any]], tx: Tx, return_errors: bool) -> list[Any]:
        """Any requests, all sent before the first reply is awaited; their results, errors among them if they may."""
        await self._ready(tx)
        sent = [(self._session.post_one(request, tx.tx_id), request) for request in [*many]]
        try:
            for exchange, _ in sent:
                await self._answered(exchange)
        except BaseException:
            for exchange, request in sent:
                self._session.abandon(exchange, request)
            raise
        return outcomes(sent, return_errors)

    async def start(self) -> Tx:
        """Begin a transaction, of the connection that there is now."""
        tx_id = await self.ask(requests.transaction_start(), NO_TX)
        return Tx(tx_id, self._session.epoch)

    def enlist(self, queue: EventQueue) -> None:
        """One more whom the connection's end is told."""
        self._queues.add(queue)
        if self._over is not None:
            queue.end(self._over)

    async def watch(self, queue: EventQueue, path: bytes, token: Any, depth: int | None) -> None:
        """Set a watch, which tells its events to that queue."""
        await self._ready()
        watch = self._session.watch(queue, path, token, depth)
        try:
            await self.ask(requests.watch(path, watch.wire, depth), NO_TX)
        except BaseException:
            self._session.unwatch(watch)
            raise

    async def unwatch(self, watches: Sequence[Watch]) -> None:
        """End these; whatever becomes of the request, their events lead nowhere from now on."""
        try:
            await self.ask_many([requests.unwatch(watch.path, watch.wire) for watch in watches], NO_TX, False)
        finally:
            for watch in watches:
                self._session.unwatch(watch)

    def drop(self, watches: Iterable[Watch]) -> None:
        """Their monitor is no more.  From anywhere, a garbage collection in another thread included."""
        self._dropped.extend(watches)
        if self._dropped and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._flush)

    # -- the connection -------------------------------------------------------------------------------

    async def _ready(self, tx: Tx = NO_TX) -> None:
        """There is a connection, and it is the transaction's."""
        if self._transport is None:
            await self._connect(self._reconnect_s or 0.0)
        if tx.epoch not in (None, self._session.epoch):
            raise Disconnected.of(None, "the transaction's connection is gone")

    async def _answered(self, exchange: Exchange) -> None:
        """Until all its replies have come."""
        assert self._loop is not None
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)
        if exchange.left:
            answered = self._loop.create_future()
            exchange.notify = partial(_settle, answered)
            await answered

    async def _connect(self, patience_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        deadline, pause = self._loop.time() + patience_s, RETRY_S
        while self._transport is None:
            if self._over is not None:
                raise self._over.with_traceback(None)
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
                    await self._is_over.wait()
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
        if self._reconnect_s is None:
            self._end(lost)
            return
        self._disconnect(lost)
        if self._session.watches:
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


def _settle(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)
