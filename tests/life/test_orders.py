"""A domain dies, the next one gets its number, and the news of it come in every order that Xen permits.

Nothing is left to chance: all interleavings of what the hypervisor does (dying, dead, gone, made anew), of what the
toolstack says (RELEASE, rights for the number, a new home, INTRODUCE) and of the daemon's looks at VIRQ_DOM_EXC.
What Xen does not permit: as long as somebody maps a page of a dead domain it is not gone, and its number not free.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Final

import pytest

from tests.conversations.speak import OK, Voice, nul
from tests.life.scene import NEW, OLD, PORT, Inside, inside
from tests.support.ring import FEATURES, RingPeer
from tests.support.wire import Op

Order = tuple[str, ...]

INTRODUCE, RELEASE = "@introduceDomain", "@releaseDomain"
HOME: Final = "/local/domain/5"

KNOWN: Final = ("introduced", "prepared", "unknown")
"""What the store knows of the domain that will die: all, what a toolstack wrote for it, nothing."""


def inserted(order: Order, step: str, before: str) -> Iterator[Order]:
    """With and without one more step, at every place before another."""
    yield order
    for place in range(order.index(before) + 1):
        yield (*order[:place], step, *order[place:])


def with_looks(order: Order) -> Iterator[Order]:
    """The daemon looks, or does not, after every step from the death on (what is before is no news), and in the end."""
    dead = order.index("dead")
    for looks in product((("look",), ()), repeat=len(order) - dead - 1):
        after = zip(order[dead:], (*looks, ("look",)), strict=True)
        yield (*order[:dead], *(step for pair in after for step in (pair[0], *pair[1])))


def permitted(order: Order, known: str) -> bool:
    """The number is free once nobody maps the page: the daemon saw the death, let go at a RELEASE, or ended."""
    dying, dead, born = (order.index(step) for step in ("dying", "dead", "born"))
    seen = "look" in order[dead:born] or "released" in order[:born]
    return known != "introduced" or seen or "restart" in order[dying:born]  # the dying cannot be mapped anew


def orders(known: str, backend: bool) -> Iterator[Order]:
    """Every order of a death and of the next domain's first steps."""
    spine = ("dying", "dead", *(("gone",) if backend else ()), "born", "prepared", "introduced")
    for some in inserted(spine, "released", "introduced"):
        for more in inserted(some, "named", "born"):
            yield from (order for order in with_looks(more) if permitted(order, known))


class Story:
    """Domain 5 dies and another one gets its number; domain 6, a guest, and domain 0 live on."""

    def __init__(self, scene: Inside, witness: Voice, friend: Voice, known: str, backend: bool) -> None:
        self.scene, self.guests, self.dom0 = scene, scene.guests, scene.dom0
        self.witness, self.friend, self.known = witness, friend, known
        self.told: list[str] = []
        self.gift: list[str] | str = "ENOENT"
        self.late = ["n0"]
        self.living = known == "introduced"
        self.guests.create(5, PORT)
        if known != "unknown":
            scene.home(5)
            assert self.dom0.write(f"{HOME}/old", b"1") == OK
            assert self.dom0.chmod("/secret", "n0", "b5") == OK
            assert self.friend.chmod("private", "n6", "b5") == OK
            assert self.dom0.ask(Op.SET_QUOTA, nul(5, "watches", 7)) == OK
        if known == "introduced":
            old = scene.introduce(5)
            assert self.dom0.ask(Op.SET_TARGET, nul(5, 6)) == OK
            assert old.read("/secret") == b"1"
            assert old.read("/local/domain/6") == b"", "as its stub domain"
            assert old.watch("/public", "t") == OK
            assert old.write("mine", b"1") == OK
            assert old.write("mine", b"2", old.start()) == OK
        self.let_go = scene.hold(5) if backend else None
        self.hear()
        self.told.clear()

    def hear(self) -> None:
        self.told += [path for path, _ in self.witness.events()]

    def go(self, order: Order) -> None:
        for step in order:
            getattr(self, step)()
            self.hear()

    # -- what happens ------------------------------
    def dying(self) -> None:
        self.guests.dying(5)

    def dead(self) -> None:
        self.guests.kill(5, virq=False)

    def gone(self) -> None:
        assert self.let_go is not None
        self.let_go()

    def born(self) -> None:
        self.guests.create(5, PORT + 1)

    def look(self) -> None:
        self.guests.virq()
        self.scene.look()

    def restart(self) -> None:
        self.scene.restart()

    # -- what the toolstack says ------------------------------
    def released(self) -> None:
        """It may do so at any time; the answer says whether there was anything to release."""
        assert self.dom0.ask(Op.RELEASE, nul(5)) == ("ENOENT" if RELEASE in self.told or not self.living else OK)

    def named(self) -> None:
        """Rights and a gift for whoever has the number now, or for nobody."""
        assert self.dom0.chmod("/late", "n0", "b5") == OK
        assert self.dom0.write("/gift", b"1") == OK
        answer = self.dom0.chmod("/gift", "n5")
        assert answer in (OK, "ENOENT")
        if answer == "ENOENT":  # there is nobody: the entry means nobody for ever (SPEC 3.6)
            self.gift, self.late = ["n0"], ["n0", "b5"]

    def prepared(self) -> None:
        assert self.dom0.mkdir(HOME) == OK  # so that there is something to remove
        assert self.dom0.rm(HOME) == OK
        self.scene.home(5)
        assert self.dom0.write(f"{HOME}/name", b"five") == OK
        assert self.dom0.chmod("/given", "n0", "r5") == OK
        assert self.dom0.ask(Op.SET_QUOTA, nul(5, "watches", 3)) == OK
        assert self.dom0.ask(Op.SET_FEATURE, nul(5, 6)) == OK

    def introduced(self) -> None:
        self.new = self.scene.introduce(5, PORT + 1)

    # -- how it ends ------------------------------
    def right(self) -> None:
        """The dead has left nothing, and the new domain has all that it was given."""
        once = [RELEASE, f"{RELEASE}/5"] if self.living else []
        assert [path for path in self.told if path[0] == "@"] == [*once, INTRODUCE, f"{INTRODUCE}/5"]
        new, dom0 = self.new, self.dom0
        assert isinstance(new.peer, RingPeer)
        # What is the old one's is nobody's.
        for path in ("/secret", "/late", "/local/domain/6/private", "/local/domain/6"):
            assert new.read(path) == "EACCES", path
            assert new.write(path) == "EACCES", path
        assert new.read("old") == "ENOENT"
        assert new.read("mine") == "ENOENT"
        assert new.commit(1) == "ENOENT"
        assert dom0.perms("/secret") == ["n0"]
        assert dom0.perms("/late") == self.late
        assert self.friend.perms("private") == ["n6"]
        assert dom0.perms("/gift") == self.gift
        assert dom0.write("/public", b"2") == OK
        assert new.events() == []
        # What is the new one's is whole.
        assert new.read("/given") == b"1"
        assert dom0.perms("/given") == ["n0", "r5"]
        assert new.ls(HOME) == ["name"]
        assert new.read("name") == b"five"
        assert new.perms("name") == ["n5"]
        assert new.peer.words[FEATURES] == 6
        assert dom0.ask(Op.GET_QUOTA, nul(5, "watches")) == b"3\0"
        now = {name: count for name, (count, _) in self.scene.engine.accounts(5).items()}
        assert (now["nodes"], now["watches"], now["transactions"]) == (2, 0, 0)
        assert new.watch("name", "t") == OK
        assert new.start() == 1

    def end(self) -> None:
        """Everything as it was before."""
        self.guests.kill(5)
        self.look()
        assert self.guests.state(5) == 0
        assert self.dom0.rm("/gift") == OK
        for path in ("/secret", "/late", "/given"):
            assert self.dom0.chmod(path, "n0") == OK
        assert self.friend.chmod("private", "n6") == OK


class Onlookers:
    """Transactions of others that are open all the time, each with its own reason to care."""

    def __init__(self, story: Story) -> None:
        self.dom0, self.friend, self.story = story.dom0, story.friend, story
        self.reader = self.dom0.start()
        self.dom0.read(f"{HOME}/old", self.reader)
        self.giver = self.dom0.start()
        assert self.dom0.write("/tx", b"1", self.giver) == OK
        assert self.dom0.chmod("/tx", "n5", tx=self.giver) == OK
        self.helper = self.dom0.start()
        assert self.dom0.write("/tx", b"1", self.helper) == OK
        assert self.dom0.chmod("/tx", "n0", "r5", tx=self.helper) == OK
        self.sharer = self.friend.start()
        assert self.friend.write("tx", b"1", self.sharer) == OK
        assert self.friend.chmod("tx", "n6", "b5", tx=self.sharer) == OK
        self.other = self.dom0.start()
        assert self.dom0.write("/other", b"1", self.other) == OK

    def right(self) -> None:
        """Who read or named the old domain did not mean the new one."""
        was_there = self.story.known != "unknown"
        assert self.dom0.commit(self.reader) == ("EAGAIN" if was_there else OK)
        assert self.dom0.commit(self.giver) == "EAGAIN"
        assert self.dom0.commit(self.helper) == "EAGAIN"
        assert self.friend.commit(self.sharer) == "EAGAIN"
        assert self.dom0.commit(self.other) == OK
        assert self.dom0.rm("/other") == OK


@pytest.mark.parametrize(
    ("backend", "onlookers"), [(False, False), (True, False), (False, True)], ids=["", "backend", "onlookers"]
)
@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("xen", [NEW, OLD])
def test_a_number_is_used_again(folder: Path, xen: str, known: str, backend: bool, onlookers: bool) -> None:
    with inside(folder, xen) as scene:
        friend = scene.guest(6)
        assert friend.write("private", b"1") == OK
        for path in ("/secret", "/late", "/given", "/public"):
            assert scene.dom0.write(path, b"1") == OK
        witness = listener(scene, 5)
        before = scene.engine.counters()
        for order in orders(known, backend):
            try:
                story = Story(scene, witness, friend, known, backend)
                others = Onlookers(story) if onlookers else None
                story.go(order)
                story.right()
                if others is not None:
                    others.right()
                story.end()
            except Exception as failure:
                raise AssertionError(" ".join(order)) from failure
        unchanged(scene, before)


# -- and the daemon begins anew meanwhile --------------------------------------------------------------


def restarts(known: str) -> Iterator[Order]:
    """The same orders, looks at the end only, with another daemon taking over at any moment."""
    spine = ("dying", "dead", "born", "prepared", "introduced")
    for some in inserted(spine, "released", "introduced"):
        for more in inserted(some, "named", "born"):
            for place in range(len(more) + 1):
                order = (*more[:place], "restart", *more[place:], "look")
                if permitted(order, known):
                    yield order


@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("xen", [NEW, OLD])
def test_a_number_is_used_again_over_a_restart(folder: Path, xen: str, known: str) -> None:
    """What the image says of a domain holds for that domain only; who watches hears of the death once, all the same."""
    with inside(folder, xen, durable=True) as scene:
        friend = scene.guest(6)
        assert friend.write("private", b"1") == OK
        for path in ("/secret", "/late", "/given", "/public"):
            assert scene.dom0.write(path, b"1") == OK
        assert scene.dom0.chmod(INTRODUCE, "n0", "r6") == OK
        for name in (INTRODUCE, RELEASE):
            friend.quietly_watch(name, "plain")
            friend.quietly_watch(f"{name}/5", "alone")
        before = scene.engine.counters()
        for order in restarts(known):
            try:
                story = Story(scene, friend, friend, known, backend=False)
                story.go(order)
                story.right()
                story.end()
                friend.events()
            except Exception as failure:
                raise AssertionError(" ".join(order)) from failure
        unchanged(scene, before)


def listener(scene: Inside, *domids: int) -> Voice:
    """A tool that hears of these domains' lives."""
    witness = scene.tool()
    for name in (INTRODUCE, RELEASE):
        witness.quietly_watch(name, "plain")
        for domid in domids:
            witness.quietly_watch(f"{name}/{domid}", "alone")
    return witness


def unchanged(scene: Inside, before: dict[str, int]) -> None:
    """Nothing is kept of all those who died."""
    after = scene.engine.counters()
    for name in ("nodes", "watches", "connections", "domains", "held"):
        assert after[name] == before[name], name


# -- a stub domain and its target ------------------------------------------------------------------


def pair_orders(dead: tuple[int, ...]) -> Iterator[tuple[tuple[str, int], ...]]:
    """Each of `dead` dies and its number is used again, in all interleavings with each other and with looks."""
    steps = [[("die", domid), ("live", domid)] for domid in dead]
    for order in interleaved(*steps):
        for looks in product((True, False), repeat=len(order)):
            found: list[tuple[str, int]] = []
            for step, look in zip(order, looks, strict=True):
                found += [step, ("look", 0)] if look else [step]
            if all(("look", 0) in found[found.index(("die", d)) : found.index(("live", d))] for d in dead):
                yield tuple(found)


def interleaved(*lines: list[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    """All ways to do these lines of steps, each in its order."""
    if not any(lines):
        yield []
    for place, line in enumerate(lines):
        if line:
            rest = (*lines[:place], line[1:], *lines[place + 1 :])
            yield from ([line[0], *more] for more in interleaved(*rest))


@pytest.mark.parametrize("dead", [(5,), (6,), (5, 6)], ids=["the target", "the stub domain", "both"])
@pytest.mark.parametrize("xen", [NEW, OLD])
def test_a_target_is_a_target_for_life(folder: Path, xen: str, dead: tuple[int, ...]) -> None:
    """6 acts for 5.  Whoever gets one of their numbers has nothing to do with the other (XSA-233)."""
    with inside(folder, xen) as scene:
        witness = listener(scene, 5, 6)
        assert scene.dom0.mkdir("/local/domain") == OK
        before = scene.engine.counters()
        for order in pair_orders(dead):
            voices = {domid: scene.guest(domid) for domid in (5, 6)}
            assert scene.dom0.ask(Op.SET_TARGET, nul(6, 5)) == OK
            assert voices[6].read("/local/domain/5") == b""
            assert voices[5].read("/local/domain/6") == "EACCES"
            assert witness.events()
            for step, domid in order:
                if step == "die":
                    scene.guests.kill(domid, virq=False)
                elif step == "live":
                    voices[domid] = scene.guest(domid)
                else:
                    scene.guests.virq()
                    scene.look()
            told = [path for path, _ in witness.events()]
            for domid in (5, 6):
                assert told.count(f"{RELEASE}/{domid}") == told.count(f"{INTRODUCE}/{domid}") == dead.count(domid), (
                    order
                )
            assert voices[6].read("/local/domain/5") == "EACCES", order
            assert voices[5].read("/local/domain/6") == "EACCES", order
            assert scene.dom0.ask(Op.SET_TARGET, nul(5, 6)) == OK
            assert voices[5].read("/local/domain/6") == b"", order
            for domid in (5, 6):
                scene.guests.kill(domid)
            scene.look()
            assert witness.events()
        unchanged(scene, before)
