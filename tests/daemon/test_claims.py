"""What one instance holds, tried without a daemon: who gives way to whom, and what is removed at the end."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastxs.daemon import claims
from fastxs.daemon.claims import StartError, answers, hold_pid_file, hold_socket, need_folder
from tests.daemon.conftest import fastxsd_in_a_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    with fastxsd_in_a_folder() as runner:
        yield runner.folder


def test_only_the_default_directory_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = folder / "run" / "xenstored"
    with pytest.raises(StartError, match=f"cannot use {wanted} for the socket: No such file or directory"):
        need_folder(str(wanted), "the socket")
    monkeypatch.setattr(claims, "RUN_DIR", str(wanted))
    need_folder(str(wanted), "the socket")
    need_folder(str(wanted), "the socket")
    assert stat.S_IMODE(wanted.stat().st_mode) & 0o022 == 0, "nobody else may put a socket there"
    monkeypatch.setattr(claims, "RUN_DIR", "/dev/null/run")
    with pytest.raises(StartError, match="cannot make /dev/null/run for the socket: Not a directory"):
        need_folder("/dev/null/run", "the socket")


def test_a_pid_file_is_ours_while_we_live(folder: Path) -> None:
    path = folder / "pid"
    with hold_pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_the_mode_of_an_old_pid_file_is_put_right(folder: Path) -> None:
    path = folder / "pid"
    path.write_text("12345678\n")
    path.chmod(0o644)
    with hold_pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_holder_that_removes_its_file_under_our_hands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops just now: we have opened its file, it unlinks it and lets go, we get a lock on a file without a name."""
    path, lockf, losses = folder / "pid", fcntl.lockf, 3

    def lock(fd: int, how: int) -> None:
        nonlocal losses
        if losses:
            losses -= 1
            path.unlink()
        lockf(fd, how)

    monkeypatch.setattr(fcntl, "lockf", lock)
    with hold_pid_file(str(path)):
        assert losses == 0
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_socket_is_0600_whatever_the_mask(folder: Path) -> None:
    path = folder / "socket"
    before = os.umask(0)
    try:
        with hold_socket(str(path), 5) as listener:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert not listener.getblocking()
            assert not listener.get_inheritable()
            assert os.umask(0) == 0, "and the mask is as it was"
    finally:
        os.umask(before)
    assert not path.exists()


def test_a_socket_that_took_our_place_is_left_alone(folder: Path) -> None:
    path = folder / "socket"
    with hold_socket(str(path), 5), socket.socket(socket.AF_UNIX) as other:
        path.unlink()
        other.bind(str(path))
    assert path.exists()


def test_a_backlog_lets_a_storm_in(folder: Path) -> None:
    """Nobody accepts, and 500 clients that do not want to wait are connected all the same (if the kernel lets us)."""
    path = folder / "socket"
    limit = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with hold_socket(str(path), 4096):
        clients = [socket.socket(socket.AF_UNIX) for _ in range(min(500, limit))]
        try:
            for client in clients:
                client.setblocking(False)
                client.connect(str(path))  # BlockingIOError would be a full backlog
        finally:
            for client in clients:
                client.close()


def test_nobody_answers_where_nobody_listens(folder: Path) -> None:
    assert not answers(str(folder / "socket"), 0.1)
    with hold_socket(str(folder / "socket"), 5):
        assert not answers(str(folder / "socket"), 0.1), "connected is not answered"
