"""The outbox: bytes while there is room; then events in structure, without duplicates, collapsing, in order."""

from __future__ import annotations

import pytest

from fastxs.core.probe import Rooms
from tests.support.wire import HEADER, Message, Op, Splitter

FULL = 65536
PENDING_MAX = 1024
SAY_COLLAPSE = 5
BIG = b"x" * 4096


@pytest.fixture
def rooms() -> Rooms:
    rooms = Rooms()
    rooms.domain(1)
    return rooms


def fill(rooms: Rooms, peer: int) -> int:
    """Replies until the outbox is full; how many."""
    count = 0
    while not rooms.outbox(peer)[2]:
        rooms.message(peer, Op.READ, count, 0, BIG)
        count += 1
    return count


def drain(rooms: Rooms, peer: int) -> list[Message]:
    splitter, found = Splitter(), []
    while rooms.outbox(peer)[0]:
        found += splitter.feed(rooms.take(peer))
    assert rooms.outbox(peer) == (0, 0, False) and not splitter.pending
    return found


def events(messages: list[Message]) -> list[bytes]:
    return [message.payload for message in messages if message.op == Op.WATCH_EVENT]


def test_a_message_is_a_header_and_its_payload(rooms: Rooms) -> None:
    peer = rooms.peer(0)
    rooms.message(peer, Op.READ, 7, 9, b"value")
    rooms.message(peer, Op.WRITE, 0xFFFFFFFF, 0, b"")
    assert rooms.outbox(peer) == (37, 0, False)
    assert rooms.take(peer) == HEADER.pack(2, 7, 9, 5) + b"value" + HEADER.pack(11, 0xFFFFFFFF, 0, 0)
    assert rooms.outbox(peer) == (0, 0, False) and rooms.take(peer) == b""
    assert rooms.counters["replies"] == 2


def test_an_event_carries_path_and_token(rooms: Rooms) -> None:
    peer = rooms.peer(0)
    watch = rooms.watch(peer, b"/a", b"token")
    rooms.event(peer, watch, b"/a/b")
    assert drain(rooms, peer) == [Message(Op.WATCH_EVENT, 0, 0, b"/a/b\0token\0")]


def test_full_is_more_than_64_kib(rooms: Rooms) -> None:
    peer = rooms.peer(0)
    size = HEADER.size + len(BIG)
    assert fill(rooms, peer) == FULL // size + 1 == 16
    assert rooms.outbox(peer) == (16 * size, 0, True)


def test_a_full_outbox_keeps_events_in_structure_and_in_order(rooms: Rooms) -> None:
    peer = rooms.peer(0)
    a, b = rooms.watch(peer, b"/a", b"a"), rooms.watch(peer, b"/b", b"b")
    rooms.event(peer, a, b"/a/0")
    replies = fill(rooms, peer)
    bytes_before = rooms.outbox(peer)[0]
    for i in range(1, 6):
        rooms.event(peer, a, b"/a/%d" % i)
        rooms.event(peer, b, b"/b/%d" % i)
    assert rooms.outbox(peer) == (bytes_before, 10, True) and rooms.counts["events"] == 10
    messages = drain(rooms, peer)
    assert [m.op for m in messages] == [Op.WATCH_EVENT] + [Op.READ] * replies + [Op.WATCH_EVENT] * 10
    assert events(messages) == [b"/a/0\0a\0"] + [b"/%c/%d\0%c\0" % (c, i, c) for i in range(1, 6) for c in b"ab"]
    assert rooms.counts["events"] == 0


def test_no_reply_overtakes_the_events_of_its_request(rooms: Rooms) -> None:
    """However full the outbox: first the events that wait, then the reply."""
    peer = rooms.peer(0)
    watch = rooms.watch(peer, b"/", b"t")
    fill(rooms, peer)
    for i in range(100):
        rooms.event(peer, watch, b"/%d" % i)
    rooms.message(peer, Op.WRITE, 4711, 0, b"OK\0")
    rooms.event(peer, watch, b"/later")
    messages = drain(rooms, peer)
    assert events(messages) == [*(b"/%d\0t\0" % i for i in range(100)), b"/later\0t\0"]
    assert messages[-2].req_id == 4711


def test_no_event_overtakes_another(rooms: Rooms) -> None:
    """Neither those that waited in structure nor the one that comes after them."""
    peer = rooms.peer(0)
    watch = rooms.watch(peer, b"/", b"t")
    fill(rooms, peer)
    for i in range(3):
        rooms.event(peer, watch, b"/%d" % i)
    rooms.take(peer)
    assert rooms.outbox(peer)[1:] == (0, False), "there was room for all"
    rooms.event(peer, watch, b"/3")
    assert events(drain(rooms, peer)) == [b"/%d\0t\0" % i for i in range(4)]


def test_an_identical_waiting_event_is_dropped(rooms: Rooms) -> None:
    """The same path for the same watch; neither another watch nor another path, and specials never."""
    peer = rooms.peer(0)
    a, b, special = (rooms.watch(peer, path, token) for path, token in ((b"/", b"1"), (b"/", b"2"), (b"@s", b"3")))
    fill(rooms, peer)
    for _ in range(3):
        rooms.event(peer, a, b"/x")
        rooms.event(peer, b, b"/x")
        rooms.event(peer, a, b"/y")
        rooms.event(peer, special, b"@s", special=True)
    assert rooms.outbox(peer)[1] == 6 and rooms.counters["dropped"] == 6
    expected = [b"/x\x001\0", b"/x\x002\0", b"/y\x001\0", b"@s\x003\0", b"@s\x003\0", b"@s\x003\0"]
    assert events(drain(rooms, peer)) == expected
    rooms.event(peer, a, b"/x")
    rooms.event(peer, a, b"/x")
    assert events(drain(rooms, peer)) == [b"/x\x001\0"] * 2, "as bytes, nothing is compared"


def test_too_many_waiting_events_collapse_into_look_again(rooms: Rooms) -> None:
    """The watch that overflows gets one event with its own path; those of others stay."""
    peer = rooms.peer(1)
    busy = rooms.watch(peer, b"/a/b", b"busy")
    calm = rooms.watch(peer, b"/local/domain/1/c", b"calm", relative=True)
    fill(rooms, peer)
    rooms.event(peer, calm, b"c/1")
    for i in range(PENDING_MAX - 1):
        rooms.event(peer, busy, b"/a/b/%d" % i)
    assert rooms.outbox(peer)[1] == PENDING_MAX and rooms.counters["collapsed"] == 0 and rooms.said() == []
    rooms.event(peer, busy, b"/a/b/last")
    rooms.event(peer, busy, b"/a/b/later")
    rooms.event(peer, calm, b"c/2")
    assert rooms.outbox(peer)[1] == 3 and rooms.counters["collapsed"] == 2
    assert [(kind, what) for kind, _, what, *_ in rooms.said()] == [(SAY_COLLAPSE, b"/a/b")]
    assert events(drain(rooms, peer)) == [b"c/1\0calm\0", b"/a/b\0busy\0", b"c/2\0calm\0"]
    rooms.event(peer, busy, b"/a/b/new")
    assert events(drain(rooms, peer)) == [b"/a/b/new\0busy\0"], "it is over"
    fill(rooms, peer)
    rooms.event(peer, busy, b"/a/b/newer")
    assert events(drain(rooms, peer)) == [b"/a/b/newer\0busy\0"], "and stays over when it is full again"


@pytest.mark.parametrize(
    "path, relative, shown",
    [
        (b"/", False, b"/"),
        (b"/a", False, b"/a"),
        (b"/local/domain/1/device/vif", True, b"device/vif"),
        (b"/local/domain/1/device", False, b"/local/domain/1/device"),
        (b"@releaseDomain", False, b"@releaseDomain"),
        (b"@releaseDomain/5", False, b"@releaseDomain/5"),
        (b"/" + b"/".join([b"x"] * 1500), False, b"/" + b"/".join([b"x"] * 1500)),
    ],
    ids=["root", "one", "relative", "absolute", "special", "special of a domain", "deep"],
)
def test_a_collapsed_event_has_the_watch_s_path_as_it_was_given(
    rooms: Rooms, path: bytes, relative: bool, shown: bytes
) -> None:
    peer = rooms.peer(1)
    watch = rooms.watch(peer, path, b"t", relative=relative)
    fill(rooms, peer)
    for i in range(PENDING_MAX + 1):
        rooms.event(peer, watch, b"/e/%d" % i)
    assert events(drain(rooms, peer)) == [shown + b"\0t\0"]


def test_waiting_events_of_all_watches_are_bounded(rooms: Rooms) -> None:
    """Memory is bounded by the limit plus one event per watch."""
    peer = rooms.peer(0)
    watches = [rooms.watch(peer, b"/w%d" % i, b"t") for i in range(50)]
    fill(rooms, peer)
    for i in range(5000):
        rooms.event(peer, watches[i % 50], b"/w%d/%d" % (i % 50, i))
    assert rooms.outbox(peer)[1] <= PENDING_MAX + 50
    told = {event.split(b"/")[1].split(b"\0")[0] for event in events(drain(rooms, peer))}
    assert told == {b"w%d" % i for i in range(50)}, "each was told of something"


def test_a_watch_takes_its_waiting_events_along(rooms: Rooms) -> None:
    peer = rooms.peer(0)
    gone, stays = rooms.watch(peer, b"/g", b"g"), rooms.watch(peer, b"/s", b"s")
    fill(rooms, peer)
    for i in range(10):
        rooms.event(peer, gone, b"/g/%d" % i)
        rooms.event(peer, stays, b"/s/%d" % i)
    rooms.unwatch(peer, b"/g", b"g")
    assert rooms.outbox(peer)[1] == rooms.counts["events"] == 10
    assert events(drain(rooms, peer)) == [b"/s/%d\0s\0" % i for i in range(10)]


def test_an_event_larger_than_a_message_is_dropped(rooms: Rooms) -> None:
    peer = rooms.peer(0)
    watch = rooms.watch(peer, b"/", b"t" * 100)
    fits = b"/" + b"x" * (4096 - 100 - 2 - 1)
    rooms.event(peer, watch, fits)
    rooms.event(peer, watch, fits + b"x")
    assert [len(payload) for payload in events(drain(rooms, peer))] == [4096]
    assert rooms.counters["dropped"] == 1


def test_peers_do_not_meet(rooms: Rooms) -> None:
    full, free = rooms.peer(0), rooms.peer(1)
    a, b = rooms.watch(full, b"/", b"t"), rooms.watch(free, b"/", b"t")
    fill(rooms, full)
    for watch, peer in ((a, full), (b, free)):
        rooms.event(peer, watch, b"/x")
    assert rooms.outbox(full)[1] == 1 and rooms.outbox(free)[1] == 0
    assert events(drain(rooms, free)) == events(drain(rooms, full)) == [b"/x\0t\0"]
