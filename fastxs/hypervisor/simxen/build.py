"""Compiles the pretend hypervisor: `python -m fastxs.hypervisor.simxen.build [OUTDIR]`.

Needs a C compiler and libc only.  Imports nothing of fastxs, so that setup.py can load it from its file.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
FLAGS: Final = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra")
SONAMES: Final = (
    "libxenevtchn.so.1",
    "libxengnttab.so.1",
    "libxenforeignmemory.so.1",
    "libxenctrl.so.4.17",
    "libxenmanage.so.1",
)
Targets = Mapping[str, tuple[Sequence[str], Sequence[str], Sequence[str]]]
"""Result -> its sources, and the compiler's options before and after them."""
TARGETS: Final[Targets] = {
    "libsimxen.so": (
        ("shim.c", "evtchn.c", "pages.c", "domains.c", "preload.c", "guest.c", "state.c"),
        ("-fPIC", "-shared", "-fvisibility=hidden", "-Wl,-soname,libsimxen.so"),
        ("-ldl",),
    ),
    "simguest": (("simguest.c", "lives.c", "talk.c", "loop.c", "guest.c", "state.c"), (), ()),
    # Not links: those would be copies in a wheel, and each copy loaded would be a library of its own.
    **{
        f"stub/{soname}": (
            (),
            ("-shared", f"-Wl,-soname,{soname}", "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN/.."),
            ("-l:libsimxen.so",),
        )
        for soname in SONAMES
    },
}
HEADERS: Final = ("simxen.h", "shim.h", "simguest.h", "xen.h")


def build(outdir: Path | None = None, cc: str | None = None) -> Path:
    """Bring libsimxen.so, simguest and stub/ in `outdir` (default: this folder) up to date; the folder.  As `make`."""
    return make(TARGETS, HERE, HEADERS, outdir, cc)


def make(
    targets: Targets, here: Path, headers: Sequence[str], outdir: Path | None = None, cc: str | None = None
) -> Path:
    """Bring the targets in `outdir` (default: `here`, where sources and headers are) up to date; the folder.

    `cc` is a command line, default $CC or `cc`.  Raises OSError if there is no such compiler and
    subprocess.CalledProcessError (after the compiler's own words on stderr) if it fails.  Two builds
    at a time do not disturb each other.
    """
    out = here if outdir is None else Path(outdir)
    out.mkdir(parents=True, exist_ok=True)
    compiler = shlex.split(cc or os.environ.get("CC") or "cc")
    for name, (sources, before, after) in targets.items():
        target = out / name
        target.parent.mkdir(exist_ok=True)
        inputs = [here / source for source in sources]
        if (
            target.exists()
            and not target.is_symlink()  # as stub/ had them once
            and all(
                path.stat().st_mtime <= target.stat().st_mtime
                for path in [*inputs, *(here / header for header in headers), Path(__file__)]
            )
        ):
            continue
        with tempfile.TemporaryDirectory(dir=out, prefix=".build.") as scratch:
            made = Path(scratch) / target.name
            command = [*compiler, *FLAGS, *before, "-o", str(made), *map(str, inputs), f"-L{out}", *after]
            subprocess.run(command, check=True)
            made.replace(target)
    return out


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
