"""The client for threads.

Owns who may use the connection when, and how one waits for it.  A request's own thread sends it and reads until its
reply is there, under one lock, so a plain read costs two system calls and one wait.  Once there is a watch, a thread of
the client's own reads whatever comes while nobody asks; a request takes the reading over from it and gives it back.

Whoever waits for an event waits on a lock of his own and holds nothing: to interrupt or to kill him (even by
pthread_cancel) disturbs nobody, and `close` from any thread wakes everybody.  Refuses to know bytes (session), requests
(requests) and ways to the daemon (transports).
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
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

__all__ = ["Client", "Monitor", "Transaction"]

T = TypeVar("T")
D = TypeVar("D")
_List: TypeAlias = list[T]
"""In a class whose method is called `list`."""


class _Nodes:
    """What can be done with nodes, in a transaction or outside of one."""

    def call(self, request: Request[T]) -> T:
        """Any request: send it, wait for its reply.  XenStoreError: the daemon refused."""
        raise NotImplementedError

    def _send(self, op: int, payloads: Sequence[bytes]) -> Exchange:
        """Requests of one operation, all sent before the first reply is awaited."""
        raise NotImplementedError

    def call_many(self, many: Iterable[Request[Any]], *, return_errors: bool = False) -> _List[Any]:
        """Any requests, all sent before the first reply is awaited; their results in order.

        The first error is raised after all are answered; `return_errors` puts errors in the results' places instead.
        """
        raise NotImplementedError

    def _run(self, steps: Steps[T]) -> T:
        try:
            request = next(steps)
            while True:
                try:
                    reply = self.call(request)
                except XenStoreError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    @overload
    def read(self, path: Path) -> bytes: ...
    @overload
    def read(self, path: Path, default: D) -> bytes | D: ...
    def read(self, path: Path, default: Any = RAISE) -> Any:
        """A node's value.  NotFound: no such node, unless there is a `default`."""
        try:
            return self.call(requests.read(path))
        except NotFound:
            if default is RAISE:
                raise
            return default

    @overload
    def read_many(self, paths: Iterable[Path]) -> _List[bytes]: ...
    @overload
    def read_many(self, paths: Iterable[Path], default: D) -> _List[bytes | D]: ...
    def read_many(self, paths: Iterable[Path], default: Any = RAISE) -> _List[Any]:
        """The values of many nodes, in order, asked for all at once.  NotFound: as `read`."""
        return self._send(Op.READ, requests.paths(paths)).results(default)

    def write(self, path: Path, value: bytes) -> None:
        """Set a node's value, any bytes; the node and its parents are made if they are missing."""
        self.call(requests.write(path, value))

    def write_many(self, values: Mapping[Path, bytes] | Iterable[tuple[Path, bytes]]) -> None:
        """`write` of each, in order, asked for all at once.  The first error is raised after all were tried."""
        self._send(Op.WRITE, requests.writes(values)).results()

    def mkdir(self, path: Path) -> None:
        """Make a node with an empty value, and its parents; nothing if it is there."""
        self.call(requests.mkdir(path))

    def delete(self, path: Path) -> None:
        """Remove a node and all below it; nothing if it is missing.  NotFound: its parent is missing."""
        self.call(requests.delete(path))

    def list(self, path: Path) -> _List[bytes]:
        """The names of a node's children, however many.  NotFound: no such node."""
        return self._run(requests.list_(path))

    def exists(self, path: Path) -> bool:
        """Whether there is such a node."""
        return self.read(path, None) is not None

    def get_perms(self, path: Path) -> _List[bytes]:
        """Its permissions: the owner and everybody else, then one entry per domain; see `Perm`."""
        return self.call(requests.get_perms(path))

    def set_perms(self, path: Path, perms: Iterable[bytes | str | Perm]) -> None:
        """Replace its permissions.  InvalidRequest: an entry that is none; NotFound: no such node or owner."""
        self.call(requests.set_perms(path, perms))

    def walk(self, top: Path, topdown: bool = True) -> Iterator[Node]:
        """(path, value, names of the children) of `top` and of everything below it, parents first or last.

        What vanishes meanwhile is left out; what must not be read is empty.  NotFound: there is no `top`.
        """
        if topdown:
            yield from self._walk(requests.word(top), -1)
        else:
            yield from reversed([*self._walk(requests.word(top), 1)])

    def _walk(self, top: bytes, order: int) -> Iterator[Node]:
        stack = self._look([top])
        if not stack:
            raise NotFound.of(top)
        while stack:
            path, _, names = node = stack.pop()
            yield node
            stack += self._look([requests.below(path, name) for name in names])[::order]

    def _look(self, many: Sequence[bytes]) -> _List[Node]:
        payloads = requests.paths(many)
        values, lists = self._send(Op.READ, payloads), self._send(Op.DIRECTORY, payloads)
        found = []
        for node in requests.seen(many, values.replies, lists.replies):
            if isinstance(node, bytes):
                with suppress(NotFound):
                    node = node, self.read(node), self.list(node)
            if not isinstance(node, bytes):
                found.append(node)
        return found

    def __getitem__(self, path: Path) -> bytes:
        return self.read(path)

    def __setitem__(self, path: Path, value: bytes) -> None:
        self.write(path, value)

    def __delitem__(self, path: Path) -> None:
        self.delete(path)

    def __contains__(self, path: Path) -> bool:
        return self.exists(path)


class Client(_Nodes):
    """A connection to the daemon, for any number of threads.

    Where it leads: `unix_socket_path`, or `xen_bus_path` (the kernel's device inside a guest), or what `transport`
    opens; without any, the daemon's socket or else the device, as in libxenstore.  It connects when it is first used,
    or by `connect` or as a context manager; one that was used must be closed.

    `reconnect_s` None: when the connection is lost, that is the end.  A number: it is made again, in the background
    while there are watches (they are set again, and their monitors get `Reconnected`), else by the next request, which
    waits for that long at most.  Requests that were under way, and transactions, fail with Disconnected in any case.

    Every method that asks the daemon raises XenStoreError, and Disconnected where there is none (Closed after `close`).
    It is not for a signal handler, but `close` is: what the handler interrupted is the connection's present user.
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
        self._monitors: Final[weakref.WeakSet[Monitor]] = weakref.WeakSet()
        self._dropped: Final[deque[Watch]] = deque()
        self._pid: Final = os.getpid()
        self._closing: Final = threading.Lock()
        self._closed = False
        self._waking: Final = threading.RLock()
        self._wake = -1
        # All below is of the one who holds the lock.
        self._lock: Final = threading.RLock()
        self._busy = False
        self._transport: Transport | None = None
        self._poll: Final = select.poll()
        self._polled = 0
        self._epoll: select.epoll | None = None
        self._reader: threading.Thread | None = None

    # -- life -----------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect now; nothing if it is connected.  Disconnected: that failed, and `__cause__` is the OSError."""
        with self._lock:
            self._ready()

    def close(self) -> None:
        """Disconnect: the daemon forgets watches and transactions, whoever waits in any thread gets Closed.

        From any thread, a signal handler included; idempotent.
        """
        if not self._closing.acquire(blocking=False):
            return
        self._closed = True
        if os.getpid() != self._pid:  # a fork's copy: it has no reader, and must not poke the parent's
            self._epoll, self._reader = None, None
            self._free(Closed.of())
            return
        self._poke()
        with self._lock:
            self._free(Closed.of())
            nested = self._busy
        reader = self._reader
        # Not for ever: a signal handler may stand on the very frame that has the lock, and the reader waits for that.
        if reader is not None and reader is not threading.current_thread() and not nested:
            reader.join(1)

    def _free(self, error: XenStoreError) -> None:
        self._disconnect(error)
        for monitor in [*self._monitors]:
            monitor.end(error)
        if self._reader is None:  # else it has still to be woken, and does this at its end
            self._forget_wake()

    def _forget_wake(self) -> None:
        with self._waking:
            wake, self._wake = self._wake, -1
            if wake >= 0:
                os.close(wake)

    def __enter__(self) -> Self:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed and self._transport is not None:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=1)
            self.close()

    # -- requests ---------------------------------------------------------------------------------

    def call(self, request: Request[T], tx_id: int = 0) -> T:
        return self._call(request, tx_id, None)

    def _call(self, request: Request[T], tx_id: int, epoch: int | None) -> T:
        with self._lock:
            self._ready(epoch)
            exchange = self._session.post_one(request, tx_id)
            self._pump([(exchange, request)])
        return request.parse(exchange.result())

    def _send(self, op: int, payloads: Sequence[bytes], tx_id: int = 0, epoch: int | None = None) -> Exchange:
        with self._lock:
            self._ready(epoch)
            exchange = self._session.post(op, payloads, tx_id)
            self._pump([(exchange, None)])
        if isinstance(exchange.error, Disconnected):
            raise exchange.error
        return exchange

    def call_many(self, many: Iterable[Request[Any]], *, return_errors: bool = False) -> _List[Any]:
        return self._call_many(many, 0, None, return_errors)

    def _call_many(
        self, many: Iterable[Request[Any]], tx_id: int, epoch: int | None, return_errors: bool
    ) -> _List[Any]:
        with self._lock:
            self._ready(epoch)
            sent = [(self._session.post_one(request, tx_id), request) for request in many]
            self._pump(sent)
        return outcomes(sent, return_errors)

    # -- the connection (all with the lock) -----------------------------------------------------------

    def _ready(self, epoch: int | None = None) -> None:
        """There is a connection, the one with that number if one is given."""
        if self._closed:
            raise Closed.of()
        if self._busy:
            raise RuntimeError("a signal handler asks the client that it has interrupted")
        if epoch is not None and epoch != self._session.epoch:
            raise Disconnected.of(None, "the transaction's connection is gone")
        if self._transport is None:
            if self._session.epoch and self._reconnect_s is None:
                raise Disconnected.of(None, "the connection was lost")
            self._connect()
        self._session.sweep(self._dropped)

    def _connect(self) -> None:
        deadline, pause = time.monotonic() + (self._reconnect_s or 0.0), RETRY_S
        if self._wake < 0:
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._poll.register(self._wake, select.POLLIN)
        self._busy = True
        try:
            while not self._try_to_connect(deadline):
                if self._poll.poll(1000 * pause):
                    self._heed()
                pause = min(2 * pause, RETRY_MAX_S)
        finally:
            self._busy = False

    def _try_to_connect(self, deadline: float) -> bool:
        try:
            transport = self._dial()
        except BlockingIOError:
            return False
        except OSError as error:
            if time.monotonic() < deadline:
                return False
            raise Disconnected.of(None, f"no connection: {error}") from error
        self._transport = transport
        self._polled = select.POLLIN
        self._poll.register(transport.fileno(), self._polled)
        if self._epoll is not None:
            self._epoll.register(transport.fileno(), 0)
        self._session.begin()
        return True

    def _disconnect(self, error: XenStoreError) -> None:
        """The connection is over; who waits for a reply is told so."""
        transport, self._transport = self._transport, None
        if transport is not None:
            self._poll.unregister(transport.fileno())
            if self._epoll is not None:
                self._epoll.unregister(transport.fileno())
            transport.close()
        self._session.end(error)

    def _lost(self, error: OSError) -> None:
        """It ended by itself."""
        lost = error if isinstance(error, Disconnected) else Disconnected.of(None, f"connection lost: {error}")
        self._disconnect(lost)
        if self._reconnect_s is None:
            for monitor in [*self._monitors]:
                monitor.end(lost)
        self._poke()

    def _pump(self, sent: Sequence[tuple[Exchange, Request[Any] | None]]) -> None:
        """Send and receive until all of these are answered, be it by Disconnected."""
        transport, session = self._transport, self._session
        assert transport is not None
        self._busy = True
        if self._epoll is not None:
            self._epoll.modify(transport.fileno(), 0)
        try:
            clear = session.flush(transport.put)
            for exchange, _ in sent:
                while exchange.left:
                    self._wait(clear)
                    session.pull(transport.take)
                    clear = session.flush(transport.put)
        except Closed:
            raise
        except OSError as error:
            self._lost(error)
        except BaseException:
            for exchange, request in sent:
                if request is not None:
                    session.abandon(exchange, request)
            raise
        finally:
            self._busy = False
            self._listen()

    def _wait(self, clear: bool) -> None:
        """Until there is something to take, or room for what is not sent (`clear`: all is)."""
        assert self._transport is not None
        events = select.POLLIN if clear else select.POLLIN | select.POLLOUT
        if events != self._polled:
            self._polled = events
            self._poll.modify(self._transport.fileno(), events)
        ready = self._poll.poll()
        if self._closed or len(ready) > 1 or ready[0][0] == self._wake:
            self._heed()

    def _heed(self) -> None:
        """Somebody has poked us: `close`, or a monitor that is no more."""
        if self._closed:
            raise Closed.of()
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        self._session.sweep(self._dropped)

    def _poke(self) -> None:
        """Whoever waits, the reader too, looks around.  Needs no lock."""
        with self._waking:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    # -- the reader -----------------------------------------------------------------------------------

    def _listen(self) -> None:
        """The reader reads from now on, if there is one."""
        if self._epoll is not None and self._transport is not None:
            events = select.EPOLLIN | select.EPOLLOUT if self._session.unsent else select.EPOLLIN
            self._epoll.modify(self._transport.fileno(), events)

    def _start_reader(self) -> None:
        if self._reader is None:
            assert self._transport is not None
            self._epoll = select.epoll()
            self._epoll.register(self._wake, select.EPOLLIN)
            self._epoll.register(self._transport.fileno(), 0)
            self._reader = threading.Thread(target=self._read, name="fastxs events", daemon=True)
            self._reader.start()

    def _read(self) -> None:
        """The reader's life: whatever comes while nobody asks."""
        epoll = self._epoll
        assert epoll is not None
        pause: float | None = None
        while True:
            epoll.poll(pause)
            with self._lock:
                if self._closed or (self._transport is None and self._reconnect_s is None):
                    self._epoll, self._reader = None, None
                    epoll.close()
                    if self._closed:
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
        except Closed:
            return None
        except OSError as error:
            self._lost(error)
        self._listen()
        return None

    # -- transactions ---------------------------------------------------------------------------------

    def transaction(self) -> Transaction:
        """`with client.transaction() as tx:` begins one, and commits it at the end.  Conflict: somebody interfered."""
        return Transaction(self)

    def transactions(self, attempts: int = 10) -> Iterator[Transaction]:
        """`for tx in client.transactions():` `with tx:` ... is done again, at most so often, until nobody interferes.

        Conflict, from the last one: they always did.
        """
        for attempt in range(attempts):
            time.sleep(requests.pause_s(attempt))
            tx = Transaction(self, retry=attempt < attempts - 1)
            yield tx
            if not tx.conflict:
                return

    # -- watches --------------------------------------------------------------------------------------

    def monitor(self) -> Monitor:
        """Something that any number of watches tell their events to."""
        monitor = Monitor(self)
        self._monitors.add(monitor)
        return monitor

    def watch(
        self, path: Path, token: Any = None, *, depth: int | None = None, try_depth: int | None = None
    ) -> Monitor:
        """A monitor with this watch: `for event in client.watch(path)`, or `with` and then `for`; see Monitor.watch."""
        monitor = self.monitor()
        monitor.watch(path, token, depth=depth, try_depth=try_depth)
        return monitor

    def _watch(self, monitor: Monitor, path: bytes, token: Any, depth: int | None) -> None:
        with self._lock:
            self._ready()
            self._start_reader()
            watch = self._session.watch(monitor, path, token, depth)
            try:
                self.call(requests.watch(path, watch.wire, depth))
            except BaseException:
                self._session.unwatch(watch)
                raise

    def _unwatch(self, watches: Sequence[Watch]) -> None:
        with self._lock:
            try:
                self.call_many([requests.unwatch(watch.path, watch.wire) for watch in watches])
            finally:
                for watch in watches:
                    self._session.unwatch(watch)

    def _drop(self, watches: Iterable[Watch]) -> None:
        """Their monitor is no more.  From anywhere, a garbage collection in the middle of a request included."""
        self._dropped.extend(watches)
        self._poke()

    # -- domains and the daemon -----------------------------------------------------------------------

    def get_domain_path(self, domid: int) -> bytes:
        """`/local/domain/<domid>`, whether there is such a domain or not."""
        return self.call(requests.get_domain_path(domid))

    def is_domain_introduced(self, domid: int) -> bool:
        """Whether the daemon serves the domain's ring."""
        return self.call(requests.is_domain_introduced(domid))

    def introduce_domain(self, domid: int, gfn: int, port: int) -> None:
        """Let the daemon serve the domain's ring: its page's frame (today's daemons ignore it), its event channel."""
        self.call(requests.introduce_domain(domid, gfn, port))

    def release_domain(self, domid: int) -> None:
        """Let it do so no more, and remove what the domain owns."""
        self.call(requests.release_domain(domid))

    def resume_domain(self, domid: int) -> None:
        """The domain's next shutdown is to be told again."""
        self.call(requests.resume_domain(domid))

    def set_target(self, domid: int, target: int) -> None:
        """`domid` may do whatever `target` may: a device model and its guest."""
        self.call(requests.set_target(domid, target))

    def suspend_evtchn_port(self, domid: int) -> int:
        """The event channel by which a guest is asked to suspend.  NotFound: it has none."""
        return self.call(requests.suspend_evtchn_port(domid))

    def control(self, *command: Path) -> bytes:
        """A command of `xenstore-control`; what it prints.  InvalidRequest: the daemon knows none such."""
        return self.call(requests.control(*command))

    def get_features(self, domid: int | None = None) -> int:
        """Feature bits that the daemon supports, or offers to a domain (SPEC 2.1).  NotSupported: before Xen 4.21."""
        return self.call(requests.get_features(domid))

    def set_features(self, domid: int, features: int) -> None:
        """Offer only these to a domain that is not introduced yet (Busy: it is)."""
        self.call(requests.set_features(domid, features))

    def get_quota_names(self) -> _List[bytes]:
        """The quotas that there are.  NotSupported: before Xen 4.22."""
        return self.call(requests.get_quota_names())

    def get_quota(self, name: Path, domid: int | None = None) -> int:
        """A quota of one domain, or of domains to come.  0: unlimited."""
        return self.call(requests.get_quota(name, domid))

    def set_quota(self, name: Path, value: int, domid: int | None = None) -> None:
        """Set it."""
        self.call(requests.set_quota(name, value, domid))


class Transaction(_Nodes):
    """Requests that happen all together or not at all; `with` begins it and ends it, with a rollback if its body fails.

    Reads see the store as it was when it began, and its own writes; nobody else sees these before the commit.
    """

    def __init__(self, client: Client, *, retry: bool = False) -> None:
        self._client: Final = client
        self._retry: Final = retry
        self._epoch = -1
        self.tx_id = 0
        """Its number on the wire; 0: it has not begun, or is over."""
        self.conflict = False
        """Whether its commit has failed because somebody interfered."""

    def start(self) -> None:
        """Begin.  QuotaExceeded: too many are open."""
        with self._client._lock:
            self.tx_id = self._client.call(requests.transaction_start())
            self._epoch = self._client._session.epoch

    def commit(self) -> None:
        """Make all of it true.  Conflict: somebody interfered, nothing of it is."""
        self._end(commit=True)

    def rollback(self) -> None:
        """Forget all of it."""
        self._end(commit=False)

    def _end(self, *, commit: bool) -> None:
        tx_id, self.tx_id = self._id(), 0
        try:
            self._client._call(requests.transaction_end(commit=commit), tx_id, self._epoch)
        except Conflict:
            self.conflict = True
            raise

    def _id(self) -> int:
        if not self.tx_id:
            raise NotFound.of(None, "the transaction is over, or has not begun")
        return self.tx_id

    def call(self, request: Request[T]) -> T:
        return self._client._call(request, self._id(), self._epoch)

    def _send(self, op: int, payloads: Sequence[bytes]) -> Exchange:
        return self._client._send(op, payloads, self._id(), self._epoch)

    def call_many(self, many: Iterable[Request[Any]], *, return_errors: bool = False) -> _List[Any]:
        return self._client._call_many(many, self._id(), self._epoch, return_errors)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.tx_id:
            return
        if kind is not None:
            with suppress(XenStoreError):
                self.rollback()
            return
        try:
            self.commit()
        except Conflict:
            if not self._retry:
                raise


class Monitor(EventQueue):
    """Watches, and their events in the order in which they came; for any number of threads.

    Iterating over it waits for events, and ends when it or the client is closed.  A monitor that nobody holds any more
    takes its watches with it, some time; `close` or `with` does it at once.
    """

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client: Final = client
        self._gates: Final[deque[threading.Lock]] = deque()
        self._fd = -1

    def watch(self, path: Path, token: Any = None, *, depth: int | None = None, try_depth: int | None = None) -> None:
        """Be told of every change of `path` and of what is below it; the first event comes at once, without a change.

        `token` is anything hashable that events are to carry, or else the path.  `depth` limits how far below is looked
        (InvalidRequest: this daemon cannot; `try_depth` then watches without a limit).  Special paths are
        `@introduceDomain` and `@releaseDomain`.  AlreadyExists: this monitor has a watch with that path and token.
        """
        key = self.new_key(path, token)
        try:
            self._client._watch(self, *key, depth if try_depth is None else try_depth)
        except InvalidRequest:
            if try_depth is None:
                raise
            self._client._watch(self, *key, None)

    def unwatch(self, path: Path, token: Any = None) -> None:
        """End a watch; events of it that wait are dropped.  NotFound: there is none such."""
        self._client._unwatch([self.find(path, token)])

    def read(self, timeout_s: float | None = None) -> Event:
        """The next event; waits for it.  TimeoutError: for so long there was none."""
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while (event := self.check()) is None:
            gate = threading.Lock()
            gate.acquire()
            self._gates.append(gate)
            try:
                # What came since the check has perhaps not seen the gate.
                waits = not self._items and self._over is None
                left = -1 if timeout_s is None else max(0.0, deadline - time.monotonic())
                if waits and not gate.acquire(timeout=left):
                    raise TimeoutError(f"no event within {timeout_s:g} s")
            finally:
                with suppress(ValueError):
                    self._gates.remove(gate)
        return event

    def check(self) -> Event | None:
        """The next event if there is one; does not wait."""
        event = self.take()
        if event is None and self._fd >= 0:
            with suppress(BlockingIOError):
                os.eventfd_read(self._fd)
            event = self.take()
        return event

    def fileno(self) -> int:
        """A descriptor that polls readable while there are events: `check` until it says None.  `close` closes it."""
        if self._fd < 0:
            self._fd = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return self._fd

    def wait(self) -> Iterator[Event]:
        """All events; the same as iterating over the monitor itself."""
        return self

    def close(self) -> None:
        """End all its watches, wake whoever waits for their events.  Idempotent."""
        watches = [*self._watches.values()]
        self._watches.clear()
        self.end(Closed.of())
        if watches:
            with suppress(Disconnected):
                self._client._unwatch(watches)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _wake(self) -> None:
        for _ in range(len(self._gates)):
            with suppress(IndexError):
                self._gates.popleft().release()
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        try:
            return self.read()
        except Closed:
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._watches:
            self._client._drop(self._watches.values())
        if self._fd >= 0:
            os.close(self._fd)
