"""ls: a tree of nodes, each on a line with its value and, if wanted, its permissions.

Owns the layout: how lines are indented, cut at the terminal's edge and filled with dots.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO, Final, NamedTuple

from fastxs.cli.xenstore.call import Call
from fastxs.cli.xenstore.text import escaped
from fastxs.client import Client, NotFound, Request, TooBig, XenStoreError, requests

__all__ = ["ls"]

BATCH: Final = 256
"""Siblings that are asked about at once."""

NO_TERMINAL: Final = 80
"""Columns where there is no terminal."""

DOTS: Final = b" ." * 30
"""Between a value and its permissions, if lines may be as long."""

UNLIMITED: Final = -1
"""Columns: lines may be as long as they want."""


class Layout(NamedTuple):
    """How wide lines may be, and what is on them."""

    columns: int
    flat: bool
    perms: bool


class Node(NamedTuple):
    """What is known of one; instead of a result there may be the XenStoreError that came."""

    path: bytes
    name: bytes
    value: Any
    names: Any
    perms: Any


def ls(call: Call) -> None:
    flat, perms = "f" in call.options, "p" in call.options
    layout = Layout(_columns(call.out, flat), flat, perms)
    for top in call.words or [b"/"]:
        for depth, node in _walk(call.client, top, perms):
            line = _line(node, depth, layout)
            if isinstance(node.perms, XenStoreError):
                print(f"ls: {os.fsdecode(node.path)}: its permissions: {node.perms.strerror}", file=sys.stderr)
            elif perms:
                line += b"  (" + b",".join(node.perms) + b")"
            call.out.write(line + b"\n")


def _walk(client: Client, top: bytes, perms: bool) -> Iterator[tuple[int, Node]]:
    """Every node below `top`, and how deep; parents first.  XenStoreError: one's children cannot be listed."""
    levels = [_children(client, top, client.list(top), perms)]
    while levels:
        node = next(levels[-1], None)
        if node is None:
            levels.pop()
            continue
        yield len(levels) - 1, node
        names = node.names
        try:
            if isinstance(names, TooBig):
                names = client.list(node.path)
            elif isinstance(names, XenStoreError):
                raise names
        except NotFound:  # it was removed meanwhile
            continue
        levels.append(_children(client, node.path, names, perms))


def _children(client: Client, parent: bytes, names: Sequence[bytes], perms: bool) -> Iterator[Node]:
    more = iter(names)
    while batch := [*islice(more, BATCH)]:
        paths = [requests.below(parent, name) for name in batch]
        asked: list[Request[Any]] = [*map(requests.read, paths), *map(requests.directory, paths)]
        if perms:
            asked += map(requests.get_perms, paths)
        found = client.call_many(asked, return_errors=True)
        yield from map(Node, paths, batch, found, found[len(batch) :], found[2 * len(batch) :] or [[]] * len(batch))


def _columns(out: BinaryIO, flat: bool) -> int:
    try:
        return max(os.get_terminal_size(out.fileno()).columns - 2, UNLIMITED)
    except OSError:
        return UNLIMITED if flat else NO_TERMINAL


def _cut(text: bytes, room: int) -> bytes:
    """As printf's `%.*s` does it, for which less than nothing is no limit."""
    return text if room < 0 else text[:room]


def _line(node: Node, depth: int, layout: Layout) -> bytes:
    """All but the permissions.  A value is measured before it is escaped, and cut after."""
    columns, flat, perms = layout
    limited = columns != UNLIMITED
    if flat:
        line, room = node.path, columns - 8
    else:
        name = _cut(node.name, columns - depth - 8) if limited else node.name
        line = b" " * depth + name
        room = columns - len(line) - 8
    if isinstance(node.value, XenStoreError):
        return line + b":\n"
    value = escaped(node.value)
    if limited and len(node.value) > room:
        return line + b' = "' + _cut(value, room) + b'\\..."'
    line += b' = "' + value + b'"'
    if perms:
        end = min(columns, len(DOTS)) if limited and not flat else 0
        line += b" " + DOTS[len(line) + 1 : end]
    return line
