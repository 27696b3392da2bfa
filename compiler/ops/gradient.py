"""Identities that change the derivative only: they vanish when a function is compiled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..graph import Variable
from ..operators import FUNCTIONS
from .elementwise import infer_elementwise
from .op import (
    REGISTRY, ArrayLike, Custom, Derivative, NoDerivative, Sample, ScalarLowering, as_tensor)
from .public import row


def disconnected_grad(x: ArrayLike) -> Variable:
    """Return ``x``, as a constant to every derivative.

    A gradient with respect to what ``x`` is computed from does not see it: if there is no other
    way to the cost, ``grad`` reports the variable as disconnected.

    Parameters
    ----------
    x : tensor

    Returns
    -------
    Variable
        Equal to ``x``.
    """
    return REGISTRY["disconnected_grad"](as_tensor(x))


def zero_grad(x: ArrayLike) -> Variable:
    """Return ``x``, with a derivative of zero; unlike :func:`disconnected_grad`, connected.

    Parameters
    ----------
    x : tensor

    Returns
    -------
    Variable
        Equal to ``x``.
    """
    return REGISTRY["zero_grad"](as_tensor(x))


def grad_clip(x: ArrayLike, lower_bound: float, upper_bound: float) -> Variable:
    """Return ``x``; cotangents that flow back through it are clipped to the bounds.

    Forward mode passes tangents unchanged.

    Parameters
    ----------
    x : tensor
    lower_bound, upper_bound : float

    Returns
    -------
    Variable
        Equal to ``x``.
    """
    return REGISTRY["grad_clip"](as_tensor(x), lower=float(lower_bound), upper=float(upper_bound))


def grad_scale(x: ArrayLike, multiplier: float) -> Variable:
    """Return ``x``; derivatives in both modes are multiplied by ``multiplier``.

    Parameters
    ----------
    x : tensor
    multiplier : float
        For example -1, which reverses the gradient (domain-adversarial training).

    Returns
    -------
    Variable
        Equal to ``x``.
    """
    return REGISTRY["grad_scale"](as_tensor(x), multiplier=float(multiplier))


def _clip(cotangents, inputs, outputs, lower: float, upper: float) -> list[Variable]:
    return [FUNCTIONS["clip"](cotangents[0], lower, upper)]


def _scale(derivatives, inputs, outputs, multiplier: float) -> list[Variable]:
    return [FUNCTIONS["mul"](derivatives[0], multiplier)]


def _identity(function: Callable[..., Variable], derivative: Derivative, *arguments: float) -> None:
    row(function, kind="elementwise",
        infer=infer_elementwise(function.__name__, "bif", "same"),
        reference=lambda x, **params: np.array(x), derivative=derivative,
        lower=ScalarLowering(lambda x, **params: x, 0.0), section="Derivatives",
        samples=(Sample(((2, 3),), (("float32",), ("float64",), ("int32",), ("bool",)),
                        lambda f, x: f(x, *arguments), differentiable=False,
                        reference=np.array),))


_identity(disconnected_grad, NoDerivative("it is taken as a constant"))
_identity(zero_grad, NoDerivative("its derivative is declared to be zero"))
_identity(grad_clip, Custom(_clip, lambda tangents, *_, **__: list(tangents)), -1.0, 1.0)
_identity(grad_scale, Custom(_scale, _scale), -1.0)
