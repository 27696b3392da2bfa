"""Exchange of arrays with other libraries, without a copy: DLPack and ``__cuda_array_interface__``.

What comes in is ordered after the work its library has queued, as each protocol says: DLPack's
producer lets our stream wait, the other one names the stream to wait for.  The memory is kept
alive until the work that uses it is done.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable

import numpy as np

from .artifact import Argument
from .convert import DEFAULT_POLICY, Policy, convert, refusal
from .cuda_array import DLPACK_DEVICE, DeviceArray
from .cuda_driver import driver
from .cuda_memory import Entry, ForeignMemory, entry
from .dtypes import numpy_dtype
from .errors import CallError, TetractysError, format_message

_MANAGED_DEVICE = 13  # kDLCUDAManaged
_KINDS = {0: "i", 1: "u", 2: "f", 4: "V", 6: "b"}  # V: bfloat16, which NumPy lacks
_CODES = {kind: code for code, kind in _KINDS.items()}
_READ_ONLY = 1
_NAMES = {False: (b"dltensor", b"used_dltensor"),
          True: (b"dltensor_versioned", b"used_dltensor_versioned")}


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

    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32),
                ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
                ("flags", ctypes.c_uint64), ("tensor", _Tensor)]


def _python(name: str, result: object, *arguments: object) -> Callable[..., object]:
    """Return a function of Python's C interface."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_is_valid = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_address_in = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_rename = _python("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_new = _python("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p,
               ctypes.c_void_p)

# -- coming in -------------------------------------------------------------------------------------


class _Taken:
    """A tensor that a capsule held; its producer is told when nothing refers to it any more."""

    def __init__(self, address: int, deleter: int | None):
        self.address, self.deleter = address, deleter

    def __del__(self) -> None:
        if self.deleter and not sys.is_finalizing():
            _DELETER(self.deleter)(self.address)


def import_array(value: object) -> DeviceArray | None:
    """Return an array of another library that lives in a GPU's memory; None for all other values.

    Raises
    ------
    BufferError, RuntimeError, TypeError, ValueError
        As its library does, when it does not give it.
    """
    if isinstance(value, DeviceArray):
        return value
    where = getattr(value, "__dlpack_device__", None)
    if where is not None:
        kind, device = where()
        if int(kind) not in (DLPACK_DEVICE, _MANAGED_DEVICE):
            return None
        return _from_dlpack(value, int(device))
    facts = getattr(value, "__cuda_array_interface__", None)
    return None if facts is None else _from_interface(value, facts)


def _from_dlpack(value: object, device: int) -> DeviceArray:
    gate = entry(device)
    with gate.mutex, driver().at(device):
        stream = gate.stream
        try:
            capsule = value.__dlpack__(stream=stream.handle, max_version=(1, 0))
        except TypeError:  # a producer from before versions
            capsule = value.__dlpack__(stream=stream.handle)
        stream.record()
    return _take(capsule, gate)


def _take(capsule: object, gate: Entry) -> DeviceArray:
    """Return the array of a capsule, which is used up."""
    versioned = bool(_is_valid(capsule, _NAMES[True][0]))
    name, used = _NAMES[versioned]
    address = _address_in(capsule, name)
    managed = (_Versioned if versioned else _Managed).from_address(address)
    tensor, read_only = managed.tensor, versioned and bool(managed.flags & _READ_ONLY)
    owner = _Taken(address, managed.deleter)
    _rename(capsule, used)
    kind = _KINDS.get(tensor.code)
    if tensor.lanes != 1 or kind is None \
            or tensor.bits not in ((16,) if kind == "V" else (8, 16, 32, 64)):
        raise TypeError(f"it has elements of DLPack type {tensor.code} with {tensor.bits} bits")
    dtype = numpy_dtype("bfloat16" if kind == "V" else f"{kind}{tensor.bits // 8}")
    shape = tuple(tensor.shape[:tensor.ndim])
    strides = tuple(dtype.itemsize * step for step in tensor.strides[:tensor.ndim]) \
        if tensor.strides else None
    memory = ForeignMemory((tensor.data or 0) + tensor.byte_offset, math.prod(shape)
                           * dtype.itemsize, gate, True, owner)
    return DeviceArray(memory, shape, dtype, strides, not read_only)


def _from_interface(value: object, facts: dict) -> DeviceArray:
    pointer, read_only = facts["data"]
    dtype, shape = np.dtype(facts["typestr"]), tuple(facts["shape"])
    if not pointer or 0 in shape:
        device = 0
    else:
        device = driver().device_of(pointer)
    gate, foreign = entry(device), facts.get("stream")
    if foreign is not None:
        gate.after(int(foreign))
    memory = ForeignMemory(pointer or 0, math.prod(shape) * dtype.itemsize, gate,
                           foreign is not None, value)
    return DeviceArray(memory, shape, dtype, facts.get("strides"), not read_only)


def convert_on(device: int) -> Callable[[object, Argument, Policy], np.ndarray | DeviceArray]:
    """Return what converts arguments for a GPU: arrays on it that fit stay as they are.

    Those of another dtype or layout go through the host, under the same policy.
    """
    def convert_argument(value: object, argument: Argument,
                         policy: Policy = DEFAULT_POLICY) -> np.ndarray | DeviceArray:
        try:
            array = import_array(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, TetractysError):  # of the device, not of the value
                raise
            raise refusal(argument, f"an object of type {type(value).__name__}", str(error),
                          "Pass an array that can be exchanged through DLPack.") from error
        if array is None:
            return convert(value, argument, policy)
        if array.device != device and array.nbytes:
            raise refusal(
                argument, f"an array on cuda:{array.device}",
                f"it is on another device than the function, which runs on cuda:{device}",
                f"Move it to cuda:{device}, or pass an array on the host.")
        if array.dtype == argument.dtype and array.ndim == len(argument.axes) \
                and array.is_contiguous:
            return array
        return convert(array.numpy(), argument, policy)

    return convert_argument


def import_destination(value: object, name: str, device: int) -> object:
    """Return an array given as ``out`` as a :class:`DeviceArray` if it is on a GPU, else itself.

    Raises
    ------
    CallError
        If it is on another GPU than the function.
    """
    array = None if value is None or isinstance(value, np.ndarray) else import_array(value)
    if array is None:
        return value
    if array.device != device and array.nbytes:
        raise CallError(format_message(
            f"out of {name}: the array is on another device than the function.",
            f"given an array on cuda:{array.device}; the function runs on cuda:{device}",
            remedy=f"pass an array on cuda:{device}, or on the host"))
    return array


# -- going out -------------------------------------------------------------------------------------

_exported: dict[int, tuple[object, ...]] = {}


@_DELETER
def _release(address: int) -> None:
    _exported.pop(address, None)


_CAPSULE_DESTRUCTOR = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_is_valid_at = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi))
_address_at = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi))


@_CAPSULE_DESTRUCTOR
def _drop(capsule: int) -> None:
    """Free a tensor that nobody took over (a consumer renames the capsule)."""
    if _is_valid_at(capsule, _NAMES[False][0]):
        _exported.pop(_address_at(capsule, _NAMES[False][0]), None)


def capsule_of(array: DeviceArray) -> object:
    """Return a capsule that keeps an array's memory until the consumer releases it."""
    length = max(array.ndim, 1)
    shape = (ctypes.c_int64 * length)(*array.shape)
    strides = (ctypes.c_int64 * length)(
        *(step // array.dtype.itemsize for step in array.strides))
    managed = _Managed()
    tensor = managed.tensor
    tensor.data = array.pointer
    tensor.device_type, tensor.device_id = DLPACK_DEVICE, array.device
    tensor.ndim = array.ndim
    tensor.code = _CODES[array.dtype.kind]
    tensor.bits, tensor.lanes = 8 * array.dtype.itemsize, 1
    tensor.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
    tensor.strides = ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64))
    managed.deleter = ctypes.cast(_release, ctypes.c_void_p)
    address = ctypes.addressof(managed)
    _exported[address] = (managed, shape, strides, array.memory)
    return _new(address, _NAMES[False][0], ctypes.cast(_drop, ctypes.c_void_p))
