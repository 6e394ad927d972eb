"""What the daemon says: refusals as lines, one format per place, and nothing that a guest could do to a terminal."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from fastxs.daemon import logs
from fastxs.daemon.config import Log


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    root.handlers = []
    yield
    for handler in root.handlers:
        with suppress(OSError):
            handler.close()
    root.handlers, logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error, not a terminal."""
    screen = io.StringIO()
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=screen))  # pytest has its own idea of sys.stderr
    return screen


def notice(kind: str, what: bytes = b"", error: str = "", count: int = 1) -> Any:
    return SimpleNamespace(kind=kind, domid=7, conn_id=3, what=what, error=error, count=count)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            notice("quota", b"nodes", "ENOSPC", 5),
            {"event": "quota reached", "level": "warning", "quota": "nodes", "error": "ENOSPC", "held_back": 4},
        ),
        (
            notice("soft-quota", b"soft-memory"),
            {"event": "soft quota exceeded", "level": "warning", "quota": "soft-memory"},
        ),
        (
            notice("permission", b"/local/domain/0/x", "EACCES"),
            {"event": "permission refused", "level": "info", "path": "/local/domain/0/x", "error": "EACCES"},
        ),
        (
            notice("protocol", b"len 5000"),
            {"event": "bad request", "level": "warning", "what": "len 5000"},
        ),
        (
            notice("conflict", b"/a", "EAGAIN"),
            {"event": "transaction conflict", "level": "info", "path": "/a", "error": "EAGAIN"},
        ),
        (
            notice("collapse", b"/a\n\x1b[2J\xff"),
            {
                "event": "events collapsed: the peer does not read",
                "level": "warning",
                "watch": "/a\\n\\x1b[2J\\xff",
            },
        ),
        (notice("accept", b"EMFILE"), {"event": "cannot accept a connection", "level": "error", "what": "EMFILE"}),
        (notice("domain", b"dead"), {"event": "domain", "level": "info", "what": "dead"}),
        (notice("something new", b"x"), {"event": "something new", "level": "warning", "what": "x"}),
    ],
)
def test_a_notice_is_a_line_that_says_who_and_what(screen: io.StringIO, told: Any, said: dict[str, object]) -> None:
    logs.set_up(Log())
    logs.tell([told])
    line = json.loads(screen.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == said | {"domid": 7, "conn_id": 3}


def test_the_level_is_the_least_that_is_logged(screen: io.StringIO) -> None:
    logs.set_up(Log(level="warning"))
    logs.tell([notice("permission", b"/a"), notice("quota", b"nodes")])
    assert [json.loads(line)["event"] for line in screen.getvalue().splitlines()] == ["quota reached"]


def test_a_terminal_gets_text(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "isatty", lambda: True)
    logs.set_up(Log())
    logs.tell([notice("quota", b"nodes\x1b]0;own the title\x07", "ENOSPC")])
    assert "quota reached" in screen.getvalue()
    assert "\x1b]" not in screen.getvalue()
    assert "\x07" not in screen.getvalue()


def test_the_format_can_be_forced(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    logs.set_up(Log(format="console"))
    logs.tell([notice("quota", b"nodes")])
    assert not screen.getvalue().startswith("{")
    monkeypatch.setattr(screen, "isatty", lambda: True)
    logs.set_up(Log(format="json"))
    screen.truncate(0), screen.seek(0)
    logs.tell([notice("quota", b"nodes")])
    assert json.loads(screen.getvalue())["event"] == "quota reached"


def test_other_libraries_speak_through_the_same_log(screen: io.StringIO) -> None:
    logs.set_up(Log())
    logging.getLogger("asyncio").warning("slow %s", "callback")
    line = json.loads(screen.getvalue())
    assert (line["event"], line["level"]) == ("slow callback", "warning")


def test_a_log_that_was_moved_away_is_opened_again(tmp_path: Path) -> None:
    file = tmp_path / "log"
    logs.set_up(Log(file=str(file)))
    logs.log.info("one")
    file.rename(tmp_path / "log.1")
    logs.reopen()
    logs.log.info("two")
    assert json.loads((tmp_path / "log.1").read_text())["event"] == "one"
    assert json.loads(file.read_text())["event"] == "two"


def test_a_log_that_cannot_be_written_loses_lines_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up(Log(file="/dev/full"))
    logs.log.error("nobody hears this")
    assert capfd.readouterr() == ("", "")


class Traced:
    """An Engine that remembers what it was told to trace to."""

    def __init__(self) -> None:
        self.calls: list[tuple[bool, tuple[str, ...]]] = []

    def trace(self, fd: int | None, switches: tuple[str, ...]) -> None:
        self.calls.append((fd is not None, switches))


def test_the_engine_lets_go_of_a_trace_file_before_it_is_closed(tmp_path: Path) -> None:
    engine = Traced()
    trace = logs.TraceFile(cast(Any, engine), ["io"], str(tmp_path))
    trace.open()  # no name yet
    trace.reopen()
    assert not trace.write("lost")
    assert engine.calls == []
    trace.open("a")
    trace.open("b")
    trace.close()
    trace.reopen()  # closed stays closed
    assert engine.calls == [(True, ("io",)), (True, ("io",)), (False, ("io",))]
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "\n***\n"
    with pytest.raises(OSError):
        trace.open("none/a")
    with pytest.raises(OSError):
        trace.open("/dev/full")
    with pytest.raises(ValueError):
        trace.switch("io")
