"""The program verifier, printer and interpreter on small programs, well-formed and not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tetractys.compiler.dims import Symbol, as_dim
from tetractys.compiler.loop.ir import Buffer, Check, For, Load, Nest, Store
from tetractys.compiler.loop.scalar import apply, const
from tetractys.compiler import program as level2
from tetractys.compiler.program import Contract, Copy, Failure, Guard, Kernel, Program, View, whole
from tetractys.compiler.program_interpret import run_program
from tetractys.compiler.program_text import program_text
from tetractys.compiler.program_verify import lifetimes, verify_program
from tetractys.runtime.artifact import (
    CallError, IndexOutOfRangeError, InternalError, ShapeError,
)

N, T = Symbol("n"), Symbol("t")
n = as_dim(N)
X = Buffer("x", "float32", (n,), "input")
W = Buffer("w", "float32", (n,), "shared")
OUT = Buffer("out", "float32", (n,), "output")
MID, END = Buffer("mid", "float32", (n,)), Buffer("end", "float32", (n,))


def double(source, target, check=False):
    """Return the step ``target = 2 * source``."""
    index = Symbol("i", 0, n)
    element = Load(source, (as_dim(index),))
    body = [Store(target, (as_dim(index),), apply("add", element, element))]
    if check:
        holds = apply("gt", element, const(0, "float32"))
        body.insert(0, Check(holds, 1, apply("cast", element, dtype="int64")))
    return Kernel(Nest("double", (For(index, n, tuple(body), "parallel"),)), (source,), (target,))


FAILURES = (Failure("IndexOutOfRangeError", "{value} is not positive"),)
GOOD = Program(
    "good", (X,), (W,), (OUT,), (N,),
    (double(X, MID, check=True), Copy(MID, END), double(END, OUT), double(X, W)),
    guards=(Guard(n % 2, 0, "{0} is odd"),), failures=FAILURES, commit=3,
    offsets={MID: 0, END: 4 * n}, arena=8 * n)


def fixed(offsets, steps, arena=1024):
    """Return a program over buffers of 16 elements with a memory plan."""
    return Program("fixed", (X16,), (), (OUT16,), (), steps, offsets=offsets, arena=arena)


X16, OUT16 = Buffer("x", "float32", (16,), "input"), Buffer("out", "float32", (16,), "output")
A, B = Buffer("a", "float32", (16,)), Buffer("b", "float32", (16,))
CHAIN = (Copy(X16, A), Copy(A, B), Copy(B, OUT16))


def matrix(buffer, *dims):
    """Return a batch-of-one view of a flat buffer."""
    return View(buffer, 0, (1, *dims), (dims[0] * dims[1], dims[1], 1))


def test_well_formed():
    verify_program(GOOD)
    verify_program(fixed({A: 0, B: 64}, CHAIN))


def test_text_shows_every_part():
    assert program_text(GOOD) == """\
program good
  size n >= 0
  x: input float32[n]
  w: shared float32[n]
  out: output float32[n]
  guard ((n) % (2)) == 0: '{0} is odd'
  failure 1: IndexOutOfRangeError '{value} is not positive'
  mid: temporary float32[n] at 0
  end: temporary float32[n] at 4*n
  arena 8*n
  kernel double (x) -> (mid) cost 1.0
    for i < n parallel:
      check gt(x[i], 0.0:float32) else 1, cast:int64(x[i])
      mid[i] = add(x[i], x[i])
  copy end = mid
  kernel double (end) -> (out) cost 1.0
    for i_1 < n parallel:
      out[i_1] = add(end[i_1], end[i_1])
  commit
  kernel double (x) -> (w) cost 1.0
    for i_2 < n parallel:
      w[i_2] = add(x[i_2], x[i_2])"""


def test_contractions_and_loops_as_text():
    step = level2.For(T, n, (Contract(matrix(OUT16, 4, 4), matrix(X16, 4, 4), matrix(A, 4, 4),
                                      add=True),))
    grouped = program_text(replace(GOOD, steps=(
        level2.Group((double(X, OUT), double(X, MID))),), commit=1))
    assert "  together:\n    kernel double (x) -> (out) cost 1.0\n      for i < n par" in grouped
    printed = program_text(fixed({A: 0}, (step,)))
    assert "  for t < n:\n    contract out+0[1, 4, 4; strides 16, 4, 1] += x+0[1" in printed


def test_interpreter_runs_and_commits():
    x, w = np.array([1, 2], "float32"), np.zeros(2, "float32")
    out, = run_program(GOOD, [x], [w])
    assert out.tolist() == [4, 8] and w.tolist() == [2, 4]


def test_interpreter_reports_failures_before_the_commit():
    w = np.zeros(2, "float32")
    with pytest.raises(IndexOutOfRangeError, match="-3 is not positive"):
        run_program(GOOD, [np.array([1, -3], "float32")], [w])
    assert w.tolist() == [0, 0]


@pytest.mark.parametrize("error, arrays", [
    (ShapeError, ([np.zeros(3, "float32")], [np.zeros(3, "float32")])),
    (ShapeError, ([np.zeros(2, "float32")], [np.zeros(4, "float32")])),
    (ShapeError, ([np.zeros((2, 2), "float32")], [np.zeros(2, "float32")])),
    (CallError, ([np.zeros(2)], [np.zeros(2, "float32")])),
    (CallError, ([np.zeros(4, "float32")[::2]], [np.zeros(2, "float32")])),
    (CallError, ([], [np.zeros(2, "float32")])),
])
def test_interpreter_refuses_wrong_arguments(error, arrays):
    with pytest.raises(error):
        run_program(GOOD, *arrays)


def test_interpreter_catches_unwritten_reads_and_wild_views():
    x = np.zeros(16, "float32")
    with pytest.raises(InternalError, match="before it is written"):
        run_program(fixed({}, (Copy(A, OUT16),)), [x])
    wild = View(X16, 4, (1, 4, 4), (16, 4, 1))
    with pytest.raises(InternalError, match="leaves its buffer"):
        run_program(fixed({}, (Contract(matrix(OUT16, 4, 4), wild, wild),)), [x])
    with pytest.raises(InternalError, match="does not lie in the arena"):
        run_program(fixed({A: 1000, B: 0}, CHAIN), [x])


def test_interpreter_uses_the_memory_plan():
    x = np.arange(16, dtype="float32")
    steps = (Copy(X16, A), double16(X16, B), Copy(A, OUT16))
    assert run_program(fixed({A: 0, B: 64}, steps), [x])[0].tolist() == x.tolist()
    assert run_program(fixed({A: 0, B: 0}, steps), [x])[0].tolist() != x.tolist()


def double16(source, target):
    """Return the step ``target = 2 * source`` for 16 elements."""
    index = Symbol("i", 0, 16)
    element = Load(source, (as_dim(index),))
    nest = Nest("double", (For(index, 16, (
        Store(target, (as_dim(index),), apply("add", element, element)),)),))
    return Kernel(nest, (source,), (target,))


@pytest.mark.parametrize("index", range(2))
def test_lifetimes_span_the_outermost_steps(index):
    buffer, span = [(A, (0, 1)), (B, (1, 2))][index]
    assert lifetimes(fixed({}, CHAIN))[buffer] == span


BIG = Buffer("big", "float32", (17,), base=A)
BAD = [
    ("is read before any step writes it", replace(GOOD, steps=GOOD.steps[2:], commit=1)),
    ("written before the commit", replace(GOOD, commit=4)),
    ("a Check comes after the commit", replace(GOOD, commit=0)),
    ("failure 1 is not described", replace(GOOD, failures=())),
    ("unknown error Oops", replace(GOOD, failures=(Failure("Oops", ""),))),
    ("output out:float32[n] is never written", replace(GOOD, steps=GOOD.steps[:2])),
    ("symbol n is not bound", replace(GOOD, symbols=())),
    ("is neither a number nor a symbol",
     replace(GOOD, inputs=(X, Buffer("y", "float32", (2 * n,), "input")))),
    ("is listed as input", replace(GOOD, inputs=(X, MID))),
    ("a buffer is listed twice", replace(GOOD, inputs=(X, X))),
    ("is not declared", replace(GOOD, shared=())),
    ("is written", replace(GOOD, steps=(Copy(X, MID), Copy(MID, X), double(X, OUT)), commit=3)),
    ("its reads are", replace(GOOD, steps=(replace(double(X, OUT), reads=()),), commit=1)),
    ("its writes are", replace(GOOD, steps=(
        replace(double(X, OUT), writes=(OUT, OUT)),), commit=1)),
    ("touches what another kernel of its group writes", replace(GOOD, steps=(
        level2.Group((double(X, MID), double(MID, OUT))),), commit=1)),
    ("writes what another one touches", replace(GOOD, steps=(
        level2.Group((double(W, OUT), double(X, W))),), commit=0)),
    ("written before the commit", replace(GOOD, steps=(
        level2.Group((double(X, OUT), double(X, W))),), commit=1)),
    ("a copy changes the dtype", fixed({}, (Copy(X16, Buffer("d", "float64", (16,))),))),
    ("a copy changes the number of elements",
     fixed({}, (Copy(X16, Buffer("d", "float32", (15,))),))),
    ("has another number of elements", fixed({}, (Copy(X16, BIG),))),
    ("overlaps", fixed({A: 0, B: 0}, CHAIN)),
    ("is not aligned", fixed({A: 0, B: 68}, CHAIN)),
    ("leaves the arena", fixed({A: 0, B: 64}, CHAIN, arena=100)),
    ("has no place in the arena", fixed({A: 0}, CHAIN)),
    ("sizes 4 and 8 disagree", fixed({}, (
        Contract(matrix(OUT16, 4, 4), matrix(X16, 4, 4), matrix(X16, 8, 2)),))),
    ("sizes 4 and 2 disagree", fixed({}, (
        Contract(matrix(OUT16, 4, 4), matrix(X16, 4, 4), matrix(X16, 4, 2)),))),
    ("sizes 2 and 4 disagree", fixed({}, (
        Contract(matrix(OUT16, 4, 4), View(X16, 0, (1, 4, 2, 2), (16, 4, 2, 1)),
                 View(X16, 0, (1, 4, 1, 4), (16, 4, 4, 1))),))),
    ("a view leaves its buffer", fixed({}, (
        Contract(matrix(OUT16, 4, 4), matrix(X16, 4, 5), matrix(X16, 5, 3)),))),
    ("the out view is also an operand", fixed({}, (
        Copy(X16, OUT16), Contract(matrix(OUT16, 4, 4), matrix(X16, 4, 4), matrix(OUT16, 4, 4)),))),
    ("a view has too few strides", fixed({}, (
        Contract(View(OUT16, 0, (1, 4, 4), (4, 1)), matrix(X16, 4, 4), matrix(X16, 4, 4)),))),
    ("the views' ranks disagree", fixed({}, (
        Contract(whole(OUT16), matrix(X16, 4, 4), matrix(X16, 4, 4)),))),
    ("the out view's last stride is not 1", fixed({}, (
        Contract(View(OUT16, 0, (1, 4, 4), (16, 1, 4)), matrix(X16, 4, 4),
                 matrix(X16, 4, 4)),))),
]


@pytest.mark.parametrize("what, program", BAD)
def test_ill_formed(what, program):
    with pytest.raises(InternalError) as caught:
        verify_program(program)
    assert what in str(caught.value) and f"program {program.name}" in str(caught.value)
