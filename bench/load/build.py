"""Compile the C programs of this folder.

Owns: the compiler's command line and the place of the results (`build/` beside the sources).  Knows nothing of what
the programs do.  `python -m bench.load.build` compiles all of them and prints where they are.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

__all__ = ["PROGRAMS", "BuildError", "binary"]

FOLDER = Path(__file__).parent
PROGRAMS = ("xsload", "xsecho")
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")


class BuildError(RuntimeError):
    """No compiler, or it refused; the message is what it said."""


def binary(program: str) -> Path:
    """The path of one of PROGRAMS, compiled again if its source is newer.  Raises BuildError."""
    source, result = FOLDER / f"{program}.c", FOLDER / "build" / program
    if result.exists() and result.stat().st_mtime_ns > source.stat().st_mtime_ns:
        return result
    result.parent.mkdir(exist_ok=True)
    # a second run at the same time must never see half a program
    fresh = result.with_name(f"{program}.{os.getpid()}")
    command = [*shlex.split(os.environ.get("CC", "gcc")), *FLAGS, "-o", str(fresh), str(source)]
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
