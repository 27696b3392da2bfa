"""NumPy's side: the formulas themselves, in the workload's dtype."""

from __future__ import annotations

from collections.abc import Callable

import formulas
import numpy as np
from sides.case import Case, as_list
from workloads import PARAMETERS, Arrays


def _plain(formula: Callable[..., list[np.ndarray]]) -> Callable[[Arrays], Case]:
    return lambda data: Case(formula, tuple(data.values()), as_list)


def call_2x1(data: Arrays) -> Case:
    """Return ``2 x + 1``, with no list around the result."""
    return Case(lambda x: 2 * x + 1, tuple(data.values()), as_list)


def logistic(data: Arrays) -> Case:
    """Return a training step that keeps its weights."""
    state = [data["weights"], data["bias"]]

    def step(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        prediction, entropy, *state[:] = formulas.logistic_step(x, y, *state)
        return [prediction, entropy]

    return Case(step, (data["x"], data["y"]), lambda result: as_list([*result, *state]))


def mlp(data: Arrays) -> Case:
    """Return a training step that keeps its parameters and velocities."""
    parameters = [data[f"{kind}{n}"] for n in (1, 2, 3) for kind in "wb"]
    state = [parameters, [np.zeros_like(p) for p in parameters]]

    def step(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        loss, *state[:] = formulas.mlp_step(images, labels, *state)
        return loss

    return Case(step, (data["images"], data["labels"]),
                lambda result: as_list([result, *state[0]]))


def adam(data: Arrays) -> Case:
    """Return a step of Adam that keeps its state."""
    arrays = list(data.values())
    parameters, gradients = arrays[:PARAMETERS], arrays[PARAMETERS:]
    zeros = [np.zeros_like(p) for p in parameters]
    state, count = [parameters, zeros, zeros], [0]

    def step() -> None:
        count[0] += 1
        state[:] = formulas.adam_step(state[0], gradients, *state[1:], count[0])

    return Case(step, (), lambda _: as_list(state[0]))


SIDE = {"call_2x1": call_2x1, "black_scholes": _plain(formulas.black_scholes),
        "robust_loss": _plain(formulas.robust_loss), "log_softmax": _plain(formulas.log_softmax),
        "layer_norm": _plain(formulas.layer_norm), "logistic": logistic, "mlp": mlp,
        "adam": adam,
        "matmul": _plain(formulas.matmul), "elementwise_300": _plain(formulas.elementwise_300)}
