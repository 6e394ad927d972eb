"""How a bar is measured: pairs of two sides, runs of one, growth, whole lives.

Owns what one reading of each kind of bar is.  Refuses to know limits and names (bars.py), and how daemons are started
and loaded (fastxs.bench.harness).

A pair is one run against the subject and one against its rival, right after each other, so that what else the machine
does meets both; every second pair runs the other way round, so that a drift cancels out.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace

from fastxs.bench.figures import Once, Reading
from fastxs.bench.harness import SETTLE_S, Play, Result, Side, Situation, Stage, commits, requests
from fastxs.hypervisor import host

__all__ = [
    "deaths",
    "fairness",
    "lives",
    "lockstep",
    "memory_per_domain",
    "memory_per_node",
    "memory_per_watch",
    "rest",
    "single",
    "versus",
]


def versus(
    stage: Stage, subject: Side, rival: Side, *, per: Callable[[Result], float] = requests, difference: bool = False
) -> Once:
    """Pairs of the two sides: subject / rival, or subject - rival in µs."""
    stage.measure(subject), stage.measure(rival)  # start both, fill both, warm both
    turn = 0

    def once() -> Reading:
        nonlocal turn
        turn += 1
        order = (subject, rival) if turn % 2 else (rival, subject)
        cost = {side: per(stage.measure(side)) for side in order}
        mine, other = cost[subject], cost[rival]
        return Reading(mine - other if difference else mine / other, mine, other)

    return once


def lockstep(stage: Stage, side: Side, value: Callable[[Result], float]) -> Once:
    """Runs of clients in lock-step; `value` picks what counts: `commits`, or the number of aborts."""

    def once() -> Reading:
        result = stage.measure(side)
        return Reading(value(result), commits(result))

    return once


def memory_per_node(stage: Stage, nodes: int) -> Once:
    """Growth of the resident set of a new daemon over `nodes` nodes with a 16-byte value, bytes per node."""
    count = max(100, round(nodes * stage.scale))

    def once() -> Reading:
        with stage.fresh("daemon") as server:
            result = stage.fill(server, "nodes", count)
        return Reading((result.rss_end - result.rss_open) / count, requests(result))

    return once


def single(stage: Stage, side: Side) -> Once:
    """Runs of one side by itself: CPU µs per request."""

    def once() -> Reading:
        cost = requests(stage.measure(side))
        return Reading(cost, cost)

    return once


def fairness(stage: Stage, side: Side) -> Once:
    """Runs of many at once: what the fastest got done over what the slowest got done."""

    def once() -> Reading:
        result = stage.measure(side)
        return Reading(result.most / result.fewest if result.fewest else math.inf, requests(result))

    return once


def rest(stage: Stage, side: Side) -> Once:
    """Nobody says anything: how often the daemon goes to sleep again, each minute."""
    # 200: a minute, if runs take the 0.3 s that they take unless told
    asleep = replace(side, load=replace(side.load, seconds=200 * stage.seconds))

    def once() -> Reading:
        result = stage.measure(asleep)
        return Reading(result.switches * 60 / result.wall_s, result.cpu_ns / 1e3)

    return once


def lives(stage: Stage, situation: Situation, at_once: int, each: int, *, aborts: bool = False) -> Once:
    """Whole lives of domains, as a toolstack and a guest play them: CPU µs per life, or transactions done again."""

    def once() -> Reading:
        played = stage.play("daemon", Play("boot", at_once, each), situation)
        per_life = played.cpu_ns / 1e3 / played.rounds
        return Reading(played.eagain if aborts else per_life, per_life)

    return once


def deaths(stage: Stage, many: int, few: int) -> Once:
    """All domains of a host are destroyed at once: CPU per death, of `many` against `few`."""

    def cost(domains: int) -> float:
        with stage.fresh("daemon") as server:
            assert isinstance(server, host.Host)
            guests = stage.populate(server, domains)
            time.sleep(SETTLE_S)
            before = now = server.cpu_ns()
            guests.close()
            last = -1
            while last != now:
                last = now
                time.sleep(SETTLE_S)
                now = server.cpu_ns()
        return (now - before) / 1e3 / domains

    def once() -> Reading:
        mine, other = (cost(Situation(domains=n).scaled(stage.scale).domains) for n in (many, few))
        return Reading(mine / other, mine, other)

    return once


def memory_per_domain(stage: Stage, domains: int) -> Once:
    """Growth of the resident set of a new daemon over `domains` introductions, bytes per domain."""

    def once() -> Reading:
        with stage.fresh("daemon") as server:
            hold = stage.populate(server, round(domains * stage.scale))
            hold.close()
        return Reading((hold.result.rss_end - hold.result.rss_open) / hold.result.requests, requests(hold.result))

    return once


def memory_per_watch(stage: Stage, watches: int) -> Once:
    """Growth over `watches` watches on connections that were there before, bytes per watch."""

    def once() -> Reading:
        with stage.fresh("daemon") as server:
            hold = stage.watch(server, round(watches * stage.scale))
            hold.close()
        return Reading((hold.result.rss_end - hold.result.rss_open) / hold.result.requests, requests(hold.result))

    return once
