"""NVIDIA's driver, through ``cuda.bindings``, and what its errors mean to a user."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .cuda_blas import Blas, load
from .cuda_driver import out_of_memory
from .errors import DeviceError, format_message

INSTALL = ("install NVIDIA's driver for your GPU, and the Python packages: "
           'pip install "tetractys[cuda]"; python -m tetractys.doctor shows what is missing')

OLDEST_DRIVER = 12000
"""CUDA 12.0, the first that the bindings and their graphs work with."""

_NEWER_DRIVER = "install a newer NVIDIA driver: see nvidia-smi for the one at hand"

_MEANINGS = {
    "CUDA_ERROR_NO_DEVICE": (
        "There is no NVIDIA GPU.", "CUDA_VISIBLE_DEVICES may hide it; use device='cpu'"),
    "CUDA_ERROR_STUB_LIBRARY": ("There is no NVIDIA driver that can be used.", INSTALL),
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": (
        "The parts of NVIDIA's driver are of different versions.",
        "restart the machine, or its container, after an update of the driver"),
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": ("NVIDIA's driver is too old.", _NEWER_DRIVER),
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": ("NVIDIA's driver is too old.", _NEWER_DRIVER),
    "CUDA_ERROR_INVALID_IMAGE": (
        "NVIDIA's driver does not take the compiled code: it is too old, or NVRTC too new.",
        _NEWER_DRIVER),
    "CUDA_ERROR_NO_BINARY_FOR_GPU": (
        "NVIDIA's driver does not take the compiled code: it is too old, or NVRTC too new.",
        _NEWER_DRIVER),
    "CUDA_ERROR_DEVICE_UNAVAILABLE": (
        "The GPU is taken: another process has it for itself.",
        "end that process (nvidia-smi lists them), or let several share it: nvidia-smi -c DEFAULT"),
    "CUDA_ERROR_OPERATING_SYSTEM": (
        "The operating system does not let this process use the GPU.",
        "a container needs to be started with access to GPUs"),
}
"""What some errors mean, and what to do about them."""

_LOST = frozenset(f"CUDA_ERROR_{name}" for name in (
    "ILLEGAL_ADDRESS", "LAUNCH_FAILED", "LAUNCH_TIMEOUT", "ECC_UNCORRECTABLE", "ASSERT",
    "HARDWARE_STACK_ERROR", "ILLEGAL_INSTRUCTION", "MISALIGNED_ADDRESS", "INVALID_ADDRESS_SPACE",
    "INVALID_PC", "CONTEXT_IS_DESTROYED", "DEINITIALIZED", "NVLINK_UNCORRECTABLE",
    "TENSOR_MEMORY_LEAK", "EXTERNAL_DEVICE", "MPS_CLIENT_TERMINATED"))
"""Errors after which nothing more can be done on the device in this process."""

_KEEP_ALL = 2**64 - 1


class NvidiaDriver:
    """NVIDIA's driver; see :class:`.cuda_driver.Driver` for what each method does.

    Raises
    ------
    DeviceError
        Saying what is missing, and what to install.
    """

    def __init__(self) -> None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise DeviceError(format_message(
                "CUDA functions need NVIDIA's Python packages.", str(error), remedy=INSTALL
            )) from error
        self._cuda = driver
        self._contexts: dict[int, object] = {}
        self._pools: dict[int, object | None] = {}
        self._lost = ""
        self._blas: Blas | None = None
        try:
            self._ask(driver.cuInit(0))
        except (RuntimeError, OSError) as error:  # no libcuda: there is no driver
            if isinstance(error, DeviceError):
                raise
            raise DeviceError(format_message(
                "There is no NVIDIA driver that can be used.", str(error), remedy=INSTALL
            )) from error
        if self._ask(driver.cuDriverGetVersion()) < OLDEST_DRIVER:
            raise DeviceError(format_message(
                "NVIDIA's driver is too old.", f"it knows CUDA {self.version()}; needed is "
                f"{OLDEST_DRIVER // 1000}.{OLDEST_DRIVER % 1000 // 10}", remedy=_NEWER_DRIVER))

    def _ask(self, answer: tuple, asked: int | None = None):
        """Return what the driver answers, or raise what it says."""
        status, *values = answer
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            raise self._error(status, asked)
        return values[0] if len(values) == 1 else tuple(values)

    def _error(self, status: object, asked: int | None) -> Exception:
        """Return the error for a status of the driver."""
        if status.name == "CUDA_ERROR_OUT_OF_MEMORY":
            return out_of_memory(asked, self.memory()[0])
        _, text = self._cuda.cuGetErrorString(status)
        said = f"{status.name}: {text.decode() if text else ''}"
        if self._lost or status.name in _LOST:
            self._lost = self._lost or said
            return DeviceError(format_message(
                "The GPU is lost to this process.", self._lost,
                remedy="start a new process; values that lived on the GPU are gone, those on the "
                       "host are intact; nvidia-smi and the system's log say more"))
        what, remedy = _MEANINGS.get(status.name, (
            "The GPU, or its driver, reports an error.", "see nvidia-smi and the system's log"))
        return DeviceError(format_message(what, said, remedy=remedy))

    # -- devices -----------------------------------------------------------------------------------

    def version(self) -> str:
        """Return the newest CUDA version the driver knows."""
        number = self._ask(self._cuda.cuDriverGetVersion())
        return f"{number // 1000}.{number % 1000 // 10}"

    def count(self) -> int:
        """Return how many GPUs there are."""
        return self._ask(self._cuda.cuDeviceGetCount())

    def describe(self, device: int) -> tuple[str, str]:
        """Return a GPU's name and architecture."""
        handle = self._ask(self._cuda.cuDeviceGet(device))
        major, minor = (self._attribute(f"COMPUTE_CAPABILITY_{part}", handle)
                        for part in ("MAJOR", "MINOR"))
        name = self._ask(self._cuda.cuDeviceGetName(256, handle))
        return name.split(b"\0")[0].decode(), f"sm_{major}{minor}"

    def _attribute(self, name: str, handle: object) -> int:
        kind = getattr(self._cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return self._ask(self._cuda.cuDeviceGetAttribute(kind, handle))

    @contextmanager
    def at(self, device: int) -> Iterator[None]:
        """Use a GPU's primary context, which other libraries share, and leave theirs current."""
        context = self._contexts.get(device)
        if context is None:
            handle = self._ask(self._cuda.cuDeviceGet(device))
            context = self._ask(self._cuda.cuDevicePrimaryCtxRetain(handle))
            self._contexts[device] = context
            self._pools[device] = self._pool(handle)
        self._ask(self._cuda.cuCtxPushCurrent(context))
        try:
            yield
        finally:
            self._cuda.cuCtxPopCurrent()

    # -- memory ------------------------------------------------------------------------------------

    def _pool(self, handle: object) -> object | None:
        """Return the pool that a GPU's memory comes from, which keeps what it was given back."""
        cuda = self._cuda
        if not self._attribute("MEMORY_POOLS_SUPPORTED", handle):
            return None
        pool = self._ask(cuda.cuDeviceGetDefaultMemPool(handle))
        self._ask(cuda.cuMemPoolSetAttribute(
            pool, cuda.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            cuda.cuuint64_t(_KEEP_ALL)))
        return pool

    def _present_pool(self) -> object | None:
        return self._pools.get(int(self._ask(self._cuda.cuCtxGetDevice())))

    def memory(self) -> tuple[int, int]:
        """Return the bytes free, and in total."""
        return self._ask(self._cuda.cuMemGetInfo())

    def device_of(self, pointer: int) -> int:
        """Return the number of the GPU that an address belongs to."""
        kind = self._cuda.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        return int(self._ask(self._cuda.cuPointerGetAttribute(kind, pointer)))

    def allocate(self, size: int, stream: int) -> int:
        """Return the address of new memory; what lies unused in the pool makes room for it."""
        cuda, pool = self._cuda, self._present_pool()
        if pool is None:
            return int(self._ask(cuda.cuMemAlloc(size), size))
        answer = cuda.cuMemAllocAsync(size, stream)
        if answer[0] == cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            self.finish()
            self._ask(cuda.cuMemPoolTrimTo(pool, 0))
            answer = cuda.cuMemAllocAsync(size, stream)
        return int(self._ask(answer, size))

    def free(self, pointer: int, stream: int) -> None:
        """Give memory back."""
        if self._present_pool() is None:
            self._ask(self._cuda.cuMemFree(pointer))  # waits for all that may use it
        else:
            self._ask(self._cuda.cuMemFreeAsync(pointer, stream))

    def to_device(self, pointer: int, address: int, size: int, stream: int) -> None:
        """Copy from the host."""
        self._ask(self._cuda.cuMemcpyHtoDAsync(pointer, address, size, stream))

    def to_host(self, address: int, pointer: int, size: int, stream: int) -> None:
        """Copy to the host."""
        self._ask(self._cuda.cuMemcpyDtoHAsync(address, pointer, size, stream))

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy within the device."""
        self._ask(self._cuda.cuMemcpyDtoDAsync(target, source, size, stream))

    # -- code --------------------------------------------------------------------------------------

    def load(self, source: str, architecture: str) -> object:
        """Return the module of a source text, compiled for the architecture.

        Raises
        ------
        DeviceError
            When the driver is older than the compiler: machine code runs on drivers of the same
            major version or a newer one.
        """
        from .cuda_nvrtc import assemble, version
        if int(self.version().partition(".")[0]) < int(version().partition(".")[0]):
            raise DeviceError(format_message(
                "NVIDIA's driver is too old for this NVRTC.",
                f"the driver knows CUDA {self.version()}, NVRTC is {version()}",
                remedy=f"{_NEWER_DRIVER}; or an older compiler: pip install "
                       f'"nvidia-cuda-nvrtc<{int(self.version().partition(".")[0]) + 1}"'))
        return self._ask(self._cuda.cuModuleLoadData(assemble(source, architecture)))

    def function(self, module: object, name: str, scratch: int = 0) -> object:
        """Return a function of a module, which may be given so many bytes of scratch memory."""
        found = self._ask(self._cuda.cuModuleGetFunction(module, name.encode()))
        if scratch:
            limit = self._cuda.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._ask(self._cuda.cuFuncSetAttribute(found, limit, scratch))
        return found

    def blas(self) -> Blas:
        """Return cuBLAS, which is loaded when it is first asked for."""
        if self._blas is None:
            self._blas = load(self.version())
        return self._blas

    # -- order -------------------------------------------------------------------------------------

    def stream(self, records: bool = False) -> int:
        """Return a new stream."""
        flags = self._cuda.CUstream_flags
        flag = flags.CU_STREAM_NON_BLOCKING if records else flags.CU_STREAM_DEFAULT
        return int(self._ask(self._cuda.cuStreamCreate(flag)))

    def destroy_stream(self, stream: int) -> None:
        """Forget a stream."""
        self._ask(self._cuda.cuStreamDestroy(stream))

    def event(self) -> int:
        """Return a new event, which takes no time."""
        return int(self._ask(self._cuda.cuEventCreate(
            self._cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING)))

    def destroy_event(self, event: int) -> None:
        """Forget an event."""
        self._ask(self._cuda.cuEventDestroy(event))

    def record(self, event: int, stream: int) -> None:
        """Move an event behind all that is queued on a stream now."""
        self._ask(self._cuda.cuEventRecord(event, stream))

    def wait(self, stream: int, event: int) -> None:
        """Let a stream wait for an event."""
        self._ask(self._cuda.cuStreamWaitEvent(stream, event, 0))

    def is_done(self, event: int) -> bool:
        """Return whether everything before an event is done."""
        (status,) = self._cuda.cuEventQuery(event)
        if status == self._cuda.CUresult.CUDA_ERROR_NOT_READY:
            return False
        self._ask((status,))
        return True

    def synchronize(self, stream: int) -> None:
        """Wait until everything queued is done."""
        self._ask(self._cuda.cuStreamSynchronize(stream))

    def finish(self) -> None:
        """Wait for all streams."""
        self._ask(self._cuda.cuCtxSynchronize())

    def launch(self, function: object, blocks: int, threads: Sequence[int],
               arguments: Sequence[int], stream: int, scratch: int = 0) -> None:
        """Queue a kernel."""
        packed = (tuple(arguments), (ctypes.c_int64,) * len(arguments)) if arguments else 0
        self._ask(self._cuda.cuLaunchKernel(
            function, blocks, 1, 1, *threads, scratch, stream, packed, 0))

    def begin_capture(self, stream: int) -> None:
        """Record what is queued from now on instead of doing it."""
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        self._ask(self._cuda.cuStreamBeginCapture(stream, mode))

    def end_capture(self, stream: int) -> object:
        """Return what was recorded, ready to be replayed."""
        graph = self._ask(self._cuda.cuStreamEndCapture(stream))
        try:
            return self._ask(self._cuda.cuGraphInstantiate(graph, 0))
        finally:
            self._ask(self._cuda.cuGraphDestroy(graph))

    def replay(self, graph: object, stream: int) -> None:
        """Queue everything that was recorded."""
        self._ask(self._cuda.cuGraphLaunch(graph, stream))

    def discard(self, graph: object) -> None:
        """Free what was recorded."""
        self._ask(self._cuda.cuGraphExecDestroy(graph))
