"""Where a store can be read: a running daemon, an image's folder, or a file that holds a state.

Owns how what is named on a command line is told apart, and how each becomes a `State`.  Refuses to know what is done
with it.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, TypeVar, cast

import click

from fastxs.cli import lines
from fastxs.cli.words import Refused, connected, refusal
from fastxs.client import Client, NotFound, Transaction, XenStoreError, daemon_socket, requests
from fastxs.daemon.claims import reason
from fastxs.state import Connection, Domain, Node, Nodes, Perm, Ring, Socket, State, StreamError, Watch, load
from fastxs.state.layout import IDENT
from fastxs.state.oxenstored import HEADER
from fastxs.storage import reader
from fastxs.storage.reader import Findings, Reader, Unreadable, examine

__all__ = ["Bar", "Source", "examined", "kind_of", "opened", "progress", "told", "walked"]

T = TypeVar("T")

SPECIALS: Final = (b"@introduceDomain", b"@releaseDomain")
PATIENCE_S: Final = 0.5
"""What is over sooner shows no bar."""
BATCH: Final = 512
"""Nodes whose permissions are asked for at once."""


@dataclass(frozen=True, slots=True)
class Source:
    """A store that can be read: what it is called, its state, and how many nodes there are, if that is known."""

    name: str
    state: State
    count: int | None = None


@contextmanager
def told(exit_code: int = 1) -> Iterator[None]:
    """Whatever a source or a daemon refuses is one line for whoever typed the command."""
    try:
        yield
    except (StreamError, Unreadable) as error:
        text = str(error)
    except XenStoreError as error:
        text = refusal(error).message
    except BrokenPipeError:
        raise
    except OSError as error:
        text = f"{error.filename}: {reason(error)}" if error.filename else reason(error)
    else:
        return
    raise Refused(text, exit_code)


def kind_of(name: str | None) -> str:
    """`live`, `image` or `file`.  OSError: there is no such thing."""
    if name is None:
        return "live"
    if name == "-":
        return "file"
    mode = os.stat(name).st_mode
    return "live" if stat.S_ISSOCK(mode) else "image" if stat.S_ISDIR(mode) else "file"


@contextmanager
def opened(name: str | None, *, snapshot: bool = True) -> Iterator[Source]:
    """The store that `name` leads to; None: the running daemon's, `-`: a file on stdin.

    `snapshot`: all of a running daemon's store is read in one transaction.  StreamError, Unreadable, XenStoreError,
    OSError: why it cannot be read; also while its nodes are.
    """
    with ExitStack() as stack:
        match kind_of(name):
            case "live":
                path = name or daemon_socket()
                yield Source(path, _live(stack.enter_context(connected(path)), snapshot))
            case "image":
                assert name is not None
                found = examined(name)
                if found.faulty:
                    raise Unreadable(
                        f"{name}: the image is damaged: {found.faults[0]} (`fastxs check {name}` tells all of it)"
                    )
                image = stack.enter_context(Reader(name))
                yield Source(name, _stored(image), found.counts["nodes"] + found.counts["specials"])
            case _:
                assert name is not None
                file = stack.enter_context(_file(name))
                yield Source(name, _loaded(name, file))


# ---- files -------------------------------------------------------------------------------------------------


@contextmanager
def _file(name: str) -> Iterator[BinaryIO]:
    """It can be mapped, and read again: what comes on stdin is kept aside."""
    if name != "-":
        with open(name, "rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
        kept.flush()
        yield cast(BinaryIO, kept)


def _loaded(name: str, file: BinaryIO) -> State:
    file.seek(0)
    begin = file.read(64)
    try:
        if begin.startswith(lines.MARK):
            state = lines.read(file)
        elif begin.startswith((IDENT, HEADER)):
            state = load(file)
        else:
            raise StreamError("neither a dump of ours, nor a migration stream, nor a dump of oxenstored's")
    except StreamError as error:
        raise StreamError(f"{name}: {error}") from None
    nodes = state.nodes
    state.nodes = Nodes(lambda: _named(name, nodes))
    return state


def _named(name: str, nodes: Iterable[Node]) -> Iterator[Node]:
    try:
        yield from nodes
    except StreamError as error:
        raise StreamError(f"{name}: {error}") from None


# ---- images ------------------------------------------------------------------------------------------------


def examined(folder: str) -> Findings:
    """What there is to say of an image, every record read.  Unreadable: as `examine`."""
    with Bar(f"reading {folder}") as bar:
        return examine(folder, bar.show)


def _stored(image: Reader) -> State:
    state = State()
    rings: dict[int, reader.Domain] = {}
    clients: dict[int, Connection] = {}
    for record in image.records():
        match record:
            case reader.Meta():
                state.quotas = record.limits
            case reader.Domain():
                rings[record.domid] = record
                own = {name: n for name, n in record.limits.items() if n != state.quotas.get(name)}
                if record.introduced or own:
                    state.domains.append(Domain(record.domid, record.features, own))
            case reader.Conn():
                clients[record.index] = Connection(len(clients) + 1, _peer(record, rings))
            case reader.Transaction():
                clients[record.conn].transactions.append(record.tx_id)
            case reader.Watch():
                connection = clients[record.conn]
                home = 0 if not isinstance(connection.peer, Ring) else connection.peer.domid
                path = record.path.removeprefix(b"/local/domain/%d/" % home) if record.relative else record.path
                connection.watches.append(Watch(path, record.token, record.depth))
            case reader.Node():
                break
    state.connections += clients.values()
    state.nodes = Nodes(lambda: _stored_nodes(image))
    return state


def _peer(conn: reader.Conn, domains: dict[int, reader.Domain]) -> Ring | Socket:
    """Neither the daemon's own ports nor its descriptors outlive it."""
    if conn.kind == reader.SOCKET:
        return Socket(-1)
    domain = domains[conn.domid]
    return Ring(conn.domid, 0, domain.target, domain.unique_id or None, conn.remote)


def _stored_nodes(image: Reader) -> Iterator[Node]:
    perms: dict[int, tuple[Perm, ...]] = {}
    paths: dict[int, bytes] = {}
    for record in image.records():
        if isinstance(record, reader.Perms):
            perms[record.id] = tuple(Perm(*entry) for entry in record.entries)
        elif isinstance(record, reader.Node):
            match record.parent:
                case reader.ROOT_PARENT:
                    path, above = b"/", b""
                case reader.SPECIALS_PARENT:
                    path = above = record.name
                case parent if parent in paths:
                    path = above = paths[parent] + b"/" + record.name
                case _:
                    continue  # removed with its parent
            paths[record.birth] = above
            yield Node(path, record.value, perms[record.perms])


# ---- a running daemon --------------------------------------------------------------------------------------


def _live(client: Client, snapshot: bool) -> State:
    state = State()
    state.quotas = _quotas(client)
    try:
        names = client.list("/local/domain")
    except NotFound:
        names = []
    domids = sorted({0, *(int(name) for name in names if name.isdigit() and int(name) < 0x7FF0)})
    introduced = client.call_many([requests.is_domain_introduced(domid) for domid in domids], return_errors=True)
    domids = [domid for domid, is_there in zip(domids, introduced, strict=True) if is_there is True]
    features = _told(client, [requests.get_features(domid) for domid in domids])
    limits = _told(client, [requests.get_quota(name, domid) for domid in domids for name in state.quotas])
    for i, domid in enumerate(domids):
        mine = limits[i * len(state.quotas) : (i + 1) * len(state.quotas)]
        own = {name: n for (name, usual), n in zip(state.quotas.items(), mine, strict=True) if n not in (usual, None)}
        state.domains.append(Domain(domid, features[i], own))
    state.nodes = Nodes(lambda: walked(client, snapshot))
    return state


def _quotas(client: Client) -> dict[str, int]:
    """None before Xen 4.22."""
    try:
        names = client.get_quota_names()
    except XenStoreError:
        return {}
    values = _told(client, [requests.get_quota(name) for name in names])
    return {name.decode("latin-1"): n for name, n in zip(names, values, strict=True) if n is not None}


def _told(client: Client, many: Sequence[requests.Request[T]]) -> list[T | None]:
    """The answers; None where the daemon does not know the operation."""
    return [None if isinstance(each, XenStoreError) else each for each in client.call_many(many, return_errors=True)]


def walked(client: Client, snapshot: bool) -> Iterator[Node]:
    """All nodes of a running daemon, and the specials."""
    with _snapshot(client) if snapshot else nullcontext(client) as store:
        batch: list[tuple[bytes, bytes]] = [(name, b"") for name in SPECIALS]
        for path, value, _ in store.walk("/"):
            batch.append((path, value))
            if len(batch) >= BATCH:
                yield from _with_perms(store, batch)
                batch = []
        yield from _with_perms(store, batch)


@contextmanager
def _snapshot(client: Client) -> Iterator[Transaction]:
    """A transaction that only reads, so that its end cannot fail."""
    tx = client.transaction()
    tx.start()
    try:
        yield tx
    finally:
        with suppress(XenStoreError):
            tx.rollback()


def _with_perms(store: Client | Transaction, batch: Sequence[tuple[bytes, bytes]]) -> Iterator[Node]:
    answers = store.call_many([requests.get_perms(path) for path, _ in batch], return_errors=True)
    for (path, value), answer in zip(batch, answers, strict=True):
        if not isinstance(answer, XenStoreError):
            yield Node(path, value, tuple(Perm(chr(entry[0]), int(entry[1:])) for entry in answer))
        elif not isinstance(answer, NotFound) and path not in SPECIALS:  # gone meanwhile; a daemon without such
            raise answer


# ---- progress ----------------------------------------------------------------------------------------------


class Bar:
    """On a terminal, for what takes longer than a moment."""

    def __init__(self, label: str) -> None:
        self._label: Final = label
        self._begun: Final = time.monotonic()
        self._bar: Any = None
        self._counts = False
        self._quiet: Final = not sys.stderr.isatty()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
        elif self._counts:
            click.echo(err=True)

    def show(self, done: int, of: int | None) -> None:
        """`of` None: nobody knows."""
        if self._quiet or time.monotonic() - self._begun < PATIENCE_S:
            return
        if of is None:
            self._counts = True
            click.echo(f"\r{self._label}: {done:,}", nl=False, err=True)
            return
        if self._bar is None:
            self._bar = click.progressbar(length=of, label=self._label, show_pos=True, file=sys.stderr)
            self._bar.__enter__()
        self._bar.update(done - self._bar.pos)


def progress(source: Source, label: str) -> Iterator[Node]:
    """Its nodes, and on a terminal how many have passed."""
    number = 0
    with Bar(label) as bar:
        for node in source.state.nodes:
            yield node
            number += 1
            if number % BATCH == 0:
                bar.show(number, source.count)
        bar.show(number, source.count)
