"""How long fastxs keeps its thread from everybody else, in one piece: its own histogram, over the worst that we know.

Owns what that worst is.  Refuses to know how turns are timed (core/spans) and what is long.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Final

from fastxs.bench.daemons import Kind, LoadError
from fastxs.bench.loads import Load, drive
from fastxs.bench.stage import SETTLE_S, Stage
from fastxs.client import Client, XenStoreError
from fastxs.hypervisor.host import Host

__all__ = ["Turns", "settle", "turns"]

CLIENTS: Final = 100


@dataclass(frozen=True)
class Turns:
    """Pieces of turns, by the CPU time of each."""

    longest_ns: int
    histogram: tuple[tuple[int, int], ...]
    """first ns too long for a bucket, how many are in it"""


def settle(host: Host) -> int:
    """Wait until it does nothing more; its CPU time, ns."""
    last, now = -1, host.cpu_ns()
    while last != now:
        last = now
        time.sleep(SETTLE_S)
        now = host.cpu_ns()
    return now


def turns(stage: Stage, kind: Kind, nodes: int) -> Turns:
    """Of a new daemon that gets so many nodes, so that every table grows, then transactions of 100 clients in
    lock-step, and that removes all the nodes at once.  LoadError: it has no such histogram, or failed."""
    with stage.fresh(kind) as host:
        assert isinstance(host, Host)
        try:
            with Client(host.socket) as dom0:
                dom0.control("turns", "on")
                stage.fill(host, "nodes", nodes)
                drive(
                    host,
                    Load("transaction", CLIENTS, requests=3 * CLIENTS, warmup=0, lockstep=True),
                    stage.client_cpu,
                )
                dom0.delete("/tool/nodes")
                settle(host)
                said = dom0.control("turns").decode()
        except XenStoreError as error:
            raise LoadError(f"turns: {error}") from None
    buckets = tuple((int(ns), int(n)) for ns, n in re.findall(r"below +(\d+) ns: +(\d+)", said))
    longest = re.search(r"longest +(\d+) ns", said)
    if not longest:
        raise LoadError(f"turns: {said}")
    return Turns(int(longest[1]), buckets)
