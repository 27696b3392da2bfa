"""Indexing: reading parts of tensors, and tensors with parts set or incremented.

One *specification* describes an index expression, NumPy's in full except for boolean masks: a tuple
with, for each entry, ``"new"`` (a new axis), ``"at"`` (a scalar), ``"array"`` (integers of one axis
or more), ``"..."`` (an ellipsis of no axes, which separates arrays), or ``(has_start, has_stop,
step)`` (a slice).  Scalars, arrays and bounds are inputs of
the node, in this order.  :class:`Layout` derives from it the part's shape and where its elements
are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ...runtime.artifact import DtypeError, IndexOutOfRangeError, ShapeError, format_message
from .. import dtypes
from ..dims import (
    DimLike, floordiv, maximum, minimum, prod, proves_different, proves_nonnegative, symbols_of)
from ..graph import (
    Apply, Constant, DataSymbol, SizeGuard, TensorType, Variable, describe, dim_of)
from ..loop import scalar
from .op import Inferred, as_tensor, broadcast_dims, check, shape_mismatch
from .sizes import WHOLE, as_size

if TYPE_CHECKING:
    from ..loop.ir import Expr

Entry: TypeAlias = str | tuple[bool, bool, int]
Spec: TypeAlias = tuple[Entry, ...]
Position: TypeAlias = tuple[DimLike, ...]

FULL: Entry = (False, False, 1)
"""The slice ``:``."""


@dataclass(slots=True)
class Layout:
    """Where the elements of ``x[index]`` are in ``x``.

    Attributes
    ----------
    dims : tuple of dim
        The part's shape.
    guards : list of SizeGuard
    axes : list
        For each axis of ``x``: ``("slice", output axis, start, step)``, ``("at", operand)`` or
        ``("array", operand)``.
    group : int
        The part's first axis that the arrays broadcast to, ``group_rank`` axes.
    """

    x: Variable
    operands: tuple[Variable, ...]
    dims: tuple[DimLike, ...] = ()
    guards: list[SizeGuard] = field(default_factory=list)
    axes: list[tuple] = field(default_factory=list)
    group: int = 0
    group_rank: int = 0

    def position(self, context: Any, index: Position, first: int) -> Position:
        """Return the element of ``x`` that the part's element ``index`` is.

        Indices from data are checked and clamped; their operands are inputs ``first``, ... .
        """
        result: list[DimLike] = []
        for axis, (kind, *details) in enumerate(self.axes):
            size = self.x.type.dims[axis]
            if kind == "slice":
                own, start, step = details
                result.append(start + step * index[own])
            elif kind == "at":
                result.append(self._scalar_position(context, self.operands[details[0]], axis))
            else:
                value = context.read(first + details[0], self._within(details[0], index))
                result.append(checked_position(context, value, self.x, axis))
        return tuple(result)

    def _within(self, operand: int, index: Position) -> Position:
        """Return where an index array is read for the part's element ``index``."""
        dims = self.operands[operand].type.dims
        end = self.group + self.group_rank
        return tuple(0 if dim == 1 else i
                     for dim, i in zip(dims, index[end - len(dims):end]))

    def _scalar_position(self, context: Any, operand: Variable, axis: int) -> DimLike:
        size, wanted = self.x.type.dims[axis], dim_of(operand)
        place = wrapped(wanted, size)
        if is_checked_before(wanted) or is_within(place, size):
            return place
        context.check(
            scalar.apply("and", scalar.apply("ge", scalar.index(place), scalar.const(0, "int64")),
                         scalar.apply("lt", scalar.index(place), scalar.index(size))),
            _message(self.x, axis), scalar.index(wanted))
        return maximum(minimum(place, size - 1), 0)


def out_of_range(index: Any, x: Variable, axis: int) -> str:
    """Return the message for an index outside its axis."""
    return f"Index {index} is out of range for axis {axis} of {describe(x)} {x.type}."


def _message(x: Variable, axis: int) -> str:
    text = out_of_range("\0", x, axis).replace("{", "(").replace("}", ")")
    return text.replace("\0", "{value}")


def wrapped(index: DimLike, size: DimLike) -> DimLike:
    """Return an index counted from the front: ``index + size`` where ``index`` is negative."""
    if proves_nonnegative(index):
        return index
    if proves_nonnegative(-1 - index):
        return index + size
    is_negative = minimum(1, maximum(0, -index))
    return index + size * is_negative


def is_within(place: DimLike, size: DimLike) -> bool:
    """Return whether ``0 <= place < size`` is proved."""
    return proves_nonnegative(place) and proves_nonnegative(size - 1 - place)


def is_checked_before(index: DimLike) -> bool:
    """Return whether an index is known when a call starts, from sizes alone, and of known sign.

    Such an index is guarded once a call; one from data or of a loop is checked where it is used.
    """
    return not any(isinstance(symbol, DataSymbol) or symbol.extent is not None
                   for symbol in symbols_of(index)) \
        and (proves_nonnegative(index) or proves_nonnegative(-1 - index))


def checked_position(context: Any, value: Expr, x: Variable, axis: int) -> DimLike:
    """Wrap, check and clamp an integer expression, so that it never points outside ``x``."""
    from ..loop.ir import Const, Index
    value, size = scalar.apply("cast", value, dtype="int64"), x.type.dims[axis]
    if isinstance(value, (Const, Index)):
        known = value.value if isinstance(value, Const) else value.dim
        place = wrapped(known, size)
        if is_within(place, size):
            return place
    zero, length = scalar.const(0, "int64"), scalar.index(size)
    place = scalar.apply("select", scalar.apply("lt", value, zero),
                         scalar.apply("add", value, length), value)
    context.check(scalar.apply("and", scalar.apply("ge", place, zero),
                               scalar.apply("lt", place, length)), _message(x, axis), value)
    return context.bind(scalar.apply(
        "maximum", scalar.apply("minimum", place, scalar.index(size - 1)), zero))


# -- from specification to layout ------------------------------------------------------------------


def layout(x: Variable, operands: Sequence[Variable], spec: Spec) -> Layout:
    """Return the layout of ``x[index]``.

    Raises
    ------
    IndexOutOfRangeError
        If an index is known to be outside its axis.
    ShapeError
        If index arrays do not broadcast together.
    """
    result = Layout(x, tuple(operands))
    arrays = [o for o, entry in zip(_slots(spec), spec) if entry == "array"]
    group_dims: tuple[DimLike, ...] = ()
    if arrays:
        group_dims, guards = broadcast_dims("indexing", [operands[o.start] for o in arrays])
        result.guards += guards
    result.group_rank = len(group_dims)
    advanced = [k for k, entry in enumerate(spec) if arrays and entry in ("at", "array")]
    in_place = bool(advanced) and advanced[-1] - advanced[0] + 1 == len(advanced)
    dims: list[DimLike] = [] if in_place else list(group_dims)
    axis = 0
    for k, (entry, slots) in enumerate(zip(spec, _slots(spec))):
        if in_place and k == advanced[0]:
            result.group = len(dims)
            dims += group_dims
        if entry in ("new", "..."):
            dims += [1] * (entry == "new")
            continue
        if entry == "at":
            _place_scalar(result, axis, slots.start)
        elif entry == "array":
            result.axes.append(("array", slots.start))
            _require_nonempty(result, axis, prod(group_dims))
        else:
            bounds = iter(operands[slots.start:slots.stop])
            start, length = slice_range(x.type.dims[axis], entry, bounds)
            result.axes.append(("slice", len(dims), start, entry[2]))
            dims.append(length)
        axis += 1
    result.dims = tuple(dims)
    return result


def _slots(spec: Spec) -> list[range]:
    """Return which operands belong to each entry."""
    slots, start = [], 0
    for entry in spec:
        if isinstance(entry, str):
            count = int(entry in ("at", "array"))
        else:
            count = entry[0] + entry[1]
        slots.append(range(start, start + count))
        start += count
    return slots


def known_before(operands: Sequence[Variable], spec: Spec) -> list[Variable]:
    """Return the operands that are part of positions: scalars and bounds, not index arrays."""
    return [operand for entry, slots in zip(spec, _slots(spec)) if entry != "array"
            for operand in operands[slots.start:slots.stop]]


def _place_scalar(result: Layout, axis: int, operand: int) -> None:
    x, size = result.x, result.x.type.dims[axis]
    result.axes.append(("at", operand))
    index = dim_of(result.operands[operand])
    place = wrapped(index, size)
    if is_within(place, size):  # first: the index of a loop that never runs is inside and outside
        return
    is_outside = proves_nonnegative(-1 - place) or proves_nonnegative(place - size)
    check(not is_outside, IndexOutOfRangeError, out_of_range(index, x, axis),
          remedy="indices go from -size to size - 1")
    if is_checked_before(index):
        # Where place + 1 <= size, and size + index >= 0, are not proved they are demanded.
        needed = place + 1 if proves_nonnegative(index) else -index
        result.guards.append(SizeGuard(
            maximum(size, needed), size, (x, axis), (x, axis),
            out_of_range(index, x, axis), "IndexOutOfRangeError"))
    else:
        _require_nonempty(result, axis, 1)


def _require_nonempty(result: Layout, axis: int, count: DimLike) -> None:
    """Demand that an axis to be indexed has elements, if ``count`` indices are not none."""
    x, size = result.x, result.x.type.dims[axis]
    needed = minimum(count, 1)
    reason = f"Axis {axis} of {describe(x)} has length 0: no index is in its range."
    if isinstance(size, int) and isinstance(needed, int):
        check(size >= needed, IndexOutOfRangeError, reason,
              remedy="index with no elements, or not at all")
    elif not proves_nonnegative(size - 1):
        result.guards.append(SizeGuard(maximum(size, needed), size, (x, axis), (x, axis),
                                       reason, "IndexOutOfRangeError"))


def slice_range(size: DimLike, entry: tuple[bool, bool, int], bounds: Iterator[Variable]
                ) -> tuple[DimLike, DimLike]:
    """Return where a slice of an axis starts and how many elements it has.

    Bounds are wrapped and clamped as Python does; what follows from the length being at least 0 is
    left out, so that ``x[1:]`` and ``x[:-1]`` of one axis have provably equal lengths.
    """
    has_start, has_stop, step = entry
    start = wrapped(dim_of(next(bounds)), size) if has_start else None
    stop = wrapped(dim_of(next(bounds)), size) if has_stop else None
    if step > 0:
        first = 0 if start is None else maximum(start, 0)
        last = size if stop is None else minimum(stop, size)
        length = floordiv(last - first + (step - 1), step)
    else:
        first = size - 1 if start is None else minimum(start, size - 1)
        last = -1 if stop is None else maximum(stop, -1)
        length = floordiv(first - last + (-step - 1), -step)
    return first, length if proves_nonnegative(length) else maximum(length, 0)


# -- the rules of the rows -------------------------------------------------------------------------


def infer_read(x: Variable, *operands: Variable, spec: Spec) -> Inferred:
    """Return the type of ``x[index]``."""
    found = layout(x, operands, spec)
    return [TensorType(x.dtype, found.dims)], found.guards


def infer_write(x: Variable, y: Variable, *operands: Variable, spec: Spec) -> Inferred:
    """Return the type of ``x`` with the part ``x[index]`` changed by ``y`` of the part's shape."""
    found = layout(x, operands, spec)
    check(x.dtype == y.dtype, DtypeError, "The new values have another dtype than the tensor.",
          f"{x.dtype}, {y.dtype}", "cast them")
    check(len(found.dims) == y.ndim, ShapeError, "The new values do not fit the part.",
          f"the part has {len(found.dims)} axes, the values {y.ndim}", "broadcast them")
    guards = list(found.guards)
    for axis, (dim, own) in enumerate(zip(found.dims, y.type.dims)):
        if proves_different(dim, own):
            raise shape_mismatch("indexed assignment", (dim, x, axis), (own, y, axis))
        if dim != own:
            guards.append(SizeGuard(dim, own, (x, WHOLE), (y, axis)))
    return [x.type], guards


def lower_read(context: Any, index: Position, node: Apply) -> Expr:
    """Read ``x`` where the part's element is."""
    found = layout(node.inputs[0], node.inputs[1:], node.params["spec"])
    return context.read(0, found.position(context, index, first=1))


def numpy_index(operands: Sequence[np.ndarray], spec: Spec) -> Inferred:
    """Return the NumPy index expression that a specification and its operands describe."""
    index: list[Any] = []
    for entry, slots in zip(spec, _slots(spec)):
        values = [operands[k] for k in slots]
        if entry == "new":
            index.append(None)
        elif entry == "...":
            index.append(Ellipsis)
        elif entry == "at":
            index.append(int(values[0]))
        elif entry == "array":
            index.append(np.asarray(values[0]))
        else:
            bounds = iter(values)
            start = int(next(bounds)) if entry[0] else None
            index.append(slice(start, int(next(bounds)) if entry[1] else None, entry[2]))
    return tuple(index)


def reference_read(x: np.ndarray, *operands: np.ndarray, spec: Spec) -> np.ndarray:
    """Return ``x[index]``."""
    try:
        return x[numpy_index(operands, spec)]
    except IndexError as error:
        raise IndexOutOfRangeError(format_message(f"{error}.")) from None


def reference_set(x: np.ndarray, y: np.ndarray, *operands: np.ndarray, spec: Spec) -> np.ndarray:
    """Return ``x`` with ``x[index] = y``."""
    result = x.copy()
    try:
        result[numpy_index(operands, spec)] = y
    except IndexError as error:
        raise IndexOutOfRangeError(format_message(f"{error}.")) from None
    return result


def reference_inc(x: np.ndarray, y: np.ndarray, *operands: np.ndarray, spec: Spec) -> np.ndarray:
    """Return ``x`` with ``y`` added at every index, repeated ones repeatedly."""
    result = x.copy()
    try:
        with np.errstate(all="ignore"):
            np.add.at(result, numpy_index(operands, spec), y)
    except IndexError as error:
        raise IndexOutOfRangeError(format_message(f"{error}.")) from None
    return result


# -- from what users write to specification --------------------------------------------------------


def parse_index(x: Variable, index: Any) -> tuple[Spec, list[Variable]]:
    """Return the specification and operands of an index expression.

    Raises
    ------
    IndexOutOfRangeError
        If there are more indices than axes, or a constant one is outside its axis.
    DtypeError
        If an index is neither integer, slice, None, ``...`` nor integer array.
    """
    entries = [_as_index(entry) for entry in (index if isinstance(index, tuple) else (index,))]
    used = sum(map(_axes_of, entries))
    check(used <= x.ndim, IndexOutOfRangeError,
          f"{used} indices are too many for {x.ndim} axes.", f"{describe(x)} {x.type}",
          "give at most one index an axis")
    dots = [k for k, entry in enumerate(entries) if entry is Ellipsis]
    check(len(dots) <= 1, IndexOutOfRangeError, "An index can hold one ellipsis only.")
    where = dots[0] if dots else len(entries)
    spec: list[Entry] = []
    operands: list[Variable] = []
    axis = 0
    separates = bool(dots) and 0 < where < len(entries) - 1
    between: list[Any] = [slice(None)] * (x.ndim - used) or [Ellipsis] * separates
    for entry in entries[:where] + between + entries[where + 1:]:
        if entry is None or entry is Ellipsis:
            spec.append("new" if entry is None else "...")
        elif isinstance(entry, slice):
            kind, values = _parse_slice(entry)
            spec.append(kind)
            operands += values
        else:
            parts = _parse_mask(x, axis, entry) if _is_mask(entry) else [entry]
            for own_axis, part in enumerate(parts, start=axis):
                kind, values = _parse_integers(x, own_axis, part)
                spec.append(kind)
                operands += values
        axis += _axes_of(entry)
    return tuple(spec), operands


def _as_index(entry: Any) -> Any:
    """Return lists as arrays and constants as their arrays."""
    if isinstance(entry, (list, range)):
        if any(isinstance(item, Variable) for item in entry):
            return as_tensor(list(entry))
        array = np.asarray(entry)
        return array.astype("int64") if array.size == 0 else array
    return entry.data if isinstance(entry, Constant) else entry


def _is_mask(entry: Any) -> bool:
    return isinstance(entry, (bool, np.bool_)) or getattr(entry, "dtype", None) == np.dtype(bool)


def _axes_of(entry: Any) -> int:
    """Return how many axes an entry indexes."""
    if entry is None or entry is Ellipsis:
        return 0
    return max(entry.ndim, 1) if isinstance(entry, np.ndarray) and _is_mask(entry) else 1


def _parse_mask(x: Variable, axis: int, mask: Any) -> Sequence[np.ndarray]:
    """Return a constant boolean mask as the indices of its true elements."""
    check(not isinstance(mask, Variable), DtypeError,
          "A boolean index that is known only at run time is not supported: the size of the result "
          "would depend on data.", f"{describe(mask)}" if isinstance(mask, Variable) else "",
          "keep the size, with T.switch(mask, x, other); T.switch(mask, x, 0).sum() sums")
    check(isinstance(mask, np.ndarray) and mask.ndim > 0, DtypeError,
          "A single boolean is not an index.", repr(mask), "use None for a new axis")
    for own, size in zip(x.type.dims[axis:], mask.shape):
        check(own == size, IndexOutOfRangeError, f"A mask of shape {mask.shape} does not fit.",
              f"{describe(x)} {x.type}, from axis {axis}",
              "declare the sizes with T.specify_shape, or index with integers")
    return np.nonzero(mask)


def _parse_slice(entry: slice) -> tuple[Entry, list[Variable]]:
    step = entry.step
    if isinstance(step, Constant) and step.ndim == 0:
        step = int(step.data)
    check(step is None or (isinstance(step, (int, np.integer)) and step != 0), DtypeError,
          "The step of a slice must be a known integer other than 0.", repr(entry.step),
          "write the step as a number")
    bounds = [as_size(bound, "slice") for bound in (entry.start, entry.stop) if bound is not None]
    return (entry.start is not None, entry.stop is not None, int(step or 1)), bounds


def _parse_integers(x: Variable, axis: int, entry: Any) -> tuple[Entry, list[Variable]]:
    if isinstance(entry, (int, np.integer)) or (np.ndim(entry) == 0
                                                and isinstance(entry, np.ndarray)):
        return "at", [as_size(entry, "index")]
    accepted = isinstance(entry, (Variable, np.ndarray)) \
        and dtypes.is_integer(getattr(entry.dtype, "name", entry.dtype))
    check(accepted, DtypeError, "An index must be an integer, a slice, None, ... or integers.",
          f"{describe(entry)} {entry.type}" if isinstance(entry, Variable) else repr(entry),
          "cast the index to an integer dtype")
    if isinstance(entry, Variable) and entry.ndim == 0:
        operand = as_size(entry, "index")
        # An index from data is read where it is used, as an array is; sizes and loop indices are
        # part of a view's position.
        is_data = any(isinstance(symbol, DataSymbol) and symbol.extent is None
                      for symbol in symbols_of(dim_of(operand)))
        return ("array" if is_data else "at"), [operand]
    operand = entry if isinstance(entry, Variable) else Constant(entry)
    size = x.type.dims[axis]
    if isinstance(operand, Constant) and isinstance(size, int) and operand.data.size:
        for extreme in (operand.data.min(), operand.data.max()):
            check(-size <= extreme < size, IndexOutOfRangeError,
                  out_of_range(extreme, x, axis), remedy="indices go from -size to size - 1")
    return "array", [operand]
