"""`fastxs bench`: every scenario once, as small as it gets; what may be ranked; the page and the tables."""

import html
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fastxs.bench.acts import Sample
from fastxs.bench.compare import SCHEMA, TWIN, Advantage, Comparison, advantage, load, verdict
from fastxs.bench.daemons import DAEMONS, LoadError, Running
from fastxs.bench.scenarios import CHAPTERS, CONTROL, SCENARIOS, Scenario
from fastxs.bench.stage import Stage
from fastxs.bench.syscalls import CountError, counted, tool
from fastxs.bench.turns import turns
from fastxs.cli.bench import bench
from fastxs.client import Client
from fastxs.hypervisor.host import Host

QUIET, NOISY = Advantage(1.0, 0.99, 1.01, 0.97), Advantage(1.0, 0.8, 1.3, 0.97)


def compared(stage: Stage, scenarios: list[Scenario], kinds: tuple[str, ...] = ("fastxs",)) -> Comparison:
    comparison = Comparison(stage, kinds, scenarios, rounds=1, quick=True)
    list(comparison.run())
    return comparison


@pytest.fixture(scope="module")
def everything() -> dict[str, Any]:
    """The results of all scenarios, each at its first point only, by fastxs alone (and its twin)."""
    smallest = [replace(one, quick=one.xs[:1], rounds=1, others=()) for one in SCENARIOS if one is not CONTROL]

    def nothing_counts() -> str:
        raise CountError("perf is not installed")

    with (
        pytest.MonkeyPatch.context() as patch,
        Stage("fastxs", daemons={**DAEMONS, TWIN: DAEMONS["fastxs"]}, scale=0.01, seconds=0.01) as stage,
    ):
        if reason := stage.why_not("fastxs"):
            pytest.skip(reason)
        patch.setattr("fastxs.bench.compare.tool", nothing_counts)
        document = compared(stage, [CONTROL, *smallest]).document("fastxs bench")
    return dict(json.loads(json.dumps(document, allow_nan=False)))


def test_every_scenario_says_something(everything: dict[str, Any]) -> None:
    assert [place["scenario"] for place in everything["places"]] == [scenario.name for scenario in SCENARIOS]
    for place in everything["places"]:
        ours = place["daemons"]["fastxs"]
        assert ours["reason"] is None, place["scenario"]
        assert ours["units"] > 0
        assert ours["median"][everything["scenarios"][place["scenario"]]["metric"]] > 0
        assert ours["eagain"] == 0, "nobody has to do anything again"


def test_a_run_says_on_what_it_was(everything: dict[str, Any]) -> None:
    assert (everything["schema"], everything["subject"]) == (SCHEMA, "fastxs")
    assert set(everything["machine"]) >= {"cpu", "kernel", "governor", "virtualisation", "others' share of the CPUs"}
    assert everything["daemons"]["fastxs"]
    assert list(everything["chapters"]) == list(CHAPTERS)
    assert everything["system calls counted by"] == "perf is not installed"


def test_one_round_ranks_nobody(everything: dict[str, Any]) -> None:
    found = [
        gain for place in everything["places"] for metrics in place["against"].values() for gain in metrics.values()
    ]
    assert {gain["verdict"] for gain in found} == {"too few rounds"}


@pytest.mark.parametrize(
    ("found", "noise", "metric", "shared", "said"),
    [
        (Advantage(1.1, 1.05, 1.2, 0.97), QUIET, "cpu_us", 0.0, "better"),
        (Advantage(0.9, 0.85, 0.95, 0.97), QUIET, "cpu_us", 0.0, "worse"),
        (Advantage(1.1, 0.95, 1.2, 0.97), QUIET, "cpu_us", 0.0, "not separated"),  # its own interval holds 1
        (Advantage(1.1, 1.05, 1.2, 0.97), NOISY, "cpu_us", 0.0, "not separated"),  # a daemon differs so from itself
        (Advantage(0.9, 0.85, 0.95, 0.97), NOISY, "cpu_us", 0.0, "not separated"),
        (Advantage(5.0, 4.0, 6.0, 0.97), NOISY, "cpu_us", 0.0, "better"),
        (Advantage(5.0, 4.0, 6.0, 0.75), QUIET, "cpu_us", 0.0, "too few rounds"),
        (Advantage(5.0, 4.0, 6.0, 0.97), QUIET, "p99_us", 0.5, "machine shared"),  # the clock counts others' work
        (Advantage(5.0, 4.0, 6.0, 0.97), QUIET, "cpu_us", 0.5, "better"),  # a daemon's CPU time does not
        (Advantage(1.1, 1.05, 1.2, 0.97), None, "cpu_us", 0.0, "better"),
    ],
)
def test_what_the_noise_does_not_separate_is_not_ranked(
    found: Advantage, noise: Advantage | None, metric: str, shared: float, said: str
) -> None:
    assert verdict(found, noise, metric, shared) == said


def test_a_ratio_is_taken_round_by_round() -> None:
    """A drift that meets both sides of a round alike does not count."""
    mine = [Sample(1, cpu_us=cost, per_s=1 / cost) for cost in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)]
    others = [Sample(1, cpu_us=3 * cost, per_s=1 / (3 * cost)) for cost in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)]
    for metric in ("cpu_us", "per_s"):
        gain = advantage(mine, others, metric)
        assert gain is not None
        assert (gain.value, gain.low, gain.high) == pytest.approx((3, 3, 3))
    assert advantage(mine, others, "p50_us") is None


def test_who_fails_is_told_and_the_others_go_on() -> None:
    class Broken:
        def run(self, stage: Stage, kind: str) -> Sample:
            if kind == "fastxs-none":
                raise LoadError("read: another value")
            return Sample(1, cpu_us=1.0)

    scenario = SCENARIOS[1]
    broken = replace(scenario, at=lambda x: replace(scenario.at(x), act=Broken()), others=())
    with Stage("fastxs") as stage:
        if reason := stage.why_not("fastxs"):
            pytest.skip(reason)
        comparison = compared(stage, [broken], ("fastxs", "fastxs-none"))
    (place,) = comparison.places
    assert place.reasons == {"fastxs-none": "read: another value"}
    assert len(place.samples["fastxs"]) == 1


def test_system_calls_are_counted_without_what_comes_before_them() -> None:
    try:
        name = tool()
    except CountError as error:
        pytest.skip(str(error))
    with Stage("fastxs", seconds=0.01) as stage:
        if reason := stage.why_not("fastxs"):
            pytest.skip(reason)
        (point,) = next(one for one in SCENARIOS if one.name == "socket-read-depth1").points(quick=True)
        act: Any = point.act
        run: Callable[[int], object] = lambda many: act.units(many).run(stage, "fastxs")  # noqa: E731
        server = stage.server("fastxs")
        assert 1.9 < counted(name, server.pid, run, 300) < 4  # a read and a write, and a wait unless more is there


def test_turns_are_a_histogram() -> None:
    with Stage("fastxs") as stage:
        if reason := stage.why_not("fastxs"):
            pytest.skip(reason)
        found = turns(stage, "fastxs", 2_000)
    assert found.longest_ns > 0
    assert sum(many for _, many in found.histogram) > 2_000 / 64  # bursts of 64 writes, each at least one turn


# ------------------------------------------------------------------------------------------------------ the command


def run(*words: str) -> Any:
    return CliRunner().invoke(bench, list(words))


def test_a_daemon_that_runs_is_asked_and_left_as_it_was(fastxs_host: Host, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    words = ["--socket", str(fastxs_host.socket), "--only", "socket-write-depth1", "--only", "fan-out"]
    done = run(*words, "--quick", "--rounds", "1", "--seconds", "0.01", "-o", str(file))
    assert done.exit_code == 0, done.output
    document = load(file)
    assert {place["scenario"] for place in document["places"]} == {"socket-write-depth1", "fan-out"}
    assert all(place["daemons"]["running"]["median"]["cpu_us"] > 0 for place in document["places"])
    with Client(fastxs_host.socket) as dom0:
        assert not dom0.exists("/elsewhere")
        assert not dom0.exists("/local/domain/0/bench")


def test_a_host_in_use_meets_harmless_scenarios_only(fastxs_host: Host) -> None:
    listed = run("--socket", str(fastxs_host.socket), "--list").output
    assert "socket-read-depth1" in listed
    assert not {"starts-and-shutdowns", "boot-and-death", "memory-node", "ring-read-depth1"} & set(listed.split())


def test_nobody_serves_that_socket(tmp_path: Path) -> None:
    (tmp_path / "socket").touch()
    with pytest.raises(LoadError, match="Connection refused"):
        Running(tmp_path / "socket")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-d", "nobody"], "'nobody' is neither one of fastxs, c, ox, fastxs-none, ox-log, nor a program."),
        (["--only", "nothing"], "no scenario is called nothing (--list names them)"),
        (["--rounds", "0"], "0 is not in the range"),
    ],
)
def test_a_wrong_option_is_told(words: list[str], said: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert said in done.output


# -------------------------------------------------------------------------------------------------------- the report


@pytest.fixture
def saved(everything: dict[str, Any], tmp_path: Path) -> Path:
    """Of each chapter one place, so that it is drawn in a moment."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    chapters = {everything["scenarios"][place["scenario"]]["chapter"]: place for place in everything["places"]}
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({**everything, "places": list(chapters.values())}))
    return file


def report(*words: str | Path) -> None:
    """In a process of its own: matplotlib keeps the files of its fonts open."""
    command = [sys.executable, "-m", "fastxs.cli.main", "bench", "report", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True, timeout=100)


def test_the_page_needs_nothing_else(saved: Path) -> None:
    page = saved.with_name("page.html")
    report(saved, saved, "-o", page)
    text = html.unescape(page.read_text())
    assert all(text.count(f">{title}</h2>") == 2 for title in CHAPTERS.values()), "two runs, each with all chapters"
    assert 'src="data:image/png;base64,' in text
    assert "http" not in text
    pictures = sorted(saved.parent.glob("page-*.png"))
    assert len(pictures) == text.count("<img ") > 0
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_tables_go_between_the_marks_of_a_text(saved: Path) -> None:
    text = saved.with_name("text.md")
    begin, end = "<!-- results: written by `fastxs bench report --markdown` -->", "<!-- end of results -->"
    text.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    report(saved, "--markdown", text)
    filled = text.read_text()
    assert filled.startswith(f"before\n{begin}\n")
    assert filled.endswith(f"{end}\nafter\n")
    assert "\nold\n" not in filled
    assert "| An idle domain, its ring's 4,096 included | 1,000 of them | bytes a domain |" in filled


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "fastxs-bench/0"}', "[1]"])
def test_what_is_no_result_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    file.write_text(text)
    done = run("report", str(file), "-o", str(tmp_path / "page.html"))
    assert done.exit_code == 1
    assert f"{file}: " in done.output
