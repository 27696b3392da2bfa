"""Copy statements with symbols, loads and locals replaced; what is shared stays shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..dims import DimLike, Symbol, substitute, symbols_of
from .ir import (
    Accumulate, Check, Expr, Fetch, For, If, Index, Let, Load, LoadMatrices, Local, Mark, Multiply,
    Scalar, Stmt, Store,
)
from .walk import postorder


class Rewriter:
    """Rewrites statements and expressions.

    Parameters
    ----------
    symbols : mapping of Symbol to dim
        What takes the places of indices and bound symbols.
    loads : callable, optional
        Given a load (already in terms of the new symbols) and the old one, returns the expression
        that takes its place.
    locals_ : mapping of Local to Local, optional
        Locals that other ones replace.
    mark : Mark or None
        When set, every loop gets this mark.
    """

    def __init__(self, symbols: Mapping[Symbol, DimLike],
                 loads: Callable[[Load, Load], Expr] | None = None,
                 locals_: Mapping[Local, Local] | None = None, mark: Mark | None = None):
        self.symbols, self.loads, self.mark = symbols, loads, mark
        self.locals = {} if locals_ is None else locals_
        self.known: dict[int, Expr] = {}
        self.kept: list[Expr] = []

    def dim(self, dim: DimLike) -> DimLike:
        """Return a dim in terms of the new symbols."""
        if isinstance(dim, int) or not symbols_of(dim) & self.symbols.keys():
            return dim
        return substitute(dim, self.symbols)

    def position(self, position: tuple[DimLike, ...]) -> tuple[DimLike, ...]:
        """Return a position in terms of the new symbols."""
        return tuple(map(self.dim, position))

    def expression(self, root: Expr) -> Expr:
        """Return an expression rewritten."""
        for node in postorder(root, known=lambda node: id(node) in self.known):
            self.known[id(node)] = self._rebuilt(node)
            self.kept.append(node)  # an id must not be taken over by another expression
        return self.known[id(root)]

    def _rebuilt(self, node: Expr) -> Expr:
        if isinstance(node, Index):
            dim = self.dim(node.dim)
            return node if dim is node.dim else Index(dim)
        if isinstance(node, Load):
            new = Load(node.buffer, self.position(node.position))
            return new if self.loads is None else self.loads(new, node)
        if isinstance(node, Local):
            return self.locals.get(node, node)
        if isinstance(node, Scalar):
            args = tuple(self.known[id(arg)] for arg in node.args)
            if any(new is not old for new, old in zip(args, node.args)):
                return Scalar(node.name, args, node.dtype)
        return node

    def body(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        """Return statements rewritten."""
        return tuple(self.statement(stmt) for stmt in body)

    def statement(self, stmt: Stmt) -> Stmt:
        """Return one statement rewritten."""
        if isinstance(stmt, For):
            return For(stmt.index, self.dim(stmt.extent), self.body(stmt.body),
                       self.mark or stmt.mark)
        if isinstance(stmt, If):
            return If(self.expression(stmt.condition), self.body(stmt.body))
        if isinstance(stmt, Store):
            return Store(stmt.buffer, self.position(stmt.position), self.expression(stmt.value))
        if isinstance(stmt, Accumulate):
            target = stmt.target
            new = self.locals.get(target, target) if isinstance(target, Local) else \
                Load(target.buffer, self.position(target.position))
            return Accumulate(new, stmt.combine, self.expression(stmt.value))
        if isinstance(stmt, Let):
            target = stmt.target
            if isinstance(target, Local):
                target = self.locals.get(target, target)
            return Let(target, self.expression(stmt.value))
        if isinstance(stmt, Check):
            return Check(self.expression(stmt.condition), stmt.code, self.expression(stmt.value))
        # Exchanges between threads are written last of all; nothing in them is replaced.
        assert not isinstance(stmt, (Fetch, LoadMatrices, Multiply))
        return stmt
