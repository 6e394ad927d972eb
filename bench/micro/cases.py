"""The table of what is measured: a work, its sizes, and how a lap of it is made.

Owns the rooms' contents: how many nodes, which paths, who watches.  Refuses to know clocks' scales, rounds and limits
(conftest.py), and how a room does its work; most loops are in C (`fastxs.core.laps`), so that no call from Python is in
their time.
"""

from __future__ import annotations

import random
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from fastxs._core import Engine
from fastxs.core import laps
from fastxs.core.probe import Rooms
from fastxs.storage.image import Image
from tests.support.wire import Op, pack

__all__ = ["CASES", "WORKS", "Case", "Lap"]

Lap = Callable[[int], float]
"""Does its work so many times; ns of one."""

BATCH: Final = 64
"""Messages in one read, all of which one turn serves."""
JOURNALS: Final = 4096
"""That are committed in turn."""
PATHS: Final = 4096
"""Paths that are asked for in turn: together more than a cache holds, in a large store."""
PER_DOMAIN: Final = 100
VALUE: Final = b"a value, 16 byte"
FOLD_BYTES: Final = 1 << 19
FOLD_RECORDS: Final = 512
"""The image's log is folded into LMDB when it is longer, or has more records than that in a large store."""
PUT: Final = 1000
"""Records in one turn while an image is filled."""
RECORD: Final = struct.Struct("=QII")
"""Of a journal (core/journal.pxd): key, length of the value, padding."""
J_NODE: Final = 7


class Case(NamedTuple):
    """One work at one size."""

    work: str
    size: int
    make: Callable[[int, ExitStack], Lap]
    """The lap; what it holds is given back when the stack is closed."""


def ring_in(size: int, _stack: ExitStack) -> Lap:
    return partial(laps.ring_in, size)


def ring_out(size: int, _stack: ExitStack) -> Lap:
    return partial(laps.ring_out, bytes(size))


def frame_in(size: int, stack: ExitStack) -> Lap:
    """Requests of no known type, with a payload of `size` bytes: all there is, is framing and the shortest answer."""
    engine = Engine()
    stack.callback(engine.close)
    peer = engine.attach(0)
    data = pack(99, bytes(size)) * BATCH

    def lap(loops: int) -> float:
        turns = -(-loops // BATCH)
        began = time.perf_counter_ns()
        for _ in range(turns):
            engine.feed(peer, data)
            answers = engine.take(peer)
        took = time.perf_counter_ns() - began
        assert answers.count(b"ENOSYS\0") == BATCH
        return took / turns / BATCH

    return lap


def frame_out(size: int, _stack: ExitStack) -> Lap:
    rooms = Rooms()
    return partial(laps.replies, rooms, rooms.peer(0), bytes(size))


def find_deep(size: int, _stack: ExitStack) -> Lap:
    """A path of `size` components in a small store."""
    rooms = Rooms()
    path = b""
    for i in range(size):
        path += b"/component%d" % i
        _create(rooms, path)
    return partial(laps.find, rooms, [path])


def find_among(size: int, _stack: ExitStack) -> Lap:
    """Paths of five components among `size` nodes."""
    rooms = Rooms()
    return partial(laps.find, rooms, _sample(_populate(rooms, size)))


def match_none(size: int, _stack: ExitStack) -> Lap:
    """Changes that nobody watches, beside `size` watches."""
    rooms = Rooms()
    peer = rooms.peer(0)
    for i in range(size):
        rooms.watch(peer, b"/local/domain/%d/state/k%d" % divmod(i, PER_DOMAIN), b"token")
    return partial(laps.match, rooms, _sample(_paths(PATHS)))


def match_some(size: int, _stack: ExitStack) -> Lap:
    """A change that `size` peers watch, each with one watch three levels above."""
    rooms = Rooms()
    for peer in [rooms.peer(0) for _ in range(size)]:
        rooms.watch(peer, b"/local/domain", b"token")
    return partial(laps.match, rooms, [b"/local/domain/1/data/k1"])


def _transaction(size: int, _stack: ExitStack, *, commit: bool) -> Lap:
    """START, `size` WRITEs of nodes that are there, END."""
    rooms = Rooms()
    writes = [path + b"\0" + VALUE for path in _populate(rooms, size)]
    return partial(laps.transactions, rooms, rooms.peer(0), Op.WRITE, writes, commit)


def image_turn(size: int, stack: ExitStack) -> Lap:
    """A turn that changes `size` of 1,000 nodes: to the log, and with 512 KiB of that to LMDB."""
    return _puts(_image(1_000, stack), 1_000, size, FOLD_BYTES // _turn_bytes(size) + 1)


def image_among(size: int, stack: ExitStack) -> Lap:
    """A turn that changes one of very many nodes: to the log, and with 512 others to LMDB."""
    return _puts(_image(size, stack), size, 1, FOLD_RECORDS + 1)


# ------------------------------------------------------------------------------------------------------------ contents


def _create(rooms: Rooms, path: bytes) -> None:
    """The node, and what is missing above it."""
    while True:
        node, deepest, rest = rooms.find(path)
        if node:
            return
        perms = rooms.perms_of(deepest)
        rooms.hold(perms)
        rooms.create(deepest, path[rest:].split(b"/", 1)[0], perms)


def _paths(count: int) -> list[bytes]:
    return [b"/local/domain/%d/data/k%d" % divmod(i, PER_DOMAIN) for i in range(count)]


def _populate(rooms: Rooms, count: int) -> list[bytes]:
    """So many leaves, 100 in each domain's folder."""
    paths = _paths(count)
    for path in paths:
        _create(rooms, path)
    return paths


def _sample(paths: list[bytes]) -> list[bytes]:
    """As many as are asked for in turn, in an order that no prefetcher knows."""
    return random.Random(1).sample(paths, min(len(paths), PATHS))


def _image(nodes: int, stack: ExitStack) -> Image:
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="xsmicro.", dir=memory))
    image = Image.create(folder, b"boot\0bench")
    stack.callback(image.close)
    for first in range(0, nodes, PUT):
        image.put(bytearray(b"".join(map(_change, range(first, first + PUT)))), PUT)
    return image


def _change(node: int) -> bytes:
    """A record as long as that of a node with a short name and value."""
    value = bytes(40)
    return RECORD.pack(J_NODE << 56 | node + 1, len(value), 0) + value


def _turn_bytes(records: int) -> int:
    """In the log: a turn's head is as long as a record's."""
    return RECORD.size + records * len(_change(0))


def _puts(image: Image, nodes: int, records: int, period: int) -> Lap:
    """Turns of so many records of any of the nodes; a lap ends where the log is folded, every `period` turns."""
    chance = random.Random(1)
    count = JOURNALS // records
    journals = [bytearray(b"".join(_change(chance.randrange(nodes)) for _ in range(records))) for _ in range(count)]

    def lap(loops: int) -> float:
        turns = period * -(-loops // period)
        began = time.perf_counter_ns()
        for i in range(turns):
            image.put(journals[i % count], records)
        return (time.perf_counter_ns() - began) / turns

    return lap


WORKS: Final[tuple[tuple[str, tuple[int, ...], Callable[[int, ExitStack], Lap]], ...]] = (
    ("ring-in", (24, 272, 1000), ring_in),
    ("ring-out", (24, 272, 1000), ring_out),
    ("frame-in", (0, 64, 1024, 4096), frame_in),
    ("frame-out", (0, 64, 1024, 4096), frame_out),
    ("find-deep", (1, 5, 20), find_deep),
    ("find-among", (100, 10_000, 300_000), find_among),
    ("match-none", (0, 1_000, 100_000), match_none),
    ("match-some", (1, 10, 100), match_some),
    ("commit", (1, 10, 100), partial(_transaction, commit=True)),
    ("abort", (1, 10, 100), partial(_transaction, commit=False)),
    ("image-turn", (1, 16, 256), image_turn),
    ("image-among", (100_000,), image_among),
)

CASES: Final = {f"{work}-{size}": Case(work, size, make) for work, sizes, make in WORKS for size in sizes}
