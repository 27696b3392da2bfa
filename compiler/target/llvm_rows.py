"""Loops over rows whose passes need the same vector: several rows side by side.

A product of a matrix and a vector loads an element of the vector for each element of the matrix.
Four rows together load it once, and end with four independent combinations of lanes.  The loop's
iterations are taken ``ROWS`` at a time: statement after statement, each for all of them, with their
passes made one.
"""

from __future__ import annotations

from ..dims import as_dim, symbols_of
from ..loop.ir import Accumulate, For, Let, Load, Local, Nest, Scalar, Stmt, Store
from ..loop.math import FUNCTIONS
from ..loop.rewrite import Rewriter
from ..loop.walk import operands, postorder, statements

ROWS = 4
"""Rows side by side: each element takes 1.25 loads instead of 2.  Eight would leave no registers
for totals of more than one vector each, which the latency of additions asks for."""

COPIES = 2
"""Vectors of each row side by side: with four rows, as many totals as two units need that add, with
a latency of four cycles."""

CHEAP = 8
"""Operations on an element up to which a pass waits for its loads."""


def rows_together(nest: Nest) -> dict[For, For]:
    """Return, for each loop over rows that gains from it, the loop whose body does ``ROWS`` rows.

    Parameters
    ----------
    nest : Nest
    """
    return {loop: For(loop.index, loop.extent, _jammed(loop), loop.mark)
            for loop in statements(nest.body)
            if isinstance(loop, For) and loop.mark == "parallel" and _gains(loop)}


def pass_of(loop: For) -> For:
    """Return the pass over a row of a loop that :func:`rows_together` knows."""
    return next(stmt for stmt in loop.body if isinstance(stmt, For))


def _gains(loop: For) -> bool:
    """Return whether a loop holds one pass, that only adds up, and loads what all rows need."""
    passes = [stmt for stmt in loop.body if isinstance(stmt, For)]
    if len(passes) != 1 or passes[0].mark != "vector" \
            or loop.index in symbols_of(passes[0].extent) \
            or not all(isinstance(stmt, For) or _is_plain(stmt) for stmt in loop.body):
        return False
    body = passes[0].body
    if not all(isinstance(stmt, Let) and isinstance(stmt.target, Local)
               or isinstance(stmt, Accumulate) and isinstance(stmt.target, Local)
               for stmt in body):
        return False
    totals = {stmt.target for stmt in body if isinstance(stmt, Accumulate)}
    nodes = postorder(*(value for stmt in body for value in operands(stmt)))
    scalars = [node for node in nodes if isinstance(node, Scalar)]
    if len(totals) != 1 or not totals <= {stmt.target for stmt in loop.body
                                          if isinstance(stmt, Let)} \
            or len(scalars) > CHEAP or any(node.name in FUNCTIONS for node in scalars):
        return False
    walked = [symbols for node in nodes if isinstance(node, Load)
              if passes[0].index in (symbols := set().union(*map(symbols_of, node.position)))]
    return len({loop.index in symbols for symbols in walked}) == 2


def _is_plain(stmt: Stmt) -> bool:
    return isinstance(stmt, Store) or isinstance(stmt, Let) and isinstance(stmt.target, Local)


def _jammed(loop: For) -> tuple[Stmt, ...]:
    """Return the statements of some iterations, each for all of them, the passes made one."""
    bound = [stmt.target for stmt in statements(loop.body) if isinstance(stmt, Let)]
    copies = [loop.body]
    for row in range(1, ROWS):
        names = {local: Local(f"{local.name}_{row}", local.dtype) for local in bound}
        rewriter = Rewriter({loop.index: as_dim(loop.index) + row}, locals_=names)
        copies.append(rewriter.body(loop.body))
    together: list[Stmt] = []
    for stmts in zip(*copies):
        first = stmts[0]
        if isinstance(first, For):
            inside = tuple(one for stmt in stmts for one in stmt.body)
            together.append(For(first.index, first.extent, inside, first.mark))
        else:
            together += stmts
    return tuple(together)
