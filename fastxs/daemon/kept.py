"""Being kept: a daemon in the background has a keeper, who holds its clients' sockets and starts it again.

Owns the daemon's side of that: how it gets under a keeper, that it gets another one when that one dies, and that it has
none any more when it becomes a daemon that knows of no keeper.  Knows the
keeper by its command line, its pid file and the words of `notify` only.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from fastxs.daemon import keeper, logs
from fastxs.daemon.claims import hold_name, hold_pid_file, need_folder
from fastxs.daemon.config import Config
from fastxs.daemon.notify import CONNECTION, LISTENER, channel, notify, store
from fastxs.daemon.process import has_ended

if TYPE_CHECKING:
    from fastxs._core import Engine

__all__ = ["get_kept", "in_background", "let_keeper_go", "stay_kept"]

WATCHDOG_S: Final = 30
"""As in packaging/systemd/fastxs.service."""

TAKE_OVER: Final = ("-U", "--live-update", "--live", "--restart")
"""Flags that were true of one start only."""

RETRY_S: Final = 10.0
"""Until another keeper is tried, where none could be started."""


def in_background(config: Config, argv: Sequence[str]) -> NoReturn:
    """Become the keeper of a daemon with these arguments; whoever started us waits until that has answered.

    `argv` must mean the same from any directory.  StartError: what is in the way already.
    """
    daemon = config.daemon
    need_folder(os.path.dirname(daemon.socket_path), "the socket")
    with ExitStack() as stack:  # whose these are is better said by us than by the keeper or its daemon
        stack.enter_context(hold_pid_file(f"{daemon.socket_path}.lock", "the lock"))
        if daemon.pid_file is not None:
            stack.enter_context(hold_pid_file(daemon.pid_file))
        stack.enter_context(hold_name(_notices(config), socket.SOCK_DGRAM))
    words = _keeper(config, [sys.executable, "-m", "fastxs.cli.fastxsd", *argv, "--kept"])
    os.execv(words[0], words)


async def get_kept(config: Config) -> None:
    """Have a keeper from now on, though nobody started us under one; if there is none yet, `stay_kept` tries again."""
    started = await _another(config)
    os.environ |= {
        "NOTIFY_SOCKET": _notices(config),
        "WATCHDOG_USEC": str(WATCHDOG_S * 1_000_000),
        "WATCHDOG_PID": str(os.getpid()),
    }
    if not started:
        logs.log.error("no keeper yet: the clients' sockets die with this process")


def let_keeper_go(config: Config) -> None:
    """Have no keeper from now on; returns when it is gone, with its pid file and all that it kept."""
    with suppress(OSError):
        pidfd = os.pidfd_open(_pid(config))
        try:
            if notify("KEEP=0"):
                has_ended(pidfd, RETRY_S)
        finally:
            os.close(pidfd)


async def stay_kept(config: Config, engine: Engine, listener: int) -> NoReturn:
    """See the keeper die, start another one, hand it every descriptor; the daemon goes on meanwhile."""
    while True:
        await _end_of(_pid(config))
        logs.log.error("the keeper is gone; starting another one")
        while not await _another(config):
            logs.log.error("no keeper: the clients' sockets die with this process", next_try_s=RETRY_S)
            await asyncio.sleep(RETRY_S)
        to = channel()
        if to is None:
            continue  # that one is gone, too
        # No turn comes between these: each connection is stored once, by us or by the core.
        engine.keep(to.detach())
        store(LISTENER, listener)
        store(CONNECTION, *[int(one["fd"]) for one in engine.connections() if one["kind"] == "socket"])
        logs.log.info("another keeper has every descriptor")


def _pid_file(config: Config) -> str:
    """The keeper's, who is also its claim: a second one refuses."""
    return config.daemon.pid_file or f"{config.daemon.socket_path}.keeper"


def _pid(config: Config) -> int:
    """Of the keeper; 0: there is none."""
    try:
        pid = int(Path(_pid_file(config)).read_text())
    except (OSError, ValueError):
        return 0
    return 0 if pid == os.getpid() else pid  # ours, from before there was a keeper


def _notices(config: Config) -> str:
    return f"{config.daemon.socket_path}.notify"


def _keeper(config: Config, daemon: Sequence[str], adopt: int | None = None) -> list[str]:
    return keeper.command(
        daemon, pid_file=_pid_file(config), notify_socket=_notices(config), watchdog_s=WATCHDOG_S, adopt=adopt
    )


async def _end_of(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pidfd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


async def _another(config: Config) -> bool:
    """Whether a new keeper has adopted us; it will start us as we were started, but for a take-over."""
    # The interpreter by its full path: what ran us may have been named as seen from a directory that was ours.
    again = [sys.executable, *(word for word in sys.orig_argv[1:] if word not in TAKE_OVER)]
    words = _keeper(config, again if "--kept" in again else [*again, "--kept"], adopt=os.getpid())
    env = dict(os.environ)
    if env.get("NOTIFY_SOCKET") == _notices(config):
        del env["NOTIFY_SOCKET"]  # it listens there itself
    try:
        process = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.DEVNULL, env=env)
    except OSError:
        return False
    return await process.wait() == 0
