"""The NumPy dtype that a name stands for, with the package it comes from where that is not NumPy.

``bfloat16`` is ``ml_dtypes.bfloat16``.  Importing that package makes the name known to NumPy; it is
imported when an array of the dtype is first needed.
"""

from __future__ import annotations

import numpy as np

from .errors import DtypeError, format_message


def is_number(dtype: np.dtype) -> bool:
    """Return whether a dtype is one of bools, integers or floats, of whatever size."""
    return dtype.kind in "biu" or is_float(dtype)


def is_float(dtype: np.dtype) -> bool:
    """Return whether a dtype is one of floats, bfloat16 among them."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def numpy_dtype(name: str) -> np.dtype:
    """Return the NumPy dtype of a name.

    Raises
    ------
    DtypeError
        If it is ``bfloat16`` and the package that has it is not installed.
    """
    if name == "bfloat16":
        try:
            from ml_dtypes import bfloat16
        except ImportError as error:
            raise DtypeError(format_message(
                "Arrays of dtype bfloat16 need the package ml_dtypes.",
                remedy="install it: pip install 'tetractys[bfloat16]'")) from error
        return np.dtype(bfloat16)
    return np.dtype(name)
