"""The call path: what stays in compiled code, where results go, and who owns their memory."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.runtime import cpu_blocks, cpu_entry

MB = 1 << 20


@pytest.fixture
def stays_fast(monkeypatch):
    """Return a function that compiles for a call, and then refuses to leave compiled code."""
    def refuse(*args, **kwargs):
        raise AssertionError("the call left compiled code")

    def make(function, *args, **kwargs):
        function(*args, **kwargs)
        monkeypatch.setattr(type(function), "_dispatch", staticmethod(refuse), raising=False)
        function._enter()
        return function
    return make


def vector(n=5, dtype="float64"):
    return np.arange(float(n)).astype(dtype)


# --- What stays in compiled code ---------------------------------------------------------------


def test_arguments_by_name_stay_fast(stays_fast):
    x, y, z = T.dvectors("x", "y", "z")
    f = stays_fast(tx.function([x, y, z], x + 10 * y + 100 * z), *[vector()] * 3)
    a, b, c = vector(), vector() + 1, vector() + 2
    want = a + 10 * b + 100 * c
    for result in (f(a, b, c), f(a, b, z=c), f(a, z=c, y=b), f(z=c, y=b, x=a)):
        np.testing.assert_array_equal(result, want)


def test_defaults_stay_fast(stays_fast):
    x, y = T.dvectors("x", "y")
    default = np.ones(5)
    f = tx.function([tx.In(x, value=[0.0] * 5), tx.In(y, value=default, name="second")], x - y)
    f = stays_fast(f, vector())
    np.testing.assert_array_equal(f(vector()), vector() - 1)
    np.testing.assert_array_equal(f(), -np.ones(5))
    np.testing.assert_array_equal(f(second=vector()), -vector())
    default += 1  # an array is not copied
    np.testing.assert_array_equal(f(), -2 * np.ones(5))


def test_converted_arguments_go_back_to_compiled_code(monkeypatch):
    """Views, lists and narrower dtypes cost their conversion, not a call in Python."""
    x, y = T.dmatrices("x", "y")
    f = tx.function([x, tx.In(y, value=np.ones((2, 3)))], T.dot(x, y.T) + 1)
    plain = np.arange(6.0).reshape(2, 3)
    want = f(plain, plain)

    def refuse(*args):
        raise AssertionError("a call in Python")

    monkeypatch.setattr(type(f), "_run", refuse, raising=False)
    wide = np.repeat(plain, 2, axis=1)[:, ::2]
    out = np.empty((2, 2))
    for first, second in ((wide, plain), (plain, plain.tolist()), (np.asfortranarray(plain), wide),
                          (plain.astype("float32"), plain), (plain.astype(">f8"), plain)):
        np.testing.assert_array_equal(f(first, second), want)
        np.testing.assert_array_equal(f(first, y=second), want)
        assert f(first, second, out=out) is out
        np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(f(wide), plain @ np.ones((3, 2)) + 1)
    with pytest.raises(AssertionError, match="a call in Python"):
        f(wide[:1], plain)  # another size


def test_converted_arguments_of_other_sizes_get_a_variant():
    x = T.dmatrix("x")
    f = tx.function([x], x.sum(axis=0), profile=True)
    for columns in (3, 4, 3, 5):
        view = np.ones((columns, 2)).T
        np.testing.assert_array_equal(f(view), 2 * np.ones(columns))
    assert len(f.variants) == 2 and f.profile.calls == 3


def test_dicts_and_lists_stay_fast(stays_fast):
    x = T.dvector("x")
    f = stays_fast(tx.function([x], {"a": x + 1, "b": x.sum()}), vector())
    result = f(vector())
    assert list(result) == ["a", "b"] and result["b"] == 10
    np.testing.assert_array_equal(result["a"], vector() + 1)
    assert stays_fast(tx.function([x], {}, on_unused_input="ignore"), vector())(vector()) == {}


def test_sizes_that_are_values_stay_fast(stays_fast):
    x, n = T.dvector("x"), T.lscalar("n")
    f = stays_fast(tx.function([x, n], [x[:n] * 1, T.arange(n), T.zeros((n + 20, 2))]), vector(), 3)
    for count in (3, 0, 5, 9, -2):
        first, numbers, zeros = f(vector(), count)
        np.testing.assert_array_equal(first, vector()[:count])
        np.testing.assert_array_equal(numbers, np.arange(count))
        assert zeros.shape == (count + 20, 2) and not zeros.any()


def test_minibatches_stay_fast(stays_fast):
    """Theano's way to hand over a batch: its number."""
    rows = np.arange(60.0).reshape(30, 2)
    data, total = tx.shared(rows, name="data"), tx.shared(np.zeros(2), name="total")
    x, k = T.dmatrix("x"), T.lscalar("k")
    f = stays_fast(tx.function([k], x.sum(), updates={total: total + x.sum(axis=0)},
                               givens={x: data[k * 8:(k + 1) * 8]}), 0)
    sums = [float(f(number)) for number in range(1, 5)]
    assert sums == [rows[8 * k:8 * k + 8].sum() for k in range(1, 5)]
    np.testing.assert_array_equal(total.get_value(), rows.sum(axis=0))


def test_a_size_may_be_a_shared_variable_that_the_call_changes(stays_fast):
    x, n = T.dvector("x"), tx.shared(np.int64(1), name="n")
    f = stays_fast(tx.function([x], x[:n].sum(), updates={n: n + 1}), vector(9))
    assert [float(f(vector(9))) for _ in range(4)] == [1, 3, 6, 10]
    assert n.get_value() == 6


def test_sizes_that_are_wrong_raise_what_python_raises():
    """Compiled code hands over to the careful path, whatever the size."""
    n, m = T.lscalars("n", "m")
    f = tx.function([n, m], T.zeros((n, m)))
    assert f(2, 3).shape == (2, 3)
    for sizes in ((-1, 2), (-2, -2), (-2, -3)):
        with pytest.raises(tx.ShapeError, match="must not be negative"):
            f(*sizes)
    for sizes in ((2 ** 32, 2 ** 32), (2 ** 40, 2 ** 20), (2 ** 62, 1)):
        with pytest.raises(MemoryError):
            f(*sizes)


def test_long_prologues_are_left_to_the_careful_path():
    """They would hold the GIL."""
    x = T.lvector("x")
    f = tx.function([x], T.arange(T.exp(x / 1e6).sum().astype("int64")))
    for scale in (1, 2):
        long = np.full(400_000 * scale, 3)
        assert f(long).shape == (int(np.exp(long / 1e6).sum()),)


def test_two_signatures_in_turn_stay_fast(stays_fast):
    x, y = T.dmatrices("x", "y")
    f = tx.function([x, y], x.sum() + y)
    shapes = [(2, 3), (2, 4), (5, 4)]
    for shape in shapes:
        f(np.ones(shape), np.ones(shape))
    f = stays_fast(f, np.ones((2, 3)), np.ones((2, 3)))
    for shape in shapes * 2:
        np.testing.assert_array_equal(f(np.ones(shape), np.ones(shape)), shape[0] * shape[1] + 1)


def test_the_variant_for_fixed_sizes_keeps_serving_them(monkeypatch):
    x = T.dvector("x")
    f = tx.function([x], 2 * x)
    for n in (4, 7, 4):
        f(vector(n))
    first, second = f.variants
    monkeypatch.setattr(f, "_compiled", None)  # lists are served in Python, where it can be seen
    served = []
    for variant in f.variants:
        run = variant.executable.run
        variant.executable.run = lambda arrays, out, v=variant, run=run: (served.append(v),
                                                                          run(arrays, out))[1]
    f([1.0] * 4), f([1.0] * 9)
    assert served == [first, second]


@pytest.mark.parametrize("dtype, values", [
    ("float64", [2.5, np.float64(2.5), 3, -(2 ** 53), float("nan"), float("inf"), -0.0]),
    ("float32", [2.5, 0.1, np.float32(0.1), 3, 2 ** 24, -0.0, 1e-45]),
    ("int64", [3, -(2 ** 63), 2 ** 63 - 1, np.int64(7)]),
    ("int8", [np.int8(-3)]), ("uint8", [np.uint8(200)]), ("bool", [np.bool_(True)]),
])
def test_numbers_for_scalars_stay_fast(stays_fast, dtype, values):
    x = T.scalar("x", dtype=dtype)
    f = stays_fast(tx.function([x], [x]), np.zeros((), dtype))
    for value in values:
        (result,) = f(value)
        expected = np.array(value, dtype)
        assert result.dtype == dtype and result.tobytes() == expected.tobytes(), value


@pytest.mark.parametrize("dtype, value", [
    ("float64", 2 ** 70 + 1),
    ("float32", 1e300), ("float32", 2 ** 24 + 1), ("float32", np.float64(0.1)), ("int64", 2 ** 63),
    ("int64", 1.0e300), ("int64", 2.5), ("float64", "1"), ("float64", None), ("int8", 1000)])
def test_numbers_that_would_change_are_refused(dtype, value):
    x = T.scalar("x", dtype=dtype)
    f = tx.function([x], x)
    f(np.zeros((), dtype))
    if (dtype, type(value)) == ("float32", np.float64):
        assert f(value) == np.float32(0.1)  # a float too, which is rounded
        return
    with pytest.raises(tx.CallError):
        f(value)


def test_numbers_as_the_policy_says():
    x = T.scalar("x", dtype="float32")
    f = tx.function([tx.In(x, strict=True)], x)
    g = tx.function([tx.In(x, allow_downcast=False)], x)
    for function in (f, g):
        function(np.ones((), "float32"))
        with pytest.raises(tx.CallError):
            function(0.1)
    with pytest.raises(tx.CallError, match="exactly"):
        f(np.float32(1))
    assert g(0.5) == 0.5 and g(np.float32(0.1)) == np.float32(0.1)


def test_wrong_names_and_numbers_of_arguments_are_still_explained():
    x, y = T.dvectors("x", "y")
    f = tx.function([x, tx.In(y, value=[1.0])], x + y)
    f([1.0])
    for args, kwargs, words in (((), {}, "missing: x"), (([1.0],) * 3, {}, "takes 2"),
                                (([1.0],), {"z": 1}, "unknown"), (([1.0],), {"x": 1}, "twice")):
        with pytest.raises(tx.CallError, match=words):
            f(*args, **kwargs)


def test_two_inputs_of_one_name_are_passed_by_position():
    x, y = T.dvector("x"), T.dvector("x")
    f = tx.function([x, y], x - y)
    for _ in range(2):
        np.testing.assert_array_equal(f(np.full(1, 3.0), np.ones(1)), [2.0])
        with pytest.raises(tx.CallError, match="ambiguous"):
            f(x=np.ones(1))


def test_trusted_input_is_cast_without_questions():
    x, n = T.fvector("x"), T.lscalar("n")
    f = tx.function([tx.In(x, strict=True), n], x * n)
    with pytest.raises(tx.CallError):
        f([0.1], 2)
    assert f.trust_input is False
    f.trust_input = True
    np.testing.assert_array_equal(f([0.1], 2.0), np.float32([0.1]) * 2)
    assert f(np.array([0.1]), np.int32(3))[0] == np.float64(np.float32(0.1)) * 3
    for wrong in ("text", None, [[1.0]], [object()]):
        with pytest.raises(tx.CallError):
            f(wrong, 2)
    f.trust_input = False
    with pytest.raises(tx.CallError):
        f([0.1], 2)


# --- out= --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False])
def test_results_are_written_into_the_arrays_given(stays_fast, fast):
    x = T.dvector("x")
    argument = vector() if fast else vector().tolist()
    one, many = tx.function([x], 2 * x), tx.function([x], [2 * x, x.sum()])
    named = tx.function([x], {"a": 2 * x, "b": x.sum()})
    if fast:
        one, many = stays_fast(one, argument), stays_fast(many, argument)
    target, total = np.empty(5), np.empty(())
    assert one(argument, out=target) is target
    np.testing.assert_array_equal(target, 2 * vector())
    for out in ([target, total], (target, total)):
        target[:], total[()] = 0, 0
        first, second = many(argument, out=out)
        assert first is target and second is total and total == 10
        np.testing.assert_array_equal(target, 2 * vector())
    result = named(argument, out={"b": total})
    assert result["b"] is total and result["a"] is not target
    first, second = tx.function([x], [2 * x, x.sum()])(argument, out=[None, total])
    assert second is total and first.shape == (5,)
    assert tx.function([x], x)(argument, out=None).shape == (5,)


def test_out_may_overlap_an_argument():
    x = T.dvector("x")
    f = tx.function([x], x[::-1] + 1)
    for make in (lambda a: a[:5], lambda a: a[2:7]):
        memory = vector(8)
        expected = memory[:5][::-1] + 1
        out = make(memory)
        assert f(memory[:5], out=out) is out
        np.testing.assert_array_equal(out, expected)


def test_out_of_a_function_with_updates():
    w, x = tx.shared(np.zeros(3), "w"), T.dvector("x")
    f = tx.function([x], w * 2, updates={w: w + x})
    out = np.empty(3)
    f(np.ones(3), out=out), f(np.ones(3), out=out)
    np.testing.assert_array_equal(out, [2, 2, 2])
    np.testing.assert_array_equal(w.get_value(), [2, 2, 2])
    with pytest.raises(tx.CallError, match="shares memory with a shared variable"):
        f(np.ones(3), out=w.get_value(borrow=True))
    np.testing.assert_array_equal(w.get_value(), [2, 2, 2])


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("out, error, words", [
    (np.empty(5, "float32"), tx.CallError, "another dtype"),
    (np.empty(5, ">f8"), tx.CallError, "another dtype"),
    (np.empty(4), tx.ShapeError, "another shape"),
    (np.empty((5, 1)), tx.ShapeError, "another shape"),
    (np.empty(10)[::2], tx.CallError, "not C-contiguous"),
    (read_only(np.empty(5)), tx.CallError, "not writable"),
    (np.empty(41, "int8")[1:].view("float64"), tx.CallError, "not aligned"),
    ([1.0] * 5, tx.CallError, "NumPy arrays only"), (3, tx.CallError, "NumPy arrays only")])
def test_arrays_that_cannot_take_the_result(out, error, words):
    x = T.dvector("x")
    f = tx.function([x], 2 * x, name="twice")
    for _ in range(2):
        with pytest.raises(error, match=words) as caught:
            f(vector(), out=out)
        message = str(caught.value)
        assert "twice" in message and "remedy" in message
        assert words == "NumPy arrays only" or "expected float64 of shape (5,)" in message


def test_out_in_another_structure():
    x = T.dvector("x")
    many, named = tx.function([x], [x, 2 * x]), tx.function([x], {"a": x})
    out = np.empty(5)
    for function, wrong, words in (
            (many, out, "a list of 2 arrays"), (many, [out], "a list of 2 arrays"),
            (named, [out], "a dict of arrays"), (named, {"b": out}, "'b'"),
            (many, [out, out], "shares memory"), (many, [out, out[:]], "shares memory")):
        for _ in range(2):
            with pytest.raises(tx.CallError, match=words) as caught:
                function(vector(), out=wrong)
            assert "remedy" in str(caught.value)


def test_an_input_may_be_called_out():
    out = T.dvector("out")
    f = tx.function([out], 2 * out)
    for _ in range(2):
        np.testing.assert_array_equal(f(out=vector()), 2 * vector())


def test_sizes_still_decide_about_a_given_array():
    x = T.dvector("x")
    f = tx.function([x], 2 * x)
    out = np.empty(3)
    for n in (3, 4, 3):
        if n == 3:
            assert f(vector(n), out=out) is out
        else:
            with pytest.raises(tx.ShapeError, match="another shape"):
                f(vector(n), out=out)


# --- Borrowed outputs --------------------------------------------------------------------------


def test_a_borrowed_result_is_written_again(stays_fast):
    x = T.dvector("x")
    f = tx.function([x], [tx.Out(2 * x, borrow=True), tx.Out(x + 1), x.sum()])
    first, fresh, _ = f(vector())
    again, other, _ = stays_fast(f, vector())(np.ones(5))
    assert again is first and other is not fresh
    np.testing.assert_array_equal(first, [2.0] * 5)
    np.testing.assert_array_equal(fresh, vector() + 1)


def test_a_borrowed_result_may_be_an_argument():
    x = T.dvector("x")
    f = tx.function([x], tx.Out(x[::-1] + 1, borrow=True))
    value = f(vector(3))
    for k in range(2, 6):
        value = f(value)
    np.testing.assert_array_equal(value, vector(3)[::-1] + 5)


def test_a_borrowed_result_of_another_size_is_another_array():
    x = T.dvector("x")
    f = tx.function([x], tx.Out(2 * x, borrow=True))
    results = [f(vector(n)) for n in (3, 5, 3, 7)]
    np.testing.assert_array_equal(results[3], 2 * vector(7))
    np.testing.assert_array_equal(results[2], 2 * vector(3))
    results[2].flags.writeable = False
    assert f(vector(3)) is not results[2]
    f.release_memory()
    np.testing.assert_array_equal(f(vector(3)), 2 * vector(3))


def test_calls_at_one_time_do_not_share_a_borrowed_array():
    x = T.dvector("x")
    f = tx.function([x], tx.Out(T.exp(x).sum() + x, borrow=True))
    f(np.zeros(100_000))
    wrong = []

    def work(seed):
        for k in range(50):
            result = f(np.full(100_000, float(seed)))
            if result[0] != result[-1]:  # torn: two calls wrote at once
                wrong.append(k)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- The memory of results ---------------------------------------------------------------------


def test_memory_of_a_dead_result_is_used_again():
    assert cpu_entry.is_available()
    x = T.dvector("x")
    f = tx.function([x], 2 * x)
    argument = np.ones(MB // 8)
    f(argument)
    result = f(argument)
    place, view = result.ctypes.data, result[3:]
    del result
    assert f(argument).ctypes.data != place  # the view still sees it
    np.testing.assert_array_equal(view, 2.0)
    del view
    assert {f(argument).ctypes.data for _ in range(3)} >= {place}


def test_results_behave_like_any_array():
    x = T.dvector("x")
    f = tx.function([x], 2 * x)
    f(vector())
    for n in (0, 1, 5, 127, 128, 129, 10_000):
        result = f(vector(n))
        assert result.flags.owndata and result.flags.carray and result.base is None
        assert result.ctypes.data % 64 == 0 or n == 0
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(result)), 2 * vector(n))
        for size in (3 * n + 1, n // 2, 40):
            result.resize(size, refcheck=False)
            assert result.shape == (size,)
        result = f(vector(n))
        result.shape = (1, n)
        assert result.dtype == "float64"


def test_kept_blocks_are_bounded_and_released():
    x = T.bvector("x")
    f = tx.function([x], x + x)
    f(np.zeros(3, "int8")), f(np.zeros(4, "int8"))
    cpu_blocks.release()
    assert cpu_blocks.kept_bytes() == 0
    sizes = [(3 << 20) + 64 * k for k in range(60)]
    for size in sizes:
        f(np.zeros(size, "int8"))
        assert cpu_blocks.kept_bytes() <= cpu_blocks.KEPT_BYTES
    assert cpu_blocks.kept_bytes() >= 3 << 20
    f.release_memory()
    assert cpu_blocks.kept_bytes() == 0


def test_results_do_not_leak():
    x = T.dvector("x")
    f = tx.function([x], {"a": 2 * x, "b": x + 1})
    argument = np.ones(20_000)
    outs = {"a": np.empty(20_000), "b": np.empty(20_000)}
    borrowing = tx.function([x], tx.Out(2 * x, borrow=True))

    def exercise():
        for _ in range(200):
            f(argument), f(x=argument), f(argument, out=outs), borrowing(argument)
    exercise()
    tracemalloc.start()
    sizes = []
    for _ in range(3):
        exercise()
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert min(after - before for before, after in zip(sizes, sizes[1:])) < 20_000


def test_results_without_blocks(monkeypatch):
    monkeypatch.setattr(cpu_entry, "_loaded", [])
    monkeypatch.setattr(cpu_blocks, "is_supported", lambda: False)
    x = T.dvector("x")
    f = tx.function([x], 2 * x)
    f(vector())
    np.testing.assert_array_equal(f(vector()), 2 * vector())


# --- Before the entry is loaded ------------------------------------------------------------------

FRESH = """
import sys
import numpy as np
import tetractys as tx
from tetractys import tensor as T
from tetractys.runtime import cpu_support

x = T.dvector("x")
f = tx.function([x, tx.In(T.dscalar("y"), value=2.0)], x * 3, on_unused_input="ignore")
a = np.arange(5.0)

def check():
    np.testing.assert_array_equal(f(a), 3 * a)
    np.testing.assert_array_equal(f([1, 2], y=1.0), [3, 6])
    out = np.empty(5)
    assert f(a, out=out) is out and (out == 3 * a).all()

def in_compiled_code():
    return type(type(f).__call__) is type(len)

f(a)
assert "tetractys.runtime.cpu_entry" not in sys.modules, "the first call loads the entry"
"""


def run_fresh(text: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", FRESH + text], capture_output=True, text=True,
                          timeout=60)


@pytest.mark.parametrize("text", [
    """
f.trust_input = True
while not in_compiled_code():
    check()
check()
g = tx.function([x], x + 1)
g(a)
assert type(type(g).__call__) is type(len), "the entry is loaded, and not used"
""",
    """
f(a)  # begins to load, and the interpreter ends
""",
    """
import threading
threading.Thread.start = lambda thread: None
f(a)  # as in the child of a fork: the thread that should load does not exist
check()
assert in_compiled_code()
""",
    """
def refuse(thread):
    raise RuntimeError("can't start new thread")
import threading
threading.Thread.start = refuse
check()
assert in_compiled_code()
"""], ids=["calls", "exit", "no thread", "no more threads"])
def test_calls_before_the_entry_is_loaded(text):
    done = run_fresh(text)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_error_of_the_loading_thread_reaches_a_call():
    done = run_fresh("""
from tetractys.runtime import cpu_entry, cpu_support
def fail():
    raise RuntimeError("no entry")
cpu_entry.is_available = fail
f(a)
cpu_support._begun[0].join()
try:
    f(a)
except RuntimeError as error:
    print(error)
""")
    assert done.stdout == "no entry\n", done.stderr
