"""Images made for a test, and changed behind their makers' backs."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import lmdb

from fastxs._core import Engine
from fastxs.storage.image import Image
from fastxs.storage.reader import checksum
from tests.conversations.speak import nul
from tests.support.wire import Op, pack

__all__ = ["IDENTITY", "CONNECTION", "META", "NODE", "PERMS", "TRANSACTION", "WATCH", "key", "made", "put", "value"]

IDENTITY = b"a boot of the host\0xen"
META, DOMAIN, PERMS, CONNECTION, TRANSACTION, WATCH, NODE = range(1, 8)
"""Tables (core/journal.pxd)."""

CONVERSATION = (
    (Op.WRITE, nul("/tool/binary") + bytes(range(256))),
    (Op.SET_PERMS, nul("/tool/binary", "w0", "r0")),
    (Op.WRITE, nul("/gone/child") + b"x"),
    (Op.RM, nul("/gone")),
    (Op.WATCH, nul("/tool", "a token")),
    (Op.WATCH, nul("tool", "b", 1)),
    (Op.TRANSACTION_START, nul("")),
)


def made(folder: Path, *, fold: bool = True) -> Path:
    """The image of a store in which a client of a socket said that; not `fold`: much of it is in the log."""
    folder.mkdir()
    image = Image.create(str(folder), IDENTITY)
    engine = Engine(image=image, linger_us=0)
    ours, its = socket.socketpair()
    its.setblocking(False)
    with ours:
        engine.adopt(its.detach())
        for op, payload in CONVERSATION:
            ours.sendall(pack(op, payload))
            engine.turn()
        engine.close()
    image.close()
    if fold:
        Image.fold(str(folder))
    return folder


def key(table: int, id_: int) -> int:
    return table << 56 | id_


def value(folder: Path, key: int) -> bytes:
    """A record of a folded image."""
    with _open(folder) as env, env.begin() as txn, txn.cursor() as cursor:
        assert cursor.set_key(key.to_bytes(8, sys.byteorder)), f"no record {key:#x}"
        return bytes(cursor.value())


def put(folder: Path, key: int, value: bytes | None, *, version: int = 1, sign: bool = True) -> None:
    """Replace a record of a folded image, with the checksum that belongs to it or not; None: remove it."""
    raw = key.to_bytes(8, sys.byteorder)
    with _open(folder) as env, env.begin(write=True) as txn:
        if value is None:
            assert txn.delete(raw), f"no record {key:#x}"
            return
        body = value[4:]
        sum_ = checksum(version, key, body).to_bytes(4, sys.byteorder) if sign else value[:4]
        txn.put(raw, sum_ + body)


def _open(folder: Path) -> lmdb.Environment:
    return lmdb.open(str(folder / "store"), subdir=False, lock=False, map_size=1 << 34)
