"""From a signature to an artifact: take a stored one if there is, compile otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ..runtime.artifact import Artifact
from .dims import Symbol
from .graph_key import graph_key
from .signature import ArtifactStore, Options, Signature, Stages, StoredStages, paused_collector


@paused_collector()
def find_or_compile(signature: Signature, sizes: Mapping[Symbol, int], options: Options,
                    store: ArtifactStore | None) -> tuple[Artifact, Stages]:
    """Return the artifact of a function for the given sizes.

    The graph itself is looked up first, which takes no pass; then, by the pipeline, its program,
    which different graphs may share and which takes no code generation.

    Raises
    ------
    ShapeError, CompileError
        As :func:`~tetractys.compiler.pipeline.compile_signature`.
    """
    stages, key = Stages(), None
    if store is not None and not (options.verify or options.keep_text
                                  or options.memory_budget is not None):
        with stages.timed("imports"):
            from .target import target_of
        with stages.timed("look up graph"):
            key = graph_key(signature, sizes, options, target_of(options.device).describe())
            found = None if key is None else store.get(key)
        if found is not None:
            stored = StoredStages(partial(_stages, signature, sizes, options, store))
            stored.add_seconds(stages)
            return found, stored
    with stages.timed("imports"):
        from .pipeline import compile_signature
    artifact, full = compile_signature(signature, sizes, options, store)
    stages.add_seconds(full)
    full.seconds = stages.seconds
    if key is not None:
        store.put(key, artifact)
    return artifact, full


def _stages(signature: Signature, sizes: Mapping[Symbol, int], options: Options,
            store: ArtifactStore) -> Stages:
    """Run the passes for what they show."""
    from .pipeline import compile_signature
    return compile_signature(signature, sizes, options, store)[1]
