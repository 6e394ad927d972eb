"""The tools themselves: the generator finds what is wrong, and the interval is the one that the books have."""

import contextlib
import json
import socket
import statistics
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.bars import BARS, Outcome, main, select
from fastxs.bench.daemons import Echo, LoadError
from fastxs.bench.figures import Reading, interval, summarise
from fastxs.bench.load import XSLOAD, build
from fastxs.bench.loads import Hold, Load, Play, Situation, drive
from fastxs.bench.stage import Stage
from fastxs.hypervisor import host

CPU = 0


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Echo]:
    server = Echo(tmp_path / "echo", cpu=CPU)
    yield server
    server.close()


def test_a_build_is_two_programs(tmp_path: Path) -> None:
    build.build(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["xsecho", "xsload"]


def test_ten_values_have_the_second_and_the_ninth() -> None:
    low, high, coverage = interval([10, 1, 9, 2, 8, 3, 7, 4, 6, 5])
    assert (low, high) == (2, 9)
    assert coverage == pytest.approx(1 - 2 * 11 / 1024)  # 1 + 10 of 1,024 ways to have at most one below the median


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (8, 1), (9, 2), (12, 3), (20, 6), (40, 14)])
def test_ranks_are_those_of_the_tables(n: int, rank: int) -> None:
    low, high, coverage = interval(range(1, n + 1))
    assert (low, high) == (rank, n + 1 - rank)
    assert coverage >= 0.95


def test_too_few_values_say_how_little_they_tell() -> None:
    assert interval([3.0, 1.0, 2.0]) == (1.0, 3.0, 0.75)
    assert interval([1.0]) == (1.0, 1.0, 0.0)


def test_a_figure_is_the_median_of_the_ratios() -> None:
    figure = summarise([Reading(0.5, 3, 6), Reading(0.6, 3, 5), Reading(2.0, 8, 4)])
    assert (figure.value, figure.cpu_us, figure.rival_us) == (0.6, 3, 5)
    assert figure.value == statistics.median(r.value for r in figure.readings)


@pytest.mark.parametrize("workload", ["read", "write", "mixed", "directory", "churn"])
@pytest.mark.parametrize(("connections", "depth"), [(1, 1), (1, 16), (7, 3)])
def test_every_request_is_answered_once(echo: Echo, workload: str, connections: int, depth: int) -> None:
    result = drive(echo, Load(workload, connections, depth, requests=1000, warmup=10), CPU, echo=True)
    assert (result.requests, result.errors) == (1000, 0)
    assert result.cpu_ns > 0
    assert result.p50_ns <= result.p99_ns <= result.p999_ns


def test_a_wrong_reply_is_found(echo: Echo) -> None:
    with pytest.raises(LoadError, match="not OK: connection 0 request 0"):
        drive(echo, Load("write", requests=10), CPU)  # an echo is not what XenStore answers


def test_idle_connections_stay_until_closed(echo: Echo) -> None:
    descriptors = Path(f"/proc/{echo.pid}/fd")
    before = len(list(descriptors.iterdir()))
    hold = Hold(echo, Load("hold", 50, warmup=0), CPU, echo=True)
    assert len(list(descriptors.iterdir())) == before + 50
    hold.close()


@pytest.mark.parametrize("kind", host.KINDS)
@pytest.mark.parametrize("workload", ["read", "write", "mixed", "directory", "churn", "transaction"])
def test_the_daemons_answer_what_is_expected(kind: host.Kind, workload: str) -> None:
    with Stage() as stage:
        if reason := stage.why_not(kind):
            pytest.skip(reason)
        with stage.fresh(kind) as server:
            starts = workload == "transaction"
            result = drive(server, Load(workload, 5, requests=50, warmup=5, lockstep=starts), stage.client_cpu)
            assert result.errors == 0
            # C makes clients in lock-step start again: more requests, the same number of commits
            served_once = result.requests - 14 * result.eagain
            assert (result.commits, served_once) == ((50, 700) if starts else (0, 50))
            hold = stage.watch(server, 300)
            hold.close()
            assert (hold.result.requests, hold.result.events) == (300, 300)  # each watch fires once when it is set
            stage.fill(server, "nodes", 250)
            read = drive(server, Load("read", requests=100, at="nodes", keys=0, warmup=0), stage.client_cpu, of=250)
            assert (read.requests, read.errors) == (100, 0)


@pytest.mark.parametrize("kind", host.KINDS)
@pytest.mark.parametrize("shared", [False, True], ids=["own connections", "one connection"])
def test_whole_lives_in_transactions(kind: host.Kind, shared: bool) -> None:
    with Stage() as stage:
        if reason := stage.why_not(kind):
            pytest.skip(reason)
        with stage.fresh(kind) as server:
            result = drive(server, Load("life", 5, requests=10, warmup=0, shared=shared), stage.client_cpu)
            assert (result.scripts, result.commits, result.errors) == (10, 50, 0)
            again = result.requests - 10 * 127  # what C makes them say once more
            assert again == 0 if not result.eagain else again > 0


@pytest.mark.parametrize("kind", host.KINDS)
@pytest.mark.parametrize("workload", ["read", "write", "mixed", "directory", "churn"])
@pytest.mark.parametrize("depth", [1, 8])
def test_guests_are_answered_over_their_rings(kind: host.Kind, workload: str, depth: int) -> None:
    with Stage() as stage:
        if reason := stage.why_not(kind):
            pytest.skip(reason)
        with stage.fresh(kind) as server, contextlib.closing(stage.populate(server, 12)) as guests:
            assert (guests.result.workload, guests.result.requests) == ("introduce", 12)
            result = guests.drive(Load(workload, 5, depth, requests=1000, warmup=50), stage.client_cpu)
            assert (result.requests, result.errors) == (1000, 0)
            assert 0 < result.fewest <= 200 <= result.most


@pytest.mark.parametrize("kind", host.KINDS)
def test_domains_come_and_go_and_rest(kind: host.Kind) -> None:
    with Stage() as stage:
        if reason := stage.why_not(kind):
            pytest.skip(reason)
        with stage.fresh(kind) as server, contextlib.closing(stage.populate(server, 3)) as guests:
            for workload in ("introduce", "die", "introduce"):
                result = guests.drive(Load(workload, requests=7, warmup=0), stage.client_cpu)
                assert (result.workload, result.requests, result.errors) == (workload, 7, 0)
                assert result.cpu_ns > 0
            assert guests.drive(Load("rest", seconds=0.1, warmup=0), stage.client_cpu).requests == 0


def test_a_guest_finds_what_is_not_its_own() -> None:
    with Stage() as stage:
        if reason := stage.why_not("fastxs"):
            pytest.skip(reason)
        with stage.fresh("fastxs") as server:
            guests = stage.populate(server, 3)
            with socket.socket(socket.AF_UNIX) as dom0:
                body = b"/local/domain/2/data/k001\0" + b"0" * 16  # what another's would be
                dom0.connect(str(server.socket))
                dom0.sendall(struct.pack("=IIII", 11, 0, 0, len(body)) + body)
                assert dom0.recv(100)[16:] == b"OK\0"
            with pytest.raises(LoadError, match="read: another value: connection 1 "):
                guests.drive(Load("read", 3, requests=100, warmup=0), stage.client_cpu)


def test_whole_lives() -> None:
    with Stage(scale=0.01) as stage:
        if reason := stage.why_not("fastxs"):
            pytest.skip(reason)
        played = stage.play("fastxs", Play("boot", guests=3, rounds=2), Situation(domains=1_000))
        assert (played.rounds, played.eagain) == (6, 0)


def test_a_smaller_situation_keeps_a_few() -> None:
    assert Situation(idle=4_000, domains=10, watches=1).scaled(0.01) == Situation(idle=40, domains=10, watches=1)


def test_usage_is_refused_with_one_line() -> None:
    command = [str(XSLOAD), "--socket", "/nowhere", "--workload", "sing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "xsload: --workload sing: there is no such one\n"


def test_bars_have_names_of_their_own() -> None:
    assert len({bar.name for bar in BARS}) == len(BARS)
    assert [bar.name for bar in select(["depth1"])] == ["depth1-read", "depth1-write"]
    assert [bar.name for bar in select(["*-aborts", "memory-w"])] == [
        "lockstep-aborts",
        "lockstep-aborts-bare",
        "ring-lives-aborts",
        "memory-watch",
        "memory-watch-image",
    ]


def test_what_cannot_be_measured_is_not_met(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stage, "why_not", lambda self, kind: "not today")
    assert not Outcome(BARS[0], None, "not today").met
    assert main(["--only", "depth1-read", "--json", str(tmp_path / "bars.json")]) == 1
    assert "not measured" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "bars.json").read_text())["bars"]
    assert (row["name"], row["met"], row["reason"]) == ("depth1-read", False, "not today")
