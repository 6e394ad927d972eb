"""Trace lines, in the format that tools for C xenstored read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fastxs.core.probe import Rooms
from tests.support.wire import Op

Lines = Callable[[], list[bytes]]

OBJ, IO, WRL, ACC, TDB = 1, 2, 4, 8, 16
WHEN = rb"\d{8} \d{2}:\d{2}:\d{2}"


@pytest.fixture
def lines(tmp_path: Path, rooms: Rooms) -> Lines:
    """Call it for the lines written since the last call."""
    path = tmp_path / "trace"
    path.touch()
    seen = 0

    def read() -> list[bytes]:
        nonlocal seen
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            rooms.trace_flush(fd)
        finally:
            os.close(fd)
        text = path.read_bytes()
        new, seen = text[seen:], len(text)
        assert not new or new.endswith(b"\n")
        return new.split(b"\n")[:-1]

    return read


@pytest.fixture
def rooms() -> Rooms:
    rooms = Rooms()
    rooms.domain(7)
    return rooms


def test_a_message_s_line(rooms: Rooms, lines: Lines) -> None:
    """io: way, connection, domain, local time, operation, payload with blanks for NULs."""
    rooms.trace_switches(IO)
    peer, guest = rooms.peer(0), rooms.peer(7)
    rooms.trace_message(peer, b"IN", Op.READ, b"/local/domain/0/name\0")
    rooms.trace_message(peer, b"OUT", Op.READ, b"")
    rooms.trace_message(guest, b"OUT", Op.WATCH_EVENT, b"/a\0token\0")
    rooms.trace_message(guest, b"IN", 99, b"\xff\n)")
    first, second, third, *fourth = lines()
    assert re.fullmatch(rb"io: IN 0x[0-9a-f]+ \(d0\) " + WHEN + rb" READ \(/local/domain/0/name \)", first)
    assert re.fullmatch(rb"io: OUT 0x[0-9a-f]+ \(d0\) " + WHEN + rb" READ \(\)", second)
    assert re.fullmatch(rb"io: OUT 0x[0-9a-f]+ \(d7\) " + WHEN + rb" WATCH_EVENT \(/a token \)", third)
    assert re.fullmatch(rb"io: IN 0x[0-9a-f]+ \(d7\) " + WHEN + rb" \*\*UNKNOWN\*\* \(\xff\n\)\)", b"\n".join(fourth))
    assert first.split()[2] == second.split()[2] != third.split()[2], "a connection has one name"


def test_an_object_s_line(rooms: Rooms, lines: Lines) -> None:
    rooms.trace_switches(OBJ)
    rooms.trace_object(b"CREATE", b"connection")
    rooms.trace_object(b"DESTROY", b"watch")
    created, destroyed = lines()
    assert re.fullmatch(rb"obj: CREATE connection 0x[0-9a-f]+", created)
    assert re.fullmatch(rb"obj: DESTROY watch 0x[0-9a-f]+", destroyed)


def test_switches_choose(rooms: Rooms, lines: Lines) -> None:
    peer = rooms.peer(0)
    for on, kinds in [(0, []), (IO, [b"io:"]), (OBJ, [b"obj:"]), (OBJ | IO, [b"io:", b"obj:"]), (WRL | ACC | TDB, [])]:
        rooms.trace_switches(on)
        rooms.trace_message(peer, b"IN", Op.READ, b"/\0")
        rooms.trace_object(b"CREATE", b"watch")
        assert [line.split()[0] for line in lines()] == kinds


def test_the_largest_payload_is_whole(rooms: Rooms, lines: Lines) -> None:
    rooms.trace_switches(IO)
    peer = rooms.peer(7)
    for _ in range(50):
        rooms.trace_message(peer, b"OUT(ERR)", Op.IS_DOMAIN_INTRODUCED, b"x" * 4096)
    written = lines()
    assert len(written) == 50 and all(line.endswith(b"(" + b"x" * 4096 + b")") for line in written)


def test_a_trace_that_cannot_be_written_is_lost_and_stops_nothing(rooms: Rooms, lines: Lines) -> None:
    rooms.trace_switches(OBJ)
    rooms.trace_object(b"CREATE", b"lost")
    rooms.trace_flush(-1)
    rooms.trace_object(b"CREATE", b"watch")
    assert [line.split()[2] for line in lines()] == [b"watch"]
