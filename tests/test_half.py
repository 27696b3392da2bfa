"""float16 and bfloat16: stored in two bytes, computed in float32, rounded once an operation."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from cuda_fake import fake_gpu
from halves import (
    DIGITS, assert_close, assert_same_bits, half, inputs_of, normal, program_of, rounded)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_ops_table import CASES, Case
from test_property import graphs

import tetractys as tx
from tetractys import debug
from tetractys import tensor as T
from tetractys.compiler.dtypes import can_cast, promote
from tetractys.compiler.interpret import evaluate
from tetractys.compiler.ops.op import ContractLowering, ReduceLowering
from tetractys.compiler.pipeline import PASSES, Options
from tetractys.compiler.program import Contract
from tetractys.compiler.widen import has_halves, moves, widen
from tetractys.gradient import verify_grad
from tetractys.random import RandomStreams
from tetractys.runtime.artifact import numpy_dtype
from tetractys.runtime.errors import CallError, CompileError, DtypeError

# -- operations ------------------------------------------------------------------------------------

SINGLE = [case for case in CASES if set(case.dtypes) & {"float32"}
          and set(case.dtypes) <= {"float32", "bool", "int8", "uint8", "int64"}]
"""Cases of the table of operations that take float32: each is run on halves instead."""


def of_halves(case, name):
    """Return a case on halves, its arrays, and the same arrays as float32."""
    arrays = case.arrays(case.sample.shapes)
    halves = [rounded(a, name) if a.dtype == np.float32 else a for a in arrays]
    own = Case(case.row, case.number, case.sample, tuple(
        name if dtype == "float32" else dtype for dtype in case.dtypes))
    wide = [a.astype("float32") if a.dtype.name == name else a for a in halves]
    return own, halves, wide


def one_node(case, inputs):
    """Return the node of a case's row on inputs, if it is one operation on the inputs alone."""
    node = case.apply(inputs).owner
    is_own = node is not None and node.op is case.row and all(
        v.owner is None for v in node.inputs)
    return node if is_own else None


@half
@pytest.mark.parametrize("case", SINGLE, ids=str)
def test_an_operation_is_that_of_float32_rounded(case, name):
    own, halves, wide = of_halves(case, name)
    inputs, singles_ = own.inputs(case.sample.shapes), case.inputs(case.sample.shapes)
    output, plain = own.apply(inputs), case.apply(singles_)
    f = tx.function(inputs, output, on_unused_input="ignore")
    got = f(*halves)
    assert got.dtype == output.dtype
    reference, = evaluate([output], dict(zip(inputs, halves)))
    if output.dtype == name:
        assert_close(got, reference)
    else:
        assert_close(got, reference, DIGITS[name])
    if one_node(own, inputs) is None or plain.dtype != "float32":
        return
    in_single = tx.function(singles_, plain, on_unused_input="ignore")(*wide)
    want = rounded(in_single, name) if output.dtype == name else in_single
    if isinstance(case.row.lower, (ReduceLowering, ContractLowering)):
        assert_close(got, want, DIGITS[name] + 1)  # The order of additions may be another one.
    else:
        assert_same_bits(got, want)


def test_the_table_has_many_cases_on_halves():
    names = {case.row.name for case in SINGLE}
    assert len(names) > 60
    assert {"add", "exp", "softmax", "contract", "sum", "max", "switch", "cast"} <= names


@half
def test_only_moves_touch_halves_after_widening(name):
    x, y = inputs_of(name, 2, 2)
    outputs = [T.nnet.softmax(T.dot(x, y.T)), T.concatenate([x, y])[::-1, 0], x[[0, 1]].sum(),
               T.inc_subtensor(x[0], y[0]), T.set_subtensor(x[0], y[0]), T.switch(x > y, x, y)]
    pending, seen = list(widen(outputs)), set()
    while pending:
        variable = pending.pop()
        node = variable.owner
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        assert not has_halves(node) or moves(node), node.op.name
        pending += node.inputs
    moved = {node.op.name for out in outputs for node in [out.owner] if moves(node)}
    assert {"switch", "set_subtensor"} <= moved and "inc_subtensor" not in moved


@half
def test_moves_keep_every_bit(name):
    x, = inputs_of(name, 2)
    every = np.arange(1 << 16, dtype="uint16").view(numpy_dtype(name)).reshape(256, 256)
    outputs = [x.T, x[::-1, ::2], x.reshape((128, 512)), T.concatenate([x, x], axis=1),
               x[[3, 1, 3]], T.switch(T.constant(True), x, x[::-1]),
               T.set_subtensor(x[0], x[1])]
    want = [every.T, every[::-1, ::2], every.reshape(128, 512),
            np.concatenate([every, every], axis=1), every[[3, 1, 3]], every,
            np.concatenate([every[1:2], every[1:]])]
    for got, expected in zip(tx.function([x], outputs)(every), want, strict=True):
        np.testing.assert_array_equal(got.view("uint16"),
                                      np.ascontiguousarray(expected).view("uint16"))


@half
def test_sums_are_taken_in_float32(name):
    x, = inputs_of(name, 2)
    array = normal(name, 300, 257)
    wide = array.astype("float32")
    outputs = [x.sum(), x.sum(axis=0), x.sum(axis=1), x.mean(axis=0), x.var(axis=1),
               x.max(axis=0), x.min(), T.argmax(x, axis=1)]
    want = [wide.sum(), wide.sum(axis=0), wide.sum(axis=1), wide.mean(axis=0), wide.var(axis=1)]
    got = tx.function([x], outputs)(array)
    for one, expected in zip(got, want):
        assert_close(one, rounded(expected, name), DIGITS[name] + 1)
    assert_same_bits(got[5], rounded(wide.max(axis=0), name))
    assert_same_bits(got[6], rounded(wide.min(), name))
    np.testing.assert_array_equal(got[7], wide.argmax(axis=1))


def test_a_mean_does_not_overflow_where_its_sum_would():
    x = T.vector("x", dtype="float16")
    array = np.full(10_000, 100, "float16")
    total, mean = tx.function([x], [x.sum(), x.mean()])(array)
    assert np.isinf(total) and mean == 100


@half
def test_roundings_do_not_depend_on_fusion(name):
    x, y = inputs_of(name, 2, 2)
    z = x
    for factor in (1.7, -0.3, 2.2):
        z = T.tanh(z * factor + y) - y / (1.0 + T.sqr(z))
    step = tx.function([x], T.sqr(x) + x)
    arrays = normal(name, 33, 65), normal(name, 33, 65, seed=1)
    results = [tx.function([x, y], [z, z.max(axis=1)], mode=Options(disabled=frozenset(off)))(
        *arrays) for off in ((), ("fusion",), ("epilogues", "in_place"), ("simplify",))]
    for result in results[1:]:
        for got, want in zip(result, results[0], strict=True):
            assert_same_bits(got, want)
    square = rounded(arrays[0].astype("f4") ** 2, name)
    want = rounded(square.astype("f4") + arrays[0].astype("f4"), name)
    assert_same_bits(step(arrays[0]), want)


@half
def test_what_is_stored_between_kernels_is_halves(name):
    x, = inputs_of(name, 2)
    y = T.exp(T.tanh(x))
    program = program_of(tx.function([x], [y.sum(axis=0) / (1.0 + y[::-1].sum()), T.dot(y, y.T)]),
                         normal(name, 40, 50))
    stored = [buffer for step in program.steps if not isinstance(step, Contract)
              for buffer in step.writes if buffer.dims == (40, 50)]
    assert stored and {buffer.dtype for buffer in stored} == {name}


# -- products --------------------------------------------------------------------------------------

@half
@pytest.mark.parametrize("m, k, n", [
    (1, 1, 1), (3, 5, 7), (6, 16, 16), (7, 33, 17), (13, 200, 45), (2, 0, 3), (50, 3, 64),
    (64, 300, 100), (1, 40, 30), (30, 40, 1)])
def test_products_at_odd_sizes(name, m, k, n):
    for is_known in (True, False):
        for flip_a, flip_b in ((0, 0), (1, 0), (0, 1), (1, 1)):
            a, b = normal(name, *(k, m)[::1 if flip_a else -1]), normal(
                name, *(n, k)[::1 if flip_b else -1], seed=1)
            x, y = inputs_of(name, 2, 2)
            f = tx.function([x, y], T.dot(x.T if flip_a else x, y.T if flip_b else y))
            if not is_known:
                f.compile()
            left, right = (v.astype("float32") for v in (a.T if flip_a else a,
                                                         b.T if flip_b else b))
            got, want = f(a, b), rounded(left @ right, name)
            assert got.dtype == want.dtype and got.shape == (m, n)
            scale = np.abs(left) @ np.abs(right)
            error = np.abs(got.astype("f8") - (left.astype("f8") @ right.astype("f8")))
            assert (error <= 2.0 ** -DIGITS[name] * scale).all()


@half
def test_products_read_halves(name):
    x, y = inputs_of(name, 2, 2)
    for columns, left in ((8, name), (200, "float32")):
        f = tx.function([x, y], T.tanh(T.dot(x, y)))
        program = program_of(f, normal(name, 20, 30), normal(name, 30, columns))
        step, = (step for step in program.steps if isinstance(step, Contract))
        assert (step.left.buffer.dtype, step.right.buffer.dtype) == (left, name)
        assert step.out.buffer.dtype == "float32" and step.epilogue is not None
        assert program.outputs[0].dtype == name


@half
def test_batches_and_mixed_operands(name):
    x, y = inputs_of(name, 3, 3)
    w, = inputs_of("float32", 2)
    a, b = normal(name, 3, 5, 20), normal(name, 3, 20, 70, seed=1)
    c = normal("float32", 20, 9)
    assert_close(tx.function([x, y], T.batched_dot(x, y))(a, b),
                 rounded(a.astype("f4") @ b.astype("f4"), name))
    got = tx.function([x, w], T.dot(x[0], w))(a, c)
    np.testing.assert_allclose(got, a[0].astype("f4") @ c, rtol=1e-5, atol=1e-5)


@half
def test_products_of_one_function_may_have_halves_on_different_sides(name):
    """Their micro-kernels differ in nothing else."""
    (x, y), (v, w) = inputs_of(name, 2, 2), inputs_of("float32", 2, 2)
    a, b = normal(name, 20, 200), normal(name, 200, 40, seed=1)
    c, d = normal("float32", 20, 200, seed=2), normal("float32", 200, 40, seed=3)
    f = tx.function([x, y, v, w], [T.dot(x, w), T.dot(v, y), T.dot(v, w)])
    wide = [value.astype("f4") for value in (a, b, c, d)]
    wants = wide[0] @ wide[3], wide[2] @ wide[1], wide[2] @ wide[3]
    for got, want in zip(f(a, b, c, d), wants):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


# -- gradients -------------------------------------------------------------------------------------

@half
def test_gradients_have_the_dtype_of_what_they_are_of(name):
    x, = inputs_of(name, 2)
    w, = inputs_of("float32", 1)
    k = T.lvector("k")
    cost = (T.nnet.softmax(T.dot(x, x.T)).sum(axis=0)[:2].sum()
            + T.cast((T.cast(x, "float32") * w).sum(), name) + x[k].sum())
    gradients = tx.grad(cost, [x, w])
    assert [g.dtype for g in gradients] == [name, "float32"]
    array, single = normal(name, 4, 3), normal("float32", 3)
    got = tx.function([x, w, k], gradients)(array, single, [0, 1])
    want = evaluate(gradients, {x: array, w: single, k: np.array([0, 1])})
    for one, other in zip(got, want, strict=True):
        assert_close(one, other)
    assert T.jacobian(T.sqr(x[0]), x).dtype == name


@half
def test_gradients_are_near_those_of_float32(name):
    def cost_of(x):
        return (T.nnet.sigmoid(T.dot(T.tanh(x), x.T)) * 0.1).sum()

    x, = inputs_of(name, 2)
    y, = inputs_of("float32", 2)
    array = normal(name, 6, 5)
    got = tx.function([x], tx.grad(cost_of(x), x))(array)
    want = tx.function([y], tx.grad(cost_of(y), y))(array.astype("float32"))
    assert_close(got, rounded(want, name), DIGITS[name] - 2)


# -- types -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("left, right, common", [
    ("float16", "float16", "float16"), ("bfloat16", "bfloat16", "bfloat16"),
    ("float16", "bfloat16", "float32"), ("float16", "float32", "float32"),
    ("bfloat16", "float64", "float64"), ("bfloat16", "bool", "bfloat16"),
    ("float16", "int8", "float16"), ("bfloat16", "uint8", "bfloat16"),
    ("bfloat16", "int16", "float32"), ("float16", "int32", "float64"),
    ("bfloat16", "uint64", "float64")])
def test_promotion(left, right, common):
    assert promote(left, right) == promote(right, left) == common
    x, y, mask = inputs_of(left, 1) + inputs_of(right, 1) + inputs_of("bool", 1)
    assert (x * y).dtype == T.switch(mask, x, y).dtype == common


def test_numbers_are_weak():
    x = T.vector("x", dtype="float16")
    assert [v.dtype for v in (x * 2, x + 1.5, 1 / x, x ** 2, x > 0.1, T.maximum(x, 0))] == [
        "float16"] * 4 + ["bool", "float16"]
    assert tx.function([x], x * 0.1)(np.ones(1, "f2")) == np.float16(0.1)


def test_safe_conversions():
    assert [can_cast("bfloat16", t) for t in ("float32", "float64", "float16", "int32")] == [
        True, True, False, False]
    assert [can_cast(s, "bfloat16") for s in ("bool", "uint8", "int16", "float16")] == [
        True, True, False, False]


@half
def test_a_conversion_there_and_back_keeps_its_rounding(name):
    x, = inputs_of("float32", 1)
    y, = inputs_of(name, 1)
    values = normal("float32", 50)
    there_and_back = T.cast(T.cast(x, name), "float32")
    assert_same_bits(tx.function([x], there_and_back)(values),
                     rounded(values, name).astype("float32"))
    program = program_of(tx.function([y], T.cast(T.cast(y, "float64"), name)),
                         normal(name, 5))
    assert len(program.steps) == 1  # A copy: the other way around nothing is lost.


# -- calls -----------------------------------------------------------------------------------------

@half
def test_arguments_of_any_layout(name):
    x, = inputs_of(name, 2)
    f = tx.function([x], x * 2.0)
    array = normal(name, 6, 8)
    want = rounded(array.astype("f4") * 2, name)
    misaligned = np.frombuffer(b"x" + array.tobytes(), "uint8")[1:].view(array.dtype)
    for given_ in (array, np.asfortranarray(array), array[::-1, ::-1].copy()[::-1, ::-1],
                   np.repeat(array, 2, axis=1)[:, ::2], misaligned.reshape(6, 8), array.tolist()):
        assert_same_bits(f(given_), want)
    assert_same_bits(f(array[:0]), want[:0])
    assert f(np.zeros((2, 3), "int8")).dtype == array.dtype


@half
def test_scalars(name):
    x, = inputs_of(name, 0)
    f = tx.function([x], x + 1)
    for value in (1.5, rounded(1.5, name)[()], np.asarray(rounded(1.5, name)), np.int8(1), 1):
        assert f(value).dtype == numpy_dtype(name) and float(f(value)) == float(value) + 1
    assert float(f(0.1)) == float(rounded(rounded(0.1, name).astype("f4") + 1, name))
    with pytest.raises(CallError, match="could lose information"):
        f(np.float32(0.1))


@half
def test_shared_variables_outputs_and_givens(name):
    w = tx.shared(normal(name, 4), name="w")
    x, = inputs_of(name, 1)
    f = tx.function([x], (w * x).sum(), updates={w: w - x * 0.5})
    before, step = w.get_value(), normal(name, 4, seed=2)
    f(step)
    scaled = rounded(step.astype("f4") * 0.5, name).astype("f4")
    assert_same_bits(w.get_value(), rounded(before.astype("f4") - scaled, name))
    w.set_value([1, 2, 3, 4])
    assert w.get_value().dtype == numpy_dtype(name) and w.dtype == name
    with pytest.raises(DtypeError, match="cannot be stored"):
        w.set_value(np.ones(4, "float32"))
    g = tx.function([x], -x)
    place = np.empty(4, numpy_dtype(name))
    assert g(step, out=place) is place
    assert_same_bits(place, rounded(-step.astype("f4"), name))
    assert tx.function([], x * 2.0, givens={x: w})().tolist() == [2, 4, 6, 8]
    assert tx.function([tx.In(x, value=np.ones(2, numpy_dtype(name)))], x + 1)().tolist() == [2, 2]


@half
def test_functions_and_constants_are_pickled(name):
    x, = inputs_of(name, 1)
    w = tx.shared(normal(name, 3), name="w")
    f = tx.function([x], x * w + T.constant(normal(name, 3, seed=5)))
    array = normal(name, 3, seed=1)
    again = pickle.loads(pickle.dumps(f))
    assert_same_bits(again(array), f(array))


def test_halves_have_keys_of_their_own_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TETRACTYS_CACHE_DIR", str(tmp_path))
    array = np.arange(6, dtype="float16")
    for _ in range(2):
        for name in ("float16", "int16", "float32"):
            x, = inputs_of(name, 1)
            assert tx.function([x], x + x)(array.astype(name)).dtype == name


@half
def test_maps_and_reads_at_positions(name):
    x, = inputs_of(name, 2)
    rows, _ = tx.map(lambda row: T.tanh(row) * 2.0, x)
    array = normal(name, 5, 7)
    k = T.lvector("k")
    got = tx.function([x, k], [rows, x[k, k], T.inc_subtensor(x[k], 1.0)])(array, [0, 2, 2])
    want = evaluate([rows, x[k, k], T.inc_subtensor(x[k], 1.0)],
                    {x: array, k: np.array([0, 2, 2])})
    for one, other in zip(got, want, strict=True):
        assert_close(one, other)


# -- messages --------------------------------------------------------------------------------------

def test_without_ml_dtypes_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    x = T.matrix("x", dtype="bfloat16")
    assert T.dot(x, x.T).sum().dtype == "bfloat16"
    with pytest.raises(DtypeError, match=r"pip install 'tetractys\[bfloat16\]'"):
        tx.function([x], x.T)([[1.0]])


def test_importing_does_not_import_ml_dtypes():
    text = ("import sys, tetractys as tx; from tetractys import tensor as T; "
            "x = T.matrix('x', dtype='bfloat16'); y = T.tanh(T.dot(x, x.T)).sum(); "
            "print('ml_dtypes' in sys.modules)")
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert found.stdout.strip() == "False", found.stderr


def test_what_halves_are_not_for():
    with pytest.raises(CompileError, match="floatX"):
        tx.config.floatX = "bfloat16"
    with pytest.raises(DtypeError, match="draw float32 or float64"):
        RandomStreams(1).uniform((2,), dtype="float16")
    with pytest.raises(DtypeError, match="so few digits"):
        verify_grad(T.tanh, [np.ones(3, "float16")])


# -- all levels, and GPUs --------------------------------------------------------------------------

SETTINGS = dict(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@settings(max_examples=25, **SETTINGS)
@given(graphs(dtypes=("float16",)), st.sets(st.sampled_from(PASSES)))
def test_random_graphs_of_halves(graph, disabled):
    inputs, outputs, arrays = graph
    options = Options(disabled=frozenset(disabled), verify=True)
    got = tx.function(inputs, outputs, mode=options, on_unused_input="ignore")(*arrays)
    for one, want in zip(got, evaluate(outputs, dict(zip(inputs, arrays))), strict=True):
        assert_close(one, want, DIGITS["float16"] - 4)  # A step apart grows on its way.


@half
def test_all_levels_agree(name):
    x, = inputs_of(name, 2)
    w = tx.shared(normal(name, 8, 70), name="w")
    y = T.nnet.softmax(T.dot(x, w) * 0.5)
    f = tx.function([x], [y, y.sum(axis=0)], updates={w: w - tx.grad(T.sqr(y).sum(), w)})
    found = debug.bisect(f, normal(name, 6, 8))
    assert found.level is None, str(found)


@half
def test_on_an_emulated_gpu(name):
    x, y = inputs_of(name, 2, 2)
    outputs = [T.tanh(x * 2.0) + 1.5, T.nnet.softmax(x), x.sum(), x.sum(axis=0), T.dot(x, y),
               T.argmax(x, axis=1), T.cast(x, "int8"), T.concatenate([x, x]), T.switch(x > 0, x, 0)]
    arrays = normal(name, 70, 20), normal(name, 20, 66)
    want = tx.function([x, y], outputs, device="cpu")(*arrays)
    with fake_gpu():
        got = tx.function([x, y], outputs, device="cuda")(*arrays)
    for one, other in zip(got, want, strict=True):
        assert_close(one, other)
