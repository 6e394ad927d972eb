"""A daemon to be kept: `python daemon.py VOICE FOLDER`.

It serves lines over FOLDER/socket, has its manager keep that socket and every client's, and does what a client's line
says (the table at the end).  VOICE is who speaks to the manager for it: `fastxs` (fastxs.daemon.notify), or
`libsystemd`, other people's half of the same protocol.  FOLDER/crash holds how many more incarnations die before they
are ready.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

BURST = 64
"""Clients that are accepted at a time and kept by one datagram."""


class OurVoice:
    """fastxs.daemon.notify."""

    def __init__(self) -> None:
        from fastxs.daemon import notify

        self.room = notify

    def tell(self, words: str, *fds: int) -> bool:
        return self.room.notify(words, fds=fds)

    def inherited(self) -> list[tuple[str, int]]:
        return [(name, fd) for name, fds in self.room.inherited().items() for fd in fds]

    def barrier(self) -> bool:
        return self.room.barrier(5)

    def watchdog_s(self) -> float | None:
        return self.room.watchdog_s()


class TheirVoice:
    """libsystemd: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3)."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL("libsystemd.so.0", use_errno=True)

    def tell(self, words: str, *fds: int) -> bool:
        array = (ctypes.c_int * len(fds))(*fds)
        return bool(self.lib.sd_pid_notify_with_fds(0, 0, words.encode(), array, len(fds)) > 0)

    def inherited(self) -> list[tuple[str, int]]:
        names = ctypes.POINTER(ctypes.c_char_p)()
        count = self.lib.sd_listen_fds_with_names(1, ctypes.byref(names))
        assert count >= 0
        return [((names[i] or b"").decode(), 3 + i) for i in range(count)]

    def barrier(self) -> bool:
        return bool(self.lib.sd_notify_barrier(0, ctypes.c_uint64(5_000_000)) > 0)

    def watchdog_s(self) -> float | None:
        every = ctypes.c_uint64()
        return every.value / 2e6 if self.lib.sd_watchdog_enabled(0, ctypes.byref(every)) > 0 else None


VOICES: dict[str, Callable[[], OurVoice | TheirVoice]] = {"fastxs": OurVoice, "libsystemd": TheirVoice}


class Daemon:
    """One incarnation."""

    def __init__(self, voice: OurVoice | TheirVoice, folder: Path) -> None:
        self.voice = voice
        self.folder = folder
        self.had = voice.inherited()
        self.poll = select.epoll()
        self.clients: dict[int, socket.socket] = {}
        self.others: list[object] = []
        self.hang_ups = 0
        self.every_s = voice.watchdog_s()
        signal.signal(signal.SIGHUP, self.hang_up)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        self.listener = self.listen()
        for name, fd in self.had:
            if name == "c":
                self.serve(socket.socket(fileno=fd))

    def hang_up(self, *_: object) -> None:
        self.hang_ups += 1

    def listen(self) -> socket.socket:
        for name, fd in self.had:
            if name == "listen":
                return socket.socket(fileno=fd)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / "new"))
        listener.listen(4096)
        (self.folder / "new").rename(self.folder / "socket")
        listener.setblocking(False)
        self.voice.tell("FDSTORE=1\nFDNAME=listen", listener.fileno())
        return listener

    def serve(self, client: socket.socket) -> None:
        client.setblocking(True)
        self.clients[client.fileno()] = client
        self.poll.register(client, select.EPOLLIN)

    def accept(self) -> None:
        fresh: list[socket.socket] = []
        while len(fresh) < BURST:
            try:
                fresh.append(self.listener.accept()[0])
            except BlockingIOError:
                break
        self.voice.tell("FDSTORE=1\nFDNAME=c", *(client.fileno() for client in fresh))
        for client in fresh:
            self.serve(client)

    def run(self) -> None:
        self.poll.register(self.listener, select.EPOLLIN)
        self.voice.tell(f"READY=1\nMAINPID={os.getpid()}\nSTATUS=it serves")
        while True:
            if self.every_s is not None:
                self.voice.tell("WATCHDOG=1")
            for fd, _ in self.poll.poll(self.every_s):
                if fd == self.listener.fileno():
                    self.accept()
                elif line := self.clients[fd].recv(4096):
                    word, _, rest = line.decode().rstrip("\n").partition(" ")
                    answer = COMMANDS[word](self, rest)
                    self.clients[fd].sendall(f"{answer}\n".encode())
                else:
                    self.poll.unregister(fd)
                    self.clients.pop(fd).close()

    # -- what a client may say ------------------------------------------------------------------

    def tell(self, words: str) -> bool:
        return self.voice.tell(words.replace(" ", "\n"))

    def keep(self, words: str) -> bool:
        """One end of a pair; the other end is ours, and `cut` closes it."""
        ours, theirs = socket.socketpair()
        self.others.append(ours)
        with theirs:
            return self.voice.tell("FDSTORE=1\n" + words.replace(" ", "\n"), theirs.fileno())

    def store_again(self, _: str) -> bool:
        """Another manager: it has nothing of ours yet."""
        return self.voice.tell("FDSTORE=1\nFDNAME=listen", self.listener.fileno()) and self.voice.tell(
            "FDSTORE=1\nFDNAME=c", *self.clients
        )

    def keep_many(self, count: str) -> bool:
        with open("/dev/null") as null:
            return self.voice.tell("FDSTORE=1\nFDNAME=many", *[null.fileno()] * int(count))

    def send(self, words: str) -> bool:
        """A descriptor with words that do not ask to keep it."""
        with open("/dev/null") as null:
            return self.voice.tell(words, null.fileno())

    def tell_bytes(self, text: str) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect(os.environ["NOTIFY_SOCKET"])
            return channel.send(bytes.fromhex(text)) > 0

    def tell_much(self, size: str) -> bool:
        return self.tell_bytes((b"READY=1\nX=" + bytes(int(size))).hex())

    def cut(self, _: str) -> None:
        self.others.clear()

    def keep_a_file(self, name: str) -> bool:
        with open(self.folder / "a-file", "w") as file:
            return self.voice.tell(f"FDSTORE=1\nFDNAME={name}", file.fileno())

    def refuse(self, number: str) -> None:
        """End a client as a daemon must whose manager has the socket, too: for all holders, not only for itself."""
        fd = sorted(self.clients)[int(number)]
        self.clients[fd].shutdown(socket.SHUT_RDWR)

    def hand_over(self, how: str) -> None:
        """A child goes on in our place; the keeper knows that before we end, or (`at-once`) after."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(reader, 1)
            return
        self.voice.tell(f"MAINPID={child}")
        if how != "at-once":
            self.voice.barrier()
        os.write(writer, b"!")
        os._exit(0)

    def have_guardian(self, _: str) -> int:
        """A child of a child is the main process from now on."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            if os.fork():
                os._exit(0)
            os.write(writer, str(os.getpid()).encode())
            signal.pause()
        os.waitpid(child, 0)
        guardian = int(os.read(reader, 32))
        self.voice.tell(f"MAINPID={guardian}")
        return guardian

    def deafen(self, _: str) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def be_quiet(self, _: str) -> None:
        self.every_s = None


def descriptors(_: Daemon, __: str) -> str:
    """What they lead to, in the order of their numbers."""
    found = []
    for fd in range(100):
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return " ".join(found)


COMMANDS: dict[str, Callable[[Daemon, str], object]] = {
    "who": lambda daemon, _: os.getpid(),
    "had": lambda daemon, _: " ".join(name for name, _ in daemon.had),
    "count": lambda daemon, _: len(daemon.had),
    "tell": Daemon.tell,
    "keep": Daemon.keep,
    "keep-a-file": Daemon.keep_a_file,
    "keep-many": Daemon.keep_many,
    "send": Daemon.send,
    "tell-bytes": Daemon.tell_bytes,
    "tell-much": Daemon.tell_much,
    "store-again": Daemon.store_again,
    "cut": Daemon.cut,
    "barrier": lambda daemon, _: daemon.voice.barrier(),
    "descriptors": descriptors,
    "environment": lambda daemon, name: os.environ.get(name),
    "hang-ups": lambda daemon, _: daemon.hang_ups,
    "refuse": Daemon.refuse,
    "hand-over": Daemon.hand_over,
    "have-guardian": Daemon.have_guardian,
    "deafen": Daemon.deafen,
    "be-quiet": Daemon.be_quiet,
    "exit": lambda daemon, status: os._exit(int(status)),
    "die": lambda daemon, _: os.kill(os.getpid(), signal.SIGKILL),
}


def main() -> None:
    voice, folder = VOICES[sys.argv[1]](), Path(sys.argv[2])
    crash = folder / "crash"
    if crash.exists() and (left := int(crash.read_text())):
        crash.write_text(str(left - 1))
        os.kill(os.getpid(), signal.SIGKILL)
    Daemon(voice, folder).run()


if __name__ == "__main__":
    main()
