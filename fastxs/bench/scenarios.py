"""What is compared: one table of scenarios, each at several points of an axis.

Owns names, texts, loads and situations.  Refuses to know which daemons are there, how often a point is measured and
what is made of it (compare.py), and what one run is (acts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from fastxs.bench.acts import Act, Bare, Grown, Loaded, Remembered, Simulated, Turned, connected, filled, held
from fastxs.bench.daemons import ECHO, Kind
from fastxs.bench.loads import EMPTY, Load, Play, Situation
from fastxs.bench.stage import Stage

__all__ = ["CHAPTERS", "SCENARIOS", "Point", "Scenario"]


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


def _lives(x: int, shared: bool) -> Point:
    """Each once; who cannot do 20 a second is stopped after a while."""
    load = Load("life", x, requests=x, warmup=0, seconds=max(5.0, x / 20), shared=shared)
    return _loaded(x, load, Situation(private="lives"))


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
    for name, shared, how in (
        ("starts-and-shutdowns", True, "over one connection"),
        ("starts-and-shutdowns-each", False, "each over its own connection"),
    ):
        yield Scenario(
            name,
            "classics",
            f"parallel VM starts and shutdowns, as xapi's toolstack does them (xen.git aef35b9877), {how}",
            "in parallel",
            (10, 100, 300),
            partial(_lives, shared=shared),
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
        ("node", "a node with a value of 16 bytes", partial(Remembered, furnish=filled), 20_000, 5_000),
        ("connection", "an idle connection", partial(Remembered, furnish=connected), 1_000, 300),
        (
            "watch",
            "a watch",
            partial(Remembered, furnish=partial(held, hold=Stage.watch)),
            100_000,
            10_000,
        ),
        (
            "domain",
            "an idle domain, its ring's 4,096 included",
            partial(Remembered, furnish=partial(held, hold=Stage.populate)),
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
