"""Functions on an emulated GPU: memory, transfers, updates, replay, errors, exchange of arrays."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from cuda_fake import fake_gpu

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.config import Config
from tetractys.compiler.program import Contract
from tetractys.compiler.signature import Options
from tetractys.runtime import cuda_driver, doctor
from tetractys.runtime.cuda_array import DeviceArray
from tetractys.runtime.errors import (
    CallError, CompileError, DeviceError, IndexOutOfRangeError, ShapeError)

X = T.fmatrix("x")
A = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def gpu():
    with fake_gpu() as fake:
        yield fake


def descent(device: str):
    """Return a training step and its shared variable."""
    w = tx.shared(np.ones((3, 2), np.float32), name="w")
    loss = T.tanh(T.dot(X, w)).sum()
    return tx.function([X], loss, updates={w: w - np.float32(0.1) * tx.grad(loss, w)},
                       device=device), w


def test_training_agrees_with_the_cpu(gpu):
    results = []
    for device in ("cpu", "cuda"):
        step, w = descent(device)
        results.append([[step(A * 0.1) for _ in range(4)], w.get_value()])
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-5)


def test_a_call_is_recorded_once_and_replayed(gpu):
    step, _ = descent("cuda")
    for _ in range(5):
        step(A)
    assert (gpu.recorded, gpu.replayed) == (1, 4), "the first call launches one by one"


def test_shared_variables_move_only_when_read_or_set(gpu):
    step, w = descent("cuda")
    step(A)
    before = dict(gpu.moved)
    step(A)
    assert gpu.moved["in"] - before["in"] == A.nbytes
    assert gpu.moved["out"] - before["out"] == 4
    assert isinstance(w.storage.cell[0], DeviceArray)
    value = w.get_value()
    assert isinstance(w.storage.cell[0], DeviceArray), "reading leaves it there"
    w.set_value(value)
    assert isinstance(w.storage.cell[0], np.ndarray)


def test_a_shared_variable_serves_cpu_and_gpu_in_turn(gpu):
    w = tx.shared(np.zeros(3, np.float32), name="w")
    on = {device: tx.function([], w * 2, updates={w: w + 1}, device=device)
          for device in ("cpu", "cuda", "cuda:1")}
    seen = [float(on[device]()[0]) for device in ("cuda", "cpu", "cuda:1", "cuda", "cpu")]
    assert seen == [0, 2, 4, 6, 8]


def test_other_sizes_make_other_recordings(gpu):
    f = tx.function([X], X.sum(axis=1), device="cuda")
    for rows in (4, 2, 4, 3, 2, 3):
        x = np.ones((rows, 3), np.float32)
        np.testing.assert_array_equal(f(x), x.sum(axis=1))
    assert gpu.recorded < 6


def test_an_update_may_change_the_shape(gpu):
    w = tx.shared(np.ones(2, np.float32), name="w")
    grow = tx.function([], w.sum(), updates={w: T.concatenate([w, w])}, device="cuda")
    assert [float(grow()) for _ in range(3)] == [2, 4, 8]
    assert w.get_value().shape == (16,)


def test_a_failed_check_changes_nothing(gpu):
    w, index = tx.shared(np.zeros(2, np.float32), name="w"), T.lvector("i")
    f = tx.function([X, index], X[index], updates={w: w + 1}, device="cuda")
    f(A, [0, 3])
    with pytest.raises(IndexOutOfRangeError, match="Index 7 is out of range"):
        f(A, [0, 7])
    assert w.get_value().tolist() == [1, 1]
    f(A, [1, 1])
    assert w.get_value().tolist() == [2, 2]


def test_bad_arguments_get_the_same_words_as_on_the_cpu(gpu):
    y = T.fmatrix("y")
    for values in ((A, A[:2]), (A,), (A, "no"), (A, A[0])):
        messages = []
        for device in ("cpu", "cuda"):
            f = tx.function([X, y], X + y, device=device)
            with pytest.raises((ShapeError, CallError)) as caught:
                f(*values)
            messages.append(str(caught.value).replace("cuda", "cpu"))
        assert messages[0] == messages[1]


def test_results_on_the_device_need_no_copy(gpu):
    f = tx.function([X], X + 1, device="cuda", on_device=True)
    out = f(A)
    assert isinstance(out, DeviceArray) and out.shape == (4, 3) and out.ndim == 2
    facts = out.__cuda_array_interface__
    assert facts["shape"] == (4, 3) and facts["typestr"] == "<f4" and facts["strides"] is None
    assert facts["data"] == (out.pointer, False)
    assert out.__dlpack_device__() == (2, 0)
    assert "dltensor" in repr(out.__dlpack__())
    np.testing.assert_array_equal(np.asarray(out), A + 1)
    with pytest.raises(ValueError, match="without a copy"):
        np.array(out, copy=False)
    assert f(A).pointer != out.pointer, "results are fresh"


def test_memory_is_given_back(gpu):
    f = tx.function([X], X + 1, device="cuda", on_device=True)
    out = f(A)
    taken = len(gpu.blocks)
    del out
    gpu.finish()
    assert len(gpu.blocks) == taken - 1
    f.variants[0].executable.release_memory()
    gpu.finish()
    assert len(gpu.blocks) == taken - 2
    np.testing.assert_array_equal(f(A).numpy(), A + 1)


def test_a_forked_process_is_told(gpu, monkeypatch):
    f = tx.function([X], X + 1, device="cuda")
    f(A)
    monkeypatch.setitem(cuda_driver._state, "process", os.getpid() + 1)
    with pytest.raises(DeviceError, match="forked"):
        f(A)


def test_loops_run_every_step(gpu):
    out = tx.map(lambda row: T.exp(row).sum(), X)
    values = (out[0] if isinstance(out, (list, tuple)) else out)
    f = tx.function([X], values, device="cuda")
    np.testing.assert_allclose(f(A * 0.1), np.exp(A * 0.1).sum(axis=1), rtol=1e-5)


def test_the_switch_is_a_setting():
    config = Config()
    config.device = "cuda:1"
    assert config.device == "cuda:1"
    with pytest.raises(CompileError, match="cannot be 'gpu'"):
        config.device = "gpu"
    code = "import tetractys as tx; print(tx.config.device)"
    for variables in ({"TETRACTYS_DEVICE": "cuda"}, {"TETRACTYS_FLAGS": "device=cuda"}):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                             check=True, env={**os.environ, **variables})
        assert run.stdout.strip() == "cuda"


def test_explain_shows_the_source(gpu, capsys):
    f = tx.function([X], T.tanh(X + 1), device="cuda")
    f(A)
    f.explain()
    printed = capsys.readouterr().out
    assert "4 code: CUDA C" in printed and "add_tanh_kernel(" in printed


def test_the_doctor_names_what_it_found(gpu):
    found = doctor.report()
    for word in ("Python", "numpy", "OpenBLAS", "cache folder", "NVRTC", "13.0, 2 GPUs",
                 "Emulated GPU, sm_90"):
        assert word in found


def test_the_doctor_says_what_to_install(monkeypatch):
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    cuda_driver.use_driver(None)
    from tetractys.runtime import cuda_nvrtc
    cuda_nvrtc._binding.cache_clear()
    assert '-> pip install "tetractys[cuda]"' in doctor.report()
    cuda_nvrtc._binding.cache_clear()


def test_epilogues_follow_their_products(gpu):
    w = tx.shared(np.linspace(-1, 1, 3 * 40).reshape(3, 40).astype(np.float32), name="w")
    f = tx.function([X], T.nnet.softmax(T.dot(X, w) * 2), device="cuda")
    rows = np.linspace(-2, 2, 50 * 3).reshape(50, 3).astype(np.float32)
    on_cpu = tx.function([X], T.nnet.softmax(T.dot(X, w) * 2), device="cpu")
    np.testing.assert_allclose(f(rows), on_cpu(rows), rtol=1e-5)
    product, = f.variants[0].stages.program.steps
    assert product.epilogue is not None


def classifier(device: str, **options):
    """Return a training step of two dense layers, and its parameters."""
    labels, fill = T.lvector("labels"), np.random.default_rng(0).normal
    sizes = {"w1": (3, 6), "b1": (6,), "w2": (6, 4), "b2": (4,)}
    w1, b1, w2, b2 = parameters = [
        tx.shared(fill(size=shape).astype(np.float32), name=name)
        for name, shape in sizes.items()]
    scores = T.nnet.softmax(T.dot(T.tanh(T.dot(X, w1) + b1), w2) + b2)
    loss = T.nnet.categorical_crossentropy(scores, labels).mean()
    steps = {p: p - np.float32(0.5) * tx.grad(loss, p) for p in parameters}
    return tx.function([X, labels], {"loss": loss, "scores": scores}, updates=steps,
                       device=device, **options), parameters


def batch(rows: int):
    """Return inputs and labels of the classifier."""
    x = np.linspace(-2, 2, rows * 3).reshape(rows, 3).astype(np.float32)
    return np.sin(5 * x), np.arange(rows) % 4


@pytest.mark.parametrize("disabled", [(), ("epilogues",)], ids=["attached", "apart"])
def test_dense_layers_train_as_on_the_cpu(gpu, disabled):
    on_cpu, expected = classifier("cpu")
    f, found = classifier("cuda", mode=Options(disabled=frozenset(disabled)))
    for rows in (35, 35, 70, 1):
        theirs, ours = on_cpu(*batch(rows)), f(*batch(rows))
        assert list(ours) == ["loss", "scores"]
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours.get_value(), theirs.get_value(), rtol=1e-4, atol=1e-6)
    attached = [step.epilogue is not None for variant in f.variants
                for step in variant.stages.program.steps if isinstance(step, Contract)]
    assert any(attached) is (not disabled)


def test_a_failed_check_holds_back_updates_that_follow_a_product(gpu):
    f, parameters = classifier("cuda")
    x, labels = batch(35)
    before = [parameter.get_value() for parameter in parameters]
    with pytest.raises(IndexOutOfRangeError):
        f(x, labels + 9)
    program = f.variants[0].stages.program
    assert any(isinstance(step, Contract) and step.epilogue is not None
               for step in program.steps[program.commit:])
    for parameter, value in zip(parameters, before):
        np.testing.assert_array_equal(parameter.get_value(), value)
    f(x, labels)
    assert all((parameter.get_value() != value).any()
               for parameter, value in zip(parameters, before))


def test_memory_and_phases_are_told(gpu):
    f, parameters = classifier("cuda", profile=True, threads=1)
    assert f.memory is None
    for _ in range(2):
        f(*batch(35))
    sizes = [parameter.get_value().nbytes for parameter in parameters]
    assert isinstance(parameters[0].storage.cell[0], DeviceArray)
    assert f.memory.shared == sum(sizes) and f.memory.arena >= 35 * 6 * 4
    assert f.memory.outputs == 4 + 35 * 4 * 4
    assert isinstance(parameters[0].storage.cell[0], DeviceArray), "asking leaves it there"
    assert f.profile.calls == 1 and "write code" in f.profile.phases()[0]


def test_asking_a_cpu_function_for_its_memory_leaves_values_on_the_gpu(gpu):
    w = tx.shared(np.zeros(3, np.float32), name="w")
    on_cpu, f = (tx.function([], w * 2, updates={w: w + 1}, device=device)
                 for device in ("cpu", "cuda"))
    on_cpu()
    f()
    assert on_cpu.memory.shared == 12
    assert isinstance(w.storage.cell[0], DeviceArray)
