"""The building block of every dense product: micro-kernels and packing, in LLVM IR.

A *micro-kernel* keeps a tile of the product, ``rows`` by ``vectors`` vector registers, in registers
while it walks the inner axis::

    C[0:rows, 0:vectors*lanes] (+)= sum_k.. A[0:rows, k..] B[k.., 0:vectors*lanes]

and does so for one tile after the other, down a column of tiles.  Elements of A are broadcast from
memory, at any stride, so that a transposed operand is only other strides; several inner axes are
nested loops around the same totals.  Where each row of A and of C begins is read from a *table*:
rows may be those of many matrices, and a tile that would reach beyond the last row computes that
one several times.

Rows of B are loaded as vectors: from where B lies, or from a *panel*, a copy of ``vectors*lanes``
columns whose rows follow each other (one stream of cache lines, instead of a line of each row).
The first tile of a column of tiles copies the panel while it works, which costs next to nothing:
its stores wait for no arithmetic unit.

Each micro-kernel is a function of its own, shared by all products of a module.

References
----------
Goto, van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34 (2008).
Georganas et al., "Harnessing Deep Learning via a Single Building Block", IPDPS 2020.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ..dtypes import SIZES
from .llvm_scalar import cast_half, llvm_type
from .llvm_transpose import BLOCK, transposed
from .llvm_vector_memory import gathered, splat
from .llvm_writer import KERNEL_ATTRIBUTES, FunctionWriter, Module

Source = Literal["direct", "packing", "packed"]


class Tile(NamedTuple):
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
    masks : int
        How many of the vectors, the last ones, may have lanes beyond the last column.
    depth : int
        Number of inner axes.
    left, right : str
        dtypes of A and B where they are not that of C: halves, converted as they are loaded (a
        panel holds what was converted).
    """

    dtype: str
    lanes: int
    rows: int
    vectors: int
    source: Source = "direct"
    masks: int = 0
    depth: int = 1
    left: str = ""
    right: str = ""

    @property
    def columns(self) -> int:
        """Columns of a full tile."""
        return self.vectors * self.lanes

    @property
    def name(self) -> str:
        """The function's name in its module."""
        marks = (f"{self.masks}masked." if self.masks else "") \
            + (f"{self.depth}deep." if self.depth > 1 else "")
        operands = "".join(f"{side}.{kind}." for side, kind in (
            ("left", self.left), ("right", self.right)) if kind)
        return f"tx.gemm.{self.dtype}.{operands}{self.rows}x{self.columns}.{marks}{self.source}"


def parameters(depth: int) -> tuple[str, ...]:
    """Return the parameters of a micro-kernel.

    The table's entries are pairs of offsets, in bytes, from ``a`` and from ``c``; there are
    ``rows`` of them for each of ``count`` tiles, and as many again.  ``add`` asks to add to C what
    was computed; ``columns`` counts them where the tile masks.  Of each inner axis, the outermost
    first, there are the number of steps and the strides of A and B, in elements.
    """
    return ("ptr %table", "i64 %count", "ptr %a", "ptr %b", "ptr %panel", "ptr %c", "i1 %add",
            "i64 %columns",
            *(f"i64 %{name}{axis}" for axis in range(depth) for name in ("k", "a.step", "b.step")))


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
        self.left, self.right = tile.left or tile.dtype, tile.right or tile.dtype
        self.writer = FunctionWriter(
            module, f"define void @{tile.name}({', '.join(parameters(tile.depth))}) "
                    f"{KERNEL_ATTRIBUTES}")
        self.states = ["ptr", "ptr", "ptr", *[self.vector] * (tile.rows * tile.vectors)]
        self.masks = [self._mask(v) if v >= tile.vectors - tile.masks else ""
                      for v in range(tile.vectors)]

    def text(self) -> str:
        """Write the function."""
        writer = self.writer
        writer.carry("%count", ["ptr"], ["%table"], self._tile)
        writer.run("ret void")
        writer.finish()
        return writer.module.functions.pop()

    def _tile(self, now: list[str]) -> list[str]:
        """Write the work on one tile; return the next one's place in the table."""
        table, rows, writer = now[0], self.tile.rows, self.writer
        a_rows = [self._offset(table, 2 * row) for row in range(rows)]
        places = self._places([self._offset(table, 2 * row + 1) for row in range(rows)])
        start = ["%a", "%b", "%panel", *["zeroinitializer"] * len(places)]
        totals = self._walk(0, start, a_rows)[3:]
        writer.branch("%add", lambda: self._store(self._added(totals, places), places),
                      lambda: self._store(totals, places))
        return [writer.emit(f"getelementptr inbounds i64, ptr {table}, i64 {2 * rows}")]

    def _offset(self, table: str, number: int) -> str:
        slot = self.writer.emit(f"getelementptr inbounds i64, ptr {table}, i64 {number}")
        return self.writer.emit(f"load i64, ptr {slot}, align 8")

    def _walk(self, axis: int, start: list[str], a_rows: list[str]) -> list[str]:
        """Write the loops over the inner axes from ``axis`` on; return the last state."""
        def step(now: list[str]) -> list[str]:
            is_last = axis + 1 == self.tile.depth
            later = self._step(now, a_rows) if is_last else self._walk(axis + 1, now, a_rows)
            b = now[1] if self.tile.source == "packed" else self._at(
                now[1], f"%b.step{axis}", self.right)
            # The panel's rows follow each other, whatever axes they belong to.
            return [self._at(now[0], f"%a.step{axis}", self.left), b, *later[2:]]

        return self.writer.carry(f"%k{axis}", self.states, start, step)

    def _mask(self, v: int) -> str:
        """Write which lanes of vector ``v`` are columns of the product: a vector of integers, minus
        one or zero.

        It comes from memory.  A comparison would be repeated in the loop, as what LLVM can tell
        about it is worth less there than a register that can be used as it is.
        """
        emit, lanes, bits = self.writer.emit, self.tile.lanes, 8 * SIZES[self.tile.dtype]
        name = f"tx.gemm.lanes.{self.tile.dtype}"
        values = ", ".join([f"i{bits} -1"] * lanes + [f"i{bits} 0"] * lanes)
        self.writer.module.declarations[name] = \
            f"@{name} = internal constant [{2 * lanes} x i{bits}] [{values}]"
        bounds = [self.writer.module.declare(f"llvm.s{kind}.i64", "i64", "i64", "i64")
                  for kind in ("max", "min")]
        missing = emit(f"sub nsw i64 {(v + 1) * lanes}, %columns")
        first = emit(f"call i64 {bounds[0]}(i64 {missing}, i64 0)")
        first = emit(f"call i64 {bounds[1]}(i64 {first}, i64 {lanes})")
        place = emit(f"getelementptr i{bits}, ptr @{name}, i64 {first}")
        return emit(f"load <{lanes} x i{bits}>, ptr {place}, align {bits // 8}")

    def _lanes(self, v: int) -> str:
        """Write the condition of masked loads and stores of vector ``v``."""
        lanes, bits = self.tile.lanes, 8 * SIZES[self.tile.dtype]
        return self.writer.emit(
            f"icmp slt <{lanes} x i{bits}> {self.masks[v]}, zeroinitializer")

    def _at(self, base: str, offset: str | int, dtype: str = "") -> str:
        if offset in (0, "0"):
            return base
        kind = llvm_type(dtype) if dtype else self.kind
        return self.writer.emit(f"getelementptr inbounds {kind}, ptr {base}, i64 {offset}")

    def _load(self, address: str, v: int, aligned: bool = False, masked: bool = True) -> str:
        size = SIZES[self.tile.dtype]
        if self.masks[v] and masked:
            load = self.writer.module.declare(
                f"llvm.masked.load.{self.suffix}.p0", self.vector, "ptr", "i32",
                f"<{self.tile.lanes} x i1>", self.vector)
            return self.writer.emit(
                f"call {self.vector} {load}(ptr {address}, i32 {size}, "
                f"<{self.tile.lanes} x i1> {self._lanes(v)}, {self.vector} zeroinitializer)")
        align = size * self.tile.lanes if aligned else size
        return self.writer.emit(f"load {self.vector}, ptr {address}, align {align}")

    def _step(self, now: list[str], a_rows: list[str]) -> list[str]:
        """Write one step along the innermost axis; return the state but for A's and B's addresses,
        which the caller moves."""
        writer, tile = self.writer, self.tile
        a, b, panel, totals = now[0], now[1], now[2], now[3:]
        vectors = [self._b_vector(b, panel, v) for v in range(tile.vectors)]
        fma = writer.module.declare(f"llvm.fmuladd.{self.suffix}", self.vector,
                                    *[self.vector] * 3)
        following = []
        for row, offset in enumerate(a_rows):
            element = self._a_element(a, offset)
            for v, vector in enumerate(vectors):
                following.append(writer.emit(
                    f"call {self.vector} {fma}({self.vector} {element}, {self.vector} {vector}, "
                    f"{self.vector} {totals[row * tile.vectors + v]})"))
        following_panel = panel if tile.source == "direct" else self._at(panel, tile.columns)
        return [a, b, following_panel, *following]

    def _b_vector(self, b: str, panel: str, v: int) -> str:
        """Write the load of vector ``v`` of a row of B, and its copy to the panel."""
        column, size = v * self.tile.lanes, SIZES[self.tile.dtype]
        if self.tile.source == "packed":
            return self._load(self._at(panel, column), v, aligned=True, masked=False)
        if self.tile.right:
            vector = load_converted(self.writer, self._at(b, column, self.right), self.right,
                                    self.tile.dtype, self.tile.lanes)
        else:
            vector = self._load(self._at(b, column), v)
        if self.tile.source == "packing":
            self.writer.run(f"store {self.vector} {vector}, ptr {self._at(panel, column)}, "
                            f"align {size * self.tile.lanes}")
        return vector

    def _a_element(self, a: str, offset: str) -> str:
        """Write the load of an element of A into every lane of a vector."""
        emit, tile, kind = self.writer.emit, self.tile, llvm_type(self.left)
        place = emit(f"getelementptr i8, ptr {a}, i64 {offset}")
        element = emit(f"load {kind}, ptr {place}, align {SIZES[self.left]}")
        every = splat(self.writer, kind, element, tile.lanes)
        return cast_half(self.writer, tile.left, tile.dtype, every, tile.lanes) if tile.left \
            else every

    def _places(self, offsets: list[str]) -> list[str]:
        """Write the addresses of the tile's vectors in C."""
        rows = [self.writer.emit(f"getelementptr i8, ptr %c, i64 {offset}") for offset in offsets]
        return [self._at(row, v * self.tile.lanes) for row in rows
                for v in range(self.tile.vectors)]

    def _added(self, totals: list[str], places: list[str]) -> list[str]:
        # All loads come before any store: a row may be stored more than once.
        return [self.writer.emit(
            f"fadd {self.vector} {self._load(place, k % self.tile.vectors)}, {total}")
            for k, (total, place) in enumerate(zip(totals, places))]

    def _store(self, totals: list[str], places: list[str]) -> None:
        """Write the stores of a tile.

        Some processors take ten cycles for a masked one.  So where several vectors may have lanes
        beyond the last column, those that have none are stored without.
        """
        vectors = self.tile.vectors
        for v in range(vectors):
            column = list(zip(totals[v::vectors], places[v::vectors]))
            if self.tile.masks < 2 or not self.masks[v]:
                self._store_column(column, self._lanes(v) if self.masks[v] else "")
                continue
            is_whole = self.writer.emit(f"icmp sge i64 %columns, {(v + 1) * self.tile.lanes}")
            self.writer.branch(is_whole, lambda: self._store_column(column, ""),
                               lambda: self._store_column(column, self._lanes(v)))

    def _store_column(self, column: list[tuple[str, str]], mask: str) -> None:
        """Write the stores of one vector of each row."""
        tile, size = self.tile, SIZES[self.tile.dtype]
        for total, place in column:
            if mask:
                store = self.writer.module.declare(
                    f"llvm.masked.store.{self.suffix}.p0", "void", self.vector, "ptr", "i32",
                    f"<{tile.lanes} x i1>")
                self.writer.run(f"call void {store}({self.vector} {total}, ptr {place}, "
                                f"i32 {size}, <{tile.lanes} x i1> {mask})")
            else:
                self.writer.run(f"store {self.vector} {total}, ptr {place}, align {size}")


# -- tables of rows --------------------------------------------------------------------------------

def tabulating(module: Module) -> str:
    """Include a function that writes entries of a table; return its name as an operand.

    ``void name(ptr table, i64 count, i64 a, i64 a.step, i64 c, i64 c.step)``.
    """
    name = "tx.gemm.rows"
    if name in module.declarations:
        return f"@{name}"
    writer = FunctionWriter(module, f"define void @{name}(ptr %table, i64 %count, i64 %a, "
                                    f"i64 %a.step, i64 %c, i64 %c.step) {KERNEL_ATTRIBUTES}")

    def entry(now: list[str]) -> list[str]:
        place, a, c = now
        second = writer.emit(f"getelementptr inbounds i64, ptr {place}, i64 1")
        writer.run(f"store i64 {a}, ptr {place}, align 8")
        writer.run(f"store i64 {c}, ptr {second}, align 8")
        return [writer.emit(f"getelementptr inbounds i64, ptr {place}, i64 2"),
                writer.emit(f"add nsw i64 {a}, %a.step"), writer.emit(f"add nsw i64 {c}, %c.step")]

    writer.carry("%count", ["ptr", "i64", "i64"], ["%table", "%a", "%c"], entry)
    writer.run("ret void")
    writer.finish()
    module.declarations[name] = module.functions.pop()
    return f"@{name}"


# -- halves ----------------------------------------------------------------------------------------

def load_converted(writer: FunctionWriter, address: str, source: str, target: str, lanes: int
                   ) -> str:
    """Write the load of a vector of halves, as another dtype."""
    size = SIZES[source]
    halves = writer.emit(f"load {llvm_type(source, lanes)}, ptr {address}, align {size}")
    return cast_half(writer, source, target, halves, lanes)


# -- copying panels --------------------------------------------------------------------------------

def packing(module: Module, dtype: str, lanes: int, source: str = "") -> str:
    """Include a function that copies ``lanes`` columns to a panel; return its name as an operand.

    ``void name(ptr from, i64 step, i64 column, i64 columns, i64 k, ptr panel, i64 width)``: element
    ``(i, j)`` of the panel, whose rows are ``width`` long, becomes the element at ``i * step + j *
    column``; behind the last of ``columns`` it is repeated.  A column whose elements are neighbours
    (``step`` 1) is read by whole vectors, which are transposed in registers.  ``source`` is the
    columns' dtype where it is not the panel's: a half.
    """
    kind, size = llvm_type(dtype), SIZES[dtype]
    own, own_size = llvm_type(source or dtype), SIZES[source or dtype]
    name = f"tx.pack.{dtype}" + (f".{source}" if source else "")
    if name in module.declarations:
        return f"@{name}"
    module.declarations[name] = ""
    smin = module.declare("llvm.smin.i64", "i64", "i64", "i64")
    writer = FunctionWriter(
        module, f"define void @{name}(ptr %from, i64 %step, i64 %column, i64 %columns, "
                f"i64 %k, ptr %panel, i64 %width) {KERNEL_ATTRIBUTES}")
    emit = writer.emit

    def at(base: str, offset: str, kind: str = kind) -> str:
        return emit(f"getelementptr inbounds {kind}, ptr {base}, i64 {offset}")

    last = emit("sub nsw i64 %columns, 1")
    numbers = [emit(f"call i64 {smin}(i64 {last}, i64 {j})") for j in range(lanes)]
    heads = [at("%from", emit(f"mul nsw i64 %column, {number}"), own) for number in numbers]
    adjacent = emit("icmp eq i64 %step, 1")
    blocks = emit(f"select i1 {adjacent}, i64 {emit(f'udiv i64 %k, {lanes}')}, i64 0")

    def block(now: list[str]) -> list[str]:
        place = now[1]
        columns = [emit(f"load <{lanes} x {own}>, ptr {at(head, now[0], own)}, align {own_size}")
                   for head in heads]
        if source:
            columns = [cast_half(writer, source, dtype, column, lanes) for column in columns]
        for row in transposed(writer, kind, columns, BLOCK // size):
            writer.run(f"store <{lanes} x {kind}> {row}, ptr {place}, align {size * lanes}")
            place = at(place, "%width")
        return [emit(f"add nuw nsw i64 {now[0]}, {lanes}"), place]

    def single(now: list[str]) -> list[str]:
        offset = emit(f"mul nsw i64 {now[0]}, %step")
        values = [emit(f"load {own}, ptr {at(head, offset, own)}, align {own_size}")
                  for head in heads]
        row = gathered(writer, own, values, lanes, "poison")
        if source:
            row = cast_half(writer, source, dtype, row, lanes)
        writer.run(f"store <{lanes} x {kind}> {row}, ptr {now[1]}, align {size * lanes}")
        return [emit(f"add nuw nsw i64 {now[0]}, 1"), at(now[1], "%width")]

    state = writer.carry(blocks, ["i64", "ptr"], ["0", "%panel"], block)
    writer.carry(emit(f"sub nuw nsw i64 %k, {state[0]}"), ["i64", "ptr"], state, single)
    writer.run("ret void")
    writer.finish()
    module.declarations[name] = module.functions.pop()
    return f"@{name}"
