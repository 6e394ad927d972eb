"""Messages out of a stream of bytes (SPEC 1.1), either way.

Owns framing for those who only look on.  Refuses to know requests, answers and whose they are.
"""

from __future__ import annotations

from typing import NamedTuple

from fastxs.client.requests import PAYLOAD_MAX, Op
from fastxs.client.session import HEADER
from fastxs.replay.recording import Answer

__all__ = ["Frames", "Message"]


class Message(NamedTuple):
    op: int
    req_id: int
    tx_id: int
    payload: bytes

    @property
    def answer(self) -> Answer:
        """Of a reply: what it says."""
        if self.op == Op.ERROR:
            return Answer(error=self.payload.rstrip(b"\0").decode("latin-1"))
        return Answer(payload=self.payload)


class Frames:
    """The whole messages of one direction, fed in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """What is complete now.  ValueError: this is no XenStore."""
        data = self._rest + data
        found, at = [], 0
        while len(data) - at >= HEADER.size:
            op, req_id, tx_id, length = HEADER.unpack_from(data, at)
            if length > PAYLOAD_MAX:
                raise ValueError(f"a message of {length} bytes")
            start = at + HEADER.size
            if len(data) - start < length:
                break
            at = start + length
            found.append(Message(op, req_id, tx_id, data[start:at]))
        self._rest = data[at:]
        return found
