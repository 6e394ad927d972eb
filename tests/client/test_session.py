"""The session without any I/O: what it sends, and what becomes of what comes."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from fastxs.client import Conflict, Disconnected, Event, NotFound, ProtocolError, QuotaExceeded, TooBig, XenStoreError
from fastxs.client import requests as r
from fastxs.client.events import UNREAD_MAX, EventQueue
from fastxs.client.session import Session
from tests.support.wire import Message, Op, Splitter, pack


class Silent(EventQueue):
    """A queue whose reader asks by himself."""

    def wake(self) -> None:
        pass

    def all(self) -> list[Event]:
        found = []
        while (event := self.take()) is not None:
            found.append(event)
        return found


def sent(session: Session) -> list[Message]:
    """All messages that the session has to send, as the daemon reads them."""
    data = bytearray()

    def put(offered: memoryview) -> int:
        data.extend(offered)
        return len(offered)

    assert session.flush(put)
    assert not session.unsent
    return Splitter().feed(bytes(data))


def receive(session: Session, data: bytes) -> None:
    """These bytes come, in one piece."""
    session.pull(lambda: data)


def begun() -> Session:
    session = Session()
    session.begin()
    return session


def test_requests_go_out_in_order_with_ids_of_their_own() -> None:
    session = begun()
    session.post_one(r.write("/a", b"value"))
    session.post(Op.READ, [b"/a\0", b"/b\0"], tx_id=7)
    assert sent(session) == [
        (Op.WRITE, 1, 0, b"/a\0value"),
        (Op.READ, 2, 7, b"/a\0"),
        (Op.READ, 3, 7, b"/b\0"),
    ]


def feed_whole(session: Session, data: bytes) -> None:
    receive(session, data)


def feed_byte_by_byte(session: Session, data: bytes) -> None:
    for at in range(len(data)):
        receive(session, data[at : at + 1])


def feed_at_random(session: Session, data: bytes) -> None:
    cuts = sorted(random.Random(len(data)).sample(range(1, len(data)), 12))
    for begin, end in pairwise([0, *cuts, len(data)]):
        receive(session, data[begin:end])


@pytest.mark.parametrize("feed", [feed_whole, feed_byte_by_byte, feed_at_random])
def test_replies_and_events_find_whom_they_are_for(feed: Callable[[Session, bytes], None]) -> None:
    session, queue = begun(), Silent()
    watch = session.watch(queue, b"/w", "token", None)
    one = session.post_one(r.read("/a"))
    many = session.post(Op.READ, [b"/b\0", b"/c\0", b"/d\0"])
    last = session.post_one(r.mkdir("/e"))
    feed(
        session,
        pack(Op.READ, b"a's value", 1)
        + pack(Op.WATCH_EVENT, b"/w/x\0" + watch.wire + b"\0")
        + pack(Op.READ, b"", 2)
        + pack(Op.ERROR, b"ENOENT\0", 3)
        + pack(Op.READ, b"\0d\0\0", 4)
        + pack(Op.MKDIR, b"OK\0", 5),
    )
    assert [one.left, many.left, last.left] == [0, 0, 0]
    assert one.result() == b"a's value"
    assert [many.replies[0], many.replies[2]] == [b"", b"\0d\0\0"]
    assert isinstance(many.error, NotFound)
    assert many.error.filename == b"/c"
    assert many.results(None) == [b"", None, b"\0d\0\0"]
    assert queue.all() == [(b"/w/x", "token")]


def test_replies_may_come_in_any_order() -> None:
    """The daemons answer in order; the protocol promises nothing, and Linux has many clients on one ring."""
    session = begun()
    many = session.post(Op.READ, [b"%d\0" % n for n in range(5)])
    other = session.post_one(r.write("/a", b""))
    receive(session, pack(Op.WRITE, b"OK\0", 6))
    for req_id in (3, 1, 5, 2):
        receive(session, pack(Op.READ, b"%d" % req_id, req_id))
    assert not other.left
    assert many.left == 1
    receive(session, pack(Op.READ, b"3", 3))  # once more: the first one counts
    assert many.left == 1
    receive(session, pack(Op.READ, b"4", 4))
    assert many.results() == [b"1", b"2", b"3", b"4", b"5"]


def test_a_reply_that_nobody_waits_for_is_dropped() -> None:
    session = begun()
    receive(session, pack(Op.READ, b"?", 77))
    one = session.post_one(r.read("/a"))
    receive(session, pack(Op.READ, b"yes", 1))
    assert one.result() == b"yes"


def test_linux_answers_watches_without_an_id() -> None:
    session, queue = begun(), Silent()
    watch = session.watch(queue, b"/w", "token", None)
    set_ = session.post_one(r.watch("/w", watch.wire))
    read = session.post_one(r.read("/a"))
    unset = session.post_one(r.unwatch("/w", watch.wire))
    receive(session, pack(Op.WATCH, b"OK\0", 0) + pack(Op.UNWATCH, b"OK\0", 0) + pack(Op.READ, b"a", 2))
    assert [set_.result(), unset.result(), read.result()] == [b"OK\0", b"OK\0", b"a"]


def test_request_ids_begin_again_before_they_overflow() -> None:
    session = begun()
    session._next = 2**32 - 2
    assert session.post(Op.READ, [b"/\0"] * 2).first == 2**32 - 2
    many = session.post(Op.READ, [b"/\0"] * 3)
    assert [message.req_id for message in sent(session)] == [2**32 - 2, 2**32 - 1, 1, 2, 3]
    receive(session, b"".join(pack(Op.READ, b"", req_id) for req_id in (2**32 - 2, 2**32 - 1, 1, 2, 3)))
    assert not many.left


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_what_the_transport_does_not_take_is_offered_again(step: int) -> None:
    session, data = begun(), bytearray()
    values = [b"/n\0" + b"%d" % n * 50 for n in range(100)]
    session.post(Op.WRITE, values)

    def put(offered: memoryview) -> int:
        if len(data) % 3 == 2 and data[-1] % 2:
            data.append(offered[0])
            return 1
        taken = offered[:step]
        data.extend(taken)
        return len(taken)

    while not session.flush(put):
        pass
    assert [message.payload for message in Splitter().feed(bytes(data))] == values


def test_a_full_transport_says_so_either_way() -> None:
    session = begun()
    session.post_one(r.read("/a"))

    def blocked(_: memoryview) -> int:
        raise BlockingIOError

    assert not session.flush(lambda _: 0)
    assert not session.flush(blocked)
    assert session.unsent
    assert [message.payload for message in sent(session)] == [b"/a\0"]


def test_a_transport_may_refuse_one_message() -> None:
    """/dev/xen/xenbus refuses by errno what a daemon refuses by a reply."""
    session, data = begun(), bytearray()

    def put(offered: memoryview) -> int:
        message = Splitter().feed(bytes(offered))[0]
        if message.payload == b"/b\0":
            raise Conflict.of(b"/b")
        data.extend(pack(*message[:1], message.payload, message.req_id))
        return 16 + len(message.payload)

    many = session.post(Op.READ, [b"/a\0", b"/b\0", b"/c\0"])
    assert session.flush(put)
    assert [message.payload for message in Splitter().feed(bytes(data))] == [b"/a\0", b"/c\0"]
    assert isinstance(many.replies[1], Conflict)
    assert many.left == 2


def test_a_message_without_payload_is_followed_by_another() -> None:
    """Debian's oxenstored acts on it when the next one comes, and would let the client wait for ever."""
    session = begun()
    features = session.post_one(r.get_features())
    first, second = sent(session)
    assert (first.op, first.payload) == (Op.GET_FEATURE, b"")
    assert (second.op, second.req_id, second.payload) == (Op.GET_DOMAIN_PATH, 0, b"0\0")
    receive(session, pack(Op.ERROR, b"ENOSYS\0", 1) + pack(Op.GET_DOMAIN_PATH, b"/local/domain/0\0", 0))
    assert isinstance(features.error, NotImplementedError)


def test_words_that_are_on_no_list() -> None:
    session = begun()
    ox, odd = session.post_one(r.read("/a")), session.post_one(r.read("/a"))
    receive(session, pack(Op.ERROR, b"EQUOTA\0", 1) + pack(Op.ERROR, b"EWHAT\0", 2))
    assert isinstance(ox.error, QuotaExceeded)
    assert type(odd.error) is XenStoreError
    assert str(odd.error) == "[Errno 22] EWHAT: b'/a'"


@pytest.mark.parametrize(
    "data",
    [pack(Op.READ, b"x" * 4097, 1)[:4096], pack(Op.WRITE, b"OK\0", 1), b"\xff" * 16],
    ids=["too long", "of another type", "no message"],
)
def test_what_is_no_answer_ends_the_connection(data: bytes) -> None:
    session = begun()
    session.post_one(r.read("/a"))
    with pytest.raises(ProtocolError):
        receive(session, data)


def test_the_end_of_the_stream_answers_every_request() -> None:
    session = begun()
    one, many = session.post_one(r.read("/a")), session.post(Op.READ, [b"/b\0", b"/c\0"])
    receive(session, pack(Op.READ, b"a", 1) + pack(Op.READ, b"b", 2) + pack(Op.READ, b"c", 3)[:10])
    with pytest.raises(ConnectionResetError):
        receive(session, b"")
    session.end(Disconnected.of())
    assert one.result() == b"a"
    assert many.replies[0] == b"b"
    assert isinstance(many.replies[1], Disconnected)


def test_requests_too_long_are_never_sent() -> None:
    session = begun()
    with pytest.raises(TooBig):
        session.post(Op.READ, [b"/a\0", b"x" * 4097])
    with pytest.raises(TooBig):
        r.write("/a", b"x" * 4094)
    session.post_one(r.write("/a", b"x" * 4093))
    assert [len(message.payload) for message in sent(session)] == [4096]


def test_what_nobody_waits_for_any_more_is_taken_back() -> None:
    session, queue = begun(), Silent()
    watch = session.watch(queue, b"/w", "token", None)
    for request in (r.watch("/w", watch.wire), r.transaction_start(), r.transaction_start(), r.read("/a")):
        session.abandon(session.post_one(request), request)
    assert len(sent(session)) == 4
    receive(session, pack(Op.WATCH, b"OK\0", 1) + pack(Op.TRANSACTION_START, b"17\0", 2))
    receive(session, pack(Op.ERROR, b"ENOSPC\0", 3) + pack(Op.READ, b"", 4))
    assert sent(session) == [
        (Op.UNWATCH, 5, 0, b"/w\0" + watch.wire + b"\0"),
        (Op.TRANSACTION_END, 6, 17, b"F\0"),
    ]
    request = r.transaction_start()
    answered = session.post_one(request)
    receive(session, pack(Op.TRANSACTION_START, b"18\0", 7))
    session.abandon(answered, request)
    assert sent(session)[1:] == [(Op.TRANSACTION_END, 8, 18, b"F\0")]


def test_events_of_an_ended_watch_lead_nowhere() -> None:
    session, queue = begun(), Silent()
    gone, kept = (session.watch(queue, b"/w", token, None) for token in (1, 2))
    events = [pack(Op.WATCH_EVENT, b"/w\0" + watch.wire + b"\0") for watch in (gone, kept)]
    receive(session, b"".join(events))
    session.unwatch(gone)
    receive(session, b"".join(events))
    assert [event.token for event in queue.all()] == [2, 2]


def test_events_that_nobody_takes_are_folded() -> None:
    """Memory is bounded by the watches; what is told instead is what a new watch is told: look again."""
    session, queue = begun(), Silent()
    one, two = (session.watch(queue, b"/w", token, None) for token in (1, 2))
    for _ in range(3):
        for n in range(UNREAD_MAX + 1):
            receive(session, pack(Op.WATCH_EVENT, b"/w/%d\0" % n + one.wire + b"\0"))
        assert queue.all()[:2] == [(b"/w", 1), (b"/w", 2)]
    receive(session, pack(Op.WATCH_EVENT, b"/w/x\0" + two.wire + b"\0"))
    assert queue.all() == [(b"/w/x", 2)]


def test_a_new_connection_sets_the_watches_again() -> None:
    session, queue = begun(), Silent()
    one = session.watch(queue, b"/a", 1, None)
    two = session.watch(queue, b"/b", 2, 1)
    session.post_one(r.read("/lost"))
    session.end(Disconnected.of())
    session.begin()
    assert session.epoch == 2
    watch_a, watch_b = sent(session)
    assert watch_a.payload == b"/a\0" + one.wire + b"\0"
    assert watch_b.payload == b"/b\0" + two.wire + b"\0" + b"1\0"
    receive(session, pack(Op.WATCH, b"OK\0", watch_a.req_id) + pack(Op.ERROR, b"EINVAL\0", watch_b.req_id))
    marker = queue.take()
    assert type(marker).__name__ == "Reconnected"
    with pytest.raises(ValueError, match="/b"):  # the new daemon knows no depth
        queue.take()
