"""`fastxs` at a terminal."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastxs import __version__
from fastxs.cli.main import main
from tests.daemon.conftest import Fastxsd


@pytest.fixture
def run() -> CliRunner:
    return CliRunner(env={"XENSTORED_RUNDIR": None, "XENSTORED_PATH": None})


def test_version(run: CliRunner) -> None:
    assert run.invoke(main, ["--version"]).output == f"fastxs {__version__}\n"


def test_the_configuration_is_printed_or_refused(run: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "fastxs.toml"
    file.write_text("[quota]\nnodes = 5\n")
    assert tomllib.loads(run.invoke(main, ["config", str(file)]).output)["quota"]["nodes"] == 5
    assert tomllib.loads(run.invoke(main, ["config"]).output)["quota"]["nodes"] == 1000
    file.write_text("[quota]\nnodes = -5\n")
    result = run.invoke(main, ["config", str(file)])
    assert result.exit_code == 1
    assert result.output == f"Error: {file}: [quota] nodes: -5 is not a whole number, 0 to 2147483647; 0 is unlimited\n"


def test_a_daemon_is_there_or_not(run: CliRunner, fastxsd: Fastxsd) -> None:
    result = run.invoke(main, ["ping", "--socket", str(fastxsd.socket)])
    assert (result.exit_code, result.output) == (3, f"Error: nobody answers at {fastxsd.socket}\n")
    fastxsd.start()
    result = run.invoke(main, ["ping"], env={"XENSTORED_RUNDIR": str(fastxsd.folder)})
    assert (result.exit_code, result.output) == (0, f"{fastxsd.socket} answers\n")
