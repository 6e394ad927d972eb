"""Playing to real daemons: whose transaction is whose, what waits for what, guests over rings."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastxs.client import Client
from fastxs.hypervisor.host import Host
from fastxs.replay import player
from fastxs.replay.player import Player
from fastxs.replay.recording import Answer, Answered, Asked, Began, Ended, Head, Node, Record, Told
from fastxs.replay.report import Report
from tests.support.wire import Op, Splitter, pack

SENT, SERVED = Head("test", "sent"), Head("test", "served")
OK = Answer(payload=b"OK\0")


def call(conn: int, op: int, payload: bytes, answer: Answer, *, req: int = 1, tx: int = 0) -> list[Record]:
    return [Asked(0, conn, op, req, tx, payload), Answered(0, conn, req, answer)]


def play(host: Host, *records: Record, head: Head = SENT, rings: bool = True) -> Report:
    with Player(host.socket, Path(host.env["SIMXEN_DIR"]) if rings else None) as player:
        return player.play(head, records)


def counts(report: Report) -> tuple[int, int, int, int]:
    return report.equal, report.different, report.unknown, report.unanswered


def test_answers_are_compared(fastxs_host: Host) -> None:
    report = play(
        fastxs_host,
        Began(0, 1, 0, ring=False),
        *call(1, Op.WRITE, b"/a\0x", OK),
        *call(1, Op.READ, b"/a\0", Answer(payload=b"x")),
        *call(1, Op.READ, b"/a\0", Answer(payload=b"y")),
        *call(1, Op.READ, b"/b\0", Answer()),  # known only: it was no error
        *call(1, Op.READ, b"/\0", Answer()),
        Ended(0, 1),
    )
    assert counts(report) == (2, 2, 1, 0)
    assert [(kind, count) for kind, count in report.kinds.items()] == [
        ((Op.READ, None, None), 1),
        ((Op.READ, None, "ENOENT"), 1),
    ]
    assert report.first[Op.READ, None, None].now == Answer(payload=b"x")
    assert report.latencies.at(0.5) > 0


def test_a_request_whose_answer_nobody_wrote_down(fastxs_host: Host) -> None:
    report = play(fastxs_host, Began(0, 1, 0, ring=False), Asked(0, 1, Op.READ, 1, 0, b"/\0"))
    assert (report.requests, *counts(report)) == (1, 0, 0, 1, 0)


def test_transactions_have_todays_ids(fastxs_host: Host) -> None:
    """17 and 18 were the daemon's numbers then; a third is one that it never gave out."""
    report = play(
        fastxs_host,
        Began(0, 1, 0, ring=False),
        *call(1, Op.TRANSACTION_START, b"\0", Answer(payload=b"17\0")),
        *call(1, Op.TRANSACTION_START, b"\0", Answer(payload=b"18\0")),
        *call(1, Op.WRITE, b"/a\0x", OK, tx=17),
        *call(1, Op.READ, b"/a\0", Answer(error="ENOENT"), tx=18),
        *call(1, Op.READ, b"/a\0", Answer(error="ENOENT"), tx=99),
        *call(1, Op.TRANSACTION_END, b"F\0", OK, tx=18),
        *call(1, Op.TRANSACTION_END, b"T\0", OK, tx=17),
        *call(1, Op.READ, b"/a\0", Answer(payload=b"x")),
    )
    assert counts(report) == (8, 0, 0, 0)


def test_libxenstores_requests_have_all_the_same_id(fastxs_host: Host) -> None:
    both = call(1, Op.WRITE, b"/a\0x", OK, req=0), call(1, Op.READ, b"/a\0", Answer(payload=b"x"), req=0)
    report = play(
        fastxs_host, Began(0, 1, 0, ring=False), *(record for pair in zip(*both, strict=True) for record in pair)
    )
    assert counts(report) == (2, 0, 0, 0)


def test_the_nodes_of_before_are_there_and_count_for_nothing(fastxs_host: Host) -> None:
    nodes = [Node(b"/n%d" % i, b"\0%d" % i, (b"n0", b"r5")) for i in range(100)]
    report = play(
        fastxs_host,
        *nodes,
        Began(0, 1, 0, ring=False),
        *call(1, Op.READ, b"/n99\0", Answer(payload=b"\00099")),
        *call(1, Op.GET_PERMS, b"/n0\0", Answer(payload=b"n0\0r5\0")),
    )
    assert (report.requests, *counts(report)) == (2, 2, 0, 0, 0)


def guest(toolstack: int, ring: int) -> list[Record]:
    """A life of domain 5, over these two connections."""
    return [
        Began(0, toolstack, 0, ring=False),
        *call(toolstack, Op.MKDIR, b"/local/domain/5\0", OK),
        *call(toolstack, Op.SET_PERMS, b"/local/domain/5\0n5\0", OK),  # before it is introduced, so it must be there
        *call(toolstack, Op.WRITE, b"/local/domain/5/name\0five", OK),
        *call(toolstack, Op.INTRODUCE, b"5\x0010437\x0077\0", OK),  # frame and port are those of then
        Began(0, ring, 5, ring=True),
        *call(ring, Op.READ, b"name\0", Answer(payload=b"five")),
        *call(ring, Op.WRITE, b"/local/domain/0/x\0", Answer(error="EACCES")),
        *call(ring, Op.WRITE, b"data\0x", OK),
        Ended(0, ring),
        *call(toolstack, Op.GET_PERMS, b"/local/domain/5/data\0", Answer(payload=b"n5\0")),
        *call(toolstack, Op.RELEASE, b"5\0", OK),
        *call(toolstack, Op.RM, b"/local/domain/5\0", OK),
        Ended(0, toolstack),
    ]


def test_guests_over_rings(fastxs_host: Host) -> None:
    """Twice: the number is free again after RELEASE."""
    report = play(fastxs_host, *guest(1, 2), *guest(3, 4), head=SERVED)
    assert counts(report) == (20, 0, 0, 0)


def test_a_guest_that_was_there_before(fastxs_host: Host) -> None:
    report = play(fastxs_host, Began(0, 1, 5, ring=True), *call(1, Op.READ, b"/\0", Answer(error="EACCES")))
    assert counts(report) == (1, 0, 0, 0)


def test_guests_over_the_socket_where_there_are_no_rings(fastxs_host: Host) -> None:
    """They speak as dom0 does: relative paths are made whole, nothing is refused, and there is no domain to own it."""
    *most, _, _, _ = guest(1, 2)
    report = play(fastxs_host, *most, rings=False)
    assert (report.left_out, *counts(report)) == (2, 4, 3, 0, 0)
    assert set(report.kinds) == {(Op.SET_PERMS, None, "ENOENT"), (Op.WRITE, "EACCES", None), (Op.GET_PERMS, None, None)}
    with Client(fastxs_host.socket) as client:
        assert client.read("/local/domain/5/data") == b"x"


def test_control_is_never_played(fastxs_host: Host) -> None:
    report = play(fastxs_host, Began(0, 1, 0, ring=False), *call(1, Op.CONTROL, b"check\0", OK))
    assert (report.requests, report.left_out) == (0, 1)


def test_events_are_counted(fastxs_host: Host) -> None:
    report = play(
        fastxs_host,
        Began(0, 1, 0, ring=False),
        *call(1, Op.WATCH, b"/a\0t\0", OK),
        *(Told(0, 1, b"/a\0t\0") for _ in range(3)),
        *call(1, Op.WRITE, b"/a\0x", OK),
    )
    assert (report.events_now, report.events_then) == (2, 3)


def test_the_recordings_time(fastxs_host: Host) -> None:
    with Player(fastxs_host.socket, speed=10) as player:
        report = player.play(SENT, [Began(0, 1, 0, ring=False), Asked(1, 1, Op.READ, 1, 0, b"/\0")])
    assert report.wall_s >= 0.1


# ---- a daemon of the test's own ----------------------------------------------------------------------------------


@contextmanager
def daemon(path: Path, silent: tuple[bytes, ...] = ()) -> Iterator[list[bytes]]:
    """Serves each connection by a thread of its own: all payloads that came, in order; no answer to some; the end of
    the connection to `end`."""
    came: list[bytes] = []

    def serve(client: socket.socket) -> None:
        splitter = Splitter()
        with client:
            while data := client.recv(4096):
                for message in splitter.feed(data):
                    came.append(message.payload)
                    if message.payload == b"end":
                        return
                    if message.payload not in silent:
                        client.sendall(pack(message.op, b"OK\0", message.req_id))

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(client,)))
            threads[-1].start()

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield came
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def asked(conn: int, payload: bytes, req: int = 1) -> Asked:
    return Asked(0, conn, Op.WRITE, req, 0, payload)


BOTH = (Began(0, 1, 0, ring=False), Began(0, 2, 0, ring=False))


def test_a_request_waits_for_what_was_answered_before_it(tmp_path: Path) -> None:
    with daemon(tmp_path / "s") as came, Player(tmp_path / "s") as player:
        many = (record for i in range(100) for record in call(1 + i % 2, Op.WRITE, b"%d" % i, OK, req=i))
        player.play(SENT, [*BOTH, *many])
    assert came == [b"%d" % i for i in range(100)]


@pytest.mark.parametrize("order", ["an event", "as served"])
def test_a_request_waits_for_all_before_it(tmp_path: Path, order: str) -> None:
    between = [Told(0, 1, b"/a\0t\0")] if order == "an event" else []
    with daemon(tmp_path / "s") as came, Player(tmp_path / "s") as player:
        many: list[Record] = []
        for i in range(50):
            many += [asked(1 + i % 2, b"%d" % i, i), *between]
        player.play(SENT if between else SERVED, [*BOTH, *many])
    assert came == [b"%d" % i for i in range(50)]


def test_else_requests_are_under_way_together(tmp_path: Path) -> None:
    """The first is never answered, and the second goes nevertheless."""
    with daemon(tmp_path / "s", silent=(b"first",)) as came, pytest.MonkeyPatch.context() as patch:
        patch.setattr(player, "PATIENCE_S", 0.2)
        with Player(tmp_path / "s") as one:
            report = one.play(SENT, [*BOTH, asked(1, b"first"), *call(2, Op.WRITE, b"second", OK)])
    assert sorted(came) == [b"first", b"second"]
    assert counts(report) == (1, 0, 0, 1)


def test_a_daemon_that_hangs_up(tmp_path: Path) -> None:
    with daemon(tmp_path / "s") as came, Player(tmp_path / "s") as player:
        records = [*call(1, Op.WRITE, b"end", OK, req=1), *call(1, Op.WRITE, b"more", OK, req=2)]
        report = player.play(SENT, [*BOTH, *records, *call(2, Op.WRITE, b"another", OK)])
    assert came == [b"end", b"another"]
    assert counts(report) == (1, 0, 0, 2)
