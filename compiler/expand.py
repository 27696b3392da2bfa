"""Bring a simplified graph into the form the lowering takes: composites, reductions, products.

Enters: any graph.  Leaves: an equal one in which composite ops are replaced by their expansions;
every reduction has adjacent axes, and reduces trailing axes, or axes before trailing ones, or a
whole vector; and products of a matrix and a vector are multiply-sums, which fuse with their
surroundings and run at the speed of memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from .access import behind_views, coefficient_of, flat_offset, index_of_rank
from .dims import as_symbol
from .dtypes import is_float
from .graph import Apply, Variable, built_at, reapply, toposort
from .operators import FUNCTIONS
from .ops.op import ContractLowering, Expand, ReduceLowering


def expand(outputs: Sequence[Variable]) -> list[Variable]:
    """Return ``outputs`` in lowerable form.

    Composites may expand to composites: each round over the graph expands one level, and the
    nesting is shallow.
    """
    current, changed = list(outputs), True
    while changed:
        changed = False
        mapped: dict[int, Variable] = {}
        for node in toposort(current):
            inputs = tuple(mapped.get(id(source), source) for source in node.inputs)
            is_same = all(new is old for new, old in zip(inputs, node.inputs))
            new = node if is_same else reapply(node, inputs)
            with built_at(node.site):
                expansion = expand_node(new)
            if expansion is not None:
                expansion.name = expansion.name or node.outputs[0].name
                mapped[id(node.outputs[0])] = expansion
                changed = True
            elif not is_same:
                mapped.update((id(old), out) for old, out in zip(node.outputs, new.outputs))
        current = [mapped.get(id(output), output) for output in current]
    return current


def expand_node(node: Apply) -> Variable | None:
    """Return what replaces a node's output, or None if the node can be lowered as it is."""
    lower = node.op.lower
    if isinstance(lower, Expand):
        return lower.rule(*node.inputs, **node.params)
    if isinstance(lower, ReduceLowering):
        return _split_reduction(node)
    if isinstance(lower, ContractLowering):
        return _multiply_sum(node)
    return None


def _split_reduction(node: Apply) -> Variable | None:
    """Reduce trailing axes first, then the rest: each step then reads memory in order."""
    axes, rank = node.params["axes"], node.inputs[0].ndim
    if not axes:
        return node.inputs[0]
    runs = [[axes[0]]]
    for axis in axes[1:]:
        runs[-1].append(axis) if axis == runs[-1][-1] + 1 else runs.append([axis])
    last = tuple(runs[-1])
    if len(runs) > 1:
        rest = axes[:len(axes) - len(last)]
    elif len(last) == rank and rank > 1:
        last, rest = last[1:], (0,)
    else:
        return None
    inner = node.op(node.inputs[0], **{**node.params, "axes": last})
    return node.op(inner, **{**node.params, "axes": rest})


def _multiply_sum(node: Apply) -> Variable | None:
    """Write ``left @ right`` as ``sum_k left[.., m, k] * right[.., k, n]`` where that is better."""
    left, right = node.inputs
    rank = left.ndim
    is_matrix_vector = left.type.dims[-2] == 1 or right.type.dims[-1] == 1
    if is_float(left.dtype) and not is_matrix_vector:
        return None
    batch = tuple(range(rank - 2))
    row, inner, column = rank - 2, rank - 1, rank - 1
    shuffle, total = FUNCTIONS["dimshuffle"], FUNCTIONS["sum"]
    swapped = (*batch, inner, row)
    if right.type.dims[-1] == 1:
        if _is_transposed(left):
            # (.., k, m) * (.., k, 1), summed over k: whole rows of what memory holds.
            product = total(shuffle(left, swapped) * right, axis=row, keepdims=True)
            return _as_type(shuffle(product, swapped), node)
        # (.., m, k) * (.., 1, k), summed over k: one row of each at a time.
        return _as_type(total(left * shuffle(right, swapped), axis=inner, keepdims=True), node)
    if left.type.dims[-2] == 1:
        if _is_transposed(right):
            # (.., n, k) * (.., 1, k), summed over k.
            product = total(shuffle(right, swapped) * left, axis=inner, keepdims=True)
            return _as_type(shuffle(product, swapped), node)
        # (.., k, n) * (.., k, 1), summed over k: whole rows of the right operand.
        return _as_type(total(right * shuffle(left, swapped), axis=row, keepdims=True), node)
    product = shuffle(left, (*batch, row, inner, "x")) \
        * shuffle(right, (*batch, "x", row, column))
    return _as_type(total(product, axis=row + 1), node)


def _is_transposed(matrix: Variable) -> bool:
    """Return whether memory holds the columns of a matrix one after the other, not its rows."""
    index = index_of_rank(matrix.ndim)
    base, position = behind_views(matrix, index)
    offset = flat_offset(position, base.type.dims)
    by_row, by_column = (coefficient_of(offset, as_symbol(i)) for i in index[-2:])
    return by_row == 1 and by_column != 1


def _as_type(result: Variable, node: Apply) -> Variable:
    """Return the result in the product's dtype (sums of small integers widen)."""
    return FUNCTIONS["cast"](result, node.outputs[0].dtype)
