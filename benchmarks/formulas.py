"""The workloads' mathematics in plain NumPy.

Called with float64 arrays these are the reference for every error; called with the workload's own
dtype they are what NumPy itself is timed on.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray"

STRIKE, RATE, VOLATILITY = 100.0, 0.03, 0.25
CDF_SCALE, CDF_CUBIC = 0.7978845608028654, 0.044715
"""``Phi(x) ~ (1 + tanh(sqrt(2/pi) (x + 0.044715 x**3))) / 2`` (Page, 1977), the form in which
options are usually priced on vector units."""

LEARNING_RATE, MOMENTUM, DECAY = 0.01, 0.9, 0.01
"""Of the MLP step; decay is of the logistic regression's L2 penalty."""

LOGISTIC_RATE = 0.1
ADAM_RATE, BETA1, BETA2, ADAM_EPSILON = 0.001, 0.9, 0.999, 1e-8
EPSILON = 1e-5


def normal_cdf(x: Array) -> Array:
    """Return the normal distribution function, by its tanh approximation."""
    return 0.5 * (1 + np.tanh(CDF_SCALE * (x + CDF_CUBIC * x * x * x)))


def black_scholes(spot: Array, years: Array) -> list[Array]:
    """Return the prices of European calls."""
    spread = VOLATILITY * np.sqrt(years)
    d1 = (np.log(spot / STRIKE) + (RATE + VOLATILITY ** 2 / 2) * years) / spread
    discounted = STRIKE * np.exp(-RATE * years)
    return [spot * normal_cdf(d1) - discounted * normal_cdf(d1 - spread)]


def robust_loss(prediction: Array, target: Array) -> list[Array]:
    """Return the sum of ``log cosh r``, its gradient and its diagonal Hessian."""
    residual = prediction - target
    magnitude = np.abs(residual)
    value = (magnitude + np.log1p(np.exp(-2 * magnitude)) - math.log(2.0)).sum()
    slope = np.tanh(residual)
    return [value, slope, 1 - slope * slope]


def log_softmax(x: Array) -> list[Array]:
    """Return the logarithm of the softmax of each row."""
    shifted = x - x.max(axis=1, keepdims=True)
    return [shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))]


def layer_norm(x: Array, scale: Array, shift: Array) -> list[Array]:
    """Return each row standardised, then scaled and shifted by feature."""
    centred = x - x.mean(axis=1, keepdims=True)
    variance = (centred * centred).mean(axis=1, keepdims=True)
    return [centred / np.sqrt(variance + EPSILON) * scale + shift]


def logistic_step(x: Array, y: Array, weights: Array, bias: Array) -> list[Array]:
    """Return prediction and cross-entropy by row, and weights and bias after a step.

    The training step of the README of Theano: gradient descent on the mean cross-entropy and an
    L2 penalty.
    """
    score = x @ weights + bias
    probability = 1 / (1 + np.exp(-score))
    entropy = np.logaddexp(0, score) - y * score
    error = (probability - y) / len(y)
    gradient = error @ x + 2 * DECAY * weights
    return [probability > 0.5, entropy, weights - LOGISTIC_RATE * gradient,
            bias - LOGISTIC_RATE * error.sum()]


def mlp_step(images: Array, labels: Array, parameters: list[Array], velocities: list[Array]
             ) -> tuple[Array, list[Array], list[Array]]:
    """Return loss, parameters and velocities of a step of training with Nesterov's momentum.

    Two hidden layers of rectifiers, a softmax, the mean cross-entropy.
    """
    w1, b1, w2, b2, w3, b3 = parameters
    hidden1 = np.maximum(images @ w1 + b1, 0)
    hidden2 = np.maximum(hidden1 @ w2 + b2, 0)
    (scores,) = log_softmax(hidden2 @ w3 + b3)
    rows = np.arange(len(labels))
    loss = -scores[rows, labels].mean()
    delta3 = np.exp(scores)
    delta3[rows, labels] -= 1
    delta3 /= len(labels)
    delta2 = (delta3 @ w3.T) * (hidden2 > 0)
    delta1 = (delta2 @ w2.T) * (hidden1 > 0)
    gradients = [images.T @ delta1, delta1.sum(0), hidden1.T @ delta2, delta2.sum(0),
                 hidden2.T @ delta3, delta3.sum(0)]
    velocities = [MOMENTUM * v - LEARNING_RATE * g for v, g in zip(velocities, gradients)]
    parameters = [p + MOMENTUM * v - LEARNING_RATE * g
                  for p, v, g in zip(parameters, velocities, gradients)]
    return loss, parameters, velocities


def mlp_first_step(images: Array, labels: Array, *parameters: Array) -> list[Array]:
    """Return the loss and the parameters after the first step."""
    loss, new, _ = mlp_step(images, labels, list(parameters),
                            [np.zeros_like(p) for p in parameters])
    return [loss, *new]


def adam_step(parameters: list[Array], gradients: list[Array], means: list[Array],
              squares: list[Array], step: int) -> list[list[Array]]:
    """Return parameters, means and squares after a step of Adam (Kingma and Ba, 2015)."""
    means = [BETA1 * m + (1 - BETA1) * g for m, g in zip(means, gradients)]
    squares = [BETA2 * v + (1 - BETA2) * g * g for v, g in zip(squares, gradients)]
    rate = ADAM_RATE * math.sqrt(1 - BETA2 ** step) / (1 - BETA1 ** step)
    parameters = [p - rate * m / (np.sqrt(v) + ADAM_EPSILON)
                  for p, m, v in zip(parameters, means, squares)]
    return [parameters, means, squares]


def adam_first_step(*arrays: Array) -> list[Array]:
    """Return parameters, given first, after a step of Adam along their gradients."""
    parameters, gradients = arrays[:len(arrays) // 2], arrays[len(arrays) // 2:]
    zeros = [np.zeros_like(p) for p in parameters]
    return adam_step(list(parameters), list(gradients), zeros, zeros, 1)[0]


def matmul(left: Array, right: Array) -> list[Array]:
    """Return the matrix product."""
    return [left @ right]


def twice_plus_one(x: Array) -> list[Array]:
    """Return ``2 x + 1``."""
    return [2 * x + 1]


def elementwise_300(x: Array) -> list[Array]:
    """Return 300 elementwise operations of one argument, one after the other."""
    y = x
    for k in range(50):
        y = np.maximum(y * (0.9 + k / 1000) + x, -3)
        y = y / (1 + abs(y))
    return [y]
