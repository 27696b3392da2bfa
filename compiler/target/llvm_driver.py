"""The two exported functions: ``tx_plan`` checks and computes sizes, ``tx_run`` walks the steps.

See ``runtime/artifact.py`` for what they take and return.
"""

from __future__ import annotations

from itertools import count

from ...runtime.artifact import INTERRUPTED, InternalError
from ..dims import DimLike, Symbol, as_symbol, prod, proves_nonnegative, substitute
from ..dtypes import SIZES
from ..loop.ir import Buffer, Check, Nest
from ..loop.text import Signature, nest_signature
from ..loop.walk import statements
from ..program import Contract, Copy, For, Kernel, Program, Step, View
from .llvm_contract import (
    Epilogue, blocking, contract_symbols, contract_work, emit_contract, task_count)
from .llvm_kernel import (
    DRIVER_ATTRIBUTES, FLAT_UNIT, PARALLEL_WORK, KernelCode, emit_kernel, nest_work, parallel_loop)
from .llvm_scalar import memory_type
from .llvm_writer import FunctionWriter, Module, Value

CHUNK_WORK = 16_384
"""Scalar operations of a chunk: large beside the cost of handing it to a thread."""

LONG_WORK = 1 << 24
"""Scalar operations from which on a call asks between steps whether the user interrupted it."""

PART_STEPS = 128
"""Steps that one function walks; LLVM takes time quadratic in the calls of a function."""

LARGEST = 1 << 62
"""Sizes above this are refused."""

_DISPATCH = f"""
declare i64 @tx_parallel_until(ptr, ptr, i64, i64, i64)
define internal i64 @tx.dispatch(ptr %task, ptr %frame, i64 %work, i64 %extent, i64 %unit,
    i64 %may.stop) noinline optnone nounwind {{
  %large = icmp sgt i64 %work, {PARALLEL_WORK}
  %several = icmp sgt i64 %extent, 1
  %cut = and i1 %large, %several
  br i1 %cut, label %parallel, label %serial
parallel:
  %each = udiv i64 %work, %extent
  %each.least = call i64 @llvm.smax.i64(i64 %each, i64 1)
  %enough = udiv i64 {CHUNK_WORK - 1}, %each.least
  %units = udiv i64 %enough, %unit
  %more = add nuw nsw i64 %units, 1
  %grain = mul nuw nsw i64 %more, %unit
  %stopped = call i64 @tx_parallel_until(ptr %task, ptr %frame, i64 %extent, i64 %grain,
                                         i64 %may.stop)
  ret i64 %stopped
serial:
  call void %task(ptr %frame, i64 0, i64 %extent)
  ret i64 0
}}"""
"""Runs a task on all of its range: cut into chunks of a multiple of ``unit`` when it is large.  The
result is not 0 when the user interrupted the call, and the task is not complete."""


def ordered_symbols(program: Program) -> tuple[Symbol, ...]:
    """Return the program's symbols as the artifact lists them: those an axis binds come first."""
    axes = {as_symbol(dim) for buffer in (*program.inputs, *program.shared)
            for dim in buffer.dims}
    bound = [symbol for symbol in program.symbols if symbol in axes]
    return (*bound, *(symbol for symbol in program.symbols if symbol not in axes))


def program_work(program: Program) -> DimLike:
    """Return the estimated scalar operations of a call."""
    total: DimLike = 0
    for step in program.steps:
        total = total + step_work(step, {})
    return total


def step_work(step: Step, values: dict[Symbol, DimLike]) -> DimLike:
    """Return the estimated scalar operations of a step; ``values`` replace enclosing indices."""
    if isinstance(step, Kernel):
        return substitute(nest_work(step.nest), values)
    if isinstance(step, Contract):
        work = contract_work(step)
        if step.epilogue is not None:
            work = work + nest_work(step.epilogue.nest)
        return substitute(work, values)
    if isinstance(step, Copy):
        return substitute(prod(step.source.dims), values)
    extent = substitute(step.extent, values)
    inner = {**values, step.index: extent // 2}
    total: DimLike = 0
    for child in step.body:
        total = total + step_work(child, inner)
    return extent * total


class _Kernels:
    """The distinct kernels of a program: equal nests are emitted once."""

    def __init__(self, module: Module):
        self.module = module
        self.codes: dict[tuple[str, int | None], KernelCode] = {}

    def get(self, nest: Nest, unit: DimLike | None = None) -> tuple[KernelCode, Signature]:
        """Return the code for a nest and what its parameters stand for.

        Parameters
        ----------
        nest : Nest
        unit : dim, optional
            As for :func:`emit_kernel`.
        """
        signature = nest_signature(nest)
        key = (signature.key, unit if unit is None or isinstance(unit, int) else 1)
        code = self.codes.get(key)
        if code is None:
            code = emit_kernel(self.module, f"kernel{len(self.codes)}", nest, signature, key[1])
            self.codes[key] = code
        return code, signature


def emit_run(module: Module, program: Program) -> None:
    """Add ``tx_run`` and all kernels to a module."""
    _RunEmitter(module, program).emit()


_RUN_ARGUMENTS = "(ptr %symbols, ptr %pointers, ptr %arena, ptr %status)"


class _RunEmitter:
    """Writes ``tx_run``."""

    def __init__(self, module: Module, program: Program):
        self.module, self.program = module, program
        self.kernels = _Kernels(module)
        listed = (*program.inputs, *program.shared, *program.outputs, *program.constants)
        self.slots = {buffer: number for number, buffer in enumerate(listed)}
        self.work = program_work(program)
        self.serials = count()
        self.checked = False

    def emit(self) -> None:
        """Write ``tx_run``, which walks the steps, or calls functions that walk a part each."""
        steps = len(self.program.steps)
        if steps <= PART_STEPS:
            self.part("define i64 @tx_run", range(steps))
            return
        firsts = range(0, steps, PART_STEPS)
        for first in firsts:
            self.part(f"define internal i64 @tx_run.{first}",
                      range(first, min(first + PART_STEPS, steps)))
        writer = FunctionWriter(self.module, f"define i64 @tx_run{_RUN_ARGUMENTS}")
        for first in firsts:
            result = writer.emit(f"call i64 @tx_run.{first}{_RUN_ARGUMENTS}")
            stop = writer.emit(f"icmp ne i64 {result}, 0")
            writer.branch_if(stop, lambda value=result: writer.leave(f"ret i64 {value}"), "stop")
        writer.run("ret i64 0")
        writer.finish()

    def part(self, head: str, numbers: range) -> None:
        """Write a function that walks some of the steps; its result is not 0 when it stopped."""
        writer = self.writer = FunctionWriter(
            self.module, f"{head}{_RUN_ARGUMENTS} {DRIVER_ATTRIBUTES}")
        self.long: str | None = None
        self.frame_words = 0
        _load_symbols(writer, ordered_symbols(self.program))
        if not isinstance(self.work, int):
            self.long = writer.emit(f"icmp sgt i64 {writer.dim(self.work)}, {LONG_WORK}")
        elif self.work > LONG_WORK:
            self.long = "true"
        for number in numbers:
            if number == self.program.commit and self.checked:
                self.stop_if_failed()
            step = self.program.steps[number]
            self.step(step, number < self.program.commit)
            self.checked = self.checked or _has_check(step)
        is_last = numbers.stop == len(self.program.steps)
        result = writer.emit("load i64, ptr %status, align 8") if is_last and self.checked else "0"
        writer.run(f"ret i64 {result}")
        if self.frame_words:
            writer.allocas.append(f"  %frame = alloca i64, i64 {self.frame_words}, align 8")
        writer.finish()

    def step(self, step: Step, may_stop: bool) -> None:
        """Write one step, and the poll after it."""
        if isinstance(step, For):
            self.loop(step, may_stop)
        elif isinstance(step, Kernel):
            self.kernel(step, may_stop)
        elif isinstance(step, Contract):
            self.contract(step, may_stop)
        else:
            self.copy(step)
        if may_stop and self.long is not None:
            self.poll()

    def loop(self, step: For, may_stop: bool) -> None:
        """Write repeated steps."""
        def body() -> None:
            for inner in step.body:
                self.step(inner, may_stop)

        self.writer.loop(step.index, "0", self.writer.dim(step.extent), body)

    def kernel(self, step: Kernel, may_stop: bool) -> None:
        """Write the call of a kernel."""
        code, signature = self.kernels.get(step.nest)
        writer = self.writer
        words = [("ptr", "%status")]
        words += self.roots(code, signature)
        words += [("i64", writer.symbols[symbol].text) for symbol in signature.symbols]
        if not code.is_parallel:
            passed = ", ".join(f"{kind} {word}" for kind, word in words)
            writer.run(f"call void @{code.name}({passed})")
            return
        self.dispatch(code, words, parallel_loop(step.nest).extent, nest_work(step.nest),
                      FLAT_UNIT if code.is_flat else 1, may_stop)

    def dispatch(self, code: KernelCode, words: list[tuple[str, str]], trips: DimLike,
                 work: DimLike, unit: int, may_stop: bool) -> None:
        """Write the call of a parallel kernel, cut over threads when its work is large.

        Parameters
        ----------
        words : list of (str, str)
            Its arguments, as LLVM types and operands, but for the range.
        trips : dim
            Iterations of its parallel loop.
        unit : int
            Chunks are multiples of this many iterations.
        """
        writer = self.writer
        extent = writer.dim(trips)
        if trips == 1 or isinstance(work, int) and work <= PARALLEL_WORK:
            passed = ", ".join(f"{kind} {word}" for kind, word in words)
            writer.run(f"call void @{code.name}({passed}, i64 0, i64 {extent})")
            return
        self.module.declare("llvm.smax.i64", "i64", "i64", "i64")
        self.module.declarations["tx.dispatch"] = _DISPATCH
        self.frame_words = max(self.frame_words, len(words))
        for number, (kind, word) in enumerate(words):
            slot = writer.emit(f"getelementptr inbounds i64, ptr %frame, i64 {number}")
            writer.run(f"store {kind} {word}, ptr {slot}, align 8")
        asks = "0"
        if may_stop and self.long is not None:
            asks = writer.emit(f"zext i1 {self.long} to i64")
        stopped = writer.emit(
            f"call i64 @tx.dispatch(ptr @{code.name}.task, ptr %frame, i64 {writer.dim(work)}, "
            f"i64 {extent}, i64 {unit}, i64 {asks})")
        if asks != "0":
            self.leave_if(stopped)

    def contract(self, step: Contract, may_stop: bool) -> None:
        """Write the call of a contraction."""
        if 0 in step.out.dims:
            return
        epilogue = self.epilogue(step)
        cut = blocking(step, self.module.machine)
        code = emit_contract(self.module, f"contract{next(self.serials)}", step, cut, epilogue)
        words = [("ptr", "%status")]
        words += [("ptr", self.window(view)) for view in (step.out, step.left, step.right)]
        if epilogue is not None:
            words += self.roots(epilogue.code, epilogue.signature)
        words += [("i64", self.writer.symbols[symbol].text)
                  for symbol in contract_symbols(step, epilogue)]
        self.dispatch(code, words, task_count(step, cut), step_work(step, {}), 1, may_stop)

    def epilogue(self, step: Contract) -> Epilogue | None:
        """Write the kernel of a contraction's epilogue."""
        if step.epilogue is None:
            return None
        loop, (_, rows, columns) = parallel_loop(step.epilogue.nest), step.out.dims
        unit = 1 if loop.extent == rows else columns
        code, signature = self.kernels.get(step.epilogue.nest, unit)
        return Epilogue(code, unit, signature)

    def roots(self, code: KernelCode, signature: Signature) -> list[tuple[str, str]]:
        """Write the addresses that a kernel's code takes."""
        return [("ptr", self.address(signature.buffers[number])) for number in code.roots]

    def copy(self, step: Copy) -> None:
        """Write a copy."""
        if step.source.root() is step.target.root():
            return
        size = self.writer.dim(prod(step.source.dims) * SIZES[step.source.dtype])
        memcpy = self.module.declare("llvm.memcpy.p0.p0.i64", "void", "ptr", "ptr", "i64", "i1")
        self.writer.run(f"call void {memcpy}(ptr {self.address(step.target)}, "
                        f"ptr {self.address(step.source)}, i64 {size}, i1 false)")

    def window(self, view: View) -> str:
        """Write the address of a view's first element."""
        base = self.address(view.buffer)
        if view.offset == 0:
            return base
        return self.writer.emit(f"getelementptr inbounds {memory_type(view.buffer.dtype)}, "
                                f"ptr {base}, i64 {self.writer.dim(view.offset)}")

    def address(self, buffer: Buffer) -> str:
        """Write a buffer's address."""
        root = buffer.root()
        if root in self.slots:
            slot = self.writer.emit(
                f"getelementptr inbounds ptr, ptr %pointers, i64 {self.slots[root]}")
            return self.writer.emit(f"load ptr, ptr {slot}, align 8")
        if root not in self.program.offsets:
            raise InternalError(f"program {self.program.name}: {root!r} has no memory")
        offset = self.writer.dim(self.program.offsets[root])
        return self.writer.emit(f"getelementptr inbounds i8, ptr %arena, i64 {offset}")

    def poll(self) -> None:
        """Write the return of a call that the user interrupted."""
        writer = self.writer
        ask = writer.module.declare("tx_poll", "i64")

        def check() -> None:
            self.leave_if(writer.emit(f"call i64 {ask}()"))

        writer.branch_if(self.long, check, "poll")

    def leave_if(self, interrupted: str) -> None:
        """Write the return of a call when ``interrupted`` is not 0."""
        writer = self.writer
        stop = writer.emit(f"icmp ne i64 {interrupted}, 0")
        writer.branch_if(stop, lambda: writer.leave(f"ret i64 {INTERRUPTED}"), "stop")

    def stop_if_failed(self) -> None:
        """Write the return of a call in which a check failed."""
        writer = self.writer
        code = writer.emit("load i64, ptr %status, align 8")
        failed = writer.emit(f"icmp ne i64 {code}, 0")
        writer.branch_if(failed, lambda: writer.leave(f"ret i64 {code}"), "failed")


def _has_check(step: Step) -> bool:
    if isinstance(step, For):
        return any(_has_check(inner) for inner in step.body)
    if isinstance(step, Contract):
        return step.epilogue is not None and _has_check(step.epilogue)
    return isinstance(step, Kernel) and any(
        isinstance(stmt, Check) for stmt in statements(step.nest.body))


def _load_symbols(writer: FunctionWriter, symbols: tuple[Symbol, ...]) -> None:
    """Write the loads of all symbols, ahead of the entry scope that uses them."""
    for number, symbol in enumerate(symbols):
        slot, name = writer.name(), writer.name()
        writer.allocas.append(f"  {slot} = getelementptr inbounds i64, ptr %symbols, i64 {number}")
        writer.allocas.append(f"  {name} = load i64, ptr {slot}, align 8")
        writer.bind(symbol, name)


class _CheckedWriter(FunctionWriter):
    """A writer whose sums and products record whether any of them overflowed."""

    def __init__(self, module: Module, header: str):
        self.overflows: list[str] = []
        super().__init__(module, header)

    def integer(self, operation: str, left: Value, right: Value) -> Value:
        """Write an operation, once; additions and products are checked."""
        verb = operation.split()[0]
        if verb not in ("add", "mul"):
            return super().integer(operation, left, right)
        scope = self.scopes[0]
        key = (verb, left.text, right.text)
        if key not in scope.memo:
            function = self.module.declare(f"llvm.s{verb}.with.overflow.i64", "{ i64, i1 }",
                                           "i64", "i64")
            pair, value, flag = self.name(), self.name(), self.name()
            scope.entry += [
                f"  {pair} = call {{ i64, i1 }} {function}(i64 {left.text}, i64 {right.text})",
                f"  {value} = extractvalue {{ i64, i1 }} {pair}, 0",
                f"  {flag} = extractvalue {{ i64, i1 }} {pair}, 1"]
            self.overflows.append(flag)
            scope.memo[key] = Value(value, 0)
        return scope.memo[key]


def emit_plan(module: Module, program: Program) -> None:
    """Add ``tx_plan`` to a module."""
    writer = _CheckedWriter(module, "define i64 @tx_plan(ptr %symbols, ptr %results) "
                                    f"{DRIVER_ATTRIBUTES}")
    _load_symbols(writer, ordered_symbols(program))
    guards = [(writer.dim(guard.left), writer.dim(guard.right)) for guard in program.guards]
    arena = writer.dim(program.arena)
    results = [dim for buffer in program.outputs for dim in buffer.dims]
    values = [writer.dim(dim) for dim in results]
    stored = results + [dim for buffer in program.offsets for dim in buffer.dims]
    unproved = [writer.dim(dim) for dim in dict.fromkeys(stored) if not proves_nonnegative(dim)]
    _refuse_any(writer, writer.overflows)
    for number, (left, right) in enumerate(guards, 1):
        differ = writer.emit(f"icmp ne i64 {left}, {right}")
        writer.branch_if(differ, lambda number=number: writer.leave(f"ret i64 {number}"), "guard")
    _refuse_any(writer, [writer.emit(f"icmp ugt i64 {arena}, {LARGEST}"),
                         *(writer.emit(f"icmp slt i64 {size}, 0") for size in unproved)])
    padded = writer.emit(f"and i64 {writer.emit(f'add i64 {arena}, 63')}, -64")
    for number, value in enumerate([padded, *values]):
        slot = writer.emit(f"getelementptr inbounds i64, ptr %results, i64 {number}")
        writer.run(f"store i64 {value}, ptr {slot}, align 8")
    writer.run("ret i64 0")
    writer.finish()


def _refuse_any(writer: FunctionWriter, flags: list[str]) -> None:
    """Write the return of -1 when any flag is set."""
    bad = "false"
    for flag in flags:
        bad = writer.emit(f"or i1 {bad}, {flag}")
    writer.branch_if(bad, lambda: writer.leave("ret i64 -1"), "refuse")
