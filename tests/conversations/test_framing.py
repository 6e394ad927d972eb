"""A stream of bytes is cut into messages by their headers alone, however the bytes arrive."""

from __future__ import annotations

import random

import pytest

from tests.conversations.speak import OK, Speaker, World, nul
from tests.support.wire import HEADER, Message, Op, Splitter, pack

TALK = [
    Message(Op.WRITE, 1, 0, b"/a\0one"),
    Message(Op.READ, 2, 0, b"/a\0"),
    Message(Op.WRITE, 3, 0, b"/a/b\0"),
    Message(Op.READ, 4, 0, b"/a/b\0"),
    Message(Op.DIRECTORY, 5, 0, b"/a\0"),
    Message(Op.RM, 0xFFFFFFFF, 0, b"/nowhere/x\0"),
    Message(Op.TRANSACTION_START, 7, 0, b""),
    Message(Op.WATCH, 8, 0, b"/a\0token\0"),
    Message(Op.WRITE, 9, 1, b"/a\0" + bytes(range(256))),
    Message(Op.TRANSACTION_END, 10, 1, b"T\0"),
    Message(Op.READ, 11, 0, b"/a\0"),
    Message(27, 12, 0, b""),
]
HEARD = [
    Message(Op.WRITE, 1, 0, OK),
    Message(Op.READ, 2, 0, b"one"),
    Message(Op.WRITE, 3, 0, OK),
    Message(Op.READ, 4, 0, b""),
    Message(Op.DIRECTORY, 5, 0, b"b\0"),
    Message(Op.ERROR, 0xFFFFFFFF, 0, b"ENOENT\0"),
    Message(Op.TRANSACTION_START, 7, 0, b"1\0"),
    Message(Op.WATCH, 8, 0, OK),
    Message(Op.WATCH_EVENT, 0, 0, b"/a\0token\0"),
    Message(Op.WRITE, 9, 1, OK),
    Message(Op.WATCH_EVENT, 0, 0, b"/a\0token\0"),
    Message(Op.TRANSACTION_END, 10, 1, OK),
    Message(Op.READ, 11, 0, bytes(range(256))),
    Message(Op.ERROR, 12, 0, b"ENOSYS\0"),
]
STREAM = b"".join(pack(m.op, m.payload, m.req_id, m.tx_id) for m in TALK)


def heard(speaker: Speaker, pieces: list[bytes]) -> list[Message]:
    """All that comes back when the stream arrives in these pieces."""
    splitter = Splitter()
    found = []
    for piece in pieces:
        speaker.engine.feed(speaker.peer.conn_id, piece)
        found += splitter.feed(speaker.engine.take(speaker.peer.conn_id))
    assert splitter.pending == 0
    return found


def dead(speaker: Speaker) -> bool:
    """The daemon listens to this connection no more."""
    try:
        speaker.engine.take(speaker.peer.conn_id)
        return speaker.hear(Op.READ, nul("/")) == []
    except LookupError:
        return True


def test_a_stream_in_one_piece(dom0: Speaker) -> None:
    assert heard(dom0, [STREAM]) == HEARD


def test_a_stream_byte_by_byte(dom0: Speaker) -> None:
    assert heard(dom0, [STREAM[i : i + 1] for i in range(len(STREAM))]) == HEARD


@pytest.mark.parametrize("seed", range(10))
def test_a_stream_split_at_random(dom0: Speaker, seed: int) -> None:
    cuts = sorted(random.Random(seed).choices(range(len(STREAM)), k=seed * 3 + 1))
    ends = [*cuts, len(STREAM)]
    assert heard(dom0, [STREAM[start:end] for start, end in zip([0, *cuts], ends, strict=True)]) == HEARD


def test_nothing_happens_before_the_last_byte(dom0: Speaker) -> None:
    request = pack(Op.WRITE, b"/late\0value", 1)
    other = Speaker(dom0.engine, 0)
    assert heard(dom0, [request[:-1]]) == []
    assert other.read("/late") == "ENOENT"
    assert heard(dom0, [request[-1:]]) == [Message(Op.WRITE, 1, 0, OK)]
    assert other.read("/late") == b"value"


def test_fifty_requests_at_once_are_answered_in_order(dom0: Speaker) -> None:
    asked = [pack(Op.WRITE, b"/n\0%d" % i, 2 * i) + pack(Op.READ, b"/n\0", 2 * i + 1) for i in range(25)]
    answers = heard(dom0, [b"".join(asked)])
    assert [answer.req_id for answer in answers] == list(range(50))
    assert [answer.payload for answer in answers[1::2]] == [b"%d" % i for i in range(25)]


def test_two_connections_do_not_share_a_stream(dom0: Speaker) -> None:
    other = Speaker(dom0.engine, 0)
    half = pack(Op.WRITE, b"/h\0half", 1)
    assert heard(dom0, [half[:20]]) == []
    assert other.write("/h", b"whole") == OK
    assert heard(dom0, [half[20:]]) == [Message(Op.WRITE, 1, 0, OK)]
    assert other.read("/h") == b"half"


def test_a_payload_of_4096_bytes_is_a_message(dom0: Speaker) -> None:
    value = b"v" * (4096 - len("/big") - 1)
    assert dom0.write("/big", value) == OK
    assert dom0.read("/big") == value


@pytest.mark.parametrize("length", [4097, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_longer_one_ends_the_connection(world: World, length: int) -> None:
    fool = world.again(world.dom0)
    fool.quietly_watch("/", "mine")
    tx = fool.start()
    assert fool.write("/in-tx", b"", tx) == OK
    fool.engine.feed(fool.peer.conn_id, HEADER.pack(Op.WRITE, 9, 0, length))
    if length == 4097:
        # Where a whole payload comes along with the bad header, it is no request either.
        fool = world.again(world.dom0)
        fool.engine.feed(fool.peer.conn_id, pack(Op.WRITE, b"/long\0" + b"x" * 4091, 9))
    assert dead(fool)
    assert world.dom0.read("/long") == "ENOENT"
    assert world.dom0.read("/in-tx") == "ENOENT"


def test_requests_before_the_bad_header_count(world: World) -> None:
    fool = world.again(world.dom0)
    fool.engine.feed(fool.peer.conn_id, pack(Op.WRITE, b"/good\0", 1) + HEADER.pack(Op.WRITE, 2, 0, 5000))
    assert dead(fool)
    assert world.dom0.read("/good") == b""


@pytest.mark.parametrize("op", [15, 16, 20, 27, 28, 127, 255, 65535, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_an_unknown_type_is_enosys(dom0: Speaker, op: int) -> None:
    assert dom0.ask(op, b"") == "ENOSYS"
    assert dom0.ask(op, b"/a\0") == "ENOSYS"
    assert dom0.ask(op, b"/a\0", 99) == "ENOSYS"


@pytest.mark.parametrize("op", [op for op in Op if op not in (Op.WATCH_EVENT, Op.ERROR, Op.RESTRICT, Op.INVALID)])
def test_a_reply_echoes_type_request_and_transaction(dom0: Speaker, op: Op) -> None:
    dom0.peer.send_raw(pack(op, b"", 0xDEADBEEF, 77))
    reply = dom0.peer.recv(0)
    assert reply.req_id == 0xDEADBEEF
    assert reply.tx_id == 77
    assert reply.op in (op, Op.ERROR)


def test_a_reply_that_would_be_too_long_is_e2big(dom0: Speaker) -> None:
    names = [f"child-{i:09}" for i in range(256)]  # 256 times 15 bytes and a NUL: 4096
    for name in names:
        assert dom0.mkdir(f"/wide/{name}") == OK
    assert dom0.ls("/wide") == names
    assert dom0.mkdir("/wide/x") == OK
    assert dom0.ls("/wide") == "E2BIG"


def test_an_event_that_would_be_too_long_is_dropped(dom0: Speaker) -> None:
    token = "t" * 4080
    assert dom0.watch("/w", token) == OK
    assert dom0.events() == [("/w", token)]
    assert dom0.write("/w/123456789") == OK  # 12 + 1 + 4080 + 1 = 4094
    assert dom0.events() == [("/w/123456789", token)]
    assert dom0.write("/w/123456789ab") == OK  # 4096: the longest
    assert dom0.events() == [("/w/123456789ab", token)]
    assert dom0.write("/w/123456789abc") == OK
    assert dom0.events() == []
    assert dom0.ask(Op.READ, nul("/w/123456789abc")) == b""
