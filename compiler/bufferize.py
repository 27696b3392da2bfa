"""Values become buffers: clusters -> the steps of a program.

This is the only place that decides what shares memory and what is updated in place; above it
everything is functional.  An update ``s := v`` is done in place when the kernel that computes ``v``
reads ``s`` only at the index it writes, and every other reader of ``s`` runs earlier; otherwise
``v`` gets memory of its own and is copied at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..runtime.artifact import CompileError, format_message
from .access import (
    Read, behind_views, checked_nodes, index_of_rank, is_view, is_widening, reads_of_node)
from .band import group_bands, lower_band
from .contraction import contract_operand, contract_windows
from .dims import DimLike, Symbol, as_dim, proves_equal, symbols_of
from .fuse import Cluster, Plan, fuse, reads_of_cluster
from .graph import Apply, Constant, Variable, describe, format_site, toposort
from .loop.ir import Buffer
from .lower import lower_cluster, lower_copy, lower_region
from .ops.op import (
    ContractLowering, IndexLowering, MapLowering, ReduceLowering, ScalarLowering, ScatterLowering,
    ViewLowering)
from .program import Contract, Copy, Failure, For, Guard, Program, Step, View

CONVERTED_COLUMNS = 64
"""Columns of a product from which on a left operand of halves is converted before.  It costs 0.3 ns
an element; converting in the product, 40 % of its time: 0.6 ns an element for 64 columns."""


@dataclass(frozen=True, slots=True, eq=False)
class MapBody:
    """The inlined body of a map: ``outputs`` in terms of ``index`` and of outer variables."""

    index: Symbol
    outputs: tuple[Variable, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FunctionGraph:
    """What is compiled: an expanded, interned graph.

    Attributes
    ----------
    name : str
    inputs, shared : tuple of Variable
    outputs : tuple of Variable
    updates : tuple of (int, Variable)
        Position of a shared variable, and its new value.
    guards : tuple of Guard
    bodies : mapping
        id of a map's node -> its body.
    """

    name: str
    inputs: tuple[Variable, ...]
    shared: tuple[Variable, ...]
    outputs: tuple[Variable, ...]
    updates: tuple[tuple[int, Variable], ...] = ()
    guards: tuple[Guard, ...] = ()
    bodies: Mapping[int, MapBody] = field(default_factory=dict)


class BufferOptions(NamedTuple):
    """Passes that tests switch off (``fusion``, ``in_place``), and what the nests are for.

    ``for_cores``: a few cores with caches, for which matrices are walked in blocks and bands of
    rows.  Else sums of columns are plain loops, which a schedule spreads over many threads.
    """

    fusion: bool = True
    in_place: bool = True
    for_cores: bool = True


class Memory:
    """Which variables have which buffer, while a program is being built.

    ``symbols`` are the sizes known when a call starts: what the size of a buffer may depend on.
    ``for_cores`` is that of :class:`BufferOptions`.
    """

    def __init__(self, symbols: Iterable[Symbol] = (), for_cores: bool = True) -> None:
        self.symbols, self.for_cores = frozenset(symbols), for_cores
        self.buffers: dict[int, Buffer] = {}
        self.constants: dict[Buffer, np.ndarray] = {}
        self.failures: list[Failure] = []
        self.overwritten: set[Buffer] = set()
        self.variables: list[Variable] = []

    def give(self, variable: Variable, buffer: Buffer) -> None:
        """Record that ``variable`` lives in ``buffer``."""
        self.buffers[id(variable)] = buffer
        self.variables.append(variable)

    def buffer_of(self, variable: Variable) -> Buffer:
        """Return a variable's buffer, making one for a constant."""
        buffer = self.buffers.get(id(variable))
        if buffer is None:
            assert isinstance(variable, Constant), f"no buffer for {describe(variable)}"
            buffer = Buffer(f"constant{len(self.constants)}", variable.dtype,
                            variable.type.dims, "constant")
            self.constants[buffer] = variable.data
            self.give(variable, buffer)
        return buffer

    def temporary(self, name: str, dtype: str, dims: tuple[DimLike, ...]) -> Buffer:
        """Return a new temporary."""
        return Buffer(name, dtype, dims)

    def allocate(self, variable: Variable) -> Buffer:
        """Give a variable a new temporary."""
        name = variable.name or (variable.owner.op.name.rstrip("_") if variable.owner else "value")
        buffer = self.temporary(name, variable.dtype, variable.type.dims)
        self.give(variable, buffer)
        return buffer

    def keep(self, variable: Variable, host: Buffer | None) -> None:
        """Give a value memory between passes over a row: its host's, if there is one."""
        if host is None:
            self.allocate(variable)
            return
        self.give(variable, host)
        self.overwritten.add(host.root())

    def forget(self, variables: Iterable[Variable]) -> None:
        """Take back the memory that values had between passes."""
        for variable in variables:
            del self.buffers[id(variable)]

    def is_fresh(self, variable: Variable) -> bool:
        """Return whether a variable's buffer starts without content and has no alias yet."""
        buffer = self.buffers[id(variable)]
        return buffer.role in ("output", "temporary") and buffer.base is None \
            and buffer not in self.overwritten

    def failure(self, failure: Failure) -> int:
        """Return the code of a failure, adding it to the program's list."""
        if failure not in self.failures:
            self.failures.append(failure)
        return self.failures.index(failure) + 1


def bufferize(graph: FunctionGraph, symbols: tuple[Symbol, ...],
              options: BufferOptions = BufferOptions()) -> Program:
    """Return the program of a function: fused, with buffers, not yet with an arena.

    Parameters
    ----------
    graph : FunctionGraph
    symbols : tuple of Symbol
        All free size symbols, in the order ``Program.symbols`` documents.
    options : BufferOptions
    """
    return _Bufferizer(graph, symbols, options).program()


class _Bufferizer:
    def __init__(self, graph: FunctionGraph, symbols: tuple[Symbol, ...], options: BufferOptions):
        self.graph, self.symbols, self.options = graph, symbols, options
        self.memory = Memory(symbols, options.for_cores)
        self.uses: Counter[int] = Counter()
        self.inputs = tuple(self._argument(v, "input", k) for k, v in enumerate(graph.inputs))
        self.shared = tuple(self._argument(v, "shared", k) for k, v in enumerate(graph.shared))
        self.outputs: list[Buffer] = []
        self.replaces: list[int | None] = []

    def _argument(self, variable: Variable, role: str, k: int) -> Buffer:
        buffer = Buffer(variable.name or f"{role}{k}", variable.dtype, variable.type.dims, role)
        self.memory.give(variable, buffer)
        return buffer

    # -- the whole function ------------------------------------------------------------------------

    def program(self) -> Program:
        """Build the program."""
        graph = self.graph
        results = [*graph.outputs, *(v for _, v in graph.updates)]
        nodes = toposort(results)
        forced = needs_memory(nodes, results, self.options.for_cores)
        update_only = _update_only(nodes, graph, forced) if self.options.in_place else set()
        self._count_uses(nodes)
        plan = fuse(nodes, [v for v in results if v.owner is not None], forced, update_only,
                    self.options.fusion)
        in_place = self._in_place(plan, nodes, forced)
        late = self._place_results(in_place)
        self._allocate(plan, nodes)
        early_steps, commit_steps = self._steps(plan, forced)
        early_steps += self._output_copies()
        saves, stores = self._update_copies(late)
        return Program(
            graph.name, self.inputs, self.shared, tuple(self.outputs), self.symbols,
            tuple(early_steps + saves + commit_steps + stores), constants=self.memory.constants,
            guards=graph.guards, failures=tuple(self.memory.failures),
            commit=len(early_steps) + len(saves),
            replaces=tuple(self.replaces))

    def _count_uses(self, nodes: Iterable[Apply]) -> None:
        for node in nodes:
            for source in node.inputs:
                self.uses[id(source)] += 1

    def _place_results(self, in_place: dict[int, Variable]) -> list[tuple[int, Variable]]:
        """Give outputs their buffers; return the updates that are copied at the end."""
        for k, variable in in_place.items():
            self.memory.give(variable, self.shared[k])
            self.memory.overwritten.add(self.shared[k])
        for k, variable in enumerate(self.graph.outputs):
            self._place_output(variable, f"output{k}", None)
        late = []
        for k, variable in self.graph.updates:
            if k in in_place or variable is self.graph.shared[k]:
                continue
            own = self.graph.shared[k].type.dims
            if len(own) == variable.ndim and all(
                    proves_equal(a, b) for a, b in zip(own, variable.type.dims)):
                late.append((k, variable))
            else:
                self._place_output(variable, f"new_{self.shared[k].name}", k)
        return late

    def _place_output(self, variable: Variable, name: str, replaces: int | None) -> None:
        buffer = Buffer(variable.name or name, variable.dtype, variable.type.dims, "output")
        self.outputs.append(buffer)
        self.replaces.append(replaces)
        if variable.owner is None or id(variable) in self.memory.buffers:
            return
        self.memory.give(variable, buffer)
        source = variable.owner.inputs[0] if variable.owner.inputs else None
        if isinstance(variable.owner.op.lower, ViewLowering) and source.owner is not None \
                and id(source) not in self.memory.buffers and not is_view(source) \
                and not isinstance(source.owner.op.lower, ViewLowering):
            # The reshaped value is computed straight into the output.
            self.memory.give(source, Buffer(buffer.name, source.dtype, source.type.dims,
                                            "output", buffer))

    def _output_copies(self) -> list[Step]:
        """Copy the outputs that are inputs, constants, or another output."""
        results = [*self.graph.outputs,
                   *(v for k, v in self.graph.updates if k in self.replaces)]
        return [self._copy(variable, buffer) for variable, buffer in zip(results, self.outputs)
                if self.memory.buffers.get(id(variable)) is not buffer]

    def _copy(self, variable: Variable, target: Buffer) -> Step:
        return Copy(self.memory.buffer_of(variable), target)

    def _update_copies(self, late: list[tuple[int, Variable]]) -> tuple[list[Step], list[Step]]:
        saves: list[Step] = []
        stores: list[Step] = []
        for k, variable in late:
            source = self.memory.buffer_of(variable)
            if source.root().role == "shared":
                # Another update may overwrite it first (a swap): take its old value aside.
                saved = self.memory.temporary(f"old_{source.name}", source.dtype, source.dims)
                saves.append(Copy(source, saved))
                source = saved
            stores.append(Copy(source, self.shared[k]))
        return saves, stores

    def _in_place(self, plan: Plan, nodes: Sequence[Apply], forced: set[int]
                  ) -> dict[int, Variable]:
        """Return the updates that may overwrite their shared variable."""
        if not self.options.in_place:
            return {}
        targets = Counter(id(v) for _, v in self.graph.updates)
        outputs = {id(v) for v in self.graph.outputs}
        updating = [cluster for cluster in plan.clusters if cluster.is_update]
        home = {id(node): cluster for cluster in updating for node in cluster.members}
        reads: dict[int, list[tuple[Cluster, Read]]] = {}
        for cluster in updating:
            for read in reads_of_cluster(cluster, forced):
                reads.setdefault(id(read.variable), []).append((cluster, read))
                for alias in _aliases(read.variable):
                    reads.setdefault(id(alias), []).append((cluster, Read(alias, None)))
        chosen = {}
        copied = {id(v) for _, v in self.graph.updates if v.owner is None}
        for k, variable in self.graph.updates:
            own = self.graph.shared[k]
            if variable.owner is None or id(variable.owner) not in home or id(own) in copied \
                    or targets[id(variable)] > 1 or id(variable) in outputs \
                    or variable.type.dims != own.type.dims:
                continue
            cluster = home[id(variable.owner)]
            if cluster.space == own.type.dims and all(
                    other is cluster and read.is_in_place()
                    for other, read in reads.get(id(own), ())):
                chosen[k] = variable
        return chosen

    # -- a block of nodes --------------------------------------------------------------------------

    def _allocate(self, plan: Plan, nodes: Sequence[Apply]) -> None:
        """Give every stored variable of a block its memory."""
        buffers = self.memory.buffers
        for node in nodes:
            for out in node.outputs:
                if id(out) not in plan.stored or id(out) in buffers:
                    continue
                start = _start_of(node)
                if isinstance(node.op.lower, ViewLowering):
                    base = self.memory.buffer_of(node.inputs[0])
                    self.memory.give(out, Buffer(base.name, out.dtype, out.type.dims,
                                                 base.role, base))
                elif start is not None and self._may_take_over(start, out):
                    self.memory.give(out, buffers[id(start)])
                else:
                    self.memory.allocate(out)

    def _may_take_over(self, start: Variable, out: Variable) -> bool:
        """Return whether a scatter may write into the memory of the value it starts from."""
        buffer = self.memory.buffers.get(id(start))
        return self.options.in_place and buffer is not None and buffer.role == "temporary" \
            and buffer.base is None and self.uses[id(start)] == 1 \
            and start.owner is not None and not isinstance(start.owner.op.lower, ViewLowering) \
            and start.type == out.type

    def _steps(self, plan: Plan, forced: set[int]) -> tuple[list[Step], list[Step]]:
        early: list[Step] = []
        commit: list[Step] = []
        walks_bands = self.options.fusion and self.options.for_cores
        groups = group_bands(plan.clusters, self.memory, forced) if walks_bands \
            else ((cluster,) for cluster in plan.clusters)
        for group in groups:
            steps = self._cluster(group[0], forced) if len(group) == 1 \
                else lower_band(group, self.memory, self.uses)
            (commit if group[0].is_update else early).extend(steps)
        return early, commit

    def _cluster(self, cluster: Cluster, forced: set[int]) -> list[Step]:
        if cluster.kind != "step":
            if not any(id(out) in self.memory.buffers
                       for node in cluster.members for out in node.outputs):
                return []
            return list(lower_cluster(cluster, self.memory, self.uses))
        node = next(n for n in cluster.members if isinstance(
            n.op.lower, (ViewLowering, ContractLowering, ScatterLowering, MapLowering)))
        lower = node.op.lower
        if isinstance(lower, ViewLowering):
            out = self.memory.buffer_of(node.outputs[0])
            source = self.memory.buffer_of(node.inputs[0])
            return [] if out.root() is source.root() else [Copy(source, out)]
        if isinstance(lower, ContractLowering):
            return [self._contract(node, forced)]
        if isinstance(lower, MapLowering):
            return [self._map(node)]
        return self._scatter(node)

    def _contract(self, node: Apply, forced: set[int]) -> Step:
        out = self.memory.buffer_of(node.outputs[0])
        left, right = (contract_operand(v, forced) for v in node.inputs)
        assert left is not None and right is not None
        windows = contract_windows(node, left, right)
        return Contract(*(View(buffer, offset, *window) for buffer, offset, window in zip(
            (out, self.memory.buffer_of(left.base), self.memory.buffer_of(right.base)),
            (0, left.offset, right.offset), windows)))

    def _scatter(self, node: Apply) -> list[Step]:
        start, regions = node.op.lower.rule(node)
        out = self.memory.buffer_of(node.outputs[0])
        steps: list[Step] = []
        if start is not None and self.memory.buffers.get(id(node.inputs[start])) is not out:
            source = node.inputs[start]
            stored = self.memory.buffers.get(id(source))
            name = f"start_{node.op.name}"
            steps.append(Copy(stored, out) if stored is not None else
                         lower_copy(source, out, (), self.memory, self.uses, name))
        steps += [lower_region(region, node, set(), self.memory, self.uses) for region in regions]
        return steps

    def _map(self, node: Apply) -> Step:
        """Lower the body as a block of its own; each result goes to its slice of the output."""
        body = self.graph.bodies[id(node)]
        nodes = toposort(body.outputs, stop=self.memory.variables)
        results = [v for v in body.outputs if v.owner is not None]
        forced = needs_memory(nodes, results, self.options.for_cores)
        self._count_uses(nodes)
        plan = fuse(nodes, results, forced, frozenset(), self.options.fusion)
        self._allocate(plan, nodes)
        _refuse_changing_sizes(nodes, body.index, self.memory)
        steps, _ = self._steps(plan, forced)
        for value, out in zip(body.outputs, node.outputs):
            steps.append(lower_copy(value, self.memory.buffer_of(out), (as_dim(body.index),),
                                    self.memory, self.uses, "store_slice"))
        return For(body.index, node.outputs[0].type.dims[0], tuple(steps))


def _refuse_changing_sizes(nodes: Iterable[Apply], step: Symbol, memory: Memory) -> None:
    """Refuse values of a loop's body that need memory of another size at every step."""
    for node in nodes:
        buffer = memory.buffers.get(id(node.outputs[0]))
        if buffer is not None and any(step in symbols_of(dim) for dim in buffer.dims):
            raise CompileError(format_message(
                "Inside a map, a value that has to be kept has a size that depends on the step.",
                values=f"{describe(node.outputs[0])} {node.outputs[0].type}",
                where=format_site(node.site),
                remedy="compute on the full size and select with T.switch"))


def needs_memory(nodes: Sequence[Apply], results: Iterable[Variable], for_cores: bool) -> set[int]:
    """Return the ids of variables that cannot be recomputed where they are read."""
    forced = {id(v) for v in results if v.owner is not None}
    for node in nodes:
        lower = node.op.lower
        if isinstance(lower, ViewLowering):
            forced.add(id(node.inputs[0]))
        elif isinstance(lower, ContractLowering):
            left = node.inputs[0]
            base, _ = behind_views(left, index_of_rank(left.ndim))
            if for_cores and is_widening(base) and _has_many_columns(node):
                forced.add(id(base))
            for operand in node.inputs:
                found = contract_operand(operand, forced)
                forced.add(id(operand if found is None else found.base))
        elif isinstance(lower, MapLowering):
            for source in node.inputs:
                forced.add(id(behind_views(source, index_of_rank(source.ndim), forced)[0]))
    return forced


def _has_many_columns(product: Apply) -> bool:
    """Return whether halves on the left of a product are better converted before.

    A core reads its elements one by one, once for every few columns of the result, while those of
    the right operand are converted many at a time, when they are copied to a panel.
    """
    columns = product.outputs[0].type.dims[-1]
    return not (isinstance(columns, int) and columns < CONVERTED_COLUMNS)


def _aliases(variable: Variable) -> list[Variable]:
    """Return the variables whose memory a reshape shows."""
    found = []
    while variable.owner is not None and isinstance(variable.owner.op.lower, ViewLowering):
        source = variable.owner.inputs[0]
        variable, _ = behind_views(source, index_of_rank(source.ndim))
        found.append(variable)
    return found


def _start_of(node: Apply) -> Variable | None:
    if not isinstance(node.op.lower, ScatterLowering):
        return None
    start, _ = node.op.lower.rule(node)
    return None if start is None else node.inputs[start]


def _update_only(nodes: Sequence[Apply], graph: FunctionGraph, forced: set[int]) -> set[int]:
    """Return the ids of elementwise nodes that only serve updates and cannot fail."""
    readers: dict[int, list[Apply]] = {}
    for node in nodes:
        for source in node.inputs:
            readers.setdefault(id(source), []).append(node)
    outputs = {id(v) for v in graph.outputs}
    updates = {id(v) for _, v in graph.updates}
    checked = checked_nodes(nodes)
    found: set[int] = set()
    for node in reversed(nodes):
        out = node.outputs[0]
        following = readers.get(id(out), [])
        if id(out) in outputs or not (following or id(out) in updates) \
                or not isinstance(node.op.lower, (ScalarLowering, IndexLowering)) \
                or isinstance(node.op.lower, ReduceLowering) or id(node) in checked:
            continue
        if any(read.position is None for read in reads_of_node(node, set())):
            continue
        if all(id(reader) in found for reader in following) \
                and (id(out) not in forced or id(out) in updates):
            found.add(id(node))
    return found
