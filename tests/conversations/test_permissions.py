"""Who may do what: a list of entries per node, the first one being its owner and the rule for all who are not named."""

from __future__ import annotations

import pytest

from tests.conversations.speak import OK, Answer, World, nul
from tests.support.wire import Op

RIGHTS = {
    # the list            read     write
    ("n0",): ("EACCES", "EACCES"),
    ("r0",): (b"value", "EACCES"),
    ("w0",): ("EACCES", OK),
    ("b0",): (b"value", OK),
    ("n1",): (b"value", OK),  # owner
    ("n0", "r1"): (b"value", "EACCES"),
    ("n0", "w1"): ("EACCES", OK),
    ("n0", "b1"): (b"value", OK),
    ("b0", "n1"): ("EACCES", "EACCES"),
    ("n0", "r2"): ("EACCES", "EACCES"),
    ("n0", "n1", "b1"): ("EACCES", "EACCES"),  # the first that names it counts
    ("n0", "b1", "n1"): (b"value", OK),
    ("n0", "r2", "b1"): (b"value", OK),
    ("n0", "r32757"): (b"value", "EACCES"),  # any domain
    ("n0", "b32757"): (b"value", OK),
    ("b0", "n32757"): ("EACCES", "EACCES"),
    ("n0", "r1", "b32757"): (b"value", "EACCES"),
    ("n0", "r32757", "b1"): (b"value", "EACCES"),
    ("n2",): ("EACCES", "EACCES"),
    ("b2",): (b"value", OK),
}


@pytest.mark.parametrize("perms", RIGHTS, ids=" ".join)
def test_what_a_list_allows(world: World, perms: tuple[str, ...]) -> None:
    guest = world.guest(1)
    world.guest(2)
    reading, writing = RIGHTS[perms]
    assert world.dom0.write("/a", b"value") == OK
    assert world.dom0.mkdir("/a/child") == OK
    assert world.dom0.chmod("/a", *perms) == OK
    listing: Answer | list[str] = ["child"] if reading == b"value" else "EACCES"
    granted: Answer | list[str] = list(perms) if reading == b"value" else "EACCES"
    assert guest.read("/a") == reading
    assert guest.ls("/a") == listing
    assert guest.perms("/a") == granted
    assert guest.mkdir("/a/new") == writing
    assert guest.write("/a", b"value") == writing
    assert guest.rm("/a") == writing
    assert world.dom0.read("/a") == ("ENOENT" if writing == OK else b"value")


def test_domain_0_may_do_everything(world: World) -> None:
    guest = world.guest(1)
    assert guest.write("x", b"1") == OK
    assert guest.chmod("x", "n1") == OK
    x = "/local/domain/1/x"
    assert world.dom0.read(x) == b"1"
    assert world.dom0.write(x, b"2") == OK
    assert world.dom0.write(x + "/y", b"2") == OK
    assert world.dom0.chmod(x, "r1", "w2") == OK
    assert world.dom0.perms(x) == ["r1", "w2"]
    assert world.dom0.rm(x) == OK


def test_the_path_to_a_node_does_not_matter(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.write("/closed/open", b"1") == OK
    assert world.dom0.chmod("/closed/open", "b0") == OK
    assert guest.ls("/closed") == "EACCES"
    assert guest.read("/closed/open") == b"1"
    assert guest.write("/closed/open/mine", b"1") == OK


# -- creation ------------------------------
def test_a_new_node_takes_its_parents_list_and_belongs_to_its_creator(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.mkdir("/a") == OK
    assert world.dom0.chmod("/a", "w0", "r2", "b1") == OK
    assert guest.write("/a/b/c") == OK
    assert guest.perms("/a/b") == ["w1", "r2", "b1"]
    assert guest.perms("/a/b/c") == ["w1", "r2", "b1"]
    assert world.dom0.perms("/a") == ["w0", "r2", "b1"]


def test_what_domain_0_makes_belongs_to_the_parents_owner(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.write("/local/domain/1/device/vif/0") == OK
    assert guest.perms("device/vif") == ["n1"]
    assert guest.write("device/vif/0", b"mine") == OK


def test_the_nearest_node_that_exists_says_who_may_create(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.mkdir("/a/b") == OK
    assert world.dom0.chmod("/a", "b0") == OK
    assert guest.write("/a/x/y/z") == OK
    assert guest.write("/a/b/x/y/z") == "EACCES"
    assert world.dom0.chmod("/a/b", "w0") == OK
    assert guest.write("/a/b/x/y/z") == OK


# -- which error ------------------------------
def test_what_one_may_not_know(world: World) -> None:
    """A missing node is ENOENT only for who has the wanted right on the nearest node above that exists."""
    guest = world.guest(1)
    assert world.dom0.mkdir("/shut/readable") == OK
    assert world.dom0.chmod("/shut/readable", "r0") == OK
    assert world.dom0.mkdir("/shut/writable") == OK
    assert world.dom0.chmod("/shut/writable", "w0") == OK
    assert guest.read("/shut/missing") == "EACCES"
    assert guest.rm("/shut/missing") == "EACCES"
    assert guest.read("/shut/readable/missing") == "ENOENT"
    assert guest.ls("/shut/readable/missing/too") == "ENOENT"
    assert guest.perms("/shut/readable/missing") == "ENOENT"
    assert guest.write("/shut/readable/missing") == "EACCES"
    assert guest.rm("/shut/readable/missing") == "EACCES"
    assert guest.read("/shut/writable/missing") == "EACCES"
    assert guest.rm("/shut/writable/missing") == OK
    assert guest.rm("/shut/writable/missing/too") == "ENOENT"
    assert guest.chmod("/shut/writable/missing", "n1") == "ENOENT"  # one of the wanted rights is enough to know
    assert guest.chmod("/shut/readable/missing", "n1") == "EACCES"


def test_a_missing_and_a_closed_node_look_alike(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.write("/vm/secret") == OK
    for op in (Op.READ, Op.DIRECTORY, Op.GET_PERMS, Op.RM, Op.MKDIR, Op.WRITE):
        assert guest.ask(op, nul("/vm/secret")) == guest.ask(op, nul("/vm/nothing")) == "EACCES"
    assert guest.chmod("/vm/secret", "n1") == guest.chmod("/vm/nothing", "n1") == "EACCES"
    assert guest.part("/vm/secret", 0) == guest.part("/vm/nothing", 0) == "EACCES"


# -- SET_PERMS ------------------------------
def test_only_the_owner_sets_permissions(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.mkdir("/a") == OK
    assert world.dom0.chmod("/a", "b0", "b1") == OK
    assert guest.chmod("/a", "b0", "b1") == "EACCES"
    assert guest.chmod("/a", "n1") == "EACCES"


def test_an_owner_cannot_give_a_node_away(world: World) -> None:
    guest = world.guest(1)
    world.guest(2)
    assert guest.mkdir("x") == OK
    assert guest.chmod("x", "n2") == "EPERM"
    assert guest.chmod("x", "n0", "b1") == "EPERM"
    assert guest.chmod("x", "r1", "b2") == OK
    assert guest.perms("x") == ["r1", "b2"]


def test_the_new_owner_has_to_exist_the_others_need_not(world: World) -> None:
    assert world.dom0.mkdir("/a") == OK
    assert world.dom0.chmod("/a", "n7") == "ENOENT"
    assert world.dom0.chmod("/a", "n0", "r7") == OK
    assert world.dom0.perms("/a") == ["n0", "r7"]
    world.engine.pretend(7, True)
    assert world.dom0.chmod("/a", "n7") == OK


def test_an_entry_for_a_domain_that_does_not_exist_never_counts(world: World) -> None:
    assert world.dom0.write("/a", b"1") == OK
    assert world.dom0.chmod("/a", "n0", "r7") == OK
    guest = world.guest(7)
    assert guest.read("/a") == "EACCES"
    assert world.dom0.chmod("/a", "n0", "r7") == OK
    assert guest.read("/a") == b"1"


def test_an_entry_for_a_domain_that_exists_but_was_not_introduced_counts(world: World) -> None:
    world.engine.pretend(7, True)
    assert world.dom0.write("/a", b"1") == OK
    assert world.dom0.chmod("/a", "n0", "r7") == OK
    guest = world.guest(7)
    assert guest.read("/a") == b"1"


def test_a_stale_entry_does_not_hide_the_rule_for_all(world: World) -> None:
    assert world.dom0.write("/a", b"1") == OK
    assert world.dom0.chmod("/a", "r0", "n7") == OK
    guest = world.guest(7)
    assert guest.read("/a") == b"1"


def test_any_domain_needs_the_feature_of_who_writes_it(world: World) -> None:
    world.engine.pretend(2, True)
    assert world.dom0.ask(Op.SET_FEATURE, nul(2, 1 | 2 | 4)) == OK
    one, two, three = world.guest(1), world.guest(2), world.guest(3)
    for owner in (one, two):
        assert owner.write("x", b"1") == OK
        assert owner.chmod("x", f"n{owner.domid}", "r32757") == OK
    assert three.read("/local/domain/1/x") == b"1"
    assert three.read("/local/domain/2/x") == "EACCES"


def test_rm_needs_the_right_to_write_the_top_node_only(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.write("/a/of-dom0/deep") == OK
    assert world.dom0.chmod("/a", "n0", "w1") == OK
    assert guest.read("/a/of-dom0") == "EACCES"
    assert guest.rm("/a") == OK
    assert world.dom0.read("/a/of-dom0/deep") == "ENOENT"


# -- targets ------------------------------
def test_a_stubdomain_acts_for_its_target(world: World) -> None:
    guest, stub = world.guest(1), world.guest(2)
    assert guest.write("x", b"of 1") == OK
    assert guest.write("shared", b"1") == OK
    assert stub.read("/local/domain/1/x") == "EACCES"
    assert world.dom0.ask(Op.SET_TARGET, nul(2, 1)) == OK
    assert stub.read("/local/domain/1/x") == b"of 1"
    assert stub.write("/local/domain/1/x", b"of 2") == OK
    assert stub.chmod("/local/domain/1/x", "r1") == OK
    # Entries for the target are its own too; the other way round they are not.
    assert world.dom0.write("/granted", b"1") == OK
    assert world.dom0.chmod("/granted", "n0", "r1") == OK
    assert stub.read("/granted") == b"1"
    assert stub.write("y", b"of 2") == OK
    assert guest.read("/local/domain/2/y") == "EACCES"


def test_what_a_stubdomain_makes_is_its_own(world: World) -> None:
    world.guest(1)
    stub = world.guest(2)
    assert world.dom0.ask(Op.SET_TARGET, nul(2, 1)) == OK
    assert stub.write("/local/domain/1/made") == OK
    assert stub.perms("/local/domain/1/made") == ["n2"]
    assert stub.chmod("/local/domain/1", "n2") == "EPERM"


def test_a_stubdomain_keeps_its_own_home(world: World) -> None:
    world.guest(1)
    stub = world.guest(2)
    assert world.dom0.ask(Op.SET_TARGET, nul(2, 1)) == OK
    assert stub.write("x", b"2") == OK
    assert world.dom0.read("/local/domain/2/x") == b"2"


def test_the_first_entry_for_either_identity_counts(world: World) -> None:
    world.guest(1)
    stub = world.guest(2)
    assert world.dom0.ask(Op.SET_TARGET, nul(2, 1)) == OK
    assert world.dom0.write("/a", b"1") == OK
    assert world.dom0.chmod("/a", "n0", "n2", "r1") == OK
    assert stub.read("/a") == "EACCES"
    assert world.dom0.chmod("/a", "n0", "r1", "n2") == OK
    assert stub.read("/a") == b"1"


def test_a_target_that_dies_is_nobody_afterwards(world: World) -> None:
    world.guest(1)
    stub = world.guest(2)
    assert world.dom0.ask(Op.SET_TARGET, nul(2, 1)) == OK
    world.kill(1)
    world.guest(1)
    assert stub.ls("/local/domain/1") == "EACCES"
