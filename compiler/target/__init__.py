"""Level four: one module per target prints scheduled loops as code.

``llvm`` serves CPUs, ``cuda`` NVIDIA's GPUs.  A target is a module with two functions: one that
compiles a program, and one that describes what its code depends on besides the program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...runtime.artifact import Artifact
    from ..program import Program


@dataclass(frozen=True, slots=True)
class Target:
    """How code is made for a kind of device.

    Attributes
    ----------
    compile : callable
        ``compile(program, speed_level, keep_text) -> Artifact``.
    describe : callable
        Returns what the code depends on besides the program.
    has_products : bool
        Whether matrix products need no library.
    """

    compile: Callable[[Program, int, bool], Artifact]
    describe: Callable[[], str]
    has_products: bool


def target_of(device: str) -> Target:
    """Return the target of a device: ``cpu``, or ``cuda`` with or without a number."""
    if device.startswith("cuda"):
        from . import cuda
        return Target(lambda program, level, keep: cuda.compile_program(program, keep),
                      cuda.describe, True)
    from . import llvm
    return Target(lambda program, level, keep: llvm.compile_program(
        program, llvm.LlvmOptions(speed_level=level, keep_text=keep)), llvm.describe_host, False)
