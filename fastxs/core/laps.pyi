"""Types of the loops that bench/micro measures: each gives the ns of one of `loops` times.

The rooms and their peers are those of `probe`; handles and numbers are checked as little as there.
"""

from fastxs.core.probe import Rooms

def steps(loops: int) -> float:
    """A multiplication and a look into a small table, each waiting for the one before: how fast this machine is now."""

def ring_in(n: int, loops: int) -> float:
    """`n` bytes (up to 1024) that the guest put in: seen, copied, their place given back."""

def ring_out(data: bytes, loops: int) -> float:
    """Up to 1024 bytes into the ring, made visible; the guest has taken all before."""

def replies(rooms: Rooms, peer: int, payload: bytes, loops: int) -> float:
    """A reply with this payload into the peer's empty outbox."""

def find(rooms: Rooms, paths: list[bytes], loops: int) -> float:
    """The node of the next path, in turn.  LookupError: one is missing."""

def match(rooms: Rooms, paths: list[bytes], loops: int) -> float:
    """A change at the next path: who watches it has its event in an empty outbox."""

def transactions(rooms: Rooms, peer: int, type: int, payloads: list[bytes], commit: bool, loops: int) -> float:
    """A transaction with one request of this type for each payload, from its beginning to its end.

    AssertionError: a request was refused.
    """
