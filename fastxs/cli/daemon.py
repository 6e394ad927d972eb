"""`fastxs ping`, `fastxs control`, `fastxs config`: of the daemon itself.

Owns these commands' words and exit statuses.  Refuses to know what a configuration holds (`fastxs.daemon.config`) and
what the daemon makes of a control command.
"""

from __future__ import annotations

import os

import click

from fastxs.cli.words import ABSENT, REFUSED, Refused, connected, said, socket_option
from fastxs.client import InvalidRequest, daemon_socket

__all__ = ["config", "control", "ping"]

HELP = "`fastxs control help` lists the daemon's"


@click.command()
@click.argument("file", required=False)
def config(file: str | None) -> None:
    """Print the daemon's configuration as TOML.

    It is what FILE (or none) and the environment make, with every default.
    """
    from fastxs.daemon import config as configuration

    try:
        layers = [configuration.from_file(file)] if file is not None else []
        made = configuration.build([*layers, *configuration.from_environment(os.environ)])
    except configuration.ConfigError as error:
        raise click.ClickException(str(error)) from None
    click.echo(configuration.render(made), nl=False)


@click.command()
@socket_option
@click.option("--timeout", "timeout_s", default=5.0, show_default=True, help="Seconds to wait for an answer.")
def ping(socket: str | None, timeout_s: float) -> None:
    """See whether the daemon answers.

    It is asked for the root of its store.
    """
    from fastxs.daemon.claims import answers

    path = socket or daemon_socket()
    if not answers(path, timeout_s):
        raise Refused(f"nobody answers at {path}", ABSENT)
    click.echo(f"{path} answers")


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@socket_option
@click.argument("command", nargs=-1, required=True, metavar="COMMAND [ARGUMENT]...")
def control(socket: str | None, command: tuple[str, ...]) -> None:
    """Give the daemon a command, print what it says.

    They are xenstore-control's commands; `fastxs control help` lists those that it knows.
    """
    with said(), connected(socket) as client:
        try:
            answer = client.control(*map(os.fsencode, command))
        except InvalidRequest:
            raise Refused(
                f"{' '.join(command)}: no such command, or one with other arguments\n{HELP}", REFUSED
            ) from None
    text = answer.decode(errors="backslashreplace")
    click.echo(text, nl=bool(text) and not text.endswith("\n"))
