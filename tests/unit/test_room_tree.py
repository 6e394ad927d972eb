"""The tree: order, generations, owners, what snapshots see and keep, giving back in slices; then against a dict."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastxs.core.probe import Rooms, Snapshot, quotas

ITEM = {name: i for i, (name, *_) in enumerate(quotas())}


@pytest.fixture
def rooms() -> Iterator[Rooms]:
    rooms = Rooms()
    for domid in (1, 2):
        rooms.domain(domid)
    yield rooms
    assert rooms.check() == []


def own(rooms: Rooms, domid: int) -> int:
    """The list "n<domid>", counted once more."""
    return rooms.intern([(domid, 0)])


def make(rooms: Rooms, path: bytes, value: bytes = b"", domid: int = 0) -> int:
    above, _, name = path.rpartition(b"/")
    node = rooms.create(rooms.find(above or b"/")[0], name, own(rooms, domid))
    rooms.set_value(node, value)
    return node


def node(rooms: Rooms, path: bytes) -> int:
    found, *_ = rooms.find(path)
    assert found, path
    return found


def account(rooms: Rooms, domid: int) -> tuple[int, int]:
    """Nodes and bytes."""
    return rooms.now(domid, ITEM["nodes"])[0], rooms.now(domid, ITEM["memory"])[0]


# -- today


def test_what_every_client_finds(rooms: Rooms) -> None:
    assert rooms.children(rooms.root) == [b"tool"]
    assert rooms.children(node(rooms, b"/tool")) == [b"xenstored"]
    lists = {
        path: rooms.entries(rooms.perms_of(node(rooms, path)))
        for path in (b"/", b"/tool", b"/tool/xenstored", b"@introduceDomain", b"@releaseDomain")
    }
    everybody = [(0, 0, False), (0x7FF5, 1, False)]
    assert lists.pop(b"@releaseDomain") == everybody and set(map(tuple, lists.values())) == {((0, 0, False),)}


def test_a_path_that_is_missing_names_the_nearest_above(rooms: Rooms) -> None:
    a = make(rooms, b"/a")
    b = make(rooms, b"/a/b")
    assert rooms.find(b"/a/b") == (b, 0, 0)
    assert rooms.find(b"/a/x/y/z") == (0, a, 3)
    assert rooms.find(b"/x/a/b") == (0, rooms.root, 1)
    assert rooms.find(b"/a/bb")[0] == rooms.find(b"/aa")[0] == rooms.find(b"/a/b/a")[0] == 0
    assert rooms.find(b"@introduce")[0] == rooms.find(b"/@introduceDomain")[0] == 0


def test_a_walk_of_many_components(rooms: Rooms) -> None:
    """A walk hashes sixteen components at a time: 1 to 40 of them, all there or the last one missing."""
    path, nodes = b"", [rooms.root]
    for i in range(40):
        nodes.append(rooms.create(nodes[-1], b"%d" % i, own(rooms, 0)))
        path += b"/%d" % i
        assert rooms.find(path) == (nodes[-1], 0, 0) and rooms.path(nodes[-1]) == path
        assert rooms.find(path + b"/x") == (0, nodes[-1], len(path) + 1)
        assert rooms.find(path + b"/x/y") == (0, nodes[-1], len(path) + 1)


def test_children_stand_in_order_of_creation(rooms: Rooms) -> None:
    top = make(rooms, b"/d")
    for name in b"tool a local m 0".split():
        make(rooms, b"/d/" + name)
    assert rooms.children(top) == b"tool a local m 0".split()
    rooms.remove(node(rooms, b"/d/local"))
    rooms.remove(node(rooms, b"/d/tool"))
    rooms.remove(node(rooms, b"/d/0"))
    assert rooms.children(top) == [b"a", b"m"]
    make(rooms, b"/d/tool")
    assert rooms.children(top) == [b"a", b"m", b"tool"] and rooms.listing_bytes(top) == len(b"a.m.tool.")


def test_generations(rooms: Rooms) -> None:
    """Every change has its number; a node's is that of its value, permissions or child list, whatever is last."""
    a = make(rooms, b"/a")
    birth = rooms.stamps(a)[0]
    rooms.set_value(a, b"x")
    assert rooms.stamps(a) == (birth, rooms.stamp, rooms.stamp)
    rooms.set_perms(a, own(rooms, 0))
    assert rooms.stamps(a) == (birth, rooms.stamp, rooms.stamp)
    changed = rooms.stamp
    b = rooms.create(a, b"b", own(rooms, 0))
    assert rooms.stamps(a) == (birth, changed, rooms.stamp) and rooms.stamps(b)[0] == rooms.stamp
    added = rooms.stamp
    rooms.set_value(b, b"not its parent's business")
    assert rooms.stamps(a) == (birth, changed, added)
    rooms.remove(b)
    assert rooms.stamps(a) == (birth, changed, rooms.stamp) and rooms.stamp > added
    assert rooms.stamps(rooms.root)[2] == birth, "nor its grandparent's"


VALUES = [b"", b"x", b"\0", b"x" * 10, b"x" * 100, b"x" * 300, b"x" * 2023, b"x" * 4090]


@pytest.mark.parametrize("room", [0, 1, 100, 2048, 4090])
def test_values_of_all_sizes(rooms: Rooms, room: int) -> None:
    """A value grows and shrinks, whatever its node had room for, and the memory account follows."""
    rooms.create(rooms.root, b"n", own(rooms, 1), room)
    one, chance = node(rooms, b"/n"), random.Random(1)
    for value in [*VALUES, *reversed(VALUES), *chance.choices(VALUES, k=50)]:
        rooms.set_value(one, value)
        assert rooms.value(one) == value
        assert account(rooms, 1) == (1, rooms.node_bytes(one))
        assert rooms.node_bytes(one) >= len(value) + 1
    assert rooms.path(one) == b"/n"


def test_nodes_are_their_owner_s(rooms: Rooms) -> None:
    nodes = [make(rooms, b"/%d" % i, b"v" * i, domid=1) for i in range(4)]
    assert sorted(rooms.owned(1)) == sorted(nodes)
    assert account(rooms, 1) == (4, sum(map(rooms.node_bytes, nodes)))
    rooms.set_perms(nodes[1], own(rooms, 2))
    assert sorted(rooms.owned(1)) == sorted([nodes[0], nodes[2], nodes[3]]) and rooms.owned(2) == [nodes[1]]
    assert account(rooms, 2) == (1, rooms.node_bytes(nodes[1]))
    for i in (0, 3, 1, 2):
        rooms.remove(nodes[i])
        rooms.reclaim(100)
    assert account(rooms, 1) == account(rooms, 2) == (0, 0)
    assert rooms.owned(1) == rooms.owned(2) == []


# -- giving back


def test_a_removed_subtree_is_given_back_in_slices(rooms: Rooms) -> None:
    """It is gone from the tree at once; its nodes come back some at a time, and the name can be used meanwhile."""
    before = rooms.counts
    make(rooms, b"/a", domid=1)
    for i in range(100):
        make(rooms, b"/a/%d" % i, b"x" * 50, domid=1)
        make(rooms, b"/a/%d/y" % i, domid=2)
    rooms.remove(node(rooms, b"/a"))
    assert rooms.children(rooms.root) == [b"tool"] and rooms.find(b"/a/5/y") == (0, rooms.root, 1)
    again = make(rooms, b"/a", b"new", domid=1)
    slices, left = 0, rooms.counts["nodes"]
    while rooms.reclaim(10):
        slices += 1
        assert 0 <= left - rooms.counts["nodes"] <= 10
        left = rooms.counts["nodes"]
        assert node(rooms, b"/a") == again and rooms.value(again) == b"new" and rooms.find(b"/a/5")[0] == 0
    assert 20 < slices < 60, "a step or two for each node"
    assert account(rooms, 1) == (1, rooms.node_bytes(again)) and account(rooms, 2) == (0, 0)
    rooms.remove(again)
    rooms.reclaim(1)
    assert rooms.counts == before | {"heap": rooms.counts["heap"]}
    assert not rooms.reclaim(1)


@pytest.mark.parametrize("snapshot", [False, True], ids=["nobody looks", "a snapshot looks"])
def test_a_deep_and_a_wide_subtree(rooms: Rooms, snapshot: bool) -> None:
    """20,000 below each other, 20,000 beside each other: no recursion, and nothing is left."""
    perms = own(rooms, 1)
    before = rooms.counts
    deep = wide = 0
    for shape in ("deep", "wide"):
        rooms.hold(perms)
        h = rooms.create(rooms.root, shape.encode(), perms)
        deep, wide = (h, wide) if shape == "deep" else (deep, h)
        for i in range(20_000):
            rooms.hold(perms)
            made = rooms.create(h, b"%d" % i, perms)
            h = made if shape == "deep" else h
    seen = Snapshot(rooms) if snapshot else None
    rooms.remove(deep)
    rooms.remove(wide)
    while rooms.reclaim(1000):
        pass
    assert account(rooms, 1) == (0, 0), "what only a snapshot sees is charged to the snapshot"
    if seen:
        assert seen.find(b"/deep/0/1/2/3") and len(seen.children(seen.find(b"/wide"))) == 20_000
        seen.close()
        while rooms.reclaim(1000):
            pass
    left = rooms.counts
    assert left["nodes"] == before["nodes"] and left["ghosts"] == 0
    assert left["heap"] - before["heap"] <= 64, "but for the list of the root's children"
    rooms.drop(perms)


# -- snapshots


def test_a_snapshot_sees_what_was(rooms: Rooms) -> None:
    a, b, c = (make(rooms, path, value) for path, value in ((b"/a", b"1"), (b"/a/b", b"2"), (b"/a/c", b"3")))
    before = rooms.counts
    seen = Snapshot(rooms)
    old = rooms.perms_of(b)
    rooms.set_value(a, b"new")
    rooms.set_perms(b, own(rooms, 2))
    rooms.remove(c)
    make(rooms, b"/a/d")
    assert seen.find(b"/a/b") == b and seen.find(b"/a/c") == c and not seen.find(b"/a/d")
    mine = own(rooms, 0)
    assert seen.version(a) == (b"1", mine) and seen.version(b) == (b"2", old)
    rooms.drop(mine)
    assert seen.version(c)[0] == b"3"
    assert seen.children(a) == [b"b", b"c"] and rooms.children(a) == [b"b", b"d"]
    assert rooms.value(a) == b"new" and rooms.find(b"/a/c")[0] == 0
    assert seen.held == 3 and rooms.counts["ghosts"] == 1 and seen.held_bytes > 0
    seen.close()
    rooms.reclaim(10)
    assert seen.held == seen.held_bytes == rooms.counts["ghosts"] == 0
    assert rooms.counts["nodes"] == before["nodes"]


def test_only_the_first_change_since_a_snapshot_keeps_something(rooms: Rooms) -> None:
    a = make(rooms, b"/a", b"0")
    seen = Snapshot(rooms)
    for i in range(10):
        rooms.set_value(a, b"%d" % i)
        make(rooms, b"/b")
        rooms.remove(node(rooms, b"/b"))
    assert seen.held == 1 and seen.version(a)[0] == b"0" and seen.children(rooms.root) == [b"tool", b"a"]
    seen.close()


def test_each_snapshot_sees_its_own_time(rooms: Rooms) -> None:
    a = make(rooms, b"/a", b"0")
    seen: dict[int, Snapshot] = {}
    for i in range(1, 6):
        seen[i - 1] = Snapshot(rooms)
        rooms.set_value(a, b"%d" % i)
        make(rooms, b"/n%d" % i)
    rooms.remove(a)
    for closing in (2, 0, 4, 1, 3):  # what the closed one kept, the next older one gets if it needs it
        for i, snapshot in seen.items():
            assert snapshot.find(b"/a") == a and snapshot.version(a)[0] == b"%d" % i
            assert snapshot.children(rooms.root) == [b"tool", b"a", *(b"n%d" % k for k in range(1, i + 1))]
        seen.pop(closing).close()
    assert rooms.counts["ghosts"] == 0


def test_snapshots_at_the_very_change_see_it(rooms: Rooms) -> None:
    """Two that were made at the same time, just after a change; the one that is left inherits what the other kept."""
    a = make(rooms, b"/a", b"then")
    elder, younger = Snapshot(rooms), Snapshot(rooms)
    rooms.set_value(a, b"now")
    b = make(rooms, b"/b")
    eldest_of_b = Snapshot(rooms)
    youngest_of_b = Snapshot(rooms)
    rooms.remove(b)
    for snapshot in (youngest_of_b, younger):
        snapshot.close()
    assert elder.version(a)[0] == b"then" and not elder.find(b"/b")
    assert eldest_of_b.find(b"/b") == b and eldest_of_b.version(a)[0] == b"now"
    elder.close()
    eldest_of_b.close()


def test_a_name_used_again_and_again(rooms: Rooms) -> None:
    """Ghosts of one name, one for each time: each snapshot finds its own."""
    seen, nodes = [], []
    for i in range(5):
        nodes.append(make(rooms, b"/a", b"%d" % i))
        make(rooms, b"/a/k%d" % i)
        seen.append(Snapshot(rooms))
        rooms.remove(nodes[-1])
        rooms.reclaim(10)
    assert rooms.find(b"/a")[0] == 0 and rooms.counts["ghosts"] == 5
    for i, snapshot in enumerate(seen):
        assert snapshot.find(b"/a") == nodes[i] and snapshot.version(nodes[i])[0] == b"%d" % i
        assert snapshot.children(nodes[i]) == [b"k%d" % i] and snapshot.find(b"/a/k%d" % i)
        assert snapshot.children(rooms.root) == [b"tool", b"a"]
    for snapshot in seen:
        snapshot.close()


def test_a_snapshot_that_would_hold_too_much_is_lost(rooms: Rooms) -> None:
    """Alone: the older one, without a limit, keeps what it needs, and the tree goes on."""
    a = make(rooms, b"/a", b"x" * 100)
    b = make(rooms, b"/b", b"y" * 1000)
    patient, limited = Snapshot(rooms), Snapshot(rooms, held_limit=1000)
    rooms.set_value(a, b"new")
    assert not limited.lost and limited.held == 1 and 0 < limited.held_bytes <= 1000
    rooms.set_value(b, b"new")
    assert limited.lost and limited.held == 0 and not patient.lost
    assert patient.version(a)[0] == b"x" * 100 and patient.version(b)[0] == b"y" * 1000
    limited.close()  # no harm
    patient.close()
    assert rooms.value(b) == b"new"


# -- against a dict

NAMES = [b"a", b"b", b"long-name-that-fills-a-line-of-its-own"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(lambda names: b"/" + b"/".join(names))
STEP = st.one_of(
    st.tuples(st.just("create"), PATHS, st.sampled_from([0, 1, 2])),
    st.tuples(st.just("write"), PATHS, st.sampled_from(VALUES)),
    st.tuples(st.just("chown"), PATHS, st.sampled_from([0, 1, 2])),
    st.tuples(st.just("remove"), PATHS, st.none()),
    st.tuples(st.just("snapshot"), st.none(), st.none()),
    st.tuples(st.just("close"), st.none(), st.integers(0, 5)),
    st.tuples(st.just("reclaim"), st.none(), st.integers(1, 5)),
)


@dataclass
class Model:
    """path -> (value, owner), in order of creation; a parent stands before its children."""

    nodes: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)

    def children(self, path: bytes) -> list[bytes]:
        return [p.rpartition(b"/")[2] for p in self.nodes if p.rpartition(b"/")[0] == path]


def compare(rooms: Rooms, today: Model, seen: list[tuple[Snapshot, Model]]) -> None:
    assert rooms.children(rooms.root)[1:] == today.children(b"")
    for path, (value, owner) in today.nodes.items():
        h = node(rooms, path)
        assert (rooms.value(h), rooms.entries(rooms.perms_of(h))[0][0]) == (value, owner)
        assert rooms.children(h) == today.children(path) and rooms.path(h) == path
    for snapshot, then in seen:
        assert snapshot.children(rooms.root)[1:] == then.children(b"")
        for path, (value, owner) in then.nodes.items():
            h = snapshot.find(path)
            assert h, path
            got, perms = snapshot.version(h)
            assert (got, rooms.entries(perms)[0][0]) == (value, owner)
            assert snapshot.children(h) == then.children(path)
        for path in today.nodes.keys() - then.nodes.keys():
            assert not snapshot.find(path)


@settings(max_examples=150)
@given(st.lists(STEP, max_size=60))
def test_the_tree_and_a_dict_agree_and_nothing_is_left(steps: list[tuple[str, bytes, Any]]) -> None:
    rooms, today = Rooms(), Model()
    for domid in (1, 2):
        rooms.domain(domid)
    before = rooms.counts
    seen: list[tuple[Snapshot, Model]] = []
    for what, path, arg in steps:
        if what == "snapshot":
            seen.append((Snapshot(rooms), Model(dict(today.nodes))))
        elif what == "close":
            if arg < len(seen):
                seen.pop(arg)[0].close()
        elif what == "reclaim":
            rooms.reclaim(arg)
        elif what == "create":
            above = path.rpartition(b"/")[0]
            if path not in today.nodes and (not above or above in today.nodes):
                make(rooms, path, domid=arg)
                today.nodes[path] = (b"", arg)
        elif path in today.nodes:
            h = node(rooms, path)
            if what == "write":
                rooms.set_value(h, arg)
                today.nodes[path] = (arg, today.nodes[path][1])
            elif what == "chown":
                rooms.set_perms(h, own(rooms, arg))
                today.nodes[path] = (today.nodes[path][0], arg)
            else:
                rooms.remove(h)
                today.nodes = {p: v for p, v in today.nodes.items() if not (p + b"/").startswith(path + b"/")}
        compare(rooms, today, seen)
    for snapshot, _ in seen:
        snapshot.close()
    assert rooms.check() == []
    for path in [path for path in today.nodes if path.count(b"/") == 1]:
        rooms.remove(node(rooms, path))
    while rooms.reclaim(100):
        pass
    assert rooms.counts == before and account(rooms, 1) == account(rooms, 2) == (0, 0)
