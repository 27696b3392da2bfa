"""Shapes: rearranging axes, reshaping, broadcasting; no element changes its value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...runtime.artifact import ShapeError
from ..config import config
from ..dims import DimLike, prod, proves_different, proves_equal
from ..graph import Apply, Constant, SizeGuard, TensorType, Variable, describe, dim_of
from ..operators import FUNCTIONS
from .op import (
    ArrayLike, IndexLowering, Inferred, Sample, Transpose, ViewLowering, as_tensor, check,
    normalize_axes, shape_mismatch)
from .public import builder, row
from .sizes import WHOLE, as_sizes, product, size_guards, sizes_of

NEW = "x"
"""The entry of a dimshuffle pattern that makes a new axis of length 1."""

# -- dimshuffle ------------------------------------------------------------------------------------


def dimshuffle(x: ArrayLike, pattern: Sequence[int | str]) -> Variable:
    """Rearrange, add and drop axes, as a view.

    Parameters
    ----------
    x : tensor
    pattern : sequence of int or 'x'
        For each axis of the result, the axis of ``x`` it is, or ``'x'`` for a new one of length 1.
        Axes that are left out must be known to have length 1.

    Raises
    ------
    ShapeError
        If an axis is out of range, repeated, or dropped though its length is not known to be 1.

    Examples
    --------
    >>> import numpy as np
    >>> dimshuffle(np.ones((2, 3)), (1, 'x', 0)).type.shape
    (3, 1, 2)
    """
    x = as_tensor(x)
    checked = []
    for entry in pattern:
        if entry == NEW:
            checked.append(NEW)
            continue
        axis = int(entry)
        if not -x.ndim <= axis < x.ndim:
            check(False, ShapeError,
                  f"dimshuffle: axis {axis} does not exist.", f"{describe(x)} {x.type}",
                  "use axes of the tensor and 'x'")
        checked.append(axis % x.ndim)
    return _DIMSHUFFLE(x, pattern=tuple(checked))


def _infer_dimshuffle(x: Variable, pattern: tuple[int | str, ...]) -> Inferred:
    kept = [axis for axis in pattern if axis != NEW]
    if len(set(kept)) != len(kept):
        check(False, ShapeError,
              f"dimshuffle: the pattern {pattern} repeats an axis.", f"{describe(x)} {x.type}",
              "name every axis at most once")
    for axis, dim in enumerate(x.type.dims):
        if axis not in kept and dim != 1:
            check(False, ShapeError,
                  f"dimshuffle: axis {axis} is dropped but is not known to have length 1.",
                  f"{describe(x)} {x.type}, pattern {pattern}",
                  "index it (x[0]), reduce it, or declare it with addbroadcast")
    return [TensorType(x.dtype, tuple(
        1 if axis == NEW else x.type.dims[axis] for axis in pattern))], []


def _reference_dimshuffle(x: np.ndarray, pattern: tuple[int | str, ...]) -> np.ndarray:
    kept = [axis for axis in pattern if axis != NEW]
    dropped = [axis for axis in range(x.ndim) if axis not in kept]
    moved = np.transpose(x, kept + dropped)
    return moved.reshape([1 if axis == NEW else x.shape[axis] for axis in pattern])


def _inverse(pattern: tuple[int | str, ...], rank: int) -> tuple[int | str, ...]:
    return tuple(pattern.index(axis) if axis in pattern else NEW for axis in range(rank))


def _lower_dimshuffle(context: Any, index: tuple[DimLike, ...], node: Apply) -> Any:
    inverse = _inverse(node.params["pattern"], node.inputs[0].ndim)
    return context.read(0, tuple(0 if axis == NEW else index[axis] for axis in inverse))


_DIMSHUFFLE = row(
    dimshuffle, kind="linear", infer=_infer_dimshuffle, reference=_reference_dimshuffle,
    derivative=Transpose({0: lambda g, x, pattern: dimshuffle(g, _inverse(pattern, x.ndim))}),
    lower=IndexLowering(_lower_dimshuffle, is_view=True), section="Shapes",
    samples=(Sample(((2, 3),), (("float64",), ("int8",), ("bool",)),
                    lambda f, x: f(x, (1, "x", 0)), lambda x: x.T[:, None]),
             Sample(((),), call=lambda f, x: f(x, ("x", "x")), reference=lambda x: x[None, None]),
             Sample(((3, 0, 2),), call=lambda f, x: f(x, (2, 0, 1)),
                    reference=lambda x: x.transpose(2, 0, 1))))


@builder("T")
def transpose(x: ArrayLike, axes: Sequence[int] | None = None) -> Variable:
    """Permute the axes: reversed by default, else ``result.axes[k] = axes[k]``.

    Parameters
    ----------
    x : tensor
    axes : sequence of int, optional
    """
    x = as_tensor(x)
    order = tuple(range(x.ndim))[::-1] if axes is None else tuple(axes)
    check(len(order) == x.ndim, ShapeError, "transpose: the axes do not match the tensor.",
          f"{describe(x)} {x.type}, axes {order}", f"name all {x.ndim} axes")
    return dimshuffle(x, order)


@builder("T")
def swapaxes(x: ArrayLike, axis1: int, axis2: int) -> Variable:
    """Exchange two axes.

    Parameters
    ----------
    x : tensor
    axis1, axis2 : int
    """
    x = as_tensor(x)
    (first,), (second,) = (normalize_axes(a, x.ndim, "swapaxes") for a in (axis1, axis2))
    order = list(range(x.ndim))
    order[first], order[second] = second, first
    return dimshuffle(x, order)


@builder("T")
def moveaxis(x: ArrayLike, source: int | Sequence[int], destination: int | Sequence[int]
             ) -> Variable:
    """Move axes to other positions, keeping the order of the rest.

    Parameters
    ----------
    x : tensor
    source, destination : int or sequence of int
    """
    x = as_tensor(x)
    sources, targets = ([int(a) for a in np.atleast_1d(axes)] for axes in (source, destination))
    check(len(sources) == len(targets), ShapeError,
          "moveaxis: source and destination differ in length.", f"{source}, {destination}",
          "give as many destinations as sources")
    normalize_axes(sources, x.ndim, "moveaxis"), normalize_axes(targets, x.ndim, "moveaxis")
    sources, targets = ([a % x.ndim for a in axes] for axes in (sources, targets))
    order = [axis for axis in range(x.ndim) if axis not in sources]
    for target, axis in sorted(zip(targets, sources)):
        order.insert(target, axis)
    return dimshuffle(x, order)


@builder("T")
def expand_dims(x: ArrayLike, axis: int | Sequence[int]) -> Variable:
    """Insert axes of length 1 so that they stand at the positions ``axis`` of the result.

    Parameters
    ----------
    x : tensor
    axis : int or sequence of int
    """
    x = as_tensor(x)
    count = 1 if isinstance(axis, (int, np.integer)) else len(tuple(axis))
    new = normalize_axes(axis, x.ndim + count, "expand_dims")
    old = iter(range(x.ndim))
    return dimshuffle(x, [NEW if a in new else next(old) for a in range(x.ndim + count)])


@builder("T")
def squeeze(x: ArrayLike, axis: int | Sequence[int] | None = None) -> Variable:
    """Drop axes known to have length 1: all of them, or those named.

    Parameters
    ----------
    x : tensor
    axis : int or sequence of int, optional

    Raises
    ------
    ShapeError
        If a named axis is not known to have length 1.
    """
    x = as_tensor(x)
    drop = [a for a, known in enumerate(x.broadcastable) if known] if axis is None \
        else normalize_axes(axis, x.ndim, "squeeze")
    return dimshuffle(x, [a for a in range(x.ndim) if a not in drop])


@builder("T")
def shape_padleft(x: ArrayLike, n_ones: int = 1) -> Variable:
    """Insert ``n_ones`` axes of length 1 in front.

    Parameters
    ----------
    x : tensor
    n_ones : int
    """
    x = as_tensor(x)
    return dimshuffle(x, [NEW] * n_ones + list(range(x.ndim)))


@builder("T")
def shape_padright(x: ArrayLike, n_ones: int = 1) -> Variable:
    """Append ``n_ones`` axes of length 1.

    Parameters
    ----------
    x : tensor
    n_ones : int
    """
    x = as_tensor(x)
    return dimshuffle(x, list(range(x.ndim)) + [NEW] * n_ones)


@builder("T")
def shape_padaxis(x: ArrayLike, axis: int) -> Variable:
    """Insert one axis of length 1 at position ``axis`` of the result.

    Parameters
    ----------
    x : tensor
    axis : int
    """
    return expand_dims(x, axis)


# -- reshape ---------------------------------------------------------------------------------------


def reshape(x: ArrayLike, shape: Any, ndim: int | None = None) -> Variable:
    """Give the elements another shape, in row-major order, without copying.

    Parameters
    ----------
    x : tensor
    shape : int, sequence of int or integer scalars, or integer vector
        One entry may be -1: the size that keeps the number of elements.
    ndim : int, optional
        The number of axes, needed when ``shape`` is a vector of unknown length.

    Raises
    ------
    ShapeError
        If the numbers of elements differ (at the call, when sizes are not known before), or more
        than one entry is -1.

    Examples
    --------
    >>> import numpy as np
    >>> reshape(np.ones((2, 6)), (3, -1)).type.shape
    (3, 4)
    """
    x = as_tensor(x)
    sizes = as_sizes(shape, "reshape", ndim)
    check(ndim is None or ndim == len(sizes), ShapeError,
          f"reshape: ndim is {ndim} but the shape has {len(sizes)} entries.",
          remedy="leave ndim out")
    free = [axis for axis, entry in enumerate(sizes)
            if isinstance(entry, Constant) and entry.data == -1]
    check(len(free) <= 1, ShapeError, "reshape: only one size can be -1.", remedy="give the others")
    if free:
        sizes[free[0]] = _remaining(x, sizes[:free[0]] + sizes[free[0] + 1:])
    return _RESHAPE(x, *sizes)


def _remaining(x: Variable, others: Sequence[Variable]) -> Variable:
    """Return the size that is left for one axis of ``x`` reshaped, given the others.

    Sizes that are equal cancel, so that what remains is right even where they are 0.
    """
    left, right = sizes_of(x), []
    for other in others:
        equal = next((k for k, own in enumerate(left)
                      if proves_equal(dim_of(own), dim_of(other))), None)
        if equal is None:
            right.append(other)
        else:
            del left[equal]
    total, divisor = product(left), product(right)
    sizes = dim_of(total), dim_of(divisor)
    if all(isinstance(entry, int) for entry in sizes):
        return Constant(np.int64(sizes[0] // sizes[1] if sizes[1] > 0 else 0))
    return FUNCTIONS["floordiv"](total, divisor) if right else total


def _infer_reshape(x: Variable, *sizes: Variable) -> Inferred:
    dims = [dim_of(entry) for entry in sizes]
    guards = size_guards(sizes, dims, "reshape")
    before, after = prod(x.type.dims), prod(dims)
    if not proves_equal(before, after):
        what = "reshape: the number of elements must stay the same."
        values = f"{describe(x)} {x.type} to ({', '.join(map(str, dims))})"
        check(not proves_different(before, after), ShapeError, what, values,
              "use -1 for the size that follows from the others")
        guards.append(SizeGuard(before, after, (x, WHOLE), (sizes[0] if sizes else x, WHOLE),
                                f"{what[:-1]}: {values}."))
    return [TensorType(x.dtype, tuple(dims))], guards


_RESHAPE = row(
    reshape, kind="linear", infer=_infer_reshape,
    reference=lambda x, *sizes: x.reshape([int(entry) for entry in sizes]),
    derivative=Transpose({0: lambda g, x, *sizes: reshape(g, sizes_of(x))}),
    lower=ViewLowering(), section="Shapes",
    samples=(Sample(((2, 6),), (("float64",), ("int32",), ("bool",)),
                    lambda f, x: f(x, (3, -1)), lambda x: x.reshape(3, 4)),
             Sample(((2, 3, 4),), call=lambda f, x: f(x, (x.shape[0], x.shape[1] * x.shape[2])),
                    reference=lambda x: x.reshape(2, 12)),
             Sample(((0, 4),), call=lambda f, x: f(x, (x.shape[0], 2, -1)),
                    reference=lambda x: x.reshape(0, 2, 2)),
             Sample(((1, 1),), call=lambda f, x: f(x, ()), reference=lambda x: x.reshape(()))))


@builder("T", "ravel")
def flatten(x: ArrayLike, ndim: int = 1, outdim: int | None = None) -> Variable:
    """Merge the trailing axes so that ``ndim`` remain.

    Parameters
    ----------
    x : tensor
    ndim : int
        Number of axes of the result; the leading ``ndim - 1`` keep their sizes.
    outdim : int, optional
        Theano's older name for ``ndim``.
    """
    x = as_tensor(x)
    rank = ndim if outdim is None else outdim
    check(1 <= rank <= max(x.ndim, 1), ShapeError,
          f"flatten: a tensor of {x.ndim} axes cannot be flattened to {rank}.",
          remedy="ndim goes from 1 to the number of axes")
    sizes = sizes_of(x)
    return x if x.ndim == rank else reshape(x, sizes[:rank - 1] + [product(sizes[rank - 1:])])


# -- broadcasting ----------------------------------------------------------------------------------


def broadcast_to(x: ArrayLike, shape: Any, ndim: int | None = None) -> Variable:
    """Repeat ``x`` along new axes and axes of length 1 until it has ``shape``, as a view.

    Parameters
    ----------
    x : tensor
    shape : int, sequence of int or integer scalars, or integer vector
    ndim : int, optional
        The length of ``shape`` when it is a vector of unknown length.

    Raises
    ------
    ShapeError
        If an axis not known to have length 1 has another size than ``shape`` says.
    """
    x = as_tensor(x)
    return _BROADCAST_TO(x, *as_sizes(shape, "broadcast_to", ndim))


def _infer_broadcast_to(x: Variable, *sizes: Variable) -> Inferred:
    dims = [dim_of(entry) for entry in sizes]
    guards = size_guards(sizes, dims, "broadcast_to")
    lead = len(dims) - x.ndim
    if lead < 0:
        check(False, ShapeError, "broadcast_to: the shape has fewer axes than the tensor.",
              f"{describe(x)} {x.type} to ({', '.join(map(str, dims))})",
              "give a size for every axis")
    for axis, own in enumerate(x.type.dims):
        wanted = dims[lead + axis]
        if own == 1 or proves_equal(own, wanted):
            continue
        if proves_different(own, wanted):
            raise shape_mismatch("broadcast_to", (own, x, axis), (wanted, sizes[lead + axis], 0))
        guards.append(SizeGuard(own, wanted, (x, axis), (sizes[lead + axis], WHOLE)))
        if isinstance(own, int):
            dims[lead + axis] = own
    return [TensorType(x.dtype, tuple(dims))], guards


def _lower_broadcast_to(context: Any, index: tuple[DimLike, ...], node: Apply) -> Any:
    dims = node.inputs[0].type.dims
    own = index[len(index) - len(dims):]
    return context.read(0, tuple(0 if dim == 1 else i for dim, i in zip(dims, own)))


def sum_to(g: Variable, x: Variable) -> Variable:
    """Sum ``g`` over the axes that broadcasting ``x`` to its shape repeated."""
    lead = g.ndim - x.ndim
    ones = [lead + axis for axis, dim in enumerate(x.type.dims)
            if dim == 1 and g.type.dims[lead + axis] != 1]
    axes = [*range(lead), *ones]
    if not axes:
        return g
    total = FUNCTIONS["sum"](g, axis=axes)
    kept = iter(range(total.ndim))
    return dimshuffle(total, [NEW if axis in ones else next(kept) for axis in range(lead, g.ndim)])


_BROADCAST_TO = row(
    broadcast_to, kind="linear", infer=_infer_broadcast_to,
    reference=lambda x, *sizes: np.broadcast_to(x, [int(s) for s in sizes]).copy(),
    derivative=Transpose({0: lambda g, x, *sizes: sum_to(g, x)}),
    lower=IndexLowering(_lower_broadcast_to, is_view=True), section="Shapes",
    samples=(Sample(((3,),), (("float64",), ("int16",)), lambda f, x: f(x, (2, 3)),
                    lambda x: np.broadcast_to(x, (2, 3))),
             Sample(((),), call=lambda f, x: f(x, (2, 0)), reference=lambda x: np.zeros((2, 0))),
             Sample(((2,),), call=lambda f, x: f(dimshuffle(x, (0, "x")), (4, x.shape[0], 3)),
                    reference=lambda x: np.broadcast_to(x[:, None], (4, 2, 3)))))


@builder("T")
def alloc(value: ArrayLike, *shape: Any) -> Variable:
    """Return a tensor of the given sizes filled with (broadcast) ``value``.

    Parameters
    ----------
    value : tensor
    *shape : int or integer scalar
    """
    sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) \
        and getattr(shape[0], "ndim", 1) else shape
    return broadcast_to(value, sizes)


@builder("T")
def full(shape: Any, fill_value: ArrayLike, dtype: str | None = None) -> Variable:
    """Return a tensor filled with a value.

    Parameters
    ----------
    shape : int, sequence of sizes, or integer vector
    fill_value : tensor
    dtype : str, optional
        Default: that of the value.
    """
    return broadcast_to(as_tensor(fill_value, dtype), shape)


@builder("T")
def zeros(shape: Any, dtype: str | None = None) -> Variable:
    """Return zeros.

    Parameters
    ----------
    shape : int, sequence of sizes, or integer vector
    dtype : str, optional
        Default: ``floatX``.
    """
    return full(shape, 0, dtype or config.floatX)


@builder("T")
def ones(shape: Any, dtype: str | None = None) -> Variable:
    """Return ones.

    Parameters
    ----------
    shape : int, sequence of sizes, or integer vector
    dtype : str, optional
        Default: ``floatX``.
    """
    return full(shape, 1, dtype or config.floatX)


@builder("T")
def full_like(x: ArrayLike, fill_value: ArrayLike, dtype: str | None = None) -> Variable:
    """Return a tensor of ``x``'s shape filled with a value.

    Parameters
    ----------
    x : tensor
        Its value is not needed.
    fill_value : tensor
    dtype : str, optional
        Default: ``x``'s.
    """
    x = as_tensor(x)
    return broadcast_to(as_tensor(fill_value, dtype or x.dtype), sizes_of(x))


@builder("T")
def zeros_like(x: ArrayLike, dtype: str | None = None) -> Variable:
    """Return zeros of ``x``'s shape (and dtype, unless given).

    Parameters
    ----------
    x : tensor
    dtype : str, optional
    """
    return full_like(x, 0, dtype)


@builder("T")
def ones_like(x: ArrayLike, dtype: str | None = None) -> Variable:
    """Return ones of ``x``'s shape (and dtype, unless given).

    Parameters
    ----------
    x : tensor
    dtype : str, optional
    """
    return full_like(x, 1, dtype)


# -- declaring sizes -------------------------------------------------------------------------------


def specify_shape(x: ArrayLike, shape: Sequence[int | None]) -> Variable:
    """Declare sizes that are not known otherwise; they are checked at every call.

    Parameters
    ----------
    x : tensor
    shape : sequence of (int or None)
        None leaves an axis as it is.
    """
    x = as_tensor(x)
    known = tuple(None if size is None else int(size) for size in shape)
    check(len(known) == x.ndim, ShapeError, "specify_shape: the shape does not fit the tensor.",
          f"{describe(x)} {x.type}, shape {known}", "give one entry an axis, None where unknown")
    return _SPECIFY_SHAPE(x, shape=known)


def _infer_specify_shape(x: Variable, shape: tuple[int | None, ...]) -> Inferred:
    dims, guards = list(x.type.dims), []
    for axis, (own, wanted) in enumerate(zip(x.type.dims, shape)):
        if wanted is None or proves_equal(own, wanted):
            continue
        what = f"specify_shape: axis {axis} is declared to have length {wanted}"
        check(not proves_different(own, wanted), ShapeError, f"{what} but has {own}.",
              f"{describe(x)} {x.type}", "declare its true length")
        guards.append(SizeGuard(wanted, own, (x, axis), (x, axis), f"{what} but has another."))
        dims[axis] = wanted
    return [TensorType(x.dtype, tuple(dims))], guards


_SPECIFY_SHAPE = row(
    specify_shape, kind="linear", infer=_infer_specify_shape, reference=lambda x, shape: x,
    derivative=Transpose({0: lambda g, x, shape: broadcast_to(g, sizes_of(x))}),
    lower=IndexLowering(lambda context, index, node: context.read(0, index), is_view=True),
    section="Shapes",
    samples=(Sample(((2, 3),), call=lambda f, x: f(x, (None, 3)), reference=lambda x: x),))


@builder("T")
def addbroadcast(x: ArrayLike, *axes: int) -> Variable:
    """Declare axes to have length 1, so that they broadcast; checked at every call.

    Parameters
    ----------
    x : tensor
    *axes : int
    """
    x = as_tensor(x)
    ones = normalize_axes(axes, x.ndim, "addbroadcast")
    return specify_shape(x, [1 if axis in ones else None for axis in range(x.ndim)])


@builder("T")
def unbroadcast(x: ArrayLike, *axes: int) -> Variable:
    """Return ``x``: a length known to be 1 stays known (Theano could forget it).

    Parameters
    ----------
    x : tensor
    *axes : int
    """
    x = as_tensor(x)
    normalize_axes(axes, x.ndim, "unbroadcast")
    return x


@builder("T")
def patternbroadcast(x: ArrayLike, broadcastable: Sequence[bool]) -> Variable:
    """Declare which axes have length 1; checked at every call.

    Parameters
    ----------
    x : tensor
    broadcastable : sequence of bool
        One entry an axis; False declares nothing.
    """
    return specify_shape(x, [1 if flag else None for flag in broadcastable])
