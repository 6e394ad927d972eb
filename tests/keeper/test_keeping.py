"""What outlives the daemon: descriptors, their names, and whoever is connected."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.keeper.conftest import Client, Kept, every_voice, is_alive, until

pytestmark = every_voice

RSS_MAX_KB = 20_000
"""Of a keeper with thousands of descriptors; an interpreter alone has 11,000."""


def kill(client: Client) -> int:
    """Kill the daemon as a crash does; its pid."""
    pid = int(client.ask("who"))
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid))
    return pid


def test_a_client_does_not_notice_that_the_daemon_was_killed(kept: Kept) -> None:
    kept.start()
    client = kept.client()
    for _ in range(3):
        killed = kill(client)
        assert client.ask("who") != str(killed)
        assert client.ask("had") == "listen c"
    assert kept.said().count("died (SIGKILL)") == 3


def test_whoever_connects_while_there_is_no_daemon_waits_for_the_next(kept: Kept) -> None:
    kept.start()
    first = kept.client()
    (kept.folder / "crash").write_text("2")
    killed = kill(first)
    second = kept.client()
    assert second.ask("who") not in ("", str(killed))
    assert second.ask("had") == "listen c"
    assert kept.said().count("died") == 3, "the one that was ready, and two that never were"


def test_thousands_survive(kept: Kept) -> None:
    keeper = kept.start("-p", kept.pid_file)
    clients = [kept.client() for _ in range(4000)]
    for client in clients:
        client.say("who")
    assert len({client.hear() for client in clients}) == 1
    killed = str(kill(clients[0]))
    for client in clients:
        client.say("who")
    (second,) = {client.hear() for client in clients}
    assert second != killed
    resident = Path(f"/proc/{keeper.pid}/statm").read_text().split()[1]
    assert int(resident) * os.sysconf("SC_PAGE_SIZE") // 1024 < RSS_MAX_KB
    # They all go; nothing of them stays behind in the keeper.
    for client in clients[1:]:
        client.close()
    until(lambda: len(os.listdir(f"/proc/{keeper.pid}/fd")) < 20)
    kill(clients[0])
    assert clients[0].ask("had") == "listen c"


def test_a_client_that_closes_is_forgotten(kept: Kept) -> None:
    kept.start()
    stays, goes = kept.client(), kept.client()
    assert goes.ask("who")
    goes.close()
    goes_while_nobody_serves = kept.client()
    assert goes_while_nobody_serves.ask("who")
    (kept.folder / "crash").write_text("1")
    kill(stays)
    goes_while_nobody_serves.close()
    assert stays.ask("who")
    kill(stays)
    assert stays.ask("had") == "listen c"


def test_half_closed_is_not_gone(kept: Kept) -> None:
    """A client that has said all it wants to say may still wait for the answer."""
    kept.start()
    other, client = kept.client(), kept.client()
    assert client.ask("who")
    client.shut()
    assert other.ask("barrier") == "True"
    kill(other)
    assert other.ask("had") == "listen c c"


def test_the_daemon_ends_a_client(kept: Kept) -> None:
    """close() would not: the keeper has the socket, too.  shutdown() does, and the keeper sees it."""
    kept.start()
    bad, good = kept.client(), kept.client()
    assert bad.ask("who") == good.ask("who")
    good.say("refuse 0")
    assert bad.hear() == ""
    assert good.hear() == "None"
    kill(good)
    assert good.ask("had") == "listen c"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("FDNAME=x", "x"),
        ("", "stored"),
        ("FDNAME=", "stored"),
        ("FDNAME=with:colon", "stored"),
        ("FDNAME=with\tcontrol", "stored"),
        ("FDNAME=ümlaut", "stored"),
        (f"FDNAME={'n' * 255}", "n" * 255),
        (f"FDNAME={'n' * 256}", "stored"),
    ],
)
def test_names(kept: Kept, words: str, name: str) -> None:
    """sd_pid_notify_with_fds(3): 255 characters of ASCII, no colon and no control; else it is `stored`."""
    kept.start()
    client = kept.client()
    assert client.ask(f"keep FDPOLL=0 {words}") == "True"
    kill(client)
    assert client.ask("had") == f"listen c {name}"


def test_what_hangs_up_is_dropped_unless_it_is_not_polled(kept: Kept) -> None:
    """An event channel's descriptor says EPOLLERR when it overflows: it is stored with FDPOLL=0."""
    kept.start()
    client = kept.client()
    for words in ("FDNAME=polled", "FDNAME=held FDPOLL=0"):
        assert client.ask(f"keep {words}") == "True"
    assert client.ask("keep-a-file file") == "True"
    assert client.ask("cut") == "None"
    assert client.ask("barrier") == "True"
    kill(client)
    assert client.ask("had") == "listen c held file"


def test_forgetting_by_name_closes_all_of_them(kept: Kept) -> None:
    kept.start()
    client = kept.client()
    for name in ("a", "b", "a"):
        assert client.ask(f"keep FDNAME={name} FDPOLL=0") == "True"
    assert client.ask("tell FDSTOREREMOVE=1 FDNAME=a") == "True"
    assert client.ask("tell FDSTOREREMOVE=1") == "True"
    assert client.ask("barrier") == "True"
    kill(client)
    assert client.ask("had") == "listen c b"


def test_what_the_daemon_said_last_counts(kept: Kept) -> None:
    """It stores a descriptor and dies before the keeper has looked."""
    keeper = kept.start()
    client = kept.client()
    assert client.ask("who")
    keeper.send_signal(signal.SIGSTOP)
    assert client.ask("keep FDNAME=last FDPOLL=0") == "True"
    os.kill(int(client.ask("who")), signal.SIGKILL)
    keeper.send_signal(signal.SIGCONT)
    assert client.ask("had") == "listen c last"


def test_a_daemon_starts_with_what_is_its_own_and_nothing_else(kept: Kept) -> None:
    with open(kept.folder / "not-yours", "w") as file:
        os.set_inheritable(file.fileno(), True)
        kept.start("-p", kept.pid_file, LISTEN_PID="1", LISTEN_FDS="7", WATCHDOG_USEC="3")
    client = kept.client()
    for _ in range(2):
        opened = client.ask("descriptors").split()
        # Standard streams, the epoll set, the listener and this client; /dev/null and the log are standard streams.
        assert sorted(opened[3:]) == sorted(["anon_inode:[eventpoll]", *(o for o in opened if o.startswith("socket:"))])
        assert len(opened) == 6
        assert client.ask("environment WATCHDOG_USEC") == "None"
        kill(client)


def test_more_than_the_limit_is_not_kept_and_ends_nothing(kept: Kept) -> None:
    kept.start(limit=64)
    client = kept.client()
    for _ in range(40):
        assert client.ask("keep FDNAME=x FDPOLL=0") == "True"
        assert client.ask("cut") == "None"
    assert client.ask("barrier") == "True"
    assert "RLIMIT_NOFILE has room for 32" in kept.said()
    kill(client)
    assert len(client.ask("had").split()) == 32


def test_longer_names_than_the_kernel_takes_are_not_kept(kept: Kept) -> None:
    """One environment string has 128 KiB (MAX_ARG_STRLEN): with more, no daemon would ever start again."""
    kept.start()
    client = kept.client()
    for _ in range(520):
        assert client.ask(f"keep FDPOLL=0 FDNAME={'n' * 255}") == "True"
    assert client.ask("barrier") == "True"
    assert "their names fill LISTEN_FDNAMES" in kept.said()
    kill(client)
    assert int(client.ask("count")) == 2 + (131072 - len("LISTEN_FDNAMES=") - len("listen:c:")) // 256
