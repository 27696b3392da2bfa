"""Loops over short rows: several rows side by side, one in each lane.

A loop over rows whose body passes over each row (softmax of ten classes, the norm of a point) would
fill a vector with part of one row, and end each pass by combining its lanes.  Instead the lanes are
different rows, and the passes run over columns: nothing is combined across lanes.  Rows that are
read are first copied, as columns, to a buffer on the stack; those that are written go there, and
from there to memory (``llvm_transpose.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..dims import DimLike, Symbol, substitute, symbols_of
from ..dtypes import SIZES
from ..loop.ir import Buffer, For, If, Let, Load, Scalar, Stmt, Store
from ..loop.math import FUNCTIONS
from ..loop.walk import loads, operands, postorder, statements, target_access
from .llvm_scalar import memory_type, vector_of
from .llvm_transpose import mover
from .llvm_values import Values
from .llvm_vector import Bounds, Bundle, VectorLoop
from .llvm_vector_memory import Mask
from .llvm_vector_plan import INTERLEAVE, VectorPlan, slope, vector_plan

LONGEST_ROW, LONGEST_WITH_FUNCTIONS, LONGEST_CHEAP = 28, 64, 12
"""Elements of a row; longer ones keep a few vectors busy by themselves.  But if a function is
called once a row (the logarithm of log-softmax), it is called once for all lanes here; and where
little is computed, moving the rows takes most of the time."""

CHEAP = 8.0
"""Scalar operations for an element up to which little is computed."""

STACK = 24 << 10
"""Most bytes of the columns: they should stay in the first cache."""


@dataclass(slots=True)
class Run:
    """Rows of a buffer that pass through the stack.

    Attributes
    ----------
    buffer : Buffer
        Its root.
    start : dim
        Where the row of an iteration starts, in elements.
    stride : dim
        Elements from row to row.
    length : int
    is_read, is_written : bool
    """

    buffer: Buffer
    start: DimLike
    stride: DimLike
    length: int
    is_read: bool
    is_written: bool


def has_short_rows(loop: For, cost: float) -> bool:
    """Return whether all passes in a loop's body are over rows known to be short.

    ``cost`` is that of an iteration of the innermost statements, relative to an addition.
    """
    inner = [stmt for stmt in loop.body if isinstance(stmt, For)]
    outer = [node for stmt in loop.body for node in postorder(*operands(stmt))]
    calls = any(isinstance(node, Scalar) and node.name in FUNCTIONS for node in outer)
    longest = LONGEST_WITH_FUNCTIONS if calls else LONGEST_ROW if cost > CHEAP else LONGEST_CHEAP
    return bool(inner) and all(
        isinstance(stmt.extent, int) and 2 <= stmt.extent <= longest for stmt in inner) \
        and not any(isinstance(stmt, (For, If)) for one in inner for stmt in statements(one.body)) \
        and not any(isinstance(stmt, If) for stmt in loop.body)


def emit_short_rows(values: Values, loop: For, cost: float, bounds: Bounds) -> bool:
    """Write a loop over short rows; return whether that is how it should run.

    Parameters
    ----------
    values : Values
        Of the nest.
    loop : For
        The loop over rows.
    cost : float
        Of an iteration of the innermost statements, relative to an addition.
    bounds : Bounds
    """
    if not has_short_rows(loop, cost):
        return False
    runs = _runs(values, loop)
    if not runs:
        return False
    plan = vector_plan(loop, values, cost, values.writer.module.machine.vector_bytes, True)
    if plan is None or plan.accumulated:
        return False
    column = plan.lanes * sum(run.length * SIZES[run.buffer.dtype] for run in runs.values())
    if column > STACK:
        return False
    # A power of two: chunks of the parallel loop are then whole groups, but for the last one.
    most = min(plan.copies, INTERLEAVE, STACK // column)
    plan = replace(plan, copies=1 << most.bit_length() - 1)
    _ShortRows(values, loop, plan, bounds, runs).emit()
    return True


def _runs(values: Values, loop: For) -> dict[tuple[Buffer, DimLike], Run]:
    """Return the rows that pass through the stack; none when some access does not allow it."""
    found: dict[tuple[Buffer, DimLike], Run] = {}
    others: set[Buffer] = set()
    for stmt in loop.body:
        inner = stmt.body if isinstance(stmt, For) else (stmt,)
        for one in inner:
            for buffer, position, writes in _accesses(one):
                run = _run(values, loop, stmt, buffer, position)
                if run is None:
                    others.add(buffer.root())
                    continue
                known = found.setdefault((run.buffer, run.start), run)
                if known is run:
                    run.is_read, run.is_written = not writes, writes
                elif known.is_written or writes:
                    if known.length != run.length:
                        return {}
                    known.is_written = True
                else:
                    known.length = max(known.length, run.length)
    written = {target_access(stmt)[0].root() for stmt in statements(loop.body)
               if target_access(stmt) is not None}
    # What is written must be seen in one place only.
    passing = [run.buffer for run in found.values()]
    if any(root in passing and (root in others or passing.count(root) > 1) for root in written):
        return {}
    return found


def _accesses(stmt: Stmt) -> list[tuple[Buffer, tuple[DimLike, ...], bool]]:
    """Return the accesses of a statement, in order, and whether they write."""
    found = [(load.buffer, load.position, False) for load in loads(*operands(stmt))]
    access = target_access(stmt)
    if access is not None:
        if not isinstance(stmt, Store):
            found.append((*access, False))
        found.append((*access, True))
    return found


def _run(values: Values, loop: For, inner: Stmt, buffer: Buffer, position: tuple[DimLike, ...]
         ) -> Run | None:
    """Return the rows that an access runs along, or None."""
    if not isinstance(inner, For) or buffer.dtype == "bool" or SIZES[buffer.dtype] < 4:
        return None
    offset = values.offset(buffer, position)
    own = {stmt.target for stmt in statements(loop.body) if isinstance(stmt, Let)}
    start = substitute(offset, {inner.index: 0})
    stride = slope(start, loop.index)
    if slope(offset, inner.index) != 1 or stride in (0, None) \
            or symbols_of(start) & own:
        return None
    return Run(buffer.root(), start, stride, inner.extent, False, False)


class _ShortRows(VectorLoop):
    """One loop over short rows being written."""

    ignores_masks = True  # A lane without a row computes what nobody reads.

    def __init__(self, values: Values, loop: For, plan: VectorPlan, bounds: Bounds,
                 runs: dict[tuple[Buffer, DimLike], Run]):
        super().__init__(values, loop, plan, bounds, ())
        self.runs = runs
        self.pitch = plan.lanes * plan.copies
        self.columns: dict[tuple[Buffer, DimLike], str] = {}
        self.inner: Symbol | None = None

    def iterations(self) -> None:
        """Write all rows, a few vectors of them at a time."""
        for key, run in self.runs.items():
            size = run.length * self.pitch * SIZES[run.buffer.dtype]
            self.columns[key] = self.writer.alloca(f"[{size} x i8]")
        multiple = self.bounds.multiple if self.bounds.extent is None else self.bounds.extent
        self.repeated(self.bounds.begin, self.bounds.end, self.plan.copies,
                      multiple % self.pitch != 0)

    def group(self, masks: list[Mask | None]) -> None:
        """Write the body for some vectors of rows."""
        self.masks = masks
        for key, run in self.runs.items():
            if run.is_read:
                self.move(key, run, True)
        self.block(self.loop.body)
        for key, run in self.runs.items():
            if run.is_written:
                self.move(key, run, False)

    def move(self, key: tuple[Buffer, DimLike], run: Run, reads: bool) -> None:
        """Write the move between memory and the stack."""
        writer = self.writer
        function = mover(writer.module, run.buffer.dtype, self.lanes, run.length, reads)
        for copy, mask in enumerate(self.masks):
            rows = self.values.address_at(run.buffer, self.lane(run.start, copy, 0))
            count = str(self.lanes) if mask is None else mask.remaining
            writer.run(f"call void {function}(ptr {rows}, i64 {writer.dim(run.stride)}, "
                       f"ptr {self.column(key, run, '0', copy)}, i64 {self.pitch}, i64 {count})")

    def column(self, key: tuple[Buffer, DimLike], run: Run, number: str, copy: int) -> str:
        """Write the address of a vector of a column."""
        kind = memory_type(run.buffer.dtype)
        start = self.writer.emit(f"mul nuw nsw i64 {number}, {self.pitch}")
        at = self.writer.emit(f"add nuw nsw i64 {start}, {copy * self.lanes}")
        return self.writer.emit(f"getelementptr {kind}, ptr {self.columns[key]}, i64 {at}")

    def statement(self, stmt: Stmt) -> None:
        """Write one statement for all vectors; a pass runs over the columns."""
        if not isinstance(stmt, For):
            super().statement(stmt)
            return
        self.inner = stmt.index
        self.writer.loop(stmt.index, "0", str(stmt.extent), lambda: self.block(stmt.body))
        self.inner = None

    def places_of(self, buffer: Buffer, position: tuple[DimLike, ...]) -> list[str] | None:
        """Write where the stack holds the elements of an access, or return None."""
        if self.inner is None:
            return None
        offset = self.values.offset(buffer, position)
        key = (buffer.root(), substitute(offset, {self.inner: 0}))
        # An element of a row, or every other one, begins where the row does.
        if key not in self.runs or slope(offset, self.inner) != 1:
            return None
        number = self.writer.symbols[self.inner].text
        return [self.column(key, self.runs[key], number, copy) for copy in range(len(self.masks))]

    def load(self, load: Load) -> list[str]:
        """Write a load of different elements."""
        places = self.places_of(load.buffer, load.position)
        if places is None:
            return super().load(load)
        kind, size = memory_type(load.dtype, self.lanes), SIZES[load.dtype]
        return [self.writer.emit(f"load {kind}, ptr {place}, align {size}") for place in places]

    def store(self, buffer: Buffer, position: tuple[DimLike, ...], value: Bundle) -> None:
        """Write a store."""
        places = self.places_of(buffer, position)
        if places is None:
            super().store(buffer, position, value)
            return
        kind, size = vector_of(memory_type(buffer.dtype), self.lanes), SIZES[buffer.dtype]
        vectors = self.all_of(buffer.dtype, value)
        for place, vector in zip(places, vectors):
            self.writer.run(f"store {kind} {vector}, ptr {place}, align {size}")
