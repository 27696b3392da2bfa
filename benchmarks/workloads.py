"""What is measured: for each workload its data, its float64 reference, and its unavoidable work.

Imported by the script that compares and by every process that is compared, so it needs NumPy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import formulas
import numpy as np

ROWS, CLASSES, FEATURES = 4096, 1000, 1024
OPTIONS, RESIDUALS = 1 << 22, 1_000_000
LOGISTIC = (400, 784)
MLP = (784, 256, 256, 10)
BATCH = 100
PARAMETERS, SMALL = 100, ((64, 64), (64,))

SQUARES = (16, 32, 64, 100, 128, 200, 256, 512, 1024, 2048)
SHAPES = (*((n, n, n) for n in SQUARES),
          # The MLP's products: forward, and the gradients of its weights and its hidden layers.
          (100, 784, 256), (100, 256, 256), (100, 256, 10), (784, 100, 256), (256, 100, 10),
          (100, 10, 256),
          # One sample; a recurrent cell's gates; tall, wide and inner-dominated.
          (1, 784, 256), (32, 256, 1024), (4096, 64, 64), (64, 64, 4096), (64, 4096, 64))
"""Rows, inner size and columns of the matrix products."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Cost:
    """The work no implementation of a workload can avoid.

    Attributes
    ----------
    flops : float
        Operations of matrix products.
    exps : float
        Evaluations of functions as dear as an exponential (exp, log, tanh, ...).
    bytes : float
        Input read once, output written once.
    """

    flops: float = 0.0
    exps: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the table.

    Attributes
    ----------
    name, title : str
    family : str
        Which function of a side does it (``matmul`` for all shapes).
    dtype : str
    data : callable
        Returns the arrays by name, the same in every process.
    reference : callable
        Called with the data as float64; returns the outputs in order.
    cost : Cost
    """

    name: str
    title: str
    family: str
    dtype: str
    data: Callable[[], Arrays]
    reference: Callable[..., list[np.ndarray]]
    cost: Cost

    def expected(self) -> list[np.ndarray]:
        """Return the reference's outputs on this workload's data."""
        return [np.asarray(out) for out in self.reference(*(
            array.astype(np.float64) if array.dtype.kind == "f" else array
            for array in self.data().values()))]


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def _short(dtype: str) -> Arrays:
    return {"x": np.arange(10).astype(dtype)}


def _options(dtype: str, count: int = OPTIONS) -> Arrays:
    rng = np.random.default_rng(1)
    return {"spot": rng.uniform(50, 150, count).astype(dtype),
            "years": rng.uniform(0.1, 3, count).astype(dtype)}


def _residuals(dtype: str, count: int = RESIDUALS) -> Arrays:
    rng = np.random.default_rng(2)
    return {"prediction": (3 * rng.standard_normal(count)).astype(dtype),
            "target": rng.standard_normal(count).astype(dtype)}


def _scores(dtype: str, rows: int = ROWS) -> Arrays:
    return {"x": (4 * _random(rows, CLASSES)).astype(dtype)}


def _features(dtype: str, rows: int = ROWS) -> Arrays:
    return {"x": (1 + 2 * _random(rows, FEATURES)).astype(dtype),
            "scale": (1 + 0.1 * _random(FEATURES)).astype(dtype),
            "shift": _random(FEATURES).astype(dtype)}


def _regression(dtype: str, shape: tuple[int, int] = LOGISTIC) -> Arrays:
    rng = np.random.default_rng(3)
    return {"x": rng.standard_normal(shape).astype(dtype),
            "y": rng.integers(0, 2, shape[0]).astype(dtype),
            "weights": rng.standard_normal(shape[1]).astype(dtype),
            "bias": np.zeros((), dtype)}


def _digits(dtype: str, sizes: tuple[int, ...] = MLP, batch: int = BATCH) -> Arrays:
    rng = np.random.default_rng(4)
    data = {"images": rng.uniform(0, 1, (batch, sizes[0])).astype(dtype),
            "labels": rng.integers(0, sizes[-1], batch)}
    for layer, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:]), 1):
        weights = rng.standard_normal((fan_in, fan_out)) * np.sqrt(2 / fan_in)
        data |= {f"w{layer}": weights.astype(dtype), f"b{layer}": np.zeros(fan_out, dtype)}
    return data


def _parameters(dtype: str) -> Arrays:
    rng = np.random.default_rng(5)
    shapes = [SMALL[k % 2] for k in range(PARAMETERS)]
    return {f"{kind}{k}": rng.standard_normal(shape).astype(dtype)
            for kind in ("parameter", "gradient") for k, shape in enumerate(shapes)}


def _matrices(shape: tuple[int, int, int], dtype: str) -> Arrays:
    rows, inner, columns = shape
    return {"left": _random(rows, inner).astype(dtype),
            "right": _random(inner, columns).astype(dtype)}


def _vector(dtype: str) -> Arrays:
    return {"x": _random(1000).astype(dtype)}


def _product(shape: tuple[int, int, int], dtype: str = "float32") -> Workload:
    rows, inner, columns = shape
    size = np.dtype(dtype).itemsize
    text = "x".join(map(str, shape))
    return Workload(
        f"matmul_{text}", f"matrix product {text}", "matmul", dtype,
        partial(_matrices, shape, dtype), formulas.matmul,
        Cost(flops=2.0 * rows * inner * columns,
             bytes=size * (rows * inner + inner * columns + rows * columns)))


def _mlp_cost(sizes: tuple[int, ...] = MLP, batch: int = BATCH) -> Cost:
    """Forward, weight gradients, hidden gradients; parameters and velocities read and written."""
    products = [fan_in * fan_out for fan_in, fan_out in zip(sizes, sizes[1:])]
    weights = sum(products) + sum(sizes[1:])
    return Cost(flops=2.0 * batch * (2 * sum(products) + sum(products[1:])),
                bytes=4 * (4 * weights + batch * sizes[0]))


def _workloads() -> list[Workload]:
    made = [Workload("call_2x1", "`2*x+1` of 10 elements", "call_2x1", "float32",
                     partial(_short, "float32"), formulas.twice_plus_one, Cost())]
    for dtype in ("float32", "float64"):
        made.append(Workload(
            f"black_scholes_f{dtype[5:]}", f"Black-Scholes, 4M options, {dtype}", "black_scholes",
            dtype, partial(_options, dtype), formulas.black_scholes,
            Cost(exps=4.0 * OPTIONS, bytes=3.0 * OPTIONS * np.dtype(dtype).itemsize)))
    made += [
        Workload("robust_loss", "custom loss, gradient, diagonal Hessian, 1M", "robust_loss",
                 "float32", partial(_residuals, "float32"), formulas.robust_loss,
                 Cost(exps=2.0 * RESIDUALS, bytes=16.0 * RESIDUALS)),
        Workload("log_softmax", f"log-softmax ({ROWS}, {CLASSES})", "log_softmax", "float32",
                 partial(_scores, "float32"), formulas.log_softmax,
                 Cost(exps=1.0 * ROWS * CLASSES, bytes=8.0 * ROWS * CLASSES)),
        Workload("layer_norm", f"layer norm ({ROWS}, {FEATURES})", "layer_norm", "float32",
                 partial(_features, "float32"), formulas.layer_norm,
                 Cost(bytes=8.0 * ROWS * FEATURES)),
        Workload("logistic_regression", "logistic regression step, 400 x 784", "logistic",
                 "float32", partial(_regression, "float32"), formulas.logistic_step,
                 Cost(flops=4.0 * LOGISTIC[0] * LOGISTIC[1], exps=2.0 * LOGISTIC[0],
                      bytes=4.0 * LOGISTIC[0] * LOGISTIC[1])),
        Workload("mlp_step", "MLP step 784-256-256-10, batch 100", "mlp", "float32",
                 partial(_digits, "float32"), formulas.mlp_first_step, _mlp_cost()),
        Workload("adam_step", f"Adam, {PARAMETERS} small parameters", "adam", "float32",
                 partial(_parameters, "float32"), formulas.adam_first_step,
                 Cost(bytes=28.0 * PARAMETERS // 2 * sum(map(math.prod, SMALL)))),
    ]
    return made + [_product(shape) for shape in SHAPES]


def _large() -> list[Workload]:
    """Return the workloads again, at sizes that fill a GPU."""
    options, residuals, rows = 1 << 26, 1 << 26, 1 << 16
    regression, sizes, batch = (1 << 16, 1024), (784, 4096, 4096, 10), 4096
    return [
        Workload("black_scholes_large", "Black-Scholes, 67M options", "black_scholes", "float32",
                 partial(_options, "float32", options), formulas.black_scholes,
                 Cost(exps=4.0 * options, bytes=12.0 * options)),
        Workload("robust_loss_large", "custom loss, gradient, diagonal Hessian, 67M",
                 "robust_loss", "float32", partial(_residuals, "float32", residuals),
                 formulas.robust_loss, Cost(exps=2.0 * residuals, bytes=16.0 * residuals)),
        Workload("log_softmax_large", f"log-softmax ({rows}, {CLASSES})", "log_softmax", "float32",
                 partial(_scores, "float32", rows), formulas.log_softmax,
                 Cost(exps=1.0 * rows * CLASSES, bytes=8.0 * rows * CLASSES)),
        Workload("layer_norm_large", f"layer norm ({rows}, {FEATURES})", "layer_norm", "float32",
                 partial(_features, "float32", rows), formulas.layer_norm,
                 Cost(bytes=8.0 * rows * FEATURES)),
        Workload("logistic_large", "logistic regression step, 65536 x 1024", "logistic", "float32",
                 partial(_regression, "float32", regression), formulas.logistic_step,
                 Cost(flops=4.0 * regression[0] * regression[1], exps=2.0 * regression[0],
                      bytes=4.0 * regression[0] * regression[1])),
        Workload("mlp_large", "MLP step 784-4096-4096-10, batch 4096", "mlp", "float32",
                 partial(_digits, "float32", sizes, batch), formulas.mlp_first_step,
                 _mlp_cost(sizes, batch)),
        *(_product((n, n, n)) for n in (4096, 8192))]


WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _workloads()}

LARGE: dict[str, Workload] = {workload.name: workload for workload in _large()}
"""What a GPU runs besides; too much for a CPU's rows."""

COMPILED: dict[str, Workload] = {name: WORKLOADS[name] for name in (
    "logistic_regression", "mlp_step", "adam_step")}
"""Workloads whose first call is timed."""

COMPILED["elementwise_300"] = Workload(
    "elementwise_300", "300 elementwise operations", "elementwise_300", "float32",
    partial(_vector, "float32"), formulas.elementwise_300, Cost(bytes=8000.0))


def known(device: str) -> dict[str, Workload]:
    """Return the workloads of a device."""
    return WORKLOADS if device == "cpu" else {**WORKLOADS, **LARGE}


def select(names: str | None, device: str = "cpu") -> list[Workload]:
    """Return the workloads of a comma-separated list; a family's name stands for all of it.

    Raises
    ------
    SystemExit
        If there is no such workload.
    """
    every = known(device)
    if not names:
        return list(every.values())
    chosen: list[Workload] = []
    for name in names.split(","):
        found = [w for w in every.values() if name in (w.name, w.family)]
        if not found:
            raise SystemExit(f"there is no workload {name!r}; there are: {', '.join(every)}")
        chosen += [w for w in found if w not in chosen]
    return chosen
