"""Halves are stored, float32 is computed: the one place that says what operations on halves mean.

Enters: a simplified graph.  Leaves: an equal one in which only operations that move elements touch
float16 and bfloat16: indexing, reshaping, joining, choosing, and conversions.  All others work on
float32::

    f(x, y) -> cast(f(cast(x, float32), cast(y, float32)), float16)

Conversion to float32 is exact, so the value of an operation is that of float32 arithmetic, rounded
once to the half.  The rounding is part of the meaning: ``cast(cast(v, float16), float32)`` is not
``v``, whether or not the two operations around it share a loop.  A composite operation (softmax), a
sum and a product of matrices are one operation each: they round at their end only.

The pass runs after the rules, which see operations on halves, and before composite operations are
expanded.  :func:`reference` gives the same meaning to the interpreter of graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .dtypes import HALVES, computed
from .graph import Apply, Variable, built_at, reapply, toposort
from .loop.scalar import convert
from .operators import FUNCTIONS
from .ops.op import (
    ContractLowering, Expand, MapLowering, ReduceLowering, ScalarLowering, ScatterLowering)


def widen(outputs: Sequence[Variable]) -> list[Variable]:
    """Return ``outputs`` with everything that is computed computed in float32 or float64."""
    mapped: dict[int, Variable] = {}
    for node in toposort(outputs):
        inputs = tuple(mapped.get(id(source), source) for source in node.inputs)
        is_same = all(new is old for new, old in zip(inputs, node.inputs))
        if has_halves(node) and not moves(node):
            results = _widened(node, inputs)
        elif is_same:
            continue
        else:
            results = reapply(node, inputs).outputs
        mapped.update((id(old), new) for old, new in zip(node.outputs, results))
    return [mapped.get(id(output), output) for output in outputs]


def has_halves(node: Apply) -> bool:
    """Return whether a node reads or gives a half."""
    return any(variable.dtype in HALVES for variable in (*node.inputs, *node.outputs))


def moves(node: Apply) -> bool:
    """Return whether a node only moves, chooses or converts elements, and computes none."""
    lower = node.op.lower
    if isinstance(lower, ScalarLowering):
        return node.op.name == "cast" or _chooses(node)
    if isinstance(lower, ScatterLowering):
        return not any(region.accumulate for region in lower.rule(node)[1])
    if isinstance(lower, Expand):
        with built_at(node.site):
            expansion = lower.rule(*node.inputs, **node.params)
        return all(moves(inner) for inner in toposort([expansion], stop=node.inputs)
                   if has_halves(inner))
    return not isinstance(lower, (ReduceLowering, ContractLowering))


def _chooses(node: Apply) -> bool:
    """Return whether an elementwise result is one of the operands, as its float32 form shows."""
    from .loop.ir import Const, Local, Scalar
    from .loop.walk import postorder
    operands = [Local(f"x{k}", computed(source.dtype)) for k, source in enumerate(node.inputs)]
    expression = node.op.lower.rule(*operands, **node.params)
    return all(isinstance(one, (Local, Const)) or isinstance(one, Scalar) and one.name == "select"
               for one in postorder(expression))


def _widened(node: Apply, inputs: Sequence[Variable]) -> list[Variable]:
    """Return the outputs of a node, computed in float32."""
    with built_at(node.site):
        wide = node.op.make_node([_converted(source) for source in inputs], node.params,
                                 site=node.site)
        results = [FUNCTIONS["cast"](new, old.dtype)
                   for new, old in zip(wide.outputs, node.outputs)]
    for old, new in zip(node.outputs, results):
        new.name, new._tag = old.name, old._tag
    return results


def _converted(variable: Variable) -> Variable:
    """Return an operand as it is computed with.

    Conversion comes before transposition: the readers of a matrix and of its transpose share it,
    and a product sees the transpose as strides.
    """
    dtype, behind = computed(variable.dtype), []
    while dtype != variable.dtype and variable.owner is not None \
            and variable.owner.op.name == "dimshuffle":
        behind.append(variable.owner)
        variable = variable.owner.inputs[0]
    variable = FUNCTIONS["cast"](variable, dtype)
    for node in reversed(behind):
        variable = reapply(node, (variable,)).outputs[0]
    return variable


def reference(node: Apply, arrays: Sequence[np.ndarray], params: Mapping[str, Any]
              ) -> list[np.ndarray]:
    """Return the values of a node's outputs, given those of its inputs: its NumPy reference.

    Parameters
    ----------
    node : Apply
    arrays : sequence of array
    params : mapping
        The node's, with integers for dims.
    """
    widens = has_halves(node) and not isinstance(node.op.lower, MapLowering)
    if widens:
        arrays = [convert(array, computed(source.dtype))
                  for array, source in zip(arrays, node.inputs)]
    results = node.op.reference(*arrays, **params)
    results = [np.asarray(result) for result in
               (results if isinstance(results, (tuple, list)) else (results,))]
    if widens:
        results = [convert(result, output.dtype) if output.dtype in HALVES else result
                   for result, output in zip(results, node.outputs)]
    return results
