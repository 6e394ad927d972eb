"""Writes what is installed beside the programs: man pages and what shells complete, from the programs' own help.

    python packaging/manual.py [FOLDER]        into packaging/ or FOLDER

A test compares the files in packaging/ with what this makes: whoever changes a command or a flag runs it once.
Owns the pages' form, and what stands in them beside the help.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

from fastxs.cli.fastxsd import FLAGS
from fastxs.cli.keeper import HELP
from fastxs.cli.main import COMMANDS, STATUSES, main
from fastxs.cli.xenstore import main as xens

PACKAGING: Final = Path(__file__).resolve().parent
SHELLS: Final = {"bash": "fastxs", "zsh": "_fastxs", "fish": "fastxs.fish"}
"""What each shell looks for in its folder."""

SOCKET: Final = [
    ("XENSTORED_PATH", "The daemon's socket."),
    ("XENSTORED_RUNDIR", "The folder in which it is called socket; /var/run/xenstored otherwise."),
]
PROGRAMS: Final = {"fastxs": 1, "fastxs-xenstore": 1, "fastxsd": 8, "fastxs-keeper": 8}

DAEMON: Final = """\
fastxsd is a XenStore daemon. It takes the place of xenstored under the same clients, toolstacks and guests, and takes
its flags.

Without --no-fork it goes to the background under fastxs-keeper(8), which starts it again when it dies. The store and
its clients' connections survive that, `kill -9` included. The first process returns when the socket answers.

SIGTERM ends it. SIGHUP opens log and trace files anew. -D -P -V -R -I -L of old are accepted and mean nothing."""

KEEPER: Final = """\
fastxs-keeper starts COMMAND, fastxsd(8) with --no-fork for instance, and keeps the descriptors that it stores
(sd_notify(3), FDSTORE=1). When COMMAND ends it is started again and gets them back, so that clients' connections
outlive it. Where systemd does that, nobody needs fastxs-keeper; fastxsd in the background brings it along.

SIGTERM ends COMMAND and the keeper. SIGHUP is passed on."""

XENS: Final = """\
These are Xen's xenstore-ls, xenstore-read and so on, for scripts that know them: options, output and exit statuses are
theirs. Each can be called in two ways, `fastxs-xenstore ls` and `fastxs-xenstore-ls`; a link by the name xenstore-ls
does the same."""
XENS_OPTIONS: Final = {
    "f": "ls: whole paths",
    "h": "print how the command is used",
    "n": "watch: end after so many events",
    "p": "ls: permissions; read, list: the path before each line",
    "R": "read, write: the bytes as they are",
    "r": "chmod: and all below",
    "s": "nothing",
    "t": "rm: and the parents that are empty then",
    "u": "chmod: and all parents",
}


def roff(text: str) -> str:
    """Text for man: nothing in it is taken for a request, what stands in backticks is bold."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def paragraphs(text: str) -> Iterator[str]:
    r"""As click reads help: empty lines between paragraphs, and one that begins with \b keeps its lines."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            yield f".PP\n.nf\n{roff(paragraph.lstrip(chr(8)).strip(chr(10)))}\n.fi"
        else:
            yield f".PP\n{roff(' '.join(paragraph.split()))}"


def table(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Words and their meanings."""
    for word, meaning in rows:
        yield f".TP\n\\fB{roff(word)}\\fR\n{roff(meaning)}"


def page(name: str, summary: str, synopsis: Sequence[str], *parts: Iterable[str]) -> str:
    """The whole page."""
    section = PROGRAMS[name]
    others = [f"\\fB{roff(other)}\\fR({number})" for other, number in PROGRAMS.items() if other != name]
    lines = [
        f'.\\" packaging/manual.py wrote this with click {metadata.version("click").rpartition(".")[0]}',
        f'.TH {name.upper()} {section} "" fastxs "{"User Commands" if section == 1 else "System Administration"}"',
        f".SH NAME\n{roff(name)} \\- {roff(summary)}",
        ".SH SYNOPSIS",
        "\n.br\n".join(f"\\fB{roff(name)}\\fR {roff(words)}" for words in synopsis),
        *(line for part in parts for line in part),
        f".SH SEE ALSO\n{', '.join(others)}",
    ]
    return "\n".join(lines) + "\n"


def fastxs() -> str:
    """fastxs(1): every command with all that its --help says."""
    ctx = click.Context(main, info_name="fastxs")
    return page(
        "fastxs",
        "look into a XenStore and after its daemon",
        ["[--version] [-h] COMMAND [ARGUMENT]..."],
        [
            ".SH DESCRIPTION",
            *paragraphs(main.help or ""),
            *(line for title in COMMANDS for line in commands(ctx, title)),
        ],
        [".SH EXIT STATUS", *table((str(status), f"{meaning}.") for status, meaning in STATUSES.items())],
        [".SH ENVIRONMENT", *table([*SOCKET, ("NO_COLOR", "If it is set, nothing is coloured.")])],
    )


def commands(above: click.Context, title: str) -> Iterator[str]:
    """One section of the list of commands."""
    yield f".SH {title.upper()}"
    for name in COMMANDS[title]:
        yield from command(above, main, name)


def command(above: click.Context, group: click.Group, name: str) -> Iterator[str]:
    """What its --help says, and those below it."""
    found = group.get_command(above, name)
    assert found is not None
    ctx = click.Context(found, info_name=name, parent=above)
    yield f'.SS "{roff(" ".join([ctx.command_path, *found.collect_usage_pieces(ctx)]))}"'
    yield from paragraphs(found.help or "")
    records = [param.get_help_record(ctx) for param in found.params]
    yield from table(record for record in records if record and record[1])
    yield from paragraphs(found.epilog or "")
    if isinstance(found, click.Group):
        for below in found.list_commands(ctx):
            yield from command(ctx, found, below)


def fastxsd() -> str:
    """fastxsd(8): the table of its flags."""
    flags = []
    for flag in FLAGS:
        if flag.text:
            words = [f"-{flag.letter}"] * bool(flag.letter) + [f"--{flag.name}"]
            flags.append((", ".join(words) + f" {flag.value}" * bool(flag.value), flag.text))
    return page(
        "fastxsd",
        "the XenStore daemon, with xenstored's flags",
        ["[FLAG...]"],
        [".SH DESCRIPTION", *paragraphs(DAEMON), ".SH OPTIONS", *table(flags)],
        [".SH ENVIRONMENT", *table(SOCKET)],
        [
            ".SH EXIT STATUS",
            *table([("0", "It was asked to end."), ("1", "It cannot start."), ("2", "A wrong flag or configuration.")]),
        ],
    )


def xenstore() -> str:
    """fastxs-xenstore(1): the tables of its commands and options."""

    def letter(name: str) -> str:
        return f"-{name}{' N' * (name in xens.VALUED)}"

    usage = [
        " ".join([name, *(f"[{letter(each)}]" for each in command.letters), command.words])
        for name, command in xens.COMMANDS.items()
    ]
    return page(
        "fastxs-xenstore",
        "Xen's commands for nodes of a XenStore",
        [*usage, "control COMMAND [WORD]..."],
        [".SH DESCRIPTION", *paragraphs(XENS)],
        [".SH OPTIONS", *table((letter(each), XENS_OPTIONS[each]) for each in xens.NAMES)],
        [".SH ENVIRONMENT", *table(SOCKET)],
    )


def keeper() -> str:
    """fastxs-keeper(8): its help, taken apart."""
    usage, *lines = HELP.splitlines()
    flags = [tuple(re.split(r" {2,}", line.strip(), maxsplit=1)) for line in lines if line.startswith("  -")]
    return page(
        "fastxs-keeper",
        "keep a daemon's descriptors, and start it again",
        [usage.removeprefix("usage: fastxs-keeper ")],
        [".SH DESCRIPTION", *paragraphs(KEEPER), ".SH OPTIONS", *table((flag, text) for flag, text in flags)],
    )


def write(folder: Path) -> None:
    """All files."""
    man, completions = folder / "man", folder / "completions"
    for place in (man, completions):
        place.mkdir(exist_ok=True)
    (man / "fastxs.1").write_text(fastxs())
    (man / "fastxs-xenstore.1").write_text(xenstore())
    (man / "fastxsd.8").write_text(fastxsd())
    (man / "fastxs-keeper.8").write_text(keeper())
    for shell, name in SHELLS.items():
        kind = get_completion_class(shell)
        assert kind is not None
        (completions / name).write_text(kind(main, {}, "fastxs", "_FASTXS_COMPLETE").source())


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGING)
