"""Reads the migration stream of C xenstored, versions 1 and 2, of either byte order, into a `State`.

Owns the trust in a stream: whatever its bytes are, there is a State or a StreamError, and no length or count in it is
believed before it was compared with what is there.  Nodes are read when they are asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from mmap import mmap
from typing import Final

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
    Layout,
    Type,
    aligned,
)
from fastxs.state.model import Connection, Domain, Node, Nodes, Perm, Ring, Socket, State, StreamError, Watch

__all__ = ["Data", "read"]

Data = bytes | mmap
"""A whole stream; a mapped file is paged in as it is read."""

VERSIONS: Final = (1, 2)

END, NODE, EXTENDED = map(int, (Type.END, Type.NODE_DATA, Type.WATCH_DATA_EXTENDED))
"""As plain numbers: they are compared for each of a million records."""

EXTENDED_FORMS: Final = (12, 10, 8)
"""Where WATCH_DATA_EXTENDED's strings begin: the document says 12, C xenstored 4.22 reads at 10 and writes at 8.

That last form has no depth.  Its length is the first form's all the same, so that it may say 8 too many.
"""


def read(data: Data) -> State:
    """The state in `data`.  StreamError: it is no such stream, or damaged; so may every step through its `nodes`."""
    if len(data) < PREAMBLE.size:
        raise StreamError(f"{len(data)} bytes are too few for a migration stream")
    ident, version, flags = PREAMBLE.unpack_from(data)
    if ident != IDENT:
        raise StreamError(f"not a migration stream: it begins with {ident!r}")
    if version not in VERSIONS:
        raise StreamError(f"version {version} of the migration stream is not known, only {VERSIONS}")
    if flags & ~BIG_ENDIAN:
        raise StreamError(f"flags {flags:#x} of the migration stream are not known")
    layout = LAYOUTS["big" if flags & BIG_ENDIAN else "little"]
    reader = _Reader(data, layout, version)
    first = len(data)
    unknown = Counter[int]()
    for kind, body, end in _records(data, layout, PREAMBLE.size):
        if kind == NODE:
            first = min(first, body - layout.record.size)
        elif kind in READERS:
            reader.kind, reader.body, reader.end = kind, body, end
            READERS[kind](reader)
        else:
            unknown[kind] += 1
    state = reader.state
    # The document reserves other types; C xenstored passes over them.
    state.notes += [f"{n} records of the unknown type {kind} were passed over" for kind, n in sorted(unknown.items())]
    if first < len(data):
        state.nodes = Nodes(lambda: _nodes(data, layout, first))
    return state


def _bad(kind: int, body: int, what: str) -> StreamError:
    """`body` is where the record's body begins, 8 bytes behind the record itself."""
    name = f"type {kind}"
    with suppress(ValueError):
        name = Type(kind).name
    return StreamError(f"{name} at offset {body - 8}: {what}")


def _records(data: Data, layout: Layout, at: int) -> Iterator[tuple[int, int, int]]:
    """type, begin and end of the body of each record from offset `at` to END."""
    head = layout.record.unpack_from
    size = len(data)
    while True:
        body = at + 8
        if body > size:
            raise StreamError(f"the stream is cut off at offset {at}: there is no END")
        kind, length = head(data, at)
        at = body + length
        if at > size:
            raise _bad(kind, body, f"its length, {length}, leads beyond the end of the stream, {size}")
        if length & 7:
            raise _bad(kind, body, f"its length, {length}, is no multiple of 8")
        if kind == END:
            if length:
                raise _bad(kind, body, f"its length, {length}, is not 0")
            return
        if kind == EXTENDED:
            _, _, at = _extended(data, layout, body, at)
        yield kind, body, at


def _strings(data: Data, at: int, path_size: int, token_size: int) -> tuple[bytes, bytes] | None:
    """A watch's path and token if they are at `at`, each with one NUL, at its end."""
    middle = at + path_size
    path, token = data[at:middle], data[middle : middle + token_size]
    if not path or not token or path.find(b"\0") != path_size - 1 or token.find(b"\0") != token_size - 1:
        return None
    return path[:-1], token[:-1]


def _extended(data: Data, layout: Layout, body: int, end: int) -> tuple[Watch, int, int]:
    """A watch, where its strings begin within the record, and where the record really ends."""
    if end - body >= layout.watch.size + layout.depth.size:
        _, path_size, token_size = layout.watch.unpack_from(data, body)
        for form in EXTENDED_FORMS:
            really, counted = (aligned(body + at + path_size + token_size) for at in (form, EXTENDED_FORMS[0]))
            strings = _strings(data, body + form, path_size, token_size) if end in (really, counted) else None
            if strings is None:
                continue
            depth: int = UNLIMITED
            if form > layout.watch.size:
                (depth,) = layout.depth.unpack_from(data, body + layout.watch.size)
            return Watch(*strings, None if depth == UNLIMITED else depth), form, really
    raise _bad(Type.WATCH_DATA_EXTENDED, body, "its path and token are not where their lengths say")


class _Reader:
    """Fills a State from one record after the other; `kind`, `body` and `end` are the current one's."""

    def __init__(self, data: Data, layout: Layout, version: int) -> None:
        self.data: Final = data
        self.layout: Final = layout
        self.version: Final = version
        self.state: Final = State()
        self.kind = self.body = self.end = 0
        self._met_global = False
        self._connections: dict[int, Connection] = {}
        self._peers: set[tuple[int, int]] = set()
        self._domains: set[int] = set()

    def bad(self, what: str) -> StreamError:
        return _bad(self.kind, self.body, what)

    def need(self, size: int) -> None:
        """This many bytes for the fixed part."""
        if self.end - self.body < size:
            raise self.bad(f"{self.end - self.body} bytes are too few")

    def ends(self, at: int) -> None:
        """The last field ends here, and only padding follows."""
        if not 0 <= self.end - at < 8:
            raise self.bad(f"its fields take {at - self.body} bytes, its length is {self.end - self.body}")

    def connection(self, conn_id: int) -> Connection:
        try:
            return self._connections[conn_id]
        except KeyError:
            raise self.bad(f"there is no connection {conn_id} before it") from None

    def read_global(self) -> None:
        self.need(self.layout.files.size)
        listen, evtchn = self.layout.files.unpack_from(self.data, self.body)
        if self._met_global:
            raise self.bad("it is the second one")
        self._met_global = True
        self.state.listen_fd = None if listen < 0 else listen
        self.state.evtchn_fd = None if evtchn < 0 else evtchn

    def read_connection(self) -> None:
        data, layout = self.data, self.layout
        self.need(layout.ring.size)
        conn_id, kind, fields, domid, target, port, unread, partial, unsent = layout.ring.unpack_from(data, self.body)
        peer: Ring | Socket
        if kind == RING:
            peer = Ring(domid, port, None if target == DOMID_INVALID else target)
            key = (kind, domid)
        elif kind == SOCKET:
            fd: int = layout.socket.unpack_from(data, self.body)[3]
            if fd < 0:
                raise self.bad(f"{fd} is no descriptor")
            peer = Socket(fd)
            key = (kind, fd)
        else:
            raise self.bad(f"connections of type {kind} are not known")
        if conn_id == 0 or conn_id in self._connections:
            raise self.bad(f"{conn_id} names no connection, or another one")
        if key in self._peers:
            raise self.bad(f"{peer} has a connection already")
        if partial > unsent:
            raise self.bad(f"{partial} bytes of a response are more than all output, {unsent}")
        at = self.body + layout.ring.size
        middle, end = at + unread, at + unread + unsent
        if fields & UNIQUE_ID:
            after = aligned(end)
            self.ends(after + layout.unique_id.size)
            if isinstance(peer, Ring):
                (peer.unique_id,) = layout.unique_id.unpack_from(data, after)
        else:
            self.ends(end)
        connection = Connection(conn_id, peer, data[at:middle], data[middle:end], partial)
        self._peers.add(key)
        self._connections[conn_id] = connection
        self.state.connections.append(connection)

    def read_watch(self) -> None:
        self.need(self.layout.watch.size)
        conn_id, path_size, token_size = self.layout.watch.unpack_from(self.data, self.body)
        at = self.body + self.layout.watch.size
        self.ends(at + path_size + token_size)
        strings = _strings(self.data, at, path_size, token_size)
        if strings is None:
            raise self.bad("its path and token are not where their lengths say")
        self.connection(conn_id).watches.append(Watch(*strings))

    def read_extended(self) -> None:
        watch, form, _ = _extended(self.data, self.layout, self.body, self.end)
        connection = self.connection(self.layout.watch.unpack_from(self.data, self.body)[0])
        connection.watches.append(watch)
        if form == EXTENDED_FORMS[-1]:
            self.state.notes.append(
                f"the watch {watch.path!r} {watch.token!r} of connection {connection.id} came without its depth: "
                "it counts as unlimited"
            )

    def read_transaction(self) -> None:
        self.need(self.layout.transaction.size)
        conn_id, tx_id = self.layout.transaction.unpack_from(self.data, self.body)
        self.connection(conn_id).transactions.append(tx_id)

    def read_quotas(self) -> None:
        self.need(self.layout.quotas.size)
        defaults, others = self.layout.quotas.unpack_from(self.data, self.body)
        found = self._named_values(self.body + self.layout.quotas.size, defaults + others)
        self.state.quotas.update(found[:defaults])
        self.state.global_quotas.update(found[defaults:])

    def read_domain(self) -> None:
        self.need(self.layout.domain.size)
        domid, n, features = self.layout.domain.unpack_from(self.data, self.body)
        if domid in self._domains:
            raise self.bad(f"it is the second one of domain {domid}")
        self._domains.add(domid)
        quotas = dict(self._named_values(self.body + self.layout.domain.size, n))
        self.state.domains.append(Domain(domid, features if self.version > 1 else None, quotas))

    def _named_values(self, at: int, n: int) -> list[tuple[str, int]]:
        """`n` values at `at`, and behind them as many names."""
        values = self.layout.values(n)
        names = at + values.size
        if names > self.end:
            raise self.bad(f"{n} values do not fit into it")
        *found, rest = self.data[names : self.end].split(b"\0", n)
        if len(found) != n:
            raise self.bad(f"it has {n} values and {len(found)} names")
        self.ends(self.end - len(rest))
        try:
            return [
                (name.decode("ascii"), value)
                for name, value in zip(found, values.unpack_from(self.data, at), strict=True)
            ]
        except UnicodeDecodeError as error:
            raise self.bad(f"{error.object!r} is no name") from None


READERS: Final[dict[int, Callable[[_Reader], None]]] = {
    Type.GLOBAL_DATA: _Reader.read_global,
    Type.CONNECTION_DATA: _Reader.read_connection,
    Type.WATCH_DATA: _Reader.read_watch,
    Type.WATCH_DATA_EXTENDED: _Reader.read_extended,
    Type.TRANSACTION_DATA: _Reader.read_transaction,
    Type.GLOBAL_QUOTA_DATA: _Reader.read_quotas,
    Type.DOMAIN_DATA: _Reader.read_domain,
}


def _nodes(data: Data, layout: Layout, first: int) -> Iterator[Node]:
    """The committed nodes from offset `first` on; those of open transactions go with these."""
    fixed, unpack = layout.node.size, layout.node.unpack_from
    known: dict[bytes, tuple[Perm, ...]] = {}
    for kind, body, end in _records(data, layout, first):
        if kind != NODE:
            continue
        if end - body < fixed:
            raise _bad(kind, body, f"{end - body} bytes are too few")
        conn_id, _, path_size, value_size, _, n = unpack(data, body)
        perms_at = body + fixed
        path_at = perms_at + 4 * n
        value_at = path_at + path_size
        value_end = value_at + value_size
        if not 0 <= end - value_end < 8:
            raise _bad(kind, body, f"its fields take {value_end - body} bytes, its length is {end - body}")
        if conn_id:
            continue
        path = data[path_at:value_at]
        if path[:1] not in (b"/", b"@") or path.find(b"\0") != path_size - 1:
            raise _bad(kind, body, f"{path!r} is no path that ends in a NUL")
        raw = data[perms_at:path_at]
        perms = known.get(raw)
        if perms is None:
            perms = known[raw] = tuple(
                Perm(chr(letter), domid, bool(flags & STALE)) for letter, flags, domid in layout.perm.iter_unpack(raw)
            )
            if not perms or not all(perm.letter in "nrwb" for perm in perms):
                raise _bad(kind, body, f"{raw!r} are no permissions")
        yield Node(path[:-1], data[value_at:value_end], perms)
