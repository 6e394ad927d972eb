"""How the micro benches are taken, and the clock that shows them to pytest-benchmark.

Everything is measured in sweeps, a few laps of each case in every sweep: what else the machine does for some seconds
then spoils a few readings of each case, not all readings of one, and the least of them stands.  The unit is time as one
machine would have it: times how much faster it runs `laps.steps` than this one.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Final

import pytest
from cpuinfo import get_cpu_info  # type: ignore[import-untyped]
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.cases import CASES, Lap
from fastxs.core import laps

Run = Callable[[str], None]

STEP_NS: Final = 2.8
"""What a step takes where the unit comes from."""
STEPS: Final = 100_000
SWEEPS: Final = 20
LAPS: Final = 5
"""Of each case in each sweep, after one that warms it."""
LAP_NS: Final = 1_000_000
"""A lap is about so long: many come through without an interruption."""


class Clock:
    """A clock that goes on only by what was measured."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def show(self, readings_ns: Iterator[float]) -> None:
        self.now_s += next(readings_ns) / 1e9


CLOCK = Clock()


def pytest_benchmark_generate_machine_info() -> dict[str, str]:
    """What a comparison depends on; pytest-benchmark warns if a baseline comes from elsewhere."""
    cpu = get_cpu_info()
    return {"cpu": str(cpu.get("brand_raw")), "model": str(cpu.get("model")), "python": platform.python_version()}


def made(name: str, stack: ExitStack) -> Lap:
    return CASES[name].make(CASES[name].size, stack)


def measure(names: Iterable[str]) -> dict[str, list[float]]:
    """The readings of each case, ns."""
    with ExitStack() as stack:
        ready = {name: made(name, stack) for name in names}
        loops = dict.fromkeys(ready, 1)
        for name, lap in ready.items():
            while (ns := lap(loops[name])) * loops[name] < LAP_NS:
                loops[name] = max(2 * loops[name], round(LAP_NS / ns))
        readings: dict[str, list[float]] = {name: [] for name in ready}
        step_ns = laps.steps(STEPS)
        for _ in range(SWEEPS):
            for name, lap in ready.items():
                step_ns = min(step_ns, laps.steps(STEPS))
                lap(loops[name])
                readings[name] += (lap(loops[name]) for _ in range(LAPS))
    return {name: [ns * STEP_NS / step_ns for ns in taken] for name, taken in readings.items()}


@pytest.fixture(scope="session")
def readings(request: pytest.FixtureRequest) -> Mapping[str, list[float]]:
    """Of all cases that this session is about."""
    functions = (item for item in request.session.items if isinstance(item, pytest.Function))
    return measure(str(function.callspec.params["name"]) for function in functions if "run" in function.fixturenames)


@pytest.fixture
def run(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Run:
    """Measure a case; disabled benches (`--benchmark-disable`) do it once."""

    def run(name: str) -> None:
        if benchmark.disabled:
            with ExitStack() as stack:
                benchmark(made(name, stack), 1)
            return
        taken = request.getfixturevalue("readings")[name]
        benchmark.group = CASES[name].work
        benchmark.pedantic(CLOCK.show, args=(iter(taken),), rounds=len(taken))  # type: ignore[no-untyped-call]

    return run
