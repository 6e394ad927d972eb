"""One conversation, held by both clients with fastxs, C xenstored and oxenstored."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from fastxs.client import (
    AlreadyExists,
    Closed,
    Conflict,
    Disconnected,
    Event,
    InvalidRequest,
    NotFound,
    NotSupported,
    Perm,
    TooBig,
    requests,
)
from fastxs.hypervisor.host import Host
from fastxs.hypervisor.simxen.guests import Guests
from tests.client.faces import Faces

WAIT_S = 10


# -- nodes ------------------------------------------------------------------------------------------


def test_a_node_comes_changes_and_goes(client: Any) -> None:
    client.write("/vm/1/name", b"web")
    assert client.read("/vm/1/name") == b"web"
    assert client.read(b"/vm/1/name") == b"web"  # a path is text or bytes
    assert client.read("/vm/1") == b""  # a parent that was made on the way
    client.write("/vm/1/name", b"mail")
    assert client.read("/vm/1/name") == b"mail"
    client.delete("/vm/1")
    assert not client.exists("/vm/1/name")
    client.delete("/vm/1")  # once more is no error, as its parent is there


@pytest.mark.parametrize(
    "value", [b"", b"\0", b"ends with NULs\0\0", b"\0\0begins", bytes(range(256)), b"\xff" * 2000], ids=len
)
def test_a_value_is_any_bytes(client: Any, value: bytes) -> None:
    client.write("/value", value)
    assert client.read("/value") == value


def test_mkdir_leaves_what_is_there(client: Any) -> None:
    client.mkdir("/a/b")
    assert client.read("/a/b") == b""
    client.write("/a/b", b"kept")
    client.mkdir("/a/b")
    assert client.read("/a/b") == b"kept"


def test_what_is_missing_is_told_by_name(client: Any) -> None:
    with pytest.raises(NotFound) as missing:
        client.read("/no/such")
    assert missing.value.errno == errno.ENOENT
    assert missing.value.filename == b"/no/such"
    assert isinstance(missing.value, FileNotFoundError)
    assert isinstance(missing.value, KeyError)
    assert client.read("/no/such", None) is None
    assert client.read("/no/such", b"default") == b"default"
    assert not client.exists("/no/such")
    with pytest.raises(NotFound):
        client.list("/no/such")
    with pytest.raises(NotFound):
        client.delete("/no/such/node")
    with pytest.raises(ValueError, match="Invalid argument"):
        client.read("/a//b")


def test_a_nul_in_a_path_is_refused_before_it_becomes_two(client: Any) -> None:
    with pytest.raises(InvalidRequest):
        client.write("/a\0b", b"value")
    with pytest.raises(InvalidRequest):
        client.read_many(["/tool", "/a\0b"])
    assert not client.exists("/a")


def test_what_is_too_long_is_refused_before_it_costs_the_connection(client: Any) -> None:
    client.write("/a", b"x" * (4096 - 3))
    assert len(client.read("/a")) == 4093
    with pytest.raises(TooBig) as refused:
        client.write("/a", b"x" * (4096 - 2))
    assert refused.value.filename == b"/a"
    assert len(client.read("/a")) == 4093


def test_a_list_of_children_of_any_length(client: Any) -> None:
    assert client.list("/tool") == [b"xenstored"]
    assert client.list("/tool/xenstored") == []
    names = [b"child-%05d-with-a-long-name" % n for n in range(1000)]
    client.write_many((b"/many/" + name, b"") for name in names)
    assert sorted(client.list("/many")) == names  # oxenstored keeps an order of its own


def test_permissions(client: Any) -> None:
    client.write("/a", b"")
    assert client.get_perms("/a") == [b"n0"]
    client.set_perms("/a", ["n0", b"r7", Perm(8, read=True, write=True)])
    assert client.get_perms("/a") == [b"n0", b"r7", b"b8"]
    assert [Perm.parse(perm) for perm in client.get_perms("/a")] == [Perm(0), Perm(7, True), Perm(8, True, True)]
    with pytest.raises(InvalidRequest):
        client.set_perms("/a", ["x7"])
    with pytest.raises(InvalidRequest):
        Perm.parse(b"r-7")


def test_a_walk_sees_everything_parents_first_or_last(client: Any) -> None:
    client.write_many({"/w/a": b"1", "/w/a/x": b"2", "/w/b": b"3"})
    down = list(client.walk("/w"))
    assert down[0] == (b"/w", b"", down[0][2])
    assert sorted(down[0][2]) == [b"a", b"b"]
    assert sorted(down) == [
        (b"/w", b"", down[0][2]),
        (b"/w/a", b"1", [b"x"]),
        (b"/w/a/x", b"2", []),
        (b"/w/b", b"3", []),
    ]
    paths = [path for path, _, _ in down]
    assert paths.index(b"/w/a") < paths.index(b"/w/a/x")
    up = [path for path, _, _ in client.walk("/w", topdown=False)]
    assert up[-1] == b"/w"
    assert up.index(b"/w/a/x") < up.index(b"/w/a")
    with pytest.raises(NotFound):
        list(client.walk("/nowhere"))


def test_a_walk_goes_through_directories_that_no_reply_holds(client: Any) -> None:
    names = [b"child-%05d-with-a-long-name" % n for n in range(300)]
    client.write_many((b"/top/many/" + name, b"v") for name in names)
    assert len(list(client.walk("/top"))) == 302


# -- many at once -----------------------------------------------------------------------------------


def test_many_values_are_asked_for_at_once(client: Any) -> None:
    values = {f"/many/{n}": b"value %d" % n for n in range(500)}
    client.write_many(values)
    assert client.read_many(values) == list(values.values())
    assert client.read_many([]) == []
    with pytest.raises(NotFound) as missing:
        client.read_many(["/many/1", "/many/missing", "/many/2"])
    assert missing.value.filename == b"/many/missing"
    assert client.read_many(["/many/1", "/many/missing"], None) == [b"value 1", None]
    with pytest.raises(InvalidRequest):
        client.read_many(["/many/missing", "//"], None)


def test_more_than_the_socket_holds_in_both_directions(client: Any) -> None:
    """8 MB of requests and of replies: who only sends before he reads would wait for ever."""
    value = b"x" * 2000
    client.write_many((f"/big/{n}", value) for n in range(20))
    assert client.read_many([f"/big/{n % 20}" for n in range(4000)]) == [value] * 4000
    client.write_many((f"/big/{n % 20}", value) for n in range(4000))


def test_any_requests_at_once(client: Any) -> None:
    many = [
        requests.write("/a", b"1"),
        requests.read("/a"),
        requests.directory("/tool"),
        requests.read("/missing"),
        requests.get_domain_path(7),
    ]
    results = client.call_many(many, return_errors=True)
    assert results[:3] == [None, b"1", [b"xenstored"]]
    assert isinstance(results[3], NotFound)
    assert results[4] == b"/local/domain/7"
    with pytest.raises(NotFound):
        client.call_many(many)


# -- transactions -----------------------------------------------------------------------------------


def test_a_transaction_shows_nothing_before_its_end(client: Any, other: Any) -> None:
    with client.transaction() as tx:
        tx.write("/a", b"inside")
        assert tx.read("/a") == b"inside"
        assert set(tx.list("/")) == {*client.list("/"), b"a"}
        assert not other.exists("/a")
        assert not client.exists("/a")  # the client itself stands outside
    assert other.read("/a") == b"inside"


def test_a_transaction_whose_body_fails_leaves_nothing(client: Any) -> None:
    with pytest.raises(ZeroDivisionError), client.transaction() as tx:
        tx.write("/a", b"inside")
        raise ZeroDivisionError
    assert not client.exists("/a")
    with pytest.raises(NotFound):
        tx.read("/a")


def test_a_transaction_by_hand(client: Any) -> None:
    tx = client.transaction()
    tx.start()
    tx.write_many({"/a": b"1", "/b": b"2"})
    assert tx.read_many(["/a", "/b"]) == [b"1", b"2"]
    tx.rollback()
    assert not client.exists("/a")
    tx.start()
    tx.write("/a", b"1")
    tx.commit()
    assert client.read("/a") == b"1"


def test_a_conflict_is_an_error(client: Any, other: Any) -> None:
    client.write("/counter", b"1")
    with pytest.raises(Conflict) as conflict, client.transaction() as tx:
        value = int(tx.read("/counter"))
        other.write("/counter", b"5")
        tx.write("/counter", b"%d" % (value + 1))
    assert conflict.value.errno == errno.EAGAIN
    assert tx.conflict
    assert client.read("/counter") == b"5"


def test_a_transaction_is_tried_again_until_nobody_interferes(client: Any, other: Any) -> None:
    client.write("/counter", b"1")
    attempts = 0
    for tx in client.transactions():
        with tx:
            attempts += 1
            value = int(tx.read("/counter"))
            if attempts < 4:
                other.write("/counter", b"%d" % (10 * attempts))
            tx.write("/counter", b"%d" % (value + 1))
    assert attempts == 4
    assert client.read("/counter") == b"31"


def test_there_is_a_limit_to_trying_again(client: Any, other: Any) -> None:
    client.write("/counter", b"1")
    attempts = 0
    with pytest.raises(Conflict):
        for tx in client.transactions(attempts=3):
            with tx:
                attempts += 1
                value = int(tx.read("/counter"))
                other.write("/counter", b"%d" % (10 * attempts))
                tx.write("/counter", b"%d" % (value + 1))
    assert attempts == 3


def test_two_transactions_of_one_client_stand_side_by_side(client: Any) -> None:
    with client.transaction() as one, client.transaction() as two:
        one.write("/a", b"1")
        two.write("/b", b"2")
        assert not one.exists("/b")
        two.rollback()
    assert client.exists("/a")
    assert not client.exists("/b")


# -- watches ----------------------------------------------------------------------------------------


def test_a_watch_tells_what_happens_below_it(client: Any, other: Any) -> None:
    with client.watch("/vm") as events:
        assert events.read(timeout_s=WAIT_S) == Event(b"/vm", b"/vm")  # the first one, without a change
        other.write("/vm/1/name", b"web")
        assert events.read(timeout_s=WAIT_S) == (b"/vm/1/name", b"/vm")
        other.delete("/vm/1")
        path, token = events.read(timeout_s=WAIT_S)
        assert (path, token) == (b"/vm/1", b"/vm")
        other.write("/elsewhere", b"")
        assert events.check() is None


def test_iterating_waits_for_events_and_ends_when_the_monitor_is_closed(client: Any, other: Any) -> None:
    monitor = client.watch("/a", token="mine")
    seen = []
    for event in monitor:
        seen.append(event)
        if len(seen) == 1:
            other.write("/a/b", b"")
        if len(seen) == 2:
            monitor.close()
    assert seen == [(b"/a", "mine"), (b"/a/b", "mine")]
    with pytest.raises(Closed):
        monitor.read()


def test_a_watch_of_ones_own_changes(client: Any) -> None:
    with client.watch("/a") as events:
        assert events.read(timeout_s=WAIT_S).path == b"/a"
        client.write("/a/1", b"")
        client.read_many(["/a/1"] * 100)  # events come between replies
        client.write("/a/2", b"")
        assert events.read(timeout_s=WAIT_S).path == b"/a/1"
        assert events.read(timeout_s=WAIT_S).path == b"/a/2"


def test_monitors_do_not_disturb_each_other(client: Any, other: Any) -> None:
    """The same path twice, on one connection: EEXIST to a client that sends its user's tokens over the wire."""
    with client.watch("/a") as first, client.watch("/a") as second:
        assert first.read(timeout_s=WAIT_S).path == b"/a"
        assert second.read(timeout_s=WAIT_S).path == b"/a"
        other.write("/a/b", b"")
        assert first.read(timeout_s=WAIT_S).path == b"/a/b"
        assert second.read(timeout_s=WAIT_S).path == b"/a/b"
        first.close()
        other.write("/a/c", b"")
        assert second.read(timeout_s=WAIT_S).path == b"/a/c"


def test_a_monitor_with_several_watches(client: Any, other: Any) -> None:
    with client.monitor() as monitor:
        monitor.watch("/a", token=1)
        monitor.watch("/b", token=(2, 3))
        with pytest.raises(AlreadyExists):
            monitor.watch("/a", token=1)
        assert {monitor.read(timeout_s=WAIT_S), monitor.read(timeout_s=WAIT_S)} == {(b"/a", 1), (b"/b", (2, 3))}
        other.write("/b/x", b"")
        assert monitor.read(timeout_s=WAIT_S) == (b"/b/x", (2, 3))
        with pytest.raises(NotFound):
            monitor.unwatch("/a")
        with pytest.raises(InvalidRequest):
            monitor.watch("/not//a path")
        other.write("/a/x", b"")
        other.write("/b/y", b"")
        client.read("/b/y")  # by now both events are here
        monitor.unwatch("/a", token=1)  # and this one takes its own along
        assert monitor.read(timeout_s=WAIT_S) == (b"/b/y", (2, 3))
        assert monitor.check() is None


def test_a_refused_watch_leaves_nothing(client: Any) -> None:
    with pytest.raises(InvalidRequest), client.watch("/a//b") as monitor:
        raise AssertionError(monitor)
    with client.watch("/a") as monitor:
        assert monitor.read(timeout_s=WAIT_S).path == b"/a"


def test_a_monitor_that_nobody_holds_takes_its_watches_with_it(client: Any, other: Any) -> None:
    """`for event in client.watch(path)` with a break in it: nothing that could be closed."""
    for event in client.watch("/gone"):
        assert event.path == b"/gone"
        break
    with client.watch("/kept") as monitor:
        assert monitor.read(timeout_s=WAIT_S).path == b"/kept"
        session = getattr(client, "thing", client)._link._session
        assert [watch.path for watch in session.watches.values()] == [b"/kept"]
    other.write("/gone", b"")
    assert client.read("/gone") == b""


def test_the_special_paths(client: Any, host: Host) -> None:
    with Guests(host.env["SIMXEN_DIR"]) as guests, client.monitor() as monitor:
        monitor.watch("@introduceDomain")
        monitor.watch("@releaseDomain")
        assert {monitor.read(timeout_s=WAIT_S).path for _ in range(2)} == {b"@introduceDomain", b"@releaseDomain"}
        guests.create(5)
        client.introduce_domain(5, 1, 2)
        assert monitor.read(timeout_s=WAIT_S) == (b"@introduceDomain", b"@introduceDomain")
        client.release_domain(5)
        assert monitor.read(timeout_s=WAIT_S) == (b"@releaseDomain", b"@releaseDomain")


def test_depth_where_there_is_such_a_thing(client: Any, other: Any, host: Host) -> None:
    """4.22's watches may be told how far to look.  Debian's 4.17 refuses; `try_depth` then does without."""
    if host.kind == "fastxs":
        with client.watch("/a", depth=1) as monitor:
            assert monitor.read(timeout_s=WAIT_S).path == b"/a"
            other.write("/a/b/c", b"")
            other.write("/a/b", b"")
            assert monitor.read(timeout_s=WAIT_S).path == b"/a/b"
    else:
        with pytest.raises(InvalidRequest), client.watch("/a", depth=1) as monitor:
            raise AssertionError(monitor)
    with client.watch("/a", try_depth=1) as monitor:
        assert monitor.read(timeout_s=WAIT_S).path == b"/a"
        other.write("/a/b", b"")
        assert monitor.read(timeout_s=WAIT_S).path == b"/a/b"


# -- domains and the daemon ---------------------------------------------------------------------------


def test_domains(client: Any, host: Host) -> None:
    with Guests(host.env["SIMXEN_DIR"]) as guests:
        guests.create(5)
        guests.create(6)
        assert client.get_domain_path(5) == b"/local/domain/5"
        assert not client.is_domain_introduced(5)
        client.introduce_domain(5, 1, 2)
        client.introduce_domain(6, 1, 2)
        assert client.is_domain_introduced(5)
        client.set_target(6, 5)
        client.resume_domain(5)
        with pytest.raises(NotFound):
            client.suspend_evtchn_port(5)
        client.write("/local/domain/5/device/suspend/event-channel", b"17")
        assert client.suspend_evtchn_port(5) == 17
        client.release_domain(6)
        client.release_domain(5)  # in this order: to C 4.17 a target is there as long as it is somebody's
        assert not client.is_domain_introduced(5)


def test_the_daemons_own_commands(client: Any, host: Host) -> None:
    if host.kind == "ox":
        assert client.control("print", "hello")[:2] in (b"OK", b"")
        return
    assert b"check" in client.control("help")
    with pytest.raises(InvalidRequest):
        client.control("no-such-command")


def test_features_and_quotas_of_today(client: Any, host: Host) -> None:
    if host.kind != "fastxs":
        for call in (client.get_features, client.get_quota_names):
            with pytest.raises(NotSupported):
                call()
        return
    with Guests(host.env["SIMXEN_DIR"]) as guests:
        guests.create(5)
        assert client.get_features() & 4  # WATCHDEPTH
        client.set_features(5, 2)
        assert client.get_features(5) == 2
        client.introduce_domain(5, 1, 2)
        assert b"nodes" in client.get_quota_names()
        client.set_quota("nodes", 77)
        assert client.get_quota("nodes") == 77
        client.set_quota("nodes", 78, domid=5)
        assert client.get_quota("nodes", domid=5) == 78


# -- life -------------------------------------------------------------------------------------------


def test_a_client_connects_when_it_is_first_used_and_never_again_after_close(host: Host, faces: Faces) -> None:
    client = faces.make(host.socket)
    assert client.exists("/")
    client.close()
    client.close()
    with pytest.raises(Closed):
        client.read("/")
    with pytest.raises(Closed):
        client.connect()
    never = faces.make(host.socket)
    never.close()


def test_where_there_is_no_daemon(faces: Faces) -> None:
    client = faces.make("/nonexistent/socket")
    with pytest.raises(Disconnected) as refused:
        client.connect()
    assert isinstance(refused.value, ConnectionError)
    assert isinstance(refused.value.__cause__, FileNotFoundError)
    with pytest.raises(Disconnected):
        client.read("/")


def test_the_daemons_end_is_told_to_all(host: Host, faces: Faces) -> None:
    client = faces.make(host.socket)
    monitor = client.watch("/a")
    assert monitor.read(timeout_s=WAIT_S).path == b"/a"
    host.kill()
    with pytest.raises(Disconnected):
        monitor.read(timeout_s=WAIT_S)
    with pytest.raises(Disconnected):
        client.read("/a")
    monitor.close()
