"""Man pages and completions say what the programs say of themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
WRITTEN = re.findall(r"with click (\S+)", (PACKAGING / "man" / "fastxs.1").read_text())[0]
PAGES = sorted((PACKAGING / "man").iterdir())


def test_they_are_what_the_commands_make_of_them(tmp_path: Path) -> None:
    here = metadata.version("click").rpartition(".")[0]
    if here != WRITTEN:
        pytest.skip(f"they were written by click {WRITTEN}, this is click {here}")
    subprocess.run([sys.executable, PACKAGING / "manual.py", tmp_path], check=True)
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert [path.name for path in PAGES] == ["fastxs-keeper.8", "fastxs-xenstore.1", "fastxs.1", "fastxsd.8"]
    for path, text in made.items():
        assert (PACKAGING / path).read_text() == text, "python packaging/manual.py writes it anew"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_man_has_nothing_to_complain_of(page: Path) -> None:
    if not shutil.which("man") or not shutil.which("groff"):
        pytest.skip("there is no man, or no groff")
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", page],
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANPAGER": "cat"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.startswith(f"{page.stem.upper()}({page.suffix[1:]})")


def test_bash_reads_its_part() -> None:
    script = f". {PACKAGING}/completions/fastxs && complete -p fastxs"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "complete -o nosort -F _fastxs_completion fastxs\n"
