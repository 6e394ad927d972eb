"""Watches: who hears of what, under which name, and in which order.

An event of one's own change comes before the reply to it; only WATCH is answered first and then fires.
"""

from __future__ import annotations

import pytest

from tests.conversations.speak import OK, Speaker, World, nul
from tests.support.wire import Op


def ops(speaker: Speaker, op: Op, payload: bytes, tx: int = 0) -> list[str]:
    """What comes back, in order: `OK`, an error word, or an event's path."""
    found = []
    for message in speaker.hear(op, payload, tx):
        text = message.payload.split(b"\0")[0].decode()
        found.append(text if message.op in (op, Op.ERROR, Op.WATCH_EVENT) else "?")
    return found


def test_a_new_watch_fires_at_once_after_its_reply(dom0: Speaker) -> None:
    assert ops(dom0, Op.WATCH, nul("/a", "t")) == ["OK", "/a"]
    assert ops(dom0, Op.WATCH, nul("relative", "t")) == ["OK", "relative"]
    assert ops(dom0, Op.WATCH, nul("@releaseDomain", "t")) == ["OK", "@releaseDomain"]
    assert ops(dom0, Op.WATCH, nul("/a", "t")) == ["EEXIST"]


def test_a_new_watch_fires_even_where_the_watcher_may_not_look(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.write("/secret") == OK
    assert guest.watch("/secret", "t") == OK
    assert guest.events() == [("/secret", "t")]
    assert guest.watch("/missing", "t") == OK
    assert guest.events() == [("/missing", "t")]


def test_the_event_of_ones_own_change_comes_before_the_reply(dom0: Speaker) -> None:
    dom0.quietly_watch("/a", "t")
    assert ops(dom0, Op.WRITE, nul("/a")) == ["/a", "OK"]
    assert ops(dom0, Op.MKDIR, nul("/a/b")) == ["/a/b", "OK"]
    assert ops(dom0, Op.SET_PERMS, nul("/a/b", "r0")) == ["/a/b", "OK"]
    assert ops(dom0, Op.RM, nul("/a")) == ["/a", "OK"]


def test_what_fires(dom0: Speaker) -> None:
    dom0.quietly_watch("/a", "t")
    assert dom0.write("/a", b"1") == OK
    assert dom0.write("/a", b"1") == OK  # the same value again
    assert dom0.mkdir("/a/b") == OK
    assert dom0.chmod("/a", "n0") == OK  # the same permissions again
    assert dom0.rm("/a/b") == OK
    assert dom0.rm("/a") == OK
    assert dom0.events() == [("/a", "t"), ("/a", "t"), ("/a/b", "t"), ("/a", "t"), ("/a/b", "t"), ("/a", "t")]


def test_what_does_not_fire(dom0: Speaker) -> None:
    assert dom0.write("/a/b") == OK
    dom0.quietly_watch("/a", "t")
    assert dom0.mkdir("/a") == OK  # is there already
    assert dom0.mkdir("/a/b") == OK
    assert dom0.rm("/a/missing") == OK
    assert dom0.read("/a") == b""
    assert dom0.write("/ab") == OK  # begins alike, but is a sibling
    assert dom0.write("/") == OK  # above the watch
    assert dom0.write("/b/a") == OK
    assert dom0.chmod("/a", "n9") == "ENOENT"
    assert dom0.write("/a//b") == "EINVAL"
    assert dom0.events() == []


def test_a_watch_hears_of_everything_below(dom0: Speaker) -> None:
    for path in ("/", "/a", "/a/b", "/a/b/c"):
        dom0.quietly_watch(path, "on " + path)
    assert dom0.write("/a/b/c/d") == OK
    assert dom0.events() == [("/a/b/c/d", f"on {path}") for path in ("/", "/a", "/a/b", "/a/b/c")]
    assert dom0.write("/a/b") == OK
    assert dom0.events() == [("/a/b", f"on {path}") for path in ("/", "/a", "/a/b")]
    assert dom0.write("/x") == OK
    assert dom0.events() == [("/x", "on /")]


def test_parents_that_come_along_make_no_events_of_their_own(dom0: Speaker) -> None:
    for path in ("/a/b/c", "/a/b", "/a", "/"):
        dom0.quietly_watch(path, "on " + path)
    assert dom0.write("/a/b/c") == OK
    assert dom0.events() == [("/a/b/c", f"on {path}") for path in ("/a/b/c", "/a/b", "/a", "/")]


def test_watches_of_one_connection_fire_in_the_order_of_their_registration(dom0: Speaker) -> None:
    for token, path in enumerate(("/a", "/", "/a/b", "/a", "/a/b/c", "/")):
        dom0.quietly_watch(path, str(token))
    assert dom0.write("/a/b") == OK
    assert [token for _, token in dom0.events()] == ["0", "1", "2", "3", "5"]
    assert dom0.unwatch("/", "1") == OK
    dom0.quietly_watch("/", "1")  # goes to the end
    assert dom0.write("/a/b") == OK
    assert [token for _, token in dom0.events()] == ["0", "2", "3", "5", "1"]


def test_a_relative_watch_speaks_relatively(world: World) -> None:
    guest = world.guest(1)
    guest.quietly_watch("x", "rel")
    guest.quietly_watch("/local/domain/1/x", "abs")
    assert guest.write("x/y") == OK
    assert guest.events() == [("x/y", "rel"), ("/local/domain/1/x/y", "abs")]
    assert world.dom0.write("/local/domain/1/x") == OK
    assert guest.events() == [("x", "rel"), ("/local/domain/1/x", "abs")]


def test_both_forms_name_the_same_watch(world: World) -> None:
    guest = world.guest(1)
    guest.quietly_watch("x", "t")
    assert guest.watch("/local/domain/1/x", "t") == "EEXIST"
    assert guest.unwatch("/local/domain/1/x", "t") == OK
    assert guest.unwatch("x", "t") == "ENOENT"
    assert guest.write("x") == OK
    assert guest.events() == []


def test_rm_tells_of_each_removed_node_deepest_first(dom0: Speaker) -> None:
    for path in ("/a/b/c", "/a/b/d", "/a/e"):
        assert dom0.write(path) == OK
    for path in ("/a", "/a/b", "/a/b/c", "/a/b/d", "/a/e", "/a/missing"):
        dom0.quietly_watch(path, "t")
    assert ops(dom0, Op.RM, nul("/a")) == ["/a/b/c", "/a/b/d", "/a/b", "/a/e", "/a", "OK"]


def test_rm_tells_those_above_of_the_top_only(dom0: Speaker) -> None:
    assert dom0.write("/a/b/c/d") == OK
    for path in ("/", "/a", "/a/b", "/a/b/c", "/a/b/c/d"):
        dom0.quietly_watch(path, "on " + path)
    assert dom0.rm("/a/b") == OK
    assert dom0.events() == [
        ("/a/b/c/d", "on /a/b/c/d"),
        ("/a/b/c", "on /a/b/c"),
        ("/a/b", "on /"),
        ("/a/b", "on /a"),
        ("/a/b", "on /a/b"),
    ]


def test_every_connection_hears_it_once_per_watch(world: World) -> None:
    others = [world.again(world.dom0) for _ in range(3)]
    for other in others:
        other.quietly_watch("/a", "t")
        other.quietly_watch("/a", "u")
    assert world.dom0.write("/a/b") == OK
    assert [other.events() for other in others] == [[("/a/b", "t"), ("/a/b", "u")]] * 3
    assert world.dom0.events() == []


def test_watches_that_would_say_the_same_say_it_once(dom0: Speaker) -> None:
    for path in ("/", "/a", "/a/b"):
        dom0.quietly_watch(path, "same")
    dom0.quietly_watch("/a", "other")
    assert dom0.write("/a/b/c") == OK
    assert dom0.events() == [("/a/b/c", "same"), ("/a/b/c", "other")]


def test_unwatch_ends_it(dom0: Speaker) -> None:
    dom0.quietly_watch("/a", "t")
    dom0.quietly_watch("/a", "u")
    assert dom0.unwatch("/a", "t") == OK
    assert dom0.write("/a") == OK
    assert dom0.events() == [("/a", "u")]
    assert dom0.unwatch("/a", "t") == "ENOENT"


def test_reset_watches_ends_all_of_the_connections_own(world: World) -> None:
    other = world.again(world.dom0)
    for speaker in (world.dom0, other):
        speaker.quietly_watch("/a", "t")
    assert world.dom0.ask(Op.RESET_WATCHES) == OK
    assert world.dom0.write("/a") == OK
    assert world.dom0.events() == []
    assert other.events() == [("/a", "t")]
    world.dom0.quietly_watch("/a", "t")  # can be set again


def test_a_token_is_any_string(dom0: Speaker) -> None:
    tokens = ["", "a b", "/a", "\x01\x7f", "t" * 2000]
    for token in tokens:
        dom0.quietly_watch("/a", token)
    assert dom0.write("/a") == OK
    assert dom0.events() == [("/a", token) for token in tokens]


# -- permission of events ------------------------------
def test_a_guest_hears_of_nodes_that_it_may_read(world: World) -> None:
    guest = world.guest(1)
    guest.quietly_watch("/a", "t")
    assert world.dom0.write("/a/open") == OK
    assert guest.events() == []
    assert world.dom0.chmod("/a/open", "r0") == OK
    assert guest.events() == [("/a/open", "t")]
    assert world.dom0.write("/a/open", b"1") == OK
    assert guest.events() == [("/a/open", "t")]


def test_or_whose_parent_it_may_read(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.write("/a/b") == OK
    assert world.dom0.chmod("/a", "r0") == OK
    guest.quietly_watch("/a", "t")
    assert world.dom0.write("/a/b", b"1") == OK
    assert guest.events() == [("/a/b", "t")]
    assert guest.read("/a/b") == "EACCES"
    # New nodes take their parent's permissions, so /a/b/c is as closed as /a/b.
    assert world.dom0.write("/a/b/c") == OK
    assert guest.events() == []
    assert world.dom0.rm("/a/b") == OK
    assert guest.events() == [("/a/b", "t")]


def test_the_grandparent_does_not_help(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.write("/a/b/c") == OK
    assert world.dom0.chmod("/a", "r0") == OK
    guest.quietly_watch("/a", "t")
    assert world.dom0.write("/a/b/c", b"1") == OK
    assert world.dom0.rm("/a/b/c") == OK
    assert guest.events() == []


def test_who_loses_the_right_to_read_hears_of_it(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.write("/a") == OK
    assert world.dom0.chmod("/a", "n0", "r1") == OK
    guest.quietly_watch("/a", "t")
    assert world.dom0.chmod("/a", "n0") == OK
    assert guest.events() == [("/a", "t")]
    assert world.dom0.write("/a", b"1") == OK
    assert guest.events() == []


def test_the_right_to_write_is_not_enough(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.write("/a") == OK
    assert world.dom0.chmod("/a", "n0", "w1") == OK
    guest.quietly_watch("/a", "t")
    assert world.dom0.write("/a", b"1") == OK
    assert guest.write("/a", b"2") == OK
    assert guest.events() == []


def test_a_stubdomain_hears_what_its_target_may_read(world: World) -> None:
    guest, stub = world.guest(1), world.guest(2)
    assert world.dom0.ask(Op.SET_TARGET, nul(2, 1)) == OK
    stub.quietly_watch("/local/domain/1", "t")
    assert guest.write("x") == OK
    assert stub.events() == [("/local/domain/1/x", "t")]


# -- depth ------------------------------
def test_depth_counts_the_levels_below(dom0: Speaker) -> None:
    for depth in range(4):
        dom0.quietly_watch("/a", f"{depth}", depth)
    for path, expected in (
        ("/a", "0123"),
        ("/a/b", "123"),
        ("/a/b/c", "23"),
        ("/a/b/c/d", "3"),
        ("/a/b/c/d/e", ""),
    ):
        assert dom0.write(path) == OK
        assert "".join(token for _, token in dom0.events()) == expected


def test_depth_on_the_root(dom0: Speaker) -> None:
    dom0.quietly_watch("/", "0", 0)
    dom0.quietly_watch("/", "1", 1)
    dom0.quietly_watch("/", "2", 2)
    assert dom0.write("/") == OK
    assert dom0.events() == [("/", "0"), ("/", "1"), ("/", "2")]
    assert dom0.write("/q") == OK
    assert dom0.events() == [("/q", "1"), ("/q", "2")]
    assert dom0.write("/q/r") == OK
    assert dom0.events() == [("/q/r", "2")]


def test_depth_and_rm(dom0: Speaker) -> None:
    assert dom0.write("/a/b/c") == OK
    dom0.quietly_watch("/a", "top", 1)
    dom0.quietly_watch("/a/b/c", "leaf", 0)
    assert dom0.rm("/a/b") == OK
    assert dom0.events() == [("/a/b/c", "leaf"), ("/a/b", "top")]


def test_a_domain_without_the_feature_has_no_depth(world: World) -> None:
    world.engine.pretend(1, True)
    assert world.dom0.ask(Op.SET_FEATURE, nul(1, 1 | 2 | 8)) == OK
    guest = world.guest(1)
    assert guest.ask(Op.GET_FEATURE) == b"11\0"
    assert guest.watch("x", "t", 1) == "EINVAL"
    assert guest.watch("x", "t") == OK


# -- transactions ------------------------------
def test_nothing_is_heard_before_the_commit_and_all_of_it_before_the_reply(dom0: Speaker) -> None:
    dom0.quietly_watch("/a", "t")
    tx = dom0.start()
    assert ops(dom0, Op.WRITE, nul("/a/x"), tx) == ["OK"]
    assert ops(dom0, Op.WRITE, nul("/a/y"), tx) == ["OK"]
    assert ops(dom0, Op.TRANSACTION_END, b"T\0", tx) == ["/a/x", "/a/y", "OK"]


def test_one_event_per_path(dom0: Speaker) -> None:
    dom0.quietly_watch("/a", "t")
    tx = dom0.start()
    for value in (b"1", b"2", b"3"):
        assert dom0.write("/a/x", value, tx) == OK
        assert dom0.write("/a/y", value, tx) == OK
    assert dom0.commit(tx) == OK
    assert dom0.events() == [("/a/x", "t"), ("/a/y", "t")]


def test_the_order_is_that_of_the_first_access(dom0: Speaker) -> None:
    for path in ("/a", "/b", "/c"):
        assert dom0.write(path) == OK
    dom0.quietly_watch("/", "t")
    tx = dom0.start()
    assert dom0.read("/c", tx) == b""
    assert dom0.write("/b", b"1", tx) == OK
    assert dom0.write("/a", b"1", tx) == OK
    assert dom0.write("/c", b"1", tx) == OK
    assert dom0.commit(tx) == OK
    assert [path for path, _ in dom0.events()] == ["/c", "/b", "/a"]


def test_a_refusal_is_an_access_to_the_node_above_too(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.write("/t/c") == OK
    assert world.dom0.chmod("/t", "b0") == OK
    world.dom0.quietly_watch("/", "t")
    tx = guest.start()
    assert guest.read("/t/c", tx) == "EACCES"  # which error to show is asked of /t
    assert guest.write("own", b"1", tx) == OK
    assert guest.write("/t", b"1", tx) == OK
    assert guest.commit(tx) == OK
    assert [path for path, _ in world.dom0.events()] == ["/t", "/local/domain/1/own"]


def test_rm_in_a_transaction_tells_parents_first(dom0: Speaker) -> None:
    for path in ("/a/b/c", "/a/d"):
        assert dom0.write(path) == OK
    for path in ("/a/d", "/a/b/c", "/a/b", "/a"):
        dom0.quietly_watch(path, "t")
    tx = dom0.start()
    assert dom0.rm("/a", tx) == OK
    assert dom0.commit(tx) == OK
    assert [path for path, _ in dom0.events()] == ["/a", "/a/b", "/a/b/c", "/a/d"]


def test_created_and_removed_in_one_transaction_is_no_event(dom0: Speaker) -> None:
    dom0.quietly_watch("/", "t")
    tx = dom0.start()
    assert dom0.write("/a/b", b"1", tx) == OK
    assert dom0.rm("/a", tx) == OK
    assert dom0.commit(tx) == OK
    assert dom0.events() == []


def test_removed_and_created_again_is_one_event(dom0: Speaker) -> None:
    assert dom0.write("/a/b") == OK
    dom0.quietly_watch("/a", "t")
    tx = dom0.start()
    assert dom0.rm("/a", tx) == OK
    assert dom0.mkdir("/a", tx) == OK
    assert dom0.commit(tx) == OK
    assert dom0.events() == [("/a", "t")]


def test_an_abort_and_a_conflict_are_silent(world: World) -> None:
    dom0, other = world.dom0, world.again(world.dom0)
    other.quietly_watch("/", "t")
    tx = dom0.start()
    assert dom0.write("/a", b"1", tx) == OK
    assert dom0.abort(tx) == OK
    tx = dom0.start()
    assert dom0.read("/a", tx) == "ENOENT"
    assert dom0.write("/b", b"1", tx) == OK
    assert other.write("/a") == OK
    assert dom0.commit(tx) == "EAGAIN"
    assert other.events() == [("/a", "t")]


def test_a_guest_hears_of_a_commit_what_it_may_read(world: World) -> None:
    guest, dom0 = world.guest(1), world.dom0
    assert dom0.write("/open") == OK
    assert dom0.chmod("/open", "r0") == OK
    assert dom0.write("/closing") == OK
    assert dom0.chmod("/closing", "r0") == OK
    assert dom0.write("/shut") == OK
    guest.quietly_watch("/", "t")
    tx = dom0.start()
    assert dom0.write("/shut", b"1", tx) == OK
    assert dom0.write("/open", b"1", tx) == OK
    assert dom0.chmod("/closing", "n0", tx=tx) == OK
    assert dom0.commit(tx) == OK
    assert guest.events() == [("/open", "t"), ("/closing", "t")]


@pytest.mark.parametrize(("before", "after", "heard"), [("n0", "r0", 1), ("r0", "n0", 0)])
def test_todays_permissions_count_whatever_older_views_are_open(
    world: World, before: str, after: str, heard: int
) -> None:
    dom0, other, guest = world.dom0, world.again(world.dom0), world.guest(1)
    assert dom0.write("/a") == OK
    assert dom0.chmod("/a", before) == OK
    guest.quietly_watch("/a", "t")
    tx, older = dom0.start(), dom0.start()
    assert dom0.write("/a", b"1", tx) == OK
    assert dom0.rm("/nothing", older) == OK
    assert other.chmod("/a", after) == OK
    assert guest.events() == [("/a", "t")]
    assert dom0.commit(tx) == OK
    assert guest.events() == [("/a", "t")] * heard


def test_a_watch_set_before_the_commit_hears_of_it(dom0: Speaker) -> None:
    tx = dom0.start()
    assert dom0.write("/a", b"1", tx) == OK
    dom0.quietly_watch("/a", "t")
    assert dom0.commit(tx) == OK
    assert dom0.events() == [("/a", "t")]
