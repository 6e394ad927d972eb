"""Xen's commands as one program: which of them it is, says its name, or else its first word.

    fastxs-xenstore-ls -f /local        xenstore-ls -f /local        fastxs-xenstore ls -f /local

Owns names, options, and what is said when something fails.  The standard library's getopt does not read the options,
because it gives up at the first wrong one: Xen's commands complain and go on without it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import BinaryIO, Final, NamedTuple, NoReturn

from fastxs.cli.xenstore import nodes
from fastxs.cli.xenstore.call import Call, Failure
from fastxs.cli.xenstore.control import USAGE, control
from fastxs.cli.xenstore.tree import ls
from fastxs.client import Client, XenStoreError

__all__ = ["main", "run"]

PREFIXES: Final = ("fastxs-xenstore-", "xenstore-")

NAMES: Final = {
    "f": "flat",
    "h": "help",
    "n": "number",
    "p": "prefix",
    "R": "raw",
    "r": "recurse",
    "s": "",
    "t": "tidy",
    "u": "upto",
}
"""Every letter that one of the commands knows, and its long name."""

VALUED: Final = "n"


class Command(NamedTuple):
    """One row: what it does, its own letters among NAMES (`s` means nothing), its words, how many it needs."""

    do: Callable[[Call], None]
    letters: str
    words: str
    least: int


COMMANDS: Final = {
    "chmod": Command(nodes.chmod, "rsu", "PATH PERMISSION...", 1),
    "exists": Command(nodes.exists, "s", "PATH...", 1),
    "list": Command(nodes.list_, "ps", "PATH...", 1),
    "ls": Command(ls, "fps", "[PATH...]", 0),
    "read": Command(nodes.read, "psR", "PATH...", 1),
    "rm": Command(nodes.rm, "st", "PATH...", 1),
    "watch": Command(nodes.watch, "ns", "PATH...", 1),
    "write": Command(nodes.write, "sR", "PATH VALUE [PATH VALUE]...", 2),
}


def run(argv: Sequence[str], out: BinaryIO) -> int:
    """Do what the words of a command line say, the program's name first; the exit status."""
    program = os.path.basename(argv[0])
    name, words = "", argv[1:]
    for prefix in PREFIXES:
        if program.startswith(prefix):
            name = program.removeprefix(prefix)
            break
    else:
        if words:
            name, *words = words
            program = f"{program} {name}"
    try:
        if name == "control":
            _control(program, words, out)
        elif name in COMMANDS:
            _run(program, COMMANDS[name], words, out)
        else:
            raise Failure(f"which command? There are {' '.join(COMMANDS)} control")
    except Failure as failure:
        if text := str(failure):
            _complain(program, text)
        return failure.status
    except XenStoreError as error:
        about = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, bytes) else ""
        _complain(program, f"{about}{error.strerror}")
        return 1
    return 0


def _run(program: str, command: Command, words: Sequence[str], out: BinaryIO) -> None:
    options, rest = _options(program, words)
    unpaired = command.do is nodes.write and len(rest) % 2
    if options.keys() - set(command.letters) or len(rest) < command.least or unpaired:
        letters = "".join(f" [-{letter}{' N' * (letter in VALUED)}]" for letter in command.letters)
        raise Failure(f"usage: {program} [-h]{letters} {command.words}")
    with Client() as client:
        command.do(Call(client, options, [*map(os.fsencode, rest)], out))


def _control(program: str, words: Sequence[str], out: BinaryIO) -> None:
    if not words:
        raise Failure(f"usage: {program} COMMAND [WORD]...; the command help prints what there is", USAGE)
    with Client() as client:
        control(Call(client, {}, [*map(os.fsencode, words)], out))


def _options(program: str, words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The letters that were given, each with its value, and the other words.

    As getopt_long(3) reads them: anywhere before `--` (but see POSIXLY_CORRECT), long names as short as they are clear.
    """
    given: dict[str, str] = {}
    others: list[str] = []
    rest = [*words]
    while rest:
        word = rest.pop(0)
        if word == "--":
            return given, others + rest
        if not word.startswith("-") or word == "-":
            others.append(word)
            if "POSIXLY_CORRECT" in os.environ:
                return given, others + rest
            continue
        letters, equals, attached = word[1:], "", ""
        if word.startswith("--"):
            name, equals, attached = word[2:].partition("=")
            letters = "".join(letter for letter, long in NAMES.items() if long and long.startswith(name))
            if len(letters) != 1 or (equals and letters not in VALUED):
                _complain(program, f"{word}: no such option; ignored")
                continue
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter not in NAMES:
                _complain(program, f"-{letter}: no such option; ignored")
            elif letter not in VALUED:
                given[letter] = ""
            elif equals or letters:
                given[letter], letters = attached + letters, ""
            elif rest:
                given[letter] = rest.pop(0)
            else:
                _complain(program, f"-{letter}: its value is missing; ignored")
    return given, others


def _complain(program: str, text: str) -> None:
    print(f"{program}: {text}", file=sys.stderr)


def main() -> int:
    """Run as a program, which an interrupt and a reader who has gone end as they end one in C."""
    if sys.stdout is None or sys.stderr is None:
        from fastxs.daemon.process import open_standard_streams

        open_standard_streams()
    try:
        status = run(sys.argv, sys.stdout.buffer)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _end_by("SIGINT")
    except BrokenPipeError:
        _end_by("SIGPIPE")
    except OSError as error:
        _complain(os.path.basename(sys.argv[0]), f"standard output: {error.strerror}")
        with suppress(OSError):  # it tries once more
            sys.stdout.close()
        return 1
    return status


def _end_by(name: str) -> NoReturn:
    import signal

    number = signal.Signals[name]
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise AssertionError(f"{name} is blocked")


if __name__ == "__main__":
    sys.exit(main())
