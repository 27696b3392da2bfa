"""A vector loop whose functions depend on each other, in stages: one short loop for each call.

A group of vectors that goes through functions one after the other is a chain of hundreds of cycles.
A processor has about a hundred vector operations under way, less than one group's, so it often
waits.  Here the loop is cut into *strips*, and each strip goes through the stages, of one call
each: within a stage all groups are independent.  Values that a later stage needs wait on the
stack, in the first-level cache.

:func:`stages_of` decides, and cuts the body; :func:`emit_staged_loop` writes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..dtypes import SIZES
from ..loop.ir import Expr, For, Index, Let, Load, Local, Scalar, Stmt, Store
from ..loop.math import FUNCTIONS
from ..loop.walk import operands, postorder
from .llvm_prefetch import Ahead, emit_prefetches
from .llvm_scalar import memory_type
from .llvm_stream import may_stream, streams_of
from .llvm_values import Values
from .llvm_vector import Bounds, VectorLoop
from .llvm_vector_memory import Mask
from .llvm_vector_plan import INTERLEAVE, VectorPlan, slope

STRIP = 16
"""Vectors of a strip, a multiple of those computed side by side.  From 12 to 128 it makes no
difference, as long as the values that wait stay in the first-level cache."""

MOST_WAITING = 16 << 10
"""Bytes that may wait on the stack: half of a small first-level cache."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a loop's body.

    Attributes
    ----------
    call : Scalar
        What it is there for.
    is_inlined : bool
        Whether the code of the call goes into the loop, which gains up to 8 %; code that several
        calls share is written once instead.  Functions of two arguments need too many registers.
    body : tuple of statements
        What it writes, in their order.
    loads : tuple of Load
        Consecutive elements that it reads.
    entering, leaving : dict of expression to int
        Values of earlier stages that it needs, and its own that later ones need, each with its
        place among those of its dtype that wait.
    """

    call: Scalar
    is_inlined: bool
    body: tuple[Stmt, ...]
    loads: tuple[Load, ...]
    entering: dict[Expr, int]
    leaving: dict[Expr, int]


@dataclass(frozen=True, slots=True)
class Stages:
    """A body cut into stages.

    Attributes
    ----------
    stages : tuple of Stage
    waiting : dict of str to int
        For each dtype how many values of it wait at most.
    named : dict of int to expression
        By ``id`` of a local that the body binds.
    """

    stages: tuple[Stage, ...]
    waiting: dict[str, int]
    named: dict[int, Expr]


def stages_of(loop: For, plan: VectorPlan, values: Values) -> Stages | None:
    """Return the stages of a vector loop, or None for one that is better left in one piece.

    It is cut if a function is called with the result of another, and it only stores elements, of
    arrays that it does not read.  Calls that are independent overlap anyway; totals have more
    vectors side by side.

    Parameters
    ----------
    loop : For
    plan : VectorPlan
        Of this loop.
    values : Values
        Of the nest.
    """
    is_short = isinstance(loop.extent, int) and loop.extent < STRIP * plan.lanes
    if plan.inline or is_short or not values.writer.module.machine.is_optimised:
        return None
    staging = _Staging(loop, plan, values)
    if not staging.is_possible():
        return None
    stages = staging.cut()
    waiting = sum(SIZES[dtype] * count for dtype, count in stages.waiting.items())
    return stages if waiting * STRIP * plan.lanes <= MOST_WAITING else None


class _Staging:
    """One body being cut.

    Attributes
    ----------
    order : list of expressions
        Those that differ between iterations, arguments before their users; a local counts as the
        value that it names.
    users : dict of int to list of expressions
        By ``id``.
    consecutive : list of Load
        Loads of consecutive elements, which later stages repeat.
    calls : list of Scalar
        Of functions.
    stage : dict of int to int
        By ``id`` of an expression, the stage that computes it.
    """

    def __init__(self, loop: For, plan: VectorPlan, values: Values):
        self.loop, self.plan, self.values = loop, plan, values
        self.named = {id(stmt.target): stmt.value for stmt in loop.body if isinstance(stmt, Let)}
        roots = [root for stmt in loop.body for root in operands(stmt)]
        self.order = [node for node in postorder(*roots)
                      if id(node) in plan.varying and not isinstance(node, Local)]
        self.consecutive = [
            node for node in self.order if isinstance(node, Load)
            and slope(values.offset(node.buffer, node.position), loop.index) == 1]
        self.calls = [node for node in self.order
                      if isinstance(node, Scalar) and node.name in FUNCTIONS]
        self.users: dict[int, list[Expr]] = {id(node): [] for node in self.order}
        for node in self.order:
            for arg in self.inputs(node):
                self.users[id(arg)].append(node)
        self.stage: dict[int, int] = {}

    def value(self, node: Expr) -> Expr:
        """Return what a local names."""
        while id(node) in self.named:
            node = self.named[id(node)]
        return node

    def inputs(self, node: Expr) -> list[Expr]:
        """Return the differing expressions that a node is computed from."""
        args = map(self.value, node.args if isinstance(node, Scalar) else ())
        return [arg for arg in dict.fromkeys(args) if id(arg) in self.plan.varying]

    def is_possible(self) -> bool:
        """Return whether calls depend on each other, but iterations do not."""
        stores = [stmt.buffer.root() for stmt in self.loop.body if isinstance(stmt, Store)]
        lets = [stmt.target for stmt in self.loop.body if isinstance(stmt, Let)]
        return (any(self.waits()[id(call)] for call in self.calls)
                and len(lets) + len(set(stores)) == len(self.loop.body)
                and all(isinstance(target, Local) and target not in self.values.changing
                        for target in lets)
                and all(id(node) in self.values.stable for node in self.order))

    def cut(self) -> Stages:
        """Return the stages."""
        # First come the calls that most others wait for; of equal ones those that are not inlined,
        # since these leave no registers for what follows them.
        waits, counts = self.waits(), Counter(map(_function, self.calls))
        calls = sorted(
            self.calls, key=lambda call: (-waits[id(call)], counts[_function(call)] == 1))
        self.place(calls)
        entering: list[dict[Expr, int]] = [{} for _ in calls]
        leaving: list[dict[Expr, int]] = [{} for _ in calls]
        until: dict[str, list[int]] = {}
        for node in sorted(self.order, key=lambda node: self.stage[id(node)]):
            own = self.stage[id(node)]
            uses = {self.stage[id(user)] for user in self.users[id(node)]} - {own}
            if not uses or isinstance(node, Index) or node in self.consecutive:
                continue
            last = until.setdefault(node.dtype, [])
            place = next((place for place, use in enumerate(last) if use < own), len(last))
            last[place:place + 1] = [max(uses)]
            leaving[own][node] = place
            for use in uses:
                entering[use][node] = place
        return Stages(
            tuple(Stage(call, counts[_function(call)] == 1 == len(call.args), self.body(number),
                        self.loads(number), entering[number], leaving[number])
                  for number, call in enumerate(calls)),
            {dtype: len(last) for dtype, last in until.items()}, self.named)

    def waits(self) -> dict[int, int]:
        """Return, by ``id`` of an expression, how many calls after it wait for one another."""
        own, waits = set(map(id, self.calls)), dict[int, int]()
        for node in reversed(self.order):
            waits[id(node)] = max((waits[id(user)] + (id(user) in own)
                                   for user in self.users[id(node)]), default=0)
        return waits

    def place(self, calls: list[Scalar]) -> None:
        """Choose the stage of each expression.

        What depends on calls is computed as soon as they are, other things where they are needed
        first.  A product goes with the sum that it is part of, so that the two can be one
        multiply-add, as they are in a loop without stages.
        """
        number = {id(call): place for place, call in enumerate(calls)}
        for node in self.order:
            known = [self.stage[id(arg)] for arg in self.inputs(node) if id(arg) in self.stage]
            if id(node) in number:
                self.stage[id(node)] = number[id(node)]
            elif known:
                self.stage[id(node)] = max(known)
        for node in reversed(self.order):
            users = self.users[id(node)]
            if id(node) not in self.stage:
                self.stage[id(node)] = min((self.stage[id(user)] for user in users), default=0)
            elif isinstance(node, Scalar) and node.name == "mul" and len(users) == 1 \
                    and isinstance(users[0], Scalar) and users[0].name in ("add", "sub"):
                self.stage[id(node)] = self.stage[id(users[0])]

    def loads(self, number: int) -> tuple[Load, ...]:
        """Return the consecutive elements that a stage reads."""
        return tuple(node for node in self.consecutive if any(
            self.stage[id(part)] == number for part in (node, *self.users[id(node)])))

    def body(self, number: int) -> tuple[Stmt, ...]:
        """Return what a stage writes."""
        return tuple(stmt for stmt in self.loop.body if not isinstance(stmt, Let)
                     and self.stage.get(id(self.value(stmt.value)), 0) == number)


def _function(call: Scalar) -> tuple[str, str, int]:
    return call.name, call.dtype, len(call.args)


def emit_staged_loop(values: Values, loop: For, plan: VectorPlan, stages: Stages, bounds: Bounds,
                     ahead: Sequence[Ahead] = ()) -> None:
    """Write a loop in stages; parameters as of ``emit_vector_loop``."""
    StagedLoop(values, loop, plan, stages, bounds, ahead).emit_any()


class StagedLoop(VectorLoop):
    """One loop being written in stages."""

    def __init__(self, values: Values, loop: For, plan: VectorPlan, stages: Stages, bounds: Bounds,
                 ahead: Sequence[Ahead]):
        super().__init__(values, loop, replace(plan, copies=INTERLEAVE), bounds, ahead)
        self.stages, self.stage, self.named = stages.stages, stages.stages[0], stages.named
        self.stacks = {
            dtype: self.writer.alloca(memory_type(dtype), count * STRIP * self.lanes, 64)
            for dtype, count in stages.waiting.items()}
        self.waiting: dict[str, str] = {}

    def iterations(self) -> None:
        """Write all iterations, strip after strip."""
        bounds, group = self.bounds, self.lanes * self.plan.copies
        multiple = bounds.multiple if bounds.extent is None else bounds.extent
        streams = streams_of(self.values, self.loop, self.lanes)
        self.streams = may_stream(self.values, streams, bounds.begin, group)
        strip = STRIP * self.lanes
        most = self.writer.emit(f"sub nsw i64 {bounds.end}, {bounds.begin}")
        above = self.writer.emit(f"add nsw i64 {most}, {strip - 1}")
        count = self.writer.emit(f"udiv i64 {above}, {strip}")
        self.writer.carry(
            count, ["i64"], [bounds.begin], lambda now: [self.strip(*now, multiple % group != 0)])

    def strip(self, begin: str, is_masked: bool) -> str:
        """Write all stages of the strip that begins with an iteration; return where it ends."""
        writer = self.writer
        least = writer.module.declare("llvm.smin.i64", "i64", "i64", "i64")
        end = writer.emit(f"add nsw i64 {begin}, {STRIP * self.lanes}")
        end = writer.emit(f"call i64 {least}(i64 {end}, i64 {self.bounds.end})")
        # Addresses of what waits count from the loop's first iteration, as all others do.
        back = writer.emit(f"sub nsw i64 0, {begin}")
        self.waiting = {
            dtype: writer.emit(f"getelementptr {memory_type(dtype)}, ptr {stack}, i64 {back}")
            for dtype, stack in self.stacks.items()}
        for self.stage in self.stages:
            self.plan = replace(self.plan, inline=self.stage.is_inlined)
            self.repeated(begin, end, self.plan.copies, is_masked)
        return end

    def group(self, masks: list[Mask | None]) -> None:
        """Write a stage's body for some vectors side by side."""
        self.masks = masks
        if self.stage is self.stages[0]:
            emit_prefetches(self.writer, self.values, self.ahead, self.lanes * len(masks))
        with self.own_values():
            for stmt in self.loop.body:
                if isinstance(stmt, Let) and id(stmt.value) not in self.plan.varying:
                    self.statement(stmt)
            if any(masks):
                # These branch, and a product and its sum make a multiply-add in one block only.
                for load in self.stage.loads:
                    offset = self.values.offset(load.buffer, load.position)
                    self.memos[-1][id(load)] = self.memory.load_group(
                        load.dtype, self.places(load.buffer, offset), masks)
            # First the call: it would have to save the registers of what is written before it.
            self.value(self.stage.call)
            for node, place in self.stage.leaving.items():
                self.memory.store(node.dtype, self.waiting_at(node, place), self.spread(node),
                                  [None] * len(masks))
            for stmt in self.stage.body:
                self.statement(stmt)

    def is_known(self, node: Expr) -> bool:
        """Return whether a node's registers need not be written, or are loaded when needed."""
        return node in self.stage.entering or super().is_known(node)

    def memo(self, node: Expr) -> list[str] | None:
        """Return the registers of a node that is written or waits."""
        found = super().memo(node)
        if found is None and node in self.stage.entering:
            found = self.memos[-1][id(node)] = [
                self.memory.load(node.dtype, address, None)
                for address in self.waiting_at(node, self.stage.entering[node])]
        return found

    def node(self, node: Expr, own: dict[int, list[str]]) -> list[str]:
        """Write one varying node; a local is what it names."""
        if isinstance(node, Local):
            return self.spread(self.named[id(node)])
        return super().node(node, own)

    def waiting_at(self, node: Expr, place: int) -> list[str]:
        """Write the addresses at which a value's vectors wait between stages."""
        kind, index = memory_type(node.dtype), self.writer.symbols[self.loop.index].text
        first = self.writer.emit(
            f"getelementptr {kind}, ptr {self.waiting[node.dtype]}, i64 {index}")
        return [self.writer.emit(f"getelementptr inbounds {kind}, ptr {first}, "
                                 f"i64 {(place * STRIP + copy) * self.lanes}")
                for copy in range(self.plan.copies)]
