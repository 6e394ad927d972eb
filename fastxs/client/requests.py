"""Every request of XenStore as a value: its operation, its payload, how its reply is read, and what takes it back.

Owns the table of operations as a client sees it (SPEC 1.2), and the few requests that need more than one message:
those are generators that yield requests and are sent replies, so that whoever does the I/O, and in which way, runs them
alike.  Refuses to know connections, request ids and transactions.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final, Generic, NamedTuple, Self, TypeAlias, TypeVar

from fastxs.client.errors import InvalidRequest, NotFound, ProtocolError, TooBig, XenStoreError

__all__ = ["Op", "Path", "Perm", "Request", "path_is_subpath"]

T = TypeVar("T")

Path: TypeAlias = str | bytes
"""A path, absolute or relative to the own domain's; text is sent as UTF-8, of which the store allows A-Za-z0-9-/_@."""

Values: TypeAlias = Mapping[str, bytes] | Mapping[bytes, bytes] | Iterable[tuple[Path, bytes]]
"""Paths and values."""

Steps: TypeAlias = Generator["Request[Any]", Any, T]
"""Requests that follow from each other's replies; what it returns is the result."""


PAYLOAD_MAX: Final = 4096


class Op(IntEnum):
    """Message types (SPEC 1.2)."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22
    GET_FEATURE = 23
    SET_FEATURE = 24
    GET_QUOTA = 25
    SET_QUOTA = 26


class Request(Generic[T]):
    """One message to the daemon, to be given to `call` or `call_many` of a client.  TooBig: more than 4096 bytes.

    `parse` makes the result of the reply's payload.  `undo` makes, of the payload of a reply that nobody waits for any
    more, the request that takes this one back; None: nothing needs to be.
    """

    __slots__ = ("op", "parse", "payload", "undo")

    def __init__(
        self,
        op: int,
        payload: bytes,
        parse: Callable[[bytes], T],
        undo: Callable[[bytes], tuple[Request[None], int]] | None = None,
    ) -> None:
        if len(payload) > PAYLOAD_MAX:
            raise TooBig.of(payload.split(b"\0", 1)[0])
        self.op: Final = op
        self.payload: Final = payload
        self.parse: Final = parse
        self.undo: Final = undo

    def __repr__(self) -> str:
        return f"<{Op(self.op).name} {self.payload!r}>"


class Perm(NamedTuple):
    """One entry of a node's permissions: `bytes(Perm(7, read=True))` is b"r7".

    The first entry of a list names the owner, and what everybody may do who is not listed (SPEC 3).
    """

    domid: int
    read: bool = False
    write: bool = False

    @classmethod
    def parse(cls, entry: bytes) -> Self:
        """`Perm.parse(b"b7")` is Perm(7, True, True).  InvalidRequest: not a letter of `nrwb` and a number."""
        rights = _RIGHTS.get(entry[:1])
        if rights is None or not entry[1:].isdigit():
            raise InvalidRequest.of(entry)
        return cls(int(entry[1:]), *rights)

    def __bytes__(self) -> bytes:
        return b"%c%d" % (b"nrwb"[self.read + 2 * self.write], self.domid)


_RIGHTS: Final = {b"n": (False, False), b"r": (True, False), b"w": (False, True), b"b": (True, True)}


# -- payloads ---------------------------------------------------------------------------------------


def word(part: Path | int) -> bytes:
    """As it stands on the wire, without its NUL."""
    return part if isinstance(part, bytes) else str(part).encode()


def words(*parts: Path | int) -> bytes:
    """NUL-terminated strings.  InvalidRequest: one holds a NUL, and would be two."""
    payload = b""
    for part in parts:
        text = part if isinstance(part, bytes) else str(part).encode()
        if b"\0" in text:
            raise InvalidRequest.of(text)
        payload += text + b"\0"
    return payload


def paths(many: Iterable[Path]) -> list[bytes]:
    """`words` of each, for very many."""
    payloads = [(path if isinstance(path, bytes) else path.encode()) + b"\0" for path in many]
    if b"".join(payloads).count(b"\0") != len(payloads):
        raise InvalidRequest.of(next(payload for payload in payloads if payload.count(b"\0") > 1))
    return payloads


def writes(values: Values) -> list[bytes]:
    """The payloads of WRITE for each pair."""
    pairs: Iterable[tuple[Path, bytes]] = values.items() if isinstance(values, Mapping) else values
    return [words(path) + value for path, value in pairs]


# -- replies ----------------------------------------------------------------------------------------


def done(reply: bytes) -> None:
    """`OK`, which is all that most requests are told."""
    if reply != b"OK\0":
        raise ProtocolError.of(reply)


def strings(reply: bytes) -> list[bytes]:
    """NUL-terminated strings; none for an empty reply."""
    return reply.split(b"\0")[:-1]


def string(reply: bytes) -> bytes:
    """One string."""
    return reply.removesuffix(b"\0")


def number(reply: bytes) -> int:
    """One decimal number."""
    try:
        return int(string(reply))
    except ValueError:
        raise ProtocolError.of(reply) from None


def flag(reply: bytes) -> bool:
    """`T` or `F`."""
    return string(reply) == b"T"


# -- nodes ------------------------------------------------------------------------------------------


def read(path: Path) -> Request[bytes]:
    return Request(Op.READ, words(path), bytes)


def write(path: Path, value: bytes) -> Request[None]:
    return Request(Op.WRITE, words(path) + value, done)


def mkdir(path: Path) -> Request[None]:
    return Request(Op.MKDIR, words(path), done)


def delete(path: Path) -> Request[None]:
    return Request(Op.RM, words(path), done)


def get_perms(path: Path) -> Request[list[bytes]]:
    return Request(Op.GET_PERMS, words(path), strings)


def set_perms(path: Path, perms: Iterable[bytes | str | Perm]) -> Request[None]:
    return Request(
        Op.SET_PERMS, words(path, *(bytes(perm) if isinstance(perm, Perm) else perm for perm in perms)), done
    )


def directory(path: Path) -> Request[list[bytes]]:
    """The children's names, as long as they fit into one reply: TooBig otherwise; `list_` is for all."""
    return Request(Op.DIRECTORY, words(path), strings)


def list_(path: Path) -> Steps[list[bytes]]:
    """The children's names, in parts where one reply does not hold them (SPEC 1.6)."""
    try:
        names: list[bytes] = yield directory(path)
        return names
    except TooBig:
        pass
    found, generation = b"", None
    while True:
        part: bytes = yield Request(Op.DIRECTORY_PART, words(path, len(found)), bytes)
        stamp, _, chunk = part.partition(b"\0")
        if stamp != generation and found:  # it changed between two parts
            found, generation = b"", None
            continue
        generation = stamp
        if chunk == b"\0" or chunk.endswith(b"\0\0"):
            return strings(found + chunk[:-1])
        if not chunk:
            raise ProtocolError.of(part)
        found += chunk


def below(path: bytes, name: bytes) -> bytes:
    """The path of a child."""
    return (b"" if path == b"/" else path) + b"/" + name


def path_is_subpath(parent: Path, child: Path) -> bool:
    """Whether `child` is `parent` or below it."""
    above, path = word(parent), word(child)
    return path == above or path.startswith(above if above == b"/" else above + b"/")


Node: TypeAlias = tuple[bytes, bytes, list[bytes]]
"""Path, value, names of the children."""


def seen(many: Sequence[bytes], values: Sequence[Any], lists: Sequence[Any]) -> Iterator[Node | bytes]:
    """What the replies to READ and DIRECTORY of each path say: a Node, or the path alone where one reply did not hold
    the children.  What is gone is left out, what must not be read is empty."""
    for path, value, names in zip(many, values, lists, strict=True):
        if isinstance(names, TooBig):
            yield path
        elif not isinstance(names, NotFound):
            hidden = isinstance(names, XenStoreError)
            yield path, b"" if isinstance(value, XenStoreError) else value, [] if hidden else strings(names)


# -- watches ----------------------------------------------------------------------------------------


def watch(path: Path, token: bytes, depth: int | None = None) -> Request[None]:
    depths = () if depth is None else (depth,)
    return Request(Op.WATCH, words(path, token, *depths), done, lambda _: (unwatch(path, token), 0))


def unwatch(path: Path, token: bytes) -> Request[None]:
    return Request(Op.UNWATCH, words(path, token), done)


# -- transactions -----------------------------------------------------------------------------------


def transaction_start() -> Request[int]:
    return Request(Op.TRANSACTION_START, b"\0", number, lambda reply: (transaction_end(commit=False), number(reply)))


def transaction_end(*, commit: bool) -> Request[None]:
    return Request(Op.TRANSACTION_END, b"T\0" if commit else b"F\0", done)


def pause_s(attempt: int) -> float:
    """How long to stand aside before the next attempt (0, 1, ...): not at first, then a random few ms."""
    if not attempt:
        return 0.0
    import random  # not for a short-lived program that is not disturbed: it costs more than this module

    return random.uniform(0, min(0.001 * 2**attempt, 0.05))


# -- domains ----------------------------------------------------------------------------------------


def introduce_domain(domid: int, gfn: int, port: int) -> Request[None]:
    return Request(Op.INTRODUCE, words(domid, gfn, port), done)


def release_domain(domid: int) -> Request[None]:
    return Request(Op.RELEASE, words(domid), done)


def resume_domain(domid: int) -> Request[None]:
    return Request(Op.RESUME, words(domid), done)


def set_target(domid: int, target: int) -> Request[None]:
    return Request(Op.SET_TARGET, words(domid, target), done)


def get_domain_path(domid: int) -> Request[bytes]:
    return Request(Op.GET_DOMAIN_PATH, words(domid), string)


def is_domain_introduced(domid: int) -> Request[bool]:
    return Request(Op.IS_DOMAIN_INTRODUCED, words(domid), flag)


def suspend_evtchn_port(domid: int) -> Request[int]:
    return Request(Op.READ, words(f"/local/domain/{domid}/device/suspend/event-channel"), number)


# -- the daemon -------------------------------------------------------------------------------------


def control(*command: Path) -> Request[bytes]:
    return Request(Op.CONTROL, words(*command), string)


def get_features(domid: int | None = None) -> Request[int]:
    return Request(Op.GET_FEATURE, words(*() if domid is None else (domid,)), number)


def set_features(domid: int, features: int) -> Request[None]:
    return Request(Op.SET_FEATURE, words(domid, features), done)


def get_quota_names() -> Request[list[bytes]]:
    return Request(Op.GET_QUOTA, b"", lambda reply: string(reply).split())


def get_quota(name: Path, domid: int | None = None) -> Request[int]:
    return Request(Op.GET_QUOTA, words(*() if domid is None else (domid,), name), number)


def set_quota(name: Path, value: int, domid: int | None = None) -> Request[None]:
    return Request(Op.SET_QUOTA, words(*() if domid is None else (domid,), name, value), done)
