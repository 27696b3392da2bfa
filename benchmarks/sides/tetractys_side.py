"""Tetractys' side: what a user would write."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import formulas
import numpy as np
from sides.case import DEVICE, Case, as_list
from workloads import PARAMETERS, Arrays

import tetractys as tx
from tetractys import layers, nonlinearities, objectives, updates
from tetractys import tensor as T

tx.config.floatX = "float32"
tx.config.device = DEVICE


def _inputs(data: Arrays) -> list[T.TensorVariable]:
    return [T.tensor(array.dtype.name, shape=(None,) * array.ndim, name=name)
            for name, array in data.items()]


def _case(data: Arrays, define: Callable[..., Any]) -> Case:
    variables = _inputs(data)
    return _compiled(_function(variables, define(*variables)), data, as_list)


def _function(inputs: list[T.TensorVariable], outputs: Any, updates: Any = None) -> tx.Function:
    return tx.function(inputs, outputs, updates=updates, on_device=DEVICE != "cpu")


def _compiled(function: tx.Function, arguments: Arrays,
              read: Callable[[Any], list[np.ndarray]]) -> Case:
    if DEVICE == "cpu":
        return Case(function, tuple(arguments.values()), read, lambda: function.seconds)
    variables = _inputs(arguments)
    moved = tx.function(variables, variables, on_device=True)(*arguments.values())

    def call(*values: Any) -> Any:
        result = function(*values)
        for array in result if isinstance(result, list) else [result]:
            array.synchronize()
        return result

    return Case(call, tuple(moved), read, lambda: function.seconds)


def call_2x1(data: Arrays) -> Case:
    """Return ``2 x + 1``, NumPy in and out."""
    x, = _inputs(data)
    function = tx.function([x], 2 * x + 1)
    return Case(function, tuple(data.values()), as_list, lambda: function.seconds)


def normal_cdf(x: T.TensorVariable) -> T.TensorVariable:
    """Return the normal distribution function, by its tanh approximation."""
    return 0.5 * (1 + T.tanh(formulas.CDF_SCALE * (x + formulas.CDF_CUBIC * x * x * x)))


def black_scholes(data: Arrays) -> Case:
    """Return the prices of European calls."""
    strike, rate, volatility = formulas.STRIKE, formulas.RATE, formulas.VOLATILITY

    def price(spot: T.TensorVariable, years: T.TensorVariable) -> T.TensorVariable:
        spread = volatility * T.sqrt(years)
        d1 = (T.log(spot / strike) + (rate + volatility ** 2 / 2) * years) / spread
        discounted = strike * T.exp(-rate * years)
        return spot * normal_cdf(d1) - discounted * normal_cdf(d1 - spread)

    return _case(data, price)


def robust_loss(data: Arrays) -> Case:
    """Return ``log cosh`` of residuals, summed, with its first two derivatives."""
    def derivatives(prediction: T.TensorVariable, target: T.TensorVariable
                    ) -> list[T.TensorVariable]:
        residual = prediction - target
        value = (T.softplus(2 * residual) - residual - math.log(2.0)).sum()
        gradient = tx.grad(value, prediction)
        return [value, gradient, tx.grad(gradient.sum(), prediction)]

    return _case(data, derivatives)


def log_softmax(data: Arrays) -> Case:
    """Return the logarithm of each row's softmax."""
    return _case(data, lambda x: T.log(T.nnet.softmax(x)))


def layer_norm(data: Arrays) -> Case:
    """Return the rows standardised, scaled and shifted."""
    def normalise(x: T.TensorVariable, scale: T.TensorVariable, shift: T.TensorVariable
                  ) -> T.TensorVariable:
        centred = x - x.mean(axis=1, keepdims=True)
        variance = (centred ** 2).mean(axis=1, keepdims=True)
        return centred / T.sqrt(variance + formulas.EPSILON) * scale + shift

    return _case(data, normalise)


def logistic(data: Arrays) -> Case:
    """Return the training step of the README of Theano."""
    x, y = T.fmatrix("x"), T.fvector("y")
    w, b = tx.shared(data["weights"], name="w"), tx.shared(data["bias"], name="b")
    p_1 = 1 / (1 + T.exp(-T.dot(x, w) - b))
    entropy = -y * T.log(p_1) - (1 - y) * T.log(1 - p_1)
    cost = entropy.mean() + formulas.DECAY * (w ** 2).sum()
    gw, gb = tx.grad(cost, [w, b])
    rate = formulas.LOGISTIC_RATE
    step = _function([x, y], [p_1 > 0.5, entropy],
                     [(w, w - rate * gw), (b, b - rate * gb)])
    return _compiled(step, {name: data[name] for name in "xy"}, lambda result: as_list(
        [*result, w.get_value(), b.get_value()]))


def mlp(data: Arrays) -> Case:
    """Return a training step of a network of dense layers."""
    images, labels = T.fmatrix("images"), T.lvector("labels")
    first, second, last = (data[f"b{layer}"].size for layer in (1, 2, 3))
    network = layers.InputLayer(data["images"].shape, images)
    for units in (first, second):
        network = layers.DenseLayer(network, units)
    network = layers.DenseLayer(network, last, nonlinearity=nonlinearities.softmax)
    layers.set_all_param_values(network, [data[f"{kind}{n}"] for n in (1, 2, 3) for kind in "wb"])
    loss = objectives.categorical_crossentropy(layers.get_output(network), labels).mean()
    parameters = layers.get_all_params(network, trainable=True)
    step = _function([images, labels], loss, updates.nesterov_momentum(
        loss, parameters, formulas.LEARNING_RATE, formulas.MOMENTUM))
    given = {name: data[name] for name in ("images", "labels")}
    return _compiled(step, given, lambda result: as_list(
        [result, *layers.get_all_param_values(network)]))


def adam(data: Arrays) -> Case:
    """Return a step of Adam."""
    values = [tx.shared(array, name=name) for name, array in data.items()]
    parameters, gradients = values[:PARAMETERS], values[PARAMETERS:]
    step = tx.function([], [], updates=updates.adam(
        gradients, parameters, formulas.ADAM_RATE, formulas.BETA1, formulas.BETA2,
        formulas.ADAM_EPSILON))
    return _compiled(step, {}, lambda _: as_list([p.get_value() for p in parameters]))


def matmul(data: Arrays) -> Case:
    """Return a matrix product."""
    return _case(data, T.dot)


def elementwise_300(data: Arrays) -> Case:
    """Return a chain of 300 elementwise operations."""
    def chain(x: T.TensorVariable) -> T.TensorVariable:
        y = x
        for k in range(50):
            y = T.maximum(y * (0.9 + k / 1000) + x, -3)
            y = y / (1 + abs(y))
        return y

    return _case(data, chain)


SIDE = {"call_2x1": call_2x1, "black_scholes": black_scholes, "robust_loss": robust_loss,
        "log_softmax": log_softmax, "layer_norm": layer_norm, "logistic": logistic, "mlp": mlp,
        "adam": adam,
        "matmul": matmul, "elementwise_300": elementwise_300}
