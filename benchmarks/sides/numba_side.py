"""Numba's side: explicit parallel loops, as its documentation recommends.

Matrix products and the MLP are left out: there numba calls the BLAS that NumPy's side measures.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import formulas
import numba
import numpy as np
from sides.case import Case, as_list
from workloads import Arrays

STRIKE, RATE, VOLATILITY = formulas.STRIKE, formulas.RATE, formulas.VOLATILITY
SCALE, CUBIC, EPSILON = formulas.CDF_SCALE, formulas.CDF_CUBIC, formulas.EPSILON

_compiled = numba.njit(parallel=os.environ.get("NUMBA_NUM_THREADS") != "1", fastmath=True)


def _case(data: Arrays, function: Callable[..., object]) -> Case:
    return Case(function, tuple(data.values()), as_list)


@numba.njit
def _short(x):
    return 2 * x + 1


@_compiled
def _black_scholes(spot, years):
    out = np.empty_like(spot)
    kind = spot.dtype.type
    for i in numba.prange(spot.size):
        spread = kind(VOLATILITY) * math.sqrt(years[i])
        d1 = (math.log(spot[i] / kind(STRIKE))
              + kind(RATE + VOLATILITY ** 2 / 2) * years[i]) / spread
        d2 = d1 - spread
        n1 = math.tanh(kind(SCALE) * (d1 + kind(CUBIC) * d1 * d1 * d1))
        n2 = math.tanh(kind(SCALE) * (d2 + kind(CUBIC) * d2 * d2 * d2))
        discounted = kind(STRIKE) * math.exp(-kind(RATE) * years[i])
        out[i] = kind(0.5) * (spot[i] * (kind(1) + n1) - discounted * (kind(1) + n2))
    return out


@_compiled
def _robust_loss(prediction, target):
    gradient, hessian = np.empty_like(prediction), np.empty_like(prediction)
    kind = prediction.dtype.type
    total = 0.0
    for i in numba.prange(prediction.size):
        residual = prediction[i] - target[i]
        magnitude = abs(residual)
        total += magnitude + math.log1p(math.exp(kind(-2) * magnitude))
        slope = math.tanh(residual)
        gradient[i] = slope
        hessian[i] = kind(1) - slope * slope
    return total - prediction.size * math.log(2.0), gradient, hessian


@_compiled
def _log_softmax(x):
    out = np.empty_like(x)
    for i in numba.prange(x.shape[0]):
        largest = x[i, 0]
        for j in range(1, x.shape[1]):
            largest = max(largest, x[i, j])
        total = x.dtype.type(0)
        for j in range(x.shape[1]):
            total += math.exp(x[i, j] - largest)
        offset = largest + math.log(total)
        for j in range(x.shape[1]):
            out[i, j] = x[i, j] - offset
    return out


@_compiled
def _layer_norm(x, scale, shift):
    out = np.empty_like(x)
    kind = x.dtype.type
    for i in numba.prange(x.shape[0]):
        mean = kind(0)
        for j in range(x.shape[1]):
            mean += x[i, j]
        mean /= kind(x.shape[1])
        variance = kind(0)
        for j in range(x.shape[1]):
            variance += (x[i, j] - mean) * (x[i, j] - mean)
        factor = kind(1) / math.sqrt(variance / kind(x.shape[1]) + kind(EPSILON))
        for j in range(x.shape[1]):
            out[i, j] = (x[i, j] - mean) * factor * scale[j] + shift[j]
    return out


SIDE = {"call_2x1": lambda data: _case(data, _short),
        "black_scholes": lambda data: _case(data, _black_scholes),
        "robust_loss": lambda data: _case(data, _robust_loss),
        "log_softmax": lambda data: _case(data, _log_softmax),
        "layer_norm": lambda data: _case(data, _layer_norm)}
