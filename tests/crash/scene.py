"""A host whose daemon dies, and guests that keep books: what the crash tests share.

Owns the program that plays the guests (guests.c), their introduction, one life of the daemon after the other, and the
comparison at the end.  Refuses to know when and where the daemon dies.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import shlex
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from fastxs._core import FAULTS
from fastxs.hypervisor.host import Host, HostError
from fastxs.hypervisor.simxen import build
from tests.support.wire import Op, Peer

SOURCES: Final = ("loop.c", "guest.c", "state.c")
COUNTERS: Final = 16
FIRST: Final = 1
PATIENCE_S: Final = 30


class WrongError(AssertionError):
    """What the daemon did, and the books say otherwise."""


@functools.cache
def program() -> Path:
    """guests.c, compiled."""
    folder = Path(tempfile.mkdtemp(prefix="fastxs-guests."))
    atexit.register(shutil.rmtree, folder)
    out = folder / "guests"
    here = Path(build.__file__).parent
    compiler = shlex.split(os.environ.get("CC") or "cc")
    sources = [Path(__file__).with_name("guests.c"), *(here / name for name in SOURCES)]
    subprocess.run([*compiler, *build.FLAGS, "-I", here, "-o", out, *sources], check=True)
    return out


class Guests:
    """`count` guests on `host`, which runs; introduced and at work when this returns."""

    def __init__(self, host: Host, count: int, seed: int, *, sockets: bool = False) -> None:
        self.host = host
        self.count = count
        self.sockets = sockets
        self.book = host.folder / "book"
        words: list[object] = [program(), count, FIRST, seed, self.book, *([host.socket] if sockets else [])]
        self.process = subprocess.Popen(
            [str(word) for word in words],
            env={**os.environ, **host.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.said: list[str] = []
        self._stderr = threading.Thread(target=self._listen, daemon=True)
        self._stderr.start()
        try:
            self._hear(PATIENCE_S)
            self._introduce()
            self.tell("g")
        except BaseException:
            self.close()
            raise

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(self.process.stderr)

    def _introduce(self) -> None:
        with Peer(self.host.socket) as dom0:

            def call(op: Op, payload: bytes) -> None:
                reply = dom0.call(op, payload)
                assert reply.error is None, (op, payload, reply)

            call(Op.MKDIR, b"/shared\0")
            call(Op.SET_PERMS, b"/shared\0b0\0")
            for i in range(COUNTERS):
                call(Op.WRITE, b"/shared/%d\x000" % i)
            for domid in range(FIRST, FIRST + self.count):
                home = b"/local/domain/%d\0" % domid
                call(Op.MKDIR, home)
                call(Op.SET_PERMS, home + b"r%d\0" % domid)
                if not self.sockets:
                    call(Op.INTRODUCE, b"%d\x004096\x002\0" % domid)

    def tell(self, orders: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(orders)
        self.process.stdin.flush()

    def _hear(self, timeout_s: float) -> str:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], timeout_s)[0]:
            raise WrongError("the guests wait in vain\n" + "".join(self.said))
        line = self.process.stdout.readline()
        if not line:
            raise WrongError("the guests have ended\n" + "".join(self.said))
        return line

    def are_alive(self) -> None:
        """Each of them gets one more answer.  WrongError: one does not."""
        self.tell("a")
        try:
            self._hear(PATIENCE_S)
        except WrongError as error:
            self.tell("q")  # who hangs is told then
            self.process.wait(60)
            self._stderr.join(5)
            raise WrongError("".join(self.said)) from error

    def end(self) -> dict[str, Any]:
        """No more requests; all that are under way are answered.  What they counted; WrongError: what went wrong."""
        self.tell("q")
        try:
            figures: dict[str, Any] = json.loads(self._hear(60))
        except WrongError:
            self._stderr.join(5)
            raise WrongError("".join(self.said)) from None
        if figures["failures"]:
            self.close()
            raise WrongError("".join(self.said))
        return figures

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None and self.process.stderr is not None
        with self.process:
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
            self._stderr.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# ---- the store and the books -----------------------------------------------------------------------------


def read_book(path: Path) -> dict[bytes, bytes]:
    """What the guests say they wrote: path -> value."""
    data, at, found = path.read_bytes(), 0, {}
    while at < len(data):
        names, values = struct.unpack_from("=II", data, at)
        at += 8 + names + values
        found[data[at - names - values : at - values]] = data[at - values : at]
    return found


def walk(peer: Peer, root: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every node below `root`, and its value."""
    paths = [root]
    while paths:
        ids = [(path, peer.send(Op.DIRECTORY, path + b"\0"), peer.send(Op.READ, path + b"\0")) for path in paths[:64]]
        del paths[:64]
        for path, names, value in ids:
            children = peer.reply(names).strings
            paths += [(path if path != b"/" else b"") + b"/" + name for name in children]
            yield path, peer.reply(value).payload


def compare(host: Host, guests: Guests, figures: Mapping[str, Any], *, checks: bool = True) -> int:
    """The store holds what the guests wrote, no more and no less, and is sound; how many nodes.  WrongError.

    `checks`: the daemon, asked to check its store, tells what it finds, which C xenstored does not.
    """
    book = read_book(guests.book)
    faults: list[str] = []
    with Peer(host.socket) as peer:
        found = dict(walk(peer, b"/"))
        for path, value in book.items():
            if found.get(path) != value:
                faults.append(
                    f"{path!r}: wrote {value[:40]!r} ({len(value)}), found {found.get(path, b'nothing')[:40]!r}"
                )
        insides = {path[: path.rfind(b"/", 0, len(path))] for path in book}
        for path in found.keys() - book.keys():
            if path.startswith(b"/local/domain/") and path.count(b"/") > 4 and path.rpartition(b"/")[0] in insides:
                faults.append(f"{path!r}: nobody wrote it")
        for i, commits in enumerate(figures["commits"]):
            if (
                not 0 <= int(found[b"/shared/%d" % i]) - commits <= figures["lost"]
            ):  # who is lost may have had his answer
                faults.append(f"counter {i}: {commits} commits, found {found[b'/shared/%d' % i]!r}")
        if checks:
            found_faults = peer.call(Op.CONTROL, b"fastxs-check\0").strings
            faults += [f"check: {fault!r}" for fault in found_faults if fault]
    if faults:
        raise WrongError("\n".join(faults[:20]))
    return len(found)


# ---- the daemon's lives ------------------------------------------------------------------------------------


class Lives:
    """One daemon after the other on one hypervisor and one image."""

    def __init__(self, folder: Path, *, args: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.args = args
        self.host = Host("fastxs", folder, args=args).start()
        self.restarts = 0

    def again(self, trial: str = "", die_after_s: float | None = None) -> bool:
        """The next daemon; `trial` is where it is to die or its image to fail, or it is killed so long after its start.

        Whether it came to answer.  WrongError: it ended otherwise.
        """
        self.host = Host("fastxs", self.folder, args=self.args, env={"FASTXS_TRIAL": trial} if trial else None)
        self.restarts += 1
        killed = threading.Event()
        killer = threading.Timer(die_after_s or 0, self._kill_early, (killed,))
        if die_after_s is not None:
            killer.start()
        try:
            self.host.start(PATIENCE_S)
        except HostError as error:
            if ("status 1" if trial.startswith(FAULTS) else "status -9") not in str(error):
                raise WrongError(str(error)) from error
            return False
        finally:
            killer.cancel()
            if die_after_s is not None:
                killer.join()
        if killed.is_set():  # at the very end of its start
            self.host.kill()
        return not killed.is_set()

    def _kill_early(self, killed: threading.Event) -> None:
        with suppress(HostError, ProcessLookupError):
            os.kill(self.host.pid, signal.SIGKILL)
            killed.set()

    def kill(self) -> None:
        self.host.kill()

    def wait_for_end(self, timeout_s: float) -> bool:
        """Whether it died by itself."""
        return self.host.ends(timeout_s) is not None

    def close(self) -> None:
        self.host.close()


@contextmanager
def lives(folder: Path, args: tuple[str, ...] = ()) -> Iterator[Lives]:
    """For as long as the block lasts."""
    them = Lives(folder, args=args)
    try:
        yield them
    finally:
        them.close()
