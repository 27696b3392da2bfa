"""Well-formedness of a program, checked between passes: enters a program, leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator

from ..runtime import artifact
from .dims import DimLike, Symbol, as_symbol, prod, proves_different, proves_equal, symbols_of
from .dtypes import DTYPES, FLOATS, HALVES
from .epilogue import is_row_wise
from .loop.ir import Buffer, Check
from .loop.verify import verify_nest
from .loop.walk import buffers_read, buffers_written, statements
from .program import (
    Contract, Copy, For, Group, Kernel, Program, Step, View, bytes_of, reads_of, roots,
    writes_of,
)
from .program_text import step_text


def verify_program(program: Program) -> None:
    """Check that a program obeys the rules of level 2, its nests those of level 3.

    Raises
    ------
    InternalError
        Naming the step: buffers of unknown origin or written against their role, a shared variable
        written or a ``Check`` made on the wrong side of ``commit``, a temporary read before any
        step writes it, views of the wrong form, aliases of provably different size, temporaries
        that are alive together and overlap in the arena.
    """
    _Verifier(program).run()


class _Verifier:
    """One program being checked."""

    def __init__(self, program: Program):
        self.program = program
        self.where = f"program {program.name}"
        self.written: set[Buffer] = set()
        self.indices: set[Symbol] = set()
        self.roots = {*program.inputs, *program.shared, *program.outputs, *program.constants}

    def run(self) -> None:
        """Check the declarations, then the steps in order, then the memory plan."""
        self.declarations()
        for number, step in enumerate(self.program.steps):
            self.step(step, number)
        for output in self.program.outputs:
            empty = any(dim == 0 for dim in output.dims)
            self.require(empty or output in self.written, f"output {output!r} is never written")
        self.memory()

    def declarations(self) -> None:
        """Check arguments, outputs, constants, guards and failures."""
        program = self.program
        roles = {"input": program.inputs, "shared": program.shared, "output": program.outputs,
                 "constant": tuple(program.constants)}
        for role, buffers in roles.items():
            for buffer in buffers:
                self.require(buffer.role == role, f"{buffer!r} is listed as {role}")
                self.require(buffer.base is None, f"{role} {buffer!r} is an alias")
                self.buffer(buffer)
        self.require(sum(map(len, roles.values())) == len(self.roots), "a buffer is listed twice")
        for buffer in (*program.inputs, *program.shared):
            for dim in buffer.dims:
                plain = isinstance(dim, int) or as_symbol(dim) is not None
                self.require(plain, f"axis {dim} of {buffer!r} is neither a number nor a symbol")
        for buffer, array in program.constants.items():
            self.require(array.dtype == buffer.dtype and array.shape == buffer.dims,
                         f"constant {buffer!r} holds {array.dtype} {array.shape}")
        for guard in program.guards:
            self.sizes(guard.left, guard.right)
        for failure in program.failures:
            self.require(hasattr(artifact, failure.kind), f"unknown error {failure.kind}")
        self.sizes(program.arena, *program.offsets.values())

    def step(self, step: Step, number: int) -> None:
        """Check a step, whose place among the outermost steps is ``number``."""
        self.where = f"program {self.program.name}: {step_text(step)}"
        if isinstance(step, For):
            self.sizes(step.extent)
            self.require(step.index not in self.program.symbols, f"{step.index} is bound twice")
            self.indices.add(step.index)
            for inner in step.body:
                self.step(inner, number)
            self.indices.discard(step.index)
            return
        if isinstance(step, Group):
            self.group(step, number)
            return
        for buffer in (*reads_of(step), *writes_of(step)):
            self.buffer(buffer)
        for buffer in reads_of(step):
            self.readable(buffer, step)
        for buffer in writes_of(step):
            role = buffer.root().role
            self.require(role not in ("input", "constant"), f"{buffer!r} is written")
            self.require(role != "shared" or number >= self.program.commit,
                         f"shared {buffer!r} is written before the commit")
            self.written.add(buffer.root())
        if isinstance(step, Kernel):
            self.kernel(step, number)
        elif isinstance(step, Contract):
            self.contract(step, number)
        else:
            self.copy(step)

    def group(self, step: Group, number: int) -> None:
        """Check that the kernels of a group do not depend on their order, then each of them."""
        written: set[Buffer] = set()
        touched: set[Buffer] = set()
        for kernel in step.kernels:
            own = roots(kernel.writes)
            every = own | roots(kernel.reads)
            self.require(touched.isdisjoint(own) and written.isdisjoint(every),
                         f"{kernel.nest.name} touches what another kernel of its group writes, or "
                         "writes what another one touches")
            written |= own
            touched |= every
            self.step(kernel, number)

    def kernel(self, step: Kernel, number: int) -> None:
        """Check a kernel's nest and lists of buffers."""
        verify_nest(step.nest, {*self.program.symbols, *self.indices})
        for title, listed, used in (("reads", step.reads, buffers_read(step.nest)),
                                    ("writes", step.writes, buffers_written(step.nest))):
            self.require(set(listed) == set(used) and len(set(listed)) == len(listed),
                         f"its {title} are {list(used)}, listed {list(listed)}")
        for stmt in statements(step.nest.body):
            if isinstance(stmt, Check):
                self.require(number < self.program.commit or not self.changes_shared(),
                             "a Check comes after the commit")
                self.require(stmt.code <= len(self.program.failures),
                             f"failure {stmt.code} is not described")

    def changes_shared(self) -> bool:
        """Return whether any step writes a shared variable."""
        return any(buffer.root().role == "shared"
                   for step in self.program.steps for buffer in writes_of(step))

    def contract(self, step: Contract, number: int) -> None:
        """Check a contraction's views."""
        views = (step.out, step.left, step.right)
        for view in views:
            self.view(view)
        batches, inner = len(step.batch_dims), len(step.inner_dims)
        self.require(len(step.out.dims) >= 2 and inner >= 1 and len(step.left.dims)
                     == len(step.right.dims) == batches + 1 + inner, "the views' ranks disagree")
        result, *operands = (view.buffer.dtype for view in views)
        self.require(result in FLOATS and all(
            dtype == result or dtype in HALVES and result == "float32" for dtype in operands),
            f"dtypes {operands} give {result}")
        _, m, n, _ = step.sizes
        left, right = step.left.dims, step.right.dims
        for wanted, found in (((*step.batch_dims, m), left[:batches + 1]),
                              ((*step.batch_dims, *step.inner_dims, n), right)):
            for one, other in zip(wanted, found):
                self.require(not proves_different(one, other), f"sizes {one} and {other} disagree")
        self.require(step.out.strides[-1] == 1, "the out view's last stride is not 1")
        for operand in (step.left, step.right):
            # Windows on different parts of one buffer are fine: a loop's own history.
            same = operand.buffer.root() is step.out.buffer.root() \
                and proves_equal(operand.offset, step.out.offset)
            self.require(not same, "the out view is also an operand")
        if step.epilogue is not None:
            self.require(is_row_wise(step, step.epilogue),
                         "the epilogue needs more than its own row")
            self.kernel(step.epilogue, number)

    def view(self, view: View) -> None:
        """Check a view's rank and symbols, and its bounds when they are numbers."""
        self.require(len(view.dims) == len(view.strides), "a view has too few strides")
        self.sizes(view.offset, *view.dims, *view.strides)
        numbers = (view.offset, *view.dims, *view.strides, *view.buffer.dims)
        if all(isinstance(number, int) for number in numbers) and 0 not in view.dims:
            reach = [(dim - 1) * stride for dim, stride in zip(view.dims, view.strides)]
            low = view.offset + sum(min(0, step) for step in reach)
            high = view.offset + sum(max(0, step) for step in reach)
            self.require(low >= 0 and high < prod(view.buffer.dims),
                         f"a view leaves its buffer {view.buffer!r}")

    def copy(self, step: Step) -> None:
        """Check a copy."""
        assert isinstance(step, Copy), step
        self.require(step.source.dtype == step.target.dtype, "a copy changes the dtype")
        self.require(not proves_different(prod(step.source.dims), prod(step.target.dims)),
                     "a copy changes the number of elements")

    def buffer(self, buffer: Buffer) -> None:
        """Check a buffer's dtype, sizes and origin."""
        self.require(buffer.dtype in DTYPES, f"unknown dtype {buffer.dtype!r}")
        self.sizes(*buffer.dims)
        base = buffer.base
        if base is not None:
            self.require(base.dtype == buffer.dtype, f"{buffer!r} views {base!r}")
            self.require(not proves_different(prod(base.dims), prod(buffer.dims)),
                         f"{buffer!r} has another number of elements than {base!r}")
            self.buffer(base)
        else:
            self.require(buffer.role == "temporary" or buffer in self.roots,
                         f"{buffer.role} {buffer!r} is not declared")

    def readable(self, buffer: Buffer, step: Step) -> None:
        """Check that a buffer has a value: a kernel may read what it wrote itself."""
        root = buffer.root()
        if any(dim == 0 for dim in root.dims):
            return
        kernel = step.epilogue if isinstance(step, Contract) else step
        own = isinstance(kernel, Kernel) and root in {b.root() for b in kernel.writes}
        self.require(root.role in ("input", "shared", "constant") or root in self.written or own,
                     f"{buffer!r} is read before any step writes it")

    def sizes(self, *dims: DimLike) -> None:
        """Check that dims depend on known sizes only."""
        for dim in dims:
            for symbol in symbols_of(dim):
                self.require(symbol in self.program.symbols or symbol in self.indices,
                             f"symbol {symbol} is not bound")

    def memory(self) -> None:
        """Check that planned temporaries fit, and do not overlap those alive at the same time."""
        self.where = f"program {self.program.name}: memory plan"
        if not self.program.offsets:
            return
        spans = lifetimes(self.program)
        placed = []
        for buffer, (first, last) in spans.items():
            offset = self.program.offsets.get(buffer)
            self.require(offset is not None, f"temporary {buffer!r} has no place in the arena")
            if isinstance(offset, int) and isinstance(bytes_of(buffer), int):
                placed.append((offset, offset + bytes_of(buffer), first, last, buffer))
        placed.sort(key=lambda entry: entry[0])
        alive: list[tuple[int, int, int, int, Buffer]] = []
        for entry in placed:
            start, stop, first, last, buffer = entry
            self.require(start % 64 == 0, f"{buffer!r} is not aligned to 64 bytes")
            if isinstance(self.program.arena, int):
                self.require(stop <= self.program.arena, f"{buffer!r} leaves the arena")
            alive = [other for other in alive if other[1] > start]
            for other in alive:
                self.require(other[3] < first or last < other[2] or start == stop,
                             f"{buffer!r} overlaps {other[4]!r}")
            alive.append(entry)

    def require(self, holds: bool, what: str) -> None:
        """Raise unless ``holds``."""
        if not holds:
            raise artifact.InternalError(f"{what}\n  in: {self.where}")


def lifetimes(program: Program) -> dict[Buffer, tuple[int, int]]:
    """Return for each temporary root the first and last outermost step that uses it."""
    spans: dict[Buffer, tuple[int, int]] = {}
    for number, buffer in _uses(program):
        if buffer.root().role == "temporary":
            first, _ = spans.get(buffer.root(), (number, number))
            spans[buffer.root()] = first, number
    return spans


def _uses(program: Program) -> Iterator[tuple[int, Buffer]]:
    for number, step in enumerate(program.steps):
        for buffer in (*reads_of(step), *writes_of(step)):
            yield number, buffer
