"""What the administrator may choose: every key, its default, what is allowed, where it came from.

A configuration is frozen.  It is built from layers, weakest first (built-in defaults, a TOML file, the environment,
flags), each of which carries the name of its origin, so that an error says who wrote the offending value.  This room
reads one file and nothing else: it opens no socket, looks at no directory and knows neither the Engine nor the flags'
letters (`fastxs.cli.fastxsd` turns flags into layers).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from fastxs.daemon.claims import RUN_DIR

__all__ = [
    "SWITCHES",
    "Config",
    "ConfigError",
    "Daemon",
    "Hypervisor",
    "Layer",
    "Log",
    "Quota",
    "Trace",
    "build",
    "from_environment",
    "from_file",
    "key_of",
    "render",
    "switched",
]

SWITCHES: Final = ("obj", "io", "wrl", "acc", "tdb")
"""Classes of trace lines that C xenstored can switch on and off one by one (SPEC 6.3)."""

DOMID_MAX: Final = 0x7FEF
"""Largest id of an ordinary domain; those from 0x7FF0 on mean something else to Xen."""

INT_MAX: Final = 2**31 - 1


class ConfigError(ValueError):
    """One value that cannot be used; its text names the origin, the key and what is allowed, on one line."""


class Layer(NamedTuple):
    """Values that one source gave: `origin` is a file's path, a flag or a variable, as the administrator wrote it."""

    origin: str
    values: Mapping[str, Any]
    """Section -> key -> value, spelled as in the TOML file."""


class Rule(NamedTuple):
    """What a key accepts: `accepts(value)` is True for a usable one, `allowed` says it in words."""

    accepts: Callable[[Any], bool]
    allowed: str


def _number(least: int, most: int, unit: str = "") -> Rule:
    # bool is an int to Python, not to an administrator who wrote `nodes = true`.
    return Rule(
        lambda value: type(value) is int and least <= value <= most,
        f"a whole number{unit and ' of '}{unit}, {least} to {most}",
    )


def _word(*words: str) -> Rule:
    return Rule(lambda value: value in words and isinstance(value, str), " or ".join(f'"{word}"' for word in words))


def _limit(default: int, text: str, most: int = INT_MAX) -> Any:
    rule = _number(0, most)
    return _key(default, Rule(rule.accepts, f"{rule.allowed}; 0 is unlimited"), text)


_SWITCH: Final = Rule(lambda value: type(value) is bool, "true or false")
_PATH: Final = Rule(lambda value: isinstance(value, str) and "\0" not in value and value != "", "a path")
_SWITCH_LIST: Final = Rule(
    lambda value: isinstance(value, list | tuple) and all(isinstance(v, str) and v in SWITCHES for v in value),
    "a list of " + ", ".join(f'"{word}"' for word in SWITCHES),
)


def _key(default: Any, rule: Rule, text: str) -> Any:
    """A field of a section: its default, what it accepts and one line of help."""
    return field(default=default, metadata={"rule": rule, "text": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """The process: where it lives and how it runs."""

    run_dir: str = _key(RUN_DIR, _PATH, "directory of the socket; made if this default is missing, else it must exist")
    socket: str | None = _key(None, _PATH, "the socket; without it `socket` in run-dir")
    pid_file: str | None = _key(None, _PATH, "written (and held locked) while the daemon runs; without it none")
    fork: bool = _key(True, _SWITCH, "go to the background; the first process returns when the socket answers")
    loop: str = _key("auto", _word("auto", "uvloop", "asyncio"), "the event loop; auto is uvloop where it is installed")
    durability: str = _key(
        "process", _word("process", "none"), "process: the store survives the daemon, however it ends; none: not"
    )
    fallback: str | None = _key(None, _PATH, "the daemon to go back to if a take-over fails; without it Xen's own")
    backlog: int = _key(4096, _number(1, 65535, "connections"), "that may wait to be accepted")
    linger_us: int = _key(2000, _number(0, 10000, "microseconds"), "that a turn stays awake while traffic goes on")

    @property
    def image_path(self) -> str:
        """The folder of the image, beside the socket."""
        return self.socket_path + ".image"

    @property
    def socket_path(self) -> str:
        """The socket's path, whichever way it was said."""
        return self.socket if self.socket is not None else os.path.join(self.run_dir, "socket")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypervisor:
    """Which hypervisor, and who is who on it."""

    sim: bool = _key(False, _SWITCH, "use the pretend hypervisor: no Xen is needed")
    priv_domid: int = _key(0, _number(0, DOMID_MAX), "the domain that may do everything")
    store_domid: int = _key(0, _number(0, DOMID_MAX), "the domain that clients of the socket belong to")
    keep_orphans: bool = _key(False, _SWITCH, "keep a dead domain's nodes, for domain 0 (a security risk)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What one unprivileged domain may use.  Defaults: SPEC 5, as C xenstored's."""

    nodes: int = _limit(1000, "nodes that a domain owns")
    watches: int = _limit(128, "watches")
    transactions: int = _limit(10, "transactions open at a time")
    transaction_nodes: int = _limit(1024, "nodes that one transaction touches")
    node_permissions: int = _limit(5, "entries of a node's permissions, its owner's included")
    node_size: int = _limit(2048, "bytes of a node: value, permissions, names of its children")
    path_max: int = _limit(2048, "bytes of a path, below /local/domain/N/", most=2048)
    outstanding: int = _limit(20, "requests whose answers and events are not yet delivered")
    memory: int = _limit(2_621_440, "bytes that a domain uses; above it is not served")
    soft_memory: int = _limit(2_097_152, "bytes that a domain uses; above it a line is logged")

    def items(self) -> Iterable[tuple[str, int]]:
        """(name as the wire spells it, value) of each."""
        return [(key_of(f.name), getattr(self, f.name)) for f in dataclasses.fields(self)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What the daemon says of itself."""

    level: str = _key("info", _word("debug", "info", "warning", "error"), "the least that is logged")
    format: str = _key("auto", _word("auto", "console", "json"), "auto is console on a terminal, json elsewhere")
    file: str | None = _key(None, _PATH, "appended to, reopened at SIGHUP; without it standard error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """C xenstored's trace file: what is asked and answered, line by line."""

    file: str | None = _key(None, _PATH, "appended to, reopened at SIGHUP; without it nothing is traced")
    switches: tuple[str, ...] = _key(("obj", "io"), _SWITCH_LIST, "classes of lines")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything, section by section, as the TOML file has it."""

    daemon: Daemon = Daemon()
    hypervisor: Hypervisor = Hypervisor()
    quota: Quota = Quota()
    log: Log = Log()
    trace: Trace = Trace()


def key_of(field_name: str) -> str:
    """A Python field's name as the file and the wire spell it: `soft_memory` is `soft-memory`."""
    return field_name.replace("_", "-")


def _close_to(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)` if something is near, and what there is."""
    names = list(known)
    near = difflib.get_close_matches(word, names, 1)
    return f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(names)}"


def build(layers: Iterable[Layer]) -> Config:
    """The configuration that these layers give, the last word being the strongest.

    This is the one place where values are judged.  Raises ConfigError, e.g.
    `/etc/fastxs.toml: [quota] nodes: "many" is not a whole number, 0 to 2147483647; 0 is unlimited`.
    """
    config = Config()
    sections = {key_of(f.name): f.name for f in dataclasses.fields(Config)}
    for origin, values in layers:
        for section, entries in values.items():
            if section not in sections:
                raise ConfigError(f"{origin}: [{_bare(section)}]: no such section{_close_to(section, sections)}")
            if not isinstance(entries, Mapping):
                raise ConfigError(f"{origin}: {section}: must be a section, [{section}], not {_shown(entries)}")
            old = getattr(config, sections[section])
            rules = {key_of(f.name): f for f in dataclasses.fields(old)}
            changes = {}
            for key, value in entries.items():
                if key not in rules:
                    raise ConfigError(f"{origin}: [{section}] {_bare(key)}: no such key{_close_to(key, rules)}")
                rule: Rule = rules[key].metadata["rule"]
                if not rule.accepts(value):
                    raise ConfigError(f"{origin}: [{section}] {key}: {_shown(value)} is not {rule.allowed}")
                changes[rules[key].name] = tuple(value) if isinstance(value, list) else value
            config = dataclasses.replace(config, **{sections[section]: dataclasses.replace(old, **changes)})
    return config


def from_file(path: str) -> Layer:
    """The layer that a TOML file holds.  Paths in it are relative to its directory.

    ConfigError: it cannot be read, is not UTF-8, is not TOML (with line and column).
    """
    try:
        values = tomllib.loads(Path(path).read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text in UTF-8 (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not TOML: nested too deeply") from None
    folder = os.path.dirname(os.path.abspath(path))
    for entries in values.values():
        if isinstance(entries, dict):
            entries |= {
                key: os.path.join(folder, entries[key])
                for key in ("run-dir", "socket", "pid-file", "file")
                if isinstance(entries.get(key), str) and entries[key]
            }
    return Layer(path, values)


def from_environment(environ: Mapping[str, str]) -> list[Layer]:
    """The layers that xenstored's own variables give; an empty one counts as absent, as it does for libxenstore."""
    names = {"XENSTORED_RUNDIR": "run-dir", "XENSTORED_PATH": "socket"}
    return [
        Layer(name, {"daemon": {key: os.path.abspath(environ[name])}})
        for name, key in names.items()
        if environ.get(name)
    ]


def switched(switches: Iterable[str], change: str) -> tuple[str, ...]:
    """The trace classes after `+name` or `-name`; ValueError if it is neither, or nobody knows the name."""
    sign, name = change[:1], change[1:]
    if sign not in ("+", "-") or name not in SWITCHES:
        raise ValueError(f'"{change}" is not + or - and one of {", ".join(SWITCHES)}')
    now = {*switches, name} if sign == "+" else {*switches} - {name}
    return tuple(switch for switch in SWITCHES if switch in now)


def render(config: Config) -> str:
    """The whole configuration as TOML that `from_file` reads back; what is unset stands as a comment."""
    lines: list[str] = []
    for section in dataclasses.fields(config):
        values = getattr(config, section.name)
        lines.append(f"[{key_of(section.name)}]")
        for f in dataclasses.fields(values):
            value = getattr(values, f.name)
            lines.append(f"# {key_of(f.name)} is not set" if value is None else f"{key_of(f.name)} = {_toml(value)}")
        lines.append("")
    return "\n".join(lines)


def _toml(value: object) -> str:
    # JSON's scalars, strings and flat lists are TOML's, all but DEL.  A name that is no UTF-8 cannot be said in TOML.
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return text.encode(errors="replace").decode()


def _bare(key: str) -> str:
    """A key as TOML lets it be written."""
    return key if re.fullmatch(r"[\w-]{1,40}", key, re.ASCII) else _shown(key)


def _shown(value: object) -> str:
    """A value as its writer would know it again: one line, not too long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
