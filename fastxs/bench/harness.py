"""Daemons on a stage: start them, put them into situations, load them, and say what the kernel says they used.

Owns: which daemons there are, pinning, situations (idle connections, guests, watches, many nodes).  Refuses to know:
which scenarios and bars there are, how a daemon is started (fastxs.hypervisor.host), what goes over sockets and rings
(load/xsload.c, and simguest for whole lives of domains).
"""

import contextlib
import json
import math
import os
import resource
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self

from fastxs.bench.load import XSECHO, XSLOAD
from fastxs.client import Client
from fastxs.hypervisor import host, simxen

__all__ = [
    "DAEMONS",
    "ECHO",
    "EMPTY",
    "Daemon",
    "Echo",
    "Hold",
    "Kind",
    "Load",
    "LoadError",
    "Play",
    "Played",
    "Result",
    "Running",
    "Server",
    "Side",
    "Situation",
    "Stage",
    "commits",
    "drive",
    "requests",
    "rss_bytes",
]

FILL_DEPTH = 64
"""Requests in one burst while a store is filled."""
WATCHERS = 100
"""Connections that hold the watches of a situation."""
SETTLE_S = 0.01
"""A thread's CPU time is exact while it sleeps."""
FEW = 10
"""Of anything in a situation, which are not scaled down."""
PATIENCE_S = 300.0
"""For one run of the load generator, at most; C xenstored needs seconds for 4,000 connections."""

Kind = str
"""A name in the stage's table of daemons; or `daemon`, the one that is judged, whichever that is; or ECHO."""
ECHO: Final = "echo"


@dataclass(frozen=True)
class Daemon:
    """How one is started."""

    kind: host.Kind
    program: Path | None = None
    """another build of it"""
    args: tuple[str, ...] = ()
    access_log: bool = False
    """oxenstored's own log of every request"""


DAEMONS: Final[Mapping[Kind, Daemon]] = {
    "fastxs": Daemon("fastxs"),
    "c": Daemon("c"),
    "ox": Daemon("ox"),
    "fastxs-none": Daemon("fastxs", args=("--durability", "none")),
    "ox-log": Daemon("ox", access_log=True),
}


class LoadError(RuntimeError):
    """The load generator failed, or a reply was wrong; the message is what it said."""


class Server(Protocol):
    """What is measured: a process that listens on a socket.  `fastxs.hypervisor.host.Host` is one."""

    @property
    def socket(self) -> Path: ...
    @property
    def pid(self) -> int: ...
    @property
    def env(self) -> Mapping[str, str]: ...
    def close(self) -> None: ...


def rss_bytes(server: Server) -> int:
    """Its resident memory, pages shared with guests included."""
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * resource.getpagesize()


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


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: which daemon, in which situation, loaded how."""

    kind: Kind
    load: Load
    situation: Situation = EMPTY


def requests(result: Result) -> float:
    """CPU µs of the daemon per request."""
    return result.cpu_ns / 1e3 / result.requests if result.requests else math.inf


def commits(result: Result) -> float:
    """CPU µs of the daemon per transaction that was committed, everything that failed included."""
    return result.cpu_ns / 1e3 / result.commits if result.commits else math.inf


# ---------------------------------------------------------------------------------------------------------- processes


@contextlib.contextmanager
def _on(cpu: int) -> Iterator[None]:
    """Whoever is started in the block runs on this CPU."""
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, affinity)


LEFT: Final = ("/local/domain/0/bench", "/elsewhere")
"""What a harmless load makes: xsload's layout `bench`, and a node that everybody says hello to."""


class Running:
    """A daemon that runs already, at this socket.  LoadError: nobody serves it, or nobody tells who does."""

    def __init__(self, path: Path, pid: int | None = None) -> None:
        self.socket, self.env = path, dict[str, str]()
        try:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(path))
                listener, *_ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            self.pid: int = pid or listener
            Path(f"/proc/{self.pid}/schedstat").read_text()
        except OSError as e:
            raise LoadError(f"{path}: {e.strerror}") from None
        if self.pid <= 1:
            raise LoadError(f"{path}: it was opened by init, or in another container; which process serves it?")

    def close(self) -> None:
        """It stays, but nothing of what load left in it."""
        with Client(self.socket) as dom0:
            for path in LEFT:
                if dom0.exists(path):
                    dom0.delete(path)


class Echo:
    """The bare echo server, with the face of a Host."""

    def __init__(self, folder: Path, *, cpu: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.socket = folder / "socket"
        self.env: Mapping[str, str] = {}
        self._process = subprocess.Popen([XSECHO, self.socket], stdin=subprocess.DEVNULL)
        os.sched_setaffinity(self._process.pid, {cpu})
        deadline = time.monotonic() + 10
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise LoadError("the echo server did not start")
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


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
    switches = {"--lockstep": load.lockstep, "--bare": load.bare}
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
