"""Conversions between halves and float32 in integer arithmetic, for targets that have no others.

Rounding is to the nearest, ties to even; a NaN becomes a quiet NaN with as many bits of its own as
fit.  No branch, no table, and no lookup: a loop of them vectorises.
"""

from __future__ import annotations

from functools import cache as memoize

from .ir import Expr, Local
from .value import ExprCache, Value, select


def single_from_float16(x: Value) -> Value:
    """Return the float32 of a float16: the bits in place, times a power of two.

    The product makes the exponent's bias right, exactly and for denormal numbers too.  Infinities
    and NaN, whose exponent is all ones, get it back.
    """
    bits = x.view("uint16").cast("uint32")
    size = bits & 0x7FFF
    number = ((size << 13).view("float32") * 2.0 ** 112).bits()
    number = number | select(size.op("ge", 0x7C00), size.like(0x7F800000), 0)
    number = number | select(size.op("gt", 0x7C00), size.like(0x00400000), 0)
    return (number | ((bits & 0x8000) << 16)).view("float32")


def float16_from_single(x: Value) -> Value:
    """Return a float32 rounded to float16.

    A normal result: the bits, with the bias changed, plus just under half of the last place that is
    kept, and one more if that place is odd.  A denormal one: the sum with 1/2, whose last place is
    that of the denormal numbers, so that the addition rounds.
    """
    bits = x.bits()
    size = bits & 0x7FFFFFFF
    rounded = (size - (0x38000000 - 0xFFF) + ((size >> 13) & 1)) >> 13
    normal = rounded.op("minimum", 0x7C00)
    denormal = (size.view("float32") + 0.5).bits() - 0x3F000000
    finite = select(size < 0x38800000, denormal, normal)
    result = select(size > 0x7F800000, ((size >> 13) & 0x3FF) | 0x7E00, finite)
    return (result | ((bits >> 16) & 0x8000)).cast("uint16").view("float16")


def single_from_bfloat16(x: Value) -> Value:
    """Return the float32 of a bfloat16, which is its upper half."""
    return (x.view("uint16").cast("uint32") << 16).view("float32")


def bfloat16_from_single(x: Value) -> Value:
    """Return a float32 rounded to bfloat16: the upper half, after just under half is added."""
    bits = x.bits()
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (select(x.differs(x), bits | 0x400000, rounded) >> 16).cast("uint16").view("bfloat16")


_CONVERSIONS = {("float16", "float32"): single_from_float16,
                ("float32", "float16"): float16_from_single,
                ("bfloat16", "float32"): single_from_bfloat16,
                ("float32", "bfloat16"): bfloat16_from_single}


@memoize
def conversion(source: str, target: str) -> tuple[Local, Expr]:
    """Return a parameter of one dtype, and the expression that converts it to the other.

    Parameters
    ----------
    source, target : str
        float32 and a half, in either order.
    """
    parameter = Local("x", source)
    return parameter, _CONVERSIONS[source, target](Value(parameter, ExprCache())).expr
