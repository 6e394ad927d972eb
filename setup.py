"""How the compiled half of fastxs is built; what the project is says pyproject.toml.

Every fastxs/**/*.pyx becomes an extension module of its own (its .pxd is its face); the pretend
hypervisor in fastxs/hypervisor/simxen and the load generator in fastxs/bench/load are compiled
beside them.  Cython's C files go to build/, never next to the sources.  FASTXS_CHECKED=1
makes the checked build (bounds checks, FASTXS_DEBUG): it is never in place, because it must not lie
under the release's name, but in build/checked/lib.
"""

import os
import runpy
import shutil
import sys
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

CHECKED = os.environ.get("FASTXS_CHECKED") == "1"
BUILD = Path("build/checked" if CHECKED else "build/release")
C_FILES = BUILD / "cython"
JOBS = len(os.sched_getaffinity(0))

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": CHECKED,
    "wraparound": False,
    "initializedcheck": CHECKED,
    "cdivision": True,
    "embedsignature": True,
    "warn.unused": True,
    "warn.maybe_uninitialized": True,
}
# Frame pointers, line tables: perf, py-spy --native and gdb then show lines of the .pyx.
C_FLAGS = ["-O2", "-g", "-fno-omit-frame-pointer", "-Wall", "-Wno-unused-function", "-Wno-sign-compare"]


class BuildExt(build_ext):
    """Extension modules, and the C programs in their folders: what runs in place needs both."""

    def run(self) -> None:
        build_programs()
        sources = c_sources(self.extensions)
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        if self.editable_mode:  # pip says: a temporary folder; but then everything is compiled again each time
            self.build_lib, self.build_temp = f"{BUILD}/lib", f"{BUILD}/temp"
        super().run()


class BuildPy(build_py):
    """Copies packages; the C programs must be there before they can be copied as package data."""

    def run(self) -> None:
        build_programs()
        super().run()


def build_programs() -> None:
    for folder in ("fastxs/hypervisor/simxen", "fastxs/bench/load"):
        runpy.run_path(f"{folder}/build.py")["build"]()


def modules() -> list[Extension]:
    headers = sorted(Path("fastxs").rglob("*.h"))
    return [
        Extension(
            ".".join(source.with_suffix("").parts),
            [str(source)],
            include_dirs=sorted({str(header.parent) for header in headers}),
            depends=[str(header) for header in headers],
            define_macros=[("FASTXS_DEBUG", "1")] if CHECKED else [],
            extra_compile_args=C_FLAGS,
        )
        for source in sorted(Path("fastxs").rglob("*.pyx"))
    ]


def c_sources(extensions: list[Extension]) -> dict[str, list[str]]:
    """Cython's part of the work, in parallel: module -> its C file."""
    if CHECKED and {"--inplace", "-i", "editable_wheel"} & set(sys.argv):
        raise SystemExit("fastxs: the checked build is never in place; use: FASTXS_CHECKED=1 python setup.py build")
    if any(c.stat().st_mtime < Path("setup.py").stat().st_mtime for c in C_FILES.rglob("*.c")):
        shutil.rmtree(C_FILES)  # other directives or flags, perhaps: nothing made before is to be trusted
    Options.warning_errors = True
    made = cythonize(
        extensions, compiler_directives=DIRECTIVES, build_dir=str(C_FILES), nthreads=JOBS, emit_linenums=True
    )
    return {extension.name: extension.sources for extension in made}


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    setup(
        ext_modules=modules(),
        cmdclass={"build_ext": BuildExt, "build_py": BuildPy},
        options={
            "build": {"build_base": f"{BUILD}", "build_lib": f"{BUILD}/lib", "build_temp": f"{BUILD}/temp"},
            "build_ext": {"parallel": JOBS},
        },
    )
