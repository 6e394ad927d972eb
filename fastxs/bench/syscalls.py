"""How many system calls a daemon makes for a request: counted by perf, or by strace, in a run of its own.

Owns the two tools' command lines.  Refuses to know what is asked of the daemon.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

__all__ = ["CountError", "counted", "tool"]

PATIENCE_S: Final = 10.0


class CountError(RuntimeError):
    """Nothing here can count; the message says why."""


Counting = Callable[[], int]
"""Ends the counting; how many there were."""


def tool() -> str:
    """What counts here: the first that is allowed to.  CountError: none."""
    reasons = []
    for name, count in TOOLS.items():
        if not shutil.which(name):
            reasons.append(f"{name} is not installed")
            continue
        try:
            with _running(["sleep", "60"]) as target, count(target.pid):
                return name
        except CountError as error:
            reasons.append(str(error))
    raise CountError("; ".join(reasons))


@contextlib.contextmanager
def _perf(pid: int) -> Iterator[Counting]:
    """It begins when it is told to, and says so: nothing before is missed or counted."""
    told, tell = os.pipe()
    heard, hear = os.pipe()
    command = ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-D", "-1"]
    command += ["--control", f"fd:{told},{hear}", "-p", str(pid)]
    try:
        with _running(command, told, hear) as process:
            os.close(hear)
            hear = -1
            os.write(tell, b"enable\n")
            if not select.select([heard], [], [], PATIENCE_S)[0] or not os.read(heard, 16):
                raise CountError(f"perf: {_ended(process)}")
            yield lambda: int(_ended(process).splitlines()[-1].partition(",")[0])
    except (ValueError, IndexError) as error:
        raise CountError(f"perf: {error}") from None
    finally:
        for fd in (told, tell, heard, hear):
            if fd >= 0:
                os.close(fd)


@contextlib.contextmanager
def _strace(pid: int) -> Iterator[Counting]:
    with _running(["strace", "-c", "-f", "-qq", "-p", str(pid)]) as process:
        deadline = time.monotonic() + PATIENCE_S
        while "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise CountError(f"strace: {_ended(process)}")
            time.sleep(0.005)
        yield lambda: int(match[1]) if (match := re.search(r"(\d+)(?:\s+\d+)? total", _ended(process))) else 0


TOOLS: Final = {"perf": _perf, "strace": _strace}


@contextlib.contextmanager
def _running(command: list[str], *fds: int) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, pass_fds=fds)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _ended(process: subprocess.Popen[str]) -> str:
    """What it says at its end."""
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=PATIENCE_S)[1].strip()


def counted(name: str, pid: int, run: Callable[[int], object], requests: int) -> float:
    """System calls for a request: of a `run` of twice as many, less those of one, so that what comes before and after
    them does not count."""

    def calls(many: int) -> int:
        with TOOLS[name](pid) as end:
            run(many)
            return end()

    few = calls(requests)
    return (calls(2 * requests) - few) / requests
