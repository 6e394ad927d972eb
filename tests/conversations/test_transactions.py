"""Transactions: a consistent view, and a commit if the same requests would be answered the same today.

The daemons before this one refuse more: a change of a directory's children was a change of the directory, and a write
counted as a read.  Whatever they commit commits here too, with the same result.
"""

from __future__ import annotations

import pytest

from tests.conversations.speak import OK, Speaker, World, nul
from tests.support.wire import Op


@pytest.fixture
def other(world: World) -> Speaker:
    """A second tool in domain 0: whoever changes the store meanwhile."""
    return world.again(world.dom0)


# -- ids ------------------------------
def test_ids_count_up_from_1_on_each_connection(dom0: Speaker, other: Speaker) -> None:
    assert [dom0.start() for _ in range(3)] == [1, 2, 3]
    assert other.start() == 1
    assert dom0.abort(2) == OK
    assert dom0.start() == 4
    assert dom0.commit(1) == OK
    assert dom0.start() == 5


def test_an_id_belongs_to_its_connection(dom0: Speaker, other: Speaker) -> None:
    tx = dom0.start()
    assert other.read("/tool", tx) == "ENOENT"
    assert other.commit(tx) == "ENOENT"
    assert dom0.read("/tool", tx) == b""


def test_an_ended_transaction_is_unknown(dom0: Speaker) -> None:
    for end in (dom0.commit, dom0.abort):
        tx = dom0.start()
        assert end(tx) == OK
        assert dom0.read("/tool", tx) == "ENOENT"
        assert end(tx) == "ENOENT"


def test_there_are_no_nested_transactions(dom0: Speaker) -> None:
    tx = dom0.start()
    assert dom0.ask(Op.TRANSACTION_START, b"\0", tx) == "EBUSY"
    assert dom0.ask(Op.TRANSACTION_START, b"\0", tx + 1) == "ENOENT"
    assert dom0.write("/a", b"1", tx) == OK
    assert dom0.commit(tx) == OK


def test_a_strange_end_leaves_it_open(dom0: Speaker) -> None:
    tx = dom0.start()
    assert dom0.write("/a", b"1", tx) == OK
    for payload in (b"", b"T", b"x\0", b"TF\0"):
        assert dom0.ask(Op.TRANSACTION_END, payload, tx) == "EINVAL"
    assert dom0.commit(tx) == OK
    assert dom0.read("/a") == b"1"


def test_there_is_nothing_to_end_outside(dom0: Speaker) -> None:
    assert dom0.commit(0) == "ENOENT"
    assert dom0.abort(0) == "ENOENT"


# -- what one sees ------------------------------
def test_own_writes_are_seen_inside_only(dom0: Speaker, other: Speaker) -> None:
    tx = dom0.start()
    assert dom0.write("/a/b", b"1", tx) == OK
    assert dom0.read("/a/b", tx) == b"1"
    assert dom0.ls("/a", tx) == ["b"]
    assert dom0.ls("/", tx) == ["tool", "a"]
    assert dom0.chmod("/a", "r0", tx=tx) == OK
    assert dom0.perms("/a", tx) == ["r0"]
    assert dom0.read("/a/b") == "ENOENT"  # the same connection, outside
    assert other.read("/a/b") == "ENOENT"
    assert other.ls("/") == ["tool"]
    assert dom0.commit(tx) == OK
    assert other.read("/a/b") == b"1"
    assert other.perms("/a") == ["r0"]
    assert other.ls("/") == ["tool", "a"]


def test_own_removals_are_seen_inside_only(dom0: Speaker, other: Speaker) -> None:
    for path in ("/a/b/c", "/a/d"):
        assert dom0.write(path, b"1") == OK
    tx = dom0.start()
    assert dom0.rm("/a/b", tx) == OK
    assert dom0.read("/a/b", tx) == "ENOENT"
    assert dom0.read("/a/b/c", tx) == "ENOENT"
    assert dom0.ls("/a", tx) == ["d"]
    assert other.read("/a/b/c") == b"1"
    assert dom0.write("/a/b", b"new", tx) == OK
    assert dom0.ls("/a/b", tx) == []
    assert dom0.ls("/a", tx) == ["d", "b"]
    assert dom0.commit(tx) == OK
    assert other.ls("/a") == ["d", "b"]
    assert other.read("/a/b") == b"new"
    assert other.read("/a/b/c") == "ENOENT"


def test_an_abort_leaves_no_trace(dom0: Speaker) -> None:
    assert dom0.write("/a", b"1") == OK
    tx = dom0.start()
    assert dom0.write("/a", b"2", tx) == OK
    assert dom0.write("/b/c", b"2", tx) == OK
    assert dom0.rm("/tool", tx) == OK
    assert dom0.abort(tx) == OK
    assert dom0.read("/a") == b"1"
    assert dom0.ls("/") == ["tool", "a"]


def test_two_transactions_of_one_connection_do_not_see_each_other(dom0: Speaker) -> None:
    one, two = dom0.start(), dom0.start()
    assert dom0.write("/a", b"one", one) == OK
    assert dom0.write("/b", b"two", two) == OK
    assert dom0.read("/b", one) == "ENOENT"
    assert dom0.read("/a", two) == "ENOENT"


def test_a_first_look_sees_the_store_as_it_is_today(dom0: Speaker, other: Speaker) -> None:
    assert dom0.write("/a", b"old") == OK
    tx = dom0.start()
    assert other.write("/a", b"new") == OK
    assert dom0.read("/a", tx) == b"new"
    assert dom0.commit(tx) == OK


def test_the_view_moves_on_while_nothing_that_was_read_has_changed(dom0: Speaker, other: Speaker) -> None:
    assert dom0.write("/a", b"a") == OK
    tx = dom0.start()
    assert dom0.read("/a", tx) == b"a"
    assert dom0.write("/mine", b"1", tx) == OK
    assert other.write("/b", b"new") == OK
    assert dom0.read("/b", tx) == b"new"
    assert dom0.ls("/", tx) == ["tool", "a", "b", "mine"]
    assert dom0.commit(tx) == OK


def test_two_values_that_belong_together_are_never_read_half_old_half_new(dom0: Speaker, other: Speaker) -> None:
    def both(value: bytes) -> None:
        tx = other.start()
        assert other.write("/a", value, tx) == OK
        assert other.write("/b", value, tx) == OK
        assert other.commit(tx) == OK

    both(b"1")
    tx = dom0.start()
    assert dom0.read("/a", tx) == b"1"
    both(b"2")
    assert dom0.read("/b", tx) == b"1"
    assert dom0.read("/a", tx) == b"1"
    both(b"3")
    assert dom0.read("/b", tx) == b"1"
    assert dom0.commit(tx) == "EAGAIN"


def test_an_old_view_still_has_what_was_removed_meanwhile(dom0: Speaker, other: Speaker) -> None:
    for path in ("/d/one", "/d/two", "/d/two/deep"):
        assert dom0.write(path, b"old") == OK
    assert dom0.chmod("/d/two", "r0") == OK
    tx = dom0.start()
    assert dom0.read("/d/one", tx) == b"old"
    assert other.rm("/d") == OK
    assert dom0.ls("/d", tx) == ["one", "two"]
    assert dom0.read("/d/two/deep", tx) == b"old"
    assert dom0.perms("/d/two", tx) == ["r0"]
    assert other.write("/d/two/deep", b"new") == OK
    assert dom0.read("/d/two/deep", tx) == b"old"
    assert dom0.ls("/d/two", tx) == ["deep"]
    assert dom0.commit(tx) == "EAGAIN"


def test_an_old_view_does_not_have_what_came_later(dom0: Speaker, other: Speaker) -> None:
    assert dom0.write("/d/one", b"1") == OK
    tx = dom0.start()
    assert dom0.ls("/d", tx) == ["one"]
    assert other.write("/d/two", b"2") == OK
    assert dom0.read("/d/two", tx) == "ENOENT"
    assert dom0.ls("/d", tx) == ["one"]
    assert dom0.commit(tx) == "EAGAIN"


# -- what commits ------------------------------
SCENE = {"/a": b"1", "/a/x": b"2", "/a/y": b"3", "/b": b"4"}

Doing = tuple[Op, bytes]


def wr(path: str, value: bytes = b"new") -> Doing:
    return Op.WRITE, nul(path) + value


def do(op: Op, *words: str) -> Doing:
    return op, nul(*words)


EAGAIN, COMMITS = "EAGAIN", OK

OVERLAPS: dict[str, tuple[list[Doing], list[Doing], bytes | str]] = {
    # what the transaction does, what another does before its end, how it ends
    "nothing at all": ([], [wr("/a")], COMMITS),
    "other nodes": ([do(Op.READ, "/a"), wr("/a")], [wr("/b")], COMMITS),
    "read, written": ([do(Op.READ, "/a")], [wr("/a")], EAGAIN),
    "read, the same written": ([do(Op.READ, "/a")], [wr("/a", b"1")], COMMITS),
    "read, written and written back": ([do(Op.READ, "/a")], [wr("/a"), wr("/a", b"1")], COMMITS),
    "read, removed": ([do(Op.READ, "/a")], [do(Op.RM, "/a")], EAGAIN),
    "read, child added": ([do(Op.READ, "/a")], [wr("/a/z")], COMMITS),
    "read, child removed": ([do(Op.READ, "/a")], [do(Op.RM, "/a/x")], COMMITS),
    "read, child written": ([do(Op.READ, "/a")], [wr("/a/x")], COMMITS),
    "read, chmod": ([do(Op.READ, "/a")], [do(Op.SET_PERMS, "/a", "r0")], COMMITS),
    "perms read, chmod": ([do(Op.GET_PERMS, "/a")], [do(Op.SET_PERMS, "/a", "r0")], EAGAIN),
    "perms read, written": ([do(Op.GET_PERMS, "/a")], [wr("/a")], COMMITS),
    "missing, created": ([do(Op.READ, "/c")], [wr("/c")], EAGAIN),
    "missing, sibling created": ([do(Op.READ, "/c")], [wr("/d")], COMMITS),
    "missing, child created": ([do(Op.READ, "/c")], [wr("/c/d")], EAGAIN),
    "listed, child added": ([do(Op.DIRECTORY, "/a")], [wr("/a/z")], EAGAIN),
    "listed, child removed": ([do(Op.DIRECTORY, "/a")], [do(Op.RM, "/a/x")], EAGAIN),
    "listed, child added and removed": ([do(Op.DIRECTORY, "/a")], [wr("/a/z"), do(Op.RM, "/a/z")], COMMITS),
    "listed, order changed": ([do(Op.DIRECTORY, "/a")], [do(Op.RM, "/a/x"), wr("/a/x")], EAGAIN),
    "listed, child written": ([do(Op.DIRECTORY, "/a")], [wr("/a/x")], COMMITS),
    "listed, grandchild added": ([do(Op.DIRECTORY, "/a")], [wr("/a/x/deep")], COMMITS),
    "listed, written": ([do(Op.DIRECTORY, "/a")], [wr("/a")], COMMITS),
    "written, written": ([wr("/a", b"mine")], [wr("/a")], COMMITS),
    "written, chmod": ([wr("/a", b"mine")], [do(Op.SET_PERMS, "/a", "r0")], COMMITS),
    "written, removed": ([wr("/a", b"mine")], [do(Op.RM, "/a")], COMMITS),
    "created, sibling created": ([wr("/a/mine")], [wr("/a/theirs")], COMMITS),
    "created, top-level sibling created": ([wr("/mine")], [wr("/theirs")], COMMITS),
    "created, the same created": ([wr("/c", b"mine")], [wr("/c")], COMMITS),
    "created, parent removed": ([wr("/a/mine")], [do(Op.RM, "/a")], COMMITS),
    "created, parent listed by others": ([wr("/a/mine")], [do(Op.DIRECTORY, "/a")], COMMITS),
    "made, made": ([do(Op.MKDIR, "/c")], [do(Op.MKDIR, "/c")], COMMITS),
    "removed, removed": ([do(Op.RM, "/b")], [do(Op.RM, "/b")], EAGAIN),
    "removed, written": ([do(Op.RM, "/b")], [wr("/b")], EAGAIN),
    "removed, child written": ([do(Op.RM, "/a")], [wr("/a/y")], EAGAIN),
    "removed, child added": ([do(Op.RM, "/a")], [wr("/a/z")], EAGAIN),
    "removed, sibling written": ([do(Op.RM, "/a")], [wr("/b")], COMMITS),
    "removed, sibling added": ([do(Op.RM, "/a/x")], [wr("/a/z")], COMMITS),
    "removed nothing, created": ([do(Op.RM, "/c")], [wr("/c")], EAGAIN),
    "chmod, written": ([do(Op.SET_PERMS, "/a", "b0")], [wr("/a")], COMMITS),
    "chmod, removed": ([do(Op.SET_PERMS, "/a", "b0")], [do(Op.RM, "/a")], EAGAIN),
    "chmod, chmod": ([do(Op.SET_PERMS, "/a", "b0")], [do(Op.SET_PERMS, "/a", "r0")], COMMITS),
    "read own write, written": ([wr("/a", b"mine"), do(Op.READ, "/a")], [wr("/a")], COMMITS),
}


@pytest.mark.parametrize("name", OVERLAPS)
def test_an_overlap(dom0: Speaker, other: Speaker, name: str) -> None:
    mine, theirs, expected = OVERLAPS[name]
    for path, value in SCENE.items():
        assert dom0.write(path, value) == OK
    tx = dom0.start()
    answers = [dom0.ask(op, payload, tx) for op, payload in mine]
    for op, payload in theirs:
        answer = other.ask(op, payload)
        assert not isinstance(answer, str)
    assert dom0.commit(tx) == expected
    if expected == COMMITS and mine:
        # What was promised holds: the last request of the transaction has its effect.
        op, payload = mine[-1]
        name_of_node, _, value = payload.partition(b"\0")
        if op == Op.WRITE:
            assert dom0.ask(Op.READ, name_of_node + b"\0") == value
        elif op == Op.RM:
            assert dom0.ask(Op.READ, name_of_node + b"\0") == "ENOENT"
        elif op == Op.READ:
            assert dom0.ask(op, payload) == answers[-1]


def test_a_conflict_leaves_no_trace(dom0: Speaker, other: Speaker) -> None:
    assert dom0.write("/a", b"1") == OK
    tx = dom0.start()
    assert dom0.write("/b/c", b"1", tx) == OK
    assert dom0.read("/a", tx) == b"1"
    assert other.write("/a", b"2") == OK
    assert dom0.commit(tx) == "EAGAIN"
    assert dom0.ls("/") == ["tool", "a"]
    assert dom0.commit(tx) == "ENOENT"  # it is over, whatever the answer was


def test_rm_means_the_subtree_as_it_was_seen(dom0: Speaker, other: Speaker) -> None:
    assert dom0.write("/a", b"1") == OK
    assert dom0.write("/d/x", b"1") == OK
    tx = dom0.start()
    assert dom0.read("/a", tx) == b"1"
    assert other.write("/a", b"2") == OK  # from here on the view is an old one
    assert other.write("/d/x", b"2") == OK
    assert dom0.rm("/d", tx) == OK
    assert other.write("/a", b"1") == OK
    assert dom0.commit(tx) == "EAGAIN"
    assert dom0.read("/d/x") == b"2"


def test_again_and_again_until_it_commits(dom0: Speaker, other: Speaker) -> None:
    def increment() -> bytes | str:
        tx = dom0.start()
        value = dom0.read("/n", tx)
        assert isinstance(value, bytes)
        if value in (b"1", b"2"):
            assert other.write("/n", b"%d" % (int(value) + 1)) == OK
        assert dom0.write("/n", b"%d" % (int(value) + 10), tx) == OK
        return dom0.commit(tx)

    assert dom0.write("/n", b"1") == OK
    assert [increment() for _ in range(3)] == ["EAGAIN", "EAGAIN", OK]
    assert dom0.read("/n") == b"13"


def test_a_hundred_transactions_in_lock_step_all_commit(world: World) -> None:
    tools = [world.again(world.dom0) for _ in range(100)]
    begun = [(tool, tool.start()) for tool in tools]
    for i, (tool, tx) in enumerate(begun):
        for path in (f"/vm/{i}/name", f"/vss/{i}", f"/local/domain/{i + 1}/device/vif/0"):
            assert tool.write(path, b"%d" % i, tx) == OK
    assert [tool.commit(tx) for tool, tx in begun] == [OK] * 100
    assert world.dom0.ls("/vm") == [str(i) for i in range(100)]
    assert world.dom0.ls("/local/domain") == [str(i + 1) for i in range(100)]


def test_the_one_who_loses_a_right_meanwhile_conflicts(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.write("/a", b"1") == OK
    assert world.dom0.chmod("/a", "n0", "b1") == OK
    tx = guest.start()
    assert guest.write("/a", b"2", tx) == OK
    assert world.dom0.chmod("/a", "n0", "r1") == OK
    assert guest.commit(tx) == "EAGAIN"
    assert world.dom0.read("/a") == b"1"


def test_a_refusal_is_an_answer_like_any(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.write("/a", b"1") == OK
    tx = guest.start()
    assert guest.write("/a", b"2", tx) == "EACCES"
    assert guest.write("x", b"2", tx) == OK
    assert guest.commit(tx) == OK  # a refusal does not fail the transaction
    tx = guest.start()
    assert guest.read("/a", tx) == "EACCES"
    assert world.dom0.chmod("/a", "r0") == OK
    assert guest.commit(tx) == "EAGAIN"


def test_which_error_is_shown_depends_on_nodes_above(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.mkdir("/a/b") == OK
    assert world.dom0.chmod("/a", "r0") == OK
    assert world.dom0.chmod("/a/b", "r0") == OK
    tx = guest.start()
    assert guest.read("/a/b/c/d", tx) == "ENOENT"
    assert world.dom0.chmod("/a", "n0") == OK  # /a/b is nearer
    assert guest.read("/a/b/c/e", tx) == "ENOENT"
    assert world.dom0.chmod("/a/b", "n0") == OK
    assert guest.commit(tx) == "EAGAIN"


# -- other ends ------------------------------
def test_leaving_ends_them_all(world: World) -> None:
    leaver = world.again(world.dom0)
    tx = leaver.start()
    assert leaver.write("/a", b"1", tx) == OK
    assert leaver.start() == 2
    leaver.leave()
    assert world.dom0.read("/a") == "ENOENT"


def test_reset_watches_ends_them_all_even_from_inside(dom0: Speaker) -> None:
    one, two = dom0.start(), dom0.start()
    assert dom0.write("/a", b"1", one) == OK
    assert dom0.ask(Op.RESET_WATCHES, b"", one) == OK
    assert dom0.commit(one) == "ENOENT"
    assert dom0.commit(two) == "ENOENT"
    assert dom0.read("/a") == "ENOENT"
    assert dom0.start() == 3


def test_a_commit_of_many_changes_is_one_change(world: World) -> None:
    """Created, written, removed, given other permissions: all of it, in the order in which it was asked for."""
    dom0, guest = world.dom0, world.guest(1)
    for path in ("/keep", "/gone/deep", "/again/old"):
        assert dom0.write(path, b"before") == OK
    tx = dom0.start()
    assert dom0.write("/new/a", b"1", tx) == OK
    assert dom0.rm("/gone", tx) == OK
    assert dom0.rm("/again", tx) == OK
    assert dom0.write("/again/new", b"2", tx) == OK
    assert dom0.write("/new/b", b"3", tx) == OK
    assert dom0.rm("/new/a", tx) == OK
    assert dom0.chmod("/keep", "n1", "r0", tx=tx) == OK
    assert dom0.write("/keep", b"after", tx) == OK
    assert guest.read("/keep") == "EACCES"
    assert dom0.commit(tx) == OK
    assert dom0.ls("/") == ["tool", "local", "keep", "new", "again"]
    assert dom0.ls("/new") == ["b"]
    assert dom0.ls("/again") == ["new"]
    assert guest.read("/keep") == b"after"
    assert guest.perms("/keep") == ["n1", "r0"]
