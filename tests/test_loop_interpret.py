"""The nest interpreter computes what a nest means and catches what the language forbids."""

from __future__ import annotations

import numpy as np
import pytest

from tetractys.compiler.dims import Symbol, as_dim
from tetractys.compiler.loop.interpret import run_nest
from tetractys.compiler.loop.ir import (
    Accumulate, Buffer, Check, For, If, Let, Load, Local, Nest, Store,
)
from tetractys.compiler.loop.scalar import apply, const, index
from tetractys.runtime.artifact import InternalError

N = Symbol("n")
n = as_dim(N)
I, J = Symbol("i", 0, n), Symbol("j", 0, n)
i, j = as_dim(I), as_dim(J)
X, OUT = Buffer("x", "int64", (n,), "input"), Buffer("out", "int64", (n,), "output")


def run(body, size=4, failures=None, **arrays):
    """Run statements with ``x = 0..`` and return ``out``."""
    data = {X: np.arange(size), OUT: np.full(size, -7), **arrays}
    run_nest(Nest("test", tuple(body)), data, {N: size}, [] if failures is None else failures)
    return data[OUT].tolist()


def over(*body, mark="parallel", symbol=I):
    """Return a loop over ``n``."""
    return For(symbol, n, body, mark)


def test_reversal():
    assert run([over(Store(OUT, (n - 1 - i,), Load(X, (i,))))]) == [3, 2, 1, 0]


def test_running_sum_in_a_serial_loop():
    total = Local("total", "int64")
    body = [Let(total, const(0, "int64")),
            over(Accumulate(total, "add", Load(X, (i,))), Store(OUT, (i,), total), mark="serial")]
    assert run(body) == [0, 1, 3, 6]


def test_conditions_and_indices():
    body = over(If(apply("eq", index(i % 2), const(0, "int64")),
                   (Store(OUT, (i,), index(i * 10)),)))
    assert run([body]) == [0, -7, 20, -7]


def test_checks_are_collected_and_the_nest_goes_on():
    failures = []
    small = apply("lt", Load(X, (i,)), const(2, "int64"))
    assert run([over(Check(small, 5, Load(X, (i,))), Store(OUT, (i,), Load(X, (i,))))],
               failures=failures) == [0, 1, 2, 3]
    assert failures == [(5, 2), (5, 3)]


def test_aliases_share_memory():
    square = Buffer("square", "int64", (2, 2), "output", base=OUT)
    body = [over(Store(OUT, (i,), Load(X, (i,)))),
            Store(OUT, (0,), Load(square, (1, 1)))]
    assert run(body) == [3, 1, 2, 3]


def test_empty_loop_does_nothing():
    assert run([over(Store(OUT, (i,), Load(X, (i,))))], size=0) == []


@pytest.mark.parametrize("what, body", [
    ("out[4] is outside shape (4,)", [over(Store(OUT, (i + 1,), Load(X, (i,))))]),
    ("x[-1] is outside", [over(Store(OUT, (i,), Load(X, (i - 1,))))]),
    ("has 2 indices", [over(Store(OUT, (i, i), Load(X, (i,))))]),
    ("out[0] is read before it is written", [over(Store(OUT, (i,), Load(OUT, (i,))))]),
    ("writes out[0], which another iteration uses", [over(Store(OUT, (0,), Load(X, (i,))))]),
    ("iteration 1 of a vector loop reads out[0]", [
        Store(OUT, (0,), const(1, "int64")),
        over(Store(OUT, (i,), Load(OUT, (0,))), mark="vector")]),
    ("parallel loop writes out[1]", [
        over(Store(OUT, (i,), const(1, "int64"))),
        over(Store(OUT, (i,), Load(OUT, (n - 1 - (n - 1 - i) // 2 * 2,))))]),
    ("parallel loop", [over(over(Store(OUT, (j,), Load(X, (i,))), mark="serial", symbol=J))]),
    ("local lost has no value", [Store(OUT, (0,), Local("lost", "int64"))]),
    ("symbol lost has no value", [Store(OUT, (as_dim(Symbol("lost")),), const(1, "int64"))]),
])
def test_forbidden(what, body):
    with pytest.raises(InternalError) as caught:
        run(body)
    assert what in str(caught.value) and "in: " in str(caught.value)


def test_vector_loops_may_overwrite_an_element():
    assert run([over(Store(OUT, (0,), Load(X, (i,))), mark="vector")])[0] == 3


def test_written_elements_are_remembered_from_nest_to_nest():
    data = {OUT: np.zeros(2, np.int64)}
    written: dict = {}
    store = Nest("store", (Store(OUT, (0,), const(5, "int64")),))
    copy = Nest("copy", (Store(OUT, (1,), Load(OUT, (0,))),))
    run_nest(store, data, {N: 2}, [], written)
    run_nest(copy, data, {N: 2}, [], written)
    assert data[OUT].tolist() == [5, 5]
    with pytest.raises(InternalError, match="before it is written"):
        run_nest(copy, data, {N: 2}, [])
