"""What was written is read again; and whatever the bytes are, reading ends with a State or a StreamError."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxs.state import (
    Connection,
    Domain,
    Node,
    Perm,
    Ring,
    Socket,
    State,
    StreamError,
    Version,
    Watch,
    load,
    oxenstored,
    read,
    write,
)
from tests.state.strategies import STATES

ROOT = Node(b"/", b"", (Perm("n", 0),))


def written(state: State, version: Version = 2, byteorder: Literal["little", "big"] = "little") -> bytes:
    stream = io.BytesIO()
    write(state, stream, version, byteorder)
    return stream.getvalue()


def plain(state: State) -> State:
    """With nodes in a list and connections in an order that the writer may not change."""
    return replace(state, nodes=list(state.nodes), connections=sorted(state.connections, key=lambda each: each.id))


def as_read(state: State, version: Version) -> State:
    """What a stream of this version keeps."""
    rings = {each.peer.domid for each in state.connections if isinstance(each.peer, Ring)}
    domains = [domain for domain in state.domains if domain.domid in rings]
    if version == 2:
        return replace(state, domains=domains)
    connections = [
        replace(
            each,
            peer=replace(each.peer, unique_id=None) if isinstance(each.peer, Ring) else each.peer,
            watches=[replace(watch, depth=None) for watch in each.watches],
        )
        for each in state.connections
    ]
    return replace(state, connections=connections, domains=[], quotas={}, global_quotas={})


@given(STATES, st.sampled_from([1, 2]), st.sampled_from(["little", "big"]))
def test_what_is_written_is_read_again(state: State, version: Version, byteorder: Literal["little", "big"]) -> None:
    assert plain(read(written(state, version, byteorder))) == plain(as_read(state, version))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([5, -11, 0, 6, -12], [0, 5, -11, 6, -12]),
        ([(6, 5), 0, 5], [0, 5, (6, 5)]),
        ([(7, 6), (6, 5), 5, 8], [5, (6, 5), (7, 6), 8]),
        ([(6, 9)], [(6, 9)]),
        ([(5, 6), (6, 5)], [(6, 5), (5, 6)]),
        ([(5, 5)], [(5, 5)]),
    ],
)
def test_domain_0_comes_first_and_a_target_before_who_acts_for_it(
    given: list[int | tuple[int, int]], expected: list[int | tuple[int, int]]
) -> None:
    """A number is a domid, or a client's descriptor negated; a pair is a domid and its target."""
    connections = [
        Connection(n, Ring(who[0], 1, who[1]) if isinstance(who, tuple) else Ring(who, 1) if who >= 0 else Socket(-who))
        for n, who in enumerate(given, 1)
    ]
    found: list[int | tuple[int, int]] = []
    for connection in read(written(State(connections=connections))).connections:
        peer = connection.peer
        if isinstance(peer, Socket):
            found.append(-peer.fd)
        else:
            found.append(peer.domid if peer.target is None else (peer.domid, peer.target))
    assert found == expected


@given(STATES, st.data())
def test_damage_is_refused_and_nothing_worse(state: State, data: st.DataObject) -> None:
    stream = bytearray(written(state, byteorder=data.draw(st.sampled_from(["little", "big"]))))
    for at in data.draw(st.lists(st.integers(0, len(stream) - 1), max_size=4), "places"):
        some = data.draw(
            st.binary(min_size=1, max_size=4) | st.sampled_from([b"\xff\xff", b"\xff\xff\xff\xff", b"\0\0"])
        )
        stream[at : at + len(some)] = some
    exhaust(bytes(stream[: data.draw(st.integers(0, len(stream)) | st.just(len(stream)))]))


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=64)), max_size=5), st.sampled_from([b"\0", b"\1"]))
def test_nonsense_in_the_form_of_records_is_refused_and_nothing_worse(
    records: list[tuple[int, bytes]], order: bytes
) -> None:
    stream = b"xenstore\0\0\0\2\0\0\0" + order
    for kind, body in records:
        body += bytes(-len(body) % 8)
        stream += b"".join(n.to_bytes(4, "big" if order == b"\1" else "little") for n in (kind, len(body))) + body
    exhaust(stream + bytes(8))


def exhaust(stream: bytes) -> None:
    try:
        for _ in read(stream).nodes:
            pass
    except StreamError:
        pass


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        (State(connections=[Connection(1, Socket(3), unread=bytes(65536))]), "connection 1: does not fit"),
        (State(connections=[Connection(2**32, Socket(3))]), f"connection {2**32}: does not fit"),
        (State(connections=[Connection(1, Ring(65536, 3))]), "connection 1: does not fit"),
        (
            State(connections=[Connection(1, Socket(3), watches=[Watch(b"/", bytes(65535))])]),
            "watch b'/' of connection 1",
        ),
        (State(connections=[Connection(1, Socket(3), transactions=[-1])]), "connection 1: does not fit"),
        (State(connections=[Connection(1, Ring(5, 3))], domains=[Domain(5, -1)]), "domain 5: does not fit"),
        (State(quotas={"nodes": -1}), "quotas: does not fit"),
        (State(nodes=[ROOT._replace(value=bytes(65536))]), "node b'/': does not fit"),
        (State(nodes=[ROOT._replace(perms=(Perm("n", -1),))]), "permissions of b'/': does not fit"),
        (State(listen_fd=2**31), "descriptors: does not fit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused(state: State, complaint: str) -> None:
    with pytest.raises(StreamError, match=complaint):
        written(state)


def test_a_depth_beyond_every_path_is_as_good_as_the_deepest() -> None:
    state = State(connections=[Connection(1, Socket(3), watches=[Watch(b"/", b"t", 10**9)])])
    assert read(written(state)).connections[0].watches == [Watch(b"/", b"t", 0xFFFE)]


def test_a_file_of_either_kind_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(written(State(listen_fd=3, nodes=[ROOT])))
    with path.open("rb") as file:
        state = load(file)
    assert (state.listen_fd, list(state.nodes)) == (3, [ROOT]), "it may be closed before the nodes are read"
    path.write_bytes(oxenstored.HEADER + b"\nglobal,3\nstore,2f,6e30,\n")
    with path.open("rb") as file:
        assert plain(load(file)) == State(listen_fd=3, nodes=[ROOT])
    path.write_bytes(b"")
    with path.open("rb") as file, pytest.raises(StreamError, match="the file is empty"):
        load(file)
