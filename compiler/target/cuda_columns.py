"""The schedule of columns: reductions whose result runs along memory.

Neighbouring threads take neighbouring columns, so that loads are whole lines; the warps of a block
take every eighth row, and where that leaves the chip idle, blocks take chunks of rows.  Partial
results of warps and of chunks are combined in a fixed order: the same result every time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..dims import Call, DimLike, Symbol, as_dim, floordiv, minimum, prod, symbols_of
from ..loop.ir import (
    Accumulate, Barrier, Buffer, Const, For, If, Let, Load, Local, Nest, Stmt, Store)
from ..loop.rewrite import Rewriter
from ..loop.scalar import const
from ..loop.verify import WARP
from ..loop.walk import statements
from .cuda_rows import identity
from .cuda_schedule import below, ceildiv, chain_of, elementwise, equal, grid, unravel

WARPS = 8
"""Warps of a block, each of which adds up every eighth row."""

ENOUGH_BLOCKS = 512
"""Blocks that fill a chip: with fewer, rows are cut into chunks."""

LEAST_ROWS = 64
"""Rows of a chunk, at least: eight for each warp."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """The parts of the nest: ``for outer: for rows: for columns: body`` adds to ``totals``."""

    outer: tuple[For, ...]
    rows: tuple[For, ...]
    columns: tuple[For, ...]
    body: tuple[Stmt, ...]
    totals: tuple[Accumulate, ...]
    starts: tuple[Const, ...]


def columns(nest: Nest, outer: tuple[For, ...], body: tuple[Stmt, ...]) -> tuple[Nest, ...] | None:
    """Return the schedule of a nest that adds rows up, or None when it is none."""
    parts = _match(outer, body)
    if parts is None:
        return None
    width = _bound(parts.columns[-1].extent, {loop.index for loop in outer})
    if width is None:
        return None
    count = prod(loop.extent for loop in parts.rows)
    places = (*outer, *parts.columns[:-1], replace(
        parts.columns[-1], extent=ceildiv(width, WARP)))
    blocks = prod(loop.extent for loop in places)
    chunks = _chunks(blocks, count)
    if chunks == 1:
        return (_pass(nest, parts, places, blocks, count, None, 1),)
    partial = [Buffer(f"partial_{total.target.buffer.name}", total.target.dtype,
                      (chunks, *total.target.buffer.dims)) for total in parts.totals]
    return (_pass(nest, parts, places, blocks, count, partial, chunks),
            _combine(nest, parts, partial, chunks))


def _match(outer: tuple[For, ...], body: tuple[Stmt, ...]) -> _Columns | None:
    """Return the parts of a nest of this kind."""
    if len(body) != 2 or not all(isinstance(stmt, For) for stmt in body):
        return None
    first, stores = chain_of(body[:1])
    loops, inside = chain_of(body[1:])
    if len(loops) <= len(first) or any(isinstance(s, (For, If)) for s in statements(inside)):
        return None
    columns_ = loops[len(loops) - len(first):]
    if [loop.extent for loop in first] != [loop.extent for loop in columns_] \
            or not all(isinstance(s, Store) and isinstance(s.value, Const) for s in stores):
        return None
    same = Rewriter({old.index: as_dim(new.index) for old, new in zip(first, columns_)})
    starts = {(s.buffer, same.position(s.position)): s.value for s in stores}
    totals = tuple(s for s in inside if isinstance(s, Accumulate) and isinstance(s.target, Load))
    found = [starts.get((s.target.buffer, s.target.position)) for s in totals]
    if not totals or None in found or len(found) != len(starts) or any(
            start.value != identity(total.combine, start.dtype)
            for start, total in zip(found, totals)):
        return None
    return _Columns(outer, loops[:len(loops) - len(first)], columns_, inside, totals, tuple(found))


def _bound(extent: DimLike, indices: set[Symbol]) -> DimLike | None:
    """Return a bound of an extent that does not depend on the indices around it."""
    if not symbols_of(extent) & indices:
        return extent
    for monomial, coefficient in extent.terms:
        atom = monomial[0][0] if len(extent.terms) == 1 and len(monomial) == 1 else None
        if isinstance(atom, Call) and atom.function == "min" and coefficient == 1:
            return next((arg for arg in atom.args if not symbols_of(arg) & indices), None)
    return None


def _chunks(blocks: DimLike, rows: DimLike) -> int:
    """Return into how many chunks rows are cut."""
    if not isinstance(blocks, int) or not isinstance(rows, int) or blocks >= ENOUGH_BLOCKS:
        return 1
    return max(1, min(rows // LEAST_ROWS, ENOUGH_BLOCKS // max(blocks, 1)))


def _pass(nest: Nest, parts: _Columns, places: tuple[For, ...], blocks: DimLike, count: DimLike,
          partial: list[Buffer] | None, chunks: int) -> Nest:
    """Return the nest that adds up the rows, or those of each chunk."""
    block, warp, lane = Symbol("block"), Symbol("warp", extent=WARPS), Symbol("lane", extent=WARP)
    chunk = Symbol("chunk", extent=chunks)
    bindings, values = unravel(as_dim(block), (
        *([For(chunk, chunks, ())] if chunks > 1 else []), *places))
    last = parts.columns[-1]
    column = values[last.index] * WARP + as_dim(lane)
    values = {**values, last.index: column}
    inside = below(column, Rewriter(values).dim(last.extent))
    each = ceildiv(count, chunks)
    start: DimLike = values[chunk] * each if chunks > 1 else 0
    rows = minimum(each, count - start) if chunks > 1 else count
    stride = Symbol("stride", extent=ceildiv(rows, WARPS))
    row = start + as_dim(stride) * WARPS + as_dim(warp)
    row_bindings, row_values = unravel(row, parts.rows)
    own = [Local(f"total_{total.target.buffer.name}_{k}", total.target.dtype)
           for k, total in enumerate(parts.totals)]
    rewriter = Rewriter({**values, **row_values})
    summed = tuple(
        Accumulate(own[parts.totals.index(stmt)], stmt.combine, rewriter.expression(stmt.value))
        if stmt in parts.totals else rewriter.statement(stmt) for stmt in parts.body)
    body: list[Stmt] = [*bindings, *map(Let, own, parts.starts)]
    body.append(If(inside, (For(stride, floordiv(rows + (WARPS - 1) - as_dim(warp), WARPS),
                                (*row_bindings, *summed)),)))
    scratch = [Buffer(f"{local.name}_warps", local.dtype, (WARPS, WARP), "scratch")
               for local in own]
    body += [Store(buffer, (as_dim(warp), as_dim(lane)), local)
             for buffer, local in zip(scratch, own)]
    body.append(Barrier("block"))
    outer = Rewriter(values)
    finish: list[Stmt] = []
    for k, total in enumerate(parts.totals):
        whole, other = Local(f"all_{k}", total.target.dtype), Symbol("w", extent=WARPS)
        target, position = total.target.buffer, outer.position(total.target.position)
        if partial is not None:
            target, position = partial[k], (values[chunk], *position)
        finish += [
            Let(whole, const(parts.starts[k].value, whole.dtype)),
            For(other, WARPS, (Accumulate(whole, total.combine, Load(
                scratch[k], (as_dim(other), as_dim(lane)))),), "unroll"),
            Store(target, position, whole)]
    body.append(If(equal(as_dim(warp), 0), (If(inside, tuple(finish)),)))
    return grid(nest, block, blocks * chunks, ((warp, WARPS), (lane, WARP)), tuple(body))


def _combine(nest: Nest, parts: _Columns, partial: list[Buffer], chunks: int) -> Nest:
    """Return the nest that adds up the chunks' results."""
    body: list[Stmt] = []
    for k, total in enumerate(parts.totals):
        whole, chunk = Local(f"all_{k}", total.target.dtype), Symbol("chunk", extent=chunks)
        position = total.target.position
        body += [
            Let(whole, const(parts.starts[k].value, whole.dtype)),
            For(chunk, chunks, (Accumulate(whole, total.combine, Load(
                partial[k], (as_dim(chunk), *position))),)),
            Store(total.target.buffer, position, whole)]
    indices = {loop.index for loop in parts.outer}
    last = parts.columns[-1]
    width = _bound(last.extent, indices)
    if symbols_of(last.extent) & indices:
        body = [If(below(as_dim(last.index), last.extent), tuple(body))]
    loops = (*parts.outer, *parts.columns[:-1], replace(last, extent=width))
    return elementwise(replace(nest, name=f"combine_{nest.name}"), loops, (), tuple(body))
