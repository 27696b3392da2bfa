"""Optimisers: from a loss and parameters to a dictionary of updates for ``tx.function``.

Every optimiser takes a scalar loss, which it differentiates, or a list with one gradient for each
parameter; nothing here knows about layers.  Learning rates and other coefficients may be numbers,
shared variables (to change them while training) or scalar expressions.  A parameter keeps its
dtype: coefficients of another one are cast to it.

Examples
--------
>>> import tetractys as tx
>>> from tetractys import tensor as T, updates
>>> w = tx.shared([1.0, -2.0], name="w")
>>> step = tx.function([], (w ** 2).sum(), updates=updates.sgd((w ** 2).sum(), [w], 0.25))
>>> step()
array(5.)
>>> w.get_value()
array([ 0.5, -1. ])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from . import tensor as T
from .runtime.errors import ArgumentError, ShapeError, format_message
from .gradient import grad
from .shared import SharedVariable, shared

__all__ = [
    "adadelta", "adagrad", "adam", "adamax", "amsgrad", "apply_momentum",
    "apply_nesterov_momentum", "get_or_compute_grads", "momentum", "nesterov_momentum",
    "norm_constraint", "rmsprop", "sgd", "total_norm_constraint",
]

Scalar: TypeAlias = "float | np.generic | T.Variable"
Updates: TypeAlias = "dict[SharedVariable, T.Variable]"
LossOrGrads: TypeAlias = "T.Variable | Sequence[T.Variable]"


def get_or_compute_grads(loss_or_grads: LossOrGrads,
                         params: Sequence[SharedVariable]) -> list[T.Variable]:
    """Return one gradient for each parameter.

    Parameters
    ----------
    loss_or_grads : Variable, or sequence of Variable
        A scalar loss to differentiate, or the gradients themselves.
    params : sequence of SharedVariable

    Raises
    ------
    ArgumentError
        If a parameter is not a shared variable, or the number of gradients differs.
    """
    params = list(params)
    for param in params:
        if not isinstance(param, SharedVariable):
            raise ArgumentError(format_message(
                "Only shared variables can be updated.", values=f"parameter {param!r}",
                remedy="for parameters given as expressions, pass the shared variables they are "
                       "made of: layers.get_all_params does so by default"))
    if not isinstance(loss_or_grads, (list, tuple)):
        return grad(loss_or_grads, params)
    if len(loss_or_grads) != len(params):
        raise ArgumentError(format_message(
            "There must be one gradient for each parameter.",
            values=f"{len(loss_or_grads)} gradients, {len(params)} parameters"))
    return [T.as_tensor_variable(gradient) for gradient in loss_or_grads]


def _like(value: Scalar, param: T.Variable) -> float | T.Variable:
    """Return a coefficient that cannot change the parameter's dtype.

    A Python number adapts to the tensors it meets; anything else is cast.
    """
    if isinstance(value, (int, float, np.generic)):
        return float(value)
    return T.cast(value, param.dtype)


def _state(param: SharedVariable, name: str) -> SharedVariable:
    """Return zeros of the parameter's shape and dtype, kept from call to call."""
    value = param.get_value(borrow=True)
    label = f"{param.name}.{name}" if param.name else name
    return shared(np.zeros(value.shape, value.dtype), name=label, shape=param.type.shape)


def _step_count() -> SharedVariable:
    """Return a counter of steps.

    It is float64 whatever ``floatX`` is: ``1 - 0.999**t`` would lose four digits in float32.
    """
    return shared(np.zeros((), np.float64), name="steps")


# -- plain descent and momentum --------------------------------------------------------------------

def sgd(loss_or_grads: LossOrGrads, params: Sequence[SharedVariable],
        learning_rate: Scalar) -> Updates:
    """Stochastic gradient descent: ``p <- p - rate * g``.

    Parameters
    ----------
    loss_or_grads : Variable, or sequence of Variable
        A scalar loss, or one gradient for each parameter.
    params : sequence of SharedVariable
    learning_rate : scalar

    Returns
    -------
    dict of SharedVariable to Variable
    """
    grads = get_or_compute_grads(loss_or_grads, params)
    return {param: param - _like(learning_rate, param) * gradient
            for param, gradient in zip(params, grads)}


def apply_momentum(updates: Updates, params: Sequence[SharedVariable] | None = None,
                   momentum: Scalar = 0.9) -> Updates:
    """Add momentum to the steps of other updates: ``v <- m v + step``, ``p <- p + v``.

    Parameters
    ----------
    updates : dict
        The step of a parameter is what this would add to it.
    params : sequence of SharedVariable, optional
        Which parameters; by default all that are updated.
    momentum : scalar
        0.9 averages over about the last ten steps.

    Returns
    -------
    dict
        A new one, with the velocities' updates added.

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    """
    result = dict(updates)
    for param in list(updates) if params is None else params:
        velocity = _state(param, "velocity")
        moved = _like(momentum, param) * velocity + (updates[param] - param)
        result[velocity], result[param] = moved, param + moved
    return result


def momentum(loss_or_grads: LossOrGrads, params: Sequence[SharedVariable],
             learning_rate: Scalar, momentum: Scalar = 0.9) -> Updates:
    """Descent with momentum: ``v <- m v - rate * g``, ``p <- p + v``.

    Parameters
    ----------
    loss_or_grads : Variable, or sequence of Variable
        A scalar loss, or one gradient for each parameter.
    params : sequence of SharedVariable
    learning_rate, momentum : scalar

    Returns
    -------
    dict of SharedVariable to Variable
    """
    return apply_momentum(sgd(loss_or_grads, params, learning_rate), momentum=momentum)


def apply_nesterov_momentum(updates: Updates, params: Sequence[SharedVariable] | None = None,
                            momentum: Scalar = 0.9) -> Updates:
    """Add Nesterov momentum to the steps of other updates: ``v <- m v + step``,
    ``p <- p + m v + step``.

    Parameters
    ----------
    updates : dict
        The step of a parameter is what this would add to it.
    params : sequence of SharedVariable, optional
        Which parameters; by default all that are updated.
    momentum : scalar

    Returns
    -------
    dict
        A new one, with the velocities' updates added.

    Notes
    -----
    The parameters held are the look-ahead ones, at which the gradient is taken, so that one
    gradient a step is enough.

    References
    ----------
    Bengio, Boulanger-Lewandowski and Pascanu, "Advances in optimizing recurrent networks", ICASSP
    2013, equation 7, for this form of Nesterov's method (1983).
    """
    result = dict(updates)
    for param in list(updates) if params is None else params:
        velocity, factor = _state(param, "velocity"), _like(momentum, param)
        step = updates[param] - param
        moved = factor * velocity + step
        result[velocity], result[param] = moved, param + factor * moved + step
    return result


def nesterov_momentum(loss_or_grads: LossOrGrads, params: Sequence[SharedVariable],
                      learning_rate: Scalar, momentum: Scalar = 0.9) -> Updates:
    """Descent with Nesterov momentum: ``v <- m v - rate * g``, ``p <- p + m v - rate * g``.

    See :func:`apply_nesterov_momentum`.

    Parameters
    ----------
    loss_or_grads : Variable, or sequence of Variable
        A scalar loss, or one gradient for each parameter.
    params : sequence of SharedVariable
    learning_rate, momentum : scalar

    Returns
    -------
    dict of SharedVariable to Variable
    """
    return apply_nesterov_momentum(sgd(loss_or_grads, params, learning_rate), momentum=momentum)


# -- a step size for every element -----------------------------------------------------------------

def adagrad(loss_or_grads: LossOrGrads, params: Sequence[SharedVariable],
            learning_rate: Scalar = 1.0, epsilon: Scalar = 1e-6) -> Updates:
    """Divide by the root of the sum of squares: ``a <- a + g**2``,
    ``p <- p - rate * g / sqrt(a + epsilon)``.

    Parameters
    ----------
    loss_or_grads : Variable, or sequence of Variable
        A scalar loss, or one gradient for each parameter.
    params : sequence of SharedVariable
    learning_rate, epsilon : scalar

    Returns
    -------
    dict of SharedVariable to Variable

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic
    optimization", JMLR 12, 2011.
    """
    grads = get_or_compute_grads(loss_or_grads, params)
    updates: Updates = {}
    for param, gradient in zip(params, grads):
        squares = _state(param, "squares")
        total = squares + T.sqr(gradient)
        updates[squares] = total
        updates[param] = param - _like(learning_rate, param) * gradient / T.sqrt(
            total + _like(epsilon, param))
    return updates


def rmsprop(loss_or_grads: LossOrGrads, params: Sequence[SharedVariable],
            learning_rate: Scalar = 1.0, rho: Scalar = 0.9, epsilon: Scalar = 1e-6) -> Updates:
    """Divide by the running root mean square: ``a <- rho a + (1 - rho) g**2``,
    ``p <- p - rate * g / sqrt(a + epsilon)``.

    Parameters
    ----------
    loss_or_grads : Variable, or sequence of Variable
        A scalar loss, or one gradient for each parameter.
    params : sequence of SharedVariable
    learning_rate : scalar
    rho : scalar
        Decay of the mean, between 0 and 1.
    epsilon : scalar

    Returns
    -------
    dict of SharedVariable to Variable

    References
    ----------
    Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5, Coursera, 2012.
    """
    grads = get_or_compute_grads(loss_or_grads, params)
    updates: Updates = {}
    for param, gradient in zip(params, grads):
        squares, decay = _state(param, "squares"), _like(rho, param)
        mean = decay * squares + (1.0 - decay) * T.sqr(gradient)
        updates[squares] = mean
        updates[param] = param - _like(learning_rate, param) * gradient / T.sqrt(
            mean + _like(epsilon, param))
    return updates


def adadelta(loss_or_grads: LossOrGrads, params: Sequence[SharedVariable],
             learning_rate: Scalar = 1.0, rho: Scalar = 0.95, epsilon: Scalar = 1e-6) -> Updates:
    """Scale by past steps over past gradients: ``a <- rho a + (1 - rho) g**2``,
    ``s = g sqrt(d + epsilon) / sqrt(a + epsilon)``, ``p <- p - rate * s``,
    ``d <- rho d + (1 - rho) s**2``.

    Parameters
    ----------
    loss_or_grads : Variable, or sequence of Variable
        A scalar loss, or one gradient for each parameter.
    params : sequence of SharedVariable
    learning_rate : scalar
        1 is the paper's method.
    rho : scalar
        Decay of both means, between 0 and 1.
    epsilon : scalar
        Also sets the size of the first steps.

    Returns
    -------
    dict of SharedVariable to Variable

    References
    ----------
    Zeiler, "ADADELTA: an adaptive learning rate method", arXiv:1212.5701, 2012, algorithm 1.
    """
    grads = get_or_compute_grads(loss_or_grads, params)
    updates: Updates = {}
    for param, gradient in zip(params, grads):
        squares, steps = _state(param, "squares"), _state(param, "steps")
        decay, floor = _like(rho, param), _like(epsilon, param)
        mean = decay * squares + (1.0 - decay) * T.sqr(gradient)
        step = gradient * T.sqrt(steps + floor) / T.sqrt(mean + floor)
        updates[squares] = mean
        updates[steps] = decay * steps + (1.0 - decay) * T.sqr(step)
        updates[param] = param - _like(learning_rate, param) * step
    return updates


# -- the Adam family -------------------------------------------------------------------------------

def adam(loss_or_grads: LossOrGrads, params: Sequence[SharedVariable],
         learning_rate: Scalar = 0.001, beta1: Scalar = 0.9, beta2: Scalar = 0.999,
         epsilon: Scalar = 1e-8) -> Updates:
    """Running means of gradient and square: ``m <- b1 m + (1 - b1) g``,
    ``v <- b2 v + (1 - b2) g**2``, ``p <- p - r_t m / (sqrt(v) + epsilon)`` with
    ``r_t = rate sqrt(1 - b2**t) / (1 - b1**t)``.

    Parameters
    ----------
    loss_or_grads : Variable, or sequence of Variable
        A scalar loss, or one gradient for each parameter.
    params : sequence of SharedVariable
    learning_rate : scalar
    beta1, beta2 : scalar
        Decays of the two means.
    epsilon : scalar

    Returns
    -------
    dict of SharedVariable to Variable

    References
    ----------
    Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1 with the
    rearrangement at the end of section 2.
    """
    grads = get_or_compute_grads(loss_or_grads, params)
    count = _step_count()
    updates: Updates = {count: count + 1.0}
    rate = _bias_corrected(learning_rate, beta1, beta2, count + 1.0)
    for param, gradient in zip(params, grads):
        mean = _running_mean(updates, param, "mean", gradient, beta1)
        squares = _running_mean(updates, param, "squares", T.sqr(gradient), beta2)
        updates[param] = param - T.cast(rate, param.dtype) * mean / (
            T.sqrt(squares) + _like(epsilon, param))
    return updates


def adamax(loss_or_grads: LossOrGrads, params: Sequence[SharedVariable],
           learning_rate: Scalar = 0.002, beta1: Scalar = 0.9, beta2: Scalar = 0.999,
           epsilon: Scalar = 1e-8) -> Updates:
    """Adam with the largest recent gradient as scale: ``m <- b1 m + (1 - b1) g``,
    ``u <- max(b2 u, |g|)``, ``p <- p - rate / (1 - b1**t) * m / (u + epsilon)``.

    Parameters
    ----------
    loss_or_grads : Variable, or sequence of Variable
        A scalar loss, or one gradient for each parameter.
    params : sequence of SharedVariable
    learning_rate : scalar
    beta1, beta2 : scalar
        Decays of the mean and of the largest gradient.
    epsilon : scalar

    Returns
    -------
    dict of SharedVariable to Variable

    References
    ----------
    Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 2.
    """
    grads = get_or_compute_grads(loss_or_grads, params)
    count = _step_count()
    updates: Updates = {count: count + 1.0}
    rate = _bias_corrected(learning_rate, beta1, None, count + 1.0)
    for param, gradient in zip(params, grads):
        mean = _running_mean(updates, param, "mean", gradient, beta1)
        largest = _state(param, "largest")
        updates[largest] = T.maximum(_like(beta2, param) * largest, abs(gradient))
        updates[param] = param - T.cast(rate, param.dtype) * mean / (
            updates[largest] + _like(epsilon, param))
    return updates


def amsgrad(loss_or_grads: LossOrGrads, params: Sequence[SharedVariable],
            learning_rate: Scalar = 0.001, beta1: Scalar = 0.9, beta2: Scalar = 0.999,
            epsilon: Scalar = 1e-8) -> Updates:
    """Adam whose scale never shrinks: with ``m``, ``v`` and ``r_t`` of :func:`adam`,
    ``w <- max(w, v)``, ``p <- p - r_t m / (sqrt(w) + epsilon)``.

    Parameters
    ----------
    loss_or_grads : Variable, or sequence of Variable
        A scalar loss, or one gradient for each parameter.
    params : sequence of SharedVariable
    learning_rate : scalar
    beta1, beta2 : scalar
        Decays of the two means.
    epsilon : scalar

    Returns
    -------
    dict of SharedVariable to Variable

    References
    ----------
    Reddi, Kale and Kumar, "On the convergence of Adam and beyond", ICLR 2018, algorithm 2; with
    Adam's bias corrections, which the paper leaves out.
    """
    grads = get_or_compute_grads(loss_or_grads, params)
    count = _step_count()
    updates: Updates = {count: count + 1.0}
    rate = _bias_corrected(learning_rate, beta1, beta2, count + 1.0)
    for param, gradient in zip(params, grads):
        mean = _running_mean(updates, param, "mean", gradient, beta1)
        squares = _running_mean(updates, param, "squares", T.sqr(gradient), beta2)
        largest = _state(param, "largest")
        updates[largest] = T.maximum(largest, squares)
        updates[param] = param - T.cast(rate, param.dtype) * mean / (
            T.sqrt(updates[largest]) + _like(epsilon, param))
    return updates


def _bias_corrected(learning_rate: Scalar, beta1: Scalar, beta2: Scalar | None,
                    count: T.Variable) -> T.Variable:
    """Return ``rate sqrt(1 - beta2**t) / (1 - beta1**t)``; without ``beta2`` its factor is 1."""
    rate = learning_rate / (1.0 - beta1 ** count)
    return rate if beta2 is None else rate * T.sqrt(1.0 - beta2 ** count)


def _running_mean(updates: Updates, param: SharedVariable, name: str, value: T.Variable,
                  decay: Scalar) -> T.Variable:
    """Return ``decay * mean + (1 - decay) * value``, and enter it as the mean's update."""
    mean, decay = _state(param, name), _like(decay, param)
    updates[mean] = decay * mean + (1.0 - decay) * value
    return updates[mean]


# -- constraints -----------------------------------------------------------------------------------

def norm_constraint(tensor_var: T.Variable, max_norm: Scalar,
                    norm_axes: int | Sequence[int] | None = None,
                    epsilon: float = 1e-7) -> T.Variable:
    """Shrink the vectors of a tensor that are longer than ``max_norm`` to that length.

    Parameters
    ----------
    tensor_var : Variable
        Gradients, or the new values of parameters.
    max_norm : scalar
    norm_axes : int or sequence of int, optional
        Axes to sum squares over.  By default the inputs of a unit: axis 0 of a matrix ``(inputs,
        units)``, all axes but the first of filters ``(units, inputs, *field)``.
    epsilon : float
        Keeps the division defined for vectors of zeros.

    Returns
    -------
    Variable, like ``tensor_var``

    Raises
    ------
    ShapeError
        For a scalar or vector without ``norm_axes``.

    References
    ----------
    Srivastava et al., "Dropout", JMLR 15, 2014, section 5.1.
    """
    if norm_axes is None:
        if tensor_var.ndim < 2:
            raise ShapeError(format_message(
                "norm_constraint has no default axes for scalars and vectors.",
                values=f"{tensor_var!r} {tensor_var.type}", remedy="give norm_axes="))
        norm_axes = (0,) if tensor_var.ndim == 2 else tuple(range(1, tensor_var.ndim))
    norms = T.sqrt(T.sum(T.sqr(tensor_var), axis=norm_axes, keepdims=True))
    target = T.minimum(norms, _like(max_norm, tensor_var))
    return tensor_var * (target / (norms + epsilon))


def total_norm_constraint(tensor_vars: Sequence[T.Variable], max_norm: Scalar,
                          epsilon: float = 1e-7, return_norm: bool = False
                          ) -> list[T.Variable] | tuple[list[T.Variable], T.Variable]:
    """Shrink several tensors by one factor, so that all elements together have a norm of at most
    ``max_norm``.

    Parameters
    ----------
    tensor_vars : sequence of Variable
        For example the gradients of a recurrent network.
    max_norm : scalar
    epsilon : float
        Keeps the division defined if all elements are zero.
    return_norm : bool
        Whether to return the norm before shrinking, too.

    Returns
    -------
    list of Variable, or (list of Variable, scalar Variable)

    References
    ----------
    Sutskever, Vinyals and Le, "Sequence to sequence learning with neural networks", NIPS 2014,
    section 3.4.
    """
    tensor_vars = list(tensor_vars)
    if not tensor_vars:
        raise ArgumentError(format_message("total_norm_constraint needs at least one tensor."))
    squares = [T.sum(T.sqr(tensor)) for tensor in tensor_vars]
    norm = T.sqrt(sum(squares[1:], start=squares[0]))
    factor = T.minimum(norm, _like(max_norm, norm)) / (norm + epsilon)
    constrained = [tensor * T.cast(factor, tensor.dtype) for tensor in tensor_vars]
    return (constrained, norm) if return_norm else constrained
