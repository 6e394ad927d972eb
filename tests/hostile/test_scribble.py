"""Guests that write nonsense into their pages harm nobody else: tests.hostile.fuzz for a while.

Ten minutes under AddressSanitizer: `FASTXS_FUZZ_SECONDS=600 tox -e sanitized -- tests/hostile/test_scribble.py`.
"""

from __future__ import annotations

import os
import random
import shutil
from typing import Final

import pytest

from fastxs.hypervisor.host import available
from tests.hostile import fuzz

SECONDS: Final = float(os.environ.get("FASTXS_FUZZ_SECONDS", "10"))


@pytest.mark.skipif(available("fastxs") is not None, reason="fastxs cannot run here")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.timeout(SECONDS + 120)
def test_hostile_pages_harm_nobody_else() -> None:
    """A new seed each time; what fails names it."""
    print(fuzz.run("fastxs", SECONDS, random.randrange(1 << 32)))
