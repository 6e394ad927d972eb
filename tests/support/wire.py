"""The XenStore wire as a client sees it: a second reading of it, so that the daemon's own is never its judge.

Owns framing (header, operations, splitting a stream into messages) and two peers with one face: `Peer` over a unix
socket, `MemoryPeer` over an Engine's attached connection.  Refuses to know anything of `fastxs.core`, of paths, of
permissions, and of what a reply should say.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from fastxs._core import Engine

HEADER: Final = struct.Struct("=4I")
"""type, req_id, tx_id, len: native endian, 16 bytes."""

PAYLOAD_MAX: Final = 4096


class Op(IntEnum):
    """Every message type; `RESTRICT` is the hole that was left when it was removed."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESTRICT = 20
    RESET_WATCHES = 21
    DIRECTORY_PART = 22
    GET_FEATURE = 23
    SET_FEATURE = 24
    GET_QUOTA = 25
    SET_QUOTA = 26
    INVALID = 65535


def op_name(op: int) -> str:
    """`WRITE` for 11, `27` for a number that means nothing."""
    return Op(op).name if op in Op._value2member_map_ else str(op)


class Message(NamedTuple):
    """One message, either way."""

    op: int
    req_id: int
    tx_id: int
    payload: bytes

    @property
    def error(self) -> str | None:
        """The error word without its NUL (`"ENOENT"`), None when the message is no error."""
        return self.payload.rstrip(b"\0").decode("latin-1") if self.op == Op.ERROR else None

    @property
    def strings(self) -> list[bytes]:
        """The payload's NUL-terminated strings; a rest without a NUL counts as one more."""
        parts = self.payload.split(b"\0")
        return parts[:-1] if parts[-1] == b"" else parts

    def __repr__(self) -> str:
        tx = f" tx={self.tx_id}" if self.tx_id else ""
        return f"<{op_name(self.op)} req={self.req_id}{tx} {self.payload!r}>"


def pack(op: int, payload: bytes = b"", req_id: int = 0, tx_id: int = 0) -> bytes:
    """The bytes of one message; the length is the payload's, legal or not."""
    return HEADER.pack(op, req_id, tx_id, len(payload)) + payload


class Splitter:
    """Cuts a byte stream, fed in pieces of any size, into whole messages."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now.."""
        rest = self._rest + data if self._rest else data
        found: list[Message] = []
        at, end = 0, len(rest)
        while end - at >= 16:
            op, req_id, tx_id, length = HEADER.unpack_from(rest, at)
            if end - at - 16 < length:
                break
            found.append(Message(op, req_id, tx_id, rest[at + 16 : at + 16 + length]))
            at += 16 + length
        self._rest = rest[at:]
        return found

    @property
    def pending(self) -> int:
        """Bytes of a message that is not whole yet."""
        return len(self._rest)


class Face:
    """What both peers do alike: request ids, replies told from events, a queue of what has arrived."""

    def __init__(self) -> None:
        self.events: list[Message] = []
        self._queue: list[Message] = []
        self._splitter = Splitter()
        self._req_id = 0

    def _write(self, data: bytes) -> None:
        raise NotImplementedError

    def _read(self, timeout_s: float) -> bytes:
        """Some bytes; b"" when none came in time.  Raises ConnectionError at the end of the stream."""
        raise NotImplementedError

    def send(self, op: int, payload: bytes = b"", tx_id: int = 0) -> int:
        """Send one request; its req_id."""
        self._req_id = self._req_id % 0xFFFFFFFF + 1
        self._write(pack(op, payload, self._req_id, tx_id))
        return self._req_id

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are: torn headers, wrong lengths, several requests at once."""
        self._write(data)

    def recv(self, timeout_s: float = 5) -> Message:
        """The next message of any kind.  TimeoutError when none came, ConnectionError when the peer is gone."""
        deadline = time.monotonic() + timeout_s
        while not self._queue:
            data = self._read(max(0.0, deadline - time.monotonic()))
            if not data:
                raise TimeoutError(f"no message within {timeout_s} s")
            self._queue.extend(self._splitter.feed(data))
        return self._queue.pop(0)

    def reply(self, req_id: int, timeout_s: float = 5) -> Message:
        """The reply to `req_id`; events on the way are appended to `events`, any other reply is an AssertionError."""
        while True:
            message = self.recv(timeout_s)
            if message.op == Op.WATCH_EVENT:
                self.events.append(message)
                continue
            assert message.req_id == req_id, f"expected the reply to {req_id}, got {message!r}"
            return message

    def call(self, op: int, payload: bytes = b"", tx_id: int = 0) -> Message:
        """Send a request and return its reply; events that came before it are appended to `events`."""
        return self.reply(self.send(op, payload, tx_id))

    def drain(self, wait_s: float = 0.05) -> list[Message]:
        """Wait `wait_s` for events, then hand over all that came (`events` is empty afterwards)."""
        deadline = time.monotonic() + wait_s
        while True:
            try:
                message = self.recv(max(0.0, deadline - time.monotonic()))
            except (TimeoutError, ConnectionError):
                break
            assert message.op == Op.WATCH_EVENT, f"expected events only, got {message!r}"
            self.events.append(message)
        found, self.events = self.events, []
        return found


class Peer(Face):
    """A client of a daemon's unix socket."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Blocking, bounded by the kernel: a connect that has to wait for a full backlog fails at once otherwise.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 10, 0))
            self.sock.connect(str(Path(path)))
        except BaseException:
            self.sock.close()
            raise

    def _write(self, data: bytes) -> None:
        self.sock.sendall(data)

    def _read(self, timeout_s: float) -> bytes:
        if not select.select([self.sock], [], [], timeout_s)[0]:
            return b""
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError("the daemon closed the connection")
        return data

    def fileno(self) -> int:
        """The socket's descriptor, for select and friends."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close the socket.  Idempotent."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class MemoryPeer(Face):
    """The same face over `Engine.attach`: no socket, no waiting; `domid` is who speaks."""

    def __init__(self, engine: Engine, domid: int) -> None:
        super().__init__()
        self.engine = engine
        self.domid = domid
        self.conn_id = engine.attach(domid)
        self._open = True

    def _write(self, data: bytes) -> None:
        self.engine.feed(self.conn_id, data)

    def _read(self, timeout_s: float) -> bytes:
        # What a request of any peer caused is there when its feed() returned: there is nothing to wait for.
        return self.engine.take(self.conn_id)

    def close(self) -> None:
        """Disconnect.  Idempotent."""
        if self._open:
            self._open = False
            self.engine.disconnect(self.conn_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
