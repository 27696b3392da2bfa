"""Lower clusters of operations to loop nests.

:class:`NestBuilder` writes one kernel: it evaluates variables at positions, composing the index
functions of everything that has no memory of its own (fusion *is* this composition), names values
that are used twice, and puts each value at the outermost loop its position depends on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .access import (
    Position, behind_views, broadcast_position, index_of_rank, is_view, scalar_constant,
    view_position)
from .dims import DimLike, Symbol, as_dim, floordiv, minimum, symbols_of
from .fuse import Cluster, cost_of, is_outer
from .graph import Apply, Variable, describe, format_site
from .loop import scalar
from .loop.ir import (
    Accumulate, Buffer, Check, Const, Expr, For, Index, Let, Load, Local, Mark, Nest, Stmt, Store)
from .loop.schedule import collapse
from .loop.walk import buffers_read, buffers_written
from .ops.op import IndexLowering, ReduceLowering, Region, ScalarLowering
from .program import Failure, Kernel

if TYPE_CHECKING:
    from .bufferize import Memory

COLUMN_BLOCK = 512
"""Columns a thread reduces at a time: their running totals stay in the first-level cache."""

FULL_BLOCK = 8192
"""Elements of a partial sum in a reduction to one number; fixed, so that results do not depend on
the number of threads."""

RECOMPUTE = 8.0
"""A value of a row is kept for the next pass over the row when computing it costs more."""


class Scope:
    """The statements of one loop body, and the values already named in it."""

    def __init__(self, parent: Scope | None = None, index: Symbol | None = None,
                 extent: DimLike = 1):
        self.parent, self.index, self.extent = parent, index, extent
        self.body: list[Stmt] = []
        self.memo: dict[tuple[int, Position], Expr] = {}
        self.symbols: set[Symbol] = set() if index is None else {index}

    def lookup(self, key: tuple[int, Position]) -> Expr | None:
        """Return a value named here or further out."""
        scope: Scope | None = self
        while scope is not None:
            if key in scope.memo:
                return scope.memo[key]
            scope = scope.parent
        return None

    def home_of(self, position: Position) -> Scope:
        """Return the outermost scope in which every symbol of ``position`` has a value."""
        wanted = set().union(*(symbols_of(dim) for dim in position)) if position else set()
        scope = self
        while scope.parent is not None and not (scope.symbols & wanted):
            scope = scope.parent
        return scope

    def close(self, mark: Mark) -> None:
        """End the loop: append it to the enclosing scope."""
        assert self.parent is not None and self.index is not None
        self.parent.body.append(For(self.index, self.extent, tuple(self.body), mark))


class NestBuilder:
    """Writes the nest of one kernel.

    Parameters
    ----------
    name : str
    memory : Memory
        Which variables have buffers, and the function's list of failures.
    inside : set of int
        ids of nodes this kernel computes itself even though they have memory.
    uses : mapping
        id of variable -> number of its readers.
    """

    def __init__(self, name: str, memory: Memory, inside: set[int], uses: Mapping[int, int]):
        self.name, self.memory, self.inside, self.uses = name, memory, inside, uses
        self.root = Scope()
        self.scope = self.root
        self.written: list[Buffer] = []
        self.pending: list[Stmt] = []
        self.cost = 0.0
        self.groups: list[int] = []
        self.names = 0
        self.node: Apply | None = None

    # -- loops -------------------------------------------------------------------------------------

    def open(self, extents: Iterable[DimLike], name: str = "i") -> Position:
        """Open a group of nested loops and return their indices; a length of 1 needs no loop."""
        index: list[DimLike] = []
        self.groups.append(0)
        for extent in extents:
            if extent == 1:
                index.append(0)
                continue
            self.groups[-1] += 1
            self.names += 1
            symbol = Symbol(f"{name}{self.names}", extent=extent)
            self.scope = Scope(self.scope, symbol, extent)
            index.append(as_dim(symbol))
        return tuple(index)

    def close(self, outermost: Mark = "serial", innermost: Mark = "serial",
              groups: int = 1) -> None:
        """Close groups of loops: pending stores first, then the loops from the inside out."""
        self.flush()
        count = sum(self.groups.pop() for _ in range(groups))
        for level in range(count):
            scope = self.scope
            is_last = level == count - 1
            mark = outermost if is_last and outermost != "serial" else \
                innermost if level == 0 else "serial"
            scope.close(mark)
            assert scope.parent is not None
            self.scope = scope.parent

    def flush(self) -> None:
        """Emit the stores and accumulations collected for the current loop body."""
        self.scope.body.extend(self.pending)
        self.pending = []

    def kernel(self) -> Kernel:
        """Return the finished kernel."""
        nest = collapse(Nest(self.name, tuple(self.root.body), max(self.cost, 1.0)))
        return Kernel(nest, buffers_read(nest), buffers_written(nest))

    # -- values ------------------------------------------------------------------------------------

    def value(self, variable: Variable, position: Position) -> Expr:
        """Return the element of ``variable`` at ``position``.

        Elementwise operations are walked with an explicit stack, so a chain of any length works.
        """
        stack = [normal(variable, position)]
        while stack:
            variable_, position_ = stack[-1]
            key = (id(variable_), position_)
            if self.scope.lookup(key) is not None:
                stack.pop()
                continue
            source = self._source(variable_, position_)
            if isinstance(source, tuple):
                source = normal(*source)
                if (found := self.scope.lookup((id(source[0]), source[1]))) is None:
                    stack.append(source)
                else:
                    self.scope.memo[key] = found
                    stack.pop()
            elif not isinstance(source, Apply):
                self.scope.memo[key] = source
                stack.pop()
            else:
                operands = [(v, broadcast_position(v, position_)) for v in source.inputs] \
                    if isinstance(source.op.lower, ScalarLowering) else []
                missing = [(v, p) for v, p in operands if self.scope.lookup((id(v), p)) is None]
                if missing:
                    stack.extend(missing)
                    continue
                stack.pop()
                self._compute(source, variable_, position_, operands)
        return self._lookup(variable, position)

    def _source(self, variable: Variable, position: Position
                ) -> Expr | tuple[Variable, Position] | Apply:
        """Return a leaf expression, what a view shows, or the node that has to be computed."""
        literal = scalar_constant(variable)
        if literal is not None:
            return literal
        owner = variable.owner
        buffer = self.memory.buffers.get(id(variable))
        if owner is None or (buffer is not None and id(owner) not in self.inside):
            return self._load(self.memory.buffer_of(variable), position)
        if owner.op.name == "size":
            return scalar.index(owner.params["dim"])
        if buffer is None and is_view(variable):
            return owner.inputs[0], view_position(owner, position)
        if isinstance(owner.op.lower, ReduceLowering):
            return self._load(self.memory.buffer_of(variable), position)
        return owner

    def _load(self, buffer: Buffer, position: Position) -> Expr:
        element: Expr = Load(buffer, position)
        if buffer.root() in self.memory.overwritten:
            # The kernel may store to this very element: read it before.
            element = self._name("old", element, self.scope.home_of(position))
        return element

    def _compute(self, node: Apply, variable: Variable, position: Position,
                 operands: list[tuple[Variable, Position]]) -> None:
        lower = node.op.lower
        home = self.scope.home_of(position)
        if isinstance(lower, ScalarLowering):
            arguments = [self._lookup(v, p) for v, p in operands]
            expression = lower.rule(*arguments, **node.params)
        else:
            assert isinstance(lower, IndexLowering), node.op.name
            outer, self.scope, self.node = (self.scope, self.node), home, node
            expression = lower.rule(self, position, node)
            self.scope, self.node = outer
        if home is self.scope:
            self.cost += cost_of(node)
        if not isinstance(expression, (Const, Index)) \
                and (self.uses.get(id(variable), 1) > 1 or home is not self.scope):
            expression = self._name(node.op.name.rstrip("_"), expression, home)
        home.memo[(id(variable), position)] = expression

    def _lookup(self, variable: Variable, position: Position) -> Expr:
        variable, position = normal(variable, position)
        found = self.scope.lookup((id(variable), position))
        assert found is not None
        return found

    def _name(self, name: str, expression: Expr, scope: Scope) -> Local:
        self.names += 1
        local = Local(f"{name}{self.names}", expression.dtype)
        scope.body.append(Let(local, expression))
        return local

    # -- what the rows' index and region rules call (the lowering context) -------------------------

    def read(self, k: int, position: Position) -> Expr:
        """Return an element of input ``k`` of the node being lowered."""
        assert self.node is not None
        node = self.node
        value = self.value(node.inputs[k], tuple(position))
        self.node = node
        return value

    def bind(self, expression: Expr, name: str = "j") -> DimLike:
        """Turn an int64 expression into a dim usable in positions."""
        if isinstance(expression, Const):
            return int(expression.value)
        if isinstance(expression, Index):
            return expression.dim
        self.names += 1
        symbol = Symbol(f"{name}{self.names}", lower=None)
        self.scope.symbols.add(symbol)
        self.scope.body.append(Let(symbol, expression))
        return as_dim(symbol)

    def check(self, condition: Expr, message: str, value: Expr) -> None:
        """Report an ``IndexOutOfRangeError`` with ``message`` unless ``condition`` holds."""
        if isinstance(condition, Const) and condition.value:
            return
        assert self.node is not None
        text = f"{message}\n  in: {describe(self.node.outputs[0])}"
        site = format_site(self.node.site)
        code = self.memory.failure(Failure(
            "IndexOutOfRangeError", text + (f"\n  built at: {site}" if site else "")))
        self.scope.body.append(Check(condition, code, value))

    # -- results -----------------------------------------------------------------------------------

    def store(self, variable: Variable, position: Position) -> None:
        """Compute a variable at ``position`` and store it when the loop body ends."""
        value = self.value(variable, position)
        self.store_value(self.memory.buffer_of(variable), position, value)

    def store_value(self, buffer: Buffer, position: Position, value: Expr) -> None:
        """Store a value when the loop body ends."""
        self.pending.append(Store(buffer, position, value))

    def accumulator(self, node: Apply) -> Local:
        """Name a running total for a reduction, starting at its identity."""
        dtype = node.outputs[0].dtype
        assert isinstance(node.op.lower, ReduceLowering)
        return self._name(node.op.name.rstrip("_"),
                          scalar.const(node.op.lower.identity(dtype), dtype), self.scope)


def normal(variable: Variable, position: Position) -> tuple[Variable, Position]:
    """Return an access with index 0 on axes of length 1, so that equal accesses compare equal."""
    dims = variable.type.dims
    if 1 in dims:
        position = tuple(0 if size == 1 else i for size, i in zip(dims, position))
    return variable, position


def lower_cluster(cluster: Cluster, memory: Memory, uses: Mapping[int, int]) -> list[Kernel]:
    """Return the kernels of a fused cluster (a reduction to one number may take two)."""
    write = {"pointwise": _pointwise, "row": _row, "column": _column, "full": _full}[cluster.kind]
    return write(cluster, memory, uses)


def kernel_name(nodes: Iterable[Apply]) -> str:
    """Return a readable name made of the operations a kernel computes."""
    names = list(dict.fromkeys(node.op.name.rstrip("_") for node in nodes))
    return "_".join(names[:3] + ["etc"] * (len(names) > 4) + names[3:][-1:])


def _builder(cluster: Cluster, memory: Memory, uses: Mapping[int, int]) -> NestBuilder:
    inside = {id(node) for node in cluster.members}
    return NestBuilder(kernel_name(cluster.members), memory, inside, uses)


def _is_stored(node: Apply, memory: Memory) -> bool:
    return id(node.outputs[0]) in memory.buffers


def _reductions(cluster: Cluster) -> list[Apply]:
    return [node for node in cluster.members if isinstance(node.op.lower, ReduceLowering)]


def _pointwise(cluster: Cluster, memory: Memory, uses: Mapping[int, int]) -> list[Kernel]:
    build = _builder(cluster, memory, uses)
    index = build.open(cluster.space)
    for node in cluster.members:
        if _is_stored(node, memory):
            build.store(node.outputs[0], index)
    build.close(outermost="parallel", innermost="vector")
    build.flush()
    return [build.kernel()]


def _row(cluster: Cluster, memory: Memory, uses: Mapping[int, int]) -> list[Kernel]:
    """One outer loop over rows; inside it, passes over the row, a reduction ending each pass."""
    build = _builder(cluster, memory, uses)
    stages = _stages(cluster)
    last = max(stages.values())
    _keep_between_passes(cluster, stages, memory)
    outer = build.open(cluster.space[:cluster.outer])
    inner_dims = cluster.space[cluster.outer:]
    for stage in range(last + 1):
        here = [node for node in cluster.members if stages[id(node)] == stage]
        for node in here:
            if is_outer(node, cluster) and not isinstance(node.op.lower, ReduceLowering) \
                    and _is_stored(node, memory):
                pad = node.outputs[0].ndim - len(outer)
                build.store(node.outputs[0], outer + (0,) * pad)
        build.flush()
        reductions = [node for node in here if isinstance(node.op.lower, ReduceLowering)]
        stores = [node for node in here if not is_outer(node, cluster) and _is_stored(node, memory)]
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
            if _is_stored(node, memory):
                build.store_value(memory.buffer_of(node.outputs[0]), outer, total)
        build.flush()
    build.close(outermost="parallel")
    return [build.kernel()]


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


def _keep_between_passes(cluster: Cluster, stages: Mapping[int, int], memory: Memory) -> None:
    """Give memory to row values that a later pass needs again and that cost much to compute.

    The memory is that of a result of the same type written in a later pass, where there is one.
    """
    readers: dict[int, list[Apply]] = {}
    cost: dict[int, float] = {}
    for node in cluster.members:
        cost[id(node)] = cost_of(node)
        for source in node.inputs:
            base, _ = behind_views(source, index_of_rank(source.ndim))
            if base.owner is not None and id(base.owner) in cost:
                readers.setdefault(id(base.owner), []).append(node)
                if not isinstance(base.owner.op.lower, ReduceLowering) \
                        and not _is_stored(base.owner, memory):
                    cost[id(node)] += cost[id(base.owner)]
    passes_of: dict[int, set[int]] = {}
    for node in reversed(cluster.members):
        out = node.outputs[0]
        passes = passes_of[id(node)] = set()
        for reader in readers.get(id(node), ()):
            passes.add(stages[id(reader)])
            if not isinstance(reader.op.lower, ReduceLowering) and not _is_stored(reader, memory):
                # Computed again wherever it is read, from this value.
                passes |= passes_of[id(reader)]
        if is_outer(node, cluster) or _is_stored(node, memory) or len(passes) < 2 \
                or cost_of(node) < RECOMPUTE or out.type.dims != cluster.space:
            continue
        hosts = [other for other in cluster.members
                 if _is_stored(other, memory) and other.outputs[0].type == out.type
                 and stages[id(other)] >= max(passes)
                 and memory.is_fresh(other.outputs[0])]
        host = memory.buffer_of(hosts[0].outputs[0]) if hosts else None
        memory.keep(out, host)


def _column(cluster: Cluster, memory: Memory, uses: Mapping[int, int]) -> list[Kernel]:
    """Reduce axes that are not the last: running totals of a block of columns, row after row."""
    build = _builder(cluster, memory, uses)
    first, last = cluster.reduced
    kept, reduced, trailing = (cluster.space[:first], cluster.space[first:last],
                               cluster.space[last:])
    outer = build.open(kept)
    groups = 1
    width = trailing[-1]
    is_blocked = not kept and not (isinstance(width, int) and width <= COLUMN_BLOCK)
    start: DimLike = 0
    if is_blocked:
        (block,) = build.open([floordiv(width + (COLUMN_BLOCK - 1), COLUMN_BLOCK)], name="block")
        start, width = block * COLUMN_BLOCK, minimum(COLUMN_BLOCK, width - block * COLUMN_BLOCK)
        groups += 1
    trailing = (*trailing[:-1], width)
    reductions = _reductions(cluster)
    tail = build.open(trailing)
    for node in reductions:
        dtype = node.outputs[0].dtype
        build.store_value(memory.buffer_of(node.outputs[0]),
                          (*outer, *tail[:-1], tail[-1] + start),
                          scalar.const(node.op.lower.identity(dtype), dtype))
    build.close(innermost="vector")
    rows = build.open(reduced, name="r")
    tail = build.open(trailing)
    columns = (*tail[:-1], tail[-1] + start)
    for node in cluster.members:
        if node in reductions:
            target = Load(memory.buffer_of(node.outputs[0]), (*outer, *columns))
            build.pending.append(Accumulate(
                target, node.op.lower.combine,
                build.value(node.inputs[0], (*outer, *rows, *columns))))
        elif _is_stored(node, memory):
            build.store(node.outputs[0], (*outer, *rows, *columns))
    build.close(innermost="vector")
    build.close()
    build.close(outermost="parallel", groups=groups)
    return [build.kernel()]


def _full(cluster: Cluster, memory: Memory, uses: Mapping[int, int]) -> list[Kernel]:
    """Reduce everything: partial results of fixed blocks, then their combination."""
    reductions = _reductions(cluster)
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
    totals = [combine.accumulator(node) for node in reductions]
    (k,) = combine.open([count], name="r")
    for node, total, buffer in zip(reductions, totals, partial):
        combine.pending.append(Accumulate(total, node.op.lower.combine, Load(buffer, (k,))))
    combine.close(innermost="vector")
    for node, total in zip(reductions, totals):
        combine.store_value(memory.buffer_of(node.outputs[0]), (), total)
    combine.flush()
    return [build.kernel(), combine.kernel()]


def _full_in_one(cluster: Cluster, memory: Memory, uses: Mapping[int, int]) -> Kernel:
    build = _builder(cluster, memory, uses)
    reductions = _reductions(cluster)
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
        if not isinstance(node.op.lower, ReduceLowering) and _is_stored(node, memory):
            build.store(node.outputs[0], index)
    for node, total in zip(_reductions(cluster), totals):
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
