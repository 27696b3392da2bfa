"""The CPU target: hand-built programs compiled to machine code agree with the interpreter."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
from loaded import POLLS, REGIONS, STOPS, Loaded

from tetractys.compiler.dims import Symbol, as_dim
from tetractys.compiler.dtypes import FLOATS
from tetractys.compiler.loop.ir import (
    Accumulate, Buffer, Check, For, Let, Load, Local, Nest, Store,
)
from tetractys.compiler.loop.scalar import apply, const, index
from tetractys.compiler.loop.walk import buffers_read, buffers_written
from tetractys.compiler import program as level2
from tetractys.compiler.program import Contract, Copy, Failure, Guard, Kernel, Program, View, whole
from tetractys.compiler.program_interpret import run_program
from tetractys.compiler.program_verify import verify_program
from tetractys.compiler.target import llvm_driver
from tetractys.compiler.target.llvm import LlvmOptions, compile_program, module_texts
from tetractys.runtime.artifact import (
    INTERRUPTED, CompileError, IndexOutOfRangeError, InternalError,
)
from tetractys.runtime.call import Executable


def kernel(nest: Nest) -> Kernel:
    """Return the step of a nest."""
    return Kernel(nest, buffers_read(nest), buffers_written(nest))


def both(program: Program, *arrays, extra=(), shared=(), tolerance=1e-6):
    """Run a program compiled and interpreted; compare; return the outputs."""
    verify_program(program)
    copies = [array.copy() for array in shared]
    expected = run_program(program, arrays, copies, extra)
    code, outputs, _ = Loaded(compile_program(program))(*arrays, *shared, extra=extra)
    assert code == 0
    for got, want in zip((*outputs, *shared), (*expected, *copies), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    return outputs


N, M, K = (Symbol(name) for name in "nmk")
n, m, k = map(as_dim, (N, M, K))


def loops(*extents_and_marks):
    """Return indices and a function that wraps a body into the loops, outermost first."""
    symbols = [Symbol("ijklm"[at], 0, extent) for at, (extent, _) in enumerate(extents_and_marks)]

    def wrap(*body):
        for symbol, (extent, mark) in reversed(list(zip(symbols, extents_and_marks))):
            body = (For(symbol, extent, tuple(body), mark),)
        return body

    return [as_dim(symbol) for symbol in symbols], wrap


def elementwise_program(dtype="float32"):
    """Return ``x * y + 1`` over symbolic ``(n, m)``."""
    x, y = (Buffer(name, dtype, (n, m), "input") for name in "xy")
    out = Buffer("out", dtype, (n, m), "output")
    (i, j), wrap = loops((n, "parallel"), (m, "vector"))
    value = apply("add", apply("mul", Load(x, (i, j)), Load(y, (i, j))), const(1, dtype))
    nest = Nest("fma", wrap(Store(out, (i, j), value)), cost=2.0)
    return Program("elementwise", (x, y), (), (out,), (N, M), (kernel(nest),))


@pytest.mark.parametrize("shape", [(3, 5), (0, 4), (4, 0), (1, 1), (7, 130)])
def test_elementwise_over_symbolic_sizes(shape):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, *shape)).astype("float32")
    out, = both(elementwise_program(), x, y)
    np.testing.assert_allclose(out, x * y + 1, rtol=1e-6, atol=1e-6)


def softmax_program(dtype="float32"):
    """Return, for each row, ``x - max(x)`` and the sum of its squares."""
    x = Buffer("x", dtype, (n, m), "input")
    out, norm = Buffer("out", dtype, (n, m), "output"), Buffer("norm", dtype, (n,), "output")
    top, total = Local("top", dtype), Local("total", dtype)
    (i,), rows = loops((n, "parallel"))
    (j,), first = loops((m, "vector"))
    (j2,), second = loops((m, "vector"))
    centred = apply("sub", Load(x, (i, j2)), top)
    nest = Nest("rows", rows(
        Let(top, const(float("-inf"), dtype)),
        *first(Accumulate(top, "maximum", Load(x, (i, j)))),
        Let(total, const(0, dtype)),
        *second(Store(out, (i, j2), centred),
                Accumulate(total, "add", apply("mul", centred, centred))),
        Store(norm, (i,), total)))
    return Program("softmax", (x,), (), (out, norm), (N, M), (kernel(nest),))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(4, 33), (1, 1), (0, 3), (3, 0)])
def test_rows_with_reductions(dtype, shape):
    x = np.random.default_rng(1).normal(size=shape).astype(dtype)
    out, norm = both(softmax_program(dtype), x)
    if x.size:
        centred = x - x.max(1, keepdims=True)
        np.testing.assert_array_equal(out, centred)
        np.testing.assert_allclose(norm, (centred**2).sum(1), rtol=1e-5)


def test_maximum_propagates_nan():
    x = np.random.default_rng(1).normal(size=(3, 100)).astype("float32")
    x[1, 77] = np.nan
    out, _ = both(softmax_program(), x)
    assert np.isnan(out[1]).all() and not np.isnan(out[[0, 2]]).any()


@pytest.mark.parametrize("combine, dtype, numpy", [
    ("add", "int32", np.sum), ("mul", "int64", np.prod), ("minimum", "uint8", np.min),
    ("maximum", "int8", np.max), ("and", "bool", np.all), ("or", "bool", np.any),
    ("minimum", "float64", np.min), ("mul", "float32", np.prod)])
def test_column_reductions(combine, dtype, numpy):
    x = Buffer("x", dtype, (n, m), "input")
    out = Buffer("out", dtype, (m,), "output")
    (j,), columns = loops((m, "parallel"))
    (i,), down = loops((n, "vector"))
    start = {"add": 0, "mul": 1, "and": 1, "or": 0}.get(combine)
    if start is None:
        high = combine == "minimum"
        info = np.finfo(dtype) if dtype in FLOATS else np.iinfo(dtype)
        start = info.max if high else info.min
    total = Local("total", dtype)
    nest = Nest("columns", columns(
        Let(total, const(start, dtype)),
        *down(Accumulate(total, combine, Load(x, (i, j)))), Store(out, (j,), total)))
    program = Program("columns", (x,), (), (out,), (N, M), (kernel(nest),))
    values = np.random.default_rng(2).integers(0, 3, size=(9, 37)).astype(dtype)
    result, = both(program, values)
    np.testing.assert_array_equal(result, numpy(values, axis=0).astype(dtype))


def test_accumulation_into_elements():
    x, out = Buffer("x", "float64", (n, m), "input"), Buffer("out", "float64", (m,), "output")
    (j0,), clear = loops((m, "vector"))
    (i, j), add = loops((n, "serial"), (m, "vector"))
    nest = Nest("columns", (
        *clear(Store(out, (j0,), const(0, "float64"))),
        *add(Accumulate(Load(out, (j,)), "add", Load(x, (i, j))))))
    program = Program("columns", (x,), (), (out,), (N, M), (kernel(nest),))
    values = np.random.default_rng(2).normal(size=(5, 21))
    np.testing.assert_allclose(both(program, values)[0], values.sum(0), rtol=1e-12)


def gather_program():
    """Return ``x[indices]`` with a check, and an update of a shared counter after it."""
    x = Buffer("x", "float32", (n, m), "input")
    indices = Buffer("indices", "int64", (k,), "input")
    counter = Buffer("counter", "int64", (), "shared")
    out = Buffer("out", "float32", (k, m), "output")
    at = Symbol("at")
    (r,), rows = loops((k, "parallel"))
    (j,), columns = loops((m, "vector"))
    wanted = Load(indices, (r,))
    inside = apply("and", apply("ge", wanted, const(0, "int64")),
                   apply("lt", wanted, index(n)))
    clamped = apply("maximum", apply("minimum", wanted, apply("sub", index(n), const(1, "int64"))),
                    const(0, "int64"))
    nest = Nest("gather", rows(
        Check(inside, 1, wanted), Let(at, clamped),
        *columns(Store(out, (r, j), Load(x, (as_dim(at), j))))))
    count = Nest("count", (Store(counter, (), apply("add", Load(counter, ()), const(1, "int64"))),))
    return Program("gather", (x, indices), (counter,), (out,), (N, M, K),
                   (kernel(nest), kernel(count)),
                   failures=(Failure("IndexOutOfRangeError", "index {value} is out of range"),),
                   commit=1)


@pytest.fixture(params=[llvm_driver.PART_STEPS, 1], ids=["in one function", "in parts"])
def parts(monkeypatch, request):
    """Let one function walk all steps, or each a function of its own."""
    monkeypatch.setattr(llvm_driver, "PART_STEPS", request.param)


@pytest.mark.usefixtures("parts")
def test_gather_within_bounds_commits():
    x = np.arange(12, dtype="float32").reshape(4, 3)
    chosen = np.array([3, 0, 0, 2])
    counter = np.array(7)
    out, = both(gather_program(), x, chosen, shared=(counter,))
    np.testing.assert_array_equal(out, x[chosen])
    assert counter == 8


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("bad", [4, -1, 2**63 - 1, -2**63])
def test_failed_check_is_reported_before_the_commit(bad):
    x = np.arange(12, dtype="float32").reshape(4, 3)
    chosen = np.array([1, 2] * 30 + [bad])
    counter = np.array(7)
    program = gather_program()
    code, _, status = Loaded(compile_program(program))(x, chosen, counter)
    assert code == 1 and status == (1, bad) and counter == 7
    with pytest.raises(IndexOutOfRangeError, match=f"index {bad} is out"):
        run_program(program, (x, chosen), (counter,))


def test_functions_of_many_steps_are_cut():
    x, out = Buffer("x", "float64", (n,), "input"), Buffer("out", "float64", (n,), "output")
    (i,), over = loops((n, "vector"))
    (j,), again = loops((n, "vector"))
    more = apply("add", Load(out, (j,)), const(1.0, "float64"))
    steps = (kernel(Nest("copy", over(Store(out, (i,), Load(x, (i,)))))),
             *(kernel(Nest("more", again(Store(out, (j,), more)))) for _ in range(300)))
    kernels, drivers = module_texts(Program("many", (x,), (), (out,), (N,), steps))
    assert drivers.count("define i64 @tx_run(") == 1
    assert drivers.count("define internal i64 @tx_run.") == 3
    assert kernels.count("define void @kernel") == 2, "equal kernels are compiled once"


def contract_program(left_strides, right_strides, sizes, add=False, dtype="float32"):
    """Return ``out (+)= left @ right`` on views of flat buffers, with ``out`` copied from ``c``."""
    batch, rows, columns, inner = sizes
    lengths = [1 + sum((d - 1) * s for d, s in zip(dims, strides)) for dims, strides in (
        ((batch, rows, inner), left_strides), ((batch, inner, columns), right_strides))]
    left, right = (Buffer(name, dtype, (max(length, 1),), "input")
                   for name, length in zip(("left", "right"), lengths))
    c = Buffer("c", dtype, (batch, rows, columns), "input")
    out = Buffer("out", dtype, (batch, rows, columns), "output")
    steps = (Copy(c, out), Contract(
        whole(out), View(left, 0, (batch, rows, inner), left_strides),
        View(right, 0, (batch, inner, columns), right_strides), add))
    return Program("contract", (left, right, c), (), (out,), (), steps), (*lengths, 0)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("left_strides, right_strides, sizes", [
    ((20, 5, 1), (15, 3, 1), (2, 4, 3, 5)),        # both plain
    ((20, 1, 4), (15, 1, 5), (2, 4, 3, 5)),        # both transposed
    ((0, 9, 1), (15, 3, 1), (2, 4, 3, 5)),         # one left matrix for all, rows apart
    ((40, 10, 2), (30, 6, 2), (2, 4, 3, 5)),       # no unit stride: loops
    ((20, 0, 1), (15, 3, 1), (2, 4, 3, 5)),        # one row repeated: loops
    ((5, 0, 1), (15, 3, 1), (2, 1, 3, 5)),         # one row
    ((4, 1, 7), (3, 7, 1), (2, 4, 3, 1)),          # inner size 1
    ((1, 1, 1), (1, 1, 1), (1, 4, 3, 0)),          # inner size 0
    ((1, 5, 1), (1, 3, 1), (3, 0, 3, 5)),          # empty result
])
def test_contraction(left_strides, right_strides, sizes, dtype, add):
    program, _ = contract_program(left_strides, right_strides, sizes, add, dtype)
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=[int(d) for d in b.dims]).astype(dtype) for b in program.inputs]
    both(program, *arrays, tolerance=1e-5)


def test_a_product_of_known_sizes_is_a_list_of_calls():
    program, _ = contract_program((0, 16, 1), (0, 8, 1), (1, 16, 8, 16))
    _, drivers = module_texts(program)
    assert "call void @tx.gemm." in drivers and not re.search(r"\bbr |\bmul |\bcall i64", drivers)


def test_contraction_over_symbolic_sizes():
    x, w = Buffer("x", "float64", (n, k), "input"), Buffer("w", "float64", (k, m), "input")
    out = Buffer("out", "float64", (n, m), "output")
    step = Contract(View(out, 0, (1, n, m), (n * m, m, 1)), View(x, 0, (1, n, k), (n * k, k, 1)),
                    View(w, 0, (1, k, m), (k * m, m, 1)))
    program = Program("dot", (x, w), (), (out,), (N, M, K), (step,))
    rng = np.random.default_rng(4)
    loaded = Loaded(compile_program(program))
    for rows, inner, columns in [(3, 4, 5), (1, 4, 5), (3, 4, 1), (3, 1, 5), (3, 0, 5), (0, 4, 5)]:
        a, b = rng.normal(size=(rows, inner)), rng.normal(size=(inner, columns))
        code, (got,), _ = loaded(a, b)
        assert code == 0
        np.testing.assert_allclose(got, a @ b, rtol=1e-12, atol=1e-12)


def recurrence_program():
    """Return ``state = 0.5 * state + x[t]`` over time, through an arena temporary and an alias."""
    x = Buffer("x", "float32", (n, m), "input")
    out = Buffer("out", "float32", (m,), "output")
    state = Buffer("state", "float32", (m,))
    column = Buffer("column", "float32", (m, 1), base=state)
    (j0,), clear = loops((m, "vector"))
    (j,), update = loops((m, "vector"))
    time = Symbol("t", 0, n)
    half = apply("mul", const(0.5, "float32"), Load(column, (j, 0)))
    step = Nest("step", update(
        Store(state, (j,), apply("add", half, Load(x, (as_dim(time), j))))))
    return Program(
        "recurrence", (x,), (), (out,), (N, M),
        (kernel(Nest("clear", clear(Store(state, (j0,), const(0, "float32"))))),
         level2.For(time, n, (kernel(step),)), Copy(column, out)),
        offsets={state: 64}, arena=64 + 4 * m)


@pytest.mark.parametrize("steps", [0, 1, 6])
def test_repeated_steps(steps):
    x = np.random.default_rng(5).normal(size=(steps, 19)).astype("float32")
    state = np.zeros(19, "float32")
    for row in x:
        state = np.float32(0.5) * state + row
    np.testing.assert_allclose(both(recurrence_program(), x)[0], state, rtol=1e-6)


def test_contraction_on_a_loops_own_history():
    """``history[t + 1] = history[t] @ w``: reads and writes different windows of one buffer."""
    w = Buffer("w", "float64", (m, m), "input")
    history = Buffer("history", "float64", (n + 1, m), "output")
    (j0,), fill = loops((m, "vector"))
    t = Symbol("t", 0, n)
    now = as_dim(t)
    row = (m, m, 1)
    product = Contract(View(history, (now + 1) * m, (1, 1, m), row),
                       View(history, now * m, (1, 1, m), row), View(w, 0, (1, m, m), (0, m, 1)))
    start = Nest("start", fill(Store(history, (0, j0), const(1, "float64"))))
    program = Program("powers", (w,), (), (history,), (N, M),
                      (kernel(start), level2.For(t, n, (product,))))
    matrix = np.random.default_rng(8).normal(size=(5, 5)) / 3
    history, = both(program, matrix, extra=(6,))
    for before, after in zip(history, history[1:]):
        np.testing.assert_allclose(after, before @ matrix, rtol=1e-12)


@pytest.mark.parametrize("options", [
    LlvmOptions(speed_level=0), LlvmOptions(speed_level=1), LlvmOptions(cpu="generic")])
def test_all_levels_and_processors_agree(options):
    x = np.random.default_rng(9).normal(size=(6, 45)).astype("float32")
    x[2, 3] = np.nan
    for program in (elementwise_program(), softmax_program()):
        arrays = [x] * len(program.inputs)
        want = Loaded(compile_program(program))(*arrays)[1]
        got = Loaded(compile_program(program, options))(*arrays)[1]
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_memory_must_be_planned():
    program = recurrence_program()
    with pytest.raises(InternalError, match="has no memory"):
        compile_program(replace(program, offsets={}))


def test_constants_bools_and_scalars():
    table = Buffer("table", "bool", (3,), "constant")
    flag = Buffer("flag", "bool", (), "output")
    (i,), over = loops((3, "unroll"))
    every = Local("every", "bool")
    nest = Nest("all", (Let(every, const(True, "bool")),
                        *over(Accumulate(every, "and", Load(table, (i,)))),
                        Store(flag, (), every)))
    for values in ([True] * 3, [True, False, True]):
        program = Program("all", (), (), (flag,), (), (kernel(nest),),
                          constants={table: np.array(values)})
        assert both(program)[0] == all(values)


def test_sizes_that_no_axis_binds_are_given():
    out = Buffer("out", "int64", (n,), "output")
    (i,), over = loops((n, "parallel"))
    value = apply("add", index(i), index(k % 7 + (k - 20) // 6 + (i - 5) // 3))
    nest = Nest("arange", over(Store(out, (i,), value)))
    program = Program("arange", (), (), (out,), (N, K), (kernel(nest),))
    assert both(program, extra=(10, 15))[0].tolist() == [
        i + 15 % 7 + (15 - 20) // 6 + (i - 5) // 3 for i in range(10)]


def test_guards_and_overflow_are_planned():
    x = Buffer("x", "int8", (n, m), "input")
    out = Buffer("out", "int8", (k - 3,), "output")
    (i,), over = loops((k - 3, "vector"))
    nest = Nest("fill", over(Store(out, (i,), const(1, "int8"))))
    program = Program("plan", (x,), (), (out,), (N, M, K), (kernel(nest),),
                      guards=(Guard(n, m, "{0} != {1}"), Guard(n * k // 2, 2 * k, "no")))
    artifact = compile_program(program)
    loaded = Loaded(artifact)
    square = np.zeros((4, 4), "int8")
    assert loaded(square, extra=(5,))[0] == 0
    assert loaded(square[:3].copy(), extra=(5,))[0] == 1
    assert loaded(square[:3, :3].copy(), extra=(5,))[0] == 2
    assert loaded(square, extra=(2,))[0] == -1, "a negative size"
    assert loaded(square, extra=(2**62,))[0] == -1, "an overflow"
    values = {"s": [4, 3, 5], "__builtins__": {}}
    assert [tuple(eval(side, values) for side in pair) for pair in artifact.guard_sizes] == [
        (4, 3), (10, 10)]


def test_arena_sizes_are_checked():
    big = Buffer("big", "float64", (n, n))
    out = Buffer("out", "float64", (), "output")
    nest = Nest("corner", (Store(big, (0, 0), const(2, "float64")),
                           Store(out, (), Load(big, (0, 0)))))
    program = Program("big", (), (), (out,), (N,), (kernel(nest),), offsets={big: 0},
                      arena=8 * n * n)
    loaded = Loaded(compile_program(program))
    assert loaded(extra=(3,))[:2] == (0, [2.0])
    for size in (2**31, 2**32, 2**40, 2**62):
        assert loaded(extra=(size,))[0] == -1


def test_equal_kernels_are_compiled_once():
    x, y = (Buffer(name, "float32", (n, m), "input") for name in "xy")
    mid, out = Buffer("mid", "float32", (n, m)), Buffer("out", "float32", (n, m), "output")

    def double(source, target):
        (i, j), wrap = loops((n, "parallel"), (m, "vector"))
        element = Load(source, (i, j))
        return kernel(Nest(f"double_{source.name}",
                           wrap(Store(target, (i, j), apply("add", element, element)))))

    program = Program("twice", (x, y), (), (out,), (N, M), (double(x, mid), double(mid, out)),
                      offsets={mid: 0}, arena=4 * n * m)
    values = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(both(program, values, values)[0], 4 * values)
    notes = compile_program(program, LlvmOptions(keep_text=True)).notes
    assert "@kernel0(" in notes["llvm"] and "@kernel1(" not in notes["llvm"]


def test_kernels_and_drivers_are_objects_of_their_own():
    program = elementwise_program()
    artifact = compile_program(program, LlvmOptions(keep_text=True))
    kernels, drivers = artifact.code
    assert b"tx_run" in drivers and b"tx_run" not in kernels
    assert "call void @kernel0(" in module_texts(program).drivers
    again = compile_program(program, LlvmOptions(keep_text=True))
    assert again == artifact == pickle.loads(pickle.dumps(artifact))
    for part in artifact.code:
        with pytest.raises(CompileError, match="cannot be loaded"):
            Executable(replace(artifact, code=(part,)))


def test_short_drivers_are_among_the_kernels():
    x, out = Buffer("x", "float32", (8,), "input"), Buffer("out", "float32", (8,), "output")
    (i,), over = loops((8, "vector"))
    step = kernel(Nest("copy", over(Store(out, (i,), Load(x, (i,))))))
    program = Program("short", (x,), (), (out,), (), (step,))
    assert [bool(text) for text in module_texts(program)] == [True, False]
    assert len(compile_program(program).code) == 1
    values = np.arange(8, dtype="float32")
    np.testing.assert_array_equal(both(program, values)[0], values)


def test_a_program_without_kernels_is_one_object():
    x, out = Buffer("x", "float64", (n,), "input"), Buffer("out", "float64", (n,), "output")
    program = Program("copy", (x,), (), (out,), (N,), (Copy(x, out),))
    assert len(compile_program(program).code) == 1
    np.testing.assert_array_equal(both(program, np.arange(3.0))[0], np.arange(3.0))


def test_large_loops_are_cut_over_threads():
    program = elementwise_program()
    loaded = Loaded(compile_program(program))
    REGIONS.clear()
    for rows, columns in [(100, 100), (300, 400), (100_000, 1), (1, 100_000)]:
        x = np.random.default_rng(6).normal(size=(rows, columns)).astype("float32")
        _, (out,), _ = loaded(x, x)
        np.testing.assert_allclose(out, x * x + 1, rtol=1e-6)
    # An element takes 2 operations and 3 accesses: chunks of 2 us, but none below 4 us of work.
    row = 400 * (2 * 20 + 3 * 48)
    assert REGIONS == [(300, 2_000_000 // row + 1), (100_000, 2_000_000 // (row // 400) + 1)]


def test_flat_chunks_are_whole_cache_lines():
    x, out = Buffer("x", "float32", (n,), "input"), Buffer("out", "float32", (n,), "output")
    (i,), over = loops((n, "parallel"))
    nest = Nest("negate", over(Store(out, (i,), apply("neg", Load(x, (i,))))), cost=500.0)
    loaded = Loaded(compile_program(Program("flat", (x,), (), (out,), (N,), (kernel(nest),))))
    REGIONS.clear()
    x = np.random.default_rng(7).normal(size=1001).astype("float32")
    np.testing.assert_array_equal(loaded(x)[1][0], -x)
    (count, grain), = REGIONS
    assert count == 1001 and grain % 64 == 0 and grain >= 2_000_000 / (500 * 20 + 2 * 48)


@pytest.mark.usefixtures("parts")
def test_long_calls_are_interrupted_between_steps():
    x, mid = Buffer("x", "int64", (n,), "input"), Buffer("mid", "int64", (n,))
    out = Buffer("out", "int64", (n,), "output")
    (i,), first = loops((n, "vector"))
    (j,), second = loops((n, "vector"))
    steps = (kernel(Nest("a", first(Store(mid, (i,), Load(x, (i,)))), cost=1e5)),
             kernel(Nest("b", second(Store(out, (j,), Load(mid, (j,)))), cost=1e5)))
    program = Program("long", (x,), (), (out,), (N,), steps, commit=2,
                      offsets={mid: 0}, arena=8 * n)
    loaded = Loaded(compile_program(program))
    assert "tx_poll" in loaded.artifact.externals
    try:
        del POLLS[1:]
        assert loaded(np.arange(5))[0] == 0 and len(POLLS) == 1, "too short to ask"
        assert loaded(np.arange(500))[0] == 0 and len(POLLS) == 3
        POLLS[0] = 1
        assert loaded(np.arange(500))[0] == INTERRUPTED and len(POLLS) == 4
    finally:
        POLLS[0] = 0


@pytest.mark.parametrize("commit, size, code", [(1, 500, INTERRUPTED), (0, 500, 0), (1, 5, 0)],
                         ids=["before the commit", "after it", "short"])
def test_long_kernels_are_interrupted_between_chunks(commit, size, code):
    x, out = Buffer("x", "int64", (n,), "input"), Buffer("out", "int64", (n,), "output")
    (i,), over = loops((n, "parallel"))
    nest = Nest("copy", over(Store(out, (i,), Load(x, (i,)))), cost=1e5)
    loaded = Loaded(compile_program(
        Program("long", (x,), (), (out,), (N,), (kernel(nest),), commit=commit)))
    try:
        STOPS[0] = 1
        assert loaded(np.arange(size))[0] == code
    finally:
        STOPS[0] = 0


def group_program(commit=1):
    """Return three independent kernels as a group: over ``n``, over ``m``, and a number."""
    x, y = Buffer("x", "int64", (n,), "input"), Buffer("y", "int64", (m,), "input")
    outs = [Buffer(f"out{at}", "int64", dims, "output") for at, dims in enumerate(((n,), (m,), ()))]
    (i,), first = loops((n, "parallel"))
    (j,), second = loops((m, "parallel"))
    one = const(1, "int64")
    members = (
        kernel(Nest("a", first(Store(outs[0], (i,), apply("add", Load(x, (i,)), one))), cost=1e5)),
        kernel(Nest("b", (Store(outs[2], (), one),))),
        kernel(Nest("c", second(Store(outs[1], (j,), apply("sub", Load(y, (j,)), one))), cost=1e4)))
    return Program("together", (x, y), (), tuple(outs), (N, M), (level2.Group(members),),
                   commit=commit)


@pytest.mark.parametrize("first, second", [(0, 0), (1, 0), (0, 1), (3, 5), (500, 1), (700, 5000)])
def test_kernels_of_a_group_share_a_region(first, second):
    REGIONS.clear()
    out, other, number = both(group_program(), np.arange(first), np.arange(second))
    assert np.array_equal(out, np.arange(first) + 1) and number == 1
    assert np.array_equal(other, np.arange(second) - 1)
    assert len(REGIONS) == (first > 0 or second > 3)
    # Each chunk is a whole number of cache lines of one kernel; the number is a chunk of its own.
    assert all(count == -(-first // 64) + 1 + -(-second // 64) for count, _ in REGIONS)


@pytest.mark.parametrize("commit, code", [(1, INTERRUPTED), (0, 0)])
def test_a_long_group_is_interrupted_before_the_commit(commit, code):
    loaded = Loaded(compile_program(group_program(commit)))
    try:
        STOPS[0] = 1
        assert loaded(np.arange(500), np.arange(5))[0] == code
    finally:
        STOPS[0] = 0


def test_argument_descriptions():
    artifact = compile_program(gather_program())
    assert [(a.name, a.dtype, a.axes) for a in (*artifact.inputs, *artifact.shared)] == [
        ("x", "float32", (-1, -2)), ("indices", "int64", (-3,)), ("counter", "int64", ())]
    assert artifact.updates_in_place and artifact.symbol_names == ("n", "m", "k")
    # A check and its index for each of 30 rows, 20 elements loaded and stored for each, one count.
    row, element, count = 8 * (5 + 12), 4 * 5 + 8 * 12, 300
    assert eval(artifact.work, {"s": [10, 20, 30]}) == 30 * (row + 20 * element) + count
    assert artifact.failures == (("IndexOutOfRangeError", "index {value} is out of range"),)


@pytest.mark.parametrize("what, program", [
    ("elementwise", elementwise_program()), ("reduction", softmax_program())])
def test_loops_are_vectorised(what, program):
    text = compile_program(program, LlvmOptions(keep_text=True)).notes["llvm"]
    assert " x float>" in text
