"""What the service manager is told: one datagram to NOTIFY_SOCKET.

Knows systemd's three words that matter here and nothing of units.  Without NOTIFY_SOCKET nothing is sent.
"""

from __future__ import annotations

import os
import socket

__all__ = ["notify"]


def notify(*assignments: str) -> bool:
    """Send `READY=1` and the like; True if there was somebody to tell.  Never fails: a daemon whose manager went away
    still serves its guests.  (sd_notify(3); `@` stands for the abstract namespace's leading NUL.)
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.settimeout(1)
        try:
            channel.connect("\0" + address[1:] if address[0] == "@" else address)
            channel.send("\n".join(assignments).encode())
        except OSError:
            return False
    return True
