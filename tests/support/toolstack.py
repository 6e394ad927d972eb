"""Domains come and go: the toolstack's and the guests' side of the pretend hypervisor, for tests written in Python.

Owns calls into libsimxen.so (ctypes).  Refuses to know any daemon and anything of XenStore.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Final, Self

from fastxs.hypervisor import simxen
from fastxs.hypervisor.host import Host

PORT: Final = 2
"""The event channel that every domain made here offers."""

ALIVE: Final = 1
SHUTDOWN: Final = 2


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(simxen.LIBRARY), use_errno=True)
    library.sxg_create.restype = ctypes.c_void_p
    library.sxg_ring.restype = ctypes.c_void_p
    library.sxg_state.restype = ctypes.c_uint32
    return library


class Toolstack:
    """Creates, shuts down and destroys domains under one Host.  `close` destroys all that are left."""

    def __init__(self, host: Host) -> None:
        self._me = ctypes.create_string_buffer(4096)  # larger than struct sxg, whatever it grows to
        before = os.environ.get("SIMXEN_DIR")
        os.environ["SIMXEN_DIR"] = host.env["SIMXEN_DIR"]
        try:
            self._check(_library().sxg_open(self._me, 0))
        finally:
            if before is None:
                del os.environ["SIMXEN_DIR"]
            else:
                os.environ["SIMXEN_DIR"] = before
        self._open = True

    @staticmethod
    def _check(status: int) -> None:
        if status < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def create(self, domid: int, port: int = PORT) -> None:
        """A new domain with an empty page.  FileExistsError: it is there."""
        if not _library().sxg_create(self._me, domid, port):
            self._check(-1)

    def shutdown(self, domid: int) -> None:
        """It shuts down, and VIRQ_DOM_EXC says so."""
        self._check(_library().sxg_shutdown(self._me, domid, 1))

    def destroy(self, domid: int) -> None:
        """It is torn down, and VIRQ_DOM_EXC says so; a zombie remains while its page is mapped."""
        self._check(_library().sxg_kill(self._me, domid, 1))

    def state(self, domid: int) -> int:
        """ALIVE and others, 0 when there is no such domain."""
        return int(_library().sxg_state(self._me, domid))

    def ring(self, domid: int) -> ctypes.Array[ctypes.c_char]:
        """The domain's XenStore page, 4096 bytes that the daemon sees too."""
        return (ctypes.c_char * 4096).from_address(_library().sxg_ring(self._me, domid))

    def notify(self, domid: int) -> None:
        """The guest's event channel fires."""
        _library().sxg_notify(self._me, domid)

    def close(self) -> None:
        """Destroy what is left of its domains.  Idempotent."""
        if self._open:
            self._open = False
            _library().sxg_close(self._me)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
