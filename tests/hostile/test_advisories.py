"""One test per advisory of the Xen project on the XenStore daemons that can be played on a connection in memory.

Each says in its docstring what went wrong in those days, does exactly that, and then shows that the store is sound and
that others are served.
"""

from __future__ import annotations

import pytest

from tests.conversations.speak import OK, Speaker, World, nul
from tests.support.wire import HEADER, Op, Splitter, pack


def now(world: World, name: str, domid: int = 1) -> int:
    return world.engine.accounts(domid)[name][0]


def out_bytes(speaker: Speaker) -> int:
    """What waits for this peer."""
    for connection in speaker.engine.connections():
        if connection["id"] == speaker.peer.conn_id:
            return int(connection["out_bytes"])
    raise AssertionError("the connection is gone")


def heap(world: World) -> int:
    return world.engine.memory()["heap_used"]


def settle(world: World) -> None:
    """Let what is done in slices (a large RM's nodes) come to its end."""
    for _ in range(1000):
        world.dom0.read("/")


def test_xsa_38_and_420_a_length_beyond_all_bounds(world: World) -> None:
    """XSA-38, XSA-420: a length above 4096, or one that is negative in 32 bits, was believed."""
    for length in (4097, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0):
        guest = world.guest(1)
        guest.engine.feed(guest.peer.conn_id, HEADER.pack(Op.READ, 1, 0, length) + b"x" * 64)
        assert guest.engine.take(guest.peer.conn_id) == b""
        world.sound()
        world.kill(1)
    assert world.dom0.read("/tool") == b""


def test_xsa_72_a_directory_larger_than_a_message(world: World) -> None:
    """XSA-72: a reply of more than 4096 bytes was sent."""
    guest = world.guest(1)
    world.engine.set_quota("node-size", 0, 1)
    for i in range(500):
        assert guest.mkdir(f"d/{i:015}") == OK
    assert guest.ls("d") == "E2BIG"
    assert len(guest.hear(Op.DIRECTORY, nul("d"))) == 1
    first = guest.part("d", 0)
    assert not isinstance(first, str)
    assert 4000 < len(first[1]) < 4096
    assert guest.read("d") == b""


def test_xsa_115_events_of_what_one_may_not_read(world: World) -> None:
    """XSA-115: a watch on `/` heard of every node; specials were for all; anybody could ask who is introduced."""
    guest = world.guest(1)
    guest.quietly_watch("/", "t")
    guest.quietly_watch("@introduceDomain", "t")
    guest.quietly_watch("@introduceDomain", "deep", 1)
    assert world.dom0.write("/vm/secret", b"1") == OK
    tx = world.dom0.start()
    assert world.dom0.write("/vm/other", b"1", tx) == OK
    assert world.dom0.commit(tx) == OK
    assert world.dom0.rm("/vm") == OK
    world.guest(2)
    assert guest.events() == []
    assert guest.ask(Op.IS_DOMAIN_INTRODUCED, nul(2)) == "EACCES"
    assert guest.ask(Op.WATCH, nul("x", "t"), 99) == OK  # the transaction id of a WATCH is not looked at


@pytest.mark.parametrize("how", ["n0 b1", "n1", "b0 n1"])
def test_xsa_322_rights_of_a_domain_that_is_no_more(world: World, how: str) -> None:
    """XSA-322: a new domain with an old number had the old one's rights."""
    world.guest(1)
    world.guest(2)
    assert world.dom0.write("/secret", b"1") == OK
    assert world.dom0.chmod("/secret", *how.split()) == OK
    world.kill(1)
    again = world.guest(1)
    expected = {"n0 b1": "EACCES", "n1": "EACCES", "b0 n1": b"1"}[how]
    assert again.read("/secret") == expected
    if how == "n1":
        assert world.dom0.read("/secret") == "ENOENT"  # it went with its owner


def test_xsa_323_lengths_are_those_of_the_whole_path(world: World) -> None:
    """XSA-323: a relative path was measured before its prefix was put in front of it."""
    guest = world.guest(1)
    for length, answer in ((2047, "ENOENT"), (2048, "ENOENT"), (2049, "EINVAL"), (4000, "EINVAL")):
        for prefix in ("", "/local/domain/1/"):
            path = prefix + "p" * length
            assert guest.read(path) == answer
            assert guest.watch(path, "t") == (OK if answer == "ENOENT" and not prefix else answer.replace(
                "ENOENT", "EEXIST"))  # fmt: skip
    assert guest.read("/" + "p" * 2047) == "EACCES"
    assert guest.read("/" + "p" * 2048) == "EINVAL"


def test_xsa_324_an_event_larger_than_a_message(world: World) -> None:
    """XSA-324: token and path of an event together did not fit, and a null pointer was used."""
    guest = world.guest(1)
    token = "t" * 4000
    assert guest.watch("x", token) == OK
    assert guest.events() == [("x", token)]
    assert guest.write("x/" + "n" * 200) == OK
    assert guest.events() == []
    assert guest.write("x") == OK
    assert guest.events() == [("x", token)]


def test_xsa_325_a_bad_client_still_dies_in_public(world: World) -> None:
    """XSA-325: a client that broke the protocol was forgotten at once, and its death was never told."""
    guest = world.guest(1)
    assert guest.write("x", b"1") == OK
    world.dom0.quietly_watch("@releaseDomain", "t")
    guest.engine.feed(guest.peer.conn_id, HEADER.pack(Op.READ, 1, 0, 5000))
    assert world.dom0.events() == []
    assert world.dom0.read("/local/domain/1/x") == b"1"
    world.kill(1)
    assert world.dom0.events() == [("@releaseDomain", "t")]
    assert world.dom0.read("/local/domain/1/x") == "ENOENT"


def test_xsa_330_watches_and_their_reset(world: World) -> None:
    """XSA-330: RESET_WATCHES left them in an index, so memory grew without end."""
    guest = world.guest(1)

    def round_trip() -> None:
        asked = b"".join(pack(Op.WATCH, b"x/%d\0t\0" % i, i) for i in range(100)) + pack(Op.RESET_WATCHES, b"", 100)
        guest.engine.feed(guest.peer.conn_id, asked)
        guest.engine.take(guest.peer.conn_id)

    round_trip()
    before = heap(world)
    for _ in range(200):
        round_trip()
    assert now(world, "watches") == 0
    assert heap(world) <= before
    assert guest.write("x/1") == OK
    assert guest.events() == []


def test_xsa_352_a_gift_that_nobody_wants(world: World) -> None:
    """XSA-352: a guest gave its nodes away, and with them the charge."""
    guest = world.guest(1)
    world.guest(2)
    assert guest.mkdir("x") == OK
    for owner in ("n0", "n2", "b0"):
        assert guest.chmod("x", owner, "b1") == "EPERM"
    tx = guest.start()
    assert guest.chmod("x", "n2", "b1", tx=tx) == "EPERM"
    assert guest.commit(tx) == OK
    assert guest.perms("x") == ["n1"]
    assert now(world, "nodes", 2) == 1


def test_xsa_353_the_root_is_a_node_too(world: World) -> None:
    """XSA-353: nobody looked at the permissions of `/`."""
    guest = world.guest(1)
    tx = guest.start()
    for where in (0, tx):
        assert guest.rm("/", where) == "EACCES"
        assert guest.ls("/", where) == "EACCES"
        assert guest.read("/", where) == "EACCES"
        assert guest.perms("/", where) == "EACCES"
        assert guest.write("/", b"mine", where) == "EACCES"
        assert guest.chmod("/", "n1", tx=where) == "EACCES"
        assert guest.part("/", 0, where) == "EACCES"
    assert world.dom0.ls("/") == ["tool", "local"]


def test_xsa_272_the_quota_of_nodes_counts_every_node(world: World) -> None:
    """XSA-272: a node was charged after the check of the next one, so the quota could be passed."""
    guest = world.guest(1)
    made = sum(guest.mkdir(f"{i % 25}/{i}") == OK for i in range(1200))
    assert now(world, "nodes") == 1000
    assert made == 1000 - 1 - 25
    assert guest.mkdir("0/more") == "ENOSPC"


# -- XSA-326: what a guest can pile up ------------------------------
def test_xsa_326_replies_that_nobody_takes(world: World) -> None:
    """XSA-326: replies were kept without a bound for a guest that did not read them."""
    guest = world.guest(1)
    assert guest.write("x", b"v" * 2000) == OK
    flood = pack(Op.READ, nul("x"), 7) * 20
    before = sum(world.engine.memory().values())
    for _ in range(500):
        guest.engine.feed(guest.peer.conn_id, flood)
    assert out_bytes(guest) < 1_000_000  # 10,000 replies would be 20 MB
    assert world.dom0.write("/local/domain/1/x", b"served") == OK
    assert sum(world.engine.memory().values()) - before < 8_000_000


def test_xsa_326_what_was_asked_is_answered_once_the_peer_reads(world: World) -> None:
    """XSA-326: holding back is no losing: every request is answered, in order."""
    guest = world.guest(1)
    assert guest.write("x", b"v" * 1000) == OK
    guest.engine.feed(guest.peer.conn_id, b"".join(pack(Op.READ, nul("x"), i) for i in range(2000)))
    splitter, found = Splitter(), []
    for _ in range(3000):
        found += [message.req_id for message in splitter.feed(guest.engine.take(guest.peer.conn_id))]
        if len(found) == 2000:
            break
        guest.engine.feed(guest.peer.conn_id, b"")
    assert found == list(range(2000))


def test_xsa_326_events_that_nobody_takes(world: World) -> None:
    """XSA-326: events were kept without a bound.  Now they collapse: the watcher is told to look again."""
    guest = world.guest(1)
    for i in range(50):
        guest.quietly_watch("x", f"{i}")
    assert guest.write("x") == OK
    guest.events()
    for i in range(3000):
        assert world.dom0.write(f"/local/domain/1/x/{i % 200}", b"v") == OK
    assert out_bytes(guest) < 2_000_000
    told = guest.events()
    assert {token for _, token in told} == {str(i) for i in range(50)}
    # Whatever was left out, each watch hears of its own path or of the last change.
    for i in range(50):
        paths = [path for path, token in told if token == str(i)]
        assert "x" in paths or "x/199" in paths
    assert guest.read("x/199") == b"v"


def test_xsa_326_a_tool_that_nobody_reads_is_bounded_too(world: World) -> None:
    """XSA-326, and a hazard of libxenstore: a tool in domain 0 whose reader hangs."""
    tool = world.again(world.dom0)
    for i in range(20):
        tool.quietly_watch("/", f"{i}")
    for i in range(5000):
        assert world.dom0.write(f"/flood/{i % 500}", b"v") == OK
    assert out_bytes(tool) < 4_000_000
    assert {token for _, token in tool.events()} == {str(i) for i in range(20)}


def test_xsa_326_transactions_that_hold_many_nodes(world: World) -> None:
    """XSA-326: ten transactions of a thousand nodes each were charged to nobody."""
    guest = world.guest(1)
    for i in range(300):
        assert guest.write(f"{i % 20}/{i}", b"v" * 500) == OK
    txs = [guest.start() for _ in range(10)]
    answers = set()
    for tx in txs:
        for i in range(300):
            answers.add(guest.write(f"{i % 20}/{i}", b"w" * 1500, tx))
    assert answers <= {OK, "ENOMEM", "ENOSPC"}
    assert now(world, "memory") <= 2621440
    assert "ENOMEM" in answers or "ENOSPC" in answers  # 4.5 MB do not fit into 2.5 MiB
    for tx in txs:
        guest.abort(tx)
    assert now(world, "transactions") == 0
    assert guest.write("0/0", b"again") == OK


def test_xsa_326_rm_of_a_large_tree_under_many_watches(world: World) -> None:
    """XSA-326: one RM made events for every node and every watch at once."""
    guest = world.guest(1)
    for i in range(900):
        assert guest.write(f"top/{i % 30}/{i}") == OK
    for i in range(128):
        guest.quietly_watch("top", f"{i}")
    assert guest.rm("top") == OK
    assert sorted(guest.events()) == sorted(("top", f"{i}") for i in range(128))
    assert now(world, "nodes") == 1


def test_xsa_326_watches_and_tokens_are_memory(world: World) -> None:
    """XSA-326: 128 watches with tokens of 4000 bytes."""
    guest = world.guest(1)
    world.engine.set_quota("memory", 100_000, 1)
    answers = [guest.ask(Op.WATCH, nul("x", f"{i:04}" + "t" * 3900)) for i in range(100)]
    assert answers[0] == OK
    assert "ENOMEM" in answers
    assert set(answers) == {OK, "ENOMEM"}
    assert now(world, "memory") <= 100_000
    assert guest.ask(Op.RESET_WATCHES) == OK
    assert guest.ask(Op.WATCH, nul("x", "t" * 3900)) == OK


def test_xsa_326_nodes_are_memory(world: World) -> None:
    """XSA-326: a thousand nodes of 2 KB are 2 MB; a smaller quota of memory stops them earlier."""
    guest = world.guest(1)
    world.engine.set_quota("memory", 100_000, 1)
    answers = [guest.write(f"{i % 9}/{i}", b"v" * 1900) for i in range(200)]
    assert OK in answers
    assert set(answers) <= {OK, "ENOMEM", "ENOSPC"}
    assert set(answers) != {OK}
    assert now(world, "memory") <= 100_000
    assert guest.rm("0") == OK
    assert guest.write("1/again", b"v") == OK


def test_xsa_414_a_creation_that_fails_half_way(world: World) -> None:
    """XSA-414: the quota was hit in the middle of a new path, and what was there already was used after it had gone."""
    guest = world.guest(1)
    for quota in range(1, 6):
        world.engine.set_quota("nodes", quota, 1)
        for path in ("a/b/c/d/e", "x/y/z/u/v/w"):
            assert guest.write(path) == "ENOSPC"
            assert guest.mkdir(path) == "ENOSPC"
        assert guest.ls("/local/domain/1") == []
        assert now(world, "nodes") == 1
        world.sound()
    world.engine.set_quota("nodes", 6, 1)
    assert guest.write("a/b/c/d/e") == OK


def test_xsa_415_the_same_inside_a_transaction(world: World) -> None:
    """XSA-415: nodes of a failed creation were left in the store after the commit, without a parent."""
    guest = world.guest(1)
    world.engine.set_quota("nodes", 4, 1)
    tx = guest.start()
    assert guest.write("kept", b"1", tx) == OK
    assert guest.write("a/b/c/d/e", b"1", tx) == "ENOSPC"
    assert guest.ls("/local/domain/1", tx) == ["kept"]
    assert guest.commit(tx) == "ENOMEM"
    assert guest.ls("/local/domain/1") == []
    assert now(world, "nodes") == 1
    world.sound()


def test_xsa_416_memory_of_a_request_goes_with_its_reply(world: World) -> None:
    """XSA-416: what a request needed was kept until its reply had been read."""
    guest = world.guest(1)
    assert guest.write("x", b"v" * 100) == OK
    before = heap(world)
    guest.engine.feed(guest.peer.conn_id, pack(Op.WRITE, nul("y/" + "n" * 1500), 1) * 10)
    guest.engine.feed(guest.peer.conn_id, pack(Op.RM, nul("y"), 1))
    guest.engine.take(guest.peer.conn_id)
    settle(world)
    assert heap(world) - before < 10_000


def test_xsa_417_a_right_given_to_a_number_that_nobody_has(world: World) -> None:
    """XSA-417: a right written while the number was free came to life with the next domain of that number."""
    assert world.dom0.write("/secret", b"1") == OK
    assert world.dom0.chmod("/secret", "n0", "r1") == OK
    assert world.dom0.write("/secret/below", b"2") == OK  # takes the list as it is
    world.engine.pretend(1, True)
    guest = Speaker(world.engine, 1)
    assert guest.read("/secret") == "EACCES"
    assert guest.read("/secret/below") == "EACCES"
    assert world.dom0.write("/secret", b"3") == OK
    assert world.dom0.ask(Op.INTRODUCE, nul(1, 1, 1)) == OK
    assert guest.read("/secret") == "EACCES"


def test_xsa_418_a_tree_as_deep_as_a_path_allows(world: World) -> None:
    """XSA-418: recursion went down a deep tree until the stack was used up."""
    guest = world.guest(1)
    deep = "/".join("d" * 990)
    assert guest.write(deep, b"1") == OK
    assert guest.read(deep) == b"1"
    assert guest.rm("d") == OK
    assert now(world, "nodes") == 1
    deepest = "/d" * 2040
    assert world.dom0.write(deepest, b"1") == OK
    world.dom0.quietly_watch(deepest, "t")
    assert world.dom0.rm("/d") == OK
    assert world.dom0.events() == [(deepest, "t")]
    tx = world.dom0.start()
    assert world.dom0.write(deepest, b"1", tx) == OK
    assert world.dom0.rm("/d", tx) == OK
    assert world.dom0.commit(tx) == OK
    world.sound()


def test_xsa_419_nodes_outside_of_home(world: World) -> None:
    """XSA-419: nodes of a dead guest went to domain 0, which has no quota, reboot after reboot."""
    assert world.dom0.mkdir("/shared") == OK
    assert world.dom0.chmod("/shared", "b0") == OK
    two = world.guest(2)
    assert two.chmod("/local/domain/2", "b2") == OK
    before = world.engine.counters()["nodes"]
    for _ in range(20):
        one = world.guest(1)
        for i in range(100):
            assert one.write(f"/shared/{i}/x") == OK
            assert one.write(f"/local/domain/2/{i}") == OK
        world.kill(1)
        assert world.dom0.ls("/shared") == []
        assert two.ls("/local/domain/2") == []
        settle(world)
        assert world.engine.counters()["nodes"] == before


def test_xsa_419_a_guest_that_owns_the_root_or_its_children(world: World) -> None:
    """XSA-419: and whatever a guest owned, the root stays."""
    world.guest(1)
    assert world.dom0.chmod("/tool", "n1") == OK
    world.kill(1)
    assert world.dom0.ls("/") == ["local"]
    world.guest(1)
    assert world.dom0.chmod("/", "n1") == OK
    world.kill(1)
    assert world.dom0.write("/alive", b"1") == OK
    assert world.dom0.read("/alive") == b"1"


def test_xsa_421_created_and_removed_in_one_transaction(world: World) -> None:
    """XSA-421: such a node made the commit stop half way, and the accounts were wrong from then on."""
    guest = world.guest(1)
    assert guest.write("old", b"1") == OK
    tx = guest.start()
    assert guest.write("a", b"1", tx) == OK
    assert guest.write("new/deep", b"1", tx) == OK
    assert guest.rm("new", tx) == OK
    assert guest.rm("old", tx) == OK
    assert guest.write("old", b"2", tx) == OK
    assert guest.rm("old", tx) == OK
    assert guest.write("z", b"1", tx) == OK
    assert guest.commit(tx) == OK
    assert guest.ls("/local/domain/1") == ["a", "z"]
    assert now(world, "nodes") == 3


def test_xsa_421_quotas_hold_over_a_commit(world: World) -> None:
    """XSA-421: after an accident of that kind a guest could pass its quota."""
    guest = world.guest(1)
    world.engine.set_quota("nodes", 5, 1)
    for _ in range(20):
        tx = guest.start()
        for name in "abcd":
            assert guest.write(name, b"1", tx) == OK
        assert guest.write("one-too-many", b"1", tx) == "ENOSPC"
        assert guest.commit(tx) == "ENOMEM"
        tx = guest.start()
        for name in "abcd":
            assert guest.write(name, b"1", tx) == OK
            assert guest.rm(name, tx) == OK
        assert guest.commit(tx) == OK
        assert now(world, "nodes") == 1


def test_xsa_425_released_while_others_are_in_the_list(world: World) -> None:
    """XSA-425: RELEASE took a connection out of the list that the main loop was just walking."""
    guests = {domid: world.guest(domid) for domid in range(1, 9)}
    for guest in guests.values():
        guest.quietly_watch("@releaseDomain", "t")
    for turn in range(50):
        domid = turn % 8 + 1
        for guest in guests.values():
            guest.engine.feed(guest.peer.conn_id, pack(Op.WRITE, b"x\0v", 1) * 3)
        assert world.dom0.ask(Op.RELEASE, nul(domid)) == OK
        guests[domid].leave()
        guests[domid] = world.guest(domid)
        guests[domid].quietly_watch("@releaseDomain", "t")
        world.sound()
    for guest in guests.values():
        guest.engine.take(guest.peer.conn_id)
    assert world.dom0.read("/tool") == b""


def test_xsa_440_two_transactions_remove_the_same_nodes(world: World) -> None:
    """XSA-440: the second commit took nodes off an account that had none of them any more."""
    guest = world.guest(1)
    for i in range(50):
        assert guest.write(f"{i}") == OK
    one, two = guest.start(), guest.start()
    for tx in (one, two):
        for i in range(50):
            assert guest.rm(f"{i}", tx) == OK
    assert guest.commit(one) == OK
    assert guest.commit(two) == "EAGAIN"
    assert now(world, "nodes") == 1


def test_xsa_481_a_home_without_a_number(world: World) -> None:
    """XSA-481: the path `/local/domain/` ended the daemon."""
    guest = world.guest(1)
    for speaker in (guest, world.dom0):
        for path in ("/local/domain/", "/local/domain//", "/local/domain/x/", "/local/domain/1/", "/local/domain/-1/"):
            for op in (Op.READ, Op.DIRECTORY, Op.GET_PERMS, Op.MKDIR, Op.RM, Op.WRITE):
                assert speaker.ask(op, nul(path)) == "EINVAL"
            assert speaker.watch(path, "t") == "EINVAL"
            assert speaker.chmod(path, "n0") == "EINVAL"


def test_xsa_483_a_number_used_again_starts_at_zero(world: World) -> None:
    """XSA-483: the count of nodes outlived the domain."""
    for _ in range(5):
        guest = world.guest(1)
        assert now(world, "nodes") == 1
        tx = guest.start()
        for i in range(50):
            assert guest.write(f"{i}") == OK
            assert guest.write(f"tx-{i}", b"", tx) == OK
            assert guest.watch("x", f"{i}") == OK
        assert now(world, "watches") == 50
        world.kill(1)


def test_xsa_484_reset_watches_inside_a_transaction(world: World) -> None:
    """XSA-484: it removed the transaction that it was part of."""
    guest = world.guest(1)
    for _ in range(3):
        tx = guest.start()
        assert guest.write("x", b"1", tx) == OK
        assert guest.ask(Op.RESET_WATCHES, b"", tx) == OK
        assert guest.read("x", tx) == "ENOENT"
        assert guest.commit(tx) == "ENOENT"
        assert now(world, "transactions") == 0
    assert guest.read("x") == "ENOENT"


def test_xsa_233_a_domain_and_its_stubdomain_die_together(world: World) -> None:
    """XSA-233: each held the other's connection, which was freed twice."""
    for order in ((1, 2), (2, 1)):
        world.guest(1)
        stub = world.guest(2)
        assert world.dom0.ask(Op.SET_TARGET, nul(2, 1)) == OK
        assert stub.ls("/local/domain/1") == []
        for domid in order:
            world.kill(domid)
            world.sound()
    assert world.dom0.ls("/local/domain") == []


def test_xsa_206_transactions_come_to_an_end_under_a_flood_of_writes(world: World) -> None:
    """XSA-206: a guest that wrote without end made every transaction of others fail."""
    guest = world.guest(1)
    assert guest.write("x", b"0") == OK
    for attempt in range(50):
        tx = world.dom0.start()
        assert world.dom0.read("/local/domain/1/x", tx) != "EACCES"
        assert world.dom0.write("/result", b"%d" % attempt, tx) == OK
        # What the guest writes elsewhere is no conflict at all.
        guest.engine.feed(guest.peer.conn_id, b"".join(pack(Op.WRITE, b"y/%d\0v" % i, i) for i in range(20)))
        guest.engine.take(guest.peer.conn_id)
        assert world.dom0.commit(tx) == OK


def test_xsa_206_a_transaction_that_is_spoiled_again_and_again(world: World) -> None:
    """XSA-206: a guest that kept writing what a transaction had read kept it from ever committing.

    After three EAGAINs in a row the guest's writes to what the next one looks at stand aside until it has ended, or
    for a few milliseconds; everything else goes on.
    """
    guest = world.guest(1)
    assert guest.write("x", b"0") == OK
    path, tries = "/local/domain/1/x", 0
    while True:
        tries += 1
        tx = world.dom0.start()
        assert world.dom0.read(path, tx) is not None
        # Bytes that are sent, not a question: the answer may have to wait.
        guest.engine.feed(guest.peer.conn_id, pack(Op.WRITE, nul("x") + b"%d" % tries, 100 + tries))
        assert world.dom0.write("/seen", b"", tx) == OK
        ended = world.dom0.commit(tx)
        if ended == OK:
            break
        assert ended == "EAGAIN"
        assert tries < 10
    assert tries == 4
    guest.engine.feed(guest.peer.conn_id, b"")  # the next turn
    assert world.dom0.read(path) == b"4"  # it was written after all
    answers = guest.engine.take(guest.peer.conn_id)
    assert answers == b"".join(pack(Op.WRITE, OK, 100 + i) for i in range(1, 5))  # and answered, in order
    assert guest.write("y") == OK
