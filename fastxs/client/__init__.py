"""Clients of any XenStore daemon: `Client` for threads, `AsyncClient` for asyncio.

    from fastxs import Client

    with Client() as client:
        client["/tool/hello"] = b"world"
        for event in client.watch("/tool"):
            print(event.path, client.read(event.path, None))

The design, ground floor first; a room knows those above it in this list only:

    errors       one class per error word, each the fitting builtin, too
    requests     every request as a value: operation, payload, how its reply is read, what takes it back
    events       events, watches, and the queue where events wait
    session      one connection's state without any I/O: request ids, framing, who gets which reply and which event
    transports   unix socket, /dev/xen/xenbus; a ring of the pretend hypervisor has the same face
    threads      a connection used by threads: when bytes move, how one waits      tasks      the same by tasks
    sync         the names that users of threads see                               aio        the same for asyncio

Paths are bytes or str, values are bytes, any bytes.  Watches have tokens of their own on the wire, so that no two
monitors of a client disturb each other, and whoever waits for an event holds nothing that others need.
"""

from fastxs.client import requests
from fastxs.client.errors import (
    AccessDenied,
    AlreadyConnected,
    AlreadyExists,
    Busy,
    Closed,
    Conflict,
    Disconnected,
    InvalidRequest,
    IOFailure,
    IsDirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    NotSupported,
    OutOfMemory,
    ProtocolError,
    QuotaExceeded,
    ReadOnly,
    TooBig,
    XenStoreError,
)
from fastxs.client.events import Event, Reconnected
from fastxs.client.requests import Op, Path, Perm, Request, path_is_subpath
from fastxs.client.sync import Client, Monitor, Transaction
from fastxs.client.transports import Dial, Transport, UnixSocket, XenBus, daemon_rundir, daemon_socket

TYPE_CHECKING = False  # not typing's, as in fastxs/__init__.py
if TYPE_CHECKING:
    from fastxs.client.aio import AsyncClient, AsyncMonitor, AsyncTransaction

__all__ = [
    "AccessDenied",
    "AlreadyConnected",
    "AlreadyExists",
    "AsyncClient",
    "AsyncMonitor",
    "AsyncTransaction",
    "Busy",
    "Client",
    "Closed",
    "Conflict",
    "Dial",
    "Disconnected",
    "Event",
    "IOFailure",
    "InvalidRequest",
    "IsDirectory",
    "Monitor",
    "NotEmpty",
    "NotFound",
    "NotPermitted",
    "NotSupported",
    "Op",
    "OutOfMemory",
    "Path",
    "Perm",
    "ProtocolError",
    "QuotaExceeded",
    "ReadOnly",
    "Reconnected",
    "Request",
    "TooBig",
    "Transaction",
    "Transport",
    "UnixSocket",
    "XenBus",
    "XenStoreError",
    "daemon_rundir",
    "daemon_socket",
    "path_is_subpath",
    "requests",
]


def __getattr__(name: str) -> object:
    """asyncio costs more than all the rest, and a program that lives for a moment does without."""
    if name in ("AsyncClient", "AsyncMonitor", "AsyncTransaction"):
        from fastxs.client import aio

        found: object = getattr(aio, name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
