"""Domains come, are introduced, released, die, and their numbers are used again: what stays of them is nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conversations.speak import OK, Speaker, World, nul
from tests.support.wire import Op, pack


def known(world: World, domid: int) -> bytes | str:
    return world.dom0.ask(Op.IS_DOMAIN_INTRODUCED, nul(domid))


def die(world: World, domid: int) -> None:
    world.kill(domid)


def be_released(world: World, domid: int) -> None:
    assert world.dom0.ask(Op.RELEASE, nul(domid)) == OK


@pytest.fixture(params=[die, be_released])
def leave(request: pytest.FixtureRequest) -> Callable[[World, int], None]:
    """The two ways of leaving."""
    return request.param  # type: ignore[no-any-return]


def test_introduced_until_it_leaves(world: World, leave: Callable[[World, int], None]) -> None:
    assert known(world, 1) == b"F\0"
    world.engine.pretend(1, True)
    assert known(world, 1) == b"F\0"
    assert world.dom0.ask(Op.INTRODUCE, nul(1, 1, 1)) == OK
    assert known(world, 1) == b"T\0"
    leave(world, 1)
    assert known(world, 1) == b"F\0"
    assert world.dom0.ask(Op.RELEASE, nul(1)) == "ENOENT"
    assert world.dom0.ask(Op.RESUME, nul(1)) == "ENOENT"


def test_domain_0_can_be_neither_released_nor_resumed(world: World) -> None:
    assert known(world, 0) == b"T\0"
    assert world.dom0.ask(Op.RELEASE, nul(0)) == "EINVAL"
    assert world.dom0.ask(Op.RESUME, nul(0)) == "EINVAL"


def test_its_nodes_go_wherever_they_are(world: World, leave: Callable[[World, int], None]) -> None:
    guest, other = world.guest(1), world.guest(2)
    assert guest.write("x/y", b"1") == OK
    assert world.dom0.mkdir("/shared") == OK
    assert world.dom0.chmod("/shared", "b0") == OK
    assert guest.write("/shared/of-1/deep") == OK
    assert other.write("/shared/of-2") == OK
    leave(world, 1)
    assert world.dom0.ls("/local/domain") == ["2"]
    assert world.dom0.ls("/shared") == ["of-2"]
    assert world.dom0.ls("/") == ["tool", "local", "shared"]


def test_and_what_others_put_below_them(world: World, leave: Callable[[World, int], None]) -> None:
    guest, other = world.guest(1), world.guest(2)
    assert guest.chmod("/local/domain/1", "b1") == OK
    assert other.write("/local/domain/1/of-2/deep") == OK
    assert world.engine.accounts(2)["nodes"][0] == 3
    leave(world, 1)
    assert world.dom0.read("/local/domain/1/of-2") == "ENOENT"
    assert world.engine.accounts(2)["nodes"][0] == 1
    assert other.ls("/local/domain/2") == []


def test_those_who_watch_hear_of_it(world: World, leave: Callable[[World, int], None]) -> None:
    guest = world.guest(1)
    assert guest.write("x/y", b"1") == OK
    for path in ("/local", "/local/domain/1", "/local/domain/1/x/y", "@releaseDomain"):
        world.dom0.quietly_watch(path, f"on {path}")
    leave(world, 1)
    assert world.dom0.events() == [
        ("/local/domain/1/x/y", "on /local/domain/1/x/y"),
        ("/local/domain/1", "on /local"),
        ("/local/domain/1", "on /local/domain/1"),
        ("@releaseDomain", "on @releaseDomain"),
    ]


def test_its_rights_go(world: World, leave: Callable[[World, int], None]) -> None:
    world.guest(1)
    assert world.dom0.write("/a", b"secret") == OK
    assert world.dom0.chmod("/a", "n0", "r1", "b2", "w1") == OK
    assert world.dom0.chmod("@introduceDomain", "n0", "r1") == OK
    leave(world, 1)
    assert world.dom0.perms("/a") == ["n0", "b2"]
    assert world.dom0.perms("@introduceDomain") == ["n0"]


def test_a_number_used_again_has_nothing_of_the_old_one(world: World) -> None:
    first = world.guest(1)
    assert world.dom0.write("/a", b"secret") == OK
    assert world.dom0.chmod("/a", "n0", "b1") == OK
    assert first.read("/a") == b"secret"
    assert first.write("x", b"1") == OK
    first.quietly_watch("/a", "t")
    assert world.dom0.ask(Op.SET_QUOTA, nul(1, "watches", 1)) == OK
    world.kill(1)
    second = world.guest(1)
    assert second.read("/a") == "EACCES"
    assert second.read("x") == "ENOENT"
    assert world.dom0.write("/a", b"2") == OK
    assert second.events() == []
    assert second.start() == 1
    assert world.dom0.ask(Op.GET_QUOTA, nul(1, "watches")) == b"128\0"
    assert world.engine.accounts(1)["nodes"][0] == 1


def test_a_right_given_between_two_lives_is_for_nobody(world: World) -> None:
    world.guest(1)
    world.kill(1)
    assert world.dom0.write("/a", b"secret") == OK
    assert world.dom0.chmod("/a", "n0", "r1") == OK
    assert world.guest(1).read("/a") == "EACCES"


def test_a_death_is_a_change_for_transactions(world: World) -> None:
    world.guest(1)
    tx = world.dom0.start()
    assert world.dom0.ls("/local/domain", tx) == ["1"]
    world.kill(1)
    assert world.dom0.ls("/local/domain", tx) == ["1"]
    assert world.dom0.commit(tx) == "EAGAIN"


def test_a_transaction_cannot_bring_its_nodes_back(world: World) -> None:
    world.guest(1)
    tx = world.dom0.start()
    assert world.dom0.write("/gift", b"1", tx) == OK
    assert world.dom0.chmod("/gift", "n1", tx=tx) == OK
    world.kill(1)
    assert world.dom0.commit(tx) == "EAGAIN"
    assert world.dom0.read("/gift") == "ENOENT"


def test_a_second_introduction_keeps_nodes_and_rights(world: World) -> None:
    guest = world.guest(1)
    assert guest.write("x", b"1") == OK
    assert world.dom0.write("/a", b"2") == OK
    assert world.dom0.chmod("/a", "n0", "r1") == OK
    assert world.dom0.ask(Op.INTRODUCE, nul(1, 1, 2)) == OK
    assert guest.read("x") == b"1"
    assert guest.read("/a") == b"2"


def test_but_watches_transactions_and_half_a_request_are_gone(world: World) -> None:
    guest = world.guest(1)
    guest.quietly_watch("x", "t")
    tx = guest.start()
    assert guest.write("in-tx", b"1", tx) == OK
    guest.peer.send_raw(pack(Op.READ, nul("x"), 1)[:17])
    assert world.dom0.ask(Op.INTRODUCE, nul(1, 1, 2)) == OK
    assert world.dom0.write("/local/domain/1/x", b"1") == OK
    assert guest.events() == []
    assert guest.read("x") == b"1"
    assert guest.commit(tx) == "ENOENT"
    assert guest.read("in-tx") == "ENOENT"


def test_the_domain_has_to_exist(world: World) -> None:
    assert world.dom0.ask(Op.INTRODUCE, nul(9, 1, 1)) == "EINVAL"  # whatever mapping its page comes to
    assert known(world, 9) == b"F\0"


def test_resume_is_for_the_introduced(world: World) -> None:
    world.guest(1)
    assert world.dom0.ask(Op.RESUME, nul(1)) == OK
    assert world.dom0.ask(Op.RESUME, nul(2)) == "ENOENT"


def test_a_target_for_life(world: World) -> None:
    guest, stub = world.guest(1), world.guest(2)
    assert guest.write("x", b"1") == OK
    assert world.dom0.ask(Op.SET_TARGET, nul(2, 1)) == OK
    assert stub.read("/local/domain/1/x") == b"1"
    world.kill(2)
    stub = world.guest(2)
    assert stub.read("/local/domain/1/x") == "EACCES"


def test_everybody_may_ask_for_a_home(world: World) -> None:
    guest = world.guest(1)
    for domid in (0, 1, 7, 65535):
        assert guest.ask(Op.GET_DOMAIN_PATH, nul(domid)) == nul(f"/local/domain/{domid}")


def test_an_administrator_may_keep_what_the_dead_leave() -> None:
    """`fastxsd -K`: what a domain owned becomes domain 0's, in silence; its rights go all the same."""
    from fastxs._core import Engine

    engine = Engine(keep_orphans=True)
    world = World(engine)
    guest = world.guest(1)
    assert guest.write("x/y", b"1") == OK
    assert guest.chmod("/local/domain/1/x", "n1", "r2", "b1") == OK
    world.dom0.quietly_watch("/", "t")
    world.kill(1)
    assert world.dom0.events() == []
    assert world.dom0.read("/local/domain/1/x/y") == b"1"
    assert world.dom0.perms("/local/domain/1/x") == ["n0", "r2"]
    world.engine.pretend(1, True)
    assert world.dom0.ask(Op.INTRODUCE, nul(1, 1, 1)) == OK
    assert Speaker(engine, 1).read("x/y") == "EACCES"
    assert engine.accounts(1)["nodes"] == (0, 0)
    world.sound()
    engine.close()
