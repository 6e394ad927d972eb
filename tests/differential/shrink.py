"""Makes a failing conversation small.  Owns delta debugging over a list; refuses to know what the items are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shrink(items: Sequence[T], fails: Callable[[Sequence[T]], bool], budget: int = 400) -> list[T]:
    """A small sub-sequence for which `fails` still holds; at most `budget` tries.

    `fails(items)` must hold.  First pieces of falling size are left out, then single items until none can go.
    """
    found = list(items)
    size = max(1, len(found) // 2)
    while budget > 0:
        at, shorter = 0, False
        while at < len(found) and budget > 0:
            candidate = found[:at] + found[at + size :]
            budget -= 1
            if fails(candidate):
                found, shorter = candidate, True
            else:
                at += size
        if size > 1:
            size = max(1, size // 2)
        elif not shorter:
            break
    return found
