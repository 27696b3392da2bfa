"""Whole networks: walks, outputs, parameters, saving and loading, training."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import tetractys as tx
from tetractys import init, layers, nonlinearities, objectives, updates
from tetractys import tensor as T
from tetractys.runtime.errors import ArgumentError, ShapeError


class Diamond:
    """input -> left, right -> joined: a network that is no chain."""

    def __init__(self):
        init.set_rng(3)
        self.input = layers.InputLayer((None, 4), name="input")
        self.left = layers.DenseLayer(self.input, 3, name="left")
        self.right = layers.DenseLayer(self.input, 2, W=self.left.W[:, :2], name="right")
        self.joined = layers.ConcatLayer([self.left, self.right], name="joined")
        self.all = [self.input, self.left, self.right, self.joined]


@pytest.fixture
def net():
    """Return a small network of each kind of layer."""
    return Diamond()


X = np.random.default_rng(0).normal(size=(5, 4))


def outputs_of(net, x=X):
    """Return what the diamond's layers give for ``x``, computed in NumPy."""
    w = net.left.W.get_value()
    left = np.maximum(x @ w + net.left.b.get_value(), 0)
    right = np.maximum(x @ w[:, :2] + net.right.b.get_value(), 0)
    return left, right


# -- walks -----------------------------------------------------------------------------------------

def test_layers_come_after_the_ones_they_read(net):
    assert layers.get_all_layers(net.joined) == net.all
    assert layers.get_all_layers([net.right, net.left]) == [net.input, net.right, net.left]
    assert layers.get_all_layers(layers.DenseLayer((None, 3), 2))[0].input_layer is None


def test_walks_stop_at_layers_treated_as_input(net):
    assert layers.get_all_layers(net.joined, treat_as_input=[net.left, net.right]) \
        == [net.left, net.right, net.joined]
    assert layers.get_all_layers(net.joined, treat_as_input=[net.left]) \
        == [net.left, net.input, net.right, net.joined]


def test_deep_networks_need_no_recursion():
    depth = 3 * sys.getrecursionlimit()
    layer = layers.InputLayer((None, 2))
    for _ in range(depth):
        layer = layers.NonlinearityLayer(layer, nonlinearities.linear)
    assert len(layers.get_all_layers(layer)) == depth + 1
    assert layers.get_output(layer).ndim == 2
    assert layers.get_output_shape(layer, (7, 2)) == (7, 2)


def test_what_is_no_layer_is_refused():
    with pytest.raises(ArgumentError, match="tuple"):
        layers.get_all_layers([(3,)])


# -- outputs ---------------------------------------------------------------------------------------

def test_output_of_the_networks_own_input(net):
    f = tx.function([net.input.input_var], layers.get_output(net.joined))
    np.testing.assert_allclose(f(X), np.concatenate(outputs_of(net), axis=1))


@pytest.mark.parametrize("wrap", [lambda v: v, T.constant], ids=["array", "variable"])
def test_output_for_another_input(net, wrap):
    result = layers.get_output(net.joined, wrap(X)).eval()
    np.testing.assert_allclose(result, np.concatenate(outputs_of(net), axis=1))
    result = layers.get_output(net.joined, {net.input: wrap(2 * X)}).eval()
    np.testing.assert_allclose(result, np.concatenate(outputs_of(net, 2 * X), axis=1))


def test_outputs_of_several_layers(net):
    results = layers.get_output([net.left, net.right, net.input], X)
    left, right = outputs_of(net)
    for result, expected in zip(results, (left, right, X), strict=True):
        np.testing.assert_allclose(result.eval(), expected)


def test_output_with_a_hidden_layer_replaced(net):
    left, right = outputs_of(net)
    result = layers.get_output(net.joined, {net.right: right, net.left: 2 * left}).eval()
    np.testing.assert_allclose(result, np.concatenate([2 * left, right], axis=1))


def test_a_layer_without_input_needs_one():
    layer = layers.DenseLayer((None, 4), 2, name="alone")
    with pytest.raises(ArgumentError, match="DenseLayer 'alone'.*no input"):
        layers.get_output(layer)
    with pytest.raises(ArgumentError, match="DenseLayer 'alone'.*no input"):
        layers.get_output(layer, X)
    merged = layers.ConcatLayer([layers.InputLayer((None, 4)), (None, 2)], name="half")
    with pytest.raises(ArgumentError, match="ConcatLayer 'half'.*no input"):
        layers.get_output(merged)


def test_an_input_of_another_rank_is_refused(net):
    with pytest.raises(ShapeError, match="InputLayer 'input'.*number of axes"):
        layers.get_output(net.joined, T.vector("x"))


def test_keywords_reach_the_layers():
    class Recorder(layers.Layer):
        def get_output_for(self, input, flavour=None, **kwargs):
            self.seen = flavour, kwargs
            return input
    layer = Recorder(layers.InputLayer((3,)))
    layers.get_output(layer, flavour="sweet", deterministic=True)
    assert layer.seen == ("sweet", {"deterministic": True})


def test_a_keyword_nobody_takes_is_warned_about(net):
    with pytest.warns(UserWarning, match="'determinstic'; did you mean 'deterministic'"):
        layers.get_output(net.joined, determinstic=True)
    with pytest.warns(UserWarning, match="'zzz'$"):
        layers.get_output(net.joined, zzz=1)


def test_layers_can_announce_keywords(net, recwarn):
    net.left.get_output_kwargs.append("mode")
    layers.get_output(net.joined, mode="fast", deterministic=True)
    assert [w for w in recwarn if issubclass(w.category, UserWarning)] == []


# -- shapes ----------------------------------------------------------------------------------------

def test_output_shapes(net):
    assert layers.get_output_shape(net.joined) == (None, 5)
    assert layers.get_output_shape([net.left, net.right]) == [(None, 3), (None, 2)]
    assert layers.get_output_shape(net.joined, (7, 4)) == (7, 5)
    assert layers.get_output_shape(net.joined, {net.input: (7, 4)}) == (7, 5)
    assert layers.get_output_shape(net.joined, {net.left: (7, 3), net.right: (None, 9)}) == (7, 12)
    assert layers.get_output_shape(layers.FlattenLayer((None, 2, 3))) == (None, 6)


def test_a_layer_without_input_needs_a_shape():
    layer = layers.DenseLayer((None, 4), 2, name="alone")
    with pytest.raises(ArgumentError, match="no shape was given"):
        layers.get_output_shape(layer, (7, 4))
    assert layers.get_output_shape(layer, {layer: (7, 2)}) == (7, 2)


# -- parameters ------------------------------------------------------------------------------------

def test_parameters_come_once_and_in_order(net):
    assert layers.get_all_params(net.joined) == [net.left.W, net.left.b, net.right.b]
    assert layers.get_all_params(net.joined, unwrap_shared=False) \
        == [net.left.W, net.left.b, net.right.W, net.right.b]
    assert layers.get_all_params(net.joined, regularizable=False) == [net.left.b, net.right.b]
    assert layers.get_all_params([net.right]) == [net.left.W, net.right.b]


def test_count_params(net):
    assert layers.count_params(net.joined) == 4 * 3 + 3 + 2
    assert layers.count_params(net.joined, regularizable=True) == 12


def test_values_are_copies(net):
    values = layers.get_all_param_values(net.joined)
    values[0][:] = 100.0
    assert net.left.W.get_value().max() < 100.0


def test_saving_and_loading(net, tmp_path):
    np.savez(tmp_path / "net.npz", *layers.get_all_param_values(net.joined))
    other = Diamond()
    for param in layers.get_all_params(other.joined):
        param.set_value(param.get_value() + 1.0)
    with np.load(tmp_path / "net.npz") as file:
        values = [file[f"arr_{i}"] for i in range(len(file.files))]
    layers.set_all_param_values(other.joined, values)
    for mine, theirs in zip(layers.get_all_params(net.joined), layers.get_all_params(other.joined)):
        np.testing.assert_array_equal(mine.get_value(), theirs.get_value())


def test_setting_converts_to_the_parameters_dtype():
    layer = layers.DenseLayer((None, 2), 2, W=np.zeros((2, 2), "float32"), b=None)
    layers.set_all_param_values(layer, [np.full((2, 2), 0.1)])
    assert layer.W.get_value().dtype == np.float32
    assert layer.W.get_value()[0, 0] == np.float32(0.1)


@pytest.mark.parametrize("change, kind, message", [
    (lambda v: v[:-1], ArgumentError, "2 values, 3 parameters"),
    (lambda v: [*v[:-1], np.zeros(7)], ShapeError, r"parameter 2, right.b(.|\n)*\(7,\)"),
    (lambda v: [*v[:-1], np.array(["a", "b"])], ValueError, "could not convert"),
])
def test_nothing_is_set_unless_everything_fits(net, change, kind, message):
    before = layers.get_all_param_values(net.joined)
    with pytest.raises(kind, match=message):
        layers.set_all_param_values(net.joined, change([v + 1 for v in before]))
    for old, now in zip(before, layers.get_all_param_values(net.joined), strict=True):
        np.testing.assert_array_equal(old, now)


# -- together --------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network_learns_exclusive_or(dtype):
    init.set_rng(1)
    before, tx.config.floatX = tx.config.floatX, dtype
    try:
        x, t = T.matrix("x"), T.lvector("t")
        network = layers.InputLayer((None, 2), x)
        network = layers.DenseLayer(network, 8, nonlinearity=nonlinearities.tanh)
        network = layers.DenseLayer(network, 2, nonlinearity=nonlinearities.softmax)
        prediction = layers.get_output(network)
        loss = objectives.categorical_crossentropy(prediction, t).mean()
        params = layers.get_all_params(network, trainable=True)
        step = tx.function([x, t], loss, updates=updates.adam(loss, params, learning_rate=0.05))
        classify = tx.function([x], prediction.argmax(axis=1))
    finally:
        tx.config.floatX = before
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype)
    classes = np.array([0, 1, 1, 0])
    losses = [float(step(corners, classes)) for _ in range(200)]
    assert losses[-1] < 0.05 < losses[0]
    np.testing.assert_array_equal(classify(corners), classes)
    assert all(param.get_value().dtype == dtype for param in params)
