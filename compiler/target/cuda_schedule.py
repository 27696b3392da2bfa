"""From a kernel's nest to scheduled nests: loops over blocks and threads, in the same language.

Enters: a nest as ``lower.py`` writes it, for any target.  Leaves: one or two nests of the form
``for block: for thread: body`` with the same effect, whose results do not depend on the order in
which blocks run.  Which schedule a nest gets is read off its loops:

::

    elementwise   a perfect nest of independent loops   a thread a few elements, 16 bytes at a time
    transpose     the same, read across memory          tiles through scratch memory
    rows          independent loops around passes       a warp or a block a row, totals by shuffles;
                                                        few long rows in pieces first
    columns       accumulation into a row of elements   threads along columns, rows in chunks
    ranks         accumulation of rows where data says  indices are sorted, each row adds up its own
    owner         accumulation where data says          a thread an element, in the loop's order
    serial        anything else                         independent loops over threads, the rest
                                                        in one thread
"""

from __future__ import annotations

from dataclasses import replace

from ..access import coefficient_of, flat_offset
from ..dims import (
    DimLike, Symbol, as_dim, as_symbol, ceildiv, floordiv, minimum, modulo, prod, symbols_of)
from ..dtypes import SIZES
from ..loop.ir import Buffer, Expr, For, If, Index, Let, Load, Nest, Stmt, Store
from ..loop.rewrite import Rewriter
from ..loop.scalar import apply, index
from ..loop.verify import WARP
from ..loop.walk import (
    accumulated_locals, buffers_written, loads, operands, statements, target_access)
from .cuda_resolve import resolve

BLOCK = 256
"""Threads of a block that has no other reason: eight warps hide latency, and several such blocks
fit a multiprocessor whatever registers they take."""

MOST_BLOCKS = 1 << 16
"""Blocks of an elementwise nest; its threads go through larger arrays in strides."""

VECTOR_BYTES = 16
"""Bytes of the widest load and store of a thread."""

Access = tuple[Buffer, tuple[DimLike, ...]]


def below(left: DimLike, right: DimLike) -> Expr:
    """Return the condition ``left < right``."""
    return apply("lt", index(left), index(right))


def equal(left: DimLike, right: DimLike) -> Expr:
    """Return the condition ``left == right``."""
    return apply("eq", index(left), index(right))


def grid(nest: Nest, block: Symbol, blocks: DimLike, threads: tuple[tuple[Symbol, int], ...],
         body: tuple[Stmt, ...]) -> Nest:
    """Return the nest of a body that every thread of every block runs."""
    block.extent = blocks
    for symbol, extent in reversed(threads):
        body = (For(symbol, extent, body, "thread"),)
    return replace(nest, body=(For(block, blocks, body, "block"),))


def parts_of(nest: Nest) -> tuple[For, tuple[For, ...], tuple[Stmt, ...]]:
    """Return the block loop, the thread loops and the body of a scheduled nest."""
    outer = nest.body[0]
    assert len(nest.body) == 1 and isinstance(outer, For) and outer.mark == "block", nest.name
    threads: list[For] = []
    body = outer.body
    while len(body) == 1 and isinstance(body[0], For) and body[0].mark == "thread":
        threads.append(body[0])
        body = body[0].body
    assert threads and all(isinstance(loop.extent, int) for loop in threads), nest.name
    return outer, tuple(threads), body


def unravel(flat: DimLike, loops: tuple[For, ...]
            ) -> tuple[tuple[Stmt, ...], dict[Symbol, DimLike]]:
    """Return statements that bind the indices of loops from a flat index, and what they bind."""
    bindings: list[Stmt] = []
    values: dict[Symbol, DimLike] = {}
    rest = flat
    for number in range(len(loops) - 1, -1, -1):
        loop = loops[number]
        own = rest if number == 0 else modulo(rest, loop.extent)
        rest = floordiv(rest, loop.extent) if number else 0
        if isinstance(own, int) or as_symbol(own) is not None:
            values[loop.index] = own
            continue
        symbol = Symbol(loop.index.name, extent=loop.extent)
        bindings.append(Let(symbol, index(own)))
        values[loop.index] = as_dim(symbol)
    return tuple(bindings), values


def chain_of(body: tuple[Stmt, ...]) -> tuple[tuple[For, ...], tuple[Stmt, ...]]:
    """Return the perfectly nested loops a body starts with, and the body of the innermost."""
    loops: list[For] = []
    while len(body) == 1 and isinstance(body[0], For):
        loops.append(body[0])
        body = body[0].body
    return tuple(loops), body


def accesses(body: tuple[Stmt, ...]) -> tuple[list[Access], list[Access]]:
    """Return which elements statements read, and which they write."""
    reads: list[Access] = []
    writes: list[Access] = []
    for stmt in statements(body):
        reads += [(load.buffer, load.position) for load in loads(*operands(stmt))]
        target = target_access(stmt)
        if target is not None:
            writes.append(target)
    return reads, writes


def independent_loops(loops: tuple[For, ...], body: tuple[Stmt, ...]) -> list[For]:
    """Return the loops of a chain whose iterations may run in any order, and beside each other.

    Those marked so with no loop around them that is not; and those whose index names, alone, one
    axis of every element that is written or that is read where something is written: different
    iterations then use different elements, whatever the other loops do.
    """
    reads, writes = accesses(body)
    written = {buffer.root() for buffer, _ in writes}
    touched = writes + [(buffer, at) for buffer, at in reads if buffer.root() in written]
    indices = {loop.index for loop in loops}
    chosen: list[For] = []
    outside = True
    for loop in loops:
        outside = outside and loop.mark in ("parallel", "vector")
        if not symbols_of(loop.extent) & indices \
                and (outside or _owns_axis(loop, loops, touched)):
            chosen.append(loop)
    return chosen


def _owns_axis(loop: For, loops: tuple[For, ...], touched: list[Access]) -> bool:
    """Return whether an axis of everything that is touched is this loop's index plus a constant."""
    if any(loop.index in symbols_of(other.extent) for other in loops):
        return False
    places: dict[Buffer, set[tuple[int, DimLike, tuple[DimLike, ...]]]] = {}
    for buffer, position in touched:
        found = {(axis, at - as_dim(loop.index), buffer.dims) for axis, at in enumerate(position)
                 if loop.index in symbols_of(at)
                 and isinstance(at - as_dim(loop.index), int)}
        root = buffer.root()
        places[root] = places[root] & found if root in places else found
    return bool(touched) and all(places.values())


# -- elementwise -----------------------------------------------------------------------------------

def vector_width(innermost: For, body: tuple[Stmt, ...], is_only: bool) -> int:
    """Return how many neighbouring elements a thread takes at a time.

    As many as fill the widest access of the largest type, when the innermost index runs through
    memory in order (or not at all) in every access, and rows begin at multiples.
    """
    reads, writes = accesses(body)
    every = reads + writes
    if not writes or any(isinstance(stmt, For) for stmt in statements(body)):
        return 1
    width = min(4, VECTOR_BYTES // max(SIZES[buffer.dtype] for buffer, _ in every))
    if isinstance(innermost.extent, int):
        if innermost.extent < width or (innermost.extent % width and not is_only):
            return 1
    elif not is_only:
        return 1
    slopes = set()
    for buffer, position in every:
        offset = flat_offset(position, buffer.dims)
        slope = coefficient_of(offset, innermost.index)
        if slope not in (0, 1) or (slope == 1 and not is_multiple(
                offset - as_dim(innermost.index), width)):
            return 1
        slopes.add(slope)
    return width if 1 in slopes else 1


def is_multiple(dim: DimLike, width: int) -> bool:
    """Return whether ``width`` divides every term of a dim."""
    if isinstance(dim, int):
        return dim % width == 0
    return all(coefficient % width == 0 for _, coefficient in dim.terms)


def elementwise(nest: Nest, loops: tuple[For, ...], serial: tuple[For, ...],
                body: tuple[Stmt, ...]) -> Nest:
    """Return the schedule of independent loops: consecutive threads take consecutive elements.

    Parameters
    ----------
    nest : Nest
    loops : tuple of For
        The independent loops, outermost first.
    serial : tuple of For
        Loops that every thread runs by itself, around ``body``.
    body : tuple of Stmt
    """
    inner = loops[-1]
    width = 1 if serial else vector_width(inner, body, len(loops) == 1)
    block, thread = Symbol("block"), Symbol("thread", extent=BLOCK)
    lines = inner.extent // width if isinstance(inner.extent, int) else \
        floordiv(inner.extent, width)
    tail = inner.extent - lines * width if width > 1 else 0
    loops = (*loops[:-1], replace(inner, extent=lines))
    total = prod(loop.extent for loop in loops)
    slots = total if tail == 0 else total + 1  # one more thread does what is left
    blocks = ceildiv(slots, BLOCK)

    def one(flat: DimLike) -> tuple[Stmt, ...]:
        """Return what a thread does at a place."""
        bindings, values = unravel(flat, loops)
        if width == 1:
            return (*bindings, *_inside(serial, Rewriter(values).body, body))
        lane = Symbol("v", extent=width)
        values[inner.index] = values[inner.index] * width + as_dim(lane)
        return (*bindings, For(lane, width, Rewriter(values).body(body), "vector"))

    def guarded(flat: DimLike) -> tuple[Stmt, ...]:
        """Return what a thread does at a place that may be beyond the end."""
        found: list[Stmt] = []
        whole = isinstance(blocks, int) and blocks <= MOST_BLOCKS and total == blocks * BLOCK
        found += one(flat) if whole else [If(below(flat, total), one(flat))]
        if tail != 0:
            rest = Symbol("r", extent=tail)
            at = {inner.index: lines * width + as_dim(rest)}
            found.append(If(equal(flat, total), (For(rest, tail, Rewriter(at).body(body)),)))
        return tuple(found)

    if isinstance(blocks, int) and blocks <= MOST_BLOCKS:
        return grid(nest, block, blocks, ((thread, BLOCK),),
                    guarded(as_dim(block) * BLOCK + as_dim(thread)))
    used = minimum(blocks, MOST_BLOCKS)
    stride = Symbol("stride", extent=floordiv(blocks + (MOST_BLOCKS - 1), MOST_BLOCKS))
    place = (as_dim(stride) * MOST_BLOCKS + as_dim(block)) * BLOCK + as_dim(thread)
    return grid(nest, block, used, ((thread, BLOCK),),
                (For(stride, stride.extent, guarded(place)),))


def _inside(loops: tuple[For, ...], rewrite, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """Return a body within loops, rewritten; the loops are serial now."""
    for loop in reversed(loops):
        body = (replace(loop, body=body, mark="serial"),)
    return rewrite(body)


# -- the choice ------------------------------------------------------------------------------------

def schedule(nest: Nest) -> tuple[Nest, ...]:
    """Return the scheduled nests that together do what a nest does.

    Buffers of role ``temporary`` that the nest does not mention hold what one leaves to the next.
    A nest without iterations needs none.
    """
    from . import cuda_columns, cuda_scatter, cuda_sort, cuda_tiles
    nest = _sunk(resolve(nest))
    loops, body = chain_of(nest.body)
    if any(loop.extent == 0 for loop in loops):
        return ()
    if _has_passes(body):
        free = independent_loops(loops, body)
        if len(free) == len(loops):
            return cuda_columns.columns(nest, loops, body) or _rows(nest, loops, body)
        return (_serial(nest, loops, body, free),)
    free = independent_loops(loops, body)
    rest = tuple(loop for loop in loops if loop not in free)
    ranked = cuda_sort.by_rank(nest, loops, free, body) if rest else None
    if ranked is not None:
        return ranked
    if not free or (rest and _is_small(free)):
        owned = cuda_scatter.owner(nest, loops, body)
        if owned is not None:
            return (owned,)
    if not free:
        return (_serial(nest, loops, body, free),)
    if not rest:
        tiled = cuda_tiles.transpose(nest, loops, body)
        if tiled is not None:
            return (tiled,)
    return (elementwise(nest, tuple(free), rest, body),)


def _sunk(nest: Nest) -> Nest:
    """Return a nest whose names for all iterations are each iteration's own: loops come first."""
    *names, last = nest.body
    if not names or not isinstance(last, For) or last.mark == "vector" \
            or not all(isinstance(stmt, Let) for stmt in names) \
            or accumulated_locals(nest) & {stmt.target for stmt in names}:
        return nest
    written = {buffer.root() for buffer in buffers_written(nest)}
    if any(buffer.root() in written for buffer, _ in accesses(tuple(names))[0]):
        return nest
    loops, inner = chain_of((last,))
    body: tuple[Stmt, ...] = (*names, *inner)
    for loop in reversed(loops):
        body = (replace(loop, body=body),)
    return replace(nest, body=body)


def _rows(nest: Nest, loops: tuple[For, ...], body: tuple[Stmt, ...]) -> tuple[Nest, ...]:
    """Return the schedule of rows, the pieces of few long ones first."""
    from .cuda_rows import rows
    from .cuda_split import split
    parts = split(nest, loops, body)
    if parts is None:
        return rows(nest, loops, body)
    outer, pieces, whole = parts
    return (*rows(replace(nest, name=f"pieces_{nest.name}"), outer, pieces),
            *rows(nest, loops, whole))


def _has_passes(body: tuple[Stmt, ...]) -> bool:
    """Return whether statements contain loops whose iterations may be dealt out to threads."""
    return any(isinstance(stmt, For) and stmt.mark in ("vector", "parallel")
               for stmt in statements(body))


def _is_small(loops: list[For]) -> bool:
    """Return whether loops are known to keep less than a warp busy."""
    size = prod(loop.extent for loop in loops)
    return isinstance(size, int) and size < WARP


def _serial(nest: Nest, loops: tuple[For, ...], body: tuple[Stmt, ...],
            free: list[For]) -> Nest:
    """Return the schedule of last resort: right for every nest."""
    rest = tuple(loop for loop in loops if loop not in free)
    if free:
        return elementwise(nest, tuple(free), rest, Rewriter({}, mark="serial").body(body))
    block, thread = Symbol("block"), Symbol("thread", extent=1)
    body = Rewriter({}, mark="serial").body(nest.body)
    return grid(nest, block, 1, ((thread, 1),), body)


def copy_nest(source: Buffer, target: Buffer) -> Nest:
    """Return the nest that copies all elements of a buffer to another one."""
    size = prod(source.dims)
    flat = Symbol("i", extent=size)
    ends = [buffer if buffer.dims == (size,) else
            Buffer(buffer.name, buffer.dtype, (size,), buffer.role, buffer)
            for buffer in (source, target)]
    place = (as_dim(flat),)
    return Nest(f"copy_{target.name}", (
        For(flat, size, (Store(ends[1], place, Load(ends[0], place)),), "parallel"),))
