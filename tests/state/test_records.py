"""Each record of the migration stream, written by hand and read (SPEC 6.6; xenstore-migration.md of Xen)."""

from __future__ import annotations

from itertools import product

import pytest

from fastxs.state import Connection, Domain, Node, Perm, Ring, Socket, StreamError, Watch, read
from tests.state.by_hand import (
    CONNECTION,
    DOMAIN,
    END,
    GLOBAL,
    GLOBAL_QUOTA,
    NO_TARGET,
    NODE,
    TRANSACTION,
    WATCH,
    WATCH_EXTENDED,
    Hand,
)


@pytest.fixture(params=["little-endian", "big-endian"])
def hand(request: pytest.FixtureRequest) -> Hand:
    return Hand(big=request.param == "big-endian")


def test_an_empty_store(hand: Hand) -> None:
    state = read(hand.stream())
    assert (state.listen_fd, state.evtchn_fd, state.connections, list(state.nodes)) == (None, None, [], [])


def test_the_descriptors_that_are_handed_over(hand: Hand) -> None:
    state = read(hand.stream(hand.record(GLOBAL, hand.pack("ii", 3, 9))))
    assert (state.listen_fd, state.evtchn_fd) == (3, 9)
    state = read(hand.stream(hand.record(GLOBAL, hand.pack("ii", -1, 9))))
    assert (state.listen_fd, state.evtchn_fd) == (None, 9), "-1: there is none"


def test_a_guest_and_one_that_acts_for_it(hand: Hand) -> None:
    state = read(hand.stream(hand.ring(1, 5, port=7), hand.ring(2, 6, target=5, port=8)))
    assert state.connections == [Connection(1, Ring(5, 7)), Connection(2, Ring(6, 8, target=5))]


def test_a_client_in_the_middle_of_everything(hand: Hand) -> None:
    """Half a request, the rest of a reply that is on its way, and an event behind it."""
    unread, rest, event = b"torn request", b"ply", b"an event"
    body = hand.pack("IHHiIHHI", 4, 1, 0, 11, 0, len(unread), len(rest), len(rest + event)) + unread + rest + event
    (client,) = read(hand.stream(hand.record(CONNECTION, body))).connections
    assert client == Connection(4, Socket(11), unread, rest + event, partial=len(rest))


@pytest.mark.parametrize("size", range(9))
def test_a_unique_id_comes_behind_the_padded_data(hand: Hand, size: int) -> None:
    """From Xen 4.21 on."""
    body = hand.pack("IHHHHIHHI", 1, 0, 1, 5, NO_TARGET, 7, size, 0, 0) + bytes(size)
    body += bytes(-len(body) % 8) + hand.pack("Q", 0x1122334455667788)
    (guest,) = read(hand.stream(hand.record(CONNECTION, body))).connections
    assert guest == Connection(1, Ring(5, 7, unique_id=0x1122334455667788), unread=bytes(size))


def test_watches_belong_to_the_connections_before_them(hand: Hand) -> None:
    state = read(
        hand.stream(
            hand.ring(1, 5),
            hand.watch(1, b"data", b"t"),
            hand.socket(2, 11),
            hand.watch(2, b"@releaseDomain", b""),
            hand.watch(1, b"/a", b"later"),
        )
    )
    assert [connection.watches for connection in state.connections] == [
        [Watch(b"data", b"t"), Watch(b"/a", b"later")],
        [Watch(b"@releaseDomain", b"")],
    ]


# The document has padding behind the depth, C xenstored 4.22 reads without.  It writes a third form: as if there
# were no depth, in a record whose length counts one.
@pytest.mark.parametrize("form", ["as documented", "as 4.22 reads", "as 4.22 writes"])
def test_a_watch_with_a_depth(hand: Hand, form: str) -> None:
    paths, tokens = (b"/", b"/a", b"abc", b"@releaseDomain"), (b"", b"t", b"/a", b"four", b"fives")
    for path, token, depth in product(paths, tokens, (0, 1, 0xFFFE, 0xFFFF)):
        strings = path + b"\0" + token + b"\0"
        fixed = hand.pack("IHH", 1, len(path) + 1, len(token) + 1)
        if form == "as documented":
            record = hand.record(WATCH_EXTENDED, fixed + hand.pack("HH", depth, 0) + strings)
        elif form == "as 4.22 reads":
            record = hand.record(WATCH_EXTENDED, fixed + hand.pack("H", depth) + strings)
        else:
            length = len(hand.record(0, fixed + bytes(4) + strings)) - 8
            record = hand.pack("II", WATCH_EXTENDED, length) + fixed + strings
            record += bytes(-len(record) % 8)
        state = read(hand.stream(hand.socket(1, 11), record, hand.node(b"/", b"", (b"n", 0, 0))))
        lost = form == "as 4.22 writes"
        assert state.connections[0].watches == [Watch(path, token, None if lost or depth == 0xFFFF else depth)]
        assert len(state.notes) == lost, "the loss is said"
        assert [node.path for node in state.nodes] == [b"/"], "the records behind it are found"


def test_open_transactions_are_only_named(hand: Hand) -> None:
    """What they wrote comes as nodes of their connection; it goes with them."""
    state = read(
        hand.stream(
            hand.socket(1, 11),
            hand.record(TRANSACTION, hand.pack("II", 1, 77)),
            hand.node(b"/", b"", (b"n", 0, 0)),
            hand.node(b"/pending", b"x", conn_id=1),
        )
    )
    assert state.connections[0].transactions == [77]
    assert [node.path for node in state.nodes] == [b"/"]


def test_nodes(hand: Hand) -> None:
    state = read(
        hand.stream(
            hand.node(b"/", b"", (b"n", 0, 0)),
            hand.node(b"/a", b"any\0bytes", (b"r", 0, 5), (b"b", 1, 6), (b"w", 0, 7)),
            hand.node(b"@releaseDomain", b"", (b"n", 0, 0), (b"r", 0, 0x7FF5)),
        )
    )
    expected = [
        Node(b"/", b"", (Perm("n", 0),)),
        Node(b"/a", b"any\0bytes", (Perm("r", 5), Perm("b", 6, stale=True), Perm("w", 7))),
        Node(b"@releaseDomain", b"", (Perm("n", 0), Perm("r", 0x7FF5))),
    ]
    assert list(state.nodes) == expected
    assert list(state.nodes) == expected, "they can be read again"


def test_quotas_of_all_domains_and_of_one(hand: Hand) -> None:
    """They come after the nodes in C's streams; they are there at once all the same."""
    state = read(
        hand.stream(
            hand.node(b"/", b"", (b"n", 0, 0)),
            hand.record(GLOBAL_QUOTA, hand.pack("HHIII", 2, 1, 1000, 0, 7) + b"nodes\0watches\0all\0"),
            hand.record(DOMAIN, hand.pack("HHII", 5, 1, 12, 99) + b"nodes\0"),
            hand.record(DOMAIN, hand.pack("HHI", 6, 0, 0)),
        )
    )
    assert (state.quotas, state.global_quotas) == ({"nodes": 1000, "watches": 0}, {"all": 7})
    assert state.domains == [Domain(5, 12, {"nodes": 99}), Domain(6, 0)]


def test_features_came_with_version_2() -> None:
    hand = Hand(version=1)
    state = read(hand.stream(hand.record(DOMAIN, hand.pack("HHI", 5, 0, 12))))
    assert state.domains == [Domain(5, None)]


def test_unknown_types_are_passed_over_and_named(hand: Hand) -> None:
    state = read(hand.stream(hand.record(9, b"?"), hand.record(1000), hand.record(9), hand.socket(1, 11)))
    assert len(state.connections) == 1
    assert state.notes == [
        "2 records of the unknown type 9 were passed over",
        "1 records of the unknown type 1000 were passed over",
    ]


def test_padding_is_ignored_and_so_is_what_follows_the_end(hand: Hand) -> None:
    body = hand.pack("IHH", 1, 3, 2) + b"/a\0t\0"
    stream = hand.stream(hand.socket(1, 11), hand.record(WATCH, body, pad=b"any"))
    assert read(stream + b"more").connections[0].watches == [Watch(b"/a", b"t")]


H = Hand()
WATCH_BODY = H.pack("IHH", 1, 3, 2) + b"/a\0t\0"
EXTENDED_BODY = H.pack("IHHHH", 1, 3, 2, 1, 0) + b"/a\0t\0"
ROOT = H.pack("IIHHHH", 0, 0, 2, 0, 0, 1) + H.pack("cBH", b"n", 0, 0) + b"/\0"


def client(*lengths: int, fields: int = 0, kind: int = 1, conn_id: int = 1, fd: int = 11) -> bytes:
    return H.pack("IHHiIHHI", conn_id, kind, fields, fd, 0, *lengths)


@pytest.mark.parametrize(
    ("stream", "complaint"),
    [
        (b"", "0 bytes are too few"),
        (H.stream()[:15], "15 bytes are too few"),
        (b"xenstart" + H.stream()[8:], "begins with b'xenstart'"),
        (Hand(version=0).stream(), "version 0"),
        (Hand(version=3).stream(), "version 3"),
        (H.stream()[:12] + b"\0\0\0\2" + H.stream()[16:], "flags 0x2"),
        (H.stream(end=False), "cut off at offset 16: there is no END"),
        (H.stream()[:-1], "cut off at offset 16"),
        (H.stream(H.record(END, bytes(8))), "END at offset 16: its length, 8, is not 0"),
        (H.stream(H.record(77, b"1", pad=b"23")), "type 77 at offset 16: its length, 3, is no multiple of 8"),
        (H.stream(H.pack("II", GLOBAL, 0xFFFFFFF8)), "GLOBAL_DATA at offset 16: its length, 4294967288, leads beyond"),
        (H.stream(H.record(GLOBAL)), "GLOBAL_DATA at offset 16: 0 bytes are too few"),
        (
            H.stream(H.record(GLOBAL, bytes(8)), H.record(GLOBAL, bytes(8))),
            "GLOBAL_DATA at offset 32: it is the second",
        ),
        (H.stream(H.record(CONNECTION, bytes(16))), "CONNECTION_DATA at offset 16: 16 bytes are too few"),
        (H.stream(H.record(CONNECTION, client(0, 0, 0, kind=2))), "connections of type 2 are not known"),
        (H.stream(H.record(CONNECTION, client(0, 0, 0, conn_id=0))), "0 names no connection"),
        (H.stream(H.record(CONNECTION, client(0, 0, 0, fd=-1))), "-1 is no descriptor"),
        (H.stream(H.socket(1, 11), H.socket(1, 12)), "CONNECTION_DATA at offset 48: 1 names no connection, or another"),
        (H.stream(H.socket(1, 11), H.socket(2, 11)), "Socket(fd=11) has a connection already"),
        (H.stream(H.ring(1, 5), H.ring(2, 5)), "has a connection already"),
        (H.stream(H.record(CONNECTION, client(0, 4, 3) + b"out")), "4 bytes of a response are more than all output, 3"),
        (
            H.stream(H.record(CONNECTION, client(1, 0, 0xFFFFFFFF))),
            "its fields take 4294967320 bytes, its length is 24",
        ),
        (H.stream(H.record(CONNECTION, client(0, 0, 0) + bytes(8))), "its fields take 24 bytes, its length is 32"),
        (H.stream(H.record(CONNECTION, client(0, 0, 0, fields=1))), "its fields take 32 bytes, its length is 24"),
        (H.stream(H.record(WATCH)), "WATCH_DATA at offset 16: 0 bytes are too few"),
        (H.stream(H.record(WATCH, WATCH_BODY)), "WATCH_DATA at offset 16: there is no connection 1 before it"),
        (H.stream(H.record(WATCH, WATCH_BODY.replace(b"\0t", b"tt"))), "not where their lengths say"),
        (H.stream(H.record(WATCH, WATCH_BODY.replace(b"/a", b"/\0"))), "not where their lengths say"),
        (H.stream(H.record(WATCH, H.pack("IHH", 1, 0, 0))), "not where their lengths say"),
        (H.stream(H.record(WATCH, H.pack("IHH", 1, 65535, 65535))), "its fields take 131078 bytes"),
        (H.stream(H.record(WATCH_EXTENDED)), "WATCH_DATA_EXTENDED at offset 16: its path and token are not"),
        (H.stream(H.record(WATCH_EXTENDED, EXTENDED_BODY)), "there is no connection 1 before it"),
        (H.stream(H.record(WATCH_EXTENDED, EXTENDED_BODY + bytes(16))), "not where their lengths say"),
        (H.stream(H.record(TRANSACTION, H.pack("II", 1, 1))), "there is no connection 1 before it"),
        (H.stream(H.record(TRANSACTION)), "TRANSACTION_DATA at offset 16: 0 bytes are too few"),
        (H.stream(H.record(GLOBAL_QUOTA, H.pack("HH", 65535, 65535))), "131070 values do not fit into it"),
        (H.stream(H.record(GLOBAL_QUOTA, H.pack("HHI", 1, 0, 5) + b"no NUL..")), "1 values and 0 names"),
        (H.stream(H.record(GLOBAL_QUOTA, H.pack("HHI", 1, 0, 5) + b"\xff\0")), "is no name"),
        (H.stream(H.record(GLOBAL_QUOTA)), "GLOBAL_QUOTA_DATA at offset 16: 0 bytes are too few"),
        (H.stream(H.record(DOMAIN, H.pack("HHI", 5, 1, 0))), "DOMAIN_DATA at offset 16: 1 values do not fit"),
        (H.stream(*[H.record(DOMAIN, H.pack("HHI", 5, 0, 0))] * 2), "it is the second one of domain 5"),
        (H.stream(H.record(DOMAIN)), "DOMAIN_DATA at offset 16: 0 bytes are too few"),
        (H.stream(H.record(NODE)), "NODE_DATA at offset 16: 0 bytes are too few"),
        (H.stream(H.record(NODE, ROOT + bytes(8))), "its fields take 22 bytes, its length is 32"),
        (H.stream(H.record(NODE, ROOT.replace(b"/\0", b"//"))), "no path that ends in a NUL"),
        (H.stream(H.record(NODE, ROOT.replace(b"/\0", b"a\0"))), "b'a\\x00' is no path"),
        (H.stream(H.record(NODE, ROOT.replace(b"n", b"x"))), "are no permissions"),
        (H.stream(H.node(b"/", b"")), "b'' are no permissions"),
        (
            H.stream(H.record(NODE, H.pack("IIHHHH", 0, 0, 2, 65535, 0, 65535) + bytes(8))),
            "its fields take 327693 bytes",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_damaged_is_refused_by_name_and_place(stream: bytes, complaint: str) -> None:
    with pytest.raises(StreamError) as refused:
        list(read(stream).nodes)
    assert complaint in str(refused.value)
