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


PAGE = """
```console
$ x=5
$ cat <<END
> a $x
> END
a 5
```
```python
import os
print(os.environ["TERM"], 7)
```
```text
... 7
```
```console second
$ sh -c 'trap "exit 130" INT; echo begins; while sleep 0.1; do :; done'
begins
```
"""


def test_a_page_is_played_as_it_is_written(folder: Path) -> None:
    page = folder / "page.md"
    page.write_text(PAGE)
    first, _, _, last = blocks(page)
    assert (first.line, last.line) == (3, 17)
    assert [step.command for step in steps(first)] == ["x=5", "cat <<END\na $x\nEND"]
    play(str(page), folder, {})


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("a 5", "a 6", "page.md, line 3: [$] cat"),
        ("x=5", "x=5; false", "page.md, line 3: [$] x=5; false: status 1"),
        ("... 7", "... 8", "page.md, line 14: .* 7"),
        ("begins\n```", "starts\n```", "page.md, line 17"),
        ("exit 130", "exit 3", "page.md, line 17"),
    ],
)
def test_what_is_not_so_is_found(folder: Path, right: str, wrong: str, said: str) -> None:
    page = folder / "page.md"
    page.write_text(PAGE.replace(right, wrong))
    with pytest.raises(AssertionError, match=said):
        play(str(page), folder, {})


def test_dots_stand_for_anything() -> None:
    assert matches("a\nb\nc\n", "a\n...\nc\n")
    assert matches("(1)", "(...)")
    assert not matches("a\nb\n", "a\n")
