"""The CUDA target: a program becomes CUDA C and the list of launches that run it.

Enters a ``Program`` whose memory is planned; leaves an ``Artifact`` whose code is JSON: the source
of all kernels, and the steps over sizes (see ``runtime/cuda_plan.py``).  It holds no machine code,
so it is the same for every GPU; the runtime compiles it for the one at hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from ...runtime.artifact import Artifact, InternalError
from ..dims import DimLike, as_dim, proves_nonnegative
from ..dtypes import SIZES
from ..loop.ir import Buffer, Check, Nest
from ..loop.text import Signature, nest_signature
from ..loop.walk import statements
from ..program import Contract, Copy, For, Group, Kernel, Program, Step, bytes_of, reads_of
from .cuda_blas import WORKSPACE, LibraryProduct, Matrix, library_product
from .cuda_contract import contract
from .cuda_kernel import KernelCode, Module, emit_kernel
from .cuda_schedule import copy_nest, parts_of, schedule
from .llvm import artifact_of, python_text, symbol_numbers

ALIGNMENT = 256
"""Bytes: what device memory is aligned to."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """A kernel as it was emitted: for tests, which run the nest instead of the code."""

    nest: Nest
    signature: Signature
    code: KernelCode
    first_slot: int
    waits: bool


@dataclass(slots=True)
class Build:
    """The code of a program.

    Attributes
    ----------
    source : str
    steps : list
        JSON data: launches, products for cuBLAS, and loops.
    kernels : dict of str to Emitted
        By the name of the function.
    checks : list of int
        The failure code of each word of ``status``.
    extra : list of str
        Bytes that steps need beyond the arena, each on its own: expressions over ``s[k]``.
    uses_blas : bool
        Whether there are products for cuBLAS.
    """

    source: str = ""
    steps: list[dict[str, object]] = field(default_factory=list)
    kernels: dict[str, Emitted] = field(default_factory=dict)
    checks: list[int] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    uses_blas: bool = False


def compile_program(program: Program, keep_text: bool = False,
                    precision: str = "highest", blas: str = "never") -> Artifact:
    """Compile a program for CUDA.

    Parameters
    ----------
    program : Program
        Well-formed, with ``offsets`` for its temporaries.
    keep_text : bool
        Whether ``Artifact.notes`` gets the source, as ``CUDA C``.
    precision : str
        Of products of float32, ``highest`` or ``high``.
    blas : str
        Which products cuBLAS computes, ``never`` any or the ``large`` ones.

    Returns
    -------
    Artifact
        Without a prologue, sites of arguments, or outputs that replace shared storage: the caller
        knows those.
    """
    built = build(program, precision, blas)
    numbers = symbol_numbers(program)

    def text(dim: DimLike) -> str:
        return python_text(dim, numbers)

    stored = [dim for buffer in (*program.outputs, *program.offsets) for dim in buffer.dims]
    code = json.dumps({
        "source": built.source, "steps": built.steps, "checks": built.checks,
        "arena": text(program.arena), "extra": built.extra, "uses_blas": built.uses_blas,
        "outputs": [[text(dim) for dim in buffer.dims] for buffer in program.outputs],
        "sizes": [text(dim) for dim in dict.fromkeys(stored) if not proves_nonnegative(dim)],
    })
    return artifact_of(
        program, "cuda", (code.encode(),), {"CUDA C": built.source} if keep_text else {})


def build(program: Program, precision: str = "highest", blas: str = "never") -> Build:
    """Return the kernels of a program and the steps that launch them."""
    return _Builder(program, precision, blas).build()


def scheduled(step: Kernel | Contract | Copy | Group, precision: str = "highest",
              read: frozenset[Buffer] | None = None) -> tuple[Nest, ...]:
    """Return the scheduled nests of a step that is no loop; a group is run kernel by kernel.

    Parameters
    ----------
    step : Kernel, Contract, Copy or Group
    precision : str
        Of products of float32, ``highest`` or ``high``.
    read : frozenset of Buffer or None
        The root buffers that steps read; None: all.
    """
    if isinstance(step, Group):
        return tuple(nest for kernel in step.kernels for nest in scheduled(kernel))
    if isinstance(step, Kernel):
        return schedule(step.nest)
    if isinstance(step, Contract):
        root = step.out.buffer.root()
        return contract(step, precision, read is None or root in read)
    if step.source.root() is step.target.root():
        return ()
    return schedule(copy_nest(step.source, step.target))


class _Builder:
    """Emits the distinct kernels of a program, and writes down their launches."""

    def __init__(self, program: Program, precision: str, blas: str):
        self.program, self.precision, self.blas = program, precision, blas
        # What a product leaves to its own epilogue only is not among these.
        self.read = frozenset(
            buffer.root() for step in program.steps for buffer in reads_of(step)) | {
            buffer.root() for buffer in (*program.outputs, *program.shared)}
        self.module = Module()
        self.built = Build()
        self.known: dict[tuple[str, bool], Emitted] = {}
        self.numbers = symbol_numbers(program)
        listed = (*program.inputs, *program.shared, *program.outputs, *program.constants)
        self.given = {buffer: number for number, buffer in enumerate(listed)}
        self.early_checks = 0

    def build(self) -> Build:
        """Return the finished build."""
        for number, step in enumerate(self.program.steps):
            if number == self.program.commit:
                self.early_checks = len(self.built.checks)
            self.built.steps += self.step(step, number >= self.program.commit)
        self.built.source = self.module.text()
        return self.built

    def text(self, dim: DimLike) -> str:
        """Return a dim as a Python expression over ``s``."""
        return python_text(dim, self.numbers)

    def step(self, step: Step, commits: bool) -> list[dict[str, object]]:
        """Return the launches of a step; those that commit wait for the checks before them."""
        if isinstance(step, For):
            self.numbers.setdefault(step.index, len(self.numbers))
            body = [launch for inner in step.body for launch in self.step(inner, commits)]
            return [{"index": self.numbers[step.index], "extent": self.text(step.extent),
                     "body": body}]
        extra: dict[Buffer, str] = {}
        waits = commits and self.early_checks > 0
        # cuBLAS does not look whether a check failed.
        found = None if self.blas == "never" or waits or not isinstance(step, Contract) else \
            library_product(step, step.out.buffer.root() in self.read)
        nests = scheduled(step, self.precision, self.read) if found is None else found.after
        launches = [] if found is None else [self.library(step, found, extra)]
        launches += [self.launch(nest, waits, extra) for nest in nests]
        if extra:
            self.built.extra.append("+".join(self._padded(buffer) for buffer in extra))
        return launches

    def launch(self, nest: Nest, waits: bool, extra: dict[Buffer, str]) -> dict[str, object]:
        """Return the launch of a nest; ``extra`` are the places of its own temporaries."""
        kernel, signature = self.kernel(nest, waits)
        outer, _, _ = parts_of(nest)
        return {
            "kernel": kernel.code.name, "blocks": self.text(outer.extent),
            "threads": list(kernel.code.threads), "scratch": kernel.code.scratch,
            "pointers": [self.address(signature.buffers[number].root(), extra)
                         for number in kernel.code.roots],
            "sizes": [self.text(as_dim(symbol)) for symbol in signature.symbols],
            "status": kernel.code.has_status,
        }

    def library(self, step: Contract, found: LibraryProduct,
                extra: dict[Buffer, str]) -> dict[str, object]:
        """Return the product that cuBLAS is asked for."""
        self.built.uses_blas = True
        workspace = Buffer("workspace", "uint8", (WORKSPACE,), "temporary")

        def matrix(own: Matrix) -> dict[str, object]:
            dtype = own.buffer.dtype
            return {"dtype": dtype, "pointer": self.address(own.buffer.root(), extra),
                    "offset": self.text(own.offset * SIZES[dtype]), "line": self.text(own.line),
                    "batch": self.text(own.batch), "turned": own.turned}

        return {
            "sizes": [self.text(size) for size in step.sizes],
            "matrices": [matrix(own) for own in (found.left, found.right, found.out)],
            "adds": step.add, "rounds": self.precision == "high",
            "workspace": self.address(workspace, extra), "workspace_size": WORKSPACE,
        }

    def kernel(self, nest: Nest, waits: bool) -> tuple[Emitted, Signature]:
        """Return the kernel of a nest: equal nests share one, unless they check something."""
        signature = nest_signature(nest)
        codes = [stmt.code for stmt in statements(nest.body) if isinstance(stmt, Check)]
        found = None if codes else self.known.get((signature.key, waits))
        if found is None:
            first = len(self.built.checks)
            self.built.checks += codes
            code = emit_kernel(self.module, nest, signature, (first, self.early_checks), waits)
            found = self.known[signature.key, waits] = Emitted(
                nest, signature, code, first, waits)
            self.built.kernels[code.name] = found
        return found, signature

    def address(self, root: Buffer, extra: dict[Buffer, str]) -> list[object]:
        """Return where a root buffer is: a given pointer, or bytes into the arena or beyond it."""
        if root in self.given:
            return ["given", self.given[root]]
        if root in self.program.offsets:
            return ["arena", self.text(self.program.offsets[root])]
        if root.role != "temporary":
            raise InternalError(f"program {self.program.name}: {root!r} has no memory")
        if root not in extra:
            extra[root] = "+".join(map(self._padded, extra)) or "0"
        return ["extra", extra[root]]

    def _padded(self, buffer: Buffer) -> str:
        return f"({self.text(bytes_of(buffer))}+{ALIGNMENT - 1})//{ALIGNMENT}*{ALIGNMENT}"


def describe() -> str:
    """Return what the source depends on besides the program: nothing."""
    return "cuda"
