"""Vector loops, compiled: every statement, dtype, size and access agrees with the interpreter."""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np
import pytest

from tetractys.compiler.dims import Symbol, as_dim, symbols_of
from tetractys.compiler.dtypes import COMPUTED, FLOATS
from tetractys.compiler.loop.ir import (
    Accumulate, Buffer, Check, For, If, Index, Let, Load, Local, Nest, Store,
)
from tetractys.compiler.loop.math import call
from tetractys.compiler.loop.scalar import apply, const
from tetractys.compiler.loop.walk import accumulated_locals, buffers_read, buffers_written
from tetractys.compiler.program import Failure, Kernel, Program
from tetractys.compiler.program_interpret import run_program
from tetractys.compiler.program_verify import verify_program
from tetractys.compiler.target.llvm import LlvmOptions, compile_program, vector_unit
from tetractys.compiler.target.llvm_machine import Machine
from tetractys.compiler.target.llvm_values import Values
from tetractys.compiler.target.llvm_vector_plan import vector_plan
from tetractys.compiler.target.llvm_writer import FunctionWriter, Module
from tetractys.runtime.call import Executable
from tetractys.runtime.errors import IndexOutOfRangeError

SIZE, LONG_SIZE = Symbol("n"), Symbol("m")
I = Symbol("i", 0, as_dim(SIZE))  # noqa: E741
n, m, i = as_dim(SIZE), as_dim(LONG_SIZE), as_dim(I)
LANES = vector_unit("", "", "").vector_bytes // 4
SIZES = (*range(3 * LANES + 2), 5 * LANES, 16 * LANES + 3)
SOME = (0, 1, 2, LANES - 1, LANES, LANES + 3, 5 * LANES - 1, 9 * LANES + 2)
HOST = LlvmOptions()
GENERIC = LlvmOptions(cpu="generic")
"""Short vectors, and no masked access."""

def loop(*body, extent=n, mark="vector"):
    """Return a loop over ``i``."""
    return For(I, extent, body, mark)


def program(*body, cost=1.0, failures=()):
    """Return a program of one kernel; what it reads and never writes are its inputs, in order."""
    nest = Nest("nest", body, cost)
    read, written = buffers_read(nest), buffers_written(nest)
    inputs = tuple(buffer for buffer in read if buffer.role == "input")
    outputs = tuple(buffer for buffer in written if buffer.role == "output")
    used = set().union(*(symbols_of(dim) for buffer in (*read, *written) for dim in buffer.dims))
    symbols = tuple(symbol for symbol in (SIZE, LONG_SIZE) if symbol in used)
    made = Program("vectors", inputs, (), outputs, symbols, (Kernel(nest, read, written),),
                   failures=failures)
    verify_program(made)
    return made


def values_of(dtype, size, seed=0):
    """Return some numbers, with NaN, infinities and zeros of both signs among floats."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, size).astype(dtype)
    if dtype not in FLOATS:
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, size, dtype, endpoint=True)
    values = rng.normal(size=size).astype(dtype)
    values[rng.random(size) < 0.1] = -0.0
    return values


def agree(made, sizes=SOME, dtypes=("float32",), options=HOST, rtol=0.0):
    """Compare compiled code with the interpreter, on inputs of all the sizes."""
    executable = Executable(compile_program(made, options))
    for size in sizes:
        arrays = [values_of(dtype, size, seed) for seed, dtype in enumerate(dtypes)]
        for got, want in zip(executable.run(arrays), run_program(made, arrays), strict=True):
            np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol, err_msg=f"size {size}")


def array(name, dtype="float32", role="input", dims=(n,)):
    """Return a buffer."""
    return Buffer(name, dtype, dims, role)


X, Y, OUT = array("x"), array("y"), array("out", role="output")
HERE = Load(X, (i,))
both_kinds = pytest.mark.parametrize("options", [HOST, GENERIC], ids=["host", "generic"])


# --- extents -------------------------------------------------------------------------------------

@both_kinds
@pytest.mark.parametrize("cost", [1.0, 200.0, 400.0], ids=["cheap", "one body", "long"])
@pytest.mark.parametrize("mark", ["vector", "parallel"])
def test_every_extent(mark, cost, options):
    body = Store(OUT, (i,), apply("add", apply("mul", HERE, Load(Y, (i,))), const(1, "float32")))
    agree(program(loop(body, mark=mark), cost=cost), SIZES, ("float32",) * 2, options, 1e-6)


@pytest.mark.parametrize("extent", SIZES)
def test_extents_known_to_the_compiler(extent):
    x, out = array("x", dims=(extent,)), array("out", role="output", dims=(extent,))
    total, all_of_it = Local("total", "float32"), Buffer("sum", "float32", (), "output")
    value = apply("neg", Load(x, (i,)))
    made = program(Let(total, const(0, "float32")),
                   loop(Store(out, (i,), value), Accumulate(total, "add", value), extent=extent),
                   Store(all_of_it, (), total))
    agree(made, (extent,), rtol=1e-5)


@pytest.mark.parametrize("extent", [1000, 4096, 100_003])
def test_chunks_of_parallel_loops(extent):
    x, out = array("x", dims=(extent,)), array("out", role="output", dims=(extent,))
    made = program(loop(Store(out, (i,), apply("neg", Load(x, (i,)))), extent=extent,
                        mark="parallel"), cost=100.0)
    values = values_of("float32", extent)
    got, = Executable(compile_program(made)).run([values])
    np.testing.assert_array_equal(got, -values)


@both_kinds
@pytest.mark.parametrize("dtype", COMPUTED)
def test_every_dtype(dtype, options):
    x, out = array("x", dtype), array("out", dtype, "output")
    name = "xor" if dtype == "bool" else "add"
    agree(program(loop(Store(out, (i,), apply(name, Load(x, (i,)), Load(x, (i,)))))), SIZES,
          (dtype,), options)


@both_kinds
def test_widths_mix(options):
    narrow, flags = array("narrow", "int8"), array("flags", "bool")
    wide, big = array("wide", "float64"), array("big", "int64", "output")
    chosen = apply("select", Load(flags, (i,)), apply("cast", HERE, dtype="float64"),
                   Load(wide, (i,)))
    agree(program(loop(
        Store(array("out", "float64", "output"), (i,), chosen),
        Store(big, (i,), apply("cast", Load(narrow, (i,)), dtype="int64")))),
        SIZES, ("bool", "float32", "float64", "int8"), options)


# --- accesses ------------------------------------------------------------------------------------

@both_kinds
@pytest.mark.parametrize("cost", [1.0, 200.0], ids=["cheap", "one body"])
@pytest.mark.parametrize("step", [2, 3, -1, -2])
def test_strided_access(step, cost, options):
    x, out = array("x", dims=(m,)), array("out", "float32", "output", (m,))
    at = i * step + (n * 2 if step < 0 else 0)
    k = Symbol("k", 0, m)
    clear = For(k, m, (Store(out, (as_dim(k),), const(0, "float32")),), "vector")
    made = program(clear, loop(
        Store(out, (at,), apply("add", Load(x, (at,)), Load(Y, (i,))))), cost=cost)
    executable = Executable(compile_program(made, options))
    for size in SOME:
        x, y = values_of("float32", 3 * size + 1), values_of("float32", size)
        want = np.zeros_like(x)
        places = np.arange(size) * step + (2 * size if step < 0 else 0)
        want[places] = x[places] + y
        np.testing.assert_array_equal(executable.run([x, y])[0], want)


def test_uniform_access():
    row = array("row", dims=(1,))
    last = Buffer("last", "float32", (), "output")
    value = apply("mul", HERE, Load(row, (0,)))
    made = program(loop(Store(OUT, (i,), value), Store(last, (), value)))
    for options in (HOST, GENERIC):
        executable = Executable(compile_program(made, options))
        for size in SIZES[1:]:
            x, factor = values_of("float32", size), np.array([3], "float32")
            out, final = executable.run([x, factor])
            np.testing.assert_array_equal(out, 3 * x)
            assert final == 3 * x[-1]


@both_kinds
@pytest.mark.parametrize("cost", [1.0, 200.0], ids=["cheap", "one body"])
def test_gather_scatter_and_divided_positions(cost, options):
    at = Symbol("at")
    where = array("where", "int64")
    made = program(loop(
        Let(at, Load(where, (i,))),
        Store(OUT, (as_dim(at),), Load(X, (as_dim(at),))),
        Store(array("halves", role="output"), (i,), Load(X, (i // 2,))),
        Store(array("index", "int64", "output"), (i,), Index(i * 3 + i % 5 - as_dim(at)))),
        cost=cost)
    executable = Executable(compile_program(made, options))
    for size in SOME:
        x, order = values_of("float32", size), np.random.default_rng(1).permutation(size)
        arrays = [order, x] if made.inputs[0] is where else [x, order]
        out, halves, numbers = executable.run(arrays)
        np.testing.assert_array_equal(out, x)
        np.testing.assert_array_equal(halves, x[np.arange(size) // 2])
        index = np.arange(size)
        np.testing.assert_array_equal(numbers, index * 3 + index % 5 - order)


def test_updates_in_place():
    again = For(Symbol("j", 0, n), n, ())
    j = as_dim(again.index)
    again = For(again.index, n, (
        Store(OUT, (j,), apply("mul", Load(OUT, (j,)), const(2, "float32"))),
        Accumulate(Load(OUT, (j,)), "maximum", Load(X, (j,)))), "vector")
    agree(program(loop(Store(OUT, (i,), HERE)), again), SIZES)


@both_kinds
def test_unaligned_arrays(options):
    executable = Executable(compile_program(program(loop(
        Store(OUT, (i,), apply("neg", HERE)))), options))
    memory = values_of("float32", 100)
    for start in range(9):
        np.testing.assert_array_equal(executable.run([memory[start:]])[0], -memory[start:])


@pytest.mark.skipif(sys.platform != "linux", reason="protects a page as Linux does")
@both_kinds
@pytest.mark.parametrize("cost", [1.0, 200.0], ids=["cheap", "one body"])
def test_nothing_beyond_an_array_is_read(cost, options):
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    guarded = np.frombuffer(memory, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    beyond = ctypes.c_void_p(guarded.ctypes.data + page)
    assert libc.mprotect(beyond, ctypes.c_size_t(page), 0) == 0
    try:
        half = array("half", role="output", dims=(n // 2,))
        made = program(loop(Store(OUT, (i,), apply("neg", HERE))),
                       loop(Store(half, (i,), Load(X, (i * 2,))), extent=n // 2), cost=cost)
        executable = Executable(compile_program(made, options))
        for size in range(1, 6 * LANES):
            x = guarded[page - 4 * size:page].view("float32")
            out, evens = executable.run([x])
            np.testing.assert_array_equal(out, -x)
            np.testing.assert_array_equal(evens, x[:size // 2 * 2:2])
    finally:
        libc.mprotect(beyond, ctypes.c_size_t(page), 3)


# --- statements ----------------------------------------------------------------------------------

@both_kinds
def test_conditions(options):
    positive = apply("gt", HERE, const(0, "float32"))
    y, total = array("y", dims=(n,)), Local("total", "float32")
    own = Local("own", "float32")
    result = Buffer("result", "float32", (), "output")
    made = program(
        loop(Store(OUT, (i,), const(0, "float32"))),
        Let(total, const(0, "float32")),
        loop(Let(own, HERE),
             If(positive, (Store(OUT, (i,), apply("add", HERE, Load(y, (i,)))),
                           Accumulate(total, "add", const(1, "float32")),
                           Accumulate(own, "mul", const(3, "float32")),
                           If(apply("lt", Index(i), const(9, "int64")),
                              (Store(OUT, (i,), const(7, "float32")),)))),
             Store(array("owned", role="output"), (i,), own)),
        Store(result, (), total))
    agree(made, SIZES, ("float32",) * 2, options)


@both_kinds
def test_conditions_keep_loads_within_bounds(options):
    few = array("few", dims=(3,))
    inside = apply("lt", Index(i), const(3, "int64"))
    made = program(loop(
        Store(OUT, (i,), HERE),
        If(inside, (Store(OUT, (i,), Load(few, (i,))),
                    Store(array("reverse", role="output", dims=(3,)), (2 - i,),
                          Load(few, (2 - i,)))))))
    executable = Executable(compile_program(made, options))
    for size in SIZES[3:]:
        x, first = values_of("float32", size), np.arange(3, dtype="float32")
        out, back = executable.run([x, first])
        np.testing.assert_array_equal(out, np.concatenate([first, x[3:]]))
        np.testing.assert_array_equal(back, first)


@both_kinds
@pytest.mark.parametrize("cost", [1.0, 200.0], ids=["cheap", "one body"])
@pytest.mark.parametrize("bad", [0, LANES, 10 * LANES + 1, 10 * LANES + 2])
def test_checks(bad, cost, options):
    numbers = array("numbers", "int64")
    value = Load(numbers, (i,))
    made = program(loop(
        Check(apply("ge", value, const(0, "int64")), 1, value),
        Store(array("out", "int64", "output"), (i,), value)), cost=cost,
        failures=(Failure("IndexOutOfRangeError", "value {value}"),))
    executable = Executable(compile_program(made, options))
    values = np.arange(10 * LANES + 3)
    np.testing.assert_array_equal(executable.run([values])[0], values)
    values[bad] = -7
    with pytest.raises(IndexOutOfRangeError, match="value -7"):
        executable.run([values])


# --- reductions ----------------------------------------------------------------------------------

def reduction(combine, dtype, cost=1.0):
    """Return a program that combines all elements, from an identity on."""
    total, result = Local("total", dtype), Buffer("result", dtype, (), "output")
    starts = {"add": 0, "mul": 1, "and": True, "or": False}
    start = starts.get(combine)
    if start is None and dtype in FLOATS:
        start = float("inf") if combine == "minimum" else float("-inf")
    elif start is None:
        info = np.iinfo(dtype)
        start = info.max if combine == "minimum" else info.min
    elif combine == "and" and dtype != "bool":
        start = np.array(-1).astype(dtype).item()
    return program(Let(total, const(start, dtype)),
                   loop(Accumulate(total, combine, Load(array("x", dtype), (i,)))),
                   Store(result, (), total), cost=cost)


@pytest.mark.parametrize("cost", [1.0, 200.0], ids=["cheap", "one body"])
@pytest.mark.parametrize("combine", ["add", "mul", "minimum", "maximum", "and", "or"])
def test_reductions(combine, cost):
    for dtype in COMPUTED:
        if dtype == "bool" and combine in ("and", "or"):
            agree(reduction(combine, dtype, cost), SOME, (dtype,))
        elif dtype in FLOATS and combine not in ("and", "or"):
            agree(reduction(combine, dtype, cost), SIZES, (dtype,), rtol=1e-5)
        elif dtype not in FLOATS and dtype != "bool":
            agree(reduction(combine, dtype, cost), SOME, (dtype,))


@pytest.mark.parametrize("combine", ["add", "minimum", "maximum"])
def test_nan_anywhere_reaches_the_result(combine):
    executable = Executable(compile_program(reduction(combine, "float32")))
    for at in range(6 * LANES):
        x = values_of("float32", 6 * LANES - 1 + at % 2)
        x[min(at, x.size - 1)] = np.nan
        assert np.isnan(executable.run([x])[0])


def test_sum_of_negative_zeros_keeps_its_start():
    executable = Executable(compile_program(reduction("add", "float32")))
    for size in SOME:
        total, = executable.run([np.full(size, -0.0, "float32")])
        assert total == 0 and not np.signbit(total)


@pytest.mark.parametrize("options", [HOST, GENERIC], ids=["host", "generic"])
def test_sums_have_one_order(options):
    """Neither the memory's alignment nor a repetition changes a bit of a sum."""
    executable = Executable(compile_program(reduction("add", "float32"), options))
    memory = np.random.default_rng(0).normal(size=1100).astype("float32")
    for size in (LANES + 1, 1003):
        sums = set()
        for start in range(LANES + 1):
            memory[start:start + size] = np.random.default_rng(1).normal(size=size)
            sums.add(float(executable.run([memory[start:start + size]])[0]))
        assert len(sums) == 1


# --- functions, processors, and loops that stay scalar --------------------------------------------

def test_functions_are_called_or_inlined():
    one = call("exp", HERE)
    many = call("tanh", call("log", apply("abs", call("sin", one))))
    for value in (one, many):
        for cost in (10.0, 200.0, 400.0):
            agree(program(loop(Store(OUT, (i,), value)), cost=cost), SOME, rtol=1e-5)


@pytest.mark.parametrize("options, expected", [
    (LlvmOptions(cpu="znver5", triple="x86_64-unknown-linux-gnu", keep_text=True),
     ("zmm", "{%k")),
    (LlvmOptions(cpu="haswell", triple="x86_64-unknown-linux-gnu", keep_text=True),
     ("ymm", "vmaskmov")),
    (LlvmOptions(cpu="neoverse-n1", triple="aarch64-unknown-linux-gnu", keep_text=True),
     ("fmla", ".4s"))], ids=["AVX-512", "AVX2", "NEON"])
def test_vector_instructions_of_other_processors(options, expected):
    squared = Local("squared", "float32")
    result = Buffer("result", "float32", (), "output")
    made = program(Let(squared, const(0, "float32")),
                   loop(Store(OUT, (i,), call("exp", HERE)),
                        Accumulate(squared, "add", apply("mul", HERE, HERE))),
                   Store(result, (), squared), cost=12.0)
    assembly = compile_program(made, options).notes["assembly"]
    for text in expected:
        assert text in assembly
    machine = vector_unit(options.cpu, options.features, options.triple)
    assert machine.vector_bytes == {"zmm": 64, "ymm": 32, "fmla": 16}[expected[0]]


def plan_of(body, extent=n, vector_bytes=32):
    """Return the plan of a loop in a nest of its own."""
    outer = loop(*body, extent=extent)
    nest = Nest("nest", (outer,))
    writer = FunctionWriter(Module(Machine(vector_bytes)), "define void @f()")
    values = Values(writer, nest, {})
    assert values.changing == accumulated_locals(nest)
    return vector_plan(outer, values, 1.0, vector_bytes)


def test_positions_that_are_data_take_one_vector():
    at, where = Symbol("at"), array("where", "int64")
    chosen = Load(X, (as_dim(at),))
    body = (Let(at, Load(where, (i,))), Store(OUT, (i,), chosen))
    assert plan_of(body).copies == 1
    exponential = Store(OUT, (i,), call("exp", chosen))
    assert plan_of((body[0], exponential)).copies == plan_of((Store(OUT, (i,), HERE),)).copies


def test_totals_of_a_function_are_not_fitted_to_the_extent():
    total = Local("total", "float32")

    def copies(value):
        inner = loop(Accumulate(total, "add", value), extent=1000)
        nest = Nest("nest", (Let(total, const(0, "float32")), inner))
        values = Values(FunctionWriter(Module(Machine(32)), "define void @f()"), nest, {})
        return vector_plan(inner, values, 20.0, 32).copies

    assert copies(HERE) == 5
    assert copies(call("exp", HERE)) == 6


def test_lanes_follow_the_data():
    assert plan_of((Store(OUT, (i,), HERE),)).lanes == 8
    assert plan_of((Store(OUT, (i,), HERE),), vector_bytes=64).lanes == 16
    assert plan_of((Store(OUT, (i,), HERE),), extent=3).lanes == 4
    wide = array("wide", "float64", "output")
    assert plan_of((Store(wide, (i,), apply("cast", HERE, dtype="float64")),)).lanes == 4
    flags = array("flags", "bool", "output")
    assert plan_of((Store(flags, (i,), const(True, "bool")),)).lanes == 32


def test_what_vectors_cannot_do_stays_scalar():
    inner = For(Symbol("j", 0, n), n, (Store(OUT, (i,), HERE),))
    assert plan_of((inner,)) is None
    under_condition = If(apply("gt", HERE, const(0, "float32")),
                         (Store(Buffer("one", "float32", (), "output"), (), HERE),))
    assert plan_of((under_condition,)) is None
    assert plan_of((Store(OUT, (i,), HERE),), extent=1) is None


def test_scalar_loops_agree():
    best = Buffer("best", "float32", (), "output")
    made = program(
        Store(best, (), const(-1, "float32")),
        loop(Store(OUT, (i,), HERE),
             If(apply("gt", HERE, const(0, "float32")), (Store(best, (), const(1, "float32")),))))
    agree(made)
