"""Exponentials, logarithms and what is made of them: hyperbolic functions, sigmoid, softplus.

Each function takes and returns a :class:`Value` of float32 or float64, without calls or tables, so
a loop of it vectorises.

*Exponentials* write ``x = n*log(2) + r`` with ``|r| <= log(2)/2`` and ``exp(x) = 2**n * exp(r)``;
the power of two is multiplied on in two steps, so that overflow and denormal results are rounded
once.  *Logarithms* write ``x = 2**e * (1 + f)`` with ``1 + f`` between sqrt(1/2) and sqrt(2).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .coefficients import EXP, EXP2, EXP2_SHORT, LOG, LOG1P, LOG_ATANH, SINH
from .value import (
    Format, Value, at_least, at_most, fma, polynomial, select, shortcut, with_sign,
)

LOG2_E = 1.4426950408889634

# Constants as a head, rounded to the dtype, and a tail, the rounded rest.
LN2 = {
    "float32": (0.6931471824645996, -1.9046542121259336e-09),
    "float64": (0.6931471805599453, 2.3190468138462996e-17),
}
INVERSE_LN2 = {
    "float32": (1.4426950216293335, 1.925963033500011e-08),
    "float64": (1.4426950408889634, 2.0355273740931033e-17),
}
INVERSE_LN10 = {
    "float32": (0.4342944920063019, -1.0103049952192578e-08),
    "float64": (0.4342944819032518, 1.098319650216765e-17),
}
LOG10_2 = {
    "float32": (0.3010300099849701, -1.4320988897559699e-08),
    "float64": (0.3010299956639812, -2.8037281277851704e-18),
}


def round_to_integer(x: Value, factor: float, offset: int = 0) -> tuple[Value, Value]:
    """Return the integer nearest to ``x*factor``, as a float and in the low bits of an integer.

    Adding 1.5 * 2**mantissa leaves the integer in the sum's last bits, where a shift finds it: no
    conversion is needed (AVX2 has none from float64).  ``offset`` is added to the bits.
    """
    magic = 1.5 * 2.0 ** x.format.mantissa + offset
    total = fma(x, factor, magic)
    return total - magic, total.bits()


def power_of_two(bits: Value, form: Format) -> Value:
    """Return the float whose biased exponent is in the low bits of ``bits``."""
    return (bits << form.mantissa).view(form.dtype)


def two_powers(bits: Value, form: Format) -> tuple[Value, Value]:
    """Return two powers of two whose product is 2**n, where the low bits hold ``n + 2*bias``.

    2**n itself may overflow or be denormal; the two never do.
    """
    half = bits >> 1
    return power_of_two(half, form), power_of_two(bits - half, form)


def scale(x: Value, bits: Value) -> Value:
    """Return ``x * 2**n`` rounded once, where the low bits hold ``n + 2*bias``."""
    first, second = two_powers(bits, x.format)
    return x * first * second


def reduce_exponential(x: Value, offset: int,
                       factor: float = 1.0) -> tuple[Value, Value, Value]:
    """Return ``r``, its tail and bits with ``n + offset``: ``factor*x = n*log(2) + factor*r``.

    The factor is a power of two of either sign: so ``exp(-x)`` costs no more than ``exp(x)``.
    """
    head, tail = (part / factor for part in LN2[x.dtype])
    n, bits = round_to_integer(x, LOG2_E * factor, offset)
    exact = fma(n, -head, x)  # The difference has few bits: nothing is lost.
    r = fma(n, -tail, exact)
    return r, fma(n, -tail, exact - r), bits


def expm1_reduced(r: Value, tail: Value | None = None, factor: float = 1.0) -> Value:
    """Return ``(exp(factor * (r + tail)) - 1) / |factor|`` for ``|factor*r| <= log(2)/2``.

    The factor is a power of two of either sign.
    """
    series = polynomial(r, [coefficient * factor ** (power + 2) / abs(factor)
                            for power, coefficient in enumerate(EXP[r.dtype])])
    if factor < 0.0:
        r, tail, square = -r, None if tail is None else -tail, r * r
    else:
        square = r * r
    return fma(square, series, r) if tail is None else r + fma(square, series, tail)


def exp(x: Value) -> Value:
    """Return e**x."""
    low, high = {"float32": (-104.0, 89.0), "float64": (-746.0, 710.0)}[x.dtype]
    r, _, bits = reduce_exponential(at_most(at_least(x, low), high), 2 * x.format.bias)
    first, second = two_powers(bits, x.format)
    # The sum is rounded once, with the first product; the second is exact but for denormals.
    return fma(expm1_reduced(r), first, first) * second


def exp_nonpositive(x: Value) -> Value:
    """Return e**x of ``x <= 0``, with the bits of :func:`exp`; 1 above.

    ``2**(n+64)`` is never denormal, so one product makes a denormal result of it.
    """
    return exp_below(at_most(x, 0.0))


def exp_below(x: Value) -> Value:
    """Return e**x of ``x <= 0`` or NaN."""
    low = {"float32": -104.0, "float64": -746.0}[x.dtype]
    return exp_scaled(at_least(x, low), 64) * 0.5 ** 64


def exp2(x: Value) -> Value:
    """Return 2**x."""
    low, high = {"float32": (-151.0, 128.0), "float64": (-1076.0, 1024.0)}[x.dtype]
    x = at_most(at_least(x, low), high)
    n, bits = round_to_integer(x, 1.0, 2 * x.format.bias)
    r = x - n
    return scale(fma(r, polynomial(r, EXP2[x.dtype]), 1.0), bits)


def exp2_short(x: Value) -> Value:
    """Return 2**x of a float64 between -1000 and 1000, good for rounding to float32."""
    n, bits = round_to_integer(x, 1.0, x.format.bias)
    r = x - n
    return fma(r, polynomial(r, EXP2_SHORT), 1.0) * power_of_two(bits, x.format)


def exp_scaled(x: Value, shift: int) -> Value:
    """Return ``exp(x) * 2**shift``, which is neither denormal nor infinite."""
    r, _, bits = reduce_exponential(x, x.format.bias + shift)
    power = power_of_two(bits, x.format)
    return fma(expm1_reduced(r), power, power)


def expm1(x: Value) -> Value:
    """Return e**x - 1, accurate near zero."""
    low, high = {"float32": (-18.0, 89.0), "float64": (-38.0, 710.0)}[x.dtype]
    # Half of 2**n, which may overflow.
    r, tail, bits = reduce_exponential(at_most(at_least(x, low), high), x.format.bias - 1)
    power = power_of_two(bits, x.format)
    result = 2.0 * fma(expm1_reduced(r, tail), power, power - 0.5)
    # Below, x is the answer, with its sign; halving would lose a denormal's last bit.
    return select(abs(x) < 0.5 ** (x.format.mantissa + 2), x, result)


EXPONENT_UNIT = {"float32": 2.0 ** -23, "float64": 1.0}
"""Of the exponents that :func:`split_exponent` returns."""


def split_exponent(x: Value) -> tuple[Value, Value, Value]:
    """Return ``e / EXPONENT_UNIT``, ``f`` and the bits that ``e`` adds to those of a float.

    ``x = 2**e * (1 + f)`` is normal and positive; ``1 + f`` lies in [sqrt(1/2), sqrt(2)).  Other
    inputs give some finite number.
    """
    form = x.format
    root = x.like(math.sqrt(0.5)).bits()
    fraction_mask = (1 << form.mantissa) - 1
    if x.dtype == "float32":  # Where it stands the exponent is an integer, which a float holds.
        power = (x.bits() - root) & (2 * form.sign - 1 - fraction_mask)
        fraction = (x.bits() - power).view(x.dtype)
        return power.view("int32").cast(x.dtype), fraction - 1.0, power
    bits = x.bits() + (form.one - root)
    fraction = ((bits & fraction_mask) + root).view(x.dtype)
    # The biased exponent, put under the bits of 2**mantissa, adds itself to that float: AVX2
    # converts no integers of 64 bits.
    anchor = 2.0 ** form.mantissa
    exponent = ((bits >> form.mantissa) | x.like(anchor).bits()).view(x.dtype)
    power = (bits & (form.sign - 1 - fraction_mask)) - form.one
    return exponent - (anchor + form.bias), fraction - 1.0, power


def is_ordinary(x: Value) -> Value:
    """Return whether ``x`` is positive, finite and normal: one comparison of its bits."""
    form = x.format
    smallest, infinity = 1 << form.mantissa, (2 * form.bias + 1) << form.mantissa
    # In order as signed integers: ordinary numbers, infinity, NaNs, negative ones, zero, denormals.
    moved = (x.bits() + (form.sign - smallest)).view(form.bits.removeprefix("u"))
    return moved < infinity - smallest - form.sign


def split_positive(x: Value) -> tuple[Value, Value]:
    """Return ``e / EXPONENT_UNIT`` and ``f``: ``x = 2**e * (1 + f)`` is positive, maybe denormal.
    """
    shift = x.format.mantissa + 2
    denormal = x < x.format.tiny
    e, f, _ = split_exponent(select(denormal, x * 2.0 ** shift, x))
    return e - select(denormal, x.like(shift / EXPONENT_UNIT[x.dtype]), 0.0), f


def log_tail(f: Value) -> Value:
    """Return ``log(1 + f) - f`` for ``1 + f`` in [sqrt(1/2), sqrt(2))."""
    if f.dtype == "float32":
        return f * f * polynomial(f, LOG)
    # With s = f/(2+f): log(1+f) = 2*atanh(s) = f - (f*f/2 - s*(f*f/2 + R)), R = s*s*(2/3 + ...).
    s = f / (2.0 + f)
    z = s * s
    half_square = 0.5 * f * f
    return fma(s, fma(z, polynomial(z, LOG_ATANH), half_square), -half_square)


def log_sum(e: Value, f: Value) -> Value:
    """Return ``e*log(2) + log(1 + f)`` of ``e / EXPONENT_UNIT`` and ``f``."""
    head, tail = (part * EXPONENT_UNIT[f.dtype] for part in LN2[f.dtype])
    if f.dtype == "float32":  # Of LN2's head alone 29 bits are right.
        return fma(e, head, fma(f * f, polynomial(f, LOG), f))
    return fma(e, head, f + fma(e, tail, log_tail(f)))


def log_edges(x: Value, result: Value) -> Value:
    """Return ``result``, and C's values of a logarithm at ``x`` <= 0, infinity and NaN."""
    result = select(x > 0.0, result, select(x.equals(0.0), x.like(-math.inf), math.nan))
    return select(x.equals(math.inf), x, result)


def logarithm(x: Value, finish: Callable[[Value, Value], Value]) -> Value:
    """Return a logarithm, which ``finish`` makes of what :func:`split_positive` returns."""
    e, f, _ = split_exponent(x)
    return shortcut(is_ordinary(x), finish(e, f), log_edges(x, finish(*split_positive(x))))


def log(x: Value) -> Value:
    """Return the natural logarithm."""
    return logarithm(x, log_sum)


def log1p(x: Value) -> Value:
    """Return log(1 + x), accurate near zero."""
    result = log1p_finite(x)
    result = select(x > -1.0, result, select(x.equals(-1.0), x.like(-math.inf), math.nan))
    return select(x < math.inf, result, x)


def log1p_finite(x: Value) -> Value:
    """Return log(1 + x) for finite ``x`` above -1."""
    total = 1.0 + x
    e, _, power = split_exponent(total)
    # f = (1 + x)/2**e - 1 rounded once.  The 4 keeps 4/2**e normal at the largest x.
    inverse = (x.like(4.0).bits() - power).view(x.dtype)
    result = log_sum(e, fma(0.25 * x, inverse, fma(inverse, 0.25, -1.0)))
    # Below, x is the answer, with its sign; scaling would lose a denormal's last bits.
    return select(abs(x) < 0.5 ** (x.format.mantissa + 2), x, result)


def log1p_of_fraction(x: Value) -> Value:
    """Return log(1 + x) for ``0 <= x <= 1``."""
    if x.dtype == "float32":
        return fma(x * x, polynomial(x, LOG1P), x)
    halved = x > math.sqrt(2.0) - 1.0
    e = x.like(1.0 / EXPONENT_UNIT[x.dtype])
    return log_sum(select(halved, e, 0.0), select(halved, fma(x, 0.5, -0.5), x))


def log_of_base(x: Value, inverse: tuple[float, float], unit: tuple[float, float]) -> Value:
    """Return ``log(x) * inverse``, with ``unit = log(2) * inverse``, each a head and a tail."""
    def finish(e: Value, f: Value) -> Value:
        head, tail = (part * EXPONENT_UNIT[f.dtype] for part in unit)
        rest = fma(log_tail(f), inverse[0], f * inverse[1])
        return fma(e, head, fma(f, inverse[0], fma(e, tail, rest) if tail else rest))

    return logarithm(x, finish)


def log2(x: Value) -> Value:
    """Return the logarithm to base 2; exact at powers of two."""
    return log_of_base(x, INVERSE_LN2[x.dtype], (1.0, 0.0))


def log10(x: Value) -> Value:
    """Return the logarithm to base 10."""
    return log_of_base(x, INVERSE_LN10[x.dtype], LOG10_2[x.dtype])


def hyperbolic_argument(x: Value) -> Value:
    """Return ``|x|``, bounded above where sinh and cosh overflow."""
    return at_most(abs(x), {"float32": 89.5, "float64": 710.5}[x.dtype])


def sinh(x: Value) -> Value:
    """Return (e**x - e**-x) / 2, up to 1 by an odd polynomial."""
    size = abs(x)
    z = x * x
    near = fma(size * z, polynomial(z, SINH[x.dtype]), size)
    quarter = exp_scaled(hyperbolic_argument(x), -2)
    far = fma(quarter, 2.0, -0.125 / quarter)
    return select(size > 1.0, far, near).op("copysign", x)


def cosh(x: Value) -> Value:
    """Return (e**x + e**-x) / 2."""
    quarter = exp_scaled(hyperbolic_argument(x), -2)
    return fma(quarter, 2.0, 0.125 / quarter)


def tanh(x: Value) -> Value:
    """Return the hyperbolic tangent, ``(1 - e) / (1 + e)`` with ``e = exp(-2|x|)``.

    Both are made of ``e = (1/2 + q) * 2**(n+1)`` with one rounding.
    """
    size = at_most(abs(x), {"float32": 9.5, "float64": 20.0}[x.dtype])
    n, bits = round_to_integer(size, -2.0 * LOG2_E, x.format.bias + 1)
    head, tail = LN2[x.dtype]
    r = fma(n, head / 2.0, size)  # Nothing is lost; log(2)'s tail is times e, small where n is not.
    q = expm1_reduced(r, n * (tail / 2.0) if x.dtype == "float64" else None, -2.0)
    twice = power_of_two(bits, x.format)
    top, one = fma(-q, twice, fma(twice, -0.5, 1.0)), fma(twice, 0.5, 1.0)
    bottom = fma(q, twice, one)
    quotient = top / bottom
    if x.dtype == "float64":  # The roundings of the divisor and of the quotient made good.
        rest = fma(-quotient, fma(q, twice, one - bottom), fma(-quotient, bottom, top))
        # A straight line is near enough to 1/bottom, which lies between 1 and 1/2.
        quotient = fma(rest, fma(bottom, -0.5, 1.457), quotient)
    return with_sign(quotient, x)


def exp_of_negative(x: Value) -> Value:
    """Return ``exp(-|x|)``."""
    return exp_below(-abs(x))


def sigmoid(x: Value) -> Value:
    """Return 1 / (1 + e**-x), with little more than one rounding in the divisor.

    Both sides of the division are scaled: ``e**-x`` overflows where the result is denormal.
    """
    if x.cache.style.shares:
        return sigmoid_of_size(x)
    low, scaling = {"float32": (-104.0, 64), "float64": (-746.0, 512)}[x.dtype]
    # Above 40 the result is 1.
    x = at_most(at_least(x, low), 40.0)
    r, _, bits = reduce_exponential(x, x.format.bias - scaling, -1.0)
    power, one = power_of_two(bits, x.format), 0.5 ** scaling
    return one / (power + fma(expm1_reduced(r, factor=-1.0), power, one))


def sigmoid_of_size(x: Value) -> Value:
    """Return 1 / (1 + e**-x), made of ``e = exp(-|x|)``: e / (1 + e) where ``x`` is negative."""
    e = exp_of_negative(x)
    bottom = 1.0 + e
    quotient = select(x < 0.0, e, 1.0) / bottom
    # What the sum lost, over the divisor, which is near one where the loss counts.
    return fma(-quotient, e - (bottom - 1.0), quotient)


def softplus(x: Value) -> Value:
    """Return log(1 + e**x)."""
    return select(x > 0.0, x, 0.0) + log1p_of_fraction(exp_of_negative(x))
