"""Permissions: text, shared lists and their counts, who may do what, stale entries, the dead."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxs.core.probe import Rooms, format_perm, parse_perm

NONE, READ, WRITE, BOTH = range(4)
ALL = 7  # with RIGHT_OWNER
ANY = 0x7FF5  # DOMID_ANY
PARSED = [
    (b"n0", 0, NONE),
    (b"r1", 1, READ),
    (b"w32757", ANY, WRITE),
    (b"b65535", 65535, BOTH),
    (b"r0x10", 16, READ),  # strtol base 0, as ever
    (b"b010", 8, BOTH),
    (b"n 0", 0, NONE),
    (b"n+7", 7, NONE),
    (b"r-1", 2**32 - 1, READ),
    (b"r99999", 99999, READ),
    (b"r4294967301", 5, READ),  # modulo 2**32, as C
    (b"r99999999999999999999", 2**32 - 1, READ),  # the largest long, modulo 2**32: "r-1", as C
]
REFUSED = b" 0 n x0 N0 rw0 n0x n0z r1.5 rr1".split(b" ") + [b"n0 ", b"n ", b"r--1", b"r1\n"]


@pytest.mark.parametrize("text, domid, rights", PARSED)
def test_an_entry_is_read(text: bytes, domid: int, rights: int) -> None:
    assert parse_perm(text) == (domid, rights)


@pytest.mark.parametrize("text", REFUSED)
def test_an_entry_is_refused(text: bytes) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        parse_perm(text)


@given(st.integers(0, 2**31 - 1), st.integers(0, 3))
def test_an_entry_is_written_as_it_is_read(domid: int, rights: int) -> None:
    text = format_perm(domid, rights)
    assert text == b"%c%d" % (b"nrwb"[rights], domid)
    assert parse_perm(text) == (domid, rights)


def test_what_no_domain_can_be_is_written_as_a_signed_number() -> None:
    assert format_perm(2**32 - 1, READ) == b"r-1"
    assert format_perm(5, ALL) == b"b5"  # the owner's right is no letter


@given(st.binary(max_size=8).filter(lambda text: b"\0" not in text))
def test_any_text_is_read_or_refused(text: bytes) -> None:
    try:
        _, rights = parse_perm(text)
    except OSError:
        assert not re.fullmatch(rb"[nrwb](0|[1-9][0-9]*)", text)
    else:
        assert text[0] == b"nrwb"[rights]


# -- lists are shared


@pytest.fixture
def rooms() -> Rooms:
    rooms = Rooms()
    for domid in (1, 2, 3):
        rooms.domain(domid)
    return rooms


def test_equal_lists_are_one(rooms: Rooms) -> None:
    before = rooms.counts
    a = rooms.intern([(0, NONE), (1, READ)])
    assert rooms.refs(a) == 1 and rooms.counts["perms"] == before["perms"] + 1
    assert rooms.intern([(0, NONE), (1, READ)]) == a and rooms.refs(a) == 2
    rooms.hold(a)
    assert rooms.refs(a) == 3
    for _ in range(3):
        rooms.drop(a)
    assert rooms.counts == before, "the last count gave it back"


def test_what_differs_is_another_list(rooms: Rooms) -> None:
    lists: list[list[tuple[int, int] | tuple[int, int, bool]]] = [
        [(0, NONE)],
        [(0, READ)],
        [(1, NONE)],
        [(0, NONE), (1, READ)],
        [(1, READ), (0, NONE)],
        [(0, NONE), (1, READ, True)],
        [(0, NONE), (1, READ), (1, READ)],
    ]
    handles = [rooms.intern(entries) for entries in lists]
    assert len(set(handles)) == len(lists)
    assert rooms.entries(handles[5]) == [(0, NONE, False), (1, READ, True)]


def test_a_list_as_long_as_a_payload_can_name(rooms: Rooms) -> None:
    """Of "n0" and a NUL there are 1364 in a payload with a path; each names its domain."""
    before = rooms.counts
    h = rooms.intern([(1, READ)] * 1364)
    assert len(rooms.naming(1)) == len(rooms.entries(h)) == 1364
    rooms.drop(h)
    assert rooms.counts == before and rooms.naming(1) == []


ENTRY = st.tuples(st.sampled_from([0, 1, 2, 3, 9, ANY, 70000]), st.integers(0, 3), st.booleans())
LIST = st.lists(ENTRY, min_size=1, max_size=5)


@given(st.lists(LIST, max_size=12), st.randoms())
def test_counts_come_back_to_nothing(lists: list[list[tuple[int, int, bool]]], chance: random.Random) -> None:
    rooms = Rooms()
    for domid in (1, 2, 3):
        rooms.domain(domid)
    before = rooms.counts, rooms.naming(0)
    handles = [rooms.intern(entries) for entries in lists]
    assert len(set(handles)) == len({tuple(entries) for entries in lists})
    for entries, h in zip(lists, handles, strict=True):
        assert rooms.entries(h) == entries
    for domid in (1, 2, 3):  # the index: every entry that names the domain and is not stale, once
        places = [(h, i, entry) for h in set(handles) for i, entry in enumerate(rooms.entries(h))]
        expected = [(h, i) for h, i, (named, _, stale) in places if named == domid and not stale]
        assert sorted(rooms.naming(domid)) == sorted(expected)
    chance.shuffle(handles)
    for h in handles:
        rooms.drop(h)
    assert (rooms.counts, rooms.naming(0)) == before


# -- who may do what


def expected_rights(entries: list[tuple[int, int, bool]], domid: int, target: int) -> int:
    """The rule in one reading: owner; else the first entry that names the identity or all; else the default."""
    me = {domid, target} - {-1}
    if entries[0][0] in me:
        return ALL
    return next((r for d, r, stale in entries[1:] if not stale and d in me | {ANY}), entries[0][1])


@given(LIST, st.sampled_from([0, 1, 2, 3, 9]), st.sampled_from([-1, 0, 1, 2]))
def test_rights(entries: list[tuple[int, int, bool]], domid: int, target: int) -> None:
    rooms = Rooms()
    assert rooms.rights(rooms.intern(entries), domid, target) == expected_rights(entries, domid, target)


def test_the_first_match_wins(rooms: Rooms) -> None:
    assert rooms.rights(rooms.intern([(0, NONE), (1, NONE), (1, BOTH)]), 1) == NONE
    assert rooms.rights(rooms.intern([(0, NONE), (ANY, READ), (1, BOTH)]), 1) == READ
    assert rooms.rights(rooms.intern([(0, NONE), (1, BOTH), (ANY, READ)]), 1) == BOTH


def test_a_stale_entry_says_nothing(rooms: Rooms) -> None:
    """It was written for a domain that did not exist: one that gets its domid later must not profit."""
    assert rooms.rights(rooms.intern([(0, NONE), (1, BOTH, True)]), 1) == NONE
    assert rooms.rights(rooms.intern([(0, READ), (1, NONE, True)]), 1) == READ


def test_a_target_s_identity_counts(rooms: Rooms) -> None:
    mine, other = rooms.intern([(2, NONE)]), rooms.intern([(0, NONE), (2, WRITE)])
    assert rooms.rights(mine, 1) == NONE and rooms.rights(mine, 1, target=2) == ALL
    assert rooms.rights(other, 1) == NONE and rooms.rights(other, 1, target=2) == WRITE


def test_a_peer_has_its_domain_s_rights_and_the_privileged_all(rooms: Rooms) -> None:
    rooms.domain(3, target=2)
    lists = [rooms.intern([(2, NONE)]), rooms.intern([(0, NONE), (1, READ)])]
    rights = {domid: [rooms.peer_rights(rooms.peer(domid), h) for h in lists] for domid in (0, 1, 2, 3)}
    assert rights == {0: [ALL, ALL], 1: [NONE, READ], 2: [ALL, NONE], 3: [ALL, NONE]}


# -- the dead


def test_the_dead_leave_every_list(rooms: Rooms) -> None:
    lists = [
        rooms.intern([(0, NONE), (1, READ)]),
        rooms.intern([(0, READ), (1, BOTH), (2, READ), (1, NONE)]),
        rooms.intern([(1, WRITE), (2, READ)]),
        rooms.intern([(2, NONE)]),
        rooms.intern([(0, NONE), (1, READ, True)]),
    ]
    rooms.forget(1, heir=0)
    assert [rooms.entries(h) for h in lists] == [
        [(0, NONE, False)],
        [(0, READ, False), (2, READ, False)],
        [(0, WRITE, False), (2, READ, False)],  # where it was the owner, the heir is
        [(2, NONE, False)],
        [(0, NONE, False), (1, READ, True)],  # a stale one named nobody
    ]
    assert rooms.naming(1) == []
    assert set(rooms.naming(2)) == {(lists[1], 1), (lists[2], 1), (lists[3], 0)}
    for one in lists:
        rooms.drop(one)
    assert rooms.check() == []


def test_lists_that_became_equal_both_stay_and_are_given_back(rooms: Rooms) -> None:
    before = rooms.counts
    a = rooms.intern([(2, READ), (1, READ)])
    b = rooms.intern([(2, READ)])
    rooms.forget(1, heir=0)
    assert rooms.entries(a) == rooms.entries(b) and a != b
    again = rooms.intern([(2, READ)])
    assert again in (a, b)
    for h in (a, b, again):
        rooms.drop(h)
    assert rooms.counts == before, "a list is given back in the size that it was made with"
