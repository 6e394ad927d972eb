"""What one running instance holds: its run directory, a locked file with its pid, the socket.

Owns the rule that a stale claim is replaced and a live one never stolen.  A claim is live while its file's lock is
held (the kernel lets go of it however its holder dies) or while the socket accepts.  Knows nothing of the Engine and
of what is said over the socket, but for one request that asks whether anybody answers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = [
    "READ_ROOT",
    "RUN_DIR",
    "StartError",
    "answers",
    "hold_name",
    "hold_pid_file",
    "hold_socket",
    "need_folder",
    "reason",
    "server_pid",
]

RUN_DIR: Final = "/var/run/xenstored"
"""Where libxenstore looks for the socket unless the environment says otherwise (SPEC 6.2)."""

READ_ROOT: Final = struct.pack("=4I", 2, 0, 0, 2) + b"/\0"
"""The request that anybody may make and any daemon can answer."""


class StartError(Exception):
    """The daemon cannot start (or go on); its text is the one line that the administrator reads."""


def reason(error: OSError) -> str:
    """Why the system refused, in its own words and without errno and traceback."""
    hint = " (are you root?)" if error.errno in (errno.EACCES, errno.EPERM) and os.geteuid() != 0 else ""
    return (error.strerror or str(error)) + hint


def need_folder(path: str, purpose: str) -> None:
    """StartError unless the directory is there.  Only the default run directory is made: a path that somebody typed
    and that is missing is a typing mistake or a file system that is not mounted."""
    if path == RUN_DIR:
        try:
            os.makedirs(path, 0o755, exist_ok=True)
        except OSError as error:
            raise StartError(f"cannot make {path} for {purpose}: {reason(error)}") from None
        return
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise StartError(f"cannot use {path} for {purpose}: {reason(error)}") from None
    if not stat.S_ISDIR(mode):
        raise StartError(f"cannot use {path} for {purpose}: Not a directory")


@contextmanager
def hold_pid_file(path: str, purpose: str = "the pid file") -> Iterator[None]:
    """Hold `path`, mode 0600, locked and saying `pid\\n` (SPEC 6.2); it is removed at the end.

    A file whose holder is gone is taken over.  StartError names the holder of a live one.
    """
    need_folder(os.path.dirname(path), purpose)
    try:
        fd = _lock(path, purpose)
    except OSError as error:
        raise StartError(f"cannot write {purpose} {path}: {reason(error)}") from None
    try:
        try:
            os.fchmod(fd, 0o600)
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            raise StartError(f"cannot write {purpose} {path}: {reason(error)}") from None
        yield
    finally:
        # Removed before the lock goes: who waits for the file either sees it locked or makes a new one.
        with suppress(OSError):
            os.unlink(path)
        os.close(fd)


def _lock(path: str, purpose: str) -> int:
    """A locked descriptor of the regular file that `path` names now."""
    while True:
        # Not blocking: `path` may be a FIFO, which the next line refuses.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise StartError(f"{purpose} {path} is not a regular file")
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
                raise StartError(f"already running: {purpose} {path} is held by {_process(holder)}") from None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its holder removed it between our open and our lock: that file is nobody's, look again


def _process(pid: str) -> str:
    """`pid 17 (xenstored)`, for a reader who wants to look at it."""
    try:
        return f"pid {pid} ({Path('/proc', pid, 'comm').read_text().strip()})"
    except (OSError, ValueError):
        return f"pid {pid}" if pid else "another process"


@contextmanager
def hold_socket(
    path: str, backlog: int, outlived: Sequence[int] = (), stays: Callable[[], bool] = lambda: False
) -> Iterator[socket.socket]:
    """The listening unix socket at `path`, mode 0600; its name is removed at the end if it is still ours.

    `outlived` are listening sockets of the process before this one (taken over): the one that `path` leads to goes on.
    If at the end the name `stays`, because somebody keeps the socket, whoever connects waits for the next process.

    The backlog is large because a toolstack that restarts opens thousands of connections at once: past the backlog a
    client's connect() blocks, or fails with EAGAIN if it does not want to.  The kernel caps it at net.core.somaxconn.
    Call it with a lock held (`hold_pid_file`): between looking and binding there is a gap.
    """
    with _go_on(path, backlog, outlived) or hold_name(path, socket.SOCK_STREAM, stays) as listener:
        try:
            listener.listen(backlog)
        except OSError as error:
            raise StartError(f"cannot listen on {path}: {reason(error)}") from None
        yield listener


@contextmanager
def hold_name(path: str, kind: socket.SocketKind, stays: Callable[[], bool] = lambda: False) -> Iterator[socket.socket]:
    """A non-blocking unix socket of that kind, bound to `path`, mode 0600, as `hold_socket`'s but for the listening."""
    need_folder(os.path.dirname(path), "the socket")
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as bound:
        try:
            _clear(path, kind)
            mask = os.umask(0o177)  # 0600 from its first moment
            try:
                bound.bind(path)
            finally:
                os.umask(mask)
            ours = os.stat(path)
        except OSError as error:
            raise StartError(f"cannot listen on {path}: {reason(error)}") from None
        try:
            yield bound
        finally:
            with suppress(OSError):
                if not stays() and os.path.samestat(os.stat(path), ours):
                    os.unlink(path)


def _go_on(path: str, backlog: int, descriptors: Sequence[int]) -> socket.socket | None:
    """The one of these listening sockets that `path` leads to; the others are closed."""
    found = None
    for fd in descriptors:
        one = socket.socket(fileno=fd)
        one.setblocking(False)
        if found is None and one.getsockname() == path and _leads_to(path, one, backlog):
            found = one
        else:
            one.close()
    return found


def _leads_to(path: str, listener: socket.socket, backlog: int) -> bool:
    """Whether who connects there comes to us: another socket may have taken the name, and ours would wait in vain."""
    listener.listen(backlog)  # from now on, peers are told that this process did that
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:  # its queue is full: it is ours, that nobody served for a while
            return True
        except OSError:
            return False
        return server_pid(probe) == os.getpid()


def server_pid(client: socket.socket) -> int:
    """The pid that called listen(), as the kernel remembers it; 0 for datagrams."""
    pid: int = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid


def _clear(path: str, kind: socket.SocketKind) -> None:
    """Remove a socket that nobody serves; StartError if somebody does, or if it is no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartError(f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            raise StartError(f"already running: {path} is served (and its backlog is full)") from None
        except ConnectionRefusedError:
            os.unlink(path)
            return
        raise StartError(f"already running: {path} is served by {_process(str(server_pid(probe) or ''))}")


def answers(path: str, timeout_s: float) -> bool:
    """Whether a READ of `/` over the socket gets an answer, whichever."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(path)
            client.sendall(READ_ROOT)
            return client.recv(16) != b""
        except OSError:
            return False
