"""libxenstore itself, the C library under most tools, called by ctypes."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
from collections.abc import Iterator
from typing import Any

import pytest

from fastxs.hypervisor.host import Host

TX_NONE = 0


class Permission(ctypes.Structure):
    """struct xs_permissions: a domid and bits, 1 read, 2 write."""

    _fields_ = (("id", ctypes.c_uint), ("perms", ctypes.c_int))


class Library:
    """One handle of libxenstore; bytes in, bytes out, OSError with the daemon's error number."""

    def __init__(self, lib: Any) -> None:
        self.lib = lib
        lib.xs_open.restype = ctypes.c_void_p
        self.handle = ctypes.c_void_p(lib.xs_open(ctypes.c_ulong(0)))
        assert self.handle.value, "xs_open failed"
        self.free = ctypes.CDLL(None).free
        self.free.argtypes = [ctypes.c_void_p]

    def call(self, name: str, *arguments: object) -> bool:
        function = getattr(self.lib, name)
        function.restype = ctypes.c_bool
        if not function(self.handle, *arguments):
            raise OSError(ctypes.get_errno(), name)
        return True

    def start(self) -> int:
        self.lib.xs_transaction_start.restype = ctypes.c_uint32
        return int(self.lib.xs_transaction_start(self.handle))

    def read(self, path: bytes, tx: int = TX_NONE) -> bytes:
        size = ctypes.c_uint()
        self.lib.xs_read.restype = ctypes.c_void_p
        value = self.lib.xs_read(self.handle, tx, path, ctypes.byref(size))
        if not value:
            raise OSError(ctypes.get_errno(), "xs_read")
        found = ctypes.string_at(value, size.value)
        self.free(value)
        return found

    def write(self, path: bytes, value: bytes, tx: int = TX_NONE) -> None:
        self.call("xs_write", tx, path, value, ctypes.c_uint(len(value)))

    def directory(self, path: bytes, tx: int = TX_NONE) -> list[bytes]:
        count = ctypes.c_uint()
        self.lib.xs_directory.restype = ctypes.POINTER(ctypes.c_char_p)
        names = self.lib.xs_directory(self.handle, tx, path, ctypes.byref(count))
        if not names:
            raise OSError(ctypes.get_errno(), "xs_directory")
        found = [names[n] for n in range(count.value)]
        self.free(names)
        return found

    def permissions(self, path: bytes) -> list[tuple[int, int]]:
        count = ctypes.c_uint()
        self.lib.xs_get_permissions.restype = ctypes.POINTER(Permission)
        found = self.lib.xs_get_permissions(self.handle, TX_NONE, path, ctypes.byref(count))
        if not found:
            raise OSError(ctypes.get_errno(), "xs_get_permissions")
        entries = [(found[n].id, found[n].perms) for n in range(count.value)]
        self.free(found)
        return entries

    def next_event(self) -> tuple[bytes, bytes]:
        count = ctypes.c_uint()
        self.lib.xs_read_watch.restype = ctypes.POINTER(ctypes.c_char_p)
        event = self.lib.xs_read_watch(self.handle, ctypes.byref(count))
        assert event
        found = event[0], event[1]
        self.free(event)
        return found

    def close(self) -> None:
        self.lib.xs_close(self.handle)


@pytest.fixture
def xs(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """An open handle on the daemon."""
    name = ctypes.util.find_library("xenstore")
    if name is None:
        pytest.skip("libxenstore is missing (Debian package libxenstore4)")
    for variable, value in host.env.items():
        monkeypatch.setenv(variable, value)
    library = Library(ctypes.CDLL(name, use_errno=True))
    yield library
    library.close()


def test_nodes(xs: Library) -> None:
    xs.write(b"/vm/1/name", b"web\0and a tail")
    assert xs.read(b"/vm/1/name") == b"web\0and a tail"
    xs.call("xs_mkdir", TX_NONE, b"/vm/2")
    assert xs.directory(b"/vm") == [b"1", b"2"]
    xs.call("xs_rm", TX_NONE, b"/vm/1")
    with pytest.raises(OSError, match="xs_read") as refused:
        xs.read(b"/vm/1/name")
    assert refused.value.errno == errno.ENOENT


def test_a_directory_that_needs_parts(xs: Library) -> None:
    names = [b"child-%05d-with-a-long-name" % n for n in range(1000)]
    for name in names:
        xs.write(b"/many/" + name, b"")
    assert xs.directory(b"/many") == names


def test_permissions(xs: Library) -> None:
    xs.write(b"/vm", b"")
    assert xs.permissions(b"/vm") == [(0, 0)]
    entries = (Permission * 3)(Permission(0, 0), Permission(7, 1), Permission(8, 3))
    xs.call("xs_set_permissions", TX_NONE, b"/vm", entries, 3)
    assert xs.permissions(b"/vm") == [(0, 0), (7, 1), (8, 3)]


def test_a_transaction_and_its_conflict(xs: Library) -> None:
    xs.write(b"/counter", b"1")
    tx = xs.start()
    assert tx != 0
    assert xs.read(b"/counter", tx) == b"1"
    xs.write(b"/counter", b"2", tx)
    assert xs.read(b"/counter") == b"1"
    assert xs.call("xs_transaction_end", tx, ctypes.c_bool(False))
    assert xs.read(b"/counter") == b"2"
    tx = xs.start()
    assert xs.read(b"/counter", tx) == b"2"
    xs.write(b"/counter", b"3", tx)
    xs.write(b"/counter", b"beside")
    with pytest.raises(OSError, match="xs_transaction_end") as conflict:
        xs.call("xs_transaction_end", tx, ctypes.c_bool(False))
    assert conflict.value.errno == errno.EAGAIN
    assert xs.read(b"/counter") == b"beside"


def test_watches(xs: Library) -> None:
    xs.call("xs_watch", b"/vm", b"token")
    assert xs.next_event() == (b"/vm", b"token")
    xs.write(b"/vm/1", b"x")
    assert xs.next_event() == (b"/vm/1", b"token")
    xs.call("xs_unwatch", b"/vm", b"token")
    xs.write(b"/vm/2", b"x")


def test_domains(xs: Library) -> None:
    xs.lib.xs_get_domain_path.restype = ctypes.c_void_p
    path = xs.lib.xs_get_domain_path(xs.handle, 5)
    assert ctypes.string_at(path) == b"/local/domain/5"
    xs.free(path)
    assert xs.call("xs_is_domain_introduced", 0)
    with pytest.raises(OSError, match="xs_release_domain") as refused:
        xs.call("xs_release_domain", 5)
    assert refused.value.errno == errno.ENOENT
