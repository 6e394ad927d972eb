"""Whatever holds a recording: one of ours, C xenstored's trace file, oxenstored's access log.

Owns how they are told apart, by their first bytes.  Refuses to know what is in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fastxs.replay import accesslog, recording, trace
from fastxs.replay.recording import Head, Record, RecordingError

__all__ = ["opened"]

BEGINNING: Final = 4096


@contextmanager
def opened(path: str) -> Iterator[tuple[Head, Iterator[Record]]]:
    """The head, and the records as they are asked for.

    RecordingError: it is nothing of that; the text names the file.  OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        beginning = file.peek(BEGINNING)
        try:
            if beginning.startswith(recording.MARK):
                yield recording.read(file)
            elif trace.HEAD.match(beginning):
                yield Head(path, "served", blanks=True), trace.records(file)
            elif accesslog.BEGIN.match(beginning):
                yield Head(path, "served", blanks=True), accesslog.records(file)
            else:
                raise RecordingError("no recording, no trace file of C xenstored's, no access log of oxenstored's")
        except RecordingError as error:
            raise RecordingError(f"{path}: {error}") from None
