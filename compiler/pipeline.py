"""The passes, in order: from the user's graph to an artifact.

::

    unify      sizes that guards make equal share one symbol; known sizes replace theirs
    intern     hash-consing: equal subexpressions become one node
    simplify   the rules (compiler/rewrite)
    expand     composite operations become their expansions
    inline     bodies of maps are written in terms of the variables around them
    bufferize  fusion, lowering to loop nests, buffers, in-place updates
    plan       offsets of temporaries in the arena
    emit       code for the target

Sizes that are the values of integer variables (``arange(n)``) are computed by a *prologue*, a
function of its own, before the sizes of anything else are needed.  In debug runs each level is
verified before the next pass sees it.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from ..runtime import artifact as errors
from ..runtime.artifact import Argument, Artifact, CompileError, format_message
from .bufferize import BufferOptions, FunctionGraph, MapBody, bufferize
from .dims import Dim, DimLike, Symbol, as_dim, as_symbol, minimum, substitute, symbols_of
from .expand import expand
from .graph import (
    Apply, DataSymbol, SharedBase, SizeGuard, Variable, describe, dim_of, format_site, rebuild,
    toposort)
from .intern import Interner, map_dims
from .ops.index_layout import known_before
from .ops.op import IndexLowering, MapLowering, ScatterLowering
from .plan import plan_memory
from .program import Guard, Program

PASSES = ("simplify", "fusion", "in_place", "reuse_memory")
"""Passes that options can switch off, one by one; the result must not change."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to compile.

    Attributes
    ----------
    optimize : str
        ``full``, or ``fast_compile``: fewer rules' rounds and a cheaper LLVM pipeline.
    fast_math : bool
        Admit rules that can change values.
    disabled : frozenset of str
        Members of :data:`PASSES` to leave out.
    keep_text : bool
        Keep the texts ``explain`` shows of the code.
    verify : bool
        Check every level for well-formedness between passes.
    has_blas : bool
        Whether the runtime offers matrix products.
    device : str
        ``cpu``, ``cuda`` or ``cuda:1``.
    on_device : bool
        Return results in the device's own memory.
    """

    optimize: str = "full"
    fast_math: bool = False
    disabled: frozenset[str] = frozenset()
    keep_text: bool = False
    verify: bool = False
    has_blas: bool = True
    device: str = "cpu"
    on_device: bool = False

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

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time of a block to a pass."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


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


@paused_collector()
def compile_signature(signature: Signature, sizes: Mapping[Symbol, int], options: Options,
                      store: ArtifactStore | None = None) -> tuple[Artifact, Stages]:
    """Compile a function for the given sizes; sizes without a value stay symbolic.

    Raises
    ------
    ShapeError
        When sizes that must be equal are known to differ.
    CompileError
        When the graph depends on a size no argument has.
    """
    stages = Stages()
    with stages.timed("intern"):
        interner = Interner()
        results = interner.intern(signature.results(), unify(signature.results(), sizes))
        inputs = tuple(interner.intern(signature.inputs))
        shared = tuple(interner.intern(signature.shared))
    stages.interned = results
    guards = tuple(Guard(guard.left, guard.right, guard_message(guard, node), guard.kind)
                   for guard, node in interner.guards)
    updates = tuple(k for k, _ in signature.updates)
    graph = FunctionGraph(signature.name, inputs, shared,
                          tuple(results[:len(signature.outputs)]),
                          tuple(zip(updates, results[len(signature.outputs):])), guards)
    artifact = _compile_graph(graph, interner, options, store, stages)
    sites = [format_site(v.site) for v in (*signature.inputs, *signature.shared)]
    return _with_sites(artifact, sites), stages


def _compile_graph(graph: FunctionGraph, interner: Interner, options: Options,
                   store: ArtifactStore | None, stages: Stages) -> Artifact:
    """Run the passes from ``simplify`` on; compile the prologue first if sizes depend on data."""
    stages.inputs = (*graph.inputs, *graph.shared)
    results = [*graph.outputs, *(value for _, value in graph.updates)]
    results = _to_lowerable(results, interner, options, stages)
    bodies, guards = _inline_bodies(results, interner, options, stages)
    count = len(graph.outputs)
    graph = replace(
        graph, outputs=tuple(results[:count]), bodies=bodies, guards=graph.guards + tuple(guards),
        updates=tuple((k, value) for (k, _), value in zip(graph.updates, results[count:])))
    bound = list(dict.fromkeys(
        symbol for variable in (*graph.inputs, *graph.shared) for dim in variable.type.dims
        if (symbol := as_symbol(dim)) is not None))
    data = _data_symbols(results, bodies, graph.guards, set(bound))
    prologue = None
    if data:
        stages.prologue = Stages()
        prologue = _compile_graph(
            FunctionGraph(f"{graph.name}_sizes", graph.inputs, graph.shared,
                          tuple(symbol.variable for symbol in data)),
            interner, options, store, stages.prologue)
    with stages.timed("bufferize"):
        program = bufferize(graph, (*bound, *data), BufferOptions(
            "fusion" not in options.disabled, "in_place" not in options.disabled))
    with stages.timed("plan"):
        program = plan_memory(program, "reuse_memory" not in options.disabled)
    stages.program = program
    if options.verify:
        from .program_verify import verify_program
        verify_program(program)
    artifact = _emit(program, options, store, stages)
    return replace(artifact, prologue=prologue, outputs=tuple(
        replace(output, shared=k) for output, k in zip(artifact.outputs, program.replaces)))


def _to_lowerable(results: list[Variable], interner: Interner, options: Options,
                  stages: Stages) -> list[Variable]:
    """Simplify and expand."""
    if "simplify" not in options.disabled:
        from .rewrite.passes import simplify_graph
        with stages.timed("simplify"):
            results = simplify_graph(interner, results, options.fast_math)
    stages.simplified = stages.simplified or results
    with stages.timed("expand"):
        results = interner.intern(expand(results, options.has_blas))
    stages.expanded = stages.expanded or results
    return results


def _inline_bodies(results: Sequence[Variable], interner: Interner, options: Options,
                   stages: Stages) -> tuple[dict[int, MapBody], list[Guard]]:
    """Return the body of every map, written in terms of outer variables; maps may nest.

    Returns
    -------
    bodies : dict
        By the id of the map's node.
    guards : list of Guard
        What the bodies need of sizes, where they run at least once.
    """
    bodies: dict[int, MapBody] = {}
    guards: list[Guard] = []
    pending = [node for node in toposort(results) if isinstance(node.op.lower, MapLowering)]
    while pending:
        node = pending.pop()
        if id(node) in bodies:
            continue
        body = node.params["body"]
        count = node.outputs[0].type.dims[0]
        index = Symbol("step", extent=count)
        outer = dict(zip(body.captured, node.inputs[1:]))
        outer[body.index] = interner.size(as_dim(index))
        known = len(interner.guards)
        outputs = interner.intern(rebuild(body.outputs, outer))
        runs = minimum(count, 1)
        guards += [Guard(guard.left * runs, guard.right * runs, guard_message(guard, node),
                         guard.kind) for guard, node in interner.guards[known:]]
        outputs = _to_lowerable(outputs, interner, options, stages)
        bodies[id(node)] = MapBody(index, tuple(outputs))
        pending += [inner for inner in toposort(outputs, stop=node.inputs)
                    if isinstance(inner.op.lower, MapLowering)]
    return bodies, guards


def positions_of(node: Apply) -> tuple[Variable, ...]:
    """Return the integer scalars whose values a node's index or region rule reads as dims."""
    first = {IndexLowering: 1, ScatterLowering: 2}.get(type(node.op.lower))
    if first is None:
        return ()
    operands = node.inputs[first:]
    if "spec" in node.params:
        operands = known_before(operands, node.params["spec"])
    return tuple(source for source in operands if source.ndim == 0 and source.dtype == "int64")


def _data_symbols(results: Iterable[Variable], bodies: Mapping[int, MapBody],
                  guards: Iterable[Guard], bound: set[Symbol]) -> list[DataSymbol]:
    """Return the sizes that depend on data, and refuse sizes nothing defines."""
    found: dict[Symbol, Apply | None] = {}

    def visit(dim: DimLike, node: Apply | None) -> DimLike:
        for symbol in symbols_of(dim):
            found.setdefault(symbol, node)
        return dim

    steps = {body.index for body in bodies.values()}
    every = [*results, *(v for body in bodies.values() for v in body.outputs)]
    for node in toposort(every):
        for out in node.outputs:
            for dim in out.type.dims:
                visit(dim, node)
        for value in node.params.values():
            map_dims(value, lambda dim, node=node: visit(dim, node))
        for source in positions_of(node):
            visit(dim_of(source), node)
    for guard in guards:
        visit(guard.left, None)
        visit(guard.right, None)
    data = []
    for symbol, node in found.items():
        if symbol in bound or symbol in steps:
            continue
        if not isinstance(symbol, DataSymbol):
            raise CompileError(format_message(
                f"The size {symbol} is not the size of any argument.",
                values=describe(node.outputs[0]) if node else "",
                where=format_site(node.site) if node else "",
                remedy="add the variable it belongs to to the function's inputs"))
        data.append(symbol)
    return data


def unify(results: Iterable[Variable], sizes: Mapping[Symbol, int]) -> dict[Symbol, DimLike]:
    """Return the substitution under which sizes that guards make equal have one symbol."""
    chosen: dict[Symbol, DimLike] = dict(sizes)

    def resolve(dim: DimLike) -> DimLike:
        while isinstance(dim, Dim) and any(s in chosen for s in symbols_of(dim)):
            dim = substitute(dim, chosen)
        return dim

    for node in toposort(results):
        for guard in node.guards:
            left, right = resolve(guard.left), resolve(guard.right)
            first, second = _free(left), _free(right)
            if left == right:
                continue
            if second is not None and (first is not None or isinstance(left, int)):
                chosen[second] = left
            elif first is not None and isinstance(right, int):
                chosen[first] = right
    return {symbol: resolve(as_dim(symbol)) for symbol in chosen}


def _free(dim: DimLike) -> Symbol | None:
    """Return the symbol of an axis that a dim consists of, if it may be replaced."""
    symbol = as_symbol(dim)
    return None if isinstance(symbol, DataSymbol) else symbol


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
    return format_message(
        f"{node.op.name}: sizes that must be equal differ.",
        values="; ".join(parts), where=format_site(node.site),
        remedy="make the sizes equal, or declare length 1 where an axis broadcasts")


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


# -- code, from the store or from the target -------------------------------------------------------

def _emit(program: Program, options: Options, store: ArtifactStore | None,
          stages: Stages) -> Artifact:
    from .program_text import program_text
    from .target import target_of
    key = None
    if store is not None and not options.keep_text:
        with stages.timed("look up"):
            key = cache_key(program_text(program), program.constants.values(), options)
            found = store.get(key)
        if found is not None:
            stages.is_cached = True
            return found
    with stages.timed("emit"):
        level = 1 if options.optimize == "fast_compile" else 3
        artifact = target_of(options.device).compile(program, level, options.keep_text)
    if key is not None:
        store.put(key, artifact)
    return artifact


def cache_key(text: str, constants: Iterable[np.ndarray], options: Options) -> str:
    """Return the content address of an artifact: everything its code depends on, hashed."""
    parts = {
        "program": text, "optimize": options.optimize, "sources": _sources_digest(),
        "target": _target_description(options.device.partition(":")[0]),
    }
    digest = hashlib.sha256()
    for label, part in parts.items():
        digest.update(f"{label}={len(part)}:{part}\n".encode())
    for array in constants:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@cache
def _sources_digest() -> str:
    """Return the hash of the sources that decide what code a program becomes."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("target/*.py"), *folder.glob("loop/*.py"),
                        *folder.glob("*.py"), folder.parent / "runtime" / "artifact.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _target_description(device: str) -> str:
    from .target import target_of
    return target_of(device).describe()


def _with_sites(artifact: Artifact, sites: Sequence[str]) -> Artifact:
    """Return the artifact with the lines that created its arguments, for messages."""
    count = len(artifact.inputs)

    def placed(arguments: Sequence[Argument], own: Sequence[str]) -> tuple[Argument, ...]:
        return tuple(replace(a, site=site) for a, site in zip(arguments, own))

    prologue = artifact.prologue and _with_sites(artifact.prologue, sites)
    return replace(artifact, inputs=placed(artifact.inputs, sites[:count]),
                   shared=placed(artifact.shared, sites[count:]), prologue=prologue)
