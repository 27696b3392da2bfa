"""Which runtime serves which device."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .artifact import Artifact
from .call import Executable
from .convert import Policy
from .shared import Storage


def make_executable(artifact: Artifact, device: str, storages: Sequence[Storage],
                    policies: Sequence[Policy] = (), single: bool = False,
                    keys: Sequence[str] | None = None, borrowed: Collection[int] = (),
                    threads: int | None = None, on_device: bool = False) -> Executable:
    """Return an artifact loaded for a device: ``cpu``, ``cuda``, ``cuda:1``.

    Parameters
    ----------
    artifact, storages, policies, single, keys, borrowed, threads
        As :class:`Executable` takes them.  A GPU needs no ``threads``, and returns fresh arrays
        for borrowed outputs too.
    device : str
    on_device : bool
        Whether results stay in the memory of a device that has its own.

    Raises
    ------
    DeviceError
        When there is no such device.
    """
    if artifact.target == "cpu":
        return Executable(artifact, storages, policies, single, keys, borrowed, threads)
    from .cuda import CudaExecutable
    return CudaExecutable(artifact, device, storages, policies, single, on_device, keys)
