"""A random walk through the lives of a few domains: the same to the core, on a pretend hypervisor, and to the model.

Owns actions (plain tuples, so that a walk that fails can be cut down), their choice, and the comparison: every reply
and every event of whoever listens, in order; now and then all nodes, rights, accounts and mapped pages.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import groupby
from random import Random
from typing import Final, NamedTuple

from tests.life.model import Creature, Life
from tests.life.scene import Inside
from tests.stateful.model import Connection
from tests.support.ring import RingPeer
from tests.support.wire import Face, Message, Op, pack

DOMIDS: Final = (1, 2, 3, 4)
TOOLS: Final = (-1, -2)


class Do(NamedTuple):
    """Something is done with a domain: a method of Walk by its name."""

    what: str
    domid: int


class Say(NamedTuple):
    """A tool, or the guest with that domid, asks for something; `tx`: in which of its open transactions, if in any."""

    who: int
    op: Op
    payload: bytes
    tx: int | None = None


Action = Do | Say


class Line:
    """One connection, on both sides."""

    def __init__(self, peer: Face, conn: Connection) -> None:
        self.peer = peer
        self.conn = conn
        self.txs: list[int] = []


class Walk:
    """Both sides."""

    def __init__(self, scene: Inside) -> None:
        self.scene, self.guests, self.model = scene, scene.guests, Life()
        self.lines: dict[int, Line] = {}
        self.call()
        self.holds: defaultdict[Creature, list[Callable[[], None]]] = defaultdict(list)

    def call(self) -> None:
        """The tools connect."""
        for who in TOOLS:
            self.lines[who] = Line(self.scene.tool().peer, Connection(0))
            self.model.connections.append(self.lines[who].conn)

    def do(self, action: Action) -> None:
        """Do it on both sides and compare.  What is not possible (any more) is passed over."""
        match action:
            case Do(what, domid):
                getattr(self, what)(domid)
                self.compare(self.hear(), in_order=what != "restart")
            case Say(who, op, payload, tx):
                if who in self.talking() and (op != Op.SET_PERMS or tx is None or self.sure(payload)):
                    self.say(self.lines[who], op, payload, tx)
        for domid in DOMIDS:
            if self.living(domid) and domid not in self.model.met and self.doubted(domid):
                self.say(self.lines[-1], Op.GET_FEATURE, b"%d\0" % domid)

    def living(self, domid: int) -> Creature | None:
        """Whoever has that number and was not torn down."""
        creature = self.model.creatures.get(domid)
        return None if creature is None or creature.dead else creature

    def talking(self) -> dict[int, Line]:
        """Whoever speaks and listens: not those whose event channel is closed, though the daemon may not know."""
        return {who: line for who, line in self.lines.items() if who < 0 or self.talks(who)}

    def talks(self, domid: int) -> bool:
        creature = self.living(domid)
        return creature is not None and not creature.dying and self.model.mapped(domid)

    # Within a transaction the daemon may or may not notice that somebody appears, as long as nobody else names him.
    def sure(self, payload: bytes) -> bool:
        """Does the daemon know everybody whom this SET_PERMS names?"""
        met = {domid for domid, met in self.model.met.items() if met.creature is self.living(domid)}
        return named(payload).isdisjoint(set(DOMIDS) - met)

    def doubted(self, domid: int) -> bool:
        """Does an open transaction name him?"""
        views = (view for conn in self.model.connections for tx in conn.transactions.values() for view in tx.views)
        return any(domid in named(asked.payload) for view in views for asked in view.log if asked.op == Op.SET_PERMS)

    # -- what is done with a domain -----------------------------------------------------------------
    def create(self, domid: int) -> None:
        if domid not in self.model.creatures:
            self.guests.create(domid, 2)
            self.model.create(domid, 2)

    def home(self, domid: int) -> None:
        """What a toolstack writes for it, on the remains of whatever was there."""
        home = b"/local/domain/%d\0" % domid
        tool = self.lines[-1]
        self.say(tool, Op.MKDIR, home)
        self.say(tool, Op.RM, home)
        self.say(tool, Op.MKDIR, home)
        self.say(tool, Op.SET_PERMS, home + b"n%d\0" % domid)

    def introduce(self, domid: int) -> None:
        creature = self.model.creatures.get(domid)
        port = creature.port if creature is not None else 2
        self.say(self.lines[-1], Op.INTRODUCE, b"%d\x001\0%d\0" % (domid, port))

    def mislead(self, domid: int) -> None:
        """A first INTRODUCE with a port that was not offered."""
        if not self.model.mapped(domid):
            self.say(self.lines[-1], Op.INTRODUCE, b"%d\x001\x0099\0" % domid)

    def reset(self, domid: int) -> None:
        """A soft reset: another port, INTRODUCE."""
        if self.talks(domid):
            port = self.model.creatures[domid].port % 50 + 1
            self.guests.offer(domid, port)
            self.model.offer(domid, port)
            self.introduce(domid)

    def release(self, domid: int) -> None:
        self.say(self.lines[-1], Op.RELEASE, b"%d\0" % domid)

    def shutdown(self, domid: int) -> None:
        if self.living(domid):
            self.guests.shutdown(domid, virq=False)
            self.model.shut(domid)

    def resume(self, domid: int) -> None:
        """And it shuts down once more."""
        self.say(self.lines[-1], Op.RESUME, b"%d\0" % domid)
        self.shutdown(domid)

    def dying(self, domid: int) -> None:
        if self.living(domid):
            self.guests.dying(domid)
            self.model.dies(domid)

    def kill(self, domid: int, *, virq: bool = False) -> None:
        if self.living(domid):
            self.guests.kill(domid, virq=virq)
            self.model.kill(domid)
            self.model.news |= virq

    def last_words(self, domid: int) -> None:
        """It asks for something and dies; the daemon hears the request and not of the death."""
        self.die_speaking(domid, virq=False)

    def unheard_words(self, domid: int) -> None:
        """The same, but both come at once: the dead is not served."""
        self.die_speaking(domid, virq=True)

    def die_speaking(self, domid: int, *, virq: bool) -> None:
        if self.talks(domid):
            payload = b"/a\0last words"
            self.lines[domid].peer.send_raw(pack(Op.WRITE, payload, 1))
            self.kill(domid, virq=virq)
            if not virq:
                self.model.request(self.lines[domid].conn, Op.WRITE, payload)

    def hold(self, domid: int) -> None:
        creature = self.living(domid)
        if creature is not None and not creature.dying and creature.backends < 2:
            self.holds[creature].append(self.scene.hold(domid))
            creature.backends += 1

    def let_go(self, domid: int) -> None:
        creature = self.model.creatures.get(domid)
        if creature is not None and self.holds[creature]:
            self.holds[creature].pop()()
            self.model.let_go(domid)

    def virq(self, _domid: int) -> None:
        self.guests.virq()
        self.model.news = True

    def restart(self, _domid: int) -> None:
        """Rings go on, with what was open in them ended before; tools have to call again."""
        for line in self.talking().values():
            while line.txs:
                self.say(line, Op.TRANSACTION_END, b"F\0", 0)
        self.scene.restart()
        for who in TOOLS:
            self.model.connections.remove(self.lines[who].conn)
        self.model.restart()
        self.call()

    def audit(self, _domid: int) -> None:
        """Everything that domain 0 can read, every account, and the core's own opinion of itself."""
        assert self.scene.engine.check() == []
        for path in self.model.nodes:
            for op in (Op.GET_PERMS,) if path[0] == "@" else (Op.DIRECTORY, Op.READ, Op.GET_PERMS):
                self.say(self.lines[-1], op, path.encode() + b"\0")
        introduced = {d["domid"] for d in self.scene.engine.domains() if d["introduced"]}
        assert introduced == {domid for domid, domain in self.model.domains.items() if domain.introduced}
        for domid in DOMIDS:
            creature = self.model.creatures.get(domid)
            assert (self.guests.state(domid) != 0) == (creature is not None)
            backends = creature.backends if creature is not None else 0
            assert self.guests.mapped(domid) == self.model.mapped(domid) + backends
        for domid in introduced - {0}:
            mine = [conn for conn in self.model.connections if conn.domid == domid]
            now = {name: count for name, (count, _) in self.scene.engine.accounts(domid).items()}
            assert now["nodes"] == self.model.owned(domid)
            assert now["watches"] == sum(len(conn.watches) for conn in mine)
            assert now["transactions"] == sum(len(conn.transactions) for conn in mine)

    # -- what is said -------------------------------------------------------------------------------
    def say(self, line: Line, op: Op, payload: bytes, tx: int | None = None) -> None:
        """One request on both sides."""
        tx_id = line.txs[tx % len(line.txs)] if tx is not None and line.txs else 0
        req_id = line.peer.send(op, payload, tx_id)
        heard = self.hear()
        until = time.monotonic() + 2
        while not (mine := [m for m in heard[line] if m.op != Op.WATCH_EVENT]) and time.monotonic() < until:
            for other, messages in self.hear().items():  # a guest may have to let a starved transaction pass
                heard[other] += messages
        assert len(mine) == 1, f"{mine} for one request"
        self.model.seen = mine[0].error if mine[0].error is not None else mine[0].payload
        self.model.request(line.conn, op, payload, tx_id)
        self.keep_up(line, op, payload, tx_id, mine[0])
        self.compare(heard, line, req_id, tx_id)

    def keep_up(self, line: Line, op: Op, payload: bytes, tx_id: int, reply: Message) -> None:
        """Whose transactions are open, and who speaks, after a request that succeeded."""
        if op == Op.TRANSACTION_START and reply.error is None:
            line.txs.append(int(reply.payload[:-1]))
        if op == Op.TRANSACTION_END and tx_id in line.txs:
            line.txs.remove(tx_id)
        if op == Op.RESET_WATCHES and reply.error is None:
            line.txs.clear()
        if op == Op.INTRODUCE and reply.error is None:
            domid = int(payload.split(b"\0")[0])
            conn = next(conn for conn in self.model.connections if conn.domid == domid)
            self.lines[domid] = Line(RingPeer(self.guests, domid, self.scene.wait), conn)

    # -- comparing ------------------------------------------------------------------------------------
    def hear(self) -> dict[Line, list[Message]]:
        """What everybody who listens was told, the daemon having had its turns."""
        heard: dict[Line, list[Message]] = {line: [] for line in self.lines.values()}
        more = True
        while more:
            more = False
            self.scene.look()
            for line in self.talking().values():
                while (message := received(line.peer)) is not None:
                    heard[line].append(message)
                    more = True
        self.scene.look()  # the last look may have been news itself: a page that it let go of
        return heard

    def compare(
        self,
        heard: dict[Line, list[Message]],
        speaker: Line | None = None,
        req_id: int = 0,
        tx_id: int = 0,
        *,
        in_order: bool = True,
    ) -> None:
        order = in_runs if in_order else sorted
        while self.model.news:
            self.model.look()
        self.lines = {who: line for who, line in self.lines.items() if line.conn in self.model.connections}
        talking = self.talking()
        for who, line in self.lines.items():
            ids = (req_id, tx_id) if line is speaker else (0, 0)
            told = [Message(op, *((0, 0) if op == Op.WATCH_EVENT else ids), text) for op, text in line.conn.out]
            line.conn.out.clear()
            found = heard.get(line, [])
            if who in talking and order(found) != order(told):
                raise AssertionError(f"{who} heard\\n{found}\\n{told} expected")


def named(payload: bytes) -> set[int]:
    """The domains in the permissions of a SET_PERMS."""
    return {int(text[1:]) for text in payload.split(b"\0")[1:-1]}


def received(peer: Face) -> Message | None:
    """The next message, if there is one now."""
    try:
        return peer.recv(0)
    except TimeoutError:
        return None


def in_runs(messages: list[Message]) -> list[Message]:
    """Events of nodes that stand together sorted: in which order a dead domain's nodes go is not laid down."""
    runs = groupby(messages, lambda m: m.op == Op.WATCH_EVENT and m.payload[:1] != b"@")
    return [message for nodes, run in runs for message in (sorted(run) if nodes else run)]


# -- choosing -----------------------------------------------------------------------------------------

SHARED: Final = ("/a", "/a/x", "/a/y/z", "/b", "/local/domain", "/tool", *(f"/local/domain/{d}" for d in DOMIDS))
OWN: Final = ("x", "y/z")
LIVES: Final = (
    ["create"] * 6 + ["home"] * 5 + ["introduce"] * 8 + ["mislead", "reset", "release", "shutdown", "resume", "dying"]
    + ["kill"] * 4 + ["last_words", "unheard_words", "hold", "let_go", "let_go"] + ["virq"] * 4 + ["restart"]
)  # fmt: skip
TREE: Final = [Op.READ] * 3 + [Op.WRITE] * 5 + [Op.SET_PERMS] * 6 + [Op.DIRECTORY, Op.MKDIR, Op.RM, Op.GET_PERMS]


class Chance:
    """Endless actions, the same ones for the same seed."""

    def __init__(self, walk: Walk, seed: str) -> None:
        self.walk = walk
        self.pick: Final = Random(seed)

    def __iter__(self) -> Iterator[Action]:
        yield Say(-1, Op.WRITE, b"/a\0")
        yield Say(-1, Op.SET_PERMS, b"/a\0b0\0")
        while True:
            yield self.next()

    def next(self) -> Action:
        kind = self.pick.random()
        if kind < 0.3:
            return Do(self.pick.choice(LIVES), self.pick.choice(DOMIDS))
        if kind < 0.305:
            return Do("audit", 0)
        who = self.pick.choice(list(self.walk.talking()))
        if kind < 0.36:
            return Say(who, *self.watch())
        if kind < 0.41:
            return Say(who, Op.TRANSACTION_START, b"\0")
        if kind < 0.47:
            return Say(who, Op.TRANSACTION_END, self.pick.choice((b"T\0", b"T\0", b"T\0", b"F\0")), 0)
        if kind < 0.475:
            return Say(who, Op.RESET_WATCHES, b"")
        if kind < 0.55:
            return Say(self.pick.choice(TOOLS), *self.about_domains())
        op = self.pick.choice(TREE)
        path = self.pick.choice(SHARED if who < 0 else SHARED + 2 * OWN).encode() + b"\0"
        if op == Op.WRITE:
            path += self.pick.choice((b"", b"1", b"2"))
        if op == Op.SET_PERMS:
            path += self.perms(who)
        return Say(who, op, path, self.pick.choice((None, 0, 1)))

    def perms(self, who: int) -> bytes:
        owner = self.pick.choice((0, *DOMIDS)) if who < 0 else who
        more = [self.pick.choice((*DOMIDS, 9)) for _ in range(self.pick.choice((0, 1, 1, 2)))]
        return "".join(f"{self.pick.choice('nrwbb')}{domid}\0" for domid in (owner, *more)).encode()

    def watch(self) -> tuple[Op, bytes]:
        domid = self.pick.choice(DOMIDS)
        path = self.pick.choice(
            (*SHARED, "/", "x", "@releaseDomain", "@introduceDomain", f"@releaseDomain/{domid}", "@releaseDomain")
        )
        token = self.pick.choice(("s", "t"))
        if self.pick.random() < 0.3:
            return Op.UNWATCH, f"{path}\0{token}\0".encode()
        return Op.WATCH, f"{path}\0{token}\0{self.pick.choice(('', '', '1', '2'))}".encode()

    def about_domains(self) -> tuple[Op, bytes]:
        domid, other = (str(self.pick.choice(DOMIDS)) for _ in range(2))
        op, *words = self.pick.choice((
            (Op.SET_TARGET, domid, other),
            (Op.SET_TARGET, domid, other),
            (Op.IS_DOMAIN_INTRODUCED, domid),
            (Op.GET_FEATURE, domid),
            (Op.SET_FEATURE, domid, self.pick.choice(("15", "7"))),
            (Op.GET_QUOTA, domid, "nodes"),
            (Op.SET_QUOTA, domid, "nodes", self.pick.choice(("0", "3", "1000"))),
            (Op.SET_QUOTA, domid, "watches", self.pick.choice(("2", "128"))),
        ))  # fmt: skip
        return op, "".join(f"{word}\0" for word in words).encode()
