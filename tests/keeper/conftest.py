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
ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 20
VOICES = ("fastxs", "libsystemd")


def until(condition: Callable[[], object]) -> None:
    """Wait for something that happens soon; fails if it does not."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


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
        self.env["PYTHONPATH"] = str(ROOT)
        self.log = folder / "log"
        self.keepers: list[subprocess.Popen[bytes]] = []
        self.clients: list[Client] = []
        self.pids: set[int] = set()

    def command(self, *flags: object) -> list[str]:
        keeper = [sys.executable, "-m", "fastxs.cli.keeper", "-n", str(self.notify), *map(str, flags)]
        return [*keeper, "--", sys.executable, str(DAEMON), self.voice, str(self.folder)]

    def start(self, *flags: object, limit: int | None = None, **env: str) -> subprocess.Popen[bytes]:
        """In the foreground, until the daemon answers; with so many descriptors at most."""
        command = ["prlimit", f"--nofile={limit}"] if limit is not None else []
        with open(self.log, "ab") as log:
            keeper = subprocess.Popen(
                [*command, *self.command(*flags)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env | env,
                close_fds=False,
            )
        self.keepers.append(keeper)
        until(lambda: keeper.poll() is not None or self.socket.exists())
        client = self.client()
        self.pids.add(int(client.ask("who")))
        client.close()
        return keeper

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
        for keeper in self.keepers:
            # Its daemon first: nobody starts it again once the keeper is stopped.
            if keeper.poll() is None:
                keeper.send_signal(signal.SIGSTOP)
                children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()
                self.pids |= set(map(int, children))
                keeper.kill()
                keeper.wait()
        for pid in self.pids:
            with suppress(OSError):
                if str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(is_alive, self.pids)))


@pytest.fixture(params=VOICES)
def voice(request: pytest.FixtureRequest) -> str:
    """Who speaks for the daemon."""
    if request.param == "libsystemd":
        try:
            ctypes.CDLL("libsystemd.so.0")
        except OSError:
            pytest.skip("libsystemd.so.0 is not there")
    return str(request.param)


@pytest.fixture
def kept(voice: str) -> Iterator[Kept]:
    """Not yet started."""
    with tempfile.TemporaryDirectory(prefix="keeper.") as folder:
        kept = Kept(Path(folder), voice)
        try:
            yield kept
        finally:
            kept.clean()
