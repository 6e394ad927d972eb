"""What the daemon says of itself (structlog over stdlib logging), and C xenstored's trace file.

Owns the log's format and place, the words for what the Engine refuses, and the trace file's descriptor.  The Engine
counts, rate-limits and writes trace lines; this room only says and opens.
"""

from __future__ import annotations

import codecs
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import structlog

from fastxs.daemon.config import Log, switched

if TYPE_CHECKING:
    from fastxs._core import Engine, Notice

__all__ = ["TraceFile", "log", "open_to_append", "printable", "reopen", "set_up", "tell"]

log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("fastxs")

NOTICES: Final[dict[str, tuple[int, str, str]]] = {
    "quota": (logging.WARNING, "quota reached", "quota"),
    "soft-quota": (logging.WARNING, "soft quota exceeded", "quota"),
    "permission": (logging.INFO, "permission refused", "path"),
    "protocol": (logging.WARNING, "bad request", "what"),
    "conflict": (logging.INFO, "transaction conflict", "path"),
    "collapse": (logging.WARNING, "events collapsed: the peer does not read", "watch"),
    "accept": (logging.ERROR, "cannot accept a connection", "what"),
    "domain": (logging.INFO, "domain", "what"),
}
"""`Notice.kind` -> level, the line's words, the name of the field that holds `Notice.what`."""


def set_up(settings: Log) -> None:
    """Send everything to one place in one format.  OSError: the file cannot be opened.

    A line that cannot be written (full disk, closed pipe) is lost in silence: the store goes on.
    """
    logging.raiseExceptions = False
    # Watched: a rotated file is left at the next line, also without a SIGHUP.
    handler: logging.Handler = (
        logging.handlers.WatchedFileHandler(settings.file) if settings.file else logging.StreamHandler(sys.stderr)
    )
    console = settings.format == "console" or (
        settings.format == "auto" and settings.file is None and sys.stderr.isatty()
    )
    renderer: list[Any] = (
        [structlog.dev.ConsoleRenderer(colors=settings.file is None and sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not console),
    ]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def reopen() -> None:
    """Open log files by name again if they were moved away."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.handlers.WatchedFileHandler):
            handler.acquire()
            try:
                handler.reopenIfNeeded()
            finally:
                handler.release()


_escape: Final = codecs.lookup("unicode_escape").encode
"""Looked up now: it is a file, and a daemon that has no descriptors left has lines to write, too."""


def printable(data: bytes) -> str:
    """Bytes of a guest as text that no terminal acts upon."""
    return _escape(data.decode("latin-1"))[0].decode("ascii")


def tell(notices: Iterable[Notice]) -> None:
    """A line for each thing that the Engine refused: who, what, which error, how many were held back."""
    for notice in notices:
        level, event, name = NOTICES.get(notice.kind, (logging.WARNING, notice.kind, "what"))
        fields: dict[str, object] = {"domid": notice.domid, "conn_id": notice.conn_id}
        if notice.what:
            fields[name] = printable(notice.what)
        if notice.error:
            fields["error"] = notice.error
        if notice.count > 1:
            fields["held_back"] = notice.count - 1
        log.log(level, event, **fields)


def open_to_append(path: str, mode: int) -> int:
    """A descriptor that appends to this file; never waits, as opening a pipe that nobody reads would."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    return os.open(path, flags, mode)


class TraceFile:
    """The trace file behind `-T` and the control commands `log` and `logfile`: a name, switches, on or off.

    The descriptor is ours, the lines are the Engine's.  A name that cannot be opened leaves tracing as it is.
    """

    def __init__(self, engine: Engine, switches: Iterable[str], folder: str) -> None:
        self._engine = engine
        self.switches = tuple(switches)
        self._folder = folder
        self._path: str | None = None
        self._fd: int | None = None

    def open(self, path: str | None = None) -> None:
        """Trace to `path` (relative: to the folder), or to the last one again, by name.  OSError: it cannot be."""
        wanted = self._path if path is None else self.name(path)
        if wanted is None:
            return
        fd = open_to_append(wanted, 0o600)
        try:
            os.write(fd, b"\n***\n")  # how C xenstored marks each opening (SPEC 6.4)
        except OSError:
            os.close(fd)
            raise
        self._path = wanted
        self._use(fd)

    def name(self, path: str) -> str:
        """Where a file of this name lies: relative ones in the folder."""
        return os.path.join(self._folder, path)

    def close(self) -> None:
        """Stop tracing; the name is kept for `open`."""
        self._use(None)

    def reopen(self) -> None:
        """After a rotation: as `open`, if it is open."""
        if self._fd is not None:
            self.open()

    def switch(self, change: str) -> None:
        """`+io` or `-io`.  ValueError: no such switch."""
        self.switches = switched(self.switches, change)
        if self._fd is not None:
            self._engine.trace(self._fd, self.switches)

    def write(self, text: str) -> bool:
        """Append free text, as `memreport` does; False if nothing is traced."""
        if self._fd is None:
            return False
        os.write(self._fd, text.encode(errors="surrogateescape"))
        return True

    def _use(self, fd: int | None) -> None:
        # The Engine lets go of the old descriptor before it is closed.
        self._engine.trace(fd, self.switches)
        old, self._fd = self._fd, fd
        if old is not None:
            os.close(old)
