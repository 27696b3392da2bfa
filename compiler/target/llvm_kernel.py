"""A loop nest as LLVM functions.

``void @name(ptr status, ptr noalias buffer..., i64 size...)`` runs the nest; there is one pointer
for each root buffer, so the vectoriser may assume that different pointers never overlap.  When the
nest is one ``parallel`` loop the function takes the range of its index too, and
``void @name.task(ptr frame, i64 begin, i64 end)`` runs a part of it with all other arguments
taken from ``frame``, an array of 8-byte words.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..dims import DimLike, Symbol, substitute
from ..dtypes import SIZES
from ..loop.ir import (
    Accumulate, Buffer, Check, Const, Expr, For, If, Index, Let, Load, Local, Nest, Scalar, Stmt,
    Store,
)
from ..loop.math import FUNCTIONS, definition
from ..loop.text import Signature
from ..loop.walk import accumulated_locals, postorder, stable_expressions, statements
from ..program import row_major_strides
from .llvm_scalar import EMITTERS, combine, constant, llvm_type, memory_type
from .llvm_writer import FunctionWriter, Module

UNROLL_LIMIT = 16
"""An ``unroll`` loop of more iterations stays a loop, which LLVM may still unroll."""

INLINE_LIMIT = 250
"""Operations of a scalar function up to which it is inlined into loops, and so vectorises; only
integer powers are longer, and would take seconds to compile."""

UNKNOWN_TRIPS = 16
"""Assumed value of a loop's extent that is only known inside the kernel."""

KEEP_ROLLED = '!"llvm.loop.unroll.disable"'

INTERLEAVE = ((300.0, 1), (150.0, 2), (30.0, 4), (10.0, 2))
"""``(least cost of a body, vectors computed side by side)``, the first that fits."""

SHORTEST_INTERLEAVED = 128
"""A loop known to be shorter is not interleaved: the rest of it would run one by one."""

_REPORT = """
define internal void @tx.report(ptr %status, i64 %code, i64 %value) noinline cold nounwind {
  %old = cmpxchg ptr %status, i64 0, i64 %code monotonic monotonic, align 8
  %first = extractvalue { i64, i1 } %old, 1
  br i1 %first, label %store, label %done
store:
  %slot = getelementptr inbounds i64, ptr %status, i64 1
  store i64 %value, ptr %slot, align 8
  br label %done
done:
  ret void
}"""


@dataclass(frozen=True, slots=True)
class KernelCode:
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
        Whether it takes a range of the outermost loop's index, and ``name.task`` exists.
    is_flat : bool
        Whether the parallel loop holds no other loop: its chunks should be whole cache lines.
    """

    name: str
    roots: tuple[int, ...]
    size_count: int
    is_parallel: bool
    is_flat: bool


def parallel_loop(nest: Nest) -> For | None:
    """Return the loop that may be cut over threads: the nest's only outermost statement."""
    first = nest.body[0] if len(nest.body) == 1 else None
    return first if isinstance(first, For) and first.mark == "parallel" else None


def nest_work(nest: Nest) -> DimLike:
    """Return the estimated scalar operations of a nest, from its cost and its trip counts."""
    return _trips(nest.body, {}) * max(1, round(nest.cost))


def _trips(body: tuple[Stmt, ...], values: dict[Symbol, DimLike]) -> DimLike:
    """Return how often the innermost statements of a body run.

    An index in an inner extent counts as half its own extent (a triangular loop).
    """
    total: DimLike = 0
    leaf = False
    for stmt in body:
        if isinstance(stmt, For):
            extent = substitute(stmt.extent, values)
            total = total + extent * _trips(stmt.body, {**values, stmt.index: extent // 2})
        elif isinstance(stmt, If):
            total = total + _trips(stmt.body, values)
        else:
            leaf = True
            if isinstance(stmt, Let) and isinstance(stmt.target, Symbol):
                values = {**values, stmt.target: UNKNOWN_TRIPS}
    return total + 1 if leaf else total


def emit_kernel(module: Module, name: str, nest: Nest, signature: Signature,
                attributes: str = "") -> KernelCode:
    """Add the functions of a nest to a module.

    Parameters
    ----------
    module : Module
    name : str
        Unique in the module.
    nest : Nest
    signature : Signature
        Of the nest: the order of its parameters.
    attributes : str
        More LLVM attributes: ``optsize`` for code that is rarely run.
    """
    outer = parallel_loop(nest)
    roots: dict[Buffer, int] = {}
    for number, buffer in enumerate(signature.buffers):
        roots.setdefault(buffer.root(), number)
    parameters = [f"ptr noalias align {SIZES[root.dtype]} %b{number}"
                  for root, number in roots.items()]
    parameters += [f"i64 %s{number}" for number in range(len(signature.symbols))]
    bounds = ["i64 %begin", "i64 %end"] if outer is not None else []
    arguments = ", ".join(["ptr %status", *parameters, *bounds])
    writer = FunctionWriter(
        module, f"define internal void @{name}({arguments}) noinline nounwind {attributes}")
    for number, symbol in enumerate(signature.symbols):
        writer.bind(symbol, f"%s{number}")
    emitter = _NestEmitter(writer, nest, {root: f"%b{at}" for root, at in roots.items()})
    if outer is not None:
        emitter.loop(outer, "%begin", "%end")
    else:
        emitter.body(nest.body)
    emitter.report()
    writer.run("ret void")
    writer.finish()
    is_flat = outer is not None and not any(
        isinstance(stmt, For) for stmt in statements(outer.body))
    code = KernelCode(name, tuple(roots.values()), len(signature.symbols), outer is not None,
                      is_flat)
    if outer is not None:
        emit_task(module, code)
    return code


def emit_task(module: Module, code: KernelCode) -> None:
    """Add the function that unpacks a frame and runs a part of the parallel loop."""
    writer = FunctionWriter(
        module,
        f"define internal void @{code.name}.task(ptr %frame, i64 %begin, i64 %end) nounwind")
    kinds = ["ptr"] * (1 + len(code.roots)) + ["i64"] * code.size_count
    passed = []
    for number, kind in enumerate(kinds):
        slot = writer.emit(f"getelementptr inbounds i64, ptr %frame, i64 {number}")
        passed.append(f"{kind} {writer.emit(f'load {kind}, ptr {slot}, align 8')}")
    writer.run(f"call void @{code.name}({', '.join([*passed, 'i64 %begin', 'i64 %end'])})")
    writer.run("ret void")
    writer.finish()


def loop_hints(loop: For, cost: float) -> tuple[str, ...]:
    """Return what LLVM should know about a loop: which copies of its body are worth making.

    LLVM would unroll outer loops too, and interleave all; measured on cheap elementwise loops, that
    makes the code two to three times longer, in the same time to run and twice the time to compile.
    A transcendental function is one long chain of latencies: several vectors side by side run 1.4
    to 1.8 times faster, until the body is so long that registers and compile time run out.

    Parameters
    ----------
    loop : For
    cost : float
        Of one iteration, relative to an addition.
    """
    if isinstance(loop.extent, int) and loop.extent <= UNROLL_LIMIT:
        return ()
    inside = list(statements(loop.body))
    if any(isinstance(stmt, For) for stmt in inside):
        return (KEEP_ROLLED,)
    count = next((count for least, count in INTERLEAVE if cost >= least), 1)
    if isinstance(loop.extent, int) and loop.extent < SHORTEST_INTERLEAVED:
        count = 1
    reduces = any(isinstance(stmt, (Accumulate, Check)) for stmt in inside)
    if count == 1 and reduces:
        return ()
    return (f'!"llvm.loop.interleave.count", i32 {count}', KEEP_ROLLED)


def _definition(module: Module, name: str, dtype: str, arity: int) -> str:
    """Return the LLVM function of a scalar function, written from its expression."""
    parameters, result = definition(name, dtype, arity)
    kind = llvm_type(dtype)
    named = {local: f"%x{number}" for number, local in enumerate(parameters)}
    header = ", ".join(f"{kind} {operand}" for operand in named.values())
    inline = "alwaysinline" if len(postorder(result)) <= INLINE_LIMIT else "noinline"
    writer = FunctionWriter(module, f"define internal {kind} @{name}.{dtype}({header}) "
                                    f"{inline} nounwind willreturn memory(none)")
    emitter = _NestEmitter(writer, Nest(name, ()), {})
    emitter.locals.update(named)
    writer.run(f"ret {kind} {emitter.value(result)}")
    writer.finish()
    return module.functions.pop()


class _NestEmitter:
    """Writes the statements of one nest.

    A local that some ``Accumulate`` changes lives in a stack slot, which LLVM turns into registers.
    """

    def __init__(self, writer: FunctionWriter, nest: Nest, addresses: dict[Buffer, str]):
        self.writer, self.addresses = writer, addresses
        self.stable = stable_expressions(nest)
        self.changing = accumulated_locals(nest)
        self.cost = nest.cost
        self.memos: list[dict[int, str]] = [{}]
        self.locals: dict[Local, str] = {}
        self.local_depths: dict[Local, int] = {}
        self.marks: list[str] = []
        self.checks: list[tuple[int, str, str]] = []
        self.strides: dict[Buffer, tuple[DimLike, ...]] = {}

    def body(self, body: tuple[Stmt, ...]) -> None:
        """Write statements, whose values are not reused after them."""
        self.memos.append({})
        depth = len(self.writer.scopes)
        for stmt in body:
            self.statement(stmt)
        self.writer.pop_scopes(depth)
        self.memos.pop()

    def statement(self, stmt: Stmt) -> None:
        """Write one statement."""
        if isinstance(stmt, For):
            if stmt.mark == "unroll" and isinstance(stmt.extent, int) \
                    and stmt.extent <= UNROLL_LIMIT:
                self.unrolled(stmt)
            else:
                self.loop(stmt, "0", self.writer.dim(stmt.extent))
        elif isinstance(stmt, If):
            condition = self.value(stmt.condition)
            self.writer.branch_if(condition, lambda: self.body(stmt.body))
        elif isinstance(stmt, Store):
            self.store(stmt.buffer, stmt.position, self.value(stmt.value))
        elif isinstance(stmt, Accumulate):
            self.accumulate(stmt)
        elif isinstance(stmt, Let):
            self.let(stmt)
        else:
            assert isinstance(stmt, Check), stmt
            self.check(stmt)

    def loop(self, stmt: For, begin: str, end: str) -> None:
        """Write a loop over part of its range."""
        self.marks.append(stmt.mark)
        hints = loop_hints(stmt, self.cost)
        self.writer.loop(stmt.index, begin, end, lambda: self.body(stmt.body), hints)
        self.marks.pop()

    def unrolled(self, stmt: For) -> None:
        """Write a loop's body once for each value of its index."""
        assert isinstance(stmt.extent, int)
        for number in range(stmt.extent):
            self.writer.bind_constant(stmt.index, number)
            self.body(stmt.body)

    def let(self, stmt: Let) -> None:
        """Write a binding."""
        value = self.value(stmt.value)
        target = stmt.target
        if isinstance(target, Symbol):
            self.writer.push_scope()
            self.writer.bind(target, value)
        elif target in self.changing:
            kind = llvm_type(target.dtype)
            slot = self.locals[target] = self.writer.alloca(kind)
            self.local_depths[target] = len(self.marks)
            self.writer.run(f"store {kind} {value}, ptr {slot}, align 8")
        else:
            self.locals[target] = value

    def accumulate(self, stmt: Accumulate) -> None:
        """Write ``target = combine(target, value)``."""
        value = self.value(stmt.value)
        target = stmt.target
        if isinstance(target, Load):
            old = self.load(target)
            total = combine(self.writer, stmt.combine, target.dtype, old, value)
            self.store(target.buffer, target.position, total)
            return
        reorder = "vector" in self.marks[self.local_depths[target]:]
        kind, slot = llvm_type(target.dtype), self.locals[target]
        old = self.writer.emit(f"load {kind}, ptr {slot}, align 8")
        total = combine(self.writer, stmt.combine, target.dtype, old, value, reorder)
        self.writer.run(f"store {kind} {total}, ptr {slot}, align 8")

    def check(self, stmt: Check) -> None:
        """Write a check without a branch: the largest offending value is reported at the end."""
        holds, value = self.value(stmt.condition), self.value(stmt.value)
        writer = self.writer
        failed, worst = writer.alloca("i1"), writer.alloca("i64")
        writer.allocas.append(f"  store i1 false, ptr {failed}, align 8")
        writer.allocas.append(f"  store i64 {-2**63}, ptr {worst}, align 8")
        fails = writer.emit(f"xor i1 {holds}, true")
        either = writer.emit(f"or i1 {writer.emit(f'load i1, ptr {failed}, align 8')}, {fails}")
        writer.run(f"store i1 {either}, ptr {failed}, align 8")
        candidate = writer.emit(f"select i1 {holds}, i64 {-2**63}, i64 {value}")
        old = writer.emit(f"load i64, ptr {worst}, align 8")
        largest = combine(writer, "maximum", "int64", old, candidate)
        writer.run(f"store i64 {largest}, ptr {worst}, align 8")
        self.checks.append((stmt.code, failed, worst))

    def report(self) -> None:
        """Write the epilogue that reports failed checks."""
        writer = self.writer
        for code, failed, worst in self.checks:
            writer.module.declarations["tx.report"] = _REPORT

            def tell(code: int = code, worst: str = worst) -> None:
                value = writer.emit(f"load i64, ptr {worst}, align 8")
                writer.run(f"call void @tx.report(ptr %status, i64 {code}, i64 {value})")

            writer.branch_if(writer.emit(f"load i1, ptr {failed}, align 8"), tell, "failed")

    def value(self, root: Expr) -> str:
        """Return the operand holding an expression's value."""
        own: dict[int, str] = {}
        for node in postorder(root, known=lambda node: self.memo(node) is not None):
            text = own[id(node)] = self.node(node, own)
            if id(node) in self.stable:
                self.memos[-1][id(node)] = text
        return own.get(id(root)) or self.memo(root)

    def memo(self, node: Expr) -> str | None:
        """Return the operand of a node written by an earlier statement, if it may be reused."""
        for memo in reversed(self.memos):
            if id(node) in memo:
                return memo[id(node)]
        return None

    def node(self, node: Expr, own: dict[int, str]) -> str:
        """Write one node whose arguments are written."""
        if isinstance(node, Const):
            return constant(node.value, node.dtype)
        if isinstance(node, Index):
            return self.writer.dim(node.dim)
        if isinstance(node, Load):
            return self.load(node)
        if isinstance(node, Local):
            if node in self.changing:
                slot = self.locals[node]
                return self.writer.emit(f"load {llvm_type(node.dtype)}, ptr {slot}, align 8")
            return self.locals[node]
        assert isinstance(node, Scalar), node
        args = [own.get(id(arg)) or self.memo(arg) for arg in node.args]
        if node.name in FUNCTIONS:
            return self.call(node, args)
        return EMITTERS[node.name](self.writer, node, args)

    def call(self, node: Scalar, args: list[str]) -> str:
        """Write a call of a scalar function; LLVM inlines it into the loop before vectorising."""
        kind = llvm_type(node.dtype)
        name = f"{node.name}.{node.dtype}"
        module = self.writer.module
        if name not in module.declarations:
            module.declarations[name] = ""
            module.declarations[name] = _definition(module, node.name, node.dtype, len(args))
        passed = ", ".join(f"{kind} {arg}" for arg in args)
        return self.writer.emit(f"call {kind} @{name}({passed})")

    def load(self, load: Load) -> str:
        """Write a load."""
        address = self.address(load.buffer, load.position)
        value = self.writer.emit(
            f"load {memory_type(load.dtype)}, ptr {address}, align {SIZES[load.dtype]}")
        return self.writer.emit(f"icmp ne i8 {value}, 0") if load.dtype == "bool" else value

    def store(self, buffer: Buffer, position: tuple[DimLike, ...], value: str) -> None:
        """Write a store."""
        address = self.address(buffer, position)
        if buffer.dtype == "bool":
            value = self.writer.emit(f"zext i1 {value} to i8")
        self.writer.run(f"store {memory_type(buffer.dtype)} {value}, ptr {address}, "
                        f"align {SIZES[buffer.dtype]}")

    def address(self, buffer: Buffer, position: tuple[DimLike, ...]) -> str:
        """Write an element's address."""
        strides = self.strides.get(buffer)
        if strides is None:
            strides = self.strides[buffer] = row_major_strides(buffer.dims)
        offset: DimLike = 0
        for index, stride in zip(position, strides):
            offset = offset + index * stride
        base = self.addresses[buffer.root()]
        return self.writer.emit(f"getelementptr inbounds {memory_type(buffer.dtype)}, "
                                f"ptr {base}, i64 {self.writer.dim(offset)}")
