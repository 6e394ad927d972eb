"""A scene with C xenstored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fastxs.hypervisor.host import Host
from tests.state.live import Scene


@pytest.fixture
def scene(c_host: Host) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(c_host, stack)
