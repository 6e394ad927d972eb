"""pyxs, a client in Python: nodes, permissions, domains, transactions, and its Monitor."""

from __future__ import annotations

from typing import Any

import pytest

from fastxs.hypervisor.host import Host
from fastxs.hypervisor.simxen.guests import Guests

pyxs = pytest.importorskip("pyxs", reason="pyxs is not installed")


def client(host: Host) -> Any:
    return pyxs.Client(unix_socket_path=str(host.socket))


@pytest.fixture(autouse=True)
def _in_domain_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client would find in /proc/xen/capabilities there."""
    monkeypatch.setattr(pyxs.Client, "SU", True)


def test_nodes_come_and_go(host: Host) -> None:
    with client(host) as c:
        assert c.list(b"/") == [b"tool"]
        c[b"/vm/1/name"] = b"web"
        assert c[b"/vm/1/name"] == b"web"
        c.mkdir(b"/vm/2")
        assert c.list(b"/vm") == [b"1", b"2"]
        assert c.exists(b"/vm/2")
        assert c.read(b"/vm/3", b"default") == b"default"
        assert [top for top, _, _ in c.walk(b"/vm")] == [b"/vm", b"/vm/1", b"/vm/1/name", b"/vm/2"]
        c.delete(b"/vm")
        assert not c.exists(b"/vm")
        with pytest.raises(pyxs.PyXSError, match="No such file"):
            c.read(b"/vm/1/name")


def test_permissions(host: Host) -> None:
    with client(host) as c:
        c[b"/vm"] = b"x"
        assert c.get_perms(b"/vm") == [b"n0"]
        c.set_perms(b"/vm", [b"n0", b"r7", b"w8"])
        assert c.get_perms(b"/vm") == [b"n0", b"r7", b"w8"]


def test_domains(host: Host) -> None:
    with Guests(host.env["SIMXEN_DIR"]) as guests, client(host) as c:
        guests.create(5)
        assert c.get_domain_path(5) == b"/local/domain/5"
        assert not c.is_domain_introduced(5)
        c.introduce_domain(5, 1, 2)
        assert c.is_domain_introduced(5)
        c.resume_domain(5)
        c.release_domain(5)
        assert not c.is_domain_introduced(5)


def test_a_transaction_shows_nothing_before_its_end(host: Host) -> None:
    with client(host) as writer, client(host) as reader:
        writer.transaction()
        writer[b"/vm/1"] = b"inside"
        assert writer[b"/vm/1"] == b"inside"
        assert not reader.exists(b"/vm/1")
        assert writer.commit()
        assert reader[b"/vm/1"] == b"inside"


def test_a_rolled_back_transaction_leaves_nothing(host: Host) -> None:
    with client(host) as c:
        c.transaction()
        c[b"/vm/1"] = b"inside"
        c.rollback()
        assert not c.exists(b"/vm")


def test_a_conflict_is_told_by_commit(host: Host) -> None:
    with client(host) as slow, client(host) as quick:
        quick[b"/counter"] = b"1"
        slow.transaction()
        assert slow[b"/counter"] == b"1"
        slow[b"/counter"] = b"2"
        quick[b"/counter"] = b"5"
        assert not slow.commit()
        assert quick[b"/counter"] == b"5"


def test_the_monitor_hears_changes(host: Host) -> None:
    with client(host) as writer, client(host) as watcher:
        monitor = watcher.monitor()
        with monitor:
            monitor.watch(b"/vm", b"token")
            events = monitor.wait()
            assert next(events) == (b"/vm", b"token")
            writer[b"/vm/1/name"] = b"web"
            assert next(events) == (b"/vm/1/name", b"token")
            writer.delete(b"/vm/1")
            assert next(events) == (b"/vm/1", b"token")
            monitor.unwatch(b"/vm", b"token")


def test_the_monitor_hears_domains(host: Host) -> None:
    with Guests(host.env["SIMXEN_DIR"]) as guests, client(host) as tool, client(host) as watcher:
        guests.create(5)
        with watcher.monitor() as monitor:
            monitor.watch(b"@introduceDomain", b"in")
            monitor.watch(b"@releaseDomain", b"out")
            events = monitor.wait()
            assert {next(events), next(events)} == {(b"@introduceDomain", b"in"), (b"@releaseDomain", b"out")}
            tool.introduce_domain(5, 1, 2)
            assert next(events) == (b"@introduceDomain", b"in")
            tool.release_domain(5)
            assert next(events) == (b"@releaseDomain", b"out")
