"""`fastxs check`, `fastxs dump`, `fastxs diff`: a store as it is, wherever it lies.

Owns these commands' words and exit statuses.  Refuses to know where a store is read from (`fastxs.cli.sources`) and how
a dump is written (`fastxs.cli.lines`, `fastxs.state`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

import click

from fastxs.cli import lines
from fastxs.cli.sources import Source, examined, kind_of, opened, progress, told
from fastxs.cli.words import connected, shown
from fastxs.client import Client, InvalidRequest, daemon_socket
from fastxs.state import Connection, Node, Nodes, Perm, Ring, StreamError, Version, what_is_lost, write
from fastxs.storage.reader import Findings

__all__ = ["check", "diff", "dump"]

SHOWN: Final = 20
"""Faults of an image that are printed one by one."""

SOURCE_HELP: Final = """SOURCE is a daemon's socket, the folder of an image that no daemon serves, a dump of ours, a
migration stream of Xen's, a dump of oxenstored's, or - for such a file on stdin."""


# ---- check -------------------------------------------------------------------------------------------------


@click.command(epilog=SOURCE_HELP)
@click.argument("source", type=click.Path(), required=False)
def check(source: str | None) -> None:
    """Look for damages in SOURCE, or let the running daemon look at itself.

    Of an image every record is read and compared with its checksum, and every reference is followed.  A running daemon
    compares every counter and index with what it counts; C xenstored and oxenstored do not tell what they find.

    Exit status: 0 it is sound, 1 it is not, or cannot be read.
    """
    with told():
        match kind_of(source):
            case "live":
                path = source or daemon_socket()
                with connected(path) as client:
                    faults = _asked(client)
                click.echo(f"{path}: {_listed(faults)}")
                sys.exit(1 if faults else 0)
            case "image":
                assert source is not None
                found = examined(source)
                click.echo(_summary(source, found))
                sys.exit(1 if found.faulty else 0)
            case _:
                with opened(source) as store:
                    click.echo(_walked(store))


def _asked(client: Client) -> list[str] | None:
    """What the running daemon finds; None: it does not tell."""
    try:
        return os.fsdecode(client.control("fastxs-check")).splitlines()
    except InvalidRequest:
        client.control("check")
        return None


def _listed(faults: list[str] | None) -> str:
    if faults is None:
        return "the daemon has checked its store; if it found faults, they are in its log"
    if not faults:
        return "sound; the running daemon has checked all of it"
    count = f"{len(faults)} fault{'s' * (len(faults) > 1)}"
    return "\n".join([f"the running daemon found {count}:", *(f"  {fault}" for fault in faults)])


def _summary(folder: str, found: Findings) -> str:
    """What is in an image, for people."""
    rows: list[tuple[str, str]] = [("format", str(found.version)), ("last turn", f"{found.turn:,}")]
    if found.identity is not None:
        now = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        boot = "this boot of the host" if found.identity.boot == now else f"another boot, {found.identity.boot}"
        rows.append(("made for", f"{boot}, {found.identity.hypervisor}"))
    if found.meta is not None:
        rows.append(("recoveries", f"{found.meta.recoveries:,}"))
    counts = ("nodes", "specials", "domains", "rings", "sockets", "watches", "transactions", "bytes of values")
    rows += [(name, f"{found.counts[name]:,}") for name in counts]
    if found.counts["removed"]:
        rows.append(("left over", f"{found.counts['removed']:,} nodes that were removed; the daemon clears them away"))
    text = [folder, *(f"  {name:<18}{value}" for name, value in rows), ""]
    if not found.faulty:
        return "\n".join([*text, "sound"])
    text.append(f"damaged, {found.faulty:,} fault{'s' * (found.faulty > 1)}:")
    text += [f"  {fault}" for fault in found.faults[:SHOWN]]
    if found.faulty > SHOWN:
        text.append(f"  and {found.faulty - SHOWN:,} more")
    return "\n".join([*text, "The daemon sets it aside at its next start and begins with an empty store."])


def _walked(store: Source) -> str:
    """A file's nodes are all there, parents first.  StreamError: they are not."""
    seen: set[bytes] = set()
    for node in progress(store, f"reading {store.name}"):
        path = node.path
        parent = path.rpartition(b"/")[0] or b"/"
        if path in seen:
            raise StreamError(f"{store.name}: {shown(path)} is there twice")
        if path.startswith(b"/") and path != b"/" and parent not in seen:
            raise StreamError(f"{store.name}: {shown(path)} comes before its parent, or has none")
        seen.add(path)
    state = store.state
    watches = sum(len(connection.watches) for connection in state.connections)
    text = f"{store.name}: sound; {len(seen):,} nodes, {len(state.connections):,} connections, {watches:,} watches"
    return "\n".join([text, *(f"  {note}" for note in state.notes)])


# ---- dump --------------------------------------------------------------------------------------------------


@click.command(epilog=SOURCE_HELP)
@click.argument("source", type=click.Path(), required=False)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(),
    help="Where to; there only when it is complete.  [default: stdout]",
)
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["json", "stream"]),
    default="json",
    show_default=True,
    help="Lines of JSON, or Xen's migration stream.",
)
@click.option(
    "--stream-version",
    type=click.Choice(["1", "2"]),
    default="2",
    show_default=True,
    help="1 is read by C xenstored since Xen 4.15, 2 since 4.21.",
)
@click.option(
    "--snapshot/--no-snapshot",
    default=True,
    help="Whether a running daemon is read in one transaction, so that all is of one moment.  [default: it is]",
)
def dump(source: str | None, output: str | None, form: str, stream_version: str, snapshot: bool) -> None:
    """Write down all that SOURCE, or the running daemon, holds.

    One line of JSON for each node, parents first, behind what there is of quotas, domains, connections and watches.
    """
    if form == "stream" and output is None and sys.stdout.isatty():
        raise click.UsageError("a stream is no text: name a file with --output, or send it somewhere with a pipe.")
    with told(), opened(source, snapshot=snapshot) as store, _output(output) as file:
        state = store.state
        among_lines = output is None and sys.stdout.isatty()
        read = state.nodes if among_lines else Nodes(lambda: progress(store, f"reading {store.name}"))
        whole = dataclasses.replace(state, nodes=read)
        if form == "json":
            lines.write(whole, store.name, file)
        else:
            version = cast(Version, int(stream_version))
            gone = [each for each in whole.connections if not _lives(each)]
            whole.connections = [each for each in whole.connections if _lives(each)]
            lost = what_is_lost(whole, version)
            if gone:
                watches = sum(len(each.watches) for each in gone)
                lost.append(f"{len(gone):,} connections with {watches:,} watches: they ended with their daemon")
            write(whole, file, version)
            for each in lost:
                click.echo(f"left out: {each}", err=True)
        for note in state.notes:
            click.echo(f"note: {note}", err=True)


def _lives(connection: Connection) -> bool:
    """Whether its descriptor or port is known, by which another daemon could go on with it."""
    peer = connection.peer
    return peer.port > 0 if isinstance(peer, Ring) else peer.fd >= 0


@contextmanager
def _output(path: str | None) -> Iterator[BinaryIO]:
    """Where a dump goes; a file gets its name when all is in it."""
    if path is None:
        yield sys.stdout.buffer
        return
    folder = os.path.dirname(path) or "."
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{os.path.basename(path)}.", delete=False) as file:
        try:
            yield cast(BinaryIO, file)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


# ---- diff --------------------------------------------------------------------------------------------------


class Content(NamedTuple):
    """What a node holds."""

    value: bytes
    perms: tuple[Perm, ...]


@click.command(epilog=SOURCE_HELP)
@click.argument("first", metavar="SOURCE", type=click.Path())
@click.argument("second", metavar="[SOURCE]", type=click.Path(), required=False)
@click.option("--under", metavar="PATH", default="/", show_default=True, help="Only this node and those below it.")
@click.option("--values", is_flag=True, help="Compare values only, not permissions.")
@click.option("--json", "as_json", is_flag=True, help="The differences as JSON.")
def diff(first: str, second: str | None, under: str, values: bool, as_json: bool) -> None:
    """Compare the nodes of two stores; without a second one, with the running daemon.

    Exit status: 0 they are equal, 1 they differ, 2 one cannot be read.
    """
    with told(2), opened(first) as a, opened(second) as b:
        before, after = (_contents(each, under.encode(), values) for each in (a, b))
        paths = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        if as_json:
            click.echo(_as_json(paths, before, after))
        elif paths:
            click.echo(f"--- {a.name}\n+++ {b.name}")
            for path in paths:
                _echo_change(path, before.get(path), after.get(path))
    sys.exit(1 if paths else 0)


def _contents(store: Source, under: bytes, values: bool) -> dict[bytes, Content]:
    below = under.rstrip(b"/") + b"/"
    shared: dict[tuple[Perm, ...], tuple[Perm, ...]] = {}
    return {
        path: Content(value, () if values else shared.setdefault(perms, perms))
        for path, value, perms in progress(store, f"reading {store.name}")
        if under == b"/" or path == under or path.startswith(below)
    }


def _echo_change(path: bytes, before: Content | None, after: Content | None) -> None:
    for sign, colour, content in (("-", "red", before), ("+", "green", after)):
        if content is not None:
            entries = " ".join(lines.entry(perm) for perm in content.perms)
            name = shown(path)[1:-1]
            text = f"{sign} {name} = {shown(content.value)}{f'  [{entries}]' if entries else ''}"
            click.secho(text, fg=colour)


def _as_json(paths: list[bytes], before: dict[bytes, Content], after: dict[bytes, Content]) -> str:
    def side(path: bytes, side: dict[bytes, Content]) -> dict[str, Any] | None:
        content = side.get(path)
        return None if content is None else lines.to_line(Node(path, *content))

    changes = [{"first": side(path, before), "second": side(path, after)} for path in paths]
    return json.dumps(changes, indent=2)
