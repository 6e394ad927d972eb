"""`fastxs sim`, as a toolstack's developer types it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastxs.hypervisor.host import BINARIES, Host, available

SIM = [sys.executable, "-m", "fastxs.cli.main", "sim"]
WITHOUT = {name: value for name, value in os.environ.items() if not name.startswith(("SIMXEN", "XENSTORED"))}


def sim(*options: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    run = subprocess.run([*SIM, *options], env=WITHOUT, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == status, run.stdout + run.stderr
    return run


def test_without_a_word_ten_guests_boot() -> None:
    run = sim()
    lines = run.stdout.splitlines()
    assert lines[0] == "boot against fastxs"
    assert "guests      10" in lines
    assert "lives       10" in lines
    assert lines[-1] == "all answers were right"
    (introduced,) = (line.split() for line in lines if line.startswith("INTRODUCE"))
    assert introduced[1:3] == ["10", "0"], "requests, refused"
    assert run.stderr == "", "no progress where there is no terminal"


def test_the_report_as_json() -> None:
    report = json.loads(sim("--json", "-n", "3", "-w", "handshake", "--rounds", "2").stdout)
    assert (report["workload"], report["guests"], report["rounds"], report["unit"]) == ("handshake", 3, 6, "handshakes")
    assert report["daemon"] == "fastxs"
    assert report["daemon_rss_mib"] > 1
    assert report["failures"] == 0
    assert report["failed"] == []
    assert report["operations"]["WATCH"]["count"] == 12


@pytest.mark.skipif(available("c") is not None, reason="C xenstored cannot run here")
def test_any_other_build_of_a_daemon() -> None:
    path = str(BINARIES["c"])
    assert sim("-d", path, "-n", "2", "--domids", "700").stdout.startswith(f"boot against {path}\n")


def test_a_daemon_that_runs_already(fastxs_host: Host) -> None:
    there = ["-d", str(fastxs_host.socket), "--hypervisor", fastxs_host.env["SIMXEN_DIR"]]
    assert "all answers were right" in sim(*there, "-w", "checks").stdout
    assert fastxs_host.ended is None
    assert Path(fastxs_host.env["SIMXEN_DIR"]).exists()


def test_a_hypervisor_that_is_another_one(fastxs_host: Host, tmp_path: Path) -> None:
    """Its domains are not there for the daemon: every introduction is refused, and nothing waits for ever."""
    there = ["-d", str(fastxs_host.socket), "--hypervisor", str(tmp_path / "hv")]
    run = sim(*there, "-n", "1", "-w", "idle", "-t", "0.01", status=1)
    assert "FAILED: introduce" in run.stdout
    assert "the guests could not be set up" in run.stdout


def test_faults_are_met_and_told() -> None:
    run = sim("-n", "5", "--fault", "map=2:EINVAL", "--fault", "bind=1:ENOSPC")
    assert re.search(r"^faults +2 map, 1 bind; 3 introductions again", run.stdout, re.MULTILINE)
    assert "all answers were right" in run.stdout


@pytest.mark.skipif(available("c") is not None, reason="C xenstored cannot run here")
def test_a_daemon_that_ends_says_its_last_words() -> None:
    """C xenstored does not survive an overflow of its event channels."""
    run = sim("-d", "c", "-w", "checks", "--fault", "read=1:EFBIG", status=1)
    assert "1 failure:" in run.stdout
    assert "the daemon closed the connection" in run.stdout or "Connection reset by peer" in run.stdout
    assert "the daemon ended with status 1; its last words:" in run.stdout
    assert "File too large" in run.stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda number: str(number.name))
def test_guests_can_be_held_until_somebody_says_stop(how: signal.Signals) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([*SIM, "-w", "idle", "-n", "3"], env=WITHOUT, stdout=pipe, stderr=pipe, text=True) as run:
        assert run.stdout and run.stderr
        assert run.stderr.readline() == "3 guests until Ctrl-C; for others:\n"
        words = dict(word.split("=", 1) for word in run.stderr.readline().split()[1:])
        assert Path(words["XENSTORED_PATH"]).is_socket()
        assert Path(words["SIMXEN_DIR"], "hv").exists()
        run.send_signal(how)
        assert run.stdout.read().endswith("all answers were right\n")
        assert run.wait(20) == 0
    assert not Path(words["SIMXEN_DIR"]).parent.exists()


def test_what_takes_long_shows_a_bar_on_a_terminal() -> None:
    """And its Ctrl-C, which reaches all of a terminal's processes, ends the guests first and the daemon last."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover
        os.execve(sys.executable, [*SIM, "-w", "chatter", "-n", "3", "-t", "100", "--rate", "1000"], WITHOUT)
    said = b""
    try:
        while select.select([terminal], [], [], 30)[0]:
            try:
                said += os.read(terminal, 4096)
            except OSError:  # its other end is closed
                break
            if b"guests work" in said and b"\x03" not in said and b"^C" not in said:
                os.write(terminal, b"\x03")
    finally:
        os.close(terminal)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert b"[-----" in said
    assert said.endswith(b"all answers were right\r\n")
    assert status == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-n", "0"], "0 is not in the range"),
        (["-n", "32751", "--domids", "2"], "the last domid is 32751"),
        (["-w", "sleep"], "'sleep' is not one of 'checks'"),
        (["-d", "/dev/null"], "neither one of fastxs, c, ox, nor a program, nor a socket"),
        (["--fault", "map"], "is not KIND=N:ERROR with a KIND of map, bind, notify, read"),
        (["--fault", "fly=1:EIO"], "is not KIND=N:ERROR"),
        (["--fault", "map=1:EHUH"], "EHUH is no error's name"),
        (["-t", "1", "-r", "1"], "--seconds or --rounds, not both"),
        (["-t", "-1"], "-1.0 is not in the range"),
    ],
)
def test_nonsense_is_refused_in_words(options: list[str], words: str) -> None:
    assert words in sim(*options, status=2).stderr


def test_a_program_that_is_no_daemon() -> None:
    run = sim("-d", "/bin/false", status=1)
    assert run.stderr.startswith("Error: /bin/false: ended with status 1")
