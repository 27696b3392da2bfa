"""Random numbers as pure functions of a counter and a key: Philox 4x32-10, uniform, normal.

Reference: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from .exponential import log1p_finite
from .ir import Expr
from .trigonometry import sincos_of_turns
from .value import ExprCache, Value

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


def philox4x32(
    counter: tuple[Expr, Expr, Expr, Expr], key: tuple[Expr, Expr], cache: ExprCache | None = None,
) -> tuple[Expr, Expr, Expr, Expr]:
    """Return four random words for a counter of four words and a key of two.

    Parameters
    ----------
    counter : 4 uint32 expressions
    key : 2 uint32 expressions
    cache : ExprCache, optional
        Shares nodes with other builders.

    Returns
    -------
    4 uint32 expressions
        Independent, uniform over all words, as (counter, key) runs over distinct values.
    """
    cache = ExprCache() if cache is None else cache
    x0, x1, x2, x3 = (Value(word, cache) for word in counter)
    k0, k1 = (Value(word, cache) for word in key)
    for number in range(ROUNDS):
        if number:
            k0, k1 = k0 + WEYL[0], k1 + WEYL[1]
        high0, low0 = x0.op("mulhi", MULTIPLIERS[0]), x0 * MULTIPLIERS[0]
        high1, low1 = x2.op("mulhi", MULTIPLIERS[1]), x2 * MULTIPLIERS[1]
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
    return x0.expr, x1.expr, x2.expr, x3.expr


def uniform_from_bits(*words: Expr, cache: ExprCache | None = None) -> Expr:
    """Return a uniform number in [0, 1) from random uint32 words.

    Parameters
    ----------
    *words : uint32 expressions
        One for a float32 (its upper 24 bits are used), two for a float64 (27 and 26 bits).

    Returns
    -------
    float32 or float64 expression
        A multiple of 2**-24, or of 2**-53; each is equally likely.
    """
    cache = ExprCache() if cache is None else cache
    values = [Value(word, cache) for word in words]
    if len(values) == 1:
        # The number is below 2**24: the signed conversion is exact and faster.
        return ((values[0] >> 8).view("int32").cast("float32") * 2.0 ** -24).expr
    high, low = values
    high, low = (word.view("int32").cast("float64") for word in (high >> 5, low >> 6))
    return ((high * 2.0 ** 26 + low) * 2.0 ** -53).expr


def normal_from_uniform(u: Expr, v: Expr, cache: ExprCache | None = None) -> tuple[Expr, Expr]:
    """Return two independent normal numbers, of mean 0 and variance 1 (Box and Muller, 1958).

    ::

        sqrt(-2 * log(1 - u)) * (cos(2*pi*v), sin(2*pi*v))

    Parameters
    ----------
    u, v : float32 or float64 expressions
        Independent and uniform in [0, 1), as from :func:`uniform_from_bits`.

    Notes
    -----
    The largest magnitude is 5.8 for float32 and 8.6 for float64.  The radius is good to 2 ulp, and
    the results to 3 ulp of the larger of the two.
    """
    cache = ExprCache() if cache is None else cache
    radius = (-2.0 * log1p_finite(-Value(u, cache))).op("sqrt")
    sine, cosine = sincos_of_turns(Value(v, cache))
    return (radius * cosine).expr, (radius * sine).expr
