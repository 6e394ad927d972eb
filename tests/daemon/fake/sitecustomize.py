"""With this folder on PYTHONPATH a Python process finds a stand-in for the core and the hypervisor's border.

Python imports a module of this name before anything else; the package itself knows nothing of stand-ins.
FAKE_MISSING in the environment names modules that are not installed.
"""

import os
import sys
import types
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

STAND_INS = {"fastxs._core": "fake_core.py", "fastxs.hypervisor.border": "fake_border.py"}


class Finder(MetaPathFinder):
    """Finds the stand-ins before anybody finds the real ones."""

    def find_spec(self, name: str, path: object = None, target: types.ModuleType | None = None) -> ModuleSpec | None:
        file = STAND_INS.get(name)
        return spec_from_file_location(name, Path(__file__).parent / file) if file else None


sys.meta_path.insert(0, Finder())
for missing in os.environ.get("FAKE_MISSING", "").split():
    sys.modules[missing] = None  # type: ignore[assignment]  # that is how Python says so
