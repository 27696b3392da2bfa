"""Run a program step by step with NumPy and the nest interpreter: the meaning of level 2.

Enters: a program and arrays; leaves: the outputs.  Slow, and checks all that is checkable.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..runtime import artifact
from .dims import Symbol, as_symbol, evaluate
from .dtypes import SIZES
from .loop.interpret import run_nest
from .loop.ir import Buffer
from .loop.scalar import convert
from .program import Contract, Copy, For, Group, Kernel, Program, Step, View


def run_program(program: Program, inputs: Sequence[np.ndarray], shared: Sequence[np.ndarray] = (),
                extra: Sequence[int] = ()) -> list[np.ndarray]:
    """Run ``program``.

    Parameters
    ----------
    program : Program
    inputs : sequence of ndarray
        The arguments, in order.
    shared : sequence of ndarray
        The shared variables' storage; updated in place.
    extra : sequence of int
        The symbols that no axis binds, in order.

    Returns
    -------
    list of ndarray
        The outputs.

    Raises
    ------
    ShapeError
        If the arguments' shapes disagree with the program's, or a guard fails.
    TetractysError
        The class a failure names, when a ``Check`` fails; shared variables are unchanged then.
    InternalError
        If the program is ill-formed.
    """
    return _Run(program, inputs, shared, extra).run()


class _Run:
    """One call: values of symbols, arrays of root buffers, what has been written."""

    def __init__(self, program: Program, inputs: Sequence[np.ndarray],
                 shared: Sequence[np.ndarray], extra: Sequence[int]):
        self.program = program
        self.arrays: dict[Buffer, np.ndarray] = {}
        self.written: dict[Buffer, np.ndarray] = {}
        self.failures: list[tuple[int, int]] = []
        self.symbols = _bind_symbols(program, (*inputs, *shared), extra)
        for buffer, array in zip((*program.inputs, *program.shared), (*inputs, *shared)):
            self.arrays[buffer] = self.checked(buffer, array)
        for buffer, array in program.constants.items():
            self.arrays[buffer] = self.checked(buffer, array)
        self.arena = np.zeros(evaluate(program.arena, self.symbols), np.uint8)

    def run(self) -> list[np.ndarray]:
        """Check the guards, run the steps, return the outputs."""
        for guard in self.program.guards:
            left, right = (evaluate(side, self.symbols) for side in (guard.left, guard.right))
            if left != right:
                raise artifact.ShapeError(guard.message.format(left, right))
        for number, step in enumerate(self.program.steps):
            if number == self.program.commit:
                self.report()
            self.step(step)
        self.report()
        return [self.array(buffer) for buffer in self.program.outputs]

    def step(self, step: Step) -> None:
        """Run one step."""
        if isinstance(step, Kernel):
            for buffer in (*step.reads, *step.writes):
                self.array(buffer)
            run_nest(step.nest, self.arrays, self.symbols, self.failures, self.written)
        elif isinstance(step, Contract):
            self.contract(step)
        elif isinstance(step, Group):
            for kernel in step.kernels:
                self.step(kernel)
        elif isinstance(step, Copy):
            self.require_written(step.source, slice(None))
            self.array(step.target).reshape(-1)[:] = self.array(step.source).reshape(-1)
            self.mark_written(step.target, slice(None))
        else:
            assert isinstance(step, For)
            for index in range(evaluate(step.extent, self.symbols)):
                self.symbols[step.index] = index
                for inner in step.body:
                    self.step(inner)
            self.symbols.pop(step.index, None)

    def contract(self, step: Contract) -> None:
        """Run a contraction with ``np.einsum``, in the dtype of its result."""
        left, right = (convert(self.window(view, True), step.out.buffer.dtype)
                       for view in (step.left, step.right))
        out = self.window(step.out, step.add)
        batch, inner = list(range(len(step.batch_dims))), len(step.inner_dims)
        m, n, first = len(batch), len(batch) + 1, len(batch) + 2
        summed = list(range(first, first + inner))
        product = np.einsum(left, [*batch, m, *summed], right, [*batch, *summed, n],
                            [*batch, m, n])
        out[...] = out + product if step.add else product
        self.mark_written(step.out.buffer, self.places(step.out))
        if step.epilogue is not None:
            self.step(step.epilogue)

    def window(self, view: View, reading: bool) -> np.ndarray:
        """Return a view as a strided array, all of whose elements are in bounds."""
        places = self.places(view)
        flat = self.array(view.buffer).reshape(-1)
        if places.size and not (0 <= places.min() and places.max() < flat.size):
            raise artifact.InternalError(f"a view leaves its buffer {view.buffer!r}")
        if reading:
            self.require_written(view.buffer, places)
        if not places.size:
            return np.empty(places.shape, flat.dtype)
        strides = [evaluate(stride, self.symbols) * flat.itemsize for stride in view.strides]
        return as_strided(flat[evaluate(view.offset, self.symbols):], places.shape, strides)

    def places(self, view: View) -> np.ndarray:
        """Return the flat index of each element of a view."""
        places = np.asarray(evaluate(view.offset, self.symbols))
        for dim, stride in zip(view.dims, view.strides):
            steps = np.arange(evaluate(dim, self.symbols)) * evaluate(stride, self.symbols)
            places = places[..., None] + steps
        return places

    def array(self, buffer: Buffer) -> np.ndarray:
        """Return a buffer's array, in its own shape; outputs and temporaries appear when used."""
        root = buffer.root()
        if root not in self.arrays:
            shape, dtype = self.shape(root), artifact.numpy_dtype(root.dtype)
            if root in self.program.offsets:
                start = evaluate(self.program.offsets[root], self.symbols)
                size = int(np.prod(shape)) * SIZES[root.dtype]
                if not 0 <= start <= start + size <= self.arena.size:
                    raise artifact.InternalError(f"{root!r} does not lie in the arena")
                self.arrays[root] = self.arena[start:start + size].view(dtype).reshape(shape)
            else:
                self.arrays[root] = np.zeros(shape, dtype)
        return self.arrays[root].reshape(self.shape(buffer))

    def shape(self, buffer: Buffer) -> tuple[int, ...]:
        """Return a buffer's shape."""
        return tuple(evaluate(dim, self.symbols) for dim in buffer.dims)

    def checked(self, buffer: Buffer, array: np.ndarray) -> np.ndarray:
        """Return an argument, which must be what the buffer says."""
        if array.dtype != buffer.dtype or not array.flags.c_contiguous:
            raise artifact.CallError(f"{buffer!r} got {array.dtype} strides {array.strides}")
        if array.shape != self.shape(buffer):
            raise artifact.ShapeError(
                f"{buffer!r} got shape {array.shape}, not {self.shape(buffer)}")
        return array

    def require_written(self, buffer: Buffer, places: np.ndarray | slice) -> None:
        """Check that elements of a temporary or output have values."""
        root = buffer.root()
        if root.role in ("temporary", "output"):
            mask = self.written.get(root)
            size = self.array(root).size
            if size and (mask is None or not mask[places].all()):
                raise artifact.InternalError(f"{buffer!r} is read before it is written")

    def mark_written(self, buffer: Buffer, places: np.ndarray | slice) -> None:
        """Record that elements have values."""
        root = buffer.root()
        mask = self.written.setdefault(root, np.zeros(self.array(root).size, bool))
        mask[places] = True

    def report(self) -> None:
        """Raise the first failure."""
        if self.failures:
            code, value = self.failures[0]
            failure = self.program.failures[code - 1]
            raise getattr(artifact, failure.kind)(failure.message.format(value=value))


def _bind_symbols(program: Program, arguments: Sequence[np.ndarray],
                  extra: Sequence[int]) -> dict[Symbol, int]:
    """Return the value of each symbol: from the first axis that is it, else from ``extra``."""
    values: dict[Symbol, int] = {}
    buffers = (*program.inputs, *program.shared)
    if len(buffers) != len(arguments):
        raise artifact.CallError(f"{len(buffers)} arrays expected, {len(arguments)} given")
    for buffer, array in zip(buffers, arguments):
        if array.ndim != len(buffer.dims):
            raise artifact.ShapeError(f"{buffer!r} got {array.ndim} axes")
        for dim, size in zip(buffer.dims, array.shape):
            symbol = as_symbol(dim)
            if symbol is not None:
                values.setdefault(symbol, size)
    rest = [symbol for symbol in program.symbols if symbol not in values]
    if len(rest) != len(extra):
        raise artifact.CallError(f"{len(rest)} sizes expected beside the arguments', "
                               f"{len(extra)} given")
    return values | dict(zip(rest, extra))
