"""When and where the daemon dies: at random, at each named point, on a full file system.

Each plan takes an empty folder, plays until its end, compares the store with the guests' books, and returns figures.
WrongError: what the daemon did wrong; the seed gives the guests' words and the plan's choices, not their timing.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from fastxs._core import FAULTS
from fastxs.hypervisor.host import Host
from tests.crash.scene import PATIENCE_S, Guests, Lives, WrongError, compare, lives
from tests.support.wire import Op, Peer

LIMITS: Final = ("-S", "4096", "-t", "10")
"""Large values; few transactions at a time, so that one which is begun twice or never ends is missed."""

UNWRITTEN: Final = "the image cannot be written"
"""What a daemon says whose image has failed."""

Figures = dict[str, Any]
Say = Callable[[str], None]


def _end(them: Lives, guests: Guests, **more: object) -> Figures:
    guests.are_alive()
    figures = guests.end()
    return {
        "guests": guests.count,
        "nodes": compare(them.host, guests, figures),
        "starts": them.restarts,
        **more,
        **figures,
        "commits": sum(figures["commits"]),
    }


def random_kills(folder: Path, guests: int, kills: int, seed: int, say: Say = lambda line: None) -> Figures:
    """`kill -9` at any time: under load, at rest after everybody has got an answer, or while it starts again."""
    chance = random.Random(seed)
    early = 0
    with lives(folder, LIMITS) as them, Guests(them.host, guests, seed) as played:
        for n in range(kills):
            if chance.random() < 0.2:
                played.are_alive()
            else:
                time.sleep(0.3 * chance.random())
            them.kill()
            played.tell("k")
            while not them.again(die_after_s=0.5 * chance.random() if chance.random() < 0.15 else None):
                played.tell("k")
                early += 1
            if n % 50 == 49:
                say(f"{n + 1} kills, {early} more while it started")
        return _end(them, played, kills=kills, kills_while_starting=early)


def named_points(
    folder: Path, guests: int, rounds: int, seed: int, points: Sequence[str], say: Say = lambda line: None
) -> Figures:
    """It dies at each of these points in turn, or its image fails there, the first time it comes there or later."""
    chance = random.Random(seed)
    ended: Counter[str] = Counter()
    with lives(folder, LIMITS) as them, Guests(them.host, guests, seed) as played:
        for n in range(rounds):
            for point in points:
                often = point not in ("received", "sent", "recovered", "unfolded")  # sockets are rare here
                count = chance.choice((1, 2, 3, chance.randrange(1, 30), chance.randrange(1, 300))) if often else 1
                them.kill()
                played.tell("k")
                if not them.again(f"{point}:{count}") or them.wait_for_end(10):
                    ended[point] += 1
                if point in FAULTS and UNWRITTEN not in them.host.stderr():
                    raise WrongError(f"{point}:{count}: {them.host.stderr()}")
                if chance.random() < 0.3:
                    them.kill()
                    played.tell("k")
                    them.again()
                    played.are_alive()
            say(f"round {n + 1} of {rounds}")
        them.kill()
        played.tell("k")
        them.again()
        return _end(them, played, points=dict(ended))


def kept_sockets(folder: Path, clients: int, kills: int, seed: int, say: Say = lambda line: None) -> Figures:
    """`kill -9` at any time under clients whose sockets fastxs-keeper keeps, and which never connect again.

    Only a socket that the daemon was reading or writing at that very moment may be closed: `lost`.
    """
    chance = random.Random(seed)
    with (
        Host("fastxs", folder, args=LIMITS, prefix=keeper(folder)) as host,
        Guests(host, clients, seed, sockets=True) as played,
    ):
        for n in range(kills):
            if chance.random() < 0.2:
                played.are_alive()
            else:
                time.sleep(0.3 * chance.random())
            os.kill(child(host.pid), signal.SIGKILL)
            played.tell("k")
            with Peer(host.socket) as peer:
                peer.reply(peer.send(Op.READ, b"/\0"), PATIENCE_S)  # the next one answers
            if n % 50 == 49:
                say(f"{n + 1} kills")
        played.are_alive()
        figures = played.end()
        nodes = compare(host, played, figures)
        commits = sum(figures["commits"])
        return {"clients": clients, "kills": kills, "nodes": nodes, **figures, "commits": commits}


def keeper(folder: Path) -> tuple[str, ...]:
    """The prefix of a daemon whose clients' sockets are kept, and that is started again at once."""
    at_once = "import sys; from fastxs.cli.keeper import main; from fastxs.daemon import keeper; "
    at_once += "keeper.DELAYS_S = (0, 0); sys.exit(main())"
    return (sys.executable, "-c", at_once, "-n", str(folder / "notify"), "--")


def child(pid: int) -> int:
    """Of a process that has one."""
    while True:
        if pids := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            return int(pids[-1])
        time.sleep(0.001)


def _free(folder: Path) -> int:
    it = os.statvfs(folder)
    return it.f_bavail * it.f_frsize


def _fill(ballast: Path) -> None:
    """To the last byte."""
    with ballast.open("ab") as file:
        while room := _free(ballast.parent):
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), room)
            except OSError:  # the daemon was faster
                continue


def full_disk(
    folder: Path, guests: int, rounds: int, seed: int, *, restarts: bool, say: Say = lambda line: None
) -> Figures:
    """The daemon's file system, which `folder`/run must be, is full again and again, and every other time it is killed
    then, too (`restarts`)."""
    ballast = folder / "run" / "ballast"
    with lives(folder, LIMITS) as them, Guests(them.host, guests, seed) as played:
        for n in range(rounds):
            played.tell("f")
            played.are_alive()
            until = time.monotonic() + 1
            while time.monotonic() < until:
                _fill(ballast)
                time.sleep(0.02)
            played.are_alive()
            if restarts and n % 2:
                them.kill()
                played.tell("k")
                them.again()
                played.are_alive()
            ballast.unlink()
            played.are_alive()
            played.tell("r")
            played.are_alive()
            say(f"{n + 1} of {rounds} times full")
        return _end(them, played, times_full=rounds)
