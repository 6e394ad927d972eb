"""Images as a tool reads them: each kind of record, each kind of damage, and the words for it."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxs._core import Engine
from fastxs.core.probe import keyed_hash
from fastxs.storage import reader
from fastxs.storage.image import Image, ImageError
from fastxs.storage.reader import Conn, Entry, Identity, Meta, Node, Perms, Reader, Transaction, Unreadable, Watch
from tests.storage.images import CONNECTION, META, NODE, PERMS, TRANSACTION, WATCH, key, made, put, value


@given(key=st.integers(0, 2**64 - 1), body=st.binary(max_size=300))
def test_the_checksum_is_the_cores(key: int, body: bytes) -> None:
    assert reader.checksum(1, key, body) == keyed_hash(key, 1, body)


def test_limits_have_the_engines_names() -> None:
    assert sorted(reader.QUOTAS) == sorted(Engine.quota_names())


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "in the log"])
def test_every_kind_of_record(tmp_path: Path, fold: bool) -> None:
    with Reader(made(tmp_path / "image", fold=fold)) as image:
        records = [*image.records()]
        assert image.version == 1
        assert image.turn > 1
    (meta,) = (each for each in records if isinstance(each, Meta))
    assert (meta.priv_domid, meta.store_domid, meta.limits["nodes"]) == (0, 0, 1000)
    assert Identity("a boot of the host", "xen") in records
    (conn,) = (each for each in records if isinstance(each, Conn))
    assert (conn.kind, conn.domid, conn.cookie > 0) == (reader.SOCKET, 0, True)
    assert [each.conn for each in records if isinstance(each, Transaction)] == [conn.index]
    assert [(each.path, each.token, each.depth, each.relative) for each in records if isinstance(each, Watch)] == [
        (b"/tool", b"a token", None, False),
        (b"/local/domain/0/tool", b"b", 1, True),
    ]
    nodes = {each.name: each for each in records if isinstance(each, Node)}
    assert nodes[b""].parent == reader.ROOT_PARENT
    assert nodes[b"@releaseDomain"].parent == reader.SPECIALS_PARENT
    binary = nodes[b"binary"]
    assert binary.value == bytes(range(256))
    assert binary.parent == nodes[b"tool"].birth
    perms = {each.id: each.entries for each in records if isinstance(each, Perms)}
    assert perms[binary.perms] == (Entry("w", 0, False), Entry("r", 0, False))


def test_the_log_is_read_as_if_it_were_folded(tmp_path: Path) -> None:
    folder = made(tmp_path / "image", fold=False)
    with Reader(folder) as image:
        before, turn = [*image.records()], image.turn
    Image.fold(str(folder))
    with Reader(folder) as image:
        assert [*image.records()] == before
        assert image.turn == turn


def test_a_sound_image_is_examined(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    found = reader.examine(made(tmp_path / "image"), lambda done, of: steps.append((done, of)))
    assert found.faults == []
    assert found.counts["sockets"] == found.counts["transactions"] == 1
    assert found.counts["watches"] == found.counts["specials"] == 2
    assert steps[0][0] == 0
    assert steps[-1][0] == steps[-1][1], "the last step is all of it"


# ---- versions ----------------------------------------------------------------------------------------------


def written_by(folder: Path, version: int) -> Path:
    """The image, as another version would have signed its first record."""
    meta = bytearray(value(folder, key(META, 0)))
    struct.pack_into("=I", meta, 4, version)
    put(folder, key(META, 0), bytes(meta), version=version)
    return folder


def test_a_newer_fastxss_image_is_refused_in_words(tmp_path: Path) -> None:
    folder = written_by(made(tmp_path / "image"), 2)
    with pytest.raises(Unreadable) as refused:
        reader.examine(folder)
    assert str(refused.value) == (
        f"{folder}: format 2 is newer than this fastxs, which reads format 1: use the fastxs that wrote it"
    )
    with pytest.raises(ImageError, match="format 2"):
        Image.open(str(folder))


def test_no_fastxs_wrote_format_0(tmp_path: Path) -> None:
    folder = written_by(made(tmp_path / "image"), 0)
    with pytest.raises(Unreadable, match="format 0 is none that this fastxs reads"):
        Reader(folder)


def test_a_table_decides_which_versions_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "image")
    monkeypatch.setattr(reader, "FORMATS", {2: reader.FORMATS[1], 3: reader.FORMATS[1]})
    with pytest.raises(Unreadable, match="format 1 is none that this fastxs reads .it reads format 2 and 3."):
        Reader(folder)


# ---- damages -----------------------------------------------------------------------------------------------


def faults(folder: Path) -> list[str]:
    return reader.examine(folder).faults


@pytest.mark.parametrize("table", [META, PERMS, CONNECTION, TRANSACTION, WATCH, NODE])
def test_a_changed_byte_is_found_in_every_table(tmp_path: Path, table: int) -> None:
    folder = made(tmp_path / "image")
    with Reader(folder) as image:
        number, old = next((number, old) for number, old in image._merged() if number >> 56 == table)
    put(folder, number, old[:-1] + bytes([old[-1] ^ 1]), sign=False)
    assert [fault for fault in faults(folder) if fault.endswith("the checksum is wrong")]
    with Reader(folder) as image, pytest.raises(Unreadable, match="the checksum is wrong; `fastxs check`"):
        [*image.records()]
    with pytest.raises(ImageError, match="damaged"):
        Image.verify(str(folder))


def test_a_changed_byte_is_found_in_the_log(tmp_path: Path) -> None:
    folder = made(tmp_path / "image", fold=False)
    log = folder / "log"
    log.write_bytes(log.read_bytes().replace(b"a token", b"A token"))
    first, second = faults(folder)
    assert first.startswith("the log: key 0x6")
    assert second.startswith("watch ")


@pytest.mark.parametrize(
    ("table", "at", "form", "said"),
    [
        (WATCH, 4, "=I", "there is no connection 77"),
        (NODE, 4, "=I", "there are no permissions 77"),
        (CONNECTION, 8, "=I", "there is no kind 77"),
    ],
)
def test_a_reference_that_leads_nowhere(tmp_path: Path, table: int, at: int, form: str, said: str) -> None:
    folder = made(tmp_path / "image")
    with Reader(folder) as image:
        number, old = next((number, old) for number, old in image._merged() if number >> 56 == table)
    new = bytearray(old)
    struct.pack_into(form, new, at, 77)
    put(folder, number, bytes(new))
    assert [fault for fault in faults(folder) if said in fault]


def test_a_client_is_missing_with_all_it_had(tmp_path: Path) -> None:
    folder = made(tmp_path / "image")
    with Reader(folder) as image:
        (index,) = (each.index for each in image.records() if isinstance(each, Conn))
    put(folder, key(CONNECTION, index), None)
    assert len([fault for fault in faults(folder) if f"there is no connection {index}" in fault]) == 3


def test_a_node_without_its_parent_was_removed_with_it(tmp_path: Path) -> None:
    folder = made(tmp_path / "image")
    with Reader(folder) as image:
        (tool,) = (each.birth for each in image.records() if isinstance(each, Node) and each.name == b"tool")
    put(folder, key(NODE, tool), None)
    found = reader.examine(folder)
    assert (found.faults, found.counts["removed"]) == ([], 2)


def test_two_roots_two_of_a_name_and_no_root(tmp_path: Path) -> None:
    folder = made(tmp_path / "image")
    with Reader(folder) as image:
        nodes = [each for each in image.records() if isinstance(each, Node)]
    root = next(each.birth for each in nodes if each.parent == reader.ROOT_PARENT)
    tool = next(each.birth for each in nodes if each.name == b"tool")
    put(folder, key(NODE, 1 << 50), value(folder, key(NODE, root)))
    put(folder, key(NODE, 2 << 50), value(folder, key(NODE, tool)))
    assert [fault.rpartition(": ")[2] for fault in faults(folder)] == ["a second root", "a second child of that name"]
    put(folder, key(NODE, 1 << 50), None)
    put(folder, key(NODE, root), None)
    assert faults(folder) == ["there is no root"]


def test_lengths_and_tables_that_are_none(tmp_path: Path) -> None:
    folder = made(tmp_path / "image")
    put(folder, key(NODE, 1 << 50), bytes(20) + b"more")
    put(folder, key(9, 1), bytes(8))
    first, second = faults(folder)
    assert first == f"node {1 << 50}: 24 bytes long, which is not 20 + 0 + 0"
    assert second == "a record of no known table, key 0x900000000000001"


def test_the_log_lacks_turns_that_peers_were_told_of(tmp_path: Path) -> None:
    folder = made(tmp_path / "image", fold=False)
    with (folder / "log").open("r+b") as file:
        log, head, at = file.read(), reader.LOG_HEAD, 0
        first, length = head.unpack_from(log)
        for turn in range(first, first + 4):
            assert head.unpack_from(log, at)[0] == turn
            at += head.size + head.unpack_from(log, at)[1]
        os.pwrite(file.fileno(), bytes(head.size), at)
    (fault,) = (fault for fault in faults(folder) if "`log`" in fault)
    assert fault.startswith(f"`log` ends with turn {turn}, but a peer was told of turn ")


def test_the_slot_file_is_missing(tmp_path: Path) -> None:
    folder = made(tmp_path / "image")
    (folder / "slots.0").unlink()
    (fault,) = faults(folder)
    assert fault.startswith("slots.0 is missing")


@pytest.mark.parametrize(
    ("size", "said"), [(8192, "cut short or damaged .reading it ends with SIGBUS"), (0, "no image, or damaged")]
)
def test_a_file_that_was_cut_short(tmp_path: Path, size: int, said: str) -> None:
    folder = made(tmp_path / "image")
    os.truncate(folder / "store", size)
    with pytest.raises(Unreadable, match=f"{folder}: `store` is {said}.*the daemon sets it aside"):
        reader.examine(folder)


def test_a_foreign_file_a_foreign_folder_and_an_empty_store(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="there is no image here"):
        reader.examine(tmp_path)
    (tmp_path / "store").write_bytes(b"a letter to somebody\n" * 1000)
    with pytest.raises(Unreadable, match="`store` is no image, or damaged .MDB_INVALID"):
        reader.examine(tmp_path)
    folder = tmp_path / "image"
    folder.mkdir()
    Image.create(str(folder), b"boot\0xen").close()
    with pytest.raises(Unreadable, match="no store was ever committed"):
        reader.examine(folder)


# ---- a daemon's image --------------------------------------------------------------------------------------


def test_while_a_daemon_holds_the_lock_its_image_is_not_read(tmp_path: Path) -> None:
    folder = made(tmp_path / "socket.image")
    lock = tmp_path / "socket.lock"
    lock.write_text("")
    assert reader.holder(folder) == 0, "a lock file that nobody holds is a dead daemon's"
    told, tell = os.pipe()
    done, do = os.pipe()
    holder = os.fork()
    if holder == 0:
        try:
            os.close(do)
            fcntl.lockf(os.open(lock, os.O_RDWR), fcntl.LOCK_EX)
            os.write(tell, b"!")
            os.read(done, 1)
        finally:
            os._exit(0)
    os.close(done)
    os.read(told, 1)
    try:
        assert reader.holder(folder) == holder
        with pytest.raises(Unreadable) as refused:
            reader.examine(folder)
        assert str(refused.value) == (
            f"{folder}: the daemon with pid {holder} serves this image: read it through the daemon's socket, "
            f"{tmp_path}/socket, or stop the daemon first"
        )
    finally:
        for fd in (do, told, tell):
            os.close(fd)
        os.waitpid(holder, 0)
    assert reader.examine(folder).faults == []
