"""Memory: the peak of a fresh process that runs one workload, ours and the peers'.

    python benchmarks/memory.py --peer-python PEERS/bin/python
    python benchmarks/memory.py --workloads mlp_step --peers jax
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import report
from processes import Side, Unavailable, chosen_sides, peer_options, python_of
from sides import OURS
from tqdm import tqdm
from workloads import WORKLOADS, select

DEFAULT = ",".join(name for name, workload in WORKLOADS.items() if workload.family != "matmul") \
    + ",matmul_2048x2048x2048"


def peak(name: str, workload: str, peer_python: str | None, threads: int) -> int | None:
    """Return the peak resident bytes of a process; None if the side lacks the workload.

    Raises
    ------
    Unavailable
        If the side cannot run.
    """
    side = Side(name, python_of(name, peer_python), threads)
    try:
        if side.ask("setup", workload, False) is None:
            return None
        side.ask("time", 0.0, 5)
        return side.ask("memory")
    finally:
        side.close()


def megabytes(size: int | None) -> str:
    """Return a size in MB."""
    return "-" if size is None else f"{size / 1e6:.0f}"


def measure(workloads: Sequence[str], names: Sequence[str], peer_python: str | None, threads: int,
            notes: list[str]) -> dict[str, dict[str, int]]:
    """Return the peak by workload and side."""
    found: dict[str, dict[str, int]] = {}
    names = list(names)
    for workload in tqdm(workloads, unit="workload"):
        found[workload] = {}
        for name in list(names):
            try:
                size = peak(name, workload, peer_python, threads)
            except Unavailable as reason:
                notes.append(f"{name}: left out from {workload} on, {reason}")
                names.remove(name)
                continue
            if size is not None:
                found[workload][name] = size
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workloads", default=DEFAULT, metavar="NAMES")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--output", type=Path, default=report.RESULTS, metavar="DIR",
                        help="folder for the results; default: results beside this script")
    peer_options(parser)
    options = parser.parse_args(arguments)
    names = chosen_sides(options.peers)
    notes: list[str] = []
    found = measure([workload.name for workload in select(options.workloads)], names,
                    options.peer_python, options.threads, notes)
    shown = [name for name in names if any(name in sizes for sizes in found.values())]
    table = report.markdown(["workload", *shown], (
        [WORKLOADS[workload].title, *(megabytes(sizes.get(name)) for name in shown)]
        for workload, sizes in found.items()))
    text = "\n\n".join(["# Memory", report.machine({}), "Peak resident memory of a fresh process "
                        f"with {options.threads} threads, MB: the libraries, the data, five calls.",
                        table, "\n".join(f"- {note}" for note in notes)])
    report.write(options.output, "memory", text.rstrip(), {"bytes": found, "notes": notes})
    print(text)
    if any(OURS not in sizes for sizes in found.values()):
        raise SystemExit("tetractys did not run every workload")


if __name__ == "__main__":
    main()
