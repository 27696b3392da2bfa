"""Control flow: ``map_loop``, a graph run once for each value of an index.

What the loop runs is a :class:`Body`.  Everything in it that does not depend on the index is taken
out when the node is built (closure conversion), so a body is closed and holds only what must be
computed again each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ...runtime.artifact import ShapeError, numpy_dtype
from .. import derivative as derivatives
from .. import interpret
from ..dims import proves_equal, symbols_of
from ..dtypes import is_float
from ..graph import (
    Apply, Constant, DataSymbol, NodeChain, TensorType, Variable, describe, dim_of, rebuild,
    toposort)
from ..operators import FUNCTIONS
from .op import Custom, Inferred, MapLowering, Op, check, register
from .sizes import size_guards


class LoopIndex(Variable):
    """The index of a loop: an int64 scalar of which ``0 <= index < count`` is known.

    Parameters
    ----------
    count : int64 scalar
        How often the loop runs.
    name : str, optional
    """

    __slots__ = ("count",)

    def __init__(self, count: Variable, name: str | None = None):
        super().__init__(TensorType("int64", ()), name=name or "i")
        self.count = count
        self._symbol = DataSymbol(self)
        self._symbol.lower, self._symbol.extent = 0, dim_of(count)

    def __reduce__(self):
        return LoopIndex, (self.count, self.name)


class Body:
    """What a loop computes for one value of its index.

    The captured variables stand here as *names*: the node's inputs give their values, in this
    order, and are these very variables unless the node was rebuilt with others (see
    :meth:`instantiate`).  Some of them may have owners; those are not part of the body (see
    :meth:`nodes`).

    Attributes
    ----------
    index : LoopIndex
    captured : tuple of Variable
        All other variables without constant value that the body reads.
    outputs : tuple of Variable
        Functions of the index, the captured variables and constants.
    """

    __slots__ = ("index", "captured", "outputs")

    def __init__(self, index: LoopIndex, captured: Iterable[Variable],
                 outputs: Iterable[Variable]):
        self.index, self.captured, self.outputs = index, tuple(captured), tuple(outputs)

    def nodes(self) -> list[Apply]:
        """Return the nodes to run for each value of the index, in topological order."""
        return toposort(self.outputs, stop=self.captured)

    def instantiate(self, count: Variable, captured: Sequence[Variable]) -> Body:
        """Return the body whose names are a node's own inputs, with types inferred from them."""
        changed = {old: new for old, new in zip(self.captured, captured) if old is not new}
        index = self.index
        if not proves_equal(dim_of(count), dim_of(index.count)):
            changed[self.index] = index = LoopIndex(count, index.name)
        if not changed:
            return self
        kept = {old: old for old in self.captured if old not in changed}
        return Body(index, captured, rebuild(self.outputs, {**kept, **changed}))

    def __reduce__(self):
        everything = (self.index, *self.captured, *self.outputs)
        places = tuple((variable.owner or variable, variable.index) for variable in everything)
        return _restore_body, (NodeChain(everything), places, len(self.captured))


def _restore_body(chain: NodeChain, places: Sequence[tuple[Any, int]], captured: int) -> Body:
    """Unpickle; the chain came first so that the owners in ``places`` are known by then."""
    index, *rest = (place.outputs[number] if isinstance(place, Apply) else place
                    for place, number in places)
    return Body(index, rest[:captured], rest[captured:])


def map_loop(index: LoopIndex, outputs: Sequence[Variable]) -> list[Variable]:
    """Return each output for ``index`` = 0 ... ``count - 1``, stacked along a new first axis.

    Parameters
    ----------
    index : LoopIndex
        It must not be used outside ``outputs``.
    outputs : sequence of Variable
        Any graph; what does not depend on the index is computed once, outside the loop.

    Returns
    -------
    list of Variable
        Of shapes ``(count, *output.shape)``.

    Raises
    ------
    ShapeError
        If the shape of an output depends on the index.
    """
    if not outputs:
        return []
    moving = {id(index)}
    captured: dict[int, Variable] = {}

    def capture(variable: Variable) -> None:
        if id(variable) not in moving and not isinstance(variable, Constant):
            captured.setdefault(id(variable), variable)

    for node in toposort(outputs):
        if any(id(source) in moving for source in node.inputs):
            moving.update(id(output) for output in node.outputs)
            for source in node.inputs:
                capture(source)
    for output in outputs:
        capture(output)
    body = Body(index, captured.values(), outputs)
    result = MAP_LOOP(index.count, *body.captured, body=body)
    return result if isinstance(result, list) else [result]


def _infer(count: Variable, *captured: Variable, body: Body) -> Inferred:
    body = body.instantiate(count, captured)
    moving = {id(body.index)}
    moving.update(id(output) for node in body.nodes() for output in node.outputs)
    for output in body.outputs:
        for dim in output.type.dims:
            check(not any(isinstance(symbol, DataSymbol) and id(symbol.variable) in moving
                          for symbol in symbols_of(dim)),
                  ShapeError, "A loop's result must have the same shape at every step.",
                  f"{describe(output)} {output.type}: the size {dim} depends on the index",
                  "pad the result to a fixed size, or reduce it to one")
    size = dim_of(count)
    return ([TensorType(output.dtype, (size, *output.type.dims)) for output in body.outputs],
            size_guards([count], [size], "map"))


def _reference(count: np.ndarray, *captured: np.ndarray, body: Body) -> list[np.ndarray]:
    values = dict(zip(body.captured, captured))
    steps = [interpret.evaluate(body.outputs, {**values, body.index: np.int64(k)})
             for k in range(int(count))]
    if steps:
        return [np.stack(results) for results in zip(*steps)]
    sizes = interpret.Sizes({variable: np.asarray(value) for variable, value in values.items()})
    return [np.empty((0, *(sizes.of(dim) or 0 for dim in output.type.dims)),
                     numpy_dtype(output.dtype)) for output in body.outputs]


def _vjp(cotangents: Sequence[Variable | None], inputs: Sequence[Variable],
         outputs: Sequence[Variable], body: Body) -> list[Variable | None]:
    """Map the body's own VJP, then add up the steps' cotangents.

    Reads ``x[position]`` of a captured tensor are differentiated as variables of their own, whose
    stacked cotangents are added into that of ``x`` at once.
    """
    body = body.instantiate(inputs[0], inputs[1:])
    floats = list({id(v): v for v in body.captured if is_float(v.dtype)}.values())
    reads = [node for node in body.nodes() if _is_read(node, floats)]
    wrt = [*floats, *(node.output for node in reads)]
    steps = derivatives.vjp(
        body.outputs, wrt, [None if g is None else g[body.index] for g in cotangents],
        stop=[*body.captured, *wrt])
    stacked = iter(map_loop(body.index, [g for g in steps if g is not None]))
    totals: dict[int, Variable] = {}
    for variable, read, step in zip(wrt, [None] * len(floats) + reads, steps):
        if step is None:
            continue
        if read is None:
            total = FUNCTIONS["sum"](next(stacked), axis=0)
        else:
            variable, total = read.inputs[0], _add_reads(body.index, read, next(stacked))
        known = totals.get(id(variable))
        totals[id(variable)] = total if known is None else FUNCTIONS["add"](known, total)
    return [None, *(totals.pop(id(v), None) for v in body.captured)]


def _is_read(node: Apply, floats: Sequence[Variable]) -> bool:
    """Return whether a node is ``x[a, b, ...]`` with scalars, or ``x[array]``, of one of floats."""
    if node.op.name not in ("subtensor", "advanced_subtensor") \
            or not any(node.inputs[0] is v for v in floats):
        return False
    spec, count = node.params["spec"], len(node.inputs) - 1
    return count > 0 and spec[:count] in (("at",) * count, ("array",)) \
        and all(entry == (False, False, 1) for entry in spec[count:])


def _add_reads(index: LoopIndex, read: Apply, cotangents: Variable) -> Variable:
    """Return the cotangent of what ``read`` reads from, given those of all steps."""
    zeros = FUNCTIONS["zeros_like"](read.inputs[0])
    if read.inputs[1] is index and proves_equal(zeros.type.dims[0], cotangents.type.dims[0]) \
            and len(read.inputs) == 2:
        return cotangents
    positions = map_loop(index, read.inputs[1:])
    return FUNCTIONS["inc_subtensor"](zeros[tuple(positions)], cotangents)


def _jvp(tangents: Sequence[Variable | None], inputs: Sequence[Variable],
         outputs: Sequence[Variable], body: Body) -> list[Variable | None]:
    """Map the body's own JVP."""
    body = body.instantiate(inputs[0], inputs[1:])
    steps = derivatives.jvp(body.outputs, body.captured, tangents[1:])
    stacked = iter(map_loop(body.index, [t for t in steps if t is not None]))
    return [None if t is None else next(stacked) for t in steps]


MAP_LOOP = register(Op(
    name="map_loop", kind="structured", infer=_infer, reference=_reference,
    derivative=Custom(_vjp, _jvp), lower=MapLowering(), function=map_loop,
    doc=map_loop.__doc__ or "", samples=(), section="Control flow", namespace=""))
