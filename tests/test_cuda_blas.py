"""Products that cuBLAS computes, on an emulated GPU with a library that computes by NumPy."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from cuda_fake import fake_gpu
from cuda_fake_blas import COMPUTE_32F, COMPUTE_64F, FAST_TF32, INVALID_VALUE

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.loop.ir import Buffer
from tetractys.compiler.pipeline import Options, cache_key
from tetractys.compiler.program import Contract, View
from tetractys.compiler.target.cuda_blas import library_product
from tetractys.runtime import cuda_blas
from tetractys.runtime.cuda_blas import Handle
from tetractys.runtime.cuda_layout import Matrix, Product
from tetractys.runtime.cuda_memory import Memory, Stream
from tetractys.runtime.dtypes import numpy_dtype
from tetractys.runtime.errors import CompileError, DeviceError, DtypeError, IndexOutOfRangeError

X, Y = T.fmatrix("x"), T.fmatrix("y")


@pytest.fixture
def gpu(monkeypatch):
    """Let cuBLAS compute large products, on an emulated GPU."""
    monkeypatch.setattr(tx.config, "gpu_blas", "large")
    with fake_gpu() as fake:
        yield fake


def random(*shape: int, dtype: str = "float32") -> np.ndarray:
    """Return an array that is the same each time."""
    values = np.random.default_rng(sum(shape)).standard_normal(shape)
    try:
        return values.astype(numpy_dtype(dtype))
    except DtypeError:
        pytest.skip("ml_dtypes is not installed: no arrays of bfloat16")


def check(gpu, inputs, output, arrays, expected, tolerance=1e-4, others=()):
    """Compare with NumPy, for known and for symbolic sizes, launched, recorded and replayed."""
    f, symbolic = (tx.function(inputs, output, device="cuda") for _ in range(2))
    symbolic.compile({})
    for call in (f, f, f, *[symbolic.variants[-1].executable.call] * 3):
        gpu.launched.clear()
        got = call(*arrays)
        assert gpu.launched == ["cublas", *others]
        assert got.dtype == arrays[0].dtype
        np.testing.assert_allclose(got.astype(float), expected, rtol=tolerance, atol=tolerance)
    assert gpu.recorded >= 1


@pytest.mark.parametrize("m, k, n", [(129, 131, 133), (128, 256, 150), (201, 128, 128)])
@pytest.mark.parametrize("left", ["", "turned"])
@pytest.mark.parametrize("right", ["", "turned"])
def test_products_of_any_size_and_order(gpu, m, k, n, left, right):
    a, b = random(m, k), random(k, n)
    check(gpu, [X, Y], T.dot(X.T if left else X, Y.T if right else Y),
          [a.T.copy() if left else a, b.T.copy() if right else b], a @ b)
    assert {asked[:5] for asked in gpu.library.asked} == {(bool(right), bool(left), n, m, k)}


@pytest.mark.parametrize("dtype, compute, tolerance", [
    ("float32", COMPUTE_32F, 1e-4), ("float64", COMPUTE_64F, 1e-12),
    ("float16", COMPUTE_32F, 2e-2), ("bfloat16", COMPUTE_32F, 1e-1)])
def test_every_dtype(gpu, dtype, compute, tolerance):
    a, b = random(130, 140, dtype=dtype), random(140, 150, dtype=dtype)
    x, y = (T.tensor(dtype, shape=(None, None), name=name) for name in "xy")
    check(gpu, [x, y], T.dot(x, y), [a, b], a.astype(float) @ b.astype(float), tolerance)
    assert {asked[-1] for asked in gpu.library.asked} == {compute}


def test_only_who_asks_for_it_gets_rounded_operands(gpu, monkeypatch):
    a, b = random(128, 128), random(128, 128)
    exact = a.astype(float) @ b
    for precision, compute in (("highest", COMPUTE_32F), ("high", FAST_TF32)):
        monkeypatch.setattr(tx.config, "float32_matmul_precision", precision)
        got = tx.function([X, Y], T.dot(X, Y), device="cuda")(a, b)
        assert gpu.library.asked[-1][-1] == compute
        assert (np.abs(got - exact).max() < 1e-4) == (precision == "highest")
        wide = tx.function([X, Y], T.dot(T.cast(X, "float64"), T.cast(Y, "float64")),
                           device="cuda")(a, b)
        np.testing.assert_allclose(wide, exact, rtol=1e-12, atol=1e-12)


def test_batches(gpu):
    x, y = T.ftensor3("x"), T.ftensor3("y")
    a, b = random(3, 129, 140), random(3, 140, 131)
    check(gpu, [x, y], T.batched_dot(x, y), [a, b], a @ b)
    check(gpu, [x, y], T.batched_dot(x, y.dimshuffle(0, 2, 1)), [a, b.swapaxes(1, 2).copy()], a @ b)
    assert {asked[5] for asked in gpu.library.asked} == {3}


def test_windows_with_longer_lines(gpu):
    a, b = random(150, 200), random(300, 145)
    f = tx.function([X, Y], T.dot(X[3:140, 5:155], Y[100:250, 2:]), device="cuda")
    for _ in range(3):
        got = f(a, b)
        np.testing.assert_allclose(got, a[3:140, 5:155] @ b[100:250, 2:], rtol=1e-4, atol=1e-4)
    assert gpu.launched == ["cublas"] * 3


def test_sizes_that_turn_out_small_or_empty(gpu):
    f = tx.function([X, Y], T.dot(X, Y), device="cuda")
    f.compile({})
    for m, k, n in ((3, 5, 2), (1, 1, 1), (3, 0, 2), (0, 5, 2), (3, 5, 0)):
        a, b = random(m, k), random(k, n)
        gpu.launched.clear()
        np.testing.assert_allclose(f.variants[-1].executable.call(a, b), a @ b, rtol=1e-5,
                                   atol=1e-5)
        assert gpu.launched == (["cublas"] if m * n else [])


@pytest.mark.parametrize("output", [
    T.tanh(T.dot(X, Y)), T.dot(X[:, ::2], Y[::2]), T.dot(X[:127], Y), T.dot(X, Y[:, 0])],
    ids=["epilogue", "every other", "small", "vector"])
def test_our_own_kernels_do_what_is_not_for_it(gpu, output):
    a, b = random(140, 140), random(140, 140)
    got = tx.function([X, Y], output, device="cuda")(a, b)
    assert gpu.launched and "cublas" not in gpu.launched
    np.testing.assert_allclose(got, tx.function([X, Y], output, device="cpu")(a, b), rtol=1e-3,
                               atol=1e-4)


def test_what_needs_a_row_follows_as_a_kernel(gpu):
    a, b = random(140, 130), random(130, 150)
    got = tx.function([X, Y], T.nnet.softmax(T.dot(X, Y)), device="cuda")(a, b)
    assert len(gpu.launched) == 2 and gpu.launched[0] == "cublas"
    shifted = np.exp(a @ b - (a @ b).max(axis=1, keepdims=True))
    np.testing.assert_allclose(got, shifted / shifted.sum(axis=1, keepdims=True), rtol=1e-3,
                               atol=1e-5)


def test_a_failed_check_holds_back_a_product_that_replaces_a_value(gpu):
    w, index = tx.shared(random(130, 130), name="w"), T.lvector("i")
    f = tx.function([X, Y, index], X[index].sum(), updates={w: T.dot(X, Y)}, device="cuda")
    a, b, before = random(130, 130), random(130, 131)[:, 1:].copy(), w.get_value()
    with pytest.raises(IndexOutOfRangeError):
        f(a, b, [1, 500])
    np.testing.assert_array_equal(w.get_value(), before)
    f(a, b, [1, 2])
    np.testing.assert_allclose(w.get_value(), a @ b, rtol=1e-4, atol=1e-4)


def test_it_is_used_only_when_asked_for():
    assert tx.config.gpu_blas == "never"
    with pytest.raises(CompileError, match="gpu_blas"):
        tx.config.gpu_blas = "always"
    with fake_gpu() as gpu:
        a, b = random(128, 128), random(128, 128)
        tx.function([X, Y], T.dot(X, Y), device="cuda")(a, b)
        assert gpu.launched == ["matrix_product_kernel"] and not gpu.library.handles
        tx.function([X, Y], T.dot(X, Y), device="cuda", mode=Options(gpu_blas="large"))(a, b)
        assert gpu.launched[1:] == ["cublas"]
    keys = {cache_key("", [], Options(device="cuda", gpu_blas=choice))
            for choice in ("never", "large")}
    assert len(keys) == 2


def test_a_lane_has_one_handle_and_destroys_it(gpu):
    f, other = (tx.function([X, Y], T.dot(X, Y), device=device) for device in ("cuda", "cuda:1"))
    a, b = random(128, 130), random(130, 128)
    for _ in range(3):
        f(a, b)
        other(a, b)
    assert sorted(handle[0] for handle in gpu.library.handles.values()) == [0, 1]
    del f, other
    gc.collect()
    assert not gpu.library.handles


# -- added to what is there ------------------------------------------------------------------------

def contraction(**options: bool) -> Contract:
    """Return a product of float32."""
    a, b, out = (Buffer(name, "float32", (130, 130)) for name in ("a", "b", "out"))
    return Contract(*(View(buffer, 0, (1, 130, 130), (0, 130, 1)) for buffer in (out, a, b)),
                    **options)


def test_a_product_is_added_where_the_program_says_so(gpu):
    assert library_product(contraction(add=True), True) is not None
    a, b, c = (random(*shape) for shape in ((5, 7), (7, 3), (5, 3)))
    with gpu.at(0):
        stream = Stream(0)
        blocks = [Memory(array.nbytes, stream) for array in (a, b, c)]
        workspace = Memory(256, stream)
        for block, array in zip(blocks, (a, b, c)):
            gpu.to_device(block.pointer, array.ctypes.data, array.nbytes, stream.handle)
        matrices = [Matrix("float32", block.pointer, line, 0, False)
                    for block, line in zip(blocks, (7, 3, 3))]
        handle, got = Handle(gpu.blas(), stream), np.empty_like(c)
        for adds, expected in ((True, c + a @ b), (False, a @ b)):
            handle.multiply(Product((1, 5, 3, 7), *matrices, adds, False, workspace.pointer, 256),
                            stream.handle)
            gpu.to_host(got.ctypes.data, blocks[2].pointer, got.nbytes, stream.handle)
            stream.synchronize()
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


# -- what goes wrong -------------------------------------------------------------------------------

@pytest.mark.parametrize("status, name", [(13, "EXECUTION_FAILED"), (15, "NOT_SUPPORTED")])
def test_every_status_is_looked_at(gpu, status, name):
    f = tx.function([X, Y], T.dot(X, Y), device="cuda")
    gpu.library.fail = status
    with pytest.raises(DeviceError, match=f"CUBLAS_STATUS_{name}"):
        f(random(128, 128), random(128, 128))
    gpu.library.fail = 0
    assert f(random(128, 128), random(128, 128)).shape == (128, 128)


def test_the_library_of_the_tests_refuses_wrong_arguments(gpu):
    with gpu.at(0):
        stream = Stream(0)
        handle, block = Handle(gpu.blas(), stream), Memory(1024, stream)
        matrix = Matrix("float32", block.pointer, 3, 0, False)
        product = Product((1, 2, 4, 3), matrix, matrix, matrix, False, False, block.pointer, 256)
        with pytest.raises(DeviceError, match=f"answers {INVALID_VALUE}"):
            handle.multiply(product, stream.handle)


def wheels(monkeypatch, folder, *names: str) -> None:
    """Let files of these names be all there is of NVIDIA's wheels."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no library")
    spec = type("Spec", (), {"submodule_search_locations": [str(folder)]})
    monkeypatch.setattr(cuda_blas.importlib.util, "find_spec", lambda name: spec)


@pytest.mark.parametrize("pattern, names", [
    ("*/lib/libcublas.so.*", {12: "cublas/lib/libcublas.so.12", 13: "cu13/lib/libcublas.so.13"}),
    ("*/bin/**/cublas64_*.dll", {12: "cublas/bin/cublas64_12.dll",
                                 13: "cu13/bin/x86_64/cublas64_13.dll"})])
def test_it_is_found_where_wheels_have_it(monkeypatch, tmp_path, pattern, names):
    monkeypatch.setattr(cuda_blas, "_FILES", pattern)
    beside = [name.replace("cublas64", "cublasLt64").replace("libcublas", "libcublasLt")
              for name in names.values()]
    wheels(monkeypatch, tmp_path, *names.values(), *beside)
    assert cuda_blas.find() == {major: tmp_path / name for major, name in names.items()}
    loaded = []
    monkeypatch.setattr(cuda_blas.ctypes, "CDLL", loaded.append)
    monkeypatch.setattr(cuda_blas, "Blas", lambda library: library)
    cuda_blas.load("12.8")
    assert loaded == [str(tmp_path / beside[0]), str(tmp_path / names[12])]
    cuda_blas.load("14.0")
    assert loaded[3] == str(tmp_path / names[13])


def test_without_it_the_wheel_is_named(monkeypatch, tmp_path):
    wheels(monkeypatch, tmp_path)
    with pytest.raises(DeviceError, match="not installed(.|\n)*pip install nvidia-cublas"):
        cuda_blas.load("13.0")
    monkeypatch.setattr(cuda_blas.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="not installed"):
        cuda_blas.load("13.0")


def test_one_that_does_not_fit_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_blas, "_FILES", "*/lib/libcublas.so.*")
    wheels(monkeypatch, tmp_path, "cu13/lib/libcublas.so.13")
    with pytest.raises(DeviceError, match="too old for this cuBLAS"):
        cuda_blas.load("12.8")
    with pytest.raises(DeviceError, match="cannot be loaded"):
        cuda_blas.load("13.0")


def test_a_function_says_so_when_it_is_made(gpu, monkeypatch):
    def missing():
        raise DeviceError("cuBLAS is asked for, but not installed.")
    monkeypatch.setattr(gpu, "blas", missing)
    f = tx.function([X, Y], T.dot(X, Y), device="cuda")
    with pytest.raises(DeviceError, match="not installed"):
        f(random(128, 128), random(128, 128))
