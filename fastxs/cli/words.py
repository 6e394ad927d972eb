"""What commands and whoever typed them say to each other: bytes that a terminal can bear, refusals, exit statuses.

Owns these forms, and the connection to the daemon that a command asks.  Refuses to know what is asked; imports little,
because most commands live for a moment only.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from fastxs.client import (
    AccessDenied,
    Client,
    Conflict,
    Disconnected,
    InvalidRequest,
    NotPermitted,
    NotSupported,
    QuotaExceeded,
    TooBig,
    XenStoreError,
    daemon_socket,
)
from fastxs.daemon.claims import reason

__all__ = [
    "ABSENT",
    "FORBIDDEN",
    "REFUSED",
    "Refused",
    "connected",
    "escaped",
    "field",
    "refusal",
    "said",
    "shown",
    "socket_option",
    "unescaped",
]

REFUSED, ABSENT, FORBIDDEN = 1, 3, 4
"""Exit statuses: the answer is no; there is no daemon to ask; rights are missing.  2 is click's: a wrong option."""

SHORT: Final = {"\\": r"\\", "\n": r"\n", "\t": r"\t", "\r": r"\r"}
LONG: Final = {text.encode(): char.encode() for char, text in SHORT.items()}


# ---- bytes -------------------------------------------------------------------------------------------------


def escaped(raw: bytes) -> str:
    """For a terminal: harmless to it, never the same for different bytes; `unescaped` takes it back."""
    return "".join(map(_escape, raw.decode(errors="surrogateescape")))


def _escape(char: str) -> str:
    if char in SHORT:
        return SHORT[char]
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode(errors="surrogateescape"))


def unescaped(text: bytes) -> bytes:
    r"""What `escaped` made that of.  ValueError: a backslash that is followed by none of `\`, `n`, `t`, `r`, `xHH`."""

    def one(match: re.Match[bytes]) -> bytes:
        found = match[0]
        if found in LONG:
            return LONG[found]
        if len(found) < 4:
            raise ValueError(f"{os.fsdecode(found)!r} is no escape; there are \\\\ \\n \\t \\r and \\xHH")
        return bytes([int(found[2:], 16)])

    return re.sub(rb"\\(?:x[0-9a-fA-F]{2}|.|$)", one, text, flags=re.DOTALL)


def shown(raw: bytes) -> str:
    """`escaped`, in quotes."""
    return '"{}"'.format(escaped(raw).replace('"', r"\x22"))


def field(name: str, raw: bytes) -> dict[str, str]:
    """As JSON has it: text, or base64 under the same name with `64` at its end where it is no UTF-8."""
    try:
        return {name: raw.decode()}
    except UnicodeDecodeError:
        return {f"{name}64": b64encode(raw).decode()}


# ---- refusals ----------------------------------------------------------------------------------------------


class Refused(click.ClickException):
    """One line on stderr, perhaps a second one that says what to do next, and this exit status."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it for classes


NEXT: Final[dict[type[XenStoreError], tuple[int, str]]] = {
    AccessDenied: (FORBIDDEN, "`fastxs ls -p` shows who may; a node's owner and the control domain can change that"),
    NotPermitted: (FORBIDDEN, "only the control domain may"),
    Conflict: (REFUSED, "others kept changing the same nodes; nothing was done: do it again"),
    InvalidRequest: (REFUSED, "is the path legal? It has letters, digits and - / _ @, and no //"),
    NotSupported: (REFUSED, "this daemon does not know the operation"),
    QuotaExceeded: (REFUSED, "`fastxs control quota` shows the limits"),
    TooBig: (REFUSED, "a request holds 4096 bytes, path and value together"),
}
"""The exit status of what a daemon says, and what to do next."""


def refusal(error: XenStoreError) -> Refused:
    """What the daemon said, in words."""
    status, next_ = NEXT.get(type(error), (ABSENT if isinstance(error, Disconnected) else REFUSED, ""))
    text = f"{shown(error.filename)}: {error.strerror}" if error.filename else str(error.strerror)
    return Refused(f"{text}\n{next_}" if next_ else text, status)


@contextmanager
def said() -> Iterator[None]:
    """Whatever the daemon refuses is said to whoever typed the command."""
    try:
        yield
    except XenStoreError as error:
        raise refusal(error) from None


# ---- the daemon --------------------------------------------------------------------------------------------

socket_option: Final = click.option(
    "--socket",
    metavar="SOCKET",
    type=click.Path(),
    help="The daemon's socket, if it is not where the environment says.",
)


@contextmanager
def connected(socket: str | None = None) -> Iterator[Client]:
    """The daemon at this socket, or where the environment says.  Refused: there is none."""
    client = Client(socket)
    try:
        client.connect()
    except Disconnected as error:
        why = reason(error.__cause__) if isinstance(error.__cause__, OSError) else str(error)
        text = f"no daemon answers at {socket or daemon_socket()}: {why}"
        if not isinstance(error.__cause__, PermissionError):
            text += "\nstart one (fastxsd; without Xen: fastxsd --sim), or say where it is (--socket, $XENSTORED_PATH)"
        raise Refused(text, ABSENT) from None
    with client:
        yield client
