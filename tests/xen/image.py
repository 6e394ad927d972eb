"""The two RAM disks: dom0's, with Debian's Xen tools, Python and an installed fastxs; and, inside it, the guest's.

Owns what is in them and where.  What runs there is in the folders `dom0`, `guest` and `scenarios`.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastxs.hypervisor.host import XEN_BIN
from tests.xen.archive import Archive
from tests.xen.parts import CACHE, CHECKOUT, Missing, Parts, locked

__all__ = ["FASTXS", "write_dom0"]

HERE: Final = Path(__file__).parent

FASTXS: Final = "/opt/fastxs"
"""The virtual environment in dom0 that fastxs is installed in."""

STORE_TOOLS: Final = tuple(
    f"/usr/bin/xenstore-{name}" for name in ("chmod", "exists", "list", "ls", "read", "rm", "watch", "write")
)
DOM0_TOOLS: Final = tuple(
    f"{XEN_BIN}/{name}"
    for name in ("xl", "libxl-save-helper", "lsevtchn", "test-xenstore", "xen-init-dom0", "xenconsole", "xenconsoled",
                 "xenstore-control", "xenstored", "oxenstored")
)  # fmt: skip
SCRIPT_TOOLS: Final = (
    "/bin/dash",
    "/bin/bash",
    "/sbin/start-stop-daemon",
    "/usr/bin/choom",
    "/usr/bin/flock",
    "/usr/bin/prlimit",
)
"""What Xen's and Debian's own scripts call, beyond what busybox has."""
SCRIPTS: Final = ("/etc/xen/scripts", "/etc/init.d", "/lib/lsb", "/lib/init", "/usr/lib/xen-common")
SETTINGS: Final = ("/etc/default/xen", "/etc/xen/oxenstored.conf", "/etc/xen/xl.conf")

LIBGCC: Final = "/lib/x86_64-linux-gnu/libgcc_s.so.1"
"""libxenstore cancels its watch thread, which loads this at run time: ldd does not name it."""

DOM0_MODULES: Final = ("xenfs", "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xen-privcmd",
                       "xen-blkback", "xen-netback", "bridge", "loop")  # fmt: skip
GUEST_MODULES: Final = ("xenfs", "xen-blkfront", "xen-netfront")

NO_DAEMON_NEEDS: Final = re.compile(
    r"/(site-packages|dist-packages|test|tests|idlelib|tkinter|lib2to3|ensurepip|turtledemo|pydoc_data|config-[^/]+)$"
    r"|\.a$|\.opt-[12]\.pyc$|/_?(test|ctypes_test|xxtest|xxlimited|tkinter)[^/]*\.so$"
)
"""Of Python's standard library."""


def write_dom0(parts: Parts, file: Path) -> None:
    """Dom0's RAM disk.  Missing: fastxs cannot be made into a wheel here."""
    image = _skeleton()
    image.program(*STORE_TOOLS, *DOM0_TOOLS, *SCRIPT_TOOLS)
    image.modules(parts.modules, DOM0_MODULES)
    for folder in SCRIPTS:
        image.tree(folder)
    for path in SETTINGS:
        image.copy(path)
    image.link("/bin/sh", "dash")  # busybox's would run its own start-stop-daemon, whatever PATH says
    image.link("/usr/sbin/xl", f"{XEN_BIN}/xl")
    image.copy(parts.kernel, "/boot/vmlinux")
    image.data("/boot/guest.cpio.gz", gzip.compress(_guest(parts), 1))
    image.tree(HERE / "dom0", "/xen")
    image.tree(HERE / "scenarios", "/xen/scenarios")
    image.link("/init", "/xen/init")
    _add_python(image)
    with locked(CACHE / "lock"):
        _add_fastxs(image)
        file.write_bytes(image.packed())


def _guest(parts: Parts) -> bytes:
    image = _skeleton()
    image.program(*STORE_TOOLS)
    image.modules(parts.modules, GUEST_MODULES)
    image.copy(HERE / "guest/init", "/init")
    for command in "poweroff", "reboot":  # the kernel calls these when XenStore's control/shutdown says so
        image.data(f"/usr/sbin/{command}", f"#!/bin/busybox sh\nexec busybox {command} -f\n".encode(), 0o755)
    return image.packed()


def _skeleton() -> Archive:
    """What both have: Debian's merged /usr, busybox, and the console that the kernel opens before there is a /dev."""
    image = Archive()
    for name in "bin", "sbin", "lib", "lib64":
        image.folder(f"/usr/{name}")
        image.link(f"/{name}", f"usr/{name}")
    for folder in "/proc", "/sys", "/run", "/tmp", "/root", "/var/log/xen/console", "/var/lib/xen":
        image.folder(folder)
    image.link("/var/run", "/run")
    image.link("/var/lock", "/run/lock")
    image.device("/dev/console", 5, 1)
    image.device("/dev/null", 1, 3)
    image.data("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    image.data("/etc/group", b"root:x:0:\n")
    image.program("/bin/busybox", LIBGCC)
    return image


def _add_python(image: Archive) -> None:
    """The interpreter that runs this, with its standard library at the same place."""
    program = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    image.program(program)
    library = Path(sysconfig.get_path("stdlib"))
    image.tree(library, skip=NO_DAEMON_NEEDS)
    image.libraries(*library.glob("lib-dynload/*.so"))
    image.link("/usr/bin/python3", program)
    image.link(f"{FASTXS}/bin/python", program)
    image.data(f"{FASTXS}/pyvenv.cfg", f"home = {os.path.dirname(program)}\n".encode())


def _add_fastxs(image: Archive) -> None:
    """fastxs as pip installs its wheel, and the packages that it needs from this environment."""
    site = CACHE / "site"
    shutil.rmtree(site, ignore_errors=True)
    _pip("install", "-q", "--no-deps", "--no-index", "--target", str(site), str(_wheel()))
    there = f"{FASTXS}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    image.tree(site, there)
    image.libraries(*site.rglob("*.so"))
    for script in (site / "bin").iterdir():  # written for the Python that ran pip
        body = script.read_text().partition("\n")[2]
        image.data(f"{FASTXS}/bin/{script.name}", f"#!{FASTXS}/bin/python\n{body}".encode(), 0o755)
    for name in _needed("fastxs"):
        for found in importlib.metadata.files(name) or ():
            if ".." not in found.parts:
                image.copy(os.fspath(found.locate()), f"{there}/{found}")
                if found.suffix == ".so":
                    image.libraries(os.fspath(found.locate()))


def _wheel() -> Path:
    folder = CACHE / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    with locked(CHECKOUT / ".venv/.build.lock"):
        _pip("wheel", "-q", "--no-build-isolation", "--no-deps", "--no-index", "-w", str(folder), str(CHECKOUT))
        # It would hide the environment's own metadata from who starts Python here.
        shutil.rmtree(CHECKOUT / "fastxs.egg-info", ignore_errors=True)
    return next(folder.glob("*.whl"))


def _pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise Missing(f"pip {words[0]}: {done.stderr.strip()}")


def _needed(name: str) -> Iterator[str]:
    """The distributions that one needs, at any remove, that are installed here."""
    for line in importlib.metadata.requires(name) or ():
        other = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        if "extra ==" not in line and next(iter(importlib.metadata.Distribution.discover(name=other)), None):
            yield other
            yield from _needed(other)
