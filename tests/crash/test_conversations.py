"""What one guest sees of a daemon that dies, told slowly.

Tools have to connect again, since nobody keeps their sockets here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from fastxs._core import FAULTS
from fastxs.hypervisor.host import Host, available
from fastxs.hypervisor.simxen.guests import Guests
from tests.conversations.speak import OK, Voice, nul
from tests.crash.plans import UNWRITTEN, child, keeper
from tests.crash.scene import PATIENCE_S, Lives
from tests.life.scene import PORT, Caller
from tests.support.ring import RingPeer
from tests.support.wire import Op, Peer

pytestmark = pytest.mark.skipif(available("fastxs") is not None, reason=str(available("fastxs")))

HOME: Final = "/local/domain/1"


class House(Lives):
    """One daemon after the other, a tool, and domain 1."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.guests: Final = Guests(self.host.env["SIMXEN_DIR"])
        self.tool: Final = Caller(Peer(self.host.socket), 0)
        self.guests.create(1, PORT)
        assert self.tool.mkdir(HOME) == OK
        assert self.tool.chmod(HOME, "n1") == OK
        assert self.tool.ask(Op.INTRODUCE, nul(1, 1, PORT)) == OK
        self.ring: Final = RingPeer(self.guests, 1)
        self.guest: Final[Voice] = Caller(self.ring, 1)

    def again(self, trial: str = "", die_after_s: float | None = None) -> bool:
        """It is killed, if it still lives; see `Lives`."""
        self.kill()
        self._let_go()
        serves = super().again(trial, die_after_s)
        if serves:
            self.tool.peer = Peer(self.host.socket)
        return serves

    def _let_go(self) -> None:
        assert isinstance(self.tool.peer, Peer)
        self.tool.peer.close()

    def close(self) -> None:
        self._let_go()
        super().close()
        self.guests.close()


@pytest.fixture
def house(folder: Path) -> Iterator[House]:
    house = House(folder)
    try:
        yield house
        assert house.tool.ask(Op.CONTROL, nul("fastxs-check")) == b"\0"
    finally:
        house.close()


# ---- events that wait --------------------------------------------------------------------------------------

NAMES: Final = [f"{i:03}{'-a-long-name' * 16}" for i in range(600)]
"""More than an output holds as bytes, and fewer than collapse to one event at once."""


@pytest.mark.parametrize("times", [1, 2])
def test_who_did_not_read_is_told_to_look_again(house: House, times: int) -> None:
    """What waits as bytes is told as it was.  Which events waited behind it is not known after a crash: each watch of
    that guest has one that names the watch itself, as its first one did."""
    guest, tool = house.guest, house.tool
    guest.quietly_watch("x", "t")
    guest.quietly_watch("quiet", "u")
    for name in NAMES:
        assert tool.write(f"{HOME}/x/{name}") == OK
    for _ in range(times):
        house.again()
    *told, last, quiet = guest.events()
    assert told == [(f"x/{name}", "t") for name in NAMES[: len(told)]]
    assert 256 < len(told) < len(NAMES)
    assert (last, quiet) == (("x", "t"), ("quiet", "u"))
    assert {f"x/{name}" for name in guest_list(guest)} == {f"x/{name}" for name in NAMES}
    assert tool.write(f"{HOME}/x/new") == OK
    assert guest.events() == [("x/new", "t")]


def guest_list(guest: Voice) -> list[str]:
    """The guest looks again; a directory that is larger than an answer is read by parts."""
    found, offset = b"", 0
    while True:
        part = guest.part("x", offset)
        assert not isinstance(part, str)
        found += part[1]
        offset = len(found)
        if part[1].endswith(b"\0\0"):
            return [name.decode() for name in found.split(b"\0") if name]


# ---- a death in the middle of the next life's beginning --------------------------------------------------------


def test_a_restart_in_a_restart(house: House) -> None:
    """The recovery is committed as a whole, so one that is cut off anywhere is begun again."""
    house.kill()
    asked = [house.ring.send(Op.WRITE, nul("n") + b"1"), house.ring.send(Op.READ, nul("n"))]
    for point in ("recovered", "stored", "committed", "recovered", "stored", "committed", "begun"):
        assert not house.again(f"{point}:1")
    assert house.again()
    write, read = [house.ring.reply(req_id) for req_id in asked]
    assert (write.payload, read.payload) == (OK, b"1")
    assert house.guest.write("n", b"2") == OK


# ---- the image fails ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_an_image_that_fails(house: House, fault: str) -> None:
    """The daemon ends before anybody is answered what the image has not got; the next one answers it, once."""
    assert house.again(f"{fault}:{20 if fault == 'uncommitted' else 1}")
    n = 0
    while house.host.ended is None:
        n += 1
        req_id = house.ring.send(Op.WRITE, nul("n") + b"%d " % n * 500)
        while house.host.ended is None and not house.ring.waiting():
            house.ring.guests.events()
        if house.ring.waiting():
            assert house.ring.reply(req_id).payload == OK
    assert house.host.ended == 1
    assert house.host.stderr().splitlines()[-1].startswith(f"fastxsd: {UNWRITTEN}")
    assert house.ring.waiting() == 0
    assert house.again()
    assert house.ring.reply(req_id).payload == OK
    assert house.guest.read("n") == b"%d " % n * 500


def test_who_is_kept_notices_nothing_of_it(folder: Path) -> None:
    """LMDB refuses every batch of the log: each daemon ends there, and the next one brings it into LMDB."""
    with (
        Host("fastxs", folder, prefix=keeper(folder), env={"FASTXS_TRIAL": "unfolded:1"}) as host,
        Peer(host.socket) as peer,
    ):
        first = child(host.pid)
        for n in range(500):  # more than the log is let grow
            assert peer.reply(peer.send(Op.WRITE, nul("/n") + b"%d " % n * 400), PATIENCE_S).payload == OK
        assert peer.call(Op.READ, nul("/n")).payload == b"%d " % n * 400
        assert child(host.pid) != first


@pytest.mark.parametrize("times", [1, 3])
def test_an_image_that_fails_at_the_start(house: House, times: int) -> None:
    """The recovery itself cannot be committed; nothing of it is seen by anybody."""
    assert house.guest.write("n", b"1") == OK
    for _ in range(times):
        assert not house.again("uncommitted:1")
        assert UNWRITTEN in house.host.stderr()
    assert house.again()
    assert house.guest.read("n") == b"1"
