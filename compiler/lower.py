"""Lower clusters of operations to loop nests, a way for each kind of cluster.

The nests are written by a :class:`~.nest_builder.NestBuilder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .access import Position, behind_views, index_of_rank
from .dims import DimLike, floordiv, minimum, symbols_of
from .fuse import Cluster, cost_of, is_outer, reads_of_cluster, reductions_of
from .graph import Apply, Variable
from .loop import scalar
from .loop.ir import Accumulate, Buffer, Load, Local
from .lower_column import lower_column
from .nest_builder import NestBuilder, is_stored, kernel_name, normal
from .ops.op import ReduceLowering, Region
from .program import Kernel

if TYPE_CHECKING:
    from .bufferize import Memory

FULL_BLOCK = 8192
"""Elements of a partial sum in a reduction to one number; fixed, so that results do not depend on
the number of threads."""

RECOMPUTE, RECOMPUTE_ON_GPU = 3.0, 8.0
"""A value of a row is kept for the next pass over the row when computing it costs more: on a core
from a division on, since the row stays in the first-level cache."""


def lower_cluster(cluster: Cluster, memory: Memory, uses: Mapping[int, int]) -> list[Kernel]:
    """Return the kernels of a fused cluster (a reduction to one number may take two)."""
    write = {"pointwise": _pointwise, "row": _row, "column": _column, "full": _full}[cluster.kind]
    return write(cluster, memory, uses)


def _builder(cluster: Cluster, memory: Memory, uses: Mapping[int, int]) -> NestBuilder:
    inside = {id(node) for node in cluster.members}
    return NestBuilder(kernel_name(cluster.members), memory, inside, uses)


@dataclass(frozen=True, slots=True)
class RowRange:
    """A part of the first axis of a cluster's space."""

    start: DimLike
    count: DimLike

    def of(self, space: Position) -> Position:
        """Return the extents of loops over the part."""
        return (self.count, *space[1:])

    def at(self, index: Position) -> Position:
        """Return the index in the whole space for one of the part."""
        return (index[0] + self.start, *index[1:])


def _pointwise(cluster: Cluster, memory: Memory, uses: Mapping[int, int]) -> list[Kernel]:
    build = _builder(cluster, memory, uses)
    pointwise_rows(build, cluster, memory, None)
    return [build.kernel()]


def pointwise_rows(build: NestBuilder, cluster: Cluster, memory: Memory,
                   part: RowRange | None) -> None:
    """Write a pointwise cluster: all of it, in parallel, or a part of its rows."""
    index = build.open(cluster.space) if part is None \
        else part.at(build.open(part.of(cluster.space)))
    for node in cluster.members:
        if is_stored(node, memory):
            build.store(node.outputs[0], index)
    build.close(outermost="parallel" if part is None else "serial", innermost="vector")
    build.flush()


def _row(cluster: Cluster, memory: Memory, uses: Mapping[int, int]) -> list[Kernel]:
    build = _builder(cluster, memory, uses)
    row_passes(build, cluster, memory, None)
    return [build.kernel()]


def row_passes(build: NestBuilder, cluster: Cluster, memory: Memory,
               part: RowRange | None) -> None:
    """Write an outer loop over all rows, or over a part of them, in any order; inside it, passes
    over the row, a reduction ending each pass."""
    stages = _stages(cluster)
    last = max(stages.values())
    kept = _keep_between_passes(cluster, stages, memory)
    lead = cluster.space[:cluster.outer]
    outer = build.open(lead) if part is None else part.at(build.open(part.of(lead)))
    inner_dims = cluster.space[cluster.outer:]
    for stage in range(last + 1):
        here = [node for node in cluster.members if stages[id(node)] == stage]
        for node in here:
            if is_outer(node, cluster) and not isinstance(node.op.lower, ReduceLowering) \
                    and is_stored(node, memory):
                pad = node.outputs[0].ndim - len(outer)
                build.store(node.outputs[0], outer + (0,) * pad)
        build.flush()
        reductions = [node for node in here if isinstance(node.op.lower, ReduceLowering)]
        stores = [node for node in here if not is_outer(node, cluster) and is_stored(node, memory)]
        if not reductions and not stores:
            continue
        totals = [build.accumulator(node) for node in reductions]
        index = outer + build.open(inner_dims, name="r")
        for node in stores:
            build.store(node.outputs[0], index)
        for node, total in zip(reductions, totals):
            value = build.value(node.inputs[0], index)
            build.pending.append(Accumulate(total, node.op.lower.combine, value))
        build.close(innermost="vector")
        # Later passes over the row load what this one stored.
        build.inside -= {id(node) for node in stores}
        for node, total in zip(reductions, totals):
            out, place = normal(node.outputs[0], outer)
            build.scope.memo[(id(out), place)] = total
            if is_stored(node, memory):
                build.store_value(memory.buffer_of(node.outputs[0]), outer, total)
        build.flush()
    build.close(outermost="parallel")
    # Another cluster that computes them has its own rows, and the host's memory its result by then.
    memory.forget(kept)


def _stages(cluster: Cluster) -> dict[int, int]:
    """Return for each member after how many passes over the row it can be computed."""
    stages: dict[int, int] = {}
    for node in cluster.members:
        stage = 0
        for source in node.inputs:
            base, _ = behind_views(source, index_of_rank(source.ndim))
            if base.owner is not None and id(base.owner) in stages:
                after = isinstance(base.owner.op.lower, ReduceLowering)
                stage = max(stage, stages[id(base.owner)] + after)
        stages[id(node)] = stage
    return stages


def _keep_between_passes(cluster: Cluster, stages: Mapping[int, int], memory: Memory
                         ) -> list[Variable]:
    """Give memory to row values that a later pass needs again and that cost much to compute;
    return them.

    The memory is that of a result of the same type written in a later pass, where there is one.
    A value that is also read elsewhere has none: that row may not be computed yet, and that place
    of the result may be written already.
    """
    elsewhere = {id(read.variable) for read in reads_of_cluster(cluster) if not read.is_in_place()}
    price = RECOMPUTE if memory.for_cores else RECOMPUTE_ON_GPU
    readers: dict[int, list[Apply]] = {}
    cost: dict[int, float] = {}
    for node in cluster.members:
        cost[id(node)] = cost_of(node)
        for source in node.inputs:
            base, _ = behind_views(source, index_of_rank(source.ndim))
            if base.owner is not None and id(base.owner) in cost:
                readers.setdefault(id(base.owner), []).append(node)
                if not isinstance(base.owner.op.lower, ReduceLowering) \
                        and not is_stored(base.owner, memory):
                    cost[id(node)] += cost[id(base.owner)]
    passes_of: dict[int, set[int]] = {}
    kept: list[Variable] = []
    for node in reversed(cluster.members):
        out = node.outputs[0]
        passes = passes_of[id(node)] = set()
        for reader in readers.get(id(node), ()):
            passes.add(stages[id(reader)])
            if not isinstance(reader.op.lower, ReduceLowering) and not is_stored(reader, memory):
                # Computed again wherever it is read, from this value.
                passes |= passes_of[id(reader)]
        if is_outer(node, cluster) or is_stored(node, memory) or len(passes) < 2 \
                or cost_of(node) < price or out.type.dims != cluster.space \
                or id(out) in elsewhere:
            continue
        hosts = [other for other in cluster.members
                 if is_stored(other, memory) and other.outputs[0].type == out.type
                 and stages[id(other)] >= max(passes)
                 and memory.is_fresh(other.outputs[0])]
        host = memory.buffer_of(hosts[0].outputs[0]) if hosts else None
        memory.keep(out, host)
        kept.append(out)
    return kept


def _column(cluster: Cluster, memory: Memory, uses: Mapping[int, int]) -> list[Kernel]:
    return lower_column(_builder(cluster, memory, uses), cluster, memory, uses)


def _full(cluster: Cluster, memory: Memory, uses: Mapping[int, int]) -> list[Kernel]:
    """Reduce everything: partial results of fixed blocks, then their combination."""
    reductions = reductions_of(cluster)
    size = cluster.space[0]
    if len(cluster.space) > 1 or (isinstance(size, int) and size <= 2 * FULL_BLOCK) \
            or not symbols_of(size) <= memory.symbols:
        return [_full_in_one(cluster, memory, uses)]
    build = _builder(cluster, memory, uses)
    count = floordiv(size + (FULL_BLOCK - 1), FULL_BLOCK)
    partial = [memory.temporary(f"partial_{node.op.name}", node.outputs[0].dtype, (count,))
               for node in reductions]
    (block,) = build.open([count], name="block")
    totals = [build.accumulator(node) for node in reductions]
    (offset,) = build.open([minimum(FULL_BLOCK, size - block * FULL_BLOCK)], name="r")
    _full_body(build, cluster, memory, totals, (block * FULL_BLOCK + offset,))
    build.close(innermost="vector")
    for buffer, total in zip(partial, totals):
        build.store_value(buffer, (block,), total)
    build.close(outermost="parallel")
    combine = NestBuilder("combine_" + build.name, memory, set(), uses)
    full_combine(combine, cluster, partial,
                 [memory.buffer_of(node.outputs[0]) for node in reductions])
    return [build.kernel(), combine.kernel()]


def full_combine(build: NestBuilder, cluster: Cluster, partial: Sequence[Buffer],
                 results: Sequence[Buffer]) -> None:
    """Write the combination of the partial results of blocks."""
    totals = [build.accumulator(node) for node in reductions_of(cluster)]
    (k,) = build.open(partial[0].dims, name="r")
    for node, total, buffer in zip(reductions_of(cluster), totals, partial):
        build.pending.append(Accumulate(total, node.op.lower.combine, Load(buffer, (k,))))
    build.close(innermost="vector")
    for total, result in zip(totals, results):
        build.store_value(result, (), total)
    build.flush()


def full_rows(build: NestBuilder, cluster: Cluster, memory: Memory, totals: list[Local],
              part: RowRange) -> None:
    """Add a part of a vector to running totals."""
    index = part.at(build.open(part.of(cluster.space), name="r"))
    _full_body(build, cluster, memory, totals, index)
    build.close(innermost="vector")


def _full_in_one(cluster: Cluster, memory: Memory, uses: Mapping[int, int]) -> Kernel:
    build = _builder(cluster, memory, uses)
    reductions = reductions_of(cluster)
    totals = [build.accumulator(node) for node in reductions]
    index = build.open(cluster.space, name="r")
    _full_body(build, cluster, memory, totals, index)
    build.close(innermost="vector")
    for node, total in zip(reductions, totals):
        build.store_value(memory.buffer_of(node.outputs[0]), (), total)
    build.flush()
    return build.kernel()


def _full_body(build: NestBuilder, cluster: Cluster, memory: Memory, totals: list[Local],
               index: Position) -> None:
    for node in cluster.members:
        if not isinstance(node.op.lower, ReduceLowering) and is_stored(node, memory):
            build.store(node.outputs[0], index)
    for node, total in zip(reductions_of(cluster), totals):
        build.pending.append(Accumulate(
            total, node.op.lower.combine, build.value(node.inputs[0], index)))


def lower_copy(source: Variable, target: Buffer, prefix: Position, memory: Memory,
               uses: Mapping[int, int], name: str = "copy") -> Kernel:
    """Return the kernel that evaluates ``source`` everywhere into ``target[prefix]``."""
    build = NestBuilder(name, memory, set(), uses)
    index = build.open(source.type.dims)
    build.store_value(target, (*prefix, *index), build.value(source, index))
    build.close(outermost="parallel", innermost="vector")
    build.flush()
    return build.kernel()


def lower_region(region: Region, node: Apply, inside: set[int], memory: Memory,
                 uses: Mapping[int, int]) -> Kernel:
    """Return the kernel of one region of a scatter."""
    build = NestBuilder(node.op.name, memory, inside, uses)
    out = memory.buffer_of(node.outputs[0])
    index = build.open(region.dims)
    build.node = node
    target = tuple(region.target(build, index))
    build.node = node
    value = region.value(build, index)
    if region.accumulate:
        build.pending.append(Accumulate(Load(out, target), "add", value))
    else:
        build.store_value(out, target, value)
    build.close(outermost="parallel" if region.is_parallel else "serial",
                innermost="vector" if region.is_parallel else "serial")
    build.flush()
    return build.kernel()
