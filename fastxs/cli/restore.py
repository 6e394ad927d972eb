"""`fastxs restore`: what was dumped, put into a running daemon or into a new image.

Owns what is changed and what is not: guests that live are left alone, and nobody gets rights that were
another domain's.  Refuses to know where a dump is read from (`fastxs.cli.sources`).
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fastxs.cli.image import SOURCE_HELP
from fastxs.cli.sources import Bar, kind_of, opened, progress, told, walked
from fastxs.cli.words import Refused, connected, shown
from fastxs.client import Client, Request, XenStoreError, daemon_socket, requests
from fastxs.state import Node, Perm
from fastxs.storage.reader import holder

if TYPE_CHECKING:
    from fastxs._core import Engine

__all__ = ["restore"]

BATCH: Final = 1000
SHOWN: Final = 5
ANYBODY: Final = 0x7FF5
"""The domid in the permissions of @releaseDomain that stands for every domain (SPEC 1.5)."""
FIRST_RESERVED: Final = 0x7FF0
HOME: Final = re.compile(rb"/local/domain/([0-9]{1,5})(?=/|$)")


@dataclass(slots=True)
class Plan:
    """What is to be done, in order: for each path its requests.  `guests` are paths that belong to living guests."""

    steps: list[tuple[bytes, list[Request[None]]]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    guests: list[bytes] = field(default_factory=list)


@click.command(epilog=SOURCE_HELP)
@click.argument("source", type=click.Path())
@click.option("--socket", metavar="SOCKET", help="The daemon's socket, if it is not where the environment says.")
@click.option(
    "--to-image",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Make a new image there, for a daemon that is started later, instead of asking one that runs.",
)
@click.option("--replace", is_flag=True, help="Remove the nodes that are not in SOURCE.")
@click.option("--force", is_flag=True, help="Change also what belongs to guests that live, and give them rights.")
@click.option(
    "--batch",
    default=BATCH,
    show_default=True,
    metavar="N",
    type=click.IntRange(0),
    help="So many nodes in one transaction; 0: all of them, so that others see all of it at once or nothing.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--hypervisor",
    envvar="SIMXEN_DIR",
    show_envvar=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="With --to-image: the pretend hypervisor that the daemon will run on.",
)
def restore(
    source: str,
    socket: str | None,
    to_image: Path | None,
    replace: bool,
    force: bool,
    batch: int,
    dry_run: bool,
    hypervisor: Path | None,
) -> None:
    """Write the nodes of SOURCE into the running daemon's store, those that differ.

    Nodes that are not in SOURCE stay, unless --replace.  Permissions of domains that the daemon does not serve are
    left out, and their nodes go to domain 0: who has that number one day is somebody else.  Watches, connections and
    quotas are not restored.

    Without --force nothing at all is done if it would change what is in the homes of guests that live, or belongs to
    one, or give one rights.
    """
    if to_image is not None and socket is not None:
        raise click.UsageError("--socket or --to-image, not both.")
    with told():
        if to_image is None and kind_of(socket) != "live":
            raise Refused(f"{socket}: not a socket", 1)
        with _image(to_image, hypervisor, not dry_run) if to_image else connected(socket or daemon_socket()) as client:
            with opened(source) as store:
                plan = _plan(client, [*progress(store, f"reading {store.name}")], replace, force)
            if plan.guests:
                some = ", ".join(map(shown, plan.guests[:SHOWN]))
                more = f" and {len(plan.guests) - SHOWN:,} more" if len(plan.guests) > SHOWN else ""
                raise Refused(f"nothing was done: guests that live own or see {some}{more}; --force does it", 1)
            if not dry_run:
                _do(client, plan, batch)
    words = [f"{plan.counts[name]:,} {name}" for name in ("written", "permissions set", "removed", "as they were")]
    click.echo(f"{'would be: ' if dry_run else ''}{', '.join(words)}")
    if plan.counts["rights"]:
        click.echo(f"{plan.counts['rights']:,} nodes without the rights of domains that are not there", err=True)


# ---- what is to be done ------------------------------------------------------------------------------------


def _plan(client: Client, wanted: Sequence[Node], replace: bool, force: bool) -> Plan:
    plan = Plan()
    now = {node.path: node for node in walked(client, snapshot=True)}
    alive = _introduced(client, [*wanted, *now.values()])

    def is_a_guests(path: bytes, *perms: tuple[Perm, ...]) -> bool:
        """Whether a living guest sees it."""
        domids = {_home(path), *(perm.domid for entries in perms for perm in entries if not perm.stale)}
        return not alive.isdisjoint(domids - {0})

    def change(path: bytes, many: list[Request[None]], *perms: tuple[Perm, ...]) -> None:
        plan.steps.append((path, many))
        if not force and is_a_guests(path, *perms):
            plan.guests.append(path)

    if replace:
        kept = {node.path for node in wanted} | {b"/"}
        for path, _, perms in now.values():
            if path in kept or not path.startswith(b"/"):
                continue
            plan.counts["removed"] += 1
            above = path.rpartition(b"/")[0] or b"/"
            change(path, [requests.delete(path)] if above in kept else [], perms)
    for path, value, perms in wanted:
        given = _given(perms, alive)
        plan.counts["rights"] += given != perms
        old = now.get(path)
        many: list[Request[None]] = []
        if path.startswith(b"/") and (old is None or old.value != value):
            plan.counts["written"] += 1
            many.append(requests.write(path, value))
        if old is None or _given(old.perms, alive) != given:
            plan.counts["permissions set"] += old is not None
            many.append(requests.set_perms(path, [f"{letter}{domid}" for letter, domid, _ in given]))
        if many:
            change(path, many, given, old.perms if old is not None else ())
        else:
            plan.counts["as they were"] += 1
    return plan


def _home(path: bytes) -> int:
    """Whose it is; 0: domain 0's, or nobody's."""
    match = HOME.match(path)
    return int(match[1]) if match else 0


def _introduced(client: Client, nodes: Iterable[Node]) -> set[int]:
    """The domains among those that are named whose rings the daemon serves, and domain 0."""
    named = {domid for node in nodes for domid in (_home(node.path), *(perm.domid for perm in node.perms))}
    domids = sorted(domid for domid in named if domid < FIRST_RESERVED)
    answers = client.call_many([requests.is_domain_introduced(domid) for domid in domids])
    return {0, *(domid for domid, is_there in zip(domids, answers, strict=True) if is_there)}


def _given(perms: tuple[Perm, ...], alive: set[int]) -> tuple[Perm, ...]:
    """Without those who are not there; what they own is domain 0's, and everybody else may do what they might."""
    owner, *others = perms
    mine = owner if owner.domid in alive and not owner.stale else Perm(owner.letter, 0)
    return (mine, *(perm for perm in others if perm.domid in alive | {ANYBODY} and not perm.stale))


# ---- doing it ----------------------------------------------------------------------------------------------


def _do(client: Client, plan: Plan, batch: int) -> None:
    size = batch or len(plan.steps)
    with Bar("writing") as bar:
        for at in range(0, len(plan.steps), size or 1):
            steps = plan.steps[at : at + size]
            for tx in client.transactions():
                with tx:
                    answers = tx.call_many([request for _, many in steps for request in many], return_errors=True)
                    asked = [path for path, many in steps for _ in many]
                    for path, answer in zip(asked, answers, strict=True):
                        if isinstance(answer, XenStoreError):
                            raise Refused(f"{shown(path)}: {answer.strerror}; {at:,} nodes were done before", 1)
            bar.show(at + len(steps), len(plan.steps))


class _Peer:
    """A client's way to an Engine in this process: whatever is put is answered at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine: Final = engine
        self._conn_id: Final = engine.attach(0)
        self._always: Final = os.eventfd(1, os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._always

    def put(self, data: memoryview, /) -> int:
        self._engine.feed(self._conn_id, bytes(data))
        return len(data)

    def take(self) -> bytes:
        some = self._engine.take(self._conn_id)
        if not some:
            raise BlockingIOError
        return some

    def close(self) -> None:
        self._engine.disconnect(self._conn_id)
        os.close(self._always)


@contextmanager
def _image(folder: Path, hypervisor: Path | None, keep: bool) -> Iterator[Client]:
    """A client of a store whose image is in `folder` at the end, if all went well."""
    from fastxs._core import Engine
    from fastxs.storage.folder import identity
    from fastxs.storage.image import Image

    if holder(folder):
        raise Refused(f"{folder}: a daemon serves this image: restore into the daemon, or stop it first", 1)
    if folder.exists() and any(folder.iterdir()):
        raise Refused(f"{folder}: something is there already: move it away first", 1)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.", ignore_cleanup_errors=True) as new:
        with ExitStack() as stack:
            image = Image.create(new, identity(hypervisor))
            stack.callback(image.close)
            engine = Engine(image=image, linger_us=0)
            stack.callback(engine.close)
            yield stack.enter_context(Client(transport=lambda: _Peer(engine)))
        if keep:
            os.rename(new, folder)
