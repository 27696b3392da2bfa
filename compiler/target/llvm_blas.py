"""Calls of CBLAS: the matrix product of one block, for sizes at which it measures better.

OpenBLAS runs with one thread; the blocks of a product are cut over ours.  How it adds depends on
where an element lies in its block, so the blocks depend on the sizes and on the CPUs the process
started with, and not on the number of threads.
"""

from __future__ import annotations

from functools import reduce

from ..dims import (
    DimLike, ceildiv, floordiv, maximum, minimum, proves_nonnegative)
from ..dtypes import SIZES
from ..program import Contract, View
from .llvm_machine import Machine
from .llvm_scalar import llvm_type
from .llvm_writer import FunctionWriter

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112
LARGEST = (1 << 31) - 1
"""Of a size or a leading dimension: BLAS takes 32-bit integers."""

MOST, WAITING = 2048, 256
"""Rows and columns of a call: at most the first, so that some tenths of a second pass until a
signal is seen; before an epilogue fewer, but not less than the second."""

DEEP = 288
"""Steps along the inner axis which our own loops walk in one block, and are faster in."""

EDGES, ENDS = 8, 6
"""Steps, in time, which BLAS adds for each row, each column, and each element of C."""

WORTH = {"float32": 0.075, "float64": 0.05}
"""The part of its time that BLAS may lose to them for being faster than our loops (measured on 40
shapes: up to 6 % faster, and 14 % where the right operand comes from memory)."""

PARTS = 10000
"""Of one, in which the code compares them."""

CUT_FLOPS = 1 << 22
"""A product of fewer operations is one call: some tens of microseconds."""

COPY = 10
"""Multiply-adds in the time in which BLAS copies an element of an operand."""


def gemm_name(dtype: str) -> str:
    """Return the CBLAS routine of a float dtype."""
    return "cblas_sgemm" if dtype == "float32" else "cblas_dgemm"


def may_fit_blas(step: Contract) -> bool:
    """Return whether BLAS can take a product's views, if their sizes are not beyond its integers:
    of one dtype, with rows or columns that are contiguous."""
    dtypes = {view.buffer.dtype for view in (step.out, step.left, step.right)}
    return len(dtypes) == 1 and dtypes <= set(WORTH) and len(step.inner_dims) == 1 \
        and all(_leading(view) is not None for view in (step.out, step.left, step.right))


def blas_margins(step: Contract, machine: Machine) -> tuple[DimLike, DimLike]:
    """Return two numbers, neither of which is negative where BLAS shall compute a product that it
    may fit; the first one is computed without a division.

    That is where it measures better, in the blocks that are cut for the machine's CPUs; and always
    where LLVM optimises nothing.
    """
    numbers = [size for view in (step.out, step.left, step.right)
               for size in (*view.dims, *view.strides)]
    fits = _least(*(LARGEST - number for number in numbers), *(size - 1 for size in step.sizes))
    if not machine.is_optimised:
        return fits, 0
    _, m, n, inner = step.sizes
    worth = int(WORTH[step.out.buffer.dtype] * PARTS)
    edge = -(-EDGES * PARTS // worth)
    large = _least(fits, inner - 1 - DEEP, m - edge, n - edge)
    if isinstance(large, int) and large < 0:
        return large, 0
    rows, columns = blas_block(step, machine)
    lost = floordiv(EDGES * PARTS, rows) + floordiv(EDGES * PARTS, columns) \
        + floordiv(ENDS * PARTS, maximum(inner, 1))
    return large, worth - lost


def _least(*sizes: DimLike) -> DimLike:
    """Return the least of some sizes, or a known one that is negative."""
    known = min((size for size in sizes if isinstance(size, int)), default=0)
    return known if known < 0 else reduce(minimum, sizes)


def blas_block(step: Contract, machine: Machine) -> tuple[DimLike, DimLike]:
    """Return the rows and columns of a call of BLAS, for the machine's CPUs to end soonest.

    Each call copies its rows of the left operand and its columns of the right one.  Of equal cuts,
    the one by rows measures better.
    """
    batch, m, n, k = step.sizes
    work = 2 * batch * m * n * k
    cpus = 1 if isinstance(work, int) and work < CUT_FLOPS else machine.cpus
    most: DimLike = MOST
    if step.epilogue is not None:
        # What a call has computed waits for it in the last cache, beside as much of its operands.
        row_bytes = maximum(n * SIZES[step.out.buffer.dtype], 1)
        most = minimum(most, maximum(
            floordiv(machine.last_cache, 4 * cpus * row_bytes), WAITING))
    least = maximum(ceildiv(m, most), 1)
    if not isinstance(work, int):
        return _even_block(step, cpus, least)

    def shape(down: DimLike) -> tuple[DimLike, DimLike]:
        across = maximum(maximum(ceildiv(n, MOST), ceildiv(cpus, maximum(batch * down, 1))), 1)
        return maximum(ceildiv(m, down), 1), \
            maximum(n if step.epilogue is not None else ceildiv(n, across), 1)

    def cost(block: tuple[DimLike, DimLike]) -> DimLike:
        rows, columns = block
        calls = batch * ceildiv(m, rows) * ceildiv(n, columns)
        return ceildiv(calls, cpus) * (rows * columns + COPY * (rows + columns))

    return min((shape(least + more) for more in range(cpus - 1, -1, -1)), key=cost)


def _even_block(step: Contract, cpus: int, least: DimLike) -> tuple[DimLike, DimLike]:
    """Return the block where sizes are known at run time only: rows are cut into a multiple of the
    number of CPUs; or both rows and columns, into multiples of its factors nearest to each other.
    """
    batch, m, n, _ = step.sizes
    if isinstance(batch, int):
        cpus = ceildiv(cpus, max(batch, 1))
    if step.epilogue is not None:
        return maximum(ceildiv(m, ceildiv(least, cpus) * cpus), 1), maximum(n, 1)
    down = next(cut for cut in range(1, cpus + 1) if cpus % cut == 0 and cut * cut >= cpus)
    across = cpus // down
    return maximum(ceildiv(m, ceildiv(least, down) * down), 1), \
        maximum(ceildiv(n, maximum(ceildiv(n, MOST * across), 1) * across), 1)


def _leading(view: View) -> tuple[int, DimLike] | None:
    """Return the flag and the leading dimension of a view, if BLAS can express it."""
    (rows, columns), (down, along) = view.dims[-2:], view.strides[-2:]
    if along == 1 and proves_nonnegative(down - columns):
        return PLAIN, down
    if down == 1 and proves_nonnegative(along - rows):
        return TRANSPOSED, along
    return None


def blas_call(writer: FunctionWriter, step: Contract, sizes: tuple[DimLike, DimLike, DimLike],
              pointers: tuple[str, str, str]) -> None:
    """Write ``out (+)= left @ right``.

    Parameters
    ----------
    sizes : three dims
        Rows, columns and inner size.
    pointers : three operands
        First elements of the blocks of out, left and right.
    """
    dtype = step.out.buffer.dtype
    kind = llvm_type(dtype)
    (_, c_leading), (a_flag, a_leading), (b_flag, b_leading) = (
        _leading(view) for view in (step.out, step.left, step.right))
    routine = writer.module.declare(gemm_name(dtype), "void", *["i32"] * 6, kind, "ptr", "i32",
                                    "ptr", "i32", kind, "ptr", "i32")
    rows, columns, inner, c_leading, a_leading, b_leading = (
        writer.emit(f"trunc i64 {writer.dim(size)} to i32")
        for size in (*sizes, c_leading, a_leading, b_leading))
    out, left, right = pointers
    writer.run(
        f"call void {routine}(i32 {ROW_MAJOR}, i32 {a_flag}, i32 {b_flag}, i32 {rows}, "
        f"i32 {columns}, i32 {inner}, {kind} 1.0, ptr {left}, i32 {a_leading}, ptr {right}, "
        f"i32 {b_leading}, {kind} {1.0 if step.add else 0.0}, ptr {out}, i32 {c_leading})")
