"""oxenstored's dump: text as oxenstored 4.17 wrote it, what is wrong with such text, and the daemon itself."""

from __future__ import annotations

import pytest

from fastxs.hypervisor.host import Host
from fastxs.hypervisor.simxen.guests import Guests
from fastxs.state import Connection, Node, Perm, Ring, Socket, StreamError, Watch, load
from fastxs.state.oxenstored import HEADER, read
from tests.support.wire import Op, Peer

# Written by oxenstored 4.17: two guests, two clients, watches of both.
DUMP = b"""$xenstored-dump-format
global,6
evtchn-dev,8,1
dom,2,4098,2,4
dom,0,0,1,2
dom,1,4097,2,3
watch,1,2f61,
watch,1,64617461,67
socket,11
watch,-11,4072656c65617365446f6d61696e,746f6b
watch,-11,2f616273,746f206b2c33
socket,10
store,2f,6e30,
store,2f746f6f6c,6e30,
store,2f61,6e31007232006239,
store,2f612f62,6e30,76616c007565
store,2f4072656c65617365446f6d61696e,6e30007231,
store,2f40696e74726f64756365446f6d61696e,6e30,
"""


def test_a_dump() -> None:
    state = read(DUMP)
    assert (state.listen_fd, state.evtchn_fd, state.virq_port) == (6, 8, 1)
    assert state.connections == [
        Connection(1, Ring(2, 4, remote_port=2)),
        Connection(2, Ring(0, 2, remote_port=1)),
        Connection(3, Ring(1, 3, remote_port=2), watches=[Watch(b"/a", b""), Watch(b"data", b"g")]),
        Connection(4, Socket(11), watches=[Watch(b"@releaseDomain", b"tok"), Watch(b"/abs", b"to k,3")]),
        Connection(5, Socket(10)),
    ]
    owned = (Perm("n", 0),)
    assert list(state.nodes) == [
        Node(b"/", b"", owned),
        Node(b"/tool", b"", owned),
        Node(b"/a", b"", (Perm("n", 1), Perm("r", 2), Perm("b", 9))),
        Node(b"/a/b", b"val\0ue", owned),
        Node(b"@releaseDomain", b"", (Perm("n", 0), Perm("r", 1))),
        Node(b"@introduceDomain", b"", owned),
    ]
    assert state.notes == []


def test_what_other_versions_write() -> None:
    """The first ones left out the local port; the fork of 2026 adds the depth; unknown lines are passed over."""
    state = read(HEADER + b"\nglobal,-1,-1\ndom,5,4098,2\nwatch,5,2f61,74,1\nwhat,1\nwhat\n")
    assert state.listen_fd is None
    assert state.connections == [Connection(1, Ring(5, 0, remote_port=2), watches=[Watch(b"/a", b"t", 1)])]
    assert list(state.nodes) == []
    assert state.notes == ["2 lines of the unknown kind 'what' were passed over"]


@pytest.mark.parametrize(
    ("dump", "complaint"),
    [
        (b"", "not a dump of oxenstored"),
        (HEADER, "not a dump of oxenstored"),
        (b"xenstore\n", "not a dump of oxenstored"),
        (DUMP[:-1], "cut off within the line at offset"),
        (HEADER + b"\nsocket\n", "b'socket': 0 fields"),
        (HEADER + b"\nsocket,x\n", "b'socket,x': invalid literal"),
        (HEADER + b"\nsocket,1\nsocket,1\n", "at offset 32, b'socket,1': it is there already"),
        (HEADER + b"\ndom,65536,1,1,1\n", "65536 is no domid"),
        (HEADER + b"\nwatch,5,2f,\n", "there is no connection 5 before it"),
        (HEADER + b"\nsocket,5\nwatch,-5,2,\n", "Odd-length string"),
        (HEADER + b"\nstore,2f,6e30\n", "not enough values"),
        (HEADER + b"\nstore,2f,6e30,2g\n", "Non-hexadecimal digit"),
        (HEADER + b"\nstore,61,6e30,\n", "b'a' is no path"),
        (HEADER + b"\nstore,2f,,\n", "b'' is no permission"),
        (HEADER + b"\nstore,2f,7830,\n", "b'x0' is no permission"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_damaged_is_refused(dump: bytes, complaint: str) -> None:
    with pytest.raises(StreamError) as refused:
        list(read(dump).nodes)
    assert complaint in str(refused.value)


def test_what_oxenstored_leaves_when_it_is_stopped(ox_host: Host) -> None:
    with Guests(ox_host.env["SIMXEN_DIR"]) as guests, Peer(ox_host.socket) as tool:
        guests.create(5)
        for op, payload in (
            (Op.INTRODUCE, b"5\x004097\x002\0"),
            (Op.WRITE, b"/a/b\0any\0bytes,\n"),
            (Op.SET_PERMS, b"/a\0r5\0b6\0"),
            (Op.WATCH, b"rel/ative\0t,1\0"),
        ):
            assert tool.call(op, payload).payload == b"OK\0"
        ox_host.stop()
        with (ox_host.rundir / "db").open("rb") as file:
            state = load(file)
    rings = [connection.peer for connection in state.connections if isinstance(connection.peer, Ring)]
    assert {(ring.domid, ring.remote_port) for ring in rings} == {(0, 1), (5, 2)}
    assert [each.watches for each in state.connections if each.watches] == [[Watch(b"rel/ative", b"t,1")]]
    nodes = {node.path: node for node in state.nodes}
    assert nodes[b"/a"].perms == (Perm("r", 5), Perm("b", 6))
    assert nodes[b"/a/b"].value == b"any\0bytes,\n"
    assert nodes[b"@releaseDomain"].perms == (Perm("n", 0),)
    assert state.notes == []
