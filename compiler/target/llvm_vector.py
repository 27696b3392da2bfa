"""A loop whose iterations are computed several at a time, as LLVM vectors.

The loop becomes a main loop, of ``copies`` vectors of ``lanes`` iterations side by side, and what
is left after it, whose last vector has a mask: see :class:`VectorPlan`.  An expression is written
for all vectors before the next one, since iterations are independent; what is equal in all
iterations stays one scalar, and is copied into all lanes where it meets a vector.

Values are written as a *bundle*: a register for each vector, or one text for a shared scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, TypeAlias, Union

from ..dims import DimLike, Symbol, as_dim, substitute
from ..loop.ir import (
    Accumulate, Buffer, Check, Const, Expr, For, If, Index, Let, Load, Local, Scalar, Stmt, Store,
)
from ..loop.math import FUNCTIONS
from ..loop.walk import postorder
from .llvm_align import SHORT
from .llvm_align import to_boundary as to_even_reads
from .llvm_function import call
from .llvm_prefetch import Ahead, emit_prefetches
from .llvm_scalar import EMITTERS, combine, constant, identity, llvm_type, memory_type, vector_of
from .llvm_stream import may_stream, streams_of, to_boundary
from .llvm_values import Values
from .llvm_vector_memory import (
    Mask, VectorMemory, gathered, leading, numbered, shuffle, splat, up_to)
from .llvm_vector_plan import INTERLEAVE, VectorPlan, slope

Bundle: TypeAlias = Union[str, list[str]]

_WORST = """
define internal void @tx.worst.v{N}(<{N} x i1> %fails, <{N} x i64> %values, ptr %failed,
    ptr %worst) noinline cold nounwind {{
  %least = select <{N} x i1> %fails, <{N} x i64> %values, <{N} x i64> splat (i64 {LEAST})
  %top = call i64 @llvm.vector.reduce.smax.v{N}i64(<{N} x i64> %least)
  %some = call i1 @llvm.vector.reduce.or.v{N}i1(<{N} x i1> %fails)
  %old = load i64, ptr %worst, align 8
  %more = call i64 @llvm.smax.i64(i64 %old, i64 %top)
  store i64 %more, ptr %worst, align 8
  %before = load i1, ptr %failed, align 8
  %now = or i1 %before, %some
  store i1 %now, ptr %failed, align 8
  ret void
}}"""


class Bounds(NamedTuple):
    """The range of a vector loop.

    Attributes
    ----------
    begin, end : str
        Operands.
    extent : int or None
        Number of iterations, if it is known; ``begin`` is then 0.
    multiple : int
        A number of which the number of iterations is a multiple.
    """

    begin: str
    end: str
    extent: int | None = None
    multiple: int = 1


def emit_vector_loop(values: Values, loop: For, plan: VectorPlan, bounds: Bounds,
                     ahead: Sequence[Ahead] = ()) -> None:
    """Write a loop as vectors.

    Parameters
    ----------
    values : Values
        Of the nest; knows what is bound outside the loop.
    loop : For
    plan : VectorPlan
        Of this loop.
    bounds : Bounds
    ahead : sequence of Ahead
        Elements to ask for, of a later iteration of the loop around this one.
    """
    VectorLoop(values, loop, plan, bounds, ahead).emit_any()


class VectorLoop:
    """One loop being written."""

    ignores_masks = False
    """Whether what lanes without an iteration accumulate does not matter."""

    def __init__(self, values: Values, loop: For, plan: VectorPlan, bounds: Bounds,
                 ahead: Sequence[Ahead]):
        self.values, self.loop, self.plan, self.bounds = values, loop, plan, bounds
        self.ahead = ahead
        self.writer, self.lanes = values.writer, plan.lanes
        self.memory = VectorMemory(self.writer, plan.lanes)
        self.memos: list[dict[int, list[str]]] = []
        self.splats: list[dict[tuple[str, str], str]] = [{}]
        self.locals: dict[Local, list[str]] = {}
        self.slots: dict[Local, list[str]] = {}
        self.lane_symbols: dict[Symbol, list[list[Symbol]]] = {}
        self.masks: list[Mask | None] = []
        self.streams: dict[Buffer, str] = {}

    # -- the loop ----------------------------------------------------------------------------------

    def emit_any(self) -> None:
        """Write everything, for any number of iterations."""
        if self.bounds.extent is None:
            some = self.writer.emit(f"icmp slt i64 {self.bounds.begin}, {self.bounds.end}")
            self.writer.branch_if(some, self.emit, "vectors")
        elif self.bounds.extent:
            self.emit()

    def emit(self) -> None:
        """Write everything, for at least one iteration."""
        self.values.memos.append({})
        for expr in self.plan.hoisted:
            self.spread(expr)
        for local, operation in self.plan.accumulated.items():
            kind = llvm_type(local.dtype, self.lanes)
            self.slots[local] = [self.writer.alloca(kind) for _ in range(self.plan.copies)]
            for slot in self.slots[local]:
                start = identity(operation, local.dtype, self.lanes)
                self.writer.run(f"store {kind} {start}, ptr {slot}, align 8")
        self.iterations()
        for local, operation in self.plan.accumulated.items():
            self.total(local, operation)
        self.values.memos.pop()

    def iterations(self) -> None:
        """Write all iterations; first, if need be, those up to where results are aligned."""
        bounds, begin = self.bounds, self.bounds.begin
        streams = streams_of(self.values, self.loop, self.lanes)
        if bounds.extent is not None and not streams and not self.plan.accumulated:
            skipped = to_even_reads(self.values, self.loop, self.lanes)
            if skipped is not None:
                self.even(skipped)
                return
        multiple = bounds.multiple if bounds.extent is None else bounds.extent
        # Where something is accumulated, its bits must not depend on where an array lies.
        is_free = bool(streams) and not self.plan.accumulated
        if is_free:
            self.plan = replace(self.plan, copies=INTERLEAVE)
            if not streams[0].is_even:
                begin, multiple = self.head(to_boundary(self.values, streams[0], begin)), 1
        self.streams = may_stream(self.values, streams, begin, self.lanes * self.plan.copies)
        if bounds.extent is None or is_free:
            self.unknown(begin, bounds.end, multiple)
        else:
            self.known(bounds.extent)

    def even(self, skipped: str) -> None:
        """Write all iterations: short vectors for the ``skipped`` first ones, and for the last."""
        writer, end = self.writer, self.bounds.end
        lanes = self.lanes * SHORT // writer.module.machine.vector_bytes
        short = VectorLoop(self.values, self.loop, replace(self.plan, lanes=lanes, copies=1),
                           self.bounds, ())
        for expr in self.plan.hoisted:
            short.spread(expr)
        left = writer.emit(f"sub nsw i64 {end}, {skipped}")
        rest = writer.emit(f"urem i64 {left}, {self.lanes}")
        last = writer.emit(f"sub nsw i64 {end}, {rest}")
        short.repeated("0", skipped, 1)
        self.unknown(skipped, last, self.lanes)
        short.repeated(last, end, 1)

    def head(self, wanted: str) -> str:
        """Write some first iterations; return where they end."""
        writer, begin = self.writer, self.bounds.begin
        left = writer.emit(f"sub nsw i64 {self.bounds.end}, {begin}")
        least = writer.module.declare("llvm.smin.i64", "i64", "i64", "i64")
        count = writer.emit(f"call i64 {least}(i64 {wanted}, i64 {left})")
        end = writer.emit(f"add nsw i64 {begin}, {count}")
        self.repeated(begin, end, 1, True)
        return end

    def known(self, extent: int) -> None:
        """Write a known number of iterations: only the vectors that it takes."""
        step = self.lanes * self.plan.copies
        whole = extent // step * step
        if self.plan.copies == -(-extent // self.lanes):
            whole = 0
        if whole == step:
            self.straight(0, step)
        elif whole:
            self.repeated("0", str(whole), self.plan.copies)
        self.streams = {}
        if whole < extent:
            self.straight(whole, extent)

    def straight(self, begin: int, end: int) -> None:
        """Write some vectors without a loop; the last one may have a mask."""
        count, rest = divmod(end - begin, self.lanes)
        masks: list[Mask | None] = [None] * count
        if rest:
            masks.append(leading(self.lanes, rest))
        depth = len(self.writer.scopes)
        self.writer.push_scope()
        self.writer.bind(self.loop.index, str(begin))
        self.group(masks)
        self.writer.pop_scopes(depth)

    def unknown(self, begin: str, end: str, multiple: int) -> None:
        """Write iterations whose number is known at run time."""
        plan, writer = self.plan, self.writer
        step = plan.lanes * plan.copies
        if multiple % step == 0:
            self.repeated(begin, end, plan.copies)
            return
        is_whole = multiple % plan.lanes == 0
        if plan.single_body:
            self.repeated(begin, end, plan.copies, True)
            return
        count = writer.emit(f"sub nsw i64 {end}, {begin}")
        rest = writer.emit(f"urem i64 {count}, {step}")
        middle = writer.emit(f"sub nsw i64 {end}, {rest}")
        self.repeated(begin, middle, plan.copies)
        self.streams = {}
        self.repeated(middle, end, 1, not is_whole)

    def repeated(self, begin: str, end: str, copies: int, is_masked: bool = False) -> None:
        """Write a loop, whose last vector may have a mask."""
        def body() -> None:
            masks: list[Mask | None] = [None] * copies
            if is_masked:
                index = self.writer.symbols[self.loop.index].text
                left = self.writer.emit(f"sub nsw i64 {end}, {index}")
                masks = [up_to(self.writer, self.lanes, left, copy * self.lanes)
                         for copy in range(copies)]
            self.group(masks)

        self.writer.loop(self.loop.index, begin, end, body, step=self.lanes * copies)

    def group(self, masks: list[Mask | None]) -> None:
        """Write the body for one vector for each mask, side by side."""
        self.masks = masks
        emit_prefetches(self.writer, self.values, self.ahead, self.lanes * len(masks))
        self.block(self.loop.body)

    def block(self, body: tuple[Stmt, ...]) -> None:
        """Write statements, whose values are not reused after them."""
        with self.own_values():
            depth = len(self.writer.scopes)
            for stmt in body:
                self.statement(stmt)
            self.writer.pop_scopes(depth)

    @contextmanager
    def own_values(self) -> Iterator[None]:
        """Go around what is written for the block at hand: its values are not reused after it."""
        stacks = (self.memos, self.splats, self.values.memos)
        for stack in stacks:
            stack.append({})
        yield
        for stack in stacks:
            stack.pop()

    def total(self, local: Local, operation: str) -> None:
        """Write the combination of all lanes' results, always in the same order, with the local."""
        parts = [self.slot_value(local, copy) for copy in range(self.plan.copies)]
        lanes = self.lanes
        while len(parts) > 1:
            pairs = list(zip(parts[::2], parts[1::2]))
            odd = parts[len(pairs) * 2:]
            parts = [combine(self.writer, operation, local.dtype, left, right, lanes)
                     for left, right in pairs] + odd
        result, kind = parts[0], llvm_type(local.dtype)
        while lanes > 2:
            lanes //= 2
            halves = [shuffle(self.writer, kind, result, "poison", 2 * lanes,
                              range(start, start + lanes)) for start in (0, lanes)]
            result = combine(self.writer, operation, local.dtype, *halves, lanes)
        ends = [self.writer.emit(f"extractelement {vector_of(kind, lanes)} {result}, i64 {lane}")
                for lane in range(lanes)]
        result = combine(self.writer, operation, local.dtype, *ends)
        old = self.values.local(local)
        self.values.set_local(local, combine(self.writer, operation, local.dtype, old, result))

    # -- statements --------------------------------------------------------------------------------

    def statement(self, stmt: Stmt) -> None:
        """Write one statement for all vectors."""
        if isinstance(stmt, If):
            self.condition(stmt)
        elif isinstance(stmt, Let):
            self.let(stmt)
        elif isinstance(stmt, Store):
            self.store(stmt.buffer, stmt.position, self.value(stmt.value))
        elif isinstance(stmt, Check):
            self.check(stmt)
        elif isinstance(stmt.target, Local):
            self.accumulate(stmt.target, stmt)
        else:
            new, old = self.spread(stmt.value), self.load(stmt.target)
            total = [combine(self.writer, stmt.combine, stmt.target.dtype, *pair, self.lanes)
                     for pair in zip(old, new)]
            self.store(stmt.target.buffer, stmt.target.position, total)

    def condition(self, stmt: If) -> None:
        """Write statements under a condition: a branch, and masks when iterations differ."""
        holds = self.value(stmt.condition)
        if isinstance(holds, str):
            self.writer.branch_if(holds, lambda: self.block(stmt.body))
            return
        outer = self.masks
        flags = vector_of("i1", self.lanes)
        inside = [one if mask is None else
                  self.writer.emit(f"and {flags} {self.memory.flags(mask)}, {one}")
                  for one, mask in zip(holds, outer)]
        self.masks = [Mask(text) for text in inside]
        self.writer.branch_if(self.any(inside), lambda: self.block(stmt.body))
        self.masks = outer

    def any(self, flags: list[str]) -> str:
        """Write whether some lane of some vector is set."""
        kind = vector_of("i1", self.lanes)
        either = flags[0]
        for other in flags[1:]:
            either = self.writer.emit(f"or {kind} {either}, {other}")
        bits = self.writer.emit(f"bitcast {kind} {either} to i{self.lanes}")
        return self.writer.emit(f"icmp ne i{self.lanes} {bits}, 0")

    def let(self, stmt: Let) -> None:
        """Write a binding."""
        target, value = stmt.target, self.value(stmt.value)
        if isinstance(target, Symbol):
            self.bind(target, value)
        elif target in self.values.changing:
            kind = llvm_type(target.dtype, self.lanes)
            self.slots[target] = [self.writer.alloca(kind) for _ in self.masks]
            for slot, start in zip(self.slots[target], self.spread(stmt.value)):
                self.writer.run(f"store {kind} {start}, ptr {slot}, align 8")
        elif isinstance(value, str):
            self.values.locals[target] = value
        else:
            self.locals[target] = value

    def bind(self, symbol: Symbol, value: Bundle) -> None:
        """Give an integer symbol its value, or one value a lane."""
        if isinstance(value, str):
            self.writer.push_scope()
            self.writer.bind(symbol, value)
            return
        kind = llvm_type("int64", self.lanes)
        elements = [[self.writer.emit(f"extractelement {kind} {vector}, i64 {lane}")
                     for lane in range(self.lanes)] for vector in value]
        # Sizes that depend on the symbols are written where the scope begins: after the elements.
        self.writer.push_scope()
        self.lane_symbols[symbol] = []
        for vector in elements:
            own = [Symbol(f"{symbol.name}_{lane}", symbol.lower, symbol.extent)
                   for lane in range(self.lanes)]
            for one, element in zip(own, vector):
                self.writer.bind(one, element)
            self.lane_symbols[symbol].append(own)

    def accumulate(self, target: Local, stmt: Accumulate) -> None:
        """Write ``target = combine(target, value)`` in each active lane."""
        writer, kind = self.writer, llvm_type(target.dtype, self.lanes)
        for copy, (value, mask) in enumerate(zip(self.spread(stmt.value), self.masks)):
            old = self.slot_value(target, copy)
            new = combine(writer, stmt.combine, target.dtype, old, value, self.lanes)
            if mask is not None and not self.ignores_masks:
                active = f"{vector_of('i1', self.lanes)} {self.memory.flags(mask)}"
                new = writer.emit(f"select {active}, {kind} {new}, {kind} {old}")
            writer.run(f"store {kind} {new}, ptr {self.slots[target][copy]}, align 8")

    def slot_value(self, local: Local, copy: int) -> str:
        """Write the load of a vector of a changing local."""
        kind = llvm_type(local.dtype, self.lanes)
        return self.writer.emit(f"load {kind}, ptr {self.slots[local][copy]}, align 8")

    def check(self, stmt: Check) -> None:
        """Write a check: a branch that is hardly ever taken."""
        holds = self.value(stmt.condition)
        if isinstance(holds, str) and isinstance(self.value(stmt.value), str):
            self.values.check(stmt)
            return
        writer, flags = self.writer, vector_of("i1", self.lanes)
        fails = [writer.emit(f"xor {flags} {one}, splat (i1 true)")
                 for one in self.spread(stmt.condition)]
        fails = [one if mask is None else
                 writer.emit(f"and {flags} {one}, {self.memory.flags(mask)}")
                 for one, mask in zip(fails, self.masks)]
        wrong = self.spread(stmt.value)
        slots = ", ".join(f"ptr {slot}" for slot in self.values.check_slots(stmt))
        kind = vector_of("i64", self.lanes)
        function = self._worst()

        def note() -> None:
            for one, value in zip(fails, wrong):
                writer.run(f"call void {function}({flags} {one}, {kind} {value}, {slots})")

        writer.branch_if(self.any(fails), note, "wrong")

    def _worst(self) -> str:
        """Include the function that notes failed checks; return its name."""
        module, lanes = self.writer.module, self.lanes
        module.declare("llvm.smax.i64", "i64", "i64", "i64")
        for name, one in (("smax", "i64"), ("or", "i1")):
            module.declare(f"llvm.vector.reduce.{name}.v{lanes}{one}", one, vector_of(one, lanes))
        name = f"tx.worst.v{lanes}"
        module.declarations[name] = _WORST.format(N=lanes, LEAST=-2**63)
        return f"@{name}"

    # -- expressions -------------------------------------------------------------------------------

    def value(self, root: Expr) -> Bundle:
        """Return an expression's values."""
        if id(root) not in self.plan.varying:
            return self.values.value(root)
        own: dict[int, list[str]] = {}
        for node in postorder(root, known=self.is_known):
            bundle = own[id(node)] = self.node(node, own)
            if id(node) in self.values.stable:
                self.memos[-1][id(node)] = bundle
        return own.get(id(root)) or self.memo(root)

    def is_known(self, node: Expr) -> bool:
        """Return whether a node's registers need not be written."""
        return id(node) not in self.plan.varying or self.memo(node) is not None

    def memo(self, node: Expr) -> list[str] | None:
        """Return the registers of a node written by an earlier statement, if it may be reused."""
        for memo in reversed(self.memos):
            if id(node) in memo:
                return memo[id(node)]
        return None

    def spread(self, expr: Expr) -> list[str]:
        """Return an expression's values as vectors, whether or not they differ."""
        value = self.value(expr)
        return self.copied(expr, value) if isinstance(value, str) else value

    def copied(self, expr: Expr, value: str) -> list[str]:
        """Return vectors of a shared scalar."""
        count = max(1, len(self.masks))
        if isinstance(expr, Const):
            return [constant(expr.value, expr.dtype, self.lanes)] * count
        kind = llvm_type(expr.dtype)
        for known in self.splats:
            if (value, kind) in known:
                return [known[value, kind]] * count
        vector = self.splats[-1][value, kind] = splat(self.writer, kind, value, self.lanes)
        return [vector] * count

    def node(self, node: Expr, own: dict[int, list[str]]) -> list[str]:
        """Write one varying node whose arguments are written."""
        if isinstance(node, Index):
            return [self.index(node.dim, copy) for copy in range(len(self.masks))]
        if isinstance(node, Load):
            return self.load(node)
        if isinstance(node, Local):
            if node in self.values.changing:
                return [self.slot_value(node, copy) for copy in range(len(self.masks))]
            return self.locals[node]
        assert isinstance(node, Scalar), node
        operands = [own.get(id(arg)) or self.spread(arg) for arg in node.args]
        args = [list(one) for one in zip(*operands)]
        if node.name in FUNCTIONS:
            return call(self.writer, node, args, self.lanes, self.plan.inline, self.plan.shares)
        emitter = EMITTERS[node.name]
        return [emitter(self.writer, node, one, self.lanes) for one in args]

    def slope(self, dim: DimLike) -> DimLike | None:
        """Return how much a dim grows from lane to lane, if evenly."""
        symbols = self.plan.symbols
        if len(symbols) > 1 and any(slope(dim, symbol) != 0 for symbol in symbols
                                    if symbol is not self.loop.index):
            return None
        return slope(dim, self.loop.index)

    def lane(self, dim: DimLike, copy: int, lane: int) -> DimLike:
        """Return a dim's value in one lane."""
        index = self.loop.index
        values: dict[Symbol, DimLike] = {index: as_dim(index) + (copy * self.lanes + lane)}
        values |= {symbol: as_dim(own[copy][lane]) for symbol, own in self.lane_symbols.items()}
        return substitute(dim, values)

    def index(self, dim: DimLike, copy: int) -> str:
        """Write the value of a dim in all lanes, as int64."""
        step = self.slope(dim)
        if not isinstance(step, int):
            numbers = [self.writer.dim(self.lane(dim, copy, lane)) for lane in range(self.lanes)]
            return gathered(self.writer, "i64", numbers, self.lanes, "poison")
        kind = vector_of("i64", self.lanes)
        first = splat(self.writer, "i64", self.writer.dim(dim), self.lanes)
        start = copy * self.lanes
        offsets = numbered("i64", [step * (start + lane) for lane in range(self.lanes)])
        return self.writer.emit(f"add {kind} {first}, {offsets}")

    # -- memory ------------------------------------------------------------------------------------

    def load(self, load: Load) -> list[str]:
        """Write a load of different elements."""
        offset = self.values.offset(load.buffer, load.position)
        step = self.slope(offset)
        if step == 1:
            places = self.places(load.buffer, offset)
            return [self.memory.load(load.dtype, place, mask)
                    for place, mask in zip(places, self.masks)]
        if step == 2 and all(mask is None for mask in self.masks):
            return [self.every_other(load, offset, copy) for copy in range(len(self.masks))]
        if step == -1 and all(mask is None for mask in self.masks):
            return [self.reversed(load, offset, copy) for copy in range(len(self.masks))]
        return [self.memory.gather(load.dtype, self.lane_address(load.buffer, offset, copy), mask)
                for copy, mask in enumerate(self.masks)]

    def reversed(self, load: Load, offset: DimLike, copy: int) -> str:
        """Write the load of consecutive elements from the last to the first."""
        last = self.values.address_at(load.buffer, self.lane(offset, copy, self.lanes - 1))
        value = self.memory.load(load.dtype, last, None)
        return shuffle(self.writer, llvm_type(load.dtype), value, "poison", self.lanes,
                       range(self.lanes - 1, -1, -1))

    def every_other(self, load: Load, offset: DimLike, copy: int) -> str:
        """Write the load of every second element, from two vectors that end with the last one."""
        lanes = self.lanes
        ends = [self.values.address_at(load.buffer, self.lane(offset, copy, 0))]
        size = memory_type(load.dtype)
        ends.append(self.writer.emit(
            f"getelementptr inbounds {size}, ptr {ends[0]}, i64 {lanes - 1}"))
        low, high = (self.memory.load(load.dtype, place, None) for place in ends)
        chosen = [2 * lane if 2 * lane < lanes else 2 * lane + 1 for lane in range(lanes)]
        return shuffle(self.writer, llvm_type(load.dtype), low, high, lanes, chosen)

    def store(self, buffer: Buffer, position: tuple[DimLike, ...], value: Bundle) -> None:
        """Write a store; where all iterations meet in one element, the last one wins."""
        offset = self.values.offset(buffer, position)
        step = self.slope(offset)
        if step == 0:
            self.store_last(buffer, position, value)
            return
        value = self.all_of(buffer.dtype, value)
        if step == 1:
            self.memory.store(buffer.dtype, self.places(buffer, offset), value, self.masks,
                              self.streams.get(buffer.root()))
            return
        for copy, (vector, mask) in enumerate(zip(value, self.masks)):
            self.memory.scatter(
                buffer.dtype, self.lane_address(buffer, offset, copy), vector, mask)

    def all_of(self, dtype: str, value: Bundle) -> list[str]:
        """Return a bundle as vectors."""
        if not isinstance(value, str):
            return value
        return [splat(self.writer, llvm_type(dtype), value, self.lanes)] * len(self.masks)

    def store_last(self, buffer: Buffer, position: tuple[DimLike, ...], value: Bundle) -> None:
        """Write the store of the last iteration's value."""
        if isinstance(value, str):
            self.values.store(buffer, position, value)
            return
        for vector, mask in zip(value, self.masks):
            def write(vector: str = vector, mask: Mask | None = mask) -> None:
                last = self.memory.last(buffer.dtype, vector, mask)
                self.values.store(buffer, position, last)

            if mask is None or mask.some is None:
                write()
            else:
                self.writer.branch_if(mask.some, write)

    def places(self, buffer: Buffer, offset: DimLike) -> list[str]:
        """Write the addresses of consecutive vectors."""
        first = self.values.address_at(buffer, offset)
        size = memory_type(buffer.dtype)
        return [first] + [
            self.writer.emit(f"getelementptr inbounds {size}, ptr {first}, i64 {copy * self.lanes}")
            for copy in range(1, len(self.masks))]

    def lane_address(self, buffer: Buffer, offset: DimLike, copy: int) -> Callable[[int], str]:
        """Return what writes the address of an element in one lane."""
        return lambda lane: self.values.address_at(buffer, self.lane(offset, copy, lane))
