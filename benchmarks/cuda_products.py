"""Which of a GPU's resources a product of matrices uses up, by counting its instructions.

    python benchmarks/cuda_products.py                4096 x 4096 x 4096, all kinds and orders
    python benchmarks/cuda_products.py --size 1024

Needs NVRTC and its disassembler (``pip install nvidia-cuda-nvrtc nvidia-cuda-nvdisasm``), but no
GPU.  The loop over the slabs is read from the machine code.  Each of the four parts of a
multiprocessor starts one instruction a cycle; beside that, the time of a slab is bounded by

* its fused multiplications and additions, 128 (H100) or 64 (A100) a cycle and multiprocessor;
* its matrix instructions, at the data sheet's rate, of which ``mma.sync`` reaches 63 % on an H100;
* shared memory, 128 bytes a cycle and multiprocessor: loads of 4 bytes a thread take one cycle, of
  8 two, of 16 two where threads share addresses as in ``cuda_simt.py``, matrices four, writes of
  fetched data one for each 128 bytes.

The largest bound counts; then come whole rounds of blocks.  The second-level cache, which all tiles
are loaded from, gives 70 % of 5120 bytes a cycle (the A100's, taken for the H100's too), memory
85 % of its bandwidth.  It is a prediction from counts: latencies that nothing hides come on top.

References
----------
Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking"
(2024), arXiv:2402.13499: 62.9 % of the peak by ``mma`` on an H100.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import report
from cuda_report import CHIPS, Chip, Resources, resources

from tetractys.compiler.dtypes import SIZES
from tetractys.compiler.loop.ir import Buffer
from tetractys.compiler.loop.matrix import KINDS
from tetractys.compiler.loop.text import nest_signature
from tetractys.compiler.program import Contract, View
from tetractys.compiler.target.cuda_contract import contract, tile_of
from tetractys.compiler.target.cuda_product import Tile
from tetractys.compiler.target.cuda_kernel import KernelCode, Module, emit_kernel
from tetractys.runtime import cuda_nvrtc

PRODUCTS = (("float32", "highest"), ("float32", "high"), ("float16", "highest"),
            ("bfloat16", "highest"), ("float64", "highest"))

ORDERS = {"x y": ("", ""), "x.T y": ("t", ""), "x y.T": ("", "t")}

LOADS = {"LDS": 1, "LDS.U": 1, "LDS.64": 2, "LDS.U.64": 2, "LDS.128": 2, "LDS.U.128": 2,
         "LDSM.16.M88.4": 4, "LDSM.16.MT88.4": 4, "LDGSTS.E": 1, "LDGSTS.E.64": 2,
         "LDGSTS.E.BYPASS.128": 4}
"""Cycles that shared memory is busy with an instruction of a warp."""


@dataclass(frozen=True, slots=True)
class Multiprocessor:
    """What a chip is made of: multiprocessors, with so many lanes, bytes and registers each."""

    count: int
    lanes: int
    shared: int
    mma: float
    """Which part of the tensor cores' rate ``mma.sync`` reaches."""


PARTS = {"H100": Multiprocessor(132, 128, 227 << 10, 0.63),
         "A100": Multiprocessor(108, 64, 163 << 10, 1.0)}


def product(size: int, dtype: str, turns: tuple[str, str]) -> Contract:
    """Return a product of square matrices, transposed or not."""
    out = Buffer("product", "float64" if dtype == "float64" else "float32", (size, size), "output")
    views = [View(Buffer(name, dtype, (size, size), "input"), 0, (1, size, size),
                  (0, 1, size) if turn else (0, size, 1)) for name, turn in zip("xy", turns)]
    return Contract(View(out, 0, (1, size, size), (0, size, 1)), *views)


def disassembler() -> str:
    """Return the path of ``nvdisasm``."""
    found = shutil.which("nvdisasm")
    if found is None:
        import nvidia
        found = next((str(path) for folder in nvidia.__path__
                      for path in Path(folder).rglob("nvdisasm")), None)
    if found is None:
        raise SystemExit("nvdisasm is missing: pip install nvidia-cuda-nvdisasm")
    return found


def main_loop(code: bytes) -> Counter[str]:
    """Return how many instructions of each name the longest loop of machine code has."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        text = subprocess.run([disassembler(), "-c", file.name], capture_output=True, text=True,
                              check=True).stdout
    labels: dict[str, int] = {}
    names: list[str] = []
    loops: list[Counter[str]] = []
    for line in text.splitlines():
        if match := re.match(r"^(\.L_x_\d+):", line):
            labels[match[1]] = len(names)
        if match := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([\w.]+)(.*);", line):
            names.append(match[1])
            target = re.search(r"`\((\.L_x_\d+)\)", match[2])
            if match[1].startswith("BRA") and target and target[1] in labels:
                loops.append(Counter(names[labels[target[1]]:]))
    return max(loops, key=Counter.total)


def bounds(loop: Counter[str], kind: str, chip: str) -> dict[str, float]:
    """Return the cycles that a slab takes of each resource, for one warp on its part."""
    parts, rates = PARTS[chip], next(found for found in CHIPS if found.name == chip).flops
    found = {"issue": float(loop.total()),
             "shared": 4.0 * sum(LOADS.get(name, 0) * count for name, count in loop.items()),
             "fma": loop["FFMA"] * 128 / parts.lanes}
    if kind in KINDS:
        shape = KINDS[kind]
        tensor = rates[kind] if kind != "float64" else 2 * rates["float64"]
        clock = rates["float32"] / (2 * parts.lanes * parts.count)
        a_cycle = parts.mma * tensor / (2 * clock * parts.count * 4)
        count = sum(value for name, value in loop.items() if name.startswith(("HMMA", "DMMA")))
        found["tensor"] = count * shape.m * shape.n * shape.k / a_cycle
    return found


def resident(taken: Resources, code: KernelCode, chip: str) -> int:
    """Return how many blocks a multiprocessor holds at once."""
    threads = code.threads[0] * code.threads[1] * code.threads[2]
    registers = -(-taken.registers // 8) * 8
    scratch = taken.shared + code.scratch + 1024
    return min(65536 // (registers * threads), PARTS[chip].shared // scratch, 2048 // threads)


def rows(size: int) -> Iterator[list[str]]:
    """Yield the lines of the table."""
    for dtype, precision in PRODUCTS:
        kind = "tf32" if precision == "high" else dtype
        for order, turns in ORDERS.items():
            step = product(size, dtype, turns)
            tile = tile_of(step, kind)
            module = Module()
            nest = contract(step, precision)[0]
            code = emit_kernel(module, nest, nest_signature(nest), (0, 1), False)
            line = [f"{kind}, {order}", f"{tile.rows} x {tile.columns} x {tile.depth}, "
                                        f"{tile.stages}"]
            for chip in CHIPS:
                line += _predicted(module.text(), code, nest.body[0].extent, kind, chip, step, tile)
            yield line


def _predicted(source: str, code: KernelCode, blocks: int, kind: str, chip: Chip, step: Contract,
               tile: Tile) -> list[str]:
    """Return registers, scratch memory, residents, instructions, what bounds, and the time."""
    taken = resources(source, chip.architecture)[code.name]
    loop = main_loop(cuda_nvrtc.build(source, chip.architecture)[0])
    cycles = bounds(loop, kind, chip.name)
    worst = max(cycles, key=cycles.get)
    useful = cycles.get("tensor", cycles["fma"])
    parts = PARTS[chip.name]
    together = resident(taken, code, chip.name)
    clock = chip.flops["float32"] / (2 * parts.lanes * parts.count)
    rounds = -(-blocks // (parts.count * together))
    size = step.sizes[1]
    slabs = -(-size // tile.depth)
    moved = sum(size * size * SIZES[view.buffer.dtype]
                for view in (step.left, step.right, step.out))
    tiles = blocks * size * (tile.rows + tile.columns) * SIZES[step.left.buffer.dtype]
    times = {worst: rounds * together * slabs * cycles[worst] * tile.threads / 128 / clock,
             "L2": tiles / (0.7 * 5120 * clock), "memory": moved / (0.85 * chip.bandwidth)}
    bound = max(times, key=times.get)
    return [f"{taken.registers}", f"{(taken.shared + code.scratch) / 1024:.0f} KiB", str(together),
            f"{loop.total()}", f"{100 * useful / cycles[worst]:.0f} %", bound,
            f"{report.readable(times[bound])}", f"{2e-12 * size**3 / times[bound]:.0f}"]


def main(arguments: list[str] | None = None) -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=4096)
    size = parser.parse_args(arguments).size
    columns = ["registers", "scratch", "blocks", "instructions", "useful", "bound", "time",
               "TFLOP/s"]
    header = ["product", "tile, stages", *(f"{chip.name}: {name}" for chip in CHIPS
                                           for name in columns)]
    print(f"{size} x {size} x {size}, NVRTC {cuda_nvrtc.version()}; predicted, nothing was run\n")
    print(report.markdown(header, rows(size)))


if __name__ == "__main__":
    main()
