"""The CPU target: a program becomes relocatable object files, through LLVM IR written as text.

Enters a ``Program`` whose memory is planned; leaves an ``Artifact`` (see ``runtime/artifact.py``).
The IR is parsed, verified, optimised for the processor at hand and emitted by llvmlite: *kernels*,
where a call spends its time, at the level asked for; *drivers*, which call them, at level 0, since
LLVM takes a millisecond for each of their functions above it and the call gains nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np

from ...runtime.artifact import (
    EXTERNALS, Argument, Artifact, Constant, InternalError, Output,
)
from ..dims import Call, DimLike, Symbol, as_symbol
from ..loop.ir import Buffer
from ..program import Program, writes_of
from .llvm_cost import program_work
from .llvm_driver import emit_plan, emit_run, ordered_symbols
from .llvm_host import COMMON_LAST_CACHE, last_cache_bytes
from .llvm_host import describe_host  # noqa: F401  (what a target says of the machine it serves)
from .llvm_machine import Machine, probe
from .llvm_writer import Module


class LlvmOptions(NamedTuple):
    """How to compile for the CPU.

    Attributes
    ----------
    cpu : str
        LLVM's name of the processor; the host when empty.
    features : str
        LLVM's feature string; the host's when ``cpu`` is empty.
    triple : str
        LLVM's name of the platform; this process's when empty.
    speed_level : int
        0 to 3, as a C compiler's ``-O``.
    has_blas : bool
        Whether the runtime offers CBLAS.
    cpus : int
        CPUs for which its calls are cut.
    keep_text : bool
        Whether ``Artifact.notes`` gets the optimised IR (``llvm``) and the assembly.
    """

    cpu: str = ""
    features: str = ""
    triple: str = ""
    speed_level: int = 3
    has_blas: bool = False
    cpus: int = 1
    keep_text: bool = False


def compile_program(program: Program, options: LlvmOptions = LlvmOptions(),
                    timed: Callable[[str], AbstractContextManager] = nullcontext) -> Artifact:
    """Compile a program for the CPU.

    Parameters
    ----------
    program : Program
        Well-formed (see ``program_verify``), with ``offsets`` for its temporaries.
    options : LlvmOptions
    timed : callable
        ``with timed(name)`` goes around each phase.

    Returns
    -------
    Artifact
        Without a prologue, sites of arguments, or outputs that replace shared storage: the caller
        knows those.

    Raises
    ------
    InternalError
        If the program is ill-formed.
    """
    machine = replace(vector_unit(options.cpu, options.features, options.triple),
                      has_blas=options.has_blas, cpus=options.cpus,
                      is_optimised=options.speed_level > 0)
    with timed("write code"):
        texts = module_texts(program, machine)
    with timed("LLVM"):
        code, notes = _compile_texts(texts, options)
    return artifact_of(
        program, "cpu", code, notes,
        externals=tuple(name for name in EXTERNALS if any(f"@{name}(" in text for text in texts)),
        work=python_text(program_work(program), symbol_numbers(program)))


class Texts(NamedTuple):
    """The LLVM IR of a program, before optimisation: two modules.

    Attributes
    ----------
    kernels : str
        Functions with the loops over elements; empty where the program computes nothing.
    drivers : str
        ``tx_plan``, ``tx_run``, and what lies between it and the kernels; empty where it is so
        short that another module would take longer, and is among the kernels.
    """

    kernels: str
    drivers: str


def module_texts(program: Program, machine: Machine = Machine()) -> Texts:
    """Return the LLVM IR of a program for a kind of processor."""
    kernels = Module(machine)
    drivers = Module(machine, kernels)
    emit_run(drivers, program)
    emit_plan(drivers, program)
    if kernels.exports and drivers.is_short():
        kernels.join(drivers)
        return Texts(kernels.text(), "")
    return Texts(kernels.text() if kernels.exports else "", drivers.text())


def _compile_texts(texts: Texts, options: LlvmOptions) -> tuple[tuple[bytes, ...], dict[str, str]]:
    """Return the object code of both modules, and the texts that ``options`` asks to keep."""
    levels = (options.speed_level, 0)
    codes, notes = zip(*(compile_module(text, options._replace(speed_level=level))
                         for text, level in zip(texts, levels) if text))
    return codes, {name: "\n".join(note[name] for note in notes) for name in notes[0]}


def compile_module(text: str, options: LlvmOptions) -> tuple[bytes, dict[str, str]]:
    """Return the object code of LLVM IR, and the texts that ``options`` asks to keep.

    Raises
    ------
    InternalError
        If LLVM rejects the IR.
    """
    machine = _target_machine(options.cpu, options.features, options.triple, options.speed_level)
    try:
        module = llvm.parse_assembly(text)
        module.verify()
    except RuntimeError as error:
        raise InternalError(f"LLVM rejects the generated code: {error}") from error
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    optimise(module, machine, options.speed_level)
    code = machine.emit_object(module)
    notes = {}
    if options.keep_text:
        notes = {"llvm": str(module), "assembly": machine.emit_assembly(module)}
    return code, notes


def optimise(module: llvm.ModuleRef, machine: llvm.TargetMachine, speed_level: int) -> None:
    """Improve a module in place, by the passes that code written here can gain from.

    Loops come vectorised, unrolled and free of invariant operations, and equal operations are
    written once, so LLVM's standard pipelines find little more than this list does, in ten times
    the time (most of it in searching for loops to vectorise and functions to inline).
    """
    tuning = llvm.create_pipeline_tuning_options(speed_level=speed_level)
    builder = llvm.create_pass_builder(machine, tuning)
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    if speed_level:
        passes.add_global_dead_code_eliminate_pass()
        passes.add_sroa_pass()
        passes.add_instruction_combine_pass()
        # Separate calls of sigmoid(x) and softplus(x), now inlined, hold one exponential.
        passes.add_new_gvn_pass()
        passes.add_simplify_cfg_pass()
    passes.run(module, builder)


@cache
def vector_unit(cpu: str, features: str, triple: str) -> Machine:
    """Return the vector unit of a processor; the host's when ``cpu`` is empty."""
    size = COMMON_LAST_CACHE if cpu or triple else last_cache_bytes()
    # Level 0 takes a tenth of the time, and what is probed does not depend on the level.
    return replace(probe(_target_machine(cpu, features, triple, 0)), last_cache=size)


@cache
def _target_machine(cpu: str, features: str, triple: str, speed_level: int) -> llvm.TargetMachine:
    """Return LLVM's code generator for a processor; the host when ``cpu`` is empty."""
    if triple:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    else:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    if not cpu:
        cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    # Position-independent code calls imported functions through stubs, however far they are.
    return llvm.Target.from_triple(triple or llvm.get_process_triple()).create_target_machine(
        cpu=cpu, features=features, opt=speed_level, reloc="pic", codemodel="small")


def symbol_numbers(program: Program) -> dict[Symbol, int]:
    """Return the place of each of a program's symbols among the sizes of a call."""
    return {symbol: number for number, symbol in enumerate(ordered_symbols(program))}


def artifact_of(program: Program, target: str, code: tuple[bytes, ...], notes: dict[str, str],
                **own: Any) -> Artifact:
    """Return an artifact with what the runtime has to know of a program, whatever the target.

    Parameters
    ----------
    program : Program
    target : str
    code : tuple of bytes
    notes : dict
    **own
        Further fields of the artifact.
    """
    numbers = symbol_numbers(program)
    return Artifact(
        name=program.name,
        target=target,
        code=code,
        inputs=tuple(argument_of(buffer, numbers) for buffer in program.inputs),
        shared=tuple(argument_of(buffer, numbers) for buffer in program.shared),
        outputs=tuple(Output(buffer.dtype, len(buffer.dims)) for buffer in program.outputs),
        constants=tuple(constant_of(array) for array in program.constants.values()),
        symbol_count=len(numbers),
        symbol_names=tuple(map(str, numbers)),
        guards=tuple(guard.message for guard in program.guards),
        guard_sizes=tuple((python_text(guard.left, numbers), python_text(guard.right, numbers))
                          for guard in program.guards),
        guard_kinds=tuple(guard.kind for guard in program.guards),
        failures=tuple((failure.kind, failure.message) for failure in program.failures),
        updates_in_place=any(buffer.root().role == "shared" for step in program.steps
                             for buffer in writes_of(step)),
        notes=notes,
        **own,
    )


def argument_of(buffer: Buffer, numbers: dict[Symbol, int]) -> Argument:
    """Return what the runtime has to know of an argument; ``numbers`` are those of the symbols."""
    axes = []
    for dim in buffer.dims:
        symbol = as_symbol(dim)
        if not isinstance(dim, int) and symbol not in numbers:
            raise InternalError(f"axis {dim} of {buffer!r} is neither a number nor a symbol")
        axes.append(dim if isinstance(dim, int) else -(numbers[symbol] + 1))
    return Argument(buffer.name, buffer.dtype, tuple(axes))


def constant_of(array: np.ndarray) -> Constant:
    """Return an array as an artifact holds it."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return Constant(array.dtype.name, array.shape, little.tobytes())


def python_text(dim: DimLike, numbers: dict[Symbol, int]) -> str:
    """Return a dim as a Python expression over ``s[k]``, ``k`` from ``numbers``."""
    if isinstance(dim, int):
        return str(dim)
    terms = []
    for monomial, coefficient in dim.terms:
        factors = [str(coefficient)] if coefficient != 1 or not monomial else []
        for atom, power in monomial:
            factors += [_atom_text(atom, numbers)] * power
        terms.append("*".join(factors))
    return "+".join(terms)


def _atom_text(atom: Symbol | Call, numbers: dict[Symbol, int]) -> str:
    if isinstance(atom, Symbol):
        return f"s[{numbers[atom]}]"
    left, right = (python_text(arg, numbers) for arg in atom.args)
    if atom.function in ("min", "max"):
        return f"{atom.function}({left},{right})"
    return f"(({left}){'//' if atom.function == 'floordiv' else '%'}({right}))"
