"""What a user installs, what a developer starts: wheel, sdist, ./run and the shell that they share.

Owns the promise that nothing is forgotten in a package and nothing is left behind by ./run.
"""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
from importlib import metadata, resources
from pathlib import Path
from typing import IO

import pytest

from fastxs.cli.xenstore.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [ROOT / name for name in ("run", "test", ".ci/run", "packaging/setup.sh")]


def test_the_package_brings_its_types_and_its_faces() -> None:
    package = resources.files("fastxs")
    assert package.joinpath("py.typed").is_file()
    assert package.joinpath("_core.pyi").is_file()
    for face in (ROOT / "fastxs").rglob("*.pxd"):  # others may cimport the core's rooms
        assert package.joinpath(str(face.relative_to(ROOT / "fastxs"))).is_file(), face


def test_the_package_brings_the_pretend_hypervisor() -> None:
    simxen = Path(str(resources.files("fastxs"))) / "hypervisor" / "simxen"
    assert (simxen / "libsimxen.so").is_file()
    assert stat.S_IXUSR & (simxen / "simguest").stat().st_mode
    assert {"libxenevtchn.so.1", "libxengnttab.so.1"} <= {soname.name for soname in (simxen / "stub").iterdir()}


def test_the_package_brings_the_load_generator() -> None:
    load = Path(str(resources.files("fastxs"))) / "bench" / "load"
    assert all(stat.S_IXUSR & (load / program).stat().st_mode for program in ("xsload", "xsecho"))


def test_the_commands_are_installed() -> None:
    commands = metadata.distribution("fastxs").entry_points.select(group="console_scripts")
    scripts = {script.name: script.value for script in commands}
    xens = [f"fastxs-xenstore-{name}" for name in [*COMMANDS, "control"]]
    assert scripts == {
        "fastxs": "fastxs.cli.main:main",
        "fastxsd": "fastxs.cli.fastxsd:main",
        "fastxs-keeper": "fastxs.cli.keeper:main",
        **dict.fromkeys(["fastxs-xenstore", *xens], "fastxs.cli.xenstore.main:main"),
    }


def test_the_licence_and_the_oldest_python_are_stated() -> None:
    stated = metadata.metadata("fastxs").json
    assert (stated["license_expression"], stated["requires_python"]) == ("MIT", ">=3.11")


def test_the_sdist_holds_every_source_and_nothing_built(tmp_path: Path) -> None:
    """tox makes its wheel from it, so what is missing here fails there."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (archive,) = tmp_path.glob("*.tar.gz")
    packed = set()
    with tarfile.open(archive) as tar:
        for member in tar:
            packed.add(member.name.partition("/")[2])
            if member.isfile() and (file := tar.extractfile(member)):
                assert file.read(4) != b"\x7fELF", member.name
    sources = {
        str(path.relative_to(ROOT))
        for folder in ("fastxs", "tests", "bench", "packaging", "docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".pyi", ".pyx", ".pxd", ".c", ".h", ".sh", ".md", ".toml", ".typed"}
    }
    assert sorted(sources - packed) == []
    assert {"run", "test", "tox.ini", "setup.py", "LICENSE", "README.md", "CHANGELOG.md"} <= packed


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_is_plain_posix_and_clean(script: Path) -> None:
    assert subprocess.run(["sh", "-n", script], timeout=10).returncode == 0
    if script.name != "setup.sh":
        assert os.access(script, os.X_OK)
    if shutil.which("shellcheck"):
        checked = subprocess.run(["shellcheck", "-x", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, checked.stdout


def in_shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("fastxs-run.*")}


def children_of(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def until(stream: IO[str], last: str) -> str:
    """Its lines up to `last`, or to its end."""
    said = ""
    while not said.endswith(last) and (line := stream.readline()):
        said += line
    return said


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_run_serves_until_it_is_stopped_and_leaves_nothing(tmp_path: Path, how: signal.Signals) -> None:
    before = in_shared_memory()
    command = [sys.executable, str(ROOT / "packaging/playground.py"), "--folder", str(tmp_path), "--guests", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        try:
            said = until(run.stdout, "Ctrl-C stops it.\n")
            assert "2 simulated guests are talking" in said, said
            assert f"XENSTORED_PATH={tmp_path}/run/socket" in said
            assert len(in_shared_memory() - before) == 1
            second = subprocess.run(command, capture_output=True, text=True, timeout=20)
            assert second.returncode == 1
            assert second.stderr == f"./run: another ./run is using {tmp_path} already\n"
            assert (tmp_path / "run" / "socket").is_socket()
            children = children_of(run.pid)
            assert len(children) == 2  # the daemon and the guests
        finally:
            run.send_signal(how)
        assert run.stdout.read().endswith("stopped\n")
        assert run.wait(20) == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert in_shared_memory() == before
    assert not (tmp_path / "run" / "socket").exists()


def test_a_stamp_keeps_the_second_start_short() -> None:
    """`stamp` changes with the checkout's place and with pyproject.toml, and with nothing else."""
    script = 'cd "$1" && . packaging/setup.sh && stamp && stamp'
    said = subprocess.run(["sh", "-c", script, "sh", ROOT], capture_output=True, text=True, timeout=10).stdout
    first, second = said.splitlines()
    assert first == second
    assert first.startswith(f"{ROOT} ")
