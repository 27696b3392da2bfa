"""Matrix products by the micro-kernels: values, edges of tiles, memory bounds, threads, targets."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.dims import as_symbol, dim_symbol, evaluate
from tetractys.compiler.loop.ir import Buffer
from tetractys.compiler.pipeline import Options
from tetractys.compiler.program import (
    Contract, Copy, Group, Program, View, row_major_strides, whole)
from tetractys.compiler.target.llvm import LlvmOptions, compile_program
from tetractys.compiler.target.llvm_blas import blas_block
from tetractys.compiler.target.llvm_blocking import (
    blas_choice, blocking, own_blocking, stack_of)
from tetractys.compiler.target.llvm_machine import Machine
from tetractys.compiler.target.llvm_tiles import last_panels, tile_shape
from tetractys.compiler.target.llvm_transpose import transposed

from test_llvm_target import both

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
    f, a, b, exact = product(450, 470, 455, mode=Options(has_blas=has_blas))
    assert_close(f(a, b), exact, "float32", 470)
    contract, = [step for step in f.variants[0].stages.program.steps]
    machine = Machine(32, frozenset({4, 8}), 16, has_blas)
    assert blocking(contract, machine).uses_blas == has_blas


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("turns", [(False, False), (True, False), (False, True), (True, True)])
def test_unknown_sizes_choose_blas_where_known_ones_do(turns, dtype):
    m, k, n = 300, 450, 320
    results = []
    for symbolic in (False, True):
        f, a, b, exact = product(m, k, n, turns, dtype, symbolic, mode=Options(cpus=2))
        results.append(f(a, b))
        assert_close(results[-1], exact, dtype, k)
    np.testing.assert_array_equal(*results)
    # The same code, at sizes at which its own loops are faster.
    for m, k, n in [(300, 280, 320), (60, 450, 320), (300, 450, 10), (1, 1, 1), (0, 450, 320),
                    (300, 0, 320)]:
        _, a, b, exact = product(m, k, n, turns, dtype, True, mode=Options(cpus=2))
        assert_close(f(a, b), exact, dtype, k)


@pytest.mark.parametrize("cpus", [1, 2, 3, 8])
@pytest.mark.parametrize("m, k, n", [
    (1024, 1024, 1024), (900, 448, 2000), (448, 448, 6000), (5000, 448, 448), (100, 784, 256),
    (800, 784, 256), (512, 256, 512), (512, 0, 512), (0, 512, 512)])
def test_margins_of_unknown_sizes_are_those_of_known_ones(m, k, n, cpus):
    machine = Machine(32, frozenset({4, 8}), 16, has_blas=True, cpus=cpus)
    names = [dim_symbol(name) for name in "mkn"]
    values = dict(zip(map(as_symbol, names), (m, k, n)))
    unknown, known = program_of(*names).steps[0], program_of(m, k, n).steps[0]
    chosen = [all(evaluate(margin, values) >= 0 for margin in blas_choice(step, machine))
              for step in (unknown, known)]
    # More CPUs are given blocks nearer to squares, which may be too small.
    assert chosen[0] == chosen[1] or cpus > 2 and chosen[1]
    if chosen[0]:
        block = [evaluate(size, values) for size in blas_block(unknown, machine)]
        calls = -(-m // block[0]) * -(-n // block[1])
        assert max(block) <= 2048 and calls >= min(cpus, 2)


@pytest.mark.parametrize("m, k, n, columns", [
    (64, 300, 300, 2), (32, 512, 512, 2), (32, 32, 32, 1), (1000, 100, 100, 1)])
def test_unknown_sizes_leave_work_to_each_cpu(m, k, n, columns):
    machine = Machine(32, frozenset({4, 8}), 16, cpus=2)
    names = [dim_symbol(name) for name in "mkn"]
    cut = own_blocking(program_of(*names).steps[0], machine)
    values = dict(zip(map(as_symbol, names), (m, k, n)))
    assert -(-n // evaluate(cut.task_columns, values)) == columns


def test_nan_and_infinities_reach_their_rows_and_columns_only():
    f, a, b, _ = product(9, 20, 19)
    a[4, 7], b[3, 18] = np.nan, np.inf
    result = f(a, b)
    spoilt = np.zeros((9, 19), bool)
    spoilt[4], spoilt[:, 18] = True, True
    np.testing.assert_array_equal(np.isfinite(result), ~spoilt)


@pytest.mark.parametrize("cpus", [1, 2, 3, 8])
@pytest.mark.parametrize("m, k, n", [(1024, 1024, 1024), (900, 448, 2000), (448, 448, 6000),
                                     (5000, 448, 448)])
def test_calls_of_blas_keep_all_cpus_busy_and_end(m, k, n, cpus):
    cut = blocking(program_of(m, k, n).steps[0],
                   Machine(32, frozenset({4, 8}), 16, has_blas=True, cpus=cpus))
    assert cut.uses_blas and max(cut.task_tiles, cut.task_columns) <= 2048
    calls = -(-m // cut.task_tiles) * -(-n // cut.task_columns)
    if max(m, n) <= 2048:
        assert calls == cpus
    else:
        # The longest share of the work, against an even one.
        share = -(-calls // cpus) * cut.task_tiles * cut.task_columns
        assert share <= 1.1 * m * n / cpus


@pytest.mark.parametrize("m, k, n, cpus, uses_blas", [
    (512, 512, 512, 2, True), (512, 512, 512, 64, False), (512, 256, 512, 1, False),
    (100, 784, 256, 1, False), (800, 784, 256, 1, True), (64, 4096, 64, 1, False),
    (512, 0, 512, 1, False), (0, 512, 512, 1, False)])
def test_blas_computes_what_leaves_each_cpu_much(m, k, n, cpus, uses_blas):
    step, = program_of(m, k, n).steps
    machine = Machine(32, frozenset({4, 8}), 16, has_blas=True, cpus=cpus)
    assert blocking(step, machine).uses_blas == uses_blas


@pytest.mark.parametrize("cpus", [1, 2, 3])
def test_calls_of_blas_before_an_epilogue_have_whole_rows(cpus):
    x, y = T.fmatrix("x"), T.fmatrix("y")
    f = tx.function([x, y], T.tanh(T.dot(x, y)), mode=Options(cpus=cpus))
    a, b = (np.random.default_rng(rows).standard_normal((rows, 448)).astype("float32")
            for rows in (600, 448))
    np.testing.assert_allclose(f(a, b), np.tanh(a.astype("float64") @ b), rtol=0, atol=1e-4)
    step, = f.variants[0].stages.program.steps
    cut = blocking(step, Machine(32, frozenset({4, 8}), 16, has_blas=True, cpus=cpus))
    assert step.epilogue is not None and cut.uses_blas
    assert cut.task_columns == 448 and -(-600 // cut.task_tiles) == cpus


@pytest.mark.parametrize("m, k, n, options", [
    (150, 330, 200, {}), (37, 500, 700, {}), (450, 460, 470, {"cpus": 1}),
    (450, 460, 470, {"cpus": 3})])
@pytest.mark.parametrize("symbolic", [False, True])
def test_threads_do_not_change_a_bit(m, k, n, options, symbolic):
    results = []
    for threads in (1, 2, 3):
        f, a, b, _ = product(m, k, n, symbolic=symbolic, threads=threads, mode=Options(**options))
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
@pytest.mark.parametrize("m, k, n", [(7, 5, 9), (19, 33, 21), (40, 13, 3), (2, 300, 17), (9, 4, 31),
                                     (5, 6, 24), (6, 7, 49), (3, 9, 8)])
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


@pytest.mark.parametrize("m, k, n, cpus", [
    (64, 4096, 64, 2), (64, 4096, 64, 4), (100, 784, 256, 2), (16, 8000, 256, 4)])
def test_long_sums_are_shared_evenly(m, k, n, cpus):
    cut = blocking(program_of(m, k, n).steps[0], Machine(32, frozenset({4, 8}), 16, cpus=cpus))
    tiles = -(-m // cut.rows)
    tasks = [min(cut.task_tiles, tiles - top) * min(cut.task_columns, n - left)
             for left in range(0, n, cut.task_columns) for top in range(0, tiles, cut.task_tiles)]
    # Each thread takes the next task when it has done one.
    threads = [0] * cpus
    for task in tasks:
        threads[threads.index(min(threads))] += task
    assert max(threads) <= 1.3 * sum(threads) / cpus


@pytest.mark.parametrize("vectors", range(1, 7))
@pytest.mark.parametrize("width", range(1, 30))
def test_panels_cover_all_vectors_with_as_equal_widths_as_can_be(width, vectors):
    narrow, last = last_panels(width, vectors)
    full, rest = divmod(width - narrow * last, vectors)
    assert rest == 0 and full >= 0
    if width >= vectors * (vectors - 1):
        assert last == 0 or narrow == vectors - 1
    # No more panels than there would be anyway.
    assert full + last == -(-width // vectors)


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

MANY_AXES = [
    # batch, m, inner, n
    ((), 7, (3, 5), 9), ((2,), 13, (3, 3, 4), 17), ((2, 3), 7, (2, 20), 33),
    ((), 101, (40, 30), 50), ((3, 2, 2), 5, (7,), 3), ((2, 2), 50, (3, 150), 20),
    ((), 6, (2, 0, 3), 4), ((2,), 3, (0, 2), 4), ((0,), 3, (2, 2), 4), ((), 40, (90, 2, 3), 24)]


def many_axes_program(batch, m, inner, n, dtype, order, shared, symbolic, add):
    """Return the program of a product over many axes, and its operands.

    ``order`` shuffles the axes in the operands' memory, ``shared`` makes an operand the same for
    all of a batch axis.
    """
    rng = np.random.default_rng(order)
    given = {"left": (*batch, m, *inner), "right": (*batch, *inner, n)}
    names = {}

    def size(value):
        if not symbolic or value in names:
            return names.get(value, value)
        names[value] = dim_symbol(f"size{value}")
        return names[value]

    buffers, arrays, views = [], [], []
    for at, (name, dims) in enumerate(given.items()):
        axes = [axis for axis in rng.permutation(len(dims)) if not (axis < len(batch) and (
            shared[axis % len(shared)] == name))]
        shape = [dims[axis] for axis in axes]
        sizes = tuple(size(value) for value in shape)
        strides = [0] * len(dims)
        for place, axis in enumerate(axes):
            strides[axis] = row_major_strides(sizes)[place]
        buffers.append(Buffer(name, dtype, sizes, "input"))
        views.append(View(buffers[-1], 0, tuple(map(size, dims)), tuple(strides)))
        arrays.append(rng.standard_normal(shape).astype(dtype))
    start = Buffer("start", dtype, tuple(map(size, (*batch, m, n))), "input")
    out = Buffer("out", dtype, start.dims, "output")
    arrays.append(rng.standard_normal((*batch, m, n)).astype(dtype))
    step = Contract(whole(out), *views, add)
    symbols = tuple(as_symbol(dim) for dim in names.values())
    return Program("many", (*buffers, start), (), (out,), symbols, (Copy(start, out), step)), arrays


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("batch, m, inner, n", MANY_AXES)
def test_sums_over_several_axes_in_any_memory_order(batch, m, inner, n, order):
    dtype = "float64" if order % 2 else "float32"
    for symbolic in (False, True):
        program, arrays = many_axes_program(
            batch, m, inner, n, dtype, order, [("left", "right", "")[order % 3], ""], symbolic,
            add=order == 3)
        both(program, *arrays, tolerance=2e-4 if dtype == "float32" else 1e-11)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects pages by mprotect")
@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize("batch, m, inner, n", [((2,), 7, (3, 5), 9), ((), 13, (2, 3, 4), 21)])
def test_no_operand_of_several_axes_is_read_beyond_its_end(batch, m, inner, n, order):
    program, arrays = many_axes_program(
        batch, m, inner, n, "float32", order, [["left", "right", ""][order]], False, False)
    both(program, *map(at_page_end, arrays), tolerance=1e-4)


@pytest.mark.parametrize("above, m, k, n", [((5,), 7, 40, 20), ((3, 5), 4, 300, 70)])
def test_tiles_hold_rows_of_several_matrices_that_share_an_operand(above, m, k, n):
    program, arrays = many_axes_program(above, m, (k,), n, "float32", 1, ["right"], False, False)
    step = program.steps[-1]
    assert stack_of(step, uses_blas=False).rows == np.prod(above) * m
    assert blocking(step, MACHINES["AVX2"]).rows > 1
    both(program, *arrays, tolerance=1e-4)


def windows_program(images, height, width, channels, kernel, filters, step=1, backwards=False):
    """Return the program of a convolution, by strides on its unpadded images, and its operands."""
    rows, columns = (height - kernel) // step + 1, (width - kernel) // step + 1
    image, weights, out = (Buffer(name, "float32", dims, role) for name, dims, role in (
        ("image", (images, height, width, channels), "input"),
        ("weights", (kernel, kernel, channels, filters), "input"),
        ("out", (images, rows, columns, filters), "output")))
    along, down, each = channels, width * channels, height * width * channels
    order = -1 if backwards else 1
    inner = kernel, kernel, channels
    step_ = Contract(
        View(out, 0, (images, rows, columns, filters), row_major_strides(out.dims)),
        View(image, (kernel - 1) * (down + along) if backwards else 0,
             (images, rows, columns, *inner),
             (each, step * down, step * along, order * down, order * along, 1)),
        View(weights, 0, (images, rows, *inner, filters),
             (0, 0, *row_major_strides(weights.dims))))
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(image.dims), rng.standard_normal(weights.dims)
    patches = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (1, 2))
    patches = patches[:, ::step, ::step, :, ::order, ::order]
    exact = np.einsum("brcnij,ijnf->brcf", patches, w)
    return Program("windows", (image, weights), (), (out,), (), (step_,)), x, w, exact


@pytest.mark.parametrize("options", [
    {}, {"step": 2}, {"backwards": True}, {"channels": 150, "filters": 20}])
def test_windows_that_overlap_are_read_in_place(options):
    sizes = {"channels": 5, "filters": 10, **options}
    program, x, w, exact = windows_program(2, 9, 14, kernel=3, **sizes)
    got, = both(program, x.astype("float32"), w.astype("float32"), tolerance=1e-4)
    np.testing.assert_allclose(got, exact, rtol=0, atol=1e-5 * np.abs(exact).max() * 9)


@pytest.mark.parametrize("shapes, axes, copies", [
    (((6, 5, 4), (5, 4, 7)), 2, 0), (((6, 5, 4), (4, 5, 7)), ((1, 2), (1, 0)), 0),
    (((5, 6, 4, 3), (7, 5, 8, 4)), ((0, 2), (1, 3)), 2),
    (((4, 6, 5), (5, 7, 4)), ((0, 2), (2, 0)), 2)])
def test_sums_over_several_axes_and_their_gradients_copy_nothing(shapes, axes, copies):
    x, y = (T.tensor("float64", (None,) * len(shape), name) for shape, name in zip(shapes, "xy"))
    a, b = (np.random.default_rng(k).standard_normal(shape) for k, shape in enumerate(shapes))
    product = T.tensordot(x, y, axes)
    exact = np.tensordot(a, b, axes)
    g = T.tensor("float64", (None,) * exact.ndim, "g")
    cotangent = np.random.default_rng(3).standard_normal(exact.shape)
    f = tx.function([x, y, g], [product, *tx.grad((product * g).sum(), [x, y])])
    got = f(a, b, cotangent)
    np.testing.assert_allclose(got[0], exact, rtol=1e-12, atol=1e-12)
    # A gradient whose rows and columns are interleaved is permuted at the end, and no operand is.
    steps = [inner for step in f.variants[0].stages.program.steps
             for inner in (step.kernels if isinstance(step, Group) else (step,))]
    assert sum(isinstance(step, Contract) for step in steps) == 3 and len(steps) == 3 + copies
    # Each is linear: along its own operand, a gradient gives the value back.
    for value, part in ((a, got[1]), (b, got[2])):
        np.testing.assert_allclose((value * part).sum(), (exact * cotangent).sum(), rtol=1e-10)


class Shuffles:
    """Stands in for a writer: carries out the shuffles it is asked to write."""

    def __init__(self, rows):
        self.values = {f"%r{k}": list(row) for k, row in enumerate(rows)}
        self.given = list(self.values)

    def emit(self, text):
        first, second, order = re.fullmatch(
            r"shufflevector <\d+ x V> (%\w+), <\d+ x V> (%\w+), <\d+ x i32> <([^>]*)>",
            text).groups()
        both_ = self.values[first] + self.values[second]
        name = f"%s{len(self.values)}"
        self.values[name] = [both_[int(lane.split()[1])] for lane in order.split(", ")]
        return name


@pytest.mark.parametrize("near", [2, 4])
@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
def test_squares_of_vectors_are_transposed_in_registers(lanes, near):
    square = np.arange(lanes * lanes).reshape(lanes, lanes)
    writer = Shuffles(square.tolist())
    found = transposed(writer, "V", writer.given, near)
    np.testing.assert_array_equal([writer.values[name] for name in found], square.T)
    # Each of log2(lanes) rounds is one shuffle a vector.
    assert len(writer.values) - lanes == lanes * (lanes.bit_length() - 1)
