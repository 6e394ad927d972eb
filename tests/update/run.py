"""Moving under load, as long as wanted: `python -m tests.update.run --guests 100 --times 5 --seed 1`.

C xenstored becomes fastxs, which is killed (`kill -9`) and started again and becomes C xenstored, again and again,
under guests that keep books (tests/crash/guests.c): each request of theirs is answered once and each event comes once,
whoever is the daemon.  Owns that plan and its command line.  The last line has the figures, as JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastxs.hypervisor.host import BINARIES, QUOTAS, Host, scratch
from fastxs.hypervisor.simxen import LIBRARY
from tests.conversations.speak import OK, nul
from tests.crash.plans import LIMITS, Say
from tests.crash.scene import Guests, WrongError, compare
from tests.support.wire import Op, Peer
from tests.update.scene import end_all, environment, installed

PATIENCE_S = 60


def live_update(host: Host, program: Path, *flags: str) -> None:
    """The daemon becomes `program` with these flags, as soon as no transaction is open.  WrongError: it does not."""
    with Peer(host.socket) as tool:
        for words in (("-f", program), ("-c", " ".join(("-N", *QUOTAS, *LIMITS, *flags)))):
            tool.call(Op.CONTROL, nul("live-update", *words))
        said = tool.reply(tool.send(Op.CONTROL, nul("live-update", "-s", "-t", PATIENCE_S)), 2 * PATIENCE_S).payload
    if said != OK:
        raise WrongError(f"{program.name}: {said.decode()}\n{host.stderr()}")


def moves(folder: Path, guests: int, times: int, seed: int, say: Say = lambda line: None) -> dict[str, Any]:
    """From C xenstored to fastxs and back, so many times, with a `kill -9` in between.  WrongError: a guest noticed."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        host = Host("c", folder, args=LIMITS, env=environment()).start(PATIENCE_S)
        stack.callback(end_all, host)
        played = stack.enter_context(Guests(host, guests, seed))
        program = installed(folder)
        for n in range(times):
            live_update(host, program, "--sim")
            for _ in range(1 + (chance.random() < 0.3)):
                if chance.random() < 0.5:
                    time.sleep(0.3 * chance.random())
                host.kill()
                played.tell("k")
                host = Host("fastxs", folder, args=LIMITS, env={**environment(), "LD_PRELOAD": str(LIBRARY)})
                host.start(PATIENCE_S)
            played.are_alive()
            live_update(host, BINARIES["c"])
            played.are_alive()
            say(f"there and back {n + 1} of {times} times")
        figures = played.end()
        nodes = compare(host, played, figures, checks=False)
        host.close()
        return {"guests": guests, "moves": 2 * times, "nodes": nodes, **figures, "commits": sum(figures["commits"])}


def main(words: Sequence[str] | None = None) -> int:
    """Exit status 0: no guest noticed."""
    parser = argparse.ArgumentParser(description="C xenstored, fastxs, kill -9, C xenstored; guests with exact books.")
    parser.add_argument("--guests", type=int, default=100)
    parser.add_argument("--times", type=int, default=5, help="there and back")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args(words)
    folder = scratch()
    try:
        figures = moves(
            folder, args.guests, args.times, args.seed, lambda line: print(line, file=sys.stderr, flush=True)
        )
    except WrongError as error:
        print(f"seed {args.seed}: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"seed": args.seed, **figures}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
