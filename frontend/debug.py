"""Find the level that computes something wrong.

Every level of the compiler can be run: the graph by each operation's NumPy reference, the program
and its loops by a slow interpreter that checks every access, the code by the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .compiler.dtypes import is_float
from .compiler.interpret import evaluate
from .compiler.pipeline import Stages, compile_signature
from .compiler.program_interpret import run_program
from .function import Function
from .runtime.convert import convert_arguments
from .runtime.devices import make_executable
from .runtime.shared import Storage

LEVELS = ("graph", "interned", "simplified", "expanded", "program", "code")
"""The levels, in the order in which they are compared."""

TOLERANCES = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 1e-4, "float64": 1e-9}
"""Relative differences that reordered sums may cause between levels."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What :func:`bisect` found.

    Attributes
    ----------
    level : str or None
        The first level that differs from the user's graph; None when all agree.
    output : int or None
        The result that differs (outputs first, then updates).
    difference : float
        Its largest difference, relative to the largest magnitude.
    values : dict of str to list of array
        The results of each level.
    """

    level: str | None
    output: int | None
    difference: float
    values: dict[str, list[np.ndarray]]

    def __str__(self) -> str:
        if self.level is None:
            return f"all levels agree (largest relative difference {self.difference:.2g})"
        return (f"level {self.level!r} is the first that differs: result {self.output}, "
                f"relative difference {self.difference:.2g}")


def bisect(function: Function, *args: Any) -> Comparison:
    """Run a function on every level with the same arguments and compare the results.

    Shared variables are not changed.

    Parameters
    ----------
    function : Function
    *args : array_like
        As for a call.

    Returns
    -------
    Comparison

    Raises
    ------
    InternalError
        When the interpreter of the program finds an invalid access.
    """
    arrays = convert_arguments(function.name, function._arguments, function._policies, args, {})
    shared = [storage.get() for storage in function._storages]
    fixed = function._sizes(arrays)
    signature = function.signature
    options = replace(function.options, verify=True)
    artifact, stages = compile_signature(signature, fixed, options)
    given = dict(zip((*signature.inputs, *signature.shared), [*arrays, *shared]))
    interned = dict(zip(stages.inputs, [*arrays, *shared]))
    values: dict[str, list[np.ndarray]] = {"graph": evaluate(signature.results(), given)}
    for level in ("interned", "simplified", "expanded"):
        values[level] = evaluate(getattr(stages, level), interned)
    own = [array.copy() for array in shared]
    outputs = _run_program(stages, arrays, own)
    values["program"] = _results(outputs, stages.program.replaces, own, function)
    values["code"] = _run_code(artifact, arrays, shared, function)
    return _compare(values)


def _run_program(stages: Stages, arrays: Sequence[np.ndarray],
                 shared: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Run the program (and its prologue) by the interpreter; returns the program's outputs."""
    sizes: list[int] = []
    if stages.prologue is not None:
        sizes = [int(size) for size in _run_program(stages.prologue, arrays,
                                                    [array.copy() for array in shared])]
    return run_program(stages.program, list(arrays), shared, sizes)


def _run_code(artifact, arrays: Sequence[np.ndarray], shared: Sequence[np.ndarray],
              function: Function) -> list[np.ndarray]:
    storages = [Storage(array) for array in shared]
    executable = make_executable(artifact, function.options.device, storages)
    outputs = executable.run([array.copy() for array in arrays])
    updated = [storages[k].get() for k, _ in function.signature.updates]
    return [*outputs, *updated]


def _results(outputs: Sequence[np.ndarray], replaces: Sequence[int | None],
             shared: Sequence[np.ndarray], function: Function) -> list[np.ndarray]:
    current = list(shared)
    returned = []
    for output, k in zip(outputs, replaces):
        if k is None:
            returned.append(output)
        else:
            current[k] = output
    return [*returned, *(current[k] for k, _ in function.signature.updates)]


def _compare(values: Mapping[str, list[np.ndarray]]) -> Comparison:
    worst = 0.0
    for level in LEVELS[1:]:
        for k, (want, got) in enumerate(zip(values["graph"], values[level], strict=True)):
            difference = relative_difference(want, got)
            if difference > TOLERANCES.get(want.dtype.name, 0.0):
                return Comparison(level, k, difference, dict(values))
            worst = max(worst, difference)
    return Comparison(None, None, worst, dict(values))


def relative_difference(want: np.ndarray, got: np.ndarray) -> float:
    """Return the largest difference relative to the largest finite magnitude (inf: other shape,
    dtype, or places of NaN and infinities)."""
    if want.shape != got.shape or want.dtype != got.dtype:
        return float("inf")
    if not want.size:
        return 0.0
    if not is_float(want.dtype.name):
        return 0.0 if np.array_equal(want, got) else float("inf")
    finite = np.isfinite(want)
    if not np.array_equal(want[~finite], got[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = max(float(np.abs(want[finite]).max()), 1e-30)
    return float(np.abs(want[finite] - got[finite]).max()) / scale


__all__ = ["Comparison", "LEVELS", "bisect", "relative_difference"]
