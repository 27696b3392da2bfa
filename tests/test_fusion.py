"""Which operations share a kernel, how often each reads memory, and values at every edge of it."""

from __future__ import annotations

import numpy as np
import pytest

import tetractys as tx
from tetractys import debug
from tetractys import tensor as T
from tetractys.compiler import lower_column
from tetractys.compiler.loop.ir import For
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
    f, _ = compiled([x], x.sum(axis=0), uniform(8, 5))
    kernel, = kernels(f)
    _, rows = kernel.nest.body
    assert isinstance(rows, For) and rows.extent == 2
    inner, = rows.body
    assert inner.extent == 5 and len(inner.body) == lower_column.JAM


def normalised(x, axis):
    """Return a batch (axis 0) or layer (axis 1) normalisation."""
    centred = x - x.mean(axis=axis, keepdims=True)
    return centred / T.sqrt((centred ** 2).mean(axis=axis, keepdims=True) + 1e-5)


LARGE = (260, 256)
"""More elements than ``IN_CACHE``."""


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
