"""Load the machine code of an artifact for the CPU."""

from __future__ import annotations

from . import blas, cpu_locks, cpu_poll, cpu_threads
from .artifact import EXTERNALS, Artifact
from .cpu_jit import Library, link
from .errors import CompileError, InternalError, format_message


class Code:
    """An artifact's functions, loaded.

    Attributes
    ----------
    plan, run : int
        Addresses; valid as long as this object lives.  The code is freed with it.
    """

    __slots__ = ("plan", "run", "_library")

    def __init__(self, artifact: Artifact, library: Library):
        self._library = library
        self.plan = library[artifact.symbol_plan]
        self.run = library[artifact.symbol_run]


def load(artifact: Artifact) -> Code:
    """Link an artifact's object code into this process.

    Raises
    ------
    InternalError
        When the code imports something the runtime does not offer.
    CompileError
        When it needs a BLAS and there is none, or is not code for this machine.
    """
    if artifact.target != "cpu":
        raise CompileError(format_message(
            "Code for another device cannot be loaded on the CPU.",
            f"function {artifact.name}, device {artifact.target}"))
    imports = {name: _external(name) for name in artifact.externals}
    cpu_locks.install()
    try:
        library = link(artifact.code, imports, (artifact.symbol_plan, artifact.symbol_run))
    except RuntimeError as error:
        raise CompileError(format_message(
            "The machine code of a function cannot be loaded.",
            f"function {artifact.name}: {error}")) from error
    return Code(artifact, library)


def _external(name: str) -> int:
    if name not in EXTERNALS:
        raise InternalError(f"compiled code imports {name}, which the runtime does not offer")
    if name in ("tx_parallel_for", "tx_parallel_until"):
        return cpu_threads.library()[name]
    if name == "tx_poll":
        return cpu_poll.library()[name]
    blas.set_num_threads(1)  # called from our own threads
    return blas.address(name)
