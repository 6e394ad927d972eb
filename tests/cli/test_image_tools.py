"""`fastxs check`, `dump`, `restore` and `diff`: of a running daemon, of images, of files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from fastxs.cli import lines
from fastxs.hypervisor.host import BINARIES
from fastxs.state import Connection, Domain, Node, Perm, Ring, Socket, State, StreamError, Watch, load, what_is_lost
from fastxs.testing import Guest, Xenstored
from tests.cli.conftest import BINARY, Fastxs


def image_of(store: Xenstored) -> Path:
    return Path(f"{store.socket}.image")


def nodes_of(dump: str) -> dict[str, dict[str, object]]:
    return {line["path"]: line for line in map(json.loads, dump.splitlines()) if "path" in line}


# ---- dump --------------------------------------------------------------------------------------------------


def test_a_running_daemon_is_dumped_by_lines(store: Xenstored, guest: Guest, fastxs: Fastxs) -> None:
    store.client.set_quota("nodes", 2000, guest.domid)
    dump = fastxs("dump").stdout
    dumped = [json.loads(line) for line in dump.splitlines()]
    assert dumped[0] == {"fastxs-dump": 1, "of": str(store.socket)}
    assert {"quota": "nodes", "value": 1000} in dumped
    assert {"domain": 7, "features": 15, "quotas": {"nodes": 2000}} in dumped
    nodes = nodes_of(dump)
    assert nodes["/shared/text"] == {"path": "/shared/text", "value": "hello", "perms": ["n0"]}
    assert nodes["/local/domain/7/data/binary"]["value64"] == "AID/G1szMW0="
    assert nodes["/local/domain/7"]["perms"] == ["n0", "r7"]
    assert nodes["@releaseDomain"]["perms"] == ["n0", "r32757"]
    assert dumped[-1] == {"end": len(nodes)}
    paths = [*nodes]
    assert all(
        paths.index(path.rpartition("/")[0] or "/") < paths.index(path)
        for path in paths
        if len(path) > 1 and path[0] == "/"
    )


def test_a_large_directory_and_a_store_that_moves(store: Xenstored, fastxs: Fastxs) -> None:
    store.client.write_many([(f"/wide/{i:04}", b"") for i in range(2000)])
    assert len(nodes_of(fastxs("dump").stdout)) == len(nodes_of(fastxs("dump", "--no-snapshot").stdout)) == 2006
    assert store.client.get_perms("/wide") == [b"n0"], "the daemon goes on"


def test_a_dead_daemons_image_has_its_connections_and_watches_too(
    store: Xenstored, guest: Guest, fastxs: Fastxs
) -> None:
    watching = [guest.client.watch("data"), store.client.watch("/shared", depth=1)]
    store.host.kill()
    guest.disconnect()
    live_gone = fastxs("dump", status=3).stderr
    assert live_gone.startswith(f"Error: no daemon answers at {store.socket}: Connection refused\n")
    dumped = [json.loads(line) for line in fastxs("dump", image_of(store)).stdout.splitlines()]
    rings = {line["domid"]: line for line in dumped if "domid" in line}
    assert (rings[7]["port"], rings[7]["remote-port"]) == (0, 2), "the daemon's own port ended with it"
    watches = {line["watch"]: line for line in dumped if "watch" in line}
    assert watches["data"]["connection"] == rings[7]["connection"], "relative, as the guest set it"
    assert watches["/shared"]["depth"] == 1
    assert len(watches) == len(watching)


def test_a_stream_for_c_xenstored(store: Xenstored, guest: Guest, fastxs: Fastxs, tmp_path: Path) -> None:
    store.host.kill()
    stream = tmp_path / "stream"
    result = fastxs("dump", image_of(store), "--format", "stream", "--stream-version", "1", "-o", stream)
    assert "connections with 0 watches: they ended with their daemon" in result.stderr
    with stream.open("rb") as file:
        state = load(file)
        assert {node.path: node for node in state.nodes}[guest.home.encode() + b"/data/binary"].value == BINARY
        assert state.connections == []
    fastxs("diff", image_of(store), stream)
    assert fastxs("check", stream).stdout.startswith(f"{stream}: sound; 16 nodes")


def test_a_dump_that_fails_leaves_nothing(fastxs: Fastxs, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    fastxs("dump", "-o", whole)
    assert whole.stat().st_mode & 0o777 == 0o600, "values are nobody else's business"
    cut = tmp_path / "cut"
    cut.write_bytes(whole.read_bytes()[:-30])
    before = {*tmp_path.iterdir()}
    result = fastxs("dump", cut, "-o", tmp_path / "never", status=1)
    assert result.stderr.startswith(f"Error: {cut}: line ")
    assert {*tmp_path.iterdir()} == before


def test_a_dump_is_read_from_stdin(fastxs: Fastxs) -> None:
    dump = fastxs("dump").stdout_bytes
    assert fastxs("dump", "-", stdin=dump).stdout.splitlines()[1:] == dump.decode().splitlines()[1:]
    assert "nodes" in fastxs("check", "-", stdin=dump).stdout


@pytest.mark.parametrize("daemon", ["c", "ox"])
def test_other_daemons_are_dumped_alike(daemon: str, tmp_path: Path) -> None:
    if not BINARIES[daemon].exists():  # type: ignore[index]
        pytest.skip(f"{BINARIES[daemon]} is missing (Debian package xen-utils-4.17)")  # type: ignore[index]
    with Xenstored(daemon) as store:
        fastxs = Fastxs(store.env)
        store.guest(7).client["data/binary"] = BINARY
        store.client.write_many([(f"/wide/{i:04}", b"") for i in range(1000)])
        dump = tmp_path / "dump"
        fastxs("dump", "-o", dump)
        assert nodes_of(dump.read_text())["/local/domain/7/data/binary"]["value64"] == "AID/G1szMW0="
        fastxs("diff", dump)
        del store.client["/wide/0500"]
        assert fastxs("restore", dump).stdout.startswith("1 written, 0 permissions set, 0 removed")
        fastxs("diff", dump)


# ---- check -------------------------------------------------------------------------------------------------


def test_check(store: Xenstored, guest: Guest, fastxs: Fastxs) -> None:
    assert fastxs("check").stdout == f"{store.socket}: sound; the running daemon has checked all of it\n"
    refused = fastxs("check", image_of(store), status=1).stderr
    assert f"the daemon with pid {store.host.pid} serves this image" in refused
    assert f"read it through the daemon's socket, {store.socket}" in refused
    store.host.kill()
    said = fastxs("check", image_of(store)).stdout
    assert "made for          this boot of the host, sim:" in said
    assert "nodes             14\n" in said
    assert said.endswith("\nsound\n")
    log = image_of(store) / "log"
    log.write_bytes(log.read_bytes().replace(b"hello", b"hallo"))
    said = fastxs("check", image_of(store), status=1).stdout
    assert "damaged, 2 faults:\n  the log: key 0x7" in said
    assert "the image is damaged: the log" in fastxs("dump", image_of(store), status=1).stderr


@pytest.mark.parametrize("command", ["check", "dump", "restore", "diff"])
def test_what_is_no_store_is_one_line(fastxs: Fastxs, tmp_path: Path, command: str) -> None:
    letter = tmp_path / "letter"
    letter.write_text("Dear store,\n")
    for source, said in (
        (letter, "neither a dump of ours, nor"),
        (tmp_path, "there is no image here"),
        (tmp_path / "nowhere", "No such file or directory"),
    ):
        result = fastxs(command, source, status=2 if command == "diff" else 1)
        assert result.stdout == ""
        assert result.stderr.startswith(f"Error: {source}: ")
        assert said in result.stderr
        assert result.stderr.count("\n") == 1


# ---- diff --------------------------------------------------------------------------------------------------


def test_differences(store: Xenstored, guest: Guest, fastxs: Fastxs, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    fastxs("dump", "-o", dump)
    assert fastxs("diff", dump).stdout == ""
    store.client["/shared/new"] = BINARY
    store.client.set_perms("/shared/text", ["r0", "w7"])
    guest.client.delete("data/binary")
    assert fastxs("diff", dump, status=1).stdout.splitlines() == [
        f"--- {dump}",
        f"+++ {store.socket}",
        r'- /local/domain/7/data/binary = "\x00\x80\xff\x1b[31m"  [n7]',
        r'+ /shared/new = "\x00\x80\xff\x1b[31m"  [n0]',
        '- /shared/text = "hello"  [n0]',
        '+ /shared/text = "hello"  [r0 w7]',
    ]
    assert fastxs("diff", dump, "--under", "/shared/text", "--values").stdout == ""
    (change,) = json.loads(fastxs("diff", dump, "--under", "/shared/text", "--json", status=1).stdout)
    assert change["first"]["perms"] == ["n0"]
    assert change["second"] == {"path": "/shared/text", "value": "hello", "perms": ["r0", "w7"]}


# ---- restore -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 1000, 0])
def test_what_was_lost_comes_back(store: Xenstored, fastxs: Fastxs, tmp_path: Path, batch: int) -> None:
    store.client.write_many([(f"/shared/{i}", b"%d" % i) for i in range(20)])
    store.client.set_perms("/shared/3", ["b0", "r0"])
    dump = tmp_path / "dump"
    fastxs("dump", "-o", dump)
    del store.client["/shared/3"]
    store.client["/shared/4"] = b"other"
    store.client["/shared/new/deep"] = b""
    assert fastxs("restore", "-n", dump).stdout.startswith("would be: 2 written")
    assert store.client["/shared/4"] == b"other"
    assert (
        fastxs("restore", "--batch", str(batch), dump).stdout
        == "2 written, 0 permissions set, 0 removed, 24 as they were\n"
    )
    assert store.client.get_perms("/shared/3") == [b"b0", b"r0"]
    assert store.client.exists("/shared/new/deep"), "what is not in the dump stays"
    assert "2 removed" in fastxs("restore", "--batch", str(batch), "--replace", dump).stdout
    fastxs("diff", dump)


def test_a_living_guests_nodes_are_left_alone(store: Xenstored, guest: Guest, fastxs: Fastxs, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    fastxs("dump", "-o", dump)
    guest.client["data/binary"] = b"new"
    store.client["/shared/text"] = b"new"
    refused = fastxs("restore", dump, status=1).stderr
    assert refused == (
        'Error: nothing was done: guests that live own or see "/local/domain/7/data/binary"; --force does it\n'
    )
    assert store.client["/shared/text"] == b"new"
    fastxs("restore", "--force", dump)
    assert guest.client["data/binary"] == BINARY


def test_nobody_gets_the_rights_of_a_domain_that_is_gone(
    store: Xenstored, guest: Guest, fastxs: Fastxs, tmp_path: Path
) -> None:
    dump = tmp_path / "dump"
    fastxs("dump", "-o", dump)
    store.client.release_domain(guest.domid)
    store.guests.kill(guest.domid)
    del store.client[guest.home]
    result = fastxs("restore", dump)
    assert result.stderr == "7 nodes without the rights of domains that are not there\n"
    assert store.client.get_perms(guest.home) == [b"n0"]
    assert store.client.get_perms(guest.home + "/data/binary") == [b"n0"]


def test_a_new_image_is_served_by_the_next_daemon(store: Xenstored, fastxs: Fastxs, tmp_path: Path) -> None:
    store.client["/shared/binary"] = BINARY
    dump = tmp_path / "dump"
    fastxs("dump", "-o", dump)
    image = image_of(store)
    assert "a daemon serves this image" in fastxs("restore", dump, "--to-image", image, status=1).stderr
    store.host.kill()
    assert "something is there already" in fastxs("restore", dump, "--to-image", image, status=1).stderr
    image.rename(image.with_name("aside"))
    fastxs("restore", "-n", dump, "--to-image", image)
    assert not image.exists()
    fastxs("restore", dump, "--to-image", image)
    fastxs("diff", dump, image)
    store.host.start()
    fastxs("diff", dump)
    assert fastxs("restore", dump, "--socket", dump, status=1).stderr == f"Error: {dump}: not a socket\n"


# ---- the lines ---------------------------------------------------------------------------------------------


def test_lines_hold_all_that_a_state_has() -> None:
    state = State(
        quotas={"nodes": 5},
        global_quotas={"domains": 9},
        domains=[Domain(7, 3, {"nodes": 6}), Domain(8)],
        connections=[
            Connection(1, Ring(7, 4, 8, 99, 5), watches=[Watch(b"/a", b"\xff", 2), Watch(b"b", b"t")]),
            Connection(2, Socket(17)),
        ],
        nodes=[
            Node(b"/", b"", (Perm("n", 0),)),
            Node(b"/\xff", BINARY, (Perm("b", 7), Perm("r", 8, True))),
        ],
    )
    file = io.BytesIO()
    lines.write(state, "somewhere", file)
    again = lines.read(file)
    assert [*again.nodes] == [*again.nodes] == state.nodes
    again.nodes = state.nodes
    assert again == state
    assert what_is_lost(again, 1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"path": "/a", "value": "", "perms": ["n0"]', "line 2 is cut off, or no JSON"),
        ("[1]", "line 2 is no object"),
        ('{"path": "/a", "value": ""}', "line 2: 'perms' is missing"),
        ('{"path": "/a", "value": "", "perms": []}', "line 2: nobody owns it"),
        ('{"path": "/a", "value": "", "perms": ["x0"]}', "line 2: 'x0' is no permission"),
        ('{"path": "/a", "value64": "!", "perms": ["n0"]}', "line 2: value64: "),
        ('{"path": 5, "value": "", "perms": ["n0"]}', "line 2: "),
        ('{"path": "/a", "value": "", "perms": ["n0"]}', "the dump is cut off after 1 nodes"),
        ('{"end": 3}', "line 2: 3 nodes are said to be there, 0 are"),
        ('{"watch": "/a", "token": "", "connection": 4}', "line 2: 4 is missing"),
        ('{"something": 1}', "line 2: nothing that a dump holds"),
    ],
)
def test_bad_lines(line: str, said: str) -> None:
    with pytest.raises(StreamError) as refused:
        [*lines.read(io.BytesIO(b'{"fastxs-dump": 1}\n' + line.encode() + b"\n")).nodes]
    assert str(refused.value).startswith(said)


def test_a_newer_dump_is_refused_in_words() -> None:
    with pytest.raises(StreamError, match="a dump of version 2; this fastxs reads version 1"):
        lines.read(io.BytesIO(b'{"fastxs-dump": 2}\n'))
