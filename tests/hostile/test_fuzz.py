"""Random bytes into one connection: it may be closed, nobody else notices, and nothing inside is out of order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conversations.speak import OK, World, nul
from tests.support.wire import HEADER, PAYLOAD_MAX, Op, Splitter, pack

if TYPE_CHECKING:
    from fastxs._core import Engine

WORDS = st.sampled_from(
    [b"/", b"/a", b"/a/b", b"a", b"/tool", b"@releaseDomain", b"@introduceDomain", b"/local/domain/",
     b"/local/domain/1", b"//", b"", b"T", b"F", b"0", b"1", b"65535", b"-1", b"n0", b"b1", b"r32757", b"n1", b"nodes",
     b"x" * 300, b"\xff\xfe", b"/\x01"]
)  # fmt: skip
STRUCTURED = st.builds(lambda words, rest: b"".join(word + b"\0" for word in words) + rest,
                       st.lists(WORDS, max_size=5), st.sampled_from([b"", b"", b"rest"]))  # fmt: skip
OPS = st.one_of(st.integers(0, 28), st.integers(0, 28), st.integers(0, 0xFFFFFFFF))
MESSAGES = st.builds(
    lambda op, payload, req_id, tx_id: pack(op, payload, req_id, tx_id),
    OPS,
    st.one_of(STRUCTURED, STRUCTURED, st.binary(max_size=64)),
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([0, 0, 0, 1, 2, 0xFFFFFFFF]),
)
STREAMS = st.one_of(
    st.lists(MESSAGES, max_size=12).map(b"".join),
    st.binary(max_size=200),
    st.builds(lambda head, tail: b"".join(head) + tail, st.lists(MESSAGES, max_size=6), st.binary(max_size=40)),
)
FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def engine() -> Engine:
    return pytest.importorskip("fastxs._core", exc_type=ImportError).Engine()  # type: ignore[no-any-return]


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted(cut % (len(stream) + 1) for cut in cuts)
    return [stream[start:end] for start, end in zip([0, *ends], [*ends, len(stream)], strict=True)]


def whole(stream: bytes) -> tuple[list[tuple[int, int, int]], bool]:
    """The headers of all whole messages of a stream, and whether a bad length ends it."""
    found: list[tuple[int, int, int]] = []
    at = 0
    while len(stream) - at >= HEADER.size:
        op, req_id, tx_id, length = HEADER.unpack_from(stream, at)
        if length > PAYLOAD_MAX:
            return found, True
        if len(stream) - at - HEADER.size < length:
            break
        found.append((op, req_id, tx_id))
        at += HEADER.size + length
    return found, False


@FUZZ
@given(stream=STREAMS, cuts=st.lists(st.integers(0, 5000), max_size=6), domid=st.sampled_from([1, 1, 0]))
def test_every_whole_message_is_answered_once(stream: bytes, cuts: list[int], domid: int) -> None:
    world = World(engine())
    guest = world.guest(1)
    speaker = guest if domid else world.again(world.dom0)
    asked, broken = whole(stream)
    splitter = Splitter()
    replies = []
    for piece in pieces(stream, cuts):
        speaker.engine.feed(speaker.peer.conn_id, piece)
        for message in splitter.feed(speaker.engine.take(speaker.peer.conn_id)):
            assert len(message.payload) <= PAYLOAD_MAX
            if message.op != Op.WATCH_EVENT:
                replies.append(message)
    if not broken:
        assert [(message.req_id, message.tx_id) for message in replies] == [ids[1:] for ids in asked]
        assert all(reply.op in (ask[0], Op.ERROR) for reply, ask in zip(replies, asked, strict=True))
        assert splitter.pending == 0
    assert world.dom0.write("/untouched", b"1") == OK
    assert world.dom0.read("/untouched") == b"1"
    world.sound()
    world.engine.close()


@FUZZ
@given(stream=STREAMS, cuts=st.lists(st.integers(0, 5000), min_size=1, max_size=8))
def test_how_a_stream_is_cut_does_not_matter(stream: bytes, cuts: list[int]) -> None:
    """Two stores, the same bytes in other pieces: the same answers, the same store."""
    heard = []
    for cut in ([], cuts):
        world = World(engine())
        guest = world.guest(1)
        answer = b""
        for piece in pieces(stream, cut):
            guest.engine.feed(guest.peer.conn_id, piece)
        for _ in range(50):
            answer += guest.engine.take(guest.peer.conn_id)
        heard.append((answer, world.dom0.ls("/local/domain/1"), world.dom0.ls("/")))
        world.engine.close()
    assert heard[0] == heard[1]


@FUZZ
@given(
    streams=st.lists(STREAMS, min_size=2, max_size=4), turns=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)))
)
def test_several_at_once(streams: list[bytes], turns: list[tuple[int, int]]) -> None:
    """Guests that talk over each other, some of them dying in the middle of a word."""
    world = World(engine())
    guests = [world.guest(domid + 1) for domid in range(len(streams))]
    left = list(streams)
    for place, size in turns:
        place %= len(guests)
        guests[place].engine.feed(guests[place].peer.conn_id, left[place][:size])
        left[place] = left[place][size:]
    world.sound()
    world.kill(1)
    world.sound()
    for guest, rest in zip(guests[1:], left[1:], strict=True):
        guest.engine.feed(guest.peer.conn_id, rest)
    world.sound()
    assert world.dom0.ask(Op.WRITE, nul("/untouched") + b"1") == OK
    world.engine.close()
