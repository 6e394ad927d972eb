"""The heap's room: handles, size classes, tables that grow a bucket at a time, buffers, the keyed hash."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fastxs.core.probe import Buffer, Heap, keyed_hash

LARGEST = 65536


def test_a_size_is_rounded_up_and_wastes_little() -> None:
    rounded = Heap.rounded
    assert [rounded(n) for n in (0, 1, 8, 9, 64, 65, 256, 257, 288, 289, 512, 513)] == [
        *(8, 8, 8, 16, 64, 72, 256, 288, 288, 320, 512, 576)
    ]
    assert rounded(LARGEST) == LARGEST
    before = 0
    for n in range(1, LARGEST + 1):
        size = rounded(n)
        assert n <= size <= max(n + 7, n + n // 8), n
        assert size % 8 == 0 and before <= size == rounded(size), n
        before = size


def test_what_is_too_large_is_refused() -> None:
    heap = Heap()
    assert heap.take(LARGEST) and not heap.take(LARGEST + 1)
    assert heap.used_bytes == LARGEST


def test_a_handle_is_used_again_and_nothing_is_lost() -> None:
    heap = Heap()
    first, second = heap.take(64), heap.take(64)
    assert 0 < first < second and heap.used_bytes == 128
    heap.give(first, 64)
    heap.give(second, 57)  # another size of the same class
    assert (heap.take(60), heap.take(64)) == (second, first)
    heap.give(first, 64)
    heap.give(second, 64)
    assert heap.used_bytes == 0


def test_items_of_64_bytes_keep_to_their_cache_lines() -> None:
    heap = Heap()
    heap.take(8)
    assert {heap.take(64) * 8 % 64 for _ in range(1000)} == {0}


def test_items_do_not_overlap() -> None:
    """Sizes of all kinds, over several chunks of 2 MiB, some given back on the way: every byte stays as it was set."""
    heap, chance, live = Heap(), random.Random(1), {}
    for i in range(4000):
        size = chance.choice((8, 24, 64, 100, 256, 300, 2000, 4096, 16000, LARGEST))
        h = heap.take(size)
        assert h and h not in live
        heap.fill(h, size, i % 251)
        live[h] = (size, i % 251)
        if i % 3 == 0:
            gone = chance.choice(list(live)[:8])
            heap.give(gone, live.pop(gone)[0])
    assert heap.chunks > 2
    assert heap.used_bytes == sum(Heap.rounded(size) for size, _ in live.values())
    for h, (size, byte) in live.items():
        assert heap.bytes_at(h, size) == bytes([byte]) * size


def test_a_table_grows_one_bucket_at_a_time() -> None:
    """An addition makes one bucket at most, so there is no pause; and there is one for each item."""
    heap = Heap()
    assert heap.table == (64, 64, 0)
    before = 64
    for i in range(5000):
        heap.add(keyed_hash(7, 0, b"%d" % i), i)
        buckets, level, count = heap.table
        assert count == i + 1
        assert before <= buckets <= before + 1
        assert level <= buckets < 2 * level and level & (level - 1) == 0
        before = buckets
    assert before >= 5000


def test_300_000_items_and_no_duplicate_is_lost() -> None:
    """Every third has a hash that another one has too; all are found, at every size of the table."""
    heap, n = Heap(), 300_000
    hashes = [keyed_hash(7, 0, b"%d" % (i // 3 * 3 if i % 3 == 2 else i)) for i in range(n)]
    for i, h in enumerate(hashes):
        heap.add(h, i)
    assert heap.table[2] == n
    assert sorted(heap.walk()) == list(range(n))
    assert all(heap.find(h, i) for i, h in enumerate(hashes))
    assert heap.longest_chain() < 16
    for i in range(0, n, 2):
        heap.drop(heap.find(hashes[i], i))
    assert heap.table[2] == n // 2 and heap.used_bytes == n // 2 * 16
    assert sorted(heap.walk()) == list(range(1, n, 2))
    assert not any(heap.find(hashes[i], i) for i in range(0, 1000, 2))


def test_the_hash_depends_on_every_part() -> None:
    assert keyed_hash(1, 2, b"name") == keyed_hash(1, 2, b"name")
    names = [b"", b"a", b"b", b"aa", b"a\0", b"\0", b"\0\0", *(b"x" * k for k in range(1, 40))]
    hashes = {keyed_hash(secret, above, name) for secret in (1, 2) for above in (0, 1, 9) for name in names}
    assert len(hashes) == 6 * len(names)


@given(st.binary(min_size=1, max_size=80), st.data())
def test_each_byte_of_a_name_counts(name: bytes, data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(name) - 1))
    other = bytearray(name)
    other[i] ^= data.draw(st.integers(1, 255))
    assert keyed_hash(3, 5, name) != keyed_hash(3, 5, bytes(other))


@given(st.lists(st.binary(max_size=3000), max_size=20))
def test_a_buffer_grows_by_doubling_and_keeps_its_bytes(pieces: list[bytes]) -> None:
    buffer = Buffer()
    for piece in pieces:
        buffer.add(piece)
    assert buffer.content == b"".join(pieces)
    assert buffer.cap in {0, *(512 << k for k in range(10))}
    assert len(buffer.content) <= buffer.cap <= max(512, 2 * len(buffer.content))


def test_a_fork_does_not_wait_for_its_parents_threads() -> None:
    """Memory is brought in ahead by threads (core/warm.pyx), and the guardian of a live update has none of them."""
    heap = Heap()
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    for _ in range(64 << 20 >> 16):
        heap.take(LARGEST)
        if len(list(tasks.iterdir())) > before:
            break
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        del heap
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
