"""Guests with a workload meet each daemon: simguest checks every answer, these tests what it says of that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastxs.hypervisor import simxen
from fastxs.hypervisor.host import KINDS, Host, available
from fastxs.hypervisor.simxen.guests import Guests
from tests.conftest import running

LIFE = 84
"""Requests of a domain's whole life where nothing is in its way."""


@pytest.fixture(params=KINDS)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with running(request.param) as host:
        yield host


def play(host: Host, *options: object, status: int = 0) -> dict[str, Any]:
    """simguest's report; `words` is what it wrote on stderr."""
    command = [str(word) for word in (simxen.SIMGUEST, "--json", "--report", 1000, *options)]
    run = subprocess.run(
        command, env={**os.environ, **host.env}, capture_output=True, text=True, timeout=100, check=False
    )
    assert run.returncode == status, run.stdout[-2000:] + run.stderr + host.stderr()
    report: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return report | {"words": run.stderr}


def test_every_kind_of_request_is_answered_rightly(host: Host) -> None:
    report = play(host, "-n", 20, "-w", "checks", "-r", 5)
    assert report["rounds"] == 100
    assert report["failures"] == 0
    assert report["errors"] == {"EACCES": 100, "ENOENT": 200}, "what is refused is refused as foretold"


def test_a_domain_s_whole_life(host: Host) -> None:
    """Built in one transaction, introduced, booted over its ring, shut down, found, destroyed, forgotten."""
    report = play(host, "-n", 1, "-w", "boot", "-r", 3, "--kill")
    assert report["rounds"] == 3
    assert report["requests"] >= 3 * (LIFE - 1), "more only if its death is asked for again and again"
    assert report["operations"]["INTRODUCE"]["count"] == 3
    assert report["operations"]["TRANSACTION_END"]["count"] == 3, "nobody was in its way"
    assert "RELEASE" not in report["operations"], "--kill: the daemon found out by itself"


def test_many_boot_at_a_time(host: Host) -> None:
    report = play(host, "-n", 30, "-w", "boot", "-p", 10)
    assert report["rounds"] == 30
    assert report["operations"]["RELEASE"] == {**report["operations"]["RELEASE"], "count": 30, "errors": 0}
    assert report["errors"].get("ENOENT") == 30, "one node that no guest has"


def test_domids_are_used_again_at_once(host: Host) -> None:
    """After every kind of end: RELEASE first, unheard of, torn down slowly, found dead."""
    with Guests(host.env["SIMXEN_DIR"], slot=9) as watcher:
        report = play(host, "-n", 5, "-w", "boot", "-r", 12, "--reuse", "-p", 5)
        assert report["rounds"] == 60
        assert watcher.uid(1) > 5, "the domids are those of the first lives"
        assert watcher.uid(6) == 0
        assert [watcher.state(domid) for domid in range(1, 6)] == [0] * 5


@pytest.mark.skipif(available("fastxs") is not None, reason="fastxs cannot run here")
def test_domids_are_used_again_at_once_on_xen_4_17(tmp_path: Path) -> None:
    """Before libxenmanage only a domain's handle tells it from the one before; deaths are found by listing all."""
    with Host("fastxs", tmp_path, env={"SIMXEN_XEN": "4.17"}) as host:
        assert "libxenctrl" in host.stderr()
        assert play(host, "-n", 5, "-w", "boot", "-r", 12, "--reuse", "-p", 5)["rounds"] == 60


def test_devices_connect_and_close(host: Host) -> None:
    """Both sides of xenbus's state machine, each led by watches on the other's state."""
    report = play(host, "-n", 20, "-w", "handshake", "-r", 3)
    assert report["rounds"] == 60
    assert report["events"] >= 60 * 6, "each side is told of the other's steps"


def test_guests_chat(host: Host) -> None:
    report = play(host, "-n", 20, "-w", "chatter", "-r", 40)
    assert report["rounds"] == 800
    assert report["operations"]["TRANSACTION_END"]["count"] >= 200


@pytest.mark.parametrize("kind", ["fastxs", "c"])
def test_a_storm_loses_no_last_word(kind: Any) -> None:
    """oxenstored is left out: it ignores guests that caused too many conflicts (conflict-burst-limit), and was seen to
    leave them unheard for good."""
    with running(kind) as host:
        report = play(host, "-n", 24, "-w", "storm", "-r", 100)
        assert report["rounds"] == 24 * 100
        assert report["operations"]["INTRODUCE"]["count"] == 300, "one in eight comes and goes"


def test_those_who_are_idle_only_come(host: Host) -> None:
    report = play(host, "-n", 100, "-w", "idle", "-t", 0.01)
    assert report["operations"]["INTRODUCE"]["count"] == 100
    assert "READ" not in report["operations"]


def test_ten_thousand_guests_come_and_go(fastxs_host: Host) -> None:
    with Guests(fastxs_host.env["SIMXEN_DIR"], slot=9) as watcher:
        report = play(fastxs_host, "-n", 10000, "-w", "idle", "-t", 0.01)
        assert report["operations"]["INTRODUCE"] == {**report["operations"]["INTRODUCE"], "count": 10000, "errors": 0}
        assert not any(watcher.state(domid) for domid in range(1, 10001))


@pytest.mark.slow
@pytest.mark.parametrize(
    "workload",
    [["boot", "-p", "64"], ["handshake"], ["chatter", "-r", "8"], ["storm", "-r", "4"]],
    ids=lambda words: str(words[0]),
)
def test_ten_thousand_guests_are_served(fastxs_host: Host, workload: list[str]) -> None:
    assert play(fastxs_host, "-n", 10000, "-w", *workload)["rounds"] >= 10000


# ------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("fault", ["map=3:22", "bind=3:28"])
@pytest.mark.parametrize("kind", ["fastxs", "c"])
def test_an_introduction_that_fails_can_be_made_again(kind: Any, fault: str) -> None:
    """oxenstored is left out: it keeps the page mapped where binding failed, so the domain becomes a zombie."""
    with running(kind) as host:
        report = play(host, "-n", 10, "-w", "checks", "--fault", fault)
        assert report["introductions_refused"] == 3
        assert list(report["faults"].values()) == [3]
        assert report["failures"] == 0


@pytest.mark.parametrize("kind", ["fastxs", "c"])
def test_guests_that_are_not_told_find_their_answers_later(kind: Any) -> None:
    """C xenstored notifies more often than it must, so that the next one makes up for it.  oxenstored is left out: it
    serves nobody any more after a notification failed."""
    with running(kind) as host:
        report = play(host, "-n", 10, "-w", "checks", "--fault", "notify=3:5")
        assert report["faults"] == {"notify": 3}
        assert (kind == "fastxs") <= report["late"] <= 3
        assert report["failures"] == 0


def test_event_channels_that_overflow_are_reset(fastxs_host: Host) -> None:
    """C xenstored ends itself then, and oxenstored loops."""
    report = play(fastxs_host, "-n", 10, "-w", "checks", "-r", 20, "--fault", "read=2:27")
    assert report["faults"] == {"read": 2}
    assert report["failures"] == 0


def test_a_daemon_that_ends_is_a_failure(fastxs_host: Host) -> None:
    command = [str(simxen.SIMGUEST), "-w", "chatter", "-t", "0", "--report", "0.05", "-n", "4"]
    with subprocess.Popen(
        command, env={**os.environ, **fastxs_host.env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as guests:
        assert guests.stdout and guests.stderr
        assert "4 guests" in guests.stdout.readline()
        fastxs_host.kill()
        assert "the daemon" in guests.stderr.read()
        assert "1 failures" in guests.stdout.read().splitlines()[-1]
        assert guests.wait(10) == 1


@pytest.mark.slow
def test_a_daemon_that_hangs_is_a_failure_after_ten_seconds(fastxs_host: Host) -> None:
    os.kill(fastxs_host.pid, signal.SIGSTOP)
    try:
        report = play(fastxs_host, "-n", 2, "-w", "boot", status=1)
    finally:
        os.kill(fastxs_host.pid, signal.SIGCONT)
    assert "no answer to WRITE" in report["words"]
    assert "the daemon has not stirred for 10 s" in report["words"]
