"""fastxsd under the keeper: its clients, which never reconnect, do not notice that it died."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastxs.hypervisor.host import Host, available, scratch
from tests.keeper.conftest import TIMEOUT_S, children, is_alive, shared, state, until
from tests.support.wire import Op, Peer


class KeptHost(Host):
    """A host whose daemon is kept: `pid` is the keeper's."""

    def daemon(self) -> int:
        (pid,) = children(self.pid)
        return pid

    def end_daemon(self, how: signal.Signals) -> None:
        """While it sleeps: what a crash in the middle of an answer does is not the keeper's business."""
        pid = self.daemon()
        until(lambda: state(pid) == "S")
        os.kill(pid, how)
        until(lambda: not is_alive(pid))


@pytest.fixture
def host() -> Iterator[KeptHost]:
    if reason := available("fastxs"):
        pytest.skip(reason)
    folder = scratch()
    keeper = [sys.executable, "-m", "fastxs.cli.keeper", "-n", str(folder / "notify"), "--"]
    try:
        with KeptHost("fastxs", folder, prefix=keeper) as host:
            yield host
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def client(host: KeptHost) -> Iterator[Peer]:
    client = Peer(host.socket)
    yield client
    client.close()


def reads(host: KeptHost) -> bytes:
    """What somebody reads who connects now; b"": he is not served."""
    try:
        peer = Peer(host.socket)
    except ConnectionRefusedError:
        return b""
    try:
        return peer.call(Op.READ, b"/a\0").payload
    finally:
        peer.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_client_goes_on(host: KeptHost, client: Peer, how: signal.Signals) -> None:
    """A crash, and how an administrator gets another version."""
    assert client.call(Op.WRITE, b"/a\0before").payload == b"OK\0"
    assert client.call(Op.WATCH, b"/a\0token\0").payload == b"OK\0"
    assert client.recv().payload == b"/a\0token\0"
    for _ in range(3):
        host.end_daemon(how)
        assert client.call(Op.READ, b"/a\0").payload == b"before"
    assert reads(host) == b"before"
    client.send(Op.WRITE, b"/a\0after")
    assert client.recv().payload == b"/a\0token\0", "its watch is still set"
    assert client.recv().payload == b"OK\0"


def test_the_name_leads_to_the_daemon_after_every_order_of_ends(host: KeptHost, client: Peer) -> None:
    """A clean end may take the socket's name away, a crash cannot: whoever connects later must find us anyway."""
    assert client.call(Op.WRITE, b"/a\0value").payload == b"OK\0"
    for how in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        host.end_daemon(how)
        assert client.call(Op.READ, b"/a\0").payload == b"value"
        assert reads(host) == b"value", how.name


@pytest.mark.parametrize("leave", ["nothing", "a dead socket"])
def test_somebody_took_the_sockets_name(host: KeptHost, client: Peer, leave: str) -> None:
    """Another daemon was tried while ours was down: it removes the name, and makes its own."""
    assert client.call(Op.WRITE, b"/a\0value").payload == b"OK\0"
    os.kill(host.pid, signal.SIGSTOP)
    host.end_daemon(signal.SIGKILL)
    host.socket.unlink()
    if leave == "a dead socket":
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(host.socket))
            other.listen()
    os.kill(host.pid, signal.SIGCONT)
    for _ in range(2):
        assert client.call(Op.READ, b"/a\0").payload == b"value"
        assert reads(host) == b"value"
        host.end_daemon(signal.SIGKILL)


def test_when_the_keeper_stops_everything_does(host: KeptHost, client: Peer) -> None:
    daemon = host.daemon()
    os.kill(host.pid, signal.SIGTERM)
    until(lambda: not is_alive(daemon))
    with pytest.raises((ConnectionError, EOFError)):
        client.call(Op.READ, b"/\0")


# ---- in the background --------------------------------------------------------------------------------


class Background:
    """`fastxsd --pid-file`, as scripts start it: a keeper and its daemon, each of whom starts the other again."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "socket"
        self.pid_file = folder / "pid"
        self.env = os.environ | {"SIMXEN_DIR": str(folder / "hv"), "XENSTORED_RUNDIR": str(folder)}
        self.command = [sys.executable, "-m", "fastxs.cli.fastxsd", "--sim", "--pid-file", str(self.pid_file)]

    def start(self, *flags: str) -> None:
        subprocess.run([*self.command, *flags], env=self.env, check=True, timeout=TIMEOUT_S)

    def keeper(self) -> int:
        """0: its pid file is just being written."""
        return int(self.pid_file.read_text() or 0)

    def daemon(self) -> int:
        return int(Path(f"{self.socket}.lock").read_text())

    def stop(self) -> None:
        pids = (self.keeper(), self.daemon())
        os.kill(pids[0], signal.SIGTERM)
        until(lambda: not any(map(is_alive, pids)))


@pytest.fixture
def background() -> Iterator[Background]:
    if reason := available("fastxs"):
        pytest.skip(reason)
    folder = scratch()
    background = Background(folder)
    try:
        yield background
    finally:
        if background.pid_file.exists():
            background.stop()
        shutil.rmtree(folder)


def kill(pid: int) -> None:
    until(lambda: state(pid) == "S")
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid))


@pytest.mark.parametrize("loop", ["auto", "asyncio"])
def test_keeper_and_daemon_start_each_other_again(background: Background, loop: str) -> None:
    background.start("--loop", loop)
    with Peer(background.socket) as client:
        assert client.call(Op.WRITE, b"/a\0value").payload == b"OK\0"
        for _ in range(2):
            keeper, daemon = background.keeper(), background.daemon()
            kill(keeper)
            assert client.call(Op.READ, b"/a\0").payload == b"value"
            assert background.daemon() == daemon, "nothing has happened to it"
            until(lambda keeper=keeper: background.keeper() != keeper)  # type: ignore[misc]
            until(lambda daemon=daemon: shared(daemon, background.keeper()) == 2)  # type: ignore[misc]
            kill(daemon)
            assert client.call(Op.READ, b"/a\0").payload == b"value"
            assert background.daemon() != daemon
        with Peer(background.socket) as another:
            assert another.call(Op.READ, b"/a\0").payload == b"value"


LAUNCH_XENSTORE = "prlimit --nofile=4096 $XENSTORED --pid-file $PID $XENSTORED_ARGS"
INIT_XEN = """start-stop-daemon --start --quiet --pidfile $PID \
    --exec /usr/bin/choom -- -n 0 $XENSTORED -- $XENSTORED_ARGS --pid-file $PID"""


@pytest.mark.parametrize("line", [LAUNCH_XENSTORE, INIT_XEN], ids=["launch-xenstore", "/etc/init.d/xen"])
def test_what_starts_xenstored_starts_it(background: Background, line: str) -> None:
    """The pid file is there the moment that the first process returns; it holds whom scripts may signal (SPEC 6.1)."""
    if shutil.which(line.split()[0]) is None:
        pytest.skip(f"{line.split()[0]} is not there")
    program = background.pid_file.with_name("fastxsd")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m fastxs.cli.fastxsd "$@"\n')
    program.chmod(0o755)
    env = background.env | {"XENSTORED": str(program), "XENSTORED_ARGS": "--sim", "PID": str(background.pid_file)}
    subprocess.run(["sh", "-c", line], env=env, check=True, timeout=TIMEOUT_S)
    assert children(background.keeper()) == {background.daemon()}
    with Peer(background.socket) as client:
        assert client.call(Op.READ, b"/\0").op == Op.READ
    background.stop()
    assert not background.pid_file.exists()
