"""Which operations share a kernel, how often each reads memory, and values at every edge of it."""

from __future__ import annotations

import numpy as np
import pytest

import tetractys as tx
from tetractys import debug
from tetractys import tensor as T
from tetractys.compiler import band, lower_column
from tetractys.compiler.loop.ir import For, Let, Scalar, Store
from tetractys.compiler.loop.walk import loads, operands, postorder, statements
from tetractys.compiler.pipeline import Options, compile_signature
from tetractys.compiler.program import Kernel


def compiled(inputs, outputs, *arrays, updates=None):
    """Return a function, called once so that it is compiled, and its results."""
    f = tx.function(inputs, outputs, updates=updates)
    return f, f(*arrays)


def kernels(f):
    """Return the kernels of a function's first variant."""
    return [step for step in f.variants[0].stages.program.steps if isinstance(step, Kernel)]


def names(f):
    """Return the buffers in memory between the kernels of a function."""
    program = f.variants[0].stages.program
    return sorted(buffer.name for buffer in program.offsets)


def uniform(*shape, dtype="float64"):
    return np.random.default_rng(sum(shape)).uniform(-2, 2, shape).astype(dtype)


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut column reductions into pieces of a few elements."""
    monkeypatch.setattr(lower_column, "ROW_BLOCK", 24)
    monkeypatch.setattr(lower_column, "COLUMN_BLOCK", 16)
    monkeypatch.setattr(lower_column, "NARROW", 8)
    monkeypatch.setattr(lower_column, "UNKNOWN_ROWS", 8)
    monkeypatch.setattr(lower_column, "LEAST_BLOCK_ROWS", 1)
    monkeypatch.setattr(lower_column, "MAX_ROW_BLOCKS", 5)


@pytest.mark.parametrize("shape, axis", [
    ((0, 3), 0), ((1, 3), 0), ((3, 3), 0), ((4, 3), 0), ((5, 3), 0), ((63, 3), 0), ((64, 3), 0),
    ((65, 3), 0), ((40, 1), 0), ((9, 17), 0), ((64, 33), 0), ((5, 0), 0), ((7, 3, 5), 0),
    ((30, 3, 5), (0, 1)), ((3, 30, 5), 1), ((20, 3, 40), 0), ((2, 9, 40), 1), ((40, 5, 5), (0, 1))])
@pytest.mark.parametrize("is_known", [True, False])
def test_sums_and_maxima_of_columns(small_blocks, shape, axis, is_known):
    x = T.tensor("float64", shape=shape if is_known else (None,) * len(shape), name="x")
    total, square = x.sum(axis=axis), (x * x).sum(axis=axis)
    results = [total, square]
    array = uniform(*shape)
    expected = [array.sum(axis), (array * array).sum(axis)]
    if 0 not in shape:
        results.append(x.max(axis=axis))
        expected.append(array.max(axis))
    f = tx.function([x], results)
    for got, want in zip(f(array), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    if not is_known:
        larger = uniform(*(size + 3 for size in shape))
        f(larger)  # the sizes that changed are symbols from here on
        found = debug.bisect(f, larger)
        assert found.level is None, found


def test_column_totals_of_row_blocks_are_added_in_order(small_blocks):
    x = T.fmatrix("x")
    array = uniform(30, 3, dtype="float32")
    array[:, 0] *= 1e6
    f, total = compiled([x], x.sum(axis=0), array)
    blocks = np.zeros((4, 3), "float32")
    for block in range(4):
        for row in array[8 * block:8 * block + 8]:
            blocks[block] += row
    expected = np.zeros(3, "float32")
    for block in blocks:
        expected += block
    np.testing.assert_array_equal(total, expected)
    assert len(kernels(f)) == 2


def test_rows_of_a_column_sum_are_added_side_by_side():
    x = T.dmatrix("x")
    f, _ = compiled([x], x.sum(axis=0), uniform(2 * lower_column.JAM + 3, 5))
    kernel, = kernels(f)
    _, rows, rest = kernel.nest.body
    assert isinstance(rows, For) and rows.extent == 2
    for inner, count in ((*rows.body, lower_column.JAM), (rest, 3)):
        store, = inner.body
        assert inner.extent == 5 and isinstance(store, Store)
        read = [load.buffer.name for load in loads(store.value)]
        assert read.count("x") == count and len(read) == count + 1


def test_half_as_many_rows_are_added_at_once_where_they_cost_more():
    x = T.dmatrix("x")
    f, _ = compiled([x], (T.sqrt(x) * T.sqrt(x + 1)).sum(axis=0), abs(uniform(16, 5)))
    kernel, = kernels(f)
    inner, = kernel.nest.body[1].body
    read = {load.position for stmt in inner.body if isinstance(stmt, (Let, Store))
            for load in loads(stmt.value) if load.buffer.name == "x"}
    assert len(read) == lower_column.JAM // 2


def test_a_quotient_of_a_row_is_divided_once():
    x, w = T.dmatrix("x"), T.dvector("w")
    quotient = x / w
    f, result = compiled([x, w], quotient - (quotient * quotient).sum(axis=1, keepdims=True),
                         uniform(6, 50), 1 + abs(uniform(50)))
    kernel, = kernels(f)
    scalars = [node.name for stmt in statements(kernel.nest.body)
               for node in postorder(*operands(stmt)) if isinstance(node, Scalar)]
    assert scalars.count("div") == 1
    want = uniform(6, 50) / (1 + abs(uniform(50)))
    np.testing.assert_allclose(result, want - (want * want).sum(axis=1, keepdims=True))


def normalised(x, axis):
    """Return a batch (axis 0) or layer (axis 1) normalisation."""
    centred = x - x.mean(axis=axis, keepdims=True)
    return centred / T.sqrt((centred ** 2).mean(axis=axis, keepdims=True) + 1e-5)


LARGE = (260, 256)
"""More elements than ``IN_CACHE``."""


@pytest.mark.parametrize("view", [
    lambda x: x[::-1], lambda x: x[:, ::-1], lambda x: x.T, lambda x: x[1:] - x[:-1]],
    ids=["rows", "columns", "transposed", "neighbours"])
@pytest.mark.parametrize("finish", [
    T.nnet.softmax, lambda x: x - x.max(axis=1, keepdims=True)], ids=["softmax", "difference"])
def test_rows_of_a_view_are_not_taken_from_where_others_are_written(view, finish):
    x, array = T.dmatrix("x"), uniform(40, 40)
    _, result = compiled([x], finish(view(T.tanh(T.exp(x)))), array)
    values = T.dmatrix("values")
    _, wanted = compiled([values], finish(values), view(np.tanh(np.exp(array))).copy())
    np.testing.assert_allclose(result, wanted, rtol=1e-12, atol=1e-15)


def test_a_value_kept_in_a_results_memory_is_not_written_there_by_a_later_kernel():
    x, array = T.dmatrix("x"), uniform(38, 40)
    share = x / (1 + abs(x).sum(axis=1, keepdims=True))
    scaled = share * T.tanh(share.max(axis=1, keepdims=True))
    result = scaled - scaled.max(axis=1, keepdims=True)
    columns = T.tanh(result).sum(axis=0)
    f = tx.function([x], [result, share * (share * columns).sum(axis=1, keepdims=True)])
    f.compile()
    parts = array / (1 + abs(array).sum(axis=1, keepdims=True))
    wanted = parts * np.tanh(parts.max(axis=1, keepdims=True))
    wanted -= wanted.max(axis=1, keepdims=True)
    others = parts * (parts * np.tanh(wanted).sum(axis=0)).sum(axis=1, keepdims=True)
    for got, want in zip(f(array), (wanted, others), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-14)


def test_a_value_of_a_row_is_kept_for_its_next_pass():
    x = T.dmatrix("x")
    f, _ = compiled([x], T.nnet.softmax(T.tanh(x)), uniform(40, 40))
    calls = [node for kernel in kernels(f) for stmt in statements(kernel.nest.body)
             for node in postorder(*operands(stmt)) if isinstance(node, Scalar)]
    assert len({id(node) for node in calls if node.name == "tanh"}) == 1


def test_batch_norm_reads_its_input_three_times_and_stores_its_result_only():
    x, scale, shift = T.fmatrix("x"), T.fvector("scale"), T.fvector("shift")
    array = uniform(*LARGE, dtype="float32")
    f, result = compiled([x, scale, shift], normalised(x, 0) * scale + shift, array,
                         uniform(256, dtype="float32"), uniform(256, dtype="float32"))
    assert sum(any(b.name == "x" for b in kernel.reads) for kernel in kernels(f)) == 3
    assert not any(buffer.dims == LARGE for buffer in f.variants[0].stages.program.offsets)
    want = (array - array.mean(0)) / np.sqrt(array.var(0) + 1e-5)
    np.testing.assert_allclose(
        result, want * uniform(256, dtype="float32") + uniform(256, dtype="float32"),
        rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_of_normalisations_store_nothing_of_the_size_of_their_input(axis):
    x, g, scale = T.dmatrix("x"), T.dmatrix("g"), T.dvector("scale")
    cost = (normalised(x, axis) * scale * g).sum()
    arrays = uniform(*LARGE), np.cos(3 * uniform(*LARGE)), uniform(256)
    f, _ = compiled([x, g, scale], tx.grad(cost, [x, scale]), *arrays)
    assert not any(buffer.dims == LARGE for buffer in f.variants[0].stages.program.offsets)
    found = debug.bisect(f, *(array[:32] if array.ndim == 2 else array for array in arrays))
    assert found.level is None, found


@pytest.mark.parametrize("function, shape, is_stored", [
    (T.exp, LARGE, True), (T.sqrt, LARGE, False), (T.sqrt, (6, 5), True), (T.sqr, (6, 5), False)])
def test_dear_values_and_values_of_small_arrays_are_stored_for_a_later_kernel(
        function, shape, is_stored):
    x = T.fmatrix("x")
    y = function(x)
    f, _ = compiled([x], [y - y.mean(axis=0)], abs(uniform(*shape, dtype="float32")))
    assert any(b.dims == shape for b in f.variants[0].stages.program.offsets) == is_stored


@pytest.fixture
def small_bands(monkeypatch, small_blocks):
    """Let matrices of a few elements have bands of a few rows."""
    monkeypatch.setattr(band, "ROW_BLOCK", 96)
    monkeypatch.setattr(band, "BAND", 24)
    monkeypatch.setattr(band, "LEAST_ROWS", 2)
    monkeypatch.setattr(band, "LARGE", 6)


def regression(x, y, w, b):
    """Return the error of a logistic regression, and its gradient with respect to ``w``."""
    error = T.nnet.sigmoid(T.dot(x, w) + b) - y
    return [T.sqr(error).mean(), T.dot(x.T, error), error.sum()]


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 8, 9, 31, 32, 33, 100])
@pytest.mark.parametrize("is_known", [True, False])
def test_a_matrix_is_walked_once_by_a_product_and_a_sum_of_its_rows(small_bands, rows, is_known):
    x = T.tensor("float64", shape=(rows if is_known else None, 3), name="x")
    y, w, b = T.dvector("y"), T.dvector("w"), T.dscalar("b")
    f = tx.function([x, y, w, b], regression(x, y, w, b))
    for count in {rows} if is_known else {rows + 1, rows}:
        arrays = uniform(count, 3), uniform(count), uniform(3), np.array(0.5)
        error = 1 / (1 + np.exp(-arrays[0] @ arrays[2] - 0.5)) - arrays[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            want = [np.divide((error ** 2).sum(), count), arrays[0].T @ error, error.sum()]
        for got, expected in zip(f(*arrays), want, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
        found = debug.bisect(f, *arrays)
        assert found.level is None, found
    if rows > 1:
        program = f.variants[0].stages.program
        assert sum(any(b.name == "x" for b in kernel.reads) for kernel in kernels(f)) == 1
        assert all(buffer.name != "x" for buffer in program.offsets)


def test_dear_operations_once_a_row_have_a_loop_over_the_rows_of_a_band():
    x, y, w, b = T.fmatrix("x"), T.fvector("y"), T.fvector("w"), T.fscalar("b")
    arrays = [uniform(*shape, dtype="float32") for shape in ((400, 784), (400,), (784,), ())]
    f, _ = compiled([x, y, w, b], regression(x, y, w, b), *arrays)
    first, *others = kernels(f)
    assert any(b.name == "x" for b in first.reads)
    assert not any(b.name == "x" for kernel in others for b in kernel.reads)
    block, = first.nest.body
    assert block.mark == "parallel"
    inner = [loop for loop in block.body if isinstance(loop, For)][-1]
    assert [loop.mark for loop in inner.body] == ["parallel", "vector", "vector", "vector"]


@pytest.mark.parametrize("reorder", [
    lambda v: v[::-1], lambda v: v[(T.arange(30) + 1) % 30],
    lambda v: T.concatenate([v[:1], v[:-1]])])
def test_rows_that_meet_other_rows_do_not_share_a_band(small_bands, reorder):
    x, w = T.dmatrix("x"), T.dvector("w")
    product = T.exp(T.dot(x, w))
    f = tx.function([x, w], [product, T.dot(x.T, reorder(product))])
    arrays = uniform(30, 3), uniform(3)
    f(*arrays)
    found = debug.bisect(f, *arrays)
    assert found.level is None, found
    assert sum(any(b.name == "x" for b in kernel.reads) for kernel in kernels(f)) == 2


def test_clusters_without_a_matrix_are_looked_at_once(monkeypatch):
    monkeypatch.setenv("TETRACTYS_CACHE_DIR", "")  # to lower it whoever did so before
    asked, accepts = [], band._Band.accepts
    monkeypatch.setattr(band._Band, "accepts", lambda self, cluster: (
        asked.append(cluster), accepts(self, cluster))[1])
    x = T.dvector("x")
    y = x
    for _ in range(10):
        y = T.nnet.softmax(y) * x
    tx.function([x], y)(uniform(5))
    assert len(asked) > 10 and len(asked) == len({id(cluster) for cluster in asked})


def test_square_matrices_do_not_confuse_rows_and_columns(small_bands):
    x = T.dmatrix("x")
    norm = T.sqrt((x * x).sum(axis=1))
    f = tx.function([x], [norm, (x * norm.dimshuffle("x", 0)).sum(axis=0),
                          (x * norm.dimshuffle(0, "x")).sum(axis=0)])
    array = uniform(12, 12)
    length = np.sqrt((array ** 2).sum(1))
    for got, want in zip(f(array), [length, (array * length).sum(0),
                                    (array * length[:, None]).sum(0)], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)
    found = debug.bisect(f, array)
    assert found.level is None, found


def test_gradient_of_layer_norm_walks_its_input_once(small_bands):
    x, g, scale = T.dmatrix("x"), T.dmatrix("g"), T.dvector("scale")
    cost = (normalised(x, 1) * scale * g).sum()
    f = tx.function([x, g, scale], tx.grad(cost, [x, g, scale]))
    arrays = uniform(29, 8), np.cos(3 * uniform(29, 8)), uniform(8)
    f(*arrays)
    found = debug.bisect(f, *arrays)
    assert found.level is None, found
    assert sum(any(b.name == "x" for b in kernel.reads) for kernel in kernels(f)) == 1


@pytest.mark.parametrize("columns, is_long", [(255, False), (256, True), (700, True)])
def test_the_second_pass_over_a_long_row_asks_for_the_next_row(columns, is_long):
    x = T.fmatrix("x")
    array = uniform(3, columns, dtype="float32")
    f = tx.function([x], normalised(x, 1), mode=Options(keep_text=True))
    want = (array - array.mean(1, keepdims=True)) / np.sqrt(array.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(f(array), want, rtol=1e-4, atol=1e-5)
    artifact, _ = compile_signature(f.signature, f.variants[0].fixed, f.options)
    assert ("call void @llvm.prefetch" in artifact.notes["llvm"]) == is_long
