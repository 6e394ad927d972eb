"""@introduceDomain and @releaseDomain: who comes, who goes, and which of them, for those who asked with a depth.

The plain form goes to watches without a depth, `@releaseDomain/5` to watches with a depth of at least 1 and to watches
on exactly that path.
"""

from __future__ import annotations

import pytest

from tests.conversations.speak import OK, Speaker, World, nul
from tests.support.wire import Op

BOTH = ("@introduceDomain", "@releaseDomain")


def introduce(world: World, domid: int) -> None:
    world.engine.pretend(domid, True)
    assert world.dom0.ask(Op.INTRODUCE, nul(domid, 1, 1)) == OK


def listen(speaker: Speaker) -> None:
    for name in BOTH:
        speaker.quietly_watch(name, "plain")
        speaker.quietly_watch(name, "depth 0", 0)
        speaker.quietly_watch(name, "depth 1", 1)
        speaker.quietly_watch(name, "depth 5", 5)
        speaker.quietly_watch(name + "/5", "just 5")
        speaker.quietly_watch(name + "/6", "just 6")


def test_who_hears_of_what(world: World) -> None:
    listen(world.dom0)
    introduce(world, 5)
    assert world.dom0.events() == [
        ("@introduceDomain", "plain"),
        ("@introduceDomain/5", "depth 1"),
        ("@introduceDomain/5", "depth 5"),
        ("@introduceDomain/5", "just 5"),
    ]
    world.kill(5)
    assert world.dom0.events() == [
        ("@releaseDomain", "plain"),
        ("@releaseDomain/5", "depth 1"),
        ("@releaseDomain/5", "depth 5"),
        ("@releaseDomain/5", "just 5"),
    ]


def test_the_event_of_an_introduction_comes_before_its_reply(world: World) -> None:
    world.dom0.quietly_watch("@introduceDomain", "t")
    world.engine.pretend(5, True)
    said = world.dom0.hear(Op.INTRODUCE, nul(5, 1, 1))
    assert [message.op for message in said] == [Op.WATCH_EVENT, Op.INTRODUCE]


def test_a_domain_is_introduced_once(world: World) -> None:
    introduce(world, 5)
    listen(world.dom0)
    introduce(world, 5)
    assert world.dom0.events() == []


def test_release_tells_too(world: World) -> None:
    introduce(world, 5)
    world.dom0.quietly_watch("@releaseDomain", "plain")
    world.dom0.quietly_watch("@releaseDomain", "deep", 1)
    said = world.dom0.hear(Op.RELEASE, nul(5))
    assert [message.op for message in said] == [Op.WATCH_EVENT, Op.WATCH_EVENT, Op.RELEASE]
    assert [message.payload for message in said[:2]] == [
        nul("@releaseDomain", "plain"),
        nul("@releaseDomain/5", "deep"),
    ]
    assert world.dom0.ask(Op.IS_DOMAIN_INTRODUCED, nul(5)) == b"F\0"


def test_a_domain_that_nobody_introduced_goes_in_silence(world: World) -> None:
    listen(world.dom0)
    world.engine.pretend(5, True)
    world.kill(5)
    assert world.dom0.events() == []


def test_the_nodes_of_the_dead_go_first(world: World) -> None:
    world.guest(5)
    world.dom0.quietly_watch("@releaseDomain", "t")
    world.dom0.quietly_watch("/local/domain/5", "home")
    world.kill(5)
    assert world.dom0.events() == [("/local/domain/5", "home"), ("@releaseDomain", "t")]


def test_every_guest_hears_of_releases_but_not_of_introductions(world: World) -> None:
    guest = world.guest(1)
    for name in BOTH:
        guest.quietly_watch(name, "plain")
        guest.quietly_watch(name, "deep", 1)
        guest.quietly_watch(name + "/5", "exact")
    introduce(world, 5)
    assert guest.events() == []
    world.kill(5)
    assert guest.events() == [("@releaseDomain", "plain"), ("@releaseDomain/5", "deep"), ("@releaseDomain/5", "exact")]


def test_unless_the_administrator_says_otherwise(world: World) -> None:
    one, two = world.guest(1), world.guest(2)
    assert world.dom0.chmod("@releaseDomain", "n0") == OK
    assert world.dom0.chmod("@introduceDomain", "n0", "r2") == OK
    for guest in (one, two):
        listen(guest)
    introduce(world, 5)
    world.kill(5)
    assert one.events() == []
    assert [path for path, _ in two.events()] == [
        "@introduceDomain",
        "@introduceDomain/5",
        "@introduceDomain/5",
        "@introduceDomain/5",
    ]


def test_permissions_of_the_specials_are_read_and_set_like_any(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.perms("@releaseDomain") == ["n0", "r32757"]
    assert world.dom0.perms("@introduceDomain") == ["n0"]
    assert guest.perms("@releaseDomain") == ["n0", "r32757"]
    assert guest.perms("@introduceDomain") == "EACCES"
    assert guest.chmod("@releaseDomain", "n1") == "EACCES"
    assert guest.chmod("@introduceDomain", "n0", "r1") == "EACCES"
    assert world.dom0.chmod("@introduceDomain", "n0", "r1") == OK
    assert guest.perms("@introduceDomain") == ["n0", "r1"]


@pytest.mark.parametrize("depth", [None, 1])
def test_unwatching_a_special(world: World, depth: int | None) -> None:
    world.dom0.quietly_watch("@releaseDomain", "t", depth)
    assert world.dom0.watch("@releaseDomain", "t") == "EEXIST"
    assert world.dom0.unwatch("@releaseDomain", "t") == OK
    introduce(world, 5)
    world.kill(5)
    assert world.dom0.events() == []


def test_a_watch_on_the_root_hears_nothing_of_the_specials(world: World) -> None:
    world.dom0.quietly_watch("/", "t")
    introduce(world, 5)
    world.kill(5)
    assert world.dom0.events() == []


def test_several_domains_each_have_their_own_form(world: World) -> None:
    for domid in (5, 6, 7):
        introduce(world, domid)
    world.dom0.quietly_watch("@releaseDomain", "t", 1)
    for domid in (6, 7, 5):
        world.kill(domid)
    assert [path for path, _ in world.dom0.events()] == ["@releaseDomain/6", "@releaseDomain/7", "@releaseDomain/5"]


def test_setting_a_specials_permissions_tells_nobody(world: World) -> None:
    world.dom0.quietly_watch("@releaseDomain", "t")
    assert world.dom0.chmod("@releaseDomain", "n0") == OK
    tx = world.dom0.start()
    assert world.dom0.chmod("@releaseDomain", "n0", "r1", tx=tx) == OK
    assert world.dom0.commit(tx) == OK
    assert world.dom0.perms("@releaseDomain") == ["n0", "r1"]
    assert world.dom0.events() == []


def test_the_root_is_no_special_nodes_parent(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.chmod("/", "r0") == OK
    guest.quietly_watch("@introduceDomain", "t")
    introduce(world, 5)
    assert guest.events() == []
