"""Every micro bench does its work once, as `tox -e micro` does it often."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from bench.micro.cases import WORKS, Case
from fastxs.core import laps
from fastxs.core.probe import Rooms
from tests.support.wire import Op

SMALLEST = [Case(work, sizes[0], make) for work, sizes, make in WORKS]


@pytest.mark.parametrize("case", SMALLEST, ids=lambda case: case.work)
def test_a_lap(case: Case) -> None:
    with ExitStack() as stack:
        assert case.make(case.size, stack)(3) > 0


def test_a_lap_that_does_nothing_is_no_lap() -> None:
    rooms = Rooms()
    with pytest.raises(LookupError):
        laps.find(rooms, [b"/is/not/there"], 1)
    with pytest.raises(AssertionError, match="refused"):
        laps.transactions(rooms, rooms.peer(0), Op.RM, [b"/is/not/there\0"], True, 1)


def test_changes_are_told_to_those_who_watch() -> None:
    rooms = Rooms()
    rooms.watch(rooms.peer(0), b"/local", b"token")
    laps.match(rooms, [b"/local/domain/1", b"/tool"], 10)
    assert rooms.counters["events"] == 5


def test_a_transaction_commits_or_not() -> None:
    rooms = Rooms()
    for commit in (False, True):
        laps.transactions(rooms, rooms.peer(0), Op.WRITE, [b"/new\0x"], commit, 2)
        assert bool(rooms.find(b"/new")[0]) == commit
    assert rooms.check() == []
