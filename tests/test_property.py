"""Random graphs: compiled code agrees with every level's interpreter, with each pass on and off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tetractys as tx
from tetractys import debug
from tetractys import tensor as T
from tetractys.compiler import band, fuse, lower, lower_column
from tetractys.compiler.interpret import evaluate
from tetractys.compiler.pipeline import PASSES, Options

SETTINGS = dict(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

UNARY = {
    "neg": lambda x: -x, "sqr": T.sqr, "tanh": T.tanh, "sigmoid": T.nnet.sigmoid,
    "relu": T.nnet.relu, "abs": abs, "half": lambda x: x * 0.5, "exp": lambda x: T.exp(T.tanh(x)),
    "transpose": lambda x: x.T, "reverse": lambda x: x[::-1], "every other": lambda x: x[:, ::2],
    "softmax": T.nnet.softmax, "row max": lambda x: x.max(axis=1, keepdims=True) - x,
    "column mean": lambda x: x - x.mean(axis=0), "total": lambda x: x / (1.0 + abs(x).sum()),
    "flatten": lambda x: x.flatten().dimshuffle("x", 0),
    "gather": lambda x: x[[0, -1, 0]],
    "pick": lambda x: x[T.arange(x.shape[0]), T.argmax(x, axis=1)].dimshuffle(0, "x") * x,
    "set": lambda x: T.set_subtensor(x[0], 1.5),
    "add to": lambda x: T.inc_subtensor(x[:, -1], x[:, 0]),
    "double": lambda x: T.concatenate([x, -x], axis=0),
    "column sum": lambda x: x.sum(axis=0, keepdims=True),
    "gram": lambda x: T.dot(x, x.T), "covariance": lambda x: T.dot(x.T, x),
    "vector": lambda x: T.dot(x, x[0]).dimshuffle(0, "x"),
    "where": lambda x: T.switch(x > 0, x, 0.1 * x), "last row": lambda x: x + x[-1],
}
BINARY = {
    "add": lambda x, y: x + y, "mul": lambda x, y: x * y, "sub": lambda x, y: x - y,
    "max": T.maximum, "guarded div": lambda x, y: x / (1.0 + T.sqr(y)),
}
ELEMENTWISE = ("tanh", "sigmoid", "exp", "half", "where")
VIEWS = {
    "reverse": lambda x: x[::-1], "mirror": lambda x: x[:, ::-1], "transpose": lambda x: x.T,
    "roll": lambda x: T.concatenate([x[1:], x[:1]], axis=0),
}
ROWS = {
    "softmax": T.nnet.softmax, "logsoftmax": T.nnet.logsoftmax,
    "first column": lambda x: x * x[:, 0][:, None],
    "row max": lambda x: x - x.max(axis=1, keepdims=True),
    "share": lambda x: x / (1.0 + abs(x).sum(axis=1, keepdims=True)),
    "column share": lambda x: x * x.sum(axis=0), "row share": lambda x: x * x.sum(axis=1)[:, None],
}
LAYOUTS = ("strided", "reversed", "fortran", "read-only", "byte-swapped")


@st.composite
def graphs(draw, dtypes=("float64", "float32")):
    """Return inputs, outputs, and arrays for them."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from(dtypes))
    is_known = draw(st.booleans())
    shape = (rows, columns) if is_known else (None, None)
    inputs = [T.tensor(dtype, shape=shape, name=name) for name in "xy"]
    pool = list(inputs)
    for _ in range(draw(st.integers(1, 8))):
        x = pool[draw(st.integers(0, len(pool) - 1))]
        if draw(st.booleans()):
            pool.append(UNARY[draw(st.sampled_from(sorted(UNARY)))](x))
        else:
            y = pool[draw(st.integers(0, len(pool) - 1))]
            if x.type.dims == y.type.dims:
                pool.append(BINARY[draw(st.sampled_from(sorted(BINARY)))](x, y))
    outputs = pool[2:][-3:] or [pool[0] + 1]
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    arrays = [rng.uniform(-2, 2, (rows, columns)).astype(dtype) for _ in inputs]
    return inputs, outputs, arrays


def assert_close(got, want):
    """Assert equality up to the rounding of reordered sums."""
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype and g.shape == w.shape
        scale = np.abs(w[np.isfinite(w)]).max(initial=1e-3)
        tolerance = 2e-4 if w.dtype == np.float32 else 1e-10
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * scale)


@settings(max_examples=60, **SETTINGS)
@given(graphs())
def test_compiled_code_agrees_with_the_references(graph):
    """Values of outputs and of a gradient agree with level one's interpreter."""
    inputs, outputs, arrays = graph
    cost = sum((T.sqr(out).mean() for out in outputs), T.constant(0.0, outputs[0].dtype))
    gradients = tx.grad(cost, inputs, disconnected_inputs="ignore")
    results = [*outputs, *gradients]
    function = tx.function(inputs, results, on_unused_input="ignore")
    assert_close(function(*arrays), evaluate(results, dict(zip(inputs, arrays))))


@st.composite
def chains(draw):
    """Return a function of a square matrix: elementwise functions, views, and functions of rows."""
    kinds = {**{name: UNARY[name] for name in ELEMENTWISE}, **VIEWS, **ROWS}
    names = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=2, max_size=6))

    def chain(x):
        values = [x]
        for name in names:
            values.append(kinds[name](values[-1]))
        return values[1:]
    return chain


@settings(max_examples=60, **SETTINGS)
@given(chains(), st.sampled_from([1, 5, 12, 33, 70]), st.booleans())
def test_functions_views_and_rows_in_any_order_agree(chain, size, keeps):
    """Results, one of them or all, and updates in place agree with level one's interpreter."""
    start = np.random.default_rng(size).uniform(-1, 1, (size, size))
    x, state = T.dmatrix("x"), tx.shared(start, name="state")
    wanted = evaluate(chain(x), {x: start})
    chosen = slice(None) if keeps else slice(-1, None)
    assert_close(tx.function([x], chain(x)[chosen])(start), wanted[chosen])
    tx.function([], updates={state: chain(state)[-1]})()
    assert_close([state.get_value()], wanted[-1:])


@settings(max_examples=12, **SETTINGS)
@given(graphs(), st.sets(st.sampled_from(PASSES), min_size=1))
def test_every_pass_can_be_switched_off(graph, disabled):
    """No subset of the passes changes results."""
    inputs, outputs, arrays = graph
    options = Options(disabled=frozenset(disabled), verify=True)
    function = tx.function(inputs, outputs, mode=options, on_unused_input="ignore")
    assert_close(function(*arrays), evaluate(outputs, dict(zip(inputs, arrays))))


@settings(max_examples=15, **SETTINGS)
@given(graphs())
def test_every_level_agrees(graph):
    """``debug.bisect`` runs all six levels and finds no difference."""
    inputs, outputs, arrays = graph
    function = tx.function(inputs, outputs, on_unused_input="ignore")
    found = debug.bisect(function, *arrays)
    assert found.level is None, str(found)


@settings(max_examples=15, **SETTINGS)
@given(graphs())
def test_blocks_and_bands_of_a_few_elements_agree(graph):
    """Arrays that count as large are cut into blocks, walked in bands, and recomputed."""
    inputs, outputs, arrays = graph
    sizes = {(band, "LARGE"): 4, (band, "BAND"): 8, (band, "LEAST_ROWS"): 2, (fuse, "IN_CACHE"): 4,
             (band, "ROW_BLOCK"): 12, (lower_column, "ROW_BLOCK"): 8, (lower, "FULL_BLOCK"): 4,
             (lower_column, "COLUMN_BLOCK"): 4, (lower_column, "UNKNOWN_ROWS"): 4,
             (lower_column, "LEAST_BLOCK_ROWS"): 1}
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), size in sizes.items():
            patch.setattr(module, name, size)
        function = tx.function(inputs, [*outputs, *(out.sum(axis=0) for out in outputs)],
                               on_unused_input="ignore")
        function(*arrays)
        found = debug.bisect(function, *arrays)
    assert found.level is None, str(found)


@settings(max_examples=12, **SETTINGS)
@given(graphs())
def test_symbolic_sizes_agree_with_specialised_ones(graph):
    """The variant with all sizes symbolic computes the same."""
    inputs, outputs, arrays = graph
    function = tx.function(inputs, outputs, on_unused_input="ignore")
    function.compile()
    assert not function.variants[0].fixed
    assert_close(function(*arrays), evaluate(outputs, dict(zip(inputs, arrays))))
    assert len(function.variants) == 1


@settings(max_examples=12, **SETTINGS)
@given(graphs(), st.sampled_from(LAYOUTS))
def test_any_layout_of_arguments(graph, layout):
    """Arguments may be laid out in any way."""
    inputs, outputs, arrays = graph
    function = tx.function(inputs, outputs, on_unused_input="ignore")
    assert_close(function(*(relaid(array, layout) for array in arrays)), function(*arrays))


def relaid(array, layout):
    """Return an equal array with another memory layout."""
    if layout == "strided":
        wide = np.zeros((array.shape[0] * 2, array.shape[1] * 3), array.dtype)
        wide[::2, ::3] = array
        return wide[::2, ::3]
    if layout == "reversed":
        return array[::-1, ::-1].copy()[::-1, ::-1]
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "read-only":
        array = array.copy()
        array.setflags(write=False)
        return array
    return array.astype(array.dtype.newbyteorder())


def test_bisect_names_the_level_that_differs(monkeypatch):
    """A planted fault in one level is found, and named."""
    x = T.vector("x")
    function = tx.function([x], T.exp(x))
    from tetractys.compiler import pipeline
    original = pipeline.expand

    def faulty(outputs):
        return [out * 1.001 for out in original(outputs)]

    monkeypatch.setattr(pipeline, "expand", faulty)
    found = debug.bisect(function, np.arange(3.0))
    assert found.level == "expanded" and found.output == 0


def test_bisect_runs_the_sizes_of_a_function_with_updates():
    """Sizes that are values have a program of their own, which returns no updates."""
    x, count = T.dvector("x"), T.lscalar("count")
    w = tx.shared(np.zeros(3), name="w")
    function = tx.function([x, count], x * T.arange(count).sum(), updates={w: w + 1.0})
    found = debug.bisect(function, np.ones(3), 4)
    assert found.level is None, str(found)
    assert len(found.values["program"]) == 2 and w.get_value().tolist() == [0.0] * 3


@pytest.mark.parametrize("threads", [1, 2])
def test_results_do_not_depend_on_threads(threads):
    """Sums are cut in blocks of a fixed size, whatever the number of threads."""
    from tetractys.runtime import cpu_threads
    x = T.fmatrix("x")
    function = tx.function([x], [x.sum(), x.sum(axis=0), T.nnet.softmax(x).mean()])
    array = np.random.default_rng(0).normal(size=(700, 900)).astype("float32")
    before = cpu_threads.get_num_threads()
    try:
        cpu_threads.set_num_threads(1)
        want = function(array)
        cpu_threads.set_num_threads(threads)
        got = function(array)
    finally:
        cpu_threads.set_num_threads(before)
    for g, w in zip(got, want, strict=True):
        assert np.array_equal(g, w)
