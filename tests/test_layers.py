"""Each layer on its own: shapes, expressions against NumPy, parameters, errors."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import tetractys as tx
from tetractys import init, layers, nonlinearities
from tetractys import tensor as T
from tetractys.runtime.errors import ArgumentError, ShapeError

RNG = np.random.default_rng(11)


def apply(layer, *arrays, **options):
    """Return what a layer makes of arrays."""
    inputs = [T.tensor(a.dtype.name, shape=(None,) * a.ndim) for a in arrays]
    given = inputs if isinstance(layer, layers.MergeLayer) else inputs[0]
    return tx.function(inputs, layer.get_output_for(given, **options))(*arrays)


def line_here():
    """Return this file and the caller's line, as messages show it."""
    frame = inspect.currentframe().f_back
    return f"{__file__}:{frame.f_lineno}"


# -- the base --------------------------------------------------------------------------------------

class Doubling(layers.Layer):
    """A layer of a user's own, with a parameter."""

    def __init__(self, incoming, factor=2.0, **kwargs):
        super().__init__(incoming, **kwargs)
        self.factor = self.add_param(factor, (), name="factor", special=True, trainable=False)

    def get_output_for(self, input, **kwargs):
        """Return the input times the factor."""
        return input * self.factor


def test_a_layer_of_ones_own():
    layer = Doubling((None, 3), name="twice")
    assert layer.input_layer is None and layer.input_shape == layer.output_shape == (None, 3)
    assert layer.factor.name == "twice.factor"
    np.testing.assert_array_equal(apply(layer, np.ones((2, 3))), np.full((2, 3), 2.0))


def test_tags_select_parameters():
    layer = Doubling((3,))
    assert layer.get_params() == [layer.factor]
    assert layer.get_params(special=True) == layer.get_params(trainable=False) == [layer.factor]
    assert layer.get_params(trainable=True) == layer.get_params(special=False) == []
    assert layer.get_params(regularizable=True, special=True) == [layer.factor]


def test_messages_name_the_layer_and_the_users_line():
    here = line_here()
    layer = Doubling((3,), name="mine")
    file, line = here.rsplit(":", 1)
    assert layer.site == f"{file}:{int(line) + 1}"
    assert repr(layer) == "<Doubling 'mine'>"


def test_without_get_output_for_a_layer_says_so():
    with pytest.raises(NotImplementedError, match="Layer does not define get_output_for"):
        layers.Layer((3,)).get_output_for(T.vector())
    merge = layers.MergeLayer([(3,), (3,)])
    with pytest.raises(NotImplementedError, match="get_output_for"):
        merge.get_output_for([T.vector(), T.vector()])
    with pytest.raises(NotImplementedError, match="get_output_shape_for"):
        merge.output_shape


@pytest.mark.parametrize("shape", [(None, 0), (-1, 3), (2.0, 3)])
def test_sizes_of_inputs_are_positive(shape):
    with pytest.raises(ShapeError, match="NonlinearityLayer 'n': .*\n.*input shape .*\n.*"
                                         "test_layers.py"):
        layers.NonlinearityLayer(shape, name="n")


@pytest.mark.parametrize("incoming", [None, 3, "x"])
def test_an_input_is_a_layer_or_a_shape(incoming):
    with pytest.raises(ArgumentError, match="neither a layer nor a shape"):
        layers.NonlinearityLayer(incoming)


def test_a_merge_layer_needs_inputs():
    with pytest.raises(ArgumentError, match="no inputs"):
        layers.ElemwiseSumLayer([])


# -- parameters ------------------------------------------------------------------------------------

@pytest.mark.parametrize("spec, dtype", [
    (np.arange(6.0).reshape(2, 3), "float64"),
    (np.arange(6, dtype="float32").reshape(2, 3), "float32"),
    (lambda shape: np.arange(6.0).reshape(shape), "float64"),
    (lambda shape: tx.shared(np.arange(6.0).reshape(shape)), "float64"),
    (tx.shared(np.arange(6.0).reshape(2, 3)), "float64"),
], ids=["array", "float32", "callable", "callable-shared", "shared"])
def test_what_may_be_given_for_a_parameter(spec, dtype):
    param = layers.create_param(spec, (2, 3), name="p")
    np.testing.assert_array_equal(param.get_value(), np.arange(6.0).reshape(2, 3))
    assert param.dtype == dtype and param.name == "p"


def test_new_parameters_have_known_sizes():
    assert layers.create_param(init.Normal(), (1, 3)).type.shape == (1, 3)
    assert layers.create_param(init.Normal(), (1, 3)).broadcastable == (True, False)


@pytest.mark.parametrize("number", [2, 2.5, True])
def test_a_number_is_a_parameter_of_floatX(number):
    param = layers.create_param(number, ())
    assert param.dtype == tx.config.floatX and param.get_value() == number


def test_a_given_name_is_kept():
    shared = tx.shared(np.zeros(3), name="mine")
    assert layers.create_param(shared, (3,), name="other") is shared
    assert shared.name == "mine"


def test_an_expression_may_be_a_parameter():
    raw = tx.shared(np.array([0.0, 1.0]), name="raw")
    layer = layers.DenseLayer((None, 1), 2, W=T.exp(raw).dimshuffle("x", 0), b=raw)
    assert layer.get_params() == [raw]
    assert layer.get_params(unwrap_shared=False) == [layer.W, layer.b]
    np.testing.assert_allclose(apply(layer, np.array([[1.0]])), [[1.0, np.e + 1.0]])


def test_collect_shared_vars_keeps_order_and_drops_repeats():
    a, b, c = (tx.shared(np.zeros(2), name=name) for name in "abc")
    assert layers.collect_shared_vars([b + T.vector(), a * b + c]) == [b, a, c]
    assert layers.collect_shared_vars(T.vector()) == []


@pytest.mark.parametrize("spec, needed", [
    (np.zeros((3, 2)), (2, 3)),
    (lambda shape: np.zeros(4), (2, 3)),
    (tx.shared(np.zeros(4)), (5,)),
    (T.constant(np.zeros(4)), (5,)),
    (T.vector(), (2, 3)),
    (1.0, (2,)),
])
def test_a_parameter_of_another_shape_is_refused(spec, needed):
    with pytest.raises(ShapeError, match="layer needs"):
        layers.create_param(spec, needed)


@pytest.mark.parametrize("spec", ["zeros", [1.0], lambda shape: "zeros", None])
def test_what_is_no_parameter_is_refused(spec):
    with pytest.raises(ArgumentError, match="no parameter"):
        layers.create_param(spec, (1,))


@pytest.mark.parametrize("shape", [(None, 3), (0,), (-1,), (2.0,)])
def test_parameters_have_positive_sizes(shape):
    with pytest.raises(ShapeError, match="positive"):
        layers.create_param(init.Normal(), shape)


def test_a_parameter_error_names_layer_and_parameter():
    with pytest.raises(ShapeError, match="DenseLayer 'd'.*test_layers.py.*d.W"):
        layers.DenseLayer((None, 3), 2, W=np.zeros((2, 3)), name="d")


# -- input -----------------------------------------------------------------------------------------

def test_input_layer_makes_a_variable():
    layer = layers.InputLayer((None, 1, 3), name="pixels")
    assert layer.output_shape == layer.shape == (None, 1, 3)
    assert layer.input_var.type.shape == (None, 1, 3)
    assert layer.input_var.dtype == tx.config.floatX
    assert layer.input_var.name == "pixels.input"
    assert layers.InputLayer((2,)).input_var.name == "input"


def test_input_layer_takes_a_variable():
    variable = T.imatrix("counts")
    assert layers.InputLayer((None, 3), variable).input_var is variable


@pytest.mark.parametrize("shape, variable", [
    ((None, 3), T.tensor3()), ((None, 3), T.tensor(shape=(None, 4))),
])
def test_input_layer_refuses_a_variable_of_another_shape(shape, variable):
    with pytest.raises(ShapeError, match="shape declared"):
        layers.InputLayer(shape, variable)


# -- dense -----------------------------------------------------------------------------------------

W, B = RNG.normal(size=(6, 4)), RNG.normal(size=4)


def test_dense():
    layer = layers.DenseLayer((None, 6), 4, W=W, b=B, nonlinearity=nonlinearities.tanh, name="d")
    x = RNG.normal(size=(5, 6))
    assert layer.output_shape == (None, 4)
    assert [p.name for p in layer.get_params()] == ["d.W", "d.b"]
    assert layer.get_params(regularizable=True) == [layer.W]
    np.testing.assert_allclose(apply(layer, x), np.tanh(x @ W + B))


def test_dense_defaults():
    init.set_rng(0)
    layer = layers.DenseLayer((None, 6), 4)
    assert layer.nonlinearity is nonlinearities.rectify
    assert layer.b.get_value().tolist() == [0.0] * 4
    assert 0 < np.abs(layer.W.get_value()).max() <= np.sqrt(6 / 10)


def test_dense_without_biases_or_nonlinearity():
    layer = layers.DenseLayer((None, 6), 4, W=W, b=None, nonlinearity=None)
    x = RNG.normal(size=(5, 6))
    assert layer.b is None and len(layer.get_params()) == 1
    np.testing.assert_allclose(apply(layer, x), x @ W)


@pytest.mark.parametrize("shape, leading, output", [
    ((5, 2, 3), 1, (5, 4)), ((5, 3, 6), 2, (5, 3, 4)), ((5, 3, 6), -1, (5, 3, 4)),
    ((2, 3), 0, (4,)), ((5, 3, 2, 3), -2, (5, 3, 4)), ((6,), 0, (4,)),
])
def test_dense_with_leading_axes(shape, leading, output):
    layer = layers.DenseLayer(shape, 4, W=W, b=B, nonlinearity=None, num_leading_axes=leading)
    x = RNG.normal(size=shape)
    assert layer.output_shape == output
    expected = x.reshape(*output[:-1], 6) @ W + B
    np.testing.assert_allclose(apply(layer, x), expected)


@pytest.mark.parametrize("kind, shape, options, message", [
    (ShapeError, (None, None), {}, "sizes of its features"),
    (ShapeError, (None, 3, None), {}, "sizes of its features"),
    (ArgumentError, (None, 3), dict(num_leading_axes=2), "num_leading_axes 2"),
    (ArgumentError, (None, 3), dict(num_leading_axes=-3), "num_leading_axes -3"),
    (ArgumentError, (None, 3), dict(num_units=0), "num_units 0"),
])
def test_dense_errors(kind, shape, options, message):
    with pytest.raises(kind, match=f"DenseLayer 'd'(.|\n)*{message}"):
        layers.DenseLayer(shape, **{"num_units": 4, "name": "d", **options})


# -- noise -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropout_drops_a_share_and_rescales(p, dtype):
    init.set_rng(5)
    result = apply(layers.DropoutLayer((None, 100), p), np.ones((200, 100), dtype))
    assert result.dtype == dtype
    assert (result == 0).mean() == pytest.approx(p, abs=0.01)
    np.testing.assert_allclose(result[result != 0], 1 / (1 - p), rtol=1e-6)


def test_dropout_without_rescaling():
    result = apply(layers.dropout((None, 100), 0.5, rescale=False), np.full((20, 100), 3.0))
    assert set(np.unique(result)) == {0.0, 3.0}


def test_dropout_is_off_when_deterministic_or_zero():
    x = T.matrix()
    assert layers.DropoutLayer((None, 3)).get_output_for(x, deterministic=True) is x
    assert layers.DropoutLayer((None, 3), p=0).get_output_for(x) is x


@pytest.mark.parametrize("axes, is_shared", [((1,), [1]), ((-1, 1), [1, 2]), ((0,), [0])])
def test_dropout_shares_draws_along_axes(axes, is_shared):
    init.set_rng(5)
    result = apply(layers.DropoutLayer((8, 10, 12), 0.5, shared_axes=axes), np.ones((8, 10, 12)))
    for axis in range(3):
        constant = (result == result.take([0], axis=axis)).all()
        assert constant == (axis in is_shared)


def test_dropout_probability_may_be_shared():
    p = tx.shared(np.float64(0.5))
    x = T.fmatrix()
    layer = layers.DropoutLayer((None, 100), p)
    f = tx.function([x], layer.get_output_for(x))
    ones = np.ones((100, 100), "float32")
    assert (f(ones) == 0).mean() == pytest.approx(0.5, abs=0.03)
    p.set_value(0.0)
    result = f(ones)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, ones)


def test_dropout_draws_anew_in_each_call_and_the_seed_decides():
    def draws():
        init.set_rng(9)
        x = T.matrix()
        f = tx.function([x], layers.DropoutLayer((None, 50)).get_output_for(x))
        return f(np.ones((4, 50))), f(np.ones((4, 50)))
    first, second = draws()
    assert (first != second).any()
    np.testing.assert_array_equal(draws(), (first, second))


def test_two_dropout_layers_draw_apart():
    init.set_rng(9)
    x = T.matrix()
    outputs = [layers.DropoutLayer((None, 50)).get_output_for(x) for _ in range(2)]
    first, second = tx.function([x], outputs)(np.ones((4, 50)))
    assert (first != second).any()


def test_the_gradient_uses_the_mask_of_the_output():
    x = T.matrix()
    y = layers.DropoutLayer((None, 50)).get_output_for(x)
    output, gradient = tx.function([x], [y, tx.grad(y.sum(), x)])(np.ones((4, 50)))
    np.testing.assert_array_equal(output, gradient)


@pytest.mark.parametrize("options, message", [
    (dict(p=1.0), "p 1.0"), (dict(p=-0.1), "p -0.1"), (dict(p=float("nan")), "p nan"),
    (dict(shared_axes=(2,)), "shared_axes"),
])
def test_dropout_errors(options, message):
    with pytest.raises(ArgumentError, match=message):
        layers.DropoutLayer((None, 3), **options)


# -- nonlinearity and shape ------------------------------------------------------------------------

def test_nonlinearity_layer():
    x = RNG.normal(size=(2, 3))
    np.testing.assert_array_equal(apply(layers.NonlinearityLayer((None, 3)), x), np.maximum(x, 0))
    assert layers.NonlinearityLayer((3,), None).nonlinearity is nonlinearities.linear


@pytest.mark.parametrize("input_shape, entries, known, size, output", [
    ((16, 3, 5), (48, 5), (48, 5), (16, 3, 5), (48, 5)),
    ((16, 3, 5), (-1, 5), (48, 5), (16, 3, 5), (48, 5)),
    ((None, 3, 5), ([0], -1), (None, 15), (2, 3, 5), (2, 15)),
    ((None, 3, 5), (-1, [2], [1]), (None, 5, 3), (2, 3, 5), (2, 5, 3)),
    ((None, None, 6), ([1], [0], 2, -1), (None, None, 2, 3), (2, 4, 6), (4, 2, 2, 3)),
    ((None, 6), ([0], [0], -1), (None, None, None), (3, 6), (3, 3, 2)),
    ((None, 6), ([-2], 3, 2), (None, 3, 2), (4, 6), (4, 3, 2)),
    ((2, 3), (-1,), (6,), (2, 3), (6,)),
    ((1, 1), (), (), (1, 1), ()),
])
def test_reshape(input_shape, entries, known, size, output):
    layer = layers.ReshapeLayer(input_shape, entries)
    x = RNG.normal(size=size)
    assert layer.output_shape == known
    np.testing.assert_array_equal(apply(layer, x), x.reshape(output))


def test_reshape_takes_symbolic_sizes():
    rows = T.iscalar("rows")
    layer = layers.ReshapeLayer((None, 6), (rows, -1))
    x = T.matrix()
    assert layer.output_shape == (None, None)
    f = tx.function([x, rows], layer.get_output_for(x))
    assert f(np.zeros((2, 6)), 3).shape == (3, 4)


@pytest.mark.parametrize("kind, shape, message", [
    (ArgumentError, (-1, -1), "at most one"),
    (ArgumentError, (0, 6), "0 is not an entry"),
    (ArgumentError, ([2], -1), r"\[2\] is not an entry"),
    (ArgumentError, (2.0, 3), "2.0 is not an entry"),
    (ArgumentError, ([0, 1],), "is not an entry"),
    (ShapeError, (7,), "as many elements"),
    (ShapeError, (4, -1), "as many elements"),
])
def test_reshape_errors(kind, shape, message):
    with pytest.raises(kind, match=f"ReshapeLayer.*{message}"):
        layers.ReshapeLayer((2, 3), shape)


@pytest.mark.parametrize("shape, outdim, known, output", [
    ((None, 3, 4), 2, (None, 12), (2, 12)), ((None, 3, 4), 1, (None,), (24,)),
    ((None, 3, 4), 3, (None, 3, 4), (2, 3, 4)), ((2, None, 4), 2, (2, None), (2, 12)),
])
def test_flatten(shape, outdim, known, output):
    layer = layers.FlattenLayer(shape, outdim)
    x = RNG.normal(size=(2, 3, 4))
    assert layer.output_shape == known
    np.testing.assert_array_equal(apply(layer, x), x.reshape(output))


@pytest.mark.parametrize("outdim", [0, 4])
def test_flatten_errors(outdim):
    with pytest.raises(ArgumentError, match=f"outdim {outdim}"):
        layers.FlattenLayer((None, 3, 4), outdim)


# -- merge -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("axis", [1, -1, 0])
def test_concat(axis):
    shapes = [(2, 3), (2, 3)]
    layer = layers.ConcatLayer(shapes, axis=axis)
    arrays = [RNG.normal(size=shape) for shape in shapes]
    expected = np.concatenate(arrays, axis=axis)
    assert layer.output_shape == expected.shape
    np.testing.assert_array_equal(apply(layer, *arrays), expected)


def test_concat_of_unknown_sizes():
    assert layers.ConcatLayer([(None, 3), (5, 3)]).output_shape == (5, 6)
    assert layers.ConcatLayer([(None, 3), (5, 3)], axis=0).output_shape == (None, 3)


@pytest.mark.parametrize("mode, picks", [
    ("lower", (slice(0, 3), slice(0, 3))), ("upper", (slice(2, 5), slice(0, 3))),
    ("center", (slice(1, 4), slice(0, 3))),
])
def test_cropping(mode, picks):
    layer = layers.ConcatLayer([(None, 2, 5), (None, 4, 3)], axis=1, cropping=[None, "lower", mode])
    a, b = RNG.normal(size=(2, 2, 5)), RNG.normal(size=(2, 4, 3))
    expected = np.concatenate([a[..., picks[0]], b[..., picks[1]]], axis=1)
    assert layer.output_shape == (None, 6, 3)
    np.testing.assert_array_equal(apply(layer, a, b), expected)


def test_autocrop_with_nothing_to_crop_returns_its_inputs():
    x, y = T.matrix(), T.matrix()
    assert layers.autocrop([x, y], None) == [x, y]
    assert layers.autocrop_array_shapes([(None, 3), (4, 2)], ["lower", "upper"]) \
        == [(None, 2), (None, 2)]


def test_elemwise_sum():
    a, b = RNG.normal(size=(2, 3)), RNG.normal(size=(2, 3))
    layer = layers.ElemwiseSumLayer([(None, 3), (2, 3)], coeffs=[2.0, -1])
    assert layer.output_shape == (2, 3)
    np.testing.assert_allclose(apply(layer, a, b), 2 * a - b)
    np.testing.assert_allclose(apply(layers.ElemwiseSumLayer([(2, 3)] * 2), a, b), a + b)
    np.testing.assert_allclose(apply(layers.ElemwiseSumLayer([(2, 3)] * 2, 0.5), a, b), (a + b) / 2)


def test_elemwise_merge_broadcasts_axes_of_one():
    x, y = T.matrix(), T.row()
    layer = layers.ElemwiseMergeLayer([(None, 3), (1, 3)], T.maximum)
    assert layer.output_shape == (None, 3)
    a, b = RNG.normal(size=(4, 3)), RNG.normal(size=(1, 3))
    result = tx.function([x, y], layer.get_output_for([x, y]))(a, b)
    np.testing.assert_array_equal(result, np.maximum(a, b))


@pytest.mark.parametrize("kind, make, message", [
    (ShapeError, lambda: layers.ConcatLayer([(2, 3), (4, 3)]), "size along axis 0"),
    (ShapeError, lambda: layers.ConcatLayer([(2, 3), (2, 3, 1)]), "equally many axes"),
    (ArgumentError, lambda: layers.ConcatLayer([(2, 3), (2, 3)], axis=2), "axis 2"),
    (ArgumentError, lambda: layers.ConcatLayer([(2, 3)], cropping=["middle"]), "middle"),
    (ShapeError, lambda: layers.ElemwiseSumLayer([(2, 3), (2, 4)]), "size along axis 1"),
    (ArgumentError, lambda: layers.ElemwiseSumLayer([(2,), (2,)], [1]), "1 coefficients, 2 inputs"),
])
def test_merge_errors(kind, make, message):
    with pytest.raises(kind, match=f"(.|\n)*{message}"):
        make()
