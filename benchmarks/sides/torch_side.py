"""PyTorch's side, eager and compiled by inductor (``torch.compile``).

``call_2x1`` takes and returns NumPy arrays, as every side does there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import formulas
import numpy as np
import torch
from sides.case import DEVICE, Case
from torch.nn import functional as F
from workloads import PARAMETERS, Arrays

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


def _arrays(result: Any) -> list[np.ndarray]:
    results = result if isinstance(result, (tuple, list)) else [result]
    return [value.detach().cpu().numpy() for value in results]


def _tensors(data: Arrays) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.array(array)).to(DEVICE) for array in data.values())


def _waited(case: Case) -> Case:
    """Return a case that waits for the GPU, where there is one."""
    if DEVICE == "cpu":
        return case

    def call(*arguments: Any) -> Any:
        result = case.function(*arguments)
        torch.cuda.synchronize()
        return result

    return Case(call, case.arguments, case.read)


def call_2x1(data: Arrays, compiled: Compile) -> Case:
    """Return ``2 x + 1``, NumPy in and out."""
    function = compiled(lambda x: 2 * x + 1)
    return Case(lambda x: function(torch.from_numpy(x).to(DEVICE)).cpu().numpy(),
                tuple(data.values()), lambda result: [result])


def _cdf(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * (1 + torch.tanh(formulas.CDF_SCALE * (x + formulas.CDF_CUBIC * x * x * x)))


def black_scholes(data: Arrays, compiled: Compile) -> Case:
    """Return the prices of European calls."""
    strike, rate, volatility = formulas.STRIKE, formulas.RATE, formulas.VOLATILITY

    def price(spot: torch.Tensor, years: torch.Tensor) -> torch.Tensor:
        spread = volatility * torch.sqrt(years)
        d1 = (torch.log(spot / strike) + (rate + volatility ** 2 / 2) * years) / spread
        discounted = strike * torch.exp(-rate * years)
        return spot * _cdf(d1) - discounted * _cdf(d1 - spread)

    return Case(compiled(price), _tensors(data), _arrays)


def robust_loss(data: Arrays, compiled: Compile) -> Case:
    """Return ``log cosh`` of residuals, summed, with its first two derivatives.

    Eager torch differentiates twice; inductor cannot compile double backward, and is given the
    derivatives by hand.
    """
    def by_hand(prediction: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        residual = prediction - target
        value = (F.softplus(2 * residual) - residual - math.log(2.0)).sum()
        slope = 2 * torch.sigmoid(2 * residual) - 1
        return value, slope, 1 - slope * slope

    def differentiated(prediction: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        prediction = prediction.detach().requires_grad_()
        residual = prediction - target
        value = (F.softplus(2 * residual) - residual - math.log(2.0)).sum()
        (gradient,) = torch.autograd.grad(value, prediction, create_graph=True)
        (hessian,) = torch.autograd.grad(gradient.sum(), prediction)
        return value, gradient, hessian

    function = compiled(by_hand)
    if function is by_hand:
        function = differentiated
    return Case(function, _tensors(data), _arrays)


def layer_norm(data: Arrays, compiled: Compile) -> Case:
    """Return the rows standardised, scaled and shifted."""
    function = compiled(lambda x, scale, shift: F.layer_norm(
        x, x.shape[1:], scale, shift, formulas.EPSILON))
    return Case(function, _tensors(data), _arrays)


def logistic(data: Arrays, compiled: Compile) -> Case:
    """Return the training step of the README of Theano."""
    x, y, weights, bias = _tensors(data)
    parameters = [weights.requires_grad_(), bias.requires_grad_()]

    @compiled
    def cost(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, b: torch.Tensor
             ) -> tuple[torch.Tensor, ...]:
        score = x @ w + b
        entropy = y * F.softplus(-score) + (1 - y) * F.softplus(score)
        return entropy.mean() + formulas.DECAY * (w ** 2).sum(), score > 0, entropy

    def step(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        value, prediction, entropy = cost(x, y, *parameters)
        gradients = torch.autograd.grad(value, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients):
                parameter.sub_(gradient, alpha=formulas.LOGISTIC_RATE)
        return [prediction, entropy]

    return Case(step, (x, y), lambda result: _arrays([*result, *parameters]))


def mlp(data: Arrays, compiled: Compile) -> Case:
    """Return a training step of a network of dense layers."""
    images, labels, *parameters = _tensors(data)
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.SGD(parameters, formulas.LEARNING_RATE, formulas.MOMENTUM,
                                nesterov=True)
    update = compiled(optimizer.step)

    @compiled
    def cost(images: torch.Tensor, labels: torch.Tensor, parameters: list[torch.Tensor]
             ) -> torch.Tensor:
        w1, b1, w2, b2, w3, b3 = parameters
        hidden = F.relu(torch.addmm(b1, images, w1))
        hidden = F.relu(torch.addmm(b2, hidden, w2))
        return F.cross_entropy(torch.addmm(b3, hidden, w3), labels)

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = cost(images, labels, parameters)
        loss.backward()
        update()
        return loss

    return Case(step, (images, labels), lambda loss: _arrays([loss, *parameters]))


def adam(data: Arrays, compiled: Compile) -> Case:
    """Return a step of Adam, all parameters in one kernel."""
    tensors = _tensors(data)
    parameters = tensors[:PARAMETERS]
    for parameter, gradient in zip(parameters, tensors[PARAMETERS:]):
        parameter.requires_grad_().grad = gradient
    optimizer = torch.optim.Adam(parameters, formulas.ADAM_RATE, (formulas.BETA1, formulas.BETA2),
                                 formulas.ADAM_EPSILON, fused=True)
    return Case(compiled(optimizer.step), (), lambda _: _arrays(parameters))


def _simple(function: Callable[..., torch.Tensor]) -> Callable[[Arrays, Compile], Case]:
    return lambda data, compiled: Case(compiled(function), _tensors(data), _arrays)


def _chain(x: torch.Tensor) -> torch.Tensor:
    y = x
    for k in range(50):
        y = torch.clamp(y * (0.9 + k / 1000) + x, min=-3)
        y = y / (1 + abs(y))
    return y


_BUILDERS = {"call_2x1": call_2x1, "black_scholes": black_scholes, "robust_loss": robust_loss,
             "log_softmax": _simple(lambda x: F.log_softmax(x, 1)), "layer_norm": layer_norm,
             "logistic": logistic, "mlp": mlp, "adam": adam, "matmul": _simple(torch.matmul),
             "elementwise_300": _simple(_chain)}


def _side(compiled: Compile) -> dict[str, Callable[[Arrays], Case]]:
    return {family: lambda data, build=build: _waited(build(data, compiled))
            for family, build in _BUILDERS.items()}


if DEVICE != "cpu" and not torch.cuda.is_available():
    raise ImportError("torch finds no GPU", name="torch with CUDA")

# The others compute float32 products in float32.
torch.backends.cuda.matmul.allow_tf32 = False

SIDE = _side(lambda function: function)
COMPILED = _side(torch.compile)
