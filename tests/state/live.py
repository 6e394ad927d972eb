"""C xenstored 4.17 in the middle of a live update: what it has handed over, before its successor looks at it.

Owns the program that C xenstored becomes for a moment, and the guests and clients that speak meanwhile.
Refuses to know what is in a state.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from fastxs.hypervisor.host import BINARIES, Host
from fastxs.hypervisor.simxen.guests import Guests
from tests.conversations.speak import OK, Voice, nul
from tests.support.ring import REQ_CONS, REQ_PROD, RingPeer
from tests.support.wire import Op, Peer

STAND_IN: Final = """#!/bin/sh
echo > {here}
read -r _ < {go}
exec {xenstored} "$@"
"""


class Scene:
    """A C daemon with a toolstack; `guest` and `client` add to it."""

    def __init__(self, host: Host, stack: ExitStack) -> None:
        self.host: Final = host
        self.stack: Final = stack
        self.guests: Final = stack.enter_context(Guests(host.env["SIMXEN_DIR"]))
        self.tool: Final = self.client()

    def client(self) -> Peer:
        return self.stack.enter_context(Peer(self.host.socket))

    def ok(self, op: int, *words: str | bytes | int, data: bytes = b"") -> None:
        """The toolstack asks, and gets its OK."""
        assert self.tool.call(op, nul(*words) + data).payload == OK

    def guest(self, domid: int) -> RingPeer:
        """A new domain, introduced."""
        self.guests.create(domid)
        self.ok(Op.INTRODUCE, domid, 0x1000 + domid, 2)
        return RingPeer(self.guests, domid, self._wait)

    def _wait(self, timeout_s: float) -> None:
        if select.select([self.guests.fileno()], [], [], timeout_s)[0]:
            self.guests.events()

    def taken(self, guest: RingPeer) -> None:
        """All that the guest has put into its ring is out of it."""
        for _ in range(1000):
            if guest.words[REQ_CONS] == guest.words[REQ_PROD]:
                return
            self.heard()
        raise AssertionError(f"domain {guest.domid}: requests stay in its ring")

    def heard(self) -> None:
        """The daemon has read what any client sent before: the body of a message one turn after its header."""
        for _ in range(3):
            assert self.tool.call(Op.GET_DOMAIN_PATH, b"0\0").error is None

    @contextmanager
    def update(self, held: Callable[[], None] | None = None) -> Iterator[Path]:
        """A live update of the daemon into itself; the block runs between its two lives, the state is in the file.

        `held` runs when the update has been announced, from when on the daemon starts no transaction.
        """
        here, go, program = (self.host.folder / name for name in ("here", "go", "stand-in"))
        program.write_text(STAND_IN.format(here=here, go=go, xenstored=BINARIES["c"]))
        program.chmod(0o755)
        with ExitStack() as stack:
            fds = []
            for path in (here, go):
                os.mkfifo(path)
                stack.callback(path.unlink)
                fds.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))
                stack.callback(os.close, fds[-1])
            self.ok(Op.CONTROL, "live-update", "-f", str(program))
            if held:
                held()
            request = self.tool.send(Op.CONTROL, nul("live-update", "-s"))
            if select.select([fds[0], self.tool.fileno()], [], [], 10)[0] != [fds[0]]:
                raise AssertionError(f"no live update: {self.tool.reply(request)}")
            yield self.host.rundir / "state_dump"
            os.write(fds[1], b"\n")
            assert self.tool.reply(request).payload == OK

    def tree(self) -> dict[str, tuple[object, object]]:
        """Every node's value and permissions."""
        voice = Voice(self.tool, 0)
        found: dict[str, tuple[object, object]] = {}
        left = ["/"]
        while left:
            path = left.pop()
            found[path] = (voice.read(path), voice.ask(Op.GET_PERMS, nul(path)))
            names = voice.ls(path)
            assert isinstance(names, list)
            left += [f"{path.rstrip('/')}/{name}" for name in names]
        return found
