"""Loads and stores of vectors in LLVM IR, whole or with lanes left out.

A lane that a :class:`Mask` leaves out reads no memory, has the value 0, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..dtypes import SIZES
from .llvm_scalar import llvm_type, memory_type, suffix, vector_of
from .llvm_writer import FunctionWriter


@dataclass(frozen=True, slots=True)
class Mask:
    """Which lanes of a vector are active.

    Attributes
    ----------
    text : str or None
        Operand of type ``<lanes x i1>``; None with ``remaining``, of which it is made where it is
        needed.
    count : int or None
        How many leading lanes are active, if that is known and they are all.
    remaining : str or None
        The same as an i64 operand, which may be negative or exceed the lanes.
    full : str or None
        With ``remaining``: the i1 operand that tells whether all lanes are active.
    some : str or None
        With ``remaining``: whether any lane is active; None if one is.
    """

    text: str | None
    count: int | None = None
    remaining: str | None = None
    full: str | None = None
    some: str | None = None


def leading(lanes: int, count: int) -> Mask:
    """Return the mask of a known number of leading lanes."""
    bits = ", ".join(f"i1 {'true' if lane < count else 'false'}" for lane in range(lanes))
    return Mask(f"<{bits}>", count)


def up_to(writer: FunctionWriter, lanes: int, left: str, skipped: int) -> Mask:
    """Write the mask of a vector of which few iterations may be left.

    Parameters
    ----------
    left : str
        Operand: the iterations left from the first vector of the group on, at least 1.
    skipped : int
        Iterations of the group before this vector.
    """
    remaining = writer.emit(f"sub nsw i64 {left}, {skipped}") if skipped else left
    full = writer.emit(f"icmp sge i64 {remaining}, {lanes}")
    some = writer.emit(f"icmp sgt i64 {remaining}, 0") if skipped else None
    return Mask(None, remaining=remaining, full=full, some=some)


def bounded(writer: FunctionWriter, count: str, most: int) -> str:
    """Write the smaller of an i64 and a number."""
    function = writer.module.declare("llvm.smin.i64", "i64", "i64", "i64")
    return writer.emit(f"call i64 {function}(i64 {count}, i64 {most})")


def numbered(kind: str, numbers: Sequence[int]) -> str:
    """Return a literal vector of integers."""
    return "<" + ", ".join(f"{kind} {number}" for number in numbers) + ">"


def splat(writer: FunctionWriter, kind: str, value: str, lanes: int) -> str:
    """Write a vector with one value in all lanes."""
    vector = vector_of(kind, lanes)
    first = writer.emit(f"insertelement {vector} poison, {kind} {value}, i64 0")
    return shuffle(writer, kind, first, "poison", lanes, [0] * lanes)


def shuffle(writer: FunctionWriter, kind: str, left: str, right: str, lanes: int,
            chosen: Sequence[int]) -> str:
    """Write a choice among the elements of two vectors of ``lanes`` elements."""
    vector = f"<{lanes} x {kind}>"
    return writer.emit(f"shufflevector {vector} {left}, {vector} {right}, "
                       f"<{len(chosen)} x i32> {numbered('i32', chosen)}")


def gathered(writer: FunctionWriter, kind: str, values: Sequence[str], lanes: int,
             rest: str) -> str:
    """Write a vector from its first elements; ``rest`` is the vector of the others."""
    vector = rest
    for lane, value in enumerate(values):
        vector = writer.emit(f"insertelement <{lanes} x {kind}> {vector}, {kind} {value}, "
                             f"i64 {lane}")
    return vector


class VectorMemory:
    """Writes the accesses of vectors of ``lanes`` elements.

    Addresses are LLVM pointers to the first element.  Bools are ``i8`` in memory.
    """

    def __init__(self, writer: FunctionWriter, lanes: int):
        self.writer, self.lanes = writer, lanes
        self.buffers: dict[str, str] = {}
        self.known_flags: dict[tuple[str, str], str] = {}

    def flags(self, mask: Mask) -> str:
        """Return the operand that tells which lanes are active."""
        if mask.text is not None:
            return mask.text
        writer, kind = self.writer, vector_of("i32", self.lanes)
        known = self.known_flags.get((writer.block, mask.remaining))
        if known is None:
            least = bounded(writer, mask.remaining, self.lanes)
            limit = splat(writer, "i32", writer.emit(f"trunc i64 {least} to i32"), self.lanes)
            known = self.known_flags[writer.block, mask.remaining] = writer.emit(
                f"icmp slt {kind} {numbered('i32', range(self.lanes))}, {limit}")
        return known

    def load_group(self, dtype: str, addresses: Sequence[str], masks: Sequence[Mask | None]
                   ) -> list[str]:
        """Write the loads of vectors of consecutive elements, those of one group."""
        if masks[-1] is None:
            return [self.load(dtype, *each) for each in zip(addresses, masks)]
        results: list[list[str]] = []
        blocks: list[str] = []

        def read(are_whole: bool) -> None:
            results.append([self.load(dtype, address, None if are_whole else mask)
                            for address, mask in zip(addresses, masks)])
            blocks.append(self.writer.block)

        # Like that of the stores: a branch that goes one way but for the last time.
        self.writer.branch(masks[-1].full, lambda: read(True), lambda: read(False))
        kind = llvm_type(dtype, self.lanes)
        return [self.writer.emit(f"phi {kind} [ {whole}, %{blocks[0]} ], [ {part}, %{blocks[1]} ]")
                for whole, part in zip(*results)]

    def load(self, dtype: str, address: str, mask: Mask | None) -> str:
        """Write the load of consecutive elements."""
        writer, size, one = self.writer, SIZES[dtype], memory_type(dtype)
        kind = vector_of(one, self.lanes)
        if mask is None:
            value = writer.emit(f"load {kind}, ptr {address}, align {size}")
        elif mask.count is not None:
            part = f"<{mask.count} x {one}>"
            first = writer.emit(f"load {part}, ptr {address}, align {size}")
            # The others come from a vector of zeros.
            chosen = [min(lane, mask.count) for lane in range(self.lanes)]
            value = shuffle(writer, one, first, "zeroinitializer", mask.count, chosen)
        elif mask.full is not None and size not in writer.module.machine.masked_sizes:
            value = self._load_part(kind, size, address, mask)
        else:
            flags = self.flags(mask)
            function = self._intrinsic("load", dtype, kind, "ptr", "i32", self._flags,
                                       kind)
            value = writer.emit(f"call {kind} {function}(ptr {address}, i32 {size}, "
                                f"{self._flags} {flags}, {kind} zeroinitializer)")
        return self._in_registers(dtype, value)

    def store(self, dtype: str, addresses: Sequence[str], values: Sequence[str],
              masks: Sequence[Mask | None], streams: str | None = None) -> None:
        """Write the stores of vectors of consecutive elements, those of one group.

        Parameters
        ----------
        streams : str, optional
            Operand that tells whether whole vectors go past the caches: they are aligned then.
        """
        values = [self._in_memory(dtype, value) for value in values]

        def write(are_whole: bool) -> None:
            if streams is not None and (are_whole or not any(masks)):
                self.writer.branch(streams, lambda: past_caches(), lambda: plain(are_whole))
            else:
                plain(are_whole)

        def plain(are_whole: bool) -> None:
            for address, value, mask in zip(addresses, values, masks):
                self._store(dtype, address, value, None if are_whole else mask)

        def past_caches() -> None:
            kind = vector_of(memory_type(dtype), self.lanes)
            hint = self.writer.module.nontemporal()
            for address, value in zip(addresses, values):
                self.writer.run(f"store {kind} {value}, ptr {address}, "
                                f"align {self.lanes * SIZES[dtype]}, !nontemporal {hint}")

        last = masks[-1]
        if last is None or last.full is None:
            write(False)
        else:
            # A branch that goes one way but for the last time costs less than masked stores.  One
            # for all: LLVM moves what only a later block uses there, one vector after the other.
            self.writer.branch(last.full, lambda: write(True), lambda: write(False))

    def _store(self, dtype: str, address: str, value: str, mask: Mask | None) -> None:
        writer, size, one = self.writer, SIZES[dtype], memory_type(dtype)
        kind = vector_of(one, self.lanes)
        if mask is None:
            writer.run(f"store {kind} {value}, ptr {address}, align {size}")
        elif mask.count is not None:
            first = shuffle(writer, one, value, "poison", self.lanes, range(mask.count))
            writer.run(f"store <{mask.count} x {one}> {first}, ptr {address}, align {size}")
        elif mask.full is None or size in writer.module.machine.masked_sizes:
            flags = self.flags(mask)
            function = self._intrinsic("store", dtype, "void", kind, "ptr", "i32", self._flags)
            writer.run(f"call void {function}({kind} {value}, ptr {address}, i32 {size}, "
                       f"{self._flags} {flags})")
        else:
            buffer = self._buffer(kind)
            writer.run(f"store {kind} {value}, ptr {buffer}, align {size}")
            self._copy(address, buffer, size, mask)

    def gather(self, dtype: str, addresses: Callable[[int], str], mask: Mask | None) -> str:
        """Write the load of elements anywhere; ``addresses`` gives a lane's."""
        writer, size, one = self.writer, SIZES[dtype], memory_type(dtype)
        kind = vector_of(one, self.lanes)
        if mask is None or mask.count is not None:
            # A load a lane is as fast as a gather on most processors, and faster on many.
            count = self.lanes if mask is None else mask.count
            loaded = [writer.emit(f"load {one}, ptr {addresses(lane)}, align {size}")
                      for lane in range(count)]
            rest = "poison" if mask is None else "zeroinitializer"
            value = gathered(writer, one, loaded, self.lanes, rest)
        else:
            pointers, flags = self._pointers(addresses), self.flags(mask)
            places = vector_of("ptr", self.lanes)
            function = self._intrinsic("gather", dtype, kind, places, "i32", self._flags, kind)
            value = writer.emit(f"call {kind} {function}({places} {pointers}, i32 {size}, "
                                f"{self._flags} {flags}, {kind} zeroinitializer)")
        return self._in_registers(dtype, value)

    def scatter(self, dtype: str, addresses: Callable[[int], str], value: str,
                mask: Mask | None) -> None:
        """Write the store of elements anywhere, in the order of the lanes."""
        writer, size, one = self.writer, SIZES[dtype], memory_type(dtype)
        kind = vector_of(one, self.lanes)
        value = self._in_memory(dtype, value)
        if mask is None or mask.count is not None:
            for lane in range(self.lanes if mask is None else mask.count):
                element = writer.emit(f"extractelement {kind} {value}, i64 {lane}")
                writer.run(f"store {one} {element}, ptr {addresses(lane)}, align {size}")
            return
        pointers, flags = self._pointers(addresses), self.flags(mask)
        places = vector_of("ptr", self.lanes)
        function = self._intrinsic("scatter", dtype, "void", kind, places, "i32", self._flags)
        writer.run(f"call void {function}({kind} {value}, {places} {pointers}, i32 {size}, "
                   f"{self._flags} {flags})")

    def last(self, dtype: str, value: str, mask: Mask | None) -> str:
        """Write the element of the last active lane; the active ones must lead."""
        writer = self.writer
        lane = str(self.lanes - 1)
        if mask is not None and mask.count is not None:
            lane = str(mask.count - 1)
        elif mask is not None:
            lane = writer.emit(f"sub i64 {bounded(writer, mask.remaining, self.lanes)}, 1")
        return writer.emit(f"extractelement {llvm_type(dtype, self.lanes)} {value}, i64 {lane}")

    @property
    def _flags(self) -> str:
        return vector_of("i1", self.lanes)

    def _intrinsic(self, name: str, dtype: str, result: str, *arguments: str) -> str:
        """Declare a masked access; return its name."""
        memory = suffix("int8" if dtype == "bool" else dtype, self.lanes)
        pointer = f"v{self.lanes}p0" if name in ("gather", "scatter") else "p0"
        return self.writer.module.declare(
            f"llvm.masked.{name}.{memory}.{pointer}", result, *arguments)

    def _pointers(self, addresses: Callable[[int], str]) -> str:
        return gathered(self.writer, "ptr", [addresses(lane) for lane in range(self.lanes)],
                        self.lanes, "poison")

    def _load_part(self, kind: str, size: int, address: str, mask: Mask) -> str:
        """Write a load where the processor has none with a mask: the last one through a buffer."""
        writer = self.writer
        results: list[tuple[str, str]] = []

        def whole() -> None:
            loaded = writer.emit(f"load {kind}, ptr {address}, align {size}")
            results.append((loaded, writer.block))

        def part() -> None:
            buffer = self._buffer(kind)
            writer.run(f"store {kind} zeroinitializer, ptr {buffer}, align {size}")
            self._copy(buffer, address, size, mask)
            loaded = writer.emit(f"load {kind}, ptr {buffer}, align {size}")
            results.append((loaded, writer.block))

        writer.branch(mask.full, whole, part)
        return writer.emit(f"phi {kind} " + ", ".join(
            f"[ {value}, %{block} ]" for value, block in results))

    def _copy(self, target: str, source: str, size: int, mask: Mask) -> None:
        """Write the copy of the active elements."""
        count = mask.remaining
        if mask.some is not None:
            function = self.writer.module.declare("llvm.smax.i64", "i64", "i64", "i64")
            count = self.writer.emit(f"call i64 {function}(i64 {count}, i64 0)")
        count = self.writer.emit(f"mul nuw nsw i64 {count}, {size}")
        memcpy = self.writer.module.declare(
            "llvm.memcpy.p0.p0.i64", "void", "ptr", "ptr", "i64", "i1")
        self.writer.run(f"call void {memcpy}(ptr {target}, ptr {source}, i64 {count}, i1 false)")

    def _buffer(self, kind: str) -> str:
        """Return stack for one vector."""
        if kind not in self.buffers:
            self.buffers[kind] = self.writer.alloca(kind)
        return self.buffers[kind]

    def _in_registers(self, dtype: str, value: str) -> str:
        if dtype != "bool":
            return value
        kind = memory_type(dtype, self.lanes)
        return self.writer.emit(f"icmp ne {kind} {value}, zeroinitializer")

    def _in_memory(self, dtype: str, value: str) -> str:
        if dtype != "bool":
            return value
        return self.writer.emit(f"zext {self._flags} {value} to {memory_type(dtype, self.lanes)}")
