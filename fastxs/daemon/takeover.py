"""Take-over: what another daemon handed over becomes an image, and the image is recovered from as after a crash.

Owns the way from a State (`fastxs.state`) to records and slots.  So there is one way into a store, and a kill right
after the take-over is survived like any other.  Knows nothing of how the state was read, nor of the Engine.

A transaction that was open is doomed (EAGAIN at its end).  A guest is offered what it was offered before: its domain's
features are those that the state tells, none if it tells none.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from fastxs.daemon.goback import descriptors
from fastxs.daemon.handover import STATE_FILES
from fastxs.daemon.logs import log
from fastxs.hypervisor.border import Hypervisor
from fastxs.state import Connection, Node, Perm, Ring, Socket, State, StreamError, load
from fastxs.storage.folder import set_aside
from fastxs.storage.image import FORMAT, Image
from fastxs.storage.reader import (
    CONN,
    DOMAIN,
    ENTRY,
    IDS,
    LETTERS,
    LOG_RECORD,
    META,
    META_STORE,
    NODE,
    QUOTAS,
    RELATIVE,
    RING,
    ROOT_PARENT,
    SOCKET,
    SPECIALS_PARENT,
    STALE,
    SUM,
    WATCH,
)

if TYPE_CHECKING:
    from fastxs.daemon.config import Config

__all__ = ["Remote", "TakenOver", "fill", "take_over"]

META_, DOMAINS, PERMS, CONNS, TXS, WATCHES, NODES = range(1, 8)
"""Tables (core/journal.pxd)."""

FIRST_BIRTH: Final = 16
"""Of `/`; the numbers below have a meaning of their own."""

SPECIALS: Final = (b"@introduceDomain", b"@releaseDomain")

CHUNK: Final = 2 << 20
"""Bytes of records in one transaction: more than the image's log holds, so that they go straight to their place."""

FEATURES: Final = 15
"""What a domain is offered that nobody has introduced yet (core/wire.pxd)."""

NODE_RECORD: Final = struct.Struct(LOG_RECORD.format + NODE.format.removeprefix("="))
PADDING: Final = tuple(bytes(-n & 7) for n in range(8))

NOBODY: Final = 1
"""A unique id that no domain has: whoever has the domid now is another one."""

SO_COOKIE: Final = 57
SLOT_HEAD, SLOT_META, SECOND = struct.Struct("=5I12x"), struct.Struct("=Q10I"), 32 + 48
"""A Slot and its Metas (core/model.pxd), of which the second one lies at that offset."""
SLOT_SIZE: Final = 128
UNIT: Final = 64
EXTENTS: Final = 1 << 27
"""Where the bytes of the slot file begin."""
TAKEN: Final = 8
"""SLOT_TAKEN: a ring's indices are those in its page."""


class TakenOver(NamedTuple):
    """The descriptors that came along; `file` is to be removed once its contents are served."""

    file: str
    listener: int | None
    clients: list[int]
    asks_again: bool
    """Whoever asked for the update waits for no answer, but asks until it is OK: oxenstored's way."""


def take_over(config: Config, identity: bytes) -> TakenOver:
    """Make the image of what the daemon before us left in this process; our own old one is set aside.

    StreamError, OSError: it cannot be, and that daemon can go on (`fastxs.daemon.goback`).  At the end the image is all
    there is: the state file has another name, and its event channels are closed, to be bound anew.
    """
    run_dir = config.daemon.run_dir
    found = [path for path in (os.path.join(run_dir, name) for name in STATE_FILES) if os.path.exists(path)]
    if not found:
        raise FileNotFoundError(errno.ENOENT, f"{' or '.join(STATE_FILES)}: not there", run_dir)
    with open(found[0], "rb") as file:
        state = load(file)
        if state.virq_port is None:  # else it is bound, which it can be once only
            Hypervisor.load(sim=config.hypervisor.sim).close()  # what can be tried is tried while there is a way back
        for fd in descriptors(state):
            os.set_inheritable(fd, False)
        ports = [one.peer.port for one in state.connections if isinstance(one.peer, Ring) and one.peer.port]
        remotes = Hypervisor.remote_ports(ports, sim=config.hypervisor.sim)
        folder = config.daemon.image_path
        if os.path.exists(folder):
            set_aside(folder)
        os.makedirs(folder, 0o700, exist_ok=True)
        image = Image.create(folder, identity)
        try:
            fill(
                image,
                os.path.join(folder, "slots.0"),
                state,
                {port: Remote(*remote) for port, remote in remotes.items()},
                dict(config.quota.items()),
                priv_domid=config.hypervisor.priv_domid,
                store_domid=config.hypervisor.store_domid,
            )
        finally:
            image.close()
    for note in state.notes:
        log.warning("take-over", note=note)
    os.rename(found[0], f"{found[0]}.taken-over")
    if state.evtchn_fd is not None:
        os.close(state.evtchn_fd)
    clients = [one.peer.fd for one in state.connections if isinstance(one.peer, Socket)]
    return TakenOver(f"{found[0]}.taken-over", state.listen_fd, clients, found[0].endswith("db"))


class Remote(NamedTuple):
    """The other end of a ring's local port; `port` 0: the guest has closed it."""

    domid: int
    port: int


def fill(
    image: Image,
    slots: str,
    state: State,
    remotes: Mapping[int, Remote],
    quotas: Mapping[str, int],
    *,
    priv_domid: int,
    store_domid: int,
) -> None:
    """All of `state` into a new image and the slot file at `slots`; the record that makes it an image comes last.

    `remotes` are the other ends of the rings' local ports, by these; a ring whose port is not there belongs to a domain
    that is no more.  `quotas` are what the state does not say.  StreamError: the nodes are no tree; OSError: no room.
    """
    making = _Making(image, store_domid)
    _nodes(making, state.nodes, priv_domid)
    limits = {name: state.quotas.get(name, quotas[name]) for name in QUOTAS}
    rings = {one.peer.domid: one.peer for one in state.connections if isinstance(one.peer, Ring)}
    known = {domain.domid: domain for domain in state.domains}
    for domid in sorted(making.named | rings.keys() | known.keys() | {priv_domid, store_domid}):
        ring = rings.get(domid)
        own = domid in (priv_domid, store_domid)
        gone = ring is not None and not own and ring.port != 0 and ring.port not in remotes
        told = known.get(domid)
        features = 0 if ring is not None or own else FEATURES
        if told is not None and told.features is not None:
            features = told.features
        making.put(
            DOMAINS,
            domid,
            DOMAIN.pack(
                features,
                NOBODY if gone else 0,
                ring.target if ring is not None and ring.target is not None else -1,
                own or ring is not None,
                False,
                0,
                *(told.quotas.get(name, limits[name]) if told is not None else limits[name] for name in QUOTAS),
            ),
        )
    for entries, number in making.permissions.items():
        making.put(PERMS, number, b"".join(map(_entry, entries)))
    with open(slots, "r+b") as file:
        file.truncate(0)
        for index, connection in enumerate(state.connections):
            _connection(making, file.fileno(), index, connection, remotes)
    making.put(META_, META_STORE & IDS, META.pack(FORMAT, 0, 0, priv_domid, store_domid, *limits.values()))
    making.flush()


@dataclass(slots=True)
class _Making:
    """Records on their way into the image, and what they name each other by."""

    image: Image
    store_domid: int
    journal: bytearray = field(default_factory=bytearray)
    records: int = 0
    permissions: dict[tuple[Perm, ...], int] = field(default_factory=dict)
    named: set[int] = field(default_factory=set)
    """Domains that permissions mean."""
    watches: int = 0
    extents: int = EXTENTS

    def put(self, table: int, id_: int, body: bytes) -> None:
        """`body` begins with room for the checksum if its layout has it, and else gets it."""
        value = body if table in HAVE_SUM else SUM.pack(0) + body
        self.journal += LOG_RECORD.pack(table << 56 | id_, len(value)) + value + bytes(-len(value) & 7)
        self.records += 1
        if len(self.journal) >= CHUNK:
            self.flush()

    def add(self, records: list[bytes]) -> None:
        """Whole ones, as `put` makes them."""
        self.journal += b"".join(records)
        self.records += len(records)
        self.flush()

    def flush(self) -> None:
        self.image.put(self.journal, self.records)
        self.journal, self.records = bytearray(), 0

    def list_of(self, entries: tuple[Perm, ...]) -> int:
        """The number of a list of permissions."""
        number = self.permissions.get(entries)
        if number is None:
            number = self.permissions[entries] = len(self.permissions) + 1
            self.named.update(one.domid for one in entries if not one.stale)
        return number


HAVE_SUM: Final = frozenset((META_, DOMAINS, CONNS, WATCHES, NODES))


def _entry(perm: Perm) -> bytes:
    return ENTRY.pack(perm.domid, LETTERS.index(perm.letter), STALE if perm.stale else 0, 0)


def _nodes(making: _Making, nodes: Iterable[Node], priv_domid: int) -> None:
    """There may be a million: what one costs here, the host's guests wait for (measured: the calls cost most)."""
    births: dict[bytes, int] = {}
    birth = FIRST_BIRTH
    known, number = None, 0
    records: list[bytes] = []
    size = 0
    for path, value, perms in nodes:
        if path in births:
            raise StreamError(f"{path!r} is there twice")
        if path == b"/":
            parent, name = ROOT_PARENT, b""
        elif path in SPECIALS:
            parent, name = SPECIALS_PARENT, path
        else:
            above, _, name = path.rpartition(b"/")
            found = births.get(above or b"/")
            if not name or found is None:
                raise StreamError(f"{path!r} has no parent")
            parent = found
        if perms is not known:
            known, number = perms, making.list_of(perms)
        births[path] = birth
        length = NODE.size + len(name) + len(value)
        head = NODE_RECORD.pack(NODES << 56 | birth, length, number, parent, len(name), len(value))
        records.append(head + name + value + PADDING[length & 7])
        size += length
        birth += 1
        if size >= CHUNK:
            making.add(records)
            records, size = [], 0
    making.add(records)
    if b"/" not in births:
        raise StreamError("there is no root")
    number = making.list_of((Perm("n", priv_domid),))
    for path in SPECIALS:
        if path not in births:
            making.put(NODES, birth, NODE.pack(number, SPECIALS_PARENT, len(path), 0) + path)
            birth += 1


def _connection(making: _Making, slots: int, index: int, connection: Connection, remotes: Mapping[int, Remote]) -> None:
    serial = index + 1
    peer = connection.peer
    if isinstance(peer, Ring):
        remote = remotes.get(peer.port)
        domid = peer.domid
        value = CONN.pack(serial, RING, domid, remote.port if remote is not None else 0, peer.port == 0, 0)
    else:
        domid = making.store_domid
        value = CONN.pack(serial, SOCKET, domid, 0, False, _cookie(peer.fd))
    making.put(CONNS, index, value)
    for tx_id in connection.transactions:
        making.put(TXS, index << 32 | tx_id, b"")
    home = b"/local/domain/%d/" % domid
    seen = set()
    for watch in connection.watches:
        relative = watch.path[:1] not in (b"/", b"@")
        path = home + watch.path if relative else watch.path
        if (path, watch.token) in seen:
            continue
        seen.add((path, watch.token))
        making.watches += 1
        depth = -1 if watch.depth is None else watch.depth
        flags = RELATIVE if relative else 0
        making.put(
            WATCHES, making.watches, WATCH.pack(index, depth, flags, len(path), len(watch.token)) + path + watch.token
        )
    unsent, unread = (_extent(making, slots, data) for data in (connection.unsent, connection.unread))
    slot = SLOT_HEAD.pack(serial, 0, 0, 0, 0)
    meta = SLOT_META.pack(
        *(0, 1, TAKEN, 0, 0),
        *(unsent, 0, len(connection.unsent), unread, len(connection.unread)),
        max(connection.transactions, default=0),
    )
    os.pwrite(slots, slot + bytes(SECOND - len(slot)) + meta, index * SLOT_SIZE)


def _extent(making: _Making, slots: int, data: bytes) -> int:
    """Where it lies in the slot file, in units."""
    if not data:
        return 0
    at = making.extents
    os.pwrite(slots, data, at)
    making.extents += len(data) + -len(data) % UNIT
    return at // UNIT


def _cookie(fd: int) -> int:
    """By which a socket's slot finds it again."""
    with socket.socket(fileno=os.dup(fd)) as client:
        return struct.unpack("=Q", client.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]  # type: ignore[no-any-return]
