"""Paths: what is legal, the base of relative ones, which part the quota counts."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastxs.core.probe import base_of, components, home_length, is_legal

LEGAL = [b"/", b"a", b"/a", b"/a/b", b"a/b", b"/local/domain/0", b"/-_@/A9", b"/a/@b", b"a@b", b"-", b"0"]
ILLEGAL = [b"", b"//", b"/a/", b"a/", b"/a//b", b"//a", b"/local/domain/", b"/a.b", b"/a+b", b"/a b", b"/a\0", b"/\xff"]
SPECIALS = [b"@introduceDomain", b"@releaseDomain", b"@releaseDomain/5", b"@", b"@foo"]


@pytest.mark.parametrize("path", LEGAL)
def test_legal(path: bytes) -> None:
    assert is_legal(path) and is_legal(path, specials=True)


@pytest.mark.parametrize("path", ILLEGAL)
def test_illegal(path: bytes) -> None:
    assert not is_legal(path) and not is_legal(path, specials=True)


@pytest.mark.parametrize("path", SPECIALS)
def test_a_special_is_legal_where_specials_are(path: bytes) -> None:
    assert is_legal(path, specials=True) and not is_legal(path)


def test_the_alphabet() -> None:
    legal = {byte for byte in range(256) if is_legal(b"/x%cx" % byte)}
    assert legal == set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@")


SYNTAX = re.compile(rb"/|/?[\w@-]+(/[\w@-]+)*", re.ASCII)


@given(st.one_of(st.text("ab/@-_.", max_size=12).map(str.encode), st.binary(max_size=12)), st.booleans())
def test_legal_is_what_the_grammar_says(path: bytes, specials: bool) -> None:
    expected = SYNTAX.fullmatch(path) is not None and (specials or not path.startswith(b"@"))
    assert is_legal(path, specials) == expected


@given(st.lists(st.text("ab-", min_size=1, max_size=5).map(str.encode), max_size=20))
@example([])
def test_a_path_is_walked_by_components(names: list[bytes]) -> None:
    assert components(b"/" + b"/".join(names)) == names


@pytest.mark.parametrize("domid", [0, 1, 12345, 65535])
def test_the_base_of_relative_paths(domid: int) -> None:
    assert base_of(domid) == b"/local/domain/%d/" % domid
    assert home_length(base_of(domid)) == len(base_of(domid))


@pytest.mark.parametrize(
    "path, length",
    [
        (b"/local/domain/0/a", 16),
        (b"/local/domain/0/", 16),
        (b"/local/domain/12345/device/vif", 20),
        (b"/local/domain/99999/a", 20),  # digits are counted, not read
        (b"/local/domain/123456/a", 0),
        (b"/local/domain/0", 0),
        (b"/local/domain//a", 0),
        (b"/local/domain/x/a", 0),
        (b"/local/domain/1x/a", 0),
        (b"/local/domains/1/a", 0),
        (b"/vm/1/a", 0),
        (b"/", 0),
        (b"", 0),
    ],
)
def test_the_quota_counts_what_follows_a_domain_s_home(path: bytes, length: int) -> None:
    assert home_length(path) == length
