"""Live update: the running daemon becomes another program, in place, and its peers notice nothing.

Owns the session that `xenstore-control live-update` talks to, in C xenstored's words (SPEC 6.3, 6.5), the trial of the
new program before anything is given up, the handing over of descriptors, and the guardian: a copy of this process that
serves on if the new one does not.  Knows nothing of records and requests: the image holds all there is, and going over
an exec is what going over a crash is, with the descriptors kept.  docs/live-update.md tells it to administrators.
"""

from __future__ import annotations

import asyncio
import getopt
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

from fastxs._core import ControlError
from fastxs.daemon.handover import ENVIRONMENT, KEPT, READY, READY_S, HandedOver, for_xenstored
from fastxs.daemon.logs import log
from fastxs.daemon.notify import CONNECTION, LISTENER, barrier, forget, notify, watchdog_words
from fastxs.daemon.process import has_ended

if TYPE_CHECKING:
    from fastxs._core import Engine

__all__ = ["LiveUpdate"]

TRIAL_S: Final = 60.0
"""How long the new program may take to say that it would do."""

TICK_S: Final = 0.02

OK: Final = "OK"
NO_SESSION: Final = "Not in live-update session."
EXEC_FAILED: Final = "Error activating new binary."


class Foreign(Protocol):
    """What a program that is no fastxs can go on with (`fastxs.daemon.lifecycle` knows where that lies)."""

    def write(self, version: int, answer: tuple[int, int, int]) -> list[str]:
        """Write the state; sentences on what it cannot carry."""

    def descriptor(self) -> int:
        """Of the event channels."""

    def drop(self) -> None:
        """It is not to be read."""

    def leave_keeper(self) -> None:
        """It does not know of our keeper, if we have one of our own."""

    def let_go(self) -> None:
        """From now on the other one's word counts, not our image."""

    def is_there(self) -> bool:
        """Whether the state still waits to be read."""

    def take_back(self) -> None:
        """Undo `let_go`, but for the event channels, which may be gone."""

    def bind_virq(self) -> None: ...


class Resume(Protocol):
    """Serves again, in the guardian, from the image; returns at the end of the daemon's life."""

    def __call__(self, handed: HandedOver) -> None: ...


@dataclass(slots=True)
class Session:
    """A live update that was announced: by whom, and to what."""

    conn_id: int
    file: str
    arguments: list[str]
    starting: asyncio.Task[None] | None = None


class LiveUpdate:
    """The command `live-update`; one instance is the daemon's.

    `listener` is the Engine's descriptor; `trial` are words that a new program is started with, after its own, to learn
    whether it would do; `turn()` is the last that the image has; `let_go` closes what only one process may have;
    `owes_ok`: who asked the daemon before us for the update asks once more whether it is done; `kept`: our keeper is
    our own, and the next fastxsd's.
    """

    def __init__(
        self,
        engine: Engine,
        listener: int,
        trial: list[str],
        *,
        turn: Callable[[], int],
        let_go: Callable[[], None],
        resume: Resume,
        foreign: Foreign,
        kept: bool,
        owes_ok: bool = False,
    ) -> None:
        self._engine: Final = engine
        self._listener: Final = listener
        self._trial: Final = trial
        self._turn: Final = turn
        self._let_go: Final = let_go
        self._resume: Final = resume
        self._foreign: Final = foreign
        self._kept: Final = kept
        self._session: Session | None = None
        self._owes_ok = owes_ok

    def __call__(self, conn_id: int, words: list[str]) -> str | None:
        """The answer to one step; None: it comes when it is known.  ControlError: the words make no sense."""
        session = self._session
        if self._owes_ok and session is None and words[:1] == ["-s"]:
            self._owes_ok = False
            return OK
        match words:
            case ["-f", file]:
                return self._announce(conn_id, file)
            case ["-a"]:
                return self._abort()
            case ["-c", _] | ["-s", *_] if session is None or session.conn_id != conn_id:
                return NO_SESSION
            case ["-c", line] if session is not None:
                session.arguments = [word for word in re.split("[ \t]", line) if word]
                return OK
            case ["-s", *rest] if session is not None:
                return self._start(session, rest)
            case _:
                raise ControlError("EINVAL")

    def _announce(self, conn_id: int, file: str) -> str:
        if self._session is not None:
            return "live-update session already active."
        if not os.path.isfile(file):
            return "File not accessible."
        if not os.access(file, os.X_OK):
            return "File not executable."
        self._session = Session(conn_id, file, sys.argv[1:])
        self._engine.hold_transactions(True)
        self._watch(self._session)
        return OK

    def _watch(self, session: Session) -> None:
        """It ends with the connection that announced it."""
        if self._session is not session:
            return
        if self._engine.connected(session.conn_id):
            asyncio.get_running_loop().call_later(TICK_S, self._watch, session)
        else:
            self._end()

    def _abort(self) -> str:
        if self._session is None:
            return "No live-update session active."
        self._end()
        return OK

    def _end(self) -> None:
        session, self._session = self._session, None
        self._engine.hold_transactions(False)
        if session is not None and session.starting is not None:
            session.starting.cancel()

    def _start(self, session: Session, rest: list[str]) -> str | None:
        try:
            flags, more = getopt.getopt(rest, "t:Fv:")
            options = dict(flags)
            timeout_s = int(options.get("-t", "0"))
        except (getopt.GetoptError, ValueError):
            raise ControlError("EINVAL") from None
        if more or session.starting is not None:
            raise ControlError("EINVAL")
        ask = (session.conn_id, *self._engine.asked())
        going = self._go(session, ask, timeout_s, int(options.get("-v", "1")), "-F" in options)
        session.starting = asyncio.get_running_loop().create_task(going)
        return None

    async def _go(self, session: Session, ask: tuple[int, int, int], timeout_s: int, version: int, force: bool) -> None:
        """All of it; comes back only to say why not."""
        why = "Live update aborted."
        try:
            why = await self._all(session, ask, timeout_s, version, force)
        except Exception as error:
            log.error("live update failed", file=session.file, exc_info=True)
            why = f"Internal error: {type(error).__name__}: {error}"
        finally:
            log.warning("no live update", file=session.file, why=why)
            session.starting = None
            if self._session is session:
                self._end()
            self._engine.answer(*ask, os.fsencode(why) + b"\0")

    async def _all(self, session: Session, ask: tuple[int, int, int], timeout_s: int, version: int, force: bool) -> str:
        """Why not.  Between the state as it is written and the exec no turn comes."""
        foreign = is_foreign(session.file)
        why = "" if foreign else await self._try(session)
        why = why or await self._until_quiet(timeout_s, force)
        if foreign and not why:
            why = self._write(version, ask, force)
        return why or self._become(session, ask, foreign)

    async def _try(self, session: Session) -> str:
        """Have the new program load everything and touch nothing; why it would not do."""
        environ = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        try:
            child = await asyncio.create_subprocess_exec(
                *(session.file, *session.arguments, *self._trial),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environ,
                start_new_session=True,
            )
        except OSError:
            return EXEC_FAILED
        try:
            said, _ = await asyncio.wait_for(child.communicate(), TRIAL_S)
        except TimeoutError:
            return f"The new program did not end its trial within {TRIAL_S:g} s."
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
        words = " ".join(said.decode(errors="replace").split())
        if child.returncode or not words.startswith("fastxsd"):
            return f"The new program failed its trial (exit status {child.returncode}): {words[:500]}"
        return ""

    async def _until_quiet(self, timeout_s: int, force: bool) -> str:
        """Until no transaction is open; why it may not be done nevertheless."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while open_ones := self._engine.transactions():
            if loop.time() >= end:
                old = [(domid, age_s) for _, domid, age_s in open_ones if age_s >= timeout_s]
                if force and len(old) == len(open_ones):
                    break
                if not old:
                    return "Overlapping transactions"
                lines = (f"Domain {domid}: {age_s:.0f} s" for domid, age_s in old)
                return "\n".join(("Domains with long running transactions:", *lines))
            await asyncio.sleep(TICK_S)
        return ""

    def _write(self, version: int, ask: tuple[int, int, int], force: bool) -> str:
        """What C xenstored reads; why it should not, unless it is forced to."""
        try:
            lost = self._foreign.write(version, ask)
        except (OSError, ValueError) as error:
            return f"The state cannot be written: {error}"
        for sentence in lost:
            log.warning("hand-back loses something", what=sentence)
        if lost and not force:
            self._foreign.drop()
            return "\n".join(("The new program cannot go on with (-F: do it all the same):", *lost))
        return ""

    # -- the exec ---------------------------------------------------------------------------------

    def _become(self, session: Session, ask: tuple[int, int, int], foreign: bool) -> str:
        """This process is the new program, or has not changed: then why.  OSError: likewise."""
        notify("WATCHDOG_USEC=0")  # neither the guardian nor C xenstored says that it is alive
        try:
            if foreign:
                self._foreign.leave_keeper()
            return self._exec(session, ask, foreign)
        finally:
            notify(*watchdog_words())

    def _exec(self, session: Session, ask: tuple[int, int, int], foreign: bool) -> str:
        """As `_become`, with a guardian behind."""
        clients = [int(one["fd"]) for one in self._engine.connections() if one["kind"] == "socket"]
        ours, theirs = socket.socketpair()
        us = os.pidfd_open(os.getpid())
        handed = HandedOver(os.getpid(), self._listener, clients, ours.fileno(), *ask, self._turn())
        with ours, theirs:
            child = os.fork()
            if child == 0:
                self._guard(handed, us, theirs, foreign)
            os.close(us)
            os.waitpid(child, 0)
            theirs.close()
            guardian = ours.recv(32).decode()
            if not guardian:
                return "There is no room for a guardian process."
            supervised = notify(f"MAINPID={guardian}") and barrier(TRIAL_S)
            log.info("live update", file=session.file, arguments=session.arguments, guardian=guardian,
                     supervised=supervised)  # fmt: skip
            arguments, inherited = session.arguments, [self._listener, *clients]
            let_go = False
            try:
                if foreign:
                    arguments = for_xenstored(arguments)
                    arguments += [] if "-U" in arguments else ["-U"]
                    inherited.append(self._foreign.descriptor())
                    self._foreign.let_go()
                    let_go = True
                    for fd in inherited:
                        os.set_blocking(fd, True)  # C xenstored takes EAGAIN of a read for the end
                else:
                    arguments = [*arguments, "--kept"] if self._kept and "--kept" not in arguments else arguments
                    inherited.append(ours.fileno())
                with handed.file() as file:
                    for fd in inherited:
                        os.set_inheritable(fd, True)
                    environ = {**os.environ, ENVIRONMENT: str(file.fileno())}
                    if foreign:
                        file.close()
                        del environ[ENVIRONMENT]
                    with suppress(OSError):
                        os.execve(session.file, [session.file, *arguments], environ)
            finally:  # the guardian must not take us for a program that failed
                for fd in inherited:
                    os.set_inheritable(fd, False)
                if let_go:
                    os.set_blocking(self._listener, False)
                    self._foreign.bind_virq()
                    self._foreign.take_back()
                elif foreign:
                    self._foreign.drop()
                ours.sendall(KEPT)
                ours.recv(1)
        return EXEC_FAILED

    def _guard(self, handed: HandedOver, daemon: int, line: socket.socket, foreign: bool) -> NoReturn:
        """In a child of a child, so that it is nobody's zombie: see that there is a daemon at the end."""
        try:
            if os.fork():
                os._exit(0)
            os.close(handed.guardian)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            asyncio._set_running_loop(None)
            self._let_go()
            line.sendall(str(os.getpid()).encode())
            line.settimeout(READY_S)
            with suppress(TimeoutError, ConnectionError):
                word = line.recv(32)
                if foreign and not word and self._is_read(daemon):
                    word = READY
                if foreign and word == READY:  # what is kept keeps C's closed clients from hearing of it
                    forget(CONNECTION)
                    forget(LISTENER)
                if word in (READY, KEPT):
                    notify("READY=1", f"MAINPID={handed.pid}")
                    barrier(TRIAL_S)
                    os._exit(0)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(daemon, signal.SIGKILL)
            has_ended(daemon)
            log.critical("the new program failed; the old one is back", pid=os.getpid())
            if foreign:
                self._foreign.take_back()
            self._resume(handed)
        except BaseException:
            log.critical("the old program cannot come back", exc_info=True)
        finally:
            os._exit(1)

    def _is_read(self, daemon: int) -> bool:
        """C xenstored removes the state when it has read it all; False: it ended first, or takes too long."""
        end = time.monotonic() + READY_S
        while self._foreign.is_there():
            if has_ended(daemon, TICK_S) or time.monotonic() > end:
                return not self._foreign.is_there()
        return True


def is_foreign(file: str) -> bool:
    """Whether it is another daemon, to which nothing but Xen's own stream can be handed: ours is a script."""
    with open(file, "rb") as program:
        return program.read(4) == b"\x7fELF"
