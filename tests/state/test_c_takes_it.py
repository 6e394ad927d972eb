"""What fastxs writes, C xenstored 4.17 goes on from: a hand-back, played between C's two lives.

Each test changes the state that C has handed over into what a daemon in its place might have made of it meanwhile,
and writes it for C.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastxs.state import Connection, Node, Perm, Ring, Socket, State, Watch, read, what_is_lost, write
from tests.conversations.speak import Voice
from tests.state.live import Scene
from tests.support.ring import COMM, ERROR, RING, RSP_PROD
from tests.support.wire import Message, Op, pack


@contextmanager
def handed_back(scene: Scene) -> Iterator[State]:
    """C's state, for the block to change; then it is written and C begins with it."""
    with scene.update() as path:
        state = read(path.read_bytes())
        state.nodes = list(state.nodes)
        yield state
        with path.open("wb") as file:
            write(state, file, version=1)
    scene.ok(Op.CONTROL, "check")


def of(state: State, domid: int) -> Connection:
    """A guest's connection."""
    (found,) = (each for each in state.connections if isinstance(each.peer, Ring) and each.peer.domid == domid)
    return found


def tool_of(state: State) -> Connection:
    """The connection that asked for the update: its answer waits."""
    (found,) = (each for each in state.connections if isinstance(each.peer, Socket) and each.unsent)
    return found


def test_the_whole_store_in_another_order(scene: Scene) -> None:
    scene.guest(5)
    scene.guest(6)
    scene.ok(Op.WRITE, "/a/b/c", data=bytes(range(256)) * 15)
    scene.ok(Op.WRITE, "/local/domain/5/data")
    scene.ok(Op.SET_PERMS, "/local/domain/5", "n5", "b6", "r9")
    scene.ok(Op.SET_PERMS, "@releaseDomain", "n0", "r5")
    scene.ok(Op.WATCH, "relative", "token")
    scene.ok(Op.WATCH, "@releaseDomain", "")
    before = scene.tree()
    with handed_back(scene) as first:
        first.connections.reverse()
        first.nodes = sorted(first.nodes, key=lambda node: (node.path[:1] == b"@", node.path.count(b"/"), node.path))
    assert scene.tree() == before
    with handed_back(scene) as second:
        pass
    assert sorted(second.nodes) == sorted(first.nodes)
    assert (second.listen_fd, second.evtchn_fd) == (first.listen_fd, first.evtchn_fd)
    everyone = [
        sorted((str(each.peer), str(each.watches), each.unread) for each in state.connections)
        for state in (first, second)
    ]
    assert everyone[0] == everyone[1]


def test_a_domain_acts_for_one_that_was_introduced_later(scene: Scene) -> None:
    """C's own live update forgets the target then."""
    stubdom = Voice(scene.guest(6), 6)
    scene.guest(5)
    scene.ok(Op.SET_TARGET, 6, 5)
    scene.ok(Op.WRITE, "/its", data=b"own")
    scene.ok(Op.SET_PERMS, "/its", "n5")
    assert stubdom.read("/its") == b"own"
    with handed_back(scene):
        pass
    assert stubdom.read("/its") == b"own"


def test_what_was_under_way_goes_on(scene: Scene) -> None:
    guest = scene.guest(5)
    event = pack(Op.WATCH_EVENT, b"/somewhere\0token\0")
    reply = pack(Op.READ, b"the value", req_id=1)
    second, third = (pack(Op.READ, b"/\0", req_id) for req_id in (2, 3))
    with handed_back(scene) as state:
        # Seven bytes of a reply are in the ring; it and an event are still to go.  A whole request and a half one
        # were taken from the ring, and not served.
        at = RING + guest.words[RSP_PROD] % RING
        guest.page[at : at + 7] = reply[:7]
        guest.words[RSP_PROD] += 7
        connection = of(state, 5)
        connection.unsent, connection.partial = reply[7:] + event, len(reply) - 7
        connection.unread = second + third[:9]
    assert guest.recv() == Message(Op.READ, 1, 0, b"the value")
    assert guest.recv() == Message(Op.WATCH_EVENT, 0, 0, b"/somewhere\0token\0")
    assert guest.recv().req_id == 2
    guest.send_raw(third[9:])
    assert guest.recv().req_id == 3


def test_watches_and_nodes_that_came_meanwhile(scene: Scene) -> None:
    five, six = Voice(scene.guest(5), 5), Voice(scene.guest(6), 6)
    with handed_back(scene) as state:
        of(state, 5).watches.append(Watch(b"relative", b"t"))
        perms = (Perm("n", 0), Perm("r", 5), Perm("r", 6, stale=True))
        state.nodes = [*state.nodes, *(Node(path, b"x", perms) for path in (b"/local", b"/local/domain", b"/new"))]
    assert five.read("/new") == b"x"
    assert six.read("/new") == "EACCES", "its number is not the one that was meant"
    for path in ("/local/domain/5", "/local/domain/5/relative"):
        scene.ok(Op.WRITE, path)
    scene.ok(Op.SET_PERMS, "/local/domain/5/relative", "n5")
    assert five.peer.recv().payload == b"relative\0t\0"


def test_a_guest_that_is_not_spoken_with_any_more(scene: Scene) -> None:
    """It broke the protocol, say.  Its death is told all the same."""
    guest = scene.guest(5)
    scene.ok(Op.WATCH, "@releaseDomain", "t")
    with handed_back(scene) as state:
        peer = of(state, 5).peer
        assert isinstance(peer, Ring)
        peer.port = 0
    assert guest.words[ERROR] == COMM
    scene.tool.events.clear()
    scene.guests.kill(5)
    assert scene.tool.recv().payload == b"@releaseDomain\0t\0"


def test_what_is_lost_is_said_before(scene: Scene) -> None:
    with handed_back(scene) as state:
        tool_of(state).watches.append(Watch(b"/a", b"t", depth=1))
        (loss,) = what_is_lost(state, version=1)
    assert "1 watches with a depth, such as /a of descriptor" in loss
    assert "report more" in loss
    scene.tool.events.clear()
    scene.ok(Op.WRITE, "/a/b/c")
    assert [event.payload for event in scene.tool.events] == [b"/a/b/c\0t\0"], "as deep as it is"
