"""Quotas: the table, exact limits, who is exempt, highest values, and the rate of log lines."""

from __future__ import annotations

import errno

import pytest

from fastxs.core.probe import Rooms, find_quota, quotas

NAMES = [name for name, *_ in quotas()]
ITEM = {name: i for i, name in enumerate(NAMES)}
SECOND = 1_000_000_000
SAY_QUOTA, SAY_SOFT, SAY_PERMISSION = range(3)


@pytest.fixture
def rooms() -> Rooms:
    rooms = Rooms()
    rooms.clock(100 * SECOND)
    rooms.domain(1)
    rooms.domain(2)
    return rooms


def test_names_defaults_and_caps() -> None:
    assert [(name, value, cap) for name, _, value, cap in quotas()] == [
        ("nodes", 1000, 0),
        ("watches", 128, 0),
        ("transactions", 10, 0),
        ("outstanding", 20, 0),
        ("transaction-nodes", 1024, 0),
        ("memory", 2621440, 0),
        ("node-size", 2048, 0),
        ("path-max", 2048, 2048),
        ("node-permissions", 5, 0),
        ("soft-memory", 2097152, 0),
    ]
    assert all(text for _, text, *_ in quotas())


def test_a_quota_is_found_by_its_whole_name() -> None:
    assert [find_quota(name.encode()) for name in NAMES] == list(range(len(NAMES)))
    for wrong in (b"", b"node", b"nodess", b"Nodes", b"permissions", b"nodes\0"):
        assert find_quota(wrong) == -1


@pytest.mark.parametrize("item", range(len(NAMES)), ids=NAMES)
def test_a_limit_of_n_allows_exactly_n(rooms: Rooms, item: int) -> None:
    rooms.limit(1, item, 3)
    assert rooms.allows(1, item, 3) and not rooms.allows(1, item, 4)
    rooms.account(1, item, 2)
    assert rooms.allows(1, item, 1) and not rooms.allows(1, item, 2)
    assert rooms.fits(1, item, 3) and not rooms.fits(1, item, 4)
    rooms.account(1, item, 1)
    assert not rooms.allows(1, item, 1) and rooms.allows(1, item, 0) and rooms.allows(1, item, -1)


@pytest.mark.parametrize("item", range(len(NAMES)), ids=NAMES)
def test_0_is_unlimited_and_the_privileged_are_exempt(rooms: Rooms, item: int) -> None:
    rooms.limit(1, item, 0)
    rooms.limit(0, item, 1)
    for domid in (0, 1):
        rooms.account(domid, item, 2**40)
        assert rooms.allows(domid, item, 2**40) and rooms.fits(domid, item, 2**32 - 1)
        assert rooms.now(domid, item)[0] >= 2**40, "counted all the same"


def test_limits_are_each_domain_s_own(rooms: Rooms) -> None:
    rooms.limit(1, ITEM["nodes"], 2)
    assert not rooms.allows(1, ITEM["nodes"], 3) and rooms.allows(2, ITEM["nodes"], 1000)


def test_the_highest_value_stays(rooms: Rooms) -> None:
    nodes = ITEM["nodes"]
    for change, now, high in [(5, 5, 5), (-3, 2, 5), (2, 4, 5), (3, 7, 7), (-7, 0, 7)]:
        rooms.account(1, nodes, change)
        assert rooms.now(1, nodes) == (now, high)
    rooms.account(2, nodes, 6)
    assert rooms.highest(nodes) == 7
    rooms.account(0, nodes, 100)
    assert rooms.highest(nodes) == 7, "the privileged domain sets no record"


def test_a_line_in_ten_seconds_and_the_others_are_counted(rooms: Rooms) -> None:
    rooms.say(SAY_QUOTA, 1, b"nodes", errno.ENOSPC)
    rooms.say(SAY_QUOTA, 1, b"watches", errno.ENOSPC)
    rooms.say(SAY_QUOTA, 1, b"watches", errno.ENOSPC)
    rooms.say(SAY_PERMISSION, 1, b"/a", errno.EACCES)  # another kind
    rooms.say(SAY_QUOTA, 2, b"nodes", errno.ENOSPC)  # another domain
    assert rooms.said() == [
        (SAY_QUOTA, 1, b"nodes", errno.ENOSPC, 1),
        (SAY_PERMISSION, 1, b"/a", errno.EACCES, 1),
        (SAY_QUOTA, 2, b"nodes", errno.ENOSPC, 1),
    ]
    rooms.clock(110 * SECOND - 1)
    rooms.say(SAY_QUOTA, 1, b"nodes")
    assert rooms.said() == []
    rooms.clock(110 * SECOND)
    rooms.say(SAY_QUOTA, 1, b"last")
    assert rooms.said() == [(SAY_QUOTA, 1, b"last", 0, 4)]


def test_lines_of_a_turn_are_bounded(rooms: Rooms) -> None:
    """No more than 32; what finds no place is counted to the next line of its kind and domain."""
    for domid in range(10, 50):
        rooms.domain(domid)
        rooms.say(SAY_QUOTA, domid, b"nodes")
    assert [line[1] for line in rooms.said()] == list(range(10, 42))
    rooms.say(SAY_QUOTA, 42, b"again")
    assert rooms.said() == [(SAY_QUOTA, 42, b"again", 0, 2)]


def test_what_a_line_names_is_cut(rooms: Rooms) -> None:
    rooms.say(SAY_PERMISSION, 1, b"/" + b"x" * 3000)
    assert rooms.said() == [(SAY_PERMISSION, 1, b"/" + b"x" * 254, 0, 1)]


def test_beyond_soft_memory_there_is_a_warning(rooms: Rooms) -> None:
    memory = ITEM["memory"]
    rooms.limit(1, ITEM["soft-memory"], 1000)
    rooms.account(1, memory, 1000)
    assert rooms.said() == []
    rooms.account(1, memory, 1)
    assert rooms.said() == [(SAY_SOFT, 1, b"soft-memory", 0, 1)]
    rooms.limit(2, ITEM["soft-memory"], 0)
    rooms.account(2, memory, 2**30)
    rooms.account(0, memory, 2**30)
    assert rooms.said() == []
