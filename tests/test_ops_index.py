"""Indexing, compared with NumPy: parts, changed parts, derivatives, and every kind of bad index."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.dims import proves_equal
from tetractys.compiler.interpret import evaluate
from tetractys.runtime.errors import DtypeError, IndexOutOfRangeError, ShapeError

RANDOM = np.random.default_rng(1)


def _interpreted(inputs, outputs):
    return lambda *arrays: evaluate(outputs, dict(zip(inputs, arrays)))


def _compiled(inputs, outputs):
    return tx.function(inputs, outputs, on_unused_input="ignore")


BOTH = pytest.mark.parametrize("run", [_interpreted, _compiled], ids=["interpreted", "compiled"])

_I, _J = np.array([2, 0, -1]), np.array([[1], [-2]])
_MASK = np.arange(15).reshape(3, 5) > 9
INDICES = [
    0, -1, slice(None), slice(1, None), slice(None, -1), slice(None, None, -1), slice(-2, None),
    slice(10, None), slice(None, -10), slice(3, 1), slice(-1, None, -2), slice(1, 10, 2), None,
    Ellipsis, (), (1, 2), (0, 1, 2), (slice(None), 1), (Ellipsis, -1), (0, Ellipsis, 1),
    (None, 1, None), (slice(1, 3), None, slice(None, None, -2), 0), (Ellipsis, None),
    _I, [0, 2], (_I, _I), (_I, _J), (slice(None), _I), (Ellipsis, _J), (_I, slice(None), _I),
    (_I, 0), (1, _I), (0, slice(None), _J), (slice(None), _I, 1), (_I, None, _I),
    (None, _I, slice(1, 2), _J), (slice(1, None), slice(None, None, -1), _I), [[0, 1], [2, 2]],
    np.array([True, False, True, False]), (slice(None), np.array([True, False, True])),
    np.zeros((4, 3), bool), np.arange(12).reshape(4, 3) % 5 == 2, (0, _MASK), (_I, ..., None, 0),
    (slice(None), 0, ..., _I), (..., _I, _I), (_I, slice(None), ..., _I),
    (np.arange(2)[:, None, None], _J, _I), np.int8(2), np.array(1), [],
]
SHAPE = (4, 3, 5)
_IDS = [str(index).replace("\n", "") for index in INDICES]


def _fits_unknown_sizes(index):
    entries = index if isinstance(index, tuple) else (index,)
    return not any(getattr(entry, "dtype", None) == bool for entry in entries)


@BOTH
@pytest.mark.parametrize("index", INDICES, ids=_IDS)
def test_parts_are_numpys(run, index):
    value = RANDOM.standard_normal(SHAPE)
    for shape in (SHAPE, (None,) * 3)[:1 + _fits_unknown_sizes(index)]:
        x = T.tensor("float64", shape, "x")
        (part,) = run([x], [x[index]])(value)
        np.testing.assert_array_equal(part, value[index])
        assert x[index].type.shape == value[index].shape or shape != SHAPE


@BOTH
@pytest.mark.parametrize("index", INDICES, ids=_IDS)
def test_changed_parts_are_numpys(run, index):
    value = RANDOM.standard_normal(SHAPE)
    x = T.tensor("float64", SHAPE, "x")
    part = RANDOM.standard_normal(value[index].shape)
    row = part[..., :1] if part.ndim and part.shape[-1] > 1 else part
    y, z = T.tensor("float64", part.shape), T.tensor("float64", row.shape)
    changed = [T.set_subtensor(x[index], 2.0), T.inc_subtensor(x[index], y),
               T.inc_subtensor(x[index], z)]
    results = run([x, y, z], changed)(value, part, row)
    expected = [value.copy() for _ in range(3)]
    expected[0][index] = 2.0
    np.add.at(expected[1], index, part)
    np.add.at(expected[2], index, row)
    for actual, wanted in zip(results, expected):
        np.testing.assert_allclose(actual, wanted, rtol=1e-13)


@pytest.mark.parametrize("index", INDICES, ids=_IDS)
def test_gradients_of_parts_are_their_adjoints(index):
    value = RANDOM.standard_normal(SHAPE)
    x = T.tensor("float64", SHAPE, "x")
    weight = RANDOM.standard_normal(value[index].shape)
    (gradient,) = evaluate([T.grad(T.sum(x[index] * weight), x)], {x: value})
    expected = np.zeros(SHAPE)
    np.add.at(expected, index, weight)
    np.testing.assert_allclose(gradient, expected, rtol=1e-13)


@BOTH
def test_slices_with_symbolic_bounds_are_pythons(run):
    x, a, b = T.vector("x"), T.lscalar("a"), T.lscalar("b")
    value = np.arange(4.0)
    function = run([x, a, b], [x[a:b], x[a:b:2], x[a:b:-1], x[a:], x[:b], x[b::-3],
                               T.set_subtensor(x[a:b], 9.0)])
    for start, stop in itertools.product(range(-6, 7), repeat=2):
        changed = value.copy()
        changed[start:stop] = 9.0
        expected = [value[start:stop], value[start:stop:2], value[start:stop:-1], value[start:],
                    value[:stop], value[stop::-3], changed]
        for actual, wanted in zip(function(value, np.int64(start), np.int64(stop)), expected):
            np.testing.assert_array_equal(actual, wanted)


@BOTH
def test_symbolic_integers_and_arrays(run):
    x, i, j = T.matrix("x"), T.iscalar("i"), T.tensor("uint8", (None,), "j")
    value = RANDOM.standard_normal((4, 3))
    outputs = [x[i], x[:, i], x[i, 1:], x[T.arange(j.shape[0]), j], x[i, j], T.take(x, j, axis=1),
               T.take(x, j), T.set_subtensor(x[i], 0.0), T.inc_subtensor(x[:, j], 1.0)]
    function = run([x, i, j], outputs)
    rows = np.arange(3)
    for at, columns in [(0, [0, 2, 2]), (2, [1, 1, 1]), (-1, [2, 1, 0])]:
        columns = np.array(columns, "uint8")
        zeroed, counted = value.copy(), value.copy()
        zeroed[at] = 0.0
        np.add.at(counted, (slice(None), columns), 1.0)
        expected = [value[at], value[:, at], value[at, 1:], value[rows, columns],
                    value[at, columns], value[:, columns], value.ravel()[columns], zeroed, counted]
        for actual, wanted in zip(function(value, np.int32(at), columns), expected):
            np.testing.assert_array_equal(actual, wanted)


def test_neighbouring_slices_have_provably_equal_sizes():
    x = T.vector()
    assert proves_equal(x[1:].type.dims[0], x[:-1].type.dims[0])
    assert proves_equal(x[::-1].type.dims[0], x.type.dims[0])
    assert proves_equal(x[:].type.dims[0], x.type.dims[0])
    assert not (x[1:] - x[:-1]).owner.guards


@pytest.mark.parametrize("index", [4, -5, (0, 3), [0, 4], (slice(None), [-4]), (0, 0, 0, 0)],
                         ids=str)
def test_a_known_index_out_of_range_is_refused_at_once(index):
    x = T.tensor("float64", (4, 3, 5), "x")
    with pytest.raises(IndexError, match="out of range|too many"):
        x[index]


@BOTH
@pytest.mark.parametrize("build, good, bad", [
    (lambda x, i: x[i], [-3, 2], [3, -4, 2**40]),
    (lambda x, i: x[i:i + 1, i], [-2, 1], [2, -3]),
    (lambda x, i: x[T.stack([i, i])], [-3, 2], [3, -4, -2**62]),
    (lambda x, i: T.set_subtensor(x[i], 1.0), [-3, 2], [3, -4]),
    (lambda x, i: T.inc_subtensor(x[T.stack([i]), :1], 1.0), [-3, 2], [3, -4])],
    ids=["row", "column", "rows", "set", "inc"])
def test_an_index_out_of_range_is_refused_at_the_call(run, build, good, bad):
    x, i = T.matrix("x"), T.lscalar("i")
    function = run([x, i], [build(x, i)])
    value = np.ones((3, 2))
    for index in good:
        function(value, np.int64(index))
    for index in bad:
        with pytest.raises(IndexOutOfRangeError):
            function(value, np.int64(index))


@BOTH
def test_a_constant_index_is_checked_against_the_size_at_the_call(run):
    x = T.vector("x")
    for index in (2, -3):
        function = run([x], [x[index]])
        assert function(np.arange(3.0))[0] == np.arange(3.0)[index]
        for size in (2, 0):
            with pytest.raises((IndexOutOfRangeError, ShapeError)):
                function(np.ones(size))
    with pytest.raises(IndexOutOfRangeError, match="(?s)Index 2 is out.*3 is needed, not 1"):
        tx.function([x], x[2])(np.ones(1))


def test_new_values_are_broadcast_as_numpy_assigns_them():
    x = T.tensor("float64", (2, 3), "x")
    value = np.zeros((2, 3))
    for new in (7.0, [1, 2, 3], np.ones((1, 1, 3)), np.ones((2, 1)), np.ones(1)):
        expected = value.copy()
        expected[:] = new
        np.testing.assert_array_equal(T.set_subtensor(x[:], new).eval({x: value}), expected)
    y = T.matrix("y")
    with pytest.raises(ShapeError, match=r"(?s)\[1, 2, 3, 4\] has 4.*y.shape\[1\]|subtensor"):
        T.set_subtensor(y[0], [1, 2, 3, 4]).eval({y: value})


@BOTH
def test_an_empty_axis_can_be_indexed_with_nothing_only(run):
    x, i = T.matrix("x"), T.lvector("i")
    function = run([x, i], [x[i]])
    assert function(np.ones((0, 2)), np.zeros(0, "int64"))[0].shape == (0, 2)
    with pytest.raises((IndexOutOfRangeError, ShapeError)):
        function(np.ones((0, 2)), np.zeros(1, "int64"))
    scalar = T.lscalar()
    with pytest.raises((IndexOutOfRangeError, ShapeError)):
        run([x, scalar], [x[scalar]])(np.ones((0, 2)), np.int64(0))


@BOTH
def test_of_values_that_compete_for_an_element_the_last_is_set(run):
    x = T.vector("x")
    (result,) = run([x], [T.set_subtensor(x[[1, 1, 0, 1]], np.array([1.0, 2.0, 3.0, 4.0]))])(
        np.zeros(3))
    np.testing.assert_array_equal(result, [3, 4, 0])


def test_gradients_of_changed_parts():
    x, y = T.vector("x"), T.vector("y")
    w = np.array([1.0, 2.0, 3.0])
    cost = T.sum(w * T.set_subtensor(x[1:], y)) + T.sum(w * T.inc_subtensor(x[[0, 0]], y))
    to_x, to_y = evaluate(T.grad(cost, [x, y]), {x: np.ones(3), y: np.ones(2)})
    np.testing.assert_array_equal(to_x, [2, 2, 3])
    np.testing.assert_array_equal(to_y, [3, 4])


@pytest.mark.parametrize("call, error, message", [
    (lambda x: x[1.5], DtypeError, "must be an integer"),
    (lambda x: x[T.scalar()], DtypeError, "must be an integer"),
    (lambda x: x["a"], DtypeError, "must be an integer"),
    (lambda x: x[True], DtypeError, "single boolean"),
    (lambda x: x[x > 0], DtypeError, "T.switch"),
    (lambda x: x[::0], DtypeError, "step of a slice"),
    (lambda x: x[::T.lscalar()], DtypeError, "step of a slice"),
    (lambda x: x[0.5:], DtypeError, "an integer is needed"),
    (lambda x: x[..., ...], IndexOutOfRangeError, "one ellipsis"),
    (lambda x: x[np.array([True, False])], IndexOutOfRangeError, "does not fit"),
    (lambda x: x[[0, 1], [0, 1, 2]], ShapeError, "must be equal"),
    (lambda x: T.set_subtensor(x, 1.0), DtypeError, "result of indexing"),
    (lambda x: T.inc_subtensor(T.ivector()[:2], 0.5), DtypeError, "floats cannot be put"),
    (lambda x: T.inc_subtensor((x > 0)[0], True), DtypeError, "bool cannot be incremented"),
    (lambda x: T.set_subtensor(x[0], np.ones((2, 2))), ShapeError, "do not broadcast"),
])
def test_errors_of_indexing(call, error, message):
    with pytest.raises(error, match=message):
        call(T.matrix("x"))
