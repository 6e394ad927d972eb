"""A store as lines of JSON, one thing on each: what `fastxs dump` writes, and what people and programs read.

    {"fastxs-dump": 1, "of": "/run/xenstored/socket", ...}     first
    {"quota": "nodes", "value": 1000}                           of each domain; "all" instead of "value": of no domain
    {"domain": 5, "features": 15, "quotas": {"nodes": 2000}}
    {"connection": 2, "domid": 5, "port": 0, ...}               a ring, or {"connection": 3, "fd": 17}
    {"watch": "/tool", "token": "x", "connection": 2, "depth": 1}
    {"path": "/tool", "value": "", "perms": ["n0", "r5"]}       parents first
    {"end": 1234}                                               last: how many nodes there were

Bytes that are no UTF-8 are base64, under the same name with `64` at its end.  An entry that gives nothing any more,
because its domain is gone, ends with ` stale`.

Owns this form.  Refuses to know where a state comes from and where it goes.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, TypeAlias

from fastxs.cli.words import field, shown
from fastxs.state import Connection, Domain, Node, Nodes, Perm, Ring, Socket, State, StreamError, Watch

__all__ = ["MARK", "entry", "read", "to_line", "write"]

VERSION: Final = 1
NAME: Final = "fastxs-dump"
MARK: Final = b'{"fastxs-dump"'
"""How a dump begins."""

Line: TypeAlias = dict[str, Any]


# ---- writing -----------------------------------------------------------------------------------------------


def write(state: State, of: str, file: BinaryIO) -> None:
    """All but what was under way on connections, and their transactions."""
    for line in _head(state, of):
        file.write(_encoded(line))
    number = 0
    for node in state.nodes:
        file.write(_encoded(to_line(node)))
        number += 1
    file.write(_encoded({"end": number}))


def _encoded(line: Line) -> bytes:
    return json.dumps(line).encode() + b"\n"


def to_line(node: Node) -> Line:
    return {**field("path", node.path), **field("value", node.value), "perms": [*map(entry, node.perms)]}


def entry(perm: Perm) -> str:
    """As GET_PERMS has it, with what it does not tell."""
    return f"{perm.letter}{perm.domid}{' stale' if perm.stale else ''}"


def _head(state: State, of: str) -> Iterator[Line]:
    yield {NAME: VERSION, "of": of}
    for name, value in state.quotas.items():
        yield {"quota": name, "value": value}
    for name, value in state.global_quotas.items():
        yield {"quota": name, "all": value}
    for domain in state.domains:
        features = {} if domain.features is None else {"features": domain.features}
        yield {"domain": domain.domid, **features, **({"quotas": domain.quotas} if domain.quotas else {})}
    for connection in state.connections:
        peer = connection.peer
        if isinstance(peer, Ring):
            more = {"target": peer.target, "unique-id": peer.unique_id, "remote-port": peer.remote_port}
            known = {name: value for name, value in more.items() if value is not None}
            yield {"connection": connection.id, "domid": peer.domid, "port": peer.port, **known}
        else:
            yield {"connection": connection.id, "fd": peer.fd}
        for watch in connection.watches:
            depth = {} if watch.depth is None else {"depth": watch.depth}
            what = {**field("watch", watch.path), **field("token", watch.token)}
            yield {**what, "connection": connection.id, **depth}


# ---- reading -----------------------------------------------------------------------------------------------


def read(file: BinaryIO) -> State:
    """The state in a file that can be read from its beginning again and again, and stays open while it is used.

    StreamError: it is no dump, or a newer fastxs's, or damaged; so may every step through its nodes.
    """
    state = State()
    clients: dict[int, Connection] = {}
    file.seek(0)
    version = _decoded(1, file.readline()).get(NAME)
    if version != VERSION:
        raise StreamError(f"a dump of version {version!r}; this fastxs reads version {VERSION}")
    number, at = 1, file.tell()
    while raw := file.readline():
        number += 1
        line = _decoded(number, raw)
        try:
            if not _take(line, state, clients):
                break
        except (KeyError, TypeError, ValueError) as error:
            raise _bad(number, error) from None
        at = file.tell()
    first = number
    state.connections += clients.values()
    state.nodes = Nodes(lambda: _nodes(file, at, first))
    return state


def _take(line: Line, state: State, clients: dict[int, Connection]) -> bool:
    """Add what stands before the nodes; whether it was that."""
    match line:
        case {"quota": str(name), "value": int(value)}:
            state.quotas[name] = value
        case {"quota": str(name), "all": int(value)}:
            state.global_quotas[name] = value
        case {"domain": int(domid)}:
            quotas = {str(name): int(value) for name, value in line.get("quotas", {}).items()}
            state.domains.append(Domain(domid, line.get("features"), quotas))
        case {"connection": int(id_), "domid": int(domid), "port": int(port)}:
            more = (line.get("target"), line.get("unique-id"), line.get("remote-port"))
            clients[id_] = Connection(id_, Ring(domid, port, *more))
        case {"connection": int(id_), "fd": int(fd)}:
            clients[id_] = Connection(id_, Socket(fd))
        case {"connection": int(id_), **rest} if "watch" in rest or "watch64" in rest:
            clients[id_].watches.append(Watch(_raw(line, "watch"), _raw(line, "token"), line.get("depth")))
        case {"path": _} | {"path64": _} | {"end": _}:
            return False
        case _:
            raise ValueError("nothing that a dump holds")
    return True


def _nodes(file: BinaryIO, at: int, first: int) -> Iterator[Node]:
    known: dict[str, Perm] = {}
    file.seek(at)
    count = 0
    for number, raw in enumerate(file, first):
        line = _decoded(number, raw)
        if "end" in line:
            if line["end"] != count:
                raise StreamError(f"line {number}: {line['end']} nodes are said to be there, {count} are")
            return
        try:
            perms = []
            for entry in line["perms"]:
                if entry not in known:
                    known[entry] = _perm(entry)
                perms.append(known[entry])
            if not perms:
                raise ValueError("nobody owns it")
            node = Node(_raw(line, "path"), _raw(line, "value"), tuple(perms))
        except (KeyError, TypeError, ValueError) as error:
            raise _bad(number, error) from None
        yield node
        count += 1
    raise StreamError(f"the dump is cut off after {count} nodes")


def _decoded(number: int, raw: bytes) -> Line:
    try:
        line = json.loads(raw)
    except ValueError:
        raise StreamError(f"line {number} is cut off, or no JSON: {shown(raw[:60])}") from None
    if not isinstance(line, dict):
        raise StreamError(f"line {number} is no object: {shown(raw[:60])}")
    return line


def _bad(number: int, error: Exception) -> StreamError:
    return StreamError(f"line {number}: {f'{error} is missing' if isinstance(error, KeyError) else error}")


def _raw(line: Line, name: str) -> bytes:
    if name in line:
        if not isinstance(text := line[name], str):
            raise ValueError(f"{name}: {text!r} is no text")
        return text.encode()
    try:
        return b64decode(line[f"{name}64"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"{name}64: {error}") from None


ENTRY: Final = re.compile(r"([nrwb])([0-9]{1,5})( stale)?")


def _perm(entry: str) -> Perm:
    match = ENTRY.fullmatch(entry)
    if match is None or int(match[2]) > 0xFFFF:
        raise ValueError(f"{entry!r} is no permission")
    return Perm(match[1], int(match[2]), match[3] is not None)
