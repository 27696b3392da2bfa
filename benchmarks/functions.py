"""Time the scalar functions one by one, on arrays that stay in the cache, with one thread.

Prints a table: nanoseconds an element of each side, from the difference of two sizes, so that the
cost of a call drops out; and how many times an exponential at the machine's limit that is.  Each
side is a process of its own; this file is also what they run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np

FUNCTIONS = ("exp", "log", "tanh", "sigmoid", "softplus", "erf", "sin", "cos", "pow")
SIDES = ("tetractys", "numpy", "jax", "torch")
SIZES = (4096, 16384)
REPETITIONS = 40


def arguments(name: str, dtype: str, size: int) -> list[np.ndarray]:
    """Return what a function is called with: positive numbers of usual size."""
    rng = np.random.default_rng(0)
    count = 2 if name == "pow" else 1
    return [(0.1 + np.abs(2 * rng.standard_normal(size))).astype(dtype) for _ in range(count)]


def with_tetractys(name: str, arrays: list[np.ndarray]) -> Callable[[], Any]:
    """Return the call of our function."""
    import tetractys as tx
    from tetractys import tensor as T

    inputs = [T.tensor(array.dtype.name, shape=(None,), name=f"x{k}")
              for k, array in enumerate(arrays)]
    function = tx.function(inputs, getattr(T, name)(*inputs))
    return lambda: function(*arrays)


def with_numpy(name: str, arrays: list[np.ndarray]) -> Callable[[], Any] | None:
    """Return the call of NumPy's function or formula, if it has one."""
    formulas = {"sigmoid": lambda x: 1 / (1 + np.exp(-x)),
                "softplus": lambda x: np.logaddexp(x.dtype.type(0), x), "pow": np.power}
    function = formulas.get(name) or getattr(np, name, None)
    return None if function is None else lambda: function(*arrays)


def with_jax(name: str, arrays: list[np.ndarray]) -> Callable[[], Any]:
    """Return the call of a compiled JAX function."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    others = {"sigmoid": jax.nn.sigmoid, "softplus": jax.nn.softplus, "erf": jax.scipy.special.erf}
    function = jax.jit(others.get(name) or getattr(jnp, name))
    moved = [jax.device_put(array) for array in arrays]
    return lambda: function(*moved).block_until_ready()


def with_torch(name: str, arrays: list[np.ndarray]) -> Callable[[], Any]:
    """Return the call of PyTorch's function."""
    import torch

    torch.set_num_threads(1)
    moved = [torch.from_numpy(array) for array in arrays]
    function = torch.nn.functional.softplus if name == "softplus" else getattr(torch, name)
    return lambda: function(*moved)


def seconds(call: Callable[[], Any]) -> float:
    """Return the time of one call, the shortest of many."""
    call()
    number = max(1, int(5e-4 / timeit.timeit(call, number=3) * 3))
    return min(timeit.repeat(call, number=number, repeat=REPETITIONS)) / number


def measure(side: str) -> dict[str, float]:
    """Return the nanoseconds an element of each function that a side has."""
    start = globals()[f"with_{side}"]
    found = {}
    for name in FUNCTIONS:
        for dtype in ("float32", "float64"):
            calls = [start(name, arguments(name, dtype, size)) for size in SIZES]
            if None not in calls:
                short, long = map(seconds, calls)
                found[f"{name} {dtype}"] = (long - short) / (SIZES[1] - SIZES[0]) * 1e9
    return found


def run(side: str, python: str) -> dict[str, float]:
    """Return what another process measures; nothing where it cannot."""
    one = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    process = subprocess.run([python, __file__, "--side", side], stdout=subprocess.PIPE, text=True,
                             env={**os.environ, **one})
    return json.loads(process.stdout) if process.returncode == 0 else {}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--side", choices=SIDES, help="measure one side, and print JSON")
    parser.add_argument("--peer-python", default=os.environ.get("TETRACTYS_PEER_PYTHON"))
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side)))
        return
    import limits

    floors = {dtype: 1e9 / rate for dtype, rate in limits.measure(1).exps.items()}
    results = {"tetractys": run("tetractys", sys.executable)}
    if options.peer_python:
        results |= {side: run(side, options.peer_python) for side in SIDES[1:]}
    print(f"| ns an element | {' | '.join(results)} | times an exp at the limit |")
    print(f"| --- |{' ---: |' * (len(results) + 1)}")
    for case, ours in results["tetractys"].items():
        row = [f"{found[case]:.2f}" if case in found else "-" for found in results.values()]
        print(f"| {case} | {' | '.join(row)} | {ours / floors[case.split()[1]]:.1f} |")


if __name__ == "__main__":
    main()
