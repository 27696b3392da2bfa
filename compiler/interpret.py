"""The reference interpreter of level one: a graph and arrays in, arrays out.

Every op runs as its NumPy ``reference``, one node at a time.  It is slow and obvious: what a graph
means is what this module computes, and each lower level is tested against it.  Inferred types and
size guards are checked on the way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..runtime import artifact as errors
from ..runtime.artifact import CallError, InternalError, ShapeError, format_message
from .dims import Dim, DimLike, Symbol, as_symbol, evaluate as evaluate_dim, symbols_of
from .graph import (
    Apply, Constant, DataSymbol, SharedBase, SizeGuard, Variable, describe, dim_of, format_site,
    graph_inputs, toposort)


def evaluate(outputs: Sequence[Variable], values: Mapping[Variable, Any]) -> list[np.ndarray]:
    """Return the values of ``outputs``.

    Parameters
    ----------
    outputs : sequence of Variable
    values : mapping of Variable to array_like
        The inputs.  Intermediate variables may be given too: their owners do not run.  Shared
        variables that are not given have their stored value.

    Raises
    ------
    CallError
        If an input that is needed has no value, or one of the wrong dtype or number of axes.
    ShapeError
        If two sizes that must agree differ; names both variables and their lines.
    InternalError
        If an op's reference contradicts the type inferred for its output.
    """
    with np.errstate(all="ignore"):
        return _evaluate(outputs, values)


def _evaluate(outputs: Sequence[Variable], values: Mapping[Variable, Any]) -> list[np.ndarray]:
    given = {variable: _checked(variable, value) for variable, value in values.items()}
    sizes = Sizes(given)
    arrays = {id(variable): array for variable, array in given.items()}
    for variable in graph_inputs(outputs, stop=values):
        if id(variable) not in arrays:
            arrays[id(variable)] = _leaf(variable)
            sizes.bind(variable, arrays[id(variable)])
    order = toposort(outputs, stop=values)
    uses = Counter(id(source) for node in order for source in node.inputs)
    uses.update(id(output) for output in outputs)
    for node in order:
        results = _run(node, [arrays[id(source)] for source in node.inputs], sizes)
        for output, array in zip(node.outputs, results):
            if output._symbol is not None:
                sizes.known[output._symbol] = int(array)
            if uses[id(output)] and output not in given:
                arrays[id(output)] = array
        for source in node.inputs:
            uses[id(source)] -= 1
            if not uses[id(source)]:
                del arrays[id(source)]
    return [arrays[id(output)] for output in outputs]


def _checked(variable: Variable, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype != variable.dtype and not isinstance(value, (np.ndarray, np.generic)):
        array = array.astype(variable.dtype)
    if array.dtype != variable.dtype or array.ndim != variable.ndim:
        raise CallError(format_message(
            f"The value of {describe(variable)} does not have its type.",
            values=f"it is {array.dtype} {array.shape}, the type is {variable.type}",
            where=format_site(variable.site), remedy="convert the value"))
    return array


def _leaf(variable: Variable) -> np.ndarray:
    if isinstance(variable, Constant):
        return variable.data
    if isinstance(variable, SharedBase):
        return np.array(variable.storage.get())
    raise CallError(format_message(
        f"The input {describe(variable)} has no value.", values=str(variable.type),
        where=format_site(variable.site), remedy="give one"))


class Sizes:
    """The values of size symbols: bound by the axes of inputs, computed from data on demand.

    Parameters
    ----------
    arrays : mapping of Variable to ndarray
        The values that are given.

    Attributes
    ----------
    known : dict of Symbol to int
    """

    def __init__(self, arrays: Mapping[Variable, np.ndarray]):
        self.arrays = arrays
        self.known: dict[Symbol, int] = {}
        for variable, array in arrays.items():
            self.bind(variable, array)

    def bind(self, variable: Variable, array: np.ndarray) -> None:
        """Learn sizes from a value; a size already known must agree.

        Raises
        ------
        ShapeError
            If it does not.
        """
        if variable.ndim == 0 and variable.dtype == "int64" \
                and not isinstance(variable, Constant):
            symbol = as_symbol(dim_of(variable))
            if symbol is not None:
                self.known[symbol] = int(array)
        for axis, (dim, size) in enumerate(zip(variable.type.dims, array.shape)):
            symbol = as_symbol(dim)
            if symbol is not None:
                expected = self.known.setdefault(symbol, size)
            else:
                expected = self.of(dim, compute=False)
            if expected is not None and expected != size:
                raise ShapeError(format_message(
                    f"Axis {axis} of {describe(variable)} has the wrong length.",
                    values=f"its value has shape {array.shape}, its type is {variable.type}; "
                           f"{dim} is {expected}",
                    where=format_site(variable.site), remedy="give arrays whose sizes agree"))

    def of(self, dim: DimLike, compute: bool = True) -> int | None:
        """Return the value of ``dim``, or None when it has a symbol without value.

        ``compute``: run the graph for a symbol that is the value of a variable.
        """
        if isinstance(dim, int):
            return dim
        for symbol in symbols_of(dim):
            if symbol not in self.known:
                if not (compute and isinstance(symbol, DataSymbol)):
                    return None
                try:
                    (value,) = evaluate([symbol.variable], self.arrays)
                except CallError:
                    return None
                self.known[symbol] = int(value)
        return evaluate_dim(dim, self.known)

    def in_params(self, value: Any, node: Apply) -> Any:
        """Return a parameter with its dims replaced by integers."""
        if isinstance(value, tuple):
            return tuple(self.in_params(item, node) for item in value)
        if not isinstance(value, Dim):
            return value
        size = self.of(value)
        if size is None:
            raise InternalError(f"{node.op.name}: the size {value} has no value")
        return size


def _run(node: Apply, arrays: list[np.ndarray], sizes: Sizes) -> list[np.ndarray]:
    for guard in node.guards:
        _check_guard(node, guard, arrays, sizes)
    params = {name: sizes.in_params(value, node) for name, value in node.params.items()}
    results = node.op.reference(*arrays, **params)
    if not isinstance(results, (tuple, list)):
        results = (results,)
    results = [np.asarray(result) for result in results]
    if len(results) != len(node.outputs):
        raise InternalError(f"{node.op.name}: the reference returns {len(results)} arrays, "
                            f"the op has {len(node.outputs)} outputs")
    for output, array in zip(node.outputs, results):
        expected = [sizes.of(dim) for dim in output.type.dims]
        if array.dtype != output.dtype or array.ndim != output.ndim or any(
                size not in (None, own) for size, own in zip(expected, array.shape)):
            raise InternalError(
                f"{node.op.name}: the reference returns {array.dtype} {array.shape}, "
                f"the inferred type is {output.type}"
                + (f" (node built at {format_site(node.site)})" if node.site else ""))
    return results


def _check_guard(node: Apply, guard: SizeGuard, arrays: list[np.ndarray], sizes: Sizes) -> None:
    shapes = {id(source): array.shape for source, array in zip(node.inputs, arrays)}
    left = _guarded_size(guard.left, guard.left_of, shapes, sizes)
    right = _guarded_size(guard.right, guard.right_of, shapes, sizes)
    if left is None or right is None or left == right:
        return
    parts = []
    for size, (variable, axis) in ((left, guard.left_of), (right, guard.right_of)):
        shape = f" of shape {shapes[id(variable)]}" if id(variable) in shapes else ""
        place = f" (from {format_site(variable.site)})" if variable.site else ""
        what = f"has {size} on axis {axis}" if axis >= 0 else f"gives {size}"
        part = f"{describe(variable)}{shape} {what}{place}"
        if part not in parts:
            parts.append(part)
    error = getattr(errors, guard.kind)
    values = "; ".join(parts)
    raise error(format_message(guard.reason, values, format_site(node.site)) if guard.reason
                else node.op.unequal_sizes(values, node.site))


def _guarded_size(dim: DimLike, axis_of: tuple[Variable, int], shapes: Mapping[int, tuple],
                  sizes: Sizes) -> int | None:
    """Return one side of a guard; where a symbol has no value, the array itself knows."""
    size, (variable, axis) = sizes.of(dim), axis_of
    if size is None and axis >= 0 and id(variable) in shapes \
            and variable.type.dims[axis] == dim:
        return shapes[id(variable)][axis]
    return size
