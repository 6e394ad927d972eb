"""Makes a failing conversation small.  Owns delta debugging over a list; refuses to know what the items are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shrink(items: Sequence[T], fails: Callable[[Sequence[T]], bool], budget_s: float = 60) -> list[T]:
    """A small sub-sequence for which `fails` still holds; no new try after `budget_s` seconds.

    `fails(items)` must hold.  Pieces of falling size are left out from the end on (what came last mattered most, so
    much of the front goes in large pieces), then single items until none can go.
    """
    found = list(items)
    size = max(1, len(found) // 2)
    deadline = time.monotonic() + budget_s
    while True:
        end, shorter = len(found), False
        while end > 0:
            if time.monotonic() > deadline:
                return found
            candidate = found[: max(0, end - size)] + found[end:]
            if candidate and fails(candidate):
                found, shorter = candidate, True
            end -= size
        if size > 1:
            size = max(1, size // 2)
        elif not shorter:
            return found
