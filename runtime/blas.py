"""OpenBLAS from the wheel ``scipy-openblas32``: where its functions are.

It runs with one thread: what it computes are blocks of products that are cut over our own.

The library is loaded at the first question, never at import.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading

from .errors import CompileError, format_message

_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
_lock = threading.Lock()
_found: list[ctypes.CDLL | None] = []


def _library() -> ctypes.CDLL | None:
    if not _found:
        with _lock:
            if not _found:
                _found.append(_load())
    return _found[0]


def _load() -> ctypes.CDLL | None:
    # The package is located, not imported: its import reads all package metadata.
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = os.path.join(spec.submodule_search_locations[0], "lib", "libscipy_openblas" + _SUFFIX)
    try:
        library = ctypes.CDLL(path)
        library.scipy_cblas_sgemm, library.scipy_cblas_dgemm  # noqa: B018  (must be there)
    except (OSError, AttributeError):
        return None
    library.scipy_openblas_set_num_threads(ctypes.c_int(1))
    return library


def available() -> bool:
    """Return whether a BLAS was found."""
    return _library() is not None


def address(name: str) -> int:
    """Return the address of a BLAS function.

    Parameters
    ----------
    name : str
        Its standard name, ``cblas_sgemm`` for example.

    Raises
    ------
    CompileError
        When there is no BLAS, or it lacks the function.
    """
    library = _library()
    function = getattr(library, "scipy_" + name, None) if library is not None else None
    if function is None:
        raise CompileError(format_message(
            "The function needs BLAS, which was not found.", f"missing: {name}",
            remedy="Install it with: pip install scipy-openblas32"))
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def core_name() -> str:
    """Return the name of the CPU kernels OpenBLAS has chosen, or an empty text without BLAS."""
    library = _library()
    if library is None:
        return ""
    library.scipy_openblas_get_corename.restype = ctypes.c_char_p
    return library.scipy_openblas_get_corename().decode()


def get_num_threads() -> int:
    """Return the number of threads BLAS uses; 1 without BLAS."""
    library = _library()
    return int(library.scipy_openblas_get_num_threads()) if library is not None else 1
