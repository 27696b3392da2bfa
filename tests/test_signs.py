"""What is proved not to be positive, and the exponentials made of it."""

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.expand import expand
from tetractys.compiler.graph import toposort
from tetractys.compiler.signs import is_nonpositive

X = T.tensor("float32", shape=(None, None), name="x")
SQUARE = T.tensor("float32", shape=(4, 4), name="square")
SINE = T.sin(X)
CUBE = T.tensor("float64", shape=(None, 3, None), name="cube")


def largest(x, axis):
    return x.max(axis=axis, keepdims=True)


@pytest.mark.parametrize("proved", [
    -abs(X), -T.sqr(X), -(X * X), T.sqr(X) * np.float32(-0.5), np.float32(-2) * T.sqrt(X),
    abs(X) * np.array([[-1], [0]], "float32"), -(T.sqr(X) * np.float32(3)),
    -T.sqr(X).sum(axis=1), -T.exp(X), X - largest(X, 1), X - largest(X, 0), X - X.max(axis=0),
    SQUARE - largest(SQUARE, 0), CUBE - largest(CUBE, (0, 2)), CUBE - largest(CUBE, None),
    CUBE - CUBE.max(axis=2).max(axis=0).dimshuffle("x", 0, "x"), SINE - largest(SINE, 1)])
def test_what_cannot_be_positive_is_proved(proved):
    assert is_nonpositive(proved)


@pytest.mark.parametrize("unproved", [
    X, -X, abs(X), -T.sin(X), X * np.float32(-1), abs(X) * np.float32(0.5), -(X * -X),
    abs(X) * np.array([[-1], [1]], "float32"), largest(X, 1) - X, X - X.min(axis=0), X + X.max(),
    SQUARE - SQUARE.max(axis=1), SQUARE.T - largest(SQUARE, 1), X - largest(abs(X), 1),
    X - largest(-X, 1), X[:, ::-1] - X.max(axis=0), SQUARE - largest(SQUARE.T, 1),
    T.tensor("float32", shape=(4,), name="row") - largest(SQUARE, 1)])
def test_what_may_be_positive_is_not_proved(unproved):
    assert not is_nonpositive(unproved)


def names_in(*results):
    return [node.op.name for node in toposort(expand(results))]


def test_the_rows_of_a_softmax_take_the_short_exponential():
    for result in (T.nnet.softmax(CUBE, axis=(0, 2)), T.nnet.logsoftmax(X),
                   T.logsumexp(X, axis=1)):
        names = names_in(result)
        assert "exp_nonpositive" in names and "exp" not in names
    assert "exp_nonpositive" not in names_in(T.exp(X - X.mean(axis=1, keepdims=True)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_edges_of_rows_are_those_of_plain_exponentials(dtype):
    x = T.tensor(dtype, shape=(None, None), name="x")
    inf, nan, most = np.inf, np.nan, float(np.finfo(dtype).max)
    rows = np.array([[0, -1, -inf], [inf, 0, 1], [-inf, -inf, -inf], [nan, 0, 0], [inf, -inf, 0],
                     [most, -most, 0], [1e4, 0, 9.9e3], [-1e4, -1e4 - 90, -1e4 - 1],
                     [0, -100, -87.5], [0, -103.9, -745]], dtype)
    f = tx.function([x], [T.nnet.softmax(x), T.nnet.logsoftmax(x), T.logsumexp(x, axis=1)])
    with np.errstate(all="ignore"):
        top = rows.max(axis=1, keepdims=True)
        powers = np.exp(rows - top)
        total = powers.sum(axis=1, keepdims=True)
        finite = np.where(np.isfinite(top), top, 0).astype(dtype)
        sums = np.log(np.exp(rows - finite).sum(axis=1)) + finite[:, 0]
        wanted = [powers / total, rows - top - np.log(total), sums]
    info = np.finfo(dtype)
    for got, want in zip(f(rows), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=8 * info.eps,
                                   atol=4 * float(info.smallest_subnormal))


def test_a_product_that_a_softmax_is_of_is_rounded_before_its_largest_is_taken_off():
    x, y = T.fmatrices("x", "y")
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=(50, 64)).astype("float32") * 1e5 for _ in range(2))
    product = (left * right).astype("float64")
    shifted = product - product.max(axis=1, keepdims=True)
    want = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    z = x * y
    largest_off = z - largest(z, 1)
    f = tx.function([x, y], [T.nnet.softmax(z), T.nnet.logsoftmax(z), largest_off])
    softmax, logsoftmax, difference = f(left, right)
    np.testing.assert_allclose(softmax, np.exp(want), rtol=1e-6)
    np.testing.assert_allclose(logsoftmax, want, rtol=1e-6)
    np.testing.assert_array_equal(difference, shifted.astype("float32"))
    assert names_in(largest_off)[-1] == "sub_rounded"
