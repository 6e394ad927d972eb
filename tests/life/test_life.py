"""The life of domains, from dom0's own kernel to the last event of a death: who is told what, in which order.

Each conversation is held with the core in this process and with fastxsd in a process of its own.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from fastxs.hypervisor.host import Host, HostError
from fastxs.hypervisor.simxen.guests import DEAD, Guests
from tests.conversations.speak import OK, Voice, nul
from tests.life.conftest import Begin
from tests.life.scene import NEW, OLD, PORT, Scene, inside, outside
from tests.support.ring import CONNECTION, ERROR, FEATURES, INDEX, REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, RingPeer
from tests.support.ring import PORT as PAGE_PORT
from tests.support.wire import Op, pack

INTRODUCE, RELEASE = "@introduceDomain", "@releaseDomain"


def ring(voice: Voice) -> RingPeer:
    """What carries a guest's voice."""
    assert isinstance(voice.peer, RingPeer)
    return voice.peer


def listen(voice: Voice, name: str, domid: int | None = None) -> None:
    """Watch a special in every form there is: plain, with depths, and for one domain alone."""
    voice.quietly_watch(name, "plain")
    voice.quietly_watch(name, "depth 0", 0)
    voice.quietly_watch(name, "depth 1", 1)
    voice.quietly_watch(name, "depth 5", 5)
    if domid is not None:
        voice.quietly_watch(f"{name}/{domid}", "alone")


def before_the_reply(voice: Voice, op: Op, payload: bytes) -> list[tuple[str, str]]:
    """What a request that succeeds tells its own sender before it is answered."""
    voice.events()
    voice.peer.send(op, payload)
    found = []
    while (message := voice.peer.recv()).op == Op.WATCH_EVENT:
        path, token = message.strings
        found.append((path.decode(), token.decode()))
    assert (message.op, message.payload) == (op, OK)
    return found


# -- domain 0's own ring ---------------------------------------------------------------------------


def test_domain_0s_kernel_is_woken_by_one_notify(begin: Begin) -> None:
    """Its first interrupt is what tells the kernel that there is a store; without it all of domain 0 waits."""
    scene = begin(lambda guests: guests.adopt(0))
    assert scene.guests.events() == [0]
    assert scene.guests.count("notify") == 1
    assert scene.introduced(0)


def test_domain_0s_kernel_is_privileged_and_at_home(begin: Begin) -> None:
    scene = begin(lambda guests: guests.adopt(0))
    kernel = scene.voice(0)
    assert kernel.write("x", b"1") == OK
    assert scene.dom0.read("/local/domain/0/x") == b"1"
    assert kernel.perms("/tool") == ["n0"]
    kernel.quietly_watch(INTRODUCE, "k")
    scene.guest(5)
    assert kernel.events() == [(INTRODUCE, "k")]


# -- INTRODUCE --------------------------------------------------------------------------------------


def test_an_introduced_domain_is_served(scene: Scene) -> None:
    scene.guests.create(5, PORT)
    scene.guests.ring(5).cast("I")[CONNECTION] = 1
    guest = scene.introduce(5)
    words = ring(guest).words
    assert words[REQ_CONS] == words[REQ_PROD] == words[RSP_CONS] == words[RSP_PROD] == words[ERROR] == 0
    assert words[CONNECTION] == 0, "a guest that was there before any toolstack waits for that"
    assert scene.dom0.ask(Op.GET_FEATURE, nul(5)) == nul(words[FEATURES])
    assert 5 in scene.guests.events(), "and is woken"
    assert guest.read("/") == "EACCES"
    assert scene.guests.mapped(5) == 1


def test_what_the_guest_said_before_it_was_introduced_is_void(scene: Scene) -> None:
    """INTRODUCE begins a ring at 0, whatever stands there (SPEC 2.1)."""
    scene.guests.create(5, PORT)
    early = scene.voice(5)
    assert ring(early).put(pack(Op.READ, nul("/"), 1)) == 18
    guest = scene.introduce(5)
    assert ring(guest).waiting() == 0
    assert guest.ask(Op.GET_DOMAIN_PATH, nul(5)) == nul("/local/domain/5")


def test_the_first_introduction_is_told_before_it_is_answered(scene: Scene) -> None:
    scene.guests.create(5, PORT)
    listen(scene.dom0, INTRODUCE, 5)
    assert before_the_reply(scene.dom0, Op.INTRODUCE, nul(5, 1, PORT)) == [
        (INTRODUCE, "plain"),
        (f"{INTRODUCE}/5", "depth 1"),
        (f"{INTRODUCE}/5", "depth 5"),
        (f"{INTRODUCE}/5", "alone"),
    ]
    assert scene.dom0.events() == []


def test_guests_hear_of_introductions_only_if_they_may(scene: Scene) -> None:
    bystander, friend = scene.guest(6), scene.guest(7)
    assert scene.dom0.chmod(INTRODUCE, "n0", "r7") == OK
    bystander.quietly_watch(INTRODUCE, "t")
    friend.quietly_watch(INTRODUCE, "t")
    scene.guest(5)
    assert bystander.events() == []
    assert friend.events() == [(INTRODUCE, "t")]


def test_a_second_introduction_is_told_to_nobody(scene: Scene) -> None:
    """A soft reset: the guest begins anew on another port, what it owns stays."""
    guest = scene.guest(5)
    assert guest.write("x", b"1") == OK
    assert scene.dom0.write("/mine", b"2") == OK
    assert scene.dom0.chmod("/mine", "n0", "r5") == OK
    guest.quietly_watch("x", "t")
    tx = guest.start()
    ring(guest).put(pack(Op.READ, nul("x"), 9)[:17])
    ring(guest).notify()
    scene.look()
    listen(scene.dom0, INTRODUCE, 5)
    listen(scene.dom0, RELEASE, 5)

    scene.guests.offer(5, 7)
    again = scene.introduce(5, port=7)
    assert scene.dom0.events() == []
    assert again.read("x") == b"1", "and half a request from before is forgotten"
    assert again.read("/mine") == b"2"
    assert again.commit(tx) == "ENOENT"
    assert scene.dom0.write("/local/domain/5/x", b"3") == OK
    assert again.events() == []
    assert scene.guests.mapped(5) == 1


def test_a_second_introduction_with_the_same_port(scene: Scene) -> None:
    guest = scene.guest(5)
    assert guest.mkdir("x") == OK
    assert scene.introduce(5).ls("/local/domain/5") == ["x"]


def test_a_first_introduction_that_fails_leaves_nothing(scene: Scene) -> None:
    scene.guests.create(5, PORT)
    listen(scene.dom0, INTRODUCE)
    assert scene.dom0.ask(Op.INTRODUCE, nul(5, 1, PORT + 1)) == "EINVAL", "that port was not offered"
    scene.guests.fail("map", 1, 22)
    assert scene.dom0.ask(Op.INTRODUCE, nul(5, 1, PORT)) == "EINVAL"
    assert not scene.introduced(5)
    assert scene.guests.mapped(5) == 0
    assert scene.dom0.events() == []
    assert scene.introduce(5).read("/") == "EACCES"
    assert scene.dom0.events()[0] == (INTRODUCE, "plain")


def test_a_domain_that_does_not_exist_cannot_be_introduced(scene: Scene) -> None:
    assert scene.dom0.ask(Op.INTRODUCE, nul(5, 1, PORT)) == "EINVAL"
    assert not scene.introduced(5)


def test_numbers_that_no_domain_can_have(scene: Scene) -> None:
    """32752 and up are Xen's own: DOMID_SELF, DOMID_ANY and the like."""
    for domid in (32752, 32756, 32757, 32758, 32767, 40000, 65535, 65536):
        assert scene.dom0.ask(Op.INTRODUCE, nul(domid, 1, PORT)) == "EINVAL"
    assert not scene.introduced(32757)
    scene.guests.create(32751, PORT)
    assert scene.introduce(32751).read("/") == "EACCES"


def test_nobody_asks_the_hypervisor_of_them(scene: Scene) -> None:
    """To Xen some of them mean "any domain that has changed": asking would eat the news of a death (SPEC 2.4)."""
    assert scene.dom0.mkdir("/a") == OK
    before = scene.guests.count("getinfo")
    assert scene.dom0.chmod("/a", "n0", "r32752", "r32756", "r32757", "r40000") == OK
    assert scene.dom0.chmod("/a", "n32756") == "ENOENT"
    assert scene.guests.count("getinfo") == before


def test_introductions_inside_transactions_happen_at_once(scene: Scene) -> None:
    scene.guests.create(5, PORT)
    scene.dom0.quietly_watch(INTRODUCE, "t")
    tx = scene.dom0.start()
    assert scene.dom0.ask(Op.INTRODUCE, nul(5, 1, PORT), tx) == OK
    assert scene.introduced(5)
    assert scene.dom0.events() == [(INTRODUCE, "t")]
    assert scene.dom0.abort(tx) == OK
    assert scene.introduced(5)


# -- RELEASE ----------------------------------------------------------------------------------------


def test_released(scene: Scene) -> None:
    """The domain lives on, without the store: its page is unmapped and its port let go at once."""
    guest = scene.guest(5)
    assert guest.write("x", b"1") == OK
    guest.quietly_watch(RELEASE, "own")
    scene.dom0.quietly_watch("/local/domain", "nodes")
    listen(scene.dom0, RELEASE, 5)
    said = ring(guest).words[RSP_PROD]
    assert before_the_reply(scene.dom0, Op.RELEASE, nul(5)) == [
        ("/local/domain/5", "nodes"),
        (RELEASE, "plain"),
        (f"{RELEASE}/5", "depth 1"),
        (f"{RELEASE}/5", "depth 5"),
        (f"{RELEASE}/5", "alone"),
    ]
    assert scene.guests.mapped(5) == 0
    assert ring(guest).words[RSP_PROD] == said, "nobody is told of his own end"
    assert not scene.introduced(5)
    assert scene.dom0.ask(Op.RELEASE, nul(5)) == "ENOENT"
    assert scene.dom0.ls("/local/domain") == []
    # What the hypervisor has to say of it from now on is no news.
    scene.guests.shutdown(5)
    scene.look()
    scene.guests.kill(5)
    scene.look()
    assert scene.dom0.events() == []


def test_introduced_again_after_its_release(scene: Scene) -> None:
    first = scene.guest(5)
    assert first.write("x", b"1") == OK
    assert scene.dom0.ask(Op.RELEASE, nul(5)) == OK
    listen(scene.dom0, INTRODUCE)
    second = scene.introduce(5)
    assert [path for path, _ in scene.dom0.events()] == [INTRODUCE, f"{INTRODUCE}/5", f"{INTRODUCE}/5"]
    assert second.read("/local/domain/5/x") == "EACCES"
    scene.home(5)
    assert second.ls("/local/domain/5") == []


# -- shutdown and RESUME ----------------------------------------------------------------------------


def test_a_shutdown_is_told_once_until_it_is_resumed(scene: Scene) -> None:
    guest = scene.guest(5)
    listen(scene.dom0, RELEASE, 5)
    told = [
        (f"{RELEASE}/5", "depth 1"),
        (f"{RELEASE}/5", "depth 5"),
        (f"{RELEASE}/5", "alone"),
        (RELEASE, "plain"),
    ]
    scene.guests.shutdown(5)
    scene.look()
    assert scene.dom0.events() == told
    scene.guests.shutdown(5)
    scene.look()
    assert scene.dom0.events() == [], "that is known"
    assert scene.introduced(5)
    assert scene.dom0.ls("/local/domain") == ["5"]
    assert guest.ls("/local/domain/5") == [], "a domain that was shut down may be resumed: it keeps everything"

    assert scene.dom0.ask(Op.RESUME, nul(5)) == OK
    assert scene.dom0.events() == []
    scene.guests.shutdown(5)
    scene.look()
    assert scene.dom0.events() == told


def test_shutdowns_of_one_look(scene: Scene) -> None:
    """One plain event for all: whoever hears it looks at every domain anyway."""
    for domid in (5, 6, 7):
        scene.guest(domid)
    listen(scene.dom0, RELEASE)
    for domid in (7, 5):
        scene.guests.shutdown(domid, virq=False)
    scene.guests.shutdown(6)
    scene.look()
    told = scene.dom0.events()
    assert sorted(told[:-1]) == sorted((f"{RELEASE}/{d}", f"depth {n}") for d in (5, 6, 7) for n in (1, 5))
    assert told[-1] == (RELEASE, "plain")


def test_a_domain_that_shut_down_before_it_was_introduced(scene: Scene) -> None:
    """While nobody was told of its life its shutdown is no news; then both are, in their order."""
    scene.guests.create(5, PORT)
    scene.home(5)
    scene.dom0.quietly_watch(INTRODUCE, "t")
    scene.dom0.quietly_watch(RELEASE, "t")
    scene.dom0.quietly_watch(f"{RELEASE}/5", "t")
    scene.guests.shutdown(5)
    scene.look()
    assert scene.dom0.events() == []
    scene.introduce(5)
    assert scene.dom0.events() == [(INTRODUCE, "t"), (f"{RELEASE}/5", "t"), (RELEASE, "t")]
    scene.guests.shutdown(5)
    scene.look()
    assert scene.dom0.events() == []


# -- death ------------------------------------------------------------------------------------------


def test_a_death(scene: Scene) -> None:
    """Its nodes go first, each with an event, wherever they are; then the death is told."""
    guest, other = scene.guest(5), scene.guest(6)
    assert guest.write("x/y", b"1") == OK
    assert scene.dom0.mkdir("/shared") == OK
    assert scene.dom0.chmod("/shared", "b0") == OK
    assert guest.write("/shared/of-5") == OK
    assert other.write("/shared/of-6") == OK
    scene.dom0.quietly_watch("/", "nodes")
    scene.dom0.quietly_watch("/local/domain/5/x/y", "deep")
    listen(scene.dom0, RELEASE, 5)
    scene.guests.kill(5)
    scene.look()
    assert scene.dom0.events() == [
        ("/local/domain/5/x/y", "deep"),
        ("/local/domain/5", "nodes"),
        ("/shared/of-5", "nodes"),
        (RELEASE, "plain"),
        (f"{RELEASE}/5", "depth 1"),
        (f"{RELEASE}/5", "depth 5"),
        (f"{RELEASE}/5", "alone"),
    ]
    assert not scene.introduced(5)
    assert scene.dom0.ls("/local/domain") == ["6"]
    assert scene.dom0.ls("/shared") == ["of-6"]


def test_a_crash_and_then_the_end(scene: Scene) -> None:
    """To the hypervisor a crash is a shutdown; the toolstack tears down what is left of the domain."""
    scene.guest(5)
    listen(scene.dom0, RELEASE)
    scene.guests.shutdown(5)
    scene.look()
    assert [path for path, _ in scene.dom0.events()] == [f"{RELEASE}/5", f"{RELEASE}/5", RELEASE]
    scene.guests.kill(5)
    scene.look()
    assert [path for path, _ in scene.dom0.events()] == [RELEASE, f"{RELEASE}/5", f"{RELEASE}/5"]


def test_deaths_of_one_look(scene: Scene) -> None:
    for domid in (5, 6, 7):
        scene.guest(domid)
    scene.dom0.quietly_watch("/local/domain", "nodes")
    listen(scene.dom0, RELEASE)
    scene.guests.kill(6, virq=False)
    scene.guests.shutdown(7, virq=False)
    scene.guests.kill(5)
    scene.look()
    told = scene.dom0.events()
    for domid in (5, 6):
        at = told.index((f"/local/domain/{domid}", "nodes"))
        assert told[at + 1 : at + 4] == [
            (RELEASE, "plain"),
            (f"{RELEASE}/{domid}", "depth 1"),
            (f"{RELEASE}/{domid}", "depth 5"),
        ]
    assert [event for event in told if event[0] == f"{RELEASE}/7"] == [
        (f"{RELEASE}/7", "depth 1"),
        (f"{RELEASE}/7", "depth 5"),
    ]
    assert told[-1] == (RELEASE, "plain"), "the shutdown's, at the end of all"
    assert len(told) == 11


def test_guests_hear_of_deaths_unless_they_may_not(scene: Scene) -> None:
    """`@releaseDomain` is open to all by default (Xen 4.22)."""
    other = scene.guest(6)
    other.quietly_watch(RELEASE, "any")
    other.quietly_watch(f"{RELEASE}/5", "five")
    scene.guest(5)
    scene.guests.kill(5)
    scene.look()
    assert other.events() == [(RELEASE, "any"), (f"{RELEASE}/5", "five")]
    assert scene.dom0.chmod(RELEASE, "n0") == OK
    scene.guest(5)
    scene.guests.kill(5)
    scene.look()
    assert other.events() == []


def test_its_page_is_let_go_at_once(scene: Scene) -> None:
    """A page that stays mapped would keep the dead domain, with all its memory, a zombie (XSA-325)."""
    scene.guest(5)
    scene.guests.kill(5)
    scene.look()
    assert scene.guests.mapped(5) == 0
    assert scene.guests.state(5) == 0


def test_dying_is_not_dead(scene: Scene) -> None:
    """Tear-down may take long.  Until its end the domain is there, though its event channel is gone."""
    guest = scene.guest(5)
    assert guest.write("x", b"1") == OK
    listen(scene.dom0, RELEASE)
    scene.guests.dying(5)
    scene.look()
    assert scene.introduced(5)
    assert scene.dom0.read("/local/domain/5/x") == b"1"
    assert scene.dom0.events() == []
    scene.guests.kill(5)
    scene.look()
    assert scene.dom0.events()[0] == (RELEASE, "plain")
    assert scene.guests.state(5) == 0


def test_a_domain_that_somebody_else_keeps_is_dead_all_the_same(scene: Scene) -> None:
    """A backend that still maps a page of it makes it a zombie; the store takes its death for what it is."""
    scene.guest(5)
    let_go = scene.hold(5)
    listen(scene.dom0, RELEASE, 5)
    scene.guests.kill(5)
    scene.look()
    assert len(scene.dom0.events()) == 4
    assert scene.guests.state(5) & DEAD
    assert scene.guests.mapped(5) == 1, "by the backend"
    assert scene.dom0.ask(Op.INTRODUCE, nul(5, 1, PORT)) == "EINVAL", "the dead cannot be introduced"
    assert scene.dom0.write("/a", b"") == OK
    assert scene.dom0.chmod("/a", "n5") == "ENOENT", "nor do they own anything"
    let_go()
    scene.look()
    assert scene.dom0.events() == []
    assert scene.guests.state(5) == 0


def test_a_death_that_nobody_was_told_of_comes_with_the_next_news(scene: Scene) -> None:
    scene.guest(5)
    scene.guest(6)
    listen(scene.dom0, RELEASE)
    scene.guests.kill(5, virq=False)
    scene.look()
    assert scene.introduced(5)
    scene.guests.shutdown(6)
    scene.look()
    assert not scene.introduced(5)
    assert (RELEASE, "plain") in scene.dom0.events()


def test_news_that_the_event_channels_lost(scene: Scene) -> None:
    """The device's buffer ran over: nobody knows of whom the daemon was to hear, so it asks of all."""
    scene.guest(5)
    guest = scene.guest(6)
    listen(scene.dom0, RELEASE)
    scene.guests.fail("read", 1, errno.EFBIG)
    scene.guests.kill(5)
    scene.look()
    scene.look()
    assert not scene.introduced(5)
    assert scene.dom0.events()[0] == (RELEASE, "plain")
    assert guest.ls("/local/domain/6") == []
    scene.guests.kill(6)
    scene.look()
    assert scene.dom0.events()[0] == (RELEASE, "plain"), "and it hears what comes next"


def test_news_of_domains_that_nobody_knows(scene: Scene) -> None:
    listen(scene.dom0, RELEASE)
    for domid in (5, 300, 32751):
        scene.guests.create(domid, PORT)
        scene.guests.shutdown(domid)
        scene.guests.kill(domid)
    scene.look()
    assert scene.dom0.events() == []


def test_a_client_that_breaks_the_rules_still_dies_in_public(scene: Scene) -> None:
    """XSA-325: ignored, but known, until its real death; else nobody would tear it down."""
    guest = scene.guest(5)
    listen(scene.dom0, RELEASE, 5)
    ring(guest).words[REQ_PROD] = 5000
    ring(guest).notify()
    scene.look()
    assert ring(guest).words[ERROR] == INDEX
    assert scene.introduced(5)
    assert scene.dom0.events() == []
    scene.guests.kill(5)
    scene.look()
    assert len(scene.dom0.events()) == 4
    assert scene.guests.state(5) == 0


def test_a_domain_and_its_stubdomain_die_in_one_look(scene: Scene) -> None:
    """XSA-233, both ways round."""
    for stub, target in ((6, 5), (5, 6)):
        scene.guest(5)
        scene.guest(6)
        assert scene.dom0.ask(Op.SET_TARGET, nul(stub, target)) == OK
        scene.guests.kill(5, virq=False)
        scene.guests.kill(6)
        scene.look()
        assert scene.guests.state(5) == scene.guests.state(6) == 0
        scene.sound()


# -- the number is used again -----------------------------------------------------------------------


def test_nothing_of_the_dead_serves_the_next_domain_with_its_number(scene: Scene) -> None:
    first, other = scene.guest(5), scene.guest(6)
    assert scene.dom0.write("/secret", b"1") == OK
    assert scene.dom0.chmod("/secret", "n0", "b5", "r6") == OK
    assert other.write("x", b"2") == OK
    assert other.chmod("/local/domain/6/x", "n6", "b5") == OK
    assert scene.dom0.ask(Op.SET_TARGET, nul(5, 6)) == OK
    assert first.read("/secret") == b"1"
    assert first.read("/local/domain/6") == b"", "as its stub domain"
    assert first.write("x", b"3") == OK
    first.quietly_watch("/secret", "t")
    first.quietly_watch("@releaseDomain", "t")
    tx = first.start()
    assert scene.dom0.ask(Op.SET_QUOTA, nul(5, "watches", 2)) == OK

    scene.guests.kill(5)
    scene.look()
    assert scene.dom0.perms("/secret") == ["n0", "r6"]
    assert other.perms("/local/domain/6/x") == ["n6"]

    second = scene.guest(5)
    assert second.read("/secret") == "EACCES"
    assert second.read("/local/domain/6/x") == "EACCES"
    assert second.read("/local/domain/6") == "EACCES"
    assert second.read("x") == "ENOENT"
    assert second.commit(tx) == "ENOENT"
    assert second.start() == 1
    assert scene.dom0.ask(Op.GET_QUOTA, nul(5, "watches")) == b"128\0"
    assert scene.dom0.write("/secret", b"4") == OK
    scene.guests.kill(6)
    scene.look()
    assert second.events() == []


def test_its_features_are_its_own_too(scene: Scene) -> None:
    scene.guests.create(5, PORT)
    assert scene.dom0.ask(Op.SET_FEATURE, nul(5, 2)) == OK
    first = scene.introduce(5)
    assert ring(first).words[FEATURES] == 2
    assert scene.dom0.ask(Op.SET_FEATURE, nul(5, 2)) == "EBUSY"
    scene.guests.kill(5)
    scene.look()
    assert ring(scene.guest(5)).words[FEATURES] == 15


def test_what_the_toolstack_prepared_for_a_domain_is_there_when_it_is_introduced(scene: Scene) -> None:
    scene.guests.create(5, PORT)
    scene.home(5)
    assert scene.dom0.write("/local/domain/5/name", b"five") == OK
    assert scene.dom0.write("/given", b"1") == OK
    assert scene.dom0.chmod("/given", "n0", "r5") == OK
    assert scene.dom0.ask(Op.SET_QUOTA, nul(5, "nodes", 3)) == OK
    assert scene.dom0.ask(Op.SET_FEATURE, nul(5, 6)) == OK
    guest = scene.introduce(5)
    assert ring(guest).words[FEATURES] == 6
    assert guest.read("name") == b"five"
    assert guest.read("/given") == b"1"
    assert guest.mkdir("one") == OK
    assert guest.mkdir("two") == "ENOSPC", "its home and its name count"


def test_a_domain_that_is_gone_before_it_was_introduced(scene: Scene) -> None:
    """Known only because the toolstack prepared it: its nodes and rights go, but its death is no event."""
    scene.guests.create(5, PORT)
    scene.home(5)
    assert scene.dom0.write("/given", b"1") == OK
    assert scene.dom0.chmod("/given", "n0", "r5") == OK
    listen(scene.dom0, RELEASE, 5)
    scene.guests.kill(5)
    scene.look()
    assert scene.dom0.events() == []
    assert scene.dom0.ls("/local/domain") == []
    assert scene.dom0.perms("/given") == ["n0"]


def test_a_right_for_nobody_stays_one_whatever_becomes_of_the_number(scene: Scene) -> None:
    """XSA-417, in a transaction that is open while somebody gets the number."""
    assert scene.dom0.write("/a", b"1") == OK
    assert scene.dom0.chmod("/a", "n0", "r5") == OK
    tx = scene.dom0.start()
    assert scene.dom0.write("/b", b"1", tx) == OK
    assert scene.dom0.chmod("/b", "n0", "r5", tx=tx) == OK
    scene.guests.create(5, PORT)
    assert scene.dom0.commit(tx) in (OK, "EAGAIN")
    guest = scene.introduce(5)
    assert guest.read("/a") == "EACCES"
    assert guest.read("/b") == "EACCES"


# -- domains that are there when the daemon starts --------------------------------------------------


def born_early(guests: Guests) -> None:
    """Xen itself made domains 5 and 6 and left the port of each in its page (dom0less); 7 has none there."""
    guests.adopt(0)
    for domid in (5, 6, 7):
        guests.create(domid, 10 + domid)
    guests.prebuild(5)
    guests.prebuild(6)


def test_domains_that_are_there_already_are_served(begin: Begin) -> None:
    scene = begin(born_early)
    scene.look()
    assert scene.guests.events()[0] == 0, "domain 0's kernel comes first"
    for domid in (5, 6):
        assert scene.introduced(domid)
        guest = scene.voice(domid)
        assert ring(guest).words[CONNECTION] == 0
        assert guest.read("/") == "EACCES"
    listen(scene.dom0, INTRODUCE)
    listen(scene.dom0, RELEASE)
    assert scene.dom0.ask(Op.INTRODUCE, nul(5, 1, 15)) == OK
    assert scene.dom0.events() == [], "it is introduced"
    scene.guests.kill(6)
    scene.look()
    assert scene.dom0.events()[0] == (RELEASE, "plain")
    assert scene.guests.state(6) == 0


def test_one_without_a_port_waits_for_the_toolstack(begin: Begin) -> None:
    scene = begin(born_early)
    assert not scene.introduced(7)
    assert scene.introduce(7, port=17).read("/") == "EACCES"


def test_the_port_in_the_page_is_the_one_that_counts(scene: Scene) -> None:
    """SPEC 2.1: where Xen filled it in, it overrides INTRODUCE's."""
    scene.guests.create(5, 9)
    scene.guests.ring(5).cast("I")[PAGE_PORT] = 9
    assert scene.introduce(5, port=3).read("/") == "EACCES"


def test_a_domain_that_is_shut_down_when_the_daemon_starts(begin: Begin) -> None:
    """Nobody watches yet; the first who does is not told of what happened before."""

    def prepare(guests: Guests) -> None:
        born_early(guests)
        guests.shutdown(5)

    scene = begin(prepare)
    scene.look()
    listen(scene.dom0, RELEASE)
    scene.guests.shutdown(6)
    scene.look()
    assert (f"{RELEASE}/5", "depth 1") not in scene.dom0.events()


def test_a_daemon_that_was_killed_holds_nothing(folder: Path) -> None:
    """Its mappings and its VIRQ end with the process, so the next one finds what it needs."""
    with outside(folder, prepare=born_early) as scene:
        scene.guest(8)
        assert scene.guests.mapped(8) == 1
        scene.host.kill()
        assert scene.guests.mapped(8) == 0
        scene.guests.kill(8)
        assert scene.guests.state(8) == 0
        scene.host.start()
        scene.dom0.peer = scene.tool().peer
        assert scene.introduced(5)
        assert not scene.introduced(8)


def test_a_second_daemon_leaves_the_first_alone(folder: Path) -> None:
    """VIRQ_DOM_EXC has one listener in a domain, and with it the hypervisor one store."""
    with outside(folder) as scene:
        scene.guest(5)
        other = Host("fastxs", folder / "other", env=scene.host.env | {"XENSTORED_PATH": str(folder / "other socket")})
        with pytest.raises(HostError, match=r"VIRQ_DOM_EXC cannot be bound \(does another XenStore daemon run\?\)"):
            other.start()
        listen(scene.dom0, RELEASE)
        scene.guests.kill(5)
        scene.look()
        assert len(scene.dom0.events()) == 3


@pytest.mark.parametrize("xen", [NEW, OLD])
def test_what_happened_while_there_was_no_daemon(folder: Path, xen: str) -> None:
    """A shutdown, a death, a number used again: the next daemon tells of each once, as if it had been there."""
    with inside(folder, xen, durable=True) as scene:
        for domid in (4, 5, 6, 7, 8):
            scene.guest(domid)
        listener = scene.voice(8)
        for name in (RELEASE, f"{RELEASE}/4", f"{RELEASE}/5", f"{RELEASE}/6", f"{RELEASE}/7"):
            listener.quietly_watch(name, "t")
        scene.guests.shutdown(4)
        scene.look()
        assert sorted(listener.events()) == [(RELEASE, "t"), (f"{RELEASE}/4", "t")]
        scene.close()
        scene.guests.shutdown(5)
        scene.guests.kill(6)
        scene.guests.kill(7)
        scene.guests.create(7, PORT)
        scene.open()
        scene.dom0.peer = scene.tool().peer
        scene.look()
        told = sorted(listener.events())
        assert told == [*[(RELEASE, "t")] * 3, *((f"{RELEASE}/{domid}", "t") for domid in (5, 6, 7))]
        assert [scene.introduced(domid) for domid in (4, 5, 6, 7, 8)] == [True, True, False, False, True]
        assert scene.dom0.ls("/local/domain") == ["4", "5", "8"]
        scene.guests.virq()
        scene.look()
        assert listener.events() == []


# -- what it costs ------------------------------------------------------------------------------------


def test_a_death_asks_the_hypervisor_no_more_in_a_crowd(scene: Scene) -> None:
    def cost(domid: int) -> int:
        scene.guest(domid)
        scene.guests.kill(domid, virq=False)
        before = scene.guests.count("getinfo")
        scene.guests.shutdown(4)  # brings the VIRQ
        scene.look()
        scene.look()
        assert not scene.introduced(domid)
        return scene.guests.count("getinfo") - before

    scene.guests.create(4, PORT)
    alone = cost(5)
    for domid in range(10, 210):
        scene.guests.create(domid, PORT)
        scene.introduce(domid)
    cost(5)  # which brings the news of all that were made
    assert cost(5) <= alone
