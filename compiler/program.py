"""The program: straight-line steps over buffers.  Level two of four.

::

    program  =  steps over inputs, shared, constants, temporaries and outputs
    step     =  Kernel(nest)                          one loop nest
             |  Contract(out, left, right, add)       out (+)= left @ right, on strided views,
                                                      summed over one axis or several; then its
                                                      epilogue, a Kernel, on each row
             |  Copy(source, target)                  same dtype and number of elements
             |  For(index, extent, body)              steps repeated, index = 0 .. extent-1
             |  Group(kernels)                        kernels in any order, or at once

Values became buffers (``bufferize.py``), so mutation exists from here on.  Buffers whose ``base``
is set share memory with it.  Sizes are dims over ``Program.symbols``, all known when a call starts:
the symbols bound by axes of the arguments first, then those a *prologue* program computed from data
(``arange(n)``, ``x[:n]``).

From step ``commit`` on, shared variables may change: no step there can fail or be interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias, Union

import numpy as np

from .dims import DimLike, Symbol, floordiv, modulo, prod
from .dtypes import SIZES
from .loop.ir import Buffer, Nest


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Strided window on a buffer: element ``i`` is at ``offset + sum(i[k] * strides[k])``.

    ``offset`` and ``strides`` count elements; ``dims`` is the window's shape.
    """

    buffer: Buffer
    offset: DimLike
    dims: tuple[DimLike, ...]
    strides: tuple[DimLike, ...]


def row_major_strides(dims: tuple[DimLike, ...]) -> tuple[DimLike, ...]:
    """Return the element strides of a contiguous array of this shape."""
    return tuple(prod(dims[axis + 1:]) for axis in range(len(dims)))


def split_index(index: DimLike, dims: tuple[DimLike, ...]) -> tuple[DimLike, ...]:
    """Return the index along each of some axes, from one that counts the elements of all."""
    parts: list[DimLike] = []
    for size in reversed(dims[1:]):
        parts.append(modulo(index, size))
        index = floordiv(index, size)
    return (index, *reversed(parts)) if dims else ()


def whole(buffer: Buffer) -> View:
    """Return the view of an entire buffer."""
    return View(buffer, 0, buffer.dims, row_major_strides(buffer.dims))


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """Run a loop nest; ``reads`` and ``writes`` list its buffers, in first-use order."""

    nest: Nest
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Contract:
    """``out[b..,m,n] = sum_k.. left[b..,m,k..] right[b..,k..,n]`` (plus ``out`` when ``add``).

    Views are float32 or float64, of any strides, but for the out view's last one, which is 1: a
    transposed operand is a stride pattern, hence a GEMM flag; an operand that does not depend on a
    batch axis has stride 0 there; windows that overlap share elements.  An operand of a float32
    product may be a half, whose elements are converted as they are read.  There may be several
    batch axes, and several *inner* axes ``k..``, which are summed over (a convolution: the rows and
    columns of its kernel, and the channels); axes that flatten are best merged before.  A sum over
    nothing gives zeros.

    The ``epilogue`` runs after the product: a kernel whose only statement is a parallel loop, over
    the rows of ``out`` or over its elements, of which no iteration reads what belongs to another
    row of ``out``.  A target may run it on any rows as soon as these are complete.
    """

    out: View
    left: View
    right: View
    add: bool = False
    epilogue: Kernel | None = None

    @property
    def batch_dims(self) -> tuple[DimLike, ...]:
        """Sizes of the batch axes."""
        return self.out.dims[:-2]

    @property
    def inner_dims(self) -> tuple[DimLike, ...]:
        """Sizes of the axes that are summed over."""
        return self.left.dims[len(self.out.dims) - 1:]

    @property
    def sizes(self) -> tuple[DimLike, DimLike, DimLike, DimLike]:
        """Batch, rows, columns and summands of the product, axes of a kind taken together."""
        return (prod(self.batch_dims), *self.out.dims[-2:], prod(self.inner_dims))


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """Copy all elements of ``source`` to ``target``."""

    source: Buffer
    target: Buffer


@dataclass(frozen=True, slots=True, eq=False)
class For:
    """Run the steps of ``body`` for ``index`` from 0 to ``extent - 1``."""

    index: Symbol
    extent: DimLike
    body: tuple[Step, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Run kernels of which none writes what another one touches: a target may run them together."""

    kernels: tuple[Kernel, ...]


Step: TypeAlias = Union[Kernel, Contract, Copy, For, Group]


class Guard(NamedTuple):
    """Two sizes that must be equal at every call.

    ``message`` explains a failure to the user (``{0}`` and ``{1}`` are the sizes); ``kind`` names
    the class of ``errors`` that is raised.
    """

    left: DimLike
    right: DimLike
    message: str
    kind: str = "ShapeError"


class Failure(NamedTuple):
    """What a ``Check`` reports: a message whose ``{value}`` is the offending int64."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled graph before code generation.

    Attributes
    ----------
    name : str
    inputs, shared, outputs : tuple of Buffer
        Arguments in the caller's order, shared variables' storage, and results.
    symbols : tuple of Symbol
        All free symbols.  A symbol that *is* a dim of an input or shared buffer is bound by the
        first such axis; the others are supplied by the prologue, in order.
    replaces : tuple of (int or None)
        Of each output: None when it is returned, else the shared variable whose storage it becomes
        (an update that may change the shape).  Empty: all are returned.
    constants : mapping of Buffer to array
    steps : tuple of Step
    guards : tuple of Guard
        Checked before anything is allocated.
    failures : tuple of Failure
        Error ``code`` ``k >= 1`` of a ``Check`` is ``failures[k - 1]``.
    commit : int
        Index of the first step that may change a shared variable.
    offsets : mapping of Buffer to dim
        Byte offset of each temporary in the arena, filled by ``plan_memory``.
    arena : dim
        Bytes of the arena.
    """

    name: str
    inputs: tuple[Buffer, ...]
    shared: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    symbols: tuple[Symbol, ...]
    steps: tuple[Step, ...]
    constants: Mapping[Buffer, np.ndarray] = field(default_factory=dict)
    replaces: tuple[int | None, ...] = ()
    guards: tuple[Guard, ...] = ()
    failures: tuple[Failure, ...] = ()
    commit: int = 0
    offsets: Mapping[Buffer, DimLike] = field(default_factory=dict)
    arena: DimLike = 0

    def with_steps(self, steps: tuple[Step, ...], **changes: object) -> Program:
        """Return a copy with other steps (and other changed fields)."""
        return replace(self, steps=steps, **changes)


def bytes_of(buffer: Buffer) -> DimLike:
    """Return the size of a buffer in bytes."""
    return prod(buffer.dims) * SIZES[buffer.dtype]


def reads_of(step: Step) -> tuple[Buffer, ...]:
    """Return the buffers whose content before the step it reads, each once."""
    if isinstance(step, Kernel):
        return step.reads
    if isinstance(step, Contract):
        found = [step.left.buffer, step.right.buffer] + ([step.out.buffer] if step.add else [])
        own = step.out.buffer.root()
        after = step.epilogue.reads if step.epilogue else ()
        return tuple(dict.fromkeys([*found, *(b for b in after if b.root() is not own)]))
    if isinstance(step, Copy):
        return (step.source,)
    return tuple(dict.fromkeys(b for inner in inner_steps(step) for b in reads_of(inner)))


def writes_of(step: Step) -> tuple[Buffer, ...]:
    """Return the buffers a step writes, each once."""
    if isinstance(step, Kernel):
        return step.writes
    if isinstance(step, Contract):
        after = step.epilogue.writes if step.epilogue else ()
        return tuple(dict.fromkeys([step.out.buffer, *after]))
    if isinstance(step, Copy):
        return (step.target,)
    return tuple(dict.fromkeys(b for inner in inner_steps(step) for b in writes_of(inner)))


def inner_steps(step: For | Group) -> tuple[Step, ...]:
    """Return the steps that a step is made of."""
    return step.body if isinstance(step, For) else step.kernels


class Trace:
    """What some steps in a row write, and what they touch."""

    def __init__(self, *steps: Step) -> None:
        self.written: set[Buffer] = set()
        self.touched: set[Buffer] = set()
        for step in steps:
            self.add(step)

    def add(self, step: Step) -> None:
        """Note another step."""
        written = roots(writes_of(step))
        self.written |= written
        self.touched |= written | roots(reads_of(step))

    def commutes(self, step: Step) -> bool:
        """Return whether a step may change places with these: neither writes what the other
        touches."""
        written = roots(writes_of(step))
        return self.touched.isdisjoint(written) \
            and self.written.isdisjoint(written | roots(reads_of(step)))


def roots(buffers: Iterable[Buffer]) -> set[Buffer]:
    """Return the buffers that own the memory of some buffers."""
    return {buffer.root() for buffer in buffers}
