"""Whatever stands in the way is one clear line and a status that is not 0: no traceback, nothing left behind.

Each is tried in the background and in the foreground: the line comes through the first process, or straight.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon.conftest import TIMEOUT_S, Fastxsd

pytestmark = pytest.mark.parametrize("front", [["-N"], []], ids=["front", "background"])


def refused(fastxsd: Fastxsd, *flags: object, **env: str) -> str:
    """The line that is said, without the program's name."""
    done = fastxsd.run(*flags, **env)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert done.stderr.startswith("fastxsd: ") and done.stderr.endswith("\n") and done.stderr.count("\n") == 1
    return done.stderr.removeprefix("fastxsd: ").rstrip("\n")


def test_an_unknown_flag(fastxsd: Fastxsd, front: list[str]) -> None:
    assert refused(fastxsd, *front, "--bogus") == "option --bogus not recognized; see --help"


def test_an_extra_argument(fastxsd: Fastxsd, front: list[str]) -> None:
    assert refused(fastxsd, *front, "extra") == 'no arguments are expected, and there is "extra"; see --help'


def test_an_unreadable_configuration(fastxsd: Fastxsd, front: list[str]) -> None:
    assert (
        refused(fastxsd, *front, "--config", "none") == "none: cannot read the configuration: No such file or directory"
    )
    file = fastxsd.folder / "fastxs.toml"
    file.write_text("[quota]\nnodes = many\n")
    assert refused(fastxsd, *front, "--config", file) == f"{file}: not TOML: Invalid value (at line 2, column 9)"


def test_a_missing_directory(fastxsd: Fastxsd, front: list[str]) -> None:
    assert (
        refused(fastxsd, *front, XENSTORED_RUNDIR="/nonexistent/run")
        == "cannot use /nonexistent/run for the socket: No such file or directory"
    )
    for flag, purpose in (("-F", "the pid file"), ("--socket", "the socket")):
        assert (
            refused(fastxsd, *front, flag, "/nonexistent/file")
            == f"cannot use /nonexistent for {purpose}: No such file or directory"
        )
    assert (
        refused(fastxsd, *front, "-T", "/nonexistent/trace")
        == "cannot open the trace file /nonexistent/trace: No such file or directory"
    )
    config = fastxsd.folder / "fastxs.toml"
    config.write_text('[log]\nfile = "/nonexistent/log"')
    assert (
        refused(fastxsd, *front, "--config", config)
        == "cannot open the log /nonexistent/log: No such file or directory"
    )
    assert os.listdir(fastxsd.folder) == ["fastxs.toml"]


def test_a_name_that_is_not_utf_8(fastxsd: Fastxsd, front: list[str]) -> None:
    said = refused(fastxsd, *front, "-F", os.fsdecode(b"/nonexistent\xff/pid"))
    assert said == "cannot use /nonexistent\\udcff for the pid file: No such file or directory"


def test_a_file_where_the_directory_should_be(fastxsd: Fastxsd, front: list[str]) -> None:
    assert (
        refused(fastxsd, *front, XENSTORED_RUNDIR="/dev/null") == "cannot use /dev/null for the socket: Not a directory"
    )


def test_a_path_that_is_taken_by_something_else(fastxsd: Fastxsd, front: list[str]) -> None:
    fastxsd.socket.write_text("a letter to my grandchildren")
    assert refused(fastxsd, *front) == f"{fastxsd.socket} exists and is not a socket"
    assert fastxsd.socket.read_text() == "a letter to my grandchildren"


def test_a_socket_path_that_is_too_long(fastxsd: Fastxsd, front: list[str]) -> None:
    path = fastxsd.folder / ("x" * 120)
    which = path if front else f"{path}.notify"  # the keeper's, in the background
    assert refused(fastxsd, *front, "--socket", path) == f"cannot listen on {which}: AF_UNIX path too long"


def test_a_used_socket(fastxsd: Fastxsd, front: list[str]) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(fastxsd.socket))
        other.listen(1)
        assert f"{fastxsd.socket} is served by pid {os.getpid()} (" in refused(fastxsd, *front)


@pytest.mark.parametrize("kind", ["/dev/full", "/dev/null", "folder", "pipe", "link"])
def test_a_pid_file_that_is_no_file(fastxsd: Fastxsd, front: list[str], kind: str) -> None:
    """It is removed at the end: a device must not be, and a link could lead anywhere."""
    path = Path(kind) if kind.startswith("/") else fastxsd.folder / kind
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to("/dev/full")
    said = refused(fastxsd, *front, "-F", path)
    assert said.startswith((f"the pid file {path} is not a regular file", f"cannot write the pid file {path}: "))
    assert path.exists()


def test_a_full_disk(fastxsd: Fastxsd, front: list[str]) -> None:
    """A file system of 4 KiB, all of them used, made for this process alone."""
    script = f"""
        mount -t tmpfs -o size=4k none {fastxsd.folder} || exit 77
        head -c 4096 /dev/zero > {fastxsd.folder}/filler
        {sys.executable} -m fastxs.cli.fastxsd {" ".join(front)}; status=$?
        ls {fastxsd.folder}
        exit $status
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare here")
    done = subprocess.run(
        [unshare, "--mount", "--map-root-user", "sh", "-c", script],
        env=fastxsd.env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("file systems cannot be mounted here")
    assert done.returncode == 1
    assert done.stdout == "filler\n", "nothing is left behind"
    assert done.stderr == f"fastxsd: cannot write the lock {fastxsd.folder}/socket.lock: No space left on device\n"


def test_a_file_that_may_not_grow(fastxsd: Fastxsd, front: list[str]) -> None:
    """As a full disk, wherever nothing can be mounted."""
    done = subprocess.run(
        [sys.executable, "-m", "fastxs.cli.fastxsd", *front],
        env=fastxsd.env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert done.returncode == 1
    assert done.stderr == f"fastxsd: cannot write the lock {fastxsd.socket}.lock: File too large\n"
    assert os.listdir(fastxsd.folder) == []


def test_not_root(fastxsd: Fastxsd, front: list[str]) -> None:
    """In a directory that belongs to somebody else (nobody's process, if we are root)."""
    if os.geteuid() != 0:
        command, folder, env = [sys.executable], "/", fastxsd.env
    else:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("no setpriv here")
        command = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable]
        folder, env = str(fastxsd.folder), fastxsd.env | {"PYTHONDONTWRITEBYTECODE": "1"}
        fastxsd.folder.chmod(0o755)
        if subprocess.run([*command, "-c", "import fastxs.daemon.lifecycle"], env=env, capture_output=True).returncode:
            pytest.skip("nobody may read this Python")
    done = subprocess.run(
        [*command, "-m", "fastxs.cli.fastxsd", *front],
        env=env | {"XENSTORED_RUNDIR": folder},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    lock = os.path.join(folder, "socket.lock")
    assert done.stderr == f"fastxsd: cannot write the lock {lock}: Permission denied (are you root?)\n"


def test_no_hypervisor(fastxsd: Fastxsd, front: list[str]) -> None:
    assert refused(fastxsd, *front, FAKE_BORDER="no Xen: /dev/xen/evtchn is missing") == (
        "no hypervisor: no Xen: /dev/xen/evtchn is missing"
    )
    assert os.listdir(fastxsd.folder) == []


def test_a_core_that_is_not_built(fastxsd: Fastxsd, front: list[str]) -> None:
    line = refused(fastxsd, *front, FAKE_MISSING="fastxs._core")
    assert line.startswith("fastxs is not built for this Python: ")
    assert os.listdir(fastxsd.folder) == []


def test_a_loop_that_is_not_installed(fastxsd: Fastxsd, front: list[str]) -> None:
    line = refused(fastxsd, "--loop", "uvloop", *front, FAKE_MISSING="uvloop")
    assert line.startswith("uvloop cannot be loaded (")


def test_an_engine_that_does_not_answer(fastxsd: Fastxsd, front: list[str]) -> None:
    """It ends, and whoever started it learns that it is not there."""
    if front:
        pytest.skip("nobody waits for it")
    assert refused(fastxsd, "-F", "pid", FAKE_ENGINE="mute") == f"{fastxsd.socket} does not answer"
    assert os.listdir(fastxsd.folder) == []


@pytest.mark.parametrize("buffered", ["buffered", "unbuffered"])
def test_a_screen_that_is_full(fastxsd: Fastxsd, front: list[str], buffered: str) -> None:
    """What was printed is not lost in silence, however late the screen refuses it."""
    env = {name: value for name, value in fastxsd.env.items() if name != "PYTHONUNBUFFERED"}
    if buffered == "unbuffered":
        env["PYTHONUNBUFFERED"] = "1"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastxs.cli.fastxsd", *front, "--help"],
            env=env,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "fastxsd: No space left on device\n")


def test_nowhere_to_complain(fastxsd: Fastxsd, front: list[str]) -> None:
    """The exit status says it all the same."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastxs.cli.fastxsd", *front, "--bogus"],
            env=fastxsd.env,
            stdout=full,
            stderr=full,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 2
