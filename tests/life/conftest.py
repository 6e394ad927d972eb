"""Scenes for tests, each in a folder in memory that is gone afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastxs.hypervisor.host import available, scratch
from tests.life.scene import NEW, OLD, Prepare, Scene, inside, nothing, outside

Begin = Callable[..., Scene]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where a hypervisor may be."""
    if reason := available("fastxs"):
        pytest.skip(reason)
    folder = scratch()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=[(inside, NEW), (inside, OLD), (outside, NEW)], ids=lambda both: f"{both[0].__name__}-{both[1]}")
def begin(request: pytest.FixtureRequest, folder: Path) -> Iterator[Begin]:
    """Starts the daemon, once everything is on the hypervisor that `prepare` puts there."""
    kind, xen = request.param
    with ExitStack() as stack:

        def begin(prepare: Prepare = nothing) -> Scene:
            scene: Scene = stack.enter_context(kind(folder, xen, prepare))
            return scene

        yield begin


@pytest.fixture
def scene(begin: Begin) -> Scene:
    """A daemon alone with domain 0."""
    return begin()
