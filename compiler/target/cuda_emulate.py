"""Run a scheduled nest without a GPU: all threads in lockstep on NumPy arrays, all checked.

Enters: a nest of the form ``for block: for thread: body``, an array for each buffer, a value for
each free symbol.  The arrays are changed in place.  What a GPU would do at random, or silently, is
an ``InternalError`` naming the statement: an element out of bounds, an element of on-chip memory
read before it is written, two threads of which one writes an element the other one uses with no
barrier between them, a barrier or a shuffle that only some of its threads reach.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...runtime.artifact import InternalError
from ..dims import Call, DimLike, Symbol, evaluate as evaluate_dim, symbols_of
from ..loop import scalar
from ..loop.ir import (
    Accumulate, Barrier, Buffer, Check, Const, Expr, For, If, Index, Let, Load, Local, Nest, Scalar,
    Shuffle, Stmt, Store,
)
from ..loop.math import FUNCTIONS, definition
from ..loop.text import statement_text
from ..loop.verify import WARP
from ..loop.walk import buffers_written, postorder
from .cuda_schedule import parts_of

LANES = 1 << 14
"""Threads that run in lockstep; blocks beyond run after them."""

NOBODY, SEVERAL = -1, -2


def run_scheduled(nest: Nest, arrays: Mapping[Buffer, np.ndarray], symbols: Mapping[Symbol, int],
                  failures: list[tuple[int, int]]) -> None:
    """Run a scheduled nest on ``arrays``.

    Parameters
    ----------
    nest : Nest
    arrays : mapping of Buffer to ndarray
        C-contiguous, one for each root buffer that lives outside the nest; changed in place.
    symbols : mapping of Symbol to int
        The free symbols.
    failures : list of (code, value)
        Each code whose ``Check`` failed is appended, with the largest offending value.

    Raises
    ------
    InternalError
        Naming the statement that breaks a rule.
    """
    outer, threads, body = parts_of(nest)
    count = evaluate_dim(outer.extent, symbols)
    shape = tuple(loop.extent for loop in threads)
    size = int(np.prod(shape))
    written = {buffer.root() for buffer in buffers_written(nest)}
    traces = {root: _Trace(array.size) for root, array in arrays.items() if root in written}
    step = max(1, LANES // size)
    found: dict[int, int] = {}
    for first in range(0, count, step):
        blocks = np.arange(first, min(count, first + step))
        run = _Lockstep(nest, arrays, traces, blocks, size, found)
        run.symbols.update(symbols)
        run.symbols[outer.index] = np.repeat(blocks, size)
        places = np.unravel_index(np.arange(size), shape)
        for loop, place in zip(threads, places):
            run.symbols[loop.index] = np.tile(place, len(blocks))
        run.body(body, np.ones(len(blocks) * size, bool))
    failures.extend(found.items())


class _Trace:
    """Who read and wrote each element of a memory last, and which barriers they had passed."""

    def __init__(self, size: int):
        self.writer = _Record(size)
        self.reader = _Record(size)
        self.written = np.zeros(size, bool)


class _Record:
    """For each element the thread, warp and block of the last uses, and their barrier counts."""

    def __init__(self, size: int):
        self.thread, self.warp, self.block = (np.full(size, NOBODY) for _ in range(3))
        self.warp_epoch, self.block_epoch = (np.zeros(size, np.int64) for _ in range(2))

    def separated(self, at: np.ndarray, who: _Users) -> np.ndarray:
        """Return where a barrier lies between the uses on record and those of ``who``."""
        by_block = (self.block[at] == who.block) & (self.block_epoch[at] < who.block_epoch)
        by_warp = (self.warp[at] == who.warp) & (self.warp_epoch[at] < who.warp_epoch)
        return by_block | by_warp | (self.thread[at] == NOBODY)

    def put(self, at: np.ndarray, who: _Users, merge: bool) -> None:
        """Record uses; ``merge`` keeps those of others that no barrier separates."""
        keep = ~self.separated(at, who) if merge else np.zeros(len(at), bool)
        for name in ("thread", "warp", "block"):
            record, own = getattr(self, name), getattr(who, name)
            record[at] = np.where(keep & (record[at] != own), SEVERAL, own)
        if merge:
            # Several of the users may be in this very statement.
            order = np.argsort(at, kind="stable")
            places, starts = np.unique(at[order], return_index=True)
            for name in ("thread", "warp", "block"):
                record, own = getattr(self, name), getattr(who, name)[order]
                low, high = np.minimum.reduceat(own, starts), np.maximum.reduceat(own, starts)
                record[places[low != high]] = SEVERAL
        self.warp_epoch[at], self.block_epoch[at] = who.warp_epoch, who.block_epoch


@dataclass(frozen=True, slots=True)
class _Users:
    """The threads of one access, by number, warp and block, with the barriers they passed."""

    thread: np.ndarray
    warp: np.ndarray
    block: np.ndarray
    warp_epoch: np.ndarray
    block_epoch: np.ndarray


class _Lockstep:
    """Some blocks running: the values that all their threads give symbols and locals."""

    def __init__(self, nest: Nest, arrays: Mapping[Buffer, np.ndarray],
                 traces: dict[Buffer, _Trace], blocks: np.ndarray, size: int,
                 found: dict[int, int]):
        self.nest, self.arrays, self.traces, self.found = nest, arrays, dict(traces), found
        self.size, self.count = size, len(blocks) * size
        self.thread = (blocks[:, None] * size + np.arange(size)).reshape(-1)
        self.block = np.repeat(blocks, size)
        warps = -(-size // WARP)
        self.warp = self.block * warps + np.tile(np.arange(size) // WARP, len(blocks))
        self.warp_epoch, self.block_epoch = (np.zeros(self.count, np.int64) for _ in range(2))
        self.symbols: dict[Symbol, int | np.ndarray] = {}
        self.locals: dict[Local, np.ndarray] = {}
        self.own: dict[Buffer, np.ndarray] = {}
        self.shapes: dict[Buffer, tuple[int, ...]] = {}

    # -- statements --------------------------------------------------------------------------------

    def body(self, body: tuple[Stmt, ...], mask: np.ndarray) -> None:
        """Run statements in order in the threads of ``mask``."""
        for stmt in body:
            if not mask.any():
                return
            self.statement(stmt, mask)

    def statement(self, stmt: Stmt, mask: np.ndarray) -> None:
        """Run one statement."""
        if isinstance(stmt, For):
            extent = self.dim(stmt.extent)
            for index in range(int(np.max(np.where(mask, extent, 0)))):
                self.symbols[stmt.index] = index
                self.body(stmt.body, mask & (index < np.asarray(extent)))
            self.symbols.pop(stmt.index, None)
        elif isinstance(stmt, If):
            self.body(stmt.body, mask & self.value(stmt.condition, mask, stmt))
        elif isinstance(stmt, Let):
            value = self.value(stmt.value, mask, stmt)
            if isinstance(stmt.target, Symbol):
                self.symbols[stmt.target] = np.where(mask, value, 0)
            else:
                self.locals[stmt.target] = value
        elif isinstance(stmt, Store):
            self.write(stmt.buffer, stmt.position, self.value(stmt.value, mask, stmt), mask, stmt)
        elif isinstance(stmt, Accumulate):
            self.accumulate(stmt, mask)
        elif isinstance(stmt, Check):
            fails = mask & ~self.value(stmt.condition, mask, stmt)
            if fails.any():
                worst = int(self.value(stmt.value, mask, stmt)[fails].max())
                self.found[stmt.code] = max(worst, self.found.get(stmt.code, worst))
        elif isinstance(stmt, Barrier):
            self.barrier(stmt, mask)
        else:
            assert isinstance(stmt, Shuffle)
            self.together(mask, WARP, stmt)
            lanes = np.arange(self.count) ^ stmt.distance
            self.locals[stmt.target] = self.locals[stmt.source][lanes]

    def barrier(self, stmt: Barrier, mask: np.ndarray) -> None:
        """Let threads pass a barrier that all of them have reached."""
        self.together(mask, self.size if stmt.scope == "block" else WARP, stmt)
        self.warp_epoch[mask] += 1
        if stmt.scope == "block":
            self.block_epoch[mask] += 1

    def together(self, mask: np.ndarray, size: int, stmt: Stmt) -> None:
        """Check that of each group of ``size`` threads all are here, or none."""
        groups = mask.reshape(-1, size)
        uneven = groups.any(axis=1) != groups.all(axis=1)
        if uneven.any():
            raise self.fault(stmt, f"only some of {size} threads that must meet get here")

    def accumulate(self, stmt: Accumulate, mask: np.ndarray) -> None:
        """Combine a value into a local or an element."""
        value = self.value(stmt.value, mask, stmt)
        target = stmt.target
        old = self.value(target, mask, stmt)
        new = np.asarray(scalar.evaluate(stmt.combine, [old, value], target.dtype))
        if isinstance(target, Local):
            self.locals[target] = np.where(mask, new, old)
        else:
            self.write(target.buffer, target.position, new, mask, stmt)

    # -- values ------------------------------------------------------------------------------------

    def value(self, root: Expr, mask: np.ndarray, stmt: Stmt) -> np.ndarray:
        """Return the value of an expression in every thread (undefined outside ``mask``)."""
        known: dict[int, np.ndarray] = {}
        for node in postorder(root):
            if isinstance(node, Const):
                value = np.asarray(node.value, node.dtype)
            elif isinstance(node, Index):
                value = np.asarray(self.dim(node.dim), np.int64)
            elif isinstance(node, Load):
                value = self.read(node, mask, stmt)
            elif isinstance(node, Local):
                if node not in self.locals:
                    raise self.fault(stmt, f"{node.name} is read before it has a value")
                value = self.locals[node]
            else:
                assert isinstance(node, Scalar)
                value = scalar_values(node, [known[id(arg)] for arg in node.args])
            known[id(node)] = value
        return np.broadcast_to(known[id(root)], (self.count,))

    def dim(self, dim: DimLike) -> int | np.ndarray:
        """Return the value of a dim in every thread."""
        if isinstance(dim, int):
            return dim
        total: int | np.ndarray = 0
        for monomial, coefficient in dim.terms:
            product: int | np.ndarray = coefficient
            for atom, power in monomial:
                value = self.symbols[atom] if isinstance(atom, Symbol) else self._call(atom)
                for _ in range(power):
                    product = product * value
            total = total + product
        return total

    def _call(self, call: Call) -> np.ndarray:
        left, right = (np.asarray(self.dim(arg)) for arg in call.args)
        if call.function in ("min", "max"):
            return (np.minimum if call.function == "min" else np.maximum)(left, right)
        function = np.floor_divide if call.function == "floordiv" else np.remainder
        return np.where(right == 0, 0, function(left, np.where(right == 0, 1, right)))

    # -- memory ------------------------------------------------------------------------------------

    def memory(self, root: Buffer) -> tuple[np.ndarray, _Trace | None]:
        """Return the flat memory behind a root buffer, and the trace of its uses."""
        if root.role not in ("scratch", "register"):
            return self.arrays[root].reshape(-1), self.traces.get(root)
        if root not in self.own:
            copies = self.count if root.role == "register" else self.count // self.size
            length = copies * math.prod(self.shape(root))
            self.own[root] = np.zeros(length, root.dtype)
            self.traces[root] = _Trace(length)
        return self.own[root], self.traces[root]

    def shape(self, buffer: Buffer) -> tuple[int, ...]:
        """Return a buffer's shape.

        A nest need not know the first size of a buffer, which no address depends on.
        """
        shape = self.shapes.get(buffer)
        if shape is None:
            rest = tuple(int(self.dim(dim)) for dim in buffer.dims[1:])
            first = buffer.dims[:1]
            if first and not symbols_of(first[0]) <= self.symbols.keys():
                first = (self.arrays[buffer.root()].size // max(1, math.prod(rest)),)
            shape = self.shapes[buffer] = (*(int(self.dim(dim)) for dim in first), *rest)
        return shape

    def places(self, buffer: Buffer, position: tuple[DimLike, ...], mask: np.ndarray,
               stmt: Stmt) -> np.ndarray:
        """Return which element each thread of ``mask`` means; all must exist."""
        shape, root = self.shape(buffer), buffer.root()
        if len(position) != len(shape):
            raise self.fault(stmt, f"{buffer.name} has {len(shape)} axes, not {len(position)}")
        flat = np.zeros(int(mask.sum()), np.int64)
        for axis, (index, size) in enumerate(zip(position, shape)):
            at = np.broadcast_to(np.asarray(self.dim(index)), (self.count,))[mask]
            outside = (at < 0) | (at >= size)
            if outside.any():
                raise self.fault(stmt, f"{buffer.name} of shape {shape} is used at index "
                                       f"{int(at[outside][0])} of axis {axis}")
            flat = flat * size + at
        length = math.prod(self.shape(root))
        if root.role == "register":
            flat = flat + np.flatnonzero(mask) * length
        elif root.role == "scratch":
            flat = flat + (np.flatnonzero(mask) // self.size) * length
        return flat

    def read(self, load: Load, mask: np.ndarray, stmt: Stmt) -> np.ndarray:
        """Return an element for each thread of ``mask``."""
        root = load.buffer.root()
        at = self.places(load.buffer, load.position, mask, stmt)
        memory, trace = self.memory(root)
        if trace is not None and root.role != "register":
            self.follow(root, trace, at, mask, False, stmt)
        if root.role in ("scratch", "register") and not trace.written[at].all():
            raise self.fault(stmt, f"{root.name} is read before it is written")
        values = np.zeros(self.count, root.dtype)
        values[mask] = memory[at]
        return values

    def write(self, buffer: Buffer, position: tuple[DimLike, ...], value: np.ndarray,
              mask: np.ndarray, stmt: Stmt) -> None:
        """Set an element in each thread of ``mask``."""
        root = buffer.root()
        at = self.places(buffer, position, mask, stmt)
        memory, trace = self.memory(root)
        if root.role != "register":
            if len(np.unique(at)) != len(at):
                raise self.fault(stmt, f"several threads write one element of {root.name}")
            self.follow(root, trace, at, mask, True, stmt)
        trace.written[at] = True
        memory[at] = value[mask]

    def follow(self, root: Buffer, trace: _Trace, at: np.ndarray, mask: np.ndarray,
               writing: bool, stmt: Stmt) -> None:
        """Check uses against those on record, and record them."""
        who = _Users(self.thread[mask], self.warp[mask], self.block[mask],
                     self.warp_epoch[mask], self.block_epoch[mask])
        for record in (trace.writer, trace.reader) if writing else (trace.writer,):
            race = (record.thread[at] != who.thread) & ~record.separated(at, who)
            if race.any():
                which = int(np.flatnonzero(race)[0])
                raise self.fault(
                    stmt, f"thread {int(who.thread[which])} {'writes' if writing else 'reads'} "
                          f"element {int(at[which])} of {root.name}, which another thread uses, "
                          "with no barrier between them")
        (trace.writer if writing else trace.reader).put(at, who, merge=not writing)

    def fault(self, stmt: Stmt, what: str) -> InternalError:
        """Return the error for a broken rule."""
        return InternalError(f"nest {self.nest.name}: {what}\n  in: {statement_text(stmt)}")


def scalar_values(node: Scalar, values: list[np.ndarray]) -> np.ndarray:
    """Return the values of a primitive, or of a function by its definition."""
    if node.name not in FUNCTIONS:
        return np.asarray(scalar.evaluate(node.name, values, node.dtype))
    parameters, result = definition(node.name, node.dtype, len(values))
    known: dict[int, np.ndarray] = dict(zip(map(id, parameters), values))
    for inner in postorder(result):
        if isinstance(inner, Const):
            known[id(inner)] = np.asarray(inner.value, inner.dtype)
        elif isinstance(inner, Scalar):
            known[id(inner)] = scalar_values(inner, [known[id(arg)] for arg in inner.args])
    return known[id(result)]
