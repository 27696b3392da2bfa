"""Both modes of differentiation, from the one derivative that each op's row states.

Reverse mode, :func:`vjp`, walks the nodes from the outputs back; forward mode, :func:`jvp`, from
the inputs on.  Both are iterative and linear in the number of nodes, and the graphs they return are
ordinary graphs, to be differentiated again; their nodes carry the creation site of the node they
differentiate.  A cotangent or tangent that is zero is None and never materialised; integer and bool
variables have neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..runtime.artifact import GradientError, InternalError, format_message
from .dims import proves_equal
from .dtypes import is_float
from .graph import (
    Apply, Constant, TensorType, Variable, built_at, describe, format_site, is_known_equal,
    toposort)
from .operators import FUNCTIONS
from .ops.op import Custom, Expand, NoDerivative, OfExpansion, Partials, Transpose

Derivatives = list[Variable | None]

UNDEFINED = Constant(np.array(np.nan), name="undefined")
"""Stands for a derivative that does not exist, where the caller asked not to raise."""


def vjp(outputs: Sequence[Variable], wrt: Sequence[Variable], cotangents: Sequence[Variable | None],
        known: Mapping[Variable, Variable] | None = None,
        consider_constant: Iterable[Variable] = (), stop: Iterable[Variable] = (),
        raise_undefined: bool = True) -> Derivatives:
    """Return vector-Jacobian products: reverse mode.

    ``sum_k cotangents[k] . d outputs[k] / d wrt[j]`` for each j.

    Parameters
    ----------
    outputs, cotangents : sequences of Variable
        Of equal shapes; a cotangent may be None (zero) or broadcast.
    wrt : sequence of Variable
        With respect to these, inputs or intermediate variables.
    known : mapping of Variable to Variable, optional
        Cotangents that are given: what the graph contributes to them is ignored.
    consider_constant : iterable of Variable
        Nothing flows back through them; their own derivative is zero.
    stop : iterable of Variable
        Nothing flows back through them, but they may be among ``wrt``: the derivative holds what
        they are computed from fixed.
    raise_undefined : bool
        Raise where a derivative does not exist; otherwise return :data:`UNDEFINED` for each
        variable that it would be needed for.

    Returns
    -------
    list of Variable or None
        Of the dtype and shape of each of ``wrt``; None where it is zero.

    Raises
    ------
    GradientError
        If an op on the way has no derivative.
    """
    known, consider_constant = known or {}, tuple(consider_constant)
    constants = {id(v) for v in consider_constant}
    order = toposort([*outputs, *known], stop=[*consider_constant, *stop])
    active = _active(order, (v for v in wrt if id(v) not in constants))
    given = {id(v): _seed(g, v) for v, g in known.items()}
    pieces: dict[int, list[Variable]] = {}
    totals: dict[int, Variable | None] = dict(given)
    for output, cotangent in zip(outputs, cotangents):
        if cotangent is not None:
            pieces.setdefault(id(output), []).append(_seed(cotangent, output))

    def collect(variable: Variable) -> Variable | None:
        if id(variable) not in totals:
            totals[id(variable)] = _sum(pieces.pop(id(variable), []))
        return totals[id(variable)]

    for node in reversed(order):
        arriving = [collect(output) for output in node.outputs]
        needed = [id(source) in active for source in node.inputs]
        if not any(needed) or all(g is None for g in arriving):
            continue
        with built_at(node.site):
            leaving = _pull(node, arriving, needed, raise_undefined)
            for source, cotangent, is_needed in zip(node.inputs, leaving, needed):
                if cotangent is not None and is_needed and id(source) not in given:
                    pieces.setdefault(id(source), []).append(_fit(cotangent, source))
    return [collect(v) if is_float(v.dtype) and id(v) not in constants else None for v in wrt]


def jvp(outputs: Sequence[Variable], wrt: Sequence[Variable], tangents: Sequence[Variable | None],
        consider_constant: Iterable[Variable] = (), stop: Iterable[Variable] = ()) -> Derivatives:
    """Return Jacobian-vector products: forward mode.

    ``sum_j d outputs[k] / d wrt[j] . tangents[j]`` for each k.

    Parameters
    ----------
    outputs : sequence of Variable
    wrt, tangents : sequences of Variable
        Of equal shapes; a tangent may be None (zero) or broadcast.  A variable of ``wrt`` that is
        computed from another one has only the tangent given here.
    consider_constant : iterable of Variable
        Their tangents are zero.
    stop : iterable of Variable
        Nodes before these are not visited; they are taken as given.

    Returns
    -------
    list of Variable or None
        Of the dtype and shape of each output; None where it is zero.

    Raises
    ------
    GradientError
        If an op on the way has no derivative.
    """
    known: dict[int, Variable] = {}
    consider_constant = tuple(consider_constant)
    for variable, tangent in zip(wrt, tangents):
        if tangent is not None and is_float(variable.dtype):
            known[id(variable)] = _seed(tangent, variable)
    for variable in consider_constant:
        known.pop(id(variable), None)
    for node in toposort(outputs, stop=[*wrt, *consider_constant, *stop]):
        arriving = [known.get(id(source)) for source in node.inputs]
        if all(t is None for t in arriving):
            continue
        with built_at(node.site):
            for output, tangent in zip(node.outputs, _push(node, arriving)):
                if tangent is not None and is_float(output.dtype):
                    known.setdefault(id(output), _fit(_spread(tangent, output), output))
    return [known.get(id(output)) for output in outputs]


def is_connected(outputs: Iterable[Variable], wrt: Sequence[Variable],
                 consider_constant: Iterable[Variable] = ()) -> list[bool]:
    """Return, for each of ``wrt``, whether the value of an output depends on its value.

    A derivative that is zero everywhere (``floor``) connects; reading a size does not, nor does
    ``disconnected_grad``.
    """
    outputs, consider_constant = list(outputs), tuple(consider_constant)
    reached = {id(v) for v in outputs}
    constants = {id(v) for v in consider_constant}
    for node in reversed(toposort(outputs, stop=consider_constant)):
        if node.op.name not in ("axis_size", "disconnected_grad") \
                and any(id(output) in reached for output in node.outputs):
            reached.update(id(source) for source in node.inputs)
    return [id(v) in reached and id(v) not in constants for v in wrt]


def _active(order: Sequence[Apply], wrt: Iterable[Variable]) -> set[int]:
    """Return the variables through which a derivative with respect to ``wrt`` can flow."""
    active = {id(v) for v in wrt if is_float(v.dtype)}
    for node in order:
        derivative = node.op.derivative
        if not (isinstance(derivative, NoDerivative) and derivative.zero) \
                and any(id(source) in active for source in node.inputs):
            active.update(id(v) for v in node.outputs if is_float(v.dtype))
    return active


# -- one node, backwards ---------------------------------------------------------------------------

def _pull(node: Apply, cotangents: Derivatives, needed: Sequence[bool],
          raise_undefined: bool) -> Derivatives:
    """Return the cotangents of a node's inputs."""
    derivative, inputs, params = node.op.derivative, node.inputs, node.params
    if any(g is UNDEFINED for g in cotangents):
        return [UNDEFINED] * len(inputs)
    if isinstance(derivative, Partials):
        (g,) = cotangents
        partials = derivative.rule(*inputs, node.output, **params)
        return [_times(g, partial) if need else None for partial, need in zip(partials, needed)]
    if isinstance(derivative, Transpose):
        (g,) = cotangents
        return [_rule(node, k)(g, *inputs, **params) if need else None
                for k, need in enumerate(needed)]
    if isinstance(derivative, Custom):
        return list(derivative.vjp(cotangents, inputs, node.outputs, **params))
    if isinstance(derivative, OfExpansion):
        sources = _distinct(source for source, need in zip(inputs, needed) if need)
        found = dict(zip(map(id, sources), vjp(
            [_expand(node)], sources, cotangents, stop=inputs, raise_undefined=raise_undefined)))
        return [found.pop(id(source), None) for source in inputs]
    if derivative.zero:
        return [None] * len(inputs)
    if raise_undefined:
        raise _no_derivative(node, derivative, needed)
    return [UNDEFINED] * len(inputs)


# -- one node, forwards ----------------------------------------------------------------------------

def _push(node: Apply, tangents: Derivatives) -> Derivatives:
    """Return the tangents of a node's outputs."""
    derivative, inputs, params = node.op.derivative, node.inputs, node.params
    if isinstance(derivative, Partials):
        partials = derivative.rule(*inputs, node.output, **params)
        return [_sum([_times(t, partial) for t, partial in zip(tangents, partials)
                      if t is not None and partial is not None])]
    if isinstance(derivative, Transpose):
        return [_push_linear(node, derivative, tangents)]
    if isinstance(derivative, Custom):
        return list(derivative.jvp(tangents, inputs, node.outputs, **params))
    if isinstance(derivative, OfExpansion):
        first = {id(source): t for source, t in zip(inputs, tangents)}
        sources = _distinct(inputs)
        return jvp([_expand(node)], sources, [first[id(source)] for source in sources])
    if derivative.zero:
        return [None] * len(node.outputs)
    raise _no_derivative(node, derivative, [t is not None for t in tangents])


def _push_linear(node: Apply, derivative: Transpose, tangents: Derivatives) -> Variable | None:
    """Apply the op itself to tangents: to all at once, or to one at a time."""
    moving = [k for k, t in enumerate(tangents) if t is not None]
    for k in moving:
        _rule(node, k)
    if derivative.jointly:
        zeros = FUNCTIONS["zeros_like"]
        changed = {k: zeros(node.inputs[k]) if tangents[k] is None else tangents[k]
                   for k in derivative.rules}
        return _reapplied(node, changed)
    return _sum([_reapplied(node, {k: tangents[k]}) for k in moving])


def _reapplied(node: Apply, changed: Mapping[int, Variable]) -> Variable:
    inputs = [changed.get(k, source) for k, source in enumerate(node.inputs)]
    return node.op.make_node(inputs, node.params, site=node.site).output


# -- shared ----------------------------------------------------------------------------------------

def _expand(node: Apply) -> Variable:
    assert isinstance(node.op.lower, Expand)
    return node.op.lower.rule(*node.inputs, **node.params)


def _rule(node: Apply, position: int) -> Any:
    """Return the transpose rule of an input; the row must have one where a derivative flows."""
    rules = node.op.derivative.rules
    if position not in rules:
        raise InternalError(f"{node.op.name} states no derivative for its input {position} "
                            f"({describe(node.inputs[position])})")
    return rules[position]


def _distinct(variables: Iterable[Variable]) -> list[Variable]:
    return list({id(v): v for v in variables}.values())


def _times(value: Variable, partial: Variable | None) -> Variable | None:
    """Return ``value * partial``, without the product where the partial is a constant 1 or -1."""
    if partial is None:
        return None
    if isinstance(partial, Constant) and partial.ndim == 0:
        if partial.data == 1:
            return value
        if partial.data == -1:
            return FUNCTIONS["neg"](value)
    return FUNCTIONS["mul"](value, partial)


def _sum(terms: list[Variable]) -> Variable | None:
    """Return the sum of the terms as a balanced tree, or None when there are none."""
    if any(term is UNDEFINED for term in terms):
        return UNDEFINED
    while len(terms) > 1:
        pairs = [FUNCTIONS["add"](a, b) for a, b in zip(terms[::2], terms[1::2])]
        terms = pairs + terms[len(pairs) * 2:]
    return terms[0] if terms else None


def _fit(value: Variable, like: Variable) -> Variable:
    """Return ``value`` summed over the axes along which ``like`` was broadcast, in its dtype."""
    if value is UNDEFINED or value.type == like.type:
        return value
    extra = value.ndim - like.ndim
    if extra < 0:
        raise InternalError(f"a derivative of {describe(like)} ({like.type}) has type {value.type}")
    summed = [axis for axis in range(value.ndim) if axis < extra or (
        like.type.dims[axis - extra] == 1 and not proves_equal(value.type.dims[axis], 1))]
    if summed:
        kept = iter(range(value.ndim - len(summed)))
        value = FUNCTIONS["sum"](value, axis=tuple(summed))
        pattern = ["x" if axis in summed else next(kept)
                   for axis in range(extra, extra + like.ndim)]
        if "x" in pattern:
            value = FUNCTIONS["dimshuffle"](value, pattern)
    return value if value.dtype == like.dtype else FUNCTIONS["cast"](value, like.dtype)


def _spread(value: Variable, like: Variable) -> Variable:
    """Return ``value`` broadcast to the shape of ``like`` where its own axes are shorter."""
    extra = like.ndim - value.ndim
    if extra > 0 or (extra == 0 and any(
            proves_equal(own, 1) and not proves_equal(wanted, 1)
            for own, wanted in zip(value.type.dims, like.type.dims))):
        return _broadcast(value, like)
    return value


def _seed(value: Variable, like: Variable) -> Variable:
    """Return a given cotangent or tangent in exactly the type of ``like``."""
    if not is_known_equal(value.type, TensorType(value.dtype, like.type.dims)):
        value = _broadcast(value, like)
    return value if value.dtype == like.dtype else FUNCTIONS["cast"](value, like.dtype)


def _broadcast(value: Variable, like: Variable) -> Variable:
    sizes = [FUNCTIONS["axis_size"](like, axis) for axis in range(like.ndim)]
    return FUNCTIONS["broadcast_to"](value, sizes)


def _no_derivative(node: Apply, derivative: NoDerivative, needed: Sequence[bool]) -> GradientError:
    sources = "; ".join(f"{describe(v)} {v.type}" for v, need in zip(node.inputs, needed) if need)
    return GradientError(format_message(
        f"{node.op.name} has no derivative: {derivative.reason}.",
        values=f"asked for through {sources}", where=format_site(node.site),
        remedy="take the gradient with respect to something else, or wrap the argument in "
               "disconnected_grad to treat it as a constant"))
