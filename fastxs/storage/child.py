"""The process that reads an image which may be damaged: a page that is missing or wrong may end it in any way."""

from __future__ import annotations

import faulthandler
import resource

__all__ = ["may_crash"]


def may_crash() -> None:
    """For the child of a fork: its end is its parent's to explain; no traceback of it, no core file."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
