"""One script, two libraries: a thread that waits for a watch is killed, and the process wants to go on."""

from __future__ import annotations

import ctypes.util
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fastxs.client import Client
from fastxs.hypervisor.host import Host
from tests.client.killing import WAIT_S, skip_if_impossible

PATIENCE_S = 2
"""Long enough for an answer that takes some 20 µs."""


@contextmanager
def script(library: str, host: Host) -> Iterator[subprocess.Popen[str]]:
    """The script running, on one of the libraries; it is ended in any case."""
    skip_if_impossible()
    command = [sys.executable, "-m", "tests.client.killing", library]
    with subprocess.Popen(command, env=os.environ | host.env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def says(process: subprocess.Popen[str], within_s: float) -> str:
    """Its next line; empty when there is none in time, or never will be."""
    assert process.stdout is not None
    return process.stdout.readline() if select.select([process.stdout], [], [], within_s)[0] else ""


def test_libxenstore_is_locked_up_for_good(fastxs_host: Host) -> None:
    """xs_read_watch waits with a mutex held and without a cleanup handler: its reader thread then waits for that mutex,
    and the write's reply is never read (SPEC 7.4).  The daemon has nothing to do with it, and serves others."""
    if ctypes.util.find_library("xenstore") is None:
        pytest.skip("libxenstore is missing (Debian package libxenstore4)")
    with script("libxenstore", fastxs_host) as process:
        assert says(process, WAIT_S) == "killed\n"
        assert says(process, PATIENCE_S) == ""
        with Client(fastxs_host.socket) as client:
            assert client.read("/a/b") == b"value"
        assert process.poll() is None


def test_fastxs_goes_on(fastxs_host: Host) -> None:
    with script("fastxs", fastxs_host) as process:
        assert says(process, WAIT_S) == "killed\n"
        assert says(process, WAIT_S) == "wrote\n"
        assert says(process, WAIT_S) == "was told\n"
        assert process.wait(WAIT_S) == 0
