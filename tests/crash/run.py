"""Crash tests as long as wanted: `python -m tests.crash.run kills --guests 200 --times 1000 --seed 1`.

Owns the command line, progress, and the mount that a full file system needs.  The last line has the figures, as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fastxs._core import FAULTS, TRIALS
from fastxs.hypervisor.host import scratch
from tests.crash.plans import Figures, full_disk, kept_sockets, named_points, random_kills
from tests.crash.scene import WrongError

PLANS: Final = {"kills": 1000, "points": 50, "full": 20, "sockets": 200}
"""And how many times, unless told."""

POINTS: Final = TRIALS + FAULTS

SIZE_MB: Final = 48
INSIDE: Final = "FASTXS_CRASH_MOUNTS"
"""Set in a process that has a mount namespace of its own."""


def cannot_mount() -> str | None:
    """Why no file system can be mounted here, for ourselves alone; None: it can."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return f"no mount namespace: {done.stderr.strip()}" if done.returncode else None


def alone(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """This program with these words, in a mount namespace of its own."""
    command = ["unshare", "--mount", sys.executable, "-m", "tests.crash.run", *words]
    return subprocess.run(command, env={**os.environ, INSIDE: "1"}, stdout=subprocess.PIPE, text=True, check=False)


def play(plan: str, folder: Path, args: argparse.Namespace) -> Figures:
    def say(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)

    if plan == "kills":
        return random_kills(folder, args.guests, args.times, args.seed, say)
    if plan == "sockets":
        return kept_sockets(folder, args.guests, args.times, args.seed, say)
    if plan == "points":
        return named_points(folder, args.guests, args.times, args.seed, args.point or POINTS, say)
    run = folder / "run"
    run.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", run], check=True)
    try:
        return full_disk(folder, args.guests, args.times, args.seed, restarts=args.restarts, say=say)
    finally:
        subprocess.run(["umount", "--lazy", run], check=True)


def main(words: Sequence[str] | None = None) -> int:
    """Exit status 0: nothing was lost, nothing done twice."""
    parser = argparse.ArgumentParser(description="The daemon dies again and again; guests with exact books go on.")
    parser.add_argument("plan", choices=PLANS)
    parser.add_argument("--guests", type=int, default=200)
    parser.add_argument("--times", type=int, help=f"kills, rounds of all points, times full; else {PLANS}")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--point", action="append", choices=POINTS, help="this one only; may be repeated")
    parser.add_argument("--restarts", action=argparse.BooleanOptionalAction, default=True, help="also while it is full")
    args = parser.parse_args(words)
    args.times = args.times or PLANS[args.plan]
    if args.plan == "full" and INSIDE not in os.environ:
        if reason := cannot_mount():
            parser.error(reason)
        done = alone(sys.argv[1:] if words is None else words)
        print(done.stdout, end="")
        return done.returncode
    folder = scratch()
    try:
        figures = play(args.plan, folder, args)
    except WrongError as error:
        print(f"{args.plan}, seed {args.seed}: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"plan": args.plan, "seed": args.seed, **figures}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
