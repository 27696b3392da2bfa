"""Walks over graphs, replacement, pickling and copying; the reference interpreter."""

from __future__ import annotations

import copy
import pickle
import sys
import time

import numpy as np
import pytest

from tetractys import tensor as T
from tetractys.compiler.graph import Constant, TensorType, graph_inputs, toposort
from tetractys.compiler.interpret import evaluate
from tetractys.compiler.ops.op import REGISTRY
from tetractys.graph import ancestors, clone, inputs
from tetractys.runtime.errors import (
    CallError, DtypeError, IndexOutOfRangeError, InternalError, ShapeError)
from tetractys.shared import shared


# -- walks -----------------------------------------------------------------------------------------

def test_nodes_come_after_what_they_read_and_once():
    x = T.dscalar("x")
    y = T.exp(x)
    z = (y + x) * (y - x) * y
    order = toposort([z, y])
    assert len(order) == len(set(order)) == 5
    position = {id(node): k for k, node in enumerate(order)}
    for node in order:
        for source in node.inputs:
            assert source.owner is None or position[id(source.owner)] < position[id(node)]


def test_walks_stop_where_told():
    x = T.dscalar("x")
    y = T.exp(x)
    z = T.sin(y) * 2.0
    assert [node.op.name for node in toposort([z], stop=[y])] == ["sin", "mul"]
    found = graph_inputs([z], stop=[y])
    assert y in found and x not in found


def test_a_graph_of_many_paths_is_walked_once():
    y = T.dscalar("x")
    for _ in range(200):
        y = y + y
    assert len(toposort([y])) == 200


def test_ancestors_and_inputs():
    x, w = T.dscalar("x"), shared(1.0, name="w")
    y = T.exp(x) * w
    assert set(inputs(y)) == {x, w}
    assert ancestors(y)[-1] is y and len(ancestors([y])) == 4


# -- clone -----------------------------------------------------------------------------------------

def test_clone_replaces_inputs_and_intermediates_and_leaves_the_original():
    x, y = T.dvector("x"), T.dvector("y")
    e = T.exp(x)
    z = e * x
    values = {x: np.array([1.0, 2.0]), y: np.array([3.0, 4.0])}
    (replaced,) = evaluate([clone(z, {x: y})], values)
    np.testing.assert_allclose(replaced, np.exp(values[y]) * values[y])
    (replaced,) = evaluate([clone(z, [(e, y)])], values)
    np.testing.assert_allclose(replaced, values[y] * values[x])
    (original,) = evaluate([z], values)
    np.testing.assert_allclose(original, np.exp(values[x]) * values[x])


def test_clone_replaces_all_at_once():
    x, y = T.dscalars("x", "y")
    (swapped,) = evaluate([clone(x - y, {x: y, y: x})], {x: np.array(1.0), y: np.array(5.0)})
    assert swapped == 4.0


def test_clone_keeps_structure_names_and_tags():
    x, y = T.dscalars("x", "y")
    z = T.exp(x)
    z.name, z.tag.note = "z", "mine"
    assert isinstance(clone([z], {x: y}), list) and isinstance(clone((z,), {x: y}), tuple)
    copied = clone({"out": z}, {x: y})["out"]
    assert copied is not z and copied.name == "z" and copied.tag.note == "mine"
    assert clone(z) is z


def test_clone_infers_types_again():
    x, z = T.dmatrix("x"), T.tensor("float64", shape=(2, 3))
    assert clone(T.dot(x.T, x), {x: z}).type.shape == (3, 3)
    with pytest.raises(ShapeError):
        clone(x + T.zeros((4, 3)), {x: z})


def test_clone_can_renew_the_inputs():
    x, w = T.dvector("x"), shared(np.ones(2), name="w")
    y = clone((x * w).sum(), share_inputs=False)
    new = [v for v in inputs(y) if v.name == "x"]
    assert len(new) == 1 and new[0] is not x and w in inputs(y)


def test_clone_checks_replacements():
    x, i = T.dvector("x"), T.ivector("i")
    with pytest.raises(DtypeError, match="strict"):
        clone(x * 2, {x: i})
    assert clone(x * 2, {x: i}, strict=False).dtype == "float64"
    with pytest.raises(ShapeError, match="axes"):
        clone(x * 2, {x: T.dmatrix()})


# -- pickling --------------------------------------------------------------------------------------

@pytest.mark.parametrize("duplicate", [lambda v: pickle.loads(pickle.dumps(v)), copy.deepcopy])
def test_copies_keep_meaning_names_and_sharing(duplicate):
    x, w = T.dmatrix("x"), shared(np.arange(3.0), name="w")
    h = T.tanh(x * w)
    h.name, h.tag.note = "h", 5
    outputs = [h.sum(), h[1:, 0], (h > 0).any(axis=0)]
    new_x, new_h, *new_outputs = duplicate([x, h, *outputs])
    assert new_h.name == "h" and new_h.tag.note == 5 and new_x is not x
    assert any(source is new_h for node in toposort(new_outputs[:1]) for source in node.inputs)
    (new_w,) = [v for v in inputs(new_outputs) if v.name == "w"]
    np.testing.assert_array_equal(new_w.get_value(), w.get_value())
    array = np.random.default_rng(0).normal(size=(2, 3))
    for one, other in zip(evaluate(outputs, {x: array}), evaluate(new_outputs, {new_x: array})):
        np.testing.assert_array_equal(one, other)


def test_a_chain_of_100000_nodes_is_cloned_pickled_and_copied_without_recursion():
    x, limit = T.dscalar("x"), sys.getrecursionlimit()
    start = time.perf_counter()
    y = x
    for _ in range(50_000):
        y = T.sin(y) + x
    assert len(toposort([y])) == 100_000
    other = T.dscalar("other")
    assert graph_inputs([clone(y, {x: other})]) == [other]
    for new_x, new_y in (pickle.loads(pickle.dumps((x, y))), copy.deepcopy((x, y))):
        assert len(toposort([new_y])) == 100_000 and graph_inputs([new_y]) == [new_x]
        assert new_y.owner.op is y.owner.op and new_x is not x
    value = 0.5
    for _ in range(50_000):
        value = np.sin(value) + 0.5
    np.testing.assert_allclose(evaluate([new_y], {new_x: np.array(0.5)})[0], value)
    assert sys.getrecursionlimit() == limit and time.perf_counter() - start < 100


def test_a_deep_graph_in_a_tag_is_pickled_without_recursion():
    x = T.dscalar("x")
    y = x
    for _ in range(5_000):
        y = T.sin(y)
    z = T.exp(x)
    z.tag.other = y
    new = pickle.loads(pickle.dumps(z))
    assert len(toposort([new.tag.other])) == 5_000


# -- the reference interpreter ---------------------------------------------------------------------

def test_intermediate_values_may_be_given():
    x = T.dscalar("x")
    y = T.exp(x)
    (z,) = evaluate([y * 2], {y: np.array(3.0)})
    assert z == 6.0


def test_shared_variables_have_their_stored_value():
    w = shared(np.array([1.0, 2.0]), name="w")
    assert evaluate([w.sum()], {})[0] == 3.0
    assert evaluate([w.sum()], {w: np.array([5.0, 5.0])})[0] == 10.0


def test_sizes_from_data_are_computed_on_demand():
    n, x = T.lscalar("n"), T.dvector("x")
    (y,) = evaluate([T.arange(n) * 2], {n: np.int64(3)})
    np.testing.assert_array_equal(y, [0, 2, 4])
    (y,) = evaluate([x[:n + 1].sum()], {n: np.int64(1), x: np.arange(5.0)})
    assert y == 1.0


def test_a_size_guard_names_both_variables_and_their_lines():
    x, y = T.dvector("x"), T.dvector("y")
    z = x + y
    with pytest.raises(ShapeError) as error:
        evaluate([z], {x: np.ones(3), y: np.ones(4)})
    message = str(error.value)
    assert message.count("test_graph.py") == 3
    assert "x of shape (3,) has 3" in message and "y of shape (4,) has 4" in message


def test_a_length_of_one_does_not_broadcast_unless_declared():
    x, y = T.dvector("x"), T.dvector("y")
    with pytest.raises(ShapeError, match="length 1"):
        evaluate([x * y], {x: np.ones(3), y: np.ones(1)})


@pytest.mark.parametrize("value, message", [
    (np.ones(3, "float32"), "float32"), (np.ones((2, 2)), r"\(2, 2\)")])
def test_values_must_have_the_variables_type(value, message):
    with pytest.raises(CallError, match=message):
        evaluate([T.dvector("x")], {v: value for v in [T.dvector("x")]})


def test_a_missing_input_is_named():
    with pytest.raises(CallError, match="needed has no value"):
        evaluate([T.exp(T.dscalar("needed"))], {})


def test_a_fixed_size_is_checked():
    x = T.tensor("float64", shape=(3,), name="x")
    with pytest.raises(ShapeError, match="x has the wrong length"):
        evaluate([x], {x: np.ones(4)})


def test_an_index_out_of_range_is_an_index_error():
    x, i = T.dvector("x"), T.lscalar("i")
    with pytest.raises(IndexOutOfRangeError):
        evaluate([x[i]], {x: np.ones(3), i: np.int64(3)})


def test_a_wrong_type_rule_is_found_and_named(monkeypatch):
    x = T.dvector("x")
    y = T.exp(x)
    y.type = TensorType("float64", (7,))
    with pytest.raises(InternalError, match="exp: the reference returns"):
        evaluate([y], {x: np.ones(3)})


def test_evaluation_frees_what_is_no_longer_needed():
    import tracemalloc
    x = T.dvector("x")
    y = x
    for _ in range(50):
        y = T.sqrt(T.sqr(y))
    array = np.ones(100_000)
    tracemalloc.start()
    evaluate([y], {x: array})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * array.nbytes


def test_every_row_finds_itself_when_pickled():
    for row in REGISTRY.values():
        assert pickle.loads(pickle.dumps(row)) is row


def test_constants_are_read_only_and_kept_by_value():
    source = np.array([1.0, 2.0])
    constant = Constant(source)
    source[0] = 9.0
    assert constant.data[0] == 1.0 and not constant.data.flags.writeable
