"""Positions that are computed as data would be, and are loop indices after all.

``x[arange(n), labels]`` counts up an index, wraps what is negative, clamps it, and checks it.  For
the first of the two all of that is proved to change nothing, so the position is the loop's index,
and iterations are seen to use different elements.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from ..dims import DimLike, Symbol, proves_nonnegative, substitute, symbols_of
from ..loop.ir import Check, Const, Expr, For, If, Index, Let, Local, Nest, Scalar, Stmt
from ..loop.rewrite import Rewriter
from ..loop.walk import accumulated_locals, postorder, statements

Found: TypeAlias = dict[Symbol | Local, DimLike]
"""What names are as dims."""


def resolve(nest: Nest) -> Nest:
    """Return a nest without bindings of symbols that are dims, and without checks that hold."""
    found: Found = {}
    gone: set[Stmt] = set()
    changing = accumulated_locals(nest)
    for stmt in statements(nest.body):
        if isinstance(stmt, Let) and stmt.target not in changing:
            value = _value(stmt.value, found)
            if value is not None:
                found[stmt.target] = value
                if isinstance(stmt.target, Symbol):
                    gone.add(stmt)
        elif isinstance(stmt, Check) and _holds(stmt.condition, found):
            gone.add(stmt)
    if not gone:
        return nest
    symbols = {target: value for target, value in found.items() if isinstance(target, Symbol)}
    return replace(nest, body=Rewriter(symbols).body(_without(nest.body, gone)))


def _without(body: tuple[Stmt, ...], gone: set[Stmt]) -> tuple[Stmt, ...]:
    return tuple(replace(stmt, body=_without(stmt.body, gone)) if isinstance(stmt, (For, If))
                 else stmt for stmt in body if stmt not in gone)


def _value(root: Expr, found: Found) -> DimLike | None:
    """Return an int64 expression as a dim, if it is one."""
    known: dict[int, DimLike | None] = {}
    for node in postorder(root):
        known[id(node)] = _node(node, known, found)
    return known[id(root)]


def _node(node: Expr, known: dict[int, DimLike | None],
          found: Found) -> DimLike | None:
    if node.dtype != "int64":
        return None
    if isinstance(node, Const):
        return node.value
    if isinstance(node, Local):
        return found.get(node)
    if isinstance(node, Index):
        symbols = {s: found[s] for s in symbols_of(node.dim) if s in found}
        return substitute(node.dim, symbols) if symbols else node.dim
    if not isinstance(node, Scalar):
        return None
    if node.name == "select":
        truth = _compare(node.args[0], known)
        return None if truth is None else known[id(node.args[1 if truth else 2])]
    parts = [known.get(id(arg)) for arg in node.args]
    if len(parts) != 2 or None in parts:
        return None
    left, right = parts
    if node.name in ("add", "sub"):
        return left + right if node.name == "add" else left - right
    if node.name in ("minimum", "maximum"):
        lower, upper = (left, right) if node.name == "minimum" else (right, left)
        if proves_nonnegative(upper - lower):
            return left
        return right if proves_nonnegative(lower - upper) else None
    return None


def _compare(node: Expr, known: dict[int, DimLike | None]) -> bool | None:
    """Return whether a comparison of dims holds; None when it is not proved either way."""
    if not isinstance(node, Scalar) or node.name not in ("lt", "le", "ge", "gt"):
        return None
    left, right = (known.get(id(arg)) for arg in node.args)
    if left is None or right is None:
        return None
    if node.name in ("ge", "gt"):
        left, right = right, left
    strict = node.name in ("lt", "gt")
    if proves_nonnegative(right - left - (1 if strict else 0)):
        return True
    return False if proves_nonnegative(left - right - (0 if strict else 1)) else None


def _holds(root: Expr, found: Found) -> bool:
    """Return whether a condition is proved."""
    known: dict[int, DimLike | None] = {}
    for node in postorder(root):
        known[id(node)] = _node(node, known, found)
    pending = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, Scalar) and node.name == "and":
            pending += node.args
        elif _compare(node, known) is not True:
            return False
    return True
