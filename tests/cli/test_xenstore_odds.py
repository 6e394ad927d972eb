"""Xen's commands in odd situations: refusals and collisions in the middle, terminals, signals, daemons that go away.

Wherever Debian's command is asked too, it is the model; the few places where ours differ on purpose are in one test.
"""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import struct
import subprocess
import sysconfig
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from fastxs.cli.xenstore import main
from fastxs.hypervisor.host import BINARIES, Host
from tests.cli.sides import SIDES, commands, compare, debian, ours, program, two_hosts, typed
from tests.conftest import running
from tests.support.wire import Message, Op, Peer, Splitter, pack

SCRIPT: Final = Path(sysconfig.get_path("scripts")) / "fastxs-xenstore"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Host]:
    """One for all tests that do not mind what is in it."""
    with running("fastxs") as host:
        yield host


class Relay:
    """Stands between commands and a daemon, and says no in its place.

    `rules` are lines `OPERATION WORD ANSWER`, each for one request whose first word (CONTROL's second) is WORD: the
    answer is an error, or `=text` a reply, or CLOSE the end of the connection.
    """

    def __init__(self, path: Path, daemon: Path) -> None:
        self.env = {"XENSTORED_PATH": str(path)}
        self.rules: list[str] = []
        self._daemon = daemon
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            with client, Peer(self._daemon) as daemon, suppress(ConnectionError):
                self._serve(client, daemon)

    def _serve(self, client: socket.socket, daemon: Peer) -> None:
        splitter = Splitter()
        while data := client.recv(65536):
            for asked in splitter.feed(data):
                said = self._said(asked, daemon)
                if said is None:
                    return
                client.sendall(pack(said[0], said[1], asked.req_id, asked.tx_id))

    def _said(self, asked: Message, daemon: Peer) -> tuple[int, bytes] | None:
        about = asked.strings[asked.op == Op.CONTROL and len(asked.strings) > 1].decode()
        key = f"{Op(asked.op).name} {about} "
        rule = next((rule for rule in self.rules if rule.startswith(key)), None)
        if rule is None:
            reply = daemon.call(asked.op, asked.payload, asked.tx_id)
            return reply.op, reply.payload
        self.rules.remove(rule)
        if asked.op == Op.TRANSACTION_END:  # it fails, but it ends
            daemon.call(asked.op, b"F\0", asked.tx_id)
        answer = rule.removeprefix(key)
        if answer == "CLOSE":
            return None
        return (asked.op, answer[1:].encode() + b"\0") if answer[0] == "=" else (Op.ERROR, answer.encode() + b"\0")


@pytest.fixture
def relays(tmp_path: Path) -> Iterator[list[Relay]]:
    """In front of two daemons."""
    with two_hosts("fastxs") as hosts:
        relays = [Relay(tmp_path / str(number), host.socket) for number, host in enumerate(hosts)]
        try:
            yield relays
        finally:
            for relay in relays:
                relay.close()


REFUSALS: Final = """
READ /d/1 EACCES | ls /d
READ /d/1 EACCES | ls -p /d
READ /d/2 EACCES | ls -fp /d
READ /d/2/3 ENOENT | ls /d
DIRECTORY /d EACCES | ls /d
DIRECTORY /d/2 EACCES | ls /d
DIRECTORY /d/2 EACCES | ls -p
DIRECTORY /d/2 ENOENT | ls -f /d
DIRECTORY /d/2 E2BIG | ls /d
DIRECTORY / EAGAIN | ls
GET_PERMS /d/1 EACCES | ls -p /d
GET_PERMS /d/2 ENOENT | ls -fp /d
READ /d/1 EACCES | read /d/1
READ /d/1 EAGAIN | read /d/1
READ /d/1 CLOSE | read /d/1
READ /d/2 EAGAIN | read /d/1 /d/2
READ /d/2 CLOSE | read /d/1 /d/2
TRANSACTION_START  ENOSPC | read /d/1 /d/2
TRANSACTION_START  CLOSE | list /d
TRANSACTION_END T EAGAIN, TRANSACTION_END T EAGAIN, TRANSACTION_END T EAGAIN | read -p /d/1 /d/2
TRANSACTION_END F EAGAIN | read /d/1 /d/missing
TRANSACTION_END T EIO | read /d/1 /d/2
TRANSACTION_END T EAGAIN, TRANSACTION_END T EAGAIN | exists /d/1
TRANSACTION_END T EIO | exists /d/1
READ /d/1 EACCES | exists /d/1
TRANSACTION_END T EAGAIN, TRANSACTION_END T EAGAIN | list -p /d
TRANSACTION_END T ENOSPC | list /d
TRANSACTION_END T CLOSE | list /d
DIRECTORY /d/2 EACCES | list /d /d/2
TRANSACTION_END T EAGAIN, TRANSACTION_END T EAGAIN, TRANSACTION_END T EAGAIN | write /d/5 'a\\tb' /d/6 '\\x5c\\\\'
WRITE /d/7 EACCES | write /d/7 x
WRITE /d/8 ENOSPC | write /d/7 x /d/8 y
TRANSACTION_END T EAGAIN, TRANSACTION_END T EAGAIN | chmod -ru /d/2 n0 r1
TRANSACTION_END T EIO | chmod -r /d n0
SET_PERMS /d/2 EACCES | chmod -r /d n0 r7
SET_PERMS /d EAGAIN | chmod -u /d/2/3 n0 r7
DIRECTORY /d/2 EACCES | chmod -r /d n0 r8
DIRECTORY /d/2 ENOENT | chmod -r /d n0 r9
RM /d/5 EACCES | rm /d/6 /d/5
TRANSACTION_END T EAGAIN, TRANSACTION_END T EAGAIN | rm /d/5
READ /t/a/b EACCES | rm -t /t/a/b/c
DIRECTORY /t/a EACCES | rm -t /t/a/b
RM /t/a EACCES | rm -t /t/a/x
TRANSACTION_END T EAGAIN, TRANSACTION_END T EAGAIN | rm -t /t/a/x
WATCH /d ENOSPC | watch -n 1 /d
CONTROL x EACCES | control print x
CONTROL x CLOSE | control print x
CONTROL x EINVAL | control print x
CONTROL x = | control print x
CONTROL x =two{newline}lines{newline} | control print x
CONTROL x EINVAL, CONTROL help EINVAL | control print x
CONTROL help EINVAL, CONTROL help EINVAL | control help
CONTROL help ENOSYS | control help
READ /tool/xenstored/domid =5 | control live-update x
CONTROL -f =OK, CONTROL -s =OK | control live-update x
CONTROL -f =OK, CONTROL -c =OK, CONTROL -s =OK | control live-update -t 5 -F -c y x
CONTROL -f =OK, CONTROL -c =OK, CONTROL -s =BUSY, CONTROL -s =OK | control live-update -c y x
CONTROL -f =OK, CONTROL -s =BUSY | control live-update -t 1 x
CONTROL -f =OK, CONTROL -s =broken | control live-update x
CONTROL -f =OK, CONTROL -s EIO | control live-update x
CONTROL -f =OK, CONTROL -s CLOSE | control live-update x
CONTROL -f =OK, CONTROL -c =no | control live-update -c y x
CONTROL -f =no | control live-update x
CONTROL -f EINVAL | control live-update x
CONTROL -f =OK | control live-update -t 0 x
CONTROL -f =OK | control live-update -t abc x
"""


def test_refusals_and_collisions(relays: list[Relay]) -> None:
    (setup,) = commands("write /d/1 a /d/2/3 b /d/2/4 c /t/a/b/c '' /t/a/x ''")
    (look,) = commands("ls -fp")
    for relay in relays:
        assert ours(setup, relay.env)[0] == 0
    differences = []
    for line in REFUSALS.strip().split("\n"):
        rules, _, command = line.partition(" | ")
        (words,) = commands(command)
        outcomes = []
        for side, relay in zip(SIDES, relays, strict=True):
            relay.rules = rules.replace("{newline}", "\n").split(", ")
            outcomes.append(side(words, relay.env))
            assert relay.rules == [], line
            outcomes.append(side(look, relay.env))
        if outcomes[:2] != outcomes[2:]:
            differences.append((line, *outcomes))
    assert differences == []


# ---- terminals ---------------------------------------------------------------------------------------------

TREE: Final = """
write /a/short s /a/{n20} {v20} /a/b/c/d/e/f {x200} /a/empty '' /a/v40 {v40} /a/v53 {v53} /a/escaped '{\\\\n30}'
"""
WIDTHS: Final = (*range(16), 20, 21, 40, 58, 59, 60, 61, 62, 63, 64, 80, 100, 300)


@contextmanager
def terminal(columns: int) -> Iterator[tuple[int, int]]:
    """Its two ends; nothing that is written there is changed."""
    ends = pty.openpty()
    try:
        fcntl.ioctl(ends[1], termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        attributes = termios.tcgetattr(ends[1])
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(ends[1], termios.TCSANOW, attributes)
        yield ends
    finally:
        for end in ends:
            os.close(end)


def on_terminal(words: list[str], env: dict[str, str], columns: int, debians: bool) -> bytes:
    """What it prints on a terminal of that width."""
    with terminal(columns) as (reader, writer):
        if debians:
            subprocess.run(words, env={**os.environ, **env}, stdout=writer, timeout=20, check=True)
        else:
            with pytest.MonkeyPatch.context() as patch, os.fdopen(os.dup(writer), "wb") as out:
                patch.setenv("XENSTORED_PATH", env["XENSTORED_PATH"])
                assert main.run(words, out) == 0
        os.write(writer, b"\0")
        said = b""
        while not said.endswith(b"\0"):
            said += os.read(reader, 65536)
        return said


def test_lines_end_at_the_terminals_edge(c_host: Host) -> None:
    (tree,) = commands(TREE)
    assert debian(tree, c_host.env)[0] == 0
    for columns in WIDTHS:
        for words in commands("ls /a\nls -p\nls -f /a\nls -fp"):
            mine, theirs = (on_terminal(words, c_host.env, columns, debians) for debians in (False, True))
            assert mine == theirs, (columns, words)


# ---- names and options -------------------------------------------------------------------------------------


def test_posixly_correct(daemon: Host) -> None:
    """Then options end where the other words begin."""
    env = {**daemon.env, "POSIXLY_CORRECT": "1"}
    for words in commands("ls -f /tool\nls /tool -f\nls - -f\nwrite /x -5\nread /x\nread -R /x -p\nwatch -n 2 /x -n"):
        assert ours(words, env) == debian(words, env), words


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        (["/usr/bin/fastxs-xenstore", "list", "/tool"], (0, b"xenstored\n")),
        (["fastxs-xenstore-list", "/tool"], (0, b"xenstored\n")),
        (["/opt/xenstore-list", "/tool"], (0, b"xenstored\n")),
        (["whatever", "list", "/tool"], (0, b"xenstored\n")),
        (["whatever-list", "list", "/tool"], (0, b"xenstored\n")),
        (["xenstore-list2", "/"], (1, b"")),
        (["xenstore-", "list", "/"], (1, b"")),
        (["fastxs-xenstore", "control", "print", "x"], (0, b"OK\n")),
        (["fastxs-xenstore", "control"], (2, b"")),
        (["fastxs-xenstore"], (1, b"")),
    ],
)
def test_the_name_says_which_command(daemon: Host, words: list[str], outcome: tuple[int, bytes]) -> None:
    assert ours(words, daemon.env) == outcome


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("read /missing", "xenstore-read: /missing: No such file or directory\n"),
        ("rm /", "xenstore-rm: /: Invalid argument\n"),
        ("exists /missing", ""),
        ("exists /bad/", "xenstore-exists: /bad/: Invalid argument\n"),
        ("watch -n 1 /tool /tool", "xenstore-watch: /tool: File exists\n"),
        ("ls -Zn", "xenstore-ls: -Z: no such option; ignored\nxenstore-ls: -n: its value is missing; ignored\n"),
        ("ls --raw=1", "xenstore-ls: --raw=1: no such option; ignored\n"),
        ("watch -h", "xenstore-watch: usage: xenstore-watch [-h] [-n N] [-s] PATH...\n"),
        ("xenstore read", "xenstore read: usage: xenstore read [-h] [-p] [-s] [-R] PATH...\n"),
        ("chmod /tool x0", "xenstore-chmod: x0: not a permission, which is one of n r w b and a domid\n"),
        ("control quota 77", "xenstore-control: No such file or directory\n"),
        ("control live-update", "xenstore-control: live-update: which program is the daemon to become?\n"),
    ],
)
def test_what_is_wrong_is_said(
    daemon: Host, command: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XENSTORED_PATH", str(daemon.socket))
    (words,) = commands(command)
    with open(os.devnull, "wb") as out:
        main.run(words, out)
    assert capsys.readouterr().err == said


# ---- processes ---------------------------------------------------------------------------------------------


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """A folder with our program under Xen's names."""
    if not SCRIPT.exists():
        pytest.skip(f"{SCRIPT} is not installed")
    folder = tmp_path / "names"
    folder.mkdir()
    for name in (*main.COMMANDS, "control"):
        (folder / f"xenstore-{name}").symlink_to(SCRIPT)
    return folder


@pytest.fixture(params=["debian", "ours"])
def side(request: pytest.FixtureRequest) -> str:
    """How a command is started: with this before its name."""
    name: str = request.param
    if name == "debian":
        if not BINARIES["c"].exists():
            pytest.skip("Debian's packages xenstore-utils and xen-utils-4.17 are missing")
        return ""
    return f"{request.getfixturevalue('names')}/"


def started(words: list[str], side: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
    name = f"{side}{words[0]}" if side else program(words[0])
    return subprocess.Popen(
        [name, *words[1:]], env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def test_events_are_printed_as_they_come(side: str, daemon: Host) -> None:
    with started(["xenstore-watch", "-n", "6", "/a", "/b"], side, daemon.env) as process:
        assert process.stdout is not None
        assert [process.stdout.readline(), process.stdout.readline()] == [b"/a\n", b"/b\n"]
        for command, event in (("write /a/x 1", b"/a/x\n"), ("write /b/y 1", b"/b/y\n"), ("rm /a", b"/a\n")):
            assert typed(command, daemon.env)[0] == 0
            assert process.stdout.readline() == event
        assert process.poll() is None
        assert typed("chmod /b n0", daemon.env)[0] == 0
        assert process.stdout.read() == b"/b\n"
        assert process.wait(20) == 0


def test_an_interrupt_ends_it(side: str, daemon: Host) -> None:
    with started(["xenstore-watch", "/a"], side, daemon.env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"/a\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT


def test_nobody_reads_what_it_prints(side: str, daemon: Host) -> None:
    assert typed("write" + "".join(f" /many/{number} {{x1000}}" for number in range(200)), daemon.env)[0] == 0
    with started(["xenstore-ls", "-f"], side, daemon.env) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(20) == -signal.SIGPIPE


def test_closed_streams(side: str, daemon: Host) -> None:
    command = f"{side}xenstore-list / >&- 2>&- <&-"
    assert subprocess.run(command, shell=True, env={**os.environ, **daemon.env}, timeout=20).returncode == 0


# ---- where ours are better ---------------------------------------------------------------------------------


def test_what_differs_on_purpose(c_host: Host) -> None:
    """docs/commands.md lists these."""
    with running("c") as other:
        hosts = [c_host, other]
        compare("write /a/{x100}/{y100}/{z100} deep", hosts)
        whole, deep, nothing = commands("chmod -r / n0 r3\nchmod -r /a n0 r4\nchmod '' n0")
        assert debian(whole, c_host.env) == (1, b"")
        assert ours(whole, other.env) == (0, b"")
        assert typed("ls -fp /tool", other.env)[1] == b'/tool/xenstored = ""   (n0,r3)\n'
        assert debian(deep, c_host.env) == (1, b"")
        assert ours(deep, other.env) == (0, b"")
        assert typed("ls -fp /a", other.env)[1].count(b"(n0,r4)\n") == 3
        assert debian(nothing, c_host.env) == (0, b"")
        assert ours(nothing, other.env) == (1, b"")


def test_a_daemon_that_goes_away_ends_a_watch(names: Path) -> None:
    """Xen's spins for ever."""
    with running("fastxs") as host, started(["xenstore-watch", "/a"], f"{names}/", host.env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"/a\n"
        host.kill()
        assert process.wait(20) == 1


def test_what_cannot_be_printed_is_a_failure(names: Path, daemon: Host) -> None:
    """Xen's end with 0."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [names / "xenstore-ls"],
            env={**os.environ, **daemon.env},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=20,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"xenstore-ls: standard output: No space left on device\n"
