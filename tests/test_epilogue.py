"""Kernels attached to products: which are, which must not be, and that no bit changes."""

from __future__ import annotations

import numpy as np
import pytest

import tetractys as tx
from tetractys import layers, nonlinearities, objectives, updates
from tetractys import tensor as T
from tetractys.compiler.pipeline import Options
from tetractys.compiler.program import Contract, Kernel

PLAIN = Options(disabled=frozenset({"epilogues"}))


def steps_of(f):
    """Return the steps of a function's last program."""
    return f.variants[-1].stages.program.steps


def attached(f):
    """Return for each product whether it has an epilogue."""
    return [step.epilogue is not None for step in steps_of(f) if isinstance(step, Contract)]


def matrices(*shapes):
    """Return random float64 matrices."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in shapes]


FUSED = {
    "bias and activation": lambda x, w, b: T.tanh(T.dot(x, w) + b),
    "softmax over rows": lambda x, w, b: T.nnet.softmax(T.dot(x, w) + b),
    "residual": lambda x, w, b: T.dot(x, w) * 2.0 + x[:, 0].dimshuffle(0, "x"),
    "both": lambda x, w, b: [T.dot(x, w), T.exp(T.dot(x, w))],
}


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", sorted(FUSED))
def test_what_needs_only_its_row_is_attached(name, symbolic):
    x, w, b = T.dmatrix("x"), T.dmatrix("w"), T.dvector("b")
    values = matrices((37, 23), (23, 41), (41,))
    results = []
    for mode in (None, PLAIN):
        f = tx.function([x, w, b], FUSED[name](x, w, b), mode=mode, on_unused_input="ignore")
        if symbolic:
            f.compile({})
        results.append(f(*values))
        assert attached(f) == [mode is None]
    for ours, plain in zip(*(r if isinstance(r, list) else [r] for r in results)):
        np.testing.assert_array_equal(ours, plain)


APART = {
    "rows reversed": lambda p: p[::-1] + 1.0,
    "differences": lambda p: p[1:] - p[:-1],
    "other row": lambda p: p - p[0],
    "columns summed": lambda p: p.sum(axis=0),
}


@pytest.mark.parametrize("name", sorted(APART))
def test_what_needs_other_rows_is_not_attached(name):
    x, w = T.dmatrix("x"), T.dmatrix("w")
    values = matrices((40, 30), (30, 20))
    f = tx.function([x, w], APART[name](T.dot(x, w)))
    plain = tx.function([x, w], APART[name](T.dot(x, w)), mode=PLAIN)
    np.testing.assert_array_equal(f(*values), plain(*values))
    assert attached(f) == [False]


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("mode", [None, "FAST_COMPILE"])
def test_rows_without_columns_have_sums_too(symbolic, mode):
    x, w, total = T.dmatrix("x"), T.dmatrix("w"), T.dvector("total")
    f = tx.function([x, w, total], total - T.dot(x, w).sum(axis=1), mode=mode)
    if symbolic:
        f.compile({})
    values = matrices((39, 5), (5, 0), (39,))
    np.testing.assert_array_equal(f(*values), values[2])


def test_an_update_of_an_operand_waits_for_the_product():
    (value,) = matrices((40, 40))
    w = tx.shared(value.copy(), name="w")
    x = T.dmatrix("x")
    step = tx.function([x], [], updates={w: w - 0.1 * T.dot(x, w)})
    step(value)
    assert attached(step) == [False]
    np.testing.assert_allclose(w.get_value(), value - 0.1 * value @ value, rtol=1e-12)


def test_an_update_goes_behind_commit_with_its_product():
    x_value, g_value = matrices((50, 30), (50, 40))
    w, x, g = tx.shared(np.zeros((30, 40)), name="w"), T.dmatrix("x"), T.dmatrix("g")
    step = tx.function([x, g], [], updates={w: w - 0.1 * T.dot(x.T, g)}, mode="DebugMode")
    step(x_value, g_value)
    program = step.variants[-1].stages.program
    assert attached(step) == [True] and program.commit == 0
    np.testing.assert_allclose(w.get_value(), -0.1 * x_value.T @ g_value, rtol=1e-12)


def network():
    """Return a training step of two dense layers, its shared parameters and its loss' inputs."""
    tx.init.set_rng(1)
    x, labels = T.dmatrix("x"), T.lvector("labels")
    net = layers.DenseLayer(layers.InputLayer((50, 30), x), 40)
    net = layers.DenseLayer(net, 10, nonlinearity=nonlinearities.softmax)
    loss = objectives.categorical_crossentropy(layers.get_output(net), labels).mean()
    parameters = layers.get_all_params(net, trainable=True)
    return x, labels, loss, parameters


def test_a_training_step_attaches_activations_and_updates():
    results = []
    for mode in ("DebugMode", PLAIN):
        x, labels, loss, parameters = network()
        step = tx.function([x, labels], loss, updates=updates.momentum(loss, parameters, 0.1),
                           mode=mode)
        (data,) = matrices((50, 30))
        losses = [step(data, np.arange(50) % 10) for _ in range(3)]
        results.append([*losses, *(p.get_value() for p in parameters)])
        # The last layer's loop over rows checks the classes: it may fail, and stays by itself.
        expected = [True, False, False, True, True] if mode == "DebugMode" else [False] * 5
        assert sorted(attached(step)) == sorted(expected)
        assert any(isinstance(s, Kernel) for s in steps_of(step))
    for ours, plain in zip(*results):
        np.testing.assert_array_equal(ours, plain)
