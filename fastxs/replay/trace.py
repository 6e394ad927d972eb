"""C xenstored's trace file as a recording (SPEC 6.4); fastxs writes the same lines.

    io: IN 0x55d0c8a2e2a0 (d0) 20261122 17:05:33 READ (/local/domain/0/name )
    io: OUT 0x55d0c8a2e2a0 (d0) 20261122 17:05:33 READ (Domain-0)
    obj: CREATE connection 0x55d0c8a2e2a0

Before Xen 4.18 neither `io:` and `obj:` stand there nor the domid.

Owns what such a file does not say and how it is made up for:

- A NUL is a blank.  Paths and numbers hold none, so before a WRITE's value and a WATCH's token a blank is a NUL.
- There is no transaction: while one is open on a connection, what can be in one is in the newest.
- A payload may hold newlines, and end as if a new line began; then it is cut there.
- Without domids a connection that is created while INTRODUCE is served is that domain's; any other is dom0's socket.
- Time is to the second.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from fastxs.client.requests import Op
from fastxs.replay.recording import Answer, Answered, Asked, Began, Ended, Record, Told

__all__ = ["HEAD", "records"]

IN_TRANSACTION: Final = frozenset(
    (Op.DIRECTORY, Op.DIRECTORY_PART, Op.READ, Op.GET_PERMS, Op.WRITE, Op.MKDIR, Op.RM, Op.SET_PERMS)
)
FREE_END: Final = {Op.WRITE: b"", Op.WATCH: b"\0", Op.UNWATCH: b"\0"}
"""After the path anything may follow, which ends with this."""

MESSAGE: Final = re.compile(
    rb"(?:io: )?(IN|OUT|OUT\(START\)) (\S+) (?:\(d(\d+)\) )?(\d{8} \d\d:\d\d:\d\d) (\S+) \((.*)", re.DOTALL
)
OBJECT: Final = re.compile(rb"(?:obj: )?(CREATE|DESTROY) connection (\S+)")
HEAD: Final = re.compile(rb"\n?\*\*\*\n|(?:(?:io|obj|wrl|acc|tdb): |IN |OUT|CREATE |DESTROY |orphaned |dropping )")
"""How any line begins that is not the rest of a payload; and a file."""


def records(file: BinaryIO) -> Iterator[Record]:
    """As they are asked for."""
    reader = _Reader()
    for line in _whole(file):
        yield from reader.take(line)


def _whole(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines, those of a payload together with the one that it belongs to; without the last newline."""
    held = b""
    for line in lines:
        if held and (HEAD.match(line) or line == b"***\n"):
            yield held[:-1]
            held = b""
        held += line
    yield held.removesuffix(b"\n")


class _Connection:
    def __init__(self, conn: int, domid: int) -> None:
        self.conn: Final = conn
        self.domid: Final = domid
        self.requests = 0
        self.unanswered: Final[deque[tuple[int, int]]] = deque()
        """req_id and operation, oldest first: C serves a connection's requests one by one."""
        self.transactions: Final[list[int]] = []


class _Reader:
    def __init__(self) -> None:
        self._known: Final[dict[bytes, _Connection]] = {}
        self._made = 0
        self._began_s: float | None = None
        self._at_s = 0.0
        self._introduces = 0
        """The domain that INTRODUCE is being served for; 0: none is."""

    def take(self, line: bytes) -> Iterator[Record]:
        if message := MESSAGE.fullmatch(line):
            yield from self._message(*message.groups())
        elif thing := OBJECT.fullmatch(line):
            what, name = thing.groups()
            if name in self._known:
                yield Ended(self._at_s, self._known.pop(name).conn)
            if what == b"CREATE" and self._introduces:
                yield from self._connection(name, self._introduces)
                self._introduces = 0

    def _connection(self, name: bytes, domid: int) -> Iterator[Record]:
        if name not in self._known:
            self._made += 1
            self._known[name] = _Connection(self._made, domid)
            yield Began(self._at_s, self._made, domid, ring=domid != 0)

    def _message(
        self, way: bytes, name: bytes, domid: bytes | None, when: bytes, op_name: bytes, rest: bytes
    ) -> Iterator[Record]:
        op, payload = Op.__members__.get(op_name.decode("latin-1")), rest.removesuffix(b")")
        if op is None:
            return
        now_s = time.mktime(time.strptime(when.decode(), "%Y%m%d %H:%M:%S"))
        if self._began_s is None:
            self._began_s = now_s
        self._at_s = max(self._at_s, now_s - self._began_s)
        yield from self._connection(name, int(domid or 0))
        peer = self._known[name]
        if way == b"IN":
            yield self._asked(peer, op, payload)
        elif op == Op.WATCH_EVENT:
            yield Told(self._at_s, peer.conn, with_nuls(op, payload))
        elif peer.unanswered:
            req_id, asked = peer.unanswered.popleft()
            if op == Op.ERROR:
                answer = Answer(error=payload.strip().decode("latin-1"))
            elif op == Op.READ:
                answer = Answer(payload=payload)
            else:
                answer = Answer(payload=payload.replace(b" ", b"\0"))
            if asked == Op.TRANSACTION_START and answer.payload:
                peer.transactions.append(int(answer.payload.rstrip(b"\0")))
            yield Answered(self._at_s, peer.conn, req_id, answer)

    def _asked(self, peer: _Connection, op: Op, payload: bytes) -> Asked:
        peer.requests += 1
        peer.unanswered.append((peer.requests, op))
        payload = with_nuls(op, payload)
        tx_id = 0
        if op == Op.TRANSACTION_END and peer.transactions:
            tx_id = peer.transactions.pop()
        elif op in IN_TRANSACTION and peer.transactions:
            tx_id = peer.transactions[-1]
        first = payload.split(b"\0", 1)[0]
        self._introduces = int(first) if op == Op.INTRODUCE and first.isdigit() else 0
        return Asked(self._at_s, peer.conn, op, peer.requests, tx_id, payload)


def with_nuls(op: Op, payload: bytes) -> bytes:
    """A request as it was, before its NULs became blanks."""
    if op not in FREE_END and op != Op.WATCH_EVENT:
        return payload.replace(b" ", b"\0")
    end = FREE_END.get(op, b"\0")
    path, _, rest = payload.partition(b" ")
    return path + b"\0" + (rest[:-1] if end else rest) + end
