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
from test_ops_table import CASES, _variants, assert_close, tolerance

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.loop.text import nest_signature
from tetractys.compiler.pipeline import Options, compile_signature
from tetractys.compiler.program import For, Program
from tetractys.compiler.target.cuda import scheduled
from tetractys.compiler.target.cuda_kernel import Module, emit_kernel
from tetractys.runtime import cuda_nvrtc
from tetractys.runtime.errors import CompileError

EVERY = bool(os.environ.get("TETRACTYS_ALL_CASES"))
SHARE = CASES[::1 if EVERY else 150]
"""The cases whose text runs on the host, each of which a compiler has to read first."""


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


class _Collection:
    """The distinct kernels of many programs, in one module."""

    def __init__(self) -> None:
        self.module, self.known = Module(), set()

    def add(self, program: Program) -> None:
        """Add a program's kernels."""
        pending = list(program.steps)
        while pending:
            step = pending.pop()
            if isinstance(step, For):
                pending += step.body
                continue
            for nest in scheduled(step):
                signature = nest_signature(nest)
                if signature.key not in self.known:
                    self.known.add(signature.key)
                    emit_kernel(self.module, nest, signature, (0, 1), False)

    def function(self, f: tx.Function, sizes: dict) -> None:
        """Add a function's kernels for some sizes."""
        _, stages = compile_signature(f.signature, sizes, Options(device="cuda"))
        self.add(stages.program)
        if stages.prologue is not None:
            self.add(stages.prologue.program)


def _table(step: int) -> _Collection:
    found = _Collection()
    for case in CASES[::step]:
        for _, inputs, all_arrays in _variants(case):
            f = tx.function(inputs, case.apply(inputs), on_unused_input="ignore")
            for sizes in ({}, f._sizes([np.asarray(a) for a in all_arrays[0]])):
                found.function(f, sizes)
    return found


def _training_step() -> tuple[tx.Function, dict]:
    """Return a step of a network with dropout, and sizes for it."""
    x, y = T.fmatrix("x"), T.lvector("y")
    layer = tx.layers.InputLayer((None, 784), x)
    layer = tx.layers.DropoutLayer(tx.layers.DenseLayer(layer, 256), p=0.5)
    layer = tx.layers.DenseLayer(layer, 10, nonlinearity=tx.nonlinearities.softmax)
    loss = tx.objectives.categorical_crossentropy(tx.layers.get_output(layer), y).mean()
    updates = tx.updates.adam(loss, tx.layers.get_all_params(layer, trainable=True))
    f = tx.function([x, y], loss, updates=updates, allow_input_downcast=True)
    return f, f._sizes([np.zeros((128, 784)), np.zeros(128, np.int64)])


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nvrtc_accepts_every_kernel(architecture):
    try:
        cuda_nvrtc.version()
    except CompileError as error:
        pytest.skip(f"no NVRTC: {str(error).splitlines()[1].strip()}")
    found = _table(1 if EVERY else 40)
    found.function(*_training_step())
    code, _ = cuda_nvrtc.build(found.module.text(), architecture)
    assert len(found.module.kernels) >= 60
    assert code[:4] == b"\x7fELF"


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
