"""Conversations over a guest's ring: what daemon and guest may rely on, and what becomes of who breaks the rules.

Played with the core in this process, so that nothing happens between two lines of a test: the daemon does something
only when it is asked directly, or made to look at its event channels.  Who comes and goes is told in tests/life.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from fastxs.hypervisor.host import available, scratch
from tests.conversations.speak import OK, Voice, nul
from tests.life.scene import PORT as EVTCHN
from tests.life.scene import Inside, inside
from tests.support.ring import (
    CONNECTION,
    ERROR,
    FEATURES,
    INDEX,
    PORT,
    PROTO,
    REQ_CONS,
    REQ_PROD,
    RING,
    RSP_CONS,
    RSP_PROD,
    WRAP,
    RingPeer,
)
from tests.support.wire import HEADER, Message, Op, Splitter, pack

INDICES: Final = slice(REQ_CONS, RSP_PROD + 1)
FARTHEST: Final = 0xFFFFFFF0
ALL_FEATURES: Final = 15
OUTSTANDING: Final = 20
"""The quota's default (SPEC part 5)."""


@pytest.fixture
def scene() -> Iterator[Inside]:
    """A daemon alone with domain 0."""
    if reason := available("fastxs"):
        pytest.skip(reason)
    folder = scratch()
    try:
        with inside(folder) as scene:
            yield scene
    finally:
        shutil.rmtree(folder)


class Guest(Voice):
    """Domain 1 or another one, introduced, with a home; nobody has told it anything yet."""

    def __init__(self, scene: Inside, domid: int = 1) -> None:
        scene.guest(domid)
        self.scene: Final = scene
        self.ring: Final = RingPeer(scene.guests, domid, scene.wait)
        super().__init__(self.ring, domid)
        scene.look()
        scene.guests.events()

    @property
    def indices(self) -> list[int]:
        return self.ring.words[INDICES].tolist()

    @property
    def error(self) -> int:
        return self.ring.words[ERROR]

    def says(self, data: bytes) -> None:
        """Bytes that fit into the ring, one notification, one look of the daemon."""
        assert self.ring.put(data) == len(data)
        self.ring.notify()
        self.scene.look()

    def hears(self) -> list[Message]:
        """What lies in the ring: whole messages, all of them taken, nobody notified."""
        splitter = Splitter()
        found = splitter.feed(self.ring.get())
        assert splitter.pending == 0
        return found

    def reconnects(self) -> None:
        """As a guest does whose kernel begins anew (SPEC 2.2)."""
        self.ring.words[CONNECTION] = 1
        self.ring.notify()
        self.scene.look()

    def piles_up(self) -> int:
        """A watch, a transaction, half a request; the transaction."""
        self.quietly_watch("x", "t")
        tx = self.start()
        assert self.write("in", b"1", tx) == OK
        self.says(pack(Op.WRITE, nul("x") + b"half")[:20])
        return tx

    def has_nothing_left(self, tx: int) -> None:
        """What it had piled up is gone, and it is served."""
        assert self.read("in", tx) == "ENOENT"
        assert self.write("x", b"1") == OK
        assert self.events() == []


@pytest.fixture
def guest(scene: Inside) -> Guest:
    return Guest(scene)


def served(scene: Inside, op: Op) -> int:
    """How many requests of a kind the daemon has taken."""
    return scene.engine.operations()[op.name]


def notified(scene: Inside) -> int:
    """How often the daemon has notified anybody."""
    return scene.guests.count("notify")


# -- how a ring begins ------------------------------------------------------------------------


def test_the_page_of_an_introduced_domain(scene: Inside) -> None:
    """Whatever was in it: indices 0, connected, no error, and what the daemon can do (SPEC 2.1)."""
    scene.guests.create(1)
    ring = RingPeer(scene.guests, 1, scene.wait)
    for word in (*range(REQ_CONS, RSP_PROD + 1), FEATURES, CONNECTION, ERROR):
        ring.words[word] = FARTHEST
    scene.introduce(1)
    assert ring.words[INDICES].tolist() == [0, 0, 0, 0]
    assert [ring.words[word] for word in (FEATURES, CONNECTION, ERROR, PORT)] == [ALL_FEATURES, 0, 0, 0]


def test_a_guest_that_waits_to_be_connected_is_woken(scene: Inside) -> None:
    """Connection 1 until somebody comes; then one notification (SPEC 2.2)."""
    scene.guests.create(1)
    RingPeer(scene.guests, 1, scene.wait).words[CONNECTION] = 1
    before = notified(scene)
    scene.introduce(1)
    assert (scene.guests.events(), notified(scene) - before) == ([1], 1)


def test_the_port_in_the_page_comes_first(scene: Inside) -> None:
    """Xen put it there for domains that no toolstack made (SPEC 2.1)."""
    scene.guests.create(1, port=7)
    ring = RingPeer(scene.guests, 1, scene.wait)
    assert scene.dom0.ask(Op.INTRODUCE, nul(1, 1, EVTCHN)) == "EINVAL"
    ring.words[PORT] = 7
    assert scene.introduce(1, port=EVTCHN).read("/local") == "EACCES"
    assert ring.words[PORT] == 7


def test_only_features_that_the_domain_may_know_of(scene: Inside) -> None:
    scene.guests.create(1)
    assert scene.dom0.ask(Op.SET_FEATURE, nul(1, 6)) == OK
    scene.introduce(1)
    assert RingPeer(scene.guests, 1, scene.wait).words[FEATURES] == 6


@pytest.mark.parametrize(("what", "error", "word"), [("map", errno.ENOMEM, "ENOMEM"), ("bind", errno.ENOSPC, "ENOSPC")])
def test_what_the_hypervisor_refuses_the_toolstack_hears(scene: Inside, what: str, error: int, word: str) -> None:
    """And nothing is half done."""
    scene.dom0.quietly_watch("@introduceDomain", "t")
    scene.dom0.quietly_watch("@releaseDomain", "t")
    scene.guests.create(1)
    scene.guests.fail(what, 1, error)
    assert scene.dom0.ask(Op.INTRODUCE, nul(1, 1, EVTCHN)) == word
    assert not scene.introduced(1)
    assert scene.guests.mapped(1) == 0
    assert scene.dom0.events() == []
    assert scene.introduce(1).read("/local") == "EACCES"
    assert scene.dom0.events() == [("@introduceDomain", "t")]


def test_introduced_again_it_begins_anew(guest: Guest, scene: Inside) -> None:
    """Indices, watches, transactions, half a request; and it is told (SPEC 2.4)."""
    tx = guest.piles_up()
    scene.guests.events()
    scene.introduce(1)
    assert guest.indices == [0, 0, 0, 0]
    assert scene.guests.events() == [1]
    guest.has_nothing_left(tx)


def test_introduced_again_with_a_port_that_cannot_be_bound(guest: Guest, scene: Inside) -> None:
    """It is mute until it is introduced with one that can be."""
    scene.guests.fail("bind", 1, errno.EINVAL)
    assert scene.dom0.ask(Op.INTRODUCE, nul(1, 1, EVTCHN)) == OK
    before = served(scene, Op.READ)
    guest.says(pack(Op.READ, nul("x")))
    assert served(scene, Op.READ) == before
    assert scene.introduced(1)
    scene.introduce(1)
    assert guest.read("x") == "ENOENT"


# -- requests -----------------------------------------------------------------------------------


def test_a_request_may_come_byte_by_byte(guest: Guest) -> None:
    request = pack(Op.READ, nul("x"), 7)
    for i in range(len(request)):
        assert guest.ring.waiting() == 0
        guest.says(request[i : i + 1])
    assert [(message.req_id, message.error) for message in guest.hears()] == [(7, "ENOENT")]


def test_requests_and_replies_wrap_around_at_every_offset(guest: Guest) -> None:
    """19 and 23 bytes do not divide the ring: each offset is met once."""
    met = set()
    for i in range(RING):
        met.add((guest.ring.words[REQ_PROD] % RING, guest.ring.words[RSP_PROD] % RING))
        guest.says(pack(Op.READ, nul("no"), i))
        assert [(message.req_id, message.error) for message in guest.hears()] == [(i, "ENOENT")]
    assert {req for req, _ in met} == {rsp for _, rsp in met} == set(range(RING))


def test_a_request_larger_than_the_ring(guest: Guest, scene: Inside) -> None:
    """The daemon takes what is there; nothing is answered before the end."""
    request = pack(Op.WRITE, nul("x") + b"v" * 2000)
    while request:
        assert guest.ring.waiting() == 0
        sent = guest.ring.put(request)
        assert sent == min(RING, len(request))
        request = request[sent:]
        guest.ring.notify()
        scene.look()
    assert [message.payload for message in guest.hears()] == [OK]
    assert scene.dom0.read("/local/domain/1/x") == b"v" * 2000


def test_a_full_ring_is_emptied_in_one_look(guest: Guest, scene: Inside) -> None:
    """And the guest is notified once: of its room, and of the replies."""
    before = notified(scene)
    guest.says(pack(Op.READ, nul("n" * 1007), 1))
    assert guest.indices == [RING, RING, 0, 23]
    assert notified(scene) - before == 1
    guest.says(b"".join(pack(Op.READ, nul("no"), i) for i in range(40)))
    assert notified(scene) - before == 2
    assert [message.req_id for message in guest.hears()] == [1, *range(40)]


def test_what_came_without_a_notification_is_taken_with_the_next(guest: Guest, scene: Inside) -> None:
    guest.ring.put(pack(Op.READ, nul("x"), 1))
    scene.look()
    assert guest.ring.waiting() == 0
    guest.says(pack(Op.READ, nul("x"), 2))
    assert [message.req_id for message in guest.hears()] == [1, 2]


def test_a_notification_without_bytes_is_answered_by_nobody(guest: Guest, scene: Inside) -> None:
    before = notified(scene)
    guest.says(b"")
    assert (guest.indices, notified(scene) - before) == ([0, 0, 0, 0], 0)


def test_what_the_daemon_wrote_is_not_read_back(guest: Guest) -> None:
    """Its own indices in the page are for the guest; what is written over them changes nothing."""
    guest.ring.put(pack(Op.READ, nul("x"), 1))
    for word in (REQ_CONS, RSP_PROD, FEATURES, ERROR):
        guest.ring.words[word] = FARTHEST
    guest.ring.notify()
    guest.scene.look()
    assert guest.indices == [18, 18, 0, 23]
    assert [message.error for message in guest.hears()] == ["ENOENT"]


# -- replies and events -----------------------------------------------------------------------------


def test_as_many_replies_as_fit_and_the_others_later(guest: Guest, scene: Inside) -> None:
    """16 bytes each: 64 fill the ring.  Each time that the guest has taken all, it is notified of more."""
    assert guest.write("x") == OK
    for start in (0, 40):
        guest.says(b"".join(pack(Op.READ, nul("x"), start + i) for i in range(40)))
    assert guest.ring.waiting() == RING
    assert [message.req_id for message in guest.hears()] == list(range(64))
    before = notified(scene)
    guest.says(b"")
    assert notified(scene) - before == 1
    assert [message.req_id for message in guest.hears()] == list(range(64, 80))


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_a_reply_larger_than_the_ring_is_taken_in_pieces(guest: Guest, scene: Inside, most: int) -> None:
    value = bytes(range(256)) * 15
    assert scene.dom0.write("/local/domain/1/x", value) == OK
    guest.says(pack(Op.READ, nul("x"), 7))
    heard = b""
    while guest.ring.waiting():
        heard += guest.ring.get(most)
        guest.says(b"")
    assert heard == pack(Op.READ, value, 7)


def test_a_reply_is_taken_without_a_notification(guest: Guest) -> None:
    """Then the daemon hears of the room with the next one."""
    assert guest.write("x", b"v" * 1500) == OK
    guest.scene.look()
    guest.says(pack(Op.READ, nul("x"), 1))
    first = guest.ring.get()
    guest.scene.look()
    assert guest.ring.waiting() == 0
    guest.says(pack(Op.READ, nul("no"), 2))
    assert first + guest.ring.get() == pack(Op.READ, b"v" * 1500, 1) + pack(Op.ERROR, nul("ENOENT"), 2)


def test_one_notification_for_all_that_one_look_brings(scene: Inside) -> None:
    """Events and replies alike; each guest once."""
    guests = [Guest(scene, domid) for domid in (1, 2)]
    for guest in guests:
        guest.quietly_watch("x", "t")
    scene.look()
    before = notified(scene)
    for guest in guests:
        guest.ring.put(pack(Op.WRITE, nul("x"), 1) * 5)
        guest.ring.notify()
    scene.look()
    assert notified(scene) - before == len(guests)
    for guest in guests:
        assert [message.op for message in guest.hears()] == [Op.WATCH_EVENT, Op.WRITE] * 5


def test_a_notification_that_is_lost_loses_no_reply(guest: Guest, scene: Inside) -> None:
    """The hypervisor refuses to notify: what was said lies in the ring all the same."""
    scene.guests.fail("notify", 1, errno.EIO)
    guest.says(pack(Op.READ, nul("no"), 1))
    assert [message.req_id for message in guest.hears()] == [1]
    assert guest.read("no") == "ENOENT"


# -- who breaks the rules ------------------------------------------------------------------------------


def is_ignored(guest: Guest, tx: int) -> None:
    """Its watches and transaction are gone, what it says stays where it is; the domain lives, others are served."""
    scene = guest.scene
    guest.ring.words[REQ_PROD] = guest.ring.words[REQ_CONS]
    guest.ring.words[RSP_CONS] = guest.ring.words[RSP_PROD]
    before = served(scene, Op.READ)
    guest.says(pack(Op.READ, nul("in"), 1, tx))
    assert served(scene, Op.READ) == before
    assert scene.dom0.write("/local/domain/1/x", b"told to nobody") == OK
    scene.look()
    assert guest.ring.waiting() == 0
    assert scene.engine.accounts(1)["transactions"][0] == 0
    assert scene.introduced(1)
    assert Guest(scene, 9).read("no") == "ENOENT"


@pytest.mark.parametrize("distance", [RING + 1, 2 * RING, 1 << 31, WRAP - 1])
def test_more_requests_than_the_ring_holds(guest: Guest, distance: int) -> None:
    """An index of requests that cannot be (XSA-38): error 2."""
    tx = guest.piles_up()
    guest.ring.words[REQ_PROD] = (guest.ring.words[REQ_CONS] + distance) % WRAP
    guest.ring.notify()
    guest.scene.look()
    assert guest.error == INDEX
    is_ignored(guest, tx)


@pytest.mark.parametrize("distance", [1, 1 << 31, WRAP - RING - 1])
def test_more_replies_taken_than_there_were(guest: Guest, distance: int) -> None:
    """The other index: noticed with the next reply."""
    tx = guest.piles_up()
    guest.ring.words[RSP_CONS] = (guest.ring.words[RSP_PROD] + distance) % WRAP
    guest.ring.notify()
    guest.scene.look()
    assert guest.error == 0
    guest.says(b"\0" * 14 + pack(Op.READ, nul("x")))
    assert guest.error == INDEX
    is_ignored(guest, tx)


@pytest.mark.parametrize("length", [4097, 1 << 31, WRAP - 1])
def test_a_message_that_is_too_long(guest: Guest, length: int) -> None:
    """The header alone is enough: error 3."""
    guest.quietly_watch("x", "t")
    tx = guest.start()
    guest.says(HEADER.pack(Op.WRITE, 1, 0, length))
    assert guest.error == PROTO
    is_ignored(guest, tx)


def test_the_longest_message_is_not_too_long(guest: Guest) -> None:
    assert guest.ask(Op.WRITE, nul("x") + b"v" * 4094) == "ENOSPC"
    assert guest.error == 0


def test_an_ignored_domain_still_dies_in_public(guest: Guest, scene: Inside) -> None:
    """Its page stays mapped until then, and its death is told once (XSA-325)."""
    scene.dom0.quietly_watch("@releaseDomain", "t")
    guest.says(HEADER.pack(Op.WRITE, 1, 0, 5000))
    assert (scene.guests.mapped(1), scene.dom0.events()) == (1, [])
    scene.guests.kill(1)
    scene.look()
    assert (scene.guests.state(1), scene.dom0.events()) == (0, [("@releaseDomain", "t")])


@pytest.mark.parametrize("how", ["introduced", "reconnects"])
def test_an_ignored_domain_may_begin_anew(guest: Guest, scene: Inside, how: str) -> None:
    tx = guest.piles_up()
    guest.ring.words[REQ_PROD] = FARTHEST
    guest.ring.notify()
    scene.look()
    assert guest.error == INDEX
    if how == "introduced":
        scene.introduce(1)
    else:
        guest.reconnects()
    assert (guest.error, guest.indices) == (0, [0, 0, 0, 0])
    guest.has_nothing_left(tx)


# -- who asks to begin anew --------------------------------------------------------------------------------


def test_a_guest_reconnects(guest: Guest, scene: Inside) -> None:
    """Connection 1 in the page: indices 0, connected, notified; nobody else is told (SPEC 2.2)."""
    scene.dom0.quietly_watch("@introduceDomain", "t")
    scene.dom0.quietly_watch("@releaseDomain", "t")
    assert guest.write("kept", b"1") == OK
    tx = guest.piles_up()
    scene.guests.events()
    before = notified(scene)
    guest.reconnects()
    assert (guest.ring.words[CONNECTION], guest.indices) == (0, [0, 0, 0, 0])
    assert (scene.guests.events(), notified(scene) - before) == ([1], 1)
    guest.has_nothing_left(tx)
    assert guest.read("kept") == b"1"
    assert scene.dom0.events() == []


def test_what_lies_in_the_rings_goes_with_the_old_connection(guest: Guest) -> None:
    """Requests that were not served, replies that were not taken, those that had no room yet."""
    assert guest.write("x", b"v" * 1000) == OK
    for _ in range(3):
        guest.says(pack(Op.READ, nul("x")))
    guest.ring.put(pack(Op.WRITE, nul("y")))
    assert guest.scene.engine.accounts(1)["outstanding"][0] > 0
    guest.reconnects()
    assert guest.indices == [0, 0, 0, 0]
    assert guest.scene.engine.accounts(1)["outstanding"][0] == 0
    assert guest.read("y") == "ENOENT"


def test_any_other_state_of_the_connection_means_nothing(guest: Guest) -> None:
    for state in (2, FARTHEST):
        guest.ring.words[CONNECTION] = state
        assert guest.read("no") == "ENOENT"
        assert guest.ring.words[CONNECTION] == state


def test_who_was_not_offered_to_reconnect_cannot(scene: Inside) -> None:
    """SET_FEATURE took bit 0 away."""
    scene.guests.create(1)
    assert scene.dom0.ask(Op.SET_FEATURE, nul(1, ALL_FEATURES - 1)) == OK
    ring = RingPeer(scene.guests, 1, scene.wait)
    guest = scene.introduce(1)
    assert guest.read("/local") == "EACCES"
    ring.words[CONNECTION] = 1
    assert guest.read("/local") == "EACCES"
    assert ring.words[CONNECTION] == 1


# -- event channels that stay masked -------------------------------------------------------------------------------

LOOKS: Final = 32
"""The daemon looks at busy rings again before it unmasks their ports, but not in each turn (core/turn.pyx, polls)."""


def has_broken_the_rules(guest: Guest) -> None:
    guest.ring.words[REQ_PROD] = guest.ring.words[REQ_CONS] + RING + 1
    guest.ring.notify()
    guest.scene.look()
    assert guest.error == INDEX


def takes_no_replies(guest: Guest) -> None:
    assert guest.write("x", b"v" * 1000) == OK
    for _ in range(4):
        guest.ring.put(pack(Op.READ, nul("x")) * 40)
        guest.says(b"")
    assert guest.ring.words[REQ_PROD] != guest.ring.words[REQ_CONS]


@pytest.mark.parametrize("state", [has_broken_the_rules, takes_no_replies])
def test_deaths_are_told_beside_a_page_that_always_seems_to_hold_requests(
    guest: Guest, scene: Inside, state: Callable[[Guest], None]
) -> None:
    """Its requests are not served now: to look for them again and again would keep the others' ports masked."""
    scene.dom0.quietly_watch("@releaseDomain", "t", 1)
    state(guest)
    for domid in range(2, 2 + LOOKS):
        scene.guest(domid)
    for domid in range(2, 2 + LOOKS):
        guest.ring.notify()
        scene.guests.kill(domid)
        scene.look()
        assert scene.dom0.events() == [(f"@releaseDomain/{domid}", "t")]


def test_deaths_are_told_beside_guests_that_are_always_busy(guest: Guest, scene: Inside) -> None:
    """Death's own event channel is never kept masked."""
    scene.dom0.quietly_watch("@releaseDomain", "t", 1)
    other = Guest(scene, 2)
    for domid in range(3, 3 + LOOKS):
        scene.guest(domid)
    for domid in range(3, 3 + LOOKS):
        for busy in (guest, other):
            for i in range(RING // HEADER.size):
                busy.ring.put(pack(Op.READ, b"", i))
            busy.ring.notify()
        scene.guests.kill(domid)
        scene.look()
        assert scene.dom0.events() == [(f"@releaseDomain/{domid}", "t")]
        for busy in (guest, other):
            busy.ring.get()


# -- quota outstanding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 3, 16, 48, 112])
def test_so_many_requests_are_taken_of_who_takes_no_replies(guest: Guest, scene: Inside, size: int) -> None:
    """Those whose replies are all in the ring, and 20 more: the rest stays in the guest's page (SPEC part 5)."""
    assert guest.write("x", b"v" * size) == OK
    in_ring = RING // (HEADER.size + size)
    before = served(scene, Op.READ)
    requests = b"".join(pack(Op.READ, nul("x"), i) for i in range(200))
    while sent := guest.ring.put(requests):
        requests = requests[sent:]
        guest.says(b"")
    assert served(scene, Op.READ) - before == in_ring + OUTSTANDING
    assert guest.ring.words[REQ_PROD] - guest.ring.words[REQ_CONS] == RING
    assert scene.engine.accounts(1)["outstanding"][0] == OUTSTANDING


def test_it_goes_on_when_the_replies_are_taken(guest: Guest, scene: Inside) -> None:
    """All are answered, in order."""
    assert guest.write("x", b"v" * 100) == OK
    requests = b"".join(pack(Op.READ, nul("x"), i) for i in range(300))
    splitter, heard = Splitter(), list[int]()
    while len(heard) < 300:
        requests = requests[guest.ring.put(requests) :]
        guest.says(b"")
        heard += [message.req_id for message in splitter.feed(guest.ring.get())]
    assert heard == list(range(300))
    assert scene.engine.accounts(1)["outstanding"][0] == 0


def test_the_quota_is_the_domains_own(guest: Guest, scene: Inside) -> None:
    assert scene.dom0.ask(Op.SET_QUOTA, nul(1, "outstanding", 3)) == OK
    assert guest.write("x", b"v" * 48) == OK
    before = served(scene, Op.READ)
    guest.says(pack(Op.READ, nul("x")) * 50)
    assert served(scene, Op.READ) - before == 16 + 3


def test_events_of_others_are_not_the_guests_debt(guest: Guest, scene: Inside) -> None:
    """Who is told much may still ask, once it has taken what it was told."""
    guest.quietly_watch("x", "t")
    for i in range(200):
        assert scene.dom0.write(f"/local/domain/1/x/{i}") == OK
    scene.look()
    assert scene.engine.accounts(1)["outstanding"][0] == 0
    assert guest.read("no") == "ENOENT"
    assert len(guest.events()) == 200


# -- the end ------------------------------------------------------------------------------------------------------


def test_released_it_is_let_go_at_once(guest: Guest, scene: Inside) -> None:
    """Page and port: a mapped page keeps a dead domain (SPEC 2.4); what it says goes to nobody."""
    guest.ring.put(pack(Op.WRITE, nul("/local/domain/1/late")))
    guest.ring.notify()
    assert scene.dom0.ask(Op.RELEASE, nul(1)) == OK
    assert scene.guests.mapped(1) == 0
    before = served(scene, Op.WRITE)
    guest.ring.notify()
    scene.look()
    assert served(scene, Op.WRITE) == before
    assert scene.introduce(1).read("/local") == "EACCES"
