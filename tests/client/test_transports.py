"""Ways to the daemon: which one is taken, what the kernel's device wants, and a guest's own ring."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastxs.client import (
    Client,
    Conflict,
    Disconnected,
    InvalidRequest,
    QuotaExceeded,
    TooBig,
    XenBus,
    daemon_rundir,
    daemon_socket,
)
from fastxs.client.transports import dial
from fastxs.hypervisor.host import Host, scratch
from fastxs.hypervisor.simxen.guests import Guests
from tests.client.faces import Faces
from tests.conftest import running
from tests.support.wire import HEADER, Op, Splitter, pack

WAIT_S = 20


# -- which way --------------------------------------------------------------------------------------


def test_where_the_daemon_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XENSTORED_PATH", raising=False)
    monkeypatch.delenv("XENSTORED_RUNDIR", raising=False)
    assert daemon_socket() == daemon_rundir() + "/socket"
    monkeypatch.setenv("XENSTORED_RUNDIR", "/elsewhere")
    assert (daemon_rundir(), daemon_socket()) == ("/elsewhere", "/elsewhere/socket")
    monkeypatch.setenv("XENSTORED_PATH", "/other/name")
    assert daemon_socket() == "/other/name"


def test_the_environment_leads_to_the_daemon(fastxs_host: Host, faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XENSTORED_PATH", str(fastxs_host.socket))
    assert faces.make().exists("/")


def test_without_a_socket_it_is_the_kernels_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_(path: str, flags: int) -> int:
        opened.append((path, flags))
        raise PermissionError

    device = tmp_path / "xenbus"
    monkeypatch.setattr("fastxs.client.transports.XENBUS", (str(device),))
    monkeypatch.setattr(os, "open", open_)
    monkeypatch.delenv("XENSTORED_PATH", raising=False)
    monkeypatch.setenv("XENSTORED_RUNDIR", "/nonexistent")
    with pytest.raises(FileNotFoundError) as error:
        dial(None, None)()
    assert error.value.filename == "/nonexistent/socket"
    device.write_bytes(b"")
    with pytest.raises(PermissionError):
        dial(None, None)()
    monkeypatch.setenv("XENSTORED_PATH", "/nonexistent/name")  # one that is named is meant, not this host's store
    with pytest.raises(FileNotFoundError) as error:
        dial(None, None)()
    assert error.value.filename == "/nonexistent/name"
    monkeypatch.setenv("XENSTORED_PATH", str(device))  # may name a device, too
    with pytest.raises(PermissionError):
        dial(None, None)()
    with pytest.raises(PermissionError):
        dial(None, device)()
    assert opened == [(str(device), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)] * 3


def test_a_daemon_whose_backlog_is_full_is_waited_for(tmp_path: Path, faces: Faces) -> None:
    """C xenstored listens with a backlog of one; a connect that does not wait gets EAGAIN then."""
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(tmp_path / "socket"))
        busy.listen(0)
        first.connect(str(tmp_path / "socket"))

        def serve() -> None:
            busy.accept()[0].close()
            with busy.accept()[0] as conn:
                _, req_id, _, length = HEADER.unpack(conn.recv(16))
                assert conn.recv(length) == b"/\0"
                conn.sendall(pack(Op.READ, b"at last", req_id))
                conn.recv(1)

        client = faces.make(tmp_path / "socket")
        server = threading.Timer(0.05, serve)
        server.start()
        assert client.read("/") == b"at last"
        client.close()
        server.join()


# -- /dev/xen/xenbus ----------------------------------------------------------------------------------


class Kernel:
    """Linux's xenbus device, as xenbus_dev_frontend.c is seen to behave: one message in a write, of at most 4096 bytes
    with its header; what it refuses itself is an errno of write(2); WATCH and UNWATCH are answered without an id."""

    def __init__(self, daemon: socket.socket) -> None:
        self.ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.ours.setblocking(False)
        self._daemon = daemon
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        self.longest = 0
        self.refuse: int | None = None

    def write(self, data: bytes) -> int:
        self.longest = max(self.longest, len(data))
        if len(data) > 4096 or len(data) != 16 + HEADER.unpack_from(data)[3]:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if self.refuse is not None:
            raise OSError(self.refuse, os.strerror(self.refuse))
        self._daemon.sendall(data)
        return len(data)

    def _read(self) -> None:
        splitter = Splitter()
        while data := self._daemon.recv(4096):
            for op, req_id, tx_id, payload in splitter.feed(data):
                if op in (Op.WATCH, Op.UNWATCH):
                    req_id, tx_id = 0, 0
                self._theirs.sendall(pack(op, payload, req_id, tx_id))

    def close(self) -> None:
        self._daemon.shutdown(socket.SHUT_RDWR)
        self._reading.join()
        self._theirs.close()
        self.ours.detach()  # the client has closed it


@contextmanager
def kernel(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.connect(str(host.socket))
        kernel = Kernel(daemon)
        write, open_ = os.write, os.open

        def written(fd: int, data: bytes) -> int:
            return kernel.write(data) if fd == kernel.ours.fileno() else write(fd, data)

        def opened(path: str, flags: int, *more: int) -> int:
            return kernel.ours.fileno() if path == "/dev/xen/xenbus" else open_(path, flags, *more)

        monkeypatch.setattr(os, "write", written)
        monkeypatch.setattr(os, "open", opened)
        try:
            yield kernel
        finally:
            monkeypatch.undo()
            kernel.close()


def test_the_kernels_device_takes_whole_messages(
    fastxs_host: Host, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kernel(fastxs_host, monkeypatch) as device:
        client = faces.make(xen_bus_path="/dev/xen/xenbus")
        values = {f"/value/{n}": b"%d" % n * n for n in range(50)}
        client.write_many(values)
        assert client.read_many(values) == list(values.values())
        client.write("/big", b"x" * (4096 - 16 - 5))
        assert device.longest == 4096
        with pytest.raises(TooBig) as too_big:
            client.write("/big", b"x" * (4096 - 16 - 4))
        assert too_big.value.filename == b"/big"
        assert device.longest == 4096  # it was not even tried
        with client.transaction() as tx:
            assert tx.read("/value/7") == b"7777777"
        client.close()


def test_the_kernels_device_keeps_the_watches_itself(
    fastxs_host: Host, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kernel(fastxs_host, monkeypatch):
        client = faces.make(xen_bus_path="/dev/xen/xenbus")
        with client.watch("/a") as events:
            assert events.read(timeout_s=WAIT_S).path == b"/a"
            client.write("/a/b", b"")
            assert events.read(timeout_s=WAIT_S).path == b"/a/b"
            with pytest.raises(InvalidRequest, match="no depth"):
                events.watch("/b", depth=1)
            events.watch("/b", try_depth=1)
            assert events.read(timeout_s=WAIT_S).path == b"/b"
        client.close()


def test_what_the_kernel_refuses_is_the_requests_error(
    fastxs_host: Host, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kernel(fastxs_host, monkeypatch) as device:
        client = faces.make(xen_bus_path="/dev/xen/xenbus")
        assert client.exists("/")
        device.refuse = errno.ENOMEM
        with pytest.raises(MemoryError):
            client.read("/")
        with pytest.raises(MemoryError):
            client.read_many(["/", "/"])
        device.refuse = None
        assert client.read("/") == b""  # and the connection goes on
        client.close()


def test_a_device_that_cannot_be_opened() -> None:
    with pytest.raises(FileNotFoundError):
        XenBus("/nonexistent/xenbus")


# -- a guest's ring -----------------------------------------------------------------------------------


@pytest.fixture(params=["fastxs", "c", "ox"])
def ring_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Each daemon, with its own quotas."""
    with running(request.param) as host:
        yield host


@pytest.fixture
def guest(ring_host: Host, faces: Faces) -> Iterator[tuple[Client, Client]]:
    """Domain 7 on its ring, and domain 0 on the socket."""
    dom0 = faces.make(ring_host.socket)
    with Guests(ring_host.env["SIMXEN_DIR"]) as guests:
        guests.create(7)
        dom0.write("/local/domain/7", b"")
        dom0.set_perms("/local/domain/7", ["n7"])
        dom0.introduce_domain(7, 0x1007, 2)
        client = faces.make(transport=lambda: guests.open(7))
        try:
            yield client, dom0
        finally:
            client.close()


def test_a_guest_on_its_ring(guest: tuple[Client, Client]) -> None:
    client, dom0 = guest
    client.write("data/value", b"x\0y")  # relative to its home
    assert client.read("/local/domain/7/data/value") == b"x\0y"
    assert dom0.read("/local/domain/7/data/value") == b"x\0y"
    values = {f"data/{n}": b"%d" % n * 40 for n in range(60)}  # much more than the ring holds
    client.write_many(values)
    assert client.read_many(values) == list(values.values())
    with pytest.raises(PermissionError):
        client.write("/tool/mine", b"")
    with pytest.raises(Conflict), client.transaction() as tx:
        seen = tx.read("data/value")
        dom0.write("/local/domain/7/data/value", b"changed")
        tx.write("data/copy", seen)


def test_events_through_a_ring(guest: tuple[Client, Client]) -> None:
    client, dom0 = guest
    with client.watch("control", token="shutdown") as events:
        assert events.read(timeout_s=WAIT_S) == (b"control", "shutdown")
        dom0.write("/local/domain/7/control/shutdown", b"poweroff")
        assert events.read(timeout_s=WAIT_S) == (b"control/shutdown", "shutdown")
        client.write("control/shutdown", b"")
        assert events.read(timeout_s=WAIT_S) == (b"control/shutdown", "shutdown")


def test_a_ring_whose_domain_is_gone(ring_host: Host, faces: Faces) -> None:
    dom0 = faces.make(ring_host.socket)
    with Guests(ring_host.env["SIMXEN_DIR"]) as guests:
        guests.create(7)
        dom0.introduce_domain(7, 0x1007, 2)
        client = faces.make(transport=lambda: guests.open(7))
        assert client.get_domain_path(7) == b"/local/domain/7"
        guests.kill(7)
        with pytest.raises(Disconnected):
            client.read("/")
        client.close()


def test_no_watch_is_left_for_a_quota_to_find(faces: Faces) -> None:
    """A guest may have 128 watches.  After hundreds that were ended in one way or another it may still have 128."""
    folder = scratch()
    try:
        with Host("fastxs", folder, default_quotas=True) as host, Guests(host.env["SIMXEN_DIR"]) as guests:
            guests.create(7)
            dom0 = faces.make(host.socket)
            dom0.introduce_domain(7, 0x1007, 2)
            client = faces.make(transport=lambda: guests.open(7))
            for _ in range(100):
                with client.watch("/a") as monitor:
                    assert monitor.read(timeout_s=WAIT_S).path == b"/a"
                for event in client.watch("/b"):
                    assert event.path == b"/b"
                    break
                with client.monitor() as monitor:
                    monitor.watch("/c")
                    monitor.unwatch("/c")
            with client.monitor() as monitor:
                for n in range(128):
                    monitor.watch("/d", token=n)
                with pytest.raises(QuotaExceeded):
                    monitor.watch("/d", token=128)
            dom0.close()
            client.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
