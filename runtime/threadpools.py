"""Let ``threadpoolctl`` see and limit our threads, where that package is installed.

``threadpoolctl`` finds thread pools by the shared libraries of the process.  Ours runs code made by
LLVM, so it is known by llvmlite's library.  BLAS is a library of its own, which it knows already.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

_registered: list[type] = []


def register(get_num_threads: Callable[[], int], set_num_threads: Callable[[int], None]) -> None:
    """Register a pool under the name ``tetractys``, once; without ``threadpoolctl``, do nothing.

    Parameters
    ----------
    get_num_threads, set_num_threads : callable
        Of the pool.
    """
    if _registered:
        return
    try:
        threadpoolctl = importlib.import_module("threadpoolctl")
        base, register_controller = threadpoolctl.LibController, threadpoolctl.register
    except (ImportError, AttributeError):  # not installed, or from before version 3.2
        return

    class Controller(base):
        """The pool of Tetractys, as ``threadpoolctl`` sees it."""

        user_api = "tetractys"
        internal_api = "tetractys"
        filename_prefixes = ("libllvmlite", "llvmlite")

        def get_num_threads(self) -> int:
            """Return the number of threads a parallel loop uses."""
            return get_num_threads()

        def set_num_threads(self, num_threads: int) -> None:
            """Set it."""
            set_num_threads(num_threads)

        def get_version(self) -> str | None:
            """Return the version of the package whose library it is."""
            return getattr(sys.modules.get("llvmlite"), "__version__", None)

    register_controller(Controller)
    _registered.append(Controller)
