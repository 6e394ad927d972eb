"""Random bytes into one connection: it may be closed, nobody else notices, and nothing inside is out of order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastxs._core import Engine
from tests.conversations.speak import OK, Speaker, World
from tests.support.wire import HEADER, PAYLOAD_MAX, Op, Splitter, pack

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


@contextmanager
def fresh() -> Iterator[World]:
    """A store of its own for each example; sound at its end."""
    engine = Engine()
    try:
        world = World(engine)
        yield world
        world.sound()
    finally:
        engine.close()


def push(speaker: Speaker, data: bytes) -> bytes:
    """Bytes in, bytes out; nothing once the connection was closed for what it said."""
    try:
        speaker.engine.feed(speaker.peer.conn_id, data)
        return speaker.engine.take(speaker.peer.conn_id)
    except LookupError:
        return b""


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
    asked, broken = whole(stream)
    splitter = Splitter()
    with fresh() as world:
        guest = world.guest(1)
        speaker = guest if domid else world.again(world.dom0)
        heard = [message for piece in pieces(stream, cuts) for message in splitter.feed(push(speaker, piece))]
        assert all(len(message.payload) <= PAYLOAD_MAX for message in heard)
        if not broken:
            replies = [message for message in heard if message.op != Op.WATCH_EVENT]
            assert [(message.req_id, message.tx_id) for message in replies] == [ids[1:] for ids in asked]
            assert all(reply.op in (ask[0], Op.ERROR) for reply, ask in zip(replies, asked, strict=True))
            assert splitter.pending == 0
        assert world.dom0.write("/untouched", b"1") == OK
        assert world.dom0.read("/untouched") == b"1"


@FUZZ
@given(stream=STREAMS, cuts=st.lists(st.integers(0, 5000), min_size=1, max_size=8))
def test_how_a_stream_is_cut_does_not_matter(stream: bytes, cuts: list[int]) -> None:
    """Two stores, the same bytes in other pieces: the same answers, the same store."""
    _, broken = whole(stream)  # who breaks the rules is cut off with all that waits for it
    heard = []
    for cut in ([], cuts):
        with fresh() as world:
            guest = world.guest(1)
            answer = b"".join(push(guest, piece) for piece in pieces(stream, cut))
            heard.append((b"" if broken else answer, world.dom0.ls("/local/domain/1"), world.dom0.ls("/")))
    assert heard[0] == heard[1]


@FUZZ
@given(
    streams=st.lists(STREAMS, min_size=2, max_size=4), turns=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)))
)
def test_several_at_once(streams: list[bytes], turns: list[tuple[int, int]]) -> None:
    """Guests that talk over each other, one of them dying in the middle of a word."""
    with fresh() as world:
        guests = [world.guest(domid + 1) for domid in range(len(streams))]
        left = list(streams)
        for place, size in turns:
            place %= len(guests)
            push(guests[place], left[place][:size])
            left[place] = left[place][size:]
        world.sound()
        world.kill(1)
        world.sound()
        for guest, rest in zip(guests[1:], left[1:], strict=True):
            push(guest, rest)
        assert world.dom0.write("/untouched", b"1") == OK
