"""What the service manager is told and keeps: systemd, or `fastxs-keeper`, which speaks the same words.

Owns the client's side of sd_notify(3) and sd_listen_fds(3): datagrams to NOTIFY_SOCKET, descriptors in and out of the
manager's store.  Knows nothing of units and of what the descriptors are for.  Without NOTIFY_SOCKET nothing is sent.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence
from typing import Final

__all__ = [
    "CONNECTION",
    "EVTCHN",
    "LISTENER",
    "barrier",
    "channel",
    "forget",
    "inherited",
    "notify",
    "store",
    "watchdog_s",
    "watchdog_words",
]

LISTENER: Final = "listen"
EVTCHN: Final = "evtchn"
CONNECTION: Final = "c"
"""Names of descriptors in the store.  All clients share one, and a short one: the names of all descriptors come back in
a single environment string, and past 128 KiB (MAX_ARG_STRLEN) the kernel starts no program with it."""

FIRST: Final = 3
"""Where inherited descriptors begin (SD_LISTEN_FDS_START)."""

MOST: Final = 253
"""Descriptors that one message carries (the kernel's SCM_MAX_FD)."""


def channel() -> socket.socket | None:
    """A datagram socket connected to the manager; None: there is none, or it is gone.

    (`@` stands for the abstract namespace's leading NUL.)
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return None
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        made.connect("\0" + address[1:] if address[0] == "@" else address)
    except OSError:
        made.close()
        return None
    return made


def notify(*assignments: str, fds: Sequence[int] = ()) -> bool:
    """Send `READY=1` and the like, with at most `MOST` descriptors; True if there was somebody to tell.

    Never fails: a daemon whose manager went away still serves its guests.
    """
    to = channel()
    if to is None:
        return False
    with to:
        to.settimeout(1)
        try:
            socket.send_fds(to, ["\n".join(assignments).encode()], list(fds))
        except OSError:
            return False
    return True


def store(name: str, *fds: int, poll: bool = True) -> bool:
    """Have the manager keep copies until they hang up (`poll`) or `forget`; False: there is nobody to keep them."""
    words = ("FDSTORE=1", f"FDNAME={name}", *(() if poll else ("FDPOLL=0",)))
    return all(notify(*words, fds=fds[i : i + MOST]) for i in range(0, len(fds), MOST))


def forget(name: str) -> bool:
    """Have the manager close all that it keeps by that name."""
    return notify("FDSTOREREMOVE=1", f"FDNAME={name}")


def barrier(timeout_s: float) -> bool:
    """Whether the manager has done everything that it was told before, within that time (sd_notify_barrier(3))."""
    reader, writer = os.pipe()
    try:
        told = notify("BARRIER=1", fds=[writer])
    finally:
        os.close(writer)
    try:
        ours = select.poll()
        ours.register(reader, 0)
        return told and bool(ours.poll(timeout_s * 1000))  # it hangs up when the manager closes its copy
    finally:
        os.close(reader)


def inherited() -> dict[str, list[int]]:
    """The store's descriptors by name, as the manager started us with them; from now on the caller's, close-on-exec.

    Call it once, before anything opens a descriptor.  What the variables say of another process is not ours.
    """
    pid, count, names = (os.environ.pop(f"LISTEN_{key}", "") for key in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, list[int]] = {}
    words = names.split(":") if names else []
    for i in range(int(count)):
        os.set_inheritable(FIRST + i, False)
        found.setdefault(words[i] if i < len(words) else "unknown", []).append(FIRST + i)
    return found


def watchdog_words() -> list[str]:
    """What makes the manager wait for `WATCHDOG=1` again, after `WATCHDOG_USEC=0`; nothing if it never did."""
    return [f"WATCHDOG_USEC={os.environ['WATCHDOG_USEC']}"] if watchdog_s() is not None else []


def watchdog_s() -> float | None:
    """How often the manager wants to hear `WATCHDOG=1` (twice as often as it must); None: it does not wait for it."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2e6
