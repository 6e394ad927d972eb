"""The clients' benchmark works: every way to read, once, against fastxs."""

from __future__ import annotations

import os

import pytest

from bench import clients
from fastxs.hypervisor.host import available


@pytest.mark.skipif(available("fastxs") is not None, reason="fastxs cannot run here")
def test_every_way_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    before = os.sched_getaffinity(0)
    try:
        clients.main(times=10, rounds=1)
    finally:
        os.sched_setaffinity(0, before)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(float(line.split(" µs")[0].split()[-1]) > 0 for line in lines)
