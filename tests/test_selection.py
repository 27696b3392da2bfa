"""One changed element a row, computed where it is used: cross-entropies by class numbers."""

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.expand import expand
from tetractys.compiler.graph import toposort
from tetractys.compiler.pipeline import compile_signature
from tetractys.compiler.program import Kernel
from tetractys.runtime.errors import IndexOutOfRangeError

RNG = np.random.default_rng(7)


def by_function(x, t):
    return T.nnet.categorical_crossentropy(T.nnet.softmax(x), t)


def by_logarithm(x, t):
    return -T.log(T.nnet.softmax(x))[T.arange(t.shape[0]), t]


def by_probability(x, t):
    return -T.log(T.nnet.softmax(x)[T.arange(x.shape[0]), t])


def by_logits(x, t):
    return T.nnet.softmax_cross_entropy(x, t)


SPELLINGS = [by_function, by_logarithm, by_probability, by_logits]


def reference(x, t, weights):
    """Return the losses of rows and the gradient of their weighted sum, in float64."""
    x = x.astype("float64")
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    p = powers / powers.sum(axis=1, keepdims=True)
    rows = np.arange(len(x))
    gradient = p.copy()
    gradient[rows, t] -= 1
    return -np.log(p[rows, t]), gradient * weights[:, None]


def compiled(spelling, dtype="float64", index="int64", shape=(None, None), weigh=None):
    x, t = T.tensor(dtype, shape=shape, name="x"), T.tensor(index, shape=shape[:1], name="t")
    loss = spelling(x, t)
    total = loss.mean() if weigh is None else weigh(loss)
    return tx.function([x, t], [loss, tx.grad(total, x)])


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("dtype", "index"), [
    ("float64", "int64"), ("float32", "int32"), ("float64", "uint8"), ("float32", "int64")])
def test_values_and_gradients(spelling, dtype, index):
    function = compiled(spelling, dtype, index)
    for shape in ((5, 7), (1, 1), (3, 100), (33, 2), (1, 9), (2, 1)):
        check(function, shape, dtype, index)
    check(compiled(spelling, dtype, index, (5, 7)), (5, 7), dtype, index)


def check(function, shape, dtype, index):
    x = RNG.normal(size=shape).astype(dtype)
    t = RNG.integers(0, shape[1], shape[0]).astype(index)
    loss, gradient = function(x, t)
    wanted, slope = reference(x, t, np.full(len(x), 1 / len(x)))
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(loss, wanted, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(gradient, slope, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_gradient_is_one_kernel_that_keeps_no_matrix(spelling):
    # That ``arange(t.shape[0])`` is all rows of ``x`` follows from declared sizes only.
    shape = (5, 7) if spelling is by_logarithm else (None, None)
    function = compiled(spelling, "float32", shape=shape)
    _, stages = compile_signature(function.signature, {}, function.options)
    kernels = [step for step in stages.program.steps if isinstance(step, Kernel)]
    matrices = [buffer for kernel in kernels for buffer in kernel.writes if len(buffer.dims) == 2
                and 1 not in buffer.dims]
    assert {buffer.role for buffer in matrices} == {"output"} and len(matrices) == 1


REDUCTIONS = {
    "sum": (lambda loss: loss.sum(), lambda n, w: np.ones(n)),
    "mean": (lambda loss: loss.mean(), lambda n, w: np.full(n, 1 / n)),
    "weights": (lambda loss: (loss * WEIGHTS).sum(), lambda n, w: w),
    "weighted mean": (lambda loss: (loss * WEIGHTS).sum() / WEIGHTS.sum(),
                      lambda n, w: w / w.sum()),
}
WEIGHTS = T.vector("weights", dtype="float64")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_reductions_weights_and_masks(spelling, reduction):
    x, t = T.matrix("x", dtype="float64"), T.vector("t", dtype="int64")
    total, weigh = REDUCTIONS[reduction]
    function = tx.function([x, t, WEIGHTS], tx.grad(total(spelling(x, t)), x),
                           on_unused_input="ignore")
    rows, classes = RNG.normal(size=(6, 5)), RNG.integers(0, 5, 6)
    weights = np.array([0.5, 0, 2, 1, 0, 3.0])
    _, wanted = reference(rows, classes, weigh(6, weights))
    np.testing.assert_allclose(function(rows, classes, weights), wanted, atol=1e-13)


def test_ignored_classes_have_no_gradient():
    x, t = T.matrix("x", dtype="float64"), T.vector("t", dtype="int64")
    is_counted = T.ge(t, 0)
    loss = by_function(x, T.switch(is_counted, t, 0))
    loss = T.switch(is_counted, loss, 0).sum() / is_counted.sum()
    rows, classes = RNG.normal(size=(6, 5)), np.array([0, -1, 4, 2, -1, 2])
    _, wanted = reference(rows, classes, (classes >= 0) / 4)
    np.testing.assert_allclose(tx.function([x, t], tx.grad(loss, x))(rows, classes), wanted,
                               atol=1e-13)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("wrong", [5, -6, 2**40])
@pytest.mark.parametrize("results", ["gradient", "both"])
def test_classes_out_of_range_are_refused(spelling, wrong, results):
    x, t = T.matrix("x", dtype="float64"), T.vector("t", dtype="int64")
    loss = spelling(x, t).mean()
    function = tx.function([x, t], [tx.grad(loss, x)] + [loss] * (results == "both"))
    rows, classes = RNG.normal(size=(4, 5)), np.array([0, 1, 4, 2])
    function(rows, classes)
    classes[2] = wrong
    with pytest.raises(IndexOutOfRangeError, match=f"Index {wrong} is out of range for axis 1"):
        function(rows, classes)


def test_negative_classes_count_from_the_end():
    rows, classes = RNG.normal(size=(4, 5)), np.array([-1, -5, 3, -2])
    _, wanted = reference(rows, classes, np.full(4, 0.25))
    for spelling in SPELLINGS:
        np.testing.assert_allclose(compiled(spelling)(rows, classes)[1], wanted, atol=1e-13)


def test_no_rows():
    for spelling in SPELLINGS:
        loss, gradient = compiled(spelling, weigh=lambda loss: loss.sum())(
            np.zeros((0, 5)), np.zeros(0, "int64"))
        assert loss.shape == (0,) and gradient.shape == (0, 5)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_gradients_of_the_gradient(spelling):
    classes = np.array([1, 0, 3])
    tx.verify_grad(lambda x: spelling(x, T.constant(classes)).mean(), [RNG.normal(size=(3, 4))])
    tx.verify_grad(lambda x: T.sqr(tx.grad(spelling(x, T.constant(classes)).mean(), x)).sum(),
                   [RNG.normal(size=(3, 4))])


def test_more_axes_and_a_class_axis_in_front():
    x, t = T.tensor3("x", dtype="float64"), T.matrix("t", dtype="int64")
    loss = T.nnet.categorical_crossentropy(T.nnet.softmax(x), t)
    rows, classes = RNG.normal(size=(2, 3, 4)), RNG.integers(0, 4, (2, 3))
    _, wanted = reference(rows.reshape(6, 4), classes.reshape(6), np.full(6, 1 / 6))
    found = tx.function([x, t], tx.grad(loss.mean(), x))(rows, classes)
    np.testing.assert_allclose(found, wanted.reshape(2, 3, 4), atol=1e-13)
    m, c = T.matrix("m", dtype="float64"), T.vector("c", dtype="int64")
    loss = -T.log(T.nnet.softmax(m, axis=0))[c, T.arange(c.shape[0])].sum()
    found = tx.function([m, c], tx.grad(loss, m))(rows[0].T, classes[0])
    _, wanted = reference(rows[0], classes[0], np.ones(3))
    np.testing.assert_allclose(found, wanted.T, atol=1e-13)


def test_inside_a_map():
    x, t = T.tensor3("x", dtype="float64"), T.matrix("t", dtype="int64")
    gradients = tx.map(lambda a, c: tx.grad(by_function(a, c).mean(), a), [x, t])
    gradients = gradients[0] if isinstance(gradients, (tuple, list)) else gradients
    rows, classes = RNG.normal(size=(2, 3, 4)), RNG.integers(0, 4, (2, 3))
    found = tx.function([x, t], gradients)(rows, classes)
    for one, own, chosen in zip(found, rows, classes):
        np.testing.assert_allclose(one, reference(own, chosen, np.full(3, 1 / 3))[1], atol=1e-13)


def test_a_parameter_indexed_by_rows_is_updated():
    w = tx.shared(RNG.normal(size=(4, 5)), name="w")
    before = w.get_value()
    t = T.vector("t", dtype="int64")
    train = tx.function([t], [], updates=[
        (w, w - 0.5 * tx.grad(w[T.arange(4), t].sum(), w))])
    with pytest.raises(IndexOutOfRangeError):
        train([0, 1, 5, 2])
    np.testing.assert_array_equal(w.get_value(), before)
    train([0, 1, -1, 2])
    before[np.arange(4), [0, 1, -1, 2]] -= 0.5
    np.testing.assert_array_equal(w.get_value(), before)


# -- what is and is not a selection ----------------------------------------------------------------

M, V = T.tensor("float64", shape=(4, 6), name="m"), T.tensor("float64", shape=(4,), name="v")
C = T.tensor("int64", shape=(4,), name="c")
ZEROS = T.zeros((4, 6), dtype="float64")


def ops_in(result):
    return {node.op.name for node in toposort(expand([result]))}


@pytest.mark.parametrize("result", [
    T.inc_subtensor(ZEROS[T.arange(4), C], V), T.set_subtensor(ZEROS[np.arange(4), C], V),
    T.set_subtensor(T.ones((4, 6), dtype="float64")[T.arange(4), C], V)])
def test_one_place_a_row_is_selected(result):
    assert "place" in ops_in(result) and not any("subtensor" in name for name in ops_in(result))


@pytest.mark.parametrize("result", [
    T.inc_subtensor(M[T.arange(4), C], V),                          # not one number
    T.inc_subtensor(T.ones((4, 6), dtype="float64")[T.arange(4), C], V),
    T.inc_subtensor(ZEROS[C, C], V), T.inc_subtensor(ZEROS[C], M),  # rows that may repeat
    T.inc_subtensor(ZEROS[np.array([0, 1, 1, 3]), C], V),
    T.inc_subtensor(ZEROS[T.arange(1, 5) % 4, C], V),
    T.inc_subtensor(ZEROS[T.arange(3), C[:3]], V[:3]),              # not all rows
    T.inc_subtensor(ZEROS[np.zeros((1, 1), "int64"), C], V.dimshuffle("x", 0))])
def test_other_writes_stay_writes(result):
    assert "place" not in ops_in(result)
