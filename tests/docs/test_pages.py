"""Every command and every example in the documentation for users is tried, and prints what is shown."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastxs.cli.main import COMMANDS
from fastxs.hypervisor.host import Host, scratch
from tests.docs.session import Session, blocks, matches, steps
from tests.support.leaks import end_all

ROOT = Path(__file__).resolve().parents[2]

NOT_TYPED = {
    "git clone URL fastxs && cd fastxs": "there is no network",
    "./run": "tests/unit/test_packaging.py starts what it starts",
    "./test": "that is us",
    "./test tests/unit -k paths": "that is us",
    ".venv/bin/tox": "installs",
    ".venv/bin/tox -e bench": "takes minutes",
}
"""What stands in README.md in a fence of `sh`, which nobody types here, and why."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the reader is; short, because a socket's name is short.  What was left running there is ended."""
    folder = scratch()
    yield folder
    end_all("SIMXEN_DIR", str(folder / "hv"))
    shutil.rmtree(folder)


def play(page: str, folder: Path, env: dict[str, str]) -> None:
    session = Session(folder, env)
    try:
        session.play(ROOT / page)
    finally:
        session.close()


def test_the_tour(folder: Path) -> None:
    """The reader starts the daemon."""
    play("docs/tour.md", folder, {"SIMXEN_DIR": str(folder / "hv")})


def test_the_readme(folder: Path) -> None:
    """`./run` is running: its daemon is in run.d."""
    with Host("fastxs", folder / "run.d", env={"SIMXEN_DIR": str(folder / "hv")}) as host:
        play("README.md", folder, {"SIMXEN_DIR": host.env["SIMXEN_DIR"]})


@pytest.mark.parametrize("page", ["docs/commands.md", "docs/client.md"])
def test_a_daemon_is_running(page: str, folder: Path) -> None:
    with Host("fastxs", folder / "d") as host:
        play(page, folder, host.env)


def test_what_is_not_typed_is_known() -> None:
    lines = [
        line.partition("#")[0].strip()
        for block in blocks(ROOT / "README.md")
        if block.kind == "sh"
        for line in block.text.splitlines()
    ]
    assert set(lines) == NOT_TYPED.keys()


def test_every_command_is_told_of() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    names = [name for group in COMMANDS.values() for name in group]
    assert [name for name in names if f"| `fastxs {name}" not in page] == []


# ---- the reader --------------------------------------------------------------------------------------------


def test_a_page_is_read_as_it_is_written(folder: Path) -> None:
    page = folder / "page.md"
    page.write_text(
        "```console\n$ x=5\n$ cat <<END\n> a $x\n> END\na 5\n$ false; echo $?\n1\n```\n"
        "```python\nimport os\nprint(os.environ['TERM'], 7)\n```\n```text\n... 7\n```\n"
        "```console second\n$ echo one; sleep 1000\none\n```\n"
    )
    (first, _, _, second) = blocks(page)
    assert [first.line, second.line] == [2, 18]
    assert [step.command for step in steps(first)] == ["x=5", "cat <<END\na $x\nEND", "false; echo $?"]
    session = Session(folder, {"TERM": "dumb"})
    try:
        session._type("here", steps(first)[0])
        session._type("here", steps(first)[1])
        with pytest.raises(AssertionError, match="here: [$] echo b"):
            session._type("here", steps(first)[0]._replace(command="echo b", output="c\n"))
        with pytest.raises(AssertionError, match="status 3"):
            session._type("here", steps(first)[0]._replace(command="(exit 3)", output=""))
    finally:
        session.close()


def test_dots_stand_for_anything() -> None:
    assert matches("a\nb\nc\n", "a\n...\nc\n")
    assert matches("(1)", "(...)")
    assert not matches("a\nb\n", "a\n")
