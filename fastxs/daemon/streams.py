"""Standard input, output and error: there from the first moment on, and let go of in the background.

Knows nothing of what is written to them.
"""

from __future__ import annotations

import os
import sys

__all__ = ["detach", "open_standard_streams"]


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
