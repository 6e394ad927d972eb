"""The file: every record comes back as it was, and damage is told with its line."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxs.replay.recording import (
    Answer,
    Answered,
    Asked,
    Began,
    Ended,
    Head,
    Node,
    Record,
    RecordingError,
    Told,
    read,
    to_line,
)

HEAD = Head("/run/xenstored/socket", "sent")
NUMBER = st.integers(1, 0xFFFFFFFF)
TIME = st.integers(0, 10**12).map(lambda microseconds: microseconds / 1e6)
RECORDS = st.one_of(
    st.builds(Node, st.binary(), st.binary(), st.lists(st.binary(), max_size=3).map(tuple)),
    st.builds(Began, TIME, NUMBER, NUMBER, st.booleans()),
    st.builds(Asked, TIME, NUMBER, st.integers(0, 30), NUMBER, NUMBER, st.binary()),
    st.builds(Answered, TIME, NUMBER, NUMBER, st.builds(Answer, st.just("ENOENT"), st.none())),
    st.builds(Answered, TIME, NUMBER, NUMBER, st.builds(Answer, st.none(), st.none() | st.binary())),
    st.builds(Told, TIME, NUMBER, st.binary()),
    st.builds(Ended, TIME, NUMBER),
)


@given(st.lists(RECORDS), st.booleans())
def test_what_is_written_is_read(records: list[Record], blanks: bool) -> None:
    head = Head("/some/socket", "served", blanks)
    written = b"".join(map(to_line, (head, *records)))
    assert written.count(b"\n") == 1 + len(records)
    found, those = read(BytesIO(written))
    assert (found, [*those]) == (head, records)


def test_a_recording_can_be_read_by_people() -> None:
    assert to_line(Asked(0.0021, 1, 2, 7, 3, b"/tool\0")) == (
        b'{"at":0.0021,"conn":1,"asks":"READ","req":7,"tx":3,"payload":"/tool\\u0000"}\n'
    )


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (b"", "line 1: it is cut off"),
        (b'{"fastxs-recording":2}\n', "version 2; this fastxs reads version 1"),
        (b'{"fastxs-recording":1,"of":"x","order":"any"}\n', "line 1: order 'any'"),
        (to_line(HEAD) + b'{"at":1,"conn":', "line 2: it is cut off"),
        (to_line(HEAD) + b"[]\n", "line 2: it is no object"),
        (to_line(HEAD) + b'{"at":1,"conn":1}\n', "line 2: nothing that a recording holds"),
        (to_line(HEAD) + b'{"conn":1,"ends":true}\n', "line 2: 'at' is missing"),
        (to_line(HEAD) + b'{"at":1,"conn":1,"asks":"NONE","req":1,"payload":""}\n', "line 2: .*'NONE'"),
    ],
)
def test_damage_is_told_with_its_line(lines: bytes, why: str) -> None:
    with pytest.raises(RecordingError, match=why):
        _, records = read(BytesIO(lines))
        for _ in records:
            pass
