"""Bring a simplified graph into the form the lowering takes: composites, reductions, products.

Enters: any graph.  Leaves: an equal one in which composite ops are replaced by their expansions;
every reduction has adjacent axes, and reduces trailing axes, or axes before trailing ones, or a
whole vector; products of a matrix and a vector are multiply-sums, which fuse with their
surroundings and run at the speed of memory; exponentials of what cannot be positive, as in a
softmax, are those of the shorter function; and ``x - max(x)`` is of rounded elements, as the
largest one is: the difference from an exact product could be large and positive.
"""

from __future__ import annotations

from collections.abc import Sequence

from .access import behind_views, coefficient_of, flat_offset, index_of_rank
from .dims import as_symbol
from .dtypes import is_float
from .graph import Apply, Variable, built_at, reapply, toposort
from .operators import FUNCTIONS
from .ops.op import ContractLowering, Expand, ReduceLowering
from .selection import WRITES, select_places
from .signs import is_nonpositive, takes_off_largest


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
    if node.op.name in WRITES:
        return select_places(node)
    if node.op.name == "sub" and is_float(node.outputs[0].dtype) and takes_off_largest(node):
        return FUNCTIONS["sub_rounded"](*node.inputs)
    if node.op.name == "exp" and is_nonpositive(node.inputs[0]):
        return FUNCTIONS["exp_nonpositive"](node.inputs[0])
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
    """Write a product as a sum over ``left * right`` where that is better.

    That is for integers, outer products, and where one operand has a single row or column.  The
    axes of the elementwise product follow the memory of the other operand.
    """
    left, right = node.inputs
    lead, inner = node.params["batch"], node.params["inner"]
    middle, rank = left.ndim - inner, left.ndim + right.ndim - lead - inner
    batch, rows = tuple(range(lead)), tuple(range(lead, middle))
    summed, columns = tuple(range(middle, left.ndim)), tuple(range(left.ndim, rank))
    is_column = all(size == 1 for size in right.type.dims[lead + inner:])
    is_row = all(size == 1 for size in left.type.dims[lead:middle])
    if is_float(left.dtype) and inner and not is_column and not is_row:
        return None
    # The product has no axes for a single row or column: it then fuses with vectors.
    if is_column:
        order = (*batch, *summed, *rows) if _is_transposed(left, middle - 1) \
            else (*batch, *rows, *summed)
    elif is_row:
        order = (*batch, *columns, *summed) if _is_transposed(right, lead + inner - 1) \
            else (*batch, *summed, *columns)
    else:
        order = (*batch, *rows, *summed, *columns)
    shuffle = FUNCTIONS["dimshuffle"]
    own = (*batch, *rows, *summed), (*batch, *summed, *columns)
    product = FUNCTIONS["mul"](*(
        shuffle(operand, [axes.index(axis) if axis in axes else "x" for axis in order])
        for operand, axes in zip((left, right), own)))
    total = FUNCTIONS["sum"](product, axis=[order.index(axis) for axis in summed]) \
        if summed else product
    kept = [axis for axis in order if axis not in summed]
    return _as_type(shuffle(total, [kept.index(axis) if axis in kept else "x"
                                    for axis in (*batch, *rows, *columns)]), node)


def _is_transposed(operand: Variable, row: int) -> bool:
    """Return whether memory holds the columns of an operand one after the other, not its rows:
    whether its neighbours in memory are neighbours along axis ``row``, not along the last one."""
    if not 0 <= row < operand.ndim - 1:
        return False
    index = index_of_rank(operand.ndim)
    base, position = behind_views(operand, index)
    offset = flat_offset(position, base.type.dims)
    by_row, by_column = (coefficient_of(offset, as_symbol(i)) for i in (index[row], index[-1]))
    return by_row == 1 and by_column != 1


def _as_type(result: Variable, node: Apply) -> Variable:
    """Return the result in the product's dtype (sums of small integers widen)."""
    return FUNCTIONS["cast"](result, node.outputs[0].dtype)
