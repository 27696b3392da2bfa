"""Products by multiplications and additions of single threads: exact in the operands' type.

The threads of a warp form 8 rows of 4.  Each holds squares of 4 x 4 results; squares of one thread
lie a warp's rows (columns) apart, so that a warp reads neighbouring elements of a slab at once.
A thread's number has a bit of its row, two of its column, then two more of its row: loads of 16
bytes for which threads next to each other, or two apart, want the same are served in one go
(CUTLASS lays out threads in the same way).
"""

from __future__ import annotations

from ..dims import DimLike, Symbol, as_dim, floordiv, modulo
from ..dtypes import SIZES
from ..loop.ir import Accumulate, Buffer, Let, Load, Stmt, Store
from ..loop.scalar import apply, const, index
from ..program import Contract
from .cuda_product import Finish, Product, Slab, Tile, unrolled

GROUP = 4
"""Neighbouring rows, and columns, that a thread takes."""

LANES = (8, 4)
"""Threads of a warp along the rows and the columns of its part of a tile."""

PADDING = 16
"""Bytes added to the lines of a slab, so that they begin in different banks."""


class SimtProduct(Product):
    """Writes the nest of a product that single threads multiply."""

    def __init__(self, step: Contract, tile: Tile, finish: Finish, parts: int = 1,
                 partial: Buffer | None = None):
        left, right = (Slab(step, array, tile, False, (PADDING // SIZES[view.buffer.dtype], 0))
                       for array, view in (("left", step.left), ("right", step.right)))
        super().__init__(step, tile, (left, right), finish, parts, partial)
        self.row, self.column = Symbol("row", extent=LANES[0]), Symbol("column", extent=LANES[1])
        self.groups = tuple(own // (GROUP * lanes) for own, lanes in zip(tile.own, LANES))
        own = tuple(GROUP * count for count in self.groups)
        dtype = step.out.buffer.dtype
        self.a = Buffer("left_part", dtype, (own[0],), "register")
        self.b_part = Buffer("right_part", dtype, (own[1],), "register")
        self.total = Buffer("total", dtype, own, "register")

    def lanes(self) -> list[Stmt]:
        """Return the binding of a thread's row and column in its warp."""
        lane = as_dim(self.lane)
        return [Let(self.row, index(modulo(lane, 2) + 2 * floordiv(lane, 2 * LANES[1]))),
                Let(self.column, index(modulo(floordiv(lane, 2), LANES[1])))]

    def zero(self) -> list[Stmt]:
        """Return the statements that set the totals to zero."""
        i, j = (Symbol(name, extent=extent) for name, extent in zip("ij", self.total.dims))
        return list(unrolled((Store(self.total, (as_dim(i), as_dim(j)),
                                    const(0, self.total.dtype)),), i, j))

    def multiply(self, slot: DimLike) -> list[Stmt]:
        """Return the statements that add the product of the slabs in a slot to the totals."""
        k, i, j = (Symbol(name, extent=extent) for name, extent in (
            ("k", self.tile.depth), ("i", self.total.dims[0]), ("j", self.total.dims[1])))
        loads: list[Stmt] = []
        for side, slab, register, corner, thread in (
                (0, self.left, self.a, self.warp_row, self.row),
                (1, self.right, self.b_part, self.warp_column, self.column)):
            group, e = Symbol("group", extent=self.groups[side]), Symbol("e", extent=GROUP)
            across = corner + self._place(side, as_dim(group), as_dim(e), thread)
            loads += unrolled((Store(register, (as_dim(group) * GROUP + as_dim(e),),
                                     slab.value(slot, across, as_dim(k), register.dtype)),),
                              group, e)
        product = apply("mul", Load(self.a, (as_dim(i),)), Load(self.b_part, (as_dim(j),)))
        add = unrolled((Accumulate(
            Load(self.total, (as_dim(i), as_dim(j))), "add", product),), i, j)
        return list(unrolled((*loads, *add), k))

    @staticmethod
    def _place(side: int, group: DimLike, e: DimLike, thread: Symbol) -> DimLike:
        """Return which row (side 0) or column of its warp's part a thread's element is in."""
        return group * (LANES[side] * GROUP) + as_dim(thread) * GROUP + e

    def results(self) -> list[Stmt]:
        """Return what becomes of the totals."""
        gi, e, gj = (Symbol(name, extent=extent) for name, extent in (
            ("group_i", self.groups[0]), ("e", GROUP), ("group_j", self.groups[1])))
        row = self._place(0, as_dim(gi), as_dim(e), self.row)
        column = self._place(1, as_dim(gj), 0, self.column)

        def value(neighbour: DimLike) -> Load:
            return Load(self.total, (as_dim(gi) * GROUP + as_dim(e),
                                     as_dim(gj) * GROUP + neighbour))

        return list(unrolled(self.result(row, column, GROUP, value), gi, e, gj))
