"""Rows of arithmetic: sums, products, quotients, powers, signs and rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime.artifact import DtypeError
from ..graph import Constant, Variable, describe
from ..loop.scalar import apply, const
from ..operators import FUNCTIONS
from .elementwise import (
    EDGES, FLOAT, MINUS_ONE, NUMBER, ONE, QUOTIENT, add_terms, binary, by_kind, elementwise,
    math_function, primitive, selection, unary, unchanged)
from .op import Custom, NoDerivative, Partials, check

if TYPE_CHECKING:
    from ..loop.ir import Expr

_STEP = NoDerivative("it is constant between its steps")

add = binary(
    "add", np.add, Partials(lambda x, y, z: [ONE, ONE]),
    "Sum: ``x + y``.  Integers wrap; on bool it is logical or.",
    lower=by_kind(b=primitive("or"), i=primitive("add"), f=primitive("add")), variadic=True,
    notes="``add(x, y, z, ...)`` adds from left to right.")

sub = binary(
    "sub", np.subtract, Partials(lambda x, y, z: [ONE, MINUS_ONE]),
    "Difference: ``x - y``.  Integers wrap.",
    lower=primitive("sub"), accepts="if", aliases=("subtract",))

sub_rounded = binary(
    "sub_rounded", np.subtract, Partials(lambda x, y, z: [ONE, MINUS_ONE]),
    "``x - y`` of the rounded x and y, whatever they are computed from.",
    lower=by_kind(i=primitive("sub"), f=primitive("sub_rounded")), accepts="if", namespace="")

mul = binary(
    "mul", np.multiply, Partials(lambda x, y, z: [y, x]),
    "Product: ``x * y``.  Integers wrap; on bool it is logical and.",
    lower=by_kind(b=primitive("and"), i=primitive("mul"), f=primitive("mul")), variadic=True,
    notes="``mul(x, y, z, ...)`` multiplies from left to right.", aliases=("multiply",))


def _quotient_vjp(cotangents, inputs, outputs):
    (g,), (_, y), (z,) = cotangents, inputs, outputs
    scaled = true_div(g, y)
    return [scaled, neg(mul(scaled, z))]


def _quotient_jvp(tangents, inputs, outputs):
    (dx, dy), (_, y), (z,) = tangents, inputs, outputs
    total = add_terms(iter((dx, None if dy is None else neg(mul(z, dy)))))
    return [None if total is None else true_div(total, y)]


true_div = binary(
    "true_div", np.divide, Custom(_quotient_vjp, _quotient_jvp),
    "Quotient: ``x / y``, as IEEE 754 has it: 1/0 is infinite, 0/0 is NaN.",
    lower=primitive("div"), conversion=QUOTIENT, accepts="f", domain=((-2.0, 2.0), (0.5, 3.0)),
    cost=4.0, aliases=("divide",))


def _floor_divide(x, y):
    if x.dtype.kind == "f":
        return np.floor_divide(x, y)
    return np.where(y == 0, 0, np.floor_divide(x, np.where(y == 0, 1, y))).astype(x.dtype)


def _modulo(x, y):
    if x.dtype.kind == "f":
        return np.mod(x, y)
    return np.where(y == 0, 0, np.mod(x, np.where(y == 0, 1, y))).astype(x.dtype)


def _lower_floordiv(x: Expr, y: Expr) -> Expr:
    from ..loop.modulo import floor_quotient
    return floor_quotient(x, y)


def _lower_mod(x: Expr, y: Expr) -> Expr:
    from ..loop.modulo import modulo
    return modulo(x, y)


floordiv = binary(
    "floordiv", _floor_divide, _STEP, "Quotient rounded down: ``floor(x / y)``.",
    lower=by_kind(i=primitive("floordiv"), f=_lower_floordiv), conversion=NUMBER,
    domain=((-6.0, 6.0), (0.5, 3.0)), cost=30.0, smooth=False,
    notes="Integers: ``x // 0`` is 0, the smallest integer ``// -1`` is itself.  Floats: from the\n"
          "exact remainder, as in NumPy.",
    example=">>> (T.constant([7, -7]) // 2).eval()\narray([ 3, -4])",
    aliases=("int_div", "floor_div", "floor_divide"))

mod = binary(
    "mod", _modulo, Partials(lambda x, y, z: [ONE, neg(floordiv(x, y))]),
    "Remainder with the sign of the divisor: ``x - floor(x / y) * y``.",
    lower=by_kind(i=primitive("mod"), f=_lower_mod), conversion=NUMBER,
    domain=((4.0, 6.0), (3.1, 3.9)), cost=30.0, edges=EDGES[:-4],
    notes="Integers: ``x % 0`` is 0.  Floats: exact, NaN for ``x % 0``; compiled code also\n"
          "returns NaN where ``abs(x / y)`` exceeds 2**75.",
    example=">>> (T.constant([7, -7]) % 3).eval()\narray([1, 2])", aliases=("remainder",))


# -- powers ----------------------------------------------------------------------------------------

def _power(x, y):
    """NumPy's power; an integer to a negative power is 0 unless the integer is 1 or -1."""
    if x.dtype.kind == "f" or x.dtype.kind == "u":
        return np.power(x, y)
    odd_sign = np.where(y % 2 == 0, 1, x)
    inverse = np.where(np.isin(x, (1, -1)), odd_sign, 0)
    return np.where(y < 0, inverse, np.power(x, np.maximum(y, 0))).astype(x.dtype)


def _refuse_negative_power(x: Variable, y: Variable) -> None:
    if x.dtype.startswith("f"):
        return
    is_negative = isinstance(y, Constant) and bool((y.data < 0).any())
    check(not is_negative, DtypeError, "Integers to negative integer powers are not integers.",
          f"{describe(x)} {x.type} to the power {describe(y)}",
          "cast the base to a float: x.astype('float64') ** y")


def _power_partials(x: Variable, y: Variable, z: Variable) -> list[Variable]:
    # Where y = 0 the slope is 0 even at x = 0, whose inverse is infinite.
    is_flat = FUNCTIONS["eq"](y, 0)
    slope = mul(y, pow(x, sub(FUNCTIONS["switch"](is_flat, 1, y), 1)))
    is_zero = FUNCTIONS["eq"](x, 0)
    growth = mul(z, FUNCTIONS["log"](FUNCTIONS["switch"](is_zero, 1, x)))
    return [FUNCTIONS["switch"](is_flat, 0, slope), FUNCTIONS["switch"](is_zero, 0, growth)]


pow = binary(  # noqa: A001 (the name of the op)
    "pow", _power, Partials(_power_partials), "Power: ``x ** y``.",
    lower=by_kind(i=math_function("ipow"), f=math_function("pow")), measured="pow",
    conversion=NUMBER, domain=((0.1, 3.0), (0.0, 3.0)), cost=25.0,
    validate=_refuse_negative_power, aliases=("power",),
    notes="A negative float to a power that is not an integer is NaN; ``x ** 0`` is 1 for all x.\n"
          "A constant negative power of integers is refused; a variable one gives 0, except that\n"
          "1 and -1 are their own inverses.  The derivative by ``y`` is ``z * log(x)``: NaN for\n"
          "negative ``x``, taken as 0 at ``x = 0``.")

sqr = unary(
    "sqr", np.square, Partials(lambda x, z: [mul(2, x)]), "Square: ``x * x``.",
    lower=lambda x: apply("mul", x, x), conversion=NUMBER, aliases=("square",))

sqrt = unary(
    "sqrt", np.sqrt, Partials(lambda x, z: [true_div(0.5, z)]),
    "Square root, correctly rounded; NaN below 0.", lower=primitive("sqrt"), conversion=FLOAT,
    accepts="f", domain=((0.1, 4.0),), cost=5.0)

inv = unary(
    "inv", np.reciprocal, Partials(lambda x, z: [neg(sqr(z))]), "Reciprocal: ``1 / x``.",
    lower=lambda x: apply("div", const(1.0, x.dtype), x), conversion=FLOAT, accepts="f",
    domain=((0.4, 3.0),), cost=4.0, aliases=("reciprocal",))

# -- signs -----------------------------------------------------------------------------------------

neg = unary(
    "neg", np.negative, Partials(lambda x, z: [MINUS_ONE]),
    "Negative: ``-x``; flips the sign of zero.", lower=primitive("neg"), accepts="if",
    aliases=("negative",))

abs_ = unary(
    "abs_", np.abs, Partials(lambda x, z: [sgn(x)]),
    "Absolute value.  The derivative at 0 is 0.",
    lower=by_kind(b=unchanged, i=primitive("abs"), f=primitive("abs")),
    aliases=("abs", "absolute"))


def _sign(x: Expr) -> Expr:
    zero, one = const(0, x.dtype), const(1, x.dtype)
    negative = apply("select", apply("lt", x, zero), apply("neg", one), x)
    signed = apply("select", apply("gt", x, zero), one, negative)
    return apply("select", apply("eq", x, zero), zero, signed)


sgn = unary(
    "sgn", np.sign, _STEP, "Sign: -1, 0 or 1; NaN for NaN.", lower=_sign, accepts="if",
    smooth=False, aliases=("sign",))

# -- rounding --------------------------------------------------------------------------------------

ceil = unary(
    "ceil", np.ceil, _STEP, "Smallest integer not below x, as a float; integers stay.",
    lower=by_kind(bi=unchanged, f=primitive("ceil")), smooth=False)

floor = unary(
    "floor", np.floor, _STEP, "Largest integer not above x, as a float; integers stay.",
    lower=by_kind(bi=unchanged, f=primitive("floor")), smooth=False)

round_ = unary(
    "round", lambda x: np.rint(x) if x.dtype.kind == "f" else x, _STEP,
    "Nearest integer, as a float, halves to the even one as in NumPy; integers stay.",
    lower=by_kind(bi=unchanged, f=primitive("rint")), smooth=False,
    example=">>> T.round([0.5, 1.5, 2.5]).eval()\narray([0., 2., 2.])", aliases=("rint",))

trunc = unary(
    "trunc", np.trunc, _STEP, "x without its fraction, as a float; integers stay.",
    lower=by_kind(bi=unchanged, f=primitive("trunc")), smooth=False)

# -- choosing --------------------------------------------------------------------------------------


def _left_wins(take: str) -> Any:
    def conditions(x: Variable, y: Variable) -> list[Variable]:
        left = FUNCTIONS[take](x, y)
        return [left, FUNCTIONS["invert"](left)]
    return selection(conditions)


maximum = binary(
    "maximum", np.maximum, _left_wins("ge"), "Larger of two values; NaN if either is NaN.",
    lower=by_kind(b=primitive("or"), i=primitive("maximum"), f=primitive("maximum")),
    notes="The derivative belongs to ``x`` where ``x >= y``, else to ``y``.")

minimum = binary(
    "minimum", np.minimum, _left_wins("le"), "Smaller of two values; NaN if either is NaN.",
    lower=by_kind(b=primitive("and"), i=primitive("minimum"), f=primitive("minimum")),
    notes="The derivative belongs to ``x`` where ``x <= y``, else to ``y``.")


def _clip_conditions(x: Variable, low: Variable, high: Variable) -> list[Variable]:
    not_, and_, gt, lt = (FUNCTIONS[name] for name in ("invert", "and_", "gt", "lt"))
    raised = maximum(x, low)
    is_high, is_low = gt(raised, high), lt(x, low)
    return [and_(not_(is_high), not_(is_low)), and_(not_(is_high), is_low), is_high]


def _clip(x: Expr, low: Expr, high: Expr) -> Expr:
    if x.dtype == "bool":
        return apply("and", apply("or", x, low), high)
    return apply("minimum", apply("maximum", x, low), high)


clip = elementwise(
    "clip", ("x", "min", "max"), lambda x, low, high: np.minimum(np.maximum(x, low), high),
    selection(_clip_conditions), "``minimum(maximum(x, min), max)``; NaN stays NaN.",
    lower=_clip, domain=((-2.0, 2.0), (-1.5, -0.5), (0.5, 1.5)),
    notes="The derivative belongs to ``x`` on the closed interval, outside to the bound.",
    example=">>> T.clip([-3.0, 0.5, 7.0], 0.0, 1.0).eval()\narray([0. , 0.5, 1. ])")
