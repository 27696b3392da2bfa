"""Exponentials, logarithms and what is made of them: hyperbolic functions, sigmoid, softplus.

Each function takes and returns a :class:`Value` of float32 or float64, without branches, calls or
tables, so a loop of it vectorises.

*Exponentials* write ``x = n*log(2) + r`` with ``|r| <= log(2)/2`` and ``exp(x) = 2**n * exp(r)``;
the power of two is multiplied on in two steps, so that overflow and denormal results are rounded
once.  *Logarithms* write ``x = 2**e * (1 + f)`` with ``1 + f`` between sqrt(1/2) and sqrt(2).
"""

from __future__ import annotations

import math

from .coefficients import EXP, EXP2, EXP2_SHORT, LOG, LOG_ATANH, SINH, TANH
from .value import (
    Format, Value, at_least, at_most, fast_two_sum, fma, polynomial, select, two_product,
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
# Here the head has 15 or 16 bits (41 or 42 in float64): its product with any exponent is exact.
LN2_SHORT = {
    "float32": (0.693145751953125, 1.428606765330187e-06),
    "float64": (0.693147180559663, 2.8235290563031577e-13),
}
LOG10_2 = {
    "float32": (0.301025390625, 4.605039066518657e-06),
    "float64": (0.30102999566383914, 1.42050232272661e-13),
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


def scale(x: Value, bits: Value) -> Value:
    """Return ``x * 2**n`` rounded once, where the low bits hold ``n + 2*bias``.

    2**n itself may overflow or be denormal; the two halves of the exponent never do, and the
    first product is exact.
    """
    half = bits >> 1
    return x * power_of_two(half, x.format) * power_of_two(bits - half, x.format)


def reduce_exponential(x: Value) -> tuple[Value, Value, Value]:
    """Return ``r``, its tail and bits holding ``n + 2*bias``, where ``x = n*log(2) + r``."""
    head, tail = LN2[x.dtype]
    n, bits = round_to_integer(x, LOG2_E, 2 * x.format.bias)
    exact = fma(n, -head, x)  # The difference has few bits: nothing is lost.
    r = fma(n, -tail, exact)
    return r, fma(n, -tail, exact - r), bits


def expm1_reduced(r: Value, tail: Value | None = None) -> Value:
    """Return ``exp(r + tail) - 1`` for ``|r| <= log(2)/2``."""
    series = polynomial(r, EXP[r.dtype])
    return fma(r * r, series, r) if tail is None else r + fma(r * r, series, tail)


def exp(x: Value) -> Value:
    """Return e**x."""
    low, high = {"float32": (-104.0, 89.0), "float64": (-746.0, 710.0)}[x.dtype]
    r, _, bits = reduce_exponential(at_most(at_least(x, low), high))
    return scale(1.0 + expm1_reduced(r), bits)


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


def exp_scaled(x: Value, halvings: int) -> Value:
    """Return ``exp(x) / 2**halvings`` where neither it nor ``exp(x)`` underflows."""
    r, _, bits = reduce_exponential(x)
    bits = bits - (x.format.bias + halvings)
    return (1.0 + expm1_reduced(r)) * power_of_two(bits, x.format)


def expm1(x: Value) -> Value:
    """Return e**x - 1, accurate near zero."""
    low, high = {"float32": (-18.0, 89.0), "float64": (-38.0, 710.0)}[x.dtype]
    r, tail, bits = reduce_exponential(at_most(at_least(x, low), high))
    # Half of 2**n, which may overflow.
    power = power_of_two(bits - (x.format.bias + 1), x.format)
    result = 2.0 * fma(expm1_reduced(r, tail), power, power - 0.5)
    # Below, x is the answer, with its sign; halving would lose a denormal's last bit.
    return select(abs(x) < 0.5 ** (x.format.mantissa + 2), x, result)


def split_exponent(x: Value) -> tuple[Value, Value, Value]:
    """Return ``e``, ``f`` and the bits of ``2**e``, where ``x = 2**e * (1 + f)`` is normal, > 0.

    ``1 + f`` lies in [sqrt(1/2), sqrt(2)).  Other inputs give some finite or infinite number.
    """
    form = x.format
    root, one = x.like(math.sqrt(0.5)).bits(), x.like(1.0).bits()
    bits = x.bits() + (one - root)
    fraction_mask = (1 << form.mantissa) - 1
    fraction = ((bits & fraction_mask) + root).view(x.dtype)
    # The biased exponent, put under the bits of 2**mantissa, adds itself to that float.
    anchor = x.like(2.0 ** form.mantissa)
    exponent = ((bits >> form.mantissa) | anchor.bits()).view(x.dtype)
    power = bits & (form.sign - 1 - fraction_mask)
    return exponent - (2.0 ** form.mantissa + form.bias), fraction - 1.0, power


def log_tail(f: Value) -> Value:
    """Return ``log(1 + f) - f`` for ``1 + f`` in [sqrt(1/2), sqrt(2))."""
    if f.dtype == "float32":
        return f * f * fma(f, polynomial(f, LOG), -0.5)
    # With s = f/(2+f): log(1+f) = 2*atanh(s) = f - (f*f/2 - s*(f*f/2 + R)), R = s*s*(2/3 + ...).
    s = f / (2.0 + f)
    z = s * s
    half_square = 0.5 * f * f
    return fma(s, fma(z, polynomial(z, LOG_ATANH), half_square), -half_square)


def normalise(x: Value) -> tuple[Value, Value]:
    """Return ``x``, multiplied by a power of two where denormal, and the exponent to take off."""
    denormal, shift = x < x.format.tiny, float(x.format.mantissa + 2)
    return select(denormal, x * 2.0 ** shift, x), select(denormal, x.like(shift), 0.0)


def log_edges(x: Value, result: Value) -> Value:
    """Return ``result``, and C's values of a logarithm at ``x`` <= 0, infinity and NaN."""
    result = select(x > 0.0, result, select(x.equals(0.0), x.like(-math.inf), math.nan))
    return select(x.equals(math.inf), x, result)


def log(x: Value) -> Value:
    """Return the natural logarithm."""
    head, tail = LN2_SHORT[x.dtype]
    normal, shift = normalise(x)
    e, f, _ = split_exponent(normal)
    e = e - shift
    total, error = fast_two_sum(e * head, f)
    return log_edges(x, total + (fma(e, tail, log_tail(f)) + error))


def log1p(x: Value) -> Value:
    """Return log(1 + x), accurate near zero."""
    result = log1p_finite(x)
    result = select(x > -1.0, result, select(x.equals(-1.0), x.like(-math.inf), math.nan))
    return select(x < math.inf, result, x)


def log1p_finite(x: Value) -> Value:
    """Return log(1 + x) for finite ``x`` above -1."""
    head, tail = LN2_SHORT[x.dtype]
    total = 1.0 + x
    # What the sum lost, brought to the scale of f.  256 keeps 2**-e normal at the largest x.
    lost = select(x < 1.0, x - (total - 1.0), 1.0 - (total - x))
    e, f, power = split_exponent(total)
    inverse = (x.like(2.0 ** 8).bits() + x.format.one - power).view(x.dtype)
    lost = (lost * 2.0 ** -8) * inverse
    result, error = fast_two_sum(e * head, f)
    result = result + (fma(e, tail, log_tail(f + lost)) + (lost + error))
    # Below, x is the answer, with its sign; scaling would lose a denormal's last bits.
    return select(abs(x) < 0.5 ** (x.format.mantissa + 2), x, result)


def log_of_base(x: Value, inverse: tuple[float, float], unit: tuple[float, float]) -> Value:
    """Return ``log(x) * inverse``, with ``unit = log(2) * inverse``, each a head and a tail."""
    normal, shift = normalise(x)
    e, f, _ = split_exponent(normal)
    e = e - shift
    head, tail = fast_two_sum(f, log_tail(f))
    product, error = two_product(head, inverse[0])
    error = fma(head, inverse[1], fma(tail, inverse[0], error))
    total, lost = fast_two_sum(e * unit[0], product)
    return log_edges(x, total + (fma(e, unit[1], error) + lost))


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
    quarter = exp_scaled(hyperbolic_argument(x), 2)
    far = fma(quarter, 2.0, -0.125 / quarter)
    return select(size > 1.0, far, near).op("copysign", x)


def cosh(x: Value) -> Value:
    """Return (e**x + e**-x) / 2."""
    quarter = exp_scaled(hyperbolic_argument(x), 2)
    return fma(quarter, 2.0, 0.125 / quarter)


def tanh(x: Value) -> Value:
    """Return the hyperbolic tangent: an odd polynomial, or 1 - 2/(1 + e**2x) above 0.55."""
    size = abs(x)
    z = x * x
    near = fma(size * z, polynomial(z, TANH[x.dtype]), size)
    bound = {"float32": 9.5, "float64": 20.0}[x.dtype]
    far = 1.0 - 2.0 / (1.0 + exp_scaled(2.0 * at_most(size, bound), 0))
    return select(size > 0.55, far, near).op("copysign", x)


def exp_of_negative(x: Value) -> Value:
    """Return e**x for ``x <= 0``."""
    r, _, bits = reduce_exponential(at_least(x, {"float32": -104.0, "float64": -746.0}[x.dtype]))
    return scale(1.0 + expm1_reduced(r), bits)


def sigmoid(x: Value) -> Value:
    """Return 1 / (1 + e**-x), the roundings of the sum and of the quotient made good."""
    e = exp_of_negative(-abs(x))
    top, bottom = select(x >= 0.0, 1.0, e), 1.0 + e
    quotient = top / bottom
    rest = fma(-quotient, e - (bottom - 1.0), fma(-quotient, bottom, top))
    # A straight line is near enough to 1/bottom, which lies between 1 and 1/2.
    return fma(rest, fma(bottom, -0.5, 1.457), quotient)


def softplus(x: Value) -> Value:
    """Return log(1 + e**x)."""
    return select(x > 0.0, x, 0.0) + log1p_finite(exp_of_negative(-abs(x)))
