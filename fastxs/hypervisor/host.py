"""Hosts in miniature: one pretend hypervisor and one XenStore daemon on it, for tests and benchmarks.

Owns how fastxs and Debian's C xenstored and oxenstored are started, watched and stopped.  Knows
nothing of what is asked of them, beyond one READ of `/` to learn that they answer.
"""

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, get_args

from fastxs.hypervisor import simxen

Kind = Literal["fastxs", "c", "ox"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

XEN_BIN: Final = Path("/usr/lib/xen-4.17/bin")
BINARIES: Final[Mapping[Kind, Path]] = {"c": XEN_BIN / "xenstored", "ox": XEN_BIN / "oxenstored"}
PROGRAMS: Final[Mapping[str, Kind]] = {"fastxsd": "fastxs", "oxenstored": "ox"}
OURS: Final = (sys.executable, "-m", "fastxs.cli.fastxsd")

QUOTAS: Final = ("-E", "100000", "-W", "100000", "-t", "1000", "-Q", "outstanding=1000", "-Q", "memory=0")
"""What load needs of fastxs and C xenstored: their own defaults would refuse it."""

READ_ROOT: Final = struct.pack("=IIII2s", 2, 0, 0, 2, b"/\0")
HEADER: Final = struct.Struct("=IIII")


class HostError(Exception):
    """A daemon that does not start, or that ended; the text holds what it wrote to stderr."""


def available(kind: Kind, program: Path | None = None) -> str | None:
    """Why this kind of daemon, or this program of its kind, cannot run here; None: it can."""
    if not simxen.LIBRARY.exists():
        return f"{simxen.LIBRARY.name} is not built (python -m fastxs.hypervisor.simxen.build)"
    if program is None and kind in BINARIES and not os.access(BINARIES[kind], os.X_OK):
        return f"{BINARIES[kind]} is missing (Debian package xen-utils-4.17)"
    if program is not None and not os.access(program, os.X_OK):
        return f"{program} cannot be run"
    if kind == "fastxs" and program is None and find_spec("fastxs._core") is None:
        return "fastxs._core is not built (python setup.py build_ext --inplace)"
    return None


def named(daemon: str | Path) -> tuple[Kind, Path | None]:
    """A kind of daemon by its own name, or a program of the kind that its file's name says (C, unless known).

    ValueError: it is neither.
    """
    for kind in KINDS:
        if daemon == kind:
            return kind, None
    program = Path(daemon).absolute()
    if not program.is_file() or not os.access(program, os.X_OK):
        raise ValueError(f"{str(daemon)!r} is neither one of {', '.join(KINDS)}, nor a program")
    return PROGRAMS.get(program.name, "c"), program


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process that live, in ns (the scheduler's own account).  OSError: it is gone."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except OSError:  # a thread that ended meanwhile
            continue
    return total


class Host:
    """A daemon on its own hypervisor, with all that it writes under `folder` (made if missing).

    `args` are added to the daemon's command line and `env` to its environment; `cpu` pins it to one
    CPU; `prefix` is put before the command (a tracer: then `pid` is the tracer's unless it execs).
    `default_quotas` leaves the daemon's own quotas alone, which load does not fit into.  `program` is
    another build of that kind of daemon.  `access_log`: oxenstored logs every request, as it does unless told.

    Use it as a context manager, or call `start` and, at the end, `close`.  A daemon that was started by
    the main thread ends with this process in any case; Ctrl-C is for this process alone.
    """

    def __init__(
        self,
        kind: Kind,
        folder: Path | str,
        *,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cpu: int | None = None,
        prefix: Sequence[str] = (),
        default_quotas: bool = False,
        program: Path | None = None,
        access_log: bool = False,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"no such kind of daemon: {kind!r}")
        self.kind: Final = kind
        self.folder: Final = Path(folder)
        self.rundir: Final = self.folder / "run"
        self.socket: Final = self.rundir / "socket"
        self.env: Final[dict[str, str]] = {
            "SIMXEN_DIR": str(self.folder / "hv"),
            "XENSTORED_RUNDIR": str(self.rundir),
            "XENSTORED_PATH": str(self.socket),
        }
        """What a guest program or a client needs in its environment; the daemon gets it, too."""
        self._args = tuple(args)
        self._more_env = dict(env or {})
        self._cpu = cpu
        self._prefix = tuple(prefix)
        self._default_quotas = default_quotas
        self._program = program
        self._access_log = access_log
        self._called = str(program or kind)
        self._process: subprocess.Popen[bytes] | None = None

    # -- life ---------------------------------------------------------------------------------

    def start(self, timeout_s: float = 10) -> Self:
        """Start the daemon and return when it answers.

        HostError: it does not, within `timeout_s`, or another one has its socket.
        """
        if self._process is not None:
            raise HostError(f"{self._called}: runs already, as {self._process.pid}")
        if reason := available(self.kind, self._program):
            raise HostError(f"{self._called}: {reason}")
        if len(os.fsencode(self.socket)) > 107:
            raise HostError(f"{self.socket}: too long for the name of a socket")
        if _is_served(self.socket):
            raise HostError(f"{self.socket}: somebody listens there")
        for folder in (self.rundir / "log", self.rundir / "run-xen"):
            folder.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)  # a dead daemon's
        command = [*_with_us(), *self._prefix, *self._command()]
        affinity = os.sched_getaffinity(0)
        with (self.folder / "stderr").open("wb") as stderr:
            try:
                if self._cpu is not None:  # a child is born where its parent's thread runs
                    os.sched_setaffinity(0, {self._cpu})
                self._process = subprocess.Popen(
                    command,
                    env={**os.environ, **self.env, **self._daemon_env(), **self._more_env},
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    start_new_session=True,
                )
            except OSError as error:
                raise HostError(f"{command[0]}: {error}") from error
            finally:
                os.sched_setaffinity(0, affinity)
        deadline = time.monotonic() + timeout_s
        try:
            while not self._answers(deadline):
                if self._process.poll() is not None:
                    raise HostError(f"{self._called}: ended with status {self._process.returncode}: {self.stderr()}")
                if time.monotonic() >= deadline:
                    raise HostError(f"{self._called}: no answer within {timeout_s:g} s: {self.stderr()}")
                time.sleep(0.005)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, timeout_s: float = 5) -> int:
        """End the daemon as init would (SIGTERM, then SIGKILL); its exit status, 0 if none ran.

        The hypervisor stays, and the guests with it: `start` brings a new daemon under them.
        """
        return self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> int:
        """As `stop`, but by SIGKILL."""
        return self._end(signal.SIGKILL, 5)

    def close(self) -> None:
        """Stop the daemon and remove the hypervisor's files.  Idempotent."""
        self.stop()
        shutil.rmtree(self.env["SIMXEN_DIR"], ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start() if self._process is None else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- looking at it ----------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of the process that was started.  HostError: none is running."""
        if self._process is None:
            raise HostError(f"{self._called}: is not running")
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """The status of a daemon that ended by itself; None: it runs, or none was started."""
        return self._process.poll() if self._process else None

    def ends(self, timeout_s: float) -> int | None:
        """The same, of one that may be about to end: its connections close a moment before the process is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process:
                self._process.wait(timeout_s)
        return self.ended

    def cpu_ns(self) -> int:
        """As the function does."""
        return cpu_ns(self.pid)

    def rss_bytes(self) -> int:
        """Its resident memory, pages shared with the guests included."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def stderr(self) -> str:
        """What the daemon wrote to stdout and stderr since it was started (the last 4 KiB)."""
        try:
            return (self.folder / "stderr").read_text(errors="replace")[-4096:].strip()
        except OSError:
            return ""

    # -- inside -----------------------------------------------------------------------------------

    def _command(self) -> list[str]:
        quotas = () if self._default_quotas else QUOTAS
        binary = self._program or BINARIES.get(self.kind)
        program = OURS if binary is None else (str(binary),)
        if self.kind == "fastxs":
            return [*program, "-N", "--sim", *quotas, *self._args]
        if self.kind == "c":
            return [*program, "-N", *quotas, *self._args]
        config = self.folder / "oxenstored.conf"
        config.write_text(self._ox_config())
        quiet = () if self._access_log else ("--no-access-log",)
        return [*program, "--no-fork", *quiet, "--config-file", str(config), *self._args]

    def _ox_config(self) -> str:
        settings: dict[str, object] = {
            "pid-file": self.rundir / "oxenstored.pid",
            "xenstored-log-file": self.rundir / "log" / "oxenstored.log",
            "xenstored-kva": self.env["SIMXEN_DIR"] + "/rings",
            "xenstored-port": self.env["SIMXEN_DIR"] + "/xsd_port",
            "access-log-file": self.rundir / "log" / "access.log",
            "quota-activate": "true",
        }
        if not self._default_quotas:
            settings |= {
                "quota-activate": "false",
                "quota-maxwatch": 100000,
                "quota-transaction": 1000,
                "quota-maxrequests": 100000,
                "quota-maxoutstanding": 100000,
                "quota-maxwatchevents": 100000,
            }
        return "".join(f"{name} = {value}\n" for name, value in settings.items())

    def _daemon_env(self) -> dict[str, str]:
        if self.kind == "fastxs":
            return {}
        return {"LD_PRELOAD": str(simxen.LIBRARY), "SIMXEN_RUNDIR": str(self.rundir)}

    def _answers(self, deadline: float) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                client.connect(str(self.socket))
                client.sendall(READ_ROOT)
                reply = b""
                while len(reply) < HEADER.size:
                    more = client.recv(4096)
                    if not more:
                        return False
                    reply += more
            except OSError:
                return False
        return True

    def _end(self, how: signal.Signals, timeout_s: float) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(how)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _is_served(path: Path) -> bool:
    """Whether a process listens there, be it too busy to answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
        except (BlockingIOError, TimeoutError):  # its queue is full
            return True
        except OSError:
            return False
    return True


def _with_us() -> list[str]:
    """A prefix that ends the daemon with this process, however that ends.

    The kernel means the thread that starts it, so only the main one, which lives as long, uses it.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return []
    return [setpriv, "--pdeathsig", "KILL", "--"]


def scratch() -> Path:
    """A new empty folder for a Host, in memory where there is /dev/shm; the caller removes it."""
    shm = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="fastxs-host.", dir=shm if os.access(shm, os.W_OK) else None))
