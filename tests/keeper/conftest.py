"""A keeper over `daemon.py` in a folder of its own, and somebody who talks to that daemon."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

DAEMON = Path(__file__).with_name("daemon.py")
TIMEOUT_S = 20
VOICES = ("fastxs", "libsystemd")
every_voice = pytest.mark.parametrize("voice", VOICES, indirect=True)


def until(condition: Callable[[], object]) -> None:
    """Wait for something that happens soon; fails if it does not."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def state(pid: int) -> str:
    """R: it runs, S: it sleeps, Z: it is a zombie, ...; empty: there is no such process."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    return ""


def is_alive(pid: int) -> bool:
    """Whether the process is there (a zombie is not)."""
    return state(pid) not in ("", "Z")


def children(pid: int) -> set[int]:
    with suppress(OSError):
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return set()


def shared(pid: int, other: int) -> int:
    """How many sockets both processes hold: what one has handed to the other."""
    return len(sockets(pid) & sockets(other))


def sockets(pid: int) -> set[str]:
    """By inode; nothing of a process that is gone."""
    found = set()
    with suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                found.add(os.readlink(fd))
    return {link for link in found if link.startswith("socket:")}


class Client:
    """One who connected and never reconnects, as libxenstore."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(str(path))

    def say(self, line: str) -> None:
        self.socket.sendall(line.encode() + b"\n")

    def hear(self) -> str:
        """One line; empty: the daemon has closed us."""
        return self.socket.recv(4096).decode().rstrip("\n")

    def ask(self, line: str) -> str:
        self.say(line)
        return self.hear()

    def shut(self) -> None:
        """Say nothing any more, but listen."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()


class Kept:
    """A keeper and its daemon."""

    def __init__(self, folder: Path, voice: str) -> None:
        self.folder = folder
        self.voice = voice
        self.socket = folder / "socket"
        self.notify = folder / "notify"
        self.pid_file = folder / "pid"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("NOTIFY_", "LISTEN_", "WATCHDOG_"))}
        self.log = folder / "log"
        self.started: list[subprocess.Popen[bytes]] = []
        self.keepers: list[int] = []
        self.clients: list[Client] = []
        self.pids: set[int] = set()

    def keeper(self, *flags: object, patch: str = "") -> list[str]:
        """The arguments up to the daemon's; `patch` is done to the keeper's constants."""
        program = ["-m", "fastxs.cli.keeper"]
        if patch:
            patched = "import sys; from fastxs.cli.keeper import main; from fastxs.daemon import keeper"
            program = ["-c", f"{patched}; keeper.{patch}; sys.exit(main())"]
        return [sys.executable, *program, "-n", str(self.notify), *map(str, flags), "--"]

    def command(self, *flags: object, patch: str = "") -> list[str]:
        return [*self.keeper(*flags, patch=patch), sys.executable, str(DAEMON), self.voice, str(self.folder)]

    def start(self, *flags: object, limit: int | None = None, patch: str = "", **env: str) -> subprocess.Popen[bytes]:
        """In the foreground, until the daemon answers; with so many descriptors at most."""
        command = self.command(*flags, patch=patch)
        if limit is not None:
            command = ["prlimit", f"--nofile={limit}", *command]
        with open(self.log, "ab") as log:
            keeper = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env | env,
                close_fds=False,
            )
        self.keepers.append(keeper.pid)
        self.started.append(keeper)
        until(lambda: keeper.poll() is not None or self.socket.exists())
        client = self.client()
        self.pids.add(int(client.ask("who")))
        client.close()
        return keeper

    def run(self, *flags: object, command: list[str] | None = None) -> subprocess.CompletedProcess[str]:
        """Until the first process returns; a keeper that it left behind is stopped at the end of the test."""
        argv = self.command(*flags) if command is None else [*self.keeper(*flags), *command]
        # Files, not pipes: whoever kept our pipe open would be waited for here.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.env,
                cwd=self.folder,
                timeout=TIMEOUT_S,
                check=False,
            )
            out.seek(0), err.seek(0)
            with suppress(OSError, ValueError):
                self.keepers.append(int(self.pid_file.read_text()))
            return subprocess.CompletedProcess(argv, done.returncode, out.read(), err.read())

    def client(self) -> Client:
        client = Client(self.socket)
        self.clients.append(client)
        return client

    def said(self) -> str:
        """What keeper and daemon have written so far."""
        return self.log.read_text()

    def clean(self) -> None:
        for client in self.clients:
            client.close()
        for keeper in filter(self.is_ours, self.keepers):
            # Its daemon first: nobody starts another one while the keeper is stopped.
            os.kill(keeper, signal.SIGSTOP)
            self.pids |= children(keeper) | {keeper}
        for pid in filter(self.is_ours, self.pids):
            os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.wait()
        until(lambda: not any(map(is_alive, self.pids)))

    def is_ours(self, pid: int) -> bool:
        """Whether that process still is what we started: its arguments name our folder."""
        with suppress(OSError):
            return str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False


@pytest.fixture
def voice(request: pytest.FixtureRequest) -> str:
    """Who speaks for the daemon; `every_voice` asks for both."""
    name = str(getattr(request, "param", VOICES[0]))
    if name == "libsystemd":
        try:
            ctypes.CDLL("libsystemd.so.0")
        except OSError:
            pytest.skip("libsystemd.so.0 is not there")
    return name


@pytest.fixture
def kept(voice: str) -> Iterator[Kept]:
    """Not yet started."""
    with tempfile.TemporaryDirectory(prefix="keeper.") as folder:
        kept = Kept(Path(folder), voice)
        try:
            yield kept
        finally:
            kept.clean()
