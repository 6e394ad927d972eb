"""A XenStore's whole state, whoever's it is: what a live update, a take-over or a hand-back carries.

Owns the types that the readers fill, the writer writes and the daemon makes its Engine from and of.
Knows no file format, no daemon, and nothing of what may be done with a path, a value or a permission.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Connection", "Domain", "Node", "Nodes", "Perm", "Ring", "Socket", "State", "StreamError", "Watch"]


class StreamError(ValueError):
    """A state that cannot be read, or cannot be written as asked; the text says which record, where, and why."""


class Perm(NamedTuple):
    """One entry of a node's permissions; the first one's domain owns the node."""

    letter: str
    """`n`, `r`, `w` or `b`."""
    domid: int
    stale: bool = False
    """The domain that was meant is no more: the entry gives nothing to the next one of that number."""


class Node(NamedTuple):
    """A node, or one of the specials `@introduceDomain` and `@releaseDomain`, which exist for their permissions."""

    path: bytes
    value: bytes
    perms: tuple[Perm, ...]


class Nodes:
    """Nodes that are made anew, one at a time, at every iteration, so that a million are not held twice."""

    __slots__ = ("_begin",)

    def __init__(self, begin: Callable[[], Iterator[Node]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[Node]:
        return self._begin()


@dataclass(slots=True)
class Watch:
    """`path` is as the client gave it: a relative one stays relative.  `depth` None: no limit."""

    path: bytes
    token: bytes
    depth: int | None = None


@dataclass(slots=True)
class Ring:
    """A guest's page and event channel.

    `port` is the daemon's own, bound in the descriptor that is handed over; 0: none, the guest is only waited for
    until it dies.  `remote_port` is the guest's end, where the dump tells it.  `target` is the domain it acts for.
    `unique_id` tells it from later domains of the same number.
    """

    domid: int
    port: int
    target: int | None = None
    unique_id: int | None = None
    remote_port: int | None = None


@dataclass(slots=True)
class Socket:
    """A client of the unix socket, by the descriptor that is handed over."""

    fd: int


@dataclass(slots=True)
class Connection:
    """A client; `id` (not 0) names it within one state.

    `unread` are requests that were taken from it and not served, the last one perhaps incomplete; `unsent` are
    replies and events for it, of which the first `partial` bytes are the rest of a message that is already on its way.
    `transactions` are the ids of those that are open.  They are not carried over: whoever goes on fails them.
    """

    id: int
    peer: Ring | Socket
    unread: bytes = b""
    unsent: bytes = b""
    partial: int = 0
    watches: list[Watch] = field(default_factory=list)
    transactions: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Domain:
    """What is set for one domain; `features` None: the state does not say.  A quota of 0 is no limit."""

    domid: int
    features: int | None = None
    quotas: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class State:
    """All of it.  A descriptor that is None was not handed over.

    `virq_port`: where VIRQ_DOM_EXC is still bound, if the daemon before left it so.  `quotas` are the defaults of
    each domain's, `global_quotas` those that no domain has.  `nodes` come parents first, the specials anywhere.
    `notes` are sentences on what the state held that could not be understood, for the log.
    """

    listen_fd: int | None = None
    evtchn_fd: int | None = None
    virq_port: int | None = None
    quotas: dict[str, int] = field(default_factory=dict)
    global_quotas: dict[str, int] = field(default_factory=dict)
    connections: list[Connection] = field(default_factory=list)
    domains: list[Domain] = field(default_factory=list)
    nodes: Iterable[Node] = ()
    notes: list[str] = field(default_factory=list)
