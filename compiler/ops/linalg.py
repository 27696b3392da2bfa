"""Products of vectors, matrices and tensors, all of them around one row: ``contract``."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ...runtime.artifact import DtypeError, ShapeError
from .. import dtypes
from ..dims import DimLike, proves_different, proves_equal
from ..graph import SizeGuard, TensorType, Variable, describe
from ..operators import FUNCTIONS
from .op import (
    ArrayLike, ContractLowering, Inferred, Sample, Transpose, as_tensor, check, normalize_axes,
    promote_arguments, shape_mismatch)
from .public import builder, row
from .shape import broadcast_to, dimshuffle, flatten, squeeze
from .sizes import axis_size, sizes_of

# -- the row ---------------------------------------------------------------------------------------


def contract(left: Variable, right: Variable, batch: int | None = None, inner: int = 1) -> Variable:
    """Multiply stacks of arrays, and sum: ``out[b.., m.., n..] = sum_k.. left[b.., m.., k..] *
    right[b.., k.., n..]``.

    Parameters
    ----------
    left, right : tensors of equal dtype
    batch : int, optional
        Number of axes ``b..``; by default as for stacks of matrices.
    inner : int
        Number of axes ``k..``; with none it is the outer product.
    """
    if batch is None:
        batch = left.ndim - 1 - inner
    return _CONTRACT(left, right, batch=batch, inner=inner)


def _infer_contract(left: Variable, right: Variable, batch: int, inner: int) -> Inferred:
    if min(batch, inner, left.ndim - batch - inner, right.ndim - batch - inner) < 0:
        check(False, ShapeError,
              f"contract: operands with {batch} + {inner} axes in common are needed.",
              f"{describe(left)} {left.type}, {describe(right)} {right.type}")
    check(left.dtype == right.dtype != dtypes.BOOL, DtypeError,
          "contract: numbers of one dtype are needed.", f"{left.dtype}, {right.dtype}")
    rows = left.ndim - batch - inner
    dims: list[DimLike] = [*left.type.dims[:batch + rows], *right.type.dims[batch + inner:]]
    guards = []
    for axis in (*range(batch), *range(batch + rows, left.ndim)):
        other = axis if axis < batch else axis - rows
        own, wanted = left.type.dims[axis], right.type.dims[other]
        if proves_equal(own, wanted):
            continue
        sides = _source(left, axis), _source(right, other)
        if proves_different(own, wanted):
            raise shape_mismatch("dot", (own, *sides[0]), (wanted, *sides[1]))
        guards.append(SizeGuard(own, wanted, *sides))
        if axis < batch and isinstance(wanted, int):
            dims[axis] = wanted
    return [TensorType(left.dtype, tuple(dims))], guards


def _source(variable: Variable, axis: int) -> tuple[Variable, int]:
    """Return whose axis it is behind transpositions: what a message should name."""
    while variable.owner is not None and variable.owner.op.name == "dimshuffle" \
            and variable.name is None and variable.owner.params["pattern"][axis] != "x":
        axis = variable.owner.params["pattern"][axis]
        variable = variable.owner.inputs[0]
    return variable, axis


def _reference_contract(left: np.ndarray, right: np.ndarray, batch: int, inner: int) -> np.ndarray:
    rows, columns = left.shape[batch:left.ndim - inner], right.shape[batch + inner:]
    lead, summed = right.shape[:batch], right.shape[batch:batch + inner]
    # A batch of 1 must stay 1: numpy.matmul would broadcast it, but types forbid the other case.
    return np.matmul(left.reshape(*lead, prod(rows), prod(summed)),
                     right.reshape(*lead, prod(summed), prod(columns))
                     ).reshape(lead + rows + columns)


def exchanged(x: Variable, batch: int, first: int) -> Variable:
    """Put the ``first`` axes after the batch behind all others: the transpose of an operand."""
    middle = batch + first
    return dimshuffle(x, [*range(batch), *range(middle, x.ndim), *range(batch, middle)])


def matrix_transpose(x: Variable) -> Variable:
    """Exchange the last two axes."""
    return exchanged(x, x.ndim - 2, 1)


def _cotangent_of_left(g: Variable, x: Variable, y: Variable, batch: int, inner: int) -> Variable:
    return contract(g, exchanged(y, batch, inner), batch, y.ndim - batch - inner)


def _cotangent_of_right(g: Variable, x: Variable, y: Variable, batch: int, inner: int) -> Variable:
    rows = x.ndim - batch - inner
    return contract(exchanged(x, batch, rows), g, batch, rows)


_CONTRACT = row(
    contract, kind="linear", infer=_infer_contract, reference=_reference_contract,
    derivative=Transpose({0: _cotangent_of_left, 1: _cotangent_of_right}),
    lower=ContractLowering(), namespace="", spoken="dot", section="Linear algebra", samples=(
        Sample(((2, 3), (3, 4)), (("float64",) * 2, ("float32",) * 2, ("int32",) * 2),
               reference=np.matmul),
        *(Sample(shapes, (("float64",) * 2,), reference=np.matmul) for shapes in (
            ((2, 2, 3), (2, 3, 1)), ((2, 0), (0, 3)), ((0, 3), (3, 2)), ((1, 3), (3, 2)))),
        Sample(((3, 3, 2), (3, 2, 3)), (("float64",) * 2,),
               lambda f, x, y: f(matrix_transpose(x), matrix_transpose(y)),
               lambda x, y: np.matmul(x.swapaxes(1, 2), y.swapaxes(1, 2))),
        *(Sample(shapes, (("float64",) * 2, ("int32",) * 2),
                 lambda f, x, y, batch=batch, inner=inner: f(x, y, batch, inner),
                 lambda x, y, formula=formula: np.einsum(formula, x, y))
          for shapes, batch, inner, formula in (
              (((3, 2, 4), (2, 4, 5)), 0, 2, "abc,bcd->ad"),
              (((2, 3, 2, 4), (2, 4, 3, 2)), 1, 1, "abcd,adef->abcef"),
              (((3, 2, 0), (2, 0, 2)), 0, 2, "abc,bcd->ad"),
              (((2, 3), (2, 2)), 1, 0, "ab,ac->abc"),
              (((4, 2), (4, 2, 3)), 0, 2, "ab,abc->c")))))

# -- NumPy's and Theano's products -----------------------------------------------------------------


def _numbers(op_name: str, left: ArrayLike, right: ArrayLike) -> tuple[Variable, Variable, bool]:
    """Return both operands in one numeric dtype, and whether the result has to be bool again."""
    a, b = promote_arguments([left, right])
    was_bool = a.dtype == dtypes.BOOL
    return (as_tensor(a, "int64"), as_tensor(b, "int64"), True) if was_bool else (a, b, False)


def _finish(result: Variable, was_bool: bool) -> Variable:
    return FUNCTIONS["neq"](result, 0) if was_bool else result


def _require_equal(op_name: str, left: Variable, axis: int, right: Variable, other: int) -> None:
    """Raise, naming the user's own operands, when two axes to be summed over must differ."""
    own, wanted = left.type.dims[axis], right.type.dims[other]
    if proves_different(own, wanted):
        raise shape_mismatch(op_name, (own, left, axis % left.ndim),
                             (wanted, right, other % right.ndim))


@builder("T")
def dot(a: ArrayLike, b: ArrayLike) -> Variable:
    """Multiply vectors, matrices and tensors, as ``numpy.dot`` does.

    Vectors: inner product.  Matrices: matrix product.  A scalar multiplies.  Otherwise sum over the
    last axis of ``a`` and the last but one (or only) axis of ``b``.

    Parameters
    ----------
    a, b : tensors
        dtypes are promoted; bool gives bool (any of ands).

    Raises
    ------
    ShapeError
        If the axes to be summed over differ in length.

    Examples
    --------
    >>> dot([[1.0, 2.0], [3.0, 4.0]], [1.0, 10.0]).type.shape
    (2,)
    """
    a, b, was_bool = _numbers("dot", a, b)
    if a.ndim == 0 or b.ndim == 0:
        return _finish(FUNCTIONS["mul"](a, b), was_bool)
    _require_equal("dot", a, -1, b, max(b.ndim - 2, 0) - b.ndim)
    if a.ndim <= 2 and b.ndim <= 2:
        return _finish(_matrix_product(a, b), was_bool)
    return _finish(_tensordot(a, b, [a.ndim - 1], [max(b.ndim - 2, 0)]), was_bool)


def _matrix_product(a: Variable, b: Variable) -> Variable:
    """Multiply vectors and matrices."""
    left = dimshuffle(a, ("x", 0)) if a.ndim == 1 else a
    right = dimshuffle(b, (0, "x")) if b.ndim == 1 else b
    result = contract(left, right)
    dropped = [0] * (a.ndim == 1) + [1] * (b.ndim == 1)
    return squeeze(result, dropped) if dropped else result


@builder("T")
def matmul(a: ArrayLike, b: ArrayLike) -> Variable:
    """Multiply matrices in the last two axes, broadcasting the others: ``a @ b``.

    Parameters
    ----------
    a, b : tensors of at least 1 axis
        A vector counts as a row on the left, as a column on the right.

    Raises
    ------
    ShapeError
        If sizes do not fit, or an operand is 0-dimensional.
    """
    a, b, was_bool = _numbers("matmul", a, b)
    check(a.ndim > 0 and b.ndim > 0, ShapeError, "matmul: a scalar is not a matrix.",
          f"{describe(a)} {a.type}, {describe(b)} {b.type}", "multiply with *")
    _require_equal("matmul", a, -1, b, max(b.ndim - 2, 0) - b.ndim)
    if a.ndim <= 2 and b.ndim <= 2:
        return _finish(_matrix_product(a, b), was_bool)
    if b.ndim <= 2:
        return _finish(_tensordot(a, b, [a.ndim - 1], [0]), was_bool)
    left = dimshuffle(a, ("x", 0)) if a.ndim == 1 else a
    rank = max(left.ndim, b.ndim)
    left, right = (dimshuffle(v, ["x"] * (rank - v.ndim) + list(range(v.ndim))) for v in (left, b))
    left, right = _with_batch(left, right), _with_batch(right, left)
    result = contract(left, right)
    return _finish(squeeze(result, rank - 2) if a.ndim == 1 else result, was_bool)


def _with_batch(x: Variable, other: Variable) -> Variable:
    """Broadcast the axes before the last two to those of ``other``."""
    sizes = sizes_of(x)
    widened = [axis for axis in range(x.ndim - 2)
               if x.type.dims[axis] == 1 and other.type.dims[axis] != 1]
    for axis in widened:
        sizes[axis] = axis_size(other, axis)
    return broadcast_to(x, sizes) if widened else x


@builder("T")
def batched_dot(a: ArrayLike, b: ArrayLike) -> Variable:
    """Multiply pairs: ``out[i] = dot(a[i], b[i])``.

    Parameters
    ----------
    a : (batch, ...) tensor
    b : (batch, ...) tensor

    Raises
    ------
    ShapeError
        If the batches, or the axes to be summed over, differ in length.
    """
    a, b, was_bool = _numbers("batched_dot", a, b)
    check(a.ndim > 0 and b.ndim > 0, ShapeError, "batched_dot: the first axis is the batch.",
          f"{describe(a)} {a.type}, {describe(b)} {b.type}", "give at least one axis")
    _require_equal("batched_dot", a, 0, b, 0)
    if a.ndim == 1 or b.ndim == 1:
        wide, thin = (b, a) if a.ndim == 1 else (a, b)
        thin = dimshuffle(thin, [0] + ["x"] * (wide.ndim - 1))
        return _finish(FUNCTIONS["mul"](wide, thin), was_bool)
    summed = max(b.ndim - 2, 1)
    _require_equal("batched_dot", a, a.ndim - 1, b, summed)
    return _finish(_tensordot(a, b, [a.ndim - 1], [summed], batch=1), was_bool)


@builder("T")
def batched_tensordot(a: ArrayLike, b: ArrayLike, axes: int | Sequence = 2) -> Variable:
    """Sum products over several axes, for each element of the first axis: ``out[i]`` from ``a[i]``,
    ``b[i]``.

    Parameters
    ----------
    a : (batch, ...) tensor
    b : (batch, ...) tensor
    axes : int or pair of (int or sequence of int)
        As in :func:`tensordot`; axis 0, the batch, cannot be summed over.
    """
    a, b, was_bool = _numbers("batched_tensordot", a, b)
    left, right = _summed_axes("batched_tensordot", a, b, axes, batch=1)
    return _finish(_tensordot(a, b, left, right, batch=1), was_bool)


@builder("T")
def tensordot(a: ArrayLike, b: ArrayLike, axes: int | Sequence = 2) -> Variable:
    """Sum products over several axes, as ``numpy.tensordot`` does.

    Parameters
    ----------
    a, b : tensors
    axes : int or pair of (int or sequence of int)
        A number ``n``: the last ``n`` axes of ``a`` and the first ``n`` of ``b``; or the axes of
        ``a`` and those of ``b``.

    Raises
    ------
    ShapeError
        If axes do not exist, or paired ones differ in length.
    """
    a, b, was_bool = _numbers("tensordot", a, b)
    left, right = _summed_axes("tensordot", a, b, axes, batch=0)
    return _finish(_tensordot(a, b, left, right), was_bool)


def _summed_axes(op_name: str, a: Variable, b: Variable, axes: int | Sequence, batch: int
                 ) -> tuple[list[int], list[int]]:
    if isinstance(axes, (int, np.integer)):
        fits = 0 <= axes <= min(a.ndim, b.ndim) - batch
        check(fits, ShapeError, f"{op_name}: {axes} axes cannot be summed over.",
              f"{describe(a)} {a.type}, {describe(b)} {b.type}", "name fewer axes")
        left, right = list(range(a.ndim - axes, a.ndim)), list(range(batch, batch + axes))
    else:
        left, right = ([int(k) for k in np.atleast_1d(np.asarray(part, "int64"))] for part in axes)
        check(len(left) == len(right), ShapeError, f"{op_name}: the axes do not pair up.",
              f"{left}, {right}", "name as many axes of a as of b")
        normalize_axes(left, a.ndim, op_name), normalize_axes(right, b.ndim, op_name)
        left, right = [k % a.ndim for k in left], [k % b.ndim for k in right]
        check(all(k >= batch for k in left + right), ShapeError,
              f"{op_name}: the batch cannot be summed over.", f"{left}, {right}")
    for one, other in zip(left, right):
        _require_equal(op_name, a, one, b, other)
    return left, right


def _tensordot(a: Variable, b: Variable, left: list[int], right: list[int], batch: int = 0
               ) -> Variable:
    """Sum over pairs of axes, for each element of the first ``batch`` axes."""
    lead = list(range(batch))
    free_a = [k for k in range(batch, a.ndim) if k not in left]
    free_b = [k for k in range(batch, b.ndim) if k not in right]
    return contract(dimshuffle(a, lead + free_a + left), dimshuffle(b, lead + right + free_b),
                    batch, len(left))


@builder("T")
def outer(a: ArrayLike, b: ArrayLike) -> Variable:
    """Multiply every element of ``a`` with every one of ``b``: ``out[i, j] = a[i] * b[j]``.

    Parameters
    ----------
    a, b : tensors
        Flattened if they are no vectors.
    """
    a, b = promote_arguments([a, b])
    return FUNCTIONS["mul"](dimshuffle(flatten(a), (0, "x")), dimshuffle(flatten(b), ("x", 0)))
