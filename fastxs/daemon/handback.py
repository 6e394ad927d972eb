"""Hand-back: all that C xenstored can go on with, out of our image and the Engine's buffers.

Owns the way from records to a State (`fastxs.state`), which is `fastxs.daemon.takeover` turned around.  Refuses to
decide whether what cannot be carried may be lost.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from fastxs import state as xen
from fastxs.daemon.kept import let_keeper_go
from fastxs.storage import reader
from fastxs.storage.reader import ROOT_PARENT, SPECIALS_PARENT, Reader

if TYPE_CHECKING:
    from fastxs._core import Engine
    from fastxs.daemon.config import Config
    from fastxs.hypervisor.border import Hypervisor

__all__ = ["HandBack", "state_of"]


class HandBack:
    """The state file in the run directory and the descriptors that it names (`fastxs.daemon.update.Foreign`)."""

    def __init__(self, engine: Engine, border: Hypervisor, config: Config, listener: int, *, kept: bool) -> None:
        self._engine: Final = engine
        self._config: Final = config
        self._kept: Final = kept
        self._listener: Final = listener
        self._folder: Final = config.daemon.image_path
        self._aside: Final = f"{self._folder}.handed-back"
        self._number = 0
        self._file: Final = os.path.join(config.daemon.run_dir, "state_dump")
        self._border: Final = border
        self.descriptor: Final = border.evtchn_fd
        self.bind_virq: Final = border.bind_virq

    def write(self, version: int, answer: tuple[int, int, int]) -> list[str]:
        """Write it whole or not at all; what it cannot carry.  OSError, ValueError: neither."""
        if version not in (1, 2):
            raise ValueError(f"there is no version {version} of the stream")
        form: xen.Version = 1 if version == 1 else 2
        state = state_of(
            self._engine, self._folder, form, listener=self._listener, evtchn=self.descriptor(), answer=answer
        )
        new = self._file + ".new"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            xen.write(state, file, form)
        self._number = os.stat(new).st_ino
        os.replace(new, self._file)
        return xen.what_is_lost(state, form)

    def leave_keeper(self) -> None:
        """C xenstored has none: it writes its own pid file, and who ends it does not want fastxs instead."""
        if self._kept:
            let_keeper_go(self._config)

    def let_go(self) -> None:
        """The image is history, never to be recovered from, and the event channels are as the next daemon expects."""
        shutil.rmtree(self._aside, ignore_errors=True)
        os.rename(self._folder, self._aside)
        self._engine.unmask()
        self._border.let_virq()

    def is_there(self) -> bool:
        """Whether that very file is, since nobody has read it."""
        try:
            return os.stat(self._file).st_ino == self._number
        except FileNotFoundError:
            return False

    def drop(self) -> None:
        """It did not come to a hand-back."""
        if self.is_there():
            os.unlink(self._file)

    def take_back(self) -> None:
        """Nor, after `let_go`: our image counts again."""
        self.drop()
        os.rename(self._aside, self._folder)


def state_of(
    engine: Engine, folder: str, version: xen.Version, *, listener: int, evtchn: int, answer: tuple[int, int, int]
) -> xen.State:
    """The store as it is now, which must not change while the State is used; the one who asked finds his OK.

    `answer` is his connection id, req_id and tx_id.  Quotas go with a stream of version 2 only: with version 1 a
    domain's are told where they are its own, so that `what_is_lost` sees them.
    """
    state = xen.State(listen_fd=listener, evtchn_fd=evtchn)
    domains: dict[int, reader.Domain] = {}
    permissions: dict[int, tuple[xen.Perm, ...]] = {}
    by_index: dict[int, xen.Connection] = {}
    domid_of: dict[int, int] = {}
    live = {one["id"]: one for one in engine.connections()}
    limits: dict[str, int] = {}
    priv_domid = 0
    with Reader(folder) as image:
        for record in image.records():
            match record:
                case reader.Meta():
                    limits, priv_domid = record.limits, record.priv_domid
                case reader.Domain():
                    domains[record.domid] = record
                case reader.Perms():
                    permissions[record.id] = tuple(xen.Perm(*entry) for entry in record.entries)
                case reader.Conn():
                    one = live[record.serial]
                    peer: xen.Ring | xen.Socket
                    if record.kind == reader.RING:
                        domain = domains[record.domid]
                        peer = xen.Ring(record.domid, int(one["port"]), domain.target, domain.unique_id or None)
                    else:
                        peer = xen.Socket(int(one["fd"]))
                    unread, unsent = engine.buffered(record.serial)
                    if record.serial == answer[0]:
                        unsent += struct.pack("=4I", 0, answer[1], answer[2], 3) + b"OK\0"
                    by_index[record.index] = xen.Connection(record.index + 1, peer, unread, unsent)
                    domid_of[record.index] = record.domid
                case reader.Transaction():
                    by_index[record.conn].transactions.append(record.tx_id)
                case reader.Watch():
                    home = len(f"/local/domain/{domid_of[record.conn]}/") if record.relative else 0
                    by_index[record.conn].watches.append(xen.Watch(record.path[home:], record.token, record.depth))
                case reader.Node():
                    break  # they are the last table
    state.connections = list(by_index.values())
    state.quotas = limits if version == 2 else {}
    for each in domains.values():
        own = {name: n for name, n in each.limits.items() if n != limits[name]}
        if each.domid == priv_domid:
            state.domains.append(xen.Domain(each.domid, each.features))  # no quota is asked there
        elif each.introduced or own:
            state.domains.append(xen.Domain(each.domid, each.features, each.limits if version == 2 else own))
    state.nodes = xen.Nodes(lambda: _nodes(folder, permissions))
    return state


def _nodes(folder: str, permissions: dict[int, tuple[xen.Perm, ...]]) -> Iterator[xen.Node]:
    paths: dict[int, bytes] = {}
    with Reader(folder) as image:
        for record in image.records():
            if not isinstance(record, reader.Node):
                continue
            if record.parent in (ROOT_PARENT, SPECIALS_PARENT):
                path = record.name or b"/"
            elif (above := paths.get(record.parent)) is None:
                continue  # it was removed with its parent, and only its record is left
            else:
                path = above.rstrip(b"/") + b"/" + record.name
            paths[record.birth] = path
            yield xen.Node(path, record.value, permissions[record.perms])
