"""Instructions of NVIDIA's GPUs that CUDA C has no words for, each as a function of its own.

GPUs before compute capability 8.0 do without: they copy to scratch memory at once, and threads
pass each other the parts of matrices, which they multiply without rounding them.
"""

from __future__ import annotations

from ..loop.matrix import KINDS

_FETCH = """\
// Starts copying BYTES bytes to scratch memory; zeros unless `inside`, and then nothing is read.
template <int BYTES>
__device__ __forceinline__ void fetch(void *target, const void *source, bool inside) {
#if __CUDA_ARCH__ >= 800
    const unsigned place = (unsigned)__cvta_generic_to_shared(target);
    const int size = inside ? BYTES : 0;
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], %2, %3;"
                     :: "r"(place), "l"(source), "n"(BYTES), "r"(size) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                     :: "r"(place), "l"(source), "n"(BYTES), "r"(size) : "memory");
#else
    for (int k = 0; k < BYTES / 4; ++k)
        ((unsigned *)target)[k] = inside ? ((const unsigned *)source)[k] : 0;
#endif
}
"""

_COMMIT = """\
// Ends a batch of this thread's fetches.
__device__ __forceinline__ void commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
"""

_AWAIT = """\
// Waits until no more than the last PENDING batches of this thread's fetches are under way.
template <int PENDING> __device__ __forceinline__ void await() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory");
#endif
}
"""


def _matrices(name: str, turned: str) -> str:
    what = "four matrices, transposed," if turned else "four matrices"
    return f"""\
// Loads {what} of 8 x 8 elements of 16 bits, a row of which each thread of the warp points to.
__device__ __forceinline__ void {name}(unsigned *target, const void *row) {{
    const unsigned place = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4{turned}.shared.b16 {{%0, %1, %2, %3}}, [%4];"
                 : "=r"(target[0]), "=r"(target[1]), "=r"(target[2]), "=r"(target[3])
                 : "r"(place) : "memory");
}}
"""


_ROUND = """\
#if __CUDA_ARCH__ >= 800
// A float with 10 bits of mantissa, for products of matrices.
__device__ __forceinline__ unsigned round_tf32(float x) {
    unsigned result;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(x));
    return result;
}
#endif
"""


def _multiply(name: str) -> str:
    kind = KINDS[name]
    counts = kind.registers()
    total, operand = ("double", "double") if name == "float64" else \
        ("float", "float" if name == "tf32" else "unsigned")
    letters = {"tf32": "tf32", "float16": "f16", "bfloat16": "bf16", "float64": "f64"}
    end = "f64" if name == "float64" else "f32"
    form = f"m{kind.m}n{kind.n}k{kind.k}"
    groups, first = [], 0
    for count in counts:
        groups.append("{" + ", ".join(f"%{k}" for k in range(first, first + count)) + "}")
        first += count
    constraint = "d" if name == "float64" else "r"
    wrapped = "round_tf32({})" if name == "tf32" else "{}"
    outputs = ", ".join(f'"+{"d" if end == "f64" else "f"}"(total[{k}])' for k in range(counts[0]))
    inputs = ", ".join(f'"{constraint}"({wrapped.format(f"{side}[{k}]")})'
                       for side, count in (("left", counts[1]), ("right", counts[2]))
                       for k in range(count))
    values = {"float16": "float32_from_float16((unsigned short)({} >> 16 * e))",
              "bfloat16": "__uint_as_float({} >> 16 * e << 16)"}.get(name, "{}")
    from_left = "__shfl_sync(~0u, left[k / 4 * ROWS + i], (lane & 28) + k % 4)"
    from_right = "__shfl_sync(~0u, right[k / 4], 8 * (lane & 3) + 4 * j + k % 4)"
    instruction = f"mma.sync.aligned.{form}.row.col.{end}.{letters[name]}.{letters[name]}.{end}"
    head = "__device__ __forceinline__ void"
    if kind.total == "float32":
        # Without the instruction, the code for large tiles would take minutes to compile.
        head = (f"#if __CUDA_ARCH__ >= {kind.needs}0\n{head}\n#else\n"
                "__device__ __noinline__ void\n#endif")
    return f"""\
// A warp's product of a {kind.m} x {kind.k} and a {kind.k} x {kind.n} matrix, added to a total.
{head}
multiply_{name}(
    {total} *total, const {operand} *left, const {operand} *right) {{
#if __CUDA_ARCH__ >= {kind.needs}0
    asm("{instruction} "
        "{groups[0]}, {groups[1]}, {groups[2]}, {groups[0]};"
        : {outputs}
        : {inputs});
#else
    const int ROWS = {kind.m // 8}, lane = threadIdx.x % 32;
    for (int k = 0; k < {kind.k // kind.per_register}; ++k)
        for (int j = 0; j < 2; ++j) {{
            const {operand} other = {from_right};
            for (int i = 0; i < ROWS; ++i) {{
                const {operand} own = {from_left};
                for (int e = 0; e < {kind.per_register}; ++e)
                    total[2 * i + j] += {values.format("own")} * {values.format("other")};
            }}
        }}
#endif
}}
"""


INSTRUCTIONS: dict[str, str] = {
    "fetch": _FETCH, "commit": _COMMIT, "await": _AWAIT,
    "load_matrices": _matrices("load_matrices", ""),
    "load_matrices_across": _matrices("load_matrices_across", ".trans"),
    "round_tf32": _ROUND, **{f"multiply_{name}": _multiply(name) for name in KINDS},
}
"""The text of each function, by its name."""
