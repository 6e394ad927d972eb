"""Every conversation is held twice, with the core and with the model of tests.stateful: the two cannot drift apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import pytest

from tests.conversations.speak import Speaker, World
from tests.stateful.stand_in import StandIn

if TYPE_CHECKING:
    from fastxs._core import Engine


def _core() -> Engine:
    from fastxs._core import Engine  # here: without the core built, the model's half still runs

    return Engine()


@pytest.fixture(params=["core", "model"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A store with domain 0 in it, core or model; its counters and indices are right at the end."""
    engine = _core() if request.param == "core" else cast("Engine", StandIn())
    world = World(engine)
    yield world
    world.sound()
    engine.close()


@pytest.fixture
def core() -> Iterator[World]:
    """The same, for what the model knows nothing of: CONTROL, memory, output that nobody takes."""
    engine = _core()
    world = World(engine)
    yield world
    world.sound()
    engine.close()


@pytest.fixture
def dom0(world: World) -> Speaker:
    """A tool in domain 0."""
    return world.dom0
