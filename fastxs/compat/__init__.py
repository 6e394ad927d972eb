"""The names of older clients, for programs that exist: `pyxs` 0.4, and `xen.lowlevel.xs` of the Xen tools.

Owns how a program comes to use them: by another import, or by `install` and no change at all.  What stands behind the
names is `fastxs.client`; where that knows better (values of any bytes, a waiter that can be killed), so do these.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Final

__all__ = ["install"]

_MODULES: Final = {
    "pyxs": {
        "pyxs": "fastxs.compat.pyxs",
        "pyxs.client": "fastxs.compat.pyxs.client",
        "pyxs.connection": "fastxs.compat.pyxs.connection",
        "pyxs.exceptions": "fastxs.compat.pyxs.exceptions",
    },
    "xen.lowlevel.xs": {"xen.lowlevel.xs": "fastxs.compat.lowlevel_xs"},
}


def install(name: str) -> None:
    """Whoever imports `pyxs` or `xen.lowlevel.xs` in this process from now on gets ours.  KeyError: another name."""
    for old, new in _MODULES[name].items():
        module = importlib.import_module(new)
        sys.modules[old] = module
        while "." in old:  # `import xen.lowlevel.xs` wants its packages, be they elsewhere or nowhere
            package, _, leaf = old.rpartition(".")
            try:
                parent = importlib.import_module(package)
            except ImportError:
                parent = sys.modules[package] = types.ModuleType(package)
                parent.__path__ = []
            setattr(parent, leaf, module)
            old, module = package, parent
