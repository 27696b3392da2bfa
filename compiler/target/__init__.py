"""Level four: one module per target prints scheduled loops as code.

``llvm`` serves CPUs, ``cuda`` NVIDIA's GPUs.  A target is a module with two functions: one that
compiles a program, and one that describes what its code depends on besides the program.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from ...runtime.artifact import Artifact
    from ..program import Program
    from ..signature import Options

Timer: TypeAlias = "Callable[[str], AbstractContextManager]"
"""Times a block under a phase's name."""


class Target(NamedTuple):
    """How code is made for a kind of device.

    Attributes
    ----------
    compile : callable
        ``compile(program, options, timed) -> Artifact``.
    describe : callable
        Returns what the code depends on besides the program.
    """

    compile: Callable[[Program, Options, Timer], Artifact]
    describe: Callable[[], str]


def target_of(device: str) -> Target:
    """Return the target of a device: ``cpu``, or ``cuda`` with or without a number."""
    if device.startswith("cuda"):
        from .cuda import describe
        return Target(_compile_for_gpu, describe)
    from .llvm_host import describe_host
    return Target(_compile_for_cpu, describe_host)


def _compile_for_cpu(program: Program, options: Options, timed: Timer) -> Artifact:
    with timed("imports"):
        from .llvm import LlvmOptions, compile_program
    level = 0 if options.optimize == "fast_compile" else 3
    return compile_program(program, LlvmOptions(
        speed_level=level, has_blas=options.has_blas, cpus=max(options.cpus, 1),
        keep_text=options.keep_text), timed)


def _compile_for_gpu(program: Program, options: Options, timed: Timer) -> Artifact:
    from .cuda import compile_program
    with timed("write code"):
        return compile_program(program, options.keep_text, options.float32_matmul_precision,
                               options.gpu_blas)
