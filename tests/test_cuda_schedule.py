"""Which schedule a nest gets, and that each is right around the edges of its tiles."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_fake import fake_gpu

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.loop.ir import Barrier, Check, For, Load, Nest, Shuffle
from tetractys.compiler.loop.text import nest_text
from tetractys.compiler.loop.verify import verify_nest
from tetractys.compiler.loop.walk import buffers_written, loads, operands, statements
from tetractys.compiler.pipeline import Options, compile_signature
from tetractys.compiler.target import cuda_columns
from tetractys.compiler.target.cuda import compile_program, scheduled
from tetractys.runtime.errors import IndexOutOfRangeError

X, Y = T.fmatrix("x"), T.fmatrix("y")


def nests_of(output, *shapes: tuple[int, ...], inputs=(X,)) -> list[Nest]:
    """Return the scheduled nests of an expression for arguments of these shapes."""
    f = tx.function(list(inputs), output, on_unused_input="ignore")
    sizes = f._sizes([np.zeros(shape) for shape in shapes]) if shapes else {}
    _, stages = compile_signature(f.signature, sizes, Options(device="cuda"))
    found = [nest for step in stages.program.steps for nest in scheduled(step)]
    for nest in found:
        verify_nest(nest)
    return found


def marks(nest: Nest) -> list[str]:
    """Return the marks of a nest's loops, outermost first."""
    return [stmt.mark for stmt in statements(nest.body) if isinstance(stmt, For)]


def value_of(output, *arrays: np.ndarray, inputs=(X,), tolerance: float = 1e-5) -> np.ndarray:
    """Return what the emulated GPU computes, for known sizes; then for symbolic ones."""
    with fake_gpu():
        f = tx.function(list(inputs), output, device="cuda")
        known = f(*arrays)
        f.compile({})
        symbolic = f.variants[-1].executable.call(*arrays)
        assert symbolic.shape == known.shape
        np.testing.assert_allclose(symbolic, known, rtol=10 * tolerance, atol=tolerance)
    return known


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_elementwise_moves_sixteen_bytes_at_a_time():
    nest, = nests_of(T.tanh(X) + 1, (64, 512))
    assert marks(nest) == ["block", "thread", "vector"]
    assert "v < 4 vector" in nest_text(nest)
    double = T.dmatrix("d")
    nest, = nests_of(double * 2, (64, 512), inputs=(double,))
    assert "v < 2 vector" in nest_text(nest)


def test_a_huge_array_is_gone_through_in_strides():
    nest, = nests_of(X + 1, (1 << 14, 1 << 14))
    assert nest.body[0].extent == 1 << 16
    assert "serial" in marks(nest)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 255, 256, 1023, 1024, 1025, 1027])
def test_elementwise_of_any_length(size):
    x = random(1, size)
    np.testing.assert_allclose(value_of(X * 2 + 1, x), x * 2 + 1, rtol=1e-6)


def test_a_short_row_belongs_to_a_warp_and_stays_in_registers():
    nest, = nests_of(T.nnet.softmax(X), (64, 512))
    assert any(isinstance(stmt, Shuffle) for stmt in statements(nest.body))
    assert not any(isinstance(stmt, Barrier) for stmt in statements(nest.body))
    reads = {id(load): load for stmt in statements(nest.body)
             for load in loads(*operands(stmt)) if load.buffer.root().role == "input"}
    writes = [stmt for stmt in statements(nest.body)
              if getattr(stmt, "buffer", None) is not None and stmt.buffer.role == "output"]
    assert len(reads) == 1, "the row is read once"
    assert len(writes) == 1, "and written once"


def test_a_long_row_belongs_to_a_block():
    nest, = nests_of(T.nnet.softmax(X), (4, 5000))
    assert [loop.extent for loop in statements(nest.body)
            if isinstance(loop, For) and loop.mark == "thread"] == [8, 32]
    assert any(isinstance(stmt, Barrier) for stmt in statements(nest.body))


@pytest.mark.parametrize("shape", [(1, 1), (3, 31), (8, 32), (9, 33), (2, 1024), (3, 1028),
                                   (2, 4100), (1, 33000)])
def test_rows_of_any_length(shape):
    x = random(*shape)
    shifted = np.exp(x - x.max(axis=1, keepdims=True))
    expected = shifted / shifted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(value_of(T.nnet.softmax(X), x), expected, rtol=2e-5)


@pytest.mark.parametrize("shape", [(1, 1), (7, 31), (9, 33), (200, 32), (1030, 5), (70, 600)])
def test_columns_of_any_length(shape):
    x = random(*shape)
    np.testing.assert_allclose(value_of(X.sum(axis=0), x), x.sum(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(value_of(X.max(axis=0), x), x.max(axis=0))


def test_many_rows_are_added_in_chunks_then_combined():
    first, second = nests_of(X.sum(axis=0), (100_000, 32))
    assert first.body[0].extent > 100
    assert second.name.startswith("combine_")
    assert {buffer.role for buffer in buffers_written(first)} == {"scratch", "temporary"}


def test_a_reduction_to_one_number_takes_two_nests():
    assert len(nests_of(X.sum(), (1000, 1000))) == 2
    x = random(300, 70)
    np.testing.assert_allclose(value_of(X.sum(), x), x.sum(), rtol=1e-4)


@pytest.mark.parametrize("shape", [(16, 16), (31, 33), (32, 64), (65, 40), (100, 17)])
def test_transposes_of_any_size(shape):
    x = random(*shape)
    np.testing.assert_allclose(value_of(X.T * 2 + 1, x), x.T * 2 + 1, rtol=1e-6)


def test_a_transpose_goes_through_scratch_memory():
    nest, = nests_of(X.T + 1, (64, 96))
    assert [buffer.dims for buffer in buffers_written(nest) if buffer.role == "scratch"] \
        == [(32, 33)]


@pytest.mark.parametrize("rows, columns", [(4, 3), (4, 40)])
def test_repeated_indices_add_up_in_order(rows, columns):
    index = T.lvector("i")
    x, picked = random(rows, columns), np.array([1, 1, 3, 1, 0, 3])
    added = random(len(picked), columns)
    expected = x.copy()
    np.add.at(expected, picked, added)
    output = T.inc_subtensor(X[index], Y)
    got = value_of(output, x, added, picked, inputs=(X, Y, index))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    again = value_of(output, x, added, picked, inputs=(X, Y, index))
    np.testing.assert_array_equal(got, again)


def test_of_repeated_indices_the_last_store_stays():
    index = T.lvector("i")
    x, picked = random(4, 3), np.array([1, 1, 3, 1])
    stored = random(4, 3)
    expected = x.copy()
    expected[picked] = stored
    got = value_of(T.set_subtensor(X[index], Y), x, stored, picked, inputs=(X, Y, index))
    np.testing.assert_array_equal(got, expected)


def test_chunks_of_rows_are_right(monkeypatch):
    monkeypatch.setattr(cuda_columns, "LEAST_ROWS", 8)
    x = random(101, 37)
    with fake_gpu():
        f = tx.function([X], [X.sum(axis=0), (X * X).max(axis=0)], device="cuda")
        total, most = f(x)
    np.testing.assert_allclose(total, x.sum(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(most, (x * x).max(axis=0))


def test_the_code_is_named_after_the_expression():
    f = tx.function([X], T.tanh(X + 1), name="f")
    _, stages = compile_signature(f.signature, {}, Options(device="cuda"))
    source = compile_program(stages.program, keep_text=True).notes["CUDA C"]
    assert "add_tanh_kernel(" in source
    assert "tanh_float32(" in source


def test_few_long_rows_are_cut_into_pieces():
    pieces, whole = nests_of(X.sum(axis=1) * 2, (3, 1 << 17))
    assert pieces.name.startswith("pieces_")
    blocks = pieces.body[0].extent
    assert blocks == 3 * 16 and "v < 4 vector" in nest_text(pieces)
    assert len(nests_of(X.sum(axis=1), (600, 1 << 17))) == 1, "many rows fill the chip"
    assert len(nests_of(X.sum(axis=1), (3, 10_000))) == 1, "short rows do not need it"


@pytest.mark.parametrize("length", [1 << 14, 16_387, 20_001])
def test_pieces_give_what_rows_do(length):
    x = random(2, length)
    shifted = X * 2 + X[:, 0].dimshuffle(0, "x")
    got = value_of(T.exp(shifted.max(axis=1) - 5), x)
    np.testing.assert_allclose(got, np.exp((x * 2 + x[:, :1]).max(axis=1) - 5), rtol=1e-5)
    np.testing.assert_allclose(value_of(X.sum(axis=1), x), x.sum(axis=1, dtype=np.float64),
                               rtol=1e-4, atol=1e-3)


def test_pieces_keep_nan_and_several_totals():
    x = random(2, 1 << 14)
    x[1, 9000] = np.nan
    with fake_gpu():
        f = tx.function([X], [X.max(axis=1), X.min(axis=1), X.sum(axis=1)], device="cuda")
        most, least, total = f(x)
    for got in (most, least, total):
        assert np.isnan(got[1]) and not np.isnan(got[0])
    assert most[0] == x[0].max() and least[0] == x[0].min()


def cross_entropy_gradient():
    """Return labels, and a gradient that changes one column of each row."""
    labels = T.lvector("labels")
    loss = T.nnet.categorical_crossentropy(T.nnet.softmax(X), labels).mean()
    return labels, tx.grad(loss, X)


@pytest.mark.parametrize("shapes", [((50, 7), (50,)), ()], ids=["known", "symbolic"])
def test_counted_rows_are_no_scatter(shapes):
    labels = T.lvector("labels")
    result = T.inc_subtensor(X[T.arange(X.shape[0]), labels], 0.5)
    nests = nests_of(result, *shapes, inputs=(X, labels))
    scatter, = (nest for nest in nests if nest.name == "advanced_inc_subtensor")
    assert marks(scatter)[:2] == ["block", "thread"] and "thread < 256" in nest_text(scatter)
    assert "serial" not in marks(scatter) or not shapes, "in strides, where sizes are not known"
    assert sum(isinstance(stmt, Check) for stmt in statements(scatter.body)) == 1
    assert "output0[i1, j" in nest_text(scatter)


def test_counted_rows_still_check_the_columns():
    labels, gradient = cross_entropy_gradient()
    scores, given = random(50, 7), np.arange(50) % 7 - 7
    value = value_of(gradient, scores, given, inputs=(X, labels))
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(value, (shares - np.eye(7)[given]) / 50, rtol=1e-4, atol=1e-6)
    with fake_gpu(), pytest.raises(IndexOutOfRangeError, match="Index 7 is out of range"):
        tx.function([X, labels], gradient, device="cuda")(scores, given + 8)


@pytest.mark.parametrize("count", [64, 70, 300])
@pytest.mark.parametrize("stores", [False, True], ids=["adds", "stores"])
def test_many_rows_are_scattered_through_sorted_indices(count, stores):
    index, rows = T.lvector("i"), T.fmatrix("rows")
    update = T.set_subtensor if stores else T.inc_subtensor
    output = update(X[index], rows)
    picked = np.random.default_rng(count).integers(-9, 9, count)
    x, given = random(9, 40), random(count, 40)
    shapes = ((9, 40), (count,), (count, 40))
    names = [nest.name for nest in nests_of(output, *shapes, inputs=(X, index, rows))]
    assert [name.partition("_")[0] for name in names] == [
        "copy", "positions", "ranks", "advanced"]
    expected = x.copy()
    if stores:
        expected[picked] = given
    else:
        np.add.at(expected, picked, given)
    got = value_of(output, x, picked, given, inputs=(X, index, rows))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_sparse_scatters_are_sorted_and_dense_ones_are_not():
    index, v = T.lvector("i"), T.fvector("v")
    output = T.inc_subtensor(v[index], np.float32(1))
    assert len(nests_of(output, (1000,), (100,), inputs=(v, index))) == 4
    assert len(nests_of(output, (100,), (100,), inputs=(v, index))) == 2
    picked = np.random.default_rng(0).integers(0, 20, 100) * 37
    got = value_of(output, np.zeros(1000, np.float32), picked, inputs=(v, index))
    np.testing.assert_array_equal(got, np.bincount(picked, minlength=1000))


def test_sorted_scatters_add_in_the_order_of_the_loop():
    index, v, parts = T.lvector("i"), T.fvector("v"), T.fvector("parts")
    values = np.float32([1e8, 1, -1e8, 1] * 20)
    picked = np.repeat([5, 7], 40)
    with fake_gpu():
        f = tx.function([v, index, parts], T.inc_subtensor(v[index], parts), device="cuda")
        got = f(np.zeros(400, np.float32), picked, values)
    total = np.float32(0)
    for value in values[:40]:
        total += value
    assert got[5] == got[7] == total


def test_sorted_scatters_check_their_indices():
    index, rows = T.lvector("i"), T.fmatrix("rows")
    w = tx.shared(random(9, 40), name="w")
    picked = np.arange(70) % 9
    with fake_gpu():
        f = tx.function([index, rows], [], updates={w: T.inc_subtensor(w[index], rows)},
                        device="cuda")
        before = w.get_value()
        with pytest.raises(IndexOutOfRangeError, match="Index 11 is out of range"):
            f(np.where(picked == 3, 11, picked), random(70, 40))
        np.testing.assert_array_equal(w.get_value(), before)
