"""`fastxs replay`: recorded traffic to any daemon, and what it answers now.

Owns the command's words, whom it plays to, and the report for people.  Refuses to know how a recording is read and
played (`fastxs.replay`), and how a daemon is started (`fastxs.hypervisor.host`).
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import click

from fastxs.cli.sim import Target, daemon_option
from fastxs.cli.sources import told
from fastxs.cli.words import REFUSED, Refused, shown
from fastxs.daemon.claims import server_pid
from fastxs.hypervisor.host import Host, HostError, cpu_ns, scratch
from fastxs.replay.player import Player
from fastxs.replay.recording import Answer, RecordingError
from fastxs.replay.report import Report, name_of
from fastxs.replay.sources import opened

__all__ = ["replay"]

SHORT: Final = 60
"""Characters that are shown of a payload."""


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@daemon_option
@click.option(
    "--hypervisor",
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The pretend hypervisor of a daemon that runs: guests speak over rings.",
)
@click.option(
    "--speed",
    metavar="FACTOR",
    type=click.FloatRange(0, min_open=True),
    help="1: in the recording's time; 2: twice as fast.  [default: as fast as answers come]",
)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.pass_context
def replay(
    ctx: click.Context, file: str, *, daemon: Target, hypervisor: Path | None, speed: float | None, as_json: bool
) -> None:
    """Play the traffic in FILE, and compare the answers.

    FILE is what `fastxs record` wrote, a trace file of C xenstored's or fastxs's, or oxenstored's access log.  It
    writes to the store: never let it loose on a daemon in use.  Exit status 1: an answer differs, or none came.
    """
    with told(), ExitStack() as stack:
        try:
            head, records = stack.enter_context(opened(file))
            there = _daemon(stack, daemon, hypervisor)
            player = stack.enter_context(Player(there.socket, there.hypervisor, speed=speed))
            report = player.play(head, records, there.cpu_ns)
        except (RecordingError, HostError) as error:
            raise Refused(str(error), REFUSED) from None
    click.echo(json.dumps(report.as_json(), indent=2) if as_json else _table(report, f"{head.of} against {daemon}"))
    ctx.exit(REFUSED if report.different or report.unanswered else 0)


class There(NamedTuple):
    """Whom it plays to."""

    socket: Path
    hypervisor: Path | None
    cpu_ns: Callable[[], int] | None


def _daemon(stack: ExitStack, daemon: Target, hypervisor: Path | None) -> There:
    """HostError: it does not start.  OSError: there is nobody at its socket."""
    if daemon.kind is None:
        assert daemon.path is not None
        return There(daemon.path, hypervisor, _cpu_ns_at(daemon.path))
    folder = scratch()
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    host = stack.enter_context(Host(daemon.kind, folder, default_quotas=True, program=daemon.path))
    return There(host.socket, Path(host.env["SIMXEN_DIR"]), host.cpu_ns)


def _cpu_ns_at(path: Path) -> Callable[[], int] | None:
    """None: who listens there cannot be looked at."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))
        look = partial(cpu_ns, server_pid(client))
    try:
        look()
    except OSError:
        return None
    return look


# ---- for people ----------------------------------------------------------------------------------------------------


def _table(report: Report, title: str) -> str:
    lines = [title, ""]

    def say(name: str, text: str) -> None:
        lines.append(f"{name:<12}{text}")

    say(
        "requests",
        f"{report.requests:,} in {report.wall_s:.3g} s" + (f", {report.left_out:,} left out" * bool(report.left_out)),
    )
    if report.late_s:
        say("late", f"at most {report.late_s * 1e3:,.1f} ms")
    if report.requests:
        parts = (
            f"{name} {report.latencies.at(part):,.0f} µs"
            for name, part in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
        )
        say("latency", ", ".join(parts))
    if report.cpu_us is not None:
        say("daemon", f"{report.cpu_us:.2f} µs of CPU time a request")
    say("events", f"{report.events_now:,}; {report.events_then:,} in the recording")
    say("answers", f"{report.equal:,} equal, {report.different:,} different, {report.unknown:,} unknown")
    if report.unanswered:
        say("", f"{report.unanswered:,} did not come")
    if report.kinds:
        lines += ["", "different:"]
    for kind, count in report.kinds.most_common():
        asked, was, now = report.first[kind]
        op, then, word = kind
        lines.append(f"  {count:>8,}  {name_of(op):<18}{then or 'OK'} then, {word or 'OK'} now; the first:")
        lines.append(f"            at {asked.at_s:.3f} s, connection {asked.conn}: {_short(asked.payload)}")
        if then is None and word is None:
            lines.append(f"            {_said(was)} then, {_said(now)} now")
    return "\n".join(lines)


def _said(answer: Answer) -> str:
    return answer.error or _short(answer.payload or b"")


def _short(payload: bytes) -> str:
    text = shown(payload)
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"
