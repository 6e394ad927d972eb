"""fastxsd under the keeper: its clients, which never reconnect, do not notice that it died."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator

import pytest

from fastxs.hypervisor.host import Host, available, scratch
from tests.keeper.conftest import children, is_alive, state, until
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
