"""DIRECTORY_PART: a directory that is too large for one reply, in chunks, each with the directory's generation."""

from __future__ import annotations

from collections.abc import Callable

from tests.conversations.speak import OK, Answer, Speaker, World


def parts(speaker: Speaker, path: str) -> list[bytes]:
    """All chunks, asked for as libxenstore does: the next begins where the last ended, two NULs end it."""
    found: list[bytes] = []
    generations = set()
    offset = 0
    while not found or not found[-1].endswith(b"\0\0"):
        answer = speaker.part(path, offset)
        assert not isinstance(answer, str)
        generation, chunk = answer
        generations.add(generation)
        found.append(chunk)
        offset += len(chunk)
        assert len(f"{generation}") + 1 + len(chunk) <= 4096
        assert len(found) < 1000
    assert len(generations) == 1
    return found


def generation(speaker: Speaker, path: str) -> int:
    answer = speaker.part(path, 0)
    assert not isinstance(answer, str), answer
    return answer[0]


def test_a_small_directory_is_one_chunk(dom0: Speaker) -> None:
    for name in ("one", "two", "three"):
        assert dom0.mkdir(f"/d/{name}") == OK
    assert parts(dom0, "/d") == [b"one\0two\0three\0\0"]


def test_an_empty_directory_is_one_nul(dom0: Speaker) -> None:
    assert dom0.mkdir("/d") == OK
    assert dom0.part("/d", 0) == (generation(dom0, "/d"), b"\0")


def test_an_offset_behind_the_end_is_one_nul(dom0: Speaker) -> None:
    assert dom0.mkdir("/d/one") == OK
    for offset in (4, 5, 4096, 99999999, 2147483647):
        assert dom0.part("/d", offset) == (generation(dom0, "/d"), b"\0")


def test_an_offset_may_point_into_a_name(dom0: Speaker) -> None:
    assert dom0.mkdir("/d/one") == OK
    assert dom0.mkdir("/d/two") == OK
    now = generation(dom0, "/d")
    assert dom0.part("/d", 1) == (now, b"ne\0two\0\0")
    assert dom0.part("/d", 3) == (now, b"\0two\0\0")
    assert dom0.part("/d", 4) == (now, b"two\0\0")
    assert dom0.part("/d", 7) == (now, b"\0\0")


def test_an_offset_is_read_as_atoi_reads_it(dom0: Speaker) -> None:
    assert dom0.mkdir("/d/one") == OK
    now = generation(dom0, "/d")
    assert dom0.part("/d", "") == (now, b"one\0\0")
    assert dom0.part("/d", "x") == (now, b"one\0\0")
    assert dom0.part("/d", " 1x") == (now, b"ne\0\0")
    assert dom0.part("/d", -1) == (now, b"\0")


def test_a_large_directory_comes_in_chunks_cut_between_names(dom0: Speaker) -> None:
    names = [f"child-number-{i}" for i in range(1000)]
    for name in names:
        assert dom0.mkdir(f"/d/{name}") == OK
    assert dom0.ls("/d") == "E2BIG"
    chunks = parts(dom0, "/d")
    assert len(chunks) > 3
    assert b"".join(chunks) == "".join(f"{name}\0" for name in names).encode() + b"\0"
    # Each but the last ends with a whole name, and holds as many as fit.
    for chunk in chunks[:-1]:
        assert chunk.endswith(b"\0")
        assert len(chunk) > 4096 - 24 - len("child-number-999") - 1


def test_the_generation_changes_with_the_directory(dom0: Speaker) -> None:
    assert dom0.mkdir("/d/one") == OK
    seen = [generation(dom0, "/d")]
    assert generation(dom0, "/d") == seen[0]
    changes: list[tuple[Callable[..., Answer], tuple[str | bytes, ...]]] = [
        (dom0.mkdir, ("/d/two",)),
        (dom0.rm, ("/d/one",)),
        (dom0.write, ("/d", b"value")),
        (dom0.write, ("/d", b"value")),  # a write is a change
        (dom0.chmod, ("/d", "r0")),
        (dom0.write, ("/d/three", b"value")),
    ]
    for change, words in changes:
        assert change(*words) == OK
        seen.append(generation(dom0, "/d"))
    assert seen == sorted(set(seen))


def test_but_not_with_what_happens_elsewhere(dom0: Speaker) -> None:
    assert dom0.mkdir("/d/one") == OK
    now = generation(dom0, "/d")
    assert dom0.write("/e", b"value") == OK
    assert dom0.write("/d/one", b"value") == OK
    assert dom0.mkdir("/d/one/deeper") == OK
    assert dom0.mkdir("/d/one") == OK
    assert generation(dom0, "/d") == now


def test_a_node_removed_and_made_again_is_another_one(dom0: Speaker) -> None:
    assert dom0.mkdir("/d") == OK
    now = generation(dom0, "/d")
    assert dom0.rm("/d") == OK
    assert dom0.mkdir("/d") == OK
    assert generation(dom0, "/d") != now


def test_a_listing_that_changes_half_way_shows_it(dom0: Speaker) -> None:
    for i in range(600):
        assert dom0.mkdir(f"/d/child-{i:03}") == OK
    first = dom0.part("/d", 0)
    assert not isinstance(first, str)
    assert dom0.rm("/d/child-000") == OK
    second = dom0.part("/d", len(first[1]))
    assert not isinstance(second, str)
    assert second[0] != first[0]


def test_a_commit_changes_it_too(dom0: Speaker) -> None:
    assert dom0.mkdir("/d") == OK
    now = generation(dom0, "/d")
    tx = dom0.start()
    assert dom0.mkdir("/d/one", tx) == OK
    assert generation(dom0, "/d") == now
    assert dom0.commit(tx) == OK
    assert generation(dom0, "/d") != now
    assert parts(dom0, "/d") == [b"one\0\0"]


def test_a_generation_that_was_given_out_is_part_of_what_a_transaction_read(world: World) -> None:
    dom0, other = world.dom0, world.again(world.dom0)
    assert dom0.mkdir("/d/one") == OK
    tx = dom0.start()
    assert dom0.part("/d", 0, tx) == (generation(dom0, "/d"), b"one\0\0")
    assert other.mkdir("/d/two") == OK
    assert dom0.commit(tx) == "EAGAIN"


def test_a_guest_may_list_what_it_may_read(world: World) -> None:
    guest = world.guest(1)
    assert guest.mkdir("x/one") == OK
    assert parts(guest, "x") == [b"one\0\0"]
    assert guest.part("/tool", 0) == "EACCES"
