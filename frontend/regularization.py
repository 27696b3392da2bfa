"""Penalties on parameters, to be added to a loss.

>>> from tetractys import layers, regularization
>>> network = layers.DenseLayer((None, 3), num_units=2)
>>> penalty = 1e-4 * regularization.regularize_network_params(network, regularization.l2)
>>> penalty.ndim
0
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from . import tensor as T
from .layers import Layer, get_all_params

__all__ = [
    "apply_penalty", "l1", "l2", "regularize_layer_params", "regularize_layer_params_weighted",
    "regularize_network_params",
]

Penalty: TypeAlias = "Callable[..., T.Variable]"


def l1(x: T.Variable) -> T.Variable:
    """Return the sum of absolute values."""
    return abs(x).sum()


def l2(x: T.Variable) -> T.Variable:
    """Return the sum of squares."""
    return T.sqr(x).sum()


def apply_penalty(tensor_or_tensors: T.Variable | Iterable[T.Variable], penalty: Penalty,
                  **kwargs: Any) -> T.Variable:
    """Return the penalty of one variable, or the sum of those of several.

    Parameters
    ----------
    tensor_or_tensors : Variable or iterable of Variable
    penalty : callable
        ``penalty(x, **kwargs) -> scalar``, such as :func:`l2`.

    Returns
    -------
    Variable, () float
        For no variables at all, the constant zero.
    """
    if isinstance(tensor_or_tensors, T.Variable):
        return penalty(tensor_or_tensors, **kwargs)
    terms = [penalty(tensor, **kwargs) for tensor in tensor_or_tensors]
    return sum(terms[1:], start=terms[0]) if terms else T.constant(0.0)


def _tags(tags: Mapping[str, bool] | None) -> Mapping[str, bool]:
    return {"regularizable": True} if tags is None else tags


def regularize_layer_params(layer: Layer | Iterable[Layer], penalty: Penalty,
                            tags: Mapping[str, bool] | None = None, **kwargs: Any) -> T.Variable:
    """Return the penalty of the parameters of one layer or several, not of those below them.

    Parameters
    ----------
    layer : Layer or iterable of Layer
    penalty : callable
    tags : mapping, optional
        Which parameters, see ``Layer.get_params``; by default the regularizable ones.
    """
    several = [layer] if isinstance(layer, Layer) else layer
    parameters = [p for one in several for p in one.get_params(**_tags(tags))]
    return apply_penalty(parameters, penalty, **kwargs)


def regularize_layer_params_weighted(layers: Mapping[Layer, float], penalty: Penalty,
                                     tags: Mapping[str, bool] | None = None,
                                     **kwargs: Any) -> T.Variable:
    """Return the sum over layers of coefficient times penalty.

    Parameters
    ----------
    layers : mapping of Layer to float or scalar expression
    penalty : callable
    tags : mapping, optional
        Which parameters, see ``Layer.get_params``; by default the regularizable ones.
    """
    terms = [coefficient * regularize_layer_params(layer, penalty, tags, **kwargs)
             for layer, coefficient in layers.items()]
    return sum(terms[1:], start=terms[0]) if terms else T.constant(0.0)


def regularize_network_params(layer: Layer | Iterable[Layer], penalty: Penalty,
                              tags: Mapping[str, bool] | None = None,
                              **kwargs: Any) -> T.Variable:
    """Return the penalty of all parameters that the output of ``layer`` depends on.

    Parameters
    ----------
    layer : Layer or iterable of Layer
    penalty : callable
    tags : mapping, optional
        Which parameters, see ``Layer.get_params``; by default the regularizable ones.
    """
    return apply_penalty(get_all_params(layer, **_tags(tags)), penalty, **kwargs)
