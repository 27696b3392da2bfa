"""Forms that lose digits, overflow or underflow, and the ones that do not.

These rules are applied before a gradient is taken (``stabilize``) and in every compilation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..conditions import keeps_dims
from ..pattern import (
    Effect, Rule, all_parameters, any_parameter, functions, rest, rule, structural, wildcards)

exp, expm1, log, log1p, inv = functions("exp expm1 log log1p inv")
sigmoid, softplus, tanh, erf, erfc = functions("sigmoid softplus tanh erf erfc")
sum_, dimshuffle, softmax, logsoftmax, logsumexp = map(
    structural, ("sum", "dimshuffle", "softmax", "logsoftmax", "logsumexp"))

x, = wildcards("x")
axes, pattern, parameters = (
    any_parameter("axes"), any_parameter("pattern"), all_parameters("parameters"))
operands = rest("operands")
total = sum_(exp(x), axes=axes)
_ROWS = {"x": (3, 4), "axes": (1,)}
_KEPT = {**_ROWS, "pattern": (0, "x")}

LOGARITHMS = (
    rule("log(1 + exp(x)) -> softplus(x)", log(1 + exp(x)), softplus(x), Effect.MORE_ACCURATE),
    rule("log1p(exp(x)) -> softplus(x)", log1p(exp(x)), softplus(x), Effect.MORE_ACCURATE),
    rule("log(1 - sigmoid(x)) -> -softplus(x)", log(1 - sigmoid(x)), -softplus(x),
         Effect.MORE_ACCURATE),
    rule("log1p(-sigmoid(x)) -> -softplus(x)", log1p(-sigmoid(x)), -softplus(x),
         Effect.MORE_ACCURATE),
    rule("log(sigmoid(x)) -> -softplus(-x)", log(sigmoid(x)), -softplus(-x),
         Effect.MORE_ACCURATE),
    rule("log(exp(x)) -> x", log(exp(x)), x, Effect.MORE_ACCURATE),
    rule("log(1 + x) -> log1p(x)", log(1 + x), log1p(x), Effect.MORE_ACCURATE),
    rule("log(1 - x) -> log1p(-x)", log(1 - x), log1p(-x), Effect.MORE_ACCURATE),
)

EXPONENTIALS = (
    rule("exp(x) - 1 -> expm1(x)", exp(x) - 1, expm1(x), Effect.MORE_ACCURATE),
    rule("exp(x) + -1 -> expm1(x)", exp(x) + -1, expm1(x), Effect.MORE_ACCURATE),
    rule("1 - exp(x) -> -expm1(x)", 1 - exp(x), -expm1(x), Effect.MORE_ACCURATE),
    rule("1 / (1 + exp(-x)) -> sigmoid(x)", 1 / (1 + exp(-x)), sigmoid(x), Effect.MORE_ACCURATE),
    rule("inv(1 + exp(-x)) -> sigmoid(x)", inv(1 + exp(-x)), sigmoid(x), Effect.MORE_ACCURATE),
    rule("1 / (1 + exp(x)) -> sigmoid(-x)", 1 / (1 + exp(x)), sigmoid(-x), Effect.MORE_ACCURATE),
    rule("inv(1 + exp(x)) -> sigmoid(-x)", inv(1 + exp(x)), sigmoid(-x), Effect.MORE_ACCURATE),
    rule("exp(x) / (1 + exp(x)) -> sigmoid(x)", exp(x) / (1 + exp(x)), sigmoid(x),
         Effect.MORE_ACCURATE),
    rule("1 - sigmoid(x) -> sigmoid(-x)", 1 - sigmoid(x), sigmoid(-x), Effect.MORE_ACCURATE),
    rule("1 + tanh(x) -> 2 * sigmoid(2 * x)", 1 + tanh(x), 2 * sigmoid(2 * x),
         Effect.MORE_ACCURATE),
    rule("1 - tanh(x) -> 2 * sigmoid(-2 * x)", 1 - tanh(x), 2 * sigmoid(-2 * x),
         Effect.MORE_ACCURATE),
    rule("1 - erf(x) -> erfc(x)", 1 - erf(x), erfc(x), Effect.MORE_ACCURATE),
    rule("1 + erf(x) -> erfc(-x)", 1 + erf(x), erfc(-x), Effect.MORE_ACCURATE),
    rule("1 - erfc(x) -> erf(x)", 1 - erfc(x), erf(x), Effect.MORE_ACCURATE),
)

ROWS = (
    rule("log(softmax(x)) -> logsoftmax(x)", log(softmax(x, axes=axes)), logsoftmax(x, axes=axes),
         Effect.MORE_ACCURATE, examples=[_ROWS]),
    rule("log(sum(exp(x), axes)) -> logsumexp(x, axes)", log(total), logsumexp(x, axes=axes),
         Effect.MORE_ACCURATE, examples=[_ROWS, {"x": (3, 4), "axes": (0, 1)}]),
    rule("log(dimshuffle(sum(exp(x), axes))) -> dimshuffle(logsumexp(x, axes))",
         log(dimshuffle(total, pattern=pattern)),
         dimshuffle(logsumexp(x, axes=axes), pattern=pattern),
         Effect.MORE_ACCURATE, examples=[_KEPT]),
    rule("exp(x) / sum(exp(x), axes, keepdims) -> softmax(x, axes)",
         exp(x) / dimshuffle(total, pattern=pattern), softmax(x, axes=axes),
         Effect.MORE_ACCURATE, when=keeps_dims(pattern, axes), examples=[_KEPT]),
    rule("x - logsumexp(x, axes, keepdims) -> logsoftmax(x, axes)",
         x - dimshuffle(logsumexp(x, axes=axes), pattern=pattern), logsoftmax(x, axes=axes),
         Effect.MORE_ACCURATE, when=keeps_dims(pattern, axes), examples=[_KEPT]),
)


def _through(name: str, **example: Any) -> tuple[Rule, ...]:
    """Return the rules that take a logarithm under the op ``name``, which only moves elements.

    So the crossentropy of chosen classes, ``log(softmax(x)[arange(n), target])``, is stable.
    """
    moved = structural(name)
    return (
        rule(f"log({name}(softmax(x))) -> {name}(logsoftmax(x))",
             log(moved(softmax(x, axes=axes), operands, parameters=parameters)),
             moved(logsoftmax(x, axes=axes), operands, parameters=parameters),
             Effect.MORE_ACCURATE, examples=[{**_ROWS, **example}]),
        rule(f"log({name}(sigmoid(x))) -> {name}(-softplus(-x))",
             log(moved(sigmoid(x), operands, parameters=parameters)),
             moved(-softplus(-x), operands, parameters=parameters),
             Effect.MORE_ACCURATE, examples=[{"x": (3, 4), **example}]),
        rule(f"1 - {name}(sigmoid(x)) -> {name}(sigmoid(-x))",
             1 - moved(sigmoid(x), operands, parameters=parameters),
             moved(sigmoid(-x), operands, parameters=parameters),
             Effect.MORE_ACCURATE, examples=[{"x": (3, 4), **example}]),
    )


MOVED = (
    *_through("dimshuffle", operands=(), parameters={"pattern": (1, "x", 0)}),
    *_through("reshape", operands=(np.int64(2), np.int64(6)), parameters={}),
    *_through("broadcast_to", operands=(np.int64(2), np.int64(3), np.int64(4)), parameters={}),
    *_through("subtensor", operands=(np.int64(1),),
              parameters={"spec": ((True, False, 1), (False, False, -1))}),
    *_through("advanced_subtensor", operands=(np.arange(3), np.array([1, 0, 3])),
              parameters={"spec": ("array", "array")}),
)

STABLE = (*LOGARITHMS, *EXPONENTIALS, *ROWS, *MOVED)
