"""Both clients with one face, so that one conversation is held by either.

Owns `Played`, which plays an asyncio client (and its monitors and transactions) step by step on a loop of its own.
Refuses to know what is asked.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Self

from fastxs.client import AsyncClient, Client

PATIENCE_S: Final = 20


class Played:
    """An object of the asyncio client, used as its counterpart for threads is."""

    def __init__(self, thing: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.thing = thing
        self.loop = loop

    def play(self, awaitable: Awaitable[Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(PATIENCE_S):
                return await awaitable

        return self.loop.run_until_complete(bounded())

    def _as_seen(self, result: Any) -> Any:
        if inspect.isawaitable(result):
            result = self.play(result)
        if type(result).__name__.startswith("Async") or inspect.isasyncgen(result):
            return Played(result, self.loop)
        return result

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.thing, name)
        if not callable(found):
            return found

        def called(*args: Any, **kwargs: Any) -> Any:
            return self._as_seen(found(*args, **kwargs))

        return called

    def read(self, *args: Any, timeout_s: float | None = None, **kwargs: Any) -> Any:
        """A monitor's `read` has a bound for threads; a task has asyncio's own."""
        if timeout_s is None:
            return self._as_seen(self.thing.read(*args, **kwargs))

        async def bounded() -> Any:
            async with asyncio.timeout(timeout_s):
                return await self.thing.read(*args, **kwargs)

        return self.play(bounded())

    def __enter__(self) -> Self:
        self.play(self.thing.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self.play(self.thing.__aexit__(*error))

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                yield self._as_seen(self.thing.__anext__())
            except StopAsyncIteration:
                return

    def __next__(self) -> Any:
        try:
            return self._as_seen(self.thing.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None


class Faces:
    """Makes clients of one kind, `threads` or `asyncio`, and closes them at the end."""

    def __init__(self, kind: str) -> None:
        self.kind: Final = kind
        self._loop: Final = asyncio.new_event_loop()
        self._made: list[Callable[[], None]] = []

    def make(self, *args: Any, **kwargs: Any) -> Any:
        """`Client(*args, **kwargs)` or its counterpart."""
        client: Any = Client(*args, **kwargs)
        if self.kind == "asyncio":
            client = Played(AsyncClient(*args, **kwargs), self._loop)
        self._made.append(client.close)
        return client

    def close(self) -> None:
        for close in self._made:
            close()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
