"""A user's program runs, is typed, and leaves out no public name."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

from fastxs import client
from fastxs.hypervisor.host import Host
from tests.client import user

SOURCE = inspect.getsource(user)


def test_it_runs(fastxs_host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    user.main(str(fastxs_host.socket))
    assert capsys.readouterr().out == "done\n"


def test_it_uses_every_public_name() -> None:
    assert [name for name in client.__all__ if not re.search(rf"\b{name}\b", SOURCE)] == []


@pytest.mark.parametrize("face", [client.Client, client.Transaction, client.Monitor])
def test_it_calls_every_public_method(face: type) -> None:
    names = [name for name in dir(face) if not name.startswith("_")]
    assert [name for name in names if f".{name}" not in SOURCE] == []


@pytest.mark.parametrize(
    ("threads", "asyncio"),
    [
        (client.Client, client.AsyncClient),
        (client.Transaction, client.AsyncTransaction),
        (client.Monitor, client.AsyncMonitor),
    ],
)
def test_both_clients_have_the_same_names(threads: type, asyncio: type) -> None:
    def names(face: type) -> set[str]:
        return {name for name in dir(face) if not name.startswith("_")}

    assert names(threads) - names(asyncio) <= {"fileno"}
    assert names(asyncio) - names(threads) == set()


def test_every_public_thing_says_what_it_is() -> None:
    for name in client.__all__:
        thing = getattr(client, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, name
    for face in (client.Client, client.AsyncClient, client.Monitor, client.AsyncMonitor, client.Transaction):
        for name, member in inspect.getmembers(face, inspect.isfunction):
            assert name.startswith("_") or member.__doc__, f"{face.__name__}.{name}"


def test_mypy_finds_nothing_in_it() -> None:
    pytest.importorskip("mypy", reason="mypy is not installed (it is in the extra `lint`)")
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-error-summary",
            "--cache-dir=/dev/null",
            inspect.getfile(user),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.stdout + checked.stderr == ""
