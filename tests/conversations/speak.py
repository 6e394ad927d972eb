"""How a conversation is written down: `assert guest.read("/a") == "EACCES"`.

Owns the words of a test: a `World` with domains in it, a `Voice` per connection (a `Speaker` in memory) whose methods
give the reply's payload as bytes, or the error word as str.  Refuses to know what a right answer is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.support.wire import Face, MemoryPeer, Message, Op

if TYPE_CHECKING:
    from fastxs._core import Engine

OK: Final = b"OK\0"

Answer = bytes | str
"""A payload, or an error word."""


def nul(*words: str | bytes | int) -> bytes:
    """`nul("/a", 3)` is b"/a\\0" b"3\\0"."""
    return b"".join((word if isinstance(word, bytes) else str(word).encode()) + b"\0" for word in words)


class Voice:
    """One connection of one domain, whatever carries it."""

    def __init__(self, peer: Face, domid: int) -> None:
        self.domid = domid
        self.peer = peer

    def ask(self, op: int, payload: bytes = b"", tx: int = 0) -> Answer:
        """Any request, any payload.  Every reply must echo the request's type and transaction."""
        message = self.peer.call(op, payload, tx)
        assert message.tx_id == tx
        if message.error is not None:
            assert message.payload == message.error.encode() + b"\0"
            return message.error
        assert message.op == op
        return message.payload

    def read(self, path: str, tx: int = 0) -> Answer:
        return self.ask(Op.READ, nul(path), tx)

    def write(self, path: str, value: bytes = b"", tx: int = 0) -> Answer:
        return self.ask(Op.WRITE, nul(path) + value, tx)

    def mkdir(self, path: str, tx: int = 0) -> Answer:
        return self.ask(Op.MKDIR, nul(path), tx)

    def rm(self, path: str, tx: int = 0) -> Answer:
        return self.ask(Op.RM, nul(path), tx)

    def ls(self, path: str, tx: int = 0) -> list[str] | str:
        """The children's names in the order of their creation."""
        answer = self.ask(Op.DIRECTORY, nul(path), tx)
        return answer if isinstance(answer, str) else [name.decode() for name in answer.split(b"\0")[:-1]]

    def part(self, path: str, offset: int | str, tx: int = 0) -> tuple[int, bytes] | str:
        """One chunk of a directory: (generation, the bytes after it)."""
        answer = self.ask(Op.DIRECTORY_PART, nul(path, offset), tx)
        if isinstance(answer, str):
            return answer
        generation, _, rest = answer.partition(b"\0")
        return int(generation), rest

    def perms(self, path: str, tx: int = 0) -> list[str] | str:
        answer = self.ask(Op.GET_PERMS, nul(path), tx)
        return answer if isinstance(answer, str) else [perm.decode() for perm in answer.split(b"\0")[:-1]]

    def chmod(self, path: str, *perms: str, tx: int = 0) -> Answer:
        return self.ask(Op.SET_PERMS, nul(path, *perms), tx)

    def watch(self, path: str, token: str, depth: int | str | None = None) -> Answer:
        return self.ask(Op.WATCH, nul(path, token) + (b"" if depth is None else nul(depth)))

    def unwatch(self, path: str, token: str) -> Answer:
        return self.ask(Op.UNWATCH, nul(path, token))

    def quietly_watch(self, path: str, token: str, depth: int | None = None) -> None:
        """A watch whose initial event is none of the test's business."""
        assert self.watch(path, token, depth) == OK
        assert self.events()[-1:] == [(path, token)]

    def start(self) -> int:
        """A new transaction's id."""
        answer = self.ask(Op.TRANSACTION_START, b"\0")
        assert isinstance(answer, bytes), answer
        assert answer.endswith(b"\0")
        return int(answer[:-1])

    def commit(self, tx: int) -> Answer:
        return self.ask(Op.TRANSACTION_END, b"T\0", tx)

    def abort(self, tx: int) -> Answer:
        return self.ask(Op.TRANSACTION_END, b"F\0", tx)

    def events(self) -> list[tuple[str, str]]:
        """(path, token) of every event since the last time somebody asked."""
        found = []
        for event in self.peer.drain(0):
            assert (event.req_id, event.tx_id) == (0, 0)
            path, token, rest = event.payload.split(b"\0")
            assert rest == b""
            found.append((path.decode(), token.decode()))
        return found

    def hear(self, op: int, payload: bytes, tx: int = 0) -> list[Message]:
        """Say something; everything that comes back, in its order."""
        self.peer.send(op, payload, tx)
        found = []
        while True:
            try:
                found.append(self.peer.recv(0))
            except TimeoutError:
                return found


class Speaker(Voice):
    """One connection in the engine's memory."""

    peer: MemoryPeer

    def __init__(self, engine: Engine, domid: int) -> None:
        super().__init__(MemoryPeer(engine, domid), domid)
        self.engine = engine

    def leave(self) -> None:
        self.peer.close()


class World:
    """An empty store with domain 0 in it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dom0 = Speaker(engine, 0)

    def guest(self, domid: int, *, introduced: bool = True) -> Speaker:
        """A guest with its own home directory, which it owns."""
        self.engine.pretend(domid, True)
        if introduced:
            assert self.dom0.ask(Op.INTRODUCE, nul(domid, 1, 1)) == OK
        home = f"/local/domain/{domid}"
        assert self.dom0.mkdir(home) == OK
        assert self.dom0.chmod(home, f"n{domid}") == OK
        return Speaker(self.engine, domid)

    def again(self, speaker: Speaker) -> Speaker:
        """One more connection of the same domain."""
        return Speaker(self.engine, speaker.domid)

    def kill(self, domid: int) -> None:
        """The hypervisor says that the domain is gone."""
        self.engine.pretend(domid, False)

    def sound(self) -> None:
        """Every counter and index agrees with what it counts."""
        assert self.engine.check() == []
