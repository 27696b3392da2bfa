"""The two exported functions: ``tx_plan`` checks and computes sizes, ``tx_run`` walks the steps.

See ``runtime/artifact.py`` for what they take and return.
"""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

from ...runtime.artifact import INTERRUPTED, InternalError
from ..dims import DimLike, Symbol, as_symbol, prod, proves_nonnegative
from ..dtypes import SIZES
from ..loop.ir import Buffer, Check, Nest
from ..loop.text import Signature, nest_signature
from ..loop.walk import statements
from ..program import Contract, Copy, For, Group, Kernel, Program, Step, View, inner_steps
from .llvm_blocking import (
    Blocking, blas_blocking, blas_choice, blocking, own_blocking, task_count)
from .llvm_contract import Epilogue, contract_symbols, emit_contract
from .llvm_cost import CHUNK, LONG, PARALLEL, WAKE, nest_work, program_work, step_work
from .llvm_group import ENTRY_WORDS, GROUP, GROUP_DECLARATION, Generic, generic_nests
from .llvm_kernel import (
    KernelCode, emit_kernel, emit_task, parallel_loop)
from .llvm_scalar import memory_type
from .llvm_stream import write_only
from .llvm_writer import FunctionWriter, Module, Value

PART_STEPS = 128
"""Steps that one function walks; LLVM takes time quadratic in the calls of a function."""

LARGEST = 1 << 62
"""Sizes above this are refused."""


def chunk_of(work: int, extent: int, unit: int) -> int:
    """Return how many of ``extent`` iterations make a chunk: a multiple of ``unit``."""
    return ((CHUNK - 1) // max(work // max(extent, 1), 1) // unit + 1) * unit


_CHUNK = f"""
define internal i64 @tx.chunk(i64 %work, i64 %extent, i64 %unit) nounwind {{
  %some = call i64 @llvm.smax.i64(i64 %extent, i64 1)
  %each = udiv i64 %work, %some
  %each.least = call i64 @llvm.smax.i64(i64 %each, i64 1)
  %enough = udiv i64 {CHUNK - 1}, %each.least
  %units = udiv i64 %enough, %unit
  %more = add nuw nsw i64 %units, 1
  %grain = mul nuw nsw i64 %more, %unit
  ret i64 %grain
}}"""
"""The same in code: see :func:`chunk_of`."""

_DISPATCH = f"""
declare i64 @tx_parallel_until(ptr, ptr, i64, i64, i64, i64)
define internal i64 @tx.dispatch(ptr %task, ptr %frame, i64 %work, i64 %extent, i64 %unit,
    i64 %may.stop) nounwind {{
  %large = icmp sgt i64 %work, {PARALLEL}
  %several = icmp sgt i64 %extent, 1
  %cut = and i1 %large, %several
  br i1 %cut, label %parallel, label %serial
parallel:
  %grain = call i64 @tx.chunk(i64 %work, i64 %extent, i64 %unit)
  %is.long = icmp sgt i64 %work, {WAKE}
  %wakes = zext i1 %is.long to i64
  %stopped = call i64 @tx_parallel_until(ptr %task, ptr %frame, i64 %extent, i64 %grain,
                                         i64 %may.stop, i64 %wakes)
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


class _Kernels:
    """The distinct kernels of a program: equal nests are emitted once."""

    def __init__(self, module: Module):
        self.module = module
        self.codes: dict[tuple[str, int | None, int | None], KernelCode] = {}
        self.tasks: set[str] = set()

    def get(self, nest: Nest, unit: DimLike | None = None) -> tuple[KernelCode, Signature]:
        """Return the code for a nest and what its parameters stand for.

        Parameters
        ----------
        nest : Nest
        unit : dim, optional
            As for :func:`emit_kernel`.
        """
        signature = nest_signature(nest)
        unit = unit if unit is None or isinstance(unit, int) else 1
        return self._code(nest, signature, unit, None), signature

    def shared(self, form: Generic) -> tuple[KernelCode, Signature]:
        """Return the same for the form that several nests share."""
        return self._code(form.nest, form.signature, None, form.multiple), form.signature

    def _code(self, nest: Nest, signature: Signature, unit: int | None, multiple: int | None
              ) -> KernelCode:
        key = (signature.key, unit, multiple)
        if key not in self.codes:
            self.codes[key] = emit_kernel(
                self.module.kernels, f"kernel{len(self.codes)}", nest, signature, unit, multiple)
        return self.codes[key]

    def task(self, code: KernelCode) -> str:
        """Return the function that takes a kernel's arguments from a frame."""
        if code.name not in self.tasks:
            emit_task(self.module, code)
            self.tasks.add(code.name)
        return f"@{code.name}.task"


class _Call(NamedTuple):
    """A kernel with its arguments.

    Attributes
    ----------
    code : KernelCode
    words : list of (str, str)
        Arguments but for the range, as LLVM types and operands.
    trips : dim
        Iterations of its parallel loop; 1 when it takes no range.
    work : dim
    unit : int
        Its chunks are multiples of this many iterations.
    """

    code: KernelCode
    words: list[tuple[str, str]]
    trips: DimLike
    work: DimLike
    unit: int = 1


def emit_run(module: Module, program: Program) -> None:
    """Add ``tx_run`` to a module, and all kernels to the one whose functions it calls."""
    _RunEmitter(module, program).emit()


_RUN_ARGUMENTS = "(ptr %symbols, ptr %pointers, ptr %arena, ptr %status)"


class _RunEmitter:
    """Writes ``tx_run``."""

    def __init__(self, module: Module, program: Program):
        self.module, self.program = module, program
        self.kernels = _Kernels(module)
        listed = (*program.inputs, *program.shared, *program.outputs, *program.constants)
        self.slots = {buffer: number for number, buffer in enumerate(listed)}
        self.write_only = write_only(program)
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
            self.module, f"{head}{_RUN_ARGUMENTS} nounwind")
        self.long: str | None = None
        self.frame_words = self.table_words = 0
        _load_symbols(writer, ordered_symbols(self.program))
        if not isinstance(self.work, int):
            self.long = writer.emit(f"icmp sgt i64 {writer.dim(self.work)}, {LONG}")
        elif self.work > LONG:
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
        for name, size in (("frame", self.frame_words), ("table", self.table_words)):
            if size:
                writer.allocas.append(f"  %{name} = alloca i64, i64 {size}, align 8")
        writer.finish()

    def step(self, step: Step, may_stop: bool) -> None:
        """Write one step, and the poll after it."""
        if isinstance(step, For):
            self.loop(step, may_stop)
        elif isinstance(step, Kernel):
            self.kernel(step, may_stop)
        elif isinstance(step, Contract):
            self.contract(step, may_stop)
        elif isinstance(step, Group):
            self.group(step, may_stop)
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
        self.dispatch(self.prepared(step.nest), may_stop)

    def prepared(self, nest: Nest, form: Generic | None = None) -> _Call:
        """Write the arguments of a kernel, or of the form of it that others share."""
        code, signature = self.kernels.get(nest) if form is None else self.kernels.shared(form)
        words = [("ptr", "%status"), *self.roots(code, signature)]
        words += [("i64", str(form.value) if form is not None and symbol is form.extent
                   else self.writer.symbols[symbol].text) for symbol in signature.symbols]
        if code.streams:
            words.append(("i64", str(sum(
                1 << bit for bit, number in enumerate(code.streams)
                if signature.buffers[number].root() in self.write_only))))
        if not code.is_parallel:
            return _Call(code, words, 1, nest_work(nest))
        return _Call(code, words, parallel_loop(nest).extent, nest_work(nest), code.unit)

    def group(self, step: Group, may_stop: bool) -> None:
        """Write the calls of kernels that may run at once."""
        nests = [kernel.nest for kernel in step.kernels]
        calls = [self.prepared(*pair) for pair in zip(nests, generic_nests(nests))]
        work = sum(call.work for call in calls)
        if isinstance(work, int) and work <= PARALLEL:
            for call in calls:
                self.direct(call)
            return
        kernels = self.module.kernels
        if "tx.group" not in kernels.declarations:
            kernels.declare("llvm.smin.i64", "i64", "i64", "i64")
            kernels.declarations["tx.group"] = GROUP
            kernels.exports.append(GROUP_DECLARATION)
        last, frame = "0", ENTRY_WORDS * len(calls)
        for number, call in enumerate(calls):
            place = self.slot("%table", frame)
            self.store_words(place, call.words)
            chunk, last = self.tasks(call, last)
            self.store_words(self.slot("%table", ENTRY_WORDS * number), [
                ("ptr", self.kernels.task(call.code)), ("ptr", place),
                ("i64", self.writer.dim(call.trips)), ("i64", chunk), ("i64", last)])
            frame += len(call.words)
        self.table_words = max(self.table_words, frame)
        self.region("@tx.group", "%table", last, work, 1, may_stop)

    def tasks(self, call: _Call, before: str) -> tuple[str, str]:
        """Write how many iterations of a kernel make one task of a group, and the number of its
        last task, given that of the kernel before it."""
        writer = self.writer
        if call.trips == 1:
            chunk = "1"
        elif isinstance(call.trips, int) and isinstance(call.work, int):
            chunk = str(chunk_of(call.work, call.trips, call.unit))
        else:
            chunk = self.chunk(call)
        if before.isdecimal() and chunk.isdecimal() and isinstance(call.trips, int):
            return chunk, str(int(before) - -call.trips // int(chunk))
        up = writer.emit(f"add nuw nsw i64 {writer.dim(call.trips)}, {chunk}")
        count = writer.emit(f"udiv i64 {writer.emit(f'sub nsw i64 {up}, 1')}, {chunk}")
        return chunk, writer.emit(f"add nuw nsw i64 {before}, {count}")

    def chunk(self, call: _Call) -> str:
        """Write the size of a chunk of a kernel whose sizes are known at run time."""
        self.declare_dispatch()
        return self.writer.emit(
            f"call i64 @tx.chunk(i64 {self.writer.dim(call.work)}, "
            f"i64 {self.writer.dim(call.trips)}, i64 {call.unit})")

    def direct(self, call: _Call) -> None:
        """Write the call of a kernel by the thread at hand."""
        words = list(call.words)
        if call.code.is_parallel:
            words += [("i64", "0"), ("i64", self.writer.dim(call.trips))]
        passed = ", ".join(f"{kind} {word}" for kind, word in words)
        self.writer.run(f"call void @{call.code.name}({passed})")

    def dispatch(self, call: _Call, may_stop: bool) -> None:
        """Write the call of a kernel, cut over threads when its work is large."""
        if not call.code.is_parallel or call.trips == 1 \
                or isinstance(call.work, int) and call.work <= PARALLEL:
            self.direct(call)
            return
        self.frame_words = max(self.frame_words, len(call.words))
        extent = self.writer.dim(call.trips)
        self.store_words("%frame", call.words)
        self.region(self.kernels.task(call.code), "%frame", extent, call.work, call.unit, may_stop)

    def region(self, task: str, frame: str, extent: str, work: DimLike, unit: int,
               may_stop: bool) -> None:
        """Write the run of a task function on its range, by all threads when its work is large."""
        writer = self.writer
        self.declare_dispatch()
        asks = "0"
        if may_stop and self.long is not None:
            asks = writer.emit(f"zext i1 {self.long} to i64")
        stopped = writer.emit(
            f"call i64 @tx.dispatch(ptr {task}, ptr {frame}, i64 {writer.dim(work)}, "
            f"i64 {extent}, i64 {unit}, i64 {asks})")
        if asks != "0":
            self.leave_if(stopped)

    def declare_dispatch(self) -> None:
        """Include the functions that cut a range."""
        self.module.declare("llvm.smax.i64", "i64", "i64", "i64")
        self.module.declare("llvm.smin.i64", "i64", "i64", "i64")
        self.module.declarations["tx.chunk"] = _CHUNK
        self.module.declarations["tx.dispatch"] = _DISPATCH

    def slot(self, base: str, number: int) -> str:
        """Write the address of a word of an array."""
        return self.writer.emit(f"getelementptr inbounds i64, ptr {base}, i64 {number}")

    def store_words(self, base: str, words: list[tuple[str, str]]) -> None:
        """Write the stores of some words, one after the other."""
        for number, (kind, word) in enumerate(words):
            self.writer.run(f"store {kind} {word}, ptr {self.slot(base, number)}, align 8")

    def contract(self, step: Contract, may_stop: bool) -> None:
        """Write the call of a contraction."""
        if 0 in step.out.dims:
            if step.epilogue is not None:
                self.kernel(step.epilogue, may_stop)
            return
        epilogue = self.epilogue(step)
        words = [("ptr", "%status")]
        words += [("ptr", self.window(view)) for view in (step.out, step.left, step.right)]
        if epilogue is not None:
            words += self.roots(epilogue.code, epilogue.signature)
        words += [("i64", self.writer.symbols[symbol].text)
                  for symbol in contract_symbols(step, epilogue)]
        work = step_work(step, {})

        def run(cut: Blocking) -> None:
            code = emit_contract(self.module, f"contract{next(self.serials)}", step, cut, epilogue)
            self.dispatch(_Call(code, words, task_count(step, cut), work), may_stop)

        machine = self.module.machine
        first, second = blas_choice(step, machine)
        if all(isinstance(margin, int) for margin in (first, second)) \
                or isinstance(first, int) and first < 0:
            run(blocking(step, machine))
            return
        is_blas = self.writer.both(self.writer.is_less(-1, first),
                                   lambda: self.writer.is_less(-1, second))
        self.writer.branch(is_blas, lambda: run(blas_blocking(step, machine)),
                           lambda: run(own_blocking(step, machine)))

    def epilogue(self, step: Contract) -> Epilogue | None:
        """Write the kernel of a contraction's epilogue."""
        if step.epilogue is None:
            return None
        loop, (rows, columns) = parallel_loop(step.epilogue.nest), step.out.dims[-2:]
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
    if isinstance(step, (For, Group)):
        return any(_has_check(inner) for inner in inner_steps(step))
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
        key = f"{verb} {left.text}, {right.text}"
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
    writer = _CheckedWriter(module, "define i64 @tx_plan(ptr %symbols, ptr %results) nounwind")
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
    wrong = [writer.emit(f"icmp slt i64 {size}, 0") for size in unproved]
    if isinstance(program.arena, int):
        padded = str(program.arena + 63 & -64)
        wrong += ["true"] if program.arena > LARGEST else []
    else:
        wrong.append(writer.emit(f"icmp ugt i64 {arena}, {LARGEST}"))
        padded = writer.emit(f"and i64 {writer.emit(f'add i64 {arena}, 63')}, -64")
    _refuse_any(writer, wrong)
    for number, value in enumerate([padded, *values]):
        slot = writer.emit(f"getelementptr inbounds i64, ptr %results, i64 {number}")
        writer.run(f"store i64 {value}, ptr {slot}, align 8")
    writer.run("ret i64 0")
    writer.finish()


def _refuse_any(writer: FunctionWriter, flags: list[str]) -> None:
    """Write the return of -1 when any flag is set."""
    if not flags:
        return
    bad = flags[0]
    for flag in flags[1:]:
        bad = writer.emit(f"or i1 {bad}, {flag}")
    writer.branch_if(bad, lambda: writer.leave("ret i64 -1"), "refuse")
