"""Random conversations in lock-step with Debian's C xenstored 4.17: no difference that docs/differences.toml lacks.

`FASTXS_STEPS` makes them longer, `FASTXS_SEED` makes others.
"""

from __future__ import annotations

import os

import pytest

from fastxs.hypervisor.host import Kind, available
from tests.differential.generate import Profile
from tests.differential.run import OVERLAP, PIPELINED, daemons, report, run

STEPS = int(os.environ.get("FASTXS_STEPS", "20000"))
SEED = int(os.environ.get("FASTXS_SEED", "1"))


def compare(a: Kind, b: Kind, steps: int, profile: Profile) -> None:
    """Two daemons and so many steps; a difference fails the test with the shortest conversation that shows it."""
    for kind in (a, b):
        if reason := available(kind):
            pytest.skip(reason)
    with daemons(a, b) as both:
        outcome = run(both, steps, SEED, profile)
    assert outcome.difference is None, report(outcome, SEED)


def test_two_c_daemons_are_alike() -> None:
    """Otherwise the comparison itself would be wrong."""
    compare("c", "c", STEPS // 2, Profile())


def test_two_c_daemons_are_alike_with_overlapping_transactions() -> None:
    compare("c", "c", STEPS // 4, OVERLAP)


@pytest.mark.timeout(600)
def test_one_transaction_at_a_time() -> None:
    compare("fastxs", "c", STEPS, Profile())


@pytest.mark.timeout(600)
def test_many_requests_at_once() -> None:
    compare("fastxs", "c", STEPS // 2, PIPELINED)


@pytest.mark.timeout(600)
def test_overlapping_transactions() -> None:
    """What C commits, fastxs commits with the same result."""
    compare("fastxs", "c", STEPS // 2, OVERLAP)
