"""What rules may demand before they apply: facts proved from the graph, never guessed.

A proof looks at a few nodes only; what it cannot show is taken as false.
"""

from __future__ import annotations

import numpy as np

from ..dtypes import is_integer
from ..graph import Constant, Variable
from ..operators import FUNCTIONS
from .pattern import Condition, Facts, ParameterWildcard, Wildcard

_NONNEGATIVE = frozenset({"abs_", "sqr", "sqrt", "exp", "exp2", "sigmoid", "softplus", "cosh",
                          "erfc", "softmax", "size", "axis_size", "relu"})
_NONNEGATIVE_IF_ALL = frozenset({"add", "mul", "sum", "prod", "max", "dimshuffle",
                                 "reshape", "broadcast_to", "subtensor", "minimum", "copy"})
# Not true_div: a zero divisor may be negative.
_POSITIVE = frozenset({"cosh"})
_DEPTH = 6


def _is_nonnegative(facts: Facts, variable: Variable, depth: int = _DEPTH) -> bool:
    """Return whether every element is proved to be >= 0 or NaN."""
    value = facts.scalar_value(variable)
    if value is not None:
        return bool(value >= 0)
    node = variable.owner
    if node is None or depth == 0:
        return False
    name = node.op.name
    if name in _NONNEGATIVE:
        return not (is_integer(variable.dtype) and name in ("abs_", "sqr"))
    if name == "maximum":
        return any(_is_nonnegative(facts, i, depth - 1) for i in node.inputs)
    if is_integer(variable.dtype) and name in ("add", "mul", "sum", "prod"):
        return False
    return name in _NONNEGATIVE_IF_ALL and all(
        _is_nonnegative(facts, i, depth - 1) for i in node.inputs[:_value_inputs(name)])


def _value_inputs(name: str) -> int:
    """Return how many leading inputs hold values (the rest are sizes)."""
    return 2 if name in ("add", "mul", "minimum") else 1


def _is_nonzero(facts: Facts, variable: Variable, depth: int = _DEPTH) -> bool:
    """Return whether no element can be 0 (it may be NaN)."""
    value = facts.scalar_value(variable)
    if value is not None:
        return bool(value != 0)
    if isinstance(variable, Constant):
        return bool(np.all(variable.data != 0))
    node = variable.owner
    if node is None or depth == 0:
        return False
    if node.op.name in _POSITIVE:
        return True
    if node.op.name == "add" and not is_integer(variable.dtype):
        return any(_is_nonzero(facts, a, depth - 1) and _is_nonnegative(facts, a, depth - 1)
                   and _is_nonnegative(facts, b, depth - 1)
                   for a, b in (node.inputs, node.inputs[::-1]))
    return node.op.name in ("dimshuffle", "broadcast_to", "reshape", "neg", "abs_") \
        and _is_nonzero(facts, node.inputs[0], depth - 1)


def nonnegative(x: Wildcard) -> Condition:
    """``x >= 0`` (or NaN) everywhere."""
    return Condition(f"nonnegative({x.name})", (x.name,), _is_nonnegative,
                     lambda values: ~(values < 0), lambda v: FUNCTIONS["abs_"](v))


def nonzero(x: Wildcard) -> Condition:
    """``x != 0`` everywhere."""
    return Condition(f"nonzero({x.name})", (x.name,), _is_nonzero,
                     lambda values: values != 0,
                     lambda v: FUNCTIONS["add"](FUNCTIONS["sqr"](v), 1))


def keeps_dims(pattern: ParameterWildcard, axes: ParameterWildcard) -> Condition:
    """The dimshuffle ``pattern`` puts the reduced ``axes`` back as axes of length 1."""
    def holds(facts: Facts, entries: tuple, reduced: tuple) -> bool:
        kept = iter(range(len(entries)))
        return entries == tuple("x" if axis in reduced else next(kept)
                                for axis in range(len(entries)))
    return Condition(f"keeps_dims({pattern.name}, {axes.name})", (pattern.name, axes.name), holds)


def has_rank(x: Wildcard, rank: int) -> Condition:
    """``x`` has this number of axes."""
    return Condition(f"has_rank({x.name}, {rank})", (x.name,), lambda facts, v: v.ndim == rank)
