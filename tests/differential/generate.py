"""Random conversations with a XenStore daemon: which requests, on which connection, well-formed or not.

Owns the shape of what is asked.  Refuses to know any daemon, any socket, and what the answers should be.  All of it
comes from one `random.Random`, so a seed is a conversation; a `Step` names transactions by slot and never by id, so a
conversation stays meaningful when steps are taken out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Final, NamedTuple

from tests.support.wire import PAYLOAD_MAX, Op, op_name

CONNECTIONS: Final = 3
DOMAINS: Final = (1, 2, 3, 4)
"""The domains that exist in the pretend hypervisor; 7 and above never do."""

# What is no request: done to the connection or to the hypervisor.
RECONNECT: Final = -1
OVERLONG: Final = -2
SYNC: Final = -3
DESTROY: Final = -4
CREATE: Final = -5
_PSEUDO: Final = {RECONNECT: "reconnect", OVERLONG: "overlong", SYNC: "sync", DESTROY: "destroy", CREATE: "create"}

IN_SLOT: Final = -1
"""`Step.tx` for "the transaction of my slot"."""


class Step(NamedTuple):
    """One thing to do.  `tx` is 0, `IN_SLOT`, or the id of a transaction that does not exist."""

    conn: int
    op: int
    payload: bytes = b""
    tx: int = 0
    slot: int = 0

    def __str__(self) -> str:
        name = _PSEUDO.get(self.op) or op_name(self.op)
        tx = {0: "", IN_SLOT: f" tx=slot{self.slot}"}.get(self.tx, f" tx={self.tx}")
        rest = f"... {len(self.payload)} bytes" if len(self.payload) > 120 else ""
        return f"conn {self.conn}: {name}{tx} {self.payload[:120]!r}{rest}"


class Profile(NamedTuple):
    """What a conversation is made of; all weights are relative."""

    slots: int = 1
    """Transactions that may be open at one time."""
    malformed: float = 0.08
    outside: float = 0.15
    """While a transaction is open in the one-slot mode: how often somebody works beside it."""
    domains: bool = True
    control: bool = True
    deaths: bool = True
    watches: bool = True
    sticky: float = 0
    """How often the next request outside a transaction comes on the same connection, whatever the dice."""


NAMES: Final = (b"a", b"b", b"c", b"d")
_BAD_BYTES: Final = (b" ", b"+", b".", b"\xff", b"\x01", b":", b"*", b"~", b"\\", b"\n", b"\x80")
_SPECIALS: Final = (b"@introduceDomain", b"@releaseDomain")
_ODD_SPECIALS: Final = (b"@foo", b"@", b"@releaseDomain/1", b"@introduceDomain/2", b"@releaseDomainX")
_UNKNOWN_OPS: Final = (15, 16, 20, 27, 28, 99, 65535, 0x80000001, 0xFFFFFFFF)
_DOMIDS: Final = (b"0", b"1", b"2", b"3", b"4", b"7", b"32752", b"30000", b"", b" 2", b"02")
_BAD_DOMIDS: Final = (
    b"x", b"9x", b"-1", b"65536", b"99999", b"0x9", b"+9", b"9 ", b"4294967305", b"18446744073709551625",
)  # fmt: skip
_OFFSETS: Final = (
    b"0", b"0", b"0", b"0", b"1", b"2", b"3", b"7", b"100", b"4000", b"-1", b"x", b"", b" 3", b"3x", b"99999999999",
)  # fmt: skip
_CONTROLS: Final = (
    b"check\0", b"print\0hello\0", b"print\0", b"help\0", b"help\0x\0", b"no-such\0", b"quota\0", b"quota-soft\0",
    b"check\0x\0", b"", b"\0", b"check", b"quota\x000\0", b"quota\x009\0", b"log\0bla\0", b"Check\0", b"quota\0set\0",
    b"log\0on\0", b"log\0off\0", b"log\0", b"live-update\0",
    b"quota\0set\0nodes\x000\0", b"quota\0set\0nodes\0", b"quota\0set\0nodes\0x\0", b"quota\0set\0no\x009\0",
)  # fmt: skip
_BAD_ENDS: Final = (b"X\0", b"T", b"", b"T\0\0", b"TT\0", b"t\0")
_BAD_PERMS: Final = (b"x0", b"n", b"n0x", b"0", b"", b"N0", b"rw0", b"n0 ", b"0n", b"n1x")


class Generator:
    """An endless conversation; `Generator(rng, profile)` is its own iterator."""

    def __init__(self, rng: Random, profile: Profile = Profile()) -> None:  # noqa: B008
        self.rng = rng
        self.profile = profile
        self.open: dict[int, int] = {}
        """slot -> connection, as far as the generator can tell (a RESET_WATCHES may have failed)."""
        self.burst: list[Step] = []
        self.conn = 0
        # (weight, maker of (op, payload)): one table says what a conversation looks like.
        table: list[tuple[int, Callable[[], tuple[int, bytes]]]] = [
            (130, lambda: (Op.WRITE, self.path() + b"\0" + self.value())),
            (70, lambda: (Op.READ, self.path() + b"\0")),
            (60, lambda: (Op.DIRECTORY, self.path() + b"\0")),
            (50, lambda: (Op.MKDIR, self.path() + b"\0")),
            (70, lambda: (Op.RM, self.path() + b"\0")),
            (40, lambda: (Op.GET_PERMS, self.path() + b"\0")),
            (50, lambda: (Op.SET_PERMS, self.path() + b"\0" + self.perms())),
            (60 * profile.watches, lambda: (Op.WATCH, self.watch_path() + b"\0" + self.token() + b"\0")),
            (40, lambda: (Op.UNWATCH, self.watch_path() + b"\0" + self.token() + b"\0")),
            (6, lambda: (Op.RESET_WATCHES, rng.choice((b"", b"\0", b"x")))),
            (25, lambda: (Op.DIRECTORY_PART, self.path() + b"\0" + self.offset() + b"\0")),
            (5, lambda: (rng.choice(_UNKNOWN_OPS), rng.choice((b"", b"\0", b"/a\0")))),
            (4, lambda: (Op.GET_DOMAIN_PATH, self.domid() + b"\0")),
            (3, lambda: (Op.SET_PERMS, rng.choice(_SPECIALS) + b"\0" + self.perms())),
            (2, lambda: (Op.GET_PERMS, rng.choice(_SPECIALS + _ODD_SPECIALS) + b"\0")),
            (2 * profile.watches, lambda: (Op.WATCH, b"\0".join((self.watch_path(), self.token(), self.depth(), b"")))),
            (2, lambda: (rng.choice((Op.GET_FEATURE, Op.GET_QUOTA)), rng.choice((b"", b"nodes\0", b"x\0")))),
        ]
        if profile.domains:
            table += [
                (8, lambda: (Op.INTRODUCE, self.introduce())),
                (6, lambda: (Op.RELEASE, self.domid() + b"\0")),
                (5, lambda: (Op.IS_DOMAIN_INTRODUCED, self.domid() + b"\0")),
                (3, lambda: (Op.RESUME, self.domid() + b"\0")),
                (3, lambda: (Op.SET_TARGET, self.domid() + b"\0" + self.domid() + b"\0")),
            ]
        if profile.control:
            table.append((4, lambda: (Op.CONTROL, self.control())))
        self._weights = [weight for weight, _ in table]
        self._makers = [maker for _, maker in table]

    # -- the pieces -------------------------------------------------------------------------
    def path(self) -> bytes:
        """A legal path out of a small alphabet, so that requests meet; now and then a deep or a wide one."""
        rng = self.rng
        dice = rng.random()
        if dice < 0.03:
            return b"/"
        if dice < 0.07:
            return b"/wide/%03d" % rng.randrange(40) if rng.random() < 0.8 else b"/wide"
        if dice < 0.09:
            return b"/deep" + b"/x" * rng.randrange(60)
        if dice < 0.11:
            return rng.choice((b"/tool", b"/tool/xenstored", b"/local", b"/local/domain", b"/a/@b", b"/a-b_C/9"))
        parts = [rng.choice(NAMES) for _ in range(min(int(rng.expovariate(0.6)) + 1, 6))]
        if dice < 0.19:
            return b"/".join(parts)
        if dice < 0.22:
            return b"/local/domain/0/" + b"/".join(parts)
        if dice < 0.24:
            return b"/local/domain/%d/" % rng.choice(DOMAINS) + b"/".join(parts)
        return b"/" + b"/".join(parts)

    def watch_path(self) -> bytes:
        dice = self.rng.random()
        if dice < 0.1:
            return self.rng.choice(_SPECIALS)
        if dice < 0.13:
            return self.rng.choice(_ODD_SPECIALS)
        if dice < 0.6:
            return self.rng.choice((b"/a", b"/a/b", b"/a/a", b"/b", b"/b/a", b"a", b"a/b", b"/local/domain/0/a", b"/"))
        return self.path()

    def token(self) -> bytes:
        dice = self.rng.random()
        if dice < 0.9:
            return b"t%d" % self.rng.randrange(3)
        return self.rng.choice((b"", b" a token/+\xff", b"T" * 200, b"L" * 4060 if dice > 0.99 else b"L"))

    def value(self) -> bytes:
        rng = self.rng
        dice = rng.random()
        if dice < 0.2:
            return b""
        if dice < 0.7:
            return b"v%d" % rng.randrange(10)
        if dice < 0.8:
            return b"\0bin\0\xff" + bytes([rng.randrange(256)])
        return rng.randbytes(rng.choice((1, 15, 16, 17, 63, 64, 255, 1024, 2048, 4000)) if dice > 0.96 else 20)

    def perms(self) -> bytes:
        rng = self.rng
        owner = rng.choice((0, 0, 0, 0, *DOMAINS, 7))
        entries = [(rng.choice(b"nrwb"), owner)]
        while rng.random() < 0.5 and len(entries) < 8:
            entries.append((rng.choice(b"nrwb"), rng.choice((0, *DOMAINS, 7, 5000))))
        return b"".join(b"%c%d\0" % entry for entry in entries)

    def domid(self) -> bytes:
        dice = self.rng.random()
        return self.rng.choice(_BAD_DOMIDS) if dice < self.profile.malformed else self.rng.choice(_DOMIDS)

    def introduce(self) -> bytes:
        rng = self.rng
        domid = b"%d" % rng.choice(DOMAINS) if rng.random() < 0.7 else self.domid()
        port = b"2" if rng.random() < 0.9 else rng.choice((b"0", b"-1", b"x", b""))
        return b"\0".join((domid, b"%d" % rng.randrange(9), port, *([b"more"] if rng.random() < 0.05 else []), b""))

    def offset(self) -> bytes:
        return self.rng.choice(_OFFSETS)

    def depth(self) -> bytes:
        return self.rng.choice((b"0", b"1", b"2", b"-1", b"x", b"99999999999"))

    def control(self) -> bytes:
        return self.rng.choice(_CONTROLS)

    def damage(self, op: int, payload: bytes) -> bytes:
        """The same payload, not well-formed any more (or, now and then, still)."""
        rng = self.rng
        if op == Op.SET_PERMS and rng.random() < 0.5:
            path = payload.split(b"\0")[0] + b"\0"
            bad = rng.choice(_BAD_PERMS) + b"\0"
            return path + rng.choice((b"", bad, b"n0\0" + bad, b"n0"))
        at = rng.randrange(len(payload) + 1)
        slash = payload.find(b"/", rng.randrange(len(payload) + 1))
        end = payload.find(b"\0")
        end = len(payload) if end < 0 else end
        return rng.choice((
            lambda: b"",
            lambda: b"\0",
            lambda: payload[:-1],
            lambda: payload + b"\0",
            lambda: payload + b"more\0",
            lambda: payload + b"x",
            lambda: b"\0" + payload,
            lambda: payload[:at],
            lambda: payload[:at] + rng.choice(_BAD_BYTES) + payload[at:],
            lambda: payload[:end] + rng.choice(_BAD_BYTES) + payload[end:],
            lambda: payload[:end] + b"/" + payload[end:],
            lambda: payload[: slash + 1] + b"/" + payload[slash + 1 :],
            lambda: payload.replace(b"/", b"//"),
            lambda: b"/" + b"l" * rng.choice((2046, 2047, 2048, 3071, 3072)) + payload[end:],
            lambda: (payload + b"z" * PAYLOAD_MAX)[:PAYLOAD_MAX],
            lambda: payload[:end] + b"/" + b"y" * (PAYLOAD_MAX - len(payload) - 1) + payload[end:],
            lambda: rng.randbytes(rng.randrange(40)),
            lambda: b"/local/domain/\0" + payload[end + 1 :],
            lambda: b"@foo" + payload[end:],
        ))()  # fmt: skip

    # -- the conversation -------------------------------------------------------------------
    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        if self.burst:
            return self.burst.pop()
        rng, profile = self.rng, self.profile
        dice = rng.random()
        if dice < 0.004:
            return self._special()
        if dice < 0.1:
            step = self._transaction()
            if step is not None:
                return step
        op, payload = rng.choices(self._makers, self._weights)[0]()
        if rng.random() < profile.malformed:
            payload = self.damage(op, payload)
        conn, tx, slot = self._where(op)
        if op == Op.RESET_WATCHES:
            self._forget(conn)
        return Step(conn, op, payload[:PAYLOAD_MAX], tx, slot)

    def _where(self, op: int) -> tuple[int, int, int]:
        """Which connection, which transaction."""
        rng = self.rng
        if rng.random() < 0.01:
            return rng.randrange(CONNECTIONS), rng.choice((9_000_000, 0x7FFFFFFF, 0xFFFFFFFF)), 0
        if self.open and rng.random() >= self.profile.outside:
            slot = rng.choice(list(self.open))
            return self.open[slot], IN_SLOT, slot
        if rng.random() >= self.profile.sticky:
            self.conn = rng.randrange(CONNECTIONS)
        return self.conn, 0, 0

    def _forget(self, conn: int) -> None:
        self.open = {slot: at for slot, at in self.open.items() if at != conn}

    def _transaction(self) -> Step | None:
        rng = self.rng
        free = [slot for slot in range(self.profile.slots) if slot not in self.open]
        if free and (not self.open or rng.random() < 0.5):
            conn = rng.randrange(CONNECTIONS)
            self.open[free[0]] = conn
            return Step(conn, Op.TRANSACTION_START, rng.choice((b"\0", b"\0", b"", b"x")), 0, free[0])
        if not self.open:
            return None
        slot = rng.choice(list(self.open))
        conn = self.open[slot]
        dice = rng.random()
        if dice < 0.05:
            return Step(conn, Op.TRANSACTION_START, b"\0", IN_SLOT, slot)
        if dice < 0.15:
            return Step(conn, Op.TRANSACTION_END, rng.choice(_BAD_ENDS), IN_SLOT, slot)
        if dice < 0.18:
            return Step(rng.randrange(CONNECTIONS), Op.TRANSACTION_END, rng.choice((b"T\0", b"F\0", b"X\0")), 0)
        del self.open[slot]
        return Step(conn, Op.TRANSACTION_END, b"F\0" if dice < 0.3 else b"T\0", IN_SLOT, slot)

    def _special(self) -> Step:
        rng = self.rng
        conn = rng.randrange(CONNECTIONS)
        dice = rng.random()
        if dice < 0.25:
            self._forget(conn)
            return Step(conn, RECONNECT)
        if dice < 0.35:
            self._forget(conn)
            return Step(conn, OVERLONG, rng.choice((b"", b"/a\0")), 0, rng.choice((1, 4096, 0x7FFFEFFF)))
        if dice < 0.55 and self.profile.deaths:
            domid = b"%d" % rng.choice(DOMAINS)
            self.burst = [Step(0, CREATE, domid)]
            return Step(0, DESTROY, domid)
        # A directory that no reply can hold, and listings of it; it goes again some time later by an ordinary RM.
        base = rng.choice((b"/a", b"/big", b"/b/c"))
        width = rng.choice((120, 200, 300))
        name = rng.choice((20, 31, 60))
        self.burst = [Step(conn, Op.DIRECTORY_PART, base + b"\0" + b"%d\0" % rng.randrange(9000)) for _ in range(6)]
        self.burst += [Step(conn, Op.DIRECTORY, base + b"\0"), Step(conn, Op.DIRECTORY_PART, base + b"\x000\0")]
        self.burst += [Step(conn, Op.WRITE, base + b"/%0*d\0" % (name, n)) for n in range(width)]
        return self.burst.pop()
