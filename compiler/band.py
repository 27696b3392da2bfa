"""Clusters that walk the rows of one matrix, walked together: find them and lower them.

``w.x`` for every row, something of its results, and a sum of rows weighted with it: these are three
clusters, and the first and the last read the whole matrix.  Run one after the other for a *band* of
rows at a time, they find the rows in the first-level cache.

::

    for block parallel:            totals of this block := identity
      for band serial:             cluster 1 on the rows of the band
                                   cluster 2 ...
                                   cluster 3 adds the band to the block's totals
    totals := the blocks' totals, in order

Cluster 2 may read what cluster 1 computed for the same row; sums over rows are complete at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .access import Read, index_of_rank, reads_of_node
from .dims import DimLike, floordiv, minimum, prod, symbols_of
from .fuse import Cluster, reductions_of
from .graph import Variable
from .loop.ir import Buffer, Local
from .lower import RowRange, full_combine, full_rows, pointwise_rows, row_passes
from .lower_column import ROW_BLOCK, Piece, add_rows, clear_totals, combine_totals
from .nest_builder import NestBuilder, is_stored, kernel_name
from .ops.op import ReduceLowering
from .program import Kernel

if TYPE_CHECKING:
    from .bufferize import Memory

BAND = 8192
"""Elements of a band: with float32, the size of the first-level cache."""

LEAST_ROWS = 8
"""Rows of a band at least: what happens once a row is then worth a vector."""

LARGE = 1 << 16
"""Elements of a matrix that is worth a band: smaller ones stay in the second-level cache."""


def group_bands(clusters: Sequence[Cluster], memory: Memory, stop: Collection[int]
                ) -> Iterator[tuple[Cluster, ...]]:
    """Yield the clusters in order, those that share a band together.

    A band begins with a cluster that walks a large matrix, so that clusters without one are looked
    at once, however many they are.

    Parameters
    ----------
    clusters : sequence of Cluster
        In the order they run in.
    memory : Memory
        Tells what is stored.
    stop : collection of int
        ids of variables that have memory though they are views.
    """
    first = 0
    while first < len(clusters):
        band, shared = _Band(memory, stop), 1
        for count, cluster in enumerate(clusters[first:], 1):
            if not band.accepts(cluster):
                break
            if band.add(cluster):
                shared = count
            if not band.walked:
                break
        yield tuple(clusters[first:first + shared])
        first += shared


class _Band:
    """Clusters collected so far, what they compute, and the matrices they read."""

    def __init__(self, memory: Memory, stop: Collection[int]):
        self.memory, self.stop = memory, set(stop)
        self.length: DimLike | None = None
        self.columns: DimLike = 1
        self.produced: set[int] = set()
        self.walked: set[int] = set()

    def accepts(self, cluster: Cluster) -> bool:
        """Return whether a cluster can run row by row after those collected."""
        if cluster.kind == "step" or cluster.is_update or not cluster.space \
                or not _walks_rows(cluster):
            return False
        length, columns = cluster.space[0], prod(cluster.space[1:])
        if self.length is not None and length != self.length:
            return False
        if not isinstance(columns, int) or columns * LEAST_ROWS > ROW_BLOCK \
                or not symbols_of(length) <= self.memory.symbols:
            return False
        return not self.produced or all(
            not is_produced or is_same_row
            for _, is_same_row, is_produced in self._reads(cluster, length))

    def add(self, cluster: Cluster) -> bool:
        """Add a cluster; return whether it walks a large matrix that an earlier one walked."""
        self.length = cluster.space[0]
        matrices = {id(read.variable) for read, is_same_row, _ in self._reads(cluster, self.length)
                    if is_same_row and _is_large(read.variable)}
        is_shared = not matrices.isdisjoint(self.walked)
        self.walked |= matrices
        for node in cluster.members:
            if is_stored(node, self.memory):
                self.produced.add(id(node.outputs[0]))
                if _is_large(node.outputs[0]):
                    self.walked.add(id(node.outputs[0]))
        return is_shared

    def _reads(self, cluster: Cluster, length: DimLike) -> Iterator[tuple[Read, bool, bool]]:
        """Yield what a cluster loads: the read, whether it is of the row at hand, and whether an
        earlier cluster of the band computes it."""
        members = {id(node): node for node in cluster.members}
        row = index_of_rank(1)[0]
        pending = [(node, True) for node in cluster.members
                   if is_stored(node, self.memory) or isinstance(node.op.lower, ReduceLowering)]
        seen = set()
        while pending:
            node, is_aligned = pending.pop()
            if (id(node), is_aligned) in seen:
                continue
            seen.add((id(node), is_aligned))
            for read in reads_of_node(node, self.stop):
                variable, position = read.variable, read.position
                is_same_row = is_aligned and position is not None and len(position) > 0 \
                    and position[0] == row and variable.type.dims[0] == length
                owner = variable.owner
                if owner is not None and id(owner) in members \
                        and not is_stored(owner, self.memory):
                    pending.append((owner, is_same_row))
                else:
                    yield read, is_same_row, id(variable) in self.produced


def _walks_rows(cluster: Cluster) -> bool:
    """Return whether a cluster's outermost loop can be the one over rows."""
    if cluster.kind == "row":
        return cluster.outer > 0
    if cluster.kind == "column":
        return cluster.reduced[0] == 0
    return cluster.kind == "pointwise" or len(cluster.space) == 1


def _is_large(variable: Variable) -> bool:
    size = prod(variable.type.dims)
    return variable.ndim > 1 and (not isinstance(size, int) or size >= LARGE)


@dataclass(slots=True)
class _Totals:
    """Where a cluster's sums over rows are collected: in locals, or in buffers of a block."""

    cluster: Cluster
    results: list[Buffer]
    blocks: list[Buffer]
    locals: list[Local]


def lower_band(clusters: Sequence[Cluster], memory: Memory, uses: Mapping[int, int]
               ) -> list[Kernel]:
    """Return the kernel of clusters that share a band, and the one that adds up their totals."""
    length = clusters[0].space[0]
    columns = max(prod(cluster.space[1:]) for cluster in clusters)
    rows = max(LEAST_ROWS, BAND // columns // LEAST_ROWS * LEAST_ROWS)
    blocks = _blocks(length, rows, columns)
    name = kernel_name(node for cluster in clusters for node in cluster.members)
    build = NestBuilder(name, memory, set(), uses)
    (block,) = build.open([blocks.count], name="block")
    is_single = blocks.count == 1
    place = () if is_single else (block,)
    totals = [_open_totals(build, cluster, memory, () if is_single else (blocks.count,), place)
              for cluster in clusters if cluster.kind in ("column", "full")]
    (band,) = build.open([blocks.bands(block)], name="band")
    start = (blocks.first(block) + band) * rows
    is_even = isinstance(length, int) and length % rows == 0
    part = RowRange(start, rows if is_even else minimum(rows, length - start))
    collected = {id(total.cluster): total for total in totals}
    for cluster in clusters:
        build.inside = {id(node) for node in cluster.members}
        _on_rows(build, cluster, memory, part, collected.get(id(cluster)), place)
    build.close()
    for total in totals:
        for buffer, local in zip(total.blocks, total.locals):
            build.store_value(buffer, place, local)
    build.close(outermost="parallel")
    if is_single or not totals:
        return [build.kernel()]
    combine = NestBuilder("combine_" + name, memory, set(), uses)
    for total in totals:
        write = combine_totals if total.cluster.kind == "column" else full_combine
        write(combine, total.cluster, total.blocks, total.results)
    return [build.kernel(), combine.kernel()]


@dataclass(frozen=True, slots=True)
class _Blocks:
    """How bands are shared out: each block has totals of its own."""

    count: DimLike
    first: Callable[[DimLike], DimLike]
    bands: Callable[[DimLike], DimLike]


def _blocks(length: DimLike, rows: int, columns: int) -> _Blocks:
    """Return the blocks for a number of rows, of bands of ``rows``; threads take whole blocks."""
    most = -(-ROW_BLOCK // (rows * columns))
    if not isinstance(length, int):
        bands = floordiv(length + (rows - 1), rows)
        return _Blocks(floordiv(bands + (most - 1), most), lambda block: block * most,
                       lambda block: minimum(most, bands - block * most))
    bands = -(-length // rows)
    count = -(-bands // most)
    # Two, four or eight threads get equal shares.
    count = min(bands, 1 << (count - 1).bit_length() if count < 8 else -(-count // 8) * 8)

    def first(block: DimLike) -> DimLike:
        return floordiv(block * bands, count)

    return _Blocks(count, first, lambda block: first(block + 1) - first(block))


def _open_totals(build: NestBuilder, cluster: Cluster, memory: Memory,
                 blocks: tuple[DimLike, ...], place: tuple[DimLike, ...]) -> _Totals:
    """Start the totals of a block."""
    results = [memory.buffer_of(node.outputs[0]) for node in reductions_of(cluster)]
    partial = [memory.temporary(f"partial_{buffer.name}", buffer.dtype, (*blocks, *buffer.dims))
               for buffer in results] if blocks else results
    if cluster.kind == "full":
        return _Totals(cluster, results, partial,
                       [build.accumulator(node) for node in reductions_of(cluster)])
    clear_totals(build, cluster, partial, place, (0, cluster.space[-1]))
    return _Totals(cluster, results, partial, [])


def _on_rows(build: NestBuilder, cluster: Cluster, memory: Memory, part: RowRange,
             totals: _Totals | None, place: tuple[DimLike, ...]) -> None:
    """Write one cluster for the rows of a band."""
    if cluster.kind == "pointwise":
        pointwise_rows(build, cluster, memory, part)
    elif cluster.kind == "row":
        row_passes(build, cluster, memory, part)
    elif cluster.kind == "full":
        full_rows(build, cluster, memory, totals.locals, part)
    else:
        add_rows(build, cluster, memory, totals.blocks, place,
                 Piece((), (part.start, part.count), (0, cluster.space[-1])))
