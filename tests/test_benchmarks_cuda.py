"""The benchmarks' GPU rows, as far as they can be tried without a GPU."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from cuda_fake import fake_gpu

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.pipeline import Options, compile_signature
from tetractys.compiler.target.cuda import scheduled
from tetractys.runtime import cuda_driver, cuda_nvrtc


@pytest.fixture
def load(load_benchmark, monkeypatch):
    """Import a module of the benchmarks anew, for a GPU."""
    monkeypatch.setenv("BENCHMARK_DEVICE", "cuda")
    return load_benchmark


@pytest.mark.parametrize("name", ["call_2x1", "logistic_regression", "matmul_16x16x16"])
def test_our_side_computes_on_the_device(load, name):
    worker = load("worker")
    with fake_gpu() as gpu:
        subject = worker.Subject(load("sides").OURS)
        _, outputs = subject.setup(name, True)
        before = dict(gpu.moved)
        assert gpu.launched and len(subject.time(0.0, 1)) == 1
        if name != "call_2x1":
            assert gpu.moved == before, "arguments and results stay on the device"
        expected = load("workloads").WORKLOADS[name].expected()
        assert load("report").relative_error(outputs, expected) < 1e-5


def test_without_a_gpu_the_rows_are_listed_and_nothing_fails(load, capsys, monkeypatch):
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    cuda_driver.use_driver(None)
    load("run").main(["--device", "cuda", "--workloads", "mlp,layer_norm"])
    printed = capsys.readouterr().out
    assert "mlp_large" in printed and "layer_norm_large" in printed and "cupy" in printed
    assert "Nothing measured: CUDA functions need NVIDIA's Python packages." in printed


def test_large_sizes_are_of_the_gpu_only(load):
    workloads = load("workloads")
    names = {workload.name for workload in workloads.select(None, "cuda")}
    assert names - {workload.name for workload in workloads.select(None)} == set(workloads.LARGE)
    with pytest.raises(SystemExit):
        workloads.select("mlp_large")


def test_limits_are_measured_through_the_runtime(load):
    gpu_limits = load("gpu_limits")
    with fake_gpu(total=1 << 20) as gpu:
        assert gpu_limits.missing() is None and gpu_limits.missing(7)
        gpu.load = lambda source, architecture: source
        gpu.function = lambda module, name: name
        gpu.launch = lambda *_: None
        for name in ("CACHED", "LARGE"):
            setattr(gpu_limits, name, 1 << 12)
        limits = gpu_limits.measure()
    assert limits.bandwidth[0][0] == 1 << 12
    assert all(rate > 0 for rate in (*limits.flops.values(), *limits.exps.values()))


def test_nvrtc_takes_the_kernels_of_the_limits(load, nvrtc):
    code, _ = cuda_nvrtc.build(load("gpu_limits").SOURCE, "sm_90")
    assert code[:4] == b"\x7fELF"


def test_the_report_counts_bytes_and_operations(load):
    use_of = load("cuda_report").use_of
    x, scale = T.fmatrix("x"), T.fvector("scale")
    f = tx.function([x, scale], (x * scale + x).sum(axis=1) / 3, device="cuda")
    sizes = f._sizes([np.zeros((256, 512)), np.zeros(512)])
    _, stages = compile_signature(f.signature, sizes, Options(device="cuda"))
    nest, = scheduled(stages.program.steps[0])
    use = use_of(nest)
    assert use.bytes == 4 * (256 * 512 + 512) + 4 * 256
    assert 2 * 256 * 512 <= use.operations["float32"] <= 4 * 256 * 512
    assert use.requested >= 4 * 2 * 256 * 512


def test_the_report_reads_the_assemblers_words(load, nvrtc):
    report = load("cuda_report")
    text, line = report.table_of(load("workloads").WORKLOADS["call_2x1"], True)
    assert "| `mul_add_kernel` |" in text and "__global__" in text
    assert int(line[2]) > 0 and line[3] == "0"
