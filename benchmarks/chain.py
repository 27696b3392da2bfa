"""Time everything one can do with a chain of nodes; run by ``compile_time.py`` with their number.

Prints one JSON line, ``[phase, seconds]``, as soon as a phase is done.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import tetractys as tx
from tetractys import tensor as T

PHASES = ("build", "grad", "compile", "compile gradient", "print", "clone", "pickle")


def build(x: T.TensorVariable, nodes: int) -> T.TensorVariable:
    """Return ``nodes`` alternating products and sums."""
    y = x
    for _ in range(nodes // 2):
        y = y * x + x
    return y


def compiled(x: T.TensorVariable, output: T.TensorVariable, expected: np.ndarray) -> None:
    """Compile, call and check a function."""
    function = tx.function([x], output)
    np.testing.assert_allclose(function(np.full(8, 0.5)), expected, rtol=1e-9)


def main() -> None:
    """Run and time the phases."""
    nodes = int(sys.argv[1])
    x = T.dvector("x")

    def timed(phase: str, run: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = run()
        print(json.dumps([phase, time.perf_counter() - start]), flush=True)
        return result

    y = timed("build", lambda: build(x, nodes))
    gradient = timed("grad", lambda: tx.grad(y.sum(), x))
    # With x = 1/2: y' = y / 2 + 1/2 tends to 1, and its derivative d' = d / 2 + y + 1 to 4.
    limit = np.ones(8)
    timed("compile", lambda: compiled(x, y, limit))
    timed("compile gradient", lambda: compiled(x, gradient, 4 * limit))
    timed("print", lambda: tx.debugprint(y, file="str"))
    timed("clone", lambda: tx.clone(y))
    timed("pickle", lambda: pickle.loads(pickle.dumps(y)))


if __name__ == "__main__":
    main()
