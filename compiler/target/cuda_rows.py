"""The schedule of rows: reductions along contiguous memory, and what is fused around them.

A row's loops are dealt out to the threads of a warp (short rows, eight to a block) or of a block;
running totals become one partial result a thread, combined by shuffles, then through scratch
memory, always in the same order.  What stands between the loops all threads compute, but only
thread 0 stores.  A barrier goes wherever a thread may use an element that another one wrote.
Values that several loops load stay in registers where they fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..access import coefficient_of, flat_offset
from ..dims import DimLike, Symbol, as_dim, floordiv, prod, symbols_of
from ..dtypes import SIZES, is_float
from ..loop.ir import (
    Accumulate, Barrier, Buffer, Expr, For, If, Let, Load, Local, Nest, Shuffle, Stmt, Store,
)
from ..loop.rewrite import Rewriter
from ..loop.scalar import const
from ..loop.verify import WARP
from ..loop.walk import loads, operands, statements, target_access
from .cuda_schedule import (
    VECTOR_BYTES, accesses, below, ceildiv, equal, grid, is_multiple, unravel)

SHORT_ROW = 1024
"""Elements up to which one warp takes a row: 32 a thread."""

WARPS = 8
"""Warps of a block whose warps take a row each, or all of which take a long row."""

LONG_ROW, LONG_WARPS = 1 << 15, 32
"""Rows from this length on get the largest block."""

KEPT = 32
"""Elements of a row a thread keeps in registers, at most."""

UNROLLED = 8
"""A thread's trips through a loop up to which it is unrolled."""


def identity(combine: str, dtype: str) -> bool | int | float:
    """Return the value that a combination leaves others unchanged by."""
    if combine in ("add", "or"):
        return False if dtype == "bool" else 0
    if combine == "mul":
        return 1
    if combine == "and":
        return True if dtype == "bool" else -1 if dtype.startswith("int") \
            else int(np.iinfo(dtype).max)
    if is_float(dtype):
        return float("inf") if combine == "minimum" else float("-inf")
    info = np.iinfo(dtype)
    return int(info.max if combine == "minimum" else info.min)


def rows(nest: Nest, loops: tuple[For, ...], body: tuple[Stmt, ...]) -> tuple[Nest, ...]:
    """Return the schedule of ``body`` for each index of ``loops``."""
    extents = [stmt.extent for stmt in statements(body) if _is_dealt(stmt)]
    longest = max((e for e in extents if isinstance(e, int)), default=0)
    is_short = all(isinstance(e, int) for e in extents) and longest <= SHORT_ROW
    count = prod(loop.extent for loop in loops)
    block, lane = Symbol("block"), Symbol("lane", extent=WARP)
    if is_short and count != 1:
        warp = Symbol("warp", extent=WARPS)
        team = Team(as_dim(lane), 0, 1, "warp")
        row = as_dim(block) * WARPS + as_dim(warp)
        bindings, values = unravel(row, loops)
        inside = (*bindings, *_Row(team, Rewriter(values).body(body)).result())
        whole = isinstance(count, int) and count % WARPS == 0
        return (grid(nest, block, ceildiv(count, WARPS), ((warp, WARPS), (lane, WARP)),
                     inside if whole else (If(below(row, count), inside),)),)
    warps = LONG_WARPS if longest >= LONG_ROW or (count == 1 and longest >= 4096) else WARPS
    warp = Symbol("warp", extent=warps)
    team = Team(as_dim(warp) * WARP + as_dim(lane), as_dim(warp), warps, "block")
    bindings, values = unravel(as_dim(block), loops)
    inside = (*bindings, *_Row(team, Rewriter(values).body(body)).result())
    return (grid(nest, block, count, ((warp, warps), (lane, WARP)), inside),)


def _is_dealt(stmt: Stmt) -> bool:
    return isinstance(stmt, For) and stmt.mark in ("vector", "parallel")


@dataclass(frozen=True, slots=True)
class Team:
    """The threads that share a row: own number, own warp, number of warps, how they meet."""

    thread: DimLike
    warp: DimLike
    warps: int
    scope: str

    @property
    def size(self) -> int:
        """Number of threads."""
        return self.warps * WARP


@dataclass(frozen=True, slots=True)
class _Use:
    """A use of memory since the last barrier; equal ``who`` means the same thread."""

    root: Buffer
    writes: bool
    who: tuple[object, ...] | None


class _Row:
    """Writes the statements of one row."""

    def __init__(self, team: Team, body: tuple[Stmt, ...]):
        self.team, self.source = team, body
        self.pending: list[_Use] = []
        self.names = 0
        self.partials: dict[Local, Local] = {}
        self.width = self._width(body)
        self.kept = _Kept(body, self.width, team.size)

    def result(self) -> tuple[Stmt, ...]:
        """Return what each thread does."""
        return tuple(self.body(self.source))

    def _width(self, body: tuple[Stmt, ...]) -> int:
        """Return how many neighbours a thread takes at a time in every dealt loop."""
        dealt = [stmt for stmt in statements(body) if _is_dealt(stmt)]
        every = [(loop, access) for loop in dealt
                 for part in accesses(loop.body) for access in part]
        if not every or any(isinstance(s, For) for loop in dealt for s in statements(loop.body)):
            return 1
        width = min(4, VECTOR_BYTES // max(SIZES[buffer.dtype] for _, (buffer, _) in every))
        for loop, (buffer, position) in every:
            offset = flat_offset(position, buffer.dims)
            slope = coefficient_of(offset, loop.index)
            if not isinstance(loop.extent, int) or loop.extent % width or slope not in (0, 1) \
                    or (slope == 1 and not is_multiple(offset - as_dim(loop.index), width)):
                return 1
        return width

    # -- statements of the row ---------------------------------------------------------------------

    def body(self, body: tuple[Stmt, ...]) -> list[Stmt]:
        """Return the statements of one level, totals combined where their names are declared."""
        result: list[Stmt] = []
        declared = {stmt.target for stmt in body if isinstance(stmt, Let)}
        for stmt in body:
            totals = _totals_of(stmt, declared)
            for total, combine in totals.items():
                partial = self.partials[total] = self._local(total.name, total.dtype)
                result.append(Let(partial, const(identity(combine, total.dtype), total.dtype)))
            result += self.statement(stmt)
            for total, combine in totals.items():
                combined, whole = self.combined(self.partials.pop(total), combine)
                result += [*combined, Accumulate(total, combine, whole)]
        return result

    def statement(self, stmt: Stmt) -> list[Stmt]:
        """Return one statement, after a barrier where it needs one."""
        if _is_dealt(stmt) and not self._is_single(stmt):
            return [*self.meet(self._uses(stmt.body, stmt)), *self.deal(stmt)]
        if isinstance(stmt, (For, If)) and any(map(_is_dealt, statements(stmt.body))):
            return self._compound(stmt)
        writes = any(target_access(inner) is not None for inner in statements((stmt,)))
        uses = self._uses((stmt,), None, ("thread 0",) if writes else None)
        before = self.meet(uses)
        stmt = Rewriter({}, mark="serial").statement(stmt)
        return [*before, If(equal(self.team.thread, 0), (stmt,)) if writes else stmt]

    def _compound(self, stmt: For | If) -> list[Stmt]:
        """Return a loop or condition around dealt loops: all threads go through it together."""
        before = self.meet(self._uses((stmt,), None)) if isinstance(stmt, If) else []
        if isinstance(stmt, If):
            return [*before, If(stmt.condition, tuple(self.body(stmt.body)))]
        _, writes = accesses(stmt.body)
        before = self.barrier() if writes else []
        inside = self.body(stmt.body)
        if writes or self.team.scope == "block":
            inside += self.barrier()
        return [*before, For(stmt.index, stmt.extent, tuple(inside))]

    def _is_single(self, loop: For) -> bool:
        """Return whether iterations of a loop write a common element: one thread runs it then."""
        inner = {stmt.index for stmt in statements(loop.body) if isinstance(stmt, For)}
        bound = {stmt.target for stmt in statements(loop.body) if isinstance(stmt, Let)}
        own = {loop.index} | inner | bound
        return any((access := target_access(stmt)) is not None
                   and not any(symbols_of(at) & own for at in access[1])
                   for stmt in statements(loop.body))

    # -- dealing out a loop ------------------------------------------------------------------------

    def deal(self, loop: For) -> list[Stmt]:
        """Return a loop whose iterations the threads of the team take in turn."""
        size, width = self.team.size, self.width
        stride = Symbol(f"{loop.index.name}_", extent=None)
        if not isinstance(loop.extent, int):
            stride.extent = trips = floordiv(loop.extent + (size - 1) - self.team.thread, size)
            place = as_dim(stride) * size + self.team.thread
            inside = self._element(loop, place, 0)
            return [For(stride, trips, inside)]
        lines = loop.extent // width
        stride.extent = trips = -(-lines // size)
        line = as_dim(stride) * size + self.team.thread
        slot = as_dim(stride) * width
        if width == 1:
            inside = self._element(loop, line, slot)
        else:
            lane = Symbol("v", extent=width)
            inside = (For(lane, width, self._element(
                loop, line * width + as_dim(lane), slot + as_dim(lane)), "vector"),)
        if lines % size:
            inside = (If(below(line, lines), inside),)
        if trips == 1:
            return list(Rewriter({stride: 0}).body(inside))
        # Registers have no index: a loop over elements kept in them must be unrolled.
        mark = "unroll" if trips <= (KEPT if self.kept.registers else UNROLLED) else "serial"
        return [For(stride, trips, inside, mark)]

    def _element(self, loop: For, place: DimLike, slot: DimLike) -> tuple[Stmt, ...]:
        """Return what a thread does for the element at ``place``, its own number ``slot``."""
        first: list[Stmt] = []

        def load(new: Load, old: Load) -> Expr:
            register, is_new = self.kept.of(loop, old)
            if register is None:
                return new
            if is_new:
                first.append(Store(register, (slot,), new))
            return Load(register, (slot,))

        rewriter = Rewriter({loop.index: place}, load, self.partials, "serial")
        result: list[Stmt] = []
        for stmt in loop.body:
            if isinstance(stmt, Store) and stmt in self.kept.dead:
                new: list[Stmt] = []
                value = rewriter.expression(stmt.value)
            else:
                copied = rewriter.statement(stmt)
                new = [copied]
                value = copied.value if isinstance(copied, Store) else None
            result += first
            first.clear()
            result += new
            register = self.kept.stored.get(stmt) if isinstance(stmt, Store) else None
            if register is not None and value is not None:
                result.append(Store(register, (slot,), value))
        return tuple(result)

    # -- meeting -----------------------------------------------------------------------------------

    def combined(self, partial: Local, combine: str) -> tuple[list[Stmt], Local]:
        """Return statements that combine a local of all threads, and where they all find it."""
        result: list[Stmt] = []
        distance = WARP // 2
        while distance:
            other = self._local("other", partial.dtype)
            result += [Shuffle(other, partial, distance), Accumulate(partial, combine, other)]
            distance //= 2
        if self.team.warps == 1:
            return result, partial
        scratch = Buffer(f"{partial.name}_warps", partial.dtype, (self.team.warps,), "scratch")
        first = equal(self.team.thread - self.team.warp * WARP, 0)
        warp = Symbol("w", extent=self.team.warps)
        whole = self._local("all", partial.dtype)
        result += [
            If(first, (Store(scratch, (self.team.warp,), partial),)), *self.barrier(),
            Let(whole, const(identity(combine, partial.dtype), partial.dtype)),
            For(warp, self.team.warps, (
                Accumulate(whole, combine, Load(scratch, (as_dim(warp),))),), "unroll")]
        return result, whole

    def meet(self, uses: list[_Use]) -> list[Stmt]:
        """Note uses of memory; return a barrier if another thread's use comes before them."""
        conflict = any(
            old.root is new.root and (old.writes or new.writes)
            and (old.who is None or old.who != new.who)
            for new in uses for old in self.pending)
        result = self.barrier() if conflict else []
        self.pending += uses
        return result

    def barrier(self) -> list[Stmt]:
        """Return a barrier of the team."""
        self.pending = []
        return [Barrier(self.team.scope)]

    def _uses(self, body: tuple[Stmt, ...], dealt: For | None,
              who: tuple[object, ...] | None = None) -> list[_Use]:
        """Return the uses of memory in statements: of a dealt loop, or of thread ``who``."""
        reads, writes = accesses(body)
        return [_Use(buffer.root(), is_write, who if dealt is None else owner_of(
            dealt, buffer, position)) for part, is_write in ((reads, False), (writes, True))
            for buffer, position in part]

    def _local(self, name: str, dtype: str) -> Local:
        self.names += 1
        return Local(f"{name}_{self.names}", dtype)


_CANONICAL = Symbol("row element")


def owner_of(loop: For, buffer: Buffer, position: tuple[DimLike, ...]) -> tuple[object, ...] | None:
    """Return what two uses in dealt loops must have in common to be made by one thread.

    None when several iterations may use the element.
    """
    found = [at for at in position if loop.index in symbols_of(at)]
    if len(found) != 1 or not isinstance(coefficient_of(found[0], loop.index), int) \
            or coefficient_of(found[0], loop.index) == 0:
        return None
    place = Rewriter({loop.index: as_dim(_CANONICAL)}).position(position)
    return (loop.extent, buffer.dims, place)


def _totals_of(stmt: Stmt, declared: set[object]) -> dict[Local, str]:
    """Return the locals declared outside that dealt loops in a statement accumulate to."""
    found: dict[Local, str] = {}
    for loop in filter(_is_dealt, statements((stmt,))):
        for inner in statements(loop.body):
            if isinstance(inner, Accumulate) and isinstance(inner.target, Local) \
                    and inner.target in declared:
                found[inner.target] = inner.combine
    return found


class _Kept:
    """Which elements of a row stay in registers from loop to loop.

    Attributes
    ----------
    stored : dict
        Of a store, the register buffer that also gets the value.
    dead : set
        Stores to elements that a later loop overwrites, and that only registers are read for.
    """

    def __init__(self, body: tuple[Stmt, ...], width: int, size: int):
        self.stored: dict[Store, Buffer] = {}
        self.dead: set[Store] = set()
        self.registers: dict[tuple[Buffer, object], tuple[Buffer, set[For]]] = {}
        self.seen: set[Buffer] = set()
        self.loops = [stmt for stmt in body if _is_dealt(stmt)]
        inner = [stmt for stmt in statements(body) if _is_dealt(stmt)]
        extents = {loop.extent for loop in inner}
        is_flat = not any(isinstance(stmt, (For, If)) for loop in inner
                          for stmt in statements(loop.body))
        if len(self.loops) < 2 or len(inner) != len(self.loops) or len(extents) != 1 \
                or not is_flat:
            return
        (extent,) = extents
        if not isinstance(extent, int):
            return
        self.slots = -(-(extent // width) // size) * width
        if self.slots <= KEPT:
            self._choose(body)

    def _choose(self, body: tuple[Stmt, ...]) -> None:
        """Decide which elements to keep."""
        bound = {stmt.target for loop in self.loops for stmt in loop.body
                 if isinstance(stmt, Let)}
        outside = {target_access(stmt)[0].root() for stmt in body if not _is_dealt(stmt)
                   for stmt in statements((stmt,)) if target_access(stmt) is not None}
        uses: dict[Buffer, list[tuple[int, object, Stmt, bool]]] = {}
        for number, loop in enumerate(self.loops):
            for stmt in statements(loop.body):
                every = [((load.buffer, load.position), False) for load in loads(*operands(stmt))]
                target = target_access(stmt)
                every += [] if target is None else [(target, True)]
                for (buffer, position), writes in every:
                    who = owner_of(loop, buffer, position)
                    if any(symbols_of(at) & bound for at in position):
                        who = None
                    uses.setdefault(buffer.root(), []).append((number, who, stmt, writes))
        read_outside = {buffer.root() for stmt in body if not _is_dealt(stmt)
                        for buffer, _ in accesses((stmt,))[0]}
        for root, found in uses.items():
            owners = {who for _, who, _, _ in found}
            writes = [use for use in found if use[3]]
            if None in owners or root in outside or root in read_outside:
                continue
            if not writes:
                self._keep_reads(root, found)
            elif len(owners) == 1:
                self._keep_writes(root, found, writes)

    def _keep_reads(self, root: Buffer, found: list[tuple[int, object, Stmt, bool]]) -> None:
        for who in {use[1] for use in found}:
            if len({number for number, own, _, _ in found if own == who}) > 1:
                self._register(root, who)

    def _keep_writes(self, root: Buffer, found: list[tuple[int, object, Stmt, bool]],
                     writes: list[tuple[int, object, Stmt, bool]]) -> None:
        """Keep elements that one loop stores and later ones load."""
        plain = all(isinstance(stmt, Store) and any(stmt in loop.body for loop in self.loops)
                    for _, _, stmt, _ in writes)
        numbers = [number for number, _, _, _ in writes]
        reads = [number for number, _, _, is_write in found if not is_write]
        if not plain or len(set(numbers)) != len(numbers) or not reads \
                or min(reads) <= min(numbers):
            return
        register = self._register(root, found[0][1])
        self.seen.add(register)
        for number, _, stmt, _ in writes:
            if number < max(reads):
                self.stored[stmt] = register
        self.dead |= {stmt for number, _, stmt, _ in writes if number != max(numbers)}

    def _register(self, root: Buffer, who: object) -> Buffer:
        register = Buffer(f"{root.name}_kept", root.dtype, (self.slots,), "register")
        self.registers[(root, who)] = (register, set())
        return register

    def of(self, loop: For, load: Load) -> tuple[Buffer | None, bool]:
        """Return the register buffer of a load, and whether the load has to fill it."""
        if not self.registers or loop not in self.loops:
            return None, False
        found = self.registers.get((load.buffer.root(), owner_of(loop, load.buffer,
                                                                 load.position)))
        if found is None:
            return None, False
        register = found[0]
        is_new = register not in self.seen
        self.seen.add(register)
        return register, is_new
