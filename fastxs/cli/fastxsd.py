"""`fastxsd`: the daemon under xenstored's own flags, so that every script that starts xenstored can start it.

Owns the flags' letters, names and meaning, and what a wrong one is answered.  The standard library's getopt reads
them, not argparse: xenstored's own reader is getopt_long, and only getopt takes a value that begins with a dash
(`--trace-control -io`), abbreviates as it does, and lets nothing else pass.  Values are judged by
`fastxs.daemon.config`; nothing heavy is imported before they are.
"""

from __future__ import annotations

import dataclasses
import getopt
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TextIO

from fastxs import __version__
from fastxs.daemon import config as configuration
from fastxs.daemon.config import Config, ConfigError, Layer
from fastxs.daemon.handover import ENVIRONMENT
from fastxs.daemon.process import open_standard_streams

__all__ = ["FLAGS", "Flag", "main"]

OK, FAILED, USAGE = 0, 1, 2
"""Exit statuses: fine or asked to stop; could not start; a wrong flag or configuration."""

RUNNING_TIMEOUT_S: Final = 10.0
"""How long `--unless-running` waits for an answer: a daemon that runs may just be starting again."""

PATH_MAX_CAP: Final = 2048
"""xenstored takes any `-M` and goes no higher than this."""

Values = Mapping[str, Any]


class Flag(NamedTuple):
    """One row: its letter (or none), long name, what its value is called (or none takes one), help, meaning.

    `means(value)` gives the sections it sets, as a layer's values; ValueError says what is wrong with the value.
    """

    letter: str
    name: str
    value: str
    text: str
    means: Callable[[str], Values]

    def __str__(self) -> str:
        return f"-{self.letter}/--{self.name}" if self.letter else f"--{self.name}"


def _whole(text: str) -> int:
    """A number as C programs take it, but not what they make of `12abc`."""
    if not re.fullmatch(r"\s*[+-]?[0-9]{1,18}", text):
        raise ValueError(f'"{text}" is not a number')
    return int(text)


def _quota(name: str) -> Callable[[str], Values]:
    return lambda value: {"quota": {name: _whole(value)}}


def _path(section: str, key: str) -> Callable[[str], Values]:
    return lambda value: {section: {key: os.path.abspath(value) if value else value}}


def _named(names: Sequence[str]) -> Callable[[str], tuple[str, int]]:
    """`NAME=NUMBER` with one of these names."""

    def split(text: str) -> tuple[str, int]:
        name, equals, number = text.partition("=")
        if not equals or name not in names:
            raise ValueError(f'"{text}" is not NAME=NUMBER with NAME one of {", ".join(names)}')
        return name, _whole(number)

    return split


_QUOTAS: Final = tuple(name for name, _ in configuration.Quota().items() if name != "soft-memory")
_hard, _soft, _time = _named(_QUOTAS), _named(["memory"]), _named(["watch-event"])


def _set_quota(text: str) -> Values:
    return {"quota": dict([_hard(text)])}


def _set_soft_quota(text: str) -> Values:
    return {"quota": {f"soft-{name}": number for name, number in [_soft(text)]}}


def _set_timeout(text: str) -> Values:
    # Events are never dropped for their age here (they are merged when a peer does not read), so nothing is set.
    if _time(text)[1] < 0:
        raise ValueError("a time cannot be negative")
    return {}


def _set_path_max(text: str) -> Values:
    return {"quota": {"path-max": min(_whole(text), PATH_MAX_CAP)}}


def _number_of_a_store_domain(text: str) -> Values:
    _whole(text)
    return {}


def _nothing(_: str) -> Values:
    return {}


FLAGS: Final = (
    Flag("F", "pid-file", "FILE", "write the daemon's pid there", _path("daemon", "pid-file")),
    Flag("N", "no-fork", "", "stay in the foreground", lambda _: {"daemon": {"fork": False}}),
    Flag("T", "trace-file", "FILE", "trace requests and replies there", _path("trace", "file")),
    Flag("", "trace-control", "+|-SWITCH", "trace more or less: obj io wrl acc tdb", _nothing),
    Flag("E", "entry-nb", "N", "nodes per domain", _quota("nodes")),
    Flag("S", "entry-size", "BYTES", "size of a node", _quota("node-size")),
    Flag("W", "watch-nb", "N", "watches per domain", _quota("watches")),
    Flag("t", "transaction", "N", "transactions open per domain", _quota("transactions")),
    Flag("A", "perm-nb", "N", "permission entries per node", _quota("node-permissions")),
    Flag("M", "path-max", "BYTES", "length of a path", _set_path_max),
    Flag("Q", "quota", "NAME=N", f"set a quota: {' '.join(_QUOTAS)}", _set_quota),
    Flag("q", "quota-soft", "NAME=N", "set a soft quota, above which a line is logged: memory", _set_soft_quota),
    Flag("w", "timeout", "NAME=S", "watch-event: accepted; events do not expire", _set_timeout),
    Flag("K", "keep-orphans", "", "keep a dead domain's nodes (security risk)",
         lambda _: {"hypervisor": {"keep-orphans": True}}),
    Flag("m", "master-domid", "DOMID", "the domain that the store lives in",
         lambda value: {"hypervisor": {"store-domid": _whole(value)}}),
    Flag("p", "priv-domid", "DOMID", "the domain that may do everything",
         lambda value: {"hypervisor": {"priv-domid": _whole(value)}}),
    Flag("e", "event", "PORT", "accepted; for a store in a domain of its own", _number_of_a_store_domain),
    Flag("U", "live-update", "", "take over from the daemon that this process was", _nothing),
    Flag("H", "help", "", "print this", _nothing),
    Flag("", "version", "", "print the version", _nothing),
    Flag("", "unless-running", "", "for start scripts: nothing to do, and fine, where a daemon answers", _nothing),
    Flag("", "config", "FILE", "read this TOML file first; flags and environment are stronger", _nothing),
    Flag("", "check-config", "", "print the configuration that would be used, as TOML", _nothing),
    Flag("", "socket", "FILE", "listen there", _path("daemon", "socket")),
    Flag("", "fallback", "FILE", "with -U: the daemon to go back to if this one cannot take over",
         _path("daemon", "fallback")),
    Flag("", "sim", "", "use the pretend hypervisor: no Xen is needed", lambda _: {"hypervisor": {"sim": True}}),
    Flag("", "durability", "NAME", "process (the store survives the daemon) or none",
         lambda value: {"daemon": {"durability": value}}),
    Flag("", "loop", "NAME", "auto, uvloop or asyncio", lambda value: {"daemon": {"loop": value}}),
    Flag("", "log-file", "FILE", "append the log to it instead of standard error", _path("log", "file")),
    Flag("", "log-level", "LEVEL", "debug, info, warning or error", lambda value: {"log": {"level": value}}),
    Flag("", "log-format", "FORMAT", "auto, console or json", lambda value: {"log": {"format": value}}),
    Flag("", "kept", "", "", _nothing),
    Flag("", "preflight", "FORMAT", "", _nothing),
    # What xenstored once knew and old scripts still say.
    Flag("D", "no-domain-init", "", "", _nothing),
    Flag("P", "output-pid", "", "", _nothing),
    Flag("V", "verbose", "", "", _nothing),
    Flag("R", "no-recovery", "", "", _nothing),
    Flag("I", "internal-db", "", "", _nothing),
    Flag("L", "preserve-local", "", "", _nothing),
    # What oxenstored says to the program that it becomes.
    Flag("", "live", "", "", _nothing),
    Flag("", "restart", "", "", _nothing),
    Flag("", "no-access-log", "", "", _nothing),
    Flag("", "config-file", "FILE", "", _nothing),
    Flag("", "reraise-top-level", "", "", _nothing),
    Flag("", "disable-socket", "", "", _nothing),
    Flag("", "config-test", "", "", _nothing),
)  # fmt: skip
"""xenstored's flags (SPEC 6.1), then ours, then `--kept`, which we say ourselves to the daemon under a keeper, and the
removed ones; these have no help."""


def _read(argv: Sequence[str]) -> list[tuple[Flag, str]]:
    """The flags in their order, each with its value.  ConfigError: unknown, ambiguous, incomplete, or a stray word."""
    letters = "".join(flag.letter + ":" * bool(flag.value) for flag in FLAGS if flag.letter)
    names = [flag.name + "=" * bool(flag.value) for flag in FLAGS]
    # -I's value is optional and so always attached; getopt does not know optional values.
    words = ["-I" if word.startswith(("-I", "--internal-db=")) else word for word in argv]
    try:
        found, rest = getopt.gnu_getopt(words, letters, names)
    except getopt.GetoptError as error:
        raise ConfigError(f"{error.msg}; see --help") from None
    if rest:
        raise ConfigError(f'no arguments are expected, and there is "{rest[0]}"; see --help')
    by_word = {word: flag for flag in FLAGS for word in (f"-{flag.letter}", f"--{flag.name}")}
    return [(by_word[word], value) for word, value in found]


def _configure(flags: Sequence[tuple[Flag, str]], environ: Mapping[str, str]) -> Config:
    """Defaults, then the file, the environment, the flags."""
    layers = [configuration.from_file(value) for flag, value in flags if flag.name == "config"]
    layers += configuration.from_environment(environ)
    for flag, value in flags:
        try:
            layers.append(Layer(str(flag), flag.means(value)))
        except ValueError as error:
            raise ConfigError(f"{flag}: {error}") from None
    config = configuration.build(layers)
    for flag, value in flags:
        if flag.name == "trace-control":
            try:
                switches = configuration.switched(config.trace.switches, value)
            except ValueError as error:
                raise ConfigError(f"{flag}: {error}") from None
            config = dataclasses.replace(config, trace=dataclasses.replace(config.trace, switches=switches))
    return config


def _from_anywhere(flags: Sequence[tuple[Flag, str]]) -> list[str]:
    """The flags as they must be typed to mean the same in any directory."""
    words = []
    for flag, value in flags:
        path = flag.value == "FILE" and value != ""
        words.append(f"--{flag.name}" + (f"={os.path.abspath(value) if path else value}" if flag.value else ""))
    return words


def _help() -> str:
    lines = ["fastxsd: the XenStore daemon, with xenstored's flags", "", "usage: fastxsd [FLAG...]", ""]
    for flag in FLAGS:
        if flag.text:
            spelled = f"-{flag.letter}, " if flag.letter else "    "
            spelled += f"--{flag.name}" + (f" {flag.value}" if flag.value else "")
            lines.append(f"  {spelled:<28s} {flag.text}")
    lines += ["", "-D -P -V -R -I -L of old are accepted and mean nothing.",
              "XENSTORED_RUNDIR and XENSTORED_PATH place the socket."]  # fmt: skip
    return "\n".join(lines)


def _run(argv: Sequence[str]) -> int:
    flags = _read(argv)
    asked = {flag.name for flag, _ in flags}
    if "help" in asked:
        print(_help())
        return OK
    if "version" in asked:
        print(f"fastxsd {__version__}")
        return OK
    config = _configure(flags, os.environ)
    if "check-config" in asked:
        print(configuration.render(config), end="")
        return OK

    if "preflight" in asked:
        from fastxs.daemon.lifecycle import preflight

        preflight(config, {flag.name: value for flag, value in flags}["preflight"])
        print(f"fastxsd {__version__} would do")
        return OK
    over = "live-update" in asked or asked >= {"live", "restart"}
    if config.daemon.fork and "kept" not in asked and not over and ENVIRONMENT not in os.environ:
        from fastxs.daemon.claims import answers
        from fastxs.daemon.kept import in_background

        if "unless-running" in asked and answers(config.daemon.socket_path, RUNNING_TIMEOUT_S):
            return OK
        in_background(config, _from_anywhere(flags))
    from fastxs.daemon.lifecycle import serve

    serve(config, kept="kept" in asked, over=over)
    return OK


def _give_up_what_cannot_be_written(stream: TextIO) -> None:
    """Else the interpreter tries once more at its end, and its exit status 120 replaces ours."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError):
            stream.close()


def _go_back(argv: Sequence[str], why: str) -> str:
    """If another daemon was to be taken over, become it again; else, or if that fails, `why` and what to do."""
    if "--preflight" in argv:
        return why  # only tried, beside the daemon that runs
    if not {"-U", "--live-update"} & set(argv) and not {"--live", "--restart"} <= set(argv):
        return why
    from fastxs.daemon.goback import go_back

    for words in (argv, ()):  # what is wrong may be the flags
        with suppress(ConfigError):
            return "; ".join(filter(None, (why, go_back(_configure(_read(words), os.environ), argv, why))))
    return why


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; the exit status.  Whatever goes wrong is one line on standard error, never a traceback."""
    open_standard_streams()
    argv = sys.argv[1:] if argv is None else argv
    try:
        status = _run(argv)
        sys.stdout.flush()
        return status
    except ConfigError as error:
        line, status = str(error), USAGE
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        line, status = error.strerror or str(error), FAILED
    except Exception as error:
        # Our own refusals speak for themselves; anything else is a defect that still owes its reader one line.
        from fastxs.daemon.claims import StartError

        line = str(error) if isinstance(error, StartError) else f"internal error: {type(error).__name__}: {error}"
        status = FAILED
    line = " ".join(line.split())
    try:
        line = _go_back(argv, line)
    except Exception as error:
        line += f"; and there is no way back: {type(error).__name__}: {error}"
    with suppress(OSError):
        print("fastxsd:", line, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        _give_up_what_cannot_be_written(stream)
    return status


if __name__ == "__main__":
    sys.exit(main())
