"""The speed bars: what fastxs promises, as one table, and the command that checks it.

Owns: names, limits, which daemon is compared with which and under what load.  How that is measured is measures.py's.

    python -m bench.bars                       every bar, ten pairs each
    python -m bench.bars --quick --only crowd  three short pairs of the bars whose names begin so
    python -m bench.bars --daemon c            how C xenstored would do against the same bars

Exits with 1 if a bar was missed or could not be measured, with 2 if the command line is wrong.
"""

import argparse
import fnmatch
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.measures import (
    deaths,
    fairness,
    image_bytes,
    life,
    live_update,
    lives,
    lockstep,
    memory_per_domain,
    memory_per_node,
    memory_per_watch,
    recovery,
    rest,
    single,
    tail,
    turn,
    versus,
    wall,
)
from fastxs.bench.daemons import Kind, LoadError
from fastxs.bench.figures import CONFIDENCE, Figure, Once, interval, short, summarise
from fastxs.bench.loads import EMPTY, Load, Result, Situation, commits
from fastxs.bench.stage import Side, Stage
from fastxs.hypervisor import host

__all__ = ["BARS", "Bar", "Outcome", "main", "measure", "select"]


@dataclass(frozen=True)
class Bar:
    """One promise.  `limit` None: a figure that is shown and promised nowhere."""

    name: str
    text: str
    limit: float | None
    unit: str
    prepare: Callable[[Stage], Once]
    rivals: tuple[Kind, ...] = ()
    """kinds of daemon that it needs beside the one it judges"""
    most: int | None = None
    """rounds that are enough, where a round is long and hardly varies"""

    @property
    def group(self) -> str:
        return self.name.partition("-")[0]


@dataclass(frozen=True)
class Outcome:
    bar: Bar
    figure: Figure | None
    reason: str = ""
    """why there is no figure"""

    @property
    def met(self) -> bool:
        """The median is within the limit.  What promises nothing is met, what was not measured is not."""
        return self.figure is not None and (self.bar.limit is None or self.figure.value <= self.bar.limit)

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return "not measured"
        if self.bar.limit is None:
            return "-"
        # an interval that spans the limit: the median decides, and the reader is told
        clear = (self.figure.high if self.met else self.figure.low) <= self.bar.limit
        return ("met" if self.met else "MISSED") + ("" if clear == self.met else ", unsure")


# ----------------------------------------------------------------------------------------------------------- the table

CROWD = 100
"""Connections of the loads that keep the daemon busy."""
SITUATIONS = {
    "idle": (Situation(idle=4_000), "4,000 idle connections", "bench"),
    "watches": (Situation(watches=100_000), "100,000 watches elsewhere", "bench"),
    "nodes": (Situation(nodes=1_000_000), "1,000,000 nodes, any of them", "nodes"),
    "wide": (Situation(wide=100_000), "a directory of 100,000 children, 500 of them", "wide"),
}
LIMITS = {"idle": 1.05, "watches": 1.05, "wide": 1.1}
REQUESTS = {"read": "READ", "write": "WRITE", "churn": "WRITE of a new node, RM of it"}
STARTS = {1: 200, 10: 300, 100: 500, 300: 900}
"""Clients in lock-step -> transactions in one run."""


def _against_rivals() -> Iterator[Bar]:
    table: tuple[tuple[str, Kind, float, float | None, Load, str], ...] = (
        # name, rival, limit of READ, limit of WRITE, load, text
        ("depth1", "c", 0.55, None, Load(""), "one connection, one request at a time, one CPU"),
        ("crowd", "echo", 1.2, 1.4, Load("", CROWD), f"{CROWD} connections"),
        ("pipelined", "c", 0.08, 0.14, Load("", depth=16), "one connection, 16 requests in one write"),
    )
    for name, rival, reads, writes, load, text in table:
        for workload, limit in (("read", reads), ("write", writes)):
            shaped = replace(load, workload=workload)
            prepare = partial(versus, subject=Side("daemon", shaped), rival=Side(rival, shaped))
            yield Bar(f"{name}-{workload}", f"{workload.upper()}, {text}", limit, f"x {rival}", prepare, (rival,))


def _flat() -> Iterator[Bar]:
    for name, (situation, text, at) in SITUATIONS.items():
        # in the wide directory also nodes that come and go: that is where the number of siblings would show
        for workload in ("read", "write", "churn")[: 3 if at == "wide" else 2]:
            for connections, shape in ((1, "depth1"), (CROWD, "crowd")):
                keys = 0 if at == "nodes" else 500
                subject = Side("daemon", Load(workload, connections, at=at, keys=keys), situation)
                rival = Side("daemon", Load(workload, connections), EMPTY)
                # a million nodes do not fit into the caches: that bar is a difference
                difference = at == "nodes"
                limit, unit = (0.5, "µs more") if difference else (LIMITS[name], "x empty")
                prepare = partial(versus, subject=subject, rival=rival, difference=difference)
                yield Bar(f"{name}-{workload}-{shape}", f"{REQUESTS[workload]} with {text}", limit, unit, prepare)


def _tails() -> Iterator[Bar]:
    for workload in ("read", "write"):
        load = Load(workload, CROWD)
        prepare = partial(versus, subject=Side("daemon", load), rival=Side("echo", load), per=tail)
        text = f"{workload.upper()}, {CROWD} connections: 99.9 % are answered within"
        yield Bar(f"tail-{workload}", text, 3, "x echo", prepare, ("echo",))
    prepare_turn = partial(turn, nodes=1_000_000)
    text = "1,000,000 nodes come, transactions commit, all go: the longest piece of a turn"
    yield Bar("tail-turn", text, 1_000, "µs", prepare_turn, most=3)


def _starts(clients: int, *, bare: bool = False) -> Side:
    load = Load("transaction", clients, requests=STARTS[clients], warmup=clients, seconds=5.0, lockstep=True, bare=bare)
    return Side("daemon", load)


def _transactions() -> Iterator[Bar]:
    for bare, name, text in ((False, "aborts", ""), (True, "aborts-bare", ", /vm and /vss not there yet")):
        yield Bar(
            f"lockstep-{name}",
            f"{CROWD} clients in lock-step{text}: aborts",
            0,
            "aborts",
            partial(lockstep, side=_starts(CROWD, bare=bare), value=lambda result: float(result.eagain)),
        )
    for clients in STARTS:
        text = f"CPU per commit, {clients} client{'s' if clients > 1 else ''} in lock-step"
        yield Bar(f"lockstep-cpu-{clients}", text, 150, "µs", partial(lockstep, side=_starts(clients), value=commits))
    yield Bar(
        "lockstep-flat",
        "CPU per commit, 300 clients against 10",
        1.1,
        "x 10 clients",
        partial(versus, subject=_starts(300), rival=_starts(10), per=commits),
    )


def _parallel() -> Iterator[Bar]:
    together = Load("life", 300, requests=300, warmup=0, seconds=60.0, shared=True)
    each = replace(together, shared=False)
    text = "300 VM starts and shutdowns in parallel (xen.git aef35b9877)"
    table: tuple[tuple[str, Load, Callable[[Result], float], float | None, str], ...] = (
        ("", together, life, 0.2, "over one connection"),
        ("-wall", together, wall, 0.2, "over one connection, on the clock"),
        ("-each", each, life, None, "each with a connection of its own"),
    )
    for name, load, per, limit, how in table:
        prepare = partial(versus, subject=Side("daemon", load), rival=Side("ox", load), per=per)
        yield Bar(f"starts-300{name}", f"{text}, {how}", limit, "x ox", prepare, ("ox",))


def _guests(busy: int, load: Load, *, domains: int = 0, kind: Kind = "daemon") -> Side:
    """`busy` of `domains` guests (all of them) over their rings."""
    return Side(kind, replace(load, connections=busy, rings=True), Situation(domains=domains or busy))


def _rings() -> Iterator[Bar]:
    for idle in (4_000, 8_000):
        for workload in ("read", "write"):
            load = Load(workload)
            prepare = partial(versus, subject=_guests(1, load, domains=1 + idle), rival=_guests(1, load))
            text = f"{workload.upper()} of one guest beside {idle:,} idle ones, one CPU"
            yield Bar(f"ring-beside{idle}-{workload}", text, 1.05, "x alone", prepare)
    for workload, text in (("introduce", "INTRODUCE"), ("die", "a domain's death")):
        load = Load(workload, requests=200, warmup=0)
        many, few = _guests(1, load, domains=8_001), _guests(1, load, domains=100)
        yield Bar(f"ring-{workload}", f"{text} at 8,000 domains", 150, "µs", partial(single, side=many))
        prepare = partial(versus, subject=many, rival=few)
        yield Bar(f"ring-{workload}-flat", f"{text} at 8,000 domains against 100", 1.1, "x 100", prepare)
    text = "a domain's death, 8,000 at once against 100"
    yield Bar("ring-die-all", text, 1.5, "x 100", partial(deaths, many=8_000, few=100), most=5)
    table: tuple[tuple[str, int, int, int, float, float, str], ...] = (
        # name, guests, C's guests, depth, limit of READ, limit of WRITE, text
        ("busy10", 10, 10, 1, 0.55, 0.5, "10 busy guests"),
        ("burst", 10, 10, 8, 0.35, 0.35, "10 busy guests, 8 in flight"),
        ("busy1000", 1_000, 1_000, 1, 0.5, 0.02, "1,000 busy guests"),
        ("busy4000", 4_000, 10, 1, 0.8, 0.6, "4,000 busy guests, C with 10"),
    )
    for name, busy, others, depth, reads, writes, text in table:
        for workload, limit in (("read", reads), ("write", writes)):
            load = Load(workload, depth=depth)
            # one more for the 4,000: the daemon of ring-beside4000
            subject = _guests(busy, load, domains=4_001 if busy == 4_000 else busy)
            prepare = partial(versus, subject=subject, rival=_guests(others, load, kind="c"))
            yield Bar(f"ring-{name}-{workload}", f"{workload.upper()} of {text}", limit, "x c", prepare, ("c",))
    side = _guests(4_000, Load("read", requests=1_600_000, seconds=30.0), domains=4_001)
    text = "4,000 busy guests: the fastest against the slowest"
    yield Bar("ring-fair", text, 1.2, "x slowest", partial(fairness, side=side), most=3)
    whole = partial(lives, situation=Situation(domains=1_000), at_once=10, each=10)
    text = "whole lives of domains, ten at once, beside 1,000 idle ones"
    yield Bar("ring-lives", text, 600, "µs", whole)
    yield Bar("ring-lives-aborts", f"{text}: aborts", 0, "aborts", partial(whole, aborts=True))
    asleep = partial(rest, side=_guests(1, Load("rest"), domains=4_001))
    yield Bar("ring-rest", "4,000 idle guests: the daemon goes to sleep again", 0, "a minute", asleep, most=1)


def _scale() -> Iterator[Bar]:
    situation, text = Situation(domains=10_000, idle=4_000), "beside 10,000 domains and 4,000 idle connections"
    for name, rings, empty in (("socket", False, EMPTY), ("ring", True, Situation(domains=1))):
        load = Load("read", rings=rings)
        prepare = partial(versus, subject=Side("daemon", load, situation), rival=Side("daemon", load, empty))
        yield Bar(f"scale-{name}", f"READ over one {name} {text}", 1.1, "x empty", prepare)


def _durable() -> Iterator[Bar]:
    shapes: tuple[tuple[str, Load, Situation, str], ...] = (
        ("depth1", Load(""), EMPTY, "one connection"),
        ("crowd", Load("", CROWD), EMPTY, f"{CROWD} connections"),
        ("rings", Load("", CROWD, rings=True), Situation(domains=CROWD), f"{CROWD} guests"),
    )
    for workload, limit in (("read", 1.05), ("write", None)):
        for name, load, situation, text in shapes:
            load = replace(load, workload=workload)
            subject, rival = (Side(kind, load, situation) for kind in ("daemon", "fastxs-none"))
            prepare = partial(versus, subject=subject, rival=rival)
            text = f"{workload.upper()}, {text}, against a daemon that a crash takes all from"
            yield Bar(f"durable-{workload}-{name}", text, limit, "x none", prepare, ("fastxs-none",))
    store = "1,000,000 nodes, 1,000 domains and 20,000 watches"
    whole = partial(recovery, watches=20_000)
    yield Bar("durable-recovery", f"a start after kill -9, {store}", 1.5, "s", whole, most=5)
    yield Bar("durable-update", f"a live update, {store}", 1.5, "s", partial(live_update, watches=20_000), most=5)
    fresh = partial(image_bytes, nodes=1_000_000)
    text = "the image's bytes per node, 16-byte value"
    yield Bar("durable-bytes", text, 110, "B", fresh, most=1)
    churn = partial(fresh, churn=True)
    yield Bar("durable-bytes-churn", f"{text}, each written twice more, at random", 200, "B", churn, most=1)


def _memory() -> Iterator[Bar]:
    """By itself; what the image takes is in files (`durable-bytes`), and is shown with it."""
    per_node, per_watch = partial(memory_per_node, nodes=1_000_000), partial(memory_per_watch, watches=100_000)
    for name, text, measure in (("node", "a node, 16-byte value", per_node), ("watch", "a watch", per_watch)):
        alone = partial(measure, kind="fastxs-none")
        yield Bar(f"memory-{name}", f"memory of {text}", 130, "B", alone, ("fastxs-none",), most=3)
        yield Bar(
            f"memory-{name}-image", f"memory of {text}, its record in the image included", None, "B", measure, most=3
        )


BARS: tuple[Bar, ...] = (
    *_against_rivals(),
    *_flat(),
    *_tails(),
    *_transactions(),
    *_parallel(),
    *_rings(),
    *_scale(),
    *_durable(),
    Bar(
        "memory-domain",
        "memory per idle domain, its ring's 4,096 included",
        None,
        "B",
        partial(memory_per_domain, domains=10_000),
        most=3,
    ),
    *_memory(),
)


# --------------------------------------------------------------------------------------------------------- the command

ROW = "{:<21} {:>8} {:<17} {:<13} {:<8} {:<15} {}"


def select(patterns: Sequence[str]) -> list[Bar]:
    """The bars whose name begins like one of the patterns (`*` and `?` allowed); all of them without patterns."""
    return [bar for bar in BARS if not patterns or any(fnmatch.fnmatch(bar.name, f"{p}*") for p in patterns)]


def measure(bar: Bar, stage: Stage, pairs: int) -> Outcome:
    """Measure one bar; a daemon that cannot run or fails is an outcome, not an exception."""
    for kind in ("daemon", *bar.rivals):
        if reason := stage.why_not(kind):
            return Outcome(bar, None, reason)
    try:
        once = bar.prepare(stage)
        return Outcome(bar, summarise([once() for _ in range(min(pairs, bar.most or pairs))]))
    except (LoadError, host.HostError) as e:
        stage.forget()
        return Outcome(bar, None, str(e))


def line(outcome: Outcome) -> str:
    """One row of the table."""
    bar, figure = outcome.bar, outcome.figure
    limit = "" if bar.limit is None else f"<= {bar.limit:g}"
    if figure is None:
        return ROW.format(bar.name, "", "", bar.unit, limit, outcome.verdict, f"{bar.text}: {outcome.reason}")
    against = "" if figure.rival_us is None else f" against {short(figure.rival_us)}"
    spread = f"[{short(figure.low)}, {short(figure.high)}]"
    what = f"{bar.text} ({short(figure.cpu_us)}{against} µs; {len(figure.readings)} rounds)"
    return ROW.format(bar.name, short(figure.value), spread, bar.unit, limit, outcome.verdict, what)


def _machine() -> dict[str, object]:
    model = [entry for entry in Path("/proc/cpuinfo").read_text().splitlines() if entry.startswith("model name")]
    return {
        "cpu": model[0].partition(": ")[2] if model else platform.machine(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "load_average": os.getloadavg(),
    }


def _finite(value: Any) -> Any:
    """JSON has no infinity: without a single commit there is no cost of one."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(outcomes: Iterable[Outcome], options: argparse.Namespace, machine: dict[str, object]) -> str:
    """All outcomes with every reading, for another program."""
    rows = []
    for outcome in outcomes:
        bar, figure = outcome.bar, outcome.figure
        row: dict[str, object] = {key: getattr(bar, key) for key in ("name", "text", "limit", "unit")}
        row |= {"met": outcome.met, "reason": outcome.reason}
        if figure is not None:
            row |= _finite(asdict(figure))
        rows.append(row)
    settings = {"daemon": options.daemon, "pairs": options.pairs, "seconds": options.seconds, "scale": options.scale}
    return json.dumps({"machine": machine, **settings, "bars": rows}, indent=1, ensure_ascii=False) + "\n"


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.bars", description="Check the speed bars.")
    parser.epilog = "bench/README.md tells what is measured and how."
    option = parser.add_argument
    option("--pairs", type=int, help="interleaved pairs (10; --quick: 3)")
    option("--seconds", type=float, help="duration of one run (0.3; --quick: 0.1)")
    option("--quick", action="store_true", help="few short pairs: for a look, not for a claim")
    option(
        "--only", action="append", default=[], metavar="NAME", help="bars whose name begins with NAME (or matches it)"
    )
    option("--daemon", choices=host.KINDS, default="fastxs", help="whom to judge (fastxs)")
    option("--scale", type=float, default=1.0, help="size of the situations; 0.01: 40 connections, 10,000 nodes (1)")
    option("--json", type=Path, metavar="FILE", help="write everything that was read to FILE")
    option("--list", action="store_true", help="name the bars and stop")
    options = parser.parse_args(words)
    options.pairs = options.pairs or (3 if options.quick else 10)
    options.seconds = options.seconds or (0.1 if options.quick else 0.3)
    if options.pairs < 1 or options.seconds <= 0 or not 0 < options.scale <= 1:
        parser.error("--pairs and --seconds are positive, --scale is above 0 and at most 1")
    if not select(options.only):
        parser.error(f"no bar is called {' or '.join(options.only)} (--list names them)")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Run the bars that the command line asks for; the exit status."""
    options = _options(words)
    bars = select(options.only)
    if options.list:
        for bar in bars:
            print(f"{bar.name:<21} {'' if bar.limit is None else f'<= {bar.limit:g}':<8} {bar.unit:<13} {bar.text}")
        return 0
    outcomes, machine = [], _machine()
    if options.scale != 1:
        print(f"Situations are {options.scale:g} of what the texts say.")
    if (coverage := interval(range(options.pairs))[2]) < CONFIDENCE:
        print(f"{options.pairs} pairs: each interval is from the lowest to the highest and covers {coverage:.0%} only.")
    print(ROW.format("bar", "figure", "95 % interval", "unit", "limit", "", "what (CPU of the daemon per request)"))
    with Stage(options.daemon, scale=options.scale, seconds=options.seconds) as stage:
        for bar in bars:
            outcomes.append(measure(bar, stage, options.pairs))
            print(line(outcomes[-1]), flush=True)
    if options.json:
        options.json.write_text(to_json(outcomes, options, machine))
    missed = [outcome.bar.name for outcome in outcomes if not outcome.met]
    print(f"{len(outcomes) - len(missed)} of {len(outcomes)} met" + (f"; not: {', '.join(missed)}" if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
