"""Losses, accuracies, nonlinearities and penalties against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

import tetractys as tx
from tetractys import debug, layers, nonlinearities, objectives, regularization
from tetractys import tensor as T
from tetractys.runtime.errors import ArgumentError, ShapeError

RNG = np.random.default_rng(7)
PROBABILITIES = special.softmax(RNG.normal(size=(6, 4)), axis=1)
SCORES = RNG.normal(size=(6, 4))
CLASSES = np.array([0, 3, 1, 2, 2, 0])
ONE_HOT = np.eye(4)[CLASSES]


def value(expression):
    """Return what an expression without inputs computes."""
    return T.as_tensor_variable(expression).eval()


# -- losses ----------------------------------------------------------------------------------------

def test_binary_crossentropy():
    p, t = PROBABILITIES[:, 0], (CLASSES == 0).astype("float64")
    result = objectives.binary_crossentropy(T.constant(p), T.constant(t))
    np.testing.assert_allclose(value(result), -t * np.log(p) - (1 - t) * np.log(1 - p))


@pytest.mark.parametrize("targets", [CLASSES, CLASSES.astype("uint8"), ONE_HOT],
                         ids=["int64", "uint8", "one-hot"])
def test_categorical_crossentropy(targets):
    result = objectives.categorical_crossentropy(T.constant(PROBABILITIES), T.constant(targets))
    np.testing.assert_allclose(value(result), -np.log(PROBABILITIES[np.arange(6), CLASSES]))


@pytest.mark.parametrize("size", [10.0, 1e4])
def test_crossentropy_of_extreme_scores_stays_finite(size):
    x = T.matrix("x")
    loss = objectives.categorical_crossentropy(nonlinearities.softmax(x),
                                               T.constant([0, 1])).sum()
    f = tx.function([x], [loss, tx.grad(loss, x)])
    scores = np.array([[0.0, size], [0.0, -size]])
    found, gradient = f(scores)
    assert found == pytest.approx(2 * (size + math.log1p(math.exp(-size))))
    near = 1 / (1 + math.exp(-size))
    np.testing.assert_allclose(gradient, [[-near, near], [near, -near]], atol=1e-300)


def test_binary_crossentropy_of_extreme_scores_stays_finite():
    x = T.vector("x")
    loss = objectives.binary_crossentropy(nonlinearities.sigmoid(x), T.constant([1.0, 0.0])).sum()
    found, gradient = tx.function([x], [loss, tx.grad(loss, x)])(np.array([-1e4, 1e4]))
    assert found == pytest.approx(2e4)
    np.testing.assert_allclose(gradient, [-1.0, 1.0])


def test_squared_error():
    a, b = SCORES, PROBABILITIES
    np.testing.assert_allclose(value(objectives.squared_error(T.constant(a), T.constant(b))),
                               (a - b)**2)


@pytest.mark.parametrize("loss", [objectives.squared_error, objectives.huber_loss,
                                  objectives.binary_crossentropy, objectives.binary_hinge_loss,
                                  objectives.binary_accuracy])
@pytest.mark.parametrize("column_first", [True, False])
def test_a_column_of_predictions_meets_a_vector_of_targets(loss, column_first):
    column, vector = T.col("p"), T.vector("t")
    pair = (column, vector) if column_first else (vector, column)
    f = tx.function([column, vector], loss(*pair))
    column_value, vector_value = np.full((3, 1), 0.25), np.array([0.0, 1.0, 1.0])
    if not column_first:
        column_value, vector_value = vector_value[:, None], column_value[:, 0]
    result = f(column_value, vector_value)
    assert result.shape == (3, 1)
    assert result[0, 0] != result[1, 0] and result[1, 0] == result[2, 0]


@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0])
def test_huber_loss(delta):
    error = np.array([-3.0, -delta, -0.25, 0.0, 0.25, delta, 3.0])
    expected = np.where(np.abs(error) <= delta, error**2 / 2, delta * (np.abs(error) - delta / 2))
    result = objectives.huber_loss(T.constant(error), T.constant(np.zeros(7)), delta)
    np.testing.assert_allclose(value(result), expected)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("log_odds", [True, False])
def test_binary_hinge_loss(binary, log_odds):
    p, t = np.array([0.1, 0.4, 0.6, 0.9]), np.array([0, 1, 0, 1])
    scores = special.logit(p)
    expected = np.maximum(0, 1.5 - scores * (2 * t - 1))
    result = objectives.binary_hinge_loss(
        T.constant(scores if log_odds else p), T.constant(t if binary else 2 * t - 1), delta=1.5,
        log_odds=log_odds, binary=binary)
    np.testing.assert_allclose(value(result), expected)


@pytest.mark.parametrize("targets", [CLASSES, CLASSES.astype("uint8"), ONE_HOT],
                         ids=["int64", "uint8", "one-hot"])
def test_multiclass_hinge_loss(targets):
    rest = np.where(ONE_HOT == 1, -np.inf, SCORES).max(axis=1)
    expected = np.maximum(0, rest - SCORES[np.arange(6), CLASSES] + 0.7)
    result = objectives.multiclass_hinge_loss(T.constant(SCORES), T.constant(targets), delta=0.7)
    np.testing.assert_allclose(value(result), expected)


def test_multiclass_hinge_loss_has_a_gradient():
    scores = T.matrix("scores")
    loss = objectives.multiclass_hinge_loss(scores, T.constant(CLASSES), delta=100.0).sum()
    gradient = tx.function([scores], tx.grad(loss, scores))(SCORES)
    rival = np.where(ONE_HOT == 1, -np.inf, SCORES).argmax(axis=1)
    np.testing.assert_allclose(gradient, np.eye(4)[rival] - ONE_HOT)


def test_multiclass_hinge_loss_refuses_a_class_that_is_not_there():
    targets = T.lvector("targets")
    f = tx.function([targets], objectives.multiclass_hinge_loss(T.constant(SCORES), targets))
    with pytest.raises(IndexError):
        f(np.array([0, 1, 2, 3, 4, 0]))


# -- aggregate -------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode, weights, expected", [
    ("mean", None, 2.0), ("sum", None, 6.0), ("mean", [1.0, 0.0, 1.0], 4.0 / 3),
    ("sum", [1.0, 0.0, 1.0], 4.0), ("normalized_sum", [1.0, 0.0, 1.0], 2.0),
])
def test_aggregate(mode, weights, expected):
    loss = T.constant([1.0, 2.0, 3.0])
    weights = None if weights is None else T.constant(weights)
    assert value(objectives.aggregate(loss, weights, mode)) == pytest.approx(expected)


@pytest.mark.parametrize("mode, message", [("normalized_sum", "weights="), ("median", "'median'")])
def test_aggregate_names_what_is_wrong(mode, message):
    with pytest.raises(ArgumentError, match=message):
        objectives.aggregate(T.vector(), mode=mode)


# -- accuracies ------------------------------------------------------------------------------------

def test_binary_accuracy():
    p, t = np.array([0.1, 0.5, 0.6, 0.3]), np.array([0, 1, 0, 1])
    result = objectives.binary_accuracy(T.constant(p), T.constant(t))
    np.testing.assert_array_equal(value(result), [True, True, False, False])
    result = objectives.binary_accuracy(T.constant(p), T.constant(t), threshold=0.2)
    np.testing.assert_array_equal(value(result), [True, True, False, True])


@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
@pytest.mark.parametrize("targets", [CLASSES, ONE_HOT], ids=["numbers", "one-hot"])
def test_categorical_accuracy(top_k, targets):
    best = np.argsort(-SCORES, axis=1, kind="stable")[:, :top_k]
    expected = (best == CLASSES[:, None]).any(axis=1)
    result = objectives.categorical_accuracy(T.constant(SCORES), T.constant(targets), top_k)
    np.testing.assert_array_equal(value(result), expected)
    assert value(result).dtype == bool


def test_categorical_accuracy_of_sequences():
    scores = RNG.normal(size=(2, 5, 3))
    targets = scores.argmax(axis=-1)
    targets[0, 0] = (targets[0, 0] + 1) % 3
    result = value(objectives.categorical_accuracy(T.constant(scores), T.constant(targets)))
    assert result.shape == (2, 5) and result.sum() == 9 and not result[0, 0]


def test_categorical_accuracy_of_ties_nan_and_missing_classes():
    nan, inf = np.nan, np.inf
    scores = np.array([[1.0, 1.0], [1.0, 1.0], [nan, 0.0], [nan, 0.0], [nan, nan], [0.0, -inf],
                       [0.0, 1.0], [-1.0, -2.0]])
    targets = np.array([0, 1, 0, 1, 0, 1, 2, -1])
    result = objectives.categorical_accuracy(T.constant(scores), T.constant(targets))
    np.testing.assert_array_equal(value(result), [True] + [False] * 7)
    result = objectives.categorical_accuracy(T.constant(scores), T.constant(targets), top_k=2)
    np.testing.assert_array_equal(
        value(result), [True, True, False, True, False, True, False, False])


def test_accuracy_beside_gradients_is_right_on_every_level():
    # The gradient of the scores, computed from the softmax, must not take its memory too early.
    images, targets = T.fmatrix("images"), T.tensor("uint8", shape=(None,), name="targets")
    network = layers.DropoutLayer(layers.InputLayer((None, 20), images), p=0.1)
    network = layers.DenseLayer(network, 10, W=RNG.normal(size=(20, 10)).astype("float32"),
                                b=np.zeros(10, "float32"), nonlinearity=nonlinearities.softmax)
    predictions = layers.get_output(network)
    loss = objectives.categorical_crossentropy(predictions, targets).mean()
    accuracy = objectives.categorical_accuracy(predictions, targets).mean()
    gradients = tx.grad(loss, layers.get_all_params(network))
    f = tx.function([images, targets], [loss, accuracy, *gradients])
    found = debug.bisect(f, RNG.normal(size=(100, 20)).astype("float32"),
                         RNG.integers(10, size=100).astype("uint8"))
    assert found.level is None, str(found)


@pytest.mark.parametrize("function", [objectives.categorical_accuracy,
                                      objectives.multiclass_hinge_loss])
def test_ranks_of_targets_are_checked(function):
    with pytest.raises(ShapeError, match="as many axes"):
        function(T.matrix("p"), T.tensor3("t"))


def test_top_k_is_positive():
    with pytest.raises(ArgumentError, match="top_k 0"):
        objectives.categorical_accuracy(T.matrix(), T.lvector(), top_k=0)


# -- nonlinearities --------------------------------------------------------------------------------

X = np.array([-1e4, -30.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 30.0, 1e4])
SCALE, SCALE_NEG = 1.0507009873554805, 1.6732632423543772


@pytest.mark.parametrize("name, reference", [
    ("sigmoid", special.expit),
    ("tanh", np.tanh),
    ("scaled_tanh", lambda x: 1.7159 * np.tanh(2 / 3 * x)),
    ("rectify", lambda x: np.maximum(x, 0)),
    ("leaky_rectify", lambda x: np.where(x > 0, x, 0.01 * x)),
    ("very_leaky_rectify", lambda x: np.where(x > 0, x, x / 3)),
    ("elu", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    ("selu", lambda x: SCALE * np.where(x > 0, x, SCALE_NEG * np.expm1(np.minimum(x, 0)))),
    ("softplus", lambda x: np.logaddexp(0, x)),
    ("linear", lambda x: x),
    ("identity", lambda x: x),
    ("softmax", lambda x: special.softmax(x)),
])
def test_nonlinearity(name, reference):
    x = T.vector("x")
    y = getattr(nonlinearities, name)(x)
    result, gradient = tx.function([x], [y, tx.grad(y.sum(), x)])(X)
    np.testing.assert_allclose(result, reference(X), rtol=1e-14, atol=1e-300)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("function, x, expected", [
    (nonlinearities.LeakyRectify(0.5), -2.0, -1.0),
    (nonlinearities.ScaledTanH(2.0, 3.0), 0.5, 3 * math.tanh(1.0)),
    (nonlinearities.ScaledTanh(2.0, 3.0), 0.5, 3 * math.tanh(1.0)),
    (nonlinearities.SELU(2.0, 3.0), -1.0, 6 * math.expm1(-1.0)),
    (nonlinearities.SELU(2.0, 3.0), 1.5, 3.0),
])
def test_nonlinearity_with_parameters(function, x, expected):
    assert value(function(T.constant(x))) == pytest.approx(expected)


def test_selu_keeps_zero_mean_and_unit_variance():
    x = np.random.default_rng(0).normal(size=200_000)
    y = value(nonlinearities.selu(T.constant(x)))
    assert y.mean() == pytest.approx(0, abs=0.01) and y.var() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", nonlinearities.__all__)
def test_nonlinearities_keep_float32(name):
    function = getattr(nonlinearities, name)
    function = function() if isinstance(function, type) else function
    assert function(T.fmatrix()).dtype == "float32"


# -- penalties -------------------------------------------------------------------------------------

def _two_layers():
    first = layers.DenseLayer((None, 2), 2, W=np.array([[1.0, -2.0], [3.0, 0.0]]),
                              b=np.array([5.0, 5.0]), name="a")
    return first, layers.DenseLayer(first, 1, W=np.array([[-1.0], [2.0]]), b=np.ones(1), name="b")


def test_l1_and_l2():
    x = T.constant([[1.0, -2.0], [3.0, 0.0]])
    assert value(regularization.l1(x)) == 6.0
    assert value(regularization.l2(x)) == 14.0


def test_apply_penalty_sums_and_passes_arguments_on():
    x, y = T.constant([1.0, 2.0]), T.constant([3.0])

    def scaled(z, factor):
        return factor * z.sum()
    assert value(regularization.apply_penalty(x, scaled, factor=2)) == 6.0
    assert value(regularization.apply_penalty([x, y], scaled, factor=2)) == 12.0
    assert value(regularization.apply_penalty([], regularization.l2)) == 0.0


def test_regularize_network_params_leaves_biases_out():
    _, last = _two_layers()
    assert value(regularization.regularize_network_params(last, regularization.l2)) == 19.0
    with_biases = regularization.regularize_network_params(last, regularization.l1,
                                                           tags={"trainable": True})
    assert value(with_biases) == 6.0 + 3.0 + 11.0


def test_regularize_layer_params():
    first, last = _two_layers()
    assert value(regularization.regularize_layer_params(last, regularization.l2)) == 5.0
    assert value(regularization.regularize_layer_params([first, last], regularization.l2)) == 19.0
    weighted = regularization.regularize_layer_params_weighted({first: 0.5, last: 2.0},
                                                               regularization.l2)
    assert value(weighted) == 0.5 * 14 + 2 * 5
