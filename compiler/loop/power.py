"""Powers: ``pow`` of floats with all of IEEE 754's special cases, and powers of integers."""

from __future__ import annotations

import math

import numpy as np

from .coefficients import LOG_ATANH_SHORT, LOG_ATANH_TAIL
from .exponential import (
    EXPONENT_UNIT, INVERSE_LN2, exp2_short, expm1_reduced, is_ordinary, reduce_exponential, scale,
    split_exponent, split_positive,
)
from .ir import Const
from .value import (
    Value, at_least, at_most, fast_two_sum, fma, polynomial, select, shortcut, two_product,
)

LN2_SHORT = (0.693147180559663, 2.8235290563031577e-13)
"""log(2) as a head of 42 bits, whose product with any exponent is exact, and a tail."""

TWO_THIRDS = (0.6666666666666666, 3.700743415417188e-17)


def log_double(e: Value, f: Value) -> tuple[Value, Value]:
    """Return ``log(2**e * (1 + f))`` as an unevaluated sum of two float64, good to about 2**-66.

    With ``s = f/(2+f)``: ``log(1+f) = 2*s + s*z*(2/3 + z*T(z))``, ``z = s*s``, everything above
    the polynomial ``T`` in double-double arithmetic.
    """
    divisor = 2.0 + f
    divisor_tail = f - (divisor - 2.0)
    inverse = 1.0 / divisor
    s = f * inverse
    s_tail = (fma(-s, divisor, f) - s * divisor_tail) * inverse
    z, z_tail = two_product(s, s)
    z_tail = fma(s + s, s_tail, z_tail)

    factor = z * polynomial(z, LOG_ATANH_TAIL)
    factor, factor_tail = fast_two_sum(factor.like(TWO_THIRDS[0]), factor)
    factor_tail = factor_tail + TWO_THIRDS[1]
    cube, cube_tail = two_product(s, z)
    cube_tail = fma(s, z_tail, fma(s_tail, z, cube_tail))
    series, series_tail = two_product(cube, factor)
    series_tail = fma(cube, factor_tail, fma(cube_tail, factor, series_tail))

    head, tail = LN2_SHORT
    total, first = fast_two_sum(e * head, s + s)
    total, second = fast_two_sum(total, series)
    rest = fma(e, tail, fma(s_tail, 2.0, series_tail)) + (first + second)
    return fast_two_sum(total, rest)


def magnitude_double(e: Value, f: Value, y: Value) -> Value:
    """Return ``x**y`` of float64 for ``x = 2**e * (1 + f)`` and finite ``y``."""
    head, tail = log_double(e, f)
    product = y * head
    error = fma(y, tail, fma(y, head, -product))
    bounded = at_most(at_least(product, -746.0), 710.0)
    error = select(bounded.equals(product), error, 0.0)
    r, tail, bits = reduce_exponential(bounded, 2 * y.format.bias)
    r, tail = fast_two_sum(r, error + tail)
    small = expm1_reduced(r)
    return scale(1.0 + (small + fma(tail, small, tail)), bits)


def magnitude_single(e: Value, f: Value, y: Value) -> Value:
    """Return ``x**y`` of float32 for ``x = 2**e * (1 + f)`` and finite ``y``, through float64.

    What enters is ``e / EXPONENT_UNIT``.
    """
    e = e * EXPONENT_UNIT["float32"]
    e, f, y = (value.cast("float64") for value in (e, f, y))
    s = f / (2.0 + f)
    z = s * s
    log1p = s * fma(z, polynomial(z, LOG_ATANH_SHORT), 2.0)
    product = y * fma(log1p, INVERSE_LN2["float64"][0], e)
    return exp2_short(at_most(at_least(product, -200.0), 200.0)).cast("float32")


def pow(x: Value, y: Value) -> Value:  # noqa: A001 (NumPy's and C's name)
    """Return ``x**y`` with the special cases of IEEE 754 and C's ``pow``."""
    magnitude = {"float32": magnitude_single, "float64": magnitude_double}[x.dtype]
    e, f, _ = split_exponent(x)
    general = with_edges(x, y, magnitude(*split_positive(abs(x)), y))
    return shortcut(is_ordinary(x) & (abs(y) < math.inf), magnitude(e, f, y), general)


def with_edges(x: Value, y: Value, magnitude: Value) -> Value:
    """Return ``magnitude``, that of ``abs(x)**y``, with the sign and the special cases of pow."""
    base = abs(x)
    # |x| = 0, 1 or inf, or y = +-inf: 1 if |x| is 1, else infinity or zero.
    grows = (base > 1.0).equals(y > 0.0)
    edge = select(base.equals(1.0), x.like(1.0), select(grows, x.like(math.inf), 0.0))
    exceptional = (base.equals(0.0) | base.equals(math.inf)) | abs(y).equals(math.inf)
    magnitude = select(exceptional, edge, magnitude)

    whole = y.op("rint").equals(y)
    half = 0.5 * y
    odd = whole & half.op("rint").differs(half)
    sign = select(odd, x.bits() & x.format.sign, 0)
    result = (magnitude.bits() | sign).view(x.dtype)
    invalid = (x < 0.0) & (base.differs(math.inf) & whole.op("not"))
    result = select(invalid, math.nan, result)
    result = select(x.equals(x) & y.equals(y), result, x + y)
    return select(x.equals(1.0) | y.equals(0.0), 1.0, result)


def ipow(x: Value, y: Value) -> Value:
    """Return ``x**y`` of integers, wrapping around like repeated multiplication.

    A negative exponent gives the quotient ``1 / x**-y`` rounded towards zero, and 0 for ``x`` = 0.
    A literal exponent costs only the multiplications it needs.
    """
    signed = np.dtype(x.dtype).kind == "i"
    width = 8 * np.dtype(x.dtype).itemsize
    result, power = x.like(1), x
    known = y.expr.value if isinstance(y.expr, Const) else None
    for bit in range(width - signed):
        if known is None:
            result = result * select((y & (1 << bit)).differs(0), power, 1)
        elif known >> bit & 1:
            result = result * power
        if known is not None and known >> (bit + 1) == 0:
            break
        power = power * power
    if not signed or (known is not None and known >= 0):
        return result
    # 1 and -1 are their own inverses, so the parity of y decides, as it did above: y's low bits
    # are those of -y.
    unit = x.equals(1) | x.equals(-1)
    reciprocal = select(unit, select((y & 1).differs(0), x, 1), 0)
    return select(y < 0, reciprocal, result)
