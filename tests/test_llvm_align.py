"""Where vectors begin: where many reads gain from it, and the same results wherever arrays lie."""

from __future__ import annotations

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.target.llvm import module_texts
from tetractys.compiler.target.llvm_align import SHORT, SHORTEST
from tetractys.compiler.target.llvm_machine import Machine

WIDE, NARROW = Machine(vector_bytes=32, masked_sizes=frozenset({4, 8})), Machine(vector_bytes=SHORT)


def placed(array, beyond):
    """Return a copy of an array that begins ``beyond`` bytes after a multiple of 64."""
    memory = np.zeros(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + beyond
    copy = memory[start:start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("width", [SHORTEST, SHORTEST + 8, SHORTEST + 24])
def test_bits_do_not_depend_on_where_a_matrix_lies(dtype, width):
    x, v = T.matrix("x", dtype=dtype), T.vector("v", dtype=dtype)
    f = tx.function([x, v], [(x * v.dimshuffle(0, "x")).sum(axis=0), x.max(axis=0)])
    rng = np.random.default_rng(width)
    array, factors = ((9 * rng.normal(size=shape)).astype(dtype) for shape in ((11, width), 11))
    expected = f(placed(array, 0), factors)
    np.testing.assert_allclose(expected[0], factors @ array, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(expected[1], array.max(axis=0))
    for beyond in range(array.itemsize, 64, array.itemsize):
        for got, want in zip(f(placed(array, beyond), factors), expected, strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("shape, machine, is_even", [
    ((9, SHORTEST), WIDE, True),
    ((9, SHORTEST), NARROW, False),  # vectors that cross no line
    ((9, SHORTEST + 4), WIDE, False),  # rows that begin anywhere
    ((9, SHORTEST - 8), WIDE, False),
    ((3, SHORTEST), WIDE, False),  # too few rows at once
])
def test_vectors_begin_at_a_boundary_where_many_rows_are_read(shape, machine, is_even):
    x = T.fmatrix("x")
    f = tx.function([x], x.sum(axis=0))
    f(np.zeros(shape, "float32"))
    text = module_texts(f.variants[-1].stages.program, machine).kernels
    assert ("ptrtoint" in text) == is_even
