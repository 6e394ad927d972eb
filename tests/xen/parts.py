"""What a Xen host is made of: Debian's hypervisor and kernel, fetched and unpacked into the build folder.

Owns the cache.  Nothing is installed: nobody wants a kernel or a boot loader for running tests.
"""

from __future__ import annotations

import fcntl
import gzip
import lzma
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from fastxs.hypervisor.host import XEN_BIN

__all__ = ["CACHE", "CHECKOUT", "Missing", "Parts", "locked", "parts"]

CHECKOUT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = CHECKOUT / "build" / "xen"

PROGRAMS: Final = {
    "qemu-system-x86_64": "qemu-system-x86",
    "/bin/busybox": "busybox-static",
    f"{XEN_BIN}/xl": "xen-utils-4.17",
    "/etc/init.d/xen": "xen-utils-common",
    "xenstore-ls": "xenstore-utils",
    "apt-get": "apt",
}
"""What the machine must have -> Debian's package of it (packaging/setup.sh installs them)."""

HYPERVISOR: Final = "xen-hypervisor-4.17-amd64"
KERNEL: Final = "linux-image-amd64"
"""Only a name: it depends on the package of today's kernel."""

XZ_MAGIC: Final = b"\xfd7zXZ\0"


class Missing(Exception):
    """This machine cannot have a Xen host; the text says why."""


class Parts(NamedTuple):
    """The hypervisor and the kernel, both as plain ELF files, and the folder with the kernel's modules."""

    hypervisor: Path
    kernel: Path
    modules: Path


def parts() -> Parts:
    """The parts, from the cache or from Debian's archive.  Missing: they cannot be had."""
    if platform.machine() != "x86_64":
        raise Missing(f"the Xen host is an x86_64 machine, this is {platform.machine()}")
    if lacking := sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None}):
        raise Missing(f"Debian packages are not installed: {' '.join(lacking)}")
    CACHE.mkdir(parents=True, exist_ok=True)
    home = CACHE / "parts"
    with locked(CACHE / "lock"):
        if not home.exists():
            new = CACHE / "parts.new"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            _unpack(new)
            new.rename(home)
    return Parts(home / "xen", home / "vmlinux", home / "modules")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock goes with its holder."""
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _unpack(folder: Path) -> None:
    try:
        _download(folder)
    except Missing:
        if os.geteuid() != 0:
            raise
        _run(folder, "apt-get", "-q", "update")  # the lists may be missing, or older than the archive
        _download(folder)
    for package in folder.glob("*.deb"):
        _run(folder, "dpkg-deb", "-x", str(package), "root")
        package.unlink()
    boot = folder / "root/boot"
    # QEMU starts a plain multiboot image, and neither dom0 nor a guest should spend its emulated seconds on xz.
    (folder / "xen").write_bytes(gzip.decompress((boot / "xen-4.17-amd64.gz").read_bytes()))
    packed = next(boot.glob("vmlinuz-*")).read_bytes()
    start = packed.find(XZ_MAGIC)
    if start < 0:
        raise Missing("the kernel is not packed with xz, as Debian 12's is")
    (folder / "vmlinux").write_bytes(lzma.LZMADecompressor().decompress(packed[start:]))
    next(folder.glob("root/lib/modules/*")).rename(folder / "modules")
    shutil.rmtree(folder / "root")


def _download(folder: Path) -> None:
    kernel = re.search(r"^ *Depends: (linux-image-\S+)", _run(folder, "apt-cache", "depends", KERNEL), re.MULTILINE)
    if kernel is None:
        raise Missing(f"apt knows no {KERNEL}")
    # The archive's own user may not write here.
    _run(folder, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", kernel[1], HYPERVISOR)


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return done.stdout
