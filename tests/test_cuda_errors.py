"""What goes wrong with a GPU: each thing a clear error, with shared variables intact.

``Bindings`` stands where NVIDIA's Python package is, so ``NvidiaDriver`` itself is what runs.
"""

from __future__ import annotations

import ctypes
import enum
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from cuda_fake import fake_gpu

import tetractys as tx
from tetractys import tensor as T
from tetractys.runtime import cuda_driver, cuda_nvidia, cuda_nvrtc
from tetractys.runtime.cuda_nvidia import NvidiaDriver
from tetractys.runtime.errors import CompileError, DeviceError

X = T.fmatrix("x")
A = np.arange(12, dtype=np.float32).reshape(4, 3)
STATUSES = ("SUCCESS", "ERROR_NOT_READY", "ERROR_OUT_OF_MEMORY", "ERROR_ILLEGAL_ADDRESS",
            "ERROR_NO_DEVICE", "ERROR_DEVICE_UNAVAILABLE", "ERROR_SYSTEM_DRIVER_MISMATCH",
            "ERROR_NO_BINARY_FOR_GPU", "ERROR_INVALID_VALUE", "ERROR_ECC_UNCORRECTABLE",
            "ERROR_OPERATING_SYSTEM")
Status = enum.Enum("Status", [f"CUDA_{name}" for name in STATUSES])


class Bindings(types.ModuleType):
    """``cuda.bindings.driver`` with one device, whose memory is the host's.

    Attributes
    ----------
    fail : dict of str to str
        What a function answers instead of success.
    version : int
    free : int
        Bytes that can be had.
    trimmed : int
        How often unused memory was given back to the system.
    """

    CUresult = Status
    cuuint64_t = int

    def __init__(self, **fail: str):
        super().__init__("cuda.bindings.driver")
        self.fail, self.version, self.free, self.trimmed = fail, 13000, 1 << 20, 0
        self.calls: list[str] = []

    def __getattr__(self, name: str):
        if name.startswith("CU"):
            return types.SimpleNamespace.__new__(_AnyMember)
        if not name.startswith("cu"):
            raise AttributeError(name)

        def function(*arguments: object) -> tuple:
            self.calls.append(name)
            if name in self.fail:
                return (Status[f"CUDA_ERROR_{self.fail[name]}"], None)
            answer = getattr(self, f"on_{name}", lambda *_: 1)(*arguments)
            status = answer if isinstance(answer, Status) else Status.CUDA_SUCCESS
            return (status, answer)
        return function

    def on_cuDriverGetVersion(self) -> int:
        return self.version

    def on_cuCtxGetDevice(self) -> int:
        return 0

    def on_cuMemAllocAsync(self, size: int, stream: int) -> object:
        return 4096 if size <= self.free else Status.CUDA_ERROR_OUT_OF_MEMORY

    def on_cuMemPoolTrimTo(self, pool: object, size: int) -> None:
        self.trimmed += 1

    def cuGetErrorString(self, status: Status) -> tuple:
        return (Status.CUDA_SUCCESS, f"text of {status.name}".encode())

    def cuMemGetInfo(self) -> tuple:
        return (Status.CUDA_SUCCESS, self.free, 1 << 20)

    def cuEventQuery(self, event: int) -> tuple:
        return (Status.CUDA_ERROR_NOT_READY,)


class _AnyMember(types.SimpleNamespace):
    def __getattr__(self, name: str) -> str:
        return name


@pytest.fixture
def bindings(monkeypatch):
    """Put bindings in place of NVIDIA's."""
    def install(**fail: str) -> Bindings:
        own = Bindings(**fail)
        package = types.ModuleType("cuda.bindings")
        package.driver = own
        monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
        monkeypatch.setitem(sys.modules, "cuda.bindings", package)
        return own
    return install


# -- the driver ------------------------------------------------------------------------------------

@pytest.mark.parametrize("where, status, says", [
    ("cuInit", "NO_DEVICE", "There is no NVIDIA GPU"),
    ("cuInit", "SYSTEM_DRIVER_MISMATCH", "restart the machine"),
    ("cuInit", "OPERATING_SYSTEM", "container"),
    ("cuInit", "INVALID_VALUE", "CUDA_ERROR_INVALID_VALUE: text of CUDA_ERROR_INVALID_VALUE"),
    ("cuDeviceGetCount", "NO_DEVICE", "use device='cpu'"),
])
def test_what_the_driver_refuses_is_explained(bindings, where, status, says):
    bindings(**{where: status})
    with pytest.raises(DeviceError, match=re.escape(says)):
        NvidiaDriver().count()


def test_an_old_driver_is_told_apart(bindings):
    bindings().version = 11040
    with pytest.raises(DeviceError, match=r"too old.\n.*knows CUDA 11.4; needed is 12.0"):
        NvidiaDriver()


def test_a_driver_older_than_the_compiler_is_told_apart(bindings, monkeypatch):
    bindings().version = 12040
    monkeypatch.setattr(cuda_nvrtc, "version", lambda: "13.0")
    with pytest.raises(DeviceError, match=r'12.4, NVRTC is 13.0\n.*nvidia-cuda-nvrtc<13'):
        NvidiaDriver().load("source", "sm_90")


def test_code_the_driver_does_not_take_is_explained(bindings, monkeypatch):
    bindings(cuModuleLoadData="NO_BINARY_FOR_GPU")
    monkeypatch.setattr(cuda_nvrtc, "version", lambda: "13.0")
    monkeypatch.setattr(cuda_nvrtc, "assemble", lambda *_: b"")
    with pytest.raises(DeviceError, match="it is too old, or NVRTC too new"):
        NvidiaDriver().load("source", "sm_90")


def test_a_gpu_that_another_process_has_for_itself(bindings):
    bindings(cuDevicePrimaryCtxRetain="DEVICE_UNAVAILABLE")
    with pytest.raises(DeviceError, match="another process has it for itself"):
        with NvidiaDriver().at(0):
            pass


def test_out_of_memory_gives_unused_memory_back_first(bindings):
    own = bindings()
    found = NvidiaDriver()
    with found.at(0):
        assert found.allocate(1 << 10, 7) == 4096
        with pytest.raises(MemoryError, match="cannot allocate 2097152 bytes on the GPU: 1048576 "
                                              "bytes are free"):
            found.allocate(1 << 21, 7)
    assert own.trimmed == 1
    assert own.calls.count("cuMemAllocAsync") == 3


def test_without_a_pool_memory_is_taken_directly(bindings):
    own = bindings()
    own.on_cuDeviceGetAttribute = lambda *_: 0
    found = NvidiaDriver()
    with found.at(0):
        found.free(found.allocate(8, 7), 7)
    assert {"cuMemAlloc", "cuMemFree"} <= set(own.calls) and "cuMemAllocAsync" not in own.calls


@pytest.mark.parametrize("status", ["ILLEGAL_ADDRESS", "ECC_UNCORRECTABLE"])
def test_a_lost_device_stays_lost_under_its_first_name(bindings, status):
    own = bindings()
    found = NvidiaDriver()
    own.fail = {"cuStreamSynchronize": status}
    with pytest.raises(DeviceError, match=f"lost to this process.\n.*{status}"):
        found.synchronize(7)
    own.fail = {"cuMemAllocAsync": "INVALID_VALUE"}
    with found.at(0), pytest.raises(DeviceError, match=status):
        found.allocate(8, 7)


def test_the_context_of_others_is_left_current(bindings):
    own = bindings()
    found = NvidiaDriver()
    with pytest.raises(ZeroDivisionError), found.at(0):
        raise ZeroDivisionError
    assert own.calls.count("cuCtxPushCurrent") == own.calls.count("cuCtxPopCurrent") == 1
    assert not found.is_done(3)


def test_arguments_of_a_kernel_are_packed_as_the_bindings_want_them(bindings):
    own, seen = bindings(), []
    own.on_cuLaunchKernel = lambda *arguments: seen.append(arguments)
    found = NvidiaDriver()
    found.launch("f", 5, (32, 8, 1), (1 << 40, 3), 7)
    found.launch("f", 5, (32, 8, 1), (), 7)
    assert seen[0] == ("f", 5, 1, 1, 32, 8, 1, 0, 7, ((1 << 40, 3), (ctypes.c_int64,) * 2), 0)
    assert seen[1][-2] == 0


def test_nvidias_bindings_have_every_name_that_is_used():
    if importlib.util.find_spec("cuda") is None:
        pytest.skip("NVIDIA's Python packages are not installed")
    from cuda.bindings import driver
    source = inspect.getsource(cuda_nvidia)
    for name in set(re.findall(r"\b(cu[A-Z]\w+|cuuint64_t)", source)):
        assert hasattr(driver, name), name
    for kind, name in re.findall(r"(CU\w+_(?:attribute|flags))\.(CU_\w+)", source):
        assert hasattr(getattr(driver, kind), name), name
    assert hasattr(driver.CUstreamCaptureMode, "CU_STREAM_CAPTURE_MODE_RELAXED")
    for attribute in re.findall(r'_attribute\("(\w+)"', source):
        assert hasattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{attribute}")
    known = {status.name for status in driver.CUresult}
    assert set(cuda_nvidia._MEANINGS) <= known
    assert {"CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_LAUNCH_FAILED"} <= cuda_nvidia._LOST & known


# -- functions -------------------------------------------------------------------------------------

def test_out_of_memory_says_what_was_asked_and_leaves_shared_variables_alone():
    with fake_gpu(total=1 << 16):
        w = tx.shared(np.zeros(4, np.float32), name="w")
        f = tx.function([X], X * 2, updates={w: w + 1}, device="cuda")
        f(A)
        with pytest.raises(MemoryError, match=r"cannot allocate \d+ bytes .*: \d+ bytes are free"):
            f(np.zeros((400, 100), np.float32))
        assert w.get_value().tolist() == [1] * 4
        f(A)
        assert w.get_value().tolist() == [2] * 4
        with pytest.raises(MemoryError, match="cannot allocate 400000 bytes on the GPU"):
            w.set_value(np.zeros(100_000, np.float32))
            f(A)
        assert w.get_value().shape == (100_000,)


def test_memory_of_idle_results_is_found_again():
    with fake_gpu(total=100_000):
        f = tx.function([X], X * 2, device="cuda", on_device=True)
        big = np.ones((100, 100), np.float32)
        for _ in range(4):
            out = f(big)
            np.testing.assert_array_equal(out.numpy(), 2)
            del out


def test_a_lost_device_leaves_the_host_usable():
    with fake_gpu() as gpu:
        w = tx.shared(np.zeros(3, np.float32), name="w")
        v = tx.shared(np.zeros(3, np.float32), name="v")
        f = tx.function([], w * 2, updates={w: w + 1}, device="cuda")
        on_cpu = tx.function([], [w * 1, v * 1], updates={v: v + 1}, device="cpu")
        f()
        gpu.lost = "The GPU is lost to this process."
        for broken in (f, w.get_value, on_cpu):
            with pytest.raises(DeviceError, match="lost"):
                broken()
        assert v.get_value().tolist() == [0] * 3
        w.set_value(np.ones(3, np.float32))
        assert on_cpu()[0].tolist() == [1] * 3
        gpu.lost = ""


def test_a_failure_while_results_are_copied_frees_the_lane():
    with fake_gpu() as gpu:
        f = tx.function([X], X * 2, device="cuda")
        f(A)
        to_host = gpu.to_host

        def fails(*arguments: object) -> None:
            raise DeviceError("no")

        gpu.to_host = fails
        for _ in range(6):
            with pytest.raises(DeviceError):
                f(A)
        gpu.to_host = to_host
        np.testing.assert_array_equal(f(A), A * 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_is_told_and_frees_nothing():
    with fake_gpu():
        f = tx.function([X], X + 1, device="cuda", on_device=True)
        held = f(A)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                f(A)
                said = "nothing"
            except DeviceError as error:
                said = str(error)
            del held
            os.write(write, said.encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert "forked" in os.read(read, 1000).decode()
        np.testing.assert_array_equal(held.numpy(), A + 1)


def _in_another_process() -> list[float]:
    with fake_gpu():
        return tx.function([X], X + 1, device="cuda")(A)[0].tolist()


def test_a_second_process_has_a_driver_of_its_own():
    with fake_gpu():
        f = tx.function([X], X + 1, device="cuda")
        f(A)
        code = "import test_cuda_errors as t; print(t._in_another_process())"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                             check=True, cwd=Path(__file__).parent,
                             env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        assert run.stdout.strip() == "[1.0, 2.0, 3.0]"
        np.testing.assert_array_equal(f(A), A + 1)


def test_a_device_that_is_not_there():
    with fake_gpu():
        with pytest.raises(DeviceError, match="no GPU number 5"):
            tx.function([X], X + 1, device="cuda:5")(A)
    with pytest.raises(CompileError, match="no device 'gpu0'"):
        tx.function([X], X + 1, device="gpu0")


def test_without_a_driver_the_error_says_what_to_install(monkeypatch):
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    cuda_driver.use_driver(None)
    with pytest.raises(DeviceError, match=r"tetractys\[cuda\]"):
        tx.function([X], X + 1, device="cuda")(A)


# -- the switch ------------------------------------------------------------------------------------

def test_the_switch_moves_functions(monkeypatch):
    with fake_gpu() as gpu:
        monkeypatch.setattr(tx.config, "device", "cuda:1")
        np.testing.assert_array_equal(tx.function([X], X + 1)(A), A + 1)
        assert gpu.launched and {device for device, _ in gpu.blocks.values()} == {1}
        count = len(gpu.launched)
        np.testing.assert_array_equal(tx.function([X], X + 1, device="cpu")(A), A + 1)
        assert len(gpu.launched) == count
        np.testing.assert_array_equal(tx.function([X], X + 1, device="cuda")(A), A + 1)
        assert {device for device, _ in gpu.blocks.values()} == {0, 1}


@pytest.mark.parametrize("variables, device", [
    ({"TETRACTYS_DEVICE": "cuda"}, "cuda"), ({"TETRACTYS_FLAGS": "device=cuda"}, "cuda"),
    ({"TETRACTYS_DEVICE": "cuda:1", "TETRACTYS_FLAGS": "device=cpu"}, "cuda:1"), ({}, "cpu")])
def test_the_switch_is_an_environment_variable(variables, device):
    code = ("import tetractys as tx; x = tx.tensor.vector('x'); "
            "print(tx.config.device, tx.function([x], x).options.device)")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TETRACTYS_")}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env={**clean, **variables})
    assert run.stdout.split() == [device, device]


def test_a_wrong_switch_is_refused():
    code = "import tetractys"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         env={**os.environ, "TETRACTYS_DEVICE": "gpu0"})
    assert run.returncode and "gpu0" in run.stderr and "cuda" in run.stderr
