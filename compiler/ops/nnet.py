"""Rows of activation functions: rectifiers, exponential linear units, cheap sigmoids.

Most are composites: one node until lowering, defined by a formula over other rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Variable
from ..loop.scalar import apply, const
from ..operators import FUNCTIONS
from .arithmetic import abs_, add, clip, inv, minimum, mul, sgn, sqr, true_div
from .comparison import gt, isinf, switch
from .elementwise import EDGES, FLOAT, convert_arguments, convert_arrays, infer_elementwise, quiet
from .op import (
    ArrayLike, Custom, Derivative, Expand, Op, OfExpansion, Partials, Sample, ScalarLowering,
    as_tensor, is_weak)
from .public import BUILDERS, row
from .transcendental import expm1, sigmoid, softplus

if TYPE_CHECKING:
    from ..loop.ir import Expr

_SECTION = "Neural networks"
_FLOATS = (("float64",), ("float32",), ("int8",), ("int64",))


def _apply_float(op: Op, x: ArrayLike, **params: float) -> Variable:
    (x,) = convert_arguments((x,), FLOAT)
    return op(x, **params)


def _activation(function: Callable[..., Variable], formula: Callable[..., Variable],
                reference: Callable[..., Any], derivative: Derivative | None = None,
                **defaults: float) -> Op:
    """Register an elementwise composite of one float tensor; tests use the default parameters."""
    def of_array(x):
        return reference(*convert_arrays((x,), FLOAT), **defaults)

    return row(
        function, kind="composite", infer=infer_elementwise(function.__name__, "f", "same"),
        reference=quiet(reference), derivative=derivative or OfExpansion(), lower=Expand(formula),
        samples=(Sample(((3, 4),), _FLOATS, reference=quiet(of_array), domain=((-3.5, 3.5),)),),
        edges=EDGES, section=_SECTION, namespace="T.nnet")


def relu(x: ArrayLike, alpha: ArrayLike = 0) -> Variable:
    """Rectifier: ``x`` where positive, else ``alpha * x``.

    Parameters
    ----------
    x : tensor
        Not bool.
    alpha : number or tensor
        Slope of the negative part; 0 makes the plain rectifier ``maximum(x, 0)``.

    Returns
    -------
    Variable

    Notes
    -----
    The derivative at 0 is ``alpha``.

    Examples
    --------
    >>> T.nnet.relu([-2.0, 3.0]).eval()
    array([0., 3.])
    """
    if is_weak(alpha):
        return leaky_relu(x, alpha) if alpha else _RELU(as_tensor(x))
    return switch(gt(x, 0), x, mul(alpha, x))


def _lower_relu(x: Expr) -> Expr:
    return apply("maximum", x, const(0, x.dtype))


_RELU = row(
    relu, kind="elementwise", infer=infer_elementwise("relu", "if", "same"),
    reference=lambda x: np.maximum(x, x.dtype.type(0)),
    derivative=Custom(
        lambda cotangents, inputs, outputs: [switch(gt(inputs[0], 0), cotangents[0], 0)],
        lambda tangents, inputs, outputs: [switch(gt(inputs[0], 0), tangents[0], 0)]),
    lower=ScalarLowering(_lower_relu), edges=EDGES, section=_SECTION, namespace="T.nnet",
    samples=(Sample(((3, 4),), (("float64",), ("float32",), ("int8",), ("uint16",))),))


def _leaky(x: Variable, alpha: float) -> Variable:
    return switch(gt(x, 0), x, mul(alpha, x))


def leaky_relu(x: ArrayLike, alpha: float = 0.01) -> Variable:
    """Leaky rectifier: ``x`` where positive, else ``alpha * x``.

    Parameters
    ----------
    x : tensor
        Integers become floats.
    alpha : float

    Returns
    -------
    Variable
    """
    return _apply_float(_LEAKY_RELU, x, alpha=float(alpha))


_LEAKY_RELU = _activation(
    leaky_relu, _leaky, lambda x, alpha: np.where(x > 0, x, x.dtype.type(alpha) * x), alpha=0.01)


def elu(x: ArrayLike, alpha: float = 1.0) -> Variable:
    """Exponential linear unit: ``x`` where positive, else ``alpha * (exp(x) - 1)``.

    Parameters
    ----------
    x : tensor
        Integers become floats.
    alpha : float

    Returns
    -------
    Variable

    References
    ----------
    Clevert, Unterthiner, Hochreiter, "Fast and accurate deep network learning by exponential linear
    units", 2015, arXiv:1511.07289.
    """
    return _apply_float(_ELU, x, alpha=float(alpha))


def _elu(x: Variable, alpha: float) -> Variable:
    # The exponential sees no positive x: it would overflow, and its derivative be 0 * inf.
    return switch(gt(x, 0), x, mul(alpha, expm1(minimum(x, 0))))


def _elu_array(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x > 0, x, x.dtype.type(alpha) * np.expm1(np.minimum(x, x.dtype.type(0))))


_ELU = _activation(elu, _elu, _elu_array, alpha=1.0)

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
"""The fixed point of mean 0 and variance 1: equation 14 of the paper that ``selu`` cites."""


def selu(x: ArrayLike) -> Variable:
    """Scaled exponential linear unit: ``1.0507 * elu(x, 1.6733)``, which keeps mean 0, variance 1.

    Parameters
    ----------
    x : tensor
        Integers become floats.

    Returns
    -------
    Variable

    References
    ----------
    Klambauer, Unterthiner, Mayr, Hochreiter, "Self-normalizing neural networks", 2017,
    arXiv:1706.02515.
    """
    return _apply_float(_SELU, x)


_SELU = _activation(
    selu, lambda x: mul(SELU_SCALE, _elu(x, SELU_ALPHA)),
    lambda x: x.dtype.type(SELU_SCALE) * _elu_array(x, SELU_ALPHA))


def softsign(x: ArrayLike) -> Variable:
    """``x / (1 + abs(x))``; -1 and 1 at the infinities.

    Parameters
    ----------
    x : tensor
        Integers become floats.

    Returns
    -------
    Variable
    """
    return _apply_float(_SOFTSIGN, x)


def _softsign(x: Variable) -> Variable:
    return switch(isinf(x), sgn(x), true_div(x, add(1, abs_(x))))


_SOFTSIGN = _activation(
    softsign, _softsign,
    lambda x: np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(x))),
    Partials(lambda x, y: [sqr(inv(add(1, abs_(x))))]))


def hard_sigmoid(x: ArrayLike) -> Variable:
    """Piecewise linear sigmoid: ``clip(0.2 * x + 0.5, 0, 1)``.

    Parameters
    ----------
    x : tensor
        Integers become floats.

    Returns
    -------
    Variable
    """
    return _apply_float(_HARD_SIGMOID, x)


_HARD_SIGMOID = _activation(
    hard_sigmoid, lambda x: clip(add(mul(0.2, x), 0.5), 0, 1),
    lambda x: np.clip(x.dtype.type(0.2) * x + x.dtype.type(0.5), 0, 1))

BUILDERS.setdefault("T.nnet", {}).update(
    sigmoid=sigmoid, softplus=softplus, ultra_fast_sigmoid=sigmoid)
FUNCTIONS["ultra_fast_sigmoid"] = sigmoid
