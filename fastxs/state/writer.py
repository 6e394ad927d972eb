"""Writes a `State` as the migration stream that C xenstored reads.

Owns what such a daemon stumbles over: the order of records, and what must not be in them (measured on C 4.17, read in
4.21 and 4.22).  What the chosen version has no room for is written as the nearest thing it has; `what_is_lost` tells.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final, Literal

from fastxs.state.layout import (
    BIG_ENDIAN,
    DOMID_INVALID,
    IDENT,
    LAYOUTS,
    PREAMBLE,
    RING,
    SOCKET,
    STALE,
    UNIQUE_ID,
    UNLIMITED,
    ByteOrder,
    Layout,
    Type,
    aligned,
)
from fastxs.state.model import Connection, Domain, Node, Perm, Ring, State, StreamError, Watch

__all__ = ["Version", "write"]

Version = Literal[1, 2]
"""1: C xenstored 4.15 to 4.20; 2: from 4.21 on."""

PADDING: Final = tuple(bytes(n) for n in range(8))


def write(state: State, stream: BinaryIO, version: Version, byteorder: ByteOrder = sys.byteorder) -> None:
    """Write all of it, END included.  C xenstored takes its own machine's byte order only.

    StreamError: something does not fit into its field; what was written by then is of no use.
    """
    layout = LAYOUTS[byteorder]
    stream.write(PREAMBLE.pack(IDENT, version, BIG_ENDIAN if byteorder == "big" else 0))
    stream.writelines(_records(state, layout, version))
    stream.writelines(_nodes(state.nodes, layout))
    if version > 1:
        rings = {connection.peer.domid for connection in state.connections if isinstance(connection.peer, Ring)}
        # C 4.22 ends itself over a domain that it does not know.
        stream.writelines(_domain(domain, layout) for domain in state.domains if domain.domid in rings)
    stream.write(layout.record.pack(Type.END, 0))


def _records(state: State, layout: Layout, version: Version) -> Iterator[bytes]:
    """Those that come before the nodes."""
    files = (-1 if fd is None else fd for fd in (state.listen_fd, state.evtchn_fd))
    yield _record(layout, Type.GLOBAL_DATA, _packed("descriptors", layout.files, *files))
    if version > 1 and (state.quotas or state.global_quotas):
        counts = _packed("quotas", layout.quotas, len(state.quotas), len(state.global_quotas))
        quotas = _quotas("quotas", [*state.quotas.items(), *state.global_quotas.items()], layout)
        yield _record(layout, Type.GLOBAL_QUOTA_DATA, counts + quotas)
    for connection in _in_order(state.connections):
        yield _connection(connection, layout, version)
        for watch in connection.watches:
            yield _watch(connection.id, watch, layout, version)
        for tx_id in connection.transactions:
            body = _packed(f"connection {connection.id}", layout.transaction, connection.id, tx_id)
            yield _record(layout, Type.TRANSACTION_DATA, body)


def _record(layout: Layout, kind: Type, body: bytes) -> bytes:
    length = aligned(len(body))
    return layout.record.pack(kind, length) + body + PADDING[length - len(body)]


def _packed(whose: str, form: struct.Struct, *values: int) -> bytes:
    try:
        return form.pack(*values)
    except struct.error as error:
        raise StreamError(f"{whose}: does not fit into the migration stream: {error}") from None


def _in_order(connections: list[Connection]) -> Iterable[Connection]:
    """As they are, but domain 0 first, and a ring's target before it.

    C 4.17 crashes over a client that comes before domain 0, and forgets a target that comes after (measured).
    """
    rings: dict[int | None, Connection] = {
        connection.peer.domid: connection for connection in connections if isinstance(connection.peer, Ring)
    }
    placed: dict[int, Connection] = {}
    for connection in sorted(connections, key=lambda each: each is not rings.get(0)):
        chain: list[Connection] = []
        next_: Connection | None = connection
        while next_ is not None and next_.id not in placed and next_ not in chain:
            chain.append(next_)
            next_ = rings.get(next_.peer.target) if isinstance(next_.peer, Ring) else None
        placed.update((each.id, each) for each in reversed(chain))
    return placed.values()


def _connection(connection: Connection, layout: Layout, version: Version) -> bytes:
    peer = connection.peer
    lengths = (len(connection.unread), connection.partial, len(connection.unsent))
    whose = f"connection {connection.id}"
    unique_id = None
    if isinstance(peer, Ring):
        unique_id = peer.unique_id if version > 1 else None
        fields = 0 if unique_id is None else UNIQUE_ID
        target = DOMID_INVALID if peer.target is None else peer.target
        body = _packed(whose, layout.ring, connection.id, RING, fields, peer.domid, target, peer.port, *lengths)
    else:
        body = _packed(whose, layout.socket, connection.id, SOCKET, 0, peer.fd, *lengths)
    body += connection.unread + connection.unsent
    if unique_id is not None:
        body += PADDING[-len(body) & 7] + _packed(whose, layout.unique_id, unique_id)
    return _record(layout, Type.CONNECTION_DATA, body)


def _watch(conn_id: int, watch: Watch, layout: Layout, version: Version) -> bytes:
    whose = f"watch {watch.path!r} of connection {conn_id}"
    body = _packed(whose, layout.watch, conn_id, len(watch.path) + 1, len(watch.token) + 1)
    kind = Type.WATCH_DATA
    if version > 1 and watch.depth is not None:
        kind = Type.WATCH_DATA_EXTENDED
        # No path is this deep.  And no padding behind it: the document has some, C 4.22 reads without.
        body += _packed(whose, layout.depth, min(watch.depth, UNLIMITED - 1))
    return _record(layout, kind, body + watch.path + b"\0" + watch.token + b"\0")


def _nodes(nodes: Iterable[Node], layout: Layout) -> Iterator[bytes]:
    head = struct.Struct(layout.record.format + layout.node.format[1:])
    fixed = layout.node.size + 1
    known: dict[tuple[Perm, ...], bytes] = {}
    for path, value, perms in nodes:
        raw = known.get(perms)
        if raw is None:
            raw = known[perms] = b"".join(
                _packed(f"permissions of {path!r}", layout.perm, ord(letter), STALE if stale else 0, domid)
                for letter, domid, stale in perms
            )
        size = fixed + len(raw) + len(path) + len(value)
        length = (size + 7) & ~7
        try:
            fields = head.pack(Type.NODE_DATA, length, 0, 0, len(path) + 1, len(value), 0, len(perms))
        except struct.error as error:
            raise StreamError(f"node {path[:64]!r}: does not fit into the migration stream: {error}") from None
        yield b"".join((fields, raw, path, b"\0", value, PADDING[length - size]))


def _domain(domain: Domain, layout: Layout) -> bytes:
    whose = f"domain {domain.domid}"
    head = _packed(whose, layout.domain, domain.domid, len(domain.quotas), domain.features or 0)
    return _record(layout, Type.DOMAIN_DATA, head + _quotas(whose, list(domain.quotas.items()), layout))


def _quotas(whose: str, quotas: list[tuple[str, int]], layout: Layout) -> bytes:
    values = _packed(whose, layout.values(len(quotas)), *(value for _, value in quotas))
    return values + b"".join(name.encode("ascii") + b"\0" for name, _ in quotas)
