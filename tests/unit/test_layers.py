"""Who may import whom: the core's rooms by their cimports, the Python rooms by import-linter's contract.

Owns the one table of the core's rooms.  Refuses to know what a room does.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for kind in ("*.pyx", "*.pxd") for path in (ROOT / "fastxs").rglob(kind))

# Ground floor first.  A room cimports only from rooms that stand before it.
ROOMS = [
    "fastxs.core.model",  # the structs that all share
    "fastxs.core.trial",  # where a crash is tried
    "fastxs.core.spans",  # how long turns hold the thread
    "fastxs.core.wire",
    "fastxs.core.warm",  # memory before it is needed
    "fastxs.core.heap",  # where the structs lie
    "fastxs.core.paths",
    "fastxs.core.journal",  # what a turn changed, and the form of the image
    "fastxs.core.perms",
    "fastxs.core.quota",
    "fastxs.core.trace",
    "fastxs.core.tree",
    "fastxs.core.slots",  # what is between us and each peer
    "fastxs.core.outbox",  # replies and events that wait for a peer
    "fastxs.core.watches",
    "fastxs.core.transactions",
    "fastxs.core.ring",
    "fastxs.core.connection",
    "fastxs.core.domains",
    "fastxs.core.requests",
    "fastxs.core.recover",  # from an image back to a store
    "fastxs.core.store",
    "fastxs.core.turn",
    "fastxs.core.check",  # looks at everything, is used by the Engine only
    "fastxs.core.probe",  # a face of single rooms for tests; used by nobody
    "fastxs.core.laps",  # loops over single rooms for bench/micro; used by nobody
    "fastxs._core",
    "fastxs.hypervisor.states",
    "fastxs.storage.lmdb",
    "fastxs.storage.image",
    "fastxs.hypervisor.border",  # implements the Border that the Engine knows
]

# `from a.b cimport c`, `cimport a.b as c`, `from a.b import c`; the tail matters for `from fastxs.core cimport wire`.
IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|.*)|c?import\s+([\w.]+))", re.MULTILINE)


def room_of(source: Path) -> str:
    """fastxs/core/tree.pxd -> fastxs.core.tree"""
    return ".".join(source.relative_to(ROOT).with_suffix("").parts)


def rooms_used(text: str) -> set[str]:
    """The rooms that a Cython source names in its imports, its own face left out."""
    used = set()
    for package, tail, module in IMPORT.findall(text):
        words = re.findall(r"\w+", re.sub(r"\bas\s+\w+", "", tail))
        used |= {package, module} | {f"{package}.{word}" for word in words}
    return used & set(ROOMS)


def test_the_parser_sees_every_way_to_import() -> None:
    text = """
from libc.string cimport memcpy
from fastxs.core.tree cimport (Node,
                               find)
from fastxs.core cimport wire, perms as p
cimport fastxs.core.quota as q
"""
    assert rooms_used(text) == {f"fastxs.core.{room}" for room in ("tree", "wire", "perms", "quota")}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_cimports_only_from_rooms_below(source: Path) -> None:
    if source.stem == "__init__":
        assert not rooms_used(source.read_text()), "a package is no room"
        return
    room = room_of(source)
    assert room in ROOMS, f"{room} has no place yet: add it to ROOMS"
    above = {used for used in rooms_used(source.read_text()) if ROOMS.index(used) > ROOMS.index(room)}
    assert not above, f"{room} stands below {sorted(above)}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_opens_with_what_it_owns(source: Path) -> None:
    if source.stem != "__init__":
        assert source.read_text().startswith(('"""', "# ")), "what does this room own, what does it refuse to know?"


def test_the_core_knows_no_room_of_python() -> None:
    for source in (source for source in SOURCES if "core" in source.parts or source.stem == "_core"):
        named = {name.rstrip(".") for match in IMPORT.findall(source.read_text()) for name in (match[0], match[2])}
        above = {name for name in named if re.match(r"fastxs\.(storage|state|daemon|client|cli)\b", name)}
        assert not above, f"{source.name} reaches up to {sorted(above)}"


def test_python_rooms_import_only_downward() -> None:
    """The contract is in pyproject.toml, [tool.importlinter]."""
    pytest.importorskip("importlinter")
    command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    linted = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert "1 kept, 0 broken" in linted.stdout
