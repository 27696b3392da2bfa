"""Nests as text: readable, exact, and equal for nests that differ in names only."""

from __future__ import annotations

import doctest

import pytest

from tetractys.compiler.dims import Symbol, as_dim
from tetractys.compiler.loop import text, walk
from tetractys.compiler.loop.ir import (
    Accumulate, Buffer, Check, For, If, Let, Load, Local, Nest, Scalar, Store,
)
from tetractys.compiler.loop.scalar import apply, const, index
from tetractys.compiler.loop.text import nest_key, nest_signature, nest_text
from tetractys.compiler.loop.walk import buffers_read, buffers_written, postorder


def rows(names="xyij", dtype="float32", mark="parallel", scale=2.0, alias=False, share=True,
         first=None, lower=0):
    """Return a nest ``y[i, j] = scale * x[i, j]``, varied one aspect at a time."""
    n, m = as_dim(Symbol("n" + names, lower)), as_dim(Symbol("m" + names, lower))
    i, j = Symbol(names[2]), Symbol(names[3])
    x = Buffer(names[0], dtype, (first or n, m))
    y = Buffer(names[1], dtype, (n, m), base=x if alias else None)
    loaded = Load(x, (as_dim(i), as_dim(j)))
    other = loaded if share else Load(x, (as_dim(i), as_dim(j)))
    value = apply("mul", apply("add", loaded, other), const(scale, dtype))
    body = For(j, m, (Store(y, (as_dim(i), as_dim(j)), value),), "vector")
    return Nest(names, (For(i, n, (body,), mark),))


def test_golden_text():
    n = as_dim(Symbol("n"))
    i, at = Symbol("i"), Symbol("at", None)
    x, where = Buffer("x", "float32", (n, 3), "input"), Buffer("where", "int64", (n,), "input")
    out = Buffer("x", "float32", (n,), "output")
    total = Local("total", "float32")
    wanted = Load(where, (as_dim(i),))
    inside = apply("lt", wanted, index(n))
    element = Load(x, (as_dim(at), 2))
    square = apply("mul", apply("add", element, const(0.1, "float32")),
                   apply("sub", element, total))
    nest = Nest("mixed", (For(i, n, (
        Check(inside, 3, wanted),
        Let(at, apply("select", inside, wanted, index(0))),
        Let(total, const(float("-inf"), "float32")),
        If(inside, (Accumulate(total, "maximum", apply("add", square, square)),)),
        Store(out, (as_dim(i),), apply("cast", apply("cast", total, dtype="int8"),
                                       dtype="float32")),
    ), "parallel"),))
    assert nest_text(nest) == """\
nest mixed(where: input int64[n], x: input float32[n, 3], x_1: output float32[n])
  for i < n parallel:
    check lt(where[i], <n>) else 3, where[i]
    let at = select(lt(where[i], <n>), where[i], 0:int64)
    let total: float32 = -inf:float32
    if lt(where[i], <n>):
      %0 = mul(add(x[at, 2], 0.10000000149011612:float32), sub(x[at, 2], total))
      total maximum= add(%0, %0)
    x_1[i] = cast:float32(cast:int8(total))"""


def test_key_does_not_depend_on_names():
    assert nest_key(rows()) == nest_key(rows("abpq")) == nest_key(rows("iiii"))


def test_key_does_not_depend_on_the_first_dim():
    assert nest_key(rows()) == nest_key(rows(first=7))


@pytest.mark.parametrize("change", [
    {"dtype": "float64"}, {"mark": "serial"}, {"scale": 2.0000002384185791}, {"scale": -0.0},
    {"alias": True}, {"lower": None}])
def test_key_depends_on_what_the_code_depends_on(change):
    plain = rows(scale=0.0) if change == {"scale": -0.0} else rows()
    assert nest_key(plain) != nest_key(rows(**change))


def test_signature_lists_what_the_numbers_stand_for():
    nest = rows()
    signature = nest_signature(nest)
    assert [buffer.name for buffer in signature.buffers] == ["x", "y"]
    assert sorted(symbol.name for symbol in signature.symbols) == ["mxyij", "nxyij"]


def test_shared_expressions_are_printed_once():
    value = Load(Buffer("x", "float32", ()), ())
    for _ in range(200):
        value = Scalar("add", (value, value), "float32")
    printed = nest_text(Nest("deep", (Store(Buffer("y", "float32", ()), (), value),)))
    assert len(printed.splitlines()) == 201


def test_changing_values_are_not_named_across_statements():
    total = Local("total", "int32")
    out = Buffer("out", "int32", (2,))
    twice = Scalar("mul", (Scalar("add", (total, total), "int32"),) * 2, "int32")
    nest = Nest("n", (Let(total, const(1, "int32")), Store(out, (0,), twice),
                      Accumulate(total, "add", const(1, "int32")), Store(out, (1,), twice)))
    printed = nest_text(nest)
    assert printed.count("add(total, total)") == 2


def test_buffers_in_order_of_use():
    nest = rows()
    assert [buffer.name for buffer in buffers_read(nest)] == ["x"]
    assert [buffer.name for buffer in buffers_written(nest)] == ["y"]
    out = Buffer("out", "float32", ())
    accumulation = Nest("a", (Accumulate(Load(out, ()), "add", const(1, "float32")),))
    assert buffers_read(accumulation) == buffers_written(accumulation) == (out,)


def test_deep_expressions_need_no_recursion():
    value = Load(Buffer("x", "float32", ()), ())
    for _ in range(50_000):
        value = Scalar("neg", (value,), "float32")
    assert len(postorder(value)) == 50_001


@pytest.mark.parametrize("module", [text, walk])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
