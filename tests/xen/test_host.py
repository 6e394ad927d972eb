"""fastxs as dom0's XenStore daemon on a real Xen, and Debian's C xenstored beside it: the same must come of both.

Each host is booted once and runs its scenarios one after the other (a scenario's own file says what it tries); a test
waits for one of them.  Where there is no QEMU, or Debian's archive cannot be reached, all of this is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from difflib import unified_diff
from typing import Final, NamedTuple, cast

import pytest

from tests.xen.image import write_dom0
from tests.xen.machine import Machine, Result
from tests.xen.parts import Missing, parts


class Boot(NamedTuple):
    """A host: dom0's XenStore daemon, and what is tried on it, in this order; the first scenario starts the daemon."""

    store: str
    scenarios: tuple[str, ...]


COMPARED: Final = ("start-direct", "smoke")

BOOTS: Final = {
    "debian": Boot("fastxs", ("start-debian", "tenfold", "live-update", "kill")),
    "fastxs": Boot("fastxs", (*COMPARED, "many", "sharing", "console", "saverestore")),
    "launch": Boot("fastxs", ("start-launch", "test-xenstore", "block", "network", "pvh", "ends")),
    "c": Boot("c", (*COMPARED, "move")),
}
"""The longest first."""

AT_ONCE: Final = 2
"""Hosts; each keeps one CPU of this machine busy and has 2 GiB of its memory."""

TIMEOUT_S: Final = 900
"""For all that comes before a scenario's end, on a machine that is busy with other things, too."""

VARIES: Final = (
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID"),
    (r'(start_time|ring-ref|port|event-channel) = "[\d.]+"', r'\1 = "N"'),
    (r'(data/do(?:ne)?) = "[\d.]+ ', r'\1 = "N '),
    (r"(?<= )\d+\.\d$", "SECONDS"),
)
"""What differs from boot to boot, whatever the daemon: patterns, and what stands for them."""

Need = tuple[str, str]
"""A boot's name and one of its scenarios."""
Needs = tuple[Need, ...]
"""What a test waits for; so its parameter tells what must be booted."""

pytestmark = [pytest.mark.xen, pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S)]


class Hosts:
    """What has been booted for this run."""

    def __init__(self, machines: dict[str, Machine]) -> None:
        self._machines = machines

    def result(self, need: Need) -> Result:
        boot, scenario = need
        return self._machines[boot].result(scenario, TIMEOUT_S)


@pytest.fixture(scope="module")
def hosts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Boots what the selected tests need, and no more."""
    folder = tmp_path_factory.mktemp("xen")
    dom0 = folder / "dom0.cpio"
    try:
        found = parts()
        write_dom0(found, dom0)
    except Missing as missing:
        pytest.skip(f"no Xen host under QEMU: {missing}")
    ours = (
        item for item in request.session.items if isinstance(item, pytest.Function) and item.module is request.module
    )
    wanted: set[Need] = {need for item in ours for need in cast(Needs, item.callspec.params["needs"])}
    machines = {}
    for name, boot in BOOTS.items():
        if scenarios := [s for s in boot.scenarios if (name, s) in wanted]:
            scenarios = list(dict.fromkeys([boot.scenarios[0], *scenarios]))
            machines[name] = Machine(found, dom0, folder / f"{name}.log", scenarios, store=boot.store)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for machine in machines.values():
            threads.submit(machine.run)
        yield Hosts(machines)
        for machine in machines.values():
            machine.stop()
    dom0.unlink()  # 180 MB, which pytest would keep for three runs


@pytest.fixture(autouse=True)
def _nothing_left() -> None:
    """The hosts outlive each test; they end with the last one."""


def shown(result: Result) -> list[str]:
    """The lines that must be alike, without what varies."""
    lines = result.shown()
    for pattern, word in VARIES:
        lines = [re.sub(pattern, word, line) for line in lines]
    return lines


def name_of(needs: Needs) -> str:
    return "-".join(needs[0])


@pytest.mark.parametrize("needs", [((name, s),) for name, boot in BOOTS.items() for s in boot.scenarios], ids=name_of)
def test_a_host(hosts: Hosts, needs: Needs) -> None:
    """A scenario ends well, with this daemon."""
    result = hosts.result(needs[0])
    assert result.status == 0, f"status {result.status}; the console's last lines:\n{result.tail()}"


@pytest.mark.parametrize("needs", [(("fastxs", s), ("c", s)) for s in COMPARED], ids=lambda needs: str(needs[0][1]))
def test_nobody_can_tell(hosts: Hosts, needs: Needs) -> None:
    """What `xl` prints and what the store holds is the same with fastxs as with C xenstored."""
    ours, theirs = (shown(hosts.result(need)) for need in needs)
    assert ours and theirs
    assert not (diff := list(unified_diff(theirs, ours, "C xenstored", "fastxs", lineterm=""))), "\n".join(diff)
