"""What a hand-back to C xenstored loses, in sentences for whoever decides about it.

Owns what C xenstored of each stream version can take over (read in 4.17 to 4.22).  Refuses to decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fastxs.state.model import Connection, Ring, State, Watch
from fastxs.state.writer import Version

__all__ = ["what_is_lost"]

RECONNECTION: Final = 1
"""The feature bit that no C xenstored has."""


def what_is_lost(state: State, version: Version) -> list[str]:
    """One sentence for each kind of thing in `state` that a stream of this version, or its reader, leaves out.

    Nodes are not looked at: they are carried whole.
    """
    return [*_transactions(state), *_depths(state, version), *_quotas(state, version), *_features(state, version)]


def _transactions(state: State) -> Iterator[str]:
    n = sum(len(connection.transactions) for connection in state.connections)
    if n:
        yield f"{n} open transactions: unknown to C xenstored, their clients get ENOENT"


def _depths(state: State, version: Version) -> Iterator[str]:
    watches = [
        (connection, watch)
        for connection in state.connections
        for watch in connection.watches
        if watch.depth is not None
    ]
    if not watches:
        return
    what = f"{len(watches)} watches with a depth, such as {_watch(*watches[0])}"
    if version == 1:
        yield f"{what}: they become watches without one, and report more"
    else:
        yield f"{what}: C xenstored of Xen 4.21 drops them; 4.22 keeps them until its own next live update"


def _watch(connection: Connection, watch: Watch) -> str:
    peer = connection.peer
    whose = f"domain {peer.domid}" if isinstance(peer, Ring) else f"descriptor {peer.fd}"
    return f"{watch.path.decode('latin-1')} of {whose}"


def _quotas(state: State, version: Version) -> Iterator[str]:
    reader = "C xenstored up to Xen 4.20" if version == 1 else "C xenstored of Xen 4.21, unlike 4.22,"
    if state.quotas or state.global_quotas:
        yield f"the quotas: {reader} has those of its own command line"
    own = sum(any(state.quotas.get(name) != value for name, value in each.quotas.items()) for each in state.domains)
    if own:
        yield f"the own quotas of {own} domains: {reader} has the same quotas for all"


def _features(state: State, version: Version) -> Iterator[str]:
    rings = {connection.peer.domid for connection in state.connections if isinstance(connection.peer, Ring)}
    told = [domain.features for domain in state.domains if domain.features and domain.domid in rings]
    if told and version == 1:
        yield f"the features that {len(told)} domains were told of: C xenstored up to Xen 4.20 has none of them"
    elif n := sum(features & RECONNECTION for features in told):
        yield f"reconnection, which {n} domains were told of: no C xenstored does it"
    early = sum(domain.domid not in rings and bool(domain.features or domain.quotas) for domain in state.domains)
    if early:
        yield f"what was set for {early} domains that are not introduced: C xenstored is told of introduced ones only"
