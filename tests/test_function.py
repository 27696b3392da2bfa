"""``function``: arguments, updates, givens, variants, errors; what a user meets when calling."""

from __future__ import annotations

import io
import pickle
import threading

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.fuse import MAX_REDUCTIONS
from tetractys.compiler.loop.ir import Accumulate
from tetractys.compiler.loop.walk import statements
from tetractys.compiler.pipeline import Options
from tetractys.function import MAX_VARIANTS


def test_outputs_come_back_as_they_were_given():
    x = T.dvector("x")
    assert isinstance(tx.function([x], x + 1)([1.0]), np.ndarray)
    assert isinstance(tx.function([x], [x + 1])([1.0]), list)
    result = tx.function([x], {"a": x + 1, "b": x.sum()})([1.0])
    assert list(result) == ["a", "b"] and result["b"] == 1.0
    assert tx.function([], [])() == []


def test_an_input_that_is_an_output_is_copied():
    x = T.dvector("x")
    array = np.arange(3.0)
    first, second = tx.function([x], [x, x])(array)
    assert not np.shares_memory(first, array) and not np.shares_memory(first, second)
    np.testing.assert_array_equal(second, array)


def test_arguments_by_name_and_defaults():
    x, y = T.dvectors("x", "y")
    f = tx.function([x, tx.In(y, value=np.ones(2))], x - y)
    np.testing.assert_array_equal(f([3.0, 4.0]), [2.0, 3.0])
    np.testing.assert_array_equal(f(y=[1.0, 1.0], x=[1.0, 1.0]), [0.0, 0.0])


@pytest.mark.parametrize("arguments, words", [
    ((), "takes 1 argument"), ((1.0, 2.0), "takes 1 argument"),
    (([1.0],), "number of dimensions"), (("text",), "x"), ((None,), "x"), ((1j,), "x")])
def test_wrong_arguments_are_named(arguments, words):
    x = T.dscalar("x")
    with pytest.raises(tx.CallError, match=words):
        tx.function([x], x + 1)(*arguments)


def test_a_float64_array_is_not_rounded_unless_allowed():
    x = T.fvector("x")
    with pytest.raises(tx.CallError, match="allow_input_downcast"):
        tx.function([x], x)(np.zeros(2))
    assert tx.function([x], x, allow_input_downcast=True)(np.zeros(2)).dtype == np.float32


def test_sizes_that_disagree_name_both_variables_and_the_line():
    x, y = T.dvectors("x", "y")
    f = tx.function([x, y], x * y)
    for _ in range(2):
        with pytest.raises(tx.ShapeError) as caught:
            f(np.ones(3), np.ones(4))
        message = str(caught.value)
        assert "x has 3 on axis 0" in message and "y has 4 on axis 0" in message
        assert "test_function.py" in message
        f(np.ones(3), np.ones(3))


def test_a_declared_size_is_demanded():
    x = T.tensor("float64", shape=(None, 3), name="x")
    with pytest.raises(tx.ShapeError, match="size 3 on axis 1"):
        tx.function([x], x)(np.ones((2, 4)))


def test_updates_use_the_old_values():
    a, b = tx.shared(1.0, "a"), tx.shared(2.0, "b")
    f = tx.function([], [a + b], updates=[(a, b), (b, a + b)])
    assert f() == [3.0]
    assert (a.get_value(), b.get_value()) == (2.0, 3.0)
    tx.function([], [], updates={a: b, b: a})()
    assert (a.get_value(), b.get_value()) == (3.0, 2.0)


def test_an_output_sees_a_shared_variable_before_its_update():
    w = tx.shared(np.zeros(3), "w")
    np.testing.assert_array_equal(tx.function([], w, updates=[(w, w + 1)])(), np.zeros(3))
    np.testing.assert_array_equal(w.get_value(), np.ones(3))


def test_an_update_may_change_the_shape():
    w = tx.shared(np.zeros(1), "w")
    f = tx.function([], w.sum(), updates=[(w, T.concatenate([w, w + 1]))])
    assert [float(f()) for _ in range(4)] == [0.0, 1.0, 4.0, 12.0]
    assert w.get_value().shape == (16,)


@pytest.mark.parametrize("step", [
    lambda s: T.tanh(s)[::-1], lambda s: T.tanh(s[::-1]), lambda s: T.exp(s)[::-1] * s + 1,
    lambda s: T.exp(T.tanh(s)[::-1])], ids=["result", "argument", "both", "between"])
def test_an_update_from_elements_elsewhere_reads_their_old_values(step):
    start = np.linspace(-1, 1, 91)
    s = tx.shared(start, name="s")
    want = step(T.constant(start)).eval()
    tx.function([], updates={s: step(s)})()
    np.testing.assert_allclose(s.get_value(), want, rtol=1e-14)


def test_an_update_in_place_keeps_other_readers_right():
    w, v = tx.shared(np.arange(4.0), "w"), tx.shared(np.zeros(4), "v")
    flipped = w[::-1]
    f = tx.function([], [], updates=[(w, w + 1), (v, flipped * 2)])
    f()
    np.testing.assert_array_equal(w.get_value(), [1, 2, 3, 4])
    np.testing.assert_array_equal(v.get_value(), [6, 4, 2, 0])
    g = tx.function([], [], updates=[(w, w[::-1] + w)])
    g()
    np.testing.assert_array_equal(w.get_value(), [5, 5, 5, 5])


def test_a_failing_call_changes_nothing():
    w = tx.shared(np.zeros(3), "w")
    i = T.lvector("i")
    f = tx.function([i], w[i], updates=[(w, w + 1)])
    with pytest.raises(IndexError, match="out of range"):
        f([0, 3])
    np.testing.assert_array_equal(w.get_value(), np.zeros(3))


@pytest.mark.parametrize("value", [
    lambda w, x, i, j: w[i] + w,                     # a scalar index
    lambda w, x, i, j: w + x[i],                     # a view that depends on data
    lambda w, x, i, j: w + 2 * x[i],                 # cheap enough to be computed again anywhere
    lambda w, x, i, j: w + x[j, T.arange(3)],        # an array of indices
    lambda w, x, i, j: w + T.arange(3)[i],
    lambda w, x, i, j: w + w[w[0].astype("int64") + i],
    lambda w, x, i, j: x[i]], ids=range(7))
def test_a_bad_index_in_an_update_changes_nothing(value):
    w, x, i, j = tx.shared(np.ones(3), "w"), T.dmatrix("x"), T.lscalar("i"), T.lvector("j")
    f = tx.function([x, i, j], [], updates=[(w, value(w, x, i, j))], on_unused_input="ignore",
                    mode=Options(verify=True))
    for _ in range(2):
        with pytest.raises(IndexError, match="out of range"):
            f(np.ones((2, 3)), 9, [0, 1, 9])
        np.testing.assert_array_equal(w.get_value(), np.ones(3))
    f(np.ones((2, 3)), 0, [0, 1, 1])


def test_an_empty_value_may_become_two_shared_variables():
    v, w, x = tx.shared(np.ones(3), "v"), tx.shared(np.ones(4), "w"), T.dvector("x")
    empty = T.exp(x[:2][2:])
    f = tx.function([x], [], updates=[(v, empty), (w, empty)], mode="DebugMode")
    f(np.ones(5))
    assert v.get_value().shape == w.get_value().shape == (0,)


def test_update_of_the_wrong_dtype_names_the_first_culprit():
    w = tx.shared(np.zeros(3, "float32"), "w")
    q = T.dscalar("q")
    with pytest.raises(tx.DtypeError) as caught:
        tx.function([q], [], updates=[(w, w * 2 + q * 3)])
    assert "first expression of dtype float64 is q" in str(caught.value)
    with pytest.raises(tx.ShapeError, match="axes"):
        tx.function([], [], updates=[(w, w.sum())])
    with pytest.raises(tx.CompileError, match="two updates"):
        tx.function([], [], updates=[(w, w), (w, w + 1)])
    with pytest.raises(tx.CompileError, match="shared variables"):
        tx.function([q], [], updates=[(q, q + 1)])


@pytest.mark.parametrize("arguments, words", [
    ({"inputs": T.dscalar("x")}, "list of variables"), ({"inputs": None}, "list of variables"),
    ({"inputs": [], "updates": 5}, "updates is neither"),
    ({"inputs": [], "givens": [(T.dscalar("x"),)]}, "givens is neither"),
    ({"inputs": [], "on_unused_input": "maybe"}, "on_unused_input cannot be 'maybe'")])
def test_malformed_arguments_of_function_are_explained(arguments, words):
    with pytest.raises(tx.CompileError, match=words):
        tx.function(outputs=1.0, **arguments)


@pytest.mark.parametrize("options", [{"disabled": frozenset(["fuse"])}, {"optimize": "fast"}])
def test_unknown_options_are_refused(options):
    with pytest.raises(tx.CompileError, match="no such options"):
        Options(**options)


@pytest.mark.parametrize("start, value", [
    (0, 1.5), (0, 2**70), (0, [1.0]), (np.zeros(2), [[1.0], [1.0, 2.0]]), (0.0, "text"),
    (np.zeros(2, "float32"), np.zeros(2)), (0, float("nan"))])
def test_a_shared_variable_refuses_values_it_would_spoil(start, value):
    w = tx.shared(start, "w")
    with pytest.raises((tx.DtypeError, tx.ShapeError)):
        w.set_value(value)
    np.testing.assert_array_equal(w.get_value(), start)


def test_a_shared_variable_takes_numbers_and_lists():
    w, k = tx.shared(np.zeros(2, "float32"), "w"), tx.shared(0, "k")
    w.set_value([0.1, 1])
    k.set_value(2.0)
    np.testing.assert_array_equal(w.get_value(), np.array([0.1, 1], "float32"))
    assert k.get_value() == 2 and k.get_value().dtype == np.int64


def test_inputs_are_checked_when_compiling():
    x, y = T.dvectors("x", "y")
    with pytest.raises(tx.CompileError, match="input y is missing"):
        tx.function([x], x + y)
    with pytest.raises(tx.CompileError, match="y is not used"):
        tx.function([x, y], x)
    with pytest.warns(UserWarning, match="y is not used"):
        tx.function([x, y], x, on_unused_input="warn")
    assert tx.function([x, y], x, on_unused_input="ignore")([1.0], [2.0]) == [1.0]
    with pytest.raises(tx.CompileError, match="listed twice"):
        tx.function([x, x], x)
    with pytest.raises(tx.CompileError, match="shared variable cannot be an input"):
        tx.function([tx.shared(1.0)], x)


def test_expressions_may_be_inputs():
    x = T.dvector("x")
    y = T.exp(x)
    np.testing.assert_array_equal(tx.function([y], y * 2)([1.0, 2.0]), [2.0, 4.0])


def test_givens_are_chained_and_cycles_refused():
    x, y, z = T.dvectors("x", "y", "z")
    f = tx.function([z], x + 1, givens={x: y * 2, y: z + 1})
    np.testing.assert_array_equal(f([1.0]), [5.0])
    np.testing.assert_array_equal(tx.function([x], x + 1, givens={x: x * 2})([1.0]), [3.0])
    with pytest.raises(tx.CompileError, match="cycle"):
        tx.function([], x, givens={x: y, y: x})
    with pytest.raises(tx.DtypeError, match="cannot replace x"):
        tx.function([z], x, givens={x: z.sum()})


def test_default_updates():
    counter = tx.shared(0, "counter")
    counter.default_update = counter + 1
    f = tx.function([], counter * 10)
    assert [int(f()) for _ in range(3)] == [0, 10, 20]
    tx.function([], counter, no_default_updates=True)()
    assert counter.get_value() == 3


def test_variants_follow_the_sizes_that_vary():
    x, w = T.dmatrix("x"), tx.shared(np.ones((3, 2)), "w")
    f = tx.function([x], T.dot(x, w).sum())
    assert f(np.ones((5, 3))) == 30.0
    assert len(f.variants[0].fixed) == 4
    assert f(np.ones((7, 3))) == 42.0
    rows, = {str(s) for s in f.variants[0].fixed} - {str(s) for s in f.variants[1].fixed}
    assert rows == "x.shape[0]"
    assert f(np.ones((9, 3))) == 54.0 and f(np.ones((0, 3))) == 0.0
    assert len(f.variants) == 2
    for columns in range(1, 9):
        w.set_value(np.ones((columns, columns)))
        assert f(np.ones((columns, columns))) == columns ** 3
    assert len(f.variants) <= MAX_VARIANTS + 1


def test_threads_that_call_first_share_one_variant():
    x = T.dvector("x")
    f = tx.function([x], x * 3)
    barrier, results = threading.Barrier(4), []

    def call(k):
        barrier.wait()
        results.append(np.array_equal(f(np.full(5, k)), np.full(5, 3 * k)))

    threads = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4 and len(f.variants) == 1


def test_another_thread_may_change_a_shape_during_a_call():
    w = tx.shared(np.zeros(3), "w")
    f = tx.function([], w + 1)
    f()
    (variant,) = f.variants
    run = variant.executable.run

    def run_late(arrays, out):
        variant.executable.run = run
        w.set_value(np.zeros(4))
        return run(arrays, out)

    variant.executable.run = run_late
    np.testing.assert_array_equal(f._dispatch(), np.ones(4))


def test_chains_of_reductions_are_cut_into_kernels():
    x = T.dmatrix("x")
    y = x
    for _ in range(30):
        y = T.nnet.softmax(y) * 3
    f = tx.function([x], y)
    f(np.ones((2, 5)))
    steps = f.variants[0].stages.program.steps
    totals = [sum(isinstance(stmt, Accumulate) for stmt in statements(step.nest.body))
              for step in steps]
    assert sum(totals) == 60 and max(totals) <= MAX_REDUCTIONS


def test_sizes_from_data():
    n, x = T.lscalar("n"), T.dvector("x")
    f = tx.function([x, n], [x[:n], T.zeros((n, 2)).sum(axis=0), T.arange(n)])
    for count in (3, 0, 5):
        part, zeros, numbers = f(np.arange(6.0), count)
        np.testing.assert_array_equal(part, np.arange(6.0)[:count])
        np.testing.assert_array_equal(zeros, [0, 0])
        np.testing.assert_array_equal(numbers, np.arange(count))


def test_huge_sizes_are_a_memory_error():
    n = T.lscalar("n")
    w = tx.shared(0.0, "w")
    f = tx.function([n], T.zeros((n, n)) + w, updates=[(w, w + 1)])
    for size in (3_000_000, 2**62):
        with pytest.raises(MemoryError):
            f(size)
    assert w.get_value() == 0.0


@pytest.mark.parametrize("mode", ["FAST_RUN", "FAST_COMPILE", "DebugMode", Options()])
def test_modes(mode):
    x = T.dvector("x")
    np.testing.assert_allclose(tx.function([x], T.tanh(x), mode=mode)([0.5]), np.tanh([0.5]))


def test_an_unknown_mode_is_refused():
    x = T.dvector("x")
    with pytest.raises(tx.CompileError, match="no mode"):
        tx.function([x], x, mode="FASTEST")


def test_functions_pickle_with_their_state():
    x, w = T.dvector("x"), tx.shared(np.ones(2), "w")
    f = tx.function([x, tx.In(T.dscalar("s"), value=2.0)], x * w, updates=[(w, w + 1)],
                    on_unused_input="ignore", name="step")
    f([1.0, 1.0])
    g = pickle.loads(pickle.dumps(f))
    np.testing.assert_array_equal(g([1.0, 1.0]), [2.0, 2.0])
    np.testing.assert_array_equal(f([1.0, 1.0]), [2.0, 2.0])
    np.testing.assert_array_equal(g([1.0, 1.0]), [3.0, 3.0])
    assert g.name == "step"


def test_explain_shows_the_four_levels():
    x, n = T.dmatrix("x"), T.lscalar("n")
    f = tx.function([x, n], T.nnet.softmax(x)[:n])
    f(np.ones((2, 3)), 1)
    out = io.StringIO()
    f.explain(assembly=True, file=out)
    text = out.getvalue()
    for part in ("graph, as written", "softmax", "simplified", "prologue", "program and loops",
                 "kernel", "for ", "LLVM IR", "define", "assembly", "seconds by pass"):
        assert part in text, part


def test_configuration_is_checked():
    with pytest.raises(tx.CompileError, match="no setting"):
        tx.config.floatx = "float32"
    with pytest.raises(tx.CompileError, match="cannot be"):
        tx.config.floatX = "float16"
    x = T.vector("x")
    assert x.dtype == tx.config.floatX == "float64"
    tx.config.floatX = "float32"
    try:
        assert (T.vector() * 2.0).dtype == "float32"
        assert tx.shared(1.0).dtype == "float32"
    finally:
        tx.config.floatX = "float64"
