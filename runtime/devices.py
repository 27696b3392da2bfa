"""Which runtime serves which device, and which values live in a device's own memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .convert import Converter, Policy, convert

if TYPE_CHECKING:  # importing tetractys stays quick: a device's runtime is loaded when it is used
    from .artifact import Artifact
    from .call import Executable
    from .cuda_array import DeviceArray
    from .shared import Storage

_HOST_TYPES = (np.ndarray, np.generic, int, float, list, tuple)


def make_executable(artifact: Artifact, device: str, storages: Sequence[Storage],
                    policies: Sequence[Policy] = (), single: bool = False,
                    keys: Sequence[str] | None = None, borrowed: Collection[int] = (),
                    threads: int | None = None, on_device: bool = False) -> Executable:
    """Return an artifact loaded for a device: ``cpu``, ``cuda``, ``cuda:1``.

    Parameters
    ----------
    artifact, storages, policies, single, keys, borrowed, threads
        As :class:`Executable` takes them.  A GPU needs no ``threads``.
    device : str
    on_device : bool
        Whether results stay in the memory of a device that has its own.

    Raises
    ------
    DeviceError
        When there is no such device.
    """
    if artifact.target == "cpu":
        from .call import Executable
        return Executable(artifact, storages, policies, single, keys, borrowed, threads)
    from .cuda import CudaExecutable
    return CudaExecutable(artifact, device, storages, policies, single, on_device, keys, borrowed)


def converter_for(device: str) -> Converter:
    """Return what makes the arguments of functions on a device.

    Raises
    ------
    DeviceError
        When there is no such device.
    """
    if device == "cpu":
        return convert
    from .cuda import device_number
    from .cuda_exchange import convert_on
    return convert_on(device_number(device))


def array_on_device(value: object) -> DeviceArray | None:
    """Return a value that lives in a device's own memory as an array there.

    None for everything else.
    """
    if isinstance(value, _HOST_TYPES) or not (
            hasattr(value, "__dlpack_device__") or hasattr(value, "__cuda_array_interface__")):
        return None
    from .cuda_exchange import import_array
    return import_array(value)
