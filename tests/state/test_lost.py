"""What a hand-back says before it is done: everything that C xenstored of that stream version will not have."""

from __future__ import annotations

import pytest

from fastxs.state import Connection, Domain, Ring, Socket, State, Version, Watch, what_is_lost

BOTH: tuple[Version, ...] = (1, 2)


@pytest.mark.parametrize("version", BOTH)
def test_nothing_is_lost_of_what_every_c_xenstored_has(version: Version) -> None:
    watches = [Watch(b"/a", b"t")]
    state = State(
        3,
        9,
        connections=[Connection(1, Ring(5, 3, target=6), b"in", b"out", 2, watches), Connection(2, Socket(11))],
        domains=[Domain(5, features=0)],
    )
    assert what_is_lost(state, version) == []


@pytest.mark.parametrize("version", BOTH)
def test_open_transactions(version: Version) -> None:
    state = State(
        connections=[Connection(1, Socket(11), transactions=[7, 8]), Connection(2, Ring(5, 3), transactions=[1])]
    )
    assert what_is_lost(state, version) == ["3 open transactions: unknown to C xenstored, their clients get ENOENT"]


def test_depths_of_watches() -> None:
    deep = Watch(b"@releaseDomain", b"t", 1)
    state = State(connections=[Connection(1, Ring(5, 3), watches=[deep, Watch(b"/", b"")])])
    begin = "1 watches with a depth, such as @releaseDomain of domain 5: "
    assert what_is_lost(state, 1) == [begin + "they become watches without one, and report more"]
    assert what_is_lost(state, 2) == [
        begin + "C xenstored of Xen 4.21 drops them; 4.22 keeps them until its own next live update"
    ]


def test_quotas() -> None:
    rings = [Connection(n, Ring(n, n)) for n in (5, 6)]
    usual = {"nodes": 1000, "watches": 128}
    state = State(quotas=usual, connections=rings, domains=[Domain(5, quotas=usual), Domain(6, quotas=usual)])
    (one,) = what_is_lost(state, 1)
    assert one == "the quotas: C xenstored up to Xen 4.20 has those of its own command line"
    (one,) = what_is_lost(state, 2)
    assert one == "the quotas: C xenstored of Xen 4.21, unlike 4.22, has those of its own command line"
    state.domains[1].quotas = {**usual, "nodes": 5}
    _, other = what_is_lost(state, 1)
    assert other == "the own quotas of 1 domains: C xenstored up to Xen 4.20 has the same quotas for all"


def test_features() -> None:
    rings = [Connection(n, Ring(n, n)) for n in (5, 6)]
    state = State(connections=rings, domains=[Domain(5, 15), Domain(6, 14)])
    assert what_is_lost(state, 1) == [
        "the features that 2 domains were told of: C xenstored up to Xen 4.20 has none of them"
    ]
    assert what_is_lost(state, 2) == ["reconnection, which 1 domains were told of: no C xenstored does it"]


def test_domains_that_are_not_introduced() -> None:
    """C 4.22 ends over the record of a domain that it does not know, so such a record is not written."""
    state = State(domains=[Domain(5, features=4), Domain(6)])
    for version in BOTH:
        assert what_is_lost(state, version) == [
            "what was set for 1 domains that are not introduced: C xenstored is told of introduced ones only"
        ]
