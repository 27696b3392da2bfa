"""Rows of indexing: parts of tensors, and tensors with parts set or incremented.

``subtensor`` reads with integers and slices, as a view; ``advanced_subtensor`` reads with integer
arrays too.  Each has a ``set`` and an ``inc`` twin, which are its transposes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...runtime.artifact import DtypeError, IndexOutOfRangeError, ShapeError
from .. import dtypes
from ..dims import DimLike, proves_different
from ..graph import Apply, Constant, TensorType, Variable, describe
from ..loop import scalar
from ..operators import FUNCTIONS
from .index_layout import (
    Spec, checked_position, infer_read, infer_write, layout, lower_read, parse_index,
    reference_inc, reference_read, reference_set)
from .op import (
    ArrayLike, IndexLowering, NoDerivative, Region, Sample, ScatterLowering, Transpose, as_tensor,
    check, is_weak, normalize_axes)
from .public import builder, row
from .shape import broadcast_to, flatten, zeros_like
from .sizes import sizes_of


def getitem(x: ArrayLike, index: Any) -> Variable:
    """Return a part of a tensor: ``x[index]``, with NumPy's meaning.

    Parameters
    ----------
    x : tensor
    index : int, slice, None, ..., integers, or a tuple of these
        Integers and slice bounds may be symbolic (0-dimensional); integer arrays of any rank,
        several of which broadcast together, may be symbolic too.  A constant boolean mask counts as
        the indices of its true elements.

    Raises
    ------
    IndexOutOfRangeError
        If an index is outside its axis: here when it is known, else at the call.

    Examples
    --------
    >>> import numpy as np
    >>> getitem(np.ones((4, 5)), (slice(1, None), None, [0, 2, 4])).type.shape
    (3, 1, 3)
    """
    x = as_tensor(x)
    found = _element_of_stack(x, index)
    if found is not None:
        return found
    spec, operands = parse_index(x, index)
    return _read(x, operands, spec)


def _element_of_stack(x: Variable, index: Any) -> Variable | None:
    """Return the scalars behind ``stack([a, b, c])[index]``, so ``x.shape[0]`` is a size itself."""
    if x.owner is None or x.owner.op.name != "stack" or x.ndim != 1:
        return None
    parts = x.owner.inputs
    if isinstance(index, tuple) and len(index) == 1:
        (index,) = index
    if isinstance(index, (int, np.integer)) and not isinstance(index, bool):
        check(-len(parts) <= index < len(parts), IndexOutOfRangeError,
              f"Index {index} is out of range.", f"{describe(x)} has {len(parts)} elements",
              "indices go from -size to size - 1")
        return parts[index]
    bounds = (index.start, index.stop, index.step) if isinstance(index, slice) else ("",)
    if not all(bound is None or isinstance(bound, (int, np.integer)) for bound in bounds) \
            or index.step == 0:
        return None
    chosen = list(parts[index])
    return FUNCTIONS["stack"](chosen) if chosen else Constant(np.zeros(0, x.dtype))


def _read(x: Variable, operands: Any, spec: Spec) -> Variable:
    return (_ADVANCED if "array" in spec else _SUBTENSOR)(x, *operands, spec=spec)


def _inc(x: Variable, y: Variable, operands: Any, spec: Spec) -> Variable:
    return (_ADVANCED_INC if "array" in spec else _INC)(x, y, *operands, spec=spec)


def _set(x: Variable, y: Variable, operands: Any, spec: Spec) -> Variable:
    return (_ADVANCED_SET if "array" in spec else _SET)(x, y, *operands, spec=spec)


# -- changing parts --------------------------------------------------------------------------------


def set_subtensor(x: Variable, y: ArrayLike, inplace: bool = False,
                  tolerate_inplace_aliasing: bool = False) -> Variable:
    """Return a tensor with a part replaced: ``set_subtensor(a[index], y)`` is ``a`` with it.

    Parameters
    ----------
    x : tensor
        The result of indexing: its index says which part of which tensor.
    y : tensor
        The new values, broadcast to the part's shape.  Where an index occurs twice the last counts.
    inplace, tolerate_inplace_aliasing : bool
        Accepted for Theano's sake; the compiler decides what is done in place.

    Notes
    -----
    With repeated indices the gradient of each of the values that compete for an element is that
    of the element.
    """
    base, part, operands, spec = _part_of(x, y, "set_subtensor")
    return _set(base, part, operands, spec)


def inc_subtensor(x: Variable, y: ArrayLike, inplace: bool = False,
                  tolerate_inplace_aliasing: bool = False) -> Variable:
    """Return a tensor with a part incremented: ``inc_subtensor(a[index], y)``.

    Parameters
    ----------
    x : tensor
        The result of indexing: its index says which part of which tensor.
    y : tensor
        The increments, broadcast to the part's shape.  Where an index occurs twice both are added.
    inplace, tolerate_inplace_aliasing : bool
        Accepted for Theano's sake; the compiler decides what is done in place.
    """
    base, part, operands, spec = _part_of(x, y, "inc_subtensor")
    check(base.dtype != dtypes.BOOL, DtypeError, "inc_subtensor: bool cannot be incremented.",
          f"{describe(base)} {base.type}", "use set_subtensor, or cast")
    return _inc(base, part, operands, spec)


def _part_of(x: Variable, y: ArrayLike, name: str
             ) -> tuple[Variable, Variable, tuple[Variable, ...], Spec]:
    """Return what was indexed, the new values in the part's shape and dtype, and the index."""
    owner = x.owner if isinstance(x, Variable) else None
    check(owner is not None and owner.op in (_SUBTENSOR, _ADVANCED), DtypeError,
          f"{name}: the first argument must be the result of indexing a tensor.",
          describe(x) if isinstance(x, Variable) else repr(x), f"write {name}(a[index], y)")
    base, operands = owner.inputs[0], owner.inputs[1:]
    fits = is_weak(y) and (dtypes.is_float(base.dtype) or not isinstance(y, float))
    y = as_tensor(y, base.dtype) if fits else as_tensor(y)
    check(dtypes.is_float(base.dtype) or not dtypes.is_float(y.dtype), DtypeError,
          f"{name}: floats cannot be put into a tensor of {base.dtype}.",
          f"{describe(base)} {base.type}, {describe(y)} {y.type}", "cast one of them")
    y = as_tensor(y, base.dtype)
    while y.ndim > x.ndim and y.type.dims[0] == 1:
        y = y[0]
    if y.type.dims != x.type.dims:
        check(y.ndim <= x.ndim and not any(
            own != 1 and proves_different(own, dim)
            for own, dim in zip(y.type.dims[::-1], x.type.dims[::-1])),
            ShapeError, f"{name}: the new values do not broadcast to the part's shape.",
            f"{describe(y)} {y.type}; the part of {describe(base)} {x.type}",
            "make their shapes equal, or leave out the axes along which values repeat")
        y = broadcast_to(y, sizes_of(x))
    return base, y, operands, owner.params["spec"]


# -- rows ------------------------------------------------------------------------------------------


def _scatter(accumulate: bool, is_parallel: bool) -> ScatterLowering:
    def rule(node: Apply) -> tuple[int, list[Region]]:
        found = layout(node.inputs[0], node.inputs[2:], node.params["spec"])
        region = Region(
            node.inputs[1].type.dims,
            target=lambda context, index: found.position(context, index, first=2),
            value=lambda context, index: context.read(1, index),
            accumulate=accumulate, is_parallel=is_parallel)
        return 0, [region]
    return ScatterLowering(rule)


def _set_rules() -> Transpose:
    return Transpose({
        0: lambda g, x, y, *operands, spec: _set(g, zeros_like(y), operands, spec),
        1: lambda g, x, y, *operands, spec: _read(g, operands, spec)}, jointly=True)


def _inc_rules() -> Transpose:
    return Transpose({
        0: lambda g, x, y, *operands, spec: g,
        1: lambda g, x, y, *operands, spec: _read(g, operands, spec)}, jointly=True)


_READ_RULE = Transpose({0: lambda g, x, *operands, spec: _inc(zeros_like(x), g, operands, spec)})

_BASIC_CASES = (
    ((4, 3), (1,)), ((4, 3), (slice(1, None), -1)), ((4, 3), (slice(None, None, -2),)),
    ((5,), (slice(-3, None),)), ((5,), (slice(4, 1, -1),)), ((4, 0), (slice(2, 9), None)),
    ((2, 3, 4), (Ellipsis, 2)), ((3,), (slice(3, 1),)), ((), (None,)))
_KINDS = (("float64",), ("float32",), ("int32",), ("bool",))


def _read_samples(cases) -> tuple[Sample, ...]:
    return tuple(Sample((shape,), _KINDS if k == 0 else _KINDS[:1],
                        lambda f, x, index=index: x[index], lambda x, index=index: x[index])
                 for k, (shape, index) in enumerate(cases))


_SUBTENSOR = row(
    getitem, name="subtensor", kind="linear", infer=infer_read, reference=reference_read,
    derivative=_READ_RULE, lower=IndexLowering(lower_read, is_view=True), namespace="",
    aliases=("getitem",), section="Indexing", samples=_read_samples(_BASIC_CASES))

_ADVANCED_CASES = (
    ((4, 3), ([2, 0, 2],)), ((4, 3), (slice(None), [[0, -1], [1, 1]])),
    ((4, 3), ([0, 3], [1, 2])), ((4, 3, 2), ([1, 0], slice(None), [0, 1])),
    ((4, 2, 3), (1, slice(None), None, [0, 2])), ((4, 3), ([],)))


def _by_rows(f: Callable[..., Any], x: Variable, i: Variable) -> Variable:
    return x[FUNCTIONS["arange"](i.shape[0]), i]


_ADVANCED = row(
    getitem, name="advanced_subtensor", kind="linear", infer=infer_read, reference=reference_read,
    derivative=_READ_RULE, lower=IndexLowering(lower_read), namespace="", section="Indexing",
    samples=_read_samples(_ADVANCED_CASES[:-1]) + (
        Sample(((4, 3), (4,)), (("float64", "int64"), ("float32", "int32"), ("int8", "uint8")),
               _by_rows, lambda x, i: x[np.arange(4), i], domain=((-2, 2), (0, 2))),))


def _write_samples(change: Callable[..., Any], reference: Callable[..., Any], cases
                   ) -> tuple[Sample, ...]:
    return tuple(
        Sample((shape, part), (("float64", "float64"), ("int32", "int32"))[:1 + (k == 0)],
               lambda f, x, y, index=index: change(x[index], y),
               lambda x, y, index=index: reference(x, index, y))
        for k, (shape, index, part) in enumerate(cases))


_BASIC_WRITES = (((4, 3), (slice(1, 3),), (2, 3)), ((4, 3), (slice(None, None, -2), 1), ()),
                 ((4,), (-1,), ()), ((4, 3), (slice(2, 2),), (3,)))
_DISTINCT_WRITES = (((4, 3), ([2, 0],), (2, 3)), ((4, 3), (slice(None), [[0, -1]]), (1, 2)),
                    ((4, 3), ([0, 3], [1, 2]), ()))
_REPEATED_WRITES = _DISTINCT_WRITES + (((4, 3), ([2, 0, 2],), (3, 3)), ((3,), ([1, 1, 1],), ()))


def _numpy_set(x: np.ndarray, index: tuple, y: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[index] = y
    return x


def _numpy_inc(x: np.ndarray, index: tuple, y: np.ndarray) -> np.ndarray:
    x = x.copy()
    np.add.at(x, index, y)
    return x


_SET = row(
    set_subtensor, kind="linear", infer=infer_write, reference=reference_set,
    derivative=_set_rules(), lower=_scatter(accumulate=False, is_parallel=True),
    section="Indexing", samples=_write_samples(set_subtensor, _numpy_set, _BASIC_WRITES))
_INC = row(
    inc_subtensor, kind="linear", infer=infer_write, reference=reference_inc,
    derivative=_inc_rules(), lower=_scatter(accumulate=True, is_parallel=True),
    section="Indexing", samples=_write_samples(inc_subtensor, _numpy_inc, _BASIC_WRITES))
_ADVANCED_SET = row(
    set_subtensor, name="advanced_set_subtensor", kind="linear", infer=infer_write,
    reference=reference_set, derivative=_set_rules(),
    lower=_scatter(accumulate=False, is_parallel=False), namespace="", section="Indexing",
    samples=_write_samples(set_subtensor, _numpy_set, _DISTINCT_WRITES))
_ADVANCED_INC = row(
    inc_subtensor, name="advanced_inc_subtensor", kind="linear", infer=infer_write,
    reference=reference_inc, derivative=_inc_rules(),
    lower=_scatter(accumulate=True, is_parallel=False), namespace="", section="Indexing",
    samples=_write_samples(inc_subtensor, _numpy_inc, _REPEATED_WRITES))


def place(index: Variable, x: Variable, axis: int) -> Variable:
    """Return indices along an axis of ``x`` counted from the front, each checked where it is used.

    Parameters
    ----------
    index : integers of any shape
        Negative ones count from the end.
    x : tensor
        Only its type matters.
    axis : int

    Returns
    -------
    Variable
        int64, of the shape of ``index``.

    Raises
    ------
    IndexOutOfRangeError
        At the call, if an index is outside the axis.
    """
    return _PLACE(index, x, axis=axis)


def _lower_place(context: Any, index: tuple[DimLike, ...], node: Apply) -> Any:
    return scalar.index(checked_position(
        context, context.read(0, index), node.inputs[1], node.params["axis"]))


def _place_array(index: np.ndarray, x: np.ndarray, axis: int) -> np.ndarray:
    return reference_read(np.arange(x.shape[axis]), index, spec=("array",))


_PLACE = row(
    place, kind="structured",
    infer=lambda index, x, axis: ([TensorType("int64", index.type.dims)], []),
    reference=_place_array, derivative=NoDerivative("its elements are integers"),
    lower=IndexLowering(_lower_place, is_cheap=True), namespace="", section="Indexing",
    samples=(Sample(((4,), (4, 3)), (("int64", "float64"), ("int8", "float32")),
                    lambda f, i, x: f(i, x, 1), lambda i, x: np.arange(3)[i],
                    domain=((-3, 2), (0, 1)), differentiable=False),))


# -- built from indexing ---------------------------------------------------------------------------


@builder("T")
def take(x: ArrayLike, indices: ArrayLike, axis: int | None = None) -> Variable:
    """Return the parts of ``x`` at ``indices`` along an axis.

    Parameters
    ----------
    x : tensor
    indices : integers of any shape
        Negative ones count from the end.
    axis : int, optional
        Default: index into the flattened tensor.
    """
    x = as_tensor(x)
    x, axis = (flatten(x), 0) if axis is None else (x, axis)
    (axis,) = normalize_axes(axis, x.ndim, "take")
    chosen = as_tensor(indices)
    return getitem(x, (slice(None),) * axis + (chosen,))


@builder("T")
def diagonal(x: ArrayLike, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Variable:
    """Return the diagonal of the matrices in ``axis1`` and ``axis2``, as the last axis.

    Parameters
    ----------
    x : tensor of at least 2 axes
    offset : int
        Above (positive) or below (negative) the main diagonal.
    axis1, axis2 : int
    """
    x = FUNCTIONS["moveaxis"](x, (axis1, axis2), (-2, -1))
    x = getitem(x, (Ellipsis, slice(max(-offset, 0), None), slice(max(offset, 0), None)))
    rows, columns = sizes_of(x)[-2:]
    position = FUNCTIONS["arange"](FUNCTIONS["minimum"](rows, columns))
    return getitem(x, (Ellipsis, position, position))


@builder("T")
def trace(x: ArrayLike) -> Variable:
    """Return the sum of the main diagonal of a matrix.

    Parameters
    ----------
    x : matrix
    """
    return FUNCTIONS["sum"](diagonal(x), axis=-1)


def slice_axis(x: Variable, axis: int, start: Variable, length: Variable) -> Variable:
    """Return ``length`` elements from ``start`` on, along one axis; both are int64 scalars."""
    stop = FUNCTIONS["add"](start, length)
    return getitem(x, (slice(None),) * axis + (slice(start, stop),))
