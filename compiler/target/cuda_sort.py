"""The schedule of scatters of many rows: indices are sorted, and each result adds up its own.

Three nests, none of which has two threads at one element:

::

    positions   for i:   check the index; place[i] = where its row goes
    ranks       for i:   before = places below, same = equal places at smaller i, total = equal ones
                         order[before + same] = i; start[i] = before
                         count[i] = total if same == 0 else 0
    sums        for i, column:   for t < count[i]:  result[..] add= row order[start[i] + t]

A row that several indices name is added up, or stored, by the thread of its first one, in the order
of the loop.  The ranks take the square of the number of indices, but nothing else: for an embedding
of 5,000 rows of 512 and 4,096 indices that is a tenth of what the columns take if each goes through
all indices in turn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..dims import DimLike, Symbol, as_dim, prod, symbols_of
from ..loop.ir import (
    Accumulate, Buffer, Check, Expr, For, If, Let, Load, Local, Nest, Stmt, Store)
from ..loop.rewrite import Rewriter
from ..loop.scalar import apply, const, index
from ..loop.walk import loads, operands, postorder, target_access
from .cuda_schedule import accesses, elementwise

LEAST, MOST = 64, 1 << 16
"""Indices: fewer are gone through one after the other, more would take too long to rank."""

SPARSE = 4
"""Elements of a result for each index, from which on owners would look at too many indices."""


@dataclass(frozen=True, slots=True)
class _Scatter:
    """``for indices, columns: body``, which ends by writing ``buffer[position]``.

    ``head`` binds the position, and depends on no column; ``data`` are the axes that come from it.
    """

    loop: For
    columns: tuple[For, ...]
    head: tuple[Stmt, ...]
    rest: tuple[Stmt, ...]
    data: tuple[tuple[DimLike, DimLike], ...]


def by_rank(nest: Nest, loops: tuple[For, ...], free: list[For],
            body: tuple[Stmt, ...]) -> tuple[Nest, ...] | None:
    """Return the schedule of a scatter through sorted indices, or None when it is not worth it."""
    found = _match(loops, free, body)
    if found is None:
        return None
    count = found.loop.extent
    whole = prod(size for _, size in found.data)
    is_wide = bool(free) and not (
        isinstance(prod(loop.extent for loop in free), int)
        and prod(loop.extent for loop in free) < 32)
    is_sparse = isinstance(whole, int) and whole >= SPARSE * count
    if not LEAST <= count <= MOST or not (is_wide or is_sparse):
        return None
    place, order, start, length = (
        Buffer(name, "int64", (count,)) for name in ("place", "order", "start", "length"))
    return (_positions(nest, found, place), _ranks(nest, found.loop, place, order, start, length),
            _sums(nest, found, order, start, length))


def _match(loops: tuple[For, ...], free: list[For], body: tuple[Stmt, ...]) -> _Scatter | None:
    """Return the parts of a nest of this kind."""
    rest = [loop for loop in loops if loop not in free]
    last = body[-1] if body else None
    target = target_access(last) if isinstance(last, (Store, Accumulate)) else None
    if len(rest) != 1 or not isinstance(rest[0].extent, int) or target is None \
            or any(isinstance(stmt, (For, If)) for stmt in body):
        return None
    buffer, position = target
    reads, writes = accesses(body)
    if len(writes) != 1 or any(read.root() is buffer.root() for read, _ in reads):
        return None
    columns = {loop.index for loop in free}
    bound = {stmt.target for stmt in body if isinstance(stmt, Let)}
    data = tuple((at, size) for at, size in zip(position, buffer.dims)
                 if symbols_of(at) & (bound | {rest[0].index}))
    names = set().union(*(symbols_of(at) for at, _ in data)) & bound
    head = _head(body[:-1], names)
    if not data or head is None or any(
            symbols_of(at) & columns for at, _ in data) or any(_uses(s, columns) for s in head):
        return None
    return _Scatter(rest[0], tuple(free), head, body, data)


def _head(body: tuple[Stmt, ...], names: set[object]) -> tuple[Stmt, ...] | None:
    """Return the checks, and the bindings that they and these names need."""
    needed, head = set(names), []
    for stmt in reversed(body):
        if isinstance(stmt, Check) or (isinstance(stmt, Let) and stmt.target in needed):
            head.append(stmt)
            for node in postorder(*operands(stmt)):
                needed |= {node} if isinstance(node, Local) else set()
            for load in loads(*operands(stmt)):
                for at in load.position:
                    needed |= symbols_of(at)
        elif not isinstance(stmt, Let):
            return None
    return tuple(reversed(head))


def _uses(stmt: Stmt, columns: set[Symbol]) -> bool:
    """Return whether a statement depends on a column."""
    places = [at for load in loads(*operands(stmt)) for at in load.position]
    places += [node.dim for node in postorder(*operands(stmt)) if hasattr(node, "dim")]
    return any(symbols_of(at) & columns for at in places)


def _positions(nest: Nest, found: _Scatter, place: Buffer) -> Nest:
    """Return the nest that checks the indices and notes where each goes."""
    flat: DimLike = 0
    for at, size in found.data:
        flat = flat * size + at
    body = (*found.head, Store(place, (as_dim(found.loop.index),), index(flat)))
    return elementwise(replace(nest, name=f"positions_{nest.name}"), (found.loop,), (), body)


def _ranks(nest: Nest, loop: For, place: Buffer, order: Buffer, start: Buffer,
           length: Buffer) -> Nest:
    """Return the nest that sorts: each index finds its own rank."""
    count = loop.extent
    own, other = Local("own", "int64"), Local("other", "int64")
    before, same, total = (Local(name, "int64") for name in ("before", "same", "total"))
    mine, theirs = Symbol("i", extent=count), Symbol("k", extent=count)
    rank = Symbol("rank", extent=count)
    one, zero = const(1, "int64"), const(0, "int64")

    def counted(local: Local, condition: Expr) -> Stmt:
        return Accumulate(local, "add", apply("select", condition, one, zero))

    is_equal = apply("eq", other, own)
    here = (as_dim(mine),)
    body = (
        Let(own, Load(place, here)), *(Let(local, zero) for local in (before, same, total)),
        For(theirs, count, (
            Let(other, Load(place, (as_dim(theirs),))),
            counted(before, apply("lt", other, own)),
            counted(same, apply("and", is_equal, apply(
                "lt", index(as_dim(theirs)), index(as_dim(mine))))),
            counted(total, is_equal))),
        Let(rank, apply("add", before, same)),
        Store(order, (as_dim(rank),), index(as_dim(mine))),
        Store(start, here, before),
        Store(length, here, apply("select", apply("eq", same, zero), total, zero)))
    return elementwise(Nest(f"ranks_{nest.name}", ()), (For(mine, count, ()),), (), body)


def _sums(nest: Nest, found: _Scatter, order: Buffer, start: Buffer, length: Buffer) -> Nest:
    """Return the nest in which the first index of each place does what all of them do there."""
    count = found.loop.extent
    head, step = Symbol("head", extent=count), Symbol("step", extent=count)
    first, row = Symbol("first", extent=count), Symbol("row", extent=count)
    own = Symbol("own", extent=count + 1)
    plain = tuple(stmt for stmt in found.rest if not isinstance(stmt, Check))
    inside = Rewriter({found.loop.index: as_dim(row)}, mark="serial").body(plain)
    body = (
        Let(own, Load(length, (as_dim(head),))), Let(first, Load(start, (as_dim(head),))),
        For(step, as_dim(own), (
            Let(row, Load(order, (as_dim(first) + as_dim(step),))), *inside)))
    return elementwise(nest, (For(head, count, ()), *found.columns), (), body)
