"""The limits of this machine, measured: what no program can beat.

Kernels, written as LLVM IR for the host's vector width and compiled by Tetractys' own CPU target:

* a loop of independent fused multiply-adds in registers;
* three loops over arrays of the size of each level of memory, of which the fastest counts: the
  triad ``a = b + s c`` with ordinary and with non-temporal stores, and a sum, which only reads;
* the shortest exponential that is accurate to a few ulp: range reduction by two constants, an
  economised Taylor polynomial, exponent by integer addition; wrong beyond normal results.

Each runs on all threads at once; the best of several runs counts.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.polynomial.chebyshev import cheb2poly, poly2cheb
from workloads import Workload

from tetractys.compiler.target.llvm import LlvmOptions, compile_module, describe_host
from tetractys.runtime.cpu_jit import link

Loop = Callable[..., None]

CHAINS = 12
"""Independent accumulators: more than latency times throughput of any fused multiply-add unit."""

EXP_DEGREE = {"float": 5, "double": 11}
"""Of the polynomial whose relative error on ``|r| <= log(2) / 2`` is at most about an ulp."""

ARRAY = 2048
"""Elements of the exponential's array: stays in the first cache."""

DRAM_BYTES = 256 << 20
SECONDS = 0.03


@dataclass(frozen=True, slots=True)
class Limits:
    """What the machine can do with some number of threads.

    Attributes
    ----------
    threads : int
    flops : dict of str to float
        Operations a second (two a multiply-add), by dtype.
    exps : dict of str to float
        Exponentials a second, by dtype.
    bandwidth : list of (int, float)
        For each level of memory: the bytes it holds, and the bytes a second it reads and writes.
    """

    threads: int
    flops: dict[str, float]
    exps: dict[str, float]
    bandwidth: list[tuple[int, float]]

    def best_of(self, other: Limits) -> Limits:
        """Return the better of two measurements, limit by limit."""
        return Limits(
            self.threads,
            {dtype: max(rate, other.flops[dtype]) for dtype, rate in self.flops.items()},
            {dtype: max(rate, other.exps[dtype]) for dtype, rate in self.exps.items()},
            [max(ours, theirs) for ours, theirs in zip(self.bandwidth, other.bandwidth)])

    def floor(self, workload: Workload) -> float:
        """Return the seconds a workload needs at least; 0 for one that is all overhead."""
        cost = workload.cost
        rate = next((rate for size, rate in self.bandwidth if cost.bytes <= size),
                    self.bandwidth[-1][1])
        return max(cost.flops / self.flops[workload.dtype],
                   cost.exps / self.exps[workload.dtype], cost.bytes / rate)


def measure(threads: int) -> Limits:
    """Measure the limits with this number of threads."""
    names = {"float": "float32", "double": "float64"}
    width = vector_bytes()
    flops, exps = {}, {}
    for kind, dtype in names.items():
        lanes = width // np.dtype(dtype).itemsize
        loop = _function(_fma_text(kind, lanes), "fma")
        flops[dtype] = 2 * lanes * CHAINS * _rate(threads, lambda _, n: loop(*[None] * 3, n, 0))
        exps[dtype] = _exp_rate(threads, kind, dtype, lanes)
    return Limits(threads, flops, exps, _bandwidths(threads, width))


def _exp_rate(threads: int, kind: str, dtype: str, lanes: int) -> float:
    loop = _function(exp_text(kind, lanes), "exp")
    given = np.linspace(-80, 80, ARRAY).astype(dtype)
    outs = np.empty((threads, ARRAY), dtype)
    rate = _rate(threads, lambda thread, n: loop(
        given.ctypes.data, outs[thread].ctypes.data, None, n, ARRAY))
    error = np.abs(outs / np.exp(given.astype(np.float64)) - 1).max() / np.finfo(dtype).eps
    if not error < 4:
        raise ArithmeticError(f"the {dtype} exponential is wrong by {error:.3g} units")
    return ARRAY * rate


def _rate(threads: int, run: Callable[[int, int], object]) -> float:
    """Return how often a body runs a second, over all threads.

    ``run(thread, n)`` runs it n times.
    """
    count, best = 1, 0.0
    while True:
        seconds = _together(threads, lambda thread: run(thread, count))
        if seconds > SECONDS:
            break
        count *= 4 if seconds < SECONDS / 4 else 2
    for _ in range(5):
        best = max(best, threads * count / _together(threads, lambda thread: run(thread, count)))
    return best


def _together(threads: int, run: Callable[[int], object]) -> float:
    """Return the seconds from the first thread's start to the last one's end."""
    barrier = threading.Barrier(threads)
    spans: list[tuple[float, float]] = []

    def body(thread: int) -> None:
        barrier.wait()
        start = time.perf_counter()
        run(thread)
        spans.append((start, time.perf_counter()))

    workers = [threading.Thread(target=body, args=(k,)) for k in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


def _bandwidths(threads: int, width: int) -> list[tuple[int, float]]:
    """Return capacity and largest bandwidth of each level of memory."""
    lanes = width // 4
    loops = [(_function(_triad_text(lanes, ""), "triad"), 3),
             (_function(_triad_text(lanes, ", !nontemporal !0"), "triad"), 3),
             (_function(_sum_text(lanes), "sum"), 1)]
    levels = []
    caches = _caches()
    for number, (capacity, is_shared) in enumerate([*caches, (0, True)]):
        is_last = number == len(caches)
        total = DRAM_BYTES if is_last else capacity // 2 * (1 if is_shared else threads)
        best = 0.0
        for loop, count in loops:
            elements = total // threads // (4 * count) // 64 * 64
            best = max(best, _array_rate(threads, loop, count, elements) * elements * 4 * count)
        size = 1 << 62 if is_last else capacity * (1 if is_shared else threads)
        levels.append((size, best))
    return levels


def seconds_to_move(read: float, written: float, threads: int) -> float:
    """Return the seconds in which so many bytes can be read once and as many others written.

    The loop, with ordinary or non-temporal stores, whose share of writing is nearest: a sum, a
    triad or a copy over as many bytes in all.  It runs again and again, so that data which fit a
    cache lie there.
    """
    lanes, total = vector_bytes() // 4, read + written
    share = written / total if total else 0.0
    if share < 1 / 6:
        loops, count = [_function(_sum_text(lanes), "sum")], 1
    else:
        name, text, count = ("triad", _triad_text, 3) if share < 5 / 12 else ("copy", _copy_text, 2)
        loops = [_function(text(lanes, hint), name) for hint in ("", ", !nontemporal !0")]
    elements = int(total / threads) // (4 * count) // 64 * 64
    if not elements:
        return 0.0
    return min(threads / _array_rate(threads, loop, count, elements) for loop in loops)


def _array_rate(threads: int, loop: Loop, count: int, elements: int) -> float:
    """Return how often a loop over arrays runs a second, over all threads."""
    arrays = [_apart(elements, count) for _ in range(threads)]

    def run(thread: int, n: int) -> None:
        pointers = [array.ctypes.data for array in arrays[thread]]
        loop(*pointers, *[None] * (3 - count), n, elements)

    return _rate(threads, run)


def _apart(elements: int, count: int) -> list[np.ndarray]:
    """Return arrays on cache lines of their own, at different distances within a page.

    Stores and loads whose addresses agree modulo 4096 would wait for each other.
    """
    spacing = elements + (1024 + 256 - elements % 1024)
    block = np.ones(count * spacing + 16, np.float32)
    first = -block.ctypes.data % 64 // 4
    return [block[first + k * spacing:][:elements] for k in range(count)]


def _caches() -> list[tuple[int, bool]]:
    """Return the data caches' bytes, and whether several CPUs share one."""
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    if not folder.is_dir():
        return [(32 << 10, False), (512 << 10, False), (16 << 20, True)]
    found = []
    for index in sorted(folder.glob("index*")):
        if (index / "type").read_text().strip() != "Instruction":
            size = int((index / "size").read_text().strip().rstrip("K")) << 10
            shared = (index / "shared_cpu_list").read_text().strip()
            found.append((size, "," in shared or "-" in shared))
    return found


def vector_bytes() -> int:
    features = describe_host()
    return 64 if "+avx512f" in features else 32 if "+avx2" in features else 16


def _function(text: str, name: str) -> Loop:
    """Return IR as a function of three pointers, repetitions and size, free of the GIL."""
    code, _ = compile_module(text, LlvmOptions(speed_level=3))
    library = link([code], {}, [name])
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2)(library[name])
    call.library = library  # the code lives as long as its library
    return call


_LOOP = """
define void @{name}(ptr noalias %a, ptr noalias %b, ptr noalias %c, i64 %n, i64 %size) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, {latch} ]
{body}
  %next = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""


_INNER = """  br label %inner
inner:
  %j = phi i64 [ 0, %loop ], [ %j.next, %inner ]
{body}
  %j.next = add nuw nsw i64 %j, {lanes}
  %j.more = icmp slt i64 %j.next, %size
  br i1 %j.more, label %inner, label %latch
latch:
  call void asm sideeffect "", "~{{memory}}"()"""
"""A loop over an array; what it stores counts as used."""


def _array_loop(name: str, body: str, lanes: int) -> str:
    return _LOOP.format(name=name, body=_INNER.format(body=body, lanes=lanes), latch="%latch")


def _fma_text(kind: str, lanes: int) -> str:
    vector = f"<{lanes} x {kind}>"
    phis = "\n".join(f"  %x{k} = phi {vector} [ splat ({kind} {k}.0), %entry ], [ %y{k}, %loop ]"
                     for k in range(CHAINS))
    steps = "\n".join(f"  %y{k} = call {vector} @llvm.fma.v{lanes}f{_bits(kind)}({vector} %x{k}, "
                      f"{vector} splat ({kind} 0.5), {vector} splat ({kind} 1.0))"
                      for k in range(CHAINS))
    text = _LOOP.format(name="fma", body=phis + "\n" + steps, latch="%loop")
    # Volatile, so that the work is not removed.
    ends = "\n".join(f"  store volatile {vector} %y{k}, ptr %sink, align 4"
                     for k in range(CHAINS))
    text = text.replace("entry:\n", f"entry:\n  %sink = alloca {vector}\n")
    return text.replace("  ret void", ends + "\n  ret void") + _declare("fma", kind, lanes, 3)


def _triad_text(lanes: int, hint: str) -> str:
    vector = f"<{lanes} x float>"
    return _array_loop("triad", f"""  %pa = getelementptr inbounds float, ptr %a, i64 %j
  %pb = getelementptr inbounds float, ptr %b, i64 %j
  %pc = getelementptr inbounds float, ptr %c, i64 %j
  %vb = load {vector}, ptr %pb, align 4
  %vc = load {vector}, ptr %pc, align 4
  %product = fmul {vector} %vc, splat (float 0.5)
  %sum = fadd {vector} %vb, %product
  store {vector} %sum, ptr %pa, align {4 * lanes}{hint}""", lanes) + "!0 = !{i32 1}\n"


def _copy_text(lanes: int, hint: str) -> str:
    vector = f"<{lanes} x float>"
    return _array_loop("copy", f"""  %pa = getelementptr inbounds float, ptr %a, i64 %j
  %pb = getelementptr inbounds float, ptr %b, i64 %j
  %vb = load {vector}, ptr %pb, align 4
  store {vector} %vb, ptr %pa, align {4 * lanes}{hint}""", lanes) + "!0 = !{i32 1}\n"


def _sum_text(lanes: int) -> str:
    """Return IR with eight running sums, which hide the latency of an addition."""
    vector, ways = f"<{lanes} x float>", range(8)
    loads = "\n".join(f"""  %p{k} = getelementptr inbounds float, ptr %a, i64 %j{k}
  %v{k} = load {vector}, ptr %p{k}, align 4
  %t{k} = fadd {vector} %s{k}, %v{k}
  %j{k + 1} = add nuw nsw i64 %j{k}, {lanes}""" for k in ways)
    phis = "\n".join(f"  %s{k} = phi {vector} [ zeroinitializer, %loop ], [ %t{k}, %inner ]"
                     for k in ways)
    text = _array_loop("sum", f"{phis}\n  %j0 = add i64 %j, 0\n{loads}", 8 * lanes)
    uses = "\n".join(f"  store volatile {vector} %t{k}, ptr %sink, align 4" for k in ways)
    return text.replace("latch:\n", f"latch:\n{uses}\n").replace(
        "entry:\n", f"entry:\n  %sink = alloca {vector}\n")


def exp_text(kind: str, lanes: int) -> str:
    """Return IR that stores, n times over, exp(a) in b."""
    bits, vector = _bits(kind), f"<{lanes} x {kind}>"
    integers = f"<{lanes} x i{bits}>"
    mantissa = 23 if bits == 32 else 52
    high = math.log(2.0) if bits == 64 else float(np.float32(0.693359375))
    low = 2.3190468138462996e-17 if bits == 64 else math.log(2.0) - high
    magic = 1.5 * 2.0 ** mantissa

    def splat(value: float) -> str:
        rounded = value if bits == 64 else float(np.float32(value))
        return f"splat ({kind} 0x{np.float64(rounded).view(np.uint64):016X})"

    lines = [f"%at = getelementptr inbounds {kind}, ptr %a, i64 %j",
             f"%out = getelementptr inbounds {kind}, ptr %b, i64 %j",
             f"%x = load {vector}, ptr %at, align 4",
             _fma("%shifted", vector, bits, lanes, "%x", splat(1 / math.log(2.0)), splat(magic)),
             f"%whole = fsub {vector} %shifted, {splat(magic)}",
             _fma("%r0", vector, bits, lanes, "%whole", splat(-high), "%x"),
             _fma("%r", vector, bits, lanes, "%whole", splat(-low), "%r0")]
    degree = EXP_DEGREE[kind]
    coefficients = _exp_coefficients(degree)
    value = splat(coefficients[degree])
    for power in range(degree - 1, -1, -1):
        lines.append(_fma(f"%p{power}", vector, bits, lanes, value, "%r",
                          splat(coefficients[power])))
        value = f"%p{power}"
    lines += [f"%word = bitcast {vector} %shifted to {integers}",
              f"%exponent = shl {integers} %word, splat (i{bits} {mantissa})",
              f"%base = bitcast {vector} {value} to {integers}",
              f"%scaled = add {integers} %base, %exponent",
              f"%result = bitcast {integers} %scaled to {vector}",
              f"store {vector} %result, ptr %out, align 4"]
    return _array_loop("exp", "\n".join(f"  {line}" for line in lines), lanes) \
        + _declare("fma", kind, lanes, 3)


def _exp_coefficients(degree: int) -> np.ndarray:
    """Return a polynomial close to exp on ``|r| <= log(2) / 2``: a Taylor series, economised.

    References
    ----------
    Lanczos, Applied Analysis (1956), chapter 7: drop the last terms of the Chebyshev series.
    """
    terms = np.arange(degree + 5)
    scales = (math.log(2.0) / 2) ** terms
    series = poly2cheb([scale / math.factorial(term) for term, scale in zip(terms, scales)])
    return cheb2poly(series[:degree + 1]) / scales[:degree + 1]


def _fma(name: str, vector: str, bits: int, lanes: int, *operands: str) -> str:
    passed = ", ".join(f"{vector} {operand}" for operand in operands)
    return f"{name} = call {vector} @llvm.fma.v{lanes}f{bits}({passed})"


def _bits(kind: str) -> int:
    return 32 if kind == "float" else 64


def _declare(name: str, kind: str, lanes: int, arity: int) -> str:
    vector = f"<{lanes} x {kind}>"
    return f"declare {vector} @llvm.{name}.v{lanes}f{_bits(kind)}({', '.join([vector] * arity)})\n"


def describe_cpu() -> str:
    """Return the processor's name as LLVM knows it, with the width of its vectors."""
    return f"{describe_host().split()[2]}, {8 * vector_bytes()}-bit vectors, " \
           f"{os.cpu_count()} CPUs"
