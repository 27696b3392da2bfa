"""Compile time: first calls with cold and warm caches, and graphs of up to 100,000 nodes.

    python benchmarks/compile_time.py --peer-python PEERS/bin/python
    python benchmarks/compile_time.py --peers jax --chains 1000,10000

Every number is from a fresh process: cold with an empty cache folder, warm with the folder the cold
process left (JAX keeps none, unless told).  A first call counts from building the graph, gradients
included, to the result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import report
from chain import PHASES
from processes import Side, Unavailable, chosen_sides, environment, peer_options, python_of
from tqdm import tqdm
from worker import OURS
from workloads import COMPILED

CACHE_VARIABLES = ("TETRACTYS_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR")


def first_call(name: str, workload: str, peer_python: str | None, threads: int, folder: str
               ) -> tuple[float, dict[str, float]] | None:
    """Return the seconds of a first call and its phases; None if the side lacks the workload.

    Raises
    ------
    Unavailable
        If the side cannot run.
    """
    variables = dict.fromkeys(CACHE_VARIABLES, folder)
    side = Side(name, python_of(name, peer_python), threads, variables)
    try:
        answer = side.ask("setup", workload, False)
        return None if answer is None else (answer[0], side.ask("phases"))
    finally:
        side.close()


def first_calls(names: Sequence[str], peer_python: str | None, threads: int, repetitions: int,
                notes: list[str]) -> list[dict]:
    """Return the best of several first calls, cold and warm, by workload and side."""
    found = []
    for workload in tqdm(COMPILED, unit="workload"):
        for name in names:
            best: dict[str, tuple[float, dict[str, float]]] = {}
            try:
                for _ in range(repetitions):
                    with tempfile.TemporaryDirectory() as folder:
                        for state in ("cold", "warm"):
                            result = first_call(name, workload, peer_python, threads, folder)
                            if result is not None:
                                best[state] = min(best.get(state, result), result,
                                                  key=lambda pair: pair[0])
            except Unavailable as reason:
                notes.append(f"{name}: skipped, {reason}")
            found += [{"workload": workload, "side": name, "cache": state, "seconds": seconds,
                       "phases": phases} for state, (seconds, phases) in best.items()]
    return found


def chain(nodes: int, timeout: float, notes: list[str]) -> dict[str, float]:
    """Return the seconds of each phase for a chain of nodes, from a process of its own."""
    script = Path(__file__).resolve().with_name("chain.py")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as output:
        try:
            done = subprocess.run(
                [sys.executable, str(script), str(nodes)], stdout=output, timeout=timeout,
                env={**environment(1), "TETRACTYS_CACHE_DIR": folder})
            if done.returncode:
                notes.append(f"the chain of {nodes} nodes failed")
        except subprocess.TimeoutExpired:
            notes.append(f"the chain of {nodes} nodes was stopped after {timeout:.0f} s")
        output.seek(0)
        return {name: seconds for name, seconds in map(json.loads, output)}


def first_call_tables(found: Sequence[dict]) -> list[str]:
    """Return the tables of first calls and of our phases."""
    rows = [[COMPILED[one["workload"]].title, one["side"], one["cache"],
             report.readable(one["seconds"])] for one in found]
    ours = [one for one in found if one["side"] == OURS]
    phases = list(dict.fromkeys(phase for one in ours for phase in one["phases"]))
    details = [[COMPILED[one["workload"]].title, one["cache"],
                *(report.readable(one["phases"].get(phase, 0.0)) for phase in phases),
                report.readable(one["seconds"] - sum(one["phases"].values()))] for one in ours]
    return ["## First call", report.markdown(["workload", "side", "cache", "first call"], rows),
            "## Our first call by phase (rest: the user's graph, gradients, linking, the call)",
            report.markdown(["workload", "cache", *phases, "rest"], details)]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chains", default="1000,10000,100000", metavar="N,M",
                        help="nodes of the chains; default: %(default)s")
    parser.add_argument("--timeout", type=float, default=1800, metavar="SECONDS",
                        help="longest time for one chain; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--repetitions", type=int, default=3, help="best of; default: 3")
    parser.add_argument("--output", type=Path, default=report.RESULTS, metavar="DIR",
                        help="folder for the results; default: results beside this script")
    peer_options(parser)
    parser.set_defaults(peers="jax")
    options = parser.parse_args(arguments)
    notes: list[str] = []
    found = first_calls(chosen_sides(options.peers), options.peer_python, options.threads,
                        options.repetitions, notes)
    sizes = [int(nodes) for nodes in options.chains.split(",") if nodes]
    chains = {nodes: chain(nodes, options.timeout, notes) for nodes in tqdm(sizes, unit="chain")}
    rows = [[f"{nodes:,}", *(report.readable(seconds.get(phase, 0.0)) for phase in PHASES)]
            for nodes, seconds in chains.items()]
    text = "\n\n".join([
        "# Compile time", report.machine({}), *first_call_tables(found),
        "## A chain of multiplications and additions (default recursion limit)",
        report.markdown(["nodes", *PHASES], rows), "\n".join(f"- {note}" for note in notes)])
    report.write(options.output, "compile-time", text.rstrip(),
                 {"first_calls": found, "chains": chains, "notes": notes})
    print(text)


if __name__ == "__main__":
    main()
