"""The client's end of one connection without any I/O: requests and bytes go in, bytes and replies and events come out.

Owns framing, request ids, which reply belongs to which request, which event to which watch, and what has to be said
anew on a new connection.  Refuses to know sockets, threads, loops and clocks: `flush` offers bytes to a function,
`pull` takes them from one.

It may be left by an exception between any two of its steps (a signal, an interrupt): what was sent and what has come is
recorded in the same call that sends or receives it, and each new state is stored by one assignment.  What is read twice
because of that does no harm: an answered request is not answered again, and an event may come once too often anyway.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count, repeat, starmap
from typing import Any, Final, NamedTuple

from fastxs.client import requests
from fastxs.client.errors import WORDS, Disconnected, NotFound, ProtocolError, TooBig, XenStoreError
from fastxs.client.events import Event, EventQueue, Reconnected, Watch
from fastxs.client.requests import PAYLOAD_MAX, Op, Request

__all__ = ["HEADER", "NO_TX", "RAISE", "Exchange", "Session", "Tx", "outcomes"]

HEADER: Final = struct.Struct("=4I")
"""type, req_id, tx_id, len (SPEC 1.1)."""

REQ_ID_END: Final = 1 << 32


class Tx(NamedTuple):
    """A transaction: its id, and the number of the connection that it belongs to; 0 and None: outside of any."""

    tx_id: int = 0
    epoch: int | None = None


NO_TX: Final = Tx()

RAISE: Final[Any] = object()
"""No default: an error is raised."""

_NO_ARGUMENTS: Final = ((),)


class Exchange:
    """Requests of one operation that were sent together, and their replies in the same order."""

    __slots__ = ("error", "first", "left", "notify", "op", "payloads", "replies")

    def __init__(self, op: int, payloads: Sequence[bytes], first: int) -> None:
        self.op: Final = op
        self.payloads: Final = payloads
        self.first: Final = first
        """req_id of the first; the others follow."""
        self.replies: Final[list[Any]] = [None] * len(payloads)
        """bytes, or a XenStoreError."""
        self.left = len(payloads)
        """How many replies are missing; 0: all is answered."""
        self.error: XenStoreError | None = None
        """The first error among the replies."""
        self.notify: Callable[[], None] | None = None
        """Called when the last reply has come."""

    def result(self) -> Any:
        """The reply to the only request.  XenStoreError: that was the reply."""
        if self.error is not None:
            raise self.error
        return self.replies[0]

    def results(self, default: Any = RAISE) -> list[Any]:
        """All replies, `default` for NotFound.  XenStoreError: the first other one among them."""
        if self.error is None:
            return self.replies
        if default is RAISE:
            raise self.error
        for reply in self.replies:
            if isinstance(reply, XenStoreError) and not isinstance(reply, NotFound):
                raise reply
        return [default if isinstance(reply, NotFound) else reply for reply in self.replies]


def outcomes(sent: Sequence[tuple[Exchange, Request[Any]]], return_errors: bool) -> list[Any]:
    """The results of single requests.  XenStoreError: the first one among them, unless they are results, too."""
    results = []
    for exchange, request in sent:
        try:
            results.append(request.parse(exchange.result()))
        except XenStoreError as error:
            if not return_errors:
                raise
            results.append(error)
    return results


_NOBODY: Final = Exchange(-1, (), 0)


class Session:
    """One client's state towards the daemon; it outlives the connections, which `begin` and `end` tell of."""

    def __init__(self) -> None:
        self.epoch = 0
        """Number of the connection: what belongs to another one (a transaction) is void."""
        self.watches: Final[dict[bytes, Watch]] = {}
        self._tokens: Final = count(1)
        self._next = 1
        self._waiting: deque[Exchange] = deque()
        self._inbox: list[bytes] = []
        # What is being sent, how much of it was taken each time, what is to follow.
        self._outbox: tuple[memoryview, list[int], list[bytes]] = memoryview(b""), [], []

    # -- requests -------------------------------------------------------------------------------

    def post(self, op: int, payloads: Sequence[bytes], tx_id: int = 0) -> Exchange:
        """Queue requests of one operation; `flush` sends them.  TooBig: a payload of more than 4096 bytes."""
        lengths = list(map(len, payloads))
        if not lengths:
            return Exchange(op, payloads, 0)
        if max(lengths) > PAYLOAD_MAX:
            raise TooBig.of(payloads[lengths.index(max(lengths))].split(b"\0", 1)[0])
        first = self._next if self._next + len(lengths) <= REQ_ID_END else 1
        self._next = first + len(lengths)
        messages = [b""] * (2 * len(lengths))
        messages[::2] = map(HEADER.pack, repeat(op), range(first, self._next), repeat(tx_id), lengths)
        messages[1::2] = payloads
        if not lengths[-1]:
            # oxenstored looks at a message without payload when the next one comes: here it is, its reply is dropped.
            messages += HEADER.pack(Op.GET_DOMAIN_PATH, 0, 0, 2), b"0\0"
        exchange = Exchange(op, payloads, first)
        # In this order: a reply may be missed by nobody, but nobody may wait for what was never sent.
        self._outbox[2].extend(messages)
        self._waiting.append(exchange)
        return exchange

    def post_one(self, request: Request[Any], tx_id: int = 0) -> Exchange:
        """`post` for one."""
        return self.post(request.op, (request.payload,), tx_id)

    def abandon(self, exchange: Exchange, request: Request[Any]) -> None:
        """Nobody waits for this reply any more: when it comes, the request is taken back if it must be."""
        undo = request.undo

        def take_back() -> None:
            if undo is not None and exchange.error is None:
                self.post_one(*undo(exchange.replies[0]))

        # An interrupt may have come between a reply and its being counted.
        exchange.left = exchange.replies.count(None)
        exchange.notify = take_back
        if not exchange.left:
            self._finish(exchange)

    # -- watches --------------------------------------------------------------------------------

    def watch(self, queue: EventQueue, path: bytes, token: Any, depth: int | None) -> Watch:
        """A new watch, to be known before its WATCH is sent: its first event may come before the reply."""
        watch = Watch(queue, path, token, depth, b"%d" % next(self._tokens))
        self.watches[watch.wire] = watch
        queue.add(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Forget it and its events, those that are still under way as well."""
        self.watches.pop(watch.wire, None)
        queue = watch.queue()
        if queue is not None:
            queue.drop(watch)

    def sweep(self, dropped: deque[Watch]) -> None:
        """Queue an UNWATCH, whose reply nobody awaits, for watches whose monitors are no more."""
        while dropped:
            watch = dropped.popleft()
            if self.watches.pop(watch.wire, None) is not None:
                self.post_one(requests.unwatch(watch.path, watch.wire))

    # -- connections ------------------------------------------------------------------------------

    def begin(self) -> None:
        """A new connection: the watches that there are, are set again, and their monitors are told."""
        self.epoch += 1
        self._inbox = []
        self._outbox = memoryview(b""), [], []
        for queue in {watch.queue() for watch in self.watches.values()}:
            if queue is not None:
                queue.put(None, Reconnected(b"", None))
        for watch in list(self.watches.values()):
            self._watch_again(watch)

    def _watch_again(self, watch: Watch) -> None:
        exchange = self.post_one(requests.watch(watch.path, watch.wire, watch.depth))

        def tell() -> None:
            queue, error = watch.queue(), exchange.error
            if queue is not None and error is not None and not isinstance(error, Disconnected):
                queue.put(watch, error)

        exchange.notify = tell

    def end(self, error: XenStoreError) -> None:
        """The connection is gone: every request that waits is answered by this error."""
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            exchange.error = exchange.error or error
            exchange.replies[:] = [error if reply is None else reply for reply in exchange.replies]
            self._finish(exchange)

    # -- bytes out ----------------------------------------------------------------------------------

    def flush(self, put: Callable[[memoryview], int]) -> bool:
        """Offer what is to be sent to `put`, which says how many bytes it took; whether all of it went.

        `put` raises BlockingIOError where it could take none, and XenStoreError where it refuses the message that
        these bytes begin with: that is then the reply to it.
        """
        while True:
            sending, sent, more = self._outbox
            sending, sent = sending[sum(sent) :], []
            if not sending:
                sending, more = memoryview(b"".join(more)), []
            self._outbox = sending, sent, more
            if not sending:
                return True
            try:
                sent.extend(map(put, (sending,)))
            except XenStoreError as error:
                op, req_id, _, length = HEADER.unpack_from(sending)
                sent.append(HEADER.size + length)
                self._answer(op, req_id, error)
            except BlockingIOError:
                return False
            else:
                if not sent[0]:
                    return False

    @property
    def unsent(self) -> bool:
        """Whether there is something for `flush`."""
        sending, sent, more = self._outbox
        return bool(more) or len(sending) > sum(sent)

    # -- bytes in -----------------------------------------------------------------------------------

    def pull(self, take: Callable[[], bytes]) -> None:
        """Take bytes, and do what they say.

        `take` raises BlockingIOError where there are none now.  ConnectionError: the stream has ended, or is no
        XenStore's.
        """
        try:
            self._inbox.extend(starmap(take, _NO_ARGUMENTS))
        except BlockingIOError:
            return
        self._read()

    def _read(self) -> None:
        """Everything that is whole.  The replies to one Exchange nearly always stand in a row: its part is inlined."""
        inbox = self._inbox
        if not inbox[-1]:
            raise ConnectionResetError("the daemon closed the connection")
        data = inbox[0] if len(inbox) == 1 else b"".join(inbox)
        unpack = HEADER.unpack_from
        exchange = self._waiting[0] if self._waiting else _NOBODY
        want, first, replies, left = exchange.op, exchange.first, exchange.replies, exchange.left
        at, end = 0, len(data) - 16
        while at <= end:
            op, req_id, _, length = unpack(data, at)
            start = at + 16
            stop = start + length
            if stop > end + 16:
                if length > PAYLOAD_MAX:
                    raise ProtocolError.of(None, f"a message of {length} bytes")
                break
            at = stop
            index = req_id - first
            if op == want and 0 <= index < len(replies) and replies[index] is None:
                replies[index] = data[start:stop]
                left -= 1
                if left:
                    continue
                self._finish(exchange)
            elif op == Op.WATCH_EVENT:
                self._event(data[start:stop])
                continue
            else:
                exchange.left = left
                self._answer(op, req_id, data[start:stop])
            exchange = self._waiting[0] if self._waiting else _NOBODY
            want, first, replies, left = exchange.op, exchange.first, exchange.replies, exchange.left
        exchange.left = left
        self._inbox = [data[at:]] if at < len(data) else []

    def _answer(self, op: int, req_id: int, reply: bytes | XenStoreError) -> None:
        """Any reply, in any order; one that nobody waits for is dropped."""
        if not req_id and op in (Op.WATCH, Op.UNWATCH):
            # Linux answers these itself on /dev/xen/xenbus, and does not repeat the id: the oldest is meant.
            exchange = next((each for each in self._waiting if each.op == op), _NOBODY)
            req_id = exchange.first
        else:
            exchange = next((each for each in self._waiting if 0 <= req_id - each.first < len(each.replies)), _NOBODY)
        if exchange is _NOBODY:
            return
        index = req_id - exchange.first
        if op == Op.ERROR and isinstance(reply, bytes):
            word = reply.rstrip(b"\0")
            what = exchange.payloads[index].split(b"\0", 1)[0]
            reply = WORDS.get(word, XenStoreError).of(what, None if word in WORDS else word.decode("latin-1"))
        elif op != exchange.op:
            raise ProtocolError.of(None, f"a reply of type {op} to a request of type {exchange.op}")
        if isinstance(reply, XenStoreError) and exchange.error is None:
            exchange.error = reply
        if exchange.replies[index] is None:
            exchange.replies[index] = reply
            exchange.left -= 1
        else:  # read twice, because an interrupt came between its being kept and its being counted
            exchange.left = exchange.replies.count(None)
        if not exchange.left:
            self._finish(exchange)

    def _finish(self, exchange: Exchange) -> None:
        exchange.left = 0
        if exchange in self._waiting:  # the first one nearly always
            self._waiting.remove(exchange)
        if exchange.notify is not None:
            exchange.notify()

    def _event(self, payload: bytes) -> None:
        path, _, rest = payload.partition(b"\0")
        watch = self.watches.get(rest.partition(b"\0")[0])
        queue = None if watch is None else watch.queue()
        if watch is not None and queue is not None:
            queue.put(watch, Event(path, watch.token))
