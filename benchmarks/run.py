"""Speed: every workload against the peers, interleaved, beside the machine's limits.

    python benchmarks/run.py --peer-python PEERS/bin/python
    python benchmarks/run.py --workloads mlp_step,matmul --threads 1 --peers numpy,jax --quick
    python benchmarks/run.py --device cuda          the same on a GPU, and at sizes that fill it
    python benchmarks/run.py --device cuda --list   what would be measured

Each side is a process of its own, with the same environment, threads and CPUs.  The sides take
turns, many times over, so that whatever else the machine does hits all of them; the median of all
calls counts.  Every output of every side is compared with float64 NumPy.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import gpu_limits
import report
from limits import Limits, measure as measure_cpu
from processes import Side, Unavailable, chosen_sides, peer_options, start
from sides import DEFAULT_PEERS, OURS
from tqdm import tqdm
from workloads import Workload, known, select


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Attributes
    ----------
    rounds : int
        Turns of each side.
    seconds : float
        Length of a turn.
    calls : int
        Least calls of a turn.
    settle : float
        Seconds between turns: worker threads of BLAS and OpenMP spin on for a while.
    """

    rounds: int = 15
    seconds: float = 0.1
    calls: int = 3
    settle: float = 0.05


QUICK = Effort(rounds=3, seconds=0.02, calls=1, settle=0.02)


def set_up(workload: Workload, sides: dict[str, Side], row: report.Row, notes: list[str]
           ) -> dict[str, Side]:
    """Build a workload on all sides and check its outputs; return the sides that have it."""
    ready = {}
    expected = workload.expected()
    for name, side in list(sides.items()):
        try:
            answer = side.ask("setup", workload.name, True)
        except Unavailable as reason:
            notes.append(f"{name} failed on {workload.name}: {reason}")
            side.close()
            del sides[name]
            continue
        if answer is not None:
            row.errors[name] = report.relative_error(answer[1], expected)
            ready[name] = side
    return ready


def compare(workload: Workload, threads: int, sides: dict[str, Side], effort: Effort,
            notes: list[str]) -> report.Row:
    """Measure one row, except for its floor."""
    row = report.Row(workload.name, workload.title, threads)
    ready = set_up(workload, sides, row, notes)
    times: dict[str, list[float]] = {name: [] for name in ready}
    order = list(ready)
    for _ in range(effort.rounds):
        for name in order:
            times[name] += ready[name].ask("time", effort.seconds, effort.calls)
            if threads > 1:
                time.sleep(effort.settle)
        # Every side comes after every other one.
        order = order[1:] + order[:1]
    for name, taken in times.items():
        row.seconds[name] = statistics.median(taken)
        low, _, high = statistics.quantiles(taken, n=4) if len(taken) > 1 else taken * 3
        row.spread[name] = (low, high)
    return row


def run(workloads: Sequence[Workload], threads: Sequence[int], names: Sequence[str],
        peer_python: str | None, effort: Effort, notes: list[str], device: str = "cpu"
        ) -> tuple[list[report.Row], list[Limits], dict[str, str]]:
    """Measure everything; return rows, limits, and versions by side."""
    rows, limits, versions = [], [], {}
    every = list(known(device))
    measure = measure_cpu if device == "cpu" else lambda _: gpu_limits.measure()
    with tqdm(total=len(threads) * len(workloads), unit="row") as bar:
        for count in threads:
            limit = measure(count)
            sides: dict[str, Side] = {}
            for workload in workloads:
                bar.set_description(f"{workload.name}, {count} threads")
                stopped = [name for name in names if name not in sides]
                fresh = start(stopped, peer_python, count, notes, device)
                versions |= {name: side.ask("version") for name, side in fresh.items()}
                names = [name for name in names if name in fresh or name in sides]
                sides |= fresh
                rows.append(compare(workload, count, sides, effort, notes))
                bar.update()
            for side in sides.values():
                side.close()
            limits.append(limit.best_of(measure(count)))
            for row in rows[-len(workloads):]:
                row.floor = limits[-1].floor(known(device)[row.workload])
    rows.sort(key=lambda row: (every.index(row.workload), row.threads))
    return rows, limits, versions


def numbers(text: str) -> list[int]:
    """Return a comma-separated list of positive integers."""
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text}: threads must be positive")
    return values


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workloads", metavar="NAMES", help="default: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--list", action="store_true", help="show the rows, measure nothing")
    parser.add_argument("--threads", type=numbers, metavar="N,M",
                        help="numbers of threads; default: 1,2, and on a GPU up to 8")
    parser.add_argument("--quick", action="store_true", help="few repetitions: a rough look")
    parser.add_argument("--output", type=Path, default=report.RESULTS, metavar="DIR",
                        help="folder for the results; default: results beside this script")
    peer_options(parser)
    options = parser.parse_args(arguments)
    device = options.device
    names = chosen_sides(options.peers if options.peers is not None
                         else ",".join(DEFAULT_PEERS[device]))
    workloads = select(options.workloads, device)
    reason = gpu_limits.missing() if device == "cuda" and not options.list else None
    if options.list or reason:
        print(f"The rows of {device}: {', '.join(names)}\n\n{report.workload_table(workloads)}")
        if reason:
            print(f"\nNothing measured: {reason}")
        return
    notes: list[str] = []
    effort = QUICK if options.quick else Effort()
    threads = options.threads or ([1, 2] if device == "cpu" else [min(8, os.cpu_count() or 1)])
    rows, limits, versions = run(workloads, threads, names, options.peer_python, effort, notes,
                                 device)
    shown = [name for name in names if any(name in row.seconds for row in rows)]
    text = "\n\n".join([
        "# Speed", report.machine(versions)
        + (f" {gpu_limits.describe()}." if device == "cuda" else ""),
        f"Median of {effort.rounds} interleaved turns of {effort.seconds} s."
        + (" Quick: a rough look." if options.quick else ""),
        report.speed_table(rows, shown), "Ratio: the best peer's time over ours. Floor: the "
        "machine's limits below. Error: largest distance to float64 NumPy, relative to the "
        "output's largest magnitude.",
        report.limits_table(limits, device == "cuda"),
        "\n".join(f"- {note}" for note in dict.fromkeys(notes))])
    kind = "speed" if device == "cpu" else "speed-gpu"
    path = report.write(options.output, kind, text.rstrip(), {
        "versions": versions, "effort": asdict(effort), "notes": notes,
        "limits": [asdict(found) for found in limits], "rows": report.rows_as_data(rows)})
    report.draw_speed(rows, path.with_suffix(".png"))
    print(text)
    if any(OURS not in row.seconds for row in rows):
        raise SystemExit("tetractys did not finish every workload")


if __name__ == "__main__":
    main()
