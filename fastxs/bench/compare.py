"""A comparison: the scenarios' points, run after run by each daemon in turn, and what may be concluded from them.

Owns the order of runs, ratios and their intervals, what is too noisy to be ranked, and the form of the saved results
(SCHEMA).  Refuses to know what a scenario does (scenarios.py) and how results look (report.py).

In each round every daemon has one run, right after each other; every second round goes the other way.  The ratio of two
daemons is taken in each round; the figure is the median of these.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from fastxs.bench.acts import Loaded, Sample
from fastxs.bench.daemons import Kind, LoadError
from fastxs.bench.figures import CONFIDENCE, interval
from fastxs.bench.machine import Meanwhile, machine, version
from fastxs.bench.scenarios import CHAPTERS, CONTROL, Point, Scenario
from fastxs.bench.stage import Stage
from fastxs.bench.syscalls import CountError, counted, tool
from fastxs.hypervisor import host

__all__ = ["METRICS", "SCHEMA", "TWIN", "Advantage", "Comparison", "Metric", "Place", "advantage", "load", "verdict"]

SCHEMA: Final = "fastxs-bench/1"
TWIN: Final = "twin"
"""The subject once more: how far it seems to differ from itself is the noise."""
SHARED: Final = 0.05
"""Of the machine's time.  If others had more, times that pass on the clock are ranked no more."""
COUNTED: Final = 2000
"""Requests, or transactions, for which system calls are counted."""


@dataclass(frozen=True)
class Metric:
    text: str
    unit: str
    by_clock: bool
    """it depends on who else uses the machine"""
    more_is_better: bool = False


METRICS: Final[Mapping[str, Metric]] = {
    "cpu_us": Metric("CPU of the daemon", "µs", by_clock=False),
    "per_s": Metric("throughput", "a second", by_clock=True, more_is_better=True),
    "p50_us": Metric("latency, p50", "µs", by_clock=True),
    "p99_us": Metric("latency, p99", "µs", by_clock=True),
    "p999_us": Metric("latency, p99.9", "µs", by_clock=True),
    "longest_us": Metric("longest piece of a turn", "µs", by_clock=False),
    "bytes": Metric("memory", "bytes", by_clock=False),
}


@dataclass
class Place:
    """One point of one scenario: what each daemon did there, or why it did not."""

    scenario: Scenario
    x: int
    samples: dict[Kind, list[Sample]] = field(default_factory=dict)
    reasons: dict[Kind, str] = field(default_factory=dict)
    syscalls: dict[Kind, float] = field(default_factory=dict)
    took_s: float = 0.0

    def median(self, kind: Kind, metric: str) -> float | None:
        values = [value for sample in self.samples.get(kind, ()) if (value := getattr(sample, metric)) is not None]
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Advantage:
    """How many times better the first one is: the median of the rounds' ratios, the true one in `low`..`high`."""

    value: float
    low: float
    high: float
    coverage: float


def advantage(mine: Sequence[Sample], others: Sequence[Sample], metric: str) -> Advantage | None:
    """Of two daemons, by one metric, round by round.  None: one of them has no such number."""
    ratios = []
    for my, other in zip(mine, others, strict=False):
        a, b = getattr(my, metric), getattr(other, metric)
        if a and b:
            ratios.append(a / b if METRICS[metric].more_is_better else b / a)
    if not ratios:
        return None
    return Advantage(statistics.median(ratios), *interval(ratios))


def verdict(found: Advantage, noise: Advantage | None, metric: str, shared: float) -> str:
    """`better`, `worse`, or why it is neither."""
    if found.coverage < CONFIDENCE:
        return "too few rounds"
    if METRICS[metric].by_clock and shared > SHARED:
        return "machine shared"
    margin = max(1.0, noise.high, 1 / noise.low) if noise else 1.0
    if found.low > margin:
        return "better"
    return "worse" if found.high < 1 / margin else "not separated"


class Comparison:
    """Daemons of one stage, the first of which is the subject.  `places` fill up while `run` goes on."""

    def __init__(
        self, stage: Stage, kinds: Sequence[Kind], scenarios: Sequence[Scenario], *, rounds: int, quick: bool
    ) -> None:
        self.stage, self.kinds, self.scenarios = stage, tuple(kinds), tuple(scenarios)
        self.rounds, self.quick = rounds, quick
        self.absent = {kind: why for kind in (*kinds, *self._others()) if (why := stage.why_not(kind))}
        self.places: list[Place] = []
        self._meanwhile, self._begun = Meanwhile(), time.time()
        self.machine = machine([stage.server_cpu, stage.client_cpu])
        try:
            self._tool, self.uncounted = tool(), ""
        except CountError as error:
            self._tool, self.uncounted = "", str(error)

    def _others(self) -> list[Kind]:
        return list(dict.fromkeys(kind for scenario in self.scenarios for kind in scenario.others))

    def points(self) -> list[tuple[Scenario, Point]]:
        """In the order in which they are measured: each situation is made once."""
        every = [(scenario, point) for scenario in self.scenarios for point in scenario.points(self.quick)]
        return sorted(every, key=lambda one: repr(one[1].situation))

    def run(self) -> Iterator[Place]:
        """Measure everything; each place when it is done."""
        for _, points in groupby(self.points(), key=lambda one: one[1].situation):
            for scenario, point in points:
                begun = time.monotonic()
                place = self._measure(scenario, point)
                place.took_s = time.monotonic() - begun
                self.places.append(place)
                yield place
            self.stage.forget()

    def takes_part(self, scenario: Scenario | None = None) -> list[Kind]:
        """Who can, at all or in this scenario."""
        if scenario is CONTROL:
            return [kind for kind in (self.kinds[0], TWIN) if kind not in self.absent]
        others = [kind for kind in scenario.others if kind not in self.kinds] if scenario else []
        wanted = [kind for kind in (*self.kinds, *others) if not (scenario and scenario.only) or kind in scenario.only]
        return [kind for kind in wanted if kind not in self.absent]

    def _measure(self, scenario: Scenario, point: Point) -> Place:
        kinds = self.takes_part(scenario)
        place = Place(scenario, point.x, {kind: [] for kind in kinds})
        for turn in range(scenario.rounds or self.rounds):
            for kind in kinds if turn % 2 == 0 else reversed(kinds):
                if kind not in place.reasons:
                    self._try(place, point, kind)
        if self._tool and scenario.chapter == "requests" and isinstance(point.act, Loaded):
            for kind in kinds:
                if kind not in place.reasons:
                    place.syscalls[kind] = self._count(kind, point.act)
        return place

    def _try(self, place: Place, point: Point, kind: Kind) -> None:
        try:
            self.stage.server(kind, point.situation.scaled(self.stage.scale))
            place.samples[kind].append(point.act.run(self.stage, kind))
        except (LoadError, host.HostError) as error:
            place.reasons[kind] = str(error)
            self.stage.forget(kind)

    def _count(self, kind: Kind, act: Loaded) -> float:
        server = self.stage.server(kind, act.situation.scaled(self.stage.scale))
        return counted(self._tool, server.pid, lambda many: act.units(many).run(self.stage, kind), COUNTED)

    # -- what came of it ----------------------------------------------------------------------------------------

    def noise(self, metric: str) -> Advantage | None:
        """How far the subject seems to differ from itself."""
        for place in self.places:
            if place.scenario is CONTROL and not place.reasons:
                return advantage(place.samples[self.kinds[0]], place.samples[TWIN], metric)
        return None

    def against(self, place: Place) -> dict[Kind, dict[str, dict[str, object]]]:
        """Other -> metric -> the subject's advantage and what may be said of it."""
        shared, mine = self._meanwhile.share(), place.samples.get(self.kinds[0], [])
        found: dict[Kind, dict[str, dict[str, object]]] = {}
        for kind, others in place.samples.items():
            if kind == self.kinds[0]:
                continue
            for metric in METRICS:
                if gain := advantage(mine, others, metric):
                    word = verdict(gain, self.noise(metric), metric, shared)
                    found.setdefault(kind, {})[metric] = {**asdict(gain), "verdict": word}
        return found

    def document(self, command: str) -> dict[str, Any]:
        """Everything, as JSON has it.  Ask at the end, when the daemons are gone: their time is ours."""
        chosen = [*self.kinds, *self._others()]
        daemons = {kind: version(self.stage.daemons[kind]) for kind in chosen if kind in self.stage.daemons}
        return {
            "schema": SCHEMA,
            "command": command,
            "begun": time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(self._begun)),
            "took_s": round(time.time() - self._begun, 1),
            "quick": self.quick,
            "rounds": self.rounds,
            "seconds": self.stage.seconds,
            "scale": self.stage.scale,
            "subject": self.kinds[0],
            "daemons": daemons,
            "absent": self.absent,
            "machine": {**self.machine, "others' share of the CPUs": round(self._meanwhile.share(), 3)},
            "system calls counted by": self._tool or self.uncounted,
            "chapters": CHAPTERS,
            "scenarios": {
                scenario.name: {name: getattr(scenario, name) for name in ("chapter", "text", "axis", "unit", "metric")}
                for scenario in self.scenarios
            },
            "places": [self._place(place) for place in sorted(self.places, key=self._rank)],
        }

    def _rank(self, place: Place) -> tuple[int, int]:
        return self.scenarios.index(place.scenario), place.x

    def _place(self, place: Place) -> dict[str, Any]:
        return {
            "scenario": place.scenario.name,
            "x": place.x,
            "took_s": round(place.took_s, 2),
            "daemons": {
                kind: {
                    "median": {metric: place.median(kind, metric) for metric in METRICS},
                    "eagain": sum(sample.eagain for sample in samples),
                    "units": sum(sample.units for sample in samples),
                    "rounds": [_numbers(sample) for sample in samples],
                    "latency": _merged(samples),
                    "syscalls": place.syscalls.get(kind),
                    "reason": place.reasons.get(kind),
                }
                for kind, samples in place.samples.items()
            },
            "against": self.against(place),
        }


def _numbers(sample: Sample) -> dict[str, Any]:
    return {f.name: getattr(sample, f.name) for f in fields(sample) if f.name != "latency"}


def _merged(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    buckets: Counter[int] = Counter()
    for sample in samples:
        buckets.update(dict(sample.latency))
    return sorted(buckets.items())


def load(path: Path) -> dict[str, Any]:
    """A saved comparison.  ValueError: it is none, or of another schema; OSError."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        schema = document["schema"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{path}: no results of fastxs bench") from None
    if schema != SCHEMA:
        raise ValueError(f"{path}: its schema is {schema}, not {SCHEMA}")
    return document
