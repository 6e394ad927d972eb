"""Xen's commands from Debian and from us, side by side: how each is called, and what it did."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

import pytest

from fastxs.cli.xenstore.main import run
from fastxs.hypervisor.host import XEN_BIN, Host, Kind
from tests.conftest import running

Outcome: TypeAlias = tuple[int, bytes]
"""Exit status and standard output."""

Side: TypeAlias = Callable[..., Outcome]


def commands(session: str) -> list[list[str]]:
    """A session's lines as words, by Xen's names; `{x200}` stands for 200 times x, and `{newline}` for one."""
    text = re.sub(r"\{(\D+?)([0-9]+)\}", lambda found: found[1] * int(found[2]), session)
    lines = [shlex.split(line) for line in text.split("\n") if line and not line.startswith("#")]
    return [
        [name if name == "xenstore" else f"xenstore-{name}", *(word.replace("{newline}", "\n") for word in words)]
        for name, *words in lines
    ]


def program(name: str) -> str:
    """Where Debian's command is."""
    return str(XEN_BIN / name) if name == "xenstore-control" else name


def debian(words: list[str], env: Mapping[str, str]) -> Outcome:
    try:
        done = subprocess.run(
            [program(words[0]), *words[1:]],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip(f"{words[0]} is missing (Debian packages xenstore-utils and xen-utils-4.17)")
    return done.returncode, done.stdout


def ours(words: list[str], env: Mapping[str, str]) -> Outcome:
    """In this process."""
    out = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()):
        for name, value in env.items():
            patch.setenv(name, value)
        status = run(words, out)
    return status, out.getvalue()


def typed(command: str, env: Mapping[str, str]) -> Outcome:
    """Ours, of one line."""
    (words,) = commands(command)
    return ours(words, env)


SIDES: Final[tuple[Side, Side]] = (debian, ours)


@contextlib.contextmanager
def two_hosts(kind: Kind) -> Iterator[list[Host]]:
    """A daemon for each side: what they did is then seen by what they see."""
    with running(kind) as theirs, running(kind) as mine:
        yield [theirs, mine]


def compare(session: str, hosts: list[Host]) -> None:
    """Every command's outcome is the same on both sides."""
    differences = []
    for words in commands(session):
        theirs, mine = (side(words, host.env) for side, host in zip(SIDES, hosts, strict=True))
        if theirs != mine:
            differences.append((words, theirs, mine))
    assert differences == []
