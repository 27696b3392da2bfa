"""The schedule of few long rows: each is cut into pieces, and the pieces' results are combined.

A block or a warp a row leaves most of the chip idle when there are few rows.  A first nest makes
partial results of equal pieces, a second one goes on from those as the row would from its elements:

::

    let total = 0                              for piece: total over the piece; partial[piece] = it
    for r < extent: total add= x[r]     ->     let total = 0
    output[] = total * 2                       for piece: total add= partial[piece]
                                               output[] = total * 2
"""

from __future__ import annotations

from ..dims import Symbol, as_dim, ceildiv, prod
from ..loop.ir import Accumulate, Buffer, Const, For, If, Let, Load, Local, Nest, Stmt, Store
from ..loop.rewrite import Rewriter
from ..loop.walk import statements
from .cuda_rows import identity
from .cuda_schedule import below

ENOUGH_BLOCKS = 512
"""Blocks that fill a chip: with half of them or more, rows stay whole."""

PIECE = 8192
"""Elements of a piece, at least: 32 a thread."""


def split(nest: Nest, loops: tuple[For, ...], body: tuple[Stmt, ...]
          ) -> tuple[tuple[For, ...], tuple[Stmt, ...], tuple[Stmt, ...]] | None:
    """Return a nest in two: the loops and body of the pieces, and the body of the rows.

    None unless known sizes make few long rows, and all but the first loop of a row only use what
    that loop adds up.
    """
    count = prod(loop.extent for loop in loops)
    parts = _match(body)
    if parts is None or not isinstance(count, int) or count == 0 or count >= ENOUGH_BLOCKS // 2:
        return None
    before, loop, after = parts
    pieces = min(ENOUGH_BLOCKS // count, loop.extent // PIECE)
    if pieces < 2:
        return None
    length = _length(loop.extent, pieces)
    pieces = ceildiv(loop.extent, length)
    totals = {stmt.target: stmt.combine for stmt in loop.body if isinstance(stmt, Accumulate)}
    partial = {total: Buffer(f"pieces_{total.name}", total.dtype,
                             (*(outer.extent for outer in loops), pieces)) for total in totals}
    piece, element = Symbol("piece", extent=pieces), Symbol(loop.index.name, extent=length)
    row = tuple(as_dim(outer.index) for outer in loops)
    place = as_dim(piece) * length + as_dim(element)
    own = {total: Local(f"{total.name}_piece", total.dtype) for total in totals}
    inside = Rewriter({loop.index: place}, locals_=own).body(loop.body)
    if loop.extent % length:
        inside = (If(below(place, loop.extent), inside),)
    starts = {stmt.target: stmt.value for stmt in before if isinstance(stmt, Let)}
    first = (
        *(stmt for stmt in before if stmt.target not in totals),
        *(Let(own[total], starts[total]) for total in totals),
        For(element, length, inside, "vector"),
        *(Store(partial[total], (*row, as_dim(piece)), own[total]) for total in totals))
    again = Symbol("piece", extent=pieces)
    second = (*before, For(again, pieces, tuple(
        Accumulate(total, combine, Load(partial[total], (*row, as_dim(again))))
        for total, combine in totals.items()), "vector"), *after)
    return (*loops, For(piece, pieces, (), "parallel")), first, second


def _match(body: tuple[Stmt, ...]) -> tuple[tuple[Stmt, ...], For, tuple[Stmt, ...]] | None:
    """Return what comes before the one dealt loop of a row, the loop, and what comes after."""
    dealt = [k for k, stmt in enumerate(body) if isinstance(stmt, For)]
    if len(dealt) != 1:
        return None
    (at,) = dealt
    before, loop, after = body[:at], body[at], body[at + 1:]
    totals = {stmt.target for stmt in loop.body if isinstance(stmt, Accumulate)}
    starts = {stmt.target: stmt.value for stmt in before if isinstance(stmt, Let)}
    is_plain = loop.mark in ("vector", "parallel") and isinstance(loop.extent, int) and all(
        isinstance(stmt, (Let, Accumulate)) for stmt in loop.body)
    only_lets = all(isinstance(stmt, Let) for stmt in before)
    is_straight = not any(isinstance(stmt, (For, If)) for stmt in statements(after))
    if not (is_plain and only_lets and is_straight and totals):
        return None
    neutral = all(
        isinstance(start := starts.get(stmt.target), Const)
        and start.value == identity(stmt.combine, start.dtype)
        for stmt in loop.body if isinstance(stmt, Accumulate))
    return (before, loop, after) if neutral else None


def _length(extent: int, pieces: int) -> int:
    """Return the length of a piece: one that divides the row, if there is one near."""
    least = ceildiv(extent, pieces)
    for length in range(least, 2 * least):
        if extent % length == 0 and length % 4 == 0:
            return length
    return -(-least // 1024) * 1024
