"""States of every shape that the migration stream holds, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from fastxs.state import Connection, Domain, Node, Perm, Ring, Socket, State, Watch

U16, U32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
NO_TARGET = 0x7FF4
DOMIDS = st.integers(0, 9)
TEXT = st.binary(max_size=40).map(lambda data: data.replace(b"\0", b"."))
PATHS = TEXT.map(lambda text: b"/" + text)
BLOBS = st.binary(max_size=60)
PERMS = st.builds(Perm, st.sampled_from("nrwb"), U16, st.booleans())
NODES = st.builds(
    Node, PATHS | st.sampled_from([b"@releaseDomain"]), BLOBS, st.lists(PERMS, min_size=1, max_size=4).map(tuple)
)
RINGS = st.builds(Ring, DOMIDS, U32, st.none() | DOMIDS, st.none() | st.integers(0, 2**64 - 1))
SOCKETS = st.builds(Socket, st.integers(0, 2**31 - 1))
WATCHES = st.builds(Watch, TEXT.filter(bool), TEXT, st.none() | st.integers(0, 0xFFFE))
QUOTAS = st.dictionaries(st.sampled_from(["nodes", "watches", "memory", "soft-memory"]), U32)


@st.composite
def connections(draw: st.DrawFn) -> list[Connection]:
    """Clients whose ids, domids and descriptors are their own."""
    rings = draw(st.lists(RINGS, max_size=5, unique_by=lambda ring: ring.domid))
    sockets = draw(st.lists(SOCKETS, max_size=3, unique_by=lambda peer: peer.fd))
    peers: list[Ring | Socket] = draw(st.permutations([*rings, *sockets]))
    ids = draw(st.lists(st.integers(1, 0xFFFFFFFF), min_size=len(peers), max_size=len(peers), unique=True))
    found = []
    for conn_id, peer in zip(ids, peers, strict=True):
        unsent = draw(BLOBS)
        found.append(
            Connection(
                conn_id,
                peer,
                draw(BLOBS),
                unsent,
                draw(st.integers(0, len(unsent))),
                draw(st.lists(WATCHES, max_size=3)),
                draw(st.lists(U32, max_size=2)),
            )
        )
    return found


STATES = st.builds(
    State,
    listen_fd=st.none() | st.integers(0, 2**31 - 1),
    evtchn_fd=st.none() | st.integers(0, 2**31 - 1),
    quotas=QUOTAS,
    global_quotas=QUOTAS,
    connections=connections(),
    domains=st.lists(st.builds(Domain, DOMIDS, U32, QUOTAS), max_size=3, unique_by=lambda domain: domain.domid),
    nodes=st.lists(NODES, max_size=6),
)
