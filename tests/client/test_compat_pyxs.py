"""What programs that were written for pyxs do, on fastxs.compat.pyxs; where pyxs itself is installed, on both.

The programs of the second part are run as their users would: unchanged, in a process that has called `install`.
"""

from __future__ import annotations

import copy
import errno
import importlib.util
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from fastxs.compat import pyxs as ours
from fastxs.compat.pyxs.connection import UnixSocketConnection, XenBusConnection
from fastxs.compat.pyxs.exceptions import InvalidPermission
from fastxs.hypervisor.host import Host
from fastxs.hypervisor.simxen.guests import Guests

THEIRS: Any = importlib.import_module("pyxs") if importlib.util.find_spec("pyxs") else None


@pytest.fixture(params=["ours", "theirs"])
def pyxs(request: pytest.FixtureRequest, fastxs_host: Host, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each of the two modules, in domain 0, with the daemon where it is looked for."""
    monkeypatch.setenv("XENSTORED_PATH", str(fastxs_host.socket))
    if request.param == "ours":
        return ours
    if THEIRS is None:
        pytest.skip("pyxs is not installed")
    monkeypatch.setattr(THEIRS.Client, "SU", True)
    return THEIRS


# -- both -------------------------------------------------------------------------------------------


def test_items(pyxs: Any) -> None:
    with pyxs.Client() as c:
        c[b"/local/domain/0/name"] = b"Ziggy"
        assert c[b"/local/domain/0/name"] == b"Ziggy"
        del c[b"/local/domain/0/name"]
        assert c.read(b"/local/domain/0/name", b"default") == b"default"
        with pytest.raises(pyxs.PyXSError) as missing:
            c[b"/local/domain/0/name"]
        assert missing.value.args == (errno.ENOENT, "No such file or directory")
        c.mkdir(b"/foo/bar")
        c.mkdir(b"/foo/baz")
        assert c.list(b"/foo") == [b"bar", b"baz"]
        assert c.exists(b"/foo")
        assert not c.exists(b"/bar")
        assert list(c.walk(b"/foo")) == [
            (b"/foo", b"", [b"bar", b"baz"]),
            (b"/foo/bar", b"", []),
            (b"/foo/baz", b"", []),
        ]
        c.delete(b"/foo")
        assert not c.exists(b"/foo")


def test_by_hand(pyxs: Any) -> None:
    c = pyxs.Client()
    with pytest.raises(pyxs.ConnectionError):
        c.read(b"/tool")
    c.connect()
    c[b"/local/domain/0/name"] = b"It works!"
    assert c[b"/local/domain/0/name"] == b"It works!"
    c.close()


@pytest.mark.parametrize("path", [b"", b"//", b"/a/", b"/a//b", b"/a b", b"/a.b", b"/" + b"x" * 3072])
def test_illegal_paths(pyxs: Any, path: bytes) -> None:
    with pyxs.Client() as c, pytest.raises(pyxs.InvalidPath):
        c.read(path)


def test_illegal_permissions_and_specials(pyxs: Any) -> None:
    with pyxs.Client() as c:
        c[b"/foo"] = b"x"
        with pytest.raises(ValueError, match="z7"):
            c.set_perms(b"/foo", [b"n0", b"z7"])
        c.set_perms(b"/foo", [b"n0", b"r7"])
        assert c.get_perms(b"/foo") == [b"n0", b"r7"]
        with c.monitor() as m, pytest.raises(pyxs.InvalidPath):
            m.watch(b"@noSuchThing", b"token")
        with pytest.raises(ValueError, match="domain 0"):
            c.introduce_domain(0, 1, 2)


def test_a_transaction_in_a_loop(pyxs: Any) -> None:
    with pyxs.Client() as c, pyxs.Client() as rival:
        attempts = 0
        success = False
        while not success:
            attempts += 1
            assert c.transaction() == c.tx_id != 0
            c[b"/foo/bar"] = c.read(b"/foo/bar", b"") + b"baz"
            if attempts < 3:
                rival[b"/foo/bar"] = b"%d" % attempts
            success = c.commit()
        assert attempts == 3
        assert c.tx_id == 0
        assert c[b"/foo/bar"] == b"2baz"
        c.transaction()
        with pytest.raises(pyxs.PyXSError) as twice:
            c.transaction()
        assert twice.value.args[0] == errno.EALREADY
        c[b"/foo/bar"] = b"never"
        c.rollback()
        assert c[b"/foo/bar"] == b"2baz"
        with pytest.raises(pyxs.PyXSError):
            c.rollback()


def test_a_transaction_that_is_forgotten(pyxs: Any) -> None:
    with pytest.raises(pyxs.PyXSError, match="uncommitted"), pyxs.Client() as c:
        c.transaction()


def test_a_router_is_shared(pyxs: Any) -> None:
    connections = sys.modules[pyxs.__name__ + ".connection"]
    with pyxs.Client(router=pyxs.Router(connections.UnixSocketConnection())) as c:
        one, two = copy.copy(c), copy.copy(c)
        one.transaction()
        one[b"/foo"] = b"inside"
        assert not two.exists(b"/foo")  # the transaction is one client's, the connection is everybody's
        assert one.commit()
        assert two[b"/foo"] == b"inside"


def test_events(pyxs: Any) -> None:
    with pyxs.Client() as c, pyxs.Client() as rival, c.monitor() as m:
        m.watch(b"/foo/bar", b"baz")
        assert m.watched == {b"/foo/bar"}
        events = m.wait()
        assert next(events) == (b"/foo/bar", b"baz")
        rival[b"/foo/bar/boo"] = b"x"
        event = next(m.wait())
        assert (event.path, event.token) == (b"/foo/bar/boo", b"baz")
        m.unwatch(b"/foo/bar", b"baz")
        assert m.watched == set()
        with pytest.raises(pyxs.PyXSError) as gone:
            m.unwatch(b"/foo/bar", b"baz")
        assert gone.value.args[0] == errno.ENOENT


def test_domains(pyxs: Any, fastxs_host: Host) -> None:
    with Guests(fastxs_host.env["SIMXEN_DIR"]) as guests, pyxs.Client() as c, pyxs.monitor() as m:
        guests.create(5)
        m.watch(b"@introduceDomain", b"in")
        m.watch(b"@releaseDomain", b"out")
        events = m.wait()
        assert {next(events).path, next(events).path} == {b"@introduceDomain", b"@releaseDomain"}
        c.introduce_domain(5, 1, 2)
        assert next(events).path == b"@introduceDomain"
        assert c.is_domain_introduced(5)
        c.set_target(5, 5)
        c.resume_domain(5)
        c.release_domain(5)
        assert next(events).path == b"@releaseDomain"
        assert c.get_domain_path(5) == b"/local/domain/5"


def test_the_older_interface(pyxs: Any) -> None:
    handle = pyxs.xs()
    handle.write("0", b"/local/domain/0/name", b"Domain-0")
    assert handle.read("0", b"/local/domain/0/name") == b"Domain-0"
    assert handle.ls("0", b"/local/domain/0") == [b"name"]
    assert handle.ls("0", b"/nowhere") is None
    tx = handle.transaction_start()
    handle.write(tx, b"/foo", b"inside")
    assert handle.ls("", b"/") == [b"tool", b"local"]
    assert handle.transaction_end(tx)
    assert handle.read("", b"/foo") == b"inside"
    assert handle.get_domain_path(0) == b"/local/domain/0"
    token = object()
    handle.watch(b"/foo", token)
    assert handle.read_watch() == (b"/foo", token)
    handle.unwatch(b"/foo", token)
    with pytest.raises(pyxs.Error):
        handle.rm("", b"//")
    handle.close()


# -- ours -------------------------------------------------------------------------------------------


def test_what_pyxs_cannot(fastxs_host: Host) -> None:
    with ours.Client(str(fastxs_host.socket)) as c:
        for value in (b"", b"ends with NULs\0\0", bytes(range(256))):
            c[b"/value"] = value
            assert c[b"/value"] == value
        names = [b"child-%05d-with-a-long-name" % n for n in range(300)]
        for name in names:
            c[b"/many/" + name] = b""
        assert c.list(b"/many") == names
        assert [path for path, _, _ in c.walk(b"/many", topdown=False)][-1] == b"/many"
        with c.monitor() as m:
            m.watch(b"@releaseDomain/5", b"token")
        with pytest.raises(InvalidPermission):
            c.set_perms(b"/many", [b"n"])


def test_a_client_that_is_closed_ends_the_wait(fastxs_host: Host) -> None:
    c = ours.Client(str(fastxs_host.socket))
    c.connect()
    m = c.monitor()
    m.watch(b"/foo", b"token")
    seen: list[object] = []
    waiting = threading.Thread(target=lambda: seen.extend(m.wait()))
    waiting.start()
    c.close()
    waiting.join(20)
    assert seen in ([], [(b"/foo", b"token")])


def test_how_things_look(fastxs_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(fastxs_host.socket)
    monkeypatch.setenv("XENSTORED_PATH", path)
    assert repr(ours.Client(unix_socket_path="/a/socket")) == "Client(UnixSocketConnection('/a/socket'))"
    assert repr(ours.Client()) == f"Client(UnixSocketConnection({path!r}))"
    assert repr(ours.Client(xen_bus_path="/dev/xen/xenbus")) == "Client(XenBusConnection('/dev/xen/xenbus'))"
    with ours.Client() as c:
        m = c.monitor()
        m.watch(b"/foo/bar", b"a unique token")
        assert repr(next(m.wait())) == "Event(path=b'/foo/bar', token=b'a unique token')"


def test_no_daemon() -> None:
    with pytest.raises(ours.ConnectionError), ours.Client(unix_socket_path="/nonexistent/socket"):
        pass


def test_the_devices_name() -> None:
    assert XenBusConnection().path in ("/dev/xen/xenbus", "/proc/xen/xenbus")
    assert UnixSocketConnection("/a").path == "/a"


PROGRAM = """
import pyxs
from pyxs import Client, Monitor, PyXSError, Router, xs
from pyxs.client import Client as SameClient
from pyxs.connection import UnixSocketConnection, XenBusConnection
from pyxs.exceptions import InvalidPath

assert SameClient is Client
router = Router(UnixSocketConnection())
with Client(router=router) as c:
    c[b"/foo/bar"] = b"baz"
    try:
        c[b"/path/to/something/useless"]
    except PyXSError as e:
        print(e)
    while True:
        c.transaction()
        c[b"/bar/foo"] = b"baz"
        if c.commit():
            break
    m = c.monitor()
    m.watch(b"/bar", b"a unique token")
    print(next(m.wait()))
with pyxs.monitor() as m:
    m.watch(b"@introduceDomain", b"unused")
    for wpath, _token in m.wait():
        print(wpath)
        break
"""

LOWLEVEL = """
import xen.lowlevel.xs
from xen.lowlevel.xs import xs, Error
handle = xen.lowlevel.xs.xs()
handle.write("", "/foo", "bar")
print(handle.read("", "/foo"))
handle.close()
"""


@pytest.mark.parametrize(
    ("name", "program", "said"),
    [
        (
            "pyxs",
            PROGRAM,
            "(2, 'No such file or directory')\nEvent(path=b'/bar', token=b'a unique token')\nb'@introduceDomain'\n",
        ),
        ("xen.lowlevel.xs", LOWLEVEL, "b'bar'\n"),
    ],
    ids=["pyxs", "xen.lowlevel.xs"],
)
def test_a_program_that_is_not_changed(fastxs_host: Host, name: str, program: str, said: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", f"import fastxs.compat; fastxs.compat.install({name!r})\n{program}"],
        env=os.environ | fastxs_host.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.stderr, run.stdout) == ("", said)
