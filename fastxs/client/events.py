"""What watches tell, and where that waits until somebody asks.

Owns events, watches, and the queue of one monitor.  Refuses to know requests, threads and loops: how a reader waits and
is woken is told by those who make a queue for them (threads, tasks).
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any, Final, NamedTuple

from fastxs.client.errors import AlreadyExists, Closed, NotFound, XenStoreError
from fastxs.client.requests import Path, word

__all__ = ["UNREAD_MAX", "Event", "EventQueue", "Reconnected", "Watch"]

UNREAD_MAX: Final = 16384
"""Events that a monitor keeps for a reader who does not come; then they are folded (`EventQueue.put`)."""


class Event(NamedTuple):
    """Something happened at `path`, or perhaps only nearby or a while ago: look again.

    `path` is relative if the watched path was; `token` is what the watch was set with.
    """

    path: bytes
    token: Any


class Reconnected(Event):
    """The marker after a lost connection: events may be missing; an event for each watch, set again, follows."""

    __slots__ = ()


class Watch:
    """One watch of one monitor; `wire` is its token on the wire, where no two watches of a client have the same."""

    __slots__ = ("depth", "path", "queue", "token", "wire")

    def __init__(self, queue: EventQueue, path: bytes, token: Any, depth: int | None, wire: bytes) -> None:
        # Weakly: a monitor that nobody holds any more is to be collected, and its watches with it.
        self.queue: Final = weakref.ref(queue)
        self.path: Final = path
        self.token: Final = token
        self.depth = depth
        self.wire: Final = wire


class EventQueue:
    """The events that one monitor's reader has not asked for yet.

    `put`, `drop` and `end` are for the one who reads the connection, one at a time; `take` is for any thread.
    """

    def __init__(self) -> None:
        self._items: deque[tuple[Watch | None, Event | XenStoreError]] = deque()
        self._watches: Final[dict[tuple[bytes, Any], Watch]] = {}
        self._over: XenStoreError | None = None

    def wake(self) -> None:
        """Whoever waits for an event looks again."""
        raise NotImplementedError

    @property
    def watches(self) -> list[Watch]:
        """Those that tell their events here."""
        return [*self._watches.values()]

    def new_key(self, path: Path, token: Any) -> tuple[bytes, Any]:
        """Path and token of a watch to be.  AlreadyExists: there is one; XenStoreError: nothing will come any more."""
        where = word(path)
        if self._over is not None:
            raise self._over.with_traceback(None)
        key = where, where if token is None else token
        if key in self._watches:
            raise AlreadyExists.of(where)
        return key

    def add(self, watch: Watch) -> None:
        """One more watch, whose path and token are a `new_key`."""
        self._watches[watch.path, watch.token] = watch

    def find(self, path: Path, token: Any) -> Watch:
        """The watch.  NotFound: there is none."""
        where = word(path)
        watch = self._watches.get((where, where if token is None else token))
        if watch is None:
            raise NotFound.of(where)
        return watch

    def put(self, watch: Watch | None, event: Event | XenStoreError) -> None:
        """One more.  Past UNREAD_MAX all that wait become one event for each watch, with the watch's own path, as its
        first event was: memory is bounded by the watches, and nothing is lost in silence."""
        if len(self._items) >= UNREAD_MAX:
            self._items = deque((each, Event(each.path, each.token)) for each in self.watches)
        else:
            self._items.append((watch, event))
        self.wake()

    def drop(self, watch: Watch) -> None:
        """Forget the watch and what it has told."""
        if self._watches.get((watch.path, watch.token)) is watch:
            del self._watches[watch.path, watch.token]
        self._items = deque(item for item in list(self._items) if item[0] is not watch)

    def close(self) -> list[Watch]:
        """Nobody will read any more; the watches that are to be ended now."""
        watches = self.watches
        self._watches.clear()
        self.end(Closed.of())
        return watches

    @property
    def is_empty(self) -> bool:
        """Whether one who waits has to wait on."""
        return not self._items and self._over is None

    def end(self, error: XenStoreError) -> None:
        """Nothing will come any more: what waits can still be taken, then there is only this error."""
        self._over = error
        self.wake()

    def take(self) -> Event | None:
        """The oldest event; None: there is none now.  XenStoreError: there will be none, or a watch could not be set
        again."""
        try:
            _, event = self._items.popleft()
        except IndexError:
            if self._over is not None:
                raise self._over.with_traceback(None) from None
            return None
        if isinstance(event, XenStoreError):
            raise event
        return event
