"""The walk for some thousand steps; `python -m tests.life.run` goes on for as long as one likes."""

from __future__ import annotations

import pytest

from fastxs.hypervisor.host import available
from tests.life.run import DifferenceError, short, wander
from tests.life.scene import NEW, OLD


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("xen", [NEW, OLD])
def test_the_core_and_the_model_agree(xen: str, seed: int) -> None:
    if reason := available("fastxs"):
        pytest.skip(reason)
    try:
        wander(xen, 5000, seed)
    except DifferenceError as difference:
        pytest.fail(f"{difference}\nseed {seed}; a short way there:\n{short(xen, difference, 10)}")
