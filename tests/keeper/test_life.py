"""The keeper's own life: how it starts, what signals do, when it gives up and when never."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fastxs.daemon.keeper import next_delay
from tests.keeper.conftest import TIMEOUT_S, Kept, children, is_alive, until


def one_line(text: str) -> str:
    assert text.endswith("\n") and text.count("\n") == 1, text
    return text.rstrip("\n")


# ---- the end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_told_to_stop_it_stops_the_daemon_first(kept: Kept, number: signal.Signals) -> None:
    keeper = kept.start("-p", kept.pid_file)
    client = kept.client()
    pid = int(client.ask("who"))
    assert kept.pid_file.read_text() == f"{keeper.pid}\n"
    keeper.send_signal(number)
    assert keeper.wait(TIMEOUT_S) == 0
    assert not is_alive(pid)
    assert client.hear() == "", "nobody has the socket any more"
    assert not kept.pid_file.exists() and not kept.notify.exists()
    assert kept.said() == ""


@pytest.mark.parametrize("status", [0, 3])
def test_a_daemon_that_ends_unasked_is_started_again(kept: Kept, status: int) -> None:
    """Whatever it thinks of itself: its clients are connected.  So an administrator gets another version of it."""
    kept.start()
    client = kept.client()
    client.say(f"exit {status}")
    until(lambda: f"died (exit status {status})" in kept.said())
    assert client.ask("had") == "listen c"


def test_stopped_while_it_waits_to_start_the_daemon(kept: Kept) -> None:
    keeper = kept.start()
    (kept.folder / "crash").write_text("1000")
    kept.client().say("die")
    until(lambda: "next start in 0.8 s" in kept.said())
    keeper.terminate()
    assert keeper.wait(TIMEOUT_S) == 0
    assert not children(keeper.pid)


def test_a_daemon_that_does_not_stop_is_killed(kept: Kept) -> None:
    keeper = kept.start(patch="STOP_S = 0.2")
    client = kept.client()
    pid = int(client.ask("who"))
    assert client.ask("deafen") == "None"
    keeper.terminate()
    assert keeper.wait(TIMEOUT_S) == 1
    assert not is_alive(pid)
    assert kept.said().splitlines() == [
        f"fastxs-keeper: the daemon (pid {pid}) does not end; killing it",
        "fastxs-keeper: the daemon died before it was stopped (SIGKILL)",
    ]


# ---- crashes ------------------------------------------------------------------------------------------


def test_the_wait_grows_and_ends() -> None:
    """At once after a long life; after short ones ever later, but never later than five seconds."""
    assert next_delay(5.0, lived_s=10.0) == 0.0
    waits = [next_delay(0.0, lived_s=0.1)]
    for _ in range(7):
        waits.append(next_delay(waits[-1], lived_s=0.1))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_crash_loop_costs_no_client(kept: Kept) -> None:
    kept.start()
    client = kept.client()
    pid = client.ask("who")
    (kept.folder / "crash").write_text("3")
    client.say("die")
    until(lambda: kept.said().count("died") == 4)
    assert client.ask("who") not in ("", pid)
    assert [float(wait) for wait in re.findall(r"next start in (\S+) s", kept.said())] == [0.1, 0.2, 0.4, 0.8]


def test_a_daemon_that_hangs_is_aborted(kept: Kept) -> None:
    """WATCHDOG=1 must come in time; SIGABRT, so that there is a core to look at."""
    kept.start("--watchdog", 0.5)
    client = kept.client()
    pid = client.ask("who")
    assert client.ask("environment WATCHDOG_USEC") == "500000"
    assert client.ask("be-quiet") == "None"
    until(lambda: "SIGABRT" in kept.said())
    assert client.ask("who") not in ("", pid)
    first, second = kept.said().splitlines()
    assert first == f"fastxs-keeper: the daemon (pid {pid}) is silent for 0.5 s; aborting it"
    assert second.startswith(f"fastxs-keeper: the daemon (pid {pid}) died (SIGABRT)")


def test_a_daemon_may_ask_for_no_watchdog(kept: Kept) -> None:
    """WATCHDOG_USEC=0: before another program takes its place, which knows of none."""
    kept.start("--watchdog", 0.5)
    client = kept.client()
    pid = client.ask("who")
    assert client.ask("tell WATCHDOG_USEC=0") == "True"
    assert client.ask("be-quiet") == "None"
    client.socket.settimeout(1.5)
    with pytest.raises(TimeoutError):
        client.hear()
    assert client.ask("who") == pid


def test_without_a_watchdog_the_daemon_may_be_silent(kept: Kept) -> None:
    kept.start()
    assert kept.client().ask("environment WATCHDOG_USEC") == "None"


# ---- other signals ------------------------------------------------------------------------------------


def test_hang_up_is_passed_on(kept: Kept) -> None:
    """Log rotation signals the pid in the pid file."""
    keeper = kept.start()
    client = kept.client()
    keeper.send_signal(signal.SIGHUP)
    until(lambda: client.ask("hang-ups") == "1")
    keeper.send_signal(signal.SIGHUP)
    until(lambda: client.ask("hang-ups") == "2")


def test_hang_up_while_there_is_no_daemon_is_nothing(kept: Kept) -> None:
    keeper = kept.start()
    client = kept.client()
    (kept.folder / "crash").write_text("2")
    client.say("die")
    until(lambda: "next start in 0.2 s" in kept.said())
    keeper.send_signal(signal.SIGHUP)
    assert client.ask("hang-ups") == "0"


# ---- in the background --------------------------------------------------------------------------------


def test_the_first_process_returns_when_the_daemon_is_ready(kept: Kept) -> None:
    done = kept.run("-b", "-p", "pid")  # relative to where it was typed
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = int(kept.pid_file.read_text())
    assert children(pid) == {int(kept.client().ask("who"))}
    # On its own: no terminal, no directory that could not be unmounted, nobody's pipes.
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
    assert Path(f"/proc/{pid}/comm").read_text() == "fastxs-keeper\n"


def test_a_stale_pid_file_and_socket_are_no_obstacle(kept: Kept) -> None:
    first = kept.start("-p", kept.pid_file)
    daemon = int(kept.client().ask("who"))
    first.kill()
    first.wait()
    os.kill(daemon, signal.SIGKILL)
    assert kept.pid_file.exists() and kept.notify.exists()
    kept.socket.unlink()  # the daemon's own business
    assert kept.run("-b", "-p", kept.pid_file).returncode == 0
    assert int(kept.pid_file.read_text()) != first.pid
    assert kept.client().ask("had") == ""


def test_a_second_keeper_refuses(kept: Kept) -> None:
    first = kept.start("-p", kept.pid_file)
    second = kept.run("-b", "-p", kept.pid_file)
    assert second.returncode == 1
    assert one_line(second.stderr) == (
        f"fastxs-keeper: already running: the pid file {kept.pid_file} is held by pid {first.pid} (fastxs-keeper)"
    )
    third = kept.run("-b", "-p", kept.folder / "other")
    assert third.returncode == 1
    assert one_line(third.stderr) == f"fastxs-keeper: already running: {kept.notify} is served by another process"
    assert kept.client().ask("had") == "", "and the first goes on"


@pytest.mark.parametrize("flags", [(), ("-b",)], ids=["foreground", "background"])
def test_a_daemon_that_never_gets_ready_is_not_started_again(kept: Kept, flags: tuple[str, ...]) -> None:
    """A wrong configuration: the daemon has said why, and its exit status is the keeper's."""
    done = kept.run(*flags, "-p", kept.pid_file, command=["sh", "-c", "echo no such thing >&2; exit 2"])
    assert (done.returncode, done.stderr) == (2, "no such thing\n")
    assert os.listdir(kept.folder) == []


@pytest.mark.parametrize("flags", [(), ("-b",)], ids=["foreground", "background"])
def test_a_daemon_that_dies_before_it_is_ready(kept: Kept, flags: tuple[str, ...]) -> None:
    done = kept.run(*flags, command=["sh", "-c", "kill -SEGV $$"])
    assert done.returncode == 1
    assert one_line(done.stderr) == "fastxs-keeper: the daemon died before it was ready (SIGSEGV)"


def test_a_daemon_that_is_not_there(kept: Kept) -> None:
    done = kept.run("-b", command=["/nowhere/fastxsd"])
    assert done.returncode == 127
    assert one_line(done.stderr) == "fastxs-keeper: cannot run /nowhere/fastxsd: No such file or directory"


def test_interrupting_the_start_stops_the_daemon_too(kept: Kept) -> None:
    with subprocess.Popen([*kept.keeper("-b", "-p", kept.pid_file), "sleep", "60"], env=kept.env) as first:
        until(lambda: kept.pid_file.exists() and kept.pid_file.read_text() and children(int(kept.pid_file.read_text())))
        keeper = int(kept.pid_file.read_text())
        (daemon,) = children(keeper)
        first.send_signal(signal.SIGINT)
        assert first.wait(TIMEOUT_S) == 130
    until(lambda: not is_alive(keeper) and not is_alive(daemon))
    assert os.listdir(kept.folder) == []


def test_started_without_standard_streams(kept: Kept) -> None:
    """As some boot scripts do: what is opened next must not become standard output."""
    command = [*kept.command("-b", "-p", kept.pid_file)]
    script = f"exec {' '.join(command)} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", script], env=kept.env, timeout=TIMEOUT_S, check=False).returncode == 0
    pid = int(kept.pid_file.read_text())
    kept.keepers.append(pid)
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}


def test_its_manager_hears_of_the_daemon(kept: Kept) -> None:
    """Under a service of Type=notify, as Xen's own xenstored.service: the keeper speaks for its daemon."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(TIMEOUT_S)
        manager.bind(str(kept.folder / "manager"))
        keeper = kept.start(NOTIFY_SOCKET=str(kept.folder / "manager"))
        assert manager.recv(4096).decode() == f"READY=1\nMAINPID={keeper.pid}"
        assert manager.recv(4096) == b"STATUS=it serves"
        client = kept.client()
        client.say("die")
        assert manager.recv(4096) == b"STATUS=it serves", "it is ready again; nobody need know"


# ---- the keeper dies ------------------------------------------------------------------------------------


def test_the_daemon_outlives_its_keeper_and_gets_another_one(kept: Kept) -> None:
    """The kernel tells it (here: its parent is gone).  It has every descriptor, so nothing is lost; it starts a
    keeper that adopts it, and stores everything again."""
    keeper = kept.start("-p", kept.pid_file)
    client = kept.client()
    daemon = client.ask("who")
    keeper.kill()
    keeper.wait()
    assert client.ask("who") == daemon, "nothing has changed for its clients"
    assert client.ask("tell STATUS=is-anybody-there") == "False"

    assert kept.run("-b", "-p", kept.pid_file, "--adopt", daemon).returncode == 0
    assert client.ask("store-again") == "True"
    assert client.ask("barrier") == "True"
    os.kill(int(daemon), signal.SIGKILL)
    until(lambda: not is_alive(int(daemon)))
    assert client.ask("who") != daemon
    assert client.ask("had") == "listen c"


def test_an_adopted_daemon_is_stopped_as_any_other(kept: Kept) -> None:
    keeper = kept.start()
    client = kept.client()
    daemon = int(client.ask("who"))
    keeper.kill()
    keeper.wait()
    assert kept.run("-b", "-p", kept.pid_file, "--adopt", daemon).returncode == 0
    adopter = int(kept.pid_file.read_text())
    os.kill(adopter, signal.SIGTERM)
    until(lambda: not is_alive(adopter))
    assert not is_alive(daemon)


def test_there_must_be_somebody_to_adopt(kept: Kept) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    done = kept.run("-b", "--adopt", gone.pid)
    assert (done.returncode, one_line(done.stderr)) == (1, "fastxs-keeper: No such process")


# ---- flags ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--nonsense"], "option --nonsense not recognized"),
        (["-o", "much"], "invalid literal for int() with base 10: 'much'"),
        (["-w", "long"], "could not convert string to float: 'long'"),
        ([], "there is no COMMAND"),
    ],
)
def test_wrong_flags(kept: Kept, flags: list[str], line: str) -> None:
    done = kept.run(*flags, command=[])
    assert done.returncode == 2
    assert one_line(done.stderr) == f"fastxs-keeper: {line}; see --help"


def test_help() -> None:
    done = subprocess.run([sys.executable, "-m", "fastxs.cli.keeper", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: fastxs-keeper ")


def test_a_path_where_nothing_can_listen(kept: Kept) -> None:
    kept.notify = Path("/nowhere/notify")
    done = kept.run()
    assert done.returncode == 1
    assert one_line(done.stderr) == "fastxs-keeper: cannot use /nowhere for the socket: No such file or directory"


def test_out_of_memory_somebody_else_goes_first(kept: Kept) -> None:
    ours = int(Path("/proc/self/oom_score_adj").read_text())
    keeper = kept.start("--oom-score-adj", ours + 7)  # to be spared needs privileges; the rule is the same
    daemon = int(kept.client().ask("who"))
    assert [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (keeper.pid, daemon)] == [ours, ours]
