"""Joining tensors along axes, cutting them up again, and repeating them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from ...runtime.artifact import DtypeError, ShapeError
from ..dims import DimLike, proves_different, proves_equal
from ..graph import Apply, Constant, SizeGuard, TensorType, Variable, describe, dim_of
from ..operators import FUNCTIONS
from .index import getitem, slice_axis, take
from .op import (
    ArrayLike, Custom, Expand, Inferred, OfExpansion, Region, Sample, ScatterLowering, as_tensor,
    check, normalize_axes, promote_arguments, shape_mismatch)
from .public import builder, row
from .shape import (
    broadcast_to, dimshuffle, expand_dims, flatten, reshape, specify_shape, zeros_like)
from .sizes import as_size, as_sizes, axis_size, sizes_of

# -- joining ---------------------------------------------------------------------------------------


def concatenate(tensors: Sequence[ArrayLike], axis: int = 0) -> Variable:
    """Join tensors along an axis.

    Parameters
    ----------
    tensors : sequence of tensors
        Of equal rank, and equal sizes on the other axes; dtypes are promoted.
    axis : int

    Raises
    ------
    ShapeError
        If ranks or sizes differ, or a tensor is 0-dimensional.

    Examples
    --------
    >>> import numpy as np
    >>> concatenate([np.ones((2, 3)), np.zeros((1, 3))]).type.shape
    (3, 3)
    """
    parts = _promoted(tensors, "concatenate")
    (axis,) = normalize_axes(axis, parts[0].ndim, "concatenate")
    return parts[0] if len(parts) == 1 else _CONCATENATE(*parts, axis=axis)


def _promoted(tensors: Any, op_name: str) -> list[Variable]:
    if isinstance(tensors, (Variable, np.ndarray)):
        whole = as_tensor(tensors)
        check(whole.ndim > 0 and isinstance(whole.type.dims[0], int), ShapeError,
              f"{op_name} takes a list of tensors.", f"{describe(whole)} {whole.type}",
              f"write T.{op_name}([x, y], axis=0)")
        tensors = [whole[k] for k in range(len(whole))]
    check(len(tensors) > 0, ShapeError, f"{op_name}: there is nothing to join.",
          remedy="give at least one tensor")
    return promote_arguments([t if isinstance(t, (Variable, bool, int, float)) else as_tensor(t)
                              for t in tensors])


def _common_dims(op_name: str, parts: Sequence[Variable], free: int | None
                 ) -> tuple[list[DimLike], list[SizeGuard]]:
    """Return the dims all parts must share, except on axis ``free``."""
    first = parts[0]
    dims, guards = list(first.type.dims), []
    for part in parts[1:]:
        check(part.ndim == first.ndim, ShapeError, f"{op_name}: the tensors differ in rank.",
              f"{describe(first)} {first.type}, {describe(part)} {part.type}",
              "add axes with dimshuffle")
        check(part.dtype == first.dtype, DtypeError, f"{op_name}: the tensors differ in dtype.",
              f"{first.dtype}, {part.dtype}", "cast them")
        for axis, own in enumerate(part.type.dims):
            if axis == free or proves_equal(own, dims[axis]):
                continue
            if proves_different(own, dims[axis]):
                raise shape_mismatch(op_name, (dims[axis], first, axis), (own, part, axis))
            guards.append(SizeGuard(dims[axis], own, (first, axis), (part, axis)))
            if isinstance(own, int):
                dims[axis] = own
    return dims, guards


def _infer_concatenate(*parts: Variable, axis: int) -> Inferred:
    dims, guards = _common_dims("concatenate", parts, axis)
    dims[axis] = reduce(operator.add, (part.type.dims[axis] for part in parts))
    return [TensorType(parts[0].dtype, tuple(dims))], guards


def _vjp_concatenate(cotangents, inputs, outputs, axis: int) -> list[Variable]:
    (g,) = cotangents
    result, start = [], Constant(np.int64(0))
    for part in inputs:
        length = axis_size(part, axis)
        result.append(slice_axis(g, axis, start, length))
        start = FUNCTIONS["add"](start, length)
    return result


def _jvp_concatenate(tangents, inputs, outputs, axis: int) -> list[Variable | None]:
    if all(tangent is None for tangent in tangents):
        return [None]
    return [_CONCATENATE(*(zeros_like(x) if t is None else t for t, x in zip(tangents, inputs)),
                         axis=axis)]


def _lower_concatenate(node: Apply) -> tuple[None, list[Region]]:
    axis, start, regions = node.params["axis"], 0, []
    for k, part in enumerate(node.inputs):
        regions.append(Region(
            part.type.dims,
            target=lambda context, index, start=start: (
                *index[:axis], index[axis] + start, *index[axis + 1:]),
            value=lambda context, index, k=k: context.read(k, index)))
        start = start + part.type.dims[axis]
    return None, regions


_CONCATENATE = row(
    concatenate, kind="linear", infer=_infer_concatenate,
    reference=lambda *parts, axis: np.concatenate(parts, axis=axis),
    derivative=Custom(_vjp_concatenate, _jvp_concatenate),
    lower=ScatterLowering(_lower_concatenate),
    section="Joining", samples=(
        Sample(((2, 3), (1, 3)), (("float64", "float64"), ("int8", "int32"), ("bool", "bool")),
               lambda f, x, y: f([x, y]), lambda x, y: np.concatenate([x, y])),
        Sample(((2, 3), (2, 0), (2, 2)), (("float64",) * 3,),
               lambda f, x, y, z: f([x, y, z], axis=-1),
               lambda x, y, z: np.concatenate([x, y, z], axis=1))))


@builder("T")
def join(axis: int, *tensors: ArrayLike) -> Variable:
    """Join tensors along an axis: :func:`concatenate` with Theano's order of arguments.

    Parameters
    ----------
    axis : int
    *tensors : tensors
        Or one sequence of them.
    """
    single = len(tensors) == 1 and isinstance(tensors[0], (list, tuple))
    return concatenate(tensors[0] if single else tensors, axis)


def stack(tensors: Sequence[ArrayLike], axis: int = 0) -> Variable:
    """Join tensors of equal shape along a new axis.

    Parameters
    ----------
    tensors : sequence of tensors
        dtypes are promoted.
    axis : int
        Position of the new axis in the result.

    Raises
    ------
    ShapeError
        If shapes differ.
    """
    parts = _promoted(tensors, "stack")
    (axis,) = normalize_axes(axis, parts[0].ndim + 1, "stack")
    return _STACK(*parts, axis=axis)


def _infer_stack(*parts: Variable, axis: int) -> Inferred:
    dims, guards = _common_dims("stack", parts, None)
    dims.insert(axis, len(parts))
    return [TensorType(parts[0].dtype, tuple(dims))], guards


_STACK = row(
    stack, kind="composite", infer=_infer_stack,
    reference=lambda *parts, axis: np.stack(parts, axis=axis), derivative=OfExpansion(),
    lower=Expand(lambda *parts, axis: concatenate([expand_dims(x, axis) for x in parts], axis)),
    section="Joining", samples=(
        Sample(((), ()), (("float64", "float64"), ("int64", "int64")), lambda f, x, y: f([x, y]),
               lambda x, y: np.stack([x, y])),
        Sample(((2, 3), (2, 3)), (("float64", "float64"),), lambda f, x, y: f([x, y], axis=-1),
               lambda x, y: np.stack([x, y], axis=-1))))

# -- cutting ---------------------------------------------------------------------------------------


@builder("T")
def split(x: ArrayLike, splits_size: Any, n_splits: int | None = None, axis: int = 0
          ) -> list[Variable]:
    """Cut a tensor into parts along an axis.

    Parameters
    ----------
    x : tensor
    splits_size : sequence of sizes, integer vector, or int
        The length of each part, as in Theano; or, an int, the number of equal parts, as in NumPy.
    n_splits : int, optional
        The number of parts, needed when ``splits_size`` is a vector of unknown length.
    axis : int

    Returns
    -------
    parts : list of tensors

    Raises
    ------
    ShapeError
        If a length is negative, or they do not add up to that of the axis (at the call, when sizes
        are not known).
    """
    x = as_tensor(x)
    (axis,) = normalize_axes(axis, x.ndim, "split")
    if isinstance(splits_size, (int, np.integer)):
        check(splits_size > 0, ShapeError, f"split: {splits_size} parts are impossible.",
              f"{describe(x)} {x.type}", "ask for at least one")
        length = FUNCTIONS["floordiv"](axis_size(x, axis), int(splits_size))
        sizes = [length] * int(splits_size)
    else:
        sizes = as_sizes(splits_size, "split", n_splits)
    total = reduce(FUNCTIONS["add"], sizes, Constant(np.int64(0)))
    # A broadcast to the shape it should have checks, once a call, that the parts cover the axis.
    shape = sizes_of(x)
    if not proves_equal(dim_of(total), x.type.dims[axis]):
        shape[axis] = total
        x = broadcast_to(x, shape)
    parts, start = [], Constant(np.int64(0))
    for length in sizes:
        part = slice_axis(x, axis, start, length)
        if not proves_equal(part.type.dims[axis], dim_of(length)):
            # Likewise checks that no length is negative.
            part = broadcast_to(part, [*shape[:axis], length, *shape[axis + 1:]])
        parts.append(part)
        start = FUNCTIONS["add"](start, length)
    return parts


# -- repeating -------------------------------------------------------------------------------------


@builder("T")
def tile(x: ArrayLike, reps: Any, ndim: int | None = None) -> Variable:
    """Repeat a whole tensor along its axes.

    Parameters
    ----------
    x : tensor
    reps : int, sequence of int or integer scalars
        Repetitions of each axis; missing ones, in front, are 1.
    ndim : int, optional
        Number of axes of the result, when it is to be larger than both.
    """
    x = as_tensor(x)
    counts = as_sizes(reps, "tile")
    rank = max(x.ndim, len(counts), ndim or 0)
    counts = [Constant(np.int64(1))] * (rank - len(counts)) + counts
    x = dimshuffle(x, ["x"] * (rank - x.ndim) + list(range(x.ndim)))
    sizes = sizes_of(x)
    pattern = [entry for axis in range(rank) for entry in ("x", axis)]
    pairs = [size for pair in zip(counts, sizes) for size in pair]
    merged = [FUNCTIONS["mul"](count, size) for count, size in zip(counts, sizes)]
    return reshape(broadcast_to(dimshuffle(x, pattern), pairs), merged)


@builder("T")
def repeat(x: ArrayLike, repeats: Any, axis: int | None = None) -> Variable:
    """Repeat each element along an axis.

    Parameters
    ----------
    x : tensor
    repeats : int, integer scalar, or constant integers
        How often: one number for all, or one for each element (which must be constant, because
        the size of the result is their sum).
    axis : int, optional
        Default: repeat in the flattened tensor.
    """
    x = as_tensor(x)
    x, axis = (flatten(x), 0) if axis is None else (x, axis)
    (axis,) = normalize_axes(axis, x.ndim, "repeat")
    each = repeats.data if isinstance(repeats, Constant) else repeats
    if isinstance(each, Variable) and each.ndim > 0:
        check(False, DtypeError,
              "repeat: one number of repetitions for each element must be constant.",
              f"{describe(each)} {each.type}", "give one number for all elements")
    if np.ndim(each) > 0:
        counts = np.asarray(each)
        check(counts.ndim == 1 and counts.dtype.kind in "iu" and (counts >= 0).all(), DtypeError,
              "repeat: the repetitions must be a vector of integers from 0.", repr(each))
        if len(counts) != 1:
            x = specify_shape(x, [len(counts) if a == axis else None for a in range(x.ndim)])
            return take(x, np.repeat(np.arange(len(counts)), counts), axis)
        each = int(counts[0])
    count = as_size(each, "repeat")
    sizes = sizes_of(x)
    wide = dimshuffle(x, [*range(axis + 1), "x", *range(axis + 1, x.ndim)])
    wide = broadcast_to(wide, [*sizes[:axis + 1], count, *sizes[axis + 1:]])
    sizes[axis] = FUNCTIONS["mul"](sizes[axis], count)
    return reshape(wide, sizes)


@builder("T")
def roll(x: ArrayLike, shift: int, axis: int | None = None) -> Variable:
    """Move elements along an axis; those that leave at one end enter at the other.

    Parameters
    ----------
    x : tensor
    shift : int or integer scalar
    axis : int, optional
        Default: roll the flattened tensor.
    """
    x = as_tensor(x)
    if axis is None:
        return reshape(roll(flatten(x), shift, 0), sizes_of(x))
    (axis,) = normalize_axes(axis, x.ndim, "roll")
    length = axis_size(x, axis)
    cut = FUNCTIONS["mod"](FUNCTIONS["neg"](as_size(shift, "roll")), length)
    before = (slice(None),) * axis
    return concatenate([getitem(x, (*before, slice(cut, None))),
                        getitem(x, (*before, slice(None, cut)))], axis)
