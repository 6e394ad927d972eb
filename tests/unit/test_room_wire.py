"""The wire's words: errors both ways, names of operations."""

from __future__ import annotations

import errno

import pytest

from fastxs.core.probe import number_of, operation, word_of
from tests.support.wire import Op

WORDS = [
    *("EINVAL", "EACCES", "EEXIST", "EISDIR", "ENOENT", "ENOMEM", "ENOSPC", "EIO"),
    *("ENOTEMPTY", "ENOSYS", "EROFS", "EBUSY", "EAGAIN", "EISCONN", "E2BIG", "EPERM"),
]


@pytest.mark.parametrize("word", WORDS)
def test_an_error_has_its_errno_s_name(word: str) -> None:
    assert word_of(getattr(errno, word)) == word
    assert number_of(word.encode()) == getattr(errno, word)


def test_there_are_no_other_words() -> None:
    """Clients take an unknown word for EINVAL; so what has no word is sent as EINVAL."""
    others = set(errno.errorcode) - {getattr(errno, word) for word in WORDS}
    assert {word_of(number) for number in others | {0, -1, 9999}} == {"EINVAL"}
    assert number_of(b"EBADF") == number_of(b"EQUOTA") == number_of(b"") == number_of(b"einval") == 0


def test_every_operation_has_its_name() -> None:
    for op in Op:
        expected = "**UNKNOWN**" if op in (Op.RESTRICT, Op.INVALID) else op.name
        assert operation(op) == expected
    assert operation(27) == operation(0xFFFFFFFF) == "**UNKNOWN**"
