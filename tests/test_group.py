"""Independent kernels run together: which are, which must not be, and that no bit changes."""

from __future__ import annotations

import numpy as np
import pytest

import tetractys as tx
from tetractys import debug, updates
from tetractys import tensor as T
from tetractys.compiler import group
from tetractys.compiler.pipeline import Options, compile_signature
from tetractys.compiler.program import Contract, Copy, Group, Kernel

APART = Options(disabled=frozenset({"groups"}))
CHECKED = Options(verify=True)

SHAPES = ((96, 64), (64,), (33, 7), (), (5,), (128, 128), (0, 3), (1, 64), (1,), (70, 70))
"""Of parameters: multiples of a cache line and not, of one element, of none; together enough for
threads."""

OPTIMIZERS = [
    (updates.sgd, {"learning_rate": 0.1}), (updates.momentum, {"learning_rate": 0.1}),
    (updates.nesterov_momentum, {"learning_rate": 0.1}), (updates.adagrad, {}),
    (updates.rmsprop, {}), (updates.adadelta, {}), (updates.adam, {}), (updates.adamax, {}),
    (updates.amsgrad, {})]


def steps_of(f):
    """Return the steps of a function's last program."""
    return f.variants[-1].stages.program.steps


def groups(f):
    """Return the names of the kernels of each group of a function."""
    return [[kernel.nest.name for kernel in step.kernels] for step in steps_of(f)
            if isinstance(step, Group)]


def code_of(f):
    """Return the optimised code of a function's last variant."""
    options = Options(keep_text=True)
    artifact, _ = compile_signature(f.signature, f.variants[-1].fixed, options)
    return artifact.notes["llvm"]


def values(shapes, dtype="float32"):
    rng = np.random.default_rng(0)
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def training(optimizer, settings, mode=CHECKED, shapes=SHAPES, threads=None):
    """Return a step along gradients that are arguments, and what it changes."""
    parameters = [tx.shared(value, name=f"p{k}") for k, value in enumerate(values(shapes))]
    gradients = [T.tensor("float32", shape=(None,) * len(shape), name=f"g{k}")
                 for k, shape in enumerate(shapes)]
    changes = optimizer(gradients, parameters, **settings)
    step = tx.function(gradients, [], updates=changes, mode=mode, threads=threads)
    return step, list(changes)


@pytest.mark.parametrize("optimizer, settings", OPTIMIZERS)
@pytest.mark.parametrize("is_known", [True, False])
def test_the_updates_of_all_parameters_are_one_group(optimizer, settings, is_known):
    results, arguments = [], values(SHAPES)
    for mode in (CHECKED, APART):
        step, changed = training(optimizer, settings, mode)
        if not is_known:
            step.compile({})
        for _ in range(3):
            step(*arguments)
        results.append([variable.get_value() for variable in changed])
        grouped = groups(step)
    # The form that kernels share may round a multiplication and an addition once where the form
    # for one size rounds them twice.
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
    assert not grouped
    step, _ = training(optimizer, settings)
    if not is_known:
        step.compile({})
    step(*arguments)
    # Numbers are updated first, since others need them.
    assert max(map(len, groups(step))) >= len(SHAPES) - (is_known + 1)
    assert not any(isinstance(s, (Copy, Contract)) for s in steps_of(step))


def test_updates_that_differ_in_size_only_are_one_function():
    shapes = [(16 * (k + 1), 16) for k in range(10)]
    step, _ = training(updates.adam, {}, shapes=shapes)
    step(*values(shapes))
    assert len(groups(step)[-1]) == 10
    assert code_of(step).count("define void @kernel") == 2
    assert code_of(step).count("define internal void @kernel") <= 2  # their tasks


@pytest.mark.parametrize("optimizer, settings", [OPTIMIZERS[1], OPTIMIZERS[6]])
def test_threads_do_not_change_a_bit(optimizer, settings):
    results, before = [], tx.get_num_threads()
    try:
        tx.set_num_threads(3)
        for threads in (1, 2, 3):
            step, changed = training(optimizer, settings, threads=threads)
            for _ in range(20):
                step(*values(SHAPES))
            results.append([variable.get_value() for variable in changed])
    finally:
        tx.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_more_kernels_than_a_group_holds(monkeypatch):
    monkeypatch.setattr(group, "MOST_KERNELS", 3)
    shapes = [(40 + k,) for k in range(8)]
    step, changed = training(updates.sgd, {"learning_rate": 0.5}, shapes=shapes)
    arguments, start = values(shapes), [variable.get_value() for variable in changed]
    step(*arguments)
    assert [len(names) for names in groups(step)] == [3, 3, 2]
    for variable, old, gradient in zip(changed, start, arguments, strict=True):
        np.testing.assert_array_equal(variable.get_value(), old - np.float32(0.5) * gradient)


N = 9000
ORDERED = {
    "swap": lambda a, b: {a: b, b: a},
    "swap with work": lambda a, b: {a: b + 1.0, b: a * 2.0},
    "rotation": lambda a, b: {a: a - 0.5 * b, b: b + 0.25 * a},
    "chain": lambda a, b: {a: a * 3.0, b: b + a * 3.0},
    "old and new": lambda a, b: {a: a + 1.0, b: b * (a + 1.0) - a},
    "reversed": lambda a, b: {a: a[::-1] + 1.0, b: b + a},
    "one value twice": lambda a, b: {a: a + b, b: a + b},
}


@pytest.mark.parametrize("name", sorted(ORDERED))
@pytest.mark.parametrize("size", [0, 1, 5, N])
def test_updates_that_read_each_other(name, size):
    rng = np.random.default_rng(1)
    start = [rng.standard_normal(size) for _ in range(4)]
    results = []
    for mode in (CHECKED, APART):
        a, b, c, d = (tx.shared(value.copy(), name=letter)
                      for value, letter in zip(start, "abcd", strict=True))
        changes = ORDERED[name](a, b) | {c: c * 2.0, d: d + c}
        f = tx.function([], [], updates=changes, mode=mode)
        f()
        results.append([v.get_value() for v in (a, b, c, d)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    old = [tx.shared(value.copy()) for value in start[:2]]
    want = [tx.function([], value)() for value in ORDERED[name](*old).values()]
    for got, expected in zip(results[0], [*want, 2 * start[2], start[3] + start[2]], strict=True):
        # b + a * 3 rounds once or twice, as it is compiled.
        np.testing.assert_allclose(got, expected, rtol=1e-15, atol=1e-15)


def test_a_kernel_does_not_join_what_it_depends_on():
    a, b = tx.shared(np.ones(N), name="a"), tx.shared(np.ones(N), name="b")
    f = tx.function([], [], updates={a: a - 0.5 * b, b: b[::-1] * 0.5}, mode=CHECKED)
    f()
    assert groups(f) == []
    np.testing.assert_array_equal(a.get_value(), np.full(N, 0.5))


def test_small_neighbours_before_the_commit_are_grouped_and_large_ones_are_not():
    for size, is_small in ((1000, True), (1 << 18, False)):
        x, y = T.dvector("x"), T.dmatrix("y")
        f = tx.function([x, y], [T.exp(x), T.sin(y)], mode=CHECKED)
        arrays = np.linspace(-1, 1, size), np.linspace(-1, 1, size - size % 3).reshape(-1, 3)
        got = f(*arrays)
        np.testing.assert_allclose(got[0], np.exp(arrays[0]), rtol=1e-14)
        np.testing.assert_allclose(got[1], np.sin(arrays[1]), rtol=1e-13, atol=1e-15)
        assert bool(groups(f)) is is_small
        assert sum(isinstance(step, Kernel) for step in steps_of(f)) == (0 if is_small else 2)


def test_a_failed_check_in_a_group_leaves_parameters_alone():
    x, k = T.dvector("x"), T.lvector("k")
    w = tx.shared(np.zeros(3), name="w")
    f = tx.function([x, k], [T.exp(x), x[k]], updates={w: w + 1.0}, mode=CHECKED)
    assert f(np.ones(3), [0, 2, 1, 1, 0])[1].tolist() == [1.0] * 5
    assert groups(f)
    with pytest.raises(IndexError):
        f(np.ones(3), [0, 2, 1, 1, 3])
    assert w.get_value().tolist() == [1.0] * 3


def test_all_levels_agree_on_groups():
    x, y = T.dvector("x"), T.dmatrix("y")
    f = tx.function([x, y], [T.exp(x), T.sin(y), T.cos(y).sum(axis=1)], mode=CHECKED)
    arrays = np.linspace(-1, 1, 70), np.linspace(-1, 1, 33).reshape(11, 3)
    f(*arrays)
    assert groups(f)
    found = debug.bisect(f, *arrays)
    assert found.level is None, found


def test_a_memory_budget_is_kept():
    w = [tx.shared(np.ones((8, 8)), name=f"w{k}") for k in range(4)]
    f = tx.function([], [], updates={v: v * 2.0 for v in w}, memory_budget=1 << 16)
    f()
    assert groups(f) == [] and w[3].get_value()[0, 0] == 2.0
