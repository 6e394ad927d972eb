"""The daemon as it is delivered: the built core on the pretend hypervisor."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastxs.hypervisor.host import Host, available
from tests.daemon.conftest import Fastxsd
from tests.support.wire import Op, Peer

pytestmark = pytest.mark.skipif(available("fastxs") is not None, reason=str(available("fastxs")))


@pytest.fixture
def host() -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="fastxsd.") as folder:
        trace = Path(folder) / "trace"
        with Host("fastxs", Path(folder), args=["-T", str(trace), "--log-format", "json"], default_quotas=True) as host:
            yield host


@pytest.fixture
def peer(host: Host) -> Iterator[Peer]:
    peer = Peer(host.socket)
    yield peer
    peer.close()


def ask(peer: Peer, *words: bytes) -> str:
    reply = peer.call(Op.CONTROL, b"".join(word + b"\0" for word in words))
    return reply.error or reply.payload.decode()


def logged(host: Host) -> list[dict[str, object]]:
    lines = (host.folder / "stderr").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_quotas_are_shown_and_set(peer: Peer) -> None:
    from fastxs._core import Engine

    hard = [name for name in Engine.quota_names() if name != "soft-memory"]
    lines = ask(peer, b"quota").splitlines()
    assert lines[0] == "Quota settings:"
    assert [line.split(":")[0].rstrip() for line in lines[1:-1]] == hard
    assert all(line[17:19] == ": " and line[27] == " " for line in lines[1:-1])
    assert ask(peer, b"quota", b"set", b"watches", b"512") == "OK\0"
    assert "watches          :      512 " in ask(peer, b"quota")
    assert ask(peer, b"quota-soft", b"set", b"memory", b"4096") == "OK\0"
    assert "memory           :     4096 " in ask(peer, b"quota-soft")


def test_accounts_and_reports(peer: Peer, host: Host) -> None:
    assert ask(peer, b"quota", b"0").startswith("Domain 0:\nnodes            :        ")
    assert ask(peer, b"quota", b"4711") == "ENOENT"
    assert ask(peer, b"quota", b"-1") == "ENOENT"
    assert ask(peer, b"quota", b"99999") == "ENOENT"
    assert ask(peer, b"quota", b"max").startswith("Max. seen accounting values:\nnodes            :        ")
    assert ask(peer, b"quota", b"max", b"-r").startswith("Max. seen accounting values:\n")
    assert ask(peer, b"check") == "OK\0"
    report = host.folder / "report"
    assert ask(peer, b"memreport", os.fsencode(report)) == "OK\0"
    assert " bytes\n" in report.read_text()
    checked = [line for line in logged(host) if line["event"] == "store checked"]
    assert [line["faults"] for line in checked] == [0]


def test_what_is_asked_and_answered_is_traced(peer: Peer, host: Host) -> None:
    trace = host.folder / "trace"
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600
    peer.call(Op.WRITE, b"/traced\0value")
    assert ask(peer, b"log", b"off") == "OK\0"
    peer.call(Op.WRITE, b"/untraced\0value")
    text = trace.read_text()
    assert text.startswith("\n***\n")
    assert "WRITE (/traced value)" in text
    assert "untraced" not in text
    trace.rename(f"{trace}.1")
    assert ask(peer, b"log", b"on") == "OK\0"
    peer.call(Op.WRITE, b"/again\0value")
    peer.call(Op.READ, b"/again\0")  # a turn's lines are written at its end
    assert "/again" in trace.read_text()


def test_a_protocol_error_is_a_line(peer: Peer, host: Host) -> None:
    peer.send_raw(b"\0" * 12 + b"\xff\xff\xff\xff")
    with pytest.raises(ConnectionError):
        peer.recv()
    other = Peer(host.socket)
    other.call(Op.READ, b"/\0")
    other.close()
    assert "bad request" in [line["event"] for line in logged(host)]


def test_a_storm_of_connections(host: Host) -> None:
    clients = [socket.socket(socket.AF_UNIX) for _ in range(500)]
    try:
        for client in clients:
            client.connect(str(host.socket))
            client.sendall(b"\2" + b"\0" * 11 + b"\2\0\0\0" + b"/\0")
        for client in clients:
            client.settimeout(5)
            assert len(client.recv(16)) == 16
    finally:
        for client in clients:
            client.close()


def test_it_stops_cleanly_with_clients_connected(peer: Peer, host: Host) -> None:
    os.kill(host.pid, signal.SIGHUP)
    peer.call(Op.WATCH, b"/\0token\0")
    assert host.stop() == 0
    assert not host.socket.exists()
    assert [line["event"] for line in logged(host)][-1] == "stopping"
    with pytest.raises(ConnectionError):
        peer.recv()
        peer.recv()


def test_in_the_background(host: Host) -> None:
    """As launch scripts start it: the pid file is read the moment that the first process returns."""
    host.stop()
    pid_file = host.folder / "pid"
    env = os.environ | host.env
    command = [sys.executable, "-m", "fastxs.cli.fastxsd", "--sim", "--pid-file", str(pid_file)]
    subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, timeout=20)
    pid = int(pid_file.read_text())
    try:
        peer = Peer(host.socket)
        assert peer.call(Op.READ, b"/\0").payload == b""
        peer.close()
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 1
        (daemon,) = Fastxsd.children(pid)
        assert f"is held by pid {daemon} (fastxsd)" in done.stderr
    finally:
        os.kill(pid, signal.SIGTERM)
        Fastxsd.until(lambda: not pid_file.exists())
