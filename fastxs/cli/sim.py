"""`fastxs sim`: guests with a workload, against any XenStore daemon on the pretend hypervisor.

Owns the command's words, its progress and its report.  Refuses to know what guests say (simguest does) and how
a daemon is started (`fastxs.hypervisor.host`).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import click

from fastxs.hypervisor import simxen
from fastxs.hypervisor.host import Host, HostError, Kind, available, named, scratch

__all__ = ["Target", "daemon_option", "sim"]

WORKLOADS: Final = ("checks", "idle", "boot", "chatter", "handshake", "storm")
FAULTS: Final = ("map", "bind", "notify", "read")
LAST_DOMID: Final = 32751
PROGRESS_S: Final = 0.2
PATIENCE_S: Final = 0.5
"""A part of the run that is over sooner shows no bar."""
LAST_WORDS_S: Final = 1
"""After a failure: a daemon that it was the end of is gone by then."""

PHASES: Final = {"arrive": "guests come", "work": "guests work", "leave": "guests go"}


class Target(NamedTuple):
    """What `--daemon` names: a kind of daemon, a program of that kind, or the socket of one that runs."""

    kind: Kind | None
    path: Path | None

    def __str__(self) -> str:
        return str(self.path or self.kind)


def _target(value: str) -> Target:
    if Path(value).is_socket():
        return Target(None, Path(value).absolute())
    try:
        return Target(*named(value))
    except ValueError as error:
        raise click.BadParameter(f"{error}, nor a socket.") from None


def _fault(value: str) -> str:
    """As simguest wants it: the error as a number."""
    match = re.fullmatch(r"(\w+)=(\d{1,9}):(E\w+)", value)
    if not match or match[1] not in FAULTS:
        raise click.BadParameter(f"{value!r} is not KIND=N:ERROR with a KIND of {', '.join(FAULTS)}.")
    number = getattr(errno, match[3], None)
    if number is None:
        raise click.BadParameter(f"{match[3]} is no error's name.")
    return f"{match[1]}={match[2]}:{number}"


DOMIDS: Final = click.IntRange(1, LAST_DOMID)
NUMBER: Final = click.FloatRange(0)


daemon_option: Final = click.option(
    "-d",
    "--daemon",
    default="fastxs",
    show_default=True,
    metavar="DAEMON",
    type=_target,
    help="fastxs, c or ox (Debian's), a program to start, or the socket of a daemon that runs.",
)


@click.command()
@click.option("-n", "--guests", default=10, show_default=True, metavar="N", type=DOMIDS, help="How many.")
@click.option("-w", "--workload", default="boot", show_default=True, type=click.Choice(WORKLOADS), help="What they do.")
@daemon_option
@click.option("-t", "--seconds", metavar="S", type=NUMBER, help="How long; 0: until Ctrl-C.")
@click.option("-r", "--rounds", metavar="N", type=click.IntRange(0), help="Or how often each guest does it.")
@click.option("-p", "--parallel", metavar="N", type=DOMIDS, help="So many come, go and boot at a time.  [default: 16]")
@click.option("--rate", metavar="N", type=NUMBER, help="At most so many requests a second, all together.")
@click.option("--domids", default=1, show_default=True, metavar="FIRST", type=DOMIDS, help="The first one's domid.")
@click.option("--kill", is_flag=True, help="Guests just die, and the daemon must notice.")
@click.option("--reuse", is_flag=True, help="Use a domid again as soon as Xen would, after every kind of end.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND=N:ERROR",
    type=_fault,
    help="Let the daemon's next N calls fail, such as map=3:EINVAL; also bind, notify, read.  May be repeated.",
)
@click.option(
    "--hypervisor",
    envvar="SIMXEN_DIR",
    show_envvar=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="The pretend hypervisor of a daemon that runs.",
)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.pass_context
def sim(
    ctx: click.Context,
    *,
    guests: int,
    workload: str,
    daemon: Target,
    seconds: float | None,
    rounds: int | None,
    parallel: int | None,
    rate: float | None,
    domids: int,
    kill: bool,
    reuse: bool,
    faults: tuple[str, ...],
    hypervisor: Path | None,
    as_json: bool,
) -> None:
    """Play guests against a XenStore daemon, without Xen.

    A daemon and a pretend hypervisor are started for it, unless --daemon names the socket of one that runs
    (fastxsd --sim does).  Every answer is checked.  Ctrl-C ends it early, with its report.

    \b
    checks     every kind of request, each with a known answer
    idle       guests that are there and say nothing, until Ctrl-C
    boot       whole lives: built, introduced, booted, shut down, destroyed
    chatter    steady reads, writes and transactions
    handshake  devices that connect and close: frontends in guests, backends in dom0
    storm      all write what the toolstack watches; one in eight is born and dies all the time

    Exit status: 0 all was well, 1 something was not, 2 a wrong option.
    """
    if domids + guests > LAST_DOMID + 1:
        raise click.UsageError(f"{guests} guests from domid {domids} on are too many: the last domid is {LAST_DOMID}.")
    if seconds is not None and rounds is not None:
        raise click.UsageError("--seconds or --rounds, not both.")
    options: dict[str, object] = {
        "--guests": guests,
        "--workload": workload,
        "--seconds": seconds,
        "--rounds": rounds,
        "--parallel": parallel,
        "--rate": rate,
        "--first": domids,
        "--report": PROGRESS_S,
    }
    command = [str(simxen.SIMGUEST), "--json"]
    command += [f"{name}={value}" for name, value in options.items() if value is not None]
    command += [f"--fault={fault}" for fault in faults]
    command += [name for name, on in (("--kill", kill), ("--reuse", reuse)) if on]
    try:
        with ExitStack() as stack:
            folder = scratch()
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            host, env = _daemon(stack, daemon, folder, hypervisor)
            before_ns = host.cpu_ns() if host else 0
            report = {"daemon": str(daemon), **_play(command, env, folder)}
            if host is not None:
                if report["failures"]:
                    host.ends(LAST_WORDS_S)
                report |= _seen_of(host, before_ns)
    except HostError as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps(report, indent=2) if as_json else _table(report))
    ctx.exit(1 if report["failures"] else 0)


def _daemon(
    stack: ExitStack, target: Target, folder: Path, hypervisor: Path | None
) -> tuple[Host | None, dict[str, str]]:
    """The daemon, if it was started here, and what guests need in their environment."""
    if target.kind is None:
        if reason := available("c", simxen.SIMGUEST):
            raise HostError(reason)
        here = {"SIMXEN_DIR": str(hypervisor)} if hypervisor else {}
        return None, {**here, "XENSTORED_PATH": str(target.path)}
    host = Host(target.kind, folder, default_quotas=True, program=target.path)
    stack.enter_context(host)
    return host, host.env


def _play(command: list[str], env: dict[str, str], folder: Path) -> dict[str, Any]:
    """Run simguest to its end; its report, with `failed`: what went wrong, in words."""
    words = folder / "words"
    report: dict[str, Any] = {}
    with (
        words.open("wb") as stderr,
        subprocess.Popen(
            command,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C is for us, we tell it
        ) as guests,
        _stopping(guests),
        Progress(env) as progress,
    ):
        assert guests.stdout
        for line in map(json.loads, guests.stdout):
            if "phase" in line:
                progress.show(line)
            else:
                report = line
    failed = words.read_text(errors="replace").replace("simguest: ", "").splitlines()
    if not report:
        raise HostError("; ".join(failed) or f"the guests ended with status {guests.returncode}")
    return report | {"failed": failed if report["failures"] else []}


@contextmanager
def _stopping(guests: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ctrl-C and SIGTERM are for the guests, whose first one makes them leave, and whose second one ends them."""

    def stop(_signal: int, _frame: object) -> None:
        guests.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """A bar for each part of the run that takes long, on a terminal; what there is to try, where there is no end."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        self._phase = ""
        self._bar: Any = None

    def show(self, line: dict[str, Any]) -> None:
        if line["phase"] != self._phase:
            self._end()
            self._phase = line["phase"]
            if line["limit"] == 0:
                words = " ".join(f"{name}={value}" for name, value in self._env.items())
                click.echo(f"{line['of']} guests until Ctrl-C; for others:\n    export {words}", err=True)
        if line["limit"] == 0 or line["seconds"] < PATIENCE_S or not sys.stderr.isatty():
            return
        timed = line["limit"] > 0
        if self._bar is None:
            length = round(line["limit"] * 10) if timed else line["of"]
            self._bar = click.progressbar(length=length, label=f"{PHASES[self._phase]:<12}", file=sys.stderr)
            self._bar.__enter__()
        self._bar.update((round(line["seconds"] * 10) if timed else line["done"]) - self._bar.pos)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
        self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()


def _seen_of(host: Host, before_ns: int) -> dict[str, Any]:
    """What a daemon of our own used since then; or how it ended."""
    if host.ended is not None:
        return {"daemon_ended": host.ended, "daemon_said": host.stderr().splitlines()[-5:]}
    used_s = (host.cpu_ns() - before_ns) / 1e9
    return {"daemon_cpu_s": round(used_s, 3), "daemon_rss_mib": round(host.rss_bytes() / 2**20, 1)}


def _table(report: dict[str, Any]) -> str:
    """The report for people."""
    seconds, requests = report["seconds"], report["requests"]
    lines = [f"{report['workload']} against {report['daemon']}", ""]

    def say(name: str, text: str) -> None:
        lines.append(f"{name:<12}{text}")

    say("guests", f"{report['guests']:,}")
    if report["unit"] != "guests":
        say(report["unit"], f"{report['rounds']:,}")
    say("requests", f"{requests:,} in {seconds:.3g} s" + (f", {requests / seconds:,.0f}/s" if seconds else ""))
    say("events", f"{report['events']:,}")
    if requests:
        say("latency", f"p50 {_us(report['p50_us'])}, p99 {_us(report['p99_us'])}")
    if "daemon_cpu_s" in report:
        used = f"{report['daemon_cpu_s']:.3g} s of CPU time, coming and going included"
        say("daemon", f"{used}; {report['daemon_rss_mib']:,.0f} MiB at the end")
    if report["errors"]:
        say("refused", ", ".join(f"{n:,} {word}" for word, n in report["errors"].items()))
    if report["faults"]:
        met = ", ".join(f"{n:,} {kind}" for kind, n in report["faults"].items())
        say("faults", f"{met}; {report['introductions_refused']:,} introductions again, {report['late']:,} events late")
    if requests:
        lines += ["", f"{'operation':<22}{'requests':>12}{'refused':>10}{'p50':>11}{'p99':>11}"]
    operations = sorted(report["operations"].items(), key=lambda item: -item[1]["count"])
    lines += [
        f"{name:<22}{one['count']:>12,}{one['errors']:>10,}{_us(one['p50_us']):>11}{_us(one['p99_us']):>11}"
        for name, one in operations
    ]
    failures = report["failures"]
    lines += ["", f"{failures:,} failure{'s' * (failures > 1)}:" if failures else "all answers were right"]
    lines += [f"    {word}" for word in report["failed"]]
    if "daemon_ended" in report:
        lines += [f"the daemon ended with status {report['daemon_ended']}; its last words:"]
        lines += [f"    {word}" for word in report["daemon_said"]]
    return "\n".join(lines)


def _us(value: float) -> str:
    """Microseconds, short."""
    if value >= 1e6:
        return f"{value / 1e6:.2f} s"
    return f"{value / 1e3:.1f} ms" if value >= 1e4 else f"{value:.0f} \N{MICRO SIGN}s"
