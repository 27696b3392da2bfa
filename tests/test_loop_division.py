"""Division by a literal: the same quotients as the processor's division."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from test_loop_math import compiled

from tetractys.compiler.loop.division import _critical, reciprocal
from tetractys.compiler.loop.scalar import apply, const
from tetractys.compiler.target.llvm import vector_unit

FLOATS = ("float32", "float64")
DIVISORS = (3.0, 100.0, -7.0, 0.1, 255.0, math.pi, 1e-5, 6e7)
needs_fma = pytest.mark.skipif(not vector_unit("", "", "").has_fma,
                               reason="the processor has no fused multiply-add")


def division(divisor, dtype):
    """Return the compiled ``x / divisor`` and its IR."""
    return compiled(lambda x: apply("div", x, const(divisor, dtype)), dtype)


@needs_fma
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("divisor", DIVISORS)
def test_the_quotient_is_that_of_a_division(divisor, dtype):
    info, rng = np.finfo(dtype), np.random.default_rng(0)
    edge = float(np.sqrt(info.max))
    hard = [sign * x for x in _critical(int(math.ldexp(math.frexp(abs(
        float(np.dtype(dtype).type(divisor))))[0], info.nmant + 1)), info.nmant + 1)
        for sign in (1, -1)]
    x = np.concatenate([rng.uniform(-200, 200, 100_000), np.arange(3000), hard,
                        edge ** rng.uniform(-1.4, 1.9, 1000),
                        [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, -info.max]]).astype(dtype)
    divide, ir = division(divisor, dtype)
    assert "fdiv" not in ir
    with np.errstate(over="ignore"):
        wanted = x / np.dtype(dtype).type(divisor)
    bits = f"int{info.bits}"
    number = ~np.isnan(x)
    got = divide(x)
    np.testing.assert_array_equal(got[number].view(bits), wanted[number].view(bits))
    assert np.isnan(got[~number]).all()


@needs_fma
@pytest.mark.parametrize("dtype", FLOATS)
def test_tiny_quotients_are_good_to_a_unit_in_the_last_place(dtype):
    info = np.finfo(dtype)
    x = (np.geomspace(float(info.smallest_subnormal) * 50, 1e-30, 20_000)).astype(dtype)
    got, wanted = division(3.0, dtype)[0](x), x / np.dtype(dtype).type(3.0)
    assert np.all(np.abs(got - wanted) <= np.spacing(wanted))


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_parts_make_the_reciprocal(dtype):
    digits = np.finfo(dtype).nmant + 1
    for divisor in DIVISORS:
        divisor = float(np.dtype(dtype).type(divisor))
        high, low = reciprocal(divisor, dtype)
        exact = 1 / Fraction(divisor)
        assert high * low > 0.0
        assert abs(Fraction(high) + Fraction(low) - exact) <= abs(exact) / 4 ** (digits - 1)


@pytest.mark.parametrize("divisor", [0.0, 1.0, -0.25, 1024.0, math.inf, math.nan, 1e-38, 1e38])
def test_other_divisors_are_left_alone(divisor):
    assert reciprocal(divisor, "float32") is None


def test_a_divisor_with_a_quotient_that_would_be_wrong_is_left_alone():
    divisor = np.float32(3.574042797088623)
    assert reciprocal(float(divisor), "float32") is None
    x = np.linspace(1, 9, 10_000, dtype="float32")
    np.testing.assert_array_equal(division(float(divisor), "float32")[0](x), x / divisor)
