"""One daemon per test, fastxs and C xenstored in turn, and running other people's programs beside it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from fastxs.hypervisor.host import Host
from tests.conftest import running

XEN_BIN: Final = Path("/usr/lib/xen-4.17/bin")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["fastxs", "c"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A daemon with nothing but its own nodes."""
    with running(request.param) as host:
        yield host


@pytest.fixture
def run(host: Host) -> Run:
    """`run("xenstore-ls", "-f")`: a program beside the daemon, its status and output; skips where it is missing."""

    def run(*words: str | Path, timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                words,
                env=os.environ | host.env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except FileNotFoundError:
            pytest.skip(f"{words[0]} is missing (Debian packages xenstore-utils and xen-utils-4.17)")

    return run
