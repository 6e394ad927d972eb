"""What an image may need is reserved before it is needed: a write to a full file system's map is a SIGBUS."""

from __future__ import annotations

from pathlib import Path

from fastxs.storage.image import FORMAT, Image
from fastxs.storage.reader import IDS, LOG_RECORD, META, META_STORE, QUOTAS
from tests.storage.images import IDENTITY, NODE, key

NODES = 20_000
CHANGES = 500
"""Of nodes that lie in pages of their own: each is copied, and may be split.  One more fold would take no more."""


def written(numbers: range) -> bytearray:
    record = bytes(200)
    return bytearray(b"".join(LOG_RECORD.pack(key(NODE, 16 + i), len(record)) + record for i in numbers))


def test_the_first_fold_after_a_start_finds_its_pages_reserved(tmp_path: Path) -> None:
    """The size of the tree is known from the beginning: from it follows how many pages a fold may copy."""
    folder = tmp_path / "image"
    folder.mkdir()
    image = Image.create(str(folder), IDENTITY)
    for start in range(0, NODES, 4000):
        image.put(written(range(start, start + 4000)), 4000)
    store = LOG_RECORD.pack(1 << 56 | META_STORE & IDS, META.size) + META.pack(FORMAT, 0, 0, 0, 0, *[1] * len(QUOTAS))
    image.put(bytearray(store + bytes(-META.size & 7)), 1)
    image.close()
    Image.fold(str(folder))
    image = Image.open(str(folder))
    used = image.pages()[0]
    for i in range(CHANGES):
        image.put(written(range(i * (NODES // CHANGES), i * (NODES // CHANGES) + 1)), 1)
    now, reserved = image.pages()
    assert now == used, "all of it is in the log"
    assert reserved - used >= 2 * CHANGES
    image.close()
