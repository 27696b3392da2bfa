"""Lower reductions of leading or middle axes: running totals of columns, row after row.

A *row* here is what one step along the reduced axes adds: an element to each total.  Whole rows are
read in the order of memory, and several of them added while a total is in a register.  Work is
shared out by independent pieces of the result where there are enough; otherwise by blocks of rows,
each with totals of its own, which a second kernel adds up in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, NamedTuple

from .access import Position
from .dims import DimLike, floordiv, minimum, prod, symbols_of
from .fuse import Cluster, reductions_of
from .graph import Apply
from .loop import scalar
from .loop.ir import Accumulate, Buffer, Expr, Load
from .nest_builder import NestBuilder, is_stored
from .ops.op import ReduceLowering
from .program import Kernel

if TYPE_CHECKING:
    from .bufferize import Memory

JAM = 8
"""Rows added while a total is in a register: each costs a load, instead of two and a store.  With
four, bands take 1.04 times as long, narrow matrices 1.2 times."""

LIGHT, JAM_WEIGHT = 8.0, 30.0
"""Clusters that cost more than the first are half bound by loads and stores: half as many rows are
added at once.  Those above the second are not, and their code is not repeated."""

COLUMN_BLOCK = 4096
"""Columns that a thread reduces at a time: their totals stay in the first-level cache."""

NARROW = 512
"""Least columns of a piece: less is a part of a row too short to read at the speed of memory."""

ROW_BLOCK = 1 << 16
"""Elements of a block of rows with totals of its own; depends on the sizes alone, so that results
do not depend on the number of threads."""

LEAST_BLOCK_ROWS = 32
"""Least rows of a block: its totals are as long as a row, and are written and read twice."""

MAX_ROW_BLOCKS = 64
"""Most blocks of rows where their number is known: their totals are read once more."""

UNKNOWN_ROWS = 256
"""Rows of a block where the length of a row is not known."""


class Piece(NamedTuple):
    """The part of the space one iteration of the outer loop reduces.

    ``kept`` are indices of the leading axes; the first reduced axis is cut to ``rows``, the last
    axis to ``columns``, both as (start, length).
    """

    kept: Position
    rows: tuple[DimLike, DimLike]
    columns: tuple[DimLike, DimLike]


def lower_column(build: NestBuilder, cluster: Cluster, memory: Memory,
                 uses: Mapping[int, int]) -> list[Kernel]:
    """Return the kernels of a column cluster: one, or two when blocks of rows have totals.

    Parameters
    ----------
    build : NestBuilder
        Of the first kernel, with nothing in it.
    cluster : Cluster
    memory : Memory
    uses : mapping
        id of variable -> number of its readers.
    """
    first, last = cluster.reduced
    length, width = cluster.space[first], cluster.space[-1]
    totals = [memory.buffer_of(node.outputs[0]) for node in reductions_of(cluster)]
    rows = _rows_of_block(cluster, memory)
    if rows is None:
        kept = build.open(cluster.space[:first])
        groups, columns = 1, (0, width)
        if not kept and not (isinstance(width, int) and width <= COLUMN_BLOCK):
            count = floordiv(width + (COLUMN_BLOCK - 1), COLUMN_BLOCK)
            (block,) = build.open([count], name="block")
            start = block * COLUMN_BLOCK
            columns = start, minimum(COLUMN_BLOCK, width - start)
            groups += 1
        _reduce(build, cluster, memory, totals, kept, Piece(kept, (0, length), columns))
        build.close(outermost="parallel", groups=groups)
        return [build.kernel()]
    count = floordiv(length + (rows - 1), rows)
    blocks = [memory.temporary(f"partial_{total.name}", total.dtype,
                               (count, *cluster.space[last:])) for total in totals]
    (block,) = build.open([count], name="block")
    is_even = isinstance(length, int) and length % rows == 0
    here = rows if is_even else minimum(rows, length - block * rows)
    _reduce(build, cluster, memory, blocks, (block,),
            Piece((), (block * rows, here), (0, width)))
    build.close(outermost="parallel")
    combine = NestBuilder("combine_" + build.name, memory, set(), uses)
    combine_totals(combine, cluster, blocks, totals)
    return [build.kernel(), combine.kernel()]


def _rows_of_block(cluster: Cluster, memory: Memory) -> int | None:
    """Return how long the blocks of the first reduced axis are, or None for no blocks."""
    if not memory.for_cores:
        return None
    first, last = cluster.reduced
    length, trailing = cluster.space[first], cluster.space[last:]
    known = set().union(*(symbols_of(size) for size in (length, *trailing)))
    width, size = prod(trailing), prod(cluster.space[first + 1:])
    if first > 0 or not known <= memory.symbols:
        return None
    if isinstance(width, int) and width > COLUMN_BLOCK and trailing[-1] > NARROW:
        return None
    if not isinstance(size, int):
        return UNKNOWN_ROWS
    least = max(-(-ROW_BLOCK // max(size, 1)), LEAST_BLOCK_ROWS)
    if isinstance(length, int):
        if length * size <= 2 * ROW_BLOCK:
            return None
        least = max(least, -(-length // MAX_ROW_BLOCKS))
    return -(-least // JAM) * JAM


def _reduce(build: NestBuilder, cluster: Cluster, memory: Memory, totals: Sequence[Buffer],
            place: Position, piece: Piece) -> None:
    """Write the totals of a piece to ``totals[place, columns]``."""
    clear_totals(build, cluster, totals, place, piece.columns)
    add_rows(build, cluster, memory, totals, place, piece)


def clear_totals(build: NestBuilder, cluster: Cluster, totals: Sequence[Buffer],
                 place: Position, columns: tuple[DimLike, DimLike]) -> None:
    """Start the totals of columns, (start, length) of the last axis, at their identities."""
    start, width = columns
    tail = build.open((*cluster.space[cluster.reduced[1]:-1], width))
    for node, total in zip(reductions_of(cluster), totals):
        build.store_value(total, (*place, *tail[:-1], tail[-1] + start), _identity(node))
    build.close(innermost="vector")


def add_rows(build: NestBuilder, cluster: Cluster, memory: Memory, totals: Sequence[Buffer],
             place: Position, piece: Piece) -> None:
    """Add the rows of a piece to ``totals[place, columns]``, and store what the cluster stores."""
    first, last = cluster.reduced
    start, width = piece.columns
    lengths = [piece.rows[1], *cluster.space[first + 1:last]]
    outer = build.open(lengths[:-1], name="r")
    for rows in _jammed(build, lengths[-1], _rows_at_once(cluster, memory)):
        tail = build.open((*cluster.space[last:-1], width))
        columns = (*tail[:-1], tail[-1] + start)
        added: list[list[Expr]] = [[] for _ in totals]
        for row in rows:
            reduced = [*outer, row]
            reduced[0] = reduced[0] + piece.rows[0]
            index = (*piece.kept, *reduced, *columns)
            for node in cluster.members:
                if is_stored(node, memory) and not isinstance(node.op.lower, ReduceLowering):
                    build.store(node.outputs[0], index)
            for node, values in zip(reductions_of(cluster), added):
                values.append(build.value(node.inputs[0], index))
        for node, total, values in zip(reductions_of(cluster), totals, added):
            _add(build, Load(total, (*place, *columns)), node, values)
        build.close(innermost="vector")
    build.close()


def _rows_at_once(cluster: Cluster, memory: Memory) -> int:
    """Return how many rows are added while a total is in a register."""
    if not memory.for_cores or cluster.weight > JAM_WEIGHT:
        return 1
    return JAM if cluster.weight <= LIGHT else JAM // 2


def _add(build: NestBuilder, total: Load, node: Apply, values: Sequence[Expr]) -> None:
    """Add values to a total, in their order: several cost one load and one store."""
    combine = node.op.lower.combine
    if len(values) == 1:
        build.pending.append(Accumulate(total, combine, values[0]))
    else:
        result = reduce(partial(scalar.apply, combine), values, total)
        build.store_value(total.buffer, total.position, result)


def _jammed(build: NestBuilder, length: DimLike, jam: int) -> Iterator[list[DimLike]]:
    """Walk an axis ``jam`` steps at a time, then what is left, at once if it is known how much:
    yields the indices of each body."""
    whole = floordiv(length, jam)
    rest = length - whole * jam
    runs = [(whole, 0, jam), (1, whole * jam, rest) if isinstance(rest, int)
            else (rest, whole * jam, 1)]
    for count, start, step in runs:
        if count != 0 and step != 0:
            (index,) = build.open([count], name="r")
            yield [start + index * step + k for k in range(step)]
            build.close()


def combine_totals(build: NestBuilder, cluster: Cluster, blocks: Sequence[Buffer],
                   totals: Sequence[Buffer]) -> None:
    """Write the sum of the blocks' totals, in the order of the blocks."""
    reductions = reductions_of(cluster)
    columns = build.open(totals[0].dims)
    for node, total in zip(reductions, totals):
        build.store_value(total, columns, _identity(node))
    build.close(innermost="vector")
    for rows in _jammed(build, blocks[0].dims[0], JAM):
        columns = build.open(totals[0].dims)
        for node, source, total in zip(reductions, blocks, totals):
            _add(build, Load(total, columns), node,
                 [Load(source, (row, *columns)) for row in rows])
        build.close(innermost="vector")


def _identity(node: Apply) -> Expr:
    dtype = node.outputs[0].dtype
    return scalar.const(node.op.lower.identity(dtype), dtype)
