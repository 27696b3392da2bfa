"""Sizes as integer scalars: reading them from tensors, taking them as arguments.

``axis_size`` reads one size without needing the tensor's value, ``size`` is a size that is already
an expression over symbols.  Ops that take sizes take them as int64 scalar inputs and read them with
``dim_of``; the functions here turn what users write into such inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...runtime.artifact import DtypeError, ShapeError
from .. import dtypes
from ..dims import Dim, DimLike, maximum, proves_nonnegative
from ..graph import Apply, Constant, SizeGuard, TensorType, Variable, describe
from ..operators import FUNCTIONS
from ..loop import scalar
from .op import (
    IndexLowering, Inferred, Never, NoDerivative, Sample, as_tensor, check, normalize_axes)
from .public import builder, row

WHOLE = -1
"""The axis by which a guard refers to a variable as a whole."""

_INTEGRAL = NoDerivative("a size does not depend on values")


def size(dim: DimLike) -> Variable:
    """Return a size expression as an int64 scalar.

    Parameters
    ----------
    dim : int or Dim
    """
    return Constant(np.int64(dim)) if isinstance(dim, int) else _SIZE(dim=dim)


def _infer_size(dim: DimLike) -> Inferred:
    return [TensorType("int64", ())], []


def _lower_size(context: Any, index: tuple[DimLike, ...], node: Apply) -> Any:
    return scalar.index(node.params["dim"])


_SIZE = row(
    size, kind="structured", infer=_infer_size, reference=lambda dim: np.asarray(dim, "int64"),
    derivative=_INTEGRAL, lower=IndexLowering(_lower_size, is_cheap=True), namespace="",
    section="Shapes",
    samples=(Sample((), dtypes=((),), call=lambda f: f(3), reference=lambda: np.int64(3)),))


def axis_size(x: Any, axis: int) -> Variable:
    """Return the length of one axis, an int64 scalar; the value of ``x`` is not needed.

    Parameters
    ----------
    x : tensor
    axis : int
    """
    x = as_tensor(x)
    (axis,) = normalize_axes(axis, x.ndim, "axis_size")
    dim = x.type.dims[axis]
    return Constant(np.int64(dim)) if isinstance(dim, int) else _AXIS_SIZE(x, axis=axis)


_AXIS_SIZE = row(
    axis_size, kind="structured", infer=lambda x, axis: ([TensorType("int64", ())], []),
    reference=lambda x, axis: np.asarray(x.shape[axis], "int64"), derivative=_INTEGRAL,
    lower=Never("interning replaces axis_size by size"), namespace="", section="Shapes",
    samples=(Sample(((2, 3),), call=lambda f, x: f(x, 1), reference=lambda x: np.int64(3),
                    differentiable=False),))


@builder("T")
def shape(x: Any) -> Variable:
    """Return the sizes of ``x``, an int64 vector; no value of ``x`` is needed.

    Parameters
    ----------
    x : tensor

    Returns
    -------
    sizes : (x.ndim,) int64
        Indexing it with a constant gives the size itself.
    """
    x = as_tensor(x)
    if x.ndim == 0:
        return Constant(np.zeros(0, "int64"))
    return FUNCTIONS["stack"](sizes_of(x))


@builder("T")
def ndim(x: Any) -> int:
    """Return the number of axes of ``x``, a Python integer.

    Parameters
    ----------
    x : tensor
    """
    return as_tensor(x).ndim


def sizes_of(x: Variable) -> list[Variable]:
    """Return the length of every axis."""
    return [axis_size(x, axis) for axis in range(x.ndim)]


def product(sizes: Sequence[Variable]) -> Variable:
    """Return the product of integer scalars, as a chain that ``dim_of`` can read."""
    result: Variable | None = None
    for value in sizes:
        result = value if result is None else FUNCTIONS["mul"](result, value)
    return Constant(np.int64(1)) if result is None else result


def as_size(value: Any, what: str) -> Variable:
    """Return one size or bound as an int64 scalar.

    Raises
    ------
    DtypeError
        Unless it is an integer, or a 0-dimensional integer tensor.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_)):
        return Constant(np.int64(value))
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = Constant(value)
    accepted = isinstance(value, Variable) and value.ndim == 0 and dtypes.is_integer(value.dtype)
    check(accepted, DtypeError, f"{what}: an integer is needed.",
          f"{describe(value)} {value.type}" if isinstance(value, Variable) else repr(value),
          "give an int or a 0-dimensional integer tensor")
    return as_tensor(value, "int64")


def as_sizes(values: Any, op_name: str, ndim: int | None = None) -> list[Variable]:
    """Return a shape as int64 scalars.

    Parameters
    ----------
    values : int, sequence, integer vector (symbolic or not)
    op_name : str
        For messages.
    ndim : int, optional
        The length of a symbolic vector whose length is not known.
    """
    if isinstance(values, Variable) and values.ndim == 1:
        return _elements(values, op_name, ndim)
    if isinstance(values, (tuple, list)) or (isinstance(values, np.ndarray) and values.ndim == 1):
        return [as_size(value, op_name) for value in values]
    return [as_size(values, op_name)]


def _elements(vector: Variable, op_name: str, ndim: int | None) -> list[Variable]:
    """Return the elements of an integer vector; those of ``x.shape`` are the sizes themselves."""
    if vector.owner is not None and vector.owner.op.name == "concatenate":
        parts = vector.owner.inputs
        if all(isinstance(part.type.dims[0], int) for part in parts):
            return [size for part in parts for size in _elements(part, op_name, None)]
    length = vector.type.dims[0] if isinstance(vector.type.dims[0], int) else ndim
    check(length is not None, ShapeError,
          f"{op_name}: the number of axes must be known while the graph is built.",
          f"the shape is {describe(vector)} {vector.type}",
          "give ndim=, or a tuple of sizes instead of a vector of unknown length")
    if isinstance(vector, Constant):
        return [as_size(value, op_name) for value in vector.data]
    return [as_size(vector[position], op_name) for position in range(length)]


def size_guards(sizes: Sequence[Variable], dims: Sequence[DimLike], op_name: str
                ) -> list[SizeGuard]:
    """Return what must hold at run time so that no size is negative.

    Raises
    ------
    ShapeError
        If a size is known to be negative.
    """
    guards = []
    for variable, dim in zip(sizes, dims):
        if isinstance(dim, int):
            check(dim >= 0, ShapeError, f"{op_name}: the size {dim} is negative.",
                  remedy="sizes are 0 or more")
        elif not proves_nonnegative(dim):
            guards.append(SizeGuard(
                maximum(dim, 0), dim, (variable, WHOLE), (variable, WHOLE),
                f"{op_name}: the size {describe(variable)} must not be negative."))
    return guards


def at_least(x: Variable, axis: int, bound: DimLike, reason: str, kind: str = "ShapeError"
             ) -> list[SizeGuard]:
    """Return the guard ``x.shape[axis] >= bound``, or nothing when it is proved."""
    dim = x.type.dims[axis]
    wanted = maximum(dim, bound)
    return [] if _is_same(wanted, dim) else [
        SizeGuard(wanted, dim, (x, axis), (x, axis), reason, kind)]


def _is_same(left: DimLike, right: DimLike) -> bool:
    return isinstance(left, Dim) == isinstance(right, Dim) and left == right
