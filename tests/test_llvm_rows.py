"""Rows side by side: which loops are written so, values at every edge, and bits whatever the row's
place."""

from __future__ import annotations

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.loop.ir import For
from tetractys.compiler.loop.walk import statements
from tetractys.compiler.program import Kernel
from tetractys.compiler.target.llvm_rows import COPIES, ROWS, rows_together


def filled(*shape, dtype="float64"):
    """Return numbers whose sums round."""
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


def together(f):
    """Return, for the kernels of a function, how many of their loops take rows side by side."""
    return [len(rows_together(step.nest)) for step in f.variants[-1].stages.program.steps
            if isinstance(step, Kernel)]


@pytest.mark.parametrize("define, gains", [
    (lambda x, w: T.dot(x, w), True),
    (lambda x, w: abs(x - w).max(axis=1), True),
    (lambda x, w: ((x - x[:, 0].dimshuffle(0, "x")) * w).sum(axis=1), True),
    (lambda x, w: (x * x).sum(axis=1) * w[0], False),  # nothing that rows share
    (lambda x, w: T.exp(x - w).sum(axis=1), False),  # the function takes longer than the loads
    (lambda x, w: (x * w).sum(axis=0), False),
    (lambda x, w: T.nnet.softmax(x * w), False),  # a row is passed over several times
], ids=["product", "distance", "by row", "squares", "function", "columns", "passes"])
def test_rows_are_taken_together_where_a_vector_serves_all_of_them(define, gains):
    x, w = T.dmatrix("x"), T.dvector("w")
    f = tx.function([x, w], define(x, w))
    f(filled(9, 70), filled(70))
    assert any(together(f)) == gains


def test_the_statements_of_rows_are_one_pass():
    x, w = T.dmatrix("x"), T.dvector("w")
    f = tx.function([x, w], T.dot(x, w))
    f(filled(9, 70), filled(70))
    nest = next(step.nest for step in f.variants[-1].stages.program.steps)
    wide, = rows_together(nest).values()
    inner, = [stmt for stmt in statements(wide.body) if isinstance(stmt, For)]
    assert len(inner.body) >= ROWS and inner.extent == 70


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("is_known", [True, False])
def test_every_number_of_rows_and_columns(dtype, is_known):
    x, w = T.matrix("x", dtype=dtype), T.vector("w", dtype=dtype)
    total, largest = (x * w).sum(axis=1), (x - w).max(axis=1)
    f = tx.function([x, w], [total, largest])
    lanes = 8
    columns = (1, 29, 30, COPIES * lanes * 2, COPIES * lanes * 2 + 1, 5 * lanes - 1)
    for count, width in enumerate(columns):
        for rows in (0, 1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 3):
            if is_known:  # else the second call made the sizes symbols
                f = tx.function([x, w], [total, largest])
            a, b = (9 * filled(rows, width)).astype(dtype), (9 * filled(width)).astype(dtype)
            got, most = f(a, b)
            np.testing.assert_allclose(got, (a * b).sum(axis=1), rtol=1e-4, atol=1e-3)
            np.testing.assert_array_equal(most, (a - b).max(axis=1))


@pytest.mark.parametrize("width", [33, 64, 100])
def test_a_rows_bits_do_not_depend_on_its_place(width):
    x, w = T.fmatrix("x"), T.fvector("w")
    f = tx.function([x, w], T.dot(x, w))
    array, vector = filled(2 * ROWS + 3, width, dtype="float32"), filled(width, dtype="float32")
    expected = f(array, vector)
    for shift in range(1, len(array)):
        moved = f(np.roll(array, shift, axis=0), vector)
        np.testing.assert_array_equal(moved, np.roll(expected, shift))


def test_nan_stays_in_its_row():
    x, w = T.dmatrix("x"), T.dvector("w")
    f = tx.function([x, w], T.dot(x, w))
    array = filled(10, 40)
    array[[2, 9], 5] = np.nan
    array[5, 7] = np.inf
    result = f(array, np.ones(40))
    assert list(np.flatnonzero(~np.isfinite(result))) == [2, 5, 9]
