"""`fastxs bench`: XenStore daemons side by side on this machine, and the report of it.

Owns the command's words and the lines that it prints while it runs.  Refuses to know what is measured and what may be
concluded (`fastxs.bench`).
"""

from __future__ import annotations

import fnmatch
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from fastxs.bench.compare import METRICS, TWIN, Comparison, Place, load
from fastxs.bench.daemons import DAEMONS, Daemon, Kind, LoadError, Running
from fastxs.bench.figures import short
from fastxs.bench.scenarios import CONTROL, SCENARIOS, Scenario
from fastxs.bench.stage import Stage
from fastxs.hypervisor.host import KINDS, named

__all__ = ["bench"]

ROUNDS: Final = {False: 11, True: 6}
"""Of a full run, of a quick one.  Six are the fewest for which there is an interval of 95 %."""
SECONDS: Final = {False: 0.3, True: 0.05}
RUNNING: Final = "running"
FAILED: Final = 1


def _daemon(value: str) -> tuple[Kind, Daemon]:
    if value in DAEMONS:
        return value, DAEMONS[value]
    try:
        kind, program = named(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither one of {', '.join(DAEMONS)}, nor a program.") from None
    return value, Daemon(kind, program)


@click.group(invoke_without_command=True)
@click.option("--quick", is_flag=True, help="Few short runs, small situations: under five minutes, for a first look.")
@click.option(
    "-d",
    "--daemon",
    "daemons",
    multiple=True,
    metavar="DAEMON",
    type=_daemon,
    help=f"Who takes part: {', '.join(DAEMONS)}, or a program to start; the first is compared with all others.  "
    f"May be repeated.  [default: {' '.join(KINDS)}]",
)
@click.option(
    "--socket",
    metavar="PATH",
    type=click.Path(path_type=Path, exists=True),
    help="Ask the daemon that runs there instead, with what does no harm to a host in use.",
)
@click.option("--pid", type=click.IntRange(2), help="Its process, where the socket does not tell.")
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    help="Scenarios or chapters whose name begins with NAME (or matches it).  May be repeated.",
)
@click.option("--rounds", type=click.IntRange(1), help="Runs of each daemon at each point.  [default: 11; --quick: 6]")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Of one run.  [default: 0.3; --quick: 0.05]")
@click.option(
    "--scale",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Size of the situations; 0.01 is enough to see that everything works.",
)
@click.option(
    "-o",
    "--output",
    default="bench.json",
    show_default=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Everything that was measured, as JSON.",
)
@click.option("--list", "list_only", is_flag=True, help="Name the scenarios and stop.")
@click.pass_context
def bench(
    ctx: click.Context,
    *,
    quick: bool,
    daemons: tuple[tuple[Kind, Daemon], ...],
    socket: Path | None,
    pid: int | None,
    only: tuple[str, ...],
    rounds: int | None,
    seconds: float | None,
    scale: float,
    output: Path,
    list_only: bool,
) -> None:
    """Compare XenStore daemons on this machine, without Xen.

    fastxs and Debian's C xenstored and oxenstored are started on a pretend hypervisor, loaded in turn over sockets and
    rings, and compared by their CPU time, throughput, latency and memory.  `fastxs bench report` makes a page of the
    results.

    A figure is the median of the rounds' ratios, with an interval that holds the true one with 95 %.  What the noise of
    this run does not separate is not ranked.

    Exit status: 0 it was measured, 1 a daemon failed somewhere, 2 a wrong option.
    """
    if ctx.invoked_subcommand:
        return
    scenarios = _chosen(only, harmless=socket is not None)
    if list_only:
        for scenario in scenarios:
            points = " ".join(f"{x:,}" for x in (scenario.quick if quick else scenario.xs))
            click.echo(f"{scenario.name:<26}{scenario.text}; {scenario.axis}: {points}")
        return
    table: dict[Kind, Daemon | Running] = {**(dict(daemons) or {kind: DAEMONS[kind] for kind in KINDS})}
    try:
        if socket is not None:
            table = {RUNNING: Running(socket, pid)}
        kinds = list(table)
        table |= {TWIN: table[kinds[0]], **{kind: DAEMONS[kind] for kind in DAEMONS if kind not in table}}
        with Stage(kinds[0], daemons=table, scale=scale, seconds=seconds or SECONDS[quick]) as stage:
            comparison = Comparison(stage, kinds, scenarios, rounds=rounds or ROUNDS[quick], quick=quick)
            _run(comparison, socket)
    except LoadError as error:
        raise click.ClickException(str(error)) from None
    document = comparison.document(shlex.join(["fastxs", *sys.argv[1:]]))
    output.write_text(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")
    click.echo(_end(document, output))
    ctx.exit(FAILED if any(place.reasons for place in comparison.places) else 0)


def _chosen(only: Sequence[str], *, harmless: bool) -> list[Scenario]:
    """The control is a part of every comparison of two; one daemon alone is compared with nobody."""
    wanted = [
        scenario
        for scenario in SCENARIOS
        if (not harmless and scenario is CONTROL)
        or not only
        or any(fnmatch.fnmatch(name, f"{one}*") for one in only for name in (scenario.name, scenario.chapter))
    ]
    found = [scenario for scenario in wanted if scenario.harmless or not harmless]
    if found in ([], [CONTROL]) and only != (CONTROL.name,):
        raise click.UsageError(f"no scenario is called {' or '.join(only)} (--list names them)")
    return found


def _run(comparison: Comparison, socket: Path | None) -> None:
    for kind, why in comparison.absent.items():
        click.echo(f"{kind} takes no part: {why}", err=True)
    if not comparison.takes_part():
        raise LoadError("nobody takes part")
    if comparison.uncounted:
        click.echo(f"system calls are not counted: {comparison.uncounted}", err=True)
    total = len(comparison.points())
    try:
        for number, place in enumerate(comparison.run(), 1):
            click.echo(f"[{number}/{total}] {_line(comparison, place)}")
    except KeyboardInterrupt:
        click.echo("interrupted: what there is will be saved", err=True)


def _line(comparison: Comparison, place: Place) -> str:
    scenario, metric = place.scenario, place.scenario.metric
    against = comparison.against(place)
    words = []
    for kind in place.samples:
        value = place.median(kind, metric)
        if kind in place.reasons or value is None:
            words.append(f"{kind}: {place.reasons.get(kind, 'nothing')}")
            continue
        gain = against.get(kind, {}).get(metric)
        words.append(f"{kind} {short(value)}" + (f" ({_gain(gain)})" if gain else ""))
    unit = "bytes" if metric == "bytes" else f"{METRICS[metric].unit} of CPU a {scenario.unit}"
    return f"{scenario.name}, {place.x:,} {scenario.axis}: {', '.join(words)} {unit}"


def _gain(gain: Mapping[str, Any]) -> str:
    text = f"{short(gain['value'])}x [{short(gain['low'])}, {short(gain['high'])}]"
    return text if gain["verdict"] in ("better", "worse") else f"{text}, {gain['verdict']}"


def _end(document: Mapping[str, Any], output: Path) -> str:
    shared = document["machine"]["others' share of the CPUs"]
    lines = [f"{output}: {len(document['places'])} points in {document['took_s']:,.0f} s"]
    if shared > 0.05:
        lines.append(f"others had {shared:.0%} of the CPUs: throughput and latency are not ranked")
    lines.append(f"a page of it: fastxs bench report {shlex.quote(str(output))}")
    return "\n".join(lines)


@bench.command()
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option(
    "-o",
    "--output",
    default="bench.html",
    show_default=True,
    metavar="PAGE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page, which holds everything that it needs; the plots are also beside it, as PAGE-NAME.png.",
)
@click.option(
    "--markdown",
    metavar="TEXT",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Put the tables into this text, between its two `results` comments, instead of making a page.",
)
def report(files: tuple[Path, ...], output: Path, markdown: Path | None) -> None:
    """Make one page of what `fastxs bench` saved, with plots and tables.

    Needs jinja2 and matplotlib: pip install 'fastxs[report]'.
    """
    try:
        from fastxs.bench import report as pages
    except ModuleNotFoundError as error:
        text = f"the report needs {error.name}: pip install 'fastxs[report]'"
        raise click.ClickException(text) from None
    try:
        documents = [load(file) for file in files]
        if markdown is not None:
            if len(documents) != 1:
                raise ValueError("--markdown takes the results of one run")
            markdown.write_text(pages.fill(markdown.read_text(), pages.tables(documents[0])))
            return
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    page, plots = pages.page(documents)
    output.write_text(page)
    for name, png in plots.items():
        output.with_name(f"{output.stem}-{name}.png").write_bytes(png)
    click.echo(f"{output}, and {len(plots)} plots beside it")
