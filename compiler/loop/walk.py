"""Walks over nests: expressions in dependency order, statements in program order, what they use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ..dims import DimLike, Symbol
from .ir import (
    Accumulate, Buffer, Check, Expr, Fetch, For, If, Let, Load, LoadMatrices, Local, Multiply, Nest,
    Scalar, Shuffle, Stmt, Store,
)


def children(expr: Expr) -> tuple[Expr, ...]:
    """Return the expressions an expression is computed from."""
    return expr.args if isinstance(expr, Scalar) else ()


def postorder(*roots: Expr, known: Callable[[Expr], bool] | None = None) -> list[Expr]:
    """Return the nodes of an expression graph, each once, arguments before their users.

    Nodes for which ``known`` holds are left out, with what only they need.

    Examples
    --------
    >>> from tetractys.compiler.loop.ir import Local, Scalar
    >>> x = Local("x", "float32")
    >>> square = Scalar("mul", (x, x), "float32")
    >>> postorder(square) == [x, square]
    True
    """
    found: list[Expr] = []
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            found.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            if known is not None and known(node):
                continue
            if isinstance(node, Scalar):
                stack.append((node, True))
                stack.extend([(child, False) for child in reversed(node.args)])
            else:
                found.append(node)
    return found


def statements(body: Iterable[Stmt]) -> Iterator[Stmt]:
    """Yield all statements of a body, outer before inner, in program order."""
    stack = list(body)[::-1]
    while stack:
        stmt = stack.pop()
        yield stmt
        if isinstance(stmt, (For, If)):
            stack.extend(reversed(stmt.body))


def operands(stmt: Stmt) -> tuple[Expr, ...]:
    """Return the expressions a statement itself evaluates (not those of its body)."""
    if isinstance(stmt, (Store, Accumulate, Let)):
        return (stmt.value,)
    if isinstance(stmt, Check):
        return (stmt.condition, stmt.value)
    if isinstance(stmt, Shuffle):
        return (stmt.source,)
    if isinstance(stmt, Fetch):
        return (stmt.source, stmt.inside)
    if isinstance(stmt, LoadMatrices):
        return (stmt.source,)
    if isinstance(stmt, Multiply):
        return (stmt.left, stmt.right)
    return (stmt.condition,) if isinstance(stmt, If) else ()


def target_access(stmt: Stmt) -> tuple[Buffer, tuple[DimLike, ...]] | None:
    """Return the buffer element a statement writes, or None."""
    if isinstance(stmt, Store):
        return stmt.buffer, stmt.position
    if isinstance(stmt, Accumulate) and isinstance(stmt.target, Load):
        return stmt.target.buffer, stmt.target.position
    if isinstance(stmt, (Fetch, LoadMatrices)):
        return stmt.target.buffer, stmt.target.position
    if isinstance(stmt, Multiply):
        return stmt.total.buffer, stmt.total.position
    return None


def loads(*roots: Expr) -> list[Load]:
    """Return the loads an expression makes, each once."""
    return [node for node in postorder(*roots) if isinstance(node, Load)]


def accumulated_locals(nest: Nest) -> frozenset[Local]:
    """Return the locals some ``Accumulate`` changes; all others keep their ``Let`` value."""
    return frozenset(stmt.target for stmt in statements(nest.body)
                     if isinstance(stmt, Accumulate) and isinstance(stmt.target, Local))


def buffers_read(nest: Nest) -> tuple[Buffer, ...]:
    """Return the buffers a nest reads (an accumulation reads its target), in first-use order."""
    found: dict[Buffer, None] = {}
    for stmt in statements(nest.body):
        found.update((load.buffer, None) for load in loads(*operands(stmt)))
        if isinstance(stmt, Accumulate) and isinstance(stmt.target, Load):
            found[stmt.target.buffer] = None
        if isinstance(stmt, Multiply):
            found[stmt.total.buffer] = None
    return tuple(found)


def buffers_written(nest: Nest) -> tuple[Buffer, ...]:
    """Return the buffers a nest writes, in first-use order."""
    found: dict[Buffer, None] = {}
    for stmt in statements(nest.body):
        access = target_access(stmt)
        if access is not None:
            found[access[0]] = None
    return tuple(found)


def stable_expressions(nest: Nest) -> set[int]:
    """Return the ``id`` of each expression whose value is fixed where its symbols are bound.

    Such an expression reads no accumulated local and no buffer that the nest writes, so it may be
    computed once and reused by later statements of the same block.
    """
    changing = accumulated_locals(nest)
    written = {buffer.root() for buffer in buffers_written(nest)}
    stable: set[int] = set()
    roots = [expr for stmt in statements(nest.body) for expr in operands(stmt)]
    for node in postorder(*roots):
        if isinstance(node, Local):
            fixed = node not in changing
        elif isinstance(node, Load):
            fixed = node.buffer.root() not in written
        else:
            fixed = all(id(child) in stable for child in children(node))
        if fixed:
            stable.add(id(node))
    return stable


def bound_symbols(nest: Nest) -> set[Symbol]:
    """Return the symbols bound inside a nest: loop indices and ``Let`` targets."""
    return {stmt.index if isinstance(stmt, For) else stmt.target
            for stmt in statements(nest.body)
            if isinstance(stmt, For) or isinstance(stmt, Let) and isinstance(stmt.target, Symbol)}
