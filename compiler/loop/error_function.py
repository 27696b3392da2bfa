"""The error function and its complement, of float32 and float64 values.

``erf`` is one minus the exponential of a polynomial; of a float64, below 1, an odd polynomial.  Of
the ``erfc`` in it only a part of the digits counts.  Where all do, ``erfc(a)`` for ``a >= 0`` is
``exp(-a*a) * Q(t) / (1 + 2*a)`` with a polynomial ``Q`` of ``t = (a-K)/(a+K)``: the quotient by the
exponential is smooth over the whole half-line (Shepherd and Laframboise, Math. Comp. 36, 1981).
"""

from __future__ import annotations

from .coefficients import ERF, ERF_EXPONENT, ERFC_DOUBLE, ERFC_SINGLE, LOG_ERFC
from .exponential import (
    LN2, LOG2_E, exp2_short, exp_scaled, expm1_reduced, power_of_two, reduce_exponential,
    round_to_integer, scale,
)
from .value import (
    Value, at_most, fast_two_sum, fma, horner, polynomial, select, two_product, with_sign,
)

CENTRE_DOUBLE = 4.0
CENTRE_SINGLE = 2.0


def erf_small(x: Value) -> Value:
    """Return erf(x) of a float64 for ``|x| <= 1``."""
    return fma(x, polynomial(x * x, ERF), x)


def erf_single(a: Value) -> Value:
    """Return erf(a) of a float32 ``a >= 0``, ``1 - e`` with ``e = (1 + q) * 2**n``."""
    a = at_most(a, 3.95)
    exponent = fma(a, polynomial(a, ERF_EXPONENT), a)
    n, bits = round_to_integer(exponent, -LOG2_E, a.format.bias)
    # Nothing is lost; log(2)'s tail is times e, small where n is not.
    r = fma(n, LN2["float32"][0], exponent)
    power = power_of_two(bits, a.format)
    return fma(-expm1_reduced(r, factor=-1.0), power, 1.0 - power)


def erfc_double(a: Value) -> Value:
    """Return erfc(a) of a float64 ``a >= 0``."""
    a = at_most(a, 28.0)
    q = horner((a - CENTRE_DOUBLE) / (a + CENTRE_DOUBLE), ERFC_DOUBLE)
    divisor = fma(a, 2.0, 1.0)
    divisor_tail = fma(a, 2.0, 1.0 - divisor)
    inverse = 1.0 / divisor
    ratio = q * inverse
    ratio_tail = (fma(-ratio, divisor, q) - ratio * divisor_tail) * inverse

    square, square_tail = two_product(a, a)
    r, tail, bits = reduce_exponential(-square, 2 * a.format.bias)
    r, tail = fast_two_sum(r, tail - square_tail)
    small = expm1_reduced(r, tail)
    power = 1.0 + small
    power_tail = small - (power - 1.0)
    return scale(fma(power, ratio, fma(power, ratio_tail, power_tail * ratio)), bits)


def erfc_single(a: Value) -> Value:
    """Return erfc(a) of a float32 ``a >= 0``, through float64."""
    a = at_most(a, 11.0).cast("float64")
    q = polynomial((a - CENTRE_SINGLE) / (a + CENTRE_SINGLE), ERFC_SINGLE)
    return (exp2_short(a * a * -LOG2_E) * q / fma(a, 2.0, 1.0)).cast("float32")


def erf(x: Value) -> Value:
    """Return the error function, the integral of 2/sqrt(pi) * exp(-t*t) from 0 to x."""
    a = abs(x)
    if x.dtype == "float32":
        return with_sign(erf_single(a), x)
    bounded = select(a > 1.0, at_most(a, 6.0), 1.0)
    large = 1.0 - exp_scaled(polynomial(bounded, LOG_ERFC), 0)
    return select(a > 1.0, large.op("copysign", x), erf_small(x))


def erfc(x: Value) -> Value:
    """Return 1 - erf(x), accurate where it is small."""
    if x.dtype == "float32":
        large = erfc_single(abs(x))
        return select(x < 0.0, 2.0 - large, large)
    large = erfc_double(abs(x))
    return select(abs(x) < 0.5, 1.0 - erf_small(x), select(x < 0.0, 2.0 - large, large))
