"""The systemd units: what must be in them, or the promise is void."""

from __future__ import annotations

import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from fastxs.daemon.keeper import NAMES_MAX
from fastxs.daemon.notify import CONNECTION

UNITS = Path(__file__).resolve().parents[2] / "packaging" / "systemd"


def read(name: str) -> ConfigParser:
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    unit.read_string((UNITS / name).read_text())
    return unit


def test_the_daemon_is_always_started_again_with_all_its_clients() -> None:
    daemon = read("fastxs.service")
    assert daemon["Service"]["Restart"] == "always"
    assert daemon["Unit"]["StartLimitIntervalSec"] == "0"
    kept = int(daemon["Service"]["FileDescriptorStoreMax"])
    assert 60_000 < kept < NAMES_MAX // len(f"{CONNECTION}:")
    assert kept < int(daemon["Service"]["LimitNOFILE"])


def test_who_requires_xenstored_is_not_restarted_with_the_daemon() -> None:
    """systemd restarts whatever requires a service that it starts again: xendomains would shut the guests down.

    So the name that others require belongs to a unit that stays, and that only wants the daemon.
    """
    name, daemon = read("xenstored.service"), read("fastxs.service")
    assert (name["Service"]["Type"], name["Service"]["RemainAfterExit"]) == ("oneshot", "yes")
    assert name["Unit"]["Wants"] == name["Unit"]["After"] == "fastxs.service"
    assert not {"Requires", "BindsTo", "PartOf", "Requisite"} & name["Unit"].keys()
    assert "Alias" not in daemon["Install"]


@pytest.mark.parametrize("name", ["fastxs.service", "xenstored.service"])
def test_systemd_understands_every_line(name: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there")
    for unit in UNITS.iterdir():
        # It looks for the programs, too, and ours is elsewhere while it is tested.
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/bin/fastxsd", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / name], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
