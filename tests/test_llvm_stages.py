"""Vector loops in stages: the values of loops in one piece, whatever is cut, wherever it ends."""

from dataclasses import replace

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.target import llvm, llvm_kernel, llvm_stages, llvm_stream

LANES = llvm.vector_unit("", "", "").vector_bytes // 4
STRIP = llvm_stages.STRIP * LANES
LENGTHS = (0, 1, LANES - 1, LANES + 1, 4 * LANES, 4 * LANES + 1, STRIP - 1, STRIP, STRIP + 1,
           2 * STRIP + 4 * LANES, 3 * STRIP + 5 * LANES - 1)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("TETRACTYS_CACHE_DIR", "")


@pytest.fixture
def cuts(monkeypatch):
    """Return the stages of each loop that is cut."""
    found = []

    def noted(*args):
        stages = llvm_stages.stages_of(*args)
        found.extend([] if stages is None else [stages])
        return stages

    monkeypatch.setattr(llvm_kernel, "stages_of", noted)
    return found


def data(size, dtype="float32"):
    rng = np.random.default_rng(0)
    return [rng.uniform(0.1, 0.9, size).astype(dtype) for _ in range(3)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def price(module, spot, years):
    """Return the price of an option, with ``module``'s functions."""
    def normal(x):
        return 0.5 * (1 + module.tanh(0.8 * (x + 0.045 * x * x * x)))

    spread = 0.25 * module.sqrt(years)
    first = (module.log(spot / 0.5) + 0.06 * years) / spread
    return spot * normal(first) - 0.5 * module.exp(-0.03 * years) * normal(first - spread)


def chain(module, x, count):
    for number in range(count):
        x = module.tanh(1.1 * x + 0.1 * number)
    return x


def long_lived(module, x, y):
    """Return something with values that wait for one stage, for two, and for three."""
    a = module.exp(x)
    b = module.tanh(a * y)
    c = module.log(b + 1.5)
    return module.sin(c * a) * b - (a - c) * x


CASES = {
    "price": (lambda x, y, z: [price(T, x, y)], lambda x, y, z: [price(np, x, y)]),
    "two": (lambda x, y, z: [T.tanh(T.exp(x))], lambda x, y, z: [np.tanh(np.exp(x))]),
    "chain": (lambda x, y, z: [chain(T, x, 5)], lambda x, y, z: [chain(np, x, 5)]),
    "long-lived": (lambda x, y, z: [long_lived(T, x, y)], lambda x, y, z: [long_lived(np, x, y)]),
    "cell": (lambda x, y, z: [T.sigmoid(x) * T.tanh(T.sigmoid(y) * z + T.tanh(x - y))],
             lambda x, y, z: [sigmoid(x) * np.tanh(sigmoid(y) * z + np.tanh(x - y))]),
    "several results": (lambda x, y, z: [T.exp(T.tanh(x)) + y, T.tanh(x) * y, y + z],
                        lambda x, y, z: [np.exp(np.tanh(x)) + y, np.tanh(x) * y, y + z]),
    "flags wait": (lambda x, y, z: [T.switch(T.exp(x) > 1.5, T.tanh(T.exp(x)), T.log(y))],
                   lambda x, y, z: [np.where(np.exp(x) > 1.5, np.tanh(np.exp(x)), np.log(y))]),
    "two arguments": (lambda x, y, z: [T.exp(T.pow(x, y)) + T.log(z)],
                      lambda x, y, z: [np.exp(np.power(x, y)) + np.log(z)]),
    "backwards": (lambda x, y, z: [T.tanh(T.exp(x[::-1]) * y) + x[::-1]],
                  lambda x, y, z: [np.tanh(np.exp(x[::-1]) * y) + x[::-1]]),
    "unlike elements": (lambda x, y, z: [T.tanh(T.exp(x) * y[0]) + z.sum()],
                        lambda x, y, z: [np.tanh(np.exp(x) * y[:1].sum()) + z.sum()]),
    "a number for each": (lambda x, y, z: [T.tanh(T.exp(x) + T.arange(x.shape[0])) * 0.5],
                          lambda x, y, z: [np.tanh(np.exp(x) + np.arange(x.shape[0])) * 0.5]),
    "shortcuts": (lambda x, y, z: [T.log(T.sin((x - 0.5) * 1e6) + y - 0.5)],
                  lambda x, y, z: [np.log(np.sin((x - x.dtype.type(0.5)) * x.dtype.type(1e6))
                                          + y - 0.5)]),
}


def function_of(define, dtype, **options):
    variables = [T.tensor(dtype, shape=(None,), name=name) for name in "xyz"]
    return tx.function(variables, define(*variables), on_unused_input="ignore", **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_any_number_of_elements(case, dtype, cuts):
    define, reference = CASES[case]
    function = function_of(define, dtype)
    # The first number is known to the compiler; the others are not.
    for size in (2 * STRIP + 3, *LENGTHS):
        if size == 0 and case == "unlike elements":
            continue
        values = data(size, dtype)
        with np.errstate(invalid="ignore"):
            expected = reference(*[value.astype("float64") if case != "shortcuts" else value
                                   for value in values])
        for result, wanted in zip(function(*values), expected):
            np.testing.assert_allclose(result, wanted, rtol=2e-5, atol=2e-5)
    assert cuts


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [4 * STRIP, 4 * STRIP + 3])
def test_bits_of_a_loop_in_one_piece(size, dtype, monkeypatch, cuts):
    values = data(size, dtype)
    in_stages = function_of(CASES["price"][0], dtype)(*values)[0]
    assert [len(found.stages) for found in cuts] == [4]
    monkeypatch.setattr(llvm_kernel, "stages_of", lambda *args: None)
    np.testing.assert_array_equal(in_stages, function_of(CASES["price"][0], dtype)(*values)[0])


def test_order_and_place(cuts):
    function_of(CASES["price"][0], "float32")(*data(4 * STRIP))
    stages, = cuts
    # The logarithm feeds both sigmoids; what is called once is inlined, and follows the others.
    assert [(stage.call.name, stage.is_inlined) for stage in stages.stages] == [
        ("log", True), ("sigmoid", False), ("sigmoid", False), ("exp", True)]
    assert [len(stage.entering) for stage in stages.stages] == [0, 1, 1, 2]
    assert [len(stage.body) for stage in stages.stages] == [0, 0, 0, 1]


def test_what_is_read_late_is_not_overwritten(cuts):
    function_of(CASES["chain"][0], "float32")(*data(4 * STRIP))
    # Each result waits beside the argument that it replaces, and no longer.
    assert cuts[0].waiting == {"float32": 2}


@pytest.mark.parametrize("define", [
    lambda x, y, z: [T.log(x) * T.exp(y)],
    lambda x, y, z: [T.tanh(T.exp(x)).sum()],
    lambda x, y, z: [T.sigmoid(x) + T.softplus(x)],
    lambda x, y, z: [T.tanh(2 * x)],
])
def test_loops_left_in_one_piece(define, cuts):
    function_of(define, "float32")(*data(4 * STRIP))
    assert cuts == []


def test_short_loops_are_left_in_one_piece(cuts):
    function_of(CASES["two"][0], "float32")(*data(STRIP - 1))
    assert cuts == []


def test_what_waits_is_bounded(monkeypatch, cuts):
    x, = data(4 * STRIP)[:1]
    monkeypatch.setattr(llvm_stages, "MOST_WAITING", 2 * 4 * STRIP)
    for define, count in ((lambda x: [T.tanh(T.exp(x))], 1), (lambda x: [long_lived(T, x, x)], 0)):
        variable = T.fvector("x")
        tx.function([variable], define(variable))(x)
        assert len(cuts) == count
        cuts.clear()


def test_unoptimised_code_is_left_in_one_piece(cuts):
    function_of(CASES["two"][0], "float32", mode="FAST_COMPILE")(*data(4 * STRIP))
    assert cuts == []


def test_updates_in_place(cuts):
    values = data(4 * STRIP + 1)[0]
    shared = tx.shared(values)
    tx.function([], [], updates={shared: T.tanh(T.exp(shared) * 0.5)})()
    np.testing.assert_allclose(shared.get_value(), np.tanh(np.exp(values) * 0.5), rtol=2e-5)
    assert cuts == []


@pytest.mark.parametrize("columns", [STRIP, STRIP + 5 * LANES + 1])
def test_rows_past_the_caches(columns, monkeypatch, cuts):
    monkeypatch.setattr(llvm_stream, "LARGE", 0)
    monkeypatch.setattr(llvm_stream, "COMPUTED", 1e9)
    x, y = T.fmatrix("x"), T.fvector("y")
    values, shifts = data((7, columns))[0], data(7)[1]
    result = tx.function([x, y], T.tanh(T.exp(x) - y[:, None]))(values, shifts)
    wanted = np.tanh(np.exp(values) - shifts[:, None])
    np.testing.assert_allclose(result, wanted, rtol=2e-5, atol=2e-5)
    assert cuts


def test_any_number_of_threads(cuts):
    values = data(1 << 16)
    alone, others = [function_of(CASES["price"][0], "float32", threads=count)(*values)[0]
                     for count in (1, 2)]
    np.testing.assert_array_equal(alone, others)
    assert cuts


@pytest.mark.parametrize("cpu, triple", [
    ("skylake-avx512", "x86_64-unknown-linux-gnu"), ("x86-64", "x86_64-unknown-linux-gnu"),
    ("cortex-a76", "aarch64-unknown-linux-gnu")])
def test_other_processors(cpu, triple, cuts):
    function = function_of(CASES["price"][0], "float32")
    function(*data(40 * STRIP + 1))
    cuts.clear()
    options = llvm.LlvmOptions(cpu=cpu, triple=triple, keep_text=True)
    program = function.variants[0].stages.program
    machine = replace(llvm.vector_unit(cpu, "", triple), is_optimised=True)
    code, _ = llvm.compile_module(llvm.module_texts(program, machine).kernels, options)
    assert code and cuts
