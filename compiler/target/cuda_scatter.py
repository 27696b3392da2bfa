"""The schedule of scatters: elements that data chooses, several times perhaps, in a fixed order.

A thread owns an element of the result.  It goes through the loops in their order and does what they
do to its own element: every run gives the same sum, and of several values stored the last one
stays, as on one core.  The price is that each thread reads all the indices (neighbours read the
same ones at the same time, so each is fetched once a warp).
"""

from __future__ import annotations

from dataclasses import replace

from ..dims import DimLike, Symbol, as_dim
from ..loop.ir import Accumulate, Buffer, For, If, Load, Nest, Stmt, Store
from ..loop.walk import target_access
from .cuda_schedule import accesses, elementwise, equal


def owner(nest: Nest, loops: tuple[For, ...], body: tuple[Stmt, ...]) -> Nest | None:
    """Return the schedule of a nest that writes at positions from data, or None.

    None unless the only write is the last statement, to a buffer that nothing else reads.
    """
    last = body[-1] if body else None
    target = target_access(last) if isinstance(last, (Store, Accumulate)) else None
    if target is None or any(isinstance(stmt, (For, If)) for stmt in body):
        return None
    buffer, position = target
    reads, writes = accesses(body)
    if len(writes) != 1 or any(read.root() is buffer.root() for read, _ in reads):
        return None
    owned, condition, place = [], [], []
    for axis, (at, size) in enumerate(zip(position, buffer.dims)):
        if isinstance(at, int):
            place.append(at)
            continue
        symbol = Symbol(f"own{axis}", extent=size)
        owned.append(For(symbol, size, ()))
        condition.append(equal(at, as_dim(symbol)))
        place.append(as_dim(symbol))
    if not owned:
        return None
    inner: tuple[Stmt, ...] = (_placed(last, buffer, tuple(place)),)
    for test in reversed(condition):
        inner = (If(test, inner),)
    return elementwise(nest, tuple(owned), loops, (*body[:-1], *inner))


def _placed(stmt: Store | Accumulate, buffer: Buffer, place: tuple[DimLike, ...]) -> Stmt:
    """Return the write at the thread's own element."""
    if isinstance(stmt, Store):
        return replace(stmt, position=place)
    return replace(stmt, target=Load(buffer, place))
