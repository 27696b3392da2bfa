"""Reductions: signs that pass through them."""

from __future__ import annotations

from ..pattern import Effect, any_parameter, rule, structural, wildcards

sum_, max_, min_ = map(structural, ("sum", "max", "min"))

n, = wildcards("n", "fi")
x, = wildcards("x")
axes = any_parameter("axes")
_EXAMPLES = [{"n": (3, 4), "axes": (1,)}, {"n": (2, 3), "axes": (0, 1)}]

CANONICAL = (
    rule("sum(-n, axes) -> -sum(n, axes)", sum_(-n, axes=axes), -sum_(n, axes=axes),
         Effect.SIGN_OF_ZERO, examples=[*_EXAMPLES, {"n": (0, 3), "axes": (0,)}]),
    rule("max(-x, axes) -> -min(x, axes)", max_(-x, axes=axes), -min_(x, axes=axes),
         Effect.EXACT, examples=[{"x": (3, 4), "axes": (1,)}]),
    rule("min(-x, axes) -> -max(x, axes)", min_(-x, axes=axes), -max_(x, axes=axes),
         Effect.EXACT, examples=[{"x": (3, 4), "axes": (1,)}]),
)
