"""The table of operations on an emulated GPU: every row, through the whole runtime, against NumPy.

By default one combination of dtypes of each sample runs; ``TETRACTYS_ALL_CASES=1`` runs all.
With a GPU, ``pytest -m cuda`` runs all of them on it.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from cuda_fake import fake_gpu
from test_ops_table import CASES, Case, _variants, assert_close, tolerance

import tetractys as tx


def _first_of_each(cases: list[Case]) -> list[Case]:
    found: dict[tuple[str, int], Case] = {}
    for case in cases:
        found.setdefault((case.row.name, case.number), case)
    return list(found.values())


CHOSEN = CASES if os.environ.get("TETRACTYS_ALL_CASES") else _first_of_each(CASES)


def check(case: Case) -> None:
    """Compare a case with NumPy, with sizes known and sizes symbolic."""
    for name, inputs, all_arrays in _variants(case):
        output = case.apply(inputs)
        f = tx.function(inputs, output, on_unused_input="ignore", device="cuda")
        for arrays in all_arrays[:1]:
            expected = case.expected(arrays)
            assert_close(f(*arrays), expected, tolerance(case, output.dtype), name)
        f.compile({})
        assert_close(f.variants[-1].executable.call(*arrays), expected,
                     tolerance(case, output.dtype), f"{name}, symbolic sizes")


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_values_are_numpys(case):
    with fake_gpu() as gpu:
        check(case)
        assert gpu.replayed >= gpu.recorded


@pytest.mark.cuda
def test_the_table_on_a_gpu(real_gpu):
    for case in CASES:
        check(case)


@pytest.mark.cuda
def test_a_training_step_on_a_gpu(real_gpu):
    x = tx.tensor.fmatrix("x")
    w = tx.shared(np.ones((40, 30), np.float32), name="w")
    loss = tx.tensor.nnet.softmax(tx.tensor.dot(x, w))[:, 0].sum()
    step = {w: w - np.float32(0.1) * tx.grad(loss, w)}
    values = np.random.default_rng(3).standard_normal((50, 40)).astype(np.float32)
    both = []
    for device in ("cuda", "cpu"):
        w.set_value(np.ones((40, 30), np.float32))
        f = tx.function([x], loss, updates=step, device=device)
        both.append(([f(values) for _ in range(5)], w.get_value()))
    np.testing.assert_allclose(both[0][0], both[1][0], rtol=1e-5)
    np.testing.assert_allclose(both[0][1], both[1][1], rtol=1e-4, atol=1e-6)
