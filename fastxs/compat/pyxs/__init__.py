"""`pyxs`, Sergei Lebedev's client for Python, over `fastxs.client`.

    from fastxs.compat import pyxs                   # was: import pyxs
    from fastxs.compat.pyxs import Client            # was: from pyxs import Client

Owns pyxs 0.4's names.  Different on purpose: values are any bytes and come back as they were written; directories of
any size can be listed; a Monitor may be used over XenBus, and is told nothing of what it watches no more; what domain 0
alone may do, the daemon decides.  What pyxs calls internal (packets, operations) is not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastxs.client import Path
from fastxs.compat import lowlevel_xs
from fastxs.compat.pyxs.client import Client, Monitor, Router
from fastxs.compat.pyxs.exceptions import (
    ConnectionError,
    InvalidOperation,
    InvalidPath,
    InvalidPayload,
    PyXSError,
    UnexpectedPacket,
)

__all__ = [
    "Client",
    "ConnectionError",
    "Error",
    "InvalidOperation",
    "InvalidPath",
    "InvalidPayload",
    "Monitor",
    "PyXSError",
    "Router",
    "UnexpectedPacket",
    "monitor",
    "xs",
]

Error = PyXSError


@contextmanager
def monitor(*args: Any, **kwargs: Any) -> Iterator[Monitor]:
    """A Monitor of a Client of its own, which gets the arguments."""
    with Client(*args, **kwargs) as client, client.monitor() as watcher:
        yield watcher


class xs(lowlevel_xs.xs):  # noqa: N801  # its old name
    """`xen.lowlevel.xs` as pyxs has it: everything is bytes."""

    _error = PyXSError

    def _text(self, name: bytes) -> bytes:
        return name

    def get_permissions(self, transaction: lowlevel_xs.Handle, path: Path) -> list[Any]:
        """As `Client.get_perms`."""
        with self._telling():
            return [*self._nodes(transaction).get_perms(path)]

    def set_permissions(self, transaction: lowlevel_xs.Handle, path: Path, perms: list[Any]) -> None:
        """As `Client.set_perms`."""
        with self._telling():
            self._nodes(transaction).set_perms(path, perms)
