"""Calls of hand-made artifacts, through the careful path and through the fast entry."""

import dataclasses
import gc
import pickle
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

from tetractys.runtime import cpu_entry
from tetractys.runtime.artifact import Argument, Artifact, Constant, Output
from tetractys.runtime.call import BUSY, RELEASE, RELEASE_WORK, Executable
from tetractys.runtime.convert import Policy
from tetractys.runtime.cpu_jit import assemble
from tetractys.runtime.errors import (
    CallError, CompileError, IndexOutOfRangeError, InternalError, ShapeError,
)
from tetractys.runtime.shared import Storage

# --- Artifacts written by hand ---------------------------------------------------------------

PREAMBLE = """
declare i64 @tx_poll()
define internal ptr @pointer(ptr %p, i64 %k) alwaysinline {
  %at = getelementptr ptr, ptr %p, i64 %k
  %v = load ptr, ptr %at
  ret ptr %v
}
define internal i64 @symbol(ptr %s, i64 %k) alwaysinline {
  %at = getelementptr i64, ptr %s, i64 %k
  %v = load i64, ptr %at
  ret i64 %v
}
"""


def plan(dims, arena="0", guards=(), setup=""):
    """Return ``tx_plan``: dims and arena are LLVM operands over ``%s0``, ``%s1``."""
    lines = ["define i64 @tx_plan(ptr %s, ptr %r) {"]
    used = " ".join((*dims, arena, setup, *(g for pair in guards for g in pair)))
    lines += [f"  %s{k} = call i64 @symbol(ptr %s, i64 {k})" for k in range(4) if f"%s{k}" in used]
    lines.append(setup)
    for number, (left, right) in enumerate(guards, 1):
        lines += [f"  %g{number} = icmp eq i64 {left}, {right}",
                  f"  br i1 %g{number}, label %ok{number}, label %bad{number}",
                  f"bad{number}:", f"  ret i64 {number}", f"ok{number}:"]
    for position, value in enumerate((arena, *dims)):
        lines += [f"  %r{position} = getelementptr i64, ptr %r, i64 {position}",
                  f"  store i64 {value}, ptr %r{position}"]
    return "\n".join([*lines, "  ret i64 0", "}"])


def run(setup, body="", count="%s0", end="ret i64 0"):
    """Return ``tx_run``: ``setup``, then ``body`` for ``%i`` below ``count``, then ``end``."""
    return f"""
define i64 @tx_run(ptr %s, ptr %p, ptr %arena, ptr %status) {{
entry:
  %s0 = call i64 @symbol(ptr %s, i64 0)
{setup}
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %body ]
  %more = icmp slt i64 %i, {count}
  br i1 %more, label %body, label %end
body:
{body}
  %i.next = add i64 %i, 1
  br label %loop
end:
  {end}
}}"""


def pointers(*names):
    return "\n".join(f"  %{n} = call ptr @pointer(ptr %p, i64 {k})" for k, n in enumerate(names))


def element(name, value, kind="double"):
    return f"""  %{name}.at = getelementptr {kind}, ptr %{name}, i64 %i
  store {kind} {value}, ptr %{name}.at"""


def load(name, kind="double"):
    return f"""  %{name}.src = getelementptr {kind}, ptr %{name}, i64 %i
  %{name}.v = load {kind}, ptr %{name}.src"""


def artifact(text, inputs, outputs, symbol_count=1, name="f", **more):
    poll = ("tx_poll",) if "call i64 @tx_poll" in text else ()
    return Artifact(name, "cpu", (assemble(PREAMBLE + text),), tuple(inputs),
                    more.pop("shared", ()), tuple(outputs), more.pop("constants", ()), symbol_count,
                    tuple(f"n{k}" for k in range(symbol_count)), externals=poll, **more)


VECTOR = Argument("x", "float64", (-1,), "model.py:3")
RESULT = Output("float64", 1)


def affine(**more):
    """y = 2 x + 1 on float64 vectors."""
    body = load("x") + """
  %t = fmul double %x.v, 2.0
  %u = fadd double %t, 1.0
""" + element("y", "%u")
    return artifact(plan(["%s0"]) + run(pointers("x", "y"), body), [VECTOR], [RESULT], **more)


def product():
    """z = x y on float32 vectors of one length, of which the second is called y."""
    body = load("x", "float") + load("y", "float") + """
  %t = fmul float %x.v, %y.v
""" + element("z", "%t", "float")
    rows = [Argument("x", "float32", (-1,), "a.py:1"), Argument("y", "float32", (-1,), "b.py:2")]
    return artifact(plan(["%s0"]) + run(pointers("x", "y", "z"), body), rows,
                    [Output("float32", 1)])


def total():
    """The sum of an int64 matrix of two columns, 0-d, and its number of rows."""
    body = load("x", "i64") + """
  %old = load i64, ptr %y
  %new = add i64 %old, %x.v
  store i64 %new, ptr %y"""
    setup = pointers("x", "y", "z") + """
  store i64 0, ptr %y
  store i64 %s0, ptr %z
  %all = mul i64 %s0, 2"""
    x = Argument("x", "int64", (-1, 2), "m.py:1")
    return artifact(plan([]) + run(setup, body, "%all"), [x],
                    [Output("int64", 0), Output("int64", 0)])


def add_in_place():
    """w += x."""
    body = load("x") + load("w") + """
  %t = fadd double %x.v, %w.v
""" + element("w", "%t")
    return artifact(plan([]) + run(pointers("x", "w"), body), [VECTOR], [],
                    shared=(Argument("w", "float64", (-1,), "w.py:9"),), updates_in_place=True)


def replace():
    """w becomes 2 x, of any length; returns x + 0."""
    body = load("x") + """
  %t = fmul double %x.v, 2.0
""" + element("y", "%x.v") + element("n", "%t")
    return artifact(plan(["%s0", "%s0"]) + run(pointers("x", "w", "y", "n"), body), [VECTOR],
                    [RESULT, Output("float64", 1, shared=0)], symbol_count=2,
                    shared=(Argument("w", "float64", (-2,), "w.py:9"),))


def negative_fails():
    """y = x, and a failure with the index of the first negative x."""
    body = load("x", "i64") + element("y", "%x.v", "i64") + """
  %low = icmp slt i64 %x.v, 0
  br i1 %low, label %bad, label %good
bad:
  %second = getelementptr i64, ptr %status, i64 1
  store i64 1, ptr %status
  store i64 %x.v, ptr %second
  ret i64 1
good:"""
    text = run(pointers("x", "y"), body).replace("[ %i.next, %body ]", "[ %i.next, %good ]")
    return artifact(
        plan(["%s0"]) + text, [Argument("x", "int64", (-1,), "i.py:1")], [Output("int64", 1)],
        failures=(("IndexOutOfRangeError", "Index {value} is out of range in {this}."),))


def guarded():
    """Copies x when it is as long as y."""
    body = load("x") + element("z", "%x.v")
    return artifact(
        plan(["%s0"], guards=[("%s0", "%s1")]) + run(pointers("x", "y", "z"), body),
        [VECTOR, Argument("y", "float64", (-2,))], [RESULT], symbol_count=2,
        guards=("x has {0} rows, y has {1} (f{x}.py:1)",), guard_sizes=(("s[0]", "s[1]"),))


def through_arena(delay=0):
    """y = x, by way of the arena; between the two copies, ``delay`` polls."""
    setup = pointers("x", "y") + f"""
  %bytes = mul i64 %s0, 8
  call void @llvm.memcpy.p0.p0.i64(ptr align 64 %arena, ptr %x, i64 %bytes, i1 false)"""
    end = """call void @llvm.memcpy.p0.p0.i64(ptr %y, ptr align 64 %arena, i64 %bytes, i1 false)
  ret i64 0"""
    text = plan(["%s0"], arena="%b", setup="  %b = shl i64 %s0, 3")
    text += run(setup, "  %z = call i64 @tx_poll()", str(delay), end)
    return artifact(text + "\ndeclare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)",
                    [VECTOR], [RESULT], work="1000000" if delay else "0")


def huge():
    """A result of 2**50 elements a row."""
    text = plan(["%b"], setup="  %b = shl i64 %s0, 50") + run("", count="0")
    return artifact(text, [VECTOR], [RESULT])


def overflow():
    text = plan([]).replace("ret i64 0", "ret i64 -1") + run("", count="0")
    return artifact(text, [VECTOR], [])


def ones():
    """``k`` ones, ``k`` computed by a prologue."""
    k = Argument("k", "int64", (), "k.py:1")
    first = artifact(plan([]) + run(pointers("x", "y") + """
  %k = load i64, ptr %x
  store i64 %k, ptr %y""", count="0"), [k], [Output("int64", 0)], symbol_count=0)
    return artifact(plan(["%s0"]) + run(pointers("x", "y"), element("y", "1.0")), [k], [RESULT],
                    prologue=first)


def plus_constant():
    body = load("x") + load("c") + """
  %t = fadd double %x.v, %c.v
""" + element("y", "%t")
    return artifact(plan(["3"]) + run(pointers("x", "y", "c"), body, "3"),
                    [Argument("x", "float64", (3,), "c.py:4")], [RESULT], symbol_count=0,
                    constants=(Constant("float64", (3,), np.array([1.0, 2, 3], "<f8").tobytes()),))


@pytest.fixture(params=["slow", "fast"])
def entry(request):
    """Make a callable from an artifact, through either path."""
    def make(made, storages=(), single=False, policies=()):
        executable = Executable(made, storages, policies, single)
        if request.param == "slow":
            return executable.call
        assert cpu_entry.is_available()
        return cpu_entry.make_entry(executable)
    return make


# --- Values ----------------------------------------------------------------------------------


def test_vector(entry):
    f = entry(affine(), single=True)
    x = np.arange(10.0)
    np.testing.assert_array_equal(f(x), 2 * x + 1)
    assert f(x).flags.owndata and f(x) is not f(x)


def test_results_are_a_list_unless_single(entry):
    x = np.arange(6).reshape(3, 2)
    results = entry(total())(x)
    assert isinstance(results, list)
    assert [type(r) for r in results] == [np.ndarray] * 2 and [r.shape for r in results] == [()] * 2
    assert [int(r) for r in results] == [15, 3]


def test_empty_input(entry):
    assert entry(affine(), single=True)(np.zeros(0)).shape == (0,)
    assert int(entry(total())(np.zeros((0, 2), "int64"))[0]) == 0


@pytest.mark.parametrize("make", [
    lambda x: x.tolist(), lambda x: tuple(x), lambda x: x.astype("float32"),
    lambda x: x.astype("int32"), lambda x: np.repeat(x, 2)[::2], lambda x: x[::-1].copy()[::-1],
    lambda x: x.astype(x.dtype.newbyteorder()), lambda x: _misaligned(x), lambda x: _read_only(x),
    lambda x: pickle.loads(pickle.dumps(x)), lambda x: x.view(_Subclass),
    lambda x: x.astype("float16"),
], ids=["list", "tuple", "float32", "int32", "strided", "reversed", "swapped", "misaligned",
        "readonly", "unpickled", "subclass", "float16"])
def test_array_likes_are_converted(entry, make):
    x = np.arange(7.0)
    result = entry(affine(), single=True)(make(x))
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, 2 * x + 1)


class _Subclass(np.ndarray):
    pass


def _misaligned(x):
    raw = np.zeros(x.nbytes + 1, "uint8")[1:]
    raw[:] = x.view("uint8")
    result = raw.view(x.dtype)
    assert not result.flags.aligned
    return result


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def test_constants(entry):
    np.testing.assert_array_equal(entry(plus_constant(), single=True)(np.zeros(3)), [1, 2, 3])


def test_prologue_binds_sizes(entry):
    f = entry(ones(), single=True)
    for k in (0, 3, 100):
        np.testing.assert_array_equal(f(k), np.ones(k))
    with pytest.raises(ShapeError, match="negative"):
        f(-1)


def test_arguments_by_name(entry):
    f = entry(product(), single=True)
    x = np.ones(2, "float32")
    np.testing.assert_array_equal(f(y=3 * x, x=x), 3 * x)
    np.testing.assert_array_equal(f(x, y=3 * x), 3 * x)


def test_arena_grows(entry):
    f = entry(through_arena(), single=True)
    for n in (0, 1, 1000, 10, 100_000):
        np.testing.assert_array_equal(f(np.arange(float(n))), np.arange(float(n)))


def test_released_memory_comes_back():
    executable = Executable(through_arena(), single=True)
    f = cpu_entry.make_entry(executable)
    x = np.arange(50.0)
    np.testing.assert_array_equal(f(x), x)
    executable.release_memory()
    assert executable.control[1] == 0
    np.testing.assert_array_equal(f(x), x)


# --- Refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), (np.zeros(2),) * 2])
def test_wrong_number_of_arguments(entry, arguments):
    with pytest.raises(CallError, match=r"takes 1 argument \(x\)"):
        entry(affine())(*arguments)


def test_wrong_names(entry):
    with pytest.raises(CallError, match="given twice: x"):
        entry(affine())(np.zeros(2), x=1)
    with pytest.raises(CallError, match="nope"):
        entry(affine())(nope=np.zeros(2))
    with pytest.raises(CallError, match="missing: y"):
        entry(product())(x=[1.0])


@pytest.mark.parametrize("value, reason", [
    (1.0, "number of dimensions"), (np.zeros((2, 2)), "number of dimensions"),
    ("text", "number of dimensions"), (["a", "b"], "real numbers"),
    ([1j], "real numbers"), (np.array([1j]), "real numbers"), ([object()], "real numbers"),
    ([[1], [2, 3]], "inhomogeneous"), (None, "number of dimensions"), ([None], "real numbers"),
    (np.array(["2020-01-01"], "M8[D]"), "real numbers"), (np.zeros(2, "longdouble"), "lose"),
])
def test_values_that_do_not_fit(entry, value, reason):
    with pytest.raises(CallError, match=reason) as caught:
        entry(affine())(value)
    assert "expected float64, 1-dimensional" in str(caught.value)
    assert "model.py:3" in str(caught.value) and "remedy" in str(caught.value)


def test_downcast_policies():
    def make(**policy):
        return Executable(product(), policies=(Policy(**policy),) * 2, single=True).call
    doubles = np.array([0.1, 0.2])
    for policy in ({}, {"allow_downcast": False}, {"strict": True}):
        with pytest.raises(CallError, match="astype|exactly"):
            make(**policy)(doubles, doubles)
    result = make(allow_downcast=True)(doubles, [0.5, 2.0])
    np.testing.assert_array_equal(result, doubles.astype("float32") * np.float32([0.5, 2.0]))
    with pytest.raises(CallError, match="exactly"):
        make(strict=True)([1.0], [2.0])
    np.testing.assert_array_equal(make()([1, 2], [0.5, 2.0]), [0.5, 4.0])
    with pytest.raises(CallError, match="lose"):
        make()([0.1], [1.0])


def test_python_float_for_a_float32_scalar():
    text = plan([]) + run(pointers("x", "y") + """
  %v = load float, ptr %x
  store float %v, ptr %y""", count="0")
    made = artifact(text, [Argument("rate", "float32", ())], [Output("float32", 0)], symbol_count=0)
    f = Executable(made, single=True).call
    assert f(0.1) == np.float32(0.1) and f(3) == 3 and f(np.float64(0.1)) == np.float32(0.1)
    with pytest.raises(CallError, match="lose"):
        f(1e300)
    with pytest.raises(CallError, match="lose"):
        f(np.array(0.1))
    with pytest.raises(CallError, match="lose"):
        f(2 ** 24 + 1)
    with pytest.raises(CallError, match="lose"):
        Executable(made, policies=(Policy(allow_downcast=False),)).call(0.1)


def test_unequal_sizes_name_both_variables(entry):
    with pytest.raises(ShapeError, match=r"axis 0 of x has 2, axis 0 of y has 3") as caught:
        entry(product())(np.zeros(2, "float32"), np.zeros(3, "float32"))
    assert "a.py:1" in str(caught.value) and "b.py:2" in str(caught.value)


def test_constant_size(entry):
    with pytest.raises(ShapeError, match="Axis 1 of x must have size 2, not 3"):
        entry(total())(np.zeros((4, 3), "int64"))


def test_guard_message_has_the_sizes(entry):
    f = entry(guarded(), single=True)
    assert f(np.zeros(2), np.zeros(2)).shape == (2,)
    with pytest.raises(ShapeError, match=r"x has 2 rows, y has 3 \(f\{x\}\.py:1\)"):
        f(np.zeros(2), np.zeros(3))


def test_failure_raises_its_class_with_the_value(entry):
    f = entry(negative_fails(), single=True)
    np.testing.assert_array_equal(f(np.arange(3)), np.arange(3))
    with pytest.raises(IndexOutOfRangeError, match=r"Index -7 is out of range in \{this\}\."):
        f(np.array([1, -7, 2]))
    with pytest.raises(IndexError):
        f([1, -7])


@pytest.mark.parametrize("make", [huge, overflow])
def test_impossible_sizes_are_a_memory_error(entry, make):
    with pytest.raises(MemoryError, match="bytes"):
        entry(make())(np.zeros(3))


def test_foreign_code_is_refused():
    with pytest.raises(InternalError, match="tx_nothing"):
        Executable(Artifact("f", "cpu", (b"",), (), (), (), (), 0, (), externals=("tx_nothing",)))
    with pytest.raises(CompileError, match="cannot be loaded"):
        Executable(Artifact("f", "cpu", (b"no object file",), (), (), (), (), 0, ()))
    with pytest.raises(CompileError, match="another device"):
        Executable(Artifact("f", "cuda", (b"",), (), (), (), (), 0, ()))


# --- Shared variables ------------------------------------------------------------------------


def test_update_in_place(entry):
    w = Storage(np.ones(3))
    f = entry(add_in_place(), [w])
    assert f(np.arange(3.0)) == [] and f(np.arange(3.0)) == []
    np.testing.assert_array_equal(w.get(), [1, 3, 5])
    with pytest.raises(ShapeError, match="x and w must agree"):
        f(np.arange(4.0))
    w.set(np.zeros(4))
    f(np.arange(4.0))
    np.testing.assert_array_equal(w.get(), np.arange(4))


def test_update_from_an_alias_of_itself(entry):
    w = Storage(np.arange(4.0))
    f = entry(add_in_place(), [w])
    f(w.get(borrow=True))
    np.testing.assert_array_equal(w.get(), 2 * np.arange(4.0))
    whole = np.arange(8.0)
    f(whole[4:])
    np.testing.assert_array_equal(w.get(), [4, 7, 10, 13])


def test_update_that_replaces_the_storage(entry):
    w = Storage(np.zeros(1))
    f = entry(replace(), [w], single=True)
    np.testing.assert_array_equal(f(np.arange(3.0)), np.arange(3.0))
    np.testing.assert_array_equal(w.get(), [0, 2, 4])


def test_shared_value_of_another_dtype(entry):
    w = Storage(np.zeros(3, "float32"))
    with pytest.raises(CallError, match="shared variable w"):
        entry(add_in_place(), [w])(np.zeros(3))


def test_storage_owns_a_plain_copy():
    value = np.arange(6.0).reshape(2, 3).T
    storage = Storage(value)
    assert storage.cell[0].flags.c_contiguous and not np.shares_memory(storage.cell[0], value)
    assert storage.get() is not storage.cell[0] and storage.get(borrow=True) is storage.cell[0]
    restored = pickle.loads(pickle.dumps(storage))
    np.testing.assert_array_equal(restored.get(), value)
    assert Storage(value.astype(">f4")).get().dtype.isnative


# --- Leaks, threads, locks ---------------------------------------------------------------------


def test_no_references_leak(entry):
    f = entry(affine(), single=True)
    g = entry(negative_fails(), single=True)
    x, bad, none = np.arange(1000.0), np.array([-1]), None

    def exercise():
        for _ in range(300):
            f(x)
            for wrong in (none, "x"):
                with pytest.raises(CallError):
                    f(wrong)
            with pytest.raises(IndexError):
                g(bad)
    exercise()
    gc.collect()  # what earlier tests left refers to the dtype too
    counts = [sys.getrefcount(v) for v in (x, bad, x.dtype)]
    tracemalloc.start()
    sizes = []
    for _ in range(4):
        exercise()
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    # A leak grows every time; what some cache of Python's takes once does not count.
    grown = min(after - before for before, after in zip(sizes, sizes[1:]))
    after = [sys.getrefcount(v) for v in (x, bad, x.dtype)]
    assert all(abs(a - b) < 20 for a, b in zip(after, counts, strict=True)), (after, counts)
    assert grown < 20_000


def test_result_and_entry_are_freed():
    executable = Executable(affine(), single=True)
    f = cpu_entry.make_entry(executable)
    result, ordinary = f(np.zeros(3)), np.zeros(3)
    assert sys.getrefcount(result) == sys.getrefcount(ordinary)
    gone = weakref.ref(executable)
    del f, executable
    assert gone() is None


@pytest.mark.parametrize("fast", [True, False])
def test_two_threads_never_mix_results(fast):
    executable = Executable(through_arena(delay=50), single=True)
    f = cpu_entry.make_entry(executable) if fast else executable.call
    wrong = []

    def work(seed):
        for k in range(10_000):
            x = np.full(5 + k % 7, float(seed * 100_000 + k))
            executable.control[RELEASE] = 1
            if not np.array_equal(f(x), x):
                wrong.append((seed, k))
    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_concurrent_updates_are_not_lost():
    w = Storage(np.zeros(20_000))
    executable = Executable(add_in_place(), [w])
    f = cpu_entry.make_entry(executable)
    x = np.ones(20_000)
    executable.control[RELEASE] = 1

    def work(call):
        for _ in range(500):
            executable.control[RELEASE] = 1
            call(x)
            value = w.get()
            assert value.min() == value.max()
    threads = [threading.Thread(target=work, args=(call,)) for call in (f, f, executable.call)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(w.get(), np.full(20_000, 1500.0))
    assert w.lock.value == 0 and executable.control[BUSY] == 0


@pytest.mark.parametrize("name", ["DATA", "RANK", "DIMS", "DESCR", "FLAGS", "DESCR_NUMBER"])
def test_wrong_structure_offsets_turn_the_fast_path_off(name, monkeypatch):
    table = cpu_entry._array_table()
    assert cpu_entry._layout_holds(table)
    monkeypatch.setattr(cpu_entry.layout, name, getattr(cpu_entry.layout, name) + 8)
    assert not cpu_entry._layout_holds(table)
    monkeypatch.setattr(cpu_entry, "_loaded", [])
    executable = Executable(affine())
    assert cpu_entry.make_entry(executable) == executable.call


def test_entry_is_the_slow_callable_where_the_fast_path_cannot_serve():
    quick = ones()
    long = dataclasses.replace(quick, prologue=dataclasses.replace(
        quick.prologue, work=str(RELEASE_WORK)))
    executable = Executable(long)
    assert cpu_entry.make_entry(executable) == executable.call
    executable = Executable(quick)
    assert cpu_entry.make_entry(executable) != executable.call
    seen = []
    f = cpu_entry.make_entry(Executable(affine()), slow=lambda *a, **k: seen.append((a, k)))
    assert f([1], y=2) is None and seen == [(([1],), {"y": 2})]


def test_definitions_of_entries_outlive_what_uses_them(monkeypatch):
    """Python reads one when its collector passes a function, and when it deletes it."""
    with monkeypatch.context() as patch:
        patch.setattr(cpu_entry, "_loaded", [])
        f = cpu_entry.make_entry(Executable(affine()))
        definition = weakref.ref(cpu_entry._loaded[0][1])
    del f
    gc.collect()
    assert definition() is not None
