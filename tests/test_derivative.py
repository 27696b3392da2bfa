"""Both modes of differentiation, and the functions users call."""

from __future__ import annotations

import sys
import time
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import optimize

from tetractys import gradient
from tetractys import tensor as T
from tetractys.compiler.derivative import is_connected, jvp, vjp
from tetractys.compiler.graph import Constant, toposort
from tetractys.compiler.interpret import evaluate
from tetractys.function import function
from tetractys.gradient import (
    Lop, Rop, disconnected_grad, grad, grad_clip, grad_scale, hessian, hessian_vector_product,
    jacobian, subgraph_grad, verify_grad, zero_grad)
from tetractys.runtime.errors import GradientError, ShapeError
from tetractys.shared import shared

RNG = np.random.default_rng(7)


def value_of(variable, values):
    """Evaluate in the reference interpreter and in compiled code; both must agree."""
    (expected,) = evaluate([variable], values)
    compiled = function(list(values), variable, on_unused_input="ignore")(*values.values())
    np.testing.assert_allclose(compiled, expected, rtol=1e-10, atol=1e-12)
    assert compiled.dtype == expected.dtype and compiled.shape == expected.shape
    return expected


# -- grad ------------------------------------------------------------------------------------------

def test_gradient_of_a_sum_of_squares():
    x = T.dvector("x")
    cost = (x ** 2).sum()
    cost.name = "cost"
    g = grad(cost, x)
    assert g.name == "(dcost/dx)"
    np.testing.assert_array_equal(value_of(g, {x: np.array([1.0, -3.0])}), [2.0, -6.0])


def test_results_are_structured_as_wrt():
    x, y = T.dscalars("x", "y")
    assert isinstance(grad(x * y, [x, y]), list)
    assert isinstance(grad(x * y, (x, y)), tuple) and len(grad(x * y, (x,))) == 1
    assert grad(x * y, x, add_names=False).name is None


def test_gradient_has_the_dtype_and_shape_of_its_variable():
    x, w = T.fmatrix("x"), T.dvector("w")
    column = T.TensorType("float32", (False, True))("column")
    cost = ((x + column) * w).sum()
    for variable, g in zip((x, w, column), grad(cost, [x, w, column])):
        assert g.dtype == variable.dtype and g.broadcastable == variable.broadcastable
    values = {x: np.ones((2, 3), "float32"), w: np.arange(3.0), column: np.ones((2, 1), "float32")}
    np.testing.assert_array_equal(value_of(grad(cost, column), values), [[3.0], [3.0]])


def test_broadcast_operands_get_summed_cotangents():
    x, b, s = T.dmatrix("x"), T.dvector("b"), T.dscalar("s")
    values = {x: RNG.normal(size=(3, 4)), b: RNG.normal(size=4), s: np.array(2.0)}
    gx, gb, gs = (value_of(g, values) for g in grad((x * b * s).sum(), [x, b, s]))
    np.testing.assert_allclose(gx, np.broadcast_to(values[b] * 2, (3, 4)))
    np.testing.assert_allclose(gb, values[x].sum(0) * 2)
    np.testing.assert_allclose(gs, (values[x] * values[b]).sum())


def test_a_variable_used_many_times_gets_a_balanced_sum():
    x = T.dscalar("x")
    g = grad(sum(x * float(k) for k in range(1, 1001)), x)
    assert value_of(g, {x: np.array(1.0)}) == 1000 * 1001 / 2
    depth = {}
    for node in toposort([g]):
        depth[id(node.output)] = 1 + max((depth.get(id(v), 0) for v in node.inputs), default=0)
    assert depth[id(g)] < 30


def test_gradient_with_respect_to_an_intermediate_variable():
    x = T.dscalar("x")
    y = x ** 2
    z = y * x
    gy, gx = grad(z, [y, x])
    assert value_of(gy, {x: np.array(3.0)}) == 3.0
    assert value_of(gx, {x: np.array(3.0)}) == 27.0


def test_gradient_with_respect_to_a_shared_variable():
    w, x = shared(np.array([1.0, 2.0]), name="w"), T.dvector("x")
    g = grad((w * x).sum() + (w ** 2).sum(), w)
    np.testing.assert_array_equal(value_of(g, {x: np.array([10.0, 20.0])}), [12.0, 24.0])


def test_consider_constant_cuts():
    x = T.dscalar("x")
    y = x ** 2
    assert value_of(grad(y * x, x, consider_constant=[y]), {x: np.array(3.0)}) == 9.0


def test_known_grads_replace_what_the_graph_says():
    x = T.dvector("x")
    y = T.exp(x)
    values = {x: np.array([0.0, 1.0])}
    g = grad(None, x, known_grads={y: [2.0, 3.0]})
    np.testing.assert_allclose(value_of(g, values), [2.0, 3.0] * np.exp(values[x]))
    g = grad((y ** 2).sum(), [x, y], known_grads={y: T.ones_like(y)})
    np.testing.assert_allclose(value_of(g[0], values), np.exp(values[x]))
    np.testing.assert_allclose(value_of(g[1], values), [1.0, 1.0])
    z = y * 5.0
    g = grad(z.sum(), x, known_grads={y: T.zeros_like(y)})
    np.testing.assert_array_equal(value_of(g, values), [0.0, 0.0])


def test_subgraph_grad_composes_to_the_whole_gradient():
    x, w = T.dvector("x"), T.dvector("w")
    h = T.tanh(x * w)
    cost = (h ** 2).sum()
    (_, [gh]) = subgraph_grad([], [h], cost=cost)
    ([gw], _) = subgraph_grad([w], [], start={h: gh})
    values = {x: RNG.normal(size=3), w: RNG.normal(size=3)}
    np.testing.assert_allclose(value_of(gw, values), value_of(grad(cost, w), values))


# -- disconnected, zero, undefined -----------------------------------------------------------------

def test_disconnected_variable_raises_with_its_name_and_line():
    x, unused = T.dscalar("x"), T.dscalar("unused")
    with pytest.raises(GradientError, match="unused is disconnected") as error:
        grad(x ** 2, unused)
    assert "test_derivative.py" in str(error.value)


@pytest.mark.parametrize("call", [
    lambda x: grad(x ** 2, x, disconnected_inputs="ignored"),
    lambda x: grad(x ** 2, x, return_disconnected="nothing"),
    lambda x: grad(x ** 2, x, null_gradients="zero"),
    lambda x: jacobian(x ** 2, x, disconnected_inputs="ignored"),
    lambda x: Lop(x ** 2, x, x, disconnected_inputs="ignored"),
    lambda x: Rop(x ** 2, x, x, disconnected_outputs="ignored")])
def test_misspelt_choices_are_refused(call):
    with pytest.raises(GradientError, match="no choice"):
        call(T.dscalar("x"))


def test_disconnected_variable_can_warn_or_give_zeros_or_none():
    x, unused = T.dscalar("x"), T.dvector("unused")
    with pytest.warns(UserWarning, match="unused"):
        grad(x ** 2, unused, disconnected_inputs="warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        g = grad(x ** 2, [unused, x], disconnected_inputs="ignore")
    np.testing.assert_array_equal(value_of(g[0], {unused: np.ones(2), x: np.array(1.0)}), [0, 0])
    for none in ("none", "None"):
        assert grad(x ** 2, unused, disconnected_inputs="ignore", return_disconnected=none) is None
    assert grad(x ** 2, unused, disconnected_inputs="ignore",
                return_disconnected="disconnected") is gradient.DISCONNECTED


def test_a_size_does_not_connect_but_a_step_does():
    x = T.dvector("x")
    y = T.dscalar("y")
    cost = y * T.cast(x.shape[0], "float64") + T.floor(x).sum()
    assert is_connected([y * T.cast(x.shape[0], "float64")], [x, y]) == [False, True]
    np.testing.assert_array_equal(
        value_of(grad(cost, x), {x: np.array([1.5, 2.5]), y: np.array(1.0)}), [0.0, 0.0])


def test_disconnected_grad_disconnects_and_zero_grad_does_not():
    x = T.dscalar("x")
    with pytest.raises(GradientError, match="disconnected"):
        grad(disconnected_grad(x) ** 2, x)
    assert value_of(grad(zero_grad(x) ** 2, x), {x: np.array(3.0)}) == 0.0
    assert value_of(grad(disconnected_grad(x ** 2) * x, x), {x: np.array(3.0)}) == 9.0
    assert value_of(Rop(zero_grad(x) * x, x, T.constant(1.0)), {x: np.array(3.0)}) == 3.0


def test_grad_clip_and_grad_scale_change_the_gradient_only():
    x = T.dvector("x")
    values = {x: np.array([0.1, 5.0, -5.0])}
    clipped = grad_clip(x, -1, 1)
    np.testing.assert_array_equal(value_of(clipped, values), values[x])
    np.testing.assert_allclose(value_of(grad((clipped ** 2).sum(), x), values), [0.2, 1.0, -1.0])
    np.testing.assert_allclose(
        value_of(grad((grad_scale(x, -2.0) ** 2).sum(), x), values), [-0.4, -20.0, 20.0])


def test_integers_and_bools_carry_no_derivative():
    x = T.dvector("x")
    y = T.cast(T.cast(x, "int64"), "float64") * x + T.cast(x > 0, "float64") * x
    np.testing.assert_array_equal(
        value_of(grad(y.sum(), x), {x: np.array([2.5, -1.5])}), [3.0, -1.0])


@pytest.mark.parametrize("make, message", [
    (lambda x, i: grad(x, x), "float scalar"),
    (lambda x, i: grad(i, x), "float scalar"),
    (lambda x, i: grad(3.0, x), "float scalar"),
    (lambda x, i: grad(x.sum(), i), "float tensors"),
    (lambda x, i: grad(x.sum(), "x"), "float tensors"),
    (lambda x, i: grad(None, x), "cost or known_grads"),
    (lambda x, i: Rop(x, x, [x, x]), "one eval_point"),
    (lambda x, i: jacobian(i, x), "float tensors"),
])
def test_misuse_is_explained(make, message):
    x, i = T.dvector("x"), T.iscalar("i")
    with pytest.raises(GradientError, match=message) as error:
        make(x, i)
    assert "remedy" in str(error.value)


def test_eval_points_must_fit():
    x = T.tensor("float64", shape=(3,), name="x")
    with pytest.raises(ShapeError):
        Lop(x ** 2, x, T.constant(np.ones(4)))
    with pytest.raises(ShapeError):
        Rop(x ** 2, x, T.dmatrix())
    y, v = T.dvector("y"), T.dvector("v")
    with pytest.raises(ShapeError, match="y"):
        evaluate([Lop(y ** 2, y, v)], {y: np.ones(3), v: np.ones(2)})


# -- products, Jacobians, Hessians -----------------------------------------------------------------

def test_lop_and_rop_are_products_with_the_jacobian():
    x, W = T.dvector("x"), T.dmatrix("W")
    y = T.tanh(T.dot(W, x))
    u, v, V = T.dvector("u"), T.dvector("v"), T.dmatrix("V")
    values = {x: RNG.normal(size=3), W: RNG.normal(size=(2, 3)), u: RNG.normal(size=2),
              v: RNG.normal(size=3), V: RNG.normal(size=(2, 3))}
    slope = 1 - np.tanh(values[W] @ values[x]) ** 2
    J = slope[:, None] * values[W]
    np.testing.assert_allclose(value_of(Lop(y, x, u), values), values[u] @ J)
    np.testing.assert_allclose(value_of(Rop(y, x, v), values), J @ values[v])
    both = slope * (values[W] @ values[v] + values[V] @ values[x])
    np.testing.assert_allclose(value_of(Rop(y, [x, W], [v, V]), values), both)
    np.testing.assert_allclose(value_of(jacobian(y, x), values), J)


def test_rop_of_an_unrelated_output():
    x, y = T.dscalars("x", "y")
    with pytest.raises(GradientError, match="disconnected_outputs"):
        Rop(y, x, T.constant(1.0))
    assert value_of(Rop(y, x, T.constant(1.0), disconnected_outputs="ignore"),
                    {x: np.array(1.0), y: np.array(1.0)}) == 0.0


def test_jacobian_of_every_rank():
    x = T.dmatrix("x")
    values = {x: RNG.normal(size=(2, 3))}
    eye = np.eye(6).reshape(2, 3, 2, 3)
    np.testing.assert_allclose(value_of(jacobian(x ** 2, x), values), 2 * eye * values[x])
    np.testing.assert_allclose(value_of(jacobian(x.sum(axis=1), x), values), eye.sum(1))
    np.testing.assert_allclose(value_of(jacobian(x.sum(), x), values), np.ones((2, 3)))
    np.testing.assert_allclose(value_of(jacobian(x[0], [x])[0], values), eye[0])


def test_jacobian_of_what_does_not_vary_is_zero():
    x, y = T.dvector("x"), T.dvector("y")
    values = {x: np.ones(2), y: np.ones(3)}
    np.testing.assert_array_equal(value_of(jacobian(T.floor(x), x), values), np.zeros((2, 2)))
    with pytest.raises(GradientError, match="disconnected"):
        jacobian(x, y)
    np.testing.assert_array_equal(
        value_of(jacobian(x, y, disconnected_inputs="ignore"), values), np.zeros((2, 3)))


def test_jacobian_of_an_empty_vector_is_empty():
    x = T.dvector("x")
    assert value_of(jacobian(T.exp(x), x), {x: np.zeros(0)}).shape == (0, 0)


def test_hessian_of_rosenbrock():
    x = T.dvector("x")
    cost = (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
    point = np.array([-1.2, 1.0, 0.7, 2.0])
    np.testing.assert_allclose(value_of(hessian(cost, x), {x: point}), optimize.rosen_hess(point))
    p = T.dvector("p")
    direction = RNG.normal(size=4)
    np.testing.assert_allclose(
        value_of(hessian_vector_product(cost, x, p), {x: point, p: direction}),
        optimize.rosen_hess_prod(point, direction))


def test_hessian_of_a_matrix_and_of_a_linear_cost():
    x = T.dmatrix("x")
    values = {x: RNG.normal(size=(2, 2))}
    expected = np.einsum("ik,jl->ijkl", np.eye(2), np.eye(2)) * 6 * values[x]
    np.testing.assert_allclose(value_of(hessian((x ** 3).sum(), x), values), expected)
    assert not value_of(hessian((3 * x).sum(), x), values).any()


def test_logistic_regression_hessian():
    w, X = T.dvector("w"), T.dmatrix("X")
    cost = T.log(1 + T.exp(T.dot(X, w))).sum()
    values = {w: RNG.normal(size=3), X: RNG.normal(size=(5, 3))}
    s = 1 / (1 + np.exp(-values[X] @ values[w]))
    expected = values[X].T @ ((s * (1 - s))[:, None] * values[X])
    np.testing.assert_allclose(value_of(hessian(cost, w), values), expected)


def test_gradient_of_a_jacobian():
    """A contractive autoencoder's penalty: the derivative of a map, backwards and forwards."""
    x, W = T.dvector("x"), T.dmatrix("W")
    penalty = (jacobian(T.tanh(T.dot(W, x)), x) ** 2).sum()
    values = {x: RNG.normal(size=3), W: RNG.normal(size=(2, 3))}
    slope = (1 - T.sqr(T.tanh(T.dot(W, x))))
    closed = (T.sqr(slope.dimshuffle(0, "x") * W)).sum()
    for variable in (x, W):
        np.testing.assert_allclose(value_of(grad(penalty, variable), values),
                                   value_of(grad(closed, variable), values), rtol=1e-9)
        direction = Constant(RNG.normal(size=values[variable].shape))
        np.testing.assert_allclose(value_of(Rop(penalty, variable, direction), values),
                                   value_of(Rop(closed, variable, direction), values), rtol=1e-9)


def test_third_derivatives():
    x = T.dscalar("x")
    y = T.sin(x) * T.exp(x)
    third = grad(grad(grad(y, x), x), x)
    point = 0.7
    expected = 2 * np.exp(point) * (np.cos(point) - np.sin(point))
    np.testing.assert_allclose(value_of(third, {x: np.array(point)}), expected, rtol=1e-12)
    mixed = Rop(grad(Rop(y, x, T.constant(1.0)), x), x, T.constant(1.0))
    np.testing.assert_allclose(value_of(mixed, {x: np.array(point)}), expected, rtol=1e-12)
    v = T.dvector("v")
    jerk = jacobian(hessian((v ** 4).sum(), v), v)
    point = np.array([1.0, -2.0])
    expected = np.zeros((2, 2, 2))
    expected[[0, 1], [0, 1], [0, 1]] = 24 * point
    np.testing.assert_allclose(value_of(jerk, {v: point}), expected)


# -- random graphs ---------------------------------------------------------------------------------

UNARY = (T.tanh, T.sin, T.sigmoid, lambda x: T.exp(-T.sqr(x)), lambda x: x.T,
         lambda x: x.sum(axis=0, keepdims=True), lambda x: x[::-1], lambda x: -x,
         lambda x: T.softplus(x), lambda x: x.reshape((x.shape[1], x.shape[0])).T,
         lambda x: T.log(1.0 + T.sqr(x)), lambda x: T.switch(x > 0.1, x, 0.5 * x))
BINARY = (lambda x, y: x + y, lambda x, y: x * y, lambda x, y: x - 0.5 * y,
          lambda x, y: T.dot(x, y), lambda x, y: x / (1.5 + T.sqr(y)))


@st.composite
def programs(draw):
    """Return a list of (function number, operand, operand) over square matrices."""
    return [(draw(st.integers(0, len(UNARY) + len(BINARY) - 1)), draw(st.integers(0, 99)),
             draw(st.integers(0, 99))) for _ in range(draw(st.integers(1, 9)))]


@settings(max_examples=60, deadline=None, derandomize=True,
          suppress_health_check=list(HealthCheck))
@given(programs())
def test_reverse_mode_is_the_adjoint_of_forward_mode(program):
    """``<u, J v> == <u J, v>``, on second derivatives too."""
    rng = np.random.default_rng(3)
    inputs = [T.tensor("float64", shape=(3, 3), name=name) for name in "ab"]
    pool = list(inputs)
    for number, first, second in program:
        x, y = pool[first % len(pool)], pool[second % len(pool)]
        new = UNARY[number](x) if number < len(UNARY) else BINARY[number - len(UNARY)](x, y)
        pool.append(new if new.type.dims == (3, 3) else new + T.zeros((3, 3)))
    values = {v: rng.uniform(-1, 1, (3, 3)) for v in inputs}
    u, *vs = (Constant(rng.uniform(-1, 1, (3, 3))) for _ in range(3))
    gradients = [g for g in vjp([pool[-1]], inputs, [u]) if g is not None]
    for output, seeds in [([pool[-1]], [u]), (gradients, [u] * len(gradients))]:
        forward = jvp(output, inputs, vs)
        backward = vjp(output, inputs, seeds)
        left = sum((T.sum(s * t) for s, t in zip(seeds, forward) if t is not None),
                   T.constant(0.0))
        right = sum((T.sum(g * v) for g, v in zip(backward, vs) if g is not None),
                    T.constant(0.0))
        one, other = evaluate([left, right], values)
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def test_verify_grad_accepts_right_and_rejects_wrong_gradients():
    point = [RNG.normal(size=(2, 3)), RNG.normal(size=3)]
    verify_grad(lambda x, y: T.tanh(x * y), point, rng=1)
    verify_grad(lambda x: T.exp(x).sum(), [point[1].astype("float32")], rng=1)
    with pytest.raises(GradientError, match="disagrees"):
        verify_grad(lambda x: grad_scale(x, 1.1) ** 2, [point[1]], rng=1)


# -- depth -----------------------------------------------------------------------------------------

def chain(length):
    """Return x, and ``y = sin(y) + x`` repeated."""
    x = T.dscalar("x")
    y = x
    for _ in range(length):
        y = T.sin(y) + x
    return x, y


def test_a_chain_of_100000_nodes_is_differentiated_without_recursion():
    limit, start = sys.getrecursionlimit(), time.perf_counter()
    x, y = chain(50_000)
    g, = vjp([y], [x], [T.constant(1.0)])
    t, = jvp([y], [x], [T.constant(1.0)])
    elapsed = time.perf_counter() - start
    assert sys.getrecursionlimit() == limit and elapsed < 100
    assert len(toposort([g])) <= 5 * 50_000 and len(toposort([t])) <= 5 * 50_000
    value, slope = 0.3, 1.0
    for _ in range(50_000):
        value, slope = np.sin(value) + 0.3, np.cos(value) * slope + 1.0
    np.testing.assert_allclose(evaluate([g], {x: np.array(0.3)})[0], slope, rtol=1e-9)


def test_both_modes_agree_on_a_deep_chain():
    x, y = chain(3_000)
    ones = [T.constant(1.0)]
    left, right = evaluate([*vjp([y], [x], ones), *jvp([y], [x], ones)], {x: np.array(0.3)})
    np.testing.assert_allclose(left, right, rtol=1e-9)


def test_gradient_nodes_carry_the_line_of_what_they_differentiate():
    x = T.dvector("x")
    y = T.exp(x); line = sys._getframe().f_lineno  # noqa: E702
    gradient_nodes = [node for node in toposort([grad(y.sum(), x)]) if node.op.name == "mul"]
    assert gradient_nodes and all(node.site == (__file__, line) for node in gradient_nodes)
