"""CuPy's side: the formulas, whose NumPy functions hand arrays on a GPU to CuPy's.

The step of the MLP is left out: its formula indexes with NumPy's arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy
from sides import numpy_side
from sides.case import DEVICE, Case
from workloads import Arrays

if DEVICE == "cpu":
    raise ImportError("CuPy computes on GPUs only", name="a GPU for cupy")


def _on_gpu(build: Callable[[Arrays], Case]) -> Callable[[Arrays], Case]:
    """Return NumPy's case with its arrays on the GPU, waited for."""
    def moved(data: Arrays) -> Case:
        case = build({name: cupy.asarray(array) for name, array in data.items()})

        def call(*arguments: Any) -> Any:
            result = case.function(*arguments)
            cupy.cuda.get_current_stream().synchronize()
            return result

        return Case(call, case.arguments, case.read)

    return moved


def call_2x1(data: Arrays) -> Case:
    """Return ``2 x + 1``, NumPy in and out."""
    return Case(lambda x: cupy.asnumpy(2 * cupy.asarray(x) + 1), tuple(data.values()),
                lambda result: [result])


SIDE = {family: _on_gpu(build) for family, build in numpy_side.SIDE.items()
        if family not in ("call_2x1", "mlp")} | {"call_2x1": call_2x1}
