"""The commands that deal with nodes one by one: read, write, rm, exists, list, chmod, watch.

Owns their meaning: what is done in one transaction, and what is printed when something fails in the middle.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeAlias

from fastxs.cli.xenstore.call import Call, Failure
from fastxs.cli.xenstore.text import escaped, to_int, unescaped
from fastxs.client import Client, Disconnected, NotFound, Transaction, XenStoreError, requests

__all__ = ["chmod", "exists", "list_", "read", "rm", "watch", "write"]

Nodes: TypeAlias = Client | Transaction
Work: TypeAlias = Callable[[Nodes, list[bytes]], None]
"""What is done with nodes; the list takes what it prints."""


def _together(call: Call, work: Work) -> None:
    """Do it in a transaction, again until nobody interferes, and print what it said.

    If it fails, all of it is taken back, and what it said before is printed all the same.
    """
    for tx in call.client.transactions(sys.maxsize):
        said: list[bytes] = []
        failure: XenStoreError | None = None
        with tx:
            try:
                work(tx, said)
            except Disconnected:
                raise
            except XenStoreError as error:
                failure = error
                tx.rollback()
    call.out.write(b"".join(said))
    if failure is not None:
        raise failure


def _alone(call: Call, work: Work) -> None:
    """Do it without a transaction: it is a single request."""
    said: list[bytes] = []
    work(call.client, said)
    call.out.write(b"".join(said))


def read(call: Call) -> None:
    def work(nodes: Nodes, said: list[bytes]) -> None:
        for path in call.words:
            value = nodes.read(path)
            said.append(path + b": " if "p" in call.options else b"")
            said.append(value if "R" in call.options else escaped(value) + b"\n")

    (_together if len(call.words) > 1 else _alone)(call, work)


def write(call: Call) -> None:
    values = call.words[1::2] if "R" in call.options else [*map(unescaped, call.words[1::2])]
    pairs = [*zip(call.words[::2], values, strict=True)]

    def work(nodes: Nodes, _: list[bytes]) -> None:
        for path, value in pairs:
            nodes.write(path, value)

    (_together if len(pairs) > 1 else _alone)(call, work)


def rm(call: Call) -> None:
    def work(nodes: Nodes, _: list[bytes]) -> None:
        for path in call.words:
            nodes.delete(path)
            if "t" in call.options:
                _tidy(nodes, path)

    _together(call, work)


def _tidy(nodes: Nodes, path: bytes) -> None:
    """Remove the parents that are empty now: no value, no children."""
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        try:
            if nodes.read(path) or nodes.list(path):
                return
        except Disconnected:
            raise
        except XenStoreError:  # it must not be read; or the path is used up
            return
        nodes.delete(path)


def exists(call: Call) -> None:
    """Nothing is printed; status 1 if one of them does not exist."""

    def work(nodes: Nodes, _: list[bytes]) -> None:
        for path in call.words:
            nodes.read(path)

    try:
        _together(call, work)
    except NotFound:
        raise Failure("") from None


def list_(call: Call) -> None:
    def work(nodes: Nodes, said: list[bytes]) -> None:
        for path in call.words:
            prefix = path + b"/" if "p" in call.options else b""
            said += [prefix + name + b"\n" for name in nodes.list(path)]

    _together(call, work)


def chmod(call: Call) -> None:
    path, *entries = call.words
    for entry in entries:
        if entry[:1] not in (b"n", b"r", b"w", b"b"):
            raise Failure(f"{os.fsdecode(entry)}: not a permission, which is one of n r w b and a domid")
    perms = [b"%s%d" % (entry[:1], to_int(entry[1:])) for entry in entries]
    if "u" in call.options and not path.startswith(b"/"):
        raise Failure(f"{os.fsdecode(path)}: its parents are known only if it begins with /")

    def work(nodes: Nodes, _: list[bytes]) -> None:
        nodes.set_perms(path, perms)
        if "u" in call.options:
            parent = path
            while parent := parent.rpartition(b"/")[0]:
                nodes.set_perms(parent, perms)
        if "r" in call.options:
            for child in _below(nodes, path):
                nodes.set_perms(child, perms)

    _together(call, work)


def _below(nodes: Nodes, top: bytes) -> Iterator[bytes]:
    """Everything below it, parents first; where the children cannot be listed, none are known."""
    stack = [top]
    while stack:
        path = stack.pop()
        if path is not top:
            yield path
        with suppress(XenStoreError):
            stack += [requests.below(path, name) for name in reversed(nodes.list(path))]


def watch(call: Call) -> None:
    """Print the path of every event until there were so many; -1: for ever."""
    left = to_int(os.fsencode(call.options.get("n", "-1")))
    monitor = call.client.monitor()
    for path in call.words:
        monitor.watch(path)
    while left == -1 or left > 0:
        call.out.write(monitor.read().path + b"\n")
        call.out.flush()
        left -= left > 0
