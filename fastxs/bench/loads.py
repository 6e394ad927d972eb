"""What daemons are loaded with, what beside, and what comes of it: as data, and the programs that do it.

Owns the load generator's command line (load/xsload.c).  Refuses to know which daemon it is, and where they all run.
"""

import json
import math
import os
import select
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastxs.bench.daemons import LoadError, Server
from fastxs.bench.load import XSLOAD

__all__ = ["EMPTY", "Hold", "Load", "Play", "Played", "Result", "Situation", "commits", "drive", "requests"]

FEW = 10
"""Of anything in a situation, which are not scaled down."""
PATIENCE_S = 300.0
"""For one run of the load generator, at most; C xenstored needs seconds for 4,000 connections."""


@dataclass(frozen=True)
class Situation:
    """What a daemon has on its hands beside the traffic that is measured."""

    idle: int = 0
    """socket connections that say nothing"""
    domains: int = 0
    """guests, of which those say something that a load over rings makes busy"""
    watches: int = 0
    """watches on paths where nothing happens, on 100 connections"""
    nodes: int = 0
    """nodes, 100 in each directory"""
    wide: int = 0
    """children of one directory"""
    private: str = field(default="", kw_only=True)
    """whose daemon it is, if what is done there leaves it otherwise than it was"""

    def scaled(self, factor: float) -> "Situation":
        """Everything smaller, but a few stay a few."""

        def some(many: int) -> int:
            return max(round(many * factor), min(many, FEW))

        many = (self.idle, self.domains, self.watches, self.nodes, self.wide)
        return Situation(*map(some, many), private=self.private)


EMPTY = Situation()


@dataclass(frozen=True)
class Load:
    """One run of the load generator (xsload --help); `seconds` 0 is the stage's own duration."""

    workload: str
    connections: int = 1
    depth: int = 1
    requests: int = 0
    seconds: float = 0.0
    warmup: int = 2000
    at: str = "bench"
    keys: int = 500
    """0: as many as the layout has nodes"""
    watches: int = 0
    lockstep: bool = False
    bare: bool = False
    shared: bool = False
    """all clients on one connection"""
    rings: bool = False
    """by the guests of the situation; else over sockets"""
    domains: int = 0
    """guests that the generator plays from its start to its end"""


@dataclass(frozen=True)
class Result:
    """What the load generator reports (the keys of its JSON).  Bytes, ns and seconds as named."""

    workload: str
    connections: int
    depth: int
    requests: int
    errors: int
    first_error: str
    eagain: int
    commits: int
    scripts: int
    """whole ones: of a `life` four commits are one"""
    events: int
    wall_s: float
    cpu_ns: int
    client_cpu_ns: int
    p50_ns: int
    p99_ns: int
    p999_ns: int
    fewest: int
    most: int
    """requests of the slowest and of the fastest connection"""
    switches: int
    """how often a thread of the daemon went to sleep"""
    rss_start: int
    rss_open: int
    rss_end: int
    latency: tuple[tuple[int, int], ...]
    """ns where a bucket begins (3 % wide), how many; of what is timed: requests, unless the workload says otherwise"""


@dataclass(frozen=True)
class Play:
    """One run of the guest simulator (simguest --help): `guests` at once, in `rounds` or for `seconds`."""

    workload: str
    guests: int
    rounds: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Played:
    """What came of it."""

    rounds: int
    requests: int
    eagain: int
    cpu_ns: int
    """of the daemon; guests that come and go included"""
    wall_s: float
    p50_us: float
    p99_us: float


def requests(result: Result) -> float:
    """CPU µs of the daemon per request."""
    return result.cpu_ns / 1e3 / result.requests if result.requests else math.inf


def commits(result: Result) -> float:
    """CPU µs of the daemon per transaction that was committed, everything that failed included."""
    return result.cpu_ns / 1e3 / result.commits if result.commits else math.inf


def _options(load: Load, cpu: int, *, of: int = 0) -> list[str]:
    numbers: dict[str, Any] = {
        "--cpu": cpu,
        "--workload": load.workload,
        "--connections": load.connections,
        "--depth": load.depth,
        "--requests": load.requests,
        "--seconds": load.seconds,
        "--warmup": load.warmup,
        "--at": load.at,
        "--of": of,
        "--keys": min(load.keys, of) if load.keys and of else load.keys or of,
        "--watches": load.watches,
        "--domains": load.domains,
    }
    given = {name: value for name, value in numbers.items() if value or name == "--cpu"}
    switches = {"--lockstep": load.lockstep, "--bare": load.bare, "--shared": load.shared}
    return [
        *(str(word) for option in given.items() for word in option),
        *(name for name, on in switches.items() if on),
    ]


def _command(server: Server, load: Load, cpu: int, *, echo: bool = False, of: int = 0) -> list[str | Path]:
    command: list[str | Path] = [XSLOAD, "--socket", server.socket, "--pid", str(server.pid)]
    return [*command, *_options(load, cpu, of=of), *(["--echo"] if echo else [])]


def drive(server: Server, load: Load, cpu: int, *, echo: bool = False, of: int = 0) -> Result:
    """Run the load generator on `cpu` to its end.  LoadError: it failed, or a reply was wrong."""
    command = _command(server, load, cpu, echo=echo, of=of)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as e:
        raise LoadError(f"{load.workload}: not done after {PATIENCE_S:g} s") from e
    if done.returncode or not done.stdout:
        said = done.stderr.strip() or done.stdout.strip() or f"ended with {done.returncode}"
        raise LoadError(f"{load.workload}: {said}")
    return Result(**json.loads(done.stdout))


class Hold:
    """A load generator that stays until `close`: connections with their watches, or guests, which `drive` makes busy.

    `result` is about how they came.
    """

    def __init__(self, server: Server, load: Load, cpu: int, *, echo: bool = False) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            _command(server, load, cpu, echo=echo),
            env={**os.environ, **server.env},
            text=True,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )
        self.result = self._said()
        self.domains = load.domains
        """so many guests are there"""

    def drive(self, load: Load, cpu: int) -> Result:
        """One run by its guests.  LoadError: it failed, or a reply was wrong."""
        assert self._process.stdin
        self._process.stdin.write(" ".join(_options(load, cpu)) + "\n")
        self._process.stdin.flush()
        result = self._said()
        if load.workload == "arrive":
            self.domains += result.requests
        return result

    def _said(self) -> Result:
        assert self._process.stdout and self._process.stderr
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self._process.kill()
            said = self._process.stderr.read().strip()
            self.close()
            raise LoadError(f"hold: {said or 'not ready in time'}")
        result = Result(**json.loads(line))
        if result.errors:
            self.close()
            raise LoadError(result.first_error)
        return result

    def close(self) -> None:
        """End its standard input, and with that itself."""
        self._process.communicate(timeout=PATIENCE_S)
