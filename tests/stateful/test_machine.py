"""The core against the model as hypothesis' state machine: what differs is shrunk by hypothesis."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.stateful.pair import GUESTS, Action, Birth, Death, Join, Leave, Limit, Pair, Release, Say
from tests.stateful.run import MakeEngine, core, stand_in
from tests.support.wire import Op

if TYPE_CHECKING:
    from tests.stateful.model import Connection

names = st.sampled_from("abc")
roots = st.sampled_from(("/t/", "/t/", "/t/", "/", "", "/local/domain/1/", "/local/domain/2/", "/local/domain/3/"))
paths = st.builds(
    lambda root, tail: ((root + "/".join(tail)).rstrip("/") or "/").encode(), roots, st.lists(names, max_size=3)
)
values = st.sampled_from((b"", b"1", b"2", b"v" * 60))
perms = st.lists(st.builds(lambda r, d: b"%c%d\0" % (r, d), st.sampled_from(b"rwbn"), st.sampled_from((0, 1, 2, 3, 9))),
                 min_size=1, max_size=3).map(b"".join)  # fmt: skip
lines = st.integers(0, 7)
domids = st.sampled_from(GUESTS)
transactions = st.integers(-2, 3)
"""Below 0: outside of any; else one of those that are open."""


class Conversation(RuleBasedStateMachine):
    """Up to eight connections of domain 0 and three guests, of which 2 acts for 1 and 3 may have little."""

    make: ClassVar[MakeEngine]

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(type(self).make())

    def teardown(self) -> None:
        self.pair.close()

    @initialize()
    def settle(self) -> None:
        actions: tuple[Action, ...] = (
            Join(0),
            Join(0),
            Join(0),
            *(Birth(domid) for domid in GUESTS),
            *(Join(domid) for domid in (1, 2, 3)),
            Limit(3, "nodes", 5),
            Limit(3, "watches", 2),
            Limit(3, "transactions", 2),
            Limit(3, "node-size", 70),
            Say(0, Op.SET_TARGET, b"2\x001\0"),
            Say(0, Op.MKDIR, b"/t\0"),
            Say(0, Op.SET_PERMS, b"/t\0b0\0"),
        )
        for action in actions:
            self.pair.do(action)

    def conn(self, place: int) -> Connection | None:
        line = self.pair.line(place)
        return line.conn if line is not None else None

    def ask(self, place: int, op: Op, payload: bytes, tx: int) -> None:
        conn = self.conn(place)
        open_ones = list(conn.transactions) if conn is not None else []
        self.pair.do(Say(place, op, payload, open_ones[tx % len(open_ones)] if tx >= 0 and open_ones else 0))

    @rule(place=lines, op=st.sampled_from((Op.READ, Op.DIRECTORY, Op.GET_PERMS)), path=paths, tx=transactions)
    def look(self, place: int, op: Op, path: bytes, tx: int) -> None:
        self.ask(place, op, path + b"\0", tx)

    @rule(place=lines, path=paths, value=values, tx=transactions)
    def write(self, place: int, path: bytes, value: bytes, tx: int) -> None:
        self.ask(place, Op.WRITE, path + b"\0" + value, tx)

    @rule(place=lines, op=st.sampled_from((Op.MKDIR, Op.RM)), path=paths, tx=transactions)
    def make_or_remove(self, place: int, op: Op, path: bytes, tx: int) -> None:
        self.ask(place, op, path + b"\0", tx)

    @rule(place=lines, path=paths, listed=perms, tx=transactions)
    def chmod(self, place: int, path: bytes, listed: bytes, tx: int) -> None:
        self.ask(place, Op.SET_PERMS, path + b"\0" + listed, tx)

    @rule(
        place=lines, path=paths, token=st.sampled_from((b"x", b"y")), depth=st.sampled_from((b"", b"", b"0\0", b"1\0"))
    )
    def watch(self, place: int, path: bytes, token: bytes, depth: bytes) -> None:
        self.pair.do(Say(place, Op.WATCH, path + b"\0" + token + b"\0" + depth))

    @rule(place=lines, name=st.sampled_from((b"@releaseDomain", b"@introduceDomain", b"@releaseDomain/1")),
          depth=st.sampled_from((b"", b"1\0")))  # fmt: skip
    def watch_special(self, place: int, name: bytes, depth: bytes) -> None:
        self.pair.do(Say(place, Op.WATCH, name + b"\0x\0" + depth))

    @rule(place=lines, path=paths, token=st.sampled_from((b"x", b"y")))
    def unwatch(self, place: int, path: bytes, token: bytes) -> None:
        self.pair.do(Say(place, Op.UNWATCH, path + b"\0" + token + b"\0"))

    @rule(place=lines)
    def start(self, place: int) -> None:
        self.pair.do(Say(place, Op.TRANSACTION_START, b"\0"))

    @precondition(lambda self: any(conn.transactions for conn in self.pair.model.connections))
    @rule(place=lines, tx=st.integers(0, 3), how=st.sampled_from((b"T\0", b"T\0", b"T\0", b"F\0")))
    def end(self, place: int, tx: int, how: bytes) -> None:
        self.ask(place, Op.TRANSACTION_END, how, tx)

    @rule(domid=domids)
    def birth(self, domid: int) -> None:
        self.pair.do(Birth(domid))

    @rule(domid=domids)
    def join(self, domid: int) -> None:
        if len(self.pair.lines) < 8:
            self.pair.do(Join(domid))

    @rule(place=st.integers(2, 7))
    def leave(self, place: int) -> None:
        self.pair.do(Leave(place))

    @rule(domid=domids)
    def death(self, domid: int) -> None:
        self.pair.do(Death(domid))

    @rule(domid=domids)
    def release(self, domid: int) -> None:
        self.pair.do(Release(domid))

    @rule()
    def audit(self) -> None:
        self.pair.audit()


@pytest.mark.parametrize("make", [core, stand_in])
def test_a_conversation(make: MakeEngine) -> None:
    Conversation.make = staticmethod(make)
    run_state_machine_as_test(
        Conversation,
        settings=settings(
            max_examples=150 if make is core else 20,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
