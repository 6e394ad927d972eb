"""The list of named differences, docs/differences.toml, as tests and documentation read it.

Owns reading and the marks: which rule of the comparison stands on which entry.  Refuses to know what a rule does.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

FILE: Final = Path(__file__).resolve().parents[2] / "docs" / "differences.toml"
DAEMONS: Final = ("C 4.17", "C 4.22", "oxenstored")


class Difference(NamedTuple):
    """One entry: under `condition`, fastxs answers otherwise than `daemon` (`version`), for `reason`."""

    id: str
    condition: str
    daemon: str
    version: str
    reason: str
    tested_by: str
    """`differential`: a rule of this folder allows it; else the test folder that shows it, or `none`."""


@cache
def load(path: Path = FILE) -> dict[str, Difference]:
    """id -> entry.  ValueError names the entry that is incomplete, has an unknown daemon, or comes twice."""
    found: dict[str, Difference] = {}
    with path.open("rb") as file:
        entries = tomllib.load(file)["difference"]
    for entry in entries:
        name = entry.get("id", "?")
        if set(entry) != set(Difference._fields) or not all(isinstance(v, str) and v for v in entry.values()):
            raise ValueError(f"{path.name}: entry {name!r} must have exactly {', '.join(Difference._fields)}")
        if entry["daemon"] not in DAEMONS:
            raise ValueError(f"{path.name}: entry {name!r} has the unknown daemon {entry['daemon']!r}")
        if name in found:
            raise ValueError(f"{path.name}: entry {name!r} comes twice")
        found[name] = Difference(**entry)
    return found
