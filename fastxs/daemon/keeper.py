"""A very small supervisor, where there is no systemd (`fastxs-keeper`).

Owns the daemon's process and what must outlive it: it starts the daemon, keeps the descriptors that the daemon hands
over, and starts it again with all of them whenever it dies.  It speaks systemd's words (sd_notify(3),
sd_listen_fds(3)), so the daemon need not know who keeps it.  Refuses to know what the descriptors are for.  It is there
for as long as the host is: it imports little and waits in one place.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, NoReturn

from fastxs.daemon.claims import reason
from fastxs.daemon.notify import FIRST, MOST, notify
from fastxs.daemon.process import shield

__all__ = ["Descriptors", "Keeper", "Options", "command", "next_delay"]

LONG_LIFE_S: Final = 10.0
"""A daemon that lived that long is started again at once."""

DELAYS_S: Final = (0.1, 5.0)
"""The first and the longest wait before the next start of one that did not."""

STOP_S: Final = 30.0
"""From the signal that asks it to end to SIGKILL."""

OOM_SCORE_ADJ: Final = -900

NAMES_MAX: Final = 131072 - len("LISTEN_FDNAMES=") - 1
"""Bytes of all names, a colon each: the kernel takes no longer environment string (MAX_ARG_STRLEN)."""

OBEYED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

SPARE: Final = 32
"""Descriptors that the keeper may need for itself."""


class Options(NamedTuple):
    """What the command line says."""

    command: list[str]
    background: bool = False
    pid_file: str | None = None
    notify_socket: str | None = None
    watchdog_s: float | None = None
    oom_score_adj: int = OOM_SCORE_ADJ
    adopt: int | None = None


def command(
    daemon: Sequence[str], *, pid_file: str, notify_socket: str, watchdog_s: int, adopt: int | None = None
) -> list[str]:
    """The arguments of a background keeper for a daemon's arguments; all paths absolute, because it goes to `/`."""
    flags = ["--background", "--pid-file", pid_file, "--notify-socket", notify_socket, "--watchdog", str(watchdog_s)]
    flags += ["--adopt", str(adopt)] if adopt is not None else []
    return [sys.executable, "-m", "fastxs.cli.keeper", *flags, "--", *daemon]


def next_delay(delay_s: float, lived_s: float) -> float:
    """How long to wait before the next start, after a wait of `delay_s` and that life."""
    return 0.0 if lived_s >= LONG_LIFE_S else min(max(2 * delay_s, DELAYS_S[0]), DELAYS_S[1])


class Descriptors:
    """What is kept: descriptor -> name, in the order in which they came.  `epoll` tells those that hang up."""

    def __init__(self, epoll: select.epoll, most: int) -> None:
        self.epoll = epoll
        self.most = most
        self.names: dict[int, str] = {}
        self.length = 0  # of all names, a colon each

    def add(self, fd: int, name: str, poll: bool) -> None:
        """OSError: there is no room for it."""
        if len(self.names) >= self.most:
            raise OSError(f"RLIMIT_NOFILE has room for {self.most}")
        if self.length + len(name) + 1 > NAMES_MAX:
            raise OSError("their names fill LISTEN_FDNAMES")
        if poll:
            with suppress(PermissionError):  # a file: it cannot hang up
                self.epoll.register(fd, 0)
        self.names[fd] = name
        self.length += len(name) + 1

    def drop(self, fd: int) -> None:
        self.length -= len(self.names.pop(fd)) + 1
        # By hand: epoll itself forgets a socket only when the daemon has closed it, too.
        with suppress(OSError):
            self.epoll.unregister(fd)
        os.close(fd)

    def forget(self, name: str) -> None:
        for fd in [fd for fd, its in self.names.items() if its == name]:
            self.drop(fd)


class Keeper:
    """One daemon, its descriptors, and the loop around them, until the daemon is to end or wants no keeper any more.

    `notices` is a bound datagram socket, `say` writes a line to the log, `started` is called when the daemon is ready
    for the first time.
    """

    def __init__(
        self,
        options: Options,
        notices: socket.socket,
        say: Callable[[str], None],
        started: Callable[[], None],
    ) -> None:
        self.options = options
        self.notices = notices
        self.say = say
        self.started = started
        self.epoll = select.epoll()
        self.kept = Descriptors(self.epoll, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE)
        self.signals, self.waker = socket.socketpair()
        self.pid, self.pidfd = 0, -1  # of the daemon while there is one
        self.former: list[int] = []  # its pids before MAINPID, yet to be buried
        self.watchdog_s = options.watchdog_s or 0.0  # of this daemon, who may ask for another; 0: none
        self.born_s = 0.0
        self.ready = False
        self.was_ever_ready = False
        self.stopping = False
        self.delay_s = 0.0
        self.start_s: float | None = None  # when to start, to abort, to kill it
        self.abort_s: float | None = None
        self.kill_s: float | None = None
        self.status: int | None = None  # the keeper's own, once it is over

    def run(self) -> int:
        """Until the daemon ends as it was asked to, never gets ready, or lets us go; the exit status."""
        self.notices.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.waker.setblocking(False)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        for number in OBEYED:
            signal.signal(number, lambda *_: None)
        for source in (self.notices, self.signals):
            self.epoll.register(source, select.EPOLLIN)
        if self.options.adopt is None:
            self._start()
        else:
            self._follow(self.options.adopt)
            self._is_ready()
        while self.status is None:
            events = [fd for fd, _ in self.epoll.poll(self._wait_s())]
            # Those that hung up come first: what arrives now may get the number of one that goes.
            for fd in self.kept.names.keys() & events:
                self.kept.drop(fd)
            if self.notices.fileno() in events:
                self._hear()
            if self.signals.fileno() in events:
                self._obey()
            if self.pidfd in events:
                self._bury()
            self._act_in_time()
        return self.status

    # -- time -----------------------------------------------------------------------------------

    def _wait_s(self) -> float | None:
        times = [at for at in (self.start_s, self.abort_s, self.kill_s) if at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _act_in_time(self) -> None:
        now = time.monotonic()
        if self.start_s is not None and now >= self.start_s:
            self._start()
        if self.abort_s is not None and now >= self.abort_s:
            self.say(f"the daemon (pid {self.pid}) is silent for {self.watchdog_s:g} s; aborting it")
            self._end(signal.SIGABRT)
        if self.kill_s is not None and now >= self.kill_s:
            self.say(f"the daemon (pid {self.pid}) does not end; killing it")
            self._end(signal.SIGKILL)

    # -- the daemon's process -------------------------------------------------------------------

    def _start(self) -> None:
        self.start_s, self.watchdog_s = None, self.options.watchdog_s or 0.0
        # Blocked until the child has let go of our handlers: they would swallow what it is sent meanwhile.
        signal.pthread_sigmask(signal.SIG_BLOCK, OBEYED)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_the_daemon()
            self._follow(pid)
        except OSError as error:  # no memory now; there may be some later
            self._start_later(f"cannot start the daemon: {reason(error)}", lived_s=0.0)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, OBEYED)

    def _start_later(self, why: str, lived_s: float) -> None:
        self.delay_s = next_delay(self.delay_s, lived_s)
        self.start_s = time.monotonic() + self.delay_s
        self.say(f"{why}; next start in {self.delay_s:g} s, {len(self.kept.names)} descriptors kept")

    def _become_the_daemon(self) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            for number in (*OBEYED, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, OBEYED)
            shield(self.options.oom_score_adj)
            # Whoever started us may have said these of us.
            env = {key: value for key, value in os.environ.items() if not key.startswith(("LISTEN_", "WATCHDOG_"))}
            env |= {"NOTIFY_SOCKET": self.notices.getsockname(), "FDSTORE": str(self.kept.most)}
            if self.kept.names:
                place(list(self.kept.names))
                env |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(self.kept.names))}
                env["LISTEN_FDNAMES"] = ":".join(self.kept.names.values())
            if self.options.watchdog_s:
                env |= {"WATCHDOG_PID": str(os.getpid()), "WATCHDOG_USEC": str(int(self.options.watchdog_s * 1e6))}
            os.execvpe(self.options.command[0], self.options.command, env)
        except OSError as error:
            self.say(f"cannot run {self.options.command[0]}: {reason(error)}")
        finally:
            os._exit(127)

    def _follow(self, pid: int) -> None:
        """That process is the daemon from now on.  OSError: there is none."""
        pidfd = os.pidfd_open(pid)
        self._let_go()
        self.pid, self.pidfd, self.born_s = pid, pidfd, time.monotonic()
        self.epoll.register(pidfd, select.EPOLLIN)

    def _let_go(self) -> None:
        if self.pidfd >= 0:
            self.epoll.unregister(self.pidfd)
            os.close(self.pidfd)
        self.pid, self.pidfd = 0, -1

    def _end(self, number: signal.Signals) -> None:
        """Ask it to end; kill it if it does not."""
        self._send(number)
        self.abort_s, self.kill_s = None, time.monotonic() + STOP_S

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def _bury(self) -> None:
        dead = self.pidfd
        self._hear()  # what it said last: a client's socket may be in it
        if self.pidfd != dead:
            return  # or who goes on in its place
        pid, lived_s, code = self.pid, time.monotonic() - self.born_s, exit_code(dead)
        back = self._bury_former()
        self._let_go()
        self.ready, self.abort_s, self.kill_s = False, None, None
        if back and not self.stopping:  # who had handed over to it, and is still there
            self._follow(back)
            self._is_ready()
        elif self.was_ever_ready and not self.stopping:  # whatever its exit status: clients are connected
            self._start_later(f"the daemon (pid {pid}) died ({fate(code)})", lived_s)
        elif code is not None and code >= 0:  # it has said why
            self.status = code
        elif self.stopping and code in (None, -signal.SIGTERM):
            self.status = 0
        else:
            self.say(f"the daemon died before it was {'stopped' if self.stopping else 'ready'} ({fate(code)})")
            self.status = 1

    def _bury_former(self) -> int:
        """The latest former daemon that lives; 0: there is none."""
        alive = 0
        for pid in self.former:
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    alive = pid
        self.former.clear()
        return alive

    # -- signals --------------------------------------------------------------------------------

    def _obey(self) -> None:
        for number in self.signals.recv(64):
            if number == signal.SIGHUP:
                if self.ready:  # before, it would die of it
                    self._send(signal.SIGHUP)
            elif not self.stopping:
                self.stopping, self.start_s = True, None
                notify("STOPPING=1")
                if self.pid:
                    self._end(signal.SIGTERM)
                else:
                    self.status = 0

    # -- what the daemon says -------------------------------------------------------------------

    def _hear(self) -> None:
        """Every datagram that is there."""
        room = socket.CMSG_SPACE(4 * MOST) + socket.CMSG_SPACE(struct.calcsize("3i"))
        with suppress(OSError):
            while True:
                self._take(*self.notices.recvmsg(4096, room, socket.MSG_CMSG_CLOEXEC)[:3])

    def _take(self, data: bytes, control: list[tuple[int, int, bytes]], flags: int) -> None:
        """One datagram.  Descriptors that are not to be kept are closed, which is all that BARRIER=1 asks for."""
        fds: list[int] = []
        sender = (0, 0, 0)  # pid, uid, gid, from the kernel
        for _, kind, content in control:
            if kind == socket.SCM_RIGHTS:
                fds += struct.unpack(f"{len(content) // 4}i", content)
            elif kind == socket.SCM_CREDENTIALS:
                sender = struct.unpack("3i", content)
        try:
            if sender[:2] == (self.pid, os.getuid()) and not flags & socket.MSG_TRUNC:
                if flags & socket.MSG_CTRUNC:
                    self.say("descriptors are lost: the keeper cannot have more")
                self._do(dict(line.partition("=")[::2] for line in data.decode("utf-8", "replace").split("\n")), fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _do(self, words: dict[str, str], fds: list[int]) -> None:
        """What it asks for; those descriptors leave `fds` that are kept."""
        if words.get("FDSTORE") == "1":
            self._keep(words, fds)
        if words.get("KEEP") == "0":
            notify(f"MAINPID={self.pid}")
            self.status = 0
        if words.get("FDSTOREREMOVE") == "1":
            self.kept.forget(words.get("FDNAME", ""))
        if words.get("MAINPID", str(self.pid)) != str(self.pid):
            self._hand_over(words["MAINPID"])
        if words.get("WATCHDOG_USEC", "").isdecimal():
            self.watchdog_s = int(words["WATCHDOG_USEC"]) / 1e6
        if words.get("READY") == "1":
            self._is_ready()
        elif words.get("WATCHDOG") == "1" or "WATCHDOG_USEC" in words:
            self._is_alive()
        if "STATUS" in words:
            notify(f"STATUS={words['STATUS']}")

    def _keep(self, words: dict[str, str], fds: list[int]) -> None:
        name = words.get("FDNAME", "")
        if not 0 < len(name) < 256 or not name.isascii() or not name.isprintable() or ":" in name:
            name = "stored"
        try:
            while fds:
                self.kept.add(fds[0], name, words.get("FDPOLL") != "0")
                del fds[0]
        except OSError as error:
            self.say(f"{len(fds)} descriptors are not kept: {reason(error)}")

    def _hand_over(self, pid: str) -> None:
        former = self.pid
        try:
            self._follow(int(pid))
        except (OSError, ValueError, OverflowError):
            self.say(f"there is no process {pid[:20]} to follow")
        else:
            self.former.append(former)

    def _is_ready(self) -> None:
        self.ready = True
        self._is_alive()
        if not self.was_ever_ready:
            self.was_ever_ready = True
            self.started()
            notify("READY=1", f"MAINPID={os.getpid()}")

    def _is_alive(self) -> None:
        if self.ready and self.kill_s is None:
            self.abort_s = time.monotonic() + self.watchdog_s if self.watchdog_s else None


def exit_code(pidfd: int) -> int | None:
    """Of a process that is dead, negative for a signal; None: it was not our child."""
    try:
        info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except ChildProcessError:
        return None
    assert info is not None
    return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status


def fate(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "nobody knows how"
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # one of those without a name
        return f"signal {-code}"


def place(fds: list[int]) -> None:
    """Make them 3, 4, ... for the program that this process becomes; whatever had these numbers is closed."""
    where = {fd: i for i, fd in enumerate(fds)}
    for i in range(len(fds)):
        wanted = FIRST + i
        del where[fds[i]]
        if fds[i] == wanted:
            os.set_inheritable(wanted, True)
            continue
        if wanted in where:
            other = where.pop(wanted)
            fds[other] = os.dup(wanted)
            where[fds[other]] = other
        os.dup2(fds[i], wanted)
