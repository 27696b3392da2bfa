"""Initial values: shapes, dtypes, distributions, and the same numbers from the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tetractys as tx
from tetractys import init
from tetractys.runtime.errors import ArgumentError, ShapeError

RANDOM = [init.Normal(), init.Uniform(), init.GlorotNormal(), init.GlorotUniform(),
          init.HeNormal(), init.HeUniform(), init.LeCunNormal(), init.LeCunUniform(),
          init.Orthogonal(), init.Sparse()]


def name_of(initializer):
    """Return the class's name, to label a test."""
    return type(initializer).__name__


@pytest.fixture(autouse=True)
def _seeded():
    before = init.get_rng()
    init.set_rng(1234)
    yield
    init.set_rng(before)


@pytest.fixture(params=["float32", "float64"])
def floatX(request):
    """Run the test with both settings of ``floatX``."""
    before = tx.config.floatX
    tx.config.floatX = request.param
    yield request.param
    tx.config.floatX = before


@pytest.mark.parametrize("initializer", [*RANDOM, init.Constant()], ids=name_of)
def test_shape_and_dtype(initializer, floatX):
    value = initializer((30, 20))
    assert value.shape == (30, 20)
    assert value.dtype == floatX


@pytest.mark.parametrize("initializer", RANDOM, ids=name_of)
@pytest.mark.parametrize("make", [int, np.random.default_rng, np.random.RandomState],
                         ids=["int", "Generator", "RandomState"])
def test_the_seed_decides(initializer, make):
    init.set_rng(make(5))
    first, second = initializer((8, 6)), initializer((8, 6))
    init.set_rng(make(5))
    np.testing.assert_array_equal(initializer((8, 6)), first)
    assert (first != second).any()


def test_numpy_seed_decides_until_a_generator_is_set():
    init.set_rng(np.random)
    np.random.seed(3)
    first = init.Normal()((4, 4))
    np.random.seed(3)
    np.testing.assert_array_equal(init.Normal()((4, 4)), first)


def test_constant():
    np.testing.assert_array_equal(init.Constant(-2.5)((2, 3)), np.full((2, 3), -2.5))
    assert init.Constant(1.0)(()).shape == ()


def test_normal_has_the_mean_and_deviation_asked_for():
    value = init.Normal(std=0.3, mean=2.0)((400, 500))
    assert value.mean() == pytest.approx(2.0, abs=0.005)
    assert value.std() == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize("uniform, low, high", [
    (init.Uniform(0.5), -0.5, 0.5),
    (init.Uniform((1.0, 3.0)), 1.0, 3.0),
    (init.Uniform(std=2.0, mean=1.0), 1.0 - 2.0 * math.sqrt(3), 1.0 + 2.0 * math.sqrt(3)),
])
def test_uniform_fills_its_interval(uniform, low, high):
    value = uniform((300, 300))
    assert low <= value.min() < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < value.max() <= high
    assert value.std() == pytest.approx((high - low) / math.sqrt(12), rel=0.02)


# Fan-in and fan-out of filters count each position of the receptive field.
@pytest.mark.parametrize("initializer, shape, std", [
    (init.GlorotNormal(), (300, 200), math.sqrt(2 / 500)),
    (init.GlorotUniform(), (300, 200), math.sqrt(2 / 500)),
    (init.GlorotUniform(gain="relu"), (300, 200), math.sqrt(2) * math.sqrt(2 / 500)),
    (init.GlorotNormal(gain=0.5), (60, 40, 3, 5), 0.5 * math.sqrt(2 / (100 * 15))),
    (init.HeNormal(), (300, 200), math.sqrt(1 / 300)),
    (init.HeUniform("relu"), (300, 200), math.sqrt(2 / 300)),
    (init.HeNormal(), (60, 40, 3, 5), math.sqrt(1 / (40 * 15))),
    (init.LeCunNormal(), (300, 200), math.sqrt(1 / 300)),
    (init.LeCunUniform(), (300, 200), math.sqrt(1 / 300)),
    (init.Glorot(init.Uniform, 2.0), (300, 200), 2 * math.sqrt(2 / 500)),
])
def test_spread_follows_the_number_of_connections(initializer, shape, std):
    value = initializer(shape)
    assert value.std() == pytest.approx(std, rel=0.02)
    assert value.mean() == pytest.approx(0.0, abs=0.02 * std)
    if isinstance(initializer, (init.GlorotUniform, init.HeUniform, init.LeCunUniform)):
        assert np.abs(value).max() <= math.sqrt(3) * std * (1 + 1e-6)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (3, 2, 4)])
def test_orthogonal(shape):
    matrix = init.Orthogonal(gain=1.5)(shape).reshape(shape[0], -1) / 1.5
    small = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-12)


def test_orthogonal_is_not_biased_by_the_factorisation():
    # Without the sign correction the diagonal of a QR factor is always negative (LAPACK).
    diagonals = np.array([np.diagonal(init.Orthogonal()((4, 4))) for _ in range(200)])
    assert np.abs(np.sign(diagonals).mean(axis=0)).max() < 0.3


@pytest.mark.parametrize("sparsity, count", [(0.1, 2), (0.5, 10), (0.0, 0), (1.0, 20)])
def test_sparse_has_equally_many_elements_in_each_column(sparsity, count):
    value = init.Sparse(sparsity, std=0.5)((20, 30))
    np.testing.assert_array_equal((value != 0).sum(axis=0), np.full(30, count))
    if count:
        assert value[value != 0].std() == pytest.approx(0.5, rel=0.3)


@pytest.mark.parametrize("initializer", [init.GlorotUniform(), init.HeNormal(), init.Orthogonal(),
                                         init.Sparse()], ids=name_of)
def test_vectors_have_no_number_of_connections(initializer):
    with pytest.raises(ShapeError, match=r"shape \(5,\)"):
        initializer((5,))


def test_sparse_takes_matrices_only():
    with pytest.raises(ShapeError, match="matrices"):
        init.Sparse()((2, 3, 4))


@pytest.mark.parametrize("make, message", [
    (lambda: init.Glorot(gain="tanh"), "no gain called 'tanh'"),
    (lambda: init.Orthogonal(gain="selu"), "no gain called 'selu'"),
    (lambda: init.Sparse(sparsity=1.5), "sparsity 1.5"),
])
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()
