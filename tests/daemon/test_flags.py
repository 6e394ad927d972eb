"""xenstored's flags, in every shape that getopt_long takes, and what `--check-config` makes of them."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fastxs import __version__
from fastxs.cli.fastxsd import FLAGS, main
from fastxs.daemon.config import Quota

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XENSTORED_RUNDIR", "XENSTORED_PATH"):
        monkeypatch.delenv(name, raising=False)


def used(capsys: Capture, *flags: str) -> dict[str, Any]:
    """The configuration that these flags give, as --check-config prints it."""
    assert main([*flags, "--check-config"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return tomllib.loads(out)


def refused(capsys: Capture, *flags: str) -> str:
    """The one line that these flags are answered."""
    assert main([*flags, "--check-config"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fastxsd: ") and err.count("\n") == 1
    return err.removeprefix("fastxsd: ").rstrip("\n")


@pytest.mark.parametrize(
    "shape",
    [["-E", "5"], ["-E5"], ["--entry-nb=5"], ["--entry-nb", "5"], ["--entry-n=5"], ["-E9", "-KNE5"], ["-E", "+5"]],
)
def test_a_value_is_attached_apart_abbreviated_or_at_the_end_of_a_cluster(capsys: Capture, shape: list[str]) -> None:
    assert used(capsys, *shape)["quota"]["nodes"] == 5


@pytest.mark.parametrize(
    ("flags", "section", "key", "value"),
    [
        (["-F", "/run/x.pid"], "daemon", "pid-file", "/run/x.pid"),
        (["--pid-file=/run/x.pid"], "daemon", "pid-file", "/run/x.pid"),
        (["-F", "-x"], "daemon", "pid-file", os.path.abspath("-x")),  # a value may begin with a dash
        (["-N"], "daemon", "fork", False),
        (["--no-fork"], "daemon", "fork", False),
        (["--no-f"], "daemon", "fork", False),
        (["-T", "trace"], "trace", "file", os.path.abspath("trace")),
        (["--trace-file", "/t"], "trace", "file", "/t"),
        (["--trace-control=+wrl"], "trace", "switches", ["obj", "io", "wrl"]),
        (["--trace-control", "-io", "--trace-control", "+acc"], "trace", "switches", ["obj", "acc"]),
        (["-S", "99"], "quota", "node-size", 99),
        (["--entry-size=99"], "quota", "node-size", 99),
        (["-W99"], "quota", "watches", 99),
        (["--watch-nb=99"], "quota", "watches", 99),
        (["-t99"], "quota", "transactions", 99),
        (["--transaction=99"], "quota", "transactions", 99),
        (["-A99"], "quota", "node-permissions", 99),
        (["--perm-nb=99"], "quota", "node-permissions", 99),
        (["-M99"], "quota", "path-max", 99),
        (["--path-max=99"], "quota", "path-max", 99),
        (["-M", "99999"], "quota", "path-max", 2048),  # xenstored takes it and goes no higher
        (["-Q", "memory=0"], "quota", "memory", 0),  # unlimited
        (["-Qoutstanding=7"], "quota", "outstanding", 7),
        (["--quota=transaction-nodes=7"], "quota", "transaction-nodes", 7),
        (["-q", "memory=7"], "quota", "soft-memory", 7),
        (["--quota-soft", "memory=7"], "quota", "soft-memory", 7),
        (["-K"], "hypervisor", "keep-orphans", True),
        (["--keep-orphans"], "hypervisor", "keep-orphans", True),
        (["-m", "3"], "hypervisor", "store-domid", 3),
        (["--master-domid=3"], "hypervisor", "store-domid", 3),
        (["-p", "3"], "hypervisor", "priv-domid", 3),
        (["--priv-domid=3"], "hypervisor", "priv-domid", 3),
        (["--socket", "/s"], "daemon", "socket", "/s"),
        (["--sim"], "hypervisor", "sim", True),
        (["--loop=asyncio"], "daemon", "loop", "asyncio"),
        (["--log-file", "log"], "log", "file", os.path.abspath("log")),
        (["--log-level=debug"], "log", "level", "debug"),
        (["--log-format=json"], "log", "format", "json"),
    ],
)
def test_what_a_flag_sets(capsys: Capture, flags: list[str], section: str, key: str, value: object) -> None:
    default = used(capsys)
    changed = used(capsys, *flags)
    assert changed[section].pop(key) == value
    default[section].pop(key, None)
    assert changed == default, "and nothing else"


@pytest.mark.parametrize("name", [name for name, _ in Quota().items() if name != "soft-memory"])
def test_every_quota_can_be_set_by_its_name(capsys: Capture, name: str) -> None:
    assert used(capsys, "-Q", f"{name}=17")["quota"][name] == 17


@pytest.mark.parametrize(
    "flags",
    [
        ["-D", "-P", "-V", "-R", "-L", "-I"],
        ["-DPVRLI"],
        ["-Ioff"],
        ["-Ion"],
        ["--no-domain-init", "--output-pid", "--verbose", "--no-recovery", "--preserve-local", "--internal-db"],
        ["--internal-db=off"],
        ["--internal-db=on"],
        ["-w", "watch-event=20"],
        ["--timeout=watch-event=0"],
        ["-e", "5"],
        ["--event=5"],
    ],
)
def test_flags_of_old_scripts_are_accepted_and_change_nothing(capsys: Capture, flags: list[str]) -> None:
    assert used(capsys, *flags) == used(capsys)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--bogus"], "option --bogus not recognized; see --help"),
        (["-Z"], "option -Z not recognized; see --help"),
        (["-NZ"], "option -Z not recognized; see --help"),
        (["--entry=5"], "option --entry not a unique prefix; see --help"),
        (["-N", "-E"], None),  # takes the next word, whatever it is
        (["--no-fork=yes"], "option --no-fork must not have an argument; see --help"),
        (["extra"], 'no arguments are expected, and there is "extra"; see --help'),
        (["-I", "off"], 'no arguments are expected, and there is "off"; see --help'),  # its value must be attached
        (["-N", "extra", "-K"], 'no arguments are expected, and there is "extra"; see --help'),
        (["-E", "many"], '-E/--entry-nb: "many" is not a number'),
        (["-E", ""], '-E/--entry-nb: "" is not a number'),
        (["-E", "5x"], '-E/--entry-nb: "5x" is not a number'),
        (["-E", "-5"], "-E/--entry-nb: [quota] nodes: -5 is not a whole number, 0 to 2147483647; 0 is unlimited"),
        (["-W", "2147483648"], None),
        (["-Q", "memory"], None),
        (["-Q", "memory="], '-Q/--quota: "" is not a number'),
        (["-Q", "watch=5"], None),
        (["-q", "nodes=5"], '-q/--quota-soft: "nodes=5" is not NAME=NUMBER with NAME one of memory'),
        (["-w", "read=5"], '-w/--timeout: "read=5" is not NAME=NUMBER with NAME one of watch-event'),
        (["-w", "watch-event=-1"], "-w/--timeout: a time cannot be negative"),
        (["--trace-control=io"], '--trace-control: "io" is not + or - and one of obj, io, wrl, acc, tdb'),
        (["--trace-control=+all"], '--trace-control: "+all" is not + or - and one of obj, io, wrl, acc, tdb'),
        (["-F", ""], '-F/--pid-file: [daemon] pid-file: "" is not a path'),
        (["--socket="], '--socket: [daemon] socket: "" is not a path'),
        (["-m", "99999"], "-m/--master-domid: [hypervisor] store-domid: 99999 is not a whole number, 0 to 32751"),
        (["-e", "x"], '-e/--event: "x" is not a number'),
        (["--loop=trio"], '--loop: [daemon] loop: "trio" is not "auto" or "uvloop" or "asyncio"'),
        (["--log-level=loud"], None),
        (["--log-format=xml"], None),
        (["--config=/nonexistent"], "/nonexistent: cannot read the configuration: No such file or directory"),
        (["--config=/"], "/: cannot read the configuration: Is a directory"),
    ],
)
def test_a_wrong_flag_is_one_line(capsys: Capture, flags: list[str], line: str | None) -> None:
    said = refused(capsys, *flags)
    assert said == line or line is None


def test_a_flag_without_its_value() -> None:
    assert main(["-E"]) == 2


def test_flags_beat_the_environment_which_beats_the_file(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fastxs.toml"
    file.write_text('[daemon]\nrun-dir = "/file"\nsocket = "/file/s"\n[quota]\nnodes = 1\nwatches = 1\n')
    assert used(capsys, "--config", str(file), "-E2")["quota"] | {} == used(capsys, "-W1", "-E2")["quota"]
    assert used(capsys, "--config", str(file))["daemon"]["socket"] == "/file/s"
    monkeypatch.setenv("XENSTORED_RUNDIR", "/environment")
    monkeypatch.setenv("XENSTORED_PATH", "/environment/s")
    assert used(capsys, "--config", str(file))["daemon"]["run-dir"] == "/environment"
    assert used(capsys, "--config", str(file))["daemon"]["socket"] == "/environment/s"
    assert used(capsys, "--config", str(file), "--socket", "/flag")["daemon"]["socket"] == "/flag"
    monkeypatch.setenv("XENSTORED_PATH", "")  # as unset, to libxenstore too
    assert used(capsys)["daemon"].get("socket") is None


def test_help_lists_every_flag_that_means_something(capsys: Capture) -> None:
    assert main(["-H"]) == main(["--help"]) == 0
    out = capsys.readouterr().out
    for flag in FLAGS:
        assert (re.search(rf"--{flag.name}(?![a-z-])", out) is not None) == bool(flag.text)


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastxsd {__version__}\n"
