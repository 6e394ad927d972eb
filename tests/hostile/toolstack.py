"""Domain 0's tools, and the hypervisor: the lives of hostile domains.

Owns which of them exist, are introduced and have shut down, and checks that each change is answered and told as it
should be, whatever the guest has written into its page.  Refuses to know what the guest wrote.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from errno import EINVAL, ENOMEM, ENOSPC
from typing import Final

from fastxs.hypervisor.host import Host
from fastxs.hypervisor.simxen.guests import Guests
from tests.conversations.speak import OK, nul
from tests.hostile.neighbour import PATIENCE_S, Heard, Wrong
from tests.support.ring import PORT, RingPeer
from tests.support.wire import Op, Peer

HOSTILE: Final = tuple(range(10, 22, 2))
"""With gaps: the pages beside theirs are not mapped, so that a daemon that leaves one page is caught."""

VISITOR: Final = 30
"""A domain that means no harm, comes, is served at once, and goes."""

LIMITS: Final = {"nodes": 1000, "watches": 128, "transactions": 10, "memory": 2621440}
"""Default quotas, which the hostile ones have."""

PAUSES_S: Final = (0, 0.005, 0.2, 5)
"""Between two things that happen to a domain, for `PERIOD_S`: some live long enough to use up their quotas."""

PERIOD_S: Final = 2


class Toolstack:
    """Domain 0's tools and the hypervisor's: the lives of the hostile domains."""

    def __init__(self, host: Host, guests: Guests, chance: random.Random) -> None:
        self.done: Final[Counter[str]] = Counter()
        self._host: Final = host
        self._guests: Final = guests
        self._chance: Final = chance
        self._peer = Peer(host.socket)
        self._own: Final = host.kind == "fastxs"
        """Else Xen 4.17's daemons are spared what they have not got or what ends them, and may tell a death twice."""
        self._heard = Heard(self._peer, "toolstack", exact=self._own)
        self._port: Final = dict.fromkeys(HOSTILE, 2)
        self._introduced: Final[set[int]] = set()
        self._shut: Final[set[int]] = set()
        self._pause_s: float = 0
        self._period = self._pause = 0.0
        """When they end."""

    def close(self) -> None:
        self._peer.close()

    def begin(self) -> None:
        """Every hostile domain exists, so that each has a page of its own, and has where to meet the others."""
        self._must(Op.MKDIR, nul("/shared"))
        self._must(Op.SET_PERMS, nul("/shared", "b0"))
        self._listen()
        for domid in HOSTILE:
            self._make(domid)

    def _listen(self) -> None:
        for special in ("@introduceDomain", "@releaseDomain"):
            # With depth, the event names the domain (SPEC 1.5).
            self._must(Op.WATCH, nul(special, "t", 1) if self._own else nul(special, "t"))
            self._heard.expect(special, "t")
        self._heard.settle()

    def again(self) -> None:
        """On a new connection, since the daemon has crashed: of a client's sockets it knows nothing."""
        self.close()
        self._peer = Peer(self._host.socket)
        self._heard = Heard(self._peer, "toolstack", exact=self._own)
        self._listen()

    def act(self) -> None:
        """Perhaps one thing to one of them; returns when the daemon has said all that is due."""
        now = time.monotonic()
        if now > self._period:
            self._period = now + PERIOD_S
            self._pause_s = self._chance.choice(PAUSES_S)
        elif now < self._pause:
            return
        self._pause = now + self._pause_s
        domid = self._chance.choice(HOSTILE)
        if self._guests.state(domid) == 0:
            self._make(domid)
        elif domid not in self._introduced:
            self._chance.choice((self._introduce, self._introduce, self._fault, self._kill))(domid)
        else:
            say = (self._introduce, self._introduce, self._introduce, self._introduce, self._move, self._fault,
                   self._release, self._shut_down, self._resume, self._target, self._account, self._limit, self._trace,
                   self._visit, self._kill, self._kill)  # fmt: skip
            self._chance.choice(say)(domid)
        self._heard.settle()
        self._guests.events()

    def end(self) -> None:
        """All of them die."""
        for domid in HOSTILE:
            if self._guests.state(domid):
                self._kill(domid)
        self._heard.settle()

    def fill(self, directory: str, nodes: int) -> None:
        """So many nodes."""
        for start in range(0, nodes, 100):
            asked = [self._peer.send(Op.MKDIR, nul(f"{directory}/{start + i}")) for i in range(100)]
            for req_id in asked:
                self._peer.reply(req_id, PATIENCE_S)

    # -- asking

    def ask(self, op: int, payload: bytes) -> bytes | str:
        """A payload, or an error's word."""
        try:
            reply = self._peer.call(op, payload)
        except TimeoutError as error:
            raise Wrong(f"toolstack: no answer to {op} {payload!r}") from error
        return reply.payload if reply.error is None else reply.error

    def _must(self, op: int, payload: bytes, *answers: bytes | str) -> bytes | str:
        answer = self.ask(op, payload)
        if answer not in (answers or (OK,)):
            raise Wrong(f"toolstack: {op} {payload!r} was answered {answer!r}")
        return answer

    def _told(self, special: str, domid: int) -> None:
        self._heard.expect(f"{special}/{domid}" if self._own else special, "t")
        self._heard.settle()

    # -- what happens to a domain

    def _make(self, domid: int) -> None:
        self.done["create"] += 1
        self._port[domid] = 2
        self._guests.create(domid, 2)
        home = f"/local/domain/{domid}"
        self._must(Op.MKDIR, nul(home))
        self._must(Op.SET_PERMS, nul(home, f"n{domid}"))
        self._chance.choice((self._introduce, self._introduce, self._fault))(domid)

    def _introduce(self, domid: int) -> None:
        if self._chance.randrange(4):
            self._guests.ring(domid).cast("I")[PORT] = 0
        answer = self.ask(Op.INTRODUCE, nul(domid, 1, self._port[domid]))
        self.done[f"introduce {answer if isinstance(answer, str) else 'OK'}"] += 1
        if domid in self._introduced:
            return
        if answer == OK:
            self._introduced.add(domid)
            self._told("@introduceDomain", domid)
        self._must(Op.IS_DOMAIN_INTRODUCED, nul(domid), b"T\0" if answer == OK else b"F\0")

    def _move(self, domid: int) -> None:
        """A soft reset: another port."""
        self._port[domid] += 1
        self._guests.offer(domid, self._port[domid])
        self._introduce(domid)

    def _fault(self, domid: int) -> None:
        what, error = self._chance.choice((("map", ENOMEM), ("map", EINVAL), ("bind", ENOSPC)))
        self._guests.fail(what, 1, error)
        self._introduce(domid)
        self._guests.fail(what, 0, 0)

    def _visit(self, _: int) -> None:
        """Whoever was introduced may speak the moment that the toolstack knows."""
        self.done["visit"] += 1
        self._guests.create(VISITOR, 2)
        self._must(Op.INTRODUCE, nul(VISITOR, 1, 2))
        try:
            answer = RingPeer(self._guests, VISITOR).call(Op.READ, nul("no"))
        except TimeoutError as error:
            raise Wrong("visitor: no answer") from error
        if answer.error != "EACCES":
            raise Wrong(f"visitor: answered {answer!r}")
        self._told("@introduceDomain", VISITOR)
        self._introduced.add(VISITOR)
        self._kill(VISITOR)

    def _release(self, domid: int) -> None:
        self.done["release"] += 1
        self._must(Op.RELEASE, nul(domid))
        self._introduced.remove(domid)
        self._shut.discard(domid)
        self._told("@releaseDomain", domid)
        self._must(Op.IS_DOMAIN_INTRODUCED, nul(domid), b"F\0")
        if self._guests.mapped(domid):
            raise Wrong(f"toolstack: domain {domid} was released and its page is still mapped")
        self._kill(domid)  # what a daemon thinks of a released domain that lives on is none of this test's business

    def _shut_down(self, domid: int) -> None:
        if domid not in self._shut:
            self.done["shutdown"] += 1
            self._guests.shutdown(domid)
            self._shut.add(domid)
            self._told("@releaseDomain", domid)

    def _resume(self, domid: int) -> None:
        """Of one that did not shut down: nothing happens."""
        if domid not in self._shut:
            self.done["resume"] += 1
            self._must(Op.RESUME, nul(domid))

    def _target(self, domid: int) -> None:
        if self._own:
            self.done["target"] += 1
            self._must(Op.SET_TARGET, nul(domid, self._chance.choice(HOSTILE)), OK, "ENOENT")

    def _account(self, domid: int) -> None:
        """No quota is exceeded (XSA-326)."""
        if not self._own:
            return
        self.done["account"] += 1
        answer = self.ask(Op.CONTROL, nul("quota", domid))
        assert isinstance(answer, bytes), answer
        now = {line.split()[0]: int(line.split(":")[1].split()[0]) for line in answer[:-1].decode().splitlines()[1:]}
        over = {name: now[name] for name, limit in LIMITS.items() if now[name] > limit}
        if over:
            raise Wrong(f"domain {domid}: {over}")

    def _limit(self, domid: int) -> None:
        self.done["limit"] += 1
        name = self._chance.choice(tuple(LIMITS))
        self.ask(
            Op.SET_QUOTA, nul(domid, name, self._chance.choice((1, LIMITS[name] // 10, LIMITS[name], LIMITS[name])))
        )

    def _trace(self, _: int) -> None:
        """What the hostile ones say goes into a file, too."""
        self.done["trace"] += 1
        file = self._host.folder / "trace"
        self._must(Op.CONTROL, nul("logfile", str(file)), OK)
        self.ask(Op.READ, nul("/shared"))
        self._must(Op.CONTROL, nul("log", "off"), OK)
        file.unlink(missing_ok=True)

    def _kill(self, domid: int) -> None:
        """It is told once, whatever the guest did before, and the page is let go (XSA-325)."""
        self.done["kill"] += 1
        if self._chance.randrange(3) == 0:
            self._guests.dying(domid)
        self._guests.kill(domid)
        if domid in self._introduced:
            self._introduced.remove(domid)
            self._shut.discard(domid)
            self._told("@releaseDomain", domid)
        until(lambda: self._guests.state(domid) == 0, f"domain {domid} is a zombie: its page is still mapped")
        # Who was never introduced dies untold: the answer says that the daemon has seen it.
        self._must(Op.IS_DOMAIN_INTRODUCED, nul(domid), b"F\0")


def until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise Wrong(otherwise)
        time.sleep(0.001)
