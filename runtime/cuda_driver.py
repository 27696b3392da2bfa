"""The only door to NVIDIA's driver: what the runtime asks of a GPU, and how it is asked.

Everything above works with a :class:`Driver`, so tests put an emulator in its place.  Pointers,
streams, functions and graphs are opaque to the callers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from .errors import DeviceError, format_message

REMEDY = ("install NVIDIA's driver for your GPU, and the Python packages: "
          'pip install "tetractys[cuda]"; python -m tetractys.doctor shows what is missing')


class Driver(Protocol):
    """What a GPU can be asked to do.  All copies and launches are queued on a stream."""

    def version(self) -> str:
        """Return the driver's version."""

    def count(self) -> int:
        """Return how many GPUs there are."""

    def describe(self, device: int) -> tuple[str, str]:
        """Return a GPU's name and architecture (``sm_90``)."""

    def use(self, device: int) -> None:
        """Make a GPU the one this thread talks to."""

    def memory(self) -> tuple[int, int]:
        """Return the bytes free, and in total."""

    def allocate(self, size: int) -> int:
        """Return the address of new memory; raises ``MemoryError`` with what was asked and free."""

    def free(self, pointer: int) -> None:
        """Give memory back."""

    def to_device(self, pointer: int, address: int, size: int, stream: object) -> None:
        """Copy from the host."""

    def to_host(self, address: int, pointer: int, size: int, stream: object) -> None:
        """Copy to the host."""

    def copy(self, target: int, source: int, size: int, stream: object) -> None:
        """Copy within the device."""

    def load(self, source: str, architecture: str) -> object:
        """Return the module of a source text, compiled for the architecture."""

    def function(self, module: object, name: str) -> object:
        """Return a function of a module."""

    def stream(self) -> object:
        """Return a new stream."""

    def synchronize(self, stream: object) -> None:
        """Wait until everything queued is done; raises ``DeviceError`` when it failed."""

    def launch(self, function: object, blocks: int, threads: Sequence[int],
               arguments: Sequence[int], stream: object) -> None:
        """Queue a kernel whose arguments are all of 8 bytes: pointers and sizes."""

    def begin_capture(self, stream: object) -> None:
        """Record what is queued from now on instead of doing it."""

    def end_capture(self, stream: object) -> object:
        """Return what was recorded, ready to be replayed."""

    def replay(self, graph: object, stream: object) -> None:
        """Queue everything that was recorded, as one launch."""

    def discard(self, graph: object) -> None:
        """Free what was recorded."""


class NvidiaDriver:
    """NVIDIA's driver, through ``cuda.bindings``.

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
                "CUDA functions need NVIDIA's Python packages.", str(error), remedy=REMEDY
            )) from error
        self._cuda = driver
        self._contexts: dict[int, object] = {}
        try:
            self._ask(driver.cuInit(0))
        except (RuntimeError, OSError) as error:  # no libcuda: there is no driver
            raise DeviceError(format_message(
                "There is no NVIDIA driver that can be used.", str(error), remedy=REMEDY
            )) from error

    def _ask(self, answer: tuple, asked: int | None = None):
        """Return what the driver answers, or raise what it says."""
        status, *values = answer
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            if status == self._cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
                raise out_of_memory(asked, self.memory()[0])
            _, text = self._cuda.cuGetErrorString(status)
            raise DeviceError(format_message(
                "The GPU, or its driver, reports an error.",
                f"{status.name}: {text.decode() if text else ''}",
                remedy="a device that is lost stays so until the process ends; see nvidia-smi"))
        return values[0] if len(values) == 1 else tuple(values)

    def version(self) -> str:
        """Return the newest CUDA version the driver knows."""
        number = self._ask(self._cuda.cuDriverGetVersion())
        return f"{number // 1000}.{number % 1000 // 10}"

    def count(self) -> int:
        """Return how many GPUs there are."""
        return self._ask(self._cuda.cuDeviceGetCount())

    def describe(self, device: int) -> tuple[str, str]:
        """Return a GPU's name and architecture."""
        cuda = self._cuda
        handle = self._ask(cuda.cuDeviceGet(device))
        kind = cuda.CUdevice_attribute
        major, minor = (self._ask(cuda.cuDeviceGetAttribute(attribute, handle)) for attribute in (
            kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR))
        name = self._ask(cuda.cuDeviceGetName(256, handle))
        return name.split(b"\0")[0].decode(), f"sm_{major}{minor}"

    def use(self, device: int) -> None:
        """Make a GPU the one this thread talks to; its primary context, which others share."""
        context = self._contexts.get(device)
        if context is None:
            handle = self._ask(self._cuda.cuDeviceGet(device))
            context = self._ask(self._cuda.cuDevicePrimaryCtxRetain(handle))
            self._contexts[device] = context
        self._ask(self._cuda.cuCtxSetCurrent(context))

    def memory(self) -> tuple[int, int]:
        """Return the bytes free, and in total."""
        return self._ask(self._cuda.cuMemGetInfo())

    def allocate(self, size: int) -> int:
        """Return the address of new memory."""
        return int(self._ask(self._cuda.cuMemAlloc(size), size))

    def free(self, pointer: int) -> None:
        """Give memory back."""
        self._ask(self._cuda.cuMemFree(pointer))

    def to_device(self, pointer: int, address: int, size: int, stream: object) -> None:
        """Copy from the host."""
        self._ask(self._cuda.cuMemcpyHtoDAsync(pointer, address, size, stream))

    def to_host(self, address: int, pointer: int, size: int, stream: object) -> None:
        """Copy to the host."""
        self._ask(self._cuda.cuMemcpyDtoHAsync(address, pointer, size, stream))

    def copy(self, target: int, source: int, size: int, stream: object) -> None:
        """Copy within the device."""
        self._ask(self._cuda.cuMemcpyDtoDAsync(target, source, size, stream))

    def load(self, source: str, architecture: str) -> object:
        """Return the module of a source text, compiled for the architecture."""
        from .cuda_nvrtc import assemble
        return self._ask(self._cuda.cuModuleLoadData(assemble(source, architecture)))

    def function(self, module: object, name: str) -> object:
        """Return a function of a module."""
        return self._ask(self._cuda.cuModuleGetFunction(module, name.encode()))

    def stream(self) -> object:
        """Return a new stream, which does not wait for the legacy default stream."""
        flags = self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
        return self._ask(self._cuda.cuStreamCreate(flags))

    def synchronize(self, stream: object) -> None:
        """Wait until everything queued is done."""
        self._ask(self._cuda.cuStreamSynchronize(stream))

    def launch(self, function: object, blocks: int, threads: Sequence[int],
               arguments: Sequence[int], stream: object) -> None:
        """Queue a kernel."""
        import ctypes
        packed = (tuple(arguments), (ctypes.c_int64,) * len(arguments)) if arguments else 0
        self._ask(self._cuda.cuLaunchKernel(
            function, blocks, 1, 1, *threads, 0, stream, packed, 0))

    def begin_capture(self, stream: object) -> None:
        """Record what is queued from now on instead of doing it."""
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._ask(self._cuda.cuStreamBeginCapture(stream, mode))

    def end_capture(self, stream: object) -> object:
        """Return what was recorded, ready to be replayed."""
        graph = self._ask(self._cuda.cuStreamEndCapture(stream))
        ready = self._ask(self._cuda.cuGraphInstantiate(graph, 0))
        self._ask(self._cuda.cuGraphDestroy(graph))
        return ready

    def replay(self, graph: object, stream: object) -> None:
        """Queue everything that was recorded."""
        self._ask(self._cuda.cuGraphLaunch(graph, stream))

    def discard(self, graph: object) -> None:
        """Free what was recorded."""
        self._ask(self._cuda.cuGraphExecDestroy(graph))


def out_of_memory(asked: int | None, free: int) -> MemoryError:
    """Return the error for memory that a device does not have."""
    what = "memory" if asked is None else f"{asked} bytes"
    return MemoryError(f"cannot allocate {what} on the GPU: {free} bytes are free")


_state: dict[str, object] = {}


def driver() -> Driver:
    """Return the driver of this process.

    Raises
    ------
    DeviceError
        When there is none, or the process is a fork of one that used it.
    """
    if "driver" not in _state:
        use_driver(NvidiaDriver())
    if _state["process"] != os.getpid():
        raise DeviceError(format_message(
            "A GPU cannot be used in a process forked from one that used it.",
            remedy='start processes with multiprocessing.set_start_method("spawn")'))
    return _state["driver"]


def is_current(own: Driver) -> bool:
    """Return whether a driver is the one in use, in the process that started it."""
    return _state.get("driver") is own and _state.get("process") == os.getpid()


def use_driver(own: Driver | None) -> None:
    """Put another driver in the place of NVIDIA's; None forgets the present one."""
    _state.clear()
    if own is not None:
        _state.update(driver=own, process=os.getpid())
