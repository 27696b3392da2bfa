"""Division by a literal, as two multiplications: how a target with a fused multiply-add writes it.

With ``high + low`` close to ``1/c``, both of its sign, ``fma(x, high, x*low)`` is the rounded
quotient ``x/c``, unless that quotient lies very near the middle between two numbers.  There are
only a few such ``x`` for one ``c``, and they can be listed, and tried.

References
----------
N. Brisebarre, J.-M. Muller, S. K. Raina, "Accelerating correctly rounded floating-point division
when the divisor is known in advance", IEEE Transactions on Computers 53 (2004).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import cache

from .value import FORMATS


@cache
def reciprocal(divisor: float, dtype: str) -> tuple[float, float] | None:
    """Return ``high`` and ``low`` with which ``fma(x, high, x*low)`` is ``x/divisor``.

    It is the same number for zeros, infinities, NaN, and where ``abs(x/divisor)`` is above 2**-98
    in float32, 2**-964 in float64; below, ``x*low`` is denormal, and the error less than 1 ulp.

    Returns
    -------
    tuple of float or None
        None for powers of two, for which one multiplication does, and where there are none.
    """
    form = FORMATS[dtype]
    digits = form.mantissa + 1
    if not math.isfinite(divisor) or divisor == 0.0:
        return None
    fraction, exponent = math.frexp(abs(divisor))
    whole = int(math.ldexp(fraction, digits))
    if fraction == 0.5 or abs(exponent) > form.bias - 2 * digits - 2:
        return None
    exact = Fraction(1, whole)
    high = Fraction(int(exact * 4 ** digits // 2), 4 ** digits // 2)
    low = _rounded(exact - high, digits)
    for x in _critical(whole, digits):
        if _rounded(x * high + _rounded(x * low, digits), digits) \
                != _rounded(Fraction(x, whole), digits):
            return None
    scale = math.copysign(2.0 ** (digits - exponent), divisor)
    return float(high) * scale, float(low) * scale


def _critical(divisor: int, digits: int) -> Iterator[int]:
    """Yield the integers of ``digits`` bits whose quotient is close to the middle of two numbers.

    All errors together are below ``2 * 4**-digits``; the distance of ``x/divisor`` from a middle is
    ``abs(x * 2**shift - odd * divisor)`` in units of ``1 / (divisor * 2**shift)``.
    """
    least, end = 1 << (digits - 1), 1 << digits
    for shift, low, high in ((digits, divisor, end), (digits + 1, least, divisor)):
        for distance in range(-4, 5):
            common = math.gcd(1 << shift, divisor)
            if distance == 0 or distance % common:
                continue
            step = divisor // common
            first = distance // common * pow((1 << shift) // common, -1, step) % step
            yield from range(first + -(-(low - first) // step) * step, high, step)


def _rounded(value: Fraction, digits: int) -> Fraction:
    """Return a number >= 0 rounded to so many binary digits, ties to even."""
    if value == 0:
        return value
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    unit = Fraction(2) ** (exponent - digits)
    while value / unit >= 1 << digits:
        unit *= 2
    return round(value / unit) * unit
