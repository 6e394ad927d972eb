"""What came of a replay: counts, latencies, and what was answered differently, in bounded memory.

Owns these sums.  Refuses to know how they are shown.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from fastxs.client.requests import Op
from fastxs.replay.compare import Verdict
from fastxs.replay.recording import Answer, Asked

__all__ = ["Difference", "Latencies", "Report"]

STEP: Final = math.log(1.03)
"""Latencies are kept to 3 %."""


class Latencies:
    """A histogram of durations."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, ns: int) -> None:
        self._counts[round(math.log(max(ns, 1)) / STEP)] += 1

    def at(self, part: float) -> float:
        """The duration that `part` (0..1) of all do not exceed, us; NaN: there are none."""
        left = part * self._counts.total()
        for step, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return math.exp(step * STEP) / 1e3
        return math.nan


class Difference(NamedTuple):
    """The first of its kind: an operation, and the error words (or none) before and now."""

    asked: Asked
    was: Answer
    now: Answer


@dataclass
class Report:
    requests: int = 0
    """That were played."""
    equal: int = 0
    different: int = 0
    unanswered: int = 0
    """The daemon closed the connection, or said nothing."""
    left_out: int = 0
    """Not played: CONTROL, and what needs domains where there are none."""
    events_then: int = 0
    events_now: int = 0
    wall_s: float = 0.0
    late_s: float = 0.0
    """The most that a request was sent later than the recording's time."""
    daemon_cpu_ns: int | None = None
    """None: it cannot be seen."""
    latencies: Latencies = field(default_factory=Latencies)
    kinds: Counter[tuple[int, str | None, str | None]] = field(default_factory=Counter)
    """Differences: operation, error word then, error word now."""
    first: dict[tuple[int, str | None, str | None], Difference] = field(default_factory=dict)

    def compared(self, verdict: Verdict, asked: Asked, was: Answer, now: Answer) -> None:
        match verdict:
            case "equal":
                self.equal += 1
            case "different":
                self.different += 1
                kind = asked.op, was.error, now.error
                self.kinds[kind] += 1
                self.first.setdefault(kind, Difference(asked, was, now))

    @property
    def unknown(self) -> int:
        """Answered, and the recording does not say how it was answered then."""
        return self.requests - self.equal - self.different - self.unanswered

    @property
    def cpu_us(self) -> float | None:
        """The daemon's, for each request."""
        if self.daemon_cpu_ns is None or not self.requests:
            return None
        return self.daemon_cpu_ns / 1e3 / self.requests

    def as_json(self) -> dict[str, Any]:
        names = ("requests", "equal", "different", "unknown", "unanswered", "left_out", "events_then", "events_now")
        latencies = {f"p{text}_us": round(self.latencies.at(float(text) / 100), 1) for text in ("50", "99", "99.9")}
        return {
            **{name: getattr(self, name) for name in names},
            "wall_s": round(self.wall_s, 6),
            "late_s": round(self.late_s, 6),
            "daemon_cpu_us": None if self.cpu_us is None else round(self.cpu_us, 3),
            **(latencies if self.requests > self.unanswered else {}),
            "differences": [
                {"op": name_of(op), "then": then or "OK", "now": now or "OK", "count": count}
                for (op, then, now), count in self.kinds.most_common()
            ],
        }


def name_of(op: int) -> str:
    return Op(op).name if op in Op._value2member_map_ else str(op)
