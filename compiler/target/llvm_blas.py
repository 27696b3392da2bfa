"""Calls of CBLAS: the matrix product of one block, for sizes at which it measures better.

OpenBLAS runs with one thread; the blocks of a product are cut over ours.  How it adds depends on
where an element lies in its block, so the blocks depend on the sizes and on the CPUs the process
started with, and not on the number of threads.
"""

from __future__ import annotations

from ..dims import DimLike, ceildiv, prod
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

CUT_FLOPS = 1 << 22
"""A product of fewer operations is one call: some tens of microseconds."""

COPY = 10
"""Multiply-adds in the time in which BLAS copies an element of an operand."""


def gemm_name(dtype: str) -> str:
    """Return the CBLAS routine of a float dtype."""
    return "cblas_sgemm" if dtype == "float32" else "cblas_dgemm"


def fits_blas(step: Contract) -> bool:
    """Return whether BLAS can take a product's views: of one dtype, all sizes known."""
    dtypes = {view.buffer.dtype for view in (step.out, step.left, step.right)}
    if len(dtypes) > 1 or not dtypes <= set(WORTH):
        return False
    numbers = [size for view in (step.out, step.left, step.right)
               for size in (*view.dims, *view.strides)]
    return all(isinstance(n, int) and n <= LARGEST for n in numbers) \
        and len(step.inner_dims) == 1 \
        and all(_leading(view) is not None for view in (step.out, step.left, step.right))


def is_faster(step: Contract, machine: Machine) -> bool:
    """Return whether BLAS measures better, in the blocks that are cut for the machine's CPUs."""
    if 0 in step.sizes or step.sizes[-1] <= DEEP:
        return False
    rows, columns = blas_block(step, machine)
    lost = EDGES / rows + EDGES / columns + ENDS / step.sizes[-1]
    return lost <= WORTH[step.out.buffer.dtype]


def blas_block(step: Contract, machine: Machine) -> tuple[int, int]:
    """Return the rows and columns of a call of BLAS, for the machine's CPUs to end soonest.

    Each call copies its rows of the left operand and its columns of the right one.  Of equal cuts,
    the one by rows measures better.
    """
    batch, m, n, k = step.sizes
    cpus = machine.cpus if 2 * prod(step.sizes) >= CUT_FLOPS else 1
    most = MOST
    if step.epilogue is not None:
        # What a call has computed waits for it in the last cache, beside as much of its operands.
        row_bytes = max(n * SIZES[step.out.buffer.dtype], 1)
        most = min(most, max(machine.last_cache // (4 * cpus * row_bytes), WAITING))

    def shape(down: int) -> tuple[int, int]:
        across = max(ceildiv(n, MOST), ceildiv(cpus, max(batch * down, 1)), 1)
        return max(ceildiv(m, down), 1), \
            max(n if step.epilogue is not None else ceildiv(n, across), 1)

    def cost(block: tuple[int, int]) -> int:
        rows, columns = block
        calls = batch * ceildiv(m, rows) * ceildiv(n, columns)
        return ceildiv(calls, cpus) * (rows * columns + COPY * (rows + columns)) * max(k, 1)

    least = max(ceildiv(m, most), 1)
    return min((shape(down) for down in range(least + cpus - 1, least - 1, -1)), key=cost)


def _leading(view: View) -> tuple[int, int] | None:
    """Return the flag and the leading dimension of a view, if BLAS can express it."""
    (rows, columns), (down, along) = view.dims[-2:], view.strides[-2:]
    if along == 1 and down >= columns:
        return PLAIN, down
    if down == 1 and along >= rows:
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
    rows, columns, inner = (writer.emit(f"trunc i64 {writer.dim(size)} to i32") for size in sizes)
    out, left, right = pointers
    writer.run(
        f"call void {routine}(i32 {ROW_MAJOR}, i32 {a_flag}, i32 {b_flag}, i32 {rows}, "
        f"i32 {columns}, i32 {inner}, {kind} 1.0, ptr {left}, i32 {a_leading}, ptr {right}, "
        f"i32 {b_leading}, {kind} {1.0 if step.add else 0.0}, ptr {out}, i32 {c_leading})")
