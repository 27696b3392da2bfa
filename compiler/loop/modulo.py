"""Remainder and floored quotient of floats as loop expressions, with NumPy's rounding.

No primitive gives the remainder of floats, so it is a long division in base ``2**26``: each step
subtracts ``digit * y``, where the digit holds the leading 26 bits of the quotient and the product
is exact because ``y`` is split into halves of 26 and 27 bits (T. J. Dekker, "A floating-point
technique for extending the available precision", 1971).  Every remainder on the way is a multiple
of the digit's unit times the last place of ``y``, less than ``2**53`` of them: so it is exact, with
or without a fused multiply-add.
"""

from __future__ import annotations

from .ir import Expr
from .value import ExprCache, Value, select

DIGITS = 3
LARGEST_QUOTIENT = 2.0 ** 75
"""The remainder is exact below this quotient; above, it is NaN rather than wrong."""

_LEADING_26_BITS = -(1 << 27)


def _leading_bits(x: Value) -> Value:
    return (x.view("int64") & _LEADING_26_BITS).view("float64")


def _truncated_remainder(x: Value, y: Value) -> Value:
    """Return ``x - trunc(x / y) * y`` of float64: C's ``fmod``."""
    dividend, divisor = abs(x), abs(y)
    high = _leading_bits(divisor)
    low = divisor - high
    rest = dividend
    for _ in range(DIGITS):
        digit = _leading_bits(rest / divisor).op("trunc")
        rest = rest - digit * high - digit * low
    # The last digit may be one off, because the quotients it came from were rounded.
    rest = select(rest < 0, rest + divisor, rest)
    rest = select(rest >= divisor, rest - divisor, rest)
    rest = select(dividend / divisor < LARGEST_QUOTIENT, rest, float("nan"))
    # A divisor above the dividend (infinity too) leaves it whole.
    return select(dividend < divisor, dividend, rest).op("copysign", x)


def _remainder(x: Value, y: Value) -> Value:
    return _truncated_remainder(x.cast("float64"), y.cast("float64")).cast(x.dtype)


def _signs_differ(x: Value, y: Value) -> Value:
    return (x < 0).differs(y < 0)


def modulo(x: Expr, y: Expr, cache: ExprCache | None = None) -> Expr:
    """Return ``x - floor(x / y) * y``: sign of ``y``, NaN for ``y == 0`` or infinite ``x``."""
    dividend, divisor = (Value(e, cache := cache or ExprCache()) for e in (x, y))
    rest = _remainder(dividend, divisor)
    moved = select(_signs_differ(rest, divisor), rest + divisor, rest)
    return select(rest.equals(0), divisor.like(0.0).op("copysign", divisor), moved).expr


def floor_quotient(x: Expr, y: Expr, cache: ExprCache | None = None) -> Expr:
    """Return ``floor(x / y)``, rounded as NumPy rounds it: from the exact remainder."""
    dividend, divisor = (Value(e, cache := cache or ExprCache()) for e in (x, y))
    rest, quotient = _remainder(dividend, divisor), dividend / divisor
    whole = (dividend - rest) / divisor
    whole = select(rest.differs(0) & _signs_differ(rest, divisor), whole - 1, whole)
    down = whole.op("floor")
    nearest = select(whole - down > 0.5, down + 1, down)
    nearest = select(whole.equals(0), whole.like(0.0).op("copysign", quotient), nearest)
    # A huge quotient is an integer already; division by zero gives infinity or NaN.
    is_huge = (abs(quotient) >= LARGEST_QUOTIENT) & abs(dividend).differs(float("inf"))
    return select(is_huge | divisor.equals(0), quotient, nearest).expr
