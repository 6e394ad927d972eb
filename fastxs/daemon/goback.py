"""The way back from a take-over that failed: this process becomes the daemon that it was before.

Owns where that daemon's program is found and what the one who asked for the update is told.  There is a way back for as
long as the state file is where that daemon left it (`fastxs.daemon.takeover` moves it when nothing else can fail than
what fails at every start).  Loads nothing of the core, which may be what cannot be loaded.
"""

from __future__ import annotations

import os
import struct
import subprocess
import syslog
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from fastxs.daemon.config import Config
from fastxs.daemon.handover import STATE_FILES, for_xenstored
from fastxs.state import Socket, State, StreamError, load, write

__all__ = ["go_back"]

USUAL: Final = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/xen/bin")
"""Where distributions and Xen's own `make install` put the daemons; Debian has a folder for each version of Xen."""

VERSION: Final = Path("/sys/hypervisor/version")

CONTROL_OK: Final = struct.Struct("=4I3s")


def go_back(config: Config, words: Sequence[str], why: str) -> str:
    """Become the daemon before us, with our own arguments `words` as far as it knows them; whoever asked for the update
    is told `why`.  If that cannot be, what the administrator can do, as a sentence; nothing if there is nothing."""
    for name in STATE_FILES:
        path = Path(config.daemon.run_dir, name)
        if path.exists():
            break
    else:
        taken = [name for name in STATE_FILES if Path(config.daemon.run_dir, f"{name}.taken-over").exists()]
        return f"the store is in {config.daemon.image_path}: start fastxsd again, without -U" if taken else ""
    found = [config.daemon.fallback] if config.daemon.fallback else programs(STATE_FILES[name])
    syslog.syslog(syslog.LOG_ERR, f"cannot take over: {why}; going back to {', '.join(found)}")
    with suppress(OSError, StreamError):
        _prepare(path, f"fastxs cannot take over ({why}). The old program is back.")
    for program in found:
        with suppress(OSError):
            os.execv(program, [program, *_arguments(program, for_xenstored(words))])
    return f"the store is in {path}: {STATE_FILES[name]} goes on from it, but none can be run"


def programs(name: str) -> list[str]:
    """The daemons of that name that are there, that of the running Xen first."""
    running = ".".join(_text(VERSION / part) for part in ("major", "minor"))
    debian = sorted(map(str, Path("/usr/lib").glob("xen-*/bin")), key=lambda path: running in path, reverse=True)
    paths = (os.path.join(folder, name) for folder in (*debian, *USUAL))
    return [path for path in paths if os.access(path, os.X_OK)]


def _arguments(program: str, words: list[str]) -> list[str]:
    """`words`, if C xenstored understands them; they may be what was wrong."""
    if (
        "-U" not in words
        or not subprocess.run([program, *words, "--help"], capture_output=True, check=False).returncode
    ):
        return words
    return ["-U"]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _prepare(path: Path, answer: str) -> None:
    """The descriptors as that daemon left them to us, and another answer than the OK that it has written for us."""
    with path.open("rb") as file:
        version: int = struct.unpack_from(">8xI", file.read(12))[0]
        state = load(file)
    for fd in descriptors(state):
        os.set_inheritable(fd, True)
        os.set_blocking(fd, True)
    asked = [one for one in state.connections if _has_asked(one.unsent)]
    if len(asked) != 1:
        return  # oxenstored's successor is asked once more; nobody else has left an answer
    text = answer.encode() + b"\0"
    kind, req_id, tx_id, *_ = CONTROL_OK.unpack(asked[0].unsent[-CONTROL_OK.size :])
    asked[0].unsent = asked[0].unsent[: -CONTROL_OK.size] + struct.pack("=4I", kind, req_id, tx_id, len(text)) + text
    new = path.with_name(path.name + ".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        write(state, stream, 2 if version > 1 else 1)
    os.replace(new, path)


def descriptors(state: State) -> Iterable[int]:
    """All that were handed over."""
    yield from (one.peer.fd for one in state.connections if isinstance(one.peer, Socket))
    yield from (fd for fd in (state.listen_fd, state.evtchn_fd) if fd is not None)


def _has_asked(unsent: bytes) -> bool:
    if len(unsent) < CONTROL_OK.size:
        return False
    kind, _, _, length, text = CONTROL_OK.unpack(unsent[-CONTROL_OK.size :])
    return (kind, length, text) == (0, 3, b"OK\0")
