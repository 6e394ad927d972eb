"""The pretend hypervisor: C sources, what is built from them, and where it lies.

Owns the names of the built files.  Knows nothing of daemons, nor of XenStore.
"""

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent

LIBRARY: Final = FOLDER / "libsimxen.so"
"""The libxen* functions over a folder of shared files: for LD_PRELOAD, or to be loaded by its path."""

STUB: Final = FOLDER / "stub"
"""Libraries with the libxen* sonames that lead to that one: for LD_LIBRARY_PATH."""

SIMGUEST: Final = FOLDER / "simguest"
"""The guest simulator (`simguest --help`)."""
