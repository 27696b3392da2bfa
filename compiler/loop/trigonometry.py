"""Sine, cosine, tangent and their inverses, of float32 and float64 values.

The argument is reduced by multiplication with 2/pi, held to as many bits as the largest numbers
need; of its digits, those that only contribute whole turns are skipped by shifting a window over
them (Payne and Hanek, SIGNUM Newsletter 18, 1983).  So the results are right for every finite
argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .coefficients import ARCSIN, ARCTAN, COS, SIN
from .value import (
    Value, at_least, fast_two_sum, fma, polynomial, select, shortcut, two_product, two_sum,
)

# The first 1220 bits of 2/pi.
TWO_OVER_PI = int(
    "a2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe5163abdebbc561b7246e3a424dd2e0"
    "06492eea09d1921cfe1deb1cb129a73ee88235f52ebb4484e99c7026b45f7e413991d639835339f4"
    "9c845f8bbdf9283b1ff897ffde05980fef2f118b5a0a6d1f6d367ecf27cb09b74f463f669e5fea2d"
    "7527bac7ebe5f17b3d0739f78a5292ea6bfb5fb11f8d5d0856033046fc7b6babe", 16)
TWO_OVER_PI_BITS = 1220
CHUNK = 53

# As heads, rounded, and tails.
HALF_PI = {
    "float32": (1.5707963705062866, -4.371138828673793e-08),
    "float64": (1.5707963267948966, 6.123233995736766e-17),
}


HALF_PI_END = {"float32": -1.7151245100058819e-15, "float64": -1.4973849048591698e-33}
"""What head and tail of pi/2 leave, rounded."""


def digits_of_two_over_pi(start: int, count: int) -> int:
    """Return bits ``start`` to ``start + count - 1`` after the point of 2/pi."""
    return TWO_OVER_PI >> (TWO_OVER_PI_BITS - start - count) & ((1 << count) - 1)


def quadrant_single(size: Value) -> tuple[Value, Value, Value]:
    """Return ``r``, its tail and an integer ``n``: ``size = n*pi/2 + r`` up to whole turns.

    ``size`` is float32; the arithmetic is float64.  From 2**45 on, the first 20 digits of 2/pi
    only make multiples of 4 quadrants; from 2**65 on the first 40, and so on, so the product's
    integer part never exceeds 2**45.
    """
    x = size.cast("float64")
    head = tail = x.like(0.0)
    for start, bound in ((0, 0.0), (20, 2.0 ** 45), (40, 2.0 ** 65), (60, 2.0 ** 85),
                         (80, 2.0 ** 105)):
        lead = x.like(math.ldexp(digits_of_two_over_pi(start, CHUNK), -start - CHUNK))
        rest = x.like(math.ldexp(digits_of_two_over_pi(start + CHUNK, CHUNK), -start - 2 * CHUNK))
        head = select(x >= bound, lead, head) if start else lead
        tail = select(x >= bound, rest, tail) if start else rest
    magic = 1.5 * 2.0 ** 52
    total = fma(x, head, magic)
    r = fma(x, tail, fma(x, head, magic - total)) * HALF_PI["float64"][0]
    rounded = r.cast("float32")
    return rounded, (r - rounded.cast("float64")).cast("float32"), total.bits().cast("uint32")


def select_digits(size: Value) -> tuple[Value, list[Value]]:
    """Return ``size * 2**(-53*j)`` and four chunks of 53 digits of 2/pi from the ``j``-th on.

    ``j`` is the number of leading chunks that, times ``size``, only make multiples of 4; it is
    above 0 for ``size >= 2**107``.  A barrel shifter picks the chunks: each of five steps moves
    the list by 16, 8, 4, 2 or 1 places where that bit of ``j`` is set.
    """
    chunks = [size.like(math.ldexp(digits_of_two_over_pi(start, CHUNK), -CHUNK))
              for start in range(0, TWO_OVER_PI_BITS - CHUNK, CHUNK)]
    exponent = at_least(size, 2.0 ** (CHUNK + 1)).bits() >> 52
    skipped = ((exponent - (1023 + CHUNK + 1)) * 1237) >> 16  # the quotient by 53, up to 1023
    for step in (16, 8, 4, 2, 1):
        moved = (skipped & step).differs(0)
        chunks = [select(moved, chunks[i + step], chunk) if i + step < len(chunks) else chunk
                  for i, chunk in enumerate(chunks[:4 + step - 1])]
    return (size.bits() - ((skipped * CHUNK) << 52)).view("float64"), chunks


def modulo_four(x: Value) -> Value:
    """Return ``x`` less a multiple of 4, between -2 and 2."""
    return fma((x * 0.25).op("rint"), -4.0, x)


def quadrant_double(size: Value) -> tuple[Value, Value, Value]:
    """Return ``r``, its tail and an integer ``n``: ``size = n*pi/2 + r`` up to whole turns.

    ``size`` is float64.  Its product with the chosen digits of 2/pi is a sum of numbers of falling
    size.  The large ones are taken modulo 4 and added without loss.  What is left out is below
    2**-103, and below 2**-105 * size.
    """
    scaled, chunks = select_digits(size)
    products = []
    for chunk in chunks:
        products += two_product(scaled, chunk)
        scaled = scaled * 0.5 ** CHUNK
    p0, e0, p1, e1, p2, e2, p3, _ = products
    total, lost0 = fast_two_sum(modulo_four(p0), modulo_four(e0))
    total, lost1 = two_sum(total, modulo_four(p1))
    small, lost2 = two_sum(e1, p2)
    total, lost3 = two_sum(total, small)
    magic = 1.5 * 2.0 ** 52
    anchored = total + magic
    fraction = total - (anchored - magic)

    small, lost = two_sum(lost0, lost1)
    fraction, rest = fast_two_sum(fraction, small)
    tail = rest + (lost + ((lost2 + e2) + (lost3 + p3)))

    head_pi, tail_pi = HALF_PI["float64"]
    r, lost = two_product(fraction, head_pi)
    return r, fma(fraction, tail_pi, fma(tail, head_pi, lost)), anchored.bits()


def flip(x: Value, sign: Value) -> Value:
    """Return ``x`` with its sign changed where the sign bit of the integer ``sign`` is set."""
    return (x.bits() ^ sign).view(x.dtype)


def quadrant_short(size: Value) -> tuple[Value, Value, Value]:
    """Return the same for a ``size`` that :func:`is_moderate`, by three parts of pi/2.

    References
    ----------
    W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980), chapter 8.
    """
    head, middle = HALF_PI[size.dtype]
    magic = 1.5 * 2.0 ** size.format.mantissa
    total = fma(size, 2.0 / math.pi, magic)
    n = total - magic
    exact = fma(n, -head, size)  # A small multiple of the last bits of both: nothing is lost.
    product, lost = two_product(n, middle)
    r, rest = two_sum(exact, -product)
    return r, fma(n, -HALF_PI_END[size.dtype], rest - lost), total.bits()


def is_moderate(size: Value) -> Value:
    """Return whether the quadrant of ``size`` can be told from ``size * (2/pi)``, rounded."""
    return size < {"float32": 2.0 ** 13, "float64": 2.0 ** 30}[size.dtype]


def by_quadrant(x: Value, finish: Callable[[Value, Value, Value], Value], is_odd: bool) -> Value:
    """Return a function of an angle: NaN where ``x`` is infinite or NaN.

    ``finish`` makes it of ``r`` in [-pi/4, pi/4], its tail, and bits that hold ``n``, where
    ``abs(x) = n*pi/2 + r`` up to whole turns; if it ``is_odd``, it gets the sign of ``x``.
    """
    size = abs(x)

    def signed(result: Value) -> Value:
        return flip(result, x.bits() & x.format.sign) if is_odd else result

    reduce = {"float32": quadrant_single, "float64": quadrant_double}[x.dtype]
    general = signed(finish(*reduce(size)))
    if x.dtype == "float64":  # The reduction loses bits of denormals, and does not see infinity.
        if is_odd:
            general = select(size < 2.0 ** -28, x, general)
        general = select(size < math.inf, general, math.nan)
    return shortcut(is_moderate(size), signed(finish(*quadrant_short(size))), general)


def sin_reduced(r: Value, tail: Value | None) -> Value:
    """Return sin(r + tail) for ``|r| <= pi/4``."""
    z = r * r
    cubic = r * z * polynomial(z, SIN[r.dtype])
    if tail is not None:
        cubic = cubic + fma(z * -0.5, tail, tail)
    return r + cubic


def cos_reduced(r: Value, tail: Value | None) -> Value:
    """Return cos(r + tail) for ``|r| <= pi/4``."""
    z = r * r
    result = fma(z, polynomial(z, COS[r.dtype]), -0.5)
    return fma(z, result, 1.0) if tail is None else fma(z, result, fma(-r, tail, 1.0))


def turned(sine: Value, cosine: Value, n: Value) -> Value:
    """Return the sine of an angle ``n`` quadrants further on."""
    shift = 30 if n.dtype == "uint32" else 62
    result = select((n & 1).differs(0), cosine, sine)
    return flip(result, (n & 2) << shift)


def sin(x: Value) -> Value:
    """Return the sine."""
    return by_quadrant(x, lambda r, tail, n: turned(
        sin_reduced(r, tail), cos_reduced(r, tail), n), is_odd=True)


def cos(x: Value) -> Value:
    """Return the cosine."""
    return by_quadrant(x, lambda r, tail, n: turned(
        sin_reduced(r, tail), cos_reduced(r, tail), n + 1), is_odd=False)


def tan(x: Value) -> Value:
    """Return the tangent, the quotient of sine and cosine with its rounding errors made good."""
    return by_quadrant(x, tan_reduced, is_odd=True)


def tan_reduced(r: Value, tail: Value, n: Value) -> Value:
    """Return tan(n*pi/2 + r + tail) for ``|r| <= pi/4``."""
    z = r * r
    series = fma(z * -0.5, tail, tail) + r * z * polynomial(z, SIN[r.dtype])
    sine, sine_tail = fast_two_sum(r, series)
    series = fma(z, fma(z, polynomial(z, COS[r.dtype]), -0.5), -(r * tail))
    cosine, cosine_tail = fast_two_sum(r.like(1.0), series)
    odd = (n & 1).differs(0)
    top, top_tail = select(odd, -cosine, sine), select(odd, -cosine_tail, sine_tail)
    bottom, bottom_tail = select(odd, sine, cosine), select(odd, sine_tail, cosine_tail)
    inverse = 1.0 / bottom
    result = top * inverse
    error = fma(-result, bottom, top) + fma(-result, bottom_tail, top_tail)
    return fma(error, inverse, result)


def sincos_of_turns(turns: Value) -> tuple[Value, Value]:
    """Return the sine and cosine of ``2*pi*turns`` for ``turns`` in [0, 1]."""
    quarters = turns * 4.0
    magic = 1.5 * 2.0 ** turns.format.mantissa
    anchored = quarters + magic
    r = (quarters - (anchored - magic)) * HALF_PI[turns.dtype][0]
    sine, cosine, n = sin_reduced(r, None), cos_reduced(r, None), anchored.bits()
    return turned(sine, cosine, n), turned(sine, cosine, n + 1)


def arctan_of_ratio(y: Value, x: Value) -> Value:
    """Return arctan(y/x) for ``y, x >= 0``, not both infinite, and ``x + y > 0``.

    The smaller is divided by the larger; above 1/2, arctan(q) = pi/4 + arctan((q-1)/(q+1)).
    """
    head, tail = HALF_PI[x.dtype]
    steep = y > x
    small, large = select(steep, x, y), select(steep, y, x)
    far = small > 0.5 * large
    t = select(far, small - large, small) / select(far, small + large, large)
    z = t * t
    series = t * z * polynomial(z, ARCTAN[x.dtype])
    sign = select(steep, t.bits().like(t.format.sign), 0)
    base = select(far, t.like(head / 2), select(steep, t.like(head), 0.0))
    base_tail = select(far, t.like(tail / 2), select(steep, t.like(tail), 0.0))
    total, lost = fast_two_sum(base, flip(t, sign))
    return total + (lost + (flip(series, sign) + base_tail))


def arctan(x: Value) -> Value:
    """Return the inverse tangent, between -pi/2 and pi/2."""
    return arctan_of_ratio(abs(x), x.like(1.0)).op("copysign", x)


def arctan2(y: Value, x: Value) -> Value:
    """Return the angle of the point (x, y), between -pi and pi, with C's special cases."""
    head, tail = HALF_PI[x.dtype]
    a, b = abs(y), abs(x)
    both = a.equals(math.inf) & b.equals(math.inf)
    a, b = select(both, 1.0, a), select(both, 1.0, b)
    # Quartered where the sum of the two might overflow.
    huge = 0.25 / x.format.tiny
    factor = select((a > huge) | (b > huge), x.like(0.25), 1.0)
    a, b = a * factor, select((a + b).equals(0.0), 1.0, b * factor)
    angle = arctan_of_ratio(a, b)
    left = x.like(1.0).op("copysign", x) < 0.0
    angle = select(left, head * 2 - (angle - tail * 2), angle)
    return angle.op("copysign", y)


def arcsin_series(x: Value, z: Value) -> Value:
    """Return arcsin(x) - x for ``z = x*x <= 1/4``."""
    return x * z * polynomial(z, ARCSIN[x.dtype])


def arc_operands(x: Value) -> tuple[Value, Value, Value, Value]:
    """Return whether ``|x| <= 1/2``, the argument ``s`` of the series, ``s*s``, and the series.

    Above 1/2, ``arcsin(|x|) = pi/2 - 2*arcsin(s)`` with ``s*s = (1-|x|)/2``.
    """
    size = abs(x)
    near = size <= 0.5
    z = select(near, x * x, fma(size, -0.5, 0.5))
    s = select(near, size, z.op("sqrt"))
    return near, s, z, arcsin_series(s, z)


def arcsin(x: Value) -> Value:
    """Return the inverse sine, between -pi/2 and pi/2; NaN outside [-1, 1]."""
    head, tail = HALF_PI[x.dtype]
    near, s, _, series = arc_operands(x)
    total, lost = fast_two_sum(x.like(head), -2.0 * s)
    far = total + (lost + fma(series, -2.0, tail))
    return select(near, s + series, far).op("copysign", x)


def arccos(x: Value) -> Value:
    """Return the inverse cosine, between 0 and pi; NaN outside [-1, 1]."""
    head, tail = HALF_PI[x.dtype]
    near, s, _, series = arc_operands(x)
    negative = x < 0.0
    sign = x.bits() & x.format.sign
    # pi/2 - arcsin(x), 2*arcsin(s), or pi - 2*arcsin(s).
    middle = head - (flip(s, sign) - (tail - flip(series, sign)))
    right = 2.0 * (s + series)
    left = 2.0 * head - (2.0 * s + (2.0 * series - 2.0 * tail))
    return select(near, middle, select(negative, left, right))
