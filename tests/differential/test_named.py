"""The named differences that random conversations must not walk into, each shown once: what C 4.17 and fastxs do.

Most of them would leave the two daemons with different stores, or C with none.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastxs.hypervisor.host import Host
from fastxs.hypervisor.simxen.guests import Guests
from tests.differential.run import reset_watches_kills
from tests.support.wire import Op, Peer


class Both:
    """A tool of domain 0 that asks C xenstored and fastxs the same, domains 1 and 2 beside it."""

    def __init__(self, c: Host, fastxs: Host) -> None:
        self.c = Peer(c.socket)
        self.fastxs = Peer(fastxs.socket)

    def ask(self, op: Op, payload: bytes) -> tuple[str, str]:
        """What C and what fastxs answer: the error word, or the payload as text."""
        one, two = (peer.call(op, payload) for peer in (self.c, self.fastxs))
        return tuple(reply.error or reply.payload.decode("latin-1") for reply in (one, two))  # type: ignore[return-value]

    def alike(self, op: Op, payload: bytes) -> str:
        """The answer that both give."""
        one, two = self.ask(op, payload)
        assert one == two
        return one


@pytest.fixture
def both(c_host: Host, fastxs_host: Host) -> Iterator[Both]:
    both = Both(c_host, fastxs_host)
    with Guests(c_host.env["SIMXEN_DIR"]) as one, Guests(fastxs_host.env["SIMXEN_DIR"]) as two:
        for guests in (one, two):
            guests.create(1)
            guests.create(2)
        yield both
    both.c.close()
    both.fastxs.close()


def test_domid_syntax(both: Both) -> None:
    """4.17 takes the digits it finds: `1x` is domain 1, `x` is domain 0, 65537 has no bound."""
    both.alike(Op.INTRODUCE, b"1\x001\x002\0")
    assert both.ask(Op.IS_DOMAIN_INTRODUCED, b"1x\0") == ("T\0", "EINVAL")
    assert both.ask(Op.GET_DOMAIN_PATH, b"x\0") == ("/local/domain/0\0", "EINVAL")
    assert both.ask(Op.GET_DOMAIN_PATH, b"65537\0") == ("/local/domain/65537\0", "EINVAL")
    assert both.ask(Op.GET_DOMAIN_PATH, b"-1\0") == ("/local/domain/4294967295\0", "EINVAL")
    assert both.ask(Op.RELEASE, b"1x\0") == ("OK\0", "EINVAL")


def test_malformed_one_path(both: Both) -> None:
    """4.17 answers the error of the request before; were that a WATCH, it would abort."""
    both.alike(Op.READ, b"/nothing\0")
    assert both.ask(Op.READ, b"/tool") == ("ENOENT", "EINVAL")
    assert both.ask(Op.MKDIR, b"") == ("ENOMEM", "EINVAL")


def test_malformed_one_path_after_a_watch(both: Both) -> None:
    both.alike(Op.WATCH, b"/a\0t\0")
    assert both.fastxs.call(Op.READ, b"").error == "EINVAL"
    with pytest.raises(ConnectionError):
        both.c.call(Op.READ, b"")
    assert both.fastxs.call(Op.READ, b"/tool\0").error is None


def test_path_max_sockets(both: Both) -> None:
    longest = b"/" + b"l" * 2047
    assert both.alike(Op.WRITE, longest + b"\0v") == "OK\0"
    assert both.ask(Op.WRITE, longest + b"l\0v") == ("EINVAL", "OK\0")
    home = b"/local/domain/12345/" + b"l" * 2048
    assert both.alike(Op.WRITE, home + b"\0v") == "OK\0"
    assert both.ask(Op.READ, home + b"l\0") == ("EINVAL", "ENOENT")


def test_watch_depth(both: Both) -> None:
    assert both.ask(Op.WATCH, b"/a\0t\x001\0") == ("EINVAL", "OK\0")
    assert both.alike(Op.WATCH, b"/a\0u\0-1\0") == "EINVAL"


def test_reset_watches_in_transaction(both: Both) -> None:
    """It ends the transaction that it comes in, and C without the fix of XSA-484 as well."""
    tx = int(both.alike(Op.TRANSACTION_START, b"\0")[:-1])
    assert both.fastxs.call(Op.RESET_WATCHES, b"", tx).payload == b"OK\0"
    if reset_watches_kills():
        with pytest.raises(ConnectionError):
            both.c.call(Op.RESET_WATCHES, b"", tx)
    else:
        assert both.c.call(Op.RESET_WATCHES, b"", tx).payload == b"OK\0"
        assert both.c.call(Op.TRANSACTION_END, b"T\0", tx).error == "ENOENT"
    assert both.fastxs.call(Op.TRANSACTION_END, b"T\0", tx).error == "ENOENT"


def test_special_perms(both: Both) -> None:
    assert both.ask(Op.GET_PERMS, b"@introduceDomain\0") == ("EINVAL", "n0\0")
    assert both.ask(Op.GET_PERMS, b"@nothing\0") == ("EINVAL", "ENOENT")
    assert both.alike(Op.SET_PERMS, b"@releaseDomain\0n0\0r1\0") == "OK\0"
    assert both.fastxs.call(Op.SET_PERMS, b"@nothing\0n0\0").error == "ENOENT"


def test_new_operations(both: Both) -> None:
    assert both.ask(Op.GET_QUOTA, b"nodes\0")[0] == "ENOSYS"
    assert both.fastxs.call(Op.GET_QUOTA, b"nodes\0").payload.rstrip(b"\0").isdigit()
    assert both.ask(Op.GET_QUOTA, b"permissions\0") == ("ENOSYS", "EINVAL")


def test_released_acl(both: Both) -> None:
    both.alike(Op.INTRODUCE, b"1\x001\x002\0")
    both.alike(Op.WRITE, b"/a\0v")
    both.alike(Op.SET_PERMS, b"/a\0n0\0r1\0w2\0")
    both.alike(Op.RELEASE, b"1\0")
    assert both.ask(Op.GET_PERMS, b"/a\0") == ("n0\0r1\0w2\0", "n0\0w2\0")


def test_release_of_a_target(both: Both) -> None:
    """4.17 says OK and keeps the domain, as its stubdomain still refers to it."""
    for domid in (b"1", b"2"):
        both.alike(Op.INTRODUCE, domid + b"\x001\x002\0")
    both.alike(Op.SET_TARGET, b"2\x001\0")
    both.alike(Op.RELEASE, b"1\0")
    assert both.ask(Op.IS_DOMAIN_INTRODUCED, b"1\0") == ("T\0", "F\0")


def test_owner_of_the_root(both: Both) -> None:
    """4.17 removes it; nobody reaches anything from then on."""
    both.alike(Op.INTRODUCE, b"1\x001\x002\0")
    both.alike(Op.SET_PERMS, b"/\0n1\0")
    both.alike(Op.RELEASE, b"1\0")
    assert both.ask(Op.DIRECTORY, b"/\0") == ("EACCES", "tool\0")
    assert both.ask(Op.WRITE, b"/a\0v") == ("EACCES", "OK\0")
    assert both.fastxs.call(Op.GET_PERMS, b"/\0").payload == b"n0\0"


def test_transactions_commit_more(both: Both) -> None:
    """Two siblings: for C both change the parent."""
    tx = both.alike(Op.TRANSACTION_START, b"\0")
    for peer in (both.c, both.fastxs):
        assert peer.call(Op.WRITE, b"/vm/1\0v", int(tx[:-1])).payload == b"OK\0"
        assert peer.call(Op.WRITE, b"/vm/2\0v").payload == b"OK\0"
    assert both.c.call(Op.TRANSACTION_END, b"T\0", int(tx[:-1])).error == "EAGAIN"
    assert both.fastxs.call(Op.TRANSACTION_END, b"T\0", int(tx[:-1])).payload == b"OK\0"
    assert both.ask(Op.DIRECTORY, b"/vm\0") == ("2\0", "2\x001\0")


def test_transactions_snapshot(both: Both) -> None:
    """A transaction that will not commit: C's answers contradict each other (/a without what is below it)."""
    both.alike(Op.WRITE, b"/a/b\0v")
    tx = int(both.alike(Op.TRANSACTION_START, b"\0")[:-1])
    replies = []
    for peer in (both.c, both.fastxs):
        assert peer.call(Op.DIRECTORY, b"/a\0", tx).payload == b"b\0"
        assert peer.call(Op.RM, b"/a/b\0").payload == b"OK\0"
        replies.append(peer.call(Op.READ, b"/a/b\0", tx))
        assert peer.call(Op.TRANSACTION_END, b"T\0", tx).error == "EAGAIN"
    assert replies[0].error == "ENOENT"
    assert replies[1].payload == b"v"
