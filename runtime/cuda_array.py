"""Arrays in a GPU's memory, and their exchange with other libraries without a copy."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import numpy as np

from .cuda_driver import driver, is_current
from .dtypes import numpy_dtype

_DLPACK_DEVICE = 2  # kDLCUDA
_DLPACK_KINDS = {"i": 0, "u": 1, "f": 2, "V": 4, "b": 6}  # V: bfloat16, which NumPy lacks


class Memory:
    """A block of a GPU's memory, given back when nothing refers to it.

    Attributes
    ----------
    pointer, size, device : int
        Address and bytes, and the number of the GPU.
    """

    __slots__ = ("pointer", "size", "device", "_driver")

    def __init__(self, size: int, device: int):
        self.pointer, self._driver = 0, driver()
        self.size, self.device = size, device
        self._driver.use(device)
        self.pointer = self._driver.allocate(max(size, 1))

    def __del__(self) -> None:
        # When the interpreter ends, or in a forked process, the memory is not ours to give back.
        if self.pointer and not sys.is_finalizing() and is_current(self._driver):
            self._driver.use(self.device)
            self._driver.free(self.pointer)


class DeviceArray:
    """A C-contiguous array in a GPU's memory.

    NumPy functions copy it to the host; CuPy, PyTorch and JAX take it as it is, through
    ``__cuda_array_interface__`` or DLPack.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    device : int
        The number of the GPU.
    """

    __slots__ = ("memory", "shape", "dtype")

    def __init__(self, memory: Memory, shape: tuple[int, ...], dtype: np.dtype | str):
        self.memory, self.shape, self.dtype = memory, shape, \
            dtype if isinstance(dtype, np.dtype) else numpy_dtype(dtype)

    @property
    def device(self) -> int:
        """The number of the GPU."""
        return self.memory.device

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def numpy(self) -> np.ndarray:
        """Return a copy in the host's memory."""
        result = np.empty(self.shape, self.dtype)
        if self.nbytes:
            own = driver()
            own.use(self.device)
            stream = own.stream()
            own.to_host(result.ctypes.data, self.memory.pointer, self.nbytes, stream)
            own.synchronize(stream)
        return result

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array on a GPU cannot become a NumPy array without a copy")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device=cuda:{self.device})"

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        return {"shape": self.shape, "typestr": self.dtype.str, "version": 3, "strides": None,
                "data": (self.memory.pointer if self.nbytes else 0, False)}

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DLPACK_DEVICE, self.device

    def __dlpack__(self, *, stream: object = None, **options: object) -> object:
        """Return a DLPack capsule; the values are complete, so no stream has to wait."""
        return _capsule(self)


class _Tensor(ctypes.Structure):
    """DLTensor, as DLPack's header defines it."""

    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32),
                ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
                ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _DELETER)]


_exported: dict[int, tuple[object, ...]] = {}


@_DELETER
def _release(address: int) -> None:
    _exported.pop(address, None)


_NAME = b"dltensor"
_CAPSULE_DESTRUCTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@_CAPSULE_DESTRUCTOR
def _drop(capsule: int) -> None:
    """Free a tensor that nobody took over (a consumer renames the capsule)."""
    api = ctypes.pythonapi
    api.PyCapsule_IsValid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
    if api.PyCapsule_IsValid(capsule, _NAME):
        api.PyCapsule_GetPointer.restype = ctypes.c_void_p
        api.PyCapsule_GetPointer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
        _exported.pop(api.PyCapsule_GetPointer(capsule, _NAME), None)


def _capsule(array: DeviceArray) -> object:
    """Return a capsule that keeps an array's memory until the consumer releases it."""
    shape = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
    managed = _Managed()
    tensor = managed.tensor
    tensor.data = array.memory.pointer
    tensor.device_type, tensor.device_id = _DLPACK_DEVICE, array.device
    tensor.ndim = array.ndim
    tensor.code = _DLPACK_KINDS[array.dtype.kind]
    tensor.bits, tensor.lanes = 8 * array.dtype.itemsize, 1
    tensor.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
    managed.deleter = _release
    address = ctypes.addressof(managed)
    _exported[address] = (managed, shape, array.memory)
    make: Callable[..., object] = ctypes.pythonapi.PyCapsule_New
    make.restype = ctypes.py_object
    make.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return make(address, _NAME, ctypes.cast(_drop, ctypes.c_void_p))
