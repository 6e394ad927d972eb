"""What a process makes of itself before it serves: its streams, its name, its limits.

Owns nothing that others can see but in /proc, and knows nothing of what the process is for.
"""

from __future__ import annotations

import os
import resource
import select
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["detach", "has_ended", "open_standard_streams", "raise_descriptor_limit", "set_name", "shield"]


def open_standard_streams() -> None:
    """Where a script closed 0, 1 or 2: else the next file that is opened becomes standard output."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def detach() -> None:
    """Let go of the terminal and of pipes that somebody may wait on; the journal's stream is kept for the log."""
    info = os.fstat(2)
    journal = os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1) if journal else (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def has_ended(pidfd: int, timeout_s: float | None = None) -> bool:
    """Whether that process is gone within the time; None: wait for it.

    Not by select(2), which takes no descriptor above 1023: a daemon has one for each client.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


def set_name(name: str) -> None:
    """What ps, top and a refused second instance call us; at most 15 bytes."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def raise_descriptor_limit() -> None:
    """One descriptor per client: take all that the administrator left us (launch scripts set the hard limit)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # an endless hard limit may be above the kernel's own
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def shield(adj: int) -> None:
    """Have the OOM killer look elsewhere first, unless somebody has asked it for more already, or we may not."""
    file = Path("/proc/self/oom_score_adj")
    with suppress(OSError):
        if int(file.read_text()) > adj:
            file.write_text(str(adj))
