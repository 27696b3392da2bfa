"""Threads: what a parallel region costs, and from which work on it gains.

    python benchmarks/threads.py --threads 2

Regions of chunks that only wait for a time are run by one thread and by several: one right after
the other, when the workers are still looking for work, and after a pause, when they sleep.  What a
region takes beyond its share of the work is its cost; where the two curves meet is the least work
worth a region.  Then the time of typical kernels on one thread, beside what the compiler estimates
and decides by.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import report

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.target.llvm_cost import program_work
from tetractys.runtime import cpu_poll, cpu_threads
from tetractys.runtime.cpu_jit import assemble, link

WORK = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Microseconds of work in a region."""

PAUSES = {"busy": 0.0, "awake": 15.0, "asleep": 300.0}
"""Microseconds between regions: none, less and more than a worker waits before it sleeps."""

TURNS, ROUNDS = 15, 40
"""Repetitions; regions of one repetition, of which the mean counts."""

_TEXT = """
declare i64 @tx_now()
declare void @tx_parallel_for(ptr, ptr, i64, i64)

define internal void @wait(i64 %ticks) {
  %start = call i64 @tx_now()
  br label %look
look:
  %now = call i64 @tx_now()
  %spent = sub i64 %now, %start
  %more = icmp slt i64 %spent, %ticks
  br i1 %more, label %look, label %done
done:
  ret void
}

define internal void @chunk(ptr %frame, i64 %begin, i64 %end) {
  %ticks = load i64, ptr %frame
  %count = sub i64 %end, %begin
  %all = mul i64 %ticks, %count
  call void @wait(i64 %all)
  ret void
}

define i64 @regions(ptr %frame, i64 %chunks, i64 %rounds, i64 %pause) {
entry:
  br label %loop
loop:
  %round = phi i64 [ 0, %entry ], [ %next, %loop ]
  %total = phi i64 [ 0, %entry ], [ %sum, %loop ]
  call void @wait(i64 %pause)
  %start = call i64 @tx_now()
  call void @tx_parallel_for(ptr @chunk, ptr %frame, i64 %chunks, i64 1)
  %end = call i64 @tx_now()
  %taken = sub i64 %end, %start
  %sum = add i64 %total, %taken
  %next = add i64 %round, 1
  %more = icmp slt i64 %next, %rounds
  br i1 %more, label %loop, label %done
done:
  ret i64 %sum
}
"""


@dataclass(frozen=True, slots=True)
class Region:
    """One measurement.

    Attributes
    ----------
    pause : str
        Which of :data:`PAUSES`.
    work : float
        Microseconds of all chunks together.
    one, several : float
        Microseconds of the region with one and with several threads.
    """

    pause: str
    work: float
    one: float
    several: float


class Regions:
    """Compiled code that runs regions."""

    def __init__(self) -> None:
        imports = {"tx_parallel_for": cpu_threads.library()["tx_parallel_for"],
                   "tx_now": cpu_poll.library()["tx_now"]}
        self.library = link([assemble(_TEXT)], imports, ("regions",))
        self.call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_int64] * 3)(
            self.library["regions"])
        self.ticks = 0.0
        self.ticks = self._ticks()

    def _ticks(self) -> float:
        """Return the ticks of a microsecond."""
        tx.set_num_threads(1)
        frame = np.array([10_000_000], np.int64)
        start = time.perf_counter()
        ticks = self.call(frame.ctypes.data, 1, 10, 0)
        return ticks / (time.perf_counter() - start) / 1e6

    def mean(self, threads: int, work: float, chunks: int, pause: float) -> float:
        """Return the mean microseconds of a region of so much work."""
        tx.set_num_threads(threads)
        frame = np.array([work / chunks * self.ticks], np.int64)
        taken = self.call(frame.ctypes.data, chunks, ROUNDS, int(pause * self.ticks))
        return taken / ROUNDS / self.ticks


def measure(threads: int) -> list[Region]:
    """Return the times of regions, with one thread and with several in turns."""
    regions, found = Regions(), []
    for name, pause in PAUSES.items():
        for work in WORK:
            times: dict[int, list[float]] = {1: [], threads: []}
            for _ in range(TURNS):
                for count, taken in times.items():
                    taken.append(regions.mean(count, work, 2 * threads, pause))
            one, several = (statistics.median(taken) for taken in times.values())
            found.append(Region(name, work, one, several))
    return found


def break_even(regions: list[Region]) -> float | None:
    """Return the least work at which several threads are faster than one."""
    return min((region.work for region in regions if region.several < region.one), default=None)


Kernel = tuple[Callable[..., T.TensorVariable], tuple[tuple[int, ...], ...]]

KERNELS: dict[str, Kernel] = {
    "add, in L1": (lambda x, y: x + y, ((2048,), (2048,))),
    "add, in L2": (lambda x, y: x + y, ((32768,), (32768,))),
    "add, in memory": (lambda x, y: x + y, ((1 << 22,), (1 << 22,))),
    "exp": (T.exp, ((8192,),)),
    "tanh": (T.tanh, ((8192,),)),
    "sum": (lambda x: x.sum(), ((16384,),)),
    "softmax of rows": (T.nnet.softmax, ((64, 256),)),
    "matrix product": (T.dot, ((64, 64), (64, 64))),
}
"""Typical kernels, on arrays of these shapes."""


def kernel_times() -> dict[str, tuple[float, float]]:
    """Return the microseconds of a kernel on one thread, and the compiler's estimate."""
    found = {}
    for name, (expression, shapes) in KERNELS.items():
        variables = [T.tensor("float32", shape=shape) for shape in shapes]
        arrays = [np.random.default_rng(0).standard_normal(shape).astype("float32")
                  for shape in shapes]
        f = tx.function(variables, tx.Out(expression(*variables), borrow=True), threads=1)
        f(*arrays)
        calls = max(1, int(2e-3 / _seconds(lambda: f(*arrays), 1)))
        taken = statistics.median(_seconds(lambda: f(*arrays), calls) for _ in range(TURNS))
        found[name] = taken * 1e6, program_work(f.variants[0].stages.program) / 1e6
    return found


def _seconds(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--output", type=Path, default=report.RESULTS, metavar="DIR")
    options = parser.parse_args(arguments)
    found = measure(options.threads)
    kernels = kernel_times()
    titles = [f"{name}: 1, {options.threads} thr." for name in PAUSES]
    lines = [f"| work, us | {' | '.join(titles)} |",
             "| ---: |" + " ---: |" * len(PAUSES)]
    for work in WORK:
        cells = [f"{region.one:.2f}, {region.several:.2f}"
                 for region in found if region.work == work]
        lines.append(f"| {work:g} | {' | '.join(cells)} |")
    meets = {name: break_even([r for r in found if r.pause == name]) for name in PAUSES}
    lines += ["", "Work from which on several threads are faster, us: " + ", ".join(
        f"{name} {'-' if value is None else f'{value:g}'}" for name, value in meets.items()) + ".",
        "", "| kernel, 1 thread | us | estimate |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {taken:.2f} | {estimate:.2f} |"
              for name, (taken, estimate) in kernels.items()]
    text = "\n".join(["# Threads", "", report.machine({}), "", *lines])
    report.write(options.output, "threads", text, {
        "regions": [asdict(region) for region in found], "break_even": meets, "kernels": kernels})
    print(text)


if __name__ == "__main__":
    main()
