"""Contractions on the CPU: the loops around the micro-kernels of ``llvm_gemm.py``.

A product is cut into *tasks*, blocks of rows and columns of C, which any thread may compute; a task
walks the inner axis to its end, so the order of additions, and with it every bit of the result,
depends on the sizes only::

    for each task (batch element, columns, rows):
      for each block of the inner axis:
        for each panel of columns:          B's panel is copied by the first tile, and stays in L1
          for each tile of rows:            a micro-kernel
      the epilogue on the task's rows       while they are in the cache

Where BLAS measures better, on large products of known sizes, a task is one call of it; so it is on
all products of known sizes when LLVM optimises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..dims import (
    DimLike, Symbol, as_dim, ceildiv, floordiv, maximum, minimum, modulo, prod, symbols_of)
from ..dtypes import SIZES
from ..loop.text import Signature
from ..program import Contract
from .llvm_blas import blas_call, fits_blas
from .llvm_gemm import Source, Tile, fetching, micro_kernel, packing
from .llvm_kernel import DRIVER_ATTRIBUTES, KernelCode, emit_task
from .llvm_machine import Machine
from .llvm_scalar import llvm_type
from .llvm_writer import FunctionWriter, Module

PANEL_BYTES = 16 << 10
"""Of a panel of B: half of a first-level cache."""

LEAST_INNER = 192
"""Steps along the inner axis that pay for loading and storing a tile of C."""

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

FLOPS_PER_UNIT = 16
"""Floating-point operations of a micro-kernel in the time of a scalar one elsewhere."""

BLAS_LEAST, BLAS_BLOCK = 384, 512
"""From this size on in every axis, OpenBLAS's copies of both operands pay, in blocks of so many
rows and columns (measured: 5 to 10 % faster at 512 and above, as much slower below 256)."""


@dataclass(frozen=True, slots=True)
class Epilogue:
    """A kernel that runs on rows of C as soon as they are done.

    Attributes
    ----------
    code : KernelCode
        Its parallel loop runs over rows, or over elements of rows when it is flat.
    unit : dim
        Iterations of that loop for one row of C.
    signature : Signature
        What its parameters stand for.
    """

    code: KernelCode
    unit: DimLike
    signature: Signature


@dataclass(frozen=True, slots=True)
class Blocking:
    """How a product is cut.

    Attributes
    ----------
    rows, vectors : int
        The tile.
    task_rows, task_columns : dim
        Largest block of C of one task; whole tiles.
    inner : dim
        Steps of a block of the inner axis.
    merged : dim
        Row blocks that one pass over the panels may serve, when a thread has several in a row.
    uses_blas : bool
        Whether a task is a call of BLAS.
    """

    rows: int
    vectors: int
    task_rows: DimLike
    task_columns: DimLike
    inner: DimLike
    merged: DimLike
    uses_blas: bool = False


def tile_shape(m: DimLike, n: DimLike, dtype: str, machine: Machine) -> tuple[int, int]:
    """Return rows and vectors of the tile that covers a product in the fewest cycles.

    A step of a tile costs a cycle for two multiply-adds or two loads, at least the latency of one
    multiply-add, which is 4, and a little for what its loads cost beyond the first-level cache;
    between tiles some cycles are lost.  Its vectors and totals fill the registers.
    """
    lanes, registers = machine.lanes(dtype), machine.registers
    widest = max(2, 2 * PANEL_BYTES // (LEAST_INNER * machine.vector_bytes))

    def cycles(rows: int, vectors: int) -> float:
        width = -(-n // lanes) if isinstance(n, int) else 64 * vectors
        height = -(-m // rows) if isinstance(m, int) else 64 / rows
        full, rest = divmod(width, vectors)
        step = sum(count * (max(rows * v / 2, (rows + v) / 2, 4.0) + 0.1 * (rows + v) + 0.2)
                   for count, v in ((full, vectors), (1 if rest else 0, rest)))
        return step * height

    shapes = [(rows, vectors) for rows in range(1, registers // 2)
              for vectors in range(1, widest + 1) if (rows + 1) * (vectors + 1) <= registers + 5
              and rows * vectors + vectors + 1 <= registers]
    return min(shapes, key=lambda shape: (cycles(*shape), -shape[0] * shape[1]))


def blocking(step: Contract, machine: Machine) -> Blocking:
    """Decide how a product is cut: from its sizes where they are known."""
    if machine.has_blas and (_is_large(step) or not machine.is_optimised) and fits_blas(step):
        rows, columns = _blas_block(step)
        return Blocking(1, 1, rows, columns, step.left.dims[2], 1, uses_blas=True)
    batch, m, n = step.out.dims
    k, size = step.left.dims[2], SIZES[step.out.buffer.dtype]
    rows, vectors = tile_shape(m, n, step.out.buffer.dtype, machine)
    width = vectors * machine.lanes(step.out.buffer.dtype)
    tiles, panels = ceildiv(m, rows), ceildiv(n, width)
    most, columns = TASK_TILES, max(TASK_COLUMNS // width, 1)
    if all(isinstance(size_, int) for size_ in (batch, m, n, k)):
        blocks = batch * ceildiv(tiles, most)
        wanted = min(4, 2 * batch * m * n * k // TASK_FLOPS)
        if blocks < wanted and step.epilogue is not None:
            most = max(4, ceildiv(tiles * batch, wanted))
        elif blocks * ceildiv(panels, columns) < wanted:
            columns = ceildiv(panels * blocks, wanted)
    if step.epilogue is not None:
        columns = panels
    task_rows = maximum(ceildiv(tiles, maximum(ceildiv(tiles, most), 1)) * rows, rows)
    deepest = _deepest(width, size)
    inner = k
    if not isinstance(k, int) or k > deepest * 3 // 2:
        inner = maximum(_even(k, deepest), 1)
    waiting = task_rows * size * (inner if step.epilogue is None else maximum(inner, n))
    merged = maximum(minimum(ceildiv(m, task_rows),
                             floordiv(WAITING_BYTES, maximum(waiting, 1))), 1)
    return Blocking(rows, vectors, task_rows, maximum(columns, 1) * width, inner, merged)


def _deepest(width: int, size: int) -> int:
    """Return the steps of a block of a long inner axis, for panels of so many columns and bytes."""
    return max(PANEL_BYTES // (width * size), LEAST_INNER)


def _blas_block(step: Contract) -> tuple[int, int]:
    """Return the rows and columns of a call of BLAS: few calls, but several for the threads."""
    batch, m, n = step.out.dims
    if step.epilogue is not None:
        return max(_even(m, BLAS_BLOCK // 2), 1), max(n, 1)
    rows, columns = max(_even(m, BLAS_BLOCK), 1), max(_even(n, BLAS_BLOCK), 1)
    calls = batch * ceildiv(m, rows) * ceildiv(n, columns)
    if calls < 4 and contract_work(step) * FLOPS_PER_UNIT >= TASK_FLOPS:
        columns = ceildiv(columns, ceildiv(4, max(calls, 1)))
    return rows, columns


def _even(size: DimLike, most: int) -> DimLike:
    """Return the length of the fewest equal parts of at most ``most``."""
    return ceildiv(size, maximum(ceildiv(size, most), 1))


def _is_large(step: Contract) -> bool:
    sizes = (*step.out.dims[1:], step.left.dims[2])
    return all(isinstance(size, int) and size >= BLAS_LEAST for size in sizes)


def contract_work(step: Contract) -> DimLike:
    """Return the work of a contraction in the scalar operations that thresholds count."""
    return ceildiv(2 * prod(step.left.dims) * step.out.dims[2], FLOPS_PER_UNIT)


def task_count(step: Contract, cut: Blocking) -> DimLike:
    """Return how many tasks a contraction has."""
    batch, m, n = step.out.dims
    return batch * ceildiv(n, cut.task_columns) * ceildiv(m, cut.task_rows)


def contract_symbols(step: Contract, epilogue: Epilogue | None) -> tuple[Symbol, ...]:
    """Return the size symbols a contraction's code depends on, in order."""
    sizes = (step.out.dims, step.left.dims, step.out.strides, step.left.strides,
             step.right.strides)
    own = [symbol for dims in sizes for size in dims
           for symbol in sorted(symbols_of(size), key=lambda s: s.key)]
    after = () if epilogue is None else epilogue.signature.symbols
    return tuple(dict.fromkeys([*own, *after]))


def emit_contract(module: Module, name: str, step: Contract, cut: Blocking,
                  epilogue: Epilogue | None = None) -> KernelCode:
    """Add the functions of a contraction: ``name`` and ``name.task``, as of a parallel kernel.

    Its pointers are status, out, left, right, then the epilogue's; its sizes those of
    :func:`contract_symbols`; its range is one of tasks.
    """
    symbols = contract_symbols(step, epilogue)
    count = len(epilogue.code.roots) if epilogue is not None else 0
    arguments = ["ptr %status", "ptr %out", "ptr %left", "ptr %right",
                 *(f"ptr %e{k}" for k in range(count)),
                 *(f"i64 %s{k}" for k in range(len(symbols))), "i64 %begin", "i64 %end"]
    writer = FunctionWriter(
        module, f"define internal void @{name}({', '.join(arguments)}) {DRIVER_ATTRIBUTES}")
    for number, symbol in enumerate(symbols):
        writer.bind(symbol, f"%s{number}")
    _ContractWriter(writer, step, cut, epilogue).tasks()
    writer.run("ret void")
    writer.finish()
    code = KernelCode(name, (0,) * (3 + count), len(symbols), True, False)
    emit_task(module, code)
    return code


class _ContractWriter:
    """Writes the loops of one contraction."""

    def __init__(self, writer: FunctionWriter, step: Contract, cut: Blocking,
                 epilogue: Epilogue | None):
        self.writer, self.step, self.cut, self.epilogue = writer, step, cut, epilogue
        self.dtype = step.out.buffer.dtype
        self.kind = llvm_type(self.dtype)
        self.lanes = writer.module.machine.lanes(self.dtype)
        self.width = cut.vectors * self.lanes
        self.batch, self.m, self.n = step.out.dims
        self.k = step.left.dims[2]
        self.panel = ""
        if not cut.uses_blas:
            steps = cut.inner if isinstance(cut.inner, int) \
                else _deepest(self.width, SIZES[self.dtype])
            self.panel = writer.name()
            writer.allocas.append(
                f"  {self.panel} = alloca {self.kind}, i64 {max(1, steps) * self.width}, "
                f"align {self.lanes * SIZES[self.dtype]}")

    def address(self, base: str, offset: DimLike) -> str:
        """Write an address."""
        if offset == 0:
            return base
        return self.writer.emit(
            f"getelementptr {self.kind}, ptr {base}, i64 {self.writer.dim(offset)}")

    def tasks(self) -> None:
        """Write the loop over tasks, rows before columns before the batch."""
        writer, cut = self.writer, self.cut
        begin, end, column = Symbol("begin"), Symbol("end"), Symbol("column")
        writer.bind(begin, "%begin")
        writer.bind(end, "%end")
        down = maximum(ceildiv(self.m, cut.task_rows), 1)
        across = maximum(ceildiv(self.n, cut.task_columns), 1)

        def body() -> None:
            first = maximum(as_dim(begin) - as_dim(column) * down, 0)
            last = minimum(as_dim(end) - as_dim(column) * down, down)
            passes = ceildiv(last - first, cut.merged)
            turn = Symbol("turn", extent=passes)

            def block() -> None:
                top = first + as_dim(turn) * cut.merged
                bottom = minimum(top + cut.merged, last)
                self.block(floordiv(as_dim(column), across), top * cut.task_rows,
                           minimum(bottom * cut.task_rows, self.m),
                           modulo(as_dim(column), across) * cut.task_columns)

            writer.loop(turn, "0", writer.dim(passes), block)

        writer.loop(column, writer.dim(floordiv(as_dim(begin), down)),
                    writer.dim(ceildiv(as_dim(end), down)), body)

    def block(self, batch: DimLike, top: DimLike, bottom: DimLike, left: DimLike) -> None:
        """Write the work on rows ``top`` to ``bottom`` of the columns from ``left`` on."""
        right = minimum(left + self.cut.task_columns, self.n)
        if self.cut.uses_blas:
            self.blas(batch, (top, bottom), (left, right))
        else:
            self.walk(batch, (top, bottom), (left, right))
        if self.epilogue is not None:
            self.finish(top, bottom)

    def blas(self, batch: DimLike, rows: tuple[DimLike, DimLike],
             columns: tuple[DimLike, DimLike]) -> None:
        """Write the call of BLAS."""
        step = self.step
        (ob, om, _), (lb, lm, _), (rb, _, rn) = (
            view.strides for view in (step.out, step.left, step.right))
        blas_call(self.writer, step, (rows[1] - rows[0], columns[1] - columns[0], self.k), (
            self.address("%out", batch * ob + rows[0] * om + columns[0]),
            self.address("%left", batch * lb + rows[0] * lm),
            self.address("%right", batch * rb + columns[0] * rn)))

    def walk(self, batch: DimLike, rows: tuple[DimLike, DimLike],
             columns: tuple[DimLike, DimLike]) -> None:
        """Write the loop over blocks of the inner axis; one of no steps stores zeros."""
        writer, cut = self.writer, self.cut
        blocks = maximum(ceildiv(self.k, maximum(cut.inner, 1)), 1)
        inner = Symbol("inner", extent=blocks)

        def body() -> None:
            start = as_dim(inner) * cut.inner if blocks != 1 else 0
            adds = "true"
            if not self.step.add:
                adds = "false" if blocks == 1 else writer.emit(
                    f"icmp ne i64 {writer.dim(as_dim(inner))}, 0")
            self.panels(batch, rows, columns, start, minimum(cut.inner, self.k - start), adds)

        if blocks == 1:
            body()
        else:
            writer.loop(inner, "0", writer.dim(blocks), body)

    def panels(self, batch: DimLike, rows: tuple[DimLike, DimLike],
               columns: tuple[DimLike, DimLike], start: DimLike, steps: DimLike,
               adds: str) -> None:
        """Write the loop over full panels, and the last, narrower one."""
        writer = self.writer
        left, right = columns
        full = floordiv(right - left, self.width)
        panel = Symbol("panel", extent=full)

        def whole() -> None:
            self.tiles(batch, rows, left + as_dim(panel) * self.width, self.width, start, steps,
                       adds)

        if not (isinstance(self.n, int) and self.n < self.width):
            writer.loop(panel, "0", writer.dim(full), whole)
        if isinstance(self.n, int) and self.n % self.width == 0:
            return
        at = left + full * self.width
        more = writer.emit(f"icmp slt i64 {writer.dim(at)}, {writer.dim(right)}")
        width: DimLike = self.n % self.width if isinstance(self.n, int) else right - at
        writer.branch_if(more, lambda: self.tiles(batch, rows, at, width, start, steps, adds))

    def tiles(self, batch: DimLike, rows: tuple[DimLike, DimLike], column: DimLike,
              width: DimLike, start: DimLike, steps: DimLike, adds: str) -> None:
        """Write the tiles of one panel, from the top row to the bottom row."""
        writer, step, cut = self.writer, self.step, self.cut
        top, bottom = rows
        (ob, om, _), (lb, lm, lk), (rb, rk, rn) = (
            view.strides for view in (step.out, step.left, step.right))
        vectors = ceildiv(width, self.lanes) if isinstance(width, int) else cut.vectors
        masks = not isinstance(width, int) or width % self.lanes != 0
        height = min(cut.rows, self.m) if isinstance(self.m, int) else cut.rows
        clamps = not isinstance(self.m, int) or self.m % height != 0
        b = self.address("%right", batch * rb + start * rk + column * rn)

        def tile(source: Source, row: DimLike) -> None:
            kernel = micro_kernel(writer.module, Tile(
                self.dtype, self.lanes, height, vectors, source, clamps, masks))
            a = self.address("%left", batch * lb + row * lm + start * lk)
            c = self.address("%out", batch * ob + row * om + column)
            m_stride, k_stride, b_stride, c_stride, k, count, valid = map(writer.dim, (
                lm, lk, rk, om, steps, minimum(bottom - row, height), width))
            writer.run(
                f"call void {kernel}(ptr {a}, i64 {m_stride}, i64 {k_stride}, ptr {b}, "
                f"i64 {b_stride}, ptr {self.panel}, ptr {c}, i64 {c_stride}, i64 {k}, i1 {adds}, "
                f"i64 {count}, i64 {valid})")

        count = ceildiv(bottom - top, height)
        number = Symbol("tile", extent=count)
        source, first = self.start_panel(b, vectors, width, steps)
        if first:
            tile("packing", top)

        def following() -> None:
            if first:
                share = ceildiv(steps, maximum(count, 1))
                ahead = self.address("%right", batch * rb + column + self.width
                                     + (start + as_dim(number) * share) * rk)
                fetch = fetching(writer.module, self.dtype, self.width)
                writer.run(f"call void {fetch}(ptr {ahead}, i64 {writer.dim(rk)}, "
                           f"i64 {writer.dim(share)})")
            tile(source, top + as_dim(number) * height)

        writer.loop(number, str(first), writer.dim(count), following)

    def start_panel(self, b: str, vectors: int, width: DimLike, steps: DimLike
                    ) -> tuple[Source, int]:
        """Write what precedes a panel's tiles.

        Returns
        -------
        source : str
            Where the tiles read B.
        first : int
            1 when the first tile has to copy the panel, else 0.
        """
        writer, (_, rk, rn) = self.writer, self.step.right.strides
        if rn != 1:
            pack = packing(writer.module, self.dtype, self.lanes)
            for done in range(0, vectors * self.lanes, self.lanes):
                source = self.address(b, done * rn)
                writer.run(
                    f"call void {pack}(ptr {source}, i64 {writer.dim(rk)}, i64 {writer.dim(rn)}, "
                    f"i64 {writer.dim(maximum(width - done, 1))}, i64 {writer.dim(steps)}, "
                    f"ptr {self.address(self.panel, done)}, i64 {vectors * self.lanes})")
            return "packed", 0
        extent = self.k * rk * SIZES[self.dtype]
        is_near = isinstance(extent, int) and extent <= NEAR_BYTES
        if is_near or isinstance(self.m, int) and self.m <= self.cut.rows:
            return "direct", 0
        return "packed", 1

    def finish(self, top: DimLike, bottom: DimLike) -> None:
        """Write the call of the epilogue on finished rows."""
        epilogue, writer = self.epilogue, self.writer
        passed = ["ptr %status", *(f"ptr %e{k}" for k in range(len(epilogue.code.roots))),
                  *(f"i64 {writer.symbols[s].text}" for s in epilogue.signature.symbols),
                  f"i64 {writer.dim(top * epilogue.unit)}",
                  f"i64 {writer.dim(bottom * epilogue.unit)}"]
        writer.run(f"call void @{epilogue.code.name}({', '.join(passed)})")
