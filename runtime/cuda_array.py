"""Arrays in a GPU's memory."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .cuda_driver import LEGACY_STREAM, driver
from .cuda_memory import AnyMemory, Memory, Stream, has_read, will_read
from .dtypes import numpy_dtype

DLPACK_DEVICE = 2
"""kDLCUDA in DLPack's header."""


class Flags(NamedTuple):
    """Layout and use of an array."""

    c_contiguous: bool
    aligned: bool
    writeable: bool


class DeviceArray:
    """An array in a GPU's memory: a result of a function, or an array of another library.

    NumPy functions copy it to the host; CuPy, PyTorch and JAX take it as it is, through
    ``__cuda_array_interface__`` or DLPack.  Functions on its GPU take it without a copy.

    Parameters
    ----------
    memory : Memory or ForeignMemory
    shape : tuple of int
    dtype : dtype_like
    strides : tuple of int, optional
        Bytes from element to element along each axis.  Default: C-contiguous.
    writeable : bool
        Whether ``out=`` may name it.
    """

    __slots__ = ("memory", "shape", "dtype", "strides", "writeable", "__weakref__")

    def __init__(self, memory: AnyMemory, shape: tuple[int, ...], dtype: np.dtype | str,
                 strides: tuple[int, ...] | None = None, writeable: bool = True):
        self.memory, self.shape, self.dtype = memory, shape, \
            dtype if isinstance(dtype, np.dtype) else numpy_dtype(dtype)
        own = contiguous_strides(shape, self.dtype.itemsize)
        is_plain = strides is None or 0 in shape or all(
            size == 1 or given == wanted for size, given, wanted in zip(shape, strides, own))
        self.strides = own if is_plain else strides
        self.writeable = writeable

    @property
    def flags(self) -> Flags:
        """What NumPy's arrays say of themselves under this name."""
        return Flags(self.is_contiguous, self.pointer % self.dtype.itemsize == 0, self.writeable)

    @property
    def device(self) -> int:
        """The number of the GPU."""
        return self.memory.device

    @property
    def pointer(self) -> int:
        """The address of the first element."""
        return self.memory.pointer

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether elements follow each other in memory, the last axis fastest."""
        return self.strides == contiguous_strides(self.shape, self.dtype.itemsize)

    def span(self) -> tuple[int, int]:
        """Return the first address of its elements, and the one behind the last."""
        reach = [stride * (size - 1) for stride, size in zip(self.strides, self.shape)]
        if not self.nbytes:
            return self.pointer, self.pointer
        return (self.pointer + sum(r for r in reach if r < 0),
                self.pointer + sum(r for r in reach if r > 0) + self.dtype.itemsize)

    def overlaps(self, other: DeviceArray) -> bool:
        """Return whether the memory two arrays span has a common byte."""
        (start, end), (begin, stop) = self.span(), other.span()
        return start < stop and begin < end and self.device == other.device

    def numpy(self) -> np.ndarray:
        """Return a copy in the host's memory, once what writes it is done."""
        if not self.nbytes:
            return np.empty(self.shape, self.dtype)
        start, end = self.span()
        raw = np.empty(end - start, np.uint8)
        with driver().at(self.device):
            stream = Stream(self.device)
            will_read(stream, self.memory)
            stream.driver.to_host(raw.ctypes.data, start, raw.nbytes, stream.handle)
            stream.synchronize()
        found = np.ndarray(self.shape, self.dtype, raw.data, self.pointer - start, self.strides)
        return np.ascontiguousarray(found) if self.ndim else found

    def copy(self) -> DeviceArray:
        """Return a C-contiguous copy in the same GPU's memory."""
        if not self.is_contiguous:
            return to_device(self.numpy(), self.device)
        with driver().at(self.device):
            stream = Stream(self.device)
            result = DeviceArray(Memory(self.nbytes, stream), self.shape, self.dtype)
            if self.nbytes:
                will_read(stream, self.memory)
                stream.driver.copy(result.pointer, self.pointer, self.nbytes, stream.handle)
            stream.record()
            has_read(stream, self.memory)
        return result

    def astype(self, dtype: np.dtype | str) -> DeviceArray | np.ndarray:
        """Return the array itself when it has that dtype, else a converted copy on the host."""
        return self if self.dtype == dtype else self.numpy().astype(dtype)

    def synchronize(self) -> None:
        """Wait until the values are there."""
        if self.memory.writer is not None:
            with driver().at(self.device):
                self.memory.writer.synchronize()

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array on a GPU cannot become a NumPy array without a copy")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device=cuda:{self.device})"

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        # Some consumers do not look at a stream: they get values that are there.
        self.synchronize()
        self._export()
        return {"shape": self.shape, "typestr": self.dtype.str, "version": 3,
                "strides": None if self.is_contiguous else self.strides,
                "data": (self.pointer if self.nbytes else 0, not self.writeable)}

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK_DEVICE, self.device

    def __dlpack__(self, *, stream: int | None = None, max_version: object = None,
                   dl_device: tuple[int, int] | None = None, copy: bool | None = None) -> object:
        """Return a DLPack capsule, whose values the consumer's stream waits for.

        Parameters
        ----------
        stream : int, optional
            The consumer's; default: the default stream; -1: it waits by itself.
        max_version, dl_device, copy
            As the protocol has them; only what needs no copy can be had.
        """
        from .cuda_exchange import capsule_of
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()) \
                or not self.writeable:
            raise BufferError("only this very memory can be exchanged, and only to write into")
        writer = self.memory.writer
        if stream != -1 and writer is not None:
            with driver().at(self.device):
                driver().wait(LEGACY_STREAM if stream is None else stream, writer.event)
        self._export()
        return capsule_of(self)

    def _export(self) -> None:
        if isinstance(self.memory, Memory):
            self.memory.is_exported = True


def contiguous_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the strides of a C-contiguous array, in bytes."""
    strides: list[int] = []
    step = itemsize
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def uploaded(array: np.ndarray, stream: Stream) -> DeviceArray:
    """Return a copy of an array in the memory of a stream's GPU, ready for any stream."""
    moved = DeviceArray(Memory(array.nbytes, stream), array.shape, array.dtype)
    if array.nbytes:
        stream.driver.to_device(moved.pointer, array.ctypes.data, array.nbytes, stream.handle)
    stream.record()
    stream.synchronize()
    return moved


def to_device(array: np.ndarray, device: int) -> DeviceArray:
    """Return a C-contiguous array in a GPU's memory; its values are there."""
    with driver().at(device):
        return uploaded(array, Stream(device))
