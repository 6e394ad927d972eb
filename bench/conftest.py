"""pytest's side of the benchmarks: options, the daemons of one session, and the clock that pytest-benchmark reads.

The clock is the daemon's CPU time per request: each pair puts it forward by what one request cost.  So the times in
pytest-benchmark's tables, its saved runs and its comparisons are CPU time per request of the daemon, in seconds.
"""

from collections.abc import Callable, Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.bars import Bar
from fastxs.bench.figures import Figure, Once, Reading, summarise
from fastxs.bench.stage import Stage
from fastxs.hypervisor import host

Judge = Callable[[Bar], Figure]


class CpuClock:
    """A clock that goes on only by what is measured."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def watch(self, once: Once, readings: list[Reading]) -> None:
        readings.append(once())
        self.now_s += readings[-1].cpu_us / 1e6


CLOCK = CpuClock()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastxs")
    group.addoption("--pairs", type=int, default=10, help="interleaved pairs of each bar (10)")
    group.addoption("--seconds", type=float, default=0.3, help="duration of one run (0.3)")
    group.addoption("--scale", type=float, default=1.0, help="size of the situations (1.0)")
    group.addoption("--daemon", choices=host.KINDS, default="fastxs", help="whom to judge (fastxs)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # the project's tests skip benchmarks; whoever names this folder wants them
    config.option.benchmark_skip = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "judge" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(timer=CLOCK))


@pytest.fixture(scope="session")
def stage(pytestconfig: pytest.Config) -> Iterator[Stage]:
    option = pytestconfig.getoption
    with Stage(option("--daemon"), scale=option("--scale"), seconds=option("--seconds")) as stage:
        yield stage


@pytest.fixture
def judge(stage: Stage, benchmark: BenchmarkFixture, pytestconfig: pytest.Config) -> Judge:
    """Measure a bar through pytest-benchmark; the figure, its interval and the verdict go into the saved results."""

    def judge(bar: Bar) -> Figure:
        for kind in ("daemon", *bar.rivals):
            if reason := stage.why_not(kind):
                pytest.skip(reason)
        readings: list[Reading] = []
        rounds = min(pytestconfig.getoption("--pairs"), bar.most or 10**6)
        benchmark.group = bar.group
        try:
            once = bar.prepare(stage)
            benchmark.pedantic(CLOCK.watch, args=(once, readings), rounds=rounds)  # type: ignore[no-untyped-call]
        except Exception:
            stage.forget()
            raise
        figure = summarise(readings)
        benchmark.extra_info.update(
            bar=bar.text,
            unit=bar.unit,
            figure=figure.value,
            interval=[figure.low, figure.high],
            coverage=figure.coverage,
            limit=bar.limit,
            met=bar.limit is None or figure.value <= bar.limit,
            cpu_us_per_request=figure.cpu_us,
            rival_cpu_us_per_request=figure.rival_us,
        )
        return figure

    return judge
