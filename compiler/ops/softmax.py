"""Rows of softmax, its logarithm, and the logarithm of a sum of exponentials.

Each stays one node until lowering, so that rewrite rules see ``softmax`` and not its parts, and so
that its derivative is the short one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ...runtime.artifact import DtypeError, ShapeError
from .. import dtypes
from ..dims import DimLike, proves_nonnegative
from ..graph import SizeGuard, TensorType, Variable, describe
from .arithmetic import add, mul, sub, true_div
from .comparison import isfinite, switch
from .elementwise import FLOAT, convert_arguments, convert_arrays, quiet
from .op import ArrayLike, Custom, Expand, Inferred, Op, Sample, check, normalize_axes
from .public import row
from .reduce import max, restore_axes, sum
from .sizes import at_least
from .transcendental import exp, exp_nonpositive, log

Axes: TypeAlias = tuple[int, ...]
AxisLike: TypeAlias = int | Sequence[int] | None

_SECTION = "Neural networks"
_FLOATS = (("float64",), ("float32",), ("int8",), ("int64",))


def _with_axes(op: Op, x: ArrayLike, axis: AxisLike) -> Variable:
    (x,) = convert_arguments((x,), FLOAT)
    return op(x, axes=normalize_axes(axis, x.ndim, op.name))


def _nonempty(x: Variable, axes: Axes) -> list[SizeGuard]:
    """Check that the axes have elements: there is a largest one to subtract."""
    check(dtypes.is_float(x.dtype), DtypeError, "softmax and logsumexp take floats.",
          f"{describe(x)} {x.type}", "cast it: x.astype('float64')")
    guards: list[SizeGuard] = []
    for axis in axes:
        dim: DimLike = x.type.dims[axis]
        what = f"A softmax or logsumexp over an axis of length 0: axis {axis} of {describe(x)}."
        check(not isinstance(dim, int) or dim > 0, ShapeError, what, str(x.type),
              "leave empty tensors out")
        if not (isinstance(dim, int) or proves_nonnegative(dim - 1)):
            guards += at_least(x, axis, 1, what)
    return guards


def _infer_softmax(x: Variable, axes: Axes) -> Inferred:
    return [x.type], _nonempty(x, axes)


def _shifted(x: Variable, axes: Axes) -> Variable:
    """Return ``x`` minus its largest element over the axes: no exponential overflows."""
    return sub(x, max(x, axis=axes, keepdims=True)) if axes else sub(x, x)


def _axes_samples(reference: Callable[..., Any]) -> tuple[Sample, ...]:
    def sample(shape: tuple[int, ...], axis: AxisLike, kinds=(("float64",),)) -> Sample:
        def of_array(x):
            (x,) = convert_arrays((x,), FLOAT)
            return reference(x, normalize_axes(axis, x.ndim, "sample"))
        return Sample((shape,), kinds, lambda f, x: f(x, axis=axis), of_array,
                      domain=((-5.0, 5.0),))
    return (sample((3, 4), -1, _FLOATS), sample((3, 4), 0), sample((2, 3, 4), (0, 2)),
            sample((5,), -1), sample((0, 3), 1), sample((2, 3), None))


def _softmax(x: np.ndarray, axes: Axes) -> np.ndarray:
    powers = np.exp(x - x.max(axis=axes, keepdims=True))
    return powers / powers.sum(axis=axes, keepdims=True)


def _logsumexp(x: np.ndarray, axes: Axes) -> np.ndarray:
    largest = x.max(axis=axes, keepdims=True)
    shift = np.where(np.isfinite(largest), largest, x.dtype.type(0))
    return (np.log(np.exp(x - shift).sum(axis=axes, keepdims=True)) + shift).squeeze(axes)


def _logsoftmax(x: np.ndarray, axes: Axes) -> np.ndarray:
    shifted = x - x.max(axis=axes, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axes, keepdims=True))


def softmax(x: ArrayLike, axis: AxisLike = -1) -> Variable:
    """Normalised exponentials: ``exp(x) / sum(exp(x), axis)``, without overflow.

    Parameters
    ----------
    x : tensor
        Integers become floats.
    axis : int or sequence of int, optional
        Over which the results sum to 1; None for all.

    Returns
    -------
    Variable
        Of the shape of ``x``.

    Notes
    -----
    The largest element of a slice is subtracted first.  A slice of -inf only, or with an element
    +inf, gives NaN.

    Examples
    --------
    >>> T.nnet.softmax([0.0, 0.0, -1e4]).eval()
    array([0.5, 0.5, 0. ])
    """
    return _with_axes(_SOFTMAX, x, axis)


def _expand_softmax(x: Variable, axes: Axes) -> Variable:
    powers = exp(_shifted(x, axes))
    return true_div(powers, sum(powers, axis=axes, keepdims=True))


def _softmax_product(y: Variable, v: Variable, axes: Axes) -> Variable:
    """Return the Jacobian, which is symmetric, times ``v``: ``y * (v - sum(y * v))``."""
    return mul(y, sub(v, sum(mul(y, v), axis=axes, keepdims=True)))


_SOFTMAX = row(
    softmax, kind="composite", infer=_infer_softmax, reference=quiet(_softmax),
    derivative=Custom(
        lambda cotangents, inputs, outputs, axes:
            [_softmax_product(outputs[0], cotangents[0], axes)],
        lambda tangents, inputs, outputs, axes: [_softmax_product(outputs[0], tangents[0], axes)]),
    lower=Expand(_expand_softmax), samples=_axes_samples(_softmax), section=_SECTION,
    namespace="T.nnet")


def logsoftmax(x: ArrayLike, axis: AxisLike = -1) -> Variable:
    """Logarithm of the softmax: ``x - log(sum(exp(x), axis))``, without overflow or underflow.

    Parameters
    ----------
    x : tensor
        Integers become floats.
    axis : int or sequence of int, optional
        As for ``softmax``.

    Returns
    -------
    Variable
        Of the shape of ``x``.

    Examples
    --------
    >>> T.nnet.logsoftmax([0.0, -1e4]).eval()
    array([     0., -10000.])
    """
    return _with_axes(_LOGSOFTMAX, x, axis)


def _expand_logsoftmax(x: Variable, axes: Axes) -> Variable:
    shifted = _shifted(x, axes)
    return sub(shifted, log(sum(exp(shifted), axis=axes, keepdims=True)))


_LOGSOFTMAX = row(
    logsoftmax, kind="composite", infer=_infer_softmax, reference=quiet(_logsoftmax),
    derivative=Custom(
        lambda cotangents, inputs, outputs, axes: [sub(cotangents[0], mul(
            _SOFTMAX(inputs[0], axes=axes), sum(cotangents[0], axis=axes, keepdims=True)))],
        lambda tangents, inputs, outputs, axes: [sub(tangents[0], sum(
            mul(_SOFTMAX(inputs[0], axes=axes), tangents[0]), axis=axes, keepdims=True))]),
    lower=Expand(_expand_logsoftmax), samples=_axes_samples(_logsoftmax), section=_SECTION,
    namespace="T.nnet", aliases=("log_softmax",))


def logsumexp(x: ArrayLike, axis: AxisLike = None, keepdims: bool = False) -> Variable:
    """Logarithm of a sum of exponentials: ``log(sum(exp(x), axis))``, without overflow.

    Parameters
    ----------
    x : tensor
        Integers become floats.
    axis : int or sequence of int, optional
        Default: all.
    keepdims : bool
        Keep the axes, with length 1.

    Returns
    -------
    Variable

    Examples
    --------
    >>> T.logsumexp([1e4, 1e4]).eval()
    array(10000.69314718)
    """
    (x,) = convert_arguments((x,), FLOAT)
    axes = normalize_axes(axis, x.ndim, "logsumexp")
    result = _LOGSUMEXP(x, axes=axes)
    return restore_axes(result, axes, x.ndim) if keepdims else result


def _infer_logsumexp(x: Variable, axes: Axes) -> Inferred:
    dims = tuple(dim for axis, dim in enumerate(x.type.dims) if axis not in axes)
    return [TensorType(x.dtype, dims)], _nonempty(x, axes)


def _expand_logsumexp(x: Variable, axes: Axes) -> Variable:
    largest = max(x, axis=axes)
    shift = switch(isfinite(largest), largest, 0)
    # Positive numbers are only left beside an infinite one, which decides the result by itself.
    powers = exp_nonpositive(sub(x, restore_axes(shift, axes, x.ndim)))
    return add(log(sum(powers, axis=axes)), largest)


_LOGSUMEXP = row(
    logsumexp, kind="composite", infer=_infer_logsumexp, reference=quiet(_logsumexp),
    derivative=Custom(
        lambda cotangents, inputs, outputs, axes: [mul(
            _SOFTMAX(inputs[0], axes=axes),
            restore_axes(cotangents[0], axes, inputs[0].ndim))],
        lambda tangents, inputs, outputs, axes: [sum(
            mul(_SOFTMAX(inputs[0], axes=axes), tangents[0]), axis=axes)]),
    lower=Expand(_expand_logsumexp), samples=_axes_samples(_logsumexp), section="Reductions")
