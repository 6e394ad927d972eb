"""One connection, used by threads.

Owns who may use it when, and how one waits for it, or for an event.  A request's own thread sends it and reads until
its reply is there, under one lock, so a plain read costs two system calls and one wait.  Once there is a watch, a
thread of the link's own, the reader, reads whatever comes while nobody asks; a request takes the reading over from it
and gives it back.

Whoever waits for an event waits on a lock of his own and holds nothing: to interrupt or to kill him (even by
pthread_cancel) disturbs nobody, and `close` from any thread wakes everybody.

Refuses to know bytes (session), requests (requests), ways to the daemon (transports) and the users' names (sync).
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
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
    """A monitor's events, for threads to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._gates: Final[deque[threading.Lock]] = deque()
        """The locks of those who wait."""
        self._fd = -1
        """An eventfd that says so, too, once somebody has asked for one."""

    def read(self, timeout_s: float | None) -> Event:
        """The next event.  TimeoutError: there was none for so long; None: for ever."""
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while (event := self.check()) is None:
            gate = threading.Lock()
            gate.acquire()
            self._gates.append(gate)
            try:
                left = -1 if timeout_s is None else max(0.0, deadline - time.monotonic())
                # Empty, still: who put something in since the check has perhaps not seen the gate.
                if self.is_empty and not gate.acquire(timeout=left):
                    raise TimeoutError(f"no event within {timeout_s:g} s")
            finally:
                with suppress(ValueError):
                    self._gates.remove(gate)
        return event

    def check(self) -> Event | None:
        """The next event; None: there is none now."""
        event = self.take()
        if event is None and self._fd >= 0:
            with suppress(BlockingIOError):
                os.eventfd_read(self._fd)
            event = self.take()
        return event

    def fileno(self) -> int:
        """A descriptor that polls readable until `check` has said None."""
        if self._fd < 0:
            self._fd = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return self._fd

    def wake(self) -> None:
        for _ in range(len(self._gates)):
            with suppress(IndexError):
                self._gates.popleft().release()
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def __del__(self) -> None:
        # Not before: the reader may be just about to write to it.
        if self._fd >= 0:
            os.close(self._fd)


class Link:
    """A connection that is made when it is first needed and, if `reconnect_s` is a number, when it was lost.

    Whatever asks the daemon raises XenStoreError: the daemon's word, or Disconnected, or Closed.
    """

    def __init__(self, dial: Dial, reconnect_s: float | None) -> None:
        self._dial: Final = dial
        self._reconnect_s: Final = reconnect_s
        self._dropped: Final[deque[Watch]] = deque()
        self._pid: Final = os.getpid()
        self._closing: Final = threading.Lock()
        self._over: Disconnected | None = None
        """Why there is no connection, and will be none."""
        self._waking: Final = threading.RLock()
        self._wake = -1
        """An eventfd: whoever waits for the connection looks around.  Used under `_waking`, closed by the last user."""
        # All below is of the one who holds the lock.
        self._lock: Final = threading.RLock()
        self._asking: Final = threading.Lock()
        """Held while bytes move: then whoever gets `_lock` has only interrupted himself."""
        self._session: Final = Session()
        self._queues: Final[weakref.WeakSet[EventQueue]] = weakref.WeakSet()
        self._transport: Transport | None = None
        self._poll = select.poll()
        self._epoll: select.epoll | None = None
        """Where the reader sleeps, if there is one; a request takes the connection out of it while it reads itself."""
        self._reader: threading.Thread | None = None

    # -- life -----------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect now; nothing if it is connected."""
        with self._lock:
            self._ready()

    def close(self) -> None:
        """Disconnect, wake whoever waits.  From any thread, a signal handler included; idempotent."""
        if not self._closing.acquire(blocking=False):
            return
        self._over = Closed.of()
        if os.getpid() != self._pid:  # a fork's copy: it has no reader, and must not poke the parent's
            self._epoll = None
            self._end(self._over)
            return
        self._poke()
        with self._lock:
            self._end(self._over)
            nested = self._asking.locked()
        reader = self._reader
        # Not for ever: a signal handler may stand on the very frame that has the lock, and the reader waits for that.
        if reader is not None and reader is not threading.current_thread() and not nested:
            reader.join(1)

    def _end(self, error: Disconnected) -> None:
        self._over = error
        self._disconnect(error)
        for queue in [*self._queues]:
            queue.end(error)
        if self._epoll is None:  # else it has still to be woken, and does this at its end
            self._forget_wake()

    def _forget_wake(self) -> None:
        with self._waking:
            wake, self._wake = self._wake, -1
            if wake >= 0:
                os.close(wake)

    def __del__(self) -> None:
        if self._transport is not None:
            warnings.warn(f"{self._transport!r} was not closed", ResourceWarning, source=self, stacklevel=1)
            self.close()

    # -- what it is for ---------------------------------------------------------------------------

    def ask(self, request: Request[T], tx: Tx) -> T:
        """One request; its result."""
        with self._lock:
            self._ready(tx)
            exchange = self._session.post_one(request, tx.tx_id)
            self._pump([(exchange, request)])
        return request.parse(exchange.result())

    def send(self, op: int, payloads: Sequence[bytes], tx: Tx) -> Exchange:
        """Requests of one operation, all sent before the first reply is read.  Only Disconnected is raised."""
        with self._lock:
            self._ready(tx)
            exchange = self._session.post(op, payloads, tx.tx_id)
            self._pump([(exchange, None)])
        if isinstance(exchange.error, Disconnected):
            raise exchange.error
        return exchange

    def ask_many(self, many: Iterable[Request[Any]], tx: Tx, return_errors: bool) -> list[Any]:
        """Any requests, all sent before the first reply is read; their results, errors among them if they may."""
        with self._lock:
            self._ready(tx)
            sent = [(self._session.post_one(request, tx.tx_id), request) for request in [*many]]
            self._pump(sent)
        return outcomes(sent, return_errors)

    def start(self) -> Tx:
        """Begin a transaction, of the connection that there is now."""
        with self._lock:
            tx_id = self.ask(requests.transaction_start(), NO_TX)
            return Tx(tx_id, self._session.epoch)

    def enlist(self, queue: EventQueue) -> None:
        """One more whom the connection's end is told."""
        with self._lock:
            self._queues.add(queue)
            if self._over is not None:
                queue.end(self._over)

    def watch(self, queue: EventQueue, path: bytes, token: Any, depth: int | None) -> None:
        """Set a watch, which tells its events to that queue."""
        with self._lock:
            self._ready()
            self._start_reader()
            watch = self._session.watch(queue, path, token, depth)
            try:
                self.ask(requests.watch(path, watch.wire, depth), NO_TX)
            except BaseException:
                self._session.unwatch(watch)
                raise

    def unwatch(self, watches: Sequence[Watch]) -> None:
        """End these; whatever becomes of the request, their events lead nowhere from now on."""
        with self._lock:
            try:
                self.ask_many([requests.unwatch(watch.path, watch.wire) for watch in watches], NO_TX, False)
            finally:
                for watch in watches:
                    self._session.unwatch(watch)

    def drop(self, watches: Iterable[Watch]) -> None:
        """Their monitor is no more.  From anywhere, a garbage collection in the middle of a request included."""
        self._dropped.extend(watches)
        if self._dropped:
            self._poke()

    # -- the connection (all with the lock) -----------------------------------------------------------

    def _ready(self, tx: Tx = NO_TX) -> None:
        """There is a connection, and it is the transaction's."""
        if self._over is not None:
            raise self._over.with_traceback(None)
        if self._asking.locked():
            raise RuntimeError("a signal handler asks over the connection that it has interrupted")
        if self._transport is None:
            self._connect()
        if tx.epoch not in (None, self._session.epoch):
            raise Disconnected.of(None, "the transaction's connection is gone")
        self._session.sweep(self._dropped)

    def _connect(self) -> None:
        deadline, pause = time.monotonic() + (self._reconnect_s or 0.0), RETRY_S
        if self._wake < 0:
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        poked = select.poll()
        poked.register(self._wake, select.POLLIN)
        try:
            with self._asking:
                while not self._try_to_connect(deadline):
                    poked.poll(1000 * pause)
                    self._heed()
                    pause = min(2 * pause, RETRY_MAX_S)
        except BaseException:
            if self._epoll is None:
                self._forget_wake()
            raise

    def _try_to_connect(self, deadline: float) -> bool:
        try:
            transport = self._dial()
        except BlockingIOError:
            return False
        except OSError as error:
            if time.monotonic() < deadline:
                return False
            raise Disconnected.of(None, f"no connection: {error}") from error
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._poll.register(transport.fileno(), select.POLLIN)
        if self._epoll is not None:
            self._epoll.register(transport.fileno(), select.EPOLLIN)
        self._session.begin()
        self._transport = transport
        return True

    def _disconnect(self, error: XenStoreError) -> None:
        """The connection is over; who waits for a reply is told so."""
        transport, self._transport = self._transport, None
        if transport is not None:
            if self._epoll is not None:
                self._epoll.unregister(transport.fileno())
            transport.close()
        self._session.end(error)

    def _lost(self, error: OSError) -> None:
        """It ended by itself."""
        lost = error if isinstance(error, Disconnected) else Disconnected.of(None, f"connection lost: {error}")
        if self._reconnect_s is None:
            self._poke()
            self._end(lost)
        else:
            self._disconnect(lost)
            self._poke()

    def _pump(self, sent: Sequence[tuple[Exchange, Request[Any] | None]]) -> None:
        """Send and receive until all of these are answered, be it by Disconnected."""
        transport, session, epoll = self._transport, self._session, self._epoll
        assert transport is not None
        fd = transport.fileno()
        with self._asking:
            try:
                if epoll is not None:
                    epoll.modify(fd, 0)
                clear = session.flush(transport.put)
                for exchange, _ in sent:
                    while exchange.left:
                        self._wait(fd, clear)
                        session.pull(transport.take)
                        clear = session.flush(transport.put)
            except OSError as error:
                if self._over is not None:
                    raise self._over.with_traceback(None) from None
                self._lost(error)
            except BaseException:
                for exchange, request in sent:
                    if request is not None:
                        session.abandon(exchange, request)
                raise
            finally:
                # One call in C before anything else: an interrupt cannot leave the reader deaf.
                if epoll is not None and self._transport is transport:
                    epoll.modify(fd, select.EPOLLIN)
                    self._listen()

    def _wait(self, fd: int, clear: bool) -> None:
        """Until there is something to take, or room for what is not sent (`clear`: all is)."""
        self._poll.modify(fd, select.POLLIN if clear else select.POLLIN | select.POLLOUT)
        ready = self._poll.poll()
        if self._over is not None or len(ready) > 1 or ready[0][0] != fd:
            self._heed()

    def _heed(self) -> None:
        """Somebody has poked us: `close`, or a monitor that is no more."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        # In this order: a poke that is taken here may be that of a `close` which has only just begun.
        if self._over is not None:
            self._poke()
            raise self._over.with_traceback(None)
        self._session.sweep(self._dropped)

    def _poke(self) -> None:
        """Whoever waits, the reader too, looks around.  Needs no lock."""
        with self._waking:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    # -- the reader -----------------------------------------------------------------------------------

    def _listen(self) -> None:
        """The reader reads from now on, if there is one, and sends what is left to be sent."""
        if self._epoll is not None and self._transport is not None:
            events = select.EPOLLIN | select.EPOLLOUT if self._session.unsent else select.EPOLLIN
            self._epoll.modify(self._transport.fileno(), events)

    def _start_reader(self) -> None:
        if self._epoll is None:
            assert self._transport is not None
            epoll = select.epoll()
            epoll.register(self._wake, select.EPOLLIN)
            epoll.register(self._transport.fileno(), select.EPOLLIN)
            reader = threading.Thread(target=self._read, args=[epoll], name="fastxs events", daemon=True)
            reader.start()
            self._epoll, self._reader = epoll, reader

    def _read(self, epoll: select.epoll) -> None:
        """The reader's life: whatever comes while nobody asks."""
        pause: float | None = None
        while True:
            epoll.poll(pause)
            with self._lock:
                if self._over is not None:
                    self._epoll = None
                    epoll.close()
                    self._forget_wake()
                    return
                pause = self._tend(pause)

    def _tend(self, pause: float | None) -> float | None:
        """One turn of it; after how many seconds there must be another."""
        later = min(2 * (pause or RETRY_S), RETRY_MAX_S)
        try:
            self._heed()
            if self._transport is None and not self._try_to_connect(math.inf):
                return later
            assert self._transport is not None
            self._session.pull(self._transport.take)
            self._session.flush(self._transport.put)
        except OSError as error:
            if self._over is None:
                self._lost(error)
        self._listen()
        return None
