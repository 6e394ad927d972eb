"""A long random run of the core against the model: `python -m tests.stateful.run --steps 100000 --seed 1`.

Owns the command line, progress, and what follows a difference: the run is cut down to the few actions that show it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from tests.stateful.chance import Chance
from tests.stateful.pair import Action, Audit, Pair
from tests.stateful.stand_in import StandIn

if TYPE_CHECKING:
    from fastxs._core import Engine

MakeEngine = Callable[[], "Engine"]


class DifferenceError(AssertionError):
    """The two sides disagree; `actions` led there."""

    def __init__(self, what: str, actions: Sequence[Action]) -> None:
        super().__init__(what)
        self.actions = actions


def core() -> Engine:
    """The daemon's own core."""
    from fastxs._core import Engine

    return Engine()


def stand_in() -> Engine:
    """The model behind the Engine's face: a test of this test."""
    return cast("Engine", StandIn())


def wander(make: MakeEngine, steps: int, seed: int, tell: Callable[[int, Pair], None] | None = None) -> None:
    """`steps` random actions on both sides.  Raises DifferenceError."""
    pair = Pair(make())
    chance = Chance(pair, seed)
    try:
        for action in chance.first():
            pair.do(action)
        for step in range(steps):
            pair.do(chance.next())
            if tell is not None and step % 1000 == 999:
                tell(step + 1, pair)
        pair.do(Audit())
    except Exception as difference:
        raise DifferenceError(f"{type(difference).__name__}: {difference}", pair.done) from difference
    finally:
        pair.close()


def differs(make: MakeEngine, actions: Sequence[Action]) -> str | None:
    """What goes wrong when these actions are done, None when nothing does."""
    pair = Pair(make())
    try:
        for action in actions:
            pair.do(action)
    except Exception as difference:
        return f"{type(difference).__name__}: {difference}"
    finally:
        pair.close()
    return None


def shrink(make: MakeEngine, actions: Sequence[Action], seconds: float = 60) -> list[Action]:
    """Fewer actions that still lead to a difference."""
    left = list(actions)
    size = len(left) // 2
    until = time.monotonic() + seconds
    while size and time.monotonic() < until:
        at = 0
        while at < len(left) and time.monotonic() < until:
            fewer = left[:at] + left[at + size :]
            if differs(make, fewer) is not None:
                left = fewer
            else:
                at += size
        size = size // 2 if size > 1 else 0
    return left


def main(words: Sequence[str] | None = None) -> int:
    """Exit status 0: no difference."""
    parser = argparse.ArgumentParser(description="Random requests to fastxs's core and to the model, compared.")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", action="store_true", help="the model on both sides: tests the test")
    parser.add_argument("--shrink", type=float, default=60, metavar="SECONDS", help="how long to look for a short way")
    args = parser.parse_args(words)
    make = stand_in if args.model else core
    begin = time.monotonic()

    def tell(step: int, pair: Pair) -> None:
        open_ones = sum(len(conn.transactions) for conn in pair.model.connections)
        rate = step / (time.monotonic() - begin)
        text = f"\r{step} steps, {rate:.0f}/s, {len(pair.model.nodes)} nodes, {open_ones} transactions open "
        sys.stderr.write(text)

    try:
        wander(make, args.steps, args.seed, tell)
    except DifferenceError as difference:
        sys.stderr.write(f"\nseed {args.seed}, {len(difference.actions)} actions: {difference}\n")
        short = shrink(make, difference.actions, args.shrink)
        sys.stdout.write("\n".join(map(repr, short)) + f"\n{differs(make, short)}\n")
        return 1
    sys.stderr.write("\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
