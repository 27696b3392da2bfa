"""Shape a nest for the machine: merge adjacent loops over contiguous memory.

Enters: a nest with one loop an axis.  Leaves: an equal one in which ``for i: for j:`` became one
loop wherever every access runs through memory in the same order, so that the innermost loop is
long, vectorises, and can be cut evenly over threads.
"""

from __future__ import annotations

from dataclasses import replace

from ..access import flat_offset
from ..dims import DimLike, Symbol, as_dim, prod, substitute, symbols_of
from .ir import (
    Accumulate, Buffer, Check, Expr, For, Index, Let, Load, Nest, Scalar, Stmt, Store)


def collapse(nest: Nest) -> Nest:
    """Merge perfectly nested loops whose accesses allow it."""
    return replace(nest, body=_collapse_body(nest.body))


def _collapse_body(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    result = []
    for statement in body:
        if isinstance(statement, For):
            statement = replace(statement, body=_collapse_body(statement.body))
            statement = _merge(statement)
        result.append(statement)
    return tuple(result)


def _merge(outer: For) -> For:
    """Merge a loop with the only loop in its body, if that is all its body has."""
    if len(outer.body) != 1 or not isinstance(outer.body[0], For):
        return outer
    inner = outer.body[0]
    if outer.index in symbols_of(inner.extent) or isinstance(inner.body[0], For):
        return outer
    extent = outer.extent * inner.extent
    flat = Symbol(outer.index.name + inner.index.name, extent=extent)
    flattener = _Flattener(outer, inner, flat)
    body = flattener.statements(inner.body)
    if body is None:
        return outer
    mark = outer.mark if outer.mark != "serial" else inner.mark
    return For(flat, extent, body, mark)


class _Flattener:
    """Rewrites a body in terms of ``flat = outer * extent(inner) + inner``."""

    def __init__(self, outer: For, inner: For, flat: Symbol):
        self.outer, self.inner = outer.index, inner.index
        self.values = {inner.index: as_dim(flat) - as_dim(outer.index) * inner.extent}
        self.aliases: dict[Buffer, Buffer] = {}
        self.expressions: dict[int, Expr | None] = {}

    def dim(self, dim: DimLike) -> DimLike | None:
        """Return a dim in terms of the flat index, or None when it needs one of the two."""
        if isinstance(dim, int):
            return dim
        new = substitute(dim, self.values)
        return None if self.outer in symbols_of(new) else new

    def access(self, buffer: Buffer, position: tuple[DimLike, ...]
               ) -> tuple[Buffer, tuple[DimLike, ...]] | None:
        """Return an access with its position flattened where it depends on the two loops."""
        used = set().union(*(symbols_of(p) for p in position)) if position else set()
        if not used & {self.outer, self.inner}:
            return buffer, position
        offset = self.dim(flat_offset(position, buffer.dims))
        if offset is None:
            return None
        if len(buffer.dims) == 1:
            return buffer, (offset,)
        alias = self.aliases.get(buffer)
        if alias is None:
            alias = self.aliases[buffer] = Buffer(
                buffer.name, buffer.dtype, (prod(buffer.dims),), buffer.role, buffer)
        return alias, (offset,)

    def statements(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...] | None:
        """Return the body rewritten, or None when some access does not allow it."""
        result: list[Stmt] = []
        for statement in body:
            new = self.statement(statement)
            if new is None:
                return None
            result.append(new)
        return tuple(result)

    def statement(self, statement: Stmt) -> Stmt | None:
        """Return one statement rewritten, or None."""
        if isinstance(statement, Store):
            access = self.access(statement.buffer, statement.position)
            value = self.expression(statement.value)
            return None if access is None or value is None else Store(*access, value)
        if isinstance(statement, Accumulate):
            target, value = self.expression(statement.target), self.expression(statement.value)
            if target is None or value is None:
                return None
            return Accumulate(target, statement.combine, value)
        if isinstance(statement, Let):
            value = self.expression(statement.value)
            return None if value is None else Let(statement.target, value)
        if isinstance(statement, Check):
            condition = self.expression(statement.condition)
            value = self.expression(statement.value)
            return None if condition is None or value is None \
                else Check(condition, statement.code, value)
        return None

    def expression(self, root: Expr) -> Expr | None:
        """Return an expression rewritten (sharing kept), or None."""
        stack = [root]
        while stack:
            node = stack[-1]
            if id(node) in self.expressions:
                stack.pop()
                continue
            if isinstance(node, Scalar):
                missing = [arg for arg in node.args if id(arg) not in self.expressions]
                if missing:
                    stack.extend(missing)
                    continue
            self.expressions[id(node)] = self._rebuilt(node)
            stack.pop()
        return self.expressions[id(root)]

    def _rebuilt(self, node: Expr) -> Expr | None:
        if isinstance(node, Index):
            dim = self.dim(node.dim)
            return None if dim is None else Index(dim)
        if isinstance(node, Load):
            access = self.access(node.buffer, node.position)
            return None if access is None else Load(*access)
        if isinstance(node, Scalar):
            args = tuple(self.expressions[id(arg)] for arg in node.args)
            if any(arg is None for arg in args):
                return None
            if all(new is old for new, old in zip(args, node.args)):
                return node
            return Scalar(node.name, args, node.dtype)
        return node
