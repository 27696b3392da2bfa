"""The nest verifier accepts what the language allows and names what it forbids."""

from __future__ import annotations

import pytest

from tetractys.compiler.dims import Symbol, as_dim
from tetractys.compiler.loop.ir import (
    Accumulate, Buffer, Check, Const, For, If, Index, Let, Load, Local, Nest, Scalar, Store,
)
from tetractys.compiler.loop.scalar import const
from tetractys.compiler.loop.verify import verify_nest
from tetractys.runtime.artifact import InternalError

N, I, AT = Symbol("n"), Symbol("i"), Symbol("at")
n, i, at = map(as_dim, (N, I, AT))
X = Buffer("x", "float32", (n,), "input")
OUT, GRID = Buffer("out", "float32", (n,), "output"), Buffer("grid", "float32", (n, 3))
TOTAL = Local("total", "float32")
ONE = const(1, "float32")
XI = Load(X, (i,))


def over(*body, mark="parallel", symbol=I, extent=n):
    """Return a loop."""
    return For(symbol, extent, body, mark)


GOOD = [
    [over(Store(OUT, (i,), XI))],
    [Let(TOTAL, ONE), over(Accumulate(TOTAL, "add", XI), mark="vector"), Store(OUT, (0,), TOTAL)],
    [over(Let(TOTAL, ONE), Accumulate(TOTAL, "add", XI), Store(OUT, (i,), TOTAL))],
    [over(Let(AT, Index(i)), Store(OUT, (at,), ONE))],
    [over(If(Scalar("eq", (Index(i), const(0, "int64")), "bool"), (Store(OUT, (0,), XI),)))],
    [over(Store(OUT, (0,), XI), mark="vector")],
    [over(Store(OUT, (0,), XI), extent=1)],
    [over(Store(OUT, (i,), XI)), over(Store(OUT, (i,), XI))],
]


@pytest.mark.parametrize("body", GOOD)
def test_well_formed(body):
    verify_nest(Nest("good", tuple(body)), {N})


BAD = [
    ("float64 is stored in float32", [over(Store(OUT, (i,), const(1, "float64")))]),
    ("x is an input and cannot be written", [over(Store(X, (i,), ONE))]),
    ("2 indices for", [over(Store(OUT, (i, i), ONE))]),
    ("index 3 is outside axis of size 3", [over(Store(GRID, (i, 3), ONE))]),
    ("index -1 is outside", [Store(OUT, (-1,), ONE)]),
    ("symbol i is not bound", [Store(OUT, (i,), ONE)]),
    ("symbol m is not bound", [Store(OUT, (as_dim(Symbol("m")),), ONE)]),
    ("symbol at is not bound", [over(Store(OUT, (at,), ONE), Let(AT, Index(i)))]),
    ("i is bound twice", [over(over(Store(OUT, (i,), ONE)))]),
    ("local total is not bound", [Store(OUT, (0,), TOTAL)]),
    ("local total is not bound", [over(Let(TOTAL, ONE)), Store(OUT, (0,), TOTAL)]),
    ("unknown mark", [over(Store(OUT, (i,), ONE), mark="swift")]),
    ("the condition is not bool", [If(ONE, ())]),
    ("the reported value is not int64", [Check(const(True, "bool"), 1, ONE)]),
    ("failure codes start from 1", [Check(const(True, "bool"), 0, const(1, "int64"))]),
    ("float32 local is bound to int64", [Let(TOTAL, const(1, "int64"))]),
    ("a symbol is bound to a non-int64", [Let(AT, ONE)]),
    ("cannot accumulate with 'sub'", [Let(TOTAL, ONE), Accumulate(TOTAL, "sub", ONE)]),
    ("and does not combine float32", [Let(TOTAL, ONE), Accumulate(TOTAL, "and", ONE)]),
    ("share the local total", [Let(TOTAL, ONE), over(Accumulate(TOTAL, "add", XI))]),
    ("partial value", [Let(TOTAL, ONE), over(Accumulate(TOTAL, "add", XI),
                                             Store(OUT, (i,), TOTAL), mark="vector")]),
    ("all iterations of a parallel loop write one", [over(Store(OUT, (0,), XI))]),
    ("all iterations of a vector loop write one",
     [over(Accumulate(Load(OUT, (0,)), "add", XI), mark="vector")]),
    ("read an element that others write",
     [over(Store(OUT, (0,), XI), Store(OUT, (i,), Load(OUT, (0,))), mark="vector")]),
    ("unknown primitive 'expo'", [Store(OUT, (0,), Scalar("expo", (ONE,), "float32"))]),
    ("add takes 2 arguments", [Store(OUT, (0,), Scalar("add", (ONE,), "float32"))]),
    ("add of different dtypes", [Store(OUT, (0,), Scalar(
        "add", (ONE, const(1, "float64")), "float32"))]),
    ("does not take float32", [Store(OUT, (0,), Scalar("xor", (ONE, ONE), "float32"))]),
    ("lt of float32 gives bool", [Store(OUT, (0,), Scalar("lt", (ONE, ONE), "float32"))]),
    ("select's condition is not bool", [Store(OUT, (0,), Scalar(
        "select", (ONE, ONE, ONE), "float32"))]),
    ("unknown dtype", [Let(TOTAL, Scalar("cast", (Const(1, "complex64"),), "float32"))]),
    ("add does not take float16", [Store(OUT, (0,), Scalar("cast", (Scalar(
        "add", (const(1, "float16"),) * 2, "float16"),), "float32"))]),
    ("float16 is converted from and to float32 only", [Let(TOTAL, Scalar(
        "cast", (Scalar("cast", (const(1.0, "float64"),), "float16"),), "float32"))]),
]


@pytest.mark.parametrize("what, body", BAD)
def test_ill_formed(what, body):
    with pytest.raises(InternalError) as caught:
        verify_nest(Nest("bad", tuple(body)), {N})
    assert what in str(caught.value) and "nest bad" in str(caught.value)


def test_all_free_symbols_are_accepted_when_sizes_are_unknown():
    verify_nest(Nest("free", (Store(OUT, (as_dim(Symbol("m")),), ONE),)))
