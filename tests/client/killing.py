"""Killing one thread where it waits, as pthread_cancel does: no exception, no `finally`, what it holds stays held.

Owns how to tell that a thread waits, and how to end it there.  As a program, `python -m tests.client.killing LIBRARY`
with `libxenstore` or `fastxs`, it is one script for both: a thread waits for a watch's event and is killed, and then
the process goes on with its work, which it says on stdout, step by step.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import pytest

WAIT_S: Final = 20
FUTEX: Final = {"x86_64": "202", "aarch64": "98"}.get(os.uname().machine)
"""The system call's number, as /proc shows it."""


def soon(is_so: Callable[[], object], what: str) -> None:
    """Wait for it, but not for ever."""
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.0002)


def sleeps_without_a_limit(native_id: int) -> bool:
    """It is inside futex(2) with no timeout, and so not waiting for the interpreter's lock, which has one."""
    words = Path(f"/proc/self/task/{native_id}/syscall").read_text().split()
    return words[0] == FUTEX and words[4] == "0x0"


def kill(thread: threading.Thread) -> None:
    """End it where it waits."""
    native_id = thread.native_id
    assert native_id is not None
    soon(lambda: sleeps_without_a_limit(native_id), "the thread does not wait")
    ctypes.CDLL(None).pthread_cancel(ctypes.c_ulong(thread.ident or 0))
    soon(lambda: not Path(f"/proc/self/task/{native_id}").exists(), "the thread lives")
    threading._active.pop(thread.ident, None)  # type: ignore[attr-defined]  # Python has not seen its end


def skip_if_impossible() -> None:
    """Skip the test where a killed thread would say nothing about the client."""
    if FUTEX is None:
        pytest.skip(f"the number of futex(2) on {os.uname().machine} is not known here")
    if sys.version_info >= (3, 14):
        pytest.skip("CPython 3.14's own locks keep a record on the stack of the thread that waits")
    try:
        Path("/proc/self/syscall").read_text()
    except OSError as error:
        pytest.skip(f"the kernel does not show what a thread waits for: {error}")


class Library(Protocol):
    """The little that the script needs."""

    def watch(self, path: bytes) -> None: ...
    def read_watch(self) -> object: ...
    def write(self, path: bytes, value: bytes) -> None: ...


class LibXenStore:
    """The C library."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(ctypes.util.find_library("xenstore"), use_errno=True)
        self.lib.xs_open.restype = ctypes.c_void_p
        self.handle = ctypes.c_void_p(self.lib.xs_open(ctypes.c_ulong(0)))

    def watch(self, path: bytes) -> None:
        assert self.lib.xs_watch(self.handle, path, b"token")

    def read_watch(self) -> object:
        return self.lib.xs_read_watch(self.handle, ctypes.byref(ctypes.c_uint()))

    def write(self, path: bytes, value: bytes) -> None:
        assert self.lib.xs_write(self.handle, 0, path, value, ctypes.c_uint(len(value)))


class FastXS:
    """This project's client."""

    def __init__(self) -> None:
        from fastxs import Client

        self.client = Client()
        self.monitor = self.client.monitor()

    def watch(self, path: bytes) -> None:
        self.monitor.watch(path)

    def read_watch(self) -> object:
        return self.monitor.read()

    def write(self, path: bytes, value: bytes) -> None:
        self.client.write(path, value)


def main(library: Library) -> None:
    library.watch(b"/a")
    library.read_watch()
    waiter = threading.Thread(target=library.read_watch, daemon=True)
    waiter.start()
    kill(waiter)
    print("killed", flush=True)
    library.write(b"/a/b", b"value")
    print("wrote", flush=True)
    library.read_watch()
    print("was told", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(FastXS() if sys.argv[1] == "fastxs" else LibXenStore())
