"""The schedule of transposes: elements that are stored along memory but loaded across it.

A block takes a tile of 32 times 32 elements.  Its warps load it along the source's memory into
scratch memory, wait, and go on along the destination's: both ways through whole lines of memory.
Rows of the scratch tile are one element longer, so that its columns lie in different banks.
"""

from __future__ import annotations

from ..access import coefficient_of, flat_offset
from ..dims import DimLike, Symbol, as_dim, prod, symbols_of
from ..loop.ir import Barrier, Buffer, Expr, For, If, Let, Load, Nest, Stmt, Store
from ..loop.rewrite import Rewriter
from ..loop.verify import WARP
from ..loop.walk import loads, operands, statements
from .cuda_schedule import accesses, below, ceildiv, grid, unravel

ROWS = 8
"""Warps of a block: each takes four rows of a tile."""

LEAST = 16
"""Loops known to be shorter are not worth a tile."""


def transpose(nest: Nest, loops: tuple[For, ...], body: tuple[Stmt, ...]) -> Nest | None:
    """Return the tiled schedule of an elementwise nest, or None when nothing is read across."""
    if len(loops) < 2 or any(isinstance(stmt, (For, If)) for stmt in statements(body)) \
            or any(isinstance(loop.extent, int) and loop.extent < LEAST for loop in loops[-1:]):
        return None
    inner = loops[-1]
    outer = _across(loops[:-1], inner, body)
    if outer is None or (isinstance(outer.extent, int) and outer.extent < LEAST):
        return None
    turned = _turned(outer, inner, body)
    rest = tuple(loop for loop in loops if loop is not outer and loop is not inner)
    tiles = (*rest, For(outer.index, ceildiv(outer.extent, WARP), ()),
             For(inner.index, ceildiv(inner.extent, WARP), ()))
    block, warp, lane = Symbol("block"), Symbol("warp", extent=ROWS), Symbol("lane", extent=WARP)
    bindings, values = unravel(as_dim(block), tiles)
    corner = values[outer.index] * WARP, values[inner.index] * WARP
    scratch = {load: Buffer(f"tile_{load.buffer.name}_{k}", load.dtype, (WARP, WARP + 1), "scratch")
               for k, load in enumerate(turned)}

    def filled() -> tuple[Stmt, ...]:
        """Return the loads of a tile, neighbouring threads along the source."""
        step = Symbol("step", extent=WARP // ROWS)
        row = as_dim(step) * ROWS + as_dim(warp)
        place = {**values, outer.index: corner[0] + as_dim(lane), inner.index: corner[1] + row}
        rewriter = Rewriter(place)
        inside = tuple(Store(buffer, (row, as_dim(lane)), rewriter.expression(load))
                       for load, buffer in scratch.items())
        return (For(step, WARP // ROWS, _within(place, outer, inner, inside), "unroll"),)

    def used() -> tuple[Stmt, ...]:
        """Return the body for a tile, neighbouring threads along the destination."""
        step = Symbol("step", extent=WARP // ROWS)
        row = as_dim(step) * ROWS + as_dim(warp)
        place = {**values, outer.index: corner[0] + row, inner.index: corner[1] + as_dim(lane)}

        def load(new: Load, old: Load) -> Expr:
            return Load(scratch[old], (as_dim(lane), row)) if old in scratch else new

        inside = Rewriter(place, load).body(body)
        return (For(step, WARP // ROWS, _within(place, outer, inner, inside), "unroll"),)

    return grid(nest, block, prod(loop.extent for loop in tiles), ((warp, ROWS), (lane, WARP)),
                (*bindings, *filled(), Barrier("block"), *used()))


def _within(place: dict[Symbol, DimLike], outer: For, inner: For,
            body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """Return statements guarded against the edges of the array."""
    for loop in (inner, outer):
        if not isinstance(loop.extent, int) or loop.extent % WARP:
            body = (If(below(place[loop.index], loop.extent), body),)
    return body


def _across(outer: tuple[For, ...], inner: For, body: tuple[Stmt, ...]) -> For | None:
    """Return the loop along which a load runs through memory that is stored along ``inner``."""
    _, writes = accesses(body)
    if any(coefficient_of(flat_offset(at, buffer.dims), inner.index) != 1
           for buffer, at in writes):
        return None
    return next((loop for loop in outer if _turned(loop, inner, body)), None)


def _turned(outer: For, inner: For, body: tuple[Stmt, ...]) -> list[Load]:
    """Return the loads whose neighbours in memory are the neighbours along ``outer``."""
    bound = {stmt.target for stmt in body if isinstance(stmt, Let)}
    _, writes = accesses(body)
    written = {buffer.root() for buffer, _ in writes}
    found = []
    for load in loads(*(expr for stmt in body for expr in operands(stmt))):
        offset = flat_offset(load.position, load.buffer.dims)
        if coefficient_of(offset, outer.index) == 1 and load.buffer.root() not in written \
                and coefficient_of(offset, inner.index) not in (None, 0, 1) \
                and not symbols_of(offset) & bound:
            found.append(load)
    return found
