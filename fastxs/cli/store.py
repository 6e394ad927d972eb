"""`fastxs ls`, `list`, `read`, `write`, `mkdir`, `rm`, `exists`, `chmod`, `watch`: the nodes of a running daemon.

Owns these commands' words and exit statuses, and what a path becomes when Tab is pressed.  Refuses to know how values
and refusals are shown (`fastxs.cli.words`) and what is asked over the wire (`fastxs.client`).
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from itertools import islice
from typing import Any, Concatenate, Final, NamedTuple, NoReturn, ParamSpec, TypeVar

import click

from fastxs.cli.words import connected, escaped, field, refusal, said, shown, socket_option, unescaped
from fastxs.client import (
    AccessDenied,
    Client,
    InvalidRequest,
    NotFound,
    Transaction,
    XenStoreError,
    requests,
)

__all__ = ["chmod", "exists", "list_", "ls", "mkdir", "read", "rm", "watch", "write"]

T = TypeVar("T")
P = ParamSpec("P")

BATCH: Final = 512
"""Nodes whose permissions are asked for at once, lines that are printed at once."""
COMPLETION_S: Final = 0.5
"""What the shell waits for paths after Tab, at most."""
ENTRY: Final = re.compile(r"[nrwb][0-9]{1,5}")


# ---- paths, and Tab ----------------------------------------------------------------------------------------


def _complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Paths of the running daemon; nothing, and no word, where there is none or it takes long."""

    def late(*_: object) -> NoReturn:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, COMPLETION_S)
    try:
        with connected(ctx.params.get("socket")) as client:
            return [os.fsdecode(path) for path in _beginning(client, os.fsencode(incomplete))]
    except (OSError, click.ClickException):
        return []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _beginning(client: Client, text: bytes) -> list[bytes]:
    """The nodes whose path begins so; if that is one only, its children with it: the shell then adds no space."""
    parent, slash, _ = text.rpartition(b"/")
    if not slash and text:
        return []
    found = [path for path in _children(client, parent or b"/") if path.startswith(text)]
    return found if len(found) != 1 else found + _children(client, found[0])


def _children(client: Client, path: bytes) -> list[bytes]:
    return [requests.below(path, name) for name in client.list(path)]


def _path(word: str) -> bytes:
    """As the daemon takes it: a / at its end is illegal, and typed easily."""
    path = os.fsencode(word)
    return path.rstrip(b"/") or path[:1]


path_argument: Final = click.argument("path", type=_path, shell_complete=_complete)
top_argument: Final = click.argument("path", type=_path, shell_complete=_complete, default="/")
paths_argument: Final = click.argument(
    "paths", metavar="PATH...", type=_path, shell_complete=_complete, nargs=-1, required=True
)


def asks(command: Callable[Concatenate[Client, P], T]) -> Callable[P, T]:
    """The command gets a client of the daemon that `--socket` or the environment names; refusals are said."""

    @socket_option
    @wraps(command)
    def with_client(*args: P.args, **kwargs: P.kwargs) -> T:
        socket = kwargs.pop("socket")
        assert socket is None or isinstance(socket, str)
        with said(), connected(socket) as client:
            return command(client, *args, **kwargs)

    return with_client


def _in_one(client: Client, many: bool, do: Callable[[Client | Transaction], object]) -> None:
    """All or nothing, in a transaction if there is more than one thing to do."""
    if not many:
        do(client)
        return
    for tx in client.transactions():
        with tx:
            do(tx)


def _print(lines: Iterable[str]) -> None:
    """Lines that may be many."""
    lines = iter(lines)
    while some := [*islice(lines, BATCH)]:
        click.echo("\n".join(some))


# ---- reading -----------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A node as `ls` shows it; `perms` None: nobody asked."""

    path: bytes
    value: bytes
    has_children: bool
    perms: list[bytes] | None


@click.command()
@top_argument
@click.option("-f", "--flat", is_flag=True, help="Whole paths instead of a tree.")
@click.option("-p", "--perms", is_flag=True, help="Who owns each node and who may do what.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each node, as `fastxs dump` has them.")
@asks
def ls(client: Client, path: bytes, flat: bool, perms: bool, as_json: bool) -> None:
    """Show PATH and all below it.

    A node that has children and an empty value is shown without the value; what must not be read is empty.

    Permissions are entries of a letter and a domid: n none, r read, w write, b both; the first one names the owner, and
    its letter is what everybody may do who is not listed.
    """
    rows = _rows(client, path, perms or as_json)
    if as_json:
        _print(map(_json, rows))
    else:
        _print(map(_flat if flat else _in_tree(path), rows))


def _rows(client: Client, top: bytes, perms: bool) -> Iterator[Row]:
    nodes = client.walk(top)
    while some := [*islice(nodes, BATCH)]:
        entries: list[Any] = [None] * len(some)
        if perms:
            entries = client.call_many([requests.get_perms(path) for path, _, _ in some], return_errors=True)
        for (path, value, names), answer in zip(some, entries, strict=True):
            if isinstance(answer, NotFound):
                continue  # gone meanwhile
            hidden = isinstance(answer, AccessDenied)
            if isinstance(answer, XenStoreError) and not hidden:
                raise answer
            yield Row(path, value, bool(names), [] if hidden else answer)


def _json(row: Row) -> str:
    perms = [entry.decode() for entry in row.perms or ()]
    return json.dumps({**field("path", row.path), **field("value", row.value), "perms": perms})


def _flat(row: Row) -> str:
    return f"{_name(escaped(row.path), row)} = {shown(row.value)}{_entries(row)}"


def _in_tree(top: bytes) -> Callable[[Row], str]:
    """A line of the tree below `top`."""
    base = top.rstrip(b"/").count(b"/")

    def line(row: Row) -> str:
        level = row.path.rstrip(b"/").count(b"/") - base
        name = escaped(row.path if level == 0 else row.path.rpartition(b"/")[2])
        value = "" if row.has_children and not row.value else f" = {shown(row.value)}"
        return f"{'  ' * level}{_name(name, row)}{value}{_entries(row)}"

    return line


def _name(name: str, row: Row) -> str:
    return click.style(name, fg="blue", bold=True) if row.has_children else name


def _entries(row: Row) -> str:
    return click.style(f"  [{b' '.join(row.perms).decode()}]", fg="cyan") if row.perms is not None else ""


@click.command("list")
@top_argument
@click.option("-f", "--flat", is_flag=True, help="Their whole paths.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each, with its path.")
@asks
def list_(client: Client, path: bytes, flat: bool, as_json: bool) -> None:
    """Print the names of PATH's children.

    They come in the daemon's order, which is that in which they were made, but for oxenstored's.
    """
    names = client.list(path)
    below = (requests.below(path, name) for name in names)
    if as_json:
        _print(json.dumps(field("path", child)) for child in below)
    else:
        _print(map(escaped, below if flat else names))


@click.command()
@paths_argument
@click.option("-r", "--raw", is_flag=True, help="Its bytes and nothing else, not even a new line at the end.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each, with path and value.")
@asks
def read(client: Client, paths: tuple[bytes, ...], raw: bool, as_json: bool) -> None:
    r"""Print the values of PATHs, one on a line.

    On a terminal what is no text is escaped: \\ \n \t \r \xHH.  In a pipe or a file the bytes are what they are.
    """
    status = 0
    escapes = not raw and sys.stdout is not None and sys.stdout.isatty()
    for path, answer in zip(paths, client.call_many(map(requests.read, paths), return_errors=True), strict=True):
        if isinstance(answer, XenStoreError):
            refused = refusal(answer)
            refused.show()
            status = max(status, refused.exit_code)
        elif as_json:
            click.echo(json.dumps({**field("path", path), **field("value", answer)}))
        else:
            click.echo(escaped(answer) if escapes else answer, nl=not raw)
    sys.exit(status)


@click.command()
@paths_argument
@asks
def exists(client: Client, paths: tuple[bytes, ...]) -> None:
    """Say by the exit status whether PATHs are there.

    0: all are; 1: one is not.
    """
    sys.exit(0 if all(value is not None for value in client.read_many(paths, None)) else 1)


# ---- changing ----------------------------------------------------------------------------------------------


@click.command(context_settings={"allow_interspersed_args": False})  # a value may begin with -
@path_argument
@click.argument("value")
@click.argument("more", metavar="[PATH VALUE]...", nargs=-1)
@click.option(
    "-e", "--escapes", is_flag=True, help=r"\\ \n \t \r \xHH in a VALUE stand for what `fastxs read` shows so."
)
@asks
def write(client: Client, path: bytes, value: str, more: tuple[str, ...], escapes: bool) -> None:
    """Set PATH to VALUE.

    PATH is made if it is missing, and all above it.  VALUE - is read from stdin, any bytes, up to its end.  Several are
    written all at once or not at all.
    """
    if len(more) % 2:
        raise click.UsageError(f"there is no VALUE for {more[-1]}.")
    words = [value, *more[1::2]]
    if words.count("-") > 1:
        raise click.UsageError("stdin holds one VALUE.")
    paths = [path, *map(_path, more[::2])]
    values = [*zip(paths, [_value(os.fsencode(word), escapes) for word in words], strict=True)]
    _in_one(client, len(values) > 1, lambda store: store.write_many(values))


def _value(word: bytes, escapes: bool) -> bytes:
    if word == b"-":
        return sys.stdin.buffer.read()
    try:
        return unescaped(word) if escapes else word
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@click.command()
@paths_argument
@asks
def mkdir(client: Client, paths: tuple[bytes, ...]) -> None:
    """Make PATHs, and all above them, with empty values.

    What is there already stays as it is.
    """

    def do(store: Client | Transaction) -> None:
        store.call_many(map(requests.mkdir, paths))

    _in_one(client, len(paths) > 1, do)


@click.command()
@paths_argument
@click.option("-f", "--force", is_flag=True, help="It is fine if it is not there.")
@asks
def rm(client: Client, paths: tuple[bytes, ...], force: bool) -> None:
    """Remove PATHs and all below them.

    Several are removed all at once, or none is.
    """

    def do(store: Client | Transaction) -> None:
        for path in paths:
            try:
                if not force and _is_missing(store, path):
                    raise NotFound.of(path)
                store.delete(path)
            except NotFound:
                if not force:
                    raise

    _in_one(client, True, do)


def _is_missing(store: Client | Transaction, path: bytes) -> bool:
    """Known to be: who may remove a node need not be who may read it."""
    try:
        return not store.exists(path)
    except AccessDenied:
        return False


def _entries_given(_ctx: click.Context, _param: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if not ENTRY.fullmatch(word):
            raise click.BadParameter(f"{word!r} is not a letter of n, r, w, b and a domid, as in r7.")
    return words


@click.command()
@path_argument
@click.argument("perms", metavar="PERM...", nargs=-1, required=True, callback=_entries_given)
@click.option("-r", "--recursive", is_flag=True, help="PATH and all below it.")
@asks
def chmod(client: Client, path: bytes, perms: tuple[str, ...], recursive: bool) -> None:
    """Replace PATH's permissions.

    A PERM is a letter and a domid: n none, r read, w write, b both.  The first one names the owner, and its letter is
    what everybody may do who is not listed: `fastxs chmod /vm/web n0 r7` lets domain 7 read, and nobody else.
    """

    def do(store: Client | Transaction) -> None:
        paths = [found for found, _, _ in store.walk(path)] if recursive else [path]
        store.call_many([requests.set_perms(each, perms) for each in paths])

    _in_one(client, recursive, do)


# ---- watching ----------------------------------------------------------------------------------------------


@click.command()
@paths_argument
@click.option("-n", "--number", metavar="N", type=click.IntRange(1), help="End after so many events.")
@click.option(
    "-d", "--depth", metavar="N", type=click.IntRange(0), help="So many levels below; needs Xen 4.22's daemon."
)
@click.option("-v", "--values", is_flag=True, help="Read what changed, and print its value.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each event.")
@asks
def watch(
    client: Client, paths: tuple[bytes, ...], number: int | None, depth: int | None, values: bool, as_json: bool
) -> None:
    """Print what changes at PATHs and below them.

    It goes on until Ctrl-C.  A path may also be @introduceDomain or @releaseDomain.  The first event of each comes at
    once and says that the watch is set.  An event means "look again": one may come too often, and several changes may
    be told by one.
    """
    with client.monitor() as monitor:
        for path in paths:
            try:
                monitor.watch(path, depth=depth)
            except InvalidRequest:
                if depth is None:
                    raise
                why = "an illegal path, or a daemon without depth (before Xen 4.22, oxenstored)"
                raise InvalidRequest.of(path, why) from None
        for event in islice(monitor, number):
            value = client.read(event.path, None) if values and not event.path.startswith(b"@") else None
            if as_json:
                line: dict[str, Any] = {**field("path", event.path), **field("watch", event.token)}
                if values:
                    line |= {"value": None} if value is None else field("value", value)
                click.echo(json.dumps(line))
            elif values:
                click.echo(f"{escaped(event.path)} {'is not there' if value is None else f'= {shown(value)}'}")
            else:
                click.echo(escaped(event.path))
