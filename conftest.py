"""Let ``pytest`` run from a bare checkout, with the mapping that pyproject.toml declares."""

import importlib.util
import os
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]


class _SourceFinder:
    """Resolve the mapped packages to their folders in this checkout."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Return the spec of one of the mapped packages, or None."""
        folder = PACKAGES.get(name)
        if folder is None:
            return None
        here = ROOT / folder
        return importlib.util.spec_from_file_location(
            name, here / "__init__.py", submodule_search_locations=[str(here)]
        )


if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core; threads of its own would only wait for each other's.
    os.environ.setdefault("TETRACTYS_NUM_THREADS", "1")

if importlib.util.find_spec("tetractys") is None:
    sys.meta_path.insert(0, _SourceFinder)
