"""Values of a row that only whole rows read: computed in every loop over the rows, never stored.

Fusion runs clusters in order of depth.  A value of a row (or of everything: ``1/n``) that has a
cluster of its own, before those that read it, would keep what reads it out of a cluster as early,
to which the rest of a row's computation belongs: all passes over a row then store their results for
the pass after.  Computed once a row, wherever the row is walked, it costs nothing beside the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .access import Read, index_of_rank, scalar_constant
from .dims import symbols_of
from .graph import Apply
from .ops.op import IndexLowering, ReduceLowering, ScalarLowering

LARGEST_COST, DEAR = 20.0, 10.0
"""Most that a value may cost altogether, in additions, and one of its operations, which is no
transcendental function: one element at a time that takes as long as many elements of a row."""


def row_values(nodes: Sequence[Apply], reads: Mapping[int, Iterable[Read]], kept: set[int],
               costs: Mapping[int, float]) -> set[int]:
    """Return the ids of nodes that are computed wherever they are read.

    Parameters
    ----------
    nodes : sequence of Apply
        A block in topological order.
    reads : mapping
        id of node -> what it reads, views composed; views are left out.
    kept : set of int
        ids of variables that must have memory, and of nodes apart from the others, which may read
        no value that is not stored.
    costs : mapping
        id of node -> cost of one element.
    """
    leaves = {key for key, own in reads.items()
              if all(scalar_constant(read.variable) is not None for read in own)}
    serving = _serving_rows(nodes, reads, kept, leaves)
    found: set[int] = set()
    inside = set(reads)
    total: dict[int, float] = {}
    for node in nodes:
        if id(node) not in serving or not _is_cheap(node) or costs[id(node)] >= DEAR:
            continue
        owners = [read.variable.owner for read in reads[id(node)]]
        cost = costs[id(node)] + sum(total.get(id(owner), 0.0) for owner in owners)
        if cost <= LARGEST_COST and all(owner is None or id(owner) in found
                                        or id(owner) not in inside for owner in owners) \
                and all(read.position is not None for read in reads[id(node)]):
            found.add(id(node))
            total[id(node)] = cost
    return found


def _is_cheap(node: Apply) -> bool:
    lower = node.op.lower
    return isinstance(lower, ScalarLowering) or isinstance(lower, IndexLowering) and lower.is_cheap


def _serving_rows(nodes: Sequence[Apply], reads: Mapping[int, Iterable[Read]], kept: set[int],
                  leaves: set[int]) -> set[int]:
    """Return the ids of nodes whose readers are loops over rows, or others that serve such only;
    a number, or what is made of nothing (``arange``), may be read by anything that is a loop."""
    serving: set[int] = set()
    refused: set[int] = set()
    for node in reversed(nodes):
        key = id(node)
        if key not in reads:
            continue
        if key in refused or any(id(out) in kept for out in node.outputs):
            serving.discard(key)
        is_loop = key not in kept and isinstance(
            node.op.lower, (ScalarLowering, IndexLowering, ReduceLowering))
        source = node.inputs[0] if isinstance(node.op.lower, ReduceLowering) else node.outputs[0]
        innermost = symbols_of(index_of_rank(source.ndim)[-1]) if source.ndim else frozenset()
        for read in reads[key]:
            is_once_a_row = source.ndim > 0 and read.position is not None and all(
                innermost.isdisjoint(symbols_of(dim)) for dim in read.position)
            owner = read.variable.owner
            may_serve = is_loop and (is_once_a_row or key in serving or read.variable.ndim == 0
                                     or id(owner) in leaves)
            (serving if may_serve else refused).add(id(owner))
    return serving
