"""The frame of a tiled product: blocks, slabs of the operands in scratch memory, results.

A block computes a tile of the result, each of its warps a part of it, in registers.  *Slabs* of a
few columns of the left operand and as many rows of the right one are fetched into scratch memory,
several ahead of the one that is multiplied, so that one barrier a slab is enough: behind it all
have what they waited for, and nobody reads any more what is fetched next.

How a slab is multiplied, and which elements a thread has in the end, is its subclasses' business:
``cuda_simt.py`` and ``cuda_mma.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..dims import DimLike, Symbol, as_dim, ceildiv, floordiv, maximum, minimum, modulo, prod
from ..dtypes import SIZES
from ..loop.ir import (
    Await, Barrier, Buffer, Commit, Expr, Fetch, For, If, Let, Load, Nest, Stmt, Store)
from ..loop.scalar import apply, const, index
from ..loop.verify import WARP
from ..program import Contract, split_index
from .cuda_schedule import VECTOR_BYTES, below, grid, is_multiple, unravel

Finish = Callable[[tuple[DimLike, ...], Expr], tuple[Stmt, ...]]
"""What is done with a finished element of the product, given its index and its value."""

NEIGHBOURS = 8
"""Elements along an operand's memory that neighbouring threads fetch, when its slab lies across:
a sector of 32 bytes in float32; the others go along the slab, to other banks."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of the result: ``warps`` beside each other, each with its ``own`` rows and columns.

    Attributes
    ----------
    warps, own : (rows, columns)
    depth : int
        Columns of the left operand in a slab.
    stages : int
        Slabs in scratch memory: one that is multiplied, and those on their way.
    """

    warps: tuple[int, int]
    own: tuple[int, int]
    depth: int = 16
    stages: int = 2

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return self.warps[0] * self.own[0]

    @property
    def columns(self) -> int:
        """Columns of a tile."""
        return self.warps[1] * self.own[1]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.warps[0] * self.warps[1] * WARP


def element(step: Contract, array: str, position: tuple[DimLike, ...]) -> Load:
    """Return an element of ``out``, ``left`` or ``right``.

    A position along several batch or inner axes counts the elements of all of them.
    """
    view = getattr(step, array)
    split = [*split_index(position[0], step.batch_dims)]
    for axis, at in zip({"out": "mn", "left": "mk", "right": "kn"}[array], position[1:]):
        split += split_index(at, step.inner_dims) if axis == "k" else (at,)
    place = view.offset
    for at, stride in zip(split, view.strides):
        place = place + at * stride
    buffer = view.buffer
    size = prod(buffer.dims)
    flat = buffer if buffer.dims == (size,) else Buffer(
        buffer.name, buffer.dtype, (size,), buffer.role, buffer)
    return Load(flat, (place,))


class Slab:
    """A slab of an operand in scratch memory, and how the threads of a block fetch it.

    Parameters
    ----------
    step : Contract
    array : str
        ``left`` or ``right``.
    tile : Tile
    along_depth : bool or None
        Whether elements of one row of the left (column of the right) operand lie side by side in
        the slab; None: as they do in memory.
    padding : (across, along)
        Elements added to a line of the slab when it lies across the depth, or along it, so that
        what a warp reads at once lies in different banks of scratch memory.
    """

    def __init__(self, step: Contract, array: str, tile: Tile, along_depth: bool | None,
                 padding: tuple[int, int]):
        self.step, self.array, self.tile = step, array, tile
        is_left = array == "left"
        self.view = view = getattr(step, array)
        _, m, n, self.depth = step.sizes
        self.across = m if is_left else n
        last = len(view.dims) - 1
        self.depth_axis, self.across_axis = (last, len(step.batch_dims)) if is_left else \
            (last - 1, last)
        self.in_memory_along = view.strides[self.depth_axis] == 1
        self.along = self.in_memory_along if along_depth is None else along_depth
        self.side = tile.rows if is_left else tile.columns
        self.lines, line = (self.side, tile.depth) if self.along else (tile.depth, self.side)
        self.line = line
        self.buffer = Buffer(f"slab_{view.buffer.name}", view.buffer.dtype,
                             (tile.stages, self.lines, line + padding[self.along]), "scratch")
        self.count = self._count()

    def _count(self) -> int:
        """Return how many neighbouring elements can be fetched at once, by every thread."""
        size = SIZES[self.view.buffer.dtype]
        fast = self.depth_axis if self.along else self.across_axis
        view, share = self.view, self.lines * self.line // self.tile.threads
        count = min(VECTOR_BYTES // size, share)
        while count > 1:
            strides = [stride for axis, stride in enumerate(view.strides)
                       if axis != fast and view.dims[axis] != 1]
            if view.strides[fast] == 1 and all(
                    is_multiple(dim, count) for dim in (view.offset, view.dims[fast], *strides)):
                return count
            count //= 2
        return 1

    def at(self, slot: DimLike, across: DimLike, depth: DimLike) -> Load:
        """Return an element of the slab in a slot."""
        place = (across, depth) if self.along else (depth, across)
        return Load(self.buffer, (slot, *place))

    def value(self, slot: DimLike, across: DimLike, depth: DimLike, dtype: str) -> Expr:
        """Return an element as a value of a dtype."""
        found = self.at(slot, across, depth)
        return found if found.dtype == dtype else apply("cast", found, dtype=dtype)

    def fetch(self, slot: DimLike, thread: DimLike, batch: DimLike, first: DimLike,
              corner: DimLike) -> list[Stmt]:
        """Return a thread's share of the copies into a slot.

        Parameters
        ----------
        slot, thread, batch : dim
        first : dim
            The slab's first place along the depth.
        corner : dim
            The tile's first row (of the left operand) or column (of the right one).
        """
        # Threads side by side: so many along memory, the others one line after the other.
        turned = self.in_memory_along and not self.along
        along, size = (self.lines, self.line) if turned else (self.line, self.lines)
        wide = NEIGHBOURS if turned else min(along // self.count, self.tile.threads)
        high = self.tile.threads // wide
        far, deep = (Symbol("far", extent=along // (wide * self.count)),
                     Symbol("deep", extent=size // high))
        assert far.extent * wide * self.count == along and deep.extent * high == size
        several = tuple(loop for loop in (far, deep) if loop.extent != 1)
        far_place, deep_place = (as_dim(loop) if loop in several else 0 for loop in (far, deep))
        fast = (far_place * wide + modulo(thread, wide)) * self.count
        slow = deep_place * high + floordiv(thread, wide)
        line, place = (fast, slow) if turned else (slow, fast)
        across, depth = (line, place) if self.along else (place, line)
        row, column = corner + across, first + depth
        position = (batch, row, column) if self.array == "left" else (batch, column, row)
        copy = self._copy(self.at(slot, across, depth), element(self.step, self.array, position),
                          self._inside(row, column, first))
        return list(unrolled(copy, *several))

    def _inside(self, row: DimLike, column: DimLike, first: DimLike) -> Expr:
        """Return whether an element is one of the operand's.

        Where its sizes are multiples of the slab's, that is the same for all of a slab.
        """
        is_whole = is_multiple(self.depth, self.tile.depth)
        within = below(first if is_whole else column, self.depth)
        return within if is_multiple(self.across, self.side) else \
            apply("and", below(row, self.across), within)

    def _copy(self, target: Load, source: Load, inside: Expr) -> tuple[Stmt, ...]:
        """Return the statements that copy; single elements of 16 bits cannot be fetched."""
        if self.count * SIZES[source.dtype] >= 4:
            return (Fetch(target, source, self.count, inside),)
        return (Store(target.buffer, target.position, const(0, source.dtype)),
                If(inside, (Store(target.buffer, target.position, source),)))


class Product:
    """Writes the nest of a tiled product.

    Parameters
    ----------
    step : Contract
    tile : Tile
    slabs : (Slab, Slab)
    finish : callable
    parts : int
        Into how many parts the depth is cut.
    partial : Buffer or None
        Where parts go.
    """

    def __init__(self, step: Contract, tile: Tile, slabs: tuple[Slab, Slab], finish: Finish,
                 parts: int = 1, partial: Buffer | None = None):
        self.step, self.tile, self.partial, self.finish = step, tile, partial, finish
        self.left, self.right = slabs
        self.batch, self.m, self.n, self.k = step.sizes
        depth = tile.depth
        self.loops = [For(Symbol(name, extent=size), size, ()) for name, size in (
            ("part", parts), ("batch", self.batch), ("tile_m", ceildiv(self.m, tile.rows)),
            ("tile_n", ceildiv(self.n, tile.columns)))]
        several = tuple(loop for loop in self.loops if loop.extent != 1)
        self.block = Symbol("block")
        warps = tile.warps[0] * tile.warps[1]
        self.warp, self.lane = Symbol("warp", extent=warps), Symbol("lane", extent=WARP)
        self.bindings, values = unravel(as_dim(self.block), several)
        part, self.b, tile_m, tile_n = (values.get(loop.index, 0) for loop in self.loops)
        self.part = part
        self.top, self.start = tile_m * tile.rows, tile_n * tile.columns
        each = ceildiv(ceildiv(self.k, parts), depth) * depth if parts > 1 else self.k
        self.first = part * each
        # The last parts may have nothing left to do.
        own_depth = self.k if parts == 1 else minimum(each, maximum(self.k - self.first, 0))
        self.slabs = ceildiv(own_depth, depth)
        self.warp_row = floordiv(as_dim(self.warp), tile.warps[1]) * tile.own[0]
        self.warp_column = modulo(as_dim(self.warp), tile.warps[1]) * tile.own[1]

    def nest(self) -> Nest:
        """Return the whole nest."""
        slab, stages = Symbol("slab", extent=self.slabs), self.tile.stages
        ahead = stages - 1
        first: list[Stmt] = []
        for number in range(ahead):
            first += [*self.fetch(number, number), Commit()]
        body = (
            *self.bindings, *self.lanes(), *self.zero(), *first,
            For(slab, self.slabs, (
                Await(ahead - 1), Barrier("block"),
                *self.fetch(as_dim(slab) + ahead, modulo(as_dim(slab) + ahead, stages)), Commit(),
                *self.multiply(modulo(as_dim(slab), stages)))),
            *self.results())
        blocks = prod(loop.extent for loop in self.loops)
        name = "matrix_product" if self.batch == 1 else "batched_matrix_product"
        threads = ((self.warp, self.tile.warps[0] * self.tile.warps[1]), (self.lane, WARP))
        return grid(Nest(name, ()), self.block, blocks, threads, body)

    def fetch(self, slab: DimLike, slot: DimLike) -> list[Stmt]:
        """Return a thread's share of the copies of both operands' slabs."""
        thread = as_dim(self.warp) * WARP + as_dim(self.lane)
        first = self.first + slab * self.tile.depth
        return [*self.left.fetch(slot, thread, self.b, first, self.top),
                *self.right.fetch(slot, thread, self.b, first, self.start)]

    def lanes(self) -> list[Stmt]:
        """Return the statements that bind what depends on a thread's place in its warp."""
        raise NotImplementedError

    def zero(self) -> list[Stmt]:
        """Return the statements that set the totals to zero."""
        raise NotImplementedError

    def multiply(self, slot: DimLike) -> list[Stmt]:
        """Return the statements that add the product of the slabs in a slot to the totals."""
        raise NotImplementedError

    def results(self) -> list[Stmt]:
        """Return what becomes of the totals."""
        raise NotImplementedError

    def result(self, row: DimLike, column: DimLike, width: int,
               value: Callable[[DimLike], Load]) -> tuple[Stmt, ...]:
        """Return what becomes of neighbouring totals of a row.

        Parameters
        ----------
        row, column : dim
            Within a warp's part of a tile; ``column`` is a multiple of ``width``.
        width : int
        value : callable
            Given the number of a neighbour, its total.
        """
        row = self.top + self.warp_row + row
        column = self.start + self.warp_column + column
        i, neighbour = Symbol("i", extent=self.m), Symbol("v", extent=width)
        together = isinstance(self.n, int) and self.n % width == 0
        if together:
            j = Symbol("j", extent=self.n // width)
            place = as_dim(j) * width + as_dim(neighbour)
        else:
            j = Symbol("j", extent=self.n)
            place = as_dim(j)
        at, item = (self.b, as_dim(i), place), value(as_dim(neighbour))
        if self.partial is None:
            inside = self.finish(at, item)
        else:
            inside = (Store(self.partial, (self.part, *at), item),)
        if together:
            inside = (Let(j, index(floordiv(column, width))),
                      For(neighbour, width, inside, "vector"))
            guarded: Stmt = If(below(column, self.n), inside)
        else:
            far = column + as_dim(neighbour)
            guarded = For(neighbour, width, (
                If(below(far, self.n), (Let(j, index(far)), *inside)),), "unroll")
        return (If(below(row, self.m), (Let(i, index(row)), guarded)),)


def unrolled(body: tuple[Stmt, ...], *symbols: Symbol) -> tuple[Stmt, ...]:
    """Return statements within unrolled loops, the first symbol's outermost."""
    for symbol in reversed(symbols):
        body = (For(symbol, symbol.extent, body, "unroll"),)
    return body
