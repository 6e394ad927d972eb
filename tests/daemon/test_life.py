"""From start to stop: who returns when, what lies where meanwhile, what signals do, what is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon.conftest import TIMEOUT_S, Fastxsd
from tests.support.wire import Op, Peer


def one_line(text: str) -> str:
    """What an administrator is told: a single line, and no traceback."""
    assert text.endswith("\n") and text.count("\n") == 1, text
    return text.rstrip("\n")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "auto"])
def test_in_the_foreground_it_serves_until_told_to_stop(fastxsd: Fastxsd, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    process = fastxsd.start("--loop", loop, "-F", fastxsd.pid_file)
    assert stat.S_IMODE(fastxsd.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(fastxsd.pid_file.stat().st_mode) == 0o600
    assert fastxsd.pid_file.read_text() == f"{process.pid}\n"
    status, err = fastxsd.stop(process)
    assert status == 0
    assert [json.loads(line)["event"] for line in err.splitlines()] == ["ready", "stopping"]
    assert os.listdir(fastxsd.folder) == []


def test_interrupt_stops_it_as_terminate_does(fastxsd: Fastxsd) -> None:
    status, _ = fastxsd.stop(fastxsd.start(), signal.SIGINT)
    assert status == 0
    assert os.listdir(fastxsd.folder) == []


def test_the_parent_returns_when_the_pid_file_is_written_and_the_socket_answers(fastxsd: Fastxsd) -> None:
    done = fastxsd.run("--pid-file", "pid")  # relative to where it was typed
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    keeper = int(fastxsd.pid_file.read_text())
    (daemon,) = fastxsd.children(keeper)
    assert fastxsd.answers()
    # On their own: no terminal, no directory that could not be unmounted, nobody's pipes.
    for pid in (keeper, daemon):
        assert os.getsid(pid) == keeper
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
    os.kill(keeper, signal.SIGTERM)
    fastxsd.until(lambda: not fastxsd.is_alive(keeper))
    assert not fastxsd.is_alive(daemon)
    assert os.listdir(fastxsd.folder) == ["socket"], "for who keeps the socket, if somebody does"


def test_started_without_standard_streams(fastxsd: Fastxsd) -> None:
    """As some boot scripts do: what is opened next must not become standard output."""
    command = f"exec {sys.executable} -m fastxs.cli.fastxsd --durability none -F pid <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", command], env=fastxsd.env, cwd=fastxsd.folder, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0
    pid = int(fastxsd.pid_file.read_text())
    fastxsd.daemons.append(pid)
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
    assert fastxsd.answers()


def test_interrupting_the_start_stops_the_daemon_too(fastxsd: Fastxsd) -> None:
    env = {"FAKE_ENGINE": "mute", "FAKE_PATIENCE_S": f"{TIMEOUT_S}"}
    first = fastxsd.spawn("-F", fastxsd.pid_file, front=(), **env)
    fastxsd.until(lambda: fastxsd.socket.exists() and fastxsd.pid_file.exists())
    keeper = int(fastxsd.pid_file.read_text())
    (daemon,) = fastxsd.children(keeper)
    assert fastxsd.stop(first, signal.SIGINT)[0] == 130
    fastxsd.until(lambda: not fastxsd.is_alive(keeper) and not fastxsd.is_alive(daemon))
    assert os.listdir(fastxsd.folder) == []


def test_the_parent_passes_on_why_the_child_failed(fastxsd: Fastxsd) -> None:
    done = fastxsd.run(FAKE_BORDER="there is no Xen here")
    assert done.returncode == 1
    assert one_line(done.stderr) == "fastxsd: no hypervisor: there is no Xen here"
    assert os.listdir(fastxsd.folder) == []


def test_a_child_that_dies_while_it_starts_is_an_error_too(fastxsd: Fastxsd) -> None:
    done = fastxsd.run(FAKE_ENGINE="abort")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "fastxs-keeper: the daemon died before it was ready (SIGABRT)"
    # What it left behind is no obstacle.
    assert fastxsd.socket.exists()
    fastxsd.start()


def test_a_second_instance_refuses_and_names_the_first(fastxsd: Fastxsd) -> None:
    first = fastxsd.start()
    for fork in ([], ["-N"]):
        done = fastxsd.run(*fork)
        assert done.returncode == 1
        assert one_line(done.stderr) == (
            f"fastxsd: already running: the lock {fastxsd.socket}.lock is held by pid {first.pid} (fastxsd)"
        )
    assert fastxsd.answers(), "and the first goes on"


def test_a_second_instance_with_the_same_pid_file_refuses_too(fastxsd: Fastxsd) -> None:
    first = fastxsd.start("-F", fastxsd.pid_file)
    done = fastxsd.run("-N", "-F", fastxsd.pid_file, "--socket", fastxsd.folder / "other")
    assert done.returncode == 1
    assert f"the pid file {fastxsd.pid_file} is held by pid {first.pid} (fastxsd)" in one_line(done.stderr)
    assert fastxsd.pid_file.read_text() == f"{first.pid}\n"


def test_a_start_script_may_start_what_runs_already(fastxsd: Fastxsd) -> None:
    """Debian's /etc/init.d/xen does, after its `stop` has stopped xenconsoled alone."""
    assert fastxsd.run("--unless-running", "-F", fastxsd.pid_file).returncode == 0
    keeper = fastxsd.pid_file.read_text()
    done = fastxsd.run("--unless-running", "-F", fastxsd.pid_file)
    assert (done.returncode, done.stderr) == (0, "")
    assert fastxsd.pid_file.read_text() == keeper and fastxsd.answers()


def test_a_socket_that_somebody_else_serves_is_not_stolen(fastxsd: Fastxsd) -> None:
    """C xenstored holds no lock that a second instance could see; its socket answers, that is enough."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(fastxsd.socket))
        other.listen(1)
        done = fastxsd.run("-N")
        assert done.returncode == 1
        assert f"already running: {fastxsd.socket} is served by pid {os.getpid()} (" in one_line(done.stderr)
        assert fastxsd.socket.exists()


def test_a_socket_whose_server_is_swamped_is_not_stolen(fastxsd: Fastxsd) -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(fastxsd.socket))
        other.listen(0)
        waiting.connect(str(fastxsd.socket))
        done = fastxsd.run("-N")
        assert done.returncode == 1
        assert one_line(done.stderr).endswith("is served (and its backlog is full)")


def test_after_a_kill_nothing_stands_in_the_way(fastxsd: Fastxsd) -> None:
    first = fastxsd.start("-F", fastxsd.pid_file)
    fastxsd.stop(first, signal.SIGKILL)
    assert sorted(os.listdir(fastxsd.folder)) == ["pid", "socket", "socket.lock"]
    second = fastxsd.start("-F", fastxsd.pid_file)
    assert fastxsd.pid_file.read_text() == f"{second.pid}\n"


def test_a_pid_file_that_names_a_process_of_today_is_no_obstacle_either(fastxsd: Fastxsd) -> None:
    """After a crash of the host the number may belong to anybody: the lock counts, not the number."""
    fastxsd.pid_file.write_text(f"{os.getpid()}\nand a long tail of something else\n")
    second = fastxsd.start("-F", fastxsd.pid_file)
    assert fastxsd.pid_file.read_text() == f"{second.pid}\n"


def test_xenstored_path_is_the_socket(fastxsd: Fastxsd) -> None:
    fastxsd.socket = fastxsd.folder / "elsewhere"
    fastxsd.start(XENSTORED_PATH=str(fastxsd.socket))
    assert sorted(os.listdir(fastxsd.folder)) == ["elsewhere", "elsewhere.lock"]


@contextmanager
def manager(fastxsd: Fastxsd, abstract: bool = False) -> Iterator[tuple[Callable[[], list[str]], str]]:
    """Whoever listens at NOTIFY_SOCKET: what the next datagram says, line by line, and the address."""
    name = f"{fastxsd.folder}/manager"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name if abstract else name)
        listening.settimeout(TIMEOUT_S)
        yield lambda: listening.recv(999).decode().splitlines(), "@" + name if abstract else name


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(fastxsd: Fastxsd, abstract: bool) -> None:
    with manager(fastxsd, abstract) as (told, address):
        process = fastxsd.start(NOTIFY_SOCKET=address)
        assert told() == ["FDSTORE=1", "FDNAME=listen"]
        assert told() == ["READY=1", f"MAINPID={process.pid}", f"STATUS=serving {fastxsd.socket}"]
        process.terminate()
        assert told() == ["STOPPING=1"]


def test_the_service_manager_is_told_by_the_keeper(fastxsd: Fastxsd) -> None:
    """As `launch-xenstore` starts it for systemd: what systemd knows is the process that stays."""
    with manager(fastxsd) as (told, address):
        assert fastxsd.run("-F", fastxsd.pid_file, NOTIFY_SOCKET=address).returncode == 0
        keeper = int(fastxsd.pid_file.read_text())
        assert told() == ["READY=1", f"MAINPID={keeper}"]
        assert told() == [f"STATUS=serving {fastxsd.socket}"]
        os.kill(keeper, signal.SIGTERM)
        assert told() == ["STOPPING=1"]


def test_a_manager_that_is_gone_does_not_matter(fastxsd: Fastxsd) -> None:
    fastxsd.start(NOTIFY_SOCKET="/nonexistent/notify")


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one(fastxsd: Fastxsd) -> None:
    prlimit = shutil.which("prlimit")
    if prlimit is None:
        pytest.skip("no prlimit here")
    process = fastxsd.start()
    subprocess.run([prlimit, f"--pid={os.getpid()}", "--nofile"], check=True, stdout=subprocess.DEVNULL)
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    _, _, _, soft, hard, _ = line.split()
    assert soft == hard


def test_hangup_reopens_the_log_and_the_trace_file(fastxsd: Fastxsd) -> None:
    config, log, trace = (fastxsd.folder / name for name in ("fastxs.toml", "log", "trace"))
    config.write_text('[log]\nfile = "log"\n[trace]\nfile = "trace"\n')  # relative to the file that says so
    process = fastxsd.start("--config", config)
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600
    assert trace.read_text() == "\n***\ntraced obj io\n"
    for file in (log, trace):
        file.rename(f"{file}.1")
    process.send_signal(signal.SIGHUP)
    fastxsd.until(lambda: log.exists() and trace.exists() and trace.read_text() == "\n***\ntraced obj io\n")
    _, err = fastxsd.stop(process)
    assert err == ""
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == ["stopping"]


def test_a_daemon_in_the_background_logs_to_a_file(fastxsd: Fastxsd) -> None:
    """It has no standard error there; a rotation may use the pid file, whose process passes the word on."""
    log = fastxsd.folder / "log"
    assert fastxsd.run("-F", fastxsd.pid_file, "--log-file", "log").returncode == 0  # it lives at /
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == ["ready"]
    log.rename(f"{log}.1")
    os.kill(int(fastxsd.pid_file.read_text()), signal.SIGHUP)
    fastxsd.until(log.exists)


def test_a_trace_file_that_cannot_be_reopened_is_logged_and_the_old_one_goes_on(fastxsd: Fastxsd) -> None:
    (fastxsd.folder / "sub").mkdir()
    process = fastxsd.start("-T", "sub/trace")
    (fastxsd.folder / "sub").rename(fastxsd.folder / "moved")
    process.send_signal(signal.SIGHUP)
    assert fastxsd.answers()
    _, err = fastxsd.stop(process)
    assert '"event": "cannot reopen the trace file"' in err


def test_a_refusal_of_the_engine_becomes_a_line(fastxsd: Fastxsd) -> None:
    process = fastxsd.start()
    peer = Peer(fastxsd.socket)
    assert peer.call(Op.WRITE, b"/a\0b").error == "ENOSPC"
    peer.close()
    _, err = fastxsd.stop(process)
    (line,) = [json.loads(line) for line in err.splitlines() if "quota reached" in line]
    assert (line["level"], line["domid"], line["quota"], line["error"], line["held_back"]) == (
        "warning",
        7,
        "nodes",
        "ENOSPC",
        2,
    )


def test_an_engine_that_breaks_is_not_served_from(fastxsd: Fastxsd) -> None:
    """A turn that raised has left something half done; whoever restarts us starts from what is sound."""
    process = fastxsd.start("--log-format", "console", FAKE_ENGINE="break")
    peer = Peer(fastxsd.socket)
    peer.send(Op.WRITE, b"/a\0b")
    _, err = process.communicate(timeout=TIMEOUT_S)
    peer.close()
    assert process.returncode == 1
    assert err.splitlines()[-1] == "fastxsd: internal error: MemoryError: the store is out of its mind"
    assert os.listdir(fastxsd.folder) == []


def test_help_and_version_need_neither_loop_nor_core() -> None:
    code = "import sys, fastxs.cli.fastxsd as f; f.main([sys.argv[1]]); print(sorted(sys.modules))"
    for flag in ("--help", "--version", "--check-config", "--bogus"):
        done = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True, check=True)
        assert not any(f"'{name}'" in done.stdout for name in ("uvloop", "asyncio", "structlog", "fastxs._core"))
