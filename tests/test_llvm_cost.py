"""Estimates of time: what they count, that parts of a nest share its cost, symbolic sizes."""

from __future__ import annotations

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.dims import Symbol, as_dim, substitute
from tetractys.compiler.loop.ir import Accumulate, Buffer, For, Load, Local, Let, Nest, Store
from tetractys.compiler.loop.scalar import apply, const
from tetractys.compiler.program import Contract, Copy, For as Repeat, Group, Kernel, whole
from tetractys.compiler.target import llvm_cost
from tetractys.compiler.target.llvm_cost import nest_work, program_work, step_work

N = Symbol("n")
n = as_dim(N)
I = Symbol("i", extent=n)
X, OUT = Buffer("x", "float32", (n,), "input"), Buffer("out", "float32", (n,), "output")
ELEMENT = Load(X, (as_dim(I),))
DOUBLE = Nest("double", (For(I, n, (Store(OUT, (as_dim(I),), apply("add", ELEMENT, ELEMENT)),),
                             "parallel"),))
STEP = Kernel(DOUBLE, (X,), (OUT,))


def test_operations_and_bytes_of_each_iteration():
    assert nest_work(DOUBLE) == n * (1 * 4 * llvm_cost.OPERATION + 8 * llvm_cost.ACCESS)


def test_the_cost_of_a_nest_is_shared_by_its_loops():
    total, j = Local("total", "float32"), Symbol("j", extent=n)
    body = (Let(total, const(0, "float32")),
            For(I, n, (Accumulate(total, "add", apply("mul", ELEMENT, ELEMENT)),), "vector"),
            For(j, n, (Store(OUT, (as_dim(j),), total),), "vector"))
    both = nest_work(Nest("both", body, cost=40.0))
    first = nest_work(Nest("first", body[1:2], cost=40.0))
    assert substitute(first - both, {N: 1000}) > 0


def test_steps_add_up():
    copy = Copy(OUT, OUT)
    assert step_work(Group((STEP, STEP)), {}) == 2 * nest_work(DOUBLE)
    assert step_work(copy, {}) == n * (8 * llvm_cost.ACCESS)
    t = Symbol("t", extent=7)
    assert step_work(Repeat(t, 7, (STEP, copy)), {}) == 7 * (nest_work(DOUBLE)
                                                             + step_work(copy, {}))
    a, b, c = (Buffer(name, "float64", (1, 8, 8)) for name in "abc")
    product = Contract(whole(a), whole(b), whole(c))
    assert step_work(product, {}) == 512 * 8 * llvm_cost.MULTIPLY_ADD
    assert step_work(Contract(whole(a), whole(b), whole(c), epilogue=STEP), {}) \
        == step_work(product, {}) + nest_work(DOUBLE)


@pytest.mark.parametrize("expression, size, is_cut", [
    (lambda x: x + 1.0, 20_000, False), (lambda x: x + 1.0, 60_000, True),
    (T.exp, 8_000, False), (T.exp, 20_000, True)])
def test_kernels_of_some_microseconds_are_cut(expression, size, is_cut):
    x = T.fvector("x")
    f = tx.function([x], expression(x))
    f(np.zeros(size, "float32"))
    work = program_work(f.variants[0].stages.program)
    assert (work > llvm_cost.PARALLEL) is is_cut
