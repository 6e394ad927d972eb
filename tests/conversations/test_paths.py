"""What a path may look like: legal characters, relative and special paths, lengths."""

from __future__ import annotations

import string

import pytest

from tests.conversations.speak import OK, Speaker, World, nul
from tests.support.wire import Op

LEGAL = string.ascii_letters + string.digits + "-_@"
PATH_OPS = (Op.READ, Op.DIRECTORY, Op.GET_PERMS, Op.MKDIR, Op.RM)


def everywhere(speaker: Speaker, path: bytes) -> set[bytes | str]:
    """What every operation that takes a path says to this one."""
    answers = {speaker.ask(op, nul(path)) for op in PATH_OPS}
    answers.add(speaker.ask(Op.WRITE, nul(path) + b"value"))
    answers.add(speaker.ask(Op.SET_PERMS, nul(path, "n0")))
    answers.add(speaker.ask(Op.DIRECTORY_PART, nul(path, 0)))
    answers.add(speaker.ask(Op.WATCH, nul(path, "token")))
    answers.add(speaker.ask(Op.UNWATCH, nul(path, "token")))
    return answers


def test_legal_characters(dom0: Speaker) -> None:
    for char in LEGAL:
        assert dom0.write(f"/x/{char}", char.encode()) == OK
        assert dom0.read(f"/x/{char}") == char.encode()
    assert dom0.ls("/x") == list(LEGAL)


def test_illegal_characters(dom0: Speaker) -> None:
    for char in range(1, 256):
        if chr(char) not in LEGAL + "/":
            assert everywhere(dom0, b"/x/%c/y" % char) == {"EINVAL"}


@pytest.mark.parametrize(
    "path",
    ["", "//", "/a/", "/a//b", "//a", "a/", "a//b", "/local/domain/", "/local/domain/1/", "/local/domain//", "///"],
)
def test_a_path_with_an_empty_component(dom0: Speaker, path: str) -> None:
    assert everywhere(dom0, path.encode()) == {"EINVAL"}


def test_the_root(dom0: Speaker) -> None:
    assert dom0.ls("/") == ["tool"]
    assert dom0.write("/", b"root") == OK
    assert dom0.read("/") == b"root"
    assert dom0.perms("/") == ["n0"]


def test_an_at_sign_inside_a_path_is_a_letter(dom0: Speaker) -> None:
    assert dom0.read("/a/@b") == "ENOENT"
    assert dom0.write("/a/@b", b"1") == OK
    assert dom0.write("/@c", b"2") == OK
    assert dom0.read("/a/@b") == b"1"
    assert dom0.ls("/") == ["tool", "a", "@c"]


def test_a_special_path_is_for_watches_and_permissions_only(dom0: Speaker) -> None:
    for path in ("@introduceDomain", "@releaseDomain", "@unheard-of", "@", "@a/b"):
        for op in (Op.READ, Op.DIRECTORY, Op.MKDIR, Op.RM, Op.WRITE):
            assert dom0.ask(op, nul(path)) == "EINVAL"
        assert dom0.part(path, 0) == "EINVAL"
    assert dom0.perms("@unheard-of") == "ENOENT"
    assert dom0.chmod("@unheard-of", "n0") == "ENOENT"
    assert dom0.watch("@unheard-of", "t") == OK
    assert dom0.watch("@releaseDomain/", "t") == "EINVAL"


def test_a_special_node_is_not_in_the_tree(dom0: Speaker) -> None:
    assert dom0.ls("/") == ["tool"]
    assert dom0.read("/@releaseDomain") == "ENOENT"


def test_a_relative_path_begins_at_the_speakers_home(world: World) -> None:
    one, two = world.guest(1), world.guest(2)
    assert one.write("x", b"of 1") == OK
    assert two.write("x/y", b"of 2") == OK
    assert world.dom0.read("/local/domain/1/x") == b"of 1"
    assert world.dom0.read("/local/domain/2/x/y") == b"of 2"
    assert one.ls("x") == []
    assert two.ls("x") == ["y"]
    assert one.read("/local/domain/1/x") == b"of 1"
    assert one.perms("x") == ["n1"]
    assert one.rm("x") == OK
    assert one.read("x") == "ENOENT"


def test_a_tool_has_a_home_too(dom0: Speaker) -> None:
    assert dom0.write("name", b"Domain-0") == OK
    assert dom0.read("/local/domain/0/name") == b"Domain-0"


def test_the_home_itself_has_no_relative_name(world: World) -> None:
    guest = world.guest(1)
    assert guest.read("") == "EINVAL"
    assert guest.read(".") == "EINVAL"


def test_the_length_of_an_absolute_path_counts_whole(world: World) -> None:
    guest = world.guest(1)
    assert world.dom0.chmod("/", "r0") == OK
    longest = "/" + "p" * 2047
    assert guest.read(longest) == "ENOENT"
    assert guest.read(longest + "p") == "EINVAL"
    assert guest.watch(longest, "t") == OK
    assert guest.watch(longest + "p", "t") == "EINVAL"


def test_below_a_domains_home_only_the_rest_counts(world: World) -> None:
    guest = world.guest(1)
    rest = "p" * 2048
    assert guest.read(rest) == "ENOENT"
    assert guest.read("/local/domain/1/" + rest) == "ENOENT"
    assert guest.read(rest + "p") == "EINVAL"
    assert guest.read("/local/domain/1/" + rest + "p") == "EINVAL"
    # The same for the home of somebody else, who may be asked for.
    assert guest.read("/local/domain/12345/" + rest) == "EACCES"
    assert guest.read("/local/domain/12345/" + rest + "p") == "EINVAL"
    # A number of six digits is no domain, so all of the path counts.
    assert guest.read("/local/domain/123456/" + rest[:2030]) == "EINVAL"


def test_domain_0_has_no_limit_but_the_message(world: World) -> None:
    path = "/" + "p" * 4080
    assert world.dom0.write(path, b"x") == OK
    assert world.dom0.read(path) == b"x"
    assert world.dom0.watch(path, "t") == OK
    assert world.dom0.events() == [(path, "t")]


def test_a_path_may_have_very_many_components(dom0: Speaker) -> None:
    path = "/d" * 2000
    assert dom0.write(path, b"deep") == OK
    assert dom0.read(path) == b"deep"
    assert dom0.ls("/d" * 1999) == ["d"]
    assert dom0.rm("/d") == OK
    assert dom0.ls("/") == ["tool"]
