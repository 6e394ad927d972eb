"""The migration stream written by hand, from the document: the writer is never its own judge.

Owns headers, padding and byte order.  The records' bodies are the tests' own.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

END, GLOBAL, CONNECTION, WATCH, TRANSACTION, NODE, GLOBAL_QUOTA, DOMAIN, WATCH_EXTENDED = range(9)

NO_TARGET = 0x7FF4


@dataclass(frozen=True)
class Hand:
    """Writes in one byte order and version."""

    version: int = 2
    big: bool = False

    def pack(self, form: str, *values: int | bytes) -> bytes:
        return struct.pack((">" if self.big else "<") + form, *values)

    def record(self, kind: int, body: bytes = b"", pad: bytes | None = None) -> bytes:
        """One record; `pad` None: zeros up to the next multiple of 8."""
        body += bytes(-len(body) % 8) if pad is None else pad
        return self.pack("II", kind, len(body)) + body

    def stream(self, *records: bytes, end: bool = True) -> bytes:
        """Preamble, records and END."""
        preamble = struct.pack(">8sII", b"xenstore", self.version, int(self.big))
        return preamble + b"".join(records) + (self.record(END) if end else b"")

    def ring(self, conn_id: int, domid: int, target: int = NO_TARGET, port: int = 9) -> bytes:
        """CONNECTION_DATA of a guest with nothing under way."""
        return self.record(CONNECTION, self.pack("IHHHHIHHI", conn_id, 0, 0, domid, target, port, 0, 0, 0))

    def socket(self, conn_id: int, fd: int) -> bytes:
        """CONNECTION_DATA of a client with nothing under way."""
        return self.record(CONNECTION, self.pack("IHHiIHHI", conn_id, 1, 0, fd, 0, 0, 0, 0))

    def watch(self, conn_id: int, path: bytes, token: bytes) -> bytes:
        """WATCH_DATA."""
        return self.record(
            WATCH, self.pack("IHH", conn_id, len(path) + 1, len(token) + 1) + path + b"\0" + token + b"\0"
        )

    def node(self, path: bytes, value: bytes, *perms: tuple[bytes, int, int], conn_id: int = 0) -> bytes:
        """NODE_DATA; perms are (letter, flags, domid)."""
        fixed = self.pack("IIHHHH", conn_id, 0, len(path) + 1, len(value), 0, len(perms))
        return self.record(NODE, fixed + b"".join(self.pack("cBH", *perm) for perm in perms) + path + b"\0" + value)
