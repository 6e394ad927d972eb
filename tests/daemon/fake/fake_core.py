"""As much of `fastxs._core` as the daemon around it needs: a socket that answers READ and CONTROL, quotas in a dict.

FAKE_ENGINE in the environment makes it misbehave: `abort` (dies while it starts), `break` (a turn raises when a client
writes), `mute` (accepts and never answers; FAKE_PATIENCE_S: for how long the daemon hopes).
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

HEADER = struct.Struct("=4I")
CONTROL, READ, WRITE, ERROR = 0, 2, 11, 16
MISCHIEF = os.environ.get("FAKE_ENGINE", "")

QUOTAS = {
    "nodes": (1000, "Nodes"),
    "watches": (128, "Watches"),
    "transactions": (10, "Transactions"),
    "transaction-nodes": (1024, "Nodes of a transaction"),
    "node-permissions": (5, "Permissions"),
    "node-size": (2048, "Size"),
    "path-max": (2048, "Path"),
    "outstanding": (20, "Outstanding"),
    "memory": (2621440, "Hard"),
    "soft-memory": (2097152, "Soft"),
}


class Notice(NamedTuple):
    """A refusal."""

    kind: str
    domid: int
    conn_id: int
    what: bytes
    error: str
    count: int  # type: ignore[assignment]


class ImageFailed(OSError):
    """Never raised here."""


class ControlError(Exception):
    """Answer with this word."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class Engine:
    """One epoll set, clients in a dict."""

    def __init__(self, *, control: Callable[[int, int, list[bytes]], bytes], notice: Any, **options: object) -> None:
        if MISCHIEF == "abort":
            os.abort()
        if MISCHIEF == "mute":
            from fastxs.daemon import lifecycle

            lifecycle.ANSWER_TIMEOUT_S = float(os.environ.get("FAKE_PATIENCE_S", "0.3"))  # type: ignore[misc]
        self.control, self.notice, self.options = control, notice, options
        self.quotas = {name: default for name, (default, _) in QUOTAS.items()}
        self.epoll = select.epoll()
        self.listener: socket.socket | None = None
        self.clients: dict[int, tuple[socket.socket, bytearray]] = {}
        self.traced: tuple[int | None, tuple[str, ...]] = (None, ())
        self.timed = False

    def fileno(self) -> int:
        return self.epoll.fileno()

    def keep(self, fd: int) -> None:
        os.close(fd)

    def listen(self, fd: int) -> None:
        self.listener = socket.socket(fileno=fd)
        self.epoll.register(fd, select.EPOLLIN)

    def turn(self) -> None:
        for fd, _ in self.epoll.poll(0):
            if self.listener is not None and fd == self.listener.fileno():
                client, _ = self.listener.accept()
                self.clients[client.fileno()] = client, bytearray()
                self.epoll.register(client.fileno(), select.EPOLLIN)
            else:
                self.serve(*self.clients[fd])

    def serve(self, client: socket.socket, pending: bytearray) -> None:
        data = client.recv(4096)
        if not data:
            self.epoll.unregister(client.fileno())
            del self.clients[client.fileno()]
            client.close()
        pending += data
        while len(pending) >= 16 and MISCHIEF != "mute":
            op, req_id, tx_id, length = HEADER.unpack_from(pending)
            if len(pending) < 16 + length:
                break
            payload = bytes(pending[16 : 16 + length])
            del pending[: 16 + length]
            op, reply = self.answer(client.fileno(), op, payload)
            client.sendall(HEADER.pack(op, req_id, tx_id, len(reply)) + reply)

    def answer(self, conn_id: int, op: int, payload: bytes) -> tuple[int, bytes]:
        if op == READ:
            return op, b""
        if op == WRITE and MISCHIEF == "break":
            raise MemoryError("the store is out of its mind")
        if op == WRITE:
            self.notice([Notice("quota", 7, conn_id, b"nodes", "ENOSPC", 3)])
            return ERROR, b"ENOSPC\0"
        if op == CONTROL:
            try:
                return op, self.control(conn_id, 0, payload.split(b"\0")[:-1])
            except ControlError as error:
                return ERROR, error.word.encode() + b"\0"
        return ERROR, b"ENOSYS\0"

    def close(self) -> None:
        for client, _ in self.clients.values():
            client.close()
        if self.listener is not None:
            self.listener.close()
        self.epoll.close()

    @staticmethod
    def quota_names() -> tuple[str, ...]:
        return tuple(QUOTAS)

    @staticmethod
    def quota_text(name: str) -> str:
        return QUOTAS[name][1]

    def get_quota(self, name: str, domid: int | None = None) -> int:
        return self.quotas[name]

    def set_quota(self, name: str, value: int, domid: int | None = None) -> None:
        assert name in self.quotas
        self.quotas[name] = value

    def accounts(self, domid: int) -> dict[str, tuple[int, int]]:
        if domid:
            raise LookupError(domid)
        return {"nodes": (3, 5), "memory": (132, 400), "soft-memory": (132, 400)}

    def highest_accounts(self, reset: bool = False) -> dict[str, int]:
        return {"nodes": 0 if reset else 9, "memory": 400, "soft-memory": 400}

    def offer_features(self) -> int:
        return 2

    def check(self) -> list[str]:
        return ["node 4 is nobody's child"]

    def count_spans(self, on: bool) -> None:
        self.timed = on

    def spans(self) -> tuple[bool, dict[int, int], int]:
        return self.timed, {640: 12, 3584: 1} if self.timed else {}, 3400 if self.timed else 0

    def memory(self) -> dict[str, int]:
        return {"heap_used": 4096, "nodes": 123}

    def trace(self, fd: int | None, switches: Sequence[str] = ("obj", "io")) -> None:
        self.traced = fd, tuple(switches)
        if fd is not None:
            os.write(fd, f"traced {' '.join(switches)}\n".encode())
