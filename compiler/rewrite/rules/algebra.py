"""Algebra of numbers and of bool: what holds for the machine's numbers, not only on paper."""

from __future__ import annotations

from ..conditions import nonnegative
from ..pattern import Effect, functions, rule, wildcards

abs_, sqr, sqrt, inv, copy, floor, ceil, trunc = functions(
    "abs_ sqr sqrt inv copy floor ceil trunc")
maximum, minimum, switch, and_, or_, xor, invert, eq, neq = functions(
    "maximum minimum switch and_ or_ xor invert eq neq")
sin, cos, tan, arcsin, arctan, sinh, cosh, tanh, erf = functions(
    "sin cos tan arcsin arctan sinh cosh tanh erf")

x, y = wildcards("x y")
m, n = wildcards("m n", "fi")
i, = wildcards("i", "i")
v, w = wildcards("v w", "fib")
b, c = wildcards("b c", "b")

NEUTRAL = (
    rule("n + 0 -> n", n + 0, n, Effect.SIGN_OF_ZERO),
    rule("x + -0.0 -> x", x + -0.0, x, Effect.EXACT),
    rule("n - 0 -> n", n - 0, n, Effect.EXACT),
    rule("0 - n -> -n", 0 - n, -n, Effect.SIGN_OF_ZERO),
    rule("n * 1 -> n", n * 1, n, Effect.EXACT),
    rule("x * -1 -> -x", x * -1, -x, Effect.EXACT),
    rule("0.5 * (2 * x) -> x", 0.5 * (2 * x), x, Effect.MORE_ACCURATE),
    rule("x / 1 -> x", x / 1, x, Effect.EXACT),
    rule("x / -1 -> -x", x / -1, -x, Effect.EXACT),
    rule("copy(v) -> v", copy(v), v, Effect.EXACT),
    rule("max(v, v) -> v", maximum(v, v), v, Effect.EXACT),
    rule("min(v, v) -> v", minimum(v, v), v, Effect.EXACT),
    rule("switch(b, v, v) -> v", switch(b, v, v), v, Effect.EXACT),
    rule("switch(True, v, w) -> v", switch(True, v, w), v, Effect.EXACT),
    rule("switch(False, v, w) -> w", switch(False, v, w), w, Effect.EXACT),
    rule("switch(~b, v, w) -> switch(b, w, v)", switch(invert(b), v, w), switch(b, w, v),
         Effect.EXACT),
)

POWERS = (
    rule("n ** 0 -> 1", n ** 0, 1, Effect.EXACT),
    rule("n ** 1 -> n", n ** 1, n, Effect.EXACT),
    rule("n ** 2 -> sqr(n)", n ** 2, sqr(n), Effect.MORE_ACCURATE),
    rule("n * n -> sqr(n)", n * n, sqr(n), Effect.EXACT),
    rule("n ** 3 -> n * sqr(n)", n ** 3, n * sqr(n), Effect.MORE_ACCURATE),
    rule("n ** 4 -> sqr(sqr(n))", n ** 4, sqr(sqr(n)), Effect.MORE_ACCURATE),
    # The C library defines (-inf) ** 0.5 = inf; mathematics leaves it undefined, as sqrt does.
    rule("x ** 0.5 -> sqrt(x)", x ** 0.5, sqrt(x), Effect.MORE_ACCURATE),
    rule("x ** 1.5 -> x * sqrt(x)", x ** 1.5, x * sqrt(x), Effect.MORE_ACCURATE),
    rule("x ** -1 -> inv(x)", x ** -1, inv(x), Effect.MORE_ACCURATE),
    rule("1 / x -> inv(x)", 1 / x, inv(x), Effect.EXACT),
    rule("x * inv(y) -> x / y", x * inv(y), x / y, Effect.MORE_ACCURATE),
    rule("inv(inv(x)) -> x", inv(inv(x)), x, Effect.MORE_ACCURATE),
    rule("sqrt(sqr(x)) -> abs(x)", sqrt(sqr(x)), abs_(x), Effect.MORE_ACCURATE),
)

SIGNS = (
    rule("-(-n) -> n", -(-n), n, Effect.EXACT),
    rule("m + (-n) -> m - n", m + (-n), m - n, Effect.EXACT),
    rule("m - (-n) -> m + n", m - (-n), m + n, Effect.EXACT),
    rule("-(m - n) -> n - m", -(m - n), n - m, Effect.SIGN_OF_ZERO),
    rule("m * (-n) -> -(m * n)", m * (-n), -(m * n), Effect.EXACT),
    rule("(-x) / y -> -(x / y)", (-x) / y, -(x / y), Effect.EXACT),
    rule("x / (-y) -> -(x / y)", x / (-y), -(x / y), Effect.EXACT),
    rule("inv(-x) -> -inv(x)", inv(-x), -inv(x), Effect.EXACT),
    rule("sqr(-n) -> sqr(n)", sqr(-n), sqr(n), Effect.EXACT),
    rule("sqr(abs(n)) -> sqr(n)", sqr(abs_(n)), sqr(n), Effect.EXACT),
    rule("abs(-x) -> abs(x)", abs_(-x), abs_(x), Effect.EXACT),
    rule("abs(abs(n)) -> abs(n)", abs_(abs_(n)), abs_(n), Effect.EXACT),
    rule("abs(x) -> x", abs_(x), x, Effect.SIGN_OF_ZERO, when=nonnegative(x)),
    rule("sin(-x) -> -sin(x)", sin(-x), -sin(x), Effect.EXACT),
    rule("cos(-x) -> cos(x)", cos(-x), cos(x), Effect.EXACT),
    rule("tan(-x) -> -tan(x)", tan(-x), -tan(x), Effect.EXACT),
    rule("arcsin(-x) -> -arcsin(x)", arcsin(-x), -arcsin(x), Effect.EXACT),
    rule("arctan(-x) -> -arctan(x)", arctan(-x), -arctan(x), Effect.EXACT),
    rule("sinh(-x) -> -sinh(x)", sinh(-x), -sinh(x), Effect.EXACT),
    rule("cosh(-x) -> cosh(x)", cosh(-x), cosh(x), Effect.EXACT),
    rule("tanh(-x) -> -tanh(x)", tanh(-x), -tanh(x), Effect.EXACT),
    rule("erf(-x) -> -erf(x)", erf(-x), -erf(x), Effect.EXACT),
)

ROUNDING = (
    rule("floor(floor(n)) -> floor(n)", floor(floor(n)), floor(n), Effect.EXACT),
    rule("ceil(ceil(n)) -> ceil(n)", ceil(ceil(n)), ceil(n), Effect.EXACT),
    rule("trunc(trunc(n)) -> trunc(n)", trunc(trunc(n)), trunc(n), Effect.EXACT),
    rule("floor(ceil(n)) -> ceil(n)", floor(ceil(n)), ceil(n), Effect.EXACT),
    rule("ceil(floor(n)) -> floor(n)", ceil(floor(n)), floor(n), Effect.EXACT),
)

INTEGERS = (
    rule("i * 0 -> 0", i * 0, 0, Effect.EXACT),
    rule("i - i -> 0", i - i, 0, Effect.EXACT),
    rule("i == i -> True", eq(i, i), True, Effect.EXACT),
    rule("i != i -> False", neq(i, i), False, Effect.EXACT),
)

LOGIC = (
    rule("~~b -> b", invert(invert(b)), b, Effect.EXACT),
    rule("b & b -> b", and_(b, b), b, Effect.EXACT),
    rule("b | b -> b", or_(b, b), b, Effect.EXACT),
    rule("b & True -> b", and_(b, True), b, Effect.EXACT),
    rule("b & False -> False", and_(b, False), False, Effect.EXACT),
    rule("b | True -> True", or_(b, True), True, Effect.EXACT),
    rule("b | False -> b", or_(b, False), b, Effect.EXACT),
    rule("b ^ False -> b", xor(b, False), b, Effect.EXACT),
    rule("b ^ True -> ~b", xor(b, True), invert(b), Effect.EXACT),
    rule("b & ~b -> False", and_(b, invert(b)), False, Effect.EXACT),
    rule("b | ~b -> True", or_(b, invert(b)), True, Effect.EXACT),
)

CANONICAL = (*NEUTRAL, *POWERS, *SIGNS, *ROUNDING, *INTEGERS, *LOGIC)

FAST_MATH = (
    rule("x * 0 -> 0", x * 0, 0, Effect.CHANGES_NONFINITE),
    rule("x - x -> 0", x - x, 0, Effect.CHANGES_NONFINITE),
    rule("x / x -> 1", x / x, 1, Effect.CHANGES_DOMAIN),
    rule("(x * y) / y -> x", (x * y) / y, x, Effect.CHANGES_DOMAIN),
    rule("sqr(sqrt(x)) -> x", sqr(sqrt(x)), x, Effect.CHANGES_DOMAIN),
    rule("x ** -0.5 -> inv(sqrt(x))", x ** -0.5, inv(sqrt(x)), Effect.CHANGES_DOMAIN),
)
