"""Run emitted CUDA C on the host: the very text, compiled by the C++ compiler of this machine.

The emulator runs the nests; this runs what was printed from them.  A few macros give CUDA's words a
meaning; the threads of a block are coroutines that take turns at every barrier and shuffle.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

from cuda_fake import FakeDriver
from tetractys.compiler.target import cuda
from tetractys.compiler.target.cuda_instructions import INSTRUCTIONS

COMPILER = shutil.which("g++") or shutil.which("clang++")

SHIM = r"""
#include <cmath>
#include <cstdint>
#include <cstring>
#include <ucontext.h>
#include <vector>
#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))
struct Place { int x, y, z; };
static Place blockIdx, threadIdx;
static int current;
static ucontext_t scheduler;
static std::vector<ucontext_t> coroutines;
static uint64_t slots[1024];
static void wait() { swapcontext(&coroutines[current], &scheduler); }
static inline void __syncthreads() { wait(); }
static inline void __syncwarp() { wait(); }
template <typename T> static T __shfl_xor_sync(unsigned, T value, int distance) {
    std::memcpy(&slots[current], &value, sizeof value);
    wait();
    T other;
    std::memcpy(&other, &slots[current ^ distance], sizeof other);
    wait();
    return other;
}
template <typename T> static T __shfl_sync(unsigned, T value, int lane) {
    return __shfl_xor_sync(~0u, value, (current ^ lane) & 31);
}
template <typename R, typename T> static R bits(T value) {
    R result;
    static_assert(sizeof result == sizeof value);
    std::memcpy(&result, &value, sizeof value);
    return result;
}
#define __int_as_float(x) bits<float>((int32_t)(x))
#define __uint_as_float(x) bits<float>((uint32_t)(x))
#define __float_as_int(x) bits<int32_t>((float)(x))
#define __float_as_uint(x) bits<uint32_t>((float)(x))
#define __longlong_as_double(x) bits<double>((int64_t)(x))
#define __double_as_longlong(x) bits<long long>((double)(x))
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline double __dsub_rn(double x, double y) { return x - y; }
static inline unsigned __umulhi(unsigned x, unsigned y) { return (uint64_t(x) * y) >> 32; }
static inline void atomicMax(long long *place, long long value) {
    if (value > *place) *place = value;
}
"""

COPIES = r"""
struct Copy { void *target; const void *source; int size, batch; };
static std::vector<Copy> copies[1024];
static int batches[1024];
// A copy is made as late as it may be: when its thread waits for it.
template <int BYTES> static void fetch(void *target, const void *source, bool inside) {
    copies[current].push_back(Copy{target, inside ? source : nullptr, BYTES, batches[current]});
}
static void commit() { ++batches[current]; }
template <int PENDING> static void await() {
    std::vector<Copy> left;
    for (const Copy &copy : copies[current]) {
        if (copy.batch >= batches[current] - PENDING) left.push_back(copy);
        else if (copy.source) std::memcpy(copy.target, copy.source, copy.size);
        else std::memset(copy.target, 0, copy.size);
    }
    copies[current] = left;
}
static void begin(int thread) { copies[thread].clear(); batches[thread] = 0; }
static const void *rows[1024];
static void matrices(unsigned *target, const void *row, bool across) {
    rows[current] = row;
    wait();
    const int first = current & ~31, lane = current & 31;
    for (int k = 0; k < 4; ++k) {
        uint16_t pair[2];
        for (int e = 0; e < 2; ++e) {
            const int i = lane / 4, j = 2 * (lane % 4) + e;
            pair[e] = ((const uint16_t *)rows[first + 8 * k + (across ? j : i)])[across ? i : j];
        }
        std::memcpy(target + k, pair, 4);
    }
    wait();
}
static void load_matrices(unsigned *target, const void *row) { matrices(target, row, false); }
static void load_matrices_across(unsigned *target, const void *row) { matrices(target, row, true); }
"""
"""What stands in the place of functions of ``cuda_instructions.py``."""

REPLACED = ("fetch", "commit", "await", "load_matrices", "load_matrices_across")

LAUNCH = r"""
typedef long long W;
static void *function;
static W *words;
static int count;
static bool finished;
static void body() {
    W *a = words;
    switch (count) {
CASES
    }
    finished = true;
    swapcontext(&coroutines[current], &scheduler);
}
extern "C" void launch(void *kernel, W blocks, int x, int y, int z, W *arguments, int n) {
    function = kernel; words = arguments; count = n;
    const int threads = x * y * z, size = 1 << 16;
    std::vector<char> stacks((size_t)threads * size);
    for (W block = 0; block < blocks; ++block) {
        coroutines.assign(threads, ucontext_t());
        std::vector<char> done(threads, 0);
        for (int t = 0; t < threads; ++t) {
            begin(t);
            getcontext(&coroutines[t]);
            coroutines[t].uc_stack.ss_sp = &stacks[(size_t)t * size];
            coroutines[t].uc_stack.ss_size = size;
            coroutines[t].uc_link = &scheduler;
            makecontext(&coroutines[t], body, 0);
        }
        for (int left = threads; left;) {
            for (int t = 0; t < threads; ++t) {
                if (done[t]) continue;
                current = t;
                blockIdx = Place{(int)block, 0, 0};
                threadIdx = Place{t % x, t / x % y, t / (x * y)};
                finished = false;
                swapcontext(&scheduler, &coroutines[t]);
                if (finished) { done[t] = 1; --left; }
            }
        }
    }
}
"""


def program(source: str) -> str:
    """Return the C++ program of a source text."""
    cases = "\n".join(
        f"    case {n}: ((void (*)({', '.join(['W'] * n)}))function)("
        f"{', '.join(f'a[{k}]' for k in range(n))}); break;" for n in range(40))
    source = source.replace("extern __shared__", "static").replace("scratch[]", "scratch[1 << 17]")
    for name in REPLACED:
        source = source.replace(INSTRUCTIONS[name], "")
    return SHIM + COPIES + source + LAUNCH.replace("CASES", cases)


def library(source: str, path: Path) -> ctypes.CDLL:
    """Return the compiled program of a source text; its ``launch`` runs a kernel."""
    path.write_text(program(source))
    found = path.with_suffix(".so")
    subprocess.run([COMPILER, "-std=c++17", "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC",
                    str(path), "-o", str(found)], check=True)
    return ctypes.CDLL(str(found))


class HostDriver(FakeDriver):
    """A driver that runs the text of kernels; ``folder`` is for what the compiler writes."""

    def __init__(self, folder: Path, **options: int):
        super().__init__(**options)
        self.folder = folder
        self.libraries: dict[str, ctypes.CDLL] = {}
        self.sources: dict[int, str] = {}

    def load(self, source: str, architecture: str) -> cuda.Build:
        built = super().load(source, architecture)
        for kernel in built.kernels.values():
            self.sources[id(kernel)] = source
        if source not in self.libraries:
            path = self.folder / f"kernels{len(self.libraries)}.cpp"
            self.libraries[source] = library(source, path)
        return built

    def run(self, kernel: cuda.Emitted, blocks: int, threads: tuple[int, ...],
            arguments: tuple[int, ...]) -> None:
        """Run a kernel's text."""
        library = self.libraries[self.sources[id(kernel)]]
        words = (ctypes.c_int64 * max(1, len(arguments)))(*arguments)
        address = ctypes.cast(getattr(library, kernel.code.name), ctypes.c_void_p)
        library.launch(address, ctypes.c_int64(blocks), *threads, words, len(arguments))
        self.launched.append(kernel.code.name)
