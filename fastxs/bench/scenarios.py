"""What is compared: one table of scenarios, each at several points of an axis.

Owns names, texts, loads and situations.  Refuses to know which daemons are there, how often a point is measured and
what is made of it (compare.py), and how a daemon is loaded (harness.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

from fastxs.bench.harness import (
    ECHO,
    EMPTY,
    Hold,
    Kind,
    Load,
    LoadError,
    Play,
    Result,
    Server,
    Side,
    Situation,
    Stage,
    rss_bytes,
)
from fastxs.bench.turns import turns

__all__ = ["CHAPTERS", "SCENARIOS", "Act", "Point", "Sample", "Scenario"]


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


@dataclass(frozen=True)
class Point:
    """A scenario at one place of its axis."""

    x: int
    situation: Situation
    act: Act


@dataclass(frozen=True)
class Scenario:
    """A row of the table.  `at` makes the point for an x of `xs`, of which a quick run takes `quick`."""

    name: str
    chapter: str
    text: str
    axis: str
    xs: tuple[int, ...]
    at: Callable[[int], Point]
    quick: tuple[int, ...] = ()
    unit: str = "request"
    metric: str = "cpu_us"
    """which of a sample's numbers it is about"""
    others: tuple[Kind, ...] = ()
    """whom it also compares with, beside the daemons of the run"""
    only: tuple[Kind, ...] = ()
    """who takes part, of the daemons of the run; all of them"""
    harmless: bool = False
    """may be let loose on a host in use"""
    rounds: int | None = None
    """enough of them, where a run is long"""

    def points(self, quick: bool) -> Iterator[Point]:
        yield from map(self.at, self.quick if quick else self.xs)


# ------------------------------------------------------------------------------------------------------ kinds of acts


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


def _nodes(stage: Stage, kind: Kind, many: int) -> Result:
    with stage.fresh(kind) as server:
        return stage.fill(server, "nodes", many)


def _held(stage: Stage, kind: Kind, many: int, hold: Callable[[Stage, Server, int], Hold]) -> Result:
    with stage.fresh(kind) as server:
        held = hold(stage, server, many)
        held.close()
    return held.result


def _connections(stage: Stage, kind: Kind, many: int) -> Result:
    """They came before what is measured began."""
    result = _held(stage, kind, many, Stage.idle)
    return replace(result, rss_open=result.rss_start, requests=many)


# ----------------------------------------------------------------------------------------------------------- the table

CHAPTERS: Final = {
    "control": "How far two daemons that are the same seem to differ",
    "requests": "What a request costs",
    "busy": "Many who say something",
    "beside": "Many who say nothing",
    "events": "Events",
    "life": "Domains come and go",
    "classics": "Others' benchmarks, from their descriptions",
    "turns": "How long fastxs serves nobody else",
    "memory": "Memory",
}

CROWD: Final = 100
WORKLOADS: Final = {
    "read": "READ",
    "write": "WRITE",
    "mixed": "three READs to a WRITE",
    "directory": "DIRECTORY of {} children",
    "own": "a transaction of 8 requests on nodes of one's own",
}
SHAPES: Final = {  # peers, depth over sockets, depth over rings
    "depth1": (1, 1, 1, "one peer, one request at a time"),
    "pipelined": (1, 16, 8, "one peer, many requests at a time"),
    "crowd": (CROWD, 1, 1, f"{CROWD} peers, each one request at a time"),
}


SLOW: Final = {("pipelined", "directory"), ("pipelined", "own")}
"""What a quick run leaves out."""


def _requests() -> Iterator[Scenario]:
    for shape, (peers, on_socket, on_ring, text) in SHAPES.items():
        for rings, transport, depth in ((False, "socket", on_socket), (True, "ring", on_ring)):
            for workload, words in WORKLOADS.items():
                load = Load(workload, peers, depth, rings=rings)
                yield Scenario(
                    f"{transport}-{workload}-{shape}",
                    "requests",
                    f"{words.format(4 if rings else 500)} over {transport}s: {text}",
                    "in flight",
                    (peers * depth,),
                    partial(_loaded, load=load, situation=Situation(domains=CROWD) if rings else EMPTY),
                    () if workload == "mixed" or (shape, workload) in SLOW else (peers * depth,),
                    unit="transaction" if workload == "own" else "request",
                    others=() if rings or workload == "own" else (ECHO,),
                    harmless=not rings,
                )


def _loaded(x: int, load: Load, situation: Situation) -> Point:
    return Point(x, situation, Loaded(load, situation))


def _busy_guests(x: int, workload: str) -> Point:
    return _loaded(x, Load(workload, x, rings=True), Situation(domains=x))


def _busy_connections(x: int, workload: str) -> Point:
    return _loaded(x, Load(workload, x), EMPTY)


def _busy() -> Iterator[Scenario]:
    for workload in ("read", "write"):
        word = WORKLOADS[workload]
        guests, connections = (partial(at, workload=workload) for at in (_busy_guests, _busy_connections))
        yield Scenario(
            f"busy-ring-{workload}",
            "busy",
            f"{word} of every guest over its ring",
            "busy guests",
            (1, 10, 100, 1_000, 4_000),
            guests,
            (10, 100),
        )
        yield Scenario(
            f"busy-socket-{workload}",
            "busy",
            f"{word} of every connection",
            "busy connections",
            (1, 10, 100, 1_000),
            connections,
            (10, 100),
            others=(ECHO,),
        )


def _beside_guests(x: int, load: Load) -> Point:
    return _loaded(x, load, Situation(domains=1 + x))


def _beside(x: int, load: Load, what: str) -> Point:
    return _loaded(x, load, Situation(**{what: x}))  # type: ignore[arg-type]  # the number that has this name


def _among(x: int, load: Load, what: str) -> Point:
    return _loaded(x, replace(load, at=what, keys=min(load.keys, x)), Situation(**{what: x}))  # type: ignore[arg-type]


def _quiet() -> Iterator[Scenario]:
    guests, few = (0, 100, 1_000, 4_000), (0, 100, 1_000)
    for transport, rings in (("ring", True), ("socket", False)):
        for workload in ("read", "write"):
            yield Scenario(
                f"idle-domains-{transport}-{workload}",
                "beside",
                f"{WORKLOADS[workload]} of one peer over a {transport} beside idle domains",
                "idle domains",
                guests,
                partial(_beside_guests, load=Load(workload, rings=rings)),
                few,
            )
    table: tuple[tuple[str, str, Load, str, tuple[int, ...], tuple[int, ...]], ...] = (
        ("idle", "idle connections", Load("read"), "READ beside idle connections", guests, few),
        ("watches", "watches", Load("write"), "WRITE beside watches elsewhere", (0, 1_000, 10_000, 100_000), few),
    )
    for what, axis, load, text, xs, quick in table:
        yield Scenario(f"beside-{what}", "beside", text, axis, xs, partial(_beside, load=load, what=what), quick)
    for workload in ("read", "write"):
        yield Scenario(
            f"among-nodes-{workload}",
            "beside",
            f"{WORKLOADS[workload]} of any node",
            "nodes",
            (1_000, 10_000, 100_000, 1_000_000),
            partial(_among, load=Load(workload, keys=1_000_000), what="nodes"),
            (1_000, 10_000),
        )
    yield Scenario(
        "among-siblings",
        "beside",
        "WRITE of a new node in one directory, RM of it",
        "children of the directory",
        (100, 1_000, 10_000, 100_000),
        partial(_among, load=Load("churn"), what="wide"),
        (100, 1_000),
    )


def _storm(x: int) -> Point:
    return Point(x, EMPTY, Simulated(Play("storm", x)))


def _fan_out(x: int) -> Point:
    return _loaded(x, Load("fan-out", x + 1, warmup=0), EMPTY)


def _events() -> Iterator[Scenario]:
    yield Scenario(
        "fan-out",
        "events",
        "WRITE of a node that so many watch, until all know",
        "watchers",
        (1, 10, 100, 1_000),
        _fan_out,
        (1, 10, 100),
        harmless=True,
    )
    yield Scenario(
        "watch-storm",
        "events",
        "guests write what the toolstack watches; one in eight is born and dies all the time",
        "guests",
        (10, 100, 1_000),
        _storm,
        (10, 100),
    )


def _born_and_dead(x: int, at_once: int, each: int) -> Point:
    situation = Situation(domains=x)
    return Point(x, situation, Simulated(Play("boot", at_once, each), situation))


def _one_domain(x: int, workload: str, many: int) -> Point:
    return _loaded(x, Load(workload, rings=True, requests=many, warmup=0), Situation(domains=1 + x))


def _connect(x: int) -> Point:
    return _loaded(x, Load("connect", x, warmup=0), EMPTY)


def _life() -> Iterator[Scenario]:
    guests, few = (0, 100, 1_000, 4_000), (0, 100, 1_000)
    yield Scenario(
        "boot-and-death",
        "life",
        "whole lives as libxl and Linux lead them, 84 requests each, ten at once",
        "idle domains",
        guests,
        partial(_born_and_dead, at_once=10, each=1),
        few,
        unit="life",
    )
    for workload, text in (("introduce", "INTRODUCE"), ("die", "a domain's death, until @releaseDomain is told")):
        yield Scenario(
            f"one-{workload}s",
            "life",
            text,
            "idle domains",
            guests,
            partial(_one_domain, workload=workload, many=50),
            few,
            unit="domain",
        )
    yield Scenario(
        "connections",
        "life",
        "connections come, are served once, and go",
        "at a time",
        (1, 10, 100),
        _connect,
        (1, 100),
        unit="connection",
        harmless=True,
    )


def _starts(x: int) -> Point:
    load = Load("transaction", x, requests=3 * x, warmup=0, seconds=2.0, lockstep=True)
    return _loaded(x, load, Situation(private="starts"))


def _lives(x: int) -> Point:
    """Each once; who cannot do 20 a second is stopped after a while."""
    return _loaded(x, Load("life", x, requests=x, warmup=0, seconds=max(5.0, x / 20)), Situation(private="lives"))


def _grown(x: int) -> Point:
    situation = Situation(domains=1, private="grown")
    return Point(x, situation, Grown(x, situation))


def _loop(x: int, workload: str) -> Point:
    return _loaded(x, Load(workload, requests=x, warmup=x), EMPTY)


def _classics() -> Iterator[Scenario]:
    yield Scenario(
        "starts-in-lockstep",
        "classics",
        "VM starts in lock-step, each 12 writes under /vm, /vss and /local/domain in a transaction",
        "clients",
        (1, 10, 100, 300),
        _starts,
        (10, 100),
        unit="start",
        rounds=6,
    )
    yield Scenario(
        "starts-and-shutdowns",
        "classics",
        "parallel VM starts and shutdowns, as xapi's toolstack does them (xen.git aef35b9877)",
        "in parallel",
        (10, 100, 300),
        _lives,
        (10, 50),
        unit="start and shutdown",
        rounds=6,
    )
    yield Scenario(
        "nth-guest",
        "classics",
        "the n-th guest's creation: its nodes and INTRODUCE (LightVM, SOSP 2017)",
        "guests that are there",
        (0, 250, 500, 1_000, 2_000, 4_000, 8_000),
        _grown,
        (0, 250, 500, 1_000),
        unit="guest",
        others=("ox-log",),
        rounds=6,
    )
    for workload, text in (
        ("write", "WRITE"),
        ("read", "READ"),
        ("directory", "DIRECTORY"),
        ("domain-path", "GET_DOMAIN_PATH"),
    ):
        yield Scenario(
            f"loop-{workload}",
            "classics",
            f"a loop of 500 {text} over one socket (VEE 2017)",
            "requests",
            (500,),
            partial(_loop, workload=workload),
            (500,),
            others=("ox-log",),
            harmless=True,
        )


def _turned(x: int) -> Point:
    return Point(x, EMPTY, Turned(x))


def _turns() -> Iterator[Scenario]:
    yield Scenario(
        "turns",
        "turns",
        "nodes come, 100 clients commit in lock-step, all nodes go at once: the longest piece of a turn",
        "nodes",
        (1_000_000,),
        _turned,
        (20_000,),
        unit="turn",
        metric="longest_us",
        only=("fastxs", "fastxs-none"),
        rounds=3,
    )


def _memory() -> Iterator[Scenario]:
    table: tuple[tuple[str, str, Callable[[int], Act], int, int], ...] = (
        ("base", "a daemon that has nothing to do", lambda _: Bare(), 1, 1),
        ("node", "a node with a value of 16 bytes", partial(Remembered, furnish=_nodes), 20_000, 5_000),
        ("connection", "an idle connection", partial(Remembered, furnish=_connections), 1_000, 300),
        (
            "watch",
            "a watch",
            partial(Remembered, furnish=partial(_held, hold=Stage.watch)),
            100_000,
            10_000,
        ),
        (
            "domain",
            "an idle domain, its ring's 4,096 included",
            partial(Remembered, furnish=partial(_held, hold=Stage.populate)),
            1_000,
            300,
        ),
    )
    for what, text, act, many, few in table:
        yield Scenario(
            f"memory-{what}",
            "memory",
            text,
            "of them",
            (many,),
            partial(_remembered, act=act),
            (few,),
            unit=what,
            metric="bytes",
            rounds=6,
        )


def _remembered(x: int, act: Callable[[int], Act]) -> Point:
    return Point(x, EMPTY, act(x))


CONTROL: Final = Scenario(
    "control",
    "control",
    f"READ over {CROWD} sockets, by two daemons that are the same",
    "connections",
    (CROWD,),
    partial(_loaded, load=Load("read", CROWD), situation=EMPTY),
    (CROWD,),
)

SCENARIOS: Final = (
    CONTROL,
    *_requests(),
    *_busy(),
    *_quiet(),
    *_events(),
    *_life(),
    *_classics(),
    *_turns(),
    *_memory(),
)
