"""Which runtime serves which device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .artifact import Artifact
from .call import Executable
from .convert import Policy
from .shared import Storage


def make_executable(artifact: Artifact, device: str, storages: Sequence[Storage],
                    policies: Sequence[Policy], single: bool, on_device: bool) -> Executable:
    """Return an artifact loaded for a device: ``cpu``, ``cuda``, ``cuda:1``.

    Parameters
    ----------
    artifact, storages, policies, single
        As :class:`Executable` takes them.
    device : str
    on_device : bool
        Whether results stay in the memory of a device that has its own.

    Raises
    ------
    DeviceError
        When there is no such device.
    """
    if artifact.target == "cpu":
        return Executable(artifact, storages, policies, single)
    from .cuda import CudaExecutable
    return CudaExecutable(artifact, device, storages, policies, single, on_device)


def make_entry(executable: Executable, careful: Callable[..., object]) -> Callable[..., object]:
    """Return what a call of the function runs: compiled code, or the careful path itself."""
    if executable.artifact.target != "cpu":
        return lambda function, *args, **named: careful(*args, **named)
    from .cpu_entry import make_entry as compiled_entry
    return compiled_entry(executable, careful)
