"""From a signature to an artifact: take a stored one if there is, compile otherwise.

What is stored under the key of a graph has numbers in its messages for the user's lines, and gets
the lines of the graph that asks: it may have been built elsewhere since.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from ..runtime.artifact import Artifact
from .dims import Symbol
from .graph import format_site
from .graph_key import GraphKey, graph_key
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
            found = None if key is None else store.get(key.text)
        if found is not None:
            stored = StoredStages(partial(_stages, signature, sizes, options, store))
            stored.add_seconds(stages)
            return with_lines(found, key), stored
    with stages.timed("imports"):
        from .pipeline import compile_signature
    artifact, full = compile_signature(signature, sizes, options, store)
    stages.add_seconds(full)
    full.seconds = stages.seconds
    if key is not None:
        store.put(key.text, without_lines(artifact, key))
    return artifact, full


def without_lines(artifact: Artifact, key: GraphKey) -> Artifact:
    """Return the artifact with the number of each of the user's lines in its place."""
    numbers = {format_site(site): f"\0{number}\0" for number, site in enumerate(key.sites)}
    files = sorted({file for file, _ in key.sites}, key=len, reverse=True)
    line = re.compile(f"(?:{'|'.join(map(re.escape, files))}):[0-9]+")
    return _reworded(artifact, lambda text: line.sub(
        lambda found: numbers.get(found[0], found[0]), text)) if files else artifact


def with_lines(artifact: Artifact, key: GraphKey) -> Artifact:
    """Return the artifact with the user's lines in the places of their numbers."""
    lines = [format_site(site) for site in key.sites]
    return _reworded(artifact, lambda text: re.sub(
        "\0([0-9]+)\0", lambda found: lines[int(found[1])], text))


def _reworded(artifact: Artifact, change: Callable[[str], str]) -> Artifact:
    """Return the artifact with every text that may show a line changed."""
    return replace(
        artifact,
        inputs=tuple(replace(argument, site=change(argument.site)) for argument in artifact.inputs),
        shared=tuple(replace(argument, site=change(argument.site)) for argument in artifact.shared),
        guards=tuple(map(change, artifact.guards)),
        failures=tuple((kind, change(message)) for kind, message in artifact.failures),
        prologue=artifact.prologue and _reworded(artifact.prologue, change))


def _stages(signature: Signature, sizes: Mapping[Symbol, int], options: Options,
            store: ArtifactStore) -> Stages:
    """Run the passes for what they show."""
    from .pipeline import compile_signature
    return compile_signature(signature, sizes, options, store)[1]
