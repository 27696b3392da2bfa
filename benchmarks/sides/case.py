"""A workload that is ready to be timed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


DEVICE = os.environ.get("BENCHMARK_DEVICE", "cpu")
"""Where this process computes: ``cpu`` or ``cuda``.  Arguments lie there; results stay there."""


@dataclass(frozen=True, slots=True)
class Case:
    """A call to time.

    Attributes
    ----------
    function : callable
        Does the work and waits for it.
    arguments : tuple
    read : callable
        From the result of the first call to the workload's outputs as NumPy arrays.
    phases : callable
        Returns the seconds of each phase of compiling; empty where a side does not tell.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    read: Callable[[Any], list[np.ndarray]]
    phases: Callable[[], dict[str, float]] = dict


def as_list(result: Any) -> list[np.ndarray]:
    """Return one or several results as NumPy arrays."""
    results = result if isinstance(result, (tuple, list)) else [result]
    # CuPy's arrays come to the host by ``get`` only.
    return [value.get() if DEVICE != "cpu" and hasattr(value, "get") else np.asarray(value)
            for value in results]
