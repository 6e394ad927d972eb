"""`fastxs record`: a daemon's traffic into a file.

Owns the command's words, the file, and how it ends.  Refuses to know what passes (`fastxs.replay.proxy`) and what it
looks like in the file (`fastxs.replay.recording`).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import click

from fastxs.cli.sources import opened, told
from fastxs.cli.words import REFUSED, Refused, escaped, socket_option
from fastxs.client import daemon_socket
from fastxs.daemon.claims import StartError, hold_socket, reason
from fastxs.daemon.lifecycle import loop_factory
from fastxs.replay import sources
from fastxs.replay.proxy import Proxy
from fastxs.replay.recording import Head, Node, Record, RecordingError, to_line

__all__ = ["record"]

BACKLOG: Final = 1024
FLUSH_S: Final = 1.0


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--listen", metavar="SOCKET", type=click.Path(), help="Stand here for the daemon, until Ctrl-C.")
@socket_option
@click.option("--store/--no-store", default=True, help="The nodes that there are go first.  [default: they do]")
@click.option(
    "--from",
    "trace",
    metavar="TRACE",
    type=click.Path(exists=True, dir_okay=False),
    help="Convert C xenstored's or fastxs's trace file, or oxenstored's access log.",
)
def record(file: Path, *, listen: str | None, socket: str | None, store: bool, trace: str | None) -> None:
    """Record a daemon's traffic in FILE, for `fastxs replay`.

    With --listen it stands before the daemon's socket: whoever connects there (XENSTORED_PATH) talks to the daemon
    through it.  FILE then holds what they wrote and read: nobody else can read it.
    """
    if (listen is None) == (trace is None):
        raise click.UsageError("say either --listen or --from")
    with told():
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as out:
                if trace is not None:
                    _convert(trace, out)
                elif listen is not None:
                    daemon = socket or daemon_socket()
                    out.write(to_line(Head(daemon, "sent")))
                    if store:
                        out.writelines(map(to_line, _nodes(daemon)))
                    with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
                        runner.run(_listen(listen, daemon, out))
        except (RecordingError, StartError) as error:
            raise Refused(str(error), REFUSED) from None


def _convert(trace: str, out: BinaryIO) -> None:
    with sources.opened(trace) as (head, records):
        out.write(to_line(head))
        out.writelines(map(to_line, records))


def _nodes(daemon: str) -> Iterator[Node]:
    with opened(daemon) as source:
        for node in source.state.nodes:
            if node.path.startswith(b"/"):
                perms = tuple(f"{perm.letter}{perm.domid}".encode() for perm in node.perms)
                yield Node(node.path, node.value, perms)


class Tape:
    """The file as the proxy writes it: what cannot be written ends the recording, never a client's connection."""

    def __init__(self, out: BinaryIO) -> None:
        self._out: Final = out
        self.records = 0
        self.error: OSError | None = None

    def write(self, record: Record) -> None:
        self._try(to_line(record))
        self.records += self.error is None

    def flush(self) -> None:
        self._try(b"")

    def _try(self, line: bytes) -> None:
        if self.error is None:
            try:
                self._out.write(line) if line else self._out.flush()
            except OSError as error:
                self.error = error
                click.echo(f"the recording ends here, the clients go on: {reason(error)}", err=True)


async def _listen(listen: str, daemon: str, out: BinaryIO) -> None:
    tape, stop, loop = Tape(out), asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with hold_socket(listen, BACKLOG) as listener:
        proxy = asyncio.ensure_future(Proxy(listener, daemon, tape.write).run(stop))
        name = escaped(os.fsencode(listen))
        click.echo(f"recording until Ctrl-C; for clients:\n    export XENSTORED_PATH={name}", err=True)
        while not proxy.done():
            await asyncio.wait((proxy,), timeout=FLUSH_S)
            tape.flush()
        await proxy
    click.echo(f"{tape.records:,} records", err=True)
    if tape.error is not None:
        raise Refused(reason(tape.error), REFUSED)
