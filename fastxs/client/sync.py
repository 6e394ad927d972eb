"""The client for threads: the names that users see.

Owns what they mean, in terms of requests (requests).  How one waits is the link's business (threads).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar, overload

from fastxs.client import requests
from fastxs.client.errors import Closed, Conflict, Disconnected, InvalidRequest, NotFound, XenStoreError
from fastxs.client.events import Event
from fastxs.client.requests import Node, Op, Path, Perm, Request, Steps, Values
from fastxs.client.session import NO_TX, RAISE, Exchange, Tx
from fastxs.client.threads import Events, Link
from fastxs.client.transports import Dial, dial

__all__ = ["Client", "Monitor", "Transaction"]

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

    def call(self, request: Request[T]) -> T:
        """Any request: send it, wait for its reply."""
        return self._link.ask(request, self._tx())

    def call_many(self, many: Iterable[Request[Any]], *, return_errors: bool = False) -> _List[Any]:
        """Any requests, all sent before the first reply is awaited; their results in order.

        The first error is raised after all are answered; `return_errors` puts errors in the results' places instead.
        """
        return self._link.ask_many(many, self._tx(), return_errors)

    def _send(self, op: int, payloads: Sequence[bytes]) -> Exchange:
        return self._link.send(op, payloads, self._tx())

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

    def write_many(self, values: Values) -> None:
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
            if names:
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
        self._link = Link(transport or dial(unix_socket_path, xen_bus_path), reconnect_s)

    def _tx(self) -> Tx:
        return NO_TX

    def connect(self) -> None:
        """Connect now; nothing if it is connected.  Disconnected: that failed, and `__cause__` is the OSError."""
        self._link.connect()

    def close(self) -> None:
        """Disconnect: the daemon forgets watches and transactions, whoever waits in any thread gets Closed.

        From any thread, a signal handler included; idempotent.
        """
        self._link.close()

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

    # -- transactions ---------------------------------------------------------------------------------

    def transaction(self, tx_id: int = 0) -> Transaction:
        """`with client.transaction() as tx:` begins one, and commits it at the end.

        Conflict: somebody interfered.  With a `tx_id`, the one that has this number and was begun before.
        """
        return Transaction(self._link, tx_id)

    def transactions(self, attempts: int = 10) -> Iterator[Transaction]:
        """`for tx in client.transactions():` `with tx:` ... is done again, at most so often, until nobody interferes.

        Conflict, from the last one: they always did.
        """
        for attempt in range(attempts):
            time.sleep(requests.pause_s(attempt))
            tx = Transaction(self._link, retry=attempt < attempts - 1)
            yield tx
            if not tx.conflict:
                return

    # -- watches --------------------------------------------------------------------------------------

    def monitor(self) -> Monitor:
        """Something that any number of watches tell their events to."""
        return Monitor(self._link)

    def watch(
        self, path: Path, token: Any = None, *, depth: int | None = None, try_depth: int | None = None
    ) -> Monitor:
        """A monitor with this watch: `for event in client.watch(path)`, or `with` and then `for`; see Monitor.watch."""
        monitor = self.monitor()
        monitor.watch(path, token, depth=depth, try_depth=try_depth)
        return monitor

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

    def start(self) -> None:
        """Begin.  QuotaExceeded: too many are open."""
        self._begun = self._link.start()

    def commit(self) -> None:
        """Make all of it true.  Conflict: somebody interfered, nothing of it is."""
        self._end(commit=True)

    def rollback(self) -> None:
        """Forget all of it."""
        self._end(commit=False)

    def _end(self, *, commit: bool) -> None:
        tx, self._begun = self._tx(), None
        try:
            self._link.ask(requests.transaction_end(commit=commit), tx)
        except Conflict:
            self.conflict = True
            raise

    def _tx(self) -> Tx:
        if self._begun is None:
            raise NotFound.of(None, "the transaction is over, or has not begun")
        return self._begun

    def __enter__(self) -> Self:
        if self._begun is None:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._begun is None:
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


class Monitor:
    """Watches, and their events in the order in which they came; for any number of threads.

    Iterating over it waits for events, and ends when it or the client is closed.  A monitor that nobody holds any more
    takes its watches with it, some time; `close` or `with` does it at once.
    """

    def __init__(self, link: Link) -> None:
        self._link: Final = link
        self._events: Final = Events()
        link.enlist(self._events)

    def watch(self, path: Path, token: Any = None, *, depth: int | None = None, try_depth: int | None = None) -> None:
        """Be told of every change of `path` and of what is below it; the first event comes at once, without a change.

        `token` is anything hashable that events are to carry, or else the path.  `depth` limits how far below is looked
        (InvalidRequest: this daemon cannot; `try_depth` then watches without a limit).  Special paths are
        `@introduceDomain` and `@releaseDomain`.  AlreadyExists: this monitor has a watch with that path and token.
        """
        key = self._events.new_key(path, token)
        try:
            self._link.watch(self._events, *key, depth if try_depth is None else try_depth)
        except InvalidRequest:
            if try_depth is None:
                raise
            self._link.watch(self._events, *key, None)

    def unwatch(self, path: Path, token: Any = None) -> None:
        """End a watch; events of it that wait are dropped.  NotFound: there is none such."""
        self._link.unwatch([self._events.find(path, token)])

    def read(self, timeout_s: float | None = None) -> Event:
        """The next event; waits for it.  TimeoutError: for so long there was none."""
        return self._events.read(timeout_s)

    def check(self) -> Event | None:
        """The next event if there is one; does not wait."""
        return self._events.check()

    def fileno(self) -> int:
        """A descriptor, the monitor's own, that polls readable while there are events: `check` until it says None."""
        return self._events.fileno()

    def wait(self) -> Iterator[Event]:
        """All events; the same as iterating over the monitor itself."""
        return self

    def close(self) -> None:
        """End all its watches, wake whoever waits for their events.  Idempotent."""
        watches = self._events.close()
        if watches:
            with suppress(Disconnected):
                self._link.unwatch(watches)

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
        self._link.drop(self._events.close())
