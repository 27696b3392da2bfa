"""What the compiler and the schedules say of CUDA kernels, and the times they make one expect.

    python benchmarks/cuda_report.py                  needs NVRTC, but no GPU
    python benchmarks/cuda_report.py --workloads layer_norm,matmul_4096 --code

For each launch of a workload: registers, shared memory and spills as NVIDIA's assembler reports
them; the bytes of memory it touches and the operations it does, counted from the scheduled nest;
and the time a GPU needs at least for those.  A prediction, not a measurement:

* memory at 85 % of a GPU's bandwidth, each element of a buffer counted once a launch;
* arithmetic at 60 % of its rate, a division or square root as eight operations;
* 2 us for every launch within a graph, of which the work hides none.
"""

from __future__ import annotations

import argparse
import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import report
from sides import tetractys_side
from workloads import Workload, select

from tetractys.compiler.access import flat_offset
from tetractys.compiler.dims import DimLike, evaluate, symbols_of
from tetractys.compiler.dtypes import SIZES
from tetractys.compiler.loop.ir import (
    Accumulate, Buffer, Fetch, For, Load, Multiply, Nest, Scalar, Stmt)
from tetractys.compiler.loop.math import FUNCTIONS, definition
from tetractys.compiler.loop.matrix import KINDS
from tetractys.compiler.loop.verify import WARP
from tetractys.compiler.loop.walk import loads, operands, postorder, target_access
from tetractys.compiler.pipeline import Options, compile_signature
from tetractys.compiler.target import cuda
from tetractys.runtime import cuda_nvrtc

DEFAULT = ("black_scholes_f32,black_scholes_large,log_softmax,log_softmax_large,layer_norm,"
           "layer_norm_large,logistic_regression,logistic_large,mlp_step,mlp_large")

DEAR = {"div": 8, "sqrt": 8, "floordiv": 20, "mod": 20}
"""Operations that one of these stands for."""

LAUNCH = 2e-6
"""Seconds between the starts of two dependent kernels of a graph."""


TENSOR = {"H100": {"tf32": 495e12, "float16": 989e12, "bfloat16": 989e12},
          "A100": {"tf32": 156e12, "float16": 312e12, "bfloat16": 312e12}}
"""Operations a second of tensor cores, without sparsity (NVIDIA's data sheets)."""


@dataclass(frozen=True, slots=True)
class Chip:
    """A GPU's rates."""

    name: str
    architecture: str
    bandwidth: float
    flops: dict[str, float]
    """Operations a second: of float32 and float64, and of tensor cores by the kind of product."""

    def seconds(self, use: Use) -> float:
        """Return the time a launch needs at least."""
        work = sum(count / (0.6 * self.flops[dtype]) for dtype, count in use.operations.items())
        return max(use.bytes / (0.85 * self.bandwidth), work, LAUNCH)


CHIPS = (
    # NVIDIA's data sheets: H100 SXM5 80 GB, A100 SXM4 80 GB.
    Chip("H100", "sm_90", 3.35e12, {"float32": 67e12, "float64": 34e12, **TENSOR["H100"]}),
    Chip("A100", "sm_80", 2.04e12, {"float32": 19.5e12, "float64": 9.7e12, **TENSOR["A100"]}))


@dataclass(slots=True)
class Use:
    """What a launch does.

    Attributes
    ----------
    bytes : int
        Distinct bytes of device memory read, and written.
    requested : int
        Bytes of all loads and stores, those that caches serve included; an element that the
        statements of one body use several times is loaded once.
    operations : dict of str to float
        Scalar operations by dtype; integer ones count as float32.
    """

    bytes: int
    requested: int
    operations: dict[str, float]


def use_of(nest: Nest) -> Use:
    """Count what a scheduled nest of known sizes does."""
    touched: dict[tuple[Buffer, bool], int] = {}
    operations: dict[str, float] = {}
    for body, times in _bodies(nest.body, 1):
        for root, _, writes, count in set().union(*map(_accesses, body)):
            size = times * count * SIZES[root.dtype]
            touched[root, writes] = touched.get((root, writes), 0) + size
        for stmt in body:
            for dtype, count in _operations(stmt).items():
                operations[dtype] = operations.get(dtype, 0.0) + times * count
    distinct = sum(min(count, _size(root)) for (root, _), count in touched.items())
    return Use(distinct, sum(touched.values()), operations)


def _bodies(body: tuple[Stmt, ...], times: int) -> Iterator[tuple[tuple[Stmt, ...], int]]:
    """Yield the bodies of a nest, and how often each runs; conditions count as true."""
    yield body, times
    for stmt in body:
        if hasattr(stmt, "body"):
            trips = _value(stmt.extent) if isinstance(stmt, For) else 1
            yield from _bodies(stmt.body, times * max(trips, 0))


def _accesses(stmt: Stmt) -> set[tuple[Buffer, DimLike, bool, int]]:
    """Return what a statement reads and writes of a device's memory: buffer, offset, which, and
    how many elements."""
    count = stmt.count if isinstance(stmt, Fetch) else 1
    found = [(load, False) for load in loads(*operands(stmt))]
    target = target_access(stmt)
    if target is not None:
        found.append((Load(*target), True))
        if isinstance(stmt, Accumulate):
            found.append((Load(*target), False))
    return {(load.buffer.root(), flat_offset(load.position, load.buffer.dims), writes, count)
            for load, writes in found
            if load.buffer.root().role not in ("scratch", "register")}


def _value(dim: DimLike) -> int:
    """Return an extent in the first thread of the first block."""
    return dim if isinstance(dim, int) else evaluate(dim, dict.fromkeys(symbols_of(dim), 0))


def _size(root: Buffer) -> int:
    size = SIZES[root.dtype]
    for dim in root.dims:
        size *= _value(dim)
    return size


def _operations(stmt: Stmt) -> dict[str, float]:
    """Return the scalar operations of one statement, by dtype."""
    found: dict[str, float] = {}
    nodes = [*postorder(*operands(stmt))]
    while nodes:
        node = nodes.pop()
        if not isinstance(node, Scalar):
            continue
        if node.name in FUNCTIONS:
            nodes += postorder(definition(node.name, node.dtype, len(node.args))[1])
            continue
        dtype = "float64" if node.dtype == "float64" else "float32"
        cost = 2 if node.name == "fma" else DEAR.get(node.name, 1)
        found[dtype] = found.get(dtype, 0.0) + cost
    if isinstance(stmt, Multiply):
        kind = KINDS[stmt.kind]
        # Each thread of the warp counts for itself.
        found[stmt.kind] = 2 * kind.m * kind.n * kind.k / WARP
    if isinstance(stmt, Accumulate):
        dtype = "float64" if stmt.target.dtype == "float64" else "float32"
        found[dtype] = found.get(dtype, 0.0) + 1
    return found


@dataclass(frozen=True, slots=True)
class Resources:
    """What a kernel takes, as the assembler says: registers of a thread, bytes of the others."""

    registers: int
    shared: int
    spills: int
    stack: int


def resources(source: str, architecture: str) -> dict[str, Resources]:
    """Return the resources of each kernel of a source text."""
    _, log = cuda_nvrtc.build(source, architecture, "--ptxas-options=--verbose")
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        def number(pattern: str, part: str = part) -> int:
            return sum(map(int, re.findall(pattern, part)))

        found[part.partition("'")[0]] = Resources(
            number(r"Used (\d+) registers"), number(r"(\d+) bytes smem"),
            number(r"(\d+) bytes spill"), number(r"(\d+) bytes stack frame"))
    return found


def launches(steps: list[dict]) -> Iterator[dict]:
    """Yield the launches of a program's steps; the body of a loop once."""
    for step in steps:
        if "body" in step:
            yield from launches(step["body"])
        else:
            yield step


def table_of(workload: Workload, with_code: bool) -> tuple[str, list[str]]:
    """Return the section of a workload, and its line of the summary."""
    case = tetractys_side.SIDE[workload.family](workload.data())
    f = case.function
    _, stages = compile_signature(f.signature, f._sizes(case.arguments), Options(device="cuda"))
    built = cuda.build(stages.program)
    taken = {chip.name: resources(built.source, chip.architecture) for chip in CHIPS}
    rows, totals, moved, worst = [], dict.fromkeys(taken, 0.0), 0, 0
    for launch in launches(built.steps):
        kernel = built.kernels[launch["kernel"]]
        use = use_of(kernel.nest)
        blocks, threads = _value(kernel.nest.body[0].extent), kernel.code.threads
        times = {chip.name: chip.seconds(use) for chip in CHIPS}
        totals = {name: totals[name] + seconds for name, seconds in times.items()}
        moved += use.bytes
        own = taken["H100"][launch["kernel"]]
        worst = max(worst, *(found[launch["kernel"]].spills for found in taken.values()))
        rows.append([f"`{launch['kernel']}`", f"{blocks} x {threads[0] * threads[1] * threads[2]}",
                     "/".join(str(found[launch["kernel"]].registers) for found in taken.values()),
                     str(own.shared + kernel.code.scratch), str(own.spills),
                     _bytes(use.bytes), _bytes(use.requested),
                     f"{sum(use.operations.values()) / 1e6:.3g}",
                     *(report.readable(seconds) for seconds in times.values())])
    header = ["kernel", "blocks x threads", "registers 90/80", "shared", "spills", "bytes",
              "requested", "Mops", *(chip.name for chip in CHIPS)]
    text = f"## {workload.title}\n\n{report.markdown(header, rows)}"
    if with_code:
        text += f"\n\n```\n{built.source[built.source.index('extern'):].strip()}\n```"
    most = max(found.registers for found in taken["H100"].values())
    floor = workload.cost.bytes / CHIPS[0].bandwidth
    return text, [workload.title, str(len(rows)), str(most), str(worst), _bytes(moved),
                  _bytes(int(workload.cost.bytes)),
                  *(report.readable(totals[chip.name]) for chip in CHIPS), report.readable(floor)]


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def main(arguments: list[str] | None = None) -> None:
    """Count, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workloads", metavar="NAMES", default=DEFAULT)
    parser.add_argument("--code", action="store_true", help="with the source of the kernels")
    parser.add_argument("--output", type=Path, default=report.RESULTS, metavar="DIR")
    options = parser.parse_args(arguments)
    found = [table_of(workload, options.code) for workload in select(options.workloads, "cuda")]
    header = ["workload", "launches", "most registers", "spills", "bytes", "least bytes",
              *(f"{chip.name}, predicted" for chip in CHIPS), "H100's bandwidth alone"]
    text = "\n\n".join([
        "# CUDA kernels: resources and predicted times",
        f"NVRTC {cuda_nvrtc.version()}. Nothing here was run on a GPU; the command's docstring "
        "says what is assumed. Least bytes: inputs read once, outputs written once.",
        report.markdown(header, (line for _, line in found)), *(section for section, _ in found)])
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"cuda-report-{datetime.date.today().isoformat()}.md"
    path.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
