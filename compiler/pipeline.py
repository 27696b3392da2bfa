"""The passes, in order: from the user's graph to an artifact.

::

    unify      sizes that guards make equal share one symbol; known sizes replace theirs
    intern     hash-consing: equal subexpressions become one node
    simplify   the rules (compiler/rewrite)
    widen      what is computed on halves is computed on float32 between conversions
    expand     composite operations become their expansions
    inline     bodies of maps are written in terms of the variables around them
    bufferize  fusion, lowering to loop nests, buffers, in-place updates
    attach     kernels that follow a product run on its rows while they are in the cache
    remat      under a memory budget: values that are recomputed rather than kept
    group      without a budget, on the CPU: independent kernels share a parallel region
    plan       offsets of temporaries in the arena
    emit       code for the target

Sizes that are the values of integer variables (``arange(n)``) are computed by a *prologue*, a
function of its own, before the sizes of anything else are needed.  In debug runs each level is
verified before the next pass sees it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..runtime.artifact import Argument, Artifact, CompileError, format_message
from .bufferize import BufferOptions, FunctionGraph, MapBody, bufferize
from .dims import Dim, DimLike, Symbol, as_dim, as_symbol, minimum, substitute, symbols_of
from .expand import expand
from .graph import (
    Apply, DataSymbol, Variable, describe, dim_of, format_site, rebuild, toposort)
from .graph_key import sources_digest
from .intern import Interner, map_dims
from .ops.index_layout import known_before
from .ops.op import IndexLowering, MapLowering, ScatterLowering
from .plan import plan_memory
from .program import Guard, Program
from .signature import (  # noqa: F401  (others take what they ask for from here)
    PASSES, ArtifactStore, Options, Signature, Stages, guard_message, paused_collector)
from .target import target_of
from .widen import widen


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
        stages.add_seconds(stages.prologue)
    with stages.timed("bufferize"):
        program = bufferize(graph, (*bound, *data), BufferOptions(
            "fusion" not in options.disabled, "in_place" not in options.disabled,
            for_cores=options.device == "cpu"))
    plain = program
    if "epilogues" not in options.disabled:
        from .epilogue import attach_epilogues
        with stages.timed("attach"):
            program = attach_epilogues(program, for_cores=options.device == "cpu")
    if options.memory_budget is not None:
        from .remat import rematerialize
        with stages.timed("rematerialize"):
            program = rematerialize((program, plain), options.memory_budget, options.size_hints)
    elif "groups" not in options.disabled and options.device == "cpu":
        from .group import group_kernels
        with stages.timed("group"):
            program = group_kernels(program)
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
    """Simplify, widen and expand."""
    if "simplify" not in options.disabled:
        from .rewrite.passes import simplify_graph
        with stages.timed("simplify"):
            results = simplify_graph(interner, results, options.fast_math)
    stages.simplified = stages.simplified or results
    with stages.timed("expand"):
        widened = widen(results)
        if widened != results:
            widened = interner.intern(widened)
        results = interner.intern(expand(widened))
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


# -- code, from the store or from the target -------------------------------------------------------

def _emit(program: Program, options: Options, store: ArtifactStore | None,
          stages: Stages) -> Artifact:
    key = None
    if store is not None and not options.keep_text:
        from .program_text import program_text
        with stages.timed("look up"):
            key = cache_key(program_text(program), program.constants.values(), options)
            found = store.get(key)
        if found is not None:
            stages.is_cached = True
            return found
    artifact = target_of(options.device).compile(program, options, stages.timed)
    if key is not None:
        store.put(key, artifact)
    return artifact


def cache_key(text: str, constants: Iterable[np.ndarray], options: Options) -> str:
    """Return the content address of an artifact: everything its code depends on, hashed."""
    parts = {
        "program": text, "optimize": options.optimize, "blas": f"{options.has_blas} {options.cpus}",
        "precision": options.float32_matmul_precision, "gpu blas": options.gpu_blas,
        "sources": sources_digest(), "target": target_of(options.device).describe(),
    }
    digest = hashlib.sha256()
    for label, part in parts.items():
        digest.update(f"{label}={len(part)}:{part}\n".encode())
    for array in constants:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _with_sites(artifact: Artifact, sites: Sequence[str]) -> Artifact:
    """Return the artifact with the lines that created its arguments, for messages."""
    count = len(artifact.inputs)

    def placed(arguments: Sequence[Argument], own: Sequence[str]) -> tuple[Argument, ...]:
        return tuple(replace(a, site=site) for a, site in zip(arguments, own))

    prologue = artifact.prologue and _with_sites(artifact.prologue, sites)
    return replace(artifact, inputs=placed(artifact.inputs, sites[:count]),
                   shared=placed(artifact.shared, sites[count:]), prologue=prologue)
