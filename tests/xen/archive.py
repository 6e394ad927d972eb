"""A RAM disk in the making: what the kernel unpacks as its root (cpio's "newc" format).

Owns the format and what a program needs beside itself (its shared libraries, a module's modules).  No root is needed:
owners and device nodes are only written down.
"""

from __future__ import annotations

import functools
import io
import os
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Archive"]

USR: Final = re.compile(r"^/(bin|sbin|lib|lib64)(?=/)")
"""Debian's merged /usr: these are links."""


class Entry(NamedTuple):
    mode: int
    data: bytes | Path = b""
    device: tuple[int, int] = (0, 0)


class Archive:
    """Files by absolute path; what is added twice is there once, as it was added last."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def folder(self, path: str) -> None:
        self._add(path, Entry(stat.S_IFDIR | 0o755))

    def data(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self._add(path, Entry(stat.S_IFREG | mode, data))

    def link(self, path: str, target: str) -> None:
        self._add(path, Entry(stat.S_IFLNK | 0o777, target.encode()))

    def device(self, path: str, major: int, minor: int) -> None:
        self._add(path, Entry(stat.S_IFCHR | 0o600, device=(major, minor)))

    def copy(self, source: Path | str, path: str = "") -> None:
        """A file of this machine, or what a link leads to; at the same path unless another is given."""
        self._add(path or str(source), Entry(stat.S_IFREG | os.stat(source).st_mode & 0o777, Path(source)))

    def tree(self, source: Path | str, path: str = "", skip: re.Pattern[str] | None = None) -> None:
        """A folder with all that is in it, but for relative paths in which `skip` finds something."""
        for folder, folders, files in os.walk(source):
            inside = os.path.relpath(folder, source)
            for names in (folders, files):
                names[:] = sorted(n for n in names if skip is None or not skip.search(os.path.join("/", inside, n)))
            for name in files:
                self.copy(Path(folder, name), os.path.normpath(os.path.join(path or source, inside, name)))

    def program(self, *files: Path | str) -> None:
        """Programs or libraries, with every shared library that they name."""
        for file in files:
            self.copy(file)
        self.libraries(*files)

    def libraries(self, *files: Path | str) -> None:
        for file in files:
            for library in _libraries(str(file)):
                self.copy(library)

    def modules(self, folder: Path, names: Iterable[str]) -> None:
        """Kernel modules and those that they need; their load order goes to /lib/modules/order."""
        order: dict[str, Path] = {}
        where = {found.stem.replace("_", "-"): found for found in folder.rglob("*.ko")}

        def need(name: str) -> None:
            file = where[name.replace("_", "-")]
            for other in _depends(file):
                need(other)
            order[file.name] = file

        for name in names:
            need(name)
        for name, file in order.items():
            self.copy(file, f"/lib/modules/{name}")
        self.data("/lib/modules/order", "".join(f"{name}\n" for name in order).encode())

    def packed(self) -> bytes:
        """The archive, uncompressed: an emulated CPU unpacks slowly."""
        file = io.BytesIO()
        entries = [*sorted(self._entries.items()), ("/TRAILER!!!", Entry(0))]
        for number, (path, entry) in enumerate(entries, 1):
            name = path[1:].encode() + b"\0"
            data = entry.data if isinstance(entry.data, bytes) else entry.data.read_bytes()
            mtime = 0 if isinstance(entry.data, bytes) else int(entry.data.stat().st_mtime)
            fields = (number, entry.mode, 0, 0, 1, mtime, len(data), 0, 0, *entry.device, len(name), 0)
            head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
            file.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))
        return file.getvalue()

    def _add(self, path: str, entry: Entry) -> None:
        path = USR.sub(r"/usr/\1", path)
        for parent in _parents(path):
            self._entries.setdefault(parent, Entry(stat.S_IFDIR | 0o755))
        self._entries[path] = entry


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")[1:-1]
    return ("/" + "/".join(parts[:n]) for n in range(1, len(parts) + 1))


@functools.cache
def _libraries(file: str) -> tuple[str, ...]:
    """What the loader would load for it; nothing for a static program or a script."""
    return tuple(re.findall(r"(?:=> |^\t)(/\S+)", _ldd(file), re.MULTILINE))


def _ldd(file: str) -> str:
    return subprocess.run(["ldd", file], capture_output=True, text=True).stdout


def _depends(module: Path) -> list[str]:
    """The modules that one names in its own description."""
    found = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    return [name for name in found[1].decode().split(",") if name] if found else []
