"""The life of domains as a small model: what the hypervisor has, and what a daemon may know of it at each moment.

Owns the hypervisor's side (who was made, dies, is kept by whom) and, over `tests.stateful.model`, when the store learns
of it: by VIRQ_DOM_EXC, by a RELEASE, and by itself, whenever somebody names a domain whose page it does not map.
Refuses to know of rings, event channels and bytes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from tests.stateful.model import (
    Asked,
    Connection,
    Domain,
    Model,
    Perm,
    RefusedError,
    View,
    Who,
    atoi,
    domid_of,
    one,
    perm_of,
    strings,
)
from tests.support.wire import Op


@dataclass(eq=False)
class Creature:
    """A domain as the hypervisor has it."""

    port: int
    shutdown: bool = False
    dying: bool = False
    dead: bool = False
    backends: int = 0
    """How often others than the daemon map its page: until nobody does, its number is not free."""


@dataclass(eq=False)
class Met:
    """Which creature a domain of the store is, and how often the store had met one before."""

    creature: Creature
    serial: int
    shutdown: bool = False
    mapped: bool = False
    """By the daemon: then its number cannot become another's unseen."""


class Life(Model):
    """The store on a hypervisor.  `news`: a VIRQ was raised, so that the daemon's next turn is a look."""

    def __init__(self) -> None:
        super().__init__()
        self.creatures: dict[int, Creature] = {}
        self.met: dict[int, Met] = {}
        self.serials = itertools.count(1)
        self.changed: set[int] = set()
        self.news = False
        self.replaying = False

    # -- the hypervisor ----------------------------------------------------------------------------
    def create(self, domid: int, port: int) -> None:
        self.creatures[domid] = Creature(port)
        self.changed.add(domid)

    def offer(self, domid: int, port: int) -> None:
        self.creatures[domid].port = port

    def shut(self, domid: int) -> None:
        self.creatures[domid].shutdown = True
        self.changed.add(domid)

    def dies(self, domid: int) -> None:
        self.creatures[domid].dying = True

    def kill(self, domid: int) -> None:
        creature = self.creatures[domid]
        creature.dying = creature.dead = True
        self.changed.add(domid)
        self.bury(domid)

    def let_go(self, domid: int) -> None:
        self.creatures[domid].backends -= 1
        self.news |= self.bury(domid)

    def mapped(self, domid: int) -> bool:
        return domid in self.met and self.met[domid].mapped

    def bury(self, domid: int) -> bool:
        """Whether the dead is gone: nobody maps a page of it."""
        creature = self.creatures.get(domid)
        if creature is None or not creature.dead or creature.backends or self.mapped(domid):
            return False
        del self.creatures[domid]
        self.changed.add(domid)
        return True

    # -- what the store learns ----------------------------------------------------------------------
    def look(self) -> None:
        """VIRQ_DOM_EXC: who changed?"""
        self.news = due = False
        for domid in sorted(self.changed):
            if domid in self.met:
                due |= self.look_at(domid)
        self.changed.clear()
        if due:
            self.special("@releaseDomain", None)

    def look_at(self, domid: int) -> bool:
        """Whether the plain event of a shutdown is due."""
        met, creature = self.met[domid], self.creatures.get(domid)
        if creature is not met.creature or creature.dead:
            self.vanish(domid)
        elif creature.shutdown and not met.shutdown and self.domains[domid].introduced:
            met.shutdown = True
            self.special("@releaseDomain", domid)
            return True
        return False

    def meet(self, domid: int) -> None:
        """Somebody names a domain: is it still the one that is known?"""
        if domid == 0 or (domid in self.met and (self.replaying or self.mapped(domid))):
            return
        self.ask_for(domid)

    def ask_for(self, domid: int) -> None:
        creature = self.creatures.get(domid)
        there = creature is not None and not creature.dead
        if domid in self.met and (not there or self.met[domid].creature is not creature):
            self.vanish(domid)
        if creature is not None and there and domid not in self.met:
            self.domains[domid] = Domain(dict(self.quotas))
            self.met[domid] = Met(creature, next(self.serials))

    def vanish(self, domid: int) -> None:
        del self.met[domid]
        super().vanish(domid)
        self.news |= self.bury(domid)

    def restart(self) -> None:
        """Another daemon, which maps whoever is not being torn down, and looks at all."""
        for met in self.met.values():
            met.mapped = False
        for domid in list(self.creatures):
            self.bury(domid)
        for domid in sorted(self.met):
            creature = self.creatures.get(domid)
            if creature is not self.met[domid].creature or creature.dead:
                self.vanish(domid)
            else:
                self.met[domid].mapped = self.domains[domid].introduced and not creature.dying
        self.changed = set(self.met)
        self.look()

    # -- requests that name domains -------------------------------------------------------------------
    def checked(self, who: Who, perm: Perm) -> Perm:
        self.meet(perm.domid)
        return super().checked(who, perm)

    def answer(self, conn: Connection, op: int, payload: bytes, tx_id: int) -> bytes:
        """Who is named is met before anything is looked at: that may be what shows that somebody died."""
        if op == Op.SET_PERMS:
            for text in strings(payload)[1:]:
                self.meet(perm_of(text).domid)
        return super().answer(conn, op, payload, tx_id)

    def existing(self, text: str) -> Domain:
        self.meet(domid_of(text))
        return super().existing(text)

    def known(self, text: str) -> Domain:
        """As RELEASE, RESUME and SET_TARGET see it: nobody is asked."""
        domain = self.domains.get(domid_of(text))
        if domain is None or not domain.introduced:
            raise RefusedError("ENOENT")
        return domain

    def introduce(self, conn: Connection, payload: bytes, tx_id: int) -> bytes:
        given = strings(payload)
        domid, port = domid_of(given[0]), atoi(given[2])
        self.ask_for(domid)
        domain = self.domains.get(domid)
        if domain is None:
            raise RefusedError("EINVAL")
        first = not domain.introduced
        if first:
            creature = self.met[domid].creature
            if creature.dying or creature.port != port:
                raise RefusedError("EINVAL")
            self.connections.append(Connection(domid))
            self.met[domid].mapped = True
        super().introduce(conn, payload, tx_id)
        if first and self.look_at(domid):  # it shut down before anybody knew it
            self.special("@releaseDomain", None)
        return b"OK\0"

    def release(self, _conn: Connection, payload: bytes, _tx_id: int) -> bytes:
        self.known(one(payload))
        self.vanish(domid_of(one(payload)))
        return b"OK\0"

    def resume(self, conn: Connection, payload: bytes, tx_id: int) -> bytes:
        answer = super().resume(conn, payload, tx_id)
        self.met[domid_of(one(payload))].shutdown = False
        return answer

    # -- transactions -----------------------------------------------------------------------------------
    def replay(self, log: list[Asked], domid: int) -> tuple[View, list[bytes | str]]:
        self.replaying = True
        try:
            return super().replay(log, domid)
        finally:
            self.replaying = False

    def ask(self, view: View, op: Op, payload: bytes) -> Asked:
        """SET_PERMS depends on whom it named, not only on the number."""
        asked = super().ask(view, op, payload)
        if op == Op.SET_PERMS and asked.answer == b"OK\0":
            named = (perm_of(text).domid for text in strings(payload)[1:])
            serials = {str(domid): self.met[domid].serial for domid in named if domid in self.met}
            asked = view.log[-1] = asked._replace(removed=serials)
        return asked
