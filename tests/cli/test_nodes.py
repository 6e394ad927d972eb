"""`fastxs ls`, `read`, `write` and so on, as somebody types them."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from fastxs.cli.words import escaped, shown, unescaped
from fastxs.client import Client, Transaction
from fastxs.hypervisor.host import available
from fastxs.testing import Guest, Xenstored
from tests.cli.conftest import BINARY, Fastxs

COMMAND = [sys.executable, "-m", "fastxs.cli.main"]
PATIENCE_S = 30.0


@pytest.fixture(params=["fastxs", "c", "ox"])
def any_store(request: pytest.FixtureRequest) -> Iterator[Xenstored]:
    """Each kind of daemon in turn."""
    if reason := available(request.param):
        pytest.skip(reason)
    with Xenstored(request.param) as store:
        yield store


def test_nodes_of_any_daemon(any_store: Xenstored) -> None:
    """All commands in one conversation."""
    fastxs = Fastxs(any_store.env)
    fastxs("mkdir", "/vm/mail")
    fastxs("write", "/vm/web/memory", "512", "/vm/web/name", "web")
    fastxs("mkdir", "/vm/mail", "/vm/web")
    assert fastxs("read", "/vm/web/name", "/vm/web/memory").stdout == "web\n512\n"
    assert fastxs("list", "/vm").stdout == "mail\nweb\n"
    assert fastxs("list", "-f", "/vm/").stdout == "/vm/mail\n/vm/web\n"
    assert [json.loads(line) for line in fastxs("list", "--json", "/vm/web").stdout.splitlines()] == [
        {"path": "/vm/web/memory"},
        {"path": "/vm/web/name"},
    ]
    fastxs("exists", "/vm/web", "/vm/mail")
    fastxs("exists", "/vm/web", "/vm/moon", status=1)
    fastxs("chmod", "-r", "/vm/web", "n0", "r7")
    assert fastxs("ls", "-p", "/vm").stdout.splitlines() == [
        "/vm  [n0]",
        '  mail = ""  [n0]',
        "  web  [n0 r7]",
        '    memory = "512"  [n0 r7]',
        '    name = "web"  [n0 r7]',
    ]
    assert fastxs("ls", "-f", "/vm/web").stdout.splitlines() == [
        '/vm/web = ""',
        '/vm/web/memory = "512"',
        '/vm/web/name = "web"',
    ]
    assert json.loads(fastxs("ls", "--json", "/vm/mail").stdout) == {"path": "/vm/mail", "value": "", "perms": ["n0"]}
    assert '\n    web\n      memory = "512"\n' in fastxs("ls").stdout
    fastxs("rm", "/vm/web", "/vm/mail")
    assert fastxs("list", "/vm").stdout == ""
    assert fastxs("read", "/vm/web/name", status=1).stderr == 'Error: "/vm/web/name": No such file or directory\n'
    fastxs("ping")


def test_any_bytes(store: Xenstored, fastxs: Fastxs) -> None:
    fastxs("write", "/v", "-", stdin=BINARY)
    assert store.client["/v"] == BINARY
    assert fastxs("read", "--raw", "/v").stdout_bytes == BINARY
    assert fastxs("read", "/v").stdout_bytes == BINARY + b"\n"
    assert fastxs("ls", "-f", "/v").stdout == r'/v = "\x00\x80\xff\x1b[31m"' + "\n"
    assert fastxs("read", "--json", "/v").stdout == '{"path": "/v", "value64": "AID/G1szMW0="}\n'
    fastxs("write", "-e", "/w", r"\x00\x80\xff\x1b[31m")
    assert store.client["/w"] == BINARY
    fastxs("write", "/w", r"\x00", "/x", "-5", "/y", "")
    assert store.client.read_many(["/w", "/x", "/y"]) == [rb"\x00", b"-5", b""]


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"", ""), (b"a\\b", r"a\\b"), (b"\t\r\n", r"\t\r\n"), ("ü€".encode(), "ü€"), (b"\xc3", r"\xc3"), (b'"', '"')],
)
def test_escapes(raw: bytes, text: str) -> None:
    assert escaped(raw) == text
    assert unescaped(os.fsencode(text)) == raw


def test_escapes_are_of_one_kind_of_bytes_only() -> None:
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    assert len({shown(raw) for raw in pairs}) == len(pairs)
    assert all(unescaped(escaped(raw).encode()) == raw for raw in pairs)
    assert all(escaped(raw).isprintable() for raw in pairs)


def test_what_is_asked_for_wrongly_is_said(fastxs: Fastxs) -> None:
    assert "there is no VALUE for /b" in fastxs("write", "/a", "1", "/b", status=2).stderr
    assert r"'\\q' is no escape" in fastxs("write", "-e", "/a", r"\q", status=2).stderr
    assert "stdin holds one VALUE" in fastxs("write", "/a", "-", "/b", "-", status=2).stderr
    assert "'q7' is not a letter of n, r, w, b and a domid" in fastxs("chmod", "/", "q7", status=2).stderr
    assert '"/a b": Invalid argument' in fastxs("write", "/a b", "1", status=1).stderr
    assert "a request holds 4096 bytes" in fastxs("write", "/a", "-", stdin=bytes(5000), status=1).stderr
    assert "`fastxs control help` lists" in fastxs("control", "dance", status=1).stderr
    assert '"/a": ' in fastxs("rm", "/a", status=1).stderr
    fastxs("rm", "-f", "/a", "/a/b/c")


def test_control(fastxs: Fastxs) -> None:
    assert fastxs("control", "check").stdout == "OK\n"
    assert fastxs("control", "log").stdout.startswith("Log switch settings:\n")
    assert fastxs("control", "quota", "set", "nodes", "-5", status=1).stderr


def test_no_daemon(store: Xenstored, fastxs: Fastxs) -> None:
    socket = store.socket.with_name("other")
    said = fastxs("read", "--socket", socket, "/", status=3).stderr
    assert said.startswith(f"Error: no daemon answers at {socket}: No such file or directory\nstart one (fastxsd;")
    store.host.kill()
    for words in (["ls"], ["write", "/a", "b"], ["watch", "/"], ["exists", "/"], ["control", "help"], ["dump"]):
        assert fastxs(*words, status=3).stderr.startswith(f"Error: no daemon answers at {store.socket}: ")


def test_rights(store: Xenstored, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside of a guest, where not all that there is may be seen."""
    store.client["/secret/plan"] = b"x"
    monkeypatch.setattr("fastxs.cli.words.Client", lambda _: Client(transport=guest.open))
    fastxs = Fastxs(store.env)
    said = fastxs("read", "/secret/plan", status=4).stderr
    assert said.startswith('Error: "/secret/plan": Permission denied\n`fastxs ls -p` shows who may')
    fastxs("exists", "/secret/plan", status=4)
    fastxs("rm", "/secret/plan", status=4)
    fastxs("control", "check", status=4)
    fastxs("write", "data/mine", "1")
    assert fastxs("ls", "-p", "data").stdout == (f'data  [n7]\n  binary = {shown(BINARY)}  [n7]\n  mine = "1"  [n7]\n')
    fastxs("rm", "data/mine")


def test_several_are_written_at_once(store: Xenstored, fastxs: Fastxs) -> None:
    """All or nothing: the last one cannot be."""
    fastxs("write", "/a", "1", "/b", "2", "/illegal path", "3", status=1)
    assert not store.client.exists("/a")
    store.client.write("/a", b"")
    fastxs("rm", "/a", "/missing", status=1)
    assert store.client.exists("/a")


def test_somebody_interferes_always(store: Xenstored, fastxs: Fastxs, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Transaction.commit

    def too_late(tx: Transaction) -> None:
        store.client["/busy"] = b""
        commit(tx)

    store.client["/busy"] = b""
    monkeypatch.setattr(Transaction, "commit", too_late)
    assert "do it again" in fastxs("rm", "/busy", status=1).stderr


# ---- watches -----------------------------------------------------------------------------------------------


def lines_of(process: subprocess.Popen[bytes], number: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().decode().rstrip("\n") for _ in range(number)]


def test_a_watch(store: Xenstored, fastxs: Fastxs) -> None:
    command = [*COMMAND, "watch", "/vm", "--values", "-n", "4"]
    with subprocess.Popen(command, env={**os.environ, **store.env}, stdout=subprocess.PIPE) as watching:
        assert lines_of(watching, 1) == ["/vm is not there"]
        store.client["/vm"] = b""
        assert lines_of(watching, 1) == ['/vm = ""']
        store.client["/vm/name"] = b"we\nb"
        assert lines_of(watching, 1) == [r'/vm/name = "we\nb"']
        del store.client["/vm/name"]
        assert lines_of(watching, 2) == ["/vm/name is not there", ""]
    assert watching.returncode == 0


def test_a_watch_for_programs(fastxs: Fastxs) -> None:
    said = fastxs("watch", "--json", "-n", "2", "/tool/xenstored", "@releaseDomain").stdout
    assert [json.loads(line) for line in said.splitlines()] == [
        {"path": path, "watch": path} for path in ("/tool/xenstored", "@releaseDomain")
    ]
    said = fastxs("watch", "--json", "--values", "-n", "1", "--depth", "1", "/missing").stdout
    assert json.loads(said) == {"path": "/missing", "watch": "/missing", "value": None}


def test_an_old_daemon_has_no_depth() -> None:
    if reason := available("c"):
        pytest.skip(reason)
    with Xenstored("c") as store:
        said = Fastxs(store.env)("watch", "--depth", "1", "-n", "1", "/", status=1).stderr
    assert "a daemon without depth" in said


def test_ctrl_c_ends_a_watch_quietly(store: Xenstored) -> None:
    with subprocess.Popen(
        [*COMMAND, "watch", "/"], env={**os.environ, **store.env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as watching:
        assert lines_of(watching, 1) == ["/"]
        watching.send_signal(signal.SIGINT)
        _, stderr = watching.communicate(timeout=PATIENCE_S)
    assert (watching.returncode, stderr) == (130, b"")


def test_the_daemon_ends_while_it_is_watched(store: Xenstored) -> None:
    with subprocess.Popen(
        [*COMMAND, "watch", "/"], env={**os.environ, **store.env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as watching:
        assert lines_of(watching, 1) == ["/"]
        store.host.kill()
        _, stderr = watching.communicate(timeout=PATIENCE_S)
    assert watching.returncode == 3
    assert stderr.startswith(b"Error: ")
    assert b"Traceback" not in stderr


# ---- terminals, pipes, Tab ---------------------------------------------------------------------------------


def on_a_terminal(words: list[str], env: dict[str, str]) -> bytes:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [*COMMAND, *words], {**os.environ, "TERM": "xterm", **env})
    said = b""
    deadline = time.monotonic() + PATIENCE_S
    while select.select([terminal], [], [], deadline - time.monotonic())[0]:
        try:
            said += os.read(terminal, 1 << 16)
        except OSError:  # its other end is closed
            break
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    return said


def test_a_terminal_gets_colours_and_escapes(store: Xenstored, guest: Guest) -> None:
    binary = f"{guest.home}/data/binary"
    assert on_a_terminal(["read", binary], store.env) == rb"\x00\x80\xff\x1b[31m" + b"\r\n"
    assert on_a_terminal(["read", "--raw", binary], store.env) == BINARY
    coloured = on_a_terminal(["ls", "-p", "/shared"], store.env)
    assert coloured.startswith(b"\x1b[34m\x1b[1m/shared\x1b[0m\x1b[36m  [n0]\x1b[0m\r\n  text")
    assert b"\x1b" not in on_a_terminal(["ls", "-p", "/shared"], {**store.env, "NO_COLOR": "1"})


def test_nobody_reads_what_is_printed(store: Xenstored) -> None:
    store.client.write_many([(f"/wide/{i:05}", b"x" * 100) for i in range(3000)])
    command = f"{sys.executable} -m fastxs.cli.main ls; echo $? >&2"
    run = subprocess.run(
        ["bash", "-c", f"{{ {command}; }} | head -n 1"],
        env={**os.environ, **store.env},
        capture_output=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert (run.stdout, run.stderr) == (b"/\n", b"141\n")


@pytest.mark.parametrize(("where", "status", "said"), [("/dev/full", 1, b"No space left on device"), ("&-", 0, b"")])
def test_what_is_printed_cannot_be_written(store: Xenstored, where: str, status: int, said: bytes) -> None:
    run = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m fastxs.cli.main read /tool/xenstored >{where}"],
        env={**os.environ, **store.env},
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert run.returncode == status
    assert (said in run.stderr, run.stderr.count(b"\n")) == (True, status)


def completed(words: str, env: dict[str, str], patience_s: float = PATIENCE_S) -> list[str]:
    """What bash is offered when Tab is pressed at the end."""
    code = f"""if True:
        from fastxs.cli import main, store
        store.COMPLETION_S = {patience_s}
        main.main(prog_name="fastxs")
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            **env,
            "_FASTXS_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_tab(store: Xenstored, guest: Guest) -> None:
    assert completed("fastxs wa", store.env) == ["watch"]
    assert completed("fastxs read /lo", store.env) == ["/local", "/local/domain"]
    assert completed("fastxs read /local/domain/7/d", store.env) == [
        "/local/domain/7/domid",
        "/local/domain/7/data",
    ]
    assert completed("fastxs read /shared/", store.env) == ["/shared/text"]
    assert completed("fastxs rm /nowhere/", store.env) == []
    assert completed("fastxs read --js", store.env) == ["--json"]
    assert completed(f"fastxs read --socket {store.socket} /sh", {}) == ["/shared", "/shared/text"]


def test_tab_without_a_daemon_that_answers(store: Xenstored) -> None:
    """One that is stopped in the middle is not waited for for ever."""
    os.kill(store.host.pid, signal.SIGSTOP)
    try:
        assert completed("fastxs read /", store.env, 0.5) == []
    finally:
        os.kill(store.host.pid, signal.SIGCONT)
    store.host.kill()
    assert completed("fastxs read /", store.env) == []


def test_little_is_loaded_for_a_short_life() -> None:
    """What costs most of a start: none of it is needed to read a node."""
    code = "import sys, fastxs.cli.store; print(*{'asyncio', 'lmdb', 'fastxs._core', 'fastxs.state'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"\n"
