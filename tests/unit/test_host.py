"""One daemon on one pretend hypervisor: how it starts, what is seen of it, how it ends.

The same guests pass on all three daemons, which shows the pretend hypervisor as much as the host.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastxs.hypervisor import simxen
from fastxs.hypervisor.host import BINARIES, KINDS, XEN_BIN, Host, HostError, Kind, available, named, scratch
from fastxs.hypervisor.simxen import build
from fastxs.hypervisor.simxen.guests import Guests

TRAFFIC = ("--workload", "chatter", "--seconds", "0", "--rate", "300", "--report", "0.2")
Starter = Callable[..., Host]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    build.build()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    if reason := available(kind):
        pytest.skip(reason)
    return kind


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    hosts: list[Host] = []

    def start(kind: Kind, **options: object) -> Host:
        host = Host(kind, tmp_path / str(len(hosts)), **options)  # type: ignore[arg-type]
        hosts.append(host)
        return host.start()

    yield start
    for host in hosts:
        host.close()


def simguest(host: Host, *arguments: str) -> str:
    """The last line of a run that must pass."""
    run = subprocess.run(
        [simxen.SIMGUEST, *arguments],
        env={**os.environ, **host.env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr + host.stderr()
    return run.stdout.splitlines()[-1]


def test_a_daemon_starts_answers_and_ends(kind: Kind, tmp_path: Path) -> None:
    with Host(kind, tmp_path / "host") as host:
        assert host.socket.is_socket()
        assert Path(f"/proc/{host.pid}").exists()
        assert host.cpu_ns() > 0
        assert host.rss_bytes() > 100_000
        pid = host.pid
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(host.env["SIMXEN_DIR"]).exists()
    with pytest.raises(HostError, match="is not running"):
        _ = host.pid
    assert host.stop() == 0, "once more does no harm"


@pytest.mark.parametrize("how", [[], ["--kill"]], ids=["released", "found dead"])
def test_a_hundred_guests_come_and_go(kind: Kind, start: Starter, how: list[str]) -> None:
    assert ", 0 failures" in simguest(start(kind), "-n", "100", *how)


def test_guests_over_sockets(kind: Kind, start: Starter) -> None:
    host = start(kind)
    assert ", 0 failures" in simguest(host, "-n", "20", "--via", "socket")


WITHOUT_SIM = ("sh", "-c", 'for word; do shift; [ "$word" = --sim ] || set -- "$@" "$word"; done; exec "$@"', "sh")
"""A prefix that makes fastxs look for Xen's libraries by their names."""


@pytest.mark.skipif(available("fastxs") is not None, reason="fastxs cannot run here")
def test_others_can_be_put_in_the_libraries_place(start: Starter) -> None:
    host = start("fastxs", prefix=WITHOUT_SIM, env={"LD_LIBRARY_PATH": str(simxen.STUB)})
    assert b"--sim" not in Path(f"/proc/{host.pid}/cmdline").read_bytes().split(b"\0")
    assert ", 0 failures" in simguest(host, "-n", "20")
    assert ", 0 failures" in simguest(host, "-n", "20", "--kill")


def test_a_second_daemon_takes_over_the_hypervisor(kind: Kind, start: Starter) -> None:
    host = start(kind)
    first = host.pid
    with pytest.raises(HostError, match=f"runs already, as {first}"):
        host.start()
    assert host.kill() == -signal.SIGKILL
    assert host.start().pid != first
    assert ", 0 failures" in simguest(host, "-n", "3")


def test_a_socket_that_is_served_is_left_alone(kind: Kind, start: Starter) -> None:
    first = start(kind)
    second = Host(kind, first.folder)
    with pytest.raises(HostError, match="somebody listens there"):
        second.start()
    assert ", 0 failures" in simguest(first, "-n", "2")
    assert first.kill() == -signal.SIGKILL
    assert first.socket.exists(), "nobody's"
    with second:
        assert ", 0 failures" in simguest(second, "-n", "2")


def test_steady_traffic_ends_with_clean_leaves(kind: Kind, start: Starter) -> None:
    host = start(kind)
    command = [str(simxen.SIMGUEST), *TRAFFIC, "-n", "4"]
    with (
        Guests(host.env["SIMXEN_DIR"], slot=9) as watcher,
        subprocess.Popen(command, env={**os.environ, **host.env}, stdout=subprocess.PIPE, text=True) as traffic,
    ):
        assert traffic.stdout
        line = traffic.stdout.readline()
        assert "4 guests" in line
        assert "0 failures" in line
        assert watcher.state(1) != 0
        traffic.terminate()
        last = traffic.stdout.read().splitlines()[-1]
        assert traffic.wait(10) == 0
        assert last.startswith("4 guests,")
        assert last.endswith("0 failures")
        assert [watcher.state(domid) for domid in (1, 2, 3, 4)] == [0, 0, 0, 0]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
def test_a_daemon_does_not_outlive_who_started_it(kind: Kind, tmp_path: Path) -> None:
    text = f"""
import sys
from fastxs.hypervisor.host import Host
print(Host({kind!r}, {str(tmp_path)!r}).start().pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout
        stat = Path(f"/proc/{int(starter.stdout.readline())}/stat")
        starter.kill()
    for _ in range(500):
        if not stat.exists() or " Z " in stat.read_text():
            return
        time.sleep(0.01)
    pytest.fail("it lives")


@pytest.mark.skipif(available("c") is not None, reason="C xenstored cannot run here")
def test_c_s_live_update_keeps_ports_and_maps_pages_anew(start: Starter) -> None:
    host = start("c")
    env = {**os.environ, **host.env}
    command = [str(simxen.SIMGUEST), *TRAFFIC, "-n", "4"]
    with (
        Guests(host.env["SIMXEN_DIR"], slot=9) as watcher,
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as traffic,
    ):
        assert traffic.stdout
        assert "0 failures" in traffic.stdout.readline()
        subprocess.run(
            [XEN_BIN / "xenstore-control", "live-update", "-t", "5", "-F", BINARIES["c"]],
            env=env,
            timeout=20,
            check=True,
        )
        assert [watcher.mapped(domid) for domid in (1, 2, 3, 4)] == [1, 1, 1, 1]
        assert "0 failures" in traffic.stdout.readline()
        traffic.terminate()
        assert traffic.wait(10) == 0


def test_a_daemon_is_pinned(kind: Kind, start: Starter) -> None:
    before = os.sched_getaffinity(0)
    cpu = max(before)
    host = start(kind, cpu=cpu)
    assert os.sched_getaffinity(host.pid) == {cpu}
    assert os.sched_getaffinity(0) == before


def test_quotas_are_raised_unless_told(kind: Kind, start: Starter) -> None:
    def told(host: Host) -> bool:
        config = host.folder / "oxenstored.conf"
        text = config.read_text() if kind == "ox" else Path(f"/proc/{host.pid}/cmdline").read_text()
        return "quota-maxwatch = 100000" in text or "\0-W\x00100000\0" in text

    assert told(start(kind))
    assert not told(start(kind, default_quotas=True))


def test_what_the_daemon_says_is_in_the_error(kind: Kind, start: Starter) -> None:
    with pytest.raises(HostError, match="--nonsense"):
        start(kind, args=["--nonsense", "extra"])


def test_a_command_that_cannot_run(start: Starter) -> None:
    for kind in KINDS:
        if available(kind) is None:
            with pytest.raises(HostError, match="no-such-program"):
                start(kind, prefix=["no-such-program"])


def test_another_build_of_a_kind(kind: Kind, tmp_path: Path) -> None:
    """A program by its path, which is of the kind that its name says, and of C's if it is unknown."""
    words = [sys.executable, "-m", "fastxs.cli.fastxsd"] if kind == "fastxs" else [str(BINARIES[kind])]
    program = tmp_path / {"fastxs": "fastxsd", "c": "xenstored-4.99", "ox": "oxenstored"}[kind]
    program.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    with pytest.raises(ValueError, match="nor a program"):
        named(program)
    program.chmod(0o755)
    assert named(program) == (kind, program)
    assert named(kind) == (kind, None)
    with Host(kind, tmp_path / "host", program=program) as host:
        assert ", 0 failures" in simguest(host, "-n", "2")


def test_a_daemon_that_ended_by_itself_is_seen(kind: Kind, start: Starter) -> None:
    host = start(kind)
    assert host.ended is None
    os.kill(host.pid, signal.SIGKILL)
    os.waitid(os.P_PID, host.pid, os.WEXITED | os.WNOWAIT)
    assert host.ended == -signal.SIGKILL
    host.stop()
    assert host.ended is None


def test_a_terminal_s_ctrl_c_is_not_the_daemon_s(kind: Kind, start: Starter) -> None:
    """It goes to the terminal's process group; a daemon has one of its own, and is stopped by who started it."""
    assert os.getpgid(start(kind).pid) != os.getpgid(0)


def test_a_daemon_that_never_answers(tmp_path: Path) -> None:
    for kind in KINDS:
        if available(kind) is None:
            host = Host(kind, tmp_path, prefix=["sh", "-c", "exec sleep 60", "--"])
            with pytest.raises(HostError, match=r"no answer within 0\.2 s"):
                host.start(0.2)
            with pytest.raises(HostError, match="is not running"):
                _ = host.pid
            host.close()


def test_names_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="no such kind"):
        Host("xapi", "/nowhere")  # type: ignore[arg-type]
    kinds = [kind for kind in KINDS if available(kind) is None]
    for kind in kinds[:1]:
        with pytest.raises(HostError, match="too long"):
            Host(kind, "/tmp/" + 30 * "long/").start()


def test_scratch_is_a_new_folder() -> None:
    folder = scratch()
    try:
        assert list(folder.iterdir()) == []
    finally:
        folder.rmdir()
