"""CONTROL, word for word: what `xenstore-control` sends and what it is told.

Texts marked C were seen from C xenstored 4.17, with the deviations of 4.22 that SPEC 6.3 names.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from fastxs.cli.main import main
from fastxs.daemon.control import Control
from tests.daemon.conftest import TIMEOUT_S, Fastxsd, fastxsd_in_a_folder
from tests.support.wire import PAYLOAD_MAX, Op, Peer

Ask = Callable[..., bytes | str]

XENSTORE_CONTROL = next(
    (p for p in map(str, Path("/usr/lib").glob("xen-*/bin/xenstore-control"))), shutil.which("xenstore-control")
)

LIMITS = b"""Quota settings:
nodes            :     1000 Nodes
watches          :      128 Watches
transactions     :       10 Transactions
transaction-nodes:     1024 Nodes of a transaction
node-permissions :        5 Permissions
node-size        :     2048 Size
path-max         :     2048 Path
outstanding      :       20 Outstanding
memory           :  2621440 Hard
\0"""

ACCOUNTS = b"Domain 0:\nnodes            :        3 (max        5)\nmemory           :      132 (max      400)\n\0"


def asking(fastxsd: Fastxsd) -> Iterator[Ask]:
    """Send words, each ended by a NUL; the reply's payload, or the error word as a str."""
    fastxsd.start("-T", "trace")
    peer = Peer(fastxsd.socket)

    def call(*words: str) -> bytes | str:
        reply = peer.call(Op.CONTROL, b"".join(word.encode() + b"\0" for word in words))
        return reply.error or reply.payload

    yield call
    peer.close()


ask = pytest.fixture(asking)


@pytest.fixture(scope="module")
def anybody() -> Iterator[Ask]:
    """The same of a daemon that the tests of this module share."""
    with fastxsd_in_a_folder() as fastxsd:
        yield from asking(fastxsd)


@pytest.mark.parametrize(
    ("words", "reply"),
    [
        (["bogus"], "EINVAL"),
        ([""], "EINVAL"),
        ([], "EINVAL"),
        (["check"], b"OK\0"),
        (["check", "x"], "EINVAL"),
        (["check", ""], "EINVAL"),
        (["fastxs-check"], b"node 4 is nobody's child\n\0"),
        (["fastxs-check", "x"], "EINVAL"),
        (["commit"], b"2 domains are offered all features now.\n\0"),
        (["commit", "x"], "EINVAL"),
        (["log"], b"Log switch settings:\nobj     : on\nio      : on\nwrl     : off\nacc     : off\ntdb     : off\n\0"),
        (["log", "bogus"], "EINVAL"),
        (["log", "+bogus"], "EINVAL"),
        (["log", ""], "EINVAL"),
        (["log", "on", "off"], "EINVAL"),
        (["logfile"], "EINVAL"),
        (["logfile", "/nonexistent/file"], b"OK\0"),  # C: the answer is OK whatever became of the file
        (["logfile", "a", "b"], "EINVAL"),
        (["memreport"], b"OK\0"),
        (["memreport", "/nonexistent/file"], "EINVAL"),
        (["memreport", "a", "b"], "EINVAL"),
        (["print"], "EINVAL"),
        (["print", "hello"], b"OK\0"),
        (["print", ""], b"OK\0"),
        (["print", "hello", "world"], "EINVAL"),
        (["quota"], LIMITS),
        (["quota", "0"], ACCOUNTS),
        (["quota", "x"], ACCOUNTS),  # C: a domid is what atoi() makes of it
        (["quota", ""], ACCOUNTS),
        (["quota", " 0x7"], ACCOUNTS),
        (["quota", "4294967296"], ACCOUNTS),
        (["quota", "7"], "ENOENT"),
        (["quota", "-1"], "ENOENT"),
        (["quota", "0", "1"], "EINVAL"),
        (["quota", "set"], "EINVAL"),  # C, although `quota x` is not
        (
            ["quota", "max"],
            b"Max. seen accounting values:\nnodes            :        9\nmemory           :      400\n\0",
        ),
        (
            ["quota", "max", "-r"],
            b"Max. seen accounting values:\nnodes            :        0\nmemory           :      400\n\0",
        ),
        (["quota", "max", "-x"], "EINVAL"),
        (["quota", "set", "nodes"], "EINVAL"),
        (["quota", "set", "nodes", "0"], "EINVAL"),
        (["quota", "set", "nodes", "-1"], "EINVAL"),
        (["quota", "set", "nodes", "x"], "EINVAL"),
        (["quota", "set", "nodes", "0x10"], "EINVAL"),
        (["quota", "set", "nodes", "2147483648"], "EINVAL"),
        (["quota", "set", "nodes", "9" * 4000], "EINVAL"),
        (["quota", "set", "bogus", "5"], "EINVAL"),
        (["quota", "set", "soft-memory", "5"], "EINVAL"),
        (["quota", "set", "nodes", "5", "6"], "EINVAL"),
        (["quota-soft"], b"Quota settings:\nmemory           :  2097152 Soft\n\0"),
        (["quota-soft", "set", "soft-memory", "100"], "EINVAL"),
        (["quota-soft", "set", "nodes", "100"], "EINVAL"),
        (["quota-soft", "set"], "EINVAL"),
        (["quota-soft", "0"], "EINVAL"),
        (["live-update"], "EINVAL"),
        (["live-update", "-f", "/bin/true"], b"Live update needs an image, and --durability none has none.\0"),
        (["live-update", "-s", "-t", "60", "-F"], b"Live update needs an image, and --durability none has none.\0"),
        (["help", "x"], "EINVAL"),
        (["turns", "maybe"], "EINVAL"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_command_and_its_answer(anybody: Ask, words: list[str], reply: bytes | str) -> None:
    assert anybody(*words) == reply


@pytest.mark.parametrize(
    "words",
    [
        ["log", "on"],
        ["log", "off"],
        ["log", "+wrl"],
        ["log", "-io"],
        ["quota", "set", "nodes", "500"],
        ["quota", "set", "nodes", "5x"],  # C: 5
        ["quota", "set", "nodes", " 7"],
        ["quota", "set", "nodes", "2147483647"],
        ["quota-soft", "set", "memory", "100"],
    ],
    ids=" ".join,
)
def test_a_command_that_changes_something(ask: Ask, words: list[str]) -> None:
    assert ask(*words) == b"OK\0"


def test_help_is_a_line_for_each_command(ask: Ask) -> None:
    assert ask("help") == (
        b"check\t\n"
        b"log\t[on|off|+<switch>|-<switch>]\n"
        b"live-update\t[-c <cmdline>] [-F] [-t <timeout>] <file>\n    Default timeout is 60 seconds.\n"
        b"logfile\t<file>\n"
        b"memreport\t[<file>]\n"
        b"print\t<string>\n"
        b"quota\t[set <name> <val>|<domid>|max [-r]]\n"
        b"quota-soft\t[set <name> <val>]\n"
        b"turns\t[on|off]\n    A histogram of the CPU time of a turn's pieces.\n"
        b"fastxs-check\t\n    As check; the faults, one a line.\n"
        b"commit\t\n    Offers all features to the domains that were taken over.\n"
        b"help\t\n\0"
    )


def test_turns_are_timed_on_demand(ask: Ask) -> None:
    """A piece of a turn is what other peers wait for; 12 of them took 512 to 640 ns of CPU time."""
    assert ask("turns") == b"Turns are not timed.\nlongest        0 ns\n\0"
    assert ask("turns", "on") == b"OK\0"
    assert ask("turns") == (
        b"Turns are timed.\n"
        b"below        640 ns:           12\n"
        b"below       3584 ns:            1\n"
        b"longest     3400 ns\n\0"
    )
    assert ask("turns", "off") == b"OK\0"


def test_a_quota_that_was_set_is_shown(ask: Ask) -> None:
    ask("quota", "set", "nodes", "2147483647")
    ask("quota", "set", "outstanding", "7x")
    ask("quota-soft", "set", "memory", "100")
    assert ask("quota") == LIMITS.replace(b"    1000 N", b"2147483647 N").replace(b"20 Out", b" 7 Out")
    assert ask("quota-soft") == b"Quota settings:\nmemory           :      100 Soft\n\0"


def test_tracing_goes_off_on_and_elsewhere(ask: Ask, fastxsd: Fastxsd) -> None:
    first, second = fastxsd.folder / "trace", fastxsd.folder / "second"
    assert first.read_text() == "\n***\ntraced obj io\n"
    ask("log", "+acc")
    assert first.read_text() == "\n***\ntraced obj io\ntraced obj io acc\n"
    ask("log", "off")
    ask("log", "-acc")  # no line: it is off
    ask("log", "on")
    assert first.read_text() == "\n***\ntraced obj io\ntraced obj io acc\n\n***\ntraced obj io\n"
    ask("logfile", str(second))
    assert second.read_text() == "\n***\ntraced obj io\n"
    assert stat.S_IMODE(second.stat().st_mode) == 0o600
    ask("logfile", "/nonexistent/file")  # and the last one that could be opened goes on
    ask("memreport")
    assert second.read_text() == (
        "\n***\ntraced obj io\n"
        "heap_used               :         4096 bytes\n"
        "nodes                   :          123 bytes\n"
    )


def test_memreport_appends_to_the_file_it_is_given(ask: Ask, fastxsd: Fastxsd) -> None:
    file = fastxsd.folder / "a\xe4b"
    file.write_text("before\n")
    assert ask("memreport", str(file)) == b"OK\0"
    assert file.read_text().splitlines()[0:2] == ["before", "heap_used               :         4096 bytes"]


def test_memreport_with_nowhere_to_go(ask: Ask) -> None:
    ask("log", "off")
    assert ask("memreport") == "EINVAL"


@pytest.mark.parametrize("command", ["logfile", "memreport"])
def test_a_pipe_that_nobody_reads_does_not_stop_the_store(ask: Ask, fastxsd: Fastxsd, command: str) -> None:
    os.mkfifo(fastxsd.folder / "pipe")
    assert ask(command, str(fastxsd.folder / "pipe")) == (b"OK\0" if command == "logfile" else "EINVAL")


def test_what_is_printed_and_found_is_in_the_log(ask: Ask, fastxsd: Fastxsd) -> None:
    ask("print", "hello\x1b[2J")
    ask("check")
    _, err = fastxsd.stop(fastxsd.started[0])
    lines = [json.loads(line) for line in err.splitlines()]
    assert {(line["event"], line.get("text"), line.get("fault")) for line in lines} >= {
        ("control", "hello\\x1b[2J", None),  # as it came it would clear the reader's screen
        ("check found a fault", None, "node 4 is nobody's child"),
    }


def test_more_faults_than_an_answer_holds() -> None:
    control = Control()
    control.engine = Mock(**{"check.return_value": [f"node {i} is nobody's child" for i in range(1000)]})
    answer = control(1, 0, [b"fastxs-check"])
    assert answer is not None and len(answer) <= PAYLOAD_MAX
    *shown, last = answer[:-1].decode().splitlines()
    assert shown[0] == "node 0 is nobody's child"
    assert last == f"and {1000 - len(shown)} more: they are in the log"


def test_fastxs_check_tells_them(ask: Ask, fastxsd: Fastxsd) -> None:
    result = CliRunner().invoke(main, ["check", str(fastxsd.socket)])
    assert result.exit_code == 1
    assert result.output == f"{fastxsd.socket}: the running daemon found 1 fault:\n  node 4 is nobody's child\n"


@pytest.mark.skipif(XENSTORE_CONTROL is None, reason="no xenstore-control here")
@pytest.mark.parametrize(
    ("words", "status", "out"),
    [
        (["quota"], 0, LIMITS[:-1].decode()),
        (["quota", "0"], 0, ACCOUNTS[:-1].decode()),
        (["check"], 0, "OK\n"),
        (["print", "hello"], 0, "OK\n"),
    ],
)
def test_xenstore_control_understands_the_answers(fastxsd: Fastxsd, words: list[str], status: int, out: str) -> None:
    fastxsd.start()
    assert XENSTORE_CONTROL is not None
    done = subprocess.run(
        [XENSTORE_CONTROL, *words],
        env={"XENSTORED_PATH": str(fastxsd.socket)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stdout.rstrip("\n")) == (status, out.rstrip("\n"))
