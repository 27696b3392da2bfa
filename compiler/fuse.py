"""Decide which operations share a loop nest: graph -> clusters.

A *cluster* becomes one kernel.  Its members iterate over one *space* (a tuple of dims); those of a
reducing cluster may also live on the outer axes only.  An edge between different clusters always
leads to a larger *depth*, so the clusters can run in order of depth and no cycle can arise; one
pass in topological order places every node.  A second, backward pass moves operations that are
needed in one later cluster only into it, and decides which values get memory.

::

    kind       reduces               what consumers of its reductions may be
    pointwise  nothing               -
    row        the trailing axes     members: the same outer loop goes on (softmax, layer norm)
    column     leading/middle axes   in later clusters
    full       all axes              in later clusters
    step       (a whole operation)   in later clusters

What is not stored is computed by every cluster that needs it.  ``band.py`` then runs together
clusters that walk the rows of one matrix.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .access import Position, Read, checked_nodes, index_of_rank, is_widening, reads_of_node
from .dims import DimLike, prod, proves_nonnegative
from .graph import Apply, Variable
from .ops.op import (
    ContractLowering, IndexLowering, MapLowering, ReduceLowering, ScalarLowering, ScatterLowering,
    ViewLowering)
from .row_values import row_values

MAX_WEIGHT = 600.0
"""Largest total cost of a cluster's scalar operations: bounds the compile time of one kernel."""

HUGE_TOTAL, HUGE_WEIGHT = 20_000.0, 10.0
"""In a graph whose operations cost more than this in total, compile time decides: clusters hold at
most the weight of one transcendental function, so that most kernels are equal to another one, and
equal kernels are compiled once."""

MAX_REDUCTIONS = 12
"""Most reductions in a cluster.  Their running totals share the registers; and each pass over a row
computes again what earlier passes did not keep, so that without a bound the code of a chain of
softmaxes grows with the square of its length."""

CHEAP = 2.0
"""Operations up to this cost are recomputed rather than stored wherever they read one array."""

CHEAP_IN_MEMORY = 9.0
"""The same for values of arrays too large for the second-level cache.  Storing an element and
loading it again moves 12 bytes (the line is read before it is written): 0.5 ns at 25 GB/s, the time
of about nine vectorised additions, and less than that of an exponential."""

IN_CACHE = 1 << 16
"""Elements of an array known to stay in the second-level cache until it is read."""

MAX_SOURCES = 2
"""Most arrays that are read to recompute a value in one more place: to store and load it again
moves as much as to read three."""


DEAR = 10.0
"""Cost of a transcendental function.  One element at a time it takes 20 ns and more, ten times as
long as in a vector: far longer than to store and load what it needs."""


@dataclass(eq=False, slots=True)
class Cluster:
    """Operations that will share a kernel; see the module's documentation."""

    depth: int
    space: tuple[DimLike, ...]
    serial: int
    is_step: bool = False
    is_update: bool = False
    reduced: tuple[int, int] | None = None
    weight: float = 0.0
    reductions: int = 0
    members: list[Apply] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """``pointwise``, ``row``, ``column``, ``full`` or ``step``."""
        if self.is_step:
            return "step"
        if self.reduced is None:
            return "pointwise"
        first, last = self.reduced
        if last < len(self.space):
            return "column"
        return "full" if first == 0 else "row"

    @property
    def outer(self) -> int:
        """Number of axes of the outer loop of a row cluster."""
        return self.reduced[0] if self.reduced is not None else len(self.space)


class Plan(NamedTuple):
    """The result of fusing a block.

    Attributes
    ----------
    clusters : list of Cluster
        In an order in which they can run; members are in topological order.
    stored : set of int
        ids of variables that get memory.
    """

    clusters: list[Cluster]
    stored: set[int]


class _Chain(NamedTuple):
    """Cost of computing a value again from arrays of its size or larger, and their ids."""

    cost: float
    sources: frozenset[int]


def fuse(nodes: Sequence[Apply], outputs: Iterable[Variable], forced: set[int],
         update_only: set[int] = frozenset(), enabled: bool = True) -> Plan:
    """Cluster the nodes of a block.

    Parameters
    ----------
    nodes : sequence of Apply
        In topological order; views that need no memory are among them and are skipped.
    outputs : iterable of Variable
        Results of the block.
    forced : set of int
        ids of variables that must have memory (outputs, operands of library calls).
    update_only : set of int
        ids of nodes whose results only update shared variables: kept apart, to run last.
    enabled : bool
        False gives every operation its own cluster (to test the others against).
    """
    fuser = _Fuser(forced, update_only, checked_nodes(nodes), enabled)
    if sum(map(cost_of, nodes)) > HUGE_TOTAL:
        fuser.limit = HUGE_WEIGHT
    early, late = fuser.separate(nodes)
    if enabled:
        fuser.find_row_values(nodes)
    for node in early:
        fuser.place(node)
    fuser.find_floors(late)
    for node in late:
        fuser.place(node)
    return fuser.finish(nodes, outputs)


class _Fuser:
    def __init__(self, forced: set[int], update_only: set[int], checked: set[int], enabled: bool):
        self.forced, self.update_only, self.enabled = forced, update_only, enabled
        self.checked = checked
        self.home: dict[int, Cluster] = {}
        self.reads: dict[int, list[Read]] = {}
        self.by_space: dict[tuple, list[Cluster]] = defaultdict(list)
        self.clusters: list[Cluster] = []
        self.limit = MAX_WEIGHT
        self.parts: dict[int, int] = {}
        self.floors: dict[int, int] = {}
        self.row_values: set[int] = set()

    # -- forward: place every node ---------------------------------------------------------------

    def is_skipped(self, node: Apply) -> bool:
        """Views are composed into their readers unless they must have memory."""
        lower = node.op.lower
        return isinstance(lower, IndexLowering) and lower.is_view \
            and id(node.outputs[0]) not in self.forced

    def separate(self, nodes: Sequence[Apply]) -> tuple[list[Apply], list[Apply]]:
        """Find what each node reads, and which updates have nothing to do with each other.

        Updates that share no array of their size gain nothing from one loop, and lose: one may
        have to wait for what the other reads, no product can take both, and kernels of other
        numbers of updates are not equal to this one.

        Returns
        -------
        early, late : list of Apply
            Nodes that no update of an array comes before, and the others.
        """
        parent: dict[int, int] = {}

        def part_of(key: int) -> int:
            while parent.setdefault(key, key) != key:
                parent[key] = key = parent[parent[key]]
            return key

        for node in nodes:
            if self.is_skipped(node):
                continue
            out = node.outputs[0]
            reads = self.reads[id(node)] = reads_of_node(node, self.forced)
            if id(node) in self.update_only:
                for read in reads:
                    if read.variable.type.dims == out.type.dims:
                        parent[part_of(id(read.variable))] = part_of(id(out))
        self.parts = {id(node): part_of(id(node.outputs[0])) for node in nodes
                      if id(node) in self.update_only and id(node) in self.reads
                      and node.outputs[0].ndim > 0}
        early, late, after = [], [], set()
        for node in nodes:
            is_late = id(node) in self.parts or any(id(source) in after for source in node.inputs)
            (late if is_late else early).append(node)
            if is_late:
                after.update(map(id, node.outputs))
        return early, late

    def find_row_values(self, nodes: Sequence[Apply]) -> None:
        """Find the values that have no cluster: those that read them compute them."""
        costs = {id(node): cost_of(node) for node in nodes}
        self.row_values = row_values(nodes, self.reads, self.forced | self.update_only, costs)

    def find_floors(self, late: Sequence[Apply]) -> None:
        """Note for each set of updates the first depth at which all that it needs is there, so
        that its members can meet in one cluster."""
        for node in late:
            part = self.parts.get(id(node))
            if part is not None:
                self.floors[part] = max([self.floors.get(part, 0)] + [
                    home.depth + 1 for _, home in self._homes(self.reads[id(node)])])

    def place(self, node: Apply) -> None:
        """Put a node into the best cluster that may take it, or into a new one."""
        if self.is_skipped(node) or id(node) in self.row_values:
            return
        reads = self.reads[id(node)]
        lower = node.op.lower
        if isinstance(lower, ViewLowering):
            self._place_step(node, reads, is_alias=True)
        elif isinstance(lower, (ScatterLowering, ContractLowering, MapLowering)):
            self._place_step(node, reads)
        else:
            self._place_fusable(node, reads)

    def _new(self, depth: int, space: tuple[DimLike, ...], **options) -> Cluster:
        cluster = Cluster(depth, space, len(self.clusters), **options)
        self.clusters.append(cluster)
        return cluster

    def _homes(self, reads: list[Read]) -> list[tuple[Read, Cluster]]:
        return [(read, self.home[id(read.variable.owner)]) for read in reads
                if read.variable.owner is not None and id(read.variable.owner) in self.home]

    def _place_step(self, node: Apply, reads: list[Read], is_alias: bool = False) -> None:
        depth = 1 + max((home.depth for _, home in self._homes(reads)), default=-1)
        cluster = self._new(depth, node.outputs[0].type.dims, is_step=True)
        cluster.members.append(node)
        self.home[id(node)] = cluster

    def _place_fusable(self, node: Apply, reads: list[Read]) -> None:
        space, reduced = _space_of(node)
        is_update = id(node) in self.update_only
        homes = self._homes(reads)
        fusable = [home for read, home in homes if _is_aligned(read, home)]
        part = self.parts.get(id(node))
        minimum = max((home.depth + 1 for read, home in homes if not _is_aligned(read, home)),
                      default=0)
        minimum = max(minimum, self.floors.get(part, 0))
        cost = cost_of(node)
        chosen = None
        if self.enabled:
            for cluster in sorted(set(fusable), key=lambda c: (-c.depth, c.serial)):
                if cluster.depth >= minimum and cluster.is_update == is_update \
                        and all(h is cluster or h.depth < cluster.depth for h in fusable) \
                        and _accepts(cluster, node, space, reduced, self.limit - cost):
                    chosen = cluster
                    break
            else:
                minimum = max([minimum] + [home.depth + 1 for home in fusable])
                for cluster in reversed(self.by_space[space, part][-8:]):
                    if cluster.depth >= minimum and cluster.is_update == is_update \
                            and _accepts(cluster, node, space, reduced, self.limit - cost):
                        chosen = cluster
                        break
        if chosen is None:
            depth = max([minimum] + [home.depth + 1 for home in fusable])
            chosen = self._new(depth, space, is_update=is_update)
            self.by_space[space, part].append(chosen)
        if reduced is not None:
            chosen.reduced = reduced
            chosen.reductions += 1
        chosen.weight += cost
        chosen.members.append(node)
        self.home[id(node)] = chosen

    # -- backward: move operations to where they are needed ----------------------------------------

    def finish(self, nodes: Sequence[Apply], outputs: Iterable[Variable]) -> Plan:
        """Decide what is stored, and sink what only one later cluster needs."""
        stored = {id(v) for v in outputs} | set(self.forced)
        needed: dict[int, dict[Cluster, bool]] = defaultdict(dict)
        located: dict[Cluster, set[int]] = defaultdict(set)
        chains = {}
        for node in nodes:
            if id(node) in self.home:
                chains[id(node)] = self._chain(node, chains)
        for node in reversed(nodes):
            if id(node) in self.row_values:
                places = needed[id(node)]
            elif id(node) in self.home:
                home = self.home[id(node)]
                places = self._places(node, home, needed[id(node)], stored, chains)
            else:
                continue
            for place, _ in places.items():
                located[place].add(id(node))
                for read in self.reads[id(node)]:
                    owner = read.variable.owner
                    if owner is not None and (
                            id(owner) in self.home or id(owner) in self.row_values):
                        same = place is self.home.get(id(owner)) and _is_aligned(read, place)
                        exact = _is_bijection(read, node)
                        seen = needed[id(owner)]
                        seen[place] = seen.get(place, True) and (same or exact)
        position = {id(node): k for k, node in enumerate(nodes)}
        by_id = {id(node): node for node in nodes}
        for cluster in self.clusters:
            cluster.members = [by_id[k] for k in sorted(located[cluster], key=position.__getitem__)]
        order = sorted((c for c in self.clusters if c.members),
                       key=lambda c: (c.is_update, c.depth, c.serial))
        if self.enabled:
            order = [part for cluster in order for part in self._split(cluster, stored)]
        return Plan(order, stored)

    def _split(self, cluster: Cluster, stored: set[int]) -> list[Cluster]:
        """Take dear operations that happen once a row, after all passes over it, out of a cluster:
        in a loop of their own over the rows they vectorise."""
        outer = {id(node): node for node in cluster.members
                 if is_outer(node, cluster) and not isinstance(node.op.lower, ReduceLowering)}
        needed: set[int] = set()
        for node in reversed(cluster.members):
            if id(node) not in outer or id(node) in needed:
                needed.update(id(read.variable.owner) for read in self.reads[id(node)])
        late = [node for node in outer.values() if id(node) not in needed]
        dims = {node.outputs[0].type.dims for node in late}
        if len(dims) != 1 or max(map(cost_of, late)) < DEAR:
            return [cluster]
        inside = {id(node) for node in late}
        rest = {id(node): node for node in cluster.members if id(node) not in inside}
        crossing = [rest[id(read.variable.owner)] for node in late for read in self.reads[id(node)]
                    if id(read.variable.owner) in rest]
        if not all(is_outer(node, cluster) for node in crossing):
            return [cluster]
        stored.update(id(node.outputs[0]) for node in crossing)
        cluster.members = list(rest.values())
        return [cluster, Cluster(cluster.depth, *dims, cluster.serial, members=late)]

    def _chain(self, node: Apply, chains: dict[int, _Chain]) -> _Chain:
        """Return what it takes to compute an element of a node again, from chains before it."""
        lower = node.op.lower
        if not isinstance(lower, (ScalarLowering, IndexLowering)) \
                or id(node.outputs[0]) in self.forced:
            return _Chain(0.0, frozenset({id(node.outputs[0])}))
        cost, sources = cost_of(node), set()
        for read in self.reads[id(node)]:
            variable = read.variable
            if hasattr(variable, "data") or _is_smaller(variable, node.outputs[0]):
                continue
            before = chains.get(id(variable.owner)) or _Chain(0.0, frozenset({id(variable)}))
            cost += before.cost
            sources |= before.sources
        return _Chain(cost, frozenset(sources))

    def _is_recomputed(self, node: Apply, home: Cluster, needed: dict[Cluster, bool],
                       chain: _Chain) -> bool:
        """Return whether computing a value again costs less than to store and to load it.

        A half converted to float32 is converted wherever it is read: what is stored is the half.
        """
        if not self.enabled or id(node) in self.checked \
                or any(read.position is None for read in self.reads[id(node)]):
            return False
        if is_widening(node.outputs[0]):
            return True
        outside = [cluster for cluster in needed if cluster is not home]
        if any(c.is_update for c in outside) and any(
                id(read.variable.owner) in self.row_values & self.checked
                for read in self.reads[id(node)]):
            return False
        if len(chain.sources) <= 1 and chain.cost <= CHEAP:
            return True
        size = prod(node.outputs[0].type.dims)
        if isinstance(size, int) and size <= IN_CACHE or not all(needed[c] for c in outside) \
                or any(c.is_step or c.is_update for c in outside):
            return False
        most = MAX_SOURCES if len(outside) == 1 and home in needed else 1
        return len(chain.sources) <= most and chain.cost <= CHEAP_IN_MEMORY \
            and all(c.weight + chain.cost <= self.limit for c in outside)

    def _places(self, node: Apply, home: Cluster, needed: dict[Cluster, bool],
                stored: set[int], chains: dict[int, _Chain]) -> dict[Cluster, bool]:
        """Return the clusters that compute ``node``, and mark it stored when others load it."""
        out = node.outputs[0]
        is_step = home.is_step
        if any(id(output) in stored for output in node.outputs):
            stored.update(id(output) for output in node.outputs)
            return {home: True}
        outside = [cluster for cluster in needed if cluster is not home]
        if is_step or isinstance(node.op.lower, ReduceLowering):
            if is_step or outside or home.kind in ("column", "full"):
                stored.update(id(output) for output in node.outputs)
            return {home: True}
        if not outside:
            return {home: True}
        if not self.enabled:
            stored.add(id(out))
            return {home: True}
        if self._is_recomputed(node, home, needed, chains[id(node)]):
            for cluster in outside:
                cluster.weight += cost_of(node)
            return dict(needed)
        if home not in needed and len(outside) == 1:
            target = outside[0]
            if target.is_update and id(node) not in self.update_only:
                stored.add(id(out))
                return {home: True}
            if needed[target] and target.kind != "step" \
                    and target.weight + cost_of(node) <= self.limit:
                target.weight += cost_of(node)
                return {target: True}
            if _may_inline_into_step(target, out):
                return {target: True}
        stored.add(id(out))
        return {home: True}


def cost_of(node: Apply) -> float:
    """Return the cost of one element of a node, relative to an addition."""
    lower = node.op.lower
    return lower.cost if isinstance(lower, ScalarLowering) else 1.0


def reads_of_cluster(cluster: Cluster, stop: frozenset[int] | set[int] = frozenset()
                     ) -> Iterator[Read]:
    """Yield the accesses of a cluster's members when it computes an index.

    A member that another one reads elsewhere, through a view, is computed there too: what it reads
    itself then has no position.
    """
    moved: set[int] = set()
    for node in reversed(cluster.members):
        is_moved = not moved.isdisjoint(map(id, node.outputs))
        for read in reads_of_node(node, stop):
            if is_moved:
                read = Read(read.variable, None)
            if not read.is_in_place():
                moved.add(id(read.variable))
            yield read


def reductions_of(cluster: Cluster) -> list[Apply]:
    """Return the reductions of a cluster."""
    return [node for node in cluster.members if isinstance(node.op.lower, ReduceLowering)]


def _space_of(node: Apply) -> tuple[tuple[DimLike, ...], tuple[int, int] | None]:
    if not isinstance(node.op.lower, ReduceLowering):
        return node.outputs[0].type.dims, None
    axes = node.params["axes"]
    return node.inputs[0].type.dims, (axes[0], axes[-1] + 1)


def _is_aligned(read: Read, cluster: Cluster) -> bool:
    """Return whether a value computed in ``cluster`` is read there at the loop's own index."""
    owner = read.variable.owner
    if cluster.is_step or read.position is None:
        return False
    if isinstance(owner.op.lower, ReduceLowering):
        return cluster.kind == "row" and _is_prefix(read.position, read.variable, cluster)
    if is_outer(owner, cluster):
        return _is_prefix(read.position, read.variable, cluster)
    return _is_identity(read.position, read.variable)


def _is_identity(position: Position, variable: Variable) -> bool:
    return all(p == i or size == 1 for p, i, size
               in zip(position, index_of_rank(len(position)), variable.type.dims))


def _is_prefix(position: Position, variable: Variable, cluster: Cluster) -> bool:
    outer = cluster.outer
    return all(p == i or size == 1 if axis < outer else p == 0 for axis, (p, i, size)
               in enumerate(zip(position, index_of_rank(len(position)), variable.type.dims)))


def is_outer(node: Apply, cluster: Cluster) -> bool:
    """Return whether a member of a row cluster lives on its outer axes only."""
    if cluster.kind != "row":
        return False
    if isinstance(node.op.lower, ReduceLowering):
        return True
    dims, outer = node.outputs[0].type.dims, cluster.space[:cluster.outer]
    return dims[:len(outer)] == outer and dims != cluster.space \
        and all(size == 1 for size in dims[len(outer):])


def _accepts(cluster: Cluster, node: Apply, space: tuple[DimLike, ...],
             reduced: tuple[int, int] | None, largest: float) -> bool:
    """Return whether a cluster of at most the weight ``largest`` may take a node."""
    if cluster.is_step or cluster.weight > largest \
            or (reduced is not None and cluster.reductions >= MAX_REDUCTIONS):
        return False
    if space != cluster.space:
        if reduced is not None or cluster.kind != "row":
            return False
        return is_outer(node, cluster)
    if reduced is None or cluster.reduced == reduced:
        return True
    return cluster.reduced is None


def _is_bijection(read: Read, node: Apply) -> bool:
    """Return whether reading this way visits no element more than once (cheap to prove cases)."""
    dims = node.inputs[0].type.dims if isinstance(node.op.lower, ReduceLowering) \
        else node.outputs[0].type.dims
    surplus = prod(read.variable.type.dims) - prod(dims)
    return surplus == 0 or proves_nonnegative(surplus)


def _is_smaller(variable: Variable, than: Variable) -> bool:
    """Return whether a variable is a row, a column or a number beside another one."""
    size, whole = prod(variable.type.dims), prod(than.type.dims)
    if isinstance(size, int) and isinstance(whole, int):
        return 4 * size <= whole
    return sum(dim != 1 for dim in variable.type.dims) < sum(dim != 1 for dim in than.type.dims)


def _may_inline_into_step(cluster: Cluster, variable: Variable) -> bool:
    """Return whether a step computes its operand element by element: a scatter does."""
    (node,) = cluster.members[:1] or (None,)
    return node is not None and isinstance(node.op.lower, ScatterLowering)
