"""Fixtures of all tests: an Engine, the daemons, and the check that a test leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from fastxs.hypervisor.host import Host, Kind, available, scratch
from tests.support.leaks import Before

if TYPE_CHECKING:
    from fastxs._core import Engine


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No child process, no descriptor, nothing in /dev/shm is left behind."""
    before = Before()
    yield
    left = before.left()
    before.kill_children()
    assert not left, "the test left behind: " + "; ".join(left)


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A fresh store with domain 0 alone, in memory; sound at the end of the test."""
    from fastxs._core import Engine

    engine = Engine()
    try:
        yield engine
        assert engine.check() == []
    finally:
        engine.close()


@contextmanager
def running(kind: Kind) -> Iterator[Host]:
    """A daemon of that kind for as long as the block lasts; skips the test where it cannot run."""
    if reason := available(kind):
        pytest.skip(reason)
    folder = scratch()
    try:
        with Host(kind, folder) as host:
            yield host
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def c_host() -> Iterator[Host]:
    """Debian's C xenstored 4.17 on a pretend hypervisor."""
    with running("c") as host:
        yield host


@pytest.fixture
def ox_host() -> Iterator[Host]:
    """Debian's oxenstored 4.17 on a pretend hypervisor."""
    with running("ox") as host:
        yield host


@pytest.fixture
def fastxs_host() -> Iterator[Host]:
    """fastxsd on a pretend hypervisor."""
    with running("fastxs") as host:
        yield host
