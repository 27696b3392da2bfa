"""The limits of a GPU, measured: what no program on it can beat.

Copies within its memory, at a size that its cache holds and at one that it does not; independent
fused multiply-adds in registers; and the hardware's own exponential.  The kernels go through
Tetractys' runtime, as its own do.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from limits import Limits

from tetractys.runtime.cuda_driver import driver
from tetractys.runtime.cuda_memory import Memory, Stream
from tetractys.runtime.errors import TetractysError

CACHED, LARGE = 8 << 20, 1 << 30
"""Bytes of a copy that stays in the cache, and of one that does not."""

CHAINS, TRIPS = 8, 4096
"""Independent accumulators of a thread, and how often it goes through them."""

BLOCKS, THREADS = 4096, 256

POLYNOMIAL = 13
"""Multiply-adds of the shortest float64 exponential: see ``limits.EXP_DEGREE``."""

SOURCE = """
template <typename T> __device__ void chains(T *out, long long trips) {
    T value[CHAINS];
    for (int k = 0; k < CHAINS; ++k) value[k] = T(threadIdx.x + k);
    for (long long trip = 0; trip < trips; ++trip) {
        #pragma unroll
        for (int k = 0; k < CHAINS; ++k) value[k] = value[k] * T(0.999) + T(0.5);
    }
    T sum = 0;
    for (int k = 0; k < CHAINS; ++k) sum += value[k];
    if (sum == T(-1)) *out = sum;
}
extern "C" __global__ void fma_float32(float *out, long long trips) { chains(out, trips); }
extern "C" __global__ void fma_float64(double *out, long long trips) { chains(out, trips); }
extern "C" __global__ void exp_float32(float *out, long long trips) {
    float value[CHAINS];
    for (int k = 0; k < CHAINS; ++k) value[k] = float(threadIdx.x + k);
    for (long long trip = 0; trip < trips; ++trip) {
        #pragma unroll
        for (int k = 0; k < CHAINS; ++k)
            asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(value[k]));
    }
    float sum = 0;
    for (int k = 0; k < CHAINS; ++k) sum += value[k];
    if (sum == -1.0f) *out = sum;
}
""".replace("CHAINS", str(CHAINS))


def missing(device: int = 0) -> str | None:
    """Return why there is no GPU to measure; None when there is one."""
    try:
        count = driver().count()
    except TetractysError as error:
        return str(error).splitlines()[0]
    return None if count > device else f"the driver finds {count} GPUs"


def describe(device: int = 0) -> str:
    """Return a GPU's name and kind."""
    return ", ".join(driver().describe(device))


def measure(device: int = 0) -> Limits:
    """Measure the limits of a GPU; ``threads`` of the result is 1."""
    own = driver()
    with own.at(device):
        stream = Stream(device)
        module = own.load(SOURCE, own.describe(device)[1])
        rates = {}
        out = Memory(8, stream)
        for name in ("fma_float32", "fma_float64", "exp_float32"):
            function = own.function(module, name)
            seconds = _best(stream, lambda: own.launch(
                function, BLOCKS, (THREADS, 1, 1), (out.pointer, TRIPS), stream.handle))
            rates[name] = BLOCKS * THREADS * CHAINS * TRIPS / seconds
        bandwidth = [(size, 2 * size / _copy(stream, size)) for size in (CACHED, LARGE)]
    return Limits(1, {dtype: 2 * rates[f"fma_{dtype}"] for dtype in ("float32", "float64")},
                  {"float32": rates["exp_float32"], "float64": rates["fma_float64"] / POLYNOMIAL},
                  bandwidth)


def _copy(stream: Stream, size: int) -> float:
    """Return the seconds of a copy within the device."""
    source, target = Memory(size, stream), Memory(size, stream)
    return _best(stream, lambda: stream.driver.copy(
        target.pointer, source.pointer, size, stream.handle))


def _best(stream: Stream, queue: Callable[[], None], repeat: int = 10) -> float:
    """Return the least mean time of some calls in a row."""
    best = float("inf")
    for _ in range(5):
        stream.synchronize()
        start = time.perf_counter()
        for _ in range(repeat):
            queue()
        stream.synchronize()
        best = min(best, (time.perf_counter() - start) / repeat)
    return best
