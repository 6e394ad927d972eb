"""Those who live beside hostile guests: whatever the others do, every reply, event and commit is as it should be.

Owns a model of what each neighbour has stored and which events are due to it.  Refuses to know the hostile ones.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Generator, Sequence
from typing import Final

from tests.conversations.speak import OK, nul
from tests.support.wire import Face, Message, Op

PATIENCE_S: Final = 30
"""Longer than any answer takes on a loaded machine under a sanitizer."""

Script = Generator[tuple[int, bytes, int], Message, None]
"""Yields (operation, payload, transaction), gets the reply."""


class Wrong(AssertionError):
    """Somebody noticed the hostile guests, or the daemon did wrong by itself."""


class Heard:
    """The events of one connection, against those that are due; unless `exact`, there may be more."""

    def __init__(self, peer: Face, name: str, *, exact: bool = True) -> None:
        self.peer: Final = peer
        self.name: Final = name
        self._exact: Final = exact
        self.count = 0
        self._due: Final[Counter[tuple[bytes, bytes]]] = Counter()

    def expect(self, path: str, token: str) -> None:
        self._due[path.encode(), token.encode()] += 1

    def settle(self) -> None:
        """Every event that is due has come, or comes now; and no other."""
        while True:
            for event in self.peer.events:
                path, token, _ = event.payload.split(b"\0")
                self._due[path, token] -= 1
                self.count += 1
            self.peer.events.clear()
            if not any(n > 0 for n in self._due.values()):
                break
            try:
                self.peer.events.append(self.peer.recv(PATIENCE_S))
            except TimeoutError as error:
                raise Wrong(f"{self.name}: events that did not come: {+self._due}") from error
        if self._exact and any(self._due.values()):
            raise Wrong(f"{self.name}: events that nobody caused: {-self._due}")
        self._due.clear()


class Neighbour:
    """One connection that owns what is below `base`, and knows what is there.  Nothing that others do may show."""

    def __init__(self, peer: Face, name: str, base: str, chance: random.Random) -> None:
        self.name: Final = name
        self.heard: Final = Heard(peer, name)
        self.done: Final[Counter[str]] = Counter()
        self.friends: Sequence[Neighbour] = ()
        """To whom it may write."""
        self.in_transaction = False
        """A daemon that crashes now may make it fail."""
        self._peer: Final = peer
        self._base: Final = base
        self._chance: Final = chance
        self._values: Final[dict[str, bytes]] = {}
        self._script: Script | None = None
        self._asked: tuple[int, bytes, int] = (0, b"", 0)
        self._req_id = 0

    # -- one request at a time, so that all neighbours ask before any of them listens

    def ask(self) -> None:
        if self._script is None:
            self._start(self._next())
        op, payload, tx = self._asked
        self._req_id = self._peer.send(op, payload, tx)

    def hear(self) -> None:
        assert self._script is not None
        try:
            reply = self._peer.reply(self._req_id, PATIENCE_S)
        except TimeoutError as error:
            raise Wrong(f"{self.name}: no answer to {self._asked!r}") from error
        self.done["requests"] += 1
        try:
            self._asked = self._script.send(reply)
        except StopIteration:
            self._script = None

    def _start(self, script: Script) -> None:
        self._script = script
        self._asked = next(script)

    def _finish(self) -> None:
        while self._script is not None:
            self.ask()
            self.hear()
            self.heard.settle()

    def begin(self) -> None:
        """Directories and watches."""
        self._start(self._settle_in())
        self._finish()

    def end(self) -> None:
        """Come to the end of what it is at, look at everything once more, and remove it."""
        self._finish()
        self._start(self._farewell())
        self._finish()

    # -- what it says

    def _next(self) -> Script:
        say = (self._write, self._write, self._read, self._list, self._rm, self._transact, self._watch, self._mail,
               self._contend)  # fmt: skip
        return self._chance.choice(say)()

    def _expect(self, reply: Message, want: bytes | str) -> None:
        got = reply.payload if reply.error is None else reply.error
        if got != want:
            raise Wrong(f"{self.name}: {self._asked!r} was answered {got!r}, not {want!r}")

    def _changed(self, path: str, value: bytes | None) -> None:
        self.heard.expect(path, "t")
        if value is None:
            del self._values[path]
        else:
            self._values[path] = value

    def _directory(self) -> str:
        return f"{self._base}/{self._chance.randrange(3)}"

    def _leaf(self) -> str:
        return f"{self._directory()}/{self._chance.randrange(12)}"

    def _bytes(self) -> bytes:
        return self._chance.randbytes(self._chance.choice((0, 1, 20, 200, 1000, 1900)))

    def _settle_in(self) -> Script:
        for i in range(3):
            self._expect((yield Op.MKDIR, nul(f"{self._base}/{i}"), 0), OK)
        for path in (self._base, f"/mail/{self.name}"):
            self._expect((yield Op.WATCH, nul(path, "t"), 0), OK)
            self.heard.expect(path, "t")

    def _write(self) -> Script:
        path, value = self._leaf(), self._bytes()
        self._expect((yield Op.WRITE, nul(path) + value, 0), OK)
        self._changed(path, value)

    def _read(self) -> Script:
        path = self._leaf()
        self._expect((yield Op.READ, nul(path), 0), self._values.get(path, "ENOENT"))

    def _list(self) -> Script:
        directory = self._directory()
        reply = yield Op.DIRECTORY, nul(directory), 0
        names = sorted(path for path in self._values if path.startswith(directory + "/"))
        if sorted(f"{directory}/{leaf.decode()}" for leaf in reply.strings) != names:
            raise Wrong(f"{self.name}: {directory} holds {reply!r}, not {names!r}")

    def _rm(self) -> Script:
        path = self._leaf()
        self._expect((yield Op.RM, nul(path), 0), OK)
        if path in self._values:
            self._changed(path, None)

    def _transact(self) -> Script:
        """Nobody else writes here: it must succeed, and be seen by nobody before its end, or after an abort."""
        self.in_transaction = True
        reply = yield Op.TRANSACTION_START, b"\0", 0
        tx = int(reply.payload[:-1])
        changes: dict[str, bytes | None] = {}
        for _ in range(self._chance.randrange(6)):
            path = self._leaf()
            if path in changes:
                value = changes[path]
                self._expect((yield Op.READ, nul(path), tx), "ENOENT" if value is None else value)
                self._expect((yield Op.READ, nul(path), 0), self._values.get(path, "ENOENT"))
            elif path in self._values and self._chance.random() < 0.3:
                changes[path] = None
                self._expect((yield Op.RM, nul(path), tx), OK)
            else:
                changes[path] = value = self._bytes()
                self._expect((yield Op.WRITE, nul(path) + value, tx), OK)
        commit = self._chance.random() < 0.8
        self._expect((yield Op.TRANSACTION_END, nul("T" if commit else "F"), tx), OK)
        self.in_transaction = False
        if commit:
            self.done["commits"] += 1
            for path, new in changes.items():
                self._changed(path, new)

    def _watch(self) -> Script:
        self._expect((yield Op.UNWATCH, nul(self._base, "t"), 0), OK)
        self._expect((yield Op.WATCH, nul(self._base, "t"), 0), OK)
        self.heard.expect(self._base, "t")

    def _mail(self) -> Script:
        if not self.friends:
            yield from self._read()
            return
        friend = self._chance.choice(self.friends)
        path = f"/mail/{friend.name}/{self.name}"
        self._expect((yield Op.WRITE, nul(path) + self._bytes(), 0), OK)
        friend.heard.expect(path, "t")

    def _contend(self) -> Script:
        """Where everybody writes all the time, a transaction may fail, but not for ever (XSA-206)."""
        if not self.friends:
            yield from self._read()
            return
        end = time.monotonic() + PATIENCE_S
        self.in_transaction = True
        while True:
            reply = yield Op.TRANSACTION_START, b"\0", 0
            tx = int(reply.payload[:-1])
            yield Op.DIRECTORY, nul("/shared"), tx
            yield Op.READ, nul("/shared/a"), tx
            self._expect((yield Op.WRITE, nul(f"/shared/{self.name}") + b"1", tx), OK)
            reply = yield Op.TRANSACTION_END, b"T\0", tx
            if reply.error != "EAGAIN":
                break
            self.done["conflicts"] += 1
            if time.monotonic() > end:
                raise Wrong(f"{self.name}: others write, and no transaction has succeeded in {PATIENCE_S} s")
        self.in_transaction = False
        self._expect(reply, OK)

    def _farewell(self) -> Script:
        for path, value in sorted(self._values.items()):
            self._expect((yield Op.READ, nul(path), 0), value)
            self._expect((yield Op.RM, nul(path), 0), OK)
            self._changed(path, None)
        for i in range(3):
            self._expect((yield Op.DIRECTORY, nul(f"{self._base}/{i}"), 0), b"")
