"""The random driver for a few thousand steps; `python -m tests.stateful.run` goes on for as long as one likes."""

from __future__ import annotations

import pytest

from tests.stateful.run import DifferenceError, MakeEngine, core, shrink, stand_in, wander


def held(make: MakeEngine, steps: int, seed: int) -> None:
    """The run, or a failure that names the few actions that matter."""
    try:
        wander(make, steps, seed)
    except DifferenceError as difference:
        short = "\n".join(map(repr, shrink(make, difference.actions, 10)))
        pytest.fail(f"{difference}\nseed {seed}; a short way there:\n{short}")


@pytest.mark.parametrize("seed", range(4))
def test_the_core_and_the_model_agree(seed: int) -> None:
    held(core, 5000, seed)


def test_the_model_agrees_with_itself() -> None:
    held(stand_in, 2000, 0)
