"""fastxs becomes fastxs, in place: same process, sockets and rings; and the old one is back if the new one fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fastxs.hypervisor.host import available
from tests.conversations.speak import OK, nul
from tests.support.wire import Op, Peer
from tests.update.scene import Scene, scene_of

pytestmark = pytest.mark.skipif(available("fastxs") is not None, reason=str(available("fastxs")))


@pytest.fixture
def host() -> Iterator[Scene]:
    with scene_of("fastxs") as found:
        yield found


def test_nobody_notices(host: Scene) -> None:
    pid = host.host.pid
    for _ in range(3):
        assert host.update(host.good()) == OK
        host.work()
    assert host.host.pid == pid and host.host.ended is None


@pytest.mark.parametrize(
    ("then", "end"),
    [
        ("sys.exit(1)", "exit"),
        ("os.abort()", "crash"),
        ("os.close(int(os.environ['FASTXS_UPDATE'])); sys.exit(0)", "0"),
    ],
    ids=lambda value: value if len(value) < 6 else "",
)
def test_the_old_one_comes_back(host: Scene, then: str, end: str) -> None:
    assert host.update(host.bad(then)) == b"The new program failed, the old one is back.\0"
    host.work()
    assert host.update(host.good()) == OK  # and can be updated
    host.work()


def test_the_old_one_comes_back_to_a_thousand_clients(host: Scene) -> None:
    """With descriptors of higher numbers than select(2) takes."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Peer(host.host.socket)) for _ in range(1050)]
        assert host.update(host.bad("sys.exit(1)")) == b"The new program failed, the old one is back.\0"
        assert clients[0].call(Op.READ, b"/\0").payload == b""
        host.work()


@pytest.mark.parametrize(
    ("then", "why"),
    [
        ("import nothing_of_that_name", b"ModuleNotFoundError"),
        ("print('something else')", b"something else"),
        ("raise SystemExit(3)", b"exit status 3"),
    ],
)
def test_a_trial_that_fails_costs_nothing(host: Scene, then: str, why: bytes) -> None:
    program = host.folder / "untried"
    program.write_text(f"#!{shutil.which('python3')}\n{then}\n")
    program.chmod(0o755)
    answer = host.update(program)
    assert answer.startswith(b"The new program failed its trial") and why in answer
    host.work()


def test_a_program_without_interpreter(host: Scene) -> None:
    program = host.folder / "nobody"
    program.write_text("#!/nowhere\n")
    program.chmod(0o755)
    assert host.update(program) == b"Error activating new binary.\0"
    host.work()


def test_who_may_ask_what(host: Scene) -> None:
    """C xenstored's words (SPEC 6.3)."""
    with Peer(host.host.socket) as other:
        assert host.control("-s").payload == b"Not in live-update session.\0"
        assert host.control("-c", "-N").payload == b"Not in live-update session.\0"
        assert host.control("-a").payload == b"No live-update session active.\0"
        assert host.control("-f", "/nowhere").payload == b"File not accessible.\0"
        assert host.control("-f", "/etc/passwd").payload == b"File not executable.\0"
        assert host.control("-f", str(host.good())).payload == OK
        assert host.control("-f", str(host.good())).payload == b"live-update session already active.\0"
        assert other.call(Op.CONTROL, nul("live-update", "-s")).payload == b"Not in live-update session.\0"
        assert other.call(Op.CONTROL, nul("live-update", "-a")).payload == OK
        assert host.control("-s").payload == b"Not in live-update session.\0"


def test_no_transaction_begins_while_one_is_announced(host: Scene) -> None:
    guest = host.guests[0]
    assert host.control("-f", str(host.good())).payload == OK
    held = guest.send(Op.TRANSACTION_START, b"\0")
    host.guests[1].call(Op.READ, b"data\0")
    with pytest.raises(TimeoutError):
        guest.reply(held, 0.1)
    assert host.control("-a").payload == OK
    assert guest.reply(held).op == Op.TRANSACTION_START


def test_an_open_transaction_is_waited_for_or_doomed(host: Scene) -> None:
    guest = host.guests[0]
    tx = int(guest.call(Op.TRANSACTION_START, b"\0").payload[:-1])
    assert host.control("-f", str(host.good())).payload == OK
    said = host.control("-s", "-t", "0").payload
    assert said.startswith(b"Domains with long running transactions:\nDomain 1: ") and said.endswith(b" s\0")
    assert host.control("-f", str(host.good())).payload == OK
    assert host.control("-s", "-t", "0", "-F").payload == OK
    assert guest.call(Op.WRITE, b"data\0x", tx).error is None
    assert guest.call(Op.TRANSACTION_END, b"T\0", tx).error == "EAGAIN"
    host.work()
