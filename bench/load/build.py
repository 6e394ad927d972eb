"""Compile the C programs of this folder.

Owns: the compiler's command line and the place of the results (`build/` beside the sources).  Knows nothing of what
the programs do.  `python -m bench.load.build` compiles all of them and prints where they are.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from fastxs.hypervisor import simxen

__all__ = ["PROGRAMS", "BuildError", "binary"]

FOLDER = Path(__file__).parent
GUESTS = (simxen.FOLDER / "guest.c", simxen.FOLDER / "state.c")
"""The guest programs' side of the pretend hypervisor."""
PROGRAMS = {
    "xsload": (*(FOLDER / f"{part}.c" for part in ("xsload", "engine", "traffic", "meter", "guests")), *GUESTS),
    "xsecho": (FOLDER / "xsecho.c",),
}
HEADERS = (FOLDER / "load.h", simxen.FOLDER / "simxen.h")
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{simxen.FOLDER}")


class BuildError(RuntimeError):
    """No compiler, or it refused; the message is what it said."""


def binary(program: str) -> Path:
    """The path of one of PROGRAMS, compiled again if a source is newer.  Raises BuildError."""
    sources, result = PROGRAMS[program], FOLDER / "build" / program
    newest = max(path.stat().st_mtime_ns for path in (*sources, *HEADERS))
    if result.exists() and result.stat().st_mtime_ns > newest:
        return result
    result.parent.mkdir(exist_ok=True)
    # a second run at the same time must never see half a program
    fresh = result.with_name(f"{program}.{os.getpid()}")
    command = [*shlex.split(os.environ.get("CC", "gcc")), *FLAGS, "-o", str(fresh), *map(str, sources)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError as e:
        raise BuildError(f"no C compiler: {command[0]} is not there (set CC, or install gcc)") from e
    if done.returncode:
        fresh.unlink(missing_ok=True)
        raise BuildError(f"{shlex.join(command)}:\n{done.stderr}")
    fresh.rename(result)
    return result


if __name__ == "__main__":
    try:
        for name in PROGRAMS:
            print(binary(name))
    except BuildError as e:
        sys.exit(str(e))
