"""What is measured: the daemons that there are, one that runs already, and the echo server.

Owns how each is started, by its name.  Refuses to know what is asked of them.
"""

import os
import resource
import socket
import struct
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from fastxs.bench.load import XSECHO
from fastxs.client import Client
from fastxs.hypervisor import host

__all__ = ["DAEMONS", "ECHO", "Daemon", "Echo", "Kind", "LoadError", "Running", "Server", "rss_bytes"]

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
