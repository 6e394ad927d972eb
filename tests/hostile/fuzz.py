"""Hostile guests against a daemon while others go on: `python -m tests.hostile.fuzz --seconds 600 --seed 7`.

Owns a run, in which three parties act at the same time on one pretend hypervisor, and the judgement at its end:

    scribble.c      writes anything into the pages of some domains, while the daemon reads them
    Toolstack       introduces those domains, kills them, makes them anew
    Neighbour       guests on rings, a kernel on dom0's, clients on sockets

Nobody may notice the hostile ones.  Afterwards the store's own check is clean, no page of the dead is mapped, and
memory is what it was.  The seed gives what each party does, not how they meet.  With crashes, the daemon is killed and
started again every second: those on rings may not notice that, either.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from fastxs.hypervisor.host import KINDS, Host, HostError, Kind, available, scratch
from fastxs.hypervisor.simxen import build
from fastxs.hypervisor.simxen.guests import Guests
from tests.conversations.speak import OK, nul
from tests.hostile.neighbour import PATIENCE_S, Neighbour, Wrong
from tests.hostile.toolstack import HOSTILE, Toolstack
from tests.support.ring import RingPeer
from tests.support.wire import Face, Op, Peer

GUESTS: Final = (100, 102, 104)
SOCKETS: Final = 3
BALLAST: Final = 8400
"""Nodes: in a large store peers are read ahead (core/tree.pxd, LARGE)."""

RSS_MAX: Final = (1024 if "san" in os.environ.get("LD_PRELOAD", "") else 128) << 20
"""The quotas of the hostile ones and their buffers come to less; a sanitizer keeps what was freed."""


def compile_scribble(folder: Path) -> Path:
    """The program, made in `folder`.  Raises OSError without a compiler, CalledProcessError if it refuses."""
    program, here = folder / "scribble", build.HERE
    sources = (Path(__file__).with_name("scribble.c"), here / "guest.c", here / "state.c")
    compiler = shlex.split(os.environ.get("CC") or "cc")
    subprocess.run([*compiler, *build.FLAGS, "-I", here, "-o", program, *sources], check=True)
    return program


@contextmanager
def scribbling(program: Path, host: Host, seed: int, counts: Counter[str]) -> Iterator[None]:
    """The hostile guests are at it; afterwards `counts` says what they did."""
    command = [str(program), host.env["SIMXEN_DIR"], str(seed), *map(str, HOSTILE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield
        finally:
            said, _ = process.communicate()
    counts.update({name: int(n) for name, n in map(str.split, said.splitlines())})
    if process.returncode:
        raise Wrong(f"scribble ended with status {process.returncode}")


def neighbourhood(
    host: Host, guests: Guests, tools: Toolstack, stack: ExitStack, seed: int, sockets: int
) -> list[Neighbour]:
    """Tools on sockets, dom0's kernel, guests on rings: introduced, with a home and a box for mail."""

    def neighbour(peer: Face, name: str, base: str, domid: int) -> Neighbour:
        if not base.startswith("/"):
            tools.ask(Op.MKDIR, nul(f"/local/domain/{domid}"))
            tools.ask(Op.SET_PERMS, nul(f"/local/domain/{domid}", f"n{domid}"))
        tools.ask(Op.MKDIR, nul(f"/mail/{name}"))
        tools.ask(Op.SET_PERMS, nul(f"/mail/{name}", "n0", f"r{domid}"))
        return Neighbour(peer, name, base, random.Random(f"{seed} {name}"))

    all_: list[Neighbour] = []
    for i in range(sockets):
        all_.append(neighbour(stack.enter_context(Peer(host.socket)), f"tool{i}", f"/tools/{i}", 0))
    guests.adopt(0)
    all_.append(neighbour(RingPeer(guests, 0), "kernel", "/kernel", 0))
    for domid in GUESTS:
        guests.create(domid)
        tools.ask(Op.INTRODUCE, nul(domid, 1, 2))
        all_.append(neighbour(RingPeer(guests, domid), f"guest{domid}", "kept", domid))
    for one in all_[: sockets + 1]:
        one.friends = [other for other in all_ if other is not one]
    return all_


def heap_used(tools: Toolstack, host: Host) -> int:
    """fastxs's own account, in bytes."""
    report = host.folder / "memreport"
    tools.ask(Op.CONTROL, nul("memreport", str(report)))
    words = [line.split() for line in report.read_text().splitlines()]
    return next(int(line[2]) for line in words if line[0] == "heap_used")


def check(tools: Toolstack, host: Host) -> None:
    """The store's own, which logs what it finds."""
    answer = tools.ask(Op.CONTROL, nul("check"))
    faults = [
        line for line in (host.folder / "stderr").read_text(errors="replace").splitlines() if "found a fault" in line
    ]
    if answer != OK or faults:
        raise Wrong(f"check: {answer!r} {faults}")


def run(kind: Kind, seconds: float, seed: int, *, crashes: bool = False) -> dict[str, Counter[str]]:
    """What everybody did; Wrong, with the daemon's last words, where somebody noticed."""
    folder = scratch()
    host = Host(kind, folder, default_quotas=True)
    try:
        with host:
            found = _run(host, seconds, seed, crashes)
            status = host.stop()
        said = (folder / "stderr").read_text(errors="replace")
        if kind == "fastxs" and (status or "Sanitizer" in said or "runtime error" in said):
            raise Wrong(f"status {status}: {said}")
        return found
    except (Wrong, OSError, HostError) as error:
        raise Wrong(f"seed {seed}: {error}; the daemon said: {host.stderr()}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(host: Host, seconds: float, seed: int, crashes: bool) -> dict[str, Counter[str]]:
    scribbled: Counter[str] = Counter()
    program = compile_scribble(host.folder)
    with ExitStack() as stack:
        chance = random.Random(f"{seed} toolstack")
        tools = Toolstack(host, stack.enter_context(Guests(host.env["SIMXEN_DIR"])), chance)
        stack.callback(tools.close)
        guests = stack.enter_context(Guests(host.env["SIMXEN_DIR"]))
        neighbours = neighbourhood(host, guests, tools, stack, seed, 0 if crashes else SOCKETS)
        for one in neighbours:
            one.begin()
        if chance.randrange(2):
            tools.fill("/ballast", BALLAST)
        before = heap_used(tools, host) if host.kind == "fastxs" else 0
        tools.begin()
        with scribbling(program, host, seed, scribbled):
            done = _go_on(host, tools, neighbours, seconds, crashes)
        tools.end()
        for one in neighbours:
            one.end()
            done.update(one.done)
            done["events"] += one.heard.count
        if host.kind == "fastxs":
            check(tools, host)
            after = heap_used(tools, host)
            if after > before:
                raise Wrong(f"{before} bytes in the heap before, {after} after")
    return {"neighbours": done, "toolstack": tools.done, "hostile": scribbled}


def _go_on(
    host: Host, tools: Toolstack, neighbours: Sequence[Neighbour], seconds: float, crashes: bool
) -> Counter[str]:
    """Steps in which each neighbour asks once, something may happen to a hostile domain, and all listen."""
    done: Counter[str] = Counter()
    start = time.monotonic()
    crash = start + 1 if crashes else math.inf
    while (now := time.monotonic()) < start + seconds:
        for one in neighbours:
            one.ask()
        tools.act()
        if now > crash and not any(one.in_transaction for one in neighbours):
            host.kill()
            host.start(PATIENCE_S)
            tools.again()
            done["crashes"] += 1
            crash = time.monotonic() + 1
        for one in neighbours:
            one.hear()
        for one in neighbours:
            one.heard.settle()
        done["steps"] += 1
        if done["steps"] % 100 == 0 and host.rss_bytes() > RSS_MAX:
            raise Wrong(f"{host.rss_bytes()} bytes resident")
    return done


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description="Hostile guests over rings.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--daemon", choices=KINDS, default="fastxs")
    parser.add_argument("--crashes", action="store_true", help="kill and start the daemon every second (fastxs)")
    given = parser.parse_args(words)
    if reason := available(given.daemon):
        parser.error(reason)
    print(f"seed {given.seed}", flush=True)
    try:
        found = run(given.daemon, given.seconds, given.seed, crashes=given.crashes)
    except Wrong as wrong:
        print(wrong, file=sys.stderr)
        return 1
    for name, value in found.items():
        print(f"{name:<12}{dict(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
