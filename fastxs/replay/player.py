"""Plays a recording to a daemon, and compares what it says with what was said.

Owns who speaks over which connection of today, whose transaction ids are whose, and when a request may go.  Refuses to
know how a recording is stored, what makes answers equal, and how a daemon is started.

The order: a connection's requests go in the recording's order.  Of several connections, a request goes only when all
is answered that was answered before it then; after an event, all that was sent before it; and where the recording's
order is that in which requests were served, all that went before.  So whatever could have led to a request in the
recording has happened before it now.
"""

from __future__ import annotations

import re
import selectors
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fastxs.client.requests import Op
from fastxs.client.session import HEADER
from fastxs.client.transports import Transport, UnixSocket
from fastxs.hypervisor.simxen.guests import Guests
from fastxs.replay.compare import compare
from fastxs.replay.frames import Frames
from fastxs.replay.recording import Answer, Answered, Asked, Began, Ended, Head, Node, Record, Told
from fastxs.replay.report import Report

__all__ = ["PATIENCE_S", "Player"]

PATIENCE_S: Final = 10.0
"""For an answer; then the connection is given up."""
CONNECT_S: Final = 10.0
SETUP: Final = 0
"""The connection that makes the nodes of before; the recording's begin at 1."""
BATCH: Final = 64
"""Of its requests, before their answers are awaited."""
PORT: Final = 2
"""The event-channel port that every guest offers."""
GFN: Final = 0x1000
DOMIDS: Final = range(1, 0x7FF0)
NO_TX: Final = 0xFFFFFFFF
"""Of a transaction that is not open this time: no daemon gives out such a number."""
NOTHING: Final = Answer(error="no answer")
"""None came, or the request was not sent."""

OF_DOMAINS: Final = frozenset((Op.INTRODUCE, Op.RELEASE, Op.RESUME, Op.SET_TARGET, Op.SET_FEATURE))
NAMED: Final[dict[int, int]] = {
    Op.INTRODUCE: 1,
    Op.SET_TARGET: 2,
    Op.SET_FEATURE: 1,
    Op.GET_FEATURE: 1,
    Op.SET_QUOTA: 1,
    Op.GET_QUOTA: 1,
}
"""How many words of a request may be domids; those of SET_PERMS look like this:"""
PERM: Final = re.compile(rb"[nrwb](\d+)")
ABSOLUTE: Final = frozenset(
    (Op.DIRECTORY, Op.DIRECTORY_PART, Op.READ, Op.GET_PERMS, Op.WRITE, Op.MKDIR, Op.RM, Op.SET_PERMS)
) | {Op.WATCH, Op.UNWATCH}
"""Operations whose first word is a path, which may be relative to the domain's home."""


class Waiting:
    """A request that was sent."""

    __slots__ = ("answer", "asked", "sent_ns")

    def __init__(self, asked: Asked, answer: Answer | None = None) -> None:
        self.asked: Final = asked
        self.sent_ns = 0
        self.answer = answer


class Line:
    """A connection of today."""

    def __init__(self, domid: int, *, ring: bool) -> None:
        self.domid: Final = domid
        self.ring: Final = ring
        self.transport: Transport | None = None
        self.frames: Final = Frames()
        self.out = b""
        self.unsent: Final[list[Waiting]] = []
        self.asked: Final[defaultdict[int, deque[Waiting]]] = defaultdict(deque)
        """The recording's req_id -> what the recording's answer is awaited of; libxenstore has one id for all."""
        self.waiting: Final[dict[int, Waiting]] = {}
        """Today's req_id -> what today's answer is awaited of."""
        self.tx_ids: Final[dict[int, int]] = {}
        """The recording's -> today's; of those that are open."""
        self.sent = 0
        self.is_full = False
        """The daemon took less than all: wait until it takes more."""
        self.is_gone = False


class Player:
    """Plays to the daemon at a socket; guests over their rings on the pretend hypervisor in a folder, or over the
    socket if there is none (`hypervisor` None): then they speak as dom0 does.

    `speed`: 1 is the recording's, 2 is twice as fast, None is as fast as answers come.
    """

    def __init__(self, socket: Path, hypervisor: Path | None = None, *, speed: float | None = None) -> None:
        self.report = Report()
        self._socket: Final = str(socket)
        self._speed: Final = speed
        self._guests: Final = None if hypervisor is None else Guests(hypervisor)
        self._alive: Final[set[int]] = set()
        """Domains that were made here."""
        self._introduced: Final[set[int]] = set()
        self._lines: Final[dict[int, Line]] = {}
        self._selector: Final = selectors.DefaultSelector()
        self._to_flush: Final[list[Line]] = []
        self._in_flight = 0
        self._blanks = False

    def close(self) -> None:
        for line in self._lines.values():
            self._hang_up(line)
        self._selector.close()
        if self._guests is not None:
            self._guests.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- the recording ---------------------------------------------------------------------------------------------

    def play(self, head: Head, records: Iterable[Record], cpu_ns: Callable[[], int] | None = None) -> Report:
        """All of it.  `cpu_ns` tells the daemon's CPU time so far.  OSError: the daemon cannot be reached."""
        records = self._furnish(iter(records))
        self._blanks = head.blanks
        report = self.report = Report()
        began, began_ns = time.monotonic(), cpu_ns() if cpu_ns else 0
        for record in records:
            if isinstance(record, Node):
                continue
            if self._speed is not None:
                self._pace(began + record.at_s / self._speed)
            match record:
                case Asked() if (line := self._lines.get(record.conn)) is not None:
                    if head.order == "served":
                        self._settle()
                    self._play(line, record)
                case Answered() if (line := self._lines.get(record.conn)) is not None:
                    self._compare(line, record)
                case Told():
                    report.events_then += 1
                    self._settle()
                case Began(_, conn, domid, ring):
                    self._lines[conn] = Line(domid, ring=ring)
                case Ended() if (line := self._lines.pop(record.conn, None)) is not None:
                    self._wait(lambda line=line: not line.waiting, line)  # type: ignore[misc]
                    self._hang_up(line)
        self._settle()
        report.wall_s = time.monotonic() - began
        report.daemon_cpu_ns = cpu_ns() - began_ns if cpu_ns else None
        return report

    def _furnish(self, records: Iterator[Record]) -> Iterator[Record]:
        """Make the nodes that were there before; what follows them."""
        line = self._lines[SETUP] = Line(0, ring=False)
        number = 0
        for record in records:
            if not isinstance(record, Node):
                records = chain((record,), records)
                break
            entries = b"".join(entry + b"\0" for entry in record.perms)
            for op, rest in (Op.WRITE, record.value), (Op.SET_PERMS, entries):
                asked = Asked(0, SETUP, op, number, 0, record.path + b"\0" + rest)
                self._prepare(asked)
                self._ask(line, asked)
                number += 1
            if number >= BATCH:
                self._settle()
                line.asked.clear()
                number = 0
        self._settle()
        self._hang_up(self._lines.pop(SETUP))
        return records

    def _pace(self, when_s: float) -> None:
        """Until it is time, events and answers are taken."""
        while (left_s := when_s - time.monotonic()) > 0:
            self._turn(left_s)
        self.report.late_s = max(self.report.late_s, -left_s)

    def _play(self, line: Line, asked: Asked) -> None:
        if asked.op == Op.CONTROL or (self._guests is None and asked.op in OF_DOMAINS):
            self.report.left_out += 1
            line.asked[asked.req_id].append(Waiting(asked, NOTHING))
            return
        self._prepare(asked)
        self.report.requests += 1
        self._ask(line, asked)

    def _compare(self, line: Line, answered: Answered) -> None:
        those = line.asked.get(answered.req_id)
        if not those:
            return
        waiting, was = those.popleft(), answered.answer
        if not those:
            del line.asked[answered.req_id]
        self._wait(lambda: waiting.answer is not None, line)
        asked, now = waiting.asked, waiting.answer or NOTHING
        if asked.op == Op.TRANSACTION_START and was.payload:
            line.tx_ids[_number(was.payload)] = NO_TX if now.payload is None else _number(now.payload)
        elif asked.op == Op.TRANSACTION_END:
            line.tx_ids.pop(asked.tx_id, None)
        if now is not NOTHING:
            self.report.compared(compare(asked.op, was, now, blanks=self._blanks), asked, was, now)
            self._follow(asked, now)

    # ---- domains ---------------------------------------------------------------------------------------------------

    def _prepare(self, asked: Asked) -> None:
        """A domain is there before it is named, as a toolstack makes it before it writes anything."""
        if self._guests is None:
            return
        words = asked.payload.split(b"\0")
        if asked.op == Op.SET_PERMS:
            named = [entry[1] for entry in map(PERM.fullmatch, words[1:]) if entry]
        else:
            named = [word for word in words[: NAMED.get(asked.op, 0)] if word.isdigit()]
        for domid in {int(word) for word in named} - self._alive:
            if domid in DOMIDS:
                with suppress(FileExistsError):  # somebody else's
                    self._guests.create(domid, PORT)
                    self._alive.add(domid)

    def _introduce(self, domid: int) -> None:
        """A guest that was introduced before the recording began."""
        toolstack = self._lines[SETUP] = Line(0, ring=False)
        asked = Asked(0, SETUP, Op.INTRODUCE, 0, 0, b"%d\0%d\0%d\0" % (domid, GFN, PORT))
        self._prepare(asked)
        self._ask(toolstack, asked)
        self._wait(lambda: not toolstack.waiting, toolstack)
        self._hang_up(self._lines.pop(SETUP))
        self._introduced.add(domid)

    def _follow(self, asked: Asked, now: Answer) -> None:
        """Domains come, and one that was released is gone: its number may be used again."""
        if self._guests is None or now.error is not None:
            return
        domid = _number(asked.payload)
        if asked.op == Op.INTRODUCE:
            self._introduced.add(domid)
        if asked.op == Op.RELEASE:
            self._introduced.discard(domid)
            if domid in self._alive:
                for line in self._lines.values():
                    if line.ring and line.domid == domid:
                        self._hang_up(line)
                self._alive.discard(domid)
                self._guests.kill(domid)

    # ---- messages --------------------------------------------------------------------------------------------------

    def _ask(self, line: Line, asked: Asked) -> None:
        waiting = Waiting(asked)
        line.asked[asked.req_id].append(waiting)
        if line.transport is None and not line.is_gone:
            self._connect(line)
        if line.is_gone:
            self._lose(waiting)
            return
        line.sent += 1
        payload = self._payload(line, asked)
        tx_id = line.tx_ids.get(asked.tx_id, NO_TX) if asked.tx_id else 0
        line.out += HEADER.pack(asked.op, line.sent, tx_id, len(payload)) + payload
        line.waiting[line.sent] = waiting
        line.unsent.append(waiting)
        self._in_flight += 1
        if len(line.unsent) == 1:
            self._to_flush.append(line)

    def _payload(self, line: Line, asked: Asked) -> bytes:
        if asked.op == Op.INTRODUCE:
            words = asked.payload.split(b"\0")
            return b"\0".join([*words[:2], b"%d" % PORT, *words[3:]])
        relative = line.ring and self._guests is None and asked.op in ABSOLUTE
        if relative and not asked.payload.startswith((b"/", b"@")):
            return b"/local/domain/%d/%s" % (line.domid, asked.payload)
        return asked.payload

    def _connect(self, line: Line) -> None:
        """Over the ring, if it is a guest's and there are rings."""
        if line.ring and self._guests is not None:
            if line.domid not in self._introduced:
                self._introduce(line.domid)
            try:
                line.transport = self._guests.open(line.domid)
            except OSError:
                line.is_gone = True
                return
        else:
            deadline = time.monotonic() + CONNECT_S
            while line.transport is None:
                try:
                    line.transport = UnixSocket(self._socket)
                except BlockingIOError:  # the daemon's queue is full
                    if time.monotonic() >= deadline:
                        raise
                    self._turn(0.001)
        self._selector.register(line.transport, selectors.EVENT_READ, line)

    def _hang_up(self, line: Line) -> None:
        transport, line.transport, line.is_gone = line.transport, None, True
        if transport is not None:
            self._selector.unregister(transport)
            transport.close()
        for waiting in line.waiting.values():
            self._in_flight -= 1
            self._lose(waiting)
        line.waiting.clear()

    def _lose(self, waiting: Waiting) -> None:
        waiting.answer = NOTHING
        self.report.unanswered += waiting.asked.conn != SETUP

    def _settle(self) -> None:
        """Until all that was sent is answered."""
        self._wait(lambda: not self._in_flight, None)

    def _wait(self, done: Callable[[], bool], line: Line | None) -> None:
        """For at most PATIENCE_S without any answer; then `line`, or everybody who waits, is given up."""
        before, deadline = self._in_flight, time.monotonic() + PATIENCE_S
        while not done():
            self._turn(0.1)
            if self._in_flight != before:
                before, deadline = self._in_flight, time.monotonic() + PATIENCE_S
            elif time.monotonic() >= deadline:
                for each in [line] if line is not None else [*self._lines.values()]:
                    if each.waiting:
                        self._hang_up(each)

    def _turn(self, timeout_s: float) -> None:
        """Send what there is to send, take what comes."""
        for line in self._to_flush:
            self._put(line)
        self._to_flush.clear()
        for key, _ in self._selector.select(timeout_s):
            line = key.data
            self._take(line)
            if line.out:
                self._put(line)

    def _put(self, line: Line) -> None:
        transport, now_ns = line.transport, time.perf_counter_ns()
        if transport is None:
            return
        for waiting in line.unsent:
            waiting.sent_ns = now_ns
        line.unsent.clear()
        try:
            line.out = line.out[transport.put(memoryview(line.out)) :]
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up(line)
            return
        if bool(line.out) != line.is_full:
            line.is_full = bool(line.out)
            self._selector.modify(transport, selectors.EVENT_READ | (line.is_full * selectors.EVENT_WRITE), line)

    def _take(self, line: Line) -> None:
        if line.transport is None:
            return
        try:
            data = line.transport.take()
            messages = line.frames.feed(data)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self._hang_up(line)
            return
        now_ns = time.perf_counter_ns()
        for message in messages:
            if message.op == Op.WATCH_EVENT:
                self.report.events_now += 1
            elif (waiting := line.waiting.pop(message.req_id, None)) is not None:
                waiting.answer = message.answer
                self._in_flight -= 1
                if waiting.asked.conn != SETUP:
                    self.report.latencies.add(now_ns - waiting.sent_ns)
        if not data:
            self._hang_up(line)


def _number(payload: bytes) -> int:
    """The first word; -1: it is no number."""
    word = payload.split(b"\0", 1)[0]
    return int(word) if word.isdigit() else -1
