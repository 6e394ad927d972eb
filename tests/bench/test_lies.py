"""A load generator must not believe everything: a server that lies in one way, and what xsload says about it."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastxs.bench.daemons import LoadError
from fastxs.bench.loads import Load, drive

HEADER = struct.Struct("=IIII")
DIRECTORY, READ, START, END, EVENT, ERROR = 1, 2, 6, 7, 15, 16
Reply = tuple[int, int, int, bytes]
Lie = Callable[[Reply], Reply | bytes]


class Liar:
    """A XenStore of one flat table and one connection.  `lie` gets every reply and may change it."""

    def __init__(self, path: Path, lie: Lie) -> None:
        self.socket, self.pid, self._lie = path, threading.get_native_id(), lie
        self.env: dict[str, str] = {}
        self._store: dict[bytes, bytes] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return  # nobody came
        with peer, peer.makefile("rb") as stream:
            while len(head := stream.read(HEADER.size)) == HEADER.size:
                op, req_id, tx_id, length = HEADER.unpack(head)
                said = self._lie((op, req_id, tx_id, self._answer(op, stream.read(length))))
                try:
                    peer.sendall(said if isinstance(said, bytes) else pack(said))
                except OSError:
                    return  # caught, and left alone

    def _answer(self, op: int, payload: bytes) -> bytes:
        path, _, rest = payload.partition(b"\0")
        if op == READ:
            return self._store[path]
        if op == START:
            return b"7\0"
        if op == DIRECTORY:
            return b"".join(node.rpartition(b"/")[2] + b"\0" for node in self._store)
        if rest:
            self._store[path] = rest
        return b"OK\0"


def pack(reply: Reply) -> bytes:
    op, req_id, tx_id, body = reply
    return HEADER.pack(op, req_id, tx_id, len(body)) + body


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[Callable[[Lie], Liar]]:
    liars: list[Liar] = []

    def start(lie: Lie) -> Liar:
        liars.append(Liar(tmp_path / "socket", lie))
        return liars[-1]

    yield start
    for one in liars:
        one.close()


@pytest.mark.parametrize("workload", ["read", "write", "mixed", "directory", "transaction"])
def test_the_truth_is_believed(liar: Callable[[Lie], Liar], workload: str) -> None:
    result = drive(liar(lambda reply: reply), Load(workload, requests=20, warmup=2, keys=100), 0)
    assert (result.errors, result.commits) == (0, 20 if workload == "transaction" else 0)


def test_events_are_counted_and_no_replies(liar: Callable[[Lie], Liar]) -> None:
    event = pack((EVENT, 0, 0, b"/a\0token\0"))
    result = drive(liar(lambda reply: event + pack(reply)), Load("read", requests=20, warmup=0, keys=100), 0)
    assert (result.requests, result.events, result.errors) == (20, 20, 0)


LIES: dict[str, tuple[str, int, Lie, str]] = {
    "another req_id": ("read", READ, lambda r: (r[0], r[1] + 1, *r[2:]), "read: another req_id"),
    "another tx_id": ("read", READ, lambda r: (*r[:2], 5, r[3]), "read: another tx_id"),
    "another type": ("read", READ, lambda r: (DIRECTORY, *r[1:]), "read: another type"),
    "an error": ("read", READ, lambda r: (ERROR, *r[1:3], b"ENOENT\0"), "read: refused: .* ENOENT"),
    "another key's value": ("read", READ, lambda r: (*r[:3], b"00000999" + r[3][8:]), "read: another value"),
    "half a value": ("read", READ, lambda r: (*r[:3], r[3][:8]), "read: another value"),
    "a value for OK": ("write", 11, lambda r: (*r[:3], b"KO\0"), "not OK"),
    "a name twice": ("directory", DIRECTORY, lambda r: (*r[:3], b"k000\0" + r[3][:-5]), "directory: another listing"),
    "a name missing": ("directory", DIRECTORY, lambda r: (*r[:3], r[3][5:]), "directory: another listing"),
    "no number": ("transaction", START, lambda r: (*r[:3], b"seven\0"), "transaction: no transaction id"),
    "EAGAIN too early": ("transaction", START, lambda r: (ERROR, *r[1:3], b"EAGAIN\0"), "transaction: refused"),
    "ENOSPC at the end": ("transaction", END, lambda r: (ERROR, *r[1:3], b"ENOSPC\0"), "transaction: refused"),
    "two replies": ("read", READ, lambda r: pack(r) * 2, "a reply nobody asked for"),
    "too long": ("read", READ, lambda r: HEADER.pack(*r[:3], 4097), "a reply of 4097 bytes"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_told(liar: Callable[[Lie], Liar], name: str) -> None:
    workload, op, lie, said = LIES[name]
    server = liar(lambda reply: lie(reply) if reply[0] == op else reply)
    with pytest.raises(LoadError, match=said):
        drive(server, Load(workload, requests=20, warmup=0, keys=100), 0)
