"""Quotas: a quota of N allows exactly N.  Domain 0 has none; 0 means unlimited."""

from __future__ import annotations

import pytest

from tests.conversations.speak import OK, Speaker, World, nul
from tests.support.wire import Op


def now(world: World, name: str, domid: int = 1) -> int:
    return world.engine.accounts(domid)[name][0]


@pytest.fixture
def guest(world: World) -> Speaker:
    """Domain 1, whose home is the first of its nodes."""
    return world.guest(1)


# -- nodes ------------------------------
def test_nodes(world: World, guest: Speaker) -> None:
    world.engine.set_quota("nodes", 5, 1)
    assert now(world, "nodes") == 1
    for name in ("a", "b", "c", "d"):
        assert guest.write(name) == OK
    assert now(world, "nodes") == 5
    assert guest.write("e") == "ENOSPC"
    assert guest.mkdir("e") == "ENOSPC"
    assert guest.write("a", b"what is there can be written") == OK
    assert guest.ls("/local/domain/1") == ["a", "b", "c", "d"]
    assert guest.rm("a") == OK
    assert guest.write("e") == OK
    assert guest.write("f") == "ENOSPC"
    assert now(world, "nodes") == 5


def test_a_thousand_nodes_is_a_thousand(world: World, guest: Speaker) -> None:
    answers = [guest.mkdir(f"{i % 30}/{i}") for i in range(1000)]
    # 1 home, 30 directories: 969 of the others.
    assert answers.count(OK) == 969
    assert set(answers[969:]) == {"ENOSPC"}
    assert now(world, "nodes") == 1000


def test_parents_that_come_along_count_and_come_all_or_none(world: World, guest: Speaker) -> None:
    world.engine.set_quota("nodes", 4, 1)
    assert guest.write("a/b/c/d") == "ENOSPC"
    assert guest.ls("/local/domain/1") == []
    assert now(world, "nodes") == 1
    assert guest.write("a/b/c") == OK
    assert now(world, "nodes") == 4


def test_rm_of_a_subtree_gives_all_of_it_back(world: World, guest: Speaker) -> None:
    for i in range(20):
        assert guest.write(f"a/{i}/x") == OK
    assert now(world, "nodes") == 42
    assert guest.rm("a") == OK
    assert now(world, "nodes") == 1


def test_who_owns_a_node_pays_for_it(world: World, guest: Speaker) -> None:
    world.engine.set_quota("nodes", 3, 1)
    # Domain 0 may put more there than the guest could, and what it makes there belongs to the guest.
    for i in range(5):
        assert world.dom0.write(f"/local/domain/1/{i}") == OK
    assert now(world, "nodes") == 6
    assert guest.write("mine") == "ENOSPC"
    # A change of owner moves the charge.
    assert world.dom0.chmod("/local/domain/1/0", "n0", "b1") == OK
    assert now(world, "nodes") == 5
    assert world.dom0.write("/gift") == OK
    assert world.dom0.chmod("/gift", "n1") == OK
    assert now(world, "nodes") == 6
    assert world.dom0.rm("/gift") == OK
    assert now(world, "nodes") == 5


def test_a_guests_node_under_another_guests_is_its_own(world: World, guest: Speaker) -> None:
    two = world.guest(2)
    assert guest.chmod("/local/domain/1", "b1") == OK
    assert two.write("/local/domain/1/of-2") == OK
    assert (now(world, "nodes", 1), now(world, "nodes", 2)) == (1, 2)
    # The owner of the directory may remove it with everything in it.
    assert guest.write("x/y") == OK
    assert two.write("/local/domain/1/x/of-2") == OK
    assert guest.rm("x") == OK
    assert (now(world, "nodes", 1), now(world, "nodes", 2)) == (1, 2)


def test_domain_0_has_no_quota(world: World) -> None:
    for name in ("nodes", "watches", "transactions", "transaction-nodes", "node-permissions", "node-size", "path-max"):
        world.engine.set_quota(name, 1)
        world.engine.set_quota(name, 1, 0)
    dom0 = world.dom0
    tx, _ = dom0.start(), dom0.start()
    for i in range(10):
        assert dom0.write(f"/a/{i}", b"v" * 3000, tx) == OK
    assert dom0.chmod("/a", "n0", "r1", "r2", "r3", "r4", "r5", "r6", tx=tx) == OK
    assert dom0.commit(tx) == OK
    for i in range(10):
        assert dom0.watch("/a", str(i)) == OK


def test_0_is_unlimited(world: World, guest: Speaker) -> None:
    for name in ("nodes", "watches", "transactions", "transaction-nodes", "node-permissions", "node-size"):
        world.engine.set_quota(name, 0, 1)
    for i in range(1100):
        assert guest.write(f"{i % 30}/{i}") == OK
    for i in range(200):
        assert guest.watch("x", str(i)) == OK
    txs = [guest.start() for _ in range(20)]
    for i in range(1100):
        assert guest.read(f"{i % 30}/{i}", txs[0]) == b""
    assert guest.commit(txs[0]) == OK
    assert guest.chmod("0", "n1", *["r2"] * 20) == OK
    assert guest.write("0", b"v" * 4000) == OK


# -- nodes in transactions ------------------------------
def test_nodes_in_a_transaction(world: World, guest: Speaker) -> None:
    world.engine.set_quota("nodes", 3, 1)
    tx = guest.start()
    assert guest.write("a", b"", tx) == OK
    assert guest.write("b", b"", tx) == OK
    assert now(world, "nodes") == 1  # nothing is there yet
    assert guest.commit(tx) == OK
    assert now(world, "nodes") == 3


def test_removed_in_a_transaction_makes_room_in_it(world: World, guest: Speaker) -> None:
    world.engine.set_quota("nodes", 2, 1)
    assert guest.write("a") == OK
    tx = guest.start()
    assert guest.rm("a", tx) == OK
    assert guest.write("b", b"", tx) == OK
    assert guest.commit(tx) == OK
    assert now(world, "nodes") == 2
    assert guest.ls("/local/domain/1") == ["b"]


def test_a_quota_hit_inside_fails_the_transaction(world: World, guest: Speaker) -> None:
    world.engine.set_quota("nodes", 3, 1)
    tx = guest.start()
    assert guest.write("a", b"", tx) == OK
    assert guest.write("b/c", b"", tx) == "ENOSPC"
    assert guest.read("a", tx) == b""
    assert guest.commit(tx) == "ENOMEM"
    assert guest.ls("/local/domain/1") == []
    assert now(world, "nodes") == 1
    # To abort is always possible.
    tx = guest.start()
    assert guest.write("b/c/d", b"", tx) == "ENOSPC"
    assert guest.abort(tx) == OK


def test_a_quota_filled_meanwhile_shows_at_the_commit(world: World, guest: Speaker) -> None:
    world.engine.set_quota("nodes", 3, 1)
    tx = guest.start()
    assert guest.write("a", b"", tx) == OK
    assert guest.write("b", b"", tx) == OK
    assert guest.write("outside") == OK
    assert guest.commit(tx) == "ENOSPC"
    assert guest.ls("/local/domain/1") == ["outside"]
    assert now(world, "nodes") == 2


def test_two_transactions_that_fit_each_but_not_together(world: World, guest: Speaker) -> None:
    world.engine.set_quota("nodes", 3, 1)
    one, two = guest.start(), guest.start()
    for name in ("a", "b"):
        assert guest.write("one-" + name, b"", one) == OK
        assert guest.write("two-" + name, b"", two) == OK
    assert guest.commit(one) == OK
    assert guest.commit(two) == "ENOSPC"
    assert now(world, "nodes") == 3


# -- watches ------------------------------
def test_watches(world: World, guest: Speaker) -> None:
    world.engine.set_quota("watches", 3, 1)
    for token in "abc":
        assert guest.watch("x", token) == OK
    assert guest.watch("x", "d") == "ENOSPC"
    assert guest.watch("x", "a") == "EEXIST"
    assert guest.watch("x//", "d") == "EINVAL"
    assert now(world, "watches") == 3
    assert guest.unwatch("x", "b") == OK
    assert guest.watch("x", "d") == OK
    assert guest.watch("x", "e") == "ENOSPC"
    assert guest.ask(Op.RESET_WATCHES) == OK
    assert now(world, "watches") == 0
    assert guest.watch("x", "e") == OK


def test_128_watches_are_128(guest: Speaker) -> None:
    answers = [guest.watch("x", str(i)) for i in range(130)]
    assert answers == [OK] * 128 + ["ENOSPC"] * 2


def test_leaving_gives_watches_back(world: World, guest: Speaker) -> None:
    world.engine.set_quota("watches", 1, 1)
    assert guest.watch("x", "a") == OK
    guest.leave()
    assert now(world, "watches") == 0
    assert world.again(guest).watch("x", "a") == OK


# -- transactions ------------------------------
def test_transactions(world: World, guest: Speaker) -> None:
    txs = [guest.start() for _ in range(10)]
    assert guest.ask(Op.TRANSACTION_START) == "ENOSPC"
    assert now(world, "transactions") == 10
    assert guest.abort(txs[4]) == OK
    assert guest.start() not in txs
    assert guest.ask(Op.TRANSACTION_START) == "ENOSPC"
    assert guest.ask(Op.RESET_WATCHES) == OK
    assert now(world, "transactions") == 0


def test_transaction_nodes(world: World, guest: Speaker) -> None:
    for i in range(5):
        assert guest.write(f"{i}") == OK
    world.engine.set_quota("transaction-nodes", 4, 1)
    tx = guest.start()
    for i in range(4):
        assert guest.read(f"{i}", tx) == b""
    assert guest.read("0", tx) == b""  # counted once
    assert guest.read("4", tx) == "ENOSPC"
    assert guest.commit(tx) == "ENOMEM"
    tx = guest.start()
    for i in range(4):
        assert guest.write(f"{i}", b"1", tx) == OK
    assert guest.commit(tx) == OK
    tx = guest.start()
    for i in range(4):
        assert guest.read(f"{i}", tx) == b"1"
    assert guest.read("4", tx) == "ENOSPC"
    assert guest.abort(tx) == OK


# -- one node ------------------------------
def test_node_permissions(world: World, guest: Speaker) -> None:
    assert guest.write("x") == OK
    for count in (4, 5):
        assert guest.chmod("x", "n1", *["r0"] * (count - 1)) == OK
    assert guest.chmod("x", "n1", *["r0"] * 5) == "ENOSPC"
    assert guest.perms("x") == ["n1", "r0", "r0", "r0", "r0"]
    world.engine.set_quota("node-permissions", 1, 1)
    assert guest.chmod("x", "n1") == OK
    assert guest.chmod("x", "n1", "r0") == "ENOSPC"


def test_node_size_counts_header_permissions_value(guest: Speaker) -> None:
    # 16 bytes of header, 8 per permission, the value: 2048 in all.
    assert guest.write("x", b"v" * 2024) == OK
    assert guest.write("x", b"v" * 2025) == "ENOSPC"
    assert guest.write("new", b"v" * 2025) == "ENOSPC"
    assert guest.read("new") == "ENOENT"
    assert guest.chmod("x", "n1", "r0") == "ENOSPC"
    assert guest.write("x", b"v" * 2016) == OK
    assert guest.chmod("x", "n1", "r0") == OK
    assert guest.write("x", b"v" * 2017) == "ENOSPC"
    assert len(guest.read("x")) == 2016


def test_and_the_names_of_children(world: World, guest: Speaker) -> None:
    assert guest.write("x", b"v" * 2000) == OK
    assert guest.write("x/" + "c" * 23) == OK  # 23 letters and a NUL: full
    assert guest.write("x/d") == "ENOSPC"
    assert guest.write("x", b"v" * 2001) == "ENOSPC"
    assert guest.ls("x") == ["c" * 23]
    assert guest.rm("x/" + "c" * 23) == OK
    assert guest.write("x", b"v" * 2001) == OK
    assert now(world, "nodes") == 2


def test_a_node_size_hit_inside_fails_the_transaction(guest: Speaker) -> None:
    tx = guest.start()
    assert guest.write("x", b"v", tx) == OK
    assert guest.write("y", b"v" * 2025, tx) == "ENOSPC"
    assert guest.commit(tx) == "ENOMEM"
    assert guest.read("x") == "ENOENT"


def test_a_permission_too_many_does_not_fail_the_transaction(guest: Speaker) -> None:
    tx = guest.start()
    assert guest.write("x", b"v", tx) == OK
    assert guest.chmod("x", "n1", *["r0"] * 5, tx=tx) == "ENOSPC"
    assert guest.commit(tx) == OK
    assert guest.read("x") == b"v"


def test_path_max(world: World, guest: Speaker) -> None:
    world.engine.set_quota("path-max", 10, 1)
    assert guest.write("0123456789") == OK
    assert guest.write("0123456789a") == "EINVAL"
    assert guest.read("/local/domain/1/0123456789") == b""
    assert guest.watch("0123456789a", "t") == "EINVAL"
    assert guest.watch("@releaseDomain", "t") == "EINVAL"  # 14 characters
    assert guest.read("/0123456789") == "EINVAL"


# -- GET_QUOTA, SET_QUOTA ------------------------------
def test_quotas_of_one_domain(world: World, guest: Speaker) -> None:
    dom0 = world.dom0
    assert dom0.ask(Op.SET_QUOTA, nul(1, "nodes", 2)) == OK
    assert dom0.ask(Op.GET_QUOTA, nul(1, "nodes")) == b"2\0"
    assert dom0.ask(Op.GET_QUOTA, nul("nodes")) == b"1000\0"
    assert world.engine.get_quota("nodes", 1) == 2
    assert guest.write("a") == OK
    assert guest.write("b") == "ENOSPC"


def test_global_quotas_are_for_domains_to_come(world: World, guest: Speaker) -> None:
    dom0 = world.dom0
    assert dom0.ask(Op.SET_QUOTA, nul("nodes", 2)) == OK
    assert dom0.ask(Op.GET_QUOTA, nul("nodes")) == b"2\0"
    assert dom0.ask(Op.GET_QUOTA, nul(1, "nodes")) == b"1000\0"
    two = world.guest(2)
    assert dom0.ask(Op.GET_QUOTA, nul(2, "nodes")) == b"2\0"
    assert guest.write("a/b") == OK
    assert two.write("a") == OK
    assert two.write("b") == "ENOSPC"


def test_a_domain_can_be_given_quotas_before_it_is_introduced(world: World) -> None:
    world.engine.pretend(5, True)
    assert world.dom0.ask(Op.SET_QUOTA, nul(5, "watches", 1)) == OK
    guest = world.guest(5)
    assert guest.watch("x", "a") == OK
    assert guest.watch("x", "b") == "ENOSPC"


def test_a_lowered_quota_takes_nothing_away(world: World, guest: Speaker) -> None:
    for name in "abcdef":
        assert guest.write(name) == OK
    assert world.dom0.ask(Op.SET_QUOTA, nul(1, "nodes", 3)) == OK
    assert guest.write("g") == "ENOSPC"
    for name in "abcd":
        assert guest.rm(name) == OK
    assert now(world, "nodes") == 3
    assert guest.write("g") == "ENOSPC"
    assert guest.rm("e") == OK
    assert guest.write("g") == OK


# -- features ------------------------------
def test_features_are_chosen_before_the_introduction(world: World) -> None:
    world.engine.pretend(5, True)
    assert world.dom0.ask(Op.SET_FEATURE, nul(5, 6)) == OK
    assert world.dom0.ask(Op.GET_FEATURE, nul(5)) == b"6\0"
    guest = world.guest(5)
    assert guest.ask(Op.GET_FEATURE) == b"6\0"
    assert world.dom0.ask(Op.SET_FEATURE, nul(5, 15)) == "EBUSY"
    assert world.dom0.ask(Op.GET_FEATURE) == b"15\0"
