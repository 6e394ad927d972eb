"""Kinds of runs: what is done to one daemon once, and the sample that it gives.

Owns what a unit is, and which of a program's numbers become the sample's.  Refuses to know scenarios and rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from fastxs.bench.daemons import Kind, LoadError, Server, rss_bytes
from fastxs.bench.loads import EMPTY, Hold, Load, Play, Result, Situation
from fastxs.bench.stage import Side, Stage
from fastxs.bench.turns import turns

__all__ = [
    "Act",
    "Bare",
    "Grown",
    "Loaded",
    "Remembered",
    "Sample",
    "Simulated",
    "Turned",
    "filled",
    "held",
    "connected",
]


@dataclass(frozen=True)
class Sample:
    """What one run of one daemon says.  None: not a question here."""

    units: int
    """requests, transactions, lives..., as the scenario says"""
    cpu_us: float | None = None
    """CPU of the daemon per unit"""
    per_s: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None
    longest_us: float | None = None
    """of the daemon's CPU, in one piece"""
    bytes: float | None = None
    """of memory, for each thing that the scenario counts"""
    eagain: int = 0
    """transactions that had to be done again"""
    rss: int = 0
    """bytes resident at the end"""
    latency: tuple[tuple[int, int], ...] = ()
    """ns of a bucket, how many: of the replies, or of what else the scenario is about"""


class Act(Protocol):
    """One run.  LoadError: it failed."""

    def run(self, stage: Stage, kind: Kind) -> Sample: ...


def _sample(result: Result, units: int) -> Sample:
    if not units:
        raise LoadError(f"{result.workload}: none was done within {result.wall_s:.1f} s ({result.eagain} EAGAIN)")
    return Sample(
        units,
        result.cpu_ns / 1e3 / units,
        units / result.wall_s,
        result.p50_ns / 1e3,
        result.p99_ns / 1e3,
        result.p999_ns / 1e3,
        eagain=result.eagain,
        rss=result.rss_end,
        latency=result.latency,
    )


@dataclass(frozen=True)
class Loaded:
    """A run of the load generator."""

    load: Load
    situation: Situation = EMPTY

    def run(self, stage: Stage, kind: Kind) -> Sample:
        result = stage.measure(Side(kind, self.load, self.situation))
        return _sample(result, result.scripts if self.load.workload in SCRIPTS else result.requests)

    def units(self, many: int) -> Loaded:
        """The same, for so many units and nothing before them."""
        return replace(self, load=replace(self.load, requests=many, seconds=60.0, warmup=0))


SCRIPTS: Final = ("own", "transaction", "life")
"""Workloads whose unit is a whole script."""


@dataclass(frozen=True)
class Simulated:
    """A run of the guest simulator."""

    play: Play
    situation: Situation = EMPTY

    def run(self, stage: Stage, kind: Kind) -> Sample:
        played = stage.play(kind, self.play, self.situation)
        units = played.rounds if self.play.rounds else played.requests
        return Sample(
            units,
            played.cpu_ns / 1e3 / units,
            units / played.wall_s,
            played.p50_us,
            played.p99_us,
            eagain=played.eagain,
        )


@dataclass(frozen=True)
class Grown:
    """Domains come and stay until there are `domains`; then a few more, which are what is measured."""

    domains: int
    situation: Situation
    FEW = 20
    PATIENCE_S = 300.0

    def run(self, stage: Stage, kind: Kind) -> Sample:
        guests, wanted = stage.guests(kind, self.situation), round(self.domains * stage.scale)
        if missing := max(0, wanted - guests.domains):
            guests.drive(self._arrive(missing), stage.client_cpu)
            if guests.domains < wanted:
                raise LoadError(f"after {self.PATIENCE_S:g} s there were {guests.domains} guests")
        result = guests.drive(self._arrive(self.FEW), stage.client_cpu)
        return _sample(result, result.requests)

    def _arrive(self, domains: int) -> Load:
        return Load("arrive", requests=domains, seconds=self.PATIENCE_S, warmup=0)


@dataclass(frozen=True)
class Remembered:
    """How much a new daemon grows by `many` things that `furnish` brings."""

    many: int
    furnish: Callable[[Stage, Kind, int], Result]

    def run(self, stage: Stage, kind: Kind) -> Sample:
        result = self.furnish(stage, kind, round(self.many * stage.scale))
        return Sample(result.requests, bytes=(result.rss_end - result.rss_open) / result.requests, rss=result.rss_end)


@dataclass(frozen=True)
class Bare:
    """How large a new daemon is."""

    def run(self, stage: Stage, kind: Kind) -> Sample:
        with stage.fresh(kind) as server:
            rss = rss_bytes(server)
        return Sample(1, bytes=rss, rss=rss)


@dataclass(frozen=True)
class Turned:
    """How long fastxs keeps its thread in one piece."""

    nodes: int

    def run(self, stage: Stage, kind: Kind) -> Sample:
        found = turns(stage, kind, round(self.nodes * stage.scale))
        pieces = sum(many for _, many in found.histogram)
        return Sample(pieces, longest_us=found.longest_ns / 1e3, latency=found.histogram)


def filled(stage: Stage, kind: Kind, many: int) -> Result:
    with stage.fresh(kind) as server:
        return stage.fill(server, "nodes", many)


def held(stage: Stage, kind: Kind, many: int, hold: Callable[[Stage, Server, int], Hold]) -> Result:
    with stage.fresh(kind) as server:
        held = hold(stage, server, many)
        held.close()
    return held.result


def connected(stage: Stage, kind: Kind, many: int) -> Result:
    """They came before what is measured began."""
    result = held(stage, kind, many, Stage.idle)
    return replace(result, rss_open=result.rss_start, requests=many)
