"""Compiles the load generator and the echo server: `python -m fastxs.bench.load.build [OUTDIR]`.

Owns what they consist of.  Imports nothing of fastxs, so that setup.py can load it from its file; how a program is
compiled, the pretend hypervisor's build knows, whose guests' side is a part of the load generator.
"""

import runpy
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
SIMXEN: Final = HERE.parents[1] / "hypervisor" / "simxen"
GUESTS: Final = tuple(str(SIMXEN / part) for part in ("guest.c", "state.c"))
TARGETS: Final = {
    "xsload": (
        ("xsload.c", "engine.c", "traffic.c", "meter.c", "guests.c", *GUESTS),
        ("-Werror", "-Wno-missing-field-initializers", f"-I{SIMXEN}"),
        (),
    ),
    "xsecho": (("xsecho.c",), ("-Werror",), ()),
}
HEADERS: Final = ("load.h", str(SIMXEN / "simxen.h"))


def build(outdir: Path | None = None, cc: str | None = None) -> Path:
    """Bring xsload and xsecho in `outdir` (default: this folder) up to date; the folder.  Raises as simxen's `make`."""
    made: Path = runpy.run_path(str(SIMXEN / "build.py"))["make"](TARGETS, HERE, HEADERS, outdir, cc)
    return made


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
