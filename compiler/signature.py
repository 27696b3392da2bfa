"""What is asked of the compiler, and what it says of its work.

A :class:`Signature` on the user's own graph and :class:`Options` enter; an artifact and the
:class:`Stages` leave.  This module is all of the compiler that a call needs whose code is stored.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..runtime import artifact as errors
from ..runtime.artifact import Artifact, CompileError, format_message
from .dims import Symbol, substitute
from .graph import SharedBase, SizeGuard, Variable, describe, format_site, toposort

if TYPE_CHECKING:
    from .program import Program

PASSES = ("simplify", "fusion", "in_place", "epilogues", "groups", "reuse_memory")
"""Passes that options can switch off, one by one; the result must not change."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to compile.

    Attributes
    ----------
    optimize : str
        ``full``, or ``fast_compile``: LLVM optimises nothing, which makes first calls two to four
        times faster and loops ten times slower; all passes above LLVM stay.
    fast_math : bool
        Admit rules that can change values.
    disabled : frozenset of str
        Members of :data:`PASSES` to leave out.
    keep_text : bool
        Keep the texts ``explain`` shows of the code.
    verify : bool
        Check every level for well-formedness between passes.
    has_blas : bool
        Whether the runtime offers CBLAS, for large products.
    cpus : int
        CPUs for which the calls of CBLAS are cut; 0 for those this process may use.
    memory_budget : int or None
        Bytes that temporaries may take; values are recomputed where they would take more.
    size_hints : mapping of Symbol to int
        Sizes at which the budget is judged where the program leaves them open.
    device : str
        ``cpu``, ``cuda`` or ``cuda:1``.
    on_device : bool
        Return results in the device's own memory.
    float32_matmul_precision : str
        ``highest``, or ``high``: GPUs may round the operands of float32 products to tf32.
    gpu_blas : str
        ``never``, or ``large``: cuBLAS computes large products on GPUs.
    """

    optimize: str = "full"
    fast_math: bool = False
    disabled: frozenset[str] = frozenset()
    keep_text: bool = False
    verify: bool = False
    has_blas: bool = True
    cpus: int = 0
    memory_budget: int | None = None
    size_hints: Mapping[Symbol, int] = field(default_factory=dict)
    device: str = "cpu"
    on_device: bool = False
    float32_matmul_precision: str = "highest"
    gpu_blas: str = "never"

    def __post_init__(self) -> None:
        unknown = set(self.disabled) - set(PASSES)
        if unknown or self.optimize not in ("full", "fast_compile"):
            raise CompileError(format_message(
                "There are no such options.",
                f"optimize={self.optimize!r}, disabled={sorted(self.disabled)}",
                remedy="optimize is 'full' or 'fast_compile'; disabled holds names of "
                       + ", ".join(PASSES)))


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """What the user asked for, on the user's own graph.

    Attributes
    ----------
    name : str
    inputs : tuple of Variable
    shared : tuple of SharedBase
    outputs : tuple of Variable
    updates : tuple of (int, Variable)
        Position in ``shared``, and the new value.
    """

    name: str
    inputs: tuple[Variable, ...]
    shared: tuple[SharedBase, ...]
    outputs: tuple[Variable, ...]
    updates: tuple[tuple[int, Variable], ...] = ()

    def results(self) -> list[Variable]:
        """Return outputs and new values."""
        return [*self.outputs, *(value for _, value in self.updates)]


class ArtifactStore(Protocol):
    """Where artifacts are kept between processes (``runtime/cache.py``)."""

    def get(self, key: str) -> Artifact | None:
        """Return a stored artifact."""

    def put(self, key: str, artifact: Artifact) -> None:
        """Store an artifact."""


@dataclass(slots=True)
class Stages:
    """What each level looked like, and how long each pass took: for ``explain`` and ``debug``.

    Attributes
    ----------
    interned, simplified, expanded : list of Variable
        Results (outputs, then new values) after the pass.
    inputs : tuple of Variable
        The interned inputs, then the shared variables.
    program : Program or None
    prologue : Stages or None
    seconds : dict of str to float
        Time by pass.
    is_cached : bool
        Whether the code came from the disk cache.
    """

    interned: list[Variable] = field(default_factory=list)
    simplified: list[Variable] = field(default_factory=list)
    expanded: list[Variable] = field(default_factory=list)
    inputs: tuple[Variable, ...] = ()
    program: Program | None = None
    prologue: Stages | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    is_cached: bool = False

    def add_seconds(self, other: Stages) -> None:
        """Add the times of another run of passes."""
        for name, seconds in other.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time of a block to a pass."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


LEVELS = ("interned", "simplified", "expanded", "inputs", "program", "prologue")
"""The attributes of :class:`Stages` that passes fill."""


class StoredStages(Stages):
    """The stages of a function whose code was found under its graph's own key: no pass has run, and
    whoever first looks at a level runs them all.

    Parameters
    ----------
    run_passes : callable
        Returns stages with every level.
    """

    __slots__ = ("run_passes",)

    def __init__(self, run_passes: Callable[[], Stages]):
        # The slots of the levels stay empty: reading one calls ``__getattr__``.
        self.seconds, self.is_cached, self.run_passes = {}, True, run_passes

    def __getattr__(self, name: str) -> object:
        if name not in LEVELS:
            raise AttributeError(name)
        full = self.run_passes()
        for level in LEVELS:
            setattr(self, level, getattr(full, level))
        return getattr(self, name)


@contextmanager
def paused_collector() -> Iterator[None]:
    """Keep Python's cycle collector from walking a growing graph again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def guard_message(guard: SizeGuard, node: Apply) -> str:
    """Return the message of a broken guard, with ``{0}`` and ``{1}`` for the two sizes."""
    if guard.reason:
        return format_message(guard.reason, values="{0} is needed, not {1}",
                              where=format_site(node.site))
    parts = []
    for place, (variable, axis) in enumerate((guard.left_of, guard.right_of)):
        site = f" (from {format_site(variable.site)})" if variable.site else ""
        on_axis = f" on axis {axis}" if axis >= 0 else ""
        parts.append(f"{describe(variable)} has {{{place}}}{on_axis}{site}")
    return node.op.unequal_sizes("; ".join(parts), node.site)


def check_guards(results: Iterable[Variable], sizes: Mapping[Symbol, int]) -> None:
    """Check the sizes of a call against every guard that needs only these sizes.

    Raises
    ------
    ShapeError
        Naming both variables, their sizes, and the line where they meet.
    """
    for node in toposort(results):
        for guard in node.guards:
            left, right = substitute(guard.left, sizes), substitute(guard.right, sizes)
            if isinstance(left, int) and isinstance(right, int) and left != right:
                message = guard_message(guard, node)
                raise getattr(errors, guard.kind)(
                    message.replace("{0}", str(left)).replace("{1}", str(right)))
