"""What a command is given, and how it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO, NamedTuple

from fastxs.client import Client

__all__ = ["Call", "Failure"]


class Call(NamedTuple):
    """One call of one command."""

    client: Client
    options: Mapping[str, str]
    """The letters that were given, each with its value."""
    words: Sequence[bytes]
    out: BinaryIO
    """Standard output."""


class Failure(Exception):
    """The command's end with an exit status; the text, if there is any, is for standard error."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status
