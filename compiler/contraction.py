"""The axes of a product: which flatten, and which part each plays in the loops.

Enters: a ``contract`` node, whose operands are arrays behind views.  Leaves: the strided windows of
a ``Contract`` step.  Axes whose strides flatten in all three arrays become one.  Of what is left,
one axis of rows and one of columns make the matrix, further ones are batch axes (on which the other
operand does not depend), and all summed axes stay in one sum.  So nothing is copied for its shape:
not a transposed operand, nor the overlapping windows of a convolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .access import Position, behind_factor, coefficient_of, flat_offset, index_of_rank
from .dims import (
    DimLike, as_symbol, prod, proves_equal, proves_nonnegative, substitute)
from .graph import Apply, Variable
from .program import row_major_strides

LONG = 16
"""Steps of the innermost summed axis that hide what entering its loop costs."""


class Axis(NamedTuple):
    """One axis of a product: its size, and its strides in the three arrays (0: absent)."""

    size: DimLike
    out: DimLike
    left: DimLike
    right: DimLike

    def continues(self, inner: Axis) -> bool:
        """Return whether a step along this axis is one beyond the end of ``inner``, everywhere."""
        return all(proves_equal(own, inner.size * other) for own, other in zip(self[1:], inner[1:]))


class Operand(NamedTuple):
    """An operand of a product: a window on the array ``base``, with strides in elements."""

    base: Variable
    offset: DimLike
    strides: Position


class Window(NamedTuple):
    """Sizes and strides of one array of a ``Contract`` step."""

    dims: Position
    strides: Position


def contract_operand(variable: Variable, stop: set[int]) -> Operand | None:
    """Return an operand of a product as the array behind its views, and behind the conversion of a
    half.

    Parameters
    ----------
    stop : set of int
        Ids of variables that have memory anyway.

    Returns
    -------
    Operand or None
        None when the operand needs memory of its own: the views do not amount to strides, or they
        show, without neighbours in memory, a part of an array that need not be stored.
    """
    dims = variable.type.dims
    index = index_of_rank(len(dims))
    base, position = behind_factor(variable, index, stop)
    if base is variable:
        return Operand(base, 0, row_major_strides(dims))
    offset = flat_offset(position, base.type.dims)
    strides = tuple(coefficient_of(offset, as_symbol(i)) for i in index)
    if any(stride is None for stride in strides):
        return None
    is_stored = base.owner is None or id(base) in stop
    if not (is_stored or 1 in strides or proves_nonnegative(prod(dims) - prod(base.type.dims))):
        return None
    return Operand(base, substitute(offset, {as_symbol(i): 0 for i in index}), strides)


def contract_windows(node: Apply, left: Operand, right: Operand) -> tuple[Window, Window, Window]:
    """Return the windows of out, left and right for a ``Contract`` step."""
    lead, inner = node.params["batch"], node.params["inner"]
    middle = node.inputs[0].ndim - inner
    out_strides = row_major_strides(node.outputs[0].type.dims)
    out_dims = node.outputs[0].type.dims
    batch = [Axis(*axis) for axis in zip(out_dims, out_strides, left.strides,
                                         right.strides[:lead])]
    rows = [Axis(*axis, 0) for axis in zip(out_dims[lead:middle], out_strides[lead:],
                                           left.strides[lead:])]
    columns = [Axis(size, out, 0, stride) for size, out, stride in zip(
        out_dims[middle:], out_strides[middle:], right.strides[lead + inner:])]
    summed = [Axis(size, 0, *strides) for size, *strides in zip(
        node.inputs[0].type.dims[middle:], left.strides[middle:], right.strides[lead:])]
    # An operand repeated along a batch axis makes it an axis of the other one's matrix.
    rows = _merged([*(axis for axis in batch if axis.right == 0), *rows]) or [Axis(1, 0, 0, 0)]
    columns = _merged([*(axis for axis in batch if axis.right != 0 and axis.left == 0), *columns]) \
        or [Axis(1, 1, 0, 1)]
    batch = _merged(axis for axis in batch if axis.left != 0 and axis.right != 0)
    m, n = rows.pop(_longest(rows)), columns.pop()
    outer, summed = [*batch, *columns, *rows], _innermost_last(_merged(_by_stride(summed)))
    return (_window([*outer, m, n], "out"), _window([*outer, m, *summed], "left"),
            _window([*outer, *summed, n], "right"))


def _window(axes: list[Axis], array: str) -> Window:
    return Window(tuple(axis.size for axis in axes), tuple(getattr(axis, array) for axis in axes))


def _merged(axes: Iterable[Axis]) -> list[Axis]:
    """Return the axes without those of size 1, neighbours that flatten taken together."""
    result: list[Axis] = []
    for axis in axes:
        if axis.size == 1:
            continue
        if result and result[-1].continues(axis):
            axis = axis._replace(size=result.pop().size * axis.size)
        result.append(axis)
    return result


def _longest(axes: list[Axis]) -> int:
    """Return the place of the longest axis; of the last one where sizes are unknown."""
    sizes = [axis.size for axis in axes]
    if not all(isinstance(size, int) for size in sizes):
        return len(axes) - 1
    return max(range(len(axes)), key=lambda k: (sizes[k], k))


def _by_stride(axes: list[Axis]) -> list[Axis]:
    """Return the axes in the order of memory, where it is known."""
    strides = [(axis.left, axis.right) for axis in axes]
    if not all(isinstance(stride, int) for pair in strides for stride in pair):
        return axes
    return sorted(axes, key=lambda axis: (-abs(axis.left), -abs(axis.right)))


def _innermost_last(axes: list[Axis]) -> list[Axis]:
    """Return the summed axes (one of size 1 for none) with one that makes a long loop last."""
    if not axes:
        return [Axis(1, 0, 1, 1)]
    if not all(isinstance(axis.size, int) for axis in axes):
        return axes
    chosen = next((axis for axis in reversed(axes) if axis.size >= LONG),
                  axes[max(range(len(axes)), key=lambda k: (axes[k].size, k))])
    return [*(axis for axis in axes if axis is not chosen), chosen]
