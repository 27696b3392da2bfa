"""The building block of every dense product: micro-kernels and packing, in LLVM IR.

A *micro-kernel* keeps a tile of the product, ``rows`` by ``vectors`` vector registers, in registers
while it walks the inner axis::

    C[0:rows, 0:vectors*lanes] (+)= sum_k A[0:rows, k] B[k, 0:vectors*lanes]

Elements of A are broadcast from memory, at any row and inner stride, so that a transposed operand
is only other strides.  Rows of B are loaded as vectors: from where B lies, or from a *panel*, a
copy of ``vectors*lanes`` columns whose rows follow each other (one stream of cache lines, instead
of a line of each row).  The first tile of a column of tiles copies the panel while it works, which
costs next to nothing: its stores wait for no arithmetic unit.

Each micro-kernel is a function of its own, shared by all products of a module; constants that all
its calls agree on are propagated into it by LLVM.

References
----------
Goto, van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34 (2008).
Georganas et al., "Harnessing Deep Learning via a Single Building Block", IPDPS 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..dtypes import SIZES
from .llvm_scalar import llvm_type
from .llvm_writer import FunctionWriter, Module

LINE_BYTES = 64
"""Of a line of the caches."""

Source = Literal["direct", "packing", "packed"]


@dataclass(frozen=True, slots=True)
class Tile:
    """What distinguishes micro-kernels.

    Attributes
    ----------
    dtype : str
    lanes : int
        Elements of a vector register.
    rows, vectors : int
        The tile's size.
    source : {'direct', 'packing', 'packed'}
        Where rows of B come from: from B; from B, and are copied to the panel; from the panel.
    clamps : bool
        Whether a call may ask for fewer rows.  The last one is then computed several times, and
        stored once or more often with the same value.
    masks : bool
        Whether a call may ask for fewer columns.
    """

    dtype: str
    lanes: int
    rows: int
    vectors: int
    source: Source = "direct"
    clamps: bool = False
    masks: bool = False

    @property
    def columns(self) -> int:
        """Columns of a full tile."""
        return self.vectors * self.lanes

    @property
    def name(self) -> str:
        """The function's name in its module."""
        marks = ("clamped." if self.clamps else "") + ("masked." if self.masks else "")
        return f"tx.gemm.{self.dtype}.{self.rows}x{self.columns}.{marks}{self.source}"


PARAMETERS = ("ptr %a", "i64 %a.row", "i64 %a.step", "ptr %b", "i64 %b.step", "ptr %panel",
              "ptr %c", "i64 %c.row", "i64 %k", "i1 %add", "i64 %rows", "i64 %columns")
"""Of a micro-kernel: strides count elements; ``add`` asks to add to C what was computed; ``rows``
and ``columns`` count where the tile clamps and masks."""


def micro_kernel(module: Module, tile: Tile) -> str:
    """Include a micro-kernel; return its name as an operand."""
    if tile.name not in module.declarations:
        module.declarations[tile.name] = ""
        module.declarations[tile.name] = _TileWriter(module, tile).text()
    return f"@{tile.name}"


class _TileWriter:
    """Writes one micro-kernel."""

    def __init__(self, module: Module, tile: Tile):
        self.tile = tile
        self.kind = llvm_type(tile.dtype)
        self.vector = f"<{tile.lanes} x {self.kind}>"
        self.suffix = f"v{tile.lanes}f{8 * SIZES[tile.dtype]}"
        self.writer = FunctionWriter(module, f"define internal void @{tile.name}"
                                             f"({', '.join(PARAMETERS)}) noinline nounwind")
        self.masks = [self._mask(v) if tile.masks else "" for v in range(tile.vectors)]

    def text(self) -> str:
        """Write the function."""
        writer, tile = self.writer, self.tile
        a_rows = [self._row_offset("%a.row", row) for row in range(tile.rows)]
        places = self._places()
        self._fetch(places)
        states = ["ptr", "ptr", "ptr", *[self.vector] * (tile.rows * tile.vectors)]
        starts = ["%a", "%b", "%panel", *["zeroinitializer"] * (tile.rows * tile.vectors)]
        ends = writer.carry("%k", states, starts, lambda now: self._step(now, a_rows))
        totals = ends[3:]
        writer.branch_if("%add", lambda: self._store(self._added(totals, places), places,
                                                     leaves=True))
        self._store(totals, places)
        writer.run("ret void")
        writer.finish()
        return writer.module.functions.pop()

    def _row_offset(self, stride: str, row: int) -> str:
        if row == 0:
            return "0"
        number = str(row)
        if self.tile.clamps:
            smin = self.writer.module.declare("llvm.smin.i64", "i64", "i64", "i64")
            last = self.writer.emit("add nsw i64 %rows, -1")
            number = self.writer.emit(f"call i64 {smin}(i64 {last}, i64 {row})")
        return self.writer.emit(f"mul nsw i64 {stride}, {number}")

    def _mask(self, v: int) -> str:
        """Write which lanes of vector ``v`` are columns of the product."""
        emit, lanes = self.writer.emit, self.tile.lanes
        one = emit(f"insertelement <{lanes} x i64> poison, i64 %columns, i64 0")
        every = emit(f"shufflevector <{lanes} x i64> {one}, <{lanes} x i64> poison, "
                     f"<{lanes} x i32> zeroinitializer")
        own = ", ".join(f"i64 {v * lanes + lane}" for lane in range(lanes))
        return emit(f"icmp slt <{lanes} x i64> <{own}>, {every}")

    def _at(self, base: str, offset: str | int) -> str:
        if offset in (0, "0"):
            return base
        return self.writer.emit(f"getelementptr inbounds {self.kind}, ptr {base}, i64 {offset}")

    def _load(self, address: str, v: int, aligned: bool = False, masked: bool = True) -> str:
        size = SIZES[self.tile.dtype]
        if self.masks[v] and masked:
            load = self.writer.module.declare(
                f"llvm.masked.load.{self.suffix}.p0", self.vector, "ptr", "i32",
                f"<{self.tile.lanes} x i1>", self.vector)
            return self.writer.emit(
                f"call {self.vector} {load}(ptr {address}, i32 {size}, "
                f"<{self.tile.lanes} x i1> {self.masks[v]}, {self.vector} zeroinitializer)")
        align = size * self.tile.lanes if aligned else size
        return self.writer.emit(f"load {self.vector}, ptr {address}, align {align}")

    def _step(self, now: list[str], a_rows: list[str]) -> list[str]:
        """Write one step along the inner axis; return the next state."""
        writer, tile = self.writer, self.tile
        a, b, panel, totals = now[0], now[1], now[2], now[3:]
        source = panel if tile.source == "packed" else b
        loaded = []
        for v in range(tile.vectors):
            row = self._load(self._at(source, v * tile.lanes), v,
                             aligned=tile.source == "packed", masked=tile.source != "packed")
            if tile.source == "packing":
                writer.run(f"store {self.vector} {row}, ptr {self._at(panel, v * tile.lanes)}, "
                           f"align {SIZES[tile.dtype] * tile.lanes}")
            loaded.append(row)
        fma = writer.module.declare(f"llvm.fmuladd.{self.suffix}", self.vector,
                                    *[self.vector] * 3)
        following = []
        for row, offset in enumerate(a_rows):
            element = writer.emit(f"load {self.kind}, ptr {self._at(a, offset)}, "
                                  f"align {SIZES[tile.dtype]}")
            lane = writer.emit(f"insertelement {self.vector} poison, {self.kind} {element}, i64 0")
            every = writer.emit(f"shufflevector {self.vector} {lane}, {self.vector} poison, "
                                f"<{tile.lanes} x i32> zeroinitializer")
            for v in range(tile.vectors):
                old = totals[row * tile.vectors + v]
                following.append(writer.emit(
                    f"call {self.vector} {fma}({self.vector} {every}, {self.vector} {loaded[v]}, "
                    f"{self.vector} {old})"))
        is_packed = tile.source == "packed"
        return [self._at(a, "%a.step"), b if is_packed else self._at(b, "%b.step"),
                panel if tile.source == "direct" else self._at(panel, tile.columns), *following]

    def _places(self) -> list[str]:
        """Write the addresses of the tile's vectors in C."""
        rows = [self._at("%c", self._row_offset("%c.row", row)) for row in range(self.tile.rows)]
        return [self._at(row, v * self.tile.lanes) for row in rows
                for v in range(self.tile.vectors)]

    def _fetch(self, places: list[str]) -> None:
        """Ask for C's lines: by the end of the walk they are here."""
        prefetch = self.writer.module.declare("llvm.prefetch.p0", "void", "ptr", *["i32"] * 3)
        every = max(1, LINE_BYTES // (SIZES[self.tile.dtype] * self.tile.lanes))
        for k, place in enumerate(places):
            if k % self.tile.vectors % every == 0:
                self.writer.run(f"call void {prefetch}(ptr {place}, i32 1, i32 3, i32 1)")

    def _added(self, totals: list[str], places: list[str]) -> list[str]:
        # All loads come before any store: clamped rows are stored more than once.
        return [self.writer.emit(
            f"fadd {self.vector} {self._load(place, k % self.tile.vectors)}, {total}")
            for k, (total, place) in enumerate(zip(totals, places))]

    def _store(self, totals: list[str], places: list[str], leaves: bool = False) -> None:
        size = SIZES[self.tile.dtype]
        for k, (total, place) in enumerate(zip(totals, places)):
            mask = self.masks[k % self.tile.vectors]
            if mask:
                store = self.writer.module.declare(
                    f"llvm.masked.store.{self.suffix}.p0", "void", self.vector, "ptr", "i32",
                    f"<{self.tile.lanes} x i1>")
                self.writer.run(f"call void {store}({self.vector} {total}, ptr {place}, "
                                f"i32 {size}, <{self.tile.lanes} x i1> {mask})")
            else:
                self.writer.run(f"store {self.vector} {total}, ptr {place}, align {size}")
        if leaves:
            self.writer.leave("ret void")


# -- copying panels --------------------------------------------------------------------------------

def packing(module: Module, dtype: str, lanes: int) -> str:
    """Include a function that copies ``lanes`` columns to a panel; return its name as an operand.

    ``void name(ptr from, i64 step, i64 column, i64 columns, i64 k, ptr panel, i64 width)``: element
    ``(i, j)`` of the panel, whose rows are ``width`` long, becomes the element at ``i * step + j *
    column``; behind the last of ``columns`` it is repeated.  A column whose elements are neighbours
    (``step`` 1) is read by whole vectors, which are transposed in registers.
    """
    kind, size = llvm_type(dtype), SIZES[dtype]
    name = f"tx.pack.{dtype}"
    if name in module.declarations:
        return f"@{name}"
    module.declarations[name] = ""
    smin = module.declare("llvm.smin.i64", "i64", "i64", "i64")
    writer = FunctionWriter(
        module, f"define internal void @{name}(ptr %from, i64 %step, i64 %column, i64 %columns, "
                "i64 %k, ptr %panel, i64 %width) noinline nounwind")
    emit = writer.emit

    def at(base: str, offset: str) -> str:
        return emit(f"getelementptr inbounds {kind}, ptr {base}, i64 {offset}")

    last = emit("sub nsw i64 %columns, 1")
    numbers = [emit(f"call i64 {smin}(i64 {last}, i64 {j})") for j in range(lanes)]
    heads = [at("%from", emit(f"mul nsw i64 %column, {number}")) for number in numbers]
    adjacent = emit("icmp eq i64 %step, 1")
    blocks = emit(f"select i1 {adjacent}, i64 {emit(f'udiv i64 %k, {lanes}')}, i64 0")

    def block(now: list[str]) -> list[str]:
        place = now[1]
        for row in _transposed(writer, f"<{lanes} x {kind}>", [
                emit(f"load <{lanes} x {kind}>, ptr {at(head, now[0])}, align {size}")
                for head in heads]):
            writer.run(f"store <{lanes} x {kind}> {row}, ptr {place}, align {size * lanes}")
            place = at(place, "%width")
        return [emit(f"add nuw nsw i64 {now[0]}, {lanes}"), place]

    def single(now: list[str]) -> list[str]:
        offset = emit(f"mul nsw i64 {now[0]}, %step")
        for j, head in enumerate(heads):
            value = emit(f"load {kind}, ptr {at(head, offset)}, align {size}")
            writer.run(f"store {kind} {value}, ptr {at(now[1], str(j))}, align {size}")
        return [emit(f"add nuw nsw i64 {now[0]}, 1"), at(now[1], "%width")]

    state = writer.carry(blocks, ["i64", "ptr"], ["0", "%panel"], block)
    writer.carry(emit(f"sub nuw nsw i64 %k, {state[0]}"), ["i64", "ptr"], state, single)
    writer.run("ret void")
    writer.finish()
    module.declarations[name] = module.functions.pop()
    return f"@{name}"


def fetching(module: Module, dtype: str, width: int) -> str:
    """Include a function that prefetches rows of a panel to come; return its name as an operand.

    ``void name(ptr from, i64 step, i64 rows)``.  It asks for the last line of each row's part: what
    comes before it came with the panel in use.
    """
    kind, line = llvm_type(dtype), LINE_BYTES // SIZES[dtype]
    name = f"tx.fetch.{dtype}.{width}"
    if name in module.declarations:
        return f"@{name}"
    prefetch = module.declare("llvm.prefetch.p0", "void", "ptr", "i32", "i32", "i32")
    writer = FunctionWriter(module, f"define internal void @{name}(ptr %from, i64 %step, "
                                    "i64 %rows) noinline nounwind")

    def row(now: list[str]) -> list[str]:
        for last in range(line - 1, max(width, line), line):
            place = writer.emit(f"getelementptr {kind}, ptr {now[0]}, i64 {last}")
            writer.run(f"call void {prefetch}(ptr {place}, i32 0, i32 3, i32 1)")
        return [writer.emit(f"getelementptr {kind}, ptr {now[0]}, i64 %step")]

    writer.carry("%rows", ["ptr"], ["%from"], row)
    writer.run("ret void")
    writer.finish()
    module.declarations[name] = module.functions.pop()
    return f"@{name}"


def _transposed(writer: FunctionWriter, vector: str, rows: list[str]) -> list[str]:
    """Return the transpose of a square of vectors: log2(lanes) rounds of pairwise shuffles."""
    lanes, half = len(rows), len(rows) // 2
    low = ", ".join(f"i32 {k // 2 + lanes * (k % 2)}" for k in range(lanes))
    high = ", ".join(f"i32 {half + k // 2 + lanes * (k % 2)}" for k in range(lanes))
    for _ in range(lanes.bit_length() - 1):
        # Interleaving row i with row i + half is one round of a perfect shuffle.
        rows = [writer.emit(f"shufflevector {vector} {rows[i]}, {vector} {rows[i + half]}, "
                            f"<{lanes} x i32> <{order}>")
                for i in range(half) for order in (low, high)]
    return rows
