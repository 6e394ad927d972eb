"""The lines that the Engine hands to its owner: rate-limited, and never in the way of service."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from fastxs._core import Engine, Notice
from tests.support.wire import MemoryPeer, Op


@pytest.fixture
def told() -> list[Notice]:
    return []


@pytest.fixture
def engine(told: list[Notice]) -> Iterator[Engine]:
    engine = Engine(notice=told.extend)
    yield engine
    engine.close()


def test_one_line_for_many_refusals_of_a_kind(engine: Engine, told: list[Notice]) -> None:
    engine.pretend(1, True)
    guest = MemoryPeer(engine, 1)
    for _ in range(5):
        assert guest.call(Op.READ, b"/tool\0").error == "EACCES"
    assert told == [Notice("permission", 1, guest.conn_id, b"/tool", "EACCES", 1)]


def test_a_conflict_names_the_path_that_spoiled_it(engine: Engine, told: list[Notice]) -> None:
    one, two = MemoryPeer(engine, 0), MemoryPeer(engine, 0)
    one.call(Op.WRITE, b"/a\x001")
    tx = int(one.call(Op.TRANSACTION_START, b"\0").payload[:-1])
    one.call(Op.READ, b"/tool\0", tx)
    one.call(Op.READ, b"/a\0", tx)
    two.call(Op.WRITE, b"/a\x002")
    assert one.call(Op.TRANSACTION_END, b"T\0", tx).error == "EAGAIN"
    assert told == [Notice("conflict", 0, one.conn_id, b"/a", "EAGAIN", 1)]


def test_a_log_that_fails_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: list[Notice]) -> None:
        raise OSError(28, "No space left on device")

    seen: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: seen.append(what.exc_value))
    engine = Engine(notice=full)
    engine.pretend(1, True)
    guest = MemoryPeer(engine, 1)
    assert guest.call(Op.READ, b"/tool\0").error == "EACCES"
    assert guest.call(Op.GET_DOMAIN_PATH, b"1\0").payload == b"/local/domain/1\0"
    assert [type(error) for error in seen] == [OSError]
    engine.close()
