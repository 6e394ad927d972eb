"""A recording: who asked what and when, and what the daemon said; one JSON object on each line.

    {"fastxs-recording": 1, "of": "/run/xenstored/socket", "order": "sent"}   first
    {"node": "/tool", "value": "", "perms": ["n0"]}                  the store as it was, parents first
    {"at": 0.0, "conn": 1, "domid": 0}                              a connection begins; "ring": true: it is a guest's
    {"at": 0.0021, "conn": 1, "asks": "READ", "req": 7, "tx": 3, "payload": "/tool\\u0000"}
    {"at": 0.0022, "conn": 1, "answers": 7, "payload": "a value"}    or "error": "ENOENT", or neither: it was no error
    {"at": 0.0031, "conn": 1, "event": "/tool\\u0000token\\u0000"}
    {"at": 0.5, "conn": 1, "ends": true}

`at` is seconds since the recording began, `conn` a number that is never used again.  A byte is one character, U+0000 to
U+00FF.  Lines stand in the order in which things happened.

Owns this form.  Refuses to know where a recording comes from, and how it is played.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, Final, Literal, NamedTuple, TypeAlias

from fastxs.client.requests import Op

__all__ = [
    "MARK",
    "Answer",
    "Answered",
    "Asked",
    "Began",
    "Ended",
    "Head",
    "Node",
    "Record",
    "RecordingError",
    "Told",
    "read",
    "to_line",
]

VERSION: Final = 1
NAME: Final = "fastxs-recording"
MARK: Final = b'{"fastxs-recording"'
"""How a recording begins."""

Order: TypeAlias = Literal["sent", "served"]


class RecordingError(Exception):
    """It is no recording, or a damaged one; the text says where."""


class Head(NamedTuple):
    """What is true of all of it."""

    of: str
    order: Order
    """Of the requests: as they were `sent`, by several at a time perhaps, or as they were `served`, one by one."""
    blanks: bool = False
    """Its source wrote a blank for each NUL, so in a value one cannot be told from the other."""


class Answer(NamedTuple):
    """An error's word, or the payload; neither: it was no error, and more is not known."""

    error: str | None = None
    payload: bytes | None = None


class Node(NamedTuple):
    """A node that was there before."""

    path: bytes
    value: bytes
    perms: tuple[bytes, ...]


class Began(NamedTuple):
    at_s: float
    conn: int
    domid: int
    ring: bool


class Asked(NamedTuple):
    at_s: float
    conn: int
    op: int
    req_id: int
    tx_id: int
    payload: bytes


class Answered(NamedTuple):
    at_s: float
    conn: int
    req_id: int
    answer: Answer


class Told(NamedTuple):
    """A watch's event."""

    at_s: float
    conn: int
    payload: bytes


class Ended(NamedTuple):
    at_s: float
    conn: int


Record: TypeAlias = Node | Began | Asked | Answered | Told | Ended
Line: TypeAlias = dict[str, Any]


# ---- writing -------------------------------------------------------------------------------------------------------


def to_line(record: Head | Record) -> bytes:
    """With its newline."""
    return json.dumps(_shape(record), separators=(",", ":")).encode() + b"\n"


def _shape(record: Head | Record) -> Line:
    match record:
        case Head(of, order, blanks):
            return {NAME: VERSION, "of": of, "order": order} | ({"blanks": True} if blanks else {})
        case Node(path, value, perms):
            return {"node": _text(path), "value": _text(value), "perms": [*map(_text, perms)]}
        case Began(at_s, conn, domid, ring):
            return _at(at_s, conn) | {"domid": domid} | ({"ring": True} if ring else {})
        case Asked(at_s, conn, op, req_id, tx_id, payload):
            name = Op(op).name if op in Op._value2member_map_ else op
            tx = {"tx": tx_id} if tx_id else {}
            return _at(at_s, conn) | {"asks": name, "req": req_id} | tx | {"payload": _text(payload)}
        case Answered(at_s, conn, req_id, (error, payload)):
            said = {"error": error} if error is not None else {}
            return (
                _at(at_s, conn) | {"answers": req_id} | said | ({} if payload is None else {"payload": _text(payload)})
            )
        case Told(at_s, conn, payload):
            return _at(at_s, conn) | {"event": _text(payload)}
        case Ended(at_s, conn):
            return _at(at_s, conn) | {"ends": True}


def _at(at_s: float, conn: int) -> Line:
    return {"at": round(at_s, 6), "conn": conn}


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


# ---- reading -------------------------------------------------------------------------------------------------------


def read(file: BinaryIO) -> tuple[Head, Iterator[Record]]:
    """The head, and the records as they are asked for.  RecordingError: now or then."""
    lines = enumerate(file, 1)
    number, raw = next(lines, (1, b""))
    line = _decoded(number, raw)
    version = line.get(NAME)
    if version != VERSION:
        raise RecordingError(f"a recording of version {version!r}; this fastxs reads version {VERSION}")
    order = line.get("order")
    if order not in ("sent", "served"):
        raise _bad(number, f"order {order!r}")
    return Head(str(line.get("of")), order, bool(line.get("blanks"))), _records(lines)


def _records(lines: Iterable[tuple[int, bytes]]) -> Iterator[Record]:
    for number, raw in lines:
        line = _decoded(number, raw)
        try:
            yield _record(line)
        except (KeyError, TypeError, ValueError) as error:
            raise _bad(number, error) from None


def _record(line: Line) -> Record:
    match line:
        case {"node": str(path), "value": str(value), "perms": list(perms)}:
            return Node(_raw(path), _raw(value), tuple(map(_raw, perms)))
        case {"asks": op, "req": int(req_id), "payload": str(payload)}:
            with suppress(KeyError):
                op = Op[op]
            return Asked(*_where(line), int(op), req_id, int(line.get("tx", 0)), _raw(payload))
        case {"answers": int(req_id)}:
            said = line.get("payload")
            return Answered(*_where(line), req_id, Answer(line.get("error"), None if said is None else _raw(said)))
        case {"event": str(payload)}:
            return Told(*_where(line), _raw(payload))
        case {"domid": int(domid)}:
            return Began(*_where(line), domid, bool(line.get("ring")))
        case {"ends": True}:
            return Ended(*_where(line))
    raise ValueError("nothing that a recording holds")


def _where(line: Line) -> tuple[float, int]:
    return float(line["at"]), int(line["conn"])


def _raw(text: str) -> bytes:
    return text.encode("latin-1")


def _decoded(number: int, raw: bytes) -> Line:
    try:
        line = json.loads(raw)
    except ValueError:
        raise _bad(number, "it is cut off, or no JSON") from None
    if not isinstance(line, dict):
        raise _bad(number, "it is no object")
    return line


def _bad(number: int, why: object) -> RecordingError:
    return RecordingError(f"line {number}: {why} is missing" if isinstance(why, KeyError) else f"line {number}: {why}")
