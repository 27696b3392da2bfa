"""How long code takes on one thread, in picoseconds: what is worth threads is decided by it.

An estimate within a factor of about two on one core of 2020 (``benchmarks/threads.py`` prints it
beside measured times): vectorised operations, and the second-level cache's bandwidth.  Times of
symbolic sizes are dims, which compiled code evaluates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..dims import DimLike, Symbol, prod, substitute
from ..dtypes import SIZES
from ..loop.ir import Accumulate, For, If, Let, Load, Nest, Scalar, Stmt
from ..loop.math import FUNCTIONS
from ..loop.walk import operands, postorder, target_access
from ..program import Contract, Copy, For as Repeat, Group, Kernel, Program, Step

OPERATION = 5
"""Of one operation on one byte of its type, in vectors: 20 ps for float32."""

SCALAR_OPERATION = 300
"""Of one operation outside of vectors."""

ACCESS = 12
"""Of one byte loaded or stored."""

FUNCTION = 12
"""Operations of a function such as ``exp``, where the parts of a nest are compared."""

MULTIPLY_ADD = 5
"""Of one multiply-add on one byte of its type, in a matrix product: 100 GFLOP/s in float32."""

PARALLEL = 4_000_000
"""From here on a kernel is cut over threads.  A region costs 1 us, so with two threads it gains
from 2 us on; twice that, since this is an estimate."""

CHUNK = 2_000_000
"""Of a chunk: handing it to a thread takes a twentieth of that."""

WAKE = 64_000_000
"""From here on it pays to wake threads that sleep."""

LONG = 1_000_000_000
"""From here on a call asks between steps whether the user interrupted it."""

UNKNOWN_TRIPS = 16
"""Assumed value of a loop's extent that is only known inside the kernel."""


def program_work(program: Program) -> DimLike:
    """Return the time of a call."""
    return sum(step_work(step, {}) for step in program.steps)


def step_work(step: Step, values: dict[Symbol, DimLike]) -> DimLike:
    """Return the time of a step; ``values`` replace enclosing indices."""
    if isinstance(step, Kernel):
        return substitute(nest_work(step.nest), values)
    if isinstance(step, Contract):
        work = contract_work(step)
        if step.epilogue is not None:
            work = work + nest_work(step.epilogue.nest)
        return substitute(work, values)
    if isinstance(step, Copy):
        size = substitute(prod(step.source.dims), values)
        return size * (2 * ACCESS * SIZES[step.source.dtype])
    if isinstance(step, Group):
        return sum(step_work(kernel, values) for kernel in step.kernels)
    assert isinstance(step, Repeat)
    extent = substitute(step.extent, values)
    inner = {**values, step.index: extent // 2}
    return extent * sum(step_work(child, inner) for child in step.body)


def nest_work(nest: Nest) -> DimLike:
    """Return the time of a nest, from its cost, what it loads and stores, and its trip counts.

    The nest's cost is that of all its loops together; each gets the share of its expressions.
    """
    blocks = list(_blocks(nest.body, {}, 1, False))
    share = max(nest.cost, 1.0) / max(sum(block.operations for block in blocks), 1)
    total: DimLike = 0
    for block in blocks:
        total = total + block.trips * block.time(max(1, round(block.operations * share)))
    return total


class _Block(NamedTuple):
    """Statements without loops: how often they run, what they read, write and compute."""

    trips: DimLike
    is_vector: bool
    accesses: tuple[int, ...]
    operations: int

    def time(self, cost: int) -> int:
        """Return the time of one run whose operations cost so much."""
        each = OPERATION * max(self.accesses, default=8) if self.is_vector else SCALAR_OPERATION
        return cost * each + ACCESS * sum(self.accesses)


def _blocks(body: tuple[Stmt, ...], values: dict[Symbol, DimLike], trips: DimLike,
            is_vector: bool) -> Iterator[_Block]:
    """Yield the blocks of a body; an index in an inner extent counts as half its own extent (a
    triangular loop)."""
    leaves: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, For):
            extent = substitute(stmt.extent, values)
            yield from _blocks(stmt.body, {**values, stmt.index: extent // 2}, trips * extent,
                               stmt.mark in ("parallel", "vector"))
        elif isinstance(stmt, If):
            yield from _blocks(stmt.body, values, trips, is_vector)
        else:
            leaves.append(stmt)
            if isinstance(stmt, Let) and isinstance(stmt.target, Symbol):
                values = {**values, stmt.target: UNKNOWN_TRIPS}
    if leaves:
        nodes = postorder(*(value for stmt in leaves for value in operands(stmt)))
        accesses = [SIZES[node.dtype] for node in nodes if isinstance(node, Load) and node.position]
        accesses += [SIZES[access[0].dtype] for access in map(target_access, leaves)
                     if access is not None and access[1]]
        operations = sum(FUNCTION if node.name in FUNCTIONS else 1
                         for node in nodes if isinstance(node, Scalar))
        operations += sum(isinstance(stmt, Accumulate) for stmt in leaves)
        yield _Block(trips, is_vector, tuple(accesses), max(operations, 1))


def contract_work(step: Contract) -> DimLike:
    """Return the time of a product."""
    return prod(step.sizes) * (MULTIPLY_ADD * SIZES[step.out.buffer.dtype])
