"""Trace files and access logs as their daemons write them; what they do not say is made up for."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastxs.replay.recording import Answer, Answered, Asked, Began, Ended, Head, Record, RecordingError, Told, to_line
from fastxs.replay.sources import opened
from tests.support.wire import Op


def read(tmp_path: Path, text: bytes) -> tuple[Head, list[Record]]:
    (tmp_path / "file").write_bytes(text)
    with opened(str(tmp_path / "file")) as (head, records):
        return head, [*records]


def asked(records: list[Record]) -> list[tuple[int, int, int, bytes]]:
    """Connection, operation, transaction, payload of every request."""
    return [(record.conn, record.op, record.tx_id, record.payload) for record in records if isinstance(record, Asked)]


# ---- C xenstored -----------------------------------------------------------------------------------------------

NEW = b"""
***
obj: CREATE connection 0x1
io: IN 0x1 (d0) 20261122 17:05:33 READ (/a b )
io: OUT 0x1 (d0) 20261122 17:05:33 ERROR (EINVAL )
io: IN 0x1 (d0) 20261122 17:05:34 WATCH (/a some token )
io: OUT 0x1 (d0) 20261122 17:05:34 WATCH (OK )
io: OUT 0x1 (d0) 20261122 17:05:34 WATCH_EVENT (/a some token )
io: IN 0x2 (d7) 20261122 17:05:34 WRITE (data/x two words
)
)
io: OUT 0x2 (d7) 20261122 17:05:36 WRITE (OK )
orphaned node /local/domain/7 deleted
obj: DESTROY connection 0x1
obj: CREATE connection 0x1
io: IN 0x1 (d0) 20261122 17:05:36 READ (/ )
io: IN 0x1 (d0) 20261122 17:05:36 **UNKNOWN** (x)
"""


def test_a_trace_file(tmp_path: Path) -> None:
    head, records = read(tmp_path, NEW)
    assert (head.order, head.blanks) == ("served", True)
    assert records == [
        Began(0, 1, 0, ring=False),
        Asked(0, 1, Op.READ, 1, 0, b"/a\0b\0"),
        Answered(0, 1, 1, Answer(error="EINVAL")),
        Asked(1, 1, Op.WATCH, 2, 0, b"/a\0some token\0"),
        Answered(1, 1, 2, Answer(payload=b"OK\0")),
        Told(1, 1, b"/a\0some token\0"),
        Began(1, 2, 7, ring=True),
        Asked(1, 2, Op.WRITE, 1, 0, b"data/x\0two words\n)\n"),  # the payload's own lines
        Answered(3, 2, 1, Answer(payload=b"OK\0")),
        Ended(3, 1),
        Began(3, 3, 0, ring=False),  # the same address, another connection
        Asked(3, 3, Op.READ, 1, 0, b"/\0"),
    ]


OLD = b"""
***
CREATE connection 0x1
wrl: dom    0      0  msec      10000 credit      -10000 reserve          0 discard
IN 0x1 20261123 00:10:55 INTRODUCE (5 4097 2 )
CREATE connection 0x5
IN 0x5 20261123 00:10:55 READ (domid )
OUT 0x1 20261123 00:10:55 INTRODUCE (OK )
OUT 0x5 20261123 00:10:55 READ (5)
IN 0x6 20261123 00:10:55 READ (/ )
"""


def test_before_4_18_domids_are_found_by_introductions(tmp_path: Path) -> None:
    _, records = read(tmp_path, OLD)
    began = [record for record in records if isinstance(record, Began)]
    assert [(record.conn, record.domid, record.ring) for record in began] == [
        (1, 0, False),
        (2, 5, True),
        (3, 0, False),
    ]


def test_what_a_trace_says_between_start_and_end_is_in_the_transaction(tmp_path: Path) -> None:
    lines = [b"IN TRANSACTION_START ( )", b"OUT TRANSACTION_START (7 )", b"IN WRITE (/a 1)", b"OUT WRITE (OK )"]
    lines += [b"IN TRANSACTION_START ( )", b"OUT TRANSACTION_START (8 )", b"IN READ (/a )", b"OUT READ (1)"]
    lines += [b"IN WATCH (/a t )", b"OUT WATCH (OK )", b"IN TRANSACTION_END (T )", b"OUT TRANSACTION_END (OK )"]
    lines += [b"IN RM (/a )", b"OUT RM (OK )", b"IN TRANSACTION_END (F )", b"OUT TRANSACTION_END (OK )", b"IN RM (/a )"]
    text = b"".join(line.replace(b" ", b" 0x1 20261123 00:10:55 ", 1) + b"\n" for line in lines)
    _, records = read(tmp_path, text)
    assert [(op, tx) for _, op, tx, _ in asked(records)] == [
        (Op.TRANSACTION_START, 0),
        (Op.WRITE, 7),
        (Op.TRANSACTION_START, 0),
        (Op.READ, 8),
        (Op.WATCH, 0),
        (Op.TRANSACTION_END, 8),
        (Op.RM, 7),
        (Op.TRANSACTION_END, 7),
        (Op.RM, 0),
    ]


# ---- oxenstored ------------------------------------------------------------------------------------------------

LOG = Path(__file__).with_name("oxenstored-4.17.log")
"""Lines that Debian's oxenstored wrote with `access-log-*-ops = true`, put together."""


def test_an_access_log(tmp_path: Path) -> None:
    head, records = read(tmp_path, LOG.read_bytes())
    assert (head.order, head.blanks) == ("served", True)
    assert asked(records) == [
        (1, Op.WRITE, 0, b'/a/b\0val \\ ue\n \x01\xff"'),
        (1, Op.READ, 0, b"/nope\0"),
        (1, Op.WATCH, 0, b"/a\0tok en\0"),
        (1, Op.MKDIR, 0, b"/local/domain/5\0"),
        (1, Op.SET_PERMS, 0, b"/local/domain/5\0n5\0"),
        (1, Op.INTRODUCE, 0, b"5\x004097\x002\0"),
        (2, Op.TRANSACTION_START, 0, b"\0"),
        (2, Op.WRITE, 1, b"data/t\0in tx"),
        (2, Op.TRANSACTION_END, 1, b"T\0"),
        (1, Op.TRANSACTION_START, 0, b"\0"),
        (1, Op.TRANSACTION_END, 2, b"F\0"),
        (1, Op.TRANSACTION_START, 0, b"\0"),
        (1, Op.WRITE, 3, b"/cut\0xxxx"),
        (1, Op.TRANSACTION_END, 3, b"T\0"),  # and what oxenstored did again by itself is no request
        (1, Op.IS_DOMAIN_INTRODUCED, 0, b"1\0"),
        (1, Op.RESET_WATCHES, 0, b"\0"),
    ]
    answers = [record.answer for record in records if isinstance(record, Answered)]
    assert [answer.error for answer in answers] == [*(None, "ENOENT"), *[None] * 11, "EAGAIN", None, None]
    assert [answer.payload for answer in answers if answer.payload] == [b"1\0", b"2\0", b"3\0"]
    assert {record.conn: (record.domid, record.ring) for record in records if isinstance(record, Began)} == {
        1: (0, False),
        2: (5, True),
    }


# ---- which it is -----------------------------------------------------------------------------------------------


def test_a_recording_of_ours(tmp_path: Path) -> None:
    head = Head("x", "sent")
    assert read(tmp_path, to_line(head) + to_line(Ended(1, 1))) == (head, [Ended(1, 1)])


@pytest.mark.parametrize("text", [b"", b"{}\n", b"\0\0\0\0", b"nothing\n"])
def test_anything_else_is_refused_by_name(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(RecordingError, match=r"file: no recording, no trace file .*, no access log"):
        read(tmp_path, text)
