"""A long walk through the lives of domains: `python -m tests.life.run --steps 100000 --seed 1`.

Owns the command line, progress, and what follows a difference: the walk is cut down to the few actions that show it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from itertools import islice
from typing import Final

from fastxs.hypervisor.host import scratch
from tests.differential.shrink import shrink
from tests.life.scene import NEW, OLD, inside
from tests.life.walk import Action, Chance, Do, Walk

WORLD: Final = 5000
"""Steps until all begins anew: few enough to be cut down, if need be."""


class DifferenceError(AssertionError):
    """Daemon and model disagree; `actions` led there."""

    def __init__(self, what: str, actions: Sequence[Action]) -> None:
        super().__init__(what)
        self.actions = actions


def wander(xen: str, steps: int, seed: int, *, progress: bool = False) -> None:
    """`steps` random actions on both sides, on a Xen of that version.  Raises DifferenceError."""
    begin = time.monotonic()
    for first in range(0, steps, WORLD):
        done: list[Action] = []
        folder = scratch()
        try:
            with inside(folder, xen, durable=True) as scene:
                walk = Walk(scene)
                for action in islice(Chance(walk, f"{seed} {first}"), min(WORLD, steps - first)):
                    done.append(action)
                    walk.do(action)
                done.append(Do("audit", 0))
                walk.do(done[-1])
        except Exception as difference:
            raise DifferenceError(f"{type(difference).__name__}: {difference}", done) from difference
        finally:
            shutil.rmtree(folder)
        if progress:
            rate = (first + WORLD) / (time.monotonic() - begin)
            sys.stderr.write(f"\r{first + WORLD} steps, {rate:.0f}/s ")


def differs(xen: str, actions: Sequence[Action]) -> str | None:
    """What goes wrong when these actions are done, None when nothing does."""
    folder = scratch()
    try:
        with inside(folder, xen, durable=True) as scene:
            walk = Walk(scene)
            for action in actions:
                walk.do(action)
    except Exception as difference:
        return f"{type(difference).__name__}: {difference}"
    finally:
        shutil.rmtree(folder)
    return None


def short(xen: str, difference: DifferenceError, budget_s: float) -> str:
    """The few actions that matter, and what they lead to."""
    few = shrink(difference.actions, lambda some: differs(xen, some) is not None, budget_s)
    return "\n".join([*map(repr, few), str(differs(xen, few))])


def main(words: Sequence[str] | None = None) -> int:
    """Exit status 0: no difference."""
    parser = argparse.ArgumentParser(description="Random lives of domains, the daemon's core compared with a model.")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--xen", choices=(NEW, OLD), default=NEW, help="whether there is libxenmanage (default: yes)")
    parser.add_argument("--shrink", type=float, default=60, metavar="SECONDS", help="how long to look for a short way")
    args = parser.parse_args(words)
    try:
        wander(args.xen, args.steps, args.seed, progress=True)
    except DifferenceError as difference:
        sys.stderr.write(f"\nseed {args.seed}, {len(difference.actions)} actions: {difference}\n")
        sys.stdout.write(short(args.xen, difference, args.shrink) + "\n")
        return 1
    sys.stderr.write("\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
