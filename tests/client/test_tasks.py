"""Tasks that wait, and what becomes of the others when they are cancelled or closed under."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from fastxs.client import AsyncClient, Closed, Disconnected, Event, Reconnected
from fastxs.hypervisor.host import Host
from tests.support.leaks import descriptors
from tests.support.wire import Message, Op, Splitter

T = TypeVar("T")
TIMES = 1000
WAIT_S = 20


Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(scope="session", params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """`run(coroutine)` on either loop."""
    factory = None
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop", reason="uvloop is not installed").new_event_loop
        factory().close()  # libuv opens a pipe once, for as long as the process lives

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(60):
                await coroutine

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return run


async def within(awaitable: Awaitable[T]) -> T:
    """Wait, but not for ever."""
    return await asyncio.wait_for(awaitable, WAIT_S)


def heard(client: AsyncClient) -> list[Message]:
    """A list of every message that will come from the daemon, asked for or not."""
    transport, splitter = client._link._transport, Splitter()
    found: list[Message] = []
    assert transport is not None
    take = transport.take

    def listen() -> bytes:
        data = take()
        found.extend(splitter.feed(data))
        return data

    transport.take = listen  # type: ignore[method-assign]
    return found


def test_a_thousand_tasks_cancelled_while_they_wait_for_a_watch(fastxs_host: Host, run: Run) -> None:
    async def play() -> None:
        async with AsyncClient(fastxs_host.socket) as client:

            async def listen(seen: asyncio.Event) -> None:
                async for event in client.watch("/a"):
                    assert event.path == b"/a"
                    seen.set()

            before = descriptors()
            for _ in range(TIMES):
                seen = asyncio.Event()
                task = asyncio.create_task(listen(seen))
                await within(seen.wait())
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            del task
            assert await client.read("/") == b""
            assert not client._link._session.watches
            assert descriptors() == before
            assert len(asyncio.all_tasks()) <= 2

    run(play())


def test_a_task_cancelled_at_any_step_of_a_watchs_life_leaves_no_watch(fastxs_host: Host, run: Run) -> None:
    """Before WATCH is sent, before its reply, between events, while UNWATCH is under way."""

    async def play() -> None:
        async with AsyncClient(fastxs_host.socket) as client, AsyncClient(fastxs_host.socket) as other:
            for steps in range(40):

                async def listen() -> None:
                    async with client.watch("/a") as events:
                        await events.read()
                        await other.write("/a/b", b"")
                        await events.read()

                task = asyncio.create_task(listen())
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    assert task.exception() is None
                for _ in range(3):  # whatever is to be taken back is
                    await client.read("/")
                assert not client._link._session.watches
                assert not client._link._session._waiting
            # The daemon has no watch, either: it tells us nothing.
            messages = heard(client)
            await other.write("/a/c", b"")
            await client.read("/a/c")
            assert [message.op for message in messages] == [Op.READ]

    run(play())


def test_a_transaction_that_nobody_waits_for_is_ended(fastxs_host: Host, run: Run) -> None:
    """Ten are allowed to a guest; each START that was cancelled under way would cost one for ever."""

    async def play() -> None:
        async with AsyncClient(fastxs_host.socket) as client:
            messages = heard(client)
            for _ in range(50):
                task = asyncio.create_task(client.transaction().start())
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            for _ in range(3):
                await client.read("/")
            ops = [message.op for message in messages]
            assert ops.count(Op.TRANSACTION_START) == ops.count(Op.TRANSACTION_END) > 0
            assert not client._link._session._waiting

    run(play())


def test_tasks_are_pipelined_without_knowing_it(fastxs_host: Host, run: Run) -> None:
    async def play() -> None:
        async with AsyncClient(fastxs_host.socket) as client:
            values = {f"/value/{n}": b"%d" % n for n in range(500)}
            await asyncio.gather(*(client.write(path, value) for path, value in values.items()))
            sent = 0
            link = client._link
            assert link._transport is not None
            put = link._transport.put

            def counted(data: memoryview, /) -> int:
                nonlocal sent
                sent += 1
                return put(data)

            link._transport.put = counted  # type: ignore[method-assign]
            assert await asyncio.gather(*map(client.read, values)) == list(values.values())
            assert sent == 1

    run(play())


def test_close_wakes_every_waiter(fastxs_host: Host, run: Run) -> None:
    async def play() -> None:
        client = AsyncClient(fastxs_host.socket)
        monitors = [client.watch(f"/{n}") for n in range(5)]
        for monitor in monitors:
            await within(monitor.read())

        async def iterate() -> None:
            async for event in monitors[0]:
                raise AssertionError(event)

        os.kill(fastxs_host.pid, signal.SIGSTOP)
        try:
            tasks = [asyncio.create_task(monitor.read()) for monitor in monitors * 2]
            tasks.append(asyncio.create_task(client.read("/")))  # type: ignore[arg-type]
            tasks.append(asyncio.create_task(client.read_many(["/"] * 3)))  # type: ignore[arg-type]
            iterating = asyncio.create_task(iterate())
            await asyncio.sleep(0.01)
            await within(client.close())
            ends = await within(asyncio.gather(*tasks, return_exceptions=True))
            assert [type(end) for end in ends] == [Closed] * 12
            await within(iterating)  # ends without an error
        finally:
            os.kill(fastxs_host.pid, signal.SIGCONT)

    run(play())


def test_a_monitor_that_nobody_holds_ends_its_watch_by_itself(fastxs_host: Host, run: Run) -> None:
    async def play() -> None:
        async with AsyncClient(fastxs_host.socket) as client:
            monitor = client.watch("/a")
            assert await within(monitor.read()) == Event(b"/a", b"/a")
            del monitor
            gc.collect()
            for _ in range(3):
                await client.read("/")
            assert not client._link._session.watches
            assert not client._link._session._waiting

    run(play())


def test_a_lost_connection_is_made_again_where_that_was_asked_for(fastxs_host: Host, run: Run) -> None:
    async def play() -> None:
        async with (
            AsyncClient(fastxs_host.socket, reconnect_s=WAIT_S) as client,
            AsyncClient(fastxs_host.socket) as frail,
        ):
            monitor = client.watch("/a", token="mine")
            assert await within(monitor.read()) == (b"/a", "mine")
            tx = client.transaction()
            await tx.start()
            fastxs_host.kill()
            with pytest.raises(Disconnected):
                await within(frail.read("/"))
            with pytest.raises(Disconnected):
                await within(frail.read("/"))
            await asyncio.to_thread(fastxs_host.start)
            event = await within(monitor.read())
            assert isinstance(event, Reconnected)
            while isinstance(event, Reconnected):
                event = await within(monitor.read())
            assert event == (b"/a", "mine")
            await client.write("/a/b", b"")
            assert await within(monitor.read()) == (b"/a/b", "mine")
            async with client.transaction():
                with pytest.raises(Disconnected):
                    await tx.write("/b", b"")
            assert not await client.exists("/b")

    run(play())


def test_close_ends_the_wait_for_a_daemon(run: Run) -> None:
    async def play() -> None:
        client = AsyncClient("/nonexistent/socket", reconnect_s=3600)
        asking = asyncio.create_task(client.read("/"))
        await asyncio.sleep(0.02)
        await client.close()
        with pytest.raises(Closed):
            await within(asking)

    run(play())


def test_what_is_left_open_is_told(fastxs_host: Host, run: Run) -> None:
    async def play() -> None:
        client = AsyncClient(fastxs_host.socket)
        await client.connect()
        client._link._loop.remove_reader(client._link._transport.fileno())  # type: ignore[union-attr]
        with pytest.warns(ResourceWarning):
            del client
            gc.collect()

    run(play())
