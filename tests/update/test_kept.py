"""A daemon that was taken over in the background gets a keeper of its own, and loses it with the hand-back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fastxs.hypervisor.host import BINARIES, available
from tests.conversations.speak import OK
from tests.keeper.conftest import is_alive, shared, state, until
from tests.update.scene import Scene, scene_of

pytestmark = pytest.mark.skipif(
    bool(available("fastxs") or available("c")), reason=str(available("fastxs") or available("c"))
)


class Moved:
    """A host that came from C xenstored to fastxs in the background."""

    def __init__(self, host: Scene) -> None:
        self.host = host
        self.pid_file = host.folder / "pid"
        self.flags = f"--sim --pid-file {self.pid_file}"

    def daemon(self) -> int:
        return int(Path(f"{self.host.host.socket}.lock").read_text())

    def keeper(self) -> int:
        return int(self.pid_file.read_text())

    def is_kept(self) -> bool:
        """Whether the keeper has the listening socket, the toolstack's and the client's."""
        with suppress(OSError, ValueError):  # there is no pid file yet, or nothing in it
            return shared(self.daemon(), self.keeper()) == 3
        return False

    def kill_daemon(self) -> None:
        """While it sleeps: a socket in the middle of a system call would be closed."""
        pid = self.daemon()
        until(lambda: state(pid) == "S")
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_alive(pid))


@pytest.fixture
def moved() -> Iterator[Moved]:
    with scene_of("c") as host:
        moved = Moved(host)
        assert host.update(host.good(), arguments=moved.flags) == OK
        yield moved


def test_killed_right_after_the_take_over(moved: Moved) -> None:
    """The toolstack, the client and the guests speak over what they had with C xenstored, all the time."""
    for _ in range(3):
        moved.kill_daemon()
        moved.host.work()
    assert moved.host.update(moved.host.good()) == OK
    moved.kill_daemon()
    moved.host.work()


def test_no_keeper_after_the_hand_back(moved: Moved) -> None:
    """C xenstored is as it would be by itself: its own pid file, and nobody who would start fastxs in its place."""
    keeper, pid = moved.keeper(), moved.daemon()
    assert is_alive(keeper) and keeper != pid
    assert moved.host.update(BINARIES["c"]) == OK
    moved.host.work()
    assert int(moved.pid_file.read_text()) == pid and not is_alive(keeper)
    assert moved.host.update(moved.host.good(), arguments=moved.flags) == OK
    moved.kill_daemon()
    moved.host.work()


def test_another_keeper_if_the_hand_back_fails(moved: Moved) -> None:
    keeper = moved.keeper()
    assert moved.host.update(Path("/bin/true")) == b"The new program failed, the old one is back.\0"
    moved.host.work()
    until(lambda: not is_alive(keeper) and moved.is_kept())
    moved.kill_daemon()
    moved.host.work()


def test_an_update_with_other_flags_stays_kept(moved: Moved) -> None:
    """`-c` need not say what only keeper and daemon know."""
    assert moved.host.update(moved.host.good(), arguments=f"{moved.flags} --log-level debug") == OK
    moved.kill_daemon()
    moved.host.work()
