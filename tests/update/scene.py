"""A host whose daemon is updated while guests and clients are at work.

Owns the programs that a daemon is told to become, good and bad, and a load whose every request is accounted for.
Refuses to know which daemon is which.
"""

from __future__ import annotations

import select
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from fastxs.hypervisor.host import Host, Kind, scratch
from fastxs.hypervisor.simxen.guests import Guests
from tests.conversations.speak import OK, nul
from tests.support import leaks
from tests.support.ring import RingPeer
from tests.support.wire import Message, Op, Peer

GOOD: Final = """#!{python}
import sys
from fastxs.cli.fastxsd import main
sys.exit(main())
"""
"""The daemon itself, as an installed command."""

BAD: Final = """#!{python}
import os, sys, time
if "--preflight" in sys.argv:
    print("fastxsd would do")
    sys.exit(0)
{then}
"""
"""Passes its trial, and fails when it is too late to ask anybody."""

ROOT: Final = str(Path(__file__).parents[2])


class Scene:
    """Guests 1.., each with a home of its own and a watch in it; a toolstack; a client with a watch on all of them."""

    def __init__(self, host: Host, stack: ExitStack, guests: int) -> None:
        self.host: Final = host
        self.folder: Final = host.folder
        self.hypervisor: Final = stack.enter_context(Guests(host.env["SIMXEN_DIR"]))
        self.tool = stack.enter_context(Peer(host.socket))
        self.client = stack.enter_context(Peer(host.socket))
        self.guests: Final = [self._guest(domid) for domid in range(1, guests + 1)]
        self.writes = 0

    def _guest(self, domid: int) -> RingPeer:
        self.hypervisor.create(domid)
        home = f"/local/domain/{domid}"
        for op, words in (
            (Op.INTRODUCE, (domid, 0x1000 + domid, 2)),
            (Op.MKDIR, (home,)),
            (Op.SET_PERMS, (home, f"n{domid}")),
        ):
            assert self.tool.call(op, nul(*words)).payload == OK
        guest = RingPeer(self.hypervisor, domid, self._wait)
        assert guest.call(Op.WRITE, b"data\0" + b"0").payload == OK
        assert guest.call(Op.WATCH, nul("data", "mine")).payload == OK
        assert guest.recv().payload == nul("data", "mine")
        return guest

    def _wait(self, timeout_s: float) -> None:
        if select.select([self.hypervisor.fileno()], [], [], timeout_s)[0]:
            self.hypervisor.events()

    # -- programs -----------------------------------------------------------------------------------

    def good(self) -> Path:
        return installed(self.folder)

    def bad(self, then: str) -> Path:
        return _program(self.folder / "bad", BAD.replace("{then}", then))

    # -- updates ------------------------------------------------------------------------------------

    def control(self, *words: str) -> Message:
        return self.tool.call(Op.CONTROL, nul("live-update", *words))

    def update(self, program: Path, *how: str, arguments: str | None = None) -> bytes:
        """What the toolstack is told in the end; every guest and the client work all the time."""
        assert self.control("-f", str(program)).payload == OK
        if arguments is not None:
            assert self.control("-c", arguments).payload == OK
        asked = self.tool.send(Op.CONTROL, nul("live-update", "-s", *how))
        answer: Message | None = None
        while answer is None:
            self.work()
            if select.select([self.tool], [], [], 0)[0]:
                answer = self.tool.reply(asked)
        print(self.host.stderr())  # shown if the test fails
        return answer.payload

    def work(self) -> None:
        """One request of everybody, answered right; each guest hears once of its own write, and the client, too."""
        self.writes += 1
        value = str(self.writes).encode()
        asked = [(guest, guest.send(Op.WRITE, b"data\0" + value)) for guest in self.guests]
        for guest, req_id in asked:
            assert guest.reply(req_id, 70).payload == OK
        for guest in self.guests:
            assert guest.call(Op.READ, b"data\0").payload == value
            assert [event.payload for event in guest.events] == [nul("data", "mine")]
            guest.events.clear()
        assert self.client.call(Op.READ, b"/local/domain/1/data\0").payload == value


def installed(folder: Path) -> Path:
    """fastxsd, as a command in that folder."""
    return _program(folder / "fastxsd", GOOD)


def _program(path: Path, text: str) -> Path:
    path.write_text(text.format(python=sys.executable))
    path.chmod(0o755)
    return path


@contextmanager
def scene(host: Host, guests: int = 3) -> Iterator[Scene]:
    """`host`'s daemon is started for the block; whatever it becomes ends with it."""
    with ExitStack() as stack:
        stack.callback(end_all, host)
        host.start(30)
        stack.callback(host.close)
        yield Scene(host, stack, guests)


@contextmanager
def scene_of(kind: Kind) -> Iterator[Scene]:
    """The same, with a daemon of that kind in a folder of its own."""
    folder = scratch()
    try:
        with scene(Host(kind, folder, env=environment())) as found:
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment() -> dict[str, str]:
    """For a daemon that becomes one of our programs."""
    return {"PYTHONPATH": ROOT}


def end_all(host: Host) -> None:
    """The daemon's pid changes when a guardian serves on, or a keeper starts it again: they are found by what only they
    have in their environment."""
    leaks.end_all("XENSTORED_RUNDIR", str(host.rundir))
