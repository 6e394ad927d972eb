"""The histogram of turns: what is counted, and when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastxs._core import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


def test_nothing_is_counted_before_somebody_asks(engine: Engine) -> None:
    engine.turn()
    assert engine.spans() == (False, {}, 0)


def test_each_turn_is_a_batch_and_its_end(engine: Engine) -> None:
    engine.count_spans(True)
    for _ in range(100):
        engine.turn()
    timed, spans, longest = engine.spans()
    assert timed
    assert sum(spans.values()) == 200
    assert list(spans) == sorted(spans)
    assert longest < max(spans) <= 2 * longest


def test_it_stays_as_it_was_and_begins_at_nothing(engine: Engine) -> None:
    engine.count_spans(True)
    engine.turn()
    engine.count_spans(False)
    _, spans, longest = engine.spans()
    engine.turn()
    assert engine.spans() == (False, spans, longest)
    engine.count_spans(True)
    assert engine.spans() == (True, {}, 0)
