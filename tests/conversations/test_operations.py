"""The table of operations: who may ask for what, and the one error word for each refusal.

The order of the checks is part of the protocol: unknown type, privilege, transaction id, and only then what the
operation itself has to say.
"""

from __future__ import annotations

from typing import Final

import pytest

from tests.conversations.speak import OK, Answer, Speaker, World, nul
from tests.support.wire import Op

TOOL: Final = "tool"
GUEST: Final = "guest"
BOTH: Final = "both"

Row = tuple[str, Op, bytes, Answer]
"""Who asks, for what, with which payload, and what comes back."""

ONE_STRING = (b"", b"/a", b"/a\0x", b"/a\0\0", b"/a\0/a\0")
"""What is no single string: nothing, no NUL, something after the NUL."""


def malformed(who: str, op: Op, payloads: tuple[bytes, ...]) -> list[Row]:
    return [(who, op, payload, "EINVAL") for payload in payloads]


READING: list[Row] = [
    (TOOL, Op.DIRECTORY, nul("/a"), b"b\0c\0"),
    (TOOL, Op.DIRECTORY, nul("/a/b"), b""),
    (TOOL, Op.DIRECTORY, nul("/missing"), "ENOENT"),
    (TOOL, Op.DIRECTORY, nul("@releaseDomain"), "EINVAL"),
    (GUEST, Op.DIRECTORY, nul("/a"), "EACCES"),
    (GUEST, Op.DIRECTORY, nul("/missing"), "EACCES"),
    (GUEST, Op.DIRECTORY, nul("/local/domain/1"), b"own\0"),
    (GUEST, Op.DIRECTORY, nul("/local/domain/1/none"), "ENOENT"),
    *malformed(TOOL, Op.DIRECTORY, ONE_STRING),
    (TOOL, Op.READ, nul("/a"), b"value"),
    (TOOL, Op.READ, nul("/a/b"), b""),
    (TOOL, Op.READ, nul("/a/x/y"), "ENOENT"),
    (TOOL, Op.READ, nul("/"), b""),
    (TOOL, Op.READ, nul("@introduceDomain"), "EINVAL"),
    (GUEST, Op.READ, nul("/a"), "EACCES"),
    (GUEST, Op.READ, nul("own"), b"mine"),
    (GUEST, Op.READ, nul("own/none"), "ENOENT"),
    *malformed(TOOL, Op.READ, ONE_STRING),
    (TOOL, Op.GET_PERMS, nul("/a"), nul("n0")),
    (TOOL, Op.GET_PERMS, nul("/local/domain/1/own"), nul("n1")),
    (TOOL, Op.GET_PERMS, nul("@introduceDomain"), nul("n0")),
    (TOOL, Op.GET_PERMS, nul("@releaseDomain"), nul("n0", "r32757")),
    (TOOL, Op.GET_PERMS, nul("@other"), "ENOENT"),
    (TOOL, Op.GET_PERMS, nul("/missing"), "ENOENT"),
    (GUEST, Op.GET_PERMS, nul("/a"), "EACCES"),
    (GUEST, Op.GET_PERMS, nul("own"), nul("n1")),
    *malformed(TOOL, Op.GET_PERMS, ONE_STRING),
    *malformed(TOOL, Op.DIRECTORY_PART, (b"", nul("/a"), nul("/a", 0, 0), b"/a\x000")),
    (TOOL, Op.DIRECTORY_PART, nul("/missing", 0), "ENOENT"),
    (GUEST, Op.DIRECTORY_PART, nul("/a", 0), "EACCES"),
]

WRITING: list[Row] = [
    (TOOL, Op.WRITE, nul("/new"), OK),
    (TOOL, Op.WRITE, b"/new\0value without a NUL", OK),
    (TOOL, Op.WRITE, b"/new\0a\0b\0c", OK),
    (TOOL, Op.WRITE, nul("/"), OK),
    (TOOL, Op.WRITE, b"/new", "EINVAL"),
    (TOOL, Op.WRITE, b"", "EINVAL"),
    (TOOL, Op.WRITE, nul("@releaseDomain"), "EINVAL"),
    (GUEST, Op.WRITE, nul("/new"), "EACCES"),
    (GUEST, Op.WRITE, nul("/a"), "EACCES"),
    (GUEST, Op.WRITE, nul("/"), "EACCES"),
    (GUEST, Op.WRITE, nul("own/x/y"), OK),
    (TOOL, Op.MKDIR, nul("/new/x"), OK),
    (TOOL, Op.MKDIR, nul("/a"), OK),
    (TOOL, Op.MKDIR, nul("/"), OK),
    (GUEST, Op.MKDIR, nul("/a"), "EACCES"),
    (GUEST, Op.MKDIR, nul("/a/new"), "EACCES"),
    (GUEST, Op.MKDIR, nul("own/x"), OK),
    *malformed(TOOL, Op.MKDIR, ONE_STRING),
    (TOOL, Op.RM, nul("/a"), OK),
    (TOOL, Op.RM, nul("/missing"), OK),
    (TOOL, Op.RM, nul("/missing/deeper"), "ENOENT"),
    (TOOL, Op.RM, nul("/"), "EINVAL"),
    (TOOL, Op.RM, nul("@releaseDomain"), "EINVAL"),
    (GUEST, Op.RM, nul("/"), "EACCES"),
    (GUEST, Op.RM, nul("/a"), "EACCES"),
    (GUEST, Op.RM, nul("/missing"), "EACCES"),
    (GUEST, Op.RM, nul("own"), OK),
    (GUEST, Op.RM, nul("own/none"), OK),
    (GUEST, Op.RM, nul("own/none/deeper"), "ENOENT"),
    *malformed(TOOL, Op.RM, ONE_STRING),
    (TOOL, Op.SET_PERMS, nul("/a", "n0"), OK),
    (TOOL, Op.SET_PERMS, nul("/a", "r1", "b0", "w2"), OK),
    (TOOL, Op.SET_PERMS, nul("/a", "r0x1", "b00"), OK),
    (TOOL, Op.SET_PERMS, nul("/a", "n0", "r9"), OK),  # only the owner has to exist
    (TOOL, Op.SET_PERMS, nul("/a", "n9"), "ENOENT"),
    (TOOL, Op.SET_PERMS, nul("/missing", "n0"), "ENOENT"),
    (TOOL, Op.SET_PERMS, nul("@introduceDomain", "n0", "r1"), OK),
    (TOOL, Op.SET_PERMS, nul("@other", "n0"), "ENOENT"),
    *malformed(
        TOOL,
        Op.SET_PERMS,
        (b"", b"/a", nul("/a"), b"/a\0n0", nul("/a", ""), nul("/a", "n"), nul("/a", "x0"), nul("/a", "nx"),
         nul("/a", "n0 "), nul("/a", "N0"), nul("/a", "n0", "r"), nul("/a", "n0", ""), nul("/a/", "n0")),
    ),
    (GUEST, Op.SET_PERMS, nul("/a", "n1"), "EACCES"),
    (GUEST, Op.SET_PERMS, nul("/missing", "n1"), "EACCES"),
    (GUEST, Op.SET_PERMS, nul("own", "n1", "r0"), OK),
    (GUEST, Op.SET_PERMS, nul("own", "n0"), "EPERM"),
    (GUEST, Op.SET_PERMS, nul("own", "n9"), "ENOENT"),
    (GUEST, Op.SET_PERMS, nul("own/none", "n1"), "ENOENT"),
    (GUEST, Op.SET_PERMS, nul("@releaseDomain", "n1"), "EACCES"),
]  # fmt: skip

WATCHING: list[Row] = [
    (BOTH, Op.WATCH, nul("/a", "token"), OK),
    (BOTH, Op.WATCH, nul("/a", ""), OK),
    (BOTH, Op.WATCH, nul("/missing", "token"), OK),
    (BOTH, Op.WATCH, nul("relative", "token"), OK),
    (BOTH, Op.WATCH, nul("@releaseDomain", "token"), OK),
    (BOTH, Op.WATCH, nul("@introduceDomain", "token"), OK),
    (BOTH, Op.WATCH, nul("@releaseDomain/5", "token"), OK),
    (BOTH, Op.WATCH, nul("@whatever", "token"), OK),
    (BOTH, Op.WATCH, nul("/a", "token", 0), OK),
    (BOTH, Op.WATCH, nul("/a", "token", 2147483647), OK),
    (BOTH, Op.WATCH, nul("/a", "token", "no number"), OK),
    (BOTH, Op.WATCH, nul("/a", "token", ""), OK),
    (BOTH, Op.WATCH, nul("/watched", "token"), "EEXIST"),
    (BOTH, Op.WATCH, nul("/watched", "token", 3), "EEXIST"),
    *malformed(
        BOTH,
        Op.WATCH,
        (b"", b"/a", nul("/a"), b"/a\0token", nul("/a", "token", -1), nul("/a", "token", 1, 2), nul("", "token"),
         nul("/a/", "token"), nul("/a//b", "token"), nul("/ä", "token")),
    ),
    (BOTH, Op.UNWATCH, nul("/watched", "token"), OK),
    (BOTH, Op.UNWATCH, nul("/watched", "other"), "ENOENT"),
    (BOTH, Op.UNWATCH, nul("/other", "token"), "ENOENT"),
    *malformed(BOTH, Op.UNWATCH, (b"", nul("/watched"), b"/watched\0token", nul("/watched", "token", 3), nul("", ""))),
    (BOTH, Op.RESET_WATCHES, b"", OK),
    (BOTH, Op.RESET_WATCHES, b"\0", OK),
    (BOTH, Op.RESET_WATCHES, b"anything", OK),
]  # fmt: skip

TRANSACTIONS: list[Row] = [
    (BOTH, Op.TRANSACTION_START, b"", b"1\0"),
    (BOTH, Op.TRANSACTION_START, b"\0", b"1\0"),
    (BOTH, Op.TRANSACTION_START, b"anything", b"1\0"),
    (BOTH, Op.TRANSACTION_END, b"T\0", "ENOENT"),
    (BOTH, Op.TRANSACTION_END, b"F\0", "ENOENT"),
    *malformed(BOTH, Op.TRANSACTION_END, (b"", b"T", b"X\0", b"TF\0", b"t\0", b"T\0\0")),
]

DOMAINS: list[Row] = [
    (TOOL, Op.INTRODUCE, nul(2, 1, 1), OK),
    (TOOL, Op.INTRODUCE, nul(2, "not looked at", 1, "nor this"), OK),
    (TOOL, Op.INTRODUCE, nul(1, 1, 1), OK),
    *malformed(
        TOOL,
        Op.INTRODUCE,
        (b"", nul(2, 1), b"2\x001\x001", nul(2, 1, 0), nul(2, 1, "x"), nul(65536, 1, 1), nul("x", 1, 1),
         nul("2x", 1, 1)),
    ),
    (TOOL, Op.RELEASE, nul(1), OK),
    (TOOL, Op.RELEASE, nul(" 1"), OK),
    (TOOL, Op.RELEASE, nul(2), "ENOENT"),
    (TOOL, Op.RELEASE, nul(9), "ENOENT"),
    *malformed(TOOL, Op.RELEASE, (b"", b"1", nul(0), nul(""), nul("1 "), nul("0x1"), nul(65536), nul(1, 1))),
    (TOOL, Op.RESUME, nul(1), OK),
    (TOOL, Op.RESUME, nul(2), "ENOENT"),
    *malformed(TOOL, Op.RESUME, (b"", b"1", nul(0), nul("x"), nul(65536), nul(1, 1))),
    (TOOL, Op.SET_TARGET, nul(3, 1), OK),
    (TOOL, Op.SET_TARGET, nul(3, 1, "more"), OK),
    (TOOL, Op.SET_TARGET, nul(3, 9), "ENOENT"),
    (TOOL, Op.SET_TARGET, nul(9, 3), "ENOENT"),
    (TOOL, Op.SET_TARGET, nul(3, 2), "ENOENT"),  # 2 exists, but nobody introduced it
    *malformed(TOOL, Op.SET_TARGET, (b"", nul(3), nul("x", 1), nul(3, "x"), nul(3, 65536), b"3\x001")),
    (TOOL, Op.IS_DOMAIN_INTRODUCED, nul(1), b"T\0"),
    (TOOL, Op.IS_DOMAIN_INTRODUCED, nul(0), b"T\0"),
    (TOOL, Op.IS_DOMAIN_INTRODUCED, nul(2), b"F\0"),
    (TOOL, Op.IS_DOMAIN_INTRODUCED, nul(9), b"F\0"),
    (TOOL, Op.IS_DOMAIN_INTRODUCED, nul(32752), b"T\0"),  # DOMID_SELF
    *malformed(TOOL, Op.IS_DOMAIN_INTRODUCED, (b"", b"1", nul("x"), nul(65536), nul(1, 1))),
    (BOTH, Op.GET_DOMAIN_PATH, nul(1), nul("/local/domain/1")),
    (BOTH, Op.GET_DOMAIN_PATH, nul(65535), nul("/local/domain/65535")),
    (BOTH, Op.GET_DOMAIN_PATH, nul(" 7"), nul("/local/domain/7")),
    (BOTH, Op.GET_DOMAIN_PATH, nul(""), nul("/local/domain/0")),
    (BOTH, Op.GET_DOMAIN_PATH, nul("007"), nul("/local/domain/7")),
    *malformed(BOTH, Op.GET_DOMAIN_PATH, (b"", b"1", nul("x"), nul("7x"), nul("7 "), nul(65536), nul(1, 1))),
]  # fmt: skip

NAMES: Final = {
    "nodes", "watches", "outstanding", "memory", "soft-memory", "transactions", "transaction-nodes",
    "node-permissions", "path-max", "node-size",
}  # fmt: skip

SETTINGS: list[Row] = [
    (BOTH, Op.GET_FEATURE, b"", b"15\0"),
    (TOOL, Op.GET_FEATURE, nul(1), b"15\0"),
    (TOOL, Op.GET_FEATURE, nul(2), b"15\0"),
    (TOOL, Op.GET_FEATURE, nul(9), "ENOENT"),
    *malformed(TOOL, Op.GET_FEATURE, (nul("x"), nul(65536), nul(1, 1))),
    (GUEST, Op.GET_FEATURE, nul(1), "EACCES"),
    (TOOL, Op.SET_FEATURE, nul(2, 3), OK),
    (TOOL, Op.SET_FEATURE, nul(2, 0), OK),
    (TOOL, Op.SET_FEATURE, nul(1, 3), "EBUSY"),
    (TOOL, Op.SET_FEATURE, nul(9, 3), "ENOENT"),
    *malformed(TOOL, Op.SET_FEATURE, (b"", nul(2), nul(2, 16), nul("x", 1), nul(2, 1, 1), b"2\x001")),
    (TOOL, Op.GET_QUOTA, nul("nodes"), b"1000\0"),
    (TOOL, Op.GET_QUOTA, nul("watches"), b"128\0"),
    (TOOL, Op.GET_QUOTA, nul("transactions"), b"10\0"),
    (TOOL, Op.GET_QUOTA, nul("transaction-nodes"), b"1024\0"),
    (TOOL, Op.GET_QUOTA, nul("node-permissions"), b"5\0"),
    (TOOL, Op.GET_QUOTA, nul("node-size"), b"2048\0"),
    (TOOL, Op.GET_QUOTA, nul("path-max"), b"2048\0"),
    (TOOL, Op.GET_QUOTA, nul("outstanding"), b"20\0"),
    (TOOL, Op.GET_QUOTA, nul("memory"), b"2621440\0"),
    (TOOL, Op.GET_QUOTA, nul("soft-memory"), b"2097152\0"),
    (TOOL, Op.GET_QUOTA, nul(1, "watches"), b"128\0"),
    (TOOL, Op.GET_QUOTA, nul(9, "watches"), "ENOENT"),
    *malformed(
        TOOL, Op.GET_QUOTA, (nul("permissions"), nul("soft-nodes"), nul(1, "no"), nul("x", "nodes"), nul(1, "nodes", 1))
    ),
    (TOOL, Op.SET_QUOTA, nul("nodes", 7), OK),
    (TOOL, Op.SET_QUOTA, nul("nodes", "no number"), OK),
    (TOOL, Op.SET_QUOTA, nul(1, "soft-memory", 0), OK),
    (TOOL, Op.SET_QUOTA, nul(9, "nodes", 7), "ENOENT"),
    *malformed(
        TOOL,
        Op.SET_QUOTA,
        (b"", nul("nodes"), nul("nodes", -1), nul("no", 7), nul(1, "no", 7), nul("x", "nodes", 7),
         nul(1, "nodes", -1), nul(1, "nodes", 7, 7)),
    ),
]  # fmt: skip

PRIVILEGED = (
    Op.CONTROL, Op.INTRODUCE, Op.RELEASE, Op.IS_DOMAIN_INTRODUCED, Op.RESUME, Op.SET_TARGET, Op.SET_FEATURE,
    Op.GET_QUOTA, Op.SET_QUOTA,
)  # fmt: skip

ROWS = [
    (who, *row[1:])
    for row in READING + WRITING + WATCHING + TRANSACTIONS + DOMAINS + SETTINGS
    for who in ((TOOL, GUEST) if row[0] == BOTH else (row[0],))
]


def name_of(row: Row) -> str:
    who, op, payload, expected = row
    said = payload.decode("latin-1").replace("\0", "|")
    return f"{who}-{op.name}-{said}-{expected if isinstance(expected, str) else 'ok'}"


@pytest.fixture
def house(world: World) -> dict[str, Speaker]:
    """Guests 1 and 3 are introduced, 2 only exists, 9 does not.  Both speakers hold a watch on /watched."""
    guest = world.guest(1)
    world.guest(3)
    world.engine.pretend(2, True)
    tool = world.dom0
    assert tool.write("/a", b"value") == OK
    assert tool.write("/a/b") == OK
    assert tool.write("/a/c") == OK
    assert guest.write("own", b"mine") == OK
    for speaker in (tool, guest):
        speaker.quietly_watch("/watched", "token")
    return {TOOL: tool, GUEST: guest}


@pytest.mark.parametrize("row", ROWS, ids=map(name_of, ROWS))
def test_a_request_and_its_answer(house: dict[str, Speaker], row: Row) -> None:
    who, op, payload, expected = row
    assert house[who].ask(op, payload) == expected


@pytest.mark.parametrize("op", PRIVILEGED, ids=lambda op: op.name)
@pytest.mark.parametrize("payload", [b"", nul(1), nul(1, 1, 1), nul("nodes", 7)])
def test_a_guest_is_refused_before_anything_else_is_looked_at(
    house: dict[str, Speaker], op: Op, payload: bytes
) -> None:
    assert house[GUEST].ask(op, payload) == "EACCES"
    assert house[GUEST].ask(op, payload, 99) == "EACCES"


@pytest.mark.parametrize(
    "op", [op for op in Op if op not in (Op.WATCH_EVENT, Op.ERROR, Op.RESTRICT, Op.INVALID, Op.WATCH, Op.UNWATCH)]
)
def test_an_unknown_transaction_is_refused_before_the_payload_is_looked_at(house: dict[str, Speaker], op: Op) -> None:
    assert house[TOOL].ask(op, b"", 99) == "ENOENT"
    assert house[TOOL].ask(op, nul("/a"), 99) == "ENOENT"


def test_watch_and_unwatch_do_not_care_for_the_transaction(house: dict[str, Speaker]) -> None:
    guest = house[GUEST]
    assert guest.ask(Op.WATCH, nul("own", "t"), 99) == OK
    assert guest.events() == [("own", "t")]
    assert guest.ask(Op.UNWATCH, nul("own", "t"), 99) == OK


def test_what_only_checks_the_transaction_id_works_inside_one(house: dict[str, Speaker]) -> None:
    tool = house[TOOL]
    tx = tool.start()
    assert tool.ask(Op.GET_DOMAIN_PATH, nul(5), tx) == nul("/local/domain/5")
    assert tool.ask(Op.IS_DOMAIN_INTRODUCED, nul(1), tx) == b"T\0"
    assert tool.ask(Op.INTRODUCE, nul(2, 1, 1), tx) == OK
    assert tool.ask(Op.GET_QUOTA, nul("nodes"), tx) == b"1000\0"
    assert tool.ask(Op.GET_FEATURE, b"", tx) == b"15\0"
    assert tool.abort(tx) == OK
    # The domain stays introduced: none of this is part of the transaction.
    assert tool.ask(Op.IS_DOMAIN_INTRODUCED, nul(2)) == b"T\0"


def test_a_number_is_not_more_than_sixteen_bits(house: dict[str, Speaker]) -> None:
    tool = house[TOOL]
    for text in ("65536", "4294967296", "4294967297", "18446744073709551617", "99999999999999999999999"):
        assert tool.ask(Op.GET_DOMAIN_PATH, nul(text)) == "EINVAL"
        assert tool.ask(Op.IS_DOMAIN_INTRODUCED, nul(text)) == "EINVAL"


def test_the_quotas_names(house: dict[str, Speaker]) -> None:
    answer = house[TOOL].ask(Op.GET_QUOTA)
    assert isinstance(answer, bytes)
    names = answer.removesuffix(b"\0").decode().split(" ")
    assert len(names) == len(NAMES)
    assert set(names) == NAMES
