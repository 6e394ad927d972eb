"""Daemons on a stage: start them, put them into situations, load them, and say what the kernel says they used.

Owns pinning, situations (idle connections, guests, watches, many nodes), who is alive.  Refuses to know which scenarios
and bars there are, and what goes over sockets and rings.
"""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from fastxs.bench.daemons import DAEMONS, ECHO, Daemon, Echo, Kind, LoadError, Running, Server
from fastxs.bench.load import XSLOAD
from fastxs.bench.loads import EMPTY, Hold, Load, Play, Played, Result, Situation, drive
from fastxs.hypervisor import host, simxen

__all__ = ["SETTLE_S", "Side", "Stage"]

FILL_DEPTH: Final = 64
"""Requests in one burst while a store is filled."""
WATCHERS: Final = 100
"""Connections that hold the watches of a situation."""
SETTLE_S: Final = 0.01
"""A thread's CPU time is exact while it sleeps."""


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: which daemon, in which situation, loaded how."""

    kind: Kind
    load: Load
    situation: Situation = EMPTY


@contextlib.contextmanager
def _on(cpu: int) -> Iterator[None]:
    """Whoever is started in the block runs on this CPU."""
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, affinity)


class _Actor(NamedTuple):
    """A daemon in its situation, and how it goes off."""

    server: Server
    guests: Hold | None
    exits: contextlib.ExitStack


class Stage:
    """The daemons of one series of measurements: each is started when first asked for and kept until the end.

    `daemon` is the kind that the bars judge; `scale` shrinks every situation (1.0 is what the bars ask for); `seconds`
    is how long one run takes.  Daemons run on the first CPU this process may use.  A load of one connection runs on
    that CPU too: across two, a ping-pong measures how long an idle CPU takes to wake up.  Every other runs on the last.
    """

    def __init__(
        self,
        daemon: Kind = "fastxs",
        *,
        daemons: Mapping[Kind, Daemon | Running] = DAEMONS,
        scale: float = 1.0,
        seconds: float = 0.3,
    ) -> None:
        self.daemon, self.daemons = daemon, daemons
        self.scale, self.seconds = scale, seconds
        cpus = sorted(os.sched_getaffinity(0))
        self.server_cpu, self.client_cpu = cpus[0], cpus[-1]
        self._stack = contextlib.ExitStack()
        self._alive: dict[tuple[Kind, Situation], _Actor] = {}
        self._started = 0

    def __enter__(self) -> Self:
        # in memory, by a short name: it ends up in the address of a socket
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="xsbench.", dir=memory))
        self._folder = Path(folder)
        self._stack.callback(self.forget)  # before the folder goes
        # thousands of connections: the generator and the daemons inherit this limit
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def forget(self, kind: Kind | None = None) -> None:
        """Stop every daemon, or those of a kind; the next that is asked for starts anew.  For when one has failed."""
        for key in [key for key in self._alive if kind is None or key[0] == self._name(kind)]:
            self._alive.pop(key).exits.close()

    def _name(self, kind: Kind) -> Kind:
        return self.daemon if kind == "daemon" else kind

    def _daemon(self, kind: Kind) -> Daemon | Running:
        return self.daemons[self._name(kind)]

    def why_not(self, kind: Kind) -> str | None:
        """The reason why this kind cannot run here, or None."""
        if not XSLOAD.exists():
            return f"{XSLOAD.name} is not built (python -m fastxs.bench.load.build)"
        if kind == ECHO or isinstance(daemon := self._daemon(kind), Running):
            return None
        return host.available(daemon.kind, daemon.program)

    def _start(self, kind: Kind, folder: Path) -> Server:
        if kind == ECHO:
            return Echo(folder, cpu=self.server_cpu)
        daemon = self._daemon(kind)
        if isinstance(daemon, Running):
            return daemon
        return host.Host(
            daemon.kind,
            folder,
            args=daemon.args,
            cpu=self.server_cpu,
            program=daemon.program,
            access_log=daemon.access_log,
        ).start()

    @contextlib.contextmanager
    def fresh(self, kind: Kind) -> Iterator[Server]:
        """A daemon of its own, with nothing in it, for as long as the block lasts."""
        self._started += 1
        folder = self._folder / str(self._started)
        try:
            with contextlib.closing(self._start(kind, folder)) as server:
                yield server
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _actor(self, kind: Kind, situation: Situation) -> _Actor:
        key = self._name(kind), situation
        if key not in self._alive:
            with contextlib.ExitStack() as exits:
                server = exits.enter_context(self.fresh(kind))
                guests = self._furnish(exits, server, situation, echo=kind == ECHO)
                self._alive[key] = _Actor(server, guests, exits.pop_all())
        return self._alive[key]

    def server(self, kind: Kind, situation: Situation = EMPTY) -> Server:
        """The daemon of this kind in this situation (already scaled)."""
        return self._actor(kind, situation).server

    def guests(self, kind: Kind, situation: Situation) -> Hold:
        """The guests of this daemon, which has some."""
        guests = self._actor(kind, situation).guests
        assert guests
        return guests

    def _furnish(self, exits: contextlib.ExitStack, server: Server, situation: Situation, *, echo: bool) -> Hold | None:
        guests = None
        for at, nodes in (("nodes", situation.nodes), ("wide", situation.wide)):
            if nodes:
                self.fill(server, at, nodes)
        if situation.domains:
            guests = exits.enter_context(contextlib.closing(self.populate(server, situation.domains)))
        if situation.idle:
            exits.enter_context(contextlib.closing(self.idle(server, situation.idle, echo=echo)))
        if situation.watches:
            exits.enter_context(contextlib.closing(self.watch(server, situation.watches)))
        return guests

    def fill(self, server: Server, at: str, nodes: int) -> Result:
        """Make `nodes` nodes with a 16-byte value in the layout `at`."""
        return drive(server, Load("fill", depth=FILL_DEPTH, requests=nodes, at=at, warmup=0), self.client_cpu)

    def populate(self, server: Server, domains: int) -> Hold:
        """Introduce `domains` domains and play their guests."""
        return Hold(server, Load("", domains=domains, warmup=0), self.client_cpu)

    def idle(self, server: Server, connections: int, *, echo: bool = False) -> Hold:
        """Hold connections that say nothing."""
        return Hold(server, Load("hold", connections, warmup=0), self.client_cpu, echo=echo)

    def watch(self, server: Server, watches: int) -> Hold:
        """Hold `watches` watches on 100 connections."""
        return Hold(server, Load("hold", WATCHERS, watches=max(1, watches // WATCHERS), warmup=0), self.client_cpu)

    def measure(self, side: Side) -> Result:
        """One run of one side."""
        situation, load = side.situation.scaled(self.scale), side.load
        server = self.server(side.kind, situation)
        if not load.seconds:
            load = replace(load, seconds=self.seconds)
        cpu = self.server_cpu if load.connections == 1 else self.client_cpu
        if load.rings:
            busy = min(load.connections, situation.domains)
            return self.guests(side.kind, situation).drive(replace(load, connections=busy), cpu)
        of = {"nodes": situation.nodes, "wide": situation.wide}.get(load.at, 0)
        return drive(server, load, cpu, echo=side.kind == ECHO, of=of)

    def play(self, kind: Kind, play: Play, situation: Situation) -> Played:
        """One run of the guest simulator, beside the guests of the situation."""
        situation = situation.scaled(self.scale)
        server = self.server(kind, situation)
        assert isinstance(server, host.Host)
        options = {
            "--socket": server.socket,
            "--report": 1e6,
            "--workload": play.workload,
            "--first": situation.domains + 1,
            "--guests": play.guests,
            "--parallel": play.guests,
            **({"--rounds": play.rounds} if play.rounds else {"--seconds": play.seconds or self.seconds}),
        }
        command = [str(simxen.SIMGUEST), "--json", *(str(word) for option in options.items() for word in option)]
        time.sleep(SETTLE_S)
        before = server.cpu_ns()
        with _on(self.client_cpu):
            done = subprocess.run(command, env={**os.environ, **server.env}, capture_output=True, text=True)
        time.sleep(SETTLE_S)
        cpu_ns = server.cpu_ns() - before
        if done.returncode:
            raise LoadError(f"simguest: {done.stderr.strip()}")
        said = json.loads(done.stdout.splitlines()[-1])
        return Played(
            said["rounds"],
            said["requests"],
            said["errors"].get("EAGAIN", 0),
            cpu_ns,
            said["seconds"],
            said["p50_us"],
            said["p99_us"],
        )
