"""Data types: the names users write, their prefixes, and NumPy's promotion with weak numbers.

A dtype is its NumPy name (``"float32"``).  Python numbers are *weak* (NEP 50): they take the dtype
of the tensor they meet unless their kind is higher (a float meeting an integer tensor).

``float16`` and ``bfloat16`` are *halves*: what memory holds.  Every operation on them has the value
that float32 arithmetic gives, rounded to the half (``widen.py``); so no op, scalar function or loop
computes in them.
"""

from __future__ import annotations

import numpy as np

BOOL = "bool"
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
FLOATS = ("float32", "float64")
"""What floating-point arithmetic is done in."""
HALVES = ("float16", "bfloat16")
"""What is stored in two bytes and computed in float32."""
INTEGERS = SIGNED + UNSIGNED
COMPUTED = (BOOL, *INTEGERS, *FLOATS)
DTYPES = (*COMPUTED, *HALVES)

SIZES = {dtype: np.dtype(dtype).itemsize for dtype in COMPUTED} | dict.fromkeys(HALVES, 2)
"""Bytes of one element."""

LEAST_NORMAL = {"float16": 2.0 ** -14, "bfloat16": 2.0 ** -126, "float32": 2.0 ** -126,
                "float64": 2.0 ** -1022}
"""The smallest positive number that has all its digits."""

PREFIXES = {"b": "int8", "w": "int16", "i": "int32", "l": "int64", "f": "float32", "d": "float64"}
"""Theano's one-letter prefixes of the constructors: ``fmatrix`` is a float32 matrix."""


_names: dict[np.dtype, str] = {}


def dtype_name(dtype: np.dtype) -> str:
    """Return the name of a NumPy dtype, whatever its byte order (NumPy computes it each time)."""
    name = _names.get(dtype)
    if name is None:
        name = _names[dtype] = dtype.newbyteorder("=").name
    return name


def is_float(dtype: str) -> bool:
    """Return whether ``dtype`` is a floating-point type, computed in or only stored."""
    return dtype in FLOATS or dtype in HALVES


def computed(dtype: str) -> str:
    """Return the dtype in which values of ``dtype`` are computed: float32 for a half."""
    return "float32" if dtype in HALVES else dtype


def can_cast(source: str, target: str) -> bool:
    """Return whether every value of ``source`` is one of ``target`` (NumPy's safe casts).

    Examples
    --------
    >>> can_cast("bfloat16", "float32"), can_cast("bfloat16", "float16"), can_cast("int8", "int64")
    (True, False, True)
    """
    if source == target or "bfloat16" not in (source, target):
        return bool(np.can_cast(source, target, "safe"))
    if source == "bfloat16":
        return target in FLOATS
    return source == BOOL or source in ("int8", "uint8")


def is_integer(dtype: str) -> bool:
    """Return whether ``dtype`` is a signed or unsigned integer type (bool is not)."""
    return dtype in INTEGERS


def promote(*dtypes: str) -> str:
    """Return NumPy's common dtype of tensors of these dtypes.

    bfloat16 meets bool and integers as float16 does; with float16 it gives float32.

    Examples
    --------
    >>> promote("int32", "float32"), promote("int8", "uint8"), promote("bool", "bool")
    ('float64', 'int16', 'bool')
    """
    result = dtypes[0]
    for dtype in dtypes[1:]:
        if dtype != result:
            result = _promote_two(result, dtype)
    return result


def _promote_two(left: str, right: str) -> str:
    """Return the common dtype of two different dtypes."""
    if "bfloat16" not in (left, right):
        return np.promote_types(left, right).name
    other = right if left == "bfloat16" else left
    if other == "float16":
        return "float32"
    common = np.promote_types("float16", other).name
    return "bfloat16" if common == "float16" else common


def float_of(dtype: str) -> str:
    """Return the dtype of ``exp`` of a tensor of ``dtype``.

    Floats stay; bool and integers of up to 16 bits become float32 (NumPy would use float16 for
    8 bits, which keeps fewer digits than people expect); wider integers become float64.
    """
    if is_float(dtype):
        return dtype
    return "float32" if SIZES[dtype] <= 2 else "float64"


def accumulator_of(dtype: str) -> str:
    """Return the dtype in which ``sum`` and ``prod`` of ``dtype`` are taken, as in NumPy."""
    if dtype == BOOL or dtype in SIGNED:
        return "int64"
    if dtype in UNSIGNED:
        return "uint64"
    return dtype


def weak_dtype(value: bool | int | float, partner: str | None, floatX: str) -> str:
    """Return the dtype a Python number takes when it meets a tensor of dtype ``partner``.

    Parameters
    ----------
    value : bool, int or float
    partner : str or None
        The dtype it meets; None when it stands alone.
    floatX : str
        What a Python float becomes where no floating-point tensor decides.
    """
    if isinstance(value, bool):
        return partner or BOOL
    if isinstance(value, int):
        if partner is None or partner == BOOL:
            return "int64"
        return partner
    if partner is None or not is_float(partner):
        return floatX
    return partner


def fits(value: int, dtype: str) -> bool:
    """Return whether the Python integer ``value`` is representable in integer ``dtype``."""
    info = np.iinfo(dtype)
    return bool(info.min <= value <= info.max)
