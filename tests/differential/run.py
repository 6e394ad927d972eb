"""`python -m tests.differential.run --a fastxs --b c --steps 200000 --seed 1`: random conversations in lock-step.

Owns starting two daemons and telling what came out: exit status 1 and a shrunk conversation at the first difference
that docs/differences.toml does not name, 0 with the count of each named one otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

from fastxs.hypervisor.host import KINDS, Host, Kind, available, scratch
from fastxs.hypervisor.simxen.guests import Guests
from tests.differential.generate import Generator, Profile, Step
from tests.differential.lockstep import Crash, Difference, Pair, Side
from tests.differential.shrink import shrink
from tests.support.wire import Op, Peer

EPOCH_STEPS = 2000
OVERLAP = Profile(slots=6, outside=0.1)
"""Several transactions at a time; what the reference commits has to be committed with the same result."""
PIPELINED = Profile(watches=False, sticky=0.9)
PIPELINED_DEPTH = 16
"""So many requests of a connection at once; without watches, as which events are pending would be a matter of time."""


@cache
def reset_watches_kills() -> bool:
    """Whether C xenstored here dies of a RESET_WATCHES inside a transaction (XSA-484): a throw-away one is asked."""
    folder = scratch()
    try:
        with Host("c", folder) as host:
            peer = Peer(host.socket)
            try:
                tx_id = int(peer.call(Op.TRANSACTION_START, b"\0").strings[0])
                peer.call(Op.RESET_WATCHES, b"", tx_id)
                return peer.call(Op.READ, b"/\0").op != Op.READ
            except ConnectionError:
                return True
            finally:
                peer.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Outcome(NamedTuple):
    """What a run found."""

    steps: int
    seconds: float
    used: Counter[str]
    difference: Difference | None = None
    conversation: Sequence[Step] = ()
    epoch: int = 0


class Daemons:
    """Two hosts and the pair over them; `fresh()` starts both anew after a crash."""

    def __init__(self, kinds: tuple[Kind, Kind], folder: Path) -> None:
        self.kinds = kinds
        self.folder = folder
        self.count = itertools.count()
        self.stack = ExitStack()
        self.used: Counter[str] = Counter()
        self.depth = 1

    def fresh(self) -> None:
        """Stop what runs, start two new daemons."""
        self.close()
        hosts = []
        for name, kind in zip("ab", self.kinds, strict=True):
            folder = self.folder / f"{name}{next(self.count)}"
            folder.mkdir(parents=True)
            hosts.append(self.stack.enter_context(Host(kind, folder)))
        sides = [Side(host.kind, host.socket, name) for host, name in zip(hosts, "AB", strict=True)]
        self.pair = Pair(sides[0], sides[1], reset_kills="c" in self.kinds and reset_watches_kills())
        self.pair.used = self.pair.story.used = self.used
        self.stack.callback(self.pair.close)
        self.toolstacks = [self.stack.enter_context(Guests(host.env["SIMXEN_DIR"])) for host in hosts]
        self.pair.hypervisor = self.hypervisor

    def hypervisor(self, domid: int, exists: bool) -> None:
        """A domain is to be there, or not, under both."""
        for toolstack in self.toolstacks:
            if exists == (toolstack.state(domid) != 0):
                continue
            if exists:
                toolstack.create(domid)
            else:
                toolstack.kill(domid)

    def close(self) -> None:
        """Stop both."""
        self.stack.close()
        self.stack = ExitStack()

    def run(self, steps: Sequence[Step]) -> Difference | None:
        """One conversation from a wiped store."""
        self.pair.depth = self.depth
        try:
            self.pair.begin()
            found = self.pair.run(steps)
        except (Crash, OSError, AssertionError) as error:
            found = Difference(0, steps[0], f"before the conversation: {error!r}")
        if found:
            self.fresh()
        return found


@contextmanager
def daemons(a: Kind, b: Kind) -> Iterator[Daemons]:
    """Both daemons of a run in a folder of their own."""
    folder = scratch()
    both = Daemons((a, b), folder)
    try:
        both.fresh()
        yield both
    finally:
        both.close()
        shutil.rmtree(folder, ignore_errors=True)


def conversations(seed: int, epoch: int, steps: int, profile: Profile) -> list[Step]:
    """The steps of one epoch: a pure function of its arguments."""
    return list(itertools.islice(Generator(Random(f"{seed}:{epoch}"), profile), steps))


def run(both: Daemons, steps: int, seed: int, profile: Profile, epoch: int = 0, shrinking: bool = True) -> Outcome:
    """`steps` steps in epochs, each from a wiped store; stops at the first difference."""
    begin = time.monotonic()
    done = 0
    both.used.clear()
    both.depth = PIPELINED_DEPTH if profile == PIPELINED else 1
    while done < steps:
        conversation = conversations(seed, epoch, min(EPOCH_STEPS, steps - done), profile)
        found = both.run(conversation)
        if found:
            conversation = conversation[: found.at + 1]
            if shrinking:
                conversation = shrink(conversation, lambda some: both.run(some) is not None)
            again = both.run(conversation) or found
            return Outcome(done + found.at, time.monotonic() - begin, both.used, again, conversation, epoch)
        done += len(conversation)
        epoch += 1
    return Outcome(done, time.monotonic() - begin, both.used)


def report(outcome: Outcome, seed: int) -> str:
    """The outcome for people."""
    lines = []
    if outcome.difference:
        lines.append(f"seed {seed}, epoch {outcome.epoch}: after {outcome.steps} steps")
        lines += [f"  {n:3} {step}" for n, step in enumerate(outcome.conversation)]
        lines.append(str(outcome.difference))
    else:
        rate = outcome.steps / max(outcome.seconds, 1e-9)
        time_ = f"{outcome.seconds:.1f} s ({rate:.0f}/s)"
        lines.append(f"seed {seed}: {outcome.steps} steps in {time_}, no unnamed difference")
    lines += [f"  {count:7} x {name}" for name, count in sorted(outcome.used.items())]
    return "\n".join(lines)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--a", default="fastxs", choices=KINDS, help="the daemon that is judged")
    parser.add_argument("--b", default="c", choices=KINDS, help="the reference")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epoch", type=int, default=0, help="begin here, to see one again")
    parser.add_argument("--overlap", action="store_true", help="several transactions open at a time")
    parser.add_argument("--pipelined", action="store_true", help="many requests at once, without watches")
    parser.add_argument("--no-shrink", action="store_true")
    args = parser.parse_args()
    for kind in {args.a, args.b}:
        if reason := available(kind):
            print(f"{kind} cannot run here: {reason}", file=sys.stderr)
            return 2
    # To be told to stop is to stop the daemons, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    with daemons(args.a, args.b) as both:
        profile = OVERLAP if args.overlap else PIPELINED if args.pipelined else Profile()
        outcome = run(both, args.steps, args.seed, profile, args.epoch, not args.no_shrink)
    print(report(outcome, args.seed))
    return 1 if outcome.difference else 0


if __name__ == "__main__":
    sys.exit(main())
