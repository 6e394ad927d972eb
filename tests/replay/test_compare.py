"""What makes two answers equal."""

from __future__ import annotations

import pytest

from fastxs.replay.compare import compare
from fastxs.replay.recording import Answer
from tests.support.wire import Op

OK = Answer(payload=b"OK\0")
ENOENT = Answer(error="ENOENT")


def said(payload: bytes) -> Answer:
    return Answer(payload=payload)


@pytest.mark.parametrize(
    ("op", "was", "now", "verdict"),
    [
        (Op.READ, said(b"x"), said(b"x"), "equal"),
        (Op.READ, said(b"x"), said(b"y"), "different"),
        (Op.READ, Answer(), said(b"y"), "unknown"),
        (Op.READ, Answer(), ENOENT, "different"),
        (Op.READ, ENOENT, ENOENT, "equal"),
        (Op.READ, ENOENT, Answer(error="EACCES"), "different"),
        (Op.WRITE, OK, OK, "equal"),
        (Op.WRITE, Answer(), OK, "equal"),
        (Op.TRANSACTION_START, said(b"7\0"), said(b"1\0"), "equal"),
        (Op.TRANSACTION_END, Answer(error="EAGAIN"), OK, "different"),
        (Op.DIRECTORY, said(b"a\0b\0"), said(b"b\0a\0"), "equal"),
        (Op.DIRECTORY, said(b"a\0b\0"), said(b"a\0"), "different"),
        (Op.DIRECTORY_PART, said(b"17\0a\0b\0\0"), said(b"4\0b\0a\0\0"), "equal"),
        (Op.DIRECTORY_PART, said(b"17\0a\0\0"), said(b"17\0b\0\0"), "different"),
        (Op.GET_PERMS, said(b"n0\0r1\0"), said(b"r1\0n0\0"), "different"),  # the first is the owner
    ],
)
def test_compare(op: int, was: Answer, now: Answer, verdict: str) -> None:
    assert compare(op, was, now, blanks=False) == verdict


def test_a_recording_with_blanks_for_nuls() -> None:
    assert compare(Op.READ, said(b"a b"), said(b"a\0b"), blanks=True) == "equal"
    assert compare(Op.READ, said(b"a b"), said(b"a\0b"), blanks=False) == "different"
    assert compare(Op.READ, said(b"a c"), said(b"a\0b"), blanks=True) == "different"
