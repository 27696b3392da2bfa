"""Bounds: how fast our instructions could run at best, and what that allows beside the peers.

    python benchmarks/bounds.py --workloads black_scholes,log_softmax --threads 1,2

For each workload the instructions one call executes are counted by kind and loop
(``instructions.py``).  A loop of as many instructions of each kind that wait for nothing, with all
they read and write in the first cache, takes the time they need (``ports.py``).  Another loop
moves as many bytes as the workload must.  The longer of the two is the bound of the program as
compiled; the floor, of any program.  Measured over bound is what waiting costs: for results, for
memory beyond the first cache, for other threads.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import timeit
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import limits
import numpy as np
import ports as port_model
import report
from instructions import by_loop, counted, executed, parse
from sides import OURS
from tqdm import tqdm
from worker import Subject
from workloads import Workload, select

import tetractys as tx
from tetractys.compiler.target.llvm import LlvmOptions, compile_module
from tetractys.runtime.cpu_jit import link

TARGETS = {"call_2x1": 2.0, "black_scholes": 3.0, "robust_loss": 4.0, "log_softmax": 3.0,
           "layer_norm": 2.0, "logistic": 2.0, "mlp": 1.3}
"""Times as fast as the best peer, by family; products: 1.5 up to 128 in every axis, else 1."""

HOT = 0.01
"""Share of the instructions from which a loop's mix is measured rather than estimated by pairs."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of a workload, on one thread.

    Attributes
    ----------
    name : str
        Function and label in the assembly.
    kinds : dict of str to int
        Instructions executed in a call.
    parts : dict of str to float
        Seconds of each kind alone; ``other`` is the decoding of all.
    pairs : float
        Seconds that pairs of kinds need at least.
    mix : float
        Seconds of all kinds together, measured.
    """

    name: str
    kinds: dict[str, int]
    parts: dict[str, float]
    pairs: float
    mix: float


@dataclass(frozen=True, slots=True)
class Bound:
    """A row.

    Attributes
    ----------
    workload, title : str
    threads : int
    measured : float
        Seconds of our fastest call.
    instructions, pairs, memory : float
        Seconds that instructions need, as measured and by pairs of kinds, and bytes; NaN for
        those of a BLAS.
    floor : float
        Seconds that any program needs.
    target : float
    peer : str
        The fastest one.
    peer_seconds : float
    """

    workload: str
    title: str
    threads: int
    measured: float
    instructions: float
    pairs: float
    memory: float
    floor: float
    target: float
    peer: str
    peer_seconds: float

    @property
    def least(self) -> float:
        """Seconds below which this program cannot come."""
        return float(np.nanmax([self.instructions, self.memory, self.floor]))


def loops_of(found: dict[str, Counter[str]], ports: port_model.Ports) -> list[Loop]:
    """Return loops with their bounds, the longest first."""
    total = sum(sum(kinds.values()) for kinds in found.values())
    loops = []
    for name, kinds in found.items():
        pairs = ports.least(kinds)
        is_hot = sum(kinds.values()) > HOT * total
        mix = max(pairs, port_model.mix_seconds(kinds)) if is_hot else pairs
        loops.append(Loop(name, dict(kinds), ports.parts(kinds), pairs, mix))
    return sorted(loops, key=lambda loop: -loop.mix)


Peers = dict[tuple[str, int], tuple[str, float]]
"""The fastest peer and its seconds, by workload and threads."""


def measure(workload: Workload, threads: Sequence[int], ports: port_model.Ports,
            exponentials: dict[str, Exponential], peers: Peers, notes: list[str]
            ) -> tuple[list[Bound], list[Loop]]:
    """Return a workload's rows, and its loops."""
    subject = Subject(OURS)
    subject.setup(workload.name, False)
    try:
        loops = loops_of(executed(subject.case.function, subject.case.arguments), ports)
    except ValueError as reason:
        notes.append(f"{workload.name} {reason}, whose instructions are not counted")
        loops = []
    once = sum(loop.mix for loop in loops) if loops else float("nan")
    pairs = sum(loop.pairs for loop in loops) if loops else float("nan")
    unknown = sum(loop.kinds.get("unknown", 0) for loop in loops)
    if unknown > 1e-3 * sum(sum(loop.kinds.values()) for loop in loops):
        notes.append(f"{workload.name}: {unknown} instructions of a kind not known count as the "
                     "cheapest ones")
    read = min(workload.cost.bytes, sum(array.nbytes for array in workload.data().values()))
    rows = []
    for count in threads:
        tx.set_num_threads(count)
        measured = min(subject.time(0.3, 20))
        moved = limits.seconds_to_move(read, workload.cost.bytes - read, count)
        peer, seconds = peers.get((workload.name, count), ("-", float("nan")))
        least = max(moved, floor(workload, ports, exponentials) / count)
        rows.append(Bound(workload.name, workload.title, count, measured, once / count,
                          pairs / count, moved, least, target(workload), peer, seconds))
    return rows, loops


def target(workload: Workload) -> float:
    """Return how many times as fast as the best peer a workload should be."""
    if workload.family != "matmul":
        return TARGETS.get(workload.family, 1.0)
    sizes = [size for array in workload.data().values() for size in array.shape]
    return 1.5 if max(sizes) <= 128 and len(set(sizes)) == 1 else 1.0


def best_peers(path: Path | None) -> Peers:
    """Return the fastest peers of a run of ``run.py``."""
    if path is None:
        return {}
    rows = (report.Row(**{name: row[name] for name in ("workload", "title", "threads", "seconds")})
            for row in json.loads(path.read_text())["rows"])
    return {(row.workload, row.threads): (row.best_peer, row.seconds[row.best_peer])
            for row in rows if row.best_peer}


@dataclass(frozen=True, slots=True)
class Exponential:
    """The shortest exponential there is (see ``limits.py``), for an element of an array in L1.

    Attributes
    ----------
    bound, measured : float
        Seconds its instructions need, and seconds it takes.
    """

    bound: float
    measured: float


def exponential(dtype: str, ports: port_model.Ports) -> Exponential:
    """Measure the shortest exponential: it is part of floors, and shows what a bound is worth."""
    kind = {"float32": "float", "float64": "double"}[dtype]
    code, notes = compile_module(
        limits.exp_text(kind, limits.vector_bytes() // np.dtype(dtype).itemsize),
        LlvmOptions(speed_level=3, keep_text=True))
    text = notes["assembly"]
    blocks = parse(text)
    runs = np.zeros(len(blocks) + 1, np.int64)
    given, out = np.ones((2, limits.ARRAY), dtype)
    with_counters = link([counted(text, runs.ctypes.data)], {}, ["exp"])
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2)
    given_to = (given.ctypes.data, out.ctypes.data, None)
    signature(with_counters["exp"])(*given_to, 1, limits.ARRAY)
    bound = sum(loop.mix for loop in loops_of(by_loop(blocks, runs[:-1]), ports))
    library = link([code], {}, ["exp"])
    call = timeit.Timer(lambda: signature(library["exp"])(*given_to, 100, limits.ARRAY))
    return Exponential(bound / limits.ARRAY, min(call.repeat(30, 1)) / 100 / limits.ARRAY)


def floor(workload: Workload, ports: port_model.Ports, exponentials: dict[str, Exponential]
          ) -> float:
    """Return the seconds any program needs on one thread, whatever its bytes."""
    lanes = limits.vector_bytes() // np.dtype(workload.dtype).itemsize
    return max(workload.cost.flops / (2 * lanes) * ports.alone["multiply"],
               workload.cost.exps * exponentials[workload.dtype].bound)


def bounds_table(rows: Sequence[Bound]) -> str:
    """Return the table of all rows."""
    readable = report.readable
    return report.markdown(
        ["workload", "threads", "ours", "instructions", "by pairs", "memory", "floor",
         "ours / bound", "best peer", "its time", "ratio", "target", "bound allows",
         "floor allows"],
        ([row.title, str(row.threads), readable(row.measured),
          *("-" if np.isnan(value) else readable(value)
            for value in (row.instructions, row.pairs)),
          readable(row.memory), readable(row.floor),
          f"{row.measured / row.least:.2f}" if row.least else "-",
          row.peer, readable(row.peer_seconds) if row.peer != "-" else "-",
          *(f"{value:.2f}" if np.isfinite(value) else "-" for value in (
              row.peer_seconds / row.measured, row.target, _over(row.peer_seconds, row.least),
              _over(row.peer_seconds, row.floor)))] for row in rows))


def _over(first: float, second: float) -> float:
    return first / second if second else float("inf")


def shown(loops: Sequence[Loop]) -> list[Loop]:
    """Return the loops that make up more than a twentieth of a bound."""
    total = sum(loop.mix for loop in loops)
    return [loop for loop in loops if loop.mix > 0.05 * total]


def loops_table(loops: dict[str, list[Loop]], clock: float) -> str:
    """Return where each workload's instructions are, and which kinds are the busiest."""
    rows = []
    for workload, found in loops.items():
        for loop in shown(found):
            busiest = sorted(loop.parts.items(), key=lambda item: -item[1])[:4]
            rows.append([
                workload, f"`{loop.name}`", f"{sum(loop.kinds.values()) / 1e6:.3g}",
                report.readable(loop.mix), f"{sum(loop.kinds.values()) / (loop.mix * clock):.2f}",
                report.readable(loop.pairs),
                ", ".join(f"{'decoding' if kind == 'other' else kind} {part / loop.mix:.0%}"
                          for kind, part in busiest)])
    return report.markdown(["workload", "loop", "M instructions", "bound", "instructions a cycle",
                            "by pairs", "busiest, alone"], rows)


def ports_table(ports: port_model.Ports) -> str:
    """Return what was measured of the processor."""
    rows = []
    for kind, seconds in ports.alone.items():
        shared = {pair[pair[0] == kind]: time for pair, time in ports.beside.items()
                  if kind in pair and time > 1.15 and "other" not in pair}
        rows.append([kind, f"{1 / (seconds * ports.clock):.2f}", ", ".join(
            f"{name} {time:.2f}" for name, time in sorted(shared.items(), key=lambda p: -p[1]))])
    return report.markdown(["kind", "a cycle", "shares with"], rows)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workloads", metavar="NAMES", help="default: all")
    parser.add_argument("--threads", default="1,2", metavar="N,M")
    parser.add_argument("--speed", type=Path, metavar="FILE",
                        help="peers' times: JSON of run.py; default: the last one of the results")
    parser.add_argument("--output", type=Path, default=report.RESULTS, metavar="DIR")
    options = parser.parse_args(arguments)
    if platform.machine().lower() not in ("x86_64", "amd64") or limits.vector_bytes() < 32:
        raise SystemExit("Instructions are known for x86-64 with AVX2 only; "
                         f"this is {limits.describe_cpu()}.")
    threads = [int(part) for part in options.threads.split(",")]
    found = sorted(report.RESULTS.glob("speed-2*.json"))
    speed = options.speed or (found[-1] if found else None)
    ports, peers, notes = port_model.measure(), best_peers(speed), []
    exponentials = {dtype: exponential(dtype, ports) for dtype in ("float32", "float64")}
    # What moves no array to speak of is all overhead: nothing here bounds it.
    chosen = [workload for workload in select(options.workloads) if workload.cost.bytes]
    rows: list[Bound] = []
    loops: dict[str, list[Loop]] = {}
    for workload in tqdm(chosen, unit="workload"):
        own, loops[workload.name] = measure(workload, threads, ports, exponentials, peers, notes)
        rows += own
    text = "\n\n".join([
        "# Bounds", report.machine({}), bounds_table(rows),
        "Ours: the fastest call. Instructions: those of one call, waiting for nothing, on as many "
        "threads. Memory: a loop that only moves the bytes. Floor: any program, by its bytes, "
        "multiply-adds and exponentials. Bound: the longest of the three. Allows: the peer's time "
        "over it"
        + (f"; peers from `{speed.name}`." if speed else "."),
        "A known loop: the shortest exponential of an array in L1, in float32 and float64, takes "
        + ", ".join(f"{e.measured * 1e9:.3g} ns, its bound {e.bound * 1e9:.3g} ns an element"
                    for e in exponentials.values()) + ".",
        loops_table(loops, ports.clock),
        "Bound: the same instructions, independent, measured. By pairs: what the table below says. "
        "Busiest: share of the bound that the kind alone takes.",
        ports_table(ports),
        "Shares with: time of both together, if each alone takes 1; from 1.15 on.",
        "\n".join(f"- {note}" for note in notes)])
    report.write(options.output, "bounds", text.rstrip(), {
        "rows": [{**asdict(row), "least": row.least} for row in rows],
        "loops": {name: [asdict(loop) for loop in shown(found)] for name, found in loops.items()},
        "ports": {"clock": ports.clock, "alone": ports.alone}, "notes": notes})
    print(text)


if __name__ == "__main__":
    main()
