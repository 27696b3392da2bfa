"""Blocks of memory for temporaries, and the refusal of sizes that cannot be had."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""

CHECKED_BYTES = 1 << 30
"""Requests above this are compared with the machine's memory before they are tried."""


class Block:
    """Uninitialised memory that starts at a multiple of ``ALIGNMENT``.

    Parameters
    ----------
    size : int
        Bytes.

    Attributes
    ----------
    address : int
    size : int
    """

    __slots__ = ("address", "size", "_array")

    def __init__(self, size: int):
        self._array = allocate((size + ALIGNMENT,), "uint8") if size else None
        start = self._array.ctypes.data if size else 0
        self.address = -(-start // ALIGNMENT) * ALIGNMENT
        self.size = size


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes one variant of a function uses during a call.

    Attributes
    ----------
    arena : int
        Temporaries; kept between calls.
    outputs : int
        Results, shapes of replaced shared variables included.
    constants : int
        Arrays that are part of the code.
    shared : int
        Values of the shared variables it reads or writes.

    Examples
    --------
    >>> MemoryUse(arena=3 << 20, outputs=800, constants=0, shared=1000)
    MemoryUse(3.0 MB: arena 3.0 MB, outputs 0.8 KB, constants 0, shared 1.0 KB)
    """

    arena: int
    outputs: int
    constants: int
    shared: int

    @property
    def total(self) -> int:
        """The sum; arguments are the caller's, and do not count."""
        return self.arena + self.outputs + self.constants + self.shared

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {_readable(getattr(self, name))}"
                          for name in ("arena", "outputs", "constants", "shared"))
        return f"MemoryUse({_readable(self.total)}: {parts})"


def _readable(size: int) -> str:
    for unit in ("GB", "MB", "KB"):
        scale = {"GB": 1 << 30, "MB": 1 << 20, "KB": 1 << 10}[unit]
        if size >= scale / 10 * 7:
            return f"{size / scale:.1f} {unit}"
    return str(size)


def allocate(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return a new uninitialised C-contiguous array.

    Raises
    ------
    MemoryError
        With the bytes asked for, when they cannot be had.
    """
    size = np.dtype(dtype).itemsize
    for extent in shape:
        size *= extent
    check_size(size)
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError):  # ValueError: beyond what NumPy can address
        raise MemoryError(f"cannot allocate {size} bytes for an array of shape {shape} and "
                          f"dtype {dtype}") from None


def check_size(size: int) -> None:
    """Raise ``MemoryError`` when ``size`` bytes are more than this machine has.

    A system that overcommits grants any request, and kills the process when the memory is used.
    """
    if size > CHECKED_BYTES and size > _machine_memory():
        raise MemoryError(f"cannot allocate {size} bytes: this machine has {_machine_memory()}")


@lru_cache(maxsize=1)
def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not POSIX, or not told
        return 1 << 62
