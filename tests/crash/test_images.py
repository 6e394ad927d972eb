"""What a daemon does with an image that is not as its predecessor left it: it says so and begins anew, or all is there.

Never a part of the store, never a wrong value, never a crash.  (Names of files: fastxs/storage/image.pyx.)
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from fastxs.hypervisor.host import Host, HostError, available
from fastxs.storage.reader import LOG_HEAD
from tests.crash.scene import walk
from tests.support.wire import Op, Peer

pytestmark = pytest.mark.skipif(available("fastxs") is not None, reason=str(available("fastxs")))

NODES: Final = 3000
PAGE: Final = 4096

Damage = Callable[[Path], object]


def _size(file: Path) -> int:
    """Bytes that are reserved: `store` and `slots.N` are large holes, which nobody may read as a whole."""
    return file.stat().st_blocks * 512


def truncated(name: str, part: float) -> Damage:
    """To so much of what was written."""

    def damage(image: Path) -> None:
        with (image / name).open("r+b") as file:
            file.truncate(int(_used(file.fileno(), _size(image / name)) * part) // PAGE * PAGE)

    return damage


def missing(name: str) -> Damage:
    return lambda image: (image / name).unlink()


def garbled(name: str, seed: int, bytes_each: int = 16) -> Damage:
    """Ten places in what was written."""

    def damage(image: Path) -> None:
        chance = random.Random(seed)
        with (image / name).open("r+b") as file:
            end = _used(file.fileno(), _size(image / name))
            for _ in range(10):
                os.pwrite(file.fileno(), chance.randbytes(bytes_each), chance.randrange(end - bytes_each))

    return damage


def _used(fd: int, size: int) -> int:
    pages = size // PAGE
    while pages > 1 and not os.pread(fd, PAGE, (pages - 1) * PAGE).strip(b"\0"):
        pages -= 1
    return pages * PAGE


def torn(image: Path) -> None:
    """Half a page of the log was never written."""
    with (image / "log").open("r+b") as file:
        end = _used(file.fileno(), _size(image / "log"))
        os.pwrite(file.fileno(), bytes(PAGE // 2), max(0, end - PAGE))


def beheaded(image: Path) -> None:
    """A turn in the middle of the log does not say any more that it is one."""
    with (image / "log").open("r+b") as file:
        log = file.read()
        at = 0
        heads: list[int] = []
        first, _ = LOG_HEAD.unpack_from(log)
        while LOG_HEAD.unpack_from(log, at)[0] == first + len(heads):
            heads.append(at)
            at += LOG_HEAD.size + LOG_HEAD.unpack_from(log, at)[1]
        assert len(heads) > 2
        os.pwrite(file.fileno(), bytes(LOG_HEAD.size), heads[len(heads) // 2])


def empty(image: Path) -> None:
    for file in image.iterdir():
        os.truncate(file, 0)


DAMAGES: Final[dict[str, Damage]] = {
    "store cut to nothing": truncated("store", 0),
    "store cut to a half": truncated("store", 0.5),
    "store garbled": garbled("store", 1),
    "store garbled, single bytes": garbled("store", 3, 1),
    "store is somebody else's": lambda image: (image / "store").write_bytes(b"not yours " * 1000),
    "store missing": missing("store"),
    "log torn": torn,
    "log garbled": garbled("log", 1),
    "log cut to nothing": truncated("log", 0),
    "log cut to a half": truncated("log", 0.5),
    "log missing": missing("log"),
    "a turn in the log beheaded": beheaded,
    "slots missing": missing("slots.0"),
    "slots cut to nothing": truncated("slots.0", 0),
    "all empty": empty,
}


CERTAIN: Final = {
    "store cut to nothing",
    "store cut to a half",
    "store is somebody else's",
    "store missing",
    "log missing",
    "log cut to nothing",
    "log cut to a half",
    "a turn in the log beheaded",
    "all empty",
}
"""Other damage may hit what is not in use."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(folder: Path, damage: str) -> None:
    written = {}
    host = Host("fastxs", folder).start()
    try:
        with Peer(host.socket) as peer:
            for i in range(NODES):
                path, value = b"/a/%d/%d" % (i % 7, i), b"value %d " % i * (1 + i % 30)
                assert not peer.call(Op.WRITE, path + b"\0" + value).error
                written[path] = value
        host.kill()
        image = host.rundir / "socket.image"
        DAMAGES[damage](image)
        try:
            host.start()
        except HostError as error:
            assert str(image) in str(error) and "status 1" in str(error), error
            return
        with Peer(host.socket) as peer:
            found = {path: value for path, value in walk(peer, b"/") if path in written}
        aside = [path.name for path in host.rundir.glob("socket.image.*")]
        if aside:
            assert found == {} and aside[0] in host.stderr()
        else:
            assert found == written
        assert aside or damage not in CERTAIN
    finally:
        host.close()
