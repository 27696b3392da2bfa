"""Compile time: first calls with cold and warm caches, and graphs of up to 100,000 nodes.

    python benchmarks/compile_time.py --peer-python PEERS/bin/python
    python benchmarks/compile_time.py --repetitions 0 --chains 1000,10000,100000

Every number is from a fresh process, and the sides take turns: cold with an empty cache folder,
warm with the folder the cold process left (JAX keeps none, unless told).  *Import* is that of the
library with all it needs, NumPy included; the *first call* counts from building the graph,
gradients included, to the result; what a program waits for is their sum.  Byte code is compiled
before, as installing does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import report
from chain import PHASES
from processes import (
    HERE, Unavailable, chosen_sides, environment, peer_options, pinned, python_of)
from sides import OURS
from tqdm import tqdm
from workloads import COMPILED

CACHE_VARIABLES = ("TETRACTYS_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR")


def run(python: str, script: str, arguments: Sequence[str], threads: int, folder: str,
        timeout: float | None = None) -> list[Any]:
    """Return the lines of JSON that a script prints, as far as it comes in ``timeout`` seconds.

    Raises
    ------
    Unavailable
        If it cannot be started or fails.
    """
    cpus = pinned(threads)
    variables = {**environment(threads), **dict.fromkeys(CACHE_VARIABLES, folder)}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as log:
        try:
            done = subprocess.run(
                [python, str(HERE / script), *arguments], stdout=output, stderr=log,
                timeout=timeout, env=variables,
                preexec_fn=None if cpus is None else lambda: os.sched_setaffinity(0, cpus))
            if done.returncode:
                log.seek(0)
                raise Unavailable((log.read().strip() or "it failed").splitlines()[-1])
        except OSError as error:
            raise Unavailable(f"its Python cannot be started ({error.strerror})") from error
        except subprocess.TimeoutExpired:
            pass
        output.seek(0)
        return [json.loads(line) for line in output]


def first_calls(names: Sequence[str], peer_python: str | None, threads: int, repetitions: int,
                notes: list[str]) -> list[dict[str, Any]]:
    """Return every measurement: side, workload, state of the cache, seconds, phases."""
    found, left = [], list(names)
    for turn in tqdm(range(-1, repetitions), unit="turn"):  # turn -1 leaves byte code, no numbers
        for workload in COMPILED:
            for name in list(left):
                with tempfile.TemporaryDirectory() as folder:
                    for cache in ("cold", "warm"):
                        try:
                            result, = run(python_of(name, peer_python), "first_call.py",
                                          (name, workload), threads, folder)
                            if isinstance(result, str):
                                raise Unavailable(result)
                        except Unavailable as reason:
                            notes.append(f"{name}: skipped, {reason}")
                            left.remove(name)
                            break
                        if result is not None and turn >= 0:
                            found.append({"side": name, "workload": workload, "cache": cache,
                                          **result})
    return found


def chain(nodes: int, timeout: float, notes: list[str]) -> dict[str, float]:
    """Return the seconds of each phase for a chain of nodes, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        found = dict(run(sys.executable, "chain.py", [str(nodes)], 1, folder, timeout))
    if len(found) < len(PHASES):
        notes.append(f"the chain of {nodes} nodes was stopped after {timeout:.0f} s")
    return found


def median(rows: Sequence[dict[str, Any]], *path: str) -> float:
    """Return the median over measurements of what is found along a path of keys, 0 if absent."""
    values = []
    for row in rows:
        for key in path:
            row = row.get(key, {})
        values.append(row or 0.0)
    return statistics.median(values)


def first_call_tables(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the tables of first calls, of the ratios to the peers, and of our phases."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for one in found:
        groups.setdefault((one["workload"], one["side"], one["cache"]), []).append(one)
    rows, details = [], []
    for (workload, side, cache), several in groups.items():
        ours = groups.get((workload, OURS, cache), several)
        imported, called = median(several, "import"), median(several, "first call")
        total, own = (statistics.median(one["import"] + one["first call"] for one in these)
                      for these in (several, ours))
        rows.append([COMPILED[workload].title, side, cache,
                     *map(report.readable, (imported, called, total)),
                     f"{called / median(ours, 'first call'):.2f}",
                     f"{total / own:.2f}"])
        if side == OURS:
            phases = list(dict.fromkeys(phase for one in several for phase in one["phases"]))
            parts = {phase: median(several, "phases", phase) for phase in phases}
            parts["rest"] = called - sum(parts.values())
            details.append((COMPILED[workload].title, cache, parts))
    names = list(dict.fromkeys(name for *_, parts in details for name in parts))
    names.sort(key="rest".__eq__)
    return [
        "## First call", report.markdown(
            ["workload", "side", "cache", "import", "first call", "sum", "first call / ours",
             "sum / ours"], rows),
        "## Our first call by phase (rest: the user's graph, gradients, the runtime, the call)",
        report.markdown(["workload", "cache", *names], (
            [title, cache, *(report.readable(parts.get(name, 0.0)) for name in names)]
            for title, cache, parts in details))]


def chain_table(chains: dict[int, dict[str, float]]) -> list[str]:
    """Return the table of chains."""
    return ["## A chain of multiplications and additions (default recursion limit)",
            report.markdown(["nodes", *PHASES], (
                [f"{nodes:,}", *(report.readable(seconds.get(phase, 0.0)) for phase in PHASES)]
                for nodes, seconds in chains.items()))]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chains", default="1000", metavar="N,M",
                        help="nodes of the chains; 10000 takes half a minute, 100000 minutes; "
                             "default: %(default)s")
    parser.add_argument("--timeout", type=float, default=1800, metavar="SECONDS",
                        help="longest time for one chain; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2,
                        help="CPUs and threads of a process; default: 2")
    parser.add_argument("--repetitions", type=int, default=7,
                        help="processes of each kind, of which the median counts; default: 7")
    parser.add_argument("--output", type=Path, default=report.RESULTS, metavar="DIR",
                        help="folder for the results; default: results beside this script")
    peer_options(parser)
    parser.set_defaults(peers="jax")
    options = parser.parse_args(arguments)
    notes: list[str] = []
    found = first_calls(chosen_sides(options.peers), options.peer_python, options.threads,
                        options.repetitions, notes) if options.repetitions else []
    sizes = [int(nodes) for nodes in options.chains.split(",") if nodes]
    chains = {nodes: chain(nodes, options.timeout, notes) for nodes in tqdm(sizes, unit="chain")}
    cpus = "one CPU" if options.threads == 1 else f"{options.threads} CPUs"
    text = "\n\n".join([
        f"# Compile time, each process on {cpus}", report.machine({}),
        *(first_call_tables(found) if found else []), *(chain_table(chains) if chains else []),
        "\n".join(f"- {note}" for note in notes)])
    report.write(options.output, "compile-time", text.rstrip(),
                 {"first_calls": found, "chains": chains, "notes": notes})
    print(text)


if __name__ == "__main__":
    main()
