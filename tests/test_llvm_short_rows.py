"""Short rows side by side: the values of rows done one by one, whatever their number and place."""

import ctypes
import mmap
import sys

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.target import llvm, llvm_short_rows
from tetractys.compiler.target.llvm_machine import Machine
from tetractys.compiler.target.llvm_transpose import mover
from tetractys.compiler.target.llvm_writer import Module
from tetractys.runtime.cpu_jit import link

LANES = llvm.vector_unit("", "", "").vector_bytes // 4
ROWS = (1, 2, LANES - 1, LANES, LANES + 1, 4 * LANES - 1, 4 * LANES, 4 * LANES + 1, 101)
LONGEST = llvm_short_rows.LONGEST_ROW
COLUMNS = (2, 3, 4, 5, 7, 8, 10, LONGEST, LONGEST + 1)
MARK = "tx.read.rows"


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("TETRACTYS_CACHE_DIR", "")


def data(shape, dtype="float32", seed=0):
    values = np.random.default_rng(seed).normal(size=shape)
    return values.astype(dtype) if dtype.startswith("float") else (100 * values).astype(dtype)


def matrix(dtype="float32"):
    return T.tensor(dtype, shape=(None, None), name="x")


def normalised(x):
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / T.sqrt((centred * centred).mean(axis=1, keepdims=True) + 1e-5)


def numpy_normalised(x):
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + 1e-5)


def numpy_softmax(x):
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


CASES = {
    "softmax": (T.nnet.softmax, numpy_softmax),
    "log-softmax": (T.nnet.logsoftmax, lambda x: np.log(numpy_softmax(x))),
    "norm": (normalised, numpy_normalised),
    "of a part": (lambda x: T.nnet.softmax(x[:, 1:]), lambda x: numpy_softmax(x[:, 1:])),
    "backwards": (lambda x: T.nnet.softmax(x[:, ::-1]), lambda x: numpy_softmax(x[:, ::-1])),
    "with their first element": (
        lambda x: x * x[:, 0].dimshuffle(0, "x"), lambda x: x * x[:, :1]),
    "of every other row": (lambda x: T.nnet.softmax(x[::2]), lambda x: numpy_softmax(x[::2])),
}


def text_of(function):
    program = function.variants[0].stages.program
    return llvm.module_texts(program, llvm.vector_unit("", "", "")).kernels


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("case", CASES)
def test_any_number_of_rows(case, columns):
    define, reference = CASES[case]
    x = matrix()
    function = tx.function([x], define(x))
    # The first number is known to the compiler; the others are not.
    for rows in (4 * LANES + 3, *ROWS):
        values = data((rows, columns))
        np.testing.assert_allclose(function(values), reference(values.astype("float64")),
                                   rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("rows", ROWS)
def test_numbers_of_rows_known_to_the_compiler(rows):
    x, values = matrix(), data((rows, 5))
    np.testing.assert_allclose(tx.function([x], T.nnet.softmax(x))(values),
                               numpy_softmax(values.astype("float64")), rtol=1e-5)


def test_rows_are_done_side_by_side_when_they_are_short():
    x = matrix()
    for columns, expected in ((LONGEST, True), (LONGEST + 1, False)):
        function = tx.function([x], T.nnet.softmax(x))
        function(data((100, columns)))
        assert (MARK in text_of(function)) == expected
    function = tx.function([x], T.nnet.logsoftmax(x))
    function(data((100, llvm_short_rows.LONGEST_WITH_FUNCTIONS)))
    assert MARK in text_of(function)


def test_results_of_rows():
    x = matrix()
    outputs = [x.sum(axis=1), x.max(axis=1), T.sqrt((x * x).sum(axis=1)), T.exp(x).sum(axis=1)]
    functions = [tx.function([x], one) for one in outputs]
    for columns in (2, 3, 8, llvm_short_rows.LONGEST_CHEAP, llvm_short_rows.LONGEST_CHEAP + 1):
        for rows in (101, *ROWS):
            values = data((rows, columns))
            wide = values.astype("float64")
            wanted = [wide.sum(axis=1), wide.max(axis=1), np.sqrt((wide * wide).sum(axis=1)),
                      np.exp(wide).sum(axis=1)]
            for function, want in zip(functions, wanted):
                np.testing.assert_allclose(function(values), want, rtol=1e-5, atol=1e-5)
    fresh = [tx.function([x], one) for one in outputs]
    for function in fresh:
        function(data((101, llvm_short_rows.LONGEST_CHEAP + 1)))
    assert [MARK in text_of(function) for function in fresh] == [False, False, False, True]


def test_a_row_has_the_same_bits_anywhere():
    x = matrix()
    row = data((1, 10))
    function = tx.function([x], T.nnet.softmax(x))
    for rows in (*ROWS, 1000):
        got = function(np.repeat(row, rows, axis=0))
        np.testing.assert_array_equal(got, np.repeat(got[:1], rows, axis=0))


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64", "int8"])
def test_every_width(dtype):
    x = matrix(dtype)
    values = data((101, 7), dtype)
    function = tx.function([x], x - x.max(axis=1, keepdims=True))
    np.testing.assert_array_equal(function(values), values - values.max(axis=1, keepdims=True))
    assert (MARK in text_of(function)) == (np.dtype(dtype).itemsize >= 4)


def test_several_rows_and_widths_at_once():
    x, y, t = matrix(), T.tensor("float64", shape=(None, None), name="y"), T.ivector("t")
    a, b, labels = data((77, 5)), data((77, 5), "float64", 1), np.arange(77, dtype="int32") % 5
    p = T.nnet.softmax(x)
    loss = -T.log(p)[T.arange(t.shape[0]), t]
    function = tx.function([x, y, t], [loss, tx.grad(loss.sum(), x), p * y])
    p64 = numpy_softmax(a.astype("float64"))
    one_hot = np.eye(5)[labels]
    for got, want in zip(function(a, b, labels),
                         (-np.log((p64 * one_hot).sum(axis=1)), p64 - one_hot, p64 * b)):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_nan_and_infinity_stay_in_their_row():
    x = matrix()
    values = data((70, 6))
    values[3, 2], values[40, 0], values[69, 5] = np.nan, np.inf, -np.inf
    got = tx.function([x], T.nnet.softmax(x))(values)
    bad = np.isnan(got).any(axis=1)
    assert list(np.flatnonzero(bad)) == [3, 40]
    assert np.isnan(got[bad]).all() and got[69, 5] == 0


def test_update_in_place():
    w = tx.shared(data((101, 6)), name="w")
    before = w.get_value()
    tx.function([], updates={w: w - w.mean(axis=1, keepdims=True)})()
    np.testing.assert_allclose(
        w.get_value(), before - before.mean(axis=1, keepdims=True), rtol=1e-5, atol=1e-6)


def test_any_number_of_threads():
    x = matrix()
    values = data((20_011, 10))
    alone = tx.function([x], T.nnet.softmax(x), threads=1)(values)
    for _ in range(3):
        np.testing.assert_array_equal(
            tx.function([x], T.nnet.softmax(x), threads=2)(values), alone)


@pytest.mark.skipif(sys.platform != "linux", reason="protects a page as Linux does")
@pytest.mark.parametrize("columns", [3, 6, 9])
def test_nothing_beyond_the_arrays_is_touched(columns):
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 4 * page)
    guarded = np.frombuffer(memory, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    walls = [ctypes.c_void_p(guarded.ctypes.data + at * page) for at in (1, 3)]
    for wall in walls:
        assert libc.mprotect(wall, ctypes.c_size_t(page), 0) == 0
    x = matrix()
    try:
        for rows in range(1, 4 * LANES + 2, 5):
            size = 4 * rows * columns
            if size > page:
                break
            given, room = (guarded[end * page - size:end * page].view("float32")
                           .reshape(rows, columns) for end in (1, 3))
            given[...] = data(given.shape)
            function = tx.function([x], T.nnet.softmax(x))
            function(given, out=room)
            np.testing.assert_allclose(room, numpy_softmax(given), rtol=1e-5)
    finally:
        for wall in walls:
            libc.mprotect(wall, ctypes.c_size_t(page), 3)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
def test_moves(dtype, lanes):
    for length in range(1, 11):
        module = Module(Machine())
        names = [mover(module, dtype, lanes, length, reads)[1:] for reads in (True, False)]
        code, _ = llvm.compile_module(module.text().replace("define internal", "define"),
                                      llvm.LlvmOptions())
        library = link([code], {}, names)
        read, write = (ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64,
            ctypes.c_int64)(library[name]) for name in names)
        rows = data((lanes, length + 3), dtype)
        for count in (lanes + 1, lanes, lanes - 1, 1, 0, -1):
            some = min(max(count, 0), lanes)
            columns = np.full((length, 2 * lanes), 77, dtype)
            read(rows.ctypes.data, length + 3, columns.ctypes.data, 2 * lanes, count)
            np.testing.assert_array_equal(columns[:, :some], rows[:some, :length].T)
            assert (columns[:, some:lanes] == 0).all() and (columns[:, lanes:] == 77).all()
            back = np.full((lanes, length + 3), 55, dtype)
            write(back.ctypes.data, length + 3, columns.ctypes.data, 2 * lanes, count)
            np.testing.assert_array_equal(back[:some, :length], rows[:some, :length])
            assert (back[some:] == 55).all() and (back[:, length:] == 55).all()


@pytest.mark.parametrize("cpu, triple, expected", [
    ("znver5", "x86_64-unknown-linux-gnu", "zmm"),
    ("haswell", "x86_64-unknown-linux-gnu", "vunpcklps"),
    ("generic", "x86_64-unknown-linux-gnu", "unpcklps"),
    ("neoverse-n1", "aarch64-unknown-linux-gnu", "zip1")])
def test_other_processors(cpu, triple, expected):
    x = matrix()
    function = tx.function([x], T.nnet.softmax(x))
    function(data((101, 10)))
    for level in (0, 3):
        options = llvm.LlvmOptions(cpu=cpu, triple=triple, speed_level=level, keep_text=True)
        assembly = llvm.compile_program(function.variants[0].stages.program, options) \
            .notes["assembly"]
        assert expected in assembly or level == 0
