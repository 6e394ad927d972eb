"""Whom the keeper believes, and what it makes of words that it does not expect."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from fastxs.daemon.notify import MOST
from tests.keeper.conftest import TIMEOUT_S, Kept, children, every_voice, is_alive, until

pytestmark = every_voice


class Stranger:
    """A process of the same user that is not the daemon."""

    def __init__(self, kept: Kept) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(str(kept.notify))

    def tell(self, words: bytes, *fds: int) -> None:
        socket.send_fds(self.socket, [words], list(fds))

    def store(self, words: bytes) -> socket.socket:
        """Send one end of a pair; the other end."""
        ours, theirs = socket.socketpair()
        ours.settimeout(TIMEOUT_S)
        with theirs:
            self.tell(words, theirs.fileno())
        return ours


@pytest.fixture
def stranger(kept: Kept) -> Iterator[Stranger]:
    kept.start()
    stranger = Stranger(kept)
    yield stranger
    stranger.socket.close()


@pytest.mark.parametrize(
    "words",
    [
        b"FDSTORE=1\nFDNAME=c",
        b"FDSTOREREMOVE=1\nFDNAME=listen",
        b"MAINPID=%d" % os.getpid(),
        b"READY=1",
    ],
    ids=lambda words: words.partition(b"=")[0].decode(),
)
def test_a_stranger_is_not_believed(kept: Kept, stranger: Stranger, words: bytes) -> None:
    client = kept.client()
    daemon = int(client.ask("who"))
    with stranger.store(words) as ours:
        assert ours.recv(1) == b"", "the keeper has closed what it was sent"
    os.kill(daemon, signal.SIGKILL)
    until(lambda: not is_alive(daemon))
    assert client.ask("who") != str(daemon)
    assert client.ask("had") == "listen c"


def test_only_its_user_may_speak_at_all(kept: Kept, stranger: Stranger) -> None:
    """Its queue is short: whoever could write there could fill it, and no client would be kept."""
    assert kept.notify.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "words",
    ["", "\n\n", "FDSTORE", "=", "FDSTORE=2 FDNAME=x", "MAINPID=", "MAINPID=me", "MAINPID=99999999999999"],
)
def test_words_without_meaning_are_nothing(kept: Kept, words: str) -> None:
    kept.start()
    client = kept.client()
    daemon = client.ask("who")
    assert client.ask(f"tell {words}") == "True"
    assert client.ask("barrier") == "True"
    client.say("die")
    until(lambda: not is_alive(int(daemon)))
    assert client.ask("had") == "listen c"


@pytest.mark.parametrize("words", [b"\xff\xfe\0READY", b"READY=1\0\xff", b"\0" * 1000])
def test_bytes_without_meaning_are_nothing(kept: Kept, words: bytes) -> None:
    kept.start()
    client = kept.client()
    assert client.ask(f"tell-bytes {words.hex()}") == "True"
    assert client.ask("barrier") == "True"
    assert client.ask("tell-much 5000") == "True"
    assert client.ask("barrier") == "True"
    assert kept.said() == ""


def test_as_many_descriptors_as_one_datagram_carries(kept: Kept) -> None:
    kept.start()
    client = kept.client()
    assert client.ask(f"keep-many {MOST}") == "True"
    client.say("die")
    until(lambda: "died" in kept.said())
    assert int(client.ask("count")) == 2 + MOST


def test_descriptors_that_are_not_to_be_kept_are_closed(kept: Kept) -> None:
    """That is all there is to sd_notify_barrier(3), and what systemd does."""
    keeper = kept.start()
    client = kept.client()
    assert client.ask("barrier") == "True"
    before = len(os.listdir(f"/proc/{keeper.pid}/fd"))
    assert client.ask("send READY=1") == "True"
    assert client.ask("send NONSENSE=1") == "True"
    assert client.ask("barrier") == "True"
    # Not more; one less where the client that only asked whether the daemon is there went meanwhile.
    assert len(os.listdir(f"/proc/{keeper.pid}/fd")) <= before


@pytest.mark.parametrize("how", ["when-known", "at-once"])
def test_another_process_goes_on_as_the_daemon(kept: Kept, how: str) -> None:
    """MAINPID: the keeper follows it, though it is no child of its own, and starts the next one when it dies."""
    keeper = kept.start()
    client = kept.client()
    first = int(client.ask("who"))
    if how == "at-once":
        keeper.send_signal(signal.SIGSTOP)
    assert client.ask(f"hand-over {how}") == "None"
    until(lambda: not is_alive(first))
    keeper.send_signal(signal.SIGCONT)
    second = int(client.ask("who"))
    assert second != first
    assert client.ask("keep FDNAME=x FDPOLL=0") == "True", "and it is believed now"
    os.kill(second, signal.SIGKILL)
    until(lambda: "died (nobody knows how)" in kept.said())
    assert client.ask("had") == "listen c x"
    assert children(keeper.pid) == {int(client.ask("who"))}, "its former child is buried, too"


def test_who_handed_over_goes_on_if_the_other_dies(kept: Kept) -> None:
    """A live update: somebody stands for the daemon while it becomes another program."""
    keeper = kept.start()
    client = kept.client()
    first = int(client.ask("who"))
    guardian = int(client.ask("have-guardian"))
    assert client.ask("barrier") == "True"
    os.kill(guardian, signal.SIGKILL)
    until(lambda: not is_alive(guardian))
    until(lambda: client.ask("keep FDNAME=x FDPOLL=0") == "True" and client.ask("barrier") == "True")
    assert int(client.ask("who")) == first
    os.kill(first, signal.SIGKILL)
    until(lambda: not is_alive(first))
    assert "x" in client.ask("had").split(), "it was believed again"
    assert children(keeper.pid) == {int(client.ask("who"))}
