"""Maps over sequences and the loop they are built on."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from tetractys import tensor as T
from tetractys.compiler.graph import toposort
from tetractys.compiler.interpret import evaluate
from tetractys.compiler.ops.control import LoopIndex, map_loop
from tetractys.control import map as tx_map
from tetractys.function import function
from tetractys.gradient import Lop, Rop, grad, jacobian
from tetractys.graph import clone
from tetractys.runtime.errors import CompileError, IndexOutOfRangeError, ShapeError

RNG = np.random.default_rng(11)


def value_of(variable, values):
    """Evaluate in the reference interpreter and in compiled code; both must agree."""
    (expected,) = evaluate([variable], values)
    compiled = function(list(values), variable, on_unused_input="ignore")(*values.values())
    np.testing.assert_allclose(compiled, expected, rtol=1e-10, atol=1e-12)
    assert compiled.dtype == expected.dtype and compiled.shape == expected.shape
    return expected


def only_loop(variable):
    """Return the one loop in a graph."""
    (node,) = [node for node in toposort([variable]) if node.op.name == "map_loop"]
    return node


def test_map_applies_a_function_to_rows():
    x, y = T.dmatrix("x"), T.dvector("y")
    out, updates = tx_map(lambda row, other, w: T.dot(row, w) + other, [x, y], T.ones_like(x[0]))
    assert not updates
    values = {x: RNG.normal(size=(4, 3)), y: RNG.normal(size=4)}
    np.testing.assert_allclose(value_of(out, values), values[x].sum(1) + values[y])


def test_map_returns_a_list_for_a_list_and_counts_backwards():
    x = T.dvector("x")
    (first, second), _ = tx_map(lambda a: [a, a > 0], x, go_backwards=True)
    assert second.dtype == "bool"
    values = {x: np.array([1.0, -2.0, 3.0])}
    np.testing.assert_array_equal(value_of(first, values), [3.0, -2.0, 1.0])
    np.testing.assert_array_equal(value_of(second, values), [True, False, True])


def test_the_shortest_sequence_decides():
    x, y = T.dvector("x"), T.dvector("y")
    out, _ = tx_map(lambda a, b: a * b, [x, y])
    np.testing.assert_array_equal(
        value_of(out, {x: np.arange(3.0), y: np.ones(5)}), np.arange(3.0))


def test_an_empty_map_is_empty():
    x = T.dmatrix("x")
    out, _ = tx_map(lambda row: T.outer(row, row), x)
    assert value_of(out, {x: np.ones((0, 2))}).shape == (0, 2, 2)


def test_what_does_not_depend_on_the_step_is_outside():
    x, w = T.dvector("x"), T.dvector("w")
    out, _ = tx_map(lambda a: a + T.exp(w).sum(), x)
    names = {node.op.name for node in only_loop(out).params["body"].nodes()}
    assert "exp" not in names and "sum" not in names and "add" in names


def test_maps_nest():
    x, y = T.dvector("x"), T.dvector("y")
    out, _ = tx_map(lambda a: tx_map(lambda b: a * b + x[0], y)[0], x)
    values = {x: RNG.normal(size=3), y: RNG.normal(size=2)}
    np.testing.assert_allclose(value_of(out, values),
                               np.outer(values[x], values[y]) + values[x][0])
    cost = (out ** 2).sum()
    closed = (T.sqr(x.dimshuffle(0, "x") * y + x[0])).sum()
    for variable in (x, y):
        np.testing.assert_allclose(value_of(grad(cost, variable), values),
                                   value_of(grad(closed, variable), values))


def test_gradients_of_a_map_match_those_of_the_same_formula():
    x, w = T.dmatrix("x"), T.dvector("w")
    out, _ = tx_map(lambda row: T.tanh(T.dot(row, w)) * row, x)
    closed = T.tanh(T.dot(x, w)).dimshuffle(0, "x") * x
    values = {x: RNG.normal(size=(4, 3)), w: RNG.normal(size=3)}
    u = T.constant(RNG.normal(size=(4, 3)))
    for variable in (x, w):
        v = T.constant(RNG.normal(size=values[variable].shape))
        np.testing.assert_allclose(value_of(Lop(out, variable, u), values),
                                   value_of(Lop(closed, variable, u), values))
        np.testing.assert_allclose(value_of(Rop(out, variable, v), values),
                                   value_of(Rop(closed, variable, v), values))
        one, other = (grad(T.sqr(grad((f ** 2).sum(), variable)).sum(), w) for f in (out, closed))
        np.testing.assert_allclose(value_of(one, values), value_of(other, values), rtol=1e-8)


def test_the_gradient_of_a_sequence_is_stacked_not_summed():
    """The cotangents of ``x[i]`` need memory like ``x``, not like its square."""
    x = T.dmatrix("x")
    out, _ = tx_map(lambda row: row ** 2, x)
    g = grad(out.sum(), x)
    loops = [node for node in toposort([g]) if node.op.name == "map_loop"]
    assert loops and all(loop.output.ndim == 2 for loop in loops)
    values = {x: RNG.normal(size=(3, 2))}
    np.testing.assert_allclose(value_of(g, values), 2 * values[x])


@pytest.mark.parametrize("read", [
    lambda x, k: x[k], lambda x, k: x[k + 1] * x[k], lambda x, k: x[k, k],
    lambda x, k: x[-1 - k], lambda x, k: x[T.stack([k, 0])], lambda x, k: x[:, k],
    lambda x, k: x[k, 1:]])
def test_gradients_of_reads_inside_a_map(read):
    x, ks = T.dmatrix("x"), T.lvector("ks")
    out, _ = tx_map(lambda k: T.sqr(read(x, k)), ks)
    values = {x: RNG.normal(size=(4, 4)), ks: np.array([2, 0, 2])}
    unrolled = sum(T.sqr(read(x, k)).sum() for k in (2, 0, 2))
    np.testing.assert_allclose(value_of(grad(out.sum(), x), values),
                               value_of(grad(unrolled, x), {x: values[x]}))


def test_a_loop_is_typed_anew_when_its_inputs_are_replaced():
    x = T.dvector("x")
    y = jacobian(T.exp(x) * x.sum(), x)
    z = T.tensor("float64", shape=(3,), name="z")
    w = clone(y, {x: 2 * z})
    assert w.type.shape == (3, 3)
    point = RNG.normal(size=3)
    np.testing.assert_allclose(value_of(w, {z: point}), value_of(y, {x: 2 * point}))
    g = grad(w.sum(), z)
    np.testing.assert_allclose(value_of(g, {z: point}),
                               2 * value_of(grad(y.sum(), x), {x: 2 * point}))


def test_loops_pickle_and_copy():
    x, w = T.dmatrix("x"), T.dvector("w")
    out, _ = tx_map(lambda row: tx_map(lambda a: a * w, row)[0].sum(), x)
    values = [RNG.normal(size=(2, 3)), RNG.normal(size=2)]
    (expected,) = evaluate([out], dict(zip([x, w], values)))
    for other, inputs in (pickle.loads(pickle.dumps((out, [x, w]))), copy.deepcopy((out, [x, w]))):
        (found,) = evaluate([other], dict(zip(inputs, values)))
        np.testing.assert_array_equal(found, expected)
        assert other is not out and inputs[0] is not x


def test_a_shape_that_depends_on_the_step_is_an_error():
    x = T.dvector("x")
    with pytest.raises(ShapeError, match="same shape at every step"):
        tx_map(lambda k: x[:k], T.arange(x.shape[0]))
    out, _ = tx_map(lambda k: x[:k].sum(), T.arange(x.shape[0]))
    np.testing.assert_array_equal(value_of(out, {x: np.arange(4.0)}), [0, 0, 1, 3])


def test_an_index_out_of_range_is_reported():
    x, ks = T.dvector("x"), T.lvector("ks")
    out, _ = tx_map(lambda k: x[k], ks)
    run = function([x, ks], out)
    with pytest.raises(IndexOutOfRangeError):
        run(np.ones(3), np.array([0, 3]))
    np.testing.assert_array_equal(run(np.ones(3), np.array([0, -3])), [1, 1])


@pytest.mark.parametrize("make, error, message", [
    (lambda x: tx_map(lambda a: a, []), CompileError, "at least one sequence"),
    (lambda x: tx_map(lambda a: a, x.sum()), ShapeError, "first axis"),
    (lambda x: tx_map(lambda a: None, x), CompileError, "variables only"),
    (lambda x: tx_map(lambda a: (a, {}), x), CompileError, "variables only"),
])
def test_misuse_is_explained(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make(T.dvector("x"))
    assert "remedy" in str(caught.value) and "test_control.py" in str(caught.value)


def test_a_negative_count_is_an_error():
    n = T.lscalar("n")
    index = LoopIndex(n)
    (out,) = map_loop(index, [T.sqr(index)])
    np.testing.assert_array_equal(value_of(out, {n: np.int64(4)}), [0, 1, 4, 9])
    with pytest.raises(ShapeError, match="negative"):
        evaluate([out], {n: np.int64(-1)})
