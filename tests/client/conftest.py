"""A daemon of each kind, and clients of either kind on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fastxs.hypervisor.host import Host
from tests.client.faces import Faces
from tests.conftest import running


@pytest.fixture(params=["fastxs", "c", "ox"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Each daemon in turn, with nothing but its own nodes."""
    with running(request.param) as host:
        yield host


@pytest.fixture(params=["threads", "asyncio"])
def faces(request: pytest.FixtureRequest) -> Iterator[Faces]:
    """Either client, made as often as a test likes."""
    faces = Faces(request.param)
    try:
        yield faces
    finally:
        faces.close()


@pytest.fixture
def client(host: Host, faces: Faces) -> Any:
    """A client of either kind on each daemon."""
    return faces.make(host.socket)


@pytest.fixture
def other(host: Host, faces: Faces) -> Any:
    """Another one, on a connection of its own."""
    return faces.make(host.socket)
