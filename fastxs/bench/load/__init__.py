"""The load generator and the echo server: plain C, built beside their sources as simxen is.

Owns the names of the built files.  Knows nothing of daemons.
"""

from pathlib import Path
from typing import Final

XSLOAD: Final = Path(__file__).resolve().with_name("xsload")
"""Closed-loop load over sockets and rings (`xsload --help`)."""

XSECHO: Final = XSLOAD.with_name("xsecho")
"""What every request costs at least."""
