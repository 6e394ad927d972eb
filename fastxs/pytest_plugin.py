"""pytest fixtures: a XenStore daemon and guests on a pretend hypervisor.

    def test_a_guest_is_told_its_domid(xen_guest):
        assert xen_guest.client["domid"] == b"1"

Owns the fixtures' names and their one option.  pytest loads this file wherever fastxs is installed, so it imports
nothing that costs until a test asks for a fixture; `fastxs.testing` does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fastxs.testing import Guest, Xenstored


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("fastxs").addoption(
        "--xenstored",
        metavar="DAEMON",
        default="fastxs",
        help="what the fixture `xenstored` starts: fastxs (default), c or ox (Debian's), or a program's path",
    )


@pytest.fixture
def xenstored(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Xenstored]:
    """A XenStore daemon without domains, and its hypervisor: a `fastxs.testing.Xenstored`.

    Clients find it by the environment, those of programs that the test starts, too.  A test says which daemon it wants
    with `@pytest.mark.parametrize("xenstored", ["fastxs", "c"], indirect=True)`; else `--xenstored` does.
    Skips the test where Debian's daemons are missing.
    """
    from fastxs.hypervisor.host import available, named
    from fastxs.testing import Xenstored

    daemon = getattr(request, "param", None) or request.config.getoption("xenstored")
    kind, program = named(daemon)
    if kind != "fastxs" and (reason := available(kind, program)):
        pytest.skip(reason)
    with Xenstored(daemon) as store:
        for name, value in store.env.items():
            monkeypatch.setenv(name, value)
        yield store


@pytest.fixture
def xen_guests(xenstored: Xenstored) -> Callable[[int], list[Guest]]:
    """`xen_guests(3)`: three more guests."""
    return lambda count: [xenstored.guest() for _ in range(count)]


@pytest.fixture
def xen_guest(xenstored: Xenstored) -> Guest:
    """A guest, introduced."""
    return xenstored.guest()
