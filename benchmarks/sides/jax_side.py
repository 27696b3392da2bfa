"""JAX's side: jitted functions on device arrays, parameters donated; results waited for.

``call_2x1`` takes and returns NumPy arrays, as every side does there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import formulas
import jax
import jax.numpy as jnp
import numpy as np
from sides.case import DEVICE, Case, as_list
from workloads import PARAMETERS, Arrays

jax.config.update("jax_enable_x64", True)

if DEVICE != "cpu":
    if jax.default_backend() == "cpu":
        raise ImportError("JAX finds no GPU", name="jax with CUDA")
    # The others compute float32 products in float32.
    jax.config.update("jax_default_matmul_precision", "highest")


def _case(data: Arrays, define: Callable[..., Any]) -> Case:
    jitted = jax.jit(define)
    arrays = tuple(jax.device_put(array) for array in data.values())
    return Case(lambda *args: jax.block_until_ready(jitted(*args)), arrays, as_list)


def call_2x1(data: Arrays) -> Case:
    """Return ``2 x + 1``, NumPy in and out."""
    jitted = jax.jit(lambda x: 2 * x + 1)
    return Case(lambda x: np.asarray(jitted(x)), tuple(data.values()), as_list)


def normal_cdf(x: jax.Array) -> jax.Array:
    """Return the normal distribution function, by its tanh approximation."""
    return 0.5 * (1 + jnp.tanh(formulas.CDF_SCALE * (x + formulas.CDF_CUBIC * x * x * x)))


def black_scholes(data: Arrays) -> Case:
    """Return the prices of European calls."""
    strike, rate, volatility = formulas.STRIKE, formulas.RATE, formulas.VOLATILITY

    def price(spot: jax.Array, years: jax.Array) -> jax.Array:
        spread = volatility * jnp.sqrt(years)
        d1 = (jnp.log(spot / strike) + (rate + volatility ** 2 / 2) * years) / spread
        discounted = strike * jnp.exp(-rate * years)
        return spot * normal_cdf(d1) - discounted * normal_cdf(d1 - spread)

    return _case(data, price)


def robust_loss(data: Arrays) -> Case:
    """Return ``log cosh`` of residuals, summed, with its first two derivatives."""
    def loss(prediction: jax.Array, target: jax.Array) -> jax.Array:
        residual = prediction - target
        return (jax.nn.softplus(2 * residual) - residual - math.log(2.0)).sum()

    def slopes(prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, tuple]:
        value, gradient = jax.value_and_grad(loss)(prediction, target)
        return gradient.sum(), (value, gradient)

    def derivatives(prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, ...]:
        (_, (value, gradient)), hessian = jax.value_and_grad(slopes, has_aux=True)(
            prediction, target)
        return value, gradient, hessian

    return _case(data, derivatives)


def layer_norm(data: Arrays) -> Case:
    """Return the rows standardised, scaled and shifted."""
    def normalise(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        centred = x - x.mean(axis=1, keepdims=True)
        variance = (centred ** 2).mean(axis=1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + formulas.EPSILON) * scale + shift

    return _case(data, normalise)


def _training(data: Arrays, step: Callable[..., Any], state: Any, names: tuple[str, ...]) -> Case:
    """Return a case whose jitted step takes the state first and returns it first."""
    jitted = jax.jit(step, donate_argnums=0)
    current = [jax.tree.map(jax.device_put, state)]

    def call(*batch: jax.Array) -> Any:
        current[0], outputs = jitted(current[0], *batch)
        jax.block_until_ready(current[0])
        return jax.block_until_ready(outputs)

    def read(outputs: Any) -> list[np.ndarray]:
        parameters = current[0][0]
        return as_list([*outputs, *parameters])

    return Case(call, tuple(jax.device_put(data[name]) for name in names), read)


def logistic(data: Arrays) -> Case:
    """Return the training step of the README of Theano."""
    def cost(parameters: tuple, x: jax.Array, y: jax.Array) -> tuple[jax.Array, tuple]:
        w, b = parameters
        score = x @ w + b
        entropy = y * jax.nn.softplus(-score) + (1 - y) * jax.nn.softplus(score)
        return entropy.mean() + formulas.DECAY * (w ** 2).sum(), (score > 0, entropy)

    def step(state: tuple, x: jax.Array, y: jax.Array) -> tuple[tuple, tuple]:
        (parameters,) = state
        gradients, outputs = jax.grad(cost, has_aux=True)(parameters, x, y)
        new = tuple(p - formulas.LOGISTIC_RATE * g for p, g in zip(parameters, gradients))
        return (new,), outputs

    return _training(data, step, ((data["weights"], data["bias"]),), ("x", "y"))


def mlp(data: Arrays) -> Case:
    """Return a training step of a network of dense layers."""
    parameters = tuple(data[f"{kind}{n}"] for n in (1, 2, 3) for kind in "wb")

    def cost(parameters: tuple, images: jax.Array, labels: jax.Array) -> jax.Array:
        w1, b1, w2, b2, w3, b3 = parameters
        hidden = jax.nn.relu(images @ w1 + b1)
        hidden = jax.nn.relu(hidden @ w2 + b2)
        scores = jax.nn.log_softmax(hidden @ w3 + b3)
        return -jnp.take_along_axis(scores, labels[:, None], axis=1).mean()

    def step(state: tuple, images: jax.Array, labels: jax.Array) -> tuple[tuple, tuple]:
        parameters, velocities = state
        loss, gradients = jax.value_and_grad(cost)(parameters, images, labels)
        velocities = tuple(formulas.MOMENTUM * v - formulas.LEARNING_RATE * g
                           for v, g in zip(velocities, gradients))
        parameters = tuple(p + formulas.MOMENTUM * v - formulas.LEARNING_RATE * g
                           for p, v, g in zip(parameters, velocities, gradients))
        return (parameters, velocities), (loss,)

    state = (parameters, tuple(np.zeros_like(p) for p in parameters))
    return _training(data, step, state, ("images", "labels"))


def adam(data: Arrays) -> Case:
    """Return a step of Adam."""
    arrays = tuple(data.values())
    parameters, gradients = arrays[:PARAMETERS], arrays[PARAMETERS:]
    gradients = jax.tree.map(jax.device_put, gradients)

    def step(state: tuple, gradients: tuple) -> tuple[tuple, tuple]:
        parameters, means, squares, count = state
        count = count + 1
        means = tuple(formulas.BETA1 * m + (1 - formulas.BETA1) * g
                      for m, g in zip(means, gradients))
        squares = tuple(formulas.BETA2 * v + (1 - formulas.BETA2) * g * g
                        for v, g in zip(squares, gradients))
        rate = formulas.ADAM_RATE * jnp.sqrt(1 - formulas.BETA2 ** count) / (
            1 - formulas.BETA1 ** count)
        parameters = tuple(p - rate * m / (jnp.sqrt(v) + formulas.ADAM_EPSILON)
                           for p, m, v in zip(parameters, means, squares))
        return (parameters, means, squares, count), ()

    means, squares = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    case = _training(data, step, (parameters, tuple(means), tuple(squares), np.float32(0)), ())
    return Case(lambda: case.function(gradients), (), case.read)


def elementwise_300(data: Arrays) -> Case:
    """Return a chain of 300 elementwise operations."""
    def chain(x: jax.Array) -> jax.Array:
        y = x
        for k in range(50):
            y = jnp.maximum(y * (0.9 + k / 1000) + x, -3)
            y = y / (1 + abs(y))
        return y

    return _case(data, chain)


SIDE = {"call_2x1": call_2x1, "black_scholes": black_scholes, "robust_loss": robust_loss,
        "log_softmax": lambda data: _case(data, jax.nn.log_softmax), "layer_norm": layer_norm,
        "logistic": logistic, "mlp": mlp, "adam": adam,
        "matmul": lambda data: _case(data, jnp.matmul),
        "elementwise_300": elementwise_300}
