"""Rows of exponentials, logarithms, trigonometric and hyperbolic functions, erf and sigmoids."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..graph import Variable
from .arithmetic import add, inv, mul, neg, sqr, sqrt, sub, true_div
from .elementwise import FLOAT, elementwise, unary
from .op import Partials

_SECTION = "Exponentials, trigonometry, special functions"


def _function(name: str, reference: Callable[..., Any], slope: Callable[..., Variable],
              summary: str, **options: Any) -> Callable[..., Variable]:
    """Register a function of one float with derivative ``slope(x, y)``, where ``y`` is its value.

    It is lowered to the function of the same name in ``compiler/loop/math.py``.
    """
    options.setdefault("cost", 15.0)
    return unary(name, reference, Partials(lambda x, y: [slope(x, y)]), summary,
                 conversion=FLOAT, accepts="f", section=_SECTION, **options)


# -- exponentials and logarithms -------------------------------------------------------------------

exp = _function("exp", np.exp, lambda x, y: y, "Exponential: e to the power x.", cost=10.0)

exp_nonpositive = _function(
    "exp_nonpositive", lambda x: np.exp(np.minimum(x, 0)), lambda x, y: y,
    "``exp(x)`` of x up to 0, with fewer operations; 1 above.", cost=9.0, domain=((-3.0, -0.1),),
    namespace="")

exp2 = _function("exp2", np.exp2, lambda x, y: mul(y, math.log(2.0)), "2 to the power x.",
                 cost=10.0)

expm1 = _function("expm1", np.expm1, lambda x, y: add(y, 1.0),
                  "``exp(x) - 1``, accurate for small x.")

log = _function("log", np.log, lambda x, y: inv(x),
                "Natural logarithm; -inf at 0, NaN below.", domain=((0.1, 4.0),))

log2 = _function("log2", np.log2, lambda x, y: true_div(1.0 / math.log(2.0), x),
                 "Logarithm to base 2; -inf at 0, NaN below.", domain=((0.1, 4.0),))

log10 = _function("log10", np.log10, lambda x, y: true_div(1.0 / math.log(10.0), x),
                  "Logarithm to base 10; -inf at 0, NaN below.", domain=((0.1, 4.0),))

log1p = _function("log1p", np.log1p, lambda x, y: inv(add(1.0, x)),
                  "``log(1 + x)``, accurate for small x.", domain=((-0.8, 3.0),))

# -- trigonometry ----------------------------------------------------------------------------------

sin = _function("sin", np.sin, lambda x, y: cos(x), "Sine of x radians.")

cos = _function("cos", np.cos, lambda x, y: neg(sin(x)), "Cosine of x radians.")

tan = _function("tan", np.tan, lambda x, y: add(1.0, sqr(y)), "Tangent of x radians.",
                domain=((-1.3, 1.3),), cost=20.0)


def _unit_leg(x: Variable) -> Variable:
    """Return ``sqrt(1 - x**2)`` without cancellation near 1 and -1."""
    return sqrt(mul(sub(1.0, x), add(1.0, x)))


arcsin = _function("arcsin", np.arcsin, lambda x, y: inv(_unit_leg(x)),
                   "Angle in [-pi/2, pi/2] whose sine is x; NaN outside [-1, 1].",
                   domain=((-0.9, 0.9),), aliases=("asin",))

arccos = _function("arccos", np.arccos, lambda x, y: neg(inv(_unit_leg(x))),
                   "Angle in [0, pi] whose cosine is x; NaN outside [-1, 1].",
                   domain=((-0.9, 0.9),), aliases=("acos",))

arctan = _function("arctan", np.arctan, lambda x, y: inv(add(1.0, sqr(x))),
                   "Angle in [-pi/2, pi/2] whose tangent is x.", aliases=("atan",))


def _angle_partials(y: Variable, x: Variable, angle: Variable) -> list[Variable]:
    square = add(sqr(x), sqr(y))
    return [true_div(x, square), neg(true_div(y, square))]


arctan2 = elementwise(
    "arctan2", ("y", "x"), np.arctan2, Partials(_angle_partials),
    "Angle of the point with ordinate y and abscissa x, in [-pi, pi].", conversion=FLOAT,
    accepts="f", cost=25.0, section=_SECTION, aliases=("atan2",),
    notes="Right in all quadrants, at zeros of either sign and at infinities.  The derivative is\n"
          "NaN at the origin.",
    example=">>> T.arctan2([1.0, -1.0], -1.0).eval()\narray([ 2.35619449, -2.35619449])")

# -- hyperbolic functions --------------------------------------------------------------------------

sinh = _function("sinh", np.sinh, lambda x, y: cosh(x), "Hyperbolic sine.")

cosh = _function("cosh", np.cosh, lambda x, y: sinh(x), "Hyperbolic cosine.")

tanh = _function("tanh", np.tanh, lambda x, y: sub(1.0, sqr(y)), "Hyperbolic tangent.")

# -- the error function ----------------------------------------------------------------------------

_erf, _erfc = np.vectorize(math.erf, otypes=["float64"]), np.vectorize(math.erfc,
                                                                       otypes=["float64"])


def _bell(x: Variable) -> Variable:
    return mul(2.0 / math.sqrt(math.pi), exp(neg(sqr(x))))


erf = _function("erf", lambda x: _erf(x).astype(x.dtype), lambda x, y: _bell(x),
                "Error function: ``2/sqrt(pi)`` times the integral of ``exp(-t**2)`` up to x.",
                cost=20.0)

erfc = _function("erfc", lambda x: _erfc(x).astype(x.dtype), lambda x, y: neg(_bell(x)),
                 "``1 - erf(x)``, accurate for large x.", cost=20.0)

# -- sigmoids --------------------------------------------------------------------------------------


def _sigmoid(x):
    # Each branch has an exponential that cannot overflow.
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1).astype(x.dtype) / (1 + small)


sigmoid = _function(
    "sigmoid", _sigmoid, lambda x, y: mul(y, sub(1.0, y)),
    "Logistic function: ``1 / (1 + exp(-x))``, without overflow.",
    notes="Also ``T.nnet.sigmoid``.", aliases=("expit",))

softplus = _function(
    "softplus", lambda x: np.logaddexp(x, np.zeros_like(x)), lambda x, y: sigmoid(x),
    "``log(1 + exp(x))``, without overflow and accurate for very negative x.",
    notes="Also ``T.nnet.softplus``.", cost=20.0)
