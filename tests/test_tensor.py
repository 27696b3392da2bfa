"""The symbolic API: constructors of inputs, the table's functions as ``T.*``, and NumPy's."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.interpret import evaluate
from tetractys.compiler.ops.op import REGISTRY
from tetractys.compiler.ops.public import BUILDERS
from tetractys.runtime.errors import DtypeError, ShapeError


@pytest.mark.parametrize("prefix, dtype", [("b", "int8"), ("w", "int16"), ("i", "int32"),
                                           ("l", "int64"), ("f", "float32"), ("d", "float64")])
@pytest.mark.parametrize("kind, shape", list(T.PATTERNS.items()))
def test_constructors_make_inputs_of_their_type(prefix, dtype, kind, shape):
    made = getattr(T, prefix + kind)("name")
    assert (made.name, made.dtype, made.type.shape) == ("name", dtype, shape)


def test_floatx_is_read_when_an_input_is_made(monkeypatch):
    assert T.matrix().dtype == "float64"
    monkeypatch.setattr(tx.config, "floatX", "float32")
    assert T.matrix().dtype == T.zeros((2,)).dtype == (T.iscalar() * 0.5).dtype == "float32"
    assert T.matrix(dtype="int8").dtype == "int8"


def test_plurals_make_several_inputs():
    x, y = T.vectors("x", "y")
    assert (x.name, y.name, y.ndim) == ("x", "y", 1)
    assert [m.dtype for m in T.fmatrices(3)] == ["float32"] * 3
    assert T.scalars("a").name == "a"


def test_declared_types_make_inputs():
    kind = T.TensorType("float32", (False, True))
    assert kind("c").type.shape == kind.make_variable().type.shape == (None, 1)
    assert T.tensor("float32", (None, 784), "x").type.shape == (None, 784)
    assert T.tensor("int8", broadcastable=(True,)).broadcastable == (True,)
    with pytest.raises(DtypeError, match="no dtype 'complex64'"):
        T.TensorType("complex64", ())


@pytest.mark.parametrize("dtype", [np.float32, np.dtype("f4"), "f4", ">f4", "floatX"], ids=str)
def test_dtypes_may_be_given_as_numpy_does(monkeypatch, dtype):
    monkeypatch.setattr(tx.config, "floatX", "float32")
    made = [T.matrix(dtype=dtype), T.tensor(dtype, (3,)), T.TensorType(dtype, (True,))(),
            T.constant([1, 2], dtype=dtype), T.zeros((2,), dtype), T.arange(3, dtype=dtype),
            T.mean(T.dvector(), dtype=dtype), T.as_tensor_variable([T.iscalar(), 1], dtype=dtype)]
    assert [type(v.dtype) for v in made] == [str] * len(made)
    assert [v.dtype for v in made] == ["float32"] * len(made)


def test_types_make_inputs_like_a_variable():
    x = T.tensor("int8", (None, 1, 3), "x")
    y = x.type("y")
    assert (y.name, y.type.shape, y.owner) == ("y", (None, 1, 3), None)
    assert y.type.dims[0] != x.type.dims[0]


@pytest.mark.parametrize("make, error, message", [
    (lambda: T.tensor("float32", (-1,)), ShapeError, "0 or more"),
    (lambda: T.tensor("float32", (2.5,)), ShapeError, "0 or more"),
    (lambda: T.matrix(dtype="complex64"), DtypeError, "no dtype 'complex64'"),
    (lambda: T.constant(1, dtype="text"), DtypeError, "no dtype 'text'"),
    (lambda: T.as_tensor_variable(T.matrix(), ndim=1), ShapeError, "cannot have 1"),
    (lambda: T.stack(T.vector("a")), ShapeError, "takes a list"),
    (lambda: T.concatenate(T.scalar("a")), ShapeError, "takes a list")])
def test_errors_of_constructors_name_the_users_line(make, error, message):
    with pytest.raises(error, match=message) as found:
        make()
    assert "test_tensor.py" in str(found.value)


def test_values_become_variables():
    x = T.matrix("x")
    assert T.as_tensor_variable(x, "other") is x and x.name == "x"
    assert T.as_tensor_variable(np.ones(2), name="c").name == "c"
    assert T.as_tensor_variable(x, ndim=3).broadcastable == (True, False, False)


def test_methods_are_functions_of_the_table():
    x = T.tensor("float64", (2, 1, 2), "x")
    value = np.arange(4.0).reshape(2, 1, 2) / 3
    for call in (lambda x: x.round(), round, lambda x: x.squeeze(), lambda x: x.swapaxes(0, 2),
                 lambda x: x.take([1, 0], axis=2), lambda x: x.diagonal(axis2=2),
                 lambda x: x[:, 0].trace(), lambda x: x.copy(), copy.copy):
        expected = np.round(value) if call is round else call(value)
        np.testing.assert_array_equal(call(x).eval({x: value}), expected)
    assert copy.copy(x) is not x


def test_constants():
    assert T.constant([1.5]).dtype == tx.config.floatX
    assert T.constant(3, ndim=2).type.shape == (1, 1)
    assert T.as_tensor_variable(np.ones(2, "float32")).dtype == "float32"
    with pytest.raises(DtypeError, match="cannot enter a graph"):
        T.constant("text")


def test_every_public_function_is_found():
    for row in REGISTRY.values():
        if row.namespace:
            home = {"T": T, "T.nnet": T.nnet}[row.namespace]
            assert all(getattr(home, name) is row.function for name in (row.name, *row.aliases))
    for namespace, home in (("T", T), ("T.nnet", T.nnet)):
        assert all(getattr(home, n) is f for n, f in BUILDERS[namespace].items())


X = np.array([[0.25, 0.5], [0.75, 1.0], [1.5, 2.0]])
NUMPY_CALLS = [
    np.exp, np.abs, np.negative, np.square, np.sqrt, np.log1p, np.tanh, np.sign, np.arctan,
    np.reciprocal, np.rint, np.isnan, np.logical_not, lambda x: np.add(x, 1), np.sum, np.mean,
    lambda x: X * x, lambda x: X - x, lambda x: X @ x.T, lambda x: X < x, lambda x: X ** x,
    lambda x: np.float64(2.0) / x, lambda x: np.maximum(1.0, x), lambda x: np.sum(x, axis=0),
    lambda x: np.max(x, axis=1, keepdims=True), lambda x: np.argmax(x, axis=0), np.transpose,
    lambda x: np.concatenate([x, X], axis=1), lambda x: np.stack([x, x]), np.ravel, np.prod,
    lambda x: np.where(x > 1, x, 0), lambda x: np.dot(x.T, X), lambda x: np.reshape(x, (2, 3)),
    lambda x: np.clip(x, 0.3, 1.2), np.zeros_like, lambda x: np.outer(x, x), np.std, np.all,
    lambda x: np.tensordot(x, X, ([0], [0])), lambda x: np.expand_dims(x, 1), np.size, np.shape,
    lambda x: np.add.reduce(x), lambda x: np.logical_and(x, x - 0.5), np.diag, np.tril,
    lambda x: np.swapaxes(x, 0, 1), lambda x: np.repeat(x, 2, axis=0), lambda x: np.tile(x, 2)]


@pytest.mark.parametrize("call", NUMPY_CALLS)
def test_numpys_functions_work_on_symbolic_variables(call):
    x = T.tensor("float64", X.shape, "x")
    result = call(x)
    assert isinstance(result, T.TensorVariable)
    (actual,) = evaluate([result], {x: X})
    np.testing.assert_allclose(actual, call(X), rtol=1e-14)


@pytest.mark.parametrize("call", [np.sort, np.linalg.inv, np.frexp, lambda x: np.add.at(x, 0, 1),
                                  lambda x: np.split(x, [1])])
def test_other_functions_of_numpy_are_refused(call):
    with pytest.raises(TypeError):
        call(T.vector())
