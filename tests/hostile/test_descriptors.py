"""A daemon that has no descriptors left: those who are connected are served, those who wait are served later.

Held over sockets with a daemon of its own, since it is the process that runs out.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastxs.hypervisor.host import Host, available
from tests.support.wire import Op, Peer

FEW = 64
pytestmark = [
    pytest.mark.skipif(available("fastxs") is not None, reason="fastxs cannot run here"),
    pytest.mark.skipif(shutil.which("prlimit") is None, reason="no prlimit (util-linux)"),
]


@pytest.fixture
def poor(tmp_path: Path) -> Iterator[Host]:
    with Host("fastxs", tmp_path / "host", prefix=("prlimit", f"--nofile={FEW}:{FEW}")) as host:
        yield host


def test_whoever_is_connected_is_served_and_the_others_later(poor: Host) -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(poor.socket)) for _ in range(FEW)]
        assert peers[0].call(Op.READ, b"/tool\0").error is None
        waiting = peers[-1]
        question = waiting.send(Op.READ, b"/tool\0")
        for _ in range(20):  # traffic of others must not put it off for ever
            assert peers[0].call(Op.READ, b"/tool\0").error is None
        for peer in peers[1 : FEW // 2]:
            peer.close()
        assert waiting.recv(timeout_s=5).req_id == question


def test_descriptors_that_others_gave_back_are_noticed(poor: Host) -> None:
    """Twice over: deafness ends by itself, and may come back."""
    for _ in range(2):
        with ExitStack() as stack:
            peers = [stack.enter_context(Peer(poor.socket)) for _ in range(FEW)]
            assert peers[0].call(Op.READ, b"/tool\0").error is None
        with Peer(poor.socket) as late:
            assert late.call(Op.READ, b"/tool\0").error is None
