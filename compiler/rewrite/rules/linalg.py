"""Products of matrices: signs that pass through them, and sums that are products."""

from __future__ import annotations

from ..conditions import has_rank
from ..pattern import Effect, all_parameters, rule, structural, wildcards

contract, dimshuffle, sum_ = map(structural, ("contract", "dimshuffle", "sum"))

a, b = wildcards("a b")
numbers = all_parameters("numbers")
_OF_MATRICES = {"batch": 0, "inner": 1}
_MATRICES = [{"a": (2, 3), "b": (3, 4)}]
_PRODUCTS = [{"a": (2, 3), "b": (3, 4), "numbers": _OF_MATRICES}]

CANONICAL = (
    rule("(-a) @ b -> -(a @ b)", contract(-a, b, parameters=numbers),
         -contract(a, b, parameters=numbers), Effect.SIGN_OF_ZERO, examples=_PRODUCTS),
    rule("a @ (-b) -> -(a @ b)", contract(a, -b, parameters=numbers),
         -contract(a, b, parameters=numbers), Effect.SIGN_OF_ZERO, examples=_PRODUCTS),
    rule("sum_k a[m, k] * b[k, n] -> a @ b",
         sum_(dimshuffle(a, pattern=(0, 1, "x")) * dimshuffle(b, pattern=("x", 0, 1)), axes=(1,)),
         contract(a, b, **_OF_MATRICES), Effect.MORE_ACCURATE,
         when=(has_rank(a, 2), has_rank(b, 2)), examples=_MATRICES),
    rule("sum_k a[m, k] * b[n, k] -> a @ b.T",
         sum_(dimshuffle(a, pattern=(0, "x", 1)) * dimshuffle(b, pattern=("x", 0, 1)), axes=(2,)),
         contract(a, dimshuffle(b, pattern=(1, 0)), **_OF_MATRICES), Effect.MORE_ACCURATE,
         when=(has_rank(a, 2), has_rank(b, 2)), examples=[{"a": (2, 3), "b": (4, 3)}]),
)
