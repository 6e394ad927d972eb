"""Watches: the trie, who is told, in which order, how deep; what is told of a removal and of a domain."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxs.core.probe import Rooms, quotas
from tests.support.wire import Splitter

NONE, READ, WRITE, BOTH = range(4)
ITEM = {name: i for i, (name, *_) in enumerate(quotas())}


@pytest.fixture
def rooms() -> Rooms:
    rooms = Rooms()
    for domid in (1, 2):
        rooms.domain(domid)
    return rooms


def told(rooms: Rooms, peer: int) -> list[tuple[bytes, ...]]:
    """(path, token) of the events that wait, which are taken."""
    return [tuple(message.strings) for message in Splitter().feed(rooms.take(peer))]


def make(rooms: Rooms, path: bytes, entries: list[tuple[int, int]] | None = None) -> int:
    """A node, and those above it that are missing."""
    node, at = rooms.root, b""
    for name in path.split(b"/")[1:]:
        at += b"/" + name
        node = rooms.find(at)[0] or rooms.create(node, name, rooms.intern(entries or [(0, NONE)]))
    return node


# -- the trie


def test_components_that_nobody_watches_any_more_are_given_back(rooms: Rooms) -> None:
    peer, before = rooms.peer(0), rooms.counts
    rooms.watch(peer, b"/a/b/c", b"1")
    rooms.watch(peer, b"/a/b", b"2")
    rooms.watch(peer, b"/a/b/c", b"3")
    rooms.watch(peer, b"/", b"4")
    assert rooms.counts["watched"] == 3 and rooms.counts["watches"] == 4
    rooms.unwatch(peer, b"/a/b/c", b"1")
    assert rooms.counts["watched"] == 3
    rooms.unwatch(peer, b"/a/b/c", b"3")
    assert rooms.counts["watched"] == 2, "c went, b is watched, a leads there"
    rooms.unwatch(peer, b"/", b"4")
    rooms.unwatch(peer, b"/a/b", b"2")
    assert rooms.counts == before


def test_path_and_token_name_a_watch_of_a_peer(rooms: Rooms) -> None:
    one, two = rooms.peer(0), rooms.peer(1)
    rooms.watch(one, b"/a", b"t")
    with pytest.raises(OSError) as again:
        rooms.watch(one, b"/a", b"t", depth=3)
    assert again.value.errno == errno.EEXIST, "the depth is no part of its name"
    for peer, path, token in ((one, b"/a", b""), (one, b"/b", b"t"), (two, b"/a", b"t"), (one, b"/a", b"tt")):
        assert not rooms.is_watched(peer, path, token)
        with pytest.raises(OSError) as missing:
            rooms.unwatch(peer, path, token)
        assert missing.value.errno == errno.ENOENT
        rooms.watch(peer, path, token)
        assert rooms.is_watched(peer, path, token)
    assert rooms.check() == []


def test_a_new_watch_comes_last_whichever_went_before(rooms: Rooms) -> None:
    peer = rooms.peer(0)
    for gone in (b"1", b"2", b"3"):
        for token in (b"1", b"2", b"3"):
            rooms.watch(peer, b"/a", token)
        rooms.unwatch(peer, b"/a", gone)
        rooms.watch(peer, b"/a", b"new")
        rooms.fire(b"/a")
        assert told(rooms, peer) == [(b"/a", token) for token in (b"1", b"2", b"3", b"new") if token != gone]
        rooms.unwatch_all(peer)
    rooms.fire(b"/a")
    assert told(rooms, peer) == []


PATH = st.sampled_from(b"/ /a /b /a/a /a/b /a/b/c /b/b/b/b @introduceDomain @x @x/1".split())
WATCH = st.tuples(st.booleans(), st.integers(0, 1), PATH, st.sampled_from([b"", b"1", b"2"]))


@given(st.lists(WATCH, max_size=40), st.booleans())
def test_watches_come_and_go(steps: list[tuple[bool, int, bytes, bytes]], at_once: bool) -> None:
    """Against a dict, which keeps their order; in the end nothing is left in any table, heap or account."""
    rooms = Rooms()
    rooms.domain(1)
    peers = [rooms.peer(0), rooms.peer(1)]
    before, account = rooms.counts, rooms.now(1, ITEM["memory"])[0]
    model: dict[tuple[int, bytes, bytes], None] = {}
    for add, who, path, token in steps:
        key = (who, path, token)
        if (key in model) == add:
            with pytest.raises(OSError):
                (rooms.watch if add else rooms.unwatch)(peers[who], path, token)
            continue
        (rooms.watch if add else rooms.unwatch)(peers[who], path, token)
        if add:
            model[key] = None
        else:
            del model[key]
    assert all(rooms.is_watched(peers[who], path, token) for who, path, token in model)
    assert rooms.counts["watches"] == len(model)
    everybody = rooms.intern([(0, READ)])
    for changed in {path for _, path, _ in model if path.startswith(b"/")}:
        rooms.fire(changed, exact=True, perms=everybody)
        for who, peer in enumerate(peers):
            assert told(rooms, peer) == [(path, token) for w, path, token in model if (w, path) == (who, changed)]
    rooms.drop(everybody)
    components = set()
    for _, path, _ in model:
        while path != b"/" and path:
            components.add(path)
            path = path.rpartition(b"/")[0] if path.startswith(b"/") else b""
    assert rooms.counts["watched"] == len(components), "each on the way to a watch, once; a special is one"
    assert rooms.now(1, ITEM["watches"])[0] == sum(who for who, *_ in model)
    assert rooms.check() == []
    if at_once:
        for peer in peers:
            rooms.unwatch_all(peer)
    else:
        for who, path, token in model:
            rooms.unwatch(peers[who], path, token)
    assert rooms.counts == before
    assert rooms.now(1, ITEM["memory"])[0] == account and rooms.now(1, ITEM["watches"])[0] == 0


# -- who is told


def test_a_change_is_told_at_and_above_in_order_of_registration(rooms: Rooms) -> None:
    peer = rooms.peer(0)
    for i, path in enumerate((b"/a/b", b"/", b"/a/b/c", b"/a", b"/a/b", b"/x", b"/a/bb", b"/a/b/c/d")):
        rooms.watch(peer, path, b"%d" % i)
    rooms.fire(b"/a/b/c")
    assert told(rooms, peer) == [(b"/a/b/c", b"%d" % i) for i in (0, 1, 2, 3, 4)]
    rooms.fire(b"/a/b")
    assert told(rooms, peer) == [(b"/a/b", b"%d" % i) for i in (0, 1, 3, 4)]
    rooms.fire(b"/")
    assert told(rooms, peer) == [(b"/", b"1")]


def test_exactly_is_not_above(rooms: Rooms) -> None:
    peer = rooms.peer(0)
    for path in (b"/", b"/a", b"/a/b", b"/a/b/c"):
        rooms.watch(peer, path, path)
    rooms.fire(b"/a/b", exact=True)
    assert told(rooms, peer) == [(b"/a/b", b"/a/b")]
    rooms.fire(b"/a/x", exact=True)
    assert told(rooms, peer) == []
    rooms.fire(b"/", exact=True)
    assert told(rooms, peer) == [(b"/", b"/")]


def test_depth_is_how_far_below_is_told(rooms: Rooms) -> None:
    peer = rooms.peer(0)
    for depth in (0, 1, 2, 100_000, -1):
        rooms.watch(peer, b"/a", b"%d" % depth, depth=depth)
    rooms.watch(peer, b"/", b"root 1", depth=1)
    far = b"/a" + b"/x" * 2000
    expected = {
        b"/a": [b"0", b"1", b"2", b"100000", b"-1", b"root 1"],
        b"/a/x": [b"1", b"2", b"100000", b"-1"],
        b"/a/x/x": [b"2", b"100000", b"-1"],
        far: [b"100000", b"-1"],
    }
    for path, tokens in expected.items():
        rooms.fire(path)
        assert told(rooms, peer) == [(path, token) for token in tokens]


def test_a_relative_watch_is_told_relative_paths(rooms: Rooms) -> None:
    peer = rooms.peer(1)
    lists = rooms.intern([(1, NONE)])
    rooms.watch(peer, b"/local/domain/1/a", b"r", relative=True)
    rooms.watch(peer, b"/local/domain/1", b"abs")
    rooms.fire(b"/local/domain/1/a/b", perms=lists)
    assert told(rooms, peer) == [(b"a/b", b"r"), (b"/local/domain/1/a/b", b"abs")]


def test_who_may_read_none_of_the_three_lists_is_not_told(rooms: Rooms) -> None:
    """The node's, the one that it had before, or its parent's: one is enough."""
    peers = [rooms.peer(domid) for domid in (0, 1, 2)]
    for peer in peers:
        rooms.watch(peer, b"/", b"t")
    one, two, nobody = rooms.intern([(0, NONE), (1, READ)]), rooms.intern([(2, NONE)]), rooms.intern([(0, WRITE)])
    for perms, old, parent, who in [
        (one, 0, 0, [0, 1]),
        (nobody, 0, 0, [0]),
        (nobody, two, 0, [0, 2]),
        (nobody, 0, one, [0, 1]),
        (one, nobody, two, [0, 1, 2]),
        (0, 0, 0, [0]),
    ]:
        rooms.fire(b"/a", perms=perms, old_perms=old, parent_perms=parent)
        assert [i for i, peer in enumerate(peers) if told(rooms, peer)] == who


def test_one_token_on_two_components_is_told_once(rooms: Rooms) -> None:
    """As an event identical to one that is queued: the eldest watch of the peer speaks."""
    peer, other = rooms.peer(0), rooms.peer(0)
    for path, token in ((b"/", b"t"), (b"/d", b"t"), (b"/d/d", b"t"), (b"/d", b"u"), (b"/d/d", b"u")):
        rooms.watch(peer, path, token)
    rooms.watch(other, b"/d/d", b"t")
    rooms.fire(b"/d/d")
    assert told(rooms, peer) == [(b"/d/d", b"t"), (b"/d/d", b"u")] and told(rooms, other) == [(b"/d/d", b"t")]


def test_an_elder_that_says_something_else_does_not_speak_for_it(rooms: Rooms) -> None:
    peer = rooms.peer(1)
    everybody = rooms.intern([(0, READ)])
    rooms.watch(peer, b"/local", b"far", depth=1)
    rooms.watch(peer, b"/local/domain/1/a", b"far")
    rooms.watch(peer, b"/local/domain", b"form")
    rooms.watch(peer, b"/local/domain/1/a", b"form", relative=True)
    rooms.fire(b"/local/domain/1/a", perms=everybody)
    full = b"/local/domain/1/a"
    assert told(rooms, peer) == [(full, b"far"), (full, b"form"), (b"a", b"form")]


# -- removals


def test_a_removal_is_told_below_first_then_as_a_change(rooms: Rooms) -> None:
    """What is watched exactly and existed: children before parents, elder siblings first; the rest says nothing."""
    peer = rooms.peer(0)
    below = b"/a/1/x /a/1/y /a/2/z /a/3".split()
    for path in below:
        make(rooms, path)
    for path in (b"/", b"/a/2/z", b"/a/3", b"/a/1/y", b"/a/1", b"/a/1/x", b"/a/2", b"/a", b"/a/4", b"/a/1/x/w", b"/b"):
        rooms.watch(peer, path, b"on " + path)
    rooms.fire_removed(b"/a")
    order = b"/a/1/x /a/1/y /a/1 /a/2/z /a/2 /a/3".split()
    assert told(rooms, peer) == [*((p, b"on " + p) for p in order), (b"/a", b"on /"), (b"/a", b"on /a")]
    rooms.fire_removed(b"/a/3")
    assert told(rooms, peer) == [(b"/a/3", b"on " + p) for p in (b"/", b"/a/3", b"/a")]


def test_a_removal_below_is_told_to_who_could_read_it_or_its_parent(rooms: Rooms) -> None:
    peer = rooms.peer(1)
    make(rooms, b"/a")
    make(rooms, b"/a/open", [(0, READ)])
    make(rooms, b"/a/open/shut")
    make(rooms, b"/a/shut")
    make(rooms, b"/a/shut/open", [(0, READ)])
    make(rooms, b"/a/shut/shut")
    for path in (b"/a", b"/a/open", b"/a/open/shut", b"/a/shut", b"/a/shut/open", b"/a/shut/shut"):
        rooms.watch(peer, path, b"t")
    rooms.fire_removed(b"/a")
    assert [path for path, _ in told(rooms, peer)] == [b"/a/open/shut", b"/a/open", b"/a/shut/open"]


def test_a_removal_costs_no_recursion(rooms: Rooms) -> None:
    """A path of 2000 components, each of them watched; what had to wait and collapsed is the watch's path too."""
    peer = rooms.peer(0)
    make(rooms, b"/x" * 2000)
    paths = [b"/x" * n for n in range(1, 2001)]
    for i, path in enumerate(paths):
        rooms.watch(peer, path, b"%d" % i)
    rooms.fire_removed(b"/x")
    seen: list[tuple[bytes, ...]] = []
    while rooms.outbox(peer)[0]:
        seen += told(rooms, peer)
    assert rooms.counters["collapsed"]
    assert seen == [(path, b"%d" % i) for i, path in reversed(list(enumerate(paths)))]


# -- domains


def test_specials_are_told_in_two_forms(rooms: Rooms) -> None:
    """Plain: to watches without a depth.  With the domid: to those with depth >= 1 and those on exactly that path."""
    peer = rooms.peer(0)
    for token, path, depth in [
        (b"plain", b"@releaseDomain", -1),
        (b"0", b"@releaseDomain", 0),
        (b"1", b"@releaseDomain", 1),
        (b"5", b"@releaseDomain", 5),
        (b"seven", b"@releaseDomain/7", -1),
        (b"eight", b"@releaseDomain/8", -1),
        (b"other", b"@introduceDomain", -1),
    ]:
        rooms.watch(peer, path, token, depth=depth)
    rooms.fire_special(b"@releaseDomain")
    assert told(rooms, peer) == [(b"@releaseDomain", b"plain")]
    rooms.fire_special(b"@releaseDomain", 7)
    assert told(rooms, peer) == [(b"@releaseDomain/7", token) for token in (b"1", b"5", b"seven")]
    rooms.fire_special(b"@introduceDomain")
    assert told(rooms, peer) == [(b"@introduceDomain", b"other")]


def test_specials_have_permissions(rooms: Rooms) -> None:
    """By default everybody may see a release, and dom0 alone an introduction."""
    guest = rooms.peer(1)
    for path in (b"@introduceDomain", b"@releaseDomain", b"@releaseDomain/2"):
        rooms.watch(guest, path, b"t")
    rooms.fire_special(b"@introduceDomain")
    assert told(rooms, guest) == []
    rooms.fire_special(b"@releaseDomain")
    rooms.fire_special(b"@releaseDomain", 2)
    assert told(rooms, guest) == [(b"@releaseDomain", b"t"), (b"@releaseDomain/2", b"t")]
    rooms.set_perms(rooms.find(b"@releaseDomain")[0], rooms.intern([(0, NONE)]))
    rooms.fire_special(b"@releaseDomain")
    assert told(rooms, guest) == []
