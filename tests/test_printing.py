"""Graphs as text."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest

from tetractys import tensor as T
from tetractys.function import function
from tetractys.gradient import grad, jacobian
from tetractys.printing import FOLD_LEVEL, debugprint, pp


def text_of(x, **options):
    return debugprint(x, file="str", **options)


def test_tree_of_a_small_graph():
    x = T.dvector("x")
    y = T.log(1 + T.exp(x))
    y.name = "y"
    assert text_of(y) == (
        "log [id A] 'y'\n"
        " |add [id B]\n"
        "   |1 [id C]\n"
        "   |exp [id D]\n"
        "     |x [id E]\n")


def test_shared_nodes_are_printed_once():
    x = T.dvector("x")
    y = T.exp(x)
    assert text_of(y * y) == (
        "mul [id A]\n"
        " |exp [id B]\n"
        " | |x [id C]\n"
        " |exp [id B] ...\n")


def test_several_roots_share_their_ids():
    x = T.dvector("x")
    y = T.exp(x)
    lines = text_of([y, y.sum()]).splitlines()
    assert lines[0] == "exp [id A]" and lines[-1] == " |exp [id A] ..."


def test_depth_types_and_files():
    x = T.fvector("x")
    y = T.log(T.exp(x))
    assert text_of(y, depth=1) == "log [id A]\n"
    assert text_of(y, depth=2) == "log [id A]\n |exp [id B]\n"
    assert "float32 (x.shape[0],)" in text_of(x, print_type=True)
    file = io.StringIO()
    assert debugprint(y, file=file) is file and file.getvalue() == text_of(y)


def test_standard_output_is_the_default(capsys):
    debugprint(T.dscalar("x"))
    assert capsys.readouterr().out == "x [id A]\n"


def test_a_function_prints_its_outputs():
    x = T.dvector("x")
    y = T.exp(x)
    assert text_of(function([x], y)) == text_of(y)


def test_one_line_for_each_output():
    x = T.dvector("x")
    assert pp(function([x], [x + 1, -x])) == "(x + 1)\n(-x)"


def test_bodies_of_loops_follow():
    x = T.dvector("x")
    text = text_of(jacobian(T.exp(x), x))
    head, body = text.split("\ninside map_loop")
    assert "map_loop" in head and ", for each i; given " in body and "eq [id" in body


def test_what_cannot_be_printed_is_said():
    with pytest.raises(TypeError, match="int"):
        debugprint(3, file="str")


@pytest.mark.parametrize("make, expected", [
    (lambda x, y: T.log(1 + T.exp(x)), "log((1 + exp(x)))"),
    (lambda x, y: x ** 2 - y / 0.5, "((x ** 2) - (y / 0.5))"),
    (lambda x, y: -x * (x > y), "((-x) * float64((x > y)))"),
    (lambda x, y: x.sum(), "sum(x)"),
    (lambda x, y: x[1:, None, 0], "x[1:, None, 0]"),
    (lambda x, y: x[::-1], "x[::-1]"),
    (lambda x, y: x.T, "x.T"),
    (lambda x, y: x.shape[0] + 1, "(x.shape[0] + 1)"),
    (lambda x, y: T.sum(x, axis=0), "sum(x, axes=(0,))"),
    (lambda x, y: x, "x"),
])
def test_one_line(make, expected):
    assert pp(make(T.dmatrix("x"), T.dmatrix("y"))) == expected


def test_an_exponentially_long_line_names_what_it_shares():
    y = T.dscalar("x")
    for _ in range(100):
        y = y * y
    text = pp(y)
    assert len(text) < 5000 and text.startswith("((_1 := ((_2 := ") and text.endswith(" * _1)")


def test_the_named_form_is_the_same_formula():
    x = T.dscalar("x")
    y = x
    for _ in range(40):
        y = T.sin(y) + y * 0.5 - T.cos(y)
    value = eval(pp(y), {"sin": np.sin, "cos": np.cos, "x": 0.3})
    expected = 0.3
    for _ in range(40):
        expected = np.sin(expected) + expected * 0.5 - np.cos(expected)
    np.testing.assert_allclose(value, expected)


def test_deep_trees_fold_to_short_lines():
    x = T.dscalar("x")
    y = x
    for _ in range(100):
        y = T.sin(y)
    lines = text_of(y).splitlines()
    assert sum("continued below" in line for line in lines) == 2
    assert max(map(len, lines)) < 2 * FOLD_LEVEL + 40
    assert sum("x [id" in line for line in lines) == 1


def test_a_chain_of_100000_nodes_prints():
    x = T.dscalar("x")
    y = x
    for _ in range(50_000):
        y = T.sin(y) * 0.5
    start = time.perf_counter()
    text = text_of(y)
    assert text.count("sin [id") >= 50_000 and len(pp(y)) > 400_000
    assert time.perf_counter() - start < 60
    assert text_of(grad(T.exp(x) * x, x)).count("\n") > 3
