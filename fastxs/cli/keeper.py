"""`fastxs-keeper`: the supervisor's flags, and its way into the background.

Owns what the command line means, the pid file and the word to whoever waits; the work is `fastxs.daemon.keeper`'s.
"""

from __future__ import annotations

import getopt
import os
import resource
import signal
import socket
import sys
import syslog
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Final, NoReturn

from fastxs.daemon.claims import StartError, hold_name, hold_pid_file, reason
from fastxs.daemon.keeper import Keeper, Options
from fastxs.daemon.notify import FIRST
from fastxs.daemon.process import detach, open_standard_streams, raise_descriptor_limit, set_name, shield

__all__ = ["main"]

OK, FAILED, USAGE = 0, 1, 2
"""Exit statuses of its own: as asked; could not start; a wrong flag.  Else the daemon's."""

HELP: Final = """\
usage: fastxs-keeper [FLAG...] [--] COMMAND [ARGUMENT...]

Starts COMMAND, keeps the descriptors that it stores (sd_notify(3), FDSTORE=1), starts it again with them when it dies.

  -b, --background          return when COMMAND is ready, go on in the background
  -p, --pid-file FILE       write the keeper's pid there
  -n, --notify-socket FILE  hear COMMAND there; without it /run/fastxs-keeper.PID
  -w, --watchdog SECONDS    end COMMAND and start it again when it was silent for so long
  -o, --oom-score-adj N     of keeper and COMMAND, unless they have less; without it -900
  -a, --adopt PID           COMMAND runs already: it is this process
  -h, --help                print this"""


def read_options(argv: Sequence[str]) -> Options | None:
    """None: help was asked for.  ValueError, getopt.GetoptError: what is wrong."""
    names = ["background", "pid-file=", "notify-socket=", "watchdog=", "oom-score-adj=", "adopt=", "help"]
    flags, rest = getopt.getopt(list(argv), "bp:n:w:o:a:h", names)
    options = Options(rest)
    for flag, value in flags:
        match flag:
            case "-b" | "--background":
                options = options._replace(background=True)
            case "-p" | "--pid-file":
                options = options._replace(pid_file=os.path.abspath(value))
            case "-n" | "--notify-socket":
                options = options._replace(notify_socket=os.path.abspath(value))
            case "-w" | "--watchdog":
                options = options._replace(watchdog_s=float(value))
            case "-o" | "--oom-score-adj":
                options = options._replace(oom_score_adj=int(value))
            case "-a" | "--adopt":
                options = options._replace(adopt=int(value))
            case _:
                return None
    if not rest:
        raise ValueError("there is no COMMAND")
    return options


def complain(line: str) -> None:
    with suppress(OSError):
        print(f"fastxs-keeper: {line}", file=sys.stderr, flush=True)


def log(line: str) -> None:
    """In the background; to standard error, too, as long as that is somebody's."""
    syslog.syslog(syslog.LOG_ERR, line)


def keep(options: Options, say: Callable[[str], None], started: Callable[[], None]) -> int:
    """Keep the daemon in this process; the exit status."""
    set_name("fastxs-keeper")
    raise_descriptor_limit()
    shield(options.oom_score_adj)
    path = options.notify_socket or f"/run/fastxs-keeper.{os.getpid()}"
    try:
        with ExitStack() as stack:
            if options.pid_file is not None:
                stack.enter_context(hold_pid_file(options.pid_file))
            notices = stack.enter_context(hold_name(path, socket.SOCK_DGRAM))
            return Keeper(options, notices, say, started).run()
    except StartError as error:
        say(str(error))
    except OSError as error:
        say(reason(error))
    return FAILED


def keep_in_background(options: Options) -> int:
    """Keep it in a child process; the exit status of this one, which waits until the daemon is ready."""
    reader, writer = os.pipe()
    interrupt = {signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, interrupt)  # until it is known what it would stop
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupt)
        os.close(reader)
        _in_the_child(options, writer)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupt)
        os.close(writer)
        if os.read(reader, 1):  # nothing: it died, whichever way
            return OK
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)  # the terminal's interrupt does not reach it
        raise
    return max(FAILED, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _in_the_child(options: Options, writer: int) -> NoReturn:
    def started() -> None:
        detach()
        with suppress(BrokenPipeError):  # whoever waited is gone
            os.write(writer, b"!")
        os.close(writer)

    status = FAILED
    try:
        os.setsid()
        os.chdir("/")
        syslog.openlog("fastxs-keeper", syslog.LOG_PERROR, syslog.LOG_DAEMON)
        status = keep(options, log, started)
    except Exception as error:
        log(f"internal error: {type(error).__name__}: {error}")
    finally:
        os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the keeper; the exit status."""
    open_standard_streams()
    try:
        options = read_options(sys.argv[1:] if argv is None else argv)
    except (ValueError, getopt.GetoptError) as error:
        complain(f"{error}; see --help")
        return USAGE
    if options is None:
        print(HELP)
        return OK
    os.closerange(FIRST, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    try:
        return keep_in_background(options) if options.background else keep(options, complain, lambda: None)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
