"""XenStore as a small model: the executable specification that the daemon is compared with.

Owns the meaning of every request: the tree, who may do what, quotas, watches and the order of their events,
transactions, the birth and death of domains.  Everything is a dict or a tuple, copied whenever it changes; a
transaction is a log of requests and answers, and its commit is the same requests once more on today's tree.
Refuses to know of speed, of bytes on a wire, of the daemon's data structures, and of what fastxs.core does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tests.support.wire import PAYLOAD_MAX, Op

ANY: Final = 32757
SELF: Final = 32752
NOBODY: Final = -1
FEATURES: Final = 15
DEPTH_FEATURE: Final = 4
ANY_FEATURE: Final = 8
RIGHTS: Final = {"n": "", "r": "r", "w": "w", "b": "rw"}
QUOTAS: Final = {
    "nodes": 1000,
    "watches": 128,
    "transactions": 10,
    "transaction-nodes": 1024,
    "node-permissions": 5,
    "node-size": 2048,
    "path-max": 2048,
    "outstanding": 20,
    "memory": 2621440,
    "soft-memory": 2097152,
}
LEGAL: Final = re.compile(r"[A-Za-z0-9/_@-]*")
HOME: Final = re.compile(r"/local/domain/[0-9]{1,5}/")


class RefusedError(Exception):
    """A request is answered with an error word."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


def refuse(word: str) -> bytes:
    raise RefusedError(word)


class Perm(NamedTuple):
    """One entry of a permission list; stale: its domain did not exist when the entry was written."""

    letter: str
    domid: int
    stale: bool = False


Perms = tuple[Perm, ...]


class Node(NamedTuple):
    value: bytes
    perms: Perms
    children: tuple[str, ...]
    generation: int


Tree = Mapping[str, Node]


class Who(NamedTuple):
    """On whose behalf a permission is asked: a domain, perhaps its target, perhaps above the law."""

    domid: int
    target: int
    privileged: bool


class Event(NamedTuple):
    """A change of `path`; exact: for watches on this very path only.  One of `lists` must let a watcher read."""

    path: str
    exact: bool
    lists: tuple[Perms, ...]


class Watch(NamedTuple):
    path: str
    token: bytes
    depth: int | None
    skip: int
    """Characters that the watcher left out because it gave a relative path."""


class Asked(NamedTuple):
    """A request inside a transaction with everything that its commit depends on."""

    op: Op
    payload: bytes
    answer: bytes | str
    removed: Mapping[str, int]
    """What RM found in the store and removed, by generation: no other RM than this one was asked for."""
    named: tuple[Domain | None, ...]
    """Whom SET_PERMS meant: the next domain with the same domid is another one (XSA-322)."""


@dataclass(eq=False)
class Transaction:
    start: Tree
    views: list[View]
    """Every state of the tree that explains all answers so far, each with its log; the newest is to be preferred."""
    failed: bool = False
    """A quota was hit inside: it can only be aborted."""
    stale: bool = False
    """Something that was read has changed since: any of the views may answer."""


@dataclass(eq=False)
class Connection:
    domid: int
    watches: list[Watch] = field(default_factory=list)
    transactions: dict[int, Transaction] = field(default_factory=dict)
    next_tx_id: int = 1
    out: list[tuple[Op, bytes]] = field(default_factory=list)
    """Events, and `(Op.ERROR or the request's, payload)` for replies, in the order in which they leave."""


@dataclass(eq=False)
class Domain:
    quotas: dict[str, int]
    introduced: bool = False
    target: int = NOBODY
    features: int = FEATURES


# -- small parsers, as lenient as C's ------------------------------
def strings(payload: bytes) -> list[str]:
    """The NUL-terminated strings; what follows the last NUL is not looked at."""
    return [part.decode("latin-1") for part in payload.split(b"\0")[:-1]]


def one(payload: bytes) -> str:
    """The payload's only string: exactly one NUL, at the very end."""
    if payload.find(b"\0") != len(payload) - 1 or not payload:
        raise RefusedError("EINVAL")
    return payload[:-1].decode("latin-1")


def atoi(text: str) -> int:
    """The number at the front, 0 when there is none."""
    found = re.match(r"\s*([+-]?[0-9]+)", text)
    return int(found[1]) if found else 0


def domid_of(text: str) -> int:
    """A domid: decimal, leading blanks allowed, empty is 0."""
    found = re.fullmatch(r"\s*([0-9]+)|", text)
    value = int(found[1] or 0) if found else 65536
    if value > 65535:
        raise RefusedError("EINVAL")
    return value


def perm_of(text: str) -> Perm:
    """`r5` and the like; the number as strtol with base 0 reads it."""
    found = re.fullmatch(r"([rwbn])(0[xX][0-9a-fA-F]+|[0-9]+)", text)
    if not found:
        raise RefusedError("EINVAL")
    digits = found[2]
    base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10
    return Perm(found[1], int(digits, base))


def parent_of(path: str) -> str:
    return path[: path.rfind("/")] or "/" if "/" in path else "/"


def join(path: str, name: str) -> str:
    return f"/{name}" if path == "/" else f"{path}/{name}"


def allowed(who: Who, perms: Perms) -> str:
    """The rights of `who` on a node: some of `rwo` (o: owner).  The first entry that names it counts."""
    ids = (who.domid, who.target, ANY)
    if who.privileged or perms[0].domid in ids:
        return "rwo"
    mine = (RIGHTS[p.letter] for p in perms[1:] if p.domid in ids and not p.stale)
    return next(mine, RIGHTS[perms[0].letter])


# -- one state of the tree ------------------------------
class View:
    """What one speaker sees and changes: today's tree, or a transaction's own."""

    def __init__(self, model: Model, domid: int, nodes: Tree, in_tx: bool = False) -> None:
        self.model, self.domid, self.base, self.nodes, self.in_tx = model, domid, nodes, nodes, in_tx
        self.touched: dict[str, Node | None] = {}
        self.fired: list[Event] = []
        self.log: list[Asked] = []
        self.cut: set[str] = set()
        """What a transaction removed: whatever stands there since then is its own."""
        self.failed = False
        self.any_nodes = False
        """The quota of nodes is not counted: the view is an old one, and today's number is not known here."""

    @property
    def who(self) -> Who:
        return self.model.who(self.domid)

    def over(self, name: str, value: int) -> bool:
        limit = self.model.quotas_of(self.who.domid)[name]
        return 0 < limit < value and not self.who.privileged and not (self.any_nodes and name == "nodes")

    def look(self, path: str) -> Node | None:
        node = self.nodes.get(path)
        if self.in_tx and path not in self.touched:
            if self.over("transaction-nodes", len(self.touched) + 1):
                self.fail()
            self.touched[path] = node
        return node

    def touches(self, payload: bytes) -> bool:
        """Whether the path at the front of a request was looked at before."""
        try:
            return self.path(payload.partition(b"\0")[0].decode("latin-1"), special=True) in self.touched
        except RefusedError:
            return False

    def fail(self) -> None:
        self.failed = True
        raise RefusedError("ENOSPC")

    def may(self, node: Node, want: str) -> bool:
        return set(want) <= set(allowed(self.who, node.perms))

    def path(self, raw: str, special: bool = False) -> str:
        """The full path, or EINVAL."""
        if not LEGAL.fullmatch(raw) or (raw[:1] == "@" and not special):
            raise RefusedError("EINVAL")
        path = raw if raw[:1] in ("/", "@") and raw else f"/local/domain/{self.who.domid}/{raw}"
        home = HOME.match(path)
        if (path.endswith("/") and path != "/") or "//" in path:
            raise RefusedError("EINVAL")
        if self.over("path-max", len(path) - (home.end() if home else 0)):
            raise RefusedError("EINVAL")
        return path

    def get(self, path: str, want: str) -> Node:
        """The node, if these rights are there.  Else the reason, but only to who may know it."""
        node = self.look(path)
        if node is not None and self.may(node, want):
            return node
        at = parent_of(path)
        while (near := self.look(at)) is None:
            at = parent_of(at)
        known = set(want) & set(allowed(self.who, near.perms))
        raise RefusedError("ENOENT" if node is None and known else "EACCES")

    def put(self, path: str, node: Node) -> None:
        size = 16 + 8 * len(node.perms) + len(node.value) + sum(len(name) + 1 for name in node.children)
        if self.over("node-size", size):
            self.fail()
        self.nodes = {**self.nodes, path: node._replace(generation=next(self.model.generation))}

    def create(self, path: str, value: bytes) -> None:
        """The node and every missing parent; all or nothing."""
        before, missing = self.nodes, [path]
        while (near := self.look(parent_of(missing[-1]))) is None:
            missing.append(parent_of(missing[-1]))
        perms = near.perms
        if not self.who.privileged:
            perms = (Perm(perms[0].letter, self.who.domid), *perms[1:])
        owned = sum(n.perms[0].domid == self.who.domid for n in before.values())
        try:
            if self.over("nodes", owned + len(missing)):
                self.fail()
            for at in reversed(missing):
                up = self.nodes[parent_of(at)]
                self.put(parent_of(at), up._replace(children=(*up.children, at[at.rfind("/") + 1 :])))
                self.put(at, Node(value if at == path else b"", perms, (), 0))
        except RefusedError:
            self.nodes = before
            raise
        self.fire(path)

    def subtree(self, path: str, order: int = 1) -> list[str]:
        """A node's path and those below it, parents first; order -1: children last to first."""
        found, waiting = [], [path]
        while waiting:
            found.append(at := waiting.pop())
            waiting += [join(at, name) for name in self.nodes[at].children[::-order]]
        return found

    def remove(self, path: str) -> None:
        """The node and all below it.  The deepest leave, and fire, first; but the top is looked at first."""
        for at in self.subtree(path):
            self.look(at)
        leaving = self.subtree(path, -1)[::-1]
        for at in leaving:
            self.fire(at, exact=at != path)
        gone = set(leaving)
        self.nodes = {at: node for at, node in self.nodes.items() if at not in gone}
        up = self.nodes[parent_of(path)]
        kept = tuple(name for name in up.children if name != path[path.rfind("/") + 1 :])
        generation = next(self.model.generation)
        self.nodes = {**self.nodes, parent_of(path): up._replace(children=kept, generation=generation)}

    def fire(self, path: str, *, exact: bool = False, old: tuple[Perms, ...] = ()) -> None:
        here, above = self.nodes[path], self.nodes[parent_of(path)]
        self.fired.append(Event(path, exact, (*old, here.perms, above.perms)))

    def commit_events(self) -> list[Event]:
        """A transaction's events: one per changed path, in the order in which the paths were first looked at."""
        kinds: dict[str, bool] = {}
        for event in self.fired:
            kinds[event.path] = kinds.get(event.path, True) and event.exact
        found = []
        for path in (path for path in self.touched if path in kinds):
            lists = [tree[path].perms for tree in (self.base, self.nodes) if path in tree]
            if lists:  # else it came and went within the transaction
                above = self.nodes.get(parent_of(path)) or self.base[parent_of(path)]
                found.append(Event(path, kinds[path], (*lists, above.perms)))
        return found


# -- the requests that read or change the tree ------------------------------
def do_directory(view: View, payload: bytes) -> bytes:
    return b"".join(name.encode() + b"\0" for name in view.get(view.path(one(payload)), "r").children)


def do_directory_part(view: View, payload: bytes) -> bytes:
    if payload.count(b"\0") != 2:
        raise RefusedError("EINVAL")
    path, offset = strings(payload)
    node = view.get(view.path(path), "r")
    names, at = b"".join(name.encode() + b"\0" for name in node.children), atoi(offset)
    reply = str(node.generation).encode() + b"\0"
    if not 0 <= at < len(names):
        return reply + b"\0"
    room = PAYLOAD_MAX - len(reply) - 1
    while at < len(names):
        end = names.index(b"\0", at) + 1
        if end - at > room:
            return reply
        reply, room, at = reply + names[at:end], room - (end - at), end
    return reply + b"\0"


def do_read(view: View, payload: bytes) -> bytes:
    return view.get(view.path(one(payload)), "r").value


def do_get_perms(view: View, payload: bytes) -> bytes:
    perms = view.get(view.path(one(payload), special=True), "r").perms
    return b"".join(f"{p.letter}{p.domid}\0".encode() for p in perms)


def do_write(view: View, payload: bytes) -> bytes:
    raw, nul, value = payload.partition(b"\0")
    if not nul:
        raise RefusedError("EINVAL")
    path = view.path(raw.decode("latin-1"))
    try:
        node = view.get(path, "w")
    except RefusedError as refused:
        if refused.word != "ENOENT":
            raise
        view.create(path, value)
    else:
        view.put(path, node._replace(value=value))
        view.fire(path)
    return b"OK\0"


def do_mkdir(view: View, payload: bytes) -> bytes:
    path = view.path(one(payload))
    try:
        view.get(path, "w")
    except RefusedError as refused:
        if refused.word != "ENOENT":
            raise
        view.create(path, b"")
    return b"OK\0"


def do_rm(view: View, payload: bytes) -> bytes:
    path = view.path(one(payload))
    try:
        view.get(path, "w")
    except RefusedError as refused:
        if refused.word != "ENOENT" or view.look(parent_of(path)) is None:
            raise
        return b"OK\0"
    if path == "/":
        raise RefusedError("EINVAL")
    view.look(parent_of(path))
    view.remove(path)
    return b"OK\0"


def do_set_perms(view: View, payload: bytes) -> bytes:
    raw, *texts = strings(payload) or [""]
    if not texts:
        raise RefusedError("EINVAL")
    if view.over("node-permissions", len(texts)):
        raise RefusedError("ENOSPC")
    perms = tuple(view.model.checked(view.who, perm_of(text)) for text in texts)
    if perms[0].stale:
        raise RefusedError("ENOENT")
    path = view.path(raw, special=True)
    node = view.get(path, "wo")
    if not view.who.privileged and perms[0].domid != node.perms[0].domid:
        raise RefusedError("EPERM")
    view.put(path, node._replace(perms=perms))
    if path[0] != "@":  # difference special-set-perms-silent
        view.fire(path, old=(node.perms,))
    return b"OK\0"


TREE: Final[dict[Op, Callable[[View, bytes], bytes]]] = {
    Op.DIRECTORY: do_directory,
    Op.DIRECTORY_PART: do_directory_part,
    Op.READ: do_read,
    Op.GET_PERMS: do_get_perms,
    Op.WRITE: do_write,
    Op.MKDIR: do_mkdir,
    Op.RM: do_rm,
    Op.SET_PERMS: do_set_perms,
}
PRIVILEGED: Final = {
    Op.CONTROL,
    Op.INTRODUCE,
    Op.RELEASE,
    Op.IS_DOMAIN_INTRODUCED,
    Op.RESUME,
    Op.SET_TARGET,
    Op.SET_FEATURE,
    Op.GET_QUOTA,
    Op.SET_QUOTA,
}
NO_TX: Final = {Op.WATCH, Op.UNWATCH}


# -- the store ------------------------------
class Model:
    """The whole store.  `request` does what one message asks for; what leaves is in each connection's `out`."""

    def __init__(self, reset: Callable[[Connection], None] = lambda _: None) -> None:
        self.reset = reset
        """Told when a connection begins anew: a request that it was in the middle of is none of ours."""
        self.generation = itertools.count(1)
        self.quotas = dict(QUOTAS)
        self.domains: dict[int, Domain] = {0: Domain(dict(QUOTAS), introduced=True)}
        self.connections: list[Connection] = []
        self.seen: bytes | str | None = None
        """What the daemon answered, where the rules leave a choice (see `Transaction.stale`)."""
        nobody = (Perm("n", 0),)
        self.nodes: Tree = {
            "/": Node(b"", nobody, ("tool",), 0),
            "/tool": Node(b"", nobody, ("xenstored",), 0),
            "/tool/xenstored": Node(b"", nobody, (), 0),
            "@introduceDomain": Node(b"", nobody, (), 0),
            "@releaseDomain": Node(b"", (Perm("n", 0), Perm("r", ANY)), (), 0),
        }
        self.others: dict[Op, Callable[[Connection, bytes, int], bytes]] = {
            Op.WATCH: self.watch,
            Op.UNWATCH: self.unwatch,
            Op.RESET_WATCHES: self.reset_watches,
            Op.TRANSACTION_START: self.transaction_start,
            Op.TRANSACTION_END: self.transaction_end,
            Op.INTRODUCE: self.introduce,
            Op.RELEASE: self.release,
            Op.RESUME: self.resume,
            Op.SET_TARGET: self.set_target,
            Op.IS_DOMAIN_INTRODUCED: self.is_domain_introduced,
            Op.GET_DOMAIN_PATH: self.get_domain_path,
            Op.GET_FEATURE: self.get_feature,
            Op.SET_FEATURE: self.set_feature,
            Op.GET_QUOTA: self.get_quota,
            Op.SET_QUOTA: self.set_quota,
        }

    # -- who speaks ---------------------------------------------------------------------------------------------------
    def who(self, domid: int) -> Who:
        domain = self.domains.get(domid)
        return Who(domid, domain.target if domain else NOBODY, domid == 0)

    def quotas_of(self, domid: int) -> dict[str, int]:
        return self.domains[domid].quotas if domid in self.domains else self.quotas

    def checked(self, who: Who, perm: Perm) -> Perm:
        """An entry for a domain that does not exist is stale from the start."""
        if perm.domid == ANY:
            return perm._replace(stale=not self.domains[who.domid].features & ANY_FEATURE)
        return perm._replace(stale=perm.domid not in self.domains)

    def owned(self, domid: int) -> int:
        return sum(node.perms[0].domid == domid for node in self.nodes.values())

    # -- one request --------------------------------------------------------------------------------------------------
    def request(self, conn: Connection, op: int, payload: bytes, tx_id: int = 0) -> None:
        try:
            reply = self.answer(conn, op, payload, tx_id)
        except RefusedError as refused:
            conn.out.append((Op.ERROR, refused.word.encode() + b"\0"))
            return
        if len(reply) > PAYLOAD_MAX:
            conn.out.append((Op.ERROR, b"E2BIG\0"))
            return
        conn.out.append((Op(op), reply))
        if op == Op.WATCH:
            watch = conn.watches[-1]
            self.send(conn, watch, watch.path)

    def answer(self, conn: Connection, op: int, payload: bytes, tx_id: int) -> bytes:
        """The checks that come before every handler, then the handler."""
        if op not in TREE and op not in self.others and op != Op.CONTROL:
            raise RefusedError("ENOSYS")
        if op in PRIVILEGED and conn.domid != 0:
            raise RefusedError("EACCES")
        if op not in NO_TX and tx_id and tx_id not in conn.transactions:
            raise RefusedError("ENOENT")
        if op == Op.CONTROL:
            raise RefusedError("EINVAL")
        if op in self.others:
            return self.others[Op(op)](conn, payload, tx_id)
        if tx_id:
            return self.in_transaction(conn, conn.transactions[tx_id], Op(op), payload)
        view = View(self, conn.domid, self.nodes)
        reply = TREE[Op(op)](view, payload)
        self.nodes = view.nodes
        self.deliver(view.fired)
        return reply

    # -- events -------------------------------------------------------------------------------------------------------
    def send(self, conn: Connection, watch: Watch, path: str) -> None:
        payload = path[watch.skip :].encode() + b"\0" + watch.token + b"\0"
        if len(payload) <= PAYLOAD_MAX:
            conn.out.append((Op.WATCH_EVENT, payload))

    def deliver(self, events: list[Event]) -> None:
        for event in events:
            for conn in self.connections:
                who = self.who(conn.domid)
                if not any("r" in allowed(who, perms) for perms in event.lists):
                    continue
                told: set[tuple[int, bytes]] = set()
                for watch in conn.watches:
                    fits = watch.path == event.path or (not event.exact and below(event.path, watch.path, watch.depth))
                    if fits and (watch.skip, watch.token) not in told:  # those that would say the same say it once
                        told.add((watch.skip, watch.token))
                        self.send(conn, watch, event.path)

    def special(self, name: str, domid: int | None) -> None:
        """`@releaseDomain` for watches without a depth; `@releaseDomain/5` for those with one, or on exactly that."""
        perms = self.nodes[name].perms
        path = name if domid is None else f"{name}/{domid}"
        for conn in self.connections:
            if "r" not in allowed(self.who(conn.domid), perms):
                continue
            for watch in conn.watches:
                if domid is None:
                    fits = watch.path == name and watch.depth is None
                else:
                    fits = watch.path == path or (watch.path == name and (watch.depth or 0) > 0)
                if fits:
                    self.send(conn, watch, path)

    # -- watches ------------------------------------------------------------------------------------------------------
    def watch(self, conn: Connection, payload: bytes, _tx_id: int) -> bytes:
        given = strings(payload)
        depth = None
        if len(given) == 3 and self.features_of(conn) & DEPTH_FEATURE:
            depth = atoi(given[2])
            if not 0 <= depth < 2**31:
                raise RefusedError("EINVAL")
        elif len(given) != 2:
            raise RefusedError("EINVAL")
        raw, token = given[0], given[1].encode("latin-1")
        view = View(self, conn.domid, self.nodes)
        path = view.path(raw, special=True)
        if any((watch.path, watch.token) == (path, token) for watch in conn.watches):
            raise RefusedError("EEXIST")
        held = sum(len(other.watches) for other in self.connections if other.domid == conn.domid)
        if view.over("watches", held + 1):
            raise RefusedError("ENOSPC")
        conn.watches.append(Watch(path, token, depth, len(path) - len(raw)))
        return b"OK\0"

    def unwatch(self, conn: Connection, payload: bytes, _tx_id: int) -> bytes:
        given = strings(payload)
        if len(given) != 2:
            raise RefusedError("EINVAL")
        path = View(self, conn.domid, self.nodes).path(given[0], special=True)
        for watch in conn.watches:
            if (watch.path, watch.token) == (path, given[1].encode("latin-1")):
                conn.watches.remove(watch)
                return b"OK\0"
        raise RefusedError("ENOENT")

    def reset_watches(self, conn: Connection, _payload: bytes, _tx_id: int) -> bytes:
        conn.watches.clear()
        conn.transactions.clear()
        return b"OK\0"

    # -- transactions -------------------------------------------------------------------------------------------------
    def transaction_start(self, conn: Connection, _payload: bytes, tx_id: int) -> bytes:
        if tx_id:
            raise RefusedError("EBUSY")
        held = sum(len(other.transactions) for other in self.connections if other.domid == conn.domid)
        view = View(self, conn.domid, self.nodes, in_tx=True)
        if view.over("transactions", held + 1):
            raise RefusedError("ENOSPC")
        while conn.next_tx_id in conn.transactions or not conn.next_tx_id:
            conn.next_tx_id = (conn.next_tx_id + 1) % 2**32
        new, conn.next_tx_id = conn.next_tx_id, (conn.next_tx_id + 1) % 2**32
        conn.transactions[new] = Transaction(self.nodes, [view])
        return f"{new}\0".encode()

    def ask(self, view: View, op: Op, payload: bytes) -> Asked:
        """One request on a transaction's view: its answer, for RM what it removed, for SET_PERMS whom it named."""
        before = view.nodes
        try:
            answer: bytes | str = TREE[op](view, payload)
        except RefusedError as refused:
            answer = refused.word
        gone = {path for path in before if path not in view.nodes}
        found = {path: view.base[path].generation for path in gone - view.cut if path in view.base}
        view.cut |= gone
        named: tuple[Domain | None, ...] = ()
        if op == Op.SET_PERMS and answer == b"OK\0":
            named = tuple(self.domains.get(perm_of(text).domid) for text in strings(payload)[1:])
        view.log.append(Asked(op, payload, answer, found, named))
        return view.log[-1]

    def replay(self, log: list[Asked], domid: int) -> tuple[View, list[bytes | str]]:
        """Today's tree with the same requests done again, and the answers that are others than they were."""
        view = View(self, domid, self.nodes, in_tx=True)
        again = [self.ask(view, asked.op, asked.payload) for asked in log]
        return view, [new.answer for old, new in zip(log, again, strict=True) if old != new]

    def in_transaction(self, conn: Connection, tx: Transaction, op: Op, payload: bytes) -> bytes:
        """The newest possible view answers: today's.

        Any view that explains all answers so far may do so for a path that was touched before (it stays as it was
        seen first, as in C), and for every path once something that was read has changed.
        """
        if tx.failed and self.seen is not None:  # it can only be aborted, so nothing of this matters
            return self.seen if isinstance(self.seen, bytes) else refuse(self.seen)
        if tx.views[-1].base is not self.nodes:
            fresh, others = self.replay(tx.views[-1].log, conn.domid)
            if others:
                tx.stale = True
            else:
                tx.views.append(fresh)
        if tx.stale and self.seen == "ENOSPC" and op in (Op.WRITE, Op.MKDIR):
            tx.failed = True
            raise RefusedError("ENOSPC")
        for view in tx.views:
            view.any_nodes = tx.stale
        free = tx.stale or (op != Op.RM and any(view.touches(payload) for view in tx.views))
        asked = [self.ask(view, op, payload) for view in tx.views]
        answers = [one.answer for one in asked]
        answer = self.seen if free and self.seen in answers else answers[-1]
        right = [one.answer == answer if free else one == asked[-1] for one in asked]
        tx.views = [view for view, fits in zip(tx.views, right, strict=True) if fits]
        tx.failed = tx.failed or tx.views[-1].failed
        return answer if isinstance(answer, bytes) else refuse(answer or "")

    def transaction_end(self, conn: Connection, payload: bytes, tx_id: int) -> bytes:
        if one(payload) not in ("T", "F"):
            raise RefusedError("EINVAL")
        if not tx_id:
            raise RefusedError("ENOENT")
        tx = conn.transactions.pop(tx_id)
        if payload == b"F\0":
            return b"OK\0"
        if tx.failed:
            raise RefusedError("ENOMEM")
        ends = [self.end(view.log, conn.domid) for view in tx.views]
        word, view = next((end for end in ends if end[0] == self.seen), ends[-1])
        if view is None:
            raise RefusedError(str(word))
        self.nodes = view.nodes
        self.deliver(view.commit_events())
        return b"OK\0"

    def end(self, log: list[Asked], domid: int) -> tuple[bytes | str, View | None]:
        """How a transaction with this log ends today: by the first answer that would be another one."""
        view, others = self.replay(log, domid)
        if others:
            either = "ENOSPC" in others and self.seen == "ENOSPC"
            return ("ENOSPC" if either or others[0] == "ENOSPC" else "EAGAIN"), None
        return b"OK\0", view

    # -- domains ------------------------------------------------------------------------------------------------------
    def appear(self, domid: int) -> None:
        """The hypervisor made a domain."""
        self.domains.setdefault(domid, Domain(dict(self.quotas)))

    def vanish(self, domid: int) -> None:
        """A domain died, or was released: its connections, its nodes, then every permission it was given."""
        domain = self.domains.pop(domid)
        self.connections = [conn for conn in self.connections if conn.domid != domid]
        self.forget(domid, domain)

    def forget(self, domid: int, domain: Domain) -> None:
        view = View(self, 0, self.nodes)
        for path in view.subtree("/"):
            if path in view.nodes and view.nodes[path].perms[0].domid == domid and path != "/":
                view.remove(path)
        self.deliver(view.fired)
        for other in self.domains.values():
            other.target = NOBODY if other.target == domid else other.target
        self.nodes = without(view.nodes, domid)
        for conn in self.connections:
            for old in (old for tx in conn.transactions.values() for old in tx.views):
                # An old view has the old nodes, but not the rights of the dead: its number may be used again.
                old.base, old.nodes = without(old.base, domid), without(old.nodes, domid)
        if domain.introduced:
            self.special("@releaseDomain", None)
            self.special("@releaseDomain", domid)

    def existing(self, text: str) -> Domain:
        domid = domid_of(text)
        if domid not in self.domains:
            raise RefusedError("ENOENT")
        return self.domains[domid]

    def known(self, text: str) -> Domain:
        domain = self.existing(text)
        if not domain.introduced:
            raise RefusedError("ENOENT")
        return domain

    def features_of(self, conn: Connection) -> int:
        return self.domains[conn.domid].features if conn.domid in self.domains else FEATURES

    def introduce(self, _conn: Connection, payload: bytes, _tx_id: int) -> bytes:
        given = strings(payload)
        if len(given) < 3 or (domid_of(given[0]), atoi(given[2]))[1] <= 0:
            raise RefusedError("EINVAL")
        domid = domid_of(given[0])
        domain = self.domains.get(domid)
        if domain is None:
            raise RefusedError("EINVAL")
        if not domain.introduced:
            domain.introduced = True
            self.special("@introduceDomain", None)
            self.special("@introduceDomain", domid)
            return b"OK\0"
        for conn in self.connections:
            if conn.domid == domid != 0:
                self.reset_watches(conn, b"", 0)
                self.reset(conn)
        return b"OK\0"

    def release(self, _conn: Connection, payload: bytes, _tx_id: int) -> bytes:
        domid = domid_of(one(payload))
        if domid == 0:
            raise RefusedError("EINVAL")
        domain = self.known(one(payload))
        self.connections = [conn for conn in self.connections if conn.domid != domid]
        self.domains[domid] = Domain(dict(self.quotas))
        self.forget(domid, domain)
        return b"OK\0"

    def resume(self, _conn: Connection, payload: bytes, _tx_id: int) -> bytes:
        if domid_of(one(payload)) == 0:
            raise RefusedError("EINVAL")
        self.known(one(payload))
        return b"OK\0"

    def set_target(self, _conn: Connection, payload: bytes, _tx_id: int) -> bytes:
        given = strings(payload)
        if len(given) < 2:
            raise RefusedError("EINVAL")
        domids = [domid_of(text) for text in given[:2]]
        self.known(given[0]), self.known(given[1])
        self.domains[domids[0]].target = domids[1]
        return b"OK\0"

    def is_domain_introduced(self, _conn: Connection, payload: bytes, _tx_id: int) -> bytes:
        domid = domid_of(one(payload))
        known = domid == SELF or (domid in self.domains and self.domains[domid].introduced)
        return b"T\0" if known else b"F\0"

    def get_domain_path(self, _conn: Connection, payload: bytes, _tx_id: int) -> bytes:
        return f"/local/domain/{domid_of(one(payload))}\0".encode()

    # -- features and quotas ------------------------------------------------------------------------------------------
    def get_feature(self, conn: Connection, payload: bytes, _tx_id: int) -> bytes:
        given = strings(payload)
        if not given:
            return f"{self.features_of(conn)}\0".encode()
        if conn.domid:
            raise RefusedError("EACCES")
        if len(given) > 1:
            raise RefusedError("EINVAL")
        return f"{self.existing(given[0]).features}\0".encode()

    def set_feature(self, _conn: Connection, payload: bytes, _tx_id: int) -> bytes:
        given = strings(payload)
        if len(given) != 2:
            raise RefusedError("EINVAL")
        domain, mask = self.existing(given[0]), atoi(given[1])
        if domain.introduced:
            raise RefusedError("EBUSY")
        if mask & ~FEATURES:
            raise RefusedError("EINVAL")
        domain.features = mask
        return b"OK\0"

    def get_quota(self, _conn: Connection, payload: bytes, _tx_id: int) -> bytes:
        given = strings(payload)
        if len(given) > 2:
            raise RefusedError("EINVAL")
        if not given:
            return " ".join(QUOTAS).encode() + b"\0"
        quotas = self.existing(given[0]).quotas if len(given) == 2 else self.quotas
        if given[-1] not in quotas:
            raise RefusedError("EINVAL")
        return f"{quotas[given[-1]]}\0".encode()

    def set_quota(self, _conn: Connection, payload: bytes, _tx_id: int) -> bytes:
        given = strings(payload)
        if len(given) not in (2, 3):
            raise RefusedError("EINVAL")
        quotas = self.existing(given[0]).quotas if len(given) == 3 else self.quotas
        name, value = given[-2], atoi(given[-1])
        if name not in quotas or value == -1:
            raise RefusedError("EINVAL")
        quotas[name] = value
        return b"OK\0"


def without(nodes: Tree, domid: int) -> Tree:
    """The same tree with a dead domain's rights gone; what it owned and is left is domain 0's."""

    def rid(perms: Perms) -> Perms:
        first = perms[0]._replace(domid=0) if perms[0].domid == domid else perms[0]
        return (first, *(p for p in perms[1:] if p.domid != domid or p.stale))

    return {path: node._replace(perms=rid(node.perms)) for path, node in nodes.items()}


def below(path: str, watched: str, depth: int | None) -> bool:
    """Whether a change of `path` is one at or below `watched`, and not more than `depth` levels below it."""
    if path == watched:
        return True
    stem = watched if watched == "/" else watched + "/"
    return path.startswith(stem) and (depth is None or path[len(stem) :].count("/") < depth)
