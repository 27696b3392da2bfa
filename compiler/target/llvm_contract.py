"""Contractions on the CPU: the loops around the micro-kernels of ``llvm_gemm.py``.

A product is cut into *tasks*, blocks of rows and columns of C, which any thread may compute; a task
walks the inner axes to their end, so the order of additions, and with it every bit of the result,
depends on the sizes only::

    for each task (batch element, columns, rows):
      for each block of the inner axes:
        for each panel of columns:          B's panel is copied by the first tile, and stays in L1
          for each tile of rows:            a micro-kernel
      the epilogue on the task's rows       while they are in the cache

Batch axes on which B does not depend (of images, and their rows, in a convolution) are rows, too,
and share the panels: a table tells where each row of A and C begins.

Where BLAS measures better, on large products, a task is one call of it; so it is on all products
when LLVM optimises nothing.  Where sizes are known at run time only, the driver chooses.
"""

from __future__ import annotations

from typing import NamedTuple

from ..dims import (
    DimLike, Symbol, as_dim, ceildiv, floordiv, lower_bound, maximum, minimum, modulo, prod,
    symbols_of)
from ..dtypes import SIZES
from ..loop.text import Signature
from ..program import Contract, View, split_index
from .llvm_blas import blas_call
from .llvm_blocking import (
    NEAR_BYTES, TABLE_ROWS, TASK_TILES, Blocking, panel_steps, stack_of, task_count)
from .llvm_gemm import Source, Tile, micro_kernel, packing, tabulating
from .llvm_kernel import KernelCode
from .llvm_scalar import llvm_type
from .llvm_tiles import last_panels, shortened
from .llvm_writer import FunctionWriter, Module


class Epilogue(NamedTuple):
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
    """Add the function of a contraction, like that of a parallel kernel.

    Its pointers are status, out, left, right, then the epilogue's; its sizes those of
    :func:`contract_symbols`; its range is one of tasks.
    """
    symbols = contract_symbols(step, epilogue)
    count = len(epilogue.code.roots) if epilogue is not None else 0
    arguments = ["ptr %status", "ptr %out", "ptr %left", "ptr %right",
                 *(f"ptr %e{k}" for k in range(count)),
                 *(f"i64 %s{k}" for k in range(len(symbols))), "i64 %begin", "i64 %end"]
    writer = FunctionWriter(
        module, f"define internal void @{name}({', '.join(arguments)}) nounwind")
    for number, symbol in enumerate(symbols):
        writer.bind(symbol, f"%s{number}")
    _ContractWriter(writer, step, _named(writer, cut), epilogue).tasks()
    writer.run("ret void")
    writer.finish()
    return KernelCode(name, (0,) * (3 + count), len(symbols), True, 1)


def _named(writer: FunctionWriter, cut: Blocking) -> Blocking:
    """Write what the code computes of a cut, once; return the cut with symbols for it.

    Positions are made of these sizes many times over, and each mention would be walked again.
    """
    names: dict[str, DimLike] = {}
    for name in ("task_tiles", "task_columns", "steps", "merged"):
        size: DimLike = getattr(cut, name)
        if not isinstance(size, int):
            symbol = Symbol(name, lower_bound(size))
            writer.bind(symbol, writer.dim(size))
            names[name] = as_dim(symbol)
    return cut._replace(**names)


class _Block(NamedTuple):
    """A block of the inner axes, on some tiles of rows of one right operand.

    ``start`` is its first index along the inner axes up to the one that is cut, ``steps`` its sizes
    from that one on; ``adds`` tells whether C already holds a part of the sum.
    """

    matrix: DimLike
    tiles: tuple[DimLike, DimLike]
    start: tuple[DimLike, ...]
    steps: tuple[DimLike, ...]
    adds: str


class _ContractWriter:
    """Writes the loops of one contraction."""

    def __init__(self, writer: FunctionWriter, step: Contract, cut: Blocking,
                 epilogue: Epilogue | None):
        self.writer, self.step, self.cut, self.epilogue = writer, step, cut, epilogue
        self.dtype = step.out.buffer.dtype
        self.kind = llvm_type(self.dtype)
        # The operands' dtypes, where they are not the product's: halves.
        self.left, self.right = (
            "" if view.buffer.dtype == self.dtype else view.buffer.dtype
            for view in (step.left, step.right))
        self.lanes = writer.module.machine.lanes(self.dtype)
        self.width = cut.vectors * self.lanes
        _, self.m, self.n, self.k = step.sizes
        self.stack = stack_of(step, cut.uses_blas)
        self.inner_dims = (0,) * len(step.inner_dims) if self.k == 0 else step.inner_dims
        lead = len(step.batch_dims)
        self.a_steps = step.left.strides[lead + 1:]
        self.b_steps = step.right.strides[lead:-1]
        self.panel = self.table = ""
        if not cut.uses_blas:
            self.panel = self.reserve_panel()
            # A pass over the panels has at least the rows of one task; the rest fills a last tile,
            # and is there for the one that would follow.
            self.table = writer.alloca(
                "i64", 2 * (max(TABLE_ROWS, TASK_TILES * cut.rows) + 2 * cut.rows))

    def reserve_panel(self) -> str:
        """Reserve memory for the panel of a block."""
        cut, inside = self.cut, prod(self.inner_dims[self.cut.axis + 1:])
        steps = cut.steps if isinstance(cut.steps, int) \
            else max(panel_steps(self.width, SIZES[self.dtype]) // inside, 1)
        panel = self.writer.name()
        self.writer.allocas.append(
            f"  {panel} = alloca {self.kind}, i64 {max(1, steps * inside) * self.width}, "
            f"align {self.lanes * SIZES[self.dtype]}")
        return panel

    def address(self, base: str, offset: DimLike, dtype: str = "") -> str:
        """Write an address, among elements of a dtype or of that of the product."""
        if offset == 0:
            return base
        kind = llvm_type(dtype) if dtype else self.kind
        return self.writer.emit(f"getelementptr {kind}, ptr {base}, i64 {self.writer.dim(offset)}")

    def start(self, view: View, matrix: DimLike) -> DimLike:
        """Return the offset of the first of the matrices that share one right operand."""
        at = split_index(matrix, self.stack.batch)
        return sum((index * stride for index, stride in zip(at, view.strides)), 0)

    def tasks(self) -> None:
        """Write the loop over tasks, rows before columns before the batch."""
        writer, cut = self.writer, self.cut
        begin, end, column = Symbol("begin"), Symbol("end"), Symbol("column")
        if task_count(self.step, cut) == 1:
            writer.bind_constant(begin, 0)
            writer.bind_constant(end, 1)
        else:
            writer.bind(begin, "%begin")
            writer.bind(end, "%end")
        tiles = ceildiv(self.stack.rows, cut.rows)
        down = maximum(ceildiv(tiles, cut.task_tiles), 1)
        across = maximum(ceildiv(self.n, cut.task_columns), 1)

        def body() -> None:
            first = maximum(as_dim(begin) - as_dim(column) * down, 0)
            last = minimum(as_dim(end) - as_dim(column) * down, down)
            passes = ceildiv(last - first, cut.merged)
            turn = Symbol("turn", extent=passes)

            def block() -> None:
                top = first + as_dim(turn) * cut.merged
                bottom = minimum(top + cut.merged, last)
                self.block(floordiv(as_dim(column), across), top * cut.task_tiles,
                           minimum(bottom * cut.task_tiles, tiles),
                           modulo(as_dim(column), across) * cut.task_columns)

            writer.loop(turn, "0", writer.dim(passes), block)

        writer.loop(column, writer.dim(floordiv(as_dim(begin), down)),
                    writer.dim(ceildiv(as_dim(end), down)), body)

    def block(self, matrix: DimLike, top: DimLike, bottom: DimLike, left: DimLike) -> None:
        """Write the work on tiles ``top`` to ``bottom`` of the columns from ``left`` on."""
        right = minimum(left + self.cut.task_columns, self.n)
        if self.cut.uses_blas:
            self.blas(matrix, (top, bottom), (left, right))
        else:
            self.tabulate(top * self.cut.rows,
                          minimum(bottom * self.cut.rows, self.stack.rows))
            self.walk(matrix, (top, bottom), (left, right))
        if self.epilogue is not None:
            self.finish(top * self.cut.rows, minimum(bottom * self.cut.rows, self.stack.rows))

    def tabulate(self, top: DimLike, bottom: DimLike) -> None:
        """Write the table of where rows ``top`` to ``bottom`` of A and C begin."""
        writer = self.writer
        tabulate = tabulating(writer.module.kernels)
        lead = len(self.step.batch_dims)
        views = (self.step.left, self.step.out)
        sizes = [SIZES[view.buffer.dtype] for view in views]
        strides = [view.strides[lead] for view in views]

        def entries(first: DimLike, count: DimLike, starts: list[DimLike], steps: list[DimLike]
                    ) -> None:
            place = writer.emit(f"getelementptr inbounds i64, ptr {self.table}, "
                                f"i64 {writer.dim(first * 2)}")
            passed = [count]
            for size, start, step in zip(sizes, starts, steps):
                passed += [size * start, size * step]
            writer.run(f"call void {tabulate}(ptr {place}, "
                       + ", ".join(f"i64 {writer.dim(value)}" for value in passed) + ")")

        def matrix(number: DimLike) -> list[DimLike]:
            at = split_index(number, self.stack.above)
            return [sum((index * stride for index, stride in zip(
                at, view.strides[lead - len(at):lead])), 0) for view in views]

        if not self.stack.above:
            entries(0, bottom - top, [top * stride for stride in strides], strides)
            last = [(bottom - 1) * stride for stride in strides]
        else:
            above = Symbol("above")

            def rows() -> None:
                first = as_dim(above) * self.m
                high, low = minimum(bottom - first, self.m), maximum(top - first, 0)
                starts = [start + low * stride
                          for start, stride in zip(matrix(as_dim(above)), strides)]
                entries(first + low - top, high - low, starts, strides)

            writer.loop(above, writer.dim(floordiv(top, maximum(self.m, 1))),
                        writer.dim(ceildiv(bottom, maximum(self.m, 1))), rows)
            row = modulo(bottom - 1, maximum(self.m, 1))
            last = [start + row * stride for start, stride in zip(
                matrix(floordiv(bottom - 1, maximum(self.m, 1))), strides)]
        entries(bottom - top, 2 * self.cut.rows, last, [0, 0])

    def blas(self, matrix: DimLike, rows: tuple[DimLike, DimLike],
             columns: tuple[DimLike, DimLike]) -> None:
        """Write the call of BLAS."""
        step = self.step
        blas_call(self.writer, step, (rows[1] - rows[0], columns[1] - columns[0], self.k), (
            self.address("%out", self.start(step.out, matrix) + rows[0] * step.out.strides[-2]
                         + columns[0]),
            self.address("%left", self.start(step.left, matrix) + rows[0] * step.left.strides[-2]),
            self.address("%right", self.start(step.right, matrix)
                         + columns[0] * step.right.strides[-1])))

    def walk(self, matrix: DimLike, tiles: tuple[DimLike, DimLike],
             columns: tuple[DimLike, DimLike]) -> None:
        """Write the loop over blocks of the inner axes; one of no steps stores zeros."""
        writer, axis, steps = self.writer, self.cut.axis, maximum(self.cut.steps, 1)
        outside, size = self.inner_dims[:axis], self.inner_dims[axis]
        each = maximum(ceildiv(size, steps), 1)
        blocks = maximum(prod(outside) * each, 1)
        number = Symbol("inner", extent=blocks)

        def body() -> None:
            at: tuple[DimLike, ...] = (0,) * (axis + 1)
            if blocks != 1:
                at = split_index(as_dim(number), (*outside, each))
            start = (*at[:-1], at[-1] * steps)
            here = minimum(steps, size - start[-1]) * minimum(prod(outside), 1)
            adds = "true"
            if not self.step.add:
                adds = "false" if blocks == 1 else writer.emit(
                    f"icmp ne i64 {writer.dim(as_dim(number))}, 0")
            self.panels(_Block(matrix, tiles, start, (here, *self.inner_dims[axis + 1:]), adds),
                        columns)

        if blocks == 1:
            body()
        else:
            writer.loop(number, "0", writer.dim(blocks), body)

    def panels(self, block: _Block, between: tuple[DimLike, DimLike]) -> None:
        """Write the loops over full panels, and over the last, narrower ones."""
        writer, lanes, vectors = self.writer, self.lanes, self.cut.vectors
        left, right = between
        full = floordiv(right - left, self.width)
        if isinstance(self.n, int):
            # Only the last columns of the matrix are not whole panels.
            columns = self.n % self.cut.task_columns
            narrow, last = last_panels(ceildiv(columns, lanes), vectors)
            masks = int(self.n % lanes != 0)
            last = max(last, int(columns % self.width != 0))
            full = full - max(last - 1, 0) * floordiv(right, max(self.n, 1))
        else:
            narrow = masks = last = max(vectors - 1, 1)
            full = full - shortened(right - left - full * self.width, full, lanes, vectors)
        if not (isinstance(self.n, int) and self.n < self.width):
            panel = Symbol("panel", extent=full)
            writer.loop(panel, "0", writer.dim(full), lambda: self.tiles(
                block, left + as_dim(panel) * self.width, self.width, vectors, 0))
        if last == 0:
            return
        at, width = left + full * self.width, narrow * lanes
        rest = ceildiv(right - at, width)
        panel = Symbol("narrow", extent=rest)

        def part() -> None:
            column = at + as_dim(panel) * width
            self.tiles(block, column, minimum(right - column, width), narrow, masks)

        writer.loop(panel, "0", writer.dim(rest), part)

    def tiles(self, block: _Block, column: DimLike, width: DimLike, vectors: int, masks: int
              ) -> None:
        """Write the tiles of one panel, from the top row to the bottom row."""
        writer, step, cut = self.writer, self.step, self.cut
        top, bottom = block.tiles
        depth = len(block.steps)
        a, b = (self.address(base, self.start(view, block.matrix) + sum(
            (at * stride for at, stride in zip(block.start, strides)), 0) + beyond, dtype)
            for base, view, strides, beyond, dtype in (
                ("%left", step.left, self.a_steps, 0, self.left),
                ("%right", step.right, self.b_steps, column * step.right.strides[-1], self.right)))
        c = self.address("%out", self.start(step.out, block.matrix) + column)

        def strip(source: Source, first: int, count: DimLike) -> None:
            kernel = micro_kernel(writer.module.kernels, Tile(
                self.dtype, self.lanes, cut.rows, vectors, source, masks, depth, self.left,
                self.right))
            table = writer.emit(f"getelementptr inbounds i64, ptr {self.table}, "
                                f"i64 {2 * first * cut.rows}")
            sizes = [width]
            for parts in zip(block.steps, self.a_steps[-depth:], self.b_steps[-depth:]):
                sizes += parts
            passed = (f"ptr {table}", f"i64 {writer.dim(count)}", f"ptr {a}", f"ptr {b}",
                      f"ptr {self.panel}", f"ptr {c}", f"i1 {block.adds}",
                      *(f"i64 {writer.dim(size)}" for size in sizes))
            writer.run(f"call void {kernel}({', '.join(passed)})")

        source, first = self.start_panel(b, vectors, width, block.steps, masks > 0)
        if first:
            strip("packing", 0, minimum(bottom - top, 1))
        strip(source, first, bottom - top - first)

    def start_panel(self, b: str, vectors: int, width: DimLike, steps: tuple[DimLike, ...],
                    is_masked: bool) -> tuple[Source, int]:
        """Write what precedes a panel's tiles.

        Few processors have masked loads of halves: a panel that needs them is copied first.

        Returns
        -------
        source : str
            Where the tiles read B.
        first : int
            1 when the first tile has to copy the panel, else 0.
        """
        rn = self.step.right.strides[-1]
        if rn != 1 or is_masked and self.right:
            if 0 not in steps:
                self.pack(b, vectors, width, steps)
            return "packed", 0
        extent = SIZES[self.dtype] * sum(
            (size - 1) * stride for size, stride in zip(self.inner_dims, self.b_steps))
        is_near = isinstance(extent, int) and extent <= NEAR_BYTES and not self.right
        tiles = ceildiv(self.stack.rows, self.cut.rows)
        if is_near or isinstance(tiles, int) and tiles <= 1:
            return "direct", 0
        return "packed", 1

    def pack(self, b: str, vectors: int, width: DimLike, steps: tuple[DimLike, ...]) -> None:
        """Write the copy of a panel whose columns are not neighbours in memory."""
        writer, rn = self.writer, self.step.right.strides[-1]
        function = packing(writer.module.kernels, self.dtype, self.lanes, self.right)
        strides = self.b_steps[-len(steps):]
        runs = prod(steps[:-1])
        run = Symbol("run", extent=runs)

        def body() -> None:
            at = split_index(as_dim(run), steps[:-1]) if runs != 1 else ()
            place = sum((index * stride for index, stride in zip(at, strides)), 0)
            row = as_dim(run) * steps[-1] * vectors * self.lanes if runs != 1 else 0
            for done in range(0, vectors * self.lanes, self.lanes):
                # Vectors behind the last column repeat it.
                first = place + minimum(done, width - 1) * rn
                writer.run(
                    f"call void {function}(ptr {self.address(b, first, self.right)}, "
                    f"i64 {writer.dim(strides[-1])}, i64 {writer.dim(rn)}, "
                    f"i64 {writer.dim(maximum(width - done, 1))}, i64 {writer.dim(steps[-1])}, "
                    f"ptr {self.address(self.panel, row + done)}, i64 {vectors * self.lanes})")

        if runs == 1:
            body()
        else:
            writer.loop(run, "0", writer.dim(runs), body)

    def finish(self, top: DimLike, bottom: DimLike) -> None:
        """Write the call of the epilogue on finished rows."""
        epilogue, writer = self.epilogue, self.writer
        passed = ["ptr %status", *(f"ptr %e{k}" for k in range(len(epilogue.code.roots))),
                  *(f"i64 {writer.symbols[s].text}" for s in epilogue.signature.symbols),
                  f"i64 {writer.dim(top * epilogue.unit)}",
                  f"i64 {writer.dim(bottom * epilogue.unit)}"]
        writer.run(f"call void @{epilogue.code.name}({', '.join(passed)})")
