"""Reads the text that oxenstored leaves in `$rundir/db` at a live update, or at SIGTERM, into a `State`.

Owns its lines (measured on 4.17, SPEC 6.5; the fork of 2026 adds a watch's depth):

    $xenstored-dump-format
    global,FD                             the listening socket
    evtchn-dev,FD,PORT                    the event channel; VIRQ_DOM_EXC is still bound at that port
    dom,DOMID,GFN,REMOTE[,LOCAL]          a guest's ring, its event channel's two ports
    socket,FD                             a client
    watch,ID,PATH,TOKEN[,DEPTH]           ID is a domid, or a client's descriptor negated; PATH and TOKEN in hex
    store,PATH,PERMS,VALUE                in hex; the specials as `/@releaseDomain` and `/@introduceDomain`

There are no targets, no unread and no unsent bytes: oxenstored waits until there are none.
"""

from __future__ import annotations

from binascii import unhexlify
from collections import Counter
from collections.abc import Iterator
from typing import Final

from fastxs.state.model import Connection, Node, Nodes, Perm, Ring, Socket, State, StreamError, Watch
from fastxs.state.reader import Data

__all__ = ["HEADER", "read"]

HEADER: Final = b"$xenstored-dump-format"
WORDS: Final = (b"global", b"evtchn-dev", b"dom", b"socket", b"watch")
SPECIALS: Final = {b"/@releaseDomain": b"@releaseDomain", b"/@introduceDomain": b"@introduceDomain"}


def read(data: Data) -> State:
    """The state in `data`.  StreamError: it is no such dump, or damaged; so may every step through its `nodes`."""
    if data[: len(HEADER) + 1] != HEADER + b"\n":
        raise StreamError(f"not a dump of oxenstored: it does not begin with {HEADER.decode()}")
    state = State()
    clients: dict[int, Connection] = {}
    first = len(data)
    unknown = Counter[str]()

    def connect(name: int, peer: Ring | Socket) -> None:
        if name in clients:
            raise ValueError("it is there already")
        clients[name] = Connection(len(clients) + 1, peer)

    for at, line in _lines(data, len(HEADER) + 1):
        try:
            match line.split(b","):
                case [b"store", *_]:
                    first = min(first, at)
                case [b"global", fd, *_]:
                    state.listen_fd = _descriptor(fd)
                case [b"evtchn-dev", fd, port]:
                    state.evtchn_fd, state.virq_port = _descriptor(fd), int(port)
                case [b"dom", domid, _, remote, *local]:
                    ring = Ring(_domid(domid), int(local[0]) if local else 0, remote_port=int(remote))
                    connect(ring.domid, ring)
                case [b"socket", fd]:
                    connect(-int(fd), Socket(int(fd)))
                case [b"watch", name, path, token, *depth]:
                    watch = Watch(unhexlify(path), unhexlify(token), int(depth[0]) if depth else None)
                    clients[int(name)].watches.append(watch)
                case [word, *fields] if word in WORDS:
                    raise ValueError(f"{len(fields)} fields")
                case [word, *_]:
                    unknown[word.decode("latin-1")] += 1
        except (ValueError, KeyError) as error:
            raise _bad(at, line, error) from None
    state.connections += clients.values()
    state.notes += [f"{n} lines of the unknown kind {word!r} were passed over" for word, n in sorted(unknown.items())]
    if first < len(data):
        state.nodes = Nodes(lambda: _nodes(data, first))
    return state


def _bad(at: int, line: bytes, error: Exception) -> StreamError:
    what = f"there is no connection {error} before it" if isinstance(error, KeyError) else str(error)
    return StreamError(f"the line at offset {at}, {line[:80]!r}: {what}")


def _lines(data: Data, at: int) -> Iterator[tuple[int, bytes]]:
    """Each line from offset `at` on and where it begins."""
    while at < len(data):
        end = data.find(b"\n", at)
        if end < 0:
            raise StreamError(f"the dump is cut off within the line at offset {at}")
        yield at, data[at:end]
        at = end + 1


def _descriptor(text: bytes) -> int | None:
    fd = int(text)
    return None if fd < 0 else fd


def _domid(text: bytes) -> int:
    domid = int(text)
    if not 0 <= domid <= 0xFFFF:
        raise ValueError(f"{domid} is no domid")
    return domid


def _nodes(data: Data, first: int) -> Iterator[Node]:
    known: dict[bytes, tuple[Perm, ...]] = {}
    for at, line in _lines(data, first):
        if not line.startswith(b"store,"):
            continue
        try:
            _, path, perms, value = line.split(b",")
            if perms not in known:
                known[perms] = tuple(_perm(entry) for entry in unhexlify(perms).split(b"\0"))
            path = unhexlify(path)
            if path[:1] != b"/":
                raise ValueError(f"{path!r} is no path")
            yield Node(SPECIALS.get(path, path), unhexlify(value), known[perms])
        except ValueError as error:
            raise _bad(at, line, error) from None


def _perm(entry: bytes) -> Perm:
    letter = entry[:1].decode("latin-1")
    if letter not in tuple("nrwb"):
        raise ValueError(f"{entry!r} is no permission")
    return Perm(letter, _domid(entry[1:]))
