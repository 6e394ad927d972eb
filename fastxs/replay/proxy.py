"""Records a daemon's socket: stands before it, passes every byte on, and writes down what passes.

Owns the listening socket's clients and the order of what is written.  Refuses to know what a recording looks like, and
signals.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from itertools import count
from typing import Final

from fastxs.client.requests import Op
from fastxs.replay.frames import Frames, Message
from fastxs.replay.recording import Answered, Asked, Began, Ended, Record, Told

__all__ = ["Proxy"]

AT_ONCE: Final = 1 << 16

Write = Callable[[Record], None]


class Proxy:
    """Serves who connects to `listener`, and passes on to the daemon at `daemon`; `write` gets each record."""

    def __init__(self, listener: socket.socket, daemon: str, write: Write) -> None:
        self._listener: Final = listener
        self._daemon: Final = daemon
        self._write: Final = write
        self._numbers: Final = count(1)
        self._began_s = time.monotonic()
        self._clients: Final[set[asyncio.Task[None]]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then every client's connection ends."""
        server = await asyncio.start_unix_server(self._serve, sock=self._listener)
        self._began_s = time.monotonic()
        async with server:
            await stop.wait()
            server.close()
            for client in self._clients:
                client.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        conn = next(self._numbers)
        to_daemon: asyncio.StreamWriter | None = None
        self._write(Began(self._now_s(), conn, 0, ring=False))
        try:
            from_daemon, to_daemon = await asyncio.open_unix_connection(self._daemon)
            there = asyncio.ensure_future(self._pass(from_client, to_daemon, self._asked(conn)))
            back = asyncio.ensure_future(self._pass(from_daemon, to_client, self._said(conn)))
            try:
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the daemon is not there, or the recording is over: the client sees the end of its connection
        finally:
            self._write(Ended(self._now_s(), conn))
            for writer in (to_client, to_daemon):
                if writer is not None:
                    writer.close()
            self._clients.discard(task)

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, write: Callable[[Message], None]
    ) -> None:
        """Until the end of either.  What is no XenStore passes on, too, but is not written down any more."""
        frames: Frames | None = Frames()
        while data := await source.read(AT_ONCE):
            if frames is not None:
                try:
                    for message in frames.feed(data):
                        write(message)
                except ValueError:
                    frames = None
            target.write(data)
            await target.drain()

    def _asked(self, conn: int) -> Callable[[Message], None]:
        def write(message: Message) -> None:
            op, req_id, tx_id, payload = message
            self._write(Asked(self._now_s(), conn, op, req_id, tx_id, payload))

        return write

    def _said(self, conn: int) -> Callable[[Message], None]:
        def write(message: Message) -> None:
            if message.op == Op.WATCH_EVENT:
                self._write(Told(self._now_s(), conn, message.payload))
            else:
                self._write(Answered(self._now_s(), conn, message.req_id, message.answer))

        return write

    def _now_s(self) -> float:
        return time.monotonic() - self._began_s
