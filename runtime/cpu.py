"""Load the machine code of an artifact for the CPU."""

from __future__ import annotations

from . import blas, cpu_limits, cpu_locks, cpu_poll, cpu_threads
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


def load(artifact: Artifact, threads: int | None = None) -> Code:
    """Link an artifact's object code into this process.

    Parameters
    ----------
    artifact : Artifact
    threads : int, optional
        Most threads its parallel loops and products use; default: all that others use.

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
    imports = {name: _external(name, threads) for name in artifact.externals}
    cpu_locks.install()
    try:
        library = link(artifact.code, imports, (artifact.symbol_plan, artifact.symbol_run))
    except RuntimeError as error:
        raise CompileError(format_message(
            "The machine code of a function cannot be loaded.",
            f"function {artifact.name}: {error}")) from error
    return Code(artifact, library)


def _external(name: str, threads: int | None) -> int:
    if name not in EXTERNALS:
        raise InternalError(f"compiled code imports {name}, which the runtime does not offer")
    if name == "tx_poll":
        return cpu_poll.library()[name]
    if name in ("tx_parallel_for", "tx_parallel_until"):
        own = cpu_threads.library() if threads is None else cpu_limits.limited(threads)
        return own[name]
    return blas.address(name)
