"""Reads an image's records in Python, for tools: nothing is written, and the core is not needed.

Owns the records' layouts of every format version that can be read (`FORMATS`; the writer's are in core/journal.pxd),
the checksum, and whether a daemon serves the image right now.  Refuses to know what a store is made of its records for.

An image is two files (storage/image.pyx): `store`, which is LMDB's, and `log`, with the last turns that are not yet in
it.  They are read without a lock, so only while no daemon serves them (`holder`).  A file that was cut short ends its
reader with SIGBUS: look at an image of unknown health with `examine`, which has a process of its own for that.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeAlias

import lmdb

from fastxs.storage.child import may_crash

__all__ = [
    "FORMATS",
    "QUOTAS",
    "RING",
    "SOCKET",
    "Conn",
    "Domain",
    "Entry",
    "Findings",
    "Identity",
    "Meta",
    "Node",
    "Perms",
    "Reader",
    "Record",
    "Transaction",
    "Unreadable",
    "Watch",
    "examine",
    "holder",
]

QUOTAS: Final = (
    *("nodes", "watches", "transactions", "outstanding", "transaction-nodes"),
    *("memory", "node-size", "path-max", "node-permissions", "soft-memory"),
)
"""In the order of the limits in a record."""

SOCKET, RING = 1, 2
"""Kinds of connections."""

ROOT_PARENT, SPECIALS_PARENT = 0, 1
"""What the root and the specials have in the place of a parent's birth."""

DOMIDS: Final = 1 << 15


WAY_OUT: Final = "the daemon sets it aside at its next start and begins with an empty store"


class Unreadable(Exception):
    """An image that cannot be read; the text names the folder and the way out."""


# ---- records -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Meta:
    """What is true of the store as a whole; `slots` is the number of its slot file."""

    version: int
    slots: int
    recoveries: int
    priv_domid: int
    store_domid: int
    limits: dict[str, int]


@dataclass(frozen=True, slots=True)
class Identity:
    """What the image was made for: a boot of the host, and `xen` or one pretend hypervisor."""

    boot: str
    hypervisor: str


@dataclass(frozen=True, slots=True)
class Domain:
    """`unique_id` 0: the hypervisor gives none; `target` None: none."""

    domid: int
    introduced: bool
    shutdown: bool
    features: int
    unique_id: int
    target: int | None
    limits: dict[str, int]


class Entry(NamedTuple):
    """One of a list of permissions; `stale`: the domain that was meant is no more."""

    letter: str
    domid: int
    stale: bool


@dataclass(frozen=True, slots=True)
class Perms:
    """A list of permissions that any number of nodes have."""

    id: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Conn:
    """A connection, `RING` or `SOCKET`; `remote` is the port that a ring's domain offers."""

    index: int
    serial: int
    kind: int
    domid: int
    remote: int
    ignored: bool
    cookie: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """One that was open."""

    conn: int
    tx_id: int


@dataclass(frozen=True, slots=True)
class Watch:
    """`path` is absolute, or a special; `relative`: its client gave it below its own home."""

    order: int
    conn: int
    path: bytes
    token: bytes
    depth: int | None
    relative: bool


@dataclass(frozen=True, slots=True)
class Node:
    """`birth` names it; `parent` is its parent's, or `ROOT_PARENT` or `SPECIALS_PARENT`."""

    birth: int
    parent: int
    perms: int
    name: bytes
    value: bytes


Record: TypeAlias = Meta | Identity | Domain | Perms | Conn | Transaction | Watch | Node

# ---- format 1 ----------------------------------------------------------------------------------------------

SUM: Final = struct.Struct("=I")
VERSION: Final = struct.Struct("=4xI")
"""Where a version stands in the record with key (META, 0), whichever it is."""

META: Final = struct.Struct(f"=4x5I{len(QUOTAS)}I")
DOMAIN: Final = struct.Struct(f"=4xIQiBBH{len(QUOTAS)}I")
ENTRY: Final = struct.Struct("=IBBH")
CONN: Final = struct.Struct("=4x5IQ")
WATCH: Final = struct.Struct("=4xIhHHH")
NODE: Final = struct.Struct("=4xIQHH")

TURN: Final = struct.Struct("=8xQ")
"""In the record with key (META, META_TURN): the last turn that is in `store`."""
LOG_HEAD: Final = struct.Struct("=QI4x")
"""Of a turn in the log: its number, the bytes of records that follow."""
LOG_RECORD: Final = struct.Struct("=QI4x")
"""Its key, the bytes of the value that follows, up to a multiple of 8; `GONE`: there is none, it was removed."""
GONE: Final = 0xFFFFFFFF

SLOT: Final = struct.Struct("=32xQI36xQI36x")
"""Of one connection in `slots.N`: twice the turn that it needs and a number, 0 if that one was never used."""
SLOTS_MAX: Final = 1 << 27
"""Bytes of such a file that are slots, at most."""

RELATIVE: Final = 1
STALE: Final = 1
LETTERS: Final = "nrwb"

META_STORE, META_TURN, META_IDENTITY = 1 << 56, 1 << 56 | 1, 1 << 56 | 2
"""Keys in the table META."""
IDS: Final = (1 << 56) - 1
"""Of a key; its table is above."""


def _meta(id_: int, value: bytes) -> Meta | Identity | None:
    if id_ == META_IDENTITY & IDS:
        boot, _, hypervisor = value[SUM.size :].partition(b"\0")
        return Identity(boot.decode("ascii", "replace"), hypervisor.decode("ascii", "replace"))
    if id_ != META_STORE & IDS:
        return None
    version, slots, recoveries, priv_domid, store_domid, *limits = META.unpack(value)
    return Meta(version, slots, recoveries, priv_domid, store_domid, dict(zip(QUOTAS, limits, strict=True)))


def _domain(id_: int, value: bytes) -> Domain:
    features, unique_id, target, introduced, shutdown, _, *limits = DOMAIN.unpack(value)
    own = dict(zip(QUOTAS, limits, strict=True))
    return Domain(id_, bool(introduced), bool(shutdown), features, unique_id, None if target < 0 else target, own)


def _perms(id_: int, value: bytes) -> Perms:
    entries = ENTRY.iter_unpack(value[SUM.size :])
    return Perms(
        id_, tuple(Entry(LETTERS[rights & 3], domid, bool(flags & STALE)) for domid, rights, flags, _ in entries)
    )


def _conn(id_: int, value: bytes) -> Conn:
    serial, kind, domid, remote, ignored, cookie = CONN.unpack(value)
    return Conn(id_, serial, kind, domid, remote, bool(ignored), cookie)


def _transaction(id_: int, _: bytes) -> Transaction:
    return Transaction(id_ >> 32, id_ & 0xFFFFFFFF)


def _watch(id_: int, value: bytes) -> Watch:
    conn, depth, flags, path_len, token_len = WATCH.unpack_from(value)
    path, token = _two(value, WATCH.size, path_len, token_len)
    return Watch(id_, conn, path, token, None if depth < 0 else depth, bool(flags & RELATIVE))


def _node(id_: int, value: bytes) -> Node:
    perms, parent, name_len, value_len = NODE.unpack_from(value)
    return Node(id_, parent, perms, *_two(value, NODE.size, name_len, value_len))


def _two(value: bytes, at: int, first: int, second: int) -> tuple[bytes, bytes]:
    """The two strings at the end of a record."""
    if at + first + second != len(value):
        raise ValueError(f"{len(value)} bytes long, which is not {at} + {first} + {second}")
    return value[at : at + first], value[at + first :]


class Format(NamedTuple):
    """How a version writes its records: by table, what it is called and how it is read (None: nothing for a reader)."""

    tables: dict[int, tuple[str, Callable[[int, bytes], Record | None]]]


FORMATS: Final[dict[int, Format]] = {
    1: Format(
        {
            1: ("meta", _meta),
            2: ("domain", _domain),
            3: ("permissions", _perms),
            4: ("connection", _conn),
            5: ("transaction", _transaction),
            6: ("watch", _watch),
            7: ("node", _node),
        }
    )
}
"""By version; an older fastxs's stay here as long as its images are to be read."""

# ---- checksum ----------------------------------------------------------------------------------------------

ONES: Final = (1 << 64) - 1


def checksum(version: int, key: int, body: bytes) -> int:
    """What a value must begin with, of its key and what follows: the core's keyed hash (core/heap.pxd)."""
    product = (key ^ version) * (0x9E3779B97F4A7C15 ^ key)
    h = (product ^ product >> 64) & ONES
    whole, left = len(body) & ~7, len(body) & 7
    for (word,) in struct.iter_unpack("=Q", body[:whole]):
        product = (h ^ word) * 0xD6E8FEB86659FD93
        h = (product ^ product >> 64) & ONES
    tail = 0
    if left >= 4:
        low, high = struct.unpack_from("=I", body, whole)[0], struct.unpack_from("=I", body, len(body) - 4)[0]
        tail = low << 32 | high
    elif left:
        tail = body[whole] << 16 | body[whole + (left >> 1)] << 8 | body[-1]
    product = (h ^ tail ^ (len(body) & 0xFF) << 56) * (0xA0761D6478BD642F ^ key)
    h = (product ^ product >> 64) & ONES
    return (h ^ h >> 32) & 0xFFFFFFFF


# ---- reading -----------------------------------------------------------------------------------------------


class Reader:
    """The records of the image in `folder`, as often as wanted.  A context manager, or `close` it.

    Unreadable: there is no image, or it is served right now, or foreign, or of a version that is not in `FORMATS`, or
    LMDB's pages are damaged; so may every step through the records.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder: Final = os.fspath(folder)
        store = os.path.join(self.folder, "store")
        if not os.path.isfile(store):
            raise Unreadable(f"{self.folder}: there is no image here (a folder with a file called `store`)")
        if pid := holder(self.folder):
            raise Unreadable(
                f"{self.folder}: the daemon with pid {pid} serves this image: read it through the daemon's socket, "
                f"{_socket_of(self.folder)}, or stop the daemon first"
            )
        try:
            self._env = lmdb.open(store, subdir=False, readonly=True, create=False, lock=False, max_spare_txns=0)
        except lmdb.Error as error:
            raise Unreadable(
                f"{self.folder}: `store` is no image, or damaged ({str(error).removeprefix(f'{store}: ')}): {WAY_OUT}"
            ) from None
        try:
            self._log: Final[list[tuple[int, bytes | None]]] = []
            """What was put or removed (None) since the turn that is in `store`, in order."""
            self.turn: Final = self._scan()
            """The number of the last turn that is committed."""
            self.version: Final = self._version()
            self._format: Final = FORMATS[self.version]
        except BaseException:
            self._env.close()
            raise

    def close(self) -> None:
        """Idempotent."""
        self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """How many records there are, at most."""
        entries: int = self._env.stat()["entries"]
        return entries + len(self._log)

    def _version(self) -> int:
        value = dict(self._log).get(META_STORE) or self._stored(META_STORE)
        if value is None:
            raise Unreadable(f"{self.folder}: no store was ever committed to this image: the folder can be removed")
        version: int = VERSION.unpack_from(value)[0] if len(value) >= VERSION.size else 0
        if version in FORMATS:
            return version
        known = " and ".join(map(str, sorted(FORMATS)))
        if version > max(FORMATS):
            raise Unreadable(
                f"{self.folder}: format {version} is newer than this fastxs, which reads format {known}: "
                "use the fastxs that wrote it"
            )
        raise Unreadable(
            f"{self.folder}: format {version} is none that this fastxs reads (it reads format {known}): "
            "the image is damaged, or of a fastxs older than that"
        )

    def _scan(self) -> int:
        """Read the log; the number of its last turn."""
        value = self._stored(META_TURN)
        turn: int = TURN.unpack(value)[0] if value is not None and len(value) == TURN.size else 0
        try:
            log = Path(self.folder, "log").read_bytes()
        except FileNotFoundError:
            return turn
        at = 0
        while at + LOG_HEAD.size < len(log):
            number, size = LOG_HEAD.unpack_from(log, at)
            at += LOG_HEAD.size
            if number != turn + 1 or at + size > len(log):
                break  # of an earlier round, or nothing yet
            turn = number
            end = at + size
            while at + LOG_RECORD.size <= end:
                key, length = LOG_RECORD.unpack_from(log, at)
                at += LOG_RECORD.size
                self._log.append((key, None if length == GONE else log[at : at + length]))
                at += 0 if length == GONE else length + 7 & ~7
            if at != end:
                raise Unreadable(f"{self.folder}: turn {turn} in `log` is damaged: {WAY_OUT}")
        return turn

    def _stored(self, key: int) -> bytes | None:
        with self._env.begin() as txn, closing(txn.cursor()) as cursor:
            return bytes(cursor.value()) if cursor.set_key(key.to_bytes(8, _ORDER)) else None

    def _merged(self) -> Iterator[tuple[int, bytes]]:
        """Keys and values in order, as if the log were in LMDB."""
        log = sorted(dict(self._log).items())
        at = 0
        with self._env.begin() as txn:
            for raw, value in txn.cursor():
                key = int.from_bytes(raw, _ORDER)
                while at < len(log) and log[at][0] < key:
                    yield from _kept(*log[at])
                    at += 1
                if at < len(log) and log[at][0] == key:
                    yield from _kept(*log[at])
                    at += 1
                else:
                    yield key, value
        for key, newer in log[at:]:
            yield from _kept(key, newer)

    def records(self) -> Iterator[Record]:
        """All of them, table by table, as they were written; nodes come after their parents.

        Unreadable: one is damaged.
        """
        for fault, record in self.each():
            if fault:
                raise Unreadable(f"{self.folder}: {fault}; `fastxs check` tells of all damages")
            if record is not None:
                yield record

    def each(self) -> Iterator[tuple[str, Record | None]]:
        """As `records`, but what is wrong with a record, or nothing, stands beside it, and it goes on."""
        tables, version = self._format.tables, self.version
        for key, value in self._log:
            if value is not None and not _is_sound(version, key, value):
                yield f"the log: key {key:#x}: the checksum is wrong", None
        try:
            for key, value in self._merged():
                name, parse = tables.get(key >> 56, ("", None))
                id_ = key & IDS
                if parse is None:
                    yield f"a record of no known table, key {key:#x}", None
                elif not _is_sound(version, key, value):
                    yield f"{name} {id_}: the checksum is wrong", None
                else:
                    try:
                        record = parse(id_, value)
                    except (struct.error, ValueError) as error:
                        yield f"{name} {id_}: {error}", None
                    else:
                        yield "", record
        except lmdb.Error as error:
            yield f"LMDB's pages are damaged: {error}", None


def _kept(key: int, value: bytes | None) -> Iterator[tuple[int, bytes]]:
    if value is not None:
        yield key, value


def _is_sound(version: int, key: int, value: bytes) -> bool:
    return len(value) >= SUM.size and SUM.unpack_from(value)[0] == checksum(version, key, value[SUM.size :])


_ORDER: Final = "little" if struct.pack("=H", 1) == b"\1\0" else "big"


def _socket_of(folder: str) -> str:
    return os.path.realpath(folder).removesuffix(".image")


def holder(folder: str | os.PathLike[str]) -> int:
    """The pid of the daemon that serves this image; 0: none does.  It holds the lock beside its socket."""
    try:
        fd = os.open(_socket_of(os.fspath(folder)) + ".lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return 0
    try:
        # Asked for, not taken: a daemon that starts at this moment must not find it held.
        asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_, pid = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    return 0 if kind == fcntl.F_UNLCK else pid or -1


FLOCK: Final = struct.Struct("@hhqqi4x")
"""Linux's struct flock: type, whence, start, len, pid."""

# ---- examining ---------------------------------------------------------------------------------------------

FAULTS_MAX: Final = 1000


@dataclass(slots=True)
class Findings:
    """What `examine` saw.  `counts` are of records by table and of what else is worth a number; `faults` are sentences
    (the first thousand, `faulty` counts all)."""

    version: int = 0
    turn: int = 0
    meta: Meta | None = None
    identity: Identity | None = None
    counts: Counter[str] = field(default_factory=Counter)
    faulty: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, sentence: str) -> None:
        self.faulty += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(sentence)


def examine(folder: str | os.PathLike[str], seen: Callable[[int, int], None] = lambda done, of: None) -> Findings:
    """Read all of an image in a process of its own: every checksum, every reference.

    `seen(records read, records there are)` is called now and then.  Unreadable: as `Reader`.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            may_crash()
            os.close(reading)
            _tell(os.fspath(folder), writing)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    result: Findings | Unreadable | tuple[int, int] | None = None
    try:
        with open(reading, "rb") as pipe:
            while not isinstance(result := pickle.load(pipe), Findings | Unreadable):
                seen(*result)
    except (EOFError, pickle.UnpicklingError):
        result = None
    finally:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if isinstance(result, Findings):
        return result
    if isinstance(result, Unreadable):
        raise result
    how = signal.Signals(-code).name if code < 0 else f"status {code}"
    raise Unreadable(f"{os.fspath(folder)}: `store` is cut short or damaged (reading it ends with {how}): {WAY_OUT}")


EVERY: Final = 4096
"""Records between two signs of life."""


def _tell(folder: str, writing: int) -> None:
    """The child's part."""
    with open(writing, "wb") as pipe:

        def seen(done: int, of: int) -> None:
            pickle.dump((done, of), pipe)
            pipe.flush()

        try:
            with Reader(folder) as image:
                found: Findings | Unreadable = _examine(image, seen)
        except Unreadable as error:
            found = error
        pickle.dump(found, pipe)


def _examine(image: Reader, seen: Callable[[int, int], None]) -> Findings:
    found = Findings(image.version, image.turn)
    of = len(image)
    domains: dict[int, Domain] = {}
    perms: set[int] = set()
    conns: set[int] = set()
    nodes: set[int] = set()
    names: set[tuple[int, bytes]] = set()
    for done, (fault, record) in enumerate(image.each()):
        if done % EVERY == 0:
            seen(done, of)
        if fault:
            found.fault(fault)
        match record:
            case Meta():
                found.meta = record
            case Identity():
                found.identity = record
            case Domain():
                domains[record.domid] = record
                if record.domid >= DOMIDS:
                    found.fault(f"domain {record.domid}: there is no such domid")
            case Perms():
                perms.add(record.id)
                if not record.entries:
                    found.fault(f"permissions {record.id}: nobody owns them")
            case Conn():
                conns.add(record.index)
                found.counts["rings" if record.kind == RING else "sockets"] += 1
                if record.kind not in (RING, SOCKET):
                    found.fault(f"connection {record.index}: there is no kind {record.kind}")
                elif record.kind == RING and record.domid not in domains:
                    found.fault(f"connection {record.index}: domain {record.domid}, whose ring it is, is not known")
            case Transaction():
                found.counts["transactions"] += 1
                if record.conn not in conns:
                    found.fault(f"transaction {record.tx_id}: there is no connection {record.conn}")
            case Watch():
                found.counts["watches"] += 1
                if record.conn not in conns:
                    found.fault(f"watch {record.order} of {record.path!r}: there is no connection {record.conn}")
            case Node():
                _look_at_node(record, found, perms, nodes, names)
    for domain in domains.values():
        if domain.target is not None and domain.target >= DOMIDS:
            found.fault(f"domain {domain.domid}: there is no domid {domain.target}, its target")
    found.counts["domains"] = len(domains)
    found.counts["lists of permissions"] = len(perms)
    if (ROOT_PARENT, b"") not in names:
        found.fault("there is no root")
    if found.identity is None:
        found.fault("it is not said which boot of the host it belongs to")
    if conns and found.meta is not None and not Path(image.folder, f"slots.{found.meta.slots}").is_file():
        found.fault(f"slots.{found.meta.slots} is missing: what was under way between the daemon and its peers is lost")
    told = max(_last_turn(image.folder, number) for number in (0, 1))
    if told > image.turn + 1:
        found.fault(f"`log` ends with turn {image.turn:,}, but a peer was told of turn {told - 1:,}: the rest is lost")
    seen(of, of)
    return found


def _last_turn(folder: str, number: int) -> int:
    """The largest that a slot file names; a crash may have come before that one was committed."""
    try:
        with open(os.path.join(folder, f"slots.{number}"), "rb") as file:
            size = min(os.lseek(file.fileno(), 0, os.SEEK_HOLE), SLOTS_MAX)
            data = os.pread(file.fileno(), size // SLOT.size * SLOT.size, 0)
    except OSError:  # missing, or of no bytes
        return 0
    return max((turn for a, m, b, n in SLOT.iter_unpack(data) for turn, used in ((a, m), (b, n)) if used), default=0)


def _look_at_node(node: Node, found: Findings, perms: set[int], nodes: set[int], names: set[tuple[int, bytes]]) -> None:
    if node.parent > SPECIALS_PARENT and node.parent not in nodes:
        # It was removed with its parent; its record goes a little later (core/recover.pyx).
        found.counts["removed"] += 1
        return
    nodes.add(node.birth)
    found.counts["nodes" if node.parent != SPECIALS_PARENT else "specials"] += 1
    found.counts["bytes of values"] += len(node.value)
    if node.perms not in perms:
        found.fault(f"node {node.birth}, {node.name!r}: there are no permissions {node.perms}")
    place = node.parent, b"" if node.parent == ROOT_PARENT else node.name
    if place in names:
        what = "a second root" if node.parent == ROOT_PARENT else "a second child of that name"
        found.fault(f"node {node.birth}, {node.name!r}: {what}")
    names.add(place)
