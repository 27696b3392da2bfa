"""The emitted text itself: run on the host by a C++ compiler, and compiled for GPUs by NVRTC.

Both need something that is not always there: the reason of a skip says what.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_fake import fake_gpu
from cuda_host import COMPILER, HostDriver
from cuda_kernels import Collection, network_kernels, networks, rule_examples, table
from test_ops_table import CASES, _variants, assert_close, tolerance

import tetractys as tx
from tetractys import tensor as T
from tetractys.runtime import cuda_nvrtc
from tetractys.runtime.errors import CompileError

EVERY = bool(os.environ.get("TETRACTYS_ALL_CASES"))
SHARE = CASES[::1 if EVERY else 150]
"""The cases whose text runs on the host, each of which a compiler has to read first."""

QUICK_WORKLOADS = "black_scholes_f32,log_softmax,layer_norm,logistic_regression,mlp_step"


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to run the emitted text with")
@pytest.mark.parametrize("case", SHARE, ids=str)
def test_the_text_computes_what_numpy_does(case, tmp_path):
    name, inputs, all_arrays = next(_variants(case))
    with fake_gpu(HostDriver(tmp_path)):
        output = case.apply(inputs)
        f = tx.function(inputs, output, on_unused_input="ignore", device="cuda")
        assert_close(f(*all_arrays[0]), case.expected(all_arrays[0]),
                     tolerance(case, output.dtype), name)


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to run the emitted text with")
def test_the_text_of_exchanges_computes_what_numpy_does(tmp_path):
    x, y = T.fmatrix("x"), T.fmatrix("y")
    random = np.random.default_rng(5)
    a, b = (random.standard_normal((70, 70)).astype(np.float32) for _ in range(2))
    outputs = [T.dot(x, y), T.nnet.softmax(x), x.sum(axis=0), x.sum(), x.T + y]
    shifted = np.exp(a - a.max(axis=1, keepdims=True))
    expected = [a @ b, shifted / shifted.sum(axis=1, keepdims=True), a.sum(axis=0), a.sum(),
                a.T + b]
    with fake_gpu(HostDriver(tmp_path)) as gpu:
        got = tx.function([x, y], outputs, device="cuda")(a, b)
        assert gpu.launched
    for actual, wanted in zip(got, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nvrtc_accepts_every_kernel(architecture, nvrtc):
    found = Collection()
    table(found, 1 if EVERY else 60)
    rule_examples(found, 1 if EVERY else 60)
    network_kernels(found, None if EVERY else QUICK_WORKLOADS)
    assert len(found) >= 100
    assert found.compile(architecture)


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to run the emitted text with")
def test_the_text_of_sorted_scatters_and_pieces_computes_what_numpy_does(tmp_path):
    x, rows, index = T.fmatrix("x"), T.fmatrix("rows"), T.lvector("index")
    random = np.random.default_rng(6)
    a, b = random.standard_normal((9, 40)), random.standard_normal((70, 40))
    long = random.standard_normal((2, 1 << 14)).astype(np.float32)
    a, b, picked = a.astype(np.float32), b.astype(np.float32), random.integers(0, 9, 70)
    expected = a.copy()
    np.add.at(expected, picked, b)
    with fake_gpu(HostDriver(tmp_path)):
        f = tx.function([x, index, rows], T.inc_subtensor(x[index], rows), device="cuda")
        np.testing.assert_allclose(f(a, picked, b), expected, rtol=1e-5, atol=1e-5)
        largest = tx.function([x], x.max(axis=1), device="cuda")
        np.testing.assert_array_equal(largest(long), long.max(axis=1))


def test_every_network_has_kernels():
    found = Collection()
    for name, f, sizes in networks():
        count = len(found)
        found.function(f, sizes)
        assert len(found) > count, name
    assert len(found) >= 20


def test_without_nvrtc_the_error_says_what_to_install(monkeypatch):
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    cuda_nvrtc._binding.cache_clear()
    with pytest.raises(CompileError, match=r"pip install \"tetractys\[cuda\]\""):
        cuda_nvrtc.version()
    cuda_nvrtc._binding.cache_clear()


def test_only_files_of_the_target_know_about_it():
    root = Path(__file__).parents[1]
    allowed = {"compiler/config.py", "compiler/signature.py", "compiler/target/__init__.py",
               "frontend/function.py", "runtime/devices.py", "runtime/doctor.py",
               "runtime/artifact.py"}
    found = {str(path.relative_to(root)) for folder in ("frontend", "compiler", "runtime")
             for path in (root / folder).rglob("*.py")
             if not path.name.startswith("cuda") and "cuda" in path.read_text().lower()}
    assert found <= allowed
