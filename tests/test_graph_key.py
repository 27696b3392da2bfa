"""The content address of a whole graph: equal only where every pass would do the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tetractys as tx
from hypothesis import given, settings
from hypothesis import strategies as st
from tetractys import tensor as T
from tetractys.compiler import graph_key as graph_keys
from tetractys.compiler.config import config
from tetractys.compiler.dims import as_symbol
from tetractys.compiler.graph_key import graph_key
from tetractys.compiler.ops.op import REGISTRY
from tetractys.compiler.signature import Options, Signature
from tetractys.runtime import cache

TARGET = "a processor"


def key_of(inputs, outputs, *, shared=(), updates=(), name="f", sizes=None, options=Options(),
           target=TARGET):
    """Return the key of a function."""
    signature = Signature(name, tuple(inputs), tuple(shared), tuple(outputs), tuple(updates))
    key = graph_key(signature, sizes or {}, options, target)
    return key and key.text


def vectors(*names, dtype="float64", shape=(None,)):
    return [T.tensor(dtype, shape=shape, name=name) for name in names]


# -- hand-made differences -------------------------------------------------------------------------

def unary(define, **kind):
    """Return a maker of the key of a function of one vector."""
    def make():
        x, = vectors("x", **kind)
        return key_of([x], [define(x)])
    return make


def binary(define, names="xy", **asked):
    """Return a maker of the key of a function of two vectors."""
    def make():
        x, y = vectors(*names)
        results = define(x, y)
        return key_of([x, y], results if isinstance(results, list) else [results], **asked)
    return make


def fixed(size):
    def make():
        x, = vectors("x")
        return key_of([x], [2 * x], sizes={symbol: size for symbol in [
            next(iter(x.type.dims[0].terms[0][0]))[0]]})
    return make


def updated(*positions):
    def make():
        x, = vectors("x")
        a, b = (tx.shared(np.zeros(3), name=name) for name in "ab")
        return key_of([x], [x * 2], shared=[a, b], updates=[(k, a + b) for k in positions])
    return make


def mapped(define):
    def make():
        x, = vectors("x")
        return key_of([x], [tx.map(lambda row: define(row, x), x)[0]])
    return make


def sized(define):
    def make():
        n, m = T.lscalar("n"), T.lscalar("m")
        return key_of([n, m], [define(n, m)])
    return make


def same_line(x, y, count):
    """Build sums on one line, for keys that differ in nothing but their lines."""
    return [x + y for _ in range(count)]


MAKERS = {
    "double": unary(lambda x: 2 * x),
    "triple": unary(lambda x: 3 * x),
    "float32": unary(lambda x: 2 * x, dtype="float32"),
    "declared size": unary(lambda x: 2 * x, shape=(4,)),
    "another declared size": unary(lambda x: 2 * x, shape=(5,)),
    "size 1": unary(lambda x: 2 * x, shape=(1,)),
    "matrix": unary(lambda x: 2 * x, shape=(None, None)),
    "zero": unary(lambda x: x + T.constant(0.0)),
    "minus zero": unary(lambda x: x + T.constant(-0.0)),
    "nan": unary(lambda x: x + T.constant(float("nan"))),
    "constant": unary(lambda x: T.constant(0.0)),
    "integer constant": unary(lambda x: T.constant(np.int64(0))),
    "narrow constant": unary(lambda x: T.constant(np.float32(0))),
    "constant vector": unary(lambda x: x + T.constant(np.zeros(1))),
    "long constant": unary(lambda x: x + T.constant(np.arange(9000.0))),
    "long constant, one element changed": unary(
        lambda x: x + T.constant(np.where(np.arange(9000) == 8999, -1, np.arange(9000.0)))),
    "named": unary(lambda x: named(2 * x, "y")),
    "exp": unary(T.exp),
    "sum": unary(lambda x: x.sum()),
    "sum kept": unary(lambda x: x.sum(keepdims=True)),
    "slice": unary(lambda x: x[1:]),
    "another slice": unary(lambda x: x[2:]),
    "reversed": unary(lambda x: x[::-1]),
    "size": unary(lambda x: x.shape[0]),
    "difference": binary(lambda x, y: x - y),
    "reversed difference": binary(lambda x, y: y - x),
    "square of a difference": binary(lambda x, y: (x - y) * (x - y)),
    "shared difference": binary(lambda x, y: squared(x - y)),
    "one input twice": binary(lambda x, y: x - x),
    "two results": binary(lambda x, y: [x - y, x]),
    "two results exchanged": binary(lambda x, y: [x, x - y]),
    "other names": binary(lambda x, y: x - y, names="xz"),
    "no names": binary(lambda x, y: x - y, names=(None, None)),
    "another function name": binary(lambda x, y: x - y, name="g"),
    "another processor": binary(lambda x, y: x - y, target="another"),
    "fast compile": binary(lambda x, y: x - y, options=Options(optimize="fast_compile")),
    "fast math": binary(lambda x, y: x - y, options=Options(fast_math=True)),
    "no BLAS": binary(lambda x, y: x - y, options=Options(has_blas=False)),
    "no fusion": binary(lambda x, y: x - y, options=Options(disabled=frozenset({"fusion"}))),
    "no simplify": binary(lambda x, y: x - y, options=Options(disabled=frozenset({"simplify"}))),
    "fixed size": fixed(3),
    "another fixed size": fixed(4),
    "update of the first": updated(0),
    "update of the second": updated(1),
    "update of both": updated(0, 1),
    "map": mapped(lambda row, x: row * 2),
    "map of another body": mapped(lambda row, x: row * 3),
    "map that captures": mapped(lambda row, x: row * x),
    "map of what it captures": mapped(lambda row, x: x * row),
    "size from data": sized(lambda n, m: T.arange(n)),
    "size from other data": sized(lambda n, m: T.arange(m)),
    "size from a sum": sized(lambda n, m: T.arange(n + m)),
    "size from a product": sized(lambda n, m: T.zeros((n * m,))),
    "two sizes from data": sized(lambda n, m: T.zeros((n, m))),
    "two sizes exchanged": sized(lambda n, m: T.zeros((m, n))),
}


def named(variable, name):
    variable.name = name
    return variable


def squared(variable):
    return variable * variable


def test_keys_are_reproducible():
    """Building the same thing again gives the same key, though every object is new."""
    keys = {name: make() for name, make in MAKERS.items()}
    assert None not in keys.values()
    assert {name: make() for name, make in MAKERS.items()} == keys


def test_keys_differ_where_anything_does():
    keys = {name: make() for name, make in MAKERS.items()}
    twins = [(a, b) for a in keys for b in keys if a < b and keys[a] == keys[b]]
    assert twins == []


def placed(text, file="cell", line=1, **names):
    """Return what a text of Python computes, as if it stood in that file from that line on."""
    names = {"tx": tx, "T": T, "np": np, **names}
    exec(compile("\n" * (line - 1) + text, file, "exec"), names)
    return names["made"]


def test_lines_are_no_part_of_the_key():
    """Files of notebooks are called otherwise in every process; programs are edited."""
    text = 'x, y = T.dvectors("x", "y")\nz = x + y\nmade = key_of([x, y], [z * T.dot(x, y)])'
    keys = {placed(text, file, line, key_of=key_of)
            for file in ("cell", "/tmp/other cell 3.py") for line in (1, 40)}
    assert len(keys) == 1


def test_which_nodes_share_a_line_is_part_of_the_key():
    """Messages that differ in nothing but their lines are one where these are."""
    x, y = vectors("x", "y")
    first, second = same_line(x, y, 2)
    third = x + y
    assert key_of([x, y], [first, second]) != key_of([x, y], [first, third])


def test_names_that_look_like_lines_are_not_taken_for_them():
    text = 'x = T.dvector(name)\nmade = key_of([x], [x * 2])'
    plain, moved = (placed(text, key_of=key_of, name="x", line=line) for line in (1, 2))
    assert plain == moved
    first, second = (placed(text, key_of=key_of, name="cell:1", line=line) for line in (1, 2))
    assert first != second
    assert placed(text, key_of=key_of, name="a\0" + "7\0b") is None


def test_every_option_is_part_of_the_key():
    """Also one that does not exist yet: the key is made of the fields there are."""
    x, = vectors("x")
    changed = {"optimize": "fast_compile", "fast_math": True, "keep_text": True, "verify": True,
               "disabled": frozenset({"fusion", "in_place"}), "has_blas": False, "cpus": 3,
               "device": "cuda", "on_device": True, "float32_matmul_precision": "high",
               "gpu_blas": "large",
               "memory_budget": 1000,
               "size_hints": {as_symbol(x.type.dims[0]): 5}}
    assert set(changed) == set(Options.__dataclass_fields__)
    keys = [key_of([x], [x], options=replace(Options(), **{name: value}))
            for name, value in changed.items()]
    assert len({key_of([x], [x]), *keys}) == len(keys) + 1


def test_float_x_is_part_of_the_key(monkeypatch):
    x, = vectors("x")
    before = key_of([x], [x])
    monkeypatch.setattr(config, "floatX", "float32")
    assert key_of([x], [x]) != before


def test_sources_are_part_of_the_key(monkeypatch):
    x, = vectors("x")
    before = key_of([x], [x])
    monkeypatch.setattr(graph_keys, "sources_digest", lambda: "other sources")
    assert key_of([x], [x]) != before


def test_foreign_operations_have_no_key():
    """What an operation of the user's own means is not in our sources."""
    x, = vectors("x")
    own = replace(REGISTRY["exp"], doc="changed")
    assert key_of([x], [own(x)]) is None
    assert key_of([x], [REGISTRY["exp"](x)]) is not None


def test_long_chains_have_keys():
    x, = vectors("x")
    y = x
    for _ in range(20_000):
        y = y * x + x
    assert key_of([x], [y]) != key_of([x], [y.owner.inputs[0]])


# -- random graphs ---------------------------------------------------------------------------------

STEP = st.tuples(st.sampled_from(["add", "sub", "maximum", "exp", "sum", "take", "constant"]),
                 st.integers(0, 30), st.integers(0, 30))


def build(recipe):
    """Return a graph's inputs and output, and its formula."""
    x, y = vectors("x", "y")
    known = [(x, "x"), (y, "y")]
    for op, i, j in recipe:
        (a, left), (b, right) = known[i % len(known)], known[j % len(known)]
        made = {"add": lambda: (a + b, f"({left}+{right})"),
                "sub": lambda: (a - b, f"({left}-{right})"),
                "maximum": lambda: (T.maximum(a, b), f"max({left},{right})"),
                "exp": lambda: (T.exp(a), f"exp({left})"),
                "sum": lambda: (a.sum() * b, f"(sum({left})*{right})"),
                "take": lambda: (a[j:], f"{left}[{j}:]"),
                "constant": lambda: (a * (j / 8), f"({left}*{j / 8})")}[op]()
        known.append(made)
    return [x, y], *known[-1]


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=8), st.data())
def test_different_graphs_have_different_keys(recipe, data):
    """One step of a random graph is changed: the key changes with the formula, or not at all."""
    place = data.draw(st.integers(0, len(recipe) - 1))
    other = [*recipe[:place], data.draw(STEP), *recipe[place + 1:]]
    inputs, output, formula = build(recipe)
    again, same, _ = build(recipe)
    others, changed, another = build(other)
    key = key_of(inputs, [output])
    assert key == key_of(again, [same])
    if formula != another:
        assert key != key_of(others, [changed])


# -- what the key is for ---------------------------------------------------------------------------

@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TETRACTYS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fresh():
    """Return a function with guards, an update and a size that depends on data."""
    x, y, n = T.dvector("x"), T.dvector("y"), T.lscalar("n")
    total = tx.shared(np.zeros(()), name="total")
    return tx.function([x, y, n], [x + y, x[:n]], updates=[(total, total + (x * y).sum())]), total


def test_a_stored_function_runs_no_pass(folder):
    """It computes the same, raises the same, and still shows its levels when asked."""
    arguments = np.arange(4.0), np.ones(4), 2
    (first, total), (second, again) = fresh(), fresh()
    want, got = first(*arguments), second(*arguments)
    assert "bufferize" in first.seconds and "bufferize" not in second.seconds
    assert second.variants[0].stages.is_cached
    for a, b in zip(want, got, strict=True):
        np.testing.assert_array_equal(a, b)
    assert total.get_value() == again.get_value() == 6
    messages = []
    for function in (first, second):
        with pytest.raises(tx.ShapeError) as caught:
            function(np.ones(4), np.ones(3), 2)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert first.memory == second.memory
    assert second.variants[0].stages.program is not None


MOVED = """
x, y, n = T.dvector("x"), T.dvector("y"), T.lscalar("n")
w = tx.shared(np.zeros(3), name="w")
i = T.lvector("i")
z = x + y
picked = w[i]
first = x[:n]
rows, _ = tx.map(lambda k: y[k], i)
made = tx.function([x, y, n, i], [z, first, rows], updates={w: w + picked.sum()})
"""

WRONG = {
    "sizes": (np.ones(4), np.ones(3), 2, [0]), "index": (np.ones(4), np.ones(4), 2, [9]),
    "rank": (1.0, np.ones(4), 2, [0]),
    "index in a loop": (np.ones(2), np.ones(2), 2, [2]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_errors_of_a_stored_function_show_the_lines_of_the_graph_that_asked(
        folder, wrong, monkeypatch):
    messages = []
    for file, line, is_cached in (("first.py", 1, False), ("/a/second cell.py", 30, True),
                                  ("second", 7, True), ("/a/second cell.py", 30, False)):
        if len(messages) == 3:  # compiled, not stored: what the second message has to be
            monkeypatch.setenv("TETRACTYS_CACHE_DIR", "")
        function = placed(MOVED, file, line)
        function(np.ones(4), np.ones(4), 2, [0])
        assert function.variants[0].stages.is_cached == is_cached
        with pytest.raises((tx.TetractysError, ValueError)) as caught:
            function(*WRONG[wrong])
        messages.append(str(caught.value))
    assert messages[1] == messages[3]
    assert messages[0] != messages[1] != messages[2]
    assert "first.py" not in messages[1] and "cell" not in messages[2]


def test_damaged_entries_are_misses(folder, monkeypatch):
    fresh()[0](np.arange(4.0), np.ones(4), 2)
    for path in folder.glob("*.tx"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    function, _ = fresh()
    monkeypatch.setattr(cache, "_warned", [])
    with pytest.warns(RuntimeWarning, match="damaged"):
        sums, part = function(np.arange(4.0), np.ones(4), 2)
    np.testing.assert_array_equal(sums, np.arange(4.0) + 1)
    np.testing.assert_array_equal(part, [0, 1])
    assert not function.variants[0].stages.is_cached


def test_debug_mode_runs_every_pass(folder):
    """Verifying what is not run would verify nothing."""
    x = T.dvector("x")
    for _ in range(2):
        function = tx.function([x], x * 2, mode="DebugMode")
        function(np.ones(3))
        assert "bufferize" in function.seconds
