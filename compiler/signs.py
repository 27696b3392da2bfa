"""Proofs from the graph that no element of a variable is positive, whatever the values are.

A proof looks at a few nodes only; what it cannot show is taken as false.  Where an operation's
result is NaN it is not positive either.
"""

from __future__ import annotations

import numpy as np

from .access import behind_views, broadcast_position, index_of_rank
from .graph import Apply, Constant, Variable

_NONNEGATIVE = frozenset({"abs_", "sqr", "sqrt", "exp", "exp2", "exp_nonpositive", "cosh",
                          "sigmoid", "softplus"})


def is_nonpositive(variable: Variable) -> bool:
    """Return whether every element of a float variable is proved to be <= 0 or NaN.

    Shown are ``-y`` and ``y*c`` for ``y >= 0`` and a constant ``c <= 0``, and ``x - max(x)`` over
    any axes.
    """
    node = variable.owner
    if node is None:
        return False
    if node.op.name == "neg":
        return _is_nonnegative(node.inputs[0])
    if node.op.name == "mul":
        return any(_is_constant(c, sign=-1) and _is_nonnegative(y)
                   for y, c in (node.inputs, node.inputs[::-1]))
    return takes_off_largest(node)


def _is_nonnegative(variable: Variable) -> bool:
    """Return whether every element is proved to be >= 0 or NaN."""
    node = variable.owner
    if node is None:
        return False
    if node.op.name == "mul":
        left, right = node.inputs
        return left is right or any(_is_constant(c, sign=1) and _is_nonnegative(y)
                                    for y, c in ((left, right), (right, left)))
    if node.op.name in ("sum", "max", "dimshuffle", "broadcast_to", "reshape"):
        return _is_nonnegative(node.inputs[0])
    return node.op.name in _NONNEGATIVE


def _is_constant(variable: Variable, sign: int) -> bool:
    """Return whether a variable is a constant, behind views, of elements of a sign, or zero."""
    base, _ = behind_views(variable, index_of_rank(variable.ndim))
    return isinstance(base, Constant) and bool(np.all(base.data * sign >= 0))


def takes_off_largest(node: Apply) -> bool:
    """Return whether a node is ``x - max(x)``: takes off each element the largest of some that
    include it."""
    if node.op.name not in ("sub", "sub_rounded"):
        return False
    source, most = node.inputs
    if source.type.dims != node.outputs[0].type.dims:  # Else it is read at other places too.
        return False
    index = index_of_rank(source.ndim)
    own = broadcast_position(source, index)
    base, position = behind_views(most, broadcast_position(most, index))
    found: tuple[object, ...] = position
    while base.owner is not None and base.owner.op.name == "max":
        axes, base = base.owner.params["axes"], base.owner.inputs[0]
        kept = iter(found)
        # Over the reduced axes any position is among those that are compared.
        found = tuple(None if axis in axes else next(kept) for axis in range(base.ndim))
        if base is source:
            return all(one is None or one == other for one, other in zip(found, own))
    return False
