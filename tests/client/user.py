"""A user's program, which uses every public name of fastxs.client: mypy reads it, and a test runs it.

python -m tests.client.user SOCKET
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

from fastxs import AsyncClient, Client
from fastxs.client import (
    AccessDenied,
    AlreadyConnected,
    AlreadyExists,
    AsyncMonitor,
    AsyncTransaction,
    Busy,
    Closed,
    Conflict,
    Dial,
    Disconnected,
    Event,
    InvalidRequest,
    IOFailure,
    IsDirectory,
    Monitor,
    NotEmpty,
    NotFound,
    NotPermitted,
    NotSupported,
    Op,
    OutOfMemory,
    Path,
    Perm,
    ProtocolError,
    QuotaExceeded,
    ReadOnly,
    Reconnected,
    Request,
    TooBig,
    Transaction,
    Transport,
    UnixSocket,
    XenBus,
    XenStoreError,
    daemon_rundir,
    daemon_socket,
    path_is_subpath,
    requests,
)

PATIENCE_S = 10


def nodes(client: Client | Transaction, home: Path) -> None:
    """Everything that can be done with nodes, in a transaction or outside."""
    name = f"{home!s}/name"
    client.write(name, b"web\0")
    client[f"{home!s}/state"] = b"4"
    value: bytes = client.read(name)
    assert value == client[name] == b"web\0"
    maybe: bytes | None = client.read("/missing", None)
    assert maybe is None
    client.mkdir(f"{home!s}/device")
    children: list[bytes] = client.list(home)
    assert children == [b"name", b"state", b"device"]
    assert client.exists(home)
    assert name in client
    client.set_perms(name, [Perm(0), "r7", b"b8"])
    entries: list[bytes] = client.get_perms(name)
    assert [bytes(Perm.parse(entry)) for entry in entries] == [b"n0", b"r7", b"b8"]
    client.write_many({f"{home!s}/device/{n}": b"%d" % n for n in range(3)})
    client.write_many([(f"{home!s}/device/3", b"3")])
    values: list[bytes] = client.read_many(f"{home!s}/device/{n}" for n in range(4))
    assert values == [b"0", b"1", b"2", b"3"]
    some: list[bytes | None] = client.read_many([name, "/missing"], None)
    assert some == [b"web\0", None]
    for path, of_node, names in client.walk(home, topdown=False):
        assert path_is_subpath(home, path)
        assert isinstance(of_node, bytes)
        assert isinstance(names, list)
    one: int = client.call(Request(Op.READ, b"%s/state\0" % str(home).encode(), int))
    assert one == 4
    found = client.call_many([requests.read(name), requests.read("/missing")], return_errors=True)
    assert isinstance(found[1], NotFound)
    del client[f"{home!s}/device"]
    client.delete(home)


def transactions(client: Client) -> None:
    with client.transaction() as tx:
        nodes(tx, "/tx")
        assert tx.tx_id != 0
    try:
        with client.transaction() as tx:
            tx.read("/counter", b"0")
            client.write("/counter", b"1")
            tx.write("/counter", b"2")
    except Conflict:
        assert tx.conflict
    for tx in client.transactions(attempts=5):
        with tx:
            tx.write("/counter", b"%d" % (int(tx.read("/counter")) + 1))
    by_hand = client.transaction()
    by_hand.start()
    same: Transaction = client.transaction(by_hand.tx_id)
    same.write("/by", b"hand")
    by_hand.rollback()
    another = client.transaction()
    another.start()
    another.commit()


def watches(client: Client) -> None:
    for event in client.watch("/counter"):
        told: Event = event
        assert told.path == b"/counter"
        break
    with client.monitor() as monitor:
        monitor.watch("/a", token="any object")
        monitor.watch("@releaseDomain", try_depth=1)
        first: Event = monitor.read(PATIENCE_S)
        assert not isinstance(first, Reconnected)
        assert monitor.fileno() >= 0
        second: Event = next(monitor.wait())
        assert second.path == b"@releaseDomain"
        nothing: Event | None = monitor.check()
        assert nothing is None
        monitor.unwatch("/a", token="any object")
        other: Monitor = monitor
        other.close()


def daemon(client: Client) -> None:
    path: bytes = client.get_domain_path(7)
    assert path == b"/local/domain/7"
    introduced: bool = client.is_domain_introduced(0)
    assert introduced
    for refused in (
        lambda: client.introduce_domain(7, 1, 2),
        lambda: client.release_domain(7),
        lambda: client.resume_domain(7),
        lambda: client.set_target(7, 8),
        lambda: client.suspend_evtchn_port(7),
        lambda: client.set_features(7, 1 << 30),
    ):
        try:
            refused()
        except (InvalidRequest, NotFound):
            continue
        raise AssertionError("there is no domain 7")
    said: bytes = client.control("help")
    assert b"check" in said
    features: int = client.get_features()
    assert features >= 0
    names: list[bytes] = client.get_quota_names()
    quota: int = client.get_quota(names[0])
    client.set_quota(names[0], quota)


def errors() -> Iterator[type[XenStoreError]]:
    """All that can be caught by name."""
    yield from (AccessDenied, AlreadyConnected, AlreadyExists, Busy, Closed, Conflict, Disconnected, InvalidRequest)
    yield from (IOFailure, IsDirectory, NotEmpty, NotFound, NotPermitted, NotSupported, OutOfMemory, ProtocolError)
    yield from (QuotaExceeded, ReadOnly, TooBig)


def threads(socket: str) -> None:
    way: Dial = lambda: UnixSocket(socket)  # noqa: E731  # so that its type is seen to fit
    with Client(transport=way, reconnect_s=1.0) as client:
        client.connect()
        nodes(client, "/home")
        transactions(client)
        watches(client)
        daemon(client)
        client.close()
        try:
            client.read("/")
        except Closed as error:
            assert isinstance(error, tuple(errors()))
    assert daemon_socket().startswith(daemon_rundir()) or daemon_socket()
    try:
        device: Transport = XenBus("/nonexistent")
        device.close()
    except FileNotFoundError:
        pass


async def async_nodes(client: AsyncClient | AsyncTransaction) -> None:
    await client.write("/home/name", b"web")
    value: bytes = await client.read("/home/name")
    maybe: bytes | None = await client.read("/missing", None)
    assert (value, maybe) == (b"web", None)
    await client.mkdir("/home/device")
    children: list[bytes] = await client.list("/home")
    assert children == [b"name", b"device"]
    assert await client.exists("/home")
    await client.set_perms("/home", [Perm(0)])
    entries: list[bytes] = await client.get_perms("/home")
    assert entries == [b"n0"]
    await client.write_many({"/home/a": b"1", "/home/b": b"2"})
    values: list[bytes] = await client.read_many(["/home/a", "/home/b"])
    some: list[bytes | None] = await client.read_many(["/home/a", "/missing"], None)
    assert (values, some) == ([b"1", b"2"], [b"1", None])
    async for path, _, _ in client.walk("/home"):
        assert path_is_subpath("/home", path)
    one: bytes = await client.call(requests.read("/home/a"))
    assert [one] == await client.call_many([requests.read("/home/a")])
    await client.delete("/home")


async def tasks(socket: str) -> None:
    async with AsyncClient(socket) as client:
        await client.connect()
        await async_nodes(client)
        async with client.transaction() as tx:
            await async_nodes(tx)
        async for again in client.transactions():
            async with again:
                await again.write("/counter", b"1")
        by_hand: AsyncTransaction = client.transaction()
        await by_hand.start()
        await by_hand.rollback()
        async for event in client.watch("/counter"):
            told: Event = event
            assert told.token == b"/counter"
            break
        async with client.watch("/counter", token=7, try_depth=0) as events:
            watching: AsyncMonitor = events
            assert (await watching.read()).token == 7
            await watching.watch("/other")
            assert (await anext(watching.wait())).path == b"/other"
            assert watching.check() is None
            await watching.unwatch("/other")
        assert await client.get_domain_path(7) == b"/local/domain/7"
        assert await client.is_domain_introduced(0)
        assert b"check" in await client.control("help")
        assert await client.get_quota("nodes") >= 0
        assert b"nodes" in await client.get_quota_names()
        assert await client.get_features() >= 0
    await client.close()


def main(socket: str) -> None:
    threads(socket)
    asyncio.run(tasks(socket))
    print("done")


if __name__ == "__main__":
    main(sys.argv[1])
