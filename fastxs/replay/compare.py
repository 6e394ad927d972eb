"""Two answers to one request, from two daemons or two runs.

Owns what must differ and is not looked at: transaction ids, generations, the order of names.  Refuses to know who
asked, and when.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from fastxs.client.requests import Op
from fastxs.replay.recording import Answer

__all__ = ["Verdict", "compare"]

Verdict: TypeAlias = Literal["equal", "different", "unknown"]


def _names(payload: bytes) -> bytes:
    """Of a directory: in an order of our own."""
    return b"\0".join(sorted(payload.split(b"\0")))


def _names_of_part(payload: bytes) -> bytes:
    return _names(payload.partition(b"\0")[2])


NO_NEWS: Final = frozenset(
    (Op.WATCH, Op.UNWATCH, Op.TRANSACTION_START, Op.TRANSACTION_END, Op.INTRODUCE, Op.RELEASE, Op.WRITE, Op.MKDIR)
) | {Op.RM, Op.SET_PERMS, Op.RESUME, Op.SET_TARGET, Op.RESET_WATCHES, Op.SET_FEATURE, Op.SET_QUOTA}
"""Operations whose reply says no more than that it was no error (or a transaction's id)."""


SEEN: Final[dict[int, Callable[[bytes], bytes]]] = {
    Op.DIRECTORY: _names,
    Op.DIRECTORY_PART: _names_of_part,
}
"""What is looked at of a payload; of all others: everything."""


def compare(op: int, was: Answer, now: Answer, *, blanks: bool) -> Verdict:
    """Whether `now` says what `was` said; `blanks`: a recording that has a blank for each NUL."""
    if was.error is not None or now.error is not None:
        return "equal" if was.error == now.error else "different"
    if op in NO_NEWS:
        return "equal"
    if was.payload is None or now.payload is None:
        return "unknown"
    seen = SEEN.get(op, bytes)
    before, after = seen(was.payload), seen(now.payload)
    if blanks:
        before, after = (text.replace(b"\0", b" ") for text in (before, after))
    return "equal" if before == after else "different"
