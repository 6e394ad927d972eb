"""What C xenstored 4.17 hands over at a live update is read as it was, and written again byte for byte."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

from fastxs.state import Connection, Node, Perm, Ring, Socket, State, Watch, load, read, write
from tests.state.live import Scene
from tests.support.wire import Op, Splitter, pack

# A captured stream: three guests, the second acts for the first; a client with half a request, one that asked for
# the update, whose answer waits; stale permissions.
SAMPLE = bytes.fromhex(Path(__file__).with_name("c-4.17.hex").read_text())


def again(state: State) -> bytes:
    stream = io.BytesIO()
    write(state, stream, version=1)
    return stream.getvalue()


def test_a_captured_stream() -> None:
    state = read(SAMPLE)
    assert (state.listen_fd, state.evtchn_fd) == (3, 9)
    assert state.connections == [
        Connection(1, Ring(0, port=2)),
        Connection(2, Socket(11), watches=[Watch(b"@releaseDomain", b"tok"), Watch(b"rel/ative", b"tok2")]),
        Connection(3, Socket(12), unread=pack(Op.READ, b"/a/b\0")[:18]),
        Connection(4, Ring(1, port=3), unread=pack(Op.READ, b"data\0", 6)[:19]),
        Connection(5, Ring(2, port=4, target=1)),
        Connection(6, Ring(3, port=5)),
        Connection(7, Socket(15), unsent=pack(Op.CONTROL, b"OK\0")),
    ]
    owned = (Perm("n", 0),)
    assert list(state.nodes) == [
        Node(b"@releaseDomain", b"", owned),
        Node(b"@introduceDomain", b"", owned),
        Node(b"/", b"", owned),
        Node(b"/tool", b"", owned),
        Node(b"/tool/xenstored", b"", owned),
        Node(b"/a", b"", (Perm("n", 1), Perm("r", 2), Perm("b", 9, stale=True))),
        Node(b"/a/b", b"val\0ue", owned),
    ]
    assert again(state) == SAMPLE


def test_the_store_and_who_watches_it(scene: Scene) -> None:
    scene.guest(5)
    scene.guest(6)
    scene.ok(Op.SET_TARGET, 6, 5)
    scene.ok(Op.WRITE, "/a/big", data=bytes(range(256)) * 15)
    scene.ok(Op.SET_PERMS, "/a", "b5", "r6", "w9")
    scene.ok(Op.SET_PERMS, "@releaseDomain", "n0", "r5")
    scene.ok(Op.WATCH, "@releaseDomain", "")
    scene.ok(Op.WATCH, "relative", "token")
    client = scene.client()
    assert client.call(Op.WATCH, b"/a\0t\0").payload == b"OK\0"
    with scene.update() as path:
        stream = path.read_bytes()
        state = read(stream)
        with path.open("rb") as file:
            assert load(file).connections == state.connections
        fds = {each.peer.fd for each in state.connections if isinstance(each.peer, Socket)}
        held = {fd: os.readlink(f"/proc/{scene.host.pid}/fd/{fd}") for fd in (state.listen_fd, state.evtchn_fd, *fds)}
    assert again(state) == stream

    assert held.pop(state.evtchn_fd).startswith(scene.host.env["SIMXEN_DIR"] + "/evtchn.")
    assert len(held) == 3, "one that listens, two clients"
    assert all(where.startswith("socket:") for where in held.values())

    kernel, tool, five, six, other = state.connections
    assert [kernel.peer, five.peer, six.peer] == [Ring(0, port=2), Ring(5, port=3), Ring(6, port=4, target=5)]
    assert tool.watches == [Watch(b"@releaseDomain", b""), Watch(b"relative", b"token")]
    assert other.watches == [Watch(b"/a", b"t")]
    answer = Splitter().feed(tool.unsent)
    assert [message.payload for message in answer] == [b"OK\0"], "to the request that started the update"
    assert tool.partial == 0

    nodes = {node.path: node for node in state.nodes}
    assert list(nodes) == [b"@releaseDomain", b"@introduceDomain", b"/", b"/tool", b"/tool/xenstored", b"/a", b"/a/big"]
    assert nodes[b"/a/big"].value == bytes(range(256)) * 15
    assert nodes[b"/a"].perms == (Perm("b", 5), Perm("r", 6), Perm("w", 9, stale=True))
    assert nodes[b"@releaseDomain"].perms == (Perm("n", 0), Perm("r", 5))


def test_requests_that_are_not_whole_and_one_that_has_to_wait(scene: Scene) -> None:
    guest, client, early = scene.guest(5), scene.client(), scene.client()
    request = pack(Op.READ, b"/local/domain/5\0", req_id=7)
    guest.put(request[:5])
    guest.notify()
    scene.taken(guest)
    client.send_raw(request[:-1])
    scene.heard()
    start = pack(Op.TRANSACTION_START, b"\0", req_id=8)

    def held() -> None:
        early.send_raw(start)
        scene.heard()

    with scene.update(held) as path:
        state = read(path.read_bytes())
    unread = {bytes(each.unread) for each in state.connections if each.unread}
    assert unread == {request[:5], request[:-1], start}
    guest.send_raw(request[5:])
    client.send_raw(request[-1:])
    assert [each.recv().req_id for each in (guest, client, early)] == [7, 7, 8], "nothing was lost on the way"


def test_answers_that_are_not_read(scene: Scene) -> None:
    """A ring that is full in the middle of an answer, and a socket that is full somewhere."""
    scene.ok(Op.WRITE, "/a", data=b"v" * 900)
    scene.ok(Op.SET_PERMS, "/a", "r0")
    guest, client = scene.guest(5), scene.client()
    asked = b"".join(pack(Op.READ, b"/a\0", req_id) for req_id in range(1, 4))
    answers = b"".join(pack(Op.READ, b"v" * 900, req_id) for req_id in range(1, 4))
    guest.put(asked)
    guest.notify()
    scene.taken(guest)
    requests = 1000
    for req_id in range(requests):
        client.send_raw(pack(Op.READ, b"/a\0", req_id))
    scene.heard()

    with scene.update() as path:
        state = read(path.read_bytes())
        in_ring = guest.get()
    by_peer = {each.peer.domid if isinstance(each.peer, Ring) else -each.id: each for each in state.connections}
    ring = by_peer[5]
    assert in_ring + ring.unsent == answers
    assert ring.partial == 2 * 916 - 1024, "of the second answer, 108 bytes are in the ring"
    assert replace(ring, unsent=b"", partial=0) == Connection(ring.id, Ring(5, port=3))

    full = max(by_peer.values(), key=lambda each: len(each.unsent))
    assert isinstance(full.peer, Socket)
    assert len(full.unsent) > 916
    received = [client.recv() for _ in range(requests)]
    assert [message.req_id for message in received] == list(range(requests))
    assert {message.payload for message in received} == {b"v" * 900}
    whole = full.unsent[full.partial :]
    splitter = Splitter()
    assert splitter.feed(whole)[-1].op == Op.READ
    assert splitter.pending == 0, "a partial answer ends where a message ends"
