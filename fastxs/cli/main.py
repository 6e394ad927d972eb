"""`fastxs`: for people, at a terminal.

Owns words and exit statuses; the work is done in the rooms below.  What xenstored's scripts need is in
`fastxs.cli.fastxsd`.
"""

from __future__ import annotations

import os

import click

from fastxs import __version__
from fastxs.cli.image import check, diff, dump
from fastxs.cli.restore import restore
from fastxs.cli.sim import sim
from fastxs.daemon import config as configuration

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fastxs", message="%(prog)s %(version)s")
def main() -> None:
    """Look after fastxs, the XenStore daemon."""


@main.command("config")
@click.argument("file", required=False)
def show_config(file: str | None) -> None:
    """Print the configuration that FILE (or none) makes, as TOML, with every default."""
    try:
        layers = [configuration.from_file(file)] if file is not None else []
        config = configuration.build([*layers, *configuration.from_environment(os.environ)])
    except configuration.ConfigError as error:
        raise click.ClickException(str(error)) from None
    click.echo(configuration.render(config), nl=False)


@main.command()
@click.option("--socket", help="The daemon's socket, if it is not where the environment says.")
@click.option("--timeout", "timeout_s", default=5.0, show_default=True, help="Seconds to wait for an answer.")
def ping(socket: str | None, timeout_s: float) -> None:
    """Ask the daemon for the root of its store: exit status 0 if it answers."""
    from fastxs.daemon.claims import answers

    path = socket or configuration.build(configuration.from_environment(os.environ)).daemon.socket_path
    if not answers(path, timeout_s):
        raise click.ClickException(f"nobody answers at {path}")
    click.echo(f"{path} answers")


for command in (check, diff, dump, restore, sim):
    main.add_command(command)

if __name__ == "__main__":
    main()
