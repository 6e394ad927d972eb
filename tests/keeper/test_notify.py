"""The client's half: what is said to the manager, and what is taken from it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastxs.daemon import notify
from tests.keeper.conftest import TIMEOUT_S


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Whoever listens at NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(TIMEOUT_S)
        listening.bind(str(tmp_path / "manager"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "manager"))
        yield listening


def hear(manager: socket.socket) -> tuple[bytes, int]:
    """One datagram's words and how many descriptors came with it."""
    words, fds, _, _ = socket.recv_fds(manager, 4096, 300)
    for fd in fds:
        os.close(fd)
    return words, len(fds)


def test_descriptors_are_stored_by_name(manager: socket.socket) -> None:
    with socket.socket() as one:
        assert notify.store(notify.LISTENER, one.fileno())
        assert hear(manager) == (b"FDSTORE=1\nFDNAME=listen", 1)
        assert notify.store(notify.EVTCHN, one.fileno(), poll=False)
        assert hear(manager) == (b"FDSTORE=1\nFDNAME=evtchn\nFDPOLL=0", 1)
    assert notify.forget(notify.EVTCHN)
    assert hear(manager) == (b"FDSTOREREMOVE=1\nFDNAME=evtchn", 0)


def test_many_descriptors_take_several_datagrams(manager: socket.socket) -> None:
    with socket.socket() as one:
        assert notify.store("c", *[one.fileno()] * 600)
    assert [hear(manager)[1] for _ in range(3)] == [253, 253, 94]


def test_a_socket_of_the_abstract_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0fastxs-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@fastxs-test-{os.getpid()}")
        assert notify.notify("READY=1")
        assert hear(manager) == (b"READY=1", 0)


@pytest.mark.parametrize("address", [None, "", "vsock:2:1", "relative", "/nowhere/notify"])
def test_nobody_is_there(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing fails: a daemon whose manager went away still serves."""
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert notify.channel() is None
    assert not notify.notify("READY=1")
    assert not notify.store("c", 0)
    assert not notify.forget("c")
    assert not notify.barrier(0)


def test_a_barrier_waits_for_the_manager(manager: socket.socket) -> None:
    assert not notify.barrier(0), "it has not looked yet"
    assert hear(manager) == (b"BARRIER=1", 1)
    looking = threading.Thread(target=hear, args=(manager,))
    looking.start()
    assert notify.barrier(TIMEOUT_S)
    looking.join()


def test_a_channel_stays(manager: socket.socket) -> None:
    """For many datagrams: the core writes them itself."""
    channel = notify.channel()
    assert channel is not None
    with channel:
        assert not channel.get_inheritable()
        for words in (b"one", b"two"):
            channel.send(words)
            assert hear(manager) == (words, 0)


SHOW = """
import os
from fastxs.daemon.notify import inherited
found = inherited()
print(found, any(os.get_inheritable(fd) for fds in found.values() for fd in fds))
print(inherited(), "LISTEN_FDS" in os.environ)
"""


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ("LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES=listen:c:c", {"listen": [3], "c": [4, 5]}),
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=listen", {"listen": [3], "unknown": [4]}),
        ("LISTEN_PID=$$ LISTEN_FDS=1", {"unknown": [3]}),
        ("LISTEN_PID=$$ LISTEN_FDS=0", {}),
        ("LISTEN_PID=$$ LISTEN_FDS=many", {}),
        ("LISTEN_PID=1 LISTEN_FDS=3 LISTEN_FDNAMES=listen:c:c", {}),
        ("LISTEN_FDS=3", {}),
        ("LISTEN_FDNAMES=listen:c:c", {}),
    ],
)
def test_what_is_inherited(variables: str, found: dict[str, list[int]]) -> None:
    """sd_listen_fds(3): from 3 on, ours if LISTEN_PID says so, and no child inherits them from us."""
    script = f'export {variables}; exec "$0" -c "$1" 3</dev/null 4</dev/null 5</dev/null'
    env = {key: value for key, value in os.environ.items() if not key.startswith("LISTEN_")}
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, SHOW], env=env, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.stdout == f"{found} False\n{{}} False\n", done.stderr


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_how_often_the_manager_wants_to_hear(
    variables: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert notify.watchdog_s() == seconds
