"""The plots of a comparison, as PNG: cost along an axis and of each, distributions of latency, abort rates.

Owns which chapter has which plots and how they look.  Refuses to know pages.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from fastxs.bench.compare import METRICS
from fastxs.bench.figures import interval, short

__all__ = ["Plot", "of"]

# Okabe and Ito's colours, which the colour-blind can tell apart
COLOURS: Final = {
    "fastxs": "#0072B2",
    "c": "#D55E00",
    "ox": "#009E73",
    "ox-log": "#56B4E9",
    "fastxs-none": "#CC79A7",
    "echo": "#777777",
    "twin": "#E69F00",
}
OTHERS: Final = ("#000000", "#F0E442", "#999999")
NAMES: Final = {"c": "C xenstored", "ox": "oxenstored", "ox-log": "oxenstored with its access log", "twin": "itself"}
COLUMNS: Final = 2
WIDE_IN, HIGH_IN, DPI = 5.6, 3.4, 110
"""Inches of one of a figure's parts, and dots for each."""
DISTRIBUTIONS: Final = {
    "requests": ("How many wait for longer", "µs from a request to its reply"),
    "turns": ("How many take longer", "µs of CPU in one piece"),
}
"""Chapters whose distributions are shown: title, axis."""


@dataclass(frozen=True)
class Plot:
    name: str
    title: str
    png: bytes


Place = Mapping[str, Any]
Draw = Callable[[Axes], None]


def of(document: Mapping[str, Any], chapter: str, places: Sequence[Place]) -> list[Plot]:
    """The plots of one chapter."""
    scenarios = document["scenarios"]
    found = []
    along = {
        name: group
        for name, group in _by_scenario(places).items()
        if len({place["x"] for place in group if _any(place)}) > 1
    }
    if along:
        parts = [_line(scenarios[name], group) for name, group in along.items()]
        found.append(Plot(chapter, "Cost along the axis", _figure(parts)))
    single = [place for place in places if place["scenario"] not in along and _any(place)]
    if single and chapter not in ("control", "turns"):
        found.append(Plot(f"{chapter}-each", "Cost", _dots(scenarios, single)))
    told = [place for place in places if any(one["latency"] for one in place["daemons"].values())]
    if told and chapter in DISTRIBUTIONS:
        title, axis = DISTRIBUTIONS[chapter]
        parts = [_distribution(scenarios[place["scenario"]], place, axis) for place in told]
        found.append(Plot(f"{chapter}-distribution", title, _figure(parts)))
    if starts := [place for place in places if place["scenario"] == "starts-in-lockstep"]:
        found.append(Plot("aborts", "Transactions that had to be done again", _figure([_aborts(starts)])))
    return found


def _by_scenario(places: Sequence[Place]) -> dict[str, list[Place]]:
    groups: dict[str, list[Place]] = {}
    for place in places:
        groups.setdefault(place["scenario"], []).append(place)
    return groups


def _any(place: Place) -> bool:
    return any(one["rounds"] for one in place["daemons"].values())


def _style(kind: str) -> dict[str, Any]:
    return {"color": COLOURS.get(kind, OTHERS[hash(kind) % len(OTHERS)]), "label": NAMES.get(kind, kind)}


def _figure(parts: Sequence[Draw]) -> bytes:
    columns = min(COLUMNS, len(parts))
    rows = math.ceil(len(parts) / columns)
    figure = Figure(figsize=(WIDE_IN * columns, HIGH_IN * rows), dpi=DPI, layout="constrained")
    for number, draw in enumerate(parts, 1):
        axes = figure.add_subplot(rows, columns, number)
        draw(axes)
        axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _plain(value: float, _: object = None) -> str:
    return short(value)


def _log(axes: Axes, *, x: bool = True, y: bool = True) -> None:
    for wanted, set_scale, axis in ((x, axes.set_xscale, axes.xaxis), (y, axes.set_yscale, axes.yaxis)):
        if wanted:
            set_scale("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
            axis.set_major_formatter(FuncFormatter(_plain))


def _points(places: Sequence[Place], metric: str) -> Iterator[tuple[str, list[tuple[float, float, float, float]]]]:
    """Daemon -> x, median, low, high."""
    for kind in dict.fromkeys(kind for place in places for kind in place["daemons"]):
        points = []
        for place in places:
            one = place["daemons"].get(kind)
            values = [r[metric] for r in one["rounds"] if r[metric] is not None] if one else []
            if values and not one["reason"]:
                low, high, _ = interval(values)
                points.append((place["x"], one["median"][metric], low, high))
        yield kind, points


def _line(scenario: Mapping[str, str], places: Sequence[Place]) -> Draw:
    metric = scenario["metric"]

    def draw(axes: Axes) -> None:
        least = min((place["x"] for place in places if place["x"]), default=1)
        for kind, points in _points(places, metric):
            if not points:
                continue
            xs, mids, lows, highs = zip(*points, strict=True)
            at = [x or least / 3 for x in xs]  # a logarithm has no place for none
            below = [mid - low for mid, low in zip(mids, lows, strict=True)]
            above = [high - mid for mid, high in zip(mids, highs, strict=True)]
            axes.errorbar(
                at, mids, yerr=[below, above], marker="o", markersize=3.5, linewidth=1.4, capsize=2, **_style(kind)
            )
        _log(axes)
        ticks = sorted({place["x"] for place in places})
        axes.set_xticks([x or least / 3 for x in ticks], [f"{x:,}" for x in ticks])
        axes.minorticks_off()
        axes.set_xlabel(scenario["axis"], fontsize=8)
        axes.set_ylabel(f"{METRICS[metric].unit} a {scenario['unit']}", fontsize=8)
        axes.set_title(_wrapped(scenario["text"]), fontsize=9)
        axes.legend(fontsize=7, frameon=False)

    return draw


def _dots(scenarios: Mapping[str, Any], places: Sequence[Place]) -> bytes:
    """A row for each place: a logarithmic axis has no beginning where bars could stand."""
    metric = scenarios[places[0]["scenario"]]["metric"]
    figure = Figure(figsize=(WIDE_IN * COLUMNS, 1.1 + 0.27 * len(places)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for kind in dict.fromkeys(kind for place in places for kind in place["daemons"]):
        dots = [
            (one["median"][metric], row)
            for row, place in enumerate(places)
            if (one := place["daemons"].get(kind)) and not one["reason"] and one["median"][metric]
        ]
        if dots:
            axes.plot(*zip(*dots, strict=True), "o", markersize=6, **_style(kind))
    texts = [_wrapped(scenarios[place["scenario"]]["text"]) for place in places]
    axes.set_yticks(range(len(places)), texts, fontsize=7.5)
    axes.set_ylim(len(places) - 0.5, -0.5)
    _log(axes, y=False)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_xlabel(f"{METRICS[metric].text}, {METRICS[metric].unit} for each", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    figure.legend(fontsize=8, frameon=False, loc="outside upper right", ncols=6)
    return _png(figure)


def _distribution(scenario: Mapping[str, str], place: Place, axis: str) -> Draw:
    def draw(axes: Axes) -> None:
        for kind, one in place["daemons"].items():
            total = left = sum(many for _, many in one["latency"])
            if not total:
                continue
            xs, shares = [], []
            for ns, many in one["latency"]:
                xs.append(ns / 1e3)
                shares.append(left / total)
                left -= many
            axes.step(xs, shares, where="post", linewidth=1.3, **_style(kind))
        _log(axes)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:g} %"))
        axes.set_xlabel(axis, fontsize=8)
        axes.set_title(_wrapped(scenario["text"]), fontsize=9)
        axes.legend(fontsize=7, frameon=False)

    return draw


def _aborts(places: Sequence[Place]) -> Draw:
    def draw(axes: Axes) -> None:
        # dashed one over the other: two may have the same rate, none
        for dashes, kind in enumerate(dict.fromkeys(kind for place in places for kind in place["daemons"])):
            done = [(place["x"], place["daemons"][kind]) for place in places if kind in place["daemons"]]
            points = [(x, one["eagain"] / (one["eagain"] + one["units"])) for x, one in done if one["units"]]
            if points:
                xs, shares = zip(*points, strict=True)
                line = (0, (4, 3 * dashes)) if dashes else "-"
                percent = [100 * share for share in shares]
                axes.plot(xs, percent, linestyle=line, marker="o", markersize=3.5, **_style(kind))
        axes.set_xscale("log")
        axes.set_xticks([place["x"] for place in places], [f"{place['x']:,}" for place in places])
        axes.minorticks_off()
        axes.set_ylim(-3, 103)
        axes.set_xlabel("clients in lock-step", fontsize=8)
        axes.set_ylabel("of all ends of a transaction, %", fontsize=8)
        axes.set_title("EAGAIN", fontsize=9)
        axes.legend(fontsize=7, frameon=False)

    return draw


def _wrapped(text: str) -> str:
    return textwrap.fill(text[:1].upper() + text[1:], 58)
