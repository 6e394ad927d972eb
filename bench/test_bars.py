"""Every speed bar as a benchmark.  What misses its limit fails nothing here: `python -m bench.bars` is for that."""

import math

import pytest

from bench.bars import BARS, Bar
from bench.conftest import Judge


@pytest.mark.parametrize("bar", BARS, ids=[bar.name for bar in BARS])
def test_bar(bar: Bar, judge: Judge) -> None:
    figure = judge(bar)
    assert figure.low <= figure.value <= figure.high
    assert not math.isnan(figure.value), "a run without a single request"
