"""Entering the compiler: equal subexpressions of the user's graph become one node (hash-consing).

What enters is the user's graph, which is never modified; what leaves is a private copy in which

- two nodes with the same op, parameters and inputs are one node, so common subexpressions are
  eliminated by construction and analyses can be memoised by identity;
- symbols of sizes are replaced by the dims given (specialisation) and every type is inferred anew;
- ``x.shape[i]`` is the size itself, not a reading of ``x``: op ``size``, or an integer constant.

Names, tags and creation sites ride along; of merged nodes the first named one keeps its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..runtime import artifact
from ..runtime.artifact import InternalError, format_message
from .dims import Dim, DimLike, Symbol, proves_different, proves_equal, substitute, symbols_of
from .graph import (
    Apply, Constant, DataSymbol, SharedBase, SizeGuard, TensorType, Variable, describe, dim_of,
    format_site, rebuild)
from .ops.op import REGISTRY, Op

COMMUTATIVE = frozenset({"add", "mul", "eq", "neq", "and_", "or_", "xor"})
"""Ops whose two inputs may be exchanged without changing a bit of the result."""

SMALL_CONSTANT_BYTES = 4096
"""Constants up to this size are merged by value; larger ones only by identity."""


class Interner:
    """The table of nodes of one compilation.

    Attributes
    ----------
    mapping : dict of Variable to Variable
        From every variable of the user's graph met so far to its interned one.
    guards : list of (SizeGuard, Apply)
        Sizes that must agree, over all nodes that entered (also those a rewrite removes later), in
        terms of the remaining symbols.  ``left_of`` and ``right_of`` are the user's own variables.
    substitution : dict of Symbol to dim
        What the size symbols of inputs were replaced by.
    """

    def __init__(self) -> None:
        self.mapping: dict[Variable, Variable] = {}
        self.guards: list[tuple[SizeGuard, Apply]] = []
        self.substitution: dict[Symbol, DimLike] = {}
        self._guarded: set[tuple[DimLike, DimLike]] = set()
        self._nodes: dict[tuple, Apply] = {}
        self._constants: dict[tuple, Constant] = {}
        self._interned: set[int] = set()
        self._dims: dict[Dim, DimLike] = {}

    def intern(self, variables: Sequence[Variable],
               substitution: Mapping[Symbol, DimLike] | None = None,
               replacements: Mapping[Variable, Variable] | None = None) -> list[Variable]:
        """Return the interned counterparts of ``variables``.

        Variables already interned stand for themselves, so results of rewriting, built with any
        function on interned variables, are interned by calling this again.

        Parameters
        ----------
        variables : sequence of Variable
        substitution : mapping of Symbol to dim, optional
            Dims that replace symbols of sizes of inputs.
        replacements : mapping of Variable to Variable, optional
            The user's substitutions (``givens``); replacements are not searched again.

        Raises
        ------
        ShapeError
            If the substitution makes sizes differ that must be equal.
        InternalError
            If a symbol was already replaced by something else.
        """
        for symbol, dim in (substitution or {}).items():
            if self.substitution.setdefault(symbol, dim) != dim:
                raise InternalError(f"the size {symbol} has two values in one compilation")
            self._dims.clear()
        if replacements:
            variables = rebuild(variables, replacements)
        for node in dependencies(variables, lambda variable: id(variable) in self._interned
                                 or variable in self.mapping):
            self._enter(node)
        return [self._known(variable) for variable in variables]

    def node(self, op: Op, inputs: Sequence[Variable], params: Mapping[str, Any],
             site: tuple[str, int] | None = None) -> Apply:
        """Return the one node of ``op`` on these interned inputs, building it when it is new."""
        identities = [id(variable) for variable in inputs]
        if op.name in COMMUTATIVE:
            identities.sort()
        key = (op.name, tuple(identities), parameters_key(params) if params else ())
        found = self._nodes.get(key)
        if found is None:
            found = self._nodes[key] = op.make_node(inputs, params, site=site)
            self._interned.update(map(id, found.outputs))
        return found

    def apply(self, op: Op, inputs: Sequence[Variable], params: Mapping[str, Any],
              site: tuple[str, int] | None = None) -> tuple[Variable, ...]:
        """Return the outputs of :meth:`node`; sizes become op ``size`` or constants."""
        if op.name == "axis_size":
            return (self.size(inputs[0].type.dims[params["axis"]], site),)
        if op.name == "size":
            return (self.size(params["dim"], site),)
        return self.node(op, inputs, params, site).outputs

    def size(self, dim: DimLike, site: tuple[str, int] | None = None) -> Variable:
        """Return an int64 scalar variable whose value is ``dim``."""
        if isinstance(dim, int):
            return self.constant(np.asarray(dim, "int64"))
        return self.node(REGISTRY["size"], (), {"dim": dim}, site).output

    def constant(self, value: np.ndarray | Constant) -> Constant:
        """Return the one constant with this value, dtype and shape (if small)."""
        constant = value if isinstance(value, Constant) else Constant(np.asarray(value))
        data = constant.data
        key = (data.dtype.name, data.shape, data.tobytes()) \
            if data.nbytes <= SMALL_CONSTANT_BYTES else (id(constant),)
        found = self._constants.setdefault(key, constant)
        self._interned.add(id(found))
        return found

    def adopt(self, variable: Variable) -> Variable:
        """Return the interned counterpart of one variable, built with any function."""
        return self.intern([variable])[0]

    def owns(self, variable: Variable) -> bool:
        """Return whether a variable already belongs to this table."""
        return id(variable) in self._interned

    # -- entering ----------------------------------------------------------------------------------

    def _known(self, variable: Variable) -> Variable:
        if id(variable) in self._interned:
            return variable
        found = self.mapping.get(variable)
        if found is None and variable.owner is None:
            found = self.mapping[variable] = self._enter_leaf(variable)
        assert found is not None, "nodes are entered in topological order"
        return found

    def _enter(self, node: Apply) -> None:
        inputs = tuple(self._known(source) for source in node.inputs)
        params = node.params and {name: map_dims(value, self._dim)
                                  for name, value in node.params.items()}
        for guard in node.guards:
            self._guard(guard, node)
        outputs = self.apply(node.op, inputs, params, node.site)
        for old, new in zip(node.outputs, outputs):
            self.mapping[old] = new
            if new.owner is not None:
                if new.name is None:
                    new.name = old.name
                if new._tag is None:
                    new._tag = old._tag

    def _enter_leaf(self, variable: Variable) -> Variable:
        if isinstance(variable, Constant):
            return self.constant(variable)
        type_ = TensorType(variable.dtype, tuple(map(self._dim, variable.type.dims)))
        copy = object.__new__(type(variable))
        if isinstance(variable, SharedBase):
            SharedBase.__init__(copy, type_, variable.storage, variable.name, variable.site)
        else:
            Variable.__init__(copy, type_, name=variable.name, site=variable.site)
        copy._tag = variable._tag
        self._interned.add(id(copy))
        return copy

    def _dim(self, dim: DimLike) -> DimLike:
        """Replace the symbols of a dim: sizes by the substitution, data by interned data."""
        if isinstance(dim, int):
            return dim
        found = self._dims.get(dim)
        if found is None:
            values: dict[Symbol, DimLike] = {}
            for symbol in symbols_of(dim):
                if isinstance(symbol, DataSymbol):
                    values[symbol] = dim_of(self._known(symbol.variable))
                elif symbol in self.substitution:
                    values[symbol] = self.substitution[symbol]
            found = self._dims[dim] = substitute(dim, values) if values else dim
        return found

    def _guard(self, guard: SizeGuard, node: Apply) -> None:
        left, right = self._dim(guard.left), self._dim(guard.right)
        if proves_equal(left, right) or (left, right) in self._guarded:
            return
        if proves_different(left, right):
            values = "; ".join((_whose(guard.left_of, left), _whose(guard.right_of, right)))
            raise getattr(artifact, guard.kind)(
                format_message(guard.reason, values, format_site(node.site)) if guard.reason
                else node.op.unequal_sizes(values, node.site))
        self._guarded.add((left, right))
        self.guards.append((replace(guard, left=left, right=right), node))


def _whose(place: tuple[Variable, int], size: DimLike) -> str:
    variable, axis = place
    what = f"has {size} on axis {axis}" if axis >= 0 else f"is {size}"
    return f"{describe(variable)} {what}" \
        + (f" (from {format_site(variable.site)})" if variable.site else "")


def dependencies(variables: Iterable[Variable],
                 is_known: Callable[[Variable], bool] = lambda variable: False) -> list[Apply]:
    """Return the nodes behind variables, sources first, data behind sizes included.

    Parameters
    ----------
    variables : iterable of Variable
    is_known : callable
        ``is_known(variable) -> bool``: do not look behind it.
    """
    order: list[Apply] = []
    seen: set[Apply] = set()
    stack: list[tuple[Apply, bool]] = []

    def push(variable: Variable) -> None:
        owner = variable.owner
        if owner is not None and owner not in seen and not is_known(variable):
            stack.append((owner, False))

    for variable in variables:
        push(variable)
        while stack:
            node, is_ready = stack.pop()
            if is_ready:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                if node.params:
                    for source in data_behind(node.params):
                        push(source)
                for source in reversed(node.inputs):
                    push(source)
    return order


# -- parameters ------------------------------------------------------------------------------------

def parameters_key(params: Mapping[str, Any]) -> tuple:
    """Return a hashable key that is equal only for parameters that mean the same.

    Unlike ``==`` it tells ``True`` from ``1`` and ``0.0`` from ``-0.0``.
    """
    return tuple((name, _value_key(params[name])) for name in sorted(params))


def _value_key(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_value_key, value))
    if isinstance(value, float):
        return "float", value.hex()
    return (type(value), value)


def map_dims(value: Any, change: Callable[[DimLike], DimLike]) -> Any:
    """Return a parameter with every symbolic dim in it changed; closed graphs change their own."""
    if isinstance(value, Dim):
        return change(value)
    if isinstance(value, tuple):
        return tuple(map_dims(item, change) for item in value)
    return value


def data_behind(params: Mapping[str, Any]) -> list[Variable]:
    """Return the integer variables whose values are sizes in these parameters."""
    found: list[Variable] = []

    def visit(dim: DimLike) -> DimLike:
        found.extend(s.variable for s in symbols_of(dim) if isinstance(s, DataSymbol))
        return dim

    for value in params.values():
        map_dims(value, visit)
    return found
