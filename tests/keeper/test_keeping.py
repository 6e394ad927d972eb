"""What outlives the daemon: descriptors, their names, and whoever is connected."""

from __future__ import annotations

from tests.keeper.conftest import Kept, is_alive, until


def test_a_client_does_not_notice_that_the_daemon_was_killed(kept: Kept) -> None:
    kept.start()
    client = kept.client()
    first = client.ask("who")
    client.say("die")
    until(lambda: not is_alive(int(first)))
    client.say("who")  # perhaps into a socket that nobody reads at the moment
    second = client.hear()
    assert second not in ("", first)
    assert "died (SIGKILL); next start in 0.1 s" in kept.died()
    assert client.ask("had") == "listen c"
