"""Optimisers against steps written in NumPy from the papers' equations.

The references here hold the state in plain arrays and apply each paper's algorithm line by line,
in float64; none of Tetractys takes part in them.
"""

from __future__ import annotations

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys import updates
from tetractys.runtime.errors import ArgumentError, ShapeError

START = np.array([[0.5, -1.25, 2.0], [3.0, -0.125, 0.0]])
CURVATURE = np.array([[1.0, 4.0, 0.25], [2.0, 0.5, 1.0]])
STEPS = 7


def gradient_at(w):
    """Return the gradient of ``sum(c w**4 / 4 - w)``: it changes from step to step."""
    return CURVATURE * w**3 - 1.0


def loss_of(w):
    """Return the expression that :func:`gradient_at` is the gradient of."""
    return (CURVATURE.astype(w.dtype) * w**4 / 4 - w).sum()


# -- the references --------------------------------------------------------------------------------

def sgd(rate=0.01):
    """Robbins and Monro (1951)."""
    w = START.copy()
    for _ in range(STEPS):
        w = w - rate * gradient_at(w)
    return w


def momentum(rate=0.01, mu=0.9):
    """Polyak (1964): v accumulates, w moves by v."""
    w, v = START.copy(), np.zeros_like(START)
    for _ in range(STEPS):
        v = mu * v - rate * gradient_at(w)
        w = w + v
    return w


def nesterov_momentum(rate=0.01, mu=0.9):
    """Sutskever et al. (2013), equations 3 and 4: the gradient is taken ahead, at w + mu v.

    Tetractys holds the point ahead, so that is what is returned.
    """
    w, v = START.copy(), np.zeros_like(START)
    for _ in range(STEPS):
        v = mu * v - rate * gradient_at(w + mu * v)
        w = w + v
    return w + mu * v


def adagrad(rate=0.1, epsilon=1e-6):
    """Duchi et al. (2011)."""
    w, total = START.copy(), np.zeros_like(START)
    for _ in range(STEPS):
        g = gradient_at(w)
        total = total + g * g
        w = w - rate * g / np.sqrt(total + epsilon)
    return w


def rmsprop(rate=0.01, rho=0.9, epsilon=1e-6):
    """Tieleman and Hinton (2012)."""
    w, mean = START.copy(), np.zeros_like(START)
    for _ in range(STEPS):
        g = gradient_at(w)
        mean = rho * mean + (1 - rho) * g * g
        w = w - rate * g / np.sqrt(mean + epsilon)
    return w


def adadelta(rate=1.0, rho=0.95, epsilon=1e-6):
    """Zeiler (2012), algorithm 1."""
    w, g2, x2 = START.copy(), np.zeros_like(START), np.zeros_like(START)
    for _ in range(STEPS):
        g = gradient_at(w)
        g2 = rho * g2 + (1 - rho) * g**2
        step = -np.sqrt(x2 + epsilon) / np.sqrt(g2 + epsilon) * g
        x2 = rho * x2 + (1 - rho) * step**2
        w = w + rate * step
    return w


def adam(rate=0.01, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Kingma and Ba (2015), algorithm 1 in the order given at the end of its section 2."""
    w, m, v = START.copy(), np.zeros_like(START), np.zeros_like(START)
    for t in range(1, STEPS + 1):
        g = gradient_at(w)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        w = w - rate * np.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + epsilon)
    return w


def adamax(rate=0.01, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Kingma and Ba (2015), algorithm 2; epsilon keeps 0/0 away."""
    w, m, u = START.copy(), np.zeros_like(START), np.zeros_like(START)
    for t in range(1, STEPS + 1):
        g = gradient_at(w)
        m = beta1 * m + (1 - beta1) * g
        u = np.maximum(beta2 * u, np.abs(g))
        w = w - rate / (1 - beta1**t) * m / (u + epsilon)
    return w


def amsgrad(rate=0.01, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Reddi et al. (2018), algorithm 2, with Adam's bias corrections."""
    w, m, v, top = START.copy(), *(np.zeros_like(START) for _ in range(3))
    for t in range(1, STEPS + 1):
        g = gradient_at(w)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        top = np.maximum(top, v)
        w = w - rate * np.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(top) + epsilon)
    return w


CASES = [
    ("sgd", sgd, dict(learning_rate=0.01), {}),
    ("momentum", momentum, dict(learning_rate=0.01), {}),
    ("momentum", momentum, dict(learning_rate=0.02, momentum=0.5), dict(rate=0.02, mu=0.5)),
    ("nesterov_momentum", nesterov_momentum, dict(learning_rate=0.01), {}),
    ("nesterov_momentum", nesterov_momentum, dict(learning_rate=0.02, momentum=0.5),
     dict(rate=0.02, mu=0.5)),
    ("adagrad", adagrad, dict(learning_rate=0.1), {}),
    ("adagrad", adagrad, dict(learning_rate=0.2, epsilon=0.1), dict(rate=0.2, epsilon=0.1)),
    ("rmsprop", rmsprop, dict(learning_rate=0.01), {}),
    ("rmsprop", rmsprop, dict(learning_rate=0.02, rho=0.5, epsilon=0.1),
     dict(rate=0.02, rho=0.5, epsilon=0.1)),
    ("adadelta", adadelta, {}, {}),
    ("adadelta", adadelta, dict(learning_rate=0.5, rho=0.8, epsilon=1e-2),
     dict(rate=0.5, rho=0.8, epsilon=1e-2)),
    ("adam", adam, dict(learning_rate=0.01), {}),
    ("adam", adam, dict(learning_rate=0.02, beta1=0.5, beta2=0.9, epsilon=0.1),
     dict(rate=0.02, beta1=0.5, beta2=0.9, epsilon=0.1)),
    ("adamax", adamax, dict(learning_rate=0.01), {}),
    ("adamax", adamax, dict(learning_rate=0.02, beta1=0.5, beta2=0.9),
     dict(rate=0.02, beta1=0.5, beta2=0.9)),
    ("amsgrad", amsgrad, dict(learning_rate=0.01), {}),
    ("amsgrad", amsgrad, dict(learning_rate=0.02, beta1=0.5, beta2=0.3),
     dict(rate=0.02, beta1=0.5, beta2=0.3)),
]
ONE_OF_EACH = list({name: (name, settings) for name, _, settings, _ in CASES}.values())


def run(name, settings, dtype="float64", as_gradients=False):
    """Return the parameter after a few compiled steps."""
    w = tx.shared(START.astype(dtype), name="w")
    loss = loss_of(w)
    given = [tx.grad(loss, w)] if as_gradients else loss
    step = tx.function([], [], updates=getattr(updates, name)(given, [w], **settings))
    for _ in range(STEPS):
        step()
    return w.get_value()


@pytest.mark.parametrize("name, reference, settings, own", CASES)
def test_steps_follow_the_paper(name, reference, settings, own):
    np.testing.assert_allclose(run(name, settings), reference(**own), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name, settings", ONE_OF_EACH)
def test_gradients_may_be_given_instead_of_a_loss(name, settings):
    np.testing.assert_array_equal(run(name, settings, as_gradients=True), run(name, settings))


@pytest.mark.parametrize("name, settings", ONE_OF_EACH)
def test_float32_stays_float32(name, settings):
    value = run(name, settings, "float32")
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, run(name, settings), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name, settings", ONE_OF_EACH)
@pytest.mark.parametrize("kind", ["shared", "symbolic", "numpy"])
def test_coefficients_of_another_dtype_do_not_change_the_parameter(name, settings, kind):
    wrap = {"shared": lambda v: tx.shared(np.float64(v)),
            "symbolic": lambda v: tx.shared(np.float64(2 * v)) / 2,
            "numpy": np.float64}[kind]
    value = run(name, {key: wrap(v) for key, v in settings.items()}, "float32")
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, run(name, settings, "float32"), rtol=2e-6, atol=1e-7)


def test_the_learning_rate_can_change_while_training():
    w, rate = tx.shared(START.copy()), tx.shared(np.float64(0.5))
    step = tx.function([], [], updates=updates.sgd(w.sum(), [w], rate))
    step()
    rate.set_value(0.0)
    step()
    np.testing.assert_allclose(w.get_value(), START - 0.5)


def test_bias_correction_is_accurate_in_float32():
    # One step of Adam from zero moments moves by exactly the rate, whatever the gradient.
    w = tx.shared(np.float32([0.0]))
    g = tx.shared(np.float32([3.0]))
    tx.function([], [], updates=updates.adam([g], [w], learning_rate=1.0))()
    assert w.get_value()[0] == pytest.approx(-1.0, rel=1e-6)


@pytest.mark.parametrize("name, settings", ONE_OF_EACH)
def test_state_follows_the_parameter(name, settings):
    w = tx.shared(START.astype("float32"), name="w", broadcastable=(False, False))
    result = getattr(updates, name)(loss_of(w), [w], **settings)
    assert list(result).count(w) == 1
    for state in result:
        if state.ndim:
            assert state.dtype == "float32" and state.type.shape == w.type.shape
            assert state.get_value().shape == START.shape


@pytest.mark.parametrize("name, settings", ONE_OF_EACH)
def test_a_size_one_axis_still_broadcasts_after_a_step(name, settings):
    w = tx.shared(np.ones((1, 3)), broadcastable=(True, False))
    x = T.constant(np.arange(6.0).reshape(2, 3))
    tx.function([], [], updates=getattr(updates, name)(((w + x)**2).sum(), [w], **settings))()
    assert w.get_value().shape == (1, 3)


def test_several_parameters_share_one_step_count():
    v, w = tx.shared(np.ones(3)), tx.shared(np.ones(2))
    result = updates.adam((v**2).sum() + (w**2).sum(), [v, w])
    assert sum(1 for state in result if state.ndim == 0) == 1
    assert len(result) == 1 + 2 * 3


def test_momentum_is_added_to_chosen_parameters_only():
    v, w = tx.shared(np.ones(3)), tx.shared(np.ones(3))
    plain = updates.sgd((v**2).sum() + (w**2).sum(), [v, w], 0.1)
    result = updates.apply_momentum(plain, params=[w])
    assert len(plain) == 2 and len(result) == 3
    step = tx.function([], [], updates=result)
    step(), step()
    np.testing.assert_allclose(v.get_value(), 0.8 * 0.8)
    np.testing.assert_allclose(w.get_value(), 0.8 + 0.9 * -0.2 - 0.1 * 2 * 0.8)


# -- constraints -----------------------------------------------------------------------------------

@pytest.mark.parametrize("shape, axes, default", [
    ((4, 3), 0, True), ((4, 3), 1, False), ((5, 3, 2, 2), (1, 2, 3), True), ((6,), 0, False),
])
def test_norm_constraint(shape, axes, default):
    value = np.random.default_rng(0).normal(size=shape) * np.linspace(0.1, 3, shape[-1])
    bound = 1.2
    norms = np.sqrt((value**2).sum(axis=axes, keepdims=True))
    expected = value * np.minimum(1, bound / norms)
    result = updates.norm_constraint(T.constant(value), bound,
                                     norm_axes=None if default else axes).eval()
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert (norms > bound).any()


def test_norm_constraint_of_zeros_is_zero_and_keeps_float32():
    result = updates.norm_constraint(T.constant(np.zeros((2, 2), "float32")), np.float64(1.0))
    assert result.dtype == "float32"
    np.testing.assert_array_equal(result.eval(), np.zeros((2, 2)))


def test_norm_constraint_needs_axes_for_vectors():
    with pytest.raises(ShapeError, match="norm_axes"):
        updates.norm_constraint(T.vector("v"), 1.0)


@pytest.mark.parametrize("bound", [0.5, 100.0])
def test_total_norm_constraint(bound):
    values = [np.array([1.0, -2.0]), np.array([[3.0]])]
    norm = np.sqrt(14.0)
    clipped, found = updates.total_norm_constraint([T.constant(v) for v in values], bound,
                                                   return_norm=True)
    assert found.eval() == pytest.approx(norm)
    for own, value in zip(clipped, values):
        np.testing.assert_allclose(own.eval(), value * min(1, bound / norm), rtol=1e-6)


# -- errors ----------------------------------------------------------------------------------------

def test_only_shared_variables_are_updated():
    x = T.vector("x")
    with pytest.raises(ArgumentError, match="shared variables.*\n.*x"):
        updates.sgd(x.sum(), [x], 0.1)


def test_one_gradient_for_each_parameter():
    w = tx.shared(np.ones(3))
    with pytest.raises(ArgumentError, match="2 gradients, 1 parameters"):
        updates.sgd([T.vector(), T.vector()], [w], 0.1)


def test_total_norm_constraint_needs_tensors():
    with pytest.raises(ArgumentError, match="at least one"):
        updates.total_norm_constraint([], 1.0)
