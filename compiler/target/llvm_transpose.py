"""Functions that read some rows of a matrix as columns, and write columns back as rows.

``void @name(ptr rows, i64 stride, ptr columns, i64 pitch, i64 count)``: the rows begin ``stride``
elements after one another, the columns ``pitch`` elements; a column is a vector with an element of
each row.  The rows are read in blocks of 16 bytes, which is what processors transpose in a few
shuffles.  Of a vector of rows that is not full, ``count`` are moved one element after the other;
the rest of a column is then 0.
"""

from __future__ import annotations

from collections.abc import Callable

from ..dims import Symbol, as_dim
from ..dtypes import SIZES
from .llvm_scalar import memory_type, suffix, vector_of
from .llvm_vector_memory import shuffle
from .llvm_writer import FunctionWriter, Module

BLOCK = 16
"""Bytes of a row that are moved together."""


def mover(module: Module, dtype: str, lanes: int, length: int, reads: bool) -> str:
    """Include the function that moves rows of a length; return its name.

    Parameters
    ----------
    module : Module
    dtype : str
        Of 4 or 8 bytes.
    lanes : int
        Rows.
    length : int
        Columns.
    reads : bool
        Whether rows become columns.
    """
    name = f"tx.{'read' if reads else 'write'}.rows.{suffix(dtype, lanes)}.{length}"
    if name not in module.declarations:
        module.declarations[name] = _Mover(module, name, dtype, lanes, length, reads).text()
    return f"@{name}"


def transposed(writer: FunctionWriter, kind: str, rows: list[str], near: int) -> list[str]:
    """Write the transpose of a square of vectors.

    Elements move within groups of ``near`` first, then whole groups: shuffles within 16 bytes, and
    of such parts, are single instructions on processors whose vectors are longer.
    """
    lanes, near = len(rows), min(near, len(rows))
    groups = [transposed_blocks(writer, kind, rows[first:first + near], lanes)
              for first in range(0, lanes, near)]
    columns = [transposed_blocks(writer, kind, [group[k] for group in groups], lanes, near)
               for k in range(near)]
    return [columns[k % near][k // near] for k in range(lanes)]


def transposed_blocks(writer: FunctionWriter, kind: str, rows: list[str], lanes: int, size: int = 1
                      ) -> list[str]:
    """Write the transposes of squares that lie side by side in some vectors.

    Parameters
    ----------
    rows : list of str
        As many vectors as a square has rows, a power of two.
    size : int
        Elements that move as one.

    Returns
    -------
    list of str
        Made in log2(rows) rounds, each of which interleaves row i with row i + half.
    """
    half, square = len(rows) // 2, len(rows) * size
    orders = []
    for first in (0, half):
        chosen = []
        for lane in range(lanes):
            block, inside = lane % square // size, lane % size
            chosen.append(lane // square * square + (first + block // 2) * size + inside
                          + lanes * (block % 2))
        orders.append(chosen)
    for _ in range(len(rows).bit_length() - 1):
        rows = [shuffle(writer, kind, rows[i], rows[i + half], lanes, order)
                for i in range(half) for order in orders]
    return rows


class _Mover:
    """One function being written."""

    def __init__(self, module: Module, name: str, dtype: str, lanes: int, length: int, reads: bool):
        self.kind, self.size = memory_type(dtype), SIZES[dtype]
        self.lanes, self.length, self.reads = lanes, length, reads
        self.block = min(BLOCK // self.size, lanes)
        self.vector = vector_of(self.kind, lanes)
        self.module = module
        self.writer = FunctionWriter(
            module, f"define internal void @{name}(ptr %rows, i64 %stride, ptr %columns, "
                    "i64 %pitch, i64 %count) noinline nounwind")

    def text(self) -> str:
        """Return the function."""
        writer = self.writer
        full = writer.emit(f"icmp sge i64 %count, {self.lanes}")
        writer.branch(full, self.whole, self.part)
        writer.run("ret void")
        writer.finish()
        return self.module.functions.pop()

    def address(self, base: str, pitch: str, number: str, element: str) -> str:
        """Write the address of an element of a row or column."""
        writer = self.writer
        start = writer.emit(f"mul nsw i64 {pitch}, {number}")
        at = writer.emit(f"add nsw i64 {start}, {element}")
        return writer.emit(f"getelementptr {self.kind}, ptr {base}, i64 {at}")

    def whole(self) -> None:
        """Write the move of a full vector of rows."""
        count, rest = divmod(self.length, self.block)
        column = Symbol("column")
        self.writer.loop(
            column, "0", str(count * self.block),
            lambda: self.columns(self.writer.dim(as_dim(column)), self.block), step=self.block)
        if rest:
            self.columns(str(count * self.block), rest)

    def columns(self, first: str, count: int) -> None:
        """Write the move of ``count`` columns, at most a block."""
        writer = self.writer
        places = [writer.emit(f"getelementptr {self.kind}, ptr {self.row(row)}, i64 {first}")
                  for row in range(self.lanes)]
        numbers = [writer.emit(f"add i64 {first}, {number}") for number in range(count)]
        columns = [self.address("%columns", "%pitch", number, "0") for number in numbers]
        part = vector_of(self.kind, count)
        if self.reads:
            read = [writer.emit(f"load {part}, ptr {place}, align {self.size}") for place in places]
            blocks = [self.widened(one, count) for one in read]
            rows = [self.joined(blocks[number::self.block]) for number in range(self.block)]
            moved = transposed_blocks(writer, self.kind, rows, self.lanes)
            for address, value in zip(columns, moved):
                writer.run(f"store {self.vector} {value}, ptr {address}, align {self.size}")
            return
        values = [writer.emit(f"load {self.vector}, ptr {address}, align {self.size}")
                  for address in columns] + ["poison"] * (self.block - count)
        rows = transposed_blocks(writer, self.kind, values, self.lanes)
        for number, place in enumerate(places):
            group, within = divmod(number, self.block)
            start = group * self.block
            value = self.narrowed(rows[within], start, count)
            writer.run(f"store {part} {value}, ptr {place}, align {self.size}")

    def row(self, number: int) -> str:
        """Write the address of a row."""
        return self.address("%rows", "%stride", str(number), "0")

    def widened(self, value: str, count: int) -> str:
        """Write a block with ``count`` elements; the others do not matter."""
        if count == self.block:
            return value
        if count == 1:
            return self.writer.emit(f"insertelement {vector_of(self.kind, self.block)} poison, "
                                    f"{self.kind} {value}, i64 0")
        chosen = [min(lane, count - 1) for lane in range(self.block)]
        return shuffle(self.writer, self.kind, value, "poison", count, chosen)

    def narrowed(self, vector: str, start: int, count: int) -> str:
        """Write ``count`` elements of a vector from ``start`` on."""
        if count == 1:
            return self.writer.emit(f"extractelement {self.vector} {vector}, i64 {start}")
        return shuffle(self.writer, self.kind, vector, "poison", self.lanes,
                       range(start, start + count))

    def joined(self, blocks: list[str]) -> str:
        """Write the blocks as one vector."""
        width = self.block
        while len(blocks) > 1:
            blocks = [shuffle(self.writer, self.kind, *pair, width, range(2 * width))
                      for pair in zip(blocks[::2], blocks[1::2])]
            width *= 2
        return blocks[0]

    def part(self) -> None:
        """Write the move of fewer rows than a vector has, element after element."""
        writer, row, column = self.writer, Symbol("row"), Symbol("column")
        least = writer.module.declare("llvm.smax.i64", "i64", "i64", "i64")
        count = writer.emit(f"call i64 {least}(i64 %count, i64 0)")

        def at(*symbols: Symbol) -> list[str]:
            return [writer.dim(as_dim(symbol)) for symbol in symbols]

        def move() -> None:
            place = self.address("%rows", "%stride", *at(row, column))
            other = self.address("%columns", "%pitch", *at(column, row))
            source, target = (place, other) if self.reads else (other, place)
            value = writer.emit(f"load {self.kind}, ptr {source}, align {self.size}")
            writer.run(f"store {self.kind} {value}, ptr {target}, align {self.size}")

        def clear() -> None:
            other = self.address("%columns", "%pitch", *at(column, row))
            writer.run(f"store {self.kind} zeroinitializer, ptr {other}, align {self.size}")

        def over_columns(body: Callable[[], None]) -> None:
            writer.loop(column, "0", str(self.length), body)

        writer.loop(row, "0", count, lambda: over_columns(move))
        if self.reads:
            writer.loop(row, count, str(self.lanes), lambda: over_columns(clear))
