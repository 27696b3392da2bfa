"""Memory of functions: what they report, and budgets under which values are recomputed."""

from __future__ import annotations

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.pipeline import Options
from tetractys.compiler.program import Contract, Kernel
from tetractys.compiler.program_interpret import run_program
from tetractys.compiler.program_verify import verify_program
from tetractys.runtime.memory import MemoryUse

WIDTH, ROWS = 8, 64
VALUE = WIDTH * ROWS * 8


def network(layers, middle=T.tanh, **options):
    """Return functions of a deep network: value and gradients, and a step of descent."""
    rng = np.random.default_rng(0)
    x = T.dmatrix("x")
    weights = [tx.shared(rng.normal(size=(WIDTH, WIDTH)) / 3, f"w{k}") for k in range(layers)]
    hidden = x
    for weight in weights:
        hidden = middle(T.dot(hidden, weight))
    loss = (hidden ** 2).mean()
    gradients = tx.grad(loss, weights)
    step = [(w, w - 0.1 * g) for w, g in zip(weights, gradients)]
    return (tx.function([x], [loss, *gradients], name="gradients", **options),
            tx.function([x], loss, updates=step, name="descend", **options), weights)


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(1).normal(size=(ROWS, WIDTH))


def test_memory_by_kind(rows):
    w = tx.shared(np.ones((WIDTH, WIDTH)), "w")
    x = T.dmatrix("x")
    f = tx.function([x], [T.nnet.softmax(T.dot(x, w)), x.sum()])
    assert f.memory is None
    f(rows)
    used = f.memory
    assert used.outputs == VALUE + 8 and used.shared == WIDTH * WIDTH * 8 and used.constants == 0
    assert 0 < used.arena == f.variants[0].stages.program.arena
    assert used.total == used.arena + used.outputs + used.shared
    f(rows[:10])
    assert len(f.variants) == 2 and f.memory.outputs == 10 * WIDTH * 8 + 8
    assert 0 < f.memory.arena <= used.arena
    assert f.variants[0].executable.memory == used


def test_memory_reads_well():
    assert repr(MemoryUse(5 << 30, 3 << 20, 2000, 10)) == \
        "MemoryUse(5.0 GB: arena 5.0 GB, outputs 3.0 MB, constants 2.0 KB, shared 10)"


@pytest.mark.parametrize("disabled", [(), ("epilogues",), ("fusion",)])
def test_a_budget_shrinks_the_peak_and_changes_no_bit(rows, disabled):
    mode = Options(disabled=frozenset(disabled))
    free, free_step, free_weights = network(16, mode=mode)
    expected, value = free(rows), free_step(rows)
    before = free.memory.arena
    assert before >= 16 * VALUE
    tight, step, weights = network(16, mode=mode, memory_budget=before * 2 // 3)
    for result, same in zip(tight(rows), expected):
        np.testing.assert_array_equal(result, same)
    assert tight.memory.arena <= before * 2 // 3
    assert step(rows) == value and step.memory.arena <= before * 2 // 3
    for weight, same in zip(weights, free_weights):
        np.testing.assert_array_equal(weight.get_value(), same.get_value())


def test_checkpoints_grow_with_the_root_of_the_depth(rows):
    least = {}
    for layers in (9, 36):
        impossible, _, _ = network(layers, memory_budget=1)
        with pytest.raises(tx.CompileError) as caught:
            impossible(rows)
        least[layers] = int(str(caught.value).split("memory_budget=")[1].split()[0])
        fits, _, _ = network(layers, memory_budget=least[layers])
        fits(rows)
        assert fits.memory.arena <= least[layers]
    assert least[36] < 3 * least[9] and least[36] < 18 * VALUE


def test_a_budget_that_cannot_be_met_says_what_can(rows):
    f, _, _ = network(6, memory_budget=100)
    with pytest.raises(tx.CompileError) as caught:
        f(rows)
    message = str(caught.value)
    assert "gradients cannot run within its memory budget" in message
    assert "asked: 100 bytes" in message and "least found" in message
    assert "remedy: give memory_budget=" in message


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "1 MB"])
def test_what_is_no_budget(wrong):
    x = T.dvector("x")
    with pytest.raises(tx.CompileError, match="memory_budget=") as caught:
        tx.function([x], x, memory_budget=wrong)
    assert "test_memory.py" in str(caught.value) and "remedy" in str(caught.value)


def test_a_budget_that_is_met_anyway_changes_nothing(rows):
    free, _, _ = network(4)
    free(rows)
    roomy, _, _ = network(4, memory_budget=10 ** 9)
    roomy(rows)
    assert len(roomy.variants[0].stages.program.steps) == \
        len(free.variants[0].stages.program.steps)


def test_budget_with_symbolic_sizes(rows):
    free, _, _ = network(16)
    free(rows[:20])
    budget = free.memory.arena * 3
    tight, _, _ = network(16, memory_budget=budget)
    for n in (20, ROWS, 30):  # with 64 rows, in the second variant, it takes 3.2 times as much
        for result, same in zip(tight(rows[:n]), free(rows[:n])):
            np.testing.assert_array_equal(result, same)
    assert len(tight.variants) == 2
    assert len(tight.variants[1].stages.program.steps) > \
        len(free.variants[1].stages.program.steps)


def test_cheap_values_are_recomputed_before_products(rows):
    x = T.dmatrix("x")
    weights = [tx.shared(np.eye(WIDTH) / 2, f"w{k}") for k in range(6)]
    # Each exponential needs the argument only, and the gradient of its product needs it again.
    hidden = x
    for k, w in enumerate(weights, 1):
        hidden = T.tanh(hidden * T.dot(T.exp(x * (k / 7)), w))
    loss = (hidden ** 2).sum()
    outputs = [loss, *tx.grad(loss, weights)]
    plain = Options(verify=True, disabled=frozenset({"epilogues"}))
    free = tx.function([x], outputs, mode=plain)
    expected = free(rows)
    tight = tx.function([x], outputs, mode=plain, memory_budget=free.memory.arena - VALUE)
    for result, same in zip(tight(rows), expected):
        np.testing.assert_array_equal(result, same)
    counts = [[sum(isinstance(step, kind) for step in f.variants[0].stages.program.steps)
               for kind in (Contract, Kernel)] for f in (free, tight)]
    assert counts[1][0] == counts[0][0] and counts[1][1] > counts[0][1]


def test_the_changed_program_is_well_formed_and_means_the_same(rows):
    mode = Options(verify=True, disabled=frozenset({"epilogues"}))
    free, _, _ = network(9, mode=mode)
    expected = free(rows[:5])
    tight, _, weights = network(9, mode=mode, memory_budget=free.memory.arena * 3 // 4)
    tight(rows[:5])
    changed, original = (f.variants[0].stages.program for f in (tight, free))
    products = [sum(isinstance(step, Contract) for step in program.steps)
                for program in (changed, original)]
    assert products[0] > products[1]
    verify_program(changed)
    results = run_program(changed, [rows[:5]], [w.get_value() for w in weights])
    for result, same in zip(results, expected):
        np.testing.assert_allclose(result, same, rtol=1e-10, atol=1e-14)
