"""Starting `fastxsd` as its administrator does, over a stand-in for the core (and over the core where it is built)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.wire import Op, Peer

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(__file__).parent / "fake"
FASTXSD = (sys.executable, "-m", "fastxs.cli.fastxsd", "--durability", "none")
"""What outlives a daemon is tests/crash's business."""
TIMEOUT_S = 20


class Fastxsd:
    """Runs of `python -m fastxs.cli.fastxsd` that share one run directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "socket"
        self.pid_file = folder / "pid"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("XENSTORED_", "NOTIFY_"))}
        self.env |= {"PYTHONPATH": f"{FAKE}:{ROOT}", "XENSTORED_RUNDIR": str(folder)}
        self.started: list[subprocess.Popen[str]] = []
        self.daemons: list[int] = []

    def run(self, *flags: object, **env: str) -> subprocess.CompletedProcess[str]:
        """Run until the first process returns; a daemon that it left behind is stopped at the end of the test."""
        # Files, not pipes: a daemon that kept our pipe open would be waited for here.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            done = subprocess.run(
                [*FASTXSD, *map(str, flags)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.env | env,
                cwd=self.folder,
                timeout=TIMEOUT_S,
                check=False,
            )
            out.seek(0), err.seek(0)
            with suppress(OSError, ValueError):
                self.daemons.append(int(self.pid_file.read_text()))
            return subprocess.CompletedProcess(done.args, done.returncode, out.read(), err.read())

    def start(self, *flags: object, **env: str) -> subprocess.Popen[str]:
        """Start in the foreground (`-N`) and wait until it answers."""
        process = self.spawn(*flags, **env)
        self.until(lambda: process.poll() is not None or self.answers())
        assert process.poll() is None, process.communicate()
        return process

    def spawn(self, *flags: object, front: Sequence[str] = ("-N",), **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*FASTXSD, *front, *map(str, flags)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env | env,
            cwd=self.folder,
            text=True,
        )
        self.started.append(process)
        return process

    def stop(self, process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str]:
        """Signal it; its exit status and what it said on standard error."""
        process.send_signal(number)
        _, err = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, err

    def answers(self) -> bool:
        try:
            peer = Peer(self.socket)
        except OSError:
            return False
        try:
            return peer.call(Op.READ, b"/\0").op == Op.READ
        finally:
            peer.close()

    @staticmethod
    def until(condition: Callable[[], bool]) -> None:
        """Wait for something that happens soon; fails if it does not."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)

    @staticmethod
    def children(pid: int) -> set[int]:
        with suppress(OSError):
            return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
        return set()

    @staticmethod
    def is_alive(pid: int) -> bool:
        """Whether the process runs (a zombie, whose parent has yet to look, does not)."""
        with suppress(OSError):
            return re.search(r"\) [^Z]", Path(f"/proc/{pid}/stat").read_text()) is not None
        return False

    def clean(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        kept: set[int] = set()
        for keeper in filter(self.is_ours, self.daemons):
            # Stopped first: keeper and daemon would start each other again.
            os.kill(keeper, signal.SIGSTOP)
            kept |= {keeper, *self.children(keeper)}
        for pid in kept:
            os.kill(pid, signal.SIGKILL)
        self.until(lambda: not any(map(self.is_alive, kept)))

    def is_ours(self, pid: int) -> bool:
        """Whether that process still is what we started in the background: its arguments name our folder."""
        with suppress(OSError):
            return os.fsencode(self.folder) in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False


@contextmanager
def fastxsd_in_a_folder() -> Iterator[Fastxsd]:
    """A directory of its own (short: a socket's path has 107 bytes), and nothing left at the end."""
    with tempfile.TemporaryDirectory(prefix="fastxsd.") as folder:
        runner = Fastxsd(Path(folder))
        try:
            yield runner
        finally:
            runner.clean()


@pytest.fixture
def fastxsd() -> Iterator[Fastxsd]:
    """The daemon over the stand-in core."""
    with fastxsd_in_a_folder() as runner:
        yield runner
