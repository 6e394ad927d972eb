"""Where a pyxs Router leads to: the daemon's socket, or the kernel's device."""

from __future__ import annotations

import os
from typing import Final

from fastxs.client import Client, daemon_socket

__all__ = ["UnixSocketConnection", "XenBusConnection"]


class UnixSocketConnection:
    """The socket at `path`, or the one that libxenstore would take."""

    def __init__(self, path: str | None = None) -> None:
        self.path: Final = path or daemon_socket()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def client(self) -> Client:
        """A client that will connect there."""
        return Client(self.path)


class XenBusConnection:
    """The device at `path`, or the one that libxenstore would take."""

    def __init__(self, path: str | None = None) -> None:
        known = ("/dev/xen/xenbus", "/proc/xen/xenbus")
        self.path: Final = path or next((device for device in known if os.access(device, os.R_OK)), known[0])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def client(self) -> Client:
        """A client that will connect there."""
        return Client(xen_bus_path=self.path)
