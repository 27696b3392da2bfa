"""Scalar mathematics as loop expressions: every function the elementwise operations need.

A builder takes expressions and returns one, made of the primitives of ``scalar.py`` alone: range
reduction, a polynomial, and selects, with no branch, call or table, so that a loop of it
vectorises on every target.  Each is right at NaN, infinities, zeros of either sign, denormal
arguments and results, and overflow, as C's functions are.

>>> from tetractys.compiler.loop.ir import Local
>>> FUNCTIONS["tanh"](Local("x", "float32")).dtype
'float32'

Builders given one :class:`ExprCache` share nodes: the exponential of ``sigmoid(x)`` is that of
``softplus(x)``.
"""

from __future__ import annotations

from collections.abc import Callable

from . import error_function, exponential, power, trigonometry
from .ir import Expr
from .random_bits import normal_from_uniform, philox4x32, uniform_from_bits
from .value import ExprCache, Value

__all__ = [
    "ACCURACY", "ExprCache", "FUNCTIONS", "normal_from_uniform", "philox4x32", "uniform_from_bits",
]


def on_expressions(function: Callable[..., Value]) -> Callable[..., Expr]:
    """Return ``function``, which works on values, as one of expressions.

    The result takes as many expressions of one dtype as ``function`` takes values, and an optional
    ``cache``.
    """
    def build(*args: Expr, cache: ExprCache | None = None) -> Expr:
        cache = ExprCache() if cache is None else cache
        return function(*(Value(arg, cache) for arg in args)).expr

    build.__name__ = build.__qualname__ = function.__name__
    build.__doc__ = function.__doc__
    return build


FUNCTIONS: dict[str, Callable[..., Expr]] = {
    function.__name__: on_expressions(function)
    for function in (
        exponential.exp, exponential.exp2, exponential.expm1,
        exponential.log, exponential.log2, exponential.log10, exponential.log1p,
        exponential.sinh, exponential.cosh, exponential.tanh,
        exponential.sigmoid, exponential.softplus,
        trigonometry.sin, trigonometry.cos, trigonometry.tan,
        trigonometry.arcsin, trigonometry.arccos, trigonometry.arctan, trigonometry.arctan2,
        error_function.erf, error_function.erfc,
        power.pow, power.ipow,
    )
}
"""Builders by NumPy's or C's name.  All take float32 or float64, but ``ipow``, which takes integers;
``pow``, ``ipow`` and ``arctan2`` take two arguments."""

ACCURACY: dict[str, dict[str, float]] = {}
