"""`xen.lowlevel.xs`, the Xen tools' own binding for Python, over `fastxs.client`.

    from fastxs.compat.lowlevel_xs import Error, xs      # was: from xen.lowlevel.xs import Error, xs

Owns its names, its types (paths and tokens come back as they were given, names as str, values as bytes) and its
manners: transactions are numbers in text, "" for none; what is missing is None.  Arguments may be bytes, too.  Missing:
nothing that Xen 4.17's has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Final, TypeAlias

from fastxs.client import (
    Client,
    Conflict,
    Event,
    InvalidRequest,
    Monitor,
    NotFound,
    Path,
    Perm,
    Transaction,
    XenStoreError,
)

__all__ = ["Error", "xs"]

Handle: TypeAlias = str | bytes | int | None
"""A transaction, as `transaction_start` gave it; anything that is empty or zero: none."""


class Error(RuntimeError):
    """`args` are the error's number and its text."""


class _Token:
    """Any object as a watch's token, hashable or not: it is itself, and nothing else is."""

    def __init__(self, token: Any) -> None:
        self.token: Final = token

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Token) and other.token is self.token

    def __hash__(self) -> int:
        return id(self.token)


class xs:  # noqa: N801  # its old name
    """A connection to the daemon."""

    _error: ClassVar[type[Exception]] = Error

    def __init__(self, readonly: int = 0) -> None:
        client = Client()
        with self._telling():
            client.connect()
        self._monitor: Monitor | None = client.monitor()
        self._client = client

    def close(self) -> None:
        """Once; nothing else can be done with it then."""
        with self._telling():
            self._events.close()
            self._client.close()
            self._monitor = None

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except XenStoreError as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            raise self._error(cause.errno, cause.strerror) from error

    def _text(self, name: bytes) -> Any:
        """What names and paths are given out as."""
        return name.decode()

    @property
    def _events(self) -> Monitor:
        if self._monitor is None:
            raise InvalidRequest.of()
        return self._monitor

    @property
    def _open(self) -> Client:
        if self._monitor is None:
            raise InvalidRequest.of()
        return self._client

    def _nodes(self, transaction: Handle) -> Client | Transaction:
        tx_id = transaction if isinstance(transaction, int) else int(transaction or "0", 16)
        return self._open.transaction(tx_id) if tx_id else self._open

    # -- nodes ------------------------------------------------------------------------------------

    def read(self, transaction: Handle, path: Path) -> bytes | None:
        """The value; None: there is no such node."""
        with self._telling():
            return self._nodes(transaction).read(path, None)

    def write(self, transaction: Handle, path: Path, data: str | bytes) -> None:
        """Text is written as UTF-8."""
        with self._telling():
            self._nodes(transaction).write(path, data.encode() if isinstance(data, str) else data)

    def ls(self, transaction: Handle, path: Path) -> list[Any] | None:
        """The children's names; None: there is no such node."""
        with self._telling():
            try:
                return [self._text(name) for name in self._nodes(transaction).list(path)]
            except NotFound:
                return None

    def mkdir(self, transaction: Handle, path: Path) -> None:
        with self._telling():
            self._nodes(transaction).mkdir(path)

    def rm(self, transaction: Handle, path: Path) -> None:
        """Also what is missing."""
        with self._telling():
            nodes = self._nodes(transaction)
            with suppress(NotFound):
                nodes.delete(path)

    def get_permissions(self, transaction: Handle, path: Path) -> list[Any]:
        """A dict for each entry: `dom`, `read` (0 or 1), `write` (0 or 2)."""
        with self._telling():
            perms = map(Perm.parse, self._nodes(transaction).get_perms(path))
            return [{"dom": perm.domid, "read": int(perm.read), "write": 2 * perm.write} for perm in perms]

    def set_permissions(self, transaction: Handle, path: Path, perms: list[Any]) -> None:
        """A list of such dicts, of which `dom` must be there."""
        with self._telling():
            if not isinstance(perms, list):
                raise InvalidRequest.of()
            entries = [Perm(p["dom"], bool(p.get("read")), bool(p.get("write"))) for p in perms]
            # Who is given rights by the first entry is no owner of it: domain 0 is put before him.
            if entries and entries[0].domid and (entries[0].read or entries[0].write):
                entries.insert(0, Perm(0))
            self._nodes(transaction).set_perms(path, entries)

    # -- transactions -----------------------------------------------------------------------------

    def transaction_start(self) -> Any:
        """A number in base 16, for the others' first argument."""
        with self._telling():
            tx = self._open.transaction()
            tx.start()
            return self._text(b"%X" % tx.tx_id)

    def transaction_end(self, transaction: Handle, abort: int = 0) -> bool:
        """False: somebody interfered, do all of it again."""
        with self._telling():
            tx = self._nodes(transaction)
            if not isinstance(tx, Transaction):
                raise NotFound.of()
            try:
                tx.rollback() if abort else tx.commit()
            except Conflict:
                return False
            return True

    # -- watches ----------------------------------------------------------------------------------

    def watch(self, path: Path, token: Any) -> None:
        """`token` is any object."""
        with self._telling():
            self._events.watch(path, _Token(token))

    def unwatch(self, path: Path, token: Any) -> None:
        with self._telling():
            self._events.unwatch(path, _Token(token))

    def read_watch(self) -> Any:
        """(path, token) of the next event; waits for it."""
        with self._telling():
            return self._event(self._events.read())

    def check_watch(self) -> Any:
        """The same if there is one; None: there is none now."""
        with self._telling():
            event = self._events.check()
            return None if event is None else self._event(event)

    def _event(self, event: Event) -> Any:
        return self._text(event.path), event.token.token

    def fileno(self) -> int:
        """Polls readable when there may be an event for `check_watch`."""
        with self._telling():
            return self._events.fileno()

    # -- domains ----------------------------------------------------------------------------------

    def get_domain_path(self, domid: int) -> Any:
        with self._telling():
            return self._text(self._open.get_domain_path(domid))

    def introduce_domain(self, dom: int, page: int, port: int) -> None:
        with self._telling():
            self._open.introduce_domain(dom, page, port)

    def release_domain(self, dom: int) -> None:
        with self._telling():
            self._open.release_domain(dom)

    def resume_domain(self, dom: int) -> None:
        with self._telling():
            self._open.resume_domain(dom)

    def set_target(self, dom: int, target: int) -> None:
        with self._telling():
            self._open.set_target(dom, target)
