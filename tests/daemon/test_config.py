"""The configuration file: what it may hold, what is said of what it may not, and that its page is true."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from fastxs.daemon import config as configuration
from fastxs.daemon.config import Config, ConfigError, Layer, build, from_file, key_of, render

DOCS = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def written(folder: Path, text: str | bytes) -> str:
    file = folder / "fastxs.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"\xff\xfe", "not a text in UTF-8 (byte 0)"),
        ("nodes", "not TOML: "),
        ("[quota]\nnodes = 5\nnodes = 6\n", "not TOML: "),
        ("[" * 5000, "not TOML: "),
        ("nodes = 5\n", "[nodes]: no such section"),
        ("[nodes]\n", "[nodes]: no such section; there are: daemon, hypervisor, quota, log, trace"),
        ("[quotas]\n", "[quotas]: no such section; did you mean quota?"),
        ("quota = 5\n", "quota: must be a section, [quota], not 5"),
        ("[quota]\nwatch = 5\n", "[quota] watch: no such key; did you mean watches?"),
        ('[quota]\n"a\\nb" = 5\n', '[quota] "a\\nb": no such key'),
        ('[quota]\nnodes = "5"\n', '[quota] nodes: "5" is not a whole number, 0 to 2147483647; 0 is unlimited'),
        ("[quota]\nnodes = 5.0\n", "[quota] nodes: 5.0 is not a whole number"),
        ("[quota]\nnodes = true\n", "[quota] nodes: true is not a whole number"),
        ("[quota]\nnodes = -1\n", "[quota] nodes: -1 is not"),
        ("[quota]\nnodes = 2147483648\n", "[quota] nodes: 2147483648 is not"),
        ("[quota]\nnodes = 2026-11-22\n", '[quota] nodes: "2026-11-22" is not'),
        ("[quota]\npath-max = 2049\n", "[quota] path-max: 2049 is not a whole number, 0 to 2048"),
        ("[daemon]\nfork = 1\n", "[daemon] fork: 1 is not true or false"),
        ('[daemon]\nloop = "trio"\n', '[daemon] loop: "trio" is not "auto" or "uvloop" or "asyncio"'),
        ("[daemon]\nloop = []\n", "[daemon] loop: [] is not"),
        ("[daemon]\nbacklog = 0\n", "[daemon] backlog: 0 is not a whole number of connections, 1 to 65535"),
        (
            "[daemon]\nlinger-us = 10001\n",
            "[daemon] linger-us: 10001 is not a whole number of microseconds, 0 to 10000",
        ),
        ('[daemon]\nsocket = ""\n', '[daemon] socket: "" is not a path'),
        ("[daemon]\nsocket = 5\n", "[daemon] socket: 5 is not a path"),
        ('[daemon]\nsocket = "a\\u0000b"\n', "is not a path"),
        ("[hypervisor]\npriv-domid = 32752\n", "[hypervisor] priv-domid: 32752 is not a whole number, 0 to 32751"),
        ('[log]\nlevel = "loud"\n', '[log] level: "loud" is not "debug" or "info" or "warning" or "error"'),
        ('[trace]\nswitches = "io"\n', '[trace] switches: "io" is not a list of "obj", "io", "wrl", "acc", "tdb"'),
        ('[trace]\nswitches = ["io", "all"]\n', '[trace] switches: ["io", "all"] is not a list of'),
        (f'[log]\nlevel = "{"x" * 500}"\n', "..."),
    ],
)
def test_an_error_names_the_file_the_key_and_what_is_allowed(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        build([from_file(file)])
    said = str(caught.value)
    assert said.startswith(f"{file}: ")
    assert complaint in said
    assert "\n" not in said and len(said) < 300 + len(file)


@pytest.mark.parametrize(("value", "good"), [(0, True), (1, True), (2**31 - 1, True), (-1, False), (2**31, False)])
def test_a_quota_at_its_bounds(value: int, good: bool) -> None:
    layer = Layer("a test", {"quota": {"nodes": value}})
    if good:
        assert build([layer]).quota.nodes == value
    else:
        with pytest.raises(ConfigError):
            build([layer])


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    file = written(tmp_path, '[daemon]\nrun-dir = "run"\npid-file = "/abs"\n[trace]\nfile = "t"\n[log]\nfile = "l"\n')
    config = build([from_file(file)])
    assert config.daemon.run_dir == f"{tmp_path}/run"
    assert config.daemon.socket_path == f"{tmp_path}/run/socket"
    assert config.daemon.pid_file == "/abs"
    assert (config.trace.file, config.log.file) == (f"{tmp_path}/t", f"{tmp_path}/l")


def test_what_is_printed_reads_back_as_itself(tmp_path: Path) -> None:
    odd = 'a "quoted\\" päth\x7f\t\U0001f600'
    config = build(
        [Layer("a test", {"daemon": {"socket": f"/{odd}"}, "trace": {"switches": ["acc"]}, "quota": {"nodes": 3}})]
    )
    assert build([from_file(written(tmp_path, render(config)))]) == config
    assert build([from_file(written(tmp_path, render(Config())))]) == Config()


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().quota.nodes = 5  # type: ignore[misc]


def test_the_page_has_every_key_with_its_default() -> None:
    """docs/configuration.md holds a table per section: | `key` | `default` | ... |"""
    rows = re.findall(r"^\| `([\w-]+)` \| (?:`(.+?)`|unset) \|", DOCS.read_text(), re.MULTILINE)
    documented = [(key, tomllib.loads(f"x = {default}")["x"] if default else None) for key, default in rows]
    sections = [getattr(Config(), f.name) for f in dataclasses.fields(Config)]
    expected = [(key_of(f.name), getattr(s, f.name)) for s in sections for f in dataclasses.fields(s)]
    assert [(key, list(v) if isinstance(v, tuple) else v) for key, v in expected] == documented


def test_the_example_of_the_page_is_accepted(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    build([from_file(written(tmp_path, example))])


def test_the_quotas_are_the_engines() -> None:
    core = pytest.importorskip("fastxs._core", exc_type=ImportError)
    engine = core.Engine()
    try:
        assert {name: engine.get_quota(name) for name in core.Engine.quota_names()} == dict(
            configuration.Quota().items()
        )
    finally:
        engine.close()
