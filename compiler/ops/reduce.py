"""Reductions: sums, products, extrema over axes, and the statistics built from them.

The rows take ``axes``, sorted and non-negative; the reduced axes disappear, and ``keepdims`` puts
them back with length 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ...runtime.artifact import DtypeError, ShapeError
from .. import dtypes
from ..dims import proves_nonnegative
from ..graph import SizeGuard, TensorType, Variable, describe
from ..operators import FUNCTIONS
from .op import (
    ArrayLike, Custom, Expand, Inferred, NoDerivative, ReduceLowering, Sample, Transpose,
    as_dtype, as_tensor, check, normalize_axes)
from .public import builder, row
from .shape import NEW, broadcast_to, dimshuffle, flatten
from .sizes import at_least, axis_size, product, sizes_of

Axes: TypeAlias = tuple[int, ...]
AxisLike: TypeAlias = int | Sequence[int] | None

# -- one axis or several ---------------------------------------------------------------------------


def restore_axes(reduced: Variable, axes: Sequence[int], rank: int) -> Variable:
    """Put back the axes a reduction removed, with length 1."""
    kept = iter(range(reduced.ndim))
    return dimshuffle(reduced, [NEW if axis in axes else next(kept) for axis in range(rank)])


def _spread(reduced: Variable, x: Variable, axes: Axes) -> Variable:
    """Broadcast a reduction's result back to the shape of what was reduced."""
    return broadcast_to(restore_axes(reduced, axes, x.ndim), sizes_of(x))


def _apply(op: Callable[..., Variable], x: Variable, axis: AxisLike, keepdims: bool) -> Variable:
    """Reduce with a row."""
    axes = normalize_axes(axis, x.ndim, op.name)
    if not axes:
        return x
    result = op(x, axes=axes)
    return restore_axes(result, axes, x.ndim) if keepdims else result


def _infer(x: Variable, axes: Axes) -> Inferred:
    dims = tuple(dim for axis, dim in enumerate(x.type.dims) if axis not in axes)
    return [TensorType(x.dtype, dims)], []


def _infer_nonempty(x: Variable, axes: Axes) -> Inferred:
    guards: list[SizeGuard] = []
    what = "A maximum or minimum over an axis of length 0 does not exist."
    for axis in axes:
        dim = x.type.dims[axis]
        check(not isinstance(dim, int) or dim > 0, ShapeError, what,
              f"{describe(x)} {x.type}, axis {axis}",
              "leave empty tensors out, or join a neutral element first")
        if not (isinstance(dim, int) or proves_nonnegative(dim - 1)):
            guards += at_least(x, axis, 1, f"{what[:-1]}: axis {axis} of {describe(x)}.")
    return _infer(x, axes)[0], guards


# -- sum and prod ----------------------------------------------------------------------------------


def _accumulated(x: ArrayLike, dtype: str | None) -> Variable:
    x = as_tensor(x)
    return FUNCTIONS["cast"](x, dtype or dtypes.accumulator_of(x.dtype))


def sum(x: ArrayLike, axis: AxisLike = None, dtype: str | None = None,
        keepdims: bool = False) -> Variable:
    """Add up elements over axes; an empty sum is 0.

    Parameters
    ----------
    x : tensor
    axis : int or sequence of int, optional
        Default: all.
    dtype : str, optional
        Of the result, in which the sum is taken.  Default: bool and integers give 64-bit integers,
        as in NumPy; floats stay.
    keepdims : bool
        Keep the axes, with length 1.

    Notes
    -----
    The order of addition is fixed for given sizes; it is not NumPy's.
    """
    return _apply(_SUM, _accumulated(x, dtype), axis, keepdims)


_REDUCED = (((3, 4), 1), ((2, 3, 4), None), ((2, 3, 4), (0, 2)), ((0, 3), 0), ((3, 0), 0),
            ((), None))


def _samples(reference: Callable[..., Any], cases: Sequence[tuple[Any, AxisLike]] = _REDUCED,
             kinds: Sequence[str] = ("float64", "float32", "int32", "uint8", "bool"),
             differentiable: bool = True) -> tuple[Sample, ...]:
    """Return samples over shapes and axes, and over dtypes for the first of them."""
    def sample(shape: tuple[int, ...], axis: AxisLike, kinds: Sequence[str], keep: bool) -> Sample:
        return Sample((shape,), tuple((kind,) for kind in kinds),
                      lambda f, x: f(x, axis=axis, keepdims=keep),
                      lambda x: reference(x, axis=axis, keepdims=keep),
                      differentiable=differentiable)
    first, *others = cases
    return (sample(*first, kinds, True), sample(*first, kinds[:1], False),
            *(sample(shape, axis, kinds[:1], False) for shape, axis in others))


_SUM = row(
    sum, kind="linear", infer=_infer,
    reference=lambda x, axes: np.sum(x, axis=axes, dtype=x.dtype),
    derivative=Transpose({0: lambda g, x, axes: _spread(g, x, axes)}),
    lower=ReduceLowering("add", lambda dtype: 0), section="Reductions", samples=_samples(np.sum))


def prod(x: ArrayLike, axis: AxisLike = None, dtype: str | None = None,
         keepdims: bool = False) -> Variable:
    """Multiply elements over axes; an empty product is 1.

    Parameters
    ----------
    x : tensor
    axis : int or sequence of int, optional
        Default: all.
    dtype : str, optional
        Of the result.  Default: bool and integers give 64-bit integers; floats stay.
    keepdims : bool
        Keep the axes, with length 1.

    Notes
    -----
    First and second derivatives are right also where elements are zero.
    """
    x = as_tensor(x)
    if x.owner is not None and x.owner.op.name == "stack" and x.ndim == 1 and x.dtype == "int64" \
            and dtype in (None, "int64") and axis in (None, 0, -1):
        result = product(x.owner.inputs)
        return restore_axes(result, (0,), 1) if keepdims else result
    return _apply(_PROD, _accumulated(x, dtype), axis, keepdims)


def _product_of_others(x: Variable, y: Variable, axes: Axes) -> Variable:
    """For each element, the product of the others it is multiplied with.

    Where ``x`` is not 0 it is ``y / x``.  Where it is 0: the product of the non-zero elements if it
    is the only zero; if there is another zero, that one times this product, so that the derivative
    with respect to the other zero is right; else 0.
    """
    F = FUNCTIONS
    is_zero = F["eq"](x, 0)
    nonzero = F["switch"](is_zero, 1, x)
    rest = _spread(_PROD(nonzero, axes=axes), x, axes)
    zeros = F["switch"](is_zero, x, 0)
    other_zeros = F["sub"](_spread(_SUM(zeros, axes=axes), x, axes), zeros)
    count = _spread(_SUM(F["cast"](is_zero, "int64"), axes=axes), x, axes)
    of_zeros = F["switch"](F["eq"](count, 1), 1, F["switch"](F["eq"](count, 2), other_zeros, 0))
    return F["switch"](is_zero, F["mul"](rest, F["cast"](of_zeros, x.dtype)),
                       F["true_div"](_spread(y, x, axes), nonzero))


def _vjp_prod(cotangents, inputs, outputs, axes: Axes) -> list[Variable]:
    (g,), (x,), (y,) = cotangents, inputs, outputs
    return [FUNCTIONS["mul"](_spread(g, x, axes), _product_of_others(x, y, axes))]


def _jvp_prod(tangents, inputs, outputs, axes: Axes) -> list[Variable | None]:
    (t,), (x,), (y,) = tangents, inputs, outputs
    if t is None:
        return [None]
    return [_SUM(FUNCTIONS["mul"](t, _product_of_others(x, y, axes)), axes=axes)]


_PROD = row(
    prod, kind="structured", infer=_infer,
    reference=lambda x, axes: np.prod(x, axis=axes, dtype=x.dtype),
    derivative=Custom(_vjp_prod, _jvp_prod), lower=ReduceLowering("mul", lambda dtype: 1),
    section="Reductions", samples=_samples(np.prod))

# -- extrema ---------------------------------------------------------------------------------------


def _extremum(op: Callable[..., Variable], x: ArrayLike, axis: AxisLike, keepdims: bool
              ) -> Variable:
    x = as_tensor(x)
    if x.dtype == dtypes.BOOL:
        return FUNCTIONS["cast"](_apply(op, FUNCTIONS["cast"](x, "uint8"), axis, keepdims), x.dtype)
    return _apply(op, x, axis, keepdims)


def max(x: ArrayLike, axis: AxisLike = None, keepdims: bool = False) -> Variable:
    """Return the largest element over axes; NaN if any element is NaN.

    Parameters
    ----------
    x : tensor
    axis : int or sequence of int, optional
        Default: all.
    keepdims : bool
        Keep the axes, with length 1.

    Raises
    ------
    ShapeError
        If a reduced axis has length 0.

    Notes
    -----
    Where several elements are largest the gradient is divided equally among them.
    """
    return _extremum(_MAX, x, axis, keepdims)


def min(x: ArrayLike, axis: AxisLike = None, keepdims: bool = False) -> Variable:
    """Return the smallest element over axes; NaN if any element is NaN.

    Parameters
    ----------
    x : tensor
    axis : int or sequence of int, optional
        Default: all.
    keepdims : bool
        Keep the axes, with length 1.

    Raises
    ------
    ShapeError
        If a reduced axis has length 0.

    Notes
    -----
    Where several elements are smallest the gradient is divided equally among them.
    """
    return _extremum(_MIN, x, axis, keepdims)


def _chosen(x: Variable, y: Variable, axes: Axes) -> tuple[Variable, Variable]:
    """Return where the extremum is attained, and how often (at least 1)."""
    mask = FUNCTIONS["eq"](x, restore_axes(y, axes, x.ndim))
    count = _SUM(FUNCTIONS["cast"](mask, x.dtype), axes=axes)
    return mask, FUNCTIONS["maximum"](count, 1)


def _vjp_extremum(cotangents, inputs, outputs, axes: Axes) -> list[Variable]:
    (g,), (x,), (y,) = cotangents, inputs, outputs
    mask, count = _chosen(x, y, axes)
    share = restore_axes(FUNCTIONS["true_div"](g, count), axes, x.ndim)
    return [FUNCTIONS["switch"](mask, share, 0)]


def _jvp_extremum(tangents, inputs, outputs, axes: Axes) -> list[Variable | None]:
    (t,), (x,), (y,) = tangents, inputs, outputs
    if t is None:
        return [None]
    mask, count = _chosen(x, y, axes)
    return [FUNCTIONS["true_div"](_SUM(FUNCTIONS["switch"](mask, t, 0), axes=axes), count)]


def _smallest(dtype: str) -> int | float:
    return -math.inf if dtypes.is_float(dtype) else int(np.iinfo(dtype).min)


def _largest(dtype: str) -> int | float:
    return math.inf if dtypes.is_float(dtype) else int(np.iinfo(dtype).max)


_NONEMPTY = (((3, 4), 1), ((2, 3, 4), None), ((2, 3, 4), (0, 2)), ((0, 3), 1), ((), None))

_MAX = row(
    max, kind="structured", infer=_infer_nonempty, reference=lambda x, axes: np.max(x, axis=axes),
    derivative=Custom(_vjp_extremum, _jvp_extremum), lower=ReduceLowering("maximum", _smallest),
    section="Reductions", samples=_samples(np.max, _NONEMPTY))
_MIN = row(
    min, kind="structured", infer=_infer_nonempty, reference=lambda x, axes: np.min(x, axis=axes),
    derivative=Custom(_vjp_extremum, _jvp_extremum), lower=ReduceLowering("minimum", _largest),
    section="Reductions", samples=_samples(np.min, _NONEMPTY))

# -- logic -----------------------------------------------------------------------------------------


def _as_bool(x: ArrayLike) -> Variable:
    x = as_tensor(x)
    return x if x.dtype == "bool" else FUNCTIONS["neq"](x, 0)


def all(x: ArrayLike, axis: AxisLike = None, keepdims: bool = False) -> Variable:
    """Return whether all elements are true (non-zero) over axes; an empty ``all`` is true.

    Parameters
    ----------
    x : tensor
    axis : int or sequence of int, optional
        Default: all.
    keepdims : bool
        Keep the axes, with length 1.
    """
    return _apply(_ALL, _as_bool(x), axis, keepdims)


def any(x: ArrayLike, axis: AxisLike = None, keepdims: bool = False) -> Variable:
    """Return whether any element is true (non-zero) over axes; an empty ``any`` is false.

    Parameters
    ----------
    x : tensor
    axis : int or sequence of int, optional
        Default: all.
    keepdims : bool
        Keep the axes, with length 1.
    """
    return _apply(_ANY, _as_bool(x), axis, keepdims)


_DISCRETE = NoDerivative("the result is discrete")
_ALL = row(
    all, kind="structured", infer=_infer, reference=lambda x, axes: np.all(x, axis=axes),
    derivative=_DISCRETE, lower=ReduceLowering("and", lambda dtype: True), section="Reductions",
    samples=_samples(np.all, kinds=("bool", "float64", "int32"), differentiable=False))
_ANY = row(
    any, kind="structured", infer=_infer, reference=lambda x, axes: np.any(x, axis=axes),
    derivative=_DISCRETE, lower=ReduceLowering("or", lambda dtype: False), section="Reductions",
    samples=_samples(np.any, kinds=("bool", "float64", "int32"), differentiable=False))

# -- where the extrema are -------------------------------------------------------------------------


def _arg(op: Callable[..., Variable], x: ArrayLike, axis: int | None, keepdims: bool) -> Variable:
    x = as_tensor(x)
    x = FUNCTIONS["cast"](x, "uint8") if x.dtype == "bool" else x
    rank = x.ndim
    if axis is None:
        result = op(flatten(x), axis=0)
        return restore_axes(result, range(rank), rank) if keepdims else result
    (axis,) = normalize_axes(axis, rank, op.name)
    result = op(x, axis=axis)
    return restore_axes(result, (axis,), rank) if keepdims else result


def argmax(x: ArrayLike, axis: int | None = None, keepdims: bool = False) -> Variable:
    """Return the index of the first largest element (of the first NaN, if there is one).

    Parameters
    ----------
    x : tensor
    axis : int, optional
        Default: index into the flattened tensor.
    keepdims : bool
        Keep the axis, with length 1.

    Returns
    -------
    index : int64

    Raises
    ------
    ShapeError
        If the axis has length 0.
    """
    return _arg(_ARGMAX, x, axis, keepdims)


def argmin(x: ArrayLike, axis: int | None = None, keepdims: bool = False) -> Variable:
    """Return the index of the first smallest element (of the first NaN, if there is one).

    Parameters
    ----------
    x : tensor
    axis : int, optional
        Default: index into the flattened tensor.
    keepdims : bool
        Keep the axis, with length 1.

    Returns
    -------
    index : int64

    Raises
    ------
    ShapeError
        If the axis has length 0.
    """
    return _arg(_ARGMIN, x, axis, keepdims)


def _infer_arg(x: Variable, axis: int) -> Inferred:
    (result,), guards = _infer_nonempty(x, (axis,))
    return [TensorType("int64", result.dims)], guards


def _expand_arg(extremum: Callable[..., Variable], x: Variable, axis: int) -> Variable:
    """Return the smallest index at which the extremum (or a NaN) stands."""
    F = FUNCTIONS
    found = F["eq"](x, extremum(x, axis=axis, keepdims=True))
    if dtypes.is_float(x.dtype):
        found = F["or_"](found, F["isnan"](x))
    length = axis_size(x, axis)
    position = dimshuffle(
        F["arange"](length), [0 if a == axis else NEW for a in range(x.ndim)])
    return min(F["switch"](found, position, length), axis=axis)


_ARG_CASES = (((3, 4), 1), ((2, 3), None), ((2, 3, 4), 0), ((0, 3), 1))
_ARGMAX = row(
    argmax, kind="composite", infer=_infer_arg, reference=lambda x, axis: np.argmax(x, axis=axis),
    derivative=_DISCRETE, lower=Expand(lambda x, axis: _expand_arg(max, x, axis)),
    section="Reductions", samples=_samples(np.argmax, _ARG_CASES, differentiable=False))
_ARGMIN = row(
    argmin, kind="composite", infer=_infer_arg, reference=lambda x, axis: np.argmin(x, axis=axis),
    derivative=_DISCRETE, lower=Expand(lambda x, axis: _expand_arg(min, x, axis)),
    section="Reductions", samples=_samples(np.argmin, _ARG_CASES, differentiable=False))

# -- statistics ------------------------------------------------------------------------------------


def _count(x: Variable, axis: AxisLike) -> Variable:
    axes = normalize_axes(axis, x.ndim, "mean")
    return FUNCTIONS["cast"](product([axis_size(x, a) for a in axes]), x.dtype)


def _float_dtype(x: Variable) -> str:
    """Return the dtype of statistics of ``x``: integers of any width become float64."""
    return x.dtype if dtypes.is_float(x.dtype) else "float64"


@builder("T")
def mean(x: ArrayLike, axis: AxisLike = None, dtype: str | None = None,
         keepdims: bool = False) -> Variable:
    """Return the arithmetic mean, ``sum(x) / n``; NaN over no elements.

    Parameters
    ----------
    x : tensor
    axis : int or sequence of int, optional
        Default: all.
    dtype : str, optional
        Float dtype of the result.  Default: that of ``x``; float64 for bool and integers, as in
        NumPy.
    keepdims : bool
        Keep the axes, with length 1.
    """
    x = as_tensor(x)
    dtype = _float_dtype(x) if dtype is None else as_dtype(dtype)
    check(dtypes.is_float(dtype), DtypeError,
          f"mean: the result cannot be {dtype}.", remedy="ask for float32 or float64, then cast")
    x = FUNCTIONS["cast"](FUNCTIONS["cast"](x, dtype), dtypes.computed(dtype))
    result = FUNCTIONS["true_div"](sum(x, axis, keepdims=keepdims), _count(x, axis))
    return FUNCTIONS["cast"](result, dtype)


@builder("T")
def var(x: ArrayLike, axis: AxisLike = None, ddof: int = 0, keepdims: bool = False) -> Variable:
    """Return the variance, ``sum((x - mean(x))**2) / (n - ddof)``.

    Parameters
    ----------
    x : tensor
    axis : int or sequence of int, optional
        Default: all.
    ddof : int
        0 for the mean square (default), 1 for the unbiased estimate.
    keepdims : bool
        Keep the axes, with length 1.
    """
    x = as_tensor(x)
    dtype = _float_dtype(x)
    x = FUNCTIONS["cast"](x, dtypes.computed(dtype))
    deviation = FUNCTIONS["sub"](x, mean(x, axis, keepdims=True))
    total = sum(FUNCTIONS["sqr"](deviation), axis, keepdims=keepdims)
    count = _count(x, axis)
    result = FUNCTIONS["true_div"](total, FUNCTIONS["sub"](count, ddof) if ddof else count)
    return FUNCTIONS["cast"](result, dtype)


@builder("T")
def std(x: ArrayLike, axis: AxisLike = None, ddof: int = 0, keepdims: bool = False) -> Variable:
    """Return the standard deviation, the square root of :func:`var`.

    Parameters
    ----------
    x : tensor
    axis : int or sequence of int, optional
        Default: all.
    ddof : int
        See :func:`var`.
    keepdims : bool
        Keep the axes, with length 1.
    """
    return FUNCTIONS["sqrt"](var(x, axis, ddof, keepdims))


@builder("T")
def ptp(x: ArrayLike, axis: AxisLike = None) -> Variable:
    """Return the range, ``max(x) - min(x)``.

    Parameters
    ----------
    x : tensor
    axis : int or sequence of int, optional
        Default: all.
    """
    return FUNCTIONS["sub"](max(x, axis), min(x, axis))
