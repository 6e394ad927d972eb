"""What a test may leave behind: no child process, no descriptor, nothing in /dev/shm.

Owns looking and comparing.  Refuses to know why something was left; only `Before.kill_children` and `end_all` touch
anything.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

SHM: Final = "/dev/shm/"
_made: set[str] = set()
_LAZY: Final = ("/dev/urandom", "/dev/random", "anon_inode:[eventpoll]")
"""Descriptors that libraries open once, when first needed, for as long as the process lives."""


def _hear(event: str, args: tuple[object, ...]) -> None:
    # Audit events, not a listing: other processes use /dev/shm at the same time.
    if event == "os.mkdir" or (event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT):
        path = args[0]
        if isinstance(path, (str, bytes)):
            name = os.fsdecode(path)
            if name.startswith(SHM):
                _made.add(SHM + name[len(SHM) :].split("/", 1)[0])


sys.addaudithook(_hear)


def children() -> set[int]:
    """Process ids of this process's children, zombies included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found.update(map(int, (task / "children").read_text().split()))
    return found


def descriptors() -> dict[int, str]:
    """Open descriptors and what they lead to."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def shared_memory() -> set[str]:
    """What this process made in /dev/shm, in Python, and what is still there."""
    return {name for name in _made if os.path.lexists(name)}


class Before:
    """The state before a test; `left` tells what is new."""

    def __init__(self) -> None:
        self.children = children()
        self.descriptors = set(descriptors().items())
        self.shared_memory = shared_memory()

    def left(self) -> list[str]:
        """Whatever was not there before, in words; empty is well."""
        found = self._look()
        if found:
            gc.collect()
            found = self._look()
        return found

    def _look(self) -> list[str]:
        found = [f"child process {pid}: {_command(pid)}" for pid in sorted(children() - self.children)]
        new = sorted(set(descriptors().items()) - self.descriptors)
        found += [f"descriptor {fd}: {what}" for fd, what in new if what not in _LAZY and fd > 2]
        return found + [f"shared memory {name}" for name in sorted(shared_memory() - self.shared_memory)]

    def kill_children(self) -> None:
        """End the children that were left, so that one leak does not become many."""
        for pid in children() - self.children:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _command(pid: int) -> str:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b" ".join(words).decode(errors="replace").strip() or "a zombie"
    return "gone meanwhile"


def end_all(name: str, value: str) -> None:
    """Kill all who have this in their environment: daemons in the background, what became of them, and whom their
    keepers start meanwhile."""
    mark = f"{name}={value}".encode()
    while found := [pid for pid in os.listdir("/proc") if pid.isdecimal() and mark in _environment(pid)]:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def _environment(pid: str) -> list[bytes]:
    """Nothing of a zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []
