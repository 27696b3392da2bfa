"""Matrix products by the micro-kernels: values, edges of tiles, memory bounds, threads, targets."""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.loop.ir import Buffer
from tetractys.compiler.pipeline import Options
from tetractys.compiler.program import Contract, Program, View
from tetractys.compiler.target.llvm import LlvmOptions, compile_program
from tetractys.compiler.target.llvm_contract import blocking, tile_shape
from tetractys.compiler.target.llvm_machine import Machine

MACHINES = {"SSE": Machine(16, frozenset(), 16), "AVX2": Machine(32, frozenset({4, 8}), 16),
            "AVX-512": Machine(64, frozenset({1, 2, 4, 8}), 32),
            "NEON": Machine(16, frozenset(), 32)}

SIZES = [(2, 3, 4), (7, 5, 9), (6, 16, 16), (13, 31, 33), (4, 400, 3), (50, 70, 10), (101, 10, 50),
         (3, 2, 100), (2, 0, 3), (0, 3, 4), (4, 3, 0)]
"""Rows, inner sizes and columns around the edges of tiles and panels, and of nothing."""


def product(m, k, n, turns=(False, False), dtype="float32", symbolic=False, **options):
    """Return a compiled product, its operands, and its float64 value."""
    rng = np.random.default_rng(m + k + n)
    a = rng.standard_normal((k, m) if turns[0] else (m, k)).astype(dtype)
    b = rng.standard_normal((n, k) if turns[1] else (k, n)).astype(dtype)
    x, y = T.matrix("x", dtype=dtype), T.matrix("y", dtype=dtype)
    f = tx.function([x, y], T.dot(x.T if turns[0] else x, y.T if turns[1] else y), **options)
    if symbolic:
        f.compile({})
    exact = np.matmul((a.T if turns[0] else a).astype("float64"),
                      (b.T if turns[1] else b).astype("float64"))
    return f, a, b, exact


def assert_close(result, exact, dtype, k):
    """Compare with the error bound of k additions."""
    bound = (k + 2) * np.finfo(dtype).eps * max(1.0, np.abs(exact).max(initial=0))
    np.testing.assert_allclose(result, exact, rtol=0, atol=bound)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("turns", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("m, k, n", SIZES)
def test_products_of_all_sizes_and_orientations(m, k, n, turns, symbolic):
    dtype = "float64" if (m + n) % 2 else "float32"
    f, a, b, exact = product(m, k, n, turns, dtype, symbolic)
    assert_close(f(a, b), exact, dtype, k)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_batches(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 7, 20)).astype(dtype), rng.standard_normal((5, 20, 9)).astype(
        dtype)
    x, y = T.tensor3("x", dtype=dtype), T.tensor3("y", dtype=dtype)
    f = tx.function([x, y], T.batched_dot(x, y))
    assert_close(f(a, b), np.matmul(a.astype("float64"), b), dtype, 20)


@pytest.mark.parametrize("has_blas", [False, True])
def test_large_products_with_and_without_blas(has_blas):
    f, a, b, exact = product(390, 400, 385, mode=Options(has_blas=has_blas))
    assert_close(f(a, b), exact, "float32", 400)
    contract, = [step for step in f.variants[0].stages.program.steps]
    machine = Machine(32, frozenset({4, 8}), 16, has_blas)
    assert blocking(contract, machine).uses_blas == has_blas


def test_nan_and_infinities_reach_their_rows_and_columns_only():
    f, a, b, _ = product(9, 20, 19)
    a[4, 7], b[3, 18] = np.nan, np.inf
    result = f(a, b)
    spoilt = np.zeros((9, 19), bool)
    spoilt[4], spoilt[:, 18] = True, True
    np.testing.assert_array_equal(np.isfinite(result), ~spoilt)


@pytest.mark.parametrize("m, k, n", [(150, 330, 200), (37, 500, 700)])
def test_threads_do_not_change_a_bit(m, k, n):
    results = []
    for threads in (1, 2, 3):
        f, a, b, _ = product(m, k, n, threads=threads)
        before = tx.get_num_threads()
        try:
            tx.set_num_threads(3)
            results.append(f(a, b))
        finally:
            tx.set_num_threads(before)
    assert all(np.array_equal(results[0], other) for other in results[1:])


def at_page_end(array):
    """Return a copy whose last byte is followed by a page that must not be touched."""
    page = mmap.PAGESIZE
    size = -(-max(array.nbytes, 1) // page) * page
    block = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(block))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start + size), ctypes.c_size_t(page), 0) == 0
    view = np.frombuffer(block, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects pages by mprotect")
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("turns", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("m, k, n", [(7, 5, 9), (19, 33, 21), (40, 13, 3), (2, 300, 17)])
def test_no_operand_is_read_beyond_its_end(m, k, n, turns, symbolic):
    f, a, b, exact = product(m, k, n, turns, symbolic=symbolic)
    assert_close(f(at_page_end(a), at_page_end(b)), exact, "float32", k)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(MACHINES))
def test_tiles_fit_the_registers(name, dtype):
    machine = MACHINES[name]
    x = T.matrix("x").type.dims[0]
    for m in (1, 2, 3, 16, 64, 100, 784, x):
        for n in (2, 10, 64, 256, 1000, x):
            rows, vectors = tile_shape(m, n, dtype, machine)
            assert rows >= 1 and vectors >= 1
            # The totals, a row of B, and one element of A.
            assert rows * vectors + vectors + 1 <= machine.registers


def program_of(m, k, n):
    """Return the program of one float32 product."""
    x, y, out = (Buffer(name, "float32", dims, role) for name, dims, role in (
        ("x", (m, k), "input"), ("y", (k, n), "input"), ("out", (m, n), "output")))
    step = Contract(*(View(b, 0, (1, *b.dims), (0, b.dims[1], 1)) for b in (out, x, y)))
    return Program("product", (x, y), (), (out,), (), (step,))


@pytest.mark.parametrize("cpu, triple, machine, fused, register", [
    ("znver5", "x86_64-unknown-linux-gnu", "AVX-512", "vfmadd", "zmm"),
    ("znver3", "x86_64-unknown-linux-gnu", "AVX2", "vfmadd", "ymm"),
    ("apple-m1", "aarch64-unknown-linux-gnu", "NEON", "fmla", "v")])
def test_micro_kernels_keep_their_tile_in_registers(cpu, triple, machine, fused, register):
    rows, vectors = tile_shape(96, 128, "float32", MACHINES[machine])
    artifact = compile_program(program_of(96, 64, 128), LlvmOptions(
        cpu=cpu, triple=triple, keep_text=True))
    text = artifact.notes["assembly"]
    start = text.index("packed:\n")
    body = text[start:text.index("_end", start)]
    loop = max(_inner_loops(body), key=lambda lines: sum(fused in line for line in lines))
    steps = [line for line in loop if fused in line and register in line]
    assert len(steps) % (rows * vectors) == 0 and steps
    # Nothing is spilled inside the loop.
    assert not any("rsp" in line or "[sp" in line for line in loop)


def _inner_loops(assembly):
    """Return the blocks of code that end in a jump back to their own label."""
    label, block, found = None, [], []
    for line in assembly.splitlines():
        if line.startswith(".L") or line.endswith(":"):
            label, block = line.split(":")[0], []
        else:
            block.append(line)
            if label and line.split()[-1:] == [label]:
                found.append(block)
    return found
