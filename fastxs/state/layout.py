"""The migration stream's numbers (xenstore-migration.md; SPEC 6.6): types, flags, and each record's fixed part.

Owns where a field lies.  Refuses to know what a field means: that is the reader's and the writer's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

__all__ = [
    "BIG_ENDIAN",
    "DOMID_INVALID",
    "IDENT",
    "LAYOUTS",
    "PREAMBLE",
    "RING",
    "SOCKET",
    "STALE",
    "UNIQUE_ID",
    "UNLIMITED",
    "ByteOrder",
    "Layout",
    "Type",
    "aligned",
]

IDENT: Final = b"xenstore"
PREAMBLE: Final = struct.Struct(">8sII")
"""ident, version, flags: big-endian whatever the records are."""

BIG_ENDIAN: Final = 1
"""The one flag."""

RING, SOCKET = 0, 1
"""Types of connections."""

UNIQUE_ID: Final = 1
"""CONNECTION_DATA's flag that this field follows."""

DOMID_INVALID: Final = 0x7FF4
"""The target of a ring that has none."""

STALE: Final = 1
"""A permission's flag."""

UNLIMITED: Final = 0xFFFF
"""The depth of a watch that has none."""

ByteOrder = Literal["little", "big"]


class Type(IntEnum):
    """What a record is."""

    END = 0
    GLOBAL_DATA = 1
    CONNECTION_DATA = 2
    WATCH_DATA = 3
    TRANSACTION_DATA = 4
    NODE_DATA = 5
    GLOBAL_QUOTA_DATA = 6
    DOMAIN_DATA = 7
    WATCH_DATA_EXTENDED = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """The fixed parts in one byte order."""

    mark: str
    record: struct.Struct
    """type, length of the body."""
    files: struct.Struct
    """GLOBAL_DATA: listening socket, event channel; -1 none."""
    ring: struct.Struct
    """CONNECTION_DATA: id, type, fields, domid, target, port, then three lengths: input, partial output, output."""
    socket: struct.Struct
    """CONNECTION_DATA: id, type, fields, descriptor, then the same lengths."""
    unique_id: struct.Struct
    watch: struct.Struct
    """WATCH_DATA: connection, length of the path, of the token, both with their NULs."""
    depth: struct.Struct
    """What WATCH_DATA_EXTENDED has behind that."""
    transaction: struct.Struct
    """connection, id."""
    node: struct.Struct
    """NODE_DATA: connection, transaction, length of the path with its NUL, of the value, access, permissions."""
    perm: struct.Struct
    """letter, flags, domid."""
    quotas: struct.Struct
    """GLOBAL_QUOTA_DATA: how many values are domains' defaults, how many are global."""
    domain: struct.Struct
    """DOMAIN_DATA: domid, how many quotas, features."""

    def values(self, n: int) -> struct.Struct:
        """Of `n` quotas."""
        return struct.Struct(f"{self.mark}{n}I")


def _layout(mark: str) -> Layout:
    forms = ("II", "ii", "IHHHHIHHI", "IHHi4xHHI", "Q", "IHH", "H", "II", "IIHHHH", "BBH", "HH", "HHI")
    return Layout(mark, *(struct.Struct(mark + form) for form in forms))


LAYOUTS: Final[dict[ByteOrder, Layout]] = {"little": _layout("<"), "big": _layout(">")}


def aligned(size: int) -> int:
    """Bodies of records, and what follows a connection's data, begin and end at multiples of 8."""
    return (size + 7) & ~7
