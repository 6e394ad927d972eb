"""A XenStore's state as data: Xen's migration stream (xenstore-migration.md) and oxenstored's dump.

    with open(path, "rb") as file:
        state = load(file)                         # of C xenstored or of oxenstored, whichever wrote it
    for node in state.nodes: ...                   # read one after the other, as often as wanted
    refused = what_is_lost(state, version=1)
    with open(path, "wb") as file:
        write(state, file, version=1)              # for C xenstored

Pure Python on bytes and mapped files; it knows nothing of the Engine, which the daemon fills from a `State` and makes
a `State` of.  A live update passes one file, so one machine's byte order; a stream may come from another's, though.
"""

from __future__ import annotations

from mmap import ACCESS_READ, mmap
from typing import BinaryIO

from fastxs.state import oxenstored
from fastxs.state.lost import what_is_lost
from fastxs.state.model import Connection, Domain, Node, Nodes, Perm, Ring, Socket, State, StreamError, Watch
from fastxs.state.reader import Data, read
from fastxs.state.writer import Version, write

__all__ = [
    "Connection",
    "Data",
    "Domain",
    "Node",
    "Nodes",
    "Perm",
    "Ring",
    "Socket",
    "State",
    "StreamError",
    "Version",
    "Watch",
    "load",
    "read",
    "what_is_lost",
    "write",
]


def load(file: BinaryIO) -> State:
    """The state in a file of either kind, which stays mapped while the State is used.

    StreamError: it is neither, or damaged (as `read`); OSError: it cannot be mapped.
    """
    try:
        data = mmap(file.fileno(), 0, access=ACCESS_READ)
    except ValueError:
        raise StreamError("the file is empty") from None
    return oxenstored.read(data) if data[: len(oxenstored.HEADER)] == oxenstored.HEADER else read(data)
