"""What a service manager is told around a live update: who is the daemon, and whether to wait for its WATCHDOG=1."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fastxs.hypervisor.host import BINARIES, Host, available, scratch
from fastxs.hypervisor.simxen import LIBRARY
from tests.conversations.speak import OK
from tests.keeper.conftest import until
from tests.update.scene import Scene, environment, scene

pytestmark = pytest.mark.skipif(available("fastxs") is not None, reason=str(available("fastxs")))

HOUR = "WATCHDOG_USEC=3600000000"
OFF = "WATCHDOG_USEC=0"


class Manager:
    """Who listens at NOTIFY_SOCKET: it closes what it is given, and remembers what is said."""

    def __init__(self, path: Path) -> None:
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            words, fds, *_ = socket.recv_fds(self._socket, 4096, 300)
            for fd in fds:
                os.close(fd)
            if not words:
                return
            self.said += words.decode().split("\n")

    def hears(self, *words: str) -> None:
        """These, in this order, in what was said since the last time; other words may stand between them."""
        until(lambda: self.said and words[-1] in self.said)
        at = 0
        for word in words:
            at = self.said.index(word, at) + 1
        del self.said[:at]

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RD)
        self._thread.join()
        self._socket.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = scratch()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def manager(folder: Path) -> Iterator[Manager]:
    with closing(Manager(folder / "manager")) as manager:
        yield manager


@pytest.fixture
def host(folder: Path, manager: Manager) -> Iterator[Scene]:
    told = {"NOTIFY_SOCKET": str(folder / "manager"), HOUR.split("=")[0]: HOUR.split("=")[1]}
    told |= {"LD_PRELOAD": str(LIBRARY), "SIMXEN_RUNDIR": str(folder / "run")}  # for the C xenstored that it becomes
    with scene(Host("fastxs", folder, env=environment() | told)) as found:
        manager.hears(HOUR)
        yield found


def test_the_watchdog_is_off_until_the_new_program_serves(host: Scene, manager: Manager) -> None:
    pid = host.host.pid
    assert host.update(host.good()) == OK
    manager.hears(OFF, f"MAINPID={pid}", "READY=1", HOUR, "WATCHDOG=1")


def test_it_is_back_with_the_old_program(host: Scene, manager: Manager) -> None:
    """Whose pid is another one: the guardian's."""
    assert host.update(host.bad("sys.exit(1)")).endswith(b"the old one is back.\0")
    manager.hears(OFF, "READY=1", HOUR, "WATCHDOG=1")


def test_it_is_back_after_an_exec_that_fails(host: Scene, manager: Manager) -> None:
    program = host.folder / "nobody"
    program.write_bytes(b"\x7fELF is no program")
    program.chmod(0o755)
    assert host.update(program, "-F") == b"Error activating new binary.\0"
    manager.hears(OFF, f"MAINPID={host.host.pid}", HOUR)
    host.work()


@pytest.mark.skipif(available("c") is not None, reason=str(available("c")))
def test_it_is_back_if_the_image_cannot_be_moved_away(host: Scene, manager: Manager) -> None:
    """And the guardian goes at once: it must not end a daemon that goes on."""
    (host.host.rundir / "socket.image.handed-back").write_text("a file, where the image is to be moved")
    assert b"Not a directory" in host.update(BINARIES["c"], "-F", arguments="-N")
    manager.hears(OFF, "READY=1", f"MAINPID={host.host.pid}", HOUR)
    assert not (host.host.rundir / "state_dump").exists()
    host.work()


@pytest.mark.skipif(available("c") is not None, reason=str(available("c")))
def test_c_xenstored_has_none_and_nothing_is_kept(folder: Path, manager: Manager, host: Scene) -> None:
    """What a manager keeps would hide from C's clients that C has closed them."""
    pid = host.host.pid
    assert host.update(BINARIES["c"], "-F", arguments="-N") == OK
    manager.hears(OFF, "FDSTOREREMOVE=1", "FDNAME=c", "FDSTOREREMOVE=1", "FDNAME=listen", f"MAINPID={pid}")
    assert HOUR not in manager.said
    host.work()
