"""What the tests of halves share: names, values, and comparisons."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from tetractys.compiler.graph import input_variable
from tetractys.runtime.artifact import numpy_dtype

NAMES = ["float16", pytest.param("bfloat16", marks=pytest.mark.skipif(
    find_spec("ml_dtypes") is None, reason="ml_dtypes (the extra bfloat16) is not installed"))]
half = pytest.mark.parametrize("name", NAMES)
"""Runs a test once for each kind of halves."""

DIGITS = {"float16": 11, "bfloat16": 8}
"""Binary digits of a number."""


def inputs_of(name, *ranks):
    """Return inputs x0, x1 ... of these numbers of axes."""
    return [input_variable(name, [None] * rank, f"x{k}") for k, rank in enumerate(ranks)]


def normal(name, *shape, seed=0):
    """Return random halves."""
    return np.random.default_rng(seed).standard_normal(shape).astype(numpy_dtype(name))


def rounded(array, name):
    """Return an array rounded to a half."""
    with np.errstate(all="ignore"):
        return np.asarray(array).astype(numpy_dtype(name))


def program_of(f, *arrays):
    """Return the program a function compiles to for some arguments."""
    f(*arrays)
    return f.variants[-1].stages.program


def assert_same_bits(got, want):
    """Assert equal dtypes, shapes and bits; any NaN equals any other."""
    got, want = np.asarray(got), np.asarray(want)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    kind = f"u{got.itemsize}"
    same = np.isnan(want) & np.isnan(got) if want.dtype.kind in "fV" else np.zeros(want.shape, bool)
    different = (got.view(kind) != want.view(kind)) & ~same
    assert not different.any(), (got[different][:5], want[different][:5])


def assert_close(got, want, digits=None):
    """Assert values that differ by a few roundings of the largest at most."""
    assert got.dtype == want.dtype and got.shape == want.shape
    unit = 2.0 ** -(digits or DIGITS.get(want.dtype.name, 20))
    got, want = got.astype("float64"), want.astype("float64")
    scale = np.abs(want[np.isfinite(want)]).max(initial=1e-3)
    np.testing.assert_allclose(got, want, rtol=0, atol=4 * unit * scale)


def singles():
    """Return float32 values around every rounding: each exponent, ties, denormals, the ends."""
    random = np.random.default_rng(1)
    fractions = np.concatenate([
        np.array([0, 1, 2, (1 << 23) - 1, *(b + d for b in (1 << 12, 1 << 13, 3 << 12, 1 << 15,
                                                          1 << 16, 3 << 15) for d in (-1, 0, 1))]),
        random.integers(0, 1 << 23, 100), random.integers(0, 1 << 10, 50) << 13 | 1 << 12,
        random.integers(0, 1 << 7, 50) << 16 | 1 << 15]).astype("uint32")
    exponents = np.arange(256, dtype="uint32") << 23
    positive = (exponents[:, None] | fractions).reshape(-1)
    return np.concatenate([positive, positive | np.uint32(1 << 31)]).view("float32")
