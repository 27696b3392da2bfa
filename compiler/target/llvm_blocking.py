"""How a matrix product is cut into tasks, blocks and tiles (see ``llvm_contract.py``).

Where sizes are known at run time only, so is the cut: its numbers are expressions of them, which
the code computes.
"""

from __future__ import annotations

from typing import NamedTuple

from ..dims import DimLike, ceildiv, floordiv, maximum, minimum, prod
from ..dtypes import SIZES
from ..program import Contract
from .llvm_blas import blas_block, blas_margins, may_fit_blas
from .llvm_machine import Machine
from .llvm_tiles import LEAST_INNER, PANEL_BYTES, tile_shape

TASK_TILES = 16
"""Tiles of rows in a task: the cost of copying a panel is shared by that many."""

TASK_COLUMNS = 512
"""Columns of a task."""

TASK_FLOPS = 1 << 22
"""A product of fewer than four such tasks is cut smaller: some tens of microseconds each."""

NEAR_BYTES = 16 << 10
"""An operand of at most so many bytes is read where it lies: it stays in the first-level cache."""

WAITING_BYTES = 192 << 10
"""Bytes of A and C that one pass over the panels may count on finding in the second-level cache."""

TABLE_ROWS = 1024
"""Rows that one pass over the panels may serve: the table of where they begin takes 16 KB."""


class Blocking(NamedTuple):
    """How a product is cut.

    Attributes
    ----------
    rows, vectors : int
        The tile.
    task_tiles, task_columns : dim
        Largest block of C of one task: tiles of rows, and columns (whole tiles).
    axis : int
        The inner axis that is cut into blocks; those outside it are walked one by one, those inside
        it are whole.
    steps : dim
        Of a block, along that axis.
    merged : dim
        Row blocks that one pass over the panels may serve, when a thread has several in a row.
    uses_blas : bool
        Whether a task is a call of BLAS.
    """

    rows: int
    vectors: int
    task_tiles: DimLike
    task_columns: DimLike
    axis: int
    steps: DimLike
    merged: DimLike
    uses_blas: bool = False


class Stack(NamedTuple):
    """The matrices of a product.

    Attributes
    ----------
    batch, above : tuple of dim
        The batch axes, ``above`` being those of matrices whose rows share B.
    rows : dim
        Rows that share B.
    """

    batch: tuple[DimLike, ...]
    above: tuple[DimLike, ...]
    rows: DimLike

    @property
    def matrices(self) -> DimLike:
        """Number of right operands."""
        return prod(self.batch)


def stack_of(step: Contract, uses_blas: bool) -> Stack:
    """Return which batch axes count as rows: the last ones, if B does not depend on them."""
    dims = step.batch_dims
    first = len(dims)
    while not uses_blas and first and step.right.strides[first - 1] == 0:
        first -= 1
    return Stack(dims[:first], dims[first:], prod(dims[first:]) * step.out.dims[-2])


def blocking(step: Contract, machine: Machine) -> Blocking:
    """Decide how a product is cut: from its sizes where they are known."""
    return blas_blocking(step, machine) if all(
        isinstance(margin, int) and margin >= 0 for margin in blas_choice(step, machine)) \
        else own_blocking(step, machine)


def blas_choice(step: Contract, machine: Machine) -> tuple[DimLike, DimLike]:
    """Return two numbers, neither of which is negative where BLAS computes a product."""
    return blas_margins(step, machine) if machine.has_blas and may_fit_blas(step) else (-1, 0)


def blas_blocking(step: Contract, machine: Machine) -> Blocking:
    """Decide how a product is cut into calls of BLAS."""
    rows, columns = blas_block(step, machine)
    return Blocking(1, 1, rows, columns, 0, step.inner_dims[0], 1, uses_blas=True)


def own_blocking(step: Contract, machine: Machine) -> Blocking:
    """Decide how a product is cut for the loops of this module."""
    stack = stack_of(step, False)
    n, size = step.out.dims[-1], SIZES[step.out.buffer.dtype]
    rows, vectors = tile_shape(stack.rows, n, step.out.buffer.dtype, machine)
    width = vectors * machine.lanes(step.out.buffer.dtype)
    tiles, panels = ceildiv(stack.rows, rows), ceildiv(n, width)
    most: DimLike = TASK_TILES
    columns: DimLike = max(TASK_COLUMNS // width, 1)
    if all(isinstance(size_, int) for size_ in step.sizes):
        blocks = stack.matrices * ceildiv(tiles, most)
        wanted = min(max(4, machine.cpus), 2 * prod(step.sizes) // TASK_FLOPS)
        by_rows = step.epilogue is not None
        if not by_rows and panels < 2 * wanted:
            # So few panels are not cut evenly; rows are, but each part copies all panels.
            by_rows, wanted = True, min(wanted, max(2, machine.cpus))
        if blocks < wanted and by_rows:
            most = max(4, ceildiv(tiles * stack.matrices, wanted))
            blocks = stack.matrices * ceildiv(tiles, most)
        if blocks * ceildiv(panels, columns) < wanted:
            columns = ceildiv(panels * blocks, wanted)
    elif machine.cpus > 1:
        most, columns = _shared(step, machine.cpus, (tiles, panels), (most, columns))
    if step.epilogue is not None:
        columns = panels
    task_tiles = _even(tiles, most)
    axis, steps = _inner_block(step, panel_steps(width, size))
    depth = maximum(steps, 1) * prod(step.inner_dims[axis + 1:])
    waiting = task_tiles * rows * size * (depth if step.epilogue is None else maximum(depth, n))
    fitting = minimum(floordiv(WAITING_BYTES, maximum(waiting, 1)),
                      floordiv(TABLE_ROWS, maximum(task_tiles * rows, 1)))
    merged = maximum(minimum(ceildiv(tiles, maximum(task_tiles, 1)), fitting), 1)
    return Blocking(rows, vectors, maximum(task_tiles, 1), maximum(columns, 1) * width, axis,
                    steps, merged)


def _shared(step: Contract, cpus: int, counts: tuple[DimLike, DimLike],
            block: tuple[int, int]) -> tuple[DimLike, DimLike]:
    """Return the block of a task of a product whose sizes are not all known, in tiles of rows and
    panels, of so many in all: one that leaves work to each CPU where there is enough.

    Known columns are cut into known parts, so that the code for their last panels is.
    """
    (tiles, panels), (most, columns) = counts, block
    matrices = stack_of(step, False).matrices
    wanted = maximum(minimum(floordiv(2 * prod(step.sizes), TASK_FLOPS), cpus), 1)
    if step.epilogue is not None or isinstance(panels, int) and panels < 2 * cpus:
        return minimum(most, maximum(ceildiv(tiles * matrices, wanted), 4)), columns
    if isinstance(panels, int):
        return most, min(columns, ceildiv(panels, cpus))
    blocks = maximum(matrices * ceildiv(tiles, most), 1)
    return most, minimum(columns, ceildiv(panels, ceildiv(wanted, blocks)))


def _inner_block(step: Contract, deepest: int) -> tuple[int, DimLike]:
    """Return the inner axis that is cut into blocks of about ``deepest`` summands, and its steps in
    one of them."""
    dims = step.inner_dims
    inside = 1
    for axis in range(len(dims) - 1, -1, -1):
        size = dims[axis]
        if not isinstance(size, int) or size * inside > deepest * 3 // 2:
            break
        inside *= size
    else:
        return 0, dims[0]
    room = deepest // inside
    if room <= 1 and axis + 1 < len(dims):
        # The axes inside this one fill a block.
        return axis, 1
    return axis, maximum(_even(dims[axis], max(room, 1)), 1)


def panel_steps(width: int, size: int) -> int:
    """Return the steps of a block of a long inner axis, for panels of so many columns and bytes."""
    return max(PANEL_BYTES // (width * size), LEAST_INNER)


def _even(size: DimLike, most: int) -> DimLike:
    """Return the length of the fewest equal parts of at most ``most``."""
    return ceildiv(size, maximum(ceildiv(size, most), 1))


def task_count(step: Contract, cut: Blocking) -> DimLike:
    """Return how many tasks a contraction has."""
    stack, n = stack_of(step, cut.uses_blas), step.out.dims[-1]
    tiles, across = ceildiv(stack.rows, cut.rows), ceildiv(n, cut.task_columns)
    if step.epilogue is not None:
        across = maximum(across, 1)  # It has to run on rows of no columns, too: their sum is 0.
    return stack.matrices * across * ceildiv(tiles, cut.task_tiles)
