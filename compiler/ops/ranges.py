"""Tensors made from sizes: ranges of numbers, identity matrices, triangles, diagonal matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...runtime.artifact import DtypeError, ShapeError
from ..config import config
from ..dims import DimLike, floordiv, maximum, proves_nonnegative
from ..graph import Apply, Constant, TensorType, Variable, describe, dim_of
from ..loop import scalar
from ..operators import FUNCTIONS
from .index import diagonal
from .op import (
    ArrayLike, IndexLowering, Inferred, NoDerivative, Sample, as_tensor, check, is_weak)
from .public import builder, row
from .shape import dimshuffle
from .sizes import as_size, axis_size


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: str | None = None) -> Variable:
    """Return ``start, start + step, ...`` up to, but not including, ``stop``.

    Parameters
    ----------
    start, stop, step : int, integer scalar, or float
        With one argument the range starts at 0.  Floats must be constant, because they decide the
        size; integers may be symbolic.
    dtype : str, optional
        Default: int64 for integers of any dtype, as in NumPy; ``floatX`` for Python floats.

    Raises
    ------
    DtypeError
        If a symbolic argument is not an integer.
    ShapeError
        If the step is 0.

    Examples
    --------
    >>> arange(2, 11, 3).type.shape
    (3,)
    """
    start, stop = (0, start) if stop is None else (start, stop)
    given = [v.data[()] if isinstance(v, Constant) and v.ndim == 0 else v
             for v in (start, stop, step)]
    if any(isinstance(v, (float, np.floating)) for v in given):
        return _float_range(given, dtype)
    bounds = [as_size(v, "arange") for v in given]
    dtype = dtype or "int64"
    step = dim_of(bounds[2])
    if isinstance(step, int):
        check(step != 0, ShapeError, "arange: the step must not be 0.")
        return FUNCTIONS["cast"](_ARANGE(*bounds[:2], step=step), dtype)
    F = FUNCTIONS
    span, stride = F["sub"](bounds[1], bounds[0]), bounds[2]
    count = F["maximum"](F["neg"](F["floordiv"](F["neg"](span), stride)), 0)
    return F["cast"](F["add"](bounds[0], F["mul"](arange(count), stride)), dtype)


def _float_range(given: list[Any], dtype: str | None) -> Variable:
    """Return a range whose bounds or step are floats; NumPy's formula for size and elements."""
    for value in given:
        check(not isinstance(value, Variable), DtypeError,
              "arange: with floats, all arguments must be constant: they decide the size.",
              describe(value) if isinstance(value, Variable) else "",
              "use start + step * T.arange(n) with an integer n")
    start, stop, step = (float(value) for value in given)
    check(step != 0, ShapeError, "arange: the step must not be 0.")
    if dtype is None:
        dtype = config.floatX if all(is_weak(value) for value in given) else "float64"
    count = max(math.ceil((stop - start) / step), 0)
    steps = FUNCTIONS["cast"](arange(count), "float64")
    # NumPy takes the difference of the first two elements, which is the step rounded once.
    stride = (start + step) - start
    return FUNCTIONS["cast"](FUNCTIONS["add"](start, FUNCTIONS["mul"](steps, stride)), dtype)


def _infer_arange(start: Variable, stop: Variable, step: int) -> Inferred:
    distance = dim_of(stop) - dim_of(start)
    length = floordiv(distance + (step - 1), step) if step > 0 \
        else floordiv(-distance + (-step - 1), -step)
    length = length if proves_nonnegative(length) else maximum(length, 0)
    return [TensorType("int64", (length,))], []


def _lower_arange(context: Any, index: tuple[DimLike, ...], node: Apply) -> Any:
    return scalar.apply("add", context.read(0, ()), scalar.index(node.params["step"] * index[0]))


_ARANGE = row(
    arange, kind="structured", infer=_infer_arange,
    reference=lambda start, stop, step: np.arange(int(start), int(stop), step, dtype="int64"),
    derivative=NoDerivative("its elements are integers"),
    lower=IndexLowering(_lower_arange, is_cheap=True),
    section="Ranges", samples=(
        Sample((), ((),), lambda f: f(5), lambda: np.arange(5)),
        Sample((), ((),), lambda f: f(7, -2, -3), lambda: np.arange(7, -2, -3)),
        Sample((), ((),), lambda f: f(0.5, 2.0, 0.3, dtype="float64"),
               lambda: np.arange(0.5, 2.0, 0.3))))


def _grid(rows: Any, columns: Any) -> tuple[Variable, Variable]:
    """Return row and column numbers that broadcast to a matrix."""
    return dimshuffle(arange(rows), (0, "x")), dimshuffle(arange(columns), ("x", 0))


@builder("T")
def eye(n: Any, m: Any = None, k: Any = 0, dtype: str | None = None) -> Variable:
    """Return a matrix with ones on a diagonal, zeros elsewhere.

    Parameters
    ----------
    n, m : int or integer scalar
        Rows and columns; ``m`` defaults to ``n``.
    k : int or integer scalar
        The diagonal: 0 the main one, positive above it.
    dtype : str, optional
        Default: ``floatX``.
    """
    rows, columns = _grid(n, n if m is None else m)
    return FUNCTIONS["cast"](FUNCTIONS["eq"](FUNCTIONS["add"](rows, k), columns),
                             dtype or config.floatX)


@builder("T")
def identity_like(x: ArrayLike, dtype: str | None = None) -> Variable:
    """Return an identity matrix of ``x``'s shape (and dtype, unless given).

    Parameters
    ----------
    x : matrix
    dtype : str, optional
    """
    x = as_tensor(x)
    check(x.ndim == 2, ShapeError, "identity_like: a matrix is needed.", f"{describe(x)} {x.type}")
    return eye(axis_size(x, 0), axis_size(x, 1), dtype=dtype or x.dtype)


@builder("T")
def tri(n: Any, m: Any = None, k: Any = 0, dtype: str | None = None) -> Variable:
    """Return a matrix with ones on and below a diagonal, zeros above.

    Parameters
    ----------
    n, m : int or integer scalar
        Rows and columns; ``m`` defaults to ``n``.
    k : int or integer scalar
        The diagonal: 0 the main one, positive above it.
    dtype : str, optional
        Default: ``floatX``.
    """
    rows, columns = _grid(n, n if m is None else m)
    return FUNCTIONS["cast"](FUNCTIONS["ge"](FUNCTIONS["add"](rows, k), columns),
                             dtype or config.floatX)


def _triangle(x: ArrayLike, k: Any, keep: str) -> Variable:
    x = as_tensor(x)
    check(x.ndim >= 2, ShapeError, "A triangle needs matrices.", f"{describe(x)} {x.type}",
          "give at least 2 axes")
    rows, columns = _grid(axis_size(x, -2), axis_size(x, -1))
    return FUNCTIONS["switch"](FUNCTIONS[keep](FUNCTIONS["add"](rows, k), columns), x, 0)


@builder("T")
def tril(x: ArrayLike, k: Any = 0) -> Variable:
    """Return matrices with the elements above a diagonal replaced by 0.

    Parameters
    ----------
    x : tensor of at least 2 axes
    k : int or integer scalar
        The diagonal: 0 the main one, positive above it.
    """
    return _triangle(x, k, "ge")


@builder("T")
def triu(x: ArrayLike, k: Any = 0) -> Variable:
    """Return matrices with the elements below a diagonal replaced by 0.

    Parameters
    ----------
    x : tensor of at least 2 axes
    k : int or integer scalar
        The diagonal: 0 the main one, positive above it.
    """
    return _triangle(x, k, "le")


@builder("T")
def diag(x: ArrayLike, k: int = 0) -> Variable:
    """Return a vector as a diagonal matrix, or the diagonal of a matrix.

    Parameters
    ----------
    x : vector or matrix
    k : int
        The diagonal: 0 the main one, positive above it.
    """
    x = as_tensor(x)
    if x.ndim == 2:
        return diagonal(x, k)
    check(x.ndim == 1, ShapeError, "diag: a vector or a matrix is needed.",
          f"{describe(x)} {x.type}", "use diagonal for more axes")
    size = axis_size(x, 0)
    rows, columns = _grid(size, size)
    square = FUNCTIONS["switch"](FUNCTIONS["eq"](rows, columns), dimshuffle(x, (0, "x")), 0)
    if k == 0:
        return square
    zero = FUNCTIONS["zeros"]
    side = zero((size, abs(k)), x.dtype)
    wide = FUNCTIONS["concatenate"]([side, square] if k > 0 else [square, side], axis=1)
    edge = zero((abs(k), axis_size(wide, 1)), x.dtype)
    return FUNCTIONS["concatenate"]([wide, edge] if k > 0 else [edge, wide], axis=0)
