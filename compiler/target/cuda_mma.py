"""Products by the matrix instructions of a GPU's tensor cores.

A warp holds a grid of small totals (see ``loop/matrix.py``).  For every few places along the depth
it loads the parts of both operands that this many of their rows and columns need from scratch
memory, then multiplies each with each.  Slabs lie in scratch memory as the operands do in memory,
so transposed ones are fetched as wide as others; lines are padded so that a warp's loads meet
different banks whichever way they lie.
"""

from __future__ import annotations

from ..dims import DimLike, Symbol, as_dim, floordiv, modulo
from ..dtypes import SIZES
from ..loop.ir import Buffer, Let, Load, LoadMatrices, Multiply, Stmt, Store
from ..loop.matrix import KINDS
from ..loop.scalar import const, index
from ..program import Contract
from .cuda_product import Finish, Product, Slab, Tile, unrolled

PADDING = {2: (8, 8), 4: (8, 4), 8: (4, 4)}
"""Elements added to a line of a slab across the depth, and along it, by the size of an element.

The threads ``g = lane // 4`` and ``t = lane % 4`` of a warp read ``(g, t)``: words at ``g * line +
t`` of a slab that lies along, at ``t * line + g`` of one across, which are 32 different banks for
lines of 4 and of 8 more than a multiple of 32 words (or of 8 words, an odd number of times 4).
Matrices of 16 bits are loaded by lines of 16 bytes, which begin in different groups of four banks
when lines are an odd multiple of 16 bytes.
"""


class MatrixProduct(Product):
    """Writes the nest of a product by matrix instructions of a kind."""

    def __init__(self, step: Contract, kind: str, tile: Tile, finish: Finish, parts: int = 1,
                 partial: Buffer | None = None):
        left, right = (Slab(step, array, tile, None, PADDING[SIZES[view.buffer.dtype]])
                       for array, view in (("left", step.left), ("right", step.right)))
        super().__init__(step, tile, (left, right), finish, parts, partial)
        self.kind, self.shape = kind, KINDS[kind]
        self.tiles = tile.own[0] // self.shape.m, tile.own[1] // self.shape.n
        counts = self.shape.registers()
        self.total = Buffer("total", self.shape.total, (*self.tiles, counts[0]), "register")
        self.a = Buffer("left_part", self.shape.operand, (self.tiles[0], counts[1]), "register")
        # Two parts of the right operand are as many registers as ``LoadMatrices`` fills.
        self.b_part = Buffer("right_part", self.shape.operand, (self.tiles[1], counts[2]),
                             "register")
        self.g, self.t = Symbol("g", extent=8), Symbol("t", extent=4)

    def lanes(self) -> list[Stmt]:
        """Return the binding of a thread's row and place in it."""
        lane = as_dim(self.lane)
        return [Let(self.g, index(floordiv(lane, 4))), Let(self.t, index(modulo(lane, 4)))]

    def zero(self) -> list[Stmt]:
        """Return the statements that set the totals to zero."""
        i, j, r = (Symbol(name, extent=extent) for name, extent in zip("ijr", self.total.dims))
        return list(unrolled((Store(self.total, (as_dim(i), as_dim(j), as_dim(r)),
                                    const(0, self.total.dtype)),), i, j, r))

    def multiply(self, slot: DimLike) -> list[Stmt]:
        """Return the statements that add the product of the slabs in a slot to the totals."""
        k, i, j = (Symbol(name, extent=extent) for name, extent in (
            ("k", self.tile.depth // self.shape.k), ("i", self.tiles[0]), ("j", self.tiles[1])))
        depth = as_dim(k) * self.shape.k
        parts = self._load_pairs if self.shape.per_register == 2 else self._load_elements
        add = unrolled((Multiply(
            self.kind, Load(self.total, (as_dim(i), as_dim(j), 0)), Load(self.a, (as_dim(i), 0)),
            Load(self.b_part, (as_dim(j), 0))),), i, j)
        return list(unrolled((*parts(slot, depth), *add), k))

    def _load_elements(self, slot: DimLike, depth: DimLike) -> list[Stmt]:
        """Return the loads of a thread's elements of both operands, one by one."""
        result: list[Stmt] = []
        for slab, register, corner, size, tiles in (
                (self.left, self.a, self.warp_row, self.shape.m, self.tiles[0]),
                (self.right, self.b_part, self.warp_column, self.shape.n, self.tiles[1])):
            tile, part, eighth = (Symbol(name, extent=extent) for name, extent in (
                ("tile", tiles), ("part", self.shape.k // 4), ("eighth", size // 8)))
            across = corner + as_dim(tile) * size + as_dim(eighth) * 8 + as_dim(self.g)
            along = depth + as_dim(part) * 4 + as_dim(self.t)
            place = as_dim(part) * (size // 8) + as_dim(eighth)
            result += unrolled((Store(register, (as_dim(tile), place), slab.value(
                slot, across, along, register.dtype)),), tile, part, eighth)
        return result

    def _load_pairs(self, slot: DimLike, depth: DimLike) -> list[Stmt]:
        """Return the loads of both operands' parts, four matrices of 16 bits at a time.

        Matrices of the left operand: its upper and lower eight rows, then those further along the
        depth.  Of the right one: eight columns, those further along, then the next eight columns.
        """
        lane = as_dim(self.lane)
        line, second, third = modulo(lane, 8), modulo(floordiv(lane, 8), 2), floordiv(lane, 16)
        result: list[Stmt] = []
        for slab, register, corner, tiles, step, (far, deep) in (
                (self.left, self.a, self.warp_row, self.tiles[0], 1, (second, third)),
                (self.right, self.b_part, self.warp_column, self.tiles[1], 2, (third, second))):
            tile = Symbol("tile", extent=tiles // step)
            across, along = corner + as_dim(tile) * 16 + far * 8, depth + deep * 8
            source = slab.at(slot, across + line, along) if slab.along else \
                slab.at(slot, across, along + line)
            quads = Buffer(register.name, register.dtype, (tiles // step, 4), "register", register)
            result += unrolled((LoadMatrices(Load(quads, (as_dim(tile), 0)), source,
                                             not slab.along),), tile)
        return result

    def results(self) -> list[Stmt]:
        """Return what becomes of the totals."""
        i, eighth, j = (Symbol(name, extent=extent) for name, extent in (
            ("i", self.tiles[0]), ("eighth", self.shape.m // 8), ("j", self.tiles[1])))
        row = as_dim(i) * self.shape.m + as_dim(eighth) * 8 + as_dim(self.g)
        column = as_dim(j) * self.shape.n + as_dim(self.t) * 2

        def value(neighbour: DimLike) -> Load:
            return Load(self.total, (as_dim(i), as_dim(j), as_dim(eighth) * 2 + neighbour))

        return list(unrolled(self.result(row, column, 2, value), i, eighth, j))
