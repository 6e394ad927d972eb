"""A daemon with a guest, and the command `fastxs` in its environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastxs.cli.main import main
from fastxs.testing import Guest, Xenstored

BINARY = b"\0\x80\xff\x1b[31m"


@pytest.fixture
def store() -> Iterator[Xenstored]:
    with Xenstored() as store:
        yield store


@pytest.fixture
def guest(store: Xenstored) -> Guest:
    """With something of its own, and something in /shared that only tools look at."""
    guest = store.guest(7)
    guest.client["data/binary"] = BINARY
    store.client["/shared/text"] = b"hello"
    return guest


class Fastxs:
    """The command, in the environment of a daemon."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env

    def __call__(self, *words: str | Path, status: int = 0, stdin: bytes | None = None) -> Result:
        result = CliRunner(env={**self._env}).invoke(main, [*map(str, words)], input=stdin)
        assert result.exit_code == status, (result.output, result.exception)
        return result


@pytest.fixture
def fastxs(store: Xenstored) -> Fastxs:
    return Fastxs(store.env)
