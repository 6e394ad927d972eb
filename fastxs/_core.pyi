"""Types of the core's one Python face.

Everything between bytes in and bytes out happens inside `Engine.turn` without a Python call per
request.  Python meets the core here only: to hand it descriptors, to set quotas, to answer CONTROL
requests, to read counters and to be told what was refused.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, final

ABI: Final[int]
"""Layout number of the core's shared structs; every room refuses to load beside another one."""

FEATURES: Final[int]
"""Feature bits that this daemon offers (SPEC 2.1): 1 RECONNECTION, 2 ERROR, 4 WATCHDEPTH, 8 DOMID_ANY."""

class Notice(NamedTuple):
    """One refusal or oddity worth a log line; `count` - 1 like it were held back since the last one."""

    kind: str
    """`quota`, `soft-quota`, `permission`, `protocol`, `conflict`, `collapse`, `accept`, `domain`."""
    domid: int
    conn_id: int
    what: bytes
    """The path, the quota's name, or what else names the thing (cut to 255 bytes)."""
    error: str
    """The wire's error word (`ENOSPC`), or empty."""
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks of a line

class ControlError(Exception):
    """Raised by a CONTROL callback to answer with an error word: `ControlError("EINVAL")`."""

    def __init__(self, word: str) -> None: ...
    word: str

class ImageFailed(OSError):
    """The image did not take what was done: nobody is answered by this process any more."""

class Border:
    """The hypervisor as the Engine sees it.  `fastxs.hypervisor.border.Hypervisor` is the real one."""

class Image:
    """What outlives the process, as the Engine sees it.  `fastxs.storage.image.Image` is the real one."""

TRIALS: Final[tuple[str, ...]]
"""Points of a turn at which `Engine(trial="NAME:COUNT")` kills the process, when it gets there for the COUNTth time."""

FAULTS: Final[tuple[str, ...]]
"""And how the image fails, by the same words: it does not take a turn (ENOSPC); it has taken it into its log, and LMDB
takes nothing from there (EIO)."""

@final
class Engine:
    """The data plane: connections, store, watches, transactions; one instance serves one host.

    `control(conn_id, domid, words)` answers a CONTROL request: `words` are the payload's
    NUL-separated strings; it returns the reply's whole payload or raises `ControlError`; None: `answer` comes later.
    `answers` are such: what was asked of the process before this one, to be told with the recovery itself.
    `notice(notices)` is called at the end of a turn in which something was refused (already
    rate-limited per domain and kind).  Both run on the thread that runs `turn`.
    OSError: what cannot be used, the hypervisor or the image, and why.
    """

    def __init__(
        self,
        *,
        border: Border | None = None,
        image: Image | None = None,
        sockets: Sequence[int] = (),
        answers: Sequence[tuple[int, int, int, bytes]] = (),
        control: Callable[[int, int, list[bytes]], bytes | None] | None = None,
        notice: Callable[[list[Notice]], None] | None = None,
        priv_domid: int = 0,
        store_domid: int = 0,
        keep_orphans: bool = False,
        linger_us: int = 2000,
        trial: str = "",
    ) -> None: ...

    # -- the loop ---------------------------------------------------------------------------
    def fileno(self) -> int:
        """The Engine's epoll descriptor: readable when a turn has something to do."""
    def turn(self) -> None:
        """Serve everything that is ready, then stay (GIL released) for up to `linger_us` while
        traffic goes on; returns when nothing came for a while, or to let the loop run.

        ImageFailed: nothing of that turn has left, and nobody is served any more; the next process goes on from the
        image."""
    def close(self) -> None:
        """Close every connection and descriptor, free the store.  Idempotent."""
    # -- connections ------------------------------------------------------------------------
    def listen(self, fd: int) -> None:
        """Accept on this listening unix socket (the Engine owns the descriptor from now on)."""
    def keep(self, fd: int) -> None:
        """Every accepted connection goes into the store behind this datagram socket first (the Engine owns it)."""
    def unlisten(self) -> None:
        """Close the listening socket; connections go on."""
    def adopt(self, fd: int) -> int:
        """Serve a connected unix socket as the store's own domain; its connection id."""
    def attach(self, domid: int) -> int:
        """A connection in memory, for tests and tools: what `feed` gives is what `domid` wrote."""
    def feed(self, conn_id: int, data: bytes) -> None:
        """Bytes from an attached peer; they are served in this call (one turn)."""
    def take(self, conn_id: int) -> bytes:
        """And all bytes that wait for that peer (replies and events), which are thereby delivered."""
    def disconnect(self, conn_id: int) -> None: ...
    def connections(self) -> list[dict[str, int | str]]:
        """id, kind (`socket`, `ring`, `memory`), domid, fd, watches, transactions, out_bytes, in_bytes, port."""
    def connected(self, conn_id: int) -> bool: ...
    # -- before a live update -------------------------------------------------------------------
    def asked(self) -> tuple[int, int]:
        """req_id and tx_id of the request that `control` is being asked about."""
    def answer(self, conn_id: int, req_id: int, tx_id: int, payload: bytes) -> None:
        """What `control` left open; for nobody, if that connection is gone."""
    def buffered(self, conn_id: int) -> tuple[bytes, bytes]:
        """What was taken from a peer and not served, what waits to be sent to it: all of it, however much."""
    def unmask(self) -> None:
        """Ports that were left masked because their rings are looked at again anyway."""
    def hold_transactions(self, hold: bool) -> None:
        """While it holds, a peer that has no transaction begins none: it waits with that request."""
    def transactions(self) -> list[tuple[int, int, float]]:
        """Peers with open ones: connection id, domid, and for how many seconds it has had any."""
    # -- domains (without a border: for tests and tools) ---------------------------------------
    def pretend(self, domid: int, exists: bool) -> None:
        """Without a border: say whether a domain exists (domain 0 does).  A domain that ceases to
        exist is removed at once, as a death seen through VIRQ_DOM_EXC is."""
    def offer_features(self) -> int:
        """From now on every domain is offered all that this daemon can do; how many were offered less."""
    def domains(self) -> list[dict[str, int]]:
        """domid, introduced, target (-1 none), features, unique_id, shutdown."""
    # -- quotas -------------------------------------------------------------------------------
    @staticmethod
    def quota_names() -> tuple[str, ...]:
        """`nodes watches transactions transaction-nodes node-permissions node-size path-max
        outstanding memory soft-memory`, in the order that CONTROL prints them."""
    @staticmethod
    def quota_text(name: str) -> str:
        """What the quota limits, as `xenstore-control quota` says it."""
    def get_quota(self, name: str, domid: int | None = None) -> int:
        """0 is unlimited.  KeyError: no such quota; LookupError: no such domain."""
    def set_quota(self, name: str, value: int, domid: int | None = None) -> None: ...
    def accounts(self, domid: int) -> dict[str, tuple[int, int]]:
        """name -> (value now, highest value ever) of one domain."""
    def highest_accounts(self, reset: bool = False) -> dict[str, int]:
        """name -> highest value seen of any domain."""
    # -- looking inside -------------------------------------------------------------------------
    def check(self) -> list[str]:
        """Walk everything, compare every counter and index with what it counts; the faults found."""
    def counters(self) -> dict[str, int]:
        """requests, replies, errors, events, events_dropped, events_collapsed, commits, conflicts,
        replays, accepted, closed, turns, nodes, watches, transactions, connections, bytes_in, bytes_out ..."""
    def operations(self) -> dict[str, int]:
        """Operation name -> requests served."""
    def memory(self) -> dict[str, int]:
        """Bytes by use: heap_reserved, heap_used, nodes, watches, transactions, connections, ..."""
    def count_spans(self, on: bool) -> None:
        """Measure from now on, beginning at nothing, how long turns hold the thread; or do not (0.3 us a turn)."""
    def spans(self) -> tuple[bool, dict[int, int], int]:
        """Whether that is done; {first CPU ns too long for a bucket: batches and turns' ends in it}, those
        with none left out; the longest, in ns."""
    # -- tracing ---------------------------------------------------------------------------------
    def trace(self, fd: int | None, switches: Sequence[str] = ("obj", "io")) -> None:
        """Write C xenstored's trace lines (SPEC 6.4) to this descriptor (the caller's); None stops.
        switches: obj io wrl acc tdb."""
