"""CONTROL is answered by Python: the core hands over the words and sends back what it is given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conversations.speak import World, nul
from tests.support.wire import Op


def answered(conn_id: int, domid: int, words: list[bytes]) -> bytes:
    from fastxs._core import ControlError

    if words[:1] == [b"echo"]:
        return b"|".join(words[1:]) + b"\0"
    if words[:1] == [b"who"]:
        return f"{conn_id} {domid}\0".encode()
    if words[:1] == [b"long"]:
        return b"x" * int(words[1])
    if words[:1] == [b"broken"]:
        raise RuntimeError("a command that fails")
    raise ControlError("EINVAL")


@pytest.fixture
def world() -> Iterator[World]:
    from fastxs._core import Engine

    world = World(Engine(control=answered))
    yield world
    world.engine.close()


def test_words_there_and_text_back(world: World) -> None:
    assert world.dom0.ask(Op.CONTROL, nul("echo", "one", "", "three")) == b"one||three\0"
    assert world.dom0.ask(Op.CONTROL, nul("echo")) == b"\0"
    assert world.dom0.ask(Op.CONTROL, nul("who")) == nul(f"{world.dom0.peer.conn_id} 0")


def test_a_command_may_refuse(world: World) -> None:
    assert world.dom0.ask(Op.CONTROL, nul("unheard-of")) == "EINVAL"
    assert world.dom0.ask(Op.CONTROL, b"") == "EINVAL"
    assert world.dom0.ask(Op.CONTROL, b"echo") == "EINVAL"


def test_the_answer_has_to_fit(world: World) -> None:
    assert world.dom0.ask(Op.CONTROL, nul("long", 4096)) == b"x" * 4096
    assert world.dom0.ask(Op.CONTROL, nul("long", 4097)) == "E2BIG"


def test_guests_have_nothing_to_say(world: World) -> None:
    guest = world.guest(1)
    assert guest.ask(Op.CONTROL, nul("echo", "hello")) == "EACCES"


def test_a_command_that_breaks_is_an_error_and_no_more(world: World) -> None:
    answer = world.dom0.ask(Op.CONTROL, nul("broken"))
    assert isinstance(answer, str)
    assert world.dom0.ask(Op.CONTROL, nul("echo", "still here")) == b"still here\0"
    world.sound()
