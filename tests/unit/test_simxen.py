"""The pretend hypervisor must refuse what Xen and Linux refuse, or it hides bugs.

Daemons and guests are played from one process here, through libsimxen.so's two faces, except where a
process has to die or to exec.  Nothing of XenStore is known.
"""

import ctypes
import errno
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastxs.hypervisor import simxen
from fastxs.hypervisor.simxen import build
from fastxs.hypervisor.simxen.guests import ALIVE, DEAD, DYING, SHUTDOWN, Guests

VIRQ_DOM_EXC = 3
READ_WRITE = 3
NO_CLOEXEC = 1

EXIST, XM_SHUTDOWN, XM_DYING, XM_DEAD = 1, 2, 4, 8  # libxenmanage's state bits
INFO_DYING, INFO_SHUTDOWN, INFO_RUNNING = 1, 4, 32  # libxenctrl's flags


class DomainInfo(ctypes.Structure):
    """xc_domaininfo_t of Xen 4.17; all versions agree on the first two."""

    _fields_ = [
        ("domid", ctypes.c_uint16),
        ("flags", ctypes.c_uint32),
        ("pages", ctypes.c_uint64 * 5),
        ("times", ctypes.c_uint64 * 2),
        ("vcpus", ctypes.c_uint32 * 3),
        ("handle", ctypes.c_uint8 * 16),
        ("rest", ctypes.c_uint32 * 5),
    ]


class Status(ctypes.Structure):
    """xc_evtchn_status_t."""

    _fields_ = [
        ("dom", ctypes.c_uint16),
        ("port", ctypes.c_uint32),
        ("status", ctypes.c_uint32),
        ("vcpu", ctypes.c_uint32),
        ("remote_dom", ctypes.c_uint16),
        ("remote_port", ctypes.c_uint32),
    ]


class Daemon:
    """A daemon's calls, as libxenevtchn, libxengnttab, libxenctrl and libxenmanage name them."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(str(simxen.LIBRARY), use_errno=True)
        for name in ("xenevtchn_open", "xenevtchn_fdopen", "xengnttab_open", "xengnttab_map_grant_ref"):
            getattr(self.lib, name).restype = ctypes.c_void_p
        for name in ("xenforeignmemory_open", "xenforeignmemory_map", "xc_interface_open", "simxen_dom0_map"):
            getattr(self.lib, name).restype = ctypes.c_void_p
        self.evtchn = self.open()
        self.gnttab = self("xengnttab_open", None, 0)
        self.xc = self("xc_interface_open", None, None, 0)

    def __call__(self, name: str, *arguments: Any) -> int:
        """OSError: it failed.  Integers too large for an int are pointers."""
        whole = [ctypes.c_void_p(a) if isinstance(a, int) and a >= 1 << 32 else a for a in arguments]
        result = getattr(self.lib, name)(*whole)
        if result is None or result == -1:
            raise OSError(ctypes.get_errno(), name)
        return int(result)

    # -- event channels
    def open(self, flags: int = 0) -> int:
        return self("xenevtchn_open", None, flags)

    def bind(self, domid: int, port: int) -> int:
        return self("xenevtchn_bind_interdomain", self.evtchn, domid, port)

    def bind_virq(self) -> int:
        return self("xenevtchn_bind_virq", self.evtchn, VIRQ_DOM_EXC)

    def unbind(self, port: int) -> None:
        self("xenevtchn_unbind", self.evtchn, port)

    def notify(self, port: int) -> None:
        self("xenevtchn_notify", self.evtchn, port)

    def unmask(self, *ports: int) -> None:
        self("simxen_unmask_many", self.evtchn, (ctypes.c_uint32 * len(ports))(*ports), len(ports))

    def pending(self) -> list[int]:
        """The ports that one read of the descriptor gives; none: it is not readable."""
        fd = self("xenevtchn_fd", self.evtchn)
        if not select.select([fd], [], [], 0)[0]:
            return []
        return memoryview(os.read(fd, 4096)).cast("I").tolist()

    def read_ports(self, room: int = 16) -> list[int]:
        """The same through the call that may say EFBIG."""
        ports = (ctypes.c_uint32 * room)()
        n = self("simxen_pending_many", self.evtchn, ports, room)
        return ports[:n]

    def reset(self) -> None:
        self("simxen_reset", self.evtchn)

    def status(self, port: int) -> Status:
        status = Status(dom=0x7FF0, port=port)
        self("xc_evtchn_status", self.xc, ctypes.byref(status))
        return status

    # -- pages
    def map(self, domid: int, ref: int = 1) -> int:
        return self("xengnttab_map_grant_ref", self.gnttab, domid, ref, READ_WRITE)

    def unmap(self, address: int) -> None:
        self("xengnttab_unmap", self.gnttab, address, 1)

    # -- domains
    def records(self, first: int = 0, room: int = 16) -> list[DomainInfo]:
        """What one xc_domain_getinfolist tells."""
        info = (DomainInfo * room)()
        n = self("xc_domain_getinfolist", self.xc, first, room, info)
        return info[:n]

    def domains(self, first: int = 0) -> dict[int, int]:
        """domid -> flags."""
        return {one.domid: one.flags for one in self.records(first)}

    def describe(self, domid: int) -> tuple[int, int, int]:
        """State, capabilities and unique id, by libxenmanage."""
        state, caps, uid = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint64()
        self("xenmanage_get_domain_info", 1, domid, ctypes.byref(state), ctypes.byref(caps), ctypes.byref(uid))
        return state.value, caps.value, uid.value

    def changed(self) -> list[tuple[int, int]]:
        """(domid, state) of every domain that changed since the last call."""
        found: list[tuple[int, int]] = []
        domid, state, caps, uid = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint64()
        while True:
            try:
                self(
                    "xenmanage_poll_changed_domain",
                    1,
                    ctypes.byref(domid),
                    ctypes.byref(state),
                    ctypes.byref(caps),
                    ctypes.byref(uid),
                )
            except FileNotFoundError:
                return found
            found.append((domid.value, state.value))


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    build.build()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIMXEN_DIR", str(tmp_path / "hv"))
    return tmp_path / "hv"


@pytest.fixture
def guests(folder: Path) -> Iterator[Guests]:
    with Guests(folder) as guests:
        yield guests


@pytest.fixture
def daemon(guests: Guests) -> Iterator[Daemon]:
    daemon = Daemon()
    yield daemon
    daemon.lib.simxen_detach()


def refusal(call: Any, *arguments: Any) -> int | None:
    """The errno of a call that must fail."""
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return caught.value.errno


# ---------------------------------------------------------------------------- event channels


def test_binding_needs_a_domain_and_a_port_that_it_offers(guests: Guests, daemon: Daemon) -> None:
    assert refusal(daemon.bind, 7, 2) == errno.ESRCH
    guests.create(7, port=2)
    assert refusal(daemon.bind, 7, 3) == errno.EINVAL
    port = daemon.bind(7, 2)
    assert refusal(daemon.bind, 7, 2) == errno.EINVAL, "it is bound already"
    daemon.unbind(port)
    assert daemon.bind(7, 2) > 0, "and offered again once the daemon's end is closed"


def test_a_binding_raises_the_local_port_once(guests: Guests, daemon: Daemon) -> None:
    guests.create(7)
    port = daemon.bind(7, 2)
    assert daemon.pending() == [port]
    assert daemon.pending() == []


def test_an_event_is_delivered_once_and_then_masked_until_unmasked(guests: Guests, daemon: Daemon) -> None:
    guests.create(7)
    port = daemon.bind(7, 2)
    assert daemon.pending() == [port]
    guests.notify(7)
    guests.notify(7)
    assert daemon.pending() == [], "masked since it was read"
    daemon.unmask(port)
    assert daemon.pending() == [port], "both notifications are one event"
    daemon.unmask(port)
    assert daemon.pending() == []
    guests.notify(7)
    assert daemon.pending() == [port]


def test_many_ports_come_in_one_read_and_go_in_one_unmask(guests: Guests, daemon: Daemon) -> None:
    for domid in range(1, 101):
        guests.create(domid)
    ports = [daemon.bind(domid, 2) for domid in range(1, 101)]
    assert daemon.pending() == ports
    for domid in range(1, 51):
        guests.notify(domid)
    before = guests.count("unmask")
    daemon.unmask(*ports)
    assert guests.count("unmask") - before == 100
    assert daemon.pending() == ports[:50]


def test_ports_that_are_not_bound_cannot_be_used(guests: Guests, daemon: Daemon) -> None:
    assert refusal(daemon.notify, 77) == errno.ENOTCONN
    assert refusal(daemon.notify, 1 << 20) == errno.EINVAL
    assert refusal(daemon.unbind, 77) == errno.ENOTCONN
    assert refusal(daemon.unmask, 77) == errno.EINVAL
    guests.create(7)
    port = daemon.bind(7, 2)
    assert refusal(daemon.unmask, 77, port) == errno.EINVAL
    guests.notify(7)
    assert daemon.pending() == [port, port], "the good one beside it was unmasked"


def test_an_event_read_before_its_port_was_unbound_may_be_unmasked_once(guests: Guests, daemon: Daemon) -> None:
    guests.create(7)
    port = daemon.bind(7, 2)
    daemon.unbind(port)
    assert daemon.pending() == [port], "it was in the pipe"
    other = daemon.bind(7, 2)
    assert other != port, "no new port of that number until then"
    daemon.unmask(port)
    assert refusal(daemon.unmask, port) == errno.EINVAL


def test_a_port_belongs_to_the_handle_that_bound_it(guests: Guests, daemon: Daemon) -> None:
    guests.create(7)
    port = daemon.bind(7, 2)
    other = daemon.open()
    assert refusal(daemon, "xenevtchn_notify", other, port) == errno.ENOTCONN
    assert refusal(daemon, "xenevtchn_bind_interdomain", other, 7, 2) == errno.EINVAL
    daemon("xenevtchn_close", daemon.evtchn)
    assert daemon("xenevtchn_bind_interdomain", other, 7, 2) == port, "ports end with their descriptor"


def test_the_daemon_s_notifications_reach_the_guest_once(guests: Guests, daemon: Daemon) -> None:
    guests.create(7)
    guests.create(8)
    seven, eight = daemon.bind(7, 2), daemon.bind(8, 2)
    daemon.notify(seven)
    daemon.notify(eight)
    daemon.notify(seven)
    assert select.select([guests], [], [], 0)[0]
    assert guests.events() == [7, 8]
    assert guests.events() == []
    daemon.notify(seven)
    assert guests.events() == [7]


def test_the_death_virq_has_one_listener(guests: Guests, daemon: Daemon) -> None:
    virq = daemon.bind_virq()
    assert refusal(daemon.bind_virq) == errno.EEXIST
    daemon.unbind(virq)
    assert daemon.bind_virq() == virq


def test_a_guest_that_closes_its_port_leaves_the_daemon_s_bound_to_nothing(guests: Guests, daemon: Daemon) -> None:
    guests.create(7, port=2)
    port = daemon.bind(7, 2)
    now = daemon.status(port)
    assert (now.status, now.remote_dom, now.remote_port) == (2, 7, 2)
    guests.offer(7, port=5)
    assert daemon.status(port).status == 1, "unbound"
    daemon.notify(port)
    assert guests.events() == []
    assert refusal(daemon.bind, 7, 2) == errno.EINVAL
    again = daemon.bind(7, 5)
    daemon.unbind(port)
    daemon.notify(again)
    assert guests.events() == [7]


def test_dom0_s_kernel_offers_its_page_and_port(guests: Guests, daemon: Daemon) -> None:
    port = daemon.bind(0, daemon("simxen_dom0_port"))
    guests.adopt(0)
    daemon.notify(port)
    assert guests.events() == [0]
    page = daemon("simxen_dom0_map")
    guests.ring(0)[:4] = b"dom0"
    assert ctypes.string_at(page, 4) == b"dom0"


def test_an_overflowed_device_says_so_until_it_is_reset(guests: Guests, daemon: Daemon) -> None:
    """Linux: EFBIG at each read; a reset loses what was not read, and those ports stay masked, whichever they are."""
    guests.create(7)
    guests.create(8)
    seven, eight = daemon.bind(7, 2), daemon.bind(8, 2)
    assert daemon.read_ports() == [seven, eight]
    daemon.unmask(seven, eight)
    guests.notify(7)
    guests.fail("read", 1, errno.EFBIG)
    assert refusal(daemon.read_ports) == errno.EFBIG
    assert refusal(daemon, "xenevtchn_pending", daemon.evtchn) == errno.EFBIG
    daemon.reset()
    guests.notify(7)
    guests.notify(8)
    assert daemon.read_ports() == [eight], "the other one is masked, and its first event is lost"
    daemon.unmask(seven, eight)
    assert daemon.read_ports() == [seven]


def test_a_reset_gives_back_the_ports_that_were_unbound_with_an_event_unread(guests: Guests, daemon: Daemon) -> None:
    guests.create(7)
    port = daemon.bind(7, 2)
    daemon.unbind(port)
    daemon.reset()
    assert daemon.bind(7, 2) == port


def test_other_errors_of_a_read_pass(guests: Guests, daemon: Daemon) -> None:
    guests.create(7)
    port = daemon.bind(7, 2)
    guests.fail("read", 1, errno.EINTR)
    assert refusal(daemon.read_ports) == errno.EINTR
    assert daemon.read_ports() == [port]


# ------------------------------------------------------------------------------------ pages


def test_a_page_is_mapped_by_grant_1_of_a_living_domain(guests: Guests, daemon: Daemon) -> None:
    assert refusal(daemon.map, 7) == errno.EINVAL
    guests.create(7)
    assert refusal(daemon.map, 7, 2) == errno.EINVAL
    page = daemon.map(7)
    guests.ring(7)[:5] = b"hello"
    assert ctypes.string_at(page, 5) == b"hello"
    ctypes.memmove(page + 1024, b"back", 4)
    assert bytes(guests.ring(7)[1024:1028]) == b"back"
    guests.dying(7)
    assert refusal(daemon.map, 7) == errno.EINVAL


def test_mapped_pages_are_counted(guests: Guests, daemon: Daemon) -> None:
    guests.create(7)
    assert guests.mapped(7) == 0
    first, second = daemon.map(7), daemon.map(7)
    assert first != second
    assert guests.mapped(7) == 2
    daemon.unmap(first)
    assert guests.mapped(7) == 1
    assert refusal(daemon.unmap, first) == errno.EINVAL, "it is not mapped"
    assert refusal(daemon.unmap, second + 8) == errno.EINVAL
    daemon.unmap(second)
    assert guests.mapped(7) == 0


def test_a_foreign_mapping_is_not_a_grant_mapping(guests: Guests, daemon: Daemon) -> None:
    guests.create(7)
    memory = daemon("xenforeignmemory_open", None, 0)
    frame, error = ctypes.c_uint64(0x1007), ctypes.c_int()
    page = daemon(
        "xenforeignmemory_map", memory, 7, READ_WRITE, ctypes.c_size_t(1), ctypes.byref(frame), ctypes.byref(error)
    )
    assert refusal(daemon.unmap, page) == errno.EINVAL
    daemon("xenforeignmemory_unmap", memory, page, ctypes.c_size_t(1))
    assert guests.mapped(7) == 0


def test_a_reused_domid_has_a_new_page_and_a_new_unique_id(guests: Guests, daemon: Daemon) -> None:
    guests.create(7)
    guests.ring(7)[:3] = b"old"
    old, uid = guests.ring(7), guests.uid(7)
    guests.kill(7)
    guests.create(7)
    assert guests.uid(7) != uid
    assert bytes(guests.ring(7)[:3]) == bytes(3)
    guests.ring(7)[:3] = b"new"
    assert bytes(old[:3]) == bytes(3), "the old page is not the new one, and was freed"


def test_a_ring_is_a_stream_of_bytes_to_its_guest(guests: Guests, daemon: Daemon) -> None:
    guests.create(7)
    port, page = daemon.bind(7, 2), daemon.map(7)
    assert daemon.pending() == [port]
    daemon.unmask(port)
    indices = (ctypes.c_uint32 * 4).from_address(page + 2048)  # req_cons, req_prod, rsp_cons, rsp_prod
    with guests.open(7) as ring:
        assert refusal(ring.take) == errno.EAGAIN
        assert ring.put(b"hello") == 5
        assert daemon.pending() == [port]
        assert ctypes.string_at(page, 5) == b"hello"
        assert ring.put(b"x" * 2000) == 1019, "it holds 1024 bytes"
        assert ring.put(b"x") == 0
        indices[0] += 3  # the daemon takes them
        ctypes.memmove(page + 1024, b"back", 4)
        indices[3] += 4
        daemon.notify(port)
        assert select.select([ring], [ring], [], 0)[:2] == ([ring], []), "never writable"
        assert ring.put(b"yz") == 2
        assert ctypes.string_at(page, 2) == b"yz", "round the end of the ring"
        assert select.select([ring], [], [], 0)[0], "still"
        assert ring.take() == b"back"
        assert not select.select([ring], [], [], 0)[0]
    with pytest.raises(ValueError, match="closed"):
        ring.take()


def test_each_ring_has_a_descriptor_of_its_own(guests: Guests, daemon: Daemon) -> None:
    for domid in (7, 8, 9):
        guests.create(domid)
    ports = [daemon.bind(domid, 2) for domid in (7, 8, 9)]
    with guests.open(7) as seven, guests.open(8) as eight:
        daemon.notify(ports[1])
        daemon.notify(ports[2])
        everybody = [seven.fileno(), eight.fileno(), guests.fileno()]
        assert select.select(everybody, [], [], 0)[0] == everybody[1:]
        assert guests.events() == [9]
    daemon.notify(ports[0])
    assert guests.events() == [7], "closed: its events come with the others' again"


def test_a_ring_ends_with_its_domain(guests: Guests, daemon: Daemon) -> None:
    guests.create(7)
    guests.create(8)
    with guests.open(7) as ring, guests.open(8) as broken:
        guests.kill(7)
        with pytest.raises(ConnectionResetError, match="No such process"):
            ring.take()
        guests.create(7)
        with pytest.raises(ConnectionResetError, match="no more"):
            ring.put(b"to another")
        assert bytes(guests.ring(7)[:10]) == bytes(10)
        guests.ring(8)[2052:2056] = b"\xff\xff\0\0"
        with pytest.raises(ConnectionResetError, match="Protocol"):
            broken.put(b"x")
        guests.ring(8)[2072:2076] = b"\2\0\0\0"  # what the daemon says then
        with pytest.raises(ConnectionResetError, match="reset by peer"):
            broken.take()


def test_a_domain_that_xen_built_has_its_port_in_its_page(guests: Guests, daemon: Daemon) -> None:
    """dom0less (SPEC 2.1): nobody introduces it; whoever connects it clears the word at 2068."""
    guests.create(7, port=9)
    guests.prebuild(7)
    page = daemon.map(7)
    connection, _, port = (ctypes.c_uint32 * 3).from_address(page + 2068)
    assert (connection, port) == (1, 9)
    assert daemon.bind(7, port) > 0


# ---------------------------------------------------------------------------------- domains


def test_domains_are_listed_from_a_domid_on(guests: Guests, daemon: Daemon) -> None:
    assert daemon.domains() == {0: INFO_RUNNING}
    guests.create(5)
    guests.create(9)
    assert daemon.domains(1) == {5: INFO_RUNNING, 9: INFO_RUNNING}
    assert daemon.domains(6) == {9: INFO_RUNNING}
    assert daemon.domains(10) == {}
    with pytest.raises(FileExistsError):
        guests.create(9)


def test_one_call_lists_many_domains_each_with_a_handle_of_its_creation(guests: Guests, daemon: Daemon) -> None:
    for domid in range(1, 1001):
        guests.create(domid)
    records = daemon.records(1, room=4000)
    assert [one.domid for one in records] == list(range(1, 1001))
    handles = {bytes(one.handle) for one in records}
    assert len(handles) == 1000
    assert bytes(daemon.records(0, room=1)[0].handle) == bytes(16), "dom0's"
    guests.kill(500)
    guests.create(500)
    (again,) = daemon.records(500, room=1)
    assert bytes(again.handle) not in handles


@pytest.mark.parametrize(
    ("version", "there"), [("4.17", False), ("4.20", False), ("4.21", True), ("4.22", True), ("", True)]
)
def test_libxenmanage_came_with_xen_4_21(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, version: str, there: bool
) -> None:
    monkeypatch.setenv("SIMXEN_XEN", version)
    daemon.lib.xenmanage_open.restype = ctypes.c_void_p
    if there:
        assert daemon("xenmanage_open", None, 0)
    else:
        assert refusal(daemon, "xenmanage_open", None, 0) == errno.ENOSYS


def test_a_death_is_seen_before_the_domain_is_gone(guests: Guests, daemon: Daemon) -> None:
    virq = daemon.bind_virq()
    guests.create(7)
    page = daemon.map(7)
    guests.shutdown(7)
    assert daemon.pending() == [virq]
    assert daemon.domains(7) == {7: INFO_SHUTDOWN}
    daemon.unmask(virq)

    guests.kill(7)
    assert daemon.pending() == [virq]
    assert daemon.domains(7) == {7: INFO_SHUTDOWN | INFO_DYING}
    assert guests.state(7) == ALIVE | SHUTDOWN | DYING | DEAD
    assert refusal(daemon.map, 7) == errno.EINVAL
    with pytest.raises(FileExistsError):
        guests.create(7)
    daemon.unmask(virq)

    daemon.unmap(page)
    assert daemon.pending() == [virq], "gone, now that nobody holds its page"
    assert daemon.domains(7) == {}
    assert guests.state(7) == 0
    guests.create(7)


def test_libxenmanage_tells_what_changed(guests: Guests, daemon: Daemon) -> None:
    guests.create(5)
    assert daemon.changed() == [], "nobody listens for deaths yet"
    daemon.bind_virq()
    assert daemon.changed() == [(0, EXIST), (5, EXIST)], "the first look shows everybody"
    assert daemon.changed() == []
    guests.create(6)
    guests.shutdown(5)
    assert daemon.changed() == [(5, EXIST | XM_SHUTDOWN), (6, EXIST)]
    page = daemon.map(6)
    guests.dying(6)
    assert daemon.changed() == [(6, EXIST | XM_DYING)]
    guests.kill(6)
    assert daemon.changed() == [(6, EXIST | XM_DEAD)]
    assert daemon.describe(6) == (EXIST | XM_DEAD, 0, guests.uid(6))
    daemon.unmap(page)
    assert daemon.changed() == [(6, 0)]
    assert refusal(daemon.describe, 6) == errno.ESRCH
    assert daemon.describe(0)[:2] == (EXIST, 7), "dom0 controls, owns the hardware and serves the store"


def test_a_domid_can_be_reused_before_anybody_hears_of_the_death(guests: Guests, daemon: Daemon) -> None:
    """Nobody maps its page, so it is gone at once; the unique id and the page say that this is another one."""
    virq = daemon.bind_virq()
    assert daemon.changed() == [(0, EXIST)]
    guests.create(7)
    assert daemon.changed() == [(7, EXIST)]
    first = daemon.describe(7)
    port, page = daemon.bind(7, 2), daemon.map(7)
    assert daemon.pending() == [port]
    daemon.unmap(page)  # RELEASE: the page goes, the port later
    guests.kill(7, virq=False)
    guests.create(7)
    assert daemon.pending() == [], "no word of it yet"
    assert daemon.changed() == [(7, EXIST)]
    assert daemon.describe(7) != first
    daemon.notify(port)
    assert guests.events() == [], "the old port leads nowhere"
    assert daemon.bind(7, 2) != port
    guests.virq()
    assert virq in daemon.pending()


def test_a_page_that_is_given_back_late_keeps_the_domid(guests: Guests, daemon: Daemon) -> None:
    """The news of a death, the last unmapping, the news of the end, the next creation: in this order only."""
    virq = daemon.bind_virq()
    guests.create(7)
    page = daemon.map(7)
    guests.kill(7, virq=False)
    with pytest.raises(FileExistsError):
        guests.create(7)
    assert daemon.pending() == []
    daemon.unmap(page)
    assert daemon.pending() == [virq]
    guests.create(7)


def test_faults_can_be_injected(guests: Guests, daemon: Daemon) -> None:
    guests.create(7)
    guests.fail("map", 2, errno.EAGAIN)
    assert refusal(daemon.map, 7) == errno.EAGAIN
    assert refusal(daemon.map, 7) == errno.EAGAIN
    assert daemon.map(7)
    guests.fail("bind", 1, errno.ENOSPC)
    assert refusal(daemon.bind, 7, 2) == errno.ENOSPC
    port = daemon.bind(7, 2)
    guests.fail("notify", 1, errno.EIO)
    assert refusal(daemon.notify, port) == errno.EIO
    daemon.notify(port)
    assert guests.events() == [7]


# ------------------------------------------------------------------------- lives and programs


def test_a_guest_program_has_its_slot_alone_and_takes_its_domains_along(folder: Path) -> None:
    with Guests(folder, slot=3) as first, Guests(folder) as second:
        with pytest.raises(OSError, match="busy"):
            Guests(folder, slot=3)
        first.create(7)
        second.create(8)
        assert second.state(7) == ALIVE
        first.close()
        assert second.state(7) == 0
        assert second.state(8) == ALIVE


# What the programs below have in common: a daemon that binds domain 7 and the VIRQ and maps the page.
BEGIN = """
import ctypes, os, sys
lib = ctypes.CDLL(sys.argv[1], use_errno=True)
for name in ("xenevtchn_open", "xenevtchn_fdopen", "xengnttab_open", "xengnttab_map_grant_ref"):
    getattr(lib, name).restype = ctypes.c_void_p
void = ctypes.c_void_p
"""
LIVE = f"""
evtchn = void(lib.xenevtchn_open(None, {NO_CLOEXEC}))
assert evtchn
port, virq = lib.xenevtchn_bind_interdomain(evtchn, 7, 2), lib.xenevtchn_bind_virq(evtchn, 3)
assert port > 0 and virq > 0, (port, virq, ctypes.get_errno())
assert lib.xengnttab_map_grant_ref(void(lib.xengnttab_open(None, 0)), 7, 1, 3)
print(port, virq, flush=True)
"""


def program(text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, str(simxen.LIBRARY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_killed_daemon_keeps_neither_ports_nor_pages(guests: Guests) -> None:
    guests.create(7)
    with program(BEGIN + LIVE + "sys.stdin.read()") as victim:
        assert victim.stdout and victim.stdout.readline()
        assert guests.mapped(7) == 1
        other = Daemon()
        try:
            assert refusal(other.bind, 7, 2) == errno.EINVAL, "it lives"
            assert refusal(other.bind_virq) == errno.EEXIST
        finally:
            other.lib.simxen_detach()
        victim.kill()
    guests.kill(7)
    assert guests.state(7) == 0, "no zombie: the page went with the process"
    guests.create(7)
    successor = Daemon()
    try:
        assert successor.bind(7, 2) > 0
        assert successor.bind_virq() > 0
        assert successor.map(7)
    finally:
        successor.lib.simxen_detach()


def test_ports_live_on_over_exec_and_mapped_pages_do_not(guests: Guests) -> None:
    guests.create(7)
    after = BEGIN + (
        "evtchn = void(lib.xenevtchn_fdopen(None, int(sys.argv[2]), 0))\n"
        "print(lib.xenevtchn_notify(evtchn, int(sys.argv[3])), lib.xenevtchn_bind_virq(evtchn, 3),"
        " lib.xengnttab_map_grant_ref(void(lib.xengnttab_open(None, 0)), 7, 1, 3) is not None, flush=True)\n"
        "sys.stdin.read()\n"
    )
    before = BEGIN + LIVE + (
        f"os.execv(sys.executable, [sys.executable, '-c', {after!r}, sys.argv[1],"
        " str(lib.xenevtchn_fd(evtchn)), str(port)])"
    )  # fmt: skip
    with program(before) as daemon:
        assert daemon.stdout and daemon.stdin
        assert daemon.stdout.readline()
        assert daemon.stdout.readline().split() == ["0", "-1", "True"], "bound still, and the VIRQ, too"
        assert guests.events() == [7]
        assert guests.mapped(7) == 1, "only the new program's"
        daemon.stdin.close()
        assert daemon.wait(10) == 0
    assert guests.mapped(7) == 0


# ----------------------------------------------------------------------------------- building


def test_a_build_makes_what_is_missing_and_leaves_what_is_current(tmp_path: Path) -> None:
    assert build.build(tmp_path) == tmp_path
    names = ("libsimxen.so", "simguest", *(f"stub/{soname}" for soname in build.SONAMES))
    made = {path: path.lstat().st_mtime_ns for path in (tmp_path / name for name in names)}
    build.build(tmp_path)
    assert {path: path.lstat().st_mtime_ns for path in made} == made
    (tmp_path / "simguest").unlink()
    build.build(tmp_path)
    assert (tmp_path / "libsimxen.so").stat().st_mtime_ns == made[tmp_path / "libsimxen.so"]
    assert (tmp_path / "simguest").exists()


def test_the_libraries_names_lead_to_one_library(tmp_path: Path) -> None:
    """Also in an installed fastxs, where links would have become copies, each with a hypervisor's handle of its own."""
    installed = shutil.copytree(build.build(), tmp_path / "simxen", symlinks=False)
    text = "import ctypes, sys; libs = [ctypes.CDLL(name) for name in sys.argv[1:]]\n" + (
        "print(*{ctypes.cast(lib[name], ctypes.c_void_p).value for lib in libs for name in ['xenevtchn_open']})"
    )
    run = subprocess.run(
        [sys.executable, "-c", text, *build.SONAMES, str(installed / "libsimxen.so")],
        env={**os.environ, "LD_LIBRARY_PATH": str(installed / "stub")},
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    assert len(run.stdout.split()) == 1


def test_links_of_an_older_build_are_replaced(tmp_path: Path) -> None:
    build.build(tmp_path)
    stub = tmp_path / "stub" / "libxenmanage.so.1"
    stub.unlink()
    stub.symlink_to(Path("..") / "libsimxen.so")
    build.build(tmp_path)
    assert not stub.is_symlink()


def test_the_sources_compile_without_a_warning(tmp_path: Path) -> None:
    build.build(tmp_path, cc="cc -Werror -Wshadow -Wstrict-prototypes")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["libsimxen.so", "simguest", "stub"]


@pytest.mark.parametrize(
    "arguments",
    [["--via", "pigeon"], ["-n", "0"], ["-n", "nonsense"], ["extra"], ["--nonsense"], ["-n", "32751", "-b", "9"]],
)
def test_simguest_refuses_nonsense_in_words(arguments: list[str]) -> None:
    run = subprocess.run([simxen.SIMGUEST, *arguments], capture_output=True, text=True, timeout=10, check=False)
    assert run.returncode == 2
    assert run.stderr


def test_simguest_explains_itself() -> None:
    run = subprocess.run([simxen.SIMGUEST, "--help"], capture_output=True, text=True, timeout=10, check=False)
    assert run.returncode == 0
    assert run.stdout.startswith("usage: simguest")
