"""Compiles the pretend hypervisor: `python -m fastxs.hypervisor.simxen.build [OUTDIR]`.

Needs a C compiler and libc only.  Imports nothing of fastxs, so that setup.py can load it from its file.
"""

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
FLAGS: Final = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra")
TARGETS: Final = {
    "libsimxen.so": (
        ("shim.c", "evtchn.c", "pages.c", "domains.c", "preload.c", "guest.c", "state.c"),
        ("-fPIC", "-shared", "-fvisibility=hidden", "-Wl,-soname,libsimxen.so"),
        ("-ldl",),
    ),
    "simguest": (("simguest.c", "guest.c", "state.c"), (), ()),
}
HEADERS: Final = ("simxen.h", "shim.h", "xen.h")
SONAMES: Final = (
    "libxenevtchn.so.1",
    "libxengnttab.so.1",
    "libxenforeignmemory.so.1",
    "libxenctrl.so.4.17",
    "libxenmanage.so.1",
)


def build(outdir: Path | None = None, cc: str | None = None) -> Path:
    """Bring libsimxen.so, simguest and stub/ in `outdir` (default: this folder) up to date; the folder.

    `cc` is a command line, default $CC or `cc`.  Raises OSError if there is no such compiler and
    subprocess.CalledProcessError (after the compiler's own words on stderr) if it fails.  Two builds
    at a time do not disturb each other.
    """
    out = HERE if outdir is None else Path(outdir)
    out.mkdir(parents=True, exist_ok=True)
    compiler = shlex.split(cc or os.environ.get("CC") or "cc")
    for name, (sources, before, after) in TARGETS.items():
        target = out / name
        inputs = [HERE / source for source in sources]
        if target.exists() and all(
            path.stat().st_mtime <= target.stat().st_mtime
            for path in [*inputs, *(HERE / header for header in HEADERS), Path(__file__)]
        ):
            continue
        with tempfile.TemporaryDirectory(dir=out, prefix=".build.") as scratch:
            made = Path(scratch) / name
            subprocess.run([*compiler, *FLAGS, *before, "-o", str(made), *map(str, inputs), *after], check=True)
            made.replace(target)
    stub = out / "stub"
    stub.mkdir(exist_ok=True)
    for soname in SONAMES:
        link = stub / soname
        if not link.exists():
            link.unlink(missing_ok=True)
            with contextlib.suppress(FileExistsError):  # somebody else's build was first
                link.symlink_to(Path("..") / "libsimxen.so")
    return out


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
