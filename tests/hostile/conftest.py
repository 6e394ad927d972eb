"""A store with domain 0 in it and, after every test, proof that its counters and indices still agree."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastxs._core import Engine
from tests.conversations.speak import World


@pytest.fixture
def world() -> Iterator[World]:
    """Only the core is attacked; the model holds no memory worth exhausting."""
    engine = Engine()
    world = World(engine)
    yield world
    world.sound()
    engine.close()
