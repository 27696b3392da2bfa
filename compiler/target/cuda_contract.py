"""The schedule of matrix products: tiles of the result in registers, operands through scratch.

A block computes a tile of the result, 16 x 16 threads a square of it each, in registers.  For every
few columns of the left operand it copies a slab of both operands to scratch memory; while it works
on one slab, the next one is on its way through registers into the other half of scratch memory, so
one barrier a slab is enough.  Products are exact in the operands' own type, added in the order of
the columns.  Where the tiles of the result are too few to fill the chip, blocks share the columns
out and a second nest adds their results in order.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..dims import DimLike, Symbol, as_dim, floordiv, maximum, minimum, modulo, prod
from ..loop.ir import (
    Accumulate, Barrier, Buffer, Expr, For, If, Let, Load, Local, Nest, Stmt, Store)
from ..loop.scalar import apply, const
from ..program import Contract, View
from .cuda_schedule import below, ceildiv, elementwise, grid, schedule, unravel

SIDE = 16
"""Threads along each side of a tile."""

GROUP = 4
"""Neighbouring elements a thread takes; further groups lie ``SIDE * GROUP`` apart, so that the
threads of a warp read scratch memory without conflicts."""

PADDING = 4
"""Elements added to the rows of a slab, so that its columns are spread over the banks of scratch
memory while rows still begin at multiples of 16 bytes."""

ENOUGH_BLOCKS, LEAST_DEPTH = 128, 256
"""Columns are shared out until there are so many blocks, in parts no thinner than this."""

LARGE = 1 << 20
"""Elements of a result from which on tiles of 128 x 128 still make enough blocks."""


@dataclass(frozen=True, slots=True)
class _Tile:
    """``groups`` of :data:`GROUP` elements a thread along each side, slabs of ``depth`` columns."""

    groups: int
    depth: int

    @property
    def side(self) -> int:
        """Rows, and columns, of a tile."""
        return self.groups * GROUP * SIDE


def contract(step: Contract) -> tuple[Nest, ...]:
    """Return the scheduled nests of a contraction."""
    batch, m, n = step.out.dims
    if any(size == 0 for size in (batch, m, n)):
        return ()
    if m == 1 or n == 1:
        return schedule(_vector_nest(step))
    large = isinstance(m, int) and isinstance(n, int) and m * n >= LARGE \
        and step.out.buffer.dtype == "float32"
    tile = _Tile(2, 8) if large else _Tile(1, 16)
    blocks = prod((batch, ceildiv(m, tile.side), ceildiv(n, tile.side)))
    depth = step.left.dims[2]
    parts = 1
    if isinstance(blocks, int) and isinstance(depth, int) and blocks < ENOUGH_BLOCKS:
        parts = max(1, min(depth // LEAST_DEPTH, ENOUGH_BLOCKS // blocks))
    if parts == 1:
        return (_Product(step, tile, 1).nest(),)
    partial = Buffer("partial_product", step.out.buffer.dtype, (parts, batch, m, n))
    return _Product(step, tile, parts, partial).nest(), _sum(step, partial, parts)


def element(view: View, index: tuple[DimLike, ...]) -> tuple[Buffer, tuple[DimLike, ...]]:
    """Return where a view has an element."""
    place = view.offset
    for at, stride in zip(index, view.strides):
        place = place + at * stride
    buffer = view.buffer
    size = prod(buffer.dims)
    flat = buffer if buffer.dims == (size,) else Buffer(
        buffer.name, buffer.dtype, (size,), buffer.role, buffer)
    return flat, (place,)


def finish(step: Contract, index: tuple[DimLike, ...], value: Expr) -> tuple[Stmt, ...]:
    """Return what is done with a finished element of the product: here an epilogue goes."""
    place = element(step.out, index)
    if step.add:
        value = apply("add", Load(*place), value)
    return (Store(*place, value),)


def _sum(step: Contract, partial: Buffer, parts: int) -> Nest:
    """Return the nest that adds up the parts of the columns."""
    loops = tuple(For(Symbol(name, extent=size), size, ())
                  for name, size in zip("bmn", step.out.dims))
    index = tuple(as_dim(loop.index) for loop in loops)
    total, part = Local("total", partial.dtype), Symbol("part", extent=parts)
    return elementwise(Nest("combine_product", ()), loops, (), (
        Let(total, const(0, partial.dtype)),
        For(part, parts, (Accumulate(total, "add", Load(partial, (as_dim(part), *index))),)),
        *finish(step, index, total)))


def _vector_nest(step: Contract) -> Nest:
    """Return the nest, for any target, of a product with a vector: bound by memory, no tiles."""
    batch, m, n = step.out.dims
    dtype = step.out.buffer.dtype
    loops = tuple(For(Symbol(name, extent=size), size, (), "parallel")
                  for name, size in zip("bmn", (batch, m, n)))
    b, i, j = (0 if loop.extent == 1 else as_dim(loop.index) for loop in loops)
    depth = Symbol("k", extent=step.left.dims[2])
    k = as_dim(depth)
    product = apply("mul", Load(*element(step.left, (b, i, k))),
                    Load(*element(step.right, (b, k, j))))
    matrix = step.left if n == 1 else step.right
    along_depth = matrix.strides[2 if n == 1 else 1] == 1
    total = Local("total", dtype)
    body: tuple[Stmt, ...] = (
        Let(total, const(0, dtype)),
        For(depth, depth.extent, (Accumulate(total, "add", product),),
            "vector" if along_depth else "serial"),
        *finish(step, (b, i, j), total))
    for loop in reversed([loop for loop in loops if loop.extent != 1]):
        body = (For(loop.index, loop.extent, body, "parallel"),)
    return Nest("matrix_vector_product", body)


class _Product:
    """Writes the nest of the tiles."""

    def __init__(self, step: Contract, tile: _Tile, parts: int, partial: Buffer | None = None):
        self.step, self.tile, self.partial = step, tile, partial
        self.dtype = step.out.buffer.dtype
        self.batch, self.m, self.n = step.out.dims
        self.k = step.left.dims[2]
        side, depth, own = tile.side, tile.depth, tile.groups * GROUP
        self.loops = [For(Symbol(name, extent=size), size, ()) for name, size in (
            ("part", parts), ("batch", self.batch), ("tile_m", ceildiv(self.m, side)),
            ("tile_n", ceildiv(self.n, side)))]
        several = tuple(loop for loop in self.loops if loop.extent != 1)
        self.block = Symbol("block")
        self.row, self.column = Symbol("row", extent=SIDE), Symbol("column", extent=SIDE)
        self.bindings, values = unravel(as_dim(self.block), several)
        self.part, self.b, self.tile_m, self.tile_n = (
            values.get(loop.index, 0) for loop in self.loops)
        self.each = ceildiv(ceildiv(self.k, parts), depth) * depth if parts > 1 else self.k
        self.first = self.part * self.each
        # The last parts may have nothing left to do.
        own_depth = self.k if parts == 1 else minimum(self.each, maximum(self.k - self.first, 0))
        self.slabs = ceildiv(own_depth, depth)
        self.slab_a = Buffer("slab_a", self.dtype, (2, depth, side + PADDING), "scratch")
        self.slab_b = Buffer("slab_b", self.dtype, (2, depth, side + PADDING), "scratch")
        self.next_a = Buffer("next_a", self.dtype, (side * depth // SIDE**2,), "register")
        self.next_b = Buffer("next_b", self.dtype, (side * depth // SIDE**2,), "register")
        self.a = Buffer("a", self.dtype, (own,), "register")
        self.b_row = Buffer("b", self.dtype, (own,), "register")
        self.total = Buffer("total", self.dtype, (own, own), "register")

    def nest(self) -> Nest:
        """Return the whole nest."""
        slab = Symbol("slab", extent=self.slabs)
        own = self.tile.groups * GROUP
        i, j = Symbol("i", extent=own), Symbol("j", extent=own)
        zero = For(i, own, (For(j, own, (
            Store(self.total, (as_dim(i), as_dim(j)), const(0, self.dtype)),), "unroll"),),
            "unroll")
        turn = modulo(as_dim(slab), 2)
        body = (
            *self.bindings, zero, *self.fetch(0), *self.put(0), Barrier("block"),
            For(slab, self.slabs, (
                *self.fetch(as_dim(slab) + 1), *self.multiply(turn),
                *self.put(1 - turn), Barrier("block"))),
            *self.results())
        blocks = prod(loop.extent for loop in self.loops)
        name = "matrix_product" if self.batch == 1 else "batched_matrix_product"
        return grid(Nest(name, ()), self.block, blocks,
                    ((self.row, SIDE), (self.column, SIDE)), body)

    def fetch(self, slab: DimLike) -> list[Stmt]:
        """Return the loads of a thread's share of a slab into registers."""
        depth, side = self.tile.depth, self.tile.side
        start = self.first + slab * depth
        left, right = self.step.left, self.step.right
        result = []
        for view, register, across, along_depth, extent in (
                (left, self.next_a, self.tile_m, left.strides[2] == 1, self.m),
                (right, self.next_b, self.tile_n, right.strides[1] == 1, self.n)):
            step, k, at = self._share(along_depth)
            place, far = start + k, across * side + at
            index = (self.b, far, place) if view is left else (self.b, place, far)
            slot = (as_dim(step),)
            inside = (If(below(far, extent), (
                Store(register, slot, Load(*element(view, index))),)),)
            result.append(For(step, register.dims[0], (
                Store(register, slot, const(0, self.dtype)),
                If(below(place, self.k), inside)), "unroll"))
        return result

    def put(self, turn: DimLike) -> list[Stmt]:
        """Return the stores of a thread's share of a slab into half ``turn`` of scratch memory."""
        result = []
        for slab, register, along_depth in (
                (self.slab_a, self.next_a, self.step.left.strides[2] == 1),
                (self.slab_b, self.next_b, self.step.right.strides[1] == 1)):
            step, k, at = self._share(along_depth)
            result.append(For(step, register.dims[0], (
                Store(slab, (turn, k, at), Load(register, (as_dim(step),))),), "unroll"))
        return result

    def _share(self, along_depth: bool) -> tuple[Symbol, DimLike, DimLike]:
        """Return the loop over a thread's share of a slab, and which element of it each one is.

        Neighbouring threads take neighbours in the operand's memory.
        """
        depth, side = self.tile.depth, self.tile.side
        assert side <= SIDE**2 and depth <= SIDE**2
        step = Symbol("step", extent=side * depth // SIDE**2)
        thread = as_dim(self.row) * SIDE + as_dim(self.column)
        if along_depth:
            at = as_dim(step) * (SIDE**2 // depth) + floordiv(thread, depth)
            return step, modulo(thread, depth), at
        rows = SIDE**2 // side
        return step, as_dim(step) * rows + floordiv(thread, side), modulo(thread, side)

    def multiply(self, turn: DimLike) -> list[Stmt]:
        """Return the product of the slabs in half ``turn`` of scratch memory."""
        own = self.tile.groups * GROUP
        k, i, j = (Symbol(name, extent=extent) for name, extent in (
            ("k", self.tile.depth), ("i", own), ("j", own)))
        loads = []
        for slab, register, thread in ((self.slab_a, self.a, self.row),
                                       (self.slab_b, self.b_row, self.column)):
            group, e = Symbol("group", extent=self.tile.groups), Symbol("e", extent=GROUP)
            slot = (as_dim(group) * GROUP + as_dim(e),)
            loads.append(For(group, self.tile.groups, (For(e, GROUP, (Store(
                register, slot, Load(slab, (turn, as_dim(k), self._place(
                    as_dim(group), as_dim(e), thread)))),), "unroll"),), "unroll"))
        product = apply("mul", Load(self.a, (as_dim(i),)), Load(self.b_row, (as_dim(j),)))
        add = For(i, own, (For(j, own, (Accumulate(
            Load(self.total, (as_dim(i), as_dim(j))), "add", product),), "unroll"),), "unroll")
        return [For(k, self.tile.depth, (*loads, add), "unroll")]

    @staticmethod
    def _place(group: DimLike, e: DimLike, thread: Symbol) -> DimLike:
        """Return where in a tile a thread's element lies."""
        return group * (SIDE * GROUP) + as_dim(thread) * GROUP + e

    def results(self) -> list[Stmt]:
        """Return what becomes of a thread's totals."""
        groups, side = self.tile.groups, self.tile.side
        gi, i, gj, j = (Symbol(name, extent=extent) for name, extent in (
            ("group_i", groups), ("i", GROUP), ("group_j", groups), ("j", GROUP)))
        row = self.tile_m * side + self._place(as_dim(gi), as_dim(i), self.row)
        column = self.tile_n * side + self._place(as_dim(gj), as_dim(j), self.column)
        value = Load(self.total, (as_dim(gi) * GROUP + as_dim(i), as_dim(gj) * GROUP + as_dim(j)))
        index = (self.b, row, column)
        if self.partial is not None:
            inside: tuple[Stmt, ...] = (Store(self.partial, (self.part, *index), value),)
        else:
            inside = finish(self.step, index, value)
        body: tuple[Stmt, ...] = (If(below(row, self.m), (If(below(column, self.n), inside),)),)
        for symbol in (j, gj, i, gi):
            body = (For(symbol, symbol.extent, body, "unroll"),)
        return list(body)
