"""Two daemons, the same requests, one at a time: every reply and every event compared.

Owns the sockets, the order of sending and reading, the pairing of transaction ids, and wiping both stores between
conversations.  Refuses to know which requests are made (generate) and which differences are allowed (rules).

Each connection's stream (events and replies in their order) is compared message by message, so that events before a
reply and after it are told apart.  After a request that may have caused events every connection is asked for one more
answer, behind which nothing can be on its way: a daemon may drop an event while an identical one is pending, and with
that nothing is pending when the next request comes.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from tests.differential.generate import (
    CONNECTIONS,
    CREATE,
    DESTROY,
    DOMAINS,
    IN_SLOT,
    OVERLONG,
    RECONNECT,
    SYNC,
    Step,
)
from tests.differential.rules import (
    COMMIT_MORE,
    RELEASE_ORDER,
    RELEASED_ACL,
    RULES,
    SNAPSHOT,
    Rules,
    Said,
    Story,
    atoi,
    domids,
)
from tests.support.wire import HEADER, Op, Peer, Splitter, pack

TIMEOUT_S: Final = 10.0
COMMIT_EVERY: Final = 8
"""Of so many commits that the reference refuses, ours may do one."""
_CHANGES_AT_ONCE: Final = {Op.INTRODUCE, Op.RELEASE, Op.TRANSACTION_END}
"""Inside a transaction too (its end changes something for the others; it is no longer among the open ones then)."""
_CHANGES: Final = _CHANGES_AT_ONCE | {Op.WRITE, Op.MKDIR, Op.RM, Op.SET_PERMS}


_TOGETHER: Final = {
    Op.READ, Op.DIRECTORY, Op.DIRECTORY_PART, Op.GET_PERMS, Op.WRITE, Op.MKDIR, Op.RM, Op.SET_PERMS, Op.UNWATCH,
    Op.GET_DOMAIN_PATH, Op.IS_DOMAIN_INTRODUCED, Op.CONTROL, Op.RESTRICT, Op.ERROR, Op.WATCH_EVENT,
}  # fmt: skip
_FIRES: Final = _CHANGES | {Op.WATCH}
_NOTHING: Final = Step(0, Op.GET_DOMAIN_PATH, b"0\0")
"""A request that changes nothing and that every daemon answers alike."""


class Difference(NamedTuple):
    """What was not alike, and where."""

    at: int
    step: Step
    what: str

    def __str__(self) -> str:
        return f"step {self.at}, {self.step}\n{self.what}"


class Crash(Exception):
    """A daemon closed a connection or stopped answering where the other one did not."""


class Link:
    """One connection to one daemon: bytes out, a queue of what came back."""

    __slots__ = ("came", "held", "replied", "sent", "sock", "splitter")

    def __init__(self, path: Path) -> None:
        self.sock = Peer(path).sock
        self.splitter = Splitter()
        self.came: deque[Said] = deque()
        self.held = bytearray()
        """Requests that wait to be sent together."""
        self.sent: dict[int, int] = {}
        """req_id -> tx_id of the requests under way."""
        self.replied = 0
        """req_id of the last reply."""

    def hold(self, op: int, payload: bytes, req_id: int, tx_id: int) -> None:
        """Keep a request for the next `send`."""
        self.sent[req_id] = tx_id
        self.held += pack(op, payload, req_id, tx_id)

    def send(self) -> None:
        """Send all that is held, at once."""
        data, self.held = self.held, bytearray()
        self.sock.sendall(data)

    def read(self) -> None:
        """Take what is there.  ConnectionError at the end of the stream."""
        data = self.sock.recv(1 << 18)
        if not data:
            raise ConnectionResetError("closed")
        for op, req_id, tx_id, payload in self.splitter.feed(data):
            if op == Op.WATCH_EVENT:
                self.came.append(Said(op, req_id, tx_id == 0, payload))
            else:
                self.came.append(Said(op, req_id, tx_id == self.sent.pop(req_id, None), payload))
                self.replied = req_id


class Side:
    """One daemon: its connections, and one more to prepare and to look with."""

    def __init__(self, kind: str, path: Path, name: str) -> None:
        self.kind = kind
        self.name = name
        self.path = path
        self.links = [Link(path) for _ in range(CONNECTIONS)]
        self.service = Peer(path)

    def reopen(self, conn: int) -> None:
        self.links[conn].sock.close()
        self.links[conn] = Link(self.path)

    def close(self) -> None:
        for link in self.links:
            link.sock.close()
        self.service.close()

    # -- preparing and looking ----------------------------------------------------------------
    def wipe(self, holders: Iterable[int] = ()) -> None:
        """Back to the store of a daemon that was just started: no connections, no domains, no nodes but its own.

        `holders` have targets, which C 4.17 does not let go before them.
        """
        for conn in range(CONNECTIONS):
            self.reopen(conn)
        call = self.service.call
        for domid in (*holders, *DOMAINS):
            call(Op.RELEASE, b"%d\0" % domid)
        for special in (b"@introduceDomain", b"@releaseDomain"):
            call(Op.SET_PERMS, special + b"\0n0\0")
        for node, keep in ((b"/", b"tool"), (b"/tool", b"xenstored"), (b"/tool/xenstored", b"")):
            call(Op.MKDIR, node + b"\0")
            for child in self.children(node):
                if child != keep or self.children(b"/")[:1] != [b"tool"]:
                    call(Op.RM, node.rstrip(b"/") + b"/" + child + b"\0")
            call(Op.WRITE, node + b"\0")
            call(Op.SET_PERMS, node + b"\0n0\0")

    def children(self, node: bytes) -> list[bytes]:
        """DIRECTORY, in parts where it has to be."""
        reply = self.service.call(Op.DIRECTORY, node + b"\0")
        if reply.error == "E2BIG":
            names = b""
            while not names.endswith(b"\0\0"):
                part = self.service.call(Op.DIRECTORY_PART, node + b"\0%d\0" % len(names))
                assert not part.error, part
                names += part.payload.partition(b"\0")[2]
            return names.split(b"\0")[:-2]
        return [] if reply.error else reply.strings

    def tree(self) -> list[tuple[bytes, bytes, bytes]]:
        """Every node, depth first in DIRECTORY order: path, perms, value."""
        found: list[tuple[bytes, bytes, bytes]] = []
        todo = [b"/"]
        while todo:
            node = todo.pop()
            perms = self.service.call(Op.GET_PERMS, node + b"\0")
            value = self.service.call(Op.READ, node + b"\0")
            found.append((node, perms.payload, value.payload))
            todo += reversed([node.rstrip(b"/") + b"/" + child for child in self.children(node)])
        return found


@dataclass
class Slot:
    """A transaction that is open on both sides."""

    conn: int
    ids: tuple[int, int]
    outside: bool = False
    """Something was changed beside it, so that it may have to end with EAGAIN."""
    parted: str = ""
    """The first answer inside it that was not alike."""
    released: bool = False
    """A domain went meanwhile, and with it its entries in permission lists that the transaction may have read."""


@dataclass
class Pair:
    """Two daemons in lock-step.  `a` is judged, `b` is the reference."""

    a: Side
    b: Side
    rules: Rules = field(default_factory=Rules)
    hypervisor: Callable[[int, bool], None] | None = None
    """`hypervisor(domid, exists)` creates or destroys a domain under both, where it is not so already."""
    depth: int = 1
    """So many requests of one connection are sent at once, where they follow each other and cause no events."""
    reset_kills: bool = False
    """C xenstored here dies of a RESET_WATCHES inside a transaction."""

    def __post_init__(self) -> None:
        self.rules = RULES[self.a.kind, self.b.kind]
        self.story = Story(reset_kills=self.reset_kills)
        self.req_id = 0
        self.steps = 0
        self.refused = 0
        self.slots: dict[int, Slot] = {}
        self.flight: dict[int, Step] = {}
        """req_id -> step of the requests that go together."""
        self._flight_conn = 0
        self.used = self.story.used
        self._answers = list(self.rules.answers.items())
        self._poll = select.poll()

    # -- one conversation -----------------------------------------------------------------------
    def begin(self) -> None:
        """A fresh store and fresh connections on both sides."""
        for side in (self.a, self.b):
            side.wipe(self.story.held)
        if self.hypervisor is not None:
            for domid in DOMAINS:
                self.hypervisor(domid, True)
        self.story = Story(self.used, self.reset_kills)
        self.slots = {}
        self.flight = {}
        self._watch_links()

    def _watch_links(self) -> None:
        self._poll = select.poll()
        self._by_fd = {link.sock.fileno(): link for side in (self.a, self.b) for link in side.links}
        for fd in self._by_fd:
            self._poll.register(fd, select.POLLIN)

    def run(self, steps: Iterable[Step]) -> Difference | None:
        """Do all steps, then compare both trees; the first difference that no rule allows."""
        at, step = 0, Step(0, SYNC)
        try:
            for at, step in enumerate(steps):
                found = self.do(step)
                if found:
                    return Difference(at, step, found)
            found = self._land() or self.sync() or self.compare_trees()
        except Crash as crash:
            found = str(crash)
        return Difference(at, step, found) if found else None

    def do(self, step: Step) -> str:
        """One step on both sides; what differs, or ""."""
        self.steps += 1
        together = step.op in _TOGETHER and len(self.flight) < self.depth
        if self.flight and not (together and step.conn == self._flight_conn) and (found := self._land()):
            return found
        self.story.step, self.story.transaction = step, bool(self.slots)
        for name, avoid in self.rules.avoids.items():
            expected = avoid(step, self.story)
            if expected is not None:
                self.used[name] += 1
                return self._alone(step, expected) if expected and self.a.kind != self.b.kind else ""
        if step.op < 0:
            return self._pseudo(step)
        slot = self.slots.get(step.slot)
        if step.tx == IN_SLOT and (slot is None or slot.conn != step.conn):
            return ""
        starting = step.op == Op.TRANSACTION_START and step.tx == 0
        if starting and slot is not None:
            return ""
        ids = slot.ids if step.tx == IN_SLOT and slot else (step.tx, step.tx)
        if self.depth > 1 and together:
            return self._fly(step, ids)
        ending = step.op == Op.TRANSACTION_END and step.payload == b"T\0"
        if slot and slot.outside and ending and step.tx == IN_SLOT and self.rules.transactions:
            return self._commit(step, slot)
        return self._finish(step, self._exchange(step, ids))

    def _fly(self, step: Step, ids: tuple[int, int]) -> str:
        """Keep a request until others of its connection go with it."""
        self.req_id += 1
        self.flight[self.req_id] = step
        self._flight_conn = step.conn
        for side, tx_id in zip((self.a, self.b), ids, strict=True):
            side.links[step.conn].hold(step.op, step.payload, self.req_id, tx_id)
        return ""

    def _land(self) -> str:
        """Send what was kept, read and compare all answers."""
        if not self.flight:
            return ""
        links = (self.a.links[self._flight_conn], self.b.links[self._flight_conn])
        for link in links:
            try:
                link.send()
            except OSError as error:
                raise Crash(f"{self._name(link)}: {error}") from error
        self._await(*links)
        found = self._compare(_NOTHING)
        self.flight.clear()
        if isinstance(found, str):
            return found
        return self._tell(self._flight_conn) if links[0].came or links[1].came else ""

    def _exchange(self, step: Step, ids: tuple[int, int]) -> tuple[Said, Said] | str:
        """Send to both, read both until they have answered, compare; the two replies."""
        self.req_id += 1
        links = (self.a.links[step.conn], self.b.links[step.conn])
        for link, tx_id in zip(links, ids, strict=True):
            self._send(link, step, tx_id)
        self._await(*links)
        if self.rules.unordered:
            return self._compare_unordered(step)
        if step.op == Op.RELEASE and self.rules.release_order:
            self._replies_last(step, links)
        return self._compare(step)

    def _replies_last(self, step: Step, links: tuple[Link, Link]) -> None:
        """Put a reply behind all events of its request, on both sides."""
        answered = self.req_id
        self.req_id += 1
        for link in links:
            self._send(link, _NOTHING, 0)
        self._await(*links)
        positions = []
        for link in links:
            link.came.pop()
            at = next(n for n, said in enumerate(link.came) if said.op != Op.WATCH_EVENT and said.req_id == answered)
            positions.append(len(link.came) - at)
            reply = link.came[at]
            del link.came[at]
            link.came.append(reply)
        self.used[RELEASE_ORDER] += positions[0] != positions[1]

    def _send(self, link: Link, step: Step, tx_id: int) -> None:
        try:
            link.hold(step.op, step.payload, self.req_id, tx_id)
            link.send()
        except OSError as error:
            raise Crash(f"{self._name(link)}: {error}") from error

    def _commit(self, step: Step, slot: Slot) -> str:
        """The end of a transaction beside which something was changed: the reference decides.

        Where it commits, everything inside has to have been alike, and the commit with its events is.  Where it
        refuses, ours may commit; then both start anew.  As that costs a store, ours is mostly told to give up as well.
        """
        self.req_id += 1
        mine, theirs = self.a.links[step.conn], self.b.links[step.conn]
        self._send(theirs, step, slot.ids[1])
        self._await(theirs)
        answer = theirs.came[-1]
        refused = answer.error == "EAGAIN"
        if not refused and slot.parted:
            return f"{self.b.name} commits, but inside the transaction\n{slot.parted}"
        self.refused += refused
        ours = step if not refused or self.refused % COMMIT_EVERY == 0 else step._replace(payload=b"F\0")
        self._send(mine, ours, slot.ids[0])
        self._await(mine)
        reply = mine.came[-1] if mine.came else Said(0, 0, False, b"")
        if refused and reply.op == Op.TRANSACTION_END:
            if ours is step:
                self.used[COMMIT_MORE] += 1
                self.begin()
                return ""
            mine.came[-1] = answer
        elif not refused and reply.error == "EAGAIN" and slot.released and RELEASED_ACL in self.rules.answers:
            self.used[RELEASED_ACL] += 1
            self.begin()
            return ""
        return self._finish(step, self._compare_unordered(step) if self.rules.unordered else self._compare(step))

    def _finish(self, step: Step, replies: tuple[Said, Said] | str) -> str:
        """Learn from the answers, and let all events come that the request caused."""
        if isinstance(replies, str):
            return replies
        self._learn(step, *replies)
        if step.op in _FIRES and replies[1].op != Op.ERROR and not self.rules.unordered:
            return self.sync()
        return ""

    def _alone(self, step: Step, expected: str) -> str:
        """Ask A only, on its service connection, what must be refused."""
        reply = self.a.service.call(step.op, step.payload)
        if reply.error == expected:
            return ""
        return f"{self.a.name} ({self.a.kind}), asked alone: {reply!r}, not {expected}"

    def _name(self, link: Link) -> str:
        side = self.a if link in self.a.links else self.b
        return f"{side.name} ({side.kind}), conn {side.links.index(link)}"

    def _await(self, *links: Link) -> None:
        want = self.req_id
        deadline = time.monotonic() + TIMEOUT_S
        while any(link.replied != want for link in links):
            ready = self._poll.poll(1000)
            if not ready and time.monotonic() > deadline:
                late = [self._name(link) for link in links if link.replied != want]
                raise Crash(f"no answer from {' and '.join(late)}")
            for fd, _ in ready:
                link = self._by_fd[fd]
                try:
                    link.read()
                except OSError as error:
                    raise Crash(f"{self._name(link)}: {error}") from error

    def _compare(self, step: Step) -> tuple[Said, Said] | str:
        """Compare what came on every connection as far as both have it; the answers to `step`."""
        replies: tuple[Said, Said] | None = None
        for conn, (mine, theirs) in enumerate(zip(self.a.links, self.b.links, strict=True)):
            ours, others = mine.came, theirs.came
            while ours and others:
                one, two = ours[0], others[0]
                asked = self.flight.get(one.req_id, step)
                if one == two or self._allowed(asked, one, two):
                    ours.popleft()
                    others.popleft()
                    if one.op != Op.WATCH_EVENT:
                        replies = one, two
                    if one.req_id in self.flight:
                        self._learn(asked, one, two)
                elif self._extra(one, self.rules.extras_ours):
                    ours.popleft()
                elif self._extra(two, self.rules.extras_theirs):
                    others.popleft()
                else:
                    return self._tell(conn)
        if replies is None:
            return self._tell(step.conn)
        return replies

    def _compare_unordered(self, step: Step) -> tuple[Said, Said] | str:
        """The same where one of the two has events in another order: the events of one step as a set."""
        for side in (self.a, self.b):
            for conn, link in enumerate(side.links):
                if conn != step.conn:
                    self._send(link, _NOTHING, 0)
            self._await(*side.links)
        one, two = (
            next(said for said in side.links[step.conn].came if said.op != Op.WATCH_EVENT) for side in (self.a, self.b)
        )
        if one != two and not self._allowed(step, one, two):
            return self._tell(step.conn)
        for conn, (mine, theirs) in enumerate(zip(self.a.links, self.b.links, strict=True)):
            ours, others = (
                {said for said in link.came if said.op == Op.WATCH_EVENT} for link in (mine, theirs)
            )  # fmt: skip
            more, less = ours - others, others - ours
            named = [self._extra(said, self.rules.extras_ours) for said in more]
            named += [self._extra(said, self.rules.extras_theirs) for said in less]
            if not all(named):
                return self._tell(conn)
            if list(mine.came) != list(theirs.came):
                self.used[self.rules.unordered] += 1
            mine.came.clear()
            theirs.came.clear()
        return one, two

    def _allowed(self, step: Step, one: Said, two: Said) -> bool:
        if one.op == Op.WATCH_EVENT or two.op == Op.WATCH_EVENT or one.req_id != two.req_id:
            return False
        for name, rule in self._answers:
            if rule(step, one, two, self.story):
                self.used[name] += 1
                return True
        slot = self.slots.get(step.slot) if step.tx == IN_SLOT else None
        if slot and slot.outside and self.rules.transactions and step.op != Op.TRANSACTION_END:
            self.used[SNAPSHOT] += 1
            slot.parted = slot.parted or f"  {step}\n  {self.a.name}: {show(one)}\n  {self.b.name}: {show(two)}"
            return True
        return False

    def _extra(self, said: Said, rules: dict[str, Callable[[Said, Story], bool]]) -> bool:
        if said.op != Op.WATCH_EVENT:
            return False
        for name, rule in rules.items():
            if rule(said, self.story):
                self.used[name] += 1
                return True
        return False

    def _tell(self, conn: int) -> str:
        lines = [f"on connection {conn}:"]
        for side in (self.a, self.b):
            came = side.links[conn].came
            lines.append(f"  {side.name} ({side.kind}):")
            lines += [f"    {show(said)}" for said in list(came)[:8]] or ["    nothing"]
        return "\n".join(lines)

    def _learn(self, step: Step, one: Said, two: Said) -> None:
        """What the answers mean for the rest of the conversation."""
        if step.op == Op.TRANSACTION_START and one.op == two.op == Op.TRANSACTION_START and step.tx == 0:
            self.slots[step.slot] = Slot(step.conn, (_number(one.payload), _number(two.payload)))
        elif two.op == Op.ERROR:
            if step.op == Op.TRANSACTION_END and step.tx == IN_SLOT and two.error != "EINVAL":
                self.slots.pop(step.slot, None)
        elif step.op == Op.TRANSACTION_END:
            self.slots.pop(step.slot, None)
        elif step.op == Op.RESET_WATCHES:
            self._forget(step.conn)
        elif step.op == Op.RELEASE:
            for domid in map(atoi, domids(step)):
                self._gone(domid)
        elif step.op == Op.SET_TARGET:
            domid, target = map(atoi, domids(step))
            self.story.held.setdefault(domid, set()).add(target)
        if two.op == Op.ERROR or step.op not in (_CHANGES if step.tx != IN_SLOT else _CHANGES_AT_ONCE):
            return
        for slot in self.slots.values():
            slot.outside = True

    def _gone(self, domid: int) -> None:
        self.story.released.add(domid)
        self.story.held.pop(domid, None)
        for slot in self.slots.values():
            slot.released = True

    def _forget(self, conn: int) -> None:
        for slot in [slot for slot, open_ in self.slots.items() if open_.conn == conn]:
            del self.slots[slot]

    # -- what is no request -------------------------------------------------------------------
    def _pseudo(self, step: Step) -> str:
        if step.op == SYNC:
            return self.sync()
        if step.op == RECONNECT:
            found = self.sync()
            self._reopen(step.conn)
            return found
        if step.op == OVERLONG:
            return self._overlong(step)
        if self.hypervisor is not None:
            found = self.sync()
            domid = int(step.payload)
            self.hypervisor(domid, step.op == CREATE)
            if step.op == DESTROY:
                self._gone(domid)
                for slot in self.slots.values():
                    slot.outside = True
                for side in (self.a, self.b):
                    _until_gone(side.service, domid)
            return found
        return ""

    def _reopen(self, conn: int) -> None:
        for side in (self.a, self.b):
            side.reopen(conn)
        self._forget(conn)
        self._watch_links()

    def _overlong(self, step: Step) -> str:
        """A length that no daemon takes: both close this connection, without a word, and no other."""
        found = self.sync()
        data = HEADER.pack(Op.READ, 1, 0, min(4096 + step.slot, 0xFFFFFFFF)) + step.payload
        for side in (self.a, self.b):
            link = side.links[step.conn]
            link.came.clear()
            link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(TIMEOUT_S), 0))
            try:
                link.sock.sendall(data)
                while True:
                    link.read()
            except BlockingIOError:
                found = found or f"{self._name(link)}: still open after a message of {4096 + step.slot} bytes"
            except OSError:
                if link.came:
                    found = found or f"{self._name(link)}: {show(link.came[0])} before the close"
        self._reopen(step.conn)
        return found

    def sync(self) -> str:
        """Fetch every event that is still on its way: each connection gets one more answer to wait for."""
        self.req_id += 1
        for conn in range(CONNECTIONS):
            for side in (self.a, self.b):
                self._send(side.links[conn], _NOTHING, 0)
        self._await(*self.a.links, *self.b.links)
        found = self._compare(_NOTHING)
        if isinstance(found, str):
            return found
        for conn, (mine, theirs) in enumerate(zip(self.a.links, self.b.links, strict=True)):
            if mine.came or theirs.came:
                return self._tell(conn)
        return ""

    def compare_trees(self) -> str:
        """Both stores, node by node, in DIRECTORY order."""
        one, two = self.a.tree(), self.b.tree()
        if self.rules.unordered:
            one, two = sorted(one), sorted(two)
        for mine, theirs in zip(one, two, strict=False):
            if mine != theirs:
                step = Step(0, Op.GET_PERMS, mine[0] + b"\0")
                perms = Said(Op.GET_PERMS, 0, True, mine[1]), Said(Op.GET_PERMS, 0, True, theirs[1])
                if (mine[0], mine[2]) != (theirs[0], theirs[2]) or not self._allowed(step, *perms):
                    return f"trees differ:\n  {self.a.name}: {mine}\n  {self.b.name}: {theirs}"
        if len(one) != len(two):
            more = max(one, two, key=len)[min(len(one), len(two))]
            return f"trees differ: {len(one)} and {len(two)} nodes, the first that only one has is {more}"
        return ""

    def close(self) -> None:
        """Close all connections."""
        for side in (self.a, self.b):
            side.close()


def show(said: Said) -> str:
    """One message for people."""
    name = Op(said.op).name if said.op in Op._value2member_map_ else str(said.op)
    body = repr(said.payload) if len(said.payload) <= 300 else f"{said.payload[:300]!r}... {len(said.payload)} bytes"
    req = "" if said.op == Op.WATCH_EVENT else f" req={said.req_id}"
    return f"{name}{req}{'' if said.echo else ' (not the request`s tx_id)'} {body}"


def _number(payload: bytes) -> int:
    text = payload.rstrip(b"\0")
    return int(text) if text.isdigit() else 0


def _until_gone(peer: Peer, domid: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while peer.call(Op.IS_DOMAIN_INTRODUCED, b"%d\0" % domid).payload == b"T\0":
        if time.monotonic() > deadline:
            raise Crash(f"domain {domid} is gone, but stays introduced")
        time.sleep(0.002)
