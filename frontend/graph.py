"""Looking at and copying graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .compiler import graph
from .compiler.graph import Constant, Variable, creation_site, describe, format_site
from .compiler.operators import FUNCTIONS
from .compiler.ops.op import as_tensor
from .runtime.errors import DtypeError, ShapeError, format_message


def clone(output: Any,
          replace: Mapping[Variable, Any] | Iterable[tuple[Variable, Any]] | None = None,
          strict: bool = True, share_inputs: bool = True) -> Any:
    """Return ``output`` with variables replaced.

    Parameters
    ----------
    output : Variable, or list, tuple or dict of Variable
    replace : mapping, or sequence of pairs, optional
        Old variable (an input, shared or intermediate) -> tensor.  All are replaced at once.
    strict : bool
        Demand that a replacement has the dtype of what it replaces; otherwise it is cast.
    share_inputs : bool
        False: inputs that are not replaced become new ones too (shared variables stay).

    Returns
    -------
    Variable, or list, tuple or dict of Variable
        Structured as ``output``.  Parts that do not change are shared with the old graph, which is
        never modified; types are inferred anew.

    Raises
    ------
    DtypeError
        If ``strict`` and dtypes differ.
    ShapeError
        If the number of axes differs, or the new types do not fit.

    Examples
    --------
    >>> from tetractys import tensor as T
    >>> x, y = T.dscalars('x', 'y')
    >>> clone(x ** 2, {x: 3 * y}).eval({y: 2.0})
    array(36.)
    """
    pairs = replace.items() if isinstance(replace, Mapping) else replace or ()
    replacements = {old: _fitting(old, as_tensor(new), strict) for old, new in pairs}
    outputs = list(output.values()) if isinstance(output, dict) else \
        list(output) if isinstance(output, (list, tuple)) else [output]
    if not share_inputs:
        for old in graph.graph_inputs(outputs, stop=replacements):
            if type(old) is Variable and old.owner is None:
                shape = [dim if isinstance(dim, int) else None for dim in old.type.dims]
                replacements.setdefault(old, graph.input_variable(old.dtype, shape, old.name))
    results = graph.rebuild(outputs, replacements)
    if isinstance(output, dict):
        return dict(zip(output, results))
    if isinstance(output, (list, tuple)):
        return type(output)(results)
    return results[0]


def _fitting(old: Variable, new: Variable, strict: bool) -> Variable:
    values = f"{describe(old)} {old.type} by {describe(new)} {new.type}"
    if new.ndim != old.ndim:
        raise ShapeError(format_message(
            "A replacement must have as many axes as what it replaces.", values=values,
            where=format_site(creation_site()), remedy="reshape it"))
    if new.dtype == old.dtype:
        return new
    if strict and not isinstance(new, Constant):
        raise DtypeError(format_message(
            "A replacement must have the dtype of what it replaces.", values=values,
            where=format_site(creation_site()), remedy="cast it, or pass strict=False"))
    return FUNCTIONS["cast"](new, old.dtype)


def ancestors(outputs: Variable | Iterable[Variable]) -> list[Variable]:
    """Return every variable that ``outputs`` depend on, themselves included, inputs first."""
    outputs = [outputs] if isinstance(outputs, Variable) else list(outputs)
    found = {id(v): v for v in graph.graph_inputs(outputs)}
    for node in graph.toposort(outputs):
        found.update((id(v), v) for v in node.outputs)
    return list(found.values())


def inputs(outputs: Variable | Iterable[Variable]) -> list[Variable]:
    """Return the variables without owner that ``outputs`` depend on: inputs, shared, constants."""
    return graph.graph_inputs([outputs] if isinstance(outputs, Variable) else list(outputs))
