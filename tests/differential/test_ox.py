"""The plain requests to Debian's oxenstored 4.17 and C xenstored 4.17: what clients may count on is what both do."""

from __future__ import annotations

from tests.differential.generate import Profile
from tests.differential.test_c import STEPS, compare

PLAIN = Profile(malformed=0, outside=0, domains=False, control=False)


def test_oxenstored_and_c_agree_on_plain_requests() -> None:
    compare("ox", "c", STEPS // 4, PLAIN)
