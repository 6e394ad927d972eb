"""What a read costs its client: fastxs's, with threads and with asyncio, beside pyxs, in one run.

`python -m bench.clients [DAEMON]`; CPU time of this process per value, the daemon's own not in it, all on one CPU.
Exit status 1: a limit was not kept.
"""

import asyncio
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyxs  # type: ignore[import-untyped]

from fastxs import AsyncClient, Client
from fastxs.hypervisor.host import Host, named, scratch

PATHS: Final = [b"/local/domain/0/backend/vbd/%d/768/state" % i for i in range(500)]
VALUE: Final = b"a value, 16 byte"
WAIT_S: Final = 10


@dataclass(frozen=True)
class Row:
    """One way to read: `once` reads `values` values.  `limit_us`: what is promised, CPU per value."""

    name: str
    once: Callable[[], object]
    values: int
    limit_us: float | None = None


@contextmanager
def rows(socket: Path, times: int) -> Iterator[list[Row]]:
    """Every client, connected to that daemon, which has all of PATHS."""
    many = PATHS * max(1, times // len(PATHS))
    with ExitStack() as stack:
        client, watching = (stack.enter_context(Client(str(socket))) for _ in range(2))
        client.write_many((path, VALUE) for path in PATHS)
        stack.enter_context(watching.watch("/elsewhere")).read(WAIT_S)
        other = pyxs.Client(str(socket))
        other.connect()
        stack.callback(other.close)
        loop = stack.enter_context(asyncio.Runner())
        parallel = AsyncClient(str(socket))
        loop.run(parallel.connect())
        stack.callback(lambda: loop.run(parallel.close()))

        async def one_by_one() -> None:
            for _ in range(times):
                await parallel.read(PATHS[0])

        def each(read: Callable[[bytes], object]) -> None:
            for _ in range(times):
                read(PATHS[0])

        yield [
            Row("pyxs read", lambda: each(other.read), times),
            Row("Client.read", lambda: each(client.read), times, 25),
            Row("Client.read, with a watch set", lambda: each(watching.read), times, 25),
            Row("Client.read_many", lambda: client.read_many(many), len(many), 3),
            Row("AsyncClient.read", lambda: loop.run(one_by_one()), times),
            Row("AsyncClient.read_many", lambda: loop.run(parallel.read_many(many)), len(many), 3),
        ]


def measured(found: list[Row], rounds: int) -> dict[str, float]:
    """Name -> median CPU µs per value; the rows by turns."""
    figures: dict[str, list[float]] = {row.name: [] for row in found}
    for _ in range(rounds):
        for row in found:
            start = time.process_time()
            row.once()
            figures[row.name].append((time.process_time() - start) / row.values * 1e6)
    return {name: statistics.median(values) for name, values in figures.items()}


def main(daemon: str = "fastxs", *, times: int = 2000, rounds: int = 15) -> int:
    kind, program = named(daemon)
    cpu = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    missed = 0
    with ExitStack() as stack:
        folder = scratch()
        stack.callback(shutil.rmtree, folder)
        host = stack.enter_context(Host(kind, folder, cpu=cpu, program=program))
        found = stack.enter_context(rows(host.socket, times))
        figures = measured(found, rounds)
        for row in found:
            kept = row.limit_us is None or figures[row.name] <= row.limit_us
            missed += not kept
            limit = "" if row.limit_us is None else f"<= {row.limit_us:g} {'met' if kept else 'MISSED'}"
            print(f"{row.name:<30} {figures[row.name]:6.2f} µs {limit}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
