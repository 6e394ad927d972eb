"""docs/differences.toml and the rules of the comparison name the same differences; the comparison can see."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastxs.hypervisor.host import Host
from tests.differential.differences import DAEMONS, load
from tests.differential.generate import IN_SLOT, Profile, Step
from tests.differential.lockstep import Pair, Side
from tests.differential.rules import RULES, Story, reset_watches_avoid
from tests.differential.run import conversations
from tests.differential.shrink import shrink
from tests.support.wire import Op

USED = {name for rules in RULES.values() for name in rules.ids()}


def test_every_rule_stands_on_an_entry() -> None:
    assert set(load()) >= USED


def test_every_entry_of_the_comparison_has_a_rule() -> None:
    assert {entry.id for entry in load().values() if entry.tested_by == "differential"} == USED


def test_every_entry_says_where_it_is_tested() -> None:
    folders = {path.name for path in Path(__file__).parents[1].iterdir() if path.is_dir()}
    assert {entry.tested_by for entry in load().values()} <= folders | {"none"}


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ('id = "a"\ncondition = "c"\ndaemon = "C 4.17"\nversion = "v"\nreason = "r"', "must have exactly"),
        ('id = "a"\ncondition = ""\ndaemon = "C 4.17"\nversion = "v"\nreason = "r"\ntested_by = "none"', "must have"),
        ('id = "a"\ncondition = "c"\ndaemon = "LixS"\nversion = "v"\nreason = "r"\ntested_by = "none"', "'LixS'"),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Path, entry: str, complaint: str) -> None:
    path = tmp_path / "differences.toml"
    path.write_text(f"[[difference]]\n{entry}\n")
    with pytest.raises(ValueError, match=complaint):
        load(path)


def test_the_daemons_are_those_that_fastxs_replaces() -> None:
    assert DAEMONS == ("C 4.17", "C 4.22", "oxenstored")


def test_a_seed_is_a_conversation() -> None:
    assert conversations(7, 3, 500, Profile()) == conversations(7, 3, 500, Profile())
    assert conversations(7, 3, 500, Profile()) != conversations(7, 4, 500, Profile())


def test_conversations_hold_every_operation() -> None:
    said = {step.op for step in conversations(1, 0, 20_000, Profile())}
    assert {op for op in Op if op not in (Op.SET_FEATURE, Op.SET_QUOTA)} <= said


def test_no_payload_is_too_long() -> None:
    assert max(len(step.payload) for step in conversations(2, 0, 20_000, Profile())) == 4096


def test_reset_watches_is_kept_from_c_only_where_c_dies_of_it() -> None:
    inside, outside = Step(0, Op.RESET_WATCHES, b"", IN_SLOT), Step(0, Op.RESET_WATCHES)
    assert reset_watches_avoid(inside, Story(reset_kills=True)) == ""
    assert reset_watches_avoid(outside, Story(reset_kills=True)) is None
    assert reset_watches_avoid(inside, Story()) is None


def test_shrinking_finds_the_two_that_matter() -> None:
    assert shrink(range(1000), lambda some: {17, 900} <= set(some)) == [17, 900]


def test_one_node_too_many_is_seen(c_host: Host, tmp_path: Path) -> None:
    """Two C daemons, one of which was written to behind the comparison's back."""
    with Host("c", tmp_path / "b") as other:
        pair = Pair(Side("c", c_host.socket, "A"), Side("c", other.socket, "B"))
        try:
            pair.begin()
            assert pair.run([Step(0, Op.WRITE, b"/a\0v"), Step(1, Op.DIRECTORY, b"/\0")]) is None
            pair.a.service.call(Op.WRITE, b"/b\0only here")
            tree = pair.run([Step(0, Op.READ, b"/a\0")])
            assert tree is not None
            assert "trees differ" in tree.what
            reply = pair.run([Step(2, Op.READ, b"/a\0"), Step(2, Op.DIRECTORY, b"/\0")])
            assert reply is not None
            assert reply.at == 1
            assert r"b'tool\x00a\x00b\x00'" in reply.what
            assert r"b'tool\x00a\x00'" in reply.what
        finally:
            pair.close()


def test_a_missing_event_is_seen(c_host: Host, tmp_path: Path) -> None:
    """A watch that only one of the two has."""
    with Host("c", tmp_path / "b") as other:
        pair = Pair(Side("c", c_host.socket, "A"), Side("c", other.socket, "B"))
        try:
            pair.begin()
            link = pair.a.links[1]
            link.sock.sendall(b"\4\0\0\0" + bytes(8) + b"\5\0\0\0" + b"/a\0t\0")
            while len(link.came) < 2:
                link.read()
            link.came.clear()
            found = pair.run([Step(0, Op.WRITE, b"/a\0v"), Step(1, Op.READ, b"/a\0")])
            assert found is not None
            assert r"WATCH_EVENT b'/a\x00t\x00'" in found.what
        finally:
            pair.close()
