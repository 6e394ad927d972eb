"""What a series of measurements says: the median, and between what bounds the true one lies.

Owns: readings, figures, the interval.  Knows nothing of daemons and loads.

The interval is the sign test's: two order statistics that lie on either side of the true median with at least 95 %
probability, whatever the distribution.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["CONFIDENCE", "Figure", "Once", "Reading", "interval", "short", "summarise"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Reading:
    """One pair, or one run where there is no rival."""

    value: float
    """in the bar's unit"""
    cpu_us: float
    """µs of the daemon per request"""
    rival_us: float | None = None


@dataclass(frozen=True)
class Figure:
    """The median of the readings; the true one lies in `low`..`high` with the probability `coverage`."""

    value: float
    low: float
    high: float
    coverage: float
    cpu_us: float
    rival_us: float | None
    readings: tuple[Reading, ...] = field(repr=False)


Once = Callable[[], Reading]
"""Measures one pair."""


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Low, high and coverage of the sign test's interval of the median.

    The number of values below the true median is binomial(n, 1/2).  So the k-th smallest and the k-th largest enclose
    it with probability 1 - 2 P(binomial < k); k is the largest for which that is `confidence`.  Ten values: the second
    and the ninth, 97.9 %.  With five or fewer no k does: then the extremes, and the coverage says how little that is.
    """
    ordered, n = sorted(values), len(values)
    outside, k = 0.0, 0
    while k < (n + 1) // 2 and 2 * (outside + math.comb(n, k) / 2**n) <= 1 - confidence:
        outside += math.comb(n, k) / 2**n
        k += 1
    if k == 0:
        return ordered[0], ordered[-1], max(0.0, 1 - 2.0 ** (1 - n))
    return ordered[k - 1], ordered[n - k], 1 - 2 * outside


def summarise(readings: Sequence[Reading]) -> Figure:
    values = [r.value for r in readings]
    rivals = [r.rival_us for r in readings if r.rival_us is not None]
    low, high, coverage = interval(values)
    cpu_us = statistics.median(r.cpu_us for r in readings)
    rival_us = statistics.median(rivals) if rivals else None
    return Figure(statistics.median(values), low, high, coverage, cpu_us, rival_us, tuple(readings))


def short(value: float) -> str:
    """Three digits that count; of large numbers all."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
