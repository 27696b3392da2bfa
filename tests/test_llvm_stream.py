"""Large results go past the caches: which ones do, and that not a bit of them depends on it."""

import ctypes
import mmap
import sys
from dataclasses import replace

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.pipeline import compile_signature
from tetractys.compiler.program import Kernel
from tetractys.compiler.target import llvm, llvm_stream

ROW = llvm_stream.SHORTEST_ROW
UNEVEN = llvm_stream.SHORTEST_UNEVEN_ROW


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("TETRACTYS_CACHE_DIR", "")


@pytest.fixture
def all_large(monkeypatch):
    """Every result counts as large."""
    monkeypatch.setattr(llvm_stream, "LARGE", 0)


def ir(function):
    """Return the optimised code of a function's first variant."""
    options = replace(function.options, keep_text=True)
    return compile_signature(function.signature, function.variants[0].fixed, options)[0] \
        .notes["llvm"]


def elementwise(x):
    return [2 * x + 1]


def log_softmax(x):
    return [T.nnet.logsoftmax(x)]


def with_total(x):
    return [T.sqr(x) - x, T.sqr(x).sum()]


def of_two_sizes(x):
    return [x - x.max(axis=1, keepdims=True),
            T.cast(x, "float64") + T.cast(x.max(axis=1, keepdims=True), "float64")]


def unequal_rows(x):
    """Return two results whose rows start at different places of a line."""
    return [x[:, 1:] - x.sum(axis=1, keepdims=True), x[:, :-1] * x.sum(axis=1, keepdims=True)]


DEFINITIONS = [elementwise, log_softmax, with_total, of_two_sizes, unequal_rows]


def compiled(define, values, **options):
    """Return a function of a matrix, and its results."""
    x = T.tensor(values.dtype.name, shape=(None, None), name="x")
    function = tx.function([x], define(x), **options)
    return function, function(values)


def data(shape, dtype="float32"):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def assert_same(ones, others):
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_array_equal(one, other)


# --- the same bits --------------------------------------------------------------------------------

@pytest.mark.parametrize("columns", [
    1, 7, ROW - 1, ROW, ROW + 16, UNEVEN - 1, UNEVEN, UNEVEN + 1, UNEVEN + 15, UNEVEN + 40, 1000])
@pytest.mark.parametrize("define", DEFINITIONS)
def test_bits_do_not_depend_on_it(define, columns, monkeypatch):
    values = data((5, columns))
    _, plain = compiled(define, values)
    monkeypatch.setattr(llvm_stream, "LARGE", 0)
    function, past = compiled(define, values)
    assert_same(past, plain)
    # Another number of rows and columns: sizes are symbols.
    for rows, more in ((4, columns), (3, columns + 1), (6, columns + 13)):
        again = data((rows, more))
        fresh, _ = compiled(define, again)
        assert_same([np.shape(one) for one in function(again)],
                    [np.shape(one) for one in fresh(again)])
        for one, other in zip(function(again), fresh(again)):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float64", "int8", "int32", "int64"])
def test_every_width(dtype, all_large):
    values = (100 * data((3, UNEVEN + 9), "float64")).astype(dtype)
    function, (got,) = compiled(elementwise, values)
    np.testing.assert_array_equal(got, 2 * values + values.dtype.type(1))


@pytest.mark.parametrize("define", [elementwise, log_softmax, with_total])
@pytest.mark.parametrize("columns", [1000, 1024])
def test_misaligned_results(define, columns, all_large):
    values = data((3, columns))
    function, wanted = compiled(define, values)
    memory = np.empty(values.size + 32, "float32")
    for start in range(0, 20):
        room = memory[start:start + values.size].reshape(values.shape)
        others = [np.empty_like(one) for one in wanted[1:]]
        memory[:] = -7
        got = function(values, out=[room, *others])
        assert_same(got, wanted)
        assert (memory[:start] == -7).all() and (memory[start + values.size:] == -7).all()


@pytest.mark.skipif(sys.platform != "linux", reason="protects a page as Linux does")
@pytest.mark.parametrize("define", [elementwise, log_softmax])
def test_nothing_beyond_a_result_is_written(define, all_large):
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 8 * page)
    guarded = np.frombuffer(memory, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    beyond = ctypes.c_void_p(guarded.ctypes.data + 7 * page)
    assert libc.mprotect(beyond, ctypes.c_size_t(page), 0) == 0
    try:
        for columns in (1000, 1001, 1003, 1015):
            values = data((3, columns))
            function, wanted = compiled(define, values)
            room = guarded[7 * page - values.nbytes:7 * page].view("float32")
            assert_same(function(values, out=[room.reshape(values.shape)]), wanted)
    finally:
        libc.mprotect(beyond, ctypes.c_size_t(page), 3)


@pytest.mark.parametrize("define", DEFINITIONS)
@pytest.mark.parametrize("columns", [1000, 1024])
def test_any_number_of_threads(define, columns, all_large):
    values = data((200, columns))
    _, alone = compiled(define, values, threads=1)
    for _ in range(3):
        assert_same(compiled(define, values, threads=2)[1], alone)


# --- which results --------------------------------------------------------------------------------

def test_large_results_only():
    least = llvm_stream.LARGE * llvm.vector_unit("", "", "").last_cache
    rows = int(least) // 4 // 1024
    # Nothing is allocated for arrays that are all one zero.
    x = T.fmatrix("x")
    for count, is_large in ((rows - 1, False), (rows + 1, True)):
        function = tx.function([x], 2 * x + 1)
        function(np.zeros((count, 1024), "float32"))
        assert ("!nontemporal" in ir(function)) == is_large


def test_size_is_asked_at_run_time_where_it_is_a_symbol():
    function, _ = compiled(elementwise, data((5, 6)))
    function(data((7, 8)))
    machine = llvm.vector_unit("", "", "")
    text = llvm.module_texts(function.variants[1].stages.program, machine).kernels
    assert "!nontemporal" in text
    assert f", {int(llvm_stream.LARGE * machine.last_cache)}\n" in text


def test_what_is_read_again_stays_in_the_caches(all_large):
    x = T.fmatrix("x")
    double, machine = 2 * x, llvm.vector_unit("", "", "")
    for outputs, expected in (
            ([double], True),
            ([double, T.dot(double, double.T)], False),  # read by another step
            ([T.nnet.softmax(x)], False)):  # read by its own kernel
        function = tx.function([x], outputs)
        function(data((64, 1024)))
        program = function.variants[0].stages.program
        [nest] = [step.nest for step in program.steps if isinstance(step, Kernel)]
        past = llvm_stream.streamed(nest, machine).keys() & llvm_stream.write_only(program)
        assert bool(past) == expected


def test_long_computations_do_not_wait_for_memory(all_large):
    function, _ = compiled(
        lambda x: [T.tanh(T.sin(T.log(T.exp(x) + T.cos(x) + 2)))], data((64, 1024)))
    assert "!nontemporal" not in ir(function)


@pytest.mark.parametrize("triple, cpu, expected, absent", [
    ("x86_64-unknown-linux-gnu", "haswell", ("vmovntps", "sfence"), ()),
    ("x86_64-unknown-linux-gnu", "znver5", ("vmovntps", "zmm", "sfence"), ()),
    ("aarch64-unknown-linux-gnu", "neoverse-n1", ("stnp",), ("sfence",))])
def test_instructions_of_processors(triple, cpu, expected, absent, all_large):
    function, _ = compiled(elementwise, data((64, 1024)))
    program = function.variants[0].stages.program
    options = llvm.LlvmOptions(cpu=cpu, triple=triple, keep_text=True)
    assembly = llvm.compile_program(program, options).notes["assembly"]
    assert all(word in assembly for word in expected)
    assert not any(word in assembly for word in absent)


def test_fence_follows_the_last_store(all_large):
    function, _ = compiled(elementwise, data((64, 1024)))
    text, is_x86 = ir(function), llvm.vector_unit("", "", "").is_x86
    body = text.split("define void @kernel0(")[1].split("\n}")[0]
    assert ("sfence" in body) == is_x86
    assert not is_x86 or body.rindex("sfence") > body.rindex("!nontemporal")
