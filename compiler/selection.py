"""Tensors that are one number but for one element of each row, as selections.

The gradient of ``p[arange(n), classes]`` is ``zeros`` of the shape of ``p`` with a value added at
one place of each row.  As a set of places it fills memory, changes a few elements and ends every
fusion; written for each element,

    ``switch(eq(arange(size), place[row]), y[row], number)``

it is computed where it is used, and never stored unless asked for.  Indices are wrapped and
checked as before, by the op ``place``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .access import behind_views, index_of_rank
from .dims import DimLike, proves_equal
from .graph import Apply, Constant, Variable
from .operators import FUNCTIONS
from .ops.op import REGISTRY

WRITES = ("advanced_inc_subtensor", "advanced_set_subtensor")
"""The ops that :func:`find_places` looks into: of a base, new values, and index arrays."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where ``base[indices]`` is changed: at one place along ``axis``, for each of the others.

    Attributes
    ----------
    axis : int
        The axis of the base along which the places are data.
    index : Variable
        Where along the axis, as the user counts.
    pattern : tuple of int or "x"
        The rearrangement that lines the new values up with the base; "x" at ``axis``.
    """

    axis: int
    index: Variable
    pattern: tuple[int | str, ...]


def find_places(write: Apply) -> Places | None:
    """Return how a write reaches one place of each row of its base, each row once, or None.

    That is proved when the indices of all axes but one are ranges over these axes, each along an
    axis of its own of the new values, which have no further axes.
    """
    base, y, *indices = write.inputs
    if any(entry != "array" for entry in write.params["spec"]) or y.ndim != base.ndim - 1:
        return None
    found = [_range_along(index, size, y) for index, size in zip(indices, base.type.dims)]
    if found.count(None) != 1 or len(set(found)) != len(found):
        return None
    axis = found.index(None)
    return Places(axis, indices[axis], tuple("x" if own is None else own for own in found))


def _range_along(index: Variable, size: DimLike, y: Variable) -> int | None:
    """Return the axis of ``y`` along which an index array is ``arange(size)``, all of it."""
    axes = [axis for axis, dim in enumerate(index.type.dims) if dim != 1] or [index.ndim - 1]
    if len(axes) != 1 or axes[0] < 0 or not _is_range(index):
        return None
    own = y.ndim - index.ndim + axes[0]
    is_whole = proves_equal(index.type.dims[axes[0]], size) and proves_equal(y.type.dims[own], size)
    return own if is_whole else None


def _is_range(index: Variable) -> bool:
    """Return whether the elements of an array with one axis are 0, 1, 2, ... ."""
    while index.owner is not None and index.owner.op.name == "dimshuffle":
        (index,) = index.owner.inputs
    if isinstance(index, Constant):
        return bool(np.array_equal(index.data.reshape(-1), np.arange(index.data.size)))
    node = index.owner
    return node is not None and node.op.name == "arange" and node.params["step"] == 1 \
        and isinstance(node.inputs[0], Constant) and node.inputs[0].data == 0


def select_places(write: Apply) -> Variable | None:
    """Return a write as a selection, or None: unless it is at one place of each row of one number,
    which is zero if the values are added."""
    places = find_places(write)
    if places is None:
        return None
    base, y = write.inputs[:2]
    number, _ = behind_views(base, index_of_rank(base.ndim))
    if not isinstance(number, Constant) or number.data.size != 1 \
            or number.data.any() and write.op.name == "advanced_inc_subtensor":
        return None
    shuffle = FUNCTIONS["dimshuffle"]
    along = shuffle(FUNCTIONS["arange"](FUNCTIONS["axis_size"](base, places.axis)),
                    [0 if axis == places.axis else "x" for axis in range(base.ndim)])
    place = REGISTRY["place"](places.index, base, axis=places.axis)
    missing = y.ndim - place.ndim
    of_row = shuffle(place, ["x" if own == "x" or own < missing else own - missing
                             for own in places.pattern])
    return FUNCTIONS["switch"](FUNCTIONS["eq"](along, of_row), shuffle(y, places.pattern), base)


def sum_of_places(write: Apply, axes: tuple[int, ...]) -> Variable | None:
    """Return the sum over ``axes`` of a write into zeros, without the zeros, or None.

    Its indices stay checked: where one is out of range there is no sum.
    """
    places = find_places(write)
    if places is None or axes != (places.axis,):
        return None
    base, y = write.inputs[:2]
    if [own for own in places.pattern if own != "x"] != list(range(y.ndim)):
        return None
    place = REGISTRY["place"](places.index, base, axis=places.axis)
    return FUNCTIONS["switch"](FUNCTIONS["ge"](place, 0), y, Constant(np.zeros((), y.dtype)))
