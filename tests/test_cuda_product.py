"""Products of matrices on an emulated GPU: values at edges, tiles, epilogues, planted faults."""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace

import numpy as np
import pytest
from cuda_fake import fake_gpu
from cuda_host import COMPILER, HostDriver, library
from test_cuda_emulate import changed, emulate
from test_cuda_schedule import X, Y, nests_of, random, value_of

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.dims import Symbol, as_dim
from tetractys.compiler.loop.ir import (
    Await, Barrier, Buffer, Commit, Fetch, For, Load, LoadMatrices, Multiply, Nest, Stmt, Store)
from tetractys.compiler.loop.matrix import KINDS, elements
from tetractys.compiler.loop.scalar import const
from tetractys.compiler.loop.text import nest_signature
from tetractys.compiler.loop.verify import verify_nest
from tetractys.compiler.loop.walk import buffers_written, statements
from tetractys.compiler.pipeline import Options, compile_signature
from tetractys.compiler.program import Contract, View
from tetractys.compiler.target import cuda_contract
from tetractys.compiler.target.cuda import build, scheduled
from tetractys.compiler.target.cuda_emulate import run_scheduled
from tetractys.compiler.target.cuda_kernel import Module, emit_kernel
from tetractys.runtime import cuda_nvrtc
from tetractys.runtime.dtypes import numpy_dtype
from tetractys.runtime.errors import DtypeError, InternalError

DX, DY = T.dmatrix("dx"), T.dmatrix("dy")
SIZES = [(*sizes, "") for sizes in [
    (1, 1, 1), (64, 16, 64), (1, 50, 40), (40, 50, 1), (3, 0, 4), (5, 3, 7), (40, 20, 10)]] + [
    (*sizes, turned) for sizes in [(65, 17, 63), (36, 24, 132)] for turned in ("", "left", "right")]


@pytest.fixture
def tf32():
    """Let products of float32 round their operands."""
    tx.config.float32_matmul_precision = "high"
    yield
    tx.config.float32_matmul_precision = "highest"


def check(m: int, k: int, n: int, turned: str, inputs=(X, Y), atol: float = 1e-4) -> None:
    """Compare a product, of operands that may be transposed in memory, with NumPy."""
    dtype = inputs[0].dtype
    a, b = random(m, k).astype(dtype), random(k, n).astype(dtype)
    x, y = inputs
    left, right = x.T if turned == "left" else x, y.T if turned == "right" else y
    arrays = (a.T.copy() if turned == "left" else a, b.T.copy() if turned == "right" else b)
    got = value_of(T.dot(left, right), *arrays, inputs=inputs, tolerance=atol)
    np.testing.assert_allclose(got, a @ b, rtol=atol, atol=atol)


@pytest.mark.parametrize("m, k, n, turned", SIZES)
def test_exact_products_of_any_size(m, k, n, turned):
    check(m, k, n, turned)


@pytest.mark.parametrize("m, k, n, turned", SIZES[5:])
def test_rounded_products_of_any_size(m, k, n, turned, tf32):
    check(m, k, n, turned, atol=2e-2)


@pytest.mark.parametrize("m, k, n, turned", SIZES[5:])
def test_products_of_float64_of_any_size(m, k, n, turned):
    check(m, k, n, turned, (DX, DY), 1e-13)


@pytest.mark.parametrize("precision, kind, number", [
    ("highest", "float32", 0), ("high", "tf32", 0), ("high", "tf32", 1)])
@pytest.mark.parametrize("turned", ["", "left", "right"])
def test_large_tiles_are_right_at_their_edges(monkeypatch, precision, kind, number, turned):
    monkeypatch.setattr(cuda_contract, "ENOUGH_BLOCKS", 1)
    monkeypatch.setitem(cuda_contract.LARGE, kind, cuda_contract.LARGE[kind][number:])
    monkeypatch.setattr(tx.config, "float32_matmul_precision", precision)
    check(140, 20, 136, turned, atol=1e-4 if kind == "float32" else 2e-2)


def test_batches_of_products():
    x, y = T.ftensor3("x"), T.ftensor3("y")
    a, b = random(3, 33, 18), random(3, 18, 35)
    got = value_of(T.batched_dot(x, y), a, b, inputs=(x, y))
    np.testing.assert_allclose(got, a @ b, rtol=1e-4, atol=1e-4)


def test_slices_of_operands_are_fetched_where_they_are():
    a, b = random(40, 50), random(50, 40)
    got = value_of(T.dot(X[3:, 5:45], Y[5:45, 2:]), a, b, inputs=(X, Y))
    np.testing.assert_allclose(got, a[3:, 5:45] @ b[5:45, 2:], rtol=1e-4, atol=1e-4)


def test_not_a_number_survives_rounding(tf32):
    a, b = np.ones((8, 8), np.float32), np.ones((8, 8), np.float32)
    a.view(np.uint32)[1, 2] = 0x7fffffff
    a[2, 3] = np.inf
    got = value_of(T.dot(X, Y), a, b, inputs=(X, Y))
    assert np.isnan(got[1]).all() and np.isinf(got[2]).all() and (got[3:] == 8).all()


def test_tf32_has_ten_bits_of_mantissa():
    values = np.array([1 + 2**-11, 1 + 2**-11 - 2**-20, -1 - 2**-11, 3.0e38, -0.0], np.float32)
    expected = [1 + 2**-10, 1.0, -1 - 2**-10, 3.0e38, 0.0]
    np.testing.assert_allclose(elements("tf32", values), expected, rtol=5e-4)
    np.testing.assert_array_equal(elements("tf32", values)[:3], expected[:3])


def test_a_deep_product_is_shared_out_between_blocks(monkeypatch):
    first, second = nests_of(T.dot(X, Y), (64, 60_000), (60_000, 64), inputs=(X, Y))
    assert first.body[0].extent >= 64 and second.name == "combine_product"
    monkeypatch.setattr(cuda_contract, "LEAST_DEPTH", 10)
    a, b = random(20, 75), random(75, 30)
    with fake_gpu() as gpu:
        got = tx.function([X, Y], T.dot(X, Y) + 1, device="cuda")(a, b)
        assert gpu.launched == ["matrix_product_kernel", "combine_product_kernel"]
    np.testing.assert_allclose(got, a @ b + 1, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape, tile", [
    ((4096, 4096), (128, 128)), ((1000, 500), (64, 64)), ((5000, 20), (128, 32)),
    ((10, 3000), (32, 128))])
def test_tiles_follow_the_shape(shape, tile):
    m, n = shape
    nest = nests_of(T.dot(X, Y), (m, 64), (64, n), inputs=(X, Y))[0]
    dims = [buffer.dims for buffer in buffers_written(nest) if buffer.role == "scratch"]
    assert tuple(line[2] - 4 for line in dims) == tile


# -- halves ----------------------------------------------------------------------------------------

def contraction(m: int, k: int, n: int, dtypes: tuple[str, str], turned: str) -> Contract:
    """Return a product of operands of these dtypes."""
    a = Buffer("a", dtypes[0], (k, m) if turned == "left" else (m, k), "input")
    b = Buffer("b", dtypes[1], (n, k) if turned == "right" else (k, n), "input")
    out = Buffer("out", "float64" if "float64" in dtypes else "float32", (m, n), "output")
    return Contract(View(out, 0, (1, m, n), (0, n, 1)),
                    View(a, 0, (1, m, k), (0, 1, m) if turned == "left" else (0, k, 1)),
                    View(b, 0, (1, k, n), (0, 1, k) if turned == "right" else (0, n, 1)))


def arrays_of(step: Contract, turned: str) -> tuple[dict[Buffer, np.ndarray], np.ndarray]:
    """Return arrays for a product's buffers, and the product."""
    arrays = {}
    for buffer in (step.left.buffer, step.right.buffer):
        try:
            dtype = numpy_dtype(buffer.dtype)
        except DtypeError:
            pytest.skip("ml_dtypes is not installed: no arrays of bfloat16")
        arrays[buffer] = random(*buffer.dims).astype(dtype)
    arrays[step.out.buffer] = np.zeros(step.out.buffer.dims, np.float32)
    a, b = (arrays[view.buffer].astype(np.float64) for view in (step.left, step.right))
    return arrays, (a.T if turned == "left" else a) @ (b.T if turned == "right" else b)


HALVES = [("float16", "float16"), ("bfloat16", "bfloat16"), ("float16", "float32"),
          ("float32", "bfloat16"), ("float16", "bfloat16")]


@pytest.mark.parametrize("dtypes", HALVES, ids="-".join)
@pytest.mark.parametrize("m, k, n", [(33, 17, 70), (40, 36, 10), (8, 40, 136)])
@pytest.mark.parametrize("turned", ["", "left", "right"])
def test_products_of_halves(dtypes, m, k, n, turned):
    step = contraction(m, k, n, dtypes, turned)
    arrays, expected = arrays_of(step, turned)
    (nest,) = cuda_contract.contract(step)
    assert any(isinstance(stmt, Multiply) for stmt in statements(nest.body)) \
        == (dtypes[0] == dtypes[1])
    verify_nest(nest)
    run_scheduled(nest, arrays, {}, [])
    np.testing.assert_allclose(arrays[step.out.buffer], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("turned", ["", "left", "right"])
def test_large_tiles_of_halves_ask_for_scratch_memory(monkeypatch, turned, number):
    monkeypatch.setattr(cuda_contract, "ENOUGH_BLOCKS", 1)
    monkeypatch.setitem(cuda_contract.LARGE, "float16", cuda_contract.LARGE["float16"][number:])
    step = contraction(130, 40, 136, ("float16", "float16"), turned)
    arrays, expected = arrays_of(step, turned)
    (nest,) = cuda_contract.contract(step)
    code = emit_kernel(Module(), nest, nest_signature(nest), (0, 1), False)
    assert 48 << 10 < code.scratch < 99 << 10
    run_scheduled(nest, arrays, {}, [])
    np.testing.assert_allclose(arrays[step.out.buffer], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to run the emitted text with")
@pytest.mark.parametrize("dtypes", HALVES, ids="-".join)
def test_the_text_of_products_of_halves(tmp_path, dtypes):
    module, cases = Module(), []
    for turned in ("", "left", "right"):
        step = contraction(40, 24, 72, dtypes, turned)
        arrays, expected = arrays_of(step, turned)
        (nest,) = cuda_contract.contract(step)
        signature = nest_signature(nest)
        code = emit_kernel(module, nest, signature, (0, 1), False)
        words = [arrays[signature.buffers[k].root()].ctypes.data for k in code.roots]
        cases.append((code, nest.body[0].extent, words, arrays, expected))
    compiled = library(module.text(), tmp_path / "halves.cpp")
    for code, blocks, words, arrays, expected in cases:
        address = ctypes.cast(getattr(compiled, code.name), ctypes.c_void_p)
        compiled.launch(address, ctypes.c_int64(blocks), *code.threads,
                        (ctypes.c_int64 * 3)(*words), 3)
        (out,) = [array for buffer, array in arrays.items() if buffer.role == "output"]
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90"])
def test_nvrtc_accepts_every_kind_of_product(architecture, nvrtc):
    module = Module()
    for dtype, precision in (("float32", "highest"), ("float32", "high"), ("float16", "highest"),
                             ("bfloat16", "highest"), ("float64", "highest")):
        for size in (100,) if architecture == "sm_75" else (100, 4096):
            step = contraction(size, size, size, (dtype, dtype), "")
            for nest in cuda_contract.contract(step, precision):
                emit_kernel(module, nest, nest_signature(nest), (0, 1), False)
    code, log = cuda_nvrtc.build(module.text(), architecture, "--ptxas-options=-v")
    assert code[:4] == b"\x7fELF" and len(module.kernels) >= 5
    spills = [int(count) for count in re.findall(r"(\d+) bytes spill", log)]
    assert len(spills) >= 10
    assert architecture == "sm_75" or sum(spills) == 0


# -- epilogues -------------------------------------------------------------------------------------

B = T.fvector("b")


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_an_elementwise_epilogue_runs_on_the_registers(monkeypatch, precision):
    monkeypatch.setattr(tx.config, "float32_matmul_precision", precision)
    a, b, bias = random(36, 20), random(20, 24), random(24)
    with fake_gpu() as gpu:
        f = tx.function([X, Y, B], T.tanh(T.dot(X, Y) + B), device="cuda")
        got = f(a, b, bias)
        f.compile({})
        again = f.variants[-1].executable.call(a, b, bias)
        assert gpu.launched == ["matrix_product_kernel"] * 2
    np.testing.assert_allclose(got, np.tanh(a @ b + bias), rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(again, got, rtol=1e-4, atol=1e-5)


def test_a_product_only_its_epilogue_reads_is_not_stored():
    nest, = nests_with_memory(T.maximum(T.dot(X, Y) + B, 0), (64, 32), (32, 64), (64,))
    stores = [stmt for stmt in statements(nest.body) if isinstance(stmt, Store)
              and stmt.buffer.root().role not in ("scratch", "register")]
    assert [store.buffer.root().role for store in stores] == ["output"]


def nests_with_memory(output, *shapes: tuple[int, ...]) -> list[Nest]:
    """Return the nests of a whole program, which knows who reads a product."""
    f = tx.function([X, Y, B], output)
    sizes = f._sizes([np.zeros(shape) for shape in shapes])
    _, stages = compile_signature(f.signature, sizes, Options(device="cuda"))
    return [kernel.nest for kernel in build(stages.program).kernels.values()]


def test_a_product_that_is_read_again_is_stored():
    a, b = random(20, 18), random(18, 24)
    with fake_gpu() as gpu:
        product = T.dot(X, Y)
        got = tx.function([X, Y], [product, T.exp(product)], device="cuda")(a, b)
        assert gpu.launched == ["matrix_product_kernel"]
    np.testing.assert_allclose(got[0], a @ b, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[1], np.exp(a @ b), rtol=1e-4, atol=1e-4)


def test_the_update_of_a_large_parameter_does_too():
    w = tx.shared(np.ones((4096, 4096), np.float32), name="w")
    step = {w: w - np.float32(.1) * T.dot(X.T, Y)}
    f = tx.function([X, Y], [], updates=step)
    sizes = f._sizes([np.empty((4096, 4096), np.int8)] * 2)
    _, stages = compile_signature(f.signature, sizes, Options(device="cuda"))
    (product,) = stages.program.steps
    assert product.epilogue is not None and len(scheduled(product)) == 1


def test_an_update_runs_on_the_registers():
    a, b, start = random(18, 20), random(18, 24), random(20, 24)
    w = tx.shared(start.copy(), name="w")
    with fake_gpu() as gpu:
        f = tx.function([X, Y], [], updates={w: w - np.float32(.1) * T.dot(X.T, Y)}, device="cuda")
        f(a, b)
        assert gpu.launched == ["matrix_product_kernel"]
        np.testing.assert_allclose(w.get_value(), start - np.float32(.1) * (a.T @ b), rtol=1e-4,
                                   atol=1e-5)


def test_an_epilogue_that_needs_a_row_is_a_kernel_of_its_own():
    a, b = random(20, 18), random(18, 24)
    with fake_gpu() as gpu:
        got = tx.function([X, Y], T.nnet.softmax(T.dot(X, Y)), device="cuda")(a, b)
        assert len(gpu.launched) == 2
    shifted = np.exp(a @ b - (a @ b).max(axis=1, keepdims=True))
    np.testing.assert_allclose(got, shifted / shifted.sum(axis=1, keepdims=True), rtol=1e-3,
                               atol=1e-5)


# -- the text --------------------------------------------------------------------------------------

@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to run the emitted text with")
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_the_text_of_products_computes_what_numpy_does(tmp_path, monkeypatch, precision):
    monkeypatch.setattr(tx.config, "float32_matmul_precision", precision)
    a, b, bias = random(70, 70), random(70, 72), random(72)
    outputs = [T.dot(X.T, Y), T.tanh(T.dot(X, Y) + B), T.dot(Y.T, X[:, 1:])]
    expected = [a.T @ b, np.tanh(a @ b + bias), b.T @ a[:, 1:]]
    wide = [T.dot(T.cast(X, "float64"), T.cast(Y, "float64"))]
    with fake_gpu(HostDriver(tmp_path)):
        got = tx.function([X, Y, B], outputs + wide, device="cuda")(a, b, bias)
    for actual, wanted in zip(got, expected):
        tolerance = 1e-4 if precision == "highest" else 3e-2
        np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(got[-1], a.astype(float) @ b, rtol=1e-12, atol=1e-12)


# -- planted faults --------------------------------------------------------------------------------

def nest_of(precision: str, m: int = 70, k: int = 40, n: int = 68) -> Nest:
    """Return the nest of a product at the edges of its tiles."""
    tx.config.float32_matmul_precision = precision
    try:
        f = tx.function([X, Y], T.dot(X, Y))
        sizes = f._sizes([np.zeros((m, k)), np.zeros((k, n))])
        _, stages = compile_signature(f.signature, sizes, f.options)
        (nest,) = [nest for step in stages.program.steps for nest in scheduled(step, precision)]
        return nest
    finally:
        tx.config.float32_matmul_precision = "highest"


NESTS = {precision: nest_of(precision) for precision in ("highest", "high")}


def broken(nest: Nest, change) -> Nest:
    """Return the nest with statements replaced."""
    return replace(nest, body=changed(nest.body, change))


@pytest.mark.parametrize("precision", NESTS)
def test_the_products_themselves_are_sound(precision):
    verify_nest(NESTS[precision])
    emulate(NESTS[precision])


@pytest.mark.parametrize("precision", NESTS)
@pytest.mark.parametrize("kind, message", [
    (Await, "before its copy was waited for"), (Barrier, "no barrier between"),
    (Commit, "before its copy was waited for|copy to it is under way")])
def test_a_dropped_wait_is_caught(precision, kind, message):
    nest = broken(NESTS[precision], lambda stmt: () if isinstance(stmt, kind) else (stmt,))
    with pytest.raises(InternalError, match=message):
        emulate(nest)


@pytest.mark.parametrize("precision", NESTS)
def test_a_wait_for_too_little_is_caught(precision):
    def weaken(stmt: Stmt) -> tuple[Stmt, ...]:
        return (Await(stmt.pending + 1),) if isinstance(stmt, Await) else (stmt,)

    with pytest.raises(InternalError, match="before its copy was waited for"):
        emulate(broken(NESTS[precision], weaken))


@pytest.mark.parametrize("precision", NESTS)
def test_a_wait_behind_the_barrier_is_caught(precision):
    def swap(stmt: Stmt) -> tuple[Stmt, ...]:
        if isinstance(stmt, Await):
            return (Barrier("block"),)
        return (Await(0),) if isinstance(stmt, Barrier) else (stmt,)

    with pytest.raises(InternalError, match="no barrier between|before its copy"):
        emulate(broken(NESTS[precision], swap))


@pytest.mark.parametrize("precision", NESTS)
@pytest.mark.parametrize("part, message", [
    ("target", "not a multiple of 4|is used at index"), ("source", "not a multiple of 4|index")])
def test_a_fetch_off_by_one_is_caught(precision, part, message):
    def shift(stmt: Stmt) -> tuple[Stmt, ...]:
        if isinstance(stmt, Fetch):
            load = getattr(stmt, part)
            moved = Load(load.buffer, (*load.position[:-1], load.position[-1] + 1))
            stmt = replace(stmt, **{part: moved})
        return (stmt,)

    with pytest.raises(InternalError, match=message):
        emulate(broken(NESTS[precision], shift))


@pytest.mark.parametrize("precision", NESTS)
def test_a_fetch_beyond_the_edge_is_caught(precision):
    def open_(stmt: Stmt) -> tuple[Stmt, ...]:
        return (replace(stmt, inside=const(True, "bool")),) if isinstance(stmt, Fetch) else (stmt,)

    with pytest.raises(InternalError, match="is used at index"):
        emulate(broken(NESTS[precision], open_))


@pytest.mark.parametrize("precision", NESTS)
def test_a_wrong_part_of_a_matrix_gives_another_value(precision):
    def wrong(stmt: Stmt) -> tuple[Stmt, ...]:
        if isinstance(stmt, Store) and stmt.buffer.name == "right_part":
            *rest, column = stmt.value.position
            other = (*rest, column - column % 2 + 1 - column % 2) if precision == "high" else \
                (*rest, column - as_dim_of(column))
            stmt = replace(stmt, value=Load(stmt.value.buffer, other))
        return (stmt,)

    right, faulty = emulate(NESTS[precision]), emulate(broken(NESTS[precision], wrong))
    assert not np.allclose(right["output0"], faulty["output0"])


def as_dim_of(dim):
    """Return the last symbol of a dim: the loop over neighbours."""
    return as_dim(max(dim.terms, key=lambda term: str(term[0]))[0][0][0])


ONE = Buffer("one", "float16", (32, 16), "scratch")
PAIRS = Buffer("pairs", "uint32", (4,), "register")
TOTAL = Buffer("total", "float32", (4,), "register")
OUT = Buffer("out", "float32", (32, 8), "output")
LANE = Symbol("lane", extent=32)
LINE = as_dim(LANE)


def test_an_unaligned_row_of_a_matrix_is_caught():
    fill = Symbol("fill", extent=16)
    body = (For(fill, 16, (Store(ONE, (LINE, as_dim(fill)), const(1, "float16")),)),
            Barrier("block"), LoadMatrices(Load(PAIRS, (0,)), Load(ONE, (LINE, 4)), False))
    nest = Nest("bad", (For(Symbol("block"), 1, (For(LANE, 32, body, "thread"),), "block"),))
    with pytest.raises(InternalError, match="not a multiple of 8"):
        run_scheduled(nest, {}, {}, [])


@pytest.mark.parametrize("stmt, message", [
    (Multiply("int8", Load(TOTAL, (0,)), Load(PAIRS, (0,)), Load(PAIRS, (0,))), "unknown kind"),
    (Multiply("tf32", Load(TOTAL, (0,)), Load(PAIRS, (0,)), Load(PAIRS, (0,))), "is not register"),
    (Fetch(Load(OUT, (LINE, 0)), Load(OUT, (0, 0)), 4, const(True, "bool")), "is not scratch"),
    (Fetch(Load(ONE, (LINE, 0)), Load(ONE, (0, 0)), 1, const(True, "bool")), "2 bytes"),
    (LoadMatrices(Load(PAIRS, (0,)), Load(OUT, (0, 0)), False), "16 bits"),
    (Await(-1), "cannot be under way")])
def test_an_ill_formed_exchange_is_refused(stmt, message):
    nest = Nest("bad", (For(Symbol("block"), 1, (For(LANE, 32, (stmt,), "thread"),), "block"),))
    with pytest.raises(InternalError, match=message):
        verify_nest(nest)


@pytest.mark.parametrize("kind", KINDS)
def test_every_element_of_a_matrix_has_one_holder(kind):
    shape = KINDS[kind]
    for places, rows, columns in ((shape.left_places(), shape.m, shape.k),
                                  (shape.right_places(), shape.k, shape.n),
                                  (shape.total_places(), shape.m, shape.n)):
        held = set(zip(places[0].reshape(-1).tolist(), places[1].reshape(-1).tolist()))
        assert held == {(i, j) for i in range(rows) for j in range(columns)}
        assert places[0].size == rows * columns


def test_matrix_instructions_are_asked_for(tf32):
    assert any(isinstance(stmt, Multiply) for stmt in statements(NESTS["high"].body))
    assert not any(isinstance(stmt, Multiply) for stmt in statements(NESTS["highest"].body))
