"""A loop nest as an LLVM function.

``void @name(ptr status, ptr noalias buffer..., i64 size...)`` runs the nest; there is one pointer
for each root buffer, so the vectoriser may assume that different pointers never overlap.  When the
nest is one ``parallel`` loop the function takes the range of its index too.  A *task* function,
``void @name.task(ptr frame, i64 begin, i64 end)``, calls it with all other arguments taken from
``frame``, an array of 8-byte words.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import NamedTuple

from ..dims import Symbol
from ..dtypes import SIZES
from ..loop.ir import (
    Accumulate, Buffer, Check, For, If, Let, Load, Nest, Stmt, Store,
)
from ..loop.text import Signature
from ..loop.walk import statements
from .llvm_cost import PARALLEL, nest_work
from .llvm_prefetch import Ahead, next_rows
from .llvm_rows import COPIES, ROWS, pass_of, rows_together
from .llvm_scalar import combine, llvm_type
from .llvm_short_rows import emit_short_rows, has_short_rows
from .llvm_stages import emit_staged_loop, stages_of
from .llvm_stream import are_large, emit_fence, streamed
from .llvm_values import Values
from .llvm_vector import Bounds, emit_vector_loop
from .llvm_vector_plan import vector_plan
from .llvm_writer import KERNEL_ATTRIBUTES, FunctionWriter, Module

UNROLL_LIMIT = 16
"""An ``unroll`` loop of more iterations stays a loop."""

FLAT_UNIT = 64
"""Elements of which a flat loop's chunks are multiples, so that no two share a cache line."""


class KernelCode(NamedTuple):
    """How to call an emitted kernel.

    Attributes
    ----------
    name : str
        The function, without ``@``.
    roots : tuple of int
        For each pointer parameter, which of the signature's buffers gives its address.
    size_count : int
        Number of size parameters.
    is_parallel : bool
        Whether it takes a range of the outermost loop's index.
    unit : int
        Chunks of the parallel loop should be multiples of so many iterations: of whole cache lines
        and vectors where it holds no loop but over short rows, of rows that are taken together.
    streams : tuple of int
        Which of the signature's buffers may be written past the caches.  If there are any, the last
        parameter but for the range is an i64 whose bits tell of each whether it should be.
    """

    name: str
    roots: tuple[int, ...]
    size_count: int
    is_parallel: bool
    unit: int
    streams: tuple[int, ...] = ()


def parallel_loop(nest: Nest) -> For | None:
    """Return the loop that may be cut over threads: the nest's only outermost statement."""
    first = nest.body[0] if len(nest.body) == 1 else None
    return first if isinstance(first, For) and first.mark == "parallel" else None


def emit_kernel(module: Module, name: str, nest: Nest, signature: Signature,
                unit: int | None = None, multiple: int | None = None) -> KernelCode:
    """Add the function of a nest to a module.

    Parameters
    ----------
    module : Module
    name : str
        Unique in the module.
    nest : Nest
    signature : Signature
        Of the nest: the order of its parameters.
    unit : int, optional
        Given for a nest that is run in parts, of multiples of so many iterations of its parallel
        loop.  Else one with little work is run as a whole.
    multiple : int, optional
        A number of which every part is known to have a multiple of iterations; otherwise what
        follows from ``unit`` and the extent.
    """
    outer = parallel_loop(nest)
    work = nest_work(nest)
    if unit is None and multiple is None and isinstance(work, int) and work <= PARALLEL:
        outer = None
    is_flat = outer is not None and (has_short_rows(outer, nest.cost) or not any(
        isinstance(stmt, For) for stmt in statements(outer.body)))
    roots: dict[Buffer, int] = {}
    for number, buffer in enumerate(signature.buffers):
        roots.setdefault(buffer.root(), number)
    parameters = [f"ptr noalias align {SIZES[root.dtype]} %b{number}"
                  for root, number in roots.items()]
    parameters += [f"i64 %s{number}" for number in range(len(signature.symbols))]
    # What is run in parts is at work on rows that a cache holds.
    streams = streamed(nest, module.machine) if unit is None else {}
    parameters += ["i64 %past"] if streams else []
    bounds = ["i64 %begin", "i64 %end"] if outer is not None else []
    arguments = ", ".join(["ptr %status", *parameters, *bounds])
    writer = FunctionWriter(
        module, f"define void @{name}({arguments}) {KERNEL_ATTRIBUTES}")
    for number, symbol in enumerate(signature.symbols):
        writer.bind(symbol, f"%s{number}")
    emitter = _NestEmitter(writer, nest, {root: f"%b{at}" for root, at in roots.items()})
    emitter.values.streamed = are_large(writer, streams, "%past")
    unit = unit or (FLAT_UNIT if is_flat else ROWS if outer in emitter.together else 1)
    if outer is not None:
        multiple = multiple or (gcd(unit, outer.extent) if isinstance(outer.extent, int) else 1)
        emitter.loop(outer, Bounds("%begin", "%end", multiple=multiple))
    else:
        emitter.body(nest.body)
    emitter.values.report()
    emit_fence(writer, tuple(emitter.values.streamed.values()))
    writer.run("ret void")
    writer.finish()
    return KernelCode(name, tuple(roots.values()), len(signature.symbols), outer is not None,
                      unit, tuple(roots[root] for root in streams))


def emit_task(module: Module, code: KernelCode) -> None:
    """Add the function that unpacks a frame and runs a part of the parallel loop, or the whole
    kernel when it takes no range."""
    writer = FunctionWriter(
        module,
        f"define internal void @{code.name}.task(ptr %frame, i64 %begin, i64 %end) nounwind")
    kinds = ["ptr"] * (1 + len(code.roots)) + ["i64"] * (code.size_count + bool(code.streams))
    passed = []
    for number, kind in enumerate(kinds):
        slot = writer.emit(f"getelementptr inbounds i64, ptr %frame, i64 {number}")
        passed.append(f"{kind} {writer.emit(f'load {kind}, ptr {slot}, align 8')}")
    bounds = ["i64 %begin", "i64 %end"] if code.is_parallel else []
    writer.run(f"call void @{code.name}({', '.join([*passed, *bounds])})")
    writer.run("ret void")
    writer.finish()


class _NestEmitter:
    """Writes the statements of one nest."""

    def __init__(self, writer: FunctionWriter, nest: Nest, addresses: dict[Buffer, str]):
        self.writer, self.cost = writer, nest.cost
        self.together = rows_together(nest)
        known = replace(nest, body=(*nest.body, *self.together.values()))
        self.values = Values(writer, known, addresses)
        self.ahead: dict[For, list[Ahead]] = {}
        self.copies = {pass_of(one): COPIES for pair in self.together.items() for one in pair}

    def body(self, body: tuple[Stmt, ...]) -> None:
        """Write statements, whose values are not reused after them."""
        self.values.memos.append({})
        depth = len(self.writer.scopes)
        for stmt in body:
            self.statement(stmt)
        self.writer.pop_scopes(depth)
        self.values.memos.pop()

    def statement(self, stmt: Stmt) -> None:
        """Write one statement."""
        if isinstance(stmt, For):
            limit = UNROLL_LIMIT if stmt.mark == "unroll" else 1
            if isinstance(stmt.extent, int) and stmt.extent <= limit:
                self.unrolled(stmt)
            else:
                extent = stmt.extent if isinstance(stmt.extent, int) else None
                self.loop(stmt, Bounds("0", self.writer.dim(stmt.extent), extent))
        elif isinstance(stmt, If):
            condition = self.values.value(stmt.condition)
            self.writer.branch_if(condition, lambda: self.body(stmt.body))
        elif isinstance(stmt, Store):
            self.values.store(stmt.buffer, stmt.position, self.values.value(stmt.value))
        elif isinstance(stmt, Accumulate):
            self.accumulate(stmt)
        elif isinstance(stmt, Let):
            self.let(stmt)
        else:
            assert isinstance(stmt, Check), stmt
            self.values.check(stmt)

    def loop(self, stmt: For, bounds: Bounds) -> None:
        """Write a loop over part of its range."""
        if stmt.mark == "parallel" and emit_short_rows(self.values, stmt, self.cost, bounds):
            return
        if stmt in self.together:
            self.rows(stmt, self.together[stmt], bounds)
            return
        if stmt.mark in ("vector", "parallel"):
            plan = vector_plan(stmt, self.values, self.cost,
                               self.writer.module.machine.vector_bytes,
                               wanted=self.copies.get(stmt))
            if plan is not None:
                ahead = self.ahead.get(stmt, ())
                stages = stages_of(stmt, plan, self.values)
                if stages is None:
                    emit_vector_loop(self.values, stmt, plan, bounds, ahead)
                else:
                    emit_staged_loop(self.values, stmt, plan, stages, bounds, ahead)
                return
        self.ahead.update(next_rows(stmt, self.values))
        self.writer.loop(stmt.index, bounds.begin, bounds.end, lambda: self.body(stmt.body))

    def rows(self, single: For, together: For, bounds: Bounds) -> None:
        """Write a loop over rows, of which ``together`` does several; then those that are left."""
        writer, index = self.writer, single.index
        if bounds.extent is not None:
            middle = str(bounds.extent // ROWS * ROWS)
        else:
            count = writer.emit(f"sub nsw i64 {bounds.end}, {bounds.begin}")
            rest = writer.emit(f"srem i64 {count}, {ROWS}")
            middle = writer.emit(f"sub nsw i64 {bounds.end}, {rest}")
        writer.loop(index, bounds.begin, middle, lambda: self.body(together.body), step=ROWS)
        if middle != bounds.end:
            writer.loop(index, middle, bounds.end, lambda: self.body(single.body))

    def unrolled(self, stmt: For) -> None:
        """Write a loop's body once for each value of its index."""
        assert isinstance(stmt.extent, int)
        for number in range(stmt.extent):
            self.writer.bind_constant(stmt.index, number)
            self.body(stmt.body)

    def let(self, stmt: Let) -> None:
        """Write a binding."""
        value = self.values.value(stmt.value)
        target = stmt.target
        if isinstance(target, Symbol):
            self.writer.push_scope()
            self.writer.bind(target, value)
        elif target in self.values.changing:
            self.values.locals[target] = self.writer.alloca(llvm_type(target.dtype))
            self.values.set_local(target, value)
        else:
            self.values.locals[target] = value

    def accumulate(self, stmt: Accumulate) -> None:
        """Write ``target = combine(target, value)``."""
        values, target = self.values, stmt.target
        value = values.value(stmt.value)
        old = values.load(target) if isinstance(target, Load) else values.local(target)
        total = combine(self.writer, stmt.combine, target.dtype, old, value)
        if isinstance(target, Load):
            values.store(target.buffer, target.position, total)
        else:
            values.set_local(target, total)
