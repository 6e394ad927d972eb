"""What one program leaves to the next one in the same process: descriptors, and who waits for a word.

Owns the form in which that goes over an exec, to us or to Xen's own daemons, and the line to the guardian
(`fastxs.daemon.update`).  Knows nothing of
what is said over the descriptors, and loads nothing that a damaged installation could lack.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import BinaryIO, Final, NamedTuple

__all__ = [
    "ENVIRONMENT",
    "KEPT",
    "READY",
    "READY_S",
    "STATE_FILES",
    "Before",
    "HandedOver",
    "for_xenstored",
    "handed_over",
]

ENVIRONMENT: Final = "FASTXS_UPDATE"
"""Number of the descriptor that a `HandedOver` can be read from."""

READY, KEPT = b"ready", b"kept"
"""What the guardian is told: the new program serves; the old one goes on, because there was no exec."""

STATE_FILES: Final = {"state_dump": "xenstored", "db": "oxenstored"}
"""What another daemon leaves in the run directory for the program that it becomes, and who it is."""

OURS: Final = {
    **dict.fromkeys(("--sim", "--kept", "--check-config", "--unless-running"), False),
    **dict.fromkeys(("--durability", "--loop", "--log-level", "--log-format", "--log-file"), True),
    **dict.fromkeys(("--socket", "--config", "--fallback"), True),
}
"""Flags that Xen's own daemons do not know, and whether a value follows."""

READY_S: Final = 60.0
"""How long the new program may take until it serves."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The numbers of the descriptors, and the request that is to be answered.

    `pid` is the process that they are in, `turn` the last that the image has of the program that left them.
    """

    pid: int
    listener: int
    clients: list[int]
    guardian: int
    conn_id: int
    req_id: int
    tx_id: int
    turn: int

    def file(self) -> BinaryIO:
        """Of this, open for the program that the process becomes, at its beginning."""
        file = os.fdopen(os.memfd_create("live-update", 0), "w+b")  # not close-on-exec
        file.write(json.dumps(asdict(self)).encode())
        file.seek(0)
        return file


class Before(NamedTuple):
    """What was handed over, as the process that serves on sees it.

    `came_back`: this is the old program, because the new one failed.
    """

    handed: HandedOver
    came_back: bool

    def answers(self, turn: int) -> list[tuple[int, int, int, bytes]]:
        """What the one who asked for the update gets, told with the recovery of an image that has this turn."""
        if self.came_back and turn != self.handed.turn:
            return []  # the new program recovered, and said OK, before it failed
        text = b"The new program failed, the old one is back.\0" if self.came_back else b"OK\0"
        return [(self.handed.conn_id, self.handed.req_id, self.handed.tx_id, text)]

    def let_guardian_go(self) -> None:
        """We serve.  Returns when whoever supervises us knows that we are the daemon."""
        if self.came_back:
            return
        with socket.socket(fileno=self.handed.guardian) as line, suppress(OSError):
            line.settimeout(READY_S)
            line.sendall(READY)
            line.recv(1)


def for_xenstored(words: Iterable[str]) -> list[str]:
    """Of our arguments those that Xen's own daemons know."""
    known, rest = [], iter(words)
    for word in rest:
        name, equals, _ = word.partition("=")
        if name not in OURS:
            known.append(word)
        elif OURS[name] and not equals:
            next(rest, None)
    return known


def handed_over() -> Before | None:
    """What this process was started with; call it once.  None: it was started like any other."""
    number = os.environ.pop(ENVIRONMENT, "")
    if not number.isdecimal():
        return None
    try:
        with open(int(number), "rb") as file:
            found = HandedOver(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None
    if found.pid != os.getpid():
        return None
    for fd in (found.listener, found.guardian, *found.clients):
        os.set_inheritable(fd, False)
    return Before(found, came_back=False)
