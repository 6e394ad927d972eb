"""Random actions, chosen with an eye on the model so that they meet: few paths, few values, many overlaps.

Owns the choice of actions.  Refuses to judge what they lead to.
"""

from __future__ import annotations

from random import Random

from tests.stateful.model import ANY
from tests.stateful.pair import GUESTS, Action, Audit, Birth, Death, Join, Leave, Limit, Line, Pair, Release, Say
from tests.support.wire import Op

NAMES = ("a", "b", "c")
VALUES = (b"", b"1", b"2", b"v" * 40)
BROKEN = (b"", b"/t", b"/t//a\0", b"/t/\0", b"@releaseDomain\0", b"/t\0/t\0", b"/t/a\0n0\0", b"\0", b"/\0")
ONE_PATH = (Op.READ, Op.DIRECTORY, Op.GET_PERMS, Op.MKDIR, Op.RM)
OPS = (
    [Op.READ] * 6
    + [Op.WRITE] * 12
    + [Op.DIRECTORY] * 4
    + [Op.MKDIR] * 3
    + [Op.RM] * 3
    + [Op.GET_PERMS] * 2
    + [Op.SET_PERMS] * 5
)
LIMITS = {
    "nodes": (0, 3, 6, 12),
    "watches": (1, 3, 6),
    "transactions": (1, 2, 3),
    "node-permissions": (2, 3),
    "node-size": (60, 80, 200),
    "path-max": (8, 30),
}


class Chance:
    """Actions for one pair, the same ones for the same seed."""

    def __init__(self, pair: Pair, seed: int) -> None:
        self.pair = pair
        self.random = Random(seed)
        self.label = 1_000_000

    def first(self) -> list[Action]:
        """What every run begins with: three guests, of which 2 acts for 1, and a tree to meet in."""
        tool, limits = 0, (Limit(3, "nodes", 6), Limit(3, "watches", 3), Limit(3, "transactions", 2))
        return [
            Join(0),
            Join(0),
            Join(0),
            *(Birth(domid) for domid in GUESTS),
            *(Join(domid) for domid in (1, 2, 3)),
            *limits,
            Say(tool, Op.SET_TARGET, b"2\x001\0"),
            Say(tool, Op.MKDIR, b"/t\0"),
            Say(tool, Op.SET_PERMS, b"/t\0b0\0"),
        ]

    def path(self, domid: int) -> bytes:
        pick = self.random
        tail = "/".join(pick.choice(NAMES) for _ in range(pick.choice((0, 1, 1, 2, 2, 3))))
        kind = pick.random()
        if kind < 0.6:
            path = f"/t/{tail}"
        elif kind < 0.8 and domid:
            path = tail or "a"
        elif kind < 0.95:
            path = f"/local/domain/{pick.choice(GUESTS)}/{tail}"
        else:
            path = pick.choice(("/", "/tool", "/local/domain", "/t"))
        return (path.rstrip("/") or "/").encode()

    def perms(self, domid: int) -> bytes:
        pick = self.random
        domids = (0, *GUESTS, 9, ANY)
        owner = pick.choice((0, *GUESTS, 9)) if not domid or pick.random() < 0.1 else domid
        some = [pick.choice(domids) for _ in range(pick.choice((0, 0, 1, 1, 2, 3)))]
        return "".join(f"{pick.choice('rwbbbn')}{one}\0" for one in (owner, *some)).encode()

    def request(self, line: Line, place: int) -> Action:
        """A request on the tree, perhaps inside a transaction."""
        pick = self.random
        open_ones = list(line.conn.transactions)
        real = pick.choice(open_ones) if open_ones and pick.random() < 0.6 else 0
        tx_id = line.labels[real] if real else 0
        if real and (len(line.conn.transactions[real].views[-1].log) > 12 or pick.random() < 0.2):
            return Say(place, Op.TRANSACTION_END, pick.choice((b"T\0", b"T\0", b"T\0", b"F\0")), tx_id)
        op = pick.choice(OPS)
        path = self.path(line.domid)
        if op in (Op.SET_PERMS, Op.RM) and path in (b"/", b"/t", b"/local/domain"):
            path += b"/a" if path != b"/" else b"t/a"
        if op == Op.WRITE:
            return Say(place, op, path + b"\0" + pick.choice(VALUES), tx_id)
        if op == Op.SET_PERMS:
            return Say(place, op, path + b"\0" + self.perms(line.domid), tx_id)
        return Say(place, op, path + b"\0", tx_id)

    def watch(self, line: Line, place: int) -> Action:
        pick = self.random
        held = line.conn.watches
        if held and (len(held) > 6 or pick.random() < 0.3):
            chosen = pick.choice(held)
            return Say(place, Op.UNWATCH, chosen.path.encode() + b"\0" + chosen.token + b"\0")
        path = pick.choice((b"@releaseDomain", b"@introduceDomain", b"@releaseDomain/1", b"", b"", b"", b"", b"", b""))
        payload = (path or self.path(line.domid)) + b"\0" + pick.choice((b"x", b"y")) + b"\0"
        return Say(place, Op.WATCH, payload + pick.choice((b"", b"", b"0\0", b"1\0", b"2\0")))

    def rare(self) -> Action:
        pick = self.random
        domid = pick.choice(GUESTS)
        there = self.pair.model.domains.get(domid)
        if there is None or not there.introduced:
            return Birth(domid)
        if not self.pair.of(domid):
            return Join(domid)
        kind = pick.random()
        if kind < 0.3:
            name = pick.choice(list(LIMITS))
            return Limit(domid, name, pick.choice(LIMITS[name]))
        if kind < 0.5:
            return Death(domid)
        if kind < 0.6:
            return Release(domid)
        if kind < 0.8:
            return Leave(pick.choice([i for i, line in enumerate(self.pair.lines) if line in self.pair.of(domid)]))
        return Say(0, Op.SET_TARGET, b"%d\0%d\0" % (domid, pick.choice(GUESTS)))

    def next(self) -> Action:
        pick = self.random
        place = pick.choice([0, 1, *(i for i, line in enumerate(self.pair.lines) if line is not None)])
        line = self.pair.lines[place]
        assert line is not None
        kind = pick.random()
        if kind < 0.75:
            return self.request(line, place)
        if kind < 0.83:
            return self.watch(line, place)
        if kind < 0.93:
            self.label += 1
            return Say(place, Op.TRANSACTION_START, b"\0", 0, self.label)
        if kind < 0.95:
            text = self.path(line.domid) + b"\0" + pick.choice((b"0", b"2", b"9")) + b"\0"
            return Say(place, Op.DIRECTORY_PART, text)
        if kind < 0.96:
            return Say(place, pick.choice((*ONE_PATH, Op.WRITE, Op.SET_PERMS, Op.WATCH, 20, 99)), pick.choice(BROKEN))
        if kind < 0.963:
            return Say(place, Op.RESET_WATCHES, b"")
        if kind < 0.965:
            return Say(place, Op.READ, b"/t\0", 9999)
        if kind < 0.97:
            return Audit()
        return self.rare() if kind < 0.985 else self.request(line, place)
