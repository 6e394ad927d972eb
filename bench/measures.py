"""How a bar is measured: pairs of two sides, runs of one, growth, whole lives.

Owns what one reading of each kind of bar is.  Refuses to know limits and names (bars.py), and how daemons are started
and loaded (fastxs.bench.stage).

A pair is one run against the subject and one against its rival, right after each other, so that what else the machine
does meets both; every second pair runs the other way round, so that a drift cancels out.
"""

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fastxs.bench.daemons import Kind, LoadError, Server
from fastxs.bench.figures import Once, Reading
from fastxs.bench.loads import Load, Play, Result, Situation, commits, drive, requests
from fastxs.bench.stage import SETTLE_S, Side, Stage
from fastxs.bench.turns import settle, turns
from fastxs.client import Client
from fastxs.hypervisor import host

__all__ = [
    "deaths",
    "fairness",
    "image_bytes",
    "live_update",
    "life",
    "lives",
    "lockstep",
    "memory_per_domain",
    "memory_per_node",
    "memory_per_watch",
    "recovery",
    "rest",
    "single",
    "tail",
    "turn",
    "wall",
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


def tail(result: Result) -> float:
    """µs in which 99.9 % of the requests were answered."""
    return result.p999_ns / 1e3


def life(result: Result) -> float:
    """CPU µs of the daemon per script, whatever had to be done again included."""
    return result.cpu_ns / 1e3 / result.scripts if result.scripts else math.inf


def wall(result: Result) -> float:
    """µs on the clock per script."""
    return result.wall_s * 1e6 / result.scripts if result.scripts else math.inf


def turn(stage: Stage, nodes: int) -> Once:
    """The longest piece of a turn, CPU µs, where tables grow, transactions commit and a large subtree goes."""

    def once() -> Reading:
        longest_us = turns(stage, "daemon", round(nodes * stage.scale)).longest_ns / 1e3
        return Reading(longest_us, longest_us)

    return once


def lockstep(stage: Stage, side: Side, value: Callable[[Result], float]) -> Once:
    """Runs of clients in lock-step; `value` picks what counts: `commits`, or the number of aborts."""

    def once() -> Reading:
        result = stage.measure(side)
        return Reading(value(result), commits(result))

    return once


def memory_per_node(stage: Stage, nodes: int, *, kind: Kind = "daemon") -> Once:
    """Growth of the resident set of a new daemon over `nodes` nodes with a 16-byte value, bytes per node."""
    count = max(100, round(nodes * stage.scale))

    def once() -> Reading:
        with stage.fresh(kind) as server:
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
            before = server.cpu_ns()
            guests.close()
            used = settle(server) - before
        return used / 1e3 / domains

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


def memory_per_watch(stage: Stage, watches: int, *, kind: Kind = "daemon") -> Once:
    """Growth over `watches` watches on connections that were there before, bytes per watch."""

    def once() -> Reading:
        with stage.fresh(kind) as server:
            hold = stage.watch(server, round(watches * stage.scale))
            hold.close()
        return Reading((hold.result.rss_end - hold.result.rss_open) / hold.result.requests, requests(hold.result))

    return once


PROGRAM = f"""#!{sys.executable}
import sys
from fastxs.cli.fastxsd import main
sys.exit(main())
"""
"""fastxsd, as an installed command."""

PATIENCE_S = 120.0
"""For a daemon that comes back with a large store."""

DOMAINS_AND_NODES = Situation(domains=1_000, nodes=1_000_000, private="durable")


def recovery(stage: Stage, watches: int, situation: Situation = DOMAINS_AND_NODES) -> Once:
    """`kill -9` and a new start: CPU from its exec to the first answer, what it forks included."""

    def once() -> Reading:
        server = _ours(stage.server("daemon", situation.scaled(stage.scale)))
        hold = stage.watch(server, round(watches * stage.scale))  # they ended with the last life
        server.kill()
        cpu_s = _cpu_s(server.start(PATIENCE_S))
        hold.close()
        return Reading(cpu_s, cpu_s * 1e6)

    return once


def live_update(stage: Stage, watches: int, situation: Situation = DOMAINS_AND_NODES) -> Once:
    """It becomes the program that it is: CPU of its process until it says OK, while nobody is served for most of it."""

    def once() -> Reading:
        server = _ours(stage.server("daemon", situation.scaled(stage.scale)))
        program = server.folder / "fastxsd"
        program.write_text(PROGRAM)
        program.chmod(0o755)
        hold = stage.watch(server, round(watches * stage.scale))
        with Client(server.socket) as client:
            client.control("live-update", "-f", str(program))
            time.sleep(SETTLE_S)
            before = server.cpu_ns()
            answer = client.control("live-update", "-s")
        cpu_s = (server.cpu_ns() - before) / 1e9
        hold.close()
        if answer != b"OK":
            raise LoadError(f"live-update: {answer.decode()}")
        return Reading(cpu_s, cpu_s * 1e6)

    return once


def image_bytes(stage: Stage, nodes: int, *, churn: bool = False) -> Once:
    """What the image's file takes for a node with a 16-byte value; `churn`: after each was written twice, at random."""
    count = max(100, round(nodes * stage.scale))

    def once() -> Reading:
        with stage.fresh("daemon") as server:
            store = _ours(server).rundir / "socket.image" / "store"
            empty = store.stat().st_blocks
            result = stage.fill(server, "nodes", count)
            if churn:
                again = Load("write", 100, requests=2 * count, seconds=PATIENCE_S, at="nodes", keys=0)
                result = drive(server, again, stage.client_cpu, of=count)
            size = (store.stat().st_blocks - empty) * 512
        return Reading(size / count, requests(result))

    return once


def _ours(server: Server) -> host.Host:
    """LoadError: it has no image."""
    if not isinstance(server, host.Host) or server.kind != "fastxs":
        raise LoadError("only fastxsd outlives itself")
    return server


def _cpu_s(server: host.Host) -> float:
    """Of all its life, and of the children that it waited for."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    children = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return server.cpu_ns() / 1e9 + children
