"""What a commit stands on: everything an answer depended on is looked at again, and what it applies is all of it.

Each of these went wrong once; the model knows none of it, so the conversations are held with the core alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastxs._core import Engine
from tests.conversations.speak import OK, World, nul
from tests.support.wire import Op, pack


@pytest.fixture
def world(engine: Engine) -> Iterator[World]:
    yield World(engine)


def test_a_domain_that_died_meanwhile_is_not_made_an_owner(world: World) -> None:
    """Its death changed no node, and still the answer to SET_PERMS is another one today."""
    world.engine.pretend(5, True)
    assert world.dom0.write("/a") == OK
    tx = world.dom0.start()
    assert world.dom0.chmod("/a", "n5", tx=tx) == OK
    assert world.dom0.write("/b", b"", tx) == OK
    world.engine.pretend(5, False)
    assert world.dom0.commit(tx) == "EAGAIN"
    assert world.dom0.perms("/a") == ["n0"]
    assert world.dom0.read("/b") == "ENOENT"


def test_a_quota_that_shrank_meanwhile_counts(world: World) -> None:
    guest = world.guest(1)
    tx = guest.start()
    assert guest.write("x", b"v" * 1000, tx) == OK
    assert world.dom0.ask(Op.SET_QUOTA, nul(1, "node-size", 500)) == OK
    assert guest.commit(tx) == "ENOSPC"
    assert guest.read("x") == "ENOENT"


def test_what_was_tried_is_applied_whole(world: World) -> None:
    """Half of the memory quota, written in one transaction: the records of the trial are charged as well."""
    guest = world.guest(1)
    tx = guest.start()
    names = [f"d{i % 20}/n{i}" for i in range(500)]
    for name in names:
        assert guest.write(name, b"v" * 1900, tx) == OK
    assert world.dom0.write("/elsewhere") == OK  # so that all of it is done again
    assert guest.commit(tx) == OK
    assert [name for name in names if guest.read(name) != b"v" * 1900] == []


def test_a_failed_transaction_keeps_what_it_wrote_to_itself(world: World) -> None:
    guest = world.guest(1)
    world.engine.set_quota("nodes", 3, 1)
    tx = guest.start()
    assert guest.write("a", b"1", tx) == OK
    assert guest.write("b/c/d", b"", tx) == "ENOSPC"
    assert world.dom0.write("/elsewhere") == OK
    assert guest.read("a", tx) == b"1"
    assert guest.commit(tx) == "ENOMEM"
    assert guest.read("a") == "ENOENT"


def test_events_of_a_request_come_before_its_answer_even_to_a_slow_peer(world: World) -> None:
    """A peer that took nothing for a while has its events in the structured queue, and its answer behind them."""
    slow = world.again(world.dom0)
    slow.quietly_watch("/", "t")
    for i in range(3000):
        assert world.dom0.write(f"/pile/with-a-long-name-{i}") == OK
    slow.engine.feed(slow.peer.conn_id, pack(Op.WRITE, b"/last\0", 77))
    said = slow.hear(Op.READ, nul("/last"))
    answers = [i for i, message in enumerate(said) if message.op != Op.WATCH_EVENT]
    own = [i for i, message in enumerate(said) if message.payload in (b"/last\0t\0", b"/\0t\0")]
    assert own and answers and own[-1] < answers[0]
