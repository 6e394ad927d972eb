"""Threads that wait, and what becomes of the others when they are interrupted, killed or closed under."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from fastxs.client import Client, Closed, Disconnected, Reconnected
from fastxs.hypervisor.host import Host
from tests.client.killing import WAIT_S, kill, skip_if_impossible, soon
from tests.support.leaks import descriptors

TIMES = 1000


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fastxs events"]


def test_a_thousand_threads_killed_while_they_wait_for_a_watch(fastxs_host: Host) -> None:
    """libxenstore's xs_read_watch holds a mutex there: the first one killed locks up the process (SPEC 7.4)."""
    skip_if_impossible()
    with Client(fastxs_host.socket) as client:
        client.watch("/first").close()  # by now the client has all the descriptors it needs
        before, threads = descriptors(), len(os.listdir("/proc/self/task"))
        for n in range(TIMES):
            monitor = client.watch("/a")
            assert monitor.read(WAIT_S).path == b"/a"
            waiter = threading.Thread(target=monitor.read, daemon=True)
            waiter.start()
            kill(waiter)
            client.write("/a/b", b"%d" % n)
            assert monitor.read(WAIT_S).path == b"/a/b"  # another one waits at the same place
            monitor.close()
        assert client.read("/a/b") == b"%d" % (TIMES - 1)
        assert not client._link._session.watches
        assert descriptors() == before
        assert len(os.listdir("/proc/self/task")) == threads
        assert len(own_threads()) == 1
    assert own_threads() == []


class Interrupted(Exception):
    """Raised by a signal handler, at any point of the program."""


@contextmanager
def interrupting(wait_s: Callable[[], float]) -> Iterator[Callable[[], object]]:
    """`arm()` lets Interrupted be raised after so long, wherever the main thread is then."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, wait_s())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_thousand_interrupts_of_one_who_waits_for_a_watch(fastxs_host: Host) -> None:
    with Client(fastxs_host.socket) as client, client.watch("/a") as monitor, interrupting(lambda: 0.0005) as arm:
        assert monitor.read(WAIT_S).path == b"/a"
        for _ in range(TIMES):
            try:
                arm()
                monitor.read(WAIT_S)
            except Interrupted:
                pass
            else:
                raise AssertionError("there was no event")
        client.write("/a/b", b"")
        assert monitor.read(WAIT_S).path == b"/a/b"
        assert len(monitor._events._gates) == 0


def test_interrupts_at_any_point_of_a_request_leave_the_connection_whole(fastxs_host: Host) -> None:
    """Every reply is a different one, so one that went to another request, or a byte lost or sent twice, is seen."""
    delays = iter([n % 97 * 0.000003 + 0.00001 for n in range(100_000)])
    with Client(fastxs_host.socket) as client, client.watch("/elsewhere"):
        values = {f"/value/{n}": b"%d" % n * n for n in range(40)}
        client.write_many(values)
        interrupts = 0
        with interrupting(lambda: next(delays)) as arm:
            while interrupts < TIMES:
                try:
                    arm()
                    for path, value in values.items():
                        assert client.read(path) == value
                    assert client.read_many(values) == list(values.values())
                    with client.transaction() as tx:
                        tx.write("/written", b"")
                except Interrupted:
                    interrupts += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert client.read_many(values) == list(values.values())
        soon(lambda: not client._link._session._waiting, "a request that nobody waits for was never answered")


def test_close_wakes_every_waiter(fastxs_host: Host) -> None:
    """Waiters for events, each at his own monitor or several at one, and one in a request that is not answered."""
    client = Client(fastxs_host.socket)
    shared = client.watch("/shared")
    assert shared.read(WAIT_S).path == b"/shared"
    ends: list[type[BaseException] | None] = []

    def wait(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            ends.append(type(error))
        else:
            ends.append(None)

    monitors = [client.watch(f"/{n}") for n in range(5)]
    for monitor in monitors:
        monitor.read(WAIT_S)
    waits: list[Callable[[], object]] = [monitor.read for monitor in monitors] + [shared.read] * 5
    waits += [lambda: list(shared)]  # iterating ends without an error
    os.kill(fastxs_host.pid, signal.SIGSTOP)
    try:
        threads = [threading.Thread(target=wait, args=[what]) for what in [*waits, lambda: client.read("/")]]
        for thread in threads:
            thread.start()
        soon(lambda: client._link._asking.locked(), "nobody asks")
        client.close()
        for thread in threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()
    finally:
        os.kill(fastxs_host.pid, signal.SIGCONT)
    assert sorted(ends, key=str) == sorted([Closed] * (len(waits) - 1) + [None, Closed], key=str)
    assert own_threads() == []


def test_close_while_the_reader_looks_around(fastxs_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader was woken by something else and takes close's poke along: it slept on, and close waited in vain."""
    client = Client(fastxs_host.socket)
    monitor = client.watch("/a")
    monitor.read(WAIT_S)
    closing = threading.Thread(target=client.close)
    read = os.eventfd_read

    def late(fd: int) -> int:
        if closing.ident is None:
            closing.start()
            soon(lambda: client._link._over is not None and select.select([fd], [], [], 0)[0], "nobody closes")
        return read(fd)

    monkeypatch.setattr(os, "eventfd_read", late)
    with Client(fastxs_host.socket) as other:
        other.write("/a", b"")
    soon(lambda: closing.ident is not None, "the reader is not woken")
    closing.join(WAIT_S)
    assert own_threads() == []


def test_close_from_the_signal_handler_that_interrupted_a_request(fastxs_host: Host) -> None:
    client = Client(fastxs_host.socket)
    monitor = client.watch("/a")
    assert monitor.read(WAIT_S).path == b"/a"
    before = signal.signal(signal.SIGALRM, lambda *_: client.close())
    os.kill(fastxs_host.pid, signal.SIGSTOP)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Closed):
            client.read("/a")
    finally:
        os.kill(fastxs_host.pid, signal.SIGCONT)
        signal.signal(signal.SIGALRM, before)
    soon(lambda: own_threads() == [], "the reader lives on")


def test_a_signal_handler_that_asks_is_refused_where_it_would_wait_for_itself(fastxs_host: Host) -> None:
    refused: list[RuntimeError] = []

    def ask(_signal: int, _frame: FrameType | None) -> None:
        try:
            client.read("/")
        except RuntimeError as error:
            refused.append(error)
        os.kill(fastxs_host.pid, signal.SIGCONT)

    with Client(fastxs_host.socket) as client:
        before = signal.signal(signal.SIGALRM, ask)
        os.kill(fastxs_host.pid, signal.SIGSTOP)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert client.read("/") == b""
        finally:
            os.kill(fastxs_host.pid, signal.SIGCONT)
            signal.signal(signal.SIGALRM, before)
    assert len(refused) == 1


def test_many_threads_share_one_client(fastxs_host: Host) -> None:
    failures: list[BaseException] = []

    def use(client: Client, me: int) -> None:
        try:
            with client.watch(f"/{me}/x", token=me) as monitor:
                assert monitor.read(WAIT_S) == (b"/%d/x" % me, me)
                for n in range(100):
                    client.write(f"/{me}/x", b"%d" % n)
                    assert monitor.read(WAIT_S) == (b"/%d/x" % me, me)
                    assert client.read(f"/{me}/x") == b"%d" % n
                    for tx in client.transactions():
                        with tx:
                            tx.write(f"/{me}/y", tx.read(f"/{me}/x"))
        except BaseException as error:
            failures.append(error)

    with Client(fastxs_host.socket) as client:
        threads = [threading.Thread(target=use, args=(client, me)) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        assert client.read_many(f"/{me}/y" for me in range(8)) == [b"99"] * 8


def test_events_come_while_nobody_asks_and_can_be_polled_for(fastxs_host: Host) -> None:
    with Client(fastxs_host.socket) as client, Client(fastxs_host.socket) as other, client.watch("/a") as monitor:
        poll = select.poll()
        poll.register(monitor, select.POLLIN)
        assert poll.poll(1000 * WAIT_S)
        seen = [*iter(monitor.check, None)]
        assert [event.path for event in seen] == [b"/a"] * len(seen)
        for n in range(100):
            other.write(f"/a/{n}", b"")
            while (event := monitor.check()) is None:
                assert poll.poll(1000 * WAIT_S), "an event waits, and the descriptor says nothing"
            assert event.path == b"/a/%d" % n
        with pytest.raises(TimeoutError):
            monitor.read(timeout_s=0.01)


def test_a_fork_closes_its_copy_and_disturbs_nobody(fastxs_host: Host) -> None:
    with Client(fastxs_host.socket) as client, client.watch("/a") as monitor:
        assert monitor.read(WAIT_S).path == b"/a"
        child = os.fork()
        if not child:
            try:
                client.close()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        client.write("/a/b", b"still here")
        assert monitor.read(WAIT_S).path == b"/a/b"


def test_a_lost_connection_is_made_again_where_that_was_asked_for(fastxs_host: Host) -> None:
    with Client(fastxs_host.socket, reconnect_s=WAIT_S) as client, Client(fastxs_host.socket) as frail:
        monitor = client.watch("/a", token="mine")
        assert monitor.read(WAIT_S) == (b"/a", "mine")
        tx = client.transaction()
        tx.start()
        tx.write("/b", b"")
        fastxs_host.kill()
        with pytest.raises(Disconnected):
            frail.read("/")
        fastxs_host.start()
        event = monitor.read(WAIT_S)
        assert isinstance(event, Reconnected)
        while isinstance(event, Reconnected):  # a socket may take connections when its daemon is dead already
            event = monitor.read(WAIT_S)
        assert event == (b"/a", "mine")  # as a new watch's first event
        client.write("/a/b", b"")
        assert monitor.read(WAIT_S) == (b"/a/b", "mine")
        with client.transaction():
            # Its id may be the lost one's, which must not come to mean this one.
            with pytest.raises(Disconnected):
                tx.write("/b", b"")
            with pytest.raises(Disconnected):
                tx.commit()
        assert not client.exists("/b")
        with pytest.raises(Disconnected):
            frail.read("/")


def test_a_request_waits_for_the_daemon_to_come_back(fastxs_host: Host) -> None:
    with Client(fastxs_host.socket, reconnect_s=WAIT_S) as client:
        assert client.exists("/")
        fastxs_host.kill()
        with pytest.raises(Disconnected):  # under way when the connection was lost: done or not, nobody knows
            client.read("/")
        back = threading.Thread(target=fastxs_host.start)
        back.start()
        assert client.read("/") == b""
        back.join()


def test_close_ends_the_wait_for_a_daemon() -> None:
    client = Client("/nonexistent/socket", reconnect_s=3600)
    ends: list[Exception] = []

    def ask() -> None:
        try:
            client.read("/")
        except Exception as error:
            ends.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    soon(lambda: client._link._asking.locked(), "nobody asks")
    client.close()
    asking.join(WAIT_S)
    assert [type(end) for end in ends] == [Closed]


def test_what_is_left_open_is_told(fastxs_host: Host) -> None:
    client = Client(fastxs_host.socket)
    client.connect()
    with pytest.warns(ResourceWarning):
        del client
