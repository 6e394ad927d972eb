"""`fastxs`: for people, at a terminal.

Owns the list of commands, and how each ends that is interrupted or whose reader is gone; the module that the list names
has the command.  What xenstored's scripts need is in `fastxs.cli.fastxsd`.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any, Final

import click

from fastxs import __version__
from fastxs.cli.words import ABSENT, FORBIDDEN, REFUSED, Refused
from fastxs.daemon.claims import reason

__all__ = ["main"]

INTERRUPTED: Final = 130
UNREAD: Final = 141
"""Exit statuses: as a shell gives them to a program that SIGINT or SIGPIPE ended."""

STATUSES: Final = {
    0: "it is done",
    REFUSED: "the answer is no, or the daemon refused",
    2: "a wrong option or argument",
    ABSENT: "no daemon answers",
    FORBIDDEN: "rights are missing",
    INTERRUPTED: "it was interrupted",
    UNREAD: "nobody reads what it prints",
}
"""Every command's, unless its help says more."""

COMMANDS: Final = {
    "Nodes": {
        "ls": "store:ls",
        "list": "store:list_",
        "read": "store:read",
        "write": "store:write",
        "mkdir": "store:mkdir",
        "rm": "store:rm",
        "exists": "store:exists",
        "chmod": "store:chmod",
        "watch": "store:watch",
    },
    "Whole stores": {
        "dump": "image:dump",
        "restore": "restore:restore",
        "diff": "image:diff",
        "check": "image:check",
    },
    "The daemon": {
        "ping": "daemon:ping",
        "control": "daemon:control",
        "config": "daemon:config",
    },
    "Traffic": {
        "record": "record:record",
        "replay": "replay:replay",
    },
    "Without Xen": {
        "sim": "sim:sim",
        "bench": "bench:bench",
    },
}
"""What each command is called: its module in `fastxs.cli`, its function."""


class Commands(click.Group):
    """Loads a command's module when it is asked for: `fastxs read` is over before all of them would be loaded."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for group in COMMANDS.values() for name in group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for group in COMMANDS.values():
            if cmd_name in group:
                module, _, function = group[cmd_name].partition(":")
                command: click.Command = getattr(import_module(f"fastxs.cli.{module}"), function)
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, group in COMMANDS.items():
            commands = {name: self.get_command(ctx, name) for name in group}
            with formatter.section(title):
                formatter.write_dl([(name, one.get_short_help_str(90)) for name, one in commands.items() if one])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except OSError as error:  # what it prints cannot be written
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter tries again at its end
            if isinstance(error, BrokenPipeError):
                sys.exit(UNREAD)
            raise Refused(reason(error), REFUSED) from None
        return result


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: " + "; ".join(f"{status} {meaning}" for status, meaning in STATUSES.items()) + ".",
)
@click.version_option(__version__, prog_name="fastxs", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Look into a XenStore and after its daemon: fastxs, C xenstored or oxenstored."""
    if os.environ.get("NO_COLOR"):
        ctx.color = False


if __name__ == "__main__":
    main()
