"""A take-over from C xenstored that cannot be: C goes on, and the one who asked for it learns why."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastxs.hypervisor.host import BINARIES, OURS, available
from tests.conversations.speak import nul
from tests.keeper.conftest import until
from tests.support.wire import Op
from tests.update.scene import Scene, scene_of

pytestmark = pytest.mark.skipif(
    bool(available("fastxs") or available("c")), reason=str(available("fastxs") or available("c"))
)


@pytest.fixture
def host() -> Iterator[Scene]:
    with scene_of("c") as found:
        yield found


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ("--nonsense", b"option --nonsense not recognized"),
        ("--loop none", b'is not "auto" or'),
        ("-Q nonsense=5", b'"nonsense=5" is not NAME=NUMBER'),
        ("--socket /nowhere/socket", b"cannot use /nowhere for the socket"),
        (f"--durability none --fallback {BINARIES['c']}", b"a take-over needs an image"),
    ],
)
def test_c_is_back(host: Scene, flags: str, why: bytes) -> None:
    pid = host.host.pid
    for _ in range(2):
        answer = host.update(host.good(), arguments=f"-N --sim {flags}")
        assert answer.startswith(b"fastxs cannot take over (") and why in answer
        assert answer.endswith(b"The old program is back.\0")
        host.work()
    assert host.host.pid == pid and host.host.ended is None


def test_a_trial_becomes_nobody(tmp_path: Path) -> None:
    """Whatever lies in the run directory: what a fastxsd that took over is updated to is tried with its flags."""
    (tmp_path / "state_dump").write_bytes(b"of an update long ago")
    trial = subprocess.run(
        [*OURS, "-U", "--fallback", "/bin/echo", "--preflight", "0"],
        env={**os.environ, "XENSTORED_RUNDIR": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert (trial.returncode, trial.stdout) == (1, b"")
    assert trial.stderr.startswith(b"fastxsd: the image has format 0, ")


def test_there_is_no_way_back(host: Scene) -> None:
    """The state is kept, and the last words say where."""
    host.control("-f", str(host.good()))
    host.control("-c", "-N --sim --durability none --fallback /nowhere")
    host.tool.send(Op.CONTROL, nul("live-update", "-s"))
    until(lambda: host.host.ended is not None)
    state = host.host.rundir / "state_dump"
    assert state.exists()
    assert f"the store is in {state}: xenstored goes on from it" in host.host.stderr()
