"""As much of `fastxs.hypervisor.border` as the daemon needs.  FAKE_BORDER in the environment is why there is none."""

from __future__ import annotations

import os


class HypervisorError(OSError):
    """No hypervisor, and why."""


class Hypervisor:
    """There is nothing behind it."""

    @classmethod
    def load(cls, sim: bool = False) -> Hypervisor:
        if os.environ.get("FAKE_BORDER"):
            raise HypervisorError(os.environ["FAKE_BORDER"])
        return cls()

    def describe(self) -> str:
        return "a stand-in"

    def close(self) -> None:
        pass
