"""A short version of every plan; the long one is `python -m tests.crash.run`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fastxs.hypervisor.host import available
from tests.crash import run
from tests.crash.plans import kept_sockets, named_points, random_kills

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
    pytest.mark.skipif(available("fastxs") is not None, reason=str(available("fastxs"))),
]


@pytest.mark.slow
def test_killed_at_any_time(folder: Path) -> None:
    figures = random_kills(folder, guests=50, kills=10, seed=1)
    assert figures["answers"] == figures["requests"] > 1000
    assert figures["look_again"] == 0  # no event was lost, and none came twice


@pytest.mark.slow
def test_killed_at_each_point(folder: Path) -> None:
    figures = named_points(folder, guests=20, rounds=1, seed=1, points=run.POINTS)
    assert set(figures["points"]) == set(run.POINTS)
    assert figures["answers"] == figures["requests"]


@pytest.mark.slow
def test_sockets_are_kept(folder: Path) -> None:
    """A socket that the daemon was reading or writing when it died is closed: nobody knows what went."""
    figures = kept_sockets(folder, clients=30, kills=6, seed=1)
    assert figures["lost"] <= figures["kills"]
    assert figures["requests"] - figures["answers"] <= 16 * figures["lost"]


@pytest.mark.slow
def test_full_to_the_last_byte() -> None:
    if reason := run.cannot_mount():
        pytest.skip(reason)
    done = run.alone(["full", "--guests", "20", "--times", "2", "--seed", "1"])
    assert done.returncode == 0
    figures = json.loads(done.stdout)
    assert figures["no_room"] > 0
    assert figures["answers"] == figures["requests"]
