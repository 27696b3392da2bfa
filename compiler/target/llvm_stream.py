"""Which results are written past the caches, and the code that decides it for each call.

An ordinary store reads the line it changes and leaves it in a cache.  A result that is larger than
the share of the last cache that a function can count on has gone from there before anybody reads
it, so reading its lines was in vain, and so was driving others out: a *non-temporal* store does
neither.  Three things must hold.  The result is written once and read by nobody in the same call;
it is large, which is known at run time where sizes are; and whole cache lines are written, which
depends on where the array and its rows lie: each loop asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..dims import DimLike, Symbol, modulo, substitute, symbols_of
from ..dtypes import SIZES
from ..loop.ir import Buffer, For, Nest, Stmt, Store
from ..loop.walk import bound_symbols, buffers_read, statements, target_access
from ..program import Program, reads_of, writes_of
from .llvm_machine import Machine
from .llvm_values import Values
from .llvm_vector_plan import slope
from .llvm_writer import FunctionWriter

LARGE = 7 / 16
"""Share of the last cache from which on a result is large.  Measured with 32 MB (Zen 3): past
the caches a result of 8 MB takes 1.0 to 1.4 times as long, one of 12 MB 0.8 to 1.2 times, from
16 MB on 0.6 to 0.8 times; on two threads 0.5 to 0.8 times from 12 MB on."""

COMPUTED = 50.0
"""Scalar operations for an element from which on a loop does not wait for memory."""

LINE = 64
"""Bytes of a cache line.  Only whole ones are written past the caches: where ordinary stores write
the rest of a line, the processor waits for the memory (200 ns)."""

SHORTEST_ROW, SHORTEST_UNEVEN_ROW = 256, 768
"""Elements of a row from which on it may be worth writing it so; more where rows start anywhere in
a line, since both of their ends are written as usual."""

SHORTEST_VECTOR = 16
"""Bytes of the shortest vector that processors store past the caches."""


def write_only(program: Program) -> frozenset[Buffer]:
    """Return the results of a program that one step writes and none reads."""
    read = {buffer.root() for step in program.steps for buffer in reads_of(step)}
    written = Counter(buffer.root() for step in program.steps
                      for buffer in dict.fromkeys(map(Buffer.root, writes_of(step))))
    return frozenset(root for root, count in written.items()
                     if root.role == "output" and count == 1 and root not in read)


def streamed(nest: Nest, machine: Machine) -> dict[Buffer, DimLike]:
    """Return the buffers that a nest may write past the caches, with the bytes it writes."""
    if nest.cost > COMPUTED or not machine.is_optimised:
        return {}
    read = {buffer.root() for buffer in buffers_read(nest)}
    stores = Counter(access[0].root() for stmt in statements(nest.body)
                     if (access := target_access(stmt)) is not None)
    sizes: dict[Buffer, DimLike] = {}
    _collect(nest.body, 1, bound_symbols(nest), sizes)
    return {root: size for root, size in sizes.items()
            if root not in read and stores[root] == 1
            and not (isinstance(size, int) and size < LARGE * machine.last_cache)}


def _collect(body: tuple[Stmt, ...], trips: DimLike, inner: set[Symbol],
             sizes: dict[Buffer, DimLike]) -> None:
    """Note the bytes that the stores in a body write, as numbers of iterations.

    The dims of a buffer are no parameters of a kernel; the extents of loops are.  Where these
    depend on what the nest itself binds, the size is not known in time.
    """
    for stmt in body:
        if isinstance(stmt, For) and not symbols_of(stmt.extent) & inner:
            _collect(stmt.body, trips * stmt.extent, inner, sizes)
        elif isinstance(stmt, Store) and stmt.buffer.dtype != "bool":
            sizes[stmt.buffer.root()] = trips * SIZES[stmt.buffer.dtype]


def are_large(writer: FunctionWriter, sizes: dict[Buffer, DimLike], past: str) -> dict[Buffer, str]:
    """Write, for each buffer, whether it should be written past the caches.

    Parameters
    ----------
    sizes : dict of Buffer to dim
        Of :func:`streamed`.
    past : str
        Operand whose bits tell which of them nobody reads in the same call.
    """
    least = int(LARGE * writer.module.machine.last_cache)
    found = {}
    for bit, (root, size) in enumerate(sizes.items()):
        chosen = writer.emit(f"icmp ne i64 {writer.emit(f'and i64 {past}, {1 << bit}')}, 0")
        if not isinstance(size, int):
            large = writer.emit(f"icmp sge i64 {writer.dim(size)}, {least}")
            chosen = writer.emit(f"and i1 {chosen}, {large}")
        found[root] = chosen
    return found


@dataclass(frozen=True, slots=True)
class Stream:
    """A store of consecutive elements by a vector loop, which may go past the caches.

    Attributes
    ----------
    buffer : Buffer
        Its root.
    row : dim
        Where the loop's iteration 0 is, in elements.
    size : int
        Bytes of an element.
    large : str
        Operand: whether the result is large.
    """

    buffer: Buffer
    row: DimLike
    size: int
    large: str

    @property
    def is_even(self) -> bool:
        """Whether all runs of the loop start at a cache line's boundary if the array does."""
        return modulo(self.row * self.size, LINE) == 0

    def beyond(self, values: Values, begin: str) -> str:
        """Write how many bytes the iteration ``begin`` is beyond a line's boundary."""
        writer = values.writer
        first = writer.emit(f"add nsw i64 {writer.dim(self.row)}, {begin}")
        base = writer.emit(f"ptrtoint ptr {values.addresses[self.buffer]} to i64")
        address = writer.emit(f"add i64 {base}, {writer.emit(f'mul nsw i64 {first}, {self.size}')}")
        return writer.emit(f"and i64 {address}, {LINE - 1}")


def streams_of(values: Values, loop: For, lanes: int) -> list[Stream]:
    """Return the stores of a vector loop that may go past the caches.

    Parameters
    ----------
    values : Values
        Of the nest.
    loop : For
    lanes : int
        Of a vector.
    """
    found = []
    for stmt in loop.body:
        large = values.streamed.get(stmt.buffer.root()) if isinstance(stmt, Store) else None
        if large is None or lanes * SIZES[stmt.buffer.dtype] < SHORTEST_VECTOR:
            continue
        offset = values.offset(stmt.buffer, stmt.position)
        if slope(offset, loop.index) == 1:
            stream = Stream(stmt.buffer.root(), substitute(offset, {loop.index: 0}),
                            SIZES[stmt.buffer.dtype], large)
            least = SHORTEST_ROW if stream.is_even else SHORTEST_UNEVEN_ROW
            if not isinstance(loop.extent, int):
                writer = values.writer
                long = writer.emit(f"icmp sge i64 {writer.dim(loop.extent)}, {least}")
                found.append(replace(stream, large=writer.emit(f"and i1 {large}, {long}")))
            elif loop.extent >= least:
                found.append(stream)
    return found


def may_stream(values: Values, streams: Sequence[Stream], begin: str, step: int
               ) -> dict[Buffer, str]:
    """Write, for each store, whether it goes past the caches.

    Parameters
    ----------
    values : Values
        Of the nest.
    streams : sequence of Stream
    begin : str
        Operand: the loop's first iteration.
    step : int
        Iterations done together: whole lines, or the store does not.
    """
    writer, found = values.writer, {}
    for stream in streams:
        if step * stream.size % LINE == 0:
            aligned = writer.emit(f"icmp eq i64 {stream.beyond(values, begin)}, 0")
            found[stream.buffer] = writer.emit(f"and i1 {stream.large}, {aligned}")
    return found


def to_boundary(values: Values, stream: Stream, begin: str) -> str:
    """Write how many iterations from ``begin`` on lead to a line's boundary: 0 if none needs to."""
    writer = values.writer
    back = writer.emit(f"sub i64 0, {stream.beyond(values, begin)}")
    bytes_ = writer.emit(f"and i64 {back}, {LINE - 1}")
    count = writer.emit(f"udiv i64 {bytes_}, {stream.size}")
    return writer.emit(f"select i1 {stream.large}, i64 {count}, i64 0")


def emit_fence(writer: FunctionWriter, flags: Sequence[str]) -> None:
    """Write what makes non-temporal stores visible before all stores that follow.

    An x86 processor keeps no order between the two; elsewhere the hand-over between threads does.

    Parameters
    ----------
    flags : sequence of str
        For each result, whether it may have been written past the caches.
    """
    if not flags or not writer.module.machine.is_x86:
        return
    fence = writer.module.declare("llvm.x86.sse.sfence", "void")
    some = flags[0]
    for flag in flags[1:]:
        some = writer.emit(f"or i1 {some}, {flag}")
    writer.branch_if(some, lambda: writer.run(f"call void {fence}()"), "fence")
