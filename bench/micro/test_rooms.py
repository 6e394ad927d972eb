"""Every micro bench as pytest-benchmark sees it."""

import pytest

from bench.micro.cases import CASES
from bench.micro.conftest import CLOCK, Run

pytestmark = pytest.mark.benchmark(timer=CLOCK)


@pytest.mark.parametrize("name", CASES)
def test_room(name: str, run: Run) -> None:
    run(name)
