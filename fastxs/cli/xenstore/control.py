"""control: a command for the daemon itself, and the steps of a live update.

Owns their exit statuses: 2 wrong words, 3 the daemon refuses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from errno import EINVAL
from typing import Final

from fastxs.cli.xenstore.call import Call, Failure
from fastxs.cli.xenstore.text import to_int
from fastxs.client import Client, NotFound, XenStoreError

__all__ = ["control"]

USAGE, REFUSED = 2, 3

BUSY: Final = b"BUSY"
"""The daemon's answer while something is in the update's way."""

TIMEOUT_S: Final = b"60"
"""For how long it is asked again."""


def control(call: Call) -> None:
    if call.words[0] == b"live-update":
        _live_update(call.client, call.words[1:])
        return
    try:
        said = _said(call.client, *call.words)
    except XenStoreError as error:
        if error.errno != EINVAL:
            raise Failure(str(error.strerror), REFUSED) from None
        raise Failure(f"the daemon has no such command; it has\n{_offered(call.client)}", REFUSED) from None
    if said:
        call.out.write(said + b"\n")


def _said(client: Client, *command: bytes) -> bytes:
    """The daemon's answer, which ends with a NUL."""
    return client.control(*command).partition(b"\0")[0]


def _offered(client: Client) -> str:
    with suppress(XenStoreError):
        return os.fsdecode(_said(client, b"help")).rstrip()
    return "no help either"


def _live_update(client: Client, words: Sequence[bytes]) -> None:
    """`[-c COMMANDLINE] [-F] [-t SECONDS] FILE`, in any order: the daemon becomes that program."""
    options: dict[bytes, bytes] = {}
    file = None
    rest = iter(words)
    for word in rest:
        if word in (b"-c", b"-t"):
            value = next(rest, None)
            if value is None:
                raise Failure(f"live-update: a value belongs to {os.fsdecode(word)}", USAGE)
            options[word] = value
        elif word == b"-F":
            options[word] = b""
        else:
            file = word
    if file is None:
        raise Failure("live-update: which program is the daemon to become?", USAGE)
    with suppress(NotFound):
        client.read(b"/tool/xenstored/domid")
        raise Failure("live-update: the daemon is a domain of its own, which takes no file")
    timeout_s = to_int(options.get(b"-t", TIMEOUT_S)) & 0xFFFFFFFF
    force = [b"-F"] if b"-F" in options else []
    _fine(_update(client, b"-f", file))
    try:
        if b"-c" in options:
            _fine(_update(client, b"-c", options[b"-c"]))
        deadline, said = time.monotonic() + timeout_s, BUSY
        while said == BUSY and time.monotonic() < deadline:
            said = _update(client, b"-s", b"-t", b"%d" % timeout_s, *force)
            if said == BUSY:
                time.sleep(1)
        _fine(said)
    except Failure:
        with suppress(Failure):
            _update(client, b"-a")
        raise


def _update(client: Client, *words: bytes) -> bytes:
    try:
        return _said(client, b"live-update", *words)
    except XenStoreError as error:
        raise Failure(f"live-update: {error.strerror}", REFUSED) from None


def _fine(said: bytes) -> None:
    if said != b"OK":
        raise Failure(f"live-update: {os.fsdecode(said)}", REFUSED)
