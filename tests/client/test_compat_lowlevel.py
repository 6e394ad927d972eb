"""What programs that were written for xen.lowlevel.xs do: one conversation with the Xen tools' binding and ours."""

from __future__ import annotations

import errno
import importlib.machinery
import importlib.util
import select
import sys
from pathlib import Path
from typing import Any

import pytest

from fastxs.compat import lowlevel_xs as ours
from fastxs.hypervisor.host import XEN_BIN, Host
from fastxs.hypervisor.simxen.guests import Guests


def theirs() -> Any:
    """Debian's, which is built for Debian's own version of Python."""
    folder = XEN_BIN.parent / "lib/python/xen/lowlevel"
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(folder, "xs" + suffix)
        if path.exists():
            spec = importlib.util.spec_from_file_location("xs", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return pytest.skip(f"no {folder}/xs for Python {sys.version_info.major}.{sys.version_info.minor}")


@pytest.fixture(params=["ours", "theirs"])
def module(request: pytest.FixtureRequest, fastxs_host: Host, monkeypatch: pytest.MonkeyPatch) -> Any:
    for variable, value in fastxs_host.env.items():
        monkeypatch.setenv(variable, value)
    return ours if request.param == "ours" else theirs()


@pytest.fixture
def handle(module: Any) -> Any:
    """An open connection, with its module's `Error` for `refused`."""
    handle = module.xs()
    yield handle
    handle.close()


def refused(module: Any, number: int, function: Any, *arguments: object) -> None:
    with pytest.raises(module.Error) as error:
        function(*arguments)
    assert error.value.args[0] == number
    assert isinstance(error.value, RuntimeError)


def test_nodes(module: Any, handle: Any) -> None:
    assert handle.write("", "/a", "text \xe9\0") is None
    assert handle.read("", "/a") == b"text \xc3\xa9\0"
    assert handle.write("0", "/b", b"by\0tes") is None
    assert handle.read("0", "/b") == b"by\0tes"
    assert handle.read("", "/none") is None
    assert handle.ls("", "/") == ["tool", "a", "b"]
    assert handle.ls("", "/none") is None
    assert handle.mkdir("", "/d/e") is None
    assert handle.rm("", "/d") is None
    assert handle.rm("", "/none/of/these") is None
    refused(module, errno.EINVAL, handle.read, "", "//")
    refused(module, errno.EINVAL, handle.rm, "", "//")


def test_permissions(module: Any, handle: Any) -> None:
    handle.write("", "/a", "")
    assert handle.get_permissions("", "/a") == [{"dom": 0, "read": 0, "write": 0}]
    handle.set_permissions("", "/a", [{"dom": 0}, {"dom": 7, "read": True, "write": 1}])
    assert handle.get_permissions("", "/a") == [
        {"dom": 0, "read": 0, "write": 0},
        {"dom": 7, "read": 1, "write": 2},
    ]
    handle.set_permissions("", "/a", [{"dom": 5, "read": True}])  # not the owner, who must be domain 0 then
    assert handle.get_permissions("", "/a") == [
        {"dom": 0, "read": 0, "write": 0},
        {"dom": 5, "read": 1, "write": 0},
    ]
    refused(module, errno.ENOENT, handle.get_permissions, "", "/none")
    refused(module, errno.EINVAL, handle.set_permissions, "", "/a", ({"dom": 0},))


def test_transactions(module: Any, handle: Any) -> None:
    tx = handle.transaction_start()
    assert tx == "1"
    handle.write(tx, "/t", "1")
    assert handle.read("", "/t") is None
    assert handle.transaction_end(tx) is True
    refused(module, errno.ENOENT, handle.transaction_end, tx)
    refused(module, errno.ENOENT, handle.transaction_end, "")
    tx = handle.transaction_start()
    assert handle.read(tx, "/t") == b"1"
    handle.write("", "/t", "2")
    handle.write(tx, "/t", "3")
    assert handle.transaction_end(tx) is False
    assert handle.read("", "/t") == b"2"
    tx = handle.transaction_start()
    handle.write(tx, "/t", "3")
    assert handle.transaction_end(tx, abort=1) is True
    assert handle.read("", "/t") == b"2"
    last = ""
    for _ in range(10):
        last = handle.transaction_start()
    assert int(last, 16) >= 10  # in base 16
    handle.write(last, "/u", "1")
    assert handle.transaction_end(last) is True
    assert handle.read("", "/u") == b"1"


def test_watches(module: Any, handle: Any) -> None:
    token = ["any object", "hashable or not"]
    assert handle.watch("/w", token) is None
    path, told = handle.read_watch()
    assert path == "/w"
    assert told is token
    assert handle.check_watch() is None
    handle.write("", "/w/x", "")
    assert select.select([handle.fileno()], [], [], 20)[0]
    assert handle.check_watch() == ("/w/x", token)
    refused(module, errno.EEXIST, handle.watch, "/w", token)
    assert handle.unwatch("/w", token) is None
    refused(module, errno.ENOENT, handle.unwatch, "/w", token)
    refused(module, errno.EINVAL, handle.watch, "//", token)


def test_domains(module: Any, handle: Any, fastxs_host: Host) -> None:
    assert handle.get_domain_path(5) == "/local/domain/5"
    refused(module, errno.ENOENT, handle.release_domain, 5)
    with Guests(fastxs_host.env["SIMXEN_DIR"]) as guests:
        guests.create(5)
        guests.create(6)
        assert handle.introduce_domain(5, 1, 2) is None
        assert handle.introduce_domain(6, 1, 2) is None
        assert handle.set_target(6, 5) is None
        assert handle.resume_domain(5) is None
        assert handle.release_domain(6) is None
        assert handle.release_domain(5) is None


def test_its_end(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = module.xs(readonly=1)
    assert handle.close() is None
    refused(module, errno.EINVAL, handle.close)
    refused(module, errno.EINVAL, handle.read, "", "/")
    refused(module, errno.EINVAL, handle.fileno)
    monkeypatch.setenv("XENSTORED_PATH", "/nonexistent")
    refused(module, errno.ENOENT, module.xs)
