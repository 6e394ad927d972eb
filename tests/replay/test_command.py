"""`fastxs record` and `fastxs replay`, as they are typed: from a daemon's traffic to another daemon's answers."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fastxs.cli.main import main
from fastxs.client import Client
from fastxs.hypervisor import simxen
from fastxs.hypervisor.host import KINDS, Host, Kind, available


def fastxs(*words: str, status: int = 0) -> Result:
    run = CliRunner().invoke(main, words)
    assert run.exit_code == status, run.output
    return run


def replay(*words: str, status: int = 0) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(fastxs("replay", "--json", *words, status=status).stdout)
    return report


@contextmanager
def recording(host: Host, file: Path, *words: str) -> Iterator[str]:
    """A recorder before the daemon's socket, for as long as the block lasts; where it listens."""
    listen = str(host.folder / "recorder")
    command = [
        sys.executable,
        "-m",
        "fastxs.cli.main",
        "record",
        str(file),
        "--listen",
        listen,
        "--socket",
        str(host.socket),
        *words,
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as recorder:
        try:
            deadline = time.monotonic() + 60
            while not os.path.exists(listen):
                assert recorder.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            yield listen
        finally:
            recorder.send_signal(signal.SIGINT)
            _, said = recorder.communicate(timeout=60)
        assert recorder.returncode == 0, said
        assert said.endswith(" records\n")
        assert not os.path.exists(listen)


def boot(host: Host, socket: str, guests: int) -> None:
    """Lives of so many guests at a time, whose toolstacks speak through this socket."""
    command = [str(simxen.SIMGUEST), "--json", "-w", "boot", "-n", str(guests), "-p", str(guests), "--socket", socket]
    subprocess.run(command, env={**os.environ, **host.env}, check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("kind", KINDS)
def test_what_fastxs_answered_and_what_others_answer(kind: Kind, fastxs_host: Host, tmp_path: Path) -> None:
    """Three toolstacks at a time; C 4.17 gives EAGAIN to some transactions that do not touch each other."""
    if reason := available(kind):
        pytest.skip(reason)
    with recording(fastxs_host, tmp_path / "recording") as listen:
        boot(fastxs_host, listen, 3)
    report = replay(str(tmp_path / "recording"), "-d", kind, status=1 if kind == "c" else 0)
    assert report["requests"] > 150
    assert report["unanswered"] == report["left_out"] == 0
    assert report["unknown"] <= 3, "nobody waited for the last answers"
    assert {(each["op"], each["now"]) for each in report["differences"]} <= {("TRANSACTION_END", "EAGAIN")}
    assert report["daemon_cpu_us"] > 0
    assert 0 < report["p50_us"] <= report["p99_us"]


def test_a_recording_holds_what_was_there_and_is_for_its_owner_only(fastxs_host: Host, tmp_path: Path) -> None:
    with Client(fastxs_host.socket) as client:
        client.write("/before", b"\0\xff")
    file = tmp_path / "recording"
    with recording(fastxs_host, file) as listen, Client(listen) as client, client.monitor() as monitor:
        monitor.watch("/before", "token")
        assert next(iter(monitor)).path == b"/before"
        assert client.read("/before") == b"\0\xff"
        with client.transaction() as transaction:
            transaction.write("/in", b"a transaction")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    report = replay(str(file))
    assert (report["different"], report["unanswered"]) == (0, 0)
    assert report["events_now"] == report["events_then"] >= 1


def test_without_the_store_a_read_of_it_differs(fastxs_host: Host, tmp_path: Path) -> None:
    with Client(fastxs_host.socket) as client:
        client.write("/before", b"x")
    with recording(fastxs_host, tmp_path / "recording", "--no-store") as listen, Client(listen) as client:
        client.read("/before")
    said = fastxs("replay", str(tmp_path / "recording"), status=1).stdout
    assert said.startswith(f"{fastxs_host.socket} against fastxs\n")
    assert "answers     0 equal, 1 different, 0 unknown" in said
    assert "1  READ              OK then, ENOENT now; the first:" in said
    assert 'connection 1: "/before\\x00"' in said


@pytest.mark.parametrize("kind", ["fastxs", "c"])
def test_a_daemons_own_trace_file(kind: Kind, tmp_path: Path) -> None:
    if reason := available(kind):
        pytest.skip(reason)
    trace = tmp_path / "trace"
    with Host(kind, tmp_path / "host", args=["-T", str(trace)], default_quotas=True) as host:
        boot(host, str(host.socket), 1)
    report = replay(str(trace), "-d", kind)
    assert report["requests"] > 80, "the guest's, too"
    assert (report["different"], report["unanswered"]) == (0, 0)
    assert report["unknown"] <= 3, "nobody waited for the last answers"
    fastxs("record", str(tmp_path / "recording"), "--from", str(trace))
    assert replay(str(tmp_path / "recording"), "-d", kind)["equal"] == report["equal"]


def test_oxenstoreds_access_log(tmp_path: Path) -> None:
    log = Path(__file__).with_name("oxenstored-4.17.log")
    assert [(each["op"], each["then"], each["now"]) for each in replay(str(log), status=1)["differences"]] == [
        ("TRANSACTION_END", "EAGAIN", "OK")
    ]


def test_to_a_daemon_that_runs(fastxs_host: Host, tmp_path: Path) -> None:
    log = Path(__file__).with_name("oxenstored-4.17.log")
    report = replay(str(log), "-d", str(fastxs_host.socket), "--hypervisor", fastxs_host.env["SIMXEN_DIR"], status=1)
    assert report["daemon_cpu_us"] > 0
    with Client(fastxs_host.socket) as client:
        assert client.read("/cut") == b"xxxx"


def test_what_cannot_be_recorded_or_played(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.write_text("nothing")
    assert "no recording, no trace file" in fastxs("replay", str(nothing), status=1).stderr
    assert "either --listen or --from" in fastxs("record", str(tmp_path / "x"), status=2).stderr
    assert (
        "no recording, no trace file" in fastxs("record", str(tmp_path / "x"), "--from", str(nothing), status=1).stderr
    )
    listen, nobody = str(tmp_path / "listen"), str(tmp_path / "nobody")
    said = fastxs("record", str(tmp_path / "x"), "--listen", listen, "--socket", nobody, status=1).stderr
    assert nobody in said
