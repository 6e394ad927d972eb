"""Debian's xenstore-* programs, as an administrator uses them."""

from __future__ import annotations

import os
import subprocess

import pytest

from fastxs.hypervisor.host import Host
from tests.peers.conftest import XEN_BIN, Run
from tests.support.wire import Op, Peer

CONTROL = XEN_BIN / "xenstore-control"


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What a program that succeeded said."""
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """What a program that failed said."""
    assert done.returncode == 1, done
    return done.stderr.strip()


def test_write_then_read(run: Run) -> None:
    assert said(run("xenstore-write", "/vm/name", "web", "/vm/memory", "512")) == ""
    assert said(run("xenstore-read", "/vm/name")) == "web\n"
    assert said(run("xenstore-read", "-p", "/vm/name", "/vm/memory")) == "/vm/name: web\n/vm/memory: 512\n"
    assert refused(run("xenstore-read", "/vm/nothing")) == "xenstore-read: couldn't read path /vm/nothing"


def test_values_are_bytes(run: Run) -> None:
    said(run("xenstore-write", "/v", r"tab\tnul\x00end"))
    assert said(run("xenstore-read", "/v")) == r"tab\tnul\000end" + "\n"
    said(run("xenstore-write", "-R", "/v", r"tab\t"))
    assert said(run("xenstore-read", "-R", "/v")) == r"tab\t"


def test_list_is_in_order_of_creation(run: Run) -> None:
    said(run("xenstore-write", "/vm/c", "", "/vm/a", "", "/vm/b", ""))
    assert said(run("xenstore-list", "/vm")) == "c\na\nb\n"
    assert said(run("xenstore-list", "-p", "/vm", "/")) == "/vm/c\n/vm/a\n/vm/b\n//tool\n//vm\n"
    assert refused(run("xenstore-list", "/nothing")) == "xenstore-list: could not list path /nothing"


def test_list_of_a_directory_that_needs_parts(run: Run, host: Host) -> None:
    """3,000 children do not fit into a reply: the library asks for them in parts."""
    names = [f"a-child-with-a-name-{n}" for n in range(3000)]
    with Peer(host.socket) as peer:
        for name in names:
            peer.call(Op.WRITE, b"/many/%s\0" % name.encode())
        assert peer.call(Op.DIRECTORY, b"/many\0").error == "E2BIG"
    assert said(run("xenstore-list", "/many")).split() == names


def test_ls_of_a_fresh_store(run: Run) -> None:
    assert said(run("xenstore-ls")) == 'tool = ""\n xenstored = ""\n'


def test_ls_shows_all(run: Run) -> None:
    said(run("xenstore-write", "/vm/1/name", "web", "/vm/2", "x"))
    assert said(run("xenstore-ls", "/vm")) == '1 = ""\n name = "web"\n2 = "x"\n'
    assert said(run("xenstore-ls", "-f", "-p", "/vm")) == (
        '/vm/1 = ""   (n0)\n/vm/1/name = "web"   (n0)\n/vm/2 = "x"   (n0)\n'
    )


def test_rm_and_its_tidying(run: Run) -> None:
    said(run("xenstore-write", "/vm/1/name", "web", "/keep", "x"))
    said(run("xenstore-rm", "-t", "/vm/1/name"))
    assert said(run("xenstore-list", "/")) == "tool\nkeep\n"
    said(run("xenstore-rm", "/keep"))
    assert said(run("xenstore-list", "/")) == "tool\n"
    assert refused(run("xenstore-rm", "/gone/x")) == "xenstore-rm: could not remove path /gone/x"


def test_exists(run: Run) -> None:
    assert run("xenstore-exists", "/tool").returncode == 0
    assert run("xenstore-exists", "/nothing").returncode == 1


def test_chmod_down_and_up(run: Run) -> None:
    said(run("xenstore-write", "/vm/1/name", "web", "/vm/2", "x"))
    said(run("xenstore-chmod", "-r", "/vm", "n0", "r7"))
    assert said(run("xenstore-ls", "-f", "-p", "/vm")) == (
        '/vm/1 = ""   (n0,r7)\n/vm/1/name = "web"   (n0,r7)\n/vm/2 = "x"   (n0,r7)\n'
    )
    said(run("xenstore-chmod", "-u", "/vm/1/name", "b0"))
    assert said(run("xenstore-ls", "-f", "-p", "/")).splitlines() == [
        '/tool = ""   (n0)',
        '/tool/xenstored = ""   (n0)',
        '/vm = ""   (b0)',
        '/vm/1 = ""   (b0)',
        '/vm/1/name = "web"   (b0)',
        '/vm/2 = "x"   (n0,r7)',
    ]
    assert run("xenstore-chmod", "/nothing", "n0").returncode == 1


def test_watch_tells_what_changes(run: Run, host: Host) -> None:
    """The watch's own path at once, then each change at or below it."""
    try:
        watch = subprocess.Popen(
            ["xenstore-watch", "-n", "4", "/w"], env=os.environ | host.env, stdout=subprocess.PIPE, text=True
        )
    except FileNotFoundError:
        pytest.skip("xenstore-watch is missing (Debian package xenstore-utils)")
    try:
        assert watch.stdout is not None
        assert watch.stdout.readline() == "/w\n"
        said(run("xenstore-write", "/w/x", "1", "/other", "2"))
        said(run("xenstore-chmod", "/w/x", "n0"))
        said(run("xenstore-rm", "/w"))
        assert watch.communicate(timeout=10)[0] == "/w/x\n/w/x\n/w\n"
        assert watch.returncode == 0
    finally:
        watch.kill()
        watch.wait()


def test_control_commands(run: Run) -> None:
    assert said(run(CONTROL, "check")).strip() == "OK"
    assert said(run(CONTROL, "print", "hello")).strip() == "OK"
    assert {line.split("\t")[0] for line in said(run(CONTROL, "help")).splitlines() if line.strip()} >= {
        "check", "log", "logfile", "memreport", "print", "quota", "quota-soft", "help",
    }  # fmt: skip


def test_control_quotas(run: Run) -> None:
    lines = said(run(CONTROL, "quota")).splitlines()
    assert lines[0] == "Quota settings:"
    assert {line.split(":")[0].strip() for line in lines[1:] if line.strip()} >= {
        "nodes", "watches", "transactions", "outstanding", "transaction-nodes", "memory", "node-size", "path-max",
    }  # fmt: skip
    said(run(CONTROL, "quota", "set", "nodes", "4321"))
    assert any(line.split()[:3] == ["nodes", ":", "4321"] for line in said(run(CONTROL, "quota")).splitlines())
    assert said(run(CONTROL, "quota-soft")).startswith("Quota settings:\n")
    assert said(run(CONTROL, "quota", "0")).startswith("Domain 0:\n")


def test_control_refuses(run: Run) -> None:
    done = run(CONTROL, "no-such-command")
    assert done.returncode != 0
    assert run(CONTROL, "quota", "set", "no-such-quota", "5").returncode != 0
