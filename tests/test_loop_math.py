"""Scalar mathematics, compiled: accuracy against mpmath, special values, vectorisation, cost."""

from __future__ import annotations

import math
import re
from functools import cache

import mpmath as mp
import numpy as np
import pytest

from tetractys.compiler.dims import Symbol, as_dim
from tetractys.compiler.loop.exponential import exp_of_negative
from tetractys.compiler.loop.ir import Buffer, Const, Expr, For, Load, Local, Nest, Scalar, Store
from tetractys.compiler.loop.math import (
    ACCURACY, FUNCTIONS, ExprCache, Style, call, normal_from_uniform, philox4x32, uniform_from_bits,
)
from tetractys.compiler.loop.scalar import apply, const, evaluate
from tetractys.compiler.loop.value import Value
from tetractys.compiler.program import Kernel, Program
from tetractys.compiler.target.llvm import LlvmOptions, compile_program
from tetractys.runtime.call import Executable

FLOATS = ("float32", "float64")
NAMES = [name for name in FUNCTIONS if name != "ipow"]
BINARY = ("pow", "arctan2", "ipow")
SHORTENED = ("log", "log2", "log10", "sin", "cos", "tan")
each_float = pytest.mark.parametrize("dtype", FLOATS)
each_function = pytest.mark.parametrize("name", NAMES)


def compiled(build, *dtypes):
    """Return a function of 1-d arrays that evaluates expressions, and its optimised IR."""
    n, i = Symbol("n"), Symbol("i")
    inputs = tuple(Buffer(f"x{k}", dtype, (as_dim(n),), "input") for k, dtype in enumerate(dtypes))
    results = build(*(Load(buffer, (as_dim(i),)) for buffer in inputs))
    results = results if isinstance(results, tuple) else (results,)
    outputs = tuple(Buffer(f"y{k}", result.dtype, (as_dim(n),), "output")
                    for k, result in enumerate(results))
    stores = tuple(Store(buffer, (as_dim(i),), result)
                   for buffer, result in zip(outputs, results, strict=True))
    nest = Nest("elementwise", (For(i, as_dim(n), stores, "vector"),))
    program = Program("elementwise", inputs, (), outputs, (n,), (Kernel(nest, inputs, outputs),))
    artifact = compile_program(program, LlvmOptions(keep_text=True))
    return Executable(artifact, single=len(results) == 1).call, artifact.notes["llvm"]


@cache
def function(name, dtype):
    """Return a compiled function of ``FUNCTIONS`` and its IR."""
    return compiled(lambda *args: call(name, *args), *[dtype] * (2 if name in BINARY else 1))


@cache
def without_branches(name, dtype):
    """Return the same as :func:`function`, of the formulas that are right everywhere."""
    return compiled(FUNCTIONS[name], *[dtype] * (2 if name in BINARY else 1))


@cache
def shared_sigmoid(name, dtype):
    """Return the sigmoid of loops that also want other functions of its argument."""
    return compiled(lambda x: FUNCTIONS[name](x, cache=ExprCache(Style(shares=True))), dtype)


def nodes_of(*roots: Expr) -> set[int]:
    """Return the identities of all primitives that expressions consist of."""
    seen: set[int] = set()
    pending = list(roots)
    while pending:
        node = pending.pop()
        if isinstance(node, Scalar) and id(node) not in seen:
            seen.add(id(node))
            pending += node.args
    return seen


# --- accuracy ------------------------------------------------------------------------------------

EXACT = {
    "exp": mp.exp, "exp_nonpositive": mp.exp, "exp2": lambda x: mp.mpf(2) ** x,
    "expm1": mp.expm1, "log": mp.log,
    "log2": lambda x: mp.log(x) / mp.log(2), "log10": mp.log10, "log1p": mp.log1p,
    "sinh": mp.sinh, "cosh": mp.cosh, "tanh": mp.tanh, "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "softplus": lambda x: mp.log1p(mp.exp(x)), "sin": mp.sin, "cos": mp.cos, "tan": mp.tan,
    "arcsin": mp.asin, "arccos": mp.acos, "arctan": mp.atan, "arctan2": mp.atan2,
    "erf": mp.erf, "erfc": mp.erfc, "pow": mp.power,
}
DOMAIN = {
    "log": lambda x: x > 0, "log2": lambda x: x > 0, "log10": lambda x: x > 0,
    "log1p": lambda x: x > -1, "arcsin": lambda x: abs(x) <= 1, "arccos": lambda x: abs(x) <= 1,
    "erfc": lambda x: abs(x) < 100, "exp_nonpositive": lambda x: x <= 0,
}
# Where a reduction or the choice of a formula changes.
BREAKS = {
    "log": [2 ** (k + 0.5) for k in range(-4, 4)], "erf": [0.269, 0.65, 1.0, 3.95],
    "erfc": [0.5, 1.0],
    "log1p": [math.sqrt(0.5) - 1, math.sqrt(2) - 1, 1.0], "arcsin": [0.5], "arccos": [0.5],
    "arctan": [0.5, 1.0, 2.0], "exp2": [k + 0.5 for k in range(-3, 3)],
}
BREAKS["log2"] = BREAKS["log10"] = BREAKS["log"]
for _name in ("exp", "exp_nonpositive", "expm1", "sinh", "cosh", "sigmoid", "softplus"):
    BREAKS[_name] = [(k + 0.5) * math.log(2) for k in range(-6, 6)]
BREAKS["tanh"] = [x / 2 for x in BREAKS["exp"]]
BREAKS["softplus"] += [math.log(math.sqrt(2) - 1)]
for _name in ("sin", "cos", "tan"):
    BREAKS[_name] = [k * math.pi / 4 for k in range(1, 17)]
    BREAKS[_name] += [2.0 ** k for k in (45, 65, 85, 105, 107)]


def samples(name, dtype, count, rng):
    """Return numbers of all exponents, of the usual sizes, and around every break."""
    info = np.finfo(dtype)
    bits = rng.integers(0, 1 << info.bits, count, dtype=np.uint64).astype(f"uint{info.bits}")
    edge = 1.05 * math.log(float(info.max))
    parts = [bits.view(dtype), rng.uniform(-1, 1, count), rng.uniform(-10, 10, count),
             rng.uniform(-edge, edge, count), 1 + rng.normal(size=count) * 1e-4,
             rng.normal(size=count) * 10.0 ** rng.uniform(-3, 3, count)]
    if name == "erfc":
        parts.append(rng.uniform(0, 10.1 if dtype == "float32" else 27.3, count))
    if name == "softplus":  # Where the terms of log(1 + e**-x) cancel most.
        parts.append(rng.uniform(0, 0.02, 6 * count))
    if name in ("sin", "cos", "tan"):
        parts += [np.round(10.0 ** rng.uniform(0, 15, count)) * (math.pi / 2),
                  10.0 ** rng.uniform(0, math.log10(float(info.max)), count)]
    for point in BREAKS.get(name, ()):
        for sign in (1, -1):
            start = np.array(sign * point, dtype).view(f"int{info.bits}")
            parts.append((start + np.arange(-8, 9)).view(dtype))
    with np.errstate(over="ignore"):
        values = np.concatenate([np.asarray(part).astype(dtype) for part in parts])
    return values[np.isfinite(values) & (values != 0) & DOMAIN.get(name, np.isfinite)(values)]


def arguments(name, dtype, count, rng):
    """Return the arrays at which a function's accuracy is measured."""
    x = samples(name, dtype, count, rng)
    if name == "arctan2":
        return x, rng.permutation(x)
    if name != "pow":
        return (x,)
    x = np.abs(x)
    edge = math.log(float(np.finfo(dtype).max))
    with np.errstate(divide="ignore", over="ignore"):
        y = (rng.uniform(-1.1, 1.1, x.size) * edge / np.log(x.astype("float64"))).astype(dtype)
    y[::3] = np.round(y[::3])
    keep = np.isfinite(y) & (y != 0) & (np.abs(y) < 1e30)
    return x[keep], y[keep]


def exact(name, *args):
    """Return a function's value with many more digits than a float64 has."""
    with mp.workprec(200):
        values = [mp.mpf(float(arg)) for arg in args]
        size = abs(values[0])
        if name == "pow" or size == 0:
            return EXACT[name](*values)
        if name in ("sin", "cos", "tan"):
            extra = 2 * abs(int(mp.floor(mp.log(size, 2))))
        elif name in ("expm1", "log1p", "sinh", "tanh", "softplus"):
            extra = 2 * max(0, -int(mp.floor(mp.log(size, 2))))
        else:
            extra = 0
        with mp.workprec(200 + extra):
            if name == "softplus" and values[0] < -50:
                return mp.exp(values[0]) * (1 - mp.exp(values[0]) / 2)
            return EXACT[name](*values)


def ulps(dtype, got, wanted):
    """Return the error in units in the last place of the exact value; overflow counts as finite."""
    digits, lowest, top = {"float32": (24, -149, 128), "float64": (53, -1074, 1024)}[dtype]
    got = float(got)
    value = mp.mpf(got) if math.isfinite(got) else mp.sign(got) * mp.mpf(2) ** top
    if math.isnan(got) or wanted == 0:
        return 0.0 if got == wanted else math.inf
    exponent = min(int(mp.floor(mp.log(abs(wanted), 2))), top)
    if math.isinf(got) and abs(wanted) >= abs(value) and mp.sign(wanted) == mp.sign(got):
        return 0.0
    return float(abs(value - wanted) / mp.mpf(2) ** max(exponent - digits + 1, lowest))


def errors(name, dtype, count, seed=0, make=function):
    """Return the errors in ulp of a function at random arguments, and these."""
    args = arguments(name, dtype, count, np.random.default_rng(seed))
    results = make(name, dtype)[0](*args)
    return np.array([ulps(dtype, got, exact(name, *xs))
                     for got, *xs in zip(results, *args, strict=True)]), args


@each_float
@each_function
def test_error_is_within_the_stated_bound(name, dtype):
    found, args = errors(name, dtype, 150)
    worst = int(np.argmax(found))
    assert found[worst] <= ACCURACY[name][dtype], [float(arg[worst]) for arg in args]


@each_float
@pytest.mark.parametrize("name, make", [
    *((name, without_branches) for name in SHORTENED), ("sigmoid", shared_sigmoid)])
def test_error_of_the_other_formula_is_within_the_bound(name, make, dtype):
    found, args = errors(name, dtype, 40, make=make)
    worst = int(np.argmax(found))
    assert found[worst] <= ACCURACY[name][dtype], [float(arg[worst]) for arg in args]


@each_float
@each_function
def test_a_value_does_not_depend_on_its_neighbours(name, dtype):
    rng = np.random.default_rng(3)
    args = [np.concatenate([arg, special_values(dtype)[:8]])
            for arg in arguments(name, dtype, 60, rng)]
    f, order = function(name, dtype)[0], rng.permutation(args[0].size)
    first, second = f(*args), f(*(arg[order] for arg in args))
    bits = f"int{np.finfo(dtype).bits}"
    np.testing.assert_array_equal(first[order].view(bits), second.view(bits))
    for place in (0, -1):
        alone = f(*(arg[[place]] for arg in args))
        assert alone.view(bits) == first[[place]].view(bits)


@pytest.mark.parametrize("name", SHORTENED)
def test_ordinary_arguments_take_the_shortcut(name):
    ir = function(name, "float32")[1]
    calls = re.findall(rf"call [^@]*@{name}\.v\d+f32\.general", ir)
    assert len(calls) == 4 + 1  # of four vectors side by side, and of what is left
    blocks = re.split(r"^(?=[\w.]+:)", ir, flags=re.M)
    assert all("detour" in block.partition(":")[0] for block in blocks if calls[0] in block)


@each_function
def test_stated_bounds_are_at_most_two_ulp(name):
    assert set(ACCURACY) == set(NAMES)
    assert all(0.5 < ACCURACY[name][dtype] <= 2.0 for dtype in FLOATS)


def test_the_measure_of_errors_measures():
    one = mp.mpf(1)
    assert ulps("float64", 1.0, one) == 0
    assert ulps("float64", 1.0 + 2.0 ** -52, one) == 1
    assert ulps("float32", np.float32(5e-45), mp.mpf(2) ** -149) == 3
    assert ulps("float32", np.inf, mp.mpf(2) ** 128) == 0
    assert ulps("float32", np.inf, -mp.mpf(2) ** 128) > 1e7
    assert ulps("float64", math.nan, one) == math.inf
    assert ulps("float64", 1e-300, mp.mpf(0)) == math.inf


def nearest_to_multiples(exponent):
    """Return the float64 ``m * 2**exponent`` that lies nearest to a multiple of pi/2.

    ``m`` is the denominator of a convergent of the continued fraction of ``2**exponent / (pi/2)``.
    """
    with mp.workprec(1400):
        rest, before, after = mp.mpf(2) ** exponent / (mp.pi / 2), 1, 0
        while True:
            quotient = int(mp.floor(rest))
            before, after = after, quotient * after + before
            if after >= 1 << 53:
                return float(before) * 2.0 ** exponent
            rest = 1 / (rest - quotient)


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_arguments_nearest_to_multiples_of_half_pi(name):
    hard = [nearest_to_multiples(exponent) for exponent in range(-52, 971, 6)]
    hard += [6381956970095103.0 * 2.0 ** 797, float(np.finfo("float64").max)]
    for got, x in zip(function(name, "float64")[0](np.array(hard)), hard, strict=True):
        wanted = exact(name, x)
        near = min(abs(wanted), 1 / abs(wanted)) < mp.mpf(2) ** -49
        most = 10 if x > 2.0 ** 53 and near else ACCURACY[name]["float64"]
        assert ulps("float64", got, wanted) <= most, x


# --- special values ------------------------------------------------------------------------------

def special_values(dtype):
    """Return zeros, infinities, NaN, extremes, and numbers where results over- or underflow."""
    info = np.finfo(dtype)
    least = float(info.smallest_subnormal)
    positive = [0.0, math.inf, least, 3 * least, float(info.tiny), float(info.max), 0.5, 1.0, 2.0,
                3.0, 2.5, 1 - float(info.epsneg), 1 + float(info.eps), 1e5, 2.0 ** 24, 2.0 ** 53,
                1e30, 88.0, 88.72284, 88.8, 103.9, 104.0, 709.78, 709.79, 745.13, 745.2, 128.0,
                149.0, 150.0, 1024.0, 1074.0, 1075.0, 89.41, 89.5, 710.47, 710.6]
    values = np.array(positive, dtype)
    return np.concatenate([values, -values, np.array([math.nan], dtype)])


def reference(name, *args):
    """Return NumPy's or C's values, of wider arithmetic where neither has the function."""
    dtype = args[0].dtype
    with np.errstate(all="ignore"):
        if name in ("erf", "erfc"):
            return np.array([getattr(math, name)(float(x)) for x in args[0]]).astype(dtype)
        if name == "sigmoid":
            size = np.exp(-np.abs(args[0].astype(np.longdouble)))
            return (np.where(args[0] < 0, size, 1) / (1 + size)).astype(dtype)
        if name == "softplus":
            return np.logaddexp(dtype.type(0), args[0])
        if name == "exp_nonpositive":
            return np.exp(np.minimum(args[0], 0))
        return getattr(np, {"pow": "power"}.get(name, name))(*args)


@each_float
@each_function
def test_special_values_are_those_of_c(name, dtype):
    values = special_values(dtype)
    args = (values,)
    if name in BINARY:
        args = (np.repeat(values, values.size), np.tile(values, values.size))
    got, wanted = function(name, dtype)[0](*args), reference(name, *args)
    assert got.dtype == dtype
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    for same in (np.isinf, np.signbit, lambda a: a == 0):
        np.testing.assert_array_equal(same(got[~np.isnan(got)]), same(wanted[~np.isnan(got)]))
    info = np.finfo(dtype)
    np.testing.assert_allclose(got, wanted, rtol=4 * info.eps,
                               atol=2 * float(info.smallest_subnormal))


@each_float
def test_the_exponential_of_nonpositive_numbers_has_the_bits_of_the_other(dtype):
    x = -np.abs(samples("exp", dtype, 300, np.random.default_rng(5)))
    x = np.concatenate([x, np.array([0.0, -0.0, -math.inf], dtype)])
    bits = f"int{np.finfo(dtype).bits}"
    np.testing.assert_array_equal(function("exp_nonpositive", dtype)[0](x).view(bits),
                                  function("exp", dtype)[0](x).view(bits))


@each_float
@pytest.mark.parametrize(
    "name", ["expm1", "log1p", "sinh", "tanh", "sin", "tan", "arcsin", "arctan"])
def test_tiny_arguments_are_their_own_values(name, dtype):
    info = np.finfo(dtype)
    powers = np.arange(np.log2(float(info.smallest_subnormal)), -info.nmant - 3)
    x = np.concatenate([2.0 ** powers, -3 * 2.0 ** powers, [0.0, -0.0]]).astype(dtype)
    got = function(name, dtype)[0](x)
    np.testing.assert_array_equal(got.view(f"uint{info.bits}"), x.view(f"uint{info.bits}"))


@each_float
def test_exact_powers_and_logarithms(dtype):
    info = np.finfo(dtype)
    k = np.arange(info.minexp - info.nmant, info.maxexp).astype(dtype)
    powers = np.ldexp(np.ones(k.size, dtype), k.astype("int32"))
    np.testing.assert_array_equal(function("exp2", dtype)[0](k), powers)
    np.testing.assert_array_equal(function("log2", dtype)[0](powers), k)
    np.testing.assert_array_equal(function("pow", dtype)[0](np.full_like(k, 2), k), powers)
    small = np.arange(-60, 61).astype(dtype)
    squares = function("pow", dtype)[0](small, np.full_like(small, 3))
    np.testing.assert_array_equal(squares, small ** 3)


# --- cost ----------------------------------------------------------------------------------------

@each_float
@each_function
def test_loops_vectorise_without_calls(name, dtype):
    ir = function(name, dtype)[1]
    kind = {"float32": "float", "float64": "double"}[dtype]
    assert re.search(rf"load <\d+ x {kind}>", ir)
    assert re.search(r"@llvm\.fm\w+\.v\d+f\d+\(|= f(add|mul|div)[a-z ]* <\d+ x \w+>", ir)
    called = set(re.findall(r"\bcall\b[^@\n]*@([\w.]+)", ir))
    detour = re.compile(rf"{name}\.v\d+f\d+\.general")
    own = ("llvm.", "tx", "kernel")
    assert {callee for callee in called
            if not callee.startswith(own) and not detour.match(callee)} == set()


@pytest.mark.parametrize("name, dtype, most", [
    ("exp", "float32", 23), ("exp", "float64", 28), ("exp_nonpositive", "float32", 19),
    ("log", "float32", 30), ("tanh", "float32", 27),
    ("tanh", "float64", 42), ("sigmoid", "float32", 21), ("softplus", "float32", 32),
    ("erf", "float32", 34), ("sin", "float32", 56), ("sin", "float64", 165),
    ("pow", "float64", 155)])
def test_expressions_stay_small(name, dtype, most):
    args = [Local(f"x{k}", dtype) for k in range(2 if name in BINARY else 1)]
    assert len(nodes_of(FUNCTIONS[name](*args))) <= most


@each_float
def test_one_cache_shares_common_parts(dtype):
    x, shared = Local("x", dtype), ExprCache(Style(shares=True))
    apart = [nodes_of(FUNCTIONS[name](x, cache=ExprCache(Style(shares=True))))
             for name in ("sigmoid", "softplus")]
    together = nodes_of(*(FUNCTIONS[name](x, cache=shared) for name in ("sigmoid", "softplus")))
    exponential = len(nodes_of(exp_of_negative(Value(x, ExprCache())).expr))
    assert exponential >= 15
    assert len(together) == len(apart[0]) + len(apart[1]) - exponential
    assert FUNCTIONS["erf"](x, cache=shared) is FUNCTIONS["erf"](x, cache=shared)


@each_float
def test_separate_calls_of_one_argument_compute_one_exponential(dtype):
    def powers_of_two(*builders):
        ir = compiled(lambda x: tuple(build(x) for build in builders), dtype)[1]
        return len(re.findall(r"= shl [a-z ]*<\d+ x i\d+> .*splat \(i\d+ (?:23|52)\)", ir))

    def sigmoid(x):
        return call("sigmoid", x)

    def reflected(x):
        return call("sigmoid", apply("neg", x))

    def softplus(x):
        return call("softplus", x)

    def other(x):
        return call("sigmoid", apply("add", x, x))

    alone = powers_of_two(sigmoid)
    assert alone > 0
    assert powers_of_two(sigmoid, reflected, softplus) == alone
    assert powers_of_two(sigmoid, softplus, other) == 2 * alone


def test_a_cache_tells_zeros_and_dtypes_apart():
    shared = ExprCache()
    zero = shared.const(0.0, "float64")
    assert shared.const(0.0, "float64") is zero
    assert shared.const(-0.0, "float64") is not zero
    assert shared.const(0.0, "float32") is not zero
    assert shared.const(math.nan, "float64") is shared.const(math.nan, "float64")


@each_float
@each_function
def test_literals_fold(name, dtype):
    args = [const(0.75, dtype)] * (2 if name in BINARY else 1)
    result = FUNCTIONS[name](*args)
    assert isinstance(result, Const) and result.dtype == dtype
    wanted = reference(name, *[np.array([0.75], dtype)] * len(args))[0]
    assert result.value == pytest.approx(float(wanted), rel=float(16 * np.finfo(dtype).eps))


# --- integer powers ------------------------------------------------------------------------------

def wrapped_power(x, y, dtype):
    """Return ``x**y`` wrapped, and for negative ``y`` the reciprocal rounded towards zero."""
    if y < 0:
        return {1: 1, -1: -1 if y % 2 else 1}.get(x, 0)
    bits = 8 * np.dtype(dtype).itemsize
    value = pow(x, y, 1 << bits)
    return value - (1 << bits) if dtype[0] == "i" and value >> (bits - 1) else value


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64",
                                   "uint8", "uint16", "uint32", "uint64"])
def test_integer_powers_wrap(dtype):
    info = np.iinfo(dtype)
    bases = [x for x in (*range(-12, 13), 100, info.min, info.max) if info.min <= x <= info.max]
    exponents = [y for y in (*range(-3, 12), 31, 63, 64, 100, info.min, info.max)
                 if info.min <= y <= info.max]
    pairs = [(x, y) for x in bases for y in exponents]
    x, y = (np.array(column, dtype) for column in zip(*pairs, strict=True))
    wanted = np.array([wrapped_power(a, b, dtype) for a, b in pairs], dtype)
    np.testing.assert_array_equal(compiled(FUNCTIONS["ipow"], dtype, dtype)[0](x, y), wanted)


@pytest.mark.parametrize("exponent", [-2, -1, 0, 1, 2, 3, 10])
def test_literal_integer_exponents_cost_their_multiplications(exponent):
    def power(x):
        return FUNCTIONS["ipow"](x, const(exponent, "int32"))

    x = np.array([-3, -2, -1, 0, 1, 2, 7, 99], "int32")
    wanted = [wrapped_power(int(value), exponent, "int32") for value in x]
    np.testing.assert_array_equal(compiled(power, "int32")[0](x), np.array(wanted, "int32"))
    if exponent >= 0:
        assert len(nodes_of(power(Local("x", "int32")))) <= 2 * exponent.bit_length()


# --- random numbers ------------------------------------------------------------------------------

# From kat_vectors of the Random123 distribution: counter, key, result.
PHILOX = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def philox(*words):
    """Return Philox of six expressions: the counter, then the key."""
    return philox4x32(words[:4], words[4:])


def test_philox_gives_the_published_words():
    rows = [[int(word, 16) for word in f"{counter} {key}".split()] for counter, key, _ in PHILOX]
    run, ir = compiled(philox, *["uint32"] * 6)
    got = run(*np.array(rows, "uint32").T.copy())
    for row, (_, _, wanted) in zip(np.array(got).T, PHILOX, strict=True):
        assert " ".join(f"{word:08x}" for word in row) == wanted
    assert re.search(r"xor <\d+ x i32>", ir)
    folded = philox(*(const(word, "uint32") for word in rows[2]))
    assert " ".join(f"{word.value:08x}" for word in folded) == PHILOX[2][2]


def test_uniform_uses_the_leading_bits():
    words = np.array([0, 255, 256, 2 ** 31, 2 ** 32 - 1], "uint32")
    single = compiled(uniform_from_bits, "uint32")[0](words)
    np.testing.assert_array_equal(single, (words >> 8) / np.float32(2 ** 24))
    assert single.dtype == "float32" and single.max() < 1
    low = np.array([2 ** 32 - 1, 63, 64, 0, 2 ** 32 - 1], "uint32")
    double = compiled(uniform_from_bits, "uint32", "uint32")[0](words, low)
    wanted = [((int(a) >> 5) * 2 ** 26 + (int(b) >> 6)) / 2 ** 53 for a, b in zip(words, low)]
    np.testing.assert_array_equal(double, wanted)
    assert double.max() == 1 - 2.0 ** -53


@each_float
def test_normal_numbers_follow_the_formula(dtype):
    rng, eps = np.random.default_rng(3), float(np.finfo(dtype).epsneg)
    grid = np.array([0, eps, 0.25, 0.5, 0.75, 1 - eps, 0.125], dtype)
    u = np.concatenate([grid, rng.random(200).astype(dtype)])
    v = np.concatenate([grid[::-1], rng.random(200).astype(dtype)])
    u[u == 1], v[v == 1] = 0, 0
    for first, second, x, y in zip(*compiled(normal_from_uniform, dtype, dtype)[0](u, v), u, v,
                                   strict=True):
        with mp.workprec(120):
            radius = mp.sqrt(-2 * mp.log1p(-mp.mpf(float(x))))
            angle = 2 * mp.pi * mp.mpf(float(y))
            assert abs(float(first) - radius * mp.cos(angle)) <= 3 * eps * radius
            assert abs(float(second) - radius * mp.sin(angle)) <= 3 * eps * radius


def test_normal_numbers_are_normal():
    def normals(low):
        zero = const(0, "uint32")
        words = philox4x32((low, zero, zero, zero), (const(7, "uint32"), zero))
        return normal_from_uniform(uniform_from_bits(words[0]), uniform_from_bits(words[1]))

    first, second = compiled(normals, "uint32")[0](np.arange(200_000, dtype="uint32"))
    for z in (first, second):
        moments = [np.mean(z.astype("float64") ** k) for k in (1, 2, 3, 4)]
        np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.05)
        quantiles = np.quantile(z, [0.001, 0.1587, 0.8413, 0.999])
        np.testing.assert_allclose(quantiles, [-3.09, -1, 1, 3.09], atol=0.08)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01


# --- the reference interpreter -------------------------------------------------------------------

def interpreted(root: Expr, values: dict[int, np.ndarray]) -> np.ndarray:
    """Evaluate an expression by the meaning of its primitives, in NumPy."""
    known, pending = dict(values), [root]
    while pending:
        node = pending[-1]
        if isinstance(node, Const):
            known[id(node)] = np.asarray(node.value, node.dtype)
        missing = [arg for arg in getattr(node, "args", ()) if id(arg) not in known]
        if missing:
            pending += missing
            continue
        pending.pop()
        if id(node) not in known:
            args = [known[id(arg)] for arg in node.args]
            known[id(node)] = np.asarray(evaluate(node.name, args, node.dtype))
    return known[id(root)]


@each_float
@each_function
def test_primitives_mean_the_same_in_numpy(name, dtype):
    # NumPy rounds `fma` twice, so digits are lost; kinds of results are not.
    x = [Local(f"x{k}", dtype) for k in range(2 if name in BINARY else 1)]
    rng = np.random.default_rng(5)
    args = [rng.uniform(0.05, 0.95, 100).astype(dtype) for _ in x]
    got = interpreted(FUNCTIONS[name](*x), {id(a): b for a, b in zip(x, args, strict=True)})
    np.testing.assert_allclose(got, function(name, dtype)[0](*args), rtol=64 * np.finfo(dtype).eps)
