"""The daemon's core and the model side by side: the same actions to both, everything that comes back compared.

Owns actions (what can be done, as plain tuples, so that a failing run can be shrunk and replayed) and the comparison:
replies and events of every connection, in their order; now and then the whole tree and all accounts.
Refuses to choose actions; `tests.stateful.chance` and the state machine do.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from tests.stateful.model import Connection, Model
from tests.support.wire import Message, Op, Splitter, pack

if TYPE_CHECKING:
    from fastxs._core import Engine

GUESTS = (1, 2, 3)


class Say(NamedTuple):
    """Connection number `place` sends a request; a TRANSACTION_START's `label` is the `tx_id` that others give."""

    place: int
    op: int
    payload: bytes
    tx_id: int = 0
    label: int = 0


class Join(NamedTuple):
    """A new connection of a domain; a guest has only one."""

    domid: int


class Leave(NamedTuple):
    """Connection number `place` closes."""

    place: int


class Birth(NamedTuple):
    """The hypervisor makes a domain; domain 0 introduces it and gives it a home."""

    domid: int


class Death(NamedTuple):
    """The hypervisor ends a domain."""

    domid: int


class Release(NamedTuple):
    """Domain 0 releases a domain whose connections have been closed."""

    domid: int


class Limit(NamedTuple):
    """The administrator sets a quota of one domain."""

    domid: int
    name: str
    value: int


class Audit(NamedTuple):
    """The whole tree and all accounts are compared."""


Action = Say | Join | Leave | Birth | Death | Release | Limit | Audit


class Line:
    """One connection, on both sides."""

    def __init__(self, engine: Engine, model: Model, domid: int) -> None:
        self.domid = domid
        self.conn_id = engine.attach(domid)
        self.conn = Connection(domid)
        model.connections.append(self.conn)
        self.splitter = Splitter()
        self.labels: dict[int, int] = {}


class Pair:
    """Both sides, and what was done to them so far."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.model = Model()
        self.lines: list[Line | None] = []
        self.done: list[Action] = []
        self.req_id = 0
        self.ids: dict[int, int] = {}
        """A label's transaction id: so that a run may be cut down without a change of what is meant."""
        self.generations: dict[tuple[str, int], int] = {}
        self.auditor = Line(engine, self.model, 0)

    def close(self) -> None:
        self.engine.close()

    # -- doing ------------------------------
    def do(self, action: Action) -> None:
        """Do it on both sides and compare.  What makes no sense (any more) is passed over."""
        self.done.append(action)
        match action:
            case Say(place, op, payload, tx_id, label):
                line = self.line(place)
                if line is not None:
                    reply = self.say(line, op, payload, self.ids.get(tx_id, tx_id))
                    if label and reply.op == Op.TRANSACTION_START:
                        self.ids[label] = int(reply.payload[:-1])
                        line.labels[self.ids[label]] = label
            case Join(domid):
                if domid in self.model.domains and not (domid and self.of(domid)):
                    self.lines.append(Line(self.engine, self.model, domid))
            case Leave(place):
                line = self.line(place)
                if line is not None:
                    self.leave(line)
            case Birth(domid):
                self.birth(domid)
            case Death(domid):
                if domid in self.model.domains and domid:
                    self.death(domid)
            case Release(domid):
                if domid in self.model.domains and domid:
                    for line in self.of(domid):
                        self.leave(line)
                    self.say(self.auditor, Op.RELEASE, b"%d\0" % domid, farewell=True)
            case Limit(domid, name, value):
                if domid in self.model.domains:
                    self.engine.set_quota(name, value, domid)
                    self.model.domains[domid].quotas[name] = value
            case Audit():
                self.audit()

    def line(self, place: int) -> Line | None:
        return self.lines[place] if place < len(self.lines) else None

    def of(self, domid: int) -> list[Line]:
        return [line for line in self.lines if line is not None and line.domid == domid]

    def leave(self, line: Line) -> None:
        self.engine.disconnect(line.conn_id)
        self.model.connections.remove(line.conn)
        self.lines[self.lines.index(line)] = None
        self.compare(self.hear())

    def birth(self, domid: int) -> None:
        if domid not in self.model.domains:
            self.engine.pretend(domid, True)
            self.model.appear(domid)
        if not self.model.domains[domid].introduced:
            home = b"/local/domain/%d\0" % domid
            self.say(self.auditor, Op.INTRODUCE, b"%d\x001\x001\0" % domid)
            self.say(self.auditor, Op.MKDIR, home)
            self.say(self.auditor, Op.SET_PERMS, home + b"n%d\0" % domid)

    def death(self, domid: int) -> None:
        self.lines = [None if line is not None and line.domid == domid else line for line in self.lines]
        self.engine.pretend(domid, False)
        self.model.vanish(domid)
        self.compare(self.hear(), farewell=True)

    def say(self, line: Line, op: int, payload: bytes, tx_id: int = 0, *, farewell: bool = False) -> Message:
        """One request on both sides; its reply."""
        self.req_id += 1
        self.engine.feed(line.conn_id, pack(op, payload, self.req_id, tx_id))
        heard = self.hear()
        until = time.monotonic() + 2
        while not (mine := [m for m in heard[line.conn_id] if m.op != Op.WATCH_EVENT]) and time.monotonic() < until:
            # A guest may be made to wait a little for somebody whom it keeps from committing.
            time.sleep(0.0005)
            self.engine.feed(line.conn_id, b"")
            for conn_id, messages in self.hear().items():
                heard[conn_id] += messages
        assert len(mine) == 1, f"{mine} for one request"
        reply = mine[0]
        self.model.seen = reply.error if reply.error is not None else reply.payload
        self.model.request(line.conn, op, payload, tx_id)
        self.compare(heard, line, tx_id, farewell)
        return reply

    # -- comparing ------------------------------
    def living(self) -> list[Line]:
        return [self.auditor, *(line for line in self.lines if line is not None)]

    def hear(self) -> dict[int, list[Message]]:
        return {line.conn_id: line.splitter.feed(self.engine.take(line.conn_id)) for line in self.living()}

    def compare(
        self,
        heard: dict[int, list[Message]],
        speaker: Line | None = None,
        tx_id: int = 0,
        farewell: bool = False,
    ) -> None:
        """What every connection heard; after a domain's end its nodes' events may come in any order, but first."""
        for line in self.living():
            ids = (self.req_id, tx_id) if line is speaker else (0, 0)
            expected = [Message(op, *((0, 0) if op == Op.WATCH_EVENT else ids), text) for op, text in line.conn.out]
            line.conn.out.clear()
            found = heard[line.conn_id]
            if farewell:
                found, expected = (nodes_first(messages) for messages in (found, expected))
            if found != expected and not self.same_part(found, expected):
                raise AssertionError(f"connection {line.conn_id} of domain {line.domid}\n{found}\n{expected} expected")

    def same_part(self, found: list[Message], expected: list[Message]) -> bool:
        """A DIRECTORY_PART's generation is any number that changes when the model's does."""
        if [m.op for m in found] != [Op.DIRECTORY_PART] or [m.op for m in expected] != [Op.DIRECTORY_PART]:
            return False
        mine, _, rest = found[0].payload.partition(b"\0")
        theirs, _, wanted = expected[0].payload.partition(b"\0")
        said = self.done[-1]
        assert isinstance(said, Say)
        key = (said.payload.split(b"\0")[0].decode(), int(theirs))
        return rest == wanted and self.generations.setdefault(key, int(mine)) == int(mine)

    def audit(self) -> None:
        """Everything that domain 0 can read, every account, and the core's own opinion of itself."""
        assert self.engine.check() == []
        for path in self.model.nodes:
            text = path.encode() + b"\0"
            for op in (Op.GET_PERMS,) if path[0] == "@" else (Op.DIRECTORY, Op.READ, Op.GET_PERMS):
                self.say(self.auditor, op, text)
        for domid in self.model.domains:
            if domid:
                mine = [conn for conn in self.model.connections if conn.domid == domid]
                try:
                    values = {name: value for name, (value, _) in self.engine.accounts(domid).items()}
                except LookupError:  # it exists, but nobody spoke of it yet
                    values = {"nodes": 0, "watches": 0, "transactions": 0}
                assert values["nodes"] == self.model.owned(domid)
                assert values["watches"] == sum(len(conn.watches) for conn in mine)
                assert values["transactions"] == sum(len(conn.transactions) for conn in mine)


def nodes_first(messages: list[Message]) -> list[Message]:
    """The events of nodes that stand before everything else sorted, the rest as it is."""
    count = 0
    while count < len(messages) and messages[count].op == Op.WATCH_EVENT and messages[count].payload[:1] != b"@":
        count += 1
    return sorted(messages[:count]) + messages[count:]
