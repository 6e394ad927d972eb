"""The trace switch `obj`: what begins and what ends, as C's trace file has it."""

from __future__ import annotations

import re
from pathlib import Path

from fastxs._core import Engine
from tests.support.wire import MemoryPeer, Op


def test_every_object_that_begins_also_ends(engine: Engine, tmp_path: Path) -> None:
    with open(tmp_path / "trace", "wb", buffering=0) as trace:
        engine.trace(trace.fileno(), ("obj",))
        peer = MemoryPeer(engine, 0)
        peer.call(Op.WATCH, b"/tool\0t\0")
        tx = int(peer.call(Op.TRANSACTION_START, b"\0").payload[:-1])
        peer.call(Op.TRANSACTION_END, b"F\0", tx)
        peer.call(Op.UNWATCH, b"/tool\0t\0")
        peer.close()
        engine.trace(None)
    lines = re.findall(rb"^obj: (\w+) (\w+) (0x[0-9a-f]+)$", (tmp_path / "trace").read_bytes(), re.M)
    assert [line[:2] for line in lines] == [
        (b"CREATE", b"connection"),
        (b"CREATE", b"watch"),
        (b"CREATE", b"transaction"),
        (b"DESTROY", b"transaction"),
        (b"DESTROY", b"watch"),
        (b"DESTROY", b"connection"),
    ]
    assert sorted(line[1:] for line in lines if line[0] == b"CREATE") == sorted(
        line[1:] for line in lines if line[0] == b"DESTROY"
    )
