"""What other projects' tests get: `fastxs.testing`, and the pytest fixtures made of it."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from fastxs.client import AccessDenied, XenStoreError
from fastxs.hypervisor.host import KINDS, HostError, available
from fastxs.testing import Xenstored


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[Xenstored]:
    if reason := available(request.param):
        pytest.skip(reason)
    with Xenstored(request.param) as store:
        yield store


def test_a_guest_and_dom0_speak_of_the_same_nodes(store: Xenstored) -> None:
    guest = store.guest()
    assert guest.domid == 1
    assert guest.client["domid"] == b"1"
    guest.client["data/hello"] = b"dom0"
    assert store.client["/local/domain/1/data/hello"] == b"dom0"
    with pytest.raises(AccessDenied):
        guest.client["domid"] = b"7"


def test_guests_do_not_see_each_other(store: Xenstored) -> None:
    first, second = store.guest(), store.guest(700)
    assert store.guest().domid == 701
    with pytest.raises(AccessDenied):
        second.client.read(first.home + "/data")


def test_a_toolstack_asks_a_guest_to_power_off(store: Xenstored) -> None:
    guest = store.guest()
    with guest.client.watch("control/shutdown") as asked, store.client.watch("@releaseDomain") as ends:
        asked.read(5)  # at once
        ends.read(5)
        store.client["/local/domain/1/control/shutdown"] = b"poweroff"
        asked.read(5)
        assert guest.client["control/shutdown"] == b"poweroff"
        guest.client["control/shutdown"] = b""
        guest.shutdown()
        ends.read(5)
    guest.destroy()
    assert not store.client.exists(guest.home)
    assert not store.client.is_domain_introduced(guest.domid)


def test_a_death_is_found(store: Xenstored) -> None:
    guest = store.guest()
    with store.client.watch("@releaseDomain") as ends:
        ends.read(5)
        guest.die()
        ends.read(5)
    assert not store.client.is_domain_introduced(guest.domid)
    assert store.guest(guest.domid).client["domid"] == b"1", "another one of that domid"


def test_an_introduction_fails_on_demand(store: Xenstored) -> None:
    store.fail("map", 1, errno.EINVAL)
    with pytest.raises(XenStoreError):
        store.guest()
    assert store.guest().client["domid"] == b"1"
    with pytest.raises(FileExistsError):
        store.guest(1)


def test_a_guest_that_breaks_the_rules_is_on_its_own() -> None:
    with Xenstored() as store:
        bad, good = store.guest(), store.guest()
        bad.page[2052:2056] = (5000).to_bytes(4, sys.byteorder)  # req_prod: more than the ring holds
        with pytest.raises(XenStoreError):
            bad.client.read("domid")
        assert good.client["domid"] == b"2"


def test_a_daemon_with_flags_of_its_own() -> None:
    with Xenstored(args=["-E", "12"]) as store:
        guest = store.guest()
        with pytest.raises(XenStoreError) as caught:
            for n in range(12):
                guest.client[f"data/{n}"] = b""
        assert caught.value.errno == errno.ENOSPC


def test_what_cannot_be_started() -> None:
    with pytest.raises(ValueError, match="neither one of fastxs, c, ox, nor a program"):
        Xenstored("xapi")
    with pytest.raises(HostError, match="--nonsense"):
        Xenstored(args=["--nonsense"])


# ------------------------------------------------------------------------------- the pytest plugin

CONVERSATION = """
import errno, os
import pytest

def test_one_line(xen_guest):
    assert xen_guest.client["domid"] == b"1"

def test_two(xenstored, xen_guests):
    first, second = xen_guests(2)
    assert (first.domid, second.domid) == (1, 2)
    assert os.environ["XENSTORED_PATH"] == str(xenstored.socket)

@pytest.mark.parametrize("xenstored", ["fastxs", "c"], indirect=True)
def test_each(xenstored):
    xenstored.fail("bind", 1, errno.ENOSPC)
    with pytest.raises(OSError):
        xenstored.guest()

def test_a_name_of_ours(request):
    assert request.config.getoption("xenstored")
"""
PAGE = Path(__file__).resolve().parents[2] / "docs" / "simulator.md"
NOTHING = """
import sys

def test_nothing_of_it_is_loaded():
    assert {name for name in sys.modules if name.startswith("fastxs")} <= {"fastxs", "fastxs.pytest_plugin"}
    assert "ctypes" not in sys.modules or "fastxs.hypervisor" not in sys.modules
"""
PLUGGED_IN = "fastxs" in {point.name for point in metadata.entry_points(group="pytest11")}

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """pytest in a project of its own: the last line of what it says."""

    def run(text: str, *options: str, status: int = 0) -> str:
        (tmp_path / "test_it.py").write_text(text)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "XENSTORED"))}
        command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *options]
        ran = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == status, ran.stdout + ran.stderr
        return ran.stdout.splitlines()[-1]

    return run


plugged_in = pytest.mark.skipif(not PLUGGED_IN, reason="fastxs was installed without its pytest plugin")


@plugged_in
@pytest.mark.parametrize("options", [[], ["--import-mode=importlib"], ["--xenstored=fastxs"]], ids=" ".join)
def test_any_project_has_the_fixtures(run: Run, options: list[str]) -> None:
    skipped = ", 1 skipped" if available("c") else ""
    assert run(CONVERSATION, *options).startswith(f"{4 if skipped else 5} passed{skipped}")


@plugged_in
def test_what_the_documentation_shows(run: Run) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert run("import errno, pytest\n" + example).startswith("2 passed")


@plugged_in
def test_who_does_not_ask_does_not_pay(run: Run) -> None:
    assert run(NOTHING).startswith("1 passed")


@plugged_in
def test_it_can_be_left_out(run: Run) -> None:
    assert run(NOTHING, "-p", "no:fastxs").startswith("1 passed")
    assert "1 error" in run("def test(xenstored): pass", "-p", "no:fastxs", status=1)
