"""Reductions, shapes, joining, ranges, products: compared with NumPy, interpreted and compiled."""

from __future__ import annotations

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.dims import proves_equal
from tetractys.compiler.graph import dim_of
from tetractys.compiler.interpret import evaluate
from tetractys.runtime.errors import DtypeError, ShapeError

RANDOM = np.random.default_rng(0)


def _interpreted(inputs, outputs):
    return lambda *arrays: evaluate(outputs, dict(zip(inputs, arrays)))


def _compiled(inputs, outputs):
    return tx.function(inputs, outputs, on_unused_input="ignore")


BOTH = pytest.mark.parametrize("run", [_interpreted, _compiled], ids=["interpreted", "compiled"])


def _array(shape, dtype="float64"):
    if dtype == "bool":
        return RANDOM.integers(0, 2, shape).astype(bool)
    if dtype.startswith("f"):
        return np.asarray(RANDOM.standard_normal(shape), dtype)
    return RANDOM.integers(0 if dtype.startswith("u") else -5, 6, shape).astype(dtype)


def _inputs(arrays):
    return [T.tensor(a.dtype.name, [1 if n == 1 else None for n in a.shape], f"x{k}")
            for k, a in enumerate(arrays)]


def check_like_numpy(run, symbolic, reference, *arrays, tolerance=1e-12):
    """Assert that a function of unknown-size and of known-size inputs does what NumPy does."""
    expected = np.asarray(reference(*arrays))
    known = [T.tensor(a.dtype.name, a.shape, f"k{k}") for k, a in enumerate(arrays)]
    for inputs in (_inputs(arrays), known):
        (actual,) = run(inputs, [symbolic(*inputs)])(*arrays)
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# -- reductions ------------------------------------------------------------------------------------

@BOTH
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (1, -1), (0, 1, 2), ()], ids=str)
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "mean", "var", "std", "all", "any"])
def test_reductions_over_axes_are_numpys(run, name, axis):
    if axis == () and name in ("mean", "var", "std", "all", "any"):
        axis = (1,)
    for keepdims in (False, True):
        check_like_numpy(run, lambda x: getattr(T, name)(x, axis=axis, keepdims=keepdims),
                         lambda x: getattr(np, name)(x, axis=axis, keepdims=keepdims),
                         _array((2, 3, 4)))


@BOTH
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float32"])
def test_sum_and_prod_accumulate_in_numpys_dtype(run, dtype):
    x = _array((3, 4), dtype)
    check_like_numpy(run, lambda v: v.sum(axis=0), lambda v: v.sum(axis=0), x, tolerance=1e-5)
    check_like_numpy(run, lambda v: v.prod(axis=0), lambda v: v.prod(axis=0), x, tolerance=1e-5)
    check_like_numpy(run, lambda v: T.max(v, axis=0), lambda v: v.max(axis=0), x)


@BOTH
def test_dtype_of_a_sum_can_be_chosen(run):
    check_like_numpy(run, lambda x: T.sum(x, dtype="float64"), lambda x: x.sum(dtype="float64"),
                     _array((50,), "float32"))


@BOTH
def test_empty_reductions_have_their_identity(run):
    x = np.zeros((0, 3))
    check_like_numpy(run, lambda v: v.sum(axis=0), lambda v: v.sum(axis=0), x)
    check_like_numpy(run, lambda v: v.prod(axis=0), lambda v: v.prod(axis=0), x)
    check_like_numpy(run, lambda v: v.max(axis=1), lambda v: v.max(axis=1), x)
    with np.errstate(all="ignore"):
        (mean,) = run([v := T.matrix()], [v.mean(axis=0)])(x)
    assert np.isnan(mean).all()


def test_maximum_of_a_known_empty_axis_is_refused_at_once():
    with pytest.raises(ShapeError, match="length 0 does not exist"):
        T.max(np.zeros((0, 3)), axis=0)


@BOTH
@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin"])
def test_maximum_of_an_axis_that_turns_out_empty_is_refused(run, name):
    x = T.matrix("x")
    with pytest.raises(ShapeError):
        run([x], [getattr(T, name)(x, axis=0)])(np.zeros((0, 3)))


@BOTH
def test_extrema_propagate_nan_and_argmax_finds_the_first(run):
    x = np.array([[1.0, np.nan, 3.0, np.nan], [2.0, 5.0, 5.0, 1.0], [-np.inf] * 4])
    for name in ("max", "min", "argmax", "argmin"):
        check_like_numpy(run, lambda v: getattr(T, name)(v, axis=1),
                         lambda v: getattr(np, name)(v, axis=1), x)
    check_like_numpy(run, lambda v: T.argmax(v, keepdims=True),
                     lambda v: np.argmax(v, keepdims=True), x)


@BOTH
def test_extrema_of_bool_and_integers(run):
    for dtype in ("bool", "int8", "uint64"):
        for name in ("max", "min", "argmax", "argmin"):
            check_like_numpy(run, lambda v: getattr(T, name)(v, axis=0),
                             lambda v: getattr(np, name)(v, axis=0), _array((4, 3), dtype))


@BOTH
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64"])
def test_statistics_of_integers_are_float64(run, dtype):
    for name in ("mean", "var", "std"):
        check_like_numpy(run, getattr(T, name), getattr(np, name), _array((3, 4), dtype))
    assert T.mean(np.ones(2, dtype), dtype=np.float32).dtype == "float32"


@BOTH
def test_maximum_of_no_bools_is_refused(run):
    x = T.vector("x")
    for function in (T.max, T.min):
        with pytest.raises(ShapeError, match="does not exist"):
            run([x], [function(x > 0)])(np.zeros(0))


@BOTH
def test_variance_with_degrees_of_freedom(run):
    check_like_numpy(run, lambda x: T.var(x, axis=0, ddof=1), lambda x: x.var(axis=0, ddof=1),
                     _array((5, 2)))
    check_like_numpy(run, lambda x: x.std(), lambda x: x.std(), _array((5, 2), "int32"))
    check_like_numpy(run, T.ptp, np.ptp, _array((5, 2)))


def test_gradient_of_the_maximum_is_divided_among_ties():
    x = T.vector()
    gradient = T.grad(x.max(), x)
    np.testing.assert_array_equal(evaluate([gradient], {x: [1.0, 3.0, 3.0, 0.0]})[0],
                                  [0, 0.5, 0.5, 0])


@pytest.mark.parametrize("values", [[2.0, 3.0, 4.0], [2.0, 0.0, 4.0], [0.0, 3.0, 0.0],
                                    [0.0, 0.0, 0.0]], ids=str)
def test_derivatives_of_a_product_are_right_at_zeros(values):
    x = T.vector()
    gradient = T.grad(x.prod(), x)
    rows = [T.grad(gradient[k], x) for k in range(3)]
    first, *second = evaluate([gradient, *rows], {x: np.array(values)})
    a, b, c = values
    np.testing.assert_allclose(first, [b * c, a * c, a * b])
    np.testing.assert_allclose(second, [[0, c, b], [c, 0, a], [b, a, 0]])


# -- shapes ----------------------------------------------------------------------------------------

def test_reading_a_size_needs_no_value():
    x = T.matrix("x")
    assert x.shape[0].owner.op.name == "axis_size"
    assert x.shape[-1].owner.params["axis"] == 1
    assert proves_equal(dim_of(T.prod(x.shape)), x.type.dims[0] * x.type.dims[1])
    assert proves_equal(dim_of(x.size), x.flatten().type.dims[0])
    assert x.shape[1:].type.shape == (1,) and T.shape(1.0).type.shape == (0,)
    with pytest.raises(IndexError, match="Index 2 is out of range"):
        x.shape[2]


RESHAPES = {
    "minus one": (lambda x: x.reshape((-1, 6)), lambda x: x.reshape(-1, 6)),
    "batch kept": (lambda x: x.reshape((x.shape[0], -1)), lambda x: x.reshape(x.shape[0], -1)),
    "vector of sizes": (lambda x: x.reshape(x.shape[::-1]), lambda x: x.reshape(x.shape[::-1])),
    "computed vector": (lambda x: x.reshape(x.shape * 1, ndim=3), lambda x: x),
    "flatten 2": (lambda x: x.flatten(2), lambda x: x.reshape(x.shape[0], -1)),
    "ravel": (lambda x: x.ravel(), np.ravel),
    "swap": (lambda x: T.swapaxes(x, 0, -1), lambda x: x.swapaxes(0, 2)),
    "move": (lambda x: T.moveaxis(x, (0, 1), (-1, 0)), lambda x: np.moveaxis(x, (0, 1), (-1, 0))),
    "transpose": (lambda x: x.T, lambda x: x.T),
    "permute": (lambda x: x.transpose(2, 0, 1), lambda x: x.transpose(2, 0, 1)),
    "reshape transposed": (lambda x: x.T.reshape((x.shape[2], -1)),
                           lambda x: x.T.reshape(x.shape[2], -1)),
    "expand": (lambda x: T.expand_dims(x, (0, -1)), lambda x: np.expand_dims(x, (0, -1))),
    "squeeze": (lambda x: T.squeeze(x[:, None]), lambda x: x),
    "padleft": (lambda x: T.shape_padleft(x, 2), lambda x: x[None, None]),
    "padright": (T.shape_padright, lambda x: x[..., None]),
    "padaxis": (lambda x: T.shape_padaxis(x, 1), lambda x: x[:, None]),
    "zeros_like": (lambda x: T.zeros_like(x, "int8"), lambda x: np.zeros(x.shape, "int8")),
    "full_like": (lambda x: T.full_like(x, 2.5), lambda x: np.full_like(x, 2.5)),
    "alloc": (lambda x: T.alloc(1.5, x.shape[1], 2), lambda x: np.full((x.shape[1], 2), 1.5)),
    "tile": (lambda x: T.tile(x, (2, 1, 3)), lambda x: np.tile(x, (2, 1, 3))),
    "tile front": (lambda x: T.tile(x, (2,) * 4), lambda x: np.tile(x, (2,) * 4)),
    "repeat": (lambda x: T.repeat(x, 3, 1), lambda x: np.repeat(x, 3, 1)),
    "repeat flat": (lambda x: x.repeat(2), lambda x: x.repeat(2)),
    "repeat each": (lambda x: x[:2].repeat([3, 0], 0), lambda x: x[:2].repeat([3, 0], 0)),
    "roll": (lambda x: T.roll(x, -1, 0), lambda x: np.roll(x, -1, 0)),
    "roll flat": (lambda x: T.roll(x, 5), lambda x: np.roll(x, 5)),
    "join": (lambda x: T.join(2, x, x[:, :, :1]), lambda x: np.concatenate([x, x[:, :, :1]], 2)),
    "stack": (lambda x: T.stack([x, 2 * x], axis=1), lambda x: np.stack([x, 2 * x], axis=1)),
}


@BOTH
@pytest.mark.parametrize("case", RESHAPES.values(), ids=RESHAPES.keys())
def test_changes_of_shape_are_numpys(run, case):
    check_like_numpy(run, *case, _array((2, 3, 4)))


@BOTH
def test_reshape_of_no_elements_keeps_what_follows_from_the_sizes(run):
    x = T.tensor3()
    (flat,) = run([x], [x.reshape((x.shape[0], -1))])(np.zeros((0, 3, 4)))
    assert flat.shape == (0, 12)


def test_reshape_to_joined_parts_of_a_shape():
    x = T.tensor3("x")
    y = x.reshape(T.concatenate([x.shape[:1], [-1, 2]]))
    assert y.ndim == 3 and proves_equal(y.type.dims[0], x.type.dims[0])
    assert y.eval({x: np.zeros((3, 4, 5))}).shape == (3, 10, 2)


@BOTH
def test_reshape_to_another_number_of_elements_is_refused(run):
    x = T.vector("x")
    with pytest.raises(ShapeError):
        run([x], [x.reshape((2, 3))])(np.zeros(5))
    with pytest.raises(ShapeError, match="number of elements"):
        T.reshape(np.zeros(5), (2, 3))
    with pytest.raises(ShapeError, match="only one size can be -1"):
        x.reshape((-1, -1))
    with pytest.raises(ShapeError, match="must be known while the graph is built"):
        x.reshape(T.lvector())


@BOTH
def test_sizes_that_are_data(run):
    n, x = T.lscalar("n"), T.vector("x")
    outputs = [T.zeros((n, 2)), T.arange(n), T.eye(n), x.reshape((n, -1)),
               T.alloc(x, n, x.shape[0])]
    function = run([n, x], outputs)
    for size in (3, 1, 6):
        results = function(np.int64(size), np.arange(6.0))
        expected = [np.zeros((size, 2)), np.arange(size), np.eye(size),
                    np.arange(6.0).reshape(size, -1), np.broadcast_to(np.arange(6.0), (size, 6))]
        for actual, wanted in zip(results, expected):
            np.testing.assert_array_equal(actual, wanted)


@BOTH
def test_a_negative_size_is_refused(run):
    n = T.lscalar("n")
    with pytest.raises(ShapeError):
        run([n], [T.zeros((n,))])(np.int64(-1))
    with pytest.raises(ShapeError, match="negative"):
        T.zeros((-1,))


@pytest.mark.parametrize("call, error, message", [
    (lambda x: x.dimshuffle(0), ShapeError, "dropped but is not known"),
    (lambda x: x.dimshuffle(0, 0, 1), ShapeError, "repeats an axis"),
    (lambda x: x.dimshuffle(0, 1, 2), ShapeError, "axis 2 does not exist"),
    (lambda x: T.transpose(x, (0,)), ShapeError, "do not match"),
    (lambda x: T.squeeze(x, 0), ShapeError, "not known to have length 1"),
    (lambda x: x.sum(axis=2), ShapeError, "does not fit"),
    (lambda x: T.broadcast_to(x, (3,)), ShapeError, "fewer axes"),
    (lambda x: T.zeros((2.5,)), DtypeError, "an integer is needed"),
    (lambda x: T.concatenate([x, x[0]]), ShapeError, "differ in rank"),
    (lambda x: T.concatenate([np.ones((2, 3)), np.ones((2, 4))]), ShapeError, "must be equal"),
    (lambda x: T.stack([]), ShapeError, "nothing to join"),
    (lambda x: T.arange(0, 5, 0), ShapeError, "step must not be 0"),
    (lambda x: T.arange(x[0, 0]), DtypeError, "integer is needed"),
    (lambda x: x.flatten(3), ShapeError, "cannot be flattened"),
    (lambda x: T.specify_shape(np.ones((2, 3)), (2, 4)), ShapeError, "declared to have length 4"),
    (lambda x: x.repeat(T.lvector()), DtypeError, "must be constant"),
])
def test_errors_of_shape(call, error, message):
    with pytest.raises(error, match=message):
        call(T.matrix("x"))


@BOTH
def test_declared_sizes_are_checked_at_the_call(run):
    x = T.matrix("x")
    function = run([x], [T.addbroadcast(x, 1) + np.ones((2, 3)), T.patternbroadcast(x, (0, 1))])
    np.testing.assert_array_equal(function(np.ones((2, 1)))[0], np.full((2, 3), 2.0))
    with pytest.raises(ShapeError):
        function(np.ones((2, 2)))


@BOTH
def test_split_by_sizes_and_into_equal_parts(run):
    x, n = T.matrix("x"), T.lscalar("n")
    value = _array((5, 6))
    parts = T.split(x, [n, 3 - n, 2], axis=0) + T.split(x, 3, axis=1) + T.split(x, (1, 4), 2, 0)
    results = run([x, n], parts)(value, np.int64(2))
    expected = [*np.split(value, [2, 3], 0), *np.split(value, 3, 1), *np.split(value, [1], 0)]
    for actual, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    with pytest.raises(ShapeError):
        run([x], T.split(x, [1, 2]))(value)
    with pytest.raises(ShapeError):
        T.split(np.zeros(5), 2)
    with pytest.raises(ShapeError, match="negative"):
        run([x, n], T.split(x, [n, 5 - n]))(value, np.int64(-1))
    with pytest.raises(ShapeError, match="negative"):
        T.split(x, [-1, 6])


# -- ranges ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments", [
    (5,), (2, 7), (7, 2, -2), (0, 10, 3), (3, 3), (5, 2), (-4,), (0.0, 1.0, 0.25), (1, 0, -0.3),
    (np.int32(4),), (np.int8(1), np.int16(6))], ids=str)
def test_constant_ranges_are_numpys(arguments):
    (actual,) = evaluate([T.arange(*arguments)], {})
    expected = np.arange(*arguments)
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=1e-15)


@BOTH
def test_symbolic_ranges_are_pythons(run):
    a, b, s = T.lscalars("a", "b", "s")
    function = run([a, b, s], [T.arange(a, b, s), T.arange(a, b, 2), T.arange(a, b, -3)])
    for start, stop, step in [(0, 7, 2), (5, -3, -2), (3, 3, 1), (-4, 4, 3), (4, -4, 1)]:
        results = function(*map(np.int64, (start, stop, step)))
        for actual, stride in zip(results, (step, 2, -3)):
            np.testing.assert_array_equal(actual, np.arange(start, stop, stride))


@BOTH
@pytest.mark.parametrize("k", [-2, 0, 1])
def test_special_matrices_are_numpys(run, k):
    x, v = _array((3, 4)), _array((3,))
    for name in ("tril", "triu", "diagonal", "diag"):
        check_like_numpy(run, lambda m: getattr(T, name)(m, k),
                         lambda m: getattr(np, name)(m, k), x)
    check_like_numpy(run, lambda m: T.eye(m.shape[0], m.shape[1], k),
                     lambda m: np.eye(*m.shape, k), x)
    check_like_numpy(run, lambda m: T.tri(m.shape[0], m.shape[1], k),
                     lambda m: np.tri(*m.shape, k), x)
    check_like_numpy(run, lambda w: T.diag(w, k), lambda w: np.diag(w, k), v)
    check_like_numpy(run, T.trace, np.trace, x)
    check_like_numpy(run, T.identity_like, lambda m: np.eye(*m.shape), x)


# -- products --------------------------------------------------------------------------------------

PRODUCTS = [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)), ((2, 5, 3), (3, 4)),
            ((2, 5, 3), (3,)), ((3,), (4, 3, 2)), ((2, 3), (4, 3, 2)), ((2, 5, 3), (4, 3, 2)),
            ((), (2, 3)), ((0, 3), (3, 2)), ((2, 0), (0, 3)), ((1, 3), (3, 1))]


@BOTH
@pytest.mark.parametrize("shapes", PRODUCTS, ids=str)
def test_dot_is_numpys(run, shapes):
    check_like_numpy(run, T.dot, np.dot, *map(_array, shapes))


@BOTH
@pytest.mark.parametrize("shapes", [s for s in PRODUCTS if () not in s]
                         + [((5, 2, 3), (5, 3, 2)), ((1, 2, 3), (5, 3, 2)), ((2, 3), (5, 3, 2)),
                            ((4, 1, 2, 3), (5, 3, 2))], ids=str)
def test_matmul_is_numpys(run, shapes):
    if shapes == ((2, 5, 3), (4, 3, 2)):
        shapes = ((4, 5, 3), (4, 3, 2))
    check_like_numpy(run, lambda a, b: a @ b, np.matmul, *map(_array, shapes))


@BOTH
@pytest.mark.parametrize("dtypes", [("int8", "int8"), ("bool", "bool"), ("bool", "int32"),
                                    ("float32", "float64"), ("uint8", "int16")], ids=str)
def test_products_of_other_dtypes_are_numpys(run, dtypes):
    check_like_numpy(run, T.dot, np.dot, _array((2, 3), dtypes[0]), _array((3, 4), dtypes[1]),
                     tolerance=1e-6)


@BOTH
@pytest.mark.parametrize("axes", [0, 1, 2, ([0, 1], [1, 0]), ((2,), (0,)), (-1, 0)], ids=str)
def test_tensordot_is_numpys(run, axes):
    shapes = {0: ((2,), (3,)), 2: ((2, 3, 4), (3, 4, 5))}.get(
        axes if isinstance(axes, int) else None, ((2, 3, 4), (4, 5)))
    if axes == ([0, 1], [1, 0]):
        shapes = ((2, 3, 4), (3, 2, 5))
    check_like_numpy(run, lambda a, b: T.tensordot(a, b, axes),
                     lambda a, b: np.tensordot(a, b, axes), *map(_array, shapes))


@BOTH
def test_axes_summed_together_must_agree_one_by_one(run):
    a, b, column = T.tensor3("a"), T.tensor3("b"), T.tensor("float64", (None, 1, None), "column")
    function = run([a, b], [T.tensordot(a, b, 2)])
    assert function(np.ones((2, 3, 4)), np.ones((3, 4, 5)))[0].shape == (2, 5)
    with pytest.raises(ShapeError, match=r"a has 3 on axis 1.*b has 4 on axis 0"):
        function(np.ones((2, 3, 4)), np.ones((4, 3, 5)))
    function = run([column, b], [T.tensordot(column, b, 2)])
    assert function(np.ones((2, 1, 4)), np.ones((1, 4, 5)))[0].shape == (2, 5)
    with pytest.raises(ShapeError):
        function(np.ones((2, 1, 4)), np.ones((2, 2, 5)))


@BOTH
def test_batched_products(run):
    check_like_numpy(run, T.batched_dot, lambda a, b: np.einsum("bij,bjk->bik", a, b),
                     _array((4, 2, 3)), _array((4, 3, 5)))
    check_like_numpy(run, T.batched_dot, lambda a, b: np.einsum("bj,bj->b", a, b),
                     _array((4, 3)), _array((4, 3)))
    check_like_numpy(run, T.batched_dot, lambda a, b: np.einsum("bij,bj->bi", a, b),
                     _array((4, 2, 3)), _array((4, 3)))
    check_like_numpy(run, T.batched_dot, lambda a, b: a[:, None] * b, _array((4,)), _array((4, 2)))
    check_like_numpy(run, lambda a, b: T.batched_tensordot(a, b, [[1, 2], [2, 1]]),
                     lambda a, b: np.einsum("bij,bjik->bk", a, b),
                     _array((4, 2, 3)), _array((4, 3, 2, 5)))
    check_like_numpy(run, T.outer, np.outer, _array((3,)), _array((2, 2)))


@pytest.mark.parametrize("call", [
    lambda a, b: T.dot(a, b), lambda a, b: a @ b, lambda a, b: T.tensordot(a, b, 1)])
def test_a_product_that_does_not_fit_names_both_operands(call):
    a, b = T.tensor("float64", (None, 3), "weights"), T.tensor("float64", (4, None), "data")
    with pytest.raises(ShapeError, match="(?s)weights.*3 on axis.*data.*4 on axis"):
        call(a, b)


@BOTH
def test_a_product_that_turns_out_not_to_fit_is_refused(run):
    a, b = T.matrices("a", "b")
    function = run([a, b], [T.dot(a, b)])
    with pytest.raises(ShapeError, match="(?s)a.*b"):
        function(np.ones((2, 3)), np.ones((4, 2)))
    with pytest.raises(ShapeError, match="scalar is not a matrix"):
        T.matmul(a, 2.0)


@pytest.mark.parametrize("call, shapes", [
    (lambda a, b: T.dot(a, b), ((3,), (3,))), (lambda a, b: T.dot(a, b), ((2, 4, 3), (3,))),
    (lambda a, b: a @ b, ((4, 1, 2, 3), (5, 3, 2))),
    (lambda a, b: T.batched_dot(a, b), ((4, 2, 3), (4, 3)))])
def test_gradients_of_products(call, shapes):
    tx_arrays = [_array(shape) for shape in shapes]
    inputs = _inputs(tx_arrays)
    cost = T.sum(call(*inputs) ** 2)
    gradients = evaluate(T.grad(cost, inputs), dict(zip(inputs, tx_arrays)))
    for k, array in enumerate(tx_arrays):
        direction = _array(array.shape)
        ends = []
        for step in (-1e-6, 1e-6):
            moved = list(tx_arrays)
            moved[k] = array + step * direction
            ends.append(evaluate([cost], dict(zip(inputs, moved)))[0])
        np.testing.assert_allclose(np.vdot(gradients[k], direction), (ends[1] - ends[0]) / 2e-6,
                                   rtol=1e-6)
