"""The schedule of matrix products: which kernel, which tiles, and what follows the product.

Products of float64 go through the matrix instructions of tensor cores, which are exact; so do those
of float16 and bfloat16, whose totals are float32.  Products of float32 are exact too, by single
threads' instructions, unless ``float32_matmul_precision`` is ``high``.  Results are added up in the
order of the depth.  Where the tiles of the result are too few to fill the chip, blocks share the
depth out and a second nest adds their results in order.

An epilogue that works element by element runs on the totals in registers (``cuda_epilogue.py``);
one that needs a whole row is launched after the product.
"""

from __future__ import annotations

from ..dims import DimLike, Symbol, as_dim, ceildiv, prod
from ..loop.ir import Accumulate, Buffer, Expr, For, Let, Load, Local, Nest, Stmt, Store
from ..loop.scalar import apply, const
from ..program import Contract
from .cuda_epilogue import is_elementwise, run_on
from .cuda_mma import MatrixProduct
from .cuda_product import Product, Tile, element
from .cuda_schedule import elementwise, schedule
from .cuda_simt import SimtProduct

ENOUGH_BLOCKS, LEAST_DEPTH = 128, 256
"""The depth is shared out until there are so many blocks, in parts no thinner than this."""

NARROW = 32
"""Results with no more rows, or columns, get tiles of as many."""

_HALVES = Tile((2, 4), (64, 64), 32, 3), Tile((2, 2), (64, 64), 32, 4)
LARGE = {"float32": (Tile((2, 4), (64, 32)),),
         "tf32": (Tile((2, 4), (64, 64), 16, 3), Tile((2, 2), (64, 64), 16, 4)),
         "float16": _HALVES, "bfloat16": _HALVES}
"""Tiles of 128 x 256 and 128 x 128 by kind of product: the more work for what is loaded, the first.

Tensor cores are through with a slab before the next one is there, unless it was asked for some
slabs ago.  With tiles of 128 x 128, the second-level cache would be slower than an H100's.
"""


def contract(step: Contract, precision: str = "highest", keeps: bool = True) -> tuple[Nest, ...]:
    """Return the scheduled nests of a contraction and its epilogue.

    Parameters
    ----------
    step : Contract
    precision : str
        ``highest``, or ``high``: products of float32 may round their operands to tf32.
    keeps : bool
        Whether anything but the epilogue reads the product.
    """
    batch, m, n, _ = step.sizes
    if any(size == 0 for size in (batch, m, n)):
        return ()
    own = step.epilogue is not None and m != 1 and n != 1 and is_elementwise(step)
    after = () if step.epilogue is None or own else schedule(step.epilogue.nest)
    if m == 1 or n == 1:
        return (*schedule(_vector_nest(step)), *after)

    def finished(position: tuple[DimLike, ...], value: Expr) -> tuple[Stmt, ...]:
        return finish(step, position, value, own, keeps)

    kind = kind_of(step, precision)
    tile = tile_of(step, kind)
    parts = _parts(step, tile)
    partial = None if parts == 1 else Buffer("partial_product", total_of(step),
                                             (parts, batch, m, n))
    product: Product = SimtProduct(step, tile, finished, parts, partial) if kind == "float32" \
        else MatrixProduct(step, kind, tile, finished, parts, partial)
    combine = () if partial is None else (_sum(step, partial, finished),)
    return (product.nest(), *combine, *after)


def kind_of(step: Contract, precision: str) -> str:
    """Return how elements are multiplied: ``float32``, or a row of ``matrix.KINDS``."""
    left, right = step.left.buffer.dtype, step.right.buffer.dtype
    if left == right and left != "float32":
        return left
    return "tf32" if precision == "high" else "float32"


def total_of(step: Contract) -> str:
    """Return the dtype in which a product is added up."""
    return "float64" if step.out.buffer.dtype == "float64" else "float32"


def tile_of(step: Contract, kind: str) -> Tile:
    """Return the tile of a product: the largest of which there are enough."""
    batch, m, n, _ = step.sizes
    depth = 32 if kind in ("float16", "bfloat16") else 16
    if isinstance(n, int) and n <= NARROW:
        return Tile((4, 1), (32, 32), depth)
    if isinstance(m, int) and m <= NARROW:
        return Tile((1, 4), (32, 32), depth)
    for large in LARGE.get(kind, ()):
        blocks = prod((batch, ceildiv(m, large.rows), ceildiv(n, large.columns)))
        if isinstance(blocks, int) and blocks >= ENOUGH_BLOCKS:
            return large
    return Tile((2, 2), (32, 32), depth)


def _parts(step: Contract, tile: Tile) -> int:
    """Return into how many parts the depth is cut."""
    batch, m, n, depth = step.sizes
    blocks = prod((batch, ceildiv(m, tile.rows), ceildiv(n, tile.columns)))
    if isinstance(blocks, int) and isinstance(depth, int) and blocks < ENOUGH_BLOCKS:
        return max(1, min(depth // LEAST_DEPTH, ENOUGH_BLOCKS // blocks))
    return 1


def finish(step: Contract, position: tuple[DimLike, ...], value: Expr, own: bool,
           keeps: bool) -> tuple[Stmt, ...]:
    """Return what is done with a finished element of the product.

    Parameters
    ----------
    step : Contract
    position : (batch, row, column)
    value : Expr
    own : bool
        Whether the epilogue runs here.
    keeps : bool
        Whether the product itself is stored although it does.
    """
    out = step.out.buffer.dtype
    place = element(step, "out", position)
    if value.dtype != out:
        value = apply("cast", value, dtype=out)
    if step.add:
        value = apply("add", place, value)
    if not own:
        return (Store(place.buffer, place.position, value),)
    product = Local("product", out)
    kept = (Store(place.buffer, place.position, product),) if keeps else ()
    return (Let(product, value), *kept, *run_on(step, position[1], position[2], product))


def _sum(step: Contract, partial: Buffer, finished) -> Nest:
    """Return the nest that adds up the parts of the depth."""
    loops = tuple(For(Symbol(name, extent=size), size, ())
                  for name, size in zip("bmn", step.sizes[:3]))
    index = tuple(as_dim(loop.index) for loop in loops)
    total, part = Local("total", partial.dtype), Symbol("part", extent=partial.dims[0])
    return elementwise(Nest("combine_product", ()), loops, (), (
        Let(total, const(0, partial.dtype)),
        For(part, part.extent, (
            Accumulate(total, "add", Load(partial, (as_dim(part), *index))),)),
        *finished(index, total)))


def _vector_nest(step: Contract) -> Nest:
    """Return the nest, for any target, of a product with a vector: bound by memory, no tiles."""
    batch, m, n, inner = step.sizes
    loops = tuple(For(Symbol(name, extent=size), size, (), "parallel")
                  for name, size in zip("bmn", (batch, m, n)))
    b, i, j = (0 if loop.extent == 1 else as_dim(loop.index) for loop in loops)
    depth = Symbol("k", extent=inner)
    k = as_dim(depth)
    total = Local("total", total_of(step))
    factors = (element(step, "left", (b, i, k)), element(step, "right", (b, k, j)))
    factors = tuple(factor if factor.dtype == total.dtype else
                    apply("cast", factor, dtype=total.dtype) for factor in factors)
    matrix = step.left if n == 1 else step.right
    along_depth = matrix.strides[-1 if n == 1 else -2] == 1
    body: tuple[Stmt, ...] = (
        Let(total, const(0, total.dtype)),
        For(depth, depth.extent, (Accumulate(total, "add", apply("mul", *factors)),),
            "vector" if along_depth else "serial"),
        *finish(step, (b, i, j), total, False, True))
    for loop in reversed([loop for loop in loops if loop.extent != 1]):
        body = (For(loop.index, loop.extent, body, "parallel"),)
    return Nest("matrix_vector_product", body)
