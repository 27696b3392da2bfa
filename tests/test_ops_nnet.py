"""Softmax, activations and cross-entropies: what the generated table test does not say."""

from __future__ import annotations

import numpy as np
import pytest

import tetractys.compiler.ops  # noqa: F401  (fills the table)
from tetractys.compiler.derivative import vjp
from tetractys.compiler.graph import Variable, input_variable, toposort
from tetractys.compiler.interpret import evaluate
from tetractys.compiler.operators import FUNCTIONS as F
from tetractys.compiler.ops.op import REGISTRY, as_tensor
from tetractys.compiler.ops.public import BUILDERS
from tetractys.runtime.errors import DtypeError, IndexOutOfRangeError, ShapeError

INF = float("inf")
LOGITS = np.array([[1.0, 2.0, -1.0], [0.5, -3.0, 0.0]])


def value_of(output: Variable, values: dict | None = None) -> np.ndarray:
    return evaluate([output], values or {})[0]


def expanded(output: Variable) -> Variable:
    """Return a composite's expansion."""
    return output.owner.op.lower.rule(*output.owner.inputs, **output.owner.params)


def gradient_at(function, point: np.ndarray) -> np.ndarray:
    """Return the gradient of the sum of a function's values."""
    x = input_variable("float64", [None] * point.ndim)
    output = function(x)
    (g,) = vjp([output], [x], [as_tensor(1.0)])
    return value_of(g, {x: point})


def operations(output: Variable) -> set[str]:
    return {node.op.name for node in toposort([output])}


# -- softmax ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("axis", [-1, 0, (0, 1), None])
def test_softmax_sums_to_one(axis):
    sums = value_of(F["softmax"](LOGITS, axis)).sum(axis=axis)
    np.testing.assert_allclose(sums, np.ones_like(sums), rtol=1e-15)


def test_softmax_stays_one_node():
    assert operations(F["softmax"](input_variable("float64", (None, None)))) == {"softmax"}


@pytest.mark.parametrize("name", ["softmax", "logsoftmax", "logsumexp"])
def test_huge_logits_do_not_overflow(name):
    x = as_tensor(np.array([1e4, -1e4, 0.0]))
    expected = {"softmax": [1.0, 0.0, 0.0], "logsoftmax": [0.0, -2e4, -1e4], "logsumexp": 1e4}
    for output in (F[name](x), expanded(F[name](x))):
        np.testing.assert_array_equal(value_of(output), expected[name])


@pytest.mark.parametrize("values, expected", [
    ([-INF, -INF], -INF), ([INF, 0.0], INF), ([-INF, 1.0], 1.0), ([INF, -INF], INF)])
def test_logsumexp_of_infinities(values, expected):
    output = F["logsumexp"](as_tensor(values))
    assert value_of(output) == expected
    assert value_of(expanded(output)) == expected


def test_logsumexp_keeps_dimensions_on_request():
    x = input_variable("float64", (None, 3))
    assert F["logsumexp"](x, axis=1, keepdims=True).type.shape == (None, 1)
    assert F["logsumexp"](x, axis=1).type.shape == (None,)
    np.testing.assert_allclose(value_of(F["logsumexp"](LOGITS)), np.log(np.exp(LOGITS).sum()))


@pytest.mark.parametrize("name", ["softmax", "logsoftmax", "logsumexp"])
def test_empty_axis_is_refused(name):
    with pytest.raises(ShapeError, match="axis of length 0"):
        F[name](np.zeros((3, 0)), axis=1)
    x = input_variable("float64", (None, None))
    with pytest.raises(ShapeError):
        value_of(F[name](x, axis=1), {x: np.zeros((3, 0))})


def test_softmax_of_a_scalar_is_refused():
    with pytest.raises(ShapeError):
        F["softmax"](as_tensor(1.0))


def test_masked_logits_have_no_gradient():
    g = gradient_at(lambda x: F["softmax"](x)[0], np.array([1.0, -INF, 2.0]))
    assert g[1] == 0.0 and np.isfinite(g).all()


# -- activations -----------------------------------------------------------------------------------

def test_relu_with_a_slope():
    x = np.array([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(value_of(F["relu"](x)), [0.0, 0.0, 3.0])
    np.testing.assert_array_equal(value_of(F["relu"](x, 0.5)), [-1.0, 0.0, 3.0])
    np.testing.assert_array_equal(value_of(F["relu"](x, as_tensor(2.0))), [-4.0, 0.0, 3.0])


def test_relu_keeps_float32():
    x = input_variable("float32", (None,))
    assert F["relu"](x).dtype == F["relu"](x, 0.1).dtype == F["elu"](x).dtype == "float32"


def test_relu_of_bool_is_refused():
    with pytest.raises(DtypeError):
        F["relu"](input_variable("bool", (None,)))


@pytest.mark.parametrize("name, at, expected", [
    ("relu", 0.0, 0.0), ("leaky_relu", 0.0, 0.01), ("elu", 0.0, 1.0), ("elu", 1e4, 1.0),
    ("elu", -1e4, 0.0), ("softsign", INF, 0.0), ("softsign", 0.0, 1.0), ("hard_sigmoid", 9.0, 0.0)])
def test_slope_of_an_activation(name, at, expected):
    assert gradient_at(F[name], np.array([at]))[0] == expected


def test_selu_keeps_mean_zero_and_variance_one():
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    y = value_of(F["selu"](nodes))
    assert abs(weights @ y) < 1e-3
    assert abs(weights @ y ** 2 - 1) < 1e-3


def test_names_under_nnet():
    assert BUILDERS["T.nnet"]["sigmoid"] is F["sigmoid"]
    assert BUILDERS["T.nnet"]["ultra_fast_sigmoid"] is F["sigmoid"]
    assert F["log_softmax"] is F["logsoftmax"] is REGISTRY["logsoftmax"].function


# -- cross-entropies -------------------------------------------------------------------------------

def test_binary_crossentropy_is_its_formula():
    p, t = np.array([0.2, 0.9]), np.array([1.0, 0.25])
    np.testing.assert_allclose(
        value_of(F["binary_crossentropy"](p, t)), -(t * np.log(p) + (1 - t) * np.log(1 - p)),
        rtol=1e-15)


def test_binary_crossentropy_shows_the_logarithm_of_its_argument():
    x = input_variable("float64", (None,))
    p = F["sigmoid"](x)
    logs = [n for n in toposort([F["binary_crossentropy"](p, 1.0)]) if n.op.name == "log"]
    assert logs[0].inputs[0] is p


def test_sigmoid_binary_crossentropy_agrees_with_the_one_of_probabilities():
    x, t = np.array([-3.0, 0.0, 2.0]), np.array([0.0, 0.3, 1.0])
    np.testing.assert_allclose(
        value_of(F["sigmoid_binary_crossentropy"](x, t)),
        value_of(F["binary_crossentropy"](F["sigmoid"](x), t)), rtol=1e-14)


def test_sigmoid_binary_crossentropy_is_accurate_far_out():
    x, t = np.array([40.0, -40.0, 1e4]), np.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(value_of(F["sigmoid_binary_crossentropy"](x, t)),
                               [np.exp(-40.0), np.exp(-40.0), 1e4], rtol=1e-15)
    g = gradient_at(lambda x: F["sigmoid_binary_crossentropy"](x, t), x)
    np.testing.assert_allclose(g, [-np.exp(-40.0), np.exp(-40.0), 1.0], rtol=1e-14)


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_crossentropy_of_classes_is_that_of_one_hot_rows(dtype):
    classes = np.array([2, 0], dtype)
    one_hot = np.eye(3)[classes]
    p = F["softmax"](LOGITS)
    expected = -np.log(value_of(p))[[0, 1], classes]
    for target in (as_tensor(classes), one_hot):
        np.testing.assert_allclose(value_of(F["categorical_crossentropy"](p, target)), expected,
                                   rtol=1e-14)
        np.testing.assert_allclose(value_of(F["softmax_cross_entropy"](LOGITS, target)), expected,
                                   rtol=1e-14)


def test_crossentropy_of_more_axes_and_of_one():
    p = np.random.default_rng(0).dirichlet(np.ones(4), (2, 3))
    classes = np.array([[0, 1, 2], [3, 0, 1]])
    result = value_of(F["categorical_crossentropy"](p, as_tensor(classes)))
    np.testing.assert_allclose(
        result, -np.log(np.take_along_axis(p, classes[..., None], -1)[..., 0]), rtol=1e-15)
    assert value_of(F["categorical_crossentropy"](p[0, 0], as_tensor(1))) == -np.log(p[0, 0, 1])


def test_gradient_of_crossentropy_is_softmax_minus_one_hot():
    classes = as_tensor(np.array([2, 0]))
    g = gradient_at(lambda x: F["softmax_cross_entropy"](x, classes), LOGITS)
    np.testing.assert_allclose(g, value_of(F["softmax"](LOGITS)) - np.eye(3)[[2, 0]], rtol=1e-13)


def test_crossentropy_targets_that_do_not_fit_are_refused():
    p = np.full((2, 3), 1 / 3)
    with pytest.raises(ShapeError, match="as many axes"):
        F["categorical_crossentropy"](p, as_tensor(1))
    with pytest.raises(DtypeError, match="classes must be integers"):
        F["categorical_crossentropy"](p, as_tensor([0.0, 1.0]))
    with pytest.raises(IndexOutOfRangeError):
        y = input_variable("int64", (None,))
        value_of(F["categorical_crossentropy"](p, y), {y: np.array([0, 3])})
