"""The ring: the daemon's side is the room's, the guest's is played here on the page, from the protocol's own table."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxs.core.probe import Ring

SIZE = 1024
WRAP = 2**32
# Offsets in the page, of the protocol's description.
REQ, RSP, REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, FEATURES, CONNECTION, ERROR, PORT = (
    *(0, 1024, 2048, 2052, 2056, 2060, 2064, 2068, 2072, 2076),
)
STARTS = [0, 1, 1023, 1024, 5000, WRAP - 1, WRAP - 100, WRAP - 1024]
POSITION = st.one_of(st.sampled_from(STARTS), st.integers(0, WRAP - 1))


def peek(ring: Ring, offset: int) -> int:
    value: int = struct.unpack_from("=I", ring.page, offset)[0]
    return value


def poke(ring: Ring, offset: int, value: int) -> None:
    struct.pack_into("=I", ring.page, offset, value % WRAP)


def guest_write(ring: Ring, data: bytes) -> None:
    """The guest puts bytes behind its index, then moves it."""
    prod = peek(ring, REQ_PROD)
    for i, byte in enumerate(data):
        ring.page[REQ + (prod + i) % SIZE] = byte
    poke(ring, REQ_PROD, prod + len(data))


def guest_read(ring: Ring) -> bytes:
    """It takes all that is there, then moves its index."""
    cons, prod = peek(ring, RSP_CONS), peek(ring, RSP_PROD)
    data = bytes(ring.page[RSP + (cons + i) % SIZE] for i in range((prod - cons) % WRAP))
    poke(ring, RSP_CONS, prod)
    return data


@given(POSITION, st.binary(min_size=1, max_size=SIZE))
def test_requests_come_whole_wherever_the_indices_stand(start: int, data: bytes) -> None:
    """Across the end of the ring (two copies) and across 2**32."""
    ring = Ring()
    poke(ring, REQ_PROD, start)
    assert ring.readable(start) == 0
    guest_write(ring, data)
    assert ring.readable(start) == len(data)
    assert ring.copy_in(start, len(data)) == data


@given(POSITION, st.binary(min_size=1, max_size=SIZE))
def test_replies_go_whole_wherever_the_indices_stand(start: int, data: bytes) -> None:
    ring = Ring()
    poke(ring, RSP_CONS, start)
    poke(ring, RSP_PROD, start)
    assert ring.writable(start) == SIZE
    ring.copy_out(start, data)
    assert guest_read(ring) == b"", "nothing is there before it is published"
    ring.publish(0, (start + len(data)) % WRAP)
    assert ring.writable((start + len(data)) % WRAP) == SIZE - len(data)
    assert guest_read(ring) == data
    assert ring.writable((start + len(data)) % WRAP) == SIZE


@pytest.mark.parametrize("start", STARTS)
def test_a_distance_beyond_the_ring_is_impossible(start: int) -> None:
    """Full is 1024; anything else, backwards too, is a guest that lies."""
    ring = Ring()
    for distance in (0, 1, 1023, 1024):
        poke(ring, REQ_PROD, start + distance)
        assert ring.readable(start) == distance
        poke(ring, RSP_CONS, start - distance)
        assert ring.writable(start) == SIZE - distance
    for distance in (1025, 2048, 2**31 - 1, 2**31, WRAP - 1):
        poke(ring, REQ_PROD, start + distance)
        assert ring.readable(start) == -1
        poke(ring, RSP_CONS, start - distance)
        assert ring.writable(start) == -1


@given(POSITION, POSITION, st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=900)), max_size=30))
def test_both_ways_in_turns(req: int, rsp: int, steps: list[tuple[bool, bytes]]) -> None:
    """Pieces of any size, each way, never out of order; the two directions do not touch each other."""
    ring = Ring()
    for offset, value in ((REQ_CONS, req), (REQ_PROD, req), (RSP_CONS, rsp), (RSP_PROD, rsp)):
        poke(ring, offset, value)
    for inward, data in steps:
        if inward:
            guest_write(ring, data)
            half = ring.readable(req) // 2
            got = ring.copy_in(req, half)
            req = (req + half) % WRAP
            ring.publish(req, rsp)
            assert got + ring.copy_in(req, ring.readable(req)) == data
            req = peek(ring, REQ_PROD)
        else:
            ring.copy_out(rsp, data)
            rsp = (rsp + len(data)) % WRAP
        ring.publish(req, rsp)
        assert (peek(ring, REQ_CONS), peek(ring, RSP_PROD)) == (req, rsp)
        if not inward:
            assert guest_read(ring) == data
        assert ring.readable(req) == 0 and ring.writable(rsp) == SIZE


def test_our_indices_are_ours() -> None:
    """What a guest writes over them changes nothing: they are read from the page by nobody."""
    ring = Ring()
    guest_write(ring, b"abc")
    poke(ring, REQ_CONS, 999)
    poke(ring, RSP_PROD, 12345)
    assert ring.readable(0) == 3 and ring.copy_in(0, 3) == b"abc" and ring.writable(0) == SIZE
    ring.publish(3, 0)
    assert (peek(ring, REQ_CONS), peek(ring, RSP_PROD)) == (3, 0)


def test_a_copy_writes_the_replies_alone() -> None:
    ring = Ring()
    ring.copy_out(1000, b"x" * SIZE)
    assert ring.page[RSP:REQ_CONS] == b"x" * SIZE
    assert not any(ring.page[:RSP]) and not any(ring.page[REQ_CONS:])


def test_a_ring_starts_at_0_connected_with_features() -> None:
    ring = Ring()
    for offset in range(REQ_CONS, PORT + 4, 4):
        poke(ring, offset, 0xFFFFFFF0)
    guest_write(ring, b"left over")
    ring.start(15)
    offsets = (REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, FEATURES, CONNECTION, ERROR)
    assert [peek(ring, offset) for offset in offsets] == [0, 0, 0, 0, 15, 0, 0]
    assert peek(ring, PORT) == 0xFFFFFFF0, "the hypervisor's, not ours"


def test_a_failure_is_told_in_the_page() -> None:
    ring = Ring()
    for error in (1, 2, 3):
        ring.fail(error)
        assert peek(ring, ERROR) == error
    assert not any(ring.page[:ERROR]) and not any(ring.page[PORT:])
