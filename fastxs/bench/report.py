"""The report of saved comparisons: what a page and its tables show, the plots, the page itself.

Owns what is shown of a document (`compare.SCHEMA`) and how it is put into words; how the page looks, its templates
know.  Needs jinja2 and matplotlib, which come with `fastxs[report]`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from fastxs.bench import plots
from fastxs.bench.compare import METRICS, TWIN
from fastxs.bench.daemons import ECHO
from fastxs.bench.figures import short

__all__ = ["Chapter", "Row", "chapters", "fill", "lost", "page", "tables"]

BEGIN: Final = "<!-- results: written by `fastxs bench report --markdown` -->"
END: Final = "<!-- end of results -->"
"""Between these two lines of a text the results go."""
RANKED: Final = {"better", "worse"}

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """What one daemon has in a row."""

    value: str
    gain: str = ""
    """how many times better the subject is, with its interval"""
    verdict: str = ""
    title: str = ""


@dataclass(frozen=True)
class Row:
    """One place of one scenario, in one metric."""

    text: str
    x: str
    unit: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Table:
    """The rows of a chapter in one metric."""

    title: str
    kinds: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Chapter:
    name: str
    title: str
    places: Sequence[Any]
    tables: Sequence[Table]


def chapters(document: Document) -> Iterator[Chapter]:
    """What was measured, chapter by chapter; the first table of each is about what its scenarios are about."""
    for name, title in document["chapters"].items():
        places = [place for place in document["places"] if document["scenarios"][place["scenario"]]["chapter"] == name]
        if places:
            yield Chapter(name, title, places, list(_tables(document, places)))


def _tables(document: Document, places: Sequence[Any]) -> Iterator[Table]:
    kinds = _kinds(document, places)
    about = [(place, document["scenarios"][place["scenario"]]["metric"]) for place in places]
    yield Table("", kinds, [_row(document, place, metric, kinds) for place, metric in about])
    for metric in METRICS:
        rest = [place for place, main in about if main != metric and _has(place, metric)]
        if rest:
            said = METRICS[metric]
            rows = [_row(document, place, metric, kinds) for place in rest]
            yield Table(f"{said.text}, {said.unit}", kinds, rows)
    for key, title in (("syscalls", "System calls for each"), ("aborts", "Transactions that had to be done again")):
        rows = [row for place in places if (row := _plain(document, place, key, kinds))]
        if rows:
            yield Table(title, kinds, rows)


def _kinds(document: Document, places: Sequence[Any]) -> list[str]:
    """The subject first, then those whom the run was about, then whom only single scenarios have."""
    named = list(dict.fromkeys(kind for place in places for kind in place["daemons"]))
    order = [document["subject"], *document["daemons"]]
    return sorted(named, key=lambda kind: order.index(kind) if kind in order else len(order))


def _has(place: Any, metric: str) -> bool:
    return any(one["median"].get(metric) is not None for one in place["daemons"].values())


def _row(document: Document, place: Any, metric: str, kinds: Sequence[str]) -> Row:
    cells = {kind: _cell(place, metric, kind) for kind in kinds if kind in place["daemons"]}
    thing = document["scenarios"][place["scenario"]]["unit"]
    unit = METRICS[metric].unit
    return Row(*_named(document, place), unit if METRICS[metric].by_clock else f"{unit} a {thing}", cells)


def _named(document: Document, place: Any) -> tuple[str, str]:
    scenario = document["scenarios"][place["scenario"]]
    text = scenario["text"]
    return text[:1].upper() + text[1:], f"{place['x']:,} {scenario['axis']}"


def _cell(place: Any, metric: str, kind: str) -> Cell:
    one = place["daemons"][kind]
    if one["reason"]:
        return Cell("failed", title=one["reason"])
    if (value := one["median"].get(metric)) is None:
        return Cell("")
    found = place["against"].get(kind, {}).get(metric)
    if not found:
        return Cell(short(value))
    gain = f"{short(found['value'])}x [{short(found['low'])}, {short(found['high'])}]"
    return Cell(short(value), gain, "" if kind == ECHO else found["verdict"], f"covers {found['coverage']:.1%}")


def _plain(document: Document, place: Any, key: str, kinds: Sequence[str]) -> Row | None:
    """What is counted and not compared."""
    cells = {}
    for kind in kinds:
        one = place["daemons"].get(kind)
        if one is None or one["reason"]:
            continue
        if key == "syscalls" and one["syscalls"] is not None:
            cells[kind] = Cell(short(one["syscalls"]))
        elif key == "aborts" and one["eagain"]:
            cells[kind] = Cell(f"{one['eagain']:,} for {one['units']:,}")
    return Row(*_named(document, place), "", cells) if cells else None


def lost(document: Document) -> list[Row]:
    """Where another daemon is better than the subject: one row for each place and metric."""
    rows = []
    for place in document["places"]:
        for metric, said in METRICS.items():
            worse = [kind for kind, found in place["against"].items() if _verdict(found, metric) == "worse"]
            others = [kind for kind in worse if kind not in (ECHO, TWIN)]
            if others:
                kinds = [document["subject"], *others]
                row = _row(document, place, metric, kinds)
                rows.append(Row(row.text, row.x, f"{said.text}, {said.unit}", row.cells))
    return rows


def _verdict(found: Mapping[str, Any], metric: str) -> str:
    return str(found[metric]["verdict"]) if metric in found else ""


# -- pages ---------------------------------------------------------------------------------------------------------


def _render(template: str, **names: object) -> str:
    environment = Environment(
        loader=PackageLoader("fastxs.bench", "templates"),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda png: b64encode(png).decode()
    environment.filters["cells"] = _cells
    return environment.get_template(template).render(**names)


def _cells(row: Row, kinds: Sequence[str]) -> list[str]:
    """As plain text, where there are no colours."""
    return [_text(row.cells[kind]) if kind in row.cells else "" for kind in kinds]


def _text(cell: Cell) -> str:
    if not cell.gain:
        return cell.title or cell.value
    return f"{cell.value} ({cell.gain if cell.verdict in (*RANKED, '') else cell.verdict})"


def page(documents: Sequence[Document]) -> tuple[str, Mapping[str, bytes]]:
    """One page of one or more comparisons, with everything in it, and its plots by name, as PNG."""
    runs, pictures = [], {}
    for number, document in enumerate(documents, 1):
        parts = [(chapter, plots.of(document, chapter.name, chapter.places)) for chapter in chapters(document)]
        runs.append((document, parts, lost(document)))
        for plot in (plot for _, drawn in parts for plot in drawn):
            pictures[f"{number}-{plot.name}" if len(documents) > 1 else plot.name] = plot.png
    return _render("report.html.j2", runs=runs, ranked=RANKED), pictures


def tables(document: Document) -> str:
    """The first table of each chapter, and what was lost, as Markdown."""
    return _render("results.md.j2", run=document, chapters=list(chapters(document)), lost=lost(document), ranked=RANKED)


def fill(text: str, results: str) -> str:
    """The text with other results between its two marks.  ValueError: it has not both of them."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the lines {BEGIN!r} and {END!r} are wanted in it")
    return f"{head}{BEGIN}\n{results.strip()}\n{END}{tail}"
