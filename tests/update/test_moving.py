"""A running host moves from C xenstored to fastxs, and back; a kill in between loses nothing of a guest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastxs.hypervisor.host import BINARIES, Host, available, scratch
from fastxs.hypervisor.simxen import LIBRARY
from tests.conversations.speak import OK, nul
from tests.support.ring import FEATURES, RingPeer
from tests.support.wire import Op, Peer
from tests.update.run import moves
from tests.update.scene import Scene, environment, scene_of

pytestmark = pytest.mark.skipif(
    bool(available("fastxs") or available("c")), reason=str(available("fastxs") or available("c"))
)

ARGUMENTS = "-N --sim"
ALL = 15
"""Every feature that there is."""


@pytest.fixture
def host() -> Iterator[Scene]:
    with scene_of("c") as found:
        yield found


def test_there_and_back(host: Scene) -> None:
    for _ in range(2):
        assert host.update(host.good(), arguments=ARGUMENTS) == OK
        host.work()
        assert [guest.words[FEATURES] for guest in host.guests] == [0] * len(host.guests)  # as C offered
        assert host.update(BINARIES["c"], arguments="-N") == OK
        host.work()


def test_a_crowd(host: Scene) -> None:
    for domid in range(10, 110):
        host.guests.append(host._guest(domid))
    assert host.update(host.good(), arguments=ARGUMENTS) == OK
    host.work()
    assert host.update(BINARIES["c"], arguments="-N") == OK
    host.work()


def test_features_are_offered_when_the_administrator_commits(host: Scene) -> None:
    """Until then a hand-back takes nothing from a guest that it was told of; who is introduced later is told all."""
    host.hypervisor.create(9)
    assert host.tool.call(Op.MKDIR, nul("/local/domain/9")).payload == OK
    assert host.tool.call(Op.SET_PERMS, nul("/local/domain/9", "n9")).payload == OK
    assert host.update(host.good(), arguments=ARGUMENTS) == OK
    assert host.tool.call(Op.INTRODUCE, nul(9, 0x1009, 2)).payload == OK
    assert RingPeer(host.hypervisor, 9, host._wait).words[FEATURES] == ALL
    for count in (len(host.guests) + 1, 0):  # domain 0 is one, too
        said = host.tool.call(Op.CONTROL, nul("commit")).payload
        assert said == b"%d domains are offered all features now.\n\0" % count
    host.work()
    assert [guest.words[FEATURES] for guest in host.guests] == [ALL] * len(host.guests)
    assert host.tool.call(Op.GET_FEATURE, nul(1)).payload == nul(ALL)
    assert b"the features that 5 domains were told of" in host.update(BINARIES["c"], arguments="-N")
    host.work()


def test_what_c_cannot_carry(host: Scene) -> None:
    assert host.update(host.good(), arguments=ARGUMENTS) == OK
    assert host.client.call(Op.WATCH, nul("/local", "deep", 1)).payload == OK
    answer = host.update(BINARIES["c"], arguments="-N")
    assert b"1 watches with a depth" in answer
    host.work()
    assert host.update(BINARIES["c"], "-F", arguments="-N") == OK
    host.work()


def test_c_that_cannot_start(host: Scene) -> None:
    """It ends before it has read the state: fastxs is back."""
    assert host.update(host.good(), arguments=ARGUMENTS) == OK
    assert host.update(Path("/bin/true")) == b"The new program failed, the old one is back.\0"
    host.work()


def test_killed_in_between(host: Scene) -> None:
    """C, fastxs, kill -9, fastxs, C: guests lose nothing; the clients of the socket have nobody who keeps them here."""
    assert host.update(host.good(), arguments=ARGUMENTS) == OK
    asked = [guest.send(Op.READ, b"data\0") for guest in host.guests]
    host.host.kill()
    with Host("fastxs", host.folder, env={**environment(), "LD_PRELOAD": str(LIBRARY)}) as again:
        for guest, req_id in zip(host.guests, asked, strict=True):
            assert guest.reply(req_id).payload == str(host.writes).encode()
        host.tool.close()
        host.client.close()
        host.tool, host.client = Peer(again.socket), Peer(again.socket)
        with host.tool, host.client:
            host.work()
            assert host.update(BINARIES["c"], arguments="-N") == OK
            host.work()
        host.hypervisor.close()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_under_load() -> None:
    """A short `python -m tests.update.run`."""
    folder = scratch()
    try:
        figures = moves(folder, guests=20, times=1, seed=1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert figures["answers"] == figures["requests"] > 100
    assert figures["look_again"] == 0  # no event was lost, and none came twice


def test_from_oxenstored() -> None:
    """It says BUSY until its successor, asked once more, says OK."""
    if reason := available("ox"):
        pytest.skip(reason)
    with scene_of("ox") as host:
        assert host.control("-f", str(host.good())).payload == OK
        assert host.control("-c", "--sim").payload == OK
        answers = [b"BUSY"]
        while answers[-1] == b"BUSY" and len(answers) < 20:
            answers.append(host.control("-s", "-t", "5").payload)
        assert answers[-1] == OK
        assert host.control("-s").payload == b"Not in live-update session.\0"
        host.work()
