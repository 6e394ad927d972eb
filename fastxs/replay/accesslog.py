"""oxenstored's access log as a recording (SPEC 6.4).

    [20261123T00:10:55.514Z]  A2.1         write     /a/t in tx
    [20261123T00:10:55.521Z]  A2.3         error     EAGAIN

`A2` is a client of the socket, `D5` a domain's ring, `.1` the transaction.

Owns what such a log does not say and how it is made up for:

- A NUL is a blank, as in C's trace (`trace.with_nuls`); other bytes are as OCaml writes them.
- Of answers there are only errors: where none follows, it was no error.
- Whether a transaction was to be committed: it was, if `commit` or `conflict` follows.
- After `conflict` oxenstored does the transaction again by itself, under a new number: nobody asked for that.
- A line is cut at `access-log-nb-chars` (180), and what is left out by `access-log-read-ops` and the like is not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import BinaryIO, Final

from fastxs.client.requests import Op
from fastxs.replay.recording import Answer, Answered, Asked, Began, Ended, Record, Told
from fastxs.replay.trace import with_nuls

__all__ = ["BEGIN", "records"]

OPS: Final = {
    b"debug": Op.CONTROL,
    b"directory": Op.DIRECTORY,
    b"read": Op.READ,
    b"getperms": Op.GET_PERMS,
    b"watch": Op.WATCH,
    b"unwatch": Op.UNWATCH,
    b"t start": Op.TRANSACTION_START,
    b"t end": Op.TRANSACTION_END,
    b"introduce": Op.INTRODUCE,
    b"release": Op.RELEASE,
    b"getdomain": Op.GET_DOMAIN_PATH,
    b"write": Op.WRITE,
    b"mkdir": Op.MKDIR,
    b"rm": Op.RM,
    b"setperms": Op.SET_PERMS,
    b"is introduced": Op.IS_DOMAIN_INTRODUCED,
    b"resume": Op.RESUME,
    b"settarget": Op.SET_TARGET,
    b"reset watches": Op.RESET_WATCHES,
}
UNSAID: Final = {Op.TRANSACTION_START: b"\0", Op.TRANSACTION_END: b"F\0"}
"""Payloads that are not in the log."""
OTHERS: Final = (b"newconn", b"endconn", b"w event", b"error", b"commit", b"conflict", b"invalid")
WORDS: Final = b"|".join(re.escape(word.ljust(9)) for word in (*OPS, *OTHERS))
LINE: Final = re.compile(
    rb"\[(\d{8}T\d\d:\d\d:\d\d\.\d{3})Z\] +([AD]\d+)(?:\.(\d+))? +(" + WORDS + rb") (.*)", re.DOTALL
)
"""What a line is; another (a transaction that is done again: `r(3):A2.4`) is nobody's request."""

BEGIN: Final = re.compile(rb"\[\d{8}T\d\d:\d\d:\d\d\.\d{3}Z\] ")
"""How a log begins."""

CUT: Final = b".."
ESCAPE: Final = re.compile(rb"\\(\d{3}|.)", re.DOTALL)
LETTERS: Final = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b"}


def records(file: BinaryIO) -> Iterator[Record]:
    """As they are asked for."""
    reader = _Reader()
    for line in file:
        if match := LINE.fullmatch(line.removesuffix(b"\n")):
            reader.take(*match.groups())
        yield from reader.out
        reader.out.clear()
    reader.settle()
    yield from reader.out


class _Reader:
    def __init__(self) -> None:
        self.out: Final[list[Record]] = []
        """What is known and was not taken yet."""
        self._conns: Final[dict[bytes, int]] = {}
        self._made = 0
        self._requests = 0
        self._began: datetime | None = None
        self._at_s = 0.0
        self._asked: Asked | None = None
        """The request that is being served: oxenstored serves one at a time, and what follows tells how it ended."""
        self._again: Final[set[bytes]] = set()
        """Connections whose transaction is being done again."""

    def take(self, when: bytes, name: bytes, tx_id: bytes | None, word: bytes, rest: bytes) -> None:
        now = datetime.strptime(when.decode(), "%Y%m%dT%H:%M:%S.%f").replace(tzinfo=UTC)
        self._began = self._began or now
        self._at_s = max(self._at_s, (now - self._began).total_seconds())
        match word := word.rstrip():
            case b"t start" | b"t end" if name in self._again:
                if word == b"t end":
                    self._again.discard(name)
            case b"error":
                self.settle(rest.strip().decode("latin-1"))
            case b"commit" | b"conflict":
                if self._asked is not None:
                    self._asked = self._asked._replace(payload=b"T\0")
                if word == b"conflict":
                    self._again.add(name)
            case b"w event":
                payload = with_nuls(Op.WATCH_EVENT, unescaped(rest))
                self.out.append(Told(self._at_s, self._conn(name), payload))
            case b"newconn" | b"endconn" | b"invalid":
                self.settle()
                if word != b"invalid" and name in self._conns:
                    self.out.append(Ended(self._at_s, self._conns.pop(name)))
            case _:
                self.settle()
                op = OPS[word]
                payload = UNSAID.get(op) or with_nuls(op, unescaped(rest))
                self._requests += 1
                self._asked = Asked(self._at_s, self._conn(name), op, self._requests, int(tx_id or 0), payload)

    def settle(self, error: str | None = None) -> None:
        """The request that was being served is over."""
        asked, self._asked = self._asked, None
        if asked is None:
            return
        payload = None
        if asked.op == Op.TRANSACTION_START and error is None:
            payload, asked = b"%d\0" % asked.tx_id, asked._replace(tx_id=0)
        self.out.append(asked)
        self.out.append(Answered(asked.at_s, asked.conn, asked.req_id, Answer(error, payload)))

    def _conn(self, name: bytes) -> int:
        if name not in self._conns:
            self._made += 1
            self._conns[name] = self._made
            domid = int(name[1:]) if name.startswith(b"D") else 0
            self.out.append(Began(self._at_s, self._made, domid, ring=domid != 0))
        return self._conns[name]


def unescaped(text: bytes) -> bytes:
    """What OCaml's String.escaped made of it, undone; a cut end is left out."""
    text = text.removesuffix(CUT)

    def byte(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes((int(code) & 0xFF,)) if code.isdigit() else LETTERS.get(code, code)

    return ESCAPE.sub(byte, text)
